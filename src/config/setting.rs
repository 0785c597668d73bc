//! The list of settings: name, default, limit, meaning, and how each is taken over.
//!
//! Must not know: files and lines. What is wrong in one value is said here, what is wrong between
//! two of them in `parse`.
//!
//! Invariants
//! - It is the only list: decoding goes by it, so a setting that is not in it does not exist.
//!   Unknown keys are compared with it, and so is the table of the README.
//! - A default is written here as the file would have it; a test compares it with [`limits`].

use std::collections::BTreeSet;
use std::time::Duration;

use super::companions::Companion;
use super::request::{self, Method};
use super::template::{self, Part};
use super::value::{Checked, Limit, Problem, Value};
use super::{
    Call, OnRepeat, Records, Route, Schema, Settings, StdoutFormat, Transport, Unit, Worker,
    limits, matching, retry,
};

/// Every setting, those of the spool first.
pub fn settings_table() -> &'static [SettingDoc] {
    TABLE
}

/// One setting, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct SettingDoc {
    /// The key.
    pub name: &'static str,
    /// As the file would have it; in words, without quotes, where there is no value to write.
    pub default: &'static str,
    /// What it takes.
    pub limit: Limit,
    /// What it does, as one phrase.
    pub meaning: &'static str,
    pub(super) set: Set,
}

/// Where a setting stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the top of `inboxd.toml`.
    Top,
    /// In `[routes.NAME]`, or in `routes.d/NAME.toml`.
    Route,
}

