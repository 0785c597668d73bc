//! What was handed in: a copy under a staging name becomes a job, or goes.
//!
//! Must not know: who copied it, or from where.
//!
//! Invariants
//! - A copy becomes a job only as what its staging name says that it is: recovery has nothing else to go by.
//! - A copy that is not there, since who speaks on the socket is wrong or somebody tidied up, is no job: it is looked
//!   for before its `Take` is written, and once more when that is durable.
//! - What becomes of one copy ends no daemon.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{JobInfo, Keeper, KeeperError, Output, Staged};
use crate::core::state::{Event, Millis};
use crate::core::{JobId, RelPath};
use crate::daemon::notice::Notice;
use crate::daemon::recover::{mark_unstaged, unstage};
use crate::fs::{FileType, Filesystem, remove_tree};
use crate::journal::record::{FileMark, Record, Rel, Take};
use crate::spool::{Place, Shape};

impl<F: Filesystem> Keeper<F> {
    /// Makes it a job, as far as the journal: it is one once that is durable.
    pub(super) fn take_in(&mut self, staged: Staged, now: Millis) -> Result<(), KeeperError> {
        let is_folder = matches!(staged.shape, Shape::Folder(_));
        let rel = &staged.rel;
        if is_folder && staged.shape != Shape::folder(rel) {
            self.has_no_copy(staged.job, rel);
            return Ok(());
        }
        let route = if is_folder { self.place_of_folder(rel) } else { self.place_of(rel) };
        let Some(route) = route else {
            let what = if is_folder { "the folder " } else { "" };
            self.refuse(&staged, format!("no route takes {what}{rel}"));
            return Ok(());
        };
        let parent = PathBuf::from(Place::Staging(staged.job, staged.shape).name())
            .join(OsStr::from_bytes(rel.parent()));
        let names = if is_folder { Vec::new() } else { self.names_along(&parent, rel) };
        let shape = match (is_folder, names.as_slice()) {
            (true, _) => Shape::folder(rel),
            (false, []) => Shape::File,
            (false, _) => Shape::main(rel),
        };
        if staged.shape != shape {
            let others: Vec<_> = names.iter().map(|it| String::from_utf8_lossy(it)).collect();
            let reason = match others.as_slice() {
                [] => format!("the route of {rel} has changed meanwhile"),
                others => format!("{rel} comes with {}, beside it", others.join(", ")),
            };
            self.refuse(&staged, reason);
            return Ok(());
        }
        if !self.is_staged(&staged, &parent, &names) {
            self.has_no_copy(staged.job, &staged.rel);
            return Ok(());
        }
        self.last_id = self.last_id.max(staged.job);
        let take = Take {
            job: staged.job,
            source: staged.source,
            rel: Rel(staged.rel.clone()),
            route: None,
        };
        let info = JobInfo {
            rel: staged.rel,
            route,
            begun: 0,
            shape,
            mark: FileMark::default(),
            take: Some(take.clone()),
            attempt: None,
            ended: None,
            begun_as: None,
        };
        self.jobs.insert(staged.job, info);
        self.append(Record::Take(take), now)
    }

    /// The names of what comes with a file whose copy stands in this folder.
    fn names_along(&self, parent: &Path, rel: &RelPath) -> Vec<Vec<u8>> {
        let content = || self.read_to_choose(&parent.join(OsStr::from_bytes(rel.name())));
        let templates = self.table.comes_with(rel, content);
        templates.iter().map(|it| it.name_for(rel.name())).collect()
    }

    /// All of it stands under its staging name, and it is no job yet.
    fn is_staged(&self, staged: &Staged, parent: &Path, along: &[Vec<u8>]) -> bool {
        let is_folder = matches!(staged.shape, Shape::Folder(_));
        let expected = if is_folder { FileType::Dir } else { FileType::File };
        let is_there = |name: &[u8], file_type: FileType| {
            let path = parent.join(OsStr::from_bytes(name));
            let stat = self.spool.fs.stat(&self.spool.processing, &path);
            stat.is_ok_and(|stat| stat.file_type == file_type)
        };
        !self.jobs.contains_key(&staged.job)
            && is_there(staged.rel.name(), expected)
            && along.iter().all(|name| is_there(name, FileType::File))
    }

    fn has_no_copy(&mut self, job: JobId, rel: &RelPath) {
        let reason = format!("there is no copy of {rel} in processing/");
        self.out.push(Output::Notice(Notice::TakeRefused { job, reason }));
    }

    /// The staged copy becomes a job: S2. Its `Take` is durable, so recovery would do the same.
    pub(super) fn taken(&mut self, take: &Take, now: Millis) -> Result<(), KeeperError> {
        let Some(info) = self.jobs.get_mut(&take.job) else { return Ok(()) };
        if info.mark != FileMark::default() {
            // It was, before too little of something stood in the way of what follows.
            return Ok(());
        }
        let claimed = info.claimed(take.job);
        unstage(&self.spool, claimed)?;
        let Some(mark) = mark_unstaged(&self.spool, claimed, &take.rel.0)? else {
            // Nobody has heard of the job yet, and a source stands where it was.
            self.jobs.remove(&take.job);
            self.has_no_copy(take.job, &take.rel.0);
            return Ok(());
        };
        info.mark = mark;
        let route = info.route;
        self.out.push(Output::Notice(Notice::Taken { job: take.job }));
        self.step(Event::Taken { job: take.job, route }, now)
    }

    /// The copy goes, its source stands where it was. A copy that cannot go now goes at the next start.
    fn refuse(&mut self, staged: &Staged, mut reason: String) {
        let name = Place::Staging(staged.job, staged.shape).name();
        if let Err(error) = remove_tree(&self.spool.fs, &self.spool.processing, name.as_ref()) {
            reason = format!("{reason} (its copy stays until the next start: {error})");
        }
        self.out.push(Output::Notice(Notice::TakeRefused { job: staged.job, reason }));
    }
}
