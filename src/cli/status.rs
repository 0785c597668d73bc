//! `inboxd status`: what waits, runs, is done and has failed, and what stands in the way.
//!
//! Must not know: how the daemon counts. What is done and failed is what stands in `done/` and
//! `error/`, with a daemon or without: that is what `ls` shows, and what a retry changes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::target::holds_job;
use super::{Failed, SpoolArg, below, join, print_json, print_line, show};
use crate::config::{Loaded, RouteTable, limits, load};
use crate::core::RelPath;
use crate::daemon::control::Ask;
use crate::daemon::keeper::{Shortage, chain};
use crate::daemon::notice::{FIX_LEFT, Paused};
use crate::daemon::retention::Counted;
use crate::daemon::shell::check_places;
use crate::fs::{Filesystem, RealFs, real, walk_files};
use crate::spool::Place;
use crate::spool::lock::holder;

/// What waits, runs, is done and has failed, and what stands in the way
///
/// done and failed are the files in done/ and error/; the other numbers are the daemon's. Without a
/// daemon the folders are counted, up to a million names each.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd status
  inboxd status --json | jq .failed
  watch -n1 inboxd status")]
pub(crate) struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let loaded = load(&spool.path);
    let running = match spool.ask(&Ask::Status)? {
        Some(mut client) => client.next_answer()?,
        None => None,
    };
    let state = match running {
        Some(running) => State::of_daemon(spool, &running),
        None => State::of_folders(spool, loaded.as_ref().ok()),
    };
    if args.json {
        print_json(&state);
    } else {
        state.print(spool);
        say_mistakes(&spool.path, &loaded);
    }
    Ok(ExitCode::SUCCESS)
}

fn say_mistakes(spool: &Path, loaded: &Result<Loaded, Vec<crate::config::ConfigError>>) {
    let errors = match loaded {
        Ok(loaded) => &loaded.broken,
        Err(errors) => errors,
    };
    let mistakes = if errors.is_empty() { refused_places(spool) } else { Some(join(errors)) };
    if let Some(mistakes) = mistakes {
        print_line(&format!("{}: {mistakes}", show::bad("error")));
    }
}

/// Why a daemon would not start here, nor take up new settings, though they are in order. Only its own user
/// can tell who else may write.
fn refused_places(spool: &Path) -> Option<String> {
    let path = std::fs::canonicalize(spool).ok()?;
    let owner = std::fs::metadata(path.join("journal")).ok()?.uid();
    let is_ours = owner == rustix::process::geteuid().as_raw();
    is_ours.then(|| check_places(&path).err()).flatten().map(|error| chain(&error))
}

/// Files below a folder.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Folder {
    files: u64,
    bytes: u64,
    /// There are more; the numbers are what was counted.
    is_more: bool,
}

/// Everything, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct State {
    running_daemon: bool,
    /// It was told to stop, and waits for what runs.
    draining: bool,
    pid: Option<u64>,
    /// Who has the spool and does not listen: it starts, it ends, or its socket was removed a moment ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_pid: Option<u32>,
    up_ms: Option<u64>,
    /// Sentinels whose file is not there, and one of them.
    lone_sentinels: u64,
    lone_example: Option<String>,
    /// Times that events were lost, each followed by a scan of everything.
    overflows: u64,
    /// What to do about `events`.
    #[serde(skip_serializing_if = "Option::is_none")]
    events_fix: Option<String>,
    /// `ok`, or in which way new files are noticed more slowly.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<String>,
    waiting: u64,
    /// Some of them were not counted.
    waiting_is_more: bool,
    running: u64,
    held: u64,
    done: u64,
    failed: u64,
    oldest_ms: Option<u64>,
    unrouted: u64,
    unrouted_example: Option<String>,
    /// Files that wait for something else than a worker: name, reason, since when.
    held_files: Vec<Value>,
    /// Routes that do not run, with the reason.
    paused: BTreeMap<String, Paused>,
    /// Folders that cannot be read.
    trouble: Vec<String>,
    disk_full: bool,
    /// Nothing is claimed for want of it.
    short_of: Option<Shortage>,
    /// What stands in `processing/` and only another user may remove.
    left_behind: Vec<String>,
    /// Available and wanted bytes of memory, where they are too few.
    low_memory: Option<(u64, u64)>,
    free_bytes: Option<u64>,
    since_start: Option<Value>,
    folders: BTreeMap<&'static str, Folder>,
    /// What retention counted last, to the last file.
    #[serde(skip_serializing_if = "Option::is_none")]
    counted: Option<Counted>,
}

