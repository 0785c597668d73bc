//! Bytes that are not as they were written: torn tails are cut, damage is refused.
//!
//! Must not know: how they came to be so.

use std::fs;
use std::path::Path;

use super::super::line::LINE_MAX;
use super::super::*;
use super::{append_all, numbered, numbers_of, read, recover, root};
use crate::config::limits::JOURNAL_BLOCK;
use crate::fs::RealFs;
use crate::fs::real::RealDir;

/// A journal of one segment: two committed groups, of 3 and 2 records. Its bytes, and where each
/// line ends.
fn two_groups(tmp: &Path, dir: &RealDir) -> (Vec<u8>, Vec<usize>, usize) {
    let mut writer = recover(&RealFs, dir).unwrap();
    append_all(&mut writer, 0..3);
    writer.commit().unwrap();
    let synced = usize::try_from(writer.segment_len()).unwrap();
    append_all(&mut writer, 3..5);
    writer.commit().unwrap();
    let bytes = fs::read(tmp.join(segment_name(1))).unwrap();
    let ends = (1..=bytes.len()).filter(|end| bytes[end - 1] == b'\n').collect();
    (bytes, ends, synced)
}

/// Goal: whatever a power cut leaves of an uncommitted end is cut, and every whole line before it
/// kept. Method: cut a journal at every byte; leave it short, fill it with zeros, fill it with
/// garbage; reopen, recover, reopen.
#[test]
fn torn_tail_at_every_byte() {
    let (tmp, dir) = root();
    let (bytes, ends, _) = two_groups(tmp.path(), &dir);
    let path = tmp.path().join(segment_name(1));
    for cut in 0..=bytes.len() {
        let head = &bytes[..cut];
        let zeros = vec![0; bytes.len() - cut];
        // Every byte is another one than before, and some are LF.
        let other = |b: &u8| if b.is_multiple_of(5) && *b != b'\n' { b'\n' } else { b ^ 0x55 };
        let garbage: Vec<u8> = bytes[cut..].iter().map(other).collect();
        for tail in [vec![], zeros, garbage] {
            let torn_bytes = [head, &tail].concat();
            fs::write(&path, &torn_bytes).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let Some(valid) = whole.checked_sub(1).map(|last| ends[last]) else {
                // Not even the head is whole: it was durable before the name, so this is no torn
                // tail.
                assert!(matches!(read(&RealFs, &dir), Err(JournalError::Damaged { .. })));
                continue;
            };
            let (records, torn) = read(&RealFs, &dir).unwrap();
            let expected: Vec<u64> = (0..whole as u64 - 1).collect();
            assert_eq!(numbers_of(&records), expected, "cut at {cut}");
            let lost = (torn_bytes.len() - valid) as u64;
            assert_eq!(torn.map_or(0, |torn| torn.torn_len), lost);
            if cut % 16 == 0 {
                drop(recover(&RealFs, &dir).unwrap());
                assert_eq!(read(&RealFs, &dir).unwrap(), (records, None));
                RealFs.remove_file(&dir, Path::new(&segment_name(2))).unwrap();
            }
        }
    }
}

/// Goal: a later segment that is empty or all zeros is a torn tail, and said to be one.
/// Method: a file of zeros under the next name.
#[test]
fn a_last_segment_of_zeros_is_torn() {
    for len in [0, 1, 5000, LINE_MAX + JOURNAL_BLOCK] {
        let (tmp, dir) = root();
        two_groups(tmp.path(), &dir);
        fs::write(tmp.path().join(segment_name(2)), vec![0; len]).unwrap();
        let (records, torn) = read(&RealFs, &dir).unwrap();
        assert_eq!(numbers_of(&records), [0, 1, 2, 3, 4]);
        let path = path_of(&segment_name(2));
        assert_eq!(torn, Some(Torn { path, valid_len: 0, torn_len: len as u64 }));
    }
}

