//! Real trees, swept.

use super::*;
use crate::fs::RealFs;
use crate::fs::sim::SimFs;
use proptest::prelude::*;
use std::collections::BTreeSet;

const FAR: i64 = i64::MAX;

fn trees(home: &Path) -> Vec<Tree<RealFs>> {
    let tree = |name, takes: fn(&OsStr) -> bool, is_deep| {
        std::fs::create_dir_all(home.join(name)).unwrap();
        let dir = RealFs.open_root(&home.join(name)).unwrap();
        let is_unit = Arc::new(|path: &Path| path.starts_with("set"));
        Tree { name, dir, takes, is_deep, is_unit }
    };
    let sealed: fn(&OsStr) -> bool = |name| name.as_encoded_bytes().starts_with(b"sealed");
    vec![
        tree("done", |_| true, true),
        tree("output", |_| true, true),
        tree("results", sealed, false),
    ]
}

fn run(home: &Path, limits: Limits) -> Swept {
    let trees = trees(home);
    sweep(&RealFs, &trees, &limits, &mut |tree, path| {
        // Not empty, or not any more: as the daemon takes it.
        match rustix::fs::rmdir(home.join(tree).join(path)) {
            Ok(()) | Err(_) => true,
        }
    })
}

fn names(home: &Path) -> BTreeSet<String> {
    let all = walkdir::WalkDir::new(home).min_depth(2).into_iter().map(|it| it.unwrap());
    let rel = all.map(|it| it.path().strip_prefix(home).unwrap().display().to_string());
    rel.collect()
}

fn ctime(path: &Path) -> i64 {
    let at = RealFs.open_root(path.parent().unwrap()).unwrap();
    RealFs.stat(&at, Path::new(path.file_name().unwrap())).unwrap().ctime_ns
}

/// Goal: a folder that is one job goes whole or not at all, by the time of its last move. Method: one
/// with old files, moved last; limits by age and by size between; then one that it cannot meet in part.
#[test]
fn a_folder_that_is_one_job_goes_whole() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path();
    std::fs::create_dir_all(home.join("done")).unwrap();
    std::fs::create_dir_all(home.join("elsewhere/sub")).unwrap();
    for file in ["elsewhere/a", "elsewhere/b", "elsewhere/sub/c", "done/z"] {
        std::fs::write(home.join(file), "12345").unwrap();
    }
    let files = ctime(&home.join("done/z"));
    let moved = loop {
        rustix::fs::rename(home.join("elsewhere"), home.join("done/set")).unwrap();
        let moved = ctime(&home.join("done/set"));
        if moved > files + 1_500_000_000 {
            break moved;
        }
        rustix::fs::rename(home.join("done/set"), home.join("elsewhere")).unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    };
    let none = Limits {
        older_than_ns: None,
        bytes: None,
        before_ns: FAR,
        ahead_ns: FAR,
        empty_before_ns: 0,
    };
    let all = ["done/set/a", "done/set/b", "done/set/sub/c"].map(|it| home.join(it));
    let left = || all.iter().filter(|path| path.exists()).count();
    let aged = run(home, Limits { older_than_ns: Some(moved), ..none });
    assert_eq!((aged.files, left()), (1, 3), "{aged:?}");
    let sized = run(home, Limits { bytes: Some(15), ..none });
    assert_eq!((sized.files, left()), (0, 3), "{sized:?}");
    let sized = run(home, Limits { bytes: Some(14), ..none });
    assert_eq!((sized.files, left()), (3, 0), "{sized:?}");
    assert!(!home.join("done/set").exists());
}

