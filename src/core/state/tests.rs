//! The core under random histories: a model keeps what the world would know, crashes included, and
//! each effect is compared with the invariants in the head of `state`.
//!
//! The model's disk is simple: a name in `processing/` survives a crash, a record survives once it
//! was answered with `Recorded`. What power cuts do to names is not the core's matter.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::core::Verdict;
use crate::core::backoff::Backoff;
use crate::core::pace::{PaceRules, Rate};

const SLOTS: usize = 3;
/// Places in line.
const AHEAD: usize = 2;
const ROUTES: usize = 2;

/// Room for records, of which these histories have none.
pub(super) const RECORDS: RecordLimits =
    RecordLimits { inputs: 2, window: 8, lot_us: 1_000, lot_most: 3 };

fn limits() -> Limits {
    Limits {
        slots: SLOTS,
        ahead: AHEAD,
        window: 8,
        waiting: 3,
        incomplete_for: 5_000,
        records: RECORDS,
    }
}

pub(super) fn rules() -> Vec<RouteRules> {
    let retries = Spent { fail: 1, timeout: 0, oom: 0, crash: 1, lost: 3, try_again: 2 };
    let first = RouteRules {
        retries,
        retry_on: None,
        backoff: Backoff {
            try_again_ms: vec![10, 20],
            first_ms: 1_000,
            longest_ms: 5_000,
            jitter_percent: 20,
        },
        pace: PaceRules { rate: Some(Rate { starts: 4, per_ms: 50 }), crashes: Some(2) },
        max_running: 2,
        priority: 0,
        pause_after_failures: Some(3),
        records: false,
    };
    let second = RouteRules {
        pace: PaceRules { rate: None, crashes: Some(2) },
        max_running: 4,
        priority: 1,
        pause_after_failures: None,
        ..first.clone()
    };
    vec![first, second]
}

/// A job as the model's disk has it.
#[derive(Clone, Debug, Default)]
struct OnDisk {
    route: usize,
    /// From the name.
    begun: u32,
    /// The last end that is recorded, and what it said.
    ended: u32,
    spent: Spent,
    not_before: Millis,
    incomplete_since: Option<Millis>,
}

struct World {
    core: Core,
    now: Millis,
    last: JobId,
    jobs: BTreeMap<JobId, OnDisk>,
    /// Which a slot has, by route.
    running: BTreeMap<JobId, usize>,
    /// Ends that are not answered yet.
    unrecorded: BTreeMap<JobId, Effect>,
    done: BTreeSet<JobId>,
    paused: BTreeSet<usize>,
    /// Routes whose breaker is open.
    open: BTreeSet<usize>,
    starts_allowed: bool,
    names: u32,
    offered: u32,
    /// How the attempt ended whose end is being decided: a failure's class, or none.
    cause: Option<FailClass>,
    draining: bool,
}

#[derive(Clone, Debug)]
enum Act {
    Offer(usize),
    Take(usize),
    End(usize, u8),
    Resort(usize, bool),
    Record(usize),
    RecordAll,
    Wait(Millis),
    Crash,
    Resume(usize),
    Claims(bool),
    Starts(bool),
    Reload(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..ROUTES).prop_map(Act::Offer),
        1 => (0..ROUTES).prop_map(Act::Take),
        8 => (0..8usize, any::<u8>()).prop_map(|(at, how)| Act::End(at, how)),
        1 => (0..3usize, any::<bool>()).prop_map(|(at, route)| Act::Resort(at, route)),
        4 => (0..8usize).prop_map(Act::Record),
        2 => Just(Act::RecordAll),
        3 => (0..3_000u64).prop_map(Act::Wait),
        1 => Just(Act::Crash),
        1 => (0..ROUTES).prop_map(Act::Resume),
        1 => any::<bool>().prop_map(Act::Claims),
        1 => any::<bool>().prop_map(Act::Starts),
        1 => (0..=ROUTES).prop_map(Act::Reload),
    ];
    proptest::collection::vec(act, 1..120)
}

