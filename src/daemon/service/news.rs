//! What has happened: counted, written to the job log, told to the listener.
//!
//! Must not know: who listens.
//!
//! Invariants
//! - A notice changes the status at once, and answers who asked; it is told once its group of jobs is settled.
//! - A job log that cannot be written stops no job.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::message::Answer;
use super::{JobId, JobLine, Listener, Mode, Notice, Service};
use crate::fs::RealFs;

/// A paused route is tried again after this long, whatever changed.
const PAUSED_TRY: Duration = Duration::from_secs(60);

/// Who waits to hear what became of a file handed in. Not a listener's matter: a listener may miss notices
/// where many come at once, and the one who asked would wait for ever.
#[derive(Default)]
pub(super) struct Submitters(HashMap<JobId, Answer>);

impl std::fmt::Debug for Submitters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Submitters {
    pub(super) fn wait(&mut self, job: JobId, answer: Answer) {
        self.0.insert(job, answer);
    }

    /// `true`: somebody had asked.
    fn heard(&mut self, notice: &Notice) -> bool {
        let (job, taken) = match notice {
            Notice::Taken { job } => (job, Ok(())),
            Notice::TakeRefused { job, reason } => (job, Err(reason.clone())),
            _ => return false,
        };
        let asked = self.0.remove(job);
        asked.map(|answer| answer(taken)).is_some()
    }
}

impl<L: Listener> Service<RealFs, L> {
    pub(in crate::daemon) fn notice(&mut self, notice: Notice) {
        self.state.guests.heard(&notice);
        let was_asked = self.state.submitters.heard(&notice);
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
                let program = self.keeper.program_state(route);
                let until = Some(Instant::now() + PAUSED_TRY);
                self.state.paused.insert(route.clone(), (until, program));
            }
            Notice::Broken { route, why } => {
                self.state.clears_line = true;
                // The core tries by itself; a mended program is worth trying at full pace at once.
                status.paused.insert(route.clone(), why.clone());
                let program = self.keeper.program_state(route);
                self.state.paused.insert(route.clone(), (None, program));
            }
            Notice::Mended { route } => {
                self.state.scanning = true;
                status.paused.remove(route);
                self.state.paused.remove(route);
            }
            // A source of our own.
            Notice::TakeRefused { reason, .. } if !was_asked && self.mode != Mode::Watch => {
                self.state.sources.fail(reason.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Goal: who hands a file in hears of it once, and of no other's. Method: two that wait; one is taken, one is
    /// refused, and a third that nobody waits for.
    #[test]
    fn each_submitter_hears_of_its_own() {
        let ids = [1, 2, 3].map(|ms| JobId::next(JobId::MIN, ms, [7; 10]));
        let (sender, heard) = channel();
        let mut submitters = Submitters::default();
        for job in &ids[..2] {
            let (job, sender) = (*job, sender.clone());
            submitters.wait(job, Box::new(move |taken| sender.send((job, taken)).unwrap()));
        }
        submitters.heard(&Notice::Taken { job: ids[2] });
        submitters.heard(&Notice::TakeRefused { job: ids[1], reason: "no".to_owned() });
        submitters.heard(&Notice::Taken { job: ids[0] });
        submitters.heard(&Notice::Taken { job: ids[0] });
        drop((sender, submitters));
        let all: Vec<_> = heard.iter().collect();
        assert_eq!(all, [(ids[1], Err("no".to_owned())), (ids[0], Ok(()))]);
    }
}
