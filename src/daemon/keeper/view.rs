//! What others may ask the keeper.
//!
//! Must not know: who asks, how it is shown.
//!
//! Invariants
//! - A question changes nothing.

use std::collections::{BTreeMap, HashSet};

use super::{Keeper, ScanCounts, Shortage};
use crate::config::limits;
use crate::core::state::{Counts, Millis};
use crate::core::{JobId, RelPath};
use crate::daemon::service::{Found, RouteLoad, Wanted};
use crate::fs::Filesystem;
use crate::journal::record::SourceKey;
use crate::worker::{ProgramState, program_state};

impl<F: Filesystem> Keeper<F> {
    /// How many of each.
    pub fn counts(&self) -> Counts {
        self.core.counts()
    }

    /// How many files of each route wait and were not given to the pool, by its name.
    pub fn loads(&self) -> BTreeMap<String, RouteLoad> {
        let of = |at: &usize| {
            let load = RouteLoad { waiting: self.core.waiting_for(*at), running: 0 };
            (self.route_name(*at), load)
        };
        self.places.iter().map(of).collect()
    }

    /// Whether a slot has a job.
    pub fn is_busy(&self) -> bool {
        self.core.running() > 0
    }

    /// Nothing that is known in `incoming/` could be claimed now.
    pub fn is_dry(&self) -> bool {
        self.core.is_dry()
    }

    /// What the last whole pass over `incoming/` saw.
    pub fn seen(&self) -> &ScanCounts {
        &self.seen
    }

    /// Claimed jobs that no route takes any more: how many, and the name of one.
    pub fn unrouted_jobs(&self) -> (u64, Option<&RelPath>) {
        let mut unrouted = self.jobs.values().filter(|info| info.route >= self.routes.len());
        let example = unrouted.next().map(|info| &info.rel);
        (u64::from(example.is_some()).saturating_add(unrouted.count() as u64), example)
    }

    /// When the oldest name in the window came into `incoming/` or changed there, in Unix milliseconds.
    pub fn oldest_ms(&self) -> Option<Millis> {
        let ns = u64::try_from(self.core.oldest()?).ok()?;
        Some(ns / 1_000_000)
    }

    /// Claimed jobs that no slot has and that wait for no time of their own: so many are ahead of the slots.
    pub fn idle_jobs(&self) -> usize {
        self.jobs.len().saturating_sub(self.core.running() + self.core.waiting())
    }

    /// Whether sources may become jobs now.
    pub fn may_take(&self) -> bool {
        self.core.may_claim()
    }

    /// What was handed in under this id is a job, durably, whatever of it is still to be done.
    pub fn has_taken(&self, job: JobId) -> bool {
        self.jobs.contains_key(&job) && self.is_recorded()
    }

    /// Sources recorded or taken whose keys are not in the index on disk yet.
    pub fn recent_sources(&self) -> HashSet<SourceKey> {
        let taken = self.jobs.values().filter_map(|info| info.take.as_ref()?.source);
        self.new_sources.iter().copied().chain(taken).collect()
    }

    /// Whether the scan should read on: the window has room for a good part of it.
    pub fn wants_names(&self) -> bool {
        !self.draining && self.core.room() > limits::WINDOW / 2
    }

    /// Whether anything was recorded since the journal segment began.
    pub fn has_news(&self) -> bool {
        self.has_news || !self.new_sources.is_empty()
    }

    /// A checkpoint's sync has not returned.
    pub fn is_checkpointing(&self) -> bool {
        self.checkpointing
    }

    /// What a thread needs that syncs for a checkpoint.
    pub fn sync_handle(&self) -> (F, F::Dir) {
        (self.spool.fs.clone(), self.spool.root.clone())
    }

    /// What a route's worker would run now, to see that it was mended.
    pub fn program_state(&self, route: &str) -> Option<ProgramState> {
        let route = self.routes.iter().find(|known| known.name == route)?;
        program_state(route, &self.path)
    }

    /// Free and total bytes of the spool's filesystem.
    pub fn free_disk(&self) -> Option<(u64, u64)> {
        crate::fs::real::free_space(&self.path).ok()
    }

    /// What there is too little of, as far as that was met.
    pub fn short_of(&self) -> Option<Shortage> {
        self.short_of
    }

    /// Known files that wait for a route.
    pub fn waiting_for(&self, route: &str) -> usize {
        let route = self.routes.iter().position(|known| known.name == route);
        route.map_or(0, |route| self.core.waiting_for(route))
    }

    /// Whether a slot has the job of this id, or the record of this number of it, both as text.
    pub fn is_running(&self, job: &[u8], record: Option<&[u8]>) -> bool {
        let job = std::str::from_utf8(job).ok().and_then(|text| text.parse().ok());
        let record = record.and_then(|no| std::str::from_utf8(no).ok()?.parse().ok());
        job.is_some_and(|job| self.core.is_running(job, record))
    }

    /// What is known of a job that is on its way.
    pub fn find(&self, wanted: &Wanted, now: Millis) -> Option<Found> {
        let (job, info) = match wanted {
            Wanted::Job(job) => (job, self.jobs.get(job)?),
            Wanted::Rel(rel) => self.jobs.iter().find(|(_, info)| info.rel == *rel)?,
        };
        let (state, at) = self.core.describe(*job)?;
        Some(Found {
            job: *job,
            rel: info.rel.to_string(),
            route: self.route_name(info.route),
            state: self.waits.state_of(*job).unwrap_or(state).to_owned(),
            attempt: info.begun,
            reason: info.attempt.as_ref().map(|attempt| attempt.reason.clone()),
            wait_ms: at.map(|at| at.saturating_sub(now)),
            records: self.records_found(*job),
        })
    }
}
