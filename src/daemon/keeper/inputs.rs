//! Jobs whose records are tasks of their own: opened, read on, recorded record by record, put together.
//!
//! Must not know: what a record says, which record starts when (the core decides), how a worker runs.
//!
//! Invariants
//! - The folders of the claim are durable before the first record of its input is recorded: a power cut
//!   must not bring the file back to `incoming/`, under another id, with its rows in the CSV already.
//! - A record is recorded by one line, with its rows; it is over once that line is durable and applied.
//! - What is held of an input in memory is its window: [`limits::OPEN_RECORDS`] records, of
//!   [`limits::OPEN_RECORD_BYTES`] over all inputs. What is over is the core's compressed sets.
//! - An input that is not any more what it was at its first record fails; what is recorded stays.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringTreemap;

use super::outcome::{error_row, route_spec};
use super::{Keeper, KeeperError, Output, is_shortage};
use crate::config::{Records, Route, limits};
use crate::core::records::{InputMark, Past, Position, Tried};
use crate::core::state::{Effect, Event, Millis};
use crate::core::{FailClass, Failure, JobId, RelPath, Row, Verdict};
use crate::daemon::notice::{FailedRecord, Notice};
use crate::fs::Filesystem;
use crate::journal::record::{
    Input as InputLine, InputOutcome, InputSet, InputTried, PieceBytes, Record, Tally,
};
use crate::results::{PlanError, Planned};
use crate::spool::records::{Input, Unfit as SplitUnfit, change};
use crate::spool::{Claimed, Place, Spool};
use crate::worker::records::{Lot, RawRecord, RecordFormat, Unfit, columns};
use crate::worker::{Ended, Task};

/// Kinds of reasons that are counted of one input; what comes beyond is counted as `other`.
const REASONS: usize = 20;
/// Failed records of one input that are told one by one.
const TOLD: u64 = 100;

/// A job with records, as the keeper knows it. Also what recovery found of it.
pub(in crate::daemon) struct InputInfo<F: Filesystem> {
    pub(in crate::daemon) format: Records,
    pub(in crate::daemon) mark: InputMark,
    /// At or before the first record that is not over.
    pub(in crate::daemon) position: Position,
    pub(in crate::daemon) rows: u64,
    /// Why records failed, and how often.
    pub(in crate::daemon) reasons: BTreeMap<String, u64>,
    /// The last line of records that were tried and are not over.
    pub(in crate::daemon) tried: BTreeMap<u64, InputTried>,
    /// For a job that no route took at start: what the core will be told.
    pub(in crate::daemon) past: Option<Past>,
    /// The inode of the file of failed records, once there is one.
    collected: u64,
    /// Failed records told so far.
    told: u64,
    /// When it was first opened in this life.
    opened_at: Option<Millis>,
    open: Option<Open<F>>,
}

/// What is held of an input while its records run.
struct Open<F: Filesystem> {
    input: Input<F>,
    format: Arc<RecordFormat>,
    held: BTreeMap<u64, Held>,
    /// For every lot.
    task: Task,
}

/// A record that is read and not over.
struct Held {
    begins: Position,
    raw: Arc<RawRecord>,
    ended: Option<Ended>,
}

/// The failed records of an input are to be put into `processing/ID.err`, on another thread.
#[derive(Clone, Debug)]
pub struct Collecting {
    /// The job.
    pub job: JobId,
    /// Its file, below `processing/`.
    path: PathBuf,
    format: Records,
    mark: InputMark,
    failed: RoaringTreemap,
}

/// Why failed records could not be put together.
#[derive(Debug)]
pub enum CollectError {
    /// The input is not any more what it was.
    Changed(String),
    /// A system call failed.
    Io(io::Error),
}

/// What is recorded of all records in this life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Records that are done.
    pub done: u64,
    /// Records that failed.
    pub failed: u64,
    /// Rows of those that are done.
    pub rows: u64,
}

/// How far a job with records is, for `explain` and `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecordsFound {
    /// Records that are over.
    pub recorded: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Bytes of the input before the first record that is not over.
    pub bytes: u64,
    /// Bytes of the input.
    pub size: u64,
}

