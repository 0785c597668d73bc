//! How files come in: noticed at once, taken whole, whatever the producer does.
//!
//! Must not know: inotify, leases. What is asked is what a user sees: every file once, every file whole.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Running, Spool, python, wait_until};

/// The worker says how long the file is and ends at once: what it says is what it read.
const SIZE: &str = r#"
workers = 2
[routes.size]
glob = "**"
command = ["wc", "-c", "{path}"]
"#;

/// A worker that costs next to nothing, for many files.
const TRUE: &str = "workers = 4\n[routes.many]\ncommand = [\"true\"]\nstdout = \"none\"\n";

impl Spool {
    fn incoming(&self, rel: &str) -> std::path::PathBuf {
        self.path("incoming").join(rel)
    }

    /// Waits until so many files are done.
    fn wait_done(&self, count: usize) {
        self.wait_until(&format!("{count} files are done"), || self.count("done") >= count);
    }

    /// Files below a folder, counted without reading them.
    fn count(&self, folder: &str) -> usize {
        let walk = walkdir::WalkDir::new(self.path(folder)).into_iter().filter_map(Result::ok);
        walk.filter(|entry| !entry.file_type().is_dir()).count()
    }

    /// `status --json` of the daemon.
    fn status(&self) -> serde_json::Value {
        let output = self.run(&["status", "--json"]);
        serde_json::from_str(&output.stdout()).unwrap_or_default()
    }
}

