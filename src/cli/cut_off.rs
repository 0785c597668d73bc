//! A retry or rerun that is cut off: not by a signal between a file and what goes along with it, and where it was
//! killed there, the same command brings the rest.
//!
//! Must not know: how a file is moved.
//!
//! Invariants
//! - What is brought after the file stands where it went with it, and nothing is made anew: a file that waits in
//!   `incoming/` for what is still to be delivered gets nothing of an older delivery made up for it.
//! - A reason goes only where no file has it, and has had none for a while: the daemon writes it before the file
//!   comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::failure::Failure;
use super::retry::{Move, Routes};
use super::target::{Target, Tree, path_in};
use super::{SpoolArg, below, eprint_line};
use crate::core::RelPath;
use crate::daemon::history::JobLine;
use crate::fs::RealFs;
use crate::spool::Spool;
use crate::spool::put_back::What;

/// A reason without a file that is so old is of one that was put back.
const STALE: Duration = Duration::from_secs(10);

/// From now on a signal to end waits for the end of each [`Whole::does`].
pub(super) struct Whole {
    ends: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Whole {
    /// Where a signal cannot be caught, it ends us as it always did.
    pub(super) fn begin() -> Self {
        let it = Self { ends: Arc::new(AtomicBool::new(true)), asked: Arc::default() };
        for (signal, number) in [(SIGINT, 2), (SIGTERM, 15)] {
            let caught = flag::register_conditional_default(signal, Arc::clone(&it.ends))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&it.asked), number));
            drop(caught);
        }
        it
    }

    /// Does it whole, and ends then if that was asked for meanwhile.
    pub(super) fn does<T>(&self, act: impl FnOnce() -> T) -> T {
        self.ends.store(false, Ordering::SeqCst);
        let done = act();
        self.ends.store(true, Ordering::SeqCst);
        if let Ok(signal @ 1..) = i32::try_from(self.asked.load(Ordering::SeqCst)) {
            drop(low_level::emulate_default_handler(signal));
        }
        done
    }
}

/// What was left in `error/` of a file that stands in `incoming/` again.
pub(super) fn of_retry(
    spool: &SpoolArg,
    target: &Target,
    line: Option<&JobLine>,
    routes: &Routes,
) -> Option<Move> {
    let named = match &target.place {
        Some((Tree::Error, path)) => Some(path.clone()),
        Some(_) => None,
        None => target.rel.clone(),
    };
    let logged = line.and_then(Failure::logged);
    let found = [named, logged].into_iter().flatten().find_map(|at| Failure::gone(spool, &at))?;
    Move::retry(found, routes).goes_on(spool, Tree::Error)
}

/// The same in `done/`: where the job's file went, and the path that it had.
pub(super) fn of_rerun(
    spool: &SpoolArg,
    at: RelPath,
    line: JobLine,
    routes: &Routes,
) -> Option<Move> {
    let (to, job) = (line.rel.0, Some(line.job));
    if path_in(spool, Tree::Done, &at).symlink_metadata().is_ok() {
        return None;
    }
    let is_folder = path_in(spool, Tree::Incoming, &to).is_dir();
    let what = if is_folder { What::Folder } else { What::File };
    Move::rerun(what, at, to, job, routes).goes_on(spool, Tree::Done)
}

/// Removes the reasons that earlier retries left.
pub(super) fn sweep(spool: &SpoolArg, folders: &Spool<RealFs>) {
    let Some(before) = SystemTime::now().checked_sub(STALE) else { return };
    for (sidecar, ino) in Failure::stale(spool, before) {
        if let Err(error) = folders.remove_why(&sidecar, ino) {
            let sidecar = below(spool, std::path::Path::new("error/.why").join(sidecar));
            eprint_line(&format!("warning: cannot remove {sidecar}: {error}"));
        }
    }
}
