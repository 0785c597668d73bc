//! What fails here is a call, not the power: EIO, ENOSPC and EMFILE at each operation of a life.
//!
//! The keeper may wait until it passes, or give up and end the daemon; the next start then finds
//! everything. It never panics, and it never loses anything.
//!
//! Must not know: crashes beyond the one that follows a keeper that gave up.

use rustix::io::Errno;

use super::check::{judge, look};
use super::life::{End, Life};
use super::story::{Deed, Story};
use super::{finish, spool};
use crate::daemon::keeper::chain;
use crate::fs::faults::{Faults, Op, Then};
use crate::fs::sim::{Mode, Pick, SimFs};

/// Steps after which there is space again.
const SHORTAGE_STEPS: u32 = 60;
/// Steps after which a disk that failed does so no more: it may be waited for where nothing is owed to it.
const FAILING_STEPS: u32 = 1_000;

/// The story of inputs whose records are tasks of their own; those before it are of whole files.
const RECORDS: u64 = 3;
/// Of folders that are one job, and of files with companions.
const SETS: u64 = 4;
const PAIRS: u64 = 5;

fn short(seed: u64) -> (SimFs, Story) {
    let sim = spool();
    let (deeds, names, source) = match seed {
        // Its records end on both sides of a checkpoint, some of them failed.
        RECORDS => (vec![Deed::Checkpoint], vec![], "recs-src"),
        SETS => {
            let deeds = vec![Deed::Drop("sub/set-2"), Deed::Checkpoint];
            (deeds, vec!["setflaky-1", "setperm-1"], "sub/set-src")
        }
        PAIRS => {
            let deeds = vec![Deed::Drop("sub/pair-2"), Deed::Checkpoint];
            (deeds, vec!["pairflaky-1", "pairperm-1"], "sub/pair-src")
        }
        _ => {
            let deeds =
                vec![Deed::Drop("ok-2"), Deed::Checkpoint, Deed::Drop("wide-1"), Deed::Seal];
            (deeds, vec!["two-1", "made-1", "fail-1", "sub/flaky-1"], "src-1")
        }
    };
    let mut story = Story::new(seed, deeds);
    for name in names {
        story.drop_file(&sim, name);
    }
    story.add_source(source);
    (sim, story)
}

/// What a life did that met the failure.
#[derive(Debug)]
enum Did {
    /// It went on.
    WentOn,
    /// It gave up in its recovery.
    GaveUp,
    /// It gave up at work: why.
    Ended(String),
}

/// One life in which an operation fails; `None`: none did any more.
fn fail_once(seed: u64, nth: u64, (counts, errno, then): Fault) -> Option<Did> {
    let (sim, mut story) = short(seed);
    let faults = Faults::new(sim.clone());
    faults.arm_for(counts, nth, errno, then);
    let mut is_at_work = false;
    let end = match Life::begin(&sim, faults.clone(), &mut story, false) {
        Ok(Some(mut life)) => {
            is_at_work = true;
            let mut steps = 0;
            life.run_with(&mut || {
                steps += u32::from(faults.failed() > 0);
                let most = if errno == Errno::IO { FAILING_STEPS } else { SHORTAGE_STEPS };
                if steps == most {
                    faults.disarm();
                }
            })
        }
        Ok(None) => End::GaveUp("the folders cannot be opened".into()),
        Err(error) => End::GaveUp(chain(&error)),
    };
    let met = faults.failed() > 0;
    let did = match &end {
        End::GaveUp(why) if is_at_work => Did::Ended(why.clone()),
        End::GaveUp(_) => Did::GaveUp,
        _ => Did::WentOn,
    };
    // A failed fsync may have lost what it was to keep; the kernel forgets. The weakest crash says so.
    let mode = if nth.is_multiple_of(2) && errno == Errno::IO { Mode::Weak } else { Mode::Process };
    let pick = if nth.is_multiple_of(4) { Pick::Lose } else { Pick::Seeded(nth) };
    story.cuts += u32::from(mode == Mode::Weak);
    story.kills += u32::from(mode == Mode::Process);
    let after = finish(sim.crash(mode, pick), &mut story);
    judge(&story, &look(&after, &story)).unwrap_or_else(|why| {
        panic!(
            "seed {seed}, {errno:?} {then:?} at {nth}, ended {end:?}: {why}\n{story:#?}\n{after:?}"
        )
    });
    met.then_some(did)
}

type Fault = (fn(Op) -> bool, Errno, Then);

/// How many lives met it, how many gave up, and why those did that were at work.
fn fail_at_each(fault: Fault) -> (u64, u64, Vec<String>) {
    let (mut lives, mut gave_up, mut at_work) = (0, 0, Vec::new());
    for seed in 1..=PAIRS {
        for nth in 1.. {
            let Some(did) = fail_once(seed, nth, fault) else { break };
            lives += 1;
            gave_up += u64::from(!matches!(did, Did::WentOn));
            if let Did::Ended(why) = did {
                at_work.push(format!("seed {seed}, at {nth}: {why}"));
            }
        }
    }
    (lives, gave_up, at_work)
}

/// Goal: EIO at any durable operation loses nothing. Method: each in turn, once and for good.
#[test]
fn a_failing_disk_ends_the_daemon_and_loses_nothing() {
    let (lives, gave_up, _) = fail_at_each((Op::is_durable, Errno::IO, Then::Works));
    assert!(lives > 100 && gave_up > 20, "{lives} {gave_up}");
    fail_at_each((Op::is_durable, Errno::IO, Then::Always));
}

/// Goal: a full disk is waited out, whatever met it. Method: ENOSPC at each operation that needs
/// space, once and until there is space again; only recovery may give up.
#[test]
fn a_full_disk_is_waited_out() {
    for then in [Then::Works, Then::Always] {
        let (lives, _, at_work) = fail_at_each((Op::takes_space, Errno::NOSPC, then));
        assert!(lives > 50, "{lives}");
        assert!(at_work.is_empty(), "{then:?}: {at_work:#?}");
    }
}

/// Goal: too few descriptors are waited out and lose nothing. Method: EMFILE at each operation that takes one.
#[test]
fn too_few_descriptors_lose_nothing() {
    for then in [Then::Works, Then::Always] {
        let (lives, _, at_work) = fail_at_each((Op::takes_descriptor, Errno::MFILE, then));
        assert!(lives > 50, "{lives}");
        assert!(at_work.is_empty(), "{then:?}: {at_work:#?}");
    }
}
