//! The job log: what recent jobs printed and how they ended, for `jobs`, `log` and `explain`.
//!
//! Must not know: the journal. Nothing rests on this: it is not synced, old files are dropped, and a
//! power cut may cost its last lines. The truth is the journal, the CSVs and `error/.why/`.
//!
//! Files: `log/jobs.<n>.ndjson`, one JSON line a job, [`limits::JOB_LOG_FILES`] of
//! [`limits::JOB_LOG_FILE`] bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::limits;
use crate::core::{JobId, RelPath};
use crate::journal::record::Rel;

use super::notice::{FailedRecord, Finished, place};

/// One finished job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLine {
    /// The job.
    pub job: JobId,
    /// Path below `incoming/`.
    pub rel: Rel,
    /// It is about one record of the job's input, which failed; absent for the end of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<u64>,
    /// Its route.
    pub route: String,
    /// Why it failed; absent when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Attempts begun.
    pub attempts: u32,
    /// Unix milliseconds of its end.
    pub at_ms: u64,
    /// How long the last attempt ran, in milliseconds.
    pub took_ms: u64,
    /// Rows it gave.
    pub rows: u64,
    /// How its records ended, of a job whose records are tasks of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<RecordsEnded>,
    /// Where its file went, below the spool: `done/sub/x.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Rel>,
    /// What it printed on stdout that is log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// The end of what it printed on stderr.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
}

/// How many records of an input ended how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsEnded {
    /// Well.
    pub done: u64,
    /// Finally not.
    pub failed: u64,
}

impl JobLine {
    /// The job failed, or some of its records did.
    pub fn has_failures(&self) -> bool {
        self.reason.is_some() || self.records.is_some_and(|records| records.failed > 0)
    }

    /// The line of a finished job.
    pub fn of(finished: &Finished) -> Self {
        let outcome = &finished.outcome;
        Self {
            job: outcome.job,
            rel: outcome.rel.clone(),
            record: None,
            route: outcome.route.clone(),
            reason: outcome.failure.as_ref().map(|failure| failure.reason.clone()),
            attempts: outcome.attempts,
            at_ms: outcome.at_ms,
            took_ms: outcome.took_ms,
            rows: outcome.rows,
            records: outcome
                .records
                .as_ref()
                .map(|tally| RecordsEnded { done: tally.done, failed: tally.failed }),
            place: place(outcome, &finished.settled)
                .and_then(|path| RelPath::new(path.into_os_string().into_vec()))
                .map(Rel),
            stdout: String::from_utf8_lossy(&finished.log).into_owned(),
            stderr: String::from_utf8_lossy(&finished.stderr).into_owned(),
        }
    }
}

impl JobLine {
    /// The line of a record that failed.
    pub fn of_record(it: &FailedRecord) -> Self {
        Self {
            job: it.job,
            rel: Rel(it.rel.clone()),
            record: Some(it.no),
            route: it.route.clone(),
            reason: Some(it.reason.clone()),
            attempts: it.attempts,
            at_ms: it.at_ms,
            took_ms: u64::try_from(it.took.as_millis()).unwrap_or(u64::MAX),
            rows: 0,
            records: None,
            place: None,
            stdout: String::from_utf8_lossy(&it.log).into_owned(),
            stderr: String::from_utf8_lossy(&it.stderr).into_owned(),
        }
    }
}

/// The writing end; the keeper's thread has it.
pub struct History {
    folder: PathBuf,
    /// `None`: it could not be opened; the next flush tries again.
    newest: Option<Newest>,
    buffer: Vec<u8>,
}

/// The file that is written.
struct Newest {
    file: File,
    number: u64,
    len: u64,
}

impl History {
    /// The job log in `SPOOL/log`, which is made where it is missing.
    pub fn open(spool: &Path) -> Self {
        let folder = spool.join("log");
        // What stands in the way is said when there is something to write.
        let newest = Newest::open(&folder).ok();
        Self { folder, newest, buffer: Vec::new() }
    }

    /// Adds a job; written by [`History::flush`].
    pub fn add(&mut self, line: &JobLine) {
        if serde_json::to_writer(&mut self.buffer, line).is_ok() {
            self.buffer.push(b'\n');
        }
    }

