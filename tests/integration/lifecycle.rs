//! Kill, crash, restart, retry, drain: what is recorded stays, and nothing is recorded twice.
//!
//! Must not know: the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::process::Command;

use rustix::process::Signal;

use crate::checks::{each_once, placed_once};
use crate::harness::{Running, Spool, alive, send};

const COUNT: &str = r#"
workers = 2
[routes.count]
glob = "**/*.json"
command = ["$PYTHON", "count.py", "{path}"]
stdout = "json"
trace_columns = false
retries = { fail = 0, crash = 0 }
"#;

/// One function over one file; the last line of an exception is its reason, as Python prints it.
const COUNT_PY: &str = r#"
import json, os, sys
def count(path):
    with open("runs.txt", "a") as log:
        log.write(os.path.basename(path) + "\n")
    with open(path) as f:
        produce = json.load(f)["produce"]
    return {kind: sum(map(int, items.values())) for kind, items in produce.items()}
try:
    print(json.dumps(count(sys.argv[1])))
except Exception as e:
    sys.exit(f"{type(e).__name__}: {e}")
"#;

const SAMPLES: [&str; 6] = [
    include_str!("../../inbox/samples/file_0.json"),
    include_str!("../../inbox/samples/file_1.json"),
    include_str!("../../inbox/samples/file_2.json"),
    include_str!("../../inbox/samples/file_3.json"),
    include_str!("../../inbox/samples/file_4.json"),
    include_str!("../../inbox/samples/file_5.json"),
];

const SAMPLE_ROWS: [&str; 6] =
    ["21,1539,79", "3939,58,14", "5666,15,15", "60,58,14", "60,58,14", "6456,3743,14"];

fn counting(settings: &str) -> Spool {
    let spool = Spool::new(settings);
    spool.write("count.py", COUNT_PY);
    spool
}

fn drop_samples(spool: &Spool) {
    for (i, sample) in SAMPLES.iter().enumerate() {
        spool.drop_file(format!("file_{i}.json"), sample);
    }
}

/// Goal: the process that a slot keeps ready for its next job is no worker: who kills it harms nothing, it holds
/// nothing for long, and none outlives the daemon. Method: one job each after it is killed, let go, and at the end.
#[test]
fn a_process_that_stands_by_is_no_job() {
    let spool = Spool::new(
        "workers = 1\n[routes.r]\ncommand = [\"true\"]\nretries = { fail = 0, crash = 0 }\n",
    );
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    let standing = || crate::harness::children_of(pid);
    let done = |name: &str| {
        spool.drop_file(name, "x");
        spool.wait_until("it is done", || spool.path("done").join(name).exists());
        spool.wait_until("one stands by", || !standing().is_empty());
    };
    assert!(standing().is_empty());
    done("a");
    for process in standing() {
        send(process, Signal::TERM);
        spool.wait_until("it is killed", || !alive(process));
    }
    done("b");
    spool.wait_until("it is let go", || standing().is_empty());
    done("c");
    let last = standing();
    daemon.end_well();
    assert!(last.into_iter().all(|process| !alive(process)));
    assert_eq!(spool.errors(), Vec::<String>::new());
}

/// Goal: processes that stand by leave others to the workers, where few are allowed. Method: many slots, each with
/// a job at the same time.
#[test]
fn few_of_many_slots_have_a_process_stand_by() {
    let spool = Spool::new(
        "workers = 40\n[routes.r]\n\
         command = [\"sh\", \"-c\", \"until [ -e go ]; do sleep 0.05; done\"]\n",
    );
    let daemon = spool.daemon();
    for n in 0..40 {
        spool.drop_file(format!("f{n}"), "");
    }
    let pid = daemon.daemon_pid();
    spool.wait_until("all run", || crate::harness::children_of(pid).len() == 40);
    spool.write("go", "");
    spool.wait_until("all are done", || spool.names("done").len() == 40);
    // A slot has one before it takes the next job.
    spool.wait_until("some stand by", || !crate::harness::children_of(pid).is_empty());
    assert!(crate::harness::children_of(pid).len() <= 16, "{}", spool.report());
    daemon.end_well();
}

