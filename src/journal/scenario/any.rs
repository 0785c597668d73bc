//! Any record that there can be.
//!
//! Must not know: which of them belong together.

use proptest::prelude::*;

use super::super::record::{
    Attempt, CsvOpen, CsvSeal, FileMark, Handed, Next, Outcome, Piece, PieceBytes, Rel, SourceKey,
    Take,
};
use super::super::*;
use crate::core::{FailClass, Failure, JobId, RelPath, Spent};

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
pub(in crate::journal) fn any_record() -> impl Strategy<Value = Record> {
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
