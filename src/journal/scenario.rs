//! Stories of the whole journal: do, crash, reopen, check, reopen again.
//!
//! Must not know: the daemon. Recovery here copies every record; which ones are live is decided
//! above.
//!
//! [`Faults`] stops the disk at an operation and keeps what was done before, as `kill -9` does.
//! What a power cut loses besides (names and bytes not synced) is not told here.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rustix::io::Errno;

use super::line::LINE_MAX;
use super::record::{
    Attempt, CsvOpen, CsvSeal, FileMark, Handed, Next, Outcome, Piece, PieceBytes, Rel, SourceKey,
    Take,
};
use super::*;
use crate::config::limits::JOURNAL_BLOCK;
use crate::core::{FailClass, Failure, JobId, RelPath, Spent};
use crate::fs::faults::{Faults, Op, Then};
use crate::fs::real::RealDir;
use crate::fs::{Filesystem, RealFs};

fn any_job() -> impl Strategy<Value = JobId> {
    (0u64..1 << 48, any::<[u8; 10]>()).prop_map(|(ms, random)| JobId::next(JobId::MIN, ms, random))
}

fn any_rel() -> impl Strategy<Value = Rel> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..40),
        "[a-zü\n\"\\\\ ]{1,9}(/[a-z]{1,9}){0,3}".prop_map(String::into_bytes),
    ];
    bytes.prop_filter_map("a relative path", |bytes| RelPath::new(bytes).map(Rel))
}

fn any_spent() -> impl Strategy<Value = Spent> {
    any::<[u32; 6]>().prop_map(|[fail, timeout, oom, crash, lost, try_again]| Spent {
        fail,
        timeout,
        oom,
        crash,
        lost,
        try_again,
    })
}

fn any_piece() -> impl Strategy<Value = Piece> {
    let bytes = prop_oneof![
        any::<String>().prop_map(PieceBytes::Text),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(PieceBytes::Base64),
        (any::<u64>(), "[0-9a-f]{64}").prop_map(|(len, sha256)| PieceBytes::File { len, sha256 }),
    ];
    ("[a-z]{1,8}", any::<[u64; 3]>(), bytes).prop_map(|(route, [seg, offset, rows], bytes)| Piece {
        route,
        seg,
        offset,
        rows,
        bytes,
    })
}

fn any_failure() -> impl Strategy<Value = Failure> {
    let class = prop_oneof![
        Just(FailClass::Fail),
        Just(FailClass::Timeout),
        Just(FailClass::Oom),
        Just(FailClass::Crash),
        Just(FailClass::TryAgain),
        Just(FailClass::Permanent),
    ];
    let numbers = (any::<Option<i32>>(), any::<Option<i32>>(), any::<Option<u64>>());
    (class, any::<String>(), numbers).prop_map(|(class, reason, (exit, signal, retry_after_ms))| {
        Failure { class, reason, exit, signal, retry_after_ms }
    })
}

fn any_outcome() -> impl Strategy<Value = Record> {
    let file =
        (any::<u64>(), any::<[i64; 3]>()).prop_map(|(ino, [btime_ns, before_ns, after_ns])| {
            FileMark { ino, btime_ns, before_ns, after_ns }
        });
    let ids = (any_job(), any_rel(), "[a-z0-9_-]{0,8}", any::<u32>(), any_spent());
    let end = (proptest::option::of(any_failure()), any::<String>(), any::<[u64; 3]>(), file);
    let made = (
        proptest::collection::vec(any_piece(), 0..3),
        any::<bool>(),
        proptest::option::of(any::<[u8; 16]>().prop_map(SourceKey)),
        proptest::option::of(any_next()),
    );
    (ids, end, made).prop_map(|(ids, end, (csv, output, source, next))| {
        let next = next.map(Box::new);
        let (job, rel, route, attempts, spent) = ids;
        let (failure, stderr, [at_ms, took_ms, rows], file) = end;
        Record::Outcome(Outcome {
            records: None,
            folder: false,
            job,
            rel,
            route,
            attempts,
            spent,
            failure,
            stderr,
            at_ms,
            took_ms,
            file,
            rows,
            csv,
            output,
            next,
            source,
        })
    })
}

