//! Import: what `batch` and `submit` are given becomes a copy in `processing/ID.in/`, and is not touched itself.
//!
//! `folder`: a folder that is one job, copied whole.
//!
//! Must not know: the journal, the core, who gives ids, routes: it is told what is one job.
//!
//! Invariants
//! - A source is only read; with hard links, only its link count changes.
//! - A copy has the source's bytes, mode and mtime. It stands under a staging name, so it is no job until
//!   the keeper's `Take` is durable; a copy without one is removed by recovery.
//! - `fs_extra` brings bytes that cannot be reflinked; it loses the mtime and never syncs, so times
//!   and the sync (one for a whole group of copies) are ours.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use crate::core::{JobId, RelPath};
use crate::journal::record::SourceKey;

use super::{Place, Shape};

mod folder;

/// A file, or a folder that is one job, that may be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Its path below the folder that was named, or its name.
    pub rel: RelPath,
    /// Bytes, in all.
    pub size: u64,
    /// Which it is, as it is now, with all that comes with it.
    pub key: SourceKey,
    /// What its place will tell of it.
    pub shape: Shape,
    /// What comes with it: where it is, and its name beside it.
    pub with: Vec<(PathBuf, Vec<u8>)>,
}

impl Source {
    fn file(path: PathBuf, rel: RelPath, meta: &std::fs::Metadata) -> Self {
        let key = key_of(&path, meta);
        Self { path, rel, size: meta.len(), key, shape: Shape::File, with: Vec::new() }
    }

    /// From now on this file comes with it, under this name.
    pub fn bring(&mut self, path: PathBuf, name: Vec<u8>) -> io::Result<()> {
        let meta = std::fs::metadata(&path)?;
        self.size = self.size.saturating_add(meta.len());
        self.key = both(self.key, key_of(&path, &meta));
        self.shape = Shape::main(&self.rel);
        self.with.push((path, name));
        Ok(())
    }
}

/// How bytes come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A reflink where the filesystem can, else a copy.
    Copy,
    /// A hard link: no bytes move, and the worker gets the source's own inode.
    Link,
}

/// Walks what the user named, in name order, telling each file once, and each folder for which `is_job`
/// holds instead of what is in it. What was named is such a folder itself where nothing below it is one.
///
/// Symbolic links to files count as files, links to folders are not entered. `entry` gets an error
/// for what cannot be read and says whether to go on.
pub fn walk(
    named: &Path,
    is_job: &dyn Fn(&Path, &RelPath) -> bool,
    entry: &mut dyn FnMut(Result<Source, String>) -> bool,
) -> Result<(), String> {
    let root =
        place_of(named).map_err(|error| format!("cannot read {}: {error}", named.display()))?;
    if let Some(rel) = is_one(&root, is_job) {
        entry(whole(&root, rel));
        return Ok(());
    }
    let mut walker =
        walkdir::WalkDir::new(&root).sort_by_file_name().follow_root_links(true).into_iter();
    while let Some(found) = walker.next() {
        let source = match found {
            Err(error) => Err(unread(&error)),
            Ok(found) if found.file_type().is_dir() => {
                let rel = rel_below(&root, found.path()).filter(|rel| is_job(found.path(), rel));
                let Some(rel) = rel else { continue };
                walker.skip_current_dir();
                whole(found.path(), rel)
            }
            Ok(found) => match describe(found.path(), &root) {
                None => continue,
                Some(source) => source,
            },
        };
        if !entry(source) {
            break;
        }
    }
    Ok(())
}

/// What a walk could not read, in the words that the system has for it.
fn unread(error: &walkdir::Error) -> String {
    match (error.path(), error.io_error()) {
        (Some(path), Some(why)) => format!("cannot read {}: {why}", path.display()),
        _ => format!("cannot read {error}"),
    }
}

/// Where it stands, always told in the same words. A link to a file keeps its own name: so it is called by
/// who named it.
pub fn place_of(named: &Path) -> io::Result<PathBuf> {
    match (named.file_name(), named.parent()) {
        (Some(name), Some(parent)) if std::fs::metadata(named)?.is_file() => {
            let here = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(std::fs::canonicalize(here)?.join(name))
        }
        _ => std::fs::canonicalize(named),
    }
}

