//! The log of a service: what the shell tells, as events with fields. Its vocabulary is in `daemon`.
//!
//! Must not know: the terminal, which has its own words (`cli::run`).
//!
//! Each event is a fixed sentence with fields, so that it can be searched for and counted. A failed job
//! is `warn`, a job done is `debug`, and `status` once a minute says the rest.

use std::io::IsTerminal as _;

use tracing::{debug, error, info, warn};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::journald::Journald;
use super::keeper::Shortage;
use super::notice::{FIX_LEFT, Finished, Notice};
use super::reload::RouteRefused;
use super::service::Status;
use super::shell::Told;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `event field=value`, with time stamps; below systemd an entry of the journal with fields.
    Text,
    /// One JSON object a line.
    Json,
}

/// Names how much is shown.
const LEVEL_VAR: &str = "INBOXD_LOG";

/// How much is shown: what the variable says, else `info`.
fn level() -> Result<LevelFilter, String> {
    let Some(named) = std::env::var_os(LEVEL_VAR).filter(|named| !named.is_empty()) else {
        return Ok(LevelFilter::INFO);
    };
    let named = named.to_string_lossy();
    let known = named.parse().ok();
    known.ok_or_else(|| {
        format!("{LEVEL_VAR} is {named:?}: it may be off, error, warn, info, debug or trace")
    })
}

/// Begins the log on stderr. `INBOXD_LOG` sets what is shown; what it may not say is the error.
pub fn begin(format: Format) -> Result<(), String> {
    let level = level()?;
    if format == Format::Text
        && let Some(journal) = Journald::of_stderr()
    {
        tracing_subscriber::registry().with(level).with(journal).init();
        return Ok(());
    }
    let log = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    let log = log.with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A line that cannot be written would be told of on stderr, and panic there: a full disk below the
    // log, or a reader of it that ended, must not end the daemon.
    let log = log.log_internal_errors(false);
    match format {
        Format::Json => log.json().flatten_event(true).init(),
        Format::Text => log.init(),
    }
    Ok(())
}

/// Logs what the shell tells.
pub fn tell(told: &Told) {
    match told {
        Told::Recovered(report) => {
            if report.records > 1 || report.resumed > 0 {
                info!(
                    records = report.records,
                    settled = report.settled,
                    resumed = report.resumed,
                    lost = report.lost,
                    power_cut = report.power_cut,
                    "recovered"
                );
            }
            if report.torn > 0 {
                warn!(bytes = report.torn, "torn journal tail was cut");
            }
        }
        Told::Ready => info!("ready"),
        Told::Notice(it) => notice(it),
        Told::Missed(missed) => warn!(missed, "events were not logged"),
        Told::Status(it) => status(it),
        Told::Reloaded { settings, broken } => {
            for RouteRefused { error, is_kept } in broken {
                route_refused(error, *is_kept);
            }
            let (routes, workers) = (settings.routes.len(), settings.workers);
            info!(routes, workers, "settings reloaded");
        }
        Told::SettingsRefused(reasons) => {
            for reason in reasons {
                error!(error = %reason, "settings refused, the old settings stay in force");
            }
        }
        Told::Draining(running) => info!(running, "draining"),
        Told::Sources(_) => {}
    }
}

fn route_refused(reason: &str, is_kept: bool) {
    if is_kept {
        error!(error = %reason, "route refused, its old version stays in force");
    } else {
        error!(error = %reason, "route refused, the others go on");
    }
}

fn status(it: &Status) {
    info!(
        running = it.running,
        waiting = it.waiting,
        held = it.held,
        done = it.done,
        failed = it.failed,
        unrouted = it.unrouted,
        "status"
    );
}

