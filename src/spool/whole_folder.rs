//! Jobs of more than one file: a folder that is one job, a file that came with others. S1 → S2.
//!
//! Must not know: routes, what is in the folder. Nothing below it is opened here.
//!
//! Invariants
//! - The place of a folder is `ID.N.dK/REL`, where REL has K components, that of a file with companions
//!   `ID.N.wM/REL`, where M is a checksum of REL: so what the job is about is told from what stands beside it
//!   by the name alone, whatever the settings say by then, and whichever is older.
//! - The folders of such a claim are made for it and go with it; they are not used again for another one
//!   ([`super::folders`] keeps none). So the id in the name is always the job's own.
//! - A claim is made durable by [`Spool::sync_claim`] before its first attempt begins: a worker may
//!   change the folder, after which a power cut that undid the claim could not be told by its ctime. What
//!   was handed in needs none: it never stood in `incoming/`, and the journal knows it by its id.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::core::RelPath;
use crate::fs::{FileType, Filesystem, Lease, Stat};
use crate::journal::record::FileMark;

use super::claim::{Claim, ClaimedFile, gone_or_refused};
use super::{Claimed, Place, Shape, Spool};

impl<F: Filesystem> Spool<F> {
    /// Renames the folder `incoming/REL` to `processing/ID.N.dK/REL`. Moves S1 to S2.
    pub fn claim_folder(&self, rel: &RelPath, claimed: Claimed) -> Claim {
        match self.try_claim_folder(rel, claimed) {
            Ok(folder) => Claim::Made(folder),
            Err(error) => {
                // What was made for it is empty.
                self.remove_way(rel, claimed);
                gone_or_refused(error)
            }
        }
    }

    fn try_claim_folder(&self, rel: &RelPath, claimed: Claimed) -> io::Result<ClaimedFile> {
        let from = self.open_incoming_parent(rel)?;
        let name = Path::new(OsStr::from_bytes(rel.name()));
        let before = self.fs.stat(&from, name)?;
        if before.file_type != FileType::Dir {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let to = self.make_job_folder(rel, claimed)?;
        self.fs.rename(&from, name, &to, name)?;
        let stat = match self.fs.stat(&to, name) {
            Ok(stat) => stat,
            // Nobody would know of it until the next start: it goes back, or it is what it was.
            Err(error) => match self.fs.rename(&to, name, &from, name) {
                Ok(()) => return Err(error),
                Err(_) => before,
            },
        };
        // Swapped between the look and the rename: it goes back. Where its name is taken by now, it is set
        // aside as it is.
        if stat.file_type != FileType::Dir && self.fs.rename(&to, name, &from, name).is_ok() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mark = FileMark {
            ino: stat.ino,
            btime_ns: stat.btime_ns,
            before_ns: before.ctime_ns,
            after_ns: stat.ctime_ns,
        };
        Ok(ClaimedFile { mark, stat, lease: Lease::Unknown })
    }

    /// The folder of `incoming/` that a name stands in.
    pub fn open_incoming_parent(&self, rel: &RelPath) -> io::Result<F::Dir> {
        match rel.parent() {
            [] => Ok(self.incoming.clone()),
            parent => self.fs.open_dir(&self.incoming, Path::new(OsStr::from_bytes(parent))),
        }
    }

    /// Removes the empty folders that were made for a claim, and nothing that holds anything.
    pub fn remove_way(&self, rel: &RelPath, claimed: Claimed) {
        let job = PathBuf::from(Place::Job(claimed).name());
        let way = job.join(OsStr::from_bytes(rel.parent()));
        for folder in way.ancestors().take(rel.components().count()) {
            // Not all of them need have been made. What cannot go now the next start removes.
            drop(self.fs.remove_dir(&self.processing, folder));
        }
    }

    /// The folder that a claim is about, at recovery: of all at its depth the oldest, since what else
    /// stands there was made by its worker. `None`: it is not there any more.
    fn folder_of(&self, claimed: Claimed) -> io::Result<Option<(RelPath, Stat)>> {
        let job = PathBuf::from(Place::Job(claimed).name());
        let mut level: Vec<Vec<u8>> = vec![Vec::new()];
        let mut best: Option<(RelPath, Stat)> = None;
        for depth in 1..=claimed.levels() {
            let mut next = Vec::new();
            for folder in &level {
                for (rel, stat) in self.names_in(&job, folder)? {
                    if stat.file_type != FileType::Dir {
                        continue;
                    }
                    if depth < claimed.levels() {
                        next.push(rel);
                    } else if best.as_ref().is_none_or(|(_, old)| stat.btime_ns < old.btime_ns) {
                        best = RelPath::new(rel).map(|rel| (rel, stat)).or(best);
                    }
                }
            }
            level = next;
        }
        Ok(best)
    }

    /// What a claim is about whose place is its own; `None`: it is not there any more.
    pub fn input_of(&self, claimed: Claimed) -> io::Result<Option<(RelPath, Stat)>> {
        if claimed.is_folder() {
            return self.folder_of(claimed);
        }
        let mut files = self.files_of(claimed)?.into_iter();
        Ok(files.find(|(rel, _)| Shape::main(rel) == claimed.shape))
    }

    /// Gives the folders that lead to a claimed folder, and that itself, their owner's rights back, which
    /// its worker may have taken. Those below it are its producer's and stay as they are.
    pub fn open_up_folder(&self, claimed: Claimed) -> io::Result<()> {
        let mut level = vec![PathBuf::from(Place::Job(claimed).name())];
        for depth in 0..=claimed.levels() {
            let mut next = Vec::new();
            for path in level {
                match self.fs.stat(&self.processing, &path) {
                    Ok(stat) if stat.mode & 0o700 != 0o700 => {
                        match self.fs.open_up(&self.processing, &path) {
                            // Another user's: whoever moves it next says so.
                            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                            other => other?,
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => drop(other?),
                }
                if depth == claimed.levels() {
                    continue;
                }
                let dir = self.fs.open_dir(&self.processing, &path)?;
                for entry in self.fs.list(&dir)? {
                    let name = entry?.name;
                    if self.fs.stat(&dir, Path::new(&name))?.file_type == FileType::Dir {
                        next.push(path.join(name));
                    }
                }
            }
            level = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::JobId;
    use crate::fs::RealFs;
    use crate::fs::faults::{Faults, Op, Then};

    /// Goal: a claim that is refused again and again leaves nothing in `processing/` each time. Method: the
    /// rename of a folder at the top and of one further down is refused.
    #[test]
    fn refused_folders_fill_no_processing() {
        for rel in ["set", "sub/deep/set"] {
            let home = tempfile::tempdir().unwrap();
            let fs = Faults::new(RealFs);
            let spool = Spool::open(fs.clone(), RealFs.open_root(home.path()).unwrap()).unwrap();
            let rel = RelPath::new(rel).unwrap();
            std::fs::create_dir_all(home.path().join("incoming").join(rel.as_path())).unwrap();
            let job = JobId::next(JobId::MIN, 1, [1; 10]);
            let claimed = Claimed { job, begun: 1, shape: Shape::folder(&rel) };
            fs.arm_for(|op| op == Op::Rename, 1, rustix::io::Errno::ACCESS, Then::Works);
            let claim = spool.claim_folder(&rel, claimed);
            assert!(matches!(claim, Claim::Refused(_)), "{rel}");
            let left = std::fs::read_dir(home.path().join("processing")).unwrap().count();
            assert_eq!(left, 0, "{rel}");
        }
    }
}
