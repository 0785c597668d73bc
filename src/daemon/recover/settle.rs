//! Step 4 of recovery: what is recorded and still stands in `processing/`, or in `incoming/` again.
//!
//! Must not know: claims of which nothing is recorded.
//!
//! Invariants
//! - Without a power cut a folder has the name of its job: all that stands in it is that job's, whatever its worker
//!   made of the input (`sed -i`, `gzip`), and no other job's, though it be the very file of an earlier one, by `retry`
//!   or as a hard link.
//! - After one, a file is settled under an outcome only if it is the very file that the outcome names, and nothing
//!   was done to it since; or all that stands in the job's folder is as old as the end of its attempt.

use std::path::Path;

use super::{Known, Report, list_places, unstage};
use crate::core::{JobId, RelPath};
use crate::daemon::keeper::{
    Keeper, KeeperError, settle_failed, settle_left, settle_made, settle_outcome,
};
use crate::daemon::notice;
use crate::fs::{FileType, Filesystem, Stat};
use crate::journal::record::Outcome;
use crate::spool::claim::Claim;
use crate::spool::folders::Folders;
use crate::spool::{Claimed, Place, Spool};

/// A sidecar is written before its file moves, but a power cut may keep the move and lose the sidecar.
pub(super) fn restore_sidecars<F: Filesystem>(
    spool: &Spool<F>,
    known: &Known<F>,
) -> Result<(), KeeperError> {
    for outcome in known.marks.values() {
        let of_records = notice::records_sidecar(outcome);
        let failed = outcome.records.as_ref().map_or(0, |tally| tally.ino);
        let (ino, why) = match (notice::sidecar(outcome), of_records) {
            (Some(why), _) => (outcome.file.ino, why),
            (None, Some(why)) => (failed, why),
            (None, None) => continue,
        };
        spool
            .restore_why(outcome.job, &outcome.rel.0, ino, || why)
            .map_err(KeeperError::spool(format!("write the reason of {}", outcome.rel.0)))?;
    }
    Ok(())
}

/// A power cut may undo the renames of a copy that is recorded already: it becomes `ID.0` again.
pub(super) fn unstage_recorded<F: Filesystem>(
    spool: &Spool<F>,
    known: &Known<F>,
    mut places: Vec<Place>,
) -> Result<Vec<Place>, KeeperError> {
    for place in &mut places {
        if let Place::Staging(job, shape) = *place
            && known.outcomes.contains_key(&job)
        {
            let claimed = Claimed { job, begun: 0, shape };
            unstage(spool, claimed)?;
            *place = Place::Job(claimed);
        }
    }
    Ok(places)
}

/// What recorded jobs made and handed on becomes the jobs that their records name.
pub(super) fn hand_over_recorded<F: Filesystem>(
    spool: &Spool<F>,
    known: &Known<F>,
    places: Vec<Place>,
) -> Result<Vec<Place>, KeeperError> {
    let mut is_moved = false;
    for place in &places {
        let Place::Output(claimed) = *place else { continue };
        let outcome = known.outcomes.get(&claimed.job).filter(|it| it.attempts == claimed.begun);
        if let Some(outcome) = outcome.filter(|outcome| outcome.next.is_some()) {
            settle_made(spool, outcome)?;
            is_moved = true;
        }
    }
    if is_moved { list_places(spool) } else { Ok(places) }
}

/// Step 4.
pub(super) fn settle_recorded<F: Filesystem>(
    keeper: &mut Keeper<F>,
    known: &Known<F>,
    places: &[Place],
    report: &mut Report,
) -> Result<(), KeeperError> {
    // Emptied folders go: step 5 looks at all that stand here.
    let mut none = Folders::new(0);
    for place in places {
        match *place {
            Place::Job(claimed) if claimed.is_own() => {
                // Its place is its own: no other job ever had this name.
                let Some(outcome) = known.outcomes.get(&claimed.job) else { continue };
                let settled = settle_outcome(&keeper.spool, outcome, claimed, false, &mut none)?;
                keeper.say_left(settled.left.as_deref());
                report.settled += 1;
            }
            Place::Job(claimed) => {
                let files = keeper.spool.files_of(claimed);
                let files = files.map_err(KeeperError::spool("read processing/"))?;
                for (outcome, alone) in outcomes_in(known, claimed, &files, report.power_cut) {
                    let settled =
                        settle_outcome(&keeper.spool, outcome, claimed, alone, &mut none)?;
                    keeper.say_left(settled.left.as_deref());
                    report.settled += 1;
                }
            }
            Place::Output(claimed) => {
                let Some(outcome) = known.outcomes.get(&claimed.job) else { continue };
                if outcome.output && outcome.attempts == claimed.begun {
                    let made = settle_made(&keeper.spool, outcome)?;
                    keeper.say_left(made.left.as_deref());
                }
            }
            Place::Failed(job) => {
                let Some(outcome) = known.outcomes.get(&job) else { continue };
                settle_failed(&keeper.spool, outcome)?;
            }
            Place::Left(claimed) => {
                let files = keeper.spool.files_in(*place);
                let files = files.map_err(KeeperError::spool("read processing/"))?;
                let mut all: Vec<Stat> = files.into_iter().map(|(_, stat)| stat).collect();
                if let Some(outcome) = known.outcomes.get(&claimed.job) {
                    // It may be a folder.
                    let path = Path::new(&place.name()).join(outcome.rel.0.as_path());
                    let stat = keeper.spool.fs.stat(&keeper.spool.processing, &path);
                    all.extend(stat.ok().filter(|stat| stat.file_type == FileType::Dir));
                }
                for stat in all {
                    let Some(outcome) = known.marks.get(&stat.ino) else { continue };
                    if is_marked(outcome, claimed.job, &stat) {
                        settle_left(&keeper.spool, outcome, claimed)?;
                        report.settled += 1;
                    }
                }
            }
            Place::Scratch(_) | Place::Staging(..) => {}
        }
    }
    Ok(())
}

