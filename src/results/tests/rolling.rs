//! What the CSVs look like: columns, rolling, large and odd rows, reading back.

use super::*;

/// Goal: the seed's sample, to the byte. Method: its six rows, with and without trace columns.
#[test]
fn the_sample_has_its_header_and_rows() {
    let counts = [
        ["60", "58", "14"],
        ["21", "1539", "79"],
        ["3939", "58", "14"],
        ["60", "58", "14"],
        ["6456", "3743", "14"],
        ["5666", "15", "15"],
    ];
    let mut spool = Spool::new();
    for [f, v, m] in counts {
        spool.job(&[row(&[("fruits", f), ("vegetables", v), ("meat", m)])]);
    }
    assert_eq!(
        spool.read("count.csv"),
        "fruits,vegetables,meat\n60,58,14\n21,1539,79\n3939,58,14\n60,58,14\n6456,3743,14\n5666,15,15\n"
    );
    assert_eq!(spool.names(), ["count.csv"]);
    let mut traced = Spool::new();
    traced.trace = true;
    traced.job(&[row(&[("fruits", "60")])]);
    let job = JobId::next(JobId::MIN, 1, [0; 10]);
    assert_eq!(traced.read("count.csv"), format!("fruits,_file,_job\n60,in/0.json,{job}\n"));
}

/// Goal: another order shifts nothing, a missing key is empty, a further one begins a segment that
/// has it. Method: the seed's rows.
#[test]
fn other_keys_shift_nothing() {
    let mut spool = Spool::new();
    spool.job(&[row(&[("fruits", "60"), ("vegetables", "58"), ("meat", "14")])]);
    spool.job(&[row(&[("meat", "1"), ("fruits", "2"), ("vegetables", "3")])]);
    spool.job(&[row(&[("vegetables", "3")])]);
    spool.job(&[row(&[("nuts", "9"), ("meat", "1")])]);
    assert_eq!(
        spool.read("count.20261122T140211Z.1.csv"),
        "fruits,vegetables,meat\n60,58,14\n2,3,1\n,3,\n"
    );
    assert_eq!(spool.read("count.csv"), "fruits,vegetables,meat,nuts\n,,1,9\n");
    assert_eq!(spool.rows(false), [",,1,9", ",3,,", "2,3,1,", "60,58,14,"]);
    assert_eq!(spool.rows(true)[0], r#"{"fruits":"","vegetables":"","meat":"1","nuts":"9"}"#);
}

/// Goal: with fixed columns a wrong row is the job's own failure and leaves no trace.
/// Method: a missing and a further key between two right rows.
#[test]
fn fixed_columns_refuse_and_go_on() {
    let mut spool = Spool::new();
    spool.columns = Some(vec!["a".into(), "b".into()]);
    spool.job(&[row(&[("b", "2"), ("a", "1")])]);
    let refused = |rows: &[(&str, &str)], spool: &mut Spool| match spool.record(&[row(rows)]) {
        Err(PlanError::Columns(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&[("a", "1")], &mut spool), "missing column \"b\"");
    let further = refused(&[("a", "1"), ("b", "2"), ("veg", "3")], &mut spool);
    assert_eq!(further, "unexpected column \"veg\"");
    spool.job(&[row(&[("a", "3"), ("b", "4")])]);
    assert_eq!(spool.read("count.csv"), "a,b\n1,2\n3,4\n");
}

/// Goal: a segment is sealed before it would hold too much, and a job is never split.
/// Method: limits of three rows, then of bytes; jobs of one, two and five rows.
#[test]
fn segments_roll_between_jobs() {
    let mut spool = Spool::new();
    spool.segment_rows = 3;
    let two: Vec<Row> = (1..3).flat_map(a).collect();
    let five: Vec<Row> = (1..6).flat_map(a).collect();
    for rows in [&two[..], &a(7), &two, &five, &a(8)] {
        spool.job(rows);
    }
    let sealed = |n: u32| format!("count.20261122T140211Z.{n}.csv");
    assert_eq!(spool.read(&sealed(1)), "a\n1\n2\n7\n");
    assert_eq!(spool.read(&sealed(2)), "a\n1\n2\n");
    assert_eq!(spool.read(&sealed(3)), "a\n1\n2\n3\n4\n5\n");
    assert_eq!(spool.read("count.csv"), "a\n8\n");
    let mut spool = Spool::new();
    spool.segment_bytes = 6;
    for n in [1, 2, 3, 444_444] {
        spool.job(&a(n));
    }
    assert_eq!(spool.read(&sealed(1)), "a\n1\n2\n");
    assert_eq!(spool.read(&sealed(2)), "a\n3\n");
    assert_eq!(spool.read("count.csv"), "a\n444444\n");
}

/// Goal: a job without rows makes no file. Method: only such a job.
#[test]
fn no_rows_no_file() {
    let mut spool = Spool::new();
    spool.job(&[]);
    assert!(spool.names().is_empty());
    assert!(spool.rows(false).is_empty());
}

/// Goal: rows too large for a line go through a file beside the journal, verified when read.
/// Method: a row above the limit; then its file changed, and a start.
#[test]
fn large_rows_go_through_a_file() {
    let mut spool = Spool::new();
    let large = "x".repeat(crate::config::limits::ROWS_IN_LINE + 1);
    spool.job(&[row(&[("a", &large)])]);
    let Some(Record::Outcome(outcome)) = spool.journal.last() else { panic!("no outcome") };
    assert!(matches!(outcome.csv[0].bytes, PieceBytes::File { .. }));
    assert_eq!(spool.read("count.csv"), format!("a\n{large}\n"));
    let rows = spool.dir.path().join("journal").join(segment::rows_name(outcome.job));
    fs::write(&rows, "y".repeat(large.len() + 1)).unwrap();
    assert!(matches!(spool.try_restart(), Err(ResultsError::Damaged { .. })));
}

/// Goal: bytes that are not UTF-8 reach the file and a reader unchanged; JSON says so by U+FFFD.
/// Method: such a cell with a quote and a newline, through a restart.
#[test]
fn odd_bytes_arrive() {
    let mut spool = Spool::new();
    spool.job(&[Row(vec![("a".into(), b"\xff\"\n".to_vec())])]);
    RealFs.remove_file(&spool.results.dir, std::path::Path::new("count.csv")).unwrap();
    spool.restart();
    assert_eq!(fs::read(spool.path("count.csv")).unwrap(), b"a\n\"\xff\"\"\n\"\n");
    assert_eq!(spool.rows(true), ["{\"a\":\"\u{fffd}\\\"\\n\"}"]);
}

/// Goal: sealing leaves no open segment, and the next row begins one, with a new number.
/// Method: seal twice, once with a checkpoint and a restart between.
#[test]
fn sealed_numbers_never_repeat() {
    let mut spool = Spool::new();
    spool.job(&a(1));
    spool.seal();
    spool.seal();
    assert_eq!(spool.names(), ["count.20261122T140211Z.1.csv"]);
    spool.checkpoint();
    spool.restart();
    spool.job(&a(2));
    spool.seal();
    assert_eq!(spool.names(), ["count.20261122T140211Z.1.csv", "count.20261122T140211Z.2.csv"]);
    assert_eq!(spool.rows(false), ["1", "2"]);
}
