//! Inputs of many records: a million ids asked of a service, one at a time, and none lost or twice.
//!
//! Must not know: how records are split off, handed out or recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Csv, PATIENCE, Spool, python, send};

/// As the service was found, but for its port: each request is answered by the rest of the id by 50.
const SERVER: &str = r#"import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Rest(BaseHTTPRequestHandler):
    def do_GET(self):
        c = self.path[1:]; r = int(c) % 50
        good = {"details": [{"id": f"{c}-{k}", "relevanceScore": k / 10, "relevanceRank": k} for k in range(3)]}
        body = b"{not json" if r == 8 else json.dumps({} if r == 9 else good).encode()
        self.send_response(500 if r == 7 else 200); self.end_headers(); self.wfile.write(body)
ThreadingHTTPServer(("127.0.0.1", 8099), Rest).serve_forever()
"#;

/// As the function was found, but for the port.
const CUSTOMERS: &str = r#"import json, urllib.request
def details(customer_id: str):
    found = json.load(urllib.request.urlopen(f"http://127.0.0.1:8099/{customer_id}"))["details"]
    return [{"customer": customer_id, "id": d["id"], "score": d["relevanceScore"], "rank": d["relevanceRank"]} for d in found]
"#;

/// The service, ended on drop.
struct Server(Child);

