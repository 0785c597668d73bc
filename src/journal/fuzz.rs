//! A journal of any bytes: for the fuzz target `journal`, and in tests for damage of every kind.
//!
//! Must not know: what records mean.

use std::path::Path;

use super::{Reader, line, segment_name};
use crate::fs::{Filesystem, RealFs};

/// Reads a journal whose segments are these bytes, cut at each byte 0xFF, from an empty folder of the caller's.
///
/// A line that begins with `+` gets the frame of a real one: checksum and `synced_to`, so that not
/// all of the search ends at the checksum. What was read before an end is bounded by what is there.
pub(crate) fn read(folder: &Path, bytes: &[u8]) {
    let mut all = 0;
    for (number, part) in (1u64..).zip(bytes.split(|b| *b == 0xff).take(4)) {
        let mut segment = Vec::new();
        for piece in part.split_inclusive(|b| *b == b'\n') {
            match piece.strip_prefix(b"+") {
                Some(json) => {
                    let json = json.strip_suffix(b"\n").unwrap_or(json);
                    line::frame(json, u64::try_from(segment.len()).unwrap_or(0), &mut segment);
                }
                None => segment.extend_from_slice(piece),
            }
        }
        all += segment.split_inclusive(|b| *b == b'\n').count();
        write(folder, number, &segment);
    }
    let read = || -> Option<usize> {
        let dir = RealFs.open_root(folder).ok()?;
        let mut reader = Reader::open(&RealFs, &dir).ok()?;
        let mut count = 0;
        while reader.next_record().ok()?.is_some() {
            count += 1;
        }
        let torn = reader.torn().map_or(0, |torn| torn.torn_len);
        assert!(torn <= 1 << 30, "more is torn than there is");
        Some(count)
    };
    let count = read();
    assert!(count.is_none_or(|count| count <= all), "more records than lines");
    assert_eq!(count, read(), "reading changes nothing");
}

fn write(folder: &Path, number: u64, bytes: &[u8]) {
    let write = || -> std::io::Result<()> {
        let dir = RealFs.open_root(folder)?;
        let name = segment_name(number);
        let file = RealFs.create(&dir, Path::new(&name), 0o600)?;
        RealFs.write_at(&file, 0, bytes)
    };
    assert!(write().is_ok(), "the folder is the caller's, and empty");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The real journal of format 1, as the harness takes it: its lines without their frames.
    fn real() -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/journal-v1");
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
        names.sort();
        let mut bytes = Vec::new();
        for name in names.iter().filter(|name| name.extension().is_some_and(|it| it == "log")) {
            if !bytes.is_empty() {
                bytes.push(0xff);
            }
            for line in std::fs::read(name).unwrap().split_inclusive(|b| *b == b'\n') {
                let json = line.splitn(3, |b| *b == b' ').nth(2).unwrap_or_default();
                bytes.push(b'+');
                bytes.extend_from_slice(json);
            }
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        /// Goal: no damage makes the reader panic, loop, or make records up. Method: a real journal with
        /// pieces overwritten, cut out and doubled, its checksums right again or not.
        #[test]
        fn any_damage_is_read_or_refused(
            hurts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..40, any::<Vec<u8>>()), 0..4),
        ) {
            let mut bytes = real();
            prop_assert!(!bytes.is_empty());
            for (at, len, with) in hurts {
                let at = at.index(bytes.len() + 1);
                let end = (at + len).min(bytes.len());
                bytes.splice(at..end, with.into_iter().take(20));
            }
            let folder = tempfile::tempdir().unwrap();
            read(folder.path(), &bytes);
        }
    }
}
