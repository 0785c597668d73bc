//! One warm worker from its `hello` to its end: the state machine of the protocol's page.
//!
//! ```text
//! start() ─ hello ► ready ─► idle ─ job ► run() ─ result ─► idle … ─ drain ► end()
//!    └─ failed start            └─ tend(): ping, pong, recycle
//! ```
//!
//! Must not know: other workers, how many there are. Who holds a session owns it alone: a slot while
//! it runs a job, the pool while it is idle.
//!
//! Invariants
//! - Here at most one job is in flight; a worker that takes several has a thread of its own (`crew`).
//! - A job has exactly one end. A result that arrives whole before the kill counts, whatever the
//!   reason for ending the worker was.
//! - A busy worker is never pinged: a single-threaded one cannot answer.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::framing::Frame;
use super::job::{Job, Over, Step, log_line};
use super::launch::launch;
use super::message::{InitClass, JobFields, Message, Named, Ready, RecordJson, Say, read, write};
use super::process::Process;
use crate::config::{Route, Worker, limits};
use crate::core::{FailClass, Failure, Row, Verdict};
use crate::worker::exit::{self, one_line};
use crate::worker::memory::OomWatch;
use crate::worker::records::{InputRecord, RecordValue};
use crate::worker::tail::Tail;
use crate::worker::{Ended, Stop, Task};

/// A warm worker that said `ready`.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) route: Arc<Route>,
    /// Unique in the life of the daemon.
    pub(super) number: u64,
    pub(super) process: Process,
    pub(super) ready: Ready,
    pub(super) files: Arc<Files>,
    born: Instant,
    idle_since: Instant,
    next_ping: Instant,
    pings: u64,
    unanswered: u32,
    jobs: u64,
    max_jobs: Option<u64>,
    /// Messages for nobody, over all its jobs.
    pub(super) ignored: u64,
    /// Why it is to be replaced, once it is.
    pub(super) leaves: Option<String>,
}

/// Why a worker did not come up.
#[derive(Debug)]
pub(super) struct StartFailure {
    /// The next start would fail as well.
    pub(super) is_permanent: bool,
    /// One line for a person.
    pub(super) reason: String,
    /// What it printed, and the detail it gave.
    pub(super) detail: Vec<u8>,
}

/// How a start ended.
#[derive(Debug)]
pub(super) enum Start {
    Ready(Box<Session>),
    Failed(StartFailure),
    /// The daemon said stop.
    Stopped,
}

/// What is compared to see that a file was changed.
type Seen = (i64, i64, u64, u64);

/// The files whose change makes a worker an old one, as they were at its start.
#[derive(Debug)]
pub(super) struct Files(Vec<(PathBuf, Option<Seen>)>);

impl Files {
    fn new(paths: &[PathBuf]) -> Self {
        Self(paths.iter().map(|path| (path.clone(), seen(path))).collect())
    }

    /// They are those that the worker was started from.
    pub(super) fn are_current(&self) -> bool {
        self.0.iter().all(|(path, then)| seen(path) == *then)
    }
}

fn seen(path: &Path) -> Option<Seen> {
    let meta = path.metadata().ok()?;
    Some((meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len()))
}

/// Starts a worker and waits for its `ready`.
pub(super) fn start(route: &Arc<Route>, spool: &Path, number: u64, stop: &Stop) -> Start {
    let permanent = |reason: String| {
        Start::Failed(StartFailure { is_permanent: true, reason, detail: Vec::new() })
    };
    let launched = match launch(route, spool) {
        Ok(launched) => launched,
        Err(reason) => return permanent(reason),
    };
    let files = Arc::new(Files::new(&launched.files));
    let mut process = match Process::new(launched, route) {
        Ok(process) => process,
        Err(error) => return permanent(format!("cannot watch the worker: {error}")),
    };
    match greet(&mut process, route, number, stop) {
        Ok(Some(ready)) => {
            let now = Instant::now();
            let max_jobs = [route.warm.max_jobs, ready.max_jobs].into_iter().flatten().min();
            Start::Ready(Box::new(Session {
                route: Arc::clone(route),
                number,
                process,
                files,
                born: now,
                idle_since: now,
                next_ping: now + limits::PING_EVERY,
                pings: 0,
                unanswered: 0,
                jobs: 0,
                max_jobs: max_jobs.map(|n| n.saturating_sub(up_to_a_tenth(n)).max(1)),
                ignored: 0,
                leaves: None,
                ready,
            }))
        }
        Ok(None) => {
            drop(process.end(Duration::ZERO, route.grace));
            Start::Stopped
        }
        Err(refusal) => Start::Failed(refuse(&mut process, route, refusal)),
    }
}

