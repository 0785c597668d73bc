//! `inboxd run`: the daemon.
//!
//! Must not know: how jobs run. It prints what happens, a line a job.

use std::process::ExitCode;

use super::{Failed, SpoolArg, eprint_line, print_line, show};
use crate::daemon::notice::Notice;
use crate::daemon::service::Mode;
use crate::daemon::shell::{Options, Told, serve};
use crate::daemon::supervisor::Leash;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    super::supervised(|leash| serve_run(spool, leash))
}

fn serve_run(spool: &SpoolArg, leash: Leash) -> Result<ExitCode, Failed> {
    let loaded = spool.load()?;
    for broken in &loaded.broken {
        eprint_line(&format!("error: {broken}\n  The other routes go on."));
    }
    let settings = loaded.settings;
    let ready = format!(
        "ready   watching {}/incoming   {}   {}",
        spool.shown(),
        show::routes(&settings.routes),
        show::plural(settings.workers as u64, "worker", "workers"),
    );
    let options =
        Options { spool: spool.path.clone(), settings, mode: Mode::Watch, sources: None, leash };
    serve(options, &mut |told| tell(&told, &ready)).map_err(|e| spool.failed(e))?;
    Ok(ExitCode::SUCCESS)
}

fn tell(told: &Told, ready: &str) {
    match told {
        Told::Ready => print_line(ready),
        Told::Draining(running) => print_line(&format!(
            "waiting for {}; Ctrl-C again stops now (their files run again at the next start)",
            show::plural(*running as u64, "worker", "workers")
        )),
        Told::Missed(missed) => print_line(&format!("… {} more", show::count(*missed))),
        Told::Notice(notice) => self::notice(notice),
        Told::Recovered(_) | Told::Sources(_) => {}
    }
}

fn notice(notice: &Notice) {
    match notice {
        Notice::Finished(finished) if finished.outcome.failure.is_some() => {
            print_line(&show::failed(&finished.outcome));
            print_line(&format!("        inboxd explain {}", finished.outcome.rel.0));
        }
        Notice::Finished(finished) => print_line(&show::done(finished)),
        Notice::Paused { route, reason } => print_line(&format!("route {route} PAUSED: {reason}")),
        Notice::DiskFull => eprint_line("the disk is full: claims wait, nothing is lost"),
        _ => {}
    }
}
