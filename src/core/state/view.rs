//! What others may ask the core: how many jobs of each kind, what one waits for, when the next wait ends.
//!
//! Must not know: who asks, how it is shown.
//!
//! Invariants
//! - A question changes nothing.

use super::super::records::{Phase as SlipPhase, Slip};
use super::super::{JobId, RelPath};
use super::{Core, Job, Millis, Phase, RouteState};

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
    /// Of these, those none of whose records is in a slot, or in line for one.
    pub resting: usize,
    /// In a slot, or in line for one.
    pub running: usize,
    /// Waiting for the journal.
    pub recording: usize,
    /// Claimed, but of a paused route or of none, or of one whose trials keep crashing.
    pub stuck: usize,
    /// Names in the window of such routes.
    pub stuck_candidates: usize,
}

impl Job {
    fn has_running_records(&self) -> bool {
        let mut slips = self.records.iter().flat_map(|window| window.slips.values());
        slips.any(|slip| slip.phase == SlipPhase::Running)
    }
}

impl Core {
    /// Whether a slot has this job, or takes it next; of one whose records are tasks of their own, this
    /// record, or any of them.
    pub fn is_running(&self, job: JobId, record: Option<u64>) -> bool {
        let Some(job) = self.jobs.get(&job) else { return false };
        let runs = |no: &u64, slip: &Slip| {
            slip.phase == SlipPhase::Running && record.is_none_or(|record| record == *no)
        };
        let window = job.records.as_ref();
        job.phase == Phase::Running
            || window.is_some_and(|window| window.slips.iter().any(|(no, slip)| runs(no, slip)))
    }

    /// Jobs that a slot has, or takes next.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Claimed jobs that wait for their time.
    pub fn waiting(&self) -> usize {
        self.timers.len()
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

    /// How many of each.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            candidates: self.known.len(),
            held: self.held.len(),
            running: self.running,
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
                Phase::Open => {
                    counts.open += 1;
                    counts.resting += usize::from(!job.has_running_records());
                }
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
}
