//! Workers: one contract, several ways to speak it.
//!
//! In: a [`Task`]. Out: an [`Ended`]. Everything here blocks on the calling thread, of which the
//! pool keeps one a slot.
//!
//! Must not know: the spool, the journal, CSVs, the daemon. A worker cannot move files; the folders
//! it may use were made for it before the task was given, and are cleaned up by who gave it.
//!
//! Invariants
//! - A task has exactly one end, whatever the worker does.
//! - When [`command::run`] returns, no process of the worker's group is alive.
//! - What a worker prints is bounded in memory; it never stops the worker or us.
//!
//! The rooms: [`command`] turns a task into a process and its end into a verdict; `process` is the
//! hygiene between the two, `spawn` its start; `template` fills argv; `program` finds the executable and makes the
//! environment; `exit` reads exit codes and signals, `memory` whether memory was why; [`stdout`] reads rows; `tail` bounds what is
//! kept; [`schema`] checks the input before all that, `folder` a folder that is one job; [`http`] asks runners; [`warm`] keeps processes for
//! many tasks, `python` hands it the shim, [`slot`] chooses the kind;
//! [`lot`] runs records of one input, one after the other;
//! [`records`] is one record of an input, where that is what a task is about;
//! [`stop`] ends attempts from outside; [`orphans`] ends what a dead daemon left; `own_files` tells a worker's log from its script.

pub mod command;
mod exit;
mod folder;
pub mod http;
pub mod lot;
mod memory;
pub mod orphans;
mod own_files;
pub mod proc;
mod process;
mod program;
mod python;
pub mod records;
pub mod schema;
pub mod slot;
mod spawn;
pub mod stdout;
pub mod stop;
mod tail;
mod template;
pub mod warm;

pub use http::{find_runner, missing_variables};
pub use program::{ProgramState, find_program, program_state};
pub use schema::schema_fault;
pub use stop::Stop;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::config::Route;
use crate::core::{JobId, RelPath, Row, Verdict};

/// One attempt at one job, for a slot.
#[derive(Clone, Debug)]
pub struct Task {
    /// The job.
    pub job: JobId,
    /// From 1.
    pub attempt: u32,
    /// The route, as it was when the attempt began.
    pub route: Arc<Route>,
    /// Path below `incoming/`.
    pub rel: RelPath,
    /// The spool, absolute: the worker's working directory.
    pub spool: PathBuf,
    /// The claimed file, or folder where that is one job, absolute.
    pub path: PathBuf,
    /// An empty folder of the attempt's own, absolute.
    pub scratch: PathBuf,
    /// Where made files go, absolute, for a route with `output`.
    pub output: Option<PathBuf>,
    /// What the attempt is about, for a route with `records`; `None`: the whole file.
    pub record: Option<records::InputRecord>,
}

/// How an attempt ended, with what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The verdict.
    pub verdict: Verdict,
    /// Rows; they count only with [`Verdict::Done`].
    pub rows: Vec<Row>,
    /// What it said on stdout that is for the log, bounded, cut marked.
    pub log: Vec<u8>,
    /// The end of its stderr, bounded, cut marked.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// An attempt that did not run a worker, and says nothing but its verdict.
    pub fn without_rows(verdict: Verdict) -> Self {
        let took = Duration::ZERO;
        Self { verdict, rows: Vec::new(), log: Vec::new(), stderr: Vec::new(), took }
    }
}

/// The claimed file of a task. A worker of an earlier attempt may have put something else in its place: a link is
/// not followed, and a FIFO would hold the slot until somebody writes into it.
fn open_claimed(task: &Task) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(&task.path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

#[cfg(any(test, fuzzing))]
/// See [`crate::fuzzing::wire`].
pub(crate) fn fuzz_wire(bytes: &[u8]) {
    warm::fuzz::wire(bytes);
}

#[cfg(test)]
pub(crate) mod tests {
    //! What the tests of several rooms begin with.

    use super::*;
    use crate::config::StdoutFormat;

    /// A route with the defaults and this command.
    pub(crate) fn route(argv: &[&str]) -> Route {
        Route {
            origin: "inboxd.toml:1".to_owned(),
            stdout: StdoutFormat::None,
            trace_columns: false,
            ..Route::new("main", argv.iter().map(|&a| a.to_owned()).collect())
        }
    }
}
