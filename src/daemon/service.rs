//! The keeper's thread: takes messages in, drives the keeper, feeds the pool.
//!
//! Must not know: tokio, the terminal, how settings are read. What it has to say goes to a
//! [`Listener`], which must not block.
//!
//! Invariants
//! - Free slots are fed before the commit of what has just ended.
//! - Every wait here has an end: a message, the next time the keeper has something to do, or a second.
//! - It returns only when nothing runs and everything recorded is settled, or with the reason why the
//!   promise cannot be kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::{Settings, limits};
use crate::core::state::{Counts, Millis};
use crate::core::{JobId, RelPath};
use crate::fs::{Filesystem, RealFs};
use crate::journal::Group;

use super::history::{History, JobLine};
use super::intake::Intake;
use super::keeper::inputs::{Collecting, RecordsFound};
use super::keeper::{Input, Keeper, KeeperError, Output};
use super::notice::{Notice, Paused};
use super::pool::{Pool, SlotEnded};
use super::readiness::Progress;
use super::retention::{Counted, Retention};
use super::sight::Held;
use crate::core::Verdict;
use crate::spool::Claimed;
use crate::spool::retention::Swept;
use crate::worker::{Ended, Stop, Task};
use guest::{Guests, Request};

pub mod guest;
mod reload;

/// Entries a scan looks at between two looks at the messages.
const SCAN_SLICE: usize = 1024;
/// The same while workers run, whose slots should not wait: about 0.1 ms.
const SCAN_SLICE_BUSY: usize = 32;
/// Jobs settled between two looks at the messages.
const SETTLE_SLICE: usize = 4;
/// Messages taken in between two such slices. Fewer than are settled: else, with jobs that take no
/// time, what is not settled would grow, and with it each folder and each next group of records.
const MESSAGES_WHILE_SETTLING: usize = SETTLE_SLICE / 2;
/// A paused route is tried again after this long, whatever changed.
const PAUSED_TRY: Duration = Duration::from_secs(60);
/// How often paused programs and free disk are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same while nothing goes on: often enough for a watchdog of a minute.
const LOOK_IDLE: Duration = Duration::from_secs(10);
/// How often what escaped from ended workers is looked for, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Sources staged ahead in `batch`, so that one sync serves many copies.
const STAGE_AHEAD: usize = 256;

/// What others tell the keeper's thread.
pub enum Message {
    /// A slot's task is over.
    Slot(SlotEnded),
    /// For the keeper as it is.
    Input(Input),
    /// What the fsync of a group of records said.
    Synced(std::io::Result<()>),
    /// It cannot be said that a job waits no more: it did not begin, and the daemon ends.
    BeginFailed(std::io::Error),
    /// The sync of a checkpoint failed: nothing is dropped, and the daemon ends.
    SyncFailed(std::io::Error),
    /// `batch` has no more sources; `known` of them were recorded before.
    SourcesOver(SourcesSeen),
    /// `batch SRC…` beside this daemon.
    Batch(Request),
    /// Look into `incoming/` now.
    Scan,
    /// The watcher has marks to be taken.
    Dirty,
    /// Folders of `done/` and `output/` that retention emptied; the sender waits to hear of their end.
    Emptied(Vec<(&'static str, PathBuf)>, SyncSender<()>),
    /// A pass of retention is over.
    Swept(Swept),
    /// New settings come into force; then the function is called.
    Reload(Box<Settings>, Box<dyn FnOnce() + Send>),
    /// Finish what runs, then end.
    Drain,
    /// End what runs, then end.
    StopNow,
    /// A question; the answer is given by calling the function.
    Ask(Box<dyn FnOnce(&Status) + Send>),
    /// A fresh job id is wanted; it is given by calling the function.
    Id(Box<dyn FnOnce(JobId) + Send>),
    /// What of this job, or of the file at this path below `incoming/`?
    Find(Wanted, Box<dyn FnOnce(Option<Found>) + Send>),
    /// Why does the file at this path in `incoming/` wait?
    Why(RelPath, Box<dyn FnOnce(Option<Held>) + Send>),
}

/// What [`Message::Find`] looks for.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// A job.
    Job(JobId),
    /// A path below `incoming/`.
    Rel(RelPath),
}

/// A job that is on its way.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The job.
    pub job: JobId,
    /// Its path, escaped.
    pub rel: String,
    /// Its route.
    pub route: String,
    /// `running`, `waiting`, `recording` …
    pub state: String,
    /// Attempts begun.
    pub attempt: u32,
    /// Why the last attempt ended, if one did.
    pub reason: Option<String>,
    /// When it may start again, in milliseconds from now.
    pub wait_ms: Option<u64>,
    /// How far its records are, where they are tasks of their own.
    pub records: Option<RecordsFound>,
}

