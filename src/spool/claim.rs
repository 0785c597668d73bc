//! Claims: from `incoming/` to `processing/`, by one rename; and the attempt, kept in the name. S1 → S2.
//!
//! Must not know: routes, workers, results.
//!
//! Invariants
//! - ENOENT is [`Claim::Gone`], a lost race. Any other error delays this path only.
//! - The incoming tree belongs to people who are not trusted: the file's folder is opened beneath
//!   `incoming/` without following a link, for each claim anew (a folder that was opened once may have
//!   been moved out of the spool since), and the file is looked at again after the rename.
//! - A claim is not durable when it returns. After a power cut the file is in `incoming/` again, or in
//!   `processing/`; either way it runs.
//!
//! What a job costs is renames and folders (measured on ext4: a rename 8–17 µs, a folder made and
//! removed 40, its opening and listing 5). So two kinds of folders are used again, see [`Folders`]:
//! - The emptied folder of an earlier job is renamed to the next claim with the same parent path, and
//!   stays open from claim to settling and on to the next claim. A power cut may undo that rename and
//!   keep the file's, so that a new file stands under an old job's name; recovery tells by
//!   [`crate::journal::record::FileMark`].
//! - A scratch folder that came back untouched is given to the next attempt under the name it has:
//!   `ID.N.tmp` says for whom it was made, not who has it. Recovery removes them all.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::core::RelPath;
use crate::fs::{self, FileType, Filesystem, Lease, Stat};
use crate::journal::record::FileMark;

use super::folders::{Folder, Folders};
use super::{Claimed, Place, Spool};

/// What became of a claim.
#[derive(Debug)]
pub enum Claim {
    /// The file is ours.
    Made(ClaimedFile),
    /// Somebody else took it away, or it is a folder now.
    Gone,
    /// It cannot be claimed now; this path waits.
    Refused(io::Error),
}

/// A file just claimed.
#[derive(Clone, Copy, Debug)]
pub struct ClaimedFile {
    /// What tells it from others of its name.
    pub mark: FileMark,
    /// As it is now.
    pub stat: Stat,
    /// Who can write into it now.
    pub lease: Lease,
}

/// What an error of a claim means.
pub(super) fn gone_or_refused(error: io::Error) -> Claim {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    let errno = rustix::io::Errno::from_io_error(&error);
    match error.kind() {
        // A folder on its way is a file or a link now: the name that was seen is gone.
        NotFound | IsADirectory | NotADirectory => Claim::Gone,
        _ if errno == Some(rustix::io::Errno::LOOP) => Claim::Gone,
        _ => Claim::Refused(error),
    }
}

impl<F: Filesystem> Spool<F> {
    /// Renames `incoming/REL` to `processing/ID.N/REL`. Moves S1 to S2. `before`: as the file was seen
    /// just now, if it was.
    pub fn claim(
        &self,
        rel: &RelPath,
        claimed: Claimed,
        before: Option<Stat>,
        folders: &mut Folders<F::Dir>,
    ) -> Claim {
        match self.try_claim(rel, claimed, before, folders) {
            Ok(file) => Claim::Made(file),
            Err(error) => gone_or_refused(error),
        }
    }

