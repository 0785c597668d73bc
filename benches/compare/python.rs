//! A Python function on each file: `multiprocessing.Pool(2)`, which remembers nothing, beside `python`.
//!
//! Must not know: how the daemon speaks to its workers.
//!
//! Both sides pay for their start. The interpreter is the system's own, since a version manager's shim
//! costs 0.15 s a start.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::spool::Bench;
use super::{Options, median, ratio, say};

const INTERPRETER: &str = "/usr/bin/python3";
/// What both sides call.
const WORK: &str = "\
def nothing(path):
    return None

def count(path):
    with open(path) as file:
        text = file.read()
    return {\"lines\": text.count(\"\\n\"), \"bytes\": len(text)}
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

/// Runs all rounds of both functions and prints the tables.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let work = options.folder.join("work.py");
    std::fs::write(&work, WORK).map_err(|error| format!("{}: {error}", work.display()))?;
    for function in ["count", "nothing"] {
        compare(options, &work, function)?;
    }
    Ok(())
}

fn compare(options: &Options, work: &Path, function: &str) -> Result<(), String> {
    // The first is the pool.
    let builds: Vec<Option<&PathBuf>> =
        std::iter::once(None).chain(options.inboxd.iter().map(Some)).collect();
    let mut rates = vec![Vec::new(); builds.len()];
    for round in 0..options.rounds {
        for turn in 0..builds.len() {
            let at = (round + turn) % builds.len();
            if let (Some(build), Some(rates)) = (builds.get(at), rates.get_mut(at)) {
                rates.push(rate(options, work, function, *build)?);
            }
        }
    }
    let (files, rounds) = (options.files, options.rounds);
    say(&format!("\npython `{function}` on {files} files, 2 at once, {rounds} rounds, medians"));
    say("   files/s   × Pool(2)");
    let pool = rates.first().cloned().unwrap_or_default();
    for (build, rates) in builds.iter().zip(&rates) {
        let name = build.map_or_else(
            || "multiprocessing.Pool(2), chunks of 1".to_owned(),
            |path| format!("inboxd batch ({})", path.display()),
        );
        say(&format!("{:>10.0} {:>11}   {name}", median(rates.clone()), ratio(rates, &pool)));
    }
    Ok(())
}

/// Files a second.
fn rate(
    options: &Options,
    work: &Path,
    function: &str,
    build: Option<&PathBuf>,
) -> Result<f64, String> {
    let route =
        format!("python = \"{}:{function}\"\ninterpreter = \"{INTERPRETER}\"\n", work.display());
    let bench = Bench::new(&options.folder, &route, options.files)?;
    let list = bench.list()?;
    // Not measured: what making the files left to be written.
    Command::new("sync").status().map_err(|error| format!("sync: {error}"))?;
    let began = Instant::now();
    if let Some(inboxd) = build {
        bench.batch(inboxd, options.files)?;
    } else {
        run_pool(options, function, &list)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of files")]
    Ok(options.files as f64 / began.elapsed().as_secs_f64())
}

fn run_pool(options: &Options, function: &str, list: &Path) -> Result<(), String> {
    let status = Command::new(INTERPRETER)
        .args(["-c", POOL])
        .arg(&options.folder)
        .arg(function)
        .arg(list)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{INTERPRETER}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("Pool(2): {status}")) }
}
