//! Start-up is recovery: there is no clean-shutdown flag.
//!
//! Order, each step before the next:
//! 1. Read all live records. What the page cache shows is not yet durable (the last daemon may have died
//!    between write and fsync, or after a failed fsync), so
//! 2. copy every live record into a new journal segment, sync it and `journal/`; only now
//! 3. write the CSVs as recorded,
//! 4. settle what is recorded and still stands in `processing/`, or, after a power cut, in `incoming/`
//!    again (now: the next checkpoint drops its record),
//! 5. take every other claim up again; an attempt without an end was lost and is charged so, unless it
//!    is known that it had not begun.
//!
//! `records` does steps 1 to 3, `settle` step 4, `take_up` step 5.
//!
//! Must not know: threads, the clock (time and boot id are passed in). The old daemon's workers were
//! ended before this is called.
//!
//! Invariants
//! - It may be stopped at any instant and started again. That there was a power cut is known until
//!   the next checkpoint: the journal keeps the old boot id so long.
//! - A claim taken up is durable before it can be recorded: the ctime of before it is not known any
//!   more, by which a file that came back to `incoming/` would be known.
//! - After a power cut a file is settled under an outcome only if it is the very file that the outcome names
//!   ([`FileMark`]): an emptied folder may stand under its old name with a new file in it, since the rename of
//!   the folder and that of the file are lost independently. So each file is looked at for itself, whatever
//!   its folder is called. Without one the name of the folder is the truth.
//! - After a power cut, a claim of which the journal knows nothing gets a new id, for the same reason:
//!   the id in its name may be of a job that was recorded long ago.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::core::state::Millis;
use crate::core::{JobId, RelPath};
use crate::fs::{self, FileType, Filesystem};
use crate::journal::record::{Attempt, FileMark, Outcome, SourceKey, Take};
use crate::journal::{Sources, rows, waiting};
use crate::results::Recovery;
use crate::spool::{Claimed, Place, Spool};

use super::keeper::{Keeper, KeeperError, Output, Parts};
use super::known_inputs::KnownInputs;
use super::notice::Notice;
use records::{read_records, rewrite};
use settle::{
    hand_over_recorded, restore_sidecars, settle_reappeared, settle_recorded, unstage_recorded,
};
use take_up::take_up;

mod records;
mod settle;
mod take_up;
#[cfg(test)]
mod tests;

/// What recovery needs to know of the world.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The spool's absolute path, for tasks.
    pub path: PathBuf,
    /// The kernel's boot id.
    pub boot: String,
    /// Now.
    pub now: Millis,
    /// Ten bytes of randomness for each job id.
    pub random: fn() -> [u8; 10],
}

/// What recovery found, for one line of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that were live.
    pub records: u64,
    /// Recorded jobs whose file had not been moved.
    pub settled: u64,
    /// Claims taken up again.
    pub resumed: u64,
    /// Of these, attempts that were lost.
    pub lost: u64,
    /// The machine was started anew since the last record.
    pub power_cut: bool,
    /// Bytes of a torn journal tail that were cut: never promised to anyone.
    pub torn: u64,
}

/// What the live records say of the claims that stand in `processing/`.
struct Known<F: Filesystem> {
    high: Option<JobId>,
    boot: Option<String>,
    outcomes: HashMap<JobId, Outcome>,
    attempts: HashMap<JobId, Attempt>,
    takes: HashMap<JobId, Take>,
    sources: Vec<SourceKey>,
    /// Jobs with rows in a file of their own.
    rows_files: HashSet<JobId>,
    /// By inode; in an order, so that what is done of these is the same each time.
    marks: BTreeMap<u64, Outcome>,
    records: u64,
    torn: u64,
    /// Of jobs that stand in `processing/`.
    inputs: KnownInputs<F>,
    /// Attempts that waited in line.
    waiting: HashSet<(JobId, u32)>,
}

impl<F: Filesystem> Default for Known<F> {
    fn default() -> Self {
        Self {
            high: None,
            boot: None,
            outcomes: HashMap::new(),
            attempts: HashMap::new(),
            takes: HashMap::new(),
            sources: Vec::new(),
            rows_files: HashSet::new(),
            marks: BTreeMap::new(),
            records: 0,
            torn: 0,
            inputs: KnownInputs::default(),
            waiting: HashSet::new(),
        }
    }
}

