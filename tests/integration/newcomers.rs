//! What people meet who are new here: words of other systems, somebody else's spool, no rights.
//!
//! Must not know: how the messages are made.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::harness::{BINARY, Output, Spool};

const README: &str = include_str!("../../README.md");

/// Whose group is root's, and not the first of their own.
const PRODUCER: u32 = 61_234;

/// Runs a command of ours as `nobody`, who gets to the program by a copy of it.
fn as_nobody(spool: &Spool, args: &[&str]) -> Output {
    fs::set_permissions(spool.home(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = spool.home().join("inboxd");
    if !copy.exists() {
        fs::copy(BINARY, &copy).unwrap();
    }
    let copy = copy.to_str().unwrap();
    let instead = ["sh", "-c", "shift; exec \"$0\" \"$@\"", copy];
    let wrapper = [&["setpriv", "--reuid=nobody", "--clear-groups"][..], &instead].concat();
    spool.run_under(&wrapper, args, b"")
}

/// Goal: who has no right to a spool is told so, and not that there is none. Method: as `nobody`, a spool of
/// root's that is closed, then one that may be looked into.
#[test]
fn somebody_elses_spool_is_named_as_such() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim("[routes.main]\ncommand = [\"true\"]\n");
    spool.write_home("x", "x");
    fs::create_dir(spool.path("incoming")).unwrap();
    let mode = |mode| {
        fs::set_permissions(spool.path(""), PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(0o700);
    as_nobody(&spool, &["status"]).code(1).says("cannot look into ./inbox: Permission denied");
    // Root's `init`, then the service's start.
    spool.run(&["init", "made"]).ok();
    fs::set_permissions(spool.home().join("made"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(spool.home().join("made/inboxd.toml"), "[routes.main]\ncommand = [\"true\"]\n")
        .unwrap();
    let said = as_nobody(&spool, &["--spool", "made", "batch"]).code(1);
    said.says("./made belongs to user 0: run inboxd as that user, or give it to this one");
}

/// Goal: words of a shell where no shell reads them, and names of files where one does, are said before a
/// file is lost to them. Method: both, and the sound way to write it.
#[test]
fn words_of_a_shell_are_warned_of() {
    let check = |command: &str| {
        let spool = Spool::new(&format!("[routes.main]\ncommand = [{command}]\n"));
        spool.run(&["check"]).ok().stdout()
    };
    let said = check(r#""wc", "{path}", "|", "sort""#);
    assert!(said.contains(r#"no shell reads "|""#), "{said}");
    let said = check(r#""bash", "-ec", "wc {path}""#);
    assert!(said.contains("{path} stands within the text of bash -c"), "{said}");
    let said = check(r#""sh", "-c", "wc \"$1\" | sort > {output}/x; exit", "sh", "{path}""#.replace("{output}", "/dev/null").as_str());
    assert!(!said.contains("warning   route"), "{said}");
}

/// Goal: a glob that takes nothing, since it is of other paths than those below `incoming/`, is warned of.
/// Method: what people write; and what looks like it and is sound.
#[test]
fn globs_that_take_nothing_are_warned_of() {
    let check = |glob: &str| {
        let lines = format!("[routes.main]\nglob = {glob}\ncommand = [\"cat\", \"{{path}}\"]\n");
        Spool::new(&lines).run(&["check"]).ok().stdout()
    };
    for (glob, instead) in [
        (r#""incoming/*.json""#, r#"Write "*.json""#),
        (r#""/srv/jobs/incoming/*.json""#, r#"Write "*.json""#),
        (r#"["*.txt", "a/.json"]"#, r#"Write "a/*.json" for all"#),
        (r#""*.json, *.txt""#, r#"Write glob = ["*.json", "*.txt"]"#),
    ] {
        let said = check(glob);
        assert!(said.contains("warning   route") && said.contains(instead), "{said}");
    }
    for glob in [r#""a/incoming/*.json""#, r#""*.{json,txt}""#, r#""**/*.json""#, r#""/*.json""#] {
        let said = check(glob);
        assert!(!said.contains("warning   route"), "{said}");
    }
}

/// Goal: a command that is not told its file, which would find nothing in each and be done, is warned of.
/// Method: each way to be told, and none, for files and for records.
#[test]
fn a_command_that_gets_nothing_is_warned_of() {
    let check = |lines: &str| {
        let spool = Spool::new(&format!("[routes.main]\n{lines}\n"));
        spool.write("knows.sh", "#!/bin/sh\nwc -l \"$INBOXD_PATH\" $INBOXD_RECORD\n");
        spool.run(&["check"]).ok().stdout()
    };
    for lines in [
        r#"command = ["wc", "-l"]"#,
        "command = [\"wc\", \"{path}\"]\nrecords = \"lines\"",
        r#"command = ["sh", "-c", "wc $1"]"#,
    ] {
        let said = check(lines);
        assert!(said.contains("warning   route          main: no argument has the "), "{said}");
    }
    for lines in [
        "command = [\"wc\", \"-l\"]\nstdin = true",
        r#"command = ["sh", "knows.sh"]"#,
        "command = [\"sh\", \"./knows.sh\"]\nrecords = \"lines\"",
        r#"command = ["sh", "-c", "wc $INBOXD_REL"]"#,
        r#"command = ["wc", "--files={rel}"]"#,
        "command = [\"wc\", \"--files={record}\"]\nrecords = \"lines\"",
    ] {
        let said = check(lines);
        assert!(!said.contains("warning   route"), "{said}");
    }
}

/// Goal: a file that no route took is said to have failed, without a worker that never was.
/// Method: a message for no algorithm that there is; the screens that show it.
#[test]
fn no_attempt_is_said_where_none_was() {
    let spool = Spool::new("[routes.a]\nfields = { kind = \"a\" }\ncommand = [\"true\"]\n");
    spool.drop_file("b.json", "{\"kind\": \"b\"}");
    let reason = "no route takes kind \"b\"; known: a";
    spool.run(&["batch"]).code(3).says(&format!("failed  b.json   {reason}\n"));
    let said = spool.run(&["explain", "b.json"]).ok().stdout();
    let head = said.lines().next().unwrap_or_default();
    assert!(!head.contains("route") && !head.contains("attempt"), "{said}");
    assert!(said.contains(reason), "{said}");
}

/// Goal: a machine that has the program and no more has its settings explained.
/// Method: the manual page; a name, its default and its meaning.
#[test]
fn the_manual_has_the_settings() {
    let said = Spool::bare().run(&["man"]).ok().stdout();
    for words in ["try_again_after", "when an attempt is ended", "Exit codes: 0 fine"] {
        assert!(said.contains(words), "{words}\n{said}");
    }
}

/// Goal: what `init` says to type next works where it was typed. Method: a folder of another name; the words
/// behind `then:`, less the `run` that would stay.
#[test]
fn the_next_command_is_for_the_spool_that_was_made() {
    let spool = Spool::bare();
    let said = spool.run(&["init", "jobs"]).ok().stdout();
    let (_, next) = said.trim_end().split_once("then: inboxd ").expect("what to type next");
    assert_eq!(next, "--spool ./jobs run");
    spool.run(&["--spool", "./jobs", "status"]).ok();
}

/// Goal: no file is handed in under a name that is no input: it would run, and once it failed `retry` would
/// put it where nobody looks, and `--wait` wait for ever. Method: a hidden name and a listed one, with and
/// without a daemon; the name that is told of.
#[test]
fn nothing_is_handed_in_that_could_not_come_back() {
    let spool = Spool::new("ignore = [\"*.bak\"]\n[routes.main]\ncommand = [\"false\"]\n");
    for name in [".x", "x.bak", "y.tmp"] {
        spool.write_home(name, "x");
        spool.run(&["submit", name]).code(2).says("is ignored").says("--name NAME");
    }
    let daemon = spool.daemon();
    spool.run(&["submit", ".x"]).code(2).says("is ignored: .* is no input");
    spool.run(&["submit", "--wait", "--name", "x", ".x"]).code(3).says("failed");
    spool.run(&["retry", "--wait", "x"]).code(3).says("failed");
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(spool.errors(), ["x"]);
}

/// Goal: of a file that waits nobody says that it is nowhere. Method: what asks for a job that has run, of one
/// that has not.
#[test]
fn a_file_that_waits_is_not_unknown() {
    let spool = Spool::new("[routes.main]\ncommand = [\"true\"]\n");
    spool.drop_file("a", "x");
    for command in ["retry", "rerun", "log"] {
        spool.run(&[command, "a"]).code(1).says("a has not ended yet").says("inboxd explain a");
        spool.run(&[command, "b"]).code(1).says("nothing is known of b");
    }
}

/// Goal: `retry` and `rerun` put nothing where nobody looks: it would never run again. Method: a worker that
/// makes a file under a hidden name for the next route, beside a sound one; both fail, all are retried.
#[test]
fn what_is_no_input_stays_where_it_is() {
    let spool = Spool::new(
        "[routes.a]\nglob = \"x\"\noutput = true\nnext = \"b\"\nstdout = \"none\"\n\
         command = [\"sh\", \"-c\", \"touch $1/.hidden $1/sound\", \"sh\", \"{output}\"]\n\
         [routes.b]\nglob = \"**/*.made/**\"\ncommand = [\"test\", \"-e\", \"mended\"]\n",
    );
    spool.drop_file("x", "x");
    spool.run(&["batch"]).code(3);
    spool.write("mended", "");
    let said = spool.run(&["retry", "--all", "--wait"]).code(1);
    said.says("x.made/.hidden would be ignored in incoming/: .* is no input")
        .says("stays where it is");
    assert!(spool.has("error/x.made/.hidden") && spool.has("error/.why/x.made/.hidden.json"));
    assert!(spool.has("done/x.made/sound") && !spool.has("incoming/x.made/.hidden"));
}

/// Goal: of several jobs of one path `explain` and `log` tell of the same one, the newest, by an id of that
/// one, by a path in `error/` of the file there. Method: a failure; its successor done; it failing again in
/// another way after a retry; and one beside which a newer one has failed.
#[test]
fn explain_and_log_tell_of_the_same_job() {
    let spool = Spool::new("[routes.main]\ncommand = [\"sh\", \"{path}\"]\nretries = 0\n");
    let fail = |word: &str| format!("echo {word} >&2; exit 1\n");
    let newest = || {
        let line = spool.run(&["jobs", "-n", "1", "--json"]).stdout();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line["job"].as_str().unwrap().to_owned()
    };
    let tells = |job: &str, words: &[&str]| {
        let said = spool.run(&["explain", job]).ok();
        words.iter().fold(said, |said, word| said.says(word));
    };
    spool.drop_file("x.sh", fail("first"));
    spool.run(&["batch"]).code(3);
    let first = newest();
    tells("x.sh", &["FAILED", "first", "inboxd log x.sh"]);
    spool.drop_file("x.sh", "echo fine\n");
    spool.run(&["batch"]).ok();
    tells("x.sh", &["DONE", "error/x.sh failed, as another job: inboxd explain error/x.sh"]);
    tells("error/x.sh", &["FAILED", "first", "inboxd log error/x.sh"]);
    spool.run(&["log", "error/x.sh"]).ok().says("first");

    spool.drop_file("x.sh", fail("second"));
    spool.run(&["batch"]).code(3);
    let second = newest();
    let log = format!("inboxd log 'error/x~{second}.sh'");
    tells("x.sh", &["second", &log, "error/x.sh failed, as another job"]);
    spool.run(&["log", "x.sh"]).ok().says("second");

    spool.write("error/x.sh", &fail("third"));
    spool.run(&["retry", "--wait", "x.sh"]).code(3);
    tells(&first, &["first", &format!("inboxd log {first}")]);
    tells("x.sh", &["third", "inboxd log x.sh"]);
}

/// Goal: times are those of the place that `TZ` names, as everywhere else. Method: one by its name and as its
/// rule; skipped where the system does not have it.
#[test]
fn a_time_zone_may_be_named() {
    if !std::path::Path::new("/usr/share/zoneinfo/Asia/Kathmandu").exists() {
        eprintln!("skipped: no zone of that name here");
        return;
    }
    let spool = Spool::new("[routes.main]\nstdout = \"none\"\ncommand = [\"true\"]\n");
    spool.drop_file("x", "x");
    spool.run(&["batch"]).ok();
    let jobs =
        |zone: &str| spool.run_under(&["env", &format!("TZ={zone}")], &["jobs"], b"").ok().stdout();
    assert_eq!(jobs("Asia/Kathmandu"), jobs("NPT-5:45"));
    assert_ne!(jobs("Asia/Kathmandu"), jobs("UTC"));
}

/// Goal: who does what is said next hands nothing in twice. Method: a route that cannot start; what each way in
/// says to do, and how often it says why; then that is done, and each file ran once.
#[test]
fn what_to_do_about_a_pause_hands_in_nothing_again() {
    let route = "[routes.main]\ncommand = [\"./later.sh\", \"{path}\"]\n";
    let spool = Spool::new(route);
    spool.write_home("a b", "x");
    let said = spool.run(&["submit", "--wait", "a b"]).code(1).says("and run inboxd batch.");
    assert_eq!(said.both().matches("PAUSED").count(), 1, "{said}");
    spool.write_home("source/c", "x");
    spool.run(&["batch", "source"]).code(1).says("and run the same command again.");
    spool.run(&["batch", "--again", "source"]).code(1).says("again, without --again.");
    let daemon = spool.daemon();
    spool.run(&["batch", "--again", "source"]).code(1).says("it is picked up by itself.");
    daemon.end_well();
    spool.write("later.sh", "#!/bin/sh\necho it ran\n");
    let bits = fs::Permissions::from_mode(0o755);
    fs::set_permissions(spool.path("later.sh"), bits).unwrap();
    spool.run(&["batch", "source"]).ok();
    spool.run(&["batch"]).ok();
    let mut ran = spool.csv("main").column("_file");
    ran.sort();
    assert_eq!(ran, ["a b", "c", "c", "c"]);
}

/// Goal: the command that is said to explain a failure can be pasted. Method: a name that a shell would take
/// apart, by each command that says it.
#[test]
fn the_name_of_what_failed_can_be_pasted() {
    let spool = Spool::new("[routes.main]\ncommand = [\"false\"]\n");
    spool.drop_file("a b", "x");
    spool.run(&["batch"]).code(3).says("inboxd explain 'a b'");
    spool.run(&["rerun", "a b"]).code(1).says("inboxd retry 'a b'");
    spool.write_home("source/c $d", "x");
    let daemon = spool.daemon();
    spool.run(&["batch", "source"]).code(3).says("inboxd explain 'c $d'");
    daemon.end_well();
    let screen = spool.start_on_terminal(&["run"]);
    spool.drop_file("it's", "x");
    screen.wait_for_log(r"inboxd explain 'it'\''s'");
    screen.end_well();
}

/// Goal: what is full is named. Method: rows into a device that takes none.
#[test]
fn what_cannot_be_written_to_is_named() {
    let spool = Spool::new("[routes.main]\ncommand = [\"echo\", \"{name}\"]\n");
    spool.drop_file("a", "x");
    spool.run(&["batch"]).ok();
    let full = ["sh", "-c", "exec \"$0\" \"$@\" > /dev/full"];
    for args in [&["results", "main"][..], &["results", "--json", "main"], &["jobs"], &["status"]] {
        let said = spool.run_under(&full, args, b"").code(1);
        assert!(
            said.both().starts_with("error: cannot write to standard output: No space"),
            "{said}"
        );
    }
}

/// Goal: what README says to type brings folders, too, from who is in the group as the pages say, and ends well; a
/// file in a folder that nobody else may see is told of as such. Method: three users of whom none is root; rsync
/// as README has it.
#[test]
fn the_rsync_of_the_readme_is_for_producers_in_the_group() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can be several users");
        return;
    }
    let spool = Spool::verbatim("[routes.main]\ncommand = [\"cat\", \"{path}\"]\n");
    let daemon = spool.daemon_as_nobody();
    for name in ["out/a", "out/sub/b", "shut/c"] {
        spool.write_home(name, "x");
    }
    for made in ["out", "out/sub", "out/a", "out/sub/b", "shut", "shut/c"] {
        chown(spool.home().join(made), Some(PRODUCER), Some(PRODUCER)).unwrap();
    }
    let as_producer = |words: &[&str]| {
        let ids = [format!("--reuid={PRODUCER}"), format!("--regid={PRODUCER}")];
        let mut command = Command::new("setpriv");
        command.args(ids).arg("--groups=0").args(words).current_dir(spool.home());
        assert!(command.status().unwrap().success(), "{words:?}\n{}", spool.report());
    };
    let (options, _) = README.split_once(" out/ host:").unwrap();
    let (_, options) = options.rsplit_once("`rsync ").unwrap();
    let mut words = vec!["rsync"];
    words.extend(options.split(' '));
    words.extend(["out/", "inbox/incoming/"]);
    as_producer(&words);
    spool.wait_until("both are done", || spool.files("done").len() == 2);
    assert_eq!(spool.names("done"), ["a", "sub/b"]);

    as_producer(&["mkdir", "-m", "0700", "inbox/incoming/shut"]);
    as_producer(&["cp", "shut/c", "inbox/incoming/shut/"]);
    let said = as_nobody(&spool, &["explain", "shut/c"]).code(1);
    said.says("incoming/shut/c cannot be seen").says("chmod -R g+rwX,g+s FOLDER");
    daemon.end_well();
}

/// Goal: a file that its producer lets nobody read fails, of any kind of route, and is not tried for ever: a batch
/// would never end. Method: the daemon as `nobody`, files of root's with no right for others.
#[test]
fn a_file_that_nobody_may_read_fails() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: root may read all");
        return;
    }
    let route = |name: &str, lines: &str| format!("[routes.{name}]\nglob = \"{name}*\"\n{lines}\n");
    let cat = "command = [\"cat\", \"{record}\"]";
    let spool = Spool::verbatim(&format!(
        "{}{}{}",
        route("csv", &format!("records = \"csv\"\n{cat}")),
        route("lines", &format!("records = \"lines\"\n{cat}")),
        route("file", "command = [\"cat\"]\nstdin = true"),
    ));
    let daemon = spool.daemon_as_nobody();
    for name in ["csv", "lines", "file"] {
        spool.write_home(name, "a\n1\n");
        fs::set_permissions(spool.home().join(name), PermissionsExt::from_mode(0o600)).unwrap();
        rustix::fs::rename(spool.home().join(name), spool.path("incoming").join(name)).unwrap();
    }
    spool.wait_until("all have failed", || spool.errors().len() == 3);
    for name in ["csv", "lines", "file"] {
        let reason = spool.reason(name);
        assert!(reason.contains("Permission denied"), "{reason}");
    }
    daemon.end_well();
}