/// Goal: the sample gives exactly its six rows, with LF ends. Method: run it, compare bytes after sorting.
#[test]
fn the_sample_gives_its_rows() {
    let spool = counting(COUNT);
    drop_samples(&spool);
    spool.run(&["batch"]).ok();
    let bytes = std::fs::read(spool.path("results/count.csv")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    assert_eq!(header, "fruits,vegetables,meat");
    assert!(rows.ends_with('\n') && !rows.contains('\r'), "{rows:?}");
    let mut rows: Vec<&str> = rows.lines().collect();
    rows.sort_unstable();
    assert_eq!(rows, SAMPLE_ROWS);
    assert_eq!(spool.names("done").len(), 6);
    assert_eq!(spool.errors(), Vec::<String>::new());
}

/// Goal: trace columns name the input of every row. Method: the sample with the default settings.
#[test]
fn trace_columns_name_the_input() {
    let spool = counting(&COUNT.replace("trace_columns = false\n", ""));
    drop_samples(&spool);
    spool.run(&["batch"]).ok();
    let rows = spool.csv("count");
    assert_eq!(rows.header(), "fruits,vegetables,meat,_file,_job");
    let by_file: BTreeMap<String, String> =
        rows.column("_file").into_iter().zip(rows.column("fruits")).collect();
    let expected = ["60", "21", "3939", "60", "6456", "5666"];
    for (i, fruits) in expected.iter().enumerate() {
        assert_eq!(by_file.get(&format!("file_{i}.json")).map(String::as_str), Some(*fruits));
    }
    assert!(rows.column("_job").iter().all(|job| crate::checks::is_job_id(job)), "{rows:?}");
}

const SLOW: &str = r#"
workers = 2
[routes.slow]
glob = "*.txt"
command = ["sh", "slow.sh"]
stdout = "json"
"#;

/// Sixty files of 0.15 s; a kill once twenty are done; then the rest.
fn killed_and_resumed(kill: impl Fn(&mut Running)) {
    let spool = Spool::new(SLOW);
    spool.write("slow.sh", "sleep 0.15; echo '{\"n\":1}'\n");
    let mut dropped = BTreeMap::new();
    for i in 0..60 {
        let (name, content) = (format!("{i:02}.txt"), format!("content {i}\n"));
        spool.drop_file(&name, &content);
        dropped.insert(name.into_bytes(), content.into_bytes());
    }
    let mut batch = spool.start(&["batch"]);
    spool.wait_until("twenty are done", || spool.names("done").len() >= 20);
    kill(&mut batch);
    let done = spool.names("done").len();
    assert!((20..60).contains(&done), "the kill came too late to test anything: {done} done");

    spool.run(&["batch"]).ok();
    let rows = spool.csv("slow");
    let expected: BTreeSet<Vec<u8>> = dropped.keys().cloned().collect();
    assert_eq!(each_once(&rows.cells("_file"), &expected), Ok(()), "{}", spool.report());
    assert_eq!(placed_once(&dropped, &[spool.files("done")]), Ok(()), "{}", spool.report());
    assert_eq!(spool.processes(), Vec::<String>::new());
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("slow"), rows, "a run with nothing to do added rows");
}

/// Goal: a kill of everything loses and doubles nothing. Method: SIGKILL to supervisor, daemon and workers.
#[test]
fn killed_with_its_workers_and_resumed() {
    killed_and_resumed(Running::kill_all);
}

/// Goal: the same where only the daemon dies; its supervisor ends the workers. Method: SIGKILL to the daemon.
#[test]
fn killed_daemon_and_resumed() {
    killed_and_resumed(|batch| {
        send(batch.daemon_pid(), Signal::KILL);
        assert!(!batch.wait().success());
    });
}

/// Goal: the same where only the supervisor dies; the daemon sees it and ends. Method: SIGKILL to it.
#[test]
fn killed_supervisor_and_resumed() {
    killed_and_resumed(|batch| {
        let daemon = batch.daemon_pid();
        batch.signal(Signal::KILL);
        batch.wait();
        crate::harness::wait_until(
            "the daemon ends with its supervisor",
            crate::harness::PATIENCE,
            || batch.log(),
            || !alive(daemon),
        );
    });
}

const HANG: &str = r#"
workers = 2
[routes.hang]
glob = "*.txt"
command = ["sh", "hang.sh"]
stdout = "json"
"#;

/// Three kinds of process: the worker, its child, and one in a session of its own.
const HANG_SH: &str = r#"
[ -e go ] && { echo '{"n":1}'; exit 0; }
sleep 600 &
setsid sleep 601 &
echo up >> up.txt
wait
"#;

