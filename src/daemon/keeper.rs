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

use crate::config::limits;
use crate::config::{GlobError, OnRepeat, Route, RouteTable, Settings};
use crate::core::state::{
    Candidate, Core, Counts, Effect, Event, Limits, Millis, Recovered, RouteRules,
};
use crate::core::{FailClass, Failure, JobId, RelPath, Row, Spent, Verdict};
use crate::fs::{FileType, Filesystem};
use crate::journal::record::{
    Attempt, FileMark, Outcome, PieceBytes, Record, Rel, SourceKey, Take,
};
use crate::journal::{CommitError, EncodeError, Group, JournalError, Sources, Writer};
use crate::results::{CsvSpec, PlanError, Planned, Results, ResultsError};
use crate::spool::claim::{Claim, EmptyFolders};
use crate::spool::scan::{Scan, Sighting, Unreadable};
use crate::spool::settle::Settling;
use crate::spool::{Claimed, Place, Spool};
use crate::worker::{Ended, Task};

use super::notice::{Finished, Notice};
use super::service::{Found, Wanted};
use super::sight::{Judged, Waits};

mod reconfigure;

/// A claim that failed for want of something is tried again after this long, in milliseconds.
const REFUSED_AGAIN_MS: Millis = 10_000;
/// A full disk is looked at again after this long, in milliseconds.
const FULL_AGAIN_MS: Millis = 1_000;
/// Columns of `errors.csv`.
const ERROR_COLUMNS: [&str; 9] =
    ["time", "file", "reason", "route", "record", "job", "attempts", "exit", "signal"];

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

/// What an outcome's record will say, with all that had to be made for it.
struct OutcomePlan {
    before: Vec<Record>,
    csv: Vec<crate::journal::record::Piece>,
    rows: u64,
    failure: Option<Failure>,
    output: bool,
    route: String,
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
    pub(super) jobs: HashMap<JobId, JobInfo>,
    pub(super) empty: EmptyFolders,
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
    /// Folders that could not be read.
    pub unreadable: Vec<String>,
}

/// Claims that wait for a slot, for so many slots.
fn look_ahead(slots: usize) -> usize {
    slots.clamp(2, 64)
}