/// Why there was no `ready`.
enum Refusal {
    /// It said so itself.
    Said { class: InitClass, msg: String, detail: Option<String> },
    /// It ended.
    Gone,
    /// It does not keep to the protocol, or to its time.
    Wrong { is_permanent: bool, reason: String },
}

fn greet(
    process: &mut Process,
    route: &Route,
    number: u64,
    stop: &Stop,
) -> Result<Option<Ready>, Refusal> {
    let wrong = |reason: String| Refusal::Wrong { is_permanent: false, reason };
    let label = format!("{}/{number}", route.name);
    let hello = Say::Hello {
        v: 1,
        worker: &label,
        route: &route.name,
        max_line_bytes: limits::WORKER_LINE,
        config: &route.warm.config,
    };
    let hello = write(&hello).map_err(|reason| Refusal::Wrong { is_permanent: true, reason })?;
    process.send(&hello);
    let due = Instant::now().checked_add(route.warm.start_timeout);
    loop {
        let round = process.round(Some(stop), due);
        while let Some(frame) = process.next_frame() {
            let line = whole(frame).map_err(wrong)?;
            match read(&line).map_err(|why| wrong(quoted(&why, &line)))? {
                Message::Ready(ready) if ready.v == 1 => return Ok(Some(ready)),
                Message::Ready(ready) => {
                    let reason = format!("it speaks version {} of the protocol, not 1", ready.v);
                    return Err(Refusal::Wrong { is_permanent: true, reason });
                }
                Message::InitError(e) => {
                    let (class, msg, detail) = (e.class, e.msg, e.detail);
                    return Err(Refusal::Said { class, msg, detail });
                }
                Message::Log(log) => process.log.push(&log_line(&log)),
                Message::Unknown => {}
                _ => return Err(wrong(quoted("the first message is not ready", &line))),
            }
        }
        if round.is_stopped {
            return Ok(None);
        }
        if round.is_gone {
            return Err(Refusal::Gone);
        }
        if round.is_stuck {
            return Err(wrong("it does not read what it is sent".to_owned()));
        }
        if due.is_some_and(|due| Instant::now() >= due) {
            let time = humantime::format_duration(route.warm.start_timeout);
            return Err(wrong(format!("not ready within {time}")));
        }
    }
}

fn refuse(process: &mut Process, route: &Route, refusal: Refusal) -> StartFailure {
    // Who said init_error exits by itself.
    let status = match &refusal {
        Refusal::Said { .. } | Refusal::Gone => process.end(route.grace, route.grace),
        Refusal::Wrong { .. } => process.end(Duration::ZERO, route.grace),
    };
    let mut detail = take(&mut process.log, limits::LOG_KEPT);
    let stderr = take(&mut process.stderr, limits::STDERR_KEPT);
    detail.extend_from_slice(&stderr);
    let name = match &route.worker {
        Worker::Python { file, .. } => file.clone(),
        Worker::Warm { argv } | Worker::Command { argv } => argv.join(" "),
        Worker::Http { url } => url.clone(),
    };
    let (is_permanent, why) = match refusal {
        Refusal::Said { class, msg, detail: more } => {
            detail.extend_from_slice(more.unwrap_or_default().as_bytes());
            let mut why = one_line(msg.as_bytes());
            if why.starts_with("ModuleNotFoundError") {
                let interpreter = &route.warm.interpreter;
                why = format!(
                    "{why} (install it for {interpreter}, or set interpreter = \".venv/bin/python\")"
                );
            }
            (class == InitClass::Permanent, why)
        }
        Refusal::Wrong { is_permanent, reason } => (is_permanent, reason),
        Refusal::Gone => match status {
            Ok(status) => (
                matches!(status.code(), Some(126 | 127)),
                format!("{} before it was ready", ended_as(status, &stderr)),
            ),
            Err(error) => (false, format!("it ended before it was ready: {error}")),
        },
    };
    let reason = format!("cannot start {}: {why}", one_line(name.as_bytes()));
    StartFailure { is_permanent, reason, detail }
}

