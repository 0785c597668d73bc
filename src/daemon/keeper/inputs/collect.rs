//! The failed records of an input, put together into a file of their own once all are over.
//!
//! Must not know: why they failed, on which thread it runs.
//!
//! Invariants
//! - The file is durable before the outcome that sends it to `error/`.
//! - On a full disk a large one is tried again after ever longer: each try reads the input, and writes all that there
//!   is room for.
//! - It is made only of the input that the records were read from: a changed one is said to be.

use std::io;
use std::path::{Path, PathBuf};

use roaring::RoaringTreemap;

use super::changed;
use crate::config::Records;
use crate::core::records::{InputMark, Progress};
use crate::core::state::{Effect, Event, Millis};
use crate::core::{FailClass, Failure, JobId, Verdict};
use crate::daemon::keeper::{Keeper, KeeperError, Output, Shortage};
use crate::fs::{Filesystem, is_shortage};
use crate::spool::records::{Input, change};
use crate::spool::{Place, Spool};

/// An input of more bytes than this …
const LARGE: u64 = 16 << 20;
/// … waits so long after the first try on a full disk, and twice as long after each further one, up to the second of
/// these, in milliseconds: until then nothing is claimed.
const AGAIN_MS: (Millis, Millis) = (1_000, 30_000);

/// The failed records of an input are to be put into `processing/ID.err`, on another thread.
#[derive(Clone, Debug)]
pub struct Collecting {
    /// The job.
    pub job: JobId,
    /// Its file, below `processing/`.
    path: PathBuf,
    format: Records,
    mark: InputMark,
    failed: RoaringTreemap,
}

/// Why failed records could not be put together.
#[derive(Debug)]
pub enum CollectError {
    /// The input is not any more what it was.
    Changed(String),
    /// A system call failed.
    Io(io::Error),
}

impl Collecting {
    /// Does it: the file is durable under its name in `processing/` when this returns its inode.
    pub fn run<F: Filesystem>(&self, spool: &Spool<F>) -> Result<u64, CollectError> {
        // What is no file any more that can be read is a worker's doing, and no reason to end.
        let opened = Input::open(spool, &self.path, self.format);
        let (mut input, _) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CollectError::Changed("it is gone".to_owned()),
            io::ErrorKind::Interrupted => CollectError::Io(error),
            _ if is_shortage(&error) => CollectError::Io(error),
            _ => CollectError::Changed(format!("it cannot be read: {error}")),
        })?;
        if let Some(how) = change(&self.mark, &input.mark()) {
            return Err(CollectError::Changed(how));
        }
        let name = Place::Failed(self.job).name();
        let name = Path::new(&name);
        let mut made = || -> io::Result<(u64, u64)> {
            let (fs, dir) = (&spool.fs, &spool.processing);
            match fs.remove_file(dir, name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = fs.create(dir, name, 0o640)?;
            let count = input.copy(&file, &|no| self.failed.contains(no))?;
            // Durable after both: the failed records, before the outcome that sends them to error/.
            fs.sync_file(&file)?;
            fs.sync_dir(dir)?;
            Ok((fs.stat_file(&file)?.ino, count))
        };
        let (ino, count) = made().map_err(|error| {
            // What is left of a full disk is for the others; a failure is met again by the next try.
            spool.fs.remove_file(&spool.processing, name).unwrap_or(());
            match error.kind() {
                io::ErrorKind::UnexpectedEof => CollectError::Changed(error.to_string()),
                _ => CollectError::Io(error),
            }
        })?;
        match input.change().map_err(CollectError::Io)? {
            Some(how) => Err(CollectError::Changed(how)),
            None if count != self.failed.len() => {
                Err(CollectError::Changed("its records are other ones".to_owned()))
            }
            None => Ok(ino),
        }
    }
}

impl<F: Filesystem> Keeper<F> {
    /// All records of a job are over: their failed ones are put together on another thread.
    pub(in crate::daemon::keeper) fn collect(&mut self, job: JobId, now: Millis) {
        let (Some(info), Some(input)) = (self.jobs.get(&job), self.inputs.get(&job)) else {
            return;
        };
        // A clock that is set back makes no wait longer.
        if (1..=AGAIN_MS.1).contains(&input.collect_at.saturating_sub(now)) {
            self.deferred.push_back(Effect::Collect { job });
            return;
        }
        let claimed = info.claimed(job);
        let path = Path::new(&Place::Job(claimed).name()).join(info.rel.as_path());
        let progress = self.core.progress(job);
        let failed = progress.map_or_else(RoaringTreemap::new, Progress::failed_set);
        let collecting = Collecting { job, path, format: input.format, mark: input.mark, failed };
        self.out.push(Output::Collect(Box::new(collecting)));
    }

    /// What came of [`Output::Collect`].
    pub(in crate::daemon::keeper) fn collected(
        &mut self,
        job: JobId,
        result: Result<u64, CollectError>,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let verdict = match result {
            Ok(ino) => {
                if let Some(info) = self.inputs.get_mut(&job) {
                    info.collected = ino;
                }
                Verdict::Done
            }
            Err(CollectError::Changed(how)) => {
                Verdict::Failed(Failure::new(FailClass::Permanent, changed(&how)))
            }
            Err(CollectError::Io(error)) if is_shortage(&error) => {
                if let Some(input) = self.inputs.get_mut(&job).filter(|it| it.mark.size > LARGE) {
                    let (first, most) = AGAIN_MS;
                    input.collect_wait = input.collect_wait.saturating_mul(2).clamp(first, most);
                    input.collect_at = now.saturating_add(input.collect_wait);
                }
                self.deferred.push_back(Effect::Collect { job });
                return self.is_short(Shortage::of(&error), now);
            }
            Err(CollectError::Io(source)) => {
                let what = format!("put the failed records of {job} together in processing/");
                return Err(KeeperError::Spool { what, source });
            }
        };
        self.step(Event::Ended { job, verdict }, now)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::fs::RealFs;
    use crate::fs::faults::{Faults, Op, Then};
    use crate::spool::Claimed;

    /// Goal: failed records that do not fit the disk leave what there is to the others. Method: room for a half of
    /// them, then for all.
    #[test]
    fn half_of_the_failed_records_does_not_fill_the_disk() {
        let home = tempfile::tempdir().unwrap();
        let fs = Faults::new(RealFs);
        let spool = Spool::open(fs.clone(), RealFs.open_root(home.path()).unwrap()).unwrap();
        let job = JobId::MIN;
        let path = Path::new(&Place::Job(Claimed::file(job, 1)).name()).join("x");
        let (processing, format) = (home.path().join("processing"), Records::Lines);
        std::fs::create_dir(processing.join(path.parent().unwrap())).unwrap();
        std::fs::write(processing.join(&path), "a\nb\n").unwrap();
        let mark = Input::open(&spool, &path, format).unwrap().0.mark();
        let collecting = Collecting { job, path, format, mark, failed: [2].into_iter().collect() };
        let made = processing.join(Place::Failed(job).name());
        fs.arm_for(|op| op == Op::WriteAt, 1, Errno::NOSPC, Then::Works);
        let collected = collecting.run(&spool);
        assert!(matches!(collected, Err(CollectError::Io(_))) && !made.exists(), "{collected:?}");
        collecting.run(&spool).unwrap();
        assert_eq!(std::fs::read(made).unwrap(), b"b\n");
    }
}
