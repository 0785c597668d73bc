//! The state of all jobs that are claimed, and what to do next: `step(event, now) -> effects`.
//!
//! Must not know: the disk, the clock, the runtime, logging. The keeper carries the effects out, in
//! their order, and reports what became of them as further events.
//!
//! Invariants
//! - At most `slots` jobs run, at most `max_running` of a route, none of a paused route.
//! - While jobs are short, a few more are started than there are slots, and wait in line ([`line`]).
//! - A job that was lost twice runs alone.
//! - A permit is there before a claim: a free slot, or a place in that line.
//! - Each job gets one `RecordOutcome`, and after it no `Start`.
//! - A job starts its attempt N+1 only after the end of N is recorded.
//! - Memory is bounded: the window of names, the table of held names, the jobs that wait.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

mod inputs;
mod line;
mod reconfigure;

use super::backoff::{self, Backoff};
use super::pace::{Pace, PaceRules};
use super::records::{Loss, Past, Tried, Window};
use super::retry::RetryOn;
use super::{FailClass, Failure, JobId, RelPath, Spent, Verdict};

/// Unix milliseconds, passed in by whoever has a clock.
pub type Millis = u64;

/// A held name whose time has come finds no room in the window: it waits so much longer, in milliseconds.
const FULL_WINDOW_AGAIN: Millis = 1_000;

/// How much may be going on at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Workers at once.
    pub slots: usize,
    /// Jobs in the line before the slots, so that no slot waits for a short job.
    pub ahead: usize,
    /// Names known and not yet claimed.
    pub window: usize,
    /// Jobs that wait for a further attempt; beyond it nothing new is claimed.
    pub waiting: usize,
    /// An incomplete file becomes an error after this many milliseconds.
    pub incomplete_for: Millis,
    /// Of records that are tasks of their own.
    pub records: RecordLimits,
}

/// How many records may be on their way.
#[derive(Clone, Copy, Debug)]
pub struct RecordLimits {
    /// Inputs whose records run, at once.
    pub inputs: usize,
    /// Records of one input that are read and not over.
    pub window: usize,
    /// A slot gets records for about so many microseconds …
    pub lot_us: u64,
    /// … and at most so many.
    pub lot_most: usize,
}

/// What the core must know of a route.
#[derive(Clone, Debug)]
pub struct RouteRules {
    /// Further attempts by budget.
    pub retries: Spent,
    /// Which failures these are for; `None`: all that have a budget.
    pub retry_on: Option<RetryOn>,
    /// How long the further attempts wait.
    pub backoff: Backoff,
    /// How fast it may start, and when its breaker opens.
    pub pace: PaceRules,
    /// Slots it may use at once.
    pub max_running: usize,
    /// Higher goes first.
    pub priority: i32,
    /// It pauses after so many failed jobs, or records, in a row.
    pub pause_after_failures: Option<u32>,
    /// Each record of a file is a task of its own.
    pub records: bool,
}

/// A name that could be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Path below `incoming/`.
    pub rel: RelPath,
    /// Index of its route.
    pub route: usize,
    /// Lower goes first: the time it came, in nanoseconds.
    pub order: i64,
}

/// A job found in `processing/` at start, with what the journal says of it.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The job.
    pub job: JobId,
    /// Its route now; `None` where no route takes it any more: it waits.
    pub route: Option<usize>,
    /// Attempts begun, from its name.
    pub begun: u32,
    /// The last attempt whose end is recorded; 0 for none.
    pub ended: u32,
    /// What it had spent at that end.
    pub spent: Spent,
    /// From that end.
    pub not_before: Millis,
    /// From that end.
    pub incomplete_since: Option<Millis>,
    /// What is recorded of its records, if any were begun.
    pub records: Option<Past>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Start-up found a claimed job; or a reload brought a route for one that had none.
    Recovered(Recovered),
    /// [`Effect::Claim`] succeeded: S1 → S2.
    Claimed {
        /// The new job.
        job: JobId,
        /// Its route.
        route: usize,
    },
    /// [`Effect::Claim`] took something that must not run, such as a symbolic link.
    Rejected {
        /// The new job.
        job: JobId,
        /// Its route.
        route: usize,
        /// Why it must not run.
        failure: Failure,
    },
    /// A source of `batch` became a job, `ID.0`.
    Taken {
        /// The new job.
        job: JobId,
        /// Its route.
        route: usize,
    },
    /// [`Effect::Claim`] did not succeed, or must not be made yet; it is asked for again at `until`.
    Held {
        /// What was to be claimed.
        candidate: Candidate,
        /// `None`: it is gone, a lost race.
        until: Option<Millis>,
    },
    /// [`Effect::Claim`] was not made: what is in the file says that it is for another route.
    Sorted {
        /// What was to be claimed, with its route.
        candidate: Candidate,
        /// The route that it was to be claimed for.
        from: usize,
    },
    /// [`Effect::Start`] was not carried out: what is in the claimed file says that it is for another
    /// route, or for none. Its name says already that the attempt has not begun.
    Resorted {
        /// The job.
        job: JobId,
        /// Its route, or why it has none.
        to: Result<usize, Failure>,
    },
    /// [`Effect::Start`] must not be carried out yet: somebody still writes into the claimed file.
    Busy {
        /// The job.
        job: JobId,
        /// When it is looked at again.
        until: Millis,
    },
    /// [`Effect::Start`] could not be carried out although the job is there.
    StartFailed {
        /// The job.
        job: JobId,
    },
    /// A worker's attempt ended.
    Ended {
        /// The job.
        job: JobId,
        /// How.
        verdict: Verdict,
    },
    /// [`Effect::Start`] of a job with records: it is open.
    Opened {
        /// The job.
        job: JobId,
    },
    /// The answer to [`Effect::ReadRecords`].
    Read {
        /// The job.
        job: JobId,
        /// Their numbers, rising.
        numbers: Vec<u64>,
        /// No more bytes are taken before one of them is over.
        is_full: bool,
        /// There are no more.
        at_end: bool,
    },
    /// The input of an open job cannot be read on.
    InputBroken {
        /// The job.
        job: JobId,
        /// Why.
        failure: Failure,
    },
    /// A slot is done with a record.
    RecordEnded {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// How.
        verdict: Verdict,
        /// How long it took, in microseconds.
        took_us: u64,
        /// And the slot with its lot.
        is_last: bool,
    },
    /// The line of [`Effect::RecordInput`] or [`Effect::RecordTried`] is durable.
    RecordRecorded {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// It is over and has failed, as its rows decided perhaps.
        failed: bool,
    },
    /// The line of [`Effect::RecordAttempt`] or [`Effect::RecordOutcome`] is durable.
    Recorded {
        /// The job.
        job: JobId,
    },
    /// Nothing but time: there is no other work now.
    Tick,
    /// No more starts, no more claims.
    Drain,
    /// Claiming may go on or must wait (disk).
    Claims {
        /// Whether it may.
        allowed: bool,
    },
    /// Starting may go on or must wait (memory), and claiming with it.
    Starts {
        /// Whether it may.
        allowed: bool,
    },
    /// A paused route is tried again.
    Resume {
        /// Which.
        route: usize,
    },
}

