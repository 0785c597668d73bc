//! `inboxd completions SHELL`.
//!
//! Must not know: the commands; clap does.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, Failed, unless_gone};

/// Print what makes a shell complete commands
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd completions bash > ~/.local/share/bash-completion/completions/inboxd
  inboxd completions zsh > ~/.zfunc/_inboxd
  inboxd completions fish > ~/.config/fish/completions/inboxd.fish")]
pub(crate) struct Args {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failed> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "inboxd", &mut text);
    unless_gone(std::io::stdout().lock().write_all(&text))?;
    Ok(ExitCode::SUCCESS)
}
