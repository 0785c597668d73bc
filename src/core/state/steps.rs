//! The core step by step, for what random histories do not single out: waits over a restart, limits at their
//! edge, what a rate counts, who has room in the window.
//!
//! Must not know: how the core keeps any of it.

use super::tests::{RECORDS, rules};
use super::*;
use crate::core::Verdict;
use crate::core::pace::{PaceRules, Rate};

const LIMITS: Limits =
    Limits { slots: 8, ahead: 0, window: 8, waiting: 3, incomplete_for: 5_000, records: RECORDS };

fn job(at: u64) -> JobId {
    JobId::next(JobId::MIN, at, [3; 10])
}

fn step(core: &mut Core, event: Event, now: Millis) -> Vec<Effect> {
    let mut out = Vec::new();
    core.step(event, now, &mut out);
    out
}

fn start(at: u64, route: usize, attempt: u32) -> Effect {
    Effect::Start { job: job(at), route, attempt, suspect: false }
}

fn failed() -> Verdict {
    Verdict::Failed(Failure::new(FailClass::Permanent, "x"))
}

fn incomplete() -> Verdict {
    Verdict::Incomplete { reason: String::new(), retry_after_ms: None }
}

fn waits(at: u64, not_before: Millis, incomplete_since: Option<Millis>) -> Event {
    Event::Recovered(Recovered {
        job: job(at),
        route: Some(1),
        begun: 1,
        ended: 1,
        spent: Spent::default(),
        not_before,
        incomplete_since,
        records: None,
    })
}

fn name(at: i64, route: usize) -> Candidate {
    Candidate { rel: RelPath::new(format!("{route}-{at}")).unwrap(), route, order: at }
}

/// Goal: a restart shortens no wait, and what was incomplete before it counts. Method: a job that waits, asked
/// before its time and at it; it is incomplete just before the limit and at it.
#[test]
fn a_wait_outlives_a_restart() {
    for (ends, is_over) in [(5_099, false), (5_100, true)] {
        let mut core = Core::new(LIMITS, rules());
        assert_eq!(step(&mut core, waits(1, 500, Some(100)), 200), []);
        assert_eq!(core.describe(job(1)), Some(("incomplete", Some(500))));
        assert_eq!(
            (core.next_timer(), core.waiting_for(1), core.waiting_for(0)),
            (Some(500), 1, 0)
        );
        assert_eq!((core.counts().waiting, core.counts().incomplete), (1, 1));
        assert_eq!(step(&mut core, Event::Tick, 499), []);
        assert_eq!(step(&mut core, Event::Tick, 500), [start(1, 1, 2)]);
        assert!(core.is_running(job(1), None) && !core.is_running(job(2), None));
        let out = step(&mut core, Event::Ended { job: job(1), verdict: incomplete() }, ends);
        let is_as_expected = match &out[..] {
            [Effect::RecordAttempt { incomplete_since, .. }] => {
                !is_over && *incomplete_since == Some(100)
            }
            [Effect::RecordOutcome { failure, .. }] => is_over && failure.is_some(),
            _ => false,
        };
        assert!(is_as_expected && !core.is_running(job(1), None), "{out:?}");
    }
}

/// Goal: so many failures in a row pause a route, and fewer do not. Method: a limit of three; two, one that is
/// done, and then three.
#[test]
fn failures_in_a_row_pause() {
    let mut core = Core::new(LIMITS, rules());
    for at in 1..=6 {
        let now = at * 100;
        assert_eq!(
            step(&mut core, Event::Taken { job: job(at), route: 0 }, now),
            [start(at, 0, 1)]
        );
        let verdict = if at == 3 { Verdict::Done } else { failed() };
        let out = step(&mut core, Event::Ended { job: job(at), verdict }, now);
        let paused = matches!(out.last(), Some(Effect::Pause { route: 0, .. }));
        assert_eq!((paused, core.is_paused(0)), (at == 6, at == 6), "{at}: {out:?}");
    }
    assert_eq!(step(&mut core, Event::Taken { job: job(7), route: 0 }, 700), []);
    assert_eq!(core.describe(job(7)), Some(("its route is paused", None)));
    assert_eq!(core.counts().stuck, 1);
    assert_eq!(step(&mut core, Event::Resume { route: 0 }, 700), [start(7, 0, 1)]);
}