impl Server {
    fn start(code: &str, port: u16) -> Self {
        let code = code.replace("8099", &port.to_string());
        let quiet = || Stdio::null();
        let child = Command::new(python())
            .args(["-c", &code])
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        let server = Self(child);
        crate::harness::wait_until("the service answers", PATIENCE, String::new, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A spool whose records are ids asked of the service.
fn customers(port: u16, settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 10\n[routes.customers]\nrecords = \"csv\"\ninterpreter = \"$PYTHON\"\n\
         python = \"customers.py:details\"\nretries = {{ fail = 0 }}\ntrace_columns = false\n{settings}"
    ));
    spool.write("customers.py", &CUSTOMERS.replace("8099", &port.to_string()));
    spool
}

fn ids(to: u32) -> String {
    (1..=to).map(|id| format!("{id}\n")).fold("customer_id\n".to_owned(), |all, id| all + &id)
}

/// The rows that the service's rule gives for these ids.
fn rows(ids: impl Iterator<Item = u32>) -> BTreeSet<String> {
    ids.flat_map(|id| (0..3).map(move |k| format!("{id},{id}-{k},{}.{k},{k}", 0))).collect()
}

fn is_bad(id: u32) -> bool {
    [7, 8, 9].contains(&(id % 50))
}

/// All segments of a route as one table: the header, and the rows, which must be distinct.
fn table(spool: &Spool, route: &str) -> (String, BTreeSet<String>) {
    let (mut header, mut all) = (String::new(), BTreeSet::new());
    for csv in segments(spool, route) {
        header = csv.header();
        for row in csv.sorted() {
            assert!(all.insert(row.clone()), "{row} stands twice\n{}", spool.report());
        }
    }
    (header, all)
}

fn segments(spool: &Spool, route: &str) -> Vec<Csv> {
    let names = spool.names("results").into_iter();
    names
        .filter(|name| name.starts_with(&format!("{route}.")))
        .map(|name| Csv::parse(&std::fs::read(spool.path("results").join(name)).unwrap()))
        .collect()
}

/// Why records failed, with their numbers.
fn errors(spool: &Spool) -> BTreeMap<String, BTreeSet<u32>> {
    let mut found: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for csv in segments(spool, "errors") {
        for (reason, record) in csv.column("reason").into_iter().zip(csv.column("record")) {
            let is_new = found.entry(reason).or_default().insert(record.parse().unwrap());
            assert!(is_new, "record {record} failed twice\n{}", spool.report());
        }
    }
    found
}

/// What scenario B1 leaves, however often it was interrupted.
fn is_b1(spool: &Spool) {
    let good = (1..=1000).filter(|id| !is_bad(*id));
    let (header, found) = table(spool, "customers");
    assert_eq!(header, "customer,id,score,rank");
    assert!(found.contains("1,1-0,0.0,0"));
    assert_eq!(found.len(), 2820);
    assert_eq!(found, rows(good), "{}", spool.report());
    let errors = errors(spool);
    assert_eq!(errors.len(), 3, "{errors:?}");
    for (reason, rest) in [
        ("HTTPError: HTTP Error 500: Internal Server Error", 7),
        ("JSONDecodeError: Expecting property name", 8),
        ("KeyError: 'details'", 9),
    ] {
        let (_, records) = errors.iter().find(|(found, _)| found.starts_with(reason)).unwrap();
        let expected: BTreeSet<u32> = (1..=1000).filter(|id| id % 50 == rest).collect();
        assert_eq!(*records, expected, "{reason}");
    }
    let done = String::from_utf8(spool.files("done")[&b"TestData.csv"[..]].clone()).unwrap();
    assert_eq!(done, ids(1000));
    let failed = String::from_utf8(spool.files("error")[&b"TestData.csv"[..]].clone()).unwrap();
    let bad = (1..=1000).filter(|id| is_bad(*id)).map(|id| format!("{id}\n"));
    assert_eq!(failed, bad.fold("customer_id\n".to_owned(), |all, id| all + &id));
    assert_eq!(spool.names("processing"), Vec::<String>::new());
}

/// What B2 leaves after it, with the service healed.
fn again_is_b2(spool: &Spool, port: u16) {
    let healed = SERVER.replace("r = int(c) % 50", "r = 0");
    let _server = Server::start(&healed, port);
    spool.run(&["retry", "error/TestData.csv"]).ok();
    spool.run(&["batch"]).ok().says("60 records   60 done   0 failed   180 rows");
    let (_, found) = table(spool, "customers");
    assert_eq!(found, rows(1..=1000));
    assert_eq!(errors(spool).values().map(BTreeSet::len).sum::<usize>(), 60);
    assert_eq!(spool.names("error"), Vec::<String>::new());
    assert_eq!(spool.names("done").len(), 2);
}

/// Goal: B1 and B2. A thousand ids, sixty of which fail in three ways, give exactly the rows of the
/// others; the failed ones can be run again by themselves. Method: the service and the function as they
/// were found.
#[test]
fn b1_and_b2_every_record_is_a_task() {
    let port = free_port();
    let spool = customers(port, "");
    spool.drop_file("TestData.csv", ids(1000));
    let server = Server::start(SERVER, port);
    let batch = spool.run(&["batch", "--seal"]).code(3);
    drop(server);
    batch.says("1,000 records   940 done   60 failed   2,820 rows");
    is_b1(&spool);
    let sealed = spool.names("results").into_iter().find(|name| name.starts_with("customers.2"));
    assert!(sealed.is_some(), "{:?}", spool.names("results"));
    let why = spool.why("TestData.csv");
    let reason = why["reason"].as_str().unwrap();
    assert!(reason.starts_with("60 of 1000 records failed: 20 × "), "{reason}");
    assert!(why["took_ms"].as_u64() > Some(0), "a thousand requests took no time: {why}");
    again_is_b2(&spool, port);
}

/// Ids of which something is recorded so far.
fn recorded(spool: &Spool) -> usize {
    let lines = |name: &str| {
        let text = std::fs::read_to_string(spool.path(&format!("results/{name}.csv")));
        text.unwrap_or_default().lines().count().saturating_sub(1)
    };
    lines("customers") / 3 + lines("errors")
}

/// Goal: B3, then B2. A daemon killed in the middle goes on at the record where it was, with no row
/// twice. Method: SIGKILL to the daemon at 470 recorded ids; then the same command again.
#[test]
fn b3_a_killed_run_goes_on_at_its_record() {
    let port = free_port();
    let spool = customers(port, "");
    spool.drop_file("TestData.csv", ids(1000));
    let server = Server::start(SERVER, port);
    let mut first = spool.start(&["batch"]);
    spool.wait_until("470 ids are recorded", || recorded(&spool) >= 470);
    send(first.daemon_pid(), Signal::KILL);
    first.wait();
    let before = recorded(&spool);
    assert!((470..1000).contains(&before), "{before} were recorded when it was killed");
    let second = spool.run(&["batch", "--seal"]).code(3).stdout();
    let again: usize = second
        .lines()
        .find_map(|line| line.split_once(" record")?.0.parse().ok())
        .unwrap_or_else(|| panic!("{second}"));
    assert!(again <= 1000 - 470, "{again} records were run again");
    is_b1(&spool);
    drop(server);
    again_is_b2(&spool, port);
}

/// Goal: B5. A record that never ends costs its own time-out and no other's. Method: the service does
/// not answer each fiftieth id.
#[test]
fn b5_a_record_that_hangs_is_alone_with_it() {
    let port = free_port();
    let spool = customers(port, "timeout = \"1s\"\n");
    spool.drop_file("TestData.csv", ids(1000));
    let silent = SERVER.replace(
        "r = int(c) % 50\n",
        "r = int(c) % 50\n        if r == 10: import time; time.sleep(600)\n",
    );
    // With the backlog of 5 that it comes with, a busy machine loses a connection of ten clients now and
    // then, which the kernel tries again after a second: the time-out.
    let silent = silent.replace(
        "ThreadingHTTPServer((",
        "ThreadingHTTPServer.request_queue_size = 128\nThreadingHTTPServer((",
    );
    let _server = Server::start(&silent, port);
    let batch = spool.run(&["batch"]).code(3);
    batch.says("1,000 records   920 done   80 failed   2,760 rows");
    let (_, found) = table(&spool, "customers");
    assert_eq!(found, rows((1..=1000).filter(|id| !is_bad(*id) && id % 50 != 10)));
    let errors = errors(&spool);
    assert_eq!(errors.values().map(BTreeSet::len).sum::<usize>(), 80);
    let expected: BTreeSet<u32> = (1..=1000).filter(|id| id % 50 == 10).collect();
    assert_eq!(errors["timed out after 1s"], expected);
}

/// Goal: B4 in small. Many records cost the daemon little memory and the spool few inodes, and each has
/// its row once, also when the daemon is killed on the way. Method: twenty thousand ids and a function
/// that only gives them back; one kill. A million of them are run by `benches/`.
#[test]
fn b4_many_records_cost_little() {
    let spool = Spool::new(
        "workers = 2\n[routes.ids]\nrecords = \"csv\"\ninterpreter = \"$PYTHON\"\n\
         python = \"f.py:f\"\ntrace_columns = false\n",
    );
    spool.write("f.py", "def f(customer_id: str): return {\"id\": customer_id}\n");
    spool.drop_file("TestData.csv", ids(20_000));
    let recorded = || {
        let text = std::fs::read_to_string(spool.path("results/ids.csv"));
        text.unwrap_or_default().lines().count()
    };
    let mut most = 0;
    for (until, kill) in [(5_000, true), (usize::MAX, false)] {
        let mut batch = spool.start(&["batch"]);
        let daemon = batch.daemon_pid();
        spool.wait_until("so many records are recorded, or all", || {
            most = peak(daemon).max(most);
            recorded() >= until || !crate::harness::alive(daemon)
        });
        if kill {
            send(daemon, Signal::KILL);
        }
        batch.wait();
    }
    let (header, found) = table(&spool, "ids");
    assert_eq!((header.as_str(), found.len()), ("id", 20_000));
    assert!(most > 0 && most < 96 << 10, "{most} KiB");
    let inodes = walk(&spool.root());
    assert!(inodes < 100, "{inodes} inodes\n{}", spool.report());
    assert_eq!(spool.names("done"), ["TestData.csv"]);
}

/// Peak memory of a process in KiB, 0 once it is gone.
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| 1 + if entry.path().is_dir() { walk(&entry.path()) } else { 0 }).sum()
}

