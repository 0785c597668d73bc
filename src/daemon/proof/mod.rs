//! The crash proof: the power is cut, or the daemon killed, before every durable operation there is,
//! and what comes back must be right.
//!
//! The story of one proof. *Pass one*: a daemon lives on a simulated disk, claims, runs, records,
//! seals, checkpoints, while people drop files and take others away; its durable operations are
//! counted. *Pass two*: the same life again, stopped before operation n, for each n. Of each such
//! moment several worlds are made: `kill -9` keeps the page cache; a power cut on ext4 keeps names in
//! order; a power cut in the weakest order that POSIX allows keeps any subset of what was not
//! synced. In each world a new daemon recovers and works on, is stopped again now and then (in
//! recovery, too), and at last everything has ended. Then the judges look.
//!
//! - `story`: the ledger of files, promises and what workers do.
//! - `sets`: the same of jobs of more than one file.
//! - `life`: one life of the daemon, its scheduler played by draws.
//! - `check`: the judges, each shown a broken history.
//! - `rules`: the rules of the design whose breaking has a name.
//! - `faults`: EIO, ENOSPC, EMFILE at each operation instead of a crash.
//!
//! `INBOXD_PROOF_STATES=100000 cargo test proof::every` is the long run. A failure prints three
//! numbers; `INBOXD_PROOF_AGAIN=5,9,1` looks at that state alone.
//!
//! Must not know: threads, workers, the real disk.

mod check;
mod faults;
mod life;
mod rules;
mod sets;
mod story;

use crate::fs::sim::{Mode, Pick, SimFs, SplitMix};
use check::{judge, look};
use life::{End, is_out, live};
use story::{Deed, Story};

/// States that each of the stories below is looked at in, where nobody asks for more.
const STATES: u64 = 5_000;
/// Crashes after which a story is left alone: no more than a job may be lost without blame.
const DEEPEST: u32 = 3;

