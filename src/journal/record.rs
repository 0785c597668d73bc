//! What a journal line says. One [`Record`] a line; `line` adds checksum and `synced_to`.
//!
//! Must not know: files. A record is data that decodes to itself.
//!
//! Invariants
//! - `Outcome` is final: a job has one, and after it is durable the job never runs again.
//! - A `CsvOpen` stands before the first [`Piece`] of its segment in the same or an older journal segment.
//! - An [`Input`] stands before the first line of its records; an [`InputOutcome`] is final, and a record
//!   has one. What a later `Input` says stands for all lines of its job before it.
//! - Pieces of a CSV segment are contiguous: each begins where the one before ended.

use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use crate::config::Records;
use crate::core::records::{InputMark, Loss, Position};
use crate::core::{Failure, JobId, RelPath, Spent};
use crate::fs::Stat;

/// One line of the journal, in the order of a job's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Record {
    /// The first line of a journal segment.
    Begin(Begin),
    /// The state of a CSV segment: at its birth, or as a snapshot at the head of a journal segment.
    CsvOpen(CsvOpen),
    /// A CSV segment gets no more rows and its final name.
    CsvSeal(CsvSeal),
    /// Bytes of a CSV segment that someone touched go to another one.
    CsvMoved(CsvMoved),
    /// A file handed in became a job.
    Take(Take),
    /// An attempt ended and another one follows, or the file waits as incomplete.
    Attempt(Attempt),
    /// A job whose records are tasks of their own: at its beginning, or as a snapshot.
    Input(Input),
    /// After an [`Input`]: more of what is over.
    InputSet(InputSet),
    /// An attempt at a record that did not end it, or that begins alone.
    InputTried(InputTried),
    /// A record is over.
    InputOutcome(InputOutcome),
    /// The job is over.
    Outcome(Outcome),
}

/// Head of a journal segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Format; 1.
    pub version: u32,
    /// Number of this segment, also in its name.
    pub segment: u64,
    /// Everything in earlier segments that still matters is repeated here: ignore them.
    pub supersedes: bool,
    /// The kernel's boot id when it was written; another one means power loss or reboot.
    pub boot: String,
    /// No job id above this one had been given.
    pub high: JobId,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// A CSV segment as far as it is described before this line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvOpen {
    /// The route, or `errors`.
    pub route: String,
    /// Number of the segment, from 1, rising within a route.
    pub seg: u64,
    /// Inode of the file.
    pub ino: u64,
    /// Header.
    pub columns: Vec<String>,
    /// Bytes; 0 at birth, when not even the header is written.
    pub len: u64,
    /// Data rows.
    pub rows: u64,
    /// crc32c of the first `len` bytes.
    pub crc: u32,
}

/// The end of a CSV segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvSeal {
    /// The route, or `errors`.
    pub route: String,
    /// Number of the segment.
    pub seg: u64,
    /// Its name from now on: `ROUTE.<UTC time>.<n>.csv`.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// Data rows.
    pub rows: u64,
    /// crc32c of all of it.
    pub crc: u32,
}

/// Someone touched a CSV segment: all its pieces from an offset on belong to another segment, whose
/// `CsvOpen` stands just before. The touched segment gets nothing more, not even its seal's name.
///
/// The pieces themselves stand earlier, and in the same journal segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvMoved {
    /// The route, or `errors`.
    pub route: String,
    /// The touched segment.
    pub from_seg: u64,
    /// Its bytes from here on move.
    pub from_offset: u64,
    /// The segment that takes them.
    pub to_seg: u64,
    /// Where they go in it: after its header.
    pub to_offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Data rows in them.
    pub rows: u64,
    /// The touched file's name from now on, if it still stands under the route's name.
    pub name: String,
}

/// A file handed in by `batch` or `submit` became a job. Durable before its copy leaves the staging name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// The job.
    pub job: JobId,
    /// Which source of `batch`, as it was; absent for a file that was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceKey>,
    /// Path below the source folder.
    pub rel: Rel,
    /// The route that it was handed to by another job; absent: its name and content say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

