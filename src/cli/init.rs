//! `inboxd init [DIR]`: makes a spool.
//!
//! Must not know: what the daemon does with it.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failed, SpoolArg, below, print_line};
use crate::config;
use crate::spool::layout;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where; made if it is missing
    #[arg(default_value = "inbox", value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failed> {
    let spool = SpoolArg { path: args.dir.clone() };
    let failed = |error| Failed::runtime(format!("cannot make {}: {error}", args.dir.display()));
    let settings = args.dir.join("inboxd.toml");
    if settings.exists() {
        return Err(Failed::usage(format!(
            "{} is there already; nothing was changed",
            settings.display()
        )));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&args.dir).map_err(failed)?;
    layout::make(&args.dir).map_err(|(name, error)| {
        Failed::runtime(format!("cannot make {}: {error}", args.dir.join(name).display()))
    })?;
    std::fs::create_dir_all(args.dir.join("routes.d")).map_err(failed)?;
    // Who is root where the spool is made will be root where it is served: a container, most of the time.
    let page = if rustix::process::geteuid().is_root() {
        format!(
            "allow_root = true               # made by root: workers run as root, too\n\n{}",
            config::initial::INBOXD_TOML
        )
    } else {
        config::initial::INBOXD_TOML.to_owned()
    };
    std::fs::write(&settings, page).map_err(failed)?;
    print_line(&format!(
        "created {}   drop files into {}   settings {}",
        spool.shown(),
        below(&spool, "incoming"),
        below(&spool, "inboxd.toml"),
    ));
    print_line("Set one line (command = …), then: inboxd run");
    Ok(ExitCode::SUCCESS)
}