impl State {
    fn of_daemon(spool: &SpoolArg, told: &Value) -> Self {
        let number = |key: &str| told.get(key).and_then(Value::as_u64);
        let text = |key: &str| told.get(key).and_then(Value::as_str).map(str::to_owned);
        let list = |key: &str| told.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let short_of = show::short_of(told);
        let mut state = Self {
            running_daemon: true,
            draining: told.get("draining").and_then(Value::as_bool).unwrap_or(false),
            pid: number("pid"),
            up_ms: number("up_ms"),
            events: text("events"),
            events_fix: text("events_fix"),
            overflows: number("overflows").unwrap_or(0),
            lone_sentinels: number("lone_sentinels").unwrap_or(0),
            lone_example: text("lone_example"),
            waiting: number("waiting").unwrap_or(0),
            running: number("running").unwrap_or(0),
            held: number("held").unwrap_or(0),
            oldest_ms: number("oldest_ms"),
            unrouted: number("unrouted").unwrap_or(0),
            unrouted_example: text("unrouted_example"),
            held_files: list("held_files"),
            paused: told
                .get("paused")
                .and_then(|paused| BTreeMap::deserialize(paused).ok())
                .unwrap_or_default(),
            trouble: list("trouble")
                .iter()
                .filter_map(|it| Some(it.as_str()?.to_owned()))
                .collect(),
            counted: told.get("counted").and_then(|counted| Counted::deserialize(counted).ok()),
            disk_full: matches!(short_of, Some(Shortage::Disk | Shortage::Quota)),
            short_of,
            low_memory: told
                .get("low_memory")
                .and_then(|low| Some((low.get("free")?.as_u64()?, low.get("floor")?.as_u64()?))),
            since_start: Some(serde_json::json!({
                "done": number("done"), "failed": number("failed"), "rows": number("rows"),
            })),
            ..Self::default()
        };
        state.count_folders(spool);
        state
    }

    /// Nobody serves it.
    fn of_folders(spool: &SpoolArg, loaded: Option<&Loaded>) -> Self {
        let mut state = Self { silent_pid: holder(&spool.path), ..Self::default() };
        state.count_incoming(spool, loaded);
        if let Ok(processing) = RealFs.open_root(&spool.path.join("processing")) {
            let names = RealFs.list(&processing).into_iter().flatten().filter_map(Result::ok);
            let is_claim = |name: &OsStr| match Place::parse(name) {
                Some(Place::Job(claimed)) => holds_job(&processing, claimed),
                _ => false,
            };
            let claims = names.filter(|entry| is_claim(&entry.name)).count();
            state.waiting = state.waiting.saturating_add(claims.try_into().unwrap_or(u64::MAX));
        }
        state.count_folders(spool);
        state
    }

