//! Workers that get out of hand: in another group, held by a debugger, stopped before they begin.
//!
//! Must not know: how they are ended.
//!
//! Invariant: none of them may hold its slot, or the daemon's end, for longer than its time.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Running, Spool, alive, all_pids, children_of, python, send};

/// Goes over to the group of its parent.
const LEAVES_PY: &str = "\
import os, signal, sys, time
name = sys.argv[1]
def heard(*_):
    open(name + '.heard', 'w').close()
    if name != 'deaf':
        sys.exit(1)
signal.signal(signal.SIGTERM, heard)
os.setpgid(0, os.getppid())
open(name, 'w').close()
while True:
    time.sleep(600)
";

/// Goal: a worker that leaves its group has its time, too, is told so, and dies. Method: two that are timed out,
/// one of which ignores TERM; a warm one that is never ready; and one that runs when all ends.
#[test]
fn a_worker_that_leaves_its_group_is_ended() {
    let spool = Spool::new(
        "workers = 4\ndrain_timeout = \"20s\"\n\
         [routes.polite]\nglob = \"polite\"\ncommand = [\"$PYTHON\", \"leaves.py\", \"polite\"]\n\
         timeout = \"1s\"\ngrace = \"19s\"\n\
         [routes.deaf]\nglob = \"deaf\"\ncommand = [\"$PYTHON\", \"leaves.py\", \"deaf\"]\n\
         timeout = \"1s\"\ngrace = \"10ms\"\n\
         [routes.warm]\nglob = \"warm\"\nwarm = [\"$PYTHON\", \"leaves.py\", \"warm\"]\n\
         start_timeout = \"1s\"\ngrace = \"10ms\"\n\
         [routes.last]\ncommand = [\"$PYTHON\", \"leaves.py\", \"last\"]\ngrace = \"10ms\"\n",
    );
    spool.write("leaves.py", LEAVES_PY);
    let daemon = spool.daemon();
    for name in ["polite", "deaf", "warm"] {
        spool.drop_file(name, "");
    }
    spool.wait_until("both are timed out", || spool.errors() == ["deaf", "polite"]);
    for name in ["polite", "deaf"] {
        assert_eq!(spool.reason(name), "timed out after 1s");
        assert!(spool.has(&format!("{name}.heard")), "{}", spool.report());
    }
    daemon.wait_for_log("not ready within 1s");
    spool.drop_file("last", "");
    spool.wait_until("the last one is in its group", || spool.has("last"));
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("draining");
    daemon.end_well();
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: the process that a slot keeps ready may be stopped by somebody: its job has its time all the same, and so
/// has the end. Method: SIGSTOP; a job that is timed out, and one that runs when all ends.
#[test]
fn one_that_is_stopped_before_it_begins_is_ended() {
    let spool = Spool::new(
        "workers = 1\ndrain_timeout = \"100ms\"\n\
         [routes.short]\nglob = \"b\"\ncommand = [\"true\"]\ntimeout = \"1s\"\ngrace = \"10ms\"\n\
         [routes.long]\ncommand = [\"true\"]\ngrace = \"10ms\"\n",
    );
    let daemon = spool.daemon();
    let stop_next = |name: &str| {
        spool.drop_file(name, "");
        spool.wait_until("it is done", || spool.path("done").join(name).exists());
        let standing = || children_of(daemon.daemon_pid());
        spool.wait_until("one stands by", || standing().len() == 1);
        for process in standing() {
            send(process, Signal::STOP);
        }
    };
    stop_next("a");
    spool.drop_file("b", "");
    spool.wait_until("it is timed out", || spool.errors() == ["b"]);
    assert_eq!(spool.reason("b"), "timed out after 1s");
    stop_next("c");
    spool.drop_file("d", "");
    spool.wait_until("it is claimed", || spool.names("processing").len() == 1);
    daemon.end_well();
    assert_eq!(spool.processes(), Vec::<String>::new());
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a", "c", "d"]);
}

/// Takes hold of its parent as a debugger does, with these options, and never lets go. In a session of its own.
const HOLDS_PY: &str = "\
import ctypes, os, sys, time
os.setsid()
PTRACE_SEIZE = 0x4206
libc = ctypes.CDLL(None, use_errno=True)
at = [ctypes.c_void_p(0), ctypes.c_void_p(int(sys.argv[2]))]
held = libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), *at) == 0
open('held.tmp', 'w').write('held' if held else 'refused')
os.rename('held.tmp', 'held')
time.sleep(600)
";