fn hanging() -> (Spool, Running) {
    let spool = Spool::new(HANG);
    spool.write("hang.sh", HANG_SH);
    spool.drop_file("1.txt", "1");
    spool.drop_file("2.txt", "2");
    let daemon = spool.daemon();
    spool.wait_until("two workers hang", || {
        std::fs::read_to_string(spool.path("up.txt")).unwrap_or_default().lines().count() == 2
    });
    spool.wait_until("their children too", || {
        spool.processes().iter().filter(|p| p.contains("sleep 60")).count() == 4
    });
    (spool, daemon)
}

fn finishes_after(spool: &Spool) {
    spool.write("go", "");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["1.txt", "2.txt"], "{}", spool.report());
    assert_eq!(spool.csv("hang").rows.len(), 2);
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: no worker, nor what it started, outlives a killed daemon. Method: children in and out of the group.
#[test]
fn no_worker_outlives_a_killed_daemon() {
    let (spool, mut daemon) = hanging();
    send(daemon.daemon_pid(), Signal::KILL);
    assert!(!daemon.wait().success());
    spool.wait_until("all workers are gone", || spool.processes().is_empty());
    finishes_after(&spool);
}

/// Goal: the same for a killed supervisor, and the log says why the daemon ends. Method: as above.
#[test]
fn no_worker_outlives_a_killed_supervisor() {
    let (spool, mut daemon) = hanging();
    daemon.signal(Signal::KILL);
    daemon.wait();
    spool.wait_until("daemon and workers are gone", || spool.processes().is_empty());
    daemon.wait_for_log("supervisor was killed, everything ends");
    finishes_after(&spool);
}

/// Goal: what both kills left behind is ended before its file is run again.
/// Method: SIGKILL to supervisor and daemon at once; the next start leaves none of the old processes.
#[test]
fn old_workers_are_gone_before_a_restart_claims() {
    let (spool, daemon) = hanging();
    let (supervisor, child) = (daemon.supervisor_pid(), daemon.daemon_pid());
    send(supervisor, Signal::STOP);
    send(child, Signal::STOP);
    send(child, Signal::KILL);
    send(supervisor, Signal::KILL);
    drop(daemon);
    finishes_after(&spool);
}

/// Goal: TERM lets running jobs end, runs no further one, and ends with 0.
/// Method: two workers that end when told; a third file waits.
#[test]
fn a_drain_finishes_what_runs() {
    let spool = Spool::new(&SLOW.replace("slow.sh\"]", "slow.sh\", \"{name}\"]"));
    spool.write(
        "slow.sh",
        "echo \"$1\" >> up.txt; until [ -e go ]; do sleep 0.02; done; echo '{\"n\":1}'\n",
    );
    for name in ["1.txt", "2.txt", "3.txt"] {
        spool.drop_file(name, name);
    }
    let mut daemon = spool.start_on_terminal(&["run"]);
    let begun = || std::fs::read_to_string(spool.path("up.txt")).unwrap_or_default();
    spool.wait_until("two run", || begun().lines().count() == 2);
    daemon.signal(Signal::TERM);
    spool.wait_until("the drain is announced", || daemon.log().contains("waiting for 2 workers"));
    spool.write("go", "");
    assert_eq!(daemon.wait().code(), Some(0), "{}", spool.report());
    assert_eq!(begun().lines().count(), 2, "a drain began a further job");
    assert_eq!(spool.names("done").len(), 2);
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done").len(), 3);
    assert_eq!(spool.csv("slow").rows.len(), 3);
}

/// Goal: a crashing file costs its own attempts and nobody else's.
/// Method: ten files, one of which ends its interpreter; one crash is forgiven.
#[test]
fn a_crasher_hurts_only_itself() {
    let spool = counting(&COUNT.replace("fail = 0, crash = 0", "fail = 0, crash = 1"));
    spool.write(
        "count.py",
        &COUNT_PY.replace(
            "    with open(path)",
            "    if 'bad' in path: os._exit(139)\n    with open(path)",
        ),
    );
    for i in 0..9 {
        spool.drop_file(format!("{i}.json"), format!("{{\"produce\":{{\"n\":{{\"a\":{i}}}}}}}"));
    }
    spool.drop_file("bad.json", "{}");
    spool.run(&["batch"]).code(3);
    let expected: BTreeSet<Vec<u8>> = (0..9).map(|i| i.to_string().into_bytes()).collect();
    assert_eq!(each_once(&spool.csv("count").cells("n"), &expected), Ok(()), "{}", spool.report());
    assert_eq!(spool.names("done").len(), 9);
    assert_eq!(spool.errors(), ["bad.json"]);
    assert_eq!(spool.reason("bad.json"), "exit 139");
    assert_eq!(spool.why("bad.json")["attempts"], 2);
    let runs = std::fs::read_to_string(spool.path("runs.txt")).unwrap();
    assert_eq!(runs.lines().filter(|name| *name == "bad.json").count(), 2);
    assert_eq!(runs.lines().count(), 11);
}

