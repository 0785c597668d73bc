//! SIGKILL before the durable calls of a `batch` over jobs of more than one file: folders, and files that
//! come with others.
//!
//! Must not know: how any of them is claimed.

use crate::harness::Spool;
use crate::strace::{self, Point};

/// Folders of a run; every fourth lies in another one, and one fails.
const FOLDERS: usize = 7;
/// Files with a companion; every third lies in a folder, and one fails.
const PAIRS: usize = 6;
/// Points that are tried unless all are asked for.
const POINTS: usize = 80;

/// Its worker changes the folder, so that nothing but its place tells what it was.
const SETTINGS: &str = r#"
workers = 2
[routes.sets]
glob = "set-*"
unit = "folder"
done_file = "{name}.ok"
retries = { fail = 0, crash = 0 }
command = ["sh", "-c", "echo ran >> \"$0/seen\"; cat \"$0/a\" \"$0/deep/b\" | tr '\\n' ' '; test ! -e \"$0/bad\"", "{path}"]
[routes.pairs]
glob = "pair-*"
with = ["{name}.c"]
retries = { fail = 0, crash = 0 }
command = ["sh", "-c", "echo ran >> \"$0\"; cat \"$1\"; test \"$(cat \"$1\")\" != part3", "{path}", "{with}"]
[routes.files]
command = ["true"]
"#;

fn name_of(i: usize) -> String {
    if i % 4 == 3 { format!("sub/set-{i}") } else { format!("set-{i}") }
}

fn is_bad(i: usize) -> bool {
    i == 5
}

fn prepared() -> Spool {
    let spool = Spool::new(SETTINGS);
    for i in 0..FOLDERS {
        let name = name_of(i);
        for file in ["a", "deep/b"] {
            spool.write(&format!("incoming/{name}/{file}"), &format!("{i}{file}\n"));
        }
        if is_bad(i) {
            spool.write(&format!("incoming/{name}/bad"), "");
        }
        spool.write(&format!("incoming/{name}.ok"), "");
    }
    for i in 0..PAIRS {
        spool.write(&format!("incoming/{}", pair_of(i)), "main");
        spool.write(&format!("incoming/{}.c", pair_of(i)), &format!("part{i}"));
    }
    spool
}

fn pair_of(i: usize) -> String {
    if i % 3 == 2 { format!("sub/pair-{i}") } else { format!("pair-{i}") }
}

/// Each folder is in one place, whole and with its sentinel, and recorded once; nothing is anywhere else.
fn check(spool: &Spool, what: &str) {
    let mut expected: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    let mut rows = Vec::new();
    for i in 0..FOLDERS {
        let name = name_of(i);
        let files = [".ok", "/a", "/deep/b", "/seen"].map(|end| format!("{name}{end}"));
        expected[usize::from(is_bad(i))].extend(files);
        if is_bad(i) {
            expected[1].push(format!("{name}/bad"));
        } else {
            rows.push(format!("{i}a {i}deep/b "));
        }
    }
    let mut parts = Vec::new();
    for i in 0..PAIRS {
        let is_bad = i == 3;
        let names = ["", ".c"].map(|end| format!("{}{end}", pair_of(i)));
        expected[usize::from(is_bad)].extend(names);
        parts.extend((!is_bad).then(|| format!("part{i}")));
    }
    for list in &mut expected {
        list.sort();
    }
    rows.sort();
    let [done, error] = expected;
    let report = || format!("{what}\n{}", spool.report());
    assert_eq!(spool.names("done"), done, "{}", report());
    assert_eq!(spool.errors(), error, "{}", report());
    for folder in ["incoming", "processing"] {
        assert_eq!(spool.names(folder), Vec::<String>::new(), "{}", report());
    }
    let mut texts = spool.csv("sets").column("text");
    texts.sort();
    assert_eq!(texts, rows, "{}", report());
    let mut found = spool.csv("pairs").column("text");
    found.sort();
    assert_eq!(found, parts, "{}", report());
    let mut failed = spool.csv("errors").column("file");
    failed.sort();
    assert_eq!(failed, ["pair-3", "set-5"], "{}", report());
    assert!(!spool.path("results/files.csv").exists(), "{}", report());
}

fn finish(spool: &Spool, what: &str) {
    let output = spool.run(&["batch"]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{what}: {output}");
    check(spool, what);
}

/// Goal: a job of more than one file is never lost, doubled or taken apart, wherever a run is killed, and its recovery, too.
/// Method: SIGKILL before the Nth call of each durable kind, then once more before the Nth of the next run.
#[test]
fn killed_over_folders() {
    if !strace::is_there() {
        return;
    }
    let spool = prepared();
    let counts = strace::count(&spool).most;
    check(&spool, "uninterrupted");
    let of = |(call, most): (&&'static str, &usize)| {
        let call = *call;
        (1..=*most).map(move |n| Point { call, n })
    };
    let all = counts.iter().filter(|(call, _)| **call != "openat2").flat_map(of).collect();
    let points = strace::sample(all, POINTS);
    let hits = std::sync::atomic::AtomicUsize::new(0);
    strace::for_each(&points, |point| {
        let spool = prepared();
        let is_hit = strace::kill_before(&spool, point).hit;
        hits.fetch_add(usize::from(is_hit), std::sync::atomic::Ordering::Relaxed);
        strace::kill_before(&spool, Point { n: point.n.div_ceil(3), ..point });
        finish(&spool, &format!("killed before {point:?}"));
    });
    let hits = hits.into_inner();
    assert!(hits * 10 >= points.len() * 8, "only {hits} of {} points were reached", points.len());
}