/// What the keeper must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Rename into `processing/`, as `ID.1`: its place is kept. Answer: `Claimed` or `Held`.
    Claim {
        /// What to claim.
        candidate: Candidate,
    },
    /// Name the job `ID.attempt` if it is not, and give it to the slots. Answer, some time: `Ended`.
    Start {
        /// The job.
        job: JobId,
        /// Its route.
        route: usize,
        /// From 1.
        attempt: u32,
        /// It has been lost before: make its name durable first, so that the next loss counts.
        suspect: bool,
    },
    /// Journal the end of an attempt. Answer: `Recorded`.
    RecordAttempt {
        /// The job.
        job: JobId,
        /// Which attempt ended.
        attempt: u32,
        /// All it has spent.
        spent: Spent,
        /// Not before.
        not_before: Millis,
        /// See the record.
        incomplete_since: Option<Millis>,
        /// Of a job with records that was lost.
        loss: Option<Loss>,
        /// Why.
        reason: String,
    },
    /// Journal the outcome, with the rows of the last `Ended` where there is no failure, and settle
    /// once it is durable. Answer: `Recorded`, from when on the core knows nothing of the job.
    RecordOutcome {
        /// The job.
        job: JobId,
        /// Attempts begun.
        attempts: u32,
        /// All it has spent.
        spent: Spent,
        /// Why it failed, if it did.
        failure: Option<Failure>,
    },
    /// Read on in the input of an open job. Answer: `Read` or `InputBroken`.
    ReadRecords {
        /// The job.
        job: JobId,
        /// At most so many.
        most: usize,
    },
    /// Give these records to a slot, each with its attempt, from 1. Answers, some time: `RecordEnded`.
    StartRecords {
        /// The job.
        job: JobId,
        /// Its route.
        route: usize,
        /// Number and attempt.
        lot: Vec<(u64, u32)>,
    },
    /// Journal an attempt at a record: that it ended and another one follows, or that it begins alone.
    /// Answer: `RecordRecorded`.
    RecordTried {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// What it has spent, and when it may start.
        tried: Tried,
        /// It begins now, with nothing else in any slot.
        alone: bool,
        /// Why.
        reason: String,
    },
    /// Journal the outcome of a record, with the rows of its last end where there is no failure.
    /// Answer: `RecordRecorded`.
    RecordInput {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// Attempts begun.
        attempts: u32,
        /// Why it failed, if it did.
        failure: Option<Failure>,
    },
    /// All records are over: put the failed ones into a file of their own. Answer: `Ended`.
    Collect {
        /// The job.
        job: JobId,
    },
    /// Name the job `ID.begun` again: the attempt costs nothing.
    Release {
        /// The job.
        job: JobId,
        /// Attempts begun that count.
        begun: u32,
    },
    /// A route pauses.
    Pause {
        /// Which.
        route: usize,
        /// Why.
        reason: String,
    },
    /// A route's breaker opened: one job at a time is tried, now and then.
    Break {
        /// Which.
        route: usize,
        /// Why.
        reason: String,
    },
    /// A route's breaker closed: a worker answered.
    Mend {
        /// Which.
        route: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Claimed, may start when a slot is free.
    Ready,
    /// Not before a time.
    Waiting(Millis),
    /// A slot has it, or takes it next.
    Running,
    /// Its records are tasks of their own.
    Open,
    /// Its failed records are being put together.
    Collecting,
    /// The end of an attempt is being recorded; then it waits until the time.
    RecordingAttempt(Millis),
    /// The outcome is being recorded.
    RecordingOutcome,
    /// No route takes it any more.
    Unrouted,
}

