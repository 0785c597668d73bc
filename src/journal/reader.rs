//! The reader: streams the records of all live segments, in order, and cuts a torn tail in thought.
//!
//! Must not know: what a record means, and it writes nothing: what it finds torn or superseded is
//! left as it is until [`super::Draft::supersede`] has made a copy durable.
//!
//! Invariants
//! - A bad line is *damage* if a later valid line says that it had been durable, or if it is not in
//!   the last segment. Else it and all that follows is a torn tail: never committed, ignored.
//! - What was read is not durable by that: it may be in the page cache only.
//! - Memory is one line and one block.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::limits::JOURNAL_BLOCK;
use crate::fs::Filesystem;

use super::line::{self, Checked, LINE_MAX};
use super::record::{Begin, Record};
use super::{JournalError, VERSION, numbers, path_of, segment_name};

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Number of the segment.
    pub segment: u64,
    /// Where its line begins, in bytes.
    pub offset: u64,
    /// The record.
    pub record: Record,
}

/// The end of the last segment that was never committed. Normal after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Which file, below the spool.
    pub path: PathBuf,
    /// Bytes before it, all valid.
    pub valid_len: u64,
    /// Bytes of it.
    pub torn_len: u64,
}

/// Reads the journal from its first live record to its last.
pub struct Reader<F: Filesystem> {
    fs: F,
    dir: F::Dir,
    /// The live ones, ascending, without a gap.
    segments: Vec<u64>,
    /// Index in `segments` of the one being read.
    at: usize,
    lines: Option<Lines<F>>,
    /// `valid_len` of those read to their end.
    valid: Vec<(u64, u64)>,
    torn: Option<Torn>,
}

impl<F: Filesystem> Reader<F> {
    /// Finds the live segments. A folder without any is an empty journal.
    pub fn open(fs: &F, dir: &F::Dir) -> Result<Self, JournalError> {
        let mut segments = numbers(fs, dir, "", ".log").map_err(|source| JournalError::Io {
            operation: "list",
            path: path_of("".as_ref()),
            source,
        })?;
        for index in (0..segments.len()).rev() {
            let number = segments.get(index).copied().unwrap_or_default();
            if first_begin(fs, dir, number)?.is_some_and(|begin| begin.supersedes) {
                segments.drain(..index);
                break;
            }
        }
        for pair in segments.windows(2) {
            if let [before, after] = *pair
                && before.checked_add(1) != Some(after)
            {
                return Err(JournalError::Damaged {
                    path: path_of(&segment_name(before.saturating_add(1))),
                    offset: 0,
                    why: format!("it is missing, although segments {before} and {after} are there"),
                });
            }
        }
        let (fs, dir) = (fs.clone(), dir.clone());
        Ok(Self { fs, dir, segments, at: 0, lines: None, valid: Vec::new(), torn: None })
    }

    /// The next record, heads of segments included; `None` at the end or before a torn tail.
    pub fn next_record(&mut self) -> Result<Option<Located>, JournalError> {
        while let Some(segment) = self.segments.get(self.at).copied() {
            let mut lines = match self.lines.take() {
                Some(lines) => lines,
                None => Lines::open(&self.fs, &self.dir, segment)?,
            };
            match lines.next()? {
                Next::End { len: 0 } => self.bad(segment, 0, lines)?,
                Next::End { len } => {
                    self.valid.push((segment, len));
                    self.at += 1;
                }
                Next::Bad { offset } => self.bad(segment, offset, lines)?,
                Next::Line { offset, checked } => {
                    let record = understand(segment, offset, checked)?;
                    self.lines = Some(lines);
                    return Ok(Some(Located { segment, offset, record }));
                }
            }
        }
        Ok(None)
    }

    /// The live segments, ascending.
    pub fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// Number and valid bytes of each segment that was read to its end.
    pub fn valid_len(&self) -> &[(u64, u64)] {
        &self.valid
    }

    /// The torn tail, once the reading has met it.
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// The number for a segment that supersedes all of these.
    pub fn next_segment(&self) -> u64 {
        self.segments.last().map_or(1, |last| last.saturating_add(1))
    }

    /// Decides what a bad line is, by all that follows it in its segment.
    fn bad(&mut self, segment: u64, offset: u64, mut lines: Lines<F>) -> Result<(), JournalError> {
        let path = path_of(&segment_name(segment));
        let damaged = |why: String| Err(JournalError::Damaged { path: path.clone(), offset, why });
        let len = loop {
            match lines.next()? {
                Next::End { len } => break len,
                Next::Line { offset: later, checked } if checked.synced_to > offset => {
                    return damaged(format!(
                        "the line at byte {later} was written when the first {} bytes were durable",
                        checked.synced_to
                    ));
                }
                Next::Line { .. } | Next::Bad { .. } => {}
            }
        };
        if self.at + 1 < self.segments.len() {
            return damaged("a later segment was begun only when this one was durable".into());
        }
        if offset == 0 && self.at == 0 {
            // The head is durable before the name. In a later segment a disk that lies has lost its
            // last records, as in any torn tail; here it has lost all there were, and nobody may go
            // on silently.
            return damaged("it has no head, and no other segment is there".into());
        }
        self.valid.push((segment, offset));
        self.torn = Some(Torn { path, valid_len: offset, torn_len: len.saturating_sub(offset) });
        self.at = self.segments.len();
        Ok(())
    }
}