fn states() -> u64 {
    let asked = std::env::var("INBOXD_PROOF_STATES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(STATES)
}

fn spool() -> SimFs {
    let sim = SimFs::new();
    for folder in ["incoming/sub", "taken"] {
        sim.plant_dir(folder);
    }
    sim
}

/// All kinds of files, in folders, twice under one name, dropped before and during the run.
fn everything(seed: u64) -> (SimFs, Story) {
    use Deed::{Careless, Checkpoint, Drain, Drop, Seal, TakeAway, WriteBack};
    let sim = spool();
    let mut rng = SplitMix::new(seed);
    let mut names = vec![
        "ok-1",
        "two-1",
        "fail-1",
        "flaky-1",
        "sub/ok-2",
        "sub/perm-1",
        "made-1",
        "chain-1",
        "none-1",
        "wait-1",
        "mess-1",
        "wide-1",
        "crash-1",
        "again-1",
        "recs-1",
        "sub/recs-2",
        "set-1",
        "sub/setperm-1",
        "setflaky-1",
        "pair-1",
        "sub/pairperm-1",
    ];
    let mut deeds = vec![
        Drop("ok-1"),
        Drop("sub/two-2"),
        Careless("ok-9"),
        TakeAway,
        Drop("made-1"),
        Drop("chain-2"),
        Checkpoint,
        Drop("sub/ok-2"),
        Careless("fail-9"),
        WriteBack,
        Seal,
        Drop("perm-2"),
        Checkpoint,
        Drop("ok-1"),
        TakeAway,
        Drop("wide-2"),
        Drop("recs-1"),
        Drop("set-1"),
        Drop("sub/set-2"),
        Drop("pair-2"),
        Drain,
    ];
    // Each seed tells a part of it, in an order of its own: short lives reach more of their states.
    shuffle(&mut names, &mut rng);
    shuffle(&mut deeds, &mut rng);
    names.truncate(3 + usize::try_from(rng.below(4)).unwrap());
    deeds.truncate(2 + usize::try_from(rng.below(6)).unwrap());
    let mut story = Story::new(seed, deeds);
    for name in names {
        story.drop_file(&sim, name);
    }
    take_in(&mut story, ["src-1", "fail-src"], &mut rng);
    (sim, story)
}

/// Inputs of records, and little else, through checkpoints and drains.
fn records(seed: u64) -> (SimFs, Story) {
    use Deed::{Checkpoint, Drain, Drop, Seal, WriteBack};
    let sim = spool();
    let mut rng = SplitMix::new(seed);
    let mut deeds =
        vec![Checkpoint, Drain, Drop("sub/recs-2"), Seal, WriteBack, Checkpoint, Drop("ok-1")];
    shuffle(&mut deeds, &mut rng);
    deeds.truncate(1 + usize::try_from(rng.below(5)).unwrap());
    let mut story = Story::new(seed, deeds);
    if rng.below(3) == 0 {
        story.add_source("recs-src");
    } else {
        story.drop_file(&sim, "recs-1");
    }
    (sim, story)
}

/// Folders that are one job, and little else.
fn sets(seed: u64) -> (SimFs, Story) {
    use Deed::{Checkpoint, Drain, Drop, TakeAway, WriteBack};
    let sim = spool();
    let mut rng = SplitMix::new(seed);
    let mut names = vec!["set-1", "sub/set-2", "setperm-1", "sub/setflaky-1", "setmess-1", "ok-1"];
    let mut deeds = vec![
        Drop("set-1"),
        Drop("sub/set-3"),
        Checkpoint,
        Drain,
        WriteBack,
        TakeAway,
        Drop("setperm-1"),
        Checkpoint,
        Drop("sub/ok-1"),
    ];
    shuffle(&mut names, &mut rng);
    shuffle(&mut deeds, &mut rng);
    names.truncate(1 + usize::try_from(rng.below(3)).unwrap());
    deeds.truncate(1 + usize::try_from(rng.below(5)).unwrap());
    let mut story = Story::new(seed, deeds);
    for name in names {
        story.drop_file(&sim, name);
    }
    take_in(&mut story, ["set-src", "sub/setperm-src"], &mut rng);
    (sim, story)
}

/// Some of these are sources.
fn take_in(story: &mut Story, sources: [&str; 2], rng: &mut SplitMix) {
    let count = usize::try_from(rng.below(3)).unwrap();
    sources.into_iter().take(count).for_each(|source| story.add_source(source));
}

/// Files with companions, and little else.
fn pairs(seed: u64) -> (SimFs, Story) {
    use Deed::{Checkpoint, Drain, Drop, TakeAway, WriteBack};
    let mut names = vec!["pair-1", "sub/pair-2", "pairperm-1", "sub/pairflaky-1", "pairmess-1"];
    let mut deeds = vec![
        Drop("pair-1"),
        Drop("sub/pair-3"),
        Checkpoint,
        Drain,
        WriteBack,
        TakeAway,
        Drop("pairperm-1"),
        Drop("ok-1"),
    ];
    let mut rng = SplitMix::new(seed);
    shuffle(&mut names, &mut rng);
    shuffle(&mut deeds, &mut rng);
    names.truncate(1 + usize::try_from(rng.below(3)).unwrap());
    deeds.truncate(1 + usize::try_from(rng.below(5)).unwrap());
    let (sim, mut story) = (spool(), Story::new(seed, deeds));
    for name in names {
        story.drop_file(&sim, name);
    }
    take_in(&mut story, ["pair-src", "sub/pairperm-src"], &mut rng);
    (sim, story)
}

fn shuffle<T>(list: &mut [T], rng: &mut SplitMix) {
    for at in (1..list.len()).rev() {
        list.swap(at, usize::try_from(rng.below(at as u64 + 1)).unwrap());
    }
}

/// Lives until everything has ended, without a crash.
fn finish(mut sim: SimFs, story: &mut Story) -> SimFs {
    while live(&sim, story) == End::Drained {
        sim = sim.crash(Mode::Process, Pick::Keep);
    }
    sim
}

/// Counts the death, as it is counted against the budgets, and gives what comes after.
fn crash(sim: &SimFs, story: &mut Story, mode: Mode, pick: Pick) -> SimFs {
    if mode == Mode::Process {
        story.kills += 1;
    } else {
        story.cuts += 1;
    }
    sim.crash(mode, pick)
}

/// From a crashed disk to the end, with further crashes by the draws; then the judges.
fn end_of(mut sim: SimFs, mut story: Story, rng: &mut SplitMix) -> Result<(), String> {
    let mut depth = 1;
    loop {
        if depth < DEEPEST && rng.below(3) == 0 {
            // Recovery is some dozens of operations: half of the crashes fall into it.
            let most = if rng.below(2) == 0 { 40 } else { 200 };
            sim.stop_at(1 + rng.below(most));
        }
        let end = live(&sim, &mut story);
        if end == End::Over && !is_out(&sim) {
            break;
        }
        depth += 1;
        let (mode, pick) = match end {
            End::Drained => (Mode::Process, Pick::Keep),
            _ => draw_crash(rng),
        };
        sim = if end == End::Drained {
            sim.crash(mode, pick)
        } else {
            crash(&sim, &mut story, mode, pick)
        };
    }
    let verdict = judge(&story, &look(&sim, &story));
    let told = |why| format!("{why}\n{:#?}\n{}", story, sim.describe());
    verdict.map_err(told)?;
    // Nothing is left to do for the next one.
    let mut next = sim.crash(Mode::Process, Pick::Keep);
    next = finish(next, &mut story);
    judge(&story, &look(&next, &story)).map_err(|why| format!("one start later: {why}"))
}

fn draw_crash(rng: &mut SplitMix) -> (Mode, Pick) {
    let mode =
        [Mode::Process, Mode::Ext4, Mode::Weak, Mode::Weak][usize::try_from(rng.below(4)).unwrap()];
    let pick = match rng.below(6) {
        0 => Pick::Lose,
        1 => Pick::Keep,
        _ => Pick::Seeded(rng.draw()),
    };
    (mode, pick)
}

/// Looks at `most` states of the stories from `seed` on; panics at the first that is wrong.
fn prove(tell: fn(u64) -> (SimFs, Story), first_seed: u64, most: u64, per_stop: u64) -> u64 {
    if let Ok(asked) = std::env::var("INBOXD_PROOF_AGAIN") {
        let numbers: Vec<u64> = asked.split(',').map(|text| text.parse().unwrap()).collect();
        let (sim, mut story) = tell(numbers[0]);
        sim.stop_at(numbers[1]);
        live(&sim, &mut story);
        one_state(&sim, story, token(numbers[0], numbers[1], numbers[2])).unwrap();
        return most;
    }
    let mut states = 0;
    let mut seed = first_seed;
    while states < most {
        let (sim, mut story) = tell(seed);
        let sim = finish(sim, &mut story);
        judge(&story, &look(&sim, &story))
            .unwrap_or_else(|why| panic!("seed {seed}, no crash: {why}\n{story:#?}"));
        // Only the first life is stopped here; a drain's second one is stopped by the draws.
        let (counted, mut story) = tell(seed);
        live(&counted, &mut story);
        for n in 1..=counted.ops() {
            let (sim, mut story) = tell(seed);
            sim.stop_at(n);
            live(&sim, &mut story);
            for at in 0..per_stop {
                if let Err(why) = one_state(&sim, story.clone(), token(seed, n, at)) {
                    panic!("again({seed}, {n}, {at}): {why}");
                }
                states += 1;
            }
        }
        seed += 1;
    }
    states
}

/// The seed of all draws in one state.
fn token(seed: u64, n: u64, at: u64) -> u64 {
    seed << 32 | n << 8 | at
}

fn one_state(sim: &SimFs, mut story: Story, token: u64) -> Result<(), String> {
    let mut rng = SplitMix::new(token);
    let (mode, pick) = draw_crash(&mut rng);
    let after = crash(sim, &mut story, mode, pick);
    end_of(after, story, &mut rng)
}

/// Goal: DESIGN 2 holds in every state a crash can leave. Method: see the head of this file.
#[test]
fn every_crash_leaves_a_spool_that_recovers() {
    let seen = prove(everything, 1, states(), 4);
    assert!(seen >= states());
}

/// Goal: the same for single records: each is over once, with its rows, whatever stops the daemon, and
/// none that was recorded runs again. Method: as above, with inputs of records.
#[test]
fn every_crash_leaves_records_that_go_on() {
    let seen = prove(records, 1, states(), 4);
    assert!(seen >= states());
}

/// Goal: the same for folders that are one job: whole in one place, recorded once, never taken apart.
/// Method: as above, with such folders, which their workers change.
#[test]
fn every_crash_leaves_folders_whole() {
    let seen = prove(sets, 1, states(), 4);
    assert!(seen >= states());
}

/// Goal: the same for files with companions: together in one place, never one without the other.
/// Method: as above, with such files.
#[test]
fn every_crash_leaves_companions_together() {
    let seen = prove(pairs, 1, states(), 4);
    assert!(seen >= states());
}
