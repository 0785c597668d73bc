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
//! Must not know: threads, the clock (time and boot id are passed in). The old daemon's workers were
//! ended before this is called.
//!
//! Invariants
//! - It may be stopped at any instant and started again. That there was a power cut is known until
//!   the next checkpoint: the journal keeps the old boot id so long.
//! - A claim taken up is durable before it can be recorded: the ctime of before it is not known any
//!   more, by which a file that came back to `incoming/` would be known.
//! - A file is settled under an outcome only if it is the very file that the outcome names
//!   ([`FileMark`]): after a power cut an emptied folder may stand under its old name with a new file
//!   in it, since the rename of the folder and that of the file are lost independently. So each file
//!   is looked at for itself, whatever its folder is called.
//! - After a power cut, a claim of which the journal knows nothing gets a new id, for the same reason:
//!   the id in its name may be of a job that was recorded long ago.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::core::state::Millis;
use crate::core::{JobId, RelPath};
use crate::fs::{self, Filesystem, Stat};
use crate::journal::record::{Attempt, FileMark, Outcome, PieceBytes, Record, SourceKey, Take};
use crate::journal::{Draft, Reader, Sources, Stamp, Writer, rows, waiting};
use crate::results::{Recovery, Results};
use crate::spool::claim::Claim;
use crate::spool::folders::Folders;
use crate::spool::{Claimed, Place, Spool};

use super::keeper::next::take_of;
use super::keeper::{
    JobInfo, Keeper, KeeperError, Output, Parts, settle_failed, settle_made, settle_outcome,
};
use super::known_inputs::KnownInputs;
use super::notice::Notice;

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
    /// CSVs that someone touched: left alone, and their route goes on in another one.
    pub touched: usize,
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
    marks: HashMap<u64, Outcome>,
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
            marks: HashMap::new(),
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
    report.touched = results.verify()?.len();

    let high = known.high.unwrap_or(JobId::MIN);
    let (journal, results) = rewrite(&spool, results, high, &known, &places, around)?;
    rows::remove_orphans(&spool.fs, &spool.journal, |job| known.rows_files.contains(&job))?;

    let parts = Parts {
        sources: Sources::open(&spool.fs, &spool.journal)?,
        reappearing: if power_cut { known.marks.clone() } else { HashMap::new() },
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
    if power_cut {
        restore_sidecars(&keeper.spool, &known)?;
    }
    let places = unstage_recorded(&keeper.spool, &known, places)?;
    let places = hand_over_recorded(&keeper.spool, &known, places)?;
    settle_recorded(&mut keeper, &known, &places, &mut report)?;
    if power_cut {
        settle_reappeared(&mut keeper, &known, around.now, &mut report)?;
    }
    take_up(&mut keeper, &mut known, &places, around, &mut report)?;
    Ok((keeper, report))
}

