//! A copy that is under way when a signal ends its command (Ctrl-C) goes with it: the daemon knows nothing of it,
//! and only the next start would remove it.
//!
//! Must not know: what is copied, what a copy becomes.
//!
//! Invariants
//! - Only what was begun here and is not over is removed: what the daemon was told of is the daemon's.
//! - A signal ends the command as it would without this.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::core::JobId;
use crate::fs::{self, RealFs, real::RealDir};
use crate::spool::{Place, Shape};

/// The folder of claims, and whose copy is made in it.
type Copy = (RealDir, JobId, Shape);

static UNDER_WAY: Mutex<Option<Copy>> = Mutex::new(None);

/// A copy begins, or (`None`) the last one is over.
pub(super) fn note(copy: Option<Copy>) {
    static HEARD: OnceLock<()> = OnceLock::new();
    HEARD.get_or_init(hear);
    // Nobody panics while holding it.
    *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) = copy;
}

/// Removes a copy under its staging name.
pub(super) fn remove(folder: &RealDir, job: JobId, shape: Shape) -> io::Result<()> {
    fs::remove_tree(&RealFs, folder, Path::new(&Place::Staging(job, shape).name()))
}

/// Listens on a thread of its own, since a copy waits for the disk, or for who writes into a pipe.
fn hear() {
    // Where they cannot be caught, they end us as they always did.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((folder, job, shape)) = under_way {
                // What stays of it the next start removes.
                drop(remove(&folder, job, shape));
            }
            drop(emulate_default_handler(signal));
        }
    });
    if thread.is_err() {
        let ends = Arc::new(AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM] {
            drop(signal_hook::flag::register_conditional_default(signal, Arc::clone(&ends)));
        }
    }
}
