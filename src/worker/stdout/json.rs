//! Rows from JSON: an object is a row, an array of objects is rows, and so is one after another.
//!
//! Must not know: what the columns are for.
//!
//! Invariants
//! - Numbers stand in the cell as they stood in the text: never through a float.
//! - The last of two equal keys wins; keys keep their order, also nested ones.
//! - Input of any depth and any number of keys takes linear time and no stack.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::core::Row;

/// All rows, or `line L column C: …`. Blank text has none.
pub(in crate::worker) fn rows(bytes: &[u8]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for item in serde_json::Deserializer::from_slice(bytes).into_iter::<Rows>() {
        rows.append(&mut item.map_err(|error| sentence(&error, bytes))?.0);
    }
    Ok(rows)
}

/// One row from one object.
pub(in crate::worker) fn row(raw: &str) -> Result<Row, String> {
    serde_json::from_str::<OneRow>(raw).map(|OneRow(row)| row).map_err(|error| error.to_string())
}

/// One top-level value.
struct Rows(Vec<Row>);

/// One object.
struct OneRow(Row);

struct RowsVisitor;
struct OneRowVisitor;

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RowsVisitor)
    }
}

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rows, A::Error> {
        Ok(Rows(vec![OneRowVisitor.visit_map(map)?.0]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Rows, A::Error> {
        let mut rows = Vec::new();
        while let Some(OneRow(row)) = seq.next_element()? {
            rows.push(row);
        }
        Ok(Rows(rows))
    }
}

impl<'de> Deserialize<'de> for OneRow {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneRowVisitor)
    }
}

impl<'de> Visitor<'de> for OneRowVisitor {
    type Value = OneRow;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object (a row)")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OneRow, A::Error> {
        let mut cells: Vec<(String, Vec<u8>)> = Vec::new();
        // Where each name stands; only for wide rows, since looking through a few is faster.
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            let cell = cell(value.get());
            let place = if cells.len() < WIDE {
                cells.iter().position(|(known, _)| *known == name)
            } else {
                if places.is_empty() {
                    places.extend(cells.iter().enumerate().map(|(at, (n, _))| (n.clone(), at)));
                }
                let next = cells.len();
                Some(*places.entry(name.clone()).or_insert(next)).filter(|at| *at < next)
            };
            match place.and_then(|at| cells.get_mut(at)) {
                Some((_, old)) => *old = cell,
                None => cells.push((name, cell)),
            }
        }
        Ok(OneRow(Row(cells)))
    }
}

/// From so many columns on, names are found by hash.
const WIDE: usize = 16;

/// The cell of a value: strings as they are, null empty, lists and objects compact, the rest as it stands.
pub(in crate::worker) fn cell(raw: &str) -> Vec<u8> {
    match raw.as_bytes().first() {
        Some(b'"') => string(raw),
        Some(b'[' | b'{') => compact(raw),
        _ if raw == "null" => Vec::new(),
        _ => raw.as_bytes().to_vec(),
    }
}

/// The bytes of a string. A lone surrogate U+DC80..=U+DCFF is how Python prints a byte of a file name
/// that is not UTF-8; it becomes that byte again. Any other lone one stays as written.
fn string(raw: &str) -> Vec<u8> {
    if let Ok(text) = serde_json::from_str::<String>(raw) {
        return text.into_bytes();
    }
    let bytes = raw.as_bytes();
    let inner = bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or_default();
    let mut out = Vec::new();
    let mut rest = inner;
    // Split at the escapes that may be lone; what lies between is good JSON text.
    while let Some((before, byte, after)) = next_lone(rest) {
        out.extend(plain(before));
        out.extend(byte);
        rest = after;
    }
    out.extend(plain(rest));
    out
}

/// The first lone surrogate: what is before it, its bytes, what is after it.
fn next_lone(text: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if *byte != b'\\' {
            at += 1;
            continue;
        }
        let Some(unit) = escaped_unit(text, at) else {
            at += 2;
            continue;
        };
        let followed = escaped_unit(text, at + 6).is_some_and(|u| (0xdc00..0xe000).contains(&u));
        if (0xd800..0xdc00).contains(&unit) && followed {
            at += 12;
            continue;
        }
        if !(0xd800..0xe000).contains(&unit) {
            at += 6;
            continue;
        }
        let (before, from) = text.split_at_checked(at)?;
        let (escape, after) = from.split_at_checked(6)?;
        let bytes = match unit {
            0xdc80..=0xdcff => u8::try_from(unit - 0xdc00).map(|b| vec![b]).unwrap_or_default(),
            _ => escape.to_vec(),
        };
        return Some((before, bytes, after));
    }
    None
}

/// The code unit of a `\uXXXX` that begins here.
fn escaped_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at.checked_add(6)?)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The text of a piece of a string without lone surrogates.
fn plain(piece: &[u8]) -> Vec<u8> {
    let quoted = [b"\"", piece, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).map_or_else(|_| piece.to_vec(), String::into_bytes)
}

/// The same JSON without the blanks between its tokens.
fn compact(raw: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let (mut in_string, mut escaped) = (false, false);
    for byte in raw.bytes() {
        if in_string {
            in_string = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
        } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    out
}

/// The place first, then what serde says, with help for what Python prints and JSON has not.
fn sentence(error: &serde_json::Error, bytes: &[u8]) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    // The column counts bytes from 1 and may name the character before.
    let from = bytes
        .split(|b| *b == b'\n')
        .nth(line.saturating_sub(1))
        .and_then(|text| text.get(column.saturating_sub(2)..))
        .unwrap_or_default();
    let help = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| {
        [0, 1].iter().any(|skip| from.get(*skip..).is_some_and(|f| f.starts_with(word.as_bytes())))
    });
    match help {
        Some(word) => format!(
            "line {line} column {column}: {word} is not JSON; give null or a string instead"
        ),
        None => format!("line {line} column {column}: {what}"),
    }
}