/// A function that gets held at its exit.
const FUNCTION_PY: &str = "\
import os, subprocess, sys, time
def f(path):
    subprocess.Popen([sys.executable, 'holds.py', str(os.getpid()), '64'])
    time.sleep(600)
";

/// The debugger is not told of the end.
const NO_OPTIONS: &str = "0";
/// `PTRACE_O_TRACEEXIT`: it is, and holds the process before it has ended, also one that was killed.
const TRACE_EXIT: &str = "64";

/// A spool whose first job gets hold of its own worker; `false`: that is not allowed here.
fn held(options: &str, settings: &str) -> (Spool, Running, bool) {
    let spool = Spool::new(&format!(
        "workers = 2\n[routes.held]\nglob = \"held\"\nretries = 0\n{settings}\n\
         command = [\"sh\", \"-c\", \"$PYTHON holds.py $$ {options} & \
         until [ -e held ]; do :; done\"]\n\
         [routes.function]\nglob = \"function\"\nretries = 0\n{settings}\npython = \"f.py:f\"\n\
         [routes.next]\ncommand = [\"true\"]\n",
    ));
    spool.write("holds.py", HOLDS_PY);
    spool.write("f.py", FUNCTION_PY);
    let daemon = spool.daemon();
    spool.drop_file("held", "");
    let said = || fs::read_to_string(spool.path("held")).unwrap_or_default();
    spool.wait_until("it is held", || !said().is_empty());
    let is_held = said() == "held";
    if !is_held {
        eprintln!("skipped: no process may debug its parent here");
    }
    (spool, daemon, is_held)
}

/// The slot is free again.
fn is_free(spool: &Spool) {
    spool.drop_file("next", "");
    spool.wait_until("the slot is free", || spool.names("done") == ["next"]);
}

/// What holds it.
fn holders(spool: &Spool) -> Vec<String> {
    spool.processes().into_iter().filter(|it| it.contains("holds.py")).collect()
}

/// Goal: a worker that has ended, and that a debugger does not let go of, holds no slot: how it ended is unknown,
/// which is said; the debugger goes as all that escapes. Method: one slot, and a second job.
#[test]
fn one_that_a_debugger_holds_frees_its_slot() {
    let (spool, daemon, is_held) = held(NO_OPTIONS, "");
    if !is_held {
        return;
    }
    spool.wait_until("it has failed", || spool.errors() == ["held"]);
    assert_eq!(spool.reason("held"), "it has ended, and a debugger (strace, gdb) holds it");
    is_free(&spool);
    spool.wait_until("what held it is gone", || holders(&spool).is_empty());
    daemon.end_well();
}

