//! What the live records say of inputs whose records are tasks of their own.
//!
//! Must not know: where the file stands, what is done with it.
//!
//! Invariant: what is known after the last line is what a keeper knew that had followed up all of them.

use std::collections::HashMap;

use super::keeper::inputs::InputInfo;
use crate::core::JobId;
use crate::core::records::{Past, Progress, Tried};
use crate::fs::Filesystem;
use crate::journal::record::{Attempt, InputTried, Record};

/// Inputs by job, as far as the lines were read.
pub(super) struct KnownInputs<F: Filesystem>(HashMap<JobId, (InputInfo<F>, Progress)>);

impl<F: Filesystem> Default for KnownInputs<F> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<F: Filesystem> KnownInputs<F> {
    /// Whether something is recorded of a job's records.
    pub(super) fn contains(&self, job: JobId) -> bool {
        self.0.contains_key(&job)
    }

    /// Takes note of the next live record.
    pub(super) fn feed(&mut self, record: &Record) {
        match record {
            Record::Input(line) => {
                let mut info = InputInfo::new(line.format, line.mark);
                info.position = line.position;
                info.rows = line.rows;
                info.reasons = line.reasons.iter().cloned().collect();
                self.0.insert(line.job, (info, Progress::up_to(line.low)));
            }
            Record::InputSet(line) => {
                if let Some((_, progress)) = self.0.get_mut(&line.job) {
                    // The line's checksum was right, so it is as it was written.
                    let is_set = progress.add_set(line.failed, &line.set);
                    debug_assert!(is_set, "a set of records of {} is none", line.job);
                }
            }
            Record::InputTried(line) => {
                if let Some((info, _)) = self.0.get_mut(&line.job) {
                    info.tried.insert(line.no, line.clone());
                }
            }
            Record::InputOutcome(line) => {
                let Some((info, progress)) = self.0.get_mut(&line.job) else { return };
                info.tried.remove(&line.no);
                if progress.record(line.no, line.failure.is_some()) {
                    info.rows = info.rows.saturating_add(line.rows);
                    if let Some(failure) = &line.failure {
                        info.count(&failure.reason);
                    }
                }
            }
            _ => {}
        }
    }

    /// What the keeper and the core are to know of a job that is taken up again. `attempt`: its last.
    pub(super) fn take(
        &mut self,
        job: JobId,
        attempt: Option<&Attempt>,
    ) -> Option<(InputInfo<F>, Past)> {
        let (info, progress) = self.0.remove(&job)?;
        let tried = |line: &InputTried| Tried {
            begun: line.attempts,
            spent: line.spent,
            not_before: line.not_before_ms,
        };
        let alone = info.tried.values().find(|line| line.alone);
        let past = Past {
            alone: alone.map(|line| (line.no, tried(line))),
            tried: info.tried.values().map(|line| (line.no, tried(line))).collect(),
            loss: attempt.and_then(|attempt| attempt.loss),
            progress,
        };
        Some((info, past))
    }
}
