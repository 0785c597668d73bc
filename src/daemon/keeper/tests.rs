//! What the keeper makes of time without waiting for it: the clock is passed in.

use std::path::Path;

use rustix::io::Errno;

use super::{Input, Keeper, Output, ScanCounts, Shortage};
use crate::config::companions::Companion;
use crate::config::{Route, Settings};
use crate::core::JobId;
use crate::core::pace::Rate;
use crate::core::state::Millis;
use crate::daemon::notice::Notice;
use crate::daemon::recover::{Surroundings, recover};
use crate::daemon::service::now_ms;
use crate::fs::faults::{Faults, Op, Then};
use crate::fs::{Filesystem, RealFs};
use crate::spool::{Place, Spool};

/// A keeper of a new spool with these settings.
pub(in crate::daemon) fn keeper(home: &Path, settings: &Settings) -> Keeper<RealFs> {
    keeper_on(RealFs, home, settings)
}

fn keeper_on<F>(fs: F, home: &Path, settings: &Settings) -> Keeper<F>
where
    F: Filesystem<Dir = <RealFs as Filesystem>::Dir>,
{
    crate::spool::layout::make(home).unwrap();
    let root = RealFs.open_root(home).unwrap();
    let around = Surroundings {
        path: home.to_owned(),
        boot: "boot".to_owned(),
        now: now_ms(),
        random: || [7; 10],
    };
    recover(Spool::open(fs, root).unwrap(), settings, &around).unwrap().0
}

pub(in crate::daemon) fn settings() -> Settings {
    let route = Route::new("main", vec!["true".to_owned()]);
    Settings { workers: 1, routes: vec![route], ..Settings::default() }
}

/// What a scan counts of these names that came just now, and an hour later.
fn counted(settings: &Settings, names: &[&str]) -> [ScanCounts; 2] {
    let home = tempfile::tempdir().unwrap();
    let mut keeper = keeper(home.path(), settings);
    for name in names {
        std::fs::write(home.path().join("incoming").join(name), "").unwrap();
    }
    keeper.handle(Input::Claims { allowed: false }, now_ms()).unwrap();
    [0, 3_600_000].map(|later| {
        while !keeper.scan(1000, now_ms() + later).unwrap() {}
        keeper.seen().clone()
    })
}

/// Goal: a sentinel that announces nothing is told of, once its file has had its time to come.
/// Method: one alone, one with its file; seen at once, and an hour later.
#[test]
fn a_lone_sentinel_is_told_of() {
    let mut settings = settings();
    settings.routes[0].done_file = Some("{name}.ok".to_owned());
    let [before, after] = counted(&settings, &["alone.ok", "x", "x.ok"]);
    assert_eq!(before.lone_sentinels, 0, "it may still come");
    assert_eq!(after.lone_sentinels, 1);
    assert_eq!(after.lone_example.unwrap().to_string(), "alone.ok");
}

/// Goal: the same for a companion, whose file may have any extension. Method: one alone, one with its file.
#[test]
fn a_lone_companion_is_told_of() {
    let mut settings = settings();
    settings.routes[0].glob = vec!["*.jpg".to_owned(), "*.tif".to_owned()];
    settings.routes[0].with = vec![Companion::parse("{stem}.xmp").unwrap()];
    let names = ["alone.xmp", "alone.doc", "x.tif", "x.xmp"];
    let [before, after] = counted(&settings, &names);
    assert_eq!(before.lone_sentinels, 0, "it may still come");
    assert_eq!((after.lone_sentinels, after.unrouted), (1, 1));
    assert_eq!(after.lone_example.unwrap().to_string(), "alone.xmp");
}

/// Goal: `prune` removes folders that are empty and have been left alone, and nothing else; without it
/// all of them stay. Method: an empty tree, one with a file that no route takes, hidden ones; at once, an
/// hour later without `prune`, and with it until nothing changes.
#[test]
fn only_old_empty_folders_are_pruned() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.routes[0].glob = vec!["*.json".to_owned()];
    let mut keeper = keeper(home.path(), &settings);
    let incoming = home.path().join("incoming");
    for folder in ["empty/a/b", "full/a", ".hidden/a"] {
        std::fs::create_dir_all(incoming.join(folder)).unwrap();
    }
    std::fs::write(incoming.join("full/a/x.txt"), "").unwrap();
    std::os::unix::fs::symlink("full", incoming.join("link")).unwrap();
    let mut pass = |prunes: bool, later: u64| {
        keeper.set_prunes(prunes);
        while !keeper.scan(1000, now_ms() + later).unwrap() {}
    };
    pass(true, 0);
    pass(false, 3_600_000);
    assert!(incoming.join("empty/a/b").is_dir());
    for _ in 0..3 {
        // Removing one changes the one above, which then is young again: so each pass is later.
        pass(true, 3_600_000);
    }
    assert!(!incoming.join("empty").exists());
    assert!(incoming.join("full/a/x.txt").exists() && incoming.join("link").is_symlink());
    assert!(incoming.join(".hidden/a").is_dir(), "what is ignored is not looked into");
}

