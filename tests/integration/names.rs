//! Any name a file can have goes through unharmed: to the worker, into the CSV, into `done/`.
//!
//! Must not know: how names are escaped for people.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::checks::{each_once, placed_once};
use crate::harness::Spool;

/// The worker says what it was given, in hex, so that nothing on the way can mend it.
const SETTINGS: &str = r#"
workers = 4
[routes.names]
glob = "**"
command = ["sh", "names.sh", "{path}", "{name}"]
stdout = "json"
"#;

const NAMES_SH: &str = r#"
hex() { od -An -v -tx1 | tr -d ' \n'; }
printf '{"name":"%s","content":"%s"}\n' "$(printf %s "$2" | hex)" "$(hex < "$1")"
"#;

/// Names that the shipped list calls unfinished or not input. Kept wider than the list: what is
/// dropped here must be input beyond doubt.
fn may_be_ignored(name: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    let ends = [&b"~"[..], b".tmp", b".part", b".partial", b".filepart", b".crdownload"];
    let starts = [&b"."[..], b"~", b"__macosx", b"thumbs.db", b"desktop.ini", b"@eadir"];
    ends.iter().any(|e| lower.ends_with(e)) || starts.iter().any(|s| lower.starts_with(s))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // What breaks programs, more often than chance would have it.
    let nasty = prop::sample::select(b"\n\r\t \"'\\,;$`*?[]{}-~.\x7f\x1b\xff\xc3%".to_vec());
    let byte = prop_oneof![3 => 1u8..=255, 2 => nasty, 2 => b'a'..=b'z'];
    let length = prop_oneof![3 => 1usize..20, 1 => 1usize..=255, 1 => Just(255usize)];
    length
        .prop_flat_map(move |n| prop::collection::vec(byte.clone(), n))
        .prop_map(|name| name.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect())
        .prop_filter("would not be input", |name: &Vec<u8>| !may_be_ignored(name))
}

/// Drops every name with a content of its own, runs, and compares what came out with what went in.
fn all_pass(names: &BTreeSet<Vec<u8>>) {
    let spool = Spool::new(SETTINGS);
    spool.write("names.sh", NAMES_SH);
    let mut dropped = BTreeMap::new();
    for (i, name) in names.iter().enumerate() {
        let content = format!("{i}").into_bytes();
        spool.drop_file(name, &content);
        dropped.insert(name.clone(), content);
    }
    spool.run(&["batch"]).ok();
    assert_eq!(placed_once(&dropped, &[spool.files("done")]), Ok(()), "{}", spool.report());
    let rows = spool.csv("names");
    assert_eq!(each_once(&rows.cells("_file"), names), Ok(()), "{}", spool.report());
    let seen: Vec<_> = rows.column("name").into_iter().zip(rows.column("content")).collect();
    for (file, (name, content)) in rows.cells("_file").iter().zip(seen) {
        assert_eq!(name, hex(file), "the worker was given another name");
        assert_eq!(content, hex(&dropped[file]), "the worker was given another file");
    }
}

