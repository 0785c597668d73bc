//! Where a recorded job's file goes, with what was made of it: the keeper's way and recovery's.
//!
//! Must not know: whether this is the first time.
//!
//! Invariants
//! - Only for what is durably recorded. Done already is fine: each move may be made again.

use std::io;
use std::path::PathBuf;

use super::KeeperError;
use crate::daemon::notice;
use crate::fs::Filesystem;
use crate::journal::record::Outcome;
use crate::spool::folders::Folders;
use crate::spool::settle::{Moved, Settled, Settling};
use crate::spool::{Claimed, Place, Spool};

/// Moves a recorded job's file, with its sidecar and what was made. Also what recovery does.
///
/// `claimed` is the folder that the file stands in; after a power cut it need not be the job's own, and
/// `alone` says that what else is in it may be another job's file.
pub(in crate::daemon) fn settle_outcome<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
    claimed: Claimed,
    alone: bool,
    folders: &mut Folders<F::Dir>,
) -> Result<Settled, KeeperError> {
    let made = settle_made(spool, outcome)?;
    let failed = settle_failed(spool, outcome)?;
    let why = notice::sidecar(outcome);
    let (job, rel) = (outcome.job, &outcome.rel.0);
    let place = Place::Job(claimed);
    let ino = outcome.file.ino;
    let settling = Settling { job, claimed, rel, ino, why: why.as_deref(), alone };
    let Moved { rel, left } = spool
        .settle(&settling, folders)
        .map_err(KeeperError::spool(format!("settle {rel} from processing/{}", place.name())))?;
    Ok(Settled { rel, output: made.rel, failed, left: left.or(made.left) })
}

/// Moves a recorded job's file out of the folder that the daemon died over before it could do so.
pub(in crate::daemon) fn settle_left<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
    claimed: Claimed,
) -> Result<(), KeeperError> {
    let why = notice::sidecar(outcome);
    let (job, rel) = (outcome.job, &outcome.rel.0);
    let ino = outcome.file.ino;
    let settling = Settling { job, claimed, rel, ino, why: why.as_deref(), alone: true };
    let settled = spool.settle_from_left(&settling).map(drop);
    settled.map_err(KeeperError::spool(format!("settle {rel} from processing/")))
}

/// Moves the failed records of a job that is done; done already is fine.
pub(in crate::daemon) fn settle_failed<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
) -> Result<Option<PathBuf>, KeeperError> {
    let Some(why) = notice::records_sidecar(outcome) else { return Ok(None) };
    spool
        .settle_failed(outcome.job, &outcome.rel.0, &why)
        .map_err(KeeperError::spool(format!("settle the failed records of {}", outcome.rel.0)))
}

/// Moves what a recorded job made; done already is fine.
pub(in crate::daemon) fn settle_made<F: Filesystem>(
    spool: &Spool<F>,
    outcome: &Outcome,
) -> Result<Moved, KeeperError> {
    if !outcome.output {
        return Ok(Moved::default());
    }
    let claimed = Claimed::file(outcome.job, outcome.attempts);
    if let Some(next) = &outcome.next {
        let hand_over = || -> io::Result<()> {
            for file in &next.files {
                spool.hand_over(claimed, &file.made.0, file.job, &file.rel.0)?;
            }
            spool.clear_handed(claimed)
        };
        hand_over().map_err(KeeperError::spool(format!("hand on what {} made", outcome.rel.0)))?;
    }
    spool
        .settle_output(claimed, &outcome.rel.0)
        .map_err(KeeperError::spool(format!("move what {} made", outcome.rel.0)))
}
