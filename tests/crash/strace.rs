//! strace as the hand that kills a thread before its Nth call, or lets that call fail.
//!
//! Must not know: jobs.
//!
//! `when=N` counts per thread. The main thread recovers, the keeper thread does the rest: a point
//! (call, N) hits whichever of them makes its Nth such call first. Workers make none of these calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Output, Spool, alive, send};

/// The calls by which the daemon changes or syncs anything. `openat2` also opens to read.
pub(crate) const DURABLE: [&str; 9] = [
    "renameat2",
    "fdatasync",
    "fsync",
    "syncfs",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "mkdirat",
    "unlinkat",
];

/// The Nth call of a kind, in whichever thread makes it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) call: &'static str,
    /// From 1.
    pub(crate) n: usize,
}

/// How many calls of each kind the busiest thread made, and the process's first thread.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) most: BTreeMap<&'static str, usize>,
    pub(crate) first: BTreeMap<&'static str, usize>,
}

/// What became of a run under strace.
pub(crate) struct Traced {
    pub(crate) output: Output,
    /// A process was killed by the injected signal, or a call failed as told.
    pub(crate) hit: bool,
}

/// Whether strace is there. Without it: fails in CI, prints a skip elsewhere.
pub(crate) fn is_there() -> bool {
    let found = std::process::Command::new("strace").arg("--version").output().is_ok();
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "CI must have strace");
    if !found {
        eprintln!("skipped: strace is not installed");
    }
    found
}

/// Runs that are counted before a call is said to be usual.
const COUNTED: usize = 3;

/// What runs usually make: of each kind of call the middle of three counts. Jobs are recorded in groups, and how
/// these fall changes from run to run; a single count may be one that hardly any other run reaches.
pub(crate) fn usual(mut count: impl FnMut() -> Counts) -> Counts {
    let counts: [Counts; COUNTED] = std::array::from_fn(|_| count());
    let middle = |of: fn(&Counts) -> &BTreeMap<&'static str, usize>| {
        let calls = counts.iter().flat_map(of).map(|(call, _)| *call);
        let mut middle = BTreeMap::new();
        for call in calls {
            let mut made = counts.each_ref().map(|it| of(it).get(call).copied().unwrap_or(0));
            made.sort_unstable();
            middle.insert(call, made[COUNTED / 2]);
        }
        middle
    };
    Counts { most: middle(|it| &it.most), first: middle(|it| &it.first) }
}

/// Runs `batch` to its end and counts its calls.
pub(crate) fn count(spool: &Spool) -> Counts {
    count_of(spool, &["batch"])
}

/// Runs a command to its end and counts its calls.
pub(crate) fn count_of(spool: &Spool, args: &[&str]) -> Counts {
    let log = spool.home().join("strace.log");
    let trace = format!("trace={}", with_opens());
    let path = log.to_str().unwrap();
    // As slow as a run that is killed, without --seccomp-bpf: the groups of a faster one are others.
    let wrapper = ["strace", "-f", "-o", path, "-e", &trace, "-e", "signal=none"];
    let output = spool.run_under(&wrapper, args, b"");
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output}");
    counts(&fs::read_to_string(log).unwrap())
}

/// Runs `batch`, killed before the call.
pub(crate) fn kill_before(spool: &Spool, point: Point) -> Traced {
    kill_of_before(spool, &["batch"], point)
}

/// Runs a command, killed before the call.
pub(crate) fn kill_of_before(spool: &Spool, args: &[&str], point: Point) -> Traced {
    run(spool, args, point, "signal=KILL")
}

/// Runs a command that gets this signal at the call, such as INT.
pub(crate) fn signal_at(spool: &Spool, args: &[&str], point: Point, signal: &str) -> Traced {
    run(spool, args, point, &format!("signal={signal}"))
}

/// Runs `batch`, the call failing with this error, once.
pub(crate) fn fail(spool: &Spool, point: Point, errno: &str) -> Traced {
    fail_of(spool, &["batch"], point, errno)
}

/// Runs a command, the call failing with this error, once.
pub(crate) fn fail_of(spool: &Spool, args: &[&str], point: Point, errno: &str) -> Traced {
    run(spool, args, point, &format!("error={errno}"))
}

fn run(spool: &Spool, args: &[&str], point: Point, what: &str) -> Traced {
    let log = spool.home().join("strace.log");
    let (trace, inject) =
        (format!("trace={}", point.call), format!("inject={}:{what}:when={}", point.call, point.n));
    let path = log.to_str().unwrap();
    // Without --seccomp-bpf: it is faster, and strace 6.1 then injects nothing.
    let wrapper = ["strace", "-f", "-o", path, "-e", &trace, "-e", &inject];
    let output = spool.run_under(&wrapper, args, b"");
    Traced { output, hit: is_hit(&log) }
}

/// What became of `inboxd run` under strace, killed before the call; where that is not reached, ended by
/// TERM once `is_over`. `produce` is given a function that tells whether it is ready, or dead.
pub(crate) fn kill_run_before(
    spool: &Spool,
    point: Point,
    produce: impl FnOnce(&dyn Fn() -> bool),
    is_over: impl Fn() -> bool,
) -> bool {
    let (trace, inject) = (
        format!("trace={}", point.call),
        format!("inject={}:signal=KILL:when={}", point.call, point.n),
    );
    let log = run_daemon(spool, &["-e", &trace, "-e", &inject], produce, is_over);
    is_hit(&log)
}

