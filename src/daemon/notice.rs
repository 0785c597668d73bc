//! What the keeper tells the world: the terminal, the log, the job history, the sidecar of a failure.
//!
//! Must not know: who listens. A notice is data; nothing waits for it to be read.

use std::path::PathBuf;

use serde::Serialize;

use crate::core::{JobId, RelPath};
use crate::journal::record::{Outcome, Rel, Tally};
use crate::spool::settle::Settled;

use super::keeper::Shortage;

/// What to do about [`Notice::LeftBehind`].
pub const FIX_LEFT: &str = "its worker made it as another user or immutable, left a process that writes on, something \
     mounted, or names that are taken: take what you need, umount that, chattr -ia it, then remove it as root";

/// Kinds of reasons that the reason of an input's failed records names.
const REASONS_SHOWN: usize = 3;

/// Something that people or logs may want to know, in the order of a job's life.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A file cannot be claimed now; it waits.
    ClaimRefused {
        /// Which.
        rel: RelPath,
        /// What the system said, or whose the folder is.
        reason: String,
        /// Where it is the folder that stands in the way.
        folder: Option<FolderRefused>,
    },
    /// A folder of the spool was removed or replaced; the one that stands there now is used.
    FolderReplaced {
        /// Which.
        name: &'static str,
    },
    /// No route takes a file: it stays. Told of one, until there is none or the settings change.
    Unrouted {
        /// Which.
        rel: RelPath,
    },
    /// The kernel lost events, or we could not keep up: everything is watched and scanned anew.
    EventsLost,
    /// The supervisor is dead: nobody would end the workers of a dead daemon, so all of it ends.
    Orphaned,
    /// How new files are noticed has changed.
    Events {
        /// Later than by events, for some of them at least.
        is_bad: bool,
        /// `ok`, or what is not.
        state: String,
        /// What to do, where that is known.
        fix: Option<String>,
    },
    /// A claimed job could not be started; it is tried again.
    StartRefused {
        /// Which.
        rel: RelPath,
        /// What the system said.
        reason: String,
    },
    /// Scratch or made files of an attempt could not be removed; they stay.
    ScratchRefused {
        /// Whose.
        rel: RelPath,
        /// What the system said.
        reason: String,
    },
    /// A settled job's folder stays in `processing/`: only another user may move what is in it, or a process that
    /// the worker left writes on there.
    LeftBehind {
        /// Its path below the spool.
        left: PathBuf,
    },
    /// A file handed in is a job, durable.
    Taken {
        /// The job.
        job: JobId,
    },
    /// A file handed in cannot be a job; its copy was removed.
    TakeRefused {
        /// The id it would have had.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// An attempt ended and another one follows.
    Retry {
        /// The job.
        job: JobId,
        /// Which file.
        rel: RelPath,
        /// Its route.
        route: String,
        /// Which attempt ended.
        attempt: u32,
        /// The worker called the file incomplete.
        incomplete: bool,
        /// Why.
        reason: String,
        /// How long it waits, in milliseconds.
        wait_ms: u64,
    },
    /// A record of an input has failed for good.
    RecordFailed(Box<FailedRecord>),
    /// A job is recorded and settled.
    Finished(Box<Finished>),
    /// A file that was recorded before a power cut stood in `incoming/` again and was settled.
    Reappeared {
        /// Which.
        rel: RelPath,
        /// Where it went.
        settled: Settled,
    },
    /// A route pauses; its files stay.
    Paused {
        /// Which.
        route: String,
        /// Why, and what to do.
        why: Paused,
    },
    /// A route's workers crash: one file is tried now and then, the others stay.
    Broken {
        /// Which.
        route: String,
        /// Why, and where to mend it.
        why: Paused,
    },
    /// A worker of that route answered: it goes on as before.
    Mended {
        /// Which.
        route: String,
    },
    /// Little memory: nothing is started until there is more.
    LowMemory {
        /// Available bytes.
        free: u64,
        /// Starts go on at this many.
        floor: u64,
    },
    /// There is enough memory again.
    MemoryIsBack,
    /// Someone changed, replaced or removed a live CSV: it is left alone, rows go on in a new one.
    CsvTouched {
        /// Whose.
        route: String,
        /// It does not stand there any more.
        is_gone: bool,
        /// Rows that the new one has although the old one may hold them, too.
        again: u64,
    },
    /// A CSV may not be written or renamed: everything waits until it may be.
    CsvRefused {
        /// Which, and what the system said.
        reason: String,
    },
    /// The journal knows nothing, and jobs of an earlier one stand in `processing/`.
    JournalLost {
        /// How many.
        jobs: u64,
    },
    /// Someone removed, replaced or cut the journal's segment in use: the next one is begun at once.
    JournalTouched,
    /// Little space: claims stop before the disk is full.
    LowDisk {
        /// Free bytes.
        free: u64,
        /// Claims go on above this many.
        floor: u64,
    },
    /// A source of `batch` is larger than the space that is free.
    SourceWaits {
        /// Its path below `incoming/`, were it there.
        rel: RelPath,
        /// Its bytes.
        needs: u64,
        /// Free bytes.
        free: u64,
    },
    /// A reload wanted more workers than there can be.
    SlotsRefused {
        /// How many there are.
        workers: usize,
        /// What the system said.
        reason: String,
    },
    /// Processes that escaped from ended workers could not be looked for.
    SweepFailed {
        /// What the system said.
        reason: String,
    },
    /// The job log cannot be written; what happens meanwhile is missing there, the jobs go on.
    HistoryFailed {
        /// What the system said.
        reason: String,
    },
    /// Files went because they were old, or too many.
    OldRemoved {
        /// How many.
        files: u64,
        /// Their sizes.
        bytes: u64,
    },
    /// Files or folders that should go cannot be read or removed.
    OldStays {
        /// How many.
        files: u64,
        /// The first, and what the system said.
        reason: String,
    },
    /// Claims stop until there is more of it; nothing is lost.
    Short(Shortage),
    /// There is enough of it again.
    HasRoom(Shortage),
}

