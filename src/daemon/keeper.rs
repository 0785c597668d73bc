//! The keeper: one owner of spool, journal and results. Every rename, journal write and sync is its.
//!
//! It carries out what the core decides, and tells the core what came of it. It runs on one plain
//! thread (`run` in this folder) and is driven here by plain calls, so that a test can stop the
//! world at each durable operation.
//!
//! Must not know: threads, channels, tokio, the clock (time is passed in), how a worker runs.
//!
//! Invariants
//! - An outcome is applied to the CSVs and settled only after the commit that made it durable.
//! - Outcomes are applied in the order in which they were appended.
//! - A free slot gets its next job before the commit of the last one: the disk never idles the pool.
//! - A journal segment is dropped only after all that it records was applied and settled, and a sync
//!   of the whole filesystem that began after that has returned.
//! - ENOSPC stops claims and waits, nothing else. Any other failure of a durable step is returned as
//!   [`KeeperError`] and never tried again: the daemon ends with 1 and recovery starts over.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::limits;
use crate::config::{GlobError, Route, RouteTable, Settings, Worker};
use crate::core::backoff::Backoff;
use crate::core::pace::PaceRules;
use crate::core::records::Past;
use crate::core::state::{
    Candidate, Core, Counts, Effect, Event, Limits, Millis, RecordLimits, Recovered, RouteRules,
};
use crate::core::{JobId, RelPath, Spent};
use crate::fs::{FileType, Filesystem};
use crate::journal::record::{Attempt, FileMark, Outcome, Record, Rel, SourceKey, Take};
use crate::journal::{CommitError, EncodeError, JournalError, Sources, Writer};
use crate::results::{Results, ResultsError};
use crate::spool::folders::Folders;
use crate::spool::scan::{Scan, Sighting, Unreadable};
use crate::spool::settle::Settling;
use crate::spool::{Claimed, Place, Shape, Spool};
use crate::worker::records::Lot;
use crate::worker::{Ended, Task};

use super::notice::Notice;
use super::service::{Found, Wanted};
use super::sight::Waits;

mod checkpoint;
mod commit;
mod effects;
pub(super) mod inputs;
pub(super) mod next;
mod outcome;
mod reconfigure;
mod sort;
#[cfg(test)]
pub(in crate::daemon) mod tests;

/// What the outside tells the keeper.
#[derive(Debug)]
pub enum Input {
    /// A worker's attempt ended.
    Ended {
        /// The job.
        job: JobId,
        /// How, and what it printed.
        ended: Ended,
    },
    /// A slot is done with a record of a job.
    RecordEnded {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// How, and what it printed.
        ended: Ended,
        /// And the slot with the lot that it was given.
        is_last: bool,
    },
    /// What [`Output::Collect`] made: the inode of the file.
    Collected {
        /// The job.
        job: JobId,
        /// Or why it could not.
        result: Result<u64, inputs::CollectError>,
    },
    /// What [`Output::Compare`] found.
    Compared {
        /// As it was given.
        task: Task,
        /// It is the file of that name in `done/`.
        is_same: bool,
    },
    /// A source's copy stands, durable, in `processing/ID.in/REL`.
    Staged(Staged),
    /// A segment's checkpoint: the sync of the filesystem asked for by [`Output::Sync`] returned.
    Synced {
        /// Segments below this one may go.
        before: u64,
    },
    /// No more starts, no more claims.
    Drain,
    /// A paused route is tried again.
    Resume {
        /// Its name.
        route: String,
    },
    /// Claims may go on, or wait: free disk.
    Claims {
        /// Whether they may.
        allowed: bool,
    },
    /// Starts may go on, or wait, and claims with them: free memory.
    Starts {
        /// Whether they may.
        allowed: bool,
    },
}

/// A source of `batch`, copied in.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The id that [`Keeper::next_id`] gave.
    pub job: JobId,
    /// Path below the source folder.
    pub rel: RelPath,
    /// Which source; `None`: it was handed in (`submit`) and is no source of `batch`.
    pub source: Option<SourceKey>,
}

/// What the keeper asks of the outside.
#[derive(Debug)]
pub enum Output {
    /// Give this to a slot; one is free.
    Start(Task),
    /// Give these records to a slot, one after the other; one is free.
    StartRecords(Box<(Task, Lot)>),
    /// Put failed records together on another thread, then say [`Input::Collected`].
    Collect(Box<inputs::Collecting>),
    /// Compare the task's file with the one of its name in `done/`, then say [`Input::Compared`].
    Compare(Task),
    /// Something that people or logs may want to know.
    Notice(Notice),
    /// Sync the filesystem on another thread, then say [`Input::Synced`].
    Sync {
        /// To be given back.
        before: u64,
    },
}