    fn try_claim(
        &self,
        rel: &RelPath,
        claimed: Claimed,
        before: Option<Stat>,
        folders: &mut Folders<F::Dir>,
    ) -> io::Result<ClaimedFile> {
        let parent = Path::new(OsStr::from_bytes(rel.parent()));
        let from = self.open_incoming_parent(rel)?;
        let name = Path::new(OsStr::from_bytes(rel.name()));
        let before = match before {
            Some(stat) => stat,
            None => self.fs.stat(&from, name)?,
        };
        if before.file_type == FileType::Dir {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let folder = Path::new(&Place::Job(claimed).name()).join(parent);
        let mut to = self.job_folder(rel, claimed, folders)?;
        // The attempt is in the name, so this rename is the claim and its record at once.
        let mut moved = self.fs.rename(&from, name, &to, name);
        let is_gone = moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if is_gone && self.fs.stat(&from, name).is_ok() {
            // It is our folder that is gone: its last worker had put another one in its place.
            to = self.fs.open_dir(&self.processing, &folder)?;
            moved = self.fs.rename(&from, name, &to, name);
        }
        if let Err(error) = moved {
            let folder = Folder { claimed, dir: Some(to) };
            self.keep_or_remove(rel.parent(), folder, folders)?;
            return Err(error);
        }
        let (stat, lease) = match self.fs.look(&self.processing, &folder.join(name)) {
            Err(error) if fs::is_no_folder(&error) => {
                // Its last worker moved the folder that we hold open elsewhere, or put a link or a file in its
                // place: the file goes back, and no other one comes there.
                self.fs.rename(&to, name, &from, name)?;
                return Err(io::Error::other("its folder was moved out of processing/"));
            }
            // A descriptor too few, perhaps. A file that nobody knows to be claimed would stand here until the
            // next start: it goes back, or, where its name is taken by now, it is what it was.
            Err(error) => match self.fs.rename(&to, name, &from, name) {
                Ok(()) => {
                    let folder = Folder { claimed, dir: Some(to) };
                    self.keep_or_remove(rel.parent(), folder, folders)?;
                    return Err(error);
                }
                Err(_) => (before, Lease::Unknown),
            },
            Ok(seen) => seen,
        };
        // Swapped for a folder between the look and the rename. A folder is no job, and what is in it
        // has not failed: it goes back. Where its name is taken by now, it is set aside as it is.
        if stat.file_type == FileType::Dir && self.fs.rename(&to, name, &from, name).is_ok() {
            let folder = Folder { claimed, dir: Some(to) };
            self.keep_or_remove(rel.parent(), folder, folders)?;
            return Err(io::ErrorKind::IsADirectory.into());
        }
        folders.hold(claimed.job, to);
        let mark = FileMark {
            ino: stat.ino,
            btime_ns: stat.btime_ns,
            before_ns: before.ctime_ns,
            after_ns: stat.ctime_ns,
        };
        Ok(ClaimedFile { mark, stat, lease })
    }

    /// An empty `ID.N/PARENT`, open; an emptied one if there is one of the same parent path.
    fn job_folder(
        &self,
        rel: &RelPath,
        claimed: Claimed,
        folders: &mut Folders<F::Dir>,
    ) -> io::Result<F::Dir> {
        let old = if claimed.is_own() { None } else { folders.take(rel.parent()) };
        if let Some(old) = old {
            let name = Place::Job(claimed).name();
            let mut path = PathBuf::from(&name);
            let old_name = Place::Job(old.claimed).name();
            let (old_path, new_path) = (Path::new(&old_name), Path::new(&name));
            match self.fs.rename(&self.processing, old_path, &self.processing, new_path) {
                Ok(()) => {
                    path.push(OsStr::from_bytes(rel.parent()));
                    return match old.dir {
                        Some(dir) => Ok(dir),
                        None => self.fs.open_dir(&self.processing, &path).or_else(|error| {
                            let folder = Folder { claimed, dir: None };
                            self.keep_or_remove(rel.parent(), folder, folders)?;
                            Err(error)
                        }),
                    };
                }
                // Someone tidied up in processing/: no reason to refuse a claim.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Nor is what its last worker did to it. The next start says that it stays.
                Err(_) if self.is_stuck(Place::Job(old.claimed))? => {}
                Err(error) => return Err(error),
            }
        }
        self.make_job_folder(rel, claimed)
    }

    /// The same, made for it. Where it cannot be made, nothing is left of it: a claim may be refused for days.
    pub(super) fn make_job_folder(&self, rel: &RelPath, claimed: Claimed) -> io::Result<F::Dir> {
        self.make_way(rel, claimed).inspect_err(|_| self.remove_way(rel, claimed))
    }

    fn make_way(&self, rel: &RelPath, claimed: Claimed) -> io::Result<F::Dir> {
        let mut path = PathBuf::from(Place::Job(claimed).name());
        self.fs.make_dir(&self.processing, &path, 0o750)?;
        if !rel.parent().is_empty() {
            for part in rel.parent().split(|b| *b == b'/') {
                path.push(OsStr::from_bytes(part));
                self.fs.make_dir(&self.processing, &path, 0o750)?;
            }
        }
        self.fs.open_dir(&self.processing, &path)
    }

    /// Renames a claimed file's sentinel beside it, so that it is settled along with it. That it is gone,
    /// or that the worker's input has the same name, changes nothing.
    pub fn claim_sentinel(&self, rel: &RelPath, name: &[u8], claimed: Claimed) -> io::Result<()> {
        let parent = Path::new(OsStr::from_bytes(rel.parent()));
        let from = self.open_incoming_parent(rel)?;
        let name = Path::new(OsStr::from_bytes(name));
        let target = Path::new(&Place::Job(claimed).name()).join(parent).join(name);
        self.fs.rename(&from, name, &self.processing, &target)
    }

    /// After it returns a claim is durable: its file stands below `processing/ID.N`, and no longer in
    /// `incoming/`, whatever happens to the machine.
    pub fn sync_claim(&self, claimed: Claimed, rel: &RelPath) -> io::Result<()> {
        let mut path = PathBuf::from(Place::Job(claimed).name());
        let mut folders = vec![path.clone()];
        for part in rel.parent().split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            path.push(OsStr::from_bytes(part));
            folders.push(path.clone());
        }
        // The deepest first: the file's new name before the names that lead to it.
        for folder in folders.iter().rev() {
            self.fs.sync_dir(&self.fs.open_dir(&self.processing, folder)?)?;
        }
        self.fs.sync_dir(&self.processing)?;
        match self.open_incoming_parent(rel) {
            Ok(from) => self.fs.sync_dir(&from),
            // The folder that it came from was removed or moved, with or without its last change on
            // the disk.
            Err(_) => self.fs.sync_all(&self.root),
        }
    }

