//! The judges: what must be true of a spool in which everything has ended, whatever happened before.
//!
//! Must not know: how the keeper works. They compare the disk with the ledger. Each has a test that
//! shows it a broken history.
//!
//! What is claimed, precisely:
//! - A file that was durable in `incoming/`, or a source, is at the end in exactly one place, and it
//!   is the right one. A file that nobody synced is in at most one after a power cut, in exactly one
//!   after any number of `kill -9`.
//! - Rows of a done file stand once in the CSVs, of a failed one not at all; a failed one stands once
//!   in `errors.csv`. Where someone edited a live CSV they stand at least once.
//! - A promised outcome (its commit returned) is kept, and its file never runs again (`life` sees).
//! - Attempts: each death of the daemon costs a file at most one attempt more. A power cut may also
//!   undo the claim and with it the memory of earlier attempts: then they begin again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::life::is_hidden;
use super::sets;
use super::story::{
    BY_HAND, Story, attempts_of, content_of, fails_with, numbers_of, record_fails, records_of,
};
use crate::fs::Filesystem;
use crate::fs::sim::{Seen, SimFs};
use crate::journal::{Reader, Record};

/// A row of a CSV of results.
#[derive(Clone, Debug)]
pub(super) struct FoundRow {
    pub(super) id: String,
    pub(super) n: String,
    pub(super) extra: String,
    pub(super) file: String,
    pub(super) job: String,
}

/// A sidecar, and the row of `errors.csv`.
#[derive(Clone, Debug)]
pub(super) struct FoundError {
    pub(super) job: String,
    pub(super) record: String,
    pub(super) reason: String,
}

/// What stands on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Place and path below it, by id.
    pub(super) places: BTreeMap<String, Vec<(String, String)>>,
    pub(super) rows: Vec<FoundRow>,
    /// Rows of `errors.csv`.
    pub(super) errors: Vec<FoundError>,
    /// Failed records put together: path below `error/` and content, by id.
    pub(super) failed: BTreeMap<String, Vec<(String, String)>>,
    /// By path below `error/`.
    pub(super) sidecars: BTreeMap<String, FoundError>,
    /// Where parts of folders stand, by the id of the folder.
    pub(super) parts: BTreeMap<String, Vec<String>>,
    /// Made files, by the id in them.
    pub(super) made: BTreeMap<String, Vec<String>>,
    /// Outcomes in the journal: inode and birth.
    pub(super) outcomes: Vec<(u64, i64)>,
    /// All that stands in `results/`.
    pub(super) csvs: Vec<Arc<Vec<u8>>>,
    /// What could not be understood.
    pub(super) strange: Vec<String>,
}

/// Looks at everything once.
pub(super) fn look(sim: &SimFs, story: &Story) -> Facts {
    let mut facts = Facts::default();
    for (path, seen) in sim.tree() {
        let Seen::File(bytes) = seen else { continue };
        let Some((place, below)) = path.split_once('/') else { continue };
        match place {
            "incoming" if is_hidden(below) => {}
            "error" if below.starts_with(".why/") => facts.sidecar(below, &bytes),
            "incoming" | "processing" | "done" | "error" | "taken"
                if sets::is_beside_the_point(&path, &bytes) => {}
            "incoming" | "processing" | "done" | "error" | "taken" => {
                if let Some(id) = sets::part_of(&bytes) {
                    facts.parts.entry(id).or_default().push(path.clone());
                    continue;
                }
                let below = sets::folder_of(below);
                let name = below.split('~').next().unwrap();
                // The user numbers what is taken away.
                let taken = name.rsplit_once('.').filter(|_| place == "taken");
                let name = taken.map_or(name, |(name, _)| name);
                match story.id_of(&bytes, name) {
                    Some(id) if place == "error" && is_part(&id, &bytes) => {
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        facts.failed.entry(id).or_default().push((below.to_owned(), text));
                    }
                    Some(id) => {
                        if is_part(&id, &bytes) {
                            facts.strange.push(format!("{path} is a part of {id}"));
                        }
                        let at = (place.to_owned(), below.to_owned());
                        facts.places.entry(id).or_default().push(at);
                    }
                    None => facts.strange.push(format!("{path} is no file of anyone")),
                }
            }
            "output" => {
                let id = String::from_utf8_lossy(&bytes).into_owned();
                facts.made.entry(id).or_default().push(below.to_owned());
            }
            "results" => facts.csv(below, &bytes),
            _ => {}
        }
    }
    facts.journal(sim);
    facts
}

