//! The command line: one file a command, and what they share.
//!
//! Must not know: how anything is done; it asks the other rooms and prints. Printing and exit codes are
//! here and in `main.rs`, nowhere else.
//!
//! Exit codes: 0 fine, 1 runtime failure (a restart may help; also *already served*), 2 usage or
//! settings (it does not help), 3 `batch` finished and a job of this run failed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, Loaded, load};
use crate::daemon::shell::ShellError;
use crate::worker::warm::launch::become_worker;

mod batch;
mod init;
mod run;
mod show;

/// Drop a file into a folder and it is processed, once, for certain.
///
/// A file that arrives in SPOOL/incoming/ is claimed by an atomic rename, given to a worker (your
/// script) in a bounded pool, and ends in done/ or, with the reason kept, in error/. What the worker
/// prints becomes rows of a CSV in results/.
#[derive(Debug, Parser)]
#[command(name = "inboxd", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// The spool [default: the nearest folder upward with inboxd.toml, else ./inbox]
    #[arg(long, global = true, env = "INBOXD_SPOOL", value_name = "DIR")]
    spool: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a spool: its folders and a commented inboxd.toml
    Init(init::Args),
    /// Run everything that waits, then end; SRC is copied in first and not touched
    Batch(batch::Args),
    /// Watch incoming/ and run what arrives, until told to stop
    Run(run::Args),
}

/// What a command ends with when it cannot go on.
#[derive(Debug)]
pub(crate) struct Failed {
    /// For a person: what is wrong, and what to do.
    pub(crate) message: String,
    /// 1 or 2.
    pub(crate) code: u8,
}

impl Failed {
    /// A restart may help.
    pub(crate) fn runtime(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// A restart does not help.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }
}

impl From<ShellError> for Failed {
    fn from(error: ShellError) -> Self {
        let code = if error.is_usage() { 2 } else { 1 };
        Self { message: chain(&error), code }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::runtime(error.to_string())
    }
}

/// An error with its sources, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Some(failed) = become_worker(std::env::args_os().skip(1)) {
        eprint_line(&failed.message);
        return ExitCode::from(failed.code);
    }
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Init(args) => init::run(args),
        Command::Batch(args) => batch::run(args, &find_spool(&cli)),
        Command::Run(args) => run::run(args, &find_spool(&cli)),
    };
    match done {
        Ok(code) => code,
        Err(failed) => {
            eprint_line(&format!("error: {}", failed.message));
            ExitCode::from(failed.code)
        }
    }
}

/// The spool that a command works on.
#[derive(Clone, Debug)]
pub(crate) struct SpoolArg {
    /// As the user would write it.
    pub(crate) path: PathBuf,
}

impl SpoolArg {
    /// For messages: `./inbox`, or as it was given.
    pub(crate) fn shown(&self) -> String {
        let text = self.path.display().to_string();
        let is_plain = self.path.is_relative() && !text.starts_with('.');
        if is_plain { format!("./{text}") } else { text }
    }

    /// The settings, or why they cannot be used. `note` follows the errors.
    pub(crate) fn load(&self) -> Result<Loaded, Failed> {
        load(&self.path).map_err(|errors| {
            let mut message = join(&errors);
            message.push_str("\n  Nothing was started.");
            Failed::usage(message)
        })
    }
}

/// Errors of settings, a line each, each but the first with its own `error:`.
pub(crate) fn join(errors: &[ConfigError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\nerror: ")
}

fn find_spool(cli: &Cli) -> SpoolArg {
    if let Some(path) = &cli.spool {
        return SpoolArg { path: path.clone() };
    }
    let here = std::env::current_dir().unwrap_or_default();
    let mut up = PathBuf::new();
    for folder in here.ancestors() {
        if folder.join("inboxd.toml").is_file() {
            let path = if up.as_os_str().is_empty() { PathBuf::from(".") } else { up };
            return SpoolArg { path };
        }
        up.push("..");
    }
    SpoolArg { path: PathBuf::from("inbox") }
}

/// Prints a line on stdout. A reader that has gone away (`| head`) is no error.
pub(crate) fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{line}"));
}

/// Prints a line on stderr.
pub(crate) fn eprint_line(line: &str) {
    let mut out = io::stderr().lock();
    drop(writeln!(out, "{line}"));
}

/// `path` below the spool, as it can be pasted.
pub(crate) fn below(spool: &SpoolArg, path: impl AsRef<Path>) -> String {
    spool.path.join(path).display().to_string()
}
