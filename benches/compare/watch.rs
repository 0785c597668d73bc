//! Watching: from a drop to the worker's first instruction beside `inotifywait -m | while read`, what an
//! idle daemon costs, and whether arrivals slow a backlog.
//!
//! Must not know: anything of the daemon but its folders, its `status` and what the kernel says of it.
//!
//! - The worker of all is this program itself, which writes down the time as the first thing it does.
//!   A shell would take longer to start than what is measured.
//! - The loop does nothing besides: no claim, no record, no move. Drops go to each in turn, and all are there
//!   all the time, so that what disturbs one disturbs the others.
//! - The loop runs in two shells, as they differ more from each other than from the daemon: bash forks, dash vforks.
//! - A drop is timed just before its rename, and who drops sleeps at once after it: its files were written
//!   before. Else what is measured is when it stops, on the core that it shares with those it wakes up.
//! - The loop has a session of its own, as the daemon has: by sessions the scheduler decides whether who is
//!   woken up may interrupt who drops, and half a millisecond depends on that.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use inboxd::daemon::control::{Ask, Client};

use super::spool::{Bench, TRUE, names};
use super::{Options, median, say};

/// Drops for each.
const DROPS: usize = 200;
/// Between two drops for one.
const EVERY: Duration = Duration::from_millis(20);
/// Folders that the idle daemon watches.
const FOLDERS: usize = 1000;
/// How long it is left alone.
const IDLE: Duration = Duration::from_secs(30);
/// Parts of the backlog's time, with and without arrivals by turns.
const PARTS: usize = 12;
const PART: Duration = Duration::from_secs(3);
/// Between two arrivals.
const ARRIVAL: Duration = Duration::from_millis(50);
/// The argument that makes this program the worker.
pub(crate) const STAMP: &str = "--stamp";

/// The worker: writes the time into a file beside its own program's log folder.
pub(crate) fn stamp(now: SystemTime, mut words: std::env::ArgsOs) -> Result<(), String> {
    let (Some(folder), Some(path)) = (words.next(), words.next()) else {
        return Err("--stamp FOLDER FILE".to_owned());
    };
    let name = Path::new(&path).file_name().unwrap_or_default().to_owned();
    let text = unix_ns(now).to_string();
    // Not there before it is whole: it is looked for.
    let hidden = Path::new(&folder).join(format!(".{}", std::process::id()));
    std::fs::write(&hidden, text).map_err(|error| error.to_string())?;
    #[expect(clippy::disallowed_methods, reason = "the bench's own folder")]
    std::fs::rename(&hidden, Path::new(&folder).join(name)).map_err(|error| error.to_string())
}

fn unix_ns(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs all three with the last build and prints the figures.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let inboxd = options.inboxd.last().ok_or("no build")?;
    latency(options, inboxd)?;
    idle(options, inboxd)?;
    arrivals(options, inboxd)
}

/// A child that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        // A group of its own, where it has one; it may have ended already.
        for kill in [rustix::process::kill_process_group, rustix::process::kill_process] {
            match kill(pid, rustix::process::Signal::TERM) {
                Ok(()) | Err(_) => {}
            }
        }
        drop(self.0.wait());
    }
}

/// Waits until it is so, for a minute at most.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        if Instant::now() > end {
            return Err(format!("not within a minute: {what}"));
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(())
}

