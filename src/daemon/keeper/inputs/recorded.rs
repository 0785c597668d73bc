//! What is recorded of single records: the line of each end, and what follows once it is durable.
//!
//! Must not know: which record starts when, how an input is read.
//!
//! Invariants
//! - A record is recorded by one line, with its rows; it is over once that line is durable and applied.
//! - What could not be planned on a full disk keeps its rows, and is planned again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Held;
use crate::core::records::Tried;
use crate::core::state::{Effect, Event, Millis};
use crate::core::{FailClass, Failure, JobId, Row};
use crate::daemon::keeper::outcome::{error_row, route_spec};
use crate::daemon::keeper::{Keeper, KeeperError, Output};
use crate::daemon::notice::{FailedRecord, Notice};
use crate::fs::Filesystem;
use crate::journal::record::{InputOutcome, InputTried, PieceBytes, Record};
use crate::results::{PlanError, Planned};
use crate::worker::Ended;

/// Failed records of one input that are told one by one.
const TOLD: u64 = 100;

impl<F: Filesystem> Keeper<F> {
    /// A slot is done with a record.
    pub(in crate::daemon::keeper) fn record_ended(
        &mut self,
        job: JobId,
        no: u64,
        ended: Ended,
        is_last: bool,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let verdict = ended.verdict.clone();
        let took_us = u64::try_from(ended.took.as_micros()).unwrap_or(u64::MAX);
        if let Some(held) = self.held_record(job, no) {
            held.ended = Some(ended);
        }
        self.step(Event::RecordEnded { job, no, verdict, took_us, is_last }, now)
    }

    fn held_record(&mut self, job: JobId, no: u64) -> Option<&mut Held> {
        self.inputs.get_mut(&job)?.open.as_mut()?.held.get_mut(&no)
    }

    pub(in crate::daemon::keeper) fn record_tried(
        &mut self,
        job: JobId,
        no: u64,
        tried: Tried,
        (alone, reason): (bool, String),
        now: Millis,
    ) -> Result<(), KeeperError> {
        let Tried { begun: attempts, spent, not_before: not_before_ms } = tried;
        let line = InputTried { job, no, attempts, spent, not_before_ms, alone, reason };
        self.append(Record::InputTried(line), now)
    }

    /// The one line of a record: what it says, and all that must be made before it can be written.
    pub(in crate::daemon::keeper) fn record_input(
        &mut self,
        job: JobId,
        no: u64,
        attempts: u32,
        failure: Option<Failure>,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let ended = self.held_record(job, no).and_then(|held| held.ended.as_mut());
        let rows = ended.map_or_else(Vec::new, |ended| std::mem::take(&mut ended.rows));
        let planned = self.plan_input(job, no, attempts, failure.clone(), &rows, now);
        match planned {
            Ok((before, outcome)) => {
                self.rows_files.extend(outcome.rows_file);
                for record in before {
                    self.append(record, now)?;
                }
                self.append(Record::InputOutcome(outcome), now)
            }
            Err(error) if error.is_shortage() => {
                // They are needed again when there is space.
                if let Some(ended) = self.held_record(job, no).and_then(|held| held.ended.as_mut())
                {
                    ended.rows = rows;
                }
                self.deferred.push_back(Effect::RecordInput { job, no, attempts, failure });
                self.waits_for(&error, now)
            }
            Err(error) => Err(error),
        }
    }

    fn plan_input(
        &mut self,
        job: JobId,
        no: u64,
        attempts: u32,
        mut failure: Option<Failure>,
        rows: &[Row],
        now: Millis,
    ) -> Result<(Vec<Record>, InputOutcome), KeeperError> {
        let info = self.jobs.get(&job);
        let route = info.and_then(|info| self.attempted_as(info)).map(Arc::clone);
        let rel = info.map(|info| info.rel.clone());
        let (Some(route), Some(rel)) = (route, rel) else {
            let source = io::Error::other("the job is unknown");
            return Err(KeeperError::Spool { what: format!("record {job}"), source });
        };
        // One for each record: whether its rows come to a file of their own is known only with the columns of
        // the open segment, and two records must never have the same.
        let rows_file = self.next_id(now);
        let mut planned = Planned::default();
        if failure.is_none() {
            let spec = route_spec(&route);
            match self.results.plan_beside(&spec, rows, &rel, (job, rows_file), now) {
                Ok(done) => planned = done,
                Err(PlanError::Columns(reason)) => {
                    failure = Some(Failure::new(FailClass::Permanent, reason));
                }
                Err(PlanError::Io(error)) => return Err(error.into()),
            }
        }
        let mut before = planned.before;
        let mut csv: Vec<_> = planned.piece.into_iter().collect();
        if let Some(failure) = &failure {
            let row = error_row(now, &rel, &route.name, (job, Some(no)), attempts, failure);
            let errors = self.plan_error(row, &rel, job, now)?;
            before.extend(errors.before);
            csv.extend(errors.piece);
        }
        let is_big = csv.iter().any(|piece| matches!(piece.bytes, PieceBytes::File { .. }));
        let rows_file = is_big.then_some(rows_file);
        let rows = planned.rows;
        let outcome = InputOutcome { job, no, attempts, failure, rows, csv, rows_file };
        Ok((before, outcome))
    }

    /// A record's line is durable and applied.
    pub(in crate::daemon::keeper) fn input_recorded(
        &mut self,
        outcome: InputOutcome,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let InputOutcome { job, no, attempts, failure, rows, .. } = outcome;
        if self.core.progress(job).is_some_and(|progress| progress.contains(no)) {
            // It was, before too little of something stood in the way of what follows.
            return Ok(());
        }
        let failed = failure.is_some();
        if let Some(info) = self.inputs.get_mut(&job) {
            let held = info.open.as_mut().and_then(|open| open.held.remove(&no));
            info.tried.remove(&no);
            info.rows = info.rows.saturating_add(rows);
            if let Some(failure) = failure {
                info.count(&failure.reason);
                if info.told < TOLD {
                    info.told += 1;
                    let ended = held.and_then(|held| held.ended);
                    self.tell_failed(job, (no, attempts), failure, ended, now);
                }
            }
        }
        let counts = &mut self.record_counts;
        counts.done += u64::from(!failed);
        counts.failed += u64::from(failed);
        counts.rows += rows;
        self.step(Event::RecordRecorded { job, no, failed }, now)
    }

    fn tell_failed(
        &mut self,
        job: JobId,
        (no, attempts): (u64, u32),
        failure: Failure,
        ended: Option<Ended>,
        now: Millis,
    ) {
        let Some(info) = self.jobs.get(&job) else { return };
        let (log, stderr, took) = ended
            .map_or((Vec::new(), Vec::new(), Duration::ZERO), |it| (it.log, it.stderr, it.took));
        self.out.push(Output::Notice(Notice::RecordFailed(Box::new(FailedRecord {
            job,
            rel: info.rel.clone(),
            route: self.route_name(info.route),
            no,
            attempts,
            reason: failure.reason,
            at_ms: now,
            took,
            log,
            stderr,
        }))));
    }

    /// A line about an attempt at a record is durable.
    pub(in crate::daemon::keeper) fn input_tried(
        &mut self,
        tried: InputTried,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let (job, no) = (tried.job, tried.no);
        if let Some(info) = self.inputs.get_mut(&job) {
            info.tried.insert(no, tried);
        }
        self.step(Event::RecordRecorded { job, no, failed: false }, now)
    }
}
