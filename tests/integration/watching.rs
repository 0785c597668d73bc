//! What may happen to events: lost by the kernel, refused for want of watches, unheard by a dead thread,
//! unknown on some filesystems. Each is said, and every file is taken all the same, once.
//!
//! Must not know: how folders are watched.
//!
//! Limits of the kernel are lowered in a user namespace of the daemon's own; without these the test says
//! that it is skipped, also on CI.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Running, Spool, send};

/// Whoever starts it is root in its namespace. The clock is out of the way unless it is what is tested.
const SETTINGS: &str = "allow_root = true\nrescan = \"1d\"\nworkers = 2\n[routes.many]\n\
    glob = \"**/*.x\"\ncommand = [\"true\"]\nstdout = \"none\"\n";

impl Spool {
    fn told(&self, key: &str) -> String {
        let output = self.run(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&output.stdout()).unwrap_or_default();
        status[key].as_str().unwrap_or_default().to_owned()
    }

    fn done(&self) -> usize {
        self.names("done").len()
    }

    fn drop_in(&self, folder: &str, names: std::ops::Range<usize>) {
        for n in names {
            self.drop_file(format!("{folder}{n}.x"), "x");
        }
    }
}

/// The daemon in namespaces of its own, where `prepare` was run first. `None`: there are none here.
fn in_namespace(spool: &Spool, prepare: &str) -> Option<Running> {
    let tried = Command::new("unshare").args(["-Urm", "sh", "-ec", prepare]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        // Also on CI: a sandbox may refuse them, and no package brings them.
        eprintln!("skipped: no user namespaces, or not this in them: {tried:?}");
        return None;
    }
    let script = format!("{prepare}\nexec \"$0\" \"$@\"");
    let daemon = spool.start_under(&["unshare", "-Urm", "sh", "-ec", &script], &["run"]);
    daemon.wait_for_log("ready");
    Some(daemon)
}

/// Goal: when the kernel's queue overflows, nothing is lost and nothing doubled, it is said, and all is well
/// again. Method: the daemon stopped, files renamed in, more events than the queue holds, files renamed in
/// whose events are lost; then it goes on.
#[test]
fn an_overflow_loses_nothing() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let spool = Spool::verbatim(SETTINGS);
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    spool.drop_in("sub/", 0..1);
    spool.wait_until("the folder is watched", || spool.done() == 1);
    send(pid, Signal::STOP);
    spool.drop_in("", 0..100);
    // Two names by turns: the kernel merges an event with an equal one just before it.
    let noise = [".a", ".b"].map(|name| spool.path("incoming").join(name));
    for n in 0..=limit {
        drop(File::create(&noise[n % 2]).unwrap());
    }
    spool.drop_in("", 100..200);
    spool.drop_in("sub/", 1..100);
    spool.drop_in("new/", 0..100);
    send(pid, Signal::CONT);
    spool.wait_until("all are done", || spool.done() >= 400);
    assert_eq!((spool.done(), spool.errors().len()), (400, 0), "{}", spool.report());
    daemon.wait_for_log("events were lost");
    spool.wait_until("events are well again", || spool.told("events") == "ok");
    let output = spool.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&output.stdout()).unwrap();
    assert!(status["overflows"].as_u64() >= Some(1), "{status}");
    spool.drop_in("new/", 100..101);
    spool.wait_until("the next one is noticed", || spool.done() == 401);
    assert_eq!(daemon.end().code(), Some(0));
    // Claimed once each: a second claim of a file would have found its name taken.
    assert!(spool.names("done").iter().all(|name| !name.contains('~')));
}

