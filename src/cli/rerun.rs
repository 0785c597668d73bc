//! `inboxd rerun JOB…`: done files run again although they succeeded.
//!
//! Must not know: how a file is moved, or waited for.

use std::ffi::OsString;
use std::process::ExitCode;

use super::retry::{Move, Routes, move_back};
use super::target::{Target, Tree, path_in, unknown};
use super::{Failed, SpoolArg, below, cut_off};
use crate::core::RelPath;
use crate::daemon::history::JobLine;
use crate::spool::names;
use crate::spool::put_back::{From, What};

/// Run done files again; their old rows stay
///
/// The file goes from done/ back to incoming/ and, when it has succeeded again, to done/ under the same
/// name. The rows of the earlier run stay in the CSV beside the new ones: the column _job tells them
/// apart.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd rerun file_0.json
  inboxd rerun --wait inbox/done/2026/*.json")]
pub(crate) struct Args {
    /// Paths below incoming/, beginnings of job ids, or paths in done/
    #[arg(value_name = "JOB", value_hint = clap::ValueHint::AnyPath, required = true)]
    jobs: Vec<OsString>,
    /// Wait until they are over; without a daemon, run what waits here. Exit code 3: one failed
    #[arg(long)]
    wait: bool,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let routes = Routes::read(spool)?;
    let moves = args.jobs.iter().map(|typed| find(spool, typed, &routes));
    let moves = moves.collect::<Result<Vec<_>, Failed>>()?;
    move_back(spool, moves, From::Done, args.wait, args.json)
}

fn find(spool: &SpoolArg, typed: &OsString, routes: &Routes) -> Result<Move, Failed> {
    let target = Target::new(spool, typed);
    let line = target.line(spool)?;
    let named = match &target.place {
        Some((Tree::Done, path)) => Some(path.clone()),
        Some(_) => None,
        None => target.rel.clone(),
    };
    let logged = line.as_ref().and_then(done_at);
    let is_dir = |at: &RelPath| {
        let path = path_in(spool, Tree::Done, at);
        path.symlink_metadata().ok().map(|meta| meta.is_dir())
    };
    // A folder only where a job went there as one, or goes by the settings.
    let is_job =
        |at: &RelPath| logged.as_ref() == Some(at) || routes.table.find_folder(at).is_some();
    let is_there = |at: &RelPath| is_dir(at).is_some_and(|is_dir| !is_dir || is_job(at));
    // The very job that an id or a log line names goes before a file of the same name.
    let at = [logged.clone(), named].into_iter().flatten().find(is_there);
    let Some(at) = at else {
        let cut_off = line
            .clone()
            .zip(logged)
            .and_then(|(line, at)| cut_off::of_rerun(spool, at, line, routes));
        if let Some(found) = cut_off {
            return Ok(found);
        }
        return Err(match line {
            Some(line) if line.reason.is_some() => Failed::runtime(format!(
                "{} has failed, it is not done\n  To run it again: inboxd retry {}",
                target.shown,
                target.typed()
            )),
            Some(_) => Failed::runtime(format!(
                "the file of {} is no longer in {}",
                target.shown,
                below(spool, "done")
            )),
            None => unknown(spool, &target),
        });
    };
    let line = line.filter(|_| logged.as_ref() == Some(&at));
    // The job log of a file of long ago may be gone; its name still tells where it came from.
    let job = line.as_ref().map(|line| line.job).or_else(|| names::job_of(at.name()));
    let to = line.map(|line| line.rel.0).or_else(|| names::original_path(at.as_path()));
    let to = to.unwrap_or_else(|| at.clone());
    let what = if is_dir(&at) == Some(true) { What::Folder } else { What::File };
    Ok(Move::rerun(what, at, to, job, routes))
}

/// Where a done job's file went, below `done/`.
fn done_at(line: &JobLine) -> Option<RelPath> {
    RelPath::new(line.place.as_ref()?.0.as_bytes().strip_prefix(b"done/")?)
}
