//! Every command once, as a person or a script uses it, and the messages that were promised.
//!
//! Must not know: how a command reaches a daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::checks::is_job_id;
use crate::harness::{Output, Spool};

const ROWS: &str = r#"
[routes.count]
glob = "*.json"
command = ["cat", "{path}"]
stdout = "json"
"#;

/// A spool with one file done and one failed.
fn used() -> Spool {
    let spool = Spool::new(ROWS);
    spool.drop_file("good.json", "{\"n\":1,\"text\":\"a,b\"}");
    spool.drop_file("bad.json", "not JSON");
    spool.run(&["batch"]).code(3);
    spool
}

/// The id of the job that made a row.
fn job_of(spool: &Spool, rel: &str) -> String {
    let rows = spool.csv("count");
    let found =
        rows.column("_file").into_iter().zip(rows.column("_job")).find(|(file, _)| file == rel);
    found.unwrap_or_else(|| panic!("no row of {rel}\n{}", spool.report())).1
}

/// What `--json` printed: one value, or one a line; a list counts as its elements.
fn json(output: &Output) -> Vec<serde_json::Value> {
    let text = output.stdout();
    let values = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    values
        .flat_map(|value| match value.unwrap_or_else(|e| panic!("not JSON: {e}: {output}")) {
            serde_json::Value::Array(list) => list,
            other => vec![other],
        })
        .collect()
}

/// The first word of what `submit` printed.
fn submitted_id(output: &Output) -> String {
    let text = output.stdout();
    let id = text.split_whitespace().next().unwrap_or_default().to_owned();
    assert!(is_job_id(&id), "no job id: {output}");
    id
}

/// Goal: `init` makes a spool that `check` finds unfinished or fine, never broken, and overwrites nothing.
/// Method: init, edit, init again; and a folder of another name.
#[test]
fn init_makes_a_spool() {
    let spool = Spool::bare();
    spool.run(&["init"]).ok();
    for part in ["inboxd.toml", "incoming"] {
        assert!(spool.path(part).exists(), "{part}\n{}", spool.report());
    }
    let mode = |part: &str| fs::metadata(spool.path(part)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o750);
    // Whatever the umask, its own start does not refuse it.
    let open = ["sh", "-c", "umask 0; exec \"$0\" \"$@\""];
    spool.run_under(&open, &["init", "open", "--example", "count"], b"").ok();
    spool.run(&["--spool", "open", "batch"]).ok();
    assert_eq!(mode("incoming"), 0o2770);
    spool.write("inboxd.toml", "# mine\n");
    spool.run(&["init"]);
    assert_eq!(fs::read_to_string(spool.path("inboxd.toml")).unwrap(), "# mine\n");

    spool.run(&["init", "other"]).ok();
    spool.run(&["--spool", "named", "init"]).ok();
    for made in ["other", "named"] {
        assert!(spool.home().join(made).join("inboxd.toml").exists(), "{made}");
    }
    // What it says to run can be pasted.
    spool.run(&["init", "my jobs"]).ok().says("inboxd --spool './my jobs' run");
}

/// Goal: the spool is found as documented, and what is none is named as that. Method: `--spool`, a variable that
/// is empty, not at all, a folder that is not there, and the settings in place of their folder.
#[test]
fn the_spool_is_found() {
    let spool = used();
    let absolute = spool.root().display().to_string();
    spool.run(&["--spool", &absolute, "results", "count"]).ok().says("good.json");
    spool.run(&["--spool", "inbox", "results", "count"]).ok().says("good.json");
    spool.run_under(&["env", "INBOXD_SPOOL="], &["results", "count"], b"").ok().says("good.json");
    for command in ["run", "batch", "status", "check"] {
        let said = "./inbox/inboxd.toml is a file: --spool and INBOXD_SPOOL name the folder";
        spool.run(&["--spool", "inbox/inboxd.toml", command]).code(2).says(said);
    }
    Spool::bare().run(&["status"]).fails().says("inboxd init");
    Spool::bare().run(&["--spool", "nowhere", "status"]).fails().says("nowhere");
}

