//! `--wait`: until jobs are over, by following the daemon, or by running a batch where there is none.
//!
//! Must not know: how the jobs came to be.
//!
//! Invariant: an answer that was missed is found in the job log, so waiting ends if the jobs do.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::{Failed, SpoolArg, eprint_line, print_json, print_line, show};
use crate::core::{JobId, RelPath};
use crate::daemon::control::{Answer, Ask, Client};
use crate::daemon::history::{self, JobLine};
use crate::daemon::service::now_ms;

/// After so long without an answer the job log is looked into: a slow listener misses answers.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A job that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// By its id.
    Job(JobId),
    /// The next one of this path below `incoming/`.
    Rel(RelPath),
}

impl Awaited {
    fn is(&self, line: &JobLine) -> bool {
        let is_it = match self {
            Self::Job(job) => line.job == *job,
            Self::Rel(rel) => line.rel.0 == *rel,
        };
        // A record of it that failed is not its end.
        is_it && line.record.is_none()
    }
}

/// Waits. Made before the jobs can end, so that no end is missed.
pub(crate) struct Waiter<'a> {
    spool: &'a SpoolArg,
    follow: Option<Client>,
    /// Ends before this Unix millisecond are of earlier runs.
    since: u64,
    as_json: bool,
    failed: bool,
}

impl<'a> Waiter<'a> {
    /// Begins to listen.
    pub(crate) fn begin(spool: &'a SpoolArg, as_json: bool) -> Result<Self, Failed> {
        let mut follow = spool.ask(&Ask::Follow)?;
        if let Some(client) = &mut follow {
            // Its `{}`: from here nothing is missed.
            client.next_answer()?;
        }
        Ok(Self { spool, follow, since: now_ms(), as_json, failed: false })
    }

    /// Prints each of the jobs as it ends; the exit code says whether one failed.
    pub(crate) fn wait(mut self, mut awaited: Vec<Awaited>) -> Result<ExitCode, Failed> {
        while !awaited.is_empty() {
            match self.follow.take() {
                Some(client) => self.follow(client, &mut awaited)?,
                None => self.run(&mut awaited)?,
            }
        }
        Ok(if self.failed { ExitCode::from(3) } else { ExitCode::SUCCESS })
    }

    /// An id has one end, whatever the clocks say; a path may have had others.
    fn ended(&mut self, line: &JobLine, awaited: &mut Vec<Awaited>) {
        let is_earlier = |one: &Awaited| matches!(one, Awaited::Rel(_)) && line.at_ms < self.since;
        let is_it = |one: &Awaited| one.is(line) && !is_earlier(one);
        let Some(at) = awaited.iter().position(is_it) else { return };
        awaited.remove(at);
        self.failed |= line.has_failures();
        if self.as_json {
            print_json(line);
        } else {
            print_line(&show::job_line(line));
        }
    }

    fn follow(&mut self, mut client: Client, awaited: &mut Vec<Awaited>) -> Result<(), Failed> {
        client.patience(LOOK_AFTER)?;
        let mut is_told = false;
        while !awaited.is_empty() {
            match client.wait_answer()? {
                Answer::Line(value) => {
                    if let Ok(line) = serde_json::from_value::<JobLine>(value) {
                        self.ended(&line, awaited);
                    }
                }
                Answer::NotYet => {
                    self.look(awaited)?;
                    if !std::mem::replace(&mut is_told, true) {
                        self.tell_why(awaited);
                    }
                }
                Answer::Over => {
                    self.look(awaited)?;
                    if awaited.is_empty() {
                        return Ok(());
                    }
                    return Err(Failed::runtime(
                        "inboxd ended while it was waited for; what is not over goes on at its next \
                         start",
                    ));
                }
            }
        }
        Ok(())
    }

    /// What ended without our hearing of it.
    fn look(&mut self, awaited: &mut Vec<Awaited>) -> Result<(), Failed> {
        let mut lines = Vec::new();
        history::read(&self.spool.path, &mut |line| {
            let is_new = line.at_ms >= self.since;
            if is_new && awaited.iter().any(|one| one.is(&line)) {
                lines.push(line);
            }
            is_new
        })?;
        for line in lines.iter().rev() {
            self.ended(line, awaited);
        }
        Ok(())
    }

    /// What a person would wonder about after a second.
    fn tell_why(&self, awaited: &[Awaited]) {
        for one in awaited {
            let ask = match one {
                Awaited::Job(job) => Ask::Find { job: Some(*job), rel: None },
                Awaited::Rel(rel) => {
                    Ask::Find { job: None, rel: Some(crate::journal::record::Rel(rel.clone())) }
                }
            };
            let answer = self.spool.ask(&ask).ok().flatten().and_then(|mut c| c.next_answer().ok());
            let Some(Some(found)) = answer else { continue };
            let text = |key: &str| found.get(key).and_then(serde_json::Value::as_str);
            if let (Some(rel), Some(state)) = (text("rel"), text("state")) {
                eprint_line(&format!("waiting for {rel}: {state}"));
            }
        }
    }

    /// No daemon: everything that waits is run, by a batch of its own process, since that divides
    /// itself into supervisor and daemon and has its leash on standard input.
    fn run(&mut self, awaited: &mut Vec<Awaited>) -> Result<(), Failed> {
        self.spool.load()?;
        let batch = Command::new("/proc/self/exe")
            .arg0("inboxd")
            .arg("--spool")
            .arg(&self.spool.path)
            .arg("batch")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .map_err(|error| Failed::runtime(format!("cannot start inboxd batch: {error}")))?;
        self.look(awaited)?;
        if awaited.is_empty() {
            return Ok(());
        }
        // A daemon has just started and was faster: it runs them.
        self.follow = self.spool.ask(&Ask::Follow)?;
        if self.follow.is_some() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&batch.stderr);
        let said: Vec<&str> = said.trim_end().trim_start_matches("error: ").lines().collect();
        if said.is_empty() {
            let message = "it is not over yet; inboxd status says what stands in the way";
            return Err(Failed::runtime(message));
        }
        // A pause is said when it begins and again, with what to do, at the end.
        let again = |at: usize, line| said.iter().skip(at.saturating_add(1)).any(|it| *it == line);
        let once = said.iter().enumerate().filter(|(at, line)| !again(*at, **line));
        let once: Vec<&str> = once.map(|(_, line)| *line).collect();
        Err(Failed::runtime(format!("it is not over yet\n  {}", once.join("\n  "))))
    }
}
