//! A segment before it has its name: written whole, made durable, then named.
//!
//! Must not know: which records are live; the caller streams them in.
//!
//! Invariants
//! - Its name is given only after an fsync of all of it, and [`Draft::finish`] returns only after
//!   an fsync of the folder: who finds the segment finds it whole.
//! - Therefore each of its lines may say that everything before it is durable (`synced_to` is its
//!   own offset): that is true for whoever can read it, and makes damage in a copy as visible as
//!   elsewhere.
//! - Memory is one block, whatever the number of records.
//! - Until it is named, nothing refers to it: it may be given up at any time, at no cost.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::limits::JOURNAL_BLOCK;
use crate::core::JobId;
use crate::fs::Filesystem;

use super::record::{Begin, Record};
use super::writer::Writer;
use super::{CommitError, MODE, SPARE, draft_name, line, numbers, remove, segment_name};

/// What the head of a segment says of the moment it was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`), read by the daemon.
    pub boot: String,
    /// No job id above this one has been given.
    pub high: JobId,
    /// Unix milliseconds.
    pub at_ms: u64,
}

impl Stamp {
    /// The first record of a segment.
    pub(super) fn begin(&self, segment: u64, supersedes: bool) -> Record {
        Record::Begin(Begin {
            version: super::VERSION,
            segment,
            supersedes,
            boot: self.boot.clone(),
            high: self.high,
            at_ms: self.at_ms,
        })
    }
}

/// A segment that nobody can see yet.
pub struct Draft<F: Filesystem> {
    fs: F,
    dir: F::Dir,
    file: F::File,
    name: OsString,
    number: u64,
    stamp: Stamp,
    /// Bytes in the file; `buffer` follows.
    written: u64,
    buffer: Vec<u8>,
}

impl<F: Filesystem> Draft<F> {
    /// Begins the segment that will stand for all that is live; `number` is above all others
    /// ([`super::Reader::next_segment`]). Removes what an interrupted daemon left half made.
    pub fn supersede(fs: &F, dir: &F::Dir, number: u64, stamp: Stamp) -> Result<Self, CommitError> {
        remove_leftovers(fs, dir)?;
        Self::create(fs, dir, number, stamp, true)
    }

    pub(super) fn create(
        fs: &F,
        dir: &F::Dir,
        number: u64,
        stamp: Stamp,
        supersedes: bool,
    ) -> Result<Self, CommitError> {
        let name = draft_name(number);
        // One of this number may be left of an attempt that ended for want of space.
        remove(fs, dir, &name).map_err(|e| CommitError::before_sync("remove", &name, e))?;
        let file = fs
            .create(dir, Path::new(&name), MODE)
            .map_err(|e| CommitError::before_sync("create", &name, e))?;
        let (fs, dir) = (fs.clone(), dir.clone());
        let mut draft = Self { fs, dir, file, name, number, stamp, written: 0, buffer: Vec::new() };
        let begin = draft.stamp.begin(number, supersedes);
        draft.push(&begin)?;
        Ok(draft)
    }

    /// Adds a record; writes when a block is full. After an error: [`Draft::abandon`].
    pub fn push(&mut self, record: &Record) -> Result<(), CommitError> {
        let offset = self.written + self.buffer.len() as u64;
        line::encode(record, offset, &mut self.buffer)?;
        if self.buffer.len() >= JOURNAL_BLOCK { self.flush() } else { Ok(()) }
    }

    /// Makes it durable, names it, and makes the name durable; then removes every older segment,
    /// which it stands for. The writer appends to it.
    pub fn finish(mut self) -> Result<Writer<F>, CommitError> {
        if let Err(error) = self.publish() {
            self.abandon();
            return Err(error);
        }
        let Self { fs, dir, file, number, stamp, written, .. } = self;
        remove_older(&fs, &dir, number)?;
        Ok(Writer::on(fs, dir, file, number, written, stamp))
    }

    /// Gives it up and frees its space.
    pub fn abandon(self) {
        // A failure changes nothing: it has no name, and recovery removes what is left.
        drop(remove(&self.fs, &self.dir, &self.name));
    }

    /// As [`Draft::finish`], for a segment that continues the one before. Its file and length.
    pub(super) fn finish_next(mut self) -> Result<(F::File, u64), CommitError> {
        match self.publish() {
            Ok(()) => Ok((self.file, self.written)),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> Result<(), CommitError> {
        self.fs
            .write_at(&self.file, self.written, &self.buffer)
            .map_err(|e| CommitError::before_sync("write", &self.name, e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn publish(&mut self) -> Result<(), CommitError> {
        self.flush()?;
        // After it every line of the segment is durable, so that its name may say so.
        self.fs
            .sync_file(&self.file)
            .map_err(|e| CommitError::after_sync("fsync", &self.name, e))?;
        let name = segment_name(self.number);
        self.fs
            .rename(&self.dir, Path::new(&self.name), &self.dir, Path::new(&name))
            .map_err(|e| CommitError::before_sync("rename", &self.name, e))?;
        // After it the segment is part of the journal, whatever happens. Nothing may be appended
        // before: records in a segment whose name vanishes would vanish with it.
        self.fs.sync_dir(&self.dir).map_err(|e| CommitError::after_sync("fsync", &name, e))
    }
}

/// Removes drafts and the spare of an earlier daemon. A drafted run of the source index goes, too.
fn remove_leftovers<F: Filesystem>(fs: &F, dir: &F::Dir) -> Result<(), CommitError> {
    let list = |e: io::Error| CommitError::before_sync("list", "".as_ref(), e);
    let mut names = Vec::new();
    for entry in fs.list(dir).map_err(list)? {
        let name = entry.map_err(list)?.name;
        let draft = name.as_bytes().ends_with(b".tmp") || name == SPARE;
        if draft {
            names.push(name);
        }
    }
    // Not synced: one that comes back after a power cut is removed again.
    for name in names {
        remove(fs, dir, &name).map_err(|e| CommitError::before_sync("remove", &name, e))?;
    }
    Ok(())
}

/// Removes the segments below a durable superseding one. In any order: the reader ignores them.
fn remove_older<F: Filesystem>(fs: &F, dir: &F::Dir, number: u64) -> Result<(), CommitError> {
    let all = numbers(fs, dir, "", ".log")
        .map_err(|e| CommitError::before_sync("list", "".as_ref(), e))?;
    let mut removed = false;
    for old in all.into_iter().filter(|old| *old < number) {
        let name = segment_name(old);
        remove(fs, dir, &name).map_err(|e| CommitError::before_sync("remove", &name, e))?;
        removed = true;
    }
    if removed {
        // After it the old segments cannot come back, so their numbers and rows files are free to
        // go.
        fs.sync_dir(dir).map_err(|e| CommitError::after_sync("fsync", "".as_ref(), e))?;
    }
    Ok(())
}