impl World {
    fn new() -> Self {
        Self {
            core: Core::new(limits(), rules()),
            now: 1_000,
            last: JobId::MIN,
            jobs: BTreeMap::new(),
            running: BTreeMap::new(),
            unrecorded: BTreeMap::new(),
            done: BTreeSet::new(),
            paused: BTreeSet::new(),
            open: BTreeSet::new(),
            starts_allowed: true,
            names: 0,
            offered: 0,
            cause: None,
            draining: false,
        }
    }

    fn new_job(&mut self) -> JobId {
        self.last = JobId::next(self.last, self.now, [3; 10]);
        self.last
    }

    /// Gives an event and carries out what follows, the answers to claims included.
    fn step(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut out = Vec::new();
            if let Event::Resume { route } = &event {
                self.paused.remove(route);
                self.open.remove(route);
            }
            self.core.step(event, self.now, &mut out);
            for effect in out {
                events.extend(self.carry_out(effect));
            }
        }
        self.check();
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Claim { candidate } => {
                let route = candidate.route;
                assert!(!self.draining && !self.paused.contains(&route));
                self.names -= 1;
                // Every seventh is gone, or cannot be claimed now.
                match candidate.order % 7 {
                    3 => return Some(Event::Held { candidate, until: None }),
                    5 => {
                        // It comes back by itself.
                        self.names += 1;
                        let until = Some(self.now + 1_000);
                        return Some(Event::Held { candidate, until });
                    }
                    4 if route == 0 => {
                        self.names += 1;
                        let candidate = Candidate { route: 1, ..candidate };
                        return Some(Event::Sorted { candidate, from: route });
                    }
                    _ => {}
                }
                let job = self.new_job();
                let disk = OnDisk { route, begun: 1, ..OnDisk::default() };
                self.jobs.insert(job, disk);
                if candidate.order % 7 == 6 {
                    self.cause = Some(FailClass::Permanent);
                    let failure = Failure::new(FailClass::Permanent, "not a regular file");
                    return Some(Event::Rejected { job, route, failure });
                }
                Some(Event::Claimed { job, route })
            }
            Effect::Start { job, route, attempt, suspect } => {
                assert!(!self.draining, "a start in a drain");
                assert!(!self.done.contains(&job), "a start after the outcome");
                assert!(!self.unrecorded.contains_key(&job), "a start before the end is recorded");
                assert!(!self.paused.contains(&route), "a start of a paused route");
                assert!(self.starts_allowed, "a start without memory");
                let mine = self.running.values().filter(|its| **its == route).count();
                assert!(mine == 0 || !self.open.contains(&route), "two trials at once");
                let disk = self.jobs.get_mut(&job).unwrap();
                assert_eq!(disk.route, route);
                assert_eq!(attempt, disk.ended + 1, "attempt N+1 comes after the end of N");
                assert_eq!(suspect, disk.spent.lost > 0);
                disk.begun = attempt;
                if disk.spent.lost >= 2 {
                    assert!(self.running.is_empty() && self.unrecorded.is_empty(), "not alone");
                }
                assert!(self.running.insert(job, route).is_none(), "twice at once");
                None
            }
            Effect::RecordAttempt { job, attempt, spent, .. } => {
                self.running.remove(&job);
                assert_eq!(attempt, self.jobs[&job].begun);
                self.charged(job, spent, true);
                assert!(self.unrecorded.insert(job, effect).is_none());
                None
            }
            Effect::RecordOutcome { job, spent, ref failure, .. } => {
                self.running.remove(&job);
                assert!(!self.done.contains(&job), "two outcomes");
                if failure.is_some() {
                    self.charged(job, spent, false);
                }
                assert!(self.unrecorded.insert(job, effect).is_none());
                None
            }
            Effect::ReadRecords { .. }
            | Effect::StartRecords { .. }
            | Effect::RecordTried { .. }
            | Effect::RecordInput { .. }
            | Effect::Collect { .. } => panic!("no job has records: {effect:?}"),
            Effect::Release { job, begun } => {
                self.running.remove(&job);
                let disk = self.jobs.get_mut(&job).unwrap();
                assert_eq!(begun, disk.begun - 1);
                disk.begun = begun;
                None
            }
            Effect::Pause { route, .. } => {
                assert!(self.paused.insert(route), "paused twice");
                None
            }
            Effect::Break { route, .. } => {
                assert!(self.open.insert(route), "broken twice");
                None
            }
            Effect::Mend { route } => {
                assert!(self.open.remove(&route), "mended and was whole");
                None
            }
        }
    }

    /// One attempt was charged to the budget of its cause, and goes on exactly if that allows it.
    fn charged(&self, job: JobId, spent: Spent, goes_on: bool) {
        let mut expected = self.jobs[&job].spent;
        let may_go_on = match self.cause.map(FailClass::budget) {
            // Incomplete: free, until it has been so for too long.
            None => true,
            Some(None) => false,
            Some(Some(budget)) => {
                expected.charge(budget);
                expected.of(budget) <= rules()[0].retries.of(budget)
            }
        };
        assert_eq!(spent, expected);
        assert!(may_go_on == goes_on || self.cause.is_none(), "{spent:?} {:?}", self.cause);
    }

    fn check(&self) {
        assert!(self.running.len() <= SLOTS + AHEAD);
        assert_eq!(self.core.running(), self.running.len());
        for (at, rules) in rules().iter().enumerate() {
            let mine = self.running.values().filter(|route| **route == at).count();
            assert!(mine <= rules.max_running);
        }
        let is_suspect = |job: &JobId| self.jobs[job].spent.lost >= 2;
        if self.running.keys().any(is_suspect) {
            assert_eq!(self.running.len(), 1, "a suspect is not alone");
        }
        let counts = self.core.counts();
        assert!(counts.candidates <= limits().window && counts.held <= limits().window);
        let slow = self.core.routes.iter().filter(|route| route.is_slow());
        let slow: usize = slow.map(|route| route.queue.len()).sum();
        assert!(slow <= limits().window / 4, "{slow} names of slow routes");
        assert_eq!(counts.recording, self.unrecorded.len());
    }

    fn record(&mut self, job: JobId) {
        let Some(effect) = self.unrecorded.remove(&job) else { return };
        if let Effect::RecordAttempt { attempt, spent, not_before, incomplete_since, .. } = effect {
            let disk = self.jobs.get_mut(&job).unwrap();
            disk.ended = attempt;
            (disk.spent, disk.not_before) = (spent, not_before);
            disk.incomplete_since = incomplete_since;
        } else {
            assert!(self.done.insert(job));
            self.jobs.remove(&job);
        }
        self.step(Event::Recorded { job });
    }

    /// The daemon dies: what is not recorded is forgotten, what runs is lost.
    fn crash(&mut self) {
        self.core = Core::new(limits(), rules());
        self.running.clear();
        self.unrecorded.clear();
        self.paused.clear();
        self.open.clear();
        self.starts_allowed = true;
        self.names = 0;
        for (job, disk) in self.jobs.clone() {
            self.cause = Some(FailClass::Lost);
            self.step(Event::Recovered(Recovered {
                records: None,
                job,
                route: Some(disk.route),
                begun: disk.begun,
                ended: disk.ended,
                spent: disk.spent,
                not_before: disk.not_before,
                incomplete_since: disk.incomplete_since,
            }));
        }
    }

    fn offer(&mut self, route: usize) {
        self.offered += 1;
        let rel = RelPath::new(format!("f{}", self.offered)).unwrap();
        let candidate = Candidate { rel, route, order: i64::from(self.offered) };
        if self.core.room() > 0 {
            self.names += 1;
        }
        self.core.offer(candidate, self.now);
        self.step(Event::Tick);
    }

    fn end(&mut self, at: usize, how: u8) {
        let Some(job) = self.running.keys().nth(at % self.running.len().max(1)).copied() else {
            return;
        };
        let fail = |class| Verdict::Failed(Failure::new(class, "no"));
        let verdict = match how % 11 {
            0 => fail(FailClass::Fail),
            1 => fail(FailClass::Timeout),
            2 => fail(FailClass::Oom),
            3 => fail(FailClass::Crash),
            4 => fail(FailClass::TryAgain),
            5 => fail(FailClass::Permanent),
            6 => Verdict::Incomplete { reason: String::new(), retry_after_ms: None },
            7 => Verdict::Released,
            8 => {
                let route = self.running[&job];
                self.step(Event::Ended {
                    job,
                    verdict: Verdict::Misconfigured { reason: "x".into() },
                });
                assert!(self.paused.contains(&route));
                return;
            }
            9 => {
                // Starting failed: no worker saw it.
                self.running.remove(&job);
                let disk = self.jobs.get_mut(&job).unwrap();
                disk.begun -= 1;
                return self.step(Event::StartFailed { job });
            }
            _ => Verdict::Done,
        };
        self.cause = match &verdict {
            Verdict::Failed(failure) => Some(failure.class),
            _ => None,
        };
        self.step(Event::Ended { job, verdict });
    }

    /// A job that a slot was to have is for the other route, or for none.
    fn resort(&mut self, at: usize, has_route: bool) {
        let Some((job, route)) = self.running.iter().nth(at).map(|(job, route)| (*job, *route))
        else {
            return;
        };
        self.running.remove(&job);
        let disk = self.jobs.get_mut(&job).unwrap();
        disk.begun -= 1;
        let to = if has_route {
            disk.route = 1 - route;
            Ok(disk.route)
        } else {
            self.cause = Some(FailClass::Permanent);
            Err(Failure::new(FailClass::Permanent, "no route takes it"))
        };
        self.step(Event::Resorted { job, to });
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Offer(route) => self.offer(route),
            Act::Take(route) => {
                let job = self.new_job();
                self.jobs.insert(job, OnDisk { route, ..OnDisk::default() });
                self.step(Event::Taken { job, route });
            }
            Act::End(at, how) => self.end(at, how),
            Act::Resort(at, has_route) => self.resort(at, has_route),
            Act::Record(at) => {
                let job = self.unrecorded.keys().nth(at % self.unrecorded.len().max(1)).copied();
                if let Some(job) = job {
                    self.record(job);
                }
            }
            Act::RecordAll => {
                for job in self.unrecorded.keys().copied().collect::<Vec<_>>() {
                    self.record(job);
                }
            }
            Act::Wait(ms) => {
                self.now += ms;
                self.step(Event::Tick);
            }
            Act::Crash => self.crash(),
            Act::Resume(route) => self.step(Event::Resume { route }),
            Act::Reload(changed) => {
                // The names are offered again by a scan; here they are other ones.
                self.names = 0;
                self.paused.remove(&changed);
                self.open.remove(&changed);
                let all = rules().into_iter().enumerate();
                let new = all.map(|(at, rules)| (at == changed).then_some(rules));
                self.core.reconfigure(SLOTS, 2, new);
                self.step(Event::Tick);
            }
            Act::Claims(allowed) => self.step(Event::Claims { allowed }),
            Act::Starts(allowed) => {
                self.starts_allowed = allowed;
                self.step(Event::Starts { allowed });
            }
        }
    }

    /// Everything is answered from now on: every job gets its outcome.
    fn go_to_the_end(&mut self) {
        self.step(Event::Claims { allowed: true });
        self.act(&Act::Starts(true));
        for _ in 0..2_000 {
            if self.jobs.is_empty() && self.core.counts().candidates == 0 {
                break;
            }
            for route in self.paused.clone() {
                self.step(Event::Resume { route });
            }
            self.act(&Act::RecordAll);
            for job in self.running.keys().copied().collect::<Vec<_>>() {
                self.step(Event::Ended { job, verdict: Verdict::Done });
            }
            self.now = self.core.next_timer().map_or(self.now, |at| at.max(self.now));
            self.step(Event::Tick);
        }
        assert!(self.jobs.is_empty(), "starved: {:?} {:?}", self.jobs, self.core.counts());
        assert_eq!(
            self.core.counts(),
            Counts { held: self.core.counts().held, ..Counts::default() }
        );
        assert!(self.core.is_still());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: the invariants in the head of `state` hold in every history, and nothing starves.
    /// Method: random events, crash and restart among them, against a model; then every event is
    /// answered until all is over.
    #[test]
    fn every_history_keeps_the_invariants(acts in acts()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.go_to_the_end();
    }

    /// Goal: a drain starts and claims nothing more, and ends. Method: a random history, then a drain
    /// in which all that runs is given back or ends.
    #[test]
    fn a_drain_ends_and_starts_nothing(acts in acts(), how in any::<u8>()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.draining = true;
        world.step(Event::Drain);
        for _ in 0..SLOTS + AHEAD {
            world.end(0, how);
        }
        world.act(&Act::RecordAll);
        prop_assert!(world.running.is_empty() && world.core.is_still());
    }
}

