//! The records of a claimed file: split off one after the other, from any record on; and, at the end,
//! the failed ones as a file of the same format.
//!
//! Must not know: what a record says ([`crate::worker::records`] reads it), what became of it.
//!
//! Invariants
//! - A record is the same bytes whatever the size of the blocks, and wherever reading began.
//! - Memory is one block and one record of at most [`limits::RECORD`]; a longer one is passed over and
//!   given without its bytes.
//! - Byte for byte: header and failed records, put together, are parts of the input, in its order. A first
//!   one that begins with what would be taken for a byte order mark gets one before it.
//!
//! What a record is: with `lines` and `ndjson` what ends with LF or CRLF, or at the end of the file; with
//! `csv` what RFC 4180 says, where LF, CRLF and a lone CR end a record, as the `csv` crate has it. Empty
//! lines are no records, blank ones neither with `ndjson`. A byte order mark belongs to the header.

use std::io;
use std::path::Path;

use super::Spool;
use crate::config::{Records, limits};
use crate::core::BYTE_ORDER_MARK;
use crate::core::records::{InputMark, Position};
use crate::fs::Filesystem;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

/// An input whose records are read.
pub struct Input<F: Filesystem> {
    fs: F,
    file: F::File,
    records: Records,
    mark: InputMark,
    /// Where the first record begins: after byte order mark and header.
    first: Position,
    /// Of the next record that [`Input::next_record`] looks for.
    next: Position,
    /// Bytes from `next` on that were read, from `at` on.
    block: Vec<u8>,
    at: usize,
    block_len: usize,
    /// Of the record at `next`, where reading was left off within it.
    part: Option<Part>,
}

/// How far the end of a record was looked for.
struct Part {
    scan: Scan,
    /// Bytes of it that were passed over because it is too long.
    passed: u64,
    /// Bytes of it in the block.
    seen: usize,
}

/// What a look for the next record came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It.
    Record(Split),
    /// There is none.
    End,
    /// So much was read as was allowed, and it is not known yet.
    Later,
}

/// A record as it was split off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Where it begins; its number is one more than the records before it.
    pub begins: Position,
    /// Where it ends, the end of its last line included.
    pub end: u64,
    /// Its bytes without the end of its last line; empty where it is unfit.
    pub bytes: Vec<u8>,
    /// Why its bytes are of no use.
    pub unfit: Option<Unfit>,
}

/// What is wrong with a record that cannot even be split off soundly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is too long.
    TooLong,
    /// The file ends within quotes.
    OpenQuote,
}

impl Split {
    /// From 1.
    pub fn no(&self) -> u64 {
        self.begins.records.saturating_add(1)
    }

    /// The line on which it begins, from 1.
    pub fn line(&self) -> u64 {
        self.begins.lines.saturating_add(1)
    }
}

impl<F: Filesystem> Input<F> {
    /// Opens the file at a path below `processing/` and reads its header: the names of the columns as
    /// they stand there, for `csv`.
    pub fn open(
        spool: &Spool<F>,
        path: &Path,
        records: Records,
    ) -> io::Result<(Self, Option<Split>)> {
        let file = spool.fs.open(&spool.processing, path, false)?;
        Self::of_file(spool.fs.clone(), file, records)
    }

    /// The same of a file that is open.
    pub fn of_file(fs: F, file: F::File, records: Records) -> io::Result<(Self, Option<Split>)> {
        Self::of(fs, file, records, limits::INPUT_BLOCK)
    }

    fn of(
        fs: F,
        file: F::File,
        records: Records,
        block_len: usize,
    ) -> io::Result<(Self, Option<Split>)> {
        let mark = mark_of(&fs, &file)?;
        let zero = Position::default();
        let (block, at) = (Vec::new(), 0);
        let (first, next, part) = (zero, zero, None);
        let mut input = Self { fs, file, records, mark, first, next, block, at, block_len, part };
        let mut head = [0; BYTE_ORDER_MARK.len()];
        if input.fs.read_at(&input.file, 0, &mut head)? == BYTE_ORDER_MARK.len()
            && head == BYTE_ORDER_MARK
        {
            input.next.offset = BYTE_ORDER_MARK.len() as u64;
        }
        let header = match records {
            Records::Csv => input.header()?,
            Records::Lines | Records::Ndjson => None,
        };
        input.next.records = 0;
        input.first = input.next;
        Ok((input, header))
    }

    /// One that is too long is not looked at to its end: its file fails, and may be very large.
    fn header(&mut self) -> io::Result<Option<Split>> {
        let mut most = limits::INPUT_SLICE;
        Ok(match self.next_within(&mut most)? {
            Found::Record(split) => Some(split),
            Found::End => None,
            Found::Later => {
                let (begins, unfit) = (self.next, Some(Unfit::TooLong));
                self.part = None;
                Some(Split { begins, end: begins.offset, bytes: Vec::new(), unfit })
            }
        })
    }