/// Goal: an attempt that could not begin costs nothing if the daemon dies before it does. Method: no room
/// for its scratch folder, once; what `processing/` is called then, and after the next try.
#[test]
fn a_refused_start_is_no_attempt() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings());
    std::fs::write(home.path().join("incoming/x"), "").unwrap();
    let begun = || {
        let names = std::fs::read_dir(home.path().join("processing")).unwrap();
        let mut places = names.filter_map(|name| Place::parse(&name.unwrap().file_name()));
        places.find_map(|it| if let Place::Job(it) = it { Some(it.begun) } else { None })
    };
    // The first folder made is the job's own.
    fs.arm_for(|op| op == Op::MakeDir, 2, Errno::NOSPC, Then::Works);
    let now = now_ms();
    while !keeper.scan(1000, now).unwrap() {}
    assert_eq!((fs.failed(), begun()), (1, Some(0)));
    keeper.tick(now + 2_000).unwrap();
    assert_eq!(begun(), Some(1));
}

/// Goal: space that is enough for what was under way opens no claims below the space that is to stay free.
/// Method: no room for the folder of a claim, once; claims are forbidden before there is room again, and
/// allowed at last.
#[test]
fn room_for_what_was_under_way_allows_no_claims() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let settings = Settings { workers: 2, ..settings() };
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings);
    let incoming = home.path().join("incoming");
    std::fs::write(incoming.join("x"), "").unwrap();
    fs.arm_for(|op| op == Op::MakeDir, 1, Errno::NOSPC, Then::Works);
    let now = now_ms();
    while !keeper.scan(1000, now).unwrap() {}
    assert_eq!(keeper.short_of(), Some(Shortage::Disk));
    keeper.handle(Input::Claims { allowed: false }, now).unwrap();
    std::fs::write(incoming.join("y"), "").unwrap();
    let now = now + 2_000;
    keeper.tick(now).unwrap();
    assert_eq!(keeper.short_of(), None);
    while !keeper.scan(1000, now).unwrap() {}
    assert!(incoming.join("y").exists(), "claimed though it was forbidden");
    keeper.handle(Input::Claims { allowed: true }, now).unwrap();
    while !keeper.scan(1000, now).unwrap() {}
    assert!(!incoming.join("y").exists());
}

/// Goal: what comes and goes at the edge of a full disk is said once, and its end once it lasts. Method: no
/// room for a folder, three times, with room between; what is said meanwhile, and after five seconds of room.
#[test]
fn a_shortage_that_comes_and_goes_is_said_once() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let settings = Settings { workers: 9, ..settings() };
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings);
    let mut said = Vec::new();
    let mut hear = |keeper: &mut Keeper<Faults<RealFs>>| {
        said.extend(keeper.take_outputs().into_iter().filter_map(|output| match output {
            Output::Notice(Notice::Short(_)) => Some("short"),
            Output::Notice(Notice::HasRoom(_)) => Some("room"),
            _ => None,
        }));
        said.clone()
    };
    let now = now_ms();
    for round in 0..3 {
        let now = now + round * 2_000;
        std::fs::write(home.path().join(format!("incoming/{round}")), "").unwrap();
        fs.arm_for(|op| op == Op::MakeDir, 1, Errno::NOSPC, Then::Works);
        while !keeper.scan(1000, now).unwrap() {}
        keeper.tick(now + 1_000).unwrap();
    }
    assert_eq!(fs.failed(), 3, "it was not short three times");
    assert_eq!(hear(&mut keeper), ["short"]);
    for (later, wanted) in [(9_000, ["short"].as_slice()), (10_100, &["short", "room"])] {
        keeper.tick(now + later).unwrap();
        assert_eq!(hear(&mut keeper), wanted);
    }
}

