//! The command line: one file a command, and what they share.
//!
//! Must not know: how anything is done; it asks the other rooms and prints. Printing and exit codes are
//! here and in `main.rs`, nowhere else.
//!
//! Exit codes: 0 fine, 1 runtime failure (a restart may help; also *already served*), 2 usage or
//! settings (it does not help), 3 a job of this run failed: `batch`, `try`, and `submit`, `retry` and
//! `rerun` with `--wait`.
//!
//! What all commands share: a job is named as `target` says, its failure found by `failure`, waited for by
//! `wait`, and words are chosen in `show`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Parser, Subcommand};
use rustix::io::Errno;

use crate::config::{ConfigError, Loaded, limits, load};
use crate::daemon::control::{Ask, Client};
use crate::daemon::keeper::{KeeperError, Shortage, chain};
use crate::daemon::shell::ShellError;
use crate::daemon::supervisor::{Leash, Supervised, supervise};
use crate::spool::lock::LockError;
use crate::worker::warm::launch::become_worker;

mod batch;
mod check;
mod completions;
mod cut_off;
mod examples;
mod explain;
mod failure;
mod init;
mod jobs;
mod log;
mod man;
mod move_in;
mod progress;
mod rerun;
mod results;
mod retry;
mod routes;
mod run;
mod show;
mod status;
mod submit;
mod target;
mod teller;
mod try_out;
mod wait;

/// Drop a file into a folder and it is processed, once, for certain.
///
/// A file that arrives in SPOOL/incoming/ is claimed by an atomic rename, given to a worker (your
/// script) in a bounded pool, and ends in done/ or, with the reason kept, in error/. What the worker
/// prints becomes rows of a CSV in results/.
///
/// A JOB is named by the path it had below incoming/, by the beginning of its id, or by a path in the
/// spool such as inbox/error/x.json.
#[derive(Debug, Parser)]
#[command(name = "inboxd", version, max_term_width = 100)]
#[command(
    after_help = "The first ten minutes:\n  inboxd init\n  inboxd run &\n  cp report.pdf inbox/incoming/\n  inboxd status\n\nExit codes: 0 fine; 1 a failure that a restart may mend; 2 usage or settings; 3 a job of this run\nfailed (batch, try, and submit, retry and rerun with --wait)."
)]
pub struct Cli {
    /// The spool [default: the nearest folder upward with inboxd.toml, else ./inbox]
    #[arg(long, global = true, env = "INBOXD_SPOOL", value_name = "DIR")]
    spool: Option<OsString>,
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
    // What the others do is said where their arguments are, since their help says more of it.
    Submit(submit::Args),
    Status(status::Args),
    Jobs(jobs::Args),
    Log(log::Args),
    Results(results::Args),
    Explain(explain::Args),
    Retry(retry::Args),
    Rerun(rerun::Args),
    Routes(routes::Args),
    Try(try_out::Args),
    Check(check::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// What a command ends with when it cannot go on.
#[derive(Debug)]
pub(crate) struct Failed {
    /// For a person: what is wrong, and what to do.
    pub(crate) message: String,
    /// 1 or 2.
    pub(crate) code: u8,
    /// What stands before the message: `error`, or `fatal` where the daemon had to end.
    pub(crate) word: &'static str,
}

impl Failed {
    /// A restart may help.
    pub(crate) fn runtime(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, word: "error" }
    }

    /// A restart does not help.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2, word: "error" }
    }
}

impl From<ShellError> for Failed {
    fn from(error: ShellError) -> Self {
        let code = if error.is_usage() { 2 } else { 1 };
        Self { message: limited(chain(&error), &error), code, word: "error" }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::runtime(error.to_string())
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Some(failed) = become_worker(std::env::args_os().skip(1)) {
        eprint_line(&failed.message);
        return ExitCode::from(failed.code);
    }
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Init(args) => init::run(args, cli.named_spool()),
        Command::Batch(args) => batch::run(args, &find_spool(&cli)),
        Command::Run(args) => run::run(args, &find_spool(&cli)),
        Command::Submit(args) => submit::run(args, &find_spool(&cli)),
        Command::Status(args) => status::run(args, &find_spool(&cli)),
        Command::Jobs(args) => jobs::run(args, &find_spool(&cli)),
        Command::Log(args) => log::run(args, &find_spool(&cli)),
        Command::Results(args) => results::run(args, &find_spool(&cli)),
        Command::Explain(args) => explain::run(args, &find_spool(&cli)),
        Command::Retry(args) => retry::run(args, &find_spool(&cli)),
        Command::Rerun(args) => rerun::run(args, &find_spool(&cli)),
        Command::Routes(args) => routes::run(args, &find_spool(&cli)),
        Command::Try(args) => try_out::run(args, &find_spool(&cli)),
        Command::Check(args) => check::run(args, &find_spool(&cli)),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    };
    let done = done.and_then(|code| match UNPRINTED.get() {
        Some(error) if code == ExitCode::SUCCESS => Err(unprinted(error)),
        _ => Ok(code),
    });
    match done {
        Ok(code) => code,
        Err(failed) => {
            eprint_line(&format!("{}: {}", failed.word, failed.message));
            ExitCode::from(failed.code)
        }
    }
}

