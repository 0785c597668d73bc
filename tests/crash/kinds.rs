//! SIGKILL at random instants, for each kind of worker: one row of a table a kind.
//!
//! Must not know: how a kind is spoken to, beyond what a user of it writes.
//!
//! Budgets are as tight as they can be: a worker that we end because we end must be taken for nothing
//! else, so that each file that fails without its worker's will shows as one. Only what is lost with a
//! daemon is free. `INBOXD_CRASH_ALL=1` kills ten times as often.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Spool, python, wait_until};
use crate::history::History;
use crate::kill_nine::{Random, VICTIMS, Victim, is_supervised, kill, live_for};

/// What one row kills over.
const FILES: usize = 600;
/// Fewer: after two kills the records of an input run one at a time, each with its own fsync.
const RECORDS: usize = 500;
/// Kills of a row, and how long it may go on with them.
const KILLS: usize = 40;
const KILL_TIME: Duration = Duration::from_secs(15);
/// Fewer than this show nothing.
const FEWEST: usize = 5;
/// Jobs after which a life is ended at the latest, so that there are some for the next.
const MOST_RUNS: u64 = 20;

/// A kind of worker.
struct Kind {
    name: &'static str,
    /// Keys of the route; `$PORT` stands for a free port.
    route: &'static str,
    /// The worker: its file and what is in it.
    file: (&'static str, &'static str),
    /// The worker is a server that we start, beside inboxd.
    is_beside: bool,
    /// The longest life of a daemon, by how long its workers take to come up.
    life_ms: u64,
    /// What a job that fails says at last, after a second attempt.
    reason: &'static str,
    /// Its tasks are the lines of one file.
    has_records: bool,
}

/// Each line that does not end in 0 is a row. Whole files by `command` have tests of their own.
const COMMAND: &str = r#"
echo "$INBOXD_RECORD" >> runs.txt
case $INBOXD_RECORD in *0) exit 9;; esac
echo "{\"id\":\"$INBOXD_RECORD\"}"
"#;

/// Gives each file two rows, but fails those ending in 07 and 57; of records as above. So do the others;
/// none is so fast that the jobs were over while the daemon is looked for.
const PYTHON: &str = r#"
import os, time
def f(given):
    rel = given if os.sep not in given else os.environ["INBOXD_REL"]
    with open("runs.txt", "a") as runs: runs.write(rel + " x\n")
    time.sleep(0.01)
    if os.sep not in given:
        if rel.endswith("0"): raise ValueError("no")
        return {"id": rel}
    if rel.endswith(("07", "57")): raise ValueError("no")
    return [{"n": "0"}, {"n": "1"}]
"#;

/// By hand; several jobs at once if it is told so.
const WARM: &str = r#"
import json, os, socket, threading, time
wire = socket.socket(fileno=int(os.environ["INBOXD_FD"]))
heard, told = wire.makefile("r", encoding="utf-8"), wire.makefile("w", encoding="utf-8")
lock = threading.Lock()
def say(t, **fields):
    with lock:
        told.write(json.dumps({"t": t, **fields}) + "\n")
        told.flush()
def job(m):
    rel = m.get("record", m["rel"])
    with open("runs.txt", "a") as runs: runs.write(rel + " x\n")
    time.sleep(0.01)
    if rel.endswith("0" if "record" in m else ("07", "57")):
        return say("result", id=m["id"], status="fail", msg="no")
    rows = [{"id": rel}] if "record" in m else [{"n": "0"}, {"n": "1"}]
    say("rows", id=m["id"], seq=0, rows=rows)
    say("result", id=m["id"], status="ok", rows=len(rows), chunks=1)
at_once = int(os.environ.get("AT_ONCE", "1"))
for line in iter(heard.readline, ""):
    m = json.loads(line)
    if m["t"] == "hello": say("ready", v=1, concurrency=at_once)
    elif m["t"] == "ping": say("pong", n=m["n"])
    elif m["t"] == "drain": break
    elif m["t"] == "job": threading.Thread(target=job, args=(m,), daemon=True).start()
"#;

