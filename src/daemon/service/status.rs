//! The state for `status`, and the summary of a run: the keeper's numbers and the loop's, put together.
//!
//! Must not know: how it is shown.
//!
//! Invariants
//! - Asking changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Listener, Service, SourcesSeen, now_ms};
use crate::config::limits;
use crate::core::state::Counts;
use crate::daemon::keeper::{OpenInputs, Shortage};
use crate::daemon::notice::Paused;
use crate::daemon::pool::PoolLoad;
use crate::daemon::retention::Counted;
use crate::daemon::sight::Held;
use crate::fs::RealFs;

/// The state, for `status` and the summary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Milliseconds since the start.
    pub up_ms: u64,
    /// Milliseconds that the oldest known file has waited in `incoming/`, since it came there or changed.
    pub oldest_ms: Option<u64>,
    /// Files that wait: candidates, claimed, waiting for another attempt.
    pub waiting: usize,
    /// Workers at work.
    pub running: usize,
    /// Claims that wait for what stands in their way.
    pub held: usize,
    /// Some of these, with the reason.
    pub held_files: Vec<Held>,
    /// `ok`, or which new files are noticed later than by events; `None` where nothing is watched.
    pub events: Option<String>,
    /// What to do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_fix: Option<String>,
    /// Times that the kernel lost events, each followed by a scan of everything.
    pub overflows: u64,
    /// It was told to stop: what runs may end, nothing is claimed.
    #[serde(default)]
    pub draining: bool,
    /// Incomplete files among those that wait.
    pub incomplete: usize,
    /// Jobs done since the start.
    pub done: u64,
    /// Jobs failed since the start.
    pub failed: u64,
    /// Rows recorded since the start.
    pub rows: u64,
    /// Of these jobs, those whose records were tasks of their own.
    pub inputs: u64,
    /// Records done since the start.
    pub records_done: u64,
    /// Records failed since the start.
    pub records_failed: u64,
    /// How far the inputs are whose records are tasks of their own.
    #[serde(default)]
    pub open_inputs: OpenInputs,
    /// Files that no route takes: as the last scan saw, and claimed when there still was one.
    pub unrouted: u64,
    /// One of them.
    pub unrouted_example: Option<String>,
    /// Files that announce a file which is not there, as the last scan saw.
    #[serde(default)]
    pub lone_sentinels: u64,
    /// One of them.
    #[serde(default)]
    pub lone_example: Option<String>,
    /// Paused routes, with the reason and what to do.
    pub paused: BTreeMap<String, Paused>,
    /// How the files are divided among the routes, by name.
    #[serde(default)]
    pub routes: BTreeMap<String, RouteLoad>,
    /// Folders that cannot be read, the first of them, and how many more.
    pub trouble: Vec<String>,
    /// Nothing is claimed for want of it; the disk also where it is only too full to claim.
    pub short_of: Option<Shortage>,
    /// Nothing is started for want of memory.
    pub low_memory: Option<LowMemory>,
    /// Files of paused routes that were already claimed or known.
    pub stuck: usize,
    /// What retention counted last, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// Less memory than `min_free_memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LowMemory {
    /// Available bytes.
    pub free: u64,
    /// Starts go on at this many.
    pub floor: u64,
}

/// The files of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RouteLoad {
    /// Names in `incoming/` that are known, and jobs.
    pub waiting: usize,
    /// In a slot.
    pub running: usize,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The state at the end.
    pub status: Status,
    /// What became of the sources.
    pub sources: SourcesSeen,
}

impl<L: Listener> Service<RealFs, L> {
    pub(super) fn status(&self) -> Status {
        let mut status = self.state.status.clone();
        let counts: Counts = self.keeper.counts();
        let seen = self.keeper.seen();
        status.up_ms = u64::try_from(self.state.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for (route, why) in &mut status.paused {
            why.files = self.keeper.waiting_for(route);
        }
        status.draining = self.state.draining;
        status.oldest_ms = self.keeper.oldest_ms().map(|at| now_ms().saturating_sub(at));
        let records = self.keeper.record_counts();
        status.records_done = records.done;
        status.records_failed = records.failed;
        status.rows += records.rows;
        status.open_inputs = self.keeper.open_inputs();
        // An input whose records all wait, as for their next attempt, is neither over nor in a slot.
        let claimed = counts.ready + counts.waiting + counts.stuck + counts.resting;
        status.waiting = counts.candidates + claimed;
        status.routes = self.keeper.loads();
        // The core calls running what waits in line, and what has ended and was not heard of yet.
        let PoolLoad { at_work, in_line } = self.pool.load();
        let compared = self.state.comparing.values();
        for route in at_work.iter().chain(compared) {
            status.running += 1;
            if let Some(load) = status.routes.get_mut(&route.name) {
                load.running += 1;
            }
        }
        for route in in_line {
            status.waiting += 1;
            if let Some(load) = status.routes.get_mut(&route.name) {
                load.waiting += 1;
            }
        }
        status.held = counts.held;
        status.incomplete = counts.incomplete;
        status.held_files = self.keeper.held(limits::HELD_SHOWN, now_ms());
        status.events = self.intake.events();
        status.events_fix = self.intake.events_fix();
        status.overflows = self.intake.overflows;
        let (claimed, claimed_example) = self.keeper.unrouted_jobs();
        status.unrouted = seen.unrouted.saturating_add(claimed);
        let example = seen.unrouted_example.as_ref().or(claimed_example);
        status.unrouted_example = example.map(ToString::to_string);
        status.counted.clone_from(&self.retention.counted);
        status.lone_sentinels = seen.lone_sentinels;
        status.lone_example = seen.lone_example.as_ref().map(ToString::to_string);
        status.trouble.clone_from(&seen.unreadable);
        if seen.unreadable_more > 0 {
            status.trouble.push(format!("{} more folders of incoming/", seen.unreadable_more));
        }
        status.stuck = counts.stuck + counts.stuck_candidates;
        status
    }
}
