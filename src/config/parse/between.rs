//! What is wrong between two settings of a route, or missing.
//!
//! Must not know: files, lines. It says the key at which to say it.
//!
//! Invariants
//! - Each message says what to do: which line to add, or to take out.

use std::time::Duration;

use toml::de::DeTable;

use crate::config::request::{self, Piece};
use crate::config::setting::{self, Place};
use crate::config::template::{self, Part};
use crate::config::{Route, StdoutFormat, Worker, companions, retry, suggest, units};

use super::names::elsewhere;

/// What a route's worker is set by.
pub(super) const WORKERS: [&str; 4] = ["command", "python", "warm", "http"];

/// Settings that mean something for some kinds of worker only.
pub(in crate::config) const OF_KINDS: [(&str, &[&str]); 21] = [
    ("stdin", &["command"]),
    ("stdout", &["command"]),
    ("max_output", &["command", "http"]),
    ("interpreter", &["python"]),
    ("call", &["python"]),
    ("transport", &["python", "warm"]),
    ("config", &["warm"]),
    ("start_timeout", &["python", "warm", "http"]),
    ("progress_timeout", &["warm"]),
    ("max_jobs", &["python", "warm"]),
    ("max_age", &["python", "warm"]),
    ("max_rss", &["python", "warm"]),
    ("idle_timeout", &["python", "warm"]),
    ("overlap", &["python", "warm"]),
    ("max_staged", &["python", "warm"]),
    ("method", &["http"]),
    ("body", &["http"]),
    ("headers", &["http"]),
    ("rows", &["http"]),
    ("start", &["http"]),
    ("ready_url", &["http"]),
];

/// Settings that, with `http`, are about the process of `start`.
const OF_START: [&str; 9] = [
    "ready_url",
    "start_timeout",
    "grace",
    "env",
    "pass_env",
    "nice",
    "max_memory",
    "max_file_size",
    "max_open_files",
];

/// What is wrong between two settings of a route, or missing: the key at which to say it, and what.
pub(super) fn between_settings(
    route: &Route,
    table: &DeTable<'_>,
    drain_timeout: Duration,
) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    let given = |key: &str| table.contains_key(key);
    let kinds: Vec<&str> = WORKERS.into_iter().filter(|key| given(key)).collect();
    if let [first, second, ..] = *kinds {
        let message =
            format!("a route has one worker, and `{first}` is set too; take one of them out");
        wrong.push((second, message));
    }
    // Not where one is misspelt: the unknown key is said, with the word that was meant.
    let is_misspelt = table.keys().any(|key| {
        let word: &str = key.get_ref();
        setting::find(Place::Route, word).is_none()
            && (suggest::nearest(word, WORKERS).is_some()
                || elsewhere(word).is_some_and(|name| WORKERS.contains(&name)))
    });
    if kinds.is_empty() && !is_misspelt {
        let name = route.name.escape_debug();
        let message = format!(
            "route `{name}` has no worker: set one line, such as \
             command = [\"sha256sum\", \"{{path}}\"]"
        );
        wrong.push(("command", message));
    }
    if let [kind] = *kinds {
        let strange = OF_KINDS.iter().filter(|(key, of)| given(key) && !of.contains(&kind));
        wrong.extend(strange.map(|(key, of)| {
            let of = of.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(" or ");
            (*key, format!("`{key}` goes with {of} and does nothing for `{kind}`; take it out"))
        }));
    }
    let placeholders = [
        (!route.output, Part::Output, "{output}", "the line output = true"),
        (route.with.is_empty(), Part::With, "{with}", "a line such as with = [\"{stem}.xmp\"]"),
        (route.records.is_none(), Part::Record, "{record}", "a line such as records = \"lines\""),
    ];
    for (is_empty, part, word, line) in placeholders {
        if is_empty && let Some(key) = key_with(route, &part) {
            wrong.push((key, format!("`{word}` is only there with {line}; add it")));
        }
    }
    if let Worker::Warm { argv } = &route.worker
        && let Some(word) = argv.iter().find_map(|argument| placeholder_of_a_job(argument))
    {
        let message = format!(
            "`{word}` is of one job, and a warm worker is started before its jobs, which tell it with each; \
             take it out"
        );
        wrong.push(("warm", message));
    }
    wrong.extend(around_http(route, given));
    wrong.extend(units::fault(route, &given));
    wrong.extend(companions::fault(route, &given));
    let is_off = |key| table.get(key).is_some_and(|v| v.get_ref().as_bool() == Some(false));
    if route.next.is_some() && is_off("output") {
        let message = "`next` hands on the files that a worker makes; take out output = false";
        wrong.push(("output", message.to_owned()));
    }
    if let Some(message) = against_records(route, &given) {
        wrong.push(("records", message));
    }
    // The default is left alone: who shortens the drain has not asked for another grace.
    if given("grace") && route.grace >= drain_timeout {
        let message = format!(
            "`grace` must be shorter than `drain_timeout`, which is {}",
            humantime::format_duration(drain_timeout)
        );
        wrong.push(("grace", message));
    }
    if let Some(message) = retry::without_attempts(route) {
        wrong.push(("retry_on", message));
    }
    if route.require_output && route.stdout == StdoutFormat::None {
        let message = "with stdout = \"none\" there is never a row, so every job would fail; \
                       take out one of the two lines";
        wrong.push(("require_output", message.to_owned()));
    }
    let traced = |column: &&String| ["_file", "_job"].contains(&column.as_str());
    if let Some(column) = route.columns.iter().flatten().find(traced)
        && route.trace_columns
    {
        let message = format!(
            "column `{column}` is added by inboxd; take it out, or set trace_columns = false"
        );
        wrong.push(("columns", message));
    }
    wrong
}

