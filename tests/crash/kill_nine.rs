//! SIGKILL at random instants: of the daemon, its supervisor, both, or both with all workers.
//!
//! Must not know: the journal.
//!
//! The seed is printed; `INBOXD_CRASH_SEED` repeats it. The instants are not repeated exactly, since
//! the machine's own timing takes part.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{BINARY, Running, Spool, alive, all_pids, children_of, send};
use crate::history::{History, WORK_SH, drop_named};

/// Kills, and jobs to be killed over.
const KILLS: usize = 200;
const JOBS: usize = 2000;
/// The longest life of a daemon before its kill: some die in their recovery, some after many jobs.
const LONGEST_LIFE_MS: u64 = 200;

/// The most workers that run in one life, so that the jobs last as long as the kills on any machine.
const MOST_RUNS: u64 = 36;

/// Lost attempts are free here: random kills may hit the same job many times. Crashes are not: a
/// worker that we end because we end must never be taken for one that crashed.
const SETTINGS: &str = r#"
workers = 4
[routes.work]
glob = "**"
command = ["sh", "work.sh"]
stdout = "json"
retries = { fail = 0, crash = 0, lost = 1000 }
"#;

/// splitmix64: the same seed gives the same numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(test: &str) -> Self {
        let given = std::env::var("INBOXD_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = given.unwrap_or(u64::from(now.subsec_nanos()));
        eprintln!("{test}: INBOXD_CRASH_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Daemon,
    Supervisor,
    Both,
    All,
}

pub(crate) const VICTIMS: [Victim; 4] =
    [Victim::Daemon, Victim::Supervisor, Victim::Both, Victim::All];

fn is_ours(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(BINARY))
}

/// Whether a supervisor stands above the daemon. Asked of an idle daemon, whose only child it could be.
pub(crate) fn is_supervised() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let spool = Spool::new(SETTINGS);
        let daemon = spool.daemon();
        let supervised = children_of(daemon.supervisor_pid()).into_iter().any(is_ours);
        assert!(daemon.end().success());
        supervised
    })
}

/// The daemon, if it is there already.
fn daemon_of(running: &Running) -> Option<u32> {
    let first = running.supervisor_pid();
    if is_supervised() {
        children_of(first).into_iter().find(|pid| is_ours(*pid))
    } else {
        Some(first)
    }
}

/// Lets time pass, or so many more workers run; `false` if the process ends in it. The instant is the
/// test's input: no state is waited for, and nothing depends on when it really was.
pub(crate) fn live_for(spool: &Spool, running: &Running, life: Duration, runs: u64) -> bool {
    let size = || fs::metadata(spool.path("runs.txt")).map_or(0, |meta| meta.len());
    let enough = size() + runs * 8;
    let end = Instant::now() + life;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if !alive(running.supervisor_pid()) {
            return false;
        }
        if size() > enough {
            break;
        }
        std::thread::park_timeout(left.min(Duration::from_millis(1)));
    }
    alive(running.supervisor_pid())
}

/// Kills and waits until neither supervisor nor daemon is left, nor a daemon that was just being born.
pub(crate) fn kill(spool: &Spool, running: &mut Running, victim: Victim) {
    let first = running.supervisor_pid();
    if victim == Victim::All {
        running.kill_all();
        return;
    }
    let victims = match (victim, daemon_of(running)) {
        (Victim::Daemon, Some(daemon)) => vec![daemon],
        (Victim::Both, Some(daemon)) => vec![first, daemon],
        _ => vec![first],
    };
    // Stopped first: neither may see the other's end before its own.
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in &victims {
            send(*pid, signal);
        }
    }
    running.wait();
    // By their working directory, which is not a worker's, and which a process that ends gives up
    // after its files: the lock on the spool is free then.
    let is_left = |pid: &u32| {
        alive(*pid) && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|it| it == spool.home())
    };
    spool.wait_until("the daemon ends", || !all_pids().iter().any(is_left));
}

