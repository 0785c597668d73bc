//! The simulator proves itself: known protocols, right and broken, and the real kernel beside it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::{Mode, Pick, Seen, SimFs};
use crate::fs::{FileType, Filesystem, RealFs};

const STATES: usize = 64;

fn p(path: &str) -> &Path {
    Path::new(path)
}

/// Every state that a power cut at the end of `program` may leave (a sample where there are many).
fn ends(
    planted: &[(&str, &str)],
    mode: Mode,
    program: impl Fn(&SimFs) -> io::Result<()>,
) -> Vec<SimFs> {
    let sim = SimFs::new();
    for dir in ["one", "two"] {
        sim.plant_dir(dir);
    }
    for (path, text) in planted {
        sim.plant(path, text.as_bytes());
    }
    program(&sim).unwrap();
    sim.crash_states(mode, 7, STATES).collect()
}

fn text(sim: &SimFs, path: &str) -> Option<String> {
    sim.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes `one/f` whole, by way of a temporary name.
fn publish(sim: &SimFs, sync_data: bool) -> io::Result<()> {
    let one = sim.open_dir(&sim.root(), p("one"))?;
    let file = sim.create(&one, p("f.tmp"), 0o600)?;
    sim.write_at(&file, 0, b"whole")?;
    if sync_data {
        sim.sync_file(&file)?;
    }
    sim.rename(&one, p("f.tmp"), &one, p("f"))?;
    sim.sync_dir(&one)
}

/// Goal: a file renamed into place without syncing its bytes is found empty, torn and whole.
/// Method: the protocol without that sync in both power modes; then the right one, never broken.
#[test]
fn name_without_bytes() {
    for mode in [Mode::Weak, Mode::Ext4] {
        let broken = ends(&[], mode, |sim| publish(sim, false));
        let found = |bytes: &str| broken.iter().any(|s| text(s, "one/f").as_deref() == Some(bytes));
        assert!(found("") && found("whole") && found("\0\0\0\0\0") && found("wh"), "{broken:#?}");
        for sim in ends(&[], mode, |sim| publish(sim, true)) {
            assert_eq!(text(&sim, "one/f").as_deref(), Some("whole"), "{mode:?} {sim:?}");
        }
    }
}

/// Goal: an fsync keeps bytes but not the name; ext4 keeps the name too, and so does the later sync
/// of another file. Method: create and sync, without the directory.
#[test]
fn bytes_without_name() {
    let program = |sim: &SimFs| {
        let file = sim.create(&sim.root(), p("one/f"), 0o600)?;
        sim.write_at(&file, 0, b"x")?;
        sim.sync_file(&file)
    };
    let weak = ends(&[], Mode::Weak, program);
    assert!(weak.iter().any(|s| s.read("one/f").is_none()));
    assert!(weak.iter().all(|s| s.read("one/f").is_none_or(|bytes| bytes == b"x")));
    assert!(ends(&[], Mode::Ext4, program).iter().all(|s| s.read("one/f").is_some()));

    let unsynced = |sim: &SimFs| sim.create(&sim.root(), p("one/f"), 0o600).map(drop);
    assert!(ends(&[], Mode::Ext4, unsynced).iter().any(|s| s.read("one/f").is_none()));
    let other_synced = |sim: &SimFs| {
        unsynced(sim)?;
        sim.sync_file(&sim.open(&sim.root(), p("two/g"), true)?)
    };
    let planted = [("two/g", "g")];
    assert!(ends(&planted, Mode::Ext4, other_synced).iter().all(|s| s.read("one/f").is_some()));
    assert!(ends(&planted, Mode::Weak, other_synced).iter().any(|s| s.read("one/f").is_none()));
}

/// Goal: a rename between two directories is safe only once both are synced, and never half done.
/// Method: sync none, each, both; look for the file in both places.
#[test]
fn rename_needs_both_directories() {
    let moved = |synced: &'static [&str]| {
        ends(&[("one/f", "x")], Mode::Weak, |sim| {
            let root = sim.root();
            sim.rename(&root, p("one/f"), &root, p("two/f"))?;
            synced.iter().try_for_each(|dir| sim.sync_dir(&sim.open_dir(&root, p(dir))?))
        })
    };
    for (synced, may_be_lost) in
        [(&[][..], true), (&["one"], true), (&["two"], true), (&["one", "two"], false)]
    {
        let states = moved(synced);
        let lost = states.iter().filter(|s| s.read("one/f").is_some()).count();
        assert_eq!(lost > 0, may_be_lost, "{synced:?}");
        for sim in states {
            assert_ne!(sim.read("one/f").is_some(), sim.read("two/f").is_some(), "{sim:?}");
        }
    }
}

