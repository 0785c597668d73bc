//! `prefixed`: lines of `LOG:`, `OUTPUT:` and `ERROR:`; any other line is for the log.
//!
//! Must not know: what a row is for.
//!
//! Invariants
//! - A prefix counts only at the very start of a line; `LOG: saw ERROR: x` is a log line.
//! - An `OUTPUT:` line is parsed whole, whatever its length below `max_output`, or not at all.
//! - Of any other line at most [`limits::LOG_LINE`] bytes are held.

use super::{Said, exceeds, json, too_long};
use crate::config::limits;
use crate::core::{FailClass, Failure, Row, without_bom};
use crate::worker::exit::one_line;
use crate::worker::tail::Tail;

/// Reads lines as they come.
#[derive(Debug)]
pub(super) struct Prefixed {
    max_output: u64,
    /// Bytes of `OUTPUT:` lines so far.
    output_len: usize,
    rows: Result<Vec<Row>, Failure>,
    error: Option<String>,
    log: Tail,
    /// The line being read, without its prefix once that is known.
    line: Vec<u8>,
    kind: Option<Line>,
    /// Bytes of this line that were not held.
    cut: usize,
    is_first: bool,
}

#[derive(Clone, Copy, Debug)]
enum Line {
    Log,
    Output,
    Error,
}

/// A byte order mark and the longest prefix: with so many bytes the kind of a line is certain.
const DECIDED: usize = 3 + b"OUTPUT: ".len();

impl Prefixed {
    pub(super) fn new(max_output: u64) -> Self {
        Self {
            max_output,
            output_len: 0,
            rows: Ok(Vec::new()),
            error: None,
            log: Tail::new(limits::LOG_KEPT),
            line: Vec::new(),
            kind: None,
            cut: 0,
            is_first: true,
        }
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let mut pieces = bytes.split(|b| *b == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.extend(piece);
            if pieces.peek().is_some() {
                self.end_line(true);
            }
        }
    }

    pub(super) fn finish(mut self) -> Said {
        if !self.line.is_empty() || self.kind.is_some() {
            self.end_line(false);
        }
        Said { rows: self.rows, error: self.error, log: self.log.finish() }
    }

    /// Adds a piece of the current line, as much of it as its kind may hold.
    fn extend(&mut self, piece: &[u8]) {
        let (head, rest) = piece.split_at(piece.len().min(self.undecided()));
        self.line.extend_from_slice(head);
        if self.kind.is_none() && self.undecided() == 0 {
            self.decide();
        }
        let most = match self.kind {
            Some(Line::Output) => usize::try_from(self.max_output)
                .unwrap_or(usize::MAX)
                .saturating_sub(self.output_len)
                // One more, so that the line that is too long shows.
                .saturating_add(1),
            _ => limits::LOG_LINE,
        };
        let room = most.saturating_sub(self.line.len());
        let (kept, cut) = rest.split_at(rest.len().min(room));
        self.line.extend_from_slice(kept);
        self.cut = self.cut.saturating_add(cut.len());
    }

    /// How many more bytes it takes to know the kind of this line.
    fn undecided(&self) -> usize {
        if self.kind.is_some() { 0 } else { DECIDED.saturating_sub(self.line.len()) }
    }

    /// Finds the kind of the line and takes its prefix off.
    fn decide(&mut self) {
        if std::mem::take(&mut self.is_first) {
            let bom = self.line.len() - without_bom(&self.line).len();
            self.line.drain(..bom);
        }
        let prefixes: [(&[u8], Line); 3] =
            [(b"LOG:", Line::Log), (b"OUTPUT:", Line::Output), (b"ERROR:", Line::Error)];
        let found = prefixes.into_iter().find(|(prefix, _)| self.line.starts_with(prefix));
        if let Some((prefix, _)) = found {
            self.line.drain(..prefix.len());
            if self.line.first() == Some(&b' ') {
                self.line.remove(0);
            }
        }
        self.kind = Some(found.map_or(Line::Log, |(_, kind)| kind));
    }

    /// Acts on a whole line; the last one of a stream may lack its newline.
    fn end_line(&mut self, has_newline: bool) {
        if self.kind.is_none() {
            self.decide();
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        match self.kind.take() {
            Some(Line::Output) => self.output(&line),
            Some(Line::Error) => {
                let text = one_line(&line);
                let reason =
                    if text.is_empty() { "ERROR: without a text".to_owned() } else { text };
                self.error.get_or_insert(reason);
            }
            Some(Line::Log) | None => {
                self.log.push(&line);
                if cut > 0 {
                    self.log.push(format!(" [{cut} bytes cut]").as_bytes());
                }
                if has_newline {
                    self.log.push(b"\n");
                }
            }
        }
        // The line's memory is kept for the next one, unless it was an unusual one.
        self.line = line;
        self.line.clear();
        self.line.shrink_to(limits::LOG_LINE);
    }

    fn output(&mut self, line: &[u8]) {
        self.output_len = self.output_len.saturating_add(line.len());
        let Ok(rows) = &mut self.rows else { return };
        if exceeds(self.output_len, self.max_output) {
            self.rows = Err(too_long("OUTPUT", self.max_output));
            return;
        }
        match json::rows(line) {
            Ok(mut more) => rows.append(&mut more),
            Err(error) => {
                let reason = format!("OUTPUT is not JSON: {error}");
                self.rows = Err(Failure::new(FailClass::Fail, reason));
            }
        }
    }
}
