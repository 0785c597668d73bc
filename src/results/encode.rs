//! Rows to bytes: RFC 4180 with LF line ends.
//!
//! Must not know: files, segments, or how the columns were decided.
//!
//! Invariants
//! - A cell is placed by the *name* of its column, never by its position in the worker's row.
//! - Every row is a line, also one without cells (`""`), so rows can be counted by a reader.
//! - Cells are bytes: what is not UTF-8 goes through unchanged, and what begins like a byte order mark
//!   keeps it, also at the start of a file.

use std::io;

use csv::{QuoteStyle, Terminator, Writer, WriterBuilder};

use super::columns::{FILE_COLUMN, JOB_COLUMN};
use crate::core::{Cells, JobId, RelPath, Row};

/// The header line of a segment.
pub fn header(columns: &[String]) -> io::Result<Vec<u8>> {
    // At the start of a file readers take it for a byte order mark, unless a quote is before it.
    let is_marked = columns.first().is_some_and(|first| first.starts_with('\u{feff}'));
    let mut to = writer(if is_marked { QuoteStyle::Always } else { QuoteStyle::Necessary });
    for column in columns {
        to.write_field(column)?;
    }
    end_line(&mut to)?;
    finish(to)
}

/// The lines of one job's rows below `columns`; a column that a row lacks is an empty cell.
///
/// With `trace`, the columns `_file` (the bytes of `rel`) and `_job` are filled in by us.
pub fn rows(
    columns: &[String],
    trace: bool,
    rows: &[Row],
    rel: &RelPath,
    job: JobId,
) -> io::Result<Vec<u8>> {
    let mut to = writer(QuoteStyle::Necessary);
    let job = job.to_string();
    for row in rows {
        let mut cells = Cells::of(row);
        for (at, column) in columns.iter().enumerate() {
            let cell = match column.as_str() {
                FILE_COLUMN if trace => rel.as_bytes(),
                JOB_COLUMN if trace => job.as_bytes(),
                name => cells.get(at, name).unwrap_or_default(),
            };
            to.write_field(cell)?;
        }
        end_line(&mut to)?;
    }
    finish(to)
}

fn writer(quotes: QuoteStyle) -> Writer<Vec<u8>> {
    WriterBuilder::new()
        .quote_style(quotes)
        .terminator(Terminator::Any(b'\n'))
        .flexible(true)
        .has_headers(false)
        .from_writer(Vec::new())
}

fn end_line(to: &mut Writer<Vec<u8>>) -> io::Result<()> {
    Ok(to.write_record(None::<&[u8]>)?)
}

fn finish(to: Writer<Vec<u8>>) -> io::Result<Vec<u8>> {
    to.into_inner().map_err(csv::IntoInnerError::into_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(columns: &[&str]) -> Vec<String> {
        columns.iter().map(|c| (*c).to_owned()).collect()
    }

    fn lines(columns: &[&str], trace: bool, given: &[Row]) -> Vec<u8> {
        let rel = RelPath::new(b"a\xff,b.json".to_vec()).unwrap();
        rows(&names(columns), trace, given, &rel, JobId::MIN).unwrap()
    }

    /// Goal: a cell is found by name, whatever the order. Method: the seed's swapped dict.
    #[test]
    fn swapped_keys_do_not_shift_cells() {
        let row = Row::from_pairs([("meat", "1"), ("fruits", "2"), ("vegetables", "3")]);
        assert_eq!(lines(&["fruits", "vegetables", "meat"], false, &[row]), b"2,3,1\n");
    }

    /// Goal: every row is a line. Method: no cells; one empty cell; a missing key among others.
    #[test]
    fn an_empty_row_is_still_a_line() {
        assert_eq!(lines(&[], false, &[Row::default(), Row::default()]), b"\"\"\n\"\"\n");
        assert_eq!(lines(&["a"], false, &[Row::from_pairs([("a", "")])]), b"\"\"\n");
        assert_eq!(lines(&["a", "b"], false, &[Row::from_pairs([("b", "1")])]), b",1\n");
        assert_eq!(header(&[]).unwrap(), b"\"\"\n");
    }

    /// Goal: the trace columns hold the raw path and the id. Method: a path not UTF-8, with a comma.
    #[test]
    fn trace_columns_hold_the_path_as_it_is() {
        let row = Row::from_pairs([("a", "1")]);
        let mut expected = b"1,\"a\xff,b.json\",".to_vec();
        expected.extend_from_slice(JobId::MIN.to_string().as_bytes());
        expected.push(b'\n');
        assert_eq!(lines(&["a", "_file", "_job"], true, &[row]), expected);
    }

    proptest! {
        /// Goal: what a reader gets is what the worker gave. Method: random bytes, quotes and newlines among them.
        #[test]
        fn a_reader_gets_the_same_cells(
            table in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![proptest::collection::vec(any::<u8>(), 0..6),
                                "\u{feff}?[a\",\r\n ]{0,5}".prop_map(String::into_bytes)], 3), 1..8),
            first in "\u{feff}?[x\", ]{1,3}",
        ) {
            let columns = [first.as_str(), "y", "z"];
            let given: Vec<Row> = table.iter().map(|cells| Row(
                columns.iter().map(|n| (*n).to_owned()).zip(cells.clone()).collect()
            )).collect();
            let mut bytes = header(&names(&columns)).unwrap();
            bytes.extend(lines(&columns, false, &given));
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
            let mut back: Vec<Vec<Vec<u8>>> = reader.byte_records()
                .map(|r| r.unwrap().iter().map(<[u8]>::to_vec).collect()).collect();
            prop_assert_eq!(back.remove(0), columns.map(|it| it.as_bytes().to_vec()));
            prop_assert_eq!(back, table);
        }
    }
}
