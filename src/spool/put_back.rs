//! Putting back: a file of `error/` or `done/` stands in `incoming/` again. S4 → S1, for the user.
//!
//! Must not know: the daemon. It needs no lock: the file is the user's, and the one rename is theirs
//! to make (`mv` does the same, but is not durable and leaves the sidecar).
//!
//! Invariants
//! - Nothing is overwritten: a name that is taken in `incoming/` is an error, and nothing has moved.
//! - A sidecar goes only after the move is durable: a file in `error/` always has its reason.
//! - Only the sidecar that spoke of this failure goes, not one of a new failure of the same file,
//!   which a running daemon may have written meanwhile.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::core::RelPath;
use crate::fs::{self, Filesystem};

use super::Spool;

/// Permissions of folders made below `incoming/`: as `incoming/` itself, group and setgid.
const FOLDER: u32 = 0o2770;

/// From which folder a file is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// It failed.
    Error,
    /// It succeeded and is to run once more.
    Done,
}

impl<F: Filesystem> Spool<F> {
    /// Renames `at` below `error/` or `done/` to `incoming/TO`, durably. Moves S4 to S1.
    pub fn put_back(&self, from: From, at: &RelPath, to: &RelPath) -> io::Result<()> {
        let tree = match from {
            From::Error => &self.error,
            From::Done => &self.done,
        };
        let folder = |tree: &F::Dir, rel: &RelPath| match rel.parent() {
            [] => Ok(tree.clone()),
            parent => self.fs.open_dir(tree, Path::new(OsStr::from_bytes(parent))),
        };
        let source = folder(tree, at)?;
        // What cannot be a job is not put where jobs come from.
        if self.fs.stat(&source, name(at))?.file_type == fs::FileType::Dir {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let parent = Path::new(OsStr::from_bytes(to.parent()));
        let target = fs::make_dirs(&self.fs, &self.incoming, parent, FOLDER)?;
        self.fs.rename(&source, name(at), &target, name(to))?;
        // Durable after these: the file stands in incoming/, wherever the machine stops.
        self.fs.sync_dir(&target)?;
        let mut made = parent;
        while let Some(above) = made.parent() {
            if above.as_os_str().is_empty() {
                self.fs.sync_dir(&self.incoming)?;
            } else {
                self.fs.sync_dir(&self.fs.open_dir(&self.incoming, above)?)?;
            }
            made = above;
        }
        self.fs.sync_dir(&source)
    }

    /// Removes a sidecar below `error/.why/`, if it is still the one with this inode.
    pub fn remove_why(&self, sidecar: &Path, ino: u64) -> io::Result<()> {
        // Renamed first and looked at then: between a look and a removal a new one could come.
        let aside = sidecar.with_file_name(format!(".{ino}.gone"));
        match self.fs.rename(&self.why, sidecar, &self.why, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        if self.fs.stat(&self.why, &aside)?.ino != ino {
            match self.fs.rename(&self.why, &aside, &self.why, sidecar) {
                // An even newer one is there already.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        self.fs.remove_file(&self.why, &aside)
    }
}

fn name(rel: &RelPath) -> &Path {
    Path::new(OsStr::from_bytes(rel.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;

    fn spool() -> (tempfile::TempDir, Spool<RealFs>) {
        let temp = tempfile::tempdir().unwrap();
        let root = RealFs.open_root(temp.path()).unwrap();
        let spool = Spool::open(RealFs, root).unwrap();
        (temp, spool)
    }

    fn rel(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    /// Goal: the file stands where it came from, its folder made anew, and a taken name is not
    /// overwritten. Method: a failed file in a folder whose original is gone; then a second one.
    #[test]
    fn a_file_is_put_back_and_overwrites_nothing() {
        let (temp, spool) = spool();
        std::fs::create_dir_all(temp.path().join("error/a/b")).unwrap();
        std::fs::write(temp.path().join("error/a/b/x~1.json"), "first").unwrap();
        spool.put_back(From::Error, &rel("a/b/x~1.json"), &rel("a/b/x.json")).unwrap();
        assert_eq!(std::fs::read(temp.path().join("incoming/a/b/x.json")).unwrap(), b"first");

        std::fs::write(temp.path().join("error/a/b/x~2.json"), "second").unwrap();
        let taken = spool.put_back(From::Error, &rel("a/b/x~2.json"), &rel("a/b/x.json"));
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(temp.path().join("error/a/b/x~2.json")).unwrap(), b"second");
        assert_eq!(std::fs::read(temp.path().join("incoming/a/b/x.json")).unwrap(), b"first");
        assert!(spool.put_back(From::Error, &rel("a/b"), &rel("a/c")).is_err());
        assert!(spool.put_back(From::Done, &rel("none"), &rel("none")).is_err());
    }

    /// Goal: the reason of a new failure outlives the retry of the old one. Method: a sidecar
    /// replaced between the look at it and its removal; then one that is the right one.
    #[test]
    fn a_new_reason_outlives_the_retry_of_the_old_one() {
        let (temp, spool) = spool();
        let path = temp.path().join("error/.why/x.json");
        std::fs::write(&path, "old").unwrap();
        let old = spool.fs.stat(&spool.why, Path::new("x.json")).unwrap().ino;
        std::fs::write(temp.path().join("error/.why/new"), "new").unwrap();
        spool.fs.replace(&spool.why, Path::new("new"), &spool.why, Path::new("x.json")).unwrap();
        spool.remove_why(Path::new("x.json"), old).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let new = spool.fs.stat(&spool.why, Path::new("x.json")).unwrap().ino;
        spool.remove_why(Path::new("x.json"), new).unwrap();
        spool.remove_why(Path::new("x.json"), new).unwrap();
        assert_eq!(std::fs::read_dir(temp.path().join("error/.why")).unwrap().count(), 0);
    }
}
