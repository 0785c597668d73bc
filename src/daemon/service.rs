//! The keeper's thread: takes messages in, drives the keeper, feeds the pool.
//!
//! Must not know: tokio, the terminal, how settings are read. What it has to say goes to a
//! [`Listener`], which must not block.
//!
//! - `message`: what others tell it; `threads`: what it has others do. `guest`: `batch` beside it.
//! - `scan`, `look`: what it does by the clock. `line`: what was given to the slots and has not begun.
//! - `news`, `status`: what it tells, and what it says when asked.
//! - `place`: whether the spool is where it was. `reload`: new settings. `end`: when it is over.
//!
//! Invariants
//! - Free slots are fed before the commit of what has just ended.
//! - Every wait here has an end: a message, the next time the keeper has something to do, or a second.
//! - It returns only when nothing runs and everything recorded is settled, or with the reason why the
//!   promise cannot be kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Route, limits};
use crate::core::state::Millis;
use crate::core::{JobId, Verdict};
use crate::fs::{Filesystem, RealFs};
use crate::worker::{Ended, ProgramState, Stop};

use super::children::Sweeper;
use super::history::{History, JobLine};
use super::intake::Intake;
use super::keeper::{Input, Keeper, KeeperError, Output};
use super::notice::Notice;
use super::pool::{Pool, SlotEnded};
use super::readiness::Progress;
use super::retention::Retention;
use guest::Guests;
use news::Submitters;

mod end;
pub mod guest;
mod line;
mod look;
mod message;
mod news;
mod place;
mod reload;
mod scan;
mod status;
mod threads;

pub use message::{Found, Message, SourcesSeen, Wanted};
pub use status::{LowMemory, RouteLoad, Status, Summary};

/// Jobs settled between two looks at the messages.
const SETTLE_SLICE: usize = 4;
/// Messages taken in between two such slices. Fewer than are settled: else, with jobs that take no
/// time, what is not settled would grow, and with it each folder and each next group of records.
const MESSAGES_WHILE_SETTLING: usize = SETTLE_SLICE / 2;
/// How often paused programs and free disk are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Sources staged ahead in `batch`, so that one sync serves many copies.
const STAGE_AHEAD: usize = 256;

/// What [`Service::run`] tells while it goes on. Must not block: it is called on the keeper's thread.
pub trait Listener {
    /// Something happened.
    fn notice(&mut self, notice: Notice);
    /// Start-up is over: recovered, and the first pass of the scan is done.
    fn ready(&mut self);
}

/// When the service ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Never.
    Watch,
    /// When nothing is left to do.
    Batch {
        /// CSV segments are sealed at the end.
        seal: bool,
    },
}

/// Grants of ids to the thread that stages sources; it copies, syncs and answers with `Input::Staged`.
pub type Grants = Sender<Vec<JobId>>;

/// The keeper with what it needs around it.
pub struct Service<F: Filesystem, L: Listener> {
    /// The keeper.
    pub keeper: Keeper<F>,
    /// The slots.
    pub pool: Pool,
    /// Ends running attempts.
    pub stop: Stop,
    /// The job log; where it cannot be written nothing else changes.
    pub history: History,
    /// Who is told.
    pub listener: L,
    /// When it ends.
    pub mode: Mode,
    /// Grants to the stager, with `batch SRC`.
    pub grants: Option<Grants>,
    /// For what runs on other threads: syncs.
    pub sender: Sender<Message>,
    /// Counts the turns of the loop.
    pub progress: Progress,
    /// The timer of the scan.
    pub rescan: Duration,
    /// The user's own word on how long a file must be still.
    pub quiet_for: Option<Duration>,
    /// The watcher, and what it has told.
    pub intake: Intake,
    /// Claims stop below so many free bytes.
    pub min_free_disk: u64,
    /// Nothing is started below so many bytes of available memory; 0: it is not looked at.
    pub min_free_memory: u64,
    /// What becomes of old files.
    pub retention: Retention,
    /// State of the loop.
    pub state: LoopState,
}

/// State of [`Service::run`].
#[derive(Debug)]
pub struct LoopState {
    began: Instant,
    status: Status,
    sources: SourcesSeen,
    granted: usize,
    pub(super) scanning: bool,
    /// When the last pass of the scan ended.
    scanned: Instant,
    next_look: Instant,
    /// When each is tried again, if by time, and what its worker would have run.
    paused: BTreeMap<String, (Option<Instant>, Option<ProgramState>)>,
    is_ready: bool,
    pub(super) draining: bool,
    /// The drain's time is over, or it was cut short.
    stops_now: bool,
    low_disk: bool,
    /// Attempts that have ended, and that had at the last sweep, and when the next may be.
    ended: u64,
    swept: u64,
    next_sweep: Instant,
    sweeper: Sweeper,
    guests: Guests,
    submitters: Submitters,
    /// Not told yet: they go out together, once a group of jobs is settled.
    notices: Vec<Notice>,
    /// Time passes for the keeper at the latest then.
    next_tick: Instant,
    /// The job log could not be written at the last try.
    history_failed: bool,
    /// The CSVs are sealed: nothing is left to do.
    has_sealed: bool,
    /// What waits in line is not to begin now.
    clears_line: bool,
    /// Workers are kept of routes that are no more.
    keeps_more: bool,
    /// The routes of the jobs whose file is being compared with the last of its name.
    comparing: BTreeMap<JobId, Arc<Route>>,
}

