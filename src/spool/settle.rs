//! Settling: the last move, from `processing/` to `done/` or `error/`. S3 → S4.
//!
//! `sidecar`: the reason beside a failed file. `parents`: the folder that it goes to. `above`: what a worker left
//! in the folders that lead to its input; `left`: what cannot be moved, and stays.
//!
//! Must not know: why a job failed; the sidecar's text is given to it.
//!
//! Invariants
//! - Nothing is overwritten: a taken name becomes `x~ID.json`, a parent taken by a file `a~ID/b`. So does a
//!   parent in which we may make nothing, or that another disk is mounted on: these folders are people's.
//! - The sidecar of a failure is written before the file moves, under the name the file will have:
//!   a file in `error/` always has its reason, also under the name that its worker gave it. Where a name cannot have
//!   one, since `.why/x.json` is the folder of `x.json/y`, or the other way round, the name counts as taken.
//! - Everything here may be done again after a crash, with the same result.
//! - What a worker left beside or above its input in the job's folder goes along with it; nothing is deleted. What
//!   it made as another user, who alone may move it, or immutable (chattr), stays in `processing/ID.N.left`: the folder gets that
//!   name before the file leaves it, since what stands in a job's folder without its input looks like a job.
//!   So does a folder in which a process that the worker left still makes files, or where it mounted something:
//!   what is mounted cannot be moved, and is not ours to empty. So does an output folder that was given to another user,
//!   and a file whose own name and the one with the id are both taken, by others that the worker gave these names.
//! - The very folder of a job that its worker made immutable, or mounted something on, keeps its name, since nobody may
//!   give it another one. While that is so it is no job for recovery ([`Spool::is_stuck`]); undone after the record is
//!   dropped, its file would run again.
//! - Files that came together go under names of one kind, their own or all `x~ID.json`: so none stands there
//!   as the companion of another job's file. A power cut may mix them; what has an id is certain then.
//! - Not durable when it returns. A journal segment goes only after a checkpoint made it so.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::core::{JobId, RelPath};
use crate::fs::{self, FileType, Filesystem, is_in_use};

use super::folders::{Folder, Folders};
use super::{Claimed, Place, Shape, Spool, names};

mod above;
mod left;
mod parents;
mod sidecar;

/// Permissions of folders made below `done/`, `error/` and `output/`.
const FOLDER: u32 = 0o750;

/// Where a job's file ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Path below `done/` or `error/`; `None`: the worker had removed its input.
    pub rel: Option<PathBuf>,
    /// Path below `output/`, if files were made.
    pub output: Option<PathBuf>,
    /// Path below `error/` of the failed records, if there were any.
    pub failed: Option<PathBuf>,
    /// The name below `processing/` of what stays: only another user may move it, or a process writes on there.
    pub left: Option<String>,
}

/// Where a file went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// As [`Settled::rel`].
    pub rel: Option<PathBuf>,
    /// As [`Settled::left`].
    pub left: Option<String>,
}

/// What is to be settled.
#[derive(Clone, Debug)]
pub struct Settling<'a> {
    /// The job.
    pub job: JobId,
    /// The folder that its file stands in now.
    pub claimed: Claimed,
    /// Path below `incoming/`.
    pub rel: &'a RelPath,
    /// The inode of its file, as it was claimed; 0: it is not known.
    pub ino: u64,
    /// The sidecar's text for a failed job, which goes to `error/`; `None`: it goes to `done/`.
    pub why: Option<&'a [u8]>,
    /// Only the file itself moves. Else what the worker left beside it goes along.
    pub alone: bool,
}

/// Under which name a file goes to `done/` or `error/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its own, and where that is taken, one with the job's id.
    Own,
    /// One with the job's id.
    Beside,
}

/// Where files end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    Done,
    Error,
    Output,
}

impl Tree {
    fn of(it: &Settling<'_>) -> Self {
        if it.why.is_some() { Self::Error } else { Self::Done }
    }
}