/// Goal: a rate counts what began and nothing else, and a changed one holds at once. Method: two an hour; a
/// job whose file is still written, one that goes to another route, and then jobs that begin.
#[test]
fn a_rate_counts_what_began() {
    const HOUR: Millis = 3_600_000;
    let of = |starts| RouteRules {
        pace: PaceRules { rate: Some(Rate { starts, per_ms: HOUR }), crashes: None },
        max_running: 8,
        ..rules().remove(0)
    };
    let mut core = Core::new(LIMITS, vec![of(2), rules().remove(1)]);
    let taken = |at| Event::Taken { job: job(at), route: 0 };
    assert_eq!(step(&mut core, taken(1), 10), [start(1, 0, 1)]);
    assert_eq!(step(&mut core, Event::Busy { job: job(1), until: 9 * HOUR }, 10), []);
    assert_eq!(step(&mut core, taken(2), 10), [start(2, 0, 1)]);
    assert_eq!(step(&mut core, Event::Resorted { job: job(2), to: Ok(1) }, 10), [start(2, 1, 1)]);
    assert_eq!(step(&mut core, taken(3), 10), [start(3, 0, 1)]);
    assert_eq!(step(&mut core, taken(4), 10), [start(4, 0, 1)]);
    assert_eq!(step(&mut core, taken(5), 10), []);
    let waits = ("waiting for the rate of its route", Some(10 + HOUR));
    assert_eq!((core.describe(job(5)), core.next_timer()), (Some(waits), Some(10 + HOUR)));
    core.reconfigure(8, 0, [Some(of(3)), Some(rules().remove(1))]);
    assert_eq!(step(&mut core, Event::Tick, 11), [start(5, 0, 1)]);
    assert_eq!(step(&mut core, taken(6), 11), []);
}

/// Goal: what a slowed or paused route cannot take leaves the window to the others, and is taken when it
/// goes on. Method: more names than its share of a slowed one; a full window of one that is then paused.
#[test]
fn slow_routes_leave_room() {
    let mut core = Core::new(LIMITS, rules());
    assert_eq!((core.oldest(), core.is_dry()), (None, true));
    for at in 0..5 {
        core.offer(name(at, 0), 0);
    }
    assert_eq!((core.counts().candidates, core.room()), (2, 6));
    for at in 5..15 {
        core.offer(name(at, 1), 0);
        core.offer(name(at, 1), 0);
    }
    assert_eq!((core.counts().candidates, core.room(), core.oldest()), (8, 0, Some(0)));
    core.step(Event::Starts { allowed: false }, 0, &mut Vec::new());
    assert!(!core.may_claim() && !core.is_dry());
    step(&mut core, Event::Taken { job: job(1), route: 1 }, 0);
    core.pause(1, "x".to_owned(), &mut Vec::new());
    assert_eq!((core.counts().candidates, core.counts().stuck_candidates), (2, 1));
    core.offer(name(14, 1), 0);
    assert_eq!(core.counts().candidates, 2, "its share is taken");
    step(&mut core, Event::Resume { route: 1 }, 0);
    core.offer(name(7, 1), 0);
    core.offer(name(14, 1), 0);
    assert_eq!(core.counts().candidates, 4);
}

/// Goal: routes that are paused or slowed leave room for each other, too: one with a long backlog must not keep
/// the names of another one out for as long as it is paused. Method: a full share of a paused route, then names
/// of one with a rate; and those of a route that is paused while its names are held.
#[test]
fn slow_routes_share_what_they_have() {
    let limits = Limits { window: 32, ..LIMITS };
    let mut core = Core::new(limits, rules());
    core.pause(1, "x".to_owned(), &mut Vec::new());
    for at in 0..20 {
        core.offer(name(at, 1), 0);
    }
    assert_eq!(core.counts().candidates, 8, "a quarter");
    for at in 0..20 {
        core.offer(name(at, 0), 0);
    }
    assert_eq!((core.counts().candidates, core.counts().stuck_candidates), (8, 4), "half of it");
    let claim = |at| Effect::Claim { candidate: name(at, 0) };
    assert_eq!(step(&mut core, Event::Tick, 0), [claim(0), claim(1)]);

    let mut all = rules();
    all.push(rules().remove(1));
    let mut core = Core::new(limits, all);
    for at in 0..20 {
        core.hold(name(at, 1), 100);
    }
    core.pause(1, "x".to_owned(), &mut Vec::new());
    step(&mut core, Event::Tick, 100);
    assert_eq!((core.counts().candidates, core.counts().held), (8, 0), "nobody waits for them");
    core.offer(name(99, 2), 100);
    let claims = step(&mut core, Event::Tick, 100);
    assert_eq!(claims, [Effect::Claim { candidate: name(99, 2) }]);
    let candidate = Candidate { route: 1, ..name(99, 2) };
    step(&mut core, Event::Sorted { candidate, from: 2 }, 100);
    assert_eq!(core.counts().candidates, 8, "by their content, too");

    let mut core = Core::new(limits, rules());
    for at in 0..20 {
        core.hold(name(at, 0), 100);
    }
    assert_eq!(step(&mut core, Event::Tick, 100), [claim(0), claim(1)]);
    let counts = core.counts();
    assert_eq!((counts.candidates + 2, counts.held), (8, 12), "their turn comes by itself");
}

