//! Jobs of more than one file that are handed in: `batch SRC` and `submit`, with a daemon and without.
//!
//! Must not know: under which names they are copied.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Spool, files_below};

/// The workers list what they got, and change it. A route that would take every file is the last.
const SETTINGS: &str = r#"
workers = 2
[routes.scans]
glob = "scan-*"
unit = "folder"
done_file = "{name}.ok"
trace_columns = false
command = ["sh", "-c", "cd \"$0\" && find . -type f | sort | tr '\\n' ' '; touch seen; test ! -e fail", "{path}"]
[routes.photos]
glob = "*.jpg"
with = "{stem}.xmp"
trace_columns = false
command = ["sh", "-c", "cat \"$0\" \"$1\"; echo more >> \"$0\"", "{path}", "{with}"]
[routes.files]
trace_columns = false
command = ["cat", "{path}"]
"#;

/// Folders at the top and below, one with its sentinel; a file with its companion; what is neither.
fn with_source() -> Spool {
    let spool = Spool::new(SETTINGS);
    for name in [
        "scan-1/a",
        "scan-1/deep/b.jpg",
        "scan-1.ok",
        "site/box/scan-2/c",
        "site/x.jpg",
        "site/x.xmp",
        "site/note",
    ] {
        spool.write_home(&format!("src/{name}"), name);
    }
    spool
}

const ALL: [&str; 8] = [
    "scan-1/a",
    "scan-1/deep/b.jpg",
    "scan-1/seen",
    "site/box/scan-2/c",
    "site/box/scan-2/seen",
    "site/note",
    "site/x.jpg",
    "site/x.xmp",
];

fn check(spool: &Spool) {
    assert_eq!(spool.names("done"), ALL, "{}", spool.report());
    assert_eq!(spool.csv("scans").sorted(), ["./a ./deep/b.jpg ", "./c "]);
    assert_eq!(spool.csv("photos").sorted(), ["site/x.jpgsite/x.xmp"]);
    assert_eq!(spool.csv("files").sorted(), ["site/note"]);
    assert_eq!(spool.names("processing"), Vec::<String>::new());
}

/// Goal: `batch SRC` takes in whole what is one job, whatever its workers do to it, and takes it again only
/// where something in it is another. Method: a run; again; with a file of a folder changed, and a companion.
#[test]
fn batch_takes_what_is_one_job() {
    let spool = with_source();
    let before = files_below(&spool.home().join("src"));
    spool.run(&["batch", "src"]).ok().says("4 files   4 done");
    check(&spool);
    assert_eq!(files_below(&spool.home().join("src")), before);
    spool.run(&["batch", "src"]).ok().says("nothing to do: 4 already done");
    spool.write_home("src/scan-1/deep/b.jpg", "another");
    spool.write_home("src/site/x.xmp", "another");
    spool.run(&["batch", "src"]).ok().says("2 done").says("2 already done");
    assert_eq!(spool.csv("photos").sorted(), ["site/x.jpganother", "site/x.jpgsite/x.xmp"]);
    assert_eq!(spool.csv("scans").rows.len(), 3, "{}", spool.report());
    let bytes = spool.files("done");
    let is_new =
        |(rel, text): (&Vec<u8>, &Vec<u8>)| rel.ends_with(b"deep/b.jpg") && text == b"another";
    assert!(bytes.iter().any(is_new), "{}", spool.report());
}

/// Goal: a shell may name each of them. Method: a folder that is one job, a file and its companion, each by its path;
/// a folder that holds such folders and is called like one.
#[test]
fn batch_takes_what_is_named_one_by_one() {
    let spool = with_source();
    let named = ["src/scan-1", "src/scan-1.ok", "src/site/x.jpg", "src/site/x.xmp"];
    let said = spool.run(&[&["batch"], &named[..]].concat()).ok().says("2 files   2 done");
    assert!(!said.both().contains("no route"), "{said}");
    assert_eq!(
        spool.names("done"),
        ["scan-1/a", "scan-1/deep/b.jpg", "scan-1/seen", "x.jpg", "x.xmp"]
    );
    spool.write_home("scan-all/scan-5/a", "a");
    spool.run(&["batch", "scan-all"]).ok().says("1 file   1 done");
    assert!(spool.has("done/scan-5/seen"), "{}", spool.report());
}

/// Goal: the same beside a daemon that runs. Method: the same source, and it again.
#[test]
fn batch_takes_it_beside_a_daemon() {
    let spool = with_source();
    let daemon = spool.daemon();
    spool.run(&["batch", "src"]).ok().says("4 files   4 done");
    check(&spool);
    spool.run(&["batch", "src"]).ok().says("nothing to do: 4 already done");
    daemon.end_well();
}