/// A spool with a script as the worker of records.
fn scripted(settings: &str, script: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 2\n[routes.r]\ncommand = [\"sh\", \"work.sh\", \"{{record}}\"]\ntrace_columns = false\n\
         retries = 0\n{settings}"
    ));
    spool.write("work.sh", script);
    spool
}

/// Goal: lines and JSON objects are records for a `command` as well; what is no record fails alone, with
/// its line. Method: one file of each, with empty lines, a broken object and a failing line.
#[test]
fn lines_and_objects_are_records_too() {
    let spool =
        scripted("records = \"lines\"\n", "test \"$1\" != bad && echo \"$INBOXD_RECORD_NO $1\"");
    spool.drop_file("names", "a b\n\nbad\r\n-c");
    spool.run(&["batch"]).code(3).says("3 records   2 done   1 failed   2 rows");
    assert_eq!(spool.csv("r").sorted(), ["1 a b", "3 -c"]);
    assert_eq!(spool.files("error")[&b"names"[..]], b"bad\r\n");

    let spool = scripted("records = \"ndjson\"\nstdout = \"json\"\n", "echo \"$1\"");
    spool.drop_file("x", "{\"n\":1}\n{\"n\":\n{\"n\":2.50}\n");
    spool.run(&["batch"]).code(3).says("3 records   2 done   1 failed   2 rows");
    assert_eq!(spool.csv("r").sorted(), ["1", "2.50"]);
    let reason = &spool.csv("errors").column("reason")[0];
    assert!(reason.starts_with("line 2: not valid JSON"), "{reason}");
}

