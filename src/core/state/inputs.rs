//! Jobs whose records are tasks of their own: they hold no slot themselves, their records do.
//!
//! Must not know: what a record says, how it is read.
//!
//! A job with records starts like any other; what its start opens is then [`Phase::Open`], and its slot is
//! free again. Its records take slots as jobs do. Records and whole files of the same priority have half of
//! the slots each where both wait; of a route, the oldest input goes first, and the next one is opened only
//! when the slots would be idle. Records are handed out in lots that take a few milliseconds, so that a
//! million short ones do not cost a million wake-ups; a record that runs alone or was tried before is a lot.
//!
//! Invariants
//! - An open job is closed when nothing of it runs and nothing more may start: its attempt costs nothing.
//! - A job has its outcome only when every record is over or the input is broken.
//! - A suspect starts only after the line that says so is durable, and with nothing else in any slot.

use super::super::records::{Loss, Past, Phase as SlipPhase, Slip, Tried, Window};
use super::super::{FailClass, Failure, JobId, Spent, Verdict, backoff};
use super::ends::{outcome, pace_by_end};
use super::{Core, Effect, Job, Millis, Phase, RouteState};

/// What became of the wish to run a record alone.
pub(super) enum Suspects {
    /// There are none that may start.
    None,
    /// Nothing else may start now.
    Wait,
}

impl Core {
    /// What is over of a job's records.
    pub fn progress(&self, job: JobId) -> Option<&super::super::records::Progress> {
        self.jobs.get(&job)?.records.as_ref().map(|window| &window.progress)
    }

    /// Records of a job that a slot has, and its records that wait for another attempt.
    pub fn records_on_their_way(&self, job: JobId) -> (usize, usize) {
        let Some(window) = self.jobs.get(&job).and_then(|job| job.records.as_ref()) else {
            return (0, 0);
        };
        let count = |is: fn(&SlipPhase) -> bool| {
            window.slips.values().filter(|slip| is(&slip.phase)).count()
        };
        (
            count(|phase| *phase == SlipPhase::Running),
            count(|phase| matches!(phase, SlipPhase::Waiting(_) | SlipPhase::RecordingAttempt(_))),
        )
    }

