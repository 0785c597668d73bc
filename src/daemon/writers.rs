//! Writers: which process has a file open for writing, as far as `/proc` tells.
//!
//! Must not know: why anybody asks. It is for people; nothing is decided by it. It reads the
//! descriptors and mappings of all processes, so it is asked only when a person asks.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::Pid;

use crate::worker::proc;

/// A process with one of the files open for writing, by inode; all are on the device `dev`.
pub(super) fn of(dev: u64, inodes: &[u64]) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    if inodes.is_empty() {
        return found;
    }
    for pid in proc::pids().unwrap_or_default() {
        let writes = written_by(pid, dev, inodes);
        let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
        for ino in writes {
            found.entry(ino).or_insert(pid);
        }
    }
    found
}

fn written_by(pid: Pid, dev: u64, inodes: &[u64]) -> Vec<u64> {
    let pid = pid.as_raw_nonzero();
    let mut found = Vec::new();
    // Another user's, or gone.
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return found };
    for descriptor in descriptors.filter_map(Result::ok) {
        let Ok(meta) = fs::metadata(descriptor.path()) else { continue };
        if meta.dev() != dev || !inodes.contains(&meta.ino()) {
            continue;
        }
        let number = descriptor.file_name();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display()));
        if info.is_ok_and(|info| is_open_for_writing(&info)) {
            found.push(meta.ino());
        }
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    found.extend(maps.lines().filter_map(shared_writable).filter(|ino| inodes.contains(ino)));
    found
}

/// `flags:` is octal; its last two bits are the access mode, 0 for reading only.
fn is_open_for_writing(fdinfo: &str) -> bool {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & 3 != 0)
}

/// The inode of a line of `maps`, where it is a shared mapping that may be written.
fn shared_writable(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let access = fields.nth(1)?.as_bytes();
    let is_written = access.get(1) == Some(&b'w') && access.get(3) == Some(&b's');
    let inode = fields.nth(2)?.parse().ok()?;
    (is_written && inode != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the process that writes is named, one that reads is not. Method: ourselves, with one file each way.
    #[test]
    fn the_writer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let written = fs::File::create(dir.path().join("w")).unwrap();
        fs::write(dir.path().join("r"), "x").unwrap();
        let read = fs::File::open(dir.path().join("r")).unwrap();
        let (written, read) = (written.metadata().unwrap().ino(), read.metadata().unwrap().ino());
        let dev = fs::metadata(dir.path()).unwrap().dev();
        let found = of(dev, &[written, read]);
        assert_eq!(found.get(&written), Some(&std::process::id()));
        assert_eq!(found.get(&read), None);
    }

    /// Goal: only shared writable mappings count. Method: lines as proc(5) shows them.
    #[test]
    fn mappings_are_read() {
        let line = "7f00-7f01 rw-s 00000000 fd:00 4711   /in/x";
        assert_eq!(shared_writable(line), Some(4711));
        assert_eq!(shared_writable("7f00-7f01 rw-p 00000000 fd:00 4711   /in/x"), None);
        assert_eq!(shared_writable("7f00-7f01 r--s 00000000 fd:00 4711   /in/x"), None);
        assert_eq!(shared_writable("7f00-7f01 rw-s 00000000 00:01 0"), None);
    }
}