/// Goal: the cells of a CSV are text, and what is annotated otherwise is converted first; a mistake names
/// the field. Method: a typed function; a row of another width.
#[test]
fn cells_are_converted_as_annotated() {
    let spool = Spool::new(
        "workers = 1\n[routes.r]\nrecords = \"csv\"\ninterpreter = \"$PYTHON\"\npython = \"f.py:f\"\n\
         trace_columns = false\n",
    );
    spool.write(
        "f.py",
        "def f(id: str, n: int, x: float, yes: bool, rest='-'):\n    \
         return {'id': id, 'n': n + 1, 'x': x / 2, 'yes': not yes, 'rest': rest}\n",
    );
    spool.drop_file("t.csv", "id,n,x,yes\n007,1,3,TRUE\n8,one,1,0\n9,1\n\"a,b\",2,1e1,false\n");
    spool.run(&["batch"]).code(3).says("4 records   2 done   2 failed   2 rows");
    assert_eq!(
        spool.csv("r").sorted(),
        ["007,2,1.5,False,-", "a,b,3,5.0,True,-"]
            .map(|row| { row.replace("False", "false").replace("True", "true") })
    );
    let mut reasons = spool.csv("errors").column("reason");
    reasons.sort();
    assert_eq!(
        reasons,
        ["field \"n\": expected int, got str \"one\"", "line 4: 2 fields, and the header has 4",]
    );
    let failed = String::from_utf8(spool.files("error")[&b"t.csv"[..]].clone()).unwrap();
    assert_eq!(failed, "id,n,x,yes\n8,one,1,0\n9,1\n");
}

fn recorded_lines(spool: &Spool) -> usize {
    std::fs::read_to_string(spool.path("results/r.csv")).unwrap_or_default().lines().count()
}

/// Goal: a drain in the middle costs nothing and loses nothing. Method: TERM while records run; the next
/// run does the rest, and no record has a second attempt.
#[test]
fn a_drained_run_goes_on() {
    let spool = scripted("records = \"lines\"\n", "echo \"$INBOXD_ATTEMPT $1\"");
    let lines: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    spool.drop_file("x", lines.join("\n"));
    let batch = spool.start(&["batch"]);
    spool.wait_until("some are recorded", || recorded_lines(&spool) > 20);
    assert_eq!(batch.end().code(), Some(1), "{}", spool.report());
    let claim = spool.names("processing");
    assert!(claim.iter().all(|name| name.contains(".0/")), "{claim:?}");
    spool.run(&["batch"]).ok();
    let expected: Vec<String> = lines.iter().map(|line| format!("1 {line}")).collect();
    assert_eq!(spool.csv("r").sorted(), expected);
}

/// Goal: a header of very many columns holds up nobody, and one that is too long says so. Method: the most names
/// that fit, all different, then once more with the last one twice; another route's file behind them.
#[test]
fn a_wide_header_holds_up_nobody() {
    let spool = scripted(
        "records = \"csv\"\nglob = \"*.csv\"\n[routes.s]\ncommand = [\"true\"]\n",
        "exit 65",
    );
    let names: Vec<String> = (100_000..240_000).map(|n| format!("{n:x}")).collect();
    let header = names.join(",");
    spool.drop_file("wide.csv", format!("{header}\n1\n"));
    spool.drop_file("twice.csv", format!("{header},3a97f\n1\n"));
    spool.drop_file("long.csv", format!("{header},{header}\n1\n"));
    spool.drop_file("other", "");
    let batch = spool.run(&["batch"]).code(3);
    batch.says("line 2: 1 field, and the header has 140000");
    assert!(spool.has("done/other"), "{}", spool.report());
    assert_eq!(spool.reason("twice.csv"), "its header has the column \"3a97f\" twice");
    assert_eq!(
        spool.reason("long.csv"),
        "its header is longer than 1.0 MiB; is a quote not closed?"
    );
}