/// Rule 7: recorded jobs whose very file stands in `incoming/` again.
///
/// Now, and not when a scan gets there: a checkpoint drops their records.
pub(super) fn settle_reappeared<F: Filesystem>(
    keeper: &mut Keeper<F>,
    known: &Known<F>,
    report: &mut Report,
) -> Result<(), KeeperError> {
    let mut none = Folders::new(0);
    for outcome in known.marks.values() {
        let rel = &outcome.rel.0;
        // A folder that cannot be read is met again by the scan, which compares as well.
        let Ok(stat) = keeper.spool.fs.stat(&keeper.spool.incoming, rel.as_path()) else {
            continue;
        };
        if !outcome.file.is_before_or_after_claim(&stat) {
            continue;
        }
        // By its own id: should this be cut off, the next recovery knows it by that, its ctime being another then.
        let claimed = Claimed::file(outcome.job, 0);
        // One that was cut off may have left its folder and lost the move into it.
        keeper.spool.remove_way(rel, claimed);
        match keeper.spool.claim(rel, claimed, None, &mut none) {
            Claim::Made(_) => {
                settle_outcome(&keeper.spool, outcome, claimed, true, &mut none)?;
                report.settled += 1;
            }
            Claim::Gone | Claim::Refused(_) => {}
        }
    }
    Ok(())
}

/// What is recorded of the files in a job's folder, and whether more may stand there than the file of each.
fn outcomes_in<'a, F: Filesystem>(
    known: &'a Known<F>,
    claimed: Claimed,
    files: &[(RelPath, Stat)],
    power_cut: bool,
) -> Vec<(&'a Outcome, bool)> {
    let own = known.outcomes.get(&claimed.job).filter(|_| !files.is_empty());
    let own = own.map(|outcome| (outcome, false));
    if !power_cut {
        return own.into_iter().collect();
    }
    // Whatever the folder is called: it may have the name that it had before it was used again, and hold a file
    // whose last move was lost, and another.
    let marked = |(rel, stat): &(RelPath, Stat)| {
        // Of one inode there may be two outcomes, by a hard link or by `retry`.
        let all = own.map(|(outcome, _)| outcome).into_iter().chain(known.marks.get(&stat.ino));
        let mut its = all.filter(|it| it.rel.0 == *rel && is_marked(it, claimed.job, stat));
        its.next().map(|outcome| (outcome, true))
    };
    let marked: Vec<_> = files.iter().filter_map(marked).collect();
    if !marked.is_empty() {
        return marked;
    }
    // None is the one that was claimed: the worker put its own there, unless they came here later.
    let is_old = |outcome: &Outcome| files.iter().all(|(_, stat)| is_of_attempt(outcome, stat));
    own.filter(|(outcome, _)| is_old(outcome)).into_iter().collect()
}

/// Whether this is the file that the outcome is about.
fn is_marked(outcome: &Outcome, job: JobId, stat: &Stat) -> bool {
    let mark = &outcome.file;
    // Without a birth time an inode number alone could be another file's by now. And what was moved since (`retry`)
    // is another job's.
    let is_left = || mark.btime_ns != 0 && is_of_attempt(outcome, stat);
    let certain = outcome.job == job || mark.is_before_or_after_claim(stat) || is_left();
    mark.ino == stat.ino && mark.btime_ns == stat.btime_ns && certain
}

/// Nothing was done to the file since the end of the attempt.
fn is_of_attempt(outcome: &Outcome, stat: &Stat) -> bool {
    i128::from(stat.ctime_ns) / 1_000_000 <= i128::from(outcome.at_ms)
}
