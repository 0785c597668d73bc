//! Step 5 of recovery: every other claim is taken up again.
//!
//! Must not know: what is recorded of jobs that are over, but their ids.
//!
//! Invariants
//! - A claim taken up is durable before it can be recorded.
//! - An attempt without an end was lost, unless it is known that it had not begun.
//! - A folder that its worker made immutable, or mounted something on, is no job while it is so.
//! - After a power cut, a claim of which the journal knows nothing gets a new id.

use std::io;
use std::path::Path;

use super::{Known, Report, Surroundings, unstage};
use crate::core::{JobId, RelPath};
use crate::daemon::keeper::{JobInfo, Keeper, KeeperError, Output};
use crate::daemon::notice::Notice;
use crate::fs::{self, Filesystem, Stat};
use crate::journal::record::FileMark;
use crate::spool::{Claimed, Place, Shape, Spool};

/// Step 5.
pub(super) fn take_up<F: Filesystem>(
    keeper: &mut Keeper<F>,
    known: &mut Known<F>,
    places: &[Place],
    around: &Surroundings,
    report: &mut Report,
) -> Result<(), KeeperError> {
    let mut found = Vec::new();
    for place in places {
        if matches!(place, Place::Job(_)) && keeper.spool.is_stuck(*place).map_err(read_failed)? {
            say_left(keeper, *place);
            continue;
        }
        match *place {
            Place::Job(claimed) if claimed.is_own() => match own_input_of(keeper, claimed)? {
                Some((rel, stat)) => found.push((claimed, rel, stat)),
                None => remove_or_say(keeper, *place)?,
            },
            Place::Job(claimed) => match file_beside_sentinel(keeper, claimed)? {
                Some((rel, stat)) => found.push((claimed, rel, stat)),
                // An empty folder is no job.
                None => remove_or_say(keeper, *place)?,
            },
            Place::Staging(job, shape) => {
                // A take is durable before its copy leaves the staging name; a copy without one is no
                // job, and its source stands untouched where it was.
                if !known.takes.contains_key(&job) {
                    remove(&keeper.spool, *place)?;
                    continue;
                }
                let claimed = Claimed { job, begun: 0, shape };
                unstage(&keeper.spool, claimed)?;
                let there = match shape {
                    Shape::File => file_of(&keeper.spool, claimed)?,
                    Shape::Folder(_) | Shape::Main(_) => own_input_of(keeper, claimed)?,
                };
                match there {
                    Some((rel, stat)) => found.push((claimed, rel, stat)),
                    None => remove(&keeper.spool, Place::Job(claimed))?,
                }
            }
            Place::Failed(job) => remove_failed(&keeper.spool, job)?,
            Place::Scratch(_) | Place::Output(_) => remove_or_say(keeper, *place)?,
            Place::Left(_) => say_left(keeper, *place),
        }
    }
    for (claimed, rel, _) in &found {
        // What was handed in never stood in `incoming/`: what stands there is another one's.
        if !known.takes.contains_key(&claimed.job) {
            fetch_sentinel(keeper, *claimed, rel);
        }
    }
    if !places.is_empty() {
        // Durable after it: these claims, and what went back to `incoming/`. The ctime of before such a
        // claim is not known any more, so that a power cut must not bring its file back to `incoming/`,
        // once it is recorded.
        let (fs, root) = (&keeper.spool.fs, &keeper.spool.root);
        fs.sync_all(root).map_err(KeeperError::spool("sync the claims in processing/"))?;
    }
    for (claimed, rel, stat) in found {
        let attempt = known.attempts.get(&claimed.job);
        let take = known.takes.get(&claimed.job);
        let mut claimed = as_begun(&keeper.spool, known, claimed)?;
        let is_another = known.outcomes.contains_key(&claimed.job);
        let is_known = attempt.is_some() || take.is_some() || known.inputs.contains(claimed.job);
        if is_another || report.power_cut && !is_known {
            let job = keeper.next_id(around.now);
            let renamed = Claimed { job, ..claimed };
            keeper
                .spool
                .set_begun(claimed, renamed)
                .map_err(KeeperError::spool("give a claim a new id in processing/"))?;
            claimed = renamed;
        }
        let mine = attempt.filter(|attempt| attempt.job == claimed.job);
        let ended = mine.map_or(0, |attempt| attempt.attempt);
        let take = take.filter(|take| take.job == claimed.job);
        let route = keeper.place_of_job(claimed, &rel, take);
        report.resumed += 1;
        report.lost += u64::from(claimed.begun > ended);
        let info = JobInfo {
            rel: rel.clone(),
            route: route.unwrap_or(usize::MAX),
            begun: claimed.begun,
            shape: claimed.shape,
            mark: FileMark {
                ino: stat.ino,
                btime_ns: stat.btime_ns,
                before_ns: stat.ctime_ns,
                after_ns: stat.ctime_ns,
            },
            take: take.cloned(),
            attempt: mine.cloned(),
            ended: None,
            begun_as: None,
        };
        let mut records = None;
        if let Some((mut input, past)) = known.inputs.take(claimed.job, mine) {
            match route {
                Some(_) => records = Some(past),
                // A reload may bring one.
                None => input.past = Some(past),
            }
            keeper.inputs.insert(claimed.job, input);
        }
        let recovered = info.recovered(claimed.job, route, records);
        keeper.adopt(recovered, info, around.now)?;
    }
    Ok(())
}

