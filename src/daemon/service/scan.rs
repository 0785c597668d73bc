//! When the keeper's thread scans, and when it has seen what was there at the start.
//!
//! Must not know: how a folder is read.
//!
//! Invariants
//! - A slice of a scan is short, and shorter while workers run: no slot waits for it.

use std::time::Instant;

use super::{KeeperError, Listener, Mode, Service};
use crate::daemon::own_pages;
use crate::fs::RealFs;

/// Entries a scan looks at between two looks at the messages.
const SCAN_SLICE: usize = 1024;

/// The same while workers run, whose slots should not wait: about 0.1 ms.
const SCAN_SLICE_BUSY: usize = 32;

impl<L: Listener> Service<RealFs, L> {
    pub(super) fn wants_scan(&self) -> bool {
        self.state.scanning
            && !self.state.draining
            && self.intake.may_scan()
            && self.keeper.wants_names()
    }

    pub(super) fn wants_intake(&self) -> bool {
        self.intake.has_work() && !self.state.draining && self.keeper.wants_names()
    }

    pub(super) fn scan(&mut self) -> Result<(), KeeperError> {
        if !self.wants_scan() {
            return Ok(());
        }
        let slice = if self.keeper.is_busy() { SCAN_SLICE_BUSY } else { SCAN_SLICE };
        let over = self.scan_slice(slice)?;
        self.outputs()?;
        if over {
            self.state.scanning = false;
            self.state.scanned = Instant::now();
            self.tell_guests()?;
        }
        Ok(())
    }

    /// Ready is who has seen what was there at the start, or has more of it than fits the window.
    pub(super) fn say_ready(&mut self) {
        if self.state.is_ready {
            return;
        }
        let has_seen_all = !self.state.scanning && self.intake.is_still();
        if has_seen_all || !self.keeper.wants_names() {
            self.state.is_ready = true;
            self.listener.ready();
            // Who ends soon has nothing of it.
            if self.mode == Mode::Watch {
                own_pages::give_back();
            }
        }
    }
}
