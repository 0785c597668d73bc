//! A file in `error/`, and the sidecar that says why it is there.
//!
//! Must not know: which file is meant. It looks, and changes nothing.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::SpoolArg;
use crate::config::limits;
use crate::core::{JobId, RelPath};
use crate::daemon::history::JobLine;
use crate::daemon::notice::Why;
use crate::fs::{FileType, Filesystem, RealFs, real::RealDir, walk_files};
use crate::spool::names;

/// A file in `error/`.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// Its path below `error/`.
    pub(crate) at: RelPath,
    /// Why, if there is a sidecar that can be read.
    pub(crate) why: Option<Why>,
    /// The sidecar below `error/.why/`, and its inode.
    pub(crate) sidecar: Option<(PathBuf, u64)>,
    /// The file was written since it failed.
    pub(crate) is_changed: bool,
}

impl Failure {
    /// What stands at a path below `error/`.
    pub(crate) fn at(spool: &SpoolArg, at: &RelPath) -> Option<Self> {
        let error = RealFs.open_root(&spool.path.join("error")).ok()?;
        let file = RealFs.stat(&error, at.as_path()).ok()?;
        if at.as_bytes().starts_with(b".why/") {
            return None;
        }
        let mut found = Self { at: at.clone(), why: None, sidecar: None, is_changed: false };
        let Ok(folder) = RealFs.open_dir(&error, Path::new(".why")) else {
            return (file.file_type != FileType::Dir).then_some(found);
        };
        if let Some((path, why)) = sidecar(&folder, at)
            && let Ok(stat) = RealFs.stat(&folder, &path)
        {
            // A sidecar is written just before its file is moved.
            found.is_changed = file.mtime_ns > stat.mtime_ns;
            found.sidecar = Some((path, stat.ino));
            found.why = Some(why);
        }
        // What failed may be a folder; one in which failed files stand has not failed itself.
        let is_folder = file.file_type == FileType::Dir;
        let has_failed = found.is_folder();
        (is_folder == has_failed).then_some(found)
    }

    /// The reason of what stood at a path below `error/` and does so no more.
    pub(crate) fn gone(spool: &SpoolArg, at: &RelPath) -> Option<Self> {
        let error = RealFs.open_root(&spool.path.join("error")).ok()?;
        if RealFs.stat(&error, at.as_path()).is_ok() {
            return None;
        }
        let folder = RealFs.open_dir(&error, Path::new(".why")).ok()?;
        let (path, why) = sidecar(&folder, at)?;
        let ino = RealFs.stat(&folder, &path).ok()?.ino;
        let (at, why, sidecar) = (at.clone(), Some(why), Some((path, ino)));
        Some(Self { at, why, sidecar, is_changed: false })
    }

    /// The reasons below `error/.why/` that are older than this and of no file, each with its inode.
    pub(crate) fn stale(spool: &SpoolArg, before: SystemTime) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut look = || -> io::Result<()> {
            let error = RealFs.open_root(&spool.path.join("error"))?;
            let folder = RealFs.open_dir(&error, Path::new(".why"))?;
            let before = before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let before = i64::try_from(before.as_nanos()).unwrap_or(i64::MAX);
            walk_files(&RealFs, &folder, &|_| true, &mut |dir, name, path| {
                if let Ok(stat) = RealFs.stat(dir, name)
                    && stat.ctime_ns < before
                    && path.extension().is_some_and(|it| it == "json")
                    && let Err(gone) = RealFs.stat(&error, &path.with_extension(""))
                    && gone.kind() == io::ErrorKind::NotFound
                    && let Some(why) = read_why(&folder, path)
                    && beside(&error, path, why.job).is_none()
                {
                    found.push((path.to_owned(), stat.ino));
                }
                true
            })
            .map(drop)
        };
        // What cannot be looked through keeps its reasons.
        if look().is_ok() { found } else { Vec::new() }
    }

    /// What stands in `error/` of this job, where it was put.
    pub(crate) fn of(spool: &SpoolArg, line: &JobLine) -> Option<Self> {
        Self::at(spool, &Self::logged(line)?).filter(|found| found.is_of(line))
    }

    /// What stands in `error/` of the one job whose id begins so, by the sidecars alone: a job log may be gone,
    /// and has no line yet of a failure that is being settled.
    pub(crate) fn of_id(spool: &SpoolArg, prefix: &str) -> Option<Self> {
        let error = RealFs.open_root(&spool.path.join("error")).ok()?;
        let folder = RealFs.open_dir(&error, Path::new(".why")).ok()?;
        let mut found = Vec::new();
        let walked = walk_files(&RealFs, &folder, &|_| true, &mut |_, _, path| {
            let why = read_why(&folder, path).filter(|why| begins(why.job, prefix));
            found.extend(why.map(|why| (path.to_owned(), why.job)));
            true
        });
        let ([(path, job)], Ok(_)) = (found.as_slice(), walked) else { return None };
        RelPath::new(beside(&error, path, *job)?.as_os_str().as_bytes())
            .and_then(|at| Self::at(spool, &at))
    }

    /// The path below `error/` that a job was given.
    pub(crate) fn logged(line: &JobLine) -> Option<RelPath> {
        line.place.as_ref()?.0.as_bytes().strip_prefix(b"error/").and_then(RelPath::new)
    }

    /// Nothing says that it is another job's.
    pub(crate) fn is_of(&self, line: &JobLine) -> bool {
        self.why.as_ref().is_none_or(|why| why.job == line.job)
    }

    /// It is a folder that is one job.
    pub(crate) fn is_folder(&self) -> bool {
        self.why.as_ref().is_some_and(|why| why.folder)
    }

    /// The path that it had below `incoming/`.
    pub(crate) fn original(&self) -> RelPath {
        self.why.as_ref().map_or_else(|| self.at.clone(), |why| why.rel.0.clone())
    }
}

