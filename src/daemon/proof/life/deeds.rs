//! What people do while the daemon lives: they drop, take away, edit, hand sources in.
//!
//! Must not know: how the keeper takes it.

use super::super::sets::{plant, shape_of};
use super::super::story::{BY_HAND, Deed, Source, Story, rel};
use super::{Disk, Life};
use crate::daemon::keeper::{Input, KeeperError, Staged};
use crate::fs::sim::SimFs;
use crate::spool::Place;

impl<F: Disk> Life<'_, F> {
    pub(super) fn act(&mut self, deed: &Deed) -> Result<(), KeeperError> {
        let now = self.story.now;
        match deed {
            Deed::Drop(rel) => self.story.careful(&self.sim, rel),
            Deed::Careless(rel) => self.story.careless(&self.sim, rel),
            Deed::TakeAway => take_away(&self.sim),
            Deed::WriteBack => {
                self.sim.user_sync();
                self.story.written_back();
            }
            Deed::Seal => return self.keeper.seal(now),
            Deed::Checkpoint if self.keeper.may_checkpoint() && self.sync.is_none() => {
                return self.keeper.checkpoint(now);
            }
            Deed::Checkpoint => self.story.deeds.insert(0, Deed::Checkpoint),
            Deed::Drain => {
                self.draining = true;
                return self.keeper.handle(Input::Drain, now);
            }
            Deed::Edit(name) => edit(&self.sim, self.story, name),
        }
        Ok(())
    }

    pub(super) fn next_source(&self) -> Option<&Source> {
        self.story
            .sources
            .iter()
            .find(|source| !self.staged.contains(&source.id) && !self.is_known(source))
    }

    pub(super) fn is_known(&self, source: &Source) -> bool {
        self.keeper.recent_sources().contains(&source.key)
            || self.keeper.sources.contains(&source.key).unwrap_or(false)
    }

    /// What the stager does: a durable copy under a staging name, then the keeper is told.
    pub(super) fn take_source(&mut self) -> Result<(), KeeperError> {
        if self.draining || !self.keeper.may_take() {
            return Ok(());
        }
        let Some(source) = self.next_source().cloned() else { return Ok(()) };
        let job = self.keeper.next_id(self.story.now);
        let shape = shape_of(&source.rel);
        let path = format!("processing/{}/{}", Place::Staging(job, shape).name(), source.rel);
        plant(&self.sim, &path, &source);
        self.staged.push(source.id.clone());
        self.story.jobs.insert(job, source.id.clone());
        let staged = Staged { job, rel: rel(&source.rel), shape, source: Some(source.key) };
        self.keeper.handle(Input::Staged(staged), self.story.now)
    }

    /// A source that was recorded, or told to be taken, is known for ever.
    pub(super) fn check_sources(&mut self) {
        for source in self.story.sources.clone() {
            let id = &source.id;
            let owed = self.story.promised.contains_key(id) || self.story.taken.contains(id);
            if owed && !self.is_known(&source) {
                self.story.broken.push(format!("source {id} was forgotten"));
            }
        }
    }
}

/// A user moves all of `done/` away, and syncs nothing.
fn take_away(sim: &SimFs) {
    for (path, seen) in sim.tree() {
        let is_file = matches!(seen, crate::fs::sim::Seen::File(_));
        if is_file && let Some(rest) = path.strip_prefix("done/") {
            let name = rest.replace('/', "_");
            let free = (0..).map(|n| format!("taken/{name}.{n}"));
            let to = free.into_iter().find(|to| sim.read(to).is_none()).unwrap();
            sim.user_rename(&path, &to);
        }
    }
}

/// An editor writes a copy with a line more, and renames it over the file.
fn edit(sim: &SimFs, story: &mut Story, name: &str) {
    let path = format!("results/{name}");
    if let Some(mut bytes) = sim.read(&path) {
        bytes.extend_from_slice(BY_HAND);
        let copy = format!("results/edit.{}", story.edits.len());
        sim.plant(&copy, &bytes);
        sim.user_rename(&copy, &path);
        story.edits.push(bytes);
    }
}