/// Goal: what was synced stays whole, what was appended after tears in every way.
/// Method: a log of one synced line, then one that is not.
#[test]
fn append_after_sync_tears() {
    for mode in [Mode::Weak, Mode::Ext4] {
        let states = ends(&[("one/log", "")], mode, |sim| {
            let log = sim.open(&sim.root(), p("one/log"), true)?;
            sim.write_at(&log, 0, b"first\n")?;
            sim.sync_file(&log)?;
            sim.write_at(&log, 6, b"second\n")
        });
        let tails: Vec<String> =
            states.iter().map(|s| text(s, "one/log").unwrap().split_off(6)).collect();
        assert!(states.iter().all(|s| text(s, "one/log").unwrap().starts_with("first\n")));
        for tail in ["", "second\n", "sec", "\0\0\0\0\0\0\0", "sec\0\0\0\0", "\0\0\0ond\n"] {
            assert!(tails.iter().any(|t| t == tail), "no {tail:?} in {tails:?}");
        }
    }
}

/// Goal: the order of names is kept on ext4 and not kept in the weak mode.
/// Method: two renames, neither synced; the second without the first may appear only there.
#[test]
fn names_in_order() {
    let second_alone = |mode| {
        let states = ends(&[("one/a", "a"), ("one/b", "b")], mode, |sim| {
            let root = sim.root();
            sim.rename(&root, p("one/a"), &root, p("two/a"))?;
            sim.rename(&root, p("one/b"), &root, p("two/b"))
        });
        assert_eq!(states.len(), if mode == Mode::Ext4 { 3 } else { 4 });
        states.iter().any(|s| s.read("two/b").is_some() && s.read("two/a").is_none())
    };
    assert!(second_alone(Mode::Weak));
    assert!(!second_alone(Mode::Ext4));
}

/// Goal: a lost folder takes its content along, even what was synced inside. Method: make a folder,
/// sync all but the folder's own parent.
#[test]
fn lost_folder_takes_its_files() {
    let states = ends(&[], Mode::Weak, |sim| {
        sim.make_dir(&sim.root(), p("one/d"), 0o700)?;
        let dir = sim.open_dir(&sim.root(), p("one/d"))?;
        let file = sim.create(&dir, p("f"), 0o600)?;
        sim.sync_file(&file)?;
        sim.sync_dir(&dir)
    });
    let trees: Vec<usize> = states.iter().map(|s| s.tree().len()).collect();
    assert_eq!(trees, [2, 4], "one and two alone, or with d and d/f");
}

/// Goal: a replay never removes another file than the one that was meant. Method: rename the old
/// file away, put a new one in its place; where that is lost, removing the new spares the old.
#[test]
fn removal_hits_only_its_own_file() {
    let states = ends(&[("one/f", "old"), ("one/g", "new")], Mode::Weak, |sim| {
        let root = sim.root();
        sim.rename(&root, p("one/f"), &root, p("two/f"))?;
        sim.rename(&root, p("one/g"), &root, p("one/f"))?;
        sim.remove_file(&root, p("one/f"))
    });
    for sim in states {
        let old = ["one/f", "two/f"].iter().filter(|f| text(&sim, f).as_deref() == Some("old"));
        assert_eq!(old.count(), 1, "{sim:?}");
    }
}

