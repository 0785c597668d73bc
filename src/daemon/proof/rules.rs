//! The rules of the design whose breaking has a name, each as small a story as shows it.
//!
//! Must not know: more of the keeper than its report.

use super::check::{Facts, judge, look};
use super::life::{Life, is_out, live};
use super::story::{Deed, Story};
use super::{crash, finish, prove, shuffle, spool};
use crate::fs::sim::{Mode, Pick, SimFs, SplitMix};

fn tell(names: &[&str], deeds: Vec<Deed>) -> (SimFs, Story) {
    let sim = spool();
    let mut story = Story::new(7, deeds);
    for name in names {
        story.drop_file(&sim, name);
    }
    (sim, story)
}

#[track_caller]
fn judged(sim: &SimFs, story: &Story) -> Facts {
    let facts = look(sim, story);
    judge(story, &facts).unwrap_or_else(|why| panic!("{why}\n{story:#?}\n{sim:?}"));
    facts
}

/// Lives until a worker has `name`, then dies by `mode`. `false`: it ended before.
fn die_under(sim: &mut SimFs, story: &mut Story, name: &str, mode: Mode, pick: Pick) -> bool {
    {
        let fs = sim.clone();
        let mut life = Life::begin(sim, fs, story, true).unwrap().unwrap();
        let mut steps = 0;
        while !life.has(name, false) {
            if life
                .keeper
                .find(&crate::daemon::service::Wanted::Rel(super::story::rel(name)), 0)
                .is_none()
                && steps > 300
            {
                return false;
            }
            life.step().unwrap();
            life.outputs();
            steps += 1;
        }
    }
    *sim = crash(sim, story, mode, pick);
    true
}

/// Goal: rule 2: a file that kills the daemon is found, and its neighbours are not. Method: `kill -9`
/// whenever its worker runs, until it does not any more.
#[test]
fn rule2_a_file_that_kills_the_daemon_ends_in_error_and_its_neighbours_do_not() {
    for (mode, pick) in
        [(Mode::Process, Pick::Keep), (Mode::Ext4, Pick::Keep), (Mode::Weak, Pick::Keep)]
    {
        let (mut sim, mut story) = tell(&["ok-1", "ok-killer", "two-1", "ok-2"], vec![]);
        let mut deaths = 0;
        while die_under(&mut sim, &mut story, "ok-killer", mode, pick) {
            deaths += 1;
            assert!(deaths <= 4, "attempts: 1, and lost = 3 further ones");
        }
        sim = finish(sim.crash(Mode::Process, Pick::Keep), &mut story);
        assert_eq!(deaths, 4);
        let facts = look(&sim, &story);
        let places: Vec<_> =
            facts.places.iter().map(|(id, at)| (id.as_str(), at[0].0.as_str())).collect();
        let expected =
            [("ok-1#1", "done"), ("ok-2#4", "done"), ("ok-killer#2", "error"), ("two-1#3", "done")];
        assert_eq!(places, expected);
        assert!(facts.sidecars["ok-killer"].reason.starts_with("lost"));
    }
}

/// Goal: rule 1: what is recorded never runs again, also where the worker put another file in place of its input.
/// Method: such workers beside others, killed or cut off at each operation. In the weakest order a power cut keeps
/// the copy and undoes the claim: then the file stands twice, and nobody could tell.
#[test]
fn rule1_a_worker_may_replace_its_input() {
    let begin = || tell(&["subst-1", "ok-1", "sub/subst-2", "ok-2"], vec![Deed::Drop("subst-3")]);
    let (whole, mut story) = begin();
    live(&whole, &mut story);
    for n in 1..=whole.ops() {
        for mode in [Mode::Process, Mode::Ext4] {
            let (sim, mut story) = begin();
            sim.stop_at(n);
            live(&sim, &mut story);
            let after = crash(&sim, &mut story, mode, Pick::Seeded(n));
            judged(&finish(after, &mut story), &story);
        }
    }
}

/// Until this file waits in line; `false`: it is over before.
fn comes_in_line(life: &mut Life<'_, SimFs>, name: &str) -> bool {
    for _ in 0..300 {
        if life.has(name, true) {
            return true;
        }
        life.step().unwrap();
        life.outputs();
    }
    false
}

