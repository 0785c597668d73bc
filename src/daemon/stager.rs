//! The stager: a thread that brings `batch`'s sources in, as far ahead as the keeper lets it.
//!
//! Must not know: what is decided of a job. It copies under staging names, syncs a group of copies at
//! once, and hands them to the keeper, which makes them jobs.
//!
//! Invariants
//! - A source whose key is recorded or taken is not taken again (unless asked for), nor one that was named
//!   twice, itself or with a folder above it, in whatever order.
//! - A folder that is one job, and a file with what comes with it, are taken whole or not at all. That a
//!   folder is complete is said by who names it: its sentinel is not asked for.
//! - What the keeper is told of is durable under its staging name.
//! - The look-ahead is bounded by the ids the keeper granted. One whose source could not be copied serves the next.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use crate::config::RouteTable;
use crate::core::{JobId, RelPath};
use crate::fs::real::{RealDir, free_space};
use crate::fs::{Filesystem, RealFs};
use crate::journal::record::SourceKey;
use crate::journal::{JournalError, Sources};
use crate::spool::import::{self, How, Source};
use crate::spool::{Place, Shape};

use super::along::{Followers, bring_along};
use super::keeper::{Input, Staged};
use super::notice::Notice;
use super::service::{Message, SourcesSeen};

/// A copy that met a full disk is tried again after this long.
const FULL_AGAIN: Duration = Duration::from_secs(1);
/// One of more bytes than this after ever longer, up to this long: each try writes all that there is room for.
const LARGE: u64 = 16 << 20;
const LARGE_AGAIN: Duration = Duration::from_secs(60);

/// What the stager works on.
pub struct Stager {
    /// What the user named.
    pub named: Vec<PathBuf>,
    /// Copies or links.
    pub how: How,
    /// Take what is recorded already, too.
    pub again: bool,
    /// Keys on disk.
    pub index: Sources<RealFs>,
    /// Keys not on disk yet.
    pub recent: HashSet<SourceKey>,
    /// Which files are taken at all.
    pub table: Arc<RouteTable>,
    /// The spool's `processing/`.
    pub processing: PathBuf,
    /// For the sync of a group.
    pub root: RealDir,
    /// Ids the keeper grants; its end means: stop.
    pub grants: Receiver<Vec<JobId>>,
    /// The keeper.
    pub keeper: Sender<Message>,
    /// Sources looked at so far, for the progress bar.
    pub progress: Box<dyn FnMut(&SourcesSeen) + Send>,
    /// What was found.
    pub seen: SourcesSeen,
    /// Ids not used yet.
    pub ids: Vec<JobId>,
    /// Copies not synced yet.
    pub group: Vec<Staged>,
    /// The spool itself, whose files are no sources.
    pub spool: PathBuf,
    /// Companions and sentinels met so far.
    pub followers: Followers,
    /// What was named and is walked.
    pub earlier: HashSet<PathBuf>,
}

impl Stager {
    /// Takes all sources in, then says so. An index that cannot be read ends the run.
    pub fn run(mut self) {
        let named = std::mem::take(&mut self.named);
        for path in named {
            // What cannot be found is said where it is walked.
            let place = import::place_of(&path).ok();
            if place.as_ref().is_some_and(|place| self.was_named(place)) {
                continue;
            }
            if !self.take_all(&path) {
                break;
            }
            self.earlier.extend(place);
        }
        self.hand_over();
        for lone in self.followers.take_lone() {
            self.is_unrouted(&lone);
        }
        // The keeper is gone only when the daemon has ended.
        drop(self.keeper.send(Message::SourcesOver(self.seen)));
    }

    fn take_all(&mut self, named: &Path) -> bool {
        let mut goes_on = true;
        let (table, spool) = (Arc::clone(&self.table), self.spool.clone());
        // The spool itself is never part of a job of its own.
        let is_job = |path: &Path, rel: &RelPath| {
            table.find_folder(rel).is_some()
                && table.ignored(rel).is_none()
                && !spool.starts_with(path)
                && !is_own(&spool, path)
        };
        let walked = import::walk(named, &is_job, &mut |found| {
            match found {
                Err(reason) => self.seen.fail(reason),
                Ok(source) => goes_on = self.take(source),
            }
            (self.progress)(&self.seen);
            goes_on
        });
        if let Err(reason) = walked {
            self.seen.fail(reason);
        }
        goes_on
    }

    /// It was named before, or a folder above it: under another name (`x` and `sub/x`), still one source.
    fn was_named(&self, place: &Path) -> bool {
        !self.earlier.is_empty() && place.ancestors().any(|it| self.earlier.contains(it))
    }

    fn is_unrouted(&mut self, path: &Path) {
        self.seen.unrouted += 1;
        self.seen.unrouted_example.get_or_insert_with(|| path.display().to_string());
    }