/// Goal: a worker killed by someone else is run once more, and its row stands once.
/// Method: SIGKILL to the worker of the first attempt; the second one ends by itself.
#[test]
fn a_killed_worker_is_tried_again() {
    let spool = Spool::new(SLOW);
    spool.write(
        "slow.sh",
        "echo up >> up.txt; [ $INBOXD_ATTEMPT = 1 ] && exec sleep 600; echo '{\"n\":1}'\n",
    );
    spool.drop_file("1.txt", "1");
    let daemon = spool.daemon();
    spool.wait_until("the worker hangs", || {
        spool.processes().iter().any(|p| p.contains("sleep 600"))
    });
    let workers = daemon.workers();
    assert_eq!(workers.len(), 1, "{workers:?}\n{}", spool.report());
    send(workers[0], Signal::KILL);
    spool.wait_until("the second attempt is done", || spool.names("done") == ["1.txt"]);
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(spool.csv("slow").column("_file"), ["1.txt"]);
    let begun = std::fs::read_to_string(spool.path("up.txt")).unwrap();
    assert_eq!(begun.lines().count(), 2);
}

/// Goal: the daemon lives on after a worker's crash. Method: a crash, then a good file, the same process.
#[test]
fn the_daemon_outlives_a_crasher() {
    let spool = counting(COUNT);
    spool.write(
        "count.py",
        &COUNT_PY.replace(
            "    with open(path)",
            "    if 'bad' in path: os._exit(139)\n    with open(path)",
        ),
    );
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    spool.drop_file("bad.json", "{}");
    spool.wait_until("the crasher is in error/", || spool.errors() == ["bad.json"]);
    spool.drop_file("good.json", SAMPLES[0]);
    spool.wait_until("the good one is in done/", || spool.names("done") == ["good.json"]);
    assert_eq!(daemon.daemon_pid(), pid);
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(spool.csv("count").sorted(), ["60,58,14"]);
}

/// Goal: a failed file keeps its reason and its bytes, is not run by a restart, and is done once repaired.
/// Method: a truncated file; restart; repair in place; retry.
#[test]
fn a_failure_waits_for_its_repair() {
    let spool = counting(COUNT);
    spool.drop_file("truncated.json", "{\"produce\": \n");
    spool.run(&["batch"]).code(3);
    let reason = spool.reason("truncated.json");
    let expected = "JSONDecodeError: Expecting value: line 2 column 1 (char 13)";
    assert!(reason.ends_with(expected), "{reason}");
    assert_eq!(spool.files("error")[&b"truncated.json"[..]], b"{\"produce\": \n");
    let why = spool.why("truncated.json");
    assert_eq!((&why["rel"], &why["route"]), (&"truncated.json".into(), &"count".into()), "{why}");
    assert_eq!((&why["attempts"], &why["exit"]), (&1.into(), &1.into()), "{why}");

    let runs = || std::fs::read_to_string(spool.path("runs.txt")).unwrap().lines().count();
    spool.run(&["batch"]).ok();
    assert_eq!(runs(), 1, "a restart ran a failed file");

    std::fs::write(spool.path("error/truncated.json"), SAMPLES[0]).unwrap();
    spool.run(&["retry", "truncated.json"]).ok();
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["truncated.json"], "{}", spool.report());
    assert_eq!(spool.errors(), Vec::<String>::new());
    assert_eq!(spool.csv("count").sorted(), ["60,58,14"]);
    assert_eq!(runs(), 2);
}

