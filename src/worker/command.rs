//! Kind `command`: a process a file. A task becomes a process, its end a verdict.
//!
//! Must not know: how a process is watched and ended (`process`), how rows are read (`stdout`).
//!
//! Invariants
//! - No shell: a name is never parsed.
//! - Standard input is `/dev/null` or the claimed file, never ours.
//! - What can be known once a route is prepared once: the program, the template, the environment.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::memory::OomWatch;
use super::process::{Bounds, Ending, ResourceLimits, Stream, attend};
use super::spawn::{NotStarted, Program, Started, Starter, Stdin, Step};
use super::stdout::{Said, Stdout};
use super::tail::Tail;
use super::template::{companions, fill};
use super::{Ended, Stop, Task, exit, orphans, program};
use crate::config::template::{Part, parse};
use crate::config::{Route, Worker, limits};
use crate::core::{FailClass, Failure, Row, Verdict};
use crate::fs::is_shortage;

/// Runs one attempt to its end. [`Slot::run`] does the same and keeps what can be used again.
pub fn run(task: &Task, stop: &Stop) -> Ended {
    Slot::default().run(task, stop)
}

/// One slot of the pool, owned by its thread: what one attempt leaves for the next.
#[derive(Debug)]
pub struct Slot {
    prepared: Option<Prepared>,
    memory: OomWatch,
    /// What is read from the pipes passes through here. Made at the first start, too: a daemon that idles
    /// does without.
    buffer: Vec<u8>,
    /// Made at the first start.
    starter: Option<Starter>,
}

/// As much as a pipe holds, so that one read empties it.
const BUFFER: usize = 64 << 10;

impl Default for Slot {
    fn default() -> Self {
        Self { prepared: None, memory: OomWatch::new(), buffer: Vec::new(), starter: None }
    }
}

impl Slot {
    /// Runs one attempt to its end, blocking. Whatever happens is a verdict; nothing is an error.
    pub fn run(&mut self, task: &Task, stop: &Stop) -> Ended {
        let started = Instant::now();
        self.memory.begin();
        let mut ended = if stop.is_stopped() {
            Ended::without_rows(Verdict::Released)
        } else {
            match self.start(task, stop) {
                Ok(ended) => ended,
                Err(StartError::Task(reason)) => {
                    Ended::without_rows(Verdict::Failed(Failure::new(FailClass::Fail, reason)))
                }
                Err(StartError::Record(reason)) => {
                    let failure = Failure::new(FailClass::Permanent, reason);
                    Ended::without_rows(Verdict::Failed(failure))
                }
                Err(StartError::Route(reason) | StartError::Moved(reason)) => {
                    Ended::without_rows(Verdict::Misconfigured { reason })
                }
            }
        };
        ended.took = started.elapsed();
        ended
    }

    /// Has a process stand by for the next task, once there was one.
    pub(super) fn get_ready(&mut self) {
        if let Some(starter) = &mut self.starter {
            starter.get_ready();
        }
    }

    /// Lets that go again.
    pub(super) fn dismiss(&mut self) {
        if let Some(starter) = &mut self.starter {
            starter.dismiss();
        }
    }

    /// Whether one does.
    #[cfg(test)]
    pub(super) fn has_ready(&self) -> bool {
        self.starter.as_ref().is_some_and(Starter::has_ready)
    }

    fn start(&mut self, task: &Task, stop: &Stop) -> Result<Ended, StartError> {
        let Self { prepared, memory, buffer, starter } = self;
        buffer.resize(BUFFER, 0);
        let starter =
            match starter.take() {
                Some(kept) => starter.insert(kept),
                None => starter.insert(Starter::new().map_err(|error| {
                    StartError::Route(format!("cannot start anything: {error}"))
                })?),
            };
        let mut attend = |worker: &Started| attend_task(task, worker, stop, buffer, memory);
        if let Some(prepared) = prepared.as_ref().filter(|p| p.is_for(task)) {
            match prepared.run(task, starter, &mut attend) {
                // The program was found earlier and has moved since: look once more.
                Err(StartError::Moved(_)) => {}
                result => return result,
            }
        }
        // Kept only once it is whole, so that a program that appears later is found.
        *prepared = None;
        prepared.insert(Prepared::new(task)?).run(task, starter, &mut attend)
    }
}