    /// `false`: the daemon is ending.
    fn take(&mut self, mut source: Source) -> bool {
        if is_own(&self.spool, &source.path) {
            // Its own folders are not input: the CSVs of the last run, the journal.
            return true;
        }
        if self.was_named(&source.path) {
            return true;
        }
        if !matches!(source.shape, Shape::Folder(_)) && !self.is_fit(&mut source) {
            return true;
        }
        if !self.again {
            match self.is_known(&source.key) {
                Ok(true) => {
                    self.seen.known += 1;
                    return true;
                }
                Ok(false) => {}
                Err(error) => {
                    self.seen.fail(error.to_string());
                    return false;
                }
            }
        }
        let Some(job) = self.next_id() else { return false };
        if !self.copy(job, &source) {
            return true;
        }
        let (rel, shape) = (source.rel, source.shape);
        self.group.push(Staged { job, rel, shape, source: Some(source.key) });
        self.seen.taken += 1;
        true
    }

    /// Whether a file is one that a route takes, and all that comes with it stands beside it; it has that then.
    fn is_fit(&mut self, source: &mut Source) -> bool {
        match self.followers.is_one(&source.path, &source.rel, &self.table) {
            Ok(true) => return false,
            Ok(false) if self.table.find(&source.rel).is_some() => {}
            Ok(false) | Err(()) => {
                self.is_unrouted(&source.path);
                return false;
            }
        }
        match bring_along(source, &self.table) {
            Ok(Ok(())) => {
                self.followers.brought(source);
                true
            }
            Ok(Err(missing)) => {
                self.seen.lacking += 1;
                let shown = || format!("{} without {}", source.path.display(), missing.display());
                self.seen.lacking_example.get_or_insert_with(shown);
                false
            }
            Err(error) => {
                let path = source.path.display();
                self.seen.fail(format!("cannot take in what comes with {path}: {error}"));
                false
            }
        }
    }

    fn is_known(&mut self, key: &SourceKey) -> Result<bool, JournalError> {
        Ok(self.recent.contains(key) || self.index.contains(key)?)
    }

    fn next_id(&mut self) -> Option<JobId> {
        while self.ids.is_empty() {
            self.hand_over();
            self.ids = self.grants.recv().ok()?;
        }
        self.ids.pop()
    }

    fn copy(&mut self, job: JobId, source: &Source) -> bool {
        let mut wait = FULL_AGAIN;
        loop {
            match import::stage(&self.processing, job, source, self.how, &mut |_| ()) {
                Ok(()) => return true,
                Err(error) if crate::fs::is_shortage(&error) => {
                    self.remove(job, source.shape);
                    self.hand_over();
                    self.wait_for_room(source, wait);
                    if source.size > LARGE {
                        wait = LARGE_AGAIN.min(wait * 2);
                    }
                }
                Err(error) => {
                    if self.remove(job, source.shape) {
                        // For the next one: the keeper grants no more while many of its ids are out.
                        self.ids.push(job);
                    }
                    let path = source.path.display();
                    self.seen.fail(format!("cannot take in {path}: {error}"));
                    return false;
                }
            }
        }
    }

    /// Waits so long, and then until all of it would fit: what is larger than the free space would be copied in
    /// vain again and again.
    fn wait_for_room(&self, source: &Source, wait: Duration) {
        std::thread::park_timeout(wait);
        let lacks = || match free_space(&self.processing) {
            Ok((free, _)) if self.how == How::Copy && free < source.size => Some(free),
            _ => None,
        };
        let Some(free) = lacks() else { return };
        let (rel, needs) = (source.rel.clone(), source.size);
        // The keeper is gone only when the daemon has ended.
        drop(self.keeper.send(Message::Tell(Notice::SourceWaits { rel, needs, free })));
        while lacks().is_some() {
            std::thread::park_timeout(FULL_AGAIN);
        }
    }

    /// `true`: nothing of it is left.
    fn remove(&mut self, job: JobId, shape: Shape) -> bool {
        let name = Place::Staging(job, shape).name();
        let name = Path::new("processing").join(name);
        let removed = crate::fs::remove_tree(&RealFs, &self.root, &name);
        let is_gone = removed.is_ok();
        if let Err(error) = removed {
            self.seen.fail(format!("cannot remove {}: {error}", name.display()));
        }
        is_gone
    }

    /// Syncs the group and gives it to the keeper.
    fn hand_over(&mut self) {
        if self.group.is_empty() {
            return;
        }
        // Durable after it: every copy of the group, under its staging name.
        if let Err(error) = RealFs.sync_all(&self.root) {
            drop(self.keeper.send(Message::SyncFailed(io::Error::other(error))));
            self.group.clear();
            return;
        }
        for staged in self.group.drain(..) {
            drop(self.keeper.send(Message::Input(Input::Staged(staged))));
        }
    }
}

/// Sources may lie in the spool's folder (`inbox/samples`), but not in its state folders.
fn is_own(spool: &Path, path: &Path) -> bool {
    let ours = ["incoming", "processing", "done", "error", "output", "results", "journal", "log"];
    let Ok(below) = path.strip_prefix(spool) else { return false };
    let first = below.components().next();
    first.is_none_or(|first| ours.iter().any(|name| first.as_os_str() == *name))
}
