//! Records of one input under random histories: a model keeps what the world would know, crashes
//! included, and each effect is compared with the invariants in the head of `inputs` and of
//! `core::records`.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::super::backoff::Backoff;
use super::super::super::pace::{PaceRules, Rate};
use super::super::super::records::Progress;
use super::super::{Event, Limits, RecordLimits, Recovered, RouteRules};
use super::*;
use crate::core::Verdict;

const SLOTS: usize = 3;
const WINDOW: usize = 8;

fn limits() -> Limits {
    let records = RecordLimits { inputs: 2, window: WINDOW, lot_us: 1_000, lot_most: 3 };
    Limits { slots: SLOTS, ahead: 0, window: 8, waiting: 9, incomplete_for: 5_000, records }
}

fn rules(max_running: usize) -> RouteRules {
    RouteRules {
        retries: Spent { fail: 1, timeout: 0, oom: 0, crash: 1, lost: 3, try_again: 2 },
        retry_on: None,
        backoff: Backoff {
            try_again_ms: vec![10, 20],
            first_ms: 1_000,
            longest_ms: 5_000,
            jitter_percent: 20,
        },
        pace: PaceRules {
            rate: (max_running < SLOTS).then_some(Rate { starts: 9, per_ms: 50 }),
            crashes: Some(2),
        },
        max_running,
        priority: 0,
        pause_after_failures: None,
        records: true,
    }
}

/// What is appended to the journal and not durable yet.
#[derive(Clone, Debug)]
enum Line {
    Tried { no: u64, tried: Tried, alone: bool },
    Over { no: u64, failed: bool },
    Attempt { attempt: u32, spent: Spent, loss: Option<Loss> },
    Outcome { failed: bool },
}

/// What survives.
#[derive(Clone, Debug, Default)]
struct Disk {
    begun: u32,
    ended: u32,
    spent: Spent,
    loss: Option<Loss>,
    over: BTreeMap<u64, bool>,
    tried: BTreeMap<u64, (Tried, bool)>,
    outcome: Option<bool>,
}

struct World {
    core: Core,
    job: JobId,
    now: Millis,
    /// How many records the input has.
    count: u64,
    max_running: usize,
    /// Records that take the daemon down.
    killers: BTreeSet<u64>,
    disk: Disk,
    lines: Vec<Line>,
    /// What slots have: the rest of each lot.
    lots: Vec<Vec<(u64, u32)>>,
    next_read: u64,
    /// Records that were asked for and have not come.
    asked: Option<usize>,
    /// Some of these have come: nobody waits for the rest.
    goes_on: bool,
    is_broken: bool,
    is_paused: bool,
    is_draining: bool,
    crashes: u32,
}

#[derive(Clone, Debug)]
enum Act {
    End(usize, u8),
    Durable(usize),
    Read(u8),
    Broken,
    Wait(Millis),
    Crash(usize),
    Resume,
    Claims(bool),
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        10 => (0..SLOTS, any::<u8>()).prop_map(|(at, how)| Act::End(at, how)),
        8 => (1..6usize).prop_map(Act::Durable),
        8 => any::<u8>().prop_map(Act::Read),
        1 => Just(Act::Broken),
        2 => (0..3_000u64).prop_map(Act::Wait),
        1 => (0..4usize).prop_map(Act::Crash),
        1 => Just(Act::Resume),
        1 => any::<bool>().prop_map(Act::Claims),
        1 => Just(Act::Restart),
    ];
    proptest::collection::vec(act, 1..150)
}

impl World {
    fn new(count: u64, max_running: usize, killers: BTreeSet<u64>) -> Self {
        let mut world = Self {
            core: Core::new(limits(), vec![rules(max_running)]),
            job: JobId::next(JobId::MIN, 1, [3; 10]),
            now: 1_000,
            count,
            max_running,
            killers,
            disk: Disk::default(),
            lines: Vec::new(),
            lots: Vec::new(),
            next_read: 1,
            asked: None,
            goes_on: false,
            is_broken: false,
            is_paused: false,
            is_draining: false,
            crashes: 0,
        };
        world.step(Event::Taken { job: world.job, route: 0 });
        world
    }

