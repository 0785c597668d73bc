//! One line of the journal: `<crc32c, 8 hex> <synced_to, decimal> <json>` and LF.
//!
//! Must not know: files. Bytes in, record out, and back.
//!
//! Invariants
//! - An encoded record decodes to itself. Asserted also in release builds: a line that start-up
//!   cannot read would keep the daemon down, and 2 µs for a usual outcome is a twentieth of what a
//!   job may cost.
//! - The JSON holds no raw LF, so a line ends at its first one.

use crate::config::limits::JOURNAL_LINE;

use super::record::Record;

/// Characters of the checksum.
const CRC_LEN: usize = 8;
/// The longest line with its LF: checksum, `synced_to` of 20 digits, two spaces.
pub(super) const LINE_MAX: usize = JOURNAL_LINE + CRC_LEN + 20 + 3;

/// A record does not fit into a line.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Longer than a reader will take.
    #[error("a journal record of {bytes} bytes is above the limit of {JOURNAL_LINE}")]
    TooLong {
        /// Bytes of its JSON.
        bytes: usize,
    },
    /// Not possible with the types of [`Record`]; reported all the same.
    #[error("a journal record cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// A line whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// All bytes of the segment below this offset are durable.
    pub synced_to: u64,
    /// The record.
    pub json: &'a [u8],
}

/// Appends the line of a record to `out`; after an error `out` is as before.
pub fn encode(record: &Record, synced_to: u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    open_line(synced_to, out);
    let json_at = out.len();
    let written = serde_json::to_writer(&mut *out, record).map_err(EncodeError::Json);
    let bytes = out.len() - json_at;
    let fits = written.and(if bytes > JOURNAL_LINE {
        Err(EncodeError::TooLong { bytes })
    } else {
        Ok(())
    });
    if let Err(error) = fits {
        out.truncate(start);
        return Err(error);
    }
    close_line(start, out);
    let decoded = out.get(start..out.len() - 1).and_then(check);
    assert!(
        decoded.and_then(|line| serde_json::from_slice(line.json).ok()).as_ref() == Some(record),
        "an encoded record decodes to itself"
    );
    Ok(())
}

/// The same records with another `synced_to`, for a group that moves to another segment.
pub fn restamp(lines: &[u8], synced_to: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len() + lines.len() / 16);
    for line in lines.split_inclusive(|b| *b == b'\n') {
        // Our own lines, from our own buffer: each has two spaces before its JSON and an LF at its
        // end.
        let json = line.splitn(3, |b| *b == b' ').nth(2).and_then(|json| json.strip_suffix(b"\n"));
        if let Some(json) = json {
            let start = out.len();
            open_line(synced_to, &mut out);
            out.extend_from_slice(json);
            close_line(start, &mut out);
        }
    }
    out
}

/// Checks a line without its LF. `None`: torn, damaged, or never a line.
pub fn check(line: &[u8]) -> Option<Checked<'_>> {
    let (crc, rest) = line.split_at_checked(CRC_LEN)?;
    let body = rest.strip_prefix(b" ")?;
    let hex = std::str::from_utf8(crc).ok()?;
    if !crc.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    if u32::from_str_radix(hex, 16).ok()? != crc32c::crc32c(body) {
        return None;
    }
    let space = body.iter().position(|b| *b == b' ')?;
    let (digits, json) = body.split_at_checked(space)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let synced_to = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Checked { synced_to, json: json.strip_prefix(b" ")? })
}

fn open_line(synced_to: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"00000000 ");
    out.extend_from_slice(synced_to.to_string().as_bytes());
    out.push(b' ');
}

/// Puts the checksum in front, now that all it covers is there, and the LF behind.
fn close_line(start: usize, out: &mut Vec<u8>) {
    let crc = crc32c::crc32c(out.get(start + CRC_LEN + 1..).unwrap_or_default());
    if let Some(slot) = out.get_mut(start..start + CRC_LEN) {
        slot.copy_from_slice(format!("{crc:08x}").as_bytes());
    }
    out.push(b'\n');
}

#[cfg(any(test, fuzzing))]
/// A line with any JSON, for the fuzzer.
pub(super) fn frame(json: &[u8], synced_to: u64, out: &mut Vec<u8>) {
    let start = out.len();
    open_line(synced_to, out);
    out.extend_from_slice(json);
    close_line(start, out);
}

#[cfg(test)]
mod tests {
    use super::super::scenario::any_record;
    use super::*;
    use crate::journal::record::{Attempt, Begin};
    use proptest::prelude::*;

    proptest! {
        /// Goal: every record survives its line, alone and moved to another segment.
        /// Method: random records and offsets; encode, check, decode; restamp a group of them.
        #[test]
        fn records_round_trip(records in proptest::collection::vec(any_record(), 1..4), synced_to: u64, later: u64) {
            let mut group = Vec::new();
            for record in &records {
                encode(record, synced_to, &mut group).unwrap();
            }
            for (bytes, expected) in [(group.clone(), synced_to), (restamp(&group, later), later)] {
                let lines: Vec<_> = bytes.strip_suffix(b"\n").unwrap().split(|b| *b == b'\n').collect();
                prop_assert_eq!(lines.len(), records.len());
                for (line, record) in lines.iter().zip(&records) {
                    let checked = check(line).unwrap();
                    prop_assert_eq!(checked.synced_to, expected);
                    prop_assert_eq!(&serde_json::from_slice::<Record>(checked.json).unwrap(), record);
                }
            }
        }

        /// Goal: no bytes are a line by accident, and none make it panic. Method: random bytes.
        #[test]
        fn garbage_is_no_line(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(check(&bytes), None);
        }

        /// Goal: a flipped bit is found wherever it is. Method: flip one bit of a sound line.
        #[test]
        fn a_flipped_bit_is_found(record in any_record(), at: prop::sample::Index, bit in 0u8..8) {
            let mut line = Vec::new();
            encode(&record, 77, &mut line).unwrap();
            line.pop();
            let at = at.index(line.len());
            line[at] ^= 1 << bit;
            prop_assert_eq!(check(&line), None);
        }
    }

    /// Goal: the bytes of the format are pinned. Method: one line, by hand.
    #[test]
    fn the_format_is_pinned() {
        let begin = Record::Begin(Begin {
            version: 1,
            segment: 3,
            supersedes: true,
            boot: "b".into(),
            high: crate::core::JobId::MIN,
            at_ms: 9,
        });
        let mut line = Vec::new();
        encode(&begin, 42, &mut line).unwrap();
        let text = String::from_utf8(line).unwrap();
        let body = text.trim_end_matches('\n').split_once(' ').unwrap().1;
        assert_eq!(
            body,
            r#"42 {"t":"begin","version":1,"segment":3,"supersedes":true,"boot":"b","high":"0000000000e008000000000000","at_ms":9}"#
        );
        assert_eq!(text, format!("{:08x} {body}\n", crc32c::crc32c(body.as_bytes())));
        // The checksum is Castagnoli's, by its published check value.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    /// Goal: what a reader would refuse is never written. Method: one byte above the limit; the
    /// buffer stays.
    #[test]
    fn a_record_above_the_limit_is_refused() {
        let record = Record::Attempt(Attempt {
            loss: None,
            job: crate::core::JobId::MIN,
            attempt: 1,
            spent: crate::core::Spent::default(),
            not_before_ms: 0,
            incomplete_since_ms: None,
            reason: "x".repeat(JOURNAL_LINE),
        });
        let mut out = b"before".to_vec();
        assert!(matches!(encode(&record, 0, &mut out), Err(EncodeError::TooLong { .. })));
        assert_eq!(out, b"before");
    }
}
