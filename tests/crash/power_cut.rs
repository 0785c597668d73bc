//! Power cuts on a real filesystem: what the disk holds at an instant is all that is left.
//!
//! The spool is on ext4 in a loop device, whose image lies on a filesystem that shares extents: a copy of
//! the image made there while jobs run is the disk after a power cut at that instant. It is mounted, which
//! replays ext4's own journal, and inboxd finds another boot id than the one of before.
//!
//! Must not know: the library, the journal. What a disk does with writes that it has confirmed and not yet
//! kept is not in here; `SimFs` has that.
//!
//! Only root may mount; elsewhere it says that it was skipped. `INBOXD_CRASH_ALL=1` cuts ten times as often.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::Spool;
use crate::kill_nine::Random;

/// Cuts, and files dropped before each.
const CUTS: u64 = 6;
const FILES: u64 = 12;
/// From the drops to the cut, in milliseconds at most: some are not claimed by then, some are settled.
const LONGEST_MS: u64 = 150;

const SETTINGS: &str = "workers = 3\nmin_free_disk = \"1 MiB\"\n[routes.work]\nstdout = \"json\"\n\
    retries = { fail = 0, crash = 0 }\ncommand = [\"sh\", \"work.sh\"]\n";
/// A row of its name for each file but those ending in 7.
const WORK_SH: &str =
    "case $INBOXD_NAME in *7) exit 1;; esac\necho \"{\\\"name\\\": \\\"$INBOXD_NAME\\\"}\"\n";

