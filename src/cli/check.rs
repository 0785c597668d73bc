//! `inboxd check`: what is wrong, or will be, with settings, folders, permissions and limits.
//!
//! Must not know: what a daemon does about it. It changes nothing, and makes no folder.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::Access;
use serde::Serialize;

use super::{Failed, SpoolArg, below, print_json, print_line, show};
use crate::config::{Loaded, Route, Settings, Worker, limits, load};
use crate::daemon::control::Ask;
use crate::daemon::keeper::{Shortage, chain};
use crate::daemon::shell::{check_places, check_user};
use crate::fs::real;
use crate::worker::{Stop, find_program, find_runner, missing_variables, schema_fault};

mod words;

/// Look for what is wrong with settings, folders, permissions and limits
///
/// Exit code 0: nothing keeps inboxd from running; warnings say what will be slow, late or unsafe.
/// Exit code 2: it would not start, or a route would not run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd check
  sudo -u inboxd inboxd --spool /var/lib/inboxd check")]
pub(crate) struct Args {
    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    what: &'static str,
    message: String,
}

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, level: Level, what: &'static str, message: impl Into<String>) {
        self.0.push(Finding { level, what, message: message.into() });
    }
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let mut report = Report::default();
    let settings = check_settings(spool, &mut report);
    check_spool(spool, &mut report);
    if let Some(settings) = &settings {
        check_routes(spool, settings, &mut report);
    }
    if check_mount(spool, &mut report) {
        check_disk(spool, settings.as_ref(), &mut report);
        check_incoming(spool, &mut report);
    }
    check_rsync(&mut report);
    check_daemon(spool, &mut report);
    let has_error = report.0.iter().any(|finding| finding.level == Level::Error);
    if args.json {
        report.0.iter().for_each(print_json);
    } else {
        print(&report);
    }
    Ok(if has_error { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn print(report: &Report) {
    let rows: Vec<Vec<String>> = report
        .0
        .iter()
        .map(|finding| {
            let word = match finding.level {
                Level::Ok => show::good("ok"),
                Level::Warning => show::bad("warning"),
                Level::Error => show::bad("error"),
            };
            // Lines that follow the first stand below it.
            let message = finding.message.replace('\n', "\n                        ");
            vec![format!("{word:7}"), format!("{:12}", finding.what), message]
        })
        .collect();
    for line in show::table(&rows) {
        print_line(&line);
    }
}

fn check_settings(spool: &SpoolArg, report: &mut Report) -> Option<Settings> {
    match load(&spool.path) {
        Err(errors) => {
            for error in errors {
                report.add(Level::Error, "settings", error.to_string());
            }
            None
        }
        Ok(Loaded { settings, broken }) => {
            for error in broken {
                report.add(Level::Error, "settings", format!("{error}\nThe other routes run."));
            }
            let routes = show::plural(settings.routes.len() as u64, "route", "routes");
            let workers = show::plural(settings.workers as u64, "worker", "workers");
            let place = below(spool, "inboxd.toml");
            report.add(Level::Ok, "settings", format!("{place}: {routes}, {workers}"));
            Some(settings)
        }
    }
}

fn check_spool(spool: &SpoolArg, report: &mut Report) {
    let path = match std::fs::canonicalize(&spool.path) {
        Ok(path) => path,
        Err(error) => return report.add(Level::Error, "folders", error.to_string()),
    };
    match check_places(&path) {
        Err(error) => report.add(Level::Error, "folders", chain(&error)),
        Ok(()) if !path.join("journal").is_dir() => {
            report.add(Level::Ok, "folders", "made at the first start");
        }
        Ok(()) => {
            report.add(Level::Ok, "folders", "one filesystem, and only this user may change them");
        }
    }
    let us = rustix::process::geteuid().as_raw();
    let whole = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    for name in ["journal", "processing", "done", "error", "error/.why", "output", "results"] {
        let Ok(meta) = std::fs::metadata(path.join(name)) else { continue };
        if us != 0 && meta.uid() != us {
            let place = below(spool, name);
            let message = format!(
                "{place} belongs to user {}, not to this one\nRun inboxd, and this command, as the \
                 user that owns the spool.",
                meta.uid()
            );
            report.add(Level::Error, "folders", message);
        } else if rustix::fs::access(path.join(name), whole).is_err() {
            let (place, mode) = (below(spool, name), meta.mode() & 0o7777);
            let message =
                format!("{place} is {mode:04o}: inboxd must write in it\nchmod u+rwx {place}");
            report.add(Level::Error, "folders", message);
        }
    }
}

fn check_routes(spool: &SpoolArg, settings: &Settings, report: &mut Report) {
    let root = std::fs::canonicalize(&spool.path).unwrap_or_else(|_| spool.path.clone());
    if let Err(error) = check_user(settings) {
        report.add(Level::Error, "workers", chain(&error));
    }
    let mut takes_all: Option<&str> = None;
    for route in &settings.routes {
        let name = &route.name;
        if let Worker::Python { file, .. } = &route.worker
            && !root.join(file).is_file()
        {
            let place = below(spool, file);
            // As `import` names a module.
            let is_module = root.join(file).with_extension("py").is_file();
            let hint = if is_module { "; its name ends in .py" } else { "" };
            let message =
                format!("{name}: {place} is not there{hint}\nFix `python` at {}.", route.origin);
            report.add(Level::Error, "route", message);
            continue;
        }
        words::check_globs(route, report);
        check_function(spool, route, report);
        match find_program(route, &root) {
            Err(reason) => {
                let message = format!("{name}: {reason}\nSee {}.", route.origin);
                report.add(Level::Error, "route", message);
            }
            Ok(Some(program)) => {
                report.add(Level::Ok, "route", format!("{name} → {}", program.display()));
            }
            Ok(None) if matches!(route.worker, Worker::Http { .. }) => {}
            Ok(None) => report.add(Level::Ok, "route", format!("{name}, a program for each file")),
        }
        words::check(route, &root, report);
        check_runner(route, report);
        if let Some(reason) = schema_fault(route, &root) {
            let fix = route.place_to_mend(&reason);
            report.add(Level::Error, "route", format!("{name}: {reason}\nFix {fix}."));
        }
        if let Some(first) = takes_all {
            let message = format!("{name} gets no file: {first} stands before it and takes all");
            report.add(Level::Warning, "route", message);
        }
        let all = route.fields.is_empty()
            && (route.glob.is_empty() || route.glob.iter().any(|glob| glob == "**" || glob == "*"));
        if all && takes_all.is_none() {
            takes_all = Some(name);
        }
    }
}

/// Says whether a file of Python has the route's function, as far as that shows without running it.
fn check_function(spool: &SpoolArg, route: &Route, report: &mut Report) {
    let Worker::Python { file, function } = &route.worker else { return };
    let Ok(source) = std::fs::read_to_string(spool.path.join(file)) else { return };
    let mut words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
    // What may bring names that are not written there.
    let is_open = source.contains("import *") || source.contains("globals(");
    if !is_open && !words.any(|word| word == function) {
        let message = format!(
            "{}: {function} is not in {}\nFix `python` at {}, or name the function so.",
            route.name,
            below(spool, file),
            route.origin
        );
        report.add(Level::Warning, "route", message);
    }
}

/// A runner that is not ours should be there; a secret may be in another environment than this one.
fn check_runner(route: &Route, report: &mut Report) {
    let Worker::Http { url } = &route.worker else { return };
    let name = &route.name;
    for variable in missing_variables(route) {
        let message = format!(
            "{name}: {variable} is not in this environment\nIt must be in that of the daemon: see `headers` \
             below {}.",
            route.origin
        );
        report.add(Level::Warning, "route", message);
    }
    if route.http.start.is_some() {
        return;
    }
    let Ok(stop) = Stop::new() else { return };
    match find_runner(route, &stop) {
        Ok(_) => report.add(Level::Ok, "route", format!("{name} → {}", show::worker(route))),
        Err(why) => {
            let message = format!(
                "{name}: {why}\nStart the runner of {url}, or let inboxd do it: start = [\"uvicorn\", …]"
            );
            report.add(Level::Warning, "route", message);
        }
    }
}

/// `false`: nothing there can change, so nothing else is to be said of it.
fn check_mount(spool: &SpoolArg, report: &mut Report) -> bool {
    let is_writable = !real::is_read_only(&spool.path);
    if !is_writable {
        let message = "it is mounted read-only: nothing can be claimed\nAfter an error the kernel does \
                       that by itself: see dmesg.";
        report.add(Level::Error, "disk", message);
    }
    is_writable
}

fn check_disk(spool: &SpoolArg, settings: Option<&Settings>, report: &mut Report) {
    match real::free_space(&spool.path) {
        Err(error) => report.add(Level::Error, "disk", error.to_string()),
        Ok((free, total)) => {
            let floor = settings.map_or(limits::MIN_FREE_DISK, |settings| settings.min_free_disk);
            let floor = floor.min(total / 100 * limits::MIN_FREE_PERCENT);
            let message = format!("{} of {} are free", show::size(free), show::size(total));
            if free < floor {
                let floor = show::size(floor);
                let message =
                    format!("{message}; nothing is claimed below {floor} (min_free_disk)");
                report.add(Level::Warning, "disk", message);
            } else {
                report.add(Level::Ok, "disk", message);
            }
        }
    }
    if real::has_no_inode(&spool.path) {
        let (what, fix) = Shortage::Inodes.says();
        let message = [Some(what), fix].into_iter().flatten().collect::<Vec<_>>().join("\n");
        report.add(Level::Error, "disk", message);
    }
    match filesystem(&spool.path) {
        Some((name, Some(message))) => {
            report.add(Level::Warning, "filesystem", format!("{name}: {message}"));
        }
        Some((name, None)) => report.add(Level::Ok, "filesystem", name),
        None => {}
    }
}

/// Magic numbers as in statfs(2), and what is to be known of that filesystem.
fn filesystem(path: &Path) -> Option<(&'static str, Option<&'static str>)> {
    let network = "files of other machines give no events and no leases: they are looked at every 10 s \
                   and must be still for 10 s; without a rename that replaces nothing, as on NFS, it \
                   cannot be a spool, and a start says so\nPut the spool on a local disk, and copy into it.";
    let magic = rustix::fs::statfs(path).ok()?.f_type;
    Some(match u32::try_from(magic & 0xffff_ffff).unwrap_or(0) {
        0xef53 => ("ext4", None),
        0x5846_5342 => ("xfs", None),
        0x9123_683e => ("btrfs", None),
        0x2fc1_2fc1 => ("zfs", None),
        0x0102_1994 => ("tmpfs", Some("it is memory: nothing in it outlives the machine")),
        0x794c_7630 => (
            "overlayfs",
            Some("of a container: it goes away with it, and hides some writers\nUse a volume."),
        ),
        0x6969 => ("nfs", Some(network)),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => ("smb", Some(network)),
        0x6573_5546 => ("fuse", Some(network)),
        _ => return None,
    })
}

fn check_incoming(spool: &SpoolArg, report: &mut Report) {
    let incoming = spool.path.join("incoming");
    let Ok(meta) = std::fs::metadata(&incoming) else { return };
    let place = incoming.display();
    if meta.mode() & 0o2000 == 0 || meta.mode() & 0o020 == 0 {
        let message = format!(
            "{place} is {:04o}: what other users of its group drop there cannot be claimed\n\
             chmod 2770 {place}",
            meta.mode() & 0o7777
        );
        report.add(Level::Warning, "incoming", message);
    } else {
        report.add(Level::Ok, "incoming", format!("{place} is {:04o}", meta.mode() & 0o7777));
    }
    let (folders, closed) = folders(&incoming);
    if let Some(example) = closed.first() {
        let n = show::plural(closed.len() as u64, "folder", "folders");
        let message = format!(
            "files in {n} cannot be claimed, such as {}\n\
             once: chgrp -R GROUP {place} && chmod -R g+rwX,g+s {place}\n\
             for good: rsync -rtpO --chmod=D2770,F660",
            example.display()
        );
        report.add(Level::Warning, "incoming", message);
    }
    check_inotify(folders, report);
}

/// How many folders there are, and those in which we may not rename. Bounded.
fn folders(incoming: &Path) -> (usize, Vec<PathBuf>) {
    let mut closed = Vec::new();
    let mut count = 0;
    let walk = walkdir::WalkDir::new(incoming).into_iter().filter_map(Result::ok);
    for entry in walk.filter(|entry| entry.file_type().is_dir()).take(limits::CHECK_FOLDERS) {
        count += 1;
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        if rustix::fs::access(entry.path(), wanted).is_err() {
            closed.push(entry.into_path());
        }
    }
    (count, closed)
}

/// Kernel limits of the watcher, what is usual, and what happens below it.
fn check_inotify(folders: usize, report: &mut Report) {
    let read = |name: &str| -> Option<u64> {
        let path = Path::new("/proc/sys/fs/inotify").join(name);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let watches = read("max_user_watches");
    let queue = read("max_queued_events");
    let instances = read("max_user_instances");
    let said = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), show::count);
    let folders = folders as u64;
    let mut is_fine = true;
    // Twice: others of this user watch too, and folders come.
    if watches.is_some_and(|watches| watches < folders.saturating_mul(2)) {
        is_fine = false;
        let message = format!(
            "fs.inotify.max_user_watches is {} for {} folders; those not watched are scanned every 10 s\n\
             sysctl fs.inotify.max_user_watches={}",
            said(watches),
            show::count(folders),
            folders.saturating_mul(4).max(65_536)
        );
        report.add(Level::Warning, "events", message);
    }
    if queue.is_some_and(|queue| queue < 16_384) {
        is_fine = false;
        let message = format!(
            "fs.inotify.max_queued_events is {}: a burst overflows it, which costs a scan, no file\n\
             sysctl fs.inotify.max_queued_events=16384",
            said(queue)
        );
        report.add(Level::Warning, "events", message);
    }
    if instances.is_some_and(|instances| instances < 16) {
        is_fine = false;
        let message = format!(
            "fs.inotify.max_user_instances is {}: without one, new files are only found by scans\n\
             sysctl fs.inotify.max_user_instances=128",
            said(instances)
        );
        report.add(Level::Warning, "events", message);
    }
    if is_fine {
        let message = format!(
            "{} watches, {} queued, {} instances; {}",
            said(watches),
            said(queue),
            said(instances),
            show::plural(folders, "folder", "folders")
        );
        report.add(Level::Ok, "events", message);
    }
    let leases = std::fs::read_to_string("/proc/sys/fs/leases-enable");
    if leases.is_ok_and(|text| text.trim() == "0") {
        let message = "fs.leases-enable is 0: whether a file is still open for writing cannot be known; \
                       it must be still for 2 s\nsysctl fs.leases-enable=1";
        report.add(Level::Warning, "leases", message);
    }
}

/// An `rsync -P` puts a half file under its final name when it is interrupted, and nothing shows that.
fn check_rsync(report: &mut Report) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.filter_map(Result::ok) {
        let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
        let mut words = line.split(|b| *b == 0);
        let is_rsync =
            words.next().is_some_and(|name| name.rsplit(|b| *b == b'/').next() == Some(b"rsync"));
        let mut words = words.map(|word| word == b"--partial" || word == b"-P");
        if is_rsync && words.any(|is_partial| is_partial) {
            let pid = process.file_name();
            let message = format!(
                "rsync with --partial or -P runs (pid {}): interrupted, it leaves half a file under \
                 its final name\nUse it without, or with --partial-dir=.partial.",
                pid.display()
            );
            report.add(Level::Warning, "producer", message);
        }
    }
}

fn check_daemon(spool: &SpoolArg, report: &mut Report) {
    match spool.ask(&Ask::Status) {
        Ok(Some(mut client)) => {
            let pid = client.next_answer().ok().flatten().and_then(|it| it.get("pid")?.as_u64());
            let pid = pid.map_or_else(String::new, |pid| format!(" pid {pid}"));
            report.add(Level::Ok, "daemon", format!("runs{pid}"));
        }
        Ok(None) => report.add(Level::Ok, "daemon", "none runs"),
        Err(failed) => report.add(Level::Warning, "daemon", failed.message),
    }
}
