//! Made files that become jobs of another route: listed for the record that says so, moved after it.
//!
//! Must not know: which route gets them, or why.
//!
//! Invariants
//! - A file is moved only after the record that gives it its job is durable; all moves may be done again.
//! - What is handed over is a regular file. Links and the like stay, and go to `output/`; so does what was mounted
//!   there, and what lies too deep for any path.
//! - Its new path begins with the path of the file that it was made from, whose name gets `.made`: in
//!   `done/` a file and a folder cannot have one name.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::core::{JobId, RelPath};
use crate::fs::{self, FileType, Filesystem};

use super::names::NAME_MAX;
use super::{Claimed, Place, Spool};

/// Behind the name of the file that others were made from.
const MADE: &[u8] = b".made";
/// Who may move everything.
const ROOT: u32 = 0;
/// The longest path of a job, in bytes: with a folder of ours before it, the system's own is 4096.
const LONGEST: usize = 3072;

/// Too many files, or too long paths: how many, or which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// More than may be handed over at once.
    Many,
    /// A path that no job can have.
    Long(RelPath),
    /// In a folder that its worker made as another user, who alone may move what is in it.
    Foreign(RelPath),
    /// Immutable or append-only, or in such a folder: nobody may move it.
    Fixed(RelPath),
}

/// The path of a made file as a job: `a/x.pdf` made `p/1.png`, which is `a/x.pdf.made/p/1.png`.
pub fn rel_of_made(rel: &RelPath, made: &RelPath) -> Option<RelPath> {
    let mut path = rel.parent().to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    let name = rel.name();
    path.extend_from_slice(name.get(..NAME_MAX - MADE.len()).unwrap_or(name));
    path.extend_from_slice(MADE);
    path.push(b'/');
    path.extend_from_slice(made.as_bytes());
    RelPath::new(path).filter(|path| path.as_bytes().len() <= LONGEST)
}

impl<F: Filesystem> Spool<F> {
    /// The regular files that an attempt made, sorted, each with its path as a job; at most so many, of
    /// so many bytes in all.
    pub fn made_files(
        &self,
        claimed: Claimed,
        rel: &RelPath,
        most: (usize, usize),
    ) -> io::Result<Result<Vec<(RelPath, RelPath)>, Unfit>> {
        let name = Place::Output(claimed).name();
        let folder = match self.fs.open_dir(&self.processing, Path::new(&name)) {
            // The worker removed it, or gave it to another user: nobody can look into it.
            Err(error) if fs::is_gone_or_closed(&error) => return Ok(Ok(Vec::new())),
            other => other?,
        };
        let ours = self.fs.stat(&self.processing, Path::new("."))?.uid;
        let mut made = Vec::new();
        let mut unfit = None;
        let mut failed = Ok(());
        // What is mounted there was not made, and moves nowhere.
        let is_own = |path: &Path| {
            let opened = self.fs.open_own_dir(&folder, path);
            !opened.is_err_and(|error| fs::is_in_use(&error))
        };
        fs::walk_files(&self.fs, &folder, &is_own, &mut |dir, name, path| {
            let (is_file, is_fixed) = match self.fs.stat(dir, name) {
                Ok(stat) => (stat.file_type == FileType::File && !stat.is_mounted, stat.is_fixed),
                // What a process that the worker left takes away meanwhile was not made.
                Err(error) if error.kind() == io::ErrorKind::NotFound => (false, false),
                Err(error) => {
                    failed = Err(error);
                    return false;
                }
            };
            let file = RelPath::new(path.as_os_str().as_bytes()).filter(|_| is_file);
            let Some(file) = file else { return true };
            match self.fs.stat(dir, Path::new(".")) {
                Ok(stat) if ours != ROOT && stat.uid != ours => unfit = Some(Unfit::Foreign(file)),
                Ok(stat) if is_fixed || stat.is_fixed => unfit = Some(Unfit::Fixed(file)),
                Ok(_) => made.push(file),
                Err(error) => failed = Err(error),
            }
            failed.is_ok() && unfit.is_none() && made.len() <= most.0
        })?;
        failed?;
        if let Some(unfit) = unfit {
            return Ok(Err(unfit));
        }
        made.sort();
        let mut files = Vec::new();
        let mut bytes = 0;
        for made in made {
            let Some(rel) = rel_of_made(rel, &made) else { return Ok(Err(Unfit::Long(made))) };
            bytes += rel.as_bytes().len() + made.as_bytes().len();
            files.push((made, rel));
        }
        let is_fit = files.len() <= most.0 && bytes <= most.1;
        Ok(if is_fit { Ok(files) } else { Err(Unfit::Many) })
    }

