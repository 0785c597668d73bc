//! SIGKILL before each durable call of a `batch`, at the start and in the middle, and again in the
//! recovery from it.
//!
//! Must not know: what the calls are for.

use crate::faults::{judge_records, prepared_records};
use crate::harness::Spool;
use crate::history::{History, WORK_SH};
use crate::strace::{self, Counts, Point};

/// Jobs of a run: enough for several groups of records, with folders and a failure.
const JOBS: usize = 20;
/// Points of a sweep that are tried unless all are asked for.
const POINTS: usize = 240;

const SETTINGS: &str = r#"
workers = 2
[routes.work]
glob = "**"
command = ["sh", "work.sh"]
stdout = "json"
retries = { fail = 0, crash = 0 }
"#;

/// A spool that has served before, in which nothing waits.
fn served() -> (Spool, History) {
    let spool = new_spool();
    spool.run(&["batch"]).ok();
    let mut history = History::default();
    history.must_fail("0007");
    (spool, history)
}

/// A spool whose worker fails one of the files, and puts a copy in the place of some, as `sed -i` does.
fn new_spool() -> Spool {
    let spool = Spool::new(SETTINGS);
    let replaces = "case \"$INBOXD_REL\" in *0|*4) cp \"$INBOXD_PATH\" copy.$$; mv copy.$$ \"$INBOXD_PATH\"; esac";
    let fails = "[ \"$INBOXD_REL\" = 0007 ] && { echo no >&2; exit 1; }";
    spool.write("work.sh", &format!("{WORK_SH}\n{replaces}\n{fails}\n:"));
    spool
}

/// A spool with the jobs dropped, one of which fails; one that has served before, unless it is new.
fn prepared(is_new: bool) -> (Spool, History) {
    let spool = new_spool();
    if !is_new {
        spool.run(&["batch"]).ok();
    }
    let mut history = History::default();
    history.drop_files(&spool, JOBS);
    history.must_fail("0007");
    (spool, history)
}

/// Ends what was killed: one run more, and everything must be as if nothing had happened.
fn finish(spool: &Spool, history: &mut History, what: &str) {
    history.observe(spool);
    // 3 where the failing job is of this run, 0 where it was recorded before the kill.
    let output = spool.run(&["batch"]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{what}: {output}");
    history.check(spool, what);
    let rows = spool.csv("work");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("work"), rows, "{what}: a run with nothing to do added rows");
}

fn counted(is_new: bool) -> Counts {
    strace::usual(|| {
        let (spool, mut history) = prepared(is_new);
        let counts = strace::count(&spool);
        finish(&spool, &mut history, "uninterrupted");
        counts
    })
}

fn points(counts: &std::collections::BTreeMap<&'static str, usize>) -> Vec<Point> {
    let of = |(call, most): (&&'static str, &usize)| {
        let call = *call;
        (1..=*most).map(move |n| Point { call, n })
    };
    counts.iter().filter(|(call, _)| **call != "openat2").flat_map(of).collect()
}

/// Goal: nothing is lost or doubled wherever a run is killed.
/// Method: SIGKILL before the Nth call of each durable kind, for every N that a run reaches.
#[test]
fn killed_before_any_durable_call() {
    if !strace::is_there() {
        return;
    }
    let points = strace::sample(points(&counted(false).most), POINTS);
    let hits = std::sync::atomic::AtomicUsize::new(0);
    strace::for_each(&points, |point| {
        let (spool, mut history) = prepared(false);
        let traced = strace::kill_before(&spool, point);
        hits.fetch_add(usize::from(traced.hit), std::sync::atomic::Ordering::Relaxed);
        finish(&spool, &mut history, &format!("killed before {point:?}"));
    });
    // Groups differ in size from run to run, so the last few points may not be reached.
    let hits = hits.into_inner();
    assert!(hits * 10 >= points.len() * 8, "only {hits} of {} points were reached", points.len());
    eprintln!("killed before {hits} of {} calls", points.len());
}

