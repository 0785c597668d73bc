//! Errors of the kernel: each durable call fails once, and a disk that is really full.
//!
//! Must not know: what the calls are for.
//!
//! What is right after an error: the daemon waits and goes on (too little of something), or it ends
//! with 1 and says what failed where; never a panic, a job that pays for it, or anything lost.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command};

use crate::folders;
use crate::harness::{Running, Spool};
use crate::history::{History, WORK_SH};
use crate::strace::{self, Point};

const JOBS: usize = 12;
/// Points tried of one call and error, unless all are asked for.
const POINTS: usize = 8;

const SETTINGS: &str = r#"
workers = 2
rescan = "100ms"
[routes.work]
glob = "**"
command = ["sh", "work.sh"]
stdout = "json"
retries = { fail = 0, crash = 0 }
"#;

/// An error, and the words for it in a message.
const EIO: (&str, &str) = ("EIO", "Input/output error");
const ENOSPC: (&str, &str) = ("ENOSPC", "No space left on device");
const EMFILE: (&str, &str) = ("EMFILE", "Too many open files");

/// What each call may fail with.
const FAULTS: [(&str, (&str, &str)); 15] = [
    ("fdatasync", EIO),
    ("fdatasync", ENOSPC),
    ("fsync", EIO),
    ("syncfs", EIO),
    ("pwrite64", EIO),
    ("pwrite64", ENOSPC),
    ("renameat2", EIO),
    ("renameat2", ENOSPC),
    ("mkdirat", EIO),
    ("mkdirat", ENOSPC),
    ("unlinkat", EIO),
    ("ftruncate", EIO),
    ("fallocate", ENOSPC),
    ("openat2", ENOSPC),
    ("openat2", EMFILE),
];

fn prepared() -> (Spool, History) {
    let spool = Spool::new(SETTINGS);
    spool.write("work.sh", WORK_SH);
    spool.run(&["batch"]).ok();
    let mut history = History::default();
    history.drop_files(&spool, JOBS);
    (spool, history)
}

/// One input of as many records, none of which fails.
pub(crate) fn prepared_records() -> Spool {
    let records = "records = \"lines\"\ntrace_columns = false\n";
    let spool = Spool::new(&format!("{SETTINGS}{records}"));
    spool.write("work.sh", "echo \"{\\\"id\\\":\\\"$INBOXD_RECORD\\\"}\"\n");
    spool.run(&["batch"]).ok();
    spool.drop_file("ids", lines().join("\n"));
    spool
}

fn lines() -> Vec<String> {
    (10..10 + JOBS).map(|n| n.to_string()).collect()
}

/// What is wrong with how an input of records ended, if anything is.
pub(crate) fn judge_records(spool: &Spool) -> Result<(), String> {
    let found = (spool.csv("work").sorted(), spool.names("done"), spool.names("processing"));
    let wanted = (lines(), vec!["ids".to_owned()], Vec::new());
    if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
}

/// What is wrong with how a run took an error: its exit code, and what it said.
fn misbehaviour(code: Option<i32>, said: &str, words: &str) -> Option<&'static str> {
    match code {
        Some(1) if !(said.contains("error: ") || said.contains("fatal: ")) => Some("no message"),
        Some(1) if !said.contains(words) => Some("the message does not say what the system said"),
        // It said so, or it waited, or what failed did not matter.
        Some(0 | 1) => None,
        Some(101) => Some("a panic"),
        Some(3) => Some("a job paid for it"),
        _ => Some("a strange exit code"),
    }
}

/// Goal: no error of a durable call loses, doubles or fails a job, or goes by without a word.
/// Method: a run with the Nth call failing once, for calls and errors that belong together; then a
/// run without.
#[test]
fn any_durable_call_fails_once() {
    if !strace::is_there() {
        return;
    }
    fails_once(POINTS, || {
        let (spool, mut history) = prepared();
        let judge = move |spool: &Spool| {
            history.observe(spool);
            spool.run(&["batch"]).ok();
            history.judge(spool)
        };
        (spool, judge)
    });
}

