//! What is looked at every second: paused routes, free disk and memory, what escaped from ended workers.
//!
//! Must not know: messages.
//!
//! Invariants
//! - An idle daemon looks every ten seconds, and reads no process.
//! - A change is told once, when it comes and when it goes.

use std::time::{Duration, Instant};

use super::status::LowMemory;
use super::{Input, KeeperError, LOOK_EVERY, Listener, Mode, Notice, Service, now_ms};
use crate::config::limits;
use crate::daemon::free_memory;
use crate::daemon::keeper::Shortage;
use crate::fs::RealFs;

/// The same while nothing goes on: often enough for a watchdog of a minute.
const LOOK_IDLE: Duration = Duration::from_secs(10);

/// How often what escaped from ended workers is looked for, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

impl<L: Listener> Service<RealFs, L> {
    /// What is looked at every second: paused routes, free disk, the scan's timer.
    pub(super) fn look(&mut self) -> Result<(), KeeperError> {
        let now = Instant::now();
        if !self.state.scanning && self.keeper.left_to_find() && self.keeper.is_dry() {
            // The window ran dry: what came meanwhile is in the folder.
            self.state.scanning = true;
        }
        if now < self.state.next_look {
            return Ok(());
        }
        self.state.next_look = now + LOOK_EVERY;
        if self.is_idle() {
            // Whatever happens is a message, and brings the next look forward.
            let scan = self.state.scanned + self.scan_interval();
            self.state.next_look = scan.clamp(now + LOOK_EVERY, now + LOOK_IDLE);
        }
        // Asked each time: that some folder cannot be watched may be known only after the pass.
        if now >= self.state.scanned + self.scan_interval() {
            self.state.scanning = true;
        }
        self.look_at_intake()?;
        self.look_at_disk()?;
        self.look_at_memory()?;
        self.sweep(now);
        if self.state.is_ready && !self.state.draining {
            self.look_at_retention(self.state.status.done + self.state.status.failed);
        }
        if self.state.keeps_more {
            self.keep_warm();
        }
        self.tell_guests()?;
        self.look_at_paused(now)
    }

    /// Nothing is under way, nothing waits, nothing is wrong: time alone changes nothing.
    fn is_idle(&self) -> bool {
        let state = &self.state;
        let counts = self.keeper.counts();
        let known = counts.candidates + counts.held + counts.ready + counts.waiting + counts.stuck;
        self.mode == Mode::Watch
            && state.is_ready
            && !state.scanning
            && known == 0
            && self.keeper.is_still()
            && state.paused.is_empty()
            && state.guests.is_empty()
            && state.status.short_of.is_none()
            && self.min_free_memory == 0
            && state.swept == state.ended
            && !state.sweeper.has_more()
            && !self.intake.wants_clock()
            && !self.retention.is_on()
    }

    /// Ends what escaped from the group of a worker that has ended. Looks only after an attempt ended, at a file
    /// or at a record, and until what that left is taken away, so an idle daemon reads nothing.
    fn sweep(&mut self, now: Instant) {
        let ended = self.state.ended;
        let has_more = ended != self.state.swept || self.state.sweeper.has_more();
        if !has_more || now < self.state.next_sweep {
            return;
        }
        self.state.swept = ended;
        self.state.next_sweep = now + SWEEP_EVERY;
        let keeper = &self.keeper;
        let swept = self.state.sweeper.sweep(now, &|job, record| keeper.is_running(job, record));
        if let Err(error) = swept {
            self.listener.notice(Notice::SweepFailed { reason: error.to_string() });
        }
    }

    fn look_at_disk(&mut self) -> Result<(), KeeperError> {
        let Some((free, total)) = self.keeper.free_disk() else { return Ok(()) };
        let floor = self.min_free_disk.min(total / 100 * limits::MIN_FREE_PERCENT);
        let is_low = free < floor;
        if is_low == self.state.low_disk {
            return Ok(());
        }
        self.state.low_disk = is_low;
        let met = self.keeper.short_of();
        self.state.status.short_of = if is_low { Some(Shortage::Disk) } else { met };
        if is_low {
            self.listener.notice(Notice::LowDisk { free, floor });
        } else if met.is_none() {
            self.listener.notice(Notice::HasRoom(Shortage::Disk));
        }
        self.keeper.handle(Input::Claims { allowed: !is_low }, now_ms())?;
        self.outputs()
    }

    pub(super) fn look_at_memory(&mut self) -> Result<(), KeeperError> {
        let floor = self.min_free_memory;
        let free = if floor == 0 { None } else { free_memory::available() };
        let low = free.filter(|free| *free < floor).map(|free| LowMemory { free, floor });
        let was_low = self.state.status.low_memory.is_some();
        self.state.status.low_memory = low;
        if low.is_some() == was_low {
            return Ok(());
        }
        self.listener.notice(match low {
            Some(LowMemory { free, floor }) => Notice::LowMemory { free, floor },
            None => Notice::MemoryIsBack,
        });
        self.keeper.handle(Input::Starts { allowed: low.is_none() }, now_ms())?;
        self.state.clears_line |= low.is_some();
        self.outputs()
    }

    fn look_at_paused(&mut self, now: Instant) -> Result<(), KeeperError> {
        let mut again = Vec::new();
        for (route, (until, program)) in &self.state.paused {
            if until.is_some_and(|until| now >= until)
                || self.keeper.program_state(route) != *program
            {
                again.push(route.clone());
            }
        }
        for route in again {
            self.state.paused.remove(&route);
            self.state.status.paused.remove(&route);
            self.keeper.handle(Input::Resume { route }, now_ms())?;
            // Of its names no more than a share was kept.
            self.state.scanning = true;
            self.outputs()?;
        }
        Ok(())
    }
}
