//! Warm workers that take several jobs at once: one process, answers in any order, blame where it belongs.
//!
//! Must not know: how jobs are handed over, beyond the page of the protocol.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Spool, python};

/// A worker that takes `AT_ONCE` jobs, each in a thread of its own, of which `talk` is the body. It notes
/// its start, and each job with its process and how many are in flight.
fn crew(workers: usize, at_once: usize, talk: &str, settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = {workers}\n[routes.r]\nwarm = [\"{}\", \"w.py\"]\ngrace = \"200ms\"\nretries = 0\n{settings}",
        python()
    ));
    let talk = talk.replace('\n', "\n    ");
    spool.write(
        "w.py",
        &format!(
            r#"import json, os, socket, sys, threading, time
open("loads.txt", "a").write(f"{{os.getpid()}}\n")
wire = socket.socket(fileno=int(os.environ["INBOXD_FD"]))
# Two, since a write to a text file in Python drops what was read ahead.
heard, told = wire.makefile("r", encoding="utf-8"), wire.makefile("w", encoding="utf-8")
lock = threading.Lock()
here = set()
cancelled = set()
def raw(text):
    with lock:
        told.write(text)
        told.flush()
def say(t, **fields): raw(json.dumps({{"t": t, **fields}}) + "\n")
def note(file, *words):
    with open(file, "a") as f: f.write(" ".join(map(str, words)) + "\n")
def until(state, patience=30):
    end = time.time() + patience
    while not state():
        if time.time() > end: os._exit(9)
        time.sleep(0.005)
def done(m, **row):
    say("rows", id=m["id"], seq=0, rows=[dict(row, name=m["name"], attempt=m["attempt"])])
    say("result", id=m["id"], status="ok", rows=1, chunks=1)
def job(m):
    name = m["name"]
    {talk}
def run(m):
    note("runs.txt", m["name"], os.getpid(), len(here) + 1)
    here.add(m["name"])
    try: job(m)
    finally: here.discard(m["name"])
features = os.environ.get("FEATURES", "").split()
for line in iter(heard.readline, ""):
    m = json.loads(line)
    if m["t"] == "hello": say("ready", v=1, concurrency={at_once}, features=features)
    elif m["t"] == "ping": say("pong", n=m["n"])
    elif m["t"] == "cancel": cancelled.add(m["id"])
    elif m["t"] == "drain": break
    elif m["t"] == "job": threading.Thread(target=run, args=(m,), daemon=True).start()
"#
        ),
    );
    spool
}

fn loads(spool: &Spool) -> usize {
    fs::read_to_string(spool.path("loads.txt")).unwrap_or_default().lines().count()
}

/// Each run: name, process, jobs in flight when it began.
fn runs(spool: &Spool) -> Vec<(String, String, usize)> {
    let text = fs::read_to_string(spool.path("runs.txt")).unwrap_or_default();
    let words = text.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    words.map(|w| (w[0].clone(), w[1].clone(), w[2].parse().unwrap())).collect()
}

fn drop_all(spool: &Spool, names: &[&str]) {
    for name in names {
        spool.drop_file(name, "x");
    }
}

/// Goal: so many jobs as it says share one process, each with its own rows and log, answered in any order.
/// Method: four jobs that wait for each other and answer in reverse, with rows between each other's.
#[test]
fn jobs_share_a_process() {
    let spool = crew(
        4,
        4,
        "until(lambda: len(open('runs.txt').readlines()) == 4)\nsay('log', id=m['id'], level='info', msg='for ' + name)\n\
         say('rows', id=m['id'], seq=0, rows=[{'name': name, 'n': 0}])\n\
         until(lambda: not any(other > name for other in here))\n\
         say('rows', id=m['id'], seq=1, rows=[{'name': name, 'n': 1}])\n\
         say('result', id=m['id'], status='ok', rows=2, chunks=2)",
        "",
    );
    drop_all(&spool, &["a", "b", "c", "d"]);
    spool.run(&["batch"]).ok();
    assert_eq!((loads(&spool), spool.names("done").len()), (1, 4), "{}", spool.report());
    let csv = spool.csv("r");
    let rows: Vec<(String, String)> =
        csv.column("_file").into_iter().zip(csv.column("name")).collect();
    assert!(rows.len() == 8 && rows.iter().all(|(file, name)| file == name), "{rows:?}");
    let log = String::from_utf8(spool.files("log").into_values().flatten().collect()).unwrap();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (rel, out) = (line["rel"].as_str().unwrap(), line["stdout"].as_str().unwrap());
        assert_eq!(out, format!("info: for {rel}\n"));
    }
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: there are as many processes as the jobs need places, no more, and none has more jobs than it said.
/// Method: six jobs at once for workers that take two; each waits until all six run.
#[test]
fn processes_are_as_many_as_needed() {
    let talk = "until(lambda: os.path.exists('runs.txt') and len(open('runs.txt').readlines()) >= 6)\n\
                done(m)";
    let spool = crew(6, 2, talk, "");
    let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    drop_all(&spool, &names.iter().map(String::as_str).collect::<Vec<_>>());
    spool.run(&["batch"]).ok();
    assert_eq!(loads(&spool), 3, "{}", spool.report());
    assert_eq!(spool.csv("r").rows.len(), 12);
    assert!(runs(&spool).iter().all(|(_, _, flying)| *flying <= 2), "{:?}", runs(&spool));
}

