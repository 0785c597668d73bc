//! The rate of each kind of worker beside what else does that to each file. Prints figures, asserts nothing.
//!
//! Must not know: how the daemon works; it starts the built binary and looks at folders, as a user does.
//!
//! `cargo bench --bench compare -- [--files N] [--rounds N] [--inboxd BINARY]… [--python] [--million] [--whole] [--watch [--backlog N]] [--folder DIR]`
//!
//! - All contestants run interleaved in one process, in an order that rotates with each round, since
//!   only ratios of one run mean anything on a machine that does other things too. Medians are shown.
//! - `--inboxd` adds another build, to compare before with after.
//! - `--python` compares `python` with `multiprocessing.Pool(2)`, for a function that parses a small JSON
//!   file and gives a row, and for one that does nothing; see [`python`].
//! - `--million` measures a backlog; see [`backlog`]. `--whole` lets it run all of it.
//! - `--watch` measures a daemon that waits: from a drop to the worker's start beside a loop of
//!   inotifywait, the cost of idling, and a backlog of N (200,000) with arrivals; see [`watch`].
//! - The durable daemon is measured as it is: start-up, recovery, commits and settling included.
//!
//! # Measured last
//!
//! Two shared cores of a virtual machine, Linux 6.18, ext4, nothing else of ours running.
//!
//! - `/bin/true`, 10,000 files, twelve runs on four days: a `posix_spawn` loop 1850 to 2630/s; xargs 0.72 to 0.80 of it,
//!   GNU parallel 0.11 to 0.14, inboxd 0.78 to 0.86: 1.04 to 1.13 × xargs (wanted: 1.0), 5.8 to 8.0 × GNU parallel
//!   (wanted: 7; the last nine runs 7.2, 6.9, 8.0, 7.2, 8.0, 7.6, 7.3, 6.9 and 6.0; the loop itself is at 7.0 to 10.6 of it).
//!   Who runs right after GNU parallel pays 2 to 8 % for what that left: the first build of several does. With two jobs in line before each slot instead of eight, and a keeper that took in each end at
//!   once, it was 0.96 and 6.3. A job costs 845 µs of two cores where the loop has 718: of what is more the keeper
//!   is nearly all, and three renames of 20 µs (ext4 looks through the names of a block at each) are half of that.
//!   Beside two busy loops of others it is 2.3 to 2.9 × xargs, 0.85 to 0.9 of what it was with two in line: who
//!   sleeps more often is let in more often.
//! - 1,000,000 files waiting, all of them run: first job done after 0.1 to 0.4 s, peak 22 MiB (20 after the first 10,000), the
//!   last 10,000 at 1.19 × the rate of the first.
//! - `python`, 10,000 small JSON files: `parse` 8,100 to 8,900/s, 0.20 to 0.24 × `Pool(2)` (wanted: 0.7), 0.33 of the ceiling, 76 × a
//!   process a file (wanted: 100); `nothing` 7,500 to 9,500/s, 0.27 to 0.41 of the ceiling (wanted: 0.6). `Pool(2)`, which
//!   remembers nothing, is at 1.2 to 2.2 × the ceiling here, so that 0.7 of it is more than the renames of a job allow.
//!   A job costs 163 µs of two cores: the keeper's thread, which is the limit, 90, of which three renames (folder,
//!   claim, settling) are 45, other calls on names 20, waking slots 5, its own code 20; slots 35; Python 40.
//! - From drop to first instruction, seven runs of one day: p50 0.71 to 0.94 × the loop where its shell is bash, and 0.89
//!   to 1.20 × where it is dash, which vforks (wanted: 1.0); p99 0.39 to 1.14 × and 0.73 to 1.21 ×. A process
//!   that is cloned ahead is worth 6 % of that (1.21 × dash without it, in the same runs). A C program of one thread that claims
//!   and starts, and no more, is at 1.01 to 1.03 × dash, also with our looks before and after the claim, the folder and
//!   the pipes: what is more are the three threads that an event goes through, and our own code in cold caches.
//!   A millisecond of both is the start of the worker's own program. With a core taken by others both wait for ticks of
//!   4 ms, the daemon more often. From the drop on, in µs, under a tracer: notify's thread runs 100, tells the keeper
//!   150, which has looked who writes 275, has its folder named 320, has claimed 360 and wakes a slot 415, which
//!   gives the process its orders 470, which is in `execve` 485; dash is there 310. The kernel keeps all of them on one core. The loop has
//!   two wake-ups less work between them, since it claims nothing. What changed nothing, or less than these runs can tell: events that
//!   are masked in the kernel (notify 9), a short slice for keeper and slots, a notify thread that preempts nobody (`SCHED_BATCH`), to wake the slot
//!   before the claim or to yield to it after, link-time optimisation, `opt-level = "s"`.
//! - Idle beside 1,000 folders: at most one processor tick in 30 s; 6.0 MiB PSS with the supervisor (wanted: 8), 8.2
//!   before text that only the start needs was given back; 0.8 more with a glob that needs regular expressions, such
//!   as `[ab]*.x`.
//! - A backlog of 1,000,000 with an arrival each 50 ms: 0.97 of its rate without; of 200,000 0.99 to 1.01.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

