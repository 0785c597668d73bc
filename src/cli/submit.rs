//! `inboxd submit FILE…`: files, and folders that are one job, become jobs whose ids are known at once.
//!
//! Must not know: how a job is made. It names the file, and prints the id.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::OFlags;

use super::target::quoted;
use super::wait::{Awaited, Waiter};
use super::{Failed, SpoolArg, print_json, print_line, show};
use crate::config::{RouteTable, Settings};
use crate::core::RelPath;
use crate::daemon::along::bring_along;
use crate::daemon::control::Ask;
use crate::daemon::hand_in::{Bytes, HandInError, Taker};
use crate::daemon::shell::ShellError;
use crate::spool::Shape;
use crate::spool::import;
use crate::spool::names::NAME_MAX;

/// Hand files in and print their job ids
///
/// Each file is copied into the spool and is not touched itself. When the id is printed the job is
/// durable: it runs once, even if the machine stops now. Without a running daemon it waits for the
/// next `inboxd run` or `inboxd batch`. What a route takes along (`with`) is copied from beside the
/// file; a folder is handed in whole where a route takes it as one job (`unit = "folder"`).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd submit report.pdf
  inboxd submit --wait --name orders/7.json order.json
  pg_dump shop | inboxd submit --name shop.sql -")]
pub(crate) struct Args {
    /// Files or folders; `-` is standard input and needs --name
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The path below incoming/ that the file is to have, such as orders/7.json; one FILE only
    #[arg(long, value_name = "REL")]
    name: Option<PathBuf>,
    /// Wait until the jobs are over; without a daemon, run what waits here. Exit code 3: one failed
    #[arg(long)]
    wait: bool,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    if args.name.is_some() && args.files.len() > 1 {
        return Err(Failed::usage("--name is for one FILE, and there are several"));
    }
    let has_daemon = spool.ask(&Ask::Status)?.is_some();
    let table = match (spool.load(), has_daemon) {
        (Ok(loaded), _) => {
            RouteTable::new(&loaded.settings).map_err(|error| Failed::usage(error.to_string()))?
        }
        // It goes on with settings of its own, and says what it does not take.
        (Err(_), true) => RouteTable::new(&Settings::default())
            .map_err(|error| Failed::usage(error.to_string()))?,
        (Err(failed), false) => return Err(failed),
    };
    let inputs = args
        .files
        .iter()
        .map(|file| input(file, args.name.as_deref(), &table))
        .collect::<Result<Vec<_>, _>>()?;
    // A daemon says it itself; without one nothing should be copied in vain.
    let is_taken = |bytes: &Bytes, rel: &RelPath| is_folder(bytes) || table.find(rel).is_some();
    if !has_daemon && let Some((_, rel)) = inputs.iter().find(|(it, rel)| !is_taken(it, rel)) {
        let typed = quoted(rel);
        return Err(Failed::usage(format!("no route takes {rel}\n  Why: inboxd routes {typed}")));
    }
    // It would run, but could not come back: `retry` puts a file into incoming/, where it is no input.
    let ignored = |(_, rel): &(Bytes, RelPath)| Some((rel.clone(), table.ignored(rel)?.to_owned()));
    if let Some((rel, pattern)) = inputs.iter().find_map(ignored) {
        return Err(Failed::usage(format!(
            "{rel} is {}\n  Another name for it: --name NAME",
            show::ignored(&pattern)
        )));
    }
    let waiter = if args.wait { Some(Waiter::begin(spool, args.json)?) } else { None };
    let settings = || {
        let loaded = spool.load().map_err(|failed| HandInError::Refused(failed.message))?;
        Ok(loaded.settings)
    };
    let mut taker = Taker::find(&spool.path, settings).map_err(|error| failed(spool, error))?;
    let mut awaited = Vec::new();
    for (bytes, rel) in &inputs {
        let job = taker.take(bytes, rel).map_err(|error| failed(spool, error))?;
        awaited.push(Awaited::Job(job));
        if args.json {
            let rel = crate::journal::record::Rel(rel.clone());
            print_json(&serde_json::json!({ "job": job, "rel": rel }));
        } else if inputs.len() == 1 {
            print_line(&job.to_string());
        } else {
            print_line(&format!("{job}  {rel}"));
        }
    }
    // The lock must be free before anyone can run them.
    taker.leave().map_err(|error| failed(spool, error))?;
    match waiter {
        Some(waiter) => waiter.wait(awaited),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn is_folder(bytes: &Bytes) -> bool {
    matches!(bytes, Bytes::Source(source) if matches!(source.shape, Shape::Folder(_)))
}

/// What is read, and the path that it gets.
fn input(file: &Path, name: Option<&Path>, table: &RouteTable) -> Result<(Bytes, RelPath), Failed> {
    let named = name.map(rel_of).transpose()?;
    if file == Path::new("-") {
        let Some(rel) = named else {
            return Err(Failed::usage("standard input has no name: add --name NAME"));
        };
        if is_stdin_closed() {
            return Err(Failed::usage("standard input is closed: there is nothing to hand in"));
        }
        return Ok((Bytes::Stdin, rel));
    }
    let shown = file.display();
    let cannot = |error: io::Error| Failed::usage(format!("cannot read {shown}: {error}"));
    let meta = std::fs::metadata(file).map_err(cannot)?;
    if !(meta.is_file() || meta.is_dir()) {
        let Some(rel) = named else {
            return Err(Failed::usage(format!("{shown} is no regular file: add --name NAME")));
        };
        return Ok((Bytes::Stream(file.to_owned()), rel));
    }
    let own = || rel_of(Path::new(file.file_name().unwrap_or(OsStr::new(""))));
    let rel = named.map_or_else(own, Ok)?;
    let source = if meta.is_dir() {
        if table.find_folder(&rel).is_none() {
            return Err(Failed::usage(format!(
                "{shown} is a folder, and no route takes it as one job\n  \
                 All files below it: inboxd batch {shown}"
            )));
        }
        import::whole_folder(file, rel.clone()).map_err(cannot)?
    } else {
        let mut source = import::one(file, rel.clone()).map_err(cannot)?;
        if let Err(missing) = bring_along(&mut source, table).map_err(cannot)? {
            return Err(comes_with(file, &missing));
        }
        source
    };
    Ok((Bytes::Source(Box::new(source)), rel))
}

/// Whether we were started without standard input (`<&-`). The library then has put /dev/null there, open for writing
/// as well, as nobody does who means an empty file.
fn is_stdin_closed() -> bool {
    let stdin = io::stdin();
    let is_null = |here: rustix::fs::Stat| {
        rustix::fs::stat("/dev/null").is_ok_and(|null| null.st_rdev == here.st_rdev)
    };
    rustix::fs::fstat(&stdin).is_ok_and(is_null)
        && rustix::fs::fcntl_getfl(&stdin).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// A companion is not there.
pub(super) fn comes_with(file: &Path, missing: &Path) -> Failed {
    let (file, missing) = (file.display(), missing.file_name().unwrap_or_default().display());
    Failed::usage(format!("{file} comes with {missing} (`with`), which is not beside it"))
}

fn rel_of(name: &Path) -> Result<RelPath, Failed> {
    let bytes = name.as_os_str().as_bytes();
    if bytes.split(|byte| *byte == b'/').any(|part| part.len() > NAME_MAX) {
        return Err(Failed::usage(format!("a name has at most {NAME_MAX} bytes")));
    }
    RelPath::new(bytes).ok_or_else(|| {
        Failed::usage(format!(
            "{} cannot be a path below incoming/: it must be relative, without `.`, `..` or `//`",
            name.display()
        ))
    })
}

fn failed(spool: &SpoolArg, error: HandInError) -> Failed {
    match error {
        HandInError::Shell(error @ ShellError::Lock(_)) => spool.failed(error),
        HandInError::Shell(error) => error.into(),
        HandInError::Refused(reason) => Failed::usage(reason),
        HandInError::Copy { ref source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            let incoming = super::below(spool, "incoming");
            Failed::runtime(format!(
                "{error}\n  Run the command as the user that inboxd runs as, or copy the file into \
                 {incoming}."
            ))
        }
        other => Failed::runtime(other.to_string()),
    }
}