/// `exit 3: last line`, `killed by SIGSEGV`.
fn ended_as(status: ExitStatus, stderr: &[u8]) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => exit::code_reason(code, stderr),
        (None, signal) => format!("killed by {}", exit::signal_name(signal.unwrap_or_default())),
    }
}

pub(super) fn whole(frame: Frame) -> Result<Vec<u8>, String> {
    match frame {
        Frame::Line(line) => Ok(line),
        Frame::TooLong(begin) => {
            Err(quoted(&format!("a line of more than {} bytes", limits::WORKER_LINE), &begin))
        }
    }
}

fn quoted(why: &str, line: &[u8]) -> String {
    let begin = line.get(..limits::WORKER_QUOTED).unwrap_or(line);
    format!("protocol: {why}: {}", one_line(begin))
}

pub(super) fn take(tail: &mut Tail, limit: usize) -> Vec<u8> {
    std::mem::replace(tail, Tail::new(limit)).finish()
}

/// At random from 0 to a tenth of `n`, so that not all workers are replaced at once.
fn up_to_a_tenth(n: u64) -> u64 {
    n.saturating_mul(random()) / (10 << 32)
}

/// 32 random bits, for jitter.
pub(super) fn random() -> u64 {
    let mut bytes = [0u8; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(_) | Err(_) => u64::from(u32::from_ne_bytes(bytes)),
    }
}

/// What becomes of a worker after a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It can go on; [`Session::leaves`] says whether it should.
    Alive,
    /// It is gone, and its group.
    Gone,
}

/// How a job in flight ended.
enum End {
    Result(Box<Over>, bool),
    /// The process ended by itself.
    Died,
    /// It broke the protocol.
    Violation(String),
    /// We ended it.
    Ended(Cause),
}

#[derive(Clone, Debug)]
enum Cause {
    Timeout(String),
    Stop,
    /// It closed its end, or does not read.
    Deaf(&'static str),
}

/// Where the job stands between us and the worker.
enum Phase {
    Running,
    /// `cancel` was sent; TERM is due.
    Cancelling(Cause, Option<Instant>),
    /// TERM was sent; KILL is due.
    Asked(Cause, Option<Instant>),
    Killed(Cause),
}

impl Session {
    /// How many jobs it takes at once.
    pub(super) fn places(&self) -> usize {
        self.ready.concurrency.and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
    }

    /// A job is handed to it.
    pub(super) fn begin_job(&mut self) {
        self.jobs = self.jobs.saturating_add(1);
    }

    /// A job of it is over; now it may be idle.
    pub(super) fn end_job(&mut self) {
        self.idle_since = Instant::now();
        self.next_ping = self.idle_since + limits::PING_EVERY;
        self.unanswered = 0;
    }

    /// It died before it read its last job, which can thus not be why.
    pub(super) fn is_innocent(&self, ended: &Ended) -> bool {
        let died = matches!(&ended.verdict, Verdict::Failed(f) if f.class == FailClass::Crash);
        died && self.process.is_unheard()
    }

    /// What input it takes, if it said so.
    pub(super) fn schema(&self) -> Option<&serde_json::Value> {
        self.ready.schema.as_ref()
    }

