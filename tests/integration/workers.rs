//! Programs of one's own that stay, `warm`, with the real binary and real, also misbehaving, workers.
//!
//! Must not know: how a worker is started or spoken to, beyond the page of the protocol.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Spool, python};

/// A spool of a warm worker written by hand: `talk` is what it does with each job `m`.
fn worker(talk: &str, settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 1\nrescan = \"100ms\"\n[routes.r]\nwarm = [\"$PYTHON\", \"w.py\"]\ntrace_columns = false\n\
         retries = 0\ngrace = \"200ms\"\n{settings}"
    ));
    let body = talk.replace('\n', "\n        ");
    spool.write(
        "w.py",
        &format!(
            r#"import json, os, socket, sys, time
open("loads.txt", "a").write("x\n")
wire = socket.socket(fileno=int(os.environ["INBOXD_FD"]))
heard, wire = wire.makefile("r", encoding="utf-8"), wire.makefile("w", encoding="utf-8")
def raw(text):
    wire.write(text)
    wire.flush()
def say(t, **fields): raw(json.dumps({{"t": t, **fields}}) + "\n")
def done(m, **more): say("result", id=m["id"], status="ok", **more)
features = []
jobs = 0
for line in iter(heard.readline, ""):
    m = json.loads(line)
    if m["t"] == "hello": say("ready", v=1, name="w", version="7", features=os.environ.get("FEATURES", "").split())
    elif m["t"] == "ping": say("pong", n=m["n"])
    elif m["t"] == "drain": break
    elif m["t"] == "job":
        jobs += 1
        name = m["name"]
        {body}
"#
        ),
    );
    spool
}

/// How often a worker was started, by the line that each leaves.
pub(crate) fn loads(spool: &Spool) -> usize {
    fs::read_to_string(spool.path("loads.txt")).unwrap_or_default().lines().count()
}

/// Goal: the whole worker of the protocol's page works as printed; that it reads and writes one file is of
/// no harm as long as nothing is read ahead. Method: its text, two files.
#[test]
fn the_worker_of_the_page() {
    let spool =
        Spool::new("[routes.r]\nwarm = [\"$PYTHON\", \"size.py\"]\ntrace_columns = false\n");
    spool.write(
        "size.py",
        r#"import json, os, socket
wire = socket.socket(fileno=int(os.environ["INBOXD_FD"])).makefile("rw", encoding="utf-8")
def say(t, **fields):
    wire.write(json.dumps({"t": t, **fields}) + "\n")
    wire.flush()
for line in iter(wire.readline, ""):
    m = json.loads(line)
    if m["t"] == "hello": say("ready", v=1, name="size")
    elif m["t"] == "ping": say("pong", n=m["n"])
    elif m["t"] == "drain": break
    elif m["t"] == "job":
        try: row = {"file": m["rel"], "bytes": os.stat(m["path"]).st_size}
        except Exception as e: say("result", id=m["id"], status="fail", msg=repr(e)); continue
        say("rows", id=m["id"], seq=0, rows=[row])
        say("result", id=m["id"], status="ok", rows=1, chunks=1)
"#,
    );
    spool.drop_file("a/x", "four");
    spool.drop_file("b", "");
    spool.run(&["batch"]).ok();
    let mut rows = fs::read_to_string(spool.path("results/r.csv")).unwrap();
    rows = rows.lines().skip(1).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(rows, "a/x,4b,0");
}