/// Goal: kill -9 keeps the page cache, and keeps it un-synced: a later power cut still takes it.
/// Method: write without sync, kill, then cut the power; the same with a sync after the restart.
#[test]
fn killed_is_not_synced() {
    let sim = SimFs::new();
    sim.plant("f", b"");
    sim.write_at(&sim.open(&sim.root(), p("f"), true).unwrap(), 0, b"x").unwrap();
    let killed = sim.crash(Mode::Process, Pick::Lose);
    assert_eq!((text(&killed, "f").as_deref(), killed.boot(), killed.ops()), (Some("x"), 0, 0));
    let cut = killed.crash(Mode::Weak, Pick::Lose);
    assert_eq!((text(&cut, "f").as_deref(), cut.boot()), (Some(""), 1));
    killed.sync_file(&killed.open(&killed.root(), p("f"), true).unwrap()).unwrap();
    assert_eq!(text(&killed.crash(Mode::Weak, Pick::Lose), "f").as_deref(), Some("x"));
}

/// Goal: a kill in the middle of a write leaves part of it, in the page cache already.
/// Method: stop at the write; all prefixes of it must be found.
#[test]
fn kill_cuts_the_write() {
    let sim = SimFs::new();
    sim.plant("f", b"");
    let file = sim.open(&sim.root(), p("f"), true).unwrap();
    sim.stop_at(1);
    sim.write_at(&file, 1, b"abc").unwrap_err();
    let mut found: Vec<_> =
        sim.crash_states(Mode::Process, 1, STATES).map(|s| text(&s, "f").unwrap()).collect();
    found.sort();
    assert_eq!(found, ["", "\0a", "\0ab", "\0abc"]);
    assert!(sim.crash_states(Mode::Weak, 1, STATES).all(|s| s.read("f").unwrap().is_empty()));
}

/// Goal: from operation n on nothing happens and nothing answers, and the user is not concerned.
/// Method: three creations, stopped at the second.
#[test]
fn power_is_out_from_operation_n() {
    let sim = SimFs::new();
    let root = sim.root();
    sim.stop_at(2);
    sim.create(&root, p("a"), 0o600).unwrap();
    for name in ["b", "c"] {
        let error = sim.create(&root, p(name), 0o600).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::Other, "power is out")
        );
    }
    assert!(sim.stat(&root, p("a")).is_err() && sim.list(&root).is_err());
    assert_eq!(sim.ops(), 1);
    sim.user_write("u", b"u");
    sim.user_rename("u", "v");
    assert_eq!(sim.tree().keys().collect::<Vec<_>>(), ["a", "v"]);
    sim.user_remove("v");
    let next = sim.crash(Mode::Weak, Pick::Keep);
    next.create(&next.root(), p("b"), 0o600).unwrap();
    assert_eq!(next.tree().len(), 2);
}

