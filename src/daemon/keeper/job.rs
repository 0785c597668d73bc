//! What the keeper knows of a claimed job besides what the core does.
//!
//! Must not know: what becomes of it next.

use std::sync::Arc;

use crate::config::Route;
use crate::core::records::Past;
use crate::core::state::Recovered;
use crate::core::{JobId, RelPath, Spent};
use crate::journal::record::{Attempt, FileMark, Take};
use crate::spool::{Claimed, Shape};
use crate::worker::Ended;

/// What the keeper knows of a claimed job besides what the core does.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct JobInfo {
    pub(in crate::daemon) rel: RelPath,
    pub(in crate::daemon) route: usize,
    /// Attempts begun, as the folder's name says now.
    pub(in crate::daemon) begun: u32,
    /// What the job is.
    pub(in crate::daemon) shape: Shape,
    pub(in crate::daemon) mark: FileMark,
    /// How it was handed in, if it was; repeated at the head of the next journal segment.
    pub(in crate::daemon) take: Option<Take>,
    /// Its last `Attempt` line, repeated at the head of the next journal segment.
    pub(in crate::daemon) attempt: Option<Attempt>,
    /// What the last attempt printed and gave.
    pub(in crate::daemon) ended: Option<Ended>,
    /// Its route as it was when the last attempt began: a reload may have changed it since.
    pub(in crate::daemon) begun_as: Option<Arc<Route>>,
}

impl JobInfo {
    /// The folder that its file stands in, in `processing/`.
    pub(in crate::daemon) fn claimed(&self, job: JobId) -> Claimed {
        Claimed { job, begun: self.begun, shape: self.shape }
    }

    /// As the core is told of a job that was claimed before.
    pub(in crate::daemon) fn recovered(
        &self,
        job: JobId,
        route: Option<usize>,
        records: Option<Past>,
    ) -> Recovered {
        let attempt = self.attempt.as_ref();
        let ended = attempt.map_or(0, |attempt| attempt.attempt);
        Recovered {
            job,
            route,
            // A power cut may undo the rename of an attempt whose end is recorded.
            begun: self.begun.max(ended),
            ended,
            spent: attempt.map_or_else(Spent::default, |attempt| attempt.spent),
            not_before: attempt.map_or(0, |attempt| attempt.not_before_ms),
            incomplete_since: attempt.and_then(|attempt| attempt.incomplete_since_ms),
            records,
        }
    }
}
