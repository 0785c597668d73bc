//! The list itself: each setting with its default, its limit, its meaning, and how it is taken over.
//!
//! Must not know: how a value is checked that takes more than a line.
//!
//! Invariants
//! - Those of the spool stand first, each place in the order in which people read of them.

use std::time::Duration;

use super::values::{
    CALLS, METHODS, ON_REPEAT, RECORDS, STDOUT, TRANSPORTS, UNIT, columns, command, companions,
    done_file, environment, fields, globs, program, python, schema, variable, waits,
};
use super::{BOOLEAN, GLOBS, Set, SettingDoc, VARIABLES, count, route, size, time, top};
use crate::config::value::{Checked, Limit};
use crate::config::{Worker, limits, request, retry};

pub(super) static TABLE: &[SettingDoc] = &[
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
        "what answers with 2xx once a runner of `start` is ready; for one that listens before its application is there (gunicorn)",
        |r, v| request::plain_url(v).map(|url| r.http.ready_url = Some(url)),
    ),
];