/// The daemon cannot keep its promise any longer.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The journal said no.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A commit failed for good.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A record does not fit into a journal line.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A CSV.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// A glob that the settings' check let pass: our bug.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// A move, or a folder of ours.
    #[error("cannot {what}: {source}")]
    Spool {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl KeeperError {
    /// Waiting may help.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Results(ResultsError::Full { .. }) | Self::Commit(CommitError::Full { .. }) => {
                true
            }
            Self::Spool { source, .. } => is_shortage(source),
            _ => false,
        }
    }

    /// The keeper's thread ended without a word: our bug.
    pub(super) fn gone() -> Self {
        let source = io::Error::other("the keeper's thread ended without a word");
        Self::Spool { what: "go on".to_owned(), source }
    }

    pub(super) fn spool(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Spool { what: what.into(), source }
    }
}

/// What the keeper knows of a claimed job besides what the core does.
#[derive(Clone, Debug)]
pub(super) struct JobInfo {
    pub(super) rel: RelPath,
    pub(super) route: usize,
    /// Attempts begun, as the folder's name says now.
    pub(super) begun: u32,
    /// What the job is.
    pub(super) shape: Shape,
    pub(super) mark: FileMark,
    /// How it was handed in, if it was; repeated at the head of the next journal segment.
    pub(super) take: Option<Take>,
    /// Its last `Attempt` line, repeated at the head of the next journal segment.
    pub(super) attempt: Option<Attempt>,
    /// What the last attempt printed and gave.
    pub(super) ended: Option<Ended>,
    /// Its route as it was when the last attempt began: a reload may have changed it since.
    pub(super) begun_as: Option<Arc<Route>>,
}

impl JobInfo {
    /// The folder that its file stands in, in `processing/`.
    pub(super) fn claimed(&self, job: JobId) -> Claimed {
        Claimed { job, begun: self.begun, shape: self.shape }
    }

    /// As the core is told of a job that was claimed before.
    pub(super) fn recovered(
        &self,
        job: JobId,
        route: Option<usize>,
        records: Option<Past>,
    ) -> Recovered {
        let attempt = self.attempt.as_ref();
        let ended = attempt.map_or(0, |attempt| attempt.attempt);
        Recovered {
            job,
            route,
            // A power cut may undo the rename of an attempt whose end is recorded.
            begun: self.begun.max(ended),
            ended,
            spent: attempt.map_or_else(Spent::default, |attempt| attempt.spent),
            not_before: attempt.map_or(0, |attempt| attempt.not_before_ms),
            incomplete_since: attempt.and_then(|attempt| attempt.incomplete_since_ms),
            records,
        }
    }
}