/// An attempt that ended without ending the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The job.
    pub job: JobId,
    /// Which attempt ended, from 1.
    pub attempt: u32,
    /// All that the job has spent, this attempt included.
    #[serde(default)]
    pub spent: Spent,
    /// Not before this Unix millisecond again.
    pub not_before_ms: u64,
    /// Since when the worker has called the file incomplete, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete_since_ms: Option<u64>,
    /// Of a job with records, that was lost: what a further loss will be compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Why, for `explain`.
    pub reason: String,
}

/// A job whose records are tasks of their own, with what is over of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The job.
    pub job: JobId,
    /// How its records are written.
    pub format: Records,
    /// What the file was when its first record was begun.
    pub mark: InputMark,
    /// All records up to this number are over.
    pub low: u64,
    /// A place at or before the next one.
    pub position: Position,
    /// Rows of the records that are over.
    pub rows: u64,
    /// Why records failed, and how often; a few of the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<(String, u64)>,
}

/// Numbers of records, as a serialized `RoaringTreemap`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSet {
    /// The job.
    pub job: JobId,
    /// They failed; else: they are over and lie above `low`.
    pub failed: bool,
    /// The numbers.
    #[serde(with = "base64_bytes")]
    pub set: Vec<u8>,
}

/// An attempt at a record that did not end it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputTried {
    /// The job.
    pub job: JobId,
    /// The record, from 1.
    pub no: u64,
    /// Attempts begun.
    pub attempts: u32,
    /// All that it has spent.
    #[serde(default)]
    pub spent: Spent,
    /// Not before this Unix millisecond again.
    pub not_before_ms: u64,
    /// It begins now, alone: without a later line of this record, it is what took the daemon down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// Why the attempt ended.
    pub reason: String,
}

/// The end of a record: its one final line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputOutcome {
    /// The job.
    pub job: JobId,
    /// The record, from 1.
    pub no: u64,
    /// Attempts begun.
    pub attempts: u32,
    /// Why it failed; absent when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Rows of the record.
    #[serde(default)]
    pub rows: u64,
    /// What goes into which CSV.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub csv: Vec<Piece>,
    /// Whose name a file of rows has, where there is one; no job's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_file: Option<JobId>,
}

/// What became of the records of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Records that are done.
    pub done: u64,
    /// Records that failed; where the job itself has not, they wait in `processing/ID.err` and go to
    /// `error/REL`.
    pub failed: u64,
    /// Why, and how often; a few of the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<(String, u64)>,
    /// The inode of the file with the failed ones; 0: there is none.
    #[serde(default)]
    pub ino: u64,
}

/// The end of a job: its one final record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The job.
    pub job: JobId,
    /// Path below `incoming/`.
    pub rel: Rel,
    /// The route; empty where none could be found.
    pub route: String,
    /// Attempts begun.
    pub attempts: u32,
    /// All that it spent.
    #[serde(default)]
    pub spent: Spent,
    /// Why it failed; absent when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The end of stderr, for the sidecar of a failed job.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Unix milliseconds of the end of the last attempt.
    pub at_ms: u64,
    /// How long the last attempt ran, in milliseconds.
    pub took_ms: u64,
    /// The very file, so that it is known again after a power cut.
    pub file: FileMark,
    /// Rows of the job.
    #[serde(default)]
    pub rows: u64,
    /// What goes into which CSV.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub csv: Vec<Piece>,
    /// Made files wait in `processing/ID.N.out` and go to `output/REL`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output: bool,
    /// Of the made files, those that become jobs of another route. They are jobs from this line on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Box<Next>>,
    /// The source, for a job that `batch` took in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceKey>,
    /// Of a job whose records were tasks of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Tally>,
    /// The job is a folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub folder: bool,
}

/// Made files that are handed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The route that gets them.
    pub route: String,
    /// Each with the job that it becomes, in the order of their names.
    pub files: Vec<Handed>,
}

/// A made file that becomes a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// The job that it becomes.
    pub job: JobId,
    /// Where it stands below `processing/ID.N.out`.
    pub made: Rel,
    /// What its path is as a job.
    pub rel: Rel,
}

/// What tells one file from another of the same name; no user can set any of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Inode.
    pub ino: u64,
    /// Birth, Unix nanoseconds, 0 if unknown.
    pub btime_ns: i64,
    /// ctime before the claim.
    pub before_ns: i64,
    /// ctime after the claim.
    pub after_ns: i64,
}