/// The first placeholder of an argument, as it is written.
fn placeholder_of_a_job(argument: &str) -> Option<String> {
    let parts = template::parse(argument).ok()?;
    let is_filled = parts.iter().any(|part| !matches!(part, Part::Literal(_)));
    let begin = argument.find('{').filter(|_| is_filled)?;
    let len = argument.get(begin..)?.find('}')? + 1;
    argument.get(begin..begin + len).map(str::to_owned)
}

/// The setting that asks for this, in an argument or in a request.
fn key_with(route: &Route, part: &Part) -> Option<&'static str> {
    match &route.worker {
        Worker::Command { argv } => {
            let asks = |text: &String| template::parse(text).is_ok_and(|p| p.contains(part));
            argv.iter().any(asks).then_some("command")
        }
        Worker::Http { url } => {
            let is_it = |piece: &Piece| matches!(piece, Piece::Job(asked) if asked == part);
            request::key_with(url, &route.http, &is_it)
        }
        Worker::Warm { .. } | Worker::Python { .. } => None,
    }
}

/// What is wrong between `http` and what goes with it.
fn around_http(route: &Route, given: impl Fn(&str) -> bool) -> Option<(&'static str, String)> {
    let rules = &route.http;
    if rules.cells.is_some() && !given("http") {
        let message =
            "only the answers of `http` have columns by JSON pointers; write a list of names";
        return Some(("columns", message.to_owned()));
    }
    if given("http") && given("body") && !rules.method.has_body() {
        let method = rules.method.name();
        let message = format!("a {method} sends no body; take out one of the two lines");
        return Some(("body", message));
    }
    let of_start = OF_START.into_iter().find(|key| given(key));
    if given("http")
        && !given("start")
        && let Some(key) = of_start
    {
        let message =
            format!("`{key}` is for a runner of `start`; add that line, or take this one out");
        return Some((key, message));
    }
    if given("http") && route.output && key_with(route, &Part::Output).is_none() {
        let key = if given("next") { "next" } else { "output" };
        let message = format!(
            "the runner is not told where to make files, so `{key}` does nothing: tell it, as in \
             body = {{ file = \"{{path}}\", output = \"{{output}}\" }}, or take this line out"
        );
        return Some((key, message));
    }
    None
}

/// What cannot go with `records`.
fn against_records(route: &Route, given: &dyn Fn(&str) -> bool) -> Option<String> {
    route.records?;
    let message = if given("next") {
        "`next` hands on what is made of a whole file, and with `records` each record is a task of its \
         own; take one of the two lines out"
    } else if route.output {
        "`output` is made of a whole file, and with `records` each record is a task of its own; \
         take one of the two lines out"
    } else if given("fields") {
        "`fields` are those of one JSON file, and with `records` a file holds many; take one of the \
         two lines out"
    } else if given("call") {
        "with `records` the function gets the record, so `call` means nothing; take it out"
    } else {
        return None;
    };
    Some(message.to_owned())
}