fn run(program: &str, args: &[&str], path: &Path) -> bool {
    let output = Command::new(program).args(args).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Mounted {
    /// The image, at a folder that is made for it.
    fn new(image: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let image = image.to_str().unwrap();
        run("mount", &["-o", "loop", image], at).then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test left behind may still stand in it.
        run("umount", &["-l"], &self.0);
    }
}

/// The disk that is cut off, and where its copies lie. The order matters: the inner one goes first.
struct Disk {
    _inner: Mounted,
    outer: Mounted,
}

impl Disk {
    /// At the spool's own place. `None`: it cannot be had here.
    fn mount(spool: &Spool) -> Option<Self> {
        let image = spool.home().join("outer.img");
        if !run("truncate", &["-s", "3G"], &image) || !run("mkfs.btrfs", &["-q"], &image) {
            return None;
        }
        let outer = Mounted::new(&image, &spool.home().join("outer"))?;
        let image = outer.0.join("disk");
        if !run("truncate", &["-s", "128M"], &image) || !run("mkfs.ext4", &["-q"], &image) {
            return None;
        }
        Some(Self { _inner: Mounted::new(&image, &spool.root())?, outer })
    }

    /// What it holds now, at the place of another spool.
    fn cut(&self, cut: u64) -> (Spool, Mounted) {
        let (disk, image) = (self.outer.0.join("disk"), self.outer.0.join(cut.to_string()));
        assert!(run("cp", &["--reflink=always", disk.to_str().unwrap()], &image));
        let spool = Spool::bare();
        let mounted = Mounted::new(&image, &spool.root()).unwrap();
        (spool, mounted)
    }
}

/// What stands in a spool, by name.
#[derive(Clone, Debug, Default)]
struct Seen {
    rows: Vec<String>,
    failures: Vec<String>,
    done: Vec<String>,
    errors: Vec<String>,
    /// In `incoming/` and `processing/`.
    left: Vec<String>,
}

impl Seen {
    fn of(spool: &Spool) -> Self {
        let mut left = spool.names("incoming");
        let places = fs::read_dir(spool.path("processing")).unwrap();
        left.extend(places.map(|it| it.unwrap().file_name().to_string_lossy().into_owned()));
        Self {
            rows: spool.csv("work").column("name"),
            failures: spool.csv("errors").column("file"),
            done: spool.names("done"),
            errors: spool.errors(),
            left,
        }
    }

    /// What is wrong with a spool after a cut and a run, where this was visible before the cut.
    fn judge(&self, before: &Self) -> Result<(), String> {
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        let is_kept = |before: &[String], after: &[String]| set(before).is_subset(&set(after));
        if set(&self.rows).len() + set(&self.failures).len()
            != self.rows.len() + self.failures.len()
        {
            return Err("a row twice".to_owned());
        }
        if !is_kept(&before.rows, &self.rows) || !is_kept(&before.failures, &self.failures) {
            return Err("a row that was visible is gone".to_owned());
        }
        if set(&self.rows) != set(&self.done) || self.rows.len() != self.done.len() {
            return Err("what is done is not what has rows".to_owned());
        }
        if set(&self.failures) != set(&self.errors) || self.failures.len() != self.errors.len() {
            return Err("what is in error/ is not what has failed".to_owned());
        }
        if self.left.is_empty() { Ok(()) } else { Err("something is left".to_owned()) }
    }
}

/// Goal: whenever the power goes, each file is done once, with its row once, and no row that anybody could
/// see is lost. Method: cuts at random instants while jobs run; each disk is mounted and run to its end.
#[test]
fn power_cuts_lose_and_double_nothing() {
    let mut random = Random::new("power cuts");
    let is_all = std::env::var("INBOXD_CRASH_ALL").as_deref() == Ok("1");
    let spool = Spool::bare();
    let has_own_mounts = Command::new("unshare").args(["-m", "true"]).status();
    let disk = has_own_mounts.is_ok_and(|it| it.success()).then(|| Disk::mount(&spool)).flatten();
    let Some(disk) = disk else {
        let needs = "root, mounts of one's own, loop devices, btrfs-progs";
        eprintln!("skipped: cannot mount a disk to be cut off ({needs})");
        return;
    };
    // What is dropped is renamed into `incoming/`, so it is written on the same filesystem.
    fs::create_dir(spool.path("staging")).unwrap();
    rustix::fs::rmdir(spool.home().join("staging")).unwrap();
    std::os::unix::fs::symlink("inbox/staging", spool.home().join("staging")).unwrap();
    spool.write("inboxd.toml", &format!("allow_root = true\n{SETTINGS}"));
    spool.write("work.sh", WORK_SH);
    let boot = spool.home().join("boot");
    let rebooted = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"",
        boot.display()
    );
    let daemon = spool.daemon();
    rustix::fs::syncfs(fs::File::open(spool.root()).unwrap()).unwrap();
    for cut in 0..CUTS * if is_all { 10 } else { 1 } {
        for n in 0..FILES {
            spool.drop_file(format!("{cut}-{n}"), "x");
        }
        std::thread::park_timeout(Duration::from_millis(random.below(LONGEST_MS)));
        let before = Seen::of(&spool);
        let (after, mounted) = disk.cut(cut);
        fs::write(&boot, format!("00000000-0000-4000-8000-{cut:012}\n")).unwrap();
        let run = after.run_under(&["unshare", "-m", "sh", "-c", &rebooted], &["batch"], b"");
        assert!(matches!(run.status.code(), Some(0 | 3)), "{run}");
        let seen = Seen::of(&after);
        let judged = seen.judge(&before);
        assert!(judged.is_ok(), "cut {cut}: {judged:?}: {seen:?}\nbefore {before:?}\n{run}");
        after.run(&["batch"]).ok().says("nothing to do");
        drop(mounted);
    }
    daemon.end_well();
    drop(disk);
}

/// Goal: the judge can say no. Method: a good end, and each way in which it could be broken.
#[test]
fn a_broken_end_is_seen() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let good = Seen {
        rows: names(&["1", "2"]),
        failures: names(&["7"]),
        done: names(&["1", "2"]),
        errors: names(&["7"]),
        left: Vec::new(),
    };
    assert_eq!(good.judge(&Seen { left: names(&["3"]), ..good.clone() }), Ok(()));
    let before = |rows: &[&str], failures: &[&str]| Seen {
        rows: names(rows),
        failures: names(failures),
        ..Seen::default()
    };
    assert!(good.judge(&before(&["3"], &[])).is_err());
    assert!(good.judge(&before(&[], &["17"])).is_err());
    let twice = Seen { rows: names(&["1", "2", "2"]), ..good.clone() };
    let unmoved = Seen { done: names(&["1"]), left: names(&["2"]), ..good.clone() };
    let lost = Seen { done: names(&["1"]), ..good.clone() };
    let no_row = Seen { rows: names(&["1"]), ..good.clone() };
    let two_names = Seen { done: names(&["1", "2", "2~id"]), ..good.clone() };
    let no_reason = Seen { failures: Vec::new(), ..good.clone() };
    let left = Seen { left: names(&["8"]), ..good.clone() };
    for broken in [twice, unmoved, lost, no_row, two_names, no_reason, left] {
        assert!(broken.judge(&Seen::default()).is_err(), "{broken:?}");
    }
}