fn list_places<F: Filesystem>(spool: &Spool<F>) -> Result<Vec<Place>, KeeperError> {
    let what = KeeperError::spool("read processing/");
    let names = || -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for entry in spool.fs.list(&spool.processing)? {
            // What is not ours stays where it is.
            places.extend(Place::parse(&entry?.name));
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

/// Step 1.
fn read_records<F: Filesystem>(
    spool: &Spool<F>,
    places: &[Place],
    results: &mut Recovery<F>,
) -> Result<Known<F>, KeeperError> {
    let mut here: HashSet<JobId> = places.iter().map(|place| place.job()).collect();
    let mut known = Known::<F>::default();
    let mut reader = Reader::open(&spool.fs, &spool.journal)?;
    while let Some(located) = reader.next_record()? {
        known.records += 1;
        results.feed(&located.record)?;
        match located.record {
            Record::Begin(begin) => {
                known.high = known.high.max(Some(begin.high));
                known.boot = Some(begin.boot);
            }
            Record::Take(take) => {
                known.high = known.high.max(Some(take.job));
                if here.contains(&take.job) {
                    known.takes.insert(take.job, take);
                }
            }
            Record::Attempt(attempt) if here.contains(&attempt.job) => {
                known.attempts.insert(attempt.job, attempt);
            }
            Record::Outcome(mut outcome) => {
                known.high = known.high.max(Some(outcome.job));
                known.sources.extend(outcome.source);
                let is_big = |bytes: &PieceBytes| matches!(bytes, PieceBytes::File { .. });
                if outcome.csv.iter().any(|piece| is_big(&piece.bytes)) {
                    known.rows_files.insert(outcome.job);
                }
                outcome.csv = Vec::new();
                // Its made files are jobs, wherever they stand by now.
                for (next, file) in
                    outcome.next.iter().flat_map(|it| it.files.iter().map(move |f| (it, f)))
                {
                    known.high = known.high.max(Some(file.job));
                    known.takes.insert(file.job, take_of(next, file));
                    here.insert(file.job);
                }
                if here.contains(&outcome.job) {
                    known.outcomes.insert(outcome.job, outcome.clone());
                }
                known.marks.insert(outcome.file.ino, outcome);
            }
            Record::InputOutcome(outcome) => {
                known.high = known.high.max(Some(outcome.job)).max(outcome.rows_file);
                known.rows_files.extend(outcome.rows_file);
                if here.contains(&outcome.job) {
                    known.inputs.feed(&Record::InputOutcome(outcome));
                }
            }
            line if input_of(&line).is_some_and(|job| here.contains(&job)) => {
                known.inputs.feed(&line);
            }
            _ => {}
        }
    }
    known.torn = reader.torn().map_or(0, |torn| torn.torn_len);
    Ok(known)
}

/// Whose records a line is about, if it is of no use without that job.
fn input_of(record: &Record) -> Option<JobId> {
    match record {
        Record::Input(line) => Some(line.job),
        Record::InputSet(line) => Some(line.job),
        Record::InputTried(line) => Some(line.job),
        _ => None,
    }
}

/// Steps 2 and 3.
fn rewrite<F: Filesystem>(
    spool: &Spool<F>,
    results: Recovery<F>,
    high: JobId,
    known: &Known<F>,
    places: &[Place],
    around: &Surroundings,
) -> Result<(Writer<F>, Results<F>), KeeperError> {
    let here: HashSet<JobId> = places.iter().map(|place| place.job()).collect();
    // Until the next checkpoint the journal keeps the boot id of before a power cut: if this recovery
    // is interrupted, the next one must still know that there was one.
    let boot = known.boot.as_ref().unwrap_or(&around.boot).clone();
    let stamp = Stamp { boot, high, at_ms: around.now };
    let mut reader = Reader::open(&spool.fs, &spool.journal)?;
    let mut copy = Draft::supersede(&spool.fs, &spool.journal, reader.next_segment(), stamp)?;
    while let Some(located) = reader.next_record()? {
        let is_live = match &located.record {
            Record::Begin(_) => false,
            Record::Take(take) => here.contains(&take.job),
            Record::Attempt(attempt) => {
                known.attempts.get(&attempt.job).is_some_and(|last| last == attempt)
            }
            line => input_of(line).is_none_or(|job| here.contains(&job)),
        };
        if is_live {
            for record in results.rewrite(located.record) {
                copy.push(&record)?;
            }
        }
    }
    // Durable from here: everything that was recorded, whatever the page cache held before.
    let mut journal = copy.finish()?;
    journal.note_boot(around.boot.clone());

    let mut results = results.into_results();
    let mut reader = Reader::open(&spool.fs, &spool.journal)?;
    while let Some(located) = reader.next_record()? {
        results.apply(&located.record)?;
    }
    results.flush()?;
    Ok((journal, results))
}

/// A sidecar is written before its file moves, but a power cut may keep the move and lose the sidecar.
fn restore_sidecars<F: Filesystem>(spool: &Spool<F>, known: &Known<F>) -> Result<(), KeeperError> {
    for outcome in known.marks.values() {
        let of_records = super::notice::records_sidecar(outcome);
        let failed = outcome.records.as_ref().map_or(0, |tally| tally.ino);
        let (ino, why) = match (super::notice::sidecar(outcome), of_records) {
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
fn unstage_recorded<F: Filesystem>(
    spool: &Spool<F>,
    known: &Known<F>,
    mut places: Vec<Place>,
) -> Result<Vec<Place>, KeeperError> {
    for place in &mut places {
        if let Place::Staging(job) = *place
            && known.outcomes.contains_key(&job)
        {
            unstage(spool, job)?;
            *place = Place::Job(Claimed::file(job, 0));
        }
    }
    Ok(places)
}

/// What recorded jobs made and handed on becomes the jobs that their records name.
fn hand_over_recorded<F: Filesystem>(
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
fn settle_recorded<F: Filesystem>(
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
                settle_outcome(&keeper.spool, outcome, claimed, false, &mut none)?;
                report.settled += 1;
            }
            Place::Job(claimed) => {
                let files = keeper.spool.files_of(claimed);
                let files = files.map_err(KeeperError::spool("read processing/"))?;
                // Whatever the folder is called: after a power cut it may have the name that it had
                // before it was used again, and hold a file whose last move was lost, and another.
                for (_, stat) in files {
                    let Some(outcome) = known.marks.get(&stat.ino) else { continue };
                    if is_marked(outcome, claimed.job, &stat) {
                        let alone = report.power_cut;
                        settle_outcome(&keeper.spool, outcome, claimed, alone, &mut none)?;
                        report.settled += 1;
                    }
                }
            }
            Place::Output(claimed) => {
                let Some(outcome) = known.outcomes.get(&claimed.job) else { continue };
                if outcome.output && outcome.attempts == claimed.begun {
                    settle_made(&keeper.spool, outcome)?;
                }
            }
            Place::Failed(job) => {
                let Some(outcome) = known.outcomes.get(&job) else { continue };
                settle_failed(&keeper.spool, outcome)?;
            }
            Place::Scratch(_) | Place::Staging(_) => {}
        }
    }
    Ok(())
}

/// Rule 7: recorded jobs whose very file stands in `incoming/` again.
///
/// Now, and not when a scan gets there: a checkpoint drops their records.
fn settle_reappeared<F: Filesystem>(
    keeper: &mut Keeper<F>,
    known: &Known<F>,
    now: Millis,
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
        let claimed = Claimed::file(keeper.next_id(now), 0);
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

/// Whether this is the file that the outcome is about.
fn is_marked(outcome: &Outcome, job: JobId, stat: &Stat) -> bool {
    let mark = &outcome.file;
    // Without a birth time an inode number alone could be another file's by now.
    let certain = mark.btime_ns != 0 || outcome.job == job || mark.is_before_or_after_claim(stat);
    mark.ino == stat.ino && mark.btime_ns == stat.btime_ns && certain
}

fn file_of<F: Filesystem>(
    spool: &Spool<F>,
    claimed: Claimed,
) -> Result<Option<(RelPath, Stat)>, KeeperError> {
    match spool.file_of(claimed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map_err(KeeperError::spool("read processing/")),
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
    let files = spool.files_of(claimed).map_err(KeeperError::spool("read processing/"))?;
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
                spool.set_aside(claimed, &rel)?;
            }
        }
        Ok(None)
    };
    look().map_err(KeeperError::spool("read processing/"))
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

/// Step 5.
fn take_up<F: Filesystem>(
    keeper: &mut Keeper<F>,
    known: &mut Known<F>,
    places: &[Place],
    around: &Surroundings,
    report: &mut Report,
) -> Result<(), KeeperError> {
    let mut found = Vec::new();
    for place in places {
        match *place {
            Place::Job(claimed) if claimed.is_own() => match own_input_of(keeper, claimed)? {
                Some((rel, stat)) => found.push((claimed, rel, stat)),
                None => remove(&keeper.spool, *place)?,
            },
            Place::Job(claimed) => match file_beside_sentinel(keeper, claimed)? {
                Some((rel, stat)) => found.push((claimed, rel, stat)),
                // An empty folder is no job.
                None => remove(&keeper.spool, *place)?,
            },
            Place::Staging(job) => {
                // A take is durable before its copy leaves the staging name; a copy without one is no
                // job, and its source stands untouched where it was.
                if !known.takes.contains_key(&job) {
                    remove(&keeper.spool, *place)?;
                    continue;
                }
                unstage(&keeper.spool, job)?;
                let claimed = Claimed::file(job, 0);
                match file_of(&keeper.spool, claimed)? {
                    Some((rel, stat)) => found.push((claimed, rel, stat)),
                    None => remove(&keeper.spool, Place::Job(claimed))?,
                }
            }
            Place::Failed(job) => remove_failed(&keeper.spool, job)?,
            // What a worker made as another user stays and is said; it stands in nobody's way.
            Place::Scratch(_) | Place::Output(_) => match remove(&keeper.spool, *place) {
                Err(KeeperError::Spool { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    let rel = RelPath::new(place.name());
                    let reason = source.to_string();
                    let refused = rel.map(|rel| Notice::ScratchRefused { rel, reason });
                    keeper.out.extend(refused.map(Output::Notice));
                }
                other => other?,
            },
        }
    }
    for (claimed, rel, _) in &found {
        fetch_sentinel(keeper, *claimed, rel);
    }
    if !found.is_empty() {
        // Durable after it: these claims. The ctime of before such a claim is not known any more, so
        // that a power cut must not bring its file back to `incoming/`, once it is recorded.
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

/// A staged copy becomes `ID.0`; done already is fine.
pub(super) fn unstage<F: Filesystem>(spool: &Spool<F>, job: JobId) -> Result<(), KeeperError> {
    let (from, to) = (Place::Staging(job).name(), Place::Job(Claimed::file(job, 0)).name());
    let moved =
        spool.fs.rename(&spool.processing, Path::new(&from), &spool.processing, Path::new(&to));
    match moved {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KeeperError::spool(format!("move processing/{from}"))(error))
        }
        _ => Ok(()),
    }
}

/// What tells an unstaged copy from other files of its name.
pub(super) fn mark_unstaged<F: Filesystem>(
    spool: &Spool<F>,
    job: JobId,
    rel: &RelPath,
) -> Result<FileMark, KeeperError> {
    let to = Place::Job(Claimed::file(job, 0)).name();
    let stat = spool
        .fs
        .stat(&spool.processing, &Path::new(&to).join(rel.as_path()))
        .map_err(KeeperError::spool(format!("read processing/{to}/{rel}")))?;
    Ok(FileMark {
        ino: stat.ino,
        btime_ns: stat.btime_ns,
        before_ns: stat.ctime_ns,
        after_ns: stat.ctime_ns,
    })
}