/// Goal: the same of an input whose records are tasks of their own. Method: as above.
#[test]
fn any_durable_call_fails_once_over_records() {
    if !strace::is_there() {
        return;
    }
    fails_once(POINTS / 2, || {
        let judge = |spool: &Spool| {
            spool.run(&["batch"]).ok();
            judge_records(spool)
        };
        (prepared_records(), judge)
    });
}

/// Goal: the same of folders that are one job, and of files that come with others. Method: as above; but one
/// sentinel may stay.
#[test]
fn any_durable_call_fails_once_over_sets() {
    if !strace::is_there() {
        return;
    }
    fails_once(POINTS / 2, || {
        let judge = |spool: &Spool| {
            spool.run(&["batch"]).ok();
            // A sentinel that could not be moved along stays: it says nothing of what comes later.
            let stayed = spool
                .names("incoming")
                .into_iter()
                .filter(|name| name.rsplit('.').next() == Some("ok"));
            for name in stayed.take(1) {
                let [from, to] = ["incoming", "done"].map(|at| spool.path(&format!("{at}/{name}")));
                rustix::fs::rename(from, to).unwrap();
            }
            folders::judge(spool, false, false)
        };
        (folders::prepared(false), judge)
    });
}

/// Lets each call fail at so many points of a run, each in a spool of its own; then its judge runs once
/// more and looks.
fn fails_once<J: FnMut(&Spool) -> Result<(), String>>(
    points: usize,
    prepared: impl Fn() -> (Spool, J) + Sync,
) {
    let counts = strace::usual(|| {
        let (spool, mut judge) = prepared();
        let counts = strace::count(&spool);
        assert_eq!(judge(&spool), Ok(()), "uninterrupted");
        counts
    });
    let wrong = std::sync::Mutex::new(Vec::new());
    let hits = std::sync::atomic::AtomicUsize::new(0);
    let mut tried = 0;
    for (call, (errno, words)) in FAULTS {
        let most = counts.most.get(call).copied().unwrap_or_default();
        let points = strace::sample((1..=most).map(|n| Point { call, n }).collect(), points);
        tried += points.len();
        strace::for_each(&points, |point| {
            let (spool, mut judge) = prepared();
            let traced = strace::fail(&spool, point, errno);
            hits.fetch_add(usize::from(traced.hit), std::sync::atomic::Ordering::Relaxed);
            let said = traced.output.both();
            let code = traced.output.status.code();
            if let Some(what) = misbehaviour(code, &said, words) {
                wrong
                    .lock()
                    .unwrap()
                    .push(format!("{errno} at {point:?}: {what}: {code:?}\n{said}"));
                return;
            }
            if let Err(what) = judge(&spool) {
                wrong.lock().unwrap().push(format!("{errno} at {point:?}: {what}\n{said}"));
            }
        });
    }
    let (wrong, hits) = (wrong.into_inner().unwrap(), hits.into_inner());
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(hits * 10 >= tried * 8, "only {hits} of {tried} points were reached");
    eprintln!("{hits} of {tried} calls failed");
}

/// Goal: what `submit` says without a daemon is so, also on a disk that has just become full: a job with an id
/// runs, a file that was refused does not, and nothing of its copy stays. Method: each call that takes space
/// fails once; then a batch.
#[test]
fn what_submit_says_on_a_full_disk_is_so() {
    if !strace::is_there() {
        return;
    }
    let prepared = || {
        let spool = Spool::new(SETTINGS);
        spool.write("work.sh", "echo '{}'\n");
        spool.write_home("x", "x");
        spool
    };
    let submit = ["submit", "x"];
    let counts = strace::count_of(&prepared(), &submit);
    let mut said = [0, 0];
    for call in ["renameat2", "pwrite64", "mkdirat", "openat2", "fallocate"] {
        let most = counts.most.get(call).copied().unwrap_or_default();
        for point in (1..=most).map(|n| Point { call, n }) {
            let spool = prepared();
            let submitted = strace::fail_of(&spool, &submit, point, "ENOSPC").output;
            let is_taken = submitted.status.success();
            if !is_taken {
                let left = fs::read_dir(spool.path("processing")).unwrap().count();
                assert_eq!(left, 0, "{point:?}: {submitted}");
            }
            spool.run(&["batch"]).ok();
            let done: &[&str] = if is_taken { &["x"] } else { &[] };
            assert_eq!(spool.names("done"), done, "{point:?}: {submitted}");
            said[usize::from(is_taken)] += 1;
        }
    }
    assert!(said[0] > 3 && said[1] > 3, "{said:?}");
}

