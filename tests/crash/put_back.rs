//! retry and rerun, ended by a signal or killed at each step of their way.
//!
//! Must not know: in which order they move what belongs together.

use crate::harness::Spool;
use crate::strace::{self, Point};

const SETTINGS: &str = r#"
workers = 2
[routes.pair]
glob = "*.jpg"
with = ["{stem}.xmp"]
command = ["sh", "work.sh"]
[routes.set]
glob = "set-*"
unit = "folder"
done_file = "{name}.ok"
command = ["sh", "work.sh"]
[routes.sent]
glob = "*.dat"
done_file = "{name}.ok"
command = ["sh", "work.sh"]
[routes.plain]
glob = "*.json"
command = ["sh", "work.sh"]
"#;

/// Points tried of one call, unless all are asked for.
const POINTS: usize = 5;

/// What is named, and all that belongs to it.
const JOBS: [(&str, &[&str]); 4] = [
    ("sub/x.jpg", &["sub/x.jpg", "sub/x.xmp"]),
    ("set-1", &["set-1/f", "set-1.ok"]),
    ("s.dat", &["s.dat", "s.dat.ok"]),
    ("p.json", &["p.json"]),
];

/// Jobs that are done or have failed.
fn prepared(command: &str) -> Spool {
    let spool = Spool::new(SETTINGS);
    spool.write("work.sh", if command == "retry" { "exit 65\n" } else { "" });
    spool.run(&["batch"]).ok();
    for name in JOBS.iter().flat_map(|(_, all)| all.iter()) {
        spool.write(&format!("incoming/{name}"), name);
    }
    let ended = spool.run(&["batch"]);
    assert_eq!(ended.status.code(), Some(if command == "retry" { 3 } else { 0 }), "{ended}");
    spool.write("work.sh", "");
    spool
}

/// Does this at each point of each command's way. The rest of its arguments: what is named, and its parts.
fn at_each_point(what: &str, judge: impl Fn(&Spool, &str, &str, &[&str]) + Sync) {
    for command in ["retry", "rerun"] {
        for (name, all) in JOBS {
            let args = [command, name];
            let counts = strace::count_of(&prepared(command), &args);
            for call in ["renameat2", "fsync"] {
                let most = counts.most.get(call).copied().unwrap_or_default();
                assert!(most > 0, "{command} makes no {call}");
                let points = (1..=most).map(|n| Point { call, n }).collect();
                let points = strace::sample(points, POINTS);
                strace::for_each(&points, |point| {
                    let spool = prepared(command);
                    strace::signal_at(&spool, &args, point, what);
                    judge(&spool, command, name, all);
                });
            }
        }
    }
}

fn has_all(spool: &Spool, tree: &str, all: &[&str]) -> bool {
    all.iter().all(|name| spool.has(&format!("{tree}/{name}")))
}

/// Goal: who ends a retry or a rerun (Ctrl-C) leaves nothing half moved. Method: SIGINT at each of its calls that
/// moves or syncs, for a file alone, and for what belongs together.
#[test]
fn a_signal_cuts_nothing_in_two() {
    if !strace::is_there() {
        return;
    }
    at_each_point("INT", |spool, command, name, all| {
        let from = if command == "retry" { "error" } else { "done" };
        let stays = has_all(spool, from, all);
        assert!(stays != has_all(spool, "incoming", all), "{command} {name}: {}", spool.report());
        let has_reason = spool.has(&format!("error/.why/{name}.json"));
        assert_eq!(has_reason, stays && from == "error", "{command} {name}: {}", spool.report());
    });
}

/// Goal: what was killed half way is brought to its end by the same command: nothing waits for ever for what was
/// left behind, and nothing is lost. Method: SIGKILL at each such call; the command once more, and a batch.
#[test]
fn what_was_killed_half_way_goes_on() {
    if !strace::is_there() {
        return;
    }
    at_each_point("KILL", |spool, command, name, all| {
        // Where it had come to its end, there is nothing left to do.
        let again = spool.run(&[command, name]);
        spool.run(&["batch"]).ok();
        assert!(has_all(spool, "done", all), "{command} {name}: {again}");
        assert_eq!(spool.names("incoming"), Vec::<String>::new(), "{command} {name}: {again}");
    });
}
