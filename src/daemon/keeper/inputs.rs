//! Jobs whose records are tasks of their own: opened, read on, recorded record by record, put together.
//!
//! Must not know: what a record says, which record starts when (the core decides), how a worker runs.
//!
//! Invariants
//! - The folders of the claim are durable before the first record of its input is recorded: a power cut
//!   must not bring the file back to `incoming/`, under another id, with its rows in the CSV already.
//! - A record is recorded by one line, with its rows; it is over once that line is durable and applied.
//! - What is held of an input in memory is its window: [`limits::OPEN_RECORDS`] records, of
//!   [`limits::OPEN_RECORD_BYTES`] over all inputs, and of each its part of as many in any case: those of another
//!   one may wait for hours. What is over is the core's compressed sets.
//! - No input is read for long at a stretch, however far its next record is: others have their turn between.
//! - An input that is not any more what it was at its first record fails; what is recorded stays.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Keeper, KeeperError, Output};
use crate::config::{Records, limits};
use crate::core::records::{InputMark, Past, Position, Progress};
use crate::core::state::{Event, Millis};
use crate::core::{FailClass, Failure, JobId, Verdict};
use crate::fs::{Filesystem, is_shortage};
use crate::journal::record::{Input as InputLine, InputSet, InputTried, Record, Tally};
use crate::spool::records::{Found, Input, Split, Unfit as SplitUnfit, change};
use crate::spool::{Claimed, Place};
use crate::worker::records::{Lot, RawRecord, RecordFormat, Unfit, columns};
use crate::worker::{Ended, Task};

mod collect;
mod recorded;
#[cfg(test)]
mod tests;

pub(in crate::daemon) use collect::{CollectError, Collecting};

/// Kinds of reasons that are counted of one input; what comes beyond is counted as `other`.
const REASONS: usize = 20;
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
    /// On a full disk: when it is to be made, and how long that was put off last.
    collect_at: Millis,
    collect_wait: Millis,
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
    /// So many records are to be read on once others had their turn.
    goes_on: Option<usize>,
    /// For every lot.
    task: Task,
}

/// A record that is read and not over.
struct Held {
    begins: Position,
    raw: Arc<RawRecord>,
    ended: Option<Ended>,
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

/// How far all jobs with records are that are not over, for a progress bar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OpenInputs {
    /// Jobs.
    pub count: u64,
    /// Records that are over.
    pub recorded: u64,
    /// Bytes before the first record that is not over.
    pub bytes: u64,
    /// Bytes in all.
    pub size: u64,
}

impl OpenInputs {
    /// With one job more.
    #[must_use]
    pub fn and(self, found: RecordsFound) -> Self {
        Self {
            count: self.count.saturating_add(1),
            recorded: self.recorded.saturating_add(found.recorded),
            bytes: self.bytes.saturating_add(found.bytes),
            size: self.size.saturating_add(found.size),
        }
    }
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
            collect_at: 0,
            collect_wait: 0,
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

impl<F: Filesystem> Keeper<F> {
    /// What became of all records in this life.
    pub fn record_counts(&self) -> RecordCounts {
        self.record_counts
    }

    /// How far a job with records is.
    pub(super) fn records_found(&self, job: JobId) -> Option<RecordsFound> {
        let info = self.inputs.get(&job)?;
        let progress = self.progress(job);
        Some(RecordsFound {
            recorded: progress.map_or(0, Progress::recorded),
            failed: progress.map_or(0, Progress::failed),
            bytes: info.at().offset,
            size: info.mark.size,
        })
    }