/// Brings the spool into a state from which the keeper goes on.
pub fn recover<F: Filesystem>(
    spool: Spool<F>,
    settings: &Settings,
    around: &Surroundings,
) -> Result<(Keeper<F>, Report), KeeperError> {
    let places = list_places(&spool)?;
    open_up(&spool, &places)?;
    let mut results = Recovery::new(spool.fs.clone(), spool.results.clone(), spool.journal.clone());
    let mut known = read_records(&spool, &places, &mut results)?;
    known.waiting = waiting::read(&spool.fs, &spool.journal, &around.boot)
        .map_err(KeeperError::spool("read journal/waiting"))?;
    let power_cut = known.boot.as_ref().is_some_and(|boot| *boot != around.boot);
    let mut report =
        Report { records: known.records, power_cut, torn: known.torn, ..Report::default() };
    let touched = results.verify(power_cut)?;

    let high = known.high.unwrap_or(JobId::MIN);
    let (journal, results) = rewrite(&spool, results, high, &known, &places, around)?;
    rows::remove_orphans(&spool.fs, &spool.journal, |job| known.rows_files.contains(&job))?;

    let parts = Parts {
        sources: Sources::open(&spool.fs, &spool.journal)?,
        reappearing: if power_cut { known.marks.clone() } else { BTreeMap::new() },
        last_id: places.iter().map(|place| place.job()).fold(high, JobId::max),
        path: around.path.clone(),
        new_sources: known.sources.clone(),
        rows_files: known.rows_files.iter().copied().collect(),
        random: around.random,
        spool,
        journal,
        results,
    };
    let mut keeper = Keeper::assemble(settings, parts)?;
    keeper.tell_touched(touched);
    if power_cut {
        restore_sidecars(&keeper.spool, &known)?;
    }
    let places = unstage_recorded(&keeper.spool, &known, places)?;
    let places = hand_over_recorded(&keeper.spool, &known, places)?;
    settle_recorded(&mut keeper, &known, &places, &mut report)?;
    if power_cut {
        settle_reappeared(&mut keeper, &known, &mut report)?;
    }
    take_up(&mut keeper, &mut known, &places, around, &mut report)?;
    if known.high.is_none() && report.resumed > 0 {
        keeper.out.push(Output::Notice(Notice::JournalLost { jobs: report.resumed }));
    }
    Ok((keeper, report))
}

fn list_places<F: Filesystem>(spool: &Spool<F>) -> Result<Vec<Place>, KeeperError> {
    let what = KeeperError::spool("read processing/");
    let names = || -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for entry in spool.fs.list(&spool.processing)? {
            let entry = entry?;
            let is_other = matches!(entry.file_type, Some(FileType::File | FileType::Other));
            // What is not ours stays where it is, as what a worker put in the place of its job's folder.
            let is_ours = |it: &Place| !is_other || !matches!(it, Place::Job(_) | Place::Left(_));
            places.extend(Place::parse(&entry.name).filter(is_ours));
        }
        places.sort_by_key(|place| (place.job(), place.begun()));
        Ok(places)
    };
    names().map_err(what)
}

/// What a worker protected, and no end of its attempt opened up again, can be read and moved after it.
fn open_up<F: Filesystem>(spool: &Spool<F>, places: &[Place]) -> Result<(), KeeperError> {
    for place in places.iter().filter(|it| matches!(it, Place::Job(_) | Place::Output(_))) {
        let name = place.name();
        let opened = match *place {
            Place::Job(claimed) if claimed.is_folder() => spool.open_up_folder(claimed),
            _ => fs::open_up_tree(&spool.fs, &spool.processing, Path::new(&name)),
        };
        opened.map_err(KeeperError::spool(format!("open processing/{name}")))?;
    }
    Ok(())
}

/// A staged copy becomes this claim, `ID.0`; done already is fine.
pub(super) fn unstage<F: Filesystem>(
    spool: &Spool<F>,
    claimed: Claimed,
) -> Result<(), KeeperError> {
    let from = Place::Staging(claimed.job, claimed.shape).name();
    let to = Place::Job(claimed).name();
    let moved =
        spool.fs.rename(&spool.processing, Path::new(&from), &spool.processing, Path::new(&to));
    match moved {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KeeperError::spool(format!("move processing/{from}"))(error))
        }
        _ => Ok(()),
    }
}

/// What tells an unstaged copy from other files of its name; `None`: somebody took it away.
pub(super) fn mark_unstaged<F: Filesystem>(
    spool: &Spool<F>,
    claimed: Claimed,
    rel: &RelPath,
) -> Result<Option<FileMark>, KeeperError> {
    let to = Place::Job(claimed).name();
    let stat = match spool.fs.stat(&spool.processing, &Path::new(&to).join(rel.as_path())) {
        Err(error) if fs::is_no_folder(&error) => return Ok(None),
        other => other.map_err(KeeperError::spool(format!("read processing/{to}/{rel}")))?,
    };
    Ok(Some(FileMark {
        ino: stat.ino,
        btime_ns: stat.btime_ns,
        before_ns: stat.ctime_ns,
        after_ns: stat.ctime_ns,
    }))
}