    fn step(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut out = Vec::new();
            self.core.step(event, self.now, &mut out);
            for effect in out {
                events.extend(self.carry_out(effect));
            }
        }
        self.check();
    }

    fn is_over(&self, no: u64) -> bool {
        let mut lines = self.lines.iter();
        let is_it = |line: &Line| matches!(line, Line::Over { no: n, .. } if *n == no);
        self.disk.over.contains_key(&no) || lines.any(is_it)
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        let job = self.job;
        match effect {
            Effect::Start { attempt, .. } => {
                assert!(!self.is_draining && self.lots.is_empty() && self.disk.outcome.is_none());
                self.disk.begun = attempt;
                self.next_read = 1;
                Some(Event::Opened { job })
            }
            Effect::ReadRecords { most, .. } => {
                assert!(most > 0 && !self.is_draining && !self.is_paused && !self.is_broken);
                assert!(self.asked.replace(most).is_none(), "asked twice");
                None
            }
            Effect::StartRecords { lot, .. } => {
                self.started(lot);
                None
            }
            Effect::RecordTried { no, tried, alone, .. } => {
                assert!(!self.is_over(no), "{no} is over and is tried");
                self.lines.push(Line::Tried { no, tried, alone });
                None
            }
            Effect::RecordInput { no, failure, .. } => {
                assert!(!self.is_over(no), "{no} is over twice");
                self.lines.push(Line::Over { no, failed: failure.is_some() });
                None
            }
            Effect::RecordAttempt { attempt, spent, loss, .. } => {
                self.lines.push(Line::Attempt { attempt, spent, loss });
                None
            }
            Effect::Collect { .. } => {
                assert_eq!((self.asked, self.is_broken), (None, false));
                assert_eq!(self.disk.over.len() as u64, self.count);
                Some(Event::Ended { job, verdict: Verdict::Done })
            }
            Effect::RecordOutcome { failure, .. } => {
                let failed = failure.is_some();
                assert!(self.lots.is_empty() && (self.asked.is_none() || self.goes_on));
                assert!(failed || self.disk.over.len() as u64 == self.count, "records are left");
                self.lines.push(Line::Outcome { failed });
                None
            }
            Effect::Release { begun, .. } => {
                assert!(self.lots.is_empty(), "closed while records run");
                assert_eq!(begun + 1, self.disk.begun);
                assert!(self.asked.is_none() || self.goes_on, "closed while it is read");
                self.disk.begun = begun;
                self.asked = None;
                None
            }
            Effect::Pause { .. } => {
                self.is_paused = true;
                None
            }
            Effect::Break { .. } | Effect::Mend { .. } => None,
            Effect::Claim { .. } => panic!("nothing to claim"),
        }
    }

    fn started(&mut self, lot: Vec<(u64, u32)>) {
        assert!(!self.is_draining && !self.is_paused && !self.is_broken && !lot.is_empty());
        assert!(lot.len() == 1 || self.max_running == SLOTS, "a rate counts each record");
        let below = self.disk.loss.map_or(0, |loss| loss.below);
        let low = (1..=self.count).find(|no| !self.disk.over.contains_key(no)).unwrap();
        for (no, attempt) in &lot {
            assert!(*no <= self.count && *attempt >= 1 && !self.is_over(*no), "{no} starts");
            let runs = self.lots.iter().flatten().any(|(other, _)| other == no);
            assert!(!runs, "{no} runs twice at once");
            if let Some((tried, alone)) = self.disk.tried.get(no) {
                let again = *attempt + u32::from(*alone);
                assert!(again > tried.begun, "attempts at {no} are forgotten: {tried:?}");
                assert!(tried.not_before <= self.now, "{no} does not wait: {tried:?}");
            }
            if self.disk.spent.lost >= 2 && *no < below && low < below {
                assert!(lot.len() == 1 && self.lots.is_empty(), "suspect {no} is not alone");
                assert!(self.disk.tried[no].1, "that {no} runs alone is not durable");
            }
        }
        self.lots.push(lot);
    }

    fn check(&self) {
        assert!(self.lots.len() <= SLOTS.min(self.max_running), "{:?}", self.lots);
        assert_eq!(self.core.running(), self.lots.len());
        if let Some(progress) = self.core.progress(self.job) {
            assert_eq!(progress.recorded(), self.disk.over.len() as u64);
        }
    }

    /// What was asked for comes, or some of it.
    fn read(&mut self, how: u8) {
        let Some(most) = self.asked else { return };
        self.goes_on = most > 0 && how.is_multiple_of(4);
        let mut numbers = Vec::new();
        while numbers.len() < most.min(usize::from(how / 4 % 6)) && self.next_read <= self.count {
            if !self.disk.over.contains_key(&self.next_read) {
                numbers.push(self.next_read);
            }
            self.next_read += 1;
        }
        let at_end = !self.goes_on && self.next_read > self.count;
        let is_full = !self.goes_on && how >= 200 && !numbers.is_empty();
        // What comes later is the rest of what was asked for, not as many again.
        self.asked = self.goes_on.then(|| most - numbers.len());
        let goes_on = self.goes_on;
        self.step(Event::Read { job: self.job, numbers, is_full, at_end, goes_on });
    }

    fn broken(&mut self) {
        if self.asked.take().is_some() {
            (self.is_broken, self.goes_on) = (true, false);
            let failure = Failure::new(FailClass::Permanent, "written into");
            self.step(Event::InputBroken { job: self.job, failure });
        }
    }

    fn durable(&mut self, most: usize) {
        for _ in 0..most {
            if self.lines.is_empty() {
                return;
            }
            let line = self.lines.remove(0);
            let job = self.job;
            self.write(&line);
            self.step(match line {
                Line::Tried { no, .. } => Event::RecordRecorded { job, no, failed: false },
                Line::Over { no, failed } => Event::RecordRecorded { job, no, failed },
                Line::Attempt { .. } | Line::Outcome { .. } => Event::Recorded { job },
            });
        }
    }

    fn write(&mut self, line: &Line) {
        let disk = &mut self.disk;
        match line {
            Line::Tried { no, tried, alone } => {
                disk.tried.insert(*no, (*tried, *alone));
            }
            Line::Over { no, failed } => {
                assert!(disk.over.insert(*no, *failed).is_none(), "{no} is over twice");
                disk.tried.remove(no);
            }
            Line::Attempt { attempt, spent, loss } => {
                (disk.ended, disk.spent) = (*attempt, *spent);
                disk.loss = loss.or(disk.loss);
            }
            Line::Outcome { failed } => {
                assert!(disk.outcome.replace(*failed).is_none(), "two outcomes");
            }
        }
    }

    /// Some of what was written and not promised may have survived.
    fn crash(&mut self, survive: usize) {
        self.crashes += 1;
        for line in std::mem::take(&mut self.lines).into_iter().take(survive) {
            self.write(&line);
        }
        self.boot();
    }

    fn boot(&mut self) {
        self.lines.clear();
        self.lots.clear();
        (self.is_paused, self.is_draining) = (false, false);
        (self.asked, self.goes_on, self.is_broken) = (None, false, false);
        self.core = Core::new(limits(), vec![rules(self.max_running)]);
        if self.disk.outcome.is_some() {
            return;
        }
        let mut progress = Progress::default();
        for (no, failed) in &self.disk.over {
            progress.record(*no, *failed);
        }
        let disk = &self.disk;
        let alone = disk.tried.iter().find(|(_, (_, alone))| *alone);
        let past = Past {
            progress,
            alone: alone.map(|(no, (tried, _))| (*no, *tried)),
            tried: disk.tried.iter().map(|(no, (tried, _))| (*no, *tried)).collect(),
            loss: disk.loss,
        };
        let found = Recovered {
            job: self.job,
            route: Some(0),
            begun: disk.begun,
            ended: disk.ended,
            spent: disk.spent,
            not_before: 0,
            incomplete_since: None,
            records: Some(past),
        };
        self.step(Event::Recovered(found));
    }

    fn end(&mut self, at: usize, how: u8) {
        if self.lots.is_empty() {
            return;
        }
        let at = at % self.lots.len();
        let (no, _) = self.lots[at].remove(0);
        if self.killers.contains(&no) {
            return self.crash(usize::from(how) % 3);
        }
        let is_last = self.lots[at].is_empty();
        if is_last {
            self.lots.remove(at);
        }
        let fail = |class| Verdict::Failed(Failure::new(class, "x"));
        let verdict = match how % 16 {
            0..=8 => Verdict::Done,
            9 => fail(FailClass::Fail),
            10 => fail(FailClass::TryAgain),
            11 => fail(FailClass::Permanent),
            12 => fail(FailClass::Crash),
            13 => Verdict::Incomplete { reason: "y".to_owned(), retry_after_ms: Some(5) },
            14 => Verdict::Misconfigured { reason: "z".to_owned() },
            _ => Verdict::Released,
        };
        let took_us = u64::from(how) * 10;
        let is_misconfigured = matches!(verdict, Verdict::Misconfigured { .. });
        self.step(Event::RecordEnded { job: self.job, no, verdict, took_us, is_last });
        assert!(!is_misconfigured || self.is_paused, "its route goes on");
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::End(at, how) => self.end(at, how),
            Act::Durable(most) => self.durable(most),
            Act::Read(how) => self.read(how),
            Act::Broken => self.broken(),
            Act::Wait(ms) => {
                self.now += ms;
                self.step(Event::Tick);
            }
            Act::Crash(survive) => self.crash(survive),
            Act::Resume => {
                self.is_paused = false;
                self.step(Event::Resume { route: 0 });
            }
            Act::Claims(allowed) => self.step(Event::Claims { allowed }),
            Act::Restart => {
                self.is_draining = true;
                self.step(Event::Drain);
                while !(self.lots.is_empty() && self.lines.is_empty() && self.asked.is_none()) {
                    self.durable(usize::MAX);
                    self.read(21);
                    if !self.lots.is_empty() {
                        let before = self.crashes;
                        self.end(0, 15);
                        if self.crashes > before {
                            return;
                        }
                    }
                }
                assert!(self.core.is_still());
                self.boot();
            }
        }
    }

    /// From now on everything is answered: the job ends.
    fn go_to_the_end(&mut self) {
        self.step(Event::Claims { allowed: true });
        for _ in 0..5_000 {
            if self.disk.outcome.is_some() {
                return;
            }
            self.act(&Act::Resume);
            self.durable(usize::MAX);
            self.read(21);
            self.end(0, 0);
            self.now = self.core.next_timer().map_or(self.now, |at| at.max(self.now));
            self.step(Event::Tick);
        }
        panic!("starved: {:?} {:?} {:?}", self.disk, self.lots, self.core.counts());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: in every history each record is over once, what may not run does not, and nothing starves.
    /// Method: random events, crashes, drains, pauses, slow reading and an input that cannot be read on among
    /// them; then every event is answered.
    #[test]
    fn every_history_ends_each_record_once(
        count in 0u64..40, max_running in 1..=SLOTS, acts in acts(),
    ) {
        let mut world = World::new(count, max_running, BTreeSet::new());
        for act in &acts {
            world.act(act);
        }
        world.go_to_the_end();
        let failed = world.disk.outcome == Some(true);
        let was_broken = acts.iter().any(|act| matches!(act, Act::Broken));
        prop_assert!(failed || world.disk.over.len() as u64 == count);
        if world.crashes < 4 && !was_broken {
            prop_assert!(!failed, "an input failed although it was lost {} times", world.crashes);
        }
    }

    /// Goal: a record that takes the daemon down whenever it runs is found and fails; its neighbours, all
    /// of them, are done. Method: some killers among sound records; how many survive each crash is random.
    #[test]
    fn a_record_that_kills_the_daemon_is_found(
        count in 1u64..40, killers in proptest::collection::btree_set(1u64..40, 1..4),
        ends in proptest::collection::vec((0..SLOTS, 0u8..9), 1..60),
    ) {
        let killers: BTreeSet<u64> = killers.into_iter().filter(|no| *no <= count).collect();
        let mut world = World::new(count, SLOTS, killers.clone());
        for (at, how) in ends {
            world.read(how.wrapping_mul(23));
            world.end(at, how);
            world.durable(usize::from(how) % 4);
        }
        world.go_to_the_end();
        let failed: BTreeSet<u64> =
            world.disk.over.iter().filter(|(_, failed)| **failed).map(|(no, _)| *no).collect();
        prop_assert_eq!(world.disk.outcome, Some(false), "{:?}", world.disk);
        prop_assert_eq!(&failed, &killers);
        prop_assert!(world.crashes as usize <= 8 * killers.len(), "{} crashes", world.crashes);
    }
}