fn any_next() -> impl Strategy<Value = Next> {
    let handed = (any_job(), any_rel(), any_rel());
    let handed = handed.prop_map(|(job, made, rel)| Handed { job, made, rel });
    ("[a-z]{1,8}", proptest::collection::vec(handed, 1..3))
        .prop_map(|(route, files)| Next { route, files })
}

/// Any record but the head of a segment, which the journal writes itself.
pub(super) fn any_record() -> impl Strategy<Value = Record> {
    let open = ("[a-z]{1,8}", any::<[u64; 4]>(), any::<Vec<String>>(), any::<u32>()).prop_map(
        |(route, [seg, ino, len, rows], columns, crc)| {
            Record::CsvOpen(CsvOpen { route, seg, ino, columns, len, rows, crc })
        },
    );
    let seal = ("[a-z]{1,8}", any::<[u64; 3]>(), any::<String>(), any::<u32>()).prop_map(
        |(route, [seg, len, rows], name, crc)| {
            Record::CsvSeal(CsvSeal { route, seg, name, len, rows, crc })
        },
    );
    let take = (any_job(), any::<[u8; 16]>(), any_rel(), proptest::option::of("[a-z]{1,8}"))
        .prop_map(|(job, key, rel, route)| {
            Record::Take(Take { job, source: Some(SourceKey(key)), rel, route })
        });
    let attempt = (
        (any_job(), any::<u32>(), any_spent()),
        (any::<u64>(), any::<Option<u64>>(), any::<String>()),
    )
        .prop_map(|((job, attempt, spent), (not_before_ms, incomplete_since_ms, reason))| {
            let (job, spent) = (job, spent);
            Record::Attempt(Attempt {
                loss: None,
                job,
                attempt,
                spent,
                not_before_ms,
                incomplete_since_ms,
                reason,
            })
        });
    prop_oneof![open, seal, take, attempt, any_outcome()]
}

fn stamp() -> Stamp {
    Stamp { boot: "boot-1".into(), high: JobId::MIN, at_ms: 7 }
}

pub(super) fn job(n: u64) -> JobId {
    JobId::next(JobId::MIN, n, [0; 10])
}

/// A small record that differs from all others by its number.
pub(super) fn numbered(n: u64) -> Record {
    Record::Attempt(Attempt {
        loss: None,
        job: job(n),
        attempt: 1,
        spent: Spent::default(),
        not_before_ms: n,
        incomplete_since_ms: None,
        reason: "exit 1: \"ü\"\n".into(),
    })
}

fn numbers_of(records: &[Record]) -> Vec<u64> {
    let number = |record: &Record| match record {
        Record::Attempt(attempt) => attempt.not_before_ms,
        other => panic!("not a numbered record: {other:?}"),
    };
    records.iter().map(number).collect()
}

pub(super) fn root() -> (tempfile::TempDir, RealDir) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RealFs.open_root(tmp.path()).unwrap();
    (tmp, dir)
}

/// All records but the heads, and the torn tail.
pub(super) fn read<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
) -> Result<(Vec<Record>, Option<Torn>), JournalError> {
    let mut reader = Reader::open(fs, dir)?;
    let mut records = Vec::new();
    while let Some(located) = reader.next_record()? {
        if !matches!(located.record, Record::Begin(_)) {
            records.push(located.record);
        }
    }
    Ok((records, reader.torn().cloned()))
}

/// Start-up: everything that is there, copied into a superseding segment.
pub(super) fn recover<F: Filesystem>(fs: &F, dir: &F::Dir) -> Result<Writer<F>, CommitError> {
    let mut reader = Reader::open(fs, dir).unwrap();
    let mut draft = Draft::supersede(fs, dir, reader.next_segment(), stamp())?;
    while let Some(located) = reader.next_record().unwrap() {
        if !matches!(located.record, Record::Begin(_)) {
            draft.push(&located.record)?;
        }
    }
    draft.finish()
}

