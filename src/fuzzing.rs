//! What the fuzz targets in `fuzz/` call: any bytes into each place that reads what others wrote.
//!
//! Only in builds for fuzzing and tests. Each of these panics where an invariant of its room is broken;
//! `cargo test` runs the same with random input of its own making.

use std::path::Path;

/// What a warm worker says: framing, messages, the end of its job.
pub fn wire(bytes: &[u8]) {
    crate::worker::fuzz_wire(bytes);
}

/// What a command prints, in each format; the first byte says how it is cut.
pub fn stdout(bytes: &[u8]) {
    crate::worker::stdout::fuzz::all_formats(bytes);
}

/// A settings file: `inboxd.toml`, and the same text as a file of `routes.d/`.
pub fn settings(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        crate::config::fuzz_settings(text);
    }
}

/// An input of records, written into an empty folder of the caller's; the first byte says how it is read.
pub fn records(folder: &Path, bytes: &[u8]) {
    crate::spool::records::fuzz::split(folder, bytes);
}

/// A journal's segments, written into an empty folder of the caller's.
pub fn journal(folder: &Path, bytes: &[u8]) {
    crate::journal::fuzz::read(folder, bytes);
}
