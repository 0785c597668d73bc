//! `inboxd batch [SRC…]`: runs everything that waits, then ends.
//!
//! Must not know: how jobs run. It shows progress, failures and the summary.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use super::progress::Bar;
use super::target::{escaped, quoted};
use super::{Failed, SpoolArg, below, eprint_line, print_line, show};
use crate::config::Route;
use crate::daemon::control::{Ask, Refusal};
use crate::daemon::notice::Notice;
use crate::daemon::service::guest::GuestSeen;
use crate::daemon::service::{Mode, SourcesSeen, Status, Summary};
use crate::daemon::shell::{Options, SourceOptions, Told, serve};
use crate::daemon::supervisor::Leash;
use crate::journal::record::AnyPath;
use crate::results::read::{self, Preview};
use crate::spool::import::How;

/// Failures that are shown one by one; the rest is counted.
const FAILURES_SHOWN: u64 = 10;

/// A row is cut behind so many characters.
const PREVIEW: usize = 160;

/// Arguments of `batch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files and folders to take in, whole where a folder is one job; without any, what is in incoming/
    #[arg(value_name = "SRC")]
    sources: Vec<PathBuf>,
    /// Hard-link sources instead of copying them: the worker gets the source's own file
    #[arg(long)]
    link: bool,
    /// Also run sources that are done and unchanged
    #[arg(long)]
    again: bool,
    /// At the end, seal the CSVs: their names get the time, the next run begins new ones
    #[arg(long)]
    seal: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    match beside(args, spool)? {
        Some(code) => Ok(code),
        None => super::supervised(ExitCode::FAILURE, |leash| serve_batch(args, spool, leash)),
    }
}

/// The absolute path of a source that can be one.
fn checked(source: &Path) -> Result<PathBuf, Failed> {
    let found = std::fs::metadata(source).and_then(|meta| Ok((meta, std::path::absolute(source)?)));
    match found {
        Ok((meta, path)) if meta.is_file() || meta.is_dir() => Ok(path),
        Ok(_) => {
            let shown = source.display();
            Err(Failed::usage(format!("{shown} is neither a regular file nor a folder")))
        }
        Err(error) => Err(Failed::usage(format!("cannot read {}: {error}", source.display()))),
    }
}

/// Beside a daemon that runs, the sources become its jobs, and here is told how they fare. Without any,
/// what stands in incoming/ is waited for.
/// `None`: there is none, or it cannot have guests.
fn beside(args: &Args, spool: &SpoolArg) -> Result<Option<ExitCode>, Failed> {
    let mut named = Vec::new();
    for source in &args.sources {
        // Its own name stays, also where it is a symbolic link: that is what a worker sees.
        named.push(AnyPath(checked(source)?));
    }
    let began = Instant::now();
    let ask = Ask::Batch { named, link: args.link, again: args.again, seal: args.seal };
    let Some(mut client) = spool.ask(&ask)? else { return Ok(None) };
    // Where they cannot be read now, it goes on with those that it has.
    let routes = spool.load().map(|loaded| loaded.settings.routes).unwrap_or_default();
    let shown = if routes.is_empty() { String::new() } else { show::routes(&routes) + "   " };
    let header = format!("spool {}   {shown}beside the running inboxd", spool.shown());
    let mut screen = Screen::new(!args.sources.is_empty(), header);
    screen.then = "; it is picked up by itself.";
    screen.before = tables(spool, &routes);
    let mut shown = 0;
    let mut has_answered = false;
    let seen = loop {
        let Some(answer) = client.next_answer()? else {
            if !has_answered {
                // Killed a moment ago, and its socket outlived it by that moment: nobody serves.
                return Ok(None);
            }
            return Err(Failed::runtime(
                "inboxd ended meanwhile; what it took in is done at its next start",
            ));
        };
        has_answered = true;
        if let Ok(Refusal { error }) = serde_json::from_value(answer.clone()) {
            return Err(Failed::runtime(error));
        }
        let seen: GuestSeen = serde_json::from_value(answer).map_err(io::Error::from)?;
        if seen.refused.is_some() {
            return Ok(None);
        }
        for line in seen.failures.iter().skip(shown) {
            screen.head();
            screen.say(&show::failed_line(line));
            shown += 1;
            if shown == 1 {
                screen.say(&format!("        inboxd explain {}", quoted(&line.rel.0)));
            }
        }
        screen.bar.finished(seen.done + seen.failed);
        if seen.sources.taken > 0 {
            screen.bar.files(seen.sources.taken);
        }
        screen.bar.inputs(&seen.open_inputs, seen.open_inputs.count);
        if seen.over {
            break seen;
        }
    };
    screen.failures = seen.failed;
    screen.end();
    let status = Status {
        done: seen.done,
        failed: seen.failed,
        rows: seen.rows,
        inputs: seen.inputs,
        records_done: seen.records_done,
        records_failed: seen.records_failed,
        paused: seen.paused,
        stuck: seen.stuck,
        ..seen.left.map(|left| *left).unwrap_or_default()
    };
    let summary = Summary { status, sources: seen.sources };
    Ok(Some(conclude(&summary, spool, &routes, &mut screen, began)))
}

