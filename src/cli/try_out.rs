//! `inboxd try ROUTE FILE`: a route's worker on a file, in the foreground.
//!
//! Must not know: the spool's state. It claims nothing, records nothing, and takes no lock.
//!
//! Invariants
//! - The worker gets a copy of FILE, with all that comes with it, in a folder of its own, outside the spool,
//!   removed at the end.
//! - Its working directory and its environment are those of a job.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::submit::comes_with;
use super::{Failed, SpoolArg, eprint_line, print_json, show, unless_gone};
use crate::config::{Records, Route, Unit};
use crate::core::{JobId, RelPath, Row, Verdict};
use crate::daemon::along::bring_these;
use crate::daemon::service::now_ms;
use crate::daemon::shell::random;
use crate::daemon::supervisor::heed_children;
use crate::fs::{Filesystem, RealFs, remove_tree, walk_files};
use crate::results::encode;
use crate::spool::Place;
use crate::spool::import::{self, How, Source};
use crate::spool::records::Input;
use crate::worker::http::HttpPool;
use crate::worker::records::{self, InputRecord, RawRecord, RecordFormat};
use crate::worker::slot::Slot;
use crate::worker::warm::WarmPool;
use crate::worker::{Ended, Stop, Task};

/// Run a route's worker on a file and show what it gives; the spool is not touched
///
/// Rows go to stdout as CSV; what the worker printed besides, and the verdict, to stderr. The worker
/// gets a copy of FILE and of what comes with it, and of a route with `records` its first record; a
/// route with `unit = "folder"` is tried on a folder. Its own side effects do happen.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd try count samples/file_0.json
  inboxd try count samples/file_0.json 2>/dev/null | column -ts,")]
pub(crate) struct Args {
    /// A route of the settings; its glob does not matter here
    #[arg(value_name = "ROUTE")]
    route: String,
    /// The input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// One JSON object with rows, log, stderr and verdict
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    heed_children()
        .map_err(|error| Failed::runtime(format!("cannot wait for a worker: {error}")))?;
    let settings = spool.load()?.settings;
    let Some(route) = settings.routes.iter().find(|route| route.name == args.route) else {
        let names: Vec<&str> = settings.routes.iter().map(|route| route.name.as_str()).collect();
        return Err(Failed::usage(format!(
            "there is no route `{}`; there are {}",
            args.route,
            names.join(", ")
        )));
    };
    let source = source(route, &args.file)?;
    let scratch = Scratch::new().map_err(|error| {
        let place = std::env::temp_dir();
        Failed::runtime(format!("cannot make a folder in {}: {error}", place.display()))
    })?;
    let mut task = scratch.task(route, source, spool)?;
    if let Some(records) = route.records {
        task.record = Some(first_record(&task.path, records).map_err(|why| {
            Failed::usage(format!("{} has no record to try: {why}", args.file.display()))
        })?);
    }
    let stop = stop_at_signals()?;
    let warm = WarmPool::new(&stop);
    let http = HttpPool::new(&stop);
    let ended = Slot::new(warm.clone(), http.clone()).run(&task, &stop);
    warm.end();
    http.end();
    tell(&task, &ended, args.json)
}

/// What a job of this route has: a file with all that comes with it, or a folder.
fn source(route: &Route, file: &Path) -> Result<Source, Failed> {
    let (shown, name) = (file.display(), &route.name);
    let cannot = |error: std::io::Error| Failed::usage(format!("cannot read {shown}: {error}"));
    let found = std::fs::metadata(file).map_err(cannot)?;
    let bytes = file.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let rel = RelPath::new(bytes).ok_or_else(|| Failed::usage(format!("{shown} has no name")))?;
    match route.unit {
        Unit::Folder if found.is_dir() => import::whole_folder(file, rel).map_err(cannot),
        Unit::Folder => Err(Failed::usage(format!(
            "{shown} is not a folder, and route {name} takes folders (`unit`)"
        ))),
        Unit::File if found.is_file() => {
            let mut source = import::one(file, rel).map_err(cannot)?;
            if let Err(missing) = bring_these(&mut source, &route.with).map_err(cannot)? {
                return Err(comes_with(file, &missing));
            }
            Ok(source)
        }
        Unit::File if found.is_dir() => Err(Failed::usage(format!(
            "{shown} is a folder, and route {name} takes files: name one of them"
        ))),
        Unit::File => Err(Failed::usage(format!("{shown} is not a regular file"))),
    }
}

/// The first record of a file.
fn first_record(path: &Path, format: Records) -> Result<InputRecord, String> {
    let opened = || -> std::io::Result<_> {
        let folder = RealFs.open_root(path.parent().unwrap_or(Path::new("/")))?;
        let name = Path::new(path.file_name().unwrap_or_default());
        let (mut input, header) =
            Input::of_file(RealFs, RealFs.open(&folder, name, false)?, format)?;
        Ok((header, input.next_record()?))
    };
    let (header, first) = opened().map_err(|error| error.to_string())?;
    let columns =
        header.map_or_else(|| Ok(Vec::new()), |header| records::columns(&header.bytes))?;
    let first = first.ok_or_else(|| "there is none".to_owned())?;
    let raw = RawRecord { no: first.no(), line: first.line(), bytes: Ok(first.bytes) };
    RecordFormat { records: format, columns }.read(&raw)
}