impl<F: Filesystem> Spool<F> {
    /// Moves a recorded job's file to `done/` or `error/`: where it is now. Moves S3 to S4.
    pub fn settle(&self, it: &Settling<'_>, folders: &mut Folders<F::Dir>) -> io::Result<Moved> {
        let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        // The worker mounted something on the very input, or on a folder that leads to it; or left all names that a
        // file may have.
        let must_stay = |error: &io::Error| {
            (is_mounted_on(error) || error.kind() == io::ErrorKind::AlreadyExists) && !it.alone
        };
        match self.try_settle(it, folders) {
            Err(error) if is_denied(&error) => {}
            Err(error) if must_stay(&error) => return self.settle_leaving(it),
            other => return other,
        }
        // Perhaps the worker protected its folder. What was done is found done, as after a crash.
        if it.claimed.is_folder() {
            self.open_up_folder(it.claimed)?;
        } else {
            let job = Place::Job(it.claimed).name();
            fs::open_up_tree(&self.fs, &self.processing, Path::new(&job))?;
        }
        match self.try_settle(it, folders) {
            Err(error) if is_denied(&error) && self.has_unmovable(Place::Job(it.claimed))? => {
                self.settle_leaving(it)
            }
            Err(error) if must_stay(&error) => self.settle_leaving(it),
            other => other,
        }
    }

    fn try_settle(&self, it: &Settling<'_>, folders: &mut Folders<F::Dir>) -> io::Result<Moved> {
        let job = Place::Job(it.claimed).name();
        let name = OsStr::from_bytes(it.rel.name());
        let (from, mut has_others) = match self.look_into_job(it, name, &job, folders) {
            Ok(found) => found,
            // The worker removed its folder, or this was settled before a crash.
            Err(error) if fs::is_no_folder(&error) => return self.settle_without_folder(it, &job),
            Err(error) => return Err(error),
        };
        if !it.alone {
            // A folder that leads to the input and holds anything else is not used again.
            has_others |= self.settle_above(it, false)?;
        }
        let mut others = Vec::new();
        if has_others && !it.alone {
            let all: io::Result<Vec<_>> = self.fs.list(&from)?.collect();
            others.extend(all?.into_iter().map(|it| it.name).filter(|other| other != name));
        }
        let rel = if matches!(it.claimed.shape, Shape::Main(_)) {
            // The file first: where it went tells, after a kill, where the others go.
            let kind = self.kind_of_set(&from, name, &others, it)?;
            let rel = self.settle_file(&from, name, it, (kind, it.why))?;
            self.settle_others(&from, &others, it, kind)?;
            rel
        } else {
            // What else stands here is the worker's (a `gzip` leaves x.gz): it goes where the input goes,
            // and before it, since what stands in a job's folder without its input looks like a new job.
            let input = self.name_of_input(&from, name, &others, it)?;
            others.retain(|other| *other != input);
            self.settle_others(&from, &others, it, Kind::Own)?;
            self.settle_file(&from, &input, it, (Kind::Own, it.why))?
        };
        let cleared = if !has_others {
            let folder = Folder { claimed: it.claimed, dir: Some(from) };
            self.keep_or_remove(it.rel.parent(), folder, folders)
        } else if !it.alone {
            fs::remove_tree(&self.fs, &self.processing, Path::new(&job))
        } else {
            Ok(())
        };
        match cleared {
            // A process that the worker left still writes there, or something is mounted there. That is no job.
            Err(error) if is_in_use(&error) || self.is_stuck(Place::Job(it.claimed))? => {
                let left = Some(self.leave_job(it)?);
                Ok(Moved { rel, left })
            }
            other => other.map(|()| Moved { rel, left: None }),
        }
    }

