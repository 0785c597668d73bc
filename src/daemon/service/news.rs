//! What has happened: counted, written to the job log, told to the listener.
//!
//! Must not know: who listens.
//!
//! Invariants
//! - A notice changes the status at once; it is told once its group of jobs is settled.
//! - A job log that cannot be written stops no job.

use std::time::{Duration, Instant};

use super::{JobLine, Listener, Notice, Service};
use crate::fs::RealFs;

/// A paused route is tried again after this long, whatever changed.
const PAUSED_TRY: Duration = Duration::from_secs(60);

impl<L: Listener> Service<RealFs, L> {
    pub(in crate::daemon) fn notice(&mut self, notice: Notice) {
        self.state.guests.heard(&notice);
        let status = &mut self.state.status;
        match &notice {
            Notice::Finished(finished) => {
                if finished.outcome.records.is_some() {
                    status.inputs += 1;
                } else {
                    status.rows += finished.outcome.rows;
                }
                let counter = match finished.outcome.failure {
                    Some(_) => &mut status.failed,
                    None => &mut status.done,
                };
                *counter += 1;
                self.history.add(&JobLine::of(finished));
            }
            Notice::RecordFailed(record) => {
                self.history.add(&JobLine::of_record(record));
            }
            Notice::Paused { route, why } => {
                self.state.clears_line = true;
                status.paused.insert(route.clone(), why.clone());
                let program = self.keeper.program_time(route);
                let until = Some(Instant::now() + PAUSED_TRY);
                self.state.paused.insert(route.clone(), (until, program));
            }
            Notice::Broken { route, why } => {
                self.state.clears_line = true;
                // The core tries by itself; a mended program is worth trying at full pace at once.
                status.paused.insert(route.clone(), why.clone());
                let program = self.keeper.program_time(route);
                self.state.paused.insert(route.clone(), (None, program));
            }
            Notice::Mended { route } => {
                self.state.scanning = true;
                status.paused.remove(route);
                self.state.paused.remove(route);
            }
            Notice::Short(of) => status.short_of = Some(*of),
            Notice::HasRoom(_) => status.short_of = None,
            _ => {}
        }
        self.state.notices.push(notice);
    }

    /// The job log and the listener hear what has happened: once a group, since each time another
    /// thread wakes up for it, on a core that a worker could have.
    pub(in crate::daemon) fn tell(&mut self) {
        self.flush_history();
        for notice in self.state.notices.drain(..) {
            self.listener.notice(notice);
        }
    }

    fn flush_history(&mut self) {
        if self.history.is_written() {
            return;
        }
        match self.history.flush() {
            // A log that cannot be written must not stop a job: said once, and tried again.
            Err(error) if !self.state.history_failed => {
                self.state.history_failed = true;
                self.listener.notice(Notice::HistoryFailed { reason: error.to_string() });
            }
            Err(_) => {}
            Ok(()) => self.state.history_failed = false,
        }
    }
}
