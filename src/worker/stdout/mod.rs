//! The stdout of a `command`: rows, log lines, or a reason to fail; read as it comes, in bounds.
//!
//! Must not know: processes, exit codes, CSV files of ours. It is given bytes and is pure.
//!
//! Invariants
//! - Whatever the bytes are, nothing panics and memory is bounded: rows by `max_output`, the log by
//!   [`limits::LOG_KEPT`]. More is discarded as it comes, never left in the pipe.
//! - A row is a whole row: no cell is cut, none is shifted.

mod csv;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub(in crate::worker) mod json;
mod prefixed;

use self::prefixed::Prefixed;
use super::tail::Tail;
use crate::config::{Route, StdoutFormat, limits};
use crate::core::{FailClass, Failure, Row, without_bom};

/// What a worker's stdout amounts to.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// The rows, or why it has none that count.
    pub rows: Result<Vec<Row>, Failure>,
    /// The first `ERROR:` text of `prefixed`; it fails the attempt whatever the exit code.
    pub error: Option<String>,
    /// For the log: lines of `prefixed` and `none`; of the others the end of stdout, if it failed.
    pub log: Vec<u8>,
}

/// Reads one attempt's stdout.
#[derive(Debug)]
pub struct Stdout {
    require_output: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// `json`, `csv` and `text` mean something only as a whole.
    Whole {
        format: StdoutFormat,
        held: Held,
    },
    Prefixed(Prefixed),
    Log(Tail),
}

/// All of it, up to a limit; beyond that its end, for the log of the failure it then is.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    max_output: u64,
    over: Option<Tail>,
}

impl Stdout {
    /// For one attempt of this route.
    pub fn new(route: &Route) -> Self {
        let kind = match route.stdout {
            format @ (StdoutFormat::Json | StdoutFormat::Csv | StdoutFormat::Text) => {
                let held = Held { bytes: Vec::new(), max_output: route.max_output, over: None };
                Kind::Whole { format, held }
            }
            StdoutFormat::Prefixed => Kind::Prefixed(Prefixed::new(route.max_output)),
            StdoutFormat::None => Kind::Log(Tail::new(limits::LOG_KEPT)),
        };
        Self { require_output: route.require_output, kind }
    }

    /// Takes what was read; pieces may be cut anywhere.
    pub fn hear(&mut self, bytes: &[u8]) {
        match &mut self.kind {
            Kind::Whole { held, .. } => held.hear(bytes),
            Kind::Prefixed(prefixed) => prefixed.hear(bytes),
            Kind::Log(tail) => tail.push(bytes),
        }
    }

    /// After the last byte. `succeeded`: the worker ended well, so that its rows are of interest.
    pub fn finish(self, succeeded: bool) -> Said {
        let mut said = match self.kind {
            Kind::Whole { format, held } => held.finish(format, succeeded),
            Kind::Prefixed(prefixed) => prefixed.finish(),
            Kind::Log(tail) => Said { rows: Ok(Vec::new()), error: None, log: tail.finish() },
        };
        if self.require_output && said.rows.as_ref().is_ok_and(Vec::is_empty) {
            said.rows = Err(Failure::new(FailClass::Fail, "no output"));
        }
        said
    }
}

impl Held {
    fn hear(&mut self, bytes: &[u8]) {
        if let Some(over) = &mut self.over {
            over.push(bytes);
            return;
        }
        self.bytes.extend_from_slice(bytes);
        if exceeds(self.bytes.len(), self.max_output) {
            let mut over = Tail::new(limits::LOG_KEPT);
            over.push(&std::mem::take(&mut self.bytes));
            self.over = Some(over);
        }
    }

    fn finish(self, format: StdoutFormat, succeeded: bool) -> Said {
        if let Some(over) = self.over {
            let rows = Err(too_long("stdout", self.max_output));
            return Said { rows, error: None, log: over.finish() };
        }
        let rows = match format {
            _ if !succeeded => Ok(Vec::new()),
            StdoutFormat::Json => json::rows(without_bom(&self.bytes))
                .map_err(|error| format!("stdout is not JSON: {error}")),
            StdoutFormat::Csv => csv::rows(without_bom(&self.bytes), self.max_output)
                .map_err(|error| format!("stdout is not CSV: {error}")),
            _ => Ok(text(&self.bytes)),
        };
        let rows = rows.map_err(|reason| Failure::new(FailClass::Fail, reason));
        let mut log = Tail::new(limits::LOG_KEPT);
        if !succeeded || rows.is_err() {
            log.push(&self.bytes);
        }
        Said { rows, error: None, log: log.finish() }
    }
}

/// All of stdout without its last newline is one cell; nothing is no row.
fn text(bytes: &[u8]) -> Vec<Row> {
    let cell = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if cell.is_empty() { Vec::new() } else { vec![Row(vec![("text".to_owned(), cell.to_vec())])] }
}

/// Whether there is more than may be held.
pub(in crate::worker) fn exceeds(len: usize, max: u64) -> bool {
    u64::try_from(len).map_or(true, |len| len > max)
}

/// Trying again would print as much again, so it is permanent.
fn too_long(what: &str, max_output: u64) -> Failure {
    let reason =
        format!("{what} is longer than max_output ({})", bytesize::ByteSize::b(max_output));
    Failure::new(FailClass::Permanent, reason)
}

#[cfg(test)]
mod tests;