/// Records of a file, but not all of them.
fn is_part(id: &str, bytes: &[u8]) -> bool {
    let rel = id.split('#').next().unwrap_or(id);
    records_of(rel) > 0 && bytes != content_of(id)
}

impl Facts {
    fn sidecar(&mut self, path: &str, bytes: &[u8]) {
        let of = path.strip_prefix(".why/").unwrap();
        let parsed: Result<serde_json::Value, _> = serde_json::from_slice(bytes);
        // Else half written, or of a file that is gone with the power: no reason for any file.
        if let (Some(of), Ok(value)) = (of.strip_suffix(".json"), parsed) {
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let (job, reason) = (text("job"), text("reason"));
            let found = FoundError { job, record: String::new(), reason };
            self.sidecars.insert(of.to_owned(), found);
        }
    }

    fn csv(&mut self, name: &str, bytes: &Arc<Vec<u8>>) {
        self.csvs.push(Arc::clone(bytes));
        if name.starts_with('.') || name.starts_with("edit.") {
            return;
        }
        if !bytes.is_empty() && !bytes.ends_with(b"\n") {
            self.strange.push(format!("{name} ends in a torn row"));
        }
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(&bytes[..]);
        let headers = reader.headers().unwrap().clone();
        for record in reader.records() {
            let Ok(record) = record else {
                self.strange.push(format!("{name} has a garbled row: {record:?}"));
                continue;
            };
            let cell = |column: &str| {
                let at = headers.iter().position(|known| known == column);
                at.and_then(|at| record.get(at)).unwrap_or_default().to_owned()
            };
            if record.get(0) == Some("mine") {
                continue;
            }
            if record.len() != headers.len() {
                self.strange.push(format!("{name} has a garbled row: {record:?}"));
            }
            if name.starts_with("errors.") {
                self.errors.push(FoundError {
                    job: cell("job"),
                    record: cell("record"),
                    reason: cell("reason"),
                });
            } else {
                self.rows.push(FoundRow {
                    id: cell("id"),
                    n: cell("n"),
                    extra: cell("extra"),
                    file: cell("_file"),
                    job: cell("_job"),
                });
            }
        }
    }

    fn journal(&mut self, sim: &SimFs) {
        let journal = sim.open_dir(&sim.root(), Path::new("journal")).unwrap();
        let mut reader = match Reader::open(sim, &journal) {
            Ok(reader) => reader,
            Err(error) => return self.strange.push(error.to_string()),
        };
        loop {
            match reader.next_record() {
                Ok(None) => return,
                Ok(Some(located)) => {
                    if let Record::Outcome(outcome) = located.record {
                        self.outcomes.push((outcome.file.ino, outcome.file.btime_ns));
                    }
                }
                Err(error) => return self.strange.push(error.to_string()),
            }
        }
    }

    fn place_of(&self, id: &str) -> Option<&(String, String)> {
        self.places.get(id).and_then(|places| places.first())
    }
}

type Check = fn(&Story, &Facts) -> Result<(), String>;

/// All judges, by name.
pub(super) const CHECKS: [(&str, Check); 9] = [
    ("one place", one_place),
    ("whole folders", whole_folders),
    ("rows once", rows_once),
    ("errors once", errors_once),
    ("promises", promises),
    ("one record", one_record),
    ("budgets", budgets),
    ("made files", made_files),
    ("edits", edits),
];