/// What `batch` found of its sources.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourcesSeen {
    /// Recorded before, and unchanged.
    pub known: u64,
    /// Taken in by this run.
    pub taken: u64,
    /// No route's glob takes them.
    pub unrouted: u64,
    /// One of these.
    pub unrouted_example: Option<String>,
    /// Could not be read, with the reason.
    pub failed: Vec<String>,
}

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

/// The state, for `status` and the summary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Milliseconds since the start.
    pub up_ms: u64,
    /// Milliseconds that the oldest known file has waited in `incoming/`, since it came there or changed.
    pub oldest_ms: Option<u64>,
    /// Files that wait: candidates, claimed, waiting for another attempt.
    pub waiting: usize,
    /// Workers at work.
    pub running: usize,
    /// Claims that wait for what stands in their way.
    pub held: usize,
    /// Some of these, with the reason.
    pub held_files: Vec<Held>,
    /// `ok`, or which new files are noticed later than by events; `None` where nothing is watched.
    pub events: Option<String>,
    /// What to do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_fix: Option<String>,
    /// Times that the kernel lost events, each followed by a scan of everything.
    pub overflows: u64,
    /// Incomplete files among those that wait.
    pub incomplete: usize,
    /// Jobs done since the start.
    pub done: u64,
    /// Jobs failed since the start.
    pub failed: u64,
    /// Rows recorded since the start.
    pub rows: u64,
    /// Of these jobs, those whose records were tasks of their own.
    pub inputs: u64,
    /// Records done since the start.
    pub records_done: u64,
    /// Records failed since the start.
    pub records_failed: u64,
    /// Bytes of the open inputs that are over, and all of them.
    pub input_bytes: (u64, u64),
    /// Files that no route takes, as the last scan saw.
    pub unrouted: u64,
    /// One of them.
    pub unrouted_example: Option<String>,
    /// Files that announce a file which is not there, as the last scan saw.
    #[serde(default)]
    pub lone_sentinels: u64,
    /// One of them.
    #[serde(default)]
    pub lone_example: Option<String>,
    /// Paused routes, with the reason and what to do.
    pub paused: BTreeMap<String, Paused>,
    /// How the files are divided among the routes, by name.
    #[serde(default)]
    pub routes: BTreeMap<String, RouteLoad>,
    /// Folders that cannot be read, refused claims.
    pub trouble: Vec<String>,
    /// The disk is full, or too full to claim.
    pub disk_full: bool,
    /// Nothing is started for want of memory.
    pub low_memory: Option<LowMemory>,
    /// Files of paused routes that were already claimed or known.
    pub stuck: usize,
    /// What retention counted last, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// Less memory than `min_free_memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LowMemory {
    /// Available bytes.
    pub free: u64,
    /// Starts go on at this many.
    pub floor: u64,
}