/// Goal: with too few watches the rest is scanned, and it is said what to do. Method: room for five, twenty
/// folders, a file in each, made before and after the start.
#[test]
fn without_watches_folders_are_scanned() {
    let spool = Spool::verbatim(SETTINGS);
    for folder in 0..20 {
        spool.drop_in(&format!("{folder}/"), 0..1);
    }
    let prepare = "echo 5 > /proc/sys/user/max_inotify_watches";
    let Some(daemon) = in_namespace(&spool, prepare) else { return };
    spool.wait_until("all are done", || spool.done() == 20);
    for folder in 0..20 {
        spool.drop_in(&format!("{folder}/"), 1..2);
    }
    spool.wait_until("all are done", || spool.done() == 40);
    let told =
        "watching 5 of 21 folders (fs.inotify.max_user_watches); the rest is scanned every 10 s";
    assert_eq!(spool.told("events"), told);
    let fix = "sysctl fs.inotify.max_user_watches=65536";
    spool.run(&["status"]).ok().says(told).says(fix);
    daemon.wait_for_log("some events are missing");
    daemon.wait_for_log(fix);
    for folder in 0..20 {
        rustix::fs::rmdir(spool.path(&format!("incoming/{folder}"))).unwrap();
    }
    spool.wait_until("what is gone is not counted", || spool.told("events") == "ok");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: with no inotify at all it polls, and says so. Method: room for no instance.
#[test]
fn without_an_instance_it_polls() {
    let spool = Spool::verbatim(SETTINGS);
    spool.drop_in("a/", 0..1);
    let prepare = "echo 0 > /proc/sys/user/max_inotify_instances";
    let Some(daemon) = in_namespace(&spool, prepare) else { return };
    spool.wait_until("what was there is done", || spool.done() == 1);
    spool.drop_in("a/", 1..2);
    spool.wait_until("what came is done", || spool.done() == 2);
    let told = spool.told("events");
    assert!(told.starts_with("off (") && told.contains("max_user_instances"), "{told}");
    assert!(told.ends_with("listed every 10 s"), "{told}");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: with ever fewer processes and threads allowed it does without events before it does without itself, and says
/// which limit to raise; nothing panics. Method: each number from none to enough, for a user that has no others.
#[test]
fn too_few_processes_are_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(SETTINGS);
    let mut said = Vec::new();
    for most in 4..20 {
        let limit = format!("--nproc={most}:{most}");
        let mut daemon = spool.start_as("54321", &["prlimit", &limit]);
        let is_over = |daemon: &Running| !crate::harness::alive(daemon.supervisor_pid());
        spool.wait_until("it is ready, or has ended", || {
            daemon.log().contains(" ready") || is_over(&daemon)
        });
        if !is_over(&daemon) {
            daemon.signal(Signal::TERM);
        }
        let (code, log) = (daemon.wait().code(), daemon.log());
        assert!(!log.contains("panicked"), "{most}: {log}");
        assert!(code == Some(0) || log.contains("Raise the limit of processes"), "{most}: {log}");
        said.push((code, log.contains("off (Resource temporarily unavailable")));
    }
    // Nothing, then without events, then all.
    assert_eq!(said.first(), Some(&(Some(1), false)), "{said:?}");
    assert!(said.contains(&(Some(0), true)), "{said:?}");
    assert_eq!(said.last(), Some(&(Some(0), false)), "{said:?}");
}

/// Goal: the death of the watching thread is noticed, said, and mended. Method: strace lets its wait fail,
/// on which notify panics; a file before, a file after.
#[test]
fn a_dead_watcher_is_replaced() {
    if !Command::new("strace").arg("--version").output().is_ok_and(|it| it.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "CI must have strace");
        eprintln!("skipped: strace is not installed");
        return;
    }
    let spool = Spool::verbatim(SETTINGS);
    let daemon = spool.daemon();
    let watcher = thread(daemon.daemon_pid(), "notify").expect("the thread of notify");
    let log = spool.home().join("logs/strace");
    let mut strace = Command::new("strace")
        .args(["-p", &watcher.to_string(), "-e", "trace=epoll_wait,epoll_pwait"])
        .args(["-e", "inject=epoll_wait,epoll_pwait:error=EBADF"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    spool.wait_until("strace is there", || said().contains("attached"));
    // The wait under way ends by this event, the next one fails.
    spool.drop_in("", 0..1);
    daemon.wait_for_log("some events are missing");
    daemon.wait_for_log("all events come again");
    spool.drop_in("", 1..2);
    spool.wait_until("both are done", || spool.done() == 2);
    assert_eq!(spool.told("events"), "ok");
    assert_eq!(daemon.end().code(), Some(0));
    assert!(strace.wait().is_ok());
}

/// A thread of a process, by the beginning of its name.
fn thread(pid: u32, name: &str) -> Option<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut pids = threads.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|tid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"));
        comm.is_ok_and(|comm| comm.starts_with(name))
    })
}

/// Goal: on overlayfs, whose events and leases do not tell everything, files are listed by the clock, taken
/// whole and once, and it is said. Method: a whole spool on an overlay, in a mount namespace; files made
/// before, and after, and one whose writer goes on.
#[test]
fn a_spool_on_overlayfs_is_listed() {
    let spool = Spool::verbatim(&format!("quiet_for = \"1s\"\n{SETTINGS}"));
    spool.drop_in("a/", 0..3);
    let home = spool.home().to_str().unwrap();
    fs::create_dir_all(spool.home().join("upper")).unwrap();
    fs::create_dir_all(spool.home().join("work")).unwrap();
    let prepare = format!(
        "mount -t overlay overlay -o lowerdir={home}/inbox,upperdir={home}/upper,workdir={home}/work \
         {home}/inbox; cd {home}"
    );
    let Some(daemon) = in_namespace(&spool, &prepare) else { return };
    // Through the daemon's own view of the tree: from here the mount is not to be seen.
    let root = PathBuf::from(format!("/proc/{}/root", daemon.daemon_pid()));
    let inside = |rel: &str| join(&root, &spool.path(rel));
    let done = || {
        let walk = walkdir::WalkDir::new(inside("done")).into_iter().filter_map(Result::ok);
        walk.filter(|entry| entry.file_type().is_file()).count()
    };
    spool.wait_until("what was there is done", || done() == 3);
    fs::create_dir(inside("incoming/b")).unwrap();
    for n in 0..3 {
        fs::write(inside("incoming/b").join(format!("{n}.x")), "x").unwrap();
    }
    spool.wait_until("what came is done", || done() == 6);
    assert_eq!(fs::read_dir(inside("incoming/b")).unwrap().count(), 0);
    daemon.wait_for_log("of overlayfs are not enough: listed every 10 s");
    assert!(!spool.path("done/a").exists(), "it was on the overlay");
    assert_eq!(daemon.end().code(), Some(0));
}

fn join(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap())
}
