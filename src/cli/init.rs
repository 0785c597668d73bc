//! `inboxd init [DIR]`: makes a spool, empty or with an example in it.
//!
//! Must not know: what the daemon does with it.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::examples::{self, EXAMPLES, Example};
use super::{Failed, SpoolArg, below, print_line};
use crate::config;
use crate::spool::layout;

/// Make a spool: a folder with its settings and the folders that files go through
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Args {
    /// Where; made if it is missing
    #[arg(default_value = "inbox", value_name = "DIR")]
    dir: PathBuf,
    /// With a worker, its settings and samples to try
    #[arg(long, value_name = "NAME", value_parser = EXAMPLES.map(|example| example.name))]
    example: Option<String>,
}

fn after_help() -> String {
    let list = examples::list();
    format!(
        "Examples to begin with:\n{list}\n\nExamples:\n  inboxd init\n  inboxd init jobs --example count"
    )
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
    let example = args.example.as_deref();
    let example = EXAMPLES.iter().find(|known| Some(known.name) == example);
    if let Some((path, _)) =
        example.and_then(|it| others(it).find(|(p, _)| args.dir.join(p).exists()))
    {
        let place = args.dir.join(path);
        return Err(Failed::usage(format!(
            "{} is there already; nothing was changed",
            place.display()
        )));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&args.dir).map_err(failed)?;
    layout::make(&args.dir).map_err(|(name, error)| {
        Failed::runtime(format!("cannot make {}: {error}", args.dir.join(name).display()))
    })?;
    std::fs::create_dir_all(args.dir.join("routes.d")).map_err(failed)?;
    let text = match example {
        Some(example) => {
            write_others(example, &args.dir).map_err(failed)?;
            text_of(example, "inboxd.toml")
        }
        None => config::initial::INBOXD_TOML,
    };
    // Who is root where the spool is made will be root where it is served: a container, most of the time.
    let page = if rustix::process::geteuid().is_root() {
        format!(
            "allow_root = true               # made by root: workers run as root, too\n\n{text}"
        )
    } else {
        text.to_owned()
    };
    std::fs::write(&settings, page).map_err(failed)?;
    print_line(&format!(
        "created {}   drop files into {}   settings {}",
        spool.shown(),
        below(&spool, "incoming"),
        below(&spool, "inboxd.toml"),
    ));
    if let Some(example) = example {
        print_line(&format!("example {}: {}", example.name, example.shows));
        let option = if args.dir.as_os_str() == "inbox" {
            String::new()
        } else {
            format!("--spool {} ", spool.shown())
        };
        print_line(&format!(
            "Read {}, then: inboxd {option}batch {}",
            below(&spool, "README.md"),
            below(&spool, "samples")
        ));
    } else {
        print_line("Set one line (command = …), then: inboxd run");
    }
    Ok(ExitCode::SUCCESS)
}

fn text_of(example: &Example, path: &str) -> &'static str {
    example.files.iter().find(|(known, _)| *known == path).map_or("", |(_, text)| text)
}

/// All but the settings, which come last: without them it is no spool yet.
fn others(example: &Example) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    example.files.iter().filter(|(path, _)| *path != "inboxd.toml")
}

fn write_others(example: &Example, dir: &Path) -> std::io::Result<()> {
    for (path, text) in others(example) {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
