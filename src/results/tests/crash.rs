//! The process or the disk stops at each changing operation.

use super::*;

const ENOSPC: i32 = 28;
const EMFILE: i32 = 24;
const EIO: i32 = 5;

/// Rolls by rows and by columns, seals, and has one job's rows beside the journal.
fn jobs() -> Vec<Vec<Row>> {
    let large = "x".repeat(crate::config::limits::ROWS_IN_LINE + 1);
    vec![
        a(1).to_vec(),
        a(2).to_vec(),
        a(3).to_vec(),
        vec![row(&[("b", "4")])],
        vec![row(&[("a", &large)])],
    ]
}

/// Runs the jobs until an error; how many of them were recorded.
fn run(spool: &mut Spool) -> (usize, Result<(), ResultsError>) {
    spool.segment_rows = 2;
    for (at, rows) in jobs().iter().enumerate() {
        let records = match spool.record(rows) {
            Ok(records) => records,
            Err(PlanError::Io(error)) => return (at, Err(error)),
            Err(error) => panic!("{error}"),
        };
        if let Err(error) = spool.try_apply(&records) {
            return (at + 1, Err(error));
        }
    }
    let seals = spool.results.plan_sealing(NOW_MS);
    spool.journal.extend(seals.clone());
    (jobs().len(), spool.try_apply(&seals))
}

#[track_caller]
fn check_rows(spool: &Spool, recorded: usize, when: &str) {
    let cells: Vec<String> = jobs()
        .iter()
        .take(recorded)
        .map(|rows| String::from_utf8(rows[0].0[0].1.clone()).unwrap())
        .collect();
    let found = spool.cells();
    let mut expected = cells;
    expected.sort();
    assert!(found == expected, "{when}: {:?}", spool.names());
    let only_ours = spool.names().iter().all(|name| name.starts_with("count."));
    assert!(only_ours, "{when}: {:?}", spool.names());
}

/// Goal: wherever the process stops, a start brings each recorded row once, also when that start is
/// itself stopped. Method: fail from operation N on, for every N; then the recovery at every M.
#[test]
fn stopped_at_every_operation() {
    for n in 0.. {
        let mut spool = Spool::new();
        spool.fs.fail_after(n, EIO);
        let (recorded, ended) = run(&mut spool);
        if ended.is_ok() {
            assert!(n > 20, "only {n} operations");
            check_rows(&spool, recorded, "whole");
            return;
        }
        for m in 0.. {
            spool.fs.fail_after(m, EIO);
            if spool.try_restart().is_ok() {
                break;
            }
        }
        spool.restart();
        check_rows(&spool, recorded, &format!("stopped at {n}"));
    }
}

/// Goal: a full disk loses nothing and needs no restart. Method: from operation N on there is no
/// space; then there is; plan or flush again; for every N.
#[test]
fn disk_full_at_every_operation() {
    for n in 0.. {
        let mut spool = Spool::new();
        spool.segment_rows = 2;
        spool.fs.fail_after(n, ENOSPC);
        let mut met = false;
        let mut fatal = false;
        for (at, rows) in jobs().iter().enumerate() {
            let records = spool.record(rows).or_else(|error| match error {
                PlanError::Io(ResultsError::Full { .. }) => {
                    met = true;
                    spool.fs.heal();
                    spool.record(rows)
                }
                other => Err(other),
            });
            // A sync that fails for want of space is a failed sync: no second try.
            let Ok(records) = records else {
                fatal = true;
                spool.restart();
                check_rows(&spool, at, &format!("sync failed at {n}"));
                break;
            };
            match spool.try_apply(&records) {
                Ok(()) => {}
                Err(ResultsError::Full { .. }) => {
                    met = true;
                    spool.fs.heal();
                    // The failed record was taken; what came after it was not applied yet.
                    spool.apply(&records);
                }
                Err(_) => {
                    fatal = true;
                    spool.restart();
                    check_rows(&spool, at + 1, &format!("sync failed at {n}"));
                    break;
                }
            }
        }
        if !fatal {
            check_rows(&spool, jobs().len(), &format!("full at {n}"));
            if !met {
                return;
            }
            spool.fs.heal();
            assert!(spool.restart().is_empty());
            check_rows(&spool, jobs().len(), &format!("full at {n}, restarted"));
        }
    }
}

/// Goal: a CSV that cannot be begun for want of descriptors waits for them, like one on a full disk, and ends
/// nothing. Method: none is left when the first file is made; then there is.
#[test]
fn a_csv_waits_for_descriptors() {
    let mut spool = Spool::new();
    let jobs = jobs();
    let rows = jobs.first().unwrap();
    spool.fs.fail_after(0, EMFILE);
    let error = spool.record(rows).unwrap_err();
    assert!(matches!(error, PlanError::Io(ResultsError::Full { .. })), "{error}");
    spool.fs.heal();
    spool.record(rows).unwrap();
}