/// Goal: rename replaces nothing, replace does. Method: two files and one name.
#[test]
fn rename_never_replaces() {
    let sim = SimFs::new();
    let root = sim.root();
    sim.plant("a", b"a");
    sim.plant("b", b"b");
    let error = sim.rename(&root, p("a"), &root, p("b")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!((text(&sim, "a").as_deref(), text(&sim, "b").as_deref()), (Some("a"), Some("b")));
    sim.replace(&root, p("a"), &root, p("b")).unwrap();
    assert_eq!((text(&sim, "a"), text(&sim, "b").as_deref()), (None, Some("a")));
}

/// Goal: an open file follows its inode. Method: rename, write through the handle, unlink, read,
/// write, sync; then the name is gone and the handle still reads.
#[test]
fn handle_outlives_its_name() {
    let sim = SimFs::new();
    let root = sim.root();
    let file = sim.create(&root, p("a"), 0o600).unwrap();
    sim.rename(&root, p("a"), &root, p("b")).unwrap();
    sim.write_at(&file, 0, b"x").unwrap();
    assert_eq!(text(&sim, "b").as_deref(), Some("x"));
    sim.remove_file(&root, p("b")).unwrap();
    sim.sync_all(&root).unwrap();
    sim.write_at(&file, 1, b"y").unwrap();
    sim.sync_file(&file).unwrap();
    let mut bytes = [0; 4];
    assert_eq!(sim.read_at(&file, 0, &mut bytes).unwrap(), 2);
    assert_eq!((&bytes[..2], sim.stat_file(&file).unwrap().nlink), (&b"xy"[..], 0));
    assert!(sim.crash(Mode::Weak, Pick::Keep).tree().is_empty());
}

/// Goal: rule 7 can be tested: a lost rename leaves inode, birth and ctime as before it; a kept one
/// has a later ctime. Method: one rename, both ways.
#[test]
fn lost_rename_keeps_the_old_ctime() {
    let sim = SimFs::new();
    let root = sim.root();
    sim.plant("a", b"a");
    let before = sim.stat(&root, p("a")).unwrap();
    sim.rename(&root, p("a"), &root, p("b")).unwrap();
    let lost = sim.crash(Mode::Weak, Pick::Lose);
    assert_eq!(lost.stat(&lost.root(), p("a")).unwrap(), before);
    let kept = sim.crash(Mode::Weak, Pick::Keep);
    let after = kept.stat(&kept.root(), p("b")).unwrap();
    assert!(after.ctime_ns > before.ctime_ns);
    assert_eq!(
        (after.ino, after.btime_ns, after.mtime_ns),
        (before.ino, before.btime_ns, before.mtime_ns)
    );
}

/// Goal: inode numbers are used again lowest first, but not while open or not durably free.
/// Method: remove a file; create before the sync, with a handle, and after both.
#[test]
fn inode_numbers_are_reused() {
    let sim = SimFs::new();
    sim.reuse_inos();
    let root = sim.root();
    sim.plant("a", b"");
    let ino = |name: &str| sim.stat(&root, p(name)).unwrap().ino;
    let (first, open) = (ino("a"), sim.open(&root, p("a"), false).unwrap());
    sim.remove_file(&root, p("a")).unwrap();
    sim.create(&root, p("b"), 0o600).unwrap();
    assert_ne!(ino("b"), first, "not synced");
    sim.user_sync();
    sim.create(&root, p("c"), 0o600).unwrap();
    assert_ne!(ino("c"), first, "still open");
    drop(open);
    sim.create(&root, p("d"), 0o600).unwrap();
    assert_eq!(ino("d"), first);
    assert!(sim.stat(&root, p("d")).unwrap().btime_ns > sim.stat(&root, p("b")).unwrap().btime_ns);
}

/// Goal: handles of a dead process are a fault of the test, loudly. Method: use one after a crash.
#[test]
#[should_panic(expected = "a handle of before the crash")]
fn handle_does_not_cross_a_crash() {
    let sim = SimFs::new();
    let root = sim.root();
    drop(sim.crash(Mode::Process, Pick::Keep).list(&root));
}

/// A call on either filesystem. Paths and slots are small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Call {
    MakeDir(usize, usize),
    Create(usize, usize),
    Open(usize, usize, bool),
    OpenDir(usize, usize),
    Rename(usize, usize, usize, usize, bool),
    RemoveFile(usize, usize),
    RemoveDir(usize, usize),
    Stat(usize, usize),
    List(usize),
    Write(usize, u64, u8),
    SetLen(usize, u64),
    Read(usize),
    SyncFile(usize),
    SyncDir(usize),
}

const PATHS: [&str; 11] =
    ["a", "b", "d", "e", "d/a", "d/e", "d/e/a", "e/a", "e/d", "link", "link/a"];

fn calls(max: usize) -> impl Strategy<Value = Vec<Call>> {
    let path = || 0..PATHS.len();
    let slot = || 0..3usize;
    let call = prop_oneof![
        3 => (slot(), path()).prop_map(|(at, x)| Call::MakeDir(at, x)),
        3 => (slot(), path()).prop_map(|(at, x)| Call::Create(at, x)),
        2 => (slot(), path(), any::<bool>()).prop_map(|(at, x, w)| Call::Open(at, x, w)),
        2 => (slot(), path()).prop_map(|(at, x)| Call::OpenDir(at, x)),
        4 => (slot(), path(), slot(), path(), any::<bool>())
            .prop_map(|(from, x, to, y, replace)| Call::Rename(from, x, to, y, replace)),
        1 => (slot(), path()).prop_map(|(at, x)| Call::RemoveFile(at, x)),
        1 => (slot(), path()).prop_map(|(at, x)| Call::RemoveDir(at, x)),
        1 => (slot(), path()).prop_map(|(at, x)| Call::Stat(at, x)),
        1 => slot().prop_map(Call::List),
        3 => (slot(), 0..6u64, any::<u8>()).prop_map(|(f, at, byte)| Call::Write(f, at, byte)),
        1 => (slot(), 0..8u64).prop_map(|(f, len)| Call::SetLen(f, len)),
        1 => slot().prop_map(Call::Read),
        1 => slot().prop_map(Call::SyncFile),
        1 => slot().prop_map(Call::SyncDir),
    ];
    proptest::collection::vec(call, 0..max)
}