/// See the module.
pub struct Keeper<F: Filesystem> {
    pub(super) spool: Spool<F>,
    pub(super) journal: Writer<F>,
    pub(super) results: Results<F>,
    pub(super) sources: Sources<F>,
    pub(super) core: Core,
    /// By the core's index. Also routes that a reload removed, as long as a job has them.
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) table: RouteTable,
    /// Where in `routes` those of `table` are.
    places: Vec<usize>,
    /// Where in `routes` names wait whose route their content decides.
    pub(super) sorting: usize,
    /// How much may be read for that before other messages have their turn, in bytes.
    may_read: usize,
    /// How long a file waits that fits no route, in milliseconds.
    pub(super) patience: Millis,
    pub(super) jobs: HashMap<JobId, JobInfo>,
    /// Those whose records are tasks of their own.
    pub(super) inputs: inputs::Inputs<F>,
    record_counts: inputs::RecordCounts,
    pub(super) folders: Folders<F::Dir>,
    pub(super) last_id: JobId,
    /// Outcomes of an earlier boot whose file may stand in `incoming/` again, by inode.
    pub(super) reappearing: HashMap<u64, Outcome>,
    /// Absolute path of the spool, for tasks.
    pub(super) path: PathBuf,
    /// Sources recorded since the last run of the index was written.
    pub(super) new_sources: Vec<SourceKey>,
    pub(super) scan: Option<Scan<F>>,
    /// Appended to the journal and not durable yet, in order.
    pending: Vec<Record>,
    /// Written, its fsync under way, in order; before all of `pending`.
    committing: Vec<Record>,
    /// Durable and not settled yet, in order; the first `applied` of them are in the CSVs.
    durable: VecDeque<Record>,
    applied: usize,
    /// Outcomes that could not even be planned on a full disk.
    deferred: Vec<Effect>,
    /// Jobs whose rows are in a file of their own, since the journal segment began.
    rows_files: Vec<JobId>,
    /// Those of the segments that the running checkpoint drops.
    dropping: Vec<JobId>,
    /// When the oldest of them was appended.
    pending_since: Option<Millis>,
    /// The disk is full since.
    full_since: Option<Millis>,
    /// A checkpoint was asked for and its sync has not returned.
    checkpointing: bool,
    /// Someone waits for a checkpoint.
    asks_checkpoint: bool,
    /// When the last checkpoint whose sync has returned began, and one that may be under way.
    checkpointed: Option<Millis>,
    checkpoint_began: Millis,
    /// Something was recorded since the journal segment began.
    has_news: bool,
    /// A CSV segment was sealed: people may take it away, so a checkpoint should follow soon.
    sealed: bool,
    effects: VecDeque<Effect>,
    /// See [`Keeper::hurry_starts`].
    hurries: bool,
    pub(super) out: Vec<Output>,
    random: fn() -> [u8; 10],
    pub(super) draining: bool,
    /// What a pass of the scan saw.
    pub(super) seen: ScanCounts,
    /// What is remembered of names that may not be claimed yet.
    pub(super) waits: Waits,
}

/// What the last whole pass over `incoming/` saw.
#[derive(Clone, Debug, Default)]
pub struct ScanCounts {
    /// Files offered to the core.
    pub offered: u64,
    /// Files no route takes.
    pub unrouted: u64,
    /// One of them.
    pub unrouted_example: Option<RelPath>,
    /// Sentinels and companions whose file is not there, and has not been for a while.
    pub lone_sentinels: u64,
    /// One of them.
    pub lone_example: Option<RelPath>,
    /// Companions whose file was looked for in their folder.
    pub(super) searched: usize,
    /// Folders that could not be read.
    pub unreadable: Vec<String>,
}

/// Jobs in the line before so many slots.
fn ahead(slots: usize) -> usize {
    slots.saturating_mul(limits::AHEAD_OF_SLOT).min(limits::MOST_AHEAD)
}

/// Job folders that are kept open.
fn open_folders(settings: &Settings) -> usize {
    let starts = |route: &Route| matches!(route.worker, Worker::Command { .. });
    let has_commands = settings.routes.iter().any(starts);
    if has_commands { limits::OPEN_JOB_FOLDERS_OF_COMMANDS } else { limits::OPEN_JOB_FOLDERS }
}

/// Settings in the core's terms.
pub fn rules(route: &Route) -> RouteRules {
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    RouteRules {
        retries: route.retries,
        retry_on: route.retry_on.clone(),
        backoff: Backoff {
            try_again_ms: route.try_again_after.iter().map(ms).collect(),
            first_ms: ms(&route.waits.first),
            longest_ms: ms(&route.waits.longest),
            jitter_percent: route.waits.jitter_percent,
        },
        pace: PaceRules {
            rate: route.rate,
            crashes: Some(route.pause_after_crashes).filter(|count| *count > 0),
        },
        max_running: route.max_workers.unwrap_or(usize::MAX),
        priority: route.priority,
        pause_after_failures: route.pause_after_failures,
        records: route.records.is_some(),
    }
}

/// What [`Keeper::assemble`] puts together; recovery makes it.
pub(super) struct Parts<F: Filesystem> {
    pub(super) spool: Spool<F>,
    pub(super) journal: Writer<F>,
    pub(super) results: Results<F>,
    pub(super) sources: Sources<F>,
    pub(super) last_id: JobId,
    pub(super) reappearing: HashMap<u64, Outcome>,
    pub(super) path: PathBuf,
    pub(super) new_sources: Vec<SourceKey>,
    pub(super) rows_files: Vec<JobId>,
    pub(super) random: fn() -> [u8; 10],
}

