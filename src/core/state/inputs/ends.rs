//! How attempts at records end: what is recorded of each, whether another follows, and what it says of the
//! route. As `state::ends`, for records.
//!
//! Must not know: what starts next, what a record says.
//!
//! Invariants
//! - A failure is charged to one budget at most, and recorded before anything else becomes of its record.
//! - An attempt that did not count costs nothing; that it ran alone is taken back by a line.

use super::super::ends::pace_by_end;
use super::super::{Core, Effect, Millis};
use super::SlipPhase;
use crate::core::records::Tried;
use crate::core::{FailClass, Failure, JobId, Verdict, backoff};

impl Core {
    /// A slot is done with a record; `is_last`: and with its lot.
    pub(in crate::core::state) fn record_ended(
        &mut self,
        id: JobId,
        no: u64,
        verdict: Verdict,
        (took_us, is_last): (u64, bool),
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(at) = self.jobs.get(&id).map(|job| job.route) else { return };
        if pace_by_end(&mut self.routes, (at, id), &verdict, now, out) {
            self.shrink_to_shares();
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(window) = job.records.as_mut() else { return };
        if is_last {
            window.lots = window.lots.saturating_sub(1);
            self.running -= 1;
            self.lots -= 1;
            if let Some(route) = self.routes.get_mut(at) {
                route.running -= 1;
                route.lots -= 1;
            }
            if self.alone == Some(id) {
                self.alone = None;
            }
        }
        if matches!(verdict, Verdict::Done | Verdict::Failed(_)) {
            window.note_pace(took_us);
        }
        let Some(slip) = window.slips.get_mut(&no).filter(|s| s.phase == SlipPhase::Running) else {
            return;
        };
        match verdict {
            Verdict::Done => {
                let attempts = slip.begun;
                slip.phase = SlipPhase::RecordingOutcome;
                window.recording += 1;
                self.recording += 1;
                out.push(Effect::RecordInput { job: id, no, attempts, failure: None });
                if let Some(route) = self.routes.get_mut(at) {
                    route.failures_in_row = 0;
                }
            }
            Verdict::Failed(failure) => {
                self.record_failed(id, no, failure, now, out);
            }
            Verdict::Incomplete { reason, retry_after_ms } => {
                // A record cannot grow like a file: whoever calls it so wants to be asked again.
                let reason = format!("incomplete: {reason}");
                let failure =
                    Failure { retry_after_ms, ..Failure::new(FailClass::TryAgain, reason) };
                self.record_failed(id, no, failure, now, out);
            }
            Verdict::Misconfigured { reason } => {
                self.give_back(id, no, now, out);
                self.pause(at, reason, out);
            }
            Verdict::Released => self.give_back(id, no, now, out),
        }
    }

    /// The attempt did not count: the record may start again. That it ran alone is taken back by a line,
    /// so that a later loss does not accuse it.
    fn give_back(&mut self, id: JobId, no: u64, now: Millis, out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(window) = job.records.as_mut() else { return };
        let ran_alone = no < window.suspects_below(job.spent.lost);
        let Some(slip) = window.slips.get_mut(&no) else { return };
        slip.begun = slip.begun.saturating_sub(1);
        if ran_alone {
            slip.phase = SlipPhase::RecordingAttempt(now);
            window.recording += 1;
            self.recording += 1;
            let tried = Tried { begun: slip.begun, spent: slip.spent, not_before: now };
            let reason = "did not run".to_owned();
            out.push(Effect::RecordTried { job: id, no, tried, alone: false, reason });
        } else {
            slip.phase = SlipPhase::Ready;
            window.ready.insert(no);
        }
    }

    /// What was announced and will not start now is taken back. `true`: there was something.
    pub(super) fn take_back_announced(&mut self, id: JobId, out: &mut Vec<Effect>) -> bool {
        let Some(window) = self.jobs.get(&id).and_then(|job| job.records.as_ref()) else {
            return false;
        };
        let announced = window.slips.iter().find(|(_, s)| s.phase == SlipPhase::Announced);
        let Some(no) = announced.map(|(no, _)| *no) else { return false };
        self.give_back(id, no, 0, out);
        true
    }

    pub(super) fn record_failed(
        &mut self,
        id: JobId,
        no: u64,
        mut failure: Failure,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let at = job.route;
        let Some(route) = self.routes.get_mut(at) else { return };
        if let Some(retry_on) = &route.rules.retry_on {
            failure.class = retry_on.class_of(&failure);
        }
        let Some(window) = job.records.as_mut() else { return };
        let Some(slip) = window.slips.get_mut(&no) else { return };
        window.recording += 1;
        self.recording += 1;
        let attempt = slip.begun;
        if let Some(budget) = failure.class.budget() {
            slip.spent.charge(budget);
            let spent = slip.spent.of(budget);
            if spent <= route.rules.retries.of(budget) {
                let wait = backoff::after_failure(id, &failure, spent, &route.rules.backoff);
                let not_before = now.saturating_add(wait);
                slip.phase = SlipPhase::RecordingAttempt(not_before);
                let tried = Tried { begun: attempt, spent: slip.spent, not_before };
                let reason = failure.reason;
                out.push(Effect::RecordTried { job: id, no, tried, alone: false, reason });
                return;
            }
        }
        slip.phase = SlipPhase::RecordingOutcome;
        out.push(Effect::RecordInput { job: id, no, attempts: attempt, failure: Some(failure) });
        route.failures_in_row = route.failures_in_row.saturating_add(1);
        let row = route.failures_in_row;
        if route.rules.pause_after_failures.is_some_and(|limit| row >= limit) {
            self.pause(at, format!("{row} records failed in a row (pause_after_failures)"), out);
        }
    }

    /// A line about a record is durable.
    pub(in crate::core::state) fn record_recorded(
        &mut self,
        id: JobId,
        no: u64,
        failed: bool,
        now: Millis,
    ) {
        let Some(window) = self.jobs.get_mut(&id).and_then(|job| job.records.as_mut()) else {
            return;
        };
        let Some(slip) = window.slips.get_mut(&no) else { return };
        let tried = |not_before| Tried { begun: slip.begun, spent: slip.spent, not_before };
        match slip.phase {
            SlipPhase::RecordingOutcome => {
                window.progress.record(no, failed);
                window.slips.remove(&no);
                window.is_full = false;
            }
            SlipPhase::RecordingAttempt(at) if !slip.is_read => {
                window.past.insert(no, tried(at));
                window.slips.remove(&no);
            }
            SlipPhase::RecordingAttempt(at) if at <= now => {
                slip.phase = SlipPhase::Ready;
                window.ready.insert(no);
            }
            SlipPhase::RecordingAttempt(at) => {
                slip.phase = SlipPhase::Waiting(at);
                self.record_timers.insert((at, id, no));
            }
            SlipPhase::Announcing => slip.phase = SlipPhase::Announced,
            _ => return,
        }
        window.recording = window.recording.saturating_sub(1);
        self.recording -= 1;
    }
}
