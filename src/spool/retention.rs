//! Retention: what stands in `done/` and `output/` goes once it is old, or too much.
//!
//! Must not know: when a pass is due, settings, the journal. It is told from when on nothing may go.
//!
//! Invariants
//! - Only regular files go, each by its name in a folder opened without following a link, and only below
//!   the trees that are given. `error/` is never one of them.
//! - A file's age is its ctime: the last move is the last thing that happens to it, and nobody can set it.
//! - Oldest first: by size, a file goes only if every file that is older by a second goes too.
//! - A folder that is one job goes whole or not at all: it is as old as its last move, whatever the age
//!   of what is in it, and as long as all of that.
//! - Memory is bounded whatever the number of files: a table of [`BUCKETS`] sums instead of a list.
//! - Folders are only named here, deepest first; their removal is for whoever makes folders in these trees.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::tree::WALK_DEPTH;
use crate::fs::{FileType, Filesystem, Stat, walk_files};

/// A folder whose old files go.
pub struct Tree<F: Filesystem> {
    /// Its name in the spool.
    pub name: &'static str,
    /// The folder.
    pub dir: F::Dir,
    /// Which files are meant, by their names.
    pub takes: fn(&OsStr) -> bool,
    /// Folders below it are walked, too, and go when they are empty.
    pub is_deep: bool,
    /// Whether a folder, by its path in the tree, is one job.
    pub is_unit: Arc<dyn Fn(&Path) -> bool + Send + Sync>,
}

/// What may go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files whose last move was before this go, in Unix nanoseconds.
    pub older_than_ns: Option<i64>,
    /// The oldest go until no more than so many bytes are left.
    pub bytes: Option<u64>,
    /// Whatever the limits say, nothing that is as young as this, in Unix nanoseconds.
    pub before_ns: i64,
    /// Empty folders that nobody has touched since go, in Unix nanoseconds.
    pub empty_before_ns: i64,
}

/// What is left of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Regular files.
    pub files: u64,
    /// Their sizes.
    pub bytes: u64,
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// By tree, in the order given.
    pub kept: Vec<(&'static str, Kept)>,
    /// The last move of the oldest file left, in Unix nanoseconds.
    pub oldest_ns: Option<i64>,
    /// An empty folder is still too young to go.
    pub has_young_empty: bool,
    /// Files removed.
    pub files: u64,
    /// Their sizes.
    pub bytes: u64,
    /// What could not be read or removed: how many, and the first of them.
    pub failures: u64,
    /// See `failures`.
    pub failure: Option<String>,
}

/// Told of a folder that is empty now, or may be once those told before are gone: tree and path in it.
/// `false`: the pass ends.
pub type Emptied<'a> = &'a mut dyn FnMut(&'static str, &Path) -> bool;

/// Removes what may go. Stops early where `emptied` says so.
pub fn sweep<F: Filesystem>(
    fs: &F,
    trees: &[Tree<F>],
    limits: &Limits,
    emptied: Emptied<'_>,
) -> Swept {
    let mut pass = Pass { fs, trees, limits, swept: Swept::default(), ends: false };
    let mut sums = Sums::new();
    let old = limits.older_than_ns.unwrap_or(i64::MIN).min(limits.before_ns);
    pass.walk(emptied, &mut |stat| {
        let goes = stat.ctime_ns < old;
        if !goes && stat.ctime_ns < limits.before_ns {
            sums.add(stat.ctime_ns, stat.size);
        }
        goes
    });
    let left: u64 = pass.swept.kept.iter().map(|(_, kept)| kept.bytes).sum();
    let Some(excess) = limits.bytes.and_then(|most| left.checked_sub(most)).filter(|n| *n > 0)
    else {
        return pass.swept;
    };
    let mut edge = sums.edge(excess);
    while edge.width_ns > SECOND_NS && !pass.ends {
        let mut finer = Sums::within(&edge);
        pass.walk(&mut |_, _| true, &mut |stat| {
            finer.add_within(stat.ctime_ns, stat.size);
            false
        });
        edge = finer.edge(edge.bytes);
    }
    pass.walk(emptied, &mut |stat| {
        let is_older = stat.ctime_ns < edge.from_ns;
        let is_edge = !is_older && stat.ctime_ns < edge.from_ns.saturating_add(edge.width_ns);
        let goes = stat.ctime_ns < limits.before_ns && (is_older || is_edge && edge.bytes > 0);
        if goes && is_edge {
            edge.bytes = edge.bytes.saturating_sub(stat.size.max(1));
        }
        goes
    });
    pass.swept
}

const SECOND_NS: i64 = 1_000_000_000;

struct Pass<'a, F: Filesystem> {
    fs: &'a F,
    trees: &'a [Tree<F>],
    limits: &'a Limits,
    swept: Swept,
    /// Nobody takes what is told.
    ends: bool,
}