const HTTP: &str = r#"
import json, sys, time, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Runner(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def answer(self, rel, is_bad, rows):
        with open("runs.txt", "a") as runs: runs.write(rel + " x\n")
        time.sleep(0.01)
        body = b"no" if is_bad else json.dumps(rows).encode()
        self.send_response(503 if is_bad else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        rel = self.path[1:]
        self.answer(rel, rel.endswith("0"), {"id": rel})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        rel = urllib.parse.unquote(self.path[1:])
        self.answer(rel, rel.endswith(("07", "57")), [{"n": "0"}, {"n": "1"}])
class Server(ThreadingHTTPServer): daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Runner).serve_forever()
"#;

const BY_SHELL: &str = "command = [\"sh\", \"work.sh\"]\nstdout = \"json\"";
const BY_PYTHON: &str = "python = \"f.py:f\"\ninterpreter = \"$PYTHON\"";
const BY_HAND: &str = "warm = [\"$PYTHON\", \"w.py\"]";
const AT_ONCE: &str = "warm = [\"$PYTHON\", \"w.py\"]\nenv = { AT_ONCE = \"4\" }";
const OURS: &str = "http = \"http://127.0.0.1:$PORT/{rel}\"\n\
                    start = [\"$PYTHON\", \"runner.py\", \"$PORT\"]";
const BESIDE: &str = "http = \"http://127.0.0.1:$PORT/{rel}\"";
const ASKED: &str = "http = \"http://127.0.0.1:$PORT/{record}\"\nmethod = \"GET\"";
const UNAVAILABLE: &str = "HTTP 503 Service Unavailable: no";

/// A row: what it is called, its route, its worker and what is special about it.
const fn kind(
    name: &'static str,
    route: &'static str,
    file: (&'static str, &'static str),
    life_ms: u64,
    reason: &'static str,
) -> Kind {
    Kind { name, route, file, is_beside: false, life_ms, reason, has_records: false }
}

const KINDS: [Kind; 10] = [
    kind("python", BY_PYTHON, ("f.py", PYTHON), 800, "ValueError: no"),
    kind("warm", BY_HAND, ("w.py", WARM), 800, "no"),
    kind("warm-at-once", AT_ONCE, ("w.py", WARM), 800, "no"),
    kind("http-ours", OURS, ("runner.py", HTTP), 1200, UNAVAILABLE),
    Kind { is_beside: true, ..kind("http-beside", BESIDE, ("runner.py", HTTP), 200, UNAVAILABLE) },
    Kind {
        has_records: true,
        ..kind("records-command", BY_SHELL, ("work.sh", COMMAND), 400, "exit 9")
    },
    Kind {
        has_records: true,
        ..kind("records-python", BY_PYTHON, ("f.py", PYTHON), 800, "ValueError: no")
    },
    Kind { has_records: true, ..kind("records-warm", BY_HAND, ("w.py", WARM), 800, "no") },
    Kind { has_records: true, ..kind("records-at-once", AT_ONCE, ("w.py", WARM), 800, "no") },
    Kind {
        has_records: true,
        is_beside: true,
        ..kind("records-http", ASKED, ("runner.py", HTTP), 300, UNAVAILABLE)
    },
];

/// The server of a row, ended on drop.
struct Server(Child);

impl Server {
    fn start(spool: &Spool, script: &str, port: u16) -> Self {
        let mut command = Command::new(python());
        command.args([script, &port.to_string()]).current_dir(spool.root());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self(command.spawn().unwrap());
        let is_there = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("the runner answers", PATIENCE, || spool.report(), is_there);
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A spool of this kind, and the port of its runner.
fn spool_of(kind: &Kind) -> (Spool, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let records =
        if kind.has_records { "records = \"lines\"\ntrace_columns = false\n" } else { "" };
    let settings = format!(
        "workers = 4\n[routes.work]\n{}\n{records}try_again_after = \"20ms\"\n\
         [routes.work.retries]\nfail = 1\ntry_again = 1\ntimeout = 0\noom = 0\ncrash = 0\nlost = 1000\n\
         first_wait = \"20ms\"\n",
        kind.route.replace("$PORT", &port.to_string())
    );
    let spool = Spool::new(&settings);
    spool.write(kind.file.0, kind.file.1);
    (spool, port)
}

/// Kills `batch` again and again; how often it did.
fn sweep(kind: &Kind, spool: &Spool, history: &mut History) -> usize {
    let mut random = Random::new(kind.name);
    let is_all = std::env::var("INBOXD_CRASH_ALL").as_deref() == Ok("1");
    let scale = if is_all { 10 } else { 1 };
    let end = Instant::now() + KILL_TIME * scale;
    let mut kills = 0;
    // What outlived a kill of both: it is ended by the next start, if that lives so long.
    let mut left: Vec<String> = Vec::new();
    while kills < KILLS * usize::try_from(scale).unwrap() && Instant::now() < end {
        let mut running = spool.start(&["batch"]);
        let life = Duration::from_millis(random.below(kind.life_ms));
        let runs = random.below(MOST_RUNS);
        if !live_for(spool, &running, life, runs) {
            let code = running.wait().code();
            assert!(matches!(code, Some(0 | 3)), "{}\n{}", running.log(), spool.report());
            break;
        }
        let victim = VICTIMS[usize::try_from(random.below(4)).unwrap()];
        kill(spool, &mut running, victim);
        if matches!(victim, Victim::Daemon | Victim::Supervisor) {
            let is_old = |worker: &String| left.contains(worker);
            spool.wait_until("no worker outlives it", || spool.processes().iter().all(is_old));
        }
        left = spool.processes();
        history.observe(spool);
        kills += 1;
    }
    kills
}

fn killed(kind: &Kind) {
    let (spool, port) = spool_of(kind);
    let _server = kind.is_beside.then(|| Server::start(&spool, kind.file.0, port));
    let scale = if std::env::var("INBOXD_CRASH_ALL").as_deref() == Ok("1") { 10 } else { 1 };
    let mut history = History::default();
    if kind.has_records {
        drop_records(&spool, RECORDS * scale);
    } else {
        history.drop_files(&spool, FILES * scale);
        let bad: Vec<String> = history.names().filter(|name| is_bad(name)).collect();
        for name in &bad {
            history.must_fail(name);
        }
    }
    let kills = sweep(kind, &spool, &mut history);
    let rows = spool.csv("work").rows.len();
    eprintln!("{}: {kills} kills, {rows} rows before the last of them", kind.name);
    assert!(kills >= FEWEST, "{}: over after {kills} kills", kind.name);
    assert!(rows > 0, "{}: nothing was recorded between the kills", kind.name);
    let output = spool.run(&["batch"]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output}");
    if kind.has_records {
        check_records(&spool, RECORDS * scale);
        let reasons = spool.csv("errors").column("reason");
        assert!(reasons.iter().all(|reason| reason == kind.reason), "{reasons:?}");
    } else {
        history.check(&spool, kind.name);
        for name in spool.errors() {
            assert_eq!(spool.reason(&name), kind.reason, "{}", kind.name);
            let attempts = spool.why(&name)["attempts"].as_u64();
            assert!(attempts >= Some(2), "{name} failed after {attempts:?} attempts");
        }
    }
    assert_eq!(spool.processes(), Vec::<String>::new(), "{}", kind.name);
}

/// One file of so many lines.
fn drop_records(spool: &Spool, count: usize) {
    let all: Vec<String> = (1..=count).map(|no| format!("{no:07}")).collect();
    spool.drop_file("ids", all.join("\n"));
}

/// Each line has its row or its failure once, and the failed ones are put together once.
fn check_records(spool: &Spool, count: usize) {
    let (bad, good): (Vec<String>, Vec<String>) =
        (1..=count).map(|no| format!("{no:07}")).partition(|id| id.ends_with('0'));
    assert_eq!(spool.csv("work").sorted(), good, "{}", spool.report());
    let mut failed = spool.csv("errors").column("record");
    failed.sort_by_key(|no| no.parse::<usize>().unwrap());
    let expected: Vec<String> = (1..=count / 10).map(|n| (10 * n).to_string()).collect();
    assert_eq!(failed, expected, "{}", spool.report());
    let file = String::from_utf8(spool.files("error")[&b"ids"[..]].clone()).unwrap();
    assert_eq!(file.lines().collect::<Vec<_>>(), bad);
    assert_eq!(spool.names("done"), ["ids"]);
    assert_eq!(spool.names("processing"), Vec::<String>::new());
}

fn is_bad(name: &str) -> bool {
    name.ends_with("07") || name.ends_with("57")
}

/// Goal: with no kind of worker do kills lose, double or charge anything, and no worker outlives its
/// daemon. Method: `batch` over each row's files or records, killed at random instants and started again.
#[test]
fn each_kind_is_killed_at_random() {
    assert!(is_supervised());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let take = || KINDS.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while let Some(kind) = take() {
                    killed(kind);
                }
            });
        }
    });
}