/// Goal: the same of an input whose records are tasks of their own: none is lost or recorded twice.
/// Method: as above, over one input.
#[test]
fn records_killed_before_any_durable_call() {
    if !strace::is_there() {
        return;
    }
    let counts = strace::usual(|| {
        let spool = prepared_records();
        let counts = strace::count(&spool);
        assert_eq!(judge_records(&spool), Ok(()), "uninterrupted");
        counts
    });
    let points = strace::sample(points(&counts.most), POINTS / 3);
    let hits = std::sync::atomic::AtomicUsize::new(0);
    strace::for_each(&points, |point| {
        let spool = prepared_records();
        let traced = strace::kill_before(&spool, point);
        hits.fetch_add(usize::from(traced.hit), std::sync::atomic::Ordering::Relaxed);
        spool.run(&["batch"]).ok();
        assert_eq!(judge_records(&spool), Ok(()), "killed before {point:?}\n{}", spool.report());
    });
    let hits = hits.into_inner();
    assert!(hits * 10 >= points.len() * 8, "only {hits} of {} points were reached", points.len());
}

/// Drops all jobs: some at once, so that start-up meets them, the others into a daemon that serves.
fn produce(spool: &Spool, history: &mut History, is_ready: &dyn Fn() -> bool) {
    for i in 0..JOBS {
        if i == JOBS / 4 {
            spool.wait_until("it is ready, or killed", is_ready);
        }
        let name = if i % 5 == 4 { format!("sub/{i:04}") } else { format!("{i:04}") };
        history.drop_file(spool, &name);
        // A pause between two drops, so that they meet claims, commits and settling moves of others.
        std::thread::park_timeout(std::time::Duration::from_millis(3));
    }
}

fn all_settled(spool: &Spool) -> bool {
    spool.names("done").len() + spool.errors().len() >= JOBS
}

/// Goal: the same for `run`, with a producer that goes on while it is killed.
/// Method: as above; files come before it starts and while it serves.
#[test]
fn run_killed_while_files_come() {
    if !strace::is_there() {
        return;
    }
    let counts = strace::usual(|| {
        let (spool, mut history) = served();
        let drops = |is_ready: &dyn Fn() -> bool| produce(&spool, &mut history, is_ready);
        let counts = strace::count_run(&spool, drops, || all_settled(&spool));
        finish(&spool, &mut history, "uninterrupted");
        counts
    });
    let points = strace::sample(points(&counts.most), POINTS / 2);
    let hits = std::sync::atomic::AtomicUsize::new(0);
    strace::for_each(&points, |point| {
        let (spool, mut history) = served();
        let drops = |is_ready: &dyn Fn() -> bool| produce(&spool, &mut history, is_ready);
        let hit = strace::kill_run_before(&spool, point, drops, || all_settled(&spool));
        hits.fetch_add(usize::from(hit), std::sync::atomic::Ordering::Relaxed);
        finish(&spool, &mut history, &format!("run killed before {point:?}"));
    });
    // How many calls a run makes depends on how its groups fall.
    let hits = hits.into_inner();
    assert!(hits * 10 >= points.len() * 6, "only {hits} of {} points were reached", points.len());
    eprintln!("run was killed before {hits} of {} calls", points.len());
}

/// Goal: the same for the very first start of a spool. Method: the calls of the thread that starts.
#[test]
fn killed_in_the_first_start() {
    if !strace::is_there() {
        return;
    }
    let points = points(&counted(true).first);
    assert!(points.len() > 10, "{points:?}");
    strace::for_each(&points, |point| {
        let (spool, mut history) = prepared(true);
        let traced = strace::kill_before(&spool, point);
        assert!(traced.hit, "{point:?} was not reached: {}", traced.output);
        finish(&spool, &mut history, &format!("killed in the first start before {point:?}"));
    });
}

/// Goal: recovery may itself be killed anywhere. Method: a run killed in its middle, where jobs run,
/// are recorded, and are settled; then its recovery killed before each of its durable calls.
#[test]
fn killed_again_in_the_recovery() {
    if !strace::is_there() {
        return;
    }
    let usual = counted(false).most;
    for call in ["fdatasync", "pwrite64", "renameat2"] {
        // Half of what a run makes is reached whatever the size of its groups of records.
        let first = Point { call, n: (usual[call] / 2).max(1) };
        let (spool, _) = prepared(false);
        assert!(strace::kill_before(&spool, first).hit, "{first:?} was not reached");
        // Some more than a usual recovery makes: one group of records may be larger than another.
        let mut counts = strace::count(&spool).first;
        for n in counts.values_mut() {
            *n += 2;
        }
        let points = strace::sample(points(&counts), POINTS / 4);
        strace::for_each(&points, |point| {
            let (spool, mut history) = prepared(false);
            strace::kill_before(&spool, first);
            history.observe(&spool);
            strace::kill_before(&spool, point);
            finish(&spool, &mut history, &format!("killed before {first:?}, then {point:?}"));
        });
    }
}