fn notice(notice: &Notice) {
    match notice {
        Notice::Finished(it) => finished(it),
        Notice::RecordFailed(it) => {
            let (job, path, route, record) = (it.job, &it.rel, &it.route, it.no);
            warn!(%job, %path, route, record, error = %it.reason, "record failed");
        }
        Notice::Taken { job } => debug!(%job, "submitted"),
        Notice::TakeRefused { job, reason } => warn!(%job, error = %reason, "submission refused"),
        Notice::Retry { job, rel, route, attempt, incomplete: true, reason, .. } => {
            debug!(%job, path = %rel, route, attempt, error = %reason, "file is incomplete");
        }
        Notice::Retry { job, rel, route, attempt, reason, wait_ms, .. } => {
            info!(%job, path = %rel, route, attempt, wait_ms, error = %reason, "attempt failed");
        }
        Notice::ClaimRefused { rel, reason, folder } => {
            let fix = folder.as_ref().map(|folder| folder.fix.as_str());
            warn!(path = %rel, error = %reason, fix, "file cannot be claimed");
        }
        Notice::FolderReplaced { name } => warn!(path = name, "folder was replaced"),
        Notice::Unrouted { rel } => warn!(path = %rel, "no route takes a file"),
        Notice::Orphaned => error!("supervisor was killed, everything ends"),
        Notice::EventsLost => warn!("events were lost, everything is scanned"),
        Notice::Events { is_bad: true, state, fix } => {
            warn!(error = %state, fix, "some events are missing");
        }
        Notice::Events { .. } => info!("all events come again"),
        Notice::StartRefused { rel, reason } => {
            warn!(path = %rel, error = %reason, "attempt cannot be started");
        }
        Notice::ScratchRefused { rel, reason } => {
            warn!(path = %rel, error = %reason, "scratch cannot be removed");
        }
        Notice::LeftBehind { left } => {
            warn!(path = %left.display(), fix = %FIX_LEFT, "what a worker left stays");
        }
        Notice::Reappeared { rel, .. } => info!(path = %rel, "settled after a power cut"),
        Notice::Paused { route, why } => {
            let (reason, fix) = (&why.reason, &why.fix);
            error!(route, error = %reason, files = why.files, fix, "route paused");
        }
        Notice::Broken { route, why } => {
            let (reason, fix) = (&why.reason, &why.fix);
            error!(route, error = %reason, files = why.files, fix, "workers crash");
        }
        Notice::Mended { route } => info!(route, "workers run again"),
        Notice::LowMemory { free, floor } => error!(free, floor, "memory is low, starts wait"),
        Notice::MemoryIsBack => info!("memory is enough again"),
        Notice::Short(Shortage::Disk | Shortage::Quota) => error!("disk is full, claims wait"),
        Notice::Short(of) => {
            let (what, fix) = of.says();
            error!(error = what, fix, "something is short, claims wait");
        }
        Notice::SourceWaits { rel, needs, free } => {
            error!(path = %rel, needs, free, "source waits for room");
        }
        Notice::LowDisk { free, floor } => error!(free, floor, "disk is low, claims wait"),
        Notice::HasRoom(Shortage::Disk | Shortage::Quota) => info!("disk has room again"),
        Notice::HasRoom(Shortage::Rights) => info!("CSV may be changed again"),
        Notice::HasRoom(_) => info!("there is enough again"),
        Notice::CsvTouched { route, is_gone, again } => {
            warn!(route, removed = is_gone, again, "CSV was changed by someone else");
        }
        Notice::CsvRefused { reason } => error!(error = %reason, "CSV may not be changed"),
        Notice::JournalLost { jobs } => warn!(jobs, "journal knows nothing of claimed jobs"),
        Notice::JournalTouched => warn!("journal was changed by someone else"),
        Notice::SlotsRefused { workers, reason } => {
            error!(workers, error = %reason, "workers cannot be added");
        }
        Notice::OldRemoved { files, bytes } => info!(files, bytes, "old files were removed"),
        Notice::OldStays { files, reason } => {
            warn!(files, error = %reason, "old files cannot be removed");
        }
        Notice::HistoryFailed { reason } => warn!(error = %reason, "job log cannot be written"),
        Notice::SweepFailed { reason } => warn!(error = %reason, "processes cannot be looked at"),
    }
}

fn finished(it: &Finished) {
    let outcome = &it.outcome;
    let (job, path, route) = (outcome.job, &outcome.rel.0, &outcome.route);
    let (attempt, took_ms) = (outcome.attempts, outcome.took_ms);
    if let Some(failure) = &outcome.failure {
        let reason = &failure.reason;
        warn!(%job, %path, route, attempt, took_ms, error = %reason, "job failed");
    } else {
        debug!(%job, %path, route, attempt, took_ms, rows = outcome.rows, "job done");
    }
}
