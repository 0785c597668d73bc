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
use super::super::{FailClass, Failure, JobId, Spent};
use super::ends::outcome;
use super::{Core, Effect, INSANE_WAIT, Job, Millis, Phase, RouteState};

mod ends;

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
        (is_full, at_end, goes_on): (bool, bool, bool),
        now: Millis,
    ) {
        let Some(window) = self.jobs.get_mut(&id).and_then(|job| job.records.as_mut()) else {
            return;
        };
        window.reading = goes_on;
        window.reads_long = goes_on;
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
            let phase = if not_before > now && not_before - now < INSANE_WAIT {
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
        window.reads_long = false;
        window.broken.get_or_insert(failure);
        window.ready.clear();
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
            } else if is_stopped && window.is_still() && (!window.reading || window.reads_long) {
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
            let has_some = job.records.as_ref().is_some_and(|window| window.has_ready());
            let may = has_some && route.may_start(now) && route.used() < route.rules.max_running;
            may.then_some((std::cmp::Reverse(route.rules.priority), route.used(), *id))
        });
        candidates.min().map(|(priority, _, id)| (priority.0, id))
    }

    /// Routes with records that could start now, but for their pace.
    pub(super) fn routes_with_records(&self) -> impl Iterator<Item = &RouteState> {
        let has_ready = |job: &&Job| job.records.as_ref().is_some_and(|window| window.has_ready());
        let jobs = self.open.iter().filter_map(|id| self.jobs.get(id)).filter(has_ready);
        jobs.filter_map(|job| self.routes.get(job.route))
    }

    /// Whether a route may not open a further input: it has enough to do, or there are enough. The first
    /// input of a route is never one too many: those of another one may wait for an hour's backoff.
    pub(super) fn has_open_records(&self, at: usize) -> bool {
        let is_busy = |id: &JobId| {
            self.jobs.get(id).is_some_and(|job| {
                let window = job.records.as_ref();
                job.route == at && window.is_some_and(|it| it.reading || it.has_ready())
            })
        };
        let is_mine = |id: &JobId| self.jobs.get(id).is_some_and(|job| job.route == at);
        let is_of_records = self.routes.get(at).is_some_and(|route| route.rules.records);
        let are_enough =
            || self.open.len() >= self.limits.records.inputs && self.open.iter().any(is_mine);
        is_of_records && (are_enough() || self.open.iter().any(is_busy))
    }

    /// Whether records are asked for that a free slot could have at once.
    pub(super) fn awaits_records(&self) -> bool {
        self.open.iter().any(|id| {
            let window = self.jobs.get(id).and_then(|job| job.records.as_ref());
            window.is_some_and(|it| it.reading && !it.reads_long && it.ready.is_empty())
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
