//! What the outside tells the keeper, and what the keeper asks of the outside.
//!
//! Must not know: who sends, who carries out.
//!
//! Invariants
//! - Each output that names an input is answered by it, some time.

use super::inputs;
use crate::core::{JobId, RelPath};
use crate::daemon::notice::Notice;
use crate::journal::record::SourceKey;
use crate::spool::Shape;
use crate::worker::records::Lot;
use crate::worker::{Ended, Task};

/// What the outside tells the keeper.
#[derive(Debug)]
pub enum Input {
    /// A worker's attempt ended.
    Ended {
        /// The job.
        job: JobId,
        /// How, and what it printed.
        ended: Ended,
    },
    /// A slot is done with a record of a job.
    RecordEnded {
        /// The job.
        job: JobId,
        /// The record.
        no: u64,
        /// How, and what it printed.
        ended: Ended,
        /// And the slot with the lot that it was given.
        is_last: bool,
    },
    /// All that had come before [`Output::ReadOn`] was taken in.
    ReadOn {
        /// The job.
        job: JobId,
    },
    /// What [`Output::Collect`] made: the inode of the file.
    Collected {
        /// The job.
        job: JobId,
        /// Or why it could not.
        result: Result<u64, inputs::CollectError>,
    },
    /// What [`Output::Compare`] found.
    Compared {
        /// As it was given.
        task: Task,
        /// It is the file of that name in `done/`.
        is_same: bool,
    },
    /// A source's copy stands, durable, in `processing/ID.in/REL`, with all that comes with it.
    Staged(Staged),
    /// A segment's checkpoint: the sync of the filesystem asked for by [`Output::Sync`] returned.
    Synced {
        /// Segments below this one may go.
        before: u64,
    },
    /// No more starts, no more claims.
    Drain,
    /// A paused route is tried again.
    Resume {
        /// Its name.
        route: String,
    },
    /// Claims may go on, or wait: free disk.
    Claims {
        /// Whether they may.
        allowed: bool,
    },
    /// Starts may go on, or wait, and claims with them: free memory.
    Starts {
        /// Whether they may.
        allowed: bool,
    },
}

/// What was handed in, copied.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The id that [`Keeper::next_id`](super::Keeper::next_id) gave.
    pub job: JobId,
    /// Path below the source folder.
    pub rel: RelPath,
    /// What it is, as the staging name says.
    pub shape: Shape,
    /// Which source; `None`: it was handed in (`submit`) and is no source of `batch`.
    pub source: Option<SourceKey>,
}

/// What the keeper asks of the outside.
#[derive(Debug)]
pub enum Output {
    /// Give this to a slot; one is free.
    Start(Task),
    /// Give these records to a slot, one after the other; one is free.
    StartRecords(Box<(Task, Lot)>),
    /// Say [`Input::ReadOn`] after all that others have said meanwhile.
    ReadOn {
        /// A job whose records are far between.
        job: JobId,
    },
    /// Put failed records together on another thread, then say [`Input::Collected`].
    Collect(Box<inputs::Collecting>),
    /// Compare the task's file with the one of its name in `done/`, then say [`Input::Compared`].
    Compare(Task),
    /// Something that people or logs may want to know.
    Notice(Notice),
    /// Sync the filesystem on another thread, then say [`Input::Synced`].
    Sync {
        /// To be given back.
        before: u64,
    },
}