/// Goal: who waits for descriptors does not keep some that it can do without. Method: the job folders that are
/// open before and after there are too few for one more job.
#[test]
fn too_few_descriptors_close_what_is_only_kept() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let settings = Settings { workers: 2, ..settings() };
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings);
    let processing = home.path().canonicalize().unwrap().join("processing");
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let places = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        places.filter(|it| it.starts_with(&processing) && *it != processing).count()
    };
    let now = now_ms();
    std::fs::write(home.path().join("incoming/x"), "").unwrap();
    while !keeper.scan(1000, now).unwrap() {}
    assert_eq!(open(), 1);
    std::fs::write(home.path().join("incoming/y"), "").unwrap();
    fs.arm_for(|op| op == Op::MakeDir, 1, Errno::MFILE, Then::Works);
    while !keeper.scan(1000, now).unwrap() {}
    assert_eq!((keeper.short_of(), open()), (Some(Shortage::Files), 0));
}

/// Goal: what cannot begin on a full disk is not told of at every try, every second. Method: no room for the
/// scratch folder, ever; what is said in five seconds.
#[test]
fn a_start_refused_by_a_full_disk_is_told_once() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings());
    std::fs::write(home.path().join("incoming/x"), "").unwrap();
    fs.arm_for(|op| op == Op::MakeDir, 2, Errno::NOSPC, Then::Always);
    let now = now_ms();
    while !keeper.scan(1000, now).unwrap() {}
    for second in 1..=5 {
        keeper.tick(now + second * 1_000).unwrap();
    }
    assert!(fs.failed() > 3, "it was not tried again");
    let said = keeper.take_outputs().into_iter();
    let said = said.filter(|it| matches!(it, Output::Notice(Notice::StartRefused { .. })));
    assert_eq!(said.count(), 1);
}

/// Goal: a job that fails although its worker succeeded is recorded once, whatever becomes of the files it made:
/// no line of `errors.csv` is given away twice, which no start could read. Method: a row in a column that the
/// route does not have; its made file cannot be removed for want of memory.
#[test]
fn made_files_that_stay_defer_no_outcome() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let mut settings = settings();
    settings.routes[0].output = true;
    settings.routes[0].columns = Some(vec!["a".to_owned()]);
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings);
    let now = now_ms();
    for name in ["x", "y"] {
        std::fs::write(home.path().join("incoming").join(name), "").unwrap();
        while !keeper.scan(1000, now).unwrap() {}
        let task = keeper.take_outputs().into_iter().find_map(|output| match output {
            Output::Start(task) => Some(task),
            _ => None,
        });
        let task = task.unwrap();
        std::fs::write(task.output.unwrap().join("made"), "").unwrap();
        let mut ended = crate::worker::Ended::without_rows(crate::core::Verdict::Done);
        ended.rows = vec![crate::core::Row(vec![("b".to_owned(), b"1".to_vec())])];
        fs.arm_for(|op| op == Op::RemoveFile, 1, Errno::NOMEM, Then::Works);
        keeper.handle(Input::Ended { job: task.job, ended }, now).unwrap();
        assert_eq!(fs.failed(), 1 + u64::from(name == "y"));
        keeper.tick(now + 2_000).unwrap();
        keeper.commit(now + 2_000).unwrap();
        assert!(home.path().join("error").join(name).exists());
    }
    let errors = std::fs::read_to_string(home.path().join("results/errors.csv")).unwrap();
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

/// A file is dropped and its attempt begins.
fn start_one<F: Filesystem>(keeper: &mut Keeper<F>, home: &Path, now: Millis) -> JobId {
    std::fs::write(home.join("incoming/x"), "").unwrap();
    while !keeper.scan(1000, now).unwrap() {}
    let job = keeper.take_outputs().into_iter().find_map(|output| match output {
        Output::Start(task) => Some(task.job),
        _ => None,
    });
    job.unwrap()
}