/// Goal: the judge of a run can say no. Method: each kind of misbehaviour, and good behaviour.
#[test]
fn misbehaviour_is_seen() {
    let eio = EIO.1;
    let good = "error: journal fsync failed: Input/output error (os error 5)";
    assert_eq!(misbehaviour(Some(0), "", eio), None);
    assert_eq!(misbehaviour(Some(1), good, eio), None);
    for (code, said) in [
        (Some(1), ""),
        (Some(1), "error: journal fsync failed"),
        (Some(1), eio),
        (Some(101), good),
        (Some(3), good),
        (None, good),
    ] {
        assert!(misbehaviour(code, said, eio).is_some(), "{code:?} {said}");
    }
}

/// Goal: a filesystem on which a move could overwrite a file is refused, with what to do. Method: what it
/// says of each rename that must not; real ones are NFS and most of FUSE.
#[test]
fn a_filesystem_that_may_overwrite_is_refused() {
    if !strace::is_there() {
        return;
    }
    let spool = Spool::new(SETTINGS);
    spool.drop_file("x", "x");
    let says_no = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=renameat2:error=EINVAL"];
    let wrapper = [["strace"].as_slice(), &says_no].concat();
    let refused = spool.run_under(&wrapper, &["batch"], b"").code(2);
    refused.says("cannot rename a file without replacing").says("such as ext4, xfs or btrfs");
    assert_eq!(spool.names("incoming"), ["x"]);
    assert!(!spool.names("journal").iter().any(|name| name.starts_with("probe")));
}

/// A small filesystem of its own, in memory; gone with the test.
struct SmallDisk<'a>(&'a Spool);

impl<'a> SmallDisk<'a> {
    /// Mounts it where the spool will be. `None`: only root may.
    fn mount(spool: &'a Spool) -> Option<Self> {
        fs::create_dir(spool.root()).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=8m,mode=0750", "tmpfs"]).arg(spool.root());
        let mounted = command.output().is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: cannot mount a small disk");
            return None;
        }
        let disk = Self(spool);
        // What is dropped is renamed into `incoming/`, so it is written on the same filesystem.
        fs::create_dir(spool.path("staging")).unwrap();
        rustix::fs::rmdir(spool.home().join("staging")).unwrap();
        std::os::unix::fs::symlink("inbox/staging", spool.home().join("staging")).unwrap();
        Some(disk)
    }

    /// Takes all the space that there is.
    fn fill(&self) {
        let mut filler = File::create(self.0.path("filler")).unwrap();
        for block in [1 << 16, 1 << 12, 1] {
            let bytes = vec![0; block];
            while filler.write_all(&bytes).is_ok() {}
        }
    }

    fn free(&self) {
        rustix::fs::unlink(self.0.path("filler")).unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test left behind may still stand in it.
        let _gone = Command::new("umount").arg("-l").arg(self.0.root()).status();
    }
}

/// Far more than run in the time of a group of records.
const WAITING: usize = 200;