/// Goal: rule 2: what waits in line for a slot has not begun, and the daemon's death costs it nothing; a
/// machine's does, since nobody knows. Method: more deaths than a file may be lost, while it waits.
#[test]
fn rule2_what_waits_in_line_is_not_lost() {
    for (mode, place, runs) in [(Mode::Process, "done", 1), (Mode::Ext4, "error", 0)] {
        let (mut sim, mut story) = tell(&["ok-1"], vec![]);
        story.is_busy = true;
        for _ in 0..6 {
            let Ok(Some(mut life)) = Life::begin(&sim, sim.clone(), &mut story, true) else {
                panic!("no life");
            };
            let waits = comes_in_line(&mut life, "ok-1");
            drop(life);
            assert!(waits || mode != Mode::Process);
            sim = crash(&sim, &mut story, mode, Pick::Keep);
        }
        story.is_busy = false;
        sim = finish(sim, &mut story);
        assert!(sim.read(&format!("{place}/ok-1")).is_some(), "{sim:?}");
        assert_eq!(story.runs.len(), runs);
    }
}

/// Goal: rule 2: what goes back out of the line has not begun either. Method: more deaths than a file may be
/// lost, each at the same operation of its way back, for each of them.
#[test]
fn rule2_what_goes_back_out_of_the_line_is_not_lost() {
    for at in 1..=20 {
        let (mut sim, mut story) = tell(&["ok-1"], vec![]);
        story.is_busy = true;
        let mut deaths = 0;
        for _ in 0..6 {
            let Ok(Some(mut life)) = Life::begin(&sim, sim.clone(), &mut story, true) else {
                panic!("no life");
            };
            assert!(comes_in_line(&mut life, "ok-1"), "at {at}: {sim:?}");
            sim.stop_at(sim.ops() + at);
            if life.go_back(0).is_err() || is_out(&sim) {
                deaths += 1;
            }
            drop(life);
            sim = crash(&sim, &mut story, Mode::Process, Pick::Keep);
        }
        story.is_busy = false;
        sim = finish(sim, &mut story);
        assert!(sim.read("done/ok-1").is_some(), "at {at}: {sim:?}");
        if deaths == 0 {
            assert!(at > 2, "it is renamed, there and back");
            return;
        }
    }
    panic!("its way back is longer than that");
}

/// Goal: rule 2: once a loss is known, the next one counts even if the power cut takes all that was
/// not synced. Method: one `kill -9`, then only the worst power cuts.
#[test]
fn rule2_a_known_loss_makes_the_next_one_count() {
    let (mut sim, mut story) = tell(&["ok-killer"], vec![]);
    assert!(die_under(&mut sim, &mut story, "ok-killer", Mode::Process, Pick::Keep));
    let mut deaths = 1;
    while die_under(&mut sim, &mut story, "ok-killer", Mode::Weak, Pick::Lose) {
        deaths += 1;
        assert!(deaths <= 4);
    }
    assert!(sim.crash(Mode::Process, Pick::Keep).read("error/ok-killer").is_some());
}

/// Goal: rule 3: what the last daemon wrote and never synced may be in the page cache only. Method:
/// `kill -9` at each operation; the recovery that sees the page cache is stopped at each of its
/// operations by the worst power cut.
#[test]
fn rule3_what_the_page_cache_shows_is_not_durable() {
    let whole = || tell(&["two-1", "fail-1"], vec![]);
    let (counted, mut story) = whole();
    live(&counted, &mut story);
    for n in 1..=counted.ops() {
        let (first, mut told) = whole();
        first.stop_at(n);
        live(&first, &mut told);
        for m in (1..60).step_by(2) {
            let mut story = told.clone();
            let second = crash(&first, &mut story, Mode::Process, Pick::Keep);
            second.stop_at(m);
            live(&second, &mut story);
            let third = crash(&second, &mut story, Mode::Weak, Pick::Lose);
            judged(&finish(third, &mut story), &story);
        }
    }
}

/// Goal: rule 4: a torn tail is cut, silently and for good. Method: the write under way is cut by
/// `kill -9`, or by a power cut, at several places.
#[test]
fn rule4_a_torn_tail_is_cut() {
    let (counted, mut story) = tell(&["two-1", "fail-1"], vec![]);
    live(&counted, &mut story);
    let mut torn = 0;
    for n in 1..=counted.ops() {
        let (sim, mut told) = tell(&["two-1", "fail-1"], vec![]);
        sim.stop_at(n);
        live(&sim, &mut told);
        for (mode, seed) in
            [(Mode::Process, 1), (Mode::Process, 2), (Mode::Ext4, 3), (Mode::Ext4, 4)]
        {
            let mut story = told.clone();
            let next = crash(&sim, &mut story, mode, Pick::Seeded(seed));
            let life = Life::begin(&next, next.clone(), &mut story, true).unwrap().unwrap();
            torn += life.report.torn;
            drop(life);
            let last = crash(&next, &mut story, Mode::Process, Pick::Keep);
            judged(&finish(last, &mut story), &story);
        }
    }
    assert!(torn > 0, "no tail was torn");
}

