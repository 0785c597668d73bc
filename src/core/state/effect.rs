//! What the core gives out: what the keeper must do, in this order.
//!
//! Must not know: how it is done.
//!
//! Invariants
//! - An effect holds all that it needs: the keeper asks nothing back to carry it out.

use super::super::records::{Loss, Tried};
use super::super::{Failure, JobId, Spent};
use super::{Candidate, Millis};

/// What the keeper must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Rename into `processing/`, as `ID.1`: its place is kept. Answer: `Claimed` or `Held`.
    Claim {
        /// What to claim.
        candidate: Candidate,
    },
    /// Name the job `ID.attempt` if it is not, and give it to the slots. Answer, some time: `Ended`.
    Start {
        /// The job.
        job: JobId,
        /// Its route.
        route: usize,
        /// From 1.
        attempt: u32,
        /// It has been lost before: make its name durable first, so that the next loss counts.
        suspect: bool,
    },
    /// Journal the end of an attempt. Answer: `Recorded`.
    RecordAttempt {
        /// The job.
        job: JobId,
        /// Which attempt ended.
        attempt: u32,
        /// All it has spent.
        spent: Spent,
        /// Not before.
        not_before: Millis,
        /// See the record.
        incomplete_since: Option<Millis>,
        /// Of a job with records that was lost.
        loss: Option<Loss>,
        /// Why.
        reason: String,
    },
    /// Journal the outcome, with the rows of the last `Ended` where there is no failure, and settle
    /// once it is durable. Answer: `Recorded`, from when on the core knows nothing of the job.
    RecordOutcome {
        /// The job.
        job: JobId,
        /// Attempts begun.
        attempts: u32,
        /// All it has spent.
        spent: Spent,
        /// Why it failed, if it did.
        failure: Option<Failure>,
    },
    /// Read on in the input of an open job. Answer: `Read` or `InputBroken`.
    ReadRecords {
        /// The job.
        job: JobId,
        /// At most so many.
        most: usize,
    },
    /// Give these records to a slot, each with its attempt, from 1. Answers, some time: `RecordEnded`.
    StartRecords {
        /// The job.
        job: JobId,
        /// Its route.
        route: usize,
        /// Number and attempt.
        lot: Vec<(u64, u32)>,
    },
    /// Journal an attempt at a record: that it ended and another one follows, or that it begins alone.
    /// Answer: `RecordRecorded`.
    RecordTried {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// What it has spent, and when it may start.
        tried: Tried,
        /// It begins now, with nothing else in any slot.
        alone: bool,
        /// Why.
        reason: String,
    },
    /// Journal the outcome of a record, with the rows of its last end where there is no failure.
    /// Answer: `RecordRecorded`.
    RecordInput {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// Attempts begun.
        attempts: u32,
        /// Why it failed, if it did.
        failure: Option<Failure>,
    },
    /// All records are over: put the failed ones into a file of their own. Answer: `Ended`.
    Collect {
        /// The job.
        job: JobId,
    },
    /// Name the job `ID.begun` again: the attempt costs nothing.
    Release {
        /// The job.
        job: JobId,
        /// Attempts begun that count.
        begun: u32,
    },
    /// A route pauses.
    Pause {
        /// Which.
        route: usize,
        /// Why.
        reason: String,
    },
    /// A route's breaker opened: one job at a time is tried, now and then.
    Break {
        /// Which.
        route: usize,
        /// Why.
        reason: String,
    },
    /// A route's breaker closed: a worker answered.
    Mend {
        /// Which.
        route: usize,
    },
}
