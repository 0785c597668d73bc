//! Workers: one contract, several ways to speak it.
//!
//! In: a [`Task`]. Out: an [`Ended`]. Everything here blocks on the calling thread, of which the
//! pool keeps one a slot.
//!
//! Must not know: the spool, the journal, CSVs, the daemon. A worker cannot move files; the folders
//! it may use were made for it before the task was given, and are cleaned up by who gave it.
//!
//! Invariants
//! - A task has exactly one end, whatever the worker does.
//! - When [`command::run`] returns, no process of the worker's group is alive.
//! - What a worker prints is bounded in memory; it never stops the worker or us.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Route;
use crate::core::{JobId, RelPath, Row, Verdict};

/// One attempt at one job, for a slot.
#[derive(Clone, Debug)]
pub struct Task {
    /// The job.
    pub job: JobId,
    /// From 1.
    pub attempt: u32,
    /// The route, as it was when the attempt began.
    pub route: Arc<Route>,
    /// Path below `incoming/`.
    pub rel: RelPath,
    /// The spool, absolute: the worker's working directory.
    pub spool: PathBuf,
    /// The claimed file, absolute.
    pub path: PathBuf,
    /// An empty folder of the attempt's own, absolute.
    pub scratch: PathBuf,
    /// Where made files go, absolute, for a route with `output`.
    pub output: Option<PathBuf>,
}

/// How an attempt ended, with what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The verdict.
    pub verdict: Verdict,
    /// Rows; they count only with [`Verdict::Done`].
    pub rows: Vec<Row>,
    /// What it said on stdout that is for the log, bounded, cut marked.
    pub log: Vec<u8>,
    /// The end of its stderr, bounded, cut marked.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}