/// The first judge that is not content.
pub(super) fn judge(story: &Story, facts: &Facts) -> Result<(), String> {
    if let Some(broken) = story.broken.first() {
        return Err(format!("on the way: {broken}"));
    }
    if let Some(strange) = facts.strange.first() {
        return Err(format!("strange: {strange}"));
    }
    for (name, check) in CHECKS {
        check(story, facts).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

pub(super) fn one_place(story: &Story, facts: &Facts) -> Result<(), String> {
    for (id, file) in &story.files {
        let none = Vec::new();
        let places = facts.places.get(id).unwrap_or(&none);
        let may_be_gone = !file.durable && story.cuts > 0;
        match places.as_slice() {
            [] if may_be_gone => {}
            [(place, _)] => {
                let right = if fails_with(&file.rel).is_some() {
                    place == "error"
                } else {
                    place == "done" || place == "taken"
                };
                if !right {
                    return Err(format!("{id} is in {place}"));
                }
            }
            other => return Err(format!("{id} is in {} places: {other:?}", other.len())),
        }
    }
    Ok(())
}

/// A job of more than one file is in one place with all that was in it.
pub(super) fn whole_folders(story: &Story, facts: &Facts) -> Result<(), String> {
    for (id, places) in facts.places.iter().filter(|(id, _)| sets::is_set(id) || sets::is_pair(id))
    {
        let parts = facts.parts.get(id).map_or(&[][..], Vec::as_slice);
        let expected =
            |(place, at): &(String, String)| format!("{place}/{}", sets::part_at(id, at));
        // The user takes it apart, or a power cut loses half of what the user took.
        let is_taken = places.iter().any(|(place, _)| place == "taken")
            || parts.iter().any(|part| part.starts_with("taken/"));
        let is_whole = parts.len() == 1 && places.first().map(expected).as_ref() == parts.first();
        // Weakly ordered, a power cut may keep one of two names and lose the other, which is found taken then.
        // What has the job's id is its own, whatever else stands there.
        let has_id = |path: &str| {
            story.jobs.iter().any(|(job, of)| of == id && path.contains(&format!("~{job}")))
        };
        let is_told_apart = match (places.as_slice(), parts) {
            ([(place, at)], [part]) if sets::is_pair(id) && part.starts_with(place.as_str()) => {
                let own = id.split('#').next().unwrap_or(id);
                has_id(part) || has_id(at) && *part == format!("{place}/{}", sets::part_at(id, own))
            }
            _ => false,
        };
        if !is_whole && !is_taken && !is_told_apart {
            return Err(format!("{id} is in {places:?}, and its part in {parts:?}"));
        }
    }
    match facts.parts.keys().find(|id| !facts.places.contains_key(*id)) {
        Some(id) => Err(format!("a part of {id} is without it")),
        None => Ok(()),
    }
}

pub(super) fn rows_once(story: &Story, facts: &Facts) -> Result<(), String> {
    for (id, file) in &story.files {
        if facts.place_of(id).is_none() {
            continue;
        }
        let rows: Vec<_> = facts.rows.iter().filter(|row| row.id == *id).collect();
        let mut expected = numbers_of(&file.rel);
        if fails_with(&file.rel).is_some() {
            expected.clear();
        }
        for n in &expected {
            let count = rows.iter().filter(|row| row.n == *n).count();
            let fine = if story.edits.is_empty() { count == 1 } else { count >= 1 };
            if !fine {
                return Err(format!("row {n} of {id} stands {count} times"));
            }
        }
        if story.edits.is_empty() && rows.len() != expected.len() {
            return Err(format!("{id} has {} rows, not {}", rows.len(), expected.len()));
        }
        for row in rows {
            let same_job = expected.is_empty() || row.job == facts.rows_job(id);
            let extra_len = if file.rel.contains("big-") { (1 << 20) + 4096 } else { 0 };
            let wide = file.rel.contains("wide-");
            let extra = if wide { row.extra == "a,\"b\"\nc" } else { row.extra.len() == extra_len };
            if row.file != file.rel || !same_job || !extra {
                return Err(format!("a row of {id} is wrong: {} {}", row.file, row.job));
            }
        }
    }
    match facts.rows.iter().find(|row| !story.files.contains_key(&row.id)) {
        Some(row) => Err(format!("a row of nobody: {:?}", row.id)),
        None => Ok(()),
    }
}

impl Facts {
    fn rows_job(&self, id: &str) -> &str {
        self.rows.iter().find(|row| row.id == id).map_or("", |row| row.job.as_str())
    }
}

pub(super) fn errors_once(story: &Story, facts: &Facts) -> Result<(), String> {
    let mut jobs = Vec::new();
    for (id, file) in &story.files {
        let Some((place, path)) = facts.place_of(id) else { continue };
        if records_of(&file.rel) > 0 {
            failed_records_once(story, facts, id, &file.rel)?;
            jobs.push(facts.rows_job(id).to_owned());
            continue;
        }
        if place != "error" {
            continue;
        }
        let Some(why) = facts.sidecars.get(path) else {
            return Err(format!("{path} has no sidecar"));
        };
        let expected = fails_with(&file.rel).unwrap_or_default();
        if why.reason != expected {
            return Err(format!("{path} failed with {:?}", why.reason));
        }
        let rows: Vec<_> = facts.errors.iter().filter(|row| row.job == why.job).collect();
        let once = rows.len() == 1 || !story.edits.is_empty() && !rows.is_empty();
        if !once || rows.iter().any(|row| row.reason != expected) {
            return Err(format!("{path} has {} rows in errors.csv", rows.len()));
        }
        jobs.push(why.job.clone());
    }
    // A recorded file that its producer never synced may be gone with the power; its row stays.
    let is_gone = |job: &str| {
        let known = job.parse().ok().and_then(|job| story.jobs.get(&job));
        known.is_some_and(|id| {
            let careless = story.files.get(id).is_some_and(|file| !file.durable);
            careless && story.cuts > 0 && facts.place_of(id).is_none()
        })
    };
    let odd = |row: &&FoundError| !jobs.contains(&row.job) && !is_gone(&row.job);
    match facts.errors.iter().find(odd) {
        Some(row) => Err(format!("errors.csv speaks of {}, which did not fail", row.job)),
        None => Ok(()),
    }
}

/// The failed records of an input stand once in `errors.csv`, and in one file with their reason.
fn failed_records_once(story: &Story, facts: &Facts, id: &str, rel: &str) -> Result<(), String> {
    let job = facts.rows_job(id);
    let mut content = id.to_owned();
    for no in (1..=records_of(rel)).filter(|no| record_fails(*no)) {
        content.extend(["\n", &no.to_string()]);
        let is_it = |row: &&FoundError| row.job == job && row.record == no.to_string();
        let rows: Vec<_> = facts.errors.iter().filter(is_it).collect();
        let once = rows.len() == 1 || !story.edits.is_empty() && !rows.is_empty();
        if !once || rows.iter().any(|row| row.reason != "exit 65: never") {
            return Err(format!("record {no} of {id} has {} rows in errors.csv", rows.len()));
        }
    }
    let odd = |row: &&FoundError| {
        let no = row.record.parse().unwrap_or(0);
        row.job == job && !(1..=records_of(rel)).any(|known| known == no && record_fails(no))
    };
    if let Some(row) = facts.errors.iter().find(odd) {
        return Err(format!("errors.csv speaks of record {:?} of {id}", row.record));
    }
    let none = Vec::new();
    match facts.failed.get(id).unwrap_or(&none).as_slice() {
        [(path, text)] if text.trim_end() == content => {
            let why = facts.sidecars.get(path).map_or("", |why| why.reason.as_str());
            let expected = why.contains("records failed: ") && why.contains("exit 65: never");
            if expected { Ok(()) } else { Err(format!("{path} has the reason {why:?}")) }
        }
        other => Err(format!("failed records of {id}: {other:?}")),
    }
}

pub(super) fn promises(story: &Story, facts: &Facts) -> Result<(), String> {
    for (id, is_done) in &story.promised {
        let place = facts.place_of(id).map(|(place, _)| place.as_str());
        let kept = match place {
            Some("done" | "taken") => *is_done,
            Some("error") => !*is_done,
            // The file was the producer's to sync.
            None => story.cuts > 0 && story.files.get(id).is_some_and(|file| !file.durable),
            Some(_) => false,
        };
        if !kept {
            return Err(format!("{id} was recorded with done={is_done} and is in {place:?}"));
        }
    }
    Ok(())
}

pub(super) fn one_record(_: &Story, facts: &Facts) -> Result<(), String> {
    let mut files = facts.outcomes.clone();
    files.sort_unstable();
    match files.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the file with inode {} has two outcomes", pair[0].0)),
        None => Ok(()),
    }
}

pub(super) fn budgets(story: &Story, _: &Facts) -> Result<(), String> {
    let (kills, cuts) = (story.kills as usize, story.cuts as usize);
    for (id, file) in &story.files {
        let runs = story.runs.iter().filter(|run| *run == id).count();
        // A death may take all records that run, or that are over and not recorded.
        let deaths = usize::try_from(records_of(&file.rel)).unwrap().max(1);
        let most = (attempts_of(&file.rel) + kills * deaths) * (1 + cuts) + cuts * deaths;
        if runs > most {
            return Err(format!("{id} ran {runs} times; {most} may be"));
        }
    }
    Ok(())
}

pub(super) fn made_files(story: &Story, facts: &Facts) -> Result<(), String> {
    for (id, file) in &story.files {
        let is_there = facts.place_of(id).is_some();
        let expected = usize::from(is_there && file.rel.starts_with("made-"));
        let found = facts.made.get(id).map_or(0, Vec::len);
        if found != expected {
            return Err(format!("{id} has {found} made files, not {expected}"));
        }
    }
    Ok(())
}

pub(super) fn edits(story: &Story, facts: &Facts) -> Result<(), String> {
    for edit in &story.edits {
        // They may edit again what they have edited; nobody else may.
        let theirs = |rest: &[u8]| {
            rest.is_empty() || rest.split_inclusive(|b| *b == b'\n').all(|line| line == BY_HAND)
        };
        if !facts.csvs.iter().any(|csv| csv.strip_prefix(&edit[..]).is_some_and(theirs)) {
            return Err(format!("an edit is gone: {}", edit.escape_ascii()));
        }
    }
    Ok(())
}