/// Goal: a held name comes back by itself at its time, sooner if something happened to it, and takes no place
/// in the window meanwhile. Method: one name, held twice.
#[test]
fn held_names_come_back_by_themselves() {
    let mut core = Core::new(limits(), rules());
    let rel = RelPath::new("x").unwrap();
    let candidate = Candidate { rel: rel.clone(), route: 0, order: 1 };
    let mut out = Vec::new();
    core.offer(candidate.clone(), 0);
    core.step(Event::Tick, 0, &mut out);
    let asked = Effect::Claim { candidate: candidate.clone() };
    assert_eq!(std::mem::take(&mut out), std::slice::from_ref(&asked));
    let held = |until| Event::Held { candidate: candidate.clone(), until: Some(until) };
    core.step(held(100), 0, &mut out);
    core.offer(candidate.clone(), 50);
    core.step(Event::Tick, 50, &mut out);
    assert!(out.is_empty() && core.holds(&rel) && core.next_timer() == Some(100));
    assert_eq!((core.counts().held, core.counts().candidates), (1, 0));
    core.step(Event::Tick, 100, &mut out);
    assert_eq!(std::mem::take(&mut out), std::slice::from_ref(&asked));
    core.step(held(200), 100, &mut out);
    core.unhold(&rel);
    core.offer(candidate.clone(), 110);
    core.step(Event::Tick, 110, &mut out);
    assert_eq!(out, [asked]);
    assert_eq!(core.next_timer(), None);
}