    /// Its own, unless its worker gave it another one (`mv x x.done`): a failed file has its reason all the same.
    fn name_of_input(
        &self,
        from: &F::Dir,
        name: &OsStr,
        others: &[OsString],
        it: &Settling<'_>,
    ) -> io::Result<OsString> {
        if others.is_empty() || it.ino == 0 || !self.is_gone_from(from, name)? {
            return Ok(name.to_owned());
        }
        for other in others {
            match self.fs.stat(from, Path::new(other)) {
                Ok(stat) if stat.ino == it.ino => return Ok(other.clone()),
                Err(error) if !is_gone(&error) && !is_in_use(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(name.to_owned())
    }

    fn is_gone_from(&self, at: &F::Dir, name: &OsStr) -> io::Result<bool> {
        match self.fs.stat(at, Path::new(name)) {
            Err(error) if is_gone(&error) => Ok(true),
            // Mounted by a server that has ended.
            Err(error) if is_in_use(&error) => Ok(false),
            other => other.map(|_| false),
        }
    }

    /// The folder of the input is gone. What the worker left above it goes along all the same: in what would stay
    /// of the job's folder the next start would find a job.
    fn settle_without_folder(&self, it: &Settling<'_>, job: &str) -> io::Result<Moved> {
        let is_dir = match self.fs.stat(&self.processing, Path::new(job)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Moved::default()),
            other => other?.file_type == FileType::Dir,
        };
        if it.alone {
            return Ok(Moved::default());
        }
        if !is_dir {
            // The worker put this in place of all of it.
            return Ok(Moved { rel: None, left: Some(self.leave_job(it)?) });
        }
        self.settle_above(it, true)?;
        match fs::remove_tree(&self.fs, &self.processing, Path::new(job)) {
            Err(error) if is_in_use(&error) => {
                Ok(Moved { rel: None, left: Some(self.leave_job(it)?) })
            }
            other => other.map(|()| Moved::default()),
        }
    }

    /// The folder that a job's file stands in, and whether anything else stands there.
    fn look_into_job(
        &self,
        it: &Settling<'_>,
        name: &OsStr,
        job: &str,
        folders: &mut Folders<F::Dir>,
    ) -> io::Result<(F::Dir, bool)> {
        if let Some(held) = folders.take_held(it.claimed.job) {
            match self.fs.has_others(&held, name) {
                Ok(has_others) => return Ok((held, has_others)),
                // The worker put another folder in its place, perhaps.
                Err(error) if fs::is_no_folder(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let parent = Path::new(job).join(OsStr::from_bytes(it.rel.parent()));
        let from = self.fs.open_own_dir(&self.processing, &parent).map_err(|error| {
            let is_mount = error.kind() == io::ErrorKind::CrossesDevices;
            if is_mount { io::ErrorKind::ResourceBusy.into() } else { error }
        })?;
        let has_others = self.fs.has_others(&from, name)?;
        Ok((from, has_others))
    }

    /// The names under which files that came together go: where the first of them has gone, as that.
    fn kind_of_set(
        &self,
        from: &F::Dir,
        main: &OsStr,
        others: &[OsString],
        it: &Settling<'_>,
    ) -> io::Result<Kind> {
        let (dir, folder) = self.open_parent(Tree::of(it), it.rel, it.job)?;
        let is_there = |at: &F::Dir, name: &OsStr| match self.fs.stat(at, Path::new(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        if !is_there(from, main)? {
            let is_beside = is_there(&dir, &names::beside(main.as_bytes(), it.job))?;
            return Ok(if is_beside { Kind::Beside } else { Kind::Own });
        }
        if it.why.is_some() && self.is_why_taken(&folder, main, it.job)? {
            return Ok(Kind::Beside);
        }
        for name in [main].into_iter().chain(others.iter().map(OsString::as_os_str)) {
            if is_there(&dir, name)? {
                return Ok(Kind::Beside);
            }
        }
        Ok(Kind::Own)
    }

    fn settle_others(
        &self,
        from: &F::Dir,
        others: &[OsString],
        it: &Settling<'_>,
        kind: Kind,
    ) -> io::Result<()> {
        let mut settled = Ok(());
        for other in others {
            match self.settle_file(from, other, it, (kind, None)) {
                // Another user's, perhaps: it stays alone.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    settled = Err(error);
                }
                // Something is mounted there: it stays.
                Err(error) if is_mounted_on(&error) => {}
                other => drop(other?),
            }
        }
        settled
    }

    fn settle_file(
        &self,
        from: &F::Dir,
        name: &OsStr,
        it: &Settling<'_>,
        how: (Kind, Option<&[u8]>),
    ) -> io::Result<Option<PathBuf>> {
        // A folder below `done/` that is empty may be tidied away between its opening and the move.
        let mut tries = 3;
        loop {
            tries -= 1;
            match self.try_settle_file(from, name, it, how) {
                Err(error) if tries > 0 && error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
    }

    /// ENOENT: the folder that it goes to was taken away.
    fn try_settle_file(
        &self,
        from: &F::Dir,
        name: &OsStr,
        it: &Settling<'_>,
        (kind, why): (Kind, Option<&[u8]>),
    ) -> io::Result<Option<PathBuf>> {
        let (dir, folder) = self.open_parent(Tree::of(it), it.rel, it.job)?;
        let own = (kind == Kind::Own).then(|| name.to_owned());
        for target in own.into_iter().chain([names::beside(name.as_bytes(), it.job)]) {
            let path = Path::new(&target);
            if let Some(why) = why {
                // Asked first, so that the sidecar never replaces one of a file that stands there.
                match self.fs.stat(&dir, path) {
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                if self.is_why_taken(&folder, &target, it.job)? {
                    continue;
                }
                match self.fs.stat(from, Path::new(name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                    Ok(_) => self.write_why(&folder, &target, it.job, why)?,
                }
            }
            match self.fs.rename(from, Path::new(name), &dir, path) {
                Ok(()) => return Ok(Some(folder.join(target))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return match self.fs.stat(from, Path::new(name)) {
                        Ok(_) => Err(error),
                        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(None),
                        Err(other) => Err(other),
                    };
                }
                Err(error) => return Err(error),
            }
        }
        // Both names may be taken by what an earlier recovery moved: then there is nothing left to do.
        match self.fs.stat(from, Path::new(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    /// Moves what a worker left of a job that has no input any more to `error/`.
    pub fn set_aside(&self, claimed: Claimed, rel: &RelPath) -> io::Result<()> {
        let path = Path::new(&Place::Job(claimed).name()).join(rel.as_path());
        let (dir, _) = self.open_parent(Tree::Error, rel, claimed.job)?;
        let name = OsStr::from_bytes(rel.name());
        for target in [name.to_owned(), names::beside(rel.name(), claimed.job)] {
            match self.fs.rename(&self.processing, &path, &dir, Path::new(&target)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Moves the failed records of an input to `error/REL`, with their reason: where they are now;
    /// `None` where there are none, or no more.
    pub fn settle_failed(
        &self,
        job: JobId,
        rel: &RelPath,
        why: &[u8],
    ) -> io::Result<Option<PathBuf>> {
        let from = Place::Failed(job).name();
        let from = Path::new(&from);
        match self.fs.stat(&self.processing, from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let (dir, folder) = self.open_parent(Tree::Error, rel, job)?;
        let name = OsStr::from_bytes(rel.name());
        for target in [name.to_owned(), names::beside(rel.name(), job)] {
            // Asked first, so that the sidecar never replaces one of a file that stands there.
            match self.fs.stat(&dir, Path::new(&target)) {
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            if self.is_why_taken(&folder, &target, job)? {
                continue;
            }
            self.write_why(&folder, &target, job, why)?;
            match self.fs.rename(&self.processing, from, &dir, Path::new(&target)) {
                Ok(()) => return Ok(Some(folder.join(target))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Moves what a job made to `output/`: where it is now; `None` where there is nothing. Where the worker gave the
    /// very folder away, its owner alone may move it elsewhere: it stays.
    pub fn settle_output(&self, claimed: Claimed, rel: &RelPath) -> io::Result<Moved> {
        match self.try_settle_output(claimed, rel) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let made = Place::Output(claimed);
                if !self.is_unmovable(&self.fs.stat(&self.processing, Path::new(&made.name()))?)? {
                    return Err(error);
                }
                let left = self.leave_folder(made, claimed)?.name();
                Ok(Moved { rel: None, left: Some(left) })
            }
            other => Ok(Moved { rel: other?, left: None }),
        }
    }

    fn try_settle_output(&self, claimed: Claimed, rel: &RelPath) -> io::Result<Option<PathBuf>> {
        let made = Place::Output(claimed).name();
        let made = Path::new(&made);
        match self.fs.open_dir(&self.processing, made) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(dir) => {
                if self.fs.list(&dir)?.next().is_none() {
                    self.fs.remove_dir(&self.processing, made)?;
                    return Ok(None);
                }
            }
        }
        let (dir, folder) = self.open_parent(Tree::Output, rel, claimed.job)?;
        let name = OsStr::from_bytes(rel.name());
        for target in [name.to_owned(), names::beside(rel.name(), claimed.job)] {
            match self.fs.rename(&self.processing, made, &dir, Path::new(&target)) {
                Ok(()) => return Ok(Some(folder.join(target))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// What is to be moved has something mounted on it. (Where another disk is mounted to which it would go, the
/// system says that they are two.)
fn is_mounted_on(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

#[cfg(test)]
mod tests;