/// An input of which a part was recorded when TERM came, and its lines; those that end in 7 fail.
fn stopped_half_way() -> (Spool, Vec<String>) {
    let script = "echo \"$1\"; case $1 in *7) exit 65;; esac";
    let spool = scripted("records = \"lines\"\n", script);
    let lines: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    spool.drop_file("x", lines.join("\n"));
    let batch = spool.start(&["batch"]);
    spool.wait_until("some are recorded", || recorded_lines(&spool) > 20);
    batch.end();
    assert!(recorded_lines(&spool) < 200, "{}", spool.report());
    (spool, lines)
}

/// Each line has its row, or stands in `error/` and in `errors.csv`, once.
fn is_whole(spool: &Spool, lines: &[String], case: &str) {
    let (bad, good): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.ends_with('7'));
    let table = spool.run(&["results", "r"]).ok().stdout();
    let mut rows: Vec<&str> = table.lines().skip(1).collect();
    rows.sort_unstable();
    assert_eq!(rows, good, "{case}");
    let failed = String::from_utf8(spool.files("error")[&b"x"[..]].clone()).unwrap();
    assert_eq!(failed.lines().collect::<Vec<_>>(), bad, "{case}");
    assert_eq!(errors(spool).values().map(BTreeSet::len).sum::<usize>(), bad.len(), "{case}");
}

/// Goal: a spool that was copied elsewhere while nothing ran, or comes from a backup, goes on at the record where
/// it was. Method: TERM while records run; a copy takes its place; once with times in whole seconds, as of `tar`.
#[test]
fn a_copied_spool_goes_on_at_its_record() {
    for copy in ["cp -a was inbox", "mkdir inbox; tar -C was -cf - . | tar -C inbox -xf -"] {
        let (spool, lines) = stopped_half_way();
        rustix::fs::rename(spool.root(), spool.home().join("was")).unwrap();
        let copied = Command::new("sh").args(["-ec", copy]).current_dir(spool.home()).status();
        assert!(copied.unwrap().success());
        spool.run(&["batch"]).code(3);
        is_whole(&spool, &lines, copy);
    }
}

/// Goal: an input whose route is not there for a while goes on at its record once it is back, and nothing is
/// recorded twice. Method: TERM while records run; a whole run without the route; then with it.
#[test]
fn an_input_outlives_its_route() {
    let (spool, lines) = stopped_half_way();
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write("inboxd.toml", settings.split_once("[routes").unwrap().0);
    // The second one knows only what the first one wrote.
    for _ in 0..2 {
        spool.daemon().end_well();
    }
    spool.write("inboxd.toml", &settings);
    spool.run(&["batch"]).code(3);
    is_whole(&spool, &lines, "");
}

/// Goal: an input that only waits for a record's next attempt is seen to wait: nothing is in a slot, but it is
/// not over. Method: one record that fails, an hour's wait.
#[test]
fn an_input_whose_records_wait_is_counted() {
    let spool = Spool::new(
        "[routes.r]\nrecords = \"lines\"\ncommand = [\"sh\", \"-c\", \"touch tried; exit 1\"]\n\
         retries = { fail = 1, first_wait = \"1h\", longest_wait = \"1h\" }\n",
    );
    let daemon = spool.daemon();
    spool.drop_file("in", "x\n");
    spool.wait_until("its record was tried", || spool.has("tried"));
    let counted = "waiting 1   running 0   held 0   done 0   failed 0";
    spool.wait_until(counted, || spool.run(&["status"]).stdout().contains(counted));
    daemon.end_well();
}

/// Goal: an input that is written into while its records run ends in `error/`, and what is recorded
/// stays. Method: a line is added to the claimed file by the worker of its first record.
#[test]
fn an_input_that_changes_fails_and_keeps_what_is_recorded() {
    let spool = scripted(
        "records = \"lines\"\nworkers = 1\n",
        "case $1 in first) echo more >> \"$INBOXD_PATH\";; esac; echo \"$1\"",
    );
    spool.drop_file("x", "first\n".to_owned() + &"line\n".repeat(3000));
    spool.run(&["batch"]).code(3);
    let reason = spool.reason("x");
    assert!(
        reason.starts_with("the input was changed after its first record was begun"),
        "{reason}"
    );
    assert!(spool.csv("r").rows.len() < 3001);
    assert!(!spool.csv("r").rows.is_empty());
}

/// Goal: a route with records can be tried before it is used. Method: its first record, of a CSV.
#[test]
fn the_first_record_is_tried() {
    let spool = scripted("records = \"csv\"\n", "echo \"$1\"");
    spool.write_home("t.csv", "id,n\n7,x\n8,y\n");
    spool.run(&["try", "r", "t.csv"]).ok().says("{\"\"id\"\":\"\"7\"\",\"\"n\"\":\"\"x\"\"}");
}