impl<F: Filesystem> Keeper<F> {
    pub(super) fn assemble(settings: &Settings, parts: Parts<F>) -> Result<Self, KeeperError> {
        let ahead = ahead(settings.workers);
        let core_limits = Limits {
            slots: settings.workers,
            ahead,
            window: limits::WINDOW,
            waiting: limits::WAITING_JOBS,
            incomplete_for: u64::try_from(limits::INCOMPLETE_FOR.as_millis()).unwrap_or(u64::MAX),
            records: RecordLimits {
                inputs: limits::OPEN_INPUTS,
                window: limits::OPEN_RECORDS,
                lot_us: u64::try_from(limits::LOT_TIME.as_micros()).unwrap_or(u64::MAX),
                lot_most: limits::LOT_RECORDS,
            },
        };
        let core_rules = settings.routes.iter().map(rules).chain([sort::rules(&settings.routes)]);
        let routes = settings.routes.iter().cloned().chain([sort::no_route()]);
        // As many as a group of records frees at once, and what the next ones, filled meanwhile, need.
        let mut folders = Folders::new(4 * limits::COMMIT_RECORDS + settings.workers + ahead);
        folders.keep_open(open_folders(settings));
        Ok(Self {
            core: Core::new(core_limits, core_rules.collect()),
            routes: routes.map(Arc::new).collect(),
            sorting: settings.routes.len(),
            may_read: limits::FIELDS_READ,
            patience: 0,
            table: RouteTable::new(settings)?,
            places: (0..settings.routes.len()).collect(),
            jobs: HashMap::new(),
            inputs: HashMap::new(),
            record_counts: inputs::RecordCounts::default(),
            folders,
            spool: parts.spool,
            journal: parts.journal,
            results: parts.results,
            sources: parts.sources,
            last_id: parts.last_id,
            reappearing: parts.reappearing,
            path: parts.path,
            new_sources: parts.new_sources,
            random: parts.random,
            scan: None,
            pending: Vec::new(),
            committing: Vec::new(),
            durable: VecDeque::new(),
            applied: 0,
            deferred: Vec::new(),
            rows_files: parts.rows_files,
            dropping: Vec::new(),
            pending_since: None,
            full_since: None,
            checkpointing: false,
            asks_checkpoint: false,
            checkpointed: None,
            checkpoint_began: 0,
            has_news: true,
            sealed: false,
            effects: VecDeque::new(),
            hurries: false,
            out: Vec::new(),
            draining: false,
            seen: ScanCounts::default(),
            waits: Waits::new(settings.prune),
        })
    }

    /// Puts a job that recovery found under the core's eyes.
    pub(super) fn adopt(
        &mut self,
        found: Recovered,
        info: JobInfo,
        now: Millis,
    ) -> Result<(), KeeperError> {
        self.waits.adopted(found.job, &info);
        self.jobs.insert(found.job, info);
        self.step(Event::Recovered(found), now)
    }

    /// A new id, above all before it.
    pub fn next_id(&mut self, now: Millis) -> JobId {
        self.last_id = JobId::next(self.last_id, now, (self.random)());
        self.last_id
    }

    /// What is to be done outside, since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// How many of each.
    pub fn counts(&self) -> Counts {
        self.core.counts()
    }

    /// How many files each route has, waiting and running, by its name.
    pub fn loads(&self) -> std::collections::BTreeMap<String, super::service::RouteLoad> {
        let of = |at: &usize| {
            let (waiting, running) = self.core.load(*at);
            (self.route_name(*at), super::service::RouteLoad { waiting, running })
        };
        self.places.iter().map(of).collect()
    }

    /// Whether a slot has a job.
    pub fn is_busy(&self) -> bool {
        self.core.running() > 0
    }

    /// Nothing that is known in `incoming/` could be claimed now.
    pub fn is_dry(&self) -> bool {
        self.core.is_dry()
    }

    /// Names were offered, or time has passed: starts what may be started.
    pub fn start_more(&mut self, now: Millis) -> Result<(), KeeperError> {
        self.step(Event::Tick, now)
    }

    /// What the last whole pass over `incoming/` saw.
    pub fn seen(&self) -> &ScanCounts {
        &self.seen
    }

    /// When the oldest name in the window came into `incoming/` or changed there, in Unix milliseconds.
    pub fn oldest_ms(&self) -> Option<Millis> {
        let ns = u64::try_from(self.core.oldest()?).ok()?;
        Some(ns / 1_000_000)
    }

    /// Claimed jobs that no slot has and no record waits for.
    pub fn idle_jobs(&self) -> usize {
        self.jobs.len().saturating_sub(self.core.running())
    }