    /// Moves a made file to `ID.0/REL` of the job that it becomes. Done before is fine, also where a process that
    /// the worker left has made another of that name since; so is one that such a process took away.
    pub fn hand_over(
        &self,
        from: Claimed,
        made: &RelPath,
        job: JobId,
        rel: &RelPath,
    ) -> io::Result<()> {
        use io::ErrorKind::{AlreadyExists, NotFound};
        let old = Path::new(&Place::Output(from).name()).join(made.as_path());
        match self.fs.stat(&self.processing, &old) {
            Err(error) if error.kind() == NotFound => return Ok(()),
            other => other?,
        };
        let folder = Path::new(&Place::Job(Claimed::file(job, 0)).name())
            .join(OsStr::from_bytes(rel.parent()));
        let dir = fs::make_dirs(&self.fs, &self.processing, &folder, 0o750)?;
        let name = Path::new(OsStr::from_bytes(rel.name()));
        match self.fs.rename(&self.processing, &old, &dir, name) {
            Err(error) if matches!(error.kind(), NotFound | AlreadyExists) => Ok(()),
            other => other,
        }
    }

    /// Removes what an attempt made where only folders are left of it. One of another user's, that we can neither
    /// look into nor empty, stays, with all that is in it.
    pub fn clear_handed(&self, claimed: Claimed) -> io::Result<()> {
        let name = Place::Output(claimed).name();
        let folder = match self.fs.open_dir(&self.processing, Path::new(&name)) {
            Err(error) if fs::is_gone_or_closed(&error) => return Ok(()),
            other => other?,
        };
        let mut is_empty = true;
        let is_all = fs::walk_files(&self.fs, &folder, &|_| true, &mut |_, _, _| {
            is_empty = false;
            false
        })?;
        if !(is_empty && is_all) {
            return Ok(());
        }
        match self.clear_output(claimed) {
            // Something is mounted there, or a process that the worker left makes files: it goes to `output/`.
            Err(error) if fs::is_gone_or_closed(&error) || fs::is_in_use(&error) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::fs::RealFs;
    use crate::fs::faults::{Faults, Op, Then};

    /// Goal: a process that a worker left, and that writes on, does not keep every start from its end.
    /// Method: a made file is handed over, stands there again, and is handed over again; then one is gone.
    #[test]
    fn what_is_made_again_is_handed_over_once() {
        let home = tempfile::tempdir().unwrap();
        let spool = Spool::open(RealFs, RealFs.open_root(home.path()).unwrap()).unwrap();
        let from = Claimed::file(JobId::MIN, 1);
        let made = home.path().join("processing").join(Place::Output(from).name());
        std::fs::create_dir(&made).unwrap();
        let job = JobId::next(JobId::MIN, 1, [3; 10]);
        let [name, rel] = ["t", "x.made/t"].map(|text| RelPath::new(text).unwrap());
        for text in ["first", "second"] {
            std::fs::write(made.join("t"), text).unwrap();
            spool.hand_over(from, &name, job, &rel).unwrap();
        }
        let handed = Path::new("processing").join(Place::Job(Claimed::file(job, 0)).name());
        assert_eq!(std::fs::read(home.path().join(handed).join("x.made/t")).unwrap(), b"first");
        assert_eq!(std::fs::read(made.join("t")).unwrap(), b"second");
        let gone = Path::new(&Place::Output(from).name()).join("t");
        RealFs.remove_file(&spool.processing, &gone).unwrap();
        spool.hand_over(from, &name, job, &rel).unwrap();
    }

    /// Goal: what cannot be handed over is not taken for nothing: it stays, and goes to `output/`. Method: a file
    /// deeper than is walked; no descriptor for the folder of a file; then neither.
    #[test]
    fn what_was_not_seen_is_not_removed() {
        let home = tempfile::tempdir().unwrap();
        let fs = Faults::new(RealFs);
        let spool = Spool::open(fs.clone(), RealFs.open_root(home.path()).unwrap()).unwrap();
        let from = Claimed::file(JobId::MIN, 1);
        let made = home.path().join("processing").join(Place::Output(from).name());
        let deep = made.join(vec!["d"; fs::WALK_DEPTH + 1].join("/"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f"), "x").unwrap();
        spool.clear_handed(from).unwrap();
        assert!(deep.join("f").exists());

        let below = made.join("d");
        fs::remove_tree(&RealFs, &spool.processing, Path::new(&Place::Output(from).name()))
            .unwrap();
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join("f"), "x").unwrap();
        let x = RelPath::new("x").unwrap();
        fs.arm_for(|op| op == Op::OpenDir, 2, Errno::MFILE, Then::Works);
        spool.clear_handed(from).unwrap_err();
        fs.arm_for(|op| op == Op::List, 2, Errno::MFILE, Then::Works);
        spool.made_files(from, &x, (9, 999)).unwrap_err();
        fs.disarm();
        spool.clear_handed(from).unwrap();
        assert!(below.join("f").exists());
        assert_eq!(spool.made_files(from, &x, (9, 999)).unwrap().unwrap().len(), 1);
    }

    /// Goal: a made file has a path that says what it was made from, and one that a folder can have.
    /// Method: a plain name, one of 255 bytes, one that is too deep.
    #[test]
    fn made_files_are_named_after_their_origin() {
        let rel = |text: &str| RelPath::new(text).unwrap();
        let of = |rel_: &str, made: &str| rel_of_made(&rel(rel_), &rel(made));
        assert_eq!(of("a/x.pdf", "p/1.png"), Some(rel("a/x.pdf.made/p/1.png")));
        let long = of(&"x".repeat(255), "y").unwrap();
        assert!(long.components().all(|part| part.len() <= 255), "{long}");
        assert_eq!(of("x", &"d/".repeat(2000).replace("//", "/")[..3999]), None);
    }

    /// Goal: a folder of another user's with nothing to hand over in it is no reason to refuse, and the file that is
    /// named where there is one stands there. Method: links only beside a file of ours; then a file, too.
    #[test]
    fn only_files_in_anothers_folder_are_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make another user's folder");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let spool = Spool::open(RealFs, RealFs.open_root(home.path()).unwrap()).unwrap();
        let from = Claimed::file(JobId::MIN, 1);
        let made = home.path().join("processing").join(Place::Output(from).name());
        std::fs::create_dir_all(made.join("theirs")).unwrap();
        for ours in [home.path().join("processing"), made.clone()] {
            std::os::unix::fs::chown(ours, Some(65534), None).unwrap();
        }
        // So many that one is found before the other folder, whatever order they are listed in.
        let names: Vec<String> = (10..40).map(|n| n.to_string()).collect();
        for name in &names {
            std::fs::write(made.join(name), "x").unwrap();
        }
        for link in ["a", "b"] {
            std::os::unix::fs::symlink("../10", made.join("theirs").join(link)).unwrap();
        }
        let rel = |text: &str| RelPath::new(text).unwrap();
        let look = || spool.made_files(from, &rel("x"), (99, 9999)).unwrap();
        let all = names.iter().map(|name| (rel(name), rel(&format!("x.made/{name}"))));
        assert_eq!(look(), Ok(all.collect()));
        std::fs::write(made.join("theirs/c"), "x").unwrap();
        assert_eq!(look(), Err(Unfit::Foreign(rel("theirs/c"))));
    }
}