/// Goal: a job whose rows fit no column fails, also where there is no room for its line of `errors.csv` at first.
/// Method: a row in a column that the route does not have; the file of that CSV cannot be made at once.
#[test]
fn rows_that_do_not_fit_are_not_forgotten_on_a_full_disk() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let mut settings = settings();
    settings.routes[0].columns = Some(vec!["a".to_owned()]);
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings);
    let now = now_ms();
    let job = start_one(&mut keeper, home.path(), now);
    let mut ended = crate::worker::Ended::without_rows(crate::core::Verdict::Done);
    ended.rows = vec![crate::core::Row(vec![("b".to_owned(), b"1".to_vec())])];
    fs.arm_for(|op| op == Op::Create, 1, Errno::NOSPC, Then::Works);
    keeper.handle(Input::Ended { job, ended }, now).unwrap();
    assert_eq!((fs.failed(), keeper.short_of()), (1, Some(Shortage::Disk)));
    keeper.tick(now + 2_000).unwrap();
    keeper.commit(now + 2_000).unwrap();
    assert!(home.path().join("error/x").exists());
}

/// Goal: nothing starts once it is to end, neither what was compared meanwhile. Method: a file like the last one of
/// its name, that turns out to be another after the word to end.
#[test]
fn what_was_compared_does_not_start_in_a_drain() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.routes[0].on_repeat = crate::config::OnRepeat::Skip;
    let mut keeper = keeper(home.path(), &settings);
    for name in ["done/x", "incoming/x"] {
        std::fs::write(home.path().join(name), name.len().to_string()).unwrap();
        let file = std::fs::File::options().write(true).open(home.path().join(name)).unwrap();
        file.set_len(1).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let now = now_ms();
    while !keeper.scan(1000, now).unwrap() {}
    let task = keeper.take_outputs().into_iter().find_map(|output| match output {
        Output::Compare(task) => Some(task),
        _ => None,
    });
    keeper.handle(Input::Drain, now).unwrap();
    keeper.handle(Input::Compared { task: task.unwrap(), is_same: false }, now).unwrap();
    assert!(keeper.take_outputs().iter().all(|output| !matches!(output, Output::Start(_))));
    assert!(keeper.is_still());
    let names = std::fs::read_dir(home.path().join("processing")).unwrap();
    let mut places = names.filter_map(|name| Place::parse(&name.unwrap().file_name()));
    assert!(places.any(|place| matches!(place, Place::Job(claimed) if claimed.begun == 0)));
}

/// Goal: rows that do not fit the disk leave what there is to the others. Method: more rows than a line of the
/// journal takes, whose file can be written in part only; then there is room.
#[test]
fn half_a_file_of_rows_does_not_fill_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings());
    let now = now_ms();
    let job = start_one(&mut keeper, home.path(), now);
    let mut ended = crate::worker::Ended::without_rows(crate::core::Verdict::Done);
    ended.rows = vec![crate::core::Row(vec![("a".to_owned(), vec![b'x'; 2 << 20])])];
    let has_rows = || {
        let mut all = std::fs::read_dir(home.path().join("journal")).unwrap();
        all.any(|it| it.unwrap().path().extension() == Some("rows".as_ref()))
    };
    fs.arm_for(|op| op == Op::WriteAt, 1, Errno::NOSPC, Then::Works);
    keeper.handle(Input::Ended { job, ended }, now).unwrap();
    assert_eq!((fs.failed(), has_rows()), (1, false));
    keeper.tick(now + 2_000).unwrap();
    assert!(has_rows());
    keeper.commit(now + 2_000).unwrap();
    assert!(home.path().join("done/x").exists());
}

/// Goal: too little of something while old journal segments are removed ends nothing; they go later. Method: each
/// call of it that may fail so, failed; what is left after it, and a second later.
#[test]
fn journal_segments_that_stay_go_later() {
    let calls: [fn(Op) -> bool; 2] = [|op| op == Op::List, |op| op == Op::RemoveFile];
    for call in calls {
        let home = tempfile::tempdir().unwrap();
        let fs = Faults::new(RealFs);
        let mut keeper = keeper_on(fs.clone(), home.path(), &settings());
        let now = now_ms();
        let segments = || {
            let all = std::fs::read_dir(home.path().join("journal")).unwrap();
            all.filter(|it| it.as_ref().unwrap().path().extension() == Some("log".as_ref())).count()
        };
        keeper.checkpoint(now).unwrap();
        let before = keeper.take_outputs().into_iter().find_map(|output| match output {
            Output::Sync { before } => Some(before),
            _ => None,
        });
        fs.arm_for(call, 1, Errno::NOSPC, Then::Works);
        keeper.handle(Input::Synced { before: before.unwrap() }, now).unwrap();
        assert_eq!((fs.failed(), segments(), keeper.checkpointed_ms()), (1, 2, None));
        keeper.tick(now + 1_000).unwrap();
        assert_eq!((segments(), keeper.checkpointed_ms()), (1, Some(now)));
    }
}

