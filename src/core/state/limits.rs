//! What the core is told about how much may go on: overall, of records, and of each route.
//!
//! Must not know: where the numbers come from, names of routes.

use super::super::Spent;
use super::super::backoff::Backoff;
use super::super::pace::PaceRules;
use super::super::retry::RetryOn;
use super::Millis;

/// How much may be going on at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Workers at once.
    pub slots: usize,
    /// Jobs in the line before the slots, so that no slot waits for a short job.
    pub ahead: usize,
    /// Names known and not yet claimed.
    pub window: usize,
    /// Jobs that wait for a further attempt; beyond it nothing new is claimed, nor of a route that has half of it.
    pub waiting: usize,
    /// An incomplete file becomes an error after this many milliseconds.
    pub incomplete_for: Millis,
    /// Of records that are tasks of their own.
    pub records: RecordLimits,
}

/// How many records may be on their way.
#[derive(Clone, Copy, Debug)]
pub struct RecordLimits {
    /// Inputs whose records run, at once.
    pub inputs: usize,
    /// Records of one input that are read and not over.
    pub window: usize,
    /// A slot gets records for about so many microseconds …
    pub lot_us: u64,
    /// … and at most so many.
    pub lot_most: usize,
}

/// What the core must know of a route.
#[derive(Clone, Debug)]
pub struct RouteRules {
    /// Further attempts by budget.
    pub retries: Spent,
    /// Which failures these are for; `None`: all that have a budget.
    pub retry_on: Option<RetryOn>,
    /// How long the further attempts wait.
    pub backoff: Backoff,
    /// How fast it may start, and when its breaker opens.
    pub pace: PaceRules,
    /// Slots it may use at once.
    pub max_running: usize,
    /// Higher goes first.
    pub priority: i32,
    /// It pauses after so many failed jobs, or records, in a row.
    pub pause_after_failures: Option<u32>,
    /// Each record of a file is a task of its own.
    pub records: bool,
}
