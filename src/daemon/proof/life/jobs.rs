//! What the keeper starts and tells, written into the ledger.
//!
//! Must not know: what is right at the end. What is wrong at once goes to `story.broken`.

use std::collections::VecDeque;

use super::super::sets::{is_pair, main_of};
use super::super::story::in_sim;
use super::{Disk, Life, PLACES, is_out};
use crate::core::{JobId, Verdict};
use crate::daemon::keeper::{Input, KeeperError};
use crate::daemon::notice::Notice;
use crate::spool::Place;
use crate::worker::records::Lot;
use crate::worker::{Ended, Task};

impl<F: Disk> Life<'_, F> {
    pub(super) fn started(&mut self, task: Task) {
        if is_out(&self.sim) {
            return;
        }
        let rel = task.rel.to_string();
        let bytes = self.sim.read(&main_of(&in_sim(&task.path), &rel));
        let Some(id) = bytes.and_then(|bytes| self.story.id_of(&bytes, &rel)) else {
            self.story.broken.push(format!("{} runs, and nobody dropped it", task.path.display()));
            return;
        };
        if is_pair(&rel) && self.sim.read(&format!("{}.c", in_sim(&task.path))).is_none() {
            self.story.broken.push(format!("{id} runs without its companion"));
        }
        if self.story.promised.contains_key(&id) {
            self.story.broken.push(format!("{id} runs again although it was recorded"));
        }
        if self.running.iter().any(|(_, other)| *other == id) {
            self.story.broken.push(format!("{id} runs twice at once"));
        }
        self.story.makes(&id, &task.rel.to_string());
        self.story.jobs.insert(task.job, id.clone());
        // Any start may have found all slots at work, and wait for one.
        let waits = self.rng.below(2) == 0 || self.story.is_busy;
        let noted = self.went_back.iter().position(|(job, _)| *job == task.job);
        if let Some(noted) = noted.map(|at| self.went_back.swap_remove(at)) {
            // Where a slot is free, too, it leaves in a step of its own: a keeper whose table fails gives up.
            self.line.push(noted);
        } else if self.line.len() + self.went_back.len() < PLACES && waits {
            let all = || self.line.iter().chain(&self.went_back);
            let place = (0..PLACES).find(|place| !all().any(|(_, at)| at == place)).unwrap();
            let noted = self.waiting.as_ref().map(|it| it.enter(place, task.job, task.attempt));
            if noted.is_some_and(|noted| noted.is_ok()) {
                self.line.push((task.job, place));
            }
        }
        if !self.line.iter().any(|(job, _)| *job == task.job) {
            self.story.runs.push(id.clone());
        }
        self.running.push((task, id));
    }

    /// A slot takes a task out of the line, or it goes back without having begun.
    pub(super) fn leave_line(&mut self, at: usize) -> Result<(), KeeperError> {
        if self.rng.below(4) == 0 {
            return self.go_back(at);
        }
        let (task, id) = &self.running[at];
        let (job, id) = (task.job, id.clone());
        self.blank(job)?;
        self.story.runs.push(id);
        Ok(())
    }

    /// A task that waits in line goes back, and is written down as waiting until it comes again.
    pub(in crate::daemon::proof) fn go_back(&mut self, at: usize) -> Result<(), KeeperError> {
        let (Task { job, .. }, _) = self.running.swap_remove(at);
        let here = self.line.iter().position(|(other, _)| *other == job).unwrap();
        self.went_back.push(self.line.swap_remove(here));
        let ended = Ended::without_rows(Verdict::Released);
        self.keeper.handle(Input::Ended { job, ended }, self.story.now)
    }

    fn blank(&mut self, job: JobId) -> Result<(), KeeperError> {
        let here = self.line.iter().position(|(other, _)| *other == job).unwrap();
        let (_, place) = self.line.swap_remove(here);
        let blanked = self.waiting.as_ref().map_or(Ok(()), |it| it.leave(place));
        blanked.map_err(KeeperError::spool("leave the line"))
    }

    pub(super) fn started_records(&mut self, task: &Task, lot: &Lot) {
        let bytes = self.sim.read(&in_sim(&task.path));
        let rel = task.rel.to_string();
        let Some(id) = bytes.and_then(|bytes| self.story.id_of(&bytes, &rel)) else {
            self.story.broken.push(format!("{} runs, and nobody dropped it", task.path.display()));
            return;
        };
        self.story.jobs.insert(task.job, id.clone());
        let mut records = VecDeque::new();
        for (attempt, raw) in &lot.records {
            let record = lot.format.read(raw).unwrap();
            if record.value.field(&id).as_deref() != Some(&record.no.to_string()) {
                self.story.broken.push(format!("{id} has no record like {record:?}"));
            }
            let key = (id.clone(), record.no);
            let runs = self.lots.iter().any(|(_, _, other, rest)| {
                *other == id && rest.iter().any(|(_, no)| *no == record.no)
            });
            if self.story.over.contains(&key) || self.story.promised.contains_key(&id) {
                self.story.broken.push(format!("{key:?} runs again although it was recorded"));
            }
            if runs {
                self.story.broken.push(format!("{key:?} runs twice at once"));
            }
            self.story.runs.push(id.clone());
            records.push_back((*attempt, record.no));
        }
        self.lots.push((task.job, rel, id, records));
    }

    pub(super) fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Finished(finished) => {
                let is_done = finished.outcome.failure.is_none();
                self.promise(finished.outcome.job, is_done);
            }
            Notice::Taken { job } => {
                let id = self.story.jobs.get(&job).cloned();
                self.story.taken.extend(id);
            }
            Notice::Paused { route, .. } => self.to_resume.push(route),
            // After a power cut nothing works; before it, nothing stands in the way.
            Notice::ClaimRefused { rel, reason, .. } | Notice::StartRefused { rel, reason }
                if self.strict && !is_out(&self.sim) =>
            {
                self.story.broken.push(format!("{rel} refused: {reason}"));
            }
            _ => {}
        }
    }

    pub(super) fn promise(&mut self, job: JobId, is_done: bool) {
        let Some(id) = self.story.jobs.get(&job).cloned() else {
            self.story.broken.push(format!("{job} is recorded, and nobody knows it"));
            return;
        };
        if is_done {
            self.story.made(&id);
        }
        if let Some(before) = self.story.promised.insert(id.clone(), is_done) {
            self.story.broken.push(format!("{id} is recorded twice, first done={before}"));
        }
    }

    /// The power went out between a commit and its notices: a promise all the same.
    pub(super) fn promise_durable(&mut self) {
        let outcomes: Vec<_> = self.keeper.durable_outcomes().collect();
        for (job, is_done) in outcomes {
            // Its notice may be out already.
            if self.story.jobs.get(&job).is_none_or(|id| !self.story.promised.contains_key(id)) {
                self.promise(job, is_done);
            }
        }
    }

    /// Claims that recovery took up under whatever name.
    pub(super) fn know_jobs(&mut self) {
        for (job, info) in &self.keeper.jobs {
            let place = Place::Job(info.claimed(*job)).name();
            let path = main_of(&format!("processing/{place}/{}", info.rel), &info.rel.to_string());
            let id = self.sim.read(&path);
            let id = id.and_then(|bytes| self.story.id_of(&bytes, &info.rel.to_string()));
            match id {
                Some(id) => drop(self.story.jobs.insert(*job, id)),
                None => self.story.broken.push(format!("{path} is a job of no file")),
            }
        }
    }
}