/// Goal: who removes several CSVs, as to make room, loses no row, and the daemon goes on. Method: two are removed
/// after a row each, which a further row of each finds; there is room for a new file of the first, not yet of the
/// second.
#[test]
fn room_for_one_of_two_new_csvs_is_enough_to_go_on() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let route = |name: &str| {
        let route = Route::new(name, vec!["true".to_owned()]);
        Route { glob: vec![format!("{name}*")], trace_columns: false, ..route }
    };
    let routes = vec![route("a"), route("b")];
    let settings = Settings { workers: 2, routes, ..Settings::default() };
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings);
    let now = now_ms();
    let run = |keeper: &mut Keeper<Faults<RealFs>>, row: &str| {
        for route in ["a", "b"] {
            std::fs::write(home.path().join(format!("incoming/{route}{row}")), "").unwrap();
        }
        while !keeper.scan(1000, now).unwrap() {}
        for output in keeper.take_outputs() {
            let Output::Start(task) = output else { continue };
            let mut ended = crate::worker::Ended::without_rows(crate::core::Verdict::Done);
            ended.rows = vec![crate::core::Row(vec![("n".to_owned(), row.into())])];
            keeper.handle(Input::Ended { job: task.job, ended }, now).unwrap();
        }
    };
    run(&mut keeper, "1");
    keeper.commit(now).unwrap();
    let results = RealFs.open_root(&home.path().join("results")).unwrap();
    for name in ["a.csv", "b.csv"] {
        RealFs.remove_file(&results, Path::new(name)).unwrap();
    }
    run(&mut keeper, "2");
    fs.arm_for(|op| op == Op::Create, 2, Errno::NOSPC, Then::Works);
    for second in 0..9 {
        keeper.tick(now + second * 1_000).unwrap();
        keeper.commit(now + second * 1_000).unwrap();
    }
    assert!(fs.failed() == 1 && keeper.is_settled());
    run(&mut keeper, "3");
    keeper.commit(now + 9_000).unwrap();
    for name in ["a.csv", "b.csv"] {
        let rows = std::fs::read_to_string(home.path().join("results").join(name)).unwrap();
        assert_eq!(rows, "n\n2\n3\n", "{name}");
    }
}

/// The tasks that the keeper has started since it was asked last.
fn started<F: Filesystem>(keeper: &mut Keeper<F>) -> Vec<crate::worker::Task> {
    let start = |output| match output {
        Output::Start(task) => Some(task),
        _ => None,
    };
    keeper.take_outputs().into_iter().filter_map(start).collect()
}

/// Goal: an attempt that is taken back on a full disk ends nothing and costs nothing: its name says so once there
/// is room, before a drain is over; and where it begins again before that, it has its name already. Method: no
/// room for that rename, once in a drain, and for ever where the job may start again at once.
#[test]
fn an_attempt_is_taken_back_once_there_is_room() {
    for drains in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let fs = Faults::new(RealFs);
        let mut keeper = keeper_on(fs.clone(), home.path(), &settings());
        std::fs::write(home.path().join("incoming/x"), "").unwrap();
        let now = now_ms();
        while !keeper.scan(1000, now).unwrap() {}
        let [task] = started(&mut keeper).try_into().unwrap();
        if drains {
            keeper.handle(Input::Drain, now).unwrap();
        }
        let then = if drains { Then::Works } else { Then::Always };
        fs.arm_for(|op| op == Op::Rename, 1, Errno::NOSPC, then);
        let ended = crate::worker::Ended::without_rows(crate::core::Verdict::Released);
        keeper.handle(Input::Ended { job: task.job, ended }, now).unwrap();
        assert!(fs.failed() == 1 && keeper.short_of() == Some(Shortage::Disk));
        let place = |begun| Place::Job(crate::spool::Claimed::file(task.job, begun)).name();
        let has = |begun| home.path().join("processing").join(place(begun)).join("x").exists();
        assert!(has(1) && !keeper.is_still());
        if drains {
            keeper.tick(now + 1_000).unwrap();
            assert!(has(0) && keeper.is_still());
            continue;
        }
        let [again] = started(&mut keeper).try_into().unwrap();
        assert_eq!((again.job, again.attempt, again.path == task.path), (task.job, 1, true));
        keeper.tick(now + 1_000).unwrap();
        assert!(has(1) && keeper.short_of().is_none(), "taken back while it runs");
    }
}

