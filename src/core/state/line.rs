//! The line before the slots: a few jobs that are started although no slot is free, so that one that is
//! done takes its next job by itself.
//!
//! Must not know: what a slot is.
//!
//! Invariants
//! - Only while jobs are short, and no longer than what it holds is done soon. What waited behind a long
//!   one would be older than what comes later and goes first, for a gap between two jobs that nobody
//!   would notice.
//! - Only whole files, of routes that have no pace, and of which none goes before the others: what
//!   comes later and is urgent waits for no more than what runs.
//! - Nothing of a route that may be about to pause, for crashes or failures in a row: what stood in line
//!   would end in `error/` after the one that paused it. (What stands there already is for the slots to
//!   give back.)

use super::dispatch::Work;
use super::{Core, Job, Millis, RouteState};
use crate::core::Verdict;

/// What stands in line is over within about so many milliseconds.
const LINE_MS: Millis = 100;

impl Core {
    /// An attempt ended, and tells how many may wait now: `took` includes its own wait in line, so that the
    /// line finds its length by itself. One that comes back from it says that those before it are long.
    pub(super) fn note_pace(&mut self, started: Millis, verdict: &Verdict, now: Millis) {
        let took = now.saturating_sub(started).max(1);
        let after_one = ((LINE_MS - 1) / took).saturating_sub(1);
        let for_slot = usize::try_from(after_one).unwrap_or(usize::MAX);
        let most = if *verdict == Verdict::Released { 0 } else { self.limits.ahead };
        self.line = for_slot.saturating_mul(self.limits.slots).min(most);
    }

    /// The best thing for it.
    pub(super) fn next_in_line(&self, now: Millis) -> Option<Work> {
        if !self.open.is_empty() {
            return None;
        }
        let top = self.routes.iter().map(|route| route.rules.priority).max();
        let (priority, work) = self.next_file(now)?;
        let at = match work {
            Work::Ready(job) => self.jobs.get(&job).map(|job: &Job| job.route)?,
            Work::Candidate(route) => route,
            Work::Records(_) => return None,
        };
        let has_pace = |route: &RouteState| {
            let may_pause = route.rules.pause_after_failures.is_some() && route.failures_in_row > 0;
            route.rules.records || route.pace.is_slow() || route.pace.has_crashed() || may_pause
        };
        let fits = Some(priority) == top && !self.routes.get(at).is_some_and(has_pace);
        fits.then_some(work)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::tests::{RECORDS, rules};
    use super::super::{Candidate, Core, Effect, Event, Limits, Millis, RouteRules};
    use crate::core::pace::{PaceRules, Rate};
    use crate::core::{FailClass, Failure, JobId, RelPath, Spent, Verdict};

    /// One slot, a line of two, and a route for each of these rules.
    struct World {
        core: Core,
        last: JobId,
        started: Vec<JobId>,
        offered: u32,
    }

    fn plain() -> RouteRules {
        let first = rules().swap_remove(0);
        RouteRules { pace: PaceRules::default(), max_running: 9, ..first }
    }

    impl World {
        fn new(routes: Vec<RouteRules>) -> Self {
            let limits = Limits {
                slots: 1,
                ahead: 2,
                window: 99,
                waiting: 9,
                incomplete_for: 5_000,
                records: RECORDS,
            };
            let core = Core::new(limits, routes);
            Self { core, last: JobId::MIN, started: Vec::new(), offered: 0 }
        }

        fn offer(&mut self, route: usize, count: usize) {
            for _ in 0..count {
                self.offered += 1;
                let rel = RelPath::new(format!("f{}", self.offered)).unwrap();
                self.core.offer(Candidate { rel, route, order: i64::from(self.offered) }, 0);
            }
        }

        /// Answers each claim at once; how many started.
        fn step(&mut self, event: Event, now: Millis) -> usize {
            let before = self.started.len();
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                let mut out = Vec::new();
                self.core.step(event, now, &mut out);
                for effect in out {
                    match effect {
                        Effect::Claim { candidate } => {
                            self.last = JobId::next(self.last, 1, [3; 10]);
                            let route = candidate.route;
                            events.push_back(Event::Claimed { job: self.last, route });
                        }
                        Effect::Start { job, .. } => self.started.push(job),
                        _ => {}
                    }
                }
            }
            self.started.len() - before
        }

        /// The job that was started as the `at`th ends.
        fn end(&mut self, at: usize, verdict: Verdict, now: Millis) -> usize {
            let job = self.started[at];
            self.step(Event::Ended { job, verdict }, now)
        }
    }