/// The loop that everybody writes, in this shell, once it watches.
fn start_loop(shell: &str, folder: &Path, us: &Path, stamps: &Path) -> Result<Ends, String> {
    let script = "inotifywait -m -e moved_to --format %w%f \"$0\" | while read -r f; do \
                  \"$1\" --stamp \"$2\" \"$f\"; done";
    let mut command = Command::new("setsid");
    command.args([shell, "-c", script]).args([folder, us, stamps]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Ends(command.spawn().map_err(|error| format!("setsid: {error}"))?);
    let said = child.0.stderr.take().ok_or("no stderr")?;
    let mut lines = BufReader::new(said).lines();
    let is_ready = |line: std::io::Result<String>| line.is_ok_and(|it| it.contains("established"));
    if !lines.by_ref().any(is_ready) {
        return Err(format!("{shell} or inotifywait (inotify-tools) is not installed"));
    }
    Ok(child)
}

fn latency(options: &Options, inboxd: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let us = std::env::current_exe().map_err(failed)?;
    let stamps = options.folder.join("stamps");
    let staged = options.folder.join("staged");
    for folder in [&stamps, &staged] {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let route = format!(
        "command = ['{}', '{STAMP}', '{}', '{{path}}']\nstdout = 'none'\n",
        us.display(),
        stamps.display()
    );
    let bench = Bench::new(&options.folder, &route, 0)?;
    let _daemon = Ends(bench.start(inboxd, "run")?);
    until("the daemon answers", || status(bench.path()).is_some())?;
    let mut folders = vec![("inboxd run".to_owned(), bench.folder("incoming"))];
    let mut loops = Vec::new();
    // The shell of most scripts of this kind, and the one that starts programs fastest, where that is another.
    for shell in ["bash", "sh"] {
        let folder = options.folder.join(shell);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        loops.push(start_loop(shell, &folder, &us, &stamps)?);
        folders.push((format!("inotifywait -m | while read, {shell}"), folder));
    }
    let mut drops = Vec::new();
    for drop in 0..DROPS + 5 {
        for (side, (_, folder)) in folders.iter().enumerate() {
            let name = format!("{side}-{drop:04}");
            let from = staged.join(&name);
            std::fs::write(&from, "a b c\n").map_err(failed)?;
            drops.push((drop, side, from, folder.join(&name), name));
        }
    }
    let mut took = vec![Vec::new(); folders.len()];
    let (mut next, sides) = (Instant::now(), u32::try_from(folders.len()).unwrap_or(u32::MAX));
    for (drop, side, from, to, name) in drops {
        next += EVERY / sides;
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        let at = unix_ns(SystemTime::now());
        #[expect(clippy::disallowed_methods, reason = "the bench plays the producer")]
        std::fs::rename(&from, &to).map_err(failed)?;
        // The first of each find nothing in any cache.
        if drop >= 5
            && let Some(took) = took.get_mut(side)
        {
            took.push((name, at));
        }
    }
    say(&format!(
        "drop to the worker's first instruction, {DROPS} drops each, {EVERY:?} apart (ms)"
    ));
    say("                                         p50      p90      p99      most");
    for ((name, _), drops) in folders.iter().zip(took) {
        let mut all = Vec::new();
        for (name, at) in drops {
            let path = stamps.join(&name);
            until(&name, || path.exists())?;
            let text = std::fs::read_to_string(&path).map_err(failed)?;
            let end: u64 = text.parse().map_err(|_| format!("{name}: {text}"))?;
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a moment")]
            all.push(end.saturating_sub(at) as f64 / 1e6);
        }
        all.sort_by(f64::total_cmp);
        let at = |part: usize| all.get((all.len() - 1) * part / 100).copied().unwrap_or(0.0);
        say(&format!("  {name:36} {:8.2} {:8.2} {:8.2} {:8.2}", at(50), at(90), at(99), at(100)));
    }
    Ok(())
}

/// Supervisor and daemon: the daemon is the first child.
fn both(supervisor: u32) -> Vec<u32> {
    let path = format!("/proc/{supervisor}/task/{supervisor}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let first = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
    std::iter::once(supervisor).chain(first).collect()
}

/// Nanoseconds on a processor, of all threads, as the scheduler counts.
fn cpu_ns(pids: &[u32]) -> u64 {
    let mut sum = 0;
    for pid in pids {
        for thread in names(Path::new(&format!("/proc/{pid}/task"))).unwrap_or_default() {
            let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
            sum += text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        }
    }
    sum
}

fn pss_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// Clock ticks of `utime` and `stime`: what `top` and `ps` show.
fn ticks(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    pids.iter().filter_map(of).sum()
}

fn idle(options: &Options, inboxd: &Path) -> Result<(), String> {
    let bench = Bench::new(&options.folder, TRUE, 0)?;
    for folder in 0..FOLDERS {
        let path = bench.folder("incoming").join(format!("{}/{folder}", folder % 10));
        std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
    }
    let daemon = Ends(bench.start(inboxd, "run")?);
    until("the daemon answers", || status(bench.path()).is_some())?;
    std::thread::park_timeout(Duration::from_secs(3));
    let pids = both(daemon.0.id());
    let (before, ticked) = (cpu_ns(&pids), ticks(&pids));
    std::thread::park_timeout(IDLE);
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of half a minute")]
    let ms = (cpu_ns(&pids) - before) as f64 / 1e6;
    say(&format!("idle, {FOLDERS} folders watched, {} s", IDLE.as_secs()));
    say(&format!("  CPU (utime + stime)        {} ms", (ticks(&pids) - ticked) * 10));
    say(&format!("  CPU as the scheduler counts {ms:.2} ms"));
    say(&format!("  PSS of both processes      {} KiB", pss_kib(&pids)));
    Ok(())
}

fn arrivals(options: &Options, inboxd: &Path) -> Result<(), String> {
    let files = options.backlog;
    say(&format!("making {files} files …"));
    let bench = Bench::new(&options.folder, TRUE, files)?;
    let staged = options.folder.join("staged");
    Command::new("sync").status().map_err(|error| error.to_string())?;
    let _daemon = Ends(bench.start(inboxd, "run")?);
    until("the first thousand are done", || {
        status(bench.path()).is_some_and(|(done, _)| done > 1000)
    })?;
    let mut rates = [Vec::new(), Vec::new()];
    let mut number = 0u64;
    for part in 0..PARTS {
        let side = part % 2;
        let (before, _) = status(bench.path()).ok_or("the daemon does not answer")?;
        let began = Instant::now();
        let first = number;
        let mut next = began;
        while began.elapsed() < PART {
            next += ARRIVAL;
            if side == 1 {
                let from = staged.join("arrival");
                std::fs::write(&from, "a b c\n").map_err(|error| error.to_string())?;
                let to = bench.folder("incoming").join(format!("arrival{number:06}"));
                #[expect(clippy::disallowed_methods, reason = "the bench plays the producer")]
                std::fs::rename(&from, to).map_err(|error| error.to_string())?;
                number += 1;
            }
            std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
        let (after, left) = status(bench.path()).ok_or("the daemon does not answer")?;
        let took = began.elapsed().as_secs_f64();
        if left == 0 {
            say(&format!("  the backlog was too short: only {part} parts count"));
            break;
        }
        // At worst all of the arrivals were run before the backlog.
        let of_backlog = (after - before).saturating_sub(number - first);
        if let Some(rates) = rates.get_mut(side) {
            #[expect(clippy::cast_precision_loss, reason = "a count of files")]
            rates.push(of_backlog as f64 / took);
        }
    }
    let [without, with] = rates.map(median);
    say(&format!(
        "backlog of {files}, {} s by turns without and with an arrival every {ARRIVAL:?}",
        PART.as_secs()
    ));
    say(&format!("  without arrivals           {without:.0}/s"));
    say(&format!("  with arrivals              {with:.0}/s, {:.2} of it", with / without));
    Ok(())
}

/// Jobs done, and files known that are not.
fn status(spool: &Path) -> Option<(u64, u64)> {
    let answer = Client::ask(spool, &Ask::Status).ok()??.next_answer().ok()??;
    let number = |name: &str| answer.get(name).and_then(serde_json::Value::as_u64);
    Some((number("done")?, number("waiting")? + number("running")? + number("held")?))
}