fn read_failed(error: io::Error) -> KeeperError {
    KeeperError::spool("read processing/")(error)
}

/// What a worker made as another user, or mounted and left, stays and is said; it stands in nobody's way.
fn remove_or_say<F: Filesystem>(keeper: &mut Keeper<F>, place: Place) -> Result<(), KeeperError> {
    match remove(&keeper.spool, place) {
        Err(KeeperError::Spool { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied || fs::is_in_use(&source) =>
        {
            say_left(keeper, place);
            Ok(())
        }
        other => other,
    }
}

fn say_left<F: Filesystem>(keeper: &mut Keeper<F>, place: Place) {
    let left = Path::new("processing").join(place.name());
    keeper.out.push(Output::Notice(Notice::LeftBehind { left }));
}

fn file_of<F: Filesystem>(
    spool: &Spool<F>,
    claimed: Claimed,
) -> Result<Option<(RelPath, Stat)>, KeeperError> {
    match spool.file_of(claimed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map_err(read_failed),
    }
}

/// Like [`file_of`], never taking a sentinel for the file that it announces, however old it is. One
/// that is alone goes back: a power cut kept its move and lost the file's, which waits for it.
fn file_beside_sentinel<F: Filesystem>(
    keeper: &Keeper<F>,
    claimed: Claimed,
) -> Result<Option<(RelPath, Stat)>, KeeperError> {
    let spool = &keeper.spool;
    let Some((rel, stat)) = file_of(spool, claimed)? else { return Ok(None) };
    let Some(announced) = keeper.table.announced(&rel) else { return Ok(Some((rel, stat))) };
    let files = spool.files_of(claimed).map_err(read_failed)?;
    if let Some(found) = files.into_iter().find(|(rel, _)| *rel == announced) {
        return Ok(Some(found));
    }
    let path = Path::new(&Place::Job(claimed).name()).join(rel.as_path());
    match spool.fs.rename(&spool.processing, &path, &spool.incoming, rel.as_path()) {
        Ok(()) => Ok(None),
        // Its name is taken, or its folder gone: it is worked on like any other file.
        Err(_) => Ok(Some((rel, stat))),
    }
}

/// What a claim is about whose place is its own. Where it is gone, what came with it goes back, and what its
/// worker left goes to `error/`: nothing but empty folders is left of it.
fn own_input_of<F: Filesystem>(
    keeper: &Keeper<F>,
    claimed: Claimed,
) -> Result<Option<(RelPath, Stat)>, KeeperError> {
    let spool = &keeper.spool;
    let look = || -> io::Result<Option<(RelPath, Stat)>> {
        if let Some(found) = spool.input_of(claimed)? {
            return Ok(Some(found));
        }
        for (rel, _) in spool.files_of(claimed)? {
            let path = Path::new(&Place::Job(claimed).name()).join(rel.as_path());
            // A power cut kept the move of what came with it, and lost its own: it waits for that.
            let table = &keeper.table;
            let came_along = table.announced(&rel).is_some() || table.companion_of(&rel).is_some();
            let is_back = came_along
                && spool
                    .fs
                    .rename(&spool.processing, &path, &spool.incoming, rel.as_path())
                    .is_ok();
            if !is_back {
                match spool.set_aside(claimed, &rel) {
                    // Another user's: it stays.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                    other => other?,
                }
            }
        }
        Ok(None)
    };
    look().map_err(read_failed)
}

/// The daemon may have died between the claim and the move of what promised it, which would stay for ever.
fn fetch_sentinel<F: Filesystem>(keeper: &Keeper<F>, claimed: Claimed, rel: &RelPath) {
    let (spool, table) = (&keeper.spool, &keeper.table);
    let name = if claimed.is_folder() { table.folder_sentinel(rel) } else { table.sentinel(rel) };
    let Some(name) = name else { return };
    // Of a newer one that has come since, it would be the promise.
    let newer = spool.fs.stat(&spool.incoming, rel.as_path());
    if newer.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        match spool.claim_sentinel(rel, &name, claimed) {
            // Mostly it is here already. What stays says nothing of a file that comes later.
            Ok(()) | Err(_) => {}
        }
    }
}

/// A claim that waited in line has its name of before: that attempt did not begin.
fn as_begun<F: Filesystem>(
    spool: &Spool<F>,
    known: &Known<F>,
    claimed: Claimed,
) -> Result<Claimed, KeeperError> {
    if !known.waiting.contains(&(claimed.job, claimed.begun)) {
        return Ok(claimed);
    }
    let renamed = Claimed { begun: claimed.begun.saturating_sub(1), ..claimed };
    spool
        .set_begun(claimed, renamed)
        .map_err(KeeperError::spool("take an attempt back in processing/"))?;
    Ok(renamed)
}

/// Failed records that no outcome speaks of, or that were settled: they are put together again, or were.
fn remove_failed<F: Filesystem>(spool: &Spool<F>, job: JobId) -> Result<(), KeeperError> {
    let name = Place::Failed(job).name();
    match spool.fs.remove_file(&spool.processing, Path::new(&name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KeeperError::spool(format!("remove processing/{name}"))(error))
        }
        _ => Ok(()),
    }
}

fn remove<F: Filesystem>(spool: &Spool<F>, place: Place) -> Result<(), KeeperError> {
    fs::remove_tree(&spool.fs, &spool.processing, Path::new(&place.name()))
        .map_err(KeeperError::spool(format!("remove processing/{}", place.name())))
}