    /// Whether sources may become jobs now.
    pub fn may_take(&self) -> bool {
        self.core.may_claim()
    }

    /// Sources recorded or taken whose keys are not in the index on disk yet.
    pub fn recent_sources(&self) -> std::collections::HashSet<SourceKey> {
        let taken = self.jobs.values().filter_map(|info| info.take.as_ref()?.source);
        self.new_sources.iter().copied().chain(taken).collect()
    }

    /// Whether the scan should read on: the window has room for a good part of it.
    pub fn wants_names(&self) -> bool {
        !self.draining && self.core.room() > limits::WINDOW / 2
    }

    /// Whether anything was recorded since the journal segment began.
    pub fn has_news(&self) -> bool {
        self.has_news || !self.new_sources.is_empty()
    }

    /// A checkpoint's sync has not returned.
    pub fn is_checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// What a thread needs that syncs for a checkpoint.
    pub fn sync_handle(&self) -> (F, F::Dir) {
        (self.spool.fs.clone(), self.spool.root.clone())
    }

    /// When a route's program was last changed, to see that it was mended.
    pub fn program_time(&self, route: &str) -> Option<std::time::SystemTime> {
        let route = self.routes.iter().find(|known| known.name == route)?;
        crate::worker::program_time(route, &self.path)
    }

    /// Free and total bytes of the spool's filesystem.
    pub fn free_disk(&self) -> Option<(u64, u64)> {
        crate::fs::real::free_space(&self.path).ok()
    }

    /// Whether empty folders of `incoming/` are removed, from now on.
    pub fn set_prunes(&mut self, prunes: bool) {
        self.waits.set_prunes(prunes);
    }

    /// Known files that wait for a route.
    pub fn waiting_for(&self, route: &str) -> usize {
        let route = self.routes.iter().position(|known| known.name == route);
        route.map_or(0, |route| self.core.waiting_for(route))
    }

    /// Whether a slot has the job of this id, as text.
    pub fn is_running(&self, job: &[u8]) -> bool {
        let job = std::str::from_utf8(job).ok().and_then(|text| text.parse().ok());
        job.is_some_and(|job| self.core.is_running(job))
    }

    /// What is known of a job that is on its way.
    pub fn find(&self, wanted: &Wanted, now: Millis) -> Option<Found> {
        let (job, info) = match wanted {
            Wanted::Job(job) => (job, self.jobs.get(job)?),
            Wanted::Rel(rel) => self.jobs.iter().find(|(_, info)| info.rel == *rel)?,
        };
        let (state, at) = self.core.describe(*job)?;
        Some(Found {
            job: *job,
            rel: info.rel.to_string(),
            route: self.route_name(info.route),
            state: self.waits.state_of(*job).unwrap_or(state).to_owned(),
            attempt: info.begun,
            reason: info.attempt.as_ref().map(|attempt| attempt.reason.clone()),
            wait_ms: at.map(|at| at.saturating_sub(now)),
            records: self.records_found(*job),
        })
    }