/// Goal: `submit` hands in a folder or a file with what comes with it, at once durable. Method: without a
/// daemon, to be run by the next `batch`; with one; under another name; a folder that fails and comes back.
#[test]
fn submit_takes_what_is_one_job() {
    let spool = with_source();
    spool.run(&["submit", "src/scan-1", "src/site/x.jpg"]).ok().says("scan-1").says("x.jpg");
    assert!(spool.names("done").is_empty());
    assert_eq!(spool.names("processing").len(), 4, "{}", spool.report());
    spool.run(&["batch"]).ok().says("2 done");
    assert_eq!(
        spool.names("done"),
        ["scan-1/a", "scan-1/deep/b.jpg", "scan-1/seen", "x.jpg", "x.xmp"]
    );
    let daemon = spool.daemon();
    spool.run(&["submit", "--wait", "--name", "in/y.jpg", "src/site/x.jpg"]).ok();
    assert_eq!(spool.files("done")[&b"in/y.xmp"[..]], b"site/x.xmp");
    spool.write_home("src/bad/fail", "");
    spool.run(&["submit", "--wait", "--name", "in/scan-9", "src/bad"]).code(3);
    assert_eq!(spool.errors(), ["in/scan-9/fail", "in/scan-9/seen"]);
    rustix::fs::unlink(spool.path("error/in/scan-9/fail")).unwrap();
    spool.run(&["retry", "--wait", "in/scan-9"]).ok();
    assert!(spool.has("done/in/scan-9/seen"), "{}", spool.report());
    assert_eq!(spool.names("processing"), Vec::<String>::new());
    daemon.end_well();
}

/// Goal: what is not whole is left where it is, and that is said. Method: a file without its companion, a
/// companion and a sentinel without what they belong to; a folder with a link to a folder in it; a folder that no
/// route takes.
#[test]
fn what_is_not_whole_is_left_behind() {
    let spool = with_source();
    for name in ["site/lone.jpg", "site/only.xmp", "scan-7.ok", "scan-3/a", "scan-4/a"] {
        spool.write_home(&format!("src/{name}"), name);
    }
    symlink("..", spool.home().join("src/scan-3/up")).unwrap();
    symlink("../scan-1/a", spool.home().join("src/scan-4/b")).unwrap();
    let said = spool.run(&["batch", "src"]).code(3);
    let said = said.says("src/scan-3/up is neither a file nor a folder");
    let said = said.says("1 file lacks what comes with it, such as ").says("site/lone.xmp");
    said.says("2 files match no route and stay behind, such as ");
    assert_eq!(spool.csv("scans").sorted(), ["./a ./b ", "./a ./deep/b.jpg ", "./c "]);
    assert_eq!(spool.files("done")[&b"scan-4/b"[..]], b"scan-1/a");
    assert_eq!((spool.errors(), spool.names("processing")), (Vec::new(), Vec::new()));
    spool.run(&["submit", "src/site"]).code(2).says("no route takes it as one job");
    spool.run(&["submit", "src/scan-3"]).code(2).says("neither a file nor a folder");
}

/// Goal: the spool is never part of a job of its own. Method: a route that takes every folder, and a source that
/// the spool lies in.
#[test]
fn a_spool_does_not_take_itself_in() {
    let route =
        "[routes.all]\nunit = \"folder\"\ndone_file = \"{name}.ok\"\ncommand = [\"true\"]\n";
    let spool = Spool::new(route);
    for name in ["set/a", "other/b"] {
        spool.write_home(&format!("staging/{name}"), name);
    }
    spool.run(&["batch", "."]).ok();
    let done = spool.names("done");
    assert!(done.contains(&"staging/set/a".to_owned()), "{done:?}");
    assert!(!done.iter().any(|name| name.starts_with("inbox")), "{done:?}");
    fs::create_dir(spool.path("samples")).unwrap();
    spool.write("samples/set/a", "a");
    spool.run(&["batch", "inbox"]).ok();
    assert!(spool.has("done/samples/set/a"), "{}", spool.report());
}

/// Goal: a copy that a signal cuts off goes with its command, with a daemon and without: it would stay until the
/// next start. Method: `submit` of a pipe that somebody holds open, ended in the middle.
#[test]
fn a_copy_that_is_cut_off_goes() {
    let spool = with_source();
    spool.run(&["batch"]).ok();
    let pipe = spool.home().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for (signal, has_daemon) in [(Signal::INT, true), (Signal::TERM, true), (Signal::INT, false)] {
        let daemon = has_daemon.then(|| spool.daemon());
        let mut submit = spool.start(&["submit", "--name", "half", "pipe"]);
        let mut writer = fs::File::options().write(true).open(&pipe).unwrap();
        writer.write_all(b"the first half").unwrap();
        let copies = || spool.names("processing");
        spool.wait_until("it is copied", || copies().iter().any(|it| it.ends_with("/half")));
        submit.signal(signal);
        assert_eq!(submit.wait().signal(), Some(signal.as_raw()));
        let left = fs::read_dir(spool.path("processing")).unwrap().count();
        assert_eq!(left, 0, "{signal:?}: {}", spool.report());
        if let Some(daemon) = daemon {
            daemon.end_well();
        }
    }
}
