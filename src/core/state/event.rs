//! What the core takes in: what happened, in the keeper's words.
//!
//! Must not know: what follows from it.
//!
//! Invariants
//! - Each effect that says "Answer" is answered by one event; what else is here comes from outside.

use super::super::records::Past;
use super::super::{Failure, JobId, RelPath, Spent, Verdict};
use super::Millis;

/// A name that could be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Path below `incoming/`.
    pub rel: RelPath,
    /// Index of its route.
    pub route: usize,
    /// Lower goes first: the time it came, in nanoseconds.
    pub order: i64,
}

/// A job found in `processing/` at start, with what the journal says of it.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The job.
    pub job: JobId,
    /// Its route now; `None` where no route takes it any more: it waits.
    pub route: Option<usize>,
    /// Attempts begun, from its name.
    pub begun: u32,
    /// The last attempt whose end is recorded; 0 for none.
    pub ended: u32,
    /// What it had spent at that end.
    pub spent: Spent,
    /// From that end.
    pub not_before: Millis,
    /// From that end.
    pub incomplete_since: Option<Millis>,
    /// What is recorded of its records, if any were begun.
    pub records: Option<Past>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Start-up found a claimed job; or a reload brought a route for one that had none.
    Recovered(Recovered),
    /// [`Effect::Claim`](super::Effect::Claim) succeeded: S1 → S2.
    Claimed {
        /// The new job.
        job: JobId,
        /// Its route.
        route: usize,
    },
    /// [`Effect::Claim`](super::Effect::Claim) took something that must not run, such as a symbolic link.
    Rejected {
        /// The new job.
        job: JobId,
        /// Its route.
        route: usize,
        /// Why it must not run.
        failure: Failure,
    },
    /// A source of `batch` became a job, `ID.0`.
    Taken {
        /// The new job.
        job: JobId,
        /// Its route.
        route: usize,
    },
    /// [`Effect::Claim`](super::Effect::Claim) did not succeed, or must not be made yet; it is asked for again at `until`.
    Held {
        /// What was to be claimed.
        candidate: Candidate,
        /// `None`: it is gone, a lost race.
        until: Option<Millis>,
    },
    /// [`Effect::Claim`](super::Effect::Claim) was not made: what is in the file says that it is for another route.
    Sorted {
        /// What was to be claimed, with its route.
        candidate: Candidate,
        /// The route that it was to be claimed for.
        from: usize,
    },
    /// [`Effect::Start`](super::Effect::Start) was not carried out: what is in the claimed file says that it is for another
    /// route, or for none. Its name says already that the attempt has not begun.
    Resorted {
        /// The job.
        job: JobId,
        /// Its route, or why it has none.
        to: Result<usize, Failure>,
    },
    /// [`Effect::Start`](super::Effect::Start) must not be carried out yet: somebody still writes into the claimed file.
    Busy {
        /// The job.
        job: JobId,
        /// When it is looked at again.
        until: Millis,
    },
    /// [`Effect::Start`](super::Effect::Start) could not be carried out although the job is there.
    StartFailed {
        /// The job.
        job: JobId,
    },
    /// A worker's attempt ended.
    Ended {
        /// The job.
        job: JobId,
        /// How.
        verdict: Verdict,
    },
    /// [`Effect::Start`](super::Effect::Start) of a job with records: it is open.
    Opened {
        /// The job.
        job: JobId,
    },
    /// The answer to [`Effect::ReadRecords`](super::Effect::ReadRecords).
    Read {
        /// The job.
        job: JobId,
        /// Their numbers, rising.
        numbers: Vec<u64>,
        /// No more bytes are taken before one of them is over.
        is_full: bool,
        /// There are no more.
        at_end: bool,
        /// Others have their turn before the rest: a further such answer follows by itself.
        goes_on: bool,
    },
    /// The input of an open job cannot be read on.
    InputBroken {
        /// The job.
        job: JobId,
        /// Why.
        failure: Failure,
    },
    /// A slot is done with a record.
    RecordEnded {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// How.
        verdict: Verdict,
        /// How long it took, in microseconds.
        took_us: u64,
        /// And the slot with its lot.
        is_last: bool,
    },
    /// The line of [`Effect::RecordInput`](super::Effect::RecordInput) or [`Effect::RecordTried`](super::Effect::RecordTried) is durable.
    RecordRecorded {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// It is over and has failed, as its rows decided perhaps.
        failed: bool,
    },
    /// The line of [`Effect::RecordAttempt`](super::Effect::RecordAttempt) or [`Effect::RecordOutcome`](super::Effect::RecordOutcome) is durable.
    Recorded {
        /// The job.
        job: JobId,
    },
    /// Nothing but time: there is no other work now.
    Tick,
    /// No more starts, no more claims.
    Drain,
    /// Claiming may go on or must wait (disk).
    Claims {
        /// Whether it may.
        allowed: bool,
    },
    /// Starting may go on or must wait (memory), and claiming with it.
    Starts {
        /// Whether it may.
        allowed: bool,
    },
    /// A paused route is tried again.
    Resume {
        /// Which.
        route: usize,
    },
}