/// Goal: a clock that is set back keeps nothing waiting until it has caught up, and one that was years ahead
/// when a wait was recorded neither. Method: a held name and a waiting job, an hour back, then a recovery.
#[test]
fn a_clock_set_back_stops_nothing() {
    const HOUR: Millis = 3_600_000;
    let mut core = Core::new(limits(), rules());
    let candidate = Candidate { rel: RelPath::new("x").unwrap(), route: 0, order: 1 };
    let job = JobId::next(JobId::MIN, 1, [3; 10]);
    let mut out = Vec::new();
    core.step(Event::Taken { job, route: 0 }, HOUR, &mut out);
    core.step(Event::Busy { job, until: HOUR + 100 }, HOUR, &mut out);
    core.offer(candidate.clone(), HOUR);
    core.step(Event::Tick, HOUR, &mut out);
    core.step(
        Event::Held { candidate: candidate.clone(), until: Some(HOUR + 100) },
        HOUR,
        &mut out,
    );
    out.clear();
    core.step(Event::Tick, HOUR - 900, &mut out);
    assert_eq!(out, [], "corrected by less than a second");
    core.step(Event::Tick, 5, &mut out);
    let start = Effect::Start { job, route: 0, attempt: 1, suspect: false };
    assert!(out.contains(&start) && out.contains(&Effect::Claim { candidate }), "{out:?}");

    let mut core = Core::new(limits(), rules());
    let found = Recovered {
        job,
        route: Some(0),
        begun: 0,
        ended: 0,
        spent: Spent::default(),
        not_before: 99 * 366 * 24 * HOUR,
        incomplete_since: None,
        records: None,
    };
    out.clear();
    core.step(Event::Recovered(found), HOUR, &mut out);
    assert_eq!(out, [start]);
}

/// Goal: a job whose file is still written waits for its time and spends no attempt. Method: one job, told
/// busy once; then it starts as the attempt that it would have been.
#[test]
fn a_busy_job_waits_and_spends_nothing() {
    let mut core = Core::new(limits(), rules());
    let job = JobId::next(JobId::MIN, 1, [3; 10]);
    let mut out = Vec::new();
    core.step(Event::Taken { job, route: 0 }, 0, &mut out);
    let start = Effect::Start { job, route: 0, attempt: 1, suspect: false };
    assert_eq!(std::mem::take(&mut out), std::slice::from_ref(&start));
    core.step(Event::Busy { job, until: 100 }, 0, &mut out);
    assert!(out.is_empty() && core.running() == 0 && core.next_timer() == Some(100));
    core.step(Event::Tick, 100, &mut out);
    assert_eq!(out, [start]);
}