    /// Renames `ID.M` to `ID.N`: an attempt begins (N = M + 1) or is taken back (N = M - 1).
    pub fn set_begun(&self, from: Claimed, to: Claimed) -> io::Result<()> {
        let (old, new) = (Place::Job(from).name(), Place::Job(to).name());
        self.fs.rename(&self.processing, Path::new(&old), &self.processing, Path::new(&new))
    }

    /// Makes the attempt's empty scratch folder, and its output folder where asked. Returns the place of
    /// the first.
    pub fn make_attempt_folders(
        &self,
        claimed: Claimed,
        output: bool,
        folders: &mut Folders<F::Dir>,
    ) -> io::Result<Place> {
        let scratch = self.lend_scratch(claimed, folders)?;
        if output {
            let place = Place::Output(claimed);
            let name = place.name();
            match self.make_afresh(Path::new(&name)) {
                // What an attempt that was taken back left there is not ours to remove.
                Err(error) if self.stays(place, &error) => {
                    self.leave_folder(place, claimed)?;
                    self.make_afresh(Path::new(&name))?;
                }
                other => other?,
            }
        }
        Ok(scratch)
    }

    /// Removes the output folder of an attempt that did not succeed.
    pub fn clear_output(&self, claimed: Claimed) -> io::Result<()> {
        let name = Place::Output(claimed).name();
        fs::remove_tree(&self.fs, &self.processing, Path::new(&name))
    }