    /// Runs one job to its end.
    pub(super) fn run(&mut self, task: &Task, stop: &Stop, memory: &OomWatch) -> (Ended, After) {
        // What it said while it was loaded or idle is kept as log; the reason of a crash is of this job.
        let idle_stderr = take(&mut self.process.stderr, limits::STDERR_KEPT);
        self.process.log.push(&idle_stderr);
        let id = id_of(task);
        let (most, require) = (self.route.warm.max_staged, self.route.require_output);
        let mut job = Job::new(id, &self.ready, &task.scratch, most, require);
        let served = self.jobs;
        self.begin_job();
        let end = match job_line(&job, task) {
            Ok(line) => {
                self.process.send(&line);
                self.converse(&mut job, stop)
            }
            Err(reason) => {
                let failure = Failure::new(FailClass::Permanent, reason);
                let (verdict, rows) = (Verdict::Failed(failure), Vec::new());
                End::Result(Box::new(Over { verdict, rows, detail: String::new() }), true)
            }
        };
        let (verdict, rows, after) = self.conclude(end, memory);
        if matches!(&verdict, Verdict::Failed(f) if f.class == FailClass::Crash) {
            let who = self.ready.name.as_deref().unwrap_or("worker");
            let version = self.ready.version.as_deref().unwrap_or("without version");
            let line = format!("{who} {version} had served {served} jobs before\n");
            self.process.log.push(line.as_bytes());
        }
        self.end_job();
        let ended = Ended {
            verdict,
            rows,
            log: take(&mut self.process.log, limits::LOG_KEPT),
            stderr: take(&mut self.process.stderr, limits::STDERR_KEPT),
            took: Duration::ZERO,
        };
        (ended, after)
    }

    fn conclude(&mut self, end: End, memory: &OomWatch) -> (Verdict, Vec<Row>, After) {
        let grace = self.route.grace;
        let failed = |class, reason: String| Verdict::Failed(Failure::new(class, reason));
        let (verdict, status) = match end {
            End::Result(over, is_kept) => {
                if !over.detail.is_empty() {
                    self.process.stderr.push(over.detail.as_bytes());
                }
                if is_kept {
                    self.look_after_job();
                    return (over.verdict, over.rows, After::Alive);
                }
                drop(self.process.end(grace, grace));
                return (over.verdict, over.rows, After::Gone);
            }
            End::Violation(reason) => {
                (failed(FailClass::Fail, reason), self.process.end(Duration::ZERO, grace))
            }
            End::Ended(Cause::Timeout(reason)) => {
                (failed(FailClass::Timeout, reason), self.process.reap())
            }
            End::Ended(Cause::Stop) => (Verdict::Released, self.process.reap()),
            End::Ended(Cause::Deaf(reason)) => {
                (failed(FailClass::Crash, reason.to_owned()), self.process.reap())
            }
            End::Died => {
                let status = self.process.reap();
                let stderr = take(&mut self.process.stderr, limits::STDERR_KEPT);
                let verdict = died(&status, &stderr, memory);
                self.process.stderr.push(&stderr);
                (verdict, status)
            }
        };
        drop(status);
        (verdict, Vec::new(), After::Gone)
    }