    fn count_incoming(&mut self, spool: &SpoolArg, loaded: Option<&Loaded>) {
        let table = loaded.and_then(|loaded| RouteTable::new(&loaded.settings).ok());
        let Ok(incoming) = RealFs.open_root(&spool.path.join("incoming")) else { return };
        let rel_of = |path: &Path| {
            use std::os::unix::ffi::OsStrExt;
            RelPath::new(path.as_os_str().as_bytes())
        };
        let is_ignored = |rel: &RelPath| table.as_ref().is_some_and(|t| t.ignored(rel).is_some());
        let units = Cell::new(0);
        let enters = |path: &Path| {
            let Some(rel) = rel_of(path).filter(|rel| !is_ignored(rel)) else { return false };
            // One that is one job waits as one.
            let is_unit = table.as_ref().is_some_and(|table| table.find_folder(&rel).is_some());
            units.set(units.get() + u64::from(is_unit));
            !is_unit
        };
        let mut names = 0;
        let mut oldest: Option<i64> = None;
        let walked = walk_files(&RealFs, &incoming, &enters, &mut |dir, name, path| {
            names += 1;
            let Some(rel) = rel_of(path).filter(|rel| !is_ignored(rel)) else { return true };
            let goes_along = |table: &RouteTable| {
                table.announced(&rel).is_some() || table.companion_of(&rel).is_some()
            };
            if table.as_ref().is_some_and(goes_along) {
                // It waits with another one.
            } else if table.as_ref().is_some_and(|table| table.find(&rel).is_none()) {
                self.unrouted += 1;
                self.unrouted_example.get_or_insert_with(|| rel.to_string());
            } else {
                self.waiting += 1;
                if names <= limits::STATUS_STATS
                    && let Ok(stat) = RealFs.stat(dir, name)
                {
                    oldest = Some(oldest.map_or(stat.ctime_ns, |old| old.min(stat.ctime_ns)));
                }
            }
            self.waiting_is_more = names >= limits::STATUS_NAMES;
            !self.waiting_is_more
        });
        self.waiting += units.get();
        if let Err(error) = walked {
            self.trouble.push(format!("incoming: {error}"));
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let born = oldest.and_then(|ns| u64::try_from(ns).ok()).map(Duration::from_nanos);
        let age = born.map(|born| now.saturating_sub(born).as_millis());
        self.oldest_ms = age.and_then(|ms| u64::try_from(ms).ok());
    }

    fn count_folders(&mut self, spool: &SpoolArg) {
        for name in ["done", "error", "output", "results", "journal"] {
            let folder = count(&spool.path.join(name));
            match name {
                "done" => self.done = folder.files,
                "error" => self.failed = folder.files,
                _ => {}
            }
            self.folders.insert(name, folder);
        }
        let names = std::fs::read_dir(spool.path.join("processing")).into_iter().flatten();
        let names = names.filter_map(|name| Some(name.ok()?.file_name()));
        let left = names.filter(|name| matches!(Place::parse(name), Some(Place::Left(_))));
        self.left_behind = left.map(|name| name.to_string_lossy().into_owned()).collect();
        self.free_bytes = real::free_space(&spool.path).ok().map(|(free, _)| free);
    }

    fn print(&self, spool: &SpoolArg) {
        let mut head = match self.pid {
            Some(pid) if self.draining => {
                let waits = "waits for what runs, claims nothing";
                format!("{} pid {pid}   {waits}", show::bad("STOPPING"))
            }
            Some(pid) => format!("{} pid {pid}", show::good("RUNNING")),
            None => match self.silent_pid {
                Some(pid) => format!(
                    "{} pid {pid}   it starts, ends or makes its socket anew: ask again in a moment",
                    show::bad("BUSY")
                ),
                None => {
                    format!("STOPPED   {}   {}", spool.shown(), show::dim("inboxd run starts it"))
                }
            },
        };
        if let Some(up) = self.up_ms {
            head.extend(["   up ", &show::time(Duration::from_millis(up))]);
        }
        head.extend(self.events.as_ref().map(|events| format!("   events {events}")));
        print_line(&head);
        let more = |is_more: bool| if is_more { "+" } else { "" };
        let is_more =
            |name: &str| more(self.folders.get(name).is_some_and(|folder| folder.is_more));
        let failed = format!("failed {}{}", show::count(self.failed), is_more("error"));
        let mut counts = vec![
            format!("waiting {}{}", show::count(self.waiting), more(self.waiting_is_more)),
            format!("running {}", show::count(self.running)),
            format!("held {}", show::count(self.held)),
            format!("done {}{}", show::count(self.done), is_more("done")),
            if self.failed > 0 { show::bad(&failed) } else { failed },
        ];
        counts.extend(
            self.oldest_ms.map(|ms| format!("oldest {}", show::time(Duration::from_millis(ms)))),
        );
        print_line(&counts.join("   "));
        if let Some(fix) = &self.events_fix {
            print_line(&format!("events  {fix}"));
        }
        self.print_trouble(spool);
        self.print_disk();
    }

    fn print_trouble(&self, spool: &SpoolArg) {
        let rows: Vec<Vec<String>> = self
            .held_files
            .iter()
            .map(|held| {
                let text = |key: &str| held.get(key).and_then(Value::as_str).unwrap_or_default();
                let since = held.get("for_ms").and_then(Value::as_u64);
                let since = since.map(|ms| format!(" ({})", show::time(Duration::from_millis(ms))));
                let reason = format!("{}{}", text("reason"), since.unwrap_or_default());
                let files = held.get("files").and_then(Value::as_u64).filter(|files| *files > 1);
                let files = files.map(|n| format!(" ({} files)", show::count(n)));
                vec![format!("held  {}{}", text("rel"), files.unwrap_or_default()), reason]
            })
            .collect();
        for (line, held) in show::table(&rows).iter().zip(&self.held_files) {
            print_line(line);
            if let Some(fix) = held.get("fix").and_then(Value::as_str) {
                print_line(&format!("  {fix}"));
            }
        }
        for (route, why) in &self.paused {
            for line in show::paused(route, why) {
                print_line(&line);
            }
        }
        if self.unrouted > 0 {
            // In `incoming/`, or claimed by a route that there was before.
            let (one, many) = (
                "file matches no route and stays where it is",
                "files match no route and stay where they are",
            );
            let files = show::plural(self.unrouted, one, many);
            let example = self.unrouted_example.as_deref().unwrap_or_default();
            print_line(&format!("{files}, such as {example}"));
        }
        if self.lone_sentinels > 0 {
            let (one, many) = ("file announces a file", "files announce files");
            let files = show::plural(self.lone_sentinels, one, many);
            let example = self.lone_example.as_deref().unwrap_or_default();
            print_line(&format!("{files} that did not come, such as {example}"));
        }
        for trouble in &self.trouble {
            print_line(&format!("{}: cannot read {trouble}", show::bad("warning")));
        }
        if let [example, ..] = self.left_behind.as_slice() {
            let (one, many) = ("folder stays after its job", "folders stay after their jobs");
            let folders = show::plural(self.left_behind.len() as u64, one, many);
            let place = below(spool, format!("processing/{example}"));
            print_line(&format!("{folders}, such as {place}\n  {FIX_LEFT}"));
        }
        if let Some((free, floor)) = self.low_memory {
            print_line(&format!(
                "{}: only {} are available; nothing is started below {} (min_free_memory)",
                show::bad("memory"),
                show::size(free),
                show::size(floor)
            ));
        }
        if let Some(of) = self.short_of.filter(|_| !self.disk_full) {
            let (what, fix) = of.says();
            let fix = fix.unwrap_or_default();
            print_line(&format!(
                "{}: {what}; nothing is claimed {}, nothing is lost\n  {fix}",
                show::bad("limit"),
                of.until()
            ));
        }
        if self.disk_full {
            let free = self.free_bytes.map(show::size).unwrap_or_default();
            print_line(&format!(
                "{}: only {free} are free; nothing is claimed until there is more, nothing is lost",
                show::bad("disk")
            ));
        }
    }

    fn print_disk(&self) {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.free_bytes.map(|free| format!("{} free", show::size(free))));
        for (name, folder) in self.folders.iter().filter(|(_, folder)| folder.bytes > 0) {
            if folder.files <= limits::STATUS_STATS {
                parts.push(format!("{name} {}", show::size(folder.bytes)));
                continue;
            }
            // Too many to be looked at each time: what retention counted, with its age.
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let counted = self.counted.as_ref().and_then(|counted| {
                let age = now.saturating_sub(Duration::from_millis(counted.at_ms));
                counted.folders.get(*name).map(|(_, bytes)| (*bytes, age))
            });
            parts.push(match counted {
                Some((bytes, age)) => {
                    format!("{name} {} ({} ago)", show::size(bytes), show::time(age))
                }
                None => format!("{name} {}+", show::size(folder.bytes)),
            });
        }
        if !parts.is_empty() {
            print_line(&show::dim(&format!("disk  {}", parts.join("   "))));
        }
    }
}

fn count(path: &Path) -> Folder {
    let mut folder = Folder::default();
    let Ok(dir) = RealFs.open_root(path) else { return folder };
    let enters = |path: &Path| path != Path::new(".why");
    let walked = walk_files(&RealFs, &dir, &enters, &mut |dir, name, _| {
        folder.files += 1;
        if folder.files <= limits::STATUS_STATS {
            folder.bytes += RealFs.stat(dir, name).map_or(0, |stat| stat.size);
        }
        folder.is_more = folder.files >= limits::STATUS_NAMES;
        !folder.is_more
    });
    // A folder that cannot be read counts as far as it could be.
    drop(walked);
    folder
}
