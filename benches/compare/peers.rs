//! `/bin/true` on each file, two at once: whoever is installed, and a bare spawning loop as the limit.
//!
//! Must not know: how a spool looks inside.
//!
//! The limit is std's `Command` without `pre_exec`, which is `posix_spawn` and a wait, in two threads.
//! It and the peers only read names; inboxd also claims, records durably and settles each file.
//! GNU parallel gets a tenth of the files, since it takes ten times as long: a rate is what is compared.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::spool::{Bench, TRUE};
use super::{Options, median, ratio, say};

enum Contestant {
    Limit,
    /// A program with arguments before `/bin/true`; it reads NUL-ended names from standard input.
    Peer {
        name: String,
        words: Vec<&'static str>,
        share: usize,
    },
    Inboxd(PathBuf),
}

impl Contestant {
    fn name(&self) -> String {
        match self {
            Self::Limit => "posix_spawn loop".to_owned(),
            Self::Peer { name, .. } => name.clone(),
            Self::Inboxd(path) => format!("inboxd batch ({})", path.display()),
        }
    }

    /// Files a second.
    fn run(&self, options: &Options) -> Result<f64, String> {
        let share = if let Self::Peer { share, .. } = self { *share } else { 1 };
        let files = (options.files / share).max(1);
        let bench = Bench::new(&options.folder, TRUE, files)?;
        let list = bench.list()?;
        // Not measured: what making the files left to be written.
        Command::new("sync").status().map_err(|error| format!("sync: {error}"))?;
        let began = Instant::now();
        match self {
            Self::Limit => spawn_all(&list)?,
            Self::Peer { name, words, .. } => run_peer(name, words, &list)?,
            Self::Inboxd(inboxd) => bench.batch(inboxd, files)?,
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of files")]
        Ok(files as f64 / began.elapsed().as_secs_f64())
    }
}

/// Runs all rounds and prints the table.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut contestants = vec![Contestant::Limit];
    let peers = [
        ("xargs -0 -n1 -P2", vec!["xargs", "-0", "-n1", "-P2"], 1),
        ("rust-parallel -0 -j2", vec!["rust-parallel", "-0", "-j2"], 1),
        ("GNU parallel -0 -j2", vec!["parallel", "-0", "-j2"], 10),
    ];
    for (name, words, share) in peers {
        let program = words.first().copied().unwrap_or_default();
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok() {
            contestants.push(Contestant::Peer { name: name.to_owned(), words, share });
        } else {
            say(&format!("not installed: {program}"));
        }
    }
    contestants.extend(options.inboxd.iter().cloned().map(Contestant::Inboxd));

    let mut rates = vec![Vec::new(); contestants.len()];
    for round in 0..options.rounds {
        for turn in 0..contestants.len() {
            let at = (round + turn) % contestants.len();
            if let (Some(contestant), Some(rates)) = (contestants.get(at), rates.get_mut(at)) {
                rates.push(contestant.run(options)?);
            }
        }
    }
    print(&contestants, &rates, options);
    Ok(())
}

fn print(contestants: &[Contestant], rates: &[Vec<f64>], options: &Options) {
    let of = |name: &str| {
        let at = contestants.iter().position(|it| it.name().starts_with(name));
        at.and_then(|at| rates.get(at)).cloned().unwrap_or_default()
    };
    let (limit, xargs, parallel) = (of("posix_spawn"), of("xargs"), of("GNU"));
    say(&format!(
        "\n/bin/true on {} files, 2 at once, {} rounds, medians",
        options.files, options.rounds
    ));
    say("   files/s   × posix_spawn   × xargs   × parallel");
    for (contestant, rates) in contestants.iter().zip(rates) {
        say(&format!(
            "{:>10.0} {:>15} {:>9} {:>12}   {}",
            median(rates.clone()),
            ratio(rates, &limit),
            ratio(rates, &xargs),
            ratio(rates, &parallel),
            contestant.name()
        ));
    }
}

fn run_peer(name: &str, words: &[&str], list: &Path) -> Result<(), String> {
    let stdin = std::fs::File::open(list).map_err(|error| error.to_string())?;
    let (program, arguments) = words.split_first().ok_or("no program")?;
    let status = Command::new(program)
        .args(arguments)
        .arg("/bin/true")
        .stdin(stdin)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name}: {status}")) }
}

fn spawn_all(list: &Path) -> Result<(), String> {
    let text = std::fs::read(list).map_err(|error| error.to_string())?;
    let names: Vec<&[u8]> = text.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    let next = AtomicUsize::new(0);
    let one_thread = || -> Result<(), String> {
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
            let status = Command::new("/bin/true").arg(name).stdin(Stdio::null()).status();
            match status {
                Ok(status) if status.success() => {}
                other => return Err(format!("/bin/true: {other:?}")),
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(one_thread), scope.spawn(one_thread)];
        for thread in threads {
            thread.join().map_err(|_| "a spawning thread panicked".to_owned())??;
        }
        Ok(())
    })
}