fn serve_batch(args: &Args, spool: &SpoolArg, leash: Leash) -> Result<ExitCode, Failed> {
    let loaded = spool.load()?;
    for broken in &loaded.broken {
        eprint_line(&format!("error: {broken}\n  The other routes go on."));
    }
    let settings = loaded.settings;
    let header = format!(
        "spool {}   {}   {}",
        spool.shown(),
        show::routes(&settings.routes),
        show::plural(settings.workers as u64, "worker", "workers"),
    );
    for source in &args.sources {
        checked(source)?;
    }
    let sources = (!args.sources.is_empty()).then(|| SourceOptions {
        named: args.sources.clone(),
        how: if args.link { How::Link } else { How::Copy },
        again: args.again,
    });
    let routes = settings.routes.clone();
    let options = Options {
        spool: spool.path.clone(),
        settings,
        mode: Mode::Batch { seal: args.seal },
        sources,
        follow: None,
        leash,
    };
    let began = Instant::now();
    let mut screen = Screen::new(!args.sources.is_empty(), header);
    screen.then = match (args.sources.is_empty(), args.again) {
        (true, _) => " and run inboxd batch.",
        (false, false) => " and run the same command again.",
        (false, true) => " and run the same command again, without --again.",
    };
    screen.before = tables(spool, &routes);
    let summary = serve(options, &mut |told| screen.tell(&told)).map_err(|e| spool.failed(e))?;
    screen.end();
    Ok(conclude(&summary, spool, &routes, &mut screen, began))
}

/// The progress bar, on a terminal, and the failures as they come.
struct Screen {
    bar: Bar,
    finished: u64,
    failures: u64,
    records_failed: u64,
    with_sources: bool,
    drained: bool,
    /// What makes a paused route's files run once it is mended: nothing that would hand them in again.
    then: &'static str,
    /// Printed once there is something to do.
    header: Option<String>,
    /// The CSVs of the routes as they were before.
    before: Vec<Option<Table>>,
}

/// Inode and length of a CSV: a later one of other values has rows of this run.
type Table = (u64, u64);

impl Screen {
    fn new(with_sources: bool, header: String) -> Self {
        Self {
            bar: Bar::new(),
            finished: 0,
            failures: 0,
            records_failed: 0,
            with_sources,
            drained: false,
            then: "",
            header: Some(header),
            before: Vec::new(),
        }
    }

    fn tell(&mut self, told: &Told) {
        match told {
            Told::Notice(notice) => self.notice(notice),
            Told::Missed(missed) => self.finished += missed,
            Told::Sources(SourcesSeen { taken, .. }) if *taken > 0 => {
                self.head();
                self.bar.files(*taken);
            }
            Told::Status(status) => {
                let known = status.waiting + status.running;
                self.bar.inputs(&status.open_inputs, known as u64);
            }
            Told::Draining(running) => {
                self.drained = true;
                self.say(&show::draining(*running));
            }
            Told::Recovered(report) if report.lost > 0 => {
                let lost = show::plural(report.lost, "attempt was", "attempts were");
                self.say(&format!("recovered: {lost} lost in an earlier run and run again"));
            }
            _ => {}
        }
    }