    /// Until the result, the end of the process, or our patience's.
    fn converse(&mut self, job: &mut Job, stop: &Stop) -> End {
        let begun = Instant::now();
        let timeout = begun.checked_add(self.route.timeout);
        let tells = self.ready.has("progress");
        let patience = self.route.warm.progress_timeout.filter(|_| tells);
        let mut progress_due = patience.and_then(|time| begun.checked_add(time));
        let mut closed_due = None;
        let mut phase = Phase::Running;
        loop {
            let due = match &phase {
                Phase::Running => [timeout, progress_due, closed_due].into_iter().flatten().min(),
                Phase::Cancelling(_, due) | Phase::Asked(_, due) => *due,
                Phase::Killed(_) => None,
            };
            let listen = matches!(phase, Phase::Running).then_some(stop);
            let round = self.process.round(listen, due);
            while let Some(frame) = self.process.next_frame() {
                let line = match whole(frame) {
                    Ok(line) => line,
                    Err(reason) => return End::Violation(reason),
                };
                let message = match read(&line) {
                    Ok(message) => message,
                    Err(why) => return End::Violation(quoted(&why, &line)),
                };
                match job.hear(message, &mut |text| self.process.log.push(text)) {
                    Step::Go => {}
                    Step::Ignored => self.ignored = self.ignored.saturating_add(1),
                    Step::Progress => {
                        progress_due = patience.and_then(|t| Instant::now().checked_add(t));
                    }
                    Step::Leave(reason) => self.leaves = Some(reason),
                    Step::Over(over) => {
                        self.process.take_prints();
                        let is_kept = matches!(phase, Phase::Running | Phase::Cancelling(..));
                        return End::Result(over, is_kept && !round.is_gone);
                    }
                }
            }
            if round.is_gone {
                return match phase {
                    // Without its supervisor the daemon says stop and then ends all its children.
                    Phase::Running if stop.is_stopped() => End::Ended(Cause::Stop),
                    Phase::Running => End::Died,
                    Phase::Cancelling(cause, _) | Phase::Asked(cause, _) | Phase::Killed(cause) => {
                        End::Ended(cause)
                    }
                };
            }
            if self.process.is_closed() && closed_due.is_none() {
                closed_due = Instant::now().checked_add(limits::WORKER_CLOSED);
            }
            let now = Instant::now();
            let is_past = |due: Option<Instant>| due.is_some_and(|due| now >= due);
            phase = match phase {
                Phase::Running if round.is_stopped => self.cancel(job, Cause::Stop),
                Phase::Running if round.is_stuck => {
                    self.ask(Cause::Deaf("the worker does not read what it is sent"))
                }
                Phase::Running if is_past(timeout) => {
                    let time = humantime::format_duration(self.route.timeout);
                    self.cancel(job, Cause::Timeout(format!("timed out after {time}")))
                }
                Phase::Running if is_past(progress_due) => {
                    let time = humantime::format_duration(patience.unwrap_or_default());
                    self.cancel(job, Cause::Timeout(format!("no progress for {time}")))
                }
                Phase::Running if is_past(closed_due) => {
                    self.ask(Cause::Deaf("the worker closed its connection without a result"))
                }
                Phase::Cancelling(cause, due) if is_past(due) => self.ask(cause),
                Phase::Asked(cause, due) if is_past(due) => {
                    self.process.kill();
                    Phase::Killed(cause)
                }
                same => same,
            };
        }
    }

    /// `cancel` where the worker knows it, else TERM.
    fn cancel(&mut self, job: &Job, cause: Cause) -> Phase {
        if !self.ready.has("cancel") {
            return self.ask(cause);
        }
        let grace_ms = u64::try_from(self.route.grace.as_millis()).unwrap_or(u64::MAX);
        let reason = if matches!(cause, Cause::Stop) { "drain" } else { "timeout" };
        let said = write(&Say::Cancel { id: job.id(), reason, grace_ms });
        self.process.send(&said.unwrap_or_default());
        Phase::Cancelling(cause, Instant::now().checked_add(self.route.grace))
    }

    fn ask(&self, cause: Cause) -> Phase {
        self.process.ask_to_end();
        Phase::Asked(cause, Instant::now().checked_add(self.route.grace))
    }

    /// Whether it should be replaced, now that a job is over.
    pub(super) fn look_after_job(&mut self) {
        if self.max_jobs.is_some_and(|most| self.jobs >= most) {
            self.leaves = Some("max_jobs".to_owned());
        }
        if let Some(most) = self.route.warm.max_rss
            && self.process.rss().is_some_and(|rss| rss > most)
        {
            self.leaves = Some("max_rss".to_owned());
        }
        self.look_at_age();
    }

