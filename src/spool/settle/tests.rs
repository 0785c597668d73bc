//! Settling around what stands in its way.
//!
//! Must not know: how a job came to be recorded.

use super::*;
use crate::fs::RealFs;
use crate::fs::faults::{Faults, Op, Then};
use rustix::io::Errno;

/// Settles `sub/x` in a spool that `prepare` has had its way with; where it went, and what the
/// operations that failed said before.
fn settled(
    prepare: impl FnOnce(&Path, &Faults<RealFs>),
    failures: usize,
) -> (Option<PathBuf>, String) {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let root = RealFs.open_root(home.path()).unwrap();
    let spool = Spool::open(fs.clone(), root).unwrap();
    let job = JobId::next(JobId::MIN, 1, [1; 10]);
    let claimed = Claimed::file(job, 1);
    let folder = home.path().join("processing").join(Place::Job(claimed).name()).join("sub");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("x"), "x").unwrap();
    prepare(home.path(), &fs);
    let rel = RelPath::new("sub/x").unwrap();
    let settling = Settling { job, claimed, rel: &rel, ino: 0, why: None, alone: false };
    let mut folders = Folders::new(1);
    for _ in 0..failures {
        assert!(spool.settle(&settling, &mut folders).is_err(), "an error was swallowed");
    }
    (spool.settle(&settling, &mut folders).unwrap().rel, job.to_string())
}

/// Goal: an error of the disk is an error, and the file keeps its place.
/// Method: making `done/sub` fails once, opening it too; then it is tried again.
#[test]
fn a_full_disk_does_not_move_a_file_elsewhere() {
    // The first folder opened is the job's, the second the target's.
    type Case = (fn(Op) -> bool, u64, Errno);
    let cases: [Case; 3] = [
        (|op| op == Op::MakeDir, 1, Errno::NOSPC),
        (|op| op == Op::MakeDir, 1, Errno::IO),
        (|op| op == Op::OpenDir, 2, Errno::MFILE),
    ];
    for (op, nth, errno) in cases {
        let (rel, _) = settled(|_, fs| fs.arm_for(op, nth, errno, Then::Works), 1);
        assert_eq!(rel, Some("sub/x".into()), "{errno:?}");
    }
}

/// Goal: a process that the worker left, and that writes on beside the input, stops no daemon, and what it makes
/// is no job at the next start. Method: the emptied folder is full again when it is removed.
#[test]
fn what_is_still_written_beside_the_input_is_set_aside() {
    let home = tempfile::tempdir().unwrap();
    let fs = Faults::new(RealFs);
    let spool = Spool::open(fs.clone(), RealFs.open_root(home.path()).unwrap()).unwrap();
    let claimed = Claimed::file(JobId::next(JobId::MIN, 1, [1; 10]), 1);
    let folder = home.path().join("processing").join(Place::Job(claimed).name());
    std::fs::create_dir(&folder).unwrap();
    for name in ["x", "x.part"] {
        std::fs::write(folder.join(name), name).unwrap();
    }
    fs.arm_for(|op| op == Op::RemoveDir, 1, Errno::NOTEMPTY, Then::Works);
    let rel = RelPath::new("x").unwrap();
    let settling =
        Settling { job: claimed.job, claimed, rel: &rel, ino: 0, why: None, alone: false };
    let moved = spool.settle(&settling, &mut Folders::new(1)).unwrap();
    assert_eq!(moved, Moved { rel: Some("x".into()), left: Some(Place::Left(claimed).name()) });
    assert!(home.path().join("done/x.part").exists());
    let left: Vec<_> = std::fs::read_dir(home.path().join("processing"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, [Place::Left(claimed).name()]);
}

/// Goal: what a worker left above its input, where its script has `../out`, is neither deleted nor taken along by
/// the next job that gets the folder. Method: a file and a folder above the input, of a success and of a failure.
#[test]
fn what_was_left_above_the_input_goes_along() {
    let rel = RelPath::new("site/raw/x").unwrap();
    let job = JobId::next(JobId::MIN, 1, [1; 10]);
    for (why, tree) in [(None, "done"), (Some(&b"why"[..]), "error")] {
        for shape in [Shape::File, Shape::main(&rel)] {
            let home = tempfile::tempdir().unwrap();
            let spool = Spool::open(RealFs, RealFs.open_root(home.path()).unwrap()).unwrap();
            let claimed = Claimed { job, begun: 1, shape };
            let folder = home.path().join("processing").join(Place::Job(claimed).name());
            std::fs::create_dir_all(folder.join("site/raw")).unwrap();
            std::fs::create_dir(folder.join("site/out")).unwrap();
            for name in ["site/raw/x", "site/out/x.png", "notes"] {
                std::fs::write(folder.join(name), name).unwrap();
            }
            let settling = Settling { job, claimed, rel: &rel, ino: 0, why, alone: false };
            let mut folders = Folders::new(1);
            spool.settle(&settling, &mut folders).unwrap();
            for name in ["site/raw/x", "site/out/x.png", "notes"] {
                assert!(home.path().join(tree).join(name).exists(), "{tree}/{name}");
            }
            assert_eq!(spool.files_of(claimed).unwrap(), [], "{shape:?}");
        }
    }
}

/// Goal: a file whose target was taken away stays where it is and is settled later, never counted as
/// one that its worker removed: the emptied folder that it then seems to stand in is removed with it.
/// Method: `done/` is removed; `done/sub` goes away just before the move into it.
#[test]
fn a_missing_target_loses_no_file() {
    let home = tempfile::tempdir().unwrap();
    let root = RealFs.open_root(home.path()).unwrap();
    let mut spool = Spool::open(RealFs, root).unwrap();
    let claimed = Claimed::file(JobId::next(JobId::MIN, 1, [1; 10]), 1);
    let folder = home.path().join("processing").join(Place::Job(claimed).name());
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("x"), "x").unwrap();
    spool.fs.remove_dir(&spool.root, Path::new("done")).unwrap();
    let rel = RelPath::new("x").unwrap();
    let job = claimed.job;
    let settling = Settling { job, claimed, rel: &rel, ino: 0, why: None, alone: false };
    let mut folders = Folders::new(1);
    let error = spool.settle(&settling, &mut folders).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(folder.join("x").exists());

    assert_eq!(spool.reopen_settled().unwrap(), ["done"]);
    assert_eq!(spool.settle(&settling, &mut folders).unwrap().rel, Some("x".into()));
    assert!(home.path().join("done/x").exists());
    assert_eq!(spool.reopen_settled().unwrap(), Vec::<&str>::new());

    let (rel, _) =
        settled(|_, fs| fs.arm_for(|op| op == Op::Rename, 1, Errno::NOENT, Then::Works), 0);
    assert_eq!(rel, Some("sub/x".into()));
}