    /// How far all inputs are that are worked on.
    pub fn open_inputs(&self) -> OpenInputs {
        let found = self.inputs.keys().filter_map(|job| self.records_found(*job));
        found.fold(OpenInputs::default(), OpenInputs::and)
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
                let rel = self.jobs.get(&job).map(|info| info.rel.clone());
                self.tell_refused(rel, &error, now)?;
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
            io::ErrorKind::Interrupted => OpenError::Later(error),
            _ if is_shortage(&error) => OpenError::Later(error),
            // Waiting does not help, and a batch would wait for ever.
            _ => OpenError::Wrong(format!("it cannot be read: {error}")),
        })?;
        let mark = input.mark();
        if let Some(info) = known {
            if let Some(how) = change(&info.mark, &mark) {
                return Err(OpenError::Wrong(changed(&how)));
            }
            input.seek(info.position);
        }
        let columns =
            header.as_ref().map_or(Ok(Vec::new()), columns_of).map_err(OpenError::Wrong)?;
        if known.is_none() {
            // Durable after it: where the file stands now, and that it is no longer in `incoming/`.
            self.spool.sync_claim(claimed, &task.rel).map_err(|source| {
                if is_shortage(&source) {
                    return OpenError::Later(source);
                }
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
            info.open = Some(Open { input, format, held: BTreeMap::new(), goes_on: None, task });
        }
        Ok(())
    }

    /// Which records of an input are over. The core knows nothing of one that no route takes since the start.
    fn progress(&self, job: JobId) -> Option<&Progress> {
        let past = || self.inputs.get(&job)?.past.as_ref().map(|past| &past.progress);
        self.core.progress(job).or_else(past)
    }

    /// What stands for all that is recorded of an input so far.
    fn input_line(&self, job: JobId) -> Vec<Record> {
        let Some(info) = self.inputs.get(&job) else { return Vec::new() };
        let progress = self.progress(job);
        let line = InputLine {
            job,
            format: info.format,
            mark: info.mark,
            low: progress.map_or(0, Progress::low),
            position: info.at(),
            rows: info.rows,
            reasons: info.most_frequent(),
        };
        let sets = progress.map_or_else(Vec::new, Progress::sets);
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
        let open = self.inputs.values().filter(|info| info.open.is_some()).count();
        let part = limits::OPEN_RECORD_BYTES / open.max(1);
        let own = self.inputs.get(&job).map_or(0, InputInfo::held_bytes);
        // So much it may take in besides.
        let room = limits::OPEN_RECORD_BYTES.saturating_sub(all).max(part.saturating_sub(own));
        let Some(open) = self.inputs.get_mut(&job).and_then(|info| info.open.as_mut()) else {
            let failure = Failure::new(FailClass::Permanent, "its input is not open");
            return self.step(Event::InputBroken { job, failure }, now);
        };
        let progress = self.core.progress(job);
        let read = open.read_on(most, room, &|no| progress.is_some_and(|it| it.contains(no)));
        let event = match read {
            Ok(Read { numbers, is_full, at_end, goes_on }) => {
                if goes_on {
                    open.goes_on = Some(most.saturating_sub(numbers.len()));
                    self.out.push(Output::ReadOn { job });
                }
                Event::Read { job, numbers, is_full, at_end, goes_on }
            }
            Err(reason) => {
                let failure = Failure::new(FailClass::Permanent, reason);
                Event::InputBroken { job, failure }
            }
        };
        self.step(event, now)
    }

    /// Others had their turn. An input that was closed meanwhile is opened again some time.
    pub(super) fn read_more(&mut self, job: JobId, now: Millis) -> Result<(), KeeperError> {
        let open = self.inputs.get_mut(&job).and_then(|info| info.open.as_mut());
        let most = open.and_then(|open| open.goes_on.take());
        most.map_or(Ok(()), |most| self.read_records(job, most, now))
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
    goes_on: bool,
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
        mut room: usize,
        is_over: &dyn Fn(u64) -> bool,
    ) -> Result<Read, String> {
        let unreadable = |error: io::Error| format!("its input cannot be read: {error}");
        if let Some(how) = self.input.change().map_err(unreadable)? {
            return Err(changed(&how));
        }
        let (mut numbers, mut bytes) = (Vec::new(), limits::INPUT_SLICE);
        while numbers.len() < most {
            if room == 0 && !(self.held.is_empty() && numbers.is_empty()) {
                return Ok(Read { numbers, is_full: true, at_end: false, goes_on: false });
            }
            let split = match self.input.next_within(&mut bytes).map_err(unreadable)? {
                Found::Record(split) => split,
                end => {
                    let at_end = end == Found::End;
                    return Ok(Read { numbers, is_full: false, at_end, goes_on: !at_end });
                }
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
            room = room.saturating_sub(record.bytes());
            self.held.insert(no, record);
            numbers.push(no);
        }
        Ok(Read { numbers, is_full: false, at_end: false, goes_on: false })
    }
}

/// The names in a header; the error is why there are none.
fn columns_of(header: &Split) -> Result<Vec<String>, String> {
    match header.unfit {
        None => columns(&header.bytes),
        Some(SplitUnfit::OpenQuote) => Err("its header has a quote that is not closed".to_owned()),
        Some(SplitUnfit::TooLong) => {
            let most = bytesize::ByteSize::b(limits::RECORD);
            Err(format!("its header is longer than {most}; is a quote not closed?"))
        }
    }
}

fn changed(how: &str) -> String {
    format!("the input was changed after its first record was begun: {how}; what is recorded stays")
}

/// Inputs by job.
pub(in crate::daemon) type Inputs<F> = HashMap<JobId, InputInfo<F>>;
