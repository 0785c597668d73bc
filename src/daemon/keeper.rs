//! The keeper: one owner of spool, journal and results. Every rename, journal write and sync is its.
//!
//! It carries out what the core decides, and tells the core what came of it. It runs on one plain
//! thread (`run` in this folder) and is driven here by plain calls, so that a test can stop the
//! world at each durable operation.
//!
//! Must not know: threads, channels, tokio, the clock (time is passed in), how a worker runs.
//!
//! - `message`: what it is told and asks; `error`: why it cannot go on; `job`: what it knows of a job.
//! - `scan`, `sort`: names and their routes. `staged`: what is handed in. `effects`: what the core decided.
//! - `inputs`: jobs whose records are tasks of their own. `outcome`: what is recorded.
//! - `commit`, `settle`, `checkpoint`: from appended to durable to settled to dropped.
//! - `next`: what a worker made goes on. `reconfigure`: new settings. `view`: what others may ask.
//!
//! Invariants
//! - An outcome is applied to the CSVs and settled only after the commit that made it durable.
//! - Outcomes are applied in the order in which they were appended.
//! - A free slot gets its next job before the commit of the last one: the disk never idles the pool.
//! - A journal segment is dropped only after all that it records was applied and settled, and a sync
//!   of the whole filesystem that began after that has returned.
//! - ENOSPC stops claims and waits, nothing else. Any other failure of a durable step is returned as
//!   [`KeeperError`] and never tried again: the daemon ends with 1 and recovery starts over.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::limits;
use crate::config::{Route, RouteTable, Settings, Worker};
use crate::core::backoff::Backoff;
use crate::core::pace::PaceRules;
use crate::core::state::{
    Core, Effect, Event, Limits, Millis, RecordLimits, Recovered, RouteRules,
};
use crate::core::{JobId, Verdict};
use crate::fs::Filesystem;
use crate::journal::record::{Outcome, Record, SourceKey};
use crate::journal::{Sources, Writer};
use crate::results::Results;
use crate::spool::folders::Folders;
use crate::spool::scan::Scan;
use crate::spool::{Claimed, Spool};
use crate::worker::Ended;

use super::sight::Waits;

mod checkpoint;
mod commit;
mod effects;
mod error;
pub(super) mod inputs;
mod job;
mod message;
pub(super) mod next;
mod outcome;
mod reconfigure;
pub(super) mod scan;
mod settle;
mod sort;
mod staged;
#[cfg(test)]
pub(in crate::daemon) mod tests;
mod view;

pub use error::{KeeperError, Shortage, chain};
pub use inputs::OpenInputs;
pub(super) use job::JobInfo;
pub use message::{Input, Output, Staged};
pub use scan::ScanCounts;
pub(super) use scan::describe_unreadable;
pub(super) use settle::{settle_failed, settle_left, settle_made, settle_outcome};

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
    pub(super) reappearing: BTreeMap<u64, Outcome>,
    /// Those of them that are claimed again and could not be settled on a full disk.
    unsettled: VecDeque<(Outcome, Claimed)>,
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
    /// Of a group that has just become durable: the folders that it settles to are not looked at yet.
    follows: bool,
    /// Outcomes that could not even be planned on a full disk, and attempts that could not be taken back.
    deferred: VecDeque<Effect>,
    /// Jobs whose rows are in a file of their own, since the journal segment began.
    rows_files: Vec<JobId>,
    /// Those of the segments that the running checkpoint drops.
    dropping: Vec<JobId>,
    /// Segments below this one may go, and could not for want of something.
    undropped: Option<u64>,
    /// When the oldest of them was appended.
    pending_since: Option<Millis>,
    /// There is too little of it.
    short_of: Option<Shortage>,
    /// As it was said last, and since when there is room again: what comes and goes is not said each time.
    said_short: Option<Shortage>,
    room_since: Option<Millis>,
    /// As [`Input::Claims`] said last.
    claims_allowed: bool,
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
    /// See [`Keeper::left_to_find`].
    pub(super) offered: u64,
    /// What is remembered of names that may not be claimed yet.
    pub(super) waits: Waits,
}