/// Runs a tool to its end; it must succeed.
fn tool(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Every file of `dropped` is done, with its bytes, exactly once, and nothing else is.
fn all_done_whole(spool: &Spool, dropped: &BTreeMap<Vec<u8>, Vec<u8>>) {
    spool.wait_until("all are done", || spool.count("done") >= dropped.len());
    let done = spool.files("done");
    assert!(done == *dropped, "done differs from what was dropped\n{}", spool.report());
    assert_eq!(spool.errors(), Vec::<String>::new(), "{}", spool.report());
}

fn dropped(files: &[(&str, &[u8])]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    files.iter().map(|(name, bytes)| (name.as_bytes().to_vec(), bytes.to_vec())).collect()
}

fn end(daemon: Running) {
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: a file is noticed by its event, not by the clock. Method: rescan once a day; a drop into
/// `incoming/` and one into a new folder are done in a moment.
#[test]
fn events_are_enough() {
    let spool = Spool::new(&format!("rescan = \"1d\"\n{SIZE}"));
    let daemon = spool.daemon();
    spool.drop_file("a", "1");
    spool.drop_file("new/folder/b", "22");
    spool.wait_done(2);
    fs::write(spool.incoming("c"), "333").unwrap();
    fs::hard_link(spool.home().join("inbox/inboxd.toml"), spool.incoming("linked")).unwrap();
    spool.wait_done(4);
    assert_eq!(spool.status()["events"], "ok");
    end(daemon);
}

/// Goal: nothing in new trees is missed. Method: 300 trees of three nested folders, made and filled at
/// once, then 300 ready ones moved in; no scan but the one that events ask for.
#[test]
fn new_trees_are_seen_to_the_bottom() {
    let spool = Spool::new(&format!("rescan = \"1d\"\n{TRUE}"));
    let daemon = spool.daemon();
    let mut expected = 0;
    for (place, move_in) in [(spool.path("incoming"), false), (spool.home().join("ready"), true)] {
        for n in 0..300 {
            let top = place.join(format!("{}{n}", if move_in { "moved" } else { "made" }));
            let mut folder = top.clone();
            for level in ["x", "y", "z"] {
                folder.push(level);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("file"), "x").unwrap();
                expected += 1;
            }
            if move_in {
                rustix::fs::rename(&top, spool.incoming(&format!("moved{n}"))).unwrap();
            }
        }
    }
    spool.wait_done(expected);
    spool.wait_until("nothing is left", || spool.count("incoming") == 0);
    assert_eq!(spool.count("done"), expected);
    end(daemon);
}

/// Goal: a burst larger than the kernel's queue loses nothing and doubles nothing. Method: renames as fast
/// as they go, more than `max_queued_events`.
#[test]
fn a_burst_is_taken_whole() {
    let count = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    // Nothing is run: what is measured is the intake, and a pair of files stands for the rest.
    let spool = Spool::new(
        "rescan = \"1d\"\nworkers = 2\n[routes.many]\nglob = \"*.go\"\ncommand = [\"true\"]\nstdout = \"none\"\n",
    );
    let daemon = spool.daemon();
    let staging = spool.home().join("staging");
    for n in 0..count {
        File::create(staging.join(format!("{n}"))).unwrap();
    }
    let every = 20;
    for n in 0..count {
        let ending = if n % every == 0 { "go" } else { "stay" };
        rustix::fs::rename(staging.join(format!("{n}")), spool.incoming(&format!("{n}.{ending}")))
            .unwrap();
    }
    let go = count / every;
    spool.wait_done(go);
    spool.wait_until("no more than were dropped", || spool.count("incoming") == count - go);
    assert_eq!(spool.count("done"), go);
    assert_eq!(spool.count("error"), 0);
    end(daemon);
}

/// Goal: `incoming/` may be removed and made again, and folders may come, go and come again.
/// Method: each of them, with a file afterwards; no scan by the clock.
#[test]
fn folders_that_go_and_come_again_are_watched_again() {
    let spool = Spool::new(&format!("rescan = \"1d\"\n{SIZE}"));
    let daemon = spool.daemon();
    for round in 0..3 {
        spool.drop_file(format!("sub/{round}"), "x");
        spool.wait_done(2 * round + 1);
        fs::remove_dir_all(spool.incoming("sub")).unwrap();
        fs::remove_dir_all(spool.path("incoming")).unwrap();
        // The daemon may make it again, too.
        fs::create_dir_all(spool.path("incoming")).unwrap();
        spool.drop_file(format!("top{round}"), "x");
        spool.wait_done(2 * round + 2);
    }
    end(daemon);
}

/// Goal: a file that is being written waits, others do not wait for it, and people are told why and by
/// whom. Method: a writer that stays, in this process; a file after it; `status` and `explain`.
#[test]
fn an_open_file_waits_alone_and_says_why() {
    let spool = Spool::new(SIZE);
    let daemon = spool.daemon();
    let mut writer = File::create(spool.incoming("big")).unwrap();
    writer.write_all(b"half").unwrap();
    spool.drop_file("small", "x");
    spool.wait_done(1);
    let us = format!("still open for writing by pid {}", std::process::id());
    spool.wait_until("status tells who writes", || {
        let held = &spool.status()["held_files"][0];
        held["rel"] == "big" && held["reason"] == us.as_str()
    });
    spool.run(&["explain", "big"]).ok().says(&us);
    writer.write_all(b" and half").unwrap();
    drop(writer);
    spool.wait_done(2);
    assert_eq!(spool.files("done")[&b"big"[..]], b"half and half");
    end(daemon);
}

/// Goal: a rename into place does not make a file whole that is still open. Method: written under a hidden
/// name, renamed while open, then written on.
#[test]
fn renamed_while_open_waits_for_its_writer() {
    let spool = Spool::new(SIZE);
    let daemon = spool.daemon();
    let mut writer = File::create(spool.incoming(".x")).unwrap();
    writer.write_all(b"one").unwrap();
    rustix::fs::rename(spool.incoming(".x"), spool.incoming("x")).unwrap();
    spool.wait_until("it is held", || spool.status()["held"] == 1);
    writer.write_all(b" two").unwrap();
    drop(writer);
    spool.wait_done(1);
    assert_eq!(spool.files("done")[&b"x"[..]], b"one two");
    end(daemon);
}

/// Goal: a writer with nothing but a mapping left is waited for. Method: Python maps a file, closes it,
/// writes on through the mapping when told to, and ends.
#[test]
fn a_mapping_is_a_writer() {
    let spool = Spool::new(SIZE);
    let daemon = spool.daemon();
    let script = "import mmap, sys\n\
                  f = open(sys.argv[1], 'w+b'); f.write(b'-' * 10); f.flush()\n\
                  m = mmap.mmap(f.fileno(), 10); f.close()\n\
                  print('closed', flush=True); sys.stdin.readline(); m[0:10] = b'mapped too'; m.close()\n";
    let mut writer = Command::new(python());
    writer.args(["-c", script]).arg(spool.incoming("x"));
    let mut writer = writer.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    spool.wait_until("it is held", || spool.status()["held"] == 1);
    writer.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(writer.wait().unwrap().success());
    spool.wait_done(1);
    assert_eq!(spool.files("done")[&b"x"[..]], b"mapped too");
    end(daemon);
}

/// Goal: `batch` waits for a file that is still written and leaves one that merely stays open, and says
/// so. Method: a writer that goes on for a while and ends; one that never writes.
#[test]
fn batch_waits_for_writers_that_write() {
    let spool = Spool::new(SIZE);
    fs::create_dir_all(spool.path("incoming")).unwrap();
    let idle = File::create(spool.incoming("idle")).unwrap();
    let path = spool.incoming("busy");
    let writer = std::thread::spawn(move || {
        let mut file = File::create(path).unwrap();
        for _ in 0..20 {
            file.write_all(b"line\n").unwrap();
            std::thread::park_timeout(Duration::from_millis(100));
        }
    });
    spool.wait_until("the writer has begun", || spool.incoming("busy").exists());
    let output = spool.run(&["batch"]).ok();
    writer.join().unwrap();
    assert_eq!(spool.files("done")[&b"busy"[..]].len(), 100, "{output}");
    assert_eq!(spool.names("incoming"), ["idle"]);
    output.says("idle").says("still open for writing");
    drop(idle);
}

/// Goal: a route's sentinel decides: without it nothing, with an old one nothing, with a new one the file;
/// and it goes where its file goes. Method: each of them, in a folder and at the top.
#[test]
fn a_sentinel_is_waited_for_and_moves_along() {
    let spool =
        Spool::new(&SIZE.replace("[routes.size]", "[routes.size]\ndone_file = \"{name}.ok\""));
    let daemon = spool.daemon();
    for rel in ["x", "sub/y"] {
        spool.drop_file(format!("{rel}.ok"), "too early");
        spool.drop_file(rel, "content");
    }
    spool.wait_until("both are held", || spool.status()["held"] == 2);
    spool.run(&["explain", "x"]).ok().says("waits for x.ok");
    for rel in ["x", "sub/y"] {
        fs::write(spool.incoming(&format!("{rel}.ok")), "now").unwrap();
    }
    all_done_whole(
        &spool,
        &dropped(&[
            ("x", b"content"),
            ("x.ok", b"now"),
            ("sub/y", b"content"),
            ("sub/y.ok", b"now"),
        ]),
    );
    assert_eq!(spool.csv("size").rows.len(), 2);
    end(daemon);
}
