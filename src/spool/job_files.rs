//! What stands in a job's folder below `processing/`: its file, and what its worker left beside it.
//!
//! Must not know: what becomes of it.
//!
//! Invariant: what is gone, or closed to us, or mounted there, is as if nothing stood there; any other error is
//! said.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Claimed, Place, Spool};
use crate::core::RelPath;
use crate::fs::{FileType, Filesystem, Stat, is_gone_or_closed, is_in_use, is_no_folder};

impl<F: Filesystem> Spool<F> {
    /// The one file of a job's folder at recovery, with strays of its worker set aside: the file
    /// that is oldest was there before the worker made others. `None`: an empty folder is no job.
    pub fn file_of(&self, claimed: Claimed) -> io::Result<Option<(RelPath, Stat)>> {
        let mut best: Option<(RelPath, Stat)> = None;
        for (rel, stat) in self.files_of(claimed)? {
            if best.as_ref().is_none_or(|(_, old)| stat.btime_ns < old.btime_ns) {
                best = Some((rel, stat));
            }
        }
        Ok(best)
    }

    /// All that stands in a job's folder and is no folder.
    pub fn files_of(&self, claimed: Claimed) -> io::Result<Vec<(RelPath, Stat)>> {
        self.files_in(Place::Job(claimed))
    }

    /// All that stands in a folder below `processing/`, that is no folder, and not in one closed to us.
    pub fn files_in(&self, place: Place) -> io::Result<Vec<(RelPath, Stat)>> {
        let job = PathBuf::from(place.name());
        let mut folders: Vec<Vec<u8>> = vec![Vec::new()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for (rel, stat) in self.names_in(&job, &folder)? {
                if stat.file_type == FileType::Dir {
                    folders.push(rel);
                } else if let Some(rel) = RelPath::new(rel) {
                    files.push((rel, stat));
                }
            }
        }
        Ok(files)
    }

    /// What stands in a folder below a job's, each with its path below that; nothing where it is gone, closed
    /// to us, or another mount's. What is mounted there is none of the job's.
    pub(super) fn names_in(&self, job: &Path, folder: &[u8]) -> io::Result<Vec<(Vec<u8>, Stat)>> {
        let path = job.join(OsStr::from_bytes(folder));
        let dir = match self.fs.open_own_dir(&self.processing, &path) {
            Err(error) if is_no_job(&error) => return Ok(Vec::new()),
            other => other?,
        };
        let entries = match self.fs.list(&dir) {
            // Its mode lets us open it, and no more.
            Err(error) if is_gone_or_closed(&error) => return Ok(Vec::new()),
            other => other?,
        };
        let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.name;
            let stat = match self.fs.stat(&dir, Path::new(&name)) {
                // Mounted by a server that has ended.
                Err(error) if is_in_use(&error) => continue,
                other => other?,
            };
            if !stat.is_mounted {
                names.push(([folder, slash, name.as_bytes()].concat(), stat));
            }
        }
        Ok(names)
    }
}

fn is_no_job(error: &io::Error) -> bool {
    is_gone_or_closed(error) || is_in_use(error) || is_no_folder(error)
}