/// Goal: a submitted file becomes the job whose id was printed, and the original stays.
/// Method: submit without a daemon, then a batch; by name, and from standard input.
#[test]
fn submit_prints_the_job() {
    let spool = Spool::new(ROWS);
    spool.write_home("mine/a.json", "{\"n\":1}");
    let first = submitted_id(&spool.run(&["submit", "mine/a.json"]).ok());
    let named = spool.run(&["submit", "--name", "sub/b.json", "mine/a.json"]).ok();
    let second = submitted_id(&named);
    let piped = spool.run_with_input(&["submit", "--name", "c.json", "-"], b"{\"n\":3}").ok();
    let third = submitted_id(&piped);
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a.json", "c.json", "sub/b.json"], "{}", spool.report());
    assert_eq!(job_of(&spool, "a.json"), first);
    assert_eq!(job_of(&spool, "sub/b.json"), second);
    assert_eq!(job_of(&spool, "c.json"), third);
    assert_eq!(fs::read(spool.home().join("mine/a.json")).unwrap(), b"{\"n\":1}");
    assert_eq!(spool.files("done")[&b"c.json"[..]], b"{\"n\":3}");
}

/// Goal: what cannot be a job is refused, and leaves nothing. Method: no name, a name outside, no file.
#[test]
fn submit_refuses_what_cannot_be_a_job() {
    let spool = Spool::new(ROWS);
    spool.write_home("a.json", "{}");
    spool.run_with_input(&["submit", "-"], b"{}").code(2).says("--name");
    spool.run(&["submit", "--name", "../escape.json", "a.json"]).code(2);
    let long = "x".repeat(256);
    spool.run(&["submit", "--name", &long, "a.json"]).code(2).says("at most 255 bytes");
    spool.run(&["submit", "--name", "/escape.json", "a.json"]).code(2);
    spool.run(&["submit", "no-such-file.json"]).fails().says("no-such-file.json");
    assert_eq!(spool.names("incoming"), Vec::<String>::new(), "{}", spool.report());
    assert!(!spool.path("escape.json").exists());
}

