//! The one final record of a job: what it says, and all that must be made before it can be written.
//!
//! Must not know: when it becomes durable, or what follows.
//!
//! Invariant: everything that may fail for want of space happens before the first line is appended, so
//! that an outcome is deferred as a whole.

use std::io;
use std::sync::Arc;

use super::{Keeper, KeeperError, Output};
use crate::config::{Route, limits};
use crate::core::state::{Effect, Millis};
use crate::core::{FailClass, Failure, JobId, RelPath, Row, Spent};
use crate::daemon::notice::Notice;
use crate::fs::{Filesystem, is_gone_or_closed, is_in_use, is_shortage};
use crate::journal::record::{Next, Outcome, PieceBytes, Record, Rel};
use crate::results::{CsvSpec, PlanError, Planned};

/// Columns of `errors.csv`.
const ERROR_COLUMNS: [&str; 9] =
    ["time", "file", "reason", "route", "record", "job", "attempts", "exit", "signal"];

/// What an outcome's record will say, with all that had to be made for it.
struct OutcomePlan {
    before: Vec<Record>,
    csv: Vec<crate::journal::record::Piece>,
    rows: u64,
    failure: Option<Failure>,
    output: bool,
    next: Option<Next>,
    route: String,
}

impl<F: Filesystem> Keeper<F> {
    pub(super) fn record_outcome(
        &mut self,
        job: JobId,
        attempts: u32,
        spent: Spent,
        failure: Option<Failure>,
        now: Millis,
    ) -> Result<(), KeeperError> {
        self.clear_attempt(job, failure.is_some(), now);
        self.close_input(job);
        let ended = self.jobs.get_mut(&job).and_then(|info| info.ended.as_mut());
        let rows = ended.map_or_else(Vec::new, |it| std::mem::take(&mut it.rows));
        let planned = self.plan_outcome(job, attempts, failure.clone(), &rows, now);
        let planned = match planned {
            Ok(Some(planned)) => planned,
            Ok(None) => return Ok(()),
            Err(error) if error.is_shortage() => {
                // They are needed again when there is space.
                if let Some(ended) = self.jobs.get_mut(&job).and_then(|it| it.ended.as_mut()) {
                    ended.rows = rows;
                }
                self.deferred.push_back(Effect::RecordOutcome { job, attempts, spent, failure });
                return self.waits_for(&error, now);
            }
            Err(error) => return Err(error),
        };
        let (records, rows) = self.tally(job).unzip();
        let input_took = self.input_took(job, now);
        let Some(info) = self.jobs.get_mut(&job) else { return Ok(()) };
        let ended = info.ended.as_mut();
        let took = input_took.or_else(|| ended.as_ref().map(|ended| ended.took));
        let took = took.unwrap_or_default();
        let stderr = match (&planned.failure, ended) {
            (Some(_), Some(ended)) => String::from_utf8_lossy(&ended.stderr).into_owned(),
            _ => String::new(),
        };
        let outcome = Outcome {
            job,
            rel: Rel(info.rel.clone()),
            route: planned.route,
            attempts,
            spent,
            stderr,
            failure: planned.failure,
            at_ms: now,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            file: info.mark,
            rows: rows.unwrap_or(planned.rows),
            csv: planned.csv,
            output: planned.output,
            next: planned.next.map(Box::new),
            records,
            folder: info.claimed(job).is_folder(),
            source: info.take.as_ref().and_then(|take| take.source),
        };
        let is_big =
            |piece: &crate::journal::record::Piece| matches!(piece.bytes, PieceBytes::File { .. });
        if outcome.csv.iter().any(is_big) {
            self.rows_files.push(job);
        }
        for record in planned.before {
            self.append(record, now)?;
        }
        self.append(Record::Outcome(outcome), now)
    }