/// Job folders that are kept open.
fn open_folders(settings: &Settings) -> usize {
    let starts = |route: &Route| matches!(route.worker, Worker::Command { .. });
    let has_commands = settings.routes.iter().any(starts);
    let most =
        if has_commands { limits::OPEN_JOB_FOLDERS_OF_COMMANDS } else { limits::OPEN_JOB_FOLDERS };
    most.min(crate::fs::real::descriptors() / 3)
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
    pub(super) reappearing: BTreeMap<u64, Outcome>,
    pub(super) path: PathBuf,
    pub(super) new_sources: Vec<SourceKey>,
    pub(super) rows_files: Vec<JobId>,
    pub(super) random: fn() -> [u8; 10],
}

impl<F: Filesystem> Keeper<F> {
    pub(super) fn assemble(settings: &Settings, parts: Parts<F>) -> Result<Self, KeeperError> {
        let ahead = limits::longest_line(settings.workers);
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
            unsettled: VecDeque::new(),
            path: parts.path,
            new_sources: parts.new_sources,
            random: parts.random,
            scan: None,
            pending: Vec::new(),
            committing: Vec::new(),
            durable: VecDeque::new(),
            applied: 0,
            follows: false,
            deferred: VecDeque::new(),
            rows_files: parts.rows_files,
            dropping: Vec::new(),
            undropped: None,
            pending_since: None,
            short_of: None,
            said_short: None,
            room_since: None,
            claims_allowed: true,
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
            offered: 0,
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

    /// Names were offered, or time has passed: starts what may be started.
    pub fn start_more(&mut self, now: Millis) -> Result<(), KeeperError> {
        self.step(Event::Tick, now)
    }

    /// Whether empty folders of `incoming/` are removed, from now on.
    pub fn set_prunes(&mut self, prunes: bool) {
        self.waits.set_prunes(prunes);
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
            Input::ReadOn { job } => self.read_more(job, now),
            Input::Collected { job, result } => self.collected(job, result, now),
            // No more starts; it has not begun.
            Input::Compared { task, is_same: false } if self.draining => {
                let ended = Ended::without_rows(Verdict::Released);
                self.handle(Input::Ended { job: task.job, ended }, now)
            }
            Input::Compared { task, is_same: false } => self.begin(task, now),
            Input::Staged(staged) => self.take_in(staged, now),
            Input::Synced { before } => self.checkpoint_synced(before, now),
            Input::Drain => {
                self.draining = true;
                self.scan = None;
                self.step(Event::Drain, now)
            }
            Input::Resume { route } => {
                self.reroute_the_stuck();
                match self.routes.iter().position(|known| known.name == route) {
                    Some(route) => self.step(Event::Resume { route }, now),
                    None => Ok(()),
                }
            }
            Input::Starts { allowed } => self.step(Event::Starts { allowed }, now),
            Input::Claims { allowed } => {
                self.claims_allowed = allowed;
                self.step(Event::Claims { allowed: allowed && self.short_of.is_none() }, now)
            }
        }
    }

    /// Lets time pass: waits that are over, a full disk that may have room again.
    pub fn tick(&mut self, now: Millis) -> Result<(), KeeperError> {
        if self.short_of.is_some() {
            // What still cannot be done is put off again. What of it is out of date by then is not tried.
            for _ in 0..self.deferred.len() {
                let Some(effect) = self.deferred.pop_front() else { break };
                self.carry_out(effect, now)?;
            }
            for _ in 0..self.unsettled.len() {
                let Some((outcome, claimed)) = self.unsettled.pop_front() else { break };
                self.settle_reappeared(outcome, claimed, now)?;
            }
            self.settle(usize::MAX, now)?;
            if self.is_recorded() && self.durable.is_empty() && !self.is_behind() {
                self.has_room(now)?;
            }
        }
        self.drop_again(now)?;
        self.say_room(now);
        self.write_left_over(now)?;
        self.step(Event::Tick, now)
    }

    /// Something was put off on a full disk.
    fn is_behind(&self) -> bool {
        !self.deferred.is_empty() || !self.unsettled.is_empty()
    }

    /// The route by which a job's last attempt was run.
    fn attempted_as<'a>(&'a self, info: &'a JobInfo) -> Option<&'a Arc<Route>> {
        info.begun_as.as_ref().or_else(|| self.routes.get(info.route))
    }

    fn route_name(&self, route: usize) -> String {
        self.routes.get(route).map_or_else(String::new, |route| route.name.clone())
    }
}
