//! `inboxd man [COMMAND]`.
//!
//! Must not know: the commands; clap does.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, Failed, unless_gone};

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
    clap_mangen::Man::new(page).render(&mut text)?;
    unless_gone(std::io::stdout().lock().write_all(&text))?;
    Ok(ExitCode::SUCCESS)
}
