//! `inboxd init [DIR]`: makes a spool, empty, with an example in it, or for the job of another program.
//!
//! Must not know: what the daemon does with it.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::examples::{self, EXAMPLES, Example};
use super::move_in::Pipeline;
use super::{Failed, SpoolArg, below, eprint_line, move_in, print_line, target};
use crate::config;
use crate::spool::layout;

/// Make a spool: a folder with its settings and the folders that files go through
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Args {
    /// Where; made if it is missing [default: --spool, else ./inbox]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// With a worker, its settings and samples to try
    #[arg(long, value_name = "NAME", value_parser = EXAMPLES.map(|example| example.name))]
    example: Option<String>,
    /// Do the job of this R-3PO pipeline, with the function of --python
    #[arg(long, value_name = "CONFIG.YAML", requires = "python", conflicts_with = "example")]
    from_r3po: Option<PathBuf>,
    /// Its function, which stays where it is
    #[arg(long, value_name = "FILE.py:FUNCTION", requires = "from_r3po")]
    python: Option<String>,
}

fn after_help() -> String {
    let list = examples::list();
    format!(
        "Examples to begin with:\n{list}\n\nExamples:\n  inboxd init\n  inboxd init jobs --example count"
    )
}

/// `named` is what `--spool` or its variable says.
pub(crate) fn run(args: &Args, named: Option<PathBuf>) -> Result<ExitCode, Failed> {
    let dir = args.dir.clone().or(named).unwrap_or_else(|| "inbox".into());
    let spool = SpoolArg { path: dir.clone() };
    let failed = |error| Failed::runtime(format!("cannot make {}: {error}", dir.display()));
    let settings = dir.join("inboxd.toml");
    let moved = match (&args.from_r3po, &args.python) {
        (Some(config), Some(python)) => {
            let (file, function) = move_in::function(python)?;
            Some((Pipeline::read(config)?, file, function))
        }
        _ => None,
    };
    if settings.exists() {
        return Err(Failed::usage(format!(
            "{} is there already; nothing was changed",
            settings.display()
        )));
    }
    let example = args.example.as_deref();
    let example = EXAMPLES.iter().find(|known| Some(known.name) == example);
    if let Some((path, _)) = example.and_then(|it| others(it).find(|(p, _)| dir.join(p).exists())) {
        let place = dir.join(path);
        return Err(Failed::usage(format!(
            "{} is there already; nothing was changed",
            place.display()
        )));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&dir).map_err(failed)?;
    layout::make(&dir).map_err(|(name, error)| {
        Failed::runtime(format!("cannot make {}: {error}", dir.join(name).display()))
    })?;
    make_folder(&dir.join("routes.d")).map_err(failed)?;
    let text = match example {
        Some(example) => {
            write_others(example, &dir).map_err(failed)?;
            text_of(example, "inboxd.toml")
        }
        None => config::initial::INBOXD_TOML,
    };
    // Who is root where the spool is made will be root where it is served: a container, most of the time.
    let is_root = rustix::process::geteuid().is_root();
    let page = match &moved {
        Some((pipeline, file, function)) => pipeline.settings(file, function, is_root),
        None if is_root => format!(
            "allow_root = true               # made by root: workers run as root, too\n\n{text}"
        ),
        None => text.to_owned(),
    };
    write_file(&settings, &page).map_err(failed)?;
    print_line(&format!(
        "created {}   drop files into {}   settings {}",
        spool.shown(),
        below(&spool, "incoming"),
        below(&spool, "inboxd.toml"),
    ));
    let option = if dir.as_os_str() == "inbox" {
        String::new()
    } else {
        format!("--spool {} ", target::quoted_bytes(spool.shown().as_bytes()))
    };
    if let Some((pipeline, ..)) = &moved {
        tell_moved(pipeline, &spool);
    } else if let Some(example) = example {
        print_line(&format!("example {}: {}", example.name, example.shows));
        print_line(&format!(
            "Read {}, then: inboxd {option}batch {}",
            below(&spool, "README.md"),
            target::quoted_bytes(below(&spool, "samples").as_bytes())
        ));
    } else {
        print_line(&format!("Set one line (command = …), then: inboxd {option}run"));
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
            make_folder(folder)?;
        }
        write_file(&path, text)?;
    }
    Ok(())
}

/// Not for others to write in, whatever the umask: a start would refuse it.
fn make_folder(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// The same for a file.
fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    let mut how = std::fs::OpenOptions::new();
    how.write(true).create(true).truncate(true).mode(0o644).open(path)?.write_all(text.as_bytes())
}

/// What is the same, what is not, and the command that runs it.
fn tell_moved(pipeline: &Pipeline, spool: &SpoolArg) {
    for key in &pipeline.unknown {
        eprint_line(&format!("warning: `{key}` has no counterpart; it was left out"));
    }
    let rows = below(spool, format!("results/{}.csv", pipeline.route()));
    let instead = pipeline.output_path.as_ref();
    let instead = instead.map_or_else(String::new, |path| format!(", not in {path}"));
    print_line(&format!("The rows will be in {rows}{instead}: one file, lines end in LF."));
    let (dir, source) = (
        target::quoted_bytes(spool.path.as_os_str().as_bytes()),
        target::quoted_bytes(pipeline.source_path.as_bytes()),
    );
    print_line(&format!("Run it: inboxd --spool {dir} batch {source}"));
    print_line("It copies each file in; run again, it takes only what is new or changed.");
}
