//! The journal: the truth about what is recorded. An append-only redo log with group commit.
//!
//! Must not know: routes' settings, workers, how a CSV is written or a file moved. It does all I/O
//! through [`crate::fs::Filesystem`], in the open folder `journal/`, from one thread.
//!
//! - [`record`]: what a line says.
//! - [`mod@line`]: how a line is written: checksum and `synced_to`.
//! - [`draft`]: a segment before it has its name.
//! - [`writer`]: appends, commits, rotates, drops; stops for good after a failed fsync.
//! - [`reader`]: streams what is live; tells a torn tail from damage.
//! - [`rows`]: rows too large for a line, in a file of their own.
//! - [`sources`]: which sources `batch` has taken already.
//!
//! # The format, version 1
//!
//! ```text
//! journal/<20 digits>.log      a segment; numbers rise by one
//! journal/<20 digits>.tmp      a segment before it is whole; removed at recovery
//! journal/spare                space set aside, empty; removed at recovery
//! journal/<job id>.rows        rows above 1 MiB of that job; its outcome has their length and sha256
//! journal/sources.<20 digits>.idx     a sorted run of 16-byte source keys
//! journal/sources.<20 digits>.tmp     a run before it is whole
//! ```
//!
//! A segment is lines of `<crc> <synced_to> <json>` and LF. `crc` is crc32c in 8 lower-case hex
//! digits, over everything after its space up to the LF. `synced_to` is decimal: all bytes of this
//! segment below it were durable when the line was written, or, for a line that was written before
//! the segment had its name, when it got it. `json` is one [`record::Record`] without a raw LF.
//! The first line is a [`record::Begin`].
//!
//! A reader starts at the last segment whose `Begin` says `supersedes`, else at the first one
//! there.
//!
//! # Invariants
//!
//! - The commit instant is the return of [`writer::Writer::commit`]. Nothing before it is a
//!   promise.
//! - Bytes below `synced_to` of any valid line never change again.
//! - A segment gets its name only when its `Begin` and snapshot are durable, and it is appended to
//!   only when that name is durable. So a superseding segment is complete, always.
//! - Segment N+1 gets its name only when all of N is durable and N has no byte beyond that. So a
//!   torn tail is in the last segment only.
//! - Segments are dropped oldest first, each removal durable before the next. So the numbers from
//!   the first live segment to the last have no gap.
//! - An fsync that failed is never called again: the kernel may have dropped the pages and
//!   forgotten the error, and a second call would return 0 for bytes that are lost.
//! - What a reader reads is in the page cache, which may be all there is: the last daemon may have
//!   died between write and fsync. Nothing may be built on it until it was copied by
//!   [`draft::Draft::supersede`], which makes it durable.
//! - Memory is bounded by one group of records or one line, whatever the length of the journal.
//!
//! # Assumptions
//!
//! 1. After `fdatasync` returns 0, the bytes and the length of the file survive a power cut; after
//!    `fsync` of a folder returns 0, so do the names in it. A disk that lies about it can lose
//!    records.
//! 2. A rename on one filesystem is atomic: after a crash there is the old name or the new one,
//!    with the same file. Several names that were not synced may each survive or not, in any
//!    combination.
//! 3. Bytes that were written and not synced may survive wholly, partly, or as zeros or garbage;
//!    bytes that were synced before stay as they are, also when they share a sector with such
//!    bytes.
//! 4. One process writes here: the lock on `journal/` is held. Nobody else removes or edits a
//!    segment. Where somebody does so with the one in use, the next group finds out, and a
//!    superseding segment follows once all of it is settled.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

pub mod draft;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod line;
pub mod reader;
pub mod record;
pub mod rows;
pub mod sources;
pub mod waiting;
pub mod writer;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod scenario;

pub use draft::{Draft, Stamp};
pub use line::EncodeError;
pub use reader::{Located, Reader, Torn};
pub use record::Record;
pub use sources::Sources;
pub use writer::{Group, Writer};

use crate::fs::{Filesystem, is_shortage};

/// The format this program writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// The name of the space set aside for a full disk.
const SPARE: &str = "spare";
/// Journal files are the daemon user's alone: lines carry results and names.
const MODE: u32 = 0o600;