/// Goal: a record that takes the daemon down is found also where one that was in flight at an earlier loss waits
/// for its next attempt. Method: one that fails and waits, a crash beside it; then no time passes, and a killer
/// far behind it.
#[test]
fn a_record_that_waits_hides_no_killer() {
    let (count, killers) = (40, BTreeSet::from([35]));
    let mut world = World::new(count, SLOTS, killers.clone());
    world.read(21);
    world.end(0, 9);
    world.durable(usize::MAX);
    world.crash(0);
    for _ in 0..1_000 {
        world.durable(usize::MAX);
        world.read(21);
        world.end(0, 0);
    }
    let over: BTreeSet<u64> = world.disk.over.keys().copied().collect();
    assert_eq!(over, (2..=count).collect(), "{:?}", world.disk);
    world.go_to_the_end();
    let failed = world.disk.over.iter().filter(|(_, failed)| **failed).map(|(no, _)| *no);
    assert_eq!((world.disk.outcome, failed.collect()), (Some(false), killers));
}

/// Goal: records and whole files share the slots, and a busy input holds no other route up. Method: an
/// input of many records, and files of another route beside it: each has its half.
#[test]
fn records_and_files_have_half_of_the_slots_each() {
    let files = RouteRules { records: false, ..rules(9) };
    let limits = Limits { slots: 4, ..limits() };
    let pace = PaceRules::default();
    let rules = [rules(9), files].map(|rules| RouteRules { pace, ..rules });
    let mut core = Core::new(limits, rules.to_vec());
    let job = |at| JobId::next(JobId::MIN, at, [3; 10]);
    let mut out = Vec::new();
    core.step(Event::Taken { job: job(1), route: 0 }, 0, &mut out);
    core.step(Event::Opened { job: job(1) }, 0, &mut out);
    for at in 2..8 {
        core.step(Event::Taken { job: job(at), route: 1 }, 0, &mut out);
    }
    let numbers = (1..=8).collect();
    let (is_full, at_end, goes_on) = (false, false, false);
    let read = Event::Read { job: job(1), numbers, is_full, at_end, goes_on };
    core.step(read, 0, &mut out);
    let started = |out: &[Effect]| {
        let files = out.iter().filter(|e| matches!(e, Effect::Start { route: 1, .. })).count();
        let lots = out.iter().filter(|e| matches!(e, Effect::StartRecords { .. })).count();
        (files, lots)
    };
    // Files could start before there were records; each slot that is freed goes to the fewer.
    let (first, lots) = started(&out);
    assert_eq!(first + lots, 4, "{out:?}");
    for at in 2..4 {
        core.step(Event::Ended { job: job(at), verdict: Verdict::Done }, 0, &mut out);
    }
    let (files, lots) = started(&out);
    assert_eq!((files - 2, lots), (2, 2), "{out:?}");
}