/// Divides the program in supervisor and daemon; `serve` runs as the daemon.
///
/// `stopped` is the end of one that was stopped before it had begun.
pub(crate) fn supervised(
    stopped: ExitCode,
    serve: impl FnOnce(Leash) -> Result<ExitCode, Failed>,
) -> Result<ExitCode, Failed> {
    match supervise(std::env::args_os()) {
        Ok(Supervised::Daemon(leash)) => serve(leash),
        Ok(Supervised::Stopped) => Ok(stopped),
        Ok(Supervised::Ended { code, signal }) => {
            if let Some(signal) = signal {
                let name =
                    signal_hook::low_level::signal_name(signal).unwrap_or("an unknown signal");
                eprint_line(&format!(
                    "fatal: inboxd was ended by {name}\n  No accepted file is lost: jobs not yet recorded run \
                     again at the next start."
                ));
            }
            Ok(ExitCode::from(code))
        }
        Err(error) => {
            let message = format!("cannot start the daemon's process: {error}");
            Err(Failed::runtime(limited(message, &error)))
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

    /// The settings, or why they cannot be used.
    pub(crate) fn load(&self) -> Result<Loaded, Failed> {
        self.load_or("Nothing was started.")
    }

    /// The same; `note` follows the errors.
    pub(crate) fn load_or(&self, note: &str) -> Result<Loaded, Failed> {
        self.must_be_folder()?;
        load(&self.path).map_err(|errors| Failed::usage(format!("{}\n  {note}", join(&errors))))
    }

    fn must_be_folder(&self) -> Result<(), Failed> {
        if self.path.is_file() {
            let shown = self.shown();
            return Err(Failed::usage(format!(
                "{shown} is a file: --spool and INBOXD_SPOOL name the folder that holds inboxd.toml"
            )));
        }
        Ok(())
    }

    /// That there is a spool, for the commands that only look.
    pub(crate) fn must_exist(&self) -> Result<(), Failed> {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        let Err(error) = std::fs::metadata(self.path.join("inboxd.toml")) else { return Ok(()) };
        if self.path.join("journal").is_dir() {
            return Ok(());
        }
        match error.kind() {
            NotFound | NotADirectory => {}
            PermissionDenied => {
                return Err(Failed::runtime(format!(
                    "cannot look into {}: Permission denied\n  Run the command as the user or in \
                     the group that inboxd runs as.",
                    self.shown()
                )));
            }
            // A disk that fails: `init` would be no help.
            _ => {
                let place = below(self, "inboxd.toml");
                return Err(Failed::runtime(format!("cannot read {place}: {error}")));
            }
        }
        self.must_be_folder()?;
        Err(Failed::usage(format!(
            "{} is no spool: there is no inboxd.toml in it\n  `inboxd init` makes one; --spool DIR \
             names another.",
            self.shown()
        )))
    }

    /// Whether a daemon serves it. One that cannot be spoken with is an error.
    pub(crate) fn ask(&self, ask: &Ask) -> Result<Option<Client>, Failed> {
        self.must_be_folder()?;
        match Client::ask(&self.path, ask) {
            Ok(Some(client)) => {
                // What is handed in may be large, and a batch is followed to its end.
                if !matches!(ask, Ask::Submit { .. } | Ask::Batch { .. }) {
                    client.patience(limits::ANSWER_PATIENCE)?;
                }
                Ok(Some(client))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map_err(|error| {
                let place = below(self, "inboxd.sock");
                Failed::runtime(format!(
                    "cannot speak with the running inboxd: {error} ({place})\n  Run the command \
                     as the user or in the group that inboxd runs as."
                ))
            }),
        }
    }

    /// Why a daemon could not serve it, as the user would write the spool.
    pub(crate) fn failed(&self, error: ShellError) -> Failed {
        if let Some(owner) = self.foreign_owner().filter(|_| is_forbidden(&error)) {
            return Failed::runtime(format!(
                "{}\n  {} belongs to user {owner}: run inboxd as that user, or give it to this one.",
                chain(&error),
                self.shown()
            ));
        }
        if let ShellError::Keeper(error) = &error {
            return self.fatal(error);
        }
        let ShellError::Lock(LockError::Held { pid, .. }) = &error else { return error.into() };
        let mut message = format!("{} is already served by inboxd", self.shown());
        message.extend(pid.map(|pid| format!(" pid {pid}")));
        // The socket is made when the daemon starts, and by nobody else; again only where it was removed.
        let socket = std::fs::metadata(self.path.join("inboxd.sock"));
        if let Ok(since) = socket.and_then(|meta| meta.modified()) {
            message.extend([" (since ", &show::day_and_minute(since), ")"]);
        }
        if self.is_told_to_stop() {
            message.push_str(
                "\n  It was told to stop, and ends once what runs has ended. Run this again then.",
            );
        }
        Failed::runtime(message)
    }

    /// Whose spool it is where it is not this user's, such as one that root made for a service.
    fn foreign_owner(&self) -> Option<u32> {
        let owner = std::fs::metadata(self.path.join("journal")).ok()?.uid();
        (owner != rustix::process::geteuid().as_raw()).then_some(owner)
    }

    fn is_told_to_stop(&self) -> bool {
        let status = self.ask(&Ask::Status).ok().flatten().and_then(|mut it| it.next_answer().ok());
        let draining = status.flatten().and_then(|status| status.get("draining")?.as_bool());
        draining == Some(true)
    }

    /// The promise cannot be kept any longer: what failed, what that means, what to do.
    fn fatal(&self, error: &KeeperError) -> Failed {
        if let KeeperError::FolderLost { .. } = error {
            let message = format!(
                "{error} ({})\n  What stood in it went with it; all else is as it was. Start inboxd \
                 again: it makes what is missing.",
                self.shown(),
            );
            return Failed { message, code: 1, word: "fatal" };
        }
        let free = crate::fs::real::free_space(&self.path).map_or(0, |(free, _)| free);
        let of = Shortage::of(error).on(&self.path);
        // Of rights only where a CSV is what they are wanted on.
        let is_full = error.is_shortage() || !matches!(of, Shortage::Disk | Shortage::Rights);
        let message = format!(
            "{} ({}, {} free)\n  No accepted file is lost: jobs not yet recorded run again. {}, then \
             start inboxd.",
            chain(error),
            self.shown(),
            show::size(free),
            match error {
                KeeperError::StoppedShort(of) => of.remedy(),
                _ if is_full => of.remedy(),
                _ if errnos(error).any(|errno| errno == Errno::AGAIN) => MORE_PROCESSES,
                _ if errnos(error).any(|errno| errno == Errno::XDEV) => {
                    "A folder of the spool is a mount of its own (findmnt): put the whole spool on one filesystem"
                }
                _ if errnos(error).any(|errno| errno == Errno::PERM) => {
                    "It is immutable or append-only, or its folder is (lsattr, chattr -ia): undo that"
                }
                _ if is_in_the_way(error) => "Look at what is there (ls -ld, lsattr -d)",
                _ => "Look at the disk (dmesg)",
            }
        );
        Failed { message, code: 1, word: "fatal" }
    }
}

/// What to do where there is no process or thread to be had.
const MORE_PROCESSES: &str = "Raise the limit of processes (TasksMax= of the unit, or ulimit -u)";

/// A message with the limit that is to be raised, where the error is of one.
fn limited(mut message: String, error: &(dyn std::error::Error + 'static)) -> String {
    let remedy = errnos(error).find_map(|errno| match errno {
        Errno::MFILE | Errno::NFILE => Some(Shortage::Files.remedy()),
        Errno::AGAIN => Some(MORE_PROCESSES),
        _ => None,
    });
    message.extend(remedy.map(|remedy| format!("\n  {remedy}, then try again.")));
    message
}

/// What the system said, of an error and of what it came from.
fn errnos<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = Errno> + 'a {
    io_errors(error).filter_map(Errno::from_io_error)
}

fn io_errors<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a io::Error> + 'a {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.filter_map(|error| error.downcast_ref())
}

/// Whether the system refused it for want of rights.
fn is_forbidden(error: &ShellError) -> bool {
    errnos(error).any(|errno| matches!(errno, Errno::PERM | Errno::ACCESS))
}

/// Somebody's doing and not the disk's: permissions, attributes, another thing in place of ours.
fn is_in_the_way(error: &KeeperError) -> bool {
    use io::ErrorKind as Kind;
    io_errors(error).any(|error| {
        matches!(
            error.kind(),
            Kind::PermissionDenied
                | Kind::NotFound
                | Kind::AlreadyExists
                | Kind::DirectoryNotEmpty
                | Kind::NotADirectory
                | Kind::IsADirectory
                | Kind::InvalidInput
        ) || Errno::from_io_error(error) == Some(Errno::LOOP)
    })
}

/// Errors of settings, a line each, each but the first with its own `error:`.
pub(crate) fn join(errors: &[ConfigError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\nerror: ")
}

impl Cli {
    /// What --spool or the variable says. A variable that is empty is one that is not set.
    fn named_spool(&self) -> Option<PathBuf> {
        self.spool.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

fn find_spool(cli: &Cli) -> SpoolArg {
    if let Some(path) = cli.named_spool() {
        return SpoolArg { path };
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

/// Why a line could not be printed, for the exit code: half of what was asked for is no success.
static UNPRINTED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line on stdout. A reader that has gone away (`| head`) is no error.
pub(crate) fn print_line(line: &str) {
    let written = writeln!(io::stdout().lock(), "{line}");
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        // The first one says it.
        drop(UNPRINTED.set(error));
    }
}

/// Prints a JSON value as a line on stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) {
    // Our own values have string keys and no failing serializers.
    print_line(&serde_json::to_string(value).unwrap_or_default());
}

/// A reader that has gone away (`| head`) is no error.
pub(crate) fn unless_gone(written: io::Result<()>) -> Result<(), Failed> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unprinted(&error)),
        _ => Ok(()),
    }
}

fn unprinted(error: &io::Error) -> Failed {
    Failed::runtime(format!("cannot write to standard output: {error}"))
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
