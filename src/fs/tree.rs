//! Whole trees: made, removed, synced, through [`Filesystem`] and without recursion.
//!
//! Must not know: whose trees they are. Callers remove only what is inboxd's own.
//!
//! Invariant: no symbolic link is followed; a link is removed as a name. What a worker mounted in a tree of
//! ours, and left, is not entered. A tree of any depth is handled with a bounded number of descriptors.
//!
//! What is in such a tree a worker made, and workers write-protect folders (a module cache, `chmod -R`),
//! which nobody but root may then empty or move. They are given their rights back; it is our tree.
//! Of a folder that a worker made as another user (a container that runs as root) only its owner can say.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{FileType, Filesystem, is_shortage};

/// The owner's rights on a folder, without which it cannot be emptied, moved, or moved out of.
const OWNER: u32 = 0o700;

/// Opens a folder of a tree of ours.
fn open_own<F: Filesystem>(fs: &F, at: &F::Dir, path: &Path) -> io::Result<F::Dir> {
    if fs.stat(at, path)?.mode & OWNER != OWNER {
        fs.open_up(at, path)?;
    }
    fs.open_own_dir(at, path)
}

/// Gives all folders of a tree of ours their owner's rights back. That it is gone is fine; a folder of
/// another user stays as it is.
pub fn open_up_tree<F: Filesystem>(fs: &F, at: &F::Dir, path: &Path) -> io::Result<()> {
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let dir = match open_own(fs, at, &folder) {
            // So deep that no path reaches it, it stands in the way of nothing.
            Err(error) if is_beyond_us(&error) => continue,
            other => other?,
        };
        let entries = match fs.list(&dir) {
            // Another user's whose mode lets us read names and nothing else: 0744.
            Err(error) if is_gone_or_closed(&error) => continue,
            other => other?,
        };
        for entry in entries {
            let name = PathBuf::from(entry?.name);
            match fs.stat(&dir, &name) {
                Err(error) if is_beyond_us(&error) => {}
                Err(error) => return Err(error),
                Ok(stat) if stat.file_type == FileType::Dir => folders.push(folder.join(name)),
                Ok(_) => {}
            }
        }
    }
    Ok(())
}

/// It is not there any more, or another user's.
pub fn is_gone_or_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

/// No folder of ours stands there: it is gone, or something else has its name.
pub fn is_no_folder(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// A process still writes there, or something is mounted there, be it by a server that has ended.
pub fn is_in_use(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, DirectoryNotEmpty, NotConnected, ResourceBusy};
    matches!(error.kind(), CrossesDevices | DirectoryNotEmpty | NotConnected | ResourceBusy)
}

