//! One record of an input, for routes with `records`: what a task is about instead of a whole file.
//!
//! Must not know: where the record stands in its file, who split it off, what becomes of it.
//!
//! Invariants
//! - Whatever the bytes are, the answer is a record or a reason that names the line.
//! - A record of `csv` and `ndjson` is one JSON object on one line; the members of a CSV record have
//!   the order of the header and are text, always.
//! - Text is UTF-8: bytes that are not fail their record, since a record, unlike a path, goes into JSON
//!   whole, and what a function makes of half a character would be a wrong row.
//! - The work of a header grows with its names: while the keeper reads it, all other jobs wait.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::config::{Records, limits};
use crate::core::{BYTE_ORDER_MARK, not_utf8, without_bom};

/// A record that a worker can be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// From 1; the header of a CSV and empty lines are no records.
    pub no: u64,
    /// What it says.
    pub value: RecordValue,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordValue {
    /// A line, without its end.
    Line(String),
    /// A JSON object, on one line.
    Object(String),
}

/// A record as it stands in its file, for a slot to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRecord {
    /// From 1.
    pub no: u64,
    /// The line of the file on which it begins, from 1, for messages.
    pub line: u64,
    /// All of it, without the end of its last line; or why there is none.
    pub bytes: Result<Vec<u8>, Unfit>,
}

/// Why a record cannot be read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is longer than a record may be.
    TooLong,
    /// The file ends within quotes.
    OpenQuote,
}

/// What must be known of a file to read its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFormat {
    /// How they are written.
    pub records: Records,
    /// The columns of a CSV; empty otherwise.
    pub columns: Vec<String>,
}

/// The records that a slot is given at once; it runs one after the other and reports each.
#[derive(Clone, Debug)]
pub struct Lot {
    /// How to read them.
    pub format: Arc<RecordFormat>,
    /// Each with the attempt that begins, from 1.
    pub records: Vec<(u32, Arc<RawRecord>)>,
}

impl RecordValue {
    /// As text: for standard input, `{record}` and `INBOXD_RECORD`.
    pub fn text(&self) -> &str {
        match self {
            Self::Line(text) | Self::Object(text) => text,
        }
    }

    /// A member of an object as text: a string as it is, anything else as compact JSON.
    /// `None`: there is no such member, or the record is a line.
    pub fn field(&self, name: &str) -> Option<String> {
        let Self::Object(text) = self else { return None };
        let members: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).ok()?;
        match members.get(name)? {
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl RecordFormat {
    /// Reads a record; the error is one line for a person and final.
    pub fn read(&self, raw: &RawRecord) -> Result<InputRecord, String> {
        let said = |why: String| format!("line {}: {why}", raw.line);
        let bytes = raw.bytes.as_ref().map_err(|unfit| said(self.why(*unfit)))?;
        let text = std::str::from_utf8(bytes).map_err(|error| {
            said(format!("{} at byte {} of the record", not_utf8(bytes), error.valid_up_to()))
        })?;
        let value = match self.records {
            Records::Lines => RecordValue::Line(text.to_owned()),
            Records::Csv => RecordValue::Object(self.csv(text).map_err(said)?),
            Records::Ndjson => RecordValue::Object(ndjson(text).map_err(said)?),
        };
        Ok(InputRecord { no: raw.no, value })
    }

    fn why(&self, unfit: Unfit) -> String {
        let most = bytesize::ByteSize::b(limits::RECORD);
        match (unfit, self.records) {
            (Unfit::OpenQuote, _) => "a quote is not closed".to_owned(),
            (Unfit::TooLong, Records::Csv) => {
                format!("a record longer than {most}; is a quote not closed?")
            }
            (Unfit::TooLong, _) => format!("a record longer than {most}"),
        }
    }

    fn csv(&self, text: &str) -> Result<String, String> {
        let cells = cells(text.as_bytes())?;
        if cells.len() != self.columns.len() {
            let (has, due) = (cells.len(), self.columns.len());
            let s = if has == 1 { "" } else { "s" };
            return Err(format!("{has} field{s}, and the header has {due}"));
        }
        let mut object = String::with_capacity(text.len() + 16 * cells.len() + 2);
        object.push('{');
        for (at, (name, cell)) in self.columns.iter().zip(&cells).enumerate() {
            if at > 0 {
                object.push(',');
            }
            push_json(&mut object, name);
            object.push(':');
            push_json(&mut object, cell);
        }
        object.push('}');
        Ok(object)
    }
}

/// The names in the header of a CSV.
pub fn columns(header: &[u8]) -> Result<Vec<String>, String> {
    // The mark is of the file and not of its first column.
    let header = without_bom(header);
    if std::str::from_utf8(header).is_err() {
        return Err(format!("its header is {}", not_utf8(header)));
    }
    let names = cells(header).map_err(|why| format!("its header has {why}"))?;
    let mut seen = HashSet::with_capacity(names.len());
    if let Some(name) = names.iter().find(|name| !seen.insert(name.as_str())) {
        let shown: String = name.chars().take(limits::COLUMN_SHOWN).collect();
        return Err(format!("its header has the column {shown:?} twice"));
    }
    drop(seen);
    Ok(names)
}

/// The cells of one CSV record.
fn cells(record: &[u8]) -> Result<Vec<String>, String> {
    // The crate drops a byte order mark, which in the middle of a file is part of a cell.
    let mark: &[u8] = if record.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK } else { &[] };
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(mark.chain(record));
    let mut found = csv::StringRecord::new();
    match reader.read_record(&mut found) {
        Ok(_) => Ok(found.iter().map(str::to_owned).collect()),
        Err(error) => Err(error.to_string()),
    }
}

fn ndjson(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.starts_with('[') {
        // The whole file is one, mostly: what most programs write that are asked for JSON.
        return Err("a JSON array, not an object: one object a line (jq -c '.[]')".to_owned());
    }
    if !text.starts_with('{') {
        return Err("not a JSON object".to_owned());
    }
    // Checked whole, kept as it is: numbers stay as they were written.
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => Ok(raw.get().to_owned()),
        Err(error) => Err(format!("not valid JSON: {error}")),
    }
}