/// Settings in the core's terms.
pub fn rules(route: &Route) -> RouteRules {
    RouteRules {
        retries: route.retries,
        try_again_ms: route
            .try_again_after
            .iter()
            .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
            .collect(),
        max_running: route.max_workers.unwrap_or(usize::MAX),
        priority: route.priority,
        pause_after_failures: route.pause_after_failures,
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
        let look_ahead = look_ahead(settings.workers);
        let core_limits = Limits {
            slots: settings.workers,
            look_ahead,
            window: limits::WINDOW,
            waiting: limits::WAITING_JOBS,
            incomplete_for: u64::try_from(limits::INCOMPLETE_FOR.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Self {
            core: Core::new(core_limits, settings.routes.iter().map(rules).collect()),
            routes: settings.routes.iter().cloned().map(Arc::new).collect(),
            table: RouteTable::new(settings)?,
            places: (0..settings.routes.len()).collect(),
            jobs: HashMap::new(),
            // As many as a group of records frees at once, and what the next ones, filled meanwhile, need.
            empty: EmptyFolders::new(4 * limits::COMMIT_RECORDS + settings.workers + look_ahead),
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

    /// Whether a slot has a job.
    pub fn is_busy(&self) -> bool {
        self.core.running() > 0
    }

    /// Nothing that is known in `incoming/` could be claimed now.
    pub fn is_dry(&self) -> bool {
        self.core.is_dry()
    }

    /// There is no other work now: claims ahead of the next free slot.
    pub fn look_ahead(&mut self, now: Millis) -> Result<(), KeeperError> {
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
            Input::Compared { task, is_same: false } => {
                self.out.push(Output::Start(task));
                Ok(())
            }
            Input::Staged(staged) => {
                let Some(route) = self.route_of(&staged.rel) else {
                    return self.refuse(&staged, format!("no route takes {}", staged.rel));
                };
                // Who speaks on the socket may be wrong, and a `Take` without its copy would end us.
                if staged.source.is_none() && !self.is_staged(&staged) {
                    let reason = format!("there is no copy of {} in processing/", staged.rel);
                    self.out.push(Output::Notice(Notice::TakeRefused { job: staged.job, reason }));
                    return Ok(());
                }
                self.last_id = self.last_id.max(staged.job);
                let take =
                    Take { job: staged.job, source: staged.source, rel: Rel(staged.rel.clone()) };
                let info = JobInfo {
                    rel: staged.rel,
                    route,
                    begun: 0,
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
        self.step(Event::Tick, now)
    }

    /// The next time at which [`Keeper::tick`] or [`Keeper::commit`] has something to do.
    pub fn next_time(&self) -> Option<Millis> {
        let delay = u64::try_from(limits::COMMIT_DELAY.as_millis()).unwrap_or(0);
        let commit = match self.full_since {
            // Its answer wakes the caller, or `has_durable` says that there is work now.
            _ if self.is_committing() => None,
            Some(_) => self.pending_since.map(|_| Millis::MAX),
            None => self.pending_since.map(|at| at.saturating_add(delay)),
        };
        [self.core.next_timer(), commit].into_iter().flatten().min()
    }

    /// Whether a group is large or old enough to be committed, or nothing else is going on.
    pub fn commit_is_due(&self, now: Millis) -> bool {
        let Some(since) = self.pending_since else { return false };
        if self.is_committing() {
            return false;
        }
        let delay = u64::try_from(limits::COMMIT_DELAY.as_millis()).unwrap_or(0);
        self.pending.len() >= limits::COMMIT_RECORDS
            || self.core.running() == 0
            || now.saturating_sub(since) >= delay
    }

    /// The last group is not durable, or not settled: the next one waits.
    fn is_committing(&self) -> bool {
        !self.committing.is_empty() || !self.durable.is_empty()
    }

    /// Nothing waits for an fsync.
    fn is_recorded(&self) -> bool {
        self.pending.is_empty() && self.committing.is_empty()
    }

    /// Makes everything appended so far durable, then applies and settles it.
    ///
    /// On a full disk nothing is lost and nothing happens; claims stop, and the next call tries again.
    pub fn commit(&mut self, now: Millis) -> Result<(), KeeperError> {
        if !self.pending.is_empty() {
            let Some(group) = self.begin_commit(now)? else { return Ok(()) };
            let synced = group.sync();
            self.end_commit(synced, now)?;
        }
        self.settle(usize::MAX, now)
    }

    /// Writes everything appended so far. The caller syncs the group, on any thread, and gives the
    /// result to [`Keeper::end_commit`]. `None`: there is nothing, or the disk is full.
    pub fn begin_commit(&mut self, now: Millis) -> Result<Option<Group<F>>, KeeperError> {
        let group = match self.journal.begin_commit() {
            Ok(group) => group,
            Err(CommitError::Full { .. }) => return self.disk_is_full(now).map(|()| None),
            Err(error) => return Err(error.into()),
        };
        self.committing.append(&mut self.pending);
        self.pending_since = None;
        Ok(group)
    }

    /// Takes in what the fsync said. What is durable by it is settled by [`Keeper::settle`].
    pub fn end_commit(&mut self, synced: io::Result<()>, now: Millis) -> Result<(), KeeperError> {
        self.journal.end_commit(synced)?;
        // Durable from here: every outcome in the group is final. CSVs and moves may lag;
        // recovery redoes them.
        self.durable.extend(self.committing.drain(..));
        self.settle(0, now)
    }

    /// Something is durable and not settled, and no full disk stands in the way.
    pub fn has_durable(&self) -> bool {
        !self.durable.is_empty() && self.full_since.is_none()
    }

    /// Applies what is durable to the CSVs and settles at most so many jobs, so that a free slot
    /// need not wait for a whole group.
    pub fn settle(&mut self, most: usize, now: Millis) -> Result<(), KeeperError> {
        if self.durable.is_empty() {
            return Ok(());
        }
        if self.applied < self.durable.len() || self.results.has_pending() {
            match self.apply_results(now) {
                Ok(()) => {}
                Err(KeeperError::Results(ResultsError::Full { .. })) => {
                    return self.disk_is_full(now);
                }
                Err(error) => return Err(error),
            }
        }
        for _ in 0..most {
            let Some(record) = self.durable.front().cloned() else { break };
            match self.follow_up(record, now) {
                Ok(()) => {}
                Err(KeeperError::Spool { source, .. }) if is_shortage(&source) => {
                    return self.disk_is_full(now);
                }
                Err(error) => return Err(error),
            }
            self.durable.pop_front();
            self.applied = self.applied.saturating_sub(1);
        }
        if !self.durable.is_empty() {
            return Ok(());
        }
        if self.full_since.is_some() && self.is_recorded() && self.deferred.is_empty() {
            self.disk_has_room(now)?;
        }
        if !self.journal.has_spare() {
            // Without one a full disk only waits sooner; it is tried again after the next commit.
            match self.journal.reserve_spare() {
                Ok(()) | Err(CommitError::Full { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn apply_results(&mut self, now: Millis) -> Result<(), KeeperError> {
        while let Some(record) = self.durable.get(self.applied) {
            self.applied += 1;
            self.results.apply(record)?;
        }
        let touched = self.results.flush()?;
        if touched.is_empty() {
            return Ok(());
        }
        for it in &touched {
            self.out.push(Output::Notice(Notice::CsvTouched { route: it.route.clone() }));
        }
        // What could not be written goes to a new segment, by records of its own.
        let moves = self.results.plan_moves(now)?;
        for record in &moves {
            self.journal.append(record)?;
        }
        self.journal.commit()?;
        for record in &moves {
            self.results.apply(record)?;
        }
        self.results.flush()?;
        Ok(())
    }

    fn disk_has_room(&mut self, now: Millis) -> Result<(), KeeperError> {
        self.full_since = None;
        self.out.push(Output::Notice(Notice::DiskHasRoom));
        self.step(Event::Claims { allowed: true }, now)
    }

    fn disk_is_full(&mut self, now: Millis) -> Result<(), KeeperError> {
        if self.full_since.is_none() {
            self.full_since = Some(now);
            self.out.push(Output::Notice(Notice::DiskFull));
        }
        self.step(Event::Claims { allowed: false }, now)
    }

    /// Whether the disk is full, and how long to wait before the next try, in milliseconds.
    pub fn full_wait(&self) -> Option<Millis> {
        self.full_since.map(|_| FULL_AGAIN_MS)
    }

    /// A record is durable and applied: settle, tell the core, tell the world.
    fn follow_up(&mut self, record: Record, now: Millis) -> Result<(), KeeperError> {
        match record {
            Record::Outcome(outcome) => {
                let job = outcome.job;
                self.settle_job(&outcome)?;
                self.new_sources.extend(outcome.source);
                self.step(Event::Recorded { job }, now)
            }
            Record::Attempt(attempt) => {
                let job = attempt.job;
                self.retry_notice(&attempt, now);
                if let Some(info) = self.jobs.get_mut(&job) {
                    info.attempt = Some(attempt);
                }
                self.step(Event::Recorded { job }, now)
            }
            Record::Take(take) => self.taken(&take, now),
            Record::CsvSeal(_) => {
                self.sealed = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn retry_notice(&mut self, attempt: &Attempt, now: Millis) {
        let Some(info) = self.jobs.get(&attempt.job) else { return };
        self.out.push(Output::Notice(Notice::Retry {
            job: attempt.job,
            rel: info.rel.clone(),
            route: self.route_name(info.route),
            attempt: attempt.attempt,
            incomplete: attempt.incomplete_since_ms.is_some(),
            reason: attempt.reason.clone(),
            wait_ms: attempt.not_before_ms.saturating_sub(now),
        }));
    }

    /// The staged copy becomes a job: S2. Its `Take` is durable, so recovery would do the same.
    fn taken(&mut self, take: &Take, now: Millis) -> Result<(), KeeperError> {
        let Some(info) = self.jobs.get_mut(&take.job) else { return Ok(()) };
        super::recover::unstage(&self.spool, take.job)?;
        info.mark = super::recover::mark_unstaged(&self.spool, take.job, &take.rel.0)?;
        let route = info.route;
        self.out.push(Output::Notice(Notice::Taken { job: take.job }));
        self.step(Event::Taken { job: take.job, route }, now)
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

    fn settle_job(&mut self, outcome: &Outcome) -> Result<(), KeeperError> {
        let Some(info) = self.jobs.get(&outcome.job) else { return Ok(()) };
        let claimed = Claimed { job: outcome.job, begun: info.begun };
        let settled = settle_outcome(&self.spool, outcome, claimed, false, &mut self.empty)?;
        let ended = self.jobs.remove(&outcome.job).and_then(|info| info.ended);
        let (log, stderr) = ended.map_or_else(Default::default, |it| (it.log, it.stderr));
        self.out.push(Output::Notice(Notice::Finished(Box::new(Finished {
            outcome: outcome.clone(),
            settled,
            log,
            stderr,
        }))));
        Ok(())
    }

    fn append(&mut self, record: Record, now: Millis) -> Result<(), KeeperError> {
        self.journal.append(&record)?;
        self.pending.push(record);
        self.has_news = true;
        self.pending_since.get_or_insert(now);
        Ok(())
    }

    /// The index of the route that takes a name.
    fn route_of(&self, rel: &RelPath) -> Option<usize> {
        self.places.get(self.table.find(rel)?).copied()
    }

    /// The route by which a job's last attempt was run.
    fn attempted_as<'a>(&'a self, info: &'a JobInfo) -> Option<&'a Arc<Route>> {
        info.begun_as.as_ref().or_else(|| self.routes.get(info.route))
    }

    fn route_name(&self, route: usize) -> String {
        self.routes.get(route).map_or_else(String::new, |route| route.name.clone())
    }

    pub(super) fn step(&mut self, event: Event, now: Millis) -> Result<(), KeeperError> {
        let mut effects = Vec::new();
        self.core.step(event, now, &mut effects);
        let first = self.effects.is_empty();
        // Starts first: they need nothing of what else one event leads to, and a slot waits for them.
        effects.sort_by_key(|effect| !matches!(effect, Effect::Start { .. }));
        self.effects.extend(effects);
        // An effect's answer is an event whose effects come after those already waiting.
        if first { self.carry_out_all(now) } else { Ok(()) }
    }

    /// From now on a call returns as soon as it has put out an [`Output::Start`], and
    /// [`Keeper::go_on`] does the rest: a slot should not wait for the next claim.
    pub fn hurry_starts(&mut self) {
        self.hurries = true;
    }

    /// Does what the last call left to do. To be called until `false`, with the outputs taken each
    /// time, before anything else.
    pub fn go_on(&mut self, now: Millis) -> Result<bool, KeeperError> {
        if self.effects.is_empty() {
            return Ok(false);
        }
        self.carry_out_all(now)?;
        Ok(true)
    }

    fn carry_out_all(&mut self, now: Millis) -> Result<(), KeeperError> {
        while let Some(effect) = self.effects.front().cloned() {
            let is_start = matches!(effect, Effect::Start { .. });
            self.carry_out(effect, now)?;
            self.effects.pop_front();
            if is_start && self.hurries {
                break;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect, now: Millis) -> Result<(), KeeperError> {
        match effect {
            Effect::Claim { candidate, begin } => self.claim(candidate, begin, now),
            Effect::Start { job, route, attempt, suspect } => {
                self.start(job, route, attempt, suspect, now)
            }
            Effect::RecordAttempt { job, attempt, spent, not_before, incomplete_since, reason } => {
                self.clear_attempt(job, true);
                let record = Attempt {
                    job,
                    attempt,
                    spent,
                    not_before_ms: not_before,
                    incomplete_since_ms: incomplete_since,
                    reason,
                };
                self.append(Record::Attempt(record), now)
            }
            Effect::RecordOutcome { job, attempts, spent, failure } => {
                self.record_outcome(job, attempts, spent, failure, now)
            }
            Effect::Release { job, begun } => self.release(job, begun),
            Effect::Pause { route, reason } => {
                let route = self.route_name(route);
                self.out.push(Output::Notice(Notice::Paused { route, reason }));
                Ok(())
            }
        }
    }

    fn claim(&mut self, candidate: Candidate, begin: bool, now: Millis) -> Result<(), KeeperError> {
        let proof = match self.judge(&candidate, now) {
            Judged::Claim(proof) => proof,
            Judged::Wait(until) => {
                return self.step(Event::Held { candidate, begin, until: Some(until) }, now);
            }
        };
        let job = self.next_id(now);
        let claimed = Claimed { job, begun: u32::from(begin) };
        let route = candidate.route;
        let file = match self.spool.claim(&candidate.rel, claimed, &mut self.empty) {
            Claim::Made(file) => file,
            Claim::Gone => {
                self.waits.forget(&candidate.rel);
                return self.step(Event::Held { candidate, begin, until: None }, now);
            }
            Claim::Refused(error) => {
                let until = if is_shortage(&error) {
                    self.disk_is_full(now)?;
                    now.saturating_add(REFUSED_AGAIN_MS)
                } else {
                    self.refused(&candidate.rel, &error, now)
                };
                let until = Some(until);
                return self.step(Event::Held { candidate, begin, until }, now);
            }
        };
        if let Some(outcome) = self.reappeared(&file.mark) {
            // Recorded before a power cut that undid its claim: it is settled, not run again.
            let settled = settle_outcome(&self.spool, &outcome, claimed, true, &mut self.empty)?;
            self.out
                .push(Output::Notice(Notice::Reappeared { rel: candidate.rel.clone(), settled }));
            return self.step(Event::Held { candidate, begin, until: None }, now);
        }
        let info = JobInfo {
            rel: candidate.rel,
            route,
            begun: claimed.begun,
            mark: file.mark,
            take: None,
            attempt: None,
            ended: None,
            begun_as: None,
        };
        self.jobs.insert(job, info);
        if file.stat.file_type == FileType::File {
            self.claimed_with(job, claimed, proof);
            return self.step(Event::Claimed { job, route, begun: begin }, now);
        }
        let failure = Failure::new(FailClass::Permanent, "not a regular file");
        self.step(Event::Rejected { job, route, begun: begin, failure }, now)
    }

    fn reappeared(&mut self, mark: &FileMark) -> Option<Outcome> {
        let known = self.reappearing.get(&mark.ino)?;
        let old = &known.file;
        // ctime as before the claim, or as after it: the rename may be lost and the inode kept.
        let same = old.btime_ns == mark.btime_ns
            && (old.before_ns == mark.before_ns || old.after_ns == mark.before_ns);
        if same { self.reappearing.remove(&mark.ino) } else { None }
    }

    fn start(
        &mut self,
        job: JobId,
        route: usize,
        attempt: u32,
        suspect: bool,
        now: Millis,
    ) -> Result<(), KeeperError> {
        if let Some(until) = self.still_written(job, attempt, now)? {
            return self.step(Event::Busy { job, until }, now);
        }
        let (Some(info), Some(route)) = (self.jobs.get_mut(&job), self.routes.get(route)) else {
            return Ok(());
        };
        let claimed = Claimed { job, begun: attempt };
        let from = Claimed { job, begun: info.begun };
        info.begun_as = Some(Arc::clone(route));
        let made = || -> io::Result<()> {
            if from != claimed {
                self.spool.set_begun(from, claimed)?;
            }
            info.begun = attempt;
            if suspect {
                // The name with this attempt is durable from here: if it takes the machine down again, that counts.
                self.spool.fs.sync_dir(&self.spool.processing)?;
            }
            self.spool.make_attempt_folders(claimed, route.output, &mut self.empty)
        }();
        if let Err(error) = made {
            let rel = info.rel.clone();
            if error.kind() == io::ErrorKind::NotFound {
                let failure =
                    Failure::new(FailClass::Permanent, "its folder vanished from processing/");
                return self.step(Event::Ended { job, verdict: Verdict::Failed(failure) }, now);
            }
            let reason = error.to_string();
            self.out.push(Output::Notice(Notice::StartRefused { rel, reason }));
            return self.step(Event::StartFailed { job }, now);
        }
        let processing = self.path.join("processing");
        let output = route.output.then(|| processing.join(Place::Output(claimed).name()));
        // A source of `batch` has its own index, and `--again` means it.
        let may_repeat = route.on_repeat == OnRepeat::Skip
            && info.take.is_none()
            && super::repeat::may_be_same(&self.spool, &info.rel, claimed);
        let task = Task {
            job,
            attempt,
            route: Arc::clone(route),
            path: processing.join(Place::Job(claimed).name()).join(info.rel.as_path()),
            rel: info.rel.clone(),
            spool: self.path.clone(),
            scratch: processing.join(Place::Scratch(claimed).name()),
            output,
        };
        self.out.push(if may_repeat { Output::Compare(task) } else { Output::Start(task) });
        Ok(())
    }

    /// Scratch goes; made files too where the attempt did not succeed.
    fn clear_attempt(&mut self, job: JobId, made_files: bool) {
        let Some(info) = self.jobs.get(&job) else { return };
        let claimed = Claimed { job, begun: info.begun };
        let cleared = self.spool.clear_scratch(claimed, &mut self.empty).and_then(|()| {
            let has_output = self.attempted_as(info).is_some_and(|route| route.output);
            if made_files && has_output { self.spool.clear_output(claimed) } else { Ok(()) }
        });
        // What a worker made unremovable stays and is said; it must not stop the others.
        if let Err(error) = cleared {
            let rel = info.rel.clone();
            let reason = error.to_string();
            self.out.push(Output::Notice(Notice::ScratchRefused { rel, reason }));
        }
    }

    fn release(&mut self, job: JobId, begun: u32) -> Result<(), KeeperError> {
        self.clear_attempt(job, true);
        let Some(info) = self.jobs.get_mut(&job) else { return Ok(()) };
        let (from, to) = (Claimed { job, begun: info.begun }, Claimed { job, begun });
        info.begun = begun;
        if from == to {
            return Ok(());
        }
        match self.spool.set_begun(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(KeeperError::spool("take an attempt back in processing/")),
        }
    }

    fn record_outcome(
        &mut self,
        job: JobId,
        attempts: u32,
        spent: Spent,
        failure: Option<Failure>,
        now: Millis,
    ) -> Result<(), KeeperError> {
        self.clear_attempt(job, failure.is_some());
        let planned = self.plan_outcome(job, attempts, failure.clone(), now);
        let planned = match planned {
            Ok(Some(planned)) => planned,
            Ok(None) => return Ok(()),
            Err(error) if error.is_shortage() => {
                self.deferred.push(Effect::RecordOutcome { job, attempts, spent, failure });
                return self.disk_is_full(now);
            }
            Err(error) => return Err(error),
        };
        let Some(info) = self.jobs.get_mut(&job) else { return Ok(()) };
        let ended = info.ended.as_mut();
        let took = ended.as_ref().map_or(std::time::Duration::ZERO, |ended| ended.took);
        let stderr = match (&planned.failure, ended) {
            (Some(_), Some(ended)) => String::from_utf8_lossy(&ended.stderr).into_owned(),
            _ => String::new(),
        };
        let outcome = Outcome {
            job,
            rel: Rel(info.rel.clone()),
            route: planned.route,
            attempts,
            spent,
            stderr,
            failure: planned.failure,
            at_ms: now,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            file: info.mark,
            rows: planned.rows,
            csv: planned.csv,
            output: planned.output,
            source: info.take.as_ref().and_then(|take| take.source),
        };
        let is_big =
            |piece: &crate::journal::record::Piece| matches!(piece.bytes, PieceBytes::File { .. });
        if outcome.csv.iter().any(is_big) {
            self.rows_files.push(job);
        }
        for record in planned.before {
            self.append(record, now)?;
        }
        self.append(Record::Outcome(outcome), now)
    }

    /// Everything about an outcome that may still fail for want of space; `None`: the job is unknown.
    fn plan_outcome(
        &mut self,
        job: JobId,
        attempts: u32,
        mut failure: Option<Failure>,
        now: Millis,
    ) -> Result<Option<OutcomePlan>, KeeperError> {
        let Some(info) = self.jobs.get(&job) else { return Ok(None) };
        let route = self.attempted_as(info).map(Arc::clone);
        let claimed = Claimed { job, begun: info.begun };
        let rel = info.rel.clone();
        let output = failure.is_none() && route.as_ref().is_some_and(|route| route.output);
        if output {
            // Durable before the record that names them: rule 8.
            self.spool
                .sync_output(claimed)
                .map_err(KeeperError::spool("sync the made files in processing/"))?;
        }
        let ended = self.jobs.get_mut(&job).and_then(|info| info.ended.as_mut());
        let rows = ended.map_or_else(Vec::new, |it| std::mem::take(&mut it.rows));
        let mut planned = Planned::default();
        if let (None, Some(route)) = (&failure, &route) {
            match self.plan_rows(route, &rows, &rel, job, now) {
                Ok(done) => planned = done,
                Err(PlanError::Columns(reason)) => {
                    failure = Some(Failure::new(FailClass::Permanent, reason));
                }
                Err(PlanError::Io(error)) => {
                    // They are needed again when there is space.
                    if let Some(ended) = self.jobs.get_mut(&job).and_then(|it| it.ended.as_mut()) {
                        ended.rows = rows;
                    }
                    return Err(error.into());
                }
            }
        }
        let mut csv: Vec<_> = planned.piece.into_iter().collect();
        let mut before = planned.before;
        let route = route.map_or_else(String::new, |route| route.name.clone());
        if let Some(failure) = &failure {
            let row = error_row(now, &rel, &route, job, attempts, failure);
            match self.results.plan(&error_spec(), &[row], &rel, job, now) {
                Ok(errors) => {
                    before.extend(errors.before);
                    csv.extend(errors.piece);
                }
                Err(PlanError::Io(error)) => return Err(error.into()),
                Err(PlanError::Columns(reason)) => {
                    let source = io::Error::other(reason);
                    return Err(KeeperError::Spool { what: "plan errors.csv".into(), source });
                }
            }
        }
        let output = output && failure.is_none();
        Ok(Some(OutcomePlan { before, csv, rows: planned.rows, failure, output, route }))
    }

    fn plan_rows(
        &mut self,
        route: &Route,
        rows: &[Row],
        rel: &RelPath,
        job: JobId,
        now: Millis,
    ) -> Result<Planned, PlanError> {
        let spec = CsvSpec {
            route: &route.name,
            trace_columns: route.trace_columns,
            columns: route.columns.as_deref(),
            segment_rows: route.segment_rows,
            segment_bytes: route.segment_bytes,
        };
        self.results.plan(&spec, rows, rel, job, now)
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

    pub(super) fn sighted(&mut self, sighting: Sighting, now: Millis) {
        if self.table.announced(&sighting.rel).is_some() {
            // A sentinel is looked for when its file is judged.
            return;
        }
        match self.route_of(&sighting.rel) {
            None => {
                self.seen.unrouted += 1;
                self.seen.unrouted_example.get_or_insert(sighting.rel);
            }
            Some(route) => {
                if !self.core.holds(&sighting.rel) {
                    self.seen.offered += 1;
                }
                let candidate =
                    Candidate { rel: sighting.rel, route, order: sighting.stat.ctime_ns };
                self.core.offer(candidate, now);
            }
        }
    }

    /// Seals all CSV segments that have rows.
    pub fn seal(&mut self, now: Millis) -> Result<(), KeeperError> {
        for record in self.results.plan_sealing(now) {
            self.append(record, now)?;
        }
        Ok(())
    }

    /// Whether a checkpoint would free enough, or a sealed CSV waits for one.
    pub fn checkpoint_is_due(&self) -> bool {
        !self.checkpointing
            && self.is_settled()
            && (self.sealed || self.journal.segment_len() >= limits::JOURNAL_SEGMENT)
    }

    /// Begins a new journal segment; the old ones go once a sync of everything has returned.
    ///
    /// Call it only with nothing pending: all that the old segments record is applied and settled.
    pub fn checkpoint(&mut self, now: Millis) -> Result<(), KeeperError> {
        assert!(self.is_settled(), "a checkpoint with records that are not settled");
        // The index is durable before the outcomes that it stands for can go.
        match self.sources.add_run(&mut self.new_sources) {
            Ok(()) => self.new_sources.clear(),
            Err(CommitError::Full { .. }) => return self.disk_is_full(now),
            Err(error) => return Err(error.into()),
        }
        let mut snapshot = self.results.snapshot();
        for (job, info) in &self.jobs {
            debug_assert!(info.take.as_ref().is_none_or(|take| take.job == *job));
            snapshot.extend(info.take.clone().map(Record::Take));
            snapshot.extend(info.attempt.clone().map(Record::Attempt));
        }
        self.journal.note(self.last_id, now);
        match self.journal.rotate(&snapshot) {
            Ok(()) => {}
            Err(CommitError::Full { .. }) => return self.disk_is_full(now),
            Err(error) => return Err(error.into()),
        }
        self.sealed = false;
        self.checkpointing = true;
        self.dropping.append(&mut self.rows_files);
        self.has_news = false;
        self.out.push(Output::Sync { before: self.journal.segment() });
        Ok(())
    }

    /// Nothing waits for the journal, the CSVs or its last move.
    pub fn is_settled(&self) -> bool {
        self.is_recorded()
            && self.durable.is_empty()
            && self.deferred.is_empty()
            && !self.results.has_pending()
    }

    /// Outcomes that are durable and not followed up yet, and whether they are done.
    #[cfg(test)]
    pub(super) fn durable_outcomes(&self) -> impl Iterator<Item = (JobId, bool)> + '_ {
        self.durable.iter().filter_map(|record| match record {
            Record::Outcome(outcome) => Some((outcome.job, outcome.failure.is_none())),
            _ => None,
        })
    }

    /// Nothing runs, nothing waits for the journal: a drain is over.
    pub fn is_still(&self) -> bool {
        self.core.is_still() && self.is_settled()
    }

    /// Removes emptied job folders that were kept for reuse.
    pub fn tidy(&mut self) -> Result<(), KeeperError> {
        self.spool
            .remove_empty(&mut self.empty)
            .map_err(KeeperError::spool("remove emptied folders in processing/"))
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
    empty: &mut EmptyFolders,
) -> Result<crate::spool::settle::Settled, KeeperError> {
    let output = settle_made(spool, outcome)?;
    let why = super::notice::sidecar(outcome);
    let (job, rel) = (outcome.job, &outcome.rel.0);
    let settling = Settling { job, claimed, rel, why: why.as_deref(), alone };
    let rel = spool
        .settle(&settling, empty)
        .map_err(KeeperError::spool(format!("settle {} from processing/", outcome.rel.0)))?;
    Ok(crate::spool::settle::Settled { rel, output })
}

/// Moves what a recorded job made; done already is fine.
pub(super) fn settle_made<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
) -> Result<Option<PathBuf>, KeeperError> {
    if !outcome.output {
        return Ok(None);
    }
    let claimed = Claimed { job: outcome.job, begun: outcome.attempts };
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

fn error_spec() -> CsvSpec<'static> {
    CsvSpec {
        route: "errors",
        trace_columns: false,
        columns: None,
        segment_rows: limits::SEGMENT_ROWS,
        segment_bytes: limits::SEGMENT_BYTES,
    }
}

fn error_row(
    now: Millis,
    rel: &RelPath,
    route: &str,
    job: JobId,
    attempts: u32,
    failure: &Failure,
) -> Row {
    let number = |n: Option<i32>| n.map_or_else(Vec::new, |n| n.to_string().into_bytes());
    let cells = [
        super::notice::utc(now).into_bytes(),
        rel.as_bytes().to_vec(),
        failure.reason.clone().into_bytes(),
        route.as_bytes().to_vec(),
        Vec::new(),
        job.to_string().into_bytes(),
        attempts.to_string().into_bytes(),
        number(failure.exit),
        number(failure.signal),
    ];
    Row(ERROR_COLUMNS.iter().map(|name| (*name).to_owned()).zip(cells).collect())
}
