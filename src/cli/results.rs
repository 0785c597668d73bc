//! `inboxd results ROUTE`: all rows of a route as one table.
//!
//! Must not know: CSV.

use std::collections::BTreeSet;
use std::io::{self, StdoutLock, Write};
use std::process::ExitCode;

use super::{Failed, SpoolArg, below, eprint_line, unless_gone};
use crate::config::load;
use crate::results::read;

/// All rows of a route as one table
///
/// The segments in results/ under one header, in the order in which they were written. The route
/// `errors` has a row for each failure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd results count > count.csv
  inboxd results count --json | jq -r .fruits
  inboxd results errors")]
pub(crate) struct Args {
    /// A route of the settings, or `errors`
    #[arg(value_name = "ROUTE")]
    route: String,
    /// A JSON object a line, cells as strings
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let folder = spool.path.join("results");
    let cannot =
        |error| Failed::runtime(format!("cannot read {}: {error}", below(spool, "results")));
    let segments = if folder.is_dir() {
        read::segments(&folder, &args.route).map_err(cannot)?
    } else {
        Vec::new()
    };
    if segments.is_empty() {
        let known = known(spool);
        if known.contains(&args.route) {
            eprint_line(&format!("no row of {} yet", args.route));
            return Ok(ExitCode::SUCCESS);
        }
        // Without its settings nobody knows.
        load(&spool.path).map_err(|errors| Failed::usage(super::join(&errors)))?;
        let known: Vec<String> = known.into_iter().collect();
        return Err(Failed::usage(format!(
            "there is no route `{}`; there are {}",
            args.route,
            known.join(", ")
        )));
    }
    let mut out = Out { out: io::stdout().lock(), has_failed: false };
    let is_whole = match read::read_all(&folder, &args.route, &mut out, args.json) {
        Ok(is_whole) => is_whole,
        Err(error) if out.has_failed => {
            unless_gone(Err(error))?;
            true
        }
        Err(error) => {
            return Err(Failed::runtime(format!("{}: {error}", below(spool, "results"))));
        }
    };
    if !is_whole {
        let name = below(spool, format!("results/{}.csv", args.route));
        eprint_line(&format!(
            "left out: the last row of {name}, which has no end: it is being written, or was edited"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Standard output, and whether it was this that failed and not what is read.
struct Out {
    out: StdoutLock<'static>,
    has_failed: bool,
}

impl Out {
    fn note<T>(&mut self, written: io::Result<T>) -> io::Result<T> {
        self.has_failed |= written.is_err();
        written
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.note(flushed)
    }
}

/// Routes of the settings, and those whose rows are there although they are in no settings any more.
fn known(spool: &SpoolArg) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = BTreeSet::from(["errors".to_owned()]);
    if let Ok(loaded) = load(&spool.path) {
        known.extend(loaded.settings.routes.into_iter().map(|route| route.name));
    }
    for entry in std::fs::read_dir(spool.path.join("results")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".csv"));
        let route = name.and_then(|name| name.split('.').next()).filter(|name| !name.is_empty());
        known.extend(route.map(str::to_owned));
    }
    known
}
