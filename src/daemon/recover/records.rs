//! Steps 1 to 3 of recovery: read all live records, copy them into a new journal segment, write the CSVs.
//!
//! Must not know: what stands in `incoming/`.
//!
//! Invariants
//! - Nothing is written to a CSV before the copy of its record is durable.
//! - The journal keeps the boot id of before a power cut until the next checkpoint.

use std::collections::HashSet;

use super::{Known, Surroundings};
use crate::core::JobId;
use crate::daemon::keeper::KeeperError;
use crate::daemon::keeper::next::take_of;
use crate::fs::Filesystem;
use crate::journal::record::{PieceBytes, Record};
use crate::journal::{Draft, Reader, Stamp, Writer};
use crate::results::{Recovery, Results};
use crate::spool::{Place, Spool};

/// Step 1.
pub(super) fn read_records<F: Filesystem>(
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
pub(super) fn rewrite<F: Filesystem>(
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