fn attend_task(
    task: &Task,
    worker: &Started,
    stop: &Stop,
    buffer: &mut [u8],
    memory: &OomWatch,
) -> Ended {
    let route = &*task.route;
    let mut stdout = Stdout::new(route);
    let mut stderr = Tail::new(limits::STDERR_KEPT);
    let bounds = Bounds { stop, timeout: route.timeout, grace: route.grace };
    let ending = attend(worker, &bounds, buffer, &mut |stream, bytes| match stream {
        Stream::Stdout => stdout.hear(bytes),
        Stream::Stderr => stderr.push(bytes),
    });
    let stderr = stderr.finish();
    let succeeded = matches!(&ending, Ending::Exited(status) if status.success());
    let Said { rows, error, log } = stdout.finish(succeeded);
    let (verdict, rows) = match ending {
        Ending::Stopped => (Verdict::Released, Vec::new()),
        Ending::Lost(error) => (lost(&error), Vec::new()),
        Ending::TimedOut => (timed_out(route.timeout), Vec::new()),
        Ending::Exited(status) => match status.code() {
            Some(0) => succeed(rows, error),
            Some(code) => (exit::of_code(code, error.as_deref(), &stderr), Vec::new()),
            None => {
                let signal = status.signal().unwrap_or_default();
                let ran_out = signal == exit::SIGKILL && memory.ran_out();
                (exit::of_signal(signal, ran_out), Vec::new())
            }
        },
    };
    Ended { verdict, rows, log, stderr, took: Duration::ZERO }
}

/// Its end is unknown. The attempt costs nothing, since nothing says that the worker did wrong.
fn lost(error: &io::Error) -> Verdict {
    if error.raw_os_error() == Some(rustix::io::Errno::CHILD.raw_os_error()) {
        // Reaped by who ends everything: we are being stopped too.
        return Verdict::Released;
    }
    if error.kind() == io::ErrorKind::TimedOut {
        // A debugger holds it, and may do so again: another attempt without end would help nobody.
        return Verdict::Failed(Failure::new(FailClass::Crash, error.to_string()));
    }
    Verdict::Misconfigured { reason: format!("cannot watch the worker: {error}") }
}

fn timed_out(timeout: Duration) -> Verdict {
    let reason = format!("timed out after {}", humantime::format_duration(timeout));
    Verdict::Failed(Failure::new(FailClass::Timeout, reason))
}

/// Exit code 0: what was said decides.
fn succeed(rows: Result<Vec<Row>, Failure>, error: Option<String>) -> (Verdict, Vec<Row>) {
    let failure = match (error, rows) {
        (None, Ok(rows)) => return (Verdict::Done, rows),
        (Some(error), _) => Failure::new(FailClass::Fail, error),
        (None, Err(failure)) => failure,
    };
    (Verdict::Failed(Failure { exit: Some(0), ..failure }), Vec::new())
}

/// Why nothing was started; each with one line for a person.
#[derive(Debug)]
enum StartError {
    /// No attempt of this route could start.
    Route(String),
    /// As `Route`, and the program had been found before: looking again may help.
    Moved(String),
    /// This file cannot be run or read; the next one may well be.
    Task(String),
    /// This record can never be handed over so.
    Record(String),
}

/// What is the same for every task of a route.
#[derive(Debug)]
struct Prepared {
    route: Arc<Route>,
    spool: PathBuf,
    /// As the settings name it; they refuse placeholders here, so no file decides what runs.
    name: OsString,
    /// Where it is.
    found: PathBuf,
    /// The same for the kernel, as the rest.
    path: CString,
    arg0: CString,
    folder: CString,
    arguments: Vec<Vec<Part>>,
    /// By name: `NAME=value`.
    environment: BTreeMap<OsString, CString>,
}