    /// Says what is served, before anything else is said.
    fn head(&mut self) {
        if let Some(header) = self.header.take() {
            self.bar.above(|| print_line(&header));
        }
    }

    fn notice(&mut self, notice: &Notice) {
        self.head();
        match notice {
            Notice::Finished(finished) => {
                self.finished += 1;
                self.bar.finished(self.finished);
                if finished.outcome.failure.is_some() {
                    self.failures += 1;
                    if self.failures <= FAILURES_SHOWN {
                        self.say(&show::failed(&finished.outcome));
                    }
                    if self.failures == 1 {
                        let rel = quoted(&finished.outcome.rel.0);
                        self.say(&format!("        inboxd explain {rel}"));
                    }
                }
            }
            Notice::RecordFailed(record) => {
                self.records_failed += 1;
                if self.records_failed <= FAILURES_SHOWN {
                    self.say(&show::failed_record(record));
                }
            }
            Notice::Paused { route, why } | Notice::Broken { route, why } => {
                self.say(&format!("route {route} PAUSED: {}", why.reason));
            }
            other => {
                if let Some(line) = show::trouble(other) {
                    self.say(&line);
                }
            }
        }
    }

    fn say(&self, line: &str) {
        self.bar.above(|| eprint_line(line));
    }

    fn end(&self) {
        self.bar.end();
        let more = self.failures.saturating_sub(FAILURES_SHOWN);
        if more > 0 {
            self.say(&format!("… {} more failed: inboxd jobs --failed", show::count(more)));
        }
    }
}

fn conclude(
    summary: &Summary,
    spool: &SpoolArg,
    routes: &[Route],
    screen: &mut Screen,
    began: Instant,
) -> ExitCode {
    let (status, sources) = (&summary.status, &summary.sources);
    let files = status.done + status.failed;
    for reason in &sources.failed {
        eprint_line(&format!("error: {reason}"));
    }
    if sources.more_failed > 0 {
        eprint_line(&format!(
            "error: {} more could not be taken in",
            show::count(sources.more_failed)
        ));
    }
    for reason in &status.trouble {
        eprint_line(&format!("warning: cannot read {reason}"));
    }
    if files == 0
        && status.records_done + status.records_failed == 0
        && sources.failed.is_empty()
        && status.paused.is_empty()
    {
        let is_left = status.held + status.incomplete > 0
            || status.unrouted + sources.unrouted + sources.lacking > 0;
        print_line(&match sources.known {
            0 if is_left => "nothing to do".to_owned(),
            0 if screen.with_sources => "nothing to do: no files".to_owned(),
            0 => format!("nothing to do: {} is empty", below(spool, "incoming")),
            known => format!(
                "nothing to do: {} already done (--again runs them again)",
                show::count(known)
            ),
        });
    } else {
        screen.head();
        let records = status.records_done + status.records_failed;
        let of = |n: u64, one, many, done, failed| {
            let (all, done) = (show::plural(n, one, many), show::count(done));
            format!("{all}   {done} done   {} failed", show::count(failed))
        };
        let of_files = of(files, "file", "files", status.done, status.failed);
        let of_records =
            of(records, "record", "records", status.records_done, status.records_failed);
        // One input, or several, and nothing else: their records are what was run.
        let only_records = records > 0 && status.inputs == files && status.failed == 0;
        let counts = match (records, only_records) {
            (0, _) => of_files,
            (_, true) => of_records,
            (_, false) => format!("{of_files}   {of_records}"),
        };
        let rows = show::plural(status.rows, "row", "rows");
        let mut line = format!("{counts}   {rows}   {}", seconds(began));
        if sources.known > 0 {
            line.push_str("   ");
            line.push_str(&show::count(sources.known));
            line.push_str(" already done");
        }
        print_line(&line);
    }
    left_over(summary);
    if status.rows > 0 {
        preview(spool, routes, &screen.before);
    }
    for (route, why) in &status.paused {
        eprint_line(&format!("route {route} PAUSED: {}", why.reason));
        let waiting = status.routes.get(route).map_or(status.stuck, |load| load.waiting);
        let files = show::plural(waiting as u64, "file waits", "files wait");
        let (fix, then) = (&why.fix, screen.then);
        let none = if why.is_tried { "" } else { ", none failed" };
        eprint_line(&format!("  {files}{none}. Fix {fix}{then}"));
    }
    if !status.paused.is_empty() || screen.drained {
        ExitCode::from(1)
    } else if status.failed > 0 || status.records_failed > 0 || !sources.failed.is_empty() {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    }
}

