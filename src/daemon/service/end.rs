//! When the service is over, and its clean end.
//!
//! Must not know: why it is to end.
//!
//! Invariants
//! - It ends with nothing running and everything recorded settled: one journal segment, nothing of ours
//!   in `processing/`; or with an error, as where it is to stop now and its disk is full.

use std::sync::mpsc::Receiver;

use super::{
    Input, KeeperError, Listener, Message, Mode, Output, STAGE_AHEAD, Service, Summary, now_ms,
};
use crate::config::limits;
use crate::fs::{Filesystem, RealFs};

impl<L: Listener> Service<RealFs, L> {
    /// Seals the CSVs at the end of a `batch --seal`, once; the seals are then committed like any record.
    pub(super) fn seals(&mut self) -> Result<bool, KeeperError> {
        let asked = matches!(self.mode, Mode::Batch { seal: true });
        if !asked || self.state.draining || self.state.has_sealed {
            return Ok(false);
        }
        self.state.has_sealed = true;
        self.keeper.seal(now_ms())?;
        Ok(true)
    }

    pub(super) fn is_over(&self) -> bool {
        if !self.keeper.is_still() {
            return false;
        }
        if self.state.draining {
            return true;
        }
        // With so many jobs of paused routes no further source is let in: it ends, and says so.
        let is_blocked = self.keeper.counts().stuck > STAGE_AHEAD / 2;
        let has_sources = self.grants.is_some() && !is_blocked;
        self.mode != Mode::Watch
            && !has_sources
            && !self.retention.is_busy()
            && self.nothing_waits()
    }

    /// A full disk is waited for, but not by who was told to stop now: what could not be recorded runs
    /// again at the next start, and what could not be settled is settled then.
    pub(super) fn give_up(&self) -> Result<(), KeeperError> {
        let has_stopped = self.state.stops_now && self.keeper.counts().running == 0;
        match self.keeper.short_of() {
            Some(of) if has_stopped => Err(KeeperError::StoppedShort(of)),
            _ => Ok(()),
        }
    }

    /// Nothing runs, and nothing that is known waits for anything but a person or a far time.
    pub(super) fn nothing_waits(&self) -> bool {
        if !self.keeper.is_still() || !self.state.is_ready {
            return false;
        }
        let counts = self.keeper.counts();
        let patience = u64::try_from(limits::BATCH_PATIENCE.as_millis()).unwrap_or(u64::MAX);
        !self.keeper.expects_files(patience, now_ms())
            && !self.state.scanning
            && !self.keeper.left_to_find()
            && counts.candidates == counts.stuck_candidates
            && counts.ready == 0
            && counts.open == 0
            && counts.waiting == counts.incomplete
    }

    /// The clean end: everything durable, one journal segment, nothing of ours in `processing/`.
    pub(super) fn finish(mut self, messages: &Receiver<Message>) -> Result<Summary, KeeperError> {
        let summary = Summary { status: self.status(), sources: self.state.sources.clone() };
        self.tell();
        self.keeper.tidy()?;
        // A checkpoint still under way must return, also where it leaves nothing to do: the next start would
        // go by a journal that speaks of CSVs which were taken away meanwhile, and write them once more.
        while self.keeper.is_checkpointing() {
            match messages.recv() {
                Ok(message) => self.handle(message)?,
                Err(_) => break,
            }
        }
        if self.keeper.has_news() {
            self.keeper.checkpoint(now_ms())?;
            for output in self.keeper.take_outputs() {
                if let Output::Sync { before } = output {
                    let (fs, dir) = self.keeper.sync_handle();
                    fs.sync_all(&dir).map_err(KeeperError::spool("sync the spool's filesystem"))?;
                    self.keeper.handle(Input::Synced { before }, now_ms())?;
                }
            }
        }
        self.pool.join();
        Ok(summary)
    }
}