/// The files of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RouteLoad {
    /// Names in `incoming/` that are known, and jobs.
    pub waiting: usize,
    /// In a slot.
    pub running: usize,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The state at the end.
    pub status: Status,
    /// What became of the sources.
    pub sources: SourcesSeen,
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
    /// The job log; without it nothing else changes.
    pub history: Option<History>,
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
    last_pass_offered: u64,
    /// When the last pass of the scan ended.
    scanned: Instant,
    next_look: Instant,
    /// When each is tried again, if by time, and how old its program was.
    paused: BTreeMap<String, (Option<Instant>, Option<SystemTime>)>,
    is_ready: bool,
    pub(super) draining: bool,
    low_disk: bool,
    /// Jobs that had ended at the last sweep, and when the next may be.
    swept: u64,
    next_sweep: Instant,
    guests: Guests,
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
            last_pass_offered: 0,
            scanned: now,
            next_tick: now,
            history_failed: false,
            has_sealed: false,
            clears_line: false,
            next_look: now,
            paused: BTreeMap::new(),
            is_ready: false,
            draining: false,
            low_disk: false,
            swept: 0,
            next_sweep: now,
            guests: Guests::default(),
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

    /// The fsync of a group stops nobody: it has a thread of its own, which ends with the sender.
    fn start_syncing(&self) -> Result<Sender<Group<RealFs>>, KeeperError> {
        let (send, groups) = std::sync::mpsc::channel::<Group<RealFs>>();
        let sender = self.sender.clone();
        let work = move || {
            while let Ok(group) = groups.recv() {
                // The receiver is gone only when the daemon has ended.
                drop(sender.send(Message::Synced(group.sync())));
            }
        };
        std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(work)
            .map(|_| send)
            .map_err(KeeperError::spool("start the thread that syncs the journal"))
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
            first = messages.recv_timeout(wait).ok();
        }
        // A group is bounded so that a commit is never put off by more work.
        let is_settling = self.keeper.has_durable();
        let most = if is_settling { MESSAGES_WHILE_SETTLING } else { limits::COMMIT_RECORDS };
        let mut next = first;
        let mut taken = 0;
        while let Some(message) = next {
            self.handle(message)?;
            self.outputs()?;
            taken += 1;
            next = if taken < most { messages.try_recv().ok() } else { None };
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
            Message::Slot(SlotEnded { job, record, ended }) => {
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
                if matches!(input, Input::Synced { .. }) {
                    // Retention may wait for this checkpoint.
                    self.state.next_look = Instant::now();
                }
                self.keeper.handle(input, now)
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
                self.state.sources = seen;
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
            Message::Reload(settings, done) => {
                self.reload(&settings)?;
                done();
                Ok(())
            }
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
            Message::StopNow => {
                self.state.draining = true;
                self.grants = None;
                self.keeper.handle(Input::Drain, now)?;
                self.clear_line()?;
                self.stop.now().map_err(KeeperError::spool("stop the workers"))
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

    /// What waits in line before the slots has not begun, and goes back to the core.
    pub(super) fn clear_line(&mut self) -> Result<(), KeeperError> {
        for job in self.pool.take_back() {
            let ended = Ended::without_rows(Verdict::Released);
            self.keeper.handle(Input::Ended { job, ended }, now_ms())?;
        }
        Ok(())
    }

    /// Nothing may age in line: the slots are longer at work than was thought, or nothing is to start.
    fn tend_line(&mut self) -> Result<(), KeeperError> {
        let is_old = |since: Instant| since.elapsed() >= limits::LONGEST_AHEAD;
        if std::mem::take(&mut self.state.clears_line)
            || self.pool.waits_since().is_some_and(is_old)
        {
            self.clear_line()?;
            self.outputs()?;
        }
        Ok(())
    }

    pub(super) fn outputs(&mut self) -> Result<(), KeeperError> {
        loop {
            for output in self.keeper.take_outputs() {
                match output {
                    Output::Start(task) => self.pool.give(task),
                    Output::StartRecords(lot) => self.pool.give_lot(lot),
                    Output::Collect(collecting) => self.collect(*collecting)?,
                    Output::Compare(task) => self.compare(task)?,
                    Output::Notice(notice) => self.notice(notice),
                    Output::Sync { before } => self.sync(before)?,
                }
            }
            if !self.keeper.go_on(now_ms())? {
                return Ok(());
            }
        }
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.state.guests.heard(&notice);
        let status = &mut self.state.status;
        match &notice {
            Notice::Finished(finished) => {
                if finished.outcome.records.is_some() {
                    status.inputs += 1;
                } else {
                    status.rows += finished.outcome.rows;
                }
                let counter = match finished.outcome.failure {
                    Some(_) => &mut status.failed,
                    None => &mut status.done,
                };
                *counter += 1;
                if let Some(history) = &mut self.history {
                    history.add(&JobLine::of(finished));
                }
            }
            Notice::RecordFailed(record) => {
                if let Some(history) = &mut self.history {
                    history.add(&JobLine::of_record(record));
                }
            }
            Notice::Paused { route, why } => {
                self.state.clears_line = true;
                status.paused.insert(route.clone(), why.clone());
                let program = self.keeper.program_time(route);
                let until = Some(Instant::now() + PAUSED_TRY);
                self.state.paused.insert(route.clone(), (until, program));
            }
            Notice::Broken { route, why } => {
                self.state.clears_line = true;
                // The core tries by itself; a mended program is worth trying at full pace at once.
                status.paused.insert(route.clone(), why.clone());
                let program = self.keeper.program_time(route);
                self.state.paused.insert(route.clone(), (None, program));
            }
            Notice::Mended { route } => {
                self.state.scanning = true;
                status.paused.remove(route);
                self.state.paused.remove(route);
            }
            Notice::DiskFull => status.disk_full = true,
            Notice::DiskHasRoom => status.disk_full = false,
            _ => {}
        }
        self.state.notices.push(notice);
    }

    /// The job log and the listener hear what has happened: once a group, since each time another
    /// thread wakes up for it, on a core that a worker could have.
    pub(super) fn tell(&mut self) {
        self.flush_history();
        for notice in self.state.notices.drain(..) {
            self.listener.notice(notice);
        }
    }

    /// Putting failed records together reads the whole input: on a thread of its own.
    fn collect(&self, collecting: Collecting) -> Result<(), KeeperError> {
        let (spool, sender) = (self.keeper.spool.clone(), self.sender.clone());
        let work = move || {
            let (job, result) = (collecting.job, collecting.run(&spool));
            // The receiver is gone only when the daemon has ended.
            drop(sender.send(Message::Input(Input::Collected { job, result })));
        };
        std::thread::Builder::new()
            .name("collect".to_owned())
            .spawn(work)
            .map(drop)
            .map_err(KeeperError::spool("start the thread that puts failed records together"))
    }

    /// Comparing reads two files to their end: on a thread of its own. The core counts it as running,
    /// so there are no more of these than slots.
    fn compare(&self, task: Task) -> Result<(), KeeperError> {
        let (spool, sender) = (self.keeper.spool.clone(), self.sender.clone());
        let work = move || {
            let claimed = Claimed::file(task.job, task.attempt);
            let is_same = super::repeat::is_same(&spool, &task.rel, claimed);
            // The receiver is gone only when the daemon has ended.
            drop(sender.send(Message::Input(Input::Compared { task, is_same })));
        };
        std::thread::Builder::new()
            .name("compare".to_owned())
            .spawn(work)
            .map(drop)
            .map_err(KeeperError::spool("start the thread that compares files"))
    }

    /// The sync of a checkpoint takes as long as the disk is busy: on a thread of its own.
    fn sync(&mut self, before: u64) -> Result<(), KeeperError> {
        let (fs, dir) = self.keeper.sync_handle();
        let sender = self.sender.clone();
        let work = move || {
            // Durable after it: all that the journal segments below `before` record.
            let message = match fs.sync_all(&dir) {
                Ok(()) => Message::Input(Input::Synced { before }),
                Err(error) => Message::SyncFailed(error),
            };
            // The receiver is gone only when the daemon has ended.
            drop(sender.send(message));
        };
        std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(work)
            .map(drop)
            .map_err(KeeperError::spool("start the sync thread"))
    }

    fn wants_scan(&self) -> bool {
        self.state.scanning
            && !self.state.draining
            && self.intake.may_scan()
            && self.keeper.wants_names()
    }

    fn wants_intake(&self) -> bool {
        self.intake.has_work() && !self.state.draining && self.keeper.wants_names()
    }

    fn scan(&mut self) -> Result<(), KeeperError> {
        if !self.wants_scan() {
            return Ok(());
        }
        let slice = if self.keeper.is_busy() { SCAN_SLICE_BUSY } else { SCAN_SLICE };
        let over = self.scan_slice(slice)?;
        self.outputs()?;
        if over {
            self.state.scanning = false;
            self.state.last_pass_offered = self.keeper.seen().offered;
            self.state.scanned = Instant::now();
            self.tell_guests()?;
        }
        Ok(())
    }

    /// Ready is who has seen what was there at the start, or has more of it than fits the window.
    fn say_ready(&mut self) {
        if self.state.is_ready {
            return;
        }
        let has_seen_all = !self.state.scanning && self.intake.is_still();
        if has_seen_all || !self.keeper.wants_names() {
            self.state.is_ready = true;
            self.listener.ready();
        }
    }

    /// What is looked at every second: paused routes, free disk, the scan's timer.
    fn look(&mut self) -> Result<(), KeeperError> {
        let now = Instant::now();
        if !self.state.scanning && self.state.last_pass_offered > 0 && self.keeper.is_dry() {
            // The window ran dry: what came meanwhile is in the folder.
            self.state.scanning = true;
        }
        if now < self.state.next_look {
            return Ok(());
        }
        self.state.next_look = now + LOOK_EVERY;
        if self.is_idle() {
            // Whatever happens is a message, and brings the next look forward.
            let scan = self.state.scanned + self.scan_interval();
            self.state.next_look = scan.clamp(now + LOOK_EVERY, now + LOOK_IDLE);
        }
        // Asked each time: that some folder cannot be watched may be known only after the pass.
        if now >= self.state.scanned + self.scan_interval() {
            self.state.scanning = true;
        }
        self.look_at_intake()?;
        self.look_at_disk()?;
        self.look_at_memory()?;
        self.sweep(now);
        if self.state.is_ready && !self.state.draining {
            self.look_at_retention(self.state.status.done + self.state.status.failed)?;
        }
        self.tell_guests()?;
        self.look_at_paused(now)
    }

    /// Nothing is under way, nothing waits, nothing is wrong: time alone changes nothing.
    fn is_idle(&self) -> bool {
        let state = &self.state;
        let counts = self.keeper.counts();
        let known = counts.candidates + counts.held + counts.ready + counts.waiting + counts.stuck;
        self.mode == Mode::Watch
            && state.is_ready
            && !state.scanning
            && known == 0
            && self.keeper.is_still()
            && state.paused.is_empty()
            && state.guests.is_empty()
            && !state.status.disk_full
            && self.min_free_memory == 0
            && state.swept == state.status.done + state.status.failed
            && !self.intake.wants_clock()
            && !self.retention.is_on()
    }

    /// Ends what escaped from the group of a worker that has ended. Looks only after a job ended, so an
    /// idle daemon reads nothing.
    fn sweep(&mut self, now: Instant) {
        let ended = self.state.status.done + self.state.status.failed;
        if ended == self.state.swept || now < self.state.next_sweep {
            return;
        }
        self.state.swept = ended;
        self.state.next_sweep = now + SWEEP_EVERY;
        let keeper = &self.keeper;
        let swept = super::children::sweep(&|job| keeper.is_running(job));
        if let Err(error) = swept {
            self.listener.notice(Notice::SweepFailed { reason: error.to_string() });
        }
    }

    fn look_at_disk(&mut self) -> Result<(), KeeperError> {
        let Some((free, total)) = self.keeper.free_disk() else { return Ok(()) };
        let floor = self.min_free_disk.min(total / 100 * limits::MIN_FREE_PERCENT);
        let is_low = free < floor;
        if is_low == self.state.low_disk {
            return Ok(());
        }
        self.state.low_disk = is_low;
        let notice = if is_low { Notice::LowDisk { free, floor } } else { Notice::DiskHasRoom };
        self.state.status.disk_full = is_low;
        self.listener.notice(notice);
        self.keeper.handle(Input::Claims { allowed: !is_low }, now_ms())?;
        self.outputs()
    }

    fn look_at_memory(&mut self) -> Result<(), KeeperError> {
        let floor = self.min_free_memory;
        let free = if floor == 0 { None } else { super::free_memory::available() };
        let low = free.filter(|free| *free < floor).map(|free| LowMemory { free, floor });
        let was_low = self.state.status.low_memory.is_some();
        self.state.status.low_memory = low;
        if low.is_some() == was_low {
            return Ok(());
        }
        self.listener.notice(match low {
            Some(LowMemory { free, floor }) => Notice::LowMemory { free, floor },
            None => Notice::MemoryIsBack,
        });
        self.keeper.handle(Input::Starts { allowed: low.is_none() }, now_ms())?;
        self.state.clears_line = low.is_some();
        self.outputs()
    }

    fn look_at_paused(&mut self, now: Instant) -> Result<(), KeeperError> {
        let mut again = Vec::new();
        for (route, (until, program)) in &self.state.paused {
            if until.is_some_and(|until| now >= until)
                || self.keeper.program_time(route) != *program
            {
                again.push(route.clone());
            }
        }
        for route in again {
            self.state.paused.remove(&route);
            self.state.status.paused.remove(&route);
            self.keeper.handle(Input::Resume { route }, now_ms())?;
            // Of its names no more than a share was kept.
            self.state.scanning = true;
            self.outputs()?;
        }
        Ok(())
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

    fn status(&self) -> Status {
        let mut status = self.state.status.clone();
        let counts: Counts = self.keeper.counts();
        let seen = self.keeper.seen();
        status.up_ms = u64::try_from(self.state.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for (route, why) in &mut status.paused {
            why.files = self.keeper.waiting_for(route);
        }
        status.oldest_ms = self.keeper.oldest_ms().map(|at| now_ms().saturating_sub(at));
        let records = self.keeper.record_counts();
        status.records_done = records.done;
        status.records_failed = records.failed;
        status.rows += records.rows;
        status.input_bytes = self.keeper.input_bytes();
        status.waiting = counts.candidates + counts.ready + counts.waiting;
        status.running = counts.running;
        status.routes = self.keeper.loads();
        status.held = counts.held;
        status.incomplete = counts.incomplete;
        status.held_files = self.keeper.held(limits::HELD_SHOWN, now_ms());
        status.events = self.intake.events();
        status.events_fix = self.intake.events_fix();
        status.overflows = self.intake.overflows;
        status.unrouted = seen.unrouted;
        status.unrouted_example = seen.unrouted_example.as_ref().map(ToString::to_string);
        status.counted.clone_from(&self.retention.counted);
        status.lone_sentinels = seen.lone_sentinels;
        status.lone_example = seen.lone_example.as_ref().map(ToString::to_string);
        status.trouble.clone_from(&seen.unreadable);
        status.stuck = counts.stuck + counts.stuck_candidates;
        status
    }

    /// Seals the CSVs at the end of a `batch --seal`, once; the seals are then committed like any record.
    fn seals(&mut self) -> Result<bool, KeeperError> {
        let asked = matches!(self.mode, Mode::Batch { seal: true });
        if !asked || self.state.draining || self.state.has_sealed {
            return Ok(false);
        }
        self.state.has_sealed = true;
        self.keeper.seal(now_ms())?;
        Ok(true)
    }

    fn is_over(&self) -> bool {
        if !self.keeper.is_still() {
            return false;
        }
        if self.state.draining {
            return true;
        }
        // With so many jobs of paused routes no further source is let in: it ends, and says so.
        let is_blocked = self.keeper.counts().stuck > STAGE_AHEAD / 2;
        let has_sources = self.grants.is_some() && !is_blocked;
        self.mode != Mode::Watch
            && !has_sources
            && !self.retention.is_busy()
            && self.nothing_waits()
    }

    /// Nothing runs, and nothing that is known waits for anything but a person or a far time.
    pub(super) fn nothing_waits(&self) -> bool {
        if !self.keeper.is_still() || !self.state.is_ready {
            return false;
        }
        let counts = self.keeper.counts();
        let patience = u64::try_from(limits::BATCH_PATIENCE.as_millis()).unwrap_or(u64::MAX);
        !self.keeper.expects_files(patience, now_ms())
            && !self.state.scanning
            && self.state.last_pass_offered == 0
            && counts.candidates == counts.stuck_candidates
            && counts.ready == 0
            && counts.open == 0
            && counts.waiting == counts.incomplete
    }

    fn flush_history(&mut self) {
        match self.history.as_mut().map(History::flush) {
            // A log that cannot be written must not stop a job: said once, and tried again.
            Some(Err(error)) if !self.state.history_failed => {
                self.state.history_failed = true;
                self.listener.notice(Notice::HistoryFailed { reason: error.to_string() });
            }
            Some(Ok(())) => self.state.history_failed = false,
            _ => {}
        }
    }

    /// The clean end: everything durable, one journal segment, nothing of ours in `processing/`.
    fn finish(mut self, messages: &Receiver<Message>) -> Result<Summary, KeeperError> {
        let summary = Summary { status: self.status(), sources: self.state.sources.clone() };
        self.tell();
        self.keeper.tidy()?;
        if self.keeper.has_news() {
            // A checkpoint still under way must return first: one at a time.
            while self.keeper.is_checkpointing() {
                match messages.recv() {
                    Ok(message) => self.handle(message)?,
                    Err(_) => break,
                }
            }
            self.keeper.checkpoint(now_ms())?;
            for output in self.keeper.take_outputs() {
                if let Output::Sync { before } = output {
                    let (fs, dir) = self.keeper.sync_handle();
                    fs.sync_all(&dir).map_err(KeeperError::spool("sync the spool's filesystem"))?;
                    self.keeper.handle(Input::Synced { before }, now_ms())?;
                }
            }
        }
        self.pool.join();
        Ok(summary)
    }
}