    fn look_at_age(&mut self) {
        if self.route.warm.max_age.is_some_and(|most| self.born.elapsed() >= most) {
            self.leaves = Some("max_age".to_owned());
        }
    }

    /// Takes in what an idle worker said, without waiting; pings it when that is due. `false`: it is of
    /// no use any more, and is to be ended.
    pub(super) fn tend(&mut self, now: Instant) -> bool {
        // A time that is over: nothing is waited for, whatever time it is taken to be.
        let round = self.process.round(None, Some(self.born));
        while let Some(frame) = self.process.next_frame() {
            let Ok(line) = whole(frame) else { return false };
            match read(&line) {
                Ok(Message::Pong { n }) if n == self.pings => self.unanswered = 0,
                Ok(Message::Log(log)) => self.process.log.push(&log_line(&log)),
                Ok(Message::Recycle { reason }) => self.leaves = Some(reason),
                Ok(Message::Ready(_) | Message::InitError(_) | Message::Bye) | Err(_) => {
                    return false;
                }
                Ok(_) => self.ignored = self.ignored.saturating_add(1),
            }
        }
        if round.is_gone || round.is_stuck || self.process.is_closed() {
            return false;
        }
        self.look_at_age();
        if now >= self.next_ping {
            if self.unanswered >= limits::PINGS_UNANSWERED {
                return false;
            }
            self.unanswered = self.unanswered.saturating_add(1);
            self.pings = self.pings.saturating_add(1);
            self.next_ping = now + limits::PING_EVERY;
            self.process.send(&write(&Say::Ping { n: self.pings }).unwrap_or_default());
        }
        true
    }

    /// Without a job for longer than the route allows.
    pub(super) fn is_idle_too_long(&self, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.idle_since);
        self.route.warm.idle_timeout.is_some_and(|most| idle >= most)
    }

    /// No more jobs come: it may finish by itself.
    pub(super) fn drain(&mut self) {
        self.process.send(&write(&Say::Drain).unwrap_or_default());
    }

    /// Sends `drain` and waits until it and its group are gone.
    pub(super) fn end(mut self) {
        self.drain();
        let grace = self.route.grace;
        drop(self.process.end(grace, grace));
    }
}

fn died(status: &io::Result<ExitStatus>, stderr: &[u8], memory: &OomWatch) -> Verdict {
    let crash = |reason: String, exit| {
        Verdict::Failed(Failure { exit, ..Failure::new(FailClass::Crash, reason) })
    };
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(0), _) => crash("exit 0 without a result".to_owned(), Some(0)),
            (Some(code), _) => crash(exit::code_reason(code, stderr), Some(code)),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                exit::of_signal(signal, signal == exit::SIGKILL && memory.ran_out())
            }
        },
        // Reaped by who ends everything: we are being stopped too.
        Err(_) => Verdict::Released,
    }
}

/// A record has an id of its own, so that a second result for the last one is not taken for its own.
pub(super) fn id_of(task: &Task) -> String {
    match &task.record {
        Some(record) => format!("{}/{}", task.job, record.no),
        None => task.job.to_string(),
    }
}

fn record_json(record: &InputRecord) -> Result<RecordJson<'_>, String> {
    match &record.value {
        RecordValue::Line(text) => Ok(RecordJson::Line(text)),
        RecordValue::Object(text) => {
            let raw = serde_json::from_str(text);
            raw.map(RecordJson::Object).map_err(|error| format!("the record is no JSON: {error}"))
        }
    }
}