impl<F: Filesystem> InputInfo<F> {
    /// As the first line about it says.
    pub(in crate::daemon) fn new(format: Records, mark: InputMark) -> Self {
        Self {
            format,
            mark,
            position: Position::default(),
            rows: 0,
            reasons: BTreeMap::new(),
            tried: BTreeMap::new(),
            past: None,
            collected: 0,
            told: 0,
            opened_at: None,
            open: None,
        }
    }

    /// A further failure with this reason.
    pub(in crate::daemon) fn count(&mut self, reason: &str) {
        let is_new = !self.reasons.contains_key(reason);
        let key = if is_new && self.reasons.len() >= REASONS { "other" } else { reason };
        *self.reasons.entry(key.to_owned()).or_default() += 1;
    }

    /// Where reading would go on after a crash.
    fn at(&self) -> Position {
        let Some(open) = &self.open else { return self.position };
        open.held.values().next().map_or_else(|| open.input.next(), |held| held.begins)
    }

    fn most_frequent(&self) -> Vec<(String, u64)> {
        let mut reasons: Vec<_> = self.reasons.clone().into_iter().collect();
        reasons.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
        reasons
    }
}

impl Collecting {
    /// Does it: the file is durable under its name in `processing/` when this returns its inode.
    pub fn run<F: Filesystem>(&self, spool: &Spool<F>) -> Result<u64, CollectError> {
        let (mut input, _) =
            Input::open(spool, &self.path, self.format).map_err(CollectError::Io)?;
        let was = |found: InputMark| {
            let other = "another file stands in its place".to_owned();
            let moved = (found.ino != self.mark.ino).then_some(other);
            moved.or_else(|| change(&self.mark, found.size, found.mtime_ns))
        };
        if let Some(how) = was(input.mark()) {
            return Err(CollectError::Changed(how));
        }
        let name = Place::Failed(self.job).name();
        let name = Path::new(&name);
        let mut made = || -> io::Result<(u64, u64)> {
            let (fs, dir) = (&spool.fs, &spool.processing);
            match fs.remove_file(dir, name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = fs.create(dir, name, 0o640)?;
            let count = input.copy(&file, &|no| self.failed.contains(no))?;
            // Durable after both: the failed records, before the outcome that sends them to error/.
            fs.sync_file(&file)?;
            fs.sync_dir(dir)?;
            Ok((fs.stat_file(&file)?.ino, count))
        };
        let (ino, count) = made().map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => CollectError::Changed(error.to_string()),
            _ => CollectError::Io(error),
        })?;
        match input.change().map_err(CollectError::Io)? {
            Some(how) => Err(CollectError::Changed(how)),
            None if count != self.failed.len() => {
                Err(CollectError::Changed("its records are other ones".to_owned()))
            }
            None => Ok(ino),
        }
    }
}

impl<F: Filesystem> Keeper<F> {
    /// What became of all records in this life.
    pub fn record_counts(&self) -> RecordCounts {
        self.record_counts
    }

    /// How far a job with records is.
    pub(super) fn records_found(&self, job: JobId) -> Option<RecordsFound> {
        let info = self.inputs.get(&job)?;
        let progress = self.core.progress(job);
        Some(RecordsFound {
            recorded: progress.map_or(0, crate::core::records::Progress::recorded),
            failed: progress.map_or(0, crate::core::records::Progress::failed),
            bytes: info.at().offset,
            size: info.mark.size,
        })
    }

    /// Bytes before the next record and of the whole, over all inputs that are worked on.
    pub fn input_bytes(&self) -> (u64, u64) {
        self.inputs.values().fold((0, 0), |(read, all), info| {
            (read.saturating_add(info.at().offset), all.saturating_add(info.mark.size))
        })
    }

    /// The attempt at a job with records begins: its input is opened, its records follow.
    pub(super) fn open_input(&mut self, task: Task, now: Millis) -> Result<(), KeeperError> {
        let job = task.job;
        match self.try_open(task, now) {
            Ok(()) => self.step(Event::Opened { job }, now),
            Err(OpenError::Wrong(reason)) => {
                let failure = Failure::new(FailClass::Permanent, reason);
                self.step(Event::Ended { job, verdict: Verdict::Failed(failure) }, now)
            }
            Err(OpenError::Later(error)) => {
                if is_shortage(&error) {
                    self.disk_is_full(now)?;
                }
                let rel = self.jobs.get(&job).map(|info| info.rel.clone());
                let reason = error.to_string();
                let refused = rel.map(|rel| Notice::StartRefused { rel, reason });
                self.out.extend(refused.map(Output::Notice));
                self.step(Event::StartFailed { job }, now)
            }
            Err(OpenError::Fatal(error)) => Err(error),
        }
    }

