//! A Python function on each file: `multiprocessing.Pool(2)`, which remembers nothing, beside `python`.
//!
//! Must not know: how the daemon speaks to its workers.
//!
//! All sides pay for their start. The interpreter is the system's own, since a version manager's shim
//! costs 0.15 s a start. Two bounds stand beside them:
//! - a Python process a file, under xargs, which gets a fiftieth of the files;
//! - the *ceiling*: what the disk alone costs a durable job, on one thread without any worker: a rename out
//!   of `incoming/`, a row, an fdatasync for 64 rows, a rename to `done/`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, RenameFlags, open, renameat_with};

use super::spool::{Bench, names};
use super::{Options, median, ratio, say};

const INTERPRETER: &str = "/usr/bin/python3";
/// What all sides call.
const WORK: &str = "\
import json

def nothing(path):
    return None

def parse(path):
    with open(path) as file:
        order = json.load(file)
    return {\"id\": order[\"id\"], \"sum\": sum(order[\"values\"])}

if __name__ == '__main__':
    import sys
    globals()[sys.argv[1]](sys.argv[2])
";
/// The function's folder, its name and the list of paths are the arguments.
const POOL: &str = "\
import multiprocessing, sys
sys.path.insert(0, sys.argv[1])
import work
paths = open(sys.argv[3], errors='surrogateescape').read().split('\\0')[:-1]
with multiprocessing.Pool(2) as pool:
    for _ in pool.imap_unordered(getattr(work, sys.argv[2]), paths):
        pass
";
/// A process a file takes so long that it gets only this part of the files.
const PROCESS_SHARE: usize = 50;
/// Rows that share an fdatasync.
const GROUP: usize = 64;

enum Contestant<'a> {
    Pool,
    Processes,
    Ceiling,
    Inboxd(&'a PathBuf),
}

/// Runs all rounds of both functions and prints the tables.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let work = options.folder.join("work.py");
    std::fs::write(&work, WORK).map_err(|error| format!("{}: {error}", work.display()))?;
    for function in ["parse", "nothing"] {
        compare(options, &work, function)?;
    }
    Ok(())
}

fn compare(options: &Options, work: &Path, function: &str) -> Result<(), String> {
    let others = [Contestant::Pool, Contestant::Ceiling, Contestant::Processes];
    let all: Vec<Contestant<'_>> =
        others.into_iter().chain(options.inboxd.iter().map(Contestant::Inboxd)).collect();
    let mut rates = vec![Vec::new(); all.len()];
    for round in 0..options.rounds {
        for turn in 0..all.len() {
            let at = (round + turn) % all.len();
            if let (Some(contestant), Some(rates)) = (all.get(at), rates.get_mut(at)) {
                rates.push(contestant.rate(options, work, function)?);
            }
        }
    }
    let (files, rounds) = (options.files, options.rounds);
    say(&format!("\npython `{function}` on {files} files, 2 at once, {rounds} rounds, medians"));
    say("   files/s   × Pool(2)   × ceiling");
    let of = |at: usize| rates.get(at).cloned().unwrap_or_default();
    let (pool, ceiling) = (of(0), of(1));
    for (contestant, rates) in all.iter().zip(&rates) {
        let (to_pool, to_ceiling) = (ratio(rates, &pool), ratio(rates, &ceiling));
        let (median, name) = (median(rates.clone()), contestant.name());
        say(&format!("{median:>10.0} {to_pool:>11} {to_ceiling:>11}   {name}"));
    }
    Ok(())
}

impl Contestant<'_> {
    fn name(&self) -> String {
        match self {
            Self::Pool => "multiprocessing.Pool(2), chunks of 1".to_owned(),
            Self::Processes => "a Python process a file, xargs -n1 -P2".to_owned(),
            Self::Ceiling => "ceiling: claim, row, fdatasync/64 and move, one thread".to_owned(),
            Self::Inboxd(path) => format!("inboxd batch ({})", path.display()),
        }
    }

    /// Files a second.
    fn rate(&self, options: &Options, work: &Path, function: &str) -> Result<f64, String> {
        let route = format!(
            "python = \"{}:{function}\"\ninterpreter = \"{INTERPRETER}\"\n",
            work.display()
        );
        let share = if matches!(self, Self::Processes) { PROCESS_SHARE } else { 1 };
        let files = (options.files / share).max(1);
        let bench = Bench::new(&options.folder, &route, files)?;
        let list = bench.list()?;
        // Not measured: what making the files left to be written.
        Command::new("sync").status().map_err(|error| format!("sync: {error}"))?;
        let began = Instant::now();
        match self {
            Self::Pool => run_pool(options, function, &list)?,
            Self::Processes => run_processes(work, function, &list)?,
            Self::Ceiling => move_all(&bench)?,
            Self::Inboxd(inboxd) => bench.batch(inboxd, files)?,
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of files")]
        Ok(files as f64 / began.elapsed().as_secs_f64())
    }
}

fn run_pool(options: &Options, function: &str, list: &Path) -> Result<(), String> {
    let mut pool = Command::new(INTERPRETER);
    pool.args(["-c", POOL]).arg(&options.folder).arg(function).arg(list).stdin(Stdio::null());
    succeed(&mut pool, "Pool(2)")
}

fn run_processes(work: &Path, function: &str, list: &Path) -> Result<(), String> {
    let stdin = File::open(list).map_err(|error| error.to_string())?;
    let mut xargs = Command::new("xargs");
    xargs.args(["-0", "-n1", "-P2", INTERPRETER]).arg(work).arg(function).stdin(stdin);
    succeed(&mut xargs, "xargs")
}

fn succeed(command: &mut Command, name: &str) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

fn move_all(bench: &Bench) -> Result<(), String> {
    let folder = |name: &str| -> Result<OwnedFd, String> {
        let path = bench.path().join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&path, flags, Mode::empty()).map_err(|error| format!("{}: {error}", path.display()))
    };
    let paths = names(&bench.folder("incoming"))?;
    let [incoming, job, done] = [folder("incoming")?, folder("processing/one")?, folder("done")?];
    let rows = bench.path().join("rows");
    let mut rows = File::create_new(&rows).map_err(|error| error.to_string())?;
    let failed = |error: rustix::io::Errno| format!("ceiling: {error}");
    for group in paths.chunks(GROUP) {
        let group: Vec<&Path> =
            group.iter().filter_map(|path| path.file_name()).map(Path::new).collect();
        for name in &group {
            rename(&incoming, &job, name).map_err(failed)?;
            rows.write_all(&[b'x'; 300]).map_err(|error| error.to_string())?;
        }
        rustix::fs::fdatasync(&rows).map_err(failed)?;
        for name in &group {
            rename(&job, &done, name).map_err(failed)?;
        }
    }
    Ok(())
}

fn rename(from: &impl AsFd, to: &impl AsFd, name: &Path) -> rustix::io::Result<()> {
    renameat_with(from, name, to, name, RenameFlags::NOREPLACE)
}