/// Goal: a filesystem without inodes is waited for like a full one, and called that: free space is not what
/// is missing. Method: a real one of few inodes, used up by empty files while workers run, and freed again.
#[test]
fn used_up_inodes_are_waited_for_and_named() {
    let spool = Spool::bare();
    let Some(disk) = SmallDisk::mount(&spool) else { return };
    let few =
        Command::new("mount").args(["-o", "remount,nr_inodes=200"]).arg(spool.root()).status();
    assert!(few.unwrap().success());
    let root = if rustix::process::geteuid().is_root() { "allow_root = true\n" } else { "" };
    spool.write("inboxd.toml", &format!("{root}{SETTINGS}"));
    let wait = "until [ -e ../go ]; do sleep 0.02; done\n";
    spool.write("work.sh", &format!("{wait}{}", WORK_SH.replace("runs.txt", "../runs.txt")));
    spool.run(&["batch"]).ok();
    let mut history = History::default();
    history.drop_files(&spool, 20);
    fs::create_dir(spool.path("fillers")).unwrap();
    let filler = |n: u32| spool.path(&format!("fillers/{n}"));
    let fill = || (0..200).take_while(|n| File::create(filler(*n)).is_ok()).count();
    for n in 0..u32::try_from(fill()).unwrap() {
        // One that starts without any cannot wait: it says why, and so does `check`.
        if n == 0 {
            spool.run(&["batch"]).code(1).says("No inode is left");
            spool.run(&["check"]).says("has no inodes left");
        }
        rustix::fs::unlink(filler(n)).unwrap();
    }
    let mut daemon = spool.daemon();
    spool.wait_until("two workers wait", || daemon.workers().len() == 2);
    let fillers = fill();
    assert!(fillers < 200, "there is no end of inodes");
    spool.write_home("go", "");
    daemon.wait_for_log("has no inodes left");
    spool.run(&["status"]).ok().says("has no inodes left").says("df -i");
    for n in 0..u32::try_from(fillers).unwrap() {
        rustix::fs::unlink(filler(n)).unwrap();
    }
    spool.wait_until("all are done", || spool.names("done").len() == 20);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success(), "{}", spool.report());
    fs::copy(spool.home().join("runs.txt"), spool.path("runs.txt")).unwrap();
    history.check(&spool, "no inodes");
    drop(daemon);
    drop(disk);
}

/// A daemon on a small disk, with further settings, that was filled while two workers ran; both have ended.
fn fill_under_workers(spool: &Spool, disk: &SmallDisk<'_>, further: &str) -> (History, Running) {
    let root = if rustix::process::geteuid().is_root() { "allow_root = true\n" } else { "" };
    spool.write("inboxd.toml", &format!("{root}{further}{SETTINGS}"));
    // The worker's own word goes elsewhere: it has no claim on the disk's space.
    let wait = "until [ -e ../go ]; do sleep 0.02; done\n";
    spool.write("work.sh", &format!("{wait}{}", WORK_SH.replace("runs.txt", "../runs.txt")));
    let mut history = History::default();
    history.drop_files(spool, WAITING);
    let daemon = spool.daemon();
    spool.wait_until("two workers wait", || daemon.workers().len() == 2);
    disk.fill();
    spool.write_home("go", "");
    daemon.wait_for_log("disk is full");
    (history, daemon)
}

/// Goal: a full disk is waited for: the daemon lives, nothing is lost, and it goes on by itself.
/// Method: a real small disk, filled while workers run, and freed again.
#[test]
fn a_full_disk_is_waited_for() {
    let spool = Spool::bare();
    let Some(disk) = SmallDisk::mount(&spool) else { return };
    let (history, mut daemon) = fill_under_workers(&spool, &disk, "");
    let daemon_pid = daemon.daemon_pid();
    // It stands still with what it has: no more jobs are claimed on a full disk.
    assert!(spool.names("incoming").len() > WAITING / 2, "{}", spool.report());
    disk.free();
    spool.wait_until("all are done", || spool.names("done").len() == WAITING);
    assert_eq!(daemon.daemon_pid(), daemon_pid, "it ended and was started again");
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success(), "{}", spool.report());
    fs::copy(spool.home().join("runs.txt"), spool.path("runs.txt")).unwrap();
    history.check(&spool, "a full disk");
    drop(daemon);
    drop(disk);
}

/// Goal: a full disk does not keep the daemon from its end: who stops it is not waited for by a disk that
/// nobody frees, and nothing is lost by it. Method: a real small disk, filled while workers run, a signal, and
/// another run once there is room again.
#[test]
fn a_daemon_on_a_full_disk_can_be_stopped() {
    let spool = Spool::bare();
    let Some(disk) = SmallDisk::mount(&spool) else { return };
    let (history, mut daemon) = fill_under_workers(&spool, &disk, "drain_timeout = \"300ms\"\n");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(1), "{}", spool.report());
    daemon.wait_for_log("stopped while the disk is full");
    disk.free();
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done").len(), WAITING, "{}", spool.report());
    fs::copy(spool.home().join("runs.txt"), spool.path("runs.txt")).unwrap();
    history.check(&spool, "stopped on a full disk");
    drop(daemon);
    drop(disk);
}