    /// Takes one message in. Work that must become durable waits for [`Keeper::commit`].
    pub fn handle(&mut self, input: Input, now: Millis) -> Result<(), KeeperError> {
        match input {
            Input::Ended { job, ended } => {
                let verdict = ended.verdict.clone();
                if let Some(info) = self.jobs.get_mut(&job) {
                    info.ended = Some(ended);
                }
                self.step(Event::Ended { job, verdict }, now)
            }
            Input::Compared { task, is_same: true } => {
                let ended = super::repeat::skipped(&task.rel);
                self.handle(Input::Ended { job: task.job, ended }, now)
            }
            Input::RecordEnded { job, no, ended, is_last } => {
                self.record_ended(job, no, ended, is_last, now)
            }
            Input::Collected { job, result } => self.collected(job, result, now),
            Input::Compared { task, is_same: false } => self.begin(task, now),
            Input::Staged(staged) => {
                let Some(route) = self.place_of(&staged.rel) else {
                    return self.refuse(&staged, format!("no route takes {}", staged.rel));
                };
                if self.table.has_companions(&staged.rel) {
                    let rel = &staged.rel;
                    let reason = format!("{rel} comes with others: move them into incoming/");
                    return self.refuse(&staged, reason);
                }
                // Who speaks on the socket may be wrong, and a `Take` without its copy would end us.
                if staged.source.is_none() && !self.is_staged(&staged) {
                    let reason = format!("there is no copy of {} in processing/", staged.rel);
                    self.out.push(Output::Notice(Notice::TakeRefused { job: staged.job, reason }));
                    return Ok(());
                }
                self.last_id = self.last_id.max(staged.job);
                let take = Take {
                    job: staged.job,
                    source: staged.source,
                    rel: Rel(staged.rel.clone()),
                    route: None,
                };
                let info = JobInfo {
                    rel: staged.rel,
                    route,
                    begun: 0,
                    shape: Shape::File,
                    mark: FileMark::default(),
                    take: Some(take.clone()),
                    attempt: None,
                    ended: None,
                    begun_as: None,
                };
                self.jobs.insert(staged.job, info);
                self.append(Record::Take(take), now)
            }
            Input::Synced { before } => {
                self.checkpointing = false;
                self.checkpointed = Some(self.checkpoint_began);
                let jobs = std::mem::take(&mut self.dropping);
                Ok(self.journal.drop_before(before, &jobs)?)
            }
            Input::Drain => {
                self.draining = true;
                self.scan = None;
                self.step(Event::Drain, now)
            }
            Input::Resume { route } => {
                match self.routes.iter().position(|known| known.name == route) {
                    Some(route) => self.step(Event::Resume { route }, now),
                    None => Ok(()),
                }
            }
            Input::Starts { allowed } => self.step(Event::Starts { allowed }, now),
            Input::Claims { allowed } => {
                self.step(Event::Claims { allowed: allowed && self.full_since.is_none() }, now)
            }
        }
    }

    /// Lets time pass: waits that are over, a full disk that may have room again.
    pub fn tick(&mut self, now: Millis) -> Result<(), KeeperError> {
        if self.full_since.is_some() {
            for effect in std::mem::take(&mut self.deferred) {
                self.carry_out(effect, now)?;
            }
            self.settle(usize::MAX, now)?;
            if self.is_recorded() && self.durable.is_empty() && self.deferred.is_empty() {
                self.disk_has_room(now)?;
            }
        }
        self.write_left_over(now)?;
        self.step(Event::Tick, now)
    }

    /// Its copy stands under its staging name, and it is no job yet.
    fn is_staged(&self, staged: &Staged) -> bool {
        let path = PathBuf::from(Place::Staging(staged.job).name()).join(staged.rel.as_path());
        let stat = self.spool.fs.stat(&self.spool.processing, &path);
        !self.jobs.contains_key(&staged.job)
            && stat.is_ok_and(|stat| stat.file_type == FileType::File)
    }

    /// The copy goes, its source stands where it was.
    fn refuse(&mut self, staged: &Staged, reason: String) -> Result<(), KeeperError> {
        let name = Place::Staging(staged.job).name();
        crate::fs::remove_tree(&self.spool.fs, &self.spool.processing, name.as_ref())
            .map_err(KeeperError::spool(format!("remove processing/{name}")))?;
        self.out.push(Output::Notice(Notice::TakeRefused { job: staged.job, reason }));
        Ok(())
    }

    /// The route by which a job's last attempt was run.
    fn attempted_as<'a>(&'a self, info: &'a JobInfo) -> Option<&'a Arc<Route>> {
        info.begun_as.as_ref().or_else(|| self.routes.get(info.route))
    }

    fn route_name(&self, route: usize) -> String {
        self.routes.get(route).map_or_else(String::new, |route| route.name.clone())
    }

    /// Reads on in `incoming/` while there is room in the window. `true`: a pass has just ended.
    ///
    /// `most` bounds the entries looked at, so that messages do not wait for a large folder.
    pub fn scan(&mut self, most: usize, now: Millis) -> Result<bool, KeeperError> {
        self.scan_entering(most, &mut |_| true, now)
    }

    /// The same; `enters` is asked before a folder is entered.
    pub(super) fn scan_entering(
        &mut self,
        most: usize,
        enters: &mut dyn FnMut(&RelPath) -> bool,
        now: Millis,
    ) -> Result<bool, KeeperError> {
        let mut scan = self.scan.take().unwrap_or_else(|| {
            self.seen = ScanCounts::default();
            self.waits.unrouted.clear();
            Scan::begin(&self.spool)
        });
        let over = self.read_on(&mut scan, most, enters, now)?;
        if !over {
            self.scan = Some(scan);
        }
        Ok(over)
    }