/// Goal: what came in a folder is as young as that folder's move: a long job's first files have not stood in
/// `output/` for as long as it ran. Method: old files in a folder that is moved; a limit between; then a
/// file that comes later, and its folder is one like any other.
#[test]
fn what_came_in_a_folder_is_as_young_as_its_move() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path();
    std::fs::create_dir_all(home.join("output/a")).unwrap();
    std::fs::create_dir_all(home.join("made/sub")).unwrap();
    for file in ["made/x", "made/sub/y", "output/a/z"] {
        std::fs::write(home.join(file), "12345").unwrap();
    }
    let files = ctime(&home.join("output/a/z"));
    let moved = loop {
        rustix::fs::rename(home.join("made"), home.join("output/a/job")).unwrap();
        let moved = ctime(&home.join("output/a/job"));
        if moved > files {
            break moved;
        }
        rustix::fs::rename(home.join("output/a/job"), home.join("made")).unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    };
    let limits = Limits {
        older_than_ns: Some(moved),
        bytes: None,
        before_ns: FAR,
        ahead_ns: FAR,
        empty_before_ns: 0,
    };
    let swept = run(home, limits);
    assert_eq!((swept.files, swept.oldest_ns), (1, Some(moved)), "{swept:?}");
    assert!(!home.join("output/a/z").exists());
    let later = loop {
        std::fs::write(home.join("output/a/job/new"), "12345").unwrap();
        let later = ctime(&home.join("output/a/job/new"));
        if later > moved {
            break later;
        }
        rustix::fs::unlink(home.join("output/a/job/new")).unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    };
    let swept = run(home, Limits { older_than_ns: Some(later), ..limits });
    assert_eq!((swept.files, swept.oldest_ns), (2, Some(later)), "{swept:?}");
}

/// Goal: files that were moved while the clock was ahead do not cost those that came since: by size they go first,
/// by age they stay. Method: two files, of which a limit between says that the second is from then.
#[test]
fn what_a_clock_that_was_ahead_has_moved_goes_first() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path();
    std::fs::create_dir_all(home.join("done")).unwrap();
    while ctime_of_write(&home.join("done/old")) >= ctime_of_write(&home.join("done/ahead")) {}
    let old = ctime(&home.join("done/old"));
    let limits = Limits {
        older_than_ns: Some(old),
        bytes: Some(1),
        before_ns: old + 1,
        ahead_ns: old,
        empty_before_ns: 0,
    };
    let size = std::fs::metadata(home.join("done/old")).unwrap().len();
    let aged = run(home, Limits { bytes: None, ..limits });
    assert_eq!(aged.files, 0, "{aged:?}");
    let sized = run(home, Limits { bytes: Some(size), ..limits });
    assert_eq!(sized.files, 1, "{sized:?}");
    assert!(home.join("done/old").exists() && !home.join("done/ahead").exists());
}

/// Goal: what is old goes with the folders it emptied, and nothing else: no link and nothing behind it,
/// nothing in `error/`, no CSV that grows, nothing that is too young for the journal's sake.
/// Method: a spool with one of each; twice, the second time with everything old but nothing safe.
#[test]
fn only_old_regular_files_go() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path();
    for folder in ["done/a/b", "done/c", "output/x.json", "results", "error/.why", "beside/d"] {
        std::fs::create_dir_all(home.join(folder)).unwrap();
    }
    let files = [
        "done/a/b/x",
        "done/c/y",
        "done/z",
        "output/x.json/made",
        "results/main.csv",
        "results/sealed.csv",
        "error/bad",
        "error/.why/bad.json",
        "beside/d/secret",
    ];
    for file in files {
        std::fs::write(home.join(file), "12345").unwrap();
    }
    std::os::unix::fs::symlink(home.join("beside"), home.join("done/c/link")).unwrap();
    std::os::unix::fs::symlink(home.join("beside/d/secret"), home.join("done/s")).unwrap();
    let before = names(home);
    let limits = Limits {
        older_than_ns: Some(FAR),
        bytes: Some(0),
        before_ns: 0,
        ahead_ns: FAR,
        empty_before_ns: FAR,
    };
    let swept = run(home, limits);
    assert_eq!((swept.files, names(home)), (0, before), "nothing was safe to remove");
    assert!(swept.removing.is_zero(), "{swept:?}");

    let limits = Limits { older_than_ns: Some(FAR), bytes: None, before_ns: FAR, ..limits };
    let swept = run(home, limits);
    assert_eq!((swept.files, swept.bytes, swept.failures), (5, 25, 0), "{swept:?}");
    assert!(!swept.removing.is_zero(), "{swept:?}");
    let left: Vec<String> = names(home).into_iter().collect();
    assert_eq!(
        left,
        [
            "beside/d",
            "beside/d/secret",
            "done/c",
            "done/c/link",
            "done/s",
            "error/.why",
            "error/.why/bad.json",
            "error/bad",
            "results/main.csv"
        ]
    );
    assert_eq!(swept.kept[0], ("done", Kept::default()));
}

