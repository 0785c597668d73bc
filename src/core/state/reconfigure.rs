//! New limits and rules while jobs are on their way: a reload, in the core's terms.
//!
//! Must not know: names of routes, globs. A route is its index, which stays what it was.
//!
//! Invariants
//! - No job changes its phase, nor its route but by [`Core::reroute`]. What runs goes on, also where fewer
//!   slots are left.
//! - No name stays in a window or held: another route may take it now, and the next scan offers it again.

use std::collections::{BTreeMap, BTreeSet};

use super::super::JobId;
use super::super::pace::Pace;
use super::{Core, Phase, RouteRules, RouteState};

impl RouteState {
    /// A route without names and jobs.
    pub(super) fn new(rules: RouteRules) -> Self {
        Self {
            pace: Pace::new(rules.pace),
            rules,
            queue: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: 0,
            running: 0,
            lots: 0,
            promised: 0,
            failures_in_row: 0,
            paused: false,
        }
    }
}

impl Core {
    /// Takes new settings in, without starting anything; a later [`Core::step`] does.
    ///
    /// `rules` by route: `None` leaves it as it is; new rules end its pause; what is beyond the known
    /// routes is a new one. A route that is no more is left as it is: nothing offers it a name.
    pub fn reconfigure(
        &mut self,
        slots: usize,
        ahead: usize,
        rules: impl IntoIterator<Item = Option<RouteRules>>,
    ) {
        self.limits.slots = slots;
        self.limits.ahead = ahead;
        for (at, rules) in rules.into_iter().enumerate() {
            let Some(rules) = rules else { continue };
            match self.routes.get_mut(at) {
                Some(route) => {
                    route.pace.reconfigure(rules.pace);
                    route.rules = rules;
                    route.paused = false;
                    route.failures_in_row = 0;
                }
                None => self.routes.push(RouteState::new(rules)),
            }
        }
        for route in &mut self.routes {
            route.queue.clear();
        }
        self.known.clear();
        self.held.clear();
        self.hold_timers.clear();
    }

    /// The route in this place is another one from now on: what was started by the last one is not its own.
    pub fn renew(&mut self, at: usize) {
        if let Some(route) = self.routes.get_mut(at) {
            route.pace = Pace::new(route.rules.pace);
        }
    }

    /// Gives a job that waits to another route. `false`: it does not wait.
    pub fn reroute(&mut self, id: JobId, to: usize) -> bool {
        let Some(job) = self.jobs.get(&id).filter(|_| to < self.routes.len()) else { return false };
        let phase = job.phase.clone();
        if !matches!(phase, Phase::Ready | Phase::Waiting(_)) {
            return false;
        }
        self.enter(id, Phase::Unrouted);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.route = to;
        }
        self.enter(id, phase);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::RECORDS;
    use super::super::{Candidate, Effect, Event, Limits, Recovered};
    use super::*;
    use crate::core::{JobId, RelPath, Spent, Verdict};

    fn limits(slots: usize) -> Limits {
        Limits { slots, ahead: 0, window: 8, waiting: 8, incomplete_for: 1_000, records: RECORDS }
    }

    fn rules(max_running: usize) -> RouteRules {
        RouteRules {
            retries: Spent::default(),
            retry_on: None,
            backoff: crate::core::backoff::Backoff::default(),
            pace: crate::core::pace::PaceRules::default(),
            max_running,
            priority: 0,
            pause_after_failures: None,
            records: false,
        }
    }

    fn job(at: u64) -> JobId {
        JobId::next(JobId::MIN, at, [1; 10])
    }

    fn step(core: &mut Core, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        core.step(event, 1_000, &mut out);
        out
    }

    fn started(effects: &[Effect]) -> Vec<(JobId, usize)> {
        let start = |effect: &Effect| match effect {
            Effect::Start { job, route, .. } => Some((*job, *route)),
            _ => None,
        };
        effects.iter().filter_map(start).collect()
    }

