//! The line before the slots: what was given to them and has not begun.
//!
//! Must not know: what stands in it.
//!
//! Invariants
//! - Nothing ages in it: the slots are longer at work than was thought, or nothing is to start.

use std::time::Instant;

use super::{Input, KeeperError, Listener, Service, now_ms};
use crate::config::limits;
use crate::core::Verdict;
use crate::fs::RealFs;
use crate::worker::Ended;

impl<L: Listener> Service<RealFs, L> {
    /// What waits in line before the slots has not begun, and goes back to the core.
    pub(super) fn clear_line(&mut self) -> Result<(), KeeperError> {
        for job in self.pool.take_back() {
            let ended = Ended::without_rows(Verdict::Released);
            self.keeper.handle(Input::Ended { job, ended }, now_ms())?;
        }
        Ok(())
    }

    /// Nothing may age in line: the slots are longer at work than was thought, or nothing is to start.
    pub(super) fn tend_line(&mut self) -> Result<(), KeeperError> {
        let is_old = |since: Instant| since.elapsed() >= limits::LONGEST_AHEAD;
        if std::mem::take(&mut self.state.clears_line)
            || self.pool.waits_since().is_some_and(is_old)
        {
            self.clear_line()?;
            self.outputs()?;
        }
        Ok(())
    }
}
