//! A million files waiting: time to the first job, memory, and whether the rate stays.
//!
//! Must not know: anything of the daemon but its folders, its `status` and what the kernel says of it.
//!
//! The middle is not run unless `--whole` says so: once the first part is measured, the files of the
//! middle are moved from `incoming/` to `done/` from outside, one by one, while the daemon goes on. So
//! at the end the folders are as large as they would be, and the daemon, in one process, has met
//! every name: those that it had in its window are lost races to it. What is skipped is the running.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use inboxd::daemon::control::{Ask, Client};

use super::spool::{Bench, TRUE, names};
use super::{Options, say};

const BACKLOG: usize = 1_000_000;
/// Jobs at either end whose rate is compared.
const PART: u64 = 10_000;
/// Names left at the end; the daemon takes some of them while the others are moved.
const KEPT: usize = 40_000;

/// Runs it with the first build and prints the figures.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let inboxd = options.inboxd.last().ok_or("no build")?;
    say(&format!("making {BACKLOG} files …"));
    let bench = Bench::new(&options.folder, TRUE, BACKLOG)?;
    std::process::Command::new("sync").status().map_err(|error| error.to_string())?;
    let began = Instant::now();
    let mut daemon = Daemon(bench.start(inboxd, "run")?);
    // The first file in done/: later than the first job's start, so no flattery.
    while names(&bench.folder("done")).map_or(0, |names| names.len()) == 0 {
        daemon.is_alive()?;
        pause(1);
    }
    let first = began.elapsed();
    let mut samples = vec![(began.elapsed(), 0)];
    sample_until(&mut daemon, &bench, began, &mut samples, |status| status.0 >= PART + 1000)?;
    let at_first = rate(&samples, 500, 500 + PART);
    let early = daemon.peak_kib()?;
    if !options.whole {
        move_middle(&bench)?;
    }
    sample_until(&mut daemon, &bench, began, &mut samples, |(_, left)| left == 0)?;
    let all = samples.last().map_or(0, |(_, done)| *done);
    let end = rate(&samples, all.saturating_sub(PART + 100), all.saturating_sub(100));
    say(&format!("first job done after      {:.3} s", first.as_secs_f64()));
    say(&format!("first {PART} jobs          {at_first:.0}/s"));
    say(&format!("last {PART} jobs           {end:.0}/s, {:.2} of the first", end / at_first));
    say(&format!("peak memory (VmHWM)       {} MiB", daemon.peak_kib()? >> 10));
    say(&format!("  after the first {PART}   {} MiB", early >> 10));
    say(&format!("jobs run                  {all}"));
    Ok(())
}

/// The daemon, ended with this.
struct Daemon(Child);

impl Daemon {
    fn is_alive(&mut self) -> Result<(), String> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            other => Err(format!("the daemon ended: {other:?}")),
        }
    }

    /// Peak resident memory of the daemon and of what else runs its program, in KiB.
    fn peak_kib(&self) -> Result<u64, String> {
        Ok(peak_of(self.0.id())? + children(self.0.id()).into_iter().map(peak_or_0).sum::<u64>())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let pid = rustix::process::Pid::from_child(&self.0);
        match rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
            Ok(()) | Err(_) => {}
        }
        drop(self.0.wait());
    }
}

fn peak_or_0(pid: u32) -> u64 {
    peak_of(pid).unwrap_or(0)
}

fn peak_of(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| format!("{path} without VmHWM"))
}

/// Its children that are not workers: where a supervisor stands above the daemon, the daemon.
fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    let exe = |pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = exe(pid);
    let is_ours = |pid: &u32| exe(*pid) == own;
    pids.filter(is_ours).collect()
}

/// Asks for the state now and then until `enough(done, left)`.
fn sample_until(
    daemon: &mut Daemon,
    bench: &Bench,
    began: Instant,
    samples: &mut Vec<(Duration, u64)>,
    enough: impl Fn((u64, u64)) -> bool,
) -> Result<(), String> {
    loop {
        daemon.is_alive()?;
        if let Some((done, left)) = state(bench.path()) {
            samples.push((began.elapsed(), done));
            // An empty window is not an empty folder: the daemon may be about to look again.
            let is_empty = || names(&bench.folder("incoming")).is_ok_and(|names| names.is_empty());
            if enough((done, left)) && (left > 0 || is_empty()) {
                return Ok(());
            }
        }
        pause(20);
    }
}

/// Jobs done, and files known that are not.
fn state(spool: &Path) -> Option<(u64, u64)> {
    let answer = Client::ask(spool, &Ask::Status).ok()??.next_answer().ok()??;
    let number = |name: &str| answer.get(name).and_then(serde_json::Value::as_u64);
    Some((number("done")?, number("waiting")? + number("running")? + number("held")?))
}

fn move_middle(bench: &Bench) -> Result<(), String> {
    let done = bench.folder("done");
    let mut all = names(&bench.folder("incoming"))?;
    all.sort_unstable();
    all.truncate(all.len().saturating_sub(KEPT));
    for path in all {
        let to = done.join(path.file_name().unwrap_or_default());
        #[expect(clippy::disallowed_methods, reason = "the bench plays another owner of the files")]
        match std::fs::rename(&path, &to) {
            // The daemon was faster.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Jobs a second between two counts, from the samples around them.
fn rate(samples: &[(Duration, u64)], from: u64, to: u64) -> f64 {
    let at = |count: u64| samples.iter().find(|(_, done)| *done >= count);
    match (at(from), at(to)) {
        #[expect(clippy::cast_precision_loss, reason = "a count of files")]
        (Some((began, first)), Some((ended, last))) if ended > began => {
            (last - first) as f64 / ended.saturating_sub(*began).as_secs_f64()
        }
        _ => 0.0,
    }
}

fn pause(ms: u64) {
    std::thread::park_timeout(Duration::from_millis(ms));
}