/// Goal: a source that is larger than what is free is said to wait for room, and is taken in once there is some.
/// Method: a real small disk, and one of twice its size; the disk grows.
#[test]
fn a_source_larger_than_the_disk_waits_for_room() {
    let spool = Spool::bare();
    let Some(disk) = SmallDisk::mount(&spool) else { return };
    let root = if rustix::process::geteuid().is_root() { "allow_root = true\n" } else { "" };
    spool.write("inboxd.toml", &format!("{root}{SETTINGS}"));
    spool.write("work.sh", "echo '{}'\n");
    spool.write_home("large", "");
    File::options()
        .write(true)
        .open(spool.home().join("large"))
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let mut batch = spool.start(&["batch", "large"]);
    batch.wait_for_log("large needs 16.0 MiB, and ");
    assert_eq!(spool.names("processing"), Vec::<String>::new());
    let grows = Command::new("mount").args(["-o", "remount,size=64m"]).arg(spool.root()).status();
    assert!(grows.unwrap().success());
    assert_eq!(batch.wait().code(), Some(0), "{}", spool.report());
    assert_eq!(fs::metadata(spool.path("done/large")).unwrap().len(), 16 << 20);
    drop(batch);
    drop(disk);
}

/// From now on this process can start no thread; what runs a command still can be started.
fn without_threads(spool: &Spool, pid: u32) -> Child {
    let said = spool.home().join("strace.err");
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "inject=clone3:error=EAGAIN", "-p"]);
    command.arg(pid.to_string()).stderr(File::create(&said).unwrap());
    let strace = command.spawn().unwrap();
    spool.wait_until("strace is there", || {
        fs::read_to_string(&said).is_ok_and(|said| said.contains("attached"))
    });
    strace
}

/// Goal: a job that leaves no process to others, as at a limit of processes, does not end the daemon: what it
/// does on threads of their own is done or put off. Method: a daemon that can start none, and failed records
/// to be collected, files to be compared, a checkpoint, old files to be removed, a `batch` that is handed in.
#[test]
fn a_daemon_without_a_thread_to_spare_goes_on() {
    if !strace::is_there() {
        return;
    }
    let more = "on_repeat = \"skip\"\n[routes.lines]\nglob = \"*.lines\"\nrecords = \"lines\"\n\
                command = [\"sh\", \"-c\", \"test {record} != 2\"]\nretries = 0\n";
    let spool = Spool::new(&format!(
        "retention_age = \"30days\"\n{}",
        SETTINGS.replace("\"**\"", "\"*.json\"")
    ));
    let settings = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write("inboxd.toml", &format!("{settings}{more}"));
    spool.write("work.sh", "echo '{\"n\": 1}'\n");
    spool.drop_file("a.json", "1");
    let mut daemon = spool.daemon();
    spool.wait_until("the first is done", || spool.has("done/a.json"));
    let mut strace = without_threads(&spool, daemon.daemon_pid());
    rustix::fs::rename(spool.path("done/a.json"), spool.path("incoming/a.json")).unwrap();
    spool.drop_file("b.lines", "1\n2\n3\n");
    spool.wait_until("all are done", || spool.has("done/b.lines") && spool.has("error/b.lines"));
    spool.write_home("c.json", "1");
    let source = spool.home().join("c.json");
    spool.run(&["batch", source.to_str().unwrap()]).fails();
    strace.kill().unwrap();
    strace.wait().unwrap();
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success(), "{}", spool.report());
}

/// Goal: a daemon that may have no further thread still tells its status, and is not said to be stopped. Method:
/// strace lets it start none; a file that is open for writing, whose writer is looked for on a thread.
#[test]
fn a_daemon_without_a_thread_to_spare_tells_its_status() {
    if !strace::is_there() {
        return;
    }
    let spool = Spool::new(SETTINGS);
    let daemon = spool.daemon();
    let mut strace = without_threads(&spool, daemon.daemon_pid());
    let open = File::create(spool.path("incoming/open")).unwrap();
    spool.wait_until("it tells of the open file", || {
        spool.run(&["status"]).ok().says("RUNNING").stdout().contains("open for writing")
    });
    drop(open);
    strace.kill().unwrap();
    strace.wait().unwrap();
}