/// Goal: every name of 1 to 255 bytes passes, UTF-8 or not. Method: random names, one run over many at a time.
#[test]
fn every_name_passes() {
    let config =
        Config { cases: 6, max_shrink_iters: 30, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let many = prop::collection::btree_set(name(), 1..60);
    runner
        .run(&many, |names| {
            all_pass(&names);
            Ok(())
        })
        .unwrap();
}

/// Goal: the names known to break programs pass, always. Method: a list of them.
#[test]
fn the_known_bad_names_pass() {
    let mut names: BTreeSet<Vec<u8>> = [
        "a b.json",
        "ü.json",
        "new\nline.json",
        "-rf",
        "--help",
        "a'b",
        "a\"b",
        "$(true)",
        "a\\b",
        "*",
        "a,b",
        "{path}",
        "{{",
        "%s",
        "\r",
        " ",
        "trailing ",
        "a~b",
        "\u{202e}txt",
        "0",
        "x.why",
        "=1+1",
        "~ID.json..",
    ]
    .into_iter()
    .filter(|name| !may_be_ignored(name.as_bytes()))
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.insert(vec![b'x'; 255]);
    names.insert(vec![0xff; 255]);
    names.insert(b"\xc3(\xfe".to_vec());
    all_pass(&names);
}

/// Goal: a failed file with the longest name keeps name, bytes and a reason. Method: 255 bytes, twice not UTF-8.
#[test]
fn the_longest_name_can_fail() {
    let spool = Spool::new("[routes.no]\nglob = \"**\"\ncommand = [\"false\"]\nretries = 0\n");
    let mut dropped = BTreeMap::new();
    for (i, byte) in [b'x', 0xff, 0xc3].into_iter().enumerate() {
        let content = i.to_string().into_bytes();
        spool.drop_file([byte; 255], &content);
        dropped.insert(vec![byte; 255], content);
    }
    spool.run(&["batch"]).code(3);
    let mut failed = spool.files("error");
    failed.retain(|name, _| !name.starts_with(b".why/"));
    assert_eq!(placed_once(&dropped, &[failed]), Ok(()), "{}", spool.report());
    assert_eq!(spool.csv("errors").column("reason"), ["exit 1"; 3]);
}

/// Goal: folders are kept, hidden ones are not input, and a taken name is not overwritten.
/// Method: drops during a run, one name twice.
#[test]
fn names_dropped_during_a_run() {
    let spool = Spool::new(
        "workers = 2\n[routes.count]\nglob = \"**/*.json\"\ncommand = [\"cat\", \"{path}\"]\nstdout = \"json\"\n",
    );
    let daemon = spool.daemon();
    let names = ["a b.json", "new\nline.json", "other/x.json", "sub/x.json", "ü.json"];
    for (i, name) in names.iter().enumerate() {
        spool.drop_file(name, format!("{{\"n\":{i}}}"));
    }
    spool.drop_file(".hidden/x.json", "{\"n\":99}");
    spool.wait_until("all five are done", || spool.names("done") == names);
    spool.drop_file("sub/x.json", "{\"n\":5}");
    spool.wait_until("the second is done", || spool.names("done").len() == 6);
    let done = spool.files("done");
    assert_eq!(done[&b"sub/x.json"[..]], b"{\"n\":3}");
    let second = spool.names("done").into_iter().find(|name| name.starts_with("sub/x~")).unwrap();
    let id = second.trim_start_matches("sub/x~").trim_end_matches(".json");
    assert!(crate::checks::is_job_id(id), "{second}");
    assert_eq!(done[second.as_bytes()], b"{\"n\":5}");
    spool.run(&["explain", ".hidden/x.json"]).ok().says("ignored");
    assert_eq!(spool.names("incoming"), [".hidden/x.json"]);
    assert_eq!(daemon.end().code(), Some(0));
    let rows = spool.csv("count");
    let mut pairs: Vec<_> = rows.column("n").into_iter().zip(rows.column("_file")).collect();
    pairs.sort();
    let expected = names.iter().chain(["sub/x.json"].iter()).enumerate();
    let expected: Vec<_> = expected.map(|(i, name)| (i.to_string(), (*name).to_owned())).collect();
    assert_eq!(pairs, expected);
}

/// Goal: a worker that leaves files of all names that one of them could have, or its input, ends no daemon and keeps
/// none from its start; what cannot be moved stays and is said. Method: its own name is taken in `done/`, the one with
/// the id beside it; for a file of the worker's and for its input; a job after each, and a start.
#[test]
fn names_that_are_all_taken_stop_nobody() {
    let spool =
        Spool::new("workers = 1\n[routes.main]\nstdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n");
    spool.write(
        "w.sh",
        "cd ${INBOXD_PATH%/*}\ncase $INBOXD_NAME in\nleaves*) : > o; : > o~$INBOXD_JOB;;\n\
         same*) : > $INBOXD_NAME~$INBOXD_JOB;;\nesac\n",
    );
    for name in ["o", "same"] {
        spool.write(&format!("done/{name}"), "older");
    }
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    for name in ["leaves", "same"] {
        spool.drop_file(name, "x");
        spool.wait_until("it is over", || {
            spool.run(&["jobs", "--json"]).stdout().contains(&format!("\"{name}\""))
        });
        spool.drop_file(format!("plain-{name}"), "x");
        spool.wait_until("the next one is done", || spool.has(&format!("done/plain-{name}")));
    }
    assert_eq!(daemon.daemon_pid(), pid, "it ended and was started again");
    let left = spool.names("processing");
    assert!(left.iter().any(|name| name.ends_with(".left/same")), "{left:?}");
    // Which of its two is moved first is chance: the second one finds a name, or stays.
    let mut all = spool.names("done");
    all.extend(left.iter().filter_map(|name| Some(name.split_once('/')?.1.to_owned())));
    assert_eq!(all.iter().filter(|name| name.starts_with('o')).count(), 3, "{all:?}");
    daemon.end_well();
    let daemon = spool.daemon();
    daemon.wait_for_log("what a worker left stays");
    spool.drop_file("last", "x");
    spool.wait_until("the job after a start is done", || spool.has("done/last"));
    daemon.end_well();
}