    /// What the file was when it was opened.
    pub fn mark(&self) -> InputMark {
        self.mark
    }

    /// Whether it is not any more what it was when it was opened; says how.
    pub fn change(&self) -> io::Result<Option<String>> {
        Ok(change(&self.mark, &mark_of(&self.fs, &self.file)?))
    }

    /// Where the next record begins.
    pub fn next(&self) -> Position {
        self.next
    }

    /// Goes on from a position that was given before.
    pub fn seek(&mut self, to: Position) {
        self.next = if to.offset < self.first.offset { self.first } else { to };
        self.block.clear();
        self.at = 0;
        self.part = None;
    }

    /// Goes back to the first record.
    pub fn rewind(&mut self) {
        self.seek(self.first);
    }

    /// The next record; `None` at the end.
    pub fn next_record(&mut self) -> io::Result<Option<Split>> {
        loop {
            let mut most = limits::INPUT_SLICE;
            match self.next_within(&mut most)? {
                Found::Record(split) => return Ok(Some(split)),
                Found::End => return Ok(None),
                Found::Later => {}
            }
        }
    }

    /// The next record, if it comes within so many bytes of the file, which are counted down. What was
    /// looked at is not looked at again by the next call.
    pub fn next_within(&mut self, most: &mut u64) -> io::Result<Found> {
        loop {
            let begun = self.part.take();
            let Part { mut scan, mut passed, mut seen } =
                begun.unwrap_or_else(|| Part { scan: Scan::new(self.records), passed: 0, seen: 0 });
            let (len, is_last) = loop {
                let unread = self.block.get(self.at + seen..).unwrap_or_default();
                if let Some(more) = scan.find_end(unread) {
                    break (seen + more, false);
                }
                seen += unread.len();
                // Its last byte may be the first of two that end its line.
                if seen as u64 > limits::RECORD + 1 {
                    passed += seen as u64;
                    scan.lines += count_lines(self.block.get(self.at..).unwrap_or_default());
                    self.block.clear();
                    (self.at, seen) = (0, 0);
                }
                if *most == 0 {
                    self.part = Some(Part { scan, passed, seen });
                    return Ok(Found::Later);
                }
                let offset = self.next.offset + passed + seen as u64;
                let read = self.fill(offset)?;
                *most = most.saturating_sub(read as u64);
                if read == 0 {
                    break (seen, true);
                }
            };
            if is_last && passed + len as u64 == 0 {
                return Ok(Found::End);
            }
            let whole = self.block.get(self.at..self.at + len).unwrap_or_default();
            let begins = self.next;
            let lines = scan.lines + count_lines(whole);
            let is_open = is_last && scan.state == State::Quoted;
            let text = if is_open { whole } else { without_end(whole, self.records) };
            let is_none = passed == 0
                && match self.records {
                    Records::Lines | Records::Csv => text.is_empty(),
                    Records::Ndjson => text.trim_ascii().is_empty(),
                };
            let is_short = passed == 0 && text.len() as u64 <= limits::RECORD;
            let unfit = match (is_short, is_open) {
                (false, _) => Some(Unfit::TooLong),
                (true, true) => Some(Unfit::OpenQuote),
                (true, false) => None,
            };
            let bytes = if is_short { text.to_vec() } else { Vec::new() };
            self.at += len;
            self.next.offset += passed + len as u64;
            self.next.lines += lines;
            if !is_none {
                self.next.records += 1;
                return Ok(Found::Record(Split { begins, end: self.next.offset, bytes, unfit }));
            }
        }
    }

    /// Reads one block more, which begins at an offset. How many bytes; none at the end of the file.
    fn fill(&mut self, offset: u64) -> io::Result<usize> {
        self.block.drain(..self.at);
        self.at = 0;
        let old = self.block.len();
        self.block.resize(old + self.block_len, 0);
        let free = self.block.get_mut(old..).unwrap_or_default();
        let read = self.fs.read_at(&self.file, offset, free);
        self.block.truncate(old + read.as_ref().copied().unwrap_or_default());
        read
    }

