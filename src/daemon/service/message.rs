//! What others tell and ask the keeper's thread, and what the answers hold.
//!
//! Must not know: who sends, what becomes of a message.
//!
//! Invariants
//! - A question holds the function that takes its answer; it is called on the keeper's thread.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use serde::{Deserialize, Serialize};

use super::Status;
use super::guest::Request;
use crate::config::{Settings, limits};
use crate::core::{JobId, RelPath};
use crate::daemon::keeper::inputs::RecordsFound;
use crate::daemon::keeper::{Input, Staged};
use crate::daemon::notice::Notice;
use crate::daemon::pool::SlotEnded;
use crate::daemon::sight::Held;
use crate::spool::retention::Swept;

/// Takes the answer to [`Message::Submit`].
pub(super) type Answer = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What others tell the keeper's thread.
pub enum Message {
    /// A slot's task is over.
    Slot(SlotEnded),
    /// For the keeper as it is.
    Input(Input),
    /// A copy in `processing/` is to be a job; the function hears whether it is one, durable, or why not.
    Submit(Staged, Answer),
    /// What the fsync of a group of records said.
    Synced(std::io::Result<()>),
    /// It cannot be said that a job waits no more: it did not begin, and the daemon ends.
    BeginFailed(std::io::Error),
    /// The sync of a checkpoint failed: nothing is dropped, and the daemon ends.
    SyncFailed(std::io::Error),
    /// `batch` has no more sources; `known` of them were recorded before.
    SourcesOver(SourcesSeen),
    /// Another thread has something to tell.
    Tell(Notice),
    /// `batch SRC…` beside this daemon.
    Batch(Request),
    /// Look into `incoming/` now.
    Scan,
    /// The watcher has marks to be taken.
    Dirty,
    /// Folders of `done/` and `output/` that retention emptied; the sender waits to hear of their end.
    Emptied(Vec<(&'static str, PathBuf)>, SyncSender<()>),
    /// A pass of retention is over.
    Swept(Swept),
    /// New settings come into force; then the function is called.
    Reload(Box<Settings>, Box<dyn FnOnce() + Send>),
    /// Finish what runs, then end.
    Drain,
    /// End what runs, then end.
    StopNow,
    /// The same, since the supervisor is dead.
    Orphaned,
    /// A question; the answer is given by calling the function.
    Ask(Box<dyn FnOnce(&Status) + Send>),
    /// A fresh job id is wanted; it is given by calling the function.
    Id(Box<dyn FnOnce(JobId) + Send>),
    /// What of this job, or of the file at this path below `incoming/`?
    Find(Wanted, Box<dyn FnOnce(Option<Found>) + Send>),
    /// Why does the file at this path in `incoming/` wait?
    Why(RelPath, Box<dyn FnOnce(Option<Held>) + Send>),
}

/// What [`Message::Find`] looks for.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// A job.
    Job(JobId),
    /// A path below `incoming/`.
    Rel(RelPath),
}

/// A job that is on its way.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The job.
    pub job: JobId,
    /// Its path, escaped.
    pub rel: String,
    /// Its route.
    pub route: String,
    /// `running`, `waiting`, `recording` …
    pub state: String,
    /// Attempts begun.
    pub attempt: u32,
    /// Why the last attempt ended, if one did.
    pub reason: Option<String>,
    /// When it may start again, in milliseconds from now.
    pub wait_ms: Option<u64>,
    /// How far its records are, where they are tasks of their own.
    pub records: Option<RecordsFound>,
}

/// What `batch` found of its sources.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SourcesSeen {
    /// Recorded before, and unchanged.
    pub known: u64,
    /// Taken in by this run.
    pub taken: u64,
    /// No route's glob takes them.
    pub unrouted: u64,
    /// One of these.
    pub unrouted_example: Option<String>,
    /// What comes with them is not beside them.
    #[serde(default)]
    pub lacking: u64,
    /// One of these, and what it lacks.
    #[serde(default)]
    pub lacking_example: Option<String>,
    /// Could not be taken in, with the reason: the first [`limits::SOURCES_FAILED`] of them.
    pub failed: Vec<String>,
    /// So many more could not.
    #[serde(default)]
    pub more_failed: u64,
}

impl SourcesSeen {
    /// One could not be taken in. There may be a million, and all that is kept is told again and again.
    pub(in crate::daemon) fn fail(&mut self, reason: String) {
        if self.failed.len() < limits::SOURCES_FAILED {
            self.failed.push(reason);
        } else {
            self.more_failed += 1;
        }
    }

    /// All were looked at. What was found before is among them, but for copies that were refused since.
    pub(in crate::daemon) fn become_all(&mut self, seen: SourcesSeen) {
        let refused = std::mem::replace(self, seen);
        refused.failed.into_iter().for_each(|reason| self.fail(reason));
        self.more_failed += refused.more_failed;
    }
}
