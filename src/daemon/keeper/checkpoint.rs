//! Checkpoints: when a journal segment may go. And the clean end.
//!
//! Must not know: which thread syncs the filesystem.
//!
//! Invariant: a segment is dropped only after a sync of everything that began when all that it records
//! was applied and settled; the source index is durable before the outcomes it stands for can go.

use std::collections::HashSet;

use super::{Keeper, KeeperError, Output, Shortage};
use crate::config::limits;
use crate::core::JobId;
use crate::core::state::Millis;
use crate::fs::{Filesystem, is_shortage};
use crate::journal::CommitError;
use crate::journal::record::Record;

impl<F: Filesystem> Keeper<F> {
    /// Seals all CSV segments that have rows.
    pub fn seal(&mut self, now: Millis) -> Result<(), KeeperError> {
        for record in self.results.plan_sealing(now) {
            self.append(record, now)?;
        }
        Ok(())
    }

    /// A seal was asked for and is not carried out yet.
    pub fn is_sealing(&self) -> bool {
        let recorded = self.pending.iter().chain(&self.committing).chain(&self.durable);
        recorded.into_iter().any(|record| matches!(record, Record::CsvSeal(_)))
    }

    /// Whether a checkpoint would free enough, or a sealed CSV waits for one.
    pub fn checkpoint_is_due(&self) -> bool {
        !self.checkpointing
            && self.may_checkpoint()
            && (self.sealed
                || self.asks_checkpoint
                || self.journal.segment_len() >= limits::JOURNAL_SEGMENT)
    }

    /// A checkpoint follows as soon as everything is settled.
    pub fn ask_checkpoint(&mut self) {
        self.asks_checkpoint = true;
    }

    /// When the last checkpoint began that is whole: what was settled before is durable, and no journal
    /// speaks of it any more.
    pub fn checkpointed_ms(&self) -> Option<Millis> {
        self.checkpointed
    }

    /// Begins a new journal segment; the old ones go once a sync of everything has returned.
    ///
    /// Call it only if it may be: all that the old segments record is applied and settled. What is only
    /// appended goes to the new one: where work never ceases, there is always some.
    pub fn checkpoint(&mut self, now: Millis) -> Result<(), KeeperError> {
        assert!(self.may_checkpoint(), "a checkpoint with records that are not settled");
        // The index is durable before the outcomes that it stands for can go.
        match self.sources.add_run(&mut self.new_sources) {
            Ok(()) => self.new_sources.clear(),
            Err(error @ CommitError::Full { .. }) => {
                return self.is_short(Shortage::of(&error), now);
            }
            Err(error) => return Err(error.into()),
        }
        let mut snapshot = self.results.snapshot();
        for (job, info) in &self.jobs {
            debug_assert!(info.take.as_ref().is_none_or(|take| take.job == *job));
            snapshot.extend(info.take.clone().map(Record::Take));
            snapshot.extend(info.attempt.clone().map(Record::Attempt));
        }
        snapshot.extend(self.input_snapshot());
        self.journal.note(self.last_id, now);
        match self.journal.rotate_ahead(&snapshot) {
            Ok(()) => {}
            Err(error @ CommitError::Full { .. }) => {
                return self.is_short(Shortage::of(&error), now);
            }
            Err(error) => return Err(error.into()),
        }
        self.sealed = false;
        self.asks_checkpoint = false;
        self.checkpointing = true;
        self.checkpoint_began = now;
        let pending: HashSet<JobId> = self.pending.iter().filter_map(rows_file_of).collect();
        let (kept, dropping): (Vec<_>, Vec<_>) =
            self.rows_files.drain(..).partition(|file| pending.contains(file));
        self.rows_files = kept;
        self.dropping.extend(dropping);
        self.has_news = !self.pending.is_empty();
        self.out.push(Output::Sync { before: self.journal.segment() });
        Ok(())
    }

    /// The sync that a checkpoint asked for has returned: the old segments go.
    pub(super) fn checkpoint_synced(
        &mut self,
        before: u64,
        now: Millis,
    ) -> Result<(), KeeperError> {
        self.checkpointing = false;
        self.drop_segments(before, now)
    }

    /// What stayed for want of something goes. While another checkpoint is under way it waits for that, whose
    /// rows are among those to be dropped.
    pub(super) fn drop_again(&mut self, now: Millis) -> Result<(), KeeperError> {
        match self.undropped.filter(|_| !self.checkpointing) {
            Some(before) => self.drop_segments(before, now),
            None => Ok(()),
        }
    }

    fn drop_segments(&mut self, before: u64, now: Millis) -> Result<(), KeeperError> {
        match self.journal.drop_before(before, &self.dropping) {
            Err(error @ CommitError::Full { .. }) => {
                self.undropped = Some(before);
                return self.is_short(Shortage::of(&error), now);
            }
            other => other?,
        }
        self.dropping.clear();
        self.undropped = None;
        self.checkpointed = Some(self.checkpoint_began);
        Ok(())
    }

    /// All that was written to the journal is durable, applied and settled.
    pub(in crate::daemon) fn may_checkpoint(&self) -> bool {
        self.committing.is_empty()
            && self.durable.is_empty()
            && !self.is_behind()
            && !self.results.has_pending()
    }

    /// Nothing waits for the journal, the CSVs or its last move.
    pub fn is_settled(&self) -> bool {
        self.is_recorded()
            && self.durable.is_empty()
            && !self.is_behind()
            && !self.results.has_pending()
    }

    /// Outcomes that are durable and not followed up yet, and whether they are done.
    #[cfg(test)]
    pub(in crate::daemon) fn durable_outcomes(
        &self,
    ) -> impl Iterator<Item = (crate::core::JobId, bool)> + '_ {
        self.durable.iter().filter_map(|record| match record {
            Record::Outcome(outcome) => Some((outcome.job, outcome.failure.is_none())),
            _ => None,
        })
    }

    /// Nothing runs, nothing waits for the journal: a drain is over.
    pub fn is_still(&self) -> bool {
        self.core.is_still() && self.is_settled()
    }

    /// Removes emptied job folders that were kept for reuse. With too little of something they stay: the next
    /// start removes them.
    pub fn tidy(&mut self) -> Result<(), KeeperError> {
        match self.spool.remove_empty(&mut self.folders) {
            Err(error) if is_shortage(&error) => Ok(()),
            other => other.map_err(KeeperError::spool("remove emptied folders in processing/")),
        }
    }
}

/// Whose name the file of rows has to which a line refers.
fn rows_file_of(record: &Record) -> Option<JobId> {
    match record {
        Record::Outcome(outcome) => Some(outcome.job),
        Record::InputOutcome(outcome) => outcome.rows_file,
        _ => None,
    }
}
