//! Carries out what the core decides, in the core's order, and tells it what came of it.
//!
//! Must not know: why something was decided.
//!
//! Invariant: the answer to an effect is an event whose effects come after those that already wait,
//! but a start comes before the next claim, so that a free slot waits for nothing.

use std::io;
use std::sync::Arc;

use super::{JobInfo, Keeper, KeeperError, Output, Shortage, settle_outcome};
use crate::config::OnRepeat;
use crate::core::state::{Candidate, Effect, Event, Millis};
use crate::core::{FailClass, Failure, JobId, RelPath, Verdict};
use crate::daemon::notice::{Notice, Paused};
use crate::daemon::sight::{Companions, Judged};
use crate::fs::{FileType, Filesystem, is_shortage};
use crate::journal::record::{Attempt, FileMark, Outcome, Record};
use crate::spool::claim::Claim;
use crate::spool::{Claimed, Place, Shape, Spool};
use crate::worker::Task;

/// A claim that failed for want of something is tried again after this long, in milliseconds.
const REFUSED_AGAIN_MS: Millis = 10_000;

impl<F: Filesystem> Keeper<F> {
    pub(in crate::daemon) fn step(&mut self, event: Event, now: Millis) -> Result<(), KeeperError> {
        let mut effects = Vec::new();
        self.core.step(event, now, &mut effects);
        let first = self.effects.is_empty();
        if first {
            self.may_read_again();
        }
        // Starts first: they need nothing of what else one event leads to, and a slot waits for them. But
        // what is released may start again at once, and must have its name back before.
        effects.sort_by_key(|effect| match effect {
            Effect::Release { .. } => 0,
            Effect::Start { .. } | Effect::StartRecords { .. } => 1,
            _ => 2,
        });
        self.effects.extend(effects);
        // An effect's answer is an event whose effects come after those already waiting.
        if first { self.carry_out_all(now) } else { Ok(()) }
    }

    /// From now on a call returns as soon as it has put out an [`Output::Start`], and
    /// [`Keeper::go_on`] does the rest: a slot should not wait for the next claim.
    pub fn hurry_starts(&mut self) {
        self.hurries = true;
    }

    /// Does what the last call left to do. To be called until `false`, with the outputs taken each
    /// time, before anything else.
    pub fn go_on(&mut self, now: Millis) -> Result<bool, KeeperError> {
        if self.effects.is_empty() {
            return Ok(false);
        }
        self.carry_out_all(now)?;
        Ok(true)
    }