/// Goal: failed records of a large input that do not fit a full disk are not put together anew each second. Method:
/// three tries that meet a full disk; in which seconds the next one comes, and with the clock set back.
#[test]
fn large_failed_records_wait_longer_each_time() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.routes[0].records = Some(crate::config::Records::Lines);
    let mut keeper = keeper(home.path(), &settings);
    std::fs::write(home.path().join("incoming/x"), "1\n").unwrap();
    let mut now = now_ms();
    while !keeper.scan(1000, now).unwrap() {}
    let job = *keeper.jobs.keys().next().unwrap();
    keeper.inputs.get_mut(&job).unwrap().mark.size = 1 << 30;
    let mut waits = Vec::new();
    let tries = |keeper: &mut Keeper<RealFs>, now| {
        keeper.tick(now).unwrap();
        keeper.take_outputs().iter().any(|output| matches!(output, Output::Collect(_)))
    };
    for _ in 0..3 {
        let result = Err(super::inputs::CollectError::Io(Errno::NOSPC.into()));
        keeper.handle(Input::Collected { job, result }, now).unwrap();
        waits.push((1..60).find(|second| tries(&mut keeper, now + second * 1_000)).unwrap());
        now += 60_000;
    }
    assert_eq!(waits, [1, 2, 4]);
    let result = Err(super::inputs::CollectError::Io(Errno::NOSPC.into()));
    keeper.handle(Input::Collected { job, result }, now).unwrap();
    assert!(!tries(&mut keeper, now) && tries(&mut keeper, now - 3_600_000));
}

/// What became of a copy that was handed in: taken, or why not.
fn answers<F: Filesystem>(keeper: &mut Keeper<F>) -> Vec<Result<JobId, String>> {
    let answer = |output| match output {
        Output::Notice(Notice::Taken { job }) => Some(Ok(job)),
        Output::Notice(Notice::TakeRefused { reason, .. }) => Some(Err(reason)),
        _ => None,
    };
    keeper.take_outputs().into_iter().filter_map(answer).collect()
}

/// Goal: what becomes of one copy ends no daemon, whose ever it is. Method: a source of `batch` without its copy; one
/// whose copy goes while its line is being written; and one that no route takes, whose copy cannot be removed.
#[test]
fn a_copy_that_is_gone_or_stays_ends_nothing() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let mut settings = settings();
    settings.routes[0].glob = vec!["x*".to_owned()];
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings);
    let now = now_ms();
    let stage = |keeper: &mut Keeper<Faults<RealFs>>, name: &str, has_copy: bool| {
        let (job, rel) = (keeper.next_id(now), crate::core::RelPath::new(name).unwrap());
        let shape = crate::spool::Shape::File;
        let folder = home.path().join("processing").join(Place::Staging(job, shape).name());
        if has_copy {
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join(name), "").unwrap();
        }
        let source = Some(crate::journal::record::SourceKey([7; 16]));
        let staged = super::Staged { job, rel, shape, source };
        keeper.handle(Input::Staged(staged), now).unwrap();
        folder
    };
    let gone = "there is no copy of x in processing/";
    stage(&mut keeper, "x", false);
    assert_eq!(answers(&mut keeper), [Err(gone.to_owned())]);

    let folder = stage(&mut keeper, "x", true);
    rustix::fs::rename(folder, home.path().join("away")).unwrap();
    keeper.commit(now).unwrap();
    assert_eq!(answers(&mut keeper), [Err(gone.to_owned())]);
    assert!(keeper.is_still() && keeper.counts().ready == 0);

    fs.arm_for(|op| op == Op::OpenDir, 1, Errno::MFILE, Then::Works);
    let folder = stage(&mut keeper, "other", true);
    let answers = answers(&mut keeper);
    let [Err(reason)] = answers.as_slice() else { panic!("{answers:?}") };
    assert!(reason.starts_with("no route takes other (its copy stays"), "{reason}");
    assert!(fs.failed() == 1 && folder.exists());
}