/// Removes `path` and everything below it; that it is gone already is fine. [`is_in_use`] says of an error that
/// something of it stays.
///
/// The deepest folders go first, found again from the top for each: slow for a deep tree, but bounded
/// in memory and descriptors, and a worker that makes a thousand nested folders harms only itself.
pub fn remove_tree<F: Filesystem>(fs: &F, at: &F::Dir, path: &Path) -> io::Result<()> {
    match fs.stat(at, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(stat) if stat.file_type != FileType::Dir => return fs.remove_file(at, path),
        Ok(_) => {}
    }
    // Each round removes one folder at least, or fails.
    let mut chain = vec![open_own(fs, at, path)?];
    let mut names: Vec<PathBuf> = Vec::new();
    while let Some(dir) = chain.last() {
        let mut below = None;
        for entry in fs.list(dir)? {
            let entry = entry?;
            let name = PathBuf::from(entry.name);
            let is_dir = match entry.file_type {
                Some(known) => known == FileType::Dir,
                None => fs.stat(dir, &name)?.file_type == FileType::Dir,
            };
            if is_dir {
                below = Some(name);
                break;
            }
            match fs.remove_file(dir, &name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        match below {
            Some(name) if chain.len() < 64 => {
                let next = open_own(fs, dir, &name)?;
                names.push(name);
                chain.push(next);
            }
            // Too deep to hold open: bring the folder up to the top of the tree and go on there.
            Some(name) => {
                let top = chain.first().cloned().ok_or(io::ErrorKind::NotFound)?;
                // A folder that moves has its `..` written.
                open_own(fs, dir, &name)?;
                hoist(fs, dir, &name, &top)?;
                chain.truncate(1);
                names.clear();
            }
            None => {
                chain.pop();
                if let (Some(parent), Some(name)) = (chain.last(), names.pop()) {
                    fs.remove_dir(parent, &name)?;
                }
            }
        }
    }
    fs.remove_dir(at, path)
}

fn hoist<F: Filesystem>(fs: &F, dir: &F::Dir, name: &Path, top: &F::Dir) -> io::Result<()> {
    for n in 0..u32::MAX {
        let to = PathBuf::from(format!("hoisted.{n}"));
        match fs.rename(dir, name, top, &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Syncs every file and folder of a tree. After it returns, all of it is durable below `path`, and
/// so is the name `path` itself. [`io::ErrorKind::NotADirectory`] is said of `path` only.
///
/// The whole filesystem is synced instead where that cannot be done one by one: what its maker closed to us
/// or put deeper than a path may be long cannot be opened, what someone still moves about is missed, and
/// while thousands of files are synced everything else waits.
pub fn sync_tree<F: Filesystem>(fs: &F, at: &F::Dir, path: &Path) -> io::Result<()> {
    if fs.stat(at, path)?.file_type != FileType::Dir {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if sync_each(fs, at, path)? { fs.sync_dir(at) } else { fs.sync_all(at) }
}

/// Whether all of it could be synced one by one.
fn sync_each<F: Filesystem>(fs: &F, at: &F::Dir, path: &Path) -> io::Result<bool> {
    let mut folders = vec![path.to_owned()];
    let mut left = TREE_SYNCED_EACH;
    while let Some(folder) = folders.pop() {
        let dir = match open_own(fs, at, &folder) {
            Err(error) if is_beyond_us(&error) => return Ok(false),
            other => other?,
        };
        for entry in fs.list(&dir)? {
            let name = PathBuf::from(entry?.name);
            let synced = match fs.stat(&dir, &name).map(|stat| stat.file_type) {
                Ok(FileType::Dir) => {
                    folders.push(folder.join(name));
                    Ok(())
                }
                Ok(FileType::File) if left == 0 => return Ok(false),
                Ok(FileType::File) => {
                    left -= 1;
                    fs.open(&dir, &name, false).and_then(|file| fs.sync_file(&file))
                }
                Ok(FileType::Other) => Ok(()),
                Err(error) => Err(error),
            };
            match synced {
                Err(error) if is_beyond_us(&error) => return Ok(false),
                other => other?,
            }
        }
        fs.sync_dir(&dir)?;
    }
    Ok(true)
}

/// The same, or no folder any more, or so deep that no path reaches it, or mounted there.
fn is_beyond_us(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, InvalidFilename, NotConnected};
    is_gone_or_closed(error)
        || is_no_folder(error)
        || matches!(error.kind(), CrossesDevices | InvalidFilename | NotConnected)
}

/// Calls `visit` with the path of everything below `at` that is no folder, streaming and in no order,
/// until it answers `false`. Folders that cannot be read are passed over, but not for want of something.
///
/// `enters` is asked about each folder. Each level keeps a descriptor open; what lies deeper than
/// [`WALK_DEPTH`] is passed over too. `false`: a folder was passed over that was to be entered.
pub fn walk_files<F: Filesystem>(
    fs: &F,
    at: &F::Dir,
    enters: &dyn Fn(&Path) -> bool,
    visit: &mut dyn FnMut(&F::Dir, &Path, &Path) -> bool,
) -> io::Result<bool> {
    let mut is_all = true;
    let mut levels = vec![(PathBuf::new(), at.clone(), fs.list(at)?)];
    while let Some((prefix, dir, list)) = levels.last_mut() {
        let Some(Ok(entry)) = list.next() else {
            levels.pop();
            continue;
        };
        let name = PathBuf::from(entry.name);
        let path = prefix.join(&name);
        let file_type = match entry.file_type {
            Some(known) => known,
            None => match fs.stat(dir, &name) {
                Ok(stat) => stat.file_type,
                Err(_) => continue,
            },
        };
        if file_type != FileType::Dir {
            if !visit(dir, &name, &path) {
                return Ok(is_all);
            }
        } else if enters(&path) {
            let opened = fs.open_dir(dir, &name).and_then(|dir| Ok((fs.list(&dir)?, dir)));
            match opened {
                Ok((list, dir)) if levels.len() < WALK_DEPTH => levels.push((path, dir, list)),
                Err(error) if is_shortage(&error) => return Err(error),
                Ok(_) | Err(_) => is_all = false,
            }
        }
    }
    Ok(is_all)
}

/// Files that [`sync_tree`] syncs one by one: each may take milliseconds, and the keeper waits for them.
const TREE_SYNCED_EACH: usize = 64;

/// Levels of folders that [`walk_files`] enters.
pub const WALK_DEPTH: usize = 256;

/// Opens `path` below `at`, making the folders that are missing.
pub fn make_dirs<F: Filesystem>(fs: &F, at: &F::Dir, path: &Path, mode: u32) -> io::Result<F::Dir> {
    let mut dir = at.clone();
    for part in path.components() {
        let name = Path::new(part.as_os_str());
        dir = match fs.open_dir(&dir, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match fs.make_dir(&dir, name, mode) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => fs.open_dir(&dir, name)?,
                }
            }
            other => other?,
        };
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;
    use crate::fs::faults::{Faults, Op, Then};

    /// Goal: every file is told once, links are not followed, what is not entered or too deep is not
    /// told, and it ends when it is told to. Method: a small tree, and one of 300 levels.
    #[test]
    fn a_walk_tells_each_file_once() {
        let temp = tempfile::tempdir().unwrap();
        let at = RealFs.open_root(temp.path()).unwrap();
        for folder in ["a/b", "skipped"] {
            std::fs::create_dir_all(temp.path().join(folder)).unwrap();
        }
        for file in ["x", "a/y", "a/b/z", "skipped/s"] {
            std::fs::write(temp.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(temp.path(), temp.path().join("a/link")).unwrap();
        let mut seen = Vec::new();
        let enters = |path: &Path| path != Path::new("skipped");
        walk_files(&RealFs, &at, &enters, &mut |dir, name, path| {
            assert!(RealFs.stat(dir, name).is_ok());
            seen.push(path.to_owned());
            true
        })
        .unwrap();
        seen.sort();
        assert_eq!(seen, ["a/b/z", "a/link", "a/y", "x"].map(PathBuf::from));

        let mut deep = temp.path().join("deep");
        for _ in 0..300 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("unseen"), "").unwrap();
        let mut count = 0;
        walk_files(&RealFs, &at, &|_| true, &mut |_, _, _| {
            count += 1;
            true
        })
        .unwrap();
        assert_eq!(count, 5);
        count = 0;
        walk_files(&RealFs, &at, &|_| true, &mut |_, _, _| {
            count += 1;
            count < 2
        })
        .unwrap();
        assert_eq!(count, 2);
    }

    /// Goal: a tree deeper than the descriptors we hold goes, links in it are not followed.
    /// Method: 300 nested folders with a file and a link in each, the link to a file outside.
    #[test]
    fn deep_trees_are_removed_and_links_stay_links() {
        let temp = tempfile::tempdir().unwrap();
        let at = RealFs.open_root(temp.path()).unwrap();
        std::fs::write(temp.path().join("outside"), "stays").unwrap();
        let mut path = temp.path().join("t");
        for _ in 0..300 {
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("f"), "x").unwrap();
            std::os::unix::fs::symlink(temp.path().join("outside"), path.join("l")).unwrap();
            path.push("d");
        }
        remove_tree(&RealFs, &at, Path::new("t")).unwrap();
        assert!(!temp.path().join("t").exists());
        assert_eq!(std::fs::read(temp.path().join("outside")).unwrap(), b"stays");
        remove_tree(&RealFs, &at, Path::new("t")).unwrap();
    }

    /// Goal: what a process that a worker left takes away while it is synced ends no daemon, and nothing that
    /// stays is left out. Method: each look that such a one can fail, failed; only the tree itself is missed.
    #[test]
    fn what_is_taken_away_meanwhile_stops_no_sync() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("t/d")).unwrap();
        for file in ["t/a", "t/d/b"] {
            std::fs::write(temp.path().join(file), "x").unwrap();
        }
        let looks = |op| matches!(op, Op::Stat | Op::OpenDir | Op::Open);
        for nth in 1.. {
            let fs = Faults::new(RealFs);
            let at = RealFs.open_root(temp.path()).unwrap();
            fs.arm_for(looks, nth, Errno::NOENT, Then::Works);
            let synced = sync_tree(&fs, &at, Path::new("t"));
            assert_eq!(synced.is_err(), nth == 1, "{nth}: {synced:?}");
            let is_all = fs.take_log().iter().any(|(op, _)| *op == Op::SyncAll);
            assert_eq!(is_all, nth > 1 && fs.failed() > 0, "{nth}");
            if fs.failed() == 0 {
                assert!(nth > 8, "{nth}");
                return;
            }
        }
    }

    /// Goal: a tree deeper than a path is long, and one of thousands of files, are synced without holding
    /// anyone up. Method: folders nested to 6,000 bytes; a folder with more files than are synced one by one.
    #[test]
    fn deep_and_full_trees_are_synced_as_a_whole() {
        let temp = tempfile::tempdir().unwrap();
        let fs = Faults::new(RealFs);
        let at = RealFs.open_root(temp.path()).unwrap();
        let mut dir = at.clone();
        let name = "d".repeat(200);
        for _ in 0..30 {
            fs.make_dir(&dir, Path::new(&name), 0o700).unwrap();
            dir = fs.open_dir(&dir, Path::new(&name)).unwrap();
        }
        open_up_tree(&fs, &at, Path::new(&name)).unwrap();
        sync_tree(&fs, &at, Path::new(&name)).unwrap();
        std::fs::create_dir(temp.path().join("full")).unwrap();
        for n in 0..=TREE_SYNCED_EACH {
            std::fs::write(temp.path().join("full").join(n.to_string()), "x").unwrap();
        }
        sync_tree(&fs, &at, Path::new("full")).unwrap();
        let log = fs.take_log();
        let count = |wanted: Op| log.iter().filter(|(op, _)| *op == wanted).count();
        assert_eq!((count(Op::SyncAll), count(Op::SyncFile)), (2, TREE_SYNCED_EACH));
    }
}
