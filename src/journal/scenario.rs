//! Stories of the whole journal: do, crash, reopen, check, reopen again.
//!
//! `damage`: bytes that are not as they were written. `model`: random histories. `any`: any record.
//!
//! Must not know: the daemon. Recovery here copies every record; which ones are live is decided
//! above.
//!
//! [`Faults`] stops the disk at an operation and keeps what was done before, as `kill -9` does.
//! What a power cut loses besides (names and bytes not synced) is not told here.

use std::fs;
use std::path::Path;

use rustix::io::Errno;

use super::record::{Attempt, SourceKey};
use super::*;
use crate::core::{JobId, Spent};
use crate::fs::faults::{Faults, Op, Then};
use crate::fs::real::RealDir;
use crate::fs::{Filesystem, RealFs};

mod any;
mod damage;
mod model;

pub(super) use any::any_record;

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