/// Goal: 200 kills lose, double and garble nothing, and no job of theirs fails.
/// Method: `batch` over 2000 jobs, killed at random instants, started again until it ends.
#[test]
fn killed_at_random() {
    let mut random = Random::new("killed_at_random");
    let spool = Spool::new(SETTINGS);
    spool.write("work.sh", WORK_SH);
    let mut history = History::default();
    history.drop_files(&spool, JOBS);
    let mut kills = 0;
    while kills < KILLS {
        let mut running = spool.start(&["batch"]);
        let life = Duration::from_millis(random.below(LONGEST_LIFE_MS));
        let runs = random.below(MOST_RUNS);
        if !live_for(&spool, &running, life, runs) {
            assert!(running.wait().success(), "{}\n{}", running.log(), spool.report());
            break;
        }
        let victim = VICTIMS[usize::try_from(random.below(4)).unwrap()];
        kill(&spool, &mut running, victim);
        history.observe(&spool);
        kills += 1;
    }
    let recorded = history.finals();
    eprintln!("killed_at_random: {kills} kills, {recorded} jobs recorded before the last of them");
    assert!(kills * 2 > KILLS, "the jobs were over after {kills} kills");
    assert!(recorded > JOBS / 20, "only {recorded} jobs were recorded between the kills");
    spool.run(&["batch"]).ok();
    history.check(&spool, "killed at random");
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Kills of a watching daemon, and files that producers drop meanwhile.
const WATCHED_KILLS: usize = 40;
const WATCHED_JOBS: usize = 1200;

/// Goal: the same of `run`, whose files arrive while it is killed: none is lost between an event, a scan and a claim.
/// Method: two producers rename files in without a pause, into folders old and new; the daemon is killed
/// at random instants and started again; at the end `batch` finds what is left.
#[test]
fn killed_while_watching() {
    let mut random = Random::new("killed_while_watching");
    let spool = Spool::new(SETTINGS);
    spool.write("work.sh", WORK_SH);
    let names = |producer: usize| {
        (0..WATCHED_JOBS / 2).map(move |i| match i % 3 {
            0 => format!("{producer}-{i:04}"),
            1 => format!("p{producer}/{i:04}"),
            _ => format!("new{i:04}/in/{producer}"),
        })
    };
    let mut history = History::default();
    let mut kills = 0;
    std::thread::scope(|threads| {
        let spool = &spool;
        let producers = [0, 1].map(|producer| {
            threads.spawn(move || {
                for name in names(producer) {
                    drop_named(spool, &name);
                    // As fast as a busy producer, not as the disk: the kills must fall among the drops.
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            })
        });
        while kills < WATCHED_KILLS
            && !producers.iter().all(std::thread::ScopedJoinHandle::is_finished)
        {
            let mut running = spool.start(&["run"]);
            let life = Duration::from_millis(random.below(LONGEST_LIFE_MS));
            assert!(live_for(spool, &running, life, u64::MAX / 16), "{}", running.log());
            let victim = VICTIMS[usize::try_from(random.below(4)).unwrap()];
            kill(spool, &mut running, victim);
            history.observe(spool);
            kills += 1;
        }
    });
    for name in [0, 1].into_iter().flat_map(names) {
        history.was_dropped(&name);
    }
    let recorded = history.finals();
    eprintln!(
        "killed_while_watching: {kills} kills, {recorded} jobs recorded before the last of them"
    );
    assert!(kills > WATCHED_KILLS / 4, "the producers were done after {kills} kills");
    assert!(recorded > 0, "nothing was recorded between the kills");
    spool.run(&["batch"]).ok();
    history.check(&spool, "killed while watching");
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Leaves a child in its group and one in a session of its own; when it starts, says which process
/// of an earlier daemon (`old.txt`) is still alive. One that has had its SIGKILL and is on its way out
/// shows as running for an instant, though no code of its own runs any more: so it looks twice.
const FORKS_SH: &str = r#"
lives() {
    line=; read -r line < /proc/$1/stat
    [ -n "$line" ] || return 1
    wanted=$2
    set -- ${line##*) }
    [ "$1" != Z ] && [ "$1" != X ] && [ "${20}" = "$wanted" ]
}
while read -r pid start; do
    lives $pid $start && sleep 0.2 && lives $pid $start && { echo "$line" >> outlived.txt; break; }
done 2>/dev/null < old.txt
sleep 600 &
setsid sleep 601 &
echo "$INBOXD_REL" >> runs.txt
[ -e go ] || wait
echo '{"n":"0"}'
echo '{"n":"1"}'
"#;

/// A living process and its start, in the words of `/proc`.
fn survivors(spool: &Spool) -> Vec<String> {
    let pids = spool.processes().into_iter().filter_map(|line| {
        let pid: u32 = line.split(' ').next()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let rest = stat.rsplit(") ").next()?.to_owned();
        let begun = rest.split(' ').nth(19)?.to_owned();
        (!rest.starts_with(['Z', 'X'])).then(|| format!("{pid} {begun}"))
    });
    pids.collect()
}

fn lines(spool: &Spool, name: &str) -> usize {
    fs::read_to_string(spool.path(name)).unwrap_or_default().lines().count()
}

/// Kills each generation of two hanging workers that have forked, and starts the next.
fn killed_over_forks(name: &str, kills: usize, victims: &[Victim], mut after: impl FnMut(&Spool)) {
    let mut random = Random::new(name);
    let spool = Spool::new(&SETTINGS.replace("workers = 4", "workers = 2"));
    spool.write("work.sh", FORKS_SH);
    spool.write("old.txt", "");
    let mut history = History::default();
    history.drop_files(&spool, 6);
    for _ in 0..kills {
        let begun = lines(&spool, "runs.txt");
        let mut running = spool.start(&["batch"]);
        if random.below(4) > 0 {
            spool.wait_until("a worker runs", || lines(&spool, "runs.txt") > begun);
        }
        let life = Duration::from_millis(random.below(60));
        let lives = live_for(&spool, &running, life, 1 << 20);
        assert!(lives, "ended by itself: {}\n{}", running.log(), spool.report());
        let at = random.below(victims.len() as u64);
        kill(&spool, &mut running, victims[usize::try_from(at).unwrap()]);
        after(&spool);
        let mut old = survivors(&spool).join("\n");
        if !old.is_empty() {
            old.push('\n');
        }
        fs::write(spool.path("old.txt"), old).unwrap();
    }
    spool.write("go", "");
    spool.run(&["batch"]).ok();
    let outlived = fs::read_to_string(spool.path("outlived.txt")).unwrap_or_default();
    assert_eq!(outlived, "", "a worker ran beside a process of an earlier daemon");
    history.check(&spool, name);
}

/// Goal: no worker, its child, or its child in another session outlives a killed daemon or supervisor.
/// Method: 50 kills of one of the two, at random instants.
#[test]
fn no_worker_outlives_a_kill() {
    if !is_supervised() {
        eprintln!("skipped: this binary has no supervisor yet");
        return;
    }
    killed_over_forks(
        "no_worker_outlives_a_kill",
        50,
        &[Victim::Daemon, Victim::Supervisor],
        |spool| {
            spool.wait_until("all workers are gone", || spool.processes().is_empty());
        },
    );
}

/// Goal: what outlives both is ended before any claim is run again.
/// Method: 50 kills of both at once; each worker looks for those that lived before it.
#[test]
fn survivors_are_ended_before_the_next_run() {
    let mut survived = 0;
    killed_over_forks("survivors", 50, &[Victim::Both], |spool| survived += survivors(spool).len());
    assert!(survived > 50, "only {survived} processes outlived the kills: nothing was tested");
}

/// Slow enough that neighbours are in flight; `poison` kills its daemon.
const POISON_SH: &str = r#"
echo "begin $INBOXD_REL $INBOXD_ATTEMPT" >> log.txt
echo "$INBOXD_REL" >> runs.txt
[ "$INBOXD_REL" = poison ] && { kill -9 $PPID; sleep 600; }
sleep 0.03
echo "end $INBOXD_REL" >> log.txt
echo '{"n":"0"}'
echo '{"n":"1"}'
"#;

/// Goal: a file that kills its daemon is found, runs alone from its second loss on, and ends in
/// `error/` when its budget is spent; its neighbours are done, and each loss is charged to a job in flight.
/// Method: a worker that sends its parent SIGKILL, among twelve that do not; default budget (3).
#[test]
fn a_poison_file_is_found() {
    let spool = Spool::new(&SETTINGS.replace(", lost = 1000", ""));
    spool.write("work.sh", POISON_SH);
    let mut history = History::default();
    history.drop_file(&spool, "poison");
    history.drop_files(&spool, 12);
    history.must_fail("poison");
    let mut lives = 0;
    let code = loop {
        lives += 1;
        assert!(lives < 10, "the poison is never found\n{}", spool.report());
        let log = fs::read_to_string(spool.path("log.txt")).unwrap_or_default();
        fs::write(spool.path("log.txt"), log + "life\n").unwrap();
        let status = spool.start(&["batch"]).wait();
        history.observe(&spool);
        if matches!(status.code(), Some(0 | 3)) {
            break status.code();
        }
    };
    let log = fs::read_to_string(spool.path("log.txt")).unwrap();
    let mut alone = 0;
    for life in log.split("life\n") {
        let mut flying = BTreeSet::new();
        let mut suspect = false;
        for line in life.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["begin", name, attempt] => {
                    assert!(!suspect, "{name} began beside a suspect:\n{log}");
                    suspect = *name == "poison" && attempt.parse::<u32>().unwrap() >= 3;
                    assert!(
                        !suspect || flying.is_empty(),
                        "not alone at attempt {attempt}:\n{log}"
                    );
                    alone += u32::from(suspect);
                    flying.insert(*name);
                }
                ["end", name] => drop(flying.remove(name)),
                _ => panic!("{line}"),
            }
        }
    }
    // One attempt and three more; from the third on alone.
    assert_eq!((lives, alone, code), (5, 2, Some(3)), "{log}\n{}", spool.report());
    let reason = spool.reason("poison");
    assert!(reason.contains("lost") || reason.contains("daemon"), "{reason}");
    history.check(&spool, "poison");
}

/// The first job is short; the second one kills its daemon once the first one is settled and others wait in
/// line behind it.
const LINE_SH: &str = r#"
echo "$INBOXD_REL $INBOXD_ATTEMPT" >> runs.txt
case "$INBOXD_REL $INBOXD_ATTEMPT" in "b 1")
    until [ -e done/a ]; do sleep 0.001; done
    cp journal/waiting waiting.txt
    kill -9 $PPID; sleep 600
esac
"#;

/// Goal: a job that a slot would have had next was not run, and the daemon's death costs it nothing, not even
/// where a lost attempt is the last one. Method: one slot, a short job that makes a line, and one
/// that kills the daemon while two others wait behind it; `lost = 0`. Again, where the line was cleared before.
#[test]
fn what_waits_in_line_is_not_lost() {
    assert!((0..20).any(|_| is_killed_with_a_line()), "nothing ever waited");
}

/// `false`: nothing waited when it was killed.
fn is_killed_with_a_line() -> bool {
    let spool = Spool::new(
        "workers = 1\n[routes.main]\ncommand = [\"sh\", \"work.sh\"]\nstdout = \"none\"\n\
         retries = { lost = 0 }\n",
    );
    spool.write("work.sh", LINE_SH);
    let mut last = 0;
    for name in ["a", "b", "c", "d"] {
        // Files of one tick of the clock have no order.
        let came = || {
            spool.drop_file(name, "");
            let meta = fs::metadata(spool.path("incoming").join(name)).unwrap();
            meta.ctime() * 1_000_000_000 + meta.ctime_nsec()
        };
        let before = last;
        spool.wait_until("the clock ticks", || {
            last = came();
            last > before
        });
    }
    let code = spool.start(&["batch"]).wait().code();
    assert!(!matches!(code, Some(0 | 3)), "nothing killed it\n{}", spool.report());
    let waiting = fs::read_to_string(spool.path("waiting.txt")).unwrap();
    assert_eq!(spool.start(&["batch"]).wait().code(), Some(3), "{}", spool.report());
    let runs = fs::read_to_string(spool.path("runs.txt")).unwrap();
    assert_eq!(runs, "a 1\nb 1\nc 1\nd 1\n");
    assert_eq!(spool.names("done"), ["a", "c", "d"]);
    assert!(spool.reason("b").starts_with("lost"), "{}", spool.reason("b"));
    waiting.contains(".1 ")
}

/// Fails at first, then kills its daemon, then succeeds.
const AGAIN_SH: &str = r"
[ -e failed ] || { touch failed; exit 65; }
[ -e killed ] || { touch killed; kill -9 $PPID; sleep 600; }
";

/// Goal: who asks for another run gets one: the next daemon does not take the file for what was recorded of it
/// before. Method: a file that failed is put back, and kills its daemon.
#[test]
fn a_retried_file_runs_although_its_daemon_was_killed() {
    let spool = Spool::new("[routes.main]\ncommand = [\"sh\", \"work.sh\"]\nstdout = \"none\"\n");
    spool.write("work.sh", AGAIN_SH);
    let mut daemon = spool.daemon();
    spool.drop_file("x", "x");
    spool.wait_until("it has failed", || spool.path("error/.why/x.json").exists());
    spool.wait_until("it is settled", || spool.names("processing").is_empty());
    spool.run(&["retry", "x"]).ok();
    assert!(!daemon.wait().success(), "{}", spool.report());
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["x"], "{}", spool.report());
}