    /// The start of a job with records is over: it is open, and its slot is free.
    pub(super) fn opened(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| job.phase == Phase::Running) {
            job.records.get_or_insert_with(Box::default);
            // What has a rate is the records.
            if let Some(route) = self.routes.get_mut(job.route) {
                route.pace.not_started();
            }
            self.enter(id, Phase::Open);
        }
    }

    /// Records were read.
    pub(super) fn read(
        &mut self,
        id: JobId,
        numbers: &[u64],
        is_full: bool,
        at_end: bool,
        now: Millis,
    ) {
        let Some(window) = self.jobs.get_mut(&id).and_then(|job| job.records.as_mut()) else {
            return;
        };
        window.reading = false;
        window.is_full = is_full;
        window.at_end = at_end;
        for no in numbers {
            if window.progress.contains(*no) {
                continue;
            }
            if let Some(slip) = window.slips.get_mut(no) {
                slip.is_read = true;
                continue;
            }
            let Tried { begun, spent, not_before } = window.past.remove(no).unwrap_or_default();
            let phase = if not_before > now {
                self.record_timers.insert((not_before, id, *no));
                SlipPhase::Waiting(not_before)
            } else {
                window.ready.insert(*no);
                SlipPhase::Ready
            };
            window.slips.insert(*no, Slip { phase, begun, spent, is_read: true });
        }
    }

    /// The input cannot be read on: what runs ends, what is recorded stays, then the job fails.
    pub(super) fn input_broken(&mut self, id: JobId, failure: Failure) {
        let Some(window) = self.jobs.get_mut(&id).and_then(|job| job.records.as_mut()) else {
            return;
        };
        window.reading = false;
        window.broken.get_or_insert(failure);
        window.ready.clear();
    }

    /// A slot is done with a record; `is_last`: and with its lot.
    pub(super) fn record_ended(
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
            self.shrink_to_share(at);
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
    fn take_back_announced(&mut self, id: JobId, out: &mut Vec<Effect>) -> bool {
        let Some(window) = self.jobs.get(&id).and_then(|job| job.records.as_ref()) else {
            return false;
        };
        let announced = window.slips.iter().find(|(_, s)| s.phase == SlipPhase::Announced);
        let Some(no) = announced.map(|(no, _)| *no) else { return false };
        self.give_back(id, no, 0, out);
        true
    }

    fn record_failed(
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
    pub(super) fn record_recorded(&mut self, id: JobId, no: u64, failed: bool, now: Millis) {
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

    pub(super) fn fire_record_timers(&mut self, now: Millis) {
        while let Some((at, id, no)) = self.record_timers.first().copied() {
            if at > now {
                break;
            }
            self.record_timers.pop_first();
            let Some(window) = self.jobs.get_mut(&id).and_then(|job| job.records.as_mut()) else {
                continue;
            };
            if let Some(slip) = window.slips.get_mut(&no)
                && slip.phase == SlipPhase::Waiting(at)
            {
                slip.phase = SlipPhase::Ready;
                window.ready.insert(no);
            }
        }
    }

    /// Asks for more records, and ends or closes what can be. Open jobs are few.
    pub(super) fn tend_inputs(&mut self, out: &mut Vec<Effect>) {
        for id in self.open.clone() {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let Some(window) = job.records.as_mut() else { continue };
            let is_paused = self.routes.get(job.route).is_none_or(|route| route.paused);
            let is_stopped = self.draining || is_paused;
            if window.is_over() {
                self.record_timers.retain(|(_, of, _)| *of != id);
                match window.broken.take() {
                    Some(failure) => {
                        out.push(outcome(id, job, Some(failure)));
                        self.enter(id, Phase::RecordingOutcome);
                    }
                    None if window.progress.failed() > 0 => {
                        out.push(Effect::Collect { job: id });
                        self.enter(id, Phase::Collecting);
                    }
                    None => {
                        out.push(outcome(id, job, None));
                        self.enter(id, Phase::RecordingOutcome);
                    }
                }
            } else if is_stopped && window.is_still() && !window.reading {
                if self.take_back_announced(id, out) {
                    continue;
                }
                if let Some(window) = self.jobs.get_mut(&id).and_then(|job| job.records.as_mut()) {
                    window.close();
                }
                self.record_timers.retain(|(_, of, _)| *of != id);
                self.release(id, out);
            } else if !is_stopped && window.wants_records(self.limits.records.window) {
                window.reading = true;
                let most = self.limits.records.window.saturating_sub(window.slips.len());
                out.push(Effect::ReadRecords { job: id, most });
            }
        }
    }

    /// Starts, or gets ready to start, a record that must run alone.
    pub(super) fn tend_suspects(&mut self, now: Millis, out: &mut Vec<Effect>) -> Suspects {
        let mut suspect = None;
        if !self.claims_allowed {
            return Suspects::None;
        }
        for id in &self.open {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            let Some(window) = job.records.as_mut() else { continue };
            if self.routes.get(job.route).is_none_or(|route| !route.may_start(now)) {
                continue;
            }
            let below = window.suspects_below(job.spent.lost);
            let announced = window
                .slips
                .range(..below)
                .find(|(_, slip)| {
                    matches!(slip.phase, SlipPhase::Announcing | SlipPhase::Announced)
                })
                .map(|(no, _)| *no);
            let next = announced.or_else(|| window.ready.range(..below).next().copied());
            if let Some(no) = next {
                suspect = Some((*id, no));
                break;
            }
        }
        let Some((id, no)) = suspect else { return Suspects::None };
        // It waits for the others to end, and their ends must be durable, too: if it takes the daemon
        // down, they would be lost with it.
        if self.running + self.promised + self.recording > 0 {
            return Suspects::Wait;
        }
        let Some(job) = self.jobs.get_mut(&id) else { return Suspects::Wait };
        let at = job.route;
        let Some(window) = job.records.as_mut() else { return Suspects::Wait };
        let Some(slip) = window.slips.get_mut(&no) else { return Suspects::Wait };
        slip.begun = slip.begun.saturating_add(u32::from(slip.phase == SlipPhase::Ready));
        if slip.phase == SlipPhase::Announced {
            slip.phase = SlipPhase::Running;
            let attempt = slip.begun;
            window.lots += 1;
            self.alone = Some(id);
            self.count_lot(at, now);
            out.push(Effect::StartRecords { job: id, route: at, lot: vec![(no, attempt)] });
        } else {
            window.ready.remove(&no);
            slip.phase = SlipPhase::Announcing;
            window.recording += 1;
            self.recording += 1;
            let tried = Tried { begun: slip.begun, spent: slip.spent, not_before: 0 };
            let reason = "runs alone".to_owned();
            out.push(Effect::RecordTried { job: id, no, tried, alone: true, reason });
        }
        Suspects::Wait
    }

    fn count_lot(&mut self, at: usize, now: Millis) {
        self.running += 1;
        self.lots += 1;
        if let Some(route) = self.routes.get_mut(at) {
            route.running += 1;
            route.lots += 1;
            route.pace.started(now);
        }
    }

    /// Gives a slot the next records of a job.
    pub(super) fn start_records(&mut self, id: JobId, now: Millis, out: &mut Vec<Effect>) {
        let (lot_us, most) = (self.limits.records.lot_us, self.limits.records.lot_most);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let at = job.route;
        // A rate counts each record, and an open breaker tries one.
        let is_slow = self.routes.get(at).is_some_and(|route| route.pace.is_slow());
        let most = if is_slow { 1 } else { most };
        let Some(window) = job.records.as_mut() else { return };
        let lot = window.take_lot(window.lot_size(lot_us, most));
        if !lot.is_empty() {
            self.count_lot(at, now);
            out.push(Effect::StartRecords { job: id, route: at, lot });
        }
    }

    /// The open job whose records go first, with its route's priority: of the highest, the route that
    /// uses the fewest slots, and its oldest job.
    pub(super) fn best_records(&self, now: Millis) -> Option<(i32, JobId)> {
        if !self.claims_allowed {
            return None;
        }
        let candidates = self.open.iter().filter_map(|id| {
            let job = self.jobs.get(id)?;
            let route = self.routes.get(job.route)?;
            let has_some = job.records.as_ref().is_some_and(|window| !window.ready.is_empty());
            let may = has_some && route.may_start(now) && route.used() < route.rules.max_running;
            may.then_some((std::cmp::Reverse(route.rules.priority), route.used(), *id))
        });
        candidates.min().map(|(priority, _, id)| (priority.0, id))
    }

    /// Routes with records that could start now, but for their pace.
    pub(super) fn routes_with_records(&self) -> impl Iterator<Item = &RouteState> {
        let has_ready =
            |job: &&Job| job.records.as_ref().is_some_and(|window| !window.ready.is_empty());
        let jobs = self.open.iter().filter_map(|id| self.jobs.get(id)).filter(has_ready);
        jobs.filter_map(|job| self.routes.get(job.route))
    }

    /// Whether a route may not open a further input: it has enough to do, or there are enough.
    pub(super) fn has_open_records(&self, at: usize) -> bool {
        let is_busy = |id: &JobId| {
            self.jobs.get(id).is_some_and(|job| {
                let window = job.records.as_ref();
                job.route == at && window.is_some_and(|it| it.reading || !it.ready.is_empty())
            })
        };
        let is_of_records = self.routes.get(at).is_some_and(|route| route.rules.records);
        is_of_records
            && (self.open.len() >= self.limits.records.inputs || self.open.iter().any(is_busy))
    }

    /// Whether records are asked for that a free slot could have at once.
    pub(super) fn awaits_records(&self) -> bool {
        self.open.iter().any(|id| {
            let window = self.jobs.get(id).and_then(|job| job.records.as_ref());
            window.is_some_and(|window| window.reading && window.ready.is_empty())
        })
    }

    /// A job with records that recovery found: what its losses mean. `false`: an ordinary job.
    pub(super) fn recovered_input(
        &mut self,
        id: JobId,
        past: Option<Past>,
        is_lost: bool,
        now: Millis,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(past) = past else { return false };
        let alone = past.alone;
        let Some(job) = self.jobs.get_mut(&id) else { return true };
        let begun = job.begun;
        let window = job.records.insert(Box::new(Window::new(past)));
        if !is_lost {
            return true;
        }
        let Some(lost_limit) = self.routes.get(job.route).map(|route| route.rules.retries.lost)
        else {
            return true;
        };
        let failure = || Failure::new(FailClass::Lost, "lost: inboxd or the machine died under it");
        let mut spent = job.spent;
        if let Some((no, tried)) = alone.filter(|(no, _)| !window.progress.contains(*no)) {
            // It ran alone, so it is this one.
            window.past.remove(&no);
            let Tried { begun, spent, .. } = tried;
            let slip = Slip { phase: SlipPhase::Running, begun, spent, is_read: false };
            window.slips.insert(no, slip);
            self.record_failed(id, no, failure(), now, out);
        } else {
            spent.lost = window.charge_loss(spent.lost, self.limits.records.window as u64);
            if spent.lost > lost_limit {
                job.spent = spent;
                out.push(outcome(id, job, Some(failure())));
                self.enter(id, Phase::RecordingOutcome);
                return true;
            }
        }
        let Some(job) = self.jobs.get_mut(&id) else { return true };
        job.spent = spent;
        let loss = job.records.as_ref().and_then(|window| window.loss);
        self.lost_attempt(id, begun, spent, loss, now, out);
        true
    }

    fn lost_attempt(
        &mut self,
        id: JobId,
        attempt: u32,
        spent: Spent,
        loss: Option<Loss>,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        out.push(Effect::RecordAttempt {
            job: id,
            attempt,
            spent,
            not_before: now,
            incomplete_since: None,
            loss,
            reason: "lost: inboxd or the machine died under it".to_owned(),
        });
        self.enter(id, Phase::RecordingAttempt(now));
    }
}

#[cfg(test)]
mod tests;