#[derive(Clone, Debug)]
struct Job {
    route: usize,
    phase: Phase,
    /// Attempts begun that count.
    begun: u32,
    spent: Spent,
    /// When the last attempt was started.
    started: Millis,
    incomplete_since: Option<Millis>,
    /// Where each record is a task of its own.
    records: Option<Box<Window>>,
}

impl Job {
    /// Its next attempt must have the machine to itself.
    fn is_suspect(&self) -> bool {
        self.spent.lost >= 2
    }
}

/// A name whose claim waits.
#[derive(Clone, Copy, Debug)]
struct Hold {
    until: Millis,
    route: usize,
    order: i64,
}

#[derive(Clone, Debug)]
struct RouteState {
    rules: RouteRules,
    /// The window: names by order of arrival.
    queue: BTreeMap<(i64, u64), RelPath>,
    /// Claimed and due.
    ready: BTreeSet<JobId>,
    running: usize,
    /// Of these, lots of records.
    lots: usize,
    /// Claims asked for and not answered yet: each keeps its place.
    promised: usize,
    failures_in_row: u32,
    paused: bool,
    pace: Pace,
}

impl RouteState {
    /// Slots that it uses or has been promised.
    fn used(&self) -> usize {
        self.running + self.promised
    }

    /// Whether it may start anything now, slots aside.
    fn may_start(&self, now: Millis) -> bool {
        !self.paused && self.pace.permits(self.used(), self.promised, now)
    }

    /// No end of its files is in sight: it is paused, or its breaker is open and stays so.
    fn is_stuck(&self) -> bool {
        self.paused || self.pace.is_hopeless()
    }

    /// The claimed job that goes first. While the breaker is open, one that did not open it, if there is any:
    /// a few bad files must not keep the good ones behind them waiting.
    fn first_ready(&self) -> Option<JobId> {
        if !self.pace.is_open() {
            return self.ready.first().copied();
        }
        let fresh = self.ready.iter().find(|job| !self.pace.accuses(job));
        match fresh {
            None if self.queue.is_empty() => self.ready.first().copied(),
            fresh => fresh.copied(),
        }
    }
}

/// How many of each, for `status` and for the end of `batch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names in the window.
    pub candidates: usize,
    /// Names whose claim waits.
    pub held: usize,
    /// Claimed, due, waiting for a slot.
    pub ready: usize,
    /// Waiting for their time.
    pub waiting: usize,
    /// Of these, incomplete files.
    pub incomplete: usize,
    /// Open, for their records.
    pub open: usize,
    /// In a slot.
    pub running: usize,
    /// Waiting for the journal.
    pub recording: usize,
    /// Claimed, but of a paused route or of none, or of one whose trials keep crashing.
    pub stuck: usize,
    /// Names in the window of such routes.
    pub stuck_candidates: usize,
}

/// All that is decided, decided here.
#[derive(Clone, Debug)]
pub struct Core {
    limits: Limits,
    routes: Vec<RouteState>,
    jobs: HashMap<JobId, Job>,
    /// `Phase::Waiting` by time.
    timers: BTreeSet<(Millis, JobId)>,
    /// Names in a window, so that a second sighting adds nothing.
    known: HashSet<RelPath>,
    /// Names whose claim waits, each with its own deadline; they take no place in the window.
    held: HashMap<RelPath, Hold>,
    /// The same by deadline.
    hold_timers: BTreeSet<(Millis, RelPath)>,
    /// `Phase::Open`.
    open: BTreeSet<JobId>,
    /// Records that wait, by time.
    record_timers: BTreeSet<(Millis, JobId, u64)>,
    next_seq: u64,
    running: usize,
    /// Of these, lots of records.
    lots: usize,
    /// Where records and whole files have as many slots: whose turn it is.
    records_next: bool,
    /// Over all routes, as in `RouteState`.
    promised: usize,
    recording: usize,
    /// The job that has the machine to itself.
    alone: Option<JobId>,
    draining: bool,
    claims_allowed: bool,
    starts_allowed: bool,
    /// The last job was short.
    is_brisk: bool,
    /// The time of the last step.
    clock: Millis,
}

impl Core {
    /// An idle core.
    pub fn new(limits: Limits, routes: Vec<RouteRules>) -> Self {
        let routes = routes.into_iter().map(RouteState::new).collect();
        Self {
            limits,
            routes,
            jobs: HashMap::new(),
            timers: BTreeSet::new(),
            known: HashSet::new(),
            held: HashMap::new(),
            hold_timers: BTreeSet::new(),
            open: BTreeSet::new(),
            record_timers: BTreeSet::new(),
            next_seq: 0,
            running: 0,
            lots: 0,
            records_next: false,
            promised: 0,
            recording: 0,
            alone: None,
            draining: false,
            claims_allowed: true,
            starts_allowed: true,
            is_brisk: false,
            clock: 0,
        }
    }