    /// Goal: short jobs find the next one waiting, long ones do not, and what comes back from the line ends it;
    /// the longer a job took, its wait in line included, the fewer wait. Method: one slot; jobs of 10, 33, 50
    /// and 0 ms, then of 49, which may have one behind them.
    #[test]
    fn only_short_jobs_have_a_line() {
        let mut world = World::new(vec![plain()]);
        world.offer(0, 20);
        assert_eq!(world.step(Event::Tick, 0), 1, "nothing is known of how long they are");
        assert_eq!(world.end(0, Verdict::Done, 10), 3, "one for the slot, two in line");
        assert_eq!(world.core.counts().running, 3, "those in line are started, too");
        assert_eq!(world.end(1, Verdict::Done, 43), 1);
        assert_eq!(world.end(2, Verdict::Done, 60), 0, "fifty milliseconds are long");
        assert_eq!(world.end(3, Verdict::Done, 60), 0);
        assert_eq!(world.end(4, Verdict::Done, 60), 3, "that one was short");
        assert_eq!(world.end(7, Verdict::Released, 60), 0, "and this one waited too long");
        assert_eq!(world.end(6, Verdict::Released, 60), 0);
        assert_eq!(world.core.counts().ready, 2);
        assert_eq!(world.end(5, Verdict::Done, 61), 3, "what had to go back goes first");
        assert_eq!(world.started[8..10], [world.started[6], world.started[7]]);
        assert_eq!(world.end(8, Verdict::Done, 110), 0, "there are two besides it");
        assert_eq!(world.end(9, Verdict::Done, 110), 1, "a slot and one place in line");
    }

    /// Goal: a route that may be about to pause eats no more files than its slots have. Method: a crash, and a
    /// failure where failures pause; each is followed by an answer.
    #[test]
    fn nothing_waits_behind_a_crash() {
        let crash = Verdict::Failed(Failure::new(FailClass::Crash, "no"));
        let fail = Verdict::Failed(Failure::new(FailClass::Permanent, "no"));
        let crashes = PaceRules { rate: None, crashes: Some(3) };
        let retries = Spent::default();
        let breaks = RouteRules { pace: crashes, retries, ..plain() };
        let pauses = RouteRules { pause_after_failures: Some(9), retries, ..plain() };
        for (rules, bad) in [(breaks, crash), (pauses, fail)] {
            let mut world = World::new(vec![rules]);
            world.offer(0, 9);
            assert_eq!(world.step(Event::Tick, 0), 1);
            assert_eq!(world.end(0, bad, 1), 1, "one for the slot, none in line");
            assert_eq!(world.end(1, Verdict::Done, 2), 3);
        }
    }

    /// Goal: nothing in line stands before what is more urgent, and what has a pace keeps it. Method: the only
    /// waiting files are of a lower priority, of a rate, or of records; then of an equal priority.
    #[test]
    fn only_plain_files_of_the_highest_priority_wait_in_line() {
        let first = || RouteRules { priority: 1, ..plain() };
        let rate = Some(Rate { starts: 99, per_ms: 1 });
        let paced = RouteRules { pace: PaceRules { rate, crashes: None }, ..first() };
        let records = RouteRules { records: true, ..first() };
        for (other, line) in [(plain(), 0), (paced, 0), (records, 0), (first(), 2)] {
            let mut world = World::new(vec![first(), other]);
            world.offer(0, 1);
            world.offer(1, 5);
            assert_eq!(world.step(Event::Tick, 0), 1);
            assert_eq!(world.end(0, Verdict::Done, 1), 1 + line);
        }
    }
}
