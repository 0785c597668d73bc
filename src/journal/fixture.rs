//! A journal kept since format 1: every kind of line there is, to be read by every later version.
//!
//! Must not know: what the lines mean. What came later stands in a segment of its own, so that the older
//! lines stay as they were written.

use std::fs;
use std::path::{Path, PathBuf};

use super::record::{
    Attempt, CsvMoved, CsvOpen, CsvSeal, FileMark, Handed, Input, InputOutcome, InputSet,
    InputTried, Next, Outcome, Piece, PieceBytes, Rel, SourceKey, Take, Tally,
};
use super::scenario::{job, numbered, read, recover, root};
use super::*;
use crate::config::Records;
use crate::core::records::{InputMark, Loss, Position};
use crate::core::{FailClass, Failure, RelPath, Spent};
use crate::fs::RealFs;

/// Every kind of record of format 1, with each optional part there and absent.
fn fixture_records() -> Vec<Record> {
    let piece = |offset, bytes| Piece { route: "count".into(), seg: 1, offset, rows: 1, bytes };
    let done = Outcome {
        records: None,
        folder: false,
        job: job(1),
        rel: rel("a/ü \n.json".as_bytes()),
        route: "count".into(),
        attempts: 1,
        spent: Spent::default(),
        failure: None,
        stderr: String::new(),
        at_ms: 1_767_225_600_000,
        took_ms: 41,
        file: FileMark { ino: 12, btime_ns: -1, before_ns: 2, after_ns: 3 },
        rows: 2,
        csv: vec![
            piece(0, PieceBytes::Text("a,\"b\"\n1,2\n".into())),
            piece(10, PieceBytes::Base64(vec![0xff, 0, b'\n'])),
        ],
        output: true,
        next: None,
        source: Some(SourceKey([0xab; 16])),
    };
    let mut failure = Failure::new(FailClass::Permanent, "exit 65: no");
    failure.exit = Some(65);
    vec![
        Record::CsvOpen(CsvOpen {
            route: "count".into(),
            seg: 1,
            ino: 99,
            columns: vec!["a".into(), "b".into()],
            len: 0,
            rows: 0,
            crc: 0,
        }),
        Record::Take(Take {
            job: job(1),
            source: Some(SourceKey([0xab; 16])),
            rel: rel(b"a/\xff"),
            route: None,
        }),
        numbered(2),
        Record::Outcome(done.clone()),
        Record::Outcome(Outcome {
            job: job(2),
            failure: Some(failure),
            stderr: "no\n".into(),
            spent: Spent { fail: 1, ..Spent::default() },
            csv: vec![piece(
                13,
                PieceBytes::File {
                    len: 4,
                    sha256: "52186c933993da4082b3cdc7c40bb4bf735b391ff54a2ef78c037dda6c38a680"
                        .into(),
                },
            )],
            output: false,
            source: None,
            ..done
        }),
        Record::CsvSeal(CsvSeal {
            route: "count".into(),
            seg: 1,
            name: "count.20260101T000000Z.1.csv".into(),
            len: 17,
            rows: 3,
            crc: 0xdead_beef,
        }),
    ]
}

/// Kinds and parts that came later, of the same format: read by every version from then on.
fn later_records() -> Vec<Record> {
    let mut records = later_lines();
    records.extend(lines_of_inputs());
    records.extend(later_outcomes());
    records
}

fn rel(bytes: &[u8]) -> Rel {
    Rel(RelPath::new(bytes.to_vec()).unwrap())
}

fn lines_of_inputs() -> Vec<Record> {
    let position = Position { records: 41, offset: 1000, lines: 43 };
    let mark = InputMark { ino: 12, btime_ns: -1, size: 5000, mtime_ns: 7 };
    let outcome = |no, failure| InputOutcome {
        job: job(3),
        no,
        attempts: 2,
        failure,
        rows: 0,
        csv: Vec::new(),
        rows_file: None,
    };
    let piece = Piece {
        route: "count".into(),
        seg: 2,
        offset: 0,
        rows: 1,
        bytes: PieceBytes::Text("7\n".into()),
    };
    let tried = |alone| InputTried {
        job: job(3),
        no: 45,
        attempts: 1,
        spent: Spent { crash: 1, ..Spent::default() },
        not_before_ms: 9,
        alone,
        reason: "killed by SIGSEGV".into(),
    };
    let input = |format, low, reasons| {
        Record::Input(Input { job: job(3), format, mark, low, position, rows: 40, reasons })
    };
    let set = |failed| Record::InputSet(InputSet { job: job(3), failed, set: vec![0, 0xff, 7] });
    vec![
        input(Records::Csv, 41, vec![("exit 9".into(), 3)]),
        input(Records::Lines, 0, Vec::new()),
        input(Records::Ndjson, 0, Vec::new()),
        set(true),
        set(false),
        Record::InputTried(tried(false)),
        Record::InputTried(tried(true)),
        Record::InputOutcome(outcome(
            44,
            Some(Failure::new(FailClass::Crash, "killed by SIGSEGV")),
        )),
        Record::InputOutcome(InputOutcome {
            rows: 1,
            csv: vec![piece],
            rows_file: Some(job(9)),
            ..outcome(45, None)
        }),
    ]
}

