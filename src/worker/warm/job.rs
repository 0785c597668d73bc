//! One job in the hands of a warm worker: its rows are staged, its result decides.
//!
//! Must not know: processes, deadlines, other jobs. The only disk it sees is a file of rows that the
//! worker names in its scratch folder.
//!
//! Invariants
//! - Rows count only with a result `ok`, `seq` unbroken and both counts equal; any other end drops them.
//! - What is staged is bounded. What is wrong with rows fails the job and keeps the worker.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::message::{Class, Level, Log, Message, Ready, Reply, Rows, Status};
use crate::config::limits;
use crate::core::{FailClass, Failure, Row, Verdict};
use crate::worker::exit::one_line;
use crate::worker::stdout::json;

/// What a message means for the job.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing for the shell to do.
    Go,
    /// The deadline of progress begins anew.
    Progress,
    /// The worker wants to be, or must be, replaced after this job.
    Leave(String),
    /// The job is over.
    Over(Box<Over>),
    /// It is of no job that the worker holds, or of a later version: ignored, counted.
    Ignored,
}

/// The end of a job by its result.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) verdict: Verdict,
    pub(super) rows: Vec<Row>,
    /// For its log: a traceback, an error code.
    pub(super) detail: String,
}

/// A job in flight.
#[derive(Debug)]
pub(super) struct Job {
    id: String,
    columns: Option<Vec<String>>,
    scratch: PathBuf,
    max_staged: u64,
    require_output: bool,
    rows: Vec<Row>,
    staged_bytes: u64,
    /// Bytes of all files of rows.
    file_bytes: u64,
    /// Bytes of the rows, each with the names of its columns.
    held_bytes: u64,
    chunks: u64,
    /// What is wrong with its rows, the first of it.
    wrong: Option<String>,
}