pub(super) fn job_line(job: &Job, task: &Task) -> Result<Vec<u8>, String> {
    let meta = task.path.symlink_metadata();
    let meta = meta.map_err(|error| format!("cannot look at the file: {error}"))?;
    let route = &task.route;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    write(&Say::Job(Box::new(JobFields {
        id: job.id(),
        attempt: task.attempt,
        route: &route.name,
        path: Named::path(&task.path),
        name: Named::name(task.rel.name()),
        rel: Named::rel(task.rel.as_bytes()),
        size_bytes: meta.len(),
        mtime_ms: meta.mtime().saturating_mul(1000).saturating_add(meta.mtime_nsec() / 1_000_000),
        timeout_ms: ms(route.timeout),
        deadline_ms: ms(now.saturating_add(route.timeout)),
        progress_timeout_ms: route.warm.progress_timeout.map(ms),
        scratch: Named::scratch(&task.scratch),
        output: task.output.as_deref().map(Named::output),
        args: BTreeMap::new(),
        record: task.record.as_ref().map(record_json).transpose()?,
        record_no: task.record.as_ref().map(|record| record.no),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Transport, Worker};

    /// A worker in a line of shell, ready at once.
    fn session(then: &str) -> (tempfile::TempDir, Session) {
        let spool = tempfile::tempdir().unwrap();
        let script = format!("printf '\\036{{\"t\":\"ready\",\"v\":1}}\\n'; {then}");
        let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let mut route = Route::new("r", Vec::new());
        route.worker = Worker::Warm { argv };
        route.warm.transport = Transport::Stdio;
        route.grace = Duration::from_millis(50);
        match start(&Arc::new(route), spool.path(), 1, &Stop::new().unwrap()) {
            Start::Ready(session) => (spool, *session),
            other => panic!("not ready: {other:?}"),
        }
    }

    /// Goal: a worker that is ended because all is ended is no crash of its job, and one that ends by itself
    /// is. Method: a worker that has gone, run with the stop told before and not.
    #[test]
    fn a_worker_ended_with_all_is_no_crash() {
        for is_stopped in [true, false] {
            let (spool, mut gone) = session("exit 0");
            let end = Instant::now() + Duration::from_secs(30);
            while !gone.process.round(None, Some(end)).is_gone {
                assert!(Instant::now() < end, "it does not end");
            }
            std::fs::write(spool.path().join("f"), "x").unwrap();
            let task = Task {
                job: crate::core::JobId::MIN,
                attempt: 1,
                route: Arc::clone(&gone.route),
                rel: crate::core::RelPath::new("f").unwrap(),
                spool: spool.path().to_owned(),
                path: spool.path().join("f"),
                scratch: spool.path().to_owned(),
                output: None,
                record: None,
            };
            let stop = Stop::new().unwrap();
            if is_stopped {
                stop.now().unwrap();
            }
            let verdict = gone.run(&task, &stop, &OomWatch::new()).0.verdict;
            match verdict {
                Verdict::Failed(failure) => assert!(!is_stopped, "{}", failure.reason),
                verdict => assert!(is_stopped, "{verdict:?}"),
            }
        }
    }

    /// Goal: an idle worker that does not answer its pings is of no use after two of them, one that does
    /// stays. Method: time as the test says; a worker that hears nothing, and one that answers.
    #[test]
    fn unanswered_pings_end_a_worker() {
        let (_spool, mut deaf) = session("while read -r l; do :; done");
        let mut now = Instant::now();
        for _ in 0..limits::PINGS_UNANSWERED {
            now += 2 * limits::PING_EVERY;
            assert!(deaf.tend(now), "ended too soon");
            assert!(deaf.tend(now), "ended between two pings");
        }
        now += 2 * limits::PING_EVERY;
        assert!(!deaf.tend(now), "still of use");
        deaf.end();

        let answers = "n=0; while read -r l; do case $l in *ping*) n=$((n+1)); \
                       printf '\\036{\"t\":\"pong\",\"n\":%d}\\n' $n;; esac; done";
        let (_spool, mut sound) = session(answers);
        let mut now = Instant::now();
        for _ in 0..2 * limits::PINGS_UNANSWERED {
            now += 2 * limits::PING_EVERY;
            assert!(sound.tend(now));
            let end = Instant::now() + Duration::from_secs(30);
            while sound.unanswered > 0 {
                assert!(Instant::now() < end, "no pong came");
                std::thread::park_timeout(Duration::from_millis(2));
                assert!(sound.tend(now));
            }
        }
        sound.end();
    }
}
