//! Every setting, limit and default; checked once, at start and at a reload.
//!
//! Must not know: the spool's state, workers, the journal. It reads `inboxd.toml` and
//! `routes.d/*.toml`, and either gives [`Settings`] in which nothing needs checking again, or a
//! [`ConfigError`] with file, line and column. Defaults live in [`limits`], nowhere else.

//!
//! - [`load`]: the files of a spool, read and checked.
//! - [`settings_table`]: every setting with default, limit and meaning; decoding goes by it.
//! - `glob`: how a glob is read. [`matching`]: which route takes a name, and which names are no input.
//! - `units`: which folder is one job.
//! - [`companions`]: which files are part of another one's job.
//! - [`selection`]: which route takes a file by what is in it.
//! - [`template`]: the placeholders in a `command`.
//! - [`request`]: what is asked of a runner, and what is taken from its answer.
//! - [`suggest`]: the nearest known name, for "did you mean".
//! - [`initial`]: the `inboxd.toml` that `inboxd init` writes.

mod chain;
pub mod companions;
mod glob;
pub mod initial;
pub mod limits;
mod locate;
pub mod matching;
mod parse;
pub mod request;
mod retry;
pub mod selection;
mod setting;
pub mod suggest;
pub mod template;
mod units;
mod value;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use glob::GlobError;
pub use matching::RouteTable;
#[cfg(any(test, fuzzing))]
pub(crate) use parse::fuzz_settings;
pub use parse::{Loaded, load};
pub use request::HttpRules;
pub use setting::{Place, SettingDoc, settings_table};
pub use value::Limit;

use crate::core::pace::Rate;
use crate::core::retry::RetryOn;
use crate::core::verdict::Spent;

/// All of a spool's settings, checked and with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Slots: how many workers run at once, over all routes. At least 1.
    pub workers: usize,
    /// How long running jobs may go on after TERM or INT.
    pub drain_timeout: Duration,
    /// The timer of the scan that finds what no event told of.
    pub rescan: Duration,
    /// How long a file must be still where nothing better proves it complete. `None`: by what is known of it.
    pub quiet_for: Option<Duration>,
    /// Claiming stops while less than this is free on the spool's filesystem, in bytes.
    pub min_free_disk: u64,
    /// Nothing is started while less memory than this is available, in bytes; 0: it is not looked at.
    pub min_free_memory: u64,
    /// Workers may run as root.
    pub allow_root: bool,
    /// Empty folders in `incoming/` are removed.
    pub prune: bool,
    /// Files of `done/` and `output/` go once they are so old; `None`: never.
    pub retention_age: Option<Duration>,
    /// The oldest of them go until no more than so many bytes are left; `None`: never.
    pub retention_size: Option<u64>,
    /// Both hold for sealed CSVs, too.
    pub retention_results: bool,
    /// Further globs of names below `incoming/` that are not input.
    pub ignore: Vec<String>,
    /// In the order of the file; the first that takes a file has it.
    pub routes: Vec<Route>,
}

impl Default for Settings {
    /// What holds where `inboxd.toml` is silent.
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, NonZero::get),
            drain_timeout: limits::DRAIN_TIMEOUT,
            rescan: limits::RESCAN,
            quiet_for: None,
            min_free_disk: limits::MIN_FREE_DISK,
            min_free_memory: 0,
            allow_root: false,
            prune: false,
            retention_age: None,
            retention_size: None,
            retention_results: false,
            ignore: Vec::new(),
            routes: Vec::new(),
        }
    }
}