    /// Everything about an outcome that may still fail for want of space; `None`: the job is unknown.
    fn plan_outcome(
        &mut self,
        job: JobId,
        attempts: u32,
        mut failure: Option<Failure>,
        rows: &[Row],
        now: Millis,
    ) -> Result<Option<OutcomePlan>, KeeperError> {
        let Some(info) = self.jobs.get(&job) else { return Ok(None) };
        let route = self.attempted_as(info).map(Arc::clone);
        let claimed = info.claimed(job);
        let rel = info.rel.clone();
        let output = failure.is_none() && route.as_ref().is_some_and(|route| route.output);
        if output {
            // Durable before the record that names them: rule 8.
            let synced = self.spool.sync_output(claimed);
            let unfit = synced.map_err(KeeperError::spool("sync the made files in processing/"))?;
            failure = unfit.map(|reason| Failure::new(FailClass::Permanent, reason));
        }
        let mut next = None;
        if let (true, None, Some(route)) = (output, &failure, &route) {
            match self.plan_next(route, claimed, &rel, now)? {
                Ok(planned) => next = planned,
                Err(reason) => failure = Some(Failure::new(FailClass::Permanent, reason)),
            }
        }
        let mut planned = Planned::default();
        if let (None, Some(route)) = (&failure, &route) {
            match self.results.plan(&route_spec(route), rows, &rel, job, now) {
                Ok(done) => planned = done,
                Err(PlanError::Columns(reason)) => {
                    failure = Some(Failure::new(FailClass::Permanent, reason));
                }
                Err(PlanError::Io(error)) => return Err(error.into()),
            }
        }
        let mut csv: Vec<_> = planned.piece.into_iter().collect();
        let mut before = planned.before;
        let route = route.map_or_else(String::new, |route| route.name.clone());
        if let Some(failure) = &failure {
            let row = error_row(now, &rel, &route, (job, None), attempts, failure);
            let errors = self.plan_error(row, &rel, job, now)?;
            before.extend(errors.before);
            csv.extend(errors.piece);
        }
        if output && failure.is_some() {
            match self.spool.clear_output(claimed) {
                // Another user's, or a process that the worker left still writes there: it is tried again at
                // the next start, which says so.
                Err(error) if is_anothers(&error) => {}
                // The row of errors.csv has its place by now: an outcome that came later would leave it empty, and
                // no start could read on there.
                Err(error) if is_shortage(&error) => {
                    let (rel, reason) = (rel.clone(), error.to_string());
                    self.out.push(Output::Notice(Notice::ScratchRefused { rel, reason }));
                }
                other => {
                    other.map_err(KeeperError::spool("remove made files in processing/"))?;
                }
            }
        }
        let (output, next) = (output && failure.is_none(), next.filter(|_| failure.is_none()));
        Ok(Some(OutcomePlan { before, csv, rows: planned.rows, failure, output, next, route }))
    }

    /// A row of `errors.csv`.
    pub(super) fn plan_error(
        &mut self,
        row: Row,
        rel: &RelPath,
        job: JobId,
        now: Millis,
    ) -> Result<Planned, KeeperError> {
        let spec = CsvSpec {
            route: "errors",
            trace_columns: false,
            columns: None,
            segment_rows: limits::SEGMENT_ROWS,
            segment_bytes: limits::SEGMENT_BYTES,
        };
        self.results.plan(&spec, &[row], rel, job, now).map_err(|error| match error {
            PlanError::Io(error) => error.into(),
            PlanError::Columns(reason) => {
                let source = io::Error::other(reason);
                KeeperError::Spool { what: "plan errors.csv".into(), source }
            }
        })
    }
}

/// What is removed is not ours alone.
fn is_anothers(error: &io::Error) -> bool {
    is_gone_or_closed(error) || is_in_use(error)
}

/// The CSV of a route.
pub(super) fn route_spec(route: &Route) -> CsvSpec<'_> {
    CsvSpec {
        route: &route.name,
        trace_columns: route.trace_columns,
        columns: route.columns.as_deref(),
        segment_rows: route.segment_rows,
        segment_bytes: route.segment_bytes,
    }
}

/// A row of `errors.csv`: of a job, or of one of its records.
pub(super) fn error_row(
    now: Millis,
    rel: &RelPath,
    route: &str,
    (job, record): (JobId, Option<u64>),
    attempts: u32,
    failure: &Failure,
) -> Row {
    let number = |n: Option<i32>| n.map_or_else(Vec::new, |n| n.to_string().into_bytes());
    let cells = [
        crate::daemon::notice::utc(now).into_bytes(),
        rel.as_bytes().to_vec(),
        failure.reason.clone().into_bytes(),
        route.as_bytes().to_vec(),
        record.map_or_else(Vec::new, |no| no.to_string().into_bytes()),
        job.to_string().into_bytes(),
        attempts.to_string().into_bytes(),
        number(failure.exit),
        number(failure.signal),
    ];
    Row(ERROR_COLUMNS.iter().map(|name| (*name).to_owned()).zip(cells).collect())
}