/// Goal: `--wait` returns once the job is over, with its verdict. Method: a daemon, a good and a bad file.
#[test]
fn submit_waits() {
    let spool = Spool::new(ROWS);
    spool.write_home("good.json", "{\"n\":1}");
    spool.write_home("bad.json", "not JSON");
    let daemon = spool.daemon();
    spool.run(&["submit", "--wait", "good.json"]).ok();
    assert_eq!(spool.names("done"), ["good.json"], "{}", spool.report());
    spool.run(&["submit", "--wait", "bad.json"]).fails().says("JSON");
    assert_eq!(spool.errors(), ["bad.json"], "{}", spool.report());
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: `status` tells what is where, with and without a daemon. Method: the numbers of a used spool.
#[test]
fn status_tells() {
    let spool = used();
    spool.drop_file("typo.jsn", "{}");
    spool.run(&["status"]).ok().says("failed 1");
    let daemon = spool.daemon();
    spool.wait_until("the odd file is counted", || {
        spool.run(&["status"]).ok().both().contains("no route")
    });
    let pid = format!("pid {}", daemon.daemon_pid());
    spool.run(&["status"]).ok().says("RUNNING").says(&pid).says("failed 1").says("done 1");
    let values = json(&spool.run(&["status", "--json"]).ok());
    let [status] = values.as_slice() else { panic!("one object: {values:?}") };
    for key in ["waiting", "running", "held", "done", "failed"] {
        assert!(status.get(key).is_some_and(serde_json::Value::is_u64), "{key}: {status}");
    }
    assert_eq!((&status["done"], &status["failed"]), (&1.into(), &1.into()), "{status}");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: `jobs` lists every job with what became of it. Method: one done, one failed.
#[test]
fn jobs_lists() {
    let spool = used();
    spool.run(&["jobs"]).ok().says("good.json").says("bad.json");
    let list = json(&spool.run(&["jobs", "--json"]).ok());
    let mut rels: Vec<&str> = list.iter().filter_map(|job| job["rel"].as_str()).collect();
    rels.sort_unstable();
    assert_eq!(rels, ["bad.json", "good.json"]);
    let good = list.iter().find(|job| job["rel"] == "good.json").unwrap();
    assert_eq!(good["job"], job_of(&spool, "good.json").as_str());
    assert_eq!(good["route"], "count");
}

/// Goal: `results` gives all rows of a route, as CSV and as JSON. Method: a cell with a comma, two segments;
/// a route that is not there, and one of which nobody knows.
#[test]
fn results_prints_all_segments() {
    let spool = used();
    let text = spool.run(&["results", "count"]).ok().stdout();
    let job = job_of(&spool, "good.json");
    assert_eq!(text, format!("n,text,_file,_job\n1,\"a,b\",good.json,{job}\n"));
    spool.drop_file("more.json", "{\"n\":2,\"text\":\"c\",\"new\":3}");
    spool.run(&["batch"]).ok();
    let list = json(&spool.run(&["results", "count", "--json"]).ok());
    assert_eq!(list.len(), 2, "{list:?}");
    assert_eq!((&list[0]["text"], &list[0]["_file"]), (&"a,b".into(), &"good.json".into()));
    assert_eq!((&list[1]["n"], &list[1]["new"]), (&"2".into(), &"3".into()));
    spool.run(&["results", "errors"]).ok().says("bad.json");
    spool.run(&["results", "nosuch"]).code(2).says("there is no route `nosuch`; there are count");
    // It may be one whose settings have a mistake.
    spool.write("inboxd.toml", "[routes.nosuch\n");
    spool.run(&["results", "nosuch"]).code(2).says("inbox/inboxd.toml:1:");
}

/// Goal: a job is found by id, by a unique beginning of it, by its path, by a path in the spool.
/// Method: `explain` each way, and one that is none.
#[test]
fn explain_finds_the_job() {
    let spool = used();
    let job = job_of(&spool, "good.json");
    for name in [job.as_str(), "good.json", "inbox/done/good.json"] {
        spool.run(&["explain", name]).ok().says("good.json").says("route count");
    }
    // Two jobs of one run differ late; the beginning that tells them apart is as long as it must be.
    let other = &spool.csv("errors").column("job")[0];
    let same = job.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    spool.run(&["explain", &job[..=same]]).ok().says("good.json");
    spool.run(&["explain", &job[..same]]).code(2).says(&job).says(other);
    spool.run(&["explain", "inbox/error/bad.json"]).ok().says("FAILED").says("reason");
    let values = json(&spool.run(&["explain", "--json", "bad.json"]).ok());
    assert!(
        values[0]["reason"].as_str().is_some_and(|reason| reason.contains("JSON")),
        "{values:?}"
    );
    spool.run(&["explain", "never-seen.json"]).fails().says("never-seen.json");
}

/// Goal: `retry` runs failed files again, `rerun` done ones; a row a run. Method: each, then a batch.
#[test]
fn retry_and_rerun() {
    let spool = used();
    fs::write(spool.path("error/bad.json"), "{\"n\":2,\"text\":\"\"}").unwrap();
    spool.run(&["retry", "inbox/error/bad.json"]).ok();
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["bad.json", "good.json"], "{}", spool.report());
    assert_eq!(spool.csv("count").rows.len(), 2);

    spool.run(&["rerun", "good.json"]).ok();
    spool.run(&["batch"]).ok();
    let mut files = spool.csv("count").column("_file");
    files.sort();
    assert_eq!(files, ["bad.json", "good.json", "good.json"]);
    assert_eq!(spool.files("done")[&b"good.json"[..]], b"{\"n\":1,\"text\":\"a,b\"}");
    spool.run(&["retry", "never-seen.json"]).fails().says("never-seen.json");
    assert_eq!(spool.csv("count").rows.len(), 3);
}

/// Goal: of several files to be retried, one that is done by now keeps no other from it (an earlier command was killed,
/// perhaps); a name that nobody knows is a typo, and nothing is moved. Method: a failed file beside each.
#[test]
fn a_retry_of_several_passes_over_what_is_done() {
    let spool = used();
    spool.run(&["retry", "good.json", "never-seen.json", "bad.json"]).fails().says("never-seen");
    spool.run(&["retry", "good.json"]).code(1).says("good.json is done");
    assert!(spool.has("error/bad.json") && !spool.has("incoming/bad.json"));
    let said = spool.run(&["retry", "good.json", "bad.json"]).code(1);
    said.says("good.json is done, it has not failed").says("waits ");
    assert!(spool.has("incoming/bad.json") && !spool.has("error/bad.json"));
}

/// Goal: who has no standard input hands in nothing, and hears of it; an empty one is an empty file. Method: closed,
/// and empty.
#[test]
fn a_closed_standard_input_is_no_file() {
    let spool = used();
    let closed = ["sh", "-c", "exec \"$0\" \"$@\" <&-"];
    let args = ["submit", "--name", "x.json", "-"];
    spool.run_under(&closed, &args, b"").code(2).says("standard input is closed");
    assert_eq!(spool.names("processing"), Vec::<String>::new());
    spool.run(&args).ok();
}

/// Goal: `try` shows what a file would give, and changes nothing. Method: a good and a bad file.
#[test]
fn try_changes_nothing() {
    let spool = used();
    spool.write_home("new.json", "{\"n\":7}");
    spool.write_home("wrong.json", "nope");
    let before =
        (spool.csv("count"), spool.csv("errors"), spool.files("done"), spool.files("error"));
    spool.run(&["try", "count", "new.json"]).ok().says("7");
    spool.run(&["try", "count", "wrong.json"]).fails().says("JSON");
    spool.run(&["try", "nosuch", "new.json"]).code(2).says("count");
    let after =
        (spool.csv("count"), spool.csv("errors"), spool.files("done"), spool.files("error"));
    assert_eq!(after, before);
    assert_eq!(spool.names("incoming"), Vec::<String>::new());
    assert_eq!(spool.names("processing"), Vec::<String>::new());
    assert_eq!(fs::read(spool.home().join("new.json")).unwrap(), b"{\"n\":7}");
}

/// Goal: `try` runs every kind of worker, and none is left behind. Method: a function in Python.
#[test]
fn try_runs_a_python_function() {
    let spool = Spool::new("[routes.size]\npython = \"size.py:size\"\ninterpreter = \"$PYTHON\"\n");
    spool.write("size.py", "def size(path):\n    return {'n': len(open(path).read())}\n");
    spool.write_home("four.txt", "1234");
    let tried = spool.run(&["try", "size", "four.txt"]).ok();
    assert_eq!(tried.stdout(), "n\n4\n", "{tried}");
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: `check` says yes or where it is wrong. Method: good settings, then broken ones, a function that is not
/// in its file, and one that is.
#[test]
fn check_checks() {
    let spool = Spool::new(ROWS);
    spool.run(&["check"]).ok();
    spool.write("inboxd.toml", "[routes.count\n");
    spool.run(&["check"]).code(2).says("inbox/inboxd.toml:1:");
    spool.write("inboxd.toml", &format!("{ROWS}schema = \"gone.json\"\n"));
    spool
        .run(&["check"])
        .code(2)
        .says("cannot read the schema gone.json")
        .says("Fix gone.json, or");
    spool.write("worker.py", "def count(path):\n    return {}\n");
    spool.write("inboxd.toml", "allow_root = true\n[routes.a]\npython = \"worker.py:cuont\"\n");
    let said = "a: cuont is not in inbox/worker.py\n";
    spool.run(&["check"]).ok().says(said).says("Fix `python` at inboxd.toml:3");
    spool.write("inboxd.toml", "allow_root = true\n[routes.a]\npython = \"worker.py:count\"\n");
    assert!(!spool.run(&["check"]).ok().stdout().contains("warning   route"));
}

/// Goal: a mistyped key is found before anything starts, with the place and the right word.
/// Method: the documented message, on the documented line.
#[test]
fn an_unknown_key_is_named() {
    let mut settings =
        String::from("[routes.count]\nglob = \"*.json\"\ncommand = [\"cat\", \"{path}\"]\n");
    settings.push_str(&"\n".repeat(10));
    settings.push_str("  timout = \"1s\"\n");
    let spool = Spool::verbatim(&settings);
    spool.drop_file("a.json", "{}");
    for command in ["run", "batch"] {
        spool
            .run(&[command])
            .code(2)
            .says("error: inbox/inboxd.toml:14:3: unknown key `timout` in [routes.count]; did you mean `timeout`?\n")
            .says("  Nothing was started.");
    }
    assert_eq!(spool.names("incoming"), ["a.json"]);
}

/// Goal: a script hears that what it asked for was not written; a reader that has enough is no failure.
/// Method: each command that prints facts, into a full disk; `status` for one who is gone.
#[test]
fn what_cannot_be_printed_is_no_success() {
    let spool = Spool::new("[routes.r]\ncommand = [\"cat\", \"{path}\"]\n");
    spool.drop_file("x", "1\n");
    spool.run(&["batch"]).ok();
    let full = ["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"];
    for command in
        ["status", "status --json", "jobs", "results r", "routes", "check", "explain x", "man"]
    {
        let words: Vec<&str> = command.split(' ').collect();
        spool.run_under(&full, &words, b"").code(1).says("No space left on device");
    }
    let gone = ["sh", "-c", "\"$0\" \"$@\" | true"];
    spool.run_under(&gone, &["status"], b"").ok();
}

/// Goal: one daemon a spool. Method: a second `run` and a `batch` beside a running one, which goes on.
#[test]
fn a_second_daemon_is_refused() {
    let spool = Spool::new(ROWS);
    let daemon = spool.daemon();
    let message =
        format!("error: ./inbox is already served by inboxd pid {} (since ", daemon.daemon_pid());
    spool.run(&["run"]).code(1).says(&message);
    spool.drop_file("a.json", "{\"n\":1}");
    spool.wait_until("the first still works", || spool.names("done") == ["a.json"]);
    assert_eq!(daemon.end().code(), Some(0));
    // The lock goes with its process, not with a file that could be left behind.
    assert_eq!(spool.daemon().end().code(), Some(0));
}

/// Goal: who may only drop files can never run code, and `status` says what is wrong, since a daemon that runs
/// refuses each new setting for it. Method: settings and state writable by others.
#[test]
fn a_spool_writable_by_others_is_refused() {
    for part in ["", "inboxd.toml", "routes.d", "journal", "processing"] {
        let spool = Spool::new(ROWS);
        spool.run(&["batch"]).ok();
        fs::create_dir_all(spool.path("routes.d")).unwrap();
        fs::set_permissions(spool.path(part), fs::Permissions::from_mode(0o777)).unwrap();
        spool.drop_file("a.json", "{\"n\":1}");
        let place = if part.is_empty() { "inbox" } else { part };
        spool.run(&["batch"]).code(2).says(place);
        let said = spool.run(&["status"]).ok().stdout();
        assert!(said.contains(&format!("{place} may be changed by everyone")), "{said}");
        assert_eq!(spool.names("incoming"), ["a.json"], "{part}");
    }
}

/// Goal: a broken plug-in route is named, and the others run. Method: one good, one broken.
#[test]
fn a_broken_plug_in_hurts_nobody() {
    let spool = Spool::new(ROWS);
    spool.write("routes.d/text.toml", "glob = \"*.txt\"\ncommand = [\"cat\", \"{path}\"]\n");
    spool.write("routes.d/wrong.toml", "glob = \"*.bin\"\ncomand = [\"cat\"]\n");
    spool.drop_file("a.json", "{\"n\":1}");
    spool.drop_file("b.txt", "hello\n");
    spool.drop_file("c.bin", "");
    spool.run(&["batch"]).says("inbox/routes.d/wrong.toml:2:1: unknown key `comand`");
    assert_eq!(spool.names("done"), ["a.json", "b.txt"], "{}", spool.report());
    assert_eq!(spool.names("incoming"), ["c.bin"]);
    assert_eq!(spool.csv("text").column("text"), ["hello"]);
}

/// Goal: a shell can complete, a person can read. Method: each printed and recognised by its form.
#[test]
fn help_man_and_completions() {
    let spool = Spool::bare();
    let help = spool.run(&["--help"]).ok().stdout();
    for command in [
        "init",
        "run",
        "batch",
        "submit",
        "status",
        "jobs",
        "log",
        "results",
        "explain",
        "retry",
        "rerun",
        "try",
        "check",
        "completions",
        "man",
    ] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(command)),
            "{command}: {help}"
        );
        let told = spool.run(&[command, "--help"]).ok().stdout();
        assert_eq!(spool.run(&["help", command]).ok().stdout(), told);
    }
    assert!(spool.run(&["man"]).ok().stdout().contains(".TH"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(spool.run(&["completions", shell]).ok().stdout().contains("inboxd"), "{shell}");
    }
    spool.run(&["--version"]).ok().says("inboxd ");
    spool.run(&["no-such-command"]).code(2);
}

