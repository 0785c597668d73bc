//! Repeated deliveries: whether a claimed file is one that is in `done/` already. `on_repeat = "skip"`.
//!
//! Must not know: what becomes of the job then. Comparing reads both files to their end, so it is done
//! on a thread of its own; only the first question, which most files answer with no, is the keeper's.

use std::io;
use std::path::Path;

use crate::core::{RelPath, Verdict};
use crate::fs::{FileType, Filesystem};
use crate::spool::{Claimed, Place, Spool};
use crate::worker::Ended;

/// Bytes compared at a time.
const BLOCK: usize = 128 << 10;

/// Whether `done/REL` may be the same file: its size and its mtime are.
pub(super) fn may_be_same<F: Filesystem>(
    spool: &Spool<F>,
    rel: &RelPath,
    claimed: Claimed,
) -> bool {
    let path = Path::new(&Place::Job(claimed).name()).join(rel.as_path());
    let ours = spool.fs.stat(&spool.processing, &path);
    let there = spool.fs.stat(&spool.done, rel.as_path());
    match (ours, there) {
        (Ok(ours), Ok(there)) => {
            there.file_type == FileType::File
                && (ours.size, ours.mtime_ns) == (there.size, there.mtime_ns)
        }
        _ => false,
    }
}

/// Whether the bytes are the same, too. What cannot be read is not.
pub(super) fn is_same<F: Filesystem>(spool: &Spool<F>, rel: &RelPath, claimed: Claimed) -> bool {
    let compare = || -> io::Result<bool> {
        let path = Path::new(&Place::Job(claimed).name()).join(rel.as_path());
        let ours = spool.fs.open(&spool.processing, &path, false)?;
        let there = spool.fs.open(&spool.done, rel.as_path(), false)?;
        let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
        let mut offset = 0;
        loop {
            let read = spool.fs.read_at(&ours, offset, &mut a)?;
            if spool.fs.read_at(&there, offset, &mut b)? != read || a.get(..read) != b.get(..read) {
                return Ok(false);
            }
            if read == 0 {
                return Ok(true);
            }
            offset += read as u64;
        }
    };
    compare().unwrap_or(false)
}

/// The end of a job that is a duplicate: done, no rows.
pub(super) fn skipped(rel: &RelPath) -> Ended {
    let log = format!("duplicate of done/{rel}: not run (on_repeat = \"skip\")\n").into_bytes();
    Ended { log, ..Ended::without_rows(Verdict::Done) }
}