/// A folder outside the spool, gone when this is dropped.
struct Scratch {
    path: PathBuf,
    job: JobId,
}

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let job = JobId::next(JobId::MIN, now_ms(), random());
        let path = std::env::temp_dir().join(format!("inboxd-try.{job}"));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, job })
    }

    fn task(&self, route: &Route, source: Source, spool: &SpoolArg) -> Result<Task, Failed> {
        let made = || -> std::io::Result<PathBuf> {
            for name in ["scratch", "output"] {
                std::fs::create_dir(self.path.join(name))?;
            }
            import::stage(&self.path, self.job, &source, How::Copy, &mut |_| ())?;
            std::fs::canonicalize(&spool.path)
        };
        let root = made().map_err(|error| {
            let (from, place) = (source.path.display(), self.path.display());
            Failed::runtime(format!("cannot copy {from} to {place}: {error}"))
        })?;
        let input = self.path.join(Place::Staging(self.job, source.shape).name());
        let rel = source.rel;
        Ok(Task {
            job: self.job,
            attempt: 1,
            route: Arc::new(route.clone()),
            path: input.join(rel.as_path()),
            rel,
            spool: root,
            scratch: self.path.join("scratch"),
            output: route.output.then(|| self.path.join("output")),
            record: None,
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        let removed = RealFs
            .open_root(parent)
            .and_then(|parent| remove_tree(&RealFs, &parent, Path::new(name)));
        if let Err(error) = removed {
            eprint_line(&format!("warning: {} stays: {error}", self.path.display()));
        }
    }
}

/// The worker has a process group of its own, so Ctrl-C reaches only us.
fn stop_at_signals() -> Result<Stop, Failed> {
    let stop = Stop::new()?;
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let at_signal = stop.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            // It fails only where the descriptor is bad: our bug, and the time-out still holds.
            drop(at_signal.now());
        }
    })?;
    Ok(stop)
}

fn tell(task: &Task, ended: &Ended, as_json: bool) -> Result<ExitCode, Failed> {
    let (word, reason, code) = match &ended.verdict {
        Verdict::Done => ("done", String::new(), 0),
        Verdict::Failed(failure) => ("failed", failure.reason.clone(), 3),
        Verdict::Incomplete { reason, .. } => ("incomplete", reason.clone(), 3),
        Verdict::Misconfigured { reason } => ("PAUSED", reason.clone(), 1),
        Verdict::Released => ("stopped", "by a signal".to_owned(), 1),
    };
    let rows: &[Row] = if code == 0 { &ended.rows } else { &[] };
    if as_json {
        let rows: Vec<_> = rows.iter().map(object).collect();
        print_json(&serde_json::json!({
            "verdict": word,
            "reason": reason,
            "took_ms": u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
            "rows": rows,
            "log": String::from_utf8_lossy(&ended.log),
            "stderr": String::from_utf8_lossy(&ended.stderr),
        }));
        return Ok(ExitCode::from(code));
    }
    let columns = columns(rows);
    if !columns.is_empty() {
        let mut text = encode::header(&columns)?;
        text.extend(encode::rows(&columns, false, rows, &task.rel, task.job)?);
        unless_gone(std::io::stdout().lock().write_all(&text))?;
    }
    for part in [&ended.log, &ended.stderr] {
        let text = show::harmless(&String::from_utf8_lossy(part));
        if !text.is_empty() {
            eprint_line(text.trim_end_matches('\n'));
        }
    }
    made_files(task);
    let route = &task.route.name;
    let (rel, took) = (&task.rel, show::time(ended.took));
    eprint_line(&match code {
        0 => {
            let rows = show::plural(rows.len() as u64, "row", "rows");
            format!("{word}    {rel}   {route}   {took}   {rows}")
        }
        1 if word == "PAUSED" => format!("route {route} would be {word}: {reason}"),
        _ => format!("{word}  {rel}   {route}   {took}   {reason}"),
    });
    Ok(ExitCode::from(code))
}

/// What a route with `output` made: shown, and removed with the rest.
fn made_files(task: &Task) {
    let Some(output) = &task.output else { return };
    let Ok(folder) = RealFs.open_root(output) else { return };
    let walked = walk_files(&RealFs, &folder, &|_| true, &mut |dir, name, path| {
        let size = RealFs.stat(dir, name).map_or(0, |stat| stat.size);
        eprint_line(&format!("made  {}   {}", path.display(), show::size(size)));
        true
    });
    // Nothing to say where it cannot be read: it goes away in a moment.
    drop(walked);
}

/// All columns of all rows, in the order in which they come.
fn columns(rows: &[Row]) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.0) {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    columns
}

fn object(row: &Row) -> serde_json::Map<String, serde_json::Value> {
    let cell = |cell: &Vec<u8>| String::from_utf8_lossy(cell).into_owned().into();
    row.0.iter().map(|(name, bytes)| (name.clone(), cell(bytes))).collect()
}
