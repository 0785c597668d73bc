//! Random histories against a list.
//!
//! Must not know: files.

use std::fs;

use proptest::prelude::*;
use rustix::io::Errno;

use super::super::*;
use super::any::any_record;
use super::{read, recover, root};
use crate::fs::RealFs;
use crate::fs::faults::{Faults, Op, Then};

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    Commit,
    Rotate(Vec<Record>),
    Drop(u64),
    Spare,
    /// The next operation that takes space fails, once.
    Full,
    /// The daemon dies; what was not committed is garbage.
    Crash(Vec<u8>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let records = || proptest::collection::vec(any_record(), 0..4);
    prop_oneof![
        4 => records().prop_map(Step::Append),
        3 => Just(Step::Commit),
        1 => records().prop_map(Step::Rotate),
        1 => (0u64..9).prop_map(Step::Drop),
        1 => Just(Step::Spare),
        1 => Just(Step::Full),
        1 => proptest::collection::vec(any::<u8>(), 0..30).prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Goal: the journal is the list of what was committed and not dropped. Method: random
    /// histories against a list of (segment, record), with full disks and crashes; read after each
    /// crash and at the end.
    #[test]
    fn any_history_equals_the_model(steps in proptest::collection::vec(any_step(), 1..25)) {
        let (tmp, dir) = root();
        let faults = Faults::new(RealFs);
        let mut writer = recover(&faults, &dir).unwrap();
        let mut model: Vec<(u64, Record)> = Vec::new();
        let mut pending: Vec<Record> = Vec::new();
        for step in steps.into_iter().chain([Step::Crash(vec![0])]) {
            let committed = match step {
                Step::Append(records) => {
                    for record in records {
                        writer.append(&record).unwrap();
                        pending.push(record);
                    }
                    false
                }
                Step::Commit => match writer.commit() {
                    Ok(()) => true,
                    Err(error) => {
                        prop_assert!(matches!(error, CommitError::Full { .. }), "{}", error);
                        false
                    }
                },
                Step::Rotate(snapshot) => {
                    let old = writer.segment();
                    match writer.rotate(&snapshot) {
                        Ok(()) => {
                            // The group may have gone to the spare before.
                            let at = writer.segment() - 1;
                            prop_assert!(at == old || at == old + 1);
                            model.extend(pending.drain(..).map(|record| (at, record)));
                            model.extend(snapshot.into_iter().map(|record| (at + 1, record)));
                            false
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, CommitError::Full { .. }), "{}", error);
                            // Full before the group was written, or after: then it is committed.
                            writer.records_pending() == 0
                        }
                    }
                }
                Step::Drop(below) => {
                    writer.drop_before(below, &[]).unwrap();
                    let below = below.min(writer.segment());
                    model.retain(|(segment, _)| *segment >= below);
                    false
                }
                Step::Spare => {
                    let made = writer.reserve_spare();
                    prop_assert_eq!(made.is_ok(), writer.has_spare());
                    false
                }
                Step::Full => {
                    faults.arm_for(Op::takes_space, 1, Errno::NOSPC, Then::Works);
                    false
                }
                Step::Crash(garbage) => {
                    faults.disarm();
                    let path = tmp.path().join(segment_name(writer.segment()));
                    drop(writer);
                    let mut bytes = fs::read(&path).unwrap();
                    bytes.extend(garbage);
                    fs::write(&path, bytes).unwrap();
                    pending.clear();
                    let expected: Vec<_> = model.iter().map(|(_, record)| record.clone()).collect();
                    prop_assert_eq!(&read(&RealFs, &dir).unwrap().0, &expected);
                    writer = recover(&faults, &dir).unwrap();
                    for (segment, _) in &mut model {
                        *segment = writer.segment();
                    }
                    prop_assert_eq!(&read(&RealFs, &dir).unwrap().0, &expected);
                    false
                }
            };
            if committed {
                model.extend(pending.drain(..).map(|record| (writer.segment(), record)));
            }
            prop_assert_eq!(writer.records_pending(), pending.len());
        }
    }
}
