//! Names that people choose or mistype: what a route may be called, what to say of an unknown key.
//!
//! Must not know: files, lines, values.

use crate::config::setting::{self, Place};
use crate::config::{limits, suggest};

/// Whether a route may be called so.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let shown = name.escape_debug();
    if name.is_empty() || !name.chars().all(letters) {
        return Err(format!(
            "a route cannot be called `{shown}`: its name is of a-z, 0-9, _ and -"
        ));
    }
    if name == "errors" {
        return Err("a route cannot be called `errors`: results/errors.csv is for failures".into());
    }
    if name.len() > limits::ROUTE_NAME {
        let most = limits::ROUTE_NAME;
        return Err(format!(
            "a route cannot be called `{shown}`: its name has at most {most} letters"
        ));
    }
    Ok(())
}

/// Keys of the spool that a later version has.
const LATER_AT_TOP: [&str; 3] = ["server", "broker", "on_repeat"];

/// What other systems call a setting of ours: loops of a shell, GNU parallel, pools of Python, Ray,
/// Celery, consumers of a broker.
const ELSEWHERE: [(&str, &[&str]); 16] = [
    (
        "workers",
        &[
            "concurrency",
            "processes",
            "parallel",
            "parallelism",
            "jobs",
            "pool",
            "pool_size",
            "threads",
            "max_procs",
            "num_cpus",
            "prefetch",
            "prefetch_count",
            "qos",
        ],
    ),
    ("command", &["cmd", "exec", "run", "script", "program", "shell", "argv"]),
    ("python", &["function", "func", "callable", "module", "task"]),
    ("http", &["url", "uri", "endpoint", "webhook"]),
    (
        "glob",
        &[
            "pattern",
            "patterns",
            "regex",
            "filter",
            "include",
            "match",
            "files",
            "suffix",
            "ext",
            "extension",
            "extensions",
            "source_file_part",
        ],
    ),
    ("timeout", &["time_limit", "task_time_limit", "soft_time_limit", "max_runtime"]),
    ("retries", &["retry", "max_attempts", "attempts", "max_restarts", "tries"]),
    ("retry_on", &["autoretry_for", "retry_for", "retry_exceptions"]),
    ("max_jobs", &["max_tasks_per_child", "maxtasksperchild", "max_calls"]),
    ("max_rss", &["max_memory_per_child"]),
    ("max_memory", &["memory_limit"]),
    ("rate", &["throttle"]),
    ("interpreter", &["venv", "virtualenv"]),
    ("stdout", &["format", "parse", "output_format"]),
    ("ignore", &["exclude"]),
    ("rescan", &["poll", "poll_interval", "interval"]),
];

/// What other systems have to be told and inboxd has not, and where it is here.
const UNASKED: [(&[&str], &str); 7] = [
    (
        &["queue", "queues", "topic", "routing_key"],
        "incoming/ is the queue, and `glob` or `fields` say which files of it a route takes",
    ),
    (
        &["dead_letter", "dlq", "dead_letter_queue", "dead_letter_exchange"],
        "what finally failed stands in error/, without a setting",
    ),
    (
        &["retry_delay", "retry_backoff", "backoff", "countdown", "default_retry_delay"],
        "the waits are `first_wait` and `longest_wait` in `retries`, and `try_again_after`",
    ),
    (
        &["result_backend", "results", "output_path", "results_dir"],
        "rows stand in results/NAME.csv, without a setting",
    ),
    (
        &["cwd", "workdir", "working_dir", "working_directory"],
        "a worker runs in the folder of the spool",
    ),
    (
        &[
            "spool",
            "dir",
            "directory",
            "incoming",
            "source_path",
            "watch",
            "watch_dir",
            "input_dir",
        ],
        "the folder of inboxd.toml is the spool, and files are dropped into incoming/ in it",
    ),
    (&["log_level", "loglevel"], "INBOXD_LOG=debug in the environment shows more"),
];

/// Our name of what another system calls so.
pub(super) fn elsewhere(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase().replace('-', "_");
    ELSEWHERE.iter().find(|(_, words)| words.contains(&&*word)).map(|(name, _)| *name)
}

fn unasked(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase().replace('-', "_");
    UNASKED.iter().find(|(words, _)| words.contains(&&*word)).map(|(_, said)| *said)
}

/// The place, for one who looks for it.
fn where_it_belongs(place: Place) -> &'static str {
    match place {
        Place::Route => "to a route, below a line [routes.NAME]",
        Place::Top => "to the spool, above the first [routes.NAME] of inboxd.toml",
    }
}

/// What to say of a key that the place does not have. `shown` is the place, ` in [routes.x]`.
pub(super) fn unknown_key(place: Place, key: &str, shown: &str) -> String {
    let name = key.escape_debug();
    let (other, later) = match place {
        Place::Top => (Place::Route, LATER_AT_TOP.as_slice()),
        Place::Route => (Place::Top, [].as_slice()),
    };
    if later.contains(&key) {
        return format!("this version of inboxd does not have `{name}`; take the line out");
    }
    let hint = if setting::find(other, key).is_some() {
        format!("it belongs {}", where_it_belongs(other))
    } else if let Some(said) = unasked(key) {
        said.to_owned()
    } else if let Some(known) = elsewhere(key) {
        if setting::find(place, known).is_some() {
            format!("did you mean `{known}`?")
        } else {
            format!("did you mean `{known}`? It belongs {}", where_it_belongs(other))
        }
    } else if let Some(nearest) = suggest::nearest(key, setting::names(place)) {
        format!("did you mean `{nearest}`?")
    } else if let Some(nearest) = suggest::nearest(key, setting::names(other)) {
        format!("did you mean `{nearest}`? It belongs {}", where_it_belongs(other))
    } else {
        format!("there are {}", setting::names(place).collect::<Vec<_>>().join(", "))
    };
    format!("unknown key `{name}`{shown}; {hint}")
}
