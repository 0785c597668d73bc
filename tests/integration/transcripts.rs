//! The first ten minutes, line by line: times, ids and widths of gaps are all that may differ.
//!
//! Must not know: how a line is built.
//!
//! What a terminal shows is tested on a terminal; everything else as a script would see it.

use std::path::Path;

use rustix::process::Signal;

use crate::checks::{lines_in_order, normalise};
use crate::harness::{Spool, files_below, python};

/// The committed sample spool, without what a run made in it.
pub(crate) fn sample() -> Spool {
    let spool = Spool::bare();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("inbox");
    for name in ["inboxd.toml", "README.md", "count_produce.py"] {
        spool.write(name, &std::fs::read_to_string(source.join(name)).unwrap());
    }
    for (name, content) in files_below(&source.join("samples")) {
        let name = String::from_utf8(name).unwrap();
        spool.write(&format!("samples/{name}"), &String::from_utf8(content).unwrap());
    }
    spool
}

/// Goal: the first run reads as documented, and so does the second. Method: the committed sample.
#[test]
fn the_first_batch() {
    let spool = sample();
    let text = normalise(&spool.run(&["batch", "inbox/samples"]).ok().stdout());
    let lines: Vec<&str> = text.lines().collect();
    let [spool_line, summary, header, row, more] = lines.as_slice() else {
        panic!("five lines:\n{text}\n{}", spool.report())
    };
    assert_eq!(*spool_line, "spool ./inbox   route count → count_produce.py:count   2 workers");
    assert_eq!(*summary, "6 files   6 done   0 failed   6 rows   TIME");
    assert_eq!(*header, "  fruits,vegetables,meat,_file,_job");
    // Which row is first depends on which worker was.
    let rows = [
        "60,58,14,file_0.json",
        "21,1539,79,file_1.json",
        "3939,58,14,file_2.json",
        "60,58,14,file_3.json",
        "6456,3743,14,file_4.json",
        "5666,15,15,file_5.json",
    ];
    assert!(rows.iter().any(|r| *row == format!("  {r},JOB")), "{row}");
    assert_eq!(*more, "  … 5 more in inbox/results/count.csv");
    let mut found: Vec<String> = spool.csv("count").sorted();
    for row in &mut found {
        row.truncate(row.rfind(',').unwrap());
    }
    let mut expected = rows.map(str::to_owned);
    expected.sort();
    assert_eq!(found, expected);

    let again = spool.run(&["batch", "inbox/samples"]).ok();
    assert_eq!(again.stdout(), "nothing to do: 6 already done (--again runs them again)\n");
}

/// Goal: `init` says what to do next. Method: the documented text, whole.
#[test]
fn the_first_init() {
    let spool = Spool::bare();
    let text = normalise(&spool.run(&["init"]).ok().stdout());
    let expected = "created ./inbox   drop files into inbox/incoming   settings inbox/inboxd.toml\n\
                    Set one line (command = …), then: inboxd run\n";
    assert_eq!(text, expected);
}

/// Goal: `run` on a terminal says when it is ready, and a line a job. Method: one good file.
#[test]
fn the_first_run() {
    let spool = Spool::new("workers = 2\n[routes.main]\ncommand = [\"sha256sum\"]\nstdin = true\n");
    let daemon = spool.start_on_terminal(&["run"]);
    daemon.wait_for_log("ready");
    spool.drop_file("hosts", "127.0.0.1 localhost\n");
    daemon.wait_for_log("1 row");
    spool.wait_until("whole lines", || daemon.log().ends_with('\n'));
    let text = normalise(&daemon.log());
    let expected = [
        "ready   watching ./inbox/incoming   route main → sha256sum   2 workers",
        "done   hosts   main   TIME   1 row",
    ];
    assert_eq!(lines_in_order(&text, &expected), Ok(()));
}

const COUNT: &str = r#"
workers = 2
[routes.count]
glob = "*.json"
interpreter = "$PYTHON"
python = "count_produce.py:count"
"#;

/// Goal: a failure says what to type, and typing it explains and repairs it.
/// Method: the truncated file on a terminal; explain; repair; retry and wait.
#[test]
fn the_first_failure() {
    let spool = Spool::new(COUNT);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("inbox/count_produce.py");
    spool.write("count_produce.py", &std::fs::read_to_string(script).unwrap());
    let daemon = spool.start_on_terminal(&["run"]);
    daemon.wait_for_log("ready");
    spool.drop_file("bad.json", "{\"produce\": \n");
    daemon.wait_for_log("inboxd explain bad.json");
    spool.wait_until("whole lines", || daemon.log().ends_with('\n'));
    let reason = "JSONDecodeError: Expecting value: line 2 column 1 (char 13)";
    let failed = format!("failed   bad.json   count   attempt 1 of 1   {reason}");
    let expected = [failed.as_str(), "        inboxd explain bad.json"];
    assert_eq!(lines_in_order(&normalise(&daemon.log()), &expected), Ok(()));

    spool.wait_until("the file is in error/", || spool.errors() == ["bad.json"]);
    let text = normalise(&spool.run(&["explain", "bad.json"]).ok().stdout());
    let reason = format!("  reason   {reason}");
    let expected = [
        "bad.json   FAILED CLOCK   route count   attempt 1 of 1   TIME",
        reason.as_str(),
        "  file   inbox/error/bad.json (unchanged)",
        "  next   nothing, until: inboxd retry bad.json",
    ];
    assert_eq!(lines_in_order(&text, &expected), Ok(()));
    assert!(text.contains("inboxd log bad.json"), "{text}");

    let good = include_str!("../../inbox/samples/file_0.json");
    std::fs::write(spool.path("error/bad.json"), good).unwrap();
    let text = normalise(&spool.run(&["retry", "--wait", "bad.json"]).ok().stdout());
    assert_eq!(text, "done   bad.json   count   TIME   1 row\n");
    assert_eq!(spool.names("done"), ["bad.json"], "{}", spool.report());
}