/// What a job of a table does when its neighbours are there.
struct Misdeed {
    what: &'static str,
    /// Why `bad` fails, run alone; empty: it does not.
    reason: &'static str,
    /// Of the others, those that ran a second time, alone.
    suspects: &'static [&'static str],
}

/// Goal: who ends a worker is found, and nobody else pays: each suspect runs again alone in a fresh
/// worker, and is charged only for what it does there. Method: four jobs in flight, one of which ends the
/// worker in each possible way; each row's `attempt` is the first, since nothing was charged.
#[test]
fn suspects_run_alone() {
    let all: &[&str] = &["a", "b", "bad", "c"];
    for Misdeed { what, reason, suspects } in [
        Misdeed { what: "os._exit(139)", reason: "exit 139", suspects: all },
        Misdeed { what: "if len(here) > 1: os._exit(0)", reason: "", suspects: all },
        Misdeed {
            what: "raw('nonsense\\n'); time.sleep(60)",
            reason: "protocol: not a JSON object: nonsense",
            suspects: all,
        },
        Misdeed {
            what: "raw('x' * (2 << 20) + '\\n'); time.sleep(60)",
            reason: "protocol: a line of more than",
            suspects: all,
        },
        Misdeed {
            what: "wire.shutdown(socket.SHUT_WR); time.sleep(60)",
            reason: "the worker closed its connection without a result",
            suspects: all,
        },
        Misdeed {
            what: "say('started', id=m['id']); time.sleep(0.1); os._exit(4)",
            reason: "exit 4",
            suspects: &["bad"],
        },
    ] {
        let talk = format!(
            "first = len(open('loads.txt').readlines()) == 1\nif first: until(lambda: len(here) == 4)\n\
             if name != 'bad':\n    if first: time.sleep(60)\n    return done(m)\n{what}\ndone(m)"
        );
        let spool = crew(4, 4, &talk, "trace_columns = false\n");
        drop_all(&spool, all);
        let code = if reason.is_empty() { 0 } else { 3 };
        spool.run(&["batch"]).code(code);
        let done: Vec<&str> =
            all.iter().copied().filter(|n| *n != "bad" || reason.is_empty()).collect();
        assert_eq!(spool.names("done"), done, "{what}\n{}", spool.report());
        if !reason.is_empty() {
            assert!(spool.reason("bad").starts_with(reason), "{what}: {}", spool.reason("bad"));
            assert_eq!(spool.why("bad")["attempts"], 1, "{what}");
        }
        assert!(spool.csv("r").column("attempt").iter().all(|n| n == "1"), "{what}");
        let mut again: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (name, _, flying) in runs(&spool) {
            again.entry(name).or_default().push(flying);
        }
        for (name, flying) in again {
            let alone = flying[1..].iter().all(|n| *n == 1);
            let is_suspect = suspects.contains(&name.as_str());
            assert!(flying.len() == 2 && (alone || !is_suspect), "{what}: {name} {flying:?}");
        }
        assert_eq!(spool.processes(), Vec::<String>::new(), "{what}");
    }
}