/// Goal: jobs of a route that wait for another attempt keep no other route from claiming. Method: a route of
/// which each job waits, and one of which nothing does, at the limit for all.
#[test]
fn waiting_jobs_leave_room_for_other_routes() {
    let mut core = Core::new(Limits { slots: 1, waiting: 8, ..LIMITS }, rules());
    for at in 1..=8 {
        core.offer(name(at, 1), 0);
    }
    let mut claimed = 0;
    let mut effects = step(&mut core, Event::Tick, 0);
    while let Some(effect) = effects.pop() {
        let Effect::Claim { candidate } = effect else { continue };
        claimed += 1;
        let job = job(100 + claimed);
        effects.extend(step(&mut core, Event::Claimed { job, route: candidate.route }, 0));
        effects.extend(step(&mut core, Event::Busy { job, until: 900 }, 0));
    }
    assert_eq!((claimed, core.waiting()), (4, 4), "half of what may wait");
    core.offer(name(1, 0), 0);
    assert_eq!(step(&mut core, Event::Tick, 0), [Effect::Claim { candidate: name(1, 0) }]);
}

/// Goal: not more is claimed than may wait for another attempt. Method: one less than the limit, and one more.
#[test]
fn what_waits_is_bounded() {
    let mut core = Core::new(LIMITS, rules());
    core.offer(name(1, 1), 0);
    for at in 1..=3 {
        assert!(core.may_claim());
        let claims = if at == 1 { vec![Effect::Claim { candidate: name(1, 1) }] } else { vec![] };
        assert_eq!(step(&mut core, waits(at, 900, None), 0), claims);
    }
    assert!(!core.may_claim());
    step(&mut core, Event::Held { candidate: name(1, 1), until: None }, 0);
    core.offer(name(2, 1), 0);
    assert_eq!(step(&mut core, Event::Tick, 0), []);
    let out = step(&mut core, Event::Tick, 900);
    assert_eq!(out.len(), 4, "{out:?}");
}

/// Goal: of a route the next input is opened when the slots would be idle, and no more than so many; the first
/// of another route always is. Method: inputs that are read and that have a record under way, with a limit of two.
#[test]
fn inputs_are_opened_one_by_one() {
    let of_records = RouteRules { records: true, ..rules().remove(1) };
    let mut core = Core::new(LIMITS, vec![of_records.clone(), of_records]);
    let taken = |at, route| Event::Taken { job: job(at), route };
    let read = |at| {
        let (numbers, is_full, at_end, goes_on) = (vec![1], false, true, false);
        Event::Read { job: job(at), numbers, is_full, at_end, goes_on }
    };
    let ask = |at| Effect::ReadRecords { job: job(at), most: 8 };
    let lot = |at| Effect::StartRecords { job: job(at), route: 0, lot: vec![(1, 1)] };
    assert_eq!(step(&mut core, taken(1, 0), 0), [start(1, 0, 1)]);
    assert_eq!(step(&mut core, Event::Opened { job: job(1) }, 0), [ask(1)]);
    assert_eq!(step(&mut core, taken(2, 0), 0), [], "the first one is read");
    assert_eq!(step(&mut core, read(1), 0), [lot(1), start(2, 0, 1)]);
    assert!(core.is_running(job(1), Some(1)) && core.is_running(job(1), None));
    assert!(!core.is_running(job(1), Some(2)));
    assert_eq!(step(&mut core, Event::Opened { job: job(2) }, 0), [ask(2)]);
    assert_eq!(step(&mut core, read(2), 0), [lot(2)]);
    assert_eq!(step(&mut core, taken(3, 0), 0), [], "there are two");
    assert_eq!(step(&mut core, taken(4, 1), 0), [start(4, 1, 1)]);
}