/// Goal: who drops a file that no route takes is told at once, not left to wonder; once, for there may be a million.
/// Method: one of them; when another follows, a file that is taken shows that it had its time; then a route for both,
/// and one more without.
#[test]
fn a_file_that_no_route_takes_is_told_of() {
    let spool =
        Spool::new("[routes.text]\nglob = \"*.txt\"\ncommand = [\"true\"]\nstdout = \"none\"\n");
    let daemon = spool.start_on_terminal(&["run"]);
    daemon.wait_for_log("ready");
    spool.drop_file("a.bak", "x");
    let said = "stays   a.bak   no route takes it   (told once: inboxd status counts such files)";
    daemon.wait_for_log("inboxd status counts such files)");
    assert!(normalise(&daemon.log()).contains(said), "{}", daemon.log());
    spool.drop_file("b.bak", "x");
    spool.drop_file("c.txt", "x");
    daemon.wait_for_log("c.txt");
    spool.run(&["status"]).ok().says("2 files match no route and stay");
    spool.write("routes.d/bak.toml", "glob = \"*.bak\"\ncommand = [\"true\"]\nstdout = \"none\"\n");
    spool.wait_until("both are done", || spool.names("done").len() == 3);
    spool.drop_file("d.tmpl", "x");
    daemon.wait_for_log("d.tmpl");
    assert_eq!(daemon.log().matches("no route takes it").count(), 2, "{}", daemon.log());
    daemon.end_well();
}

/// Goal: the first Ctrl-C says what it waits for, the second ends at once, and nothing is lost.
/// Method: two workers that wait for a word; INT twice; a later batch does both files.
#[test]
fn two_interrupts() {
    let spool = Spool::new(
        "workers = 2\n[routes.wait]\nglob = \"*.txt\"\ncommand = [\"sh\", \"wait.sh\"]\nstdout = \"json\"\n",
    );
    spool.write(
        "wait.sh",
        "echo up >> up.txt; until [ -e go ]; do sleep 0.02; done; echo '{\"n\":1}'\n",
    );
    spool.drop_file("1.txt", "1");
    spool.drop_file("2.txt", "2");
    let mut daemon = spool.start_on_terminal(&["run"]);
    spool.wait_until("two run", || {
        std::fs::read_to_string(spool.path("up.txt")).unwrap_or_default().lines().count() == 2
    });
    daemon.signal(Signal::INT);
    daemon.wait_for_log(
        "waiting for 2 workers; Ctrl-C again stops now (their files run again at the next start)",
    );
    assert_eq!(spool.names("done"), Vec::<String>::new());
    daemon.signal(Signal::INT);
    daemon.wait();
    assert_eq!(spool.processes(), Vec::<String>::new());
    assert_eq!(spool.names("done"), Vec::<String>::new(), "stopped now means now");
    spool.write("go", "");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["1.txt", "2.txt"], "{}", spool.report());
    assert_eq!(spool.csv("wait").rows.len(), 2);
}

/// Goal: `status` shows the numbers, and why a file waits. Method: a file that we hold open for writing.
#[test]
fn the_first_status() {
    use std::io::Write as _;
    let spool = Spool::new(COUNT);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("inbox/count_produce.py");
    spool.write("count_produce.py", &std::fs::read_to_string(script).unwrap());
    let daemon = spool.daemon();
    let incoming = spool.path("incoming");
    let mut writer = std::fs::File::create(incoming.join("big.json")).unwrap();
    writer.write_all(b"{").unwrap();
    let mut text = String::new();
    spool.wait_until("the open file is held", || {
        text = normalise(&spool.run(&["status"]).ok().stdout());
        text.contains("held 1")
    });
    let expected = [
        "RUNNING pid N   up TIME   events ok",
        "held   big.json   still open for writing by pid N (TIME)",
    ];
    assert_eq!(lines_in_order(&text, &expected), Ok(()));
    assert!(text.contains("waiting 0   running 0   held 1   done 0   failed 0"), "{text}");
    let us = format!("by pid {} (", std::process::id());
    spool.run(&["status"]).ok().says(&us);
    drop(writer);
    spool.wait_until("closed, it is run", || spool.errors() == ["big.json"]);
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: on a terminal one large file is not 0 of 1 to its end. Method: `batch` in a terminal of Python's, over one
/// file of records that take a while; by itself, and beside a daemon.
#[test]
fn the_bar_shows_how_far_a_large_file_is() {
    const TERMINAL: &str =
        "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    for is_beside in [false, true] {
        let spool = Spool::new(
            "workers = 1\n[routes.r]\nrecords = \"lines\"\ncommand = [\"sleep\", \"0.05\"]\nstdout = \"none\"\n",
        );
        spool.write_home("ids", &"x\n".repeat(60));
        let _daemon = is_beside.then(|| spool.daemon());
        let terminal = ["env", "TERM=xterm", "COLUMNS=120", python(), "-c", TERMINAL];
        let said = spool.run_under(&terminal, &["batch", "ids"], b"").ok();
        let said = said.says("60 records   60 done");
        let is_on_its_way = |line: &str| {
            let parts = line.split_once("0 of 1 file   ");
            let parts = parts.and_then(|(_, rest)| rest.split_once(" record"));
            parts.is_some_and(|(records, rest)| records != "0" && rest.contains(" of 120 B read"))
        };
        assert!(said.both().split('\r').any(is_on_its_way), "{is_beside}: {said}");
    }
}
