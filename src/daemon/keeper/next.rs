//! `next`: the files that a job made become jobs of another route.
//!
//! Must not know: how a file is moved.
//!
//! They are jobs from the line on that records their maker's outcome, which names them and their
//! ids: so they come once, whatever happens after it, and not at all if it is never written. While that
//! line lives in the journal, recovery makes the moves again; when it is dropped, each of them has its own
//! `Take` at the head of the next segment, or its outcome.

use super::{JobInfo, Keeper, KeeperError};
use crate::config::{Route, limits};
use crate::core::state::{Event, Millis, Recovered};
use crate::core::{RelPath, Spent};
use crate::fs::Filesystem;
use crate::journal::record::{FileMark, Handed, Next, Outcome, Rel, Take};
use crate::spool::hand_over::Unfit;
use crate::spool::{Claimed, Place, Shape};

impl<F: Filesystem> Keeper<F> {
    /// Which jobs the made files of a done job become. The inner error is why the job has failed.
    pub(super) fn plan_next(
        &mut self,
        route: &Route,
        claimed: Claimed,
        rel: &RelPath,
        now: Millis,
    ) -> Result<Result<Option<Next>, String>, KeeperError> {
        let Some(next) = &route.next else { return Ok(Ok(None)) };
        let most = (limits::NEXT_FILES, limits::NEXT_BYTES);
        let files = self
            .spool
            .made_files(claimed, rel, most)
            .map_err(KeeperError::spool("list the made files in processing/"))?;
        let files = match files {
            Ok(files) => files,
            Err(Unfit::Many) => {
                return Ok(Err(format!(
                    "it made more than {} files, or of longer paths than {} bytes in all: too much \
                     for `next`",
                    most.0, most.1
                )));
            }
            Err(Unfit::Long(made)) => {
                return Ok(Err(format!("it made {made}, whose path is too long for `next`")));
            }
            Err(Unfit::Foreign(made)) => {
                return Ok(Err(format!(
                    "it made {made} in a folder of another user, who alone may move it on with `next`"
                )));
            }
            Err(Unfit::Fixed(made)) => {
                return Ok(Err(format!(
                    "it made {made} immutable or append-only, or its folder: nobody may move it on with `next`"
                )));
            }
        };
        let handed =
            |(made, rel)| Handed { job: self.next_id(now), made: Rel(made), rel: Rel(rel) };
        let files: Vec<Handed> = files.into_iter().map(handed).collect();
        Ok(Ok((!files.is_empty()).then(|| Next { route: next.clone(), files })))
    }

    /// The files are moved: they are jobs.
    pub(super) fn hand_on(&mut self, outcome: &Outcome, now: Millis) -> Result<(), KeeperError> {
        let Some(next) = &outcome.next else { return Ok(()) };
        for file in &next.files {
            let claimed = Claimed::file(file.job, 0);
            let path = Place::Job(claimed).name();
            let path = std::path::Path::new(&path).join(file.rel.0.as_path());
            if self.jobs.contains_key(&file.job) {
                // Handed on before a shortage of something, for which it is tried again.
                continue;
            }
            let stat = match self.spool.fs.stat(&self.spool.processing, &path) {
                // Someone tidied up in processing/, and an empty folder is no job.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(KeeperError::spool("read processing/"))?,
            };
            let take = take_of(next, file);
            let place = self.place_of_job(claimed, &file.rel.0, Some(&take));
            let info = JobInfo {
                rel: file.rel.0.clone(),
                route: place.unwrap_or(usize::MAX),
                begun: 0,
                shape: Shape::File,
                mark: FileMark {
                    ino: stat.ino,
                    btime_ns: stat.btime_ns,
                    before_ns: stat.ctime_ns,
                    after_ns: stat.ctime_ns,
                },
                take: Some(take),
                attempt: None,
                ended: None,
                begun_as: None,
            };
            let found = Recovered {
                job: file.job,
                route: place,
                begun: 0,
                ended: 0,
                spent: Spent::default(),
                not_before: 0,
                incomplete_since: None,
                records: None,
            };
            self.jobs.insert(file.job, info);
            self.step(Event::Recovered(found), now)?;
        }
        Ok(())
    }

    /// The place of the route of that name, if the settings have one.
    pub(super) fn place_named(&self, name: &str) -> Option<usize> {
        let is_it = |at: &&usize| self.routes.get(**at).is_some_and(|route| route.name == name);
        self.places.iter().find(is_it).copied()
    }

    /// The route of a claimed job: the one it was handed to while there is one of that name, else what its
    /// name and content say.
    pub(in crate::daemon) fn place_of_job(
        &self,
        claimed: Claimed,
        rel: &RelPath,
        take: Option<&Take>,
    ) -> Option<usize> {
        match take.and_then(|take| take.route.as_ref()) {
            Some(name) if self.place_named(name).is_some() => self.place_named(name),
            _ => self.place_of_claimed(claimed, rel),
        }
    }
}

/// What the journal repeats of such a job once the line of its maker is gone.
pub(in crate::daemon) fn take_of(next: &Next, file: &Handed) -> Take {
    Take { job: file.job, source: None, rel: file.rel.clone(), route: Some(next.route.clone()) }
}