    /// Nothing waits to be written.
    pub fn is_written(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Writes what was added, and goes on to the next file where this one is full.
    pub fn flush(&mut self) -> io::Result<()> {
        // Whatever becomes of it, it is not kept: a full disk must not fill the memory too.
        let buffer = std::mem::take(&mut self.buffer);
        // Who cleans up removes logs, too, and what is written to a removed file is read by nobody.
        let mut open = match self.newest.take().filter(|newest| newest.is_there(&self.folder)) {
            Some(newest) => newest,
            None => Newest::open(&self.folder)?,
        };
        // Half a line may stand there then: the next flush opens it anew, which ends it.
        open.file.write_all(&buffer)?;
        let newest = self.newest.insert(open);
        newest.len += buffer.len() as u64;
        if newest.len >= limits::JOB_LOG_FILE {
            let number = newest.number + 1;
            *newest = Newest { file: open_file(&self.folder, number)?, number, len: 0 };
            let numbers = numbers(&self.folder)?;
            let old = numbers.len().saturating_sub(limits::JOB_LOG_FILES);
            for number in numbers.into_iter().take(old) {
                crate::fs::remove_log(&path_of(&self.folder, number))?;
            }
        }
        Ok(())
    }
}

impl Newest {
    fn open(folder: &Path) -> io::Result<Self> {
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let number = numbers(folder)?.last().copied().unwrap_or(1);
        let mut file = open_file(folder, number)?;
        let mut len = file.metadata()?.len();
        let mut last = [b'\n'];
        if len > 0 && file.read_at(&mut last, len - 1)? == 1 && last != [b'\n'] {
            // A line that was cut by a crash or a full disk would take the next one with it.
            file.write_all(b"\n")?;
            len += 1;
        }
        Ok(Self { file, number, len })
    }

    /// Its name still leads to it.
    fn is_there(&self, folder: &Path) -> bool {
        let named = std::fs::metadata(path_of(folder, self.number));
        let pair = named.and_then(|named| Ok((named, self.file.metadata()?)));
        pair.is_ok_and(|(named, ours)| (named.dev(), named.ino()) == (ours.dev(), ours.ino()))
    }
}

/// Calls `visit` with each job of the log, the newest first, until it answers `false`.
pub fn read(spool: &Path, visit: &mut dyn FnMut(JobLine) -> bool) -> io::Result<()> {
    read_all(spool, &mut |line| line.record.is_some() || visit(line))
}

/// The failed records of a job that the log has, the oldest first.
pub fn records_of(spool: &Path, job: JobId) -> io::Result<Vec<JobLine>> {
    let mut found = Vec::new();
    read_all(spool, &mut |line| {
        if line.job == job && line.record.is_some() {
            found.push(line);
        }
        true
    })?;
    found.reverse();
    Ok(found)
}

fn read_all(spool: &Path, visit: &mut dyn FnMut(JobLine) -> bool) -> io::Result<()> {
    let folder = spool.join("log");
    let numbers = match numbers(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for number in numbers.into_iter().rev() {
        let file = match File::open(path_of(&folder, number)) {
            // The oldest went since they were listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let reader = BufReader::new(file);
        // A torn last line, or one of a later version, is not for us.
        let mut lines: Vec<JobLine> = Vec::new();
        for line in reader.split(b'\n') {
            lines.extend(serde_json::from_slice(&line?).ok());
        }
        while let Some(line) = lines.pop() {
            if !visit(line) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn open_file(folder: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path_of(folder, number))
}

fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("jobs.{number}.ndjson"))
}

fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("jobs.")?.strip_suffix(".ndjson")?.parse().ok());
        numbers.extend::<Option<u64>>(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a line that was cut, by a crash or a full disk, takes no other one with it. Method: half a line
    /// between two jobs, and a log begun by it.
    #[test]
    fn a_cut_line_costs_no_other() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log/jobs.1.ndjson");
        let line = |n: u64| JobLine {
            job: JobId::next(JobId::MIN, n, [0; 10]),
            rel: Rel(RelPath::new("x").unwrap()),
            record: None,
            route: "main".to_owned(),
            reason: None,
            attempts: 1,
            at_ms: n,
            took_ms: 0,
            rows: 0,
            records: None,
            place: None,
            stdout: String::new(),
            stderr: String::new(),
        };
        std::fs::create_dir(home.path().join("log")).unwrap();
        std::fs::write(&path, "{\"job\":").unwrap();
        for n in 1..=2 {
            let mut log = History::open(home.path());
            log.add(&line(n));
            log.flush().unwrap();
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b"{\"job\":").unwrap();
        }
        let mut found = Vec::new();
        let keep = &mut |line: JobLine| {
            found.push(line.at_ms);
            true
        };
        read(home.path(), keep).unwrap();
        assert_eq!(found, [2, 1]);
    }
}
