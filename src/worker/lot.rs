//! A lot: records of one input that a slot runs one after the other, each told as it ends.
//!
//! Must not know: who chose them, what becomes of their rows.
//!
//! Invariants
//! - Each record of a lot has exactly one end, in order; the last one says so.
//! - Once the route cannot run its worker, or we are stopped, the rest comes back as it was.
//! - A record's scratch folder is empty when it begins, and its own. It is the slot's, below the attempt's, and is
//!   used again: a folder for each of a million records would cost more than most of them. What an earlier
//!   record's worker did to it (protected it, mounted something there) is no later record's fault.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::records::Lot;
use super::slot::Slot;
use super::{Ended, Stop, Task};
use crate::core::{FailClass, Failure, Verdict};
use crate::fs::{Filesystem, RealFs, is_in_use, remove_tree};

/// Runs all records of a lot, blocking. `report` gets number, end, and whether it was the last.
pub fn run(
    slot: &mut Slot,
    mut task: Task,
    lot: &Lot,
    number: usize,
    stop: &Stop,
    report: &mut dyn FnMut(u64, Ended, bool),
) {
    let base = task.scratch.join(number.to_string());
    let count = lot.records.len();
    let mut is_over = false;
    for (at, (attempt, raw)) in lot.records.iter().enumerate() {
        task.attempt = *attempt;
        let ended = if is_over || stop.is_stopped() {
            Ended::without_rows(Verdict::Released)
        } else {
            match lot.format.read(raw) {
                Err(why) => {
                    Ended::without_rows(Verdict::Failed(Failure::new(FailClass::Permanent, why)))
                }
                Ok(record) => match empty_one(&base) {
                    Err(error) => {
                        let why = format!("cannot make its scratch folder: {error}");
                        Ended::without_rows(Verdict::Failed(Failure::new(FailClass::TryAgain, why)))
                    }
                    Ok(folder) => {
                        (task.scratch, task.record) = (folder, Some(record));
                        slot.run(&task, stop)
                    }
                },
            }
        };
        is_over = is_over || matches!(ended.verdict, Verdict::Misconfigured { .. });
        report(raw.no, ended, at + 1 == count);
    }
}

/// Folders tried besides the first, where something is mounted in all before.
const OTHERS: usize = 100;

/// The folder of this name, or one beside it, that stands there and is empty.
fn empty_one(base: &Path) -> io::Result<PathBuf> {
    let mut folder = base.to_owned();
    for other in 1..=OTHERS {
        match make_empty(&folder) {
            Err(error) if is_in_use(&error) => drop(folder.set_extension(other.to_string())),
            made => return made.map(|()| folder),
        }
    }
    make_empty(&folder).map(|()| folder)
}

/// The folder stands there, is empty, and its owner may do anything in it.
pub(super) fn make_empty(folder: &Path) -> io::Result<()> {
    if is_usable(folder) {
        return Ok(());
    }
    if let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) {
        if let (Some(above), Some(its_name)) = (parent.parent(), parent.file_name()) {
            // The worker may have protected that, too. Where it is another's, what follows says so.
            drop(RealFs.open_up(&RealFs.open_root(above)?, Path::new(its_name)));
        }
        remove_tree(&RealFs, &RealFs.open_root(parent)?, Path::new(name))?;
    }
    std::fs::create_dir(folder)
}

fn is_usable(folder: &Path) -> bool {
    let own = |mode: u32| mode & 0o700 == 0o700;
    let is_own = folder.symlink_metadata().is_ok_and(|it| it.is_dir() && own(it.mode()));
    is_own && std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Records, StdoutFormat};
    use crate::core::{JobId, RelPath, Row};
    use crate::worker::http::HttpPool;
    use crate::worker::records::{RawRecord, RecordFormat};
    use crate::worker::tests::route;
    use crate::worker::warm::WarmPool;

    /// Runs these lines with a script; number, end and last of each.
    fn lines(script: &str, lines: &[&str]) -> Vec<(u64, Ended, bool)> {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::write(at("work.sh"), script).unwrap();
        std::fs::create_dir(at("scratch")).unwrap();
        let mut route = route(&["sh", "work.sh"]);
        (route.stdout, route.records) = (StdoutFormat::Text, Some(Records::Lines));
        let task = Task {
            job: JobId::next(JobId::MIN, 1, [7; 10]),
            attempt: 0,
            route: Arc::new(route),
            rel: RelPath::new("ids").unwrap(),
            spool: home.path().to_owned(),
            path: at("ids"),
            scratch: at("scratch"),
            output: None,
            record: None,
        };
        let records = lines.iter().zip(1..).map(|(line, no)| {
            (1, Arc::new(RawRecord { no, line: no, bytes: Ok(line.as_bytes().to_vec()) }))
        });
        let format = RecordFormat { records: Records::Lines, columns: Vec::new() };
        let lot = Lot { format: Arc::new(format), records: records.collect() };
        let stop = Stop::new().unwrap();
        let mut slot = Slot::new(WarmPool::new(&stop), HttpPool::new(&stop));
        let mut ends = Vec::new();
        run(&mut slot, task, &lot, 3, &stop, &mut |no, ended, is_last| {
            ends.push((no, ended, is_last));
        });
        ends
    }

    /// Goal: each record has its end, in order, and none sees what another left. Method: a script that
    /// fails if its scratch is not empty, leaves a folder there, and fails on one line.
    #[test]
    fn each_record_has_its_end() {
        let script = "cd \"$INBOXD_SCRATCH\" && test -z \"$(ls)\" && mkdir -p a/b &&
            test \"$INBOXD_RECORD\" != bad && echo \"$INBOXD_RECORD_NO$INBOXD_RECORD\"";
        let ends = lines(script, &["x", "bad", "y"]);
        let told: Vec<_> = ends.iter().map(|(no, _, is_last)| (*no, *is_last)).collect();
        assert_eq!(told, [(1, false), (2, false), (3, true)]);
        let rows: Vec<_> = ends.iter().map(|(_, ended, _)| ended.rows.clone()).collect();
        let row = |text: &str| vec![Row::from_pairs([("text", text)])];
        assert_eq!(rows, [row("1x"), Vec::new(), row("3y")]);
        assert!(matches!(ends[1].1.verdict, Verdict::Failed(_)));
    }

    /// Goal: a worker that puts something else in place of its scratch folder costs the records after it nothing.
    /// Method: a file, and a link that leads nowhere.
    #[test]
    fn a_scratch_folder_is_made_again() {
        let script = "test -d \"$INBOXD_SCRATCH\" && rmdir \"$INBOXD_SCRATCH\" && \
                      if [ \"$INBOXD_RECORD\" = x ]; then : >\"$INBOXD_SCRATCH\"; \
                      else ln -s none \"$INBOXD_SCRATCH\"; fi";
        let ends = lines(script, &["x", "y", "z"]);
        let verdicts: Vec<_> = ends.iter().map(|(_, ended, _)| ended.verdict.clone()).collect();
        assert_eq!(verdicts, [Verdict::Done, Verdict::Done, Verdict::Done]);
    }

    /// Goal: a route that cannot run its worker costs the rest of a lot nothing. Method: exit 127.
    #[test]
    fn the_rest_of_a_lot_comes_back() {
        let ends = lines("exit 127", &["x", "y"]);
        assert!(matches!(ends[0].1.verdict, Verdict::Misconfigured { .. }));
        assert_eq!(ends[1].1.verdict, Verdict::Released);
        assert!(ends[1].2);
    }
}