/// Bytes of a CSV segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The route, or `errors`.
    pub route: String,
    /// Number of the CSV segment.
    pub seg: u64,
    /// Where the bytes go in it.
    pub offset: u64,
    /// Data rows in them.
    pub rows: u64,
    /// The bytes, or where they are.
    pub bytes: PieceBytes,
}

/// The bytes of a [`Piece`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PieceBytes {
    /// As text.
    Text(String),
    /// Not UTF-8: base64.
    #[serde(with = "base64_bytes")]
    Base64(Vec<u8>),
    /// In `journal/ID.rows`, durable before this line.
    File {
        /// Length in bytes.
        len: u64,
        /// sha256, hex.
        sha256: String,
    },
}

impl PieceBytes {
    /// How many bytes of CSV it stands for.
    #[expect(clippy::len_without_is_empty, reason = "a piece is never empty")]
    pub fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Base64(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }
}

/// Any path in JSON, written like a [`Rel`]. Not in the journal: for messages about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyPath(pub std::path::PathBuf);

impl Serialize for AnyPath {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        bytes_to_json(self.0.as_os_str().as_bytes(), to)
    }
}

impl<'de> Deserialize<'de> for AnyPath {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = RelJson::deserialize(from)?.into_bytes();
        Ok(Self(std::ffi::OsString::from_vec(bytes).into()))
    }
}

/// A [`RelPath`] in JSON: a string, or `{"b64": …}` where it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rel(pub RelPath);

/// Which source of `batch`: the first 16 bytes of a sha256 over path, inode, size and mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey(pub [u8; 16]);

impl FileMark {
    /// This very file, with the ctime it had just before or just after its claim. Nobody can make
    /// another file look so, nor this one once anything was done to it since.
    pub fn is_before_or_after_claim(&self, stat: &Stat) -> bool {
        self.ino == stat.ino
            && self.btime_ns == stat.btime_ns
            && [self.before_ns, self.after_ns].contains(&stat.ctime_ns)
    }
}

impl Serialize for SourceKey {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

impl<'de> Deserialize<'de> for SourceKey {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let value = u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)?;
        Ok(Self(value.to_be_bytes()))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RelJson {
    Text(String),
    Base64 {
        #[serde(with = "base64_bytes")]
        b64: Vec<u8>,
    },
}

impl Serialize for Rel {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        bytes_to_json(self.0.as_bytes(), to)
    }
}

fn bytes_to_json<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => to.serialize_str(text),
        Err(_) => RelJson::Base64 { b64: bytes.to_vec() }.serialize(to),
    }
}

impl RelJson {
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Base64 { b64 } => b64,
        }
    }
}

impl<'de> Deserialize<'de> for Rel {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = RelJson::deserialize(from)?.into_bytes();
        RelPath::new(bytes).map(Self).ok_or_else(|| serde::de::Error::custom("not a relative path"))
    }
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Filesystem as _;

    /// Goal: a file in `incoming/` is taken for one that is recorded only where it is that very file, with
    /// nothing done to it since: else a new delivery would be settled and never run. Method: it itself, before
    /// and after the claim; and with one thing changed at a time.
    #[test]
    fn only_the_very_file_is_recorded() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("x"), "x").unwrap();
        let fs = crate::fs::RealFs;
        let dir = fs.open_root(temp.path()).unwrap();
        let stat = fs.stat(&dir, "x".as_ref()).unwrap();
        let mark = FileMark { ino: 7, btime_ns: 100, before_ns: 200, after_ns: 300 };
        let is = |ino, btime_ns, ctime_ns| {
            mark.is_before_or_after_claim(&Stat { ino, ctime_ns, btime_ns, ..stat })
        };
        assert!(is(7, 100, 200) && is(7, 100, 300));
        for (ino, btime_ns, ctime_ns) in
            [(8, 100, 200), (7, 101, 200), (7, 100, 250), (7, 100, 301)]
        {
            assert!(!is(ino, btime_ns, ctime_ns), "{ino} {btime_ns} {ctime_ns}");
        }
    }
}
