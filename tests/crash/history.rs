//! One history: files dropped, daemons killed, and what must be true when all is over.
//!
//! Must not know: how the daemons were killed, the library.
//!
//! Invariants that [`History::verdict`] asks for
//! - Every dropped file stands once in `done/` or `error/`, unchanged, and nowhere else.
//! - Every job that is done has each of its rows once, and all of them from one job id.
//! - Every job that failed has one row in `errors.csv`.
//! - A final record, once seen in any journal, is the only one of its file ever, and the one that the
//!   rows come from.
//! - Every file was run at least once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::checks::{each_once, placed_once};
use crate::harness::Spool;

type Bytes = Vec<u8>;
/// Relative paths and contents.
type Files = BTreeMap<Bytes, Bytes>;

/// Prints [`ROWS`] rows for its file, and says in `runs.txt` that it ran.
pub(crate) const WORK_SH: &str = r#"
echo "$INBOXD_REL $INBOXD_ATTEMPT" >> runs.txt
echo '{"n":"0"}'
echo '{"n":"1"}'
"#;

/// Rows that [`WORK_SH`] prints for each file.
pub(crate) const ROWS: usize = 2;

/// What was dropped, and which final records were seen.
#[derive(Default)]
pub(crate) struct History {
    dropped: Files,
    /// Files whose worker fails them.
    failing: BTreeSet<Bytes>,
    /// For each path, the job ids that had a final record in a journal at any time.
    finals: BTreeMap<Bytes, BTreeSet<String>>,
}

/// What stands in a spool when all is over.
#[derive(Clone, Default)]
pub(crate) struct End {
    /// In `incoming/` or `processing/`: must be empty.
    left: Files,
    done: Files,
    error: Files,
    /// `_file`, `n`, `_job` of each row.
    rows: Vec<(Bytes, Bytes, String)>,
    /// `file` of each row of `errors.csv`.
    failures: Vec<Bytes>,
    /// Paths that a worker said it ran.
    runs: BTreeSet<Bytes>,
}

fn content_of(name: &str) -> String {
    format!("content of {name}\n")
}

/// Drops a file as a producer does that no history watches.
pub(crate) fn drop_named(spool: &Spool, name: &str) {
    spool.drop_file(name, content_of(name));
}

impl History {
    /// Drops `count` small files into `incoming/`, some of them in folders.
    pub(crate) fn drop_files(&mut self, spool: &Spool, count: usize) {
        for i in 0..count {
            let name = if i % 5 == 4 { format!("sub/{i:04}") } else { format!("{i:04}") };
            self.drop_file(spool, &name);
        }
    }

    /// Drops one file.
    pub(crate) fn drop_file(&mut self, spool: &Spool, name: &str) {
        drop_named(spool, name);
        self.was_dropped(name);
    }

    /// Somebody else dropped it, by [`drop_named`].
    pub(crate) fn was_dropped(&mut self, name: &str) {
        self.dropped.insert(name.into(), content_of(name).into());
    }

    /// The dropped files.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.dropped.keys().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// A dropped file must end in `error/`.
    pub(crate) fn must_fail(&mut self, name: &str) {
        self.failing.insert(name.into());
    }

    /// Remembers the final records that a killed daemon left in the journal.
    pub(crate) fn observe(&mut self, spool: &Spool) {
        for content in spool.files("journal").values() {
            self.observe_journal(content);
        }
    }

    fn observe_journal(&mut self, content: &[u8]) {
        // The last part has no LF: a torn line is no record.
        let Some(end) = content.iter().rposition(|b| *b == b'\n') else { return };
        for line in content[..end].split(|b| *b == b'\n') {
            let Some(json) = line.splitn(3, |b| *b == b' ').nth(2) else { continue };
            let Ok(record) = serde_json::from_slice::<serde_json::Value>(json) else { continue };
            if let ("outcome", Some(rel), Some(job)) = (
                record["t"].as_str().unwrap_or_default(),
                record["rel"].as_str(),
                record["job"].as_str(),
            ) {
                self.finals.entry(rel.into()).or_default().insert(job.to_owned());
            }
        }
    }

    /// How many final records were seen.
    pub(crate) fn finals(&self) -> usize {
        self.finals.len()
    }

    /// Panics with the whole spool unless all that must be true is.
    #[track_caller]
    pub(crate) fn check(&self, spool: &Spool, what: &str) {
        if let Err(wrong) = self.judge(spool) {
            panic!("{what}: {wrong}\n{}", spool.report());
        }
    }

    /// What is wrong with how a spool stands now that all is over, if anything is.
    pub(crate) fn judge(&self, spool: &Spool) -> Result<(), String> {
        self.verdict(&End::of(spool))
    }

