//! The sidecar of a failed file: `error/.why/NAME.json`, which says why.
//!
//! Must not know: what it says, when a file fails.
//!
//! Invariant: a sidecar is replaced whole, and only that of a file that is no longer there.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::FOLDER;
use crate::core::{JobId, RelPath};
use crate::fs::{self, FileType, Filesystem, is_gone_or_closed};
use crate::spool::{Spool, names};

impl<F: Filesystem> Spool<F> {
    /// A folder stands where a sidecar would: that of failed files whose folder is called like it.
    pub(super) fn is_why_taken(&self, folder: &Path, name: &OsStr, job: JobId) -> io::Result<bool> {
        let found = self.stat_why(&folder.join(names::sidecar(name, job)))?;
        Ok(found == Some(FileType::Dir))
    }

    /// A sidecar, or something else that is no folder, stands where a folder of them would.
    pub(super) fn is_why_file(&self, folder: &Path) -> io::Result<bool> {
        Ok(self.stat_why(folder)?.is_some_and(|found| found != FileType::Dir))
    }

    fn stat_why(&self, path: &Path) -> io::Result<Option<FileType>> {
        match self.fs.stat(&self.why, path) {
            Ok(stat) => Ok(Some(stat.file_type)),
            Err(error) if is_gone_or_closed(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write_why(
        &self,
        folder: &Path,
        name: &OsStr,
        job: JobId,
        why: &[u8],
    ) -> io::Result<()> {
        let dir = fs::make_dirs(&self.fs, &self.why, folder, FOLDER)?;
        let temp = OsString::from(format!(".{job}.tmp"));
        let temp = Path::new(&temp);
        match self.fs.remove_file(&dir, temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.fs.create(&dir, temp, 0o640)?;
        self.fs.write_at(&file, 0, why)?;
        let target = names::sidecar(name, job);
        // The sidecar of a file that is no longer there may be replaced: it is ours and speaks of nothing.
        self.fs.replace(&dir, temp, &dir, Path::new(&target))
    }

    /// Writes the sidecar of a failed job again where its very file stands in `error/`.
    pub fn restore_why(
        &self,
        job: JobId,
        rel: &RelPath,
        ino: u64,
        why: impl FnOnce() -> Vec<u8>,
    ) -> io::Result<()> {
        let Some((dir, folder)) = self.find_parent(&self.error, rel, job) else { return Ok(()) };
        for name in [OsStr::from_bytes(rel.name()).to_owned(), names::beside(rel.name(), job)] {
            match self.fs.stat(&dir, Path::new(&name)) {
                Ok(stat) if stat.ino == ino => {
                    return self.write_why(&folder, &name, job, &why());
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Like `open_parent`, making nothing.
    fn find_parent(&self, tree: &F::Dir, rel: &RelPath, job: JobId) -> Option<(F::Dir, PathBuf)> {
        let mut dir = tree.clone();
        let mut path = PathBuf::new();
        for part in rel.parent().split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let names = [names::beside(part, job), OsStr::from_bytes(part).to_owned()];
            let opened = names.into_iter().find_map(|name| {
                self.fs.open_dir(&dir, Path::new(&name)).ok().map(|dir| (dir, name))
            });
            let (next, name) = opened?;
            dir = next;
            path.push(name);
        }
        Some((dir, path))
    }
}