/// Goal: without a daemon `submit` starts no attempt, neither of its own job nor of one that waits;
/// a lost attempt would be charged. Method: two submits; the folders say how many attempts began.
#[test]
fn submit_without_a_daemon_runs_nothing() {
    let spool = Spool::new(ROWS);
    for name in ["a.json", "b.json"] {
        spool.write_home(name, "{\"n\":1}");
        spool.run(&["submit", name]).ok();
    }
    let claims = spool.names("processing");
    assert!(claims.iter().all(|name| name.contains(".0/")), "{claims:?}");
    assert_eq!(claims.len(), 2, "{claims:?}");
    spool.run(&["explain", "a.json"]).ok().says("no daemon runs");
    spool.run(&["status"]).ok().says("STOPPED").says("waiting 2");
    spool.run(&["batch"]).ok().says("2 done");
}

/// Goal: a request on the socket that is wrong is refused and harms nobody: a job without its copy
/// would end the daemon. Method: such a request, one that is no request, then a file.
#[test]
fn a_submit_without_its_copy_harms_nobody() {
    use std::io::{BufRead, BufReader, Write};
    let spool = Spool::new(ROWS);
    let daemon = spool.daemon();
    let ask = |line: &str| {
        let mut stream =
            std::os::unix::net::UnixStream::connect(spool.path("inboxd.sock")).unwrap();
        writeln!(stream, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    };
    let id = "06ayecxg3s1w70r30c1g60r30c";
    let id = ask("{\"ask\":\"id\"}").split('"').nth(3).map_or(id.to_owned(), str::to_owned);
    let submit = format!("{{\"ask\":\"submit\",\"job\":\"{id}\",\"rel\":\"x.json\"}}");
    assert!(ask(&submit).contains("error"), "{}", daemon.log());
    assert!(ask("nonsense").contains("error"));
    spool.write_home("a.json", "{\"n\":1}");
    spool.run(&["submit", "--wait", "a.json"]).ok().says("done");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: who may only read the spool can neither take nor remove a copy that the daemon's user hands in: a `batch`
/// would hand it over once more, and end the daemon. Method: such a copy; as `nobody`, a request for it whose path
/// no route takes, and one that is right; then the same of the daemon's own user.
#[test]
fn a_strangers_submit_touches_no_copy() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::new(ROWS);
    let daemon = spool.daemon();
    // As if it were of a group that may read the spool.
    for (path, mode) in [("", 0o755), ("inboxd.sock", 0o666)] {
        fs::set_permissions(spool.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(spool.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let ask = |user: &[&str], line: &str| {
        let code = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                    s.sendall(sys.argv[2].encode() + b'\\n')\nprint(s.makefile().readline())";
        let path = spool.path("inboxd.sock");
        let mut command = std::process::Command::new("setpriv");
        command.args(user).args([crate::harness::python(), "-c", code]).arg(path).arg(line);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let nobody = ["--reuid=nobody", "--clear-groups"];
    let id = ask(&nobody, "{\"ask\":\"id\"}").split('"').nth(3).unwrap().to_owned();
    let copy = spool.path(&format!("processing/{id}.in/a.json"));
    fs::create_dir(copy.parent().unwrap()).unwrap();
    fs::write(&copy, "{\"n\":1}").unwrap();
    let submit = |rel: &str| format!("{{\"ask\":\"submit\",\"job\":\"{id}\",\"rel\":\"{rel}\"}}");
    for rel in ["a.txt", "a.json"] {
        let answer = ask(&nobody, &submit(rel));
        assert!(answer.contains("only the user that inboxd runs as"), "{answer}");
        assert!(copy.exists(), "{}", spool.report());
    }
    let answer = ask(&[], &submit("a.json"));
    assert!(answer.contains("taken"), "{answer}");
    spool.wait_until("done", || spool.names("done") == ["a.json"]);
    daemon.end_well();
}

/// Goal: clients that have gone, and those that say nothing, take no descriptors for good, and never all of them.
/// Method: more of each than a daemon with few descriptors has; then a file and a command.
#[test]
fn clients_leave_descriptors() {
    use std::io::{BufRead, BufReader, Write};
    let spool = Spool::new(ROWS);
    let few = ["sh", "-c", "ulimit -n 96; exec \"$@\"", "sh"];
    let daemon = spool.start_under(&few, &["run"]);
    daemon.wait_for_log("ready");
    let open = || {
        let folder = format!("/proc/{}/fd", daemon.daemon_pid());
        fs::read_dir(folder).map_or(0, Iterator::count)
    };
    let before = open();
    let connect = || std::os::unix::net::UnixStream::connect(spool.path("inboxd.sock"));
    for _ in 0..120 {
        let mut client = connect().unwrap();
        writeln!(client, "{{\"ask\":\"follow\"}}").unwrap();
        let mut answer = String::new();
        BufReader::new(client).read_line(&mut answer).unwrap();
        assert_eq!(answer, "{}\n");
    }
    spool.wait_until("those that have gone are forgotten", || open() <= before);
    let silent: Vec<_> = (0..120).map_while(|_| connect().ok()).collect();
    spool.wait_until("some have come in", || open() > before + 8);
    spool.drop_file("a.json", "{\"n\":1}");
    spool.wait_until("done", || spool.names("done").len() == 1);
    assert!(open() < 80, "{} descriptors", open());
    drop(silent);
    spool.run(&["status"]).ok().says("done 1");
    daemon.end_well();
}

/// Goal: a retry overwrites nothing and loses no reason; `--all` takes all that can be taken.
/// Method: a newer file of the name of one of two failed ones; retry; take it away; retry and wait.
#[test]
fn retry_overwrites_nothing() {
    let spool = Spool::new(ROWS);
    spool.drop_file("sub/bad.json", "first");
    spool.drop_file("other.json", "not JSON either");
    spool.run(&["batch"]).code(3);
    spool.drop_file("sub/bad.json", "second");
    spool.run(&["retry", "sub/bad.json"]).code(1).says("is there already");
    spool.run(&["explain", "sub/bad.json"]).ok().says("FAILED").says("a newer file");
    spool.run(&["retry", "--all"]).code(1).says("inbox/incoming/other.json");
    assert_eq!(spool.files("incoming")[&b"sub/bad.json"[..]], b"second");
    assert_eq!(spool.files("error")[&b"sub/bad.json"[..]], b"first");
    assert!(spool.reason("sub/bad.json").contains("JSON"), "{}", spool.report());
    assert!(!spool.path("error/.why/other.json.json").exists());

    fs::write(spool.path("incoming/sub/bad.json"), "{\"n\":2}").unwrap();
    fs::write(spool.path("error/sub/bad.json"), "{\"n\":1}").unwrap();
    fs::write(spool.path("incoming/other.json"), "{\"n\":3}").unwrap();
    spool.run(&["batch"]).ok();
    spool.run(&["retry", "--all", "--wait"]).ok().says("done").says("sub/bad.json");
    assert_eq!(spool.errors(), Vec::<String>::new());
    assert_eq!(spool.csv("count").rows.len(), 3);
    spool.run(&["retry", "--all"]).ok().says("nothing to retry");
}

/// Goal: a job that fails while it is waited for is exit code 3, here and with a daemon.
/// Method: `retry --wait` of a file that nobody mended; `rerun --wait` of one that is done.
#[test]
fn waiting_says_how_it_ended() {
    let spool = used();
    spool.run(&["retry", "--wait", "bad.json"]).code(3).says("failed").says("JSON");
    spool.run(&["rerun", "--wait", "good.json"]).ok().says("done");
    assert_eq!(spool.errors(), ["bad.json"]);
    let daemon = spool.daemon();
    spool.run(&["retry", "--wait", "bad.json"]).code(3).says("failed");
    spool.run(&["rerun", "--wait", "inbox/done/good.json"]).ok().says("done");
    assert_eq!(spool.names("done"), ["good.json"]);
    assert_eq!(spool.csv("count").rows.len(), 3);
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: workers run as root only where it was asked for. Method: settings that say nothing of it.
#[test]
fn root_runs_no_worker_unasked() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(ROWS);
    spool.drop_file("a.json", "{}");
    for command in ["run", "batch", "check"] {
        spool.run(&[command]).code(2).says("allow_root");
    }
    assert_eq!(spool.names("incoming"), ["a.json"]);
}

/// Goal: after a crash `status` counts jobs that wait, not the emptied folders that were kept for the next
/// claims. Method: a claim, and two emptied folders, one with the path of what stood in it.
#[test]
fn emptied_folders_are_no_jobs() {
    let spool = Spool::new("[routes.main]\ncommand = [\"true\"]\nstdout = \"none\"\n");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3p.1/sub/x", "x");
    fs::create_dir_all(spool.path("processing/01m80qyy60e008jxzwp3sh0b3q.1")).unwrap();
    fs::create_dir_all(spool.path("processing/01m80qyy60e008jxzwp3sh0b3r.1/sub")).unwrap();
    spool.run(&["status"]).ok().says("waiting 1 ");
    spool.run(&["explain", "01m80qyy60e008jxzwp3sh0b3p"]).ok().says("WAITING");
    spool.run(&["batch"]).ok().says("1 file ");
    assert_eq!(spool.names("processing"), Vec::<String>::new());
}