/// One route: which files, which worker, and how its results are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// `[a-z0-9_-]+`, not `errors`.
    pub name: String,
    /// The line of its `command`, below the spool, for messages: `inboxd.toml:9`. That is where a
    /// person goes whose route cannot run.
    pub origin: String,
    /// The same of its `interpreter`, where it has one.
    pub interpreter_at: Option<String>,
    /// The same of its `next`.
    pub next_at: Option<String>,
    /// Globs on the relative path; empty takes every file.
    pub glob: Vec<String>,
    /// Members that the JSON object in a file must have; empty: its content does not matter.
    pub fields: selection::Fields,
    /// What a file must be for a worker to see it.
    pub schema: Option<Schema>,
    /// What runs.
    pub worker: Worker,
    /// What one job is.
    pub unit: Unit,
    /// The files that come with a file and are part of its job.
    pub with: Vec<companions::Companion>,
    /// Each record of a file is a task of its own; `None`: the file is one.
    pub records: Option<Records>,
    /// What the worker's stdout means.
    pub stdout: StdoutFormat,
    /// No row is a failure, `no output`.
    pub require_output: bool,
    /// The name of the file that says that a file is whole, with `{name}` in it; `None`: none is needed.
    pub done_file: Option<String>,
    /// What becomes of a file that is in `done/` already.
    pub on_repeat: OnRepeat,
    /// The file is the worker's standard input.
    pub stdin: bool,
    /// When an attempt is ended. Always there.
    pub timeout: Duration,
    /// From TERM to KILL.
    pub grace: Duration,
    /// Further attempts, by budget.
    pub retries: Spent,
    /// Which failures these are for; `None`: all that have a budget.
    pub retry_on: Option<RetryOn>,
    /// Waits before the further attempts of the budget *try again*; the last one repeats.
    pub try_again_after: Vec<Duration>,
    /// Waits before the further attempts of the other budgets.
    pub waits: RetryWaits,
    /// At most so many starts within a time.
    pub rate: Option<Rate>,
    /// At most so many slots for this route; `None`: all of them.
    pub max_workers: Option<usize>,
    /// Higher goes first.
    pub priority: i32,
    /// The last columns are `_file` and `_job`.
    pub trace_columns: bool,
    /// The only columns allowed; `None`: as the rows bring them.
    pub columns: Option<Vec<String>>,
    /// The worker makes files, in `{output}`.
    pub output: bool,
    /// The route whose jobs the made files become.
    pub next: Option<String>,
    /// Variables set for the worker.
    pub env: Vec<(String, String)>,
    /// Variables passed on from the daemon's environment.
    pub pass_env: Vec<String>,
    /// A segment is sealed before it would hold more rows than this.
    pub segment_rows: u64,
    /// A segment is sealed before it would be longer than this, in bytes.
    pub segment_bytes: u64,
    /// Output of one attempt that is read as rows, in bytes.
    pub max_output: u64,
    /// Address space of a worker, in bytes.
    pub max_memory: Option<u64>,
    /// Largest file that a worker may write, in bytes.
    pub max_file_size: Option<u64>,
    /// Open files of a worker.
    pub max_open_files: Option<u64>,
    /// The route pauses after so many failures in a row.
    pub pause_after_failures: Option<u32>,
    /// After so many jobs in a row that crashed their worker, one is tried at a time; 0: never.
    pub pause_after_crashes: usize,
    /// The niceness of its workers, as in nice(1); `None`: the daemon's.
    pub nice: Option<i32>,
    /// What holds for workers that live longer than a job; of no use to a `command`.
    pub warm: WarmRules,
    /// What holds for a runner; of no use to other workers.
    pub http: HttpRules,
}

impl Route {
    /// A route for which nothing but the command is said.
    pub fn new(name: impl Into<String>, argv: Vec<String>) -> Self {
        Self {
            name: name.into(),
            origin: String::new(),
            interpreter_at: None,
            next_at: None,
            glob: Vec::new(),
            fields: Vec::new(),
            schema: None,
            worker: Worker::Command { argv },
            unit: Unit::File,
            with: Vec::new(),
            records: None,
            stdout: StdoutFormat::Text,
            require_output: false,
            done_file: None,
            on_repeat: OnRepeat::Run,
            stdin: false,
            timeout: limits::TIMEOUT,
            grace: limits::GRACE,
            retries: limits::RETRIES,
            retry_on: None,
            try_again_after: limits::TRY_AGAIN_AFTER.to_vec(),
            waits: RetryWaits::default(),
            rate: None,
            max_workers: None,
            priority: 0,
            trace_columns: true,
            columns: None,
            output: false,
            next: None,
            env: Vec::new(),
            pass_env: Vec::new(),
            segment_rows: limits::SEGMENT_ROWS,
            segment_bytes: limits::SEGMENT_BYTES,
            max_output: limits::MAX_OUTPUT,
            max_memory: None,
            max_file_size: None,
            max_open_files: None,
            pause_after_failures: None,
            pause_after_crashes: limits::PAUSE_AFTER_CRASHES,
            nice: None,
            warm: WarmRules::default(),
            http: HttpRules::default(),
        }
    }
}