/// A folder that does not let its files be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderRefused {
    /// How many files stand in it: `37 files`.
    pub files: String,
    /// What to do.
    pub fix: String,
}

/// Why a route pauses, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Paused {
    /// What its worker said, or the system of it.
    pub reason: String,
    /// Where it is mended: "`command` at inboxd.toml:9".
    pub fix: String,
    /// Known files that wait for it.
    pub files: usize,
    /// Its workers crash: one of the files is tried now and then, some have failed.
    #[serde(default)]
    pub is_tried: bool,
}

/// A record that failed, with what its worker printed.
#[derive(Clone, Debug)]
pub struct FailedRecord {
    /// The job.
    pub job: JobId,
    /// Path below `incoming/`.
    pub rel: RelPath,
    /// The route.
    pub route: String,
    /// From 1.
    pub no: u64,
    /// Attempts begun.
    pub attempts: u32,
    /// Why.
    pub reason: String,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// How long the last attempt ran.
    pub took: std::time::Duration,
    /// From its stdout.
    pub log: Vec<u8>,
    /// From its stderr.
    pub stderr: Vec<u8>,
}

/// The end of a job, with what its worker printed.
#[derive(Clone, Debug)]
pub struct Finished {
    /// As recorded.
    pub outcome: Outcome,
    /// Where its file went.
    pub settled: Settled,
    /// From its stdout.
    pub log: Vec<u8>,
    /// From its stderr.
    pub stderr: Vec<u8>,
}

/// `error/.why/REL.json`.
#[derive(Serialize)]
struct Sidecar<'a> {
    job: JobId,
    rel: &'a Rel,
    route: &'a str,
    reason: &'a str,
    attempts: u32,
    exit: Option<i32>,
    signal: Option<i32>,
    time: String,
    took_ms: u64,
    stderr: &'a str,
    /// What stands in `error/` is a folder that is one job.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    folder: bool,
}

