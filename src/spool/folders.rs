//! Folders below `processing/` that are used again: emptied ones of jobs, scratch that came back as it was.
//!
//! Must not know: claims, settling; only which folder may serve again, and for whom.
//!
//! Invariants
//! - What is kept is empty: a job's folder because its file was moved out of it and nothing else stood
//!   there, scratch because it was found empty.
//! - Bounded: folders kept, and descriptors held open.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::config::limits::OPEN_JOB_FOLDERS;
use crate::core::JobId;
use crate::core::state::Millis;
use crate::fs::{self, Filesystem};

use super::{Claimed, Place, Spool};

/// A change within this many milliseconds of the last one may leave the same ctime: kernels before
/// 6.13 count it in ticks of up to 10 ms.
const CTIME_TICK_MS: Millis = 100;

/// Folders that wait for their next use, and those lent to jobs under way.
#[derive(Debug)]
pub struct Folders<D> {
    /// Emptied job folders by the parent path below them.
    empty: HashMap<Vec<u8>, Vec<Folder<D>>>,
    /// How many they are, and how many of them are open.
    count: usize,
    open_empty: usize,
    /// Of jobs under way: the folder that the file stands in.
    open: HashMap<JobId, D>,
    scratch: Vec<Scratch>,
    /// Of attempts under way.
    lent: HashMap<JobId, Scratch>,
    most: usize,
    /// Descriptors that may be open.
    most_open: usize,
}

/// An emptied job folder.
#[derive(Debug)]
pub(super) struct Folder<D> {
    /// The name it has.
    pub(super) claimed: Claimed,
    /// The parent path below it, open.
    pub(super) dir: Option<D>,
}

/// A scratch folder.
#[derive(Clone, Copy, Debug)]
struct Scratch {
    /// The name it has.
    made_for: Claimed,
    /// Inode and ctime with which it was found empty; while they are the same it still is.
    seen: Option<(u64, i64)>,
}

impl<D> Folders<D> {
    /// At most `most` job folders and `most` scratch folders are kept.
    pub fn new(most: usize) -> Self {
        Self {
            empty: HashMap::new(),
            count: 0,
            open_empty: 0,
            open: HashMap::new(),
            scratch: Vec::new(),
            lent: HashMap::new(),
            most,
            most_open: OPEN_JOB_FOLDERS,
        }
    }

    /// From now on at most so many descriptors are kept open.
    pub fn keep_open(&mut self, most: usize) {
        self.most_open = most;
    }

    /// Keeps none open, now or later: others need the descriptors more. To open a folder again is slower.
    pub fn close_all(&mut self) {
        self.most_open = 0;
        self.open.clear();
        self.open_empty = 0;
        for folder in self.empty.values_mut().flatten() {
            folder.dir = None;
        }
    }

    pub(super) fn take(&mut self, parent: &[u8]) -> Option<Folder<D>> {
        let taken = self.empty.get_mut(parent)?.pop()?;
        self.count -= 1;
        self.open_empty -= usize::from(taken.dir.is_some());
        Some(taken)
    }

    /// Gives the folder back where there is no room for it.
    pub(super) fn keep(&mut self, parent: &[u8], mut folder: Folder<D>) -> Option<Folder<D>> {
        if self.count >= self.most {
            return Some(folder);
        }
        if self.open.len() + self.open_empty >= self.most_open {
            folder.dir = None;
        }
        self.count += 1;
        self.open_empty += usize::from(folder.dir.is_some());
        match self.empty.get_mut(parent) {
            Some(list) => list.push(folder),
            None => drop(self.empty.insert(parent.to_vec(), vec![folder])),
        }
        None
    }

    /// The folder of a job that was claimed, for its settling.
    pub(super) fn hold(&mut self, job: JobId, dir: D) {
        if self.open.len() + self.open_empty < self.most_open {
            self.open.insert(job, dir);
        }
    }

    pub(super) fn take_held(&mut self, job: JobId) -> Option<D> {
        self.open.remove(&job)
    }

    /// The job will not settle soon: others need the descriptor more.
    pub fn close(&mut self, job: JobId) {
        drop(self.open.remove(&job));
    }
}

impl<F: Filesystem> Spool<F> {
    /// Keeps an emptied job folder for the next claim, or removes it.
    pub(super) fn keep_or_remove(
        &self,
        parent: &[u8],
        folder: Folder<F::Dir>,
        folders: &mut Folders<F::Dir>,
    ) -> io::Result<()> {
        if folder.claimed.is_own() {
            return self.remove(Place::Job(folder.claimed));
        }
        match folders.keep(parent, folder) {
            None => Ok(()),
            Some(it) => self.remove(Place::Job(it.claimed)),
        }
    }

