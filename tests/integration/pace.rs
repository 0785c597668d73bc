//! How fast and in which order routes start their jobs, and what makes them wait.
//!
//! Must not know: the core's numbers beyond what the settings say.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::Spool;

/// Writes a file of the operator's as an editor does that renames.
fn replace(spool: &Spool, name: &str, text: &str) {
    spool.write("new", text);
    rustix::fs::rename(spool.path("new"), spool.path(name)).unwrap();
}

fn lines(spool: &Spool, name: &str) -> Vec<String> {
    let text = fs::read_to_string(spool.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Goal: a route whose worker crashes stops eating its files, harms no other route, says so, and goes on
/// by itself once the program is mended. Method: forty files for a crashing program among two hundred for a
/// sound one; `status`; another program under the same name.
#[test]
fn a_crashing_route_pauses_alone() {
    let spool = Spool::new(
        "workers = 2\n[routes.bad]\nglob = \"bad/*\"\ncommand = [\"sh\", \"bad.sh\"]\nretries = 0\n\
         [routes.good]\ncommand = [\"true\"]\nstdout = \"none\"\n",
    );
    replace(&spool, "bad.sh", "kill -SEGV $$");
    for n in 0..200 {
        spool.drop_file(format!("{n}"), "x");
        if n < 40 {
            spool.drop_file(format!("bad/{n}"), "x");
        }
    }
    let daemon = spool.daemon();
    spool.wait_until("the sound route is through", || spool.names("done").len() == 200);
    daemon.wait_for_log("workers crash");
    let reason = "5 workers crashed in a row (killed by SIGSEGV); one file is tried every minute";
    spool.run(&["status"]).ok().says(&format!("route bad PAUSED: {reason}"));
    // Those that ran when it opened may still have ended, and one trial may have been made.
    let failed = spool.errors().len();
    assert!((5..=7).contains(&failed), "{failed} failed\n{}", spool.report());
    replace(&spool, "bad.sh", "echo well");
    spool.wait_until("the others are done", || spool.names("done").len() == 240 - failed);
    let status = spool.run(&["status"]).ok();
    assert!(!status.both().contains("PAUSED"), "{status}");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: `status` says of no more jobs than there are workers that they run: those in line for a slot wait.
/// Method: one worker, short jobs, and the status again and again until a line was there.
#[test]
fn status_tells_running_from_waiting_in_line() {
    let spool = Spool::new(
        "workers = 1\n[routes.short]\ncommand = [\"sleep\", \"0.02\"]\nstdout = \"none\"\n",
    );
    for n in 0..2000 {
        spool.drop_file(format!("{n}"), "");
    }
    let daemon = spool.daemon();
    let has_line = || {
        let table = std::fs::read_to_string(spool.path("journal/waiting")).unwrap_or_default();
        table.contains(".1 ")
    };
    let mut seen = 0;
    spool.wait_until("ten statuses with a line", || {
        let was_there = has_line();
        let status = spool.run(&["status", "--json"]).ok().stdout();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert!(status["running"].as_u64().unwrap() <= 1, "{status}");
        seen += u32::from(was_there);
        seen >= 10
    });
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: `batch` ends although a paused route has more files than are claimed ahead, and tells each route's own.
/// Method: three hundred files and one for two programs that are not there.
#[test]
fn a_batch_of_a_paused_route_ends() {
    let spool = Spool::new(
        "workers = 2\n[routes.a]\nglob = \"*.a\"\ncommand = [\"./none\", \"{path}\"]\n\
         [routes.b]\ncommand = [\"./none\", \"{path}\"]\n",
    );
    for n in 0..300 {
        spool.drop_file(format!("{n}.a"), "x");
    }
    spool.drop_file("b", "x");
    let said = spool.run(&["batch"]).code(1);
    let said = said.says("route a PAUSED").says("  300 files wait, none failed");
    said.says("route b PAUSED").says("  1 file waits, none failed");
}

/// Goal: the same where what is in a file chooses its route. Method: twenty files for a program that is not there.
#[test]
fn a_batch_of_a_paused_route_by_content_ends() {
    let spool = Spool::new(
        "workers = 2\n[routes.a]\nfields = { kind = \"a\" }\ncommand = [\"./none\", \"{path}\"]\n",
    );
    for n in 0..20 {
        spool.drop_file(format!("{n}.json"), r#"{"kind":"a"}"#);
    }
    let said = spool.run(&["batch"]).code(1);
    said.says("route a PAUSED").says("  20 files wait, none failed");
}

/// Goal: a rate holds back the starts of its route and of no other. Method: eight files at two in half a
/// second take a second and a half at least; those of the other route are done before.
#[test]
fn a_rate_slows_its_route_only() {
    let spool = Spool::new(
        "workers = 4\n[routes.slow]\nglob = \"slow*\"\nrate = \"2/500ms\"\n\
         command = [\"sh\", \"-c\", \"echo slow >> order.txt\"]\n\
         [routes.fast]\ncommand = [\"sh\", \"-c\", \"echo fast >> order.txt\"]\n",
    );
    for n in 0..8 {
        spool.drop_file(format!("slow{n}"), "x");
    }
    for n in 0..8 {
        spool.drop_file(format!("fast{n}"), "x");
    }
    let took = spool.run(&["batch"]).ok().took;
    assert!(took >= Duration::from_millis(1_500), "{took:?}");
    let order = lines(&spool, "order.txt");
    assert_eq!(order.len(), 16);
    assert_eq!(order.last().map(String::as_str), Some("slow"), "{order:?}");
    let fast = order.iter().rposition(|line| line == "fast").unwrap();
    assert!(fast < 14, "{order:?}");
}

/// Goal: who waits for a rate is told so. Method: two files at one an hour.
#[test]
fn a_rate_is_named_by_explain() {
    let spool =
        Spool::new("[routes.slow]\nrate = \"1/1h\"\ncommand = [\"true\"]\nstdout = \"none\"\n");
    spool.drop_file("0", "x");
    let daemon = spool.daemon();
    spool.wait_until("the first is done", || spool.names("done") == ["0"]);
    spool.drop_file("1", "x");
    let waits = "for its turn; its route begins at most 1 in 1 h 0 min (`rate`)";
    let is_said = || spool.run(&["explain", "1"]).ok().stdout().contains(waits);
    spool.wait_until("its rate is named", is_said);
    daemon.end_well();
}

/// Goal: of what waits, the route with the higher priority goes first, whatever came first.
/// Method: the one worker is kept busy until three files wait, and a fourth, of a higher priority, that came
/// last.
#[test]
fn priority_goes_first() {
    let spool = Spool::new(
        "workers = 1\nrescan = \"100ms\"\n[routes.urgent]\nglob = \"urgent\"\npriority = 5\n\
         command = [\"sh\", \"-c\", \"echo $INBOXD_NAME >> order.txt\"]\n\
         [routes.main]\ncommand = [\"sh\", \"-c\", \"[ $INBOXD_NAME != 0 ] || until [ -e go ]; do \
         sleep 0.02; done; echo $INBOXD_NAME >> order.txt\"]\n",
    );
    let daemon = spool.daemon();
    spool.drop_file("0", "x");
    spool.wait_until("the worker is busy", || daemon.workers().len() == 1);
    for name in ["1", "2", "3", "urgent"] {
        spool.drop_file(name, "x");
    }
    spool.wait_until("all of them wait", || {
        let status = spool.run(&["status", "--json"]).ok().stdout();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["waiting"] == 4
    });
    spool.write("go", "");
    spool.wait_until("all are done", || spool.names("done").len() == 5);
    let mut order = lines(&spool, "order.txt");
    assert_eq!(order[..2], ["0", "urgent"]);
    // Dropped within one tick of the filesystem's clock, the others have no order.
    order.sort();
    assert_eq!(order, ["0", "1", "2", "3", "urgent"]);
}

/// Goal: only the failures that a route lists are tried again, as often as it says.
/// Method: exit 3 is listed, exit 4 is not; the attempts of each.
#[test]
fn only_listed_failures_are_tried_again() {
    let spool = Spool::new(
        "[routes.main]\ncommand = [\"sh\", \"-c\", \"echo $INBOXD_NAME >> runs.txt; exit $INBOXD_NAME\"]\n\
         retry_on = [3]\nretries = { fail = 2, first_wait = \"1ms\", jitter = 0 }\n",
    );
    spool.drop_file("3", "x");
    spool.drop_file("4", "x");
    spool.run(&["batch"]).code(3);
    let mut runs = lines(&spool, "runs.txt");
    runs.sort();
    assert_eq!(runs, ["3", "3", "3", "4"]);
    assert_eq!(spool.reason("4"), "exit 4");
}

/// Goal: workers have the niceness of their route, a process a file and one that stays alike.
/// Method: each waits until the system says so of it.
#[test]
fn workers_are_nice() {
    let spool = Spool::new(
        "[routes.shell]\nglob = \"*.sh\"\nnice = 7\ntimeout = \"30s\"\n\
         command = [\"sh\", \"-c\", \"until [ $(nice) = 7 ]; do :; done; nice\"]\n\
         [routes.python]\nglob = \"*.py\"\nnice = 9\ntimeout = \"30s\"\n\
         interpreter = \"$PYTHON\"\npython = \"f.py:f\"\n",
    );
    spool.write(
        "f.py",
        "import os\ndef f(path):\n    while os.nice(0) != 9: pass\n    return {'n': os.nice(0)}\n",
    );
    spool.drop_file("a.sh", "x");
    spool.drop_file("a.py", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("shell").column("text"), ["7"]);
    assert_eq!(spool.csv("python").column("n"), ["9"]);
}

/// Goal: nothing is claimed or started while there is less memory than asked for; it says so, and goes on
/// by itself. Method: a floor that no machine has, a file; then settings without a floor.
#[test]
fn too_little_memory_waits() {
    let floor = "min_free_memory = \"1 PiB\"\n";
    let spool = Spool::new(&format!("{floor}[routes.main]\ncommand = [\"true\"]\n"));
    spool.drop_file("a", "x");
    let daemon = spool.daemon();
    daemon.wait_for_log("memory is low, starts wait");
    spool.run(&["status"]).ok().says("nothing is started below 1.0 PiB (min_free_memory)");
    spool.run(&["explain", "a"]).ok().says("too little free memory: nothing is started");
    assert_eq!(spool.names("incoming"), ["a"]);
    let text = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    replace(&spool, "inboxd.toml", &text.replace(floor, ""));
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("memory is enough again");
    spool.wait_until("it is done", || spool.names("done") == ["a"]);
    assert_eq!(daemon.end().code(), Some(0));
}
