//! `inboxd man [COMMAND]`.
//!
//! Must not know: the commands; clap does.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, Failed, unless_gone};
use crate::config::{Place, settings_table};

/// Print the manual page, of inboxd or of one of its commands
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd man | man -l -
  inboxd man submit > inboxd-submit.1")]
pub(crate) struct Args {
    /// Which command
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// All settings, for a machine that has the program and no more.
fn settings() -> Roff {
    let mut text = Roff::new();
    for (place, title) in [
        (Place::Top, "SETTINGS AT THE TOP OF inboxd.toml"),
        (Place::Route, "SETTINGS OF A ROUTE, in [routes.NAME] or routes.d/NAME.toml"),
    ] {
        text.control("SH", [title]);
        for doc in settings_table().iter().filter(|doc| doc.place() == place) {
            text.control("TP", []);
            text.text([bold(doc.name), roman(format!("  {}; default {}", doc.limit, doc.default))]);
            text.text([roman(doc.meaning)]);
        }
    }
    text
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failed> {
    let mut page = Cli::command();
    page.build();
    if let Some(name) = &args.command {
        let Some(command) = page.find_subcommand(name) else {
            return Err(Failed::usage(format!("there is no command `{name}`: inboxd --help")));
        };
        page = command.clone().display_name(format!("inboxd {name}"));
    }
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    if args.command.is_none() {
        settings().to_writer(&mut text)?;
    }
    unless_gone(std::io::stdout().lock().write_all(&text))?;
    Ok(ExitCode::SUCCESS)
}