    fn verdict(&self, end: &End) -> Result<(), String> {
        if let Some(rel) = end.left.keys().next() {
            return Err(format!("left over: {}", rel.escape_ascii()));
        }
        placed_once(&self.dropped, &[end.done.clone(), end.error.clone()])?;
        let failed: BTreeSet<Bytes> = end.error.keys().cloned().collect();
        each_once(&end.failures, &failed).map_err(|e| format!("errors.csv: {e}"))?;
        if failed != self.failing {
            let differ = failed.symmetric_difference(&self.failing).next();
            return Err(format!("wrongly done or failed: {differ:?}"));
        }
        let cell = |file: &[u8], n: &[u8]| [file, b"#", n].concat();
        let expected = end
            .done
            .keys()
            .flat_map(|file| (0..ROWS).map(move |n| cell(file, n.to_string().as_bytes())));
        let found: Vec<Bytes> = end.rows.iter().map(|(file, n, _)| cell(file, n)).collect();
        each_once(&found, &expected.collect()).map_err(|e| format!("row {e}"))?;

        let mut finals = self.finals.clone();
        for (file, _, job) in &end.rows {
            finals.entry(file.clone()).or_default().insert(job.clone());
        }
        if let Some((rel, jobs)) = finals.iter().find(|(_, jobs)| jobs.len() > 1) {
            return Err(format!("recorded twice: {} as {jobs:?}", rel.escape_ascii()));
        }
        match self.dropped.keys().find(|rel| !end.runs.contains(*rel)) {
            Some(rel) => Err(format!("never run: {}", rel.escape_ascii())),
            None => Ok(()),
        }
    }
}

impl End {
    fn of(spool: &Spool) -> Self {
        let mut left = spool.files("processing");
        left.extend(spool.files("incoming"));
        let mut error = spool.files("error");
        error.retain(|rel, _| !rel.starts_with(b".why/"));
        let csv = spool.csv("work");
        let rows = csv.cells("_file").into_iter().zip(csv.cells("n")).zip(csv.column("_job"));
        let runs = fs::read(spool.path("runs.txt")).unwrap_or_default();
        let runs = runs.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').next());
        Self {
            left,
            done: spool.files("done"),
            error,
            rows: rows.map(|((file, n), job)| (file, n, job)).collect(),
            failures: spool.csv("errors").cells("file"),
            runs: runs.map(<[u8]>::to_vec).collect(),
        }
    }
}

/// Breaks an end in one way.
type Spoil = fn(&mut End);

/// A history of two files, one done and one failed, and its good end.
fn good() -> (History, End) {
    let files = |name: &str| Files::from([(name.into(), "x".into())]);
    let mut history = History { dropped: files("a"), ..History::default() };
    history.dropped.extend(files("b"));
    history.must_fail("b");
    history.observe_journal(b"00000000 0 {\"t\":\"outcome\",\"rel\":\"a\",\"job\":\"1\"}\n");
    let row = |n: &str| ("a".into(), n.into(), "1".to_owned());
    let end = End {
        left: Files::new(),
        done: files("a"),
        error: files("b"),
        rows: vec![row("0"), row("1")],
        failures: vec!["b".into()],
        runs: ["a".into(), "b".into()].into(),
    };
    (history, end)
}

/// Goal: each broken history is refused, for the right reason; the good one is not.
/// Method: the good end, broken in one way at a time.
#[test]
fn broken_histories_are_refused() {
    let (history, end) = good();
    assert_eq!(history.verdict(&end), Ok(()));
    let broken: [(&str, Spoil); 10] = [
        ("left over: a", |end| drop(end.left.insert("a".into(), "x".into()))),
        ("lost: a", |end| end.done.clear()),
        ("twice: a", |end| drop(end.error.insert("a".into(), "x".into()))),
        ("changed: a", |end| drop(end.done.insert("a".into(), "y".into()))),
        ("errors.csv: lost: b", |end| end.failures.clear()),
        ("errors.csv: twice: b", |end| end.failures.push("b".into())),
        ("row lost: a#1", |end| drop(end.rows.pop())),
        ("row twice: a#0", |end| end.rows.push(end.rows[0].clone())),
        ("recorded twice: a", |end| end.rows[1].2 = "2".to_owned()),
        ("never run: b", |end| drop(end.runs.pop_last())),
    ];
    for (expected, spoil) in broken {
        let mut spoilt = end.clone();
        spoil(&mut spoilt);
        let wrong = history.verdict(&spoilt).expect_err(expected);
        assert!(wrong.contains(expected), "{wrong} instead of {expected}");
    }
}

/// Goal: a second final record is seen even if its rows never reached a CSV; a torn line is none.
/// Method: journals with one record more, whole and torn.
#[test]
fn a_second_final_record_is_refused() {
    let line = b"00000000 0 {\"t\":\"outcome\",\"rel\":\"a\",\"job\":\"2\"}\n";
    let (mut history, end) = good();
    history.observe_journal(&line[..line.len() - 1]);
    assert_eq!((history.verdict(&end), history.finals()), (Ok(()), 1));
    history.observe_journal(line);
    assert!(history.verdict(&end).unwrap_err().contains("recorded twice: a"));
}

/// Goal: a job that should have failed, or should not have, is seen. Method: the good end, other wishes.
#[test]
fn a_wrong_outcome_is_refused() {
    let (mut history, end) = good();
    history.failing.clear();
    assert!(history.verdict(&end).unwrap_err().contains("wrongly done or failed"));
}
