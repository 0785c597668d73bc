//! What starts next: fills free slots, and the line before them, with claims, jobs and lots of records.
//!
//! Must not know: how an attempt ends.
//!
//! Invariants
//! - At most `slots` jobs run and the line is full; at most `max_running` of a route, none of a paused one.
//! - A claim is asked for only with a place for its job kept.
//! - A suspect starts alone, and nothing starts beside it.

use std::cmp::Ordering;

use super::super::{JobId, Spent};
use super::{Candidate, Core, Effect, Job, Millis, Phase, RouteState, inputs};

pub(super) enum Work {
    Records(JobId),
    Ready(JobId),
    Candidate(usize),
}

impl Core {
    /// Fills free slots, and the line before them.
    pub(super) fn dispatch(&mut self, now: Millis, out: &mut Vec<Effect>) {
        while !self.draining
            && self.starts_allowed
            && self.alone.is_none()
            && self.running + self.promised < self.limits.slots + self.line
        {
            if matches!(self.tend_suspects(now, out), inputs::Suspects::Wait) {
                return;
            }
            if let Some(suspect) = self.first_suspect(now) {
                // It waits for the others to end, and nothing new starts meanwhile. Their ends must be
                // durable, too: if it takes the daemon down, they would count as lost with it.
                if self.running + self.promised + self.recording == 0 {
                    self.start(suspect, now, out);
                }
                return;
            }
            if self.awaits_records() {
                // They come at once, and may be what goes first.
                return;
            }
            let has_slot = self.running + self.promised < self.limits.slots;
            match if has_slot { self.next_work(now) } else { self.next_in_line(now) } {
                Some(Work::Records(job)) => self.start_records(job, now, out),
                Some(Work::Ready(job)) => self.start(job, now, out),
                Some(Work::Candidate(route)) => self.claim_from(route, out),
                None => break,
            }
        }
    }

    fn first_suspect(&self, now: Millis) -> Option<JobId> {
        self.routes
            .iter()
            .filter(|route| route.may_start(now))
            .flat_map(|route| route.ready.iter())
            .find(|id| self.jobs.get(id).is_some_and(Job::is_suspect))
            .copied()
    }

    /// The best thing to start: the highest priority, a claimed job before a candidate.
    fn next_work(&mut self, now: Millis) -> Option<Work> {
        let files = self.next_file(now);
        let (records, files) = match (self.best_records(now), files) {
            (Some((_, job)), None) => return Some(Work::Records(job)),
            (None, files) => return files.map(|(_, work)| work),
            (Some(records), Some(files)) => (records, files),
        };
        let of_files = self.running - self.lots;
        let is_records = match (records.0.cmp(&files.0), self.lots.cmp(&of_files)) {
            (Ordering::Greater, _) | (Ordering::Equal, Ordering::Less) => true,
            (Ordering::Less, _) | (Ordering::Equal, Ordering::Greater) => false,
            (Ordering::Equal, Ordering::Equal) => {
                self.records_next = !self.records_next;
                self.records_next
            }
        };
        Some(if is_records { Work::Records(records.1) } else { files.1 })
    }

    /// The same for whole files, with the priority.
    pub(super) fn next_file(&self, now: Millis) -> Option<(i32, Work)> {
        let ready = self
            .routes
            .iter()
            .enumerate()
            .filter(|(_, route)| route.may_start(now) && route.used() < route.rules.max_running)
            .filter(|(at, _)| !self.has_open_records(*at))
            .filter_map(|(_, route)| route.first_ready().map(|job| (route.rules.priority, job)))
            .min_by_key(|(priority, job)| (std::cmp::Reverse(*priority), *job));
        let queue = if self.may_claim() { self.best_queue(RouteState::used, now) } else { None };
        match (ready, queue) {
            (Some((mine, job)), Some(route)) => {
                let other = self.routes.get(route).map_or(i32::MIN, |r| r.rules.priority);
                let is_ready = mine >= other;
                let work = if is_ready { Work::Ready(job) } else { Work::Candidate(route) };
                Some((mine.max(other), work))
            }
            (Some((mine, job)), None) => Some((mine, Work::Ready(job))),
            (None, Some(route)) => {
                let priority = self.routes.get(route).map_or(i32::MIN, |r| r.rules.priority);
                Some((priority, Work::Candidate(route)))
            }
            (None, None) => None,
        }
    }

    /// The route whose oldest candidate goes first, among those whose `used` is below their cap.
    fn best_queue(&self, used: impl Fn(&RouteState) -> usize, now: Millis) -> Option<usize> {
        self.routes
            .iter()
            .enumerate()
            .filter(|(_, route)| route.may_start(now) && used(route) < route.rules.max_running)
            .filter(|(at, route)| !self.has_open_records(*at) && self.may_wait(route))
            .filter_map(|(at, route)| {
                route
                    .queue
                    .keys()
                    .next()
                    .map(|key| (std::cmp::Reverse(route.rules.priority), *key, at))
            })
            .min()
            .map(|(_, _, at)| at)
    }

    /// Whether a further job of this route may come to wait for another attempt: of all that may wait a route has
    /// no more than it leaves to the others, so that one whose server is away for hours stops none of them.
    fn may_wait(&self, route: &RouteState) -> bool {
        route.waiting < self.limits.waiting.saturating_sub(self.timers.len())
    }

    fn claim_from(&mut self, route: usize, out: &mut Vec<Effect>) {
        let Some(state) = self.routes.get_mut(route) else { return };
        let Some(((order, _), rel)) = state.queue.pop_first() else { return };
        self.known.remove(&rel);
        state.promised += 1;
        self.promised += 1;
        out.push(Effect::Claim { candidate: Candidate { rel, route, order } });
    }

    /// A claim was answered: what it kept is free again, or about to be used.
    pub(super) fn answered(&mut self, route: usize) {
        let Some(state) = self.routes.get_mut(route) else { return };
        state.promised -= 1;
        self.promised -= 1;
    }

    pub(super) fn claimed(&mut self, job: JobId, route: usize, now: Millis, out: &mut Vec<Effect>) {
        self.answered(route);
        self.insert(job, route, Phase::Ready, 0, Spent::default());
        // Another claim of the same moment may have been the failure that paused the route.
        if self.draining || self.is_paused(route) {
            out.push(Effect::Release { job, begun: 0 });
        } else {
            self.start(job, now, out);
        }
    }

    fn start(&mut self, id: JobId, now: Millis, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        assert!(job.phase == Phase::Ready, "{id} starts although it is not ready");
        job.begun = job.begun.saturating_add(1);
        job.started = now;
        let suspect = job.spent.lost > 0;
        let at = job.route;
        out.push(Effect::Start { job: id, route: at, attempt: job.begun, suspect });
        if let Some(route) = self.routes.get_mut(at) {
            route.pace.started(now);
        }
        self.enter(id, Phase::Running);
    }
}