/// The path of a folder that was named, as one job.
fn is_one(root: &Path, is_job: &dyn Fn(&Path, &RelPath) -> bool) -> Option<RelPath> {
    let rel = RelPath::new(root.file_name()?.as_bytes())?;
    if !root.is_dir() || !is_job(root, &rel) {
        return None;
    }
    let below = walkdir::WalkDir::new(root).min_depth(1).into_iter().filter_map(Result::ok);
    let mut folders = below.filter(|found| found.file_type().is_dir());
    let holds_one = folders
        .any(|found| rel_below(root, found.path()).is_some_and(|rel| is_job(found.path(), &rel)));
    (!holds_one).then_some(rel)
}

fn rel_below(root: &Path, path: &Path) -> Option<RelPath> {
    RelPath::new(path.strip_prefix(root).ok()?.as_os_str().as_bytes())
}

fn whole(path: &Path, rel: RelPath) -> Result<Source, String> {
    folder::describe(path, rel)
        .map_err(|error| format!("cannot take in {}: {error}", path.display()))
}

/// One file as a source, whatever its path below the spool is to be.
pub fn one(path: &Path, rel: RelPath) -> io::Result<Source> {
    // Its own name stays, also where it is a symbolic link: what comes with it is called by that.
    let path = std::path::absolute(path)?;
    let meta = std::fs::metadata(&path)?;
    Ok(Source::file(path, rel, &meta))
}

/// A folder that is one job, likewise.
pub fn whole_folder(path: &Path, rel: RelPath) -> io::Result<Source> {
    folder::describe(&std::fs::canonicalize(path)?, rel)
}

fn describe(path: &Path, root: &Path) -> Option<Result<Source, String>> {
    let below = path.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty());
    let rel = below.map_or_else(|| path.file_name(), |below| Some(below.as_os_str()));
    let rel = RelPath::new(rel?.as_bytes())?;
    match std::fs::metadata(path) {
        Err(error) => Some(Err(format!("cannot read {}: {error}", path.display()))),
        Ok(meta) if !meta.is_file() => None,
        Ok(meta) => Some(Ok(Source::file(path.to_owned(), rel, &meta))),
    }
}

/// The key of what is made of two, in whatever order.
fn both(one: SourceKey, other: SourceKey) -> SourceKey {
    let mut mixed = one.0;
    mixed.iter_mut().zip(other.0).for_each(|(byte, other)| *byte ^= other);
    SourceKey(mixed)
}

fn key_of(path: &Path, meta: &std::fs::Metadata) -> SourceKey {
    let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    SourceKey::of(path, meta.ino(), meta.len(), mtime_ns)
}

/// Brings a source into `processing/ID.in/REL`, with all that comes with it. Not durable when it returns;
/// the caller syncs a group.
///
/// `moved` is told the bytes copied so far of one file.
pub fn stage(
    processing: &Path,
    job: JobId,
    source: &Source,
    how: How,
    moved: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let parent = make_parent(processing, Place::Staging(job, source.shape), &source.rel)?;
    let target = parent.join(OsStr::from_bytes(source.rel.name()));
    if matches!(source.shape, Shape::Folder(_)) {
        return folder::bring(&source.path, &target, how, moved);
    }
    bring(&source.path, &target, how, moved)?;
    for (path, name) in &source.with {
        bring(path, &parent.join(OsStr::from_bytes(name)), how, moved)?;
    }
    Ok(())
}

/// Writes what a reader gives into `processing/ID.in/REL`. Not durable when it returns.
pub fn stage_reader(
    processing: &Path,
    job: JobId,
    rel: &RelPath,
    reader: &mut dyn io::Read,
) -> io::Result<()> {
    let parent = make_parent(processing, Place::Staging(job, Shape::File), rel)?;
    let target = parent.join(OsStr::from_bytes(rel.name()));
    let mut file = File::options().write(true).create_new(true).mode(0o640).open(target)?;
    io::copy(reader, &mut file).map(drop)
}

/// The folder that a copy is to stand in.
fn make_parent(processing: &Path, place: Place, rel: &RelPath) -> io::Result<PathBuf> {
    let folder = processing.join(place.name()).join(OsStr::from_bytes(rel.parent()));
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&folder)?;
    Ok(folder)
}

fn bring(from: &Path, to: &Path, how: How, moved: &mut dyn FnMut(u64)) -> io::Result<()> {
    match how {
        // Of a symbolic link, what it leads to.
        How::Link => {
            rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW).map_err(unlinked)
        }
        How::Copy => copy(from, to, moved),
    }
}

