//! Tests of supervisor and daemon as real processes: this test binary, started again as a program.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::config::limits;
use crate::daemon::children::Sweeper;
use crate::worker::proc;

const PROGRAM_VAR: &str = "INBOXD_TEST_PROGRAM";
const PROGRAM: &str = "daemon::supervisor::tests::as_the_program";

/// Prints its own number, a child's in its group, and one's that called setsid; lives on.
const WORKER: &str = "setsid sh -c 'echo pid $$; exec sleep 600' & \
    sleep 600 & echo pid $!; echo pid $$; wait";

/// Not a test of its own: what the tests below start. Goal: one binary for all roles. Method: the
/// variable says which.
#[test]
#[ignore = "a program that the other tests start"]
fn as_the_program() {
    match std::env::var(PROGRAM_VAR).as_deref() {
        Ok("supervised") => supervised_program(),
        Ok("sweeping") => sweeping_program(),
        Ok("starting") => starting_program(),
        _ => {}
    }
}

fn supervised_program() {
    let leash = match supervise(std::env::args_os()).unwrap() {
        Supervised::Stopped => return println!("\nended stopped"),
        Supervised::Ended { code, .. } => return println!("\nended {code}"),
        Supervised::Daemon(leash) => leash,
    };
    let signals = Forwarded::listen().unwrap();
    // Ends the line that the test runner has begun.
    println!();
    let start = |_| Command::new("sh").args(["-c", WORKER]).process_group(0).spawn().unwrap();
    let _workers = [0, 1].map(start);
    println!("daemon {}", getpid().as_raw_nonzero());
    let [(_, term), _, _] = &signals.handed_on;
    let mut fds =
        [leash.as_fd(), term.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    poll(&mut fds, None).unwrap();
    if !fds[0].revents().is_empty() {
        leash.wait();
        end_all_children().unwrap();
    }
    // On TERM it ends and leaves its workers alive: they are the supervisor's then.
}

/// A daemon that still starts: it listens to nothing yet.
fn starting_program() {
    match supervise(std::env::args_os()).unwrap() {
        Supervised::Stopped => println!("\nended stopped"),
        Supervised::Ended { code, .. } => println!("\nended {code}"),
        Supervised::Daemon(leash) => {
            println!("\ndaemon {}", getpid().as_raw_nonzero());
            leash.wait();
        }
    }
}

fn sweeping_program() {
    set_child_subreaper(Some(getpid())).unwrap();
    let orphan = |job: &str, script: &str, name: &[u8]| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("INBOXD_JOB", job).process_group(0).stdout(Stdio::piped());
        let mut worker = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(worker.stdout.take().unwrap()).read_line(&mut line).unwrap();
        worker.wait().unwrap();
        // Amid its exec a process shows no environment: a sweep leaves it to the next one.
        let read = |what: &str| std::fs::read(format!("/proc/{}/{what}", line.trim())).unwrap();
        while read("comm") != name || read("environ").is_empty() {
            std::thread::yield_now();
        }
        Pid::from_raw(line.trim().parse().unwrap()).unwrap()
    };
    let alive = |pid: Pid| proc::stat(pid).is_some_and(|stat| !stat.is_dead());
    let own_session = "setsid sh -c 'echo $$; exec sleep 600' & exit 0";
    let (runs, is_over) =
        (orphan("runs", own_session, b"sleep\n"), orphan("over", own_session, b"sleep\n"));
    // It makes a group of its own, as each worker has one.
    let like_a_worker = orphan("over", "timeout 600 sleep 600 & echo $!; exit 0", b"timeout\n");
    while proc::stat(like_a_worker).unwrap().group != Some(like_a_worker) {
        std::thread::yield_now();
    }
    // A worker of a slot, ended and not yet waited for: its zombie is the slot's.
    let mut of_slot = Command::new("true").process_group(0).spawn().unwrap();
    let pidfds = [is_over, like_a_worker].map(|pid| pidfd_open(pid, PidfdFlags::empty()).unwrap());
    let (mut sweeper, mut now) = (Sweeper::default(), Instant::now());
    let mut sweep =
        |now| sweeper.sweep(now, &|job, _| job == b"runs").map(|n| (n, sweeper.has_more()));

    assert_eq!(sweep(now).unwrap(), (2, true));
    assert!(proc::await_ends(&pidfds, in_time()));
    assert!(alive(runs) && !alive(is_over) && !alive(like_a_worker));
    // The second sweep takes the zombie of the first away, but for what may be a slot's.
    assert_eq!(sweep(now).unwrap(), (0, true));
    assert_eq!(proc::stat(is_over), None);
    assert!(proc::stat(like_a_worker).is_some());
    assert!(of_slot.wait().unwrap().success());
    // That goes once no slot has taken it for long.
    now += limits::UNCLAIMED_DEAD;
    assert_eq!(sweep(now).unwrap(), (0, false));
    assert_eq!(proc::stat(like_a_worker), None);

    assert_eq!(end_all_children().unwrap(), 1);
    assert_eq!(proc::stat(runs), None);
    assert_eq!(end_all_children().unwrap(), 0);
}

#[expect(clippy::unnecessary_wraps, reason = "what await_ends takes")]
fn in_time() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(30))
}