/// Goal: what was durable and is wrong now is refused, never skipped. Method: change, remove and
/// zero every byte below the last commit; the line after it knows better.
#[test]
fn damage_in_the_middle_is_refused() {
    let (tmp, dir) = root();
    let (bytes, _, synced) = two_groups(tmp.path(), &dir);
    let path = tmp.path().join(segment_name(1));
    for at in 0..synced {
        let with = |byte| [&bytes[..at], &[byte], &bytes[at + 1..]].concat();
        let without = [&bytes[..at], &bytes[at + 1..]].concat();
        for damaged in [with(bytes[at] ^ 1), with(bytes[at] ^ b'\n'), with(0), without] {
            fs::write(&path, &damaged).unwrap();
            match read(&RealFs, &dir) {
                Err(JournalError::Damaged { path, offset, .. }) => {
                    assert_eq!(path, path_of(&segment_name(1)));
                    assert!(offset <= at as u64, "byte {at} was blamed on {offset}");
                }
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

/// Goal: durable lines that vanished whole are missed. Method: remove each line but the head, every
/// other one stays sound; the lines after it stand lower than they say.
#[test]
fn a_vanished_line_is_missed() {
    let (tmp, dir) = root();
    let (bytes, ends, synced) = two_groups(tmp.path(), &dir);
    for pair in ends.windows(2).filter(|pair| pair[1] <= synced) {
        let without = [&bytes[..pair[0]], &bytes[pair[1]..]].concat();
        fs::write(tmp.path().join(segment_name(1)), without).unwrap();
        let error = read(&RealFs, &dir).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
    }
}

/// Goal: damage in a copy is found even if nothing was committed after it. Method: change each byte
/// of a superseding segment but those of its last line.
#[test]
fn damage_in_a_copy_is_refused() {
    let (tmp, dir) = root();
    two_groups(tmp.path(), &dir);
    drop(recover(&RealFs, &dir).unwrap());
    let path = tmp.path().join(segment_name(2));
    let bytes = fs::read(&path).unwrap();
    let last = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap();
    for at in 0..last {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(matches!(read(&RealFs, &dir), Err(JournalError::Damaged { .. })), "byte {at}");
    }
}

/// Goal: an earlier segment has no torn tail, and none is missing. Method: cut the first of three;
/// remove the second; give it another's name.
#[test]
fn damage_between_segments_is_refused() {
    let check = |harm: fn(&Path)| {
        let (tmp, dir) = root();
        let mut writer = recover(&RealFs, &dir).unwrap();
        for n in 0..2 {
            append_all(&mut writer, n..n + 1);
            writer.rotate(&[]).unwrap();
        }
        harm(tmp.path());
        let error = read(&RealFs, &dir).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
    };
    check(|tmp| {
        let path = tmp.join(segment_name(1));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    });
    check(|tmp| {
        let dir = RealFs.open_root(tmp).unwrap();
        RealFs.remove_file(&dir, Path::new(&segment_name(2))).unwrap();
    });
    check(|tmp| fs::copy(tmp.join(segment_name(1)), tmp.join(segment_name(2))).map(drop).unwrap());
    check(|tmp| fs::write(tmp.join(segment_name(2)), "").unwrap());
}

/// Goal: what a newer version wrote is refused by name, not read as damage. Method: a head of
/// version 2; a sound line of a kind that is not known.
#[test]
fn a_newer_format_is_refused() {
    let seal = |body: &str| format!("{:08x} {body}\n", crc32c::crc32c(body.as_bytes()));
    let (tmp, dir) = root();
    let path = tmp.path().join(segment_name(1));
    fs::write(&path, seal(r#"0 {"t":"begin","version":2,"new":true}"#)).unwrap();
    let error = read(&RealFs, &dir).unwrap_err();
    assert!(matches!(error, JournalError::Version { found: 2, .. }), "{error}");
    RealFs.remove_file(&dir, Path::new(&segment_name(1))).unwrap();
    drop(recover(&RealFs, &dir).unwrap());
    let head = fs::read_to_string(&path).unwrap();
    fs::write(&path, head + &seal(r#"0 {"t":"new"}"#)).unwrap();
    let error = read(&RealFs, &dir).unwrap_err();
    assert!(matches!(error, JournalError::Unknown { .. }), "{error}");
}

/// Goal: a line as long as it may be is read, and one that never ends is not kept in memory.
/// Method: a reason of some MiB; then garbage without an LF, longer than a line.
#[test]
fn long_lines_are_read_and_endless_ones_are_torn() {
    let (tmp, dir) = root();
    let mut writer = recover(&RealFs, &dir).unwrap();
    let Record::Attempt(mut long) = numbered(1) else { panic!() };
    long.reason = "\u{1}".repeat(JOURNAL_BLOCK * 5);
    writer.append(&Record::Attempt(long.clone())).unwrap();
    append_all(&mut writer, 2..3);
    writer.commit().unwrap();
    let path = tmp.path().join(segment_name(1));
    let mut bytes = fs::read(&path).unwrap();
    let valid_len = bytes.len() as u64;
    bytes.resize(bytes.len() + LINE_MAX * 2, b'x');
    fs::write(&path, bytes).unwrap();
    let (records, torn) = read(&RealFs, &dir).unwrap();
    assert_eq!(records, [Record::Attempt(long), numbered(2)]);
    assert_eq!(torn.unwrap().valid_len, valid_len);
}