    /// A sentinel whose file was never there, or went without it, would wait for ever in silence.
    fn count_lone(&mut self, sentinel: Sighting, file: &RelPath, now: Millis) {
        let since = u64::try_from(sentinel.stat.ctime_ns / 1_000_000).unwrap_or(u64::MAX);
        let patience = u64::try_from(limits::LONE_SENTINEL.as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(since) < patience {
            return;
        }
        let there = self.spool.fs.stat(&self.spool.incoming, file.as_path());
        if there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.seen.lone_sentinels += 1;
            self.seen.lone_example.get_or_insert(sentinel.rel);
        }
    }

    pub(super) fn sighted(&mut self, sighting: Sighting, now: Millis) {
        let is_folder = sighting.stat.file_type == FileType::Dir;
        if !is_folder && let Some(file) = self.table.announced(&sighting.rel) {
            // A sentinel is looked for when its file is judged.
            self.count_lone(sighting, &file, now);
            return;
        }
        if !is_folder && self.table.companion_of(&sighting.rel).is_some() {
            self.count_lone_companion(sighting, now);
            return;
        }
        let place = if is_folder {
            self.place_of_folder(&sighting.rel)
        } else {
            self.place_of(&sighting.rel)
        };
        match place {
            // It was one job a moment ago, by its type or by the settings: the next pass will see.
            None if is_folder => {}
            None => {
                self.seen.unrouted += 1;
                self.seen.unrouted_example.get_or_insert(sighting.rel);
            }
            Some(route) => {
                if !self.core.holds(&sighting.rel) && !self.core.is_stuck(route) {
                    self.seen.offered += 1;
                }
                let candidate =
                    Candidate { rel: sighting.rel, route, order: sighting.stat.ctime_ns };
                self.core.offer(candidate, now);
            }
        }
    }
}

/// Moves a recorded job's file, with its sidecar and what was made. Also what recovery does.
///
/// `claimed` is the folder that the file stands in; after a power cut it need not be the job's own, and
/// `alone` says that what else is in it may be another job's file.
pub(super) fn settle_outcome<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
    claimed: Claimed,
    alone: bool,
    folders: &mut Folders<F::Dir>,
) -> Result<crate::spool::settle::Settled, KeeperError> {
    let output = settle_made(spool, outcome)?;
    let failed = settle_failed(spool, outcome)?;
    let why = super::notice::sidecar(outcome);
    let (job, rel) = (outcome.job, &outcome.rel.0);
    let settling = Settling { job, claimed, rel, why: why.as_deref(), alone };
    let rel = spool
        .settle(&settling, folders)
        .map_err(KeeperError::spool(format!("settle {} from processing/", outcome.rel.0)))?;
    Ok(crate::spool::settle::Settled { rel, output, failed })
}

/// Moves the failed records of a job that is done; done already is fine.
pub(super) fn settle_failed<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
) -> Result<Option<PathBuf>, KeeperError> {
    let Some(why) = super::notice::records_sidecar(outcome) else { return Ok(None) };
    spool
        .settle_failed(outcome.job, &outcome.rel.0, &why)
        .map_err(KeeperError::spool(format!("settle the failed records of {}", outcome.rel.0)))
}

/// Moves what a recorded job made; done already is fine.
pub(super) fn settle_made<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
) -> Result<Option<PathBuf>, KeeperError> {
    if !outcome.output {
        return Ok(None);
    }
    let claimed = Claimed::file(outcome.job, outcome.attempts);
    if let Some(next) = &outcome.next {
        let hand_over = || -> io::Result<()> {
            for file in &next.files {
                spool.hand_over(claimed, &file.made.0, file.job, &file.rel.0)?;
            }
            spool.clear_handed(claimed)
        };
        hand_over().map_err(KeeperError::spool(format!("hand on what {} made", outcome.rel.0)))?;
    }
    spool
        .settle_output(claimed, &outcome.rel.0)
        .map_err(KeeperError::spool(format!("move what {} made", outcome.rel.0)))
}

pub(super) fn describe_unreadable(it: Unreadable) -> String {
    let rel = it.rel.map_or_else(String::new, |rel| rel.to_string());
    format!("incoming/{rel}: {}", it.error)
}

/// Too little of something that comes back: space, quota, descriptors, memory.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    let shortages =
        [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    errno.is_some_and(|errno| shortages.contains(&errno))
}