    /// Syncs a job's made files, so that a record may name them. After it returns they are durable
    /// below `processing/ID.N.out`. A worker that removed that folder made none. `Some`: why they cannot be moved.
    pub fn sync_output(&self, claimed: Claimed) -> io::Result<Option<&'static str>> {
        let name = Place::Output(claimed).name();
        let stat = match self.fs.stat(&self.processing, Path::new(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if stat.is_mounted {
            return Ok(Some("it mounted something on its output folder, which cannot be moved so"));
        }
        if stat.is_fixed {
            return Ok(Some(
                "it made its output folder immutable or append-only: it cannot be moved",
            ));
        }
        match fs::sync_tree(&self.fs, &self.processing, Path::new(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Ok(Some("it put something else in place of its output folder"))
            }
            other => other.map(|()| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::core::JobId;
    use crate::fs::RealFs;
    use crate::fs::faults::{Faults, Op, Then};
    use crate::spool::Shape;

    /// Goal: a file that cannot be looked at after its claim does not stand in `processing/` unknown to all,
    /// until the next start: it is claimed later, or now, where its name is taken. Method: no descriptor for
    /// that look, for a file and for a folder; then, for each, while its way back is taken, too.
    #[test]
    fn no_claim_is_forgotten_half_way() {
        // A file's folder is used again, which is a rename more.
        for (shape, is_folder, look) in [(Shape::File, false, 4), (Shape::Folder(1), true, 3)] {
            let home = tempfile::tempdir().unwrap();
            let fs = Faults::new(RealFs);
            let spool = Spool::open(fs.clone(), RealFs.open_root(home.path()).unwrap()).unwrap();
            let old = home.path().join("incoming/x");
            if is_folder {
                std::fs::create_dir(&old).unwrap();
            } else {
                std::fs::write(&old, "x").unwrap();
            }
            let rel = RelPath::new("x").unwrap();
            let mut folders = Folders::new(1);
            let mut job = JobId::MIN;
            let mut claim = || {
                job = JobId::next(job, 1, [3; 10]);
                let claimed = Claimed { job, begun: 1, shape };
                let place = home.path().join("processing").join(Place::Job(claimed).name());
                let claim = if is_folder {
                    spool.claim_folder(&rel, claimed)
                } else {
                    spool.claim(&rel, claimed, None, &mut folders)
                };
                (claim, place.join("x").exists())
            };
            // The first look is the one before it.
            fs.arm_for(|op| op == Op::Stat, 2, Errno::MFILE, Then::Works);
            let (refused, is_moved) = claim();
            assert!(matches!(refused, Claim::Refused(_)), "{refused:?}");
            assert!(old.exists() && !is_moved);

            fs.arm_for(|op| op == Op::Stat || op == Op::Rename, look, Errno::MFILE, Then::Always);
            let (made, is_moved) = claim();
            fs.disarm();
            assert!(matches!(made, Claim::Made(_)) && is_moved, "{made:?}");
        }
    }

    /// Goal: a claim that is refused again and again leaves nothing in `processing/` each time. Method: no room for
    /// the second folder on the way; no descriptor for the last one, made anew and used again.
    #[test]
    fn refused_claims_fill_no_processing() {
        type Fails = (fn(Op) -> bool, Errno);
        let home = tempfile::tempdir().unwrap();
        let fs = Faults::new(RealFs);
        let spool = Spool::open(fs.clone(), RealFs.open_root(home.path()).unwrap()).unwrap();
        let file = home.path().join("incoming/a/b/x");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "x").unwrap();
        let rel = RelPath::new("a/b/x").unwrap();
        let count = || std::fs::read_dir(home.path().join("processing")).unwrap().count();
        let mut folders = Folders::new(1);
        folders.keep_open(0);
        let mut claimed = Claimed::file(JobId::MIN, 1);
        let mut claim = |folders: &mut Folders<_>| {
            claimed.job = JobId::next(claimed.job, 1, [3; 10]);
            (spool.claim(&rel, claimed, None, folders), claimed)
        };
        let fails: [Fails; 2] =
            [(|op| op == Op::MakeDir, Errno::NOSPC), (|op| op == Op::OpenDir, Errno::MFILE)];
        for (op, errno) in fails {
            fs.arm_for(op, 2, errno, Then::Works);
            let (refused, _) = claim(&mut folders);
            assert!(matches!(refused, Claim::Refused(_)), "{refused:?}");
            assert_eq!(count(), 0, "{errno:?}");
        }
        let (made, claimed) = claim(&mut folders);
        assert!(matches!(made, Claim::Made(_)), "{made:?}");
        let settling = crate::spool::settle::Settling {
            job: claimed.job,
            claimed,
            rel: &rel,
            ino: 0,
            why: None,
            alone: false,
        };
        spool.settle(&settling, &mut folders).unwrap();
        assert_eq!(count(), 1, "it is kept");
        std::fs::write(&file, "x").unwrap();
        fs.arm_for(|op| op == Op::OpenDir, 2, Errno::MFILE, Then::Works);
        let (refused, _) = claim(&mut folders);
        assert!(matches!(refused, Claim::Refused(_)), "{refused:?}");
        spool.remove_empty(&mut folders).unwrap();
        assert_eq!(count(), 0, "nobody knew of it");
    }
}