fn edited(seed: u64) -> (SimFs, Story) {
    let mut deeds = vec![
        Deed::Drop("ok-3"),
        Deed::Edit("main.csv"),
        Deed::Drop("two-4"),
        Deed::Checkpoint,
        Deed::Edit("errors.csv"),
        Deed::Drop("fail-3"),
        Deed::Edit("main.csv"),
        Deed::Drop("ok-5"),
        Deed::Seal,
    ];
    shuffle(&mut deeds, &mut SplitMix::new(seed));
    deeds.insert(0, Deed::Drop("ok-8"));
    let (sim, mut story) = tell(&["two-1", "fail-1", "ok-1", "wide-1"], deeds);
    story.seed = seed;
    (sim, story)
}

/// Goal: rule 5: a CSV that someone touched is left as it is, and no row is lost. Method: editors at
/// work in all the crashes of the great proof.
#[test]
fn rule5_a_touched_csv_is_left_alone_and_no_row_is_lost() {
    prove(edited, 1, super::states() / 5, 3);
}

/// Goal: rule 5 under load: the records of a move take along, in their commit, what else waits for
/// one; the daemon that lost count of those waited for ever. Method: editors at work, many orders of
/// events, no crash; each life must end.
#[test]
fn rule5_a_csv_touched_under_load_does_not_stop_the_daemon() {
    for seed in 1..=150 {
        let (sim, mut story) = edited(seed);
        judged(&finish(sim, &mut story), &story);
    }
}

fn big(seed: u64) -> (SimFs, Story) {
    let (sim, mut story) =
        tell(&["big-1", "ok-1"], vec![Deed::Checkpoint, Deed::Drop("big-2"), Deed::Checkpoint]);
    story.seed = seed;
    (sim, story)
}

/// Goal: rule 5: rows above 1 MiB, which have a file of their own, come once, too. Method: the great
/// proof, fewer states, since each moves megabytes.
#[test]
fn rule5_rows_in_a_file_of_their_own_come_once() {
    prove(big, 1, super::states() / 100, 1);
}

/// Goal: rule 7: a recorded file that a power cut put back into `incoming/` is settled and not run;
/// also where its recovery is interrupted, and where a checkpoint follows. Method: everything done,
/// nothing synced, the worst power cut; recovery killed at each operation.
#[test]
fn rule7_a_recorded_file_in_incoming_again_is_settled_not_run() {
    let names = ["ok-1", "sub/two-1", "perm-1", "made-1"];
    let (sim, mut told) = tell(&names, vec![]);
    live(&sim, &mut told);
    assert_eq!(told.promised.len(), names.len());
    let mut returned = 0;
    for (seed, pick) in
        [Pick::Lose, Pick::Seeded(1), Pick::Seeded(2), Pick::Seeded(3)].into_iter().enumerate()
    {
        for m in 1..80 {
            let mut story = told.clone();
            story.deeds = vec![Deed::Checkpoint];
            let second = crash(&sim, &mut story, Mode::Weak, pick);
            returned += usize::from(second.read("incoming/ok-1").is_some());
            second.stop_at(m);
            live(&second, &mut story);
            let mode = if seed % 2 == 0 { Mode::Process } else { Mode::Weak };
            let third = crash(&second, &mut story, mode, pick);
            judged(&finish(third, &mut story), &story);
            assert_eq!(story.runs.len(), names.len());
        }
    }
    assert!(returned > 0, "nothing came back");
}

/// Goal: rule 7 where a recovery was cut off that kept the folder and lost the move into it: the file is settled by
/// the next one, under its own id, and not left to a scan, after which a further cut would make it run again.
/// Method: the worst power cut, such a folder; then no more than the recovery.
#[test]
fn rule7_the_folder_of_a_recovery_that_was_cut_off_is_in_nobodys_way() {
    let (sim, mut story) = tell(&["ok-1", "sub/two-1"], vec![]);
    live(&sim, &mut story);
    let second = crash(&sim, &mut story, Mode::Weak, Pick::Lose);
    let incoming = ["incoming/ok-1", "incoming/sub/two-1"];
    assert!(incoming.iter().all(|path| second.read(path).is_some()), "nothing came back");
    for (job, id) in &story.jobs {
        let below = if id.starts_with("sub/") { "/sub" } else { "" };
        second.plant_dir(&format!("processing/{job}.0{below}"));
    }
    drop(Life::begin(&second, second.clone(), &mut story, true).unwrap());
    assert!(incoming.iter().all(|path| second.read(path).is_none()), "left to the scan");
    judged(&finish(second.crash(Mode::Process, Pick::Keep), &mut story), &story);
}