/// The head of a segment, if its first line is a valid one.
fn first_begin<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    segment: u64,
) -> Result<Option<Begin>, JournalError> {
    let mut lines = Lines::open(fs, dir, segment)?;
    match lines.next()? {
        Next::Line { offset, checked } => match understand(segment, offset, checked)? {
            Record::Begin(begin) => Ok(Some(begin)),
            _ => Ok(None),
        },
        Next::Bad { .. } | Next::End { .. } => Ok(None),
    }
}

/// A valid line as a record that may stand where it stands.
fn understand(segment: u64, offset: u64, line: Checked<'_>) -> Result<Record, JournalError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let path = || path_of(&segment_name(segment));
    let damaged = |why: String| Err(JournalError::Damaged { path: path(), offset, why });
    if offset == 0
        // The version first: in another one the rest of the head may look different.
        && let Ok(Head { version: found }) = serde_json::from_slice(line.json)
        && found != VERSION
    {
        return Err(JournalError::Version { path: path(), found });
    }
    if line.synced_to > offset {
        let missing = line.synced_to - offset;
        return damaged(format!("{missing} durable bytes before it are missing"));
    }
    let record: Record = serde_json::from_slice(line.json)
        .map_err(|source| JournalError::Unknown { path: path(), offset, source })?;
    match &record {
        Record::Begin(begin) if offset != 0 || begin.segment != segment => {
            damaged(format!("it holds the head of segment {}", begin.segment))
        }
        Record::Begin(_) => Ok(record),
        _ if offset == 0 => damaged("its first line is not a head".into()),
        _ => Ok(record),
    }
}

/// Splits a segment into lines.
struct Lines<F: Filesystem> {
    fs: F,
    file: F::File,
    path: PathBuf,
    buf: Vec<u8>,
    /// Where in `buf` the next line begins.
    pos: usize,
    /// Where in the file `buf` begins.
    base: u64,
    /// Bytes of the next read: a page first, since often only the head is wanted, then ever more.
    block: usize,
}

enum Next<'a> {
    Line {
        offset: u64,
        checked: Checked<'a>,
    },
    /// Not a line: no LF, too long, or the checksum is wrong.
    Bad {
        offset: u64,
    },
    /// The end of the file.
    End {
        len: u64,
    },
}

impl<F: Filesystem> Lines<F> {
    fn open(fs: &F, dir: &F::Dir, segment: u64) -> Result<Self, JournalError> {
        let name = segment_name(segment);
        let path = path_of(&name);
        let file = fs.open(dir, Path::new(&name), false).map_err(|source| JournalError::Io {
            operation: "open",
            path: path.clone(),
            source,
        })?;
        Ok(Self { fs: fs.clone(), file, path, buf: Vec::new(), pos: 0, base: 0, block: 4096 })
    }

    fn next(&mut self) -> Result<Next<'_>, JournalError> {
        let offset = self.base + self.pos as u64;
        // How much of the line was searched for its LF; and whether it is too long to be one.
        let mut searched = 0;
        let mut endless = false;
        loop {
            let rest = self.buf.get(self.pos..).unwrap_or_default();
            let fresh = rest.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|b| *b == b'\n') {
                let (start, end) = (self.pos, self.pos + searched + at);
                self.pos = end + 1;
                let line = self.buf.get(start..end).unwrap_or_default();
                let checked = if endless { None } else { line::check(line) };
                return Ok(
                    checked.map_or(Next::Bad { offset }, |checked| Next::Line { offset, checked })
                );
            }
            searched = rest.len();
            if searched > LINE_MAX {
                endless = true;
            }
            if endless {
                self.pos = self.buf.len();
                searched = 0;
            }
            if !self.fill().map_err(|source| JournalError::Io {
                operation: "read",
                path: self.path.clone(),
                source,
            })? {
                let len = self.base + self.buf.len() as u64;
                self.pos = self.buf.len();
                return Ok(if len > offset { Next::Bad { offset } } else { Next::End { len } });
            }
        }
    }

    /// Forgets what was read and reads one block more; `false` at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        self.buf.drain(..self.pos);
        self.base += self.pos as u64;
        self.pos = 0;
        let old = self.buf.len();
        self.buf.resize(old + self.block, 0);
        self.block = JOURNAL_BLOCK.min(self.block * 2);
        let block = self.buf.get_mut(old..).unwrap_or_default();
        let read = self.fs.read_at(&self.file, self.base + old as u64, block);
        self.buf.truncate(old + read.as_ref().copied().unwrap_or_default());
        Ok(read? > 0)
    }
}
