//! An input of any bytes, split and copied: for the fuzz target `records`, and in tests for text full of
//! quotes and ends.
//!
//! Must not know: what a record says.

use std::path::Path;

use super::{Input, Split, Unfit};
use crate::config::Records;
use crate::core::{BYTE_ORDER_MARK, without_bom};
use crate::fs::{Filesystem, RealFs};

/// Splits these bytes in each format, in an empty folder of the caller's; the first byte says how large the
/// blocks are. The records must be the same whatever the block and wherever reading begins, be those of
/// the `csv` crate or of a naive split, and lose nothing when parts of them are copied.
pub(crate) fn split(folder: &Path, bytes: &[u8]) {
    let (block, text) = bytes.split_first().map_or((1, bytes), |(n, rest)| (1 + n % 16, rest));
    let block = usize::from(block);
    let written = std::fs::write(folder.join("x"), text);
    assert!(written.is_ok(), "the folder is the caller's");
    for records in [Records::Lines, Records::Csv, Records::Ndjson] {
        let (mut input, header) = open(folder, "x", records, block);
        let splits = all(&mut input);
        for (at, split) in splits.iter().enumerate() {
            input.seek(split.begins);
            let rest = splits.get(at..).unwrap_or_default();
            assert_eq!(all(&mut input), rest, "where reading begins matters");
        }
        let (mut whole, same) = open(folder, "x", records, 1 << 16);
        assert_eq!((&all(&mut whole), &same), (&splits, &header), "the block matters");
        match records {
            Records::Csv => are_of_the_crate(text, header.iter().chain(&splits)),
            Records::Lines => are_lines(text, &splits),
            Records::Ndjson => {}
        }
        copies_lose_nothing(folder, &mut input, &splits, records, block);
    }
}

fn open(
    folder: &Path,
    name: &str,
    records: Records,
    block: usize,
) -> (Input<RealFs>, Option<Split>) {
    let open = || -> std::io::Result<_> {
        let dir = RealFs.open_root(folder)?;
        let file = RealFs.open(&dir, Path::new(name), false)?;
        Input::of(RealFs, file, records, block)
    };
    match open() {
        Ok(opened) => opened,
        Err(error) => panic!("{name}: {error}"),
    }
}

fn all(input: &mut Input<RealFs>) -> Vec<Split> {
    let mut splits = Vec::new();
    loop {
        match input.next_record() {
            Ok(Some(split)) => splits.push(split),
            Ok(None) => return splits,
            Err(error) => panic!("reading: {error}"),
        }
    }
}

/// Header and records, each read by itself, are what the crate makes of the whole.
fn are_of_the_crate<'s>(text: &[u8], splits: impl Iterator<Item = &'s Split>) {
    // The crate drops one byte order mark: that of the file, and none of a record.
    let read = |mark: &[u8], bytes: &[u8]| -> Vec<csv::ByteRecord> {
        let mut reader = csv::ReaderBuilder::new();
        let bytes = [mark, bytes].concat();
        let reader = reader.has_headers(false).flexible(true).from_reader(&bytes[..]);
        reader.into_byte_records().filter_map(Result::ok).collect()
    };
    let mut found = Vec::new();
    for split in splits {
        let mark = if split.bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK } else { &[] };
        let mut records = read(mark, &split.bytes);
        assert!(split.unfit == Some(Unfit::TooLong) || records.len() == 1, "{split:?}");
        found.append(&mut records);
    }
    let cells = |records: &[csv::ByteRecord]| -> Vec<Vec<Vec<u8>>> {
        records.iter().map(|record| record.iter().map(<[u8]>::to_vec).collect()).collect()
    };
    assert_eq!(cells(&found), cells(&read(&[], text)));
}

/// They are what `split` gives.
fn are_lines(text: &[u8], splits: &[Split]) {
    let text = without_bom(text);
    let count = text.split(|b| *b == b'\n').count();
    let bare = |(at, line): (usize, &[u8])| match line.strip_suffix(b"\r") {
        Some(bare) if at + 1 < count => bare.to_vec(),
        _ => line.to_vec(),
    };
    let lines = text.split(|b| *b == b'\n').enumerate().map(bare);
    let wanted: Vec<Vec<u8>> = lines.filter(|line| !line.is_empty()).collect();
    let found: Vec<&Vec<u8>> = splits.iter().map(|split| &split.bytes).collect();
    assert_eq!(found, wanted.iter().collect::<Vec<_>>());
}

/// Even records copied, then odd ones: each copy has exactly its own.
fn copies_lose_nothing(
    folder: &Path,
    input: &mut Input<RealFs>,
    splits: &[Split],
    records: Records,
    block: usize,
) {
    for (name, rest) in [("even", 0), ("odd", 1)] {
        let is_wanted = |no: u64| no % 2 == rest;
        let name = format!("{name}-{records:?}");
        let copy = || -> std::io::Result<u64> {
            let dir = RealFs.open_root(folder)?;
            let to = RealFs.create(&dir, Path::new(&name), 0o600)?;
            input.copy(&to, &is_wanted)
        };
        let chosen: Vec<&Split> = splits.iter().filter(|split| is_wanted(split.no())).collect();
        match { copy }() {
            Ok(count) => assert_eq!(count, chosen.len() as u64),
            Err(error) => panic!("copying: {error}"),
        }
        let parts = all(&mut open(folder, &name, records, block).0);
        let bytes = |splits: &[&Split]| -> Vec<Vec<u8>> {
            splits.iter().map(|split| split.bytes.clone()).collect()
        };
        assert_eq!(bytes(&parts.iter().collect::<Vec<_>>()), bytes(&chosen), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text full of quotes, ends and byte order marks, or any bytes, behind a block.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let parts = ["a", ",", "\"", "\"", "\r", "\n", "\n", " ", "\u{feff}"];
        let text = prop::collection::vec(prop::sample::select(parts.to_vec()), 0..60);
        prop_oneof![
            4 => text.prop_map(|parts| parts.concat().into_bytes()),
            1 => any::<Vec<u8>>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Goal: records are those of the `csv` crate, or lines, whatever the block and wherever reading
        /// begins, and copies of parts, put together, are the whole. Method: what the fuzzer calls.
        #[test]
        fn records_are_the_same_wherever_they_are_cut(text in text()) {
            let folder = tempfile::tempdir().unwrap();
            split(folder.path(), &text);
        }
    }
}