fn append_all<F: Filesystem>(writer: &mut Writer<F>, range: std::ops::Range<u64>) {
    for n in range {
        writer.append(&numbered(n)).unwrap();
    }
}

fn names(tmp: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(tmp)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

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

/// Goal: an fsync that failed is never called again, and nothing else is. Method: fail one of a
/// commit, let the disk work again, try every call; then recover: the copy makes durable what the
/// page cache shows.
#[test]
fn a_failed_fsync_is_never_retried() {
    let (_tmp, dir) = root();
    let fs = Faults::new(RealFs);
    let mut writer = recover(&fs, &dir).unwrap();
    append_all(&mut writer, 0..1);
    fs.arm_for(Op::is_sync, 1, Errno::IO, Then::Works);
    let error = writer.commit().unwrap_err();
    assert!(error.to_string().starts_with("journal fsync failed on journal/0"), "{error}");
    fs.take_log();
    append_all(&mut writer, 1..2);
    let all =
        [writer.commit(), writer.rotate(&[]), writer.drop_before(9, &[]), writer.reserve_spare()];
    for call in all {
        let error = call.unwrap_err();
        assert!(matches!(error, CommitError::Poisoned { operation: "fsync", .. }), "{error}");
    }
    assert_eq!(fs.take_log(), [], "something was tried after the failed fsync");
    drop(writer);
    drop(recover(&RealFs, &dir).unwrap());
    assert_eq!(numbers_of(&read(&RealFs, &dir).unwrap().0), [0]);
}

/// Goal: a full disk loses nothing and doubles nothing. Method: with and without a spare, let the
/// disk be full from each operation that takes space on, and for each errno; on `Full` give space,
/// call again.
#[test]
fn a_full_disk_waits() {
    for (with_spare, errno) in [(false, Errno::NOSPC), (true, Errno::NOSPC), (true, Errno::DQUOT)] {
        for stop in 1.. {
            let (tmp, dir) = root();
            let fs = Faults::new(RealFs);
            let mut writer = recover(&fs, &dir).unwrap();
            if with_spare {
                writer.reserve_spare().unwrap();
            }
            fs.arm_for(Op::takes_space, stop, errno, Then::Always);
            let mut was_full = 0;
            let mut insist =
                |writer: &mut Writer<_>, act: &dyn Fn(&mut Writer<_>) -> Result<_, _>| {
                    while let Err(error) = act(writer) {
                        assert!(matches!(error, CommitError::Full { .. }), "{error}");
                        // Full again while it is full; nothing is lost by asking.
                        assert!(act(writer).is_err());
                        was_full += 1;
                        fs.disarm();
                    }
                };
            for n in 0..3 {
                append_all(&mut writer, n * 10..n * 10 + 3);
                insist(&mut writer, &Writer::commit);
                assert_eq!((writer.records_pending(), writer.bytes_pending()), (0, 0));
            }
            append_all(&mut writer, 30..32);
            insist(&mut writer, &|writer| writer.rotate(&[numbered(99)]));
            append_all(&mut writer, 40..41);
            insist(&mut writer, &Writer::commit);
            drop(writer);
            let (records, torn) = read(&RealFs, &dir).unwrap();
            assert_eq!(torn, None);
            let expected = [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 99, 40];
            assert_eq!(numbers_of(&records), expected, "stop {stop}: {:?}", names(tmp.path()));
            if fs.failed() == 0 {
                assert!(stop > 5);
                break;
            }
            assert!(was_full <= 1);
        }
    }
}

/// Goal: on a full disk the jobs that run are still recorded, in the spare, and the old segment
/// ends where it was durable before the new one has its name. Method: one write fails; the order of
/// all operations.
#[test]
fn the_spare_takes_the_group() {
    use Op::{Rename, SetLen, SyncDir, SyncFile, WriteAt};
    let (tmp, dir) = root();
    let fs = Faults::new(RealFs);
    let mut writer = recover(&fs, &dir).unwrap();
    append_all(&mut writer, 0..2);
    writer.commit().unwrap();
    let old_len = writer.segment_len();
    writer.reserve_spare().unwrap();
    assert!(writer.has_spare());
    append_all(&mut writer, 2..4);
    fs.take_log();
    fs.arm_for(Op::takes_space, 1, Errno::NOSPC, Then::Works);
    writer.commit().unwrap();
    let ops: Vec<_> = fs.take_log().into_iter().map(|(op, _)| op).collect();
    let expected =
        [WriteAt, SetLen, SyncFile, WriteAt, SyncFile, Rename, SyncDir, WriteAt, SyncFile];
    assert_eq!(ops, expected);
    assert!(!writer.has_spare());
    assert_eq!(writer.segment(), 2);
    assert_eq!(fs::metadata(tmp.path().join(segment_name(1))).unwrap().len(), old_len);
    assert_eq!(numbers_of(&read(&RealFs, &dir).unwrap().0), [0, 1, 2, 3]);
    assert_eq!(names(tmp.path()), ["00000000000000000001.log", "00000000000000000002.log"]);
}

/// Goal: whatever has its name is durable, and nothing is promised before the name is, too; no test
/// that keeps the page cache can see that. Method: the order of the operations of each file that
/// gets a name.
#[test]
fn files_are_durable_before_their_names() {
    use Op::{Create, RemoveFile, Rename, SyncDir, SyncFile, WriteAt};
    let (_tmp, dir) = root();
    drop(recover(&RealFs, &dir).unwrap());
    let faults = Faults::new(RealFs);
    let order = || faults.take_log().into_iter().map(|(op, _)| op).collect::<Vec<_>>();
    let whole = [RemoveFile, Create, WriteAt, SyncFile, Rename, SyncDir];
    let mut writer = recover(&faults, &dir).unwrap();
    // The old segments go only when the new one is there for good.
    assert_eq!(order(), [&whole[..], &[RemoveFile, SyncDir]].concat());
    append_all(&mut writer, 0..1);
    writer.rotate(&[numbered(1)]).unwrap();
    // The old segment is durable to its end before there is a next one.
    assert_eq!(order(), [&[WriteAt, SyncFile], &whole[..]].concat());
    rows::write(&faults, &dir, job(1), b"a\n").unwrap();
    assert_eq!(order(), [RemoveFile, Create, WriteAt, SyncFile, SyncDir]);
    let mut sources = Sources::open(&faults, &dir).unwrap();
    let run = [RemoveFile, Create, WriteAt, WriteAt, SyncFile, Rename, SyncDir];
    sources.add_run(&mut [SourceKey([1; 16])]).unwrap();
    assert_eq!(order(), run);
    sources.add_run(&mut [SourceKey([2; 16])]).unwrap();
    // A run of its own, then the merged one; the two go only then.
    assert_eq!(order(), [&run[..], &run, &[RemoveFile, RemoveFile]].concat());
}

/// What a crash may leave: each of `must` once, any of `may` at most once, nothing else.
fn check_crash(dir: &RealDir, must: &[u64], may: &[u64], stop: u64) {
    for _ in 0..2 {
        let mut got = numbers_of(&read(&RealFs, dir).unwrap().0);
        got.sort_unstable();
        let mut once = got.clone();
        once.dedup();
        assert_eq!(got, once, "stop {stop}: something is there twice");
        let lost: Vec<_> = must.iter().filter(|n| !got.contains(n)).collect();
        let new: Vec<_> = got.iter().filter(|n| !must.contains(n) && !may.contains(n)).collect();
        assert!(lost.is_empty() && new.is_empty(), "stop {stop}: lost {lost:?}, new {new:?}");
        // And once more, after a recovery that went well.
        drop(recover(&RealFs, dir).unwrap());
    }
}

/// Goal: a crash between any two steps of commit, spare, rotation and drop loses nothing that was
/// committed and leaves nothing twice. Method: stop the disk at every durable operation of one
/// history.
#[test]
fn a_crash_at_every_step_loses_nothing() {
    for stop in 1.. {
        let (_tmp, dir) = root();
        let fs = Faults::new(RealFs);
        let mut writer =
            recover(&RealFs, &dir).map(drop).and_then(|()| recover(&fs, &dir)).unwrap();
        fs.arm(stop, Errno::IO, Then::Always);
        let (mut must, mut may) = (vec![], vec![]);
        let mut history = || -> Result<(), CommitError> {
            may = vec![0, 1];
            append_all(&mut writer, 0..2);
            writer.commit()?;
            must.append(&mut may);
            writer.reserve_spare()?;
            may = vec![2];
            append_all(&mut writer, 2..3);
            writer.commit()?;
            must.append(&mut may);
            may = vec![3, 4];
            append_all(&mut writer, 3..4);
            writer.rotate(&[numbered(4)])?;
            must.append(&mut may);
            writer.rotate(&[])?;
            writer.rotate(&[])?;
            may = std::mem::take(&mut must);
            writer.drop_before(4, &[job(1)])?;
            may.clear();
            append_all(&mut writer, 5..6);
            may.push(5);
            writer.commit()?;
            must.append(&mut may);
            Ok(())
        };
        let done = history();
        drop(writer);
        check_crash(&dir, &must, &may, stop);
        if done.is_ok() {
            assert_eq!(must, [5]);
            assert!(stop > 20, "the history has more operations than {stop}");
            break;
        }
    }
}

/// Goal: an interrupted superseding copy changes nothing. Method: stop the disk at every durable
/// operation of a recovery of three segments; the same records are read, and the next recovery ends
/// well.
#[test]
fn an_interrupted_copy_changes_nothing() {
    for stop in 1.. {
        let (tmp, dir) = root();
        let mut writer = recover(&RealFs, &dir).unwrap();
        for n in 0..3 {
            append_all(&mut writer, n * 2..n * 2 + 2);
            writer.rotate(&[]).unwrap();
        }
        writer.reserve_spare().unwrap();
        drop(writer);
        fs::write(tmp.path().join(draft_name(5)), "half made").unwrap();
        let faults = Faults::new(RealFs);
        faults.arm(stop, Errno::IO, Then::Always);
        let copied = recover(&faults, &dir).map(drop);
        let done = copied.is_ok();
        check_crash(&dir, &[0, 1, 2, 3, 4, 5], &[], stop);
        assert_eq!(names(tmp.path()).len(), 1, "leftovers: {:?}", names(tmp.path()));
        if done {
            assert!(stop > 8);
            break;
        }
    }
}

/// Goal: of segments that are dropped none leaves a gap, whatever a power cut undoes, and none
/// comes back. Method: the order of the operations: oldest first, each followed by an fsync of the
/// folder.
#[test]
fn segments_are_dropped_one_by_one() {
    let (tmp, dir) = root();
    let faults = Faults::new(RealFs);
    let mut writer = recover(&faults, &dir).unwrap();
    for _ in 0..3 {
        writer.rotate(&[]).unwrap();
    }
    rows::write(&faults, &dir, job(1), b"a,b\n").unwrap();
    rows::write(&faults, &dir, job(2), b"a,b\n").unwrap();
    faults.take_log();
    writer.drop_before(99, &[job(1), job(3)]).unwrap();
    let step = |op, name: OsString| (op, PathBuf::from(name));
    let mut expected = Vec::new();
    for n in 1..=3 {
        expected.push(step(Op::RemoveFile, segment_name(n)));
        expected.push(step(Op::SyncDir, OsString::new()));
    }
    expected.push(step(Op::RemoveFile, rows::name(job(1))));
    expected.push(step(Op::RemoveFile, rows::name(job(3))));
    assert_eq!(faults.take_log(), expected);
    assert_eq!(names(tmp.path()).len(), 2);
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

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    Commit,
    Rotate(Vec<Record>),
    Drop(u64),
    Spare,
    /// The next operation that takes space fails, once.
    Full,
    /// The daemon dies; what was not committed is garbage.
    Crash(Vec<u8>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let records = || proptest::collection::vec(any_record(), 0..4);
    prop_oneof![
        4 => records().prop_map(Step::Append),
        3 => Just(Step::Commit),
        1 => records().prop_map(Step::Rotate),
        1 => (0u64..9).prop_map(Step::Drop),
        1 => Just(Step::Spare),
        1 => Just(Step::Full),
        1 => proptest::collection::vec(any::<u8>(), 0..30).prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Goal: the journal is the list of what was committed and not dropped. Method: random
    /// histories against a list of (segment, record), with full disks and crashes; read after each
    /// crash and at the end.
    #[test]
    fn any_history_equals_the_model(steps in proptest::collection::vec(any_step(), 1..25)) {
        let (tmp, dir) = root();
        let faults = Faults::new(RealFs);
        let mut writer = recover(&faults, &dir).unwrap();
        let mut model: Vec<(u64, Record)> = Vec::new();
        let mut pending: Vec<Record> = Vec::new();
        for step in steps.into_iter().chain([Step::Crash(vec![0])]) {
            let committed = match step {
                Step::Append(records) => {
                    for record in records {
                        writer.append(&record).unwrap();
                        pending.push(record);
                    }
                    false
                }
                Step::Commit => match writer.commit() {
                    Ok(()) => true,
                    Err(error) => {
                        prop_assert!(matches!(error, CommitError::Full { .. }), "{}", error);
                        false
                    }
                },
                Step::Rotate(snapshot) => {
                    let old = writer.segment();
                    match writer.rotate(&snapshot) {
                        Ok(()) => {
                            // The group may have gone to the spare before.
                            let at = writer.segment() - 1;
                            prop_assert!(at == old || at == old + 1);
                            model.extend(pending.drain(..).map(|record| (at, record)));
                            model.extend(snapshot.into_iter().map(|record| (at + 1, record)));
                            false
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, CommitError::Full { .. }), "{}", error);
                            // Full before the group was written, or after: then it is committed.
                            writer.records_pending() == 0
                        }
                    }
                }
                Step::Drop(below) => {
                    writer.drop_before(below, &[]).unwrap();
                    let below = below.min(writer.segment());
                    model.retain(|(segment, _)| *segment >= below);
                    false
                }
                Step::Spare => {
                    let made = writer.reserve_spare();
                    prop_assert_eq!(made.is_ok(), writer.has_spare());
                    false
                }
                Step::Full => {
                    faults.arm_for(Op::takes_space, 1, Errno::NOSPC, Then::Works);
                    false
                }
                Step::Crash(garbage) => {
                    faults.disarm();
                    let path = tmp.path().join(segment_name(writer.segment()));
                    drop(writer);
                    let mut bytes = fs::read(&path).unwrap();
                    bytes.extend(garbage);
                    fs::write(&path, bytes).unwrap();
                    pending.clear();
                    let expected: Vec<_> = model.iter().map(|(_, record)| record.clone()).collect();
                    prop_assert_eq!(&read(&RealFs, &dir).unwrap().0, &expected);
                    writer = recover(&faults, &dir).unwrap();
                    for (segment, _) in &mut model {
                        *segment = writer.segment();
                    }
                    prop_assert_eq!(&read(&RealFs, &dir).unwrap().0, &expected);
                    false
                }
            };
            if committed {
                model.extend(pending.drain(..).map(|record| (writer.segment(), record)));
            }
            prop_assert_eq!(writer.records_pending(), pending.len());
        }
    }
}