/// Three directories and three files that calls work through; the newest takes the oldest's place.
struct Player<F: Filesystem> {
    fs: F,
    dirs: [F::Dir; 3],
    files: [Option<F::File>; 3],
    next: usize,
}

impl<F: Filesystem> Player<F> {
    fn new(fs: F, root: &F::Dir) -> Self {
        Self { fs, dirs: std::array::from_fn(|_| root.clone()), files: [None, None, None], next: 0 }
    }

    fn slot(&mut self) -> usize {
        self.next += 1;
        self.next % 3
    }

    /// What the caller learns of it; handles and times aside.
    fn play(&mut self, call: &Call) -> Result<String, io::ErrorKind> {
        self.act(call).map_err(|error| error.kind())
    }

    fn act(&mut self, call: &Call) -> io::Result<String> {
        let (fs, dirs) = (&self.fs, &self.dirs);
        let file = |slot: usize| self.files[slot].as_ref().ok_or(io::ErrorKind::NotConnected);
        match *call {
            Call::MakeDir(at, x) => fs.make_dir(&dirs[at], p(PATHS[x]), 0o700)?,
            Call::Create(at, x) => {
                let file = fs.create(&dirs[at], p(PATHS[x]), 0o600)?;
                let slot = self.slot();
                self.files[slot] = Some(file);
            }
            Call::Open(at, x, write) => {
                let file = fs.open(&dirs[at], p(PATHS[x]), write)?;
                let slot = self.slot();
                self.files[slot] = Some(file);
            }
            Call::OpenDir(at, x) => {
                let dir = fs.open_dir(&dirs[at], p(PATHS[x]))?;
                // Slot 0 stays the root, or the calls would all end in removed directories.
                let slot = self.slot().max(1);
                self.dirs[slot] = dir;
            }
            Call::Rename(from, x, to, y, replace) => {
                let (old, new) = (p(PATHS[x]), p(PATHS[y]));
                if replace {
                    fs.replace(&dirs[from], old, &dirs[to], new)?;
                } else {
                    fs.rename(&dirs[from], old, &dirs[to], new)?;
                }
            }
            Call::RemoveFile(at, x) => fs.remove_file(&dirs[at], p(PATHS[x]))?,
            Call::RemoveDir(at, x) => fs.remove_dir(&dirs[at], p(PATHS[x]))?,
            Call::Stat(at, x) => {
                let stat = fs.stat(&dirs[at], p(PATHS[x]))?;
                let size = (stat.file_type == FileType::File).then_some(stat.size);
                return Ok(format!("{:?} {size:?}", stat.file_type));
            }
            Call::List(at) => {
                let mut names = Vec::new();
                for entry in fs.list(&dirs[at])? {
                    names.push(entry?.name);
                }
                names.sort();
                return Ok(format!("{names:?}"));
            }
            Call::Write(f, at, byte) => fs.write_at(file(f)?, at, &[byte; 3])?,
            Call::SetLen(f, len) => fs.set_len(file(f)?, len)?,
            Call::Read(f) => {
                let mut bytes = [0; 16];
                let n = fs.read_at(file(f)?, 1, &mut bytes)?;
                return Ok(format!("{:?} {}", &bytes[..n], fs.stat_file(file(f)?)?.size));
            }
            Call::SyncFile(f) => fs.sync_file(file(f)?)?,
            Call::SyncDir(at) => fs.sync_dir(&dirs[at])?,
        }
        Ok(String::new())
    }
}