impl Prepared {
    fn new(task: &Task) -> Result<Self, StartError> {
        let Worker::Command { argv } = &task.route.worker else {
            return Err(StartError::Route("the route has no command".to_owned()));
        };
        let mut pieces = argv
            .iter()
            .map(|argument| parse(argument).map_err(|error| StartError::Route(error.to_string())));
        let name = fill(&pieces.next().unwrap_or_else(|| Ok(Vec::new()))?, task);
        let arguments = pieces.collect::<Result<Vec<_>, _>>()?;
        let mut environment = program::environment(&task.route);
        let mark = orphans::mark(&task.spool).map_err(|error| {
            StartError::Route(format!("cannot look at {}: {error}", task.spool.display()))
        })?;
        // After what the route sets: these are facts.
        environment.push((orphans::MARK_VAR.into(), mark));
        environment.push(("INBOXD_ROUTE".into(), task.route.name.clone().into()));
        environment.push(("INBOXD_SPOOL".into(), task.spool.clone().into()));
        let found = program::find(&name, &task.spool, program::search_path(&environment))
            .map_err(StartError::Route)?;
        let (route, spool) = (Arc::clone(&task.route), task.spool.clone());
        let path = for_kernel(found.as_os_str())?;
        let (arg0, folder) = (for_kernel(&name)?, for_kernel(spool.as_os_str())?);
        let environment = environment
            .into_iter()
            .map(|(name, value)| Ok((name.clone(), variable(&name, &value)?)))
            .collect::<Result<_, _>>()?;
        Ok(Self { route, spool, name, found, path, arg0, folder, arguments, environment })
    }

    fn is_for(&self, task: &Task) -> bool {
        Arc::ptr_eq(&self.route, &task.route) && self.spool == task.spool
    }

    fn run(
        &self,
        task: &Task,
        starter: &mut Starter,
        attend: &mut dyn FnMut(&Started) -> Ended,
    ) -> Result<Ended, StartError> {
        if let Some(why) = self.unfit(task) {
            return Err(StartError::Task(why));
        }
        match self.run_with(task, true, starter, attend) {
            // Standard input has it.
            Err(StartError::Record(_)) if self.route.stdin => {
                self.run_with(task, false, starter, attend)
            }
            other => other,
        }
    }

    /// `has_text`: a record is also told as a variable, if one can hold it.
    fn run_with(
        &self,
        task: &Task,
        has_text: bool,
        starter: &mut Starter,
        attend: &mut dyn FnMut(&Started) -> Ended,
    ) -> Result<Ended, StartError> {
        let mut argv = vec![self.arg0.clone()];
        for argument in &self.arguments {
            if *argument == [Part::With] {
                let paths = companions(task).map(|path| for_kernel(path.as_os_str()));
                argv.extend(paths.collect::<Result<Vec<_>, _>>()?);
                continue;
            }
            argv.push(for_kernel(&fill(argument, task))?);
        }
        let mut own = Vec::new();
        for (name, value) in facts(task).chain(record_facts(task, has_text)) {
            own.push((name, variable(OsStr::new(name), &value)?));
        }
        // What the task says goes before what the route sets.
        let is_free = |name: &OsString| own.iter().all(|(own, _)| name != own);
        let common = self.environment.iter().filter(|(name, _)| is_free(name)).map(|(_, it)| it);
        let environment: Vec<&CStr> =
            common.chain(own.iter().map(|(_, it)| it)).map(CString::as_c_str).collect();
        let (path, text);
        let stdin = match &task.record {
            _ if !self.route.stdin => Stdin::Null,
            Some(record) => {
                text = [record.value.text().as_bytes(), b"\n"].concat();
                Stdin::Text(&text)
            }
            None => {
                path = for_kernel(task.path.as_os_str())?;
                Stdin::File(&path)
            }
        };
        let program = Program {
            path: &self.path,
            argv: &argv,
            environment: &environment,
            folder: &self.folder,
            stdin,
            limits: ResourceLimits::of(&self.route),
        };
        starter.start(&program, attend).map_err(|error| self.explain(&error, task))
    }