/// Goal: by size it is the oldest that go, wherever they stand and in whatever order they are read. Method: a file
/// of ten years ago, so that the first sums are coarse; others ten seconds apart, the youngest named first.
#[test]
fn by_size_the_oldest_go_first() {
    let fs = SimFs::new();
    fs.plant_dir("done");
    fs.plant_dir("output");
    let files =
        ["output/9", "done/8", "output/7", "done/6", "done/5", "output/4", "done/3", "done/2"];
    for (at, file) in files.into_iter().enumerate() {
        fs.plant(file, b"0123456789");
        fs.pass_time(if at == 0 { 10 * 365 * 86_400 } else { 10 } * SECOND_NS);
    }
    let tree = |name| {
        let dir = fs.open_dir(&fs.root(), Path::new(name)).unwrap();
        Tree { name, dir, takes: |_| true, is_deep: true, is_unit: Arc::new(|_| false) }
    };
    let trees = [tree("done"), tree("output")];
    for (most, left) in [(75, 7), (45, 4), (20, 2), (19, 1)] {
        let limits = Limits {
            older_than_ns: None,
            bytes: Some(most),
            before_ns: FAR,
            ahead_ns: FAR,
            empty_before_ns: 0,
        };
        sweep(&fs, &trees, &limits, &mut |_, _| true);
        let expected: BTreeSet<&str> = files[files.len() - left..].iter().copied().collect();
        let found = files.iter().copied().filter(|file| fs.read(file).is_some());
        assert_eq!(found.collect::<BTreeSet<_>>(), expected, "{most} bytes");
    }
}

/// Goal: by size so many go as must and no more, over all trees together; ages decide first.
/// Method: files made one after the other by a clock that is seen to go on; limits between them.
#[test]
fn by_size_no_more_go_than_must() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path();
    std::fs::create_dir_all(home.join("done/sub")).unwrap();
    std::fs::create_dir_all(home.join("output/o")).unwrap();
    let files = ["output/o/0", "done/1", "done/sub/2", "done/3", "output/o/4"];
    let mut last = 0;
    for file in files {
        // The kernel's clock for files ticks every few milliseconds.
        while last >= ctime_of_write(&home.join(file)) {}
        last = ctime(&home.join(file));
    }
    let limits = Limits {
        older_than_ns: None,
        bytes: Some(1000),
        before_ns: FAR,
        ahead_ns: FAR,
        empty_before_ns: 0,
    };
    assert_eq!(run(home, limits).files, 0);
    // All of them lie within one second, where their order need not hold: only their number does.
    let swept = run(home, Limits { bytes: Some(25), ..limits });
    assert_eq!((swept.files, swept.bytes), (3, 30));
    assert_eq!(swept.kept.iter().map(|(_, kept)| kept.bytes).sum::<u64>(), 20);
}

fn ctime_of_write(path: &Path) -> i64 {
    std::fs::write(path, "0123456789").unwrap();
    ctime(path)
}

proptest! {
    /// Goal: the sums find the edge for any times: what lies before it is less than the excess, with it
    /// it is enough; also when looked at again more finely. Method: random times over centuries.
    #[test]
    fn the_edge_is_where_it_must_be(
        files in proptest::collection::vec((0i64..1 << 61, 1u64..1 << 40), 1..200),
        share in 1u64..100,
    ) {
        let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        let excess = (total / 100 * share).max(1);
        let mut sums = Sums::new();
        for (at, bytes) in &files {
            sums.add(*at, *bytes);
        }
        let mut edge = sums.edge(excess);
        while edge.width_ns > SECOND_NS {
            let mut finer = Sums::within(&edge);
            for (at, bytes) in &files {
                finer.add_within(*at, *bytes);
            }
            edge = finer.edge(edge.bytes);
        }
        let sum = |to: i64| -> u64 {
            files.iter().filter(|(at, _)| *at < to).map(|(_, bytes)| bytes).sum()
        };
        let before = sum(edge.from_ns);
        prop_assert!(before < excess);
        prop_assert_eq!(before + edge.bytes, excess);
        prop_assert!(sum(edge.from_ns + edge.width_ns) >= excess);
    }
}