/// Goal: whoever waits for an input hears of records that failed, in words and by exit code 3, and so does
/// `jobs`; its id means what failed of it. Method: one of two records fails; `submit --wait` and `retry --wait`,
/// alone, by its id and with a daemon.
#[test]
fn records_that_fail_are_told_to_who_waits() {
    let spool = scripted("records = \"lines\"\n", "test $1 != x && echo $1");
    let submit = ["submit", "-", "--name", "in", "--wait"];
    spool.run_with_input(&submit, b"1\nx\n").code(3).says("1 row   1 of 2 records failed");
    spool.run(&["retry", "in", "--wait"]).code(3).says("0 rows   1 of 1 records failed");
    let id = spool.why("in")["job"].as_str().unwrap().to_owned();
    spool.run(&["explain", &id]).ok().says("1 of 1 records failed: 1 × exit 1");
    spool.run(&["retry", &id, "--wait"]).code(3).says("0 rows   1 of 1 records failed");
    let daemon = spool.daemon();
    spool.run(&["retry", "in", "--wait"]).code(3).says("0 rows   1 of 1 records failed");
    let submit = ["submit", "-", "--name", "good", "--wait"];
    spool.run_with_input(&submit, b"3\n4\n").ok().says("2 rows");
    let jobs = spool.run(&["jobs", "--failed"]).ok();
    assert_eq!(jobs.stdout().lines().count(), 4, "{}", jobs.stdout());
    jobs.says("1 of 2 records failed");
    assert!(daemon.end().success());
}

/// Goal: records whose rows are small, but not below the columns that another one brought, are each recorded
/// whole. Method: one wide record, then many of which each becomes a file beside the journal; all are read back.
#[test]
fn a_wide_record_makes_the_others_large() {
    let spool = Spool::new(
        "workers = 4\n[routes.wide]\nrecords = \"lines\"\ninterpreter = \"$PYTHON\"\n\
         python = \"wide.py:rows\"\ntrace_columns = false\n",
    );
    spool.write(
        "wide.py",
        "def rows(no: str):\n    \
             if no == '0': return {f'c{i}': 0 for i in range(18000)}\n    \
             return [{'c0': no}] * 60\n",
    );
    let lines = |from: u32, to: u32| (from..to).map(|no| no.to_string() + "\n").collect::<String>();
    spool.drop_file("first", lines(0, 1));
    spool.run(&["batch"]).ok();
    spool.drop_file("list", lines(1, 17));
    spool.run(&["batch"]).ok().says("960 rows");
    let mut found = spool.csv("wide").column("c0");
    found.sort_unstable();
    let mut wanted: Vec<String> =
        (0..17_u32).flat_map(|no| vec![no.to_string(); if no == 0 { 1 } else { 60 }]).collect();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}

/// Goal: what escaped from workers that are over is ended, and no record that runs. Method: a record that
/// waits; one before it, then a whole file leave a process in a session of its own, and those are gone first.
#[test]
fn a_record_that_runs_is_no_escaped_process() {
    let escape = "escape() { setsid sh -c 'echo $$ > \"$1\"; exec sleep 600' escaped \"$1\" &\n\
                  while [ ! -s \"$1\" ]; do sleep 0.01; done; }\n";
    let work = "case $1 in first) escape first.pid; echo first;; file) escape file.pid;;\n\
                *) echo run >> runs; while [ ! -e go ]; do sleep 0.01; done; echo last;; esac";
    let spool = scripted(
        "records = \"lines\"\nglob = \"in\"\n[routes.file]\nglob = \"x\"\n\
         command = [\"sh\", \"work.sh\", \"file\"]\n",
        &format!("{escape}{work}"),
    );
    let daemon = spool.daemon();
    spool.drop_file("in", "first\nlast\n");
    spool.wait_until("the last record runs", || spool.has("runs"));
    let pid = |of: &str| std::fs::read_to_string(spool.path(of)).ok()?.trim().parse().ok();
    let escaped = |of: &str| crate::harness::alive(pid(of).unwrap());
    // Another slot may have run the last one first.
    spool.wait_until("the first record has left a process", || pid("first.pid").is_some());
    spool.wait_until("what the record left is gone", || !escaped("first.pid"));
    spool.drop_file("x", "");
    spool.wait_until("the file is done", || spool.has("done/x"));
    spool.wait_until("what the file left is gone", || !escaped("file.pid"));
    spool.write("go", "");
    spool.wait_until("the input is done", || spool.has("done/in"));
    daemon.end_well();
    assert_eq!(spool.csv("r").sorted(), ["first", "last"], "{}", spool.report());
    assert_eq!(std::fs::read_to_string(spool.path("runs")).unwrap(), "run\n");
}