/// The calls of an `inboxd run` that is not killed, as in [`kill_run_before`].
pub(crate) fn count_run(
    spool: &Spool,
    produce: impl FnOnce(&dyn Fn() -> bool),
    is_over: impl Fn() -> bool,
) -> Counts {
    let trace = format!("trace={}", with_opens());
    let log = run_daemon(spool, &["-e", &trace, "-e", "signal=none"], produce, is_over);
    counts(&fs::read_to_string(log).unwrap())
}

fn run_daemon(
    spool: &Spool,
    options: &[&str],
    produce: impl FnOnce(&dyn Fn() -> bool),
    is_over: impl Fn() -> bool,
) -> PathBuf {
    let log = spool.home().join("strace.log");
    let mut wrapper = vec!["strace", "-f", "-o", log.to_str().unwrap()];
    wrapper.extend(options);
    let mut daemon = spool.start_under(&wrapper, &["run"]);
    let strace = daemon.supervisor_pid();
    produce(&|| daemon.log().contains("ready") || !alive(strace));
    spool.wait_until("it is killed, or all is done", || !alive(strace) || is_over());
    if alive(strace) {
        // strace would detach from it: the one below is told.
        send(daemon.daemon_pid(), rustix::process::Signal::TERM);
    }
    daemon.wait();
    log
}

fn is_hit(log: &Path) -> bool {
    let text = fs::read_to_string(log).unwrap();
    text.contains("(INJECTED)") || text.contains("+++ killed by SIGKILL")
}

fn with_opens() -> String {
    format!("{},openat2", DURABLE.join(","))
}

/// Counts in a log of `strace -f`: `PID CALL(…`, and for a call that was interrupted in the log
/// `PID CALL(… <unfinished ...>`, which is resumed in a line of another form.
fn counts(log: &str) -> Counts {
    let mut threads: Vec<&str> = Vec::new();
    let mut made: BTreeMap<(&str, &'static str), usize> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if !threads.contains(&thread) {
            threads.push(thread);
        }
        let known = DURABLE.iter().chain(&["openat2"]);
        let call = known
            .copied()
            .find(|call| rest.strip_prefix(call).is_some_and(|rest| rest.starts_with('(')));
        if let Some(call) = call {
            *made.entry((thread, call)).or_default() += 1;
        }
    }
    let mut counts = Counts::default();
    for ((thread, call), n) in made {
        let most = counts.most.entry(call).or_default();
        *most = n.max(*most);
        // Under a supervisor the first thread makes none of these, and the daemon's is the second.
        let is_first = threads.iter().find(|it| log_has(log, it)).is_some_and(|it| *it == thread);
        if is_first {
            counts.first.insert(call, n);
        }
    }
    counts
}

/// Whether this thread made any durable call.
fn log_has(log: &str, thread: &str) -> bool {
    log.lines().any(|line| line.starts_with(thread) && line.contains("fdatasync("))
}

/// At most so many of the points, evenly; all of them with `INBOXD_CRASH_ALL=1`.
pub(crate) fn sample(points: Vec<Point>, most: usize) -> Vec<Point> {
    let all = std::env::var("INBOXD_CRASH_ALL").as_deref() == Ok("1");
    if all || points.len() <= most {
        return points;
    }
    let len = points.len();
    (0..most).map(|i| points[i * len / most]).collect()
}

/// Does the work for each point, on two threads; a failure of any fails the test.
pub(crate) fn for_each(points: &[Point], work: impl Fn(Point) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let take = || points.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(point) = take() {
                    let _named = Named(*point);
                    work(*point);
                }
            });
        }
    });
}

/// Names the point at which a test panics.
struct Named(Point);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was at {:?}", self.0);
        }
    }
}

/// Goal: calls are counted per thread, resumed ones once. Method: a log of two threads.
#[test]
fn calls_are_counted_per_thread() {
    let log = "1 fdatasync(3) = 0\n2 fdatasync(3 <unfinished ...>\n1 fdatasync(3) = 0\n\
               2 <... fdatasync resumed>) = 0\n2 renameat2(3, \"fsync(\") = 0\n2 +++ exited with 0 +++\n";
    let counts = counts(log);
    assert_eq!(counts.most, [("fdatasync", 2), ("renameat2", 1)].into());
    assert_eq!(counts.first, [("fdatasync", 2)].into());
}

/// Goal: an odd run does not decide what is usual. Method: three counts, each kind of call with another odd one.
#[test]
fn the_middle_of_three_is_usual() {
    let mut runs = [[9, 2, 3], [4, 2, 8], [5, 0, 3]].into_iter();
    let usual = usual(|| {
        let [a, b, c] = runs.next().unwrap();
        let most = [("fsync", a), ("fdatasync", b), ("unlinkat", c)];
        let most = most.into_iter().filter(|(_, n)| *n > 0).collect();
        Counts { most, first: BTreeMap::new() }
    });
    assert_eq!(usual.most, [("fsync", 5), ("fdatasync", 2), ("unlinkat", 3)].into());
    assert_eq!(usual.first, BTreeMap::new());
}

/// Goal: a sample has the first point and spreads to the end. Method: ten out of a hundred.
#[test]
fn a_sample_is_even() {
    let points: Vec<Point> = (1..=100).map(|n| Point { call: "fsync", n }).collect();
    let ns: Vec<usize> = sample(points.clone(), 10).iter().map(|point| point.n).collect();
    let all = std::env::var("INBOXD_CRASH_ALL").is_ok();
    assert!(all || ns == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91], "{ns:?}");
    assert_eq!(sample(points, 200).len(), 100);
}