/// Goal: a limit that is too low is named, nothing fails for it, and what could not begin was no attempt.
/// Method: a daemon with fewer descriptors than its workers need; then one with enough.
#[test]
fn too_few_descriptors_are_waited_for() {
    let spool = Spool::new(
        "workers = 12\n[routes.main]\nstdout = \"none\"\n\
         command = [\"sh\", \"-c\", \"until [ -e go ]; do sleep 0.02; done\"]\n",
    );
    for n in 0..12 {
        spool.drop_file(format!("{n}"), "x");
    }
    let daemon = spool.start_under(&["prlimit", "--nofile=31:31"], &["run"]);
    daemon.wait_for_log("LimitNOFILE=");
    spool.write("go", "");
    assert_eq!(daemon.end().code(), Some(0), "{}", spool.report());
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done").len(), 12, "{}", spool.report());
    let jobs = spool.run(&["jobs", "--json"]).ok().stdout();
    assert!(!jobs.contains("lost: "), "{jobs}");
    assert_eq!(jobs.matches("\"attempts\":1").count(), 12, "{jobs}");
}

/// Goal: a log that cannot be written, since its disk is full or who reads it has ended, stops no job.
/// Method: a stderr on which every write fails.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let spool = Spool::new("[routes.main]\nstdout = \"none\"\ncommand = [\"true\"]\n");
    let full = "exec \"$0\" \"$@\" >/dev/full 2>&1";
    let daemon = spool.start_under(&["sh", "-c", full], &["run"]);
    spool.drop_file("x", "x");
    spool.wait_until("it is done", || spool.has("done/x"));
    daemon.end_well();
}

/// Goal: a level of the log that is none is refused; taken for the name of a part of the program, as it once was, it
/// made the daemon silent. Method: such a word, and no word.
#[test]
fn an_unknown_log_level_is_refused() {
    let spool = Spool::new("[routes.main]\nstdout = \"none\"\ncommand = [\"true\"]\n");
    let refused = spool.run_under(&["env", "INBOXD_LOG=warning"], &["run"], b"").code(2);
    refused
        .says("error: INBOXD_LOG is \"warning\": it may be off, error, warn, info, debug or trace");
    let daemon = spool.start_under(&["env", "INBOXD_LOG="], &["run"]);
    daemon.wait_for_log("INFO ready");
    daemon.end_well();
}

/// A daemon that logs a line a job into a pipe with little room, once it did more jobs than the pipe, the thread
/// that prints and its queue can hold lines of; and the pipe's other end.
fn with_unread_log(spool: &Spool) -> (Running, File) {
    let pipe = spool.home().join("log.pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = File::options().read(true).write(true).open(&pipe).unwrap();
    rustix::pipe::fcntl_setpipe_size(&reader, 4096).unwrap();
    let script = "INBOXD_LOG=debug exec \"$0\" \"$@\" >log.pipe 2>&1";
    let daemon = spool.start_under(&["sh", "-c", script], &["run"]);
    for number in 0..1_200 {
        spool.drop_file(format!("{number}-{}", "x".repeat(200)), "x");
    }
    spool.wait_until("all are done", || spool.names("done").len() == 1_200);
    (daemon, reader)
}

/// Goal: who reads the log and stops reading holds up no job, no `status` and no end. Method: a pipe that nobody
/// reads.
#[test]
fn a_log_reader_that_stops_reading_holds_up_nobody() {
    let spool = Spool::new("[routes.main]\nstdout = \"none\"\ncommand = [\"true\"]\n");
    let (daemon, _unread) = with_unread_log(&spool);
    spool.run(&["status"]).ok().says("RUNNING");
    daemon.end_well();
}

/// Goal: a log reader that reads on is told that it missed something. Method: the same pipe, read at last, and
/// more files, since what was missed is told before the next that is told.
#[test]
fn a_log_reader_that_reads_on_is_told_that_it_missed_events() {
    let spool = Spool::new("[routes.main]\nstdout = \"none\"\ncommand = [\"true\"]\n");
    let (daemon, mut reader) = with_unread_log(&spool);
    let (send, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(got) = reader.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..got]).into_owned();
            if send.send(text).is_err() {
                break;
            }
        }
    });
    let (mut log, mut number) = (String::new(), 1_200);
    spool.wait_until("what was missed is told", || {
        number += 1;
        spool.drop_file(number.to_string(), "x");
        log.extend(said.try_iter());
        log.contains("events were not logged missed=")
    });
    daemon.end_well();
}