mod backlog;
mod peers;
mod python;
mod spool;
mod watch;

/// What the command line asks for.
struct Options {
    files: usize,
    rounds: usize,
    /// Builds to measure; the first is this one.
    inboxd: Vec<PathBuf>,
    python: bool,
    million: bool,
    whole: bool,
    watch: bool,
    /// Files of the backlog that arrivals are added to.
    backlog: usize,
    /// Where spools are made: the disk that is measured.
    folder: PathBuf,
}

fn main() -> ExitCode {
    let now = SystemTime::now();
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == watch::STAMP) {
        return ended(watch::stamp(now, words));
    }
    ended(options().and_then(|options| {
        std::fs::create_dir_all(&options.folder).map_err(|error| error.to_string())?;
        match (options.million, options.python, options.watch) {
            (true, _, _) => backlog::run(&options),
            (_, true, _) => python::run(&options),
            (_, _, true) => watch::run(&options),
            _ => peers::run(&options),
        }
    }))
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(&format!("compare: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        files: 10_000,
        rounds: 5,
        inboxd: vec![PathBuf::from(env!("CARGO_BIN_EXE_inboxd"))],
        python: false,
        million: false,
        whole: false,
        watch: false,
        backlog: 200_000,
        folder: std::env::temp_dir().join(format!("inboxd-compare-{}", std::process::id())),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("not a number: {text}"));
        match word.as_str() {
            "--files" => options.files = number(value()?)?,
            "--rounds" => options.rounds = number(value()?)?,
            "--inboxd" => options.inboxd.push(PathBuf::from(value()?)),
            "--folder" => options.folder = PathBuf::from(value()?),
            "--python" => options.python = true,
            "--million" => options.million = true,
            "--whole" => options.whole = true,
            "--watch" => options.watch = true,
            "--backlog" => options.backlog = number(value()?)?,
            // Cargo passes it to every bench.
            "--bench" => {}
            other => return Err(format!("unknown: {other}")),
        }
    }
    Ok(options)
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    if values.len() % 2 == 1 {
        at(half)
    } else {
        f64::midpoint(at(half.saturating_sub(1)), at(half))
    }
}

/// The median of the ratios of each round: noise that lasts hits both sides of one round.
fn ratio(rates: &[f64], to: &[f64]) -> String {
    let ratios: Vec<f64> = rates.iter().zip(to).map(|(rate, to)| rate / to).collect();
    if ratios.is_empty() { "-".to_owned() } else { format!("{:.2}", median(ratios)) }
}

/// A line on the terminal.
fn say(line: &str) {
    use std::io::Write;
    // A reader that went away ends the bench no sooner than its work.
    drop(writeln!(std::io::stdout(), "{line}"));
}
