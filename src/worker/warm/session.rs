//! One warm worker from its `hello` to its end: the state machine of the protocol's page.
//!
//! ```text
//! start() ─ hello ► ready ─► idle ─ job ► run() ─ result ─► idle … ─ drain ► end()
//!    └─ failed start            └─ tend(): ping, pong, recycle
//! ```
//!
//! `greet`: up to `ready`. `talk`: a job in flight. `line`: what is told of it.
//!
//! Must not know: other workers, how many there are. Who holds a session owns it alone: a slot while
//! it runs a job, the pool while it is idle.
//!
//! Invariants
//! - Here at most one job is in flight; a worker that takes several has a thread of its own (`crew`).
//! - A job has exactly one end. A result that arrives whole before the kill counts, whatever the
//!   reason for ending the worker was.
//! - A busy worker is never pinged: a single-threaded one cannot answer.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::process::Pid;

use super::framing::Frame;
use super::job::log_line;
use super::message::{Message, Ready, Say, read, write};
use super::process::Process;
use crate::config::{Route, limits};
use crate::core::{FailClass, Verdict};
use crate::worker::Ended;
use crate::worker::exit::one_line;
use crate::worker::own_files::is_written_by;
use crate::worker::tail::Tail;

mod greet;
mod line;
mod talk;

pub(super) use greet::{Start, StartFailure, start};
pub(super) use line::{id_of, job_line};

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
    pub(super) idle_since: Instant,
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

/// What is compared to see that a file was changed.
type Seen = (i64, i64, u64, u64);

/// The files whose change makes a worker an old one, as they were at its start.
#[derive(Debug)]
pub(super) struct Files {
    all: Mutex<Vec<(PathBuf, Option<Seen>)>>,
    /// So many of them, the first ones, may be its own: a log, a pid file.
    arguments: usize,
    group: Option<Pid>,
}

impl Files {
    /// The arguments that are files, and what else it runs.
    pub(super) fn new(arguments: &[PathBuf], others: &[PathBuf]) -> Self {
        let all = arguments.iter().chain(others);
        let all = all.map(|path| (path.clone(), seen(path))).collect();
        Self { all: Mutex::new(all), arguments: arguments.len(), group: None }
    }

    /// Those of the worker with this group.
    pub(super) fn of(self, group: Option<Pid>) -> Self {
        Self { group, ..self }
    }

    /// They are those that the worker was started from.
    pub(super) fn are_current(&self) -> bool {
        // Nothing in here panics half way.
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().enumerate().all(|(at, (path, then))| {
            let now = seen(path);
            let group = self.group.filter(|_| at < self.arguments && now != *then);
            if group.is_some_and(|group| is_written_by(path, group)) {
                *then = now;
            }
            *then == now
        })
    }
}

fn seen(path: &Path) -> Option<Seen> {
    let meta = path.metadata().ok()?;
    Some((meta.mtime(), meta.mtime_nsec(), meta.ino(), meta.len()))
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

#[cfg(test)]
mod tests;
