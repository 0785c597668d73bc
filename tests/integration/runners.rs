//! Kind `http` with the real binary, against real servers: Python's own, and `FastAPI` in uvicorn.
//!
//! Must not know: how a request is made or sent.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{PATIENCE, Spool, alive, python, send, wait_until};

/// A runner of a few lines. Each request is a line in `requests.txt`: time, path, body, job, attempt.
const RUNNER: &str = r#"
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Runner(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def setup(self):
        super().setup()
        with open("connections.txt", "a") as f: f.write("x")
    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/ready": return self.answer(200 if os.path.exists("ready") else 503)
        customer = self.path.rsplit("/", 1)[-1]
        details = [{"id": f"{customer}-{k}", "score": k / 10} for k in range(2)]
        self.answer(200, json.dumps({"details": details}).encode())
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("requests.txt", "a") as f:
            f.write(f"{time.time()} {self.path} {body.decode()} {self.headers['INBOXD-Job']} {self.headers['INBOXD-Attempt']}\n")
        job = json.loads(body)
        if job.get("die"): os._exit(3)
        if job.get("token") and self.headers["Authorization"] != "Bearer " + job["token"]:
            return self.answer(401, b'{"error": "no such token"}')
        if job.get("sleep"): time.sleep(job["sleep"])
        if job.get("print"): print(job["print"], flush=True)
        if "status" in job:
            seen = sum(self.headers["INBOXD-Job"] in line for line in open("requests.txt"))
            if seen > job.get("times", 1000): return self.answer(200)
            return self.answer(job["status"], job.get("body", "").encode(), **job.get("headers", {}))
        self.answer(200, json.dumps({"result": job}).encode())
class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
if len(sys.argv) > 2: time.sleep(float(sys.argv[2]))
with open("starts.txt", "a") as f: f.write(f"{os.getpid()}\n")
Server(("127.0.0.1", int(sys.argv[1])), Runner).serve_forever()
"#;

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server of ours, ended with its test.
struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Server {
    fn start(spool: &Spool, mut command: Command, port: u16) -> Self {
        command.current_dir(spool.root()).stdin(Stdio::null());
        let log = fs::File::create(spool.home().join("logs/server.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let server = Self { child: command.spawn().unwrap() };
        let is_there = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("the server listens", PATIENCE, || spool.report(), is_there);
        server
    }

    /// The runner above.
    fn runner(spool: &Spool, port: u16) -> Self {
        let mut command = Command::new(python());
        command.args(["runner.py", &port.to_string()]);
        Self::start(spool, command, port)
    }
}

/// A spool whose route asks a runner at this port.
fn asking(port: u16, settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 2\n[routes.echo]\nhttp = \"http://127.0.0.1:{port}/run/echo\"\ntrace_columns = false\n{settings}"
    ));
    spool.write("runner.py", RUNNER);
    spool
}

/// What a runner that inboxd starts has besides.
fn starting(port: u16) -> String {
    format!("start = [\"{}\", \"runner.py\", \"{port}\"]\ngrace = \"300ms\"\n", python())
}

/// The requests so far: time in seconds, and the rest of the line.
fn requests(spool: &Spool) -> Vec<(f64, String)> {
    let text = fs::read_to_string(spool.path("requests.txt")).unwrap_or_default();
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    lines.map(|(time, rest)| (time.parse().unwrap(), rest.to_owned())).collect()
}

fn starts(spool: &Spool) -> Vec<u32> {
    let text = fs::read_to_string(spool.path("starts.txt")).unwrap_or_default();
    text.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// Goal: the seed's scenario of a runner, to the letter: each status means what its table says, the body
/// is kept, a wait that is asked for is kept. Method: one file a status against Python's own server.
#[test]
fn statuses_mean_what_the_table_says() {
    let port = free_port();
    let spool = asking(port, "retries = { try_again = 2 }\ntry_again_after = [\"100ms\"]\n");
    let _server = Server::runner(&spool, port);
    spool.drop_file("ok.json", r#"{"text":"hi"}"#);
    spool.drop_file("400.json", r#"{"status":400,"body":"no such field: imge\nline 2"}"#);
    spool.drop_file("422.json", r#"{"status":422,"body":"{\"detail\":\"not an image\"}"}"#);
    spool.drop_file("500.json", r#"{"status":500,"body":"Traceback\nKeyError: 'x'"}"#);
    let wait = r#"{"status":503,"times":1,"headers":{"Retry_After":"2"}}"#;
    spool.drop_file("503.json", wait);
    spool.run(&["batch"]).code(3);
    let csv = spool.csv("echo");
    assert_eq!(csv.header(), "result", "{}", spool.report());
    assert_eq!(csv.sorted(), [r#"{"text": "hi"}"#.replace(' ', "")]);
    assert_eq!(spool.names("done"), ["503.json", "ok.json"]);
    let all = requests(&spool);
    let count = |status: &str| all.iter().filter(|(_, line)| line.contains(status)).count();
    assert_eq!((count(":400"), count(":422"), count(":500"), count(":503")), (1, 1, 3, 2));
    for (name, reason, attempts, kept) in [
        ("400.json", "HTTP 400 Bad Request: no such field: imge", 1, "line 2"),
        ("422.json", "HTTP 422 Unprocessable Entity: not an image", 1, "{\"detail\""),
        ("500.json", "HTTP 500 Internal Server Error: Traceback", 3, "KeyError: 'x'"),
    ] {
        assert_eq!(spool.reason(name), reason);
        let why = spool.why(name);
        assert_eq!(why["attempts"], attempts, "{why}");
        assert!(why["stderr"].as_str().unwrap().contains(kept), "{why}");
        spool.run(&["log", name]).ok().says(kept);
    }
    let times: Vec<f64> =
        all.iter().filter(|(_, line)| line.contains(":503")).map(|(time, _)| *time).collect();
    assert!(times[1] - times[0] >= 2.0, "{times:?}");
    // The same job each time, its attempts counted.
    let of_500: Vec<&str> =
        all.iter().filter(|(_, line)| line.contains(":500")).map(|(_, line)| &**line).collect();
    let ids: Vec<&str> = of_500.iter().map(|line| line.rsplit(' ').nth(1).unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{of_500:?}");
    assert_eq!(of_500.iter().map(|l| l.chars().last().unwrap()).collect::<String>(), "123");
}

/// Goal: a runner that is not there is tried again as often as asked, and then the file is in `error/`.
/// Method: the seed's route without a server; `check` and `try` say so, too.
#[test]
fn a_runner_that_is_not_there_is_tried_again() {
    let port = free_port();
    let spool = asking(port, "retries = { try_again = 2 }\ntry_again_after = [\"50ms\"]\n");
    spool.run(&["init"]).fails();
    let nobody = format!("nobody answers at http://127.0.0.1:{port}");
    spool.run(&["check"]).ok().says(&nobody);
    spool.drop_file("a.json", "{}");
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.reason("a.json"), format!("connection refused: http://127.0.0.1:{port}"));
    assert_eq!(spool.why("a.json")["attempts"], 3, "{}", spool.report());
    spool.write_home("b.json", "{\"text\":\"hi\"}");
    spool.run(&["try", "echo", "b.json"]).code(3).says("connection refused");
    let _server = Server::runner(&spool, port);
    spool.run(&["check"]).ok().says(&format!("POST http://127.0.0.1:{port}/run/echo"));
    let out = spool.run(&["try", "echo", "b.json"]).ok();
    assert_eq!(out.stdout(), "result\n\"{\"\"text\"\":\"\"hi\"\"}\"\n");
}

/// Goal: settings that cannot be asked are refused with line and remedy. Method: a bad URL.
#[test]
fn a_bad_address_is_refused() {
    let spool = Spool::new("[routes.r]\nhttp = \"127.0.0.1:5055\"\n");
    spool.run(&["check"]).code(2).says("does not begin with http:// or https://");
}

/// Goal: a REST service is asked about each id, its list becomes rows that name the id. Method: the
/// customers' columns, one file an id, by GET with the id in the address.
#[test]
fn a_rest_service_gives_rows() {
    let port = free_port();
    let spool = Spool::new(&format!(
        "workers = 4\n[routes.rest]\nhttp = \"http://127.0.0.1:{port}/endpoint/{{customer_id}}\"\n\
         method = \"GET\"\nrows = \"/details\"\ntrace_columns = false\n\
         columns = {{ customer = \"{{customer_id}}\", id = \"/id\", score = \"/score\", rank = \"/rank\" }}\n"
    ));
    spool.write("runner.py", RUNNER);
    let _server = Server::runner(&spool, port);
    for id in 1..=20 {
        spool.drop_file(format!("{id}"), format!("{{\"customer_id\":\"{id}\"}}"));
    }
    spool.run(&["batch"]).ok();
    let csv = spool.csv("rest");
    assert_eq!(csv.header(), "customer,id,score,rank");
    let mut want: Vec<String> =
        (1..=20).flat_map(|id| (0..2).map(move |k| format!("{id},{id}-{k},0.{k},"))).collect();
    want.sort();
    assert_eq!(csv.sorted(), want, "{}", spool.report());
}

/// Goal: a runner of ours is started once, for the first file, by itself; what it prints is in the job
/// log; it is gone with the run. Method: a slow start, several files at once.
#[test]
fn a_runner_of_ours_is_started_once() {
    let port = free_port();
    let spool =
        asking(port, &format!("start = [\"{}\", \"runner.py\", \"{port}\", \"0.5\"]\n", python()));
    for n in 0..10 {
        spool.drop_file(
            format!("{n}.json"),
            format!("{{\"n\":{n},\"print\":\"from the runner {n}\"}}"),
        );
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("echo").rows.len(), 10, "{}", spool.report());
    assert_eq!(starts(&spool).len(), 1);
    assert_eq!(spool.processes(), Vec::<String>::new());
    let logs = spool.files("log").into_values().flatten().collect::<Vec<u8>>();
    assert!(String::from_utf8_lossy(&logs).contains("from the runner 9"), "{}", spool.report());
}

/// Goal: ready is what `ready_url` says, not an open port. Method: a runner that answers 503 there until
/// a file is made.
#[test]
fn a_runner_is_ready_when_it_says_so() {
    let port = free_port();
    let settings = format!("{}ready_url = \"http://127.0.0.1:{port}/ready\"\n", starting(port));
    let spool = asking(port, &settings);
    spool.drop_file("a.json", "{}");
    let daemon = spool.daemon();
    spool.wait_until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert_eq!(requests(&spool).len(), 0);
    spool.write("ready", "");
    spool.wait_until("done", || spool.names("done").len() == 1);
    assert!(daemon.end().success());
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a runner that dies is charged to the job that killed it and started again for the next.
/// Method: a file that ends it, then others; a kill from outside while idle charges nobody.
#[test]
fn a_runner_that_dies_is_started_again() {
    let port = free_port();
    let spool = asking(port, &format!("{}retries = {{ crash = 1 }}\n", starting(port)));
    let _daemon = spool.daemon();
    spool.drop_file("a.json", "{}");
    spool.wait_until("a is done", || spool.names("done").len() == 1);
    spool.drop_file("die.json", "{\"die\":true}");
    spool.wait_until("die failed", || spool.errors().len() == 1);
    assert_eq!(spool.reason("die.json"), "the runner died: exit 3");
    assert_eq!(spool.why("die.json")["attempts"], 2, "{}", spool.report());
    spool.drop_file("b.json", "{}");
    spool.wait_until("b is done", || spool.names("done").len() == 2);
    assert_eq!(starts(&spool).len(), 3);
    let last = starts(&spool)[2];
    send(last, Signal::KILL);
    spool.wait_until("it is gone", || !alive(last));
    spool.drop_file("c.json", "{}");
    spool.wait_until("c is done", || spool.names("done").len() == 3);
    assert_eq!(spool.errors().len(), 1);
}

/// Goal: a runner that dies on everything does not eat its files for ever: after as many deaths as failed
/// starts are allowed its route pauses, people are told how it died, and it goes on once it is mended.
/// Method: a file that ends its runner, with budget for many more; the same spool with a runner that lives.
#[test]
fn a_runner_that_dies_again_and_again_pauses_the_route() {
    let port = free_port();
    let budget = "retries = { crash = 20, first_wait = \"10ms\", longest_wait = \"10ms\" }\n";
    let spool = asking(port, &format!("{}{budget}", starting(port)));
    spool.drop_file("die.json", "{\"die\":true}");
    let said = "route echo PAUSED: the runner died 5 times in a row: exit 3";
    let output = spool.run(&["batch"]).code(1).says(said).says("1 file waits");
    assert_eq!((starts(&spool).len(), requests(&spool).len()), (5, 5), "{output}");
    assert_eq!((spool.errors(), spool.names("done")), (Vec::new(), Vec::new()));
    assert_eq!(spool.processes(), Vec::<String>::new());
    spool.write("runner.py", &RUNNER.replace("os._exit(3)", "pass"));
    spool.run(&["batch"]).ok();
    assert_eq!((spool.names("done"), starts(&spool).len()), (vec!["die.json".to_owned()], 6));
}

/// Goal: who killed a runner of ours is found, and those who were asked about beside it pay nothing. Method:
/// one file that ends it while three others hang in it; no budget for a crash; attempts are the first.
#[test]
fn a_runners_killer_is_found() {
    let port = free_port();
    let settings = format!("{}retries = {{ crash = 0 }}\n", starting(port));
    let spool = asking(port, &settings);
    let text = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write("inboxd.toml", &text.replace("workers = 2", "workers = 4"));
    let _daemon = spool.daemon();
    for name in ["a", "b", "c"] {
        spool.drop_file(format!("{name}.json"), "{\"sleep\":1.5}");
    }
    spool.wait_until("three hang", || requests(&spool).len() == 3);
    spool.drop_file("die.json", "{\"die\":true}");
    spool.wait_until("all are over", || spool.names("done").len() + spool.errors().len() == 4);
    assert_eq!(spool.errors(), ["die.json"], "{}", spool.report());
    assert_eq!(spool.reason("die.json"), "the runner died: exit 3");
    let of = |name: &str| requests(&spool).iter().filter(|(_, l)| l.contains(name)).count();
    assert_eq!((of("die"), requests(&spool).len()), (2, 8), "{}", spool.report());
    assert!(requests(&spool).iter().all(|(_, line)| line.ends_with(" 1")), "{}", spool.report());
}

/// Goal: a route that is called otherwise has its runner at once: the old one's port is free first. Method: a
/// runner that takes its time to end; its route's file is renamed, with a file for the new name there.
#[test]
fn a_renamed_route_has_its_runner() {
    let port = free_port();
    let spool = asking(port, "");
    let text = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let (top, route) = text.split_once("[routes.echo]\n").unwrap();
    spool.write("inboxd.toml", top);
    let start = starting(port).replace("300ms", "20s");
    spool.write("routes.d/echo.toml", &format!("{route}{start}"));
    let slow =
        "import signal\nsignal.signal(signal.SIGTERM, lambda *a: (time.sleep(1), os._exit(0)))\n";
    spool.write("runner.py", &RUNNER.replace("class Runner", &format!("{slow}class Runner")));
    let daemon = spool.daemon();
    spool.drop_file("a.json", "{}");
    spool.wait_until("a is done", || spool.names("done").len() == 1);
    let (old, new) = (spool.path("routes.d/echo.toml"), spool.path("routes.d/other.toml"));
    rustix::fs::rename(old, new).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings reloaded");
    spool.drop_file("b.json", "{}");
    let is_told = || spool.names("done").len() == 2 || daemon.log().contains("paused");
    spool.wait_until("b is done", is_told);
    assert_eq!(spool.names("done").len(), 2, "{}", daemon.log());
    daemon.end_well();
}

/// Goal: a job that its route still had when that was renamed leaves no runner behind: it would hold the port of the
/// one that is called otherwise now, for ever. Method: a job that is tried again after its route's file was renamed,
/// and then one of the new name.
#[test]
fn a_runner_goes_with_the_last_job_of_its_route() {
    let port = free_port();
    let spool = asking(port, "");
    let text = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let (top, route) = text.split_once("[routes.echo]\n").unwrap();
    spool.write("inboxd.toml", top);
    let settings = format!("{route}{}try_again_after = \"3s\"\n", starting(port));
    spool.write("routes.d/echo.toml", &settings);
    let daemon = spool.daemon();
    spool.drop_file("a.json", "{\"status\":503,\"times\":1}");
    daemon.wait_for_log("attempt failed");
    let (old, new) = (spool.path("routes.d/echo.toml"), spool.path("routes.d/other.toml"));
    rustix::fs::rename(old, new).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings reloaded");
    spool.wait_until("a is done", || spool.names("done").len() == 1);
    spool.drop_file("b.json", "{}");
    let is_told = || spool.names("done").len() == 2 || daemon.log().contains("paused");
    spool.wait_until("b is done", is_told);
    assert_eq!(spool.names("done").len(), 2, "{}", daemon.log());
    let running = starts(&spool).into_iter().filter(|pid| alive(*pid)).count();
    assert_eq!((starts(&spool).len(), running), (3, 1), "{}", spool.report());
    daemon.end_well();
}

/// Goal: a runner whose file was put in place of another as it was elsewhere is started anew, though its interpreter
/// is younger than both. Method: two files of long ago.
#[test]
fn an_old_file_in_place_of_another_is_a_change() {
    use std::time::SystemTime;
    let port = free_port();
    let spool = asking(port, &starting(port));
    let put = |text: &str, seconds: u64| {
        spool.write("new.py", text);
        let file = fs::File::options().write(true).open(spool.path("new.py")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        rustix::fs::rename(spool.path("new.py"), spool.path("runner.py")).unwrap();
    };
    put(RUNNER, 1_000_000);
    let _daemon = spool.daemon();
    spool.drop_file("a.json", "{}");
    spool.wait_until("a is done", || spool.names("done").len() == 1);
    put(&RUNNER.replace("{\"result\": job}", "{\"result\": \"new\"}"), 2_000_000);
    spool.drop_file("b.json", "{}");
    spool.wait_until("b is done", || spool.names("done").len() == 2);
    assert_eq!(starts(&spool).len(), 2, "{}", spool.report());
}

/// Goal: wrong credentials cost no file: the route pauses and says where they belong. Method: a runner that
/// wants a token; without it, with a wrong one, with the right one.
#[test]
fn wrong_credentials_pause_the_route() {
    let port = free_port();
    let spool = asking(port, "headers = { Authorization = \"Bearer $env:TOKEN\" }\n");
    let _server = Server::runner(&spool, port);
    for n in 0..3 {
        spool.drop_file(format!("{n}.json"), "{\"token\":\"right\"}");
    }
    let said = "route echo PAUSED: HTTP 401 Unauthorized: no such token (see `headers`)";
    spool.run_under(&["env", "TOKEN=wrong"], &["batch"], b"").code(1).says(said);
    assert_eq!((spool.errors(), spool.names("done")), (Vec::new(), Vec::new()));
    spool.run_under(&["env", "TOKEN=right"], &["batch"], b"").ok();
    assert_eq!(spool.names("done").len(), 3, "{}", spool.report());
}

/// Goal: a runner that cannot start pauses its route with the fix, and no file is lost; mended, it goes
/// on. Method: no program, an immediate exit, a port that is taken; then a good one.
#[test]
fn a_runner_that_cannot_start_pauses_the_route() {
    let port = free_port();
    let rewrite = |spool: &Spool, line: &str| {
        let root = if rustix::process::geteuid().is_root() { "allow_root = true\n" } else { "" };
        let text = format!("{root}[routes.echo]\nhttp = \"http://127.0.0.1:{port}/\"\n{line}\n");
        spool.write("inboxd.toml", &text);
    };
    let spool = asking(port, "");
    spool.drop_file("a.json", "{}");
    let good = starting(port);
    rewrite(&spool, "start = [\"uvicorn-that-is-not-there\", \"app:app\"]");
    let missing = "cannot start \"uvicorn-that-is-not-there\": not found in PATH=";
    spool.run(&["check"]).code(2).says(missing);
    spool.run(&["batch"]).code(1).says(missing);
    rewrite(&spool, "start = [\"sh\", \"-c\", \"echo no model.bin >&2; exit 127\"]");
    spool.run(&["batch"]).code(1).says("exit 127: no model.bin before it was ready");
    {
        let _other = Server::runner(&spool, port);
        rewrite(&spool, &good);
        spool.run(&["batch"]).code(1).says("is served by another process");
    }
    assert_eq!((spool.errors(), spool.names("done")), (Vec::new(), Vec::new()));
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a.json"]);
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a drain lets a request finish; a second signal does not wait for it, and its file runs again.
/// Method: a runner that sleeps; TERM once; TERM twice; then the restart.
#[test]
fn a_drain_lets_requests_finish_and_can_hurry() {
    let port = free_port();
    let spool = asking(port, &starting(port));
    let mut daemon = spool.daemon();
    spool.drop_file("slow.json", "{\"sleep\":1}");
    spool.wait_until("asked", || requests(&spool).len() == 1);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert_eq!(spool.names("done"), ["slow.json"]);
    assert_eq!(spool.processes(), Vec::<String>::new());

    let mut daemon = spool.daemon();
    spool.drop_file("hang.json", "{\"sleep\":50}");
    spool.wait_until("asked", || requests(&spool).len() == 2);
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("draining");
    let begun = std::time::Instant::now();
    daemon.signal(Signal::TERM);
    daemon.wait();
    assert!(begun.elapsed() < Duration::from_secs(10), "{}", spool.report());
    assert_eq!(spool.processes(), Vec::<String>::new());
    assert_eq!((spool.errors(), spool.names("processing").len()), (Vec::new(), 1));
}

/// `FastAPI` and uvicorn from the package index, installed once into `target/`: the folder of their
/// programs. None where they cannot be had, which only CI takes for a failure.
fn fastapi() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fastapi-venv");
    let ready = target.join("installed");
    let lock = fs::File::create(target.with_extension("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let install = |program: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_done = output.status.success();
        assert!(is_done || std::env::var_os("CI").is_none(), "{}: {said}", program.display());
        if !is_done {
            eprintln!("skipped: no FastAPI here: {said}");
        }
        is_done
    };
    if !ready.exists() {
        let (folder, pip) = (target.to_str().unwrap(), target.join("bin/pip"));
        let quiet = ["install", "-q", "--disable-pip-version-check"];
        let wanted = ["fastapi>=0.110,<1", "uvicorn>=0.29,<1"];
        let is_done = install(Path::new(python()), &["-m", "venv", "--clear", folder])
            && install(&pip, &[&quiet[..], &wanted[..]].concat());
        if !is_done {
            return None;
        }
        fs::write(&ready, "").unwrap();
    }
    Some(target.join("bin"))
}

/// Goal: a real runner works as its users write it, started by us. Method: `FastAPI` with a model and
/// a route in uvicorn; good, invalid and failing messages, keep-alive over all of them.
#[test]
fn a_fastapi_runner_works() {
    let Some(bin) = fastapi() else { return };
    let port = free_port();
    let spool = Spool::new(&format!(
        "workers = 4\n[routes.label]\nhttp = \"http://127.0.0.1:{port}/run/label\"\nrows = \"/result\"\n\
         start = [\"{}\", \"app:app\", \"--port\", \"{port}\"]\nready_url = \"http://127.0.0.1:{port}/docs\"\n\
         body = {{ text = \"{{/payload/text}}\", file = \"{{name}}\" }}\ntrace_columns = false\n\
         retries = {{ try_again = 1 }}\ntry_again_after = \"50ms\"\n",
        bin.join("uvicorn").display()
    ));
    spool.write(
        "app.py",
        "from fastapi import FastAPI, HTTPException\nfrom pydantic import BaseModel\napp = FastAPI()\n\
         class Message(BaseModel):\n    text: str\n    file: str\n\
         @app.post('/run/label')\ndef label(m: Message):\n\
         \x20   if m.text == 'boom': raise ValueError('cannot label boom')\n\
         \x20   if m.text == 'late': raise HTTPException(503, 'loading', {'Retry-After': '1'})\n\
         \x20   return {'result': {'file': m.file, 'label': m.text.upper(), 'score': 0.50}}\n",
    );
    for n in 0..40 {
        spool.drop_file(format!("{n}.json"), format!("{{\"payload\":{{\"text\":\"t{n}\"}}}}"));
    }
    spool.drop_file("invalid.json", "{\"payload\":{\"text\":7}}");
    spool.drop_file("lacks.json", "{\"payload\":{}}");
    spool.drop_file("boom.json", "{\"payload\":{\"text\":\"boom\"}}");
    spool.drop_file("late.json", "{\"payload\":{\"text\":\"late\"}}");
    spool.run(&["batch"]).code(3);
    let csv = spool.csv("label");
    assert_eq!((csv.header(), csv.rows.len()), ("file,label,score".to_owned(), 40));
    assert!(csv.sorted().contains(&"7.json,T7,0.5".to_owned()));
    for (name, reason, attempts) in [
        (
            "invalid.json",
            "HTTP 422 Unprocessable Entity: body.text: Input should be a valid string",
            1,
        ),
        ("lacks.json", "the file has no member at /payload/text", 1),
        ("boom.json", "HTTP 500 Internal Server Error: Internal Server Error", 2),
        ("late.json", "HTTP 503 Service Unavailable: loading", 2),
    ] {
        assert_eq!(spool.reason(name), reason);
        assert_eq!(spool.why(name)["attempts"], attempts, "{name}");
    }
    let logs = spool.files("log").into_values().flatten().collect::<Vec<u8>>();
    assert!(String::from_utf8_lossy(&logs).contains("ValueError: cannot label boom"));
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a runner that never becomes ready does not hold its files for ever, nor eat them. Method: one that
/// sleeps, with a short time to start; the route pauses after as many starts as are allowed.
#[test]
fn a_runner_that_never_gets_ready_pauses_the_route() {
    let port = free_port();
    let settings = "start = [\"sleep\", \"600\"]\nstart_timeout = \"100ms\"\ngrace = \"100ms\"\n";
    let spool = asking(port, settings);
    spool.drop_file("a.json", "{}");
    let said = format!("cannot start sleep 600: http://127.0.0.1:{port} not ready within 100ms");
    spool.run(&["batch"]).code(1).says(&said);
    assert_eq!((spool.errors(), spool.processes()), (Vec::new(), Vec::new()));
}

/// Goal: files that wait for a runner that cannot start are told so together: none holds its slot for starts
/// of its own. Method: a runner that ends once all files are under way; it is started for one of them.
#[test]
fn a_runner_that_cannot_start_is_tried_for_one_of_those_who_wait() {
    let port = free_port();
    let script = "echo $$ >> starts.txt; until [ $(ls -d processing/*.1 | wc -l) = 2 ]; do sleep 0.1; done; \
                  sleep 1; exit 127";
    let spool = asking(port, &format!("start = [\"sh\", \"-c\", \"{script}\"]\n"));
    spool.drop_file("a.json", "{}");
    spool.drop_file("b.json", "{}");
    spool.run(&["batch"]).code(1).says("route echo PAUSED").says("2 files wait");
    assert_eq!((starts(&spool).len(), spool.errors()), (1, Vec::new()));
}

/// Goal: HTTPS works with certificates that the system trusts, and a runner that cannot be trusted pauses
/// its route and gets no file. Method: an authority of our own, named by `SSL_CERT_FILE` or not.
#[test]
fn a_runner_is_trusted_by_its_certificate() {
    if std::env::var_os("CI").is_none() && Command::new("openssl").arg("version").output().is_err()
    {
        eprintln!("skipped: no openssl here");
        return;
    }
    let port = free_port();
    let spool = Spool::new(&format!(
        "workers = 2\n[routes.r]\nhttp = \"https://127.0.0.1:{port}/\"\ntrace_columns = false\n"
    ));
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca -addext basicConstraints=critical,CA:TRUE && \
                openssl req -newkey rsa:2048 -nodes -keyout key.pem -out req.pem -subj /CN=runner && \
                printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' > ext && \
                openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem";
    let made = Command::new("sh").args(["-ec", script]).current_dir(spool.home()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    spool.write(
        "tls.py",
        "import ssl, sys\nfrom http.server import BaseHTTPRequestHandler, ThreadingHTTPServer\n\
         class Runner(BaseHTTPRequestHandler):\n    protocol_version = 'HTTP/1.1'\n\
         \x20   def do_POST(self):\n\
         \x20       text = self.rfile.read(int(self.headers['Content-Length']))\n\
         \x20       answer = b'{\"bytes\": %d}' % len(text)\n        self.send_response(200)\n\
         \x20       self.send_header('Content-Length', str(len(answer)))\n        self.end_headers()\n\
         \x20       self.wfile.write(answer)\n\
         server = ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Runner)\n\
         context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
         context.load_cert_chain('../cert.pem', '../key.pem')\n\
         server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)\n\
         server.serve_forever()\n",
    );
    let mut command = Command::new(python());
    command.args(["tls.py", &port.to_string()]);
    let _server = Server::start(&spool, command, port);
    for n in 0..6 {
        spool.drop_file(format!("{n}"), "x".repeat(n * 100_000));
    }
    let why = format!("route r PAUSED: cannot trust https://127.0.0.1:{port}: ");
    spool.run(&["batch"]).code(1).says(&why).says("UnknownIssuer");
    assert_eq!(spool.errors(), Vec::<String>::new());
    let authority = format!("SSL_CERT_FILE={}", spool.home().join("ca.pem").display());
    spool.run_under(&["env", &authority], &["batch"], b"").ok();
    let want = ["0", "100000", "200000", "300000", "400000", "500000"];
    assert_eq!(spool.csv("r").sorted(), want, "{}", spool.report());
}

/// Goal: who reads the settings again loses no kept connection to a runner that is not ours. Method: a job, other
/// settings elsewhere, a job; again until no connection was made for the second, which is closed after four seconds.
#[test]
fn a_reload_keeps_connections() {
    let port = free_port();
    let spool = asking(port, "");
    let _server = Server::runner(&spool, port);
    let daemon = spool.daemon();
    let connections =
        || fs::read_to_string(spool.path("connections.txt")).map_or(0, |all| all.len());
    let mut round = 0;
    let mut job = |tag: &str| {
        let name = format!("{round}-{tag}.json");
        spool.drop_file(&name, "{}");
        spool.wait_until("it is done", || spool.has(&format!("done/{name}")));
        round += 1;
    };
    let mut reloads = 0;
    spool.wait_until("a job over a kept connection", || {
        job("before");
        let before = connections();
        reloads += 1;
        let other = format!("glob = \"none\"\ncommand = [\"true\", \"{reloads}\"]\n");
        spool.write("routes.d/other.toml", &other);
        daemon.signal(Signal::HUP);
        let told = || daemon.log().matches("settings reloaded").count();
        spool.wait_until("it is in force", || told() >= reloads);
        job("after");
        connections() == before
    });
    daemon.end_well();
}

/// Goal: the access log and the pid file of a runner that is ours do not end it after each job. Method: both as arguments
/// of `start`, a line written after each answer; its starts after four jobs.
#[test]
fn files_that_a_runner_writes_itself_do_not_end_it() {
    let port = free_port();
    let start = format!(
        "start = [\"{}\", \"logs.py\", \"{port}\", \"0\", \"access.log\", \"run.pid\"]\ngrace = \"300ms\"\n",
        python()
    );
    let spool = asking(port, &start);
    spool.write(
        "logs.py",
        "import os\nlog = open('access.log', 'a', buffering=1)\nopen('run.pid', 'w').write(f'{os.getpid()}\\n')\n\
         text = open('runner.py').read()\n\
         exec(text.replace('job = json.loads(body)', 'job = json.loads(body); log.write(\"x\\\\n\")'))\n",
    );
    let daemon = spool.daemon();
    for n in 0..4 {
        let name = format!("{n}.json");
        spool.drop_file(&name, "{}");
        spool.wait_until("it is done", || spool.has(&format!("done/{name}")));
    }
    let starts = fs::read_to_string(spool.path("starts.txt")).unwrap();
    assert_eq!(starts.lines().count(), 1, "{}", spool.report());
    daemon.end_well();
}