/// Goal: an input whose next record is far holds up nobody, nor a drain. Method: a sparse file of a TiB for one route,
/// then a file for another; TERM while the first is read.
#[test]
fn a_record_that_is_far_holds_up_nobody() {
    let spool = scripted("glob = \"x\"\nrecords = \"lines\"\n", "echo \"$1\"");
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write(
        "inboxd.toml",
        &format!("{settings}[routes.s]\ncommand = [\"echo\", \"{{name}}\"]\n"),
    );
    let daemon = spool.daemon();
    spool.write("far", "");
    std::fs::File::options().write(true).open(spool.path("far")).unwrap().set_len(1 << 40).unwrap();
    rustix::fs::rename(spool.path("far"), spool.path("incoming/x")).unwrap();
    spool.wait_until("it is claimed", || !spool.path("incoming/x").exists());
    spool.drop_file("y", "");
    spool.wait_until("the other one is done", || spool.path("done/y").exists());
    daemon.end_well();
    assert!(!spool.path("done/x").exists());
}

/// Goal: inputs whose records wait for their backoff hold up no input of another route. Method: more of them than
/// are open at once, each with a record that waits an hour; then one of another route.
#[test]
fn inputs_that_wait_hold_up_no_other_route() {
    let waits = "glob = \"x*\"\nrecords = \"lines\"\nretries = { try_again = 1 }\ntry_again_after = [\"1h\"]\n";
    let spool = Spool::new(&format!(
        "workers = 2\n[routes.r]\ncommand = [\"sh\", \"-c\", \"exit 75\"]\n{waits}[routes.s]\n\
         records = \"lines\"\ncommand = [\"echo\", \"{{record}}\"]\n"
    ));
    for at in 0..20 {
        spool.drop_file(format!("x{at}"), "a\n");
    }
    let daemon = spool.daemon();
    let tried = || {
        let segments = std::fs::read_dir(spool.path("journal")).unwrap().map(Result::unwrap);
        let texts = segments.filter_map(|entry| std::fs::read(entry.path()).ok());
        texts.map(|text| String::from_utf8_lossy(&text).matches("exit 75").count()).sum::<usize>()
    };
    spool.wait_until("as many wait as are open at once", || tried() >= 16);
    spool.drop_file("y", "b\n");
    spool.wait_until("the other one is done", || spool.path("done/y").exists());
    daemon.end_well();
}

/// Goal: where the kernel takes less (a small limit of the stack), a record that is too long for it fails by itself, named,
/// and neither the others nor its route with it; on standard input it arrives. Method: a quarter of 512 KiB; a short
/// record, one of 100 KiB as argument and variable, a short one.
#[test]
fn a_record_too_long_for_this_stack_fails_alone() {
    let small = ["prlimit", "--stack=524288:524288"];
    let input = format!("1\n{}\n3\n", "2".repeat(100 << 10));
    for (settings, done) in [
        (
            "command = [\"sh\", \"-c\", \"echo ${{#1}}\", \"w\", \"{record}\"]\n",
            ["1", "1"].as_slice(),
        ),
        (
            "command = [\"wc\", \"-c\"]\nstdin = true\nenv = { FILL = \"$FILL\" }\n",
            &["102401", "2", "2"],
        ),
    ] {
        let settings = settings.replace("$FILL", &"x".repeat(60 << 10));
        let spool = Spool::new(&format!(
            "workers = 1\n[routes.r]\nrecords = \"lines\"\ntrace_columns = false\n{settings}"
        ));
        spool.drop_file("in", &input);
        let ended = spool.run_under(&small, &["batch"], b"");
        ended.code(if done.len() == 3 { 0 } else { 3 });
        assert_eq!(spool.csv("r").sorted(), done, "{}", spool.report());
        let reasons = spool.csv("errors").column("reason");
        assert!(reasons.iter().all(|it| it.contains("too long") && it.contains("stdin = true")));
    }
}