/// Why a source cannot be linked, where it could be copied.
fn unlinked(error: Errno) -> io::Error {
    match error {
        Errno::XDEV => io::Error::other("on another filesystem than the spool; leave --link out"),
        Errno::PERM => io::Error::other(
            "only its owner, or who may write to it, may link it; leave --link out",
        ),
        other => other.into(),
    }
}

fn copy(from: &Path, to: &Path, moved: &mut dyn FnMut(u64)) -> io::Result<()> {
    let source = File::open(from)?;
    let meta = source.metadata()?;
    let target = File::options().write(true).create_new(true).open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        copy_bytes(from, to, meta.len(), moved)?;
    }
    target.set_permissions(meta.permissions())?;
    target.set_times(std::fs::FileTimes::new().set_modified(meta.modified()?))
}

/// Above this many bytes a copy tells how far it is.
const TELLS_PROGRESS: u64 = 16 << 20;

fn copy_bytes(from: &Path, to: &Path, len: u64, moved: &mut dyn FnMut(u64)) -> io::Result<()> {
    let options = fs_extra::file::CopyOptions::new().overwrite(true).buffer_size(1 << 20);
    let copied = if len < TELLS_PROGRESS {
        fs_extra::file::copy(from, to, &options)
    } else {
        let tell = |state: fs_extra::file::TransitProcess| moved(state.copied_bytes);
        fs_extra::file::copy_with_progress(from, to, &options, tell)
    };
    copied.map(drop).map_err(|error| match error.kind {
        fs_extra::error::ErrorKind::Io(error) => error,
        // A write that was cut short: the next one says why. The copy goes in any case.
        _ => match File::options()
            .append(true)
            .open(to)
            .and_then(|mut to| to.write_all(&vec![0; 1 << 16]))
        {
            Err(why) => why,
            Ok(()) => io::Error::other(error.to_string()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what cannot be taken in is said in words that help. Method: a walk of a folder that is gone; a
    /// file of another filesystem that is to be linked.
    #[test]
    fn what_cannot_be_taken_in_says_why() {
        let temp = tempfile::tempdir().unwrap();
        let gone = temp.path().join("gone");
        let error = walkdir::WalkDir::new(&gone).into_iter().next().unwrap().unwrap_err();
        let said = unread(&error);
        assert!(said.starts_with(&format!("cannot read {}: No such", gone.display())), "{said}");
        let error = bring(Path::new("/proc/version"), &gone, How::Link, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("on another filesystem"), "{error}");
    }

    /// Goal: a copy has bytes, mode and mtime of its source, which is unchanged. Method: a read-only
    /// file with an old mtime in a folder, staged once as a copy and once as a link.
    #[test]
    fn copies_keep_bytes_mode_and_mtime() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let src = temp.path().join("src/sub");
        std::fs::create_dir_all(&src).unwrap();
        let file = src.join("a b");
        std::fs::write(&file, "bytes").unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o440)).unwrap();
        let before = std::fs::metadata(&file).unwrap();

        let mut sources = Vec::new();
        walk(&temp.path().join("src"), &|_, _| false, &mut |it| {
            sources.push(it.unwrap());
            true
        })
        .unwrap();
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].rel, RelPath::new("sub/a b").unwrap());
        let processing = temp.path().join("processing");
        let job = JobId::next(JobId::MIN, 1, [1; 10]);
        stage(&processing, job, &sources[0], How::Copy, &mut |_| ()).unwrap();
        let copy = processing.join(format!("{job}.in/sub/a b"));
        let meta = std::fs::metadata(&copy).unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), b"bytes");
        assert_eq!(meta.mode() & 0o777, 0o440);
        assert_eq!(meta.modified().unwrap(), old);
        assert_ne!(meta.ino(), before.ino());
        let after = std::fs::metadata(&file).unwrap();
        assert_eq!(
            (after.ino(), after.mtime(), after.ctime()),
            (before.ino(), before.mtime(), before.ctime())
        );

        let job = JobId::next(job, 2, [1; 10]);
        stage(&processing, job, &sources[0], How::Link, &mut |_| ()).unwrap();
        let linked = std::fs::metadata(processing.join(format!("{job}.in/sub/a b"))).unwrap();
        assert_eq!(linked.ino(), before.ino());
    }
}