impl Default for LoopState {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            status: Status::default(),
            sources: SourcesSeen::default(),
            granted: 0,
            scanning: true,
            scanned: now,
            next_tick: now,
            history_failed: false,
            has_sealed: false,
            clears_line: false,
            keeps_more: false,
            comparing: BTreeMap::new(),
            next_look: now,
            paused: BTreeMap::new(),
            is_ready: false,
            draining: false,
            stops_now: false,
            low_disk: false,
            ended: 0,
            swept: 0,
            next_sweep: now,
            sweeper: Sweeper::default(),
            guests: Guests::default(),
            submitters: Submitters::default(),
            notices: Vec::new(),
        }
    }
}

/// Unix milliseconds now.
pub fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl<L: Listener> Service<RealFs, L> {
    /// Serves until the mode's end, a drain, or an error that ends the promise.
    pub fn run(mut self, messages: &Receiver<Message>) -> Result<Summary, KeeperError> {
        let groups = self.start_syncing()?;
        self.begin_intake();
        self.keeper.hurry_starts();
        self.look_at_memory()?;
        self.outputs()?;
        loop {
            if self.is_over() {
                if !self.seals()? {
                    return self.finish(messages);
                }
                self.outputs()?;
            }
            self.give_up()?;
            self.receive(messages)?;
            self.progress.made();
            self.tend_line()?;
            self.look()?;
            if self.keeper.commit_is_due(now_ms()) {
                if let Some(group) = self.keeper.begin_commit(now_ms())? {
                    groups.send(group).map_err(|_| KeeperError::gone())?;
                }
                self.outputs()?;
            }
            if self.keeper.has_durable() {
                self.keeper.settle(SETTLE_SLICE, now_ms())?;
                self.outputs()?;
                if !self.keeper.has_durable() {
                    self.tell();
                    self.tell_guests()?;
                }
            }
            self.go_on_intake()?;
            self.scan()?;
            self.say_ready();
            if self.keeper.checkpoint_is_due() {
                self.keeper.checkpoint(now_ms())?;
                self.outputs()?;
            }
            self.grant();
        }
    }

    /// Waits for a message, then takes in all that are there.
    fn receive(&mut self, messages: &Receiver<Message>) -> Result<(), KeeperError> {
        let mut first = messages.try_recv().ok();
        if first.is_none() {
            self.keeper.start_more(now_ms())?;
            self.outputs()?;
        }
        let wait = self.wait();
        if first.is_none() && !wait.is_zero() {
            // What belongs to no group goes out before it sleeps; and on a full disk nothing settles.
            if self.keeper.is_settled() || self.keeper.full_wait().is_some() {
                self.tell();
            }
            self.pool.rest(wait.min(limits::REST));
            first = messages.recv_timeout(wait).ok();
        }
        // A group is bounded so that a commit is never put off by more work.
        let is_settling = self.keeper.has_durable();
        let most = if is_settling { MESSAGES_WHILE_SETTLING } else { limits::COMMIT_RECORDS };
        let mut next = first;
        let mut taken = 0;
        while let Some(message) = next {
            // That takes its time, and asks for more of it: once a turn.
            let is_long = matches!(message, Message::Input(Input::ReadOn { .. }));
            self.handle(message)?;
            self.outputs()?;
            taken += 1;
            next = if taken < most && !is_long { messages.try_recv().ok() } else { None };
        }
        // Also where messages never cease: a full disk is looked at, a wait ends.
        if taken == 0 || Instant::now() >= self.state.next_tick {
            self.state.next_tick = Instant::now() + LOOK_EVERY;
            self.keeper.tick(now_ms())?;
            self.outputs()?;
        }
        Ok(())
    }

    fn wait(&self) -> Duration {
        let now = now_ms();
        if self.wants_scan() || self.wants_intake() || self.keeper.has_durable() {
            return Duration::ZERO;
        }
        let look = self.state.next_look.saturating_duration_since(Instant::now());
        let keeper = match (self.keeper.full_wait(), self.keeper.next_time()) {
            (Some(full), _) => Duration::from_millis(full),
            (None, Some(at)) => Duration::from_millis(at.saturating_sub(now)),
            (None, None) => look,
        };
        let line = self
            .pool
            .waits_since()
            .map(|since| limits::LONGEST_AHEAD.saturating_sub(since.elapsed()));
        look.min(keeper).min(line.unwrap_or(look))
    }

    fn handle(&mut self, message: Message) -> Result<(), KeeperError> {
        let now = now_ms();
        self.state.next_look = self.state.next_look.min(Instant::now() + LOOK_EVERY);
        match message {
            Message::Slot(SlotEnded { job, record, mut ended }) => {
                self.state.ended += 1;
                ended.verdict = self.of_this_place(ended.verdict);
                let input = match record {
                    None => Input::Ended { job, ended },
                    Some((no, is_last)) => Input::RecordEnded { job, no, ended, is_last },
                };
                self.keeper.handle(input, now)
            }
            Message::Input(input) => {
                if matches!(input, Input::Staged(_)) {
                    self.state.granted = self.state.granted.saturating_sub(1);
                }
                if let Some(job) = guest::source_of(&input) {
                    self.state.guests.staged(job);
                }
                if let Input::Compared { task, .. } = &input
                    && self.state.comparing.remove(&task.job).is_none()
                {
                    // Nobody waits for it any more.
                    return Ok(());
                }
                if matches!(input, Input::Synced { .. }) {
                    // Retention may wait for this checkpoint.
                    self.state.next_look = Instant::now();
                }
                self.keeper.handle(input, now)
            }
            Message::Submit(staged, answer) => {
                self.state.submitters.wait(staged.job, answer);
                self.keeper.handle(Input::Staged(staged), now)
            }
            Message::Synced(synced) => self.keeper.end_commit(synced, now),
            Message::SyncFailed(source) => {
                Err(KeeperError::Spool { what: "sync the spool's filesystem".to_owned(), source })
            }
            Message::SourcesOver(seen) => {
                self.state.granted = 0;
                self.grants = None;
                if self.state.guests.sources_over(&seen) {
                    return self.next_guest();
                }
                self.state.sources.become_all(seen);
                Ok(())
            }
            Message::Tell(notice) => {
                self.notice(notice);
                self.tell();
                Ok(())
            }
            Message::Batch(request) => self.let_in(request),
            Message::Scan => {
                self.state.scanning = true;
                Ok(())
            }
            Message::Dirty => self.take_marks(),
            Message::Why(rel, answer) => {
                answer(self.keeper.held_file(&rel, now));
                Ok(())
            }
            Message::Emptied(folders, done) => {
                self.remove_emptied(&folders);
                // Only a thread that ends with the daemon does not wait.
                match done.send(()) {
                    Ok(()) | Err(_) => Ok(()),
                }
            }
            Message::Swept(swept) => {
                self.swept(swept);
                Ok(())
            }
            Message::Reload(settings, done) => self.reload(&settings).map(|()| done()),
            Message::BeginFailed(source) => Err(KeeperError::Spool {
                what: "say in journal/waiting that a job begins".to_owned(),
                source,
            }),
            Message::Drain => {
                self.state.draining = true;
                self.grants = None;
                self.keeper.handle(Input::Drain, now)?;
                self.clear_line()
            }
            Message::StopNow => self.stop_now(now),
            Message::Orphaned => {
                self.notice(Notice::Orphaned);
                self.stop_now(now)
            }
            Message::Ask(answer) => {
                answer(&self.status());
                Ok(())
            }
            Message::Id(answer) => {
                answer(self.keeper.next_id(now));
                Ok(())
            }
            Message::Find(wanted, answer) => {
                answer(self.keeper.find(&wanted, now));
                Ok(())
            }
        }
    }

    fn stop_now(&mut self, now: Millis) -> Result<(), KeeperError> {
        self.state.draining = true;
        self.state.stops_now = true;
        self.grants = None;
        // First: whatever else fails, no worker goes on.
        self.stop.now().map_err(KeeperError::spool("stop the workers"))?;
        self.keeper.handle(Input::Drain, now)?;
        // What is only compared has not begun, and reading two files to their ends may take an hour.
        for job in std::mem::take(&mut self.state.comparing).into_keys() {
            let ended = Ended::without_rows(Verdict::Released);
            self.keeper.handle(Input::Ended { job, ended }, now)?;
        }
        self.clear_line()
    }

    pub(super) fn outputs(&mut self) -> Result<(), KeeperError> {
        loop {
            for output in self.keeper.take_outputs() {
                match output {
                    Output::Start(task) => self.pool.give(task),
                    Output::StartRecords(lot) => self.pool.give_lot(lot),
                    // A message, so that it stands in line behind all others.
                    Output::ReadOn { job } => {
                        drop(self.sender.send(Message::Input(Input::ReadOn { job })));
                    }
                    Output::Collect(collecting) => self.collect(*collecting),
                    Output::Compare(task) => self.compare(task),
                    Output::Notice(notice) => self.notice(notice),
                    Output::Sync { before } => self.sync(before),
                }
            }
            if !self.keeper.go_on(now_ms())? {
                return Ok(());
            }
        }
    }

    fn grant(&mut self) {
        let Some(grants) = &self.grants else { return };
        let idle = self.keeper.idle_jobs() + self.state.granted;
        if idle > STAGE_AHEAD / 2 || !self.keeper.may_take() {
            return;
        }
        let now = now_ms();
        let ids: Vec<JobId> = (idle..STAGE_AHEAD).map(|_| self.keeper.next_id(now)).collect();
        self.state.granted += ids.len();
        // The stager has ended on its own: its last message says so.
        drop(grants.send(ids));
    }
}
