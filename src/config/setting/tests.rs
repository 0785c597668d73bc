//! That the list of settings is whole, and that the defaults people read are those that hold.

use super::*;
use crate::config::parse::between::OF_KINDS;
use crate::config::request::{Body, Method};
use crate::config::{
    Call, OnRepeat, RetryWaits, Schema, StdoutFormat, Transport, Unit, Worker, load,
};
use crate::core::pace::Rate;
use crate::core::retry::RetryOn;
use crate::core::verdict::{FailClass, Spent};

/// A worker of each kind.
const WORKERS: [&str; 4] =
    ["command = ['true']", "python = 'w.py:f'", "warm = ['true']", "http = 'http://w/'"];

/// A worker for which a setting means something.
fn worker_for(key: &str) -> &'static str {
    let kinds = OF_KINDS.iter().find(|(name, _)| *name == key).map(|(_, kinds)| kinds);
    let kind = kinds.and_then(|kinds| kinds.first()).unwrap_or(&"command");
    WORKERS.into_iter().find(|line| line.starts_with(kind)).unwrap()
}

/// Settings from these lines, at the top or in a route with this worker, unless they bring their own.
fn with(place: Place, worker: &str, lines: &str) -> Settings {
    let is_worker = ["command", "python", "warm", "http"].iter().any(|k| lines.starts_with(k));
    let text = match place {
        Place::Top => lines.to_owned(),
        Place::Route if is_worker => format!("[routes.r]\n{lines}"),
        Place::Route => {
            format!("[routes.r]\n{worker}\n{lines}\n[routes.s]\ncommand = ['true']")
        }
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
        let worker = worker_for(name);
        let needed = match *name {
            // A runner that is asked whether it is ready is one that we start.
            "ready_url" => "start = ['true']\n",
            "retention_results" => "retention_age = '1d'\n",
            _ => "",
        };
        let changed = with(*place, worker, &format!("{needed}{name} = {value}"));
        let unchanged = with(*place, worker, needed);
        assert_ne!(changed, unchanged, "{name} = {value} changes nothing");
    }
}

/// Settings from all lines: routes `r`, `p`, `w` and `h`, each with a worker that its lines are for.
fn all_lines_at_once() -> Settings {
    // `records` cannot stand beside `output` and `call`, `unit` and `with` not beside `on_repeat`.
    let alone = ["routes", "command", "python", "warm", "http", "records", "unit", "with"];
    let lines = |place, worker| {
        let of = OTHER
            .iter()
            .filter(move |(p, n, _)| *p == place && !alone.contains(n) && worker_for(n) == worker);
        of.map(|(_, n, v)| format!("{n} = {v}")).collect::<Vec<_>>().join("\n")
    };
    let mut text = vec![lines(Place::Top, WORKERS[0])];
    for (name, worker) in ["r", "p", "w", "h"].into_iter().zip(WORKERS) {
        text.push(format!("[routes.{name}]\n{worker}\n{}", lines(Place::Route, worker)));
    }
    text.push("[routes.s]\ncommand = ['true']".to_owned());
    with(Place::Top, "", &text.join("\n"))
}

/// Goal: every field of the settings can be set by the list.
/// Method: all lines at once, in a route for each kind of worker that they are for; no field that has a default
/// may still have it.
#[test]
fn every_field_has_a_setting() {
    let settings = all_lines_at_once();
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
        interpreter_at: routes.get(1).and_then(|route| route.interpreter_at.clone()),
        next_at: routes.first().and_then(|route| route.next_at.clone()),
        glob: vec!["a".to_owned(), "b".to_owned()],
        fields: vec![("algorithm".to_owned(), "ocr".into())],
        schema: Some(Schema::File("schema.json".to_owned())),
        worker: Worker::Command { argv: vec!["true".to_owned()] },
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
    assert!(want.interpreter_at.is_some() && want.next_at.is_some());
    let [plain, python, warm, http, _] = routes.try_into().unwrap();
    let interpreter_at = python.interpreter_at;
    let (config, progress_timeout) = (warm.warm.config, warm.warm.progress_timeout);
    let warm = crate::config::WarmRules { progress_timeout, config, ..python.warm };
    let got = Route { warm, http: http.http, interpreter_at, ..plain };
    assert_eq!(got, want);
}

/// Goal: the defaults that people read are those that hold.
/// Method: each default that is a value is set, and changes nothing; the others are words.
#[test]
fn defaults_are_those_of_limits() {
    let mut words = Vec::new();
    for doc in settings_table() {
        let is_value = doc.default.starts_with(|c: char| c.is_ascii_digit() || "\"[{".contains(c))
            || ["true", "false"].contains(&doc.default);
        if is_value {
            let worker = worker_for(doc.name);
            let mut set = with(doc.place(), worker, &format!("{} = {}", doc.name, doc.default));
            // Where a line stands is not what it sets.
            set.routes.iter_mut().for_each(|route| route.interpreter_at = None);
            let mut unset = with(doc.place(), worker, "");
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

/// Goal: a value that can never work is refused and named, its neighbour that can is taken. Method: pairs of them.
#[test]
fn values_that_cannot_work_are_refused() {
    let waits =
        |most: usize| format!("command = ['true']\ntry_again_after = {:?}", vec!["1s"; most]);
    for (line, is_fine) in [
        ("python = 'w.py:_f2'", true),
        ("python = 'a:b.py:f'", true),
        ("python = 'w.py:2f'", false),
        ("python = 'w.py:f-g'", false),
        ("python = 'w.py:'", false),
        ("python = ':f'", false),
        ("schema = 'x.json'\ncommand = ['true']", true),
        ("schema = ''\ncommand = ['true']", false),
        ("done_file = '{name}.ok'\ncommand = ['true']", true),
        ("done_file = 'x.ok'\ncommand = ['true']", false),
        ("done_file = '{name}'\ncommand = ['true']", false),
        ("done_file = '{name}/ok'\ncommand = ['true']", false),
        ("done_file = '{name}.{ext}'\ncommand = ['true']", false),
        ("fields = { a = 1 }\ncommand = ['true']", true),
        ("fields = { a = 1.5 }\ncommand = ['true']", false),
        ("fields = { a = [1] }\ncommand = ['true']", false),
        ("fields = {}\ncommand = ['true']", false),
        ("columns = ['a']\ncommand = ['true']", true),
        ("columns = []\ncommand = ['true']", false),
        ("columns = ['a', 'a']\ncommand = ['true']", false),
        ("env = { A = \"x\\t\" }\ncommand = ['true']", true),
        ("env = { A = \"x\\u0000\" }\ncommand = ['true']", false),
        (&waits(limits::MOST_WAITS), true),
        (&waits(limits::MOST_WAITS + 1), false),
        (&waits(0), false),
    ] {
        let spool = tempfile::tempdir().unwrap();
        std::fs::write(spool.path().join("inboxd.toml"), format!("[routes.r]\n{line}")).unwrap();
        let errors = load(spool.path()).err();
        assert_eq!(errors.is_none(), is_fine, "{line}: {errors:?}");
    }
}