impl Job {
    pub(super) fn new(
        id: String,
        ready: &Ready,
        scratch: &Path,
        max_staged: u64,
        require_output: bool,
    ) -> Self {
        Self {
            id,
            columns: ready.columns.clone(),
            scratch: scratch.to_owned(),
            max_staged,
            require_output,
            rows: Vec::new(),
            staged_bytes: 0,
            file_bytes: 0,
            held_bytes: 0,
            chunks: 0,
            wrong: None,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Takes one message; log lines go to `log`.
    pub(super) fn hear(&mut self, message: Message<'_>, log: &mut dyn FnMut(&[u8])) -> Step {
        match message {
            Message::Log(line) if line.id.as_ref().is_none_or(|id| *id == *self.id) => {
                log(&log_line(&line));
                Step::Go
            }
            Message::Progress { id } if *id == *self.id => Step::Progress,
            Message::Started { id } if *id == *self.id => Step::Go,
            Message::Rows(rows) if *rows.id == *self.id => {
                if self.wrong.is_none()
                    && let Err(wrong) = self.stage(&rows)
                {
                    self.wrong = Some(wrong);
                    self.rows = Vec::new();
                }
                Step::Go
            }
            Message::Result(reply) if *reply.id == *self.id => {
                Step::Over(Box::new(self.end(reply)))
            }
            Message::Recycle { reason } => Step::Leave(reason),
            Message::Ready(_) => Step::Leave("it said ready twice".to_owned()),
            Message::InitError(_) => Step::Leave("it said init_error after ready".to_owned()),
            // An answer to a ping that crossed the job on its way.
            Message::Pong { .. } | Message::Bye => Step::Go,
            Message::Rows(_)
            | Message::Result(_)
            | Message::Progress { .. }
            | Message::Started { .. }
            | Message::Log(_)
            | Message::Unknown => Step::Ignored,
        }
    }

    fn stage(&mut self, message: &Rows<'_>) -> Result<(), String> {
        if message.seq != self.chunks {
            return Err(format!("rows: seq {} came where {} is due", message.seq, self.chunks));
        }
        self.chunks = self.chunks.saturating_add(1);
        if let Some(rows) = &message.inline {
            for raw in rows {
                let size = u64::try_from(raw.get().len()).unwrap_or(u64::MAX);
                self.staged_bytes = self.staged_bytes.saturating_add(size);
                if self.staged_bytes > self.max_staged {
                    let most = bytesize::ByteSize::b(self.max_staged);
                    return Err(format!(
                        "rows: more than max_staged ({most}): raise it (a worker that speaks the \
                         protocol itself may name a `file` instead)"
                    ));
                }
                let row = self.row(raw.get())?;
                self.hold(row)?;
            }
            return Ok(());
        }
        self.stage_file(message)
    }

    fn row(&self, raw: &str) -> Result<Row, String> {
        if !raw.starts_with('[') {
            return json::row(raw).map_err(|error| format!("rows: {error}"));
        }
        let Some(columns) = &self.columns else {
            return Err("rows: a list as a row needs `columns` in ready".to_owned());
        };
        let cells: Vec<&RawValue> =
            serde_json::from_str(raw).map_err(|error| format!("rows: {error}"))?;
        if cells.len() != columns.len() {
            return Err(format!(
                "rows: a row has {} cells for {} columns",
                cells.len(),
                columns.len()
            ));
        }
        let pairs = columns.iter().zip(cells);
        Ok(Row(pairs.map(|(name, cell)| (name.clone(), json::cell(cell.get()))).collect()))
    }

    /// A list as a row repeats the names of all columns, and may be far shorter than they are.
    fn hold(&mut self, row: Row) -> Result<(), String> {
        let len: usize = row.0.iter().map(|(name, cell)| name.len() + cell.len()).sum();
        self.held_bytes = self.held_bytes.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let in_files = if self.file_bytes > 0 { limits::ROWS_FILE } else { 0 };
        if self.held_bytes > self.max_staged.max(in_files).saturating_mul(limits::ROWS_GROWTH) {
            return Err("rows: each with its column names, they are too much for max_staged".into());
        }
        self.rows.push(row);
        Ok(())
    }

    /// Rows in a file: length, checksum and count are compared before any of them counts.
    fn stage_file(&mut self, message: &Rows<'_>) -> Result<(), String> {
        let (Some(name), Some(bytes), Some(count), Some(sum)) =
            (&message.file, message.bytes, message.count, &message.sha256)
        else {
            return Err("rows: neither rows nor a file".to_owned());
        };
        let shown = one_line(name.as_bytes());
        if bytes > limits::ROWS_FILE {
            let most = bytesize::ByteSize::b(limits::ROWS_FILE);
            return Err(format!("rows: file {shown} has more than {most}"));
        }
        self.file_bytes = self.file_bytes.saturating_add(bytes);
        if self.file_bytes > limits::ROWS_FILE {
            let most = bytesize::ByteSize::b(limits::ROWS_FILE);
            return Err(format!("rows: with file {shown} its files have more than {most}"));
        }
        let failed = |error: std::io::Error| match Errno::from_io_error(&error) {
            Some(Errno::XDEV | Errno::LOOP) => format!(
                "rows: file {shown} is not beneath the scratch folder; its path is relative to that, without links"
            ),
            _ => format!("rows: file {shown}: {error}"),
        };
        let folder = open(&self.scratch, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = File::from(
            openat2(&folder, Path::new(name), flags, Mode::empty(), resolve)
                .map_err(|errno| failed(errno.into()))?,
        );
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() || meta.len() != bytes {
            return Err(format!("rows: file {shown} has {} bytes, not {bytes}", meta.len()));
        }
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text).map_err(failed)?;
        let found = hex(&text);
        if !found.eq_ignore_ascii_case(sum) {
            return Err(format!(
                "rows: file {shown} has checksum {found}, not {}",
                one_line(sum.as_bytes())
            ));
        }
        let mut rows: u64 = 0;
        for line in BufReader::new(text.as_slice()).lines() {
            let line = line.map_err(failed)?;
            let line = line.trim();
            if !line.is_empty() {
                let row = self.row(line)?;
                self.hold(row)?;
                rows = rows.saturating_add(1);
            }
        }
        if rows != count {
            return Err(format!("rows: file {shown} has {rows} rows, not {count}"));
        }
        Ok(())
    }

    fn end(&mut self, reply: Reply<'_>) -> Over {
        let said = reply.msg.as_deref().map(|msg| one_line(msg.as_bytes()));
        let mut detail = reply.detail.unwrap_or_default();
        if let Some(code) = reply.code {
            let code: String = code.chars().take(limits::WORKER_CODE).collect();
            detail = format!("code {code}\n{detail}");
        }
        let retry_after_ms = reply.retry_after_ms;
        let verdict = match reply.status {
            Status::Ok => return self.succeed(reply.rows, reply.chunks, detail),
            Status::Incomplete => Verdict::Incomplete {
                reason: said.unwrap_or_else(|| "incomplete".to_owned()),
                retry_after_ms,
            },
            Status::Fail => {
                let reason = said.unwrap_or_default();
                let class = match reply.class.unwrap_or(Class::Transient) {
                    Class::Transient => Some(FailClass::Fail),
                    Class::TryAgain => Some(FailClass::TryAgain),
                    Class::Permanent => Some(FailClass::Permanent),
                    Class::Resource => Some(FailClass::Oom),
                    Class::Misconfigured => None,
                };
                match class {
                    Some(class) => {
                        Verdict::Failed(Failure { retry_after_ms, ..Failure::new(class, reason) })
                    }
                    None => Verdict::Misconfigured { reason },
                }
            }
        };
        Over { verdict, rows: Vec::new(), detail }
    }

    fn succeed(&mut self, said_rows: u64, said_chunks: u64, detail: String) -> Over {
        let rows = std::mem::take(&mut self.rows);
        let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        let wrong = self.wrong.take().or_else(|| {
            let same = said_rows == count && said_chunks == self.chunks;
            (!same).then(|| {
                format!(
                    "rows: the result says {said_rows} rows in {said_chunks} chunks, {count} in {} came",
                    self.chunks
                )
            })
        });
        let failure = match wrong {
            Some(wrong) => Failure::new(FailClass::Permanent, wrong),
            None if rows.is_empty() && self.require_output => {
                Failure::new(FailClass::Fail, "no output")
            }
            None => return Over { verdict: Verdict::Done, rows, detail },
        };
        Over { verdict: Verdict::Failed(failure), rows: Vec::new(), detail }
    }
}

fn hex(text: &[u8]) -> String {
    Sha256::digest(text).iter().fold(String::new(), |hex, b| format!("{hex}{b:02x}"))
}

/// A log message as a line.
pub(super) fn log_line(log: &Log<'_>) -> Vec<u8> {
    let level = match log.level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let mut line = format!("{level}: {}", log.msg);
    for (key, value) in &log.kv {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        line.push_str(&value.to_string());
    }
    if line.len() > limits::LOG_LINE {
        let mut at = limits::LOG_LINE;
        while !line.is_char_boundary(at) {
            at -= 1;
        }
        line.truncate(at);
        line.push_str(" [cut]");
    }
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::message::read;
    use super::*;

    /// The steps of a job `j` after these lines.
    fn steps(ready: &str, scratch: &Path, max_staged: u64, lines: &[&str]) -> Vec<Step> {
        let ready = format!(r#"{{"t":"ready","v":1{ready}}}"#);
        let Ok(Message::Ready(ready)) = read(ready.as_bytes()) else { panic!("{ready}") };
        let mut job = Job::new("j".to_owned(), &ready, scratch, max_staged, false);
        lines.iter().map(|line| job.hear(read(line.as_bytes()).unwrap(), &mut |_| ())).collect()
    }

    fn over(ready: &str, lines: &[&str]) -> Over {
        match steps(ready, Path::new("/nonexistent"), 200, lines).pop() {
            Some(Step::Over(over)) => *over,
            other => panic!("{other:?}"),
        }
    }

    fn failure(over: &Over) -> (FailClass, &str) {
        match &over.verdict {
            Verdict::Failed(failure) => (failure.class, &failure.reason),
            other => panic!("{other:?}"),
        }
    }

    const OK: &str = r#"{"t":"result","id":"j","status":"ok","rows":2,"chunks":1}"#;

    /// Goal: rows become cells as the page says. Method: an object and a list with every kind of value.
    #[test]
    fn rows_become_cells() {
        let rows =
            r#"{"t":"rows","id":"j","seq":0,"rows":[["x",1.50,null],{"b":[1, 2],"a":true}]}"#;
        let over = over(r#","columns":["a","b","c"]"#, &[rows, OK]);
        assert_eq!(over.verdict, Verdict::Done);
        let want = [
            Row::from_pairs([("a", "x"), ("b", "1.50"), ("c", "")]),
            Row::from_pairs([("b", "[1,2]"), ("a", "true")]),
        ];
        assert_eq!(over.rows, want);
    }

    /// Goal: rows that are not whole never count, and the job fails for good. Method: each mistake of
    /// the page's table.
    #[test]
    fn rows_that_are_not_whole_never_count() {
        let one = r#"{"t":"rows","id":"j","seq":0,"rows":[{"a":1}]}"#;
        let late = r#"{"t":"rows","id":"j","seq":1,"rows":[{"a":1},{"a":2}]}"#;
        let short = r#"{"t":"rows","id":"j","seq":0,"rows":[[1]]}"#;
        let long =
            format!(r#"{{"t":"rows","id":"j","seq":0,"rows":[{{"a":"{}"}}]}}"#, "x".repeat(300));
        for (lines, why) in [
            (vec![OK], "2 rows in 1 chunks, 0 in 0 came"),
            (vec![one, OK], "2 rows in 1 chunks, 1 in 1 came"),
            (vec![late, OK], "seq 1 came where 0 is due"),
            (vec![one, one, OK], "seq 0 came where 1 is due"),
            (vec![short, OK], "1 cells for 2 columns"),
            (vec![&long, OK], "rows: more than max_staged (200 B)"),
        ] {
            let over = over(r#","columns":["a","b"]"#, &lines);
            let (class, reason) = failure(&over);
            assert!(class == FailClass::Permanent && reason.contains(why), "{reason}");
            assert!(over.rows.is_empty());
        }
    }

    /// Goal: what is for another job is ignored. Method: a result, rows and progress of job `k`.
    #[test]
    fn other_ids_are_ignored() {
        for line in [
            r#"{"t":"result","id":"k","status":"ok"}"#,
            r#"{"t":"rows","id":"k","seq":0,"rows":[]}"#,
            r#"{"t":"progress","id":"k","done":1}"#,
            r#"{"t":"log","id":"k","level":"info","msg":"x"}"#,
        ] {
            let steps = steps("", Path::new("/"), 1, &[line]);
            assert!(matches!(steps.as_slice(), [Step::Ignored]), "{line}: {steps:?}");
        }
    }

    /// Goal: each class has its budget. Method: one result each.
    #[test]
    fn classes_have_budgets() {
        for (class, want) in [
            ("transient", FailClass::Fail),
            ("try_again", FailClass::TryAgain),
            ("permanent", FailClass::Permanent),
            ("resource", FailClass::Oom),
        ] {
            let line = format!(
                r#"{{"t":"result","id":"j","status":"fail","msg":"no\nno","class":"{class}","retry_after_ms":7}}"#
            );
            let over = over("", &[&line]);
            assert_eq!(failure(&over), (want, "no\\nno"));
        }
        let line = r#"{"t":"result","id":"j","status":"fail","msg":"no","class":"misconfigured"}"#;
        assert!(matches!(over("", &[line]).verdict, Verdict::Misconfigured { .. }));
        let line = r#"{"t":"result","id":"j","status":"incomplete","retry_after_ms":7}"#;
        let want = Verdict::Incomplete { reason: "incomplete".to_owned(), retry_after_ms: Some(7) };
        assert_eq!(over("", &[line]).verdict, want);
    }

    /// Goal: a file of rows counts only as promised, and only in the scratch folder. Method: a good
    /// one, then one wrong thing at a time.
    #[test]
    fn rows_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        std::fs::write(scratch.join("rows"), "{\"a\":1}\n{\"a\":2}\n").unwrap();
        std::fs::write(folder.path().join("rows"), "{\"a\":1}\n{\"a\":2}\n").unwrap();
        std::os::unix::fs::symlink("rows", scratch.join("link")).unwrap();
        let sum = "22c26d6af0b0f45cfd4a3d7ee3cbc8ac2bed4b6e6e5f6d2c0b1b1c9b1ab1c9f2";
        let real = hex(b"{\"a\":1}\n{\"a\":2}\n");
        for (file, bytes, count, sum, why) in [
            ("rows", 16, 2, real.as_str(), ""),
            ("rows", 16, 2, sum, "checksum"),
            ("rows", 17, 2, &real, "has 16 bytes, not 17"),
            ("rows", 16, 3, &real, "has 2 rows, not 3"),
            ("link", 16, 2, &real, "rows: file link is not beneath the scratch folder"),
            ("../rows", 16, 2, &real, "rows: file ../rows is not beneath the scratch folder"),
            (
                "/etc/passwd",
                16,
                2,
                &real,
                "rows: file /etc/passwd is not beneath the scratch folder",
            ),
            ("rows", 1u64 << 40, 2, &real, "has more than"),
        ] {
            let line = format!(
                r#"{{"t":"rows","id":"j","seq":0,"file":"{file}","bytes":{bytes},"count":{count},"sha256":"{sum}"}}"#
            );
            let Some(Step::Over(over)) = steps("", &scratch, 1, &[&line, OK]).pop() else {
                panic!()
            };
            if why.is_empty() {
                assert_eq!((&over.verdict, over.rows.len()), (&Verdict::Done, 2));
            } else {
                let (class, reason) = failure(&over);
                assert!(class == FailClass::Permanent && reason.contains(why), "{reason}");
            }
        }
    }

    /// Goal: what is held of a job's rows is bounded, also where a worker says little and means much. Method: a
    /// list as a row beside a column with a long name; a file of rows that is named again and again.
    #[test]
    fn what_is_held_is_bounded() {
        let ready = format!(r#","columns":["{}"]"#, "x".repeat(1000));
        let rows = format!(r#"{{"t":"rows","id":"j","seq":0,"rows":[{}]}}"#, ["[1]"; 20].join(","));
        let ok = r#"{"t":"result","id":"j","status":"ok","rows":20,"chunks":1}"#;
        let (class, reason) = {
            let over = over(&ready, &[&rows, ok]);
            let (class, reason) = failure(&over);
            (class, reason.to_owned())
        };
        assert!(class == FailClass::Permanent && reason.contains("max_staged"), "{reason}");

        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows"), "{\"a\":1}\n").unwrap();
        let sum = hex(b"{\"a\":1}\n");
        let line = |seq: u64, bytes: u64| {
            format!(
                r#"{{"t":"rows","id":"j","seq":{seq},"file":"rows","bytes":{bytes},"count":1,"sha256":"{sum}"}}"#
            )
        };
        let lines = [line(0, 8), line(1, limits::ROWS_FILE - 7)];
        let ok = r#"{"t":"result","id":"j","status":"ok","rows":2,"chunks":2}"#;
        let lines = [lines[0].as_str(), lines[1].as_str(), ok];
        let Some(Step::Over(over)) = steps("", folder.path(), 1, &lines).pop() else { panic!() };
        let (class, reason) = failure(&over);
        assert!(class == FailClass::Permanent && reason.contains("more than"), "{reason}");
    }
}
