//! From the start of a process to its `ready`, or why there is none.
//!
//! Must not know: jobs.
//!
//! Invariant: a process that did not say `ready` in time is gone when this returns.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::job::log_line;
use super::super::launch::{Launched, launch};
use super::super::message::{InitClass, Message, Ready, Say, read, write};
use super::super::process::Process;
use super::{Session, quoted, take, up_to_a_tenth, whole};
use crate::config::{Route, Worker, limits};
use crate::worker::Stop;
use crate::worker::exit::{self, one_line};

/// Why a worker did not come up.
#[derive(Debug)]
pub(in crate::worker::warm) struct StartFailure {
    /// The next start would fail as well.
    pub(in crate::worker::warm) is_permanent: bool,
    /// One line for a person.
    pub(in crate::worker::warm) reason: String,
    /// What it printed, and the detail it gave.
    pub(in crate::worker::warm) detail: Vec<u8>,
}

/// How a start ended.
#[derive(Debug)]
pub(in crate::worker::warm) enum Start {
    Ready(Box<Session>),
    Failed(StartFailure),
    /// The daemon said stop.
    Stopped,
}

/// Starts a worker and waits for its `ready`.
pub(in crate::worker::warm) fn start(
    route: &Arc<Route>,
    spool: &Path,
    number: u64,
    stop: &Stop,
) -> Start {
    let permanent = |reason: String| {
        Start::Failed(StartFailure { is_permanent: true, reason, detail: Vec::new() })
    };
    let launched = match launch(route, spool) {
        Ok(launched) => launched,
        Err(reason) => return permanent(reason),
    };
    let Launched { child, to, from, files } = launched;
    let mut process = match Process::new(child, to, from, route) {
        Ok(process) => process,
        Err(error) => return permanent(format!("cannot watch or limit the worker: {error}")),
    };
    match greet(&mut process, route, number, stop) {
        Ok(Some(ready)) => {
            let now = Instant::now();
            let max_jobs = [route.warm.max_jobs, ready.max_jobs].into_iter().flatten().min();
            Start::Ready(Box::new(Session {
                route: Arc::clone(route),
                number,
                process,
                files: Arc::new(files),
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
                format!("{} before it was ready{}", ended_as(status, &stderr), limited(route)),
            ),
            Err(error) => (false, format!("it ended before it was ready: {error}")),
        },
    };
    let reason = format!("cannot start {}: {why}", one_line(name.as_bytes()));
    StartFailure { is_permanent, reason, detail }
}

/// What a limit does to a start looks like anything else: `killed by SIGSEGV`.
fn limited(route: &Route) -> String {
    let most = route.max_memory.map(bytesize::ByteSize::b);
    most.map(|most| format!(" (with max_memory = \"{most}\")")).unwrap_or_default()
}

/// `exit 3: last line`, `killed by SIGSEGV`.
fn ended_as(status: ExitStatus, stderr: &[u8]) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => exit::code_reason(code, stderr),
        (None, signal) => format!("killed by {}", exit::signal_name(signal.unwrap_or_default())),
    }
}
