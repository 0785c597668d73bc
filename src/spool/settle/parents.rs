//! The folder that a settled file goes to: `rel`'s below `done/`, `error/` or `output/`.
//!
//! Must not know: what is moved there.
//!
//! Invariant: these trees are people's. A folder of them that is taken, closed to us or another disk's sends the
//! file into `a~ID/`, which we make; it ends no daemon.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{FOLDER, Kind, Tree};
use crate::core::{JobId, RelPath};
use crate::fs::{self, Filesystem};
use crate::spool::{Spool, names};

impl<F: Filesystem> Spool<F> {
    /// Opens the folder of `rel` below a tree, and says what it is called.
    pub(super) fn open_parent(
        &self,
        tree: Tree,
        rel: &RelPath,
        job: JobId,
    ) -> io::Result<(F::Dir, PathBuf)> {
        match self.open_parent_as(tree, rel, job, Kind::Own) {
            Ok((dir, path))
                if rel.parent().is_empty() || self.is_open_to_us(tree, &dir, &path)? =>
            {
                Ok((dir, path))
            }
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => self.open_parent_as(tree, rel, job, Kind::Beside),
        }
    }

    /// Whether a file can be moved into this folder of a tree, and its reason written beside it.
    fn is_open_to_us(&self, tree: Tree, dir: &F::Dir, path: &Path) -> io::Result<bool> {
        if !self.fs.takes_from(dir, &self.processing) {
            return Ok(false);
        }
        if tree != Tree::Error {
            return Ok(true);
        }
        match fs::make_dirs(&self.fs, &self.why, path, FOLDER) {
            Ok(why) => Ok(self.fs.takes_from(&why, &self.why)),
            Err(error) if is_taken(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same; of the kind `Beside` the first folder of the path is one with the job's id, and so ours.
    fn open_parent_as(
        &self,
        tree: Tree,
        rel: &RelPath,
        job: JobId,
        kind: Kind,
    ) -> io::Result<(F::Dir, PathBuf)> {
        let mut dir = match tree {
            Tree::Done => self.done.clone(),
            Tree::Error => self.error.clone(),
            Tree::Output => self.output.clone(),
        };
        let mut path = PathBuf::new();
        if rel.parent().is_empty() {
            return Ok((dir, path));
        }
        for part in rel.parent().split(|b| *b == b'/') {
            let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
            let mut opened = None;
            let is_own = kind == Kind::Own || !path.as_os_str().is_empty();
            let own = is_own.then(|| OsStr::from_bytes(part).to_owned());
            for name in own.into_iter().chain([names::beside(part, job)]) {
                if tree == Tree::Error && self.is_why_file(&path.join(&name))? {
                    continue;
                }
                match fs::make_dirs(&self.fs, &dir, Path::new(&name), FOLDER) {
                    Ok(next) => {
                        opened = Some((next, name));
                        break;
                    }
                    Err(error) if is_taken(&error) => last = error,
                    Err(error) => return Err(error),
                }
            }
            let (next, name) = opened.ok_or(last)?;
            dir = next;
            path.push(name);
        }
        Ok((dir, path))
    }
}

/// A file, a link, or a folder that is closed to us has the name. Anything else, such as a full disk,
/// says nothing of the name and must not send the file elsewhere.
fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied};
    matches!(error.kind(), NotADirectory | AlreadyExists | PermissionDenied)
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
}
