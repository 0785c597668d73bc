//! How attempts end: what is recorded of each, whether another follows, and what it says of its route.
//!
//! Must not know: what starts next.
//!
//! Invariants
//! - A failure is charged to one budget at most, and recorded before anything else becomes of its job.
//! - An attempt that did not begin costs nothing.
//! - Nothing leaves `Phase::RecordingOutcome` but by its record.

use super::super::{FailClass, Failure, JobId, Verdict, backoff};
use super::{Core, Effect, Job, Millis, Phase, RouteState};

impl Core {
    /// The attempt did not begin, so it costs nothing.
    pub(super) fn not_started(&mut self, id: JobId, until: Millis) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase == Phase::Running) {
            job.begun = job.begun.saturating_sub(1);
            if let Some(route) = self.routes.get_mut(job.route) {
                route.pace.not_started();
            }
            self.enter(id, Phase::Waiting(until));
        }
    }

    /// The attempt did not begin, and its job goes to another route or to its end.
    pub(super) fn resorted(
        &mut self,
        id: JobId,
        to: Result<usize, Failure>,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase == Phase::Running) else {
            return;
        };
        job.begun = job.begun.saturating_sub(1);
        if let Some(route) = self.routes.get_mut(job.route) {
            route.pace.not_started();
        }
        match to {
            Ok(route) => {
                self.enter(id, Phase::Unrouted);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.route = route;
                }
                self.enter(id, Phase::Ready);
            }
            Err(failure) => self.failed(id, failure, now, out),
        }
    }

    pub(super) fn ended(
        &mut self,
        id: JobId,
        verdict: Verdict,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let is_at_work = |job: &&mut Job| matches!(job.phase, Phase::Running | Phase::Collecting);
        let Some(job) = self.jobs.get_mut(&id).filter(is_at_work) else { return };
        let route = job.route;
        let started = job.started;
        self.note_pace(started, &verdict, now);
        if pace_by_end(&mut self.routes, (route, id), &verdict, now, out) {
            self.shrink_to_shares();
        }
        let Some(job) = self.jobs.get(&id) else { return };
        match verdict {
            Verdict::Done => {
                out.push(outcome(id, job, None));
                self.enter(id, Phase::RecordingOutcome);
                if let Some(route) = self.routes.get_mut(route) {
                    route.failures_in_row = 0;
                }
            }
            Verdict::Failed(failure) => self.failed(id, failure, now, out),
            Verdict::Incomplete { reason, retry_after_ms } => {
                self.incomplete(id, reason, retry_after_ms, now, out);
            }
            Verdict::Misconfigured { reason } => {
                self.release(id, out);
                self.pause(route, reason, out);
            }
            Verdict::Released => self.release(id, out),
        }
    }

    pub(super) fn release(&mut self, id: JobId, out: &mut Vec<Effect>) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.begun = job.begun.saturating_sub(1);
            out.push(Effect::Release { job: id, begun: job.begun });
            self.enter(id, Phase::Ready);
        }
    }

    pub(super) fn pause(&mut self, route: usize, reason: String, out: &mut Vec<Effect>) {
        if let Some(state) = self.routes.get_mut(route).filter(|state| !state.paused) {
            state.paused = true;
            out.push(Effect::Pause { route, reason });
            self.shrink_to_shares();
        }
    }

    /// One attempt more has failed: try again if its budget allows, else it is the outcome.
    pub(super) fn failed(
        &mut self,
        id: JobId,
        mut failure: Failure,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(route) = self.routes.get_mut(job.route) else { return };
        job.incomplete_since = None;
        if let Some(retry_on) = &route.rules.retry_on {
            failure.class = retry_on.class_of(&failure);
        }
        if let Some(budget) = failure.class.budget() {
            job.spent.charge(budget);
            let spent = job.spent.of(budget);
            if spent <= route.rules.retries.of(budget) {
                let wait = backoff::after_failure(id, &failure, spent, &route.rules.backoff);
                let not_before = now.saturating_add(wait);
                out.push(Effect::RecordAttempt {
                    job: id,
                    attempt: job.begun,
                    spent: job.spent,
                    not_before,
                    incomplete_since: None,
                    loss: None,
                    reason: failure.reason,
                });
                self.enter(id, Phase::RecordingAttempt(not_before));
                return;
            }
        }
        out.push(outcome(id, job, Some(failure)));
        route.failures_in_row = route.failures_in_row.saturating_add(1);
        let row = route.failures_in_row;
        let too_many = route.rules.pause_after_failures.is_some_and(|limit| row >= limit);
        let at = job.route;
        self.enter(id, Phase::RecordingOutcome);
        if too_many {
            self.pause(at, format!("{row} jobs failed in a row (pause_after_failures)"), out);
        }
    }

    fn incomplete(
        &mut self,
        id: JobId,
        reason: String,
        asked: Option<u64>,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let since = *job.incomplete_since.get_or_insert(now);
        let waited = now.saturating_sub(since);
        if waited >= self.limits.incomplete_for {
            let reason = format!("incomplete for {} h: {reason}", waited / 3_600_000);
            self.failed(id, Failure::new(FailClass::Permanent, reason), now, out);
            return;
        }
        let not_before = now.saturating_add(backoff::after_incomplete(waited, asked));
        out.push(Effect::RecordAttempt {
            job: id,
            attempt: job.begun,
            spent: job.spent,
            not_before,
            incomplete_since: Some(since),
            loss: None,
            reason: if reason.is_empty() { "incomplete".to_owned() } else { reason },
        });
        self.enter(id, Phase::RecordingAttempt(not_before));
    }

    pub(super) fn recorded(&mut self, id: JobId, now: Millis) {
        match self.jobs.get(&id).map(|job| job.phase.clone()) {
            Some(Phase::RecordingAttempt(at)) if at <= now => self.enter(id, Phase::Ready),
            Some(Phase::RecordingAttempt(at)) => self.enter(id, Phase::Waiting(at)),
            Some(Phase::RecordingOutcome) => {
                self.recording -= 1;
                self.jobs.remove(&id);
            }
            _ => {}
        }
    }
}

/// What the end of an attempt says of its route's worker. `true`: the breaker opened.
pub(super) fn pace_by_end(
    routes: &mut [RouteState],
    (at, job): (usize, JobId),
    verdict: &Verdict,
    now: Millis,
    out: &mut Vec<Effect>,
) -> bool {
    let Some(route) = routes.get_mut(at) else { return false };
    match verdict {
        Verdict::Failed(failure) => match failure.class {
            FailClass::Crash => {
                let Some(count) = route.pace.crashed(job, now) else { return false };
                let reason = format!(
                    "{count} workers crashed in a row ({}); one file is tried every minute",
                    failure.reason
                );
                out.push(Effect::Break { route: at, reason });
                return true;
            }
            // Whether it can run is not known from these.
            FailClass::Timeout | FailClass::Oom | FailClass::Lost => return false,
            FailClass::Fail | FailClass::TryAgain | FailClass::Permanent => {}
        },
        Verdict::Done | Verdict::Incomplete { .. } => {}
        Verdict::Misconfigured { .. } | Verdict::Released => return false,
    }
    if route.pace.answered() {
        out.push(Effect::Mend { route: at });
    }
    false
}

pub(super) fn outcome(id: JobId, job: &Job, failure: Option<Failure>) -> Effect {
    Effect::RecordOutcome { job: id, attempts: job.begun, spent: job.spent, failure }
}