/// A sidecar as it is read back, for `explain`, `log` and `retry`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Why {
    /// The job.
    pub job: JobId,
    /// Path below `incoming/`.
    pub rel: Rel,
    /// Its route; empty where there was none.
    pub route: String,
    /// Why it failed.
    pub reason: String,
    /// Attempts begun.
    pub attempts: u32,
    /// The exit code, where the worker exited.
    pub exit: Option<i32>,
    /// The number of the signal that ended the worker, if one did.
    pub signal: Option<i32>,
    /// When, in UTC: `2026-11-22T14:02:11Z`.
    pub time: String,
    /// How long the last attempt ran, in milliseconds.
    pub took_ms: u64,
    /// The end of what the worker printed on stderr.
    pub stderr: String,
    /// What failed is a folder that is one job.
    #[serde(default)]
    pub folder: bool,
}

/// The sidecar's text for a failed job; `None` for one that is done. The same outcome gives the same text.
pub fn sidecar(outcome: &Outcome) -> Option<Vec<u8>> {
    let failure = outcome.failure.as_ref()?;
    let sidecar = Sidecar {
        job: outcome.job,
        rel: &outcome.rel,
        route: &outcome.route,
        reason: &failure.reason,
        attempts: outcome.attempts,
        exit: failure.exit,
        signal: failure.signal,
        time: utc(outcome.at_ms),
        took_ms: outcome.took_ms,
        stderr: &outcome.stderr,
        folder: outcome.folder,
    };
    let mut text = serde_json::to_vec_pretty(&sidecar).unwrap_or_default();
    text.push(b'\n');
    Some(text)
}

/// The sidecar's text for the failed records of a job that is done; `None`: there are none.
pub fn records_sidecar(outcome: &Outcome) -> Option<Vec<u8>> {
    let tally = outcome.records.as_ref().filter(|tally| tally.failed > 0)?;
    if outcome.failure.is_some() {
        return None;
    }
    let sidecar = Sidecar {
        job: outcome.job,
        rel: &outcome.rel,
        route: &outcome.route,
        reason: &records_reason(tally),
        attempts: outcome.attempts,
        exit: None,
        signal: None,
        time: utc(outcome.at_ms),
        took_ms: outcome.took_ms,
        stderr: "",
        folder: false,
    };
    let mut text = serde_json::to_vec_pretty(&sidecar).unwrap_or_default();
    text.push(b'\n');
    Some(text)
}

/// `60 of 1000 records failed: 20 × KeyError: 'details'; …`
pub fn records_reason(tally: &Tally) -> String {
    let all = tally.done.saturating_add(tally.failed);
    let mut text = format!("{} of {all} records failed: ", tally.failed);
    for (at, (reason, count)) in tally.reasons.iter().take(REASONS_SHOWN).enumerate() {
        let comma = if at > 0 { "; " } else { "" };
        text.extend([comma, &count.to_string(), " × ", reason]);
    }
    if tally.reasons.len() > REASONS_SHOWN {
        text.push_str("; …");
    }
    text
}

/// A time for machines and for people: `2026-11-22T14:02:11Z`.
pub fn utc(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => unix_ms.to_string(),
    }
}

/// Where a job's file is, for a message: `done/sub/x.json`.
pub fn place(outcome: &Outcome, settled: &Settled) -> Option<PathBuf> {
    let folder = if outcome.failure.is_some() { "error" } else { "done" };
    settled.rel.as_ref().map(|rel| PathBuf::from(folder).join(rel))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{FailClass, Failure};

    /// Goal: what is written of a failure is read again, also of a worker that a signal ended.
    /// Method: an outcome for each way in which a worker ends, through its sidecar.
    #[test]
    fn reasons_of_killed_workers_are_read_back() {
        for (exit, signal) in [(Some(3), None), (None, Some(9)), (None, None)] {
            let failure = Failure { exit, signal, ..Failure::new(FailClass::Crash, "no") };
            let outcome = serde_json::from_value(serde_json::json!({
                "job": JobId::next(JobId::MIN, 7, [3; 10]), "rel": "a/b", "route": "r",
                "attempts": 2, "failure": failure, "at_ms": 1, "took_ms": 4,
                "file": { "ino": 1, "btime_ns": 2, "before_ns": 3, "after_ns": 4 },
            }));
            let text = sidecar(&outcome.unwrap()).unwrap();
            let why: Why = serde_json::from_slice(&text).unwrap();
            assert_eq!((why.exit, why.signal, why.reason.as_str()), (exit, signal, "no"));
        }
    }
}