fn later_lines() -> Vec<Record> {
    vec![
        Record::CsvMoved(CsvMoved {
            route: "count".into(),
            from_seg: 1,
            from_offset: 5,
            to_seg: 2,
            to_offset: 4,
            len: 12,
            rows: 2,
            name: "count.20260101T000000Z.1.csv".into(),
        }),
        Record::Take(Take {
            job: job(4),
            source: None,
            rel: rel(b"b"),
            route: Some("next".into()),
        }),
        Record::Attempt(Attempt {
            job: job(3),
            attempt: 1,
            spent: Spent { lost: 1, ..Spent::default() },
            not_before_ms: 0,
            incomplete_since_ms: Some(5),
            loss: Some(Loss { recorded: 40, below: 48 }),
            reason: "lost".into(),
        }),
    ]
}

fn later_outcomes() -> Vec<Record> {
    let ended = Outcome {
        job: job(3),
        rel: rel(b"ids.csv"),
        route: "count".into(),
        attempts: 2,
        spent: Spent::default(),
        failure: None,
        stderr: String::new(),
        at_ms: 1_767_225_600_001,
        took_ms: 7,
        file: FileMark { ino: 13, btime_ns: 1, before_ns: 2, after_ns: 3 },
        rows: 41,
        csv: Vec::new(),
        output: false,
        next: None,
        source: None,
        records: None,
        folder: false,
    };
    vec![
        Record::Outcome(Outcome {
            records: Some(Tally {
                done: 41,
                failed: 4,
                reasons: vec![("exit 9".into(), 3)],
                ino: 14,
            }),
            ..ended.clone()
        }),
        Record::Outcome(Outcome {
            job: job(5),
            output: true,
            folder: true,
            next: Some(Box::new(Next {
                route: "next".into(),
                files: vec![Handed { job: job(6), made: rel(b"x/y"), rel: rel(b"b.made/x/y") }],
            })),
            ..ended
        }),
    ]
}

/// Goal: no kind of record is missing in the kept journal. Method: the kinds by their tags; a new one does
/// not compile here before it is told of.
#[test]
fn every_kind_is_in_the_fixture() {
    let mut records = fixture_records();
    records.extend(later_records());
    let kind = |record: &Record| match record {
        Record::Begin(_) => "begin",
        Record::CsvOpen(_) => "csv_open",
        Record::CsvSeal(_) => "csv_seal",
        Record::CsvMoved(_) => "csv_moved",
        Record::Take(_) => "take",
        Record::Attempt(_) => "attempt",
        Record::Input(_) => "input",
        Record::InputSet(_) => "input_set",
        Record::InputTried(_) => "input_tried",
        Record::InputOutcome(_) => "input_outcome",
        Record::Outcome(_) => "outcome",
    };
    // Each segment begins with the one kind that is not among them.
    let kinds: std::collections::BTreeSet<_> = records.iter().map(kind).collect();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/journal-v1")
}

/// Goal: a journal of format 1 is read by every later version. Method: the one kept in
/// `tests/data`.
#[test]
fn format_1_is_read() {
    let dir = RealFs.open_root(&fixture()).unwrap();
    let (records, torn) = read(&RealFs, &dir).unwrap();
    assert_eq!((records, torn), ([fixture_records(), later_records()].concat(), None));
    let mut reader = Reader::open(&RealFs, &dir).unwrap();
    assert_eq!((reader.segments(), reader.next_segment()), (&[1, 2, 3][..], 4));
    let head = reader.next_record().unwrap().unwrap();
    assert!(
        matches!(head.record, Record::Begin(begin) if begin.supersedes && begin.boot == "boot-1")
    );
    let mut bytes = Vec::new();
    let sha256 = "52186c933993da4082b3cdc7c40bb4bf735b391ff54a2ef78c037dda6c38a680";
    let keep = |block: &[u8]| {
        bytes.extend_from_slice(block);
        Ok(())
    };
    rows::read(&RealFs, &dir, job(2), 4, sha256, keep).unwrap();
    assert_eq!(bytes, b"1,2\n");
    let sources = Sources::open(&RealFs, &dir).unwrap();
    assert!(sources.contains(&SourceKey([0xab; 16])).unwrap());
    assert!(!sources.contains(&SourceKey([0xac; 16])).unwrap());
}

/// Goal: keep a journal of the format. Method: run once for each released format, with a new folder
/// name.
#[test]
#[ignore = "writes the journal that format_1_is_read reads"]
fn write_the_fixture() {
    fs::create_dir_all(fixture()).unwrap();
    let dir = RealFs.open_root(&fixture()).unwrap();
    let mut writer = recover(&RealFs, &dir).unwrap();
    let records = fixture_records();
    for record in &records[..3] {
        writer.append(record).unwrap();
    }
    writer.rotate(&records[3..4]).unwrap();
    for record in &records[4..] {
        writer.append(record).unwrap();
    }
    writer.commit().unwrap();
    rows::write(&RealFs, &dir, job(2), b"1,2\n").unwrap();
    let mut keys = [SourceKey([0xab; 16]), SourceKey([1; 16])];
    Sources::open(&RealFs, &dir).unwrap().add_run(&mut keys).unwrap();
    write_the_later_part();
}

/// Goal: keep what came later, in a segment of its own; the older lines stay as they were written. Method:
/// the third segment of a journal beside it.
#[test]
#[ignore = "writes the third segment of the journal that format_1_is_read reads"]
fn write_the_later_part() {
    let (tmp, dir) = root();
    let mut writer = recover(&RealFs, &dir).unwrap();
    writer.rotate(&[]).unwrap();
    writer.rotate(&[]).unwrap();
    for record in &later_records() {
        writer.append(record).unwrap();
    }
    writer.commit().unwrap();
    let name = segment_name(3);
    fs::copy(tmp.path().join(&name), fixture().join(&name)).unwrap();
}
