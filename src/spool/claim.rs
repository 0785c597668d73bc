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
//! The emptied folder of an earlier job is renamed to the next claim with the same parent path:
//! making and removing a tree a job is what costs most (20 µs against 50–180). A power cut may undo
//! that rename and keep the file's, so that a new file stands under an old job's name; recovery
//! tells by [`crate::journal::record::FileMark`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::core::RelPath;
use crate::fs::{self, FileType, Filesystem, Stat};
use crate::journal::record::FileMark;

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
}

/// Emptied folders of earlier jobs, by the parent path below them. Bounded.
#[derive(Debug)]
pub struct EmptyFolders {
    by_parent: HashMap<Vec<u8>, Vec<Claimed>>,
    scratch: Vec<Claimed>,
    count: usize,
    most: usize,
}

impl EmptyFolders {
    /// At most `most` job folders and `most` scratch folders are kept.
    pub fn new(most: usize) -> Self {
        Self { by_parent: HashMap::new(), scratch: Vec::new(), count: 0, most }
    }

    fn take(&mut self, parent: &[u8]) -> Option<Claimed> {
        let list = self.by_parent.get_mut(parent)?;
        let taken = list.pop();
        if list.is_empty() {
            self.by_parent.remove(parent);
        }
        self.count -= usize::from(taken.is_some());
        taken
    }
}

impl<F: Filesystem> Spool<F> {
    /// Renames `incoming/REL` to `processing/ID.N/REL`. Moves S1 to S2.
    pub fn claim(&self, rel: &RelPath, claimed: Claimed, empty: &mut EmptyFolders) -> Claim {
        match self.try_claim(rel, claimed, empty) {
            Ok(file) => Claim::Made(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Claim::Gone,
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Claim::Gone,
            // A folder on its way is a file or a link now: the name that was seen is gone.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Claim::Gone,
            Err(error)
                if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::LOOP) =>
            {
                Claim::Gone
            }
            Err(error) => Claim::Refused(error),
        }
    }

