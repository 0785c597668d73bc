//! What recovery makes of files that people and workers put in the place of others.

use std::path::Path;

use super::{Surroundings, recover};
use crate::config::{Route, Settings};
use crate::core::state::Millis;
use crate::core::{FailClass, Failure, Verdict};
use crate::daemon::keeper::{Input, Keeper, Output};
use crate::daemon::service::now_ms;
use crate::fs::RealFs;
use crate::spool::Spool;
use crate::worker::{Ended, Task};

const BOOTS: [&str; 2] = ["boot", "another boot"];

fn start(home: &Path, boot: &str) -> Keeper<RealFs> {
    crate::spool::layout::make(home).unwrap();
    let route = Route::new("main", vec!["true".to_owned()]);
    let settings = Settings { workers: 2, routes: vec![route], ..Settings::default() };
    let (path, boot) = (home.to_owned(), boot.to_owned());
    let around = Surroundings { path, boot, now: now_ms(), random: || [7; 10] };
    let spool = Spool::open(RealFs, RealFs.open_root(home).unwrap()).unwrap();
    recover(spool, &settings, &around).unwrap().0
}

/// The tasks that begin with what stands in `incoming/` now, or was claimed.
fn begun(keeper: &mut Keeper<RealFs>) -> Vec<Task> {
    while !keeper.scan(100, now_ms()).unwrap() {}
    keeper.commit(now_ms()).unwrap();
    keeper.tick(now_ms()).unwrap();
    let task = |output| if let Output::Start(task) = output { Some(task) } else { None };
    keeper.take_outputs().into_iter().filter_map(task).collect()
}

fn end(keeper: &mut Keeper<RealFs>, task: &Task, verdict: Verdict, now: Millis) {
    let ended = Ended::without_rows(verdict);
    keeper.handle(Input::Ended { job: task.job, ended }, now).unwrap();
}

/// The outcome is durable, and nothing is settled.
fn record(keeper: &mut Keeper<RealFs>) {
    let group = keeper.begin_commit(now_ms()).unwrap().unwrap();
    keeper.end_commit(group.sync(), now_ms()).unwrap();
}

fn rename(home: &Path, from: &str, to: &str) {
    rustix::fs::rename(home.join(from), home.join(to)).unwrap();
}

/// Goal: what is recorded never runs again, whatever its worker made of the input. Method: a worker that puts
/// another file in its place (`sed -i`), and one that leaves another name (`gzip`), alone and in a folder; the
/// daemon or the machine dies between the record and the last move.
#[test]
fn a_recorded_job_whose_input_is_another_file_is_settled() {
    for boot in BOOTS {
        for (rel, left) in [("x", "x"), ("x", "x.gz"), ("sub/x", "sub/x"), ("sub/x", "sub/x.gz")] {
            let home = tempfile::tempdir().unwrap();
            let mut keeper = start(home.path(), BOOTS[0]);
            std::fs::create_dir(home.path().join("incoming/sub")).unwrap();
            std::fs::write(home.path().join("incoming").join(rel), "old").unwrap();
            let tasks = begun(&mut keeper);
            let [task] = &tasks[..] else { panic!("{tasks:?}") };
            let temp = task.path.with_file_name("temp");
            std::fs::write(&temp, "new").unwrap();
            rustix::fs::unlink(&task.path).unwrap();
            let at = task.path.with_file_name(Path::new(left).file_name().unwrap());
            rustix::fs::rename(&temp, at).unwrap();
            end(&mut keeper, task, Verdict::Done, now_ms());
            record(&mut keeper);
            drop(keeper);
            let mut keeper = start(home.path(), boot);
            let again = begun(&mut keeper);
            assert!(again.is_empty(), "{boot}, {rel}, {left}: {again:?}");
            let done = home.path().join("done").join(left);
            assert_eq!(std::fs::read(done).unwrap(), b"new", "{boot}, {rel}, {left}");
            assert_eq!(std::fs::read_dir(home.path().join("processing")).unwrap().count(), 0);
        }
    }
}

/// Goal: a file that is run once more is not taken for what was recorded of it before. Method: one that failed is
/// put back, and one that is done; the daemon or the machine dies while they run.
#[test]
fn a_file_that_was_put_back_runs_although_it_was_recorded() {
    for boot in BOOTS {
        let home = tempfile::tempdir().unwrap();
        let mut keeper = start(home.path(), BOOTS[0]);
        for name in ["bad", "good"] {
            std::fs::write(home.path().join("incoming").join(name), name).unwrap();
        }
        for task in begun(&mut keeper) {
            let failure = Failure::new(FailClass::Permanent, "no");
            let is_bad = task.rel.to_string() == "bad";
            let verdict = if is_bad { Verdict::Failed(failure) } else { Verdict::Done };
            // The clock of the files is no finer than a tick.
            end(&mut keeper, &task, verdict, now_ms() - 500);
        }
        keeper.commit(now_ms()).unwrap();
        rename(home.path(), "error/bad", "incoming/bad");
        rename(home.path(), "done/good", "incoming/good");
        assert_eq!(begun(&mut keeper).len(), 2);
        drop(keeper);
        let mut keeper = start(home.path(), boot);
        let mut again: Vec<_> = begun(&mut keeper).iter().map(|it| it.rel.to_string()).collect();
        again.sort();
        assert_eq!(again, ["bad", "good"], "{boot}");
        for gone in ["error/bad", "done/good"] {
            assert!(!home.path().join(gone).exists(), "{boot}: {gone}");
        }
    }
}

/// Goal: of one file under two names each name is a job. Method: a hard link; one is recorded, then the daemon or
/// the machine dies, before and after that one is settled.
#[test]
fn two_names_of_one_file_are_two_jobs() {
    for boot in BOOTS {
        for is_settled in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let mut keeper = start(home.path(), BOOTS[0]);
            let name = |name: &str| home.path().join("incoming").join(name);
            std::fs::write(name("a"), "").unwrap();
            std::fs::hard_link(name("a"), name("b")).unwrap();
            let tasks = begun(&mut keeper);
            let [first, second] = &tasks[..] else { panic!("{tasks:?}") };
            end(&mut keeper, first, Verdict::Done, now_ms());
            record(&mut keeper);
            if is_settled {
                keeper.settle(9, now_ms()).unwrap();
            }
            drop(keeper);
            let mut keeper = start(home.path(), boot);
            let again = begun(&mut keeper);
            let [again] = &again[..] else { panic!("{boot}, {is_settled}: {again:?}") };
            assert_eq!(again.rel, second.rel);
            assert!(home.path().join("done").join(first.rel.as_path()).exists());
            end(&mut keeper, again, Verdict::Done, now_ms());
            keeper.commit(now_ms()).unwrap();
            assert!(home.path().join("done").join(second.rel.as_path()).exists());
        }
    }
}
