//! `inboxd run`: the daemon.
//!
//! Must not know: how jobs run. It prints what happens, a line a job.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::target::quoted;
use super::teller::Teller;
use super::{Failed, SpoolArg, eprint_line, print_line, show};
use crate::daemon::log;
use crate::daemon::notice::Notice;
use crate::daemon::reload::{Follow, RouteRefused};
use crate::daemon::service::Mode;
use crate::daemon::shell::{Options, ShellError, Told, serve};
use crate::daemon::supervisor::Leash;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to log where stdout is no terminal; `INBOXD_LOG=debug` shows jobs done, too
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    /// An event and its fields
    Text,
    /// One JSON object a line
    Json,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    super::supervised(ExitCode::SUCCESS, |leash| serve_run(args, spool, leash))
}

fn serve_run(args: &Args, spool: &SpoolArg, leash: Leash) -> Result<ExitCode, Failed> {
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
    // The end of a terminal is a HUP, too, and nobody is there to see what goes on.
    let has_terminal = std::io::stdout().is_terminal() || std::io::stderr().is_terminal();
    let options = Options {
        spool: spool.path.clone(),
        settings,
        mode: Mode::Watch,
        sources: None,
        follow: Some(Follow { broken: loaded.broken, on_hup: !has_terminal }),
        leash,
    };
    let teller = if std::io::stdout().is_terminal() {
        let mut screen = Screen { ready, second: Instant::now(), lines: 0, hidden: 0 };
        Teller::start(move |told| screen.tell(told))
    } else {
        log::begin(match args.log {
            LogFormat::Text => log::Format::Text,
            LogFormat::Json => log::Format::Json,
        })
        .map_err(Failed::usage)?;
        Teller::start(log::tell)
    };
    let mut teller = teller.map_err(|source| {
        spool.failed(ShellError::Start { what: "the thread that prints", source })
    })?;
    let served = serve(options, &mut |told| teller.tell(told)).map_err(|e| spool.failed(e));
    match (served, teller.end()) {
        (Ok(_), _) => Ok(ExitCode::SUCCESS),
        // Nobody reads why, and to wait until somebody does would hold up a restart.
        (Err(failed), false) => Ok(ExitCode::from(failed.code)),
        (Err(failed), true) => Err(failed),
    }
}

/// Lines a second on a terminal; what is more is counted.
const LINES_A_SECOND: u32 = 20;

/// What a person at a terminal sees: a line a job, as long as lines can be read.
struct Screen {
    ready: String,
    /// When the second began whose lines are counted.
    second: Instant,
    lines: u32,
    hidden: u64,
}

impl Screen {
    fn tell(&mut self, told: &Told) {
        self.show_hidden();
        match told {
            Told::Recovered(report) if report.lost > 0 => {
                let lost = show::plural(report.lost, "attempt was", "attempts were");
                print_line(&format!("recovered   {lost} lost in an earlier run and run again"));
            }
            Told::Ready => print_line(&self.ready),
            Told::Draining(running) => print_line(&show::draining(*running)),
            Told::Reloaded { settings, broken } => {
                for RouteRefused { error, is_kept } in broken {
                    let what = if *is_kept {
                        "Its old version stays in force"
                    } else {
                        "The other routes go on"
                    };
                    eprint_line(&format!("error: {error}\n  {what}."));
                }
                print_line(&format!(
                    "settings reloaded   {}   {}",
                    show::routes(&settings.routes),
                    show::plural(settings.workers as u64, "worker", "workers"),
                ));
            }
            Told::SettingsRefused(reasons) => {
                let reasons = reasons.join("\nerror: ");
                eprint_line(&format!("error: {reasons}\n  The old settings stay in force."));
            }
            Told::Missed(missed) => self.hidden += missed,
            Told::Notice(it) => self.notice(it),
            Told::Recovered(_) | Told::Sources(_) | Told::Status(_) => {}
        }
    }

    /// A new second begins: what was not shown in the last one is counted.
    fn show_hidden(&mut self) {
        if self.second.elapsed() < Duration::from_secs(1) {
            return;
        }
        if self.hidden > 0 {
            print_line(&format!("… {}", show::plural(self.hidden, "more job", "more jobs")));
        }
        (self.second, self.lines, self.hidden) = (Instant::now(), 0, 0);
    }

    fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Finished(finished) => {
                self.lines += 1;
                if self.lines > LINES_A_SECOND {
                    self.hidden += 1;
                } else if finished.outcome.failure.is_some() {
                    print_line(&show::failed(&finished.outcome));
                    let rel = quoted(&finished.outcome.rel.0);
                    print_line(&format!("        inboxd explain {rel}"));
                } else {
                    print_line(&show::done(finished));
                }
            }
            Notice::RecordFailed(record) => {
                self.lines += 1;
                if self.lines > LINES_A_SECOND {
                    self.hidden += 1;
                } else {
                    print_line(&show::failed_record(record));
                }
            }
            Notice::Retry { rel, route, attempt, reason, wait_ms, incomplete, .. } => {
                let wait = show::time(Duration::from_millis(*wait_ms));
                let what = if *incomplete { "waits " } else { "again " };
                print_line(&format!(
                    "{what}  {rel}   {route}   in {wait}   attempt {attempt}: {reason}"
                ));
            }
            Notice::Paused { route, why } => {
                for line in show::paused(route, why) {
                    print_line(&line);
                }
            }
            Notice::Unrouted { rel } => print_line(&format!(
                "stays   {rel}   no route takes it   (told once: inboxd status counts such files)"
            )),
            other => {
                if let Some(line) = show::trouble(other) {
                    print_line(&line);
                }
            }
        }
    }
}