/// Goal: a taken parent is got round. Method: a file and a link with the folder's name.
#[test]
fn a_taken_parent_is_got_round() {
    let file = |home: &Path| std::fs::write(home.join("done/sub"), "").unwrap();
    let link = |home: &Path| std::os::unix::fs::symlink("/tmp", home.join("done/sub")).unwrap();
    for take in [&file as &dyn Fn(&Path), &link] {
        let (rel, job) = settled(|home, _| take(home), 0);
        assert_eq!(rel, Some(format!("sub~{job}/x").into()));
    }
}

/// Goal: files that came together end under names of one kind, also where they are cut off in between, so that
/// none stands as the companion of another job's file. Method: another companion has the name; each move but
/// the first fails once.
#[test]
fn a_set_cut_off_half_way_goes_on_as_it_began() {
    for fails_at in 1..=2 {
        let home = tempfile::tempdir().unwrap();
        let fs = Faults::new(RealFs);
        let spool = Spool::open(fs.clone(), RealFs.open_root(home.path()).unwrap()).unwrap();
        let rel = RelPath::new("x.jpg").unwrap();
        let job = JobId::next(JobId::MIN, 1, [1; 10]);
        let claimed = Claimed { job, begun: 1, shape: Shape::main(&rel) };
        let folder = home.path().join("processing").join(Place::Job(claimed).name());
        std::fs::create_dir(&folder).unwrap();
        for name in ["x.jpg", "x.xmp"] {
            std::fs::write(folder.join(name), "ours").unwrap();
        }
        std::fs::write(home.path().join("done/x.xmp"), "another's").unwrap();
        let settling = Settling { job, claimed, rel: &rel, ino: 0, why: None, alone: false };
        fs.arm_for(|op| op == Op::Rename, fails_at, Errno::IO, Then::Works);
        let mut folders = Folders::new(1);
        spool.settle(&settling, &mut folders).unwrap_err();
        spool.settle(&settling, &mut folders).unwrap();
        let mut names: Vec<String> = std::fs::read_dir(home.path().join("done"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["x.xmp".to_owned(), format!("x~{job}.jpg"), format!("x~{job}.xmp")]);
        assert!(!folder.exists());
    }
}

/// Goal: a failure whose reason has its place taken by another one's stops no daemon, overwrites nothing, and
/// has its reason where it is looked for. Method: `x` and `x.json/y`, whose reasons are a file and a folder of
/// one name, in each order, settled as files and as failed records.
#[test]
fn a_reason_has_its_place_beside_any_other() {
    for (rels, is_records) in
        [(["x", "x.json/y"], false), (["x.json/y", "x"], false), (["x.json/y", "x"], true)]
    {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &Path| home.path().join(path);
        let spool = Spool::open(RealFs, RealFs.open_root(home.path()).unwrap()).unwrap();
        for (n, rel) in (1..).zip(rels) {
            let job = JobId::next(JobId::MIN, n, [1; 10]);
            let claimed = Claimed::file(job, 1);
            let rel = RelPath::new(rel).unwrap();
            let why = rel.as_bytes();
            let processing = Path::new("processing");
            let went = if is_records {
                std::fs::write(at(&processing.join(Place::Failed(job).name())), rel.as_bytes())
                    .unwrap();
                spool.settle_failed(job, &rel, why).unwrap().unwrap()
            } else {
                let file = at(&processing.join(Place::Job(claimed).name()).join(rel.as_path()));
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, rel.as_bytes()).unwrap();
                let settling =
                    Settling { job, claimed, rel: &rel, ino: 0, why: Some(why), alone: false };
                spool.settle(&settling, &mut Folders::new(1)).unwrap().rel.unwrap()
            };
            assert_eq!(std::fs::read(at(&Path::new("error").join(&went))).unwrap(), why);
            let mut sidecar = went.into_os_string();
            sidecar.push(".json");
            assert_eq!(std::fs::read(at(&Path::new("error/.why").join(sidecar))).unwrap(), why);
        }
    }
}