/// Goal: a file that is recorded and came back by a power cut is settled, and does not run, also where the disk is full
/// then. Method: such a file that the scan meets; no room for its last move, once.
#[test]
fn a_file_that_came_back_is_settled_once_there_is_room() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let mut keeper = keeper_on(fs.clone(), home.path(), &settings());
    let file = home.path().join("incoming/x");
    std::fs::write(&file, "").unwrap();
    let incoming = &keeper.spool.incoming;
    let stat = keeper.spool.fs.stat(incoming, Path::new("x")).unwrap();
    let outcome = serde_json::from_value(serde_json::json!({
        "job": JobId::next(JobId::MIN, 7, [3; 10]), "rel": "x", "route": "main", "attempts": 1,
        "at_ms": 1, "took_ms": 4, "file": { "ino": stat.ino, "btime_ns": stat.btime_ns,
            "before_ns": stat.ctime_ns, "after_ns": stat.ctime_ns },
    }));
    keeper.reappearing.insert(stat.ino, outcome.unwrap());
    let now = now_ms();
    // The first rename is the claim.
    fs.arm_for(|op| op == Op::Rename, 2, Errno::NOSPC, Then::Works);
    while !keeper.scan(1000, now).unwrap() {}
    assert_eq!((fs.failed(), keeper.short_of()), (1, Some(Shortage::Disk)));
    assert!(!keeper.is_settled() && !home.path().join("done/x").exists());
    keeper.tick(now + 1_000).unwrap();
    assert!(home.path().join("done/x").exists() && keeper.is_still());
    assert!(started(&mut keeper).is_empty(), "it ran again");
}

/// Goal: a route that is new has started nothing yet, also in the place of one that is no more. Method: a rate of
/// one an hour, used up; the same settings for a route of another name; and, for itself, a changed one.
#[test]
fn a_new_route_begins_its_own_rate() {
    let of = |name: &str, priority: i32| {
        let rate = Some(Rate { starts: 1, per_ms: 3_600_000 });
        let route = Route::new(name, vec!["true".to_owned()]);
        Settings {
            workers: 2,
            routes: vec![Route { rate, priority, ..route }],
            ..Settings::default()
        }
    };
    let home = tempfile::tempdir().unwrap();
    let mut keeper = keeper(home.path(), &of("a", 0));
    let now = now_ms();
    let offer = |keeper: &mut Keeper<RealFs>, name: &str| {
        std::fs::write(home.path().join("incoming").join(name), "").unwrap();
        while !keeper.scan(1000, now).unwrap() {}
        let tasks = started(keeper);
        for task in &tasks {
            let ended = crate::worker::Ended::without_rows(crate::core::Verdict::Done);
            keeper.handle(Input::Ended { job: task.job, ended }, now).unwrap();
        }
        keeper.commit(now).unwrap();
        tasks.len()
    };
    assert_eq!((offer(&mut keeper, "1"), offer(&mut keeper, "2")), (1, 0));
    keeper.reconfigure(&of("a", 1), now).unwrap();
    assert_eq!(offer(&mut keeper, "3"), 0, "it is the same route");
    keeper.reconfigure(&of("b", 0), now).unwrap();
    assert_eq!(offer(&mut keeper, "4"), 1);
}

/// Goal: what follows a record that is over is done again after a shortage, and the record counts once. Method:
/// its line is followed up twice.
#[test]
fn a_record_counts_once() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.routes[0].records = Some(crate::config::Records::Lines);
    let mut keeper = keeper(home.path(), &settings);
    std::fs::write(home.path().join("incoming/x"), "1\n2\n").unwrap();
    let now = now_ms();
    while !keeper.scan(1000, now).unwrap() {}
    let lot = keeper.take_outputs().into_iter().find_map(|output| match output {
        Output::StartRecords(lot) => Some(lot),
        _ => None,
    });
    let job = lot.unwrap().0.job;
    let failure = crate::core::Failure::new(crate::core::FailClass::Permanent, "no");
    let verdict = crate::core::Verdict::Failed(failure.clone());
    let ended = crate::worker::Ended::without_rows(verdict);
    keeper.handle(Input::RecordEnded { job, no: 1, ended, is_last: false }, now).unwrap();
    keeper.commit(now).unwrap();
    let (counts, line) = (keeper.record_counts(), keeper.input_snapshot());
    assert_eq!((counts.done, counts.failed), (0, 1));
    let again = crate::journal::record::InputOutcome {
        job,
        no: 1,
        attempts: 1,
        failure: Some(failure),
        rows: 0,
        csv: Vec::new(),
        rows_file: None,
    };
    keeper.follow_up(crate::journal::record::Record::InputOutcome(again), now).unwrap();
    assert_eq!((keeper.record_counts(), keeper.input_snapshot()), (counts, line));
}