fn push_json(to: &mut String, text: &str) {
    match serde_json::to_string(text) {
        Ok(quoted) => to.push_str(&quoted),
        // Text is always JSON.
        Err(_) => to.push_str("\"\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(records: Records, header: &str, text: &[u8]) -> Result<RecordValue, String> {
        let columns = columns(header.as_bytes()).unwrap();
        let raw = RawRecord { no: 3, line: 7, bytes: Ok(text.to_vec()) };
        RecordFormat { records, columns }.read(&raw).map(|record| record.value)
    }

    /// Goal: each format gives what the protocol promises. Method: one record of each, with quotes.
    #[test]
    fn records_are_read() {
        let line = read(Records::Lines, "", b" a,\"b ");
        assert_eq!(line, Ok(RecordValue::Line(" a,\"b ".to_owned())));
        let csv = read(Records::Csv, "\u{feff}id,\"a b\"", b"7,\"x\r\n\"\"y\"\"\"").unwrap();
        assert_eq!(csv, RecordValue::Object(r#"{"id":"7","a b":"x\r\n\"y\""}"#.to_owned()));
        assert_eq!(csv.field("id").as_deref(), Some("7"));
        assert_eq!(csv.field("none"), None);
        let json = read(Records::Ndjson, "", b" {\"n\": 1.50, \"l\": [1]} ").unwrap();
        assert_eq!(json.text(), "{\"n\": 1.50, \"l\": [1]}");
        assert_eq!(json.field("l").as_deref(), Some("[1]"));
    }

    /// Goal: what is no record says why and on which line. Method: each mistake.
    #[test]
    fn mistakes_name_their_line() {
        for (records, header, text, why) in [
            (Records::Lines, "", &b"a\xff"[..], "line 7: not UTF-8 at byte 1 of the record"),
            (Records::Csv, "a,b", b"1", "line 7: 1 field, and the header has 2"),
            (Records::Csv, "a,b", b"1,2,3", "line 7: 3 fields, and the header has 2"),
            (Records::Ndjson, "", b"1", "line 7: not a JSON object"),
        ] {
            assert_eq!(read(records, header, text).unwrap_err(), why);
        }
        assert_eq!(columns(b"\xff\xfea\0").unwrap_err(), "its header is UTF-16, not UTF-8");
        let array = read(Records::Ndjson, "", b"[{\"a\": 1},").unwrap_err();
        assert!(array.starts_with("line 7: a JSON array, not an object"), "{array}");
        let cut = read(Records::Ndjson, "", b"{\"a\":").unwrap_err();
        assert!(cut.starts_with("line 7: not valid JSON: EOF"), "{cut}");
        let two = read(Records::Ndjson, "", b"{} {}").unwrap_err();
        assert!(two.starts_with("line 7: not valid JSON: trailing"), "{two}");
        assert_eq!(columns(b"a,a").unwrap_err(), "its header has the column \"a\" twice");
        let format = RecordFormat { records: Records::Csv, columns: Vec::new() };
        let long =
            format.read(&RawRecord { no: 1, line: 2, bytes: Err(Unfit::TooLong) }).unwrap_err();
        assert!(long.ends_with("is a quote not closed?"), "{long}");
    }
}
