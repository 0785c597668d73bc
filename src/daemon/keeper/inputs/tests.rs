//! What inputs hold of each other's room.
//!
//! Must not know: what a worker makes of a record.

use super::Output;
use crate::config::{Records, Route, Settings, limits};
use crate::daemon::keeper::Input;
use crate::daemon::keeper::tests::keeper;
use crate::daemon::service::now_ms;

/// Goal: an input whose large records are all held, and may wait for hours, leaves those of another route their
/// slots. Method: records of 1 MiB, as many as are held over all inputs, on a route of one worker; beside it short
/// ones, and two slots for them.
#[test]
fn large_records_leave_room_for_others() {
    let home = tempfile::tempdir().unwrap();
    let of = |name: &str| Route {
        glob: vec![format!("{name}*")],
        records: Some(Records::Lines),
        ..Route::new(name, vec!["true".to_owned()])
    };
    let large = Route { max_workers: Some(1), ..of("a") };
    let settings = Settings { workers: 3, routes: vec![large, of("b")], ..Settings::default() };
    let mut keeper = keeper(home.path(), &settings);
    let line = "x".repeat(usize::try_from(limits::RECORD).unwrap()) + "\n";
    let incoming = home.path().join("incoming");
    std::fs::write(incoming.join("a"), line.repeat(limits::OPEN_RECORD_BYTES / line.len() + 2))
        .unwrap();
    let mut lots = || {
        let mut lots = 0;
        while !keeper.scan(1000, now_ms()).unwrap() {}
        let mut outputs = keeper.take_outputs();
        while let Some(output) = outputs.pop() {
            lots += usize::from(matches!(output, Output::StartRecords(_)));
            if let Output::ReadOn { job } = output {
                keeper.handle(Input::ReadOn { job }, now_ms()).unwrap();
                outputs.extend(keeper.take_outputs());
            }
        }
        lots
    };
    assert_eq!(lots(), 1, "its route has one worker");
    std::fs::write(incoming.join("b"), "1\n2\n3\n4\n").unwrap();
    assert_eq!(lots(), 2);
}