/// A folder that is being read.
struct Level<F: Filesystem> {
    path: PathBuf,
    dir: F::Dir,
    list: F::List,
    /// Something stays in it.
    is_kept: bool,
    /// Something in it went.
    is_swept: bool,
    /// It is one job, or part of one: whether that goes, and when its last move was.
    unit: Option<(bool, i64)>,
}

impl<F: Filesystem> Pass<'_, F> {
    /// Counts what is left anew, and removes the files of which `goes` says so.
    fn walk(&mut self, emptied: Emptied<'_>, goes: &mut dyn FnMut(&Stat) -> bool) {
        self.swept.kept.clear();
        self.swept.oldest_ns = None;
        self.swept.has_young_empty = false;
        for tree in self.trees {
            let mut kept = Kept::default();
            self.walk_tree(tree, &mut kept, emptied, goes);
            self.swept.kept.push((tree.name, kept));
        }
    }

    fn walk_tree(
        &mut self,
        tree: &Tree<F>,
        kept: &mut Kept,
        emptied: Emptied<'_>,
        goes: &mut dyn FnMut(&Stat) -> bool,
    ) {
        let mut levels = Vec::new();
        levels.extend(self.open(tree.name, PathBuf::new(), Ok(tree.dir.clone())));
        loop {
            let has_room = levels.len() < WALK_DEPTH;
            let Some(level) = levels.last_mut() else { return };
            if self.ends {
                return;
            }
            match level.list.next() {
                Some(Ok(entry)) => {
                    let name = Path::new(&entry.name);
                    let stat = match self.fs.stat(&level.dir, name) {
                        Ok(stat) => stat,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => {
                            level.is_kept = true;
                            self.failed(tree.name, &level.path.join(name), &error);
                            continue;
                        }
                    };
                    match stat.file_type {
                        FileType::File if (tree.takes)(&entry.name) => match level.unit {
                            Some((goes, ctime_ns)) => {
                                let stat = Stat { ctime_ns, ..stat };
                                self.file(tree.name, level, name, &stat, kept, &mut |_| goes);
                            }
                            None => self.file(tree.name, level, name, &stat, kept, goes),
                        },
                        FileType::Dir if tree.is_deep => {
                            let path = level.path.join(name);
                            let opened = self.fs.open_dir(&level.dir, name);
                            let unit = match &opened {
                                Ok(dir) if level.unit.is_none() && (tree.is_unit)(&path) => {
                                    let size = self.size_of(dir);
                                    Some((goes(&Stat { size, ..stat }), stat.ctime_ns))
                                }
                                _ => level.unit,
                            };
                            let below = self.open(tree.name, path, opened).filter(|_| has_room);
                            let below = below.map(|below| Level { unit, ..below });
                            level.is_kept |= below.is_none();
                            levels.extend(below);
                        }
                        // A link, a device, someone's own file: not ours to judge.
                        _ => level.is_kept = true,
                    }
                }
                Some(Err(error)) => {
                    level.is_kept = true;
                    let path = level.path.clone();
                    self.failed(tree.name, &path, &error);
                    self.leave(tree, &mut levels, emptied);
                }
                None => self.leave(tree, &mut levels, emptied),
            }
        }
    }

    /// Bytes of all files in a folder.
    fn size_of(&self, dir: &F::Dir) -> u64 {
        let mut size = 0_u64;
        let walked = walk_files(self.fs, dir, &|_| true, &mut |dir, name, _| {
            size = size.saturating_add(self.fs.stat(dir, name).map_or(0, |stat| stat.size));
            true
        });
        // What cannot be read stays, and is said when it is looked at itself.
        walked.map_or(0, |()| size)
    }

    fn open(&mut self, tree: &str, path: PathBuf, opened: io::Result<F::Dir>) -> Option<Level<F>> {
        match opened.and_then(|dir| Ok((self.fs.list(&dir)?, dir))) {
            Ok((list, dir)) => {
                Some(Level { path, dir, list, is_kept: false, is_swept: false, unit: None })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.failed(tree, &path, &error);
                None
            }
        }
    }

    fn file(
        &mut self,
        tree: &str,
        level: &mut Level<F>,
        name: &Path,
        stat: &Stat,
        kept: &mut Kept,
        goes: &mut dyn FnMut(&Stat) -> bool,
    ) {
        if goes(stat) {
            match self.fs.remove_file(&level.dir, name) {
                Ok(()) => {
                    level.is_swept = true;
                    self.swept.files += 1;
                    self.swept.bytes += stat.size;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => self.failed(tree, &level.path.join(name), &error),
            }
        }
        level.is_kept = true;
        kept.files += 1;
        kept.bytes += stat.size;
        let oldest = self.swept.oldest_ns.map_or(stat.ctime_ns, |old| old.min(stat.ctime_ns));
        self.swept.oldest_ns = Some(oldest);
    }

    /// A folder was read to its end: where it is empty, it goes.
    fn leave(&mut self, tree: &Tree<F>, levels: &mut Vec<Level<F>>, emptied: Emptied<'_>) {
        let (Some(level), Some(above)) = (levels.pop(), levels.last_mut()) else { return };
        // One that a pass before this one emptied, or whose pass was cut off, is old by now.
        let is_old = || {
            let before = self.limits.empty_before_ns.min(self.limits.before_ns);
            let stat = self.fs.stat(&level.dir, Path::new("."));
            stat.is_ok_and(|stat| stat.ctime_ns < before)
        };
        let goes = !level.is_kept && (level.is_swept || is_old());
        if !goes {
            self.swept.has_young_empty |= !level.is_kept;
            above.is_kept = true;
            return;
        }
        above.is_swept = true;
        self.ends = !emptied(tree.name, &level.path);
    }

    fn failed(&mut self, tree: &str, path: &Path, error: &io::Error) {
        self.swept.failures += 1;
        if self.swept.failure.is_none() {
            let path = Path::new(tree).join(path);
            self.swept.failure = Some(format!("{}: {error}", path.display()));
        }
    }
}

