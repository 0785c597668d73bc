//! Tests of the results as a whole: plan, journal, apply, flush, recover, read.
//!
//! [`Spool`] is a keeper without the rest: its journal is a list, durable at each push.
//! [`Limited`] is the real filesystem that stops working at a chosen operation.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::core::{JobId, RelPath, Row};
use crate::fs::{Filesystem, RealFs};
use crate::journal::record::{FileMark, Outcome, PieceBytes, Record, Rel};

mod crash;
mod limited;
mod replay;
mod rolling;
mod touched;

use limited::Limited;

const NOW_MS: u64 = 1_795_356_131_000;

struct Spool {
    dir: tempfile::TempDir,
    fs: Limited,
    results: Results<Limited>,
    journal: Vec<Record>,
    jobs: u64,
    trace: bool,
    columns: Option<Vec<String>>,
    segment_rows: u64,
    segment_bytes: u64,
}

impl Spool {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("results")).unwrap();
        fs::create_dir(dir.path().join("journal")).unwrap();
        let fs = Limited::default();
        let open = |name| RealFs.open_root(&dir.path().join(name)).unwrap();
        let results = Results::new(fs.clone(), open("results"), open("journal"));
        let journal = Vec::new();
        let (segment_rows, segment_bytes) = (1000, 1 << 20);
        Self {
            dir,
            fs,
            results,
            journal,
            jobs: 0,
            trace: false,
            columns: None,
            segment_rows,
            segment_bytes,
        }
    }

    /// Plans and journals a job's rows, but applies nothing.
    fn record(&mut self, rows: &[Row]) -> Result<Vec<Record>, PlanError> {
        let job = JobId::next(JobId::MIN, 1 + self.jobs, [0; 10]);
        let rel = RelPath::new(format!("in/{}.json", self.jobs)).unwrap();
        self.jobs += 1;
        let spec = CsvSpec {
            route: "count",
            trace_columns: self.trace,
            columns: self.columns.as_deref(),
            segment_rows: self.segment_rows,
            segment_bytes: self.segment_bytes,
        };
        let planned = self.results.plan(&spec, rows, &rel, job, NOW_MS)?;
        let mut records = planned.before;
        records.push(outcome(job, rel, planned.rows, planned.piece));
        self.journal.extend(records.clone());
        Ok(records)
    }

    fn job(&mut self, rows: &[Row]) {
        let records = self.record(rows).unwrap();
        self.apply(&records);
    }

    /// Applies, flushes, and moves what cannot be written.
    fn apply(&mut self, records: &[Record]) {
        self.try_apply(records).unwrap();
    }

    fn try_apply(&mut self, records: &[Record]) -> Result<(), ResultsError> {
        for record in records {
            self.results.apply(record)?;
        }
        while !self.results.flush()?.is_empty() {
            let moves = self.results.plan_moves(NOW_MS)?;
            assert!(!moves.is_empty(), "touched, and nothing moves");
            self.journal.extend(moves.clone());
            for record in &moves {
                self.results.apply(record)?;
            }
        }
        Ok(())
    }

    fn seal(&mut self) {
        let records = self.results.plan_sealing(NOW_MS);
        self.journal.extend(records.clone());
        self.apply(&records);
    }

    /// What a checkpoint does to the journal, once all is synced.
    fn checkpoint(&mut self) {
        assert!(!self.results.has_pending());
        self.journal = self.results.snapshot();
    }

    /// The process ends and another one starts.
    fn restart(&mut self) -> Vec<Touched> {
        self.fs.heal();
        self.try_restart().unwrap()
    }

    fn try_restart(&mut self) -> Result<Vec<Touched>, ResultsError> {
        let open = |name| RealFs.open_root(&self.dir.path().join(name)).unwrap();
        let mut recovery = Recovery::new(self.fs.clone(), open("results"), open("journal"));
        for record in &self.journal {
            recovery.feed(record)?;
        }
        let touched = recovery.verify(false)?;
        // The whole new journal segment gets its name at once, so a crash sees one or the other.
        self.journal = self.journal.drain(..).flat_map(|record| recovery.rewrite(record)).collect();
        self.results = recovery.into_results();
        let records = self.journal.clone();
        for record in &records {
            // A full buffer may cause a flush after any record.
            self.results.apply(record)?;
            self.results.flush()?;
        }
        self.try_apply(&[])?;
        Ok(touched)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("results").join(name)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// All files of `results/` and their bytes.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let list = fs::read_dir(self.dir.path().join("results")).unwrap();
        list.map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
    }

    fn names(&self) -> Vec<String> {
        self.files().into_keys().collect()
    }

    /// The rows where only one column is filled, whatever columns a touched file brought.
    fn cells(&self) -> Vec<String> {
        let trimmed = self.rows(false).into_iter().map(|line| line.trim_matches(',').to_owned());
        let mut cells: Vec<String> = trimmed.collect();
        cells.sort();
        cells
    }

    /// All rows as a reader sees them, sorted.
    fn rows(&self, as_json: bool) -> Vec<String> {
        let mut out = Vec::new();
        read::read_all(&self.dir.path().join("results"), "count", &mut out, as_json).unwrap();
        let text = String::from_utf8_lossy(&out).into_owned();
        let skip = usize::from(!as_json);
        let mut rows: Vec<String> = text.lines().skip(skip).map(str::to_owned).collect();
        rows.sort();
        rows
    }
}

fn outcome(
    job: JobId,
    rel: RelPath,
    rows: u64,
    piece: Option<crate::journal::record::Piece>,
) -> Record {
    Record::Outcome(Outcome {
        records: None,
        folder: false,
        job,
        rel: Rel(rel),
        route: "count".into(),
        attempts: 1,
        spent: crate::core::Spent::default(),
        failure: None,
        stderr: String::new(),
        at_ms: 0,
        took_ms: 0,
        file: FileMark::default(),
        rows,
        csv: piece.into_iter().collect(),
        output: false,
        next: None,
        source: None,
    })
}

fn row(pairs: &[(&str, &str)]) -> Row {
    Row::from_pairs(pairs.iter().copied())
}

/// One row `a=N`.
fn a(n: u32) -> [Row; 1] {
    [row(&[("a", &n.to_string())])]
}

/// Goal: what can be waited for is told from what can not: a sync that failed is never tried again, nor is a
/// record passed over whose file of rows cannot be opened. Method: each operation with a full disk, too few
/// descriptors, and a disk that fails.
#[test]
fn shortages_are_told_from_failures() {
    use rustix::io::Errno;
    let is_full = |operation, folder, errno: Errno| {
        let error = failed(operation, folder, "x")(errno.into());
        matches!(error, ResultsError::Full { .. })
    };
    for (operation, folder, disk, descriptors) in [
        ("write", "results", true, false),
        ("sync", "results", false, false),
        ("create", "results", true, true),
        ("create", "journal", true, true),
        ("open", "results", true, true),
        ("open", "journal", true, false),
        ("read", "results", true, false),
    ] {
        for (errno, expected) in [
            (Errno::NOSPC, disk),
            (Errno::DQUOT, disk),
            (Errno::MFILE, descriptors),
            (Errno::NFILE, descriptors),
            (Errno::IO, false),
        ] {
            assert_eq!(is_full(operation, folder, errno), expected, "{operation} {folder} {errno}");
        }
    }
}
