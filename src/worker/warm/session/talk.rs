//! One job in flight: told, listened to, cancelled where it must be, concluded.
//!
//! Must not know: which job comes next.
//!
//! Invariant: a result that arrives whole before the kill counts, whatever the reason for ending the worker was.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::super::job::{Job, Over, Step};
use super::super::message::{Say, read, write};
use super::line::{id_of, job_line};
use super::{After, Session, quoted, take, whole};
use crate::config::limits;
use crate::core::{FailClass, Failure, Row, Verdict};
use crate::worker::exit;
use crate::worker::memory::OomWatch;
use crate::worker::{Ended, Stop, Task};

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
    /// KILL was sent; it is not waited for after this.
    Killed(Cause, Option<Instant>),
}

impl Session {
    /// Runs one job to its end.
    pub(in crate::worker::warm) fn run(
        &mut self,
        task: &Task,
        stop: &Stop,
        memory: &OomWatch,
    ) -> (Ended, After) {
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
                Phase::Cancelling(_, due) | Phase::Asked(_, due) | Phase::Killed(_, due) => *due,
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
                    Phase::Cancelling(cause, _)
                    | Phase::Asked(cause, _)
                    | Phase::Killed(cause, _) => End::Ended(cause),
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
                    Phase::Killed(cause, self.process.kill())
                }
                Phase::Killed(cause, due) if is_past(due) => return End::Ended(cause),
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