    fn try_open(&mut self, task: Task, now: Millis) -> Result<(), OpenError> {
        let job = task.job;
        let known = self.inputs.get(&job);
        let format = match (task.route.records, known.map(|info| info.format)) {
            (Some(now), None) => now,
            (Some(now), Some(before)) if now == before => now,
            (now, before) => {
                let said = |it: Option<Records>| {
                    it.map_or_else(|| "none".to_owned(), |it| format!("{it:?}").to_lowercase())
                };
                let (before, now) = (said(before), said(now));
                return Err(OpenError::Wrong(format!(
                    "its records were begun with records = {before}, and its route has {now} now; \
                     what is recorded stays"
                )));
            }
        };
        let claimed = Claimed::file(job, task.attempt);
        let path = Path::new(&Place::Job(claimed).name()).join(task.rel.as_path());
        let opened = Input::open(&self.spool, &path, format);
        let (mut input, header) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Wrong("its file vanished".to_owned()),
            _ => OpenError::Later(error),
        })?;
        let mark = input.mark();
        if let Some(info) = known {
            let how = if mark.ino == info.mark.ino {
                change(&info.mark, mark.size, mark.mtime_ns)
            } else {
                Some("another file stands in its place".to_owned())
            };
            if let Some(how) = how {
                return Err(OpenError::Wrong(changed(&how)));
            }
            input.seek(info.position);
        }
        let columns = match header {
            None => Vec::new(),
            Some(header) if header.unfit.is_some() => {
                return Err(OpenError::Wrong("its header does not end".to_owned()));
            }
            Some(header) => columns(&header.bytes).map_err(OpenError::Wrong)?,
        };
        if known.is_none() {
            // Durable after it: where the file stands now, and that it is no longer in `incoming/`.
            self.spool.sync_claim(claimed, &task.rel).map_err(|source| {
                let what = format!("sync the claim of {}", task.rel);
                OpenError::Fatal(KeeperError::Spool { what, source })
            })?;
            self.inputs.insert(job, InputInfo::new(format, mark));
            let line = self.input_line(job);
            for record in line {
                self.append(record, now).map_err(OpenError::Fatal)?;
            }
        }
        let format = Arc::new(RecordFormat { records: format, columns });
        if let Some(info) = self.inputs.get_mut(&job) {
            info.opened_at.get_or_insert(now);
            info.open = Some(Open { input, format, held: BTreeMap::new(), task });
        }
        Ok(())
    }

    /// What stands for all that is recorded of an input so far.
    fn input_line(&self, job: JobId) -> Vec<Record> {
        let Some(info) = self.inputs.get(&job) else { return Vec::new() };
        let progress = self.core.progress(job);
        let line = InputLine {
            job,
            format: info.format,
            mark: info.mark,
            low: progress.map_or(0, crate::core::records::Progress::low),
            position: info.at(),
            rows: info.rows,
            reasons: info.most_frequent(),
        };
        let sets = progress.map_or_else(Vec::new, crate::core::records::Progress::sets);
        let sets = sets.into_iter().map(|(failed, set)| InputSet { job, failed, set });
        let tried = info.tried.values().cloned().map(Record::InputTried);
        [Record::Input(line)].into_iter().chain(sets.map(Record::InputSet)).chain(tried).collect()
    }

    /// For the head of a journal segment: nothing is appended about a record and not followed up.
    pub(super) fn input_snapshot(&self) -> Vec<Record> {
        self.inputs.keys().flat_map(|job| self.input_line(*job)).collect()
    }

    /// Nothing of it is on its way: what was read is forgotten.
    pub(super) fn close_input(&mut self, job: JobId) {
        if let Some(info) = self.inputs.get_mut(&job) {
            info.position = info.at();
            info.open = None;
        }
    }

    pub(super) fn read_records(
        &mut self,
        job: JobId,
        most: usize,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let all: usize = self.inputs.values().map(InputInfo::held_bytes).sum();
        let Some(open) = self.inputs.get_mut(&job).and_then(|info| info.open.as_mut()) else {
            let failure = Failure::new(FailClass::Permanent, "its input is not open");
            return self.step(Event::InputBroken { job, failure }, now);
        };
        let progress = self.core.progress(job);
        let read = open.read_on(most, all, &|no| progress.is_some_and(|it| it.contains(no)));
        let event = match read {
            Ok(Read { numbers, is_full, at_end }) => Event::Read { job, numbers, is_full, at_end },
            Err(reason) => {
                let failure = Failure::new(FailClass::Permanent, reason);
                Event::InputBroken { job, failure }
            }
        };
        self.step(event, now)
    }

    pub(super) fn start_records(&mut self, job: JobId, route: usize, lot: &[(u64, u32)]) {
        let route = self.routes.get(route).map(Arc::clone);
        let Some(open) = self.inputs.get_mut(&job).and_then(|info| info.open.as_mut()) else {
            return;
        };
        // A reload reaches the records that are still to come.
        if let Some(route) = route.filter(|route| route.records == Some(open.format.records)) {
            open.task.route = Arc::clone(&route);
            if let Some(info) = self.jobs.get_mut(&job) {
                info.begun_as = Some(route);
            }
        }
        let record = |(no, attempt): &(u64, u32)| {
            let held = open.held.get(no)?;
            Some((*attempt, Arc::clone(&held.raw)))
        };
        let records: Vec<_> = lot.iter().filter_map(record).collect();
        assert!(records.len() == lot.len(), "a record of {job} starts that was not read");
        let format = Arc::clone(&open.format);
        let task = open.task.clone();
        self.out.push(Output::StartRecords(Box::new((task, Lot { format, records }))));
    }

    /// A slot is done with a record.
    pub(super) fn record_ended(
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

    pub(super) fn record_tried(
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
    pub(super) fn record_input(
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
                self.deferred.push(Effect::RecordInput { job, no, attempts, failure });
                self.disk_is_full(now)
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
        let rows_file = is_large(rows, &rel).then(|| self.next_id(now));
        let mut planned = Planned::default();
        if failure.is_none() {
            match self.plan_record_rows(&route, rows, &rel, (job, rows_file), now) {
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
        let rows_file = rows_file.filter(|_| is_big);
        let rows = planned.rows;
        let outcome = InputOutcome { job, no, attempts, failure, rows, csv, rows_file };
        Ok((before, outcome))
    }

    fn plan_record_rows(
        &mut self,
        route: &Route,
        rows: &[Row],
        rel: &RelPath,
        (job, rows_file): (JobId, Option<JobId>),
        now: Millis,
    ) -> Result<Planned, PlanError> {
        self.results.plan_beside(
            &route_spec(route),
            rows,
            rel,
            (job, rows_file.unwrap_or(job)),
            now,
        )
    }

    /// A record's line is durable and applied.
    pub(super) fn input_recorded(
        &mut self,
        outcome: InputOutcome,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let InputOutcome { job, no, attempts, failure, rows, .. } = outcome;
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
    pub(super) fn input_tried(
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

    /// All records of a job are over: their failed ones are put together on another thread.
    pub(super) fn collect(&mut self, job: JobId) {
        let (Some(info), Some(input)) = (self.jobs.get(&job), self.inputs.get(&job)) else {
            return;
        };
        let claimed = info.claimed(job);
        let path = Path::new(&Place::Job(claimed).name()).join(info.rel.as_path());
        let progress = self.core.progress(job);
        let failed =
            progress.map_or_else(RoaringTreemap::new, crate::core::records::Progress::failed_set);
        let collecting = Collecting { job, path, format: input.format, mark: input.mark, failed };
        self.out.push(Output::Collect(Box::new(collecting)));
    }

    /// What came of [`Output::Collect`].
    pub(super) fn collected(
        &mut self,
        job: JobId,
        result: Result<u64, CollectError>,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let verdict = match result {
            Ok(ino) => {
                if let Some(info) = self.inputs.get_mut(&job) {
                    info.collected = ino;
                }
                Verdict::Done
            }
            Err(CollectError::Changed(how)) => {
                Verdict::Failed(Failure::new(FailClass::Permanent, changed(&how)))
            }
            Err(CollectError::Io(error)) if is_shortage(&error) => {
                self.deferred.push(Effect::Collect { job });
                return self.disk_is_full(now);
            }
            Err(CollectError::Io(source)) => {
                let what = format!("put the failed records of {job} together in processing/");
                return Err(KeeperError::Spool { what, source });
            }
        };
        self.step(Event::Ended { job, verdict }, now)
    }

    /// How long a job with records was worked on, in this life.
    pub(super) fn input_took(&self, job: JobId, now: Millis) -> Option<Duration> {
        let opened_at = self.inputs.get(&job)?.opened_at?;
        Some(Duration::from_millis(now.saturating_sub(opened_at)))
    }

    /// What the outcome of a job says of its records.
    pub(super) fn tally(&self, job: JobId) -> Option<(Tally, u64)> {
        let info = self.inputs.get(&job)?;
        let progress = self.core.progress(job)?;
        let failed = progress.failed();
        let tally = Tally {
            done: progress.recorded().saturating_sub(failed),
            failed,
            reasons: info.most_frequent(),
            ino: info.collected,
        };
        Some((tally, info.rows))
    }
}

/// Why an input could not be opened.
enum OpenError {
    /// It never can.
    Wrong(String),
    /// Perhaps in a moment.
    Later(io::Error),
    /// The daemon cannot go on.
    Fatal(KeeperError),
}

struct Read {
    numbers: Vec<u64>,
    is_full: bool,
    at_end: bool,
}

impl<F: Filesystem> InputInfo<F> {
    fn held_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.held.values().map(Held::bytes).sum())
    }
}

impl Held {
    fn bytes(&self) -> usize {
        self.raw.bytes.as_ref().map_or(0, Vec::len)
    }
}

impl<F: Filesystem> Open<F> {
    fn read_on(
        &mut self,
        most: usize,
        mut held: usize,
        is_over: &dyn Fn(u64) -> bool,
    ) -> Result<Read, String> {
        let unreadable = |error: io::Error| format!("its input cannot be read: {error}");
        if let Some(how) = self.input.change().map_err(unreadable)? {
            return Err(changed(&how));
        }
        let mut numbers = Vec::new();
        while numbers.len() < most {
            if held >= limits::OPEN_RECORD_BYTES && !(self.held.is_empty() && numbers.is_empty()) {
                return Ok(Read { numbers, is_full: true, at_end: false });
            }
            let Some(split) = self.input.next_record().map_err(unreadable)? else {
                return Ok(Read { numbers, is_full: false, at_end: true });
            };
            let no = split.no();
            if is_over(no) {
                continue;
            }
            let line = split.line();
            let bytes = match split.unfit {
                None => Ok(split.bytes),
                Some(SplitUnfit::TooLong) => Err(Unfit::TooLong),
                Some(SplitUnfit::OpenQuote) => Err(Unfit::OpenQuote),
            };
            let raw = Arc::new(RawRecord { no, line, bytes });
            let record = Held { begins: split.begins, raw, ended: None };
            held = held.saturating_add(record.bytes());
            self.held.insert(no, record);
            numbers.push(no);
        }
        Ok(Read { numbers, is_full: false, at_end: false })
    }
}

fn changed(how: &str) -> String {
    format!("the input was changed after its first record was begun: {how}; what is recorded stays")
}

/// Whether its rows could be more than a journal line holds.
fn is_large(rows: &[Row], rel: &RelPath) -> bool {
    let trace = rel.as_bytes().len() + 2 * JobId::TEXT_LEN;
    let size = |row: &Row| {
        trace + row.0.iter().map(|(_, cell)| cell.len().saturating_mul(2) + 3).sum::<usize>()
    };
    rows.iter().map(size).sum::<usize>() > limits::ROWS_IN_LINE
}

/// Inputs by job.
pub(in crate::daemon) type Inputs<F> = HashMap<JobId, InputInfo<F>>;