/// What stays, and why.
fn left_over(summary: &Summary) {
    let status = &summary.status;
    let unrouted = status.unrouted + summary.sources.unrouted;
    if unrouted > 0 {
        let example =
            summary.sources.unrouted_example.clone().or_else(|| status.unrouted_example.clone());
        let example = example.unwrap_or_default();
        let (one, many) = ("file matches no route and stays", "files match no route and stay");
        let files = show::plural(unrouted, one, many);
        print_line(&format!("{files} behind, such as {example}"));
    }
    let sources = &summary.sources;
    if sources.lacking > 0 {
        let (one, many) = ("file lacks what comes with it", "files lack what comes with them");
        let files = show::plural(sources.lacking, one, many);
        let example = sources.lacking_example.clone().unwrap_or_default();
        print_line(&format!("{files}, such as {example}"));
    }
    if status.incomplete > 0 {
        let files = show::plural(status.incomplete as u64, "file is", "files are");
        print_line(&format!("{files} incomplete, says the worker; the next run asks again"));
    }
    if status.held > 0 {
        let (one, many) = ("file stays in incoming/, it", "files stay in incoming/, they");
        let files = show::plural(status.held as u64, one, many);
        print_line(&format!("{files} cannot be claimed"));
        for held in &status.held_files {
            print_line(&format!("  {}   {}", held.rel, held.reason));
            if let Some(fix) = &held.fix {
                print_line(&format!("    {fix}"));
            }
        }
        let more = status.held.saturating_sub(status.held_files.len());
        if more > 0 {
            print_line(&format!("  … {} more", show::count(more as u64)));
        }
    }
}

fn seconds(began: Instant) -> String {
    let time = began.elapsed();
    if time.as_secs() < 60 {
        format!("{}.{} s", time.as_secs(), time.as_millis() % 1000 / 100)
    } else {
        show::time(time)
    }
}

fn table_of(spool: &SpoolArg, route: &Route) -> PathBuf {
    spool.path.join("results").join(format!("{}.csv", route.name))
}

fn tables(spool: &SpoolArg, routes: &[Route]) -> Vec<Option<Table>> {
    let table = |route| std::fs::metadata(table_of(spool, route)).ok();
    routes.iter().map(|route| table(route).map(|it| (it.ino(), it.len()))).collect()
}

/// Header and first row of each CSV of this run, and where the rest is.
fn preview(spool: &SpoolArg, routes: &[Route], before: &[Option<Table>]) {
    for ((route, before), now) in routes.iter().zip(before).zip(tables(spool, routes)) {
        if *before == now {
            continue;
        }
        let path = table_of(spool, route);
        let Ok(Some(Preview { header, first, more })) = read::preview(&path) else { continue };
        let ends_in_id = header.last().is_some_and(|name| name == b"_job");
        print_line(&format!("  {}", shown(&header, false)));
        print_line(&format!("  {}", shown(&first, ends_in_id)));
        let place = path.display();
        print_line(&match more {
            0 => format!("  in {place}"),
            more => format!("  … {} more in {place}", show::count(more)),
        });
    }
}

/// A row as one line of a terminal, whatever is in its cells: the job id at its end is cut to what tells
/// jobs apart by eye, and so is what is too long.
fn shown(row: &[Vec<u8>], ends_in_id: bool) -> String {
    let mut cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
    if let Some(id) = cells.last_mut().filter(|id| ends_in_id && id.is_ascii()) {
        id.truncate(6);
        id.push('…');
    }
    let line = read::line(&cells);
    match line.char_indices().nth(PREVIEW) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or(&line)),
        None => line,
    }
}
