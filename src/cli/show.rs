//! How things are said: times, counts, routes, a finished job. Shared by the commands.
//!
//! Must not know: where the facts come from.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use crate::config::{Route, Worker};
use crate::core::RelPath;
use crate::core::rel::acts;
use crate::daemon::history::{JobLine, RecordsEnded};
use crate::daemon::keeper::Shortage;
use crate::daemon::notice::{FIX_LEFT, FailedRecord, Finished, Notice, Paused};
use crate::journal::record::Outcome;

/// `8,114`
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 row`, `6 rows`
pub(crate) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `41 ms`, `3.2 s`, `4 min 10 s`, `3 d 2 h`
pub(crate) fn time(time: Duration) -> String {
    let ms = time.as_millis();
    let s = time.as_secs();
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", s, ms % 1000 / 100),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// What a route runs: `python3 count.py {path}`
pub(crate) fn worker(route: &Route) -> String {
    match &route.worker {
        Worker::Command { argv } | Worker::Warm { argv } => argv.join(" "),
        Worker::Python { file, function } => format!("{file}:{function}"),
        Worker::Http { url } => format!("{} {url}", route.http.method.name()),
    }
}

/// `route count → python3 count.py {path}`, or the names of several.
pub(crate) fn routes(routes: &[Route]) -> String {
    match routes {
        [one] => format!("route {} → {}", one.name, worker(one)),
        many => {
            let names: Vec<&str> = many.iter().map(|route| route.name.as_str()).collect();
            format!("routes {}", names.join(", "))
        }
    }
}

/// `done    hosts      main   3 ms   1 row`
pub(crate) fn done(finished: &Finished) -> String {
    let it = &finished.outcome;
    let took = time(Duration::from_millis(it.took_ms));
    let records = it.records.as_ref();
    let ended = records.map(|tally| RecordsEnded { done: tally.done, failed: tally.failed });
    format!("done    {}   {}   {took}   {}", it.rel.0, it.route, rows_and_failed(it.rows, ended))
}

/// `7 rows   1 of 8 records failed`, of a job that is done.
pub(crate) fn rows(line: &JobLine) -> String {
    rows_and_failed(line.rows, line.records)
}

fn rows_and_failed(rows: u64, records: Option<RecordsEnded>) -> String {
    let rows = plural(rows, "row", "rows");
    match records {
        Some(RecordsEnded { done, failed }) if failed > 0 => {
            let all = done.saturating_add(failed);
            format!("{rows}   {} of {} records failed", count(failed), count(all))
        }
        _ => rows,
    }
}

/// `failed  ids.csv   record 7   customers   KeyError: 'details'`
pub(crate) fn failed_record(it: &FailedRecord) -> String {
    format!("failed  {}   record {}   {}   {}", it.rel, it.no, it.route, it.reason)
}

/// The same of a job of the log.
pub(crate) fn failed_line(line: &JobLine) -> String {
    let reason = line.reason.as_deref().unwrap_or_default();
    format!("failed  {}{}   {reason}", line.rel.0, attempts(&line.route, line.attempts))
}

/// `failed  bad.json   count  attempt 1 of 1   ValueError: boom`
pub(crate) fn failed(outcome: &Outcome) -> String {
    let reason = outcome.failure.as_ref().map_or("", |failure| failure.reason.as_str());
    format!("failed  {}{}   {reason}", outcome.rel.0, attempts(&outcome.route, outcome.attempts))
}

/// `   count   attempt 1 of 1`; nothing of a file that no route took, and so no worker saw.
fn attempts(route: &str, n: u32) -> String {
    if route.is_empty() { String::new() } else { format!("   {route}   attempt {n} of {n}") }
}

/// What a stop waits for, and what a second one would do.
pub(crate) fn draining(running: usize) -> String {
    if running == 0 {
        return "stopping".to_owned();
    }
    let workers = plural(running as u64, "worker", "workers");
    format!(
        "waiting for {workers}; Ctrl-C again stops now (their files run again at the next start)"
    )
}

/// `route count PAUSED: cannot start …`, and what becomes of its files.
pub(crate) fn paused(route: &str, why: &Paused) -> [String; 2] {
    let files = plural(why.files as u64, "file stays", "files stay");
    // Some did where workers crashed: those that opened the breaker.
    let none = if why.is_tried { "" } else { ", none failed" };
    [
        format!("route {route} {}: {}", bad("PAUSED"), why.reason),
        format!("  {files} in incoming/{none}. Fix {}; it is picked up by itself.", why.fix),
    ]
}

/// What there is too little of, by a daemon's own status.
pub(crate) fn short_of(status: &Value) -> Option<Shortage> {
    Shortage::deserialize(status.get("short_of")?).ok()
}

/// What became of a CSV that someone else changed, moved or removed, and where its rows are.
fn csv_touched(route: &str, is_gone: bool, again: u64) -> String {
    let what = if is_gone {
        "was removed or moved away: a new one begins"
    } else {
        "is not as inboxd wrote it (edited, or copied with the spool): it is left alone, a new one begins"
    };
    let rows = plural(again, "row", "rows");
    let again = match again {
        0 => String::new(),
        _ => format!(
            "\n  It begins with {rows} that the old one may hold, too: they were not yet synced."
        ),
    };
    format!("results/{route}.csv {what}{again}")
}

/// A notice that says that something is in the way; `None` for all others.
pub(crate) fn trouble(notice: &Notice) -> Option<String> {
    Some(match notice {
        Notice::Short(of) => {
            let (what, fix) = of.says();
            let fix = fix.map_or_else(String::new, |fix| format!("\n  {fix}"));
            format!("{what}: waiting {}, nothing is lost{fix}", of.until())
        }
        Notice::LowDisk { free, floor } => format!(
            "only {} MiB are free: waiting for {} MiB, nothing is lost",
            free >> 20,
            floor >> 20
        ),
        Notice::SourceWaits { rel, needs, free } => {
            let (needs, free) = (size(*needs), size(*free));
            format!("{rel} needs {needs}, and {free} are free: it waits for room, nothing is lost")
        }
        Notice::LowMemory { free, floor } => format!(
            "only {} of memory are available: nothing is started below {} (min_free_memory)",
            size(*free),
            size(*floor)
        ),
        Notice::MemoryIsBack => "there is enough memory again".to_owned(),
        Notice::Broken { route, why } => paused(route, why).join("\n"),
        Notice::Mended { route } => format!("route {route} goes on: a worker did not crash"),
        Notice::HasRoom(Shortage::Rights) => "the CSV may be written again".to_owned(),
        Notice::HasRoom(_) => "there is room again".to_owned(),
        Notice::CsvTouched { route, is_gone, again } => csv_touched(route, *is_gone, *again),
        Notice::JournalLost { jobs } => format!(
            "journal/ knows nothing of {} in processing/: it was removed or replaced\n  They are taken up again; \
             what was recorded of them is forgotten, and a job that was over runs once more.",
            plural(*jobs, "job", "jobs")
        ),
        Notice::JournalTouched => {
            "a file in journal/ was removed, replaced or cut while inboxd writes to it: \
             all that counts is written to a new one, nothing is lost. Leave journal/ alone"
                .to_owned()
        }
        Notice::ClaimRefused { rel, reason, folder: None } => {
            format!("cannot claim incoming/{rel}: {reason}")
        }
        Notice::ClaimRefused { rel, reason, folder: Some(folder) } => {
            let parent = RelPath::new(rel.parent()).map(|parent| format!("{parent}/"));
            let (parent, files, fix) = (parent.unwrap_or_default(), &folder.files, &folder.fix);
            format!("cannot claim incoming/{parent} ({files}): {reason}\n  {fix}")
        }
        Notice::FolderReplaced { name } => {
            format!("warning: {name}/ was removed or replaced; the one there now is used")
        }
        Notice::Orphaned => {
            "the supervising process was killed: the daemon ends, too, with its workers".to_owned()
        }
        Notice::EventsLost => "too much at once: everything is scanned".to_owned(),
        Notice::Events { is_bad: true, state, fix } => {
            let what = if state.starts_with("watching") { "" } else { "events " };
            let fix = fix.as_ref().map_or_else(String::new, |fix| format!("\n  {fix}"));
            format!("warning: {what}{state}{fix}")
        }
        Notice::Events { .. } => "new files are noticed at once again".to_owned(),
        Notice::StartRefused { rel, reason } => format!("cannot start {rel}: {reason}"),
        Notice::ScratchRefused { rel, reason } => {
            format!("cannot remove the scratch of {rel}: {reason}")
        }
        Notice::LeftBehind { left } => {
            format!("{} stays after its job\n  {}", left.display(), FIX_LEFT)
        }
        Notice::SlotsRefused { workers, reason } => {
            format!("{workers} workers, and no more: {reason}")
        }
        Notice::CsvRefused { reason } => reason.clone(),
        Notice::OldStays { reason, .. } => format!("old files cannot be removed: {reason}"),
        Notice::HistoryFailed { reason } => format!("the job log cannot be written: {reason}"),
        Notice::Reappeared { rel, .. } => {
            format!("settled {rel}: it was recorded before the power cut")
        }
        _ => return None,
    })
}

/// The same two lines for a job of the job log.
pub(crate) fn job_line(line: &JobLine) -> String {
    let (rel, route) = (&line.rel.0, &line.route);
    match &line.reason {
        None => {
            let took = time(Duration::from_millis(line.took_ms));
            format!("{}    {rel}   {route}   {took}   {}", good("done"), rows(line))
        }
        Some(reason) => {
            format!("{}  {rel}{}   {reason}", bad("failed"), attempts(route, line.attempts))
        }
    }
}

/// `512 B`, `3.4 KiB`, `1.2 GiB`
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = "KiB";
    for next in units.iter().skip(1) {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    if tenths < 1000 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", tenths / 10)
    }
}

/// `Tue 09:14`, in local time.
pub(crate) fn day_and_minute(at: SystemTime) -> String {
    local(at).map_or_else(String::new, |at| at.strftime("%a %H:%M").to_string())
}

/// `14:02:11` today, `2026-11-22 14:02:11` on other days; in local time.
pub(crate) fn clock(unix_ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms);
    let (Some(at), Some(now)) = (local(at), local(SystemTime::now())) else {
        return String::new();
    };
    let form = if at.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.strftime(form).to_string()
}

fn local(at: SystemTime) -> Option<jiff::Zoned> {
    let at = jiff::Timestamp::try_from(at).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::system()))
}

/// Columns side by side, three spaces apart, none after the last one.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let most = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..most)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).max())
        .map(Option::unwrap_or_default)
        .collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, wide) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', wide.saturating_sub(width(cell)) + 3));
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().map(line).collect()
}

/// Characters that a terminal shows, without the colours.
fn width(cell: &str) -> usize {
    let mut count = 0;
    let mut chars = cell.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            // Ours are all ESC [ … m.
            chars.by_ref().find(|c| *c == 'm');
        } else {
            count += 1;
        }
    }
    count
}

/// Why a name is not looked at, by the pattern that says so.
pub(crate) fn ignored(pattern: &str) -> String {
    format!("ignored: {pattern} is no input (a temporary or hidden name, or by `ignore`)")
}

/// Text that may hold anything, as a terminal may show it: lines and tabs stay, other control
/// characters are escaped.
pub(crate) fn harmless(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if acts(c) && c != '\n' && c != '\t' {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// A word of success.
pub(crate) fn good(text: &str) -> String {
    paint("32", text)
}

/// A word that wants attention.
pub(crate) fn bad(text: &str) -> String {
    paint("31", text)
}

/// What is said for completeness.
pub(crate) fn dim(text: &str) -> String {
    paint("2", text)
}

fn paint(code: &str, text: &str) -> String {
    if has_colour() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Only on a terminal, and only if nobody said no (no-color.org).
fn has_colour() -> bool {
    static COLOUR: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *COLOUR.get_or_init(|| {
        let no = std::env::var_os("NO_COLOR").is_some_and(|no| !no.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        std::io::stdout().is_terminal() && !no && !dumb
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: numbers and times read as in the transcripts. Method: one of each size.
    #[test]
    fn numbers_and_times() {
        assert_eq!(count(0), "0");
        assert_eq!(count(8_114), "8,114");
        assert_eq!(count(1_048_576), "1,048,576");
        assert_eq!(time(Duration::from_millis(41)), "41 ms");
        assert_eq!(time(Duration::from_millis(3_250)), "3.2 s");
        assert_eq!(time(Duration::from_secs(250)), "4 min 10 s");
        assert_eq!(time(Duration::from_secs(3 * 86_400 + 7_300)), "3 d 2 h");
        assert_eq!(plural(1, "row", "rows"), "1 row");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(3500), "3.4 KiB");
        assert_eq!(size(200 << 20), "200 MiB");
        assert_eq!(size(1 << 30), "1.0 GiB");
        assert_eq!(size(u64::MAX), "16383 PiB");
        assert_eq!(size(1 << 60), "1024 PiB");
    }

    /// Goal: columns stand under each other whatever is in them, and no line ends in spaces.
    /// Method: wide letters, colours, an empty last cell, a short row.
    #[test]
    fn columns_align() {
        let rows = [vec!["a", "üb", ""], vec!["\x1b[31mlong\x1b[0m", "c", "d"], vec!["x"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(table(&rows), ["a      üb", "\x1b[31mlong\x1b[0m   c    d", "x"]);
    }

    /// Goal: what a worker printed cannot steer the terminal. Method: an escape, a bell, a tab.
    #[test]
    fn control_characters_are_shown() {
        assert_eq!(harmless("a\x1b[2Jb\x07\tc\n"), "a\\u{1b}[2Jb\\u{7}\tc\n");
    }
}
