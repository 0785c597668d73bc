//! Workers of every kind that talk nonsense, without end, in halves, not at all, or die at any point of what
//! they have to say: each job has one outcome, the daemon's memory is bounded, and others go on.
//!
//! Must not know: how a kind is spoken to, beyond what a user of it writes.
//!
//! A row is a file, named like it; its worker does what the row says.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;

use crate::harness::{Running, Spool, python};

/// What a worker does with its file, and the reason of the failure; empty: it is done.
type Row = (&'static str, &'static str, &'static str);

/// Where all scripts begin: 1 GiB on a stream, in one line or in many.
const PRELUDE: &str = r#"
import json, os, socket, sys, time
out, err = sys.stdout.buffer, sys.stderr.buffer
def flood(stream, end=b""):
    block = b"x" * (1 << 20) + end
    for _ in range(1024): stream.write(block)
    stream.flush()
"#;

/// The daemon's memory at its peak, in KiB.
fn peak(daemon: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.daemon_pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Lets the worker of a route do what each row says, two at a time, beside a healthy route. Most crash, in a row
/// that another job ends only by chance: the breaker is not what this is about.
fn misbehave(route: &str, script: (&str, &str), rows: &[Row]) {
    let spool = Spool::new(&format!(
        "workers = 3\n[routes.good]\nglob = \"good*\"\ncommand = [\"true\"]\n\
         [routes.bad]\nworkers = 2\nretries = 0\npause_after_crashes = 0\ngrace = \"200ms\"\n\
         trace_columns = false\n{route}\n"
    ));
    let mut chosen = String::new();
    for (name, code, _) in rows {
        let code = code.replace('\n', "\n        ");
        writeln!(chosen, "    if name == '{name}':\n        {code}").unwrap();
    }
    let code = script.1.replace("    CHOSEN\n", &chosen);
    spool.write(script.0, &format!("{PRELUDE}{code}"));
    let daemon = spool.daemon();
    for (at, (name, _, _)) in rows.iter().enumerate() {
        spool.drop_file(name, "x");
        spool.drop_file(format!("good-{at}"), "x");
    }
    let is_done = |name: &str| spool.path("done").join(name).exists();
    spool.wait_until("the healthy ones are done", || {
        (0..rows.len()).all(|at| is_done(&format!("good-{at}")))
    });
    for (name, code, reason) in rows {
        let is_over = || is_done(name) || spool.path("error").join(name).exists();
        spool.wait_until(&format!("{name} is over"), is_over);
        if reason.is_empty() {
            assert!(is_done(name), "{name}: {code}: {}", spool.reason(name));
        } else {
            assert!(!is_done(name), "{name} is done: {code}");
            assert!(spool.reason(name).contains(reason), "{name}: {}", spool.reason(name));
            assert_eq!(spool.why(name)["attempts"], 1, "{name}");
        }
    }
    spool.drop_file("after", "x");
    spool.wait_until("one more is done", || is_done("after"));
    let peak = peak(&daemon);
    assert!(peak < 100 << 10, "{peak} KiB");
    assert!(daemon.end().success());
    let failed: Vec<String> = spool.csv("errors").column("file");
    let once: BTreeSet<&String> = failed.iter().collect();
    let wanted = rows.iter().filter(|(_, _, reason)| !reason.is_empty()).count();
    assert_eq!((failed.len(), once.len()), (wanted, wanted), "{failed:?}");
    // A row names its file; none of a job that failed is there.
    let done: BTreeSet<String> = spool.names("done").into_iter().collect();
    let rows = spool.csv("bad").column("name");
    assert!(rows.iter().all(|name| done.contains(name)), "{rows:?}");
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: as the module says, of `command`. Method: its table.
#[test]
fn commands() {
    let script = r#"
def row(name): out.write(json.dumps({"name": name}).encode() + b"\n"); out.flush()
def do(name):
    CHOSEN
    if name == "after": row(name)
do(os.environ["INBOXD_REL"])
"#;
    let route = format!("command = [\"{}\", \"w.py\"]\nstdout = \"json\"", python());
    misbehave(
        &route,
        ("w.py", script),
        &[
            ("garbage", "out.write(b'\\xff\\xfe{nonsense\\n')", "JSON"),
            ("half", "out.write(b'{\"name\":')", "JSON"),
            ("line-out", "flood(out)", "max_output (16.0 MiB)"),
            ("lines-out", "flood(out, b'\\n')", "max_output (16.0 MiB)"),
            ("line-err", "flood(err)\nsys.exit(3)", "exit 3: xxx"),
            ("lines-err", "flood(err, b'\\n')\nsys.exit(3)", "exit 3: xxx"),
            ("line-err-done", "flood(err)\nrow(name)", ""),
            ("nothing", "pass", ""),
            ("closed", "os.close(1)\nos.close(2)\nos._exit(0)", ""),
            ("at-once", "os._exit(7)", "exit 7"),
            ("half-row", "out.write(b'{\"name\":')\nout.flush()\nos._exit(7)", "exit 7"),
            ("row", "row(name)\nos._exit(7)", "exit 7"),
            ("killed", "row(name)\nos.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ],
    );
}

/// Goal: as the module says, of `warm`: nonsense and floods on each way, and death at each point of the
/// protocol. Method: its table; what a single wrong message means has a test of its own.
#[test]
fn warm_workers() {
    let script = r#"
wire = socket.socket(fileno=int(os.environ["INBOXD_FD"]))
heard, told = wire.makefile("r", encoding="utf-8"), wire.makefile("wb")
def raw(text):
    told.write(text)
    told.flush()
def line(t, **fields): return json.dumps(dict(fields, t=t)).encode()
def say(t, **fields): raw(line(t, **fields) + b"\n")
def rows(m): return line("rows", id=m["id"], seq=0, rows=[{"name": m["name"]}])
def result(m): return line("result", id=m["id"], status="ok", rows=1, chunks=1)
def done(m): raw(rows(m) + b"\n" + result(m) + b"\n")
def do(m):
    name = m["name"]
    CHOSEN
    done(m)
for text in iter(heard.readline, ""):
    m = json.loads(text)
    if m["t"] == "hello": say("ready", v=1)
    elif m["t"] == "ping": say("pong", n=m["n"])
    elif m["t"] == "drain": break
    elif m["t"] == "job": do(m)
"#;
    let route = format!("warm = [\"{}\", \"w.py\"]", python());
    misbehave(
        &route,
        ("w.py", script),
        &[
            ("garbage", "raw(os.urandom(1 << 16) + b'\\n')", "protocol: "),
            (
                "line",
                "flood(told)\nraw(b'\\n')",
                "protocol: a line of more than 1048576 bytes: xxx",
            ),
            ("lines", "flood(told, b'\\n')", "protocol: "),
            ("half-line", "raw(b'{\"t\":')\nos._exit(7)", "exit 7"),
            ("line-out", "flood(out)", ""),
            ("lines-out", "flood(out, b'\\n')", ""),
            ("line-err", "flood(err)\nos._exit(7)", "exit 7: "),
            ("lines-err", "flood(err, b'\\n')\nos._exit(7)", "exit 7: xxx"),
            ("log", "for _ in range(200): say('log', level='info', msg='y' * 1000000)", ""),
            ("later", "for _ in range(200): say('later', x='y' * 1000000)", ""),
            ("progress", "for n in range(10000): say('progress', id=m['id'], done=n)", ""),
            (
                "rows",
                "for n in range(100): say('rows', id=m['id'], seq=n, rows=[{'name': 'y' * 1000000}])\n\
                 say('result', id=m['id'], status='ok', rows=100, chunks=100)\nreturn",
                "max_staged",
            ),
            ("at-once", "os._exit(7)", "exit 7"),
            ("exit-0", "os._exit(0)", "exit 0 without a result"),
            ("killed", "os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
            ("started", "say('started', id=m['id'])\nos._exit(7)", "exit 7"),
            ("told", "say('progress', id=m['id'], done=1)\nos._exit(7)", "exit 7"),
            ("half-rows", "raw(rows(m)[:9])\nos._exit(7)", "exit 7"),
            ("rows-without-end", "raw(rows(m))\nos._exit(7)", "exit 7"),
            ("rows-only", "raw(rows(m) + b'\\n')\nos._exit(7)", "exit 7"),
            ("half-result", "raw(rows(m) + b'\\n' + result(m)[:9])\nos._exit(7)", "exit 7"),
            ("result-without-end", "raw(rows(m) + b'\\n' + result(m))\nos._exit(7)", "exit 7"),
            ("result", "done(m)\nos._exit(7)", ""),
            ("result-and-half", "raw(rows(m) + b'\\n' + result(m) + b'\\n{')\nos._exit(7)", ""),
            ("recycle", "say('recycle', reason='old')\nos._exit(7)", "exit 7"),
            ("bye", "say('bye')\nos._exit(0)", "exit 0 without a result"),
            ("recycled", "say('recycle', reason='old')\ndone(m)\nos._exit(7)", ""),
        ],
    );
}

/// Goal: as the module says, of `python`: what a function prints is no protocol, and its end is told. Method:
/// its table.
#[test]
fn functions() {
    let script = "
def f(path):
    name = os.path.basename(path)
    CHOSEN
    return {'name': name}
";
    let route = format!("python = \"f.py:f\"\ninterpreter = \"{}\"", python());
    misbehave(
        &route,
        ("f.py", script),
        &[
            ("garbage", "out.write(os.urandom(1 << 16))", ""),
            ("line-out", "flood(out)", ""),
            ("lines-out", "flood(out, b'\\n')", ""),
            ("line-err", "flood(err)\nraise ValueError('no')", "ValueError: no"),
            ("lines-err", "flood(err, b'\\n')", ""),
            ("reason", "raise ValueError('y' * (64 << 20))", "ValueError: yyy"),
            ("wide-reason", "raise ValueError('\\U0001f600' * (1 << 20))", "ValueError: \u{1f600}"),
            (
                "mute-exit",
                "sys.exit(type('Mute', (), {'__str__': None})())",
                "exit 1: (its message cannot be made)",
            ),
            (
                "row",
                "return {'name': 'y' * (64 << 20)}",
                "a row is longer than a line of the protocol",
            ),
            ("rows", "return [{'name': 'y' * 1000}] * (64 << 10)", "max_staged"),
            ("nothing", "return None", ""),
            ("object", "return object()", "returned object, expected dict"),
            ("deep", "def deep(): deep()\ndeep()", "RecursionError"),
            ("closed", "os.close(1)\nos.close(2)", ""),
            ("exit", "os._exit(7)", "exit 7"),
            ("exit-0", "os._exit(0)", "exit 0 without a result"),
            ("killed", "os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
            ("system-exit", "sys.exit(7)", "exit 7"),
        ],
    );
}

/// Goal: as the module says, of `http` with a runner of ours: its answers, its death, and what it prints.
/// Method: its table, each row an answer as bytes; single wrong answers have tests of their own. The fine ones
/// keep the route from being paused by too many deaths in a row.
#[test]
fn runners() {
    let script = r#"
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
def answer(self, name, to):
    CHOSEN
    self.good(name)
class Runner(BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        answer(self, self.path[1:], self.wfile)
        self.close_connection = True
    def good(self, name):
        body = json.dumps({"name": name}).encode()
        self.wfile.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.wfile.flush()
class Server(ThreadingHTTPServer): daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Runner).serve_forever()
"#;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let route = format!(
        "http = \"http://127.0.0.1:{port}/{{rel}}\"\nstart = [\"{}\", \"runner.py\", \"{port}\"]",
        python()
    );
    misbehave(
        &route,
        ("runner.py", script),
        &[
            ("nothing", "return", "connection lost"),
            ("garbage", "return to.write(os.urandom(1 << 16))", "the "),
            (
                "body",
                "to.write(HEAD + b'Content-Length: 1073741824\\r\\n\\r\\n')\nreturn flood(to)",
                "max_output (16.0 MiB)",
            ),
            (
                "header",
                "to.write(HEAD + b'X: ')\nreturn flood(to)",
                "the header of the answer is longer",
            ),
            ("line-out", "flood(out)", ""),
            ("lines-err", "flood(err, b'\\n')", ""),
            ("at-once", "os._exit(7)", "the runner died: exit 7"),
            ("fine-1", "pass", ""),
            // Another thread may be the one that it ends, a moment later.
            (
                "killed",
                "os.kill(os.getpid(), 11)\ntime.sleep(60)",
                "the runner died: killed by SIGSEGV",
            ),
            ("fine-2", "pass", ""),
            (
                "half-header",
                "to.write(HEAD[:9])\nto.flush()\nos._exit(7)",
                "the runner died: exit 7",
            ),
            ("fine-3", "pass", ""),
            (
                "half-body",
                "to.write(HEAD + b'Content-Length: 9\\r\\n\\r\\n{')\nto.flush()\nos._exit(7)",
                "the runner died: exit 7",
            ),
            ("fine-4", "pass", ""),
            ("answered", "self.good(name)\ntime.sleep(0.1)\nos._exit(7)", ""),
        ],
    );
}

/// Goal: a worker that takes away the input of its records, or puts something else there, fails that input and
/// ends nothing else, although the failed records can no longer be put together. Method: what a script does that
/// once moved its own file, and worse; each with failed records, beside a job that is sound.
#[test]
fn the_input_of_failed_records_may_be_gone() {
    let ways = [
        "rm -f \"$1\"",
        "mv \"$1\" \"$1.x\"",
        "rm -rf \"$(dirname \"$1\")\"",
        "rm -f \"$1\"; mkdir \"$1\"",
        "rm -f \"$1\"; ln -s /etc/passwd \"$1\"",
        "rm -f \"$1\"; mkfifo \"$1\"",
        "chmod 000 \"$1\"",
    ];
    let mut settings = "workers = 1\n".to_owned();
    for (n, way) in ways.iter().enumerate() {
        let route = format!("[routes.r{n}]\nglob = \"r{n}\"\nrecords = \"lines\"");
        let command =
            format!("[\"sh\", \"-c\", '{way}; exit 1', \"sh\", \"{{path}}\", \"{{record}}\"]");
        writeln!(settings, "{route}\ncommand = {command}").unwrap();
    }
    settings.push_str("[routes.good]\ncommand = [\"true\"]\n");
    let spool = Spool::new(&settings);
    let daemon = spool.daemon();
    for n in 0..ways.len() {
        spool.drop_file(format!("r{n}"), "1\n2\n");
        spool.drop_file(format!("good{n}"), "x");
    }
    let jobs = || spool.run(&["jobs", "--json", "-n", "0"]).ok().stdout();
    let ends = |jobs: &str| jobs.lines().filter(|it| !it.contains("\"record\":")).count();
    spool.wait_until("all are over", || ends(&jobs()) == 2 * ways.len());
    assert_eq!(spool.names("done").iter().filter(|it| it.starts_with("good")).count(), ways.len());
    daemon.end_well();
    spool.run(&["batch"]).ok();
}

/// Goal: a worker that takes the folder of its input away, or puts something else there, ends nothing, and what it
/// left above or instead is kept, and is no job at the next start. Method: each way, a job after it, a restart.
#[test]
fn what_stands_where_the_inputs_folder_was_is_no_job() {
    let spool =
        Spool::new("workers = 1\n[routes.main]\nstdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n");
    spool.write(
        "w.sh",
        "at=${INBOXD_PATH%/*}\ncase $INBOXD_NAME in plain*) exit;; esac\nrm -r $at\ncase $INBOXD_NAME in\n\
         gone) echo own > ${at%/*}/own;;\nfile) echo own > $at;;\nlink) ln -s /etc $at;;\n\
         deep) echo own > ${at%/*/*}/own-deep; echo own > $at;;\ntop) echo own > $at;;\n\
         again) mkdir $at; echo own > $at/own-again;;\nesac\n",
    );
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    let jobs = || spool.run(&["jobs", "--json", "-n", "0"]).ok().stdout().lines().count();
    for (n, rel) in (1..).zip(["d1/gone", "d2/file", "d3/link", "d4/d5/deep", "top", "again"]) {
        spool.drop_file(rel, "x");
        spool.wait_until("it is over", || jobs() == 2 * n - 1);
        let plain = format!("plain-{n}");
        spool.drop_file(&plain, "x");
        spool.wait_until("the next one is done", || {
            jobs() == 2 * n && spool.has(&format!("done/{plain}"))
        });
    }
    assert_eq!(daemon.daemon_pid(), pid, "it ended and was started again");
    daemon.end_well();
    for _ in 0..2 {
        spool.run(&["batch"]).ok();
        assert_eq!(jobs(), 12, "what a worker left became a job: {}", spool.report());
        for left in ["own", "d2", "d3", "own-deep", "d4/d5", "own-again"] {
            assert!(spool.has(&format!("done/{left}")), "{left}: {}", spool.report());
        }
        assert_eq!(spool.names("processing").len(), 1, "{}", spool.report());
    }
}

/// Goal: a worker that gives its input another name leaves no failed file without its reason, and it can be retried.
/// Method: `mv`, with and without another file beside it; a failure, a retry that succeeds; where its file is then.
#[test]
fn a_renamed_input_has_its_reason() {
    let spool = Spool::new("[routes.main]\nstdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n");
    spool.write(
        "w.sh",
        "cd ${INBOXD_PATH%/*}\nmv $INBOXD_NAME $INBOXD_NAME.done\n\
         case $INBOXD_NAME in two) : > a; : > z;; esac\n[ -e $INBOXD_SPOOL/mended ]\n",
    );
    for name in ["one", "sub/two"] {
        spool.drop_file(name, name);
    }
    spool.run(&["batch"]).code(3);
    for name in ["one", "sub/two"] {
        let moved = format!("{name}.done");
        assert_eq!(spool.reason(&moved), "exit 1");
        assert_eq!(std::fs::read_to_string(spool.path("error").join(moved)).unwrap(), name);
    }
    spool.write("mended", "");
    spool.run(&["retry", "--wait", "one", "sub/two"]).ok();
    for name in ["one", "sub/two"] {
        let done = std::fs::read_to_string(spool.path(&format!("done/{name}.done")));
        assert_eq!(done.unwrap(), name, "{}", spool.report());
        assert!(!spool.has(&format!("error/{name}.done")));
    }
}