fn start(role: &str) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([PROGRAM, "--exact", "--ignored", "--nocapture"]).env(PROGRAM_VAR, role);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// A supervisor whose daemon has two workers of three processes each.
struct Tree {
    supervisor: Child,
    out: BufReader<ChildStdout>,
    daemon: Pid,
    /// The daemon and all its workers.
    below: Vec<OwnedFd>,
}

impl Tree {
    fn start() -> Self {
        let (supervisor, mut out) = start("supervised");
        let (mut pids, mut daemon) = (Vec::new(), None);
        while pids.len() < 6 || daemon.is_none() {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "the program ended early");
            let pid = |n: &str| Pid::from_raw(n.trim().parse().unwrap()).unwrap();
            if let Some(number) = line.strip_prefix("pid ") {
                pids.push(pid(number));
            } else if let Some(number) = line.strip_prefix("daemon ") {
                daemon = Some(pid(number));
            }
        }
        let daemon = daemon.unwrap();
        let below = pids.iter().chain([&daemon]);
        let below = below.map(|pid| pidfd_open(*pid, PidfdFlags::empty()).unwrap()).collect();
        Self { supervisor, out, daemon, below }
    }

    /// What the supervisor said at its end, after everything below is gone.
    fn end(mut self) -> Option<String> {
        assert!(proc::await_ends(&self.below, in_time()), "a process outlived the daemon");
        self.supervisor.wait().unwrap();
        let lines = self.out.lines().map_while(Result::ok);
        lines.filter_map(|line| line.strip_prefix("ended ").map(str::to_owned)).last()
    }
}

fn signal(pid: Pid, signal: Signal) {
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Goal: the two are what they should be. Method: name, session, and standard input of a live tree.
#[test]
fn the_daemon_has_its_own_session_and_name() {
    let tree = Tree::start();
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{}/{file}", tree.daemon.as_raw_nonzero())).unwrap()
    };
    let stat = proc::stat(tree.daemon).unwrap();
    assert_eq!(stat.parent, Some(Pid::from_child(&tree.supervisor)));
    assert_eq!((stat.session, stat.group), (Some(tree.daemon), Some(tree.daemon)));
    let stdin = std::fs::read_link(format!("/proc/{}/fd/0", tree.daemon.as_raw_nonzero())).unwrap();
    assert_eq!(stdin.to_str(), Some("/dev/null"));
    assert!(read("cmdline").contains(PROGRAM), "the daemon got other arguments");
    let forked = std::fs::read_dir(format!("/proc/{}/task", tree.supervisor.id())).unwrap();
    let names: Vec<String> = forked
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        .collect();
    assert!(names.iter().any(|name| name == "inboxd-super\n"), "{names:?}");
    signal(tree.daemon, Signal::KILL);
    tree.end();
}

/// Goal: a daemon that is killed leaves nothing, and its end is told. Method: kill -9.
#[test]
fn no_worker_outlives_a_killed_daemon() {
    let tree = Tree::start();
    signal(tree.daemon, Signal::KILL);
    assert_eq!(tree.end().as_deref(), Some("137"));
}

/// Goal: a supervisor that is killed takes the daemon and all workers along. Method: kill -9.
#[test]
fn no_worker_outlives_a_killed_supervisor() {
    let tree = Tree::start();
    signal(Pid::from_child(&tree.supervisor), Signal::KILL);
    assert_eq!(tree.end(), None);
}

/// Goal: TERM to the supervisor reaches the daemon, whose status is told, and what it leaves is
/// ended. Method: the daemon ends with 0 on TERM and does not touch its workers.
#[test]
fn term_is_forwarded_and_what_is_left_is_ended() {
    let tree = Tree::start();
    signal(Pid::from_child(&tree.supervisor), Signal::TERM);
    assert_eq!(tree.end().as_deref(), Some("0"));
}

/// Goal: a sweep ends what escaped from a job that is over, and nothing else, and leaves no zombie for good.
/// Method: see the program.
#[test]
fn a_sweep_ends_only_what_escaped() {
    let (mut child, out) = start("sweeping");
    let said: Vec<String> = out.lines().map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
}

/// Goal: who stops what has just been started hears of no failure, as systemd would show one. Method: TERM
/// and INT to the supervisor of a daemon that listens to nothing yet; TERM to the daemon alone is a death.
#[test]
fn a_stop_before_the_daemon_listens_is_no_failure() {
    let end = |ended_by: Signal, is_daemon: bool| {
        let (mut supervisor, out) = start("starting");
        let mut lines = out.lines().map_while(Result::ok);
        let daemon = lines.find_map(|line| line.strip_prefix("daemon ")?.parse().ok());
        let pid = if is_daemon { daemon } else { i32::try_from(supervisor.id()).ok() };
        signal(Pid::from_raw(pid.unwrap()).unwrap(), ended_by);
        supervisor.wait().unwrap();
        lines.filter_map(|line| line.strip_prefix("ended ").map(str::to_owned)).last()
    };
    assert_eq!(end(Signal::TERM, false).as_deref(), Some("stopped"));
    assert_eq!(end(Signal::INT, false).as_deref(), Some("stopped"));
    assert_eq!(end(Signal::TERM, true).as_deref(), Some("143"));
}
