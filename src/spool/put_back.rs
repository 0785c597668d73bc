//! Putting back: a file of `error/` or `done/` stands in `incoming/` again. S4 → S1, for the user.
//!
//! Must not know: the daemon. It needs no lock: the file is the user's, and the one rename is theirs
//! to make (`mv` does the same, but is not durable and leaves the sidecar).
//!
//! Invariants
//! - Nothing is overwritten: a name that is taken in `incoming/` is an error, and nothing has moved.
//! - Nothing of one delivery comes together with what is of another: not in `incoming/`, where a newer one
//!   may have begun to arrive, and not here, where a name without the job's id is that of another job's file.
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

/// What stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A file.
    File,
    /// A folder that is one job.
    Folder,
}

/// A file that goes where another one goes: its companion, or the sentinel that says that it is complete.
#[derive(Clone, Debug)]
pub struct Beside {
    /// It is the sentinel. It comes after what it announces, and an empty one will do.
    pub is_sentinel: bool,
    /// Its name in `incoming/`.
    pub name: Vec<u8>,
    /// Beside it in `error/` or `done/`: the likeliest first.
    pub went_as: Vec<Vec<u8>>,
}

impl<F: Filesystem> Spool<F> {
    /// Renames `at` below `error/` or `done/` to `incoming/TO`, durably. Moves S4 to S1.
    pub fn put_back(&self, what: What, from: From, at: &RelPath, to: &RelPath) -> io::Result<()> {
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
        let is_folder = self.fs.stat(&source, name(at))?.file_type == fs::FileType::Dir;
        if is_folder != (what == What::Folder) {
            let kind = io::ErrorKind::IsADirectory;
            return Err(if is_folder { kind } else { io::ErrorKind::NotADirectory }.into());
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

    /// What stands in `incoming/` under the name of something that goes along: it is of another delivery.
    /// Where the file's own name is taken, that is for [`Self::put_back`] to say.
    pub fn taken_beside(&self, to: &RelPath, beside: &[Beside]) -> io::Result<Option<RelPath>> {
        let target = match self.open_incoming_parent(to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // What stands in the way of the file itself is said of that.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            other => other?,
        };
        if self.fs.stat(&target, name(to)).is_ok() {
            return Ok(None);
        }
        for name in beside.iter().map(|it| &it.name) {
            match self.fs.stat(&target, Path::new(OsStr::from_bytes(name))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    let slash: &[u8] = if to.parent().is_empty() { b"" } else { b"/" };
                    return Ok(RelPath::new([to.parent(), slash, name].concat()));
                }
            }
        }
        Ok(None)
    }

    /// Brings what goes along with what was put back after that, durably: what went where that went, or, of
    /// a sentinel, an empty one. Who asks for another run says that it is complete.
    pub fn put_beside(
        &self,
        from: From,
        at: &RelPath,
        to: &RelPath,
        beside: &Beside,
    ) -> io::Result<()> {
        let tree = if from == From::Error { &self.error } else { &self.done };
        let source = match at.parent() {
            [] => Ok(tree.clone()),
            parent => self.fs.open_dir(tree, Path::new(OsStr::from_bytes(parent))),
        }?;
        let target = self.open_incoming_parent(to)?;
        let its_name = Path::new(OsStr::from_bytes(&beside.name));
        let mut moved = Err(io::Error::from(io::ErrorKind::NotFound));
        let has_own_name = at.name() == to.name();
        for known in &beside.went_as {
            // Beside a file that has the name which this one was refused, it is that one's.
            let is_its = has_own_name || *known != beside.name;
            if !is_its && self.fs.stat(&source, name(to)).is_ok() {
                continue;
            }
            let known = Path::new(OsStr::from_bytes(known));
            let stat = self.fs.stat(&source, known);
            if moved.is_err() && stat.is_ok_and(|stat| stat.file_type == fs::FileType::File) {
                moved = self.fs.rename(&source, known, &target, its_name);
            }
        }
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound && beside.is_sentinel => {
                self.fs.create(&target, its_name, 0o660).map(drop)?;
            }
            other => other?,
        }
        self.fs.sync_dir(&target)?;
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
        spool.put_back(What::File, From::Error, &rel("a/b/x~1.json"), &rel("a/b/x.json")).unwrap();
        assert_eq!(std::fs::read(temp.path().join("incoming/a/b/x.json")).unwrap(), b"first");

        std::fs::write(temp.path().join("error/a/b/x~2.json"), "second").unwrap();
        let taken =
            spool.put_back(What::File, From::Error, &rel("a/b/x~2.json"), &rel("a/b/x.json"));
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(temp.path().join("error/a/b/x~2.json")).unwrap(), b"second");
        assert_eq!(std::fs::read(temp.path().join("incoming/a/b/x.json")).unwrap(), b"first");
        assert!(spool.put_back(What::File, From::Error, &rel("a/b"), &rel("a/c")).is_err());
        assert!(spool.put_back(What::File, From::Done, &rel("none"), &rel("none")).is_err());
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