/// How a value is taken over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Set {
    Top(fn(&mut Settings, &Value<'_>) -> Checked<()>),
    /// The table of routes itself.
    Routes,
    Route(fn(&mut Route, &Value<'_>) -> Checked<()>),
}

impl SettingDoc {
    /// Where it stands.
    pub fn place(&self) -> Place {
        match self.set {
            Set::Top(_) | Set::Routes => Place::Top,
            Set::Route(_) => Place::Route,
        }
    }
}

/// The setting of that name, if there is one.
pub(super) fn find(place: Place, name: &str) -> Option<&'static SettingDoc> {
    TABLE.iter().find(|doc| doc.place() == place && doc.name == name)
}

/// The names of the settings of a place.
pub(super) fn names(place: Place) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(move |doc| doc.place() == place).map(|doc| doc.name)
}

const fn top(
    name: &'static str,
    default: &'static str,
    limit: Limit,
    meaning: &'static str,
    set: fn(&mut Settings, &Value<'_>) -> Checked<()>,
) -> SettingDoc {
    SettingDoc { name, default, limit, meaning, set: Set::Top(set) }
}

const fn route(
    name: &'static str,
    default: &'static str,
    limit: Limit,
    meaning: &'static str,
    set: fn(&mut Route, &Value<'_>) -> Checked<()>,
) -> SettingDoc {
    SettingDoc { name, default, limit, meaning, set: Set::Route(set) }
}

const fn count(least: i64, most: i64) -> Limit {
    Limit::Count { least, most }
}

const fn time(least: Duration, most: Duration) -> Limit {
    Limit::Time { least, most }
}

const fn size(least: u64) -> Limit {
    Limit::Size { least, most: limits::LARGEST }
}

const BOOLEAN: Limit = Limit::Words("true or false");
const GLOBS: Limit = Limit::Words("a glob, or a list of them");
const VARIABLES: Limit = Limit::Words("a list of names, such as [\"CUDA_VISIBLE_DEVICES\"]");

static TABLE: &[SettingDoc] = &[
    top(
        "workers",
        "CPU cores",
        count(1, limits::MOST_WORKERS),
        "how many jobs run at once, over all routes",
        |s, v| v.count().map(|n| s.workers = n),
    ),
    top(
        "drain_timeout",
        "\"30s\"",
        time(Duration::ZERO, limits::LONGEST_TIME),
        "how long running jobs may go on after TERM or INT",
        |s, v| v.time().map(|t| s.drain_timeout = t),
    ),
    top(
        "rescan",
        "\"60s\"",
        time(limits::SHORTEST_RESCAN, limits::LONGEST_WAIT),
        "how often incoming/ is listed for what no event told of",
        |s, v| v.time().map(|t| s.rescan = t),
    ),
    top(
        "quiet_for",
        "by what is known of the file: 0 to 10 s",
        time(Duration::ZERO, limits::LONGEST_WAIT),
        "how long a file must be still to be complete",
        |s, v| v.time().map(|t| s.quiet_for = Some(t)),
    ),
    top(
        "min_free_disk",
        "\"1 GiB\"",
        size(0),
        "no file is claimed while less is free, nor while less than 2 % is where that is less",
        |s, v| v.size().map(|n| s.min_free_disk = n),
    ),
    top(
        "min_free_memory",
        "\"0 B\"",
        size(0),
        "nothing is started while less is available, in the machine or to inboxd's cgroup",
        |s, v| v.size().map(|n| s.min_free_memory = n),
    ),
    top("allow_root", "false", BOOLEAN, "workers may run as root", |s, v| {
        v.boolean().map(|yes| s.allow_root = yes)
    }),
    top("prune", "false", BOOLEAN, "empty folders in incoming/ are removed", |s, v| {
        v.boolean().map(|yes| s.prune = yes)
    }),
    top(
        "retention_age",
        "keep all",
        time(limits::SHORTEST_RETENTION, limits::LONGEST_RETENTION),
        "files in done/ and output/ are removed once they are so old; never those in error/",
        |s, v| v.time().map(|t| s.retention_age = Some(t)),
    ),
    top(
        "retention_size",
        "keep all",
        size(1),
        "the oldest files in done/ and output/ are removed while all of them have more bytes",
        |s, v| v.size().map(|n| s.retention_size = Some(n)),
    ),
    top("retention_results", "false", BOOLEAN, "both hold for sealed CSVs, too", |s, v| {
        v.boolean().map(|yes| s.retention_results = yes)
    }),
    top(
        "ignore",
        "[]",
        GLOBS,
        "names that are no input, beside the usual temporary ones",
        |s, v| globs(v).map(|globs| s.ignore = globs),
    ),
    SettingDoc {
        name: "routes",
        default: "none",
        limit: Limit::Words("a table for each route, [routes.NAME]"),
        meaning: "which files go to which worker; the first that takes a file has it",
        set: Set::Routes,
    },
    route("glob", "every file", GLOBS, "which files, by their path below incoming/", |r, v| {
        let globs = globs(v)?;
        if globs.is_empty() {
            return Err(v.problem("`glob` is empty; leave it out to take every file".to_owned()));
        }
        r.glob = globs;
        Ok(())
    }),
    route(
        "fields",
        "none",
        Limit::Words(
            "a table of texts, whole numbers or booleans, such as { algorithm = \"ocr\" }",
        ),
        "which files, by members of the JSON object in them",
        |r, v| fields(v).map(|fields| r.fields = fields),
    ),
    route(
        "schema",
        "none",
        Limit::Words("a file such as \"schema.json\", relative to the spool, or a table"),
        "the JSON Schema that a file, or a record, must fit before a worker sees it",
        |r, v| schema(v).map(|schema| r.schema = Some(schema)),
    ),
    route(
        "command",
        "none: to be set",
        Limit::Words("a list of strings, such as [\"python3\", \"count.py\", \"{path}\"]"),
        "what runs for a file: program and arguments, no shell",
        |r, v| command(v).map(|argv| r.worker = Worker::Command { argv }),
    ),
    route(
        "python",
        "none: or this",
        Limit::Words("\"FILE:FUNCTION\", such as \"count.py:count\""),
        "a Python function that is called for each file, in a process that stays",
        |r, v| python(v).map(|worker| r.worker = worker),
    ),
    route(
        "warm",
        "none: or this",
        Limit::Words("a list of strings, such as [\"python3\", \"worker.py\"]"),
        "a program that stays and speaks inboxd-worker/1",
        |r, v| command(v).map(|argv| r.worker = Worker::Warm { argv }),
    ),
    route(
        "http",
        "none: or this",
        Limit::Words("a URL, such as \"http://127.0.0.1:5055/run\""),
        "a runner that is asked for each file; {name} and so on in it, and {FIELD} of the file's JSON",
        |r, v| request::url(v).map(|url| r.worker = Worker::Http { url }),
    ),
    route(
        "records",
        "none: a file is one task",
        Limit::Words("\"lines\", \"csv\" or \"ndjson\""),
        "each record of a file is a task of its own, with its own rows, retries and failure",
        |r, v| v.one_of(&RECORDS).map(|records| r.records = Some(records)),
    ),
    route(
        "unit",
        "\"file\"",
        Limit::Words("\"file\" or \"folder\""),
        "what one job is; a folder with all that is in it needs `done_file` to be complete",
        |r, v| v.one_of(&UNIT).map(|unit| r.unit = unit),
    ),
    route(
        "with",
        "none",
        Limit::Words(
            "a name with {stem} or {name} in it, such as \"{stem}.xmp\", or a list of them",
        ),
        "files that come with a file: it waits for them, and all of them are one job",
        |r, v| companions(v).map(|with| r.with = with),
    ),
    route(
        "done_file",
        "none",
        Limit::Words("a name with {name} in it, such as \"{name}.ok\""),
        "a file, or a folder, is complete once this file is beside it, and goes where it goes",
        |r, v| done_file(v).map(|name| r.done_file = Some(name)),
    ),
    route(
        "on_repeat",
        "\"run\"",
        Limit::Words("\"run\" or \"skip\""),
        "what becomes of a file that is in done/ already: same path, size, mtime and content",
        |r, v| v.one_of(&ON_REPEAT).map(|what| r.on_repeat = what),
    ),
    route("stdin", "false", BOOLEAN, "the file is the worker's standard input", |r, v| {
        v.boolean().map(|yes| r.stdin = yes)
    }),
    route(
        "stdout",
        "\"text\"",
        Limit::Words("\"json\", \"csv\", \"text\", \"prefixed\" or \"none\""),
        "how rows are read from what the worker prints",
        |r, v| v.one_of(&STDOUT).map(|format| r.stdout = format),
    ),
    route("require_output", "false", BOOLEAN, "a job without a row has failed", |r, v| {
        v.boolean().map(|yes| r.require_output = yes)
    }),
    route(
        "timeout",
        "\"1h\"",
        time(limits::SHORTEST_TIMEOUT, limits::LONGEST_TIME),
        "when an attempt is ended",
        |r, v| v.time().map(|t| r.timeout = t),
    ),
    route(
        "grace",
        "\"5s\"",
        time(Duration::ZERO, limits::LONGEST_TIME),
        "from TERM to KILL when a worker is ended; shorter than `drain_timeout`",
        |r, v| v.time().map(|t| r.grace = t),
    ),
    route(
        "retries",
        "{ fail = 0, timeout = 0, oom = 0, crash = 1, lost = 3, try_again = 3, first_wait = \"1s\", \
         longest_wait = \"5m\", jitter = 20 }",
        count(0, limits::MOST_RETRIES),
        "further attempts, by how one ended; a number sets all but `lost`; the wait before one doubles \
         each time, give or take `jitter` percent",
        |r, v| retry::retries(v, &mut r.retries, &mut r.waits),
    ),
    route(
        "retry_on",
        "all that `retries` has attempts for",
        Limit::Words(
            "a list of exit codes and kinds of failure, such as [75, \"timeout\", \"crash\"]",
        ),
        "the failures that are tried again; every other one is final",
        |r, v| retry::retry_on(v).map(|on| r.retry_on = Some(on)),
    ),
    route(
        "try_again_after",
        "[\"10s\", \"1m\", \"5m\"]",
        time(Duration::ZERO, limits::LONGEST_TIME),
        "waits before the further attempts of `try_again`; the last one repeats",
        |r, v| waits(v).map(|waits| r.try_again_after = waits),
    ),
    route(
        "workers",
        "no limit of its own",
        count(1, limits::MOST_WORKERS),
        "how many of them this route may have at once",
        |r, v| v.count().map(|n| r.max_workers = Some(n)),
    ),
    route(
        "priority",
        "0",
        count(-limits::HIGHEST_PRIORITY, limits::HIGHEST_PRIORITY),
        "of the files that wait, those of a higher one go first",
        |r, v| v.count().map(|n| r.priority = n),
    ),
    route(
        "rate",
        "no limit",
        Limit::Words("a number in a time, such as \"10/s\" or \"100/min\""),
        "how many jobs of this route may start within that time",
        |r, v| retry::rate(v).map(|rate| r.rate = Some(rate)),
    ),
    route("trace_columns", "true", BOOLEAN, "the last columns are _file and _job", |r, v| {
        v.boolean().map(|yes| r.trace_columns = yes)
    }),
    route(
        "columns",
        "as the rows bring them",
        Limit::Words(
            "a list of names, such as [\"fruits\", \"meat\"]; with `http` also a table of JSON pointers \
             into a row, such as { id = \"/id\", file = \"{name}\" }",
        ),
        "the only columns allowed, in their order",
        |r, v| {
            if v.is_table() {
                let cells = request::cells(v)?;
                r.columns = Some(cells.iter().map(|(name, _)| name.clone()).collect());
                r.http.cells = Some(cells);
                return Ok(());
            }
            columns(v).map(|columns| r.columns = Some(columns))
        },
    ),
    route("output", "false", BOOLEAN, "the worker makes files, in {output}", |r, v| {
        v.boolean().map(|yes| r.output = yes)
    }),
    route(
        "next",
        "none",
        Limit::Words("the name of a route"),
        "the files that a job made become jobs of that route, named REL.made/FILE",
        |r, v| {
            r.next = Some(program(v)?);
            // Made files are what it is about.
            r.output = true;
            Ok(())
        },
    ),
    route(
        "env",
        "{}",
        Limit::Words("a table of strings, such as { MODEL = \"large\" }"),
        "variables set for the worker",
        |r, v| environment(v).map(|env| r.env = env),
    ),
    route("pass_env", "[]", VARIABLES, "variables passed on from the daemon", |r, v| {
        let names =
            v.list()?.iter().map(|name| variable(name.text()?, name)).collect::<Checked<_>>();
        names.map(|names| r.pass_env = names)
    }),
    route(
        "segment_rows",
        "1000000",
        // A cast is what a constant can have; LARGEST is far below the bound of i64.
        count(1, limits::LARGEST.cast_signed()),
        "rows after which a CSV is sealed and the next one begun",
        |r, v| v.count().map(|n| r.segment_rows = n),
    ),
    route(
        "segment_bytes",
        "\"256 MiB\"",
        size(limits::SMALLEST_SEGMENT),
        "bytes after which a CSV is sealed and the next one begun",
        |r, v| v.size().map(|n| r.segment_bytes = n),
    ),
    route(
        "max_output",
        "\"16 MiB\"",
        Limit::Size { least: 1, most: limits::LARGEST_OUTPUT },
        "what an attempt may print as rows",
        |r, v| v.size().map(|n| r.max_output = n),
    ),
    route(
        "max_memory",
        "no limit",
        size(limits::SMALLEST_MEMORY),
        "address space of a worker",
        |r, v| v.size().map(|n| r.max_memory = Some(n)),
    ),
    route("max_file_size", "no limit", size(0), "largest file a worker may write", |r, v| {
        v.size().map(|n| r.max_file_size = Some(n))
    }),
    route(
        "max_open_files",
        "the daemon's",
        count(limits::FEWEST_OPEN_FILES, limits::MOST_OPEN_FILES),
        "open files of a worker",
        |r, v| v.count().map(|n| r.max_open_files = Some(n)),
    ),
    route(
        "pause_after_failures",
        "never",
        count(1, limits::MOST_FAILURES),
        "the route pauses after so many failed jobs in a row",
        |r, v| v.count().map(|n| r.pause_after_failures = Some(n)),
    ),
    route(
        "pause_after_crashes",
        "5",
        count(0, limits::MOST_CRASHES),
        "after so many jobs in a row that crashed their worker, one is tried a minute until one does not; \
         0: never",
        |r, v| v.count().map(|n| r.pause_after_crashes = n),
    ),
    route(
        "nice",
        "the daemon's",
        count(limits::NICE.0, limits::NICE.1),
        "niceness of the workers: with a higher one they leave the processor to others",
        |r, v| v.count().map(|n| r.nice = Some(n)),
    ),
    route(
        "interpreter",
        "\"python3\"",
        Limit::Words("a program, such as \".venv/bin/python\""),
        "what runs the file of `python`; a path is relative to the spool",
        |r, v| program(v).map(|name| r.warm.interpreter = name),
    ),
    route(
        "call",
        "\"path\"",
        Limit::Words("\"path\" or \"kwargs\""),
        "what the function of `python` gets: the path, or the members of the JSON object in the file; with \
         `fields`, of its `payload`",
        |r, v| v.one_of(&CALLS).map(|call| r.warm.call = call),
    ),
    route(
        "transport",
        "\"fd\"",
        Limit::Words("\"fd\" or \"stdio\""),
        "how a warm worker is spoken to: by a socket of its own, or by stdin and stdout",
        |r, v| v.one_of(&TRANSPORTS).map(|transport| r.warm.transport = transport),
    ),
    route(
        "config",
        "{}",
        Limit::Words("a table of your own, such as { dpi = 72 }"),
        "handed to a warm worker when it starts",
        |r, v| v.json().map(|config| r.warm.config = config),
    ),
    route(
        "start_timeout",
        "\"30s\"",
        time(limits::SHORTEST_TIMEOUT, limits::LONGEST_TIME),
        "how long a warm worker, or a runner of `start`, may take until it is ready",
        |r, v| v.time().map(|t| r.warm.start_timeout = t),
    ),
    route(
        "progress_timeout",
        "none",
        time(limits::SHORTEST_TIMEOUT, limits::LONGEST_TIME),
        "when a warm worker is ended that tells progress and no longer does",
        |r, v| v.time().map(|t| r.warm.progress_timeout = Some(t)),
    ),
    route(
        "max_jobs",
        "no limit",
        count(1, limits::LARGEST.cast_signed()),
        "jobs after which a warm worker is replaced, less a random tenth at most",
        |r, v| v.count().map(|n| r.warm.max_jobs = Some(n)),
    ),
    route(
        "max_age",
        "no limit",
        time(limits::SHORTEST_TIMEOUT, limits::LONGEST_TIME),
        "age at which a warm worker is replaced",
        |r, v| v.time().map(|t| r.warm.max_age = Some(t)),
    ),
    route(
        "max_rss",
        "no limit",
        size(limits::SMALLEST_MEMORY),
        "memory in use after a job at which a warm worker is replaced",
        |r, v| v.size().map(|n| r.warm.max_rss = Some(n)),
    ),
    route(
        "idle_timeout",
        "none",
        time(limits::SHORTEST_TIMEOUT, limits::LONGEST_TIME),
        "when a warm worker without a job is ended",
        |r, v| v.time().map(|t| r.warm.idle_timeout = Some(t)),
    ),
    route(
        "overlap",
        "true",
        BOOLEAN,
        "a new warm worker is ready before the one it replaces is ended",
        |r, v| v.boolean().map(|yes| r.warm.overlap = yes),
    ),
    route(
        "max_staged",
        "\"16 MiB\"",
        Limit::Size { least: 1, most: limits::LARGEST_OUTPUT },
        "rows of a job that are held for a warm worker until its result",
        |r, v| v.size().map(|n| r.warm.max_staged = n),
    ),
    route(
        "method",
        "\"POST\"",
        Limit::Words("\"GET\", \"POST\", \"PUT\", \"PATCH\" or \"DELETE\""),
        "how the runner of `http` is asked; with `records` and no `body` it is GET",
        |r, v| v.one_of(&METHODS).map(|method| r.http.method = method),
    ),
    route(
        "body",
        "\"file\"",
        Limit::Words(
            "\"file\", \"json\" or a table, such as { text = \"{/text}\", file = \"{name}\" }",
        ),
        "what the runner gets: the file, the file if it is JSON, or JSON made of its members",
        |r, v| request::body(v).map(|body| r.http.body = body),
    ),
    route(
        "headers",
        "{}",
        Limit::Words("a table of strings, such as { Authorization = \"Bearer $env:TOKEN\" }"),
        "headers of the request; $env:NAME is a variable of the daemon's",
        |r, v| request::headers(v).map(|headers| r.http.headers = headers),
    ),
    route(
        "rows",
        "all of the answer",
        Limit::Words("a JSON pointer, such as \"/details\""),
        "where in the runner's answer the rows are: an object is one, a list of objects many",
        |r, v| request::pointer(v).map(|rows| r.http.rows = rows),
    ),
    route(
        "start",
        "none: the runner is there",
        Limit::Words("a list of strings, such as [\"uvicorn\", \"app:app\"]"),
        "the runner of `http`: started for the first file, and again when it dies",
        |r, v| command(v).map(|argv| r.http.start = Some(argv)),
    ),
    route(
        "ready_url",
        "none: its port accepts connections",
        Limit::Words("a URL, such as \"http://127.0.0.1:5055/health\""),
        "what answers with 2xx once a runner of `start` is ready",
        |r, v| request::plain_url(v).map(|url| r.http.ready_url = Some(url)),
    ),
];

const CALLS: [(&str, Call); 2] = [("path", Call::Path), ("kwargs", Call::Kwargs)];
const TRANSPORTS: [(&str, Transport); 2] = [("fd", Transport::Fd), ("stdio", Transport::Stdio)];

const METHODS: [(&str, Method); 5] = [
    ("GET", Method::Get),
    ("POST", Method::Post),
    ("PUT", Method::Put),
    ("PATCH", Method::Patch),
    ("DELETE", Method::Delete),
];
const RECORDS: [(&str, Records); 3] =
    [("lines", Records::Lines), ("csv", Records::Csv), ("ndjson", Records::Ndjson)];

const STDOUT: [(&str, StdoutFormat); 5] = [
    ("json", StdoutFormat::Json),
    ("csv", StdoutFormat::Csv),
    ("text", StdoutFormat::Text),
    ("prefixed", StdoutFormat::Prefixed),
    ("none", StdoutFormat::None),
];

const UNIT: [(&str, Unit); 2] = [("file", Unit::File), ("folder", Unit::Folder)];

const ON_REPEAT: [(&str, OnRepeat); 2] = [("run", OnRepeat::Run), ("skip", OnRepeat::Skip)];

fn done_file(v: &Value<'_>) -> Checked<String> {
    let text = v.text()?;
    let rest = text.replacen("{name}", "", 1);
    if rest == text || rest.is_empty() || rest.contains(['{', '}', '/', '\0']) {
        return Err(v.problem(format!(
            "`done_file` = {text:?} is no name beside a file's; write {}",
            v.limit
        )));
    }
    Ok(text.to_owned())
}

fn companions(v: &Value<'_>) -> Checked<Vec<Companion>> {
    let read = |value: &Value<'_>| {
        let text = value.text()?;
        Companion::parse(text).map_err(|why| value.problem(format!("{why}; write {}", v.limit)))
    };
    if v.is_text() { read(v).map(|one| vec![one]) } else { v.list()?.iter().map(read).collect() }
}

fn globs(v: &Value<'_>) -> Checked<Vec<String>> {
    let given = if v.is_text() { vec![*v] } else { v.list()? };
    let mut globs = Vec::new();
    for value in given {
        let glob = value.text()?;
        matching::check(&[glob]).map_err(|e| value.problem(e.to_string()))?;
        globs.push(glob.to_owned());
    }
    // Each may be small enough and all of them not.
    matching::check(&globs).map_err(|e| v.problem(e.to_string()))?;
    Ok(globs)
}

/// What a person writes in a message to say what it is about.
fn fields(v: &Value<'_>) -> Checked<super::selection::Fields> {
    let mut fields = Vec::new();
    for (name, value) in v.table()? {
        // Read under the setting's own name: the message is about what a member may be.
        let value = Value { name: v.name, ..value };
        if matches!(value.given.get_ref(), toml::de::DeValue::Float(_))
            || !matches!(
                value.json_value()?,
                serde_json::Value::String(_)
                    | serde_json::Value::Bool(_)
                    | serde_json::Value::Number(_)
            )
        {
            let name: &str = name.get_ref();
            return Err(value.problem(format!("`fields` compares {name:?}; write {}", v.limit)));
        }
        fields.push((name.get_ref().to_string(), value.json_value()?));
    }
    if fields.is_empty() {
        return Err(v.problem("`fields` is empty; leave it out to take any content".to_owned()));
    }
    Ok(fields)
}

fn schema(v: &Value<'_>) -> Checked<Schema> {
    if v.is_text() {
        return program(v).map(Schema::File);
    }
    let table = v.json()?;
    // Its file may come later, what stands here must be right now.
    match jsonschema::validator_for(&serde_json::Value::Object(table.clone())) {
        Ok(_) => Ok(Schema::Inline(table)),
        Err(error) => Err(v.problem(format!("`schema` is no JSON Schema: {error}"))),
    }
}

/// `FILE:FUNCTION`, the last colon deciding.
fn python(v: &Value<'_>) -> Checked<Worker> {
    let text = v.text()?;
    let is_name = |name: &str| {
        name.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    match text.rsplit_once(':') {
        Some((file, function))
            if !file.is_empty()
                && !function.is_empty()
                && is_name(function)
                && !text.contains('\0') =>
        {
            Ok(Worker::Python { file: file.to_owned(), function: function.to_owned() })
        }
        _ => Err(v.problem(format!("`python` = {text:?} is no function; write {}", v.limit))),
    }
}

fn program(v: &Value<'_>) -> Checked<String> {
    let text = v.text()?;
    if text.is_empty() || text.contains('\0') {
        return Err(v.problem(format!("`{}` names nothing; write {}", v.name, v.limit)));
    }
    Ok(text.to_owned())
}

/// The argv of `command`, and of `warm` and `start`, which are for many files and have no placeholder.
fn command(v: &Value<'_>) -> Checked<Vec<String>> {
    let key = v.name;
    if v.is_text() {
        let words: Vec<&str> = v.text()?.split_whitespace().collect();
        let words = if words.is_empty() { vec!["sha256sum", "{path}"] } else { words };
        return Err(v.problem(format!(
            "`{key}` must be a list, since no shell takes it apart: write {key} = {words:?}"
        )));
    }
    let mut argv = Vec::new();
    for value in v.list()? {
        let text = value.text()?;
        let parts = match key {
            "warm" | "start" => vec![Part::Literal(text.to_owned())],
            _ => template::parse(text).map_err(|e| value.problem(e.to_string()))?,
        };
        if text.contains('\0') {
            return Err(value.problem("no program takes an argument with \\u0000".to_owned()));
        }
        // Who may drop a file must not be able to choose what runs.
        if argv.is_empty() && !matches!(parts.as_slice(), [Part::Literal(_)]) {
            return Err(value.problem(
                "the first element is the program and has no placeholder: write its name or path"
                    .to_owned(),
            ));
        }
        argv.push(text.to_owned());
    }
    if argv.is_empty() {
        return Err(v.problem(format!("`{key}` is empty; write {}", v.limit)));
    }
    Ok(argv)
}

fn waits(v: &Value<'_>) -> Checked<Vec<Duration>> {
    let given = if v.is_text() { vec![*v] } else { v.list()? };
    if given.is_empty() || given.len() > limits::MOST_WAITS {
        let most = limits::MOST_WAITS;
        let message = format!("`{}` lists 1 to {most} times, such as [\"10s\", \"1m\"]", v.name);
        return Err(v.problem(message));
    }
    given.iter().map(Value::time).collect()
}

fn columns(v: &Value<'_>) -> Checked<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut columns = Vec::new();
    for value in v.list()? {
        let name = value.text()?;
        if name.is_empty() {
            return Err(value.problem("a column must have a name".to_owned()));
        }
        if !seen.insert(name) {
            let message = format!("column {name:?} is there twice; take one of them out");
            return Err(value.problem(message));
        }
        columns.push(name.to_owned());
    }
    if columns.is_empty() {
        let message = "`columns` is empty; leave it out to take them as the rows bring them";
        return Err(v.problem(message.to_owned()));
    }
    Ok(columns)
}

fn environment(v: &Value<'_>) -> Checked<Vec<(String, String)>> {
    let mut env = Vec::new();
    for (key, value) in v.table()? {
        let name = variable(key.get_ref(), &value)
            .map_err(|problem| Problem { span: key.span(), ..problem })?;
        let Some(text) = value.given.get_ref().as_str() else {
            return Err(value.problem(format!("variable {name} must be a string, in quotes")));
        };
        if text.contains('\0') {
            return Err(value.problem(format!("variable {name} cannot hold \\u0000")));
        }
        env.push((name, text.to_owned()));
    }
    Ok(env)
}

/// Checks the name of an environment variable.
fn variable(name: &str, value: &Value<'_>) -> Checked<String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(
            value.problem(format!("{name:?} is no name of a variable; write it without `=`"))
        );
    }
    if name.starts_with("INBOXD_") {
        return Err(value.problem(format!("{name} is set by inboxd; choose another name")));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::request::Body;
    use super::super::{RetryWaits, load};
    use super::*;
    use crate::core::pace::Rate;
    use crate::core::retry::RetryOn;
    use crate::core::verdict::{FailClass, Spent};

    /// Settings from one line, at the top or in a route.
    fn with(place: Place, line: &str) -> Settings {
        let text = match place {
            Place::Top => line.to_owned(),
            Place::Route
                if ["command", "python", "warm", "http"].iter().any(|k| line.starts_with(k)) =>
            {
                format!("[routes.r]\n{line}")
            }
            Place::Route if line.starts_with("next") => {
                format!("[routes.r]\ncommand = ['true']\n{line}\n[routes.s]\ncommand = ['true']")
            }
            Place::Route => format!("[routes.r]\ncommand = ['true']\n{line}"),
        };
        let spool = tempfile::tempdir().unwrap();
        std::fs::write(spool.path().join("inboxd.toml"), &text).unwrap();
        load(spool.path()).unwrap_or_else(|errors| panic!("{text}: {errors:?}")).settings
    }

    /// A value for each setting that is not its default, as the file would have it.
    const OTHER: &[(Place, &str, &str)] = &[
        (Place::Top, "workers", "1000"),
        (Place::Top, "drain_timeout", "'31s'"),
        (Place::Top, "rescan", "'61s'"),
        (Place::Top, "quiet_for", "'1s'"),
        (Place::Top, "min_free_disk", "'2 GiB'"),
        (Place::Top, "min_free_memory", "'1 GiB'"),
        (Place::Top, "allow_root", "true"),
        (Place::Top, "prune", "true"),
        (Place::Top, "retention_age", "'90d'"),
        (Place::Top, "retention_size", "'50 GiB'"),
        (Place::Top, "retention_results", "true"),
        (Place::Top, "ignore", "'*.bak'"),
        (Place::Top, "routes", "{ r = { command = ['true'] } }"),
        (Place::Route, "glob", "['a', 'b']"),
        (Place::Route, "fields", "{ algorithm = 'ocr' }"),
        (Place::Route, "schema", "'schema.json'"),
        (Place::Route, "command", "['false']"),
        (Place::Route, "python", "'a.py:f'"),
        (Place::Route, "warm", "['false']"),
        (Place::Route, "http", "'http://h/'"),
        (Place::Route, "records", "'ndjson'"),
        (Place::Route, "unit", "'folder'\ndone_file = '{name}.ok'"),
        (Place::Route, "with", "['{stem}.xmp']"),
        (Place::Route, "done_file", "'{name}.ok'"),
        (Place::Route, "on_repeat", "'skip'"),
        (Place::Route, "stdin", "true"),
        (Place::Route, "stdout", "'csv'"),
        (Place::Route, "require_output", "true"),
        (Place::Route, "timeout", "'2h'"),
        (Place::Route, "grace", "'6s'"),
        (
            Place::Route,
            "retries",
            "{ fail = 9, timeout = 8, oom = 7, crash = 6, try_again = 5, first_wait = '2s', \
             longest_wait = '1m', jitter = 0 }",
        ),
        (Place::Route, "retry_on", "[75, 'crash']"),
        (Place::Route, "try_again_after", "['10s', '1m']"),
        (Place::Route, "workers", "1"),
        (Place::Route, "priority", "-1"),
        (Place::Route, "rate", "'10/s'"),
        (Place::Route, "trace_columns", "false"),
        (Place::Route, "columns", "['a']"),
        (Place::Route, "output", "true"),
        (Place::Route, "next", "'s'"),
        (Place::Route, "env", "{ A = 'b' }"),
        (Place::Route, "pass_env", "['A']"),
        (Place::Route, "segment_rows", "2"),
        (Place::Route, "segment_bytes", "'1 MiB'"),
        (Place::Route, "max_output", "'1 MiB'"),
        (Place::Route, "max_memory", "'1 GiB'"),
        (Place::Route, "max_file_size", "'1 GiB'"),
        (Place::Route, "max_open_files", "64"),
        (Place::Route, "pause_after_failures", "5"),
        (Place::Route, "pause_after_crashes", "6"),
        (Place::Route, "nice", "19"),
        (Place::Route, "interpreter", "'.venv/bin/python'"),
        (Place::Route, "call", "'kwargs'"),
        (Place::Route, "transport", "'stdio'"),
        (Place::Route, "config", "{ dpi = 72, deep = { a = [1.5, true, 'x'] } }"),
        (Place::Route, "start_timeout", "'31s'"),
        (Place::Route, "progress_timeout", "'1s'"),
        (Place::Route, "max_jobs", "7"),
        (Place::Route, "max_age", "'1h'"),
        (Place::Route, "max_rss", "'1 GiB'"),
        (Place::Route, "idle_timeout", "'10m'"),
        (Place::Route, "overlap", "false"),
        (Place::Route, "max_staged", "'1 MiB'"),
        (Place::Route, "method", "'PUT'"),
        (Place::Route, "body", "{ a = '{/b}' }"),
        (Place::Route, "headers", "{ A = 'b' }"),
        (Place::Route, "rows", "'/a'"),
        (Place::Route, "start", "['false']"),
        (Place::Route, "ready_url", "'http://h/ready'"),
    ];

    /// Goal: the list is whole: each setting in it is taken over, and none stands in it twice.
    /// Method: another value for each; the settings must differ from those without the line.
    #[test]
    fn every_setting_is_taken_over() {
        let names = |place| names(place).collect::<Vec<_>>();
        for place in [Place::Top, Place::Route] {
            let other = OTHER.iter().filter(|(p, _, _)| *p == place).map(|(_, name, _)| *name);
            assert_eq!(names(place), other.collect::<Vec<_>>());
        }
        for (place, name, value) in OTHER {
            let changed = with(*place, &format!("{name} = {value}"));
            assert_ne!(changed, with(*place, ""), "{name} = {value} changes nothing");
        }
    }

    /// Goal: every field of the settings can be set by the list.
    /// Method: all lines at once; no field that has a default may still have it.
    #[test]
    fn every_field_has_a_setting() {
        let lines = |place| {
            // `records` cannot stand beside `output` and `call`, `unit` and `with` not beside
            // `on_repeat`.
            let other = ["routes", "python", "warm", "http", "records", "unit", "with"];
            let of = OTHER.iter().filter(move |(p, n, _)| *p == place && !other.contains(n));
            of.map(|(_, n, v)| format!("{n} = {v}")).collect::<Vec<_>>().join("\n")
        };
        let text = format!("{}\n[routes.r]\n{}", lines(Place::Top), lines(Place::Route));
        let settings = with(Place::Top, &format!("{text}\n[routes.s]\ncommand = ['true']"));
        // Taken apart without `..`: a new field does not compile until it is here.
        let Settings {
            workers,
            drain_timeout,
            rescan,
            quiet_for,
            min_free_disk,
            min_free_memory,
            allow_root,
            prune,
            retention_age,
            retention_size,
            retention_results,
            ignore,
            routes,
        } = settings;
        assert_eq!((workers, drain_timeout.as_secs(), rescan.as_secs()), (1000, 31, 61));
        assert_eq!((quiet_for, min_free_disk), (Some(Duration::from_secs(1)), 2 << 30));
        assert_eq!(min_free_memory, 1 << 30);
        assert_eq!((allow_root, prune, ignore), (true, true, vec!["*.bak".to_owned()]));
        assert_eq!(retention_age, Some(Duration::from_secs(90 * 86_400)));
        assert_eq!((retention_size, retention_results), (Some(50 << 30), true));
        let waits = [10, 60].map(Duration::from_secs).to_vec();
        let want = Route {
            records: None,
            unit: Unit::File,
            with: Vec::new(),
            name: "r".to_owned(),
            // Where its `command` stands, after all lines of the top: `parse` tests that.
            origin: routes.first().map(|route| route.origin.clone()).unwrap_or_default(),
            interpreter_at: routes.first().and_then(|route| route.interpreter_at.clone()),
            glob: vec!["a".to_owned(), "b".to_owned()],
            fields: vec![("algorithm".to_owned(), "ocr".into())],
            schema: Some(Schema::File("schema.json".to_owned())),
            worker: Worker::Command { argv: vec!["false".to_owned()] },
            stdout: StdoutFormat::Csv,
            require_output: true,
            done_file: Some("{name}.ok".to_owned()),
            on_repeat: OnRepeat::Skip,
            stdin: true,
            timeout: Duration::from_secs(7200),
            grace: Duration::from_secs(6),
            retries: Spent { fail: 9, timeout: 8, oom: 7, crash: 6, lost: 3, try_again: 5 },
            retry_on: Some(RetryOn { exits: vec![75], classes: vec![FailClass::Crash] }),
            try_again_after: waits,
            waits: RetryWaits {
                first: Duration::from_secs(2),
                longest: Duration::from_secs(60),
                jitter_percent: 0,
            },
            rate: Some(Rate { starts: 10, per_ms: 1_000 }),
            max_workers: Some(1),
            priority: -1,
            trace_columns: false,
            columns: Some(vec!["a".to_owned()]),
            output: true,
            next: Some("s".to_owned()),
            env: vec![("A".to_owned(), "b".to_owned())],
            pass_env: vec!["A".to_owned()],
            segment_rows: 2,
            segment_bytes: 1 << 20,
            max_output: 1 << 20,
            max_memory: Some(1 << 30),
            max_file_size: Some(1 << 30),
            max_open_files: Some(64),
            pause_after_failures: Some(5),
            pause_after_crashes: 6,
            nice: Some(19),
            warm: crate::config::WarmRules {
                transport: Transport::Stdio,
                start_timeout: Duration::from_secs(31),
                progress_timeout: Some(Duration::from_secs(1)),
                max_jobs: Some(7),
                max_age: Some(Duration::from_secs(3600)),
                max_rss: Some(1 << 30),
                idle_timeout: Some(Duration::from_secs(600)),
                overlap: false,
                max_staged: 1 << 20,
                config: serde_json::from_str(r#"{"dpi":72,"deep":{"a":[1.5,true,"x"]}}"#).unwrap(),
                interpreter: ".venv/bin/python".to_owned(),
                call: Call::Kwargs,
            },
            http: crate::config::HttpRules {
                method: Method::Put,
                body: Body::Template(serde_json::from_str(r#"{"a":"{/b}"}"#).unwrap()),
                headers: vec![("A".to_owned(), "b".to_owned())],
                rows: "/a".to_owned(),
                // Set by a table of `columns`, with `http` only.
                cells: None,
                start: Some(vec!["false".to_owned()]),
                ready_url: Some("http://h/ready".to_owned()),
            },
        };
        assert!(want.interpreter_at.is_some());
        assert_eq!(routes.first(), Some(&want));
    }

    /// Goal: the defaults that people read are those that hold.
    /// Method: each default that is a value is set, and changes nothing; the others are words.
    #[test]
    fn defaults_are_those_of_limits() {
        let mut words = Vec::new();
        for doc in settings_table() {
            let is_value =
                doc.default.starts_with(|c: char| c.is_ascii_digit() || "\"[{".contains(c))
                    || ["true", "false"].contains(&doc.default);
            if is_value {
                let mut set = with(doc.place(), &format!("{} = {}", doc.name, doc.default));
                // Where a line stands is not what it sets.
                set.routes.iter_mut().for_each(|route| route.interpreter_at = None);
                let mut unset = with(doc.place(), "");
                assert_eq!(set, unset, "{}", doc.name);
                unset.routes.clear();
                assert_eq!(unset, Settings::default());
            } else {
                words.push(doc.name);
            }
        }
        assert_eq!(
            words,
            [
                "workers",
                "quiet_for",
                "retention_age",
                "retention_size",
                "routes",
                "glob",
                "fields",
                "schema",
                "command",
                "python",
                "warm",
                "http",
                "records",
                "with",
                "done_file",
                "retry_on",
                "workers",
                "rate",
                "columns",
                "next",
                "max_memory",
                "max_file_size",
                "max_open_files",
                "pause_after_failures",
                "nice",
                "progress_timeout",
                "max_jobs",
                "max_age",
                "max_rss",
                "idle_timeout",
                "rows",
                "start",
                "ready_url"
            ]
        );
    }

    /// Goal: limits that come in pairs fit.
    /// Method: the inequalities that the comments in `limits` state.
    #[test]
    fn paired_limits_fit() {
        assert!(limits::GRACE < limits::DRAIN_TIMEOUT);
        assert!(limits::BEAT * 2 < limits::ROUTE_PATIENCE);
        // The unit's TimeoutStopSec.
        assert!(limits::DRAIN_TIMEOUT + limits::GRACE < Duration::from_secs(60));
        const { assert!(limits::SEGMENT_ROWS < 1_048_576) };
        assert!(limits::TRY_AGAIN_AFTER.len() <= limits::MOST_WAITS);
    }
}
