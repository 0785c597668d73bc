//! The rate of `command` beside what else runs a program on each file. Prints figures, asserts nothing.
//!
//! Must not know: how the daemon works; it starts the built binary and looks at folders, as a user does.
//!
//! `cargo bench --bench compare -- [--files N] [--rounds N] [--inboxd BINARY]… [--million] [--whole] [--folder DIR]`
//!
//! - All contestants run interleaved in one process, in an order that rotates with each round, since
//!   only ratios of one run mean anything on a machine that does other things too. Medians are shown.
//! - `--inboxd` adds another build, to compare before with after.
//! - `--million` measures a backlog; see [`backlog`]. `--whole` lets it run all of it.
//! - The durable daemon is measured as it is: start-up, recovery, commits and settling included.

use std::path::PathBuf;
use std::process::ExitCode;

mod backlog;
mod peers;
mod spool;

/// What the command line asks for.
struct Options {
    files: usize,
    rounds: usize,
    /// Builds to measure; the first is this one.
    inboxd: Vec<PathBuf>,
    million: bool,
    whole: bool,
    /// Where spools are made: the disk that is measured.
    folder: PathBuf,
}

fn main() -> ExitCode {
    let result = options().and_then(|options| {
        std::fs::create_dir_all(&options.folder).map_err(|error| error.to_string())?;
        if options.million { backlog::run(&options) } else { peers::run(&options) }
    });
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
        million: false,
        whole: false,
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
            "--million" => options.million = true,
            "--whole" => options.whole = true,
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

/// A line on the terminal.
fn say(line: &str) {
    use std::io::Write;
    // A reader that went away ends the bench no sooner than its work.
    drop(writeln!(std::io::stdout(), "{line}"));
}