    pub(super) fn carry_out_all(&mut self, now: Millis) -> Result<(), KeeperError> {
        while let Some(effect) = self.effects.front().cloned() {
            let is_start = matches!(effect, Effect::Start { .. } | Effect::StartRecords { .. });
            self.carry_out(effect, now)?;
            self.effects.pop_front();
            if is_start && self.hurries {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn carry_out(&mut self, effect: Effect, now: Millis) -> Result<(), KeeperError> {
        match effect {
            Effect::Claim { candidate } => self.claim(candidate, now),
            Effect::Start { job, route, attempt, suspect } => {
                self.start(job, route, attempt, suspect, now)
            }
            Effect::RecordAttempt {
                job,
                attempt,
                spent,
                not_before,
                incomplete_since,
                loss,
                reason,
            } => {
                self.clear_attempt(job, true, now);
                self.folders.close(job);
                let record = Attempt {
                    job,
                    attempt,
                    spent,
                    not_before_ms: not_before,
                    incomplete_since_ms: incomplete_since,
                    loss,
                    reason,
                };
                self.append(Record::Attempt(record), now)
            }
            Effect::RecordOutcome { job, attempts, spent, failure } => {
                self.record_outcome(job, attempts, spent, failure, now)
            }
            Effect::ReadRecords { job, most } => self.read_records(job, most, now),
            Effect::StartRecords { job, route, lot } => {
                self.start_records(job, route, &lot);
                Ok(())
            }
            Effect::RecordTried { job, no, tried, alone, reason } => {
                self.record_tried(job, no, tried, (alone, reason), now)
            }
            Effect::RecordInput { job, no, attempts, failure } => {
                self.record_input(job, no, attempts, failure, now)
            }
            Effect::Collect { job } => {
                self.collect(job, now);
                Ok(())
            }
            Effect::Release { job, begun } => {
                self.close_input(job);
                self.release(job, begun, now)
            }
            Effect::Pause { route, reason } => {
                let why = self.why_paused(route, reason, false);
                let route = self.route_name(route);
                self.out.push(Output::Notice(Notice::Paused { route, why }));
                Ok(())
            }
            Effect::Break { route, reason } => {
                let why = self.why_paused(route, reason, true);
                let route = self.route_name(route);
                self.out.push(Output::Notice(Notice::Broken { route, why }));
                Ok(())
            }
            Effect::Mend { route } => {
                let route = self.route_name(route);
                self.out.push(Output::Notice(Notice::Mended { route }));
                Ok(())
            }
        }
    }

    fn why_paused(&self, route: usize, reason: String, is_tried: bool) -> Paused {
        let files = self.core.waiting_for(route);
        let fix = self.routes.get(route).map(|it| it.place_to_mend(&reason));
        Paused { reason, fix: fix.unwrap_or_default(), files, is_tried }
    }

    pub(super) fn claim(&mut self, candidate: Candidate, now: Millis) -> Result<(), KeeperError> {
        let (proof, before) = match self.judge(&candidate, now) {
            Judged::Claim(proof, before) => (proof, before),
            Judged::Wait(until) => {
                return self.step(Event::Held { candidate, until: Some(until) }, now);
            }
        };
        if candidate.route == self.sorting
            && let Some(event) = self.sort_candidate(&candidate, now)
        {
            return self.step(event, now);
        }
        let job = self.next_id(now);
        let route = candidate.route;
        let is_folder = self.takes_folders(route);
        let (claimed, made) = if is_folder {
            let shape = Shape::folder(&candidate.rel);
            let claimed = Claimed { job, begun: 1, shape };
            (claimed, self.spool.claim_folder(&candidate.rel, claimed))
        } else {
            let shape = self.shape_of_file(&candidate);
            let claimed = Claimed { job, begun: 1, shape };
            (claimed, self.spool.claim(&candidate.rel, claimed, before, &mut self.folders))
        };
        let file = match made {
            Claim::Made(file) => file,
            Claim::Gone => {
                // So it looks, too, where there is no folder of ours to claim into.
                self.miss_folders()?;
                self.waits.forget(&candidate.rel);
                return self.step(Event::Held { candidate, until: None }, now);
            }
            Claim::Refused(error) => {
                let until = if is_shortage(&error) {
                    self.is_short(Shortage::of(&error), now)?;
                    now.saturating_add(REFUSED_AGAIN_MS)
                } else {
                    self.refused(&candidate.rel, &error, now)
                };
                let until = Some(until);
                return self.step(Event::Held { candidate, until }, now);
            }
        };
        if let Some(outcome) = self.reappeared(&file.mark) {
            // Recorded before a power cut that undid its claim: it is settled, not run again.
            self.settle_reappeared(outcome, claimed, now)?;
            return self.step(Event::Held { candidate, until: None }, now);
        }
        let info = JobInfo {
            rel: candidate.rel,
            route,
            begun: claimed.begun,
            shape: claimed.shape,
            mark: file.mark,
            take: None,
            attempt: None,
            ended: None,
            begun_as: None,
        };
        self.jobs.insert(job, info);
        let expected = if is_folder { FileType::Dir } else { FileType::File };
        if file.stat.file_type == expected {
            self.claimed_with(job, claimed, proof, &file);
            // What could not be brought is told, and asked for again before the first attempt.
            self.bring_companions(job).unwrap_or(());
            return self.step(Event::Claimed { job, route }, now);
        }
        let reason = if is_folder { "not a folder" } else { "not a regular file" };
        let failure = Failure::new(FailClass::Permanent, reason);
        self.step(Event::Rejected { job, route, failure }, now)
    }

    pub(super) fn reappeared(&mut self, mark: &FileMark) -> Option<Outcome> {
        let known = self.reappearing.get(&mark.ino)?;
        let old = &known.file;
        // ctime as before the claim, or as after it: the rename may be lost and the inode kept.
        let same = old.btime_ns == mark.btime_ns
            && (old.before_ns == mark.before_ns || old.after_ns == mark.before_ns);
        if same { self.reappearing.remove(&mark.ino) } else { None }
    }

    /// Where there is too little of something for that, it is tried again.
    pub(super) fn settle_reappeared(
        &mut self,
        outcome: Outcome,
        claimed: Claimed,
        now: Millis,
    ) -> Result<(), KeeperError> {
        match settle_outcome(&self.spool, &outcome, claimed, true, &mut self.folders) {
            Ok(settled) => {
                let rel = outcome.rel.0;
                self.out.push(Output::Notice(Notice::Reappeared { rel, settled }));
                Ok(())
            }
            Err(error) if error.is_shortage() => {
                self.unsettled.push_back((outcome, claimed));
                self.is_short(Shortage::of(&error), now)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn start(
        &mut self,
        job: JobId,
        route: usize,
        attempt: u32,
        suspect: bool,
        now: Millis,
    ) -> Result<(), KeeperError> {
        // Where its name could not be taken back for want of room, it is the right one once more.
        self.deferred.retain(|it| !matches!(it, Effect::Release { job: of, .. } if *of == job));
        if let Some(until) = self.still_written(job, attempt, now)? {
            return self.step(Event::Busy { job, until }, now);
        }
        match self.companions_are_there(job, attempt, now)? {
            Companions::Ready => {}
            Companions::Busy(until) => return self.step(Event::Busy { job, until }, now),
            Companions::Later(rel, error) => {
                return self.refuse_start(job, attempt, (rel, &error), now);
            }
            Companions::Unfit(failure) => {
                return self.step(Event::Ended { job, verdict: Verdict::Failed(failure) }, now);
            }
        }
        if let Some(event) = self.sort_claimed(job, route) {
            self.note_route(&event);
            self.take_back(job, attempt, now)?;
            return self.step(event, now);
        }
        let durable = self.make_claim_durable(job)?;
        let (Some(info), Some(route)) = (self.jobs.get_mut(&job), self.routes.get(route)) else {
            return Ok(());
        };
        let from = info.claimed(job);
        let claimed = from.with_begun(attempt);
        if durable.is_ok() {
            info.begun_as = Some(Arc::clone(route));
        }
        let made = || -> io::Result<Place> {
            durable?;
            if from != claimed {
                self.spool.set_begun(from, claimed)?;
            }
            info.begun = attempt;
            if suspect {
                // The name with this attempt is durable from here: if it takes the machine down again, that counts.
                self.spool.fs.sync_dir(&self.spool.processing)?;
            }
            self.spool.make_attempt_folders(claimed, route.output, &mut self.folders)
        }();
        let scratch = match made {
            Ok(scratch) => scratch,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let failure =
                    Failure::new(FailClass::Permanent, "its folder vanished from processing/");
                return self.step(Event::Ended { job, verdict: Verdict::Failed(failure) }, now);
            }
            // Its last worker made that immutable, or mounted something on it: no later try is another.
            Err(error)
                if !is_shortage(&error)
                    && [Place::Job(from), Place::Output(claimed)]
                        .into_iter()
                        .any(|place| is_stuck(&self.spool, place)) =>
            {
                let reason = format!("its folder in processing/ cannot be renamed: {error}");
                let failure = Failure::new(FailClass::Permanent, reason);
                return self.step(Event::Ended { job, verdict: Verdict::Failed(failure) }, now);
            }
            Err(error) => {
                let rel = info.rel.clone();
                return self.refuse_start(job, attempt, (rel, &error), now);
            }
        };
        let processing = self.path.join("processing");
        let output = route.output.then(|| processing.join(Place::Output(claimed).name()));
        // A source of `batch` has its own index, and `--again` means it.
        let may_repeat = route.on_repeat == OnRepeat::Skip
            && info.take.is_none()
            && crate::daemon::repeat::may_be_same(&self.spool, &info.rel, claimed);
        let task = Task {
            job,
            attempt,
            route: Arc::clone(route),
            path: processing.join(Place::Job(claimed).name()).join(info.rel.as_path()),
            rel: info.rel.clone(),
            spool: self.path.clone(),
            scratch: processing.join(scratch.name()),
            output,
            record: None,
        };
        if may_repeat {
            self.out.push(Output::Compare(task));
            return Ok(());
        }
        self.begin(task, now)
    }

    /// Too little of something to start: it waits. The attempt has not begun, and a crash must not count it.
    fn refuse_start(
        &mut self,
        job: JobId,
        attempt: u32,
        (rel, error): (RelPath, &io::Error),
        now: Millis,
    ) -> Result<(), KeeperError> {
        self.take_back(job, attempt, now)?;
        self.tell_refused(Some(rel), error, now)?;
        self.step(Event::StartFailed { job }, now)
    }

    /// What there is too little of is said once, and not again for each job at each try.
    pub(super) fn tell_refused(
        &mut self,
        rel: Option<RelPath>,
        error: &io::Error,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let is_said = self.said_short.is_some() && is_shortage(error);
        if let Some(rel) = rel.filter(|_| !is_said) {
            let reason = error.to_string();
            self.out.push(Output::Notice(Notice::StartRefused { rel, reason }));
        }
        if is_shortage(error) {
            self.is_short(Shortage::of(error), now)?;
        }
        Ok(())
    }

    /// Before the first attempt of a job whose place is its own, see [`crate::spool::whole_folder`]. The inner
    /// error is one of this job.
    fn make_claim_durable(&mut self, job: JobId) -> Result<io::Result<()>, KeeperError> {
        let Some(info) = self.jobs.get(&job) else { return Ok(Ok(())) };
        // What was handed in never stood in `incoming/`, and its `Take` is durable.
        let is_durable = info.take.is_some() || info.begun_as.is_some();
        if !info.claimed(job).is_own() || is_durable {
            return Ok(Ok(()));
        }
        match self.spool.sync_claim(info.claimed(job), &info.rel) {
            Err(error) if is_shortage(&error) || error.kind() == io::ErrorKind::NotFound => {
                Ok(Err(error))
            }
            other => Ok(Ok(other.map_err(KeeperError::spool("sync a claim in processing/"))?)),
        }
    }

    /// The attempt begins: in a slot, or, with records, by opening the input.
    pub(super) fn begin(&mut self, task: Task, now: Millis) -> Result<(), KeeperError> {
        if task.route.records.is_some() || self.inputs.contains_key(&task.job) {
            return self.open_input(task, now);
        }
        self.out.push(Output::Start(task));
        Ok(())
    }

    /// Scratch goes; made files too where the attempt did not succeed.
    pub(super) fn clear_attempt(&mut self, job: JobId, made_files: bool, now: Millis) {
        let Some(info) = self.jobs.get(&job) else { return };
        let claimed = info.claimed(job);
        let cleared = self.spool.clear_scratch(job, &mut self.folders, now).and_then(|()| {
            let has_output = self.attempted_as(info).is_some_and(|route| route.output);
            if made_files && has_output { self.spool.clear_output(claimed) } else { Ok(()) }
        });
        // What a worker made unremovable stays and is said; it must not stop the others.
        if let Err(error) = cleared {
            let rel = info.rel.clone();
            let reason = error.to_string();
            self.out.push(Output::Notice(Notice::ScratchRefused { rel, reason }));
        }
    }

    pub(super) fn release(
        &mut self,
        job: JobId,
        begun: u32,
        now: Millis,
    ) -> Result<(), KeeperError> {
        self.clear_attempt(job, true, now);
        self.folders.close(job);
        self.set_back(job, begun, now)
    }

    /// The job's name says again that so many attempts have begun. Where there is too little of something for
    /// that, it is tried again, unless the next attempt begins before, which has that very name.
    pub(in crate::daemon) fn set_back(
        &mut self,
        job: JobId,
        begun: u32,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let Some(info) = self.jobs.get_mut(&job) else { return Ok(()) };
        let from = info.claimed(job);
        let to = from.with_begun(begun);
        let set = if from == to { Ok(()) } else { self.spool.set_begun(from, to) };
        match set {
            Err(error) if is_shortage(&error) => {
                self.deferred.push_back(Effect::Release { job, begun });
                return self.is_short(Shortage::of(&error), now);
            }
            // Its worker mounted something on that folder: the next attempt has the name of this one.
            Err(_) if is_stuck(&self.spool, Place::Job(from)) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(KeeperError::spool("take an attempt back in processing/"))?,
        }
        info.begun = begun;
        Ok(())
    }
}

/// This folder cannot have another name.
fn is_stuck<F: Filesystem>(spool: &Spool<F>, place: Place) -> bool {
    spool.is_stuck(place).is_ok_and(|it| it)
}
