//! A folder that is one job, looked through and copied whole.
//!
//! Must not know: why it is one job, what is in its files.
//!
//! Invariants
//! - What is taken in is what a worker may get: files and folders. A link to a file counts as the file; what is
//!   neither makes all of it unfit, so that no half of a set is ever a job.
//! - A copied folder has its source's mode and time, and its owner's rights, without which it cannot be moved.

use std::fs::{File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{How, Source, both, key_of};
use crate::core::RelPath;
use crate::spool::Shape;

/// The rights without which a folder can be neither moved nor emptied.
const OWNER: u32 = 0o700;

/// The folder as a source: another one as soon as any of its files is.
pub(super) fn describe(path: &Path, rel: RelPath) -> io::Result<Source> {
    let meta = std::fs::metadata(path)?;
    let shape = Shape::folder(&rel);
    let mut source = Source { shape, ..Source::file(path.to_owned(), rel, &meta) };
    source.size = 0;
    look_through(path, &mut |at, meta| {
        if at != path {
            source.key = both(source.key, key_of(at, meta));
        }
        if meta.is_file() {
            source.size = source.size.saturating_add(meta.len());
        }
        Ok(())
    })?;
    Ok(source)
}

/// Copies or links all of it to a name that is free.
pub(super) fn bring(
    from: &Path,
    to: &Path,
    how: How,
    moved: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut folders: Vec<(PathBuf, u32, SystemTime)> = Vec::new();
    look_through(from, &mut |path, meta| {
        let target: PathBuf =
            to.iter().chain(path.strip_prefix(from).into_iter().flatten()).collect();
        if !meta.is_dir() {
            return super::bring(path, &target, how, moved);
        }
        std::fs::DirBuilder::new().mode(OWNER).create(&target)?;
        folders.push((target, meta.permissions().mode(), meta.modified()?));
        Ok(())
    })?;
    // The deepest first: what is made in a folder changes its time.
    for (folder, mode, modified) in folders.into_iter().rev() {
        let folder = File::open(folder)?;
        folder.set_permissions(Permissions::from_mode(mode & 0o7777 | OWNER))?;
        folder.set_times(FileTimes::new().set_modified(modified))?;
    }
    Ok(())
}

/// Tells the folder and all that is in it, a folder before what is in that.
fn look_through(
    folder: &Path,
    visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>,
) -> io::Result<()> {
    for found in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let found = found.map_err(io::Error::from)?;
        let meta = std::fs::metadata(found.path())?;
        if !(meta.is_file() || found.file_type().is_dir()) {
            let what = format!("{} is neither a file nor a folder", found.path().display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        visit(found.path(), &meta)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::JobId;
    use crate::spool::Place;
    use crate::spool::import::{stage, walk};
    use std::os::unix::fs::{MetadataExt, symlink};

    fn rel(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    /// A folder with a file, a link to one, and a closed folder in it.
    fn made() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let set = temp.path().join("src/sub/set-1");
        std::fs::create_dir_all(set.join("deep")).unwrap();
        std::fs::write(set.join("a"), "one").unwrap();
        std::fs::write(set.join("deep/b"), "two").unwrap();
        symlink("../a", set.join("deep/link")).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(set.join("deep")).unwrap().set_modified(old).unwrap();
        std::fs::set_permissions(set.join("deep"), Permissions::from_mode(0o550)).unwrap();
        (temp, set)
    }

    /// Goal: a folder is one source, and its copy has all that is in it, with modes and times. Method: one
    /// folder deep, with a folder that nobody may write into; copied, and linked.
    #[test]
    fn a_folder_is_copied_whole() {
        let (temp, set) = made();
        let mut sources = Vec::new();
        let is_job = |_: &Path, rel: &RelPath| rel.name().starts_with(b"set-");
        walk(&temp.path().join("src"), &is_job, &mut |it| {
            sources.push(it.unwrap());
            true
        })
        .unwrap();
        let [source] = &sources[..] else { panic!("{sources:?}") };
        assert_eq!((source.rel.clone(), source.size), (rel("sub/set-1"), 9));
        assert_eq!(source.shape, Shape::Folder(2));
        for how in [How::Copy, How::Link] {
            let job = JobId::next(JobId::MIN, 1 + how as u64, [1; 10]);
            stage(&temp.path().join("processing"), job, source, how, &mut |_| ()).unwrap();
            let place = Place::Staging(job, source.shape).name();
            assert!(place.ends_with(".in.d2"), "{place}");
            let copy = temp.path().join("processing").join(place).join("sub/set-1");
            assert_eq!(std::fs::read(copy.join("a")).unwrap(), b"one");
            assert_eq!(std::fs::read(copy.join("deep/b")).unwrap(), b"two");
            let (meta, old) = (|at: &Path| std::fs::metadata(at.join("deep")).unwrap(), &set);
            assert_eq!(meta(&copy).mode() & 0o777, 0o750);
            assert_eq!(meta(&copy).modified().unwrap(), meta(old).modified().unwrap());
            let ino = |at: &Path| std::fs::metadata(at.join("a")).unwrap().ino();
            assert_eq!(ino(&copy) == ino(&set), how == How::Link);
        }
    }

    /// Goal: a folder is another source as soon as anything in it is another, and nothing of it is taken that
    /// no worker may get. Method: the same, a file changed, one gone; a link to a folder, a link to nothing.
    #[test]
    fn a_folder_is_known_by_its_files() {
        let (_temp, set) = made();
        let key = || describe(&set, rel("set-1")).unwrap().key;
        let first = key();
        assert_eq!(key(), first);
        std::fs::write(set.join("deep/b"), "three").unwrap();
        let second = key();
        assert_ne!(second, first);
        rustix::fs::unlink(set.join("a")).unwrap();
        std::fs::write(set.join("c"), "link points there no more").unwrap();
        assert!(describe(&set, rel("set-1")).is_err(), "a link to nothing");
        std::fs::write(set.join("a"), "one").unwrap();
        assert_ne!(key(), second);
        symlink("deep", set.join("folder")).unwrap();
        let error = describe(&set, rel("set-1")).unwrap_err();
        assert!(
            error.to_string().ends_with("set-1/folder is neither a file nor a folder"),
            "{error}"
        );
    }
}
