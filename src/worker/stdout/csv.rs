//! Rows from CSV (RFC 4180): the first record is the header.
//!
//! Must not know: what the columns are for.
//!
//! Invariant: a quote that is not closed is refused: all rows after it would be one cell.

use std::collections::HashSet;
use std::io::Read as _;

use crate::config::limits;
use crate::core::{Row, not_utf8};

/// All rows, or what is wrong and where. `max_output` bounds what the rows, each with the names of
/// its columns, may hold in memory.
pub(super) fn rows(bytes: &[u8], max_output: u64) -> Result<Vec<Row>, String> {
    let mut reader = ::csv::ReaderBuilder::new().flexible(false).from_reader(bytes);
    let header = reader.byte_headers().map_err(|error| sentence(&error))?;
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    for name in header {
        let name = std::str::from_utf8(name)
            .map_err(|_| format!("line 1: a column is {}", not_utf8(name)))?;
        if !seen.insert(name.to_owned()) {
            // The reason stands in a journal line.
            let shown: String = name.chars().take(limits::COLUMN_SHOWN).collect();
            return Err(format!("line 1: the column {shown:?} stands twice"));
        }
        names.push(name.to_owned());
    }
    let names_len: usize = names.iter().map(String::len).sum();
    let most = max_output.saturating_mul(limits::ROWS_GROWTH);
    let mut held = 0usize;
    let mut rows = Vec::new();
    let mut last = (1, 0);
    for record in reader.byte_records() {
        let record = record.map_err(|error| sentence(&error))?;
        last = record.position().map_or(last, |at| (at.line(), at.byte()));
        held = held.saturating_add(names_len).saturating_add(record.as_slice().len());
        if super::exceeds(held, most) {
            return Err("its rows, each with its column names, are too much for max_output".into());
        }
        let cells = record.iter().map(<[u8]>::to_vec);
        rows.push(Row(names.iter().cloned().zip(cells).collect()));
    }
    let (line, at) = last;
    if is_open(usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default()) {
        return Err(format!("line {line}: a quote is not closed"));
    }
    Ok(rows)
}

/// Whether the last record ends within quotes: then a quote that follows it closes them, else it is text.
fn is_open(record: &[u8]) -> bool {
    let mut reader = ::csv::ReaderBuilder::new();
    let reader = reader.has_headers(false).flexible(true).from_reader(record.chain(&b"\0\""[..]));
    let last = reader.into_byte_records().last().and_then(Result::ok);
    last.is_some_and(|last| last.iter().next_back().is_some_and(|cell| cell.ends_with(b"\0")))
}

fn sentence(error: &::csv::Error) -> String {
    match error.kind() {
        ::csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, ::csv::Position::line);
            format!("line {line}: {len} cells, the header has {expected_len}")
        }
        _ => error.to_string(),
    }
}