/// The tree as a program can read it.
fn read_tree<F: Filesystem>(fs: &F, dir: &F::Dir, above: &str, out: &mut BTreeMap<String, String>) {
    for entry in fs.list(dir).unwrap() {
        let name = entry.unwrap().name.into_string().unwrap();
        let path = format!("{above}/{name}");
        let stat = fs.stat(dir, p(&name)).unwrap();
        let mut content = format!("{:?}", stat.file_type);
        match stat.file_type {
            FileType::Dir => read_tree(fs, &fs.open_dir(dir, p(&name)).unwrap(), &path, out),
            FileType::File => {
                let mut bytes = [0; 16];
                let file = fs.open(dir, p(&name), false).unwrap();
                let n = fs.read_at(&file, 0, &mut bytes).unwrap();
                content = format!("{:?}", &bytes[..n]);
            }
            FileType::Other => {}
        }
        out.insert(path, content);
    }
}

/// Both filesystems, empty but for a symbolic link, play the same calls; all answers are compared.
fn compare(calls: &[Call]) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let real_root = RealFs.open_root(folder.path()).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
    let sim = SimFs::new();
    sim.plant_other("link");
    let mut real_player = Player::new(RealFs, &real_root);
    let mut sim_player = Player::new(sim.clone(), &sim.root());
    for call in calls {
        prop_assert_eq!(real_player.play(call), sim_player.play(call), "{:?}\n{:?}", call, sim);
    }
    let (mut real_tree, mut sim_tree) = (BTreeMap::new(), BTreeMap::new());
    read_tree(&RealFs, &real_root, "", &mut real_tree);
    read_tree(&sim, &sim.root(), "", &mut sim_tree);
    prop_assert_eq!(real_tree, sim_tree);
    Ok(())
}

/// Goal: a removed directory that is still open takes no names and has none, as in the kernel.
/// Method: open, remove, then every call through the old descriptor (`OpenDir` fills slot 1 first).
#[test]
fn removed_directory_takes_no_names() {
    let (a, d) = (0, 2);
    compare(&[
        Call::MakeDir(0, d),
        Call::OpenDir(0, d),
        Call::RemoveDir(0, d),
        Call::Create(1, a),
        Call::MakeDir(1, a),
        Call::List(1),
        Call::Create(0, a),
        Call::Rename(0, a, 1, a, false),
        Call::Rename(0, a, 1, a, true),
        Call::RemoveFile(1, a),
        Call::SyncDir(1),
    ])
    .unwrap();
}

proptest! {
    /// Goal: the live image is what the kernel would show. Method: the same random calls on both,
    /// each answer and error kind compared, then the trees.
    #[test]
    fn same_as_the_kernel(calls in calls(60)) {
        compare(&calls)?;
    }

    /// Goal: after any history: nothing panics, a seed gives the same disk again, keeping all gives
    /// the live tree, and a disk that was synced loses nothing more. Method: random calls, then
    /// each mode; the crashed world is synced and crashed again, losing all it may.
    #[test]
    fn any_history_may_crash(calls in calls(80), seed: u64) {
        let sim = SimFs::new();
        sim.reuse_inos();
        let mut player = Player::new(sim.clone(), &sim.root());
        for call in &calls {
            drop(player.play(call));
        }
        for mode in [Mode::Process, Mode::Ext4, Mode::Weak] {
            let kept = sim.crash(mode, Pick::Keep);
            prop_assert_eq!(kept.tree(), sim.tree(), "{:?}", kept);
            let again = |pick| sim.crash(mode, pick).tree();
            prop_assert_eq!(again(Pick::Seeded(seed)), again(Pick::Seeded(seed)));
            for state in sim.crash_states(mode, seed, 8) {
                let tree = state.tree();
                for path in tree.keys() {
                    let above = Path::new(path).parent().unwrap().to_str().unwrap();
                    prop_assert!(above.is_empty() || tree.get(above) == Some(&Seen::Dir));
                }
                state.sync_all(&state.root()).unwrap();
                let then = state.crash(Mode::Weak, Pick::Lose);
                prop_assert_eq!(then.tree(), tree, "{:?}", then);
            }
        }
    }
}