/// Where what this reason is about stands, below `error/`.
fn beside(error: &RealDir, sidecar: &Path, job: JobId) -> Option<PathBuf> {
    let parent = sidecar.parent().unwrap_or_else(|| Path::new(""));
    let is_its = |name: &OsStr| Some(names::sidecar(name, job).as_os_str()) == sidecar.file_name();
    let beside = match parent.as_os_str() {
        parent if parent.is_empty() => RealFs.list(error),
        _ => RealFs.open_dir(error, parent).and_then(|dir| RealFs.list(&dir)),
    };
    let found = beside.ok()?.filter_map(Result::ok).find(|entry| is_its(&entry.name))?;
    Some(parent.join(found.name))
}

fn begins(job: JobId, prefix: &str) -> bool {
    job.to_string().starts_with(prefix)
}

/// The sidecar of a file, and what it says.
fn sidecar(folder: &RealDir, at: &RelPath) -> Option<(PathBuf, Why)> {
    let parent = Path::new(OsStr::from_bytes(at.parent()));
    let name = OsStr::from_bytes(at.name());
    let plain = parent.join(names::sidecar(name, JobId::MIN));
    if let Some(why) = read_why(folder, &plain) {
        return Some((plain, why));
    }
    // A name near the limit has the job's id in that of its sidecar.
    if name.len() + ".json".len() <= names::NAME_MAX {
        return None;
    }
    let list = match at.parent() {
        [] => RealFs.list(folder),
        _ => RealFs.open_dir(folder, parent).and_then(|dir| RealFs.list(&dir)),
    };
    list.ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = parent.join(&entry.name);
        let why = read_why(folder, &path)?;
        (names::sidecar(name, why.job) == entry.name).then_some((path, why))
    })
}

fn read_why(folder: &RealDir, path: &Path) -> Option<Why> {
    let file = RealFs.open(folder, path, false).ok()?;
    let size = RealFs.stat_file(&file).ok()?.size;
    let mut bytes = vec![0; usize::try_from(size.min(limits::SIDECAR)).unwrap_or(0)];
    let len = RealFs.read_at(&file, 0, &mut bytes).ok()?;
    serde_json::from_slice(bytes.get(..len)?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use super::*;
    use crate::cli::target::tests::spool;
    use crate::cli::target::{Tree, path_in};
    use crate::journal::record::Rel;

    /// Goal: the reason of any failed file is found, also by its id, and whether it was changed since.
    /// Method: plain, in a folder, not UTF-8, and so long that its sidecar's name holds the id.
    #[test]
    fn reasons_are_found_for_any_name() {
        let (temp, spool) = spool();
        let names = [&b"x.json"[..], b"a/b", b"\xff\n", &[b'y'; 255]];
        for (ms, name) in (9..).zip(names) {
            let job = JobId::next(JobId::MIN, ms, [1; 10]);
            let at = RelPath::new(name).unwrap();
            let why = temp.path().join("error/.why").join(at.as_path());
            let sidecar = why.with_file_name(names::sidecar(OsStr::from_bytes(at.name()), job));
            std::fs::create_dir_all(sidecar.parent().unwrap()).unwrap();
            let text = serde_json::json!({
                "job": job, "rel": Rel(at.clone()), "route": "r", "reason": "no", "attempts": 1,
                "exit": 1, "signal": null, "time": "2026-11-22T14:02:11Z", "took_ms": 4, "stderr": "",
            });
            std::fs::write(&sidecar, text.to_string()).unwrap();
            assert!(Failure::at(&spool, &at).is_none(), "its file is not there: {at}");
            assert_eq!(Failure::gone(&spool, &at).map(|it| it.original()), Some(at.clone()));
            let stale = || Failure::stale(&spool, SystemTime::now() + Duration::from_secs(9)).len();
            assert_eq!((stale(), Failure::stale(&spool, SystemTime::UNIX_EPOCH).len()), (1, 0));
            let file = path_in(&spool, Tree::Error, &at);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "").unwrap();
            let old = std::fs::File::options().write(true).open(&file).unwrap();
            old.set_modified(std::time::UNIX_EPOCH).unwrap();

            let found = Failure::at(&spool, &at).unwrap();
            assert!(
                !found.is_changed && stale() == 0 && Failure::gone(&spool, &at).is_none(),
                "{at}"
            );
            let by_id = Failure::of_id(&spool, &job.to_string());
            assert_eq!(by_id.map(|it| it.at), Some(at.clone()));
            assert_eq!((found.original(), found.why.unwrap().job), (at.clone(), job));
            let ino = std::fs::metadata(&sidecar).unwrap().ino();
            assert_eq!(found.sidecar.map(|(_, ino)| ino), Some(ino));
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
            old.set_modified(later).unwrap();
            assert!(Failure::at(&spool, &at).unwrap().is_changed, "{at}");
        }
    }
}