    /// Takes one event in and appends what is to be done now.
    pub fn step(&mut self, event: Event, now: Millis, out: &mut Vec<Effect>) {
        self.clock = now;
        match event {
            Event::Recovered(found) => self.recovered(&found, now, out),
            Event::Claimed { job, route } => self.claimed(job, route, now, out),
            Event::Rejected { job, route, failure } => {
                self.answered(route);
                self.insert(job, route, Phase::Ready, 1, Spent::default());
                self.failed(job, failure, now, out);
            }
            Event::Taken { job, route } => {
                self.insert(job, route, Phase::Ready, 0, Spent::default());
            }
            Event::Held { candidate, until } => {
                self.answered(candidate.route);
                if let Some(until) = until {
                    self.hold(candidate, until);
                }
            }
            Event::Sorted { candidate, from } => {
                self.answered(from);
                if !self.known.contains(&candidate.rel) {
                    self.enqueue(candidate);
                }
            }
            Event::Resorted { job, to } => self.resorted(job, to, now, out),
            Event::StartFailed { job } => self.not_started(job, now.saturating_add(1_000)),
            Event::Busy { job, until } => self.not_started(job, until),
            Event::Ended { job, verdict } => self.ended(job, verdict, now, out),
            Event::Opened { job } => self.opened(job),
            Event::Read { job, numbers, is_full, at_end } => {
                self.read(job, &numbers, is_full, at_end, now);
            }
            Event::InputBroken { job, failure } => self.input_broken(job, failure),
            Event::RecordEnded { job, no, verdict, took_us, is_last } => {
                self.record_ended(job, no, verdict, (took_us, is_last), now, out);
            }
            Event::RecordRecorded { job, no, failed } => {
                self.record_recorded(job, no, failed, now);
            }
            Event::Recorded { job } => self.recorded(job, now),
            Event::Tick => {}
            Event::Drain => self.draining = true,
            Event::Claims { allowed } => self.claims_allowed = allowed,
            Event::Starts { allowed } => self.starts_allowed = allowed,
            Event::Resume { route } => {
                if let Some(route) = self.routes.get_mut(route) {
                    route.paused = false;
                    route.pace.close();
                    route.failures_in_row = 0;
                }
            }
        }
        self.fire_timers(now);
        self.fire_record_timers(now);
        self.tend_inputs(out);
        self.dispatch(now, out);
    }

    /// Offers a name without starting anything; a later [`Core::step`] does. For scans, which offer many.
    pub fn offer(&mut self, candidate: Candidate, now: Millis) {
        self.found(candidate, now);
    }