/// Sums that are kept of sizes by time.
pub const BUCKETS: usize = 4096;
/// The same number, for times.
const SPANS: i64 = 4096;

/// Bytes by time, in [`BUCKETS`] equal spans.
struct Sums {
    from_ns: i64,
    width_ns: i64,
    bytes: Vec<u64>,
}

/// Everything before a span goes, and so many bytes of it.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    from_ns: i64,
    width_ns: i64,
    bytes: u64,
}

impl Sums {
    fn new() -> Self {
        Self { from_ns: i64::MAX, width_ns: SECOND_NS, bytes: vec![0; BUCKETS] }
    }

    /// Finer, for what is at the edge.
    fn within(edge: &Edge) -> Self {
        let width_ns = edge.width_ns / SPANS + 1;
        Self { from_ns: edge.from_ns, width_ns, bytes: vec![0; BUCKETS] }
    }

    fn index(&self, at_ns: i64) -> Option<usize> {
        let since = at_ns.checked_sub(self.from_ns).filter(|since| *since >= 0)?;
        usize::try_from(since / self.width_ns).ok().filter(|index| *index < BUCKETS)
    }

    /// Adds what lies in the span, and nothing else.
    fn add_within(&mut self, at_ns: i64, bytes: u64) {
        if let Some(sum) = self.index(at_ns).and_then(|index| self.bytes.get_mut(index)) {
            *sum += bytes;
        }
    }

    /// Adds it; the span grows until it lies in it.
    fn add(&mut self, at_ns: i64, bytes: u64) {
        if self.from_ns == i64::MAX {
            self.from_ns = at_ns;
        }
        // Each turn doubles the span: 21 of them cover two centuries, all that a clock can say.
        while self.index(at_ns).is_none() && self.width_ns < i64::MAX / 2 / SPANS {
            self.widen(at_ns < self.from_ns);
        }
        self.add_within(at_ns, bytes);
    }

    fn widen(&mut self, to_the_past: bool) {
        let half = BUCKETS / 2;
        let pairs = self.bytes.chunks(2).map(|pair| pair.iter().sum::<u64>());
        let mut merged: Vec<u64> = pairs.collect();
        if to_the_past {
            self.from_ns = self.from_ns.saturating_sub(self.width_ns * SPANS);
            merged.splice(0..0, vec![0; half]);
        } else {
            merged.resize(BUCKETS, 0);
        }
        self.width_ns *= 2;
        self.bytes = merged;
    }

    /// Where to stop so that at least `excess` bytes go.
    fn edge(&self, excess: u64) -> Edge {
        let mut left = excess;
        let mut from_ns = self.from_ns;
        for sum in &self.bytes {
            if *sum >= left {
                break;
            }
            left -= sum;
            from_ns = from_ns.saturating_add(self.width_ns);
        }
        Edge { from_ns, width_ns: self.width_ns, bytes: left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;
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
        let none = Limits { older_than_ns: None, bytes: None, before_ns: FAR, empty_before_ns: 0 };
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
        let limits =
            Limits { older_than_ns: Some(FAR), bytes: Some(0), before_ns: 0, empty_before_ns: FAR };
        let swept = run(home, limits);
        assert_eq!((swept.files, names(home)), (0, before), "nothing was safe to remove");

        let limits = Limits { older_than_ns: Some(FAR), bytes: None, before_ns: FAR, ..limits };
        let swept = run(home, limits);
        assert_eq!((swept.files, swept.bytes, swept.failures), (5, 25, 0), "{swept:?}");
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

    /// Goal: by size the oldest go, so many as must and no more, over all trees together; ages decide first.
    /// Method: files made one after the other by a clock that is seen to go on; limits between them.
    #[test]
    fn by_size_the_oldest_go() {
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
        let limits =
            Limits { older_than_ns: None, bytes: Some(1000), before_ns: FAR, empty_before_ns: 0 };
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
}
