//! Signals, and what a running daemon makes of new settings.
//!
//! Must not know: how settings are read. What is seen is the log, the spool and the processes.

use rustix::process::Signal;

use crate::harness::{Running, Spool, alive, send};

/// Every worker says its name and argument, and ends when told.
const SETTINGS: &str = r#"
workers = 1
rescan = "1s"
[routes.first]
glob = "*.txt"
command = ["sh", "wait.sh", "first", "{name}"]
stdout = "json"
"#;

const WAIT_SH: &str = r#"
echo "$1 $2" >> up.txt
until [ -e go ]; do sleep 0.02; done
echo "{\"by\":\"$1\"}"
"#;

fn waiting() -> Spool {
    let spool = Spool::new(SETTINGS);
    spool.write("wait.sh", WAIT_SH);
    spool
}

fn begun(spool: &Spool) -> Vec<String> {
    let text = std::fs::read_to_string(spool.path("up.txt")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Changes a text in the settings at once, as an editor does that renames.
fn change(spool: &Spool, from: &str, to: &str) {
    let old = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    assert!(old.contains(from), "{from:?} is not in {old}");
    spool.write("new.toml", &old.replace(from, to));
    rustix::fs::rename(spool.path("new.toml"), spool.path("inboxd.toml")).unwrap();
}

/// How often a text is in the log.
fn said(daemon: &Running, text: &str) -> usize {
    daemon.log().matches(text).count()
}

/// Goal: HUP reloads, in the same process; more workers begin at once, and what runs is not touched.
/// Method: one worker that waits and two files behind it; `workers = 3`; HUP.
#[test]
fn hup_adds_workers() {
    let spool = waiting();
    for name in ["1.txt", "2.txt", "3.txt"] {
        spool.drop_file(name, name);
    }
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    spool.wait_until("one runs", || begun(&spool).len() == 1);
    change(&spool, "workers = 1", "workers = 3");
    daemon.signal(Signal::HUP);
    spool.wait_until("three run", || begun(&spool).len() == 3);
    spool.write("go", "");
    spool.wait_until("all are done", || spool.names("done").len() == 3);
    assert_eq!(daemon.daemon_pid(), pid);
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(begun(&spool).len(), 3, "an attempt was run again: {:?}", begun(&spool));
    assert_eq!(spool.csv("first").rows.len(), 3);
}

/// Goal: a HUP that comes while the daemon starts does not end it, and is not lost. Method: one as soon as there is
/// a process.
#[test]
fn hup_while_it_starts_reloads_once_it_can() {
    let spool = waiting();
    let daemon = spool.start(&["run"]);
    daemon.daemon_pid();
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings reloaded");
    daemon.wait_for_log("ready");
    daemon.end_well();
}

/// Goal: settings that cannot be used are refused with their line, and the old ones stay in force.
/// Method: a misspelt key, HUP, a file that the old settings serve; mended, HUP, the new ones hold.
#[test]
fn bad_settings_leave_the_old_ones_in_force() {
    let spool = waiting();
    spool.write("go", "");
    let daemon = spool.daemon();
    change(&spool, "glob = \"*.txt\"", "glub = \"*.dat\"");
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings refused, the old settings stay in force");
    daemon.wait_for_log("unknown key `glub` in [routes.first]; did you mean `glob`?");
    spool.drop_file("1.txt", "1");
    spool.wait_until("the old route serves", || spool.names("done") == ["1.txt"]);
    change(&spool, "glub = \"*.dat\"", "glob = \"*.dat\"");
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings reloaded");
    spool.drop_file("2.dat", "2");
    spool.wait_until("the new route serves", || spool.names("done").contains(&"2.dat".to_owned()));
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: on a terminal a person reads what is wrong and what holds. Method: a screen, a misspelt key.
#[test]
fn a_person_is_told_which_settings_hold() {
    let spool = waiting();
    let mut daemon = spool.start_on_terminal(&["run"]);
    daemon.wait_for_log("ready");
    change(&spool, "workers = 1", "wrokers = 1");
    daemon.wait_for_log("unknown key `wrokers`; did you mean `workers`?");
    daemon.wait_for_log("  The old settings stay in force.");
    change(&spool, "wrokers = 1", "workers = 2");
    daemon.wait_for_log("settings reloaded   route first → ");
    // A terminal that goes away says HUP: nobody would see what goes on.
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(daemon.log().contains("stopping"), "{}", daemon.log());
}

/// Goal: a new file in `routes.d/` is a new algorithm, without a signal and without touching what runs;
/// a broken one hurts nobody; a removed one takes no more files, and its running job is recorded.
/// Method: files of two kinds, one without a route; a route for it; a broken change of it; its removal.
#[test]
fn routes_come_and_go_by_themselves() {
    let spool = waiting();
    spool.drop_file("1.txt", "1");
    spool.drop_file("1.dat", "1");
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    spool.wait_until("the first runs", || begun(&spool).len() == 1);
    change(&spool, "workers = 1", "workers = 2");
    let second = "glob = \"*.dat\"\ncommand = [\"sh\", \"wait.sh\", \"second\", \"{name}\"]\n\
                  stdout = \"json\"\n";
    spool.write("routes.d/second.toml", second);
    spool.wait_until("the file that waited for it runs", || {
        begun(&spool).contains(&"second 1.dat".to_owned())
    });

    spool.write("routes.d/second.toml", "glub = \"*.dat\"\n");
    daemon.wait_for_log("route refused, its old version stays in force");
    spool.write("routes.d/third.toml", "glub = \"*.dat\"\n");
    daemon.wait_for_log("route refused, the others go on");
    rustix::fs::unlink(spool.path("routes.d/third.toml")).unwrap();

    let before = said(&daemon, "settings reloaded");
    rustix::fs::unlink(spool.path("routes.d/second.toml")).unwrap();
    spool.wait_until("the removal is seen", || said(&daemon, "settings reloaded") > before);
    spool.drop_file("2.dat", "2");
    spool.write("go", "");
    spool.wait_until("both jobs are done", || spool.names("done") == ["1.dat", "1.txt"]);
    spool.drop_file("2.txt", "2");
    spool.wait_until("a later file is done", || spool.names("done").contains(&"2.txt".to_owned()));
    assert_eq!(spool.names("incoming"), ["2.dat"], "a file without a route stays");
    assert_eq!(spool.csv("second").column("by"), ["second"]);
    assert_eq!(spool.errors(), Vec::<String>::new());
    assert_eq!(daemon.daemon_pid(), pid);
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: a route whose program is missing pauses, eats nothing, and goes on once its settings are mended.
/// Method: a program that is not there; a file; the settings name another one.
#[test]
fn a_mended_route_goes_on() {
    let spool = Spool::new("[routes.main]\ncommand = [\"no-such-program\", \"{path}\"]\n");
    spool.drop_file("1.txt", "content");
    let daemon = spool.daemon();
    daemon.wait_for_log("route paused");
    daemon.wait_for_log("fix=\"`command` at inboxd.toml:");
    let said =
        spool.run(&["status"]).ok().says("route main PAUSED: cannot start \"no-such-program\"");
    said.says("1 file stays in incoming/, none failed. Fix `command` at inboxd.toml:");
    spool.run(&["explain", "1.txt"]).ok().says("fix `command` at inboxd.toml:");
    change(&spool, "no-such-program", "cat");
    spool.wait_until("it is done", || spool.names("done") == ["1.txt"]);
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(spool.csv("main").column("text"), ["content"]);
}

/// Goal: a file that was claimed while there was a route for it, and that no route takes any more, is told
/// of and never forgotten. Method: a failed attempt; the route gets another name and glob; then a fitting one.
#[test]
fn a_claimed_file_without_a_route_is_told_of() {
    let spool = Spool::new(
        "[routes.old]\ncommand = [\"false\"]\nretries = { fail = 9, first_wait = \"1s\" }\n",
    );
    spool.drop_file("1.txt", "content");
    let daemon = spool.daemon();
    daemon.wait_for_log("attempt failed");
    assert_eq!(daemon.end().code(), Some(0));
    change(&spool, "[routes.old]", "[routes.new]\nglob = \"*.dat\"");
    spool.run(&["explain", "1.txt"]).ok().says("if a route takes it");
    let said = spool.run(&["batch"]).ok().says("nothing to do\n");
    said.says("1 file matches no route and stays behind, such as 1.txt");
    let daemon = spool.daemon();
    let said = spool.run(&["status"]).ok();
    said.says("1 file matches no route and stays where it is, such as 1.txt");
    change(&spool, "*.dat\"\ncommand = [\"false\"]", "*.txt\"\ncommand = [\"cat\", \"{path}\"]");
    spool.wait_until("it is done", || spool.names("done") == ["1.txt"]);
    spool.run(&["status", "--json"]).ok().says("\"unrouted\":0");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: a paused route that gets another name with its mending keeps no file, and is not paused for ever.
/// Method: a program that is not there; the one file claimed for it; name and program change at once.
#[test]
fn a_paused_route_that_is_renamed_keeps_no_file() {
    let spool = Spool::new("[routes.main]\ncommand = [\"no-such-program\", \"{path}\"]\n");
    spool.drop_file("1.txt", "content");
    let daemon = spool.daemon();
    daemon.wait_for_log("route paused");
    change(&spool, "main]\ncommand = [\"no-such-program\"", "other]\ncommand = [\"cat\"");
    spool.wait_until("it is done", || spool.names("done") == ["1.txt"]);
    assert_eq!(spool.csv("other").column("text"), ["content"]);
    let said = spool.run(&["status"]).ok();
    assert!(!said.both().contains("PAUSED"), "{said}");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: an input that is under way when its route goes keeps the worker it has, which ends with it.
/// Method: a function that tells of its import; the route gets another name after the first records.
#[test]
fn the_worker_of_an_input_outlives_its_route() {
    let code = "import time\nopen('loads', 'a').write('x')\n\
        def f(line):\n    time.sleep(0.05)\n    return {'line': line}\n";
    let spool = Spool::new(
        "workers = 1\n[routes.old]\nrecords = \"lines\"\ninterpreter = \"$PYTHON\"\npython = \"f.py:f\"\n",
    );
    spool.write("f.py", code);
    let daemon = spool.daemon();
    spool.drop_file("1.txt", "line\n".repeat(60));
    spool.wait_until("some are recorded", || spool.csv("old").rows.len() > 2);
    change(&spool, "routes.old", "routes.new");
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings reloaded");
    assert_eq!(spool.names("done"), Vec::<String>::new(), "it is still under way");
    spool.wait_until("it is done", || spool.names("done") == ["1.txt"]);
    assert_eq!(spool.csv("old").rows.len(), 60);
    assert_eq!(std::fs::read_to_string(spool.path("loads")).unwrap(), "x");
    spool.wait_until("its worker has ended", || {
        !spool.processes().iter().any(|process| process.contains("f.py"))
    });
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: workers and runners end with the kind of their route, and do not hold their models until the daemon
/// ends. Method: a function and a runner, each used once; the routes get another kind, and no `start`.
#[test]
fn workers_end_with_the_kind_of_their_route() {
    let port = crate::runners::free_port();
    let spool = Spool::new(&format!(
        "[routes.a]\nglob = \"*.a\"\ninterpreter = \"$PYTHON\"\npython = \"f.py:f\"\n\
         [routes.b]\nglob = \"*.b\"\nhttp = \"http://127.0.0.1:{port}/\"\nmethod = \"GET\"\n\
         start = [\"$PYTHON\", \"serve.py\", \"{port}\"]\n"
    ));
    spool.write("f.py", "def f(path):\n    return {'a': 1}\n");
    spool.write(
        "serve.py",
        "import sys\nfrom http.server import BaseHTTPRequestHandler, HTTPServer\n\
         class Runner(BaseHTTPRequestHandler):\n    def do_GET(self):\n\
         \x20       self.send_response(200)\n        self.end_headers()\n\
         \x20       self.wfile.write(b'{\"a\": 1}')\n\
         HTTPServer(('127.0.0.1', int(sys.argv[1])), Runner).serve_forever()\n",
    );
    let daemon = spool.daemon();
    spool.drop_file("1.a", "x");
    spool.drop_file("1.b", "x");
    spool.wait_until("both are done", || spool.names("done") == ["1.a", "1.b"]);
    let are_there = |name: &str| spool.processes().iter().any(|process| process.contains(name));
    assert!(are_there("f.py") && are_there("serve.py"), "{:?}", spool.processes());
    change(&spool, "python = \"f.py:f\"", "command = [\"cat\", \"{path}\"]");
    change(&spool, &format!("interpreter = \"{}\"\n", crate::harness::python()), "");
    let text = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    change(&spool, &text[text.find("start = ").unwrap()..], "");
    daemon.signal(Signal::HUP);
    spool.wait_until("both have ended", || !are_there("f.py") && !are_there("serve.py"));
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: a made file whose next route is no more goes to the one whose glob takes it, as after a retry.
/// Method: one that waits for its second attempt; its route gets another name over a restart.
#[test]
fn a_made_file_goes_where_its_name_fits() {
    let spool = Spool::new(
        "[routes.make]\nglob = \"*.txt\"\ncommand = [\"cp\", \"{path}\", \"{output}/made\"]\n\
         output = true\nstdout = \"none\"\nnext = \"old\"\n\
         [routes.old]\nglob = \"*.made/**\"\ncommand = [\"sh\", \"-c\", \"test -e mended && cat {path}\"]\n\
         retries = { fail = 9, first_wait = \"1s\" }\n",
    );
    spool.drop_file("1.txt", "content");
    let daemon = spool.daemon();
    daemon.wait_for_log("attempt failed");
    assert_eq!(daemon.end().code(), Some(0));
    change(&spool, "old", "new");
    spool.write("mended", "");
    let daemon = spool.daemon();
    spool.wait_until("it is done", || spool.has("done/1.txt.made/made"));
    assert_eq!(spool.csv("new").column("text"), ["content"]);
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: what runs while its route changes is recorded by the route it was started with.
/// Method: a job that waits; its route gets `output`, whose folder this attempt never had; then it ends.
#[test]
fn a_change_under_a_running_job_is_none_for_it() {
    let spool = waiting();
    spool.drop_file("1.txt", "1");
    let daemon = spool.daemon();
    spool.wait_until("it runs", || begun(&spool).len() == 1);
    let more = "output = true\nstdout = \"none\"";
    change(&spool, "stdout = \"json\"", more);
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("settings reloaded");
    spool.write("go", "");
    spool.wait_until("it is done", || spool.names("done") == ["1.txt"]);
    assert_eq!(daemon.end().code(), Some(0), "{}", spool.report());
    assert_eq!(spool.csv("first").column("by"), ["first"]);
}

/// Goal: who looks beside a daemon that was told to stop hears that what waits does not get its turn from it.
/// Method: a job that waits and a file behind it; TERM.
#[test]
fn what_waits_beside_a_drain_is_not_promised_its_turn() {
    let spool = waiting();
    let mut daemon = spool.daemon();
    spool.drop_file("1.txt", "1");
    spool.wait_until("it runs", || begun(&spool).len() == 1);
    spool.drop_file("2.txt", "2");
    spool.wait_until("the other one is known", || {
        spool.run(&["explain", "2.txt"]).stdout().contains("for its turn")
            || spool.run(&["status"]).stdout().contains("waiting 1")
    });
    spool.run(&["status"]).ok().says("RUNNING pid");
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("draining");
    spool.run(&["status"]).ok().says("STOPPING pid").says("claims nothing");
    spool.run(&["explain", "2.txt"]).ok().says("told to stop").says("once it has ended");
    let batch = spool.run(&["batch"]).code(1).says("is already served by inboxd pid");
    batch.says("It was told to stop, and ends once what runs has ended. Run this again then.");
    spool.write("go", "");
    assert!(daemon.wait().success(), "{}", spool.report());
    assert_eq!(spool.names("incoming"), ["2.txt"]);
}

/// Goal: the second signal stops what runs, at no cost. Method: a job that waits; TERM, TERM; then it is
/// run to its end.
#[test]
fn the_second_signal_stops_now() {
    let spool = waiting();
    spool.drop_file("1.txt", "1");
    let mut daemon = spool.daemon();
    spool.wait_until("it runs", || begun(&spool).len() == 1);
    let workers = daemon.workers();
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("draining");
    assert!(workers.iter().all(|pid| alive(*pid)), "the first signal ended a worker");
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", spool.report());
    assert_eq!(spool.processes(), Vec::<String>::new());
    spool.write("go", "");
    spool.run(&["batch"]).ok();
    assert_eq!(begun(&spool), ["first 1.txt", "first 1.txt"]);
    assert_eq!(spool.names("done"), ["1.txt"]);
}

/// Goal: a daemon that a signal ended says so by its supervisor, with what that means; its shell would tell a
/// number at most. Method: SIGABRT to the daemon.
#[test]
fn a_sudden_end_is_told() {
    let spool = waiting();
    let mut daemon = spool.daemon();
    send(daemon.daemon_pid(), Signal::ABORT);
    assert_eq!(daemon.wait().code(), Some(128 + 6));
    let log = daemon.log();
    assert!(log.contains("fatal: inboxd was ended by SIGABRT"), "{log}");
    assert!(log.contains("No accepted file is lost"), "{log}");
}

/// Goal: who starts inboxd may ignore the ends of its children, and its own must be waited for all the same:
/// jobs end, whatever runs them, and a worker that has children sees theirs. Method: env(1) ignores SIGCHLD,
/// which exec hands on.
#[test]
fn ignored_ends_of_children_are_heard() {
    let spool = Spool::new(
        "[routes.function]\ntrace_columns = false\nglob = \"*.py1\"\npython = \"work.py:status\"\n\
         [routes.main]\ntrace_columns = false\ncommand = [\"sh\", \"-c\", \"(exit 3); echo $?\"]\n",
    );
    spool.write(
        "work.py",
        "import subprocess\ndef status(path):\n    return {\"n\": subprocess.call([\"sh\", \"-c\", \"exit 3\"])}\n",
    );
    spool.drop_file("a", "a");
    spool.drop_file("b.py1", "b");
    let deaf = ["env", "--ignore-signal=CHLD"];
    spool.run_under(&deaf, &["try", "main", "inbox/incoming/a"], b"").ok().says("3");
    spool.run_under(&deaf, &["batch"], b"").ok();
    assert_eq!(spool.names("done"), ["a", "b.py1"], "{}", spool.report());
    assert_eq!(spool.csv("main").sorted(), ["3"]);
    assert_eq!(spool.csv("function").sorted(), ["3"]);
}

/// Goal: who stops the daemon now does not wait for two files to be read to their ends, and nothing runs for it.
/// Method: a file of a terabyte of nothing, delivered again with `on_repeat = "skip"`, and the word twice.
#[test]
fn a_second_word_to_stop_waits_for_no_comparison() {
    let spool = Spool::new(
        "quiet_for = \"0s\"\n[routes.main]\ncommand = [\"touch\", \"ran\"]\non_repeat = \"skip\"\n",
    );
    let mut daemon = spool.daemon();
    let place = |path: &str| {
        let temp = spool.home().join("staging/huge");
        let file = std::fs::File::create(&temp).unwrap();
        file.set_len(1 << 40).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        rustix::fs::rename(&temp, spool.path(path)).unwrap();
    };
    place("done/huge");
    place("incoming/huge");
    let is_claimed = |begun: &str| {
        let all = std::fs::read_dir(spool.path("processing")).unwrap();
        let mut paths = all.map(|entry| entry.unwrap().path());
        paths.any(|path| path.extension() == Some(begun.as_ref()) && path.join("huge").exists())
    };
    spool.wait_until("it is claimed", || is_claimed("1"));
    daemon.signal(Signal::TERM);
    daemon.wait_for_log("draining");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!spool.has("ran") && spool.has("done/huge") && is_claimed("0"));
}
