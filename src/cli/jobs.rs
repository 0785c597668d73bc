//! `inboxd jobs`: the latest jobs of the job log.
//!
//! Must not know: how the log is kept.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::{Failed, SpoolArg, below, eprint_line, show, unless_gone};
use crate::config::limits;
use crate::daemon::history::{self, JobLine};

/// Characters of a reason in a list; `explain` has it whole.
const REASON: usize = 100;
/// Jobs that are aligned with each other; what follows is aligned anew, so that a long list streams.
const BLOCK: usize = 1000;

/// The latest jobs, newest first
///
/// The log keeps the last 64 MiB, about a hundred thousand jobs. Everything that ever ran is in
/// results/: done in ROUTE.csv, failed in errors.csv. After a crash the last second may be missing here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd jobs
  inboxd jobs --failed -n 100
  inboxd jobs -n 0 --json | jq -r 'select(.took_ms > 60000).rel'")]
pub(crate) struct Args {
    /// Only those that failed
    #[arg(long)]
    failed: bool,
    /// How many; 0 is all that are known
    #[arg(short, long, value_name = "N", default_value_t = limits::JOBS_SHOWN)]
    number: usize,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let most = if args.number == 0 { usize::MAX } else { args.number };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut block: Vec<JobLine> = Vec::new();
    let mut shown = 0;
    let mut written = Ok(());
    let read = history::read(&spool.path, &mut |line| {
        if args.failed && !line.has_failures() {
            return true;
        }
        shown += 1;
        block.push(line);
        if block.len() == BLOCK {
            written = print(&mut out, &std::mem::take(&mut block), args.json);
        }
        written.is_ok() && shown < most
    });
    read.map_err(|error| Failed::runtime(format!("cannot read {}: {error}", below(spool, "log"))))?;
    let written = written.and_then(|()| print(&mut out, &block, args.json));
    unless_gone(written.and_then(|()| out.flush()))?;
    if shown == 0 && !args.json {
        eprint_line(if args.failed { "no job has failed" } else { "no job has ended yet" });
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, block: &[JobLine], as_json: bool) -> std::io::Result<()> {
    if as_json {
        for line in block {
            // What it printed is for `log`.
            let line = JobLine { stdout: String::new(), stderr: String::new(), ..line.clone() };
            serde_json::to_writer(&mut *out, &line)?;
            out.write_all(b"\n")?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = block.iter().map(row).collect();
    for line in show::table(&rows) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn row(line: &JobLine) -> Vec<String> {
    let (word, end) = match &line.reason {
        None => (show::good("done"), show::rows(line)),
        Some(reason) => (show::bad("failed"), cut(reason)),
    };
    vec![
        show::dim(&show::clock(line.at_ms)),
        word,
        line.rel.0.to_string(),
        line.route.clone(),
        show::time(Duration::from_millis(line.took_ms)),
        end,
    ]
}

fn cut(reason: &str) -> String {
    match reason.char_indices().nth(REASON) {
        Some((at, _)) => format!("{}…", reason.get(..at).unwrap_or(reason)),
        None => reason.to_owned(),
    }
}