    /// Goal: more slots are used at once; fewer end nothing and start nothing until the others ended.
    /// Method: four jobs on one slot, then on three, then on one.
    #[test]
    fn slots_grow_and_shrink_around_what_runs() {
        let mut core = Core::new(limits(1), vec![rules(9)]);
        for at in 1..=4 {
            step(&mut core, Event::Taken { job: job(at), route: 0 });
        }
        assert_eq!(core.running(), 1);
        core.reconfigure(3, 0, [None]);
        assert_eq!(started(&step(&mut core, Event::Tick)), [(job(2), 0), (job(3), 0)]);
        core.reconfigure(1, 0, [None]);
        for at in [1, 2] {
            let out = step(&mut core, Event::Ended { job: job(at), verdict: Verdict::Done });
            assert_eq!(started(&out), [], "a start although {} run", core.running());
        }
        let out = step(&mut core, Event::Ended { job: job(3), verdict: Verdict::Done });
        assert_eq!(started(&out), [(job(4), 0)]);
    }

    /// Goal: a paused route goes on once its settings changed, and only then. Method: a pause, a reload
    /// that leaves it alone, one that changes it.
    #[test]
    fn a_changed_route_goes_on() {
        let mut core = Core::new(limits(2), vec![rules(9)]);
        step(&mut core, Event::Taken { job: job(1), route: 0 });
        let verdict = Verdict::Misconfigured { reason: "no program".to_owned() };
        step(&mut core, Event::Ended { job: job(1), verdict });
        assert!(core.is_paused(0));
        core.reconfigure(2, 0, [None]);
        assert_eq!(started(&step(&mut core, Event::Tick)), []);
        core.reconfigure(2, 0, [Some(rules(9))]);
        assert_eq!(started(&step(&mut core, Event::Tick)), [(job(1), 0)]);
    }

    /// Goal: a name that another route takes now is not claimed for the old one. Method: a name in the
    /// window, a reload with one route more, the name offered again for that.
    #[test]
    fn names_are_routed_anew() {
        let mut core = Core::new(limits(1), vec![rules(9)]);
        step(&mut core, Event::Taken { job: job(1), route: 0 });
        let rel = RelPath::new("x").unwrap();
        core.offer(Candidate { rel: rel.clone(), route: 0, order: 1 }, 1_000);
        core.reconfigure(2, 0, [None, Some(rules(9))]);
        assert_eq!(step(&mut core, Event::Tick), []);
        core.offer(Candidate { rel: rel.clone(), route: 1, order: 1 }, 1_000);
        let claim = Effect::Claim { candidate: Candidate { rel, route: 1, order: 1 } };
        assert_eq!(step(&mut core, Event::Tick), [claim]);
    }

    /// Goal: what waits for a paused route can run with another one; what runs stays where it is. Method: a route
    /// that pauses, its job given to one that is not there, to another one, and back while it runs.
    #[test]
    fn a_job_that_waits_can_change_its_route() {
        let mut core = Core::new(limits(1), vec![rules(9), rules(9)]);
        step(&mut core, Event::Taken { job: job(1), route: 0 });
        let verdict = Verdict::Misconfigured { reason: "no program".to_owned() };
        step(&mut core, Event::Ended { job: job(1), verdict });
        assert!(core.is_paused(0) && !core.reroute(job(1), 2));
        assert_eq!(started(&step(&mut core, Event::Tick)), []);
        assert!(core.reroute(job(1), 1));
        assert_eq!(started(&step(&mut core, Event::Tick)), [(job(1), 1)]);
        assert!(!core.reroute(job(1), 0), "it runs");
        step(&mut core, Event::Ended { job: job(1), verdict: Verdict::Done });
        assert_eq!((core.running(), core.counts().stuck), (0, 0));
    }

    /// Goal: a job that no route took runs once one does, and its lost attempt counts then.
    /// Method: recovered without a route; a reload; recovered again with one.
    #[test]
    fn an_unrouted_job_gets_its_route() {
        let found = Recovered {
            records: None,
            job: job(1),
            route: None,
            begun: 1,
            ended: 0,
            spent: Spent::default(),
            not_before: 0,
            incomplete_since: None,
        };
        let lasting = RouteRules { retries: Spent { lost: 3, ..Spent::default() }, ..rules(1) };
        let mut core = Core::new(limits(1), Vec::new());
        assert_eq!(step(&mut core, Event::Recovered(found.clone())), []);
        assert_eq!(core.counts().stuck, 1);
        core.reconfigure(1, 0, [Some(lasting)]);
        let out =
            step(&mut core, Event::Recovered(Recovered { records: None, route: Some(0), ..found }));
        assert!(
            matches!(out[..], [Effect::RecordAttempt { spent: Spent { lost: 1, .. }, .. }]),
            "{out:?}"
        );
        assert_eq!(core.counts().stuck, 0);
    }
}