/// Waits before further attempts: the first, doubled each time, up to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryWaits {
    /// Before the second attempt.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
    /// Each wait, those of *try again* too, is so many percent shorter or longer at most.
    pub jitter_percent: u64,
}

impl Default for RetryWaits {
    fn default() -> Self {
        let (first, longest) = (limits::RETRY_FIRST_WAIT, limits::RETRY_LONGEST_WAIT);
        Self { first, longest, jitter_percent: limits::RETRY_JITTER_PERCENT }
    }
}

/// A JSON Schema of a route's input. Displayed as a message names it.
#[derive(Clone, Debug, PartialEq)]
pub enum Schema {
    /// A file, relative to the spool.
    File(String),
    /// In the settings themselves; it is one.
    Inline(serde_json::Map<String, serde_json::Value>),
}

impl std::fmt::Display for Schema {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(name) => to.write_str(name),
            Self::Inline(_) => to.write_str("`schema`"),
        }
    }
}

/// What becomes of a file with the path, size, mtime and content of one in `done/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRepeat {
    /// It runs like any other.
    Run,
    /// It is settled as a duplicate, without a worker.
    Skip,
}

impl Route {
    /// Whether a job fares the same with both: they may stand at other lines.
    pub fn works_like(&self, other: &Self) -> bool {
        let moved = Self {
            origin: self.origin.clone(),
            interpreter_at: self.interpreter_at.clone(),
            next_at: self.next_at.clone(),
            ..other.clone()
        };
        *self == moved
    }

    /// Where a person mends a worker that cannot run: "`command` at inboxd.toml:9"; or in which file.
    pub fn place_to_mend(&self, reason: &str) -> String {
        let key = match &self.worker {
            Worker::Command { .. } => "command",
            Worker::Warm { .. } => "warm",
            Worker::Python { .. } => "python",
            Worker::Http { .. } => "http",
        };
        // Not the settings' fault: a limit of the daemon's own, by the system's number for it.
        let limits = [
            ("(os error 24)", "the limit of open files (LimitNOFILE= of the unit, or ulimit -n)"),
            ("(os error 11)", "the limit of processes (TasksMax= of the unit, or ulimit -u)"),
        ];
        if let Some((_, limit)) = limits.iter().find(|(number, _)| reason.contains(number)) {
            return (*limit).to_owned();
        }
        if reason.starts_with("the spool is no longer at ") {
            return "that: move it back, or end inboxd and start it where the spool is now"
                .to_owned();
        }
        if reason.contains(" before it was ready (with max_memory = ") {
            return format!(
                "`max_memory` in [routes.{}] if it is too little, else the worker",
                self.name
            );
        }
        if reason.contains(": nice = ") {
            return format!("`nice` in [routes.{}], or LimitNICE= of the unit", self.name);
        }
        if let Some(Schema::File(file)) = &self.schema
            && (reason.starts_with(&format!("cannot read the schema {file}: "))
                || reason.starts_with(&format!("{file} is no")))
        {
            return format!("{file}, or `schema` in [routes.{}]", self.name);
        }
        match (&self.interpreter_at, &self.worker) {
            (Some(at), _) if reason.contains(&format!("{:?}", self.warm.interpreter)) => {
                format!("`interpreter` at {at}")
            }
            // What is wrong with a function is mostly in its own file.
            (_, Worker::Python { file, .. }) if reason.contains(file.as_str()) => {
                format!("{file}, or `python` at {}", self.origin)
            }
            (_, Worker::Http { .. }) if reason.starts_with("cannot start ") => {
                format!("`start`, beside `http` at {}", self.origin)
            }
            (_, Worker::Http { .. })
                if reason.starts_with("header ") || reason.starts_with("HTTP 401 ") =>
            {
                format!("`headers`, beside `http` at {}", self.origin)
            }
            _ => format!("`{key}` at {}", self.origin),
        }
    }
}