    /// Why the record does not reach the worker: as an argument that is asked for, or as the variable where
    /// nothing else has it.
    fn unfit(&self, task: &Task) -> Option<String> {
        let record = task.record.as_ref()?;
        let asks = self.arguments.iter().any(|argument| argument.contains(&Part::Record));
        if fits_argument(record.value.text()) || (self.route.stdin && !asks) {
            return None;
        }
        let (what, most) = (if asks { "{record}" } else { "INBOXD_RECORD" }, limits::ARGUMENT);
        Some(format!("{what} cannot hold a NUL byte or more than {most} bytes; use stdin = true"))
    }

    fn explain(&self, error: &NotStarted, task: &Task) -> StartError {
        let source = &error.source;
        match error.step {
            Step::Limits => {
                StartError::Route(format!("cannot set the limits of the worker: {source}"))
            }
            Step::Nice => {
                let nice = self.route.nice.unwrap_or_default();
                let what = "cannot set the limits of the worker: nice";
                StartError::Route(format!("{what} = {nice}: {source}"))
            }
            Step::Folder => {
                StartError::Route(format!("cannot enter {}: {source}", self.spool.display()))
            }
            Step::StdinKind => StartError::Task(
                "cannot open the file as standard input: it is not a regular file".to_owned(),
            ),
            Step::Stdin => {
                let (what, is_ours) = match task.record {
                    // Memory and a descriptor are all that it takes.
                    Some(_) => ("cannot make the record standard input", true),
                    // Short of these: it can pass by itself, and the file has not failed.
                    None => ("cannot open the file as standard input", is_shortage(source)),
                };
                let reason = format!("{what}: {source}");
                if is_ours { StartError::Route(reason) } else { StartError::Task(reason) }
            }
            Step::Execute if error.is_too_big() && task.record.is_some() => {
                let what = "the record is too long for an argument or a variable here";
                StartError::Record(format!("{what} (ulimit -s): use stdin = true"))
            }
            Step::Execute | Step::Prepare => {
                let reason = program::start_error(&self.name, &self.found, source);
                match source.kind() {
                    io::ErrorKind::NotFound => StartError::Moved(reason),
                    _ => StartError::Route(reason),
                }
            }
        }
    }
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, StartError> {
    let mut both = name.to_owned();
    both.push("=");
    both.push(value);
    for_kernel(&both)
}

fn for_kernel(text: &OsStr) -> Result<CString, StartError> {
    // No name has one; a text of the settings may.
    CString::new(text.as_bytes()).map_err(|_| {
        let shown = exit::one_line(text.as_bytes());
        StartError::Route(format!("cannot start with a zero byte in \"{shown}\""))
    })
}

/// What the kernel takes as one argument or variable.
fn fits_argument(text: &str) -> bool {
    text.len() <= limits::ARGUMENT && !text.contains('\0')
}

/// The record and its number. A record that no variable can hold is left out: standard input has it.
fn record_facts(task: &Task, has_text: bool) -> impl Iterator<Item = (&'static str, OsString)> {
    let record = task.record.as_ref();
    let no = record.map(|record| ("INBOXD_RECORD_NO", record.no.to_string().into()));
    let text = record.filter(|_| has_text).map(|record| record.value.text());
    let text = text.filter(|text| fits_argument(text));
    no.into_iter().chain(text.map(|text| ("INBOXD_RECORD", text.into())))
}

/// The variables that differ from task to task.
fn facts(task: &Task) -> impl Iterator<Item = (&'static str, OsString)> {
    let deadline = SystemTime::now()
        .checked_add(task.route.timeout)
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map_or(u128::MAX, |since| since.as_millis());
    let output = task.output.as_ref().map(|path| ("INBOXD_OUTPUT", path.into()));
    [
        ("INBOXD_JOB", task.job.to_string().into()),
        ("INBOXD_ATTEMPT", task.attempt.to_string().into()),
        ("INBOXD_PATH", task.path.as_os_str().to_owned()),
        ("INBOXD_NAME", OsStr::from_bytes(task.rel.name()).to_owned()),
        ("INBOXD_REL", OsStr::from_bytes(task.rel.as_bytes()).to_owned()),
        ("INBOXD_SCRATCH", task.scratch.as_os_str().to_owned()),
        ("INBOXD_DEADLINE_MS", deadline.to_string().into()),
    ]
    .into_iter()
    .chain(output)
}

#[cfg(test)]
mod tests;