/// Goal: the same of one that was killed and cannot end. Method: it is held at its exit, as is a function; a short
/// time-out.
#[test]
fn one_that_cannot_end_frees_its_slot() {
    let (spool, daemon, is_held) = held(TRACE_EXIT, "timeout = \"1s\"\ngrace = \"10ms\"");
    if !is_held {
        return;
    }
    spool.drop_file("function", "");
    spool.wait_until("both have failed", || spool.errors() == ["function", "held"]);
    for name in ["function", "held"] {
        assert_eq!(spool.reason(name), "timed out after 1s");
    }
    is_free(&spool);
    for holder in holders(&spool) {
        let (pid, _) = holder.split_once(' ').unwrap();
        send(pid.parse().unwrap(), Signal::KILL);
    }
    daemon.end_well();
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a daemon that ends does not wait for a debugger that is no child of it. Method: one that holds a worker
/// which the end kills; it is started here.
#[test]
fn the_end_waits_for_no_debugger() {
    let spool = Spool::new(
        "workers = 1\ndrain_timeout = \"100ms\"\n[routes.r]\ngrace = \"10ms\"\n\
         command = [\"sh\", \"-c\", \"echo $$ > pid; exec sleep 600\"]\n",
    );
    spool.write("holds.py", HOLDS_PY);
    let daemon = spool.daemon();
    spool.drop_file("a", "");
    let pid = || fs::read_to_string(spool.path("pid")).unwrap_or_default();
    spool.wait_until("it runs", || pid().ends_with('\n'));
    let mut python = Command::new(python());
    let python = python.args(["holds.py", pid().trim(), NO_OPTIONS]).current_dir(spool.root());
    let mut holder = python.spawn().unwrap();
    spool.wait_until("it is held", || spool.has("held"));
    daemon.end_well();
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// Goal: a daemon that is a worker of another one takes what stands by for its next job for no job of that one.
/// Method: the variable of a worker in its environment; a job whose child escapes, which a sweep ends.
#[test]
fn a_daemon_may_be_a_worker() {
    let spool = Spool::new("workers = 1\n[routes.r]\ncommand = [\"sh\", \"escape.sh\"]\n");
    spool.write(
        "escape.sh",
        "setsid sh -c 'echo $$ > pid; exec sleep 600' &\nuntil [ -s pid ]; do sleep 0.01; done\n",
    );
    let daemon = spool.start_under(&["env", "INBOXD_JOB=another"], &["run"]);
    daemon.wait_for_log("ready");
    spool.drop_file("a", "");
    spool.wait_until("it is done", || spool.names("done") == ["a"]);
    let escaped: u32 = fs::read_to_string(spool.path("pid")).unwrap().trim().parse().unwrap();
    let others = || {
        let children = children_of(daemon.daemon_pid());
        children.into_iter().filter(|pid| *pid != escaped).collect::<Vec<_>>()
    };
    spool.wait_until("one stands by", || others().len() == 1);
    let standing = others();
    spool.wait_until("a sweep ends what escaped", || !alive(escaped));
    assert_eq!(others(), standing);
    daemon.end_well();
}

/// Goal: as the first process of a container the supervisor gets whatever loses its parent there, as what a health
/// check leaves, and no zombie of it stays. Method: a pid namespace; a process in it that ends after its parent.
#[test]
fn the_first_process_of_a_container_takes_the_dead_away() {
    let spool = Spool::new("[routes.r]\ncommand = [\"true\"]\n");
    let own_pids = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let can = Command::new(own_pids[0]).args(&own_pids[1..]).arg("true").output();
    if !can.is_ok_and(|it| it.status.success()) {
        eprintln!("skipped: no pid namespace can be made here");
        return;
    }
    let daemon = spool.start_under(&own_pids, &["run"]);
    daemon.wait_for_log("ready");
    // What unshare started is the supervisor.
    let first = daemon.daemon_pid();
    let left = format!("(sleep 0.1; : > {}) & exit 0", spool.path("left").display());
    let (first_pid, shell) = (first.to_string(), ["sh", "-c", &left]);
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--pid", "--mount", "--target", &first_pid]).args(shell);
    assert!(nsenter.status().unwrap().success());
    spool.wait_until("it has ended", || spool.has("left"));
    let zombies = || {
        let stat = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        all_pids().iter().filter(|pid| stat(pid).contains(&format!(") Z {first} "))).count()
    };
    spool.wait_until("it is taken away", || children_of(first).len() == 1 && zombies() == 0);
    send(first, Signal::TERM);
    let mut daemon = daemon;
    assert_eq!(daemon.wait().code(), Some(0));
}

/// Goal: where `/proc` has other numbers for us nothing starts: those of workers would be those of other processes.
/// Method: a pid namespace that sees the `/proc` of the one around it.
#[test]
fn with_the_numbers_of_others_nothing_starts() {
    let spool = Spool::new("[routes.r]\ncommand = [\"true\"]\n");
    let no_proc = ["unshare", "--pid", "--fork", "--kill-child"];
    let can = Command::new(no_proc[0]).args(&no_proc[1..]).arg("true").output();
    if !can.is_ok_and(|it| it.status.success()) {
        eprintln!("skipped: no pid namespace can be made here");
        return;
    }
    spool.drop_file("a", "");
    let refused = spool.run_under(&no_proc, &["batch"], b"").code(1);
    refused.says("/proc belongs to another pid namespace");
    assert_eq!(spool.names("incoming"), ["a"]);
}
