//! `inboxd explain JOB`: where a file is, and why.
//!
//! `waiting`: what is not claimed yet.
//!
//! Must not know: how any of it came to be; it asks the daemon, the sidecars, the folders and the job
//! log, in the order in which their answers matter: what moves, what failed, what waits, what was.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::Failure;
use super::target::{Target, Tree, path_in, print_facts, quoted, shown_in, unknown};
use super::{Failed, SpoolArg, print_json, print_line, show};
use crate::core::RelPath;
use crate::daemon::control::Ask;
use crate::daemon::history::JobLine;
use crate::journal::record::Rel;
use crate::spool::{Claimed, Place};

mod waiting;
use waiting::waiting;

/// Where a file is, and why
///
/// For a file that waits: what it waits for. For one that failed: the reason, the line of the
/// traceback, and what to do. For one that is done: its rows.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd explain bad.json
  inboxd explain inbox/incoming/big.tif
  inboxd explain 0198f3k7m2 --json")]
pub(crate) struct Args {
    /// A path below incoming/, the beginning of a job id, or a path in the spool
    #[arg(value_name = "JOB", value_hint = clap::ValueHint::AnyPath)]
    job: OsString,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is said of a file.
struct Story {
    head: Vec<String>,
    facts: Vec<(&'static str, String)>,
    json: Value,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let target = Target::new(spool, &args.job);
    let Some(story) = find(spool, &target)? else { return Err(unknown(spool, &target)) };
    if args.json {
        print_json(&story.json);
    } else {
        print_line(&story.head.join("   "));
        print_facts(&story.facts);
    }
    Ok(ExitCode::SUCCESS)
}

fn find(spool: &SpoolArg, target: &Target) -> Result<Option<Story>, Failed> {
    // A path in done/ or error/ is about that file, whatever else has its name.
    let is_settled = matches!(target.place, Some((Tree::Done | Tree::Error | Tree::Output, _)));
    if !is_settled && let Some(story) = on_its_way(spool, target)? {
        return Ok(Some(story));
    }
    let line = target.line(spool)?;
    let incoming = target.rel.as_ref().filter(|_| !is_settled);
    let is_incoming = matches!(target.place, Some((Tree::Incoming, _)));
    let by_path = target.failure(spool, line.as_ref()).filter(|_| !is_incoming);
    // Of the jobs of one path the newest is meant, by an id its own; the file of another may stand there.
    let (failure, other) = match (&line, by_path) {
        (Some(line), Some(stands)) if target.place.is_none() && !stands.is_of(line) => {
            (Failure::of(spool, line), Some(stands))
        }
        (_, stands) => (stands, None),
    };
    let also = other.map(|it| also_failed(spool, &it));
    if let Some(failure) = failure {
        let is_rel = target.place.is_none() && target.rel.as_ref() == Some(&failure.at);
        let mut story = failed(spool, &failure, line, is_rel);
        let newer = incoming.filter(|rel| path_in(spool, Tree::Incoming, rel).exists());
        story.facts.extend(newer.map(|rel| {
            ("also", format!("{} waits, a newer file", shown_in(spool, Tree::Incoming, rel)))
        }));
        story.facts.extend(also);
        return Ok(Some(story));
    }
    // What waits comes before what was: a file that is tried again has both.
    if let Some(rel) = incoming
        && let Some(mut story) = waiting(spool, rel)?
    {
        story.facts.extend(line.as_ref().map(before));
        story.facts.extend(also);
        return Ok(Some(story));
    }
    if let Some(line) = line {
        let mut story = ended(spool, &line);
        story.facts.extend(also);
        return Ok(Some(story));
    }
    let done = target.rel.as_ref().filter(|rel| path_in(spool, Tree::Done, rel).exists());
    Ok(done.map(|rel| long_done(spool, rel)))
}

/// Claimed: the daemon knows; without one the claim waits for the next.
fn on_its_way(spool: &SpoolArg, target: &Target) -> Result<Option<Story>, Failed> {
    let claimed = target.claimed(spool)?;
    let job = claimed.as_ref().map(|(claimed, _)| claimed.job);
    let Some(ask) = target.question(job) else { return Ok(None) };
    let Some(mut daemon) = spool.ask(&ask)? else {
        return Ok(claimed.map(|(claimed, rel)| left_behind(spool, claimed, rel.as_ref())));
    };
    let Some(found) = daemon.next_answer()?.filter(|found| found.get("state").is_some()) else {
        return Ok(None);
    };
    let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| found.get(key).and_then(Value::as_u64);
    let state = text("state");
    let word = if state == "running" { "RUNNING" } else { "WAITING" };
    let mut head = vec![text("rel").to_owned(), show::good(word)];
    head.extend(Some(text("route")).filter(|it| !it.is_empty()).map(|it| format!("route {it}")));
    head.extend(number("attempt").filter(|n| *n > 0).map(|n| format!("attempt {n}")));
    let mut facts = Vec::new();
    let reason = text("reason");
    if !reason.is_empty() {
        facts.push(("last", reason.to_owned()));
    }
    let wait = number("wait_ms").map(|ms| show::time(Duration::from_millis(ms)));
    facts.push(match wait {
        Some(wait) => ("state", format!("{state}, looked at again in {wait}")),
        None => ("state", state.to_owned()),
    });
    if let Some(records) = found.get("records").filter(|records| records.is_object()) {
        facts.push(("records", records_so_far(records)));
    }
    if state == "its route is paused"
        && let Some(mut daemon) = spool.ask(&Ask::Status)?
        && let Some((why, fix)) = paused(&daemon.next_answer()?.unwrap_or_default(), text("route"))
    {
        facts.extend([("because", why), ("next", fix)]);
    }
    if let Some((claimed, Some(rel))) = &claimed {
        facts.push(("file", claimed_at(spool, *claimed, rel)));
    }
    facts.push(("job", text("job").to_owned()));
    Ok(Some(Story { head, facts, json: found }))
}

/// `470 of about 1,000, 12 failed`, by the bytes that they take.
fn records_so_far(records: &Value) -> String {
    let number = |key: &str| records.get(key).and_then(Value::as_u64).unwrap_or(0);
    let (recorded, failed) = (number("recorded"), number("failed"));
    let (bytes, size) = (number("bytes"), number("size"));
    let all = u128::from(recorded) * u128::from(size) / u128::from(bytes.max(1));
    let all = u64::try_from(all).unwrap_or(u64::MAX).max(recorded);
    let about =
        if recorded == 0 { String::new() } else { format!(" of about {}", show::count(all)) };
    format!("{}{about}, {} failed", show::count(recorded), show::count(failed))
}

fn claimed_at(spool: &SpoolArg, claimed: Claimed, rel: &RelPath) -> String {
    let mut path = Place::Job(claimed).name().into_bytes();
    path.push(b'/');
    path.extend_from_slice(rel.as_bytes());
    RelPath::new(path).map_or_else(String::new, |path| shown_in(spool, Tree::Processing, &path))
}

fn left_behind(spool: &SpoolArg, claimed: Claimed, rel: Option<&RelPath>) -> Story {
    let job = claimed.job.to_string();
    let name = rel.map_or_else(|| job.clone(), ToString::to_string);
    let mut facts = vec![("state", "claimed, and no daemon runs".to_owned())];
    facts.extend(rel.map(|rel| ("file", claimed_at(spool, claimed, rel))));
    facts.push(("next", "the next inboxd run or inboxd batch, if a route takes it".to_owned()));
    facts.push(("job", job));
    let json = json!({
        "state": "claimed", "job": claimed.job, "rel": rel.map(|rel| Rel(rel.clone())),
        "attempt": claimed.begun,
    });
    Story { head: vec![name, "WAITING".to_owned()], facts, json }
}

/// The file of another job, in `error/` under the path that was asked for.
fn also_failed(spool: &SpoolArg, failure: &Failure) -> (&'static str, String) {
    let file = shown_in(spool, Tree::Error, &failure.at);
    ("also", format!("{file} failed, as another job: inboxd explain {}", in_error(&failure.at)))
}

/// A path that means this file and no job of its name: `error/x.json`.
fn in_error(at: &RelPath) -> String {
    place(Tree::Error, at).map_or_else(String::new, |path| quoted(&path.0))
}

/// What stands in `error/`; `is_rel`: its path there is that of the job.
fn failed(spool: &SpoolArg, failure: &Failure, line: Option<JobLine>, is_rel: bool) -> Story {
    let file = shown_in(spool, Tree::Error, &failure.at);
    let original = failure.original();
    let retry = format!("nothing, until: inboxd retry {}", quoted(&failure.at));
    let Some(why) = &failure.why else {
        let facts = vec![
            ("reason", "not known: nothing of it is in error/.why/".to_owned()),
            ("file", file),
            ("next", retry),
        ];
        let json = json!({ "state": "failed", "rel": Rel(original.clone()), "reason": null });
        return Story { head: vec![original.to_string(), show::bad("FAILED")], facts, json };
    };
    // The log knows the time to the millisecond, the sidecar to the second.
    let line = line.filter(|line| line.job == why.job);
    let at_ms = line.as_ref().map_or_else(|| unix_ms(&why.time), |line| line.at_ms);
    let mut head =
        vec![original.to_string(), format!("{} {}", show::bad("FAILED"), show::clock(at_ms))];
    head.extend(worked(&why.route, why.attempts, why.took_ms));
    let mut facts = vec![("reason", why.reason.clone())];
    facts.extend(frame(&why.stderr).map(|frame| ("at", frame)));
    let changed = if failure.is_changed { "changed since" } else { "unchanged" };
    facts.push(("file", format!("{file} ({changed})")));
    if !why.stderr.is_empty() || line.as_ref().is_some_and(|line| !line.stdout.is_empty()) {
        let is_traceback = why.stderr.contains("Traceback (most recent call last)");
        let label = if is_traceback { "traceback" } else { "log" };
        let name = if is_rel { quoted(&failure.at) } else { in_error(&failure.at) };
        facts.push((label, format!("inboxd log {name}")));
    }
    facts.push(("next", retry));
    let json = json!({
        "state": "failed", "job": why.job, "rel": why.rel, "route": why.route,
        "reason": why.reason, "attempts": why.attempts, "exit": why.exit, "signal": why.signal,
        "at_ms": at_ms, "took_ms": why.took_ms, "changed": failure.is_changed,
        "place": place(Tree::Error, &failure.at), "stderr": why.stderr,
    });
    Story { head, facts, json }
}

/// Whose worker it was, how often and how long; nothing of a file that no route took.
fn worked(route: &str, attempts: u32, took_ms: u64) -> Vec<String> {
    if route.is_empty() {
        return Vec::new();
    }
    vec![
        format!("route {route}"),
        format!("attempt {attempts} of {attempts}"),
        show::time(Duration::from_millis(took_ms)),
    ]
}

fn place(tree: Tree, at: &RelPath) -> Option<Rel> {
    let mut bytes = tree.name().as_bytes().to_vec();
    bytes.push(b'/');
    bytes.extend_from_slice(at.as_bytes());
    RelPath::new(bytes).map(Rel)
}

fn unix_ms(utc: &str) -> u64 {
    let at: Option<jiff::Timestamp> = utc.parse().ok();
    at.and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or(0)
}

/// The innermost frame of a Python traceback: `count.py:4 in count`.
fn frame(stderr: &str) -> Option<String> {
    stderr.lines().rev().find_map(|line| {
        let rest = line.trim_start().strip_prefix("File \"")?;
        let (file, rest) = rest.split_once("\", line ")?;
        // The library's own frames say less than the last one of the user's.
        if file.starts_with('<') || file.contains("/lib/python") || file.contains("site-packages") {
            return None;
        }
        let (line, function) = rest.split_once(", in ").unwrap_or((rest, ""));
        let name = file.rsplit('/').next().unwrap_or(file);
        Some(match function {
            "" | "<module>" => format!("{name}:{line}"),
            function => format!("{name}:{line} in {function}"),
        })
    })
}

/// Over, as the job log has it.
fn ended(spool: &SpoolArg, line: &JobLine) -> Story {
    let rel = &line.rel.0;
    let word = if line.reason.is_some() { show::bad("FAILED") } else { show::good("DONE") };
    let mut head = vec![rel.to_string(), format!("{word} {}", show::clock(line.at_ms))];
    head.extend(worked(&line.route, line.attempts, line.took_ms));
    let mut facts = Vec::new();
    if let Some(reason) = &line.reason {
        facts.push(("reason", reason.clone()));
    } else {
        head.push(show::rows(line));
    }
    let file = line.place.as_ref().map(|place| {
        let path = spool.path.join(place.0.as_path());
        let shown = below_escaped(spool, &place.0);
        if path.symlink_metadata().is_ok() { shown } else { format!("{shown} (no longer there)") }
    });
    facts.push(("file", file.unwrap_or_else(|| "its worker removed it".to_owned())));
    if line.rows > 0 {
        facts.push(("rows", format!("inboxd results {} | grep {}", line.route, line.job)));
    }
    if !line.stdout.is_empty() || !line.stderr.is_empty() {
        facts.push(("log", format!("inboxd log {}", line.job)));
    }
    facts.push(("job", line.job.to_string()));
    let mut json = serde_json::to_value(line).unwrap_or_default();
    if let Some(object) = json.as_object_mut() {
        let state = if line.reason.is_some() { "failed" } else { "done" };
        object.insert("state".to_owned(), state.into());
    }
    Story { head, facts, json }
}

/// What became of an earlier file of the same name.
fn before(line: &JobLine) -> (&'static str, String) {
    let at = show::clock(line.at_ms);
    let text = match &line.reason {
        Some(reason) => format!("failed {at}: {reason}"),
        None => format!("done {at}"),
    };
    ("before", text)
}

fn below_escaped(spool: &SpoolArg, rel: &RelPath) -> String {
    format!("{}/{rel}", spool.path.display())
}

/// Done so long ago that the log has dropped it.
fn long_done(spool: &SpoolArg, rel: &RelPath) -> Story {
    let facts = vec![
        ("file", shown_in(spool, Tree::Done, rel)),
        ("more", "the log of recent jobs has it no longer; its rows are in results/".to_owned()),
    ];
    let json = json!({ "state": "done", "rel": Rel(rel.clone()), "place": place(Tree::Done, rel) });
    Story { head: vec![rel.to_string(), show::good("DONE")], facts, json }
}

/// Why a route is paused, and what to do, if it is.
fn paused(status: &Value, route: &str) -> Option<(String, String)> {
    let why = status.get("paused")?.get(route)?;
    let text = |key: &str| why.get(key).and_then(Value::as_str).unwrap_or_default();
    let fix = format!("fix {}; it is picked up by itself", text("fix"));
    Some((format!("route {route} PAUSED: {}", text("reason")), fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a traceback is summed up by the line that a person would open first.
    /// Method: the sample's, one that ends in a library, one of a module, text that is none.
    #[test]
    fn the_frame_is_the_users_own() {
        let sample = "Traceback (most recent call last):\n  File \"/spool/count.py\", line 9, in main\n    \
                      x\n  File \"/spool/count.py\", line 4, in count\n    y\n  File \
                      \"/usr/lib/python3.12/json/decoder.py\", line 355, in raw_decode\n    z\nValueError: b\n";
        assert_eq!(frame(sample).as_deref(), Some("count.py:4 in count"));
        assert_eq!(frame("  File \"a.py\", line 1, in <module>\n").as_deref(), Some("a.py:1"));
        assert_eq!(frame("File not found\n"), None);
        assert_eq!(frame(""), None);
    }
}
