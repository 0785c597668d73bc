//! How one attempt ended, and which budget it is charged to.
//!
//! Must not know: processes, exit codes as the kernel gives them, or what is retried when
//! (the core's step decides that from these).

use serde::{Deserialize, Serialize};

/// The end of one attempt, as the worker's way of speaking translated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The worker succeeded; its rows count.
    Done,
    /// The worker did not succeed; the class says which budget pays.
    Failed(Failure),
    /// The file is not whole yet: held and offered again, no budget charged.
    Incomplete {
        /// What the worker said, if anything.
        reason: String,
        /// The wait the worker asked for, in milliseconds.
        retry_after_ms: Option<u64>,
    },
    /// The worker cannot run at all: the route pauses, the attempt costs nothing.
    Misconfigured {
        /// What is wrong, as one line for a person.
        reason: String,
    },
    /// We stopped it (drain, shutdown): the attempt costs nothing.
    Released,
}

impl Verdict {
    /// Whether this end may be the one that pauses its route or opens its breaker; `counts_failures`: the
    /// route pauses after failures in a row.
    pub fn may_pause(&self, counts_failures: bool) -> bool {
        match self {
            Self::Misconfigured { .. } => true,
            Self::Failed(failure) => failure.class == FailClass::Crash || counts_failures,
            Self::Done | Self::Incomplete { .. } | Self::Released => false,
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which budget pays, or none of them for `Permanent`.
    pub class: FailClass,
    /// One line for a person: `exit 1: ValueError: boom`, `timed out after 1s`.
    pub reason: String,
    /// The exit code, where the worker exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// The signal's number, where one ended the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The wait the worker asked for, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure with a reason and nothing else known.
    pub fn new(class: FailClass, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into(), exit: None, signal: None, retry_after_ms: None }
    }
}

/// What kind of failure an attempt was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailClass {
    /// The worker said no (an exit code, an exception).
    Fail,
    /// The deadline passed.
    Timeout,
    /// Memory ended it.
    Oom,
    /// The worker died of a signal that was not ours.
    Crash,
    /// The daemon or the machine died under it.
    Lost,
    /// The worker asked to be tried again (exit 69, 75).
    TryAgain,
    /// The worker said that trying again is useless (exit 65).
    Permanent,
}

/// A budget of further attempts. `Permanent` failures have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// See [`FailClass::Fail`].
    Fail,
    /// See [`FailClass::Timeout`].
    Timeout,
    /// See [`FailClass::Oom`].
    Oom,
    /// See [`FailClass::Crash`].
    Crash,
    /// The daemon or the machine died under the attempt.
    Lost,
    /// See [`FailClass::TryAgain`].
    TryAgain,
}

impl FailClass {
    /// The budget that pays for this failure; `None` where no attempt may follow.
    pub fn budget(self) -> Option<Budget> {
        match self {
            Self::Fail => Some(Budget::Fail),
            Self::Timeout => Some(Budget::Timeout),
            Self::Oom => Some(Budget::Oom),
            Self::Crash => Some(Budget::Crash),
            Self::Lost => Some(Budget::Lost),
            Self::TryAgain => Some(Budget::TryAgain),
            Self::Permanent => None,
        }
    }
}

/// How much of each budget a job has spent; also, in the settings, how much it may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spent {
    /// Attempts charged to [`Budget::Fail`].
    #[serde(skip_serializing_if = "is_zero")]
    pub fail: u32,
    /// Attempts charged to [`Budget::Timeout`].
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u32,
    /// Attempts charged to [`Budget::Oom`].
    #[serde(skip_serializing_if = "is_zero")]
    pub oom: u32,
    /// Attempts charged to [`Budget::Crash`].
    #[serde(skip_serializing_if = "is_zero")]
    pub crash: u32,
    /// Attempts charged to [`Budget::Lost`].
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u32,
    /// Attempts charged to [`Budget::TryAgain`].
    #[serde(skip_serializing_if = "is_zero")]
    pub try_again: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Spent {
    /// What was charged to one budget.
    pub fn of(&self, budget: Budget) -> u32 {
        match budget {
            Budget::Fail => self.fail,
            Budget::Timeout => self.timeout,
            Budget::Oom => self.oom,
            Budget::Crash => self.crash,
            Budget::Lost => self.lost,
            Budget::TryAgain => self.try_again,
        }
    }

    /// Charges one attempt to a budget.
    pub fn charge(&mut self, budget: Budget) {
        let slot = match budget {
            Budget::Fail => &mut self.fail,
            Budget::Timeout => &mut self.timeout,
            Budget::Oom => &mut self.oom,
            Budget::Crash => &mut self.crash,
            Budget::Lost => &mut self.lost,
            Budget::TryAgain => &mut self.try_again,
        };
        *slot = slot.saturating_add(1);
    }
}