/// Goal: a shell can be a worker. Method: `read` from and `echo` to the number in `INBOXD_FD`, which is 3
/// unless whoever started inboxd left that one open, as a test beside this one may.
#[test]
fn a_shell_can_be_a_worker() {
    let spool = Spool::new("[routes.r]\nwarm = [\"sh\", \"w.sh\"]\n");
    spool.write(
        "w.sh",
        "[ \"$INBOXD_PROTO\" = inboxd-worker/1 ] || exit 9\n\
         while read -r line <&$INBOXD_FD; do case $line in\n\
         *'\"t\":\"hello\"'*) echo '{\"t\":\"ready\",\"v\":1}' >&$INBOXD_FD ;;\n\
         *'\"t\":\"job\"'*) id=${line#*\\\"id\\\":\\\"}; id=${id%%\\\"*}\n\
         echo noise; echo \"{\\\"t\\\":\\\"result\\\",\\\"id\\\":\\\"$id\\\",\\\"status\\\":\\\"ok\\\"}\" >&$INBOXD_FD ;;\n\
         *'\"t\":\"drain\"'*) exit 0 ;; esac; done\n",
    );
    spool.drop_file("a", "x");
    spool.drop_file("b", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a", "b"], "{}", spool.report());
}

/// Goal: each line of the protocol's table of violations has its consequence for the job.
/// Method: a worker that does one wrong thing with the file `bad`, and right with the next: the reason,
/// and whether the worker was replaced.
#[test]
fn violations_have_their_consequences() {
    for (wrong, reason, kept) in [
        ("raw('x' * (2 << 20) + '\\n')", "protocol: a line of more than 1048576 bytes: xxx", false),
        ("raw('nonsense\\n')", "protocol: not a JSON object: nonsense", false),
        ("raw('[1]\\n')", "protocol: not a JSON object: [1]", false),
        ("say('result', id=m['id'])", "protocol: missing field `status`", false),
        ("say('result', id=7, status='ok')", "protocol: invalid type", false),
        ("done(m, rows=1)", "rows: the result says 1 rows in 0 chunks, 0 in 0 came", true),
        (
            "say('rows', id=m['id'], seq=1, rows=[]); done(m)",
            "rows: seq 1 came where 0 is due",
            true,
        ),
        (
            "say('rows', id=m['id'], seq=0, rows=[[1]]); done(m, rows=1, chunks=1)",
            "rows: a list as a row needs",
            true,
        ),
        (
            "say('rows', id=m['id'], seq=0, rows=[{'a': 'x' * 2000}]); done(m, rows=1, chunks=1)",
            "rows: more than max_staged (1.0 KiB): raise",
            true,
        ),
        (
            "say('rows', id=m['id'], seq=0, file='../x', bytes=1, count=1, sha256='0'); done(m, rows=1, chunks=1)",
            "rows: file ../x is not beneath the scratch folder",
            true,
        ),
        ("os._exit(0)", "exit 0 without a result", false),
        ("sys.stderr.write('why\\n'); sys.stderr.flush(); os._exit(3)", "exit 3: why", false),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL, not by inboxd: out of memory?", false),
        (
            "os.dup2(os.open('/dev/null', 0), int(os.environ['INBOXD_FD'])); time.sleep(600)",
            "the worker closed its connection without a result",
            false,
        ),
        ("time.sleep(600)", "timed out after 4s", false),
    ] {
        let spool = worker(
            &format!("if name == 'bad': {wrong}\nelse: done(m)"),
            "timeout = \"4s\"\nmax_staged = \"1 KiB\"\n",
        );
        spool.drop_file("bad", "x");
        spool.run(&["batch"]).code(3);
        let said = spool.reason("bad");
        assert!(said.starts_with(reason), "{wrong}: {said}");
        fs::write(spool.path("loads.txt"), "").unwrap();
        let mut daemon = spool.daemon();
        spool.drop_file("good1", "x");
        spool.wait_until("good1", || spool.path("done/good1").exists());
        rustix::fs::rename(spool.path("error/bad"), spool.path("incoming/bad")).unwrap();
        spool.wait_until("bad again", || spool.path("error/bad").exists());
        spool.drop_file("good2", "x");
        spool.wait_until("good2", || spool.path("done/good2").exists());
        assert_eq!(loads(&spool), if kept { 1 } else { 2 }, "{wrong}\n{}", spool.report());
        daemon.signal(Signal::TERM);
        daemon.wait();
        assert_eq!(spool.processes(), Vec::<String>::new(), "{wrong}");
    }
}

/// Goal: what is of no harm is ignored, and the job is done. Method: a result twice, one for another
/// job, rows for another job, an unknown type, an unknown field, a log message.
#[test]
fn what_is_of_no_harm_is_ignored() {
    let spool = worker(
        "say('result', id='other', status='ok')\nsay('rows', id='other', seq=0, rows=[])\n\
         say('later', x=1)\nsay('log', id=m['id'], level='warn', msg='odd', kv={'dpi': 71})\n\
         say('rows', id=m['id'], seq=0, rows=[{'a': 1}], later=1)\n\
         done(m, rows=1, chunks=1)\ndone(m, rows=1, chunks=1)",
        "",
    );
    for n in 0..3 {
        spool.drop_file(format!("{n}"), "x");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").column("a"), ["1"; 3], "{}", spool.report());
    assert_eq!(loads(&spool), 1);
    let log = fs::read_to_string(spool.path("log/jobs.1.ndjson")).unwrap_or_default();
    assert!(log.is_empty() || log.contains("warn: odd dpi=71"), "{log}");
}

/// Goal: a worker that does not come up pauses its route and charges no job. Method: each way not to.
#[test]
fn failed_starts_pause_the_route() {
    for (code, why) in [
        ("say('ready', v=2)", "it speaks version 2 of the protocol, not 1"),
        (
            "say('init_error', **{'class': 'permanent', 'msg': 'model.bin is missing'})",
            "model.bin is missing",
        ),
        ("os._exit(127)", "exit 127"),
    ] {
        let spool = Spool::new("[routes.r]\nwarm = [\"$PYTHON\", \"w.py\"]\n");
        spool.write("w.py", &format!(
            "import json, os, socket\nwire = socket.socket(fileno=int(os.environ['INBOXD_FD'])).makefile('rw')\n\
             def say(t, **f):\n    wire.write(json.dumps(dict(f, t=t)) + '\\n'); wire.flush()\n{code}\n"));
        spool.drop_file("a", "x");
        spool.run(&["batch"]).code(1).says(why);
        assert_eq!((spool.errors(), spool.names("done")), (vec![], vec![]), "{code}");
    }
    let spool = Spool::new("[routes.r]\nwarm = [\"no-such-program\"]\n");
    spool.drop_file("a", "x");
    spool.run(&["batch"]).code(1).says("cannot start \"no-such-program\": not found in PATH=");
}

/// Goal: a start that fails now and then is tried again and charges nothing. Method: the first two
/// starts exit, the third works.
#[test]
fn a_start_that_fails_is_tried_again() {
    let spool = worker("done(m)", "");
    let text = fs::read_to_string(spool.path("w.py")).unwrap();
    let early = "import os\nn = len(open('starts.txt').read()) if os.path.exists('starts.txt') else 0\n\
                 open('starts.txt', 'a').write('x')\nif n < 2: os._exit(1)\n";
    spool.write("w.py", &format!("{early}{text}"));
    spool.drop_file("a", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(fs::read_to_string(spool.path("starts.txt")).unwrap(), "xxx");
}

/// Goal: a worker is replaced when it is due, and its successor is ready before it goes. Method:
/// `max_jobs` of 10 and 40 jobs; the loads tell how many workers there were.
#[test]
fn workers_are_replaced() {
    for overlap in [true, false] {
        let spool =
            worker("time.sleep(0.03)\ndone(m)", &format!("max_jobs = 10\noverlap = {overlap}\n"));
        for n in 0..40 {
            spool.drop_file(format!("{n}"), "x");
        }
        spool.run(&["batch"]).ok();
        let loads = loads(&spool);
        assert!((3..=7).contains(&loads), "{loads} workers, overlap {overlap}");
        assert_eq!(spool.processes(), Vec::<String>::new());
    }
}

/// Goal: a worker that is too old or holds too much memory is replaced after its job, and no job suffers.
/// Method: an age and a size that every worker exceeds with its first job; six jobs.
#[test]
fn old_and_large_workers_are_replaced() {
    for limit in ["max_age = \"1ms\"", "max_rss = \"1 MiB\""] {
        let spool = worker("time.sleep(0.01)\ndone(m)", &format!("{limit}\noverlap = false\n"));
        for n in 0..6 {
            spool.drop_file(format!("{n}"), "x");
        }
        spool.run(&["batch"]).ok();
        assert_eq!(spool.names("done").len(), 6, "{limit}");
        let loads = loads(&spool);
        assert!(loads >= 3, "{loads} workers with {limit}");
        assert_eq!(spool.processes(), Vec::<String>::new());
    }
}

/// Goal: where no successor of an idle worker comes up, it is not tried each second for ever: the waits grow.
/// Method: a worker that is to be replaced after its first job and fails each start after its own; the times of these.
#[test]
fn successors_that_fail_are_tried_ever_more_seldom() {
    let spool = worker("done(m)", "max_jobs = 1\n");
    let text = fs::read_to_string(spool.path("w.py")).unwrap();
    let fails = "if os.path.exists('one'):\n    open('fails.txt', 'a').write(f'{time.time()}\\n')\n    sys.exit(1)\n\
                 open('one', 'w').close()\n";
    spool.write("w.py", &text.replace("wire = socket", &format!("{fails}wire = socket")));
    let daemon = spool.daemon();
    spool.drop_file("1", "x");
    let times = || -> Vec<f64> {
        let text = fs::read_to_string(spool.path("fails.txt")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    spool.wait_until("three starts failed", || times().len() >= 3);
    // The second wait is of 2 s, less a quarter at most.
    assert!(times()[2] - times()[1] > 1.4, "{:?}", times());
    assert_eq!(spool.names("done"), ["1"]);
    daemon.end_well();
}

/// Goal: a worker that dies between two jobs is charged to none, even where the next one is already on its
/// way to it; one that never comes to read is. Method: no budget for a crash, forty files, and a worker
/// that ends after each result; one that ends when it is ready.
#[test]
fn a_death_between_two_jobs_charges_none() {
    for transport in ["fd", "stdio"] {
        let settings = format!("transport = \"{transport}\"\n");
        let talk = "done(m)\nos._exit(7)";
        let spool = worker(talk, &settings);
        let text = fs::read_to_string(spool.path("w.py")).unwrap();
        let piped = text
            .replace("wire = socket.socket(fileno=int(os.environ[\"INBOXD_FD\"]))\n", "")
            .replace("wire.makefile(\"r\", encoding=\"utf-8\")", "sys.stdin")
            .replace("wire.makefile(\"w\", encoding=\"utf-8\")", "sys.stdout")
            .replace("wire.write(text)", "wire.write('\\x1e' + text)");
        let text = if transport == "fd" { text } else { piped };
        spool.write("w.py", &text);
        for n in 0..40 {
            spool.drop_file(format!("{n}"), "x");
        }
        spool.run(&["batch"]).ok();
        assert_eq!((spool.names("done").len(), loads(&spool)), (40, 40), "{}", spool.report());
        let features = ", features=os.environ.get(\"FEATURES\", \"\").split())";
        assert!(text.contains(features));
        spool.write("w.py", &text.replace(features, "); os._exit(7)"));
        fs::write(spool.path("loads.txt"), "").unwrap();
        spool.drop_file("never", "x");
        spool.run(&["batch"]).code(3);
        assert!(spool.reason("never").starts_with("exit 7"), "{}", spool.reason("never"));
        assert!(loads(&spool) <= 3, "{}", spool.report());
    }
}

/// Goal: an idle worker does not stay for ever where the route says so, and comes back for the next
/// job. Method: a short time; its process is gone; another file.
#[test]
fn idle_workers_end() {
    let spool = worker("done(m)", "idle_timeout = \"100ms\"\n");
    let _daemon = spool.daemon();
    let workers = || spool.processes().iter().filter(|p| p.contains("w.py")).count();
    for n in 1..=2 {
        spool.drop_file(format!("{n}"), "x");
        spool.wait_until("done", || spool.names("done").len() == n);
        spool.wait_until("no worker", || workers() == 0);
        assert_eq!(loads(&spool), n);
    }
}

/// What happens to a route while its worker, ready or not, has no job, or its last one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    /// It has other settings; the worker is idle.
    Other,
    /// It is removed while a successor is being started.
    Successor,
    /// It is removed while a worker is being started for a job.
    LastJob,
}

/// Such a change with a worker that takes so many jobs; in the end there is none. A start waits as long as
/// there is a file `slow`.
fn outlived(change: Change, at_once: usize) {
    let most = if change == Change::Successor { "max_jobs = 1\n" } else { "" };
    let begin = if change == Change::Successor { "open('slow', 'w').close()\n" } else { "" };
    let spool = worker(&format!("{begin}done(m)"), most);
    let slow = "import os, time\nif os.path.exists('slow'):\n    open('begun', 'w').close()\n    \
                while os.path.exists('slow'): time.sleep(0.01)\n";
    let code = fs::read_to_string(spool.path("w.py")).unwrap();
    let code = code.replace("v=1,", &format!("v=1, concurrency={at_once},"));
    spool.write("w.py", &format!("{slow}{code}"));
    let text = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let (top, route) = text.split_once("[routes.r]\n").unwrap();
    spool.write("inboxd.toml", top);
    spool.write("routes.d/r.toml", route);
    if change == Change::LastJob {
        spool.write("slow", "");
    }
    let daemon = spool.daemon();
    spool.drop_file("a", "x");
    if change != Change::LastJob {
        spool.wait_until("a is done", || spool.names("done").len() == 1);
    }
    if change == Change::Other {
        spool.write("routes.d/r.toml", &format!("{route}max_age = \"1h\"\n"));
    } else {
        spool.wait_until("a worker is on its way", || spool.has("begun"));
        rustix::fs::unlink(spool.path("routes.d/r.toml")).unwrap();
    }
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings reloaded");
    if change != Change::Other {
        rustix::fs::unlink(spool.path("slow")).unwrap();
    }
    let workers = || spool.processes().iter().filter(|p| p.contains("w.py")).count();
    spool.wait_until("a is done", || spool.names("done").len() == 1);
    spool.wait_until(&format!("{change:?}, {at_once}: no worker"), || workers() == 0);
    daemon.end_well();
}

/// Goal: a worker that was started with other settings does not keep its memory until the next job. Method:
/// an idle worker, of one job or several; its route's settings change.
#[test]
fn no_worker_outlives_its_settings() {
    outlived(Change::Other, 1);
    outlived(Change::Other, 3);
}

/// Goal: a successor that becomes ready when its route is gone goes, too. Method: a start that waits.
#[test]
fn no_successor_outlives_its_route() {
    outlived(Change::Successor, 1);
    outlived(Change::Successor, 3);
}

/// Goal: a worker that becomes ready when its route is gone does its job and goes. Method: a start that waits.
#[test]
fn no_new_worker_outlives_its_route() {
    outlived(Change::LastJob, 1);
    outlived(Change::LastJob, 3);
}

/// Goal: the idle workers of many routes leave descriptors for the others. Method: fifty routes, and a limit
/// that fifty workers exceed.
#[test]
fn idle_workers_leave_descriptors() {
    let spool = Spool::new("workers = 2\nrescan = \"100ms\"\n");
    let worker = worker("done(m)", "");
    spool.write("w.py", &fs::read_to_string(worker.path("w.py")).unwrap());
    for n in 0..50 {
        let route = format!("glob = \"{n}-*\"\nwarm = [\"{}\", \"w.py\"]\n", python());
        spool.write(&format!("routes.d/r{n}.toml"), &route);
    }
    let daemon = spool.start_under(&["sh", "-c", "ulimit -n 220; exec \"$0\" \"$@\""], &["run"]);
    daemon.wait_for_log("ready");
    for n in 0..50 {
        spool.drop_file(format!("{n}-a"), "x");
    }
    spool.wait_until("all are done", || {
        let is_told = daemon.log().contains("os error 24");
        assert!(!is_told, "{}", spool.report());
        spool.names("done").len() == 50
    });
    daemon.end_well();
}

/// Goal: `cancel` gives a worker the chance to stop a job without dying. Method: a worker that answers
/// it; a file that takes too long; the same worker does the next.
#[test]
fn cancel_is_heard() {
    let spool = worker(
        "if name != 'slow': done(m); continue\nc = json.loads(heard.readline())\n\
         assert c['t'] == 'cancel' and c['reason'] == 'timeout', c\n\
         say('result', id=m['id'], status='fail', msg='cancelled by ' + c['reason'])",
        "timeout = \"300ms\"\nenv = { FEATURES = \"cancel\" }\n",
    );
    let _daemon = spool.daemon();
    spool.drop_file("slow", "x");
    spool.wait_until("slow", || spool.path("error/slow").exists());
    spool.drop_file("next", "x");
    spool.wait_until("next", || spool.path("done/next").exists());
    assert_eq!(spool.reason("slow"), "cancelled by timeout");
    assert_eq!(loads(&spool), 1);
}

/// Goal: progress keeps a slow job alive, and its absence ends it. Method: one that tells, one that stops.
#[test]
fn progress_keeps_a_job_alive() {
    let spool = worker(
        "for n in range(8):\n    time.sleep(0.1)\n    if name == 'tells': say('progress', id=m['id'], done=n)\n\
         if name != 'tells': time.sleep(600)\ndone(m)",
        "progress_timeout = \"500ms\"\nenv = { FEATURES = \"progress\" }\n",
    );
    spool.drop_file("tells", "x");
    spool.drop_file("silent", "x");
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["tells"], "{}", spool.report());
    assert_eq!(spool.reason("silent"), "no progress for 500ms");
}

/// Goal: a worker that never reads is ended. Method: a hello larger than a socket holds.
#[test]
fn a_worker_that_does_not_read_is_ended() {
    let big = "x".repeat(900_000);
    let spool = Spool::new(&format!(
        "[routes.r]\nwarm = [\"sleep\", \"600\"]\ngrace = \"100ms\"\nconfig = {{ big = \"{big}\" }}\n"
    ));
    spool.drop_file("a", "x");
    let mut daemon = spool.daemon();
    let is_up = || spool.processes().iter().any(|p| p.contains("sleep 600"));
    spool.wait_until("it is started", is_up);
    spool.wait_until("it is ended", || !is_up());
    daemon.signal(Signal::TERM);
    daemon.wait();
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a drain lets jobs finish and leaves no worker. Method: TERM while a job runs.
#[test]
fn a_drain_leaves_no_worker() {
    let spool =
        worker("open('up', 'w')\nwhile not os.path.exists('go'): time.sleep(0.01)\ndone(m)", "");
    let mut daemon = spool.daemon();
    spool.drop_file("a", "x");
    spool.wait_until("it runs", || spool.path("up").exists());
    daemon.signal(Signal::TERM);
    spool.write("go", "");
    daemon.wait();
    assert_eq!(spool.names("done"), ["a"], "{}", spool.report());
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a log or a pid file among the arguments, which the worker writes itself, does not end it after each job; what
/// others change does. Method: five jobs; then another one's change of a further argument, of the pid file and of the
/// script.
#[test]
fn files_that_a_worker_writes_itself_do_not_end_it() {
    let spool = worker(
        "if jobs == 1: print(os.getpid(), file=open('own.pid', 'w'))\nlog.write(name + '\\n')\ndone(m)",
        "",
    );
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let args = "\"w.py\", \"own.log\", \"own.pid\", \"model\"]";
    spool.write("inboxd.toml", &settings.replace("\"w.py\"]", args));
    let script = std::fs::read_to_string(spool.path("w.py")).unwrap();
    spool.write("w.py", &format!("log = open('own.log', 'a', buffering=1)\n{script}"));
    for name in ["own.log", "own.pid", "model"] {
        spool.write(name, "");
    }
    let daemon = spool.daemon();
    let mut count = 0;
    let mut job = || {
        count += 1;
        let name = count.to_string();
        spool.drop_file(&name, "x");
        spool.wait_until("it is done", || spool.path("done").join(&name).exists());
        loads(&spool)
    };
    for _ in 0..5 {
        assert_eq!(job(), 1, "{}", spool.report());
    }
    for (at, (name, text)) in
        [("model", "other"), ("own.pid", "1\n"), ("w.py", "")].into_iter().enumerate()
    {
        let old = std::fs::read_to_string(spool.path(name)).unwrap();
        spool.write(name, &format!("{text}{old}\n"));
        assert_eq!(job(), at + 2, "{name}: {}", spool.report());
        assert_eq!(job(), at + 2, "{name}: {}", spool.report());
    }
    daemon.end_well();
}