    /// Whether a slot has this job.
    pub fn is_running(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|job| job.phase == Phase::Running)
    }

    /// Jobs that a slot has.
    pub fn running(&self) -> usize {
        self.running
    }

    /// How many more names the window takes; 0 while nothing may be claimed.
    pub fn room(&self) -> usize {
        if self.draining { 0 } else { self.limits.window.saturating_sub(self.known.len()) }
    }

    /// The phase of a job in a word, and when its wait ends.
    pub fn describe(&self, job: JobId) -> Option<(&'static str, Option<Millis>)> {
        let job = self.jobs.get(&job)?;
        let route = self.routes.get(job.route);
        let paused = route.is_some_and(RouteState::is_stuck);
        let slowed = route.and_then(|route| route.pace.next(self.clock));
        let trials = route.is_some_and(|route| route.pace.is_open());
        Some(match job.phase {
            Phase::Unrouted => ("no route takes it", None),
            Phase::Ready | Phase::Waiting(_) if paused => ("its route is paused", None),
            Phase::Ready if trials => {
                ("its route is paused, one file is tried every minute", slowed)
            }
            Phase::Ready if slowed.is_some() => ("waiting for the rate of its route", slowed),
            Phase::Ready => ("waiting for a slot", None),
            Phase::Waiting(at) if job.incomplete_since.is_some() => ("incomplete", Some(at)),
            Phase::Waiting(at) => ("waiting for another attempt", Some(at)),
            Phase::Running | Phase::Open => ("running", None),
            Phase::Collecting => ("putting its failed records together", None),
            Phase::RecordingAttempt(_) | Phase::RecordingOutcome => ("being recorded", None),
        })
    }

    /// When the next wait ends, if one does.
    pub fn next_timer(&self) -> Option<Millis> {
        let hold = self.hold_timers.first().map(|(at, _)| *at);
        let has_files = |route: &&RouteState| !route.ready.is_empty() || !route.queue.is_empty();
        let with_files = self.routes.iter().filter(has_files);
        let paces = with_files.chain(self.routes_with_records());
        let pace = paces.filter_map(|it| it.pace.next(self.clock)).min();
        let record = self.record_timers.first().map(|(at, ..)| *at);
        let job = self.timers.first().map(|(at, _)| *at);
        [job, hold, record, pace].into_iter().flatten().min()
    }

    /// The lowest order of all names in the windows.
    pub fn oldest(&self) -> Option<i64> {
        self.routes.iter().filter_map(|route| route.queue.keys().next()).map(|(at, _)| *at).min()
    }

    /// No name in a window could be claimed now: all are of paused routes, or of such as do not run.
    pub fn is_dry(&self) -> bool {
        self.routes.iter().all(|route| route.is_stuck() || route.queue.is_empty())
    }

    /// Whether this name waits after a claim that could not be made.
    pub fn holds(&self, rel: &RelPath) -> bool {
        self.held.contains_key(rel)
    }

    /// Something happened to this name: it need not wait for its deadline.
    pub fn unhold(&mut self, rel: &RelPath) {
        if let Some(hold) = self.held.remove(rel) {
            self.hold_timers.remove(&(hold.until, rel.clone()));
        }
    }

    /// How many of each.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            candidates: self.known.len(),
            held: self.held.len(),
            running: self.running.min(self.limits.slots),
            recording: self.recording,
            ..Counts::default()
        };
        for route in &self.routes {
            if route.is_stuck() {
                counts.stuck_candidates += route.queue.len();
            }
        }
        for job in self.jobs.values() {
            let is_stuck = self.routes.get(job.route).is_some_and(RouteState::is_stuck);
            match job.phase {
                Phase::Unrouted => counts.stuck += 1,
                Phase::Ready | Phase::Waiting(_) if is_stuck => counts.stuck += 1,
                Phase::Ready => counts.ready += 1,
                Phase::Open => counts.open += 1,
                Phase::Waiting(_) => {
                    counts.waiting += 1;
                    counts.incomplete += usize::from(job.incomplete_since.is_some());
                }
                _ => {}
            }
        }
        counts
    }

    /// Names and claimed jobs of a route that wait for it.
    pub fn waiting_for(&self, route: usize) -> usize {
        let names = self.routes.get(route).map_or(0, |route| route.queue.len());
        let waits = |phase: &Phase| matches!(phase, Phase::Ready | Phase::Waiting(_));
        let jobs = self.jobs.values().filter(|job| job.route == route && waits(&job.phase));
        names + jobs.count()
    }

    /// Names and jobs of a route that wait, and those that a slot has.
    pub fn load(&self, route: usize) -> (usize, usize) {
        let Some(state) = self.routes.get(route) else { return (0, 0) };
        let mine = self.jobs.values().filter(|job| job.route == route);
        let waiting = mine.filter(|job| matches!(job.phase, Phase::Ready | Phase::Waiting(_)));
        (state.queue.len() + waiting.count(), state.running)
    }

    /// Nothing runs and nothing waits for the journal: a drain is over.
    pub fn is_still(&self) -> bool {
        self.running + self.promised + self.recording == 0
    }

    /// No end of a route's files is in sight: it is paused, or its breaker is open and stays so.
    pub fn is_stuck(&self, route: usize) -> bool {
        self.routes.get(route).is_some_and(RouteState::is_stuck)
    }

    /// Whether a route is paused.
    pub fn is_paused(&self, route: usize) -> bool {
        self.routes.get(route).is_some_and(|route| route.paused)
    }

    /// Whether new files may be claimed now.
    pub fn may_claim(&self) -> bool {
        self.claims_allowed
            && self.starts_allowed
            && !self.draining
            && self.timers.len() < self.limits.waiting
    }

    fn insert(&mut self, job: JobId, route: usize, phase: Phase, begun: u32, spent: Spent) {
        let state = Job {
            route,
            phase: Phase::Unrouted,
            begun,
            spent,
            started: 0,
            incomplete_since: None,
            records: None,
        };
        let before = self.jobs.insert(job, state);
        assert!(before.is_none(), "job {job} exists twice");
        self.enter(job, phase);
    }

    /// The only way from one phase to another: keeps the counters and sets that depend on it.
    fn enter(&mut self, id: JobId, phase: Phase) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(route) = self.routes.get_mut(job.route) else { return };
        match job.phase {
            Phase::Ready => {
                route.ready.remove(&id);
            }
            Phase::Waiting(at) => {
                self.timers.remove(&(at, id));
            }
            Phase::Running => {
                route.running -= 1;
                self.running -= 1;
                if self.alone == Some(id) {
                    self.alone = None;
                }
            }
            Phase::Open => {
                self.open.remove(&id);
            }
            Phase::RecordingAttempt(_) | Phase::RecordingOutcome | Phase::Collecting => {
                self.recording -= 1;
            }
            Phase::Unrouted => {}
        }
        match phase {
            Phase::Ready => {
                route.ready.insert(id);
            }
            Phase::Waiting(at) => {
                self.timers.insert((at, id));
            }
            Phase::Running => {
                route.running += 1;
                self.running += 1;
                if job.is_suspect() {
                    self.alone = Some(id);
                }
            }
            Phase::Open => {
                self.open.insert(id);
            }
            Phase::RecordingAttempt(_) | Phase::RecordingOutcome | Phase::Collecting => {
                self.recording += 1;
            }
            Phase::Unrouted => {}
        }
        job.phase = phase;
    }

    fn recovered(&mut self, found: &Recovered, now: Millis, out: &mut Vec<Effect>) {
        if self.jobs.get(&found.job).is_some_and(|job| job.phase == Phase::Unrouted) {
            self.jobs.remove(&found.job);
        }
        let Some(route) = found.route.filter(|at| *at < self.routes.len()) else {
            self.insert(found.job, usize::MAX, Phase::Unrouted, found.begun, found.spent);
            return;
        };
        self.insert(found.job, route, Phase::Waiting(now), found.begun, found.spent);
        let is_lost = found.begun > found.ended;
        if self.recovered_input(found.job, found.records.clone(), is_lost, now, out) && is_lost {
            return;
        }
        if found.begun > found.ended {
            // An attempt without an end: the daemon or the machine died under it.
            let failure =
                Failure::new(FailClass::Lost, "lost: inboxd or the machine died under it");
            self.failed(found.job, failure, now, out);
            return;
        }
        if let Some(job) = self.jobs.get_mut(&found.job) {
            job.incomplete_since = found.incomplete_since;
        }
        self.enter(found.job, Phase::Waiting(found.not_before));
    }

    fn found(&mut self, candidate: Candidate, now: Millis) {
        if self.room() == 0 || self.known.contains(&candidate.rel) {
            return;
        }
        if self.held.get(&candidate.rel).is_some_and(|hold| hold.until > now) {
            return;
        }
        if candidate.route >= self.routes.len() || self.has_its_share(candidate.route) {
            return;
        }
        self.unhold(&candidate.rel);
        self.enqueue(candidate);
    }

    /// Names of routes that are paused or slowed take no more than a quarter of the window: the others'
    /// must find room. What is turned away is found again by a scan.
    fn has_its_share(&self, route: usize) -> bool {
        let is_slow = |route: &RouteState| route.paused || route.pace.is_slow();
        if !self.routes.get(route).is_some_and(is_slow) {
            return false;
        }
        let slow = self.routes.iter().filter(|route| is_slow(route));
        slow.map(|route| route.queue.len()).sum::<usize>() >= self.limits.window / 4
    }

    /// A route is paused or slowed: its names beyond its share leave the window.
    fn shrink_to_share(&mut self, route: usize) {
        let most = self.limits.window / 4;
        let Some(route) = self.routes.get_mut(route) else { return };
        while route.queue.len() > most {
            let Some((_, rel)) = route.queue.pop_last() else { return };
            self.known.remove(&rel);
        }
    }

    fn enqueue(&mut self, candidate: Candidate) {
        let Some(route) = self.routes.get_mut(candidate.route) else { return };
        self.known.insert(candidate.rel.clone());
        route.queue.insert((candidate.order, self.next_seq), candidate.rel);
        self.next_seq += 1;
    }

    fn hold(&mut self, candidate: Candidate, until: Millis) {
        self.unhold(&candidate.rel);
        // The table is bounded like the window; what does not fit is found again by the next scan.
        if self.held.len() < self.limits.window {
            let Candidate { rel, route, order } = candidate;
            self.hold_timers.insert((until, rel.clone()));
            self.held.insert(rel, Hold { until, route, order });
        }
    }

    /// A claim was answered: what it kept is free again, or about to be used.
    fn answered(&mut self, route: usize) {
        let Some(state) = self.routes.get_mut(route) else { return };
        state.promised -= 1;
        self.promised -= 1;
    }

    fn claimed(&mut self, job: JobId, route: usize, now: Millis, out: &mut Vec<Effect>) {
        self.answered(route);
        self.insert(job, route, Phase::Ready, 0, Spent::default());
        // Another claim of the same moment may have been the failure that paused the route.
        if self.draining || self.is_paused(route) {
            out.push(Effect::Release { job, begun: 0 });
        } else {
            self.start(job, now, out);
        }
    }

    fn start(&mut self, id: JobId, now: Millis, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        assert!(job.phase == Phase::Ready, "{id} starts although it is not ready");
        job.begun = job.begun.saturating_add(1);
        job.started = now;
        let suspect = job.spent.lost > 0;
        let at = job.route;
        out.push(Effect::Start { job: id, route: at, attempt: job.begun, suspect });
        if let Some(route) = self.routes.get_mut(at) {
            route.pace.started(now);
        }
        self.enter(id, Phase::Running);
    }

    /// The attempt did not begin, so it costs nothing.
    fn not_started(&mut self, id: JobId, until: Millis) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase == Phase::Running) {
            job.begun = job.begun.saturating_sub(1);
            if let Some(route) = self.routes.get_mut(job.route) {
                route.pace.not_started();
            }
            self.enter(id, Phase::Waiting(until));
        }
    }

    /// The attempt did not begin, and its job goes to another route or to its end.
    fn resorted(
        &mut self,
        id: JobId,
        to: Result<usize, Failure>,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase == Phase::Running) else {
            return;
        };
        job.begun = job.begun.saturating_sub(1);
        match to {
            Ok(route) => {
                self.enter(id, Phase::Unrouted);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.route = route;
                }
                self.enter(id, Phase::Ready);
            }
            Err(failure) => self.failed(id, failure, now, out),
        }
    }

    fn ended(&mut self, id: JobId, verdict: Verdict, now: Millis, out: &mut Vec<Effect>) {
        let is_at_work = |job: &&mut Job| matches!(job.phase, Phase::Running | Phase::Collecting);
        let Some(job) = self.jobs.get_mut(&id).filter(is_at_work) else { return };
        let route = job.route;
        let started = job.started;
        self.note_pace(started, &verdict, now);
        if pace_by_end(&mut self.routes, (route, id), &verdict, now, out) {
            self.shrink_to_share(route);
        }
        let Some(job) = self.jobs.get(&id) else { return };
        match verdict {
            Verdict::Done => {
                out.push(outcome(id, job, None));
                self.enter(id, Phase::RecordingOutcome);
                if let Some(route) = self.routes.get_mut(route) {
                    route.failures_in_row = 0;
                }
            }
            Verdict::Failed(failure) => self.failed(id, failure, now, out),
            Verdict::Incomplete { reason, retry_after_ms } => {
                self.incomplete(id, reason, retry_after_ms, now, out);
            }
            Verdict::Misconfigured { reason } => {
                self.release(id, out);
                self.pause(route, reason, out);
            }
            Verdict::Released => self.release(id, out),
        }
    }

    fn release(&mut self, id: JobId, out: &mut Vec<Effect>) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.begun = job.begun.saturating_sub(1);
            out.push(Effect::Release { job: id, begun: job.begun });
            self.enter(id, Phase::Ready);
        }
    }

    fn pause(&mut self, route: usize, reason: String, out: &mut Vec<Effect>) {
        if let Some(state) = self.routes.get_mut(route).filter(|state| !state.paused) {
            state.paused = true;
            out.push(Effect::Pause { route, reason });
            self.shrink_to_share(route);
        }
    }

    /// One attempt more has failed: try again if its budget allows, else it is the outcome.
    fn failed(&mut self, id: JobId, mut failure: Failure, now: Millis, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(route) = self.routes.get_mut(job.route) else { return };
        job.incomplete_since = None;
        if let Some(retry_on) = &route.rules.retry_on {
            failure.class = retry_on.class_of(&failure);
        }
        if let Some(budget) = failure.class.budget() {
            job.spent.charge(budget);
            let spent = job.spent.of(budget);
            if spent <= route.rules.retries.of(budget) {
                let wait = backoff::after_failure(id, &failure, spent, &route.rules.backoff);
                let not_before = now.saturating_add(wait);
                out.push(Effect::RecordAttempt {
                    job: id,
                    attempt: job.begun,
                    spent: job.spent,
                    not_before,
                    incomplete_since: None,
                    loss: None,
                    reason: failure.reason,
                });
                self.enter(id, Phase::RecordingAttempt(not_before));
                return;
            }
        }
        out.push(outcome(id, job, Some(failure)));
        route.failures_in_row = route.failures_in_row.saturating_add(1);
        let row = route.failures_in_row;
        let too_many = route.rules.pause_after_failures.is_some_and(|limit| row >= limit);
        let at = job.route;
        self.enter(id, Phase::RecordingOutcome);
        if too_many {
            self.pause(at, format!("{row} jobs failed in a row (pause_after_failures)"), out);
        }
    }

    fn incomplete(
        &mut self,
        id: JobId,
        reason: String,
        asked: Option<u64>,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let since = *job.incomplete_since.get_or_insert(now);
        let waited = now.saturating_sub(since);
        if waited >= self.limits.incomplete_for {
            let reason = format!("incomplete for {} h: {reason}", waited / 3_600_000);
            self.failed(id, Failure::new(FailClass::Permanent, reason), now, out);
            return;
        }
        let not_before = now.saturating_add(backoff::after_incomplete(waited, asked));
        out.push(Effect::RecordAttempt {
            job: id,
            attempt: job.begun,
            spent: job.spent,
            not_before,
            incomplete_since: Some(since),
            loss: None,
            reason: if reason.is_empty() { "incomplete".to_owned() } else { reason },
        });
        self.enter(id, Phase::RecordingAttempt(not_before));
    }

    fn recorded(&mut self, id: JobId, now: Millis) {
        match self.jobs.get(&id).map(|job| job.phase.clone()) {
            Some(Phase::RecordingAttempt(at)) if at <= now => self.enter(id, Phase::Ready),
            Some(Phase::RecordingAttempt(at)) => self.enter(id, Phase::Waiting(at)),
            Some(Phase::RecordingOutcome) => {
                self.recording -= 1;
                self.jobs.remove(&id);
            }
            _ => {}
        }
    }

    fn fire_timers(&mut self, now: Millis) {
        while let Some((at, job)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.enter(job, Phase::Ready);
        }
        while let Some((at, rel)) = self.hold_timers.first().cloned() {
            if at > now {
                break;
            }
            self.hold_timers.remove(&(at, rel.clone()));
            let Some(hold) = self.held.remove(&rel) else { continue };
            let Hold { route, order, .. } = hold;
            let candidate = Candidate { rel, route, order };
            if self.known.len() >= self.limits.window {
                self.hold(candidate, now.saturating_add(FULL_WINDOW_AGAIN));
            } else if !self.known.contains(&candidate.rel) {
                self.enqueue(candidate);
            }
        }
    }

    /// Fills free slots, and the line before them.
    fn dispatch(&mut self, now: Millis, out: &mut Vec<Effect>) {
        while !self.draining
            && self.starts_allowed
            && self.alone.is_none()
            && self.running + self.promised < self.limits.slots + self.line()
        {
            if matches!(self.tend_suspects(now, out), inputs::Suspects::Wait) {
                return;
            }
            if let Some(suspect) = self.first_suspect(now) {
                // It waits for the others to end, and nothing new starts meanwhile. Their ends must be
                // durable, too: if it takes the daemon down, they would count as lost with it.
                if self.running + self.promised + self.recording == 0 {
                    self.start(suspect, now, out);
                }
                return;
            }
            if self.awaits_records() {
                // They come at once, and may be what goes first.
                return;
            }
            let has_slot = self.running + self.promised < self.limits.slots;
            match if has_slot { self.next_work(now) } else { self.next_in_line(now) } {
                Some(Work::Records(job)) => self.start_records(job, now, out),
                Some(Work::Ready(job)) => self.start(job, now, out),
                Some(Work::Candidate(route)) => self.claim_from(route, out),
                None => break,
            }
        }
    }

    fn first_suspect(&self, now: Millis) -> Option<JobId> {
        self.routes
            .iter()
            .filter(|route| route.may_start(now))
            .flat_map(|route| route.ready.iter())
            .find(|id| self.jobs.get(id).is_some_and(Job::is_suspect))
            .copied()
    }

    /// The best thing to start: the highest priority, a claimed job before a candidate.
    fn next_work(&mut self, now: Millis) -> Option<Work> {
        let files = self.next_file(now);
        let (records, files) = match (self.best_records(now), files) {
            (Some((_, job)), None) => return Some(Work::Records(job)),
            (None, files) => return files.map(|(_, work)| work),
            (Some(records), Some(files)) => (records, files),
        };
        let of_files = self.running - self.lots;
        let is_records = match (records.0.cmp(&files.0), self.lots.cmp(&of_files)) {
            (Ordering::Greater, _) | (Ordering::Equal, Ordering::Less) => true,
            (Ordering::Less, _) | (Ordering::Equal, Ordering::Greater) => false,
            (Ordering::Equal, Ordering::Equal) => {
                self.records_next = !self.records_next;
                self.records_next
            }
        };
        Some(if is_records { Work::Records(records.1) } else { files.1 })
    }

    /// The same for whole files, with the priority.
    fn next_file(&self, now: Millis) -> Option<(i32, Work)> {
        let ready = self
            .routes
            .iter()
            .enumerate()
            .filter(|(_, route)| route.may_start(now) && route.used() < route.rules.max_running)
            .filter(|(at, _)| !self.has_open_records(*at))
            .filter_map(|(_, route)| route.first_ready().map(|job| (route.rules.priority, job)))
            .min_by_key(|(priority, job)| (std::cmp::Reverse(*priority), *job));
        let queue = if self.may_claim() { self.best_queue(RouteState::used, now) } else { None };
        match (ready, queue) {
            (Some((mine, job)), Some(route)) => {
                let other = self.routes.get(route).map_or(i32::MIN, |r| r.rules.priority);
                let is_ready = mine >= other;
                let work = if is_ready { Work::Ready(job) } else { Work::Candidate(route) };
                Some((mine.max(other), work))
            }
            (Some((mine, job)), None) => Some((mine, Work::Ready(job))),
            (None, Some(route)) => {
                let priority = self.routes.get(route).map_or(i32::MIN, |r| r.rules.priority);
                Some((priority, Work::Candidate(route)))
            }
            (None, None) => None,
        }
    }

    /// The route whose oldest candidate goes first, among those whose `used` is below their cap.
    fn best_queue(&self, used: impl Fn(&RouteState) -> usize, now: Millis) -> Option<usize> {
        self.routes
            .iter()
            .enumerate()
            .filter(|(_, route)| route.may_start(now) && used(route) < route.rules.max_running)
            .filter(|(at, _)| !self.has_open_records(*at))
            .filter_map(|(at, route)| {
                route
                    .queue
                    .keys()
                    .next()
                    .map(|key| (std::cmp::Reverse(route.rules.priority), *key, at))
            })
            .min()
            .map(|(_, _, at)| at)
    }

    fn claim_from(&mut self, route: usize, out: &mut Vec<Effect>) {
        let Some(state) = self.routes.get_mut(route) else { return };
        let Some(((order, _), rel)) = state.queue.pop_first() else { return };
        self.known.remove(&rel);
        state.promised += 1;
        self.promised += 1;
        out.push(Effect::Claim { candidate: Candidate { rel, route, order } });
    }
}

