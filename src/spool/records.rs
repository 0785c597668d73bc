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
        let mut input =
            Self { fs, file, records, mark, first: zero, next: zero, block, at, block_len };
        let mut head = [0; BYTE_ORDER_MARK.len()];
        if input.fs.read_at(&input.file, 0, &mut head)? == BYTE_ORDER_MARK.len()
            && head == BYTE_ORDER_MARK
        {
            input.next.offset = BYTE_ORDER_MARK.len() as u64;
        }
        let header = match records {
            Records::Csv => input.next_record()?,
            Records::Lines | Records::Ndjson => None,
        };
        input.next.records = 0;
        input.first = input.next;
        Ok((input, header))
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
    }

    /// Goes back to the first record.
    pub fn rewind(&mut self) {
        self.seek(self.first);
    }

    /// The next record; `None` at the end.
    pub fn next_record(&mut self) -> io::Result<Option<Split>> {
        loop {
            let mut scan = Scan::new(self.records);
            // Bytes of the record that were passed over because it is too long.
            let mut passed = 0u64;
            let mut seen = 0;
            let (len, is_last) = loop {
                let unread = self.block.get(self.at + seen..).unwrap_or_default();
                if let Some(more) = scan.find_end(unread) {
                    break (seen + more, false);
                }
                seen += unread.len();
                if seen as u64 > limits::RECORD {
                    passed += seen as u64;
                    scan.lines += count_lines(self.block.get(self.at..).unwrap_or_default());
                    self.block.clear();
                    (self.at, seen) = (0, 0);
                }
                let offset = self.next.offset + passed + seen as u64;
                if !self.fill(offset)? {
                    break (seen, true);
                }
            };
            if is_last && passed + len as u64 == 0 {
                return Ok(None);
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
                return Ok(Some(Split { begins, end: self.next.offset, bytes, unfit }));
            }
        }
    }

    /// Reads one block more, which begins at an offset; `false` at the end of the file.
    fn fill(&mut self, offset: u64) -> io::Result<bool> {
        self.block.drain(..self.at);
        self.at = 0;
        let old = self.block.len();
        self.block.resize(old + self.block_len, 0);
        let free = self.block.get_mut(old..).unwrap_or_default();
        let read = self.fs.read_at(&self.file, offset, free);
        self.block.truncate(old + read.as_ref().copied().unwrap_or_default());
        Ok(read? > 0)
    }

    /// Copies the header and the records that are wanted, by number, into an empty file. How many.
    ///
    /// Reads the whole input again: not for the keeper's thread where it may be large.
    pub fn copy(&mut self, to: &F::File, is_wanted: &dyn Fn(u64) -> bool) -> io::Result<u64> {
        let mut out = Copy { fs: self.fs.clone(), to, written: 0, buffer: Vec::new() };
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
        out.flush()?;
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

    fn flush(&mut self) -> io::Result<()> {
        self.fs.write_at(self.to, self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
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
mod tests {
    use super::*;
    use crate::fs::RealFs;

    struct Made {
        _home: tempfile::TempDir,
        path: std::path::PathBuf,
    }

    fn made(text: &[u8]) -> Made {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_owned();
        std::fs::write(path.join("x"), text).unwrap();
        Made { _home: home, path }
    }

    fn open(made: &Made, records: Records, block: usize) -> (Input<RealFs>, Option<Vec<u8>>) {
        let dir = RealFs.open_root(&made.path).unwrap();
        let file = RealFs.open(&dir, Path::new("x"), false).unwrap();
        let (input, header) = Input::of(RealFs, file, records, block).unwrap();
        (input, header.map(|split| split.bytes))
    }

    fn all(input: &mut Input<RealFs>) -> Vec<Split> {
        std::iter::from_fn(|| input.next_record().unwrap()).collect()
    }

    fn texts(splits: &[Split]) -> Vec<String> {
        let text = |split: &Split| String::from_utf8_lossy(&split.bytes).into_owned();
        splits.iter().map(text).collect()
    }

    /// Goal: records are those that the head of the module describes, with their lines.
    /// Method: one text a format, with every kind of end.
    #[test]
    fn records_are_split_as_described() {
        let file = made(b"\xef\xbb\xbfa\r\n\n b \r\nc\rd\nlast");
        let (mut input, header) = open(&file, Records::Lines, 2);
        assert_eq!(header, None);
        let splits = all(&mut input);
        assert_eq!(texts(&splits), ["a", " b ", "c\rd", "last"]);
        assert_eq!(splits.iter().map(Split::line).collect::<Vec<_>>(), [1, 3, 4, 5]);
        let file = made(b"{}\n  \r\n {\"a\":\n1}\n");
        assert_eq!(texts(&all(&mut open(&file, Records::Ndjson, 3).0)), ["{}", " {\"a\":", "1}"]);
        let file = made(b"id,\"n\no\"\r\n\r\n1,\"a\r\n\"\"b\"\n2,c\"d\r3,\"\"\n");
        let (mut input, header) = open(&file, Records::Csv, 1);
        assert_eq!(header.unwrap(), b"id,\"n\no\"");
        let splits = all(&mut input);
        assert_eq!(texts(&splits), ["1,\"a\r\n\"\"b\"", "2,c\"d", "3,\"\""]);
        assert!(splits.iter().all(|split| split.unfit.is_none()));
        assert_eq!(splits.iter().map(Split::line).collect::<Vec<_>>(), [4, 6, 6]);
        assert_eq!(splits.iter().map(Split::no).collect::<Vec<_>>(), [1, 2, 3]);
    }

    /// Goal: nothing is a file without records. Method: no byte, a header alone, empty lines.
    #[test]
    fn empty_files_have_no_records() {
        assert_eq!(open(&made(b""), Records::Csv, 8).1, None);
        let file = made(b"id");
        let (mut input, header) = open(&file, Records::Csv, 8);
        assert_eq!((header, all(&mut input)), (Some(b"id".to_vec()), Vec::new()));
        assert_eq!(all(&mut open(&made(b"\n\r\n\n"), Records::Lines, 2).0), []);
    }

    /// Goal: a record that is too long costs no memory, fails alone, and is copied whole. Method: one of
    /// three times the limit, by an open quote and by a long line, between short ones.
    #[test]
    fn long_records_are_passed_over() {
        let long = "x\n".repeat(usize::try_from(limits::RECORD).unwrap() * 3 / 2);
        let text = format!("id\n1\n\"{long}\"\n2\n");
        let file = made(text.as_bytes());
        let (mut input, _) = open(&file, Records::Csv, limits::INPUT_BLOCK);
        let splits = all(&mut input);
        assert_eq!(
            splits.iter().map(|s| s.unfit).collect::<Vec<_>>(),
            [None, Some(Unfit::TooLong), None]
        );
        assert_eq!(splits[2].line(), 3 + limits::RECORD * 3 / 2 + 1);
        assert!(input.block.capacity() < 3 * usize::try_from(limits::RECORD).unwrap());
        let dir = RealFs.open_root(&file.path).unwrap();
        let to = RealFs.create(&dir, Path::new("y"), 0o600).unwrap();
        assert_eq!(input.copy(&to, &|no| no >= 2).unwrap(), 2);
        let copied = std::fs::read(file.path.join("y")).unwrap();
        assert_eq!(copied, format!("id\n\"{long}\"\n2\n").as_bytes());
    }

    /// Goal: a failed record that begins with a byte order mark keeps it when it becomes the first of a file.
    /// Method: such a record behind another and behind an empty line, copied and read again.
    #[test]
    fn a_mark_in_a_record_stays_in_it() {
        for text in ["a\n\u{feff}b\n", "\n\u{feff}b\n", "\u{feff}a\n\u{feff}b"] {
            let file = made(text.as_bytes());
            let (mut input, _) = open(&file, Records::Lines, 8);
            let last = all(&mut input).len() as u64;
            let dir = RealFs.open_root(&file.path).unwrap();
            let to = RealFs.create(&dir, Path::new("y"), 0o600).unwrap();
            assert_eq!(input.copy(&to, &|no| no == last).unwrap(), 1);
            let copied = made(&std::fs::read(file.path.join("y")).unwrap());
            let splits = all(&mut open(&copied, Records::Lines, 8).0);
            assert_eq!(texts(&splits), ["\u{feff}b"], "{text:?}");
        }
    }

    /// Goal: a file that was cut within quotes says so. Method: one such, read and copied.
    #[test]
    fn an_open_quote_is_noticed() {
        let file = made(b"id,n\n1,\"a\n");
        let splits = all(&mut open(&file, Records::Csv, 4).0);
        let [split] = &splits[..] else { panic!("{splits:?}") };
        assert_eq!((split.unfit, split.end), (Some(Unfit::OpenQuote), 10));
    }

    /// Goal: an input that is written into, or replaced, is noticed, and one that was copied with its spool is
    /// the same. Method: it grows; its time changes; another inode, with the time in full, in seconds, another.
    #[test]
    fn changes_are_noticed() {
        let file = made(b"a\n");
        let (input, _) = open(&file, Records::Lines, 8);
        assert_eq!(input.change().unwrap(), None);
        std::fs::write(file.path.join("x"), b"a\nb\n").unwrap();
        assert_eq!(input.change().unwrap().unwrap(), "it had 2 bytes and has 4");
        let was = InputMark { ino: 3, btime_ns: 5, size: 4, mtime_ns: 7_000_000_001 };
        let later = InputMark { mtime_ns: 7_000_000_000, ..was };
        assert_eq!(change(&was, &later).unwrap(), "it was written into");
        for copy in [InputMark { ino: 4, ..was }, InputMark { btime_ns: 6, ..later }] {
            assert_eq!(change(&was, &copy), None);
        }
        for other in [(5, 7_000_000_001), (4, 7_000_000_002), (4, 8_000_000_000)] {
            let other = InputMark { ino: 4, size: other.0, mtime_ns: other.1, ..was };
            assert_eq!(change(&was, &other).unwrap(), "another file stands in its place");
        }
    }
}
