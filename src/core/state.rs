//! The state of all jobs that are claimed, and what to do next: `step(event, now) -> effects`.
//!
//! Must not know: the disk, the clock, the runtime, logging. The keeper carries the effects out, in
//! their order, and reports what became of them as further events.
//!
//! - `event`, `effect`, `limits`: what goes in, what comes out, what bounds it.
//! - `window`: the names that could be claimed.
//! - `dispatch`, `line`: what starts next, and what starts though no slot is free.
//! - `ends`: how attempts end.
//! - `inputs`: jobs whose records are tasks of their own.
//! - `reconfigure`: new limits and rules on the way.
//! - `view`: what others may ask.
//!
//! Invariants
//! - At most `slots` jobs run, at most `max_running` of a route, none of a paused route.
//! - While jobs are short, a few more are started than there are slots, and wait in line (`line`).
//! - A job that was lost twice runs alone.
//! - A permit is there before a claim: a free slot, or a place in that line.
//! - Each job gets one `RecordOutcome`, and after it no `Start`.
//! - A job starts its attempt N+1 only after the end of N is recorded.
//! - Memory is bounded: the window of names, the table of held names, the jobs that wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

mod dispatch;
mod effect;
mod ends;
mod event;
mod inputs;
mod limits;
mod line;
mod reconfigure;
mod view;
mod window;

pub use effect::Effect;
pub use event::{Candidate, Event, Recovered};
pub use limits::{Limits, RecordLimits, RouteRules};
pub use view::Counts;

use super::pace::Pace;
use super::records::Window;
use super::{FailClass, Failure, JobId, RelPath, Spent};

/// Unix milliseconds, passed in by whoever has a clock.
pub type Millis = u64;

/// A held name whose time has come finds no room in the window: it waits so much longer, in milliseconds.
const FULL_WINDOW_AGAIN: Millis = 1_000;
/// The same where its route has its share of it, and goes on in minutes perhaps.
const SHARE_TAKEN_AGAIN: Millis = 10_000;
/// A clock that goes back by more than this was set back; by less it was corrected.
const SET_BACK: Millis = 1_000;
/// No wait is so long: two of the longest that the settings take (30 days), with their jitter.
const INSANE_WAIT: Millis = 60 * 24 * 60 * 60 * 1_000;

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
    /// Of its jobs, those that wait for their time.
    waiting: usize,
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

    /// Its names leave the window more slowly than its slots could take them.
    fn is_slow(&self) -> bool {
        self.paused || self.pace.is_slow()
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

/// All that is decided, decided here.
#[derive(Clone, Debug)]
pub struct Core {
    limits: Limits,
    routes: Vec<RouteState>,
    jobs: HashMap<JobId, Job>,
    /// `Phase::Waiting` by time.
    timers: BTreeSet<(Millis, JobId)>,
    /// Names in a window, so that a second sighting adds nothing, each with the route that it waits for.
    known: HashMap<RelPath, usize>,
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
    /// How many may wait in line now.
    line: usize,
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
            known: HashMap::new(),
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
            line: 0,
            clock: 0,
        }
    }

    /// Takes one event in and appends what is to be done now.
    pub fn step(&mut self, event: Event, now: Millis, out: &mut Vec<Effect>) {
        // A clock that was set back must not keep anything waiting until it has caught up: whatever waits is
        // due once, early, and then waits by the new time.
        let is_set_back = now.saturating_add(SET_BACK) < self.clock;
        let due = if is_set_back { Millis::MAX } else { now };
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
                if !self.known.contains_key(&candidate.rel) && !self.has_its_share(candidate.route)
                {
                    self.enqueue(candidate);
                }
            }
            Event::Resorted { job, to } => self.resorted(job, to, now, out),
            Event::StartFailed { job } => self.not_started(job, now.saturating_add(1_000)),
            Event::Busy { job, until } => self.not_started(job, until),
            Event::Ended { job, verdict } => self.ended(job, verdict, now, out),
            Event::Opened { job } => self.opened(job),
            Event::Read { job, numbers, is_full, at_end, goes_on } => {
                self.read(job, &numbers, (is_full, at_end, goes_on), now);
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
        self.fire_timers(due, now);
        self.fire_record_timers(due);
        self.tend_inputs(out);
        self.dispatch(now, out);
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
                route.waiting -= 1;
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
                route.waiting += 1;
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
        // Longer than any wait: the clock was wrong when that was written.
        let is_sane = found.not_before.saturating_sub(now) < INSANE_WAIT;
        let not_before = if is_sane { found.not_before } else { now };
        self.enter(found.job, Phase::Waiting(not_before));
    }

    fn fire_timers(&mut self, due: Millis, now: Millis) {
        while let Some((at, job)) = self.timers.first().copied() {
            if at > due {
                break;
            }
            self.enter(job, Phase::Ready);
        }
        // At once, since what finds the window full is held anew.
        let over: Vec<_> =
            self.hold_timers.iter().take_while(|(at, _)| *at <= due).cloned().collect();
        for (at, rel) in over {
            self.hold_timers.remove(&(at, rel.clone()));
            let Some(hold) = self.held.remove(&rel) else { continue };
            let Hold { route, order, .. } = hold;
            let candidate = Candidate { rel, route, order };
            if self.known.len() >= self.limits.window {
                self.hold(candidate, now.saturating_add(FULL_WINDOW_AGAIN));
            } else if self.has_its_share(route) {
                // Where a person has to see to it, a scan finds it again: who waits for an end must not wait for it.
                if !self.is_stuck(route) {
                    self.hold(candidate, now.saturating_add(SHARE_TAKEN_AGAIN));
                }
            } else if !self.known.contains_key(&candidate.rel) {
                self.enqueue(candidate);
            }
        }
    }
}

#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;
