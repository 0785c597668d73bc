//! `inboxd log JOB`: what the worker of a job printed.
//!
//! Must not know: how much of it is kept, or where.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use super::target::{Target, unknown};
use super::{Failed, SpoolArg, below, eprint_line, print_json, show, unless_gone};
use crate::daemon::history;

/// What the worker of a job printed
///
/// The end of stderr, and of stdout where that is no rows, of the last attempt: 64 KiB each. Of an input
/// whose records are tasks of their own: of its failed records, a hundred of them at most.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd log bad.json
  inboxd log 0198f3k7m2")]
pub(crate) struct Args {
    /// A path below incoming/, the beginning of a job id, or a path in the spool
    #[arg(value_name = "JOB", value_hint = clap::ValueHint::AnyPath)]
    job: OsString,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let target = Target::new(spool, &args.job);
    let line = target.line(spool)?;
    let (stdout, stderr) = match &line {
        Some(line) => (line.stdout.clone(), line.stderr.clone()),
        // The log of recent jobs has it no longer, the reason of the failure has.
        None => match target.failure(spool, None).and_then(|failure| failure.why) {
            Some(why) => (String::new(), why.stderr),
            None => return Err(unknown(spool, &target)),
        },
    };
    let records = match &line {
        Some(line) => history::records_of(&spool.path, line.job).map_err(|error| {
            Failed::runtime(format!("cannot read {}: {error}", below(spool, "log")))
        })?,
        None => Vec::new(),
    };
    if args.json {
        print_json(&serde_json::json!({
            "job": line.as_ref().map(|line| line.job),
            "rel": line.as_ref().map(|line| &line.rel),
            "stdout": stdout,
            "stderr": stderr,
            "records": records,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    if stdout.is_empty() && stderr.is_empty() && records.is_empty() {
        eprint_line(&format!("{} printed nothing that is kept", target.shown));
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    let has_both = !stdout.is_empty() && !stderr.is_empty();
    for (name, part) in [("stdout", &stdout), ("stderr", &stderr)] {
        if has_both {
            text.extend([show::dim(name).as_str(), "\n"]);
        }
        text.push_str(&as_it_may_be(part));
        if !part.is_empty() && !part.ends_with('\n') {
            text.push('\n');
        }
    }
    for record in &records {
        let reason = record.reason.as_deref().unwrap_or_default();
        let head = format!("record {}   {reason}", record.record.unwrap_or(0));
        text.extend([show::dim(&head).as_str(), "\n"]);
        for part in [&record.stdout, &record.stderr] {
            text.push_str(&as_it_may_be(part));
        }
    }
    unless_gone(std::io::stdout().lock().write_all(text.as_bytes()))?;
    Ok(ExitCode::SUCCESS)
}

/// A terminal must not obey what a worker printed; a file gets it as it was.
fn as_it_may_be(part: &str) -> String {
    if std::io::stdout().is_terminal() { show::harmless(part) } else { part.to_owned() }
}