    fn try_claim(
        &self,
        rel: &RelPath,
        claimed: Claimed,
        empty: &mut EmptyFolders,
    ) -> io::Result<ClaimedFile> {
        let parent = Path::new(OsStr::from_bytes(rel.parent()));
        let from = if rel.parent().is_empty() {
            self.incoming.clone()
        } else {
            self.fs.open_dir(&self.incoming, parent)?
        };
        let name = Path::new(OsStr::from_bytes(rel.name()));
        let before = self.fs.stat(&from, name)?;
        if before.file_type == FileType::Dir {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.job_folder(rel, claimed, empty)?;
        let to = self
            .fs
            .open_dir(&self.processing, &Path::new(&Place::Job(claimed).name()).join(parent))?;
        // The attempt is in the name, so this rename is the claim and its record at once.
        if let Err(error) = self.fs.rename(&from, name, &to, name) {
            self.keep_or_remove(rel.parent(), claimed, empty)?;
            return Err(error);
        }
        let stat = self.fs.stat(&to, name)?;
        // Swapped for a folder between the look and the rename. A folder is no job, and what is in it
        // has not failed: it goes back. Where its name is taken by now, it is set aside as it is.
        if stat.file_type == FileType::Dir && self.fs.rename(&to, name, &from, name).is_ok() {
            self.keep_or_remove(rel.parent(), claimed, empty)?;
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mark = FileMark {
            ino: stat.ino,
            btime_ns: stat.btime_ns,
            before_ns: before.ctime_ns,
            after_ns: stat.ctime_ns,
        };
        Ok(ClaimedFile { mark, stat })
    }

    /// An empty `ID.N/PARENT`, from an emptied one if there is one of the same parent path.
    fn job_folder(
        &self,
        rel: &RelPath,
        claimed: Claimed,
        empty: &mut EmptyFolders,
    ) -> io::Result<()> {
        let name = Place::Job(claimed).name();
        if let Some(old) = empty.take(rel.parent()) {
            let old = Place::Job(old).name();
            return self.fs.rename(
                &self.processing,
                Path::new(&old),
                &self.processing,
                Path::new(&name),
            );
        }
        let mut path = PathBuf::from(name);
        self.fs.make_dir(&self.processing, &path, 0o750)?;
        if !rel.parent().is_empty() {
            for part in rel.parent().split(|b| *b == b'/') {
                path.push(OsStr::from_bytes(part));
                self.fs.make_dir(&self.processing, &path, 0o750)?;
            }
        }
        Ok(())
    }

    /// Keeps an emptied job folder for the next claim, or removes it.
    pub fn keep_or_remove(
        &self,
        parent: &[u8],
        claimed: Claimed,
        empty: &mut EmptyFolders,
    ) -> io::Result<()> {
        if empty.count < empty.most {
            empty.by_parent.entry(parent.to_vec()).or_default().push(claimed);
            empty.count += 1;
            return Ok(());
        }
        fs::remove_tree(&self.fs, &self.processing, Path::new(&Place::Job(claimed).name()))
    }

    /// Removes all folders that were kept: nothing of ours stands in `processing/` while idle.
    pub fn remove_empty(&self, empty: &mut EmptyFolders) -> io::Result<()> {
        empty.count = 0;
        let jobs = empty.by_parent.drain().flat_map(|(_, list)| list).map(Place::Job);
        for place in jobs.chain(empty.scratch.drain(..).map(Place::Scratch)) {
            fs::remove_tree(&self.fs, &self.processing, Path::new(&place.name()))?;
        }
        Ok(())
    }

    /// Renames a claimed file's sentinel beside it, so that it is settled along with it. That it is gone,
    /// or that the worker's input has the same name, changes nothing.
    pub fn claim_sentinel(&self, rel: &RelPath, name: &[u8], claimed: Claimed) -> io::Result<()> {
        let parent = Path::new(OsStr::from_bytes(rel.parent()));
        let from = if rel.parent().is_empty() {
            self.incoming.clone()
        } else {
            self.fs.open_dir(&self.incoming, parent)?
        };
        let name = Path::new(OsStr::from_bytes(name));
        let target = Path::new(&Place::Job(claimed).name()).join(parent).join(name);
        self.fs.rename(&from, name, &self.processing, &target)
    }

    /// Renames `ID.M` to `ID.N`: an attempt begins (N = M + 1) or is taken back (N = M - 1).
    pub fn set_begun(&self, from: Claimed, to: Claimed) -> io::Result<()> {
        let (old, new) = (Place::Job(from).name(), Place::Job(to).name());
        self.fs.rename(&self.processing, Path::new(&old), &self.processing, Path::new(&new))
    }

    /// Makes the attempt's empty scratch folder, and its output folder where asked.
    pub fn make_attempt_folders(
        &self,
        claimed: Claimed,
        output: bool,
        empty: &mut EmptyFolders,
    ) -> io::Result<()> {
        let name = Place::Scratch(claimed).name();
        match empty.scratch.pop() {
            Some(old) => {
                let old = Place::Scratch(old).name();
                let (old, new) = (Path::new(&old), Path::new(&name));
                match self.fs.rename(&self.processing, old, &self.processing, new) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        self.fs.remove_dir(&self.processing, old)?;
                        self.make_afresh(new)?;
                    }
                    // Someone tidied up in processing/: no reason to fail a job.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        self.make_afresh(new)?;
                    }
                    done => done?,
                }
            }
            None => self.make_afresh(Path::new(&name))?,
        }
        if output {
            self.make_afresh(Path::new(&Place::Output(claimed).name()))?;
        }
        Ok(())
    }

    /// Makes a folder; one of this name is left of a start that failed half-way, or of an attempt that
    /// was taken back and could not be cleared.
    fn make_afresh(&self, name: &Path) -> io::Result<()> {
        match self.fs.make_dir(&self.processing, name, 0o750) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_tree(&self.fs, &self.processing, name)?;
                self.fs.make_dir(&self.processing, name, 0o750)
            }
            done => done,
        }
    }

    /// The attempt is over: its scratch folder is emptied and kept, or removed.
    pub fn clear_scratch(&self, claimed: Claimed, empty: &mut EmptyFolders) -> io::Result<()> {
        let name = Place::Scratch(claimed).name();
        let path = Path::new(&name);
        let dir = match self.fs.open_dir(&self.processing, path) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.fs.is_empty(&dir)? && empty.scratch.len() < empty.most {
            // On a full disk an outcome is planned, and its scratch cleared, several times.
            if !empty.scratch.contains(&claimed) {
                empty.scratch.push(claimed);
            }
            return Ok(());
        }
        fs::remove_tree(&self.fs, &self.processing, path)
    }

    /// Removes the output folder of an attempt that did not succeed.
    pub fn clear_output(&self, claimed: Claimed) -> io::Result<()> {
        let name = Place::Output(claimed).name();
        fs::remove_tree(&self.fs, &self.processing, Path::new(&name))
    }

    /// Syncs a job's made files, so that a record may name them. After it returns they are durable
    /// below `processing/ID.N.out`.
    pub fn sync_output(&self, claimed: Claimed) -> io::Result<()> {
        let name = Place::Output(claimed).name();
        fs::sync_tree(&self.fs, &self.processing, Path::new(&name))
    }
}