/// Goal: a job that is over time ends alone where the worker can cancel it; else its neighbours, who are
/// not to blame, run again and are charged nothing. Method: one that hangs beside three that take longer.
#[test]
fn a_hung_job_costs_its_neighbours_nothing() {
    let talk = "if name == 'hang':\n    until(lambda: m['id'] in cancelled, 90)\n\
                \x20   return say('result', id=m['id'], status='fail', msg='cancelled')\n\
                until(lambda: os.path.exists('go'))\ndone(m)";
    for (features, loads_wanted, reason) in
        [("", 2, "timed out after 3s"), ("cancel", 1, "cancelled")]
    {
        let settings = format!("timeout = \"3s\"\nenv = {{ FEATURES = \"{features}\" }}\n");
        let spool = crew(4, 4, talk, &settings);
        // The neighbours begin later, so that they are within their time when that of the first is over.
        let daemon = spool.daemon();
        drop_all(&spool, &["hang"]);
        spool.wait_until("it runs", || runs(&spool).len() == 1);
        std::thread::park_timeout(Duration::from_millis(1500));
        drop_all(&spool, &["a", "b", "c"]);
        spool.wait_until("it is over", || spool.path("error/hang").exists());
        spool.write("go", "");
        spool.wait_until("all are over", || spool.names("done").len() == 3);
        assert_eq!(spool.reason("hang"), reason);
        assert_eq!(spool.csv("r").column("attempt"), ["1"; 3], "{}", spool.report());
        assert_eq!(loads(&spool), loads_wanted, "{}", spool.report());
        assert!(daemon.end().success());
        assert_eq!(spool.processes(), Vec::<String>::new());
    }
}

/// Goal: a worker that is to be replaced finishes all its jobs; where only one may be there, its successor
/// is started after its end, and so are the fresh workers of suspects. Method: `max_jobs`, and a worker
/// that dies, each with `overlap` and without; each load notes which others live.
#[test]
fn replaced_workers_finish_their_jobs() {
    let lives = "for pid in open('loads.txt').read().split():\n\
                 \x20   if int(pid) != os.getpid() and os.path.exists(f'/proc/{pid}') and ' Z ' not in open(f'/proc/{pid}/stat').read(): open('beside.txt', 'a').write(pid)\n";
    for (overlap, dies) in [(true, false), (false, false), (true, true), (false, true)] {
        let death = "if name == '7' and len(here) > 1: os._exit(3)\n";
        let talk = format!("{}time.sleep(0.02)\ndone(m)", if dies { death } else { "" });
        let limit = if dies { "" } else { "max_jobs = 10\n" };
        let spool = crew(4, 4, &talk, &format!("overlap = {overlap}\n{limit}"));
        let code = fs::read_to_string(spool.path("w.py")).unwrap();
        let (first, rest) = code.split_once("wire = ").unwrap();
        spool.write("w.py", &format!("{first}{lives}wire = {rest}"));
        for n in 0..40 {
            spool.drop_file(n.to_string(), "x");
        }
        spool.run(&["batch"]).ok();
        assert_eq!(spool.csv("r").column("attempt"), ["1"; 40], "{}", spool.report());
        let (loads, beside) = (loads(&spool), spool.path("beside.txt").exists());
        assert!((2..=9).contains(&loads), "{loads} workers, overlap {overlap}, dies {dies}");
        assert!(overlap || !beside, "two at once, dies {dies}\n{}", spool.report());
        assert_eq!(spool.processes(), Vec::<String>::new());
    }
}

/// Goal: a drain lets all jobs of a worker finish, a second one releases them. Method: four in flight, TERM
/// once or twice; what was released runs at the next start, charged nothing.
#[test]
fn a_drain_waits_for_all() {
    for signals in [1, 2] {
        let talk = "until(lambda: os.path.exists('go'), 60)\ndone(m)";
        let spool = crew(4, 4, talk, "");
        let mut daemon = spool.daemon();
        drop_all(&spool, &["a", "b", "c", "d"]);
        spool.wait_until("all run", || runs(&spool).len() == 4);
        daemon.signal(Signal::TERM);
        daemon.wait_for_log("draining");
        if signals == 2 {
            daemon.signal(Signal::TERM);
            daemon.wait();
            assert_eq!(spool.names("done"), Vec::<String>::new());
        }
        spool.write("go", "");
        if signals == 1 {
            assert!(daemon.wait().success());
        } else {
            spool.run(&["batch"]).ok();
        }
        assert_eq!(spool.csv("r").column("attempt"), ["1"; 4], "{}", spool.report());
        assert_eq!(spool.processes(), Vec::<String>::new());
    }
}

/// Goal: records share a process as files do. Method: 200 lines, four at once, one of which ends the worker.
#[test]
fn records_share_a_process() {
    let talk = "line = m['record']\nif line == '77' : os._exit(5)\n\
                say('rows', id=m['id'], seq=0, rows=[{'n': line}])\n\
                say('result', id=m['id'], status='ok', rows=1, chunks=1)";
    let spool = crew(4, 4, talk, "records = \"lines\"\ntrace_columns = false\n");
    let lines: Vec<String> = (100..300).map(|n| n.to_string()).chain(["77".to_owned()]).collect();
    spool.drop_file("ids", lines.join("\n"));
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.csv("r").sorted(), lines[..200], "{}", spool.report());
    assert_eq!(spool.csv("errors").column("reason"), ["exit 5"]);
}