/// What runs for a route.
#[derive(Clone, Debug, PartialEq)]
pub enum Worker {
    /// A process a file. The first element is the program; placeholders are still in place.
    Command {
        /// The argv template, at least one element.
        argv: Vec<String>,
    },
    /// A process that answers many jobs by the worker protocol.
    Warm {
        /// Program and arguments as they are, at least one element.
        argv: Vec<String>,
    },
    /// A Python function; a shim of ours speaks the worker protocol for it.
    Python {
        /// The file, relative to the spool.
        file: String,
        /// The function in it.
        function: String,
    },
    /// A runner that answers HTTP; how it is asked is in [`Route::http`].
    Http {
        /// The URL; placeholders are still in place.
        url: String,
    },
}

/// How a worker is kept that lives longer than a job.
#[derive(Clone, Debug, PartialEq)]
pub struct WarmRules {
    /// How it is spoken to.
    pub transport: Transport,
    /// From its start to its `ready`.
    pub start_timeout: Duration,
    /// A worker that tells progress is ended after so long without.
    pub progress_timeout: Option<Duration>,
    /// It is replaced after so many jobs, less a random tenth at most.
    pub max_jobs: Option<u64>,
    /// It is replaced when it is so old.
    pub max_age: Option<Duration>,
    /// It is replaced when it holds more memory than this after a job, in bytes.
    pub max_rss: Option<u64>,
    /// It is ended after so long without a job.
    pub idle_timeout: Option<Duration>,
    /// A new worker is ready before the one it replaces is let go.
    pub overlap: bool,
    /// Rows of one job that are held until its result, in bytes of their JSON.
    pub max_staged: u64,
    /// Handed to the worker in its `hello`.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What runs a Python file.
    pub interpreter: String,
    /// How a Python function is called.
    pub call: Call,
}

impl Default for WarmRules {
    fn default() -> Self {
        Self {
            transport: Transport::Fd,
            start_timeout: limits::START_TIMEOUT,
            progress_timeout: None,
            max_jobs: None,
            max_age: None,
            max_rss: None,
            idle_timeout: None,
            overlap: true,
            max_staged: limits::MAX_OUTPUT,
            config: serde_json::Map::new(),
            interpreter: limits::INTERPRETER.to_owned(),
            call: Call::Path,
        }
    }
}

/// How a warm worker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A socket of its own; its stdout is log.
    Fd,
    /// Its stdin and, after a byte 0x1E, its stdout.
    Stdio,
}

/// How a Python function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `f(path)`
    Path,
    /// `f(**payload)`: the file is one JSON object, or, for a route with `fields`, its member `payload`.
    Kwargs,
}

/// What one job of a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A file.
    File,
    /// A folder with all that is in it; it is complete once its sentinel is beside it.
    Folder,
}

/// How the records of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Records {
    /// A line is a record; an empty one is none.
    Lines,
    /// RFC 4180 with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

/// What the stdout of a `command` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StdoutFormat {
    /// An object is a row, an array of objects is rows, NDJSON is rows.
    Json,
    /// The first line is the header, the others are rows.
    Csv,
    /// All of it, without its last newline, is one cell `text`; nothing is no row.
    Text,
    /// `LOG:`, `OUTPUT:` (JSON), `ERROR:` at the start of a line.
    Prefixed,
    /// Log only.
    None,
}

/// The settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The folder is no spool: it has no settings.
    #[error("{} is not there; `inboxd init` makes a spool", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display(), source = reason)]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Something in a file is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong and what to do.
        message: String,
    },
}

impl ConfigError {
    /// The file that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path } | Self::Read { path, .. } | Self::Invalid { path, .. } => path,
        }
    }
}