    /// Removes all folders that were kept: nothing of ours stands in `processing/` after a clean end, but what is
    /// immutable, where something is mounted, or where a process that a worker left writes on. The next start says so.
    pub fn remove_empty(&self, folders: &mut Folders<F::Dir>) -> io::Result<()> {
        (folders.count, folders.open_empty) = (0, 0);
        let jobs = folders.empty.drain().flat_map(|(_, list)| list);
        let jobs = jobs.map(|folder| Place::Job(folder.claimed));
        let scratch = folders.scratch.drain(..).map(|it| Place::Scratch(it.made_for));
        for place in jobs.chain(scratch) {
            match self.remove(place) {
                Err(error) if fs::is_in_use(&error) => {}
                Err(_) if self.is_stuck(place)? => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// An empty scratch folder for an attempt; the place that it has, which may be named after another.
    pub(super) fn lend_scratch(
        &self,
        claimed: Claimed,
        folders: &mut Folders<F::Dir>,
    ) -> io::Result<Place> {
        // An attempt that could not be started has its own already.
        let kept = folders.lent.remove(&claimed.job).or_else(|| folders.scratch.pop());
        let scratch = match kept {
            None => self.make_scratch(claimed, folders)?,
            Some(mut kept) => {
                // Someone may have tidied up in processing/, which is no reason to fail a job.
                if self.is_untouched(&mut kept, 0)? {
                    kept
                } else {
                    match self.remove(Place::Scratch(kept.made_for)) {
                        Err(error) if fs::is_in_use(&error) => {}
                        other => other?,
                    }
                    self.make_scratch(claimed, folders)?
                }
            }
        };
        folders.lent.insert(claimed.job, scratch);
        Ok(Place::Scratch(scratch.made_for))
    }

    fn make_scratch(&self, mut claimed: Claimed, folders: &Folders<F::Dir>) -> io::Result<Scratch> {
        // An attempt that was taken back begins again, and another job may have its folder by now.
        let is_used = |claimed: Claimed| {
            let mut all = folders.lent.values().chain(&folders.scratch);
            all.any(|it| it.made_for == claimed)
        };
        let mut most = 1_000;
        loop {
            while is_used(claimed) {
                claimed.begun = claimed.begun.saturating_add(1);
            }
            match self.make_afresh(Path::new(&Place::Scratch(claimed).name())) {
                // An earlier attempt mounted something there, or left another user's there: it stays.
                Err(error) if most > 0 && self.stays(Place::Scratch(claimed), &error) => {
                    most -= 1;
                    claimed.begun = claimed.begun.saturating_add(1);
                }
                other => return other.map(|()| Scratch { made_for: claimed, seen: None }),
            }
        }
    }

    /// Whether a folder cannot be emptied, now or later, and that is not for want of a right on `processing/`.
    pub(super) fn stays(&self, place: Place, error: &io::Error) -> bool {
        let is_there = || self.fs.stat(&self.processing, Path::new(&place.name())).is_ok();
        fs::is_in_use(error) || error.kind() == io::ErrorKind::PermissionDenied && is_there()
    }

    /// The attempt is over: what it left in its scratch folder is removed.
    pub fn clear_scratch(
        &self,
        job: JobId,
        folders: &mut Folders<F::Dir>,
        now: Millis,
    ) -> io::Result<()> {
        // On a full disk an outcome is planned, and its scratch cleared, several times.
        let Some(mut scratch) = folders.lent.remove(&job) else { return Ok(()) };
        if folders.scratch.len() < folders.most && self.is_untouched(&mut scratch, now)? {
            folders.scratch.push(scratch);
            return Ok(());
        }
        self.remove(Place::Scratch(scratch.made_for))
    }

    /// Whether it is there and empty. With the time it is, remembers what it looks like.
    fn is_untouched(&self, scratch: &mut Scratch, now: Millis) -> io::Result<bool> {
        let name = Place::Scratch(scratch.made_for).name();
        let path = Path::new(&name);
        let stat = match self.fs.stat(&self.processing, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let look = (stat.ino, stat.ctime_ns);
        if scratch.seen == Some(look) {
            return Ok(true);
        }
        // Protected against its next user, perhaps, or given to another one (`chown -R` in a container).
        let is_usable = stat.file_type == fs::FileType::Dir && stat.mode & 0o700 == 0o700;
        if !is_usable || stat.uid != self.fs.stat(&self.processing, Path::new("."))?.uid {
            return Ok(false);
        }
        let dir = match self.fs.open_own_dir(&self.processing, path) {
            // Something is mounted on it.
            Err(error) if fs::is_in_use(&error) => return Ok(false),
            other => other?,
        };
        if self.fs.has_others(&dir, "".as_ref())? {
            return Ok(false);
        }
        let changed = u64::try_from(stat.ctime_ns / 1_000_000).unwrap_or(u64::MAX);
        scratch.seen = (changed.saturating_add(CTIME_TICK_MS) < now).then_some(look);
        Ok(true)
    }

    /// Makes a folder; one of this name is left of a start that failed half-way, or of an attempt that
    /// was taken back and could not be cleared.
    pub(super) fn make_afresh(&self, name: &Path) -> io::Result<()> {
        match self.fs.make_dir(&self.processing, name, 0o750) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_tree(&self.fs, &self.processing, name)?;
                self.fs.make_dir(&self.processing, name, 0o750)
            }
            done => done,
        }
    }

    fn remove(&self, place: Place) -> io::Result<()> {
        fs::remove_tree(&self.fs, &self.processing, Path::new(&place.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;

    /// Goal: two attempts under way never share a scratch folder. Method: an attempt is taken back, its
    /// folder goes to another job, and it begins again.
    #[test]
    fn an_attempt_that_begins_again_leaves_the_others_scratch_alone() {
        let home = tempfile::tempdir().unwrap();
        let spool = Spool::open(RealFs, RealFs.open_root(home.path()).unwrap()).unwrap();
        let mut folders = Folders::new(4);
        let first = Claimed::file(JobId::next(JobId::MIN, 1, [1; 10]), 1);
        let other = Claimed::file(JobId::next(first.job, 2, [1; 10]), 1);
        let place = spool.lend_scratch(first, &mut folders).unwrap();
        spool.clear_scratch(first.job, &mut folders, 0).unwrap();
        assert_eq!(spool.lend_scratch(other, &mut folders).unwrap(), place);
        let held = home.path().join("processing").join(place.name()).join("held");
        std::fs::write(&held, "x").unwrap();
        assert_ne!(spool.lend_scratch(first, &mut folders).unwrap(), place);
        assert!(held.exists());
    }

    fn run(program: &str, paths: &[&Path]) {
        let status = std::process::Command::new(program).args(paths).status();
        assert!(status.unwrap().success());
    }

    /// Goal: an attempt's scratch is empty, and what the last one left is gone. Method: attempts that
    /// leave nothing, a file, a folder of the same name; one that moves its scratch away, one that
    /// removes it; each with a ctime that is fresh and one that is long past.
    #[test]
    fn scratch_is_empty_whatever_the_last_attempt_did() {
        type Worker = fn(&Path);
        let workers: [Worker; 6] = [
            |_| (),
            |at| std::fs::write(at.join("left"), "x").unwrap(),
            |at| std::fs::create_dir(at.join("left")).unwrap(),
            |at| run("mv", &[at, &at.with_extension("away")]),
            |at| run("rmdir", &[at]),
            |_| (),
        ];
        let hour = 3_600_000;
        for later in [0, hour] {
            let home = tempfile::tempdir().unwrap();
            let root = RealFs.open_root(home.path()).unwrap();
            let spool = Spool::open(RealFs, root).unwrap();
            let mut folders = Folders::new(4);
            let mut job = JobId::MIN;
            for round in 0..3 {
                for worker in &workers {
                    job = JobId::next(job, 1 + round, [1; 10]);
                    let claimed = Claimed::file(job, 1);
                    let place = spool.lend_scratch(claimed, &mut folders).unwrap();
                    let path = home.path().join("processing").join(place.name());
                    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0, "{place:?}");
                    worker(&path);
                    let now = crate::daemon::service::now_ms() + later;
                    spool.clear_scratch(job, &mut folders, now).unwrap();
                    assert!(!path.join("left").exists());
                }
            }
            spool.remove_empty(&mut folders).unwrap();
            let left = std::fs::read_dir(home.path().join("processing")).unwrap();
            let left = left
                .map(|entry| entry.unwrap().path())
                .filter(|at| at.extension() != Some("away".as_ref()));
            assert_eq!(left.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
        }
    }
}
