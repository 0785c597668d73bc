//! Rows too large for a journal line: `journal/ID.rows`, durable before the line that refers to it.
//!
//! Must not know: CSV. The bytes are as they will stand in the CSV segment.
//!
//! Invariants
//! - Length and sha256 are in the line; what is read back is compared with both.
//! - A file that no live line refers to is of no use and may be removed at any time.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::limits::JOURNAL_BLOCK;
use crate::core::JobId;
use crate::fs::Filesystem;

use super::record::PieceBytes;
use super::{CommitError, JournalError, MODE, path_of, remove};

/// The name of a job's rows file. A job has at most one.
pub(super) fn name(job: JobId) -> OsString {
    format!("{job}.rows").into()
}

/// Writes the rows of a job and makes them durable, name included. For the record that is appended
/// next. Replaces one that an interrupted attempt at the same job left.
pub fn write<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    job: JobId,
    bytes: &[u8],
) -> Result<PieceBytes, CommitError> {
    let name = name(job);
    let before = |operation| {
        let name = name.clone();
        move |e| CommitError::before_sync(operation, &name, e)
    };
    remove(fs, dir, &name).map_err(before("remove"))?;
    let file = fs.create(dir, Path::new(&name), MODE).map_err(before("create"))?;
    if let Err(source) = fs.write_at(&file, 0, bytes) {
        // Frees what was written; a failure is met again when the next attempt removes it.
        drop(remove(fs, dir, &name));
        return Err(CommitError::before_sync("write", &name, source));
    }
    // After both the record may refer to it.
    fs.sync_file(&file).map_err(|e| CommitError::after_sync("fsync", &name, e))?;
    fs.sync_dir(dir).map_err(|e| CommitError::after_sync("fsync", &name, e))?;
    Ok(PieceBytes::File { len: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) })
}

/// Streams the rows of a job into `sink`, block by block, and fails at the end if they are not
/// those recorded; so the sink must be able to give up what it got.
pub fn read<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    job: JobId,
    len: u64,
    sha256: &str,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), JournalError> {
    let name = name(job);
    let io_error = |operation| {
        let path = path_of(&name);
        move |source| JournalError::Io { operation, path, source }
    };
    let damaged = |offset, why: &str| {
        Err(JournalError::Damaged { path: path_of(&name), offset, why: why.to_owned() })
    };
    let file = match fs.open(dir, Path::new(&name), false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return damaged(0, "a recorded job refers to it, and it is not there");
        }
        other => other.map_err(io_error("open"))?,
    };
    let mut hash = Sha256::new();
    let mut block = vec![0; JOURNAL_BLOCK];
    let mut offset = 0u64;
    loop {
        let n = fs.read_at(&file, offset, &mut block).map_err(io_error("read"))?;
        let Some(bytes) = block.get(..n).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        sink(bytes).map_err(io_error("copy of rows"))?;
        offset += n as u64;
    }
    if offset != len {
        return damaged(offset, "its length is not the recorded one");
    }
    if hex(&hash.finalize()) != sha256 {
        return damaged(0, "its sha256 is not the recorded one");
    }
    Ok(())
}

/// Removes the rows files of all jobs but those that `live` keeps. For recovery, after the copy.
pub fn remove_orphans<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    mut live: impl FnMut(JobId) -> bool,
) -> Result<(), CommitError> {
    let list = |e: io::Error| CommitError::before_sync("list", "".as_ref(), e);
    let mut orphans = Vec::new();
    for entry in fs.list(dir).map_err(list)? {
        let found = entry.map_err(list)?.name;
        let job = found.to_str().and_then(|n| n.strip_suffix(".rows")?.parse::<JobId>().ok());
        if job.is_some_and(|job| !live(job)) {
            orphans.push(found);
        }
    }
    for orphan in orphans {
        remove(fs, dir, &orphan).map_err(|e| CommitError::before_sync("remove", &orphan, e))?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;

    /// Goal: rows come back whole, and changed ones are refused. Method: write, read, flip a byte,
    /// cut, remove.
    #[test]
    fn rows_come_back_or_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RealFs.open_root(tmp.path()).unwrap();
        let job = JobId::next(JobId::MIN, 5, [1; 10]);
        let bytes: Vec<u8> = (0..JOURNAL_BLOCK * 2 + 7).map(|n| n.to_le_bytes()[0]).collect();
        let PieceBytes::File { len, sha256 } = write(&RealFs, &dir, job, &bytes).unwrap() else {
            panic!("not a file")
        };
        // Again, as after an interrupted attempt.
        write(&RealFs, &dir, job, &bytes).unwrap();
        let get = || {
            let mut got = Vec::new();
            let all = |block: &[u8]| {
                got.extend_from_slice(block);
                Ok(())
            };
            read(&RealFs, &dir, job, len, &sha256, all).map(|()| got)
        };
        assert_eq!(get().unwrap(), bytes);
        let path = tmp.path().join(name(job));
        let mut changed = bytes.clone();
        changed[9] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        assert!(matches!(get(), Err(JournalError::Damaged { .. })));
        std::fs::write(&path, &bytes[1..]).unwrap();
        assert!(matches!(get(), Err(JournalError::Damaged { .. })));
        remove_orphans(&RealFs, &dir, |live| live == job).unwrap();
        assert!(path.exists());
        remove_orphans(&RealFs, &dir, |_| false).unwrap();
        assert!(matches!(get(), Err(JournalError::Damaged { offset: 0, .. })));
    }
}
