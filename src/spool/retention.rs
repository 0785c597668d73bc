//! Retention: what stands in `done/` and `output/` goes once it is old, or too much.
//!
//! Must not know: when a pass is due, settings, the journal. It is told from when on nothing may go.
//!
//! Invariants
//! - Only regular files go, each by its name in a folder opened without following a link, and only below
//!   the trees that are given. `error/` is never one of them.
//! - A file's age is its ctime: the last move is the last thing that happens to it, and nobody can set it.
//!   What was moved in its folder, as made files are, is as young as that move: the folder's ctime, where that
//!   is later than its mtime, so that nothing came or went since.
//! - Oldest first: by size, a file goes only if every file that is older by a second goes too. What was moved
//!   while the clock was ahead is older than all else; its age is not known, so by age it stays.
//! - A folder that is one job goes whole or not at all: it is as old as its last move, whatever the age
//!   of what is in it, and as long as all of that.
//! - Memory is bounded whatever the number of files: a table of [`BUCKETS`] sums instead of a list.
//! - Folders are only named here, deepest first; their removal is for whoever makes folders in these trees.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::sums::{SECOND_NS, Sums};
use crate::fs::tree::WALK_DEPTH;
use crate::fs::{FileType, Filesystem, Stat, walk_files};

mod sums;

pub use sums::BUCKETS;

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
    /// What was moved later than this was moved while the clock was ahead, in Unix nanoseconds.
    pub ahead_ns: i64,
    /// Files whose last move was before this go, in Unix nanoseconds.
    pub older_than_ns: Option<i64>,
    /// The oldest go until no more than so many bytes are left.
    pub bytes: Option<u64>,
    /// Whatever the limits say, nothing that is as young as this, in Unix nanoseconds.
    pub before_ns: i64,
    /// Empty folders that nobody has touched since go, in Unix nanoseconds.
    pub empty_before_ns: i64,
}

/// More than any two files are apart, and few enough that a clock can say twice as much.
const CENTURY_NS: i64 = 100 * 365 * 86_400 * SECOND_NS;

impl Limits {
    /// Where a file stands in the order in which they go; `None`: it is too young to go.
    fn in_order(&self, stat: &Stat) -> Option<i64> {
        if stat.ctime_ns > self.ahead_ns {
            return Some(stat.ctime_ns.saturating_sub(CENTURY_NS));
        }
        Some(stat.ctime_ns).filter(|at| *at < self.before_ns)
    }
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
    /// The time that removing took; all else was looking.
    pub removing: Duration,
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
        if let Some(at_ns) = limits.in_order(stat).filter(|_| !goes) {
            sums.add(at_ns, stat.size);
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
            if let Some(at_ns) = limits.in_order(stat) {
                finer.add_within(at_ns, stat.size);
            }
            false
        });
        edge = finer.edge(edge.bytes);
    }
    pass.walk(emptied, &mut |stat| {
        let Some(at_ns) = limits.in_order(stat) else { return false };
        let is_older = at_ns < edge.from_ns;
        let is_edge = !is_older && at_ns < edge.from_ns.saturating_add(edge.width_ns);
        let goes = is_older || is_edge && edge.bytes > 0;
        if goes && is_edge {
            edge.bytes = edge.bytes.saturating_sub(stat.size.max(1));
        }
        goes
    });
    pass.swept
}

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
    /// When it was moved with all that is in it; before everything where it was not.
    moved_ns: i64,
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
                        FileType::File if (tree.takes)(&entry.name) => {
                            if let Some((goes, ctime_ns)) = level.unit {
                                let stat = Stat { ctime_ns, ..stat };
                                self.file(tree.name, level, name, &stat, kept, &mut |_| goes);
                            } else {
                                let ctime_ns = stat.ctime_ns.max(level.moved_ns);
                                let stat = Stat { ctime_ns, ..stat };
                                self.file(tree.name, level, name, &stat, kept, goes);
                            }
                        }
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
                            let moved = stat.ctime_ns > stat.mtime_ns;
                            let moved_ns = if moved { stat.ctime_ns } else { i64::MIN };
                            let moved_ns = moved_ns.max(level.moved_ns);
                            let below = below.map(|below| Level { moved_ns, unit, ..below });
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
        walked.map_or(0, |_| size)
    }

    fn open(&mut self, tree: &str, path: PathBuf, opened: io::Result<F::Dir>) -> Option<Level<F>> {
        match opened.and_then(|dir| Ok((self.fs.list(&dir)?, dir))) {
            Ok((list, dir)) => {
                let (is_kept, is_swept, moved_ns) = (false, false, i64::MIN);
                Some(Level { path, dir, list, is_kept, is_swept, moved_ns, unit: None })
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
            let began = Instant::now();
            let removed = self.fs.remove_file(&level.dir, name);
            self.swept.removing += began.elapsed();
            match removed {
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
        let began = Instant::now();
        self.ends = !emptied(tree.name, &level.path);
        self.swept.removing += began.elapsed();
    }

    fn failed(&mut self, tree: &str, path: &Path, error: &io::Error) {
        self.swept.failures += 1;
        if self.swept.failure.is_none() {
            let path = Path::new(tree).join(path);
            self.swept.failure = Some(format!("{}: {error}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests;
