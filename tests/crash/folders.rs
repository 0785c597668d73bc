//! SIGKILL before the durable calls of a `batch` over jobs of more than one file: folders, and files that
//! come with others.
//!
//! Must not know: how any of them is claimed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

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
command = ["sh", "-c", "echo ran >> \"$0\"; cat \"$1\"; test \"$(cat \"$1\")\" != bad", "{path}", "{with}"]
[routes.files]
command = ["true"]
"#;

fn name_of(i: usize) -> String {
    if i % 4 == 3 { format!("sub/set-{i}") } else { format!("set-{i}") }
}

/// Whether the worker of a folder fails, in a run in which some do.
fn is_bad(i: usize) -> bool {
    i == 5
}

/// Whether the worker of a file does.
fn is_bad_pair(i: usize) -> bool {
    i == 3
}

/// All of them, some for a worker that fails, or none.
pub(crate) fn prepared(has_bad: bool) -> Spool {
    let spool = Spool::new(SETTINGS);
    for i in 0..FOLDERS {
        let name = name_of(i);
        for file in ["a", "deep/b"] {
            spool.write(&format!("incoming/{name}/{file}"), &format!("{i}{file}\n"));
        }
        if has_bad && is_bad(i) {
            spool.write(&format!("incoming/{name}/bad"), "");
        }
        spool.write(&format!("incoming/{name}.ok"), "");
    }
    for i in 0..PAIRS {
        let part = if has_bad && is_bad_pair(i) { "bad".to_owned() } else { format!("part{i}") };
        spool.write(&format!("incoming/{}", pair_of(i)), "main");
        spool.write(&format!("incoming/{}.c", pair_of(i)), &part);
    }
    spool
}

fn pair_of(i: usize) -> String {
    if i % 3 == 2 { format!("sub/pair-{i}") } else { format!("pair-{i}") }
}

/// Where everything is, and what is recorded.
#[derive(Debug, Default, PartialEq)]
struct Found {
    done: Vec<String>,
    error: Vec<String>,
    /// In `incoming/` and `processing/`.
    left: Vec<String>,
    sets: Vec<String>,
    pairs: Vec<String>,
    failed: Vec<String>,
    /// Rows of what is no input of its own.
    files: usize,
}

impl Found {
    fn expected(has_bad: bool, is_handed_in: bool) -> Self {
        let mut it = Self::default();
        for i in 0..FOLDERS {
            let name = name_of(i);
            let mut files = ["/a", "/deep/b", "/seen"].map(|end| format!("{name}{end}")).to_vec();
            // The sentinel of what is handed in stays where it was.
            files.extend((!is_handed_in).then(|| format!("{name}.ok")));
            if has_bad && is_bad(i) {
                files.push(format!("{name}/bad"));
                it.error.extend(files);
                it.failed.push(name);
            } else {
                it.done.extend(files);
                it.sets.push(format!("{i}a {i}deep/b "));
            }
        }
        for i in 0..PAIRS {
            let names = ["", ".c"].map(|end| format!("{}{end}", pair_of(i)));
            if has_bad && is_bad_pair(i) {
                it.error.extend(names);
                it.failed.push(pair_of(i));
            } else {
                it.done.extend(names);
                it.pairs.push(format!("part{i}"));
            }
        }
        it.sorted()
    }

    fn of(spool: &Spool) -> Self {
        let left = ["incoming", "processing"].map(|folder| spool.names(folder));
        let it = Self {
            done: spool.names("done"),
            error: spool.errors(),
            left: left.concat(),
            sets: spool.csv("sets").column("text"),
            pairs: spool.csv("pairs").column("text"),
            failed: spool.csv("errors").column("file"),
            files: spool.csv("files").rows.len(),
        };
        it.sorted()
    }

    fn sorted(mut self) -> Self {
        for list in
            [&mut self.done, &mut self.error, &mut self.sets, &mut self.pairs, &mut self.failed]
        {
            list.sort();
        }
        self
    }
}

/// What is wrong, if anything: each folder and each file with its companion is in one place, whole, and
/// recorded once; nothing is anywhere else.
pub(crate) fn judge(spool: &Spool, has_bad: bool, is_handed_in: bool) -> Result<(), String> {
    let (found, expected) = (Found::of(spool), Found::expected(has_bad, is_handed_in));
    if found == expected { Ok(()) } else { Err(format!("{found:#?} is not {expected:#?}")) }
}

/// Points of the calls that a run made.
fn points_of(counts: &BTreeMap<&'static str, usize>, most: usize) -> Vec<Point> {
    let of = |(call, most): (&&'static str, &usize)| {
        let call = *call;
        (1..=*most).map(move |n| Point { call, n })
    };
    let all = counts.iter().filter(|(call, _)| **call != "openat2").flat_map(of).collect();
    strace::sample(all, most)
}

/// Kills a run at each of the points, in a spool of its own, its recovery too, and finishes it.
fn kill_at_each(args: &[&str], most: usize, prepared: impl Fn() -> Spool + Sync) {
    let judge = |spool: &Spool| judge(spool, true, args.len() > 1);
    let counts = strace::usual(|| {
        let spool = prepared();
        let counts = strace::count_of(&spool, args);
        assert_eq!(judge(&spool), Ok(()), "uninterrupted");
        counts
    })
    .most;
    let points = points_of(&counts, most);
    let hits = AtomicUsize::new(0);
    strace::for_each(&points, |point| {
        let spool = prepared();
        let is_hit = strace::kill_of_before(&spool, args, point).hit;
        hits.fetch_add(usize::from(is_hit), Ordering::Relaxed);
        strace::kill_of_before(&spool, args, Point { n: point.n.div_ceil(3), ..point });
        let output = spool.run(args);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{point:?}: {output}");
        assert_eq!(judge(&spool), Ok(()), "killed before {point:?}\n{}", spool.report());
    });
    let hits = hits.into_inner();
    assert!(hits * 10 >= points.len() * 8, "only {hits} of {} points were reached", points.len());
}

/// Goal: a job of more than one file is never lost, doubled or taken apart, wherever a run is killed, and its recovery, too.
/// Method: SIGKILL before the Nth call of each durable kind, then once more before the Nth of the next run.
#[test]
fn killed_over_folders() {
    if !strace::is_there() {
        return;
    }
    kill_at_each(&["batch"], POINTS, || prepared(true));
}

/// Goal: the same of jobs that are handed in: each becomes a job once, whole, and its source is left alone.
/// Method: as above, with `batch SRC`; then the same once more.
#[test]
fn killed_over_what_is_handed_in() {
    if !strace::is_there() {
        return;
    }
    kill_at_each(&["batch", "src"], POINTS / 2, || {
        let spool = prepared(true);
        rustix::fs::rename(spool.path("incoming"), spool.home().join("src")).unwrap();
        spool
    });
}
