//! Checkpoints: when a journal segment may go. And the clean end.
//!
//! Must not know: which thread syncs the filesystem.
//!
//! Invariant: a segment is dropped only after a sync of everything that began when all that it records
//! was applied and settled; the source index is durable before the outcomes it stands for can go.

use super::{Keeper, KeeperError, Output};
use crate::config::limits;
use crate::core::state::Millis;
use crate::fs::Filesystem;
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
            && self.is_settled()
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
    /// Call it only with nothing pending: all that the old segments record is applied and settled.
    pub fn checkpoint(&mut self, now: Millis) -> Result<(), KeeperError> {
        assert!(self.is_settled(), "a checkpoint with records that are not settled");
        // The index is durable before the outcomes that it stands for can go.
        match self.sources.add_run(&mut self.new_sources) {
            Ok(()) => self.new_sources.clear(),
            Err(CommitError::Full { .. }) => return self.disk_is_full(now),
            Err(error) => return Err(error.into()),
        }
        let mut snapshot = self.results.snapshot();
        for (job, info) in &self.jobs {
            debug_assert!(info.take.as_ref().is_none_or(|take| take.job == *job));
            snapshot.extend(info.take.clone().map(Record::Take));
            snapshot.extend(info.attempt.clone().map(Record::Attempt));
        }
        self.journal.note(self.last_id, now);
        match self.journal.rotate(&snapshot) {
            Ok(()) => {}
            Err(CommitError::Full { .. }) => return self.disk_is_full(now),
            Err(error) => return Err(error.into()),
        }
        self.sealed = false;
        self.asks_checkpoint = false;
        self.checkpointing = true;
        self.checkpoint_began = now;
        self.dropping.append(&mut self.rows_files);
        self.has_news = false;
        self.out.push(Output::Sync { before: self.journal.segment() });
        Ok(())
    }

    /// Nothing waits for the journal, the CSVs or its last move.
    pub fn is_settled(&self) -> bool {
        self.is_recorded()
            && self.durable.is_empty()
            && self.deferred.is_empty()
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

    /// Removes emptied job folders that were kept for reuse.
    pub fn tidy(&mut self) -> Result<(), KeeperError> {
        self.spool
            .remove_empty(&mut self.folders)
            .map_err(KeeperError::spool("remove emptied folders in processing/"))
    }
}