/// What the end of an attempt says of its route's worker. `true`: the breaker opened.
fn pace_by_end(
    routes: &mut [RouteState],
    (at, job): (usize, JobId),
    verdict: &Verdict,
    now: Millis,
    out: &mut Vec<Effect>,
) -> bool {
    let Some(route) = routes.get_mut(at) else { return false };
    match verdict {
        Verdict::Failed(failure) => match failure.class {
            FailClass::Crash => {
                let Some(count) = route.pace.crashed(job, now) else { return false };
                let reason = format!(
                    "{count} workers crashed in a row ({}); one file is tried every minute",
                    failure.reason
                );
                out.push(Effect::Break { route: at, reason });
                return true;
            }
            // Whether it can run is not known from these.
            FailClass::Timeout | FailClass::Oom | FailClass::Lost => return false,
            FailClass::Fail | FailClass::TryAgain | FailClass::Permanent => {}
        },
        Verdict::Done | Verdict::Incomplete { .. } => {}
        Verdict::Misconfigured { .. } | Verdict::Released => return false,
    }
    if route.pace.answered() {
        out.push(Effect::Mend { route: at });
    }
    false
}

enum Work {
    Records(JobId),
    Ready(JobId),
    Candidate(usize),
}

fn outcome(id: JobId, job: &Job, failure: Option<Failure>) -> Effect {
    Effect::RecordOutcome { job: id, attempts: job.begun, spent: job.spent, failure }
}

#[cfg(test)]
mod tests;