/// The journal cannot be read. Start-up ends with it; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A system call failed.
    #[error("journal {operation} failed on {}", path.display())]
    Io {
        /// What was tried: `read`, `open`, `list`, …
        operation: &'static str,
        /// Of which file, below the spool.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that had been durable are not there any more.
    #[error(
        "{} is damaged at byte {offset}: {why}\n  Nothing was changed. Restore journal/ from a backup \
         and look at the disk. Or move journal/ away and start again: then every file in processing/ \
         runs again, and rows of files that were recorded but not yet moved may be there twice.",
        path.display()
    )]
    Damaged {
        /// Which file, below the spool.
        path: PathBuf,
        /// Where the first bad byte is, or the line that has it begins.
        offset: u64,
        /// How we know.
        why: String,
    },
    /// Another version of this program wrote it.
    #[error(
        "{} has format {found}, and this inboxd reads format {VERSION}\n  Nothing was changed. Start \
         the inboxd that wrote it, or a newer one.",
        path.display()
    )]
    Version {
        /// Which file, below the spool.
        path: PathBuf,
        /// The version it has.
        found: u32,
    },
    /// A sound line says what this program does not know.
    #[error(
        "{} says at byte {offset} what this inboxd does not know\n  Nothing was changed. \
         Start the inboxd that wrote it, or a newer one.",
        path.display()
    )]
    Unknown {
        /// Which file, below the spool.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
        /// What was not understood.
        source: serde_json::Error,
    },
    /// The source index is damaged.
    #[error(
        "{} is damaged: {why}\n  Nothing was changed. Remove this file to go on: `batch` then takes \
         the sources it listed once more.",
        path.display()
    )]
    SourcesDamaged {
        /// Which file, below the spool.
        path: PathBuf,
        /// How we know.
        why: &'static str,
    },
}

/// Something could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The system is short of space, quota, descriptors or memory, found out before any fsync.
    /// Nothing is lost and nothing was promised: stop claiming, and call again later.
    #[error("journal {operation} failed on {}", path.display())]
    Full {
        /// What was tried.
        operation: &'static str,
        /// Of which file, below the spool.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is on the disk is not known any more. Every later call returns this again: end with 1,
    /// and let start-up recover.
    #[error("journal {operation} failed on {}", path.display())]
    Poisoned {
        /// What was tried.
        operation: &'static str,
        /// Of which file, below the spool.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record does not fit into a line; it was not appended.
    #[error(transparent)]
    Unfit(#[from] EncodeError),
}

impl CommitError {
    /// For an operation that promised nothing: only a shortage can be waited out.
    fn before_sync(operation: &'static str, name: &OsStr, source: io::Error) -> Self {
        if is_shortage(&source) {
            return Self::Full { operation, path: path_of(name), source };
        }
        Self::after_sync(operation, name, source)
    }

    /// For a sync, or an operation whose failure leaves the disk in doubt.
    fn after_sync(operation: &'static str, name: &OsStr, source: io::Error) -> Self {
        Self::Poisoned { operation, path: path_of(name), source }
    }
}

/// How a file of the journal is named in messages: below the spool.
fn path_of(name: &OsStr) -> PathBuf {
    Path::new("journal").join(name)
}

/// The name of a segment.
fn segment_name(number: u64) -> OsString {
    format!("{number:020}.log").into()
}

/// The name of a segment before it is whole.
fn draft_name(number: u64) -> OsString {
    format!("{number:020}.tmp").into()
}

/// The 20 digits between a prefix and a suffix; `None` for any other name.
fn number_in(name: &OsStr, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = name.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let sound = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if sound { digits.parse().ok() } else { None }
}

/// The numbers of all files of one kind, ascending.
fn numbers<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    prefix: &str,
    suffix: &str,
) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs.list(dir)? {
        found.extend(number_in(&entry?.name, prefix, suffix));
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes a file of ours; one that is gone already is what was wanted.
fn remove<F: Filesystem>(fs: &F, dir: &F::Dir, name: &OsStr) -> io::Result<()> {
    match fs.remove_file(dir, Path::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