    /// Copies the header and the records that are wanted, by number, into an empty file. How many.
    ///
    /// Reads the whole input again: not for the keeper's thread where it may be large.
    pub fn copy(&mut self, to: &F::File, is_wanted: &dyn Fn(u64) -> bool) -> io::Result<u64> {
        let fs = self.fs.clone();
        let mut out = Copy { fs, to, written: 0, ends_in_hole: false, buffer: Vec::new() };
        out.range(&self.file, 0, self.first.offset)?;
        self.rewind();
        let mut count = 0;
        while let Some(split) = self.next_record()? {
            if !is_wanted(split.no()) {
                continue;
            }
            count += 1;
            let mut head = [0; BYTE_ORDER_MARK.len()];
            let is_first = out.written == 0 && out.buffer.is_empty();
            if is_first
                && self.fs.read_at(&self.file, split.begins.offset, &mut head)?
                    == BYTE_ORDER_MARK.len()
            {
                out.buffer.extend_from_slice(if head == BYTE_ORDER_MARK {
                    BYTE_ORDER_MARK
                } else {
                    &[]
                });
            }
            // The end of its last line stands behind it in the block, or in the file.
            out.range(&self.file, split.begins.offset, split.end)?;
        }
        out.end()?;
        Ok(count)
    }
}

fn mark_of<F: Filesystem>(fs: &F, file: &F::File) -> io::Result<InputMark> {
    let stat = fs.stat_file(file)?;
    let (ino, btime_ns) = (stat.ino, stat.btime_ns);
    Ok(InputMark { ino, btime_ns, size: stat.size, mtime_ns: stat.mtime_ns })
}

/// How a file differs from what it was.
///
/// Another one with the same size and time came here with its spool, by `cp -a` or from a backup: only the
/// daemon's user can put a file below `processing/`. `tar` keeps whole seconds.
pub fn change(was: &InputMark, is: &InputMark) -> Option<String> {
    let is_other = (was.ino, was.btime_ns) != (is.ino, is.btime_ns);
    let seconds = was.mtime_ns.div_euclid(1_000_000_000).saturating_mul(1_000_000_000);
    let same_time = was.mtime_ns == is.mtime_ns || (is_other && is.mtime_ns == seconds);
    if was.size == is.size && same_time {
        return None;
    }
    if is_other {
        return Some("another file stands in its place".to_owned());
    }
    if was.size != is.size {
        return Some(format!("it had {} bytes and has {}", was.size, is.size));
    }
    Some("it was written into".to_owned())
}

/// The file that [`Input::copy`] makes.
struct Copy<'a, F: Filesystem> {
    fs: F,
    to: &'a F::File,
    written: u64,
    /// The last block was not written, since it is all zeros.
    ends_in_hole: bool,
    buffer: Vec<u8>,
}

impl<F: Filesystem> Copy<'_, F> {
    fn range(&mut self, from: &F::File, mut offset: u64, end: u64) -> io::Result<()> {
        while offset < end {
            let most = (end - offset).min(limits::INPUT_BLOCK as u64);
            let old = self.buffer.len();
            self.buffer.resize(old + usize::try_from(most).unwrap_or(0), 0);
            let read =
                self.fs.read_at(from, offset, self.buffer.get_mut(old..).unwrap_or_default())?;
            if read as u64 != most {
                let why = "the input was cut while its failed records were copied";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            offset += most;
            if self.buffer.len() >= limits::INPUT_BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// What is zeros in a sparse input stays a hole: it may be larger than the disk.
    fn flush(&mut self) -> io::Result<()> {
        self.ends_in_hole = self.buffer.iter().all(|byte| *byte == 0);
        if !self.ends_in_hole {
            self.fs.write_at(self.to, self.written, &self.buffer)?;
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        if self.ends_in_hole && self.written > 0 {
            self.fs.write_at(self.to, self.written - 1, &[0])?;
        }
        Ok(())
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|b| u64::from(*b == b'\n')).sum()
}

fn without_end(whole: &[u8], records: Records) -> &[u8] {
    let text = whole.strip_suffix(b"\n").unwrap_or(whole);
    let had_lf = text.len() < whole.len();
    match text.strip_suffix(b"\r") {
        // A lone CR ends a record of a CSV, and is part of a line.
        Some(rest) if had_lf || records == Records::Csv => rest,
        _ => text,
    }
}

/// Looks for the end of one record, block after block.
struct Scan {
    records: Records,
    state: State,
    /// In bytes that are not kept.
    lines: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of a field.
    Start,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of two.
    QuoteInQuoted,
    /// After a CR that ends a record; an LF would belong to it.
    Cr,
}

impl Scan {
    fn new(records: Records) -> Self {
        Self { records, state: State::Start, lines: 0 }
    }

    /// How many of these bytes, that follow the ones before, belong to the record that ends in them.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.records != Records::Csv {
            return bytes.iter().position(|b| *b == b'\n').map(|at| at + 1);
        }
        for (at, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::Cr, b'\n') => return Some(at + 1),
                (State::Cr, _) => return Some(at),
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::QuoteInQuoted | State::Start, b'"') | (State::Quoted, _) => State::Quoted,
                (_, b'\n') => return Some(at + 1),
                (_, b'\r') => State::Cr,
                (_, b',') => State::Start,
                _ => State::Plain,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests;