/// Goal: rule 7 for a job that outlived a `kill -9`: the ctime of before its claim is not known any
/// more. Method: killed while it runs, recorded by the next daemon, then the worst power cut.
#[test]
fn rule7_a_claim_that_outlived_a_kill_does_not_come_back() {
    let (mut sim, mut story) = tell(&["ok-1"], vec![]);
    assert!(die_under(&mut sim, &mut story, "ok-1", Mode::Process, Pick::Keep));
    live(&sim, &mut story);
    let runs = story.runs.len();
    let last = crash(&sim, &mut story, Mode::Weak, Pick::Lose);
    judged(&finish(last, &mut story), &story);
    assert_eq!(story.runs.len(), runs);
}

/// One thing broken in a clean history.
type Break = fn(&mut Story, &mut Facts);

/// Goal: each judge sees what it is there for. Method: a clean spool, one thing broken at a time.
#[test]
fn judges_refuse_broken_histories() {
    let (sim, mut story) =
        tell(&["ok-1", "fail-1", "made-1", "two-1", "set-1"], vec![Deed::Edit("nothing.csv")]);
    let sim = finish(sim, &mut story);
    let clean = judged(&sim, &story);
    let broken: [(&str, Break); 23] = [
        ("one place", |_, f| drop(f.places.remove("ok-1#1"))),
        ("one place", |_, f| {
            f.places.get_mut("ok-1#1").unwrap().push(("incoming".into(), "x".into()));
        }),
        ("one place", |_, f| f.places.get_mut("ok-1#1").unwrap()[0].0 = "processing".into()),
        ("one place", |_, f| f.places.get_mut("fail-1#2").unwrap()[0].0 = "done".into()),
        ("whole folders", |_, f| f.parts.clear()),
        ("whole folders", |_, f| {
            f.parts.get_mut("set-1#5").unwrap()[0] = "incoming/set-1/part".into();
        }),
        ("whole folders", |_, f| drop(f.parts.insert("set-9#9".into(), Vec::new()))),
        ("rows once", |_, f| f.rows.retain(|row| row.n != "1")),
        ("rows once", |_, f| f.rows.push(f.rows[0].clone())),
        ("rows once", |_, f| f.rows[0].file = "other".into()),
        ("rows once", |_, f| f.rows.iter_mut().find(|r| r.n == "1").unwrap().job = "other".into()),
        ("rows once", |_, f| f.rows[0].extra = "x".into()),
        ("errors once", |_, f| f.errors.clear()),
        ("errors once", |_, f| f.errors.push(f.errors[0].clone())),
        ("errors once", |_, f| f.sidecars.clear()),
        ("errors once", |_, f| f.sidecars.get_mut("fail-1").unwrap().reason = "lost".into()),
        ("promises", |s, _| s.promised.extend([("ok-1#1".to_owned(), false)])),
        ("one record", |_, f| f.outcomes.push(f.outcomes[0])),
        ("budgets", |s, _| s.runs.push("ok-1#1".into())),
        ("made files", |_, f| f.made.clear()),
        ("edits", |s, _| s.edits.push(b"mine".to_vec())),
        ("strange", |_, f| f.strange.push("torn".into())),
        ("on the way", |s, _| s.broken.push("twice".into())),
    ];
    for (name, damage) in broken {
        let (mut story, mut facts) = (story.clone(), clean.clone());
        damage(&mut story, &mut facts);
        let why = judge(&story, &facts).expect_err(name);
        assert!(why.starts_with(name), "{name}: {why}");
    }
}

/// Goal: what a job made becomes a job of the next route once, whatever is lost of the moves, and stays
/// one when the line that said so is gone. Method: chains with checkpoints between, stopped before each
/// operation.
#[test]
fn made_files_are_handed_on_exactly_once() {
    fn chains(seed: u64) -> (SimFs, Story) {
        let mut rng = SplitMix::new(seed);
        let mut deeds = vec![
            Deed::Checkpoint,
            Deed::Drop("sub/chain-2"),
            Deed::TakeAway,
            Deed::Checkpoint,
            Deed::WriteBack,
            Deed::Drain,
        ];
        shuffle(&mut deeds, &mut rng);
        deeds.truncate(usize::try_from(rng.below(6)).unwrap());
        let (sim, mut story) = (spool(), Story::new(seed, deeds));
        for name in ["chain-1", "ok-1"].into_iter().take(1 + usize::try_from(seed % 2).unwrap()) {
            story.drop_file(&sim, name);
        }
        (sim, story)
    }
    let most = super::states() / 2;
    assert!(prove(chains, 1, most, 4) >= most);
}
