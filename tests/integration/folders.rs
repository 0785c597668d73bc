//! Folders that are one job: complete by their sentinel, whole wherever they are, never taken apart.
//!
//! Must not know: how a folder is claimed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::Spool;

/// The worker lists what it got. The first route would take every file.
const SCANS: &str = r#"
workers = 2
[routes.files]
glob = "*.tif"
command = ["true"]
[routes.scans]
glob = "scan-*"
unit = "folder"
done_file = "{name}.ok"
command = ["sh", "-c", "cd \"$0\" && find . -type f | sort | tr '\\n' ' '; test ! -e fail", "{path}"]
"#;

impl Spool {
    /// A producer's folder: made elsewhere with these files, then renamed into `incoming/`.
    fn drop_folder(&self, rel: &str, files: &[(&str, &str)]) {
        let staged = self.home().join("staging").join(rel.replace('/', "_"));
        fs::create_dir_all(&staged).unwrap();
        for (name, content) in files {
            let path = staged.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let target = self.path("incoming").join(rel);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        rustix::fs::rename(&staged, &target).unwrap();
    }

    /// Says that a folder is complete.
    fn seal(&self, rel: &str) {
        fs::write(self.path("incoming").join(format!("{rel}.ok")), "").unwrap();
    }
}

/// Goal: a folder is one job from its sentinel on: one row, one last move with all that is in it, while its
/// files are nobody's. Method: folders at the top and below others, filled while they are watched; an
/// ordinary folder and file beside them.
#[test]
fn a_folder_is_one_job_once_its_sentinel_is_there() {
    let spool = Spool::new(SCANS);
    let daemon = spool.daemon();
    spool.drop_folder("scan-1", &[("a.tif", "a"), ("deep/er/b.tif", "b")]);
    spool.drop_folder("site/box/scan-2", &[("c.tif", "c")]);
    fs::create_dir_all(spool.path("incoming/scan-3/sub")).unwrap();
    spool.wait_until("three folders are held", || spool.held() == 3);
    fs::write(spool.path("incoming/scan-3/sub/d.tif"), "d").unwrap();
    spool.drop_file("site/plain/e.tif", "e");
    spool.wait_until("the plain file is done", || spool.has("done/site/plain/e.tif"));
    assert_eq!(spool.held(), 3);
    spool.run(&["explain", "scan-1"]).ok().says("HELD").says("waits for scan-1.ok beside it");
    spool.run(&["explain", "scan-3/sub/d.tif"]).ok().says("part of scan-3");
    spool.run(&["routes", "scan-1"]).ok().says("scan-1 → scans");
    spool.run(&["routes", "scan-1/a.tif"]).code(1).says("part of scan-1");
    assert!(!spool.has("done/scan-3"));
    for rel in ["scan-1", "site/box/scan-2", "scan-3"] {
        spool.seal(rel);
    }
    let files = [
        "scan-1.ok",
        "scan-1/a.tif",
        "scan-1/deep/er/b.tif",
        "scan-3.ok",
        "scan-3/sub/d.tif",
        "site/box/scan-2.ok",
        "site/box/scan-2/c.tif",
        "site/plain/e.tif",
    ];
    spool.wait_until("all are done", || spool.names("done") == files);
    spool.wait_until("processing/ is empty", || spool.names("processing").is_empty());
    let mut rows = spool.csv("scans").column("text");
    rows.sort();
    assert_eq!(rows, ["./a.tif ./deep/er/b.tif ", "./c.tif ", "./sub/d.tif "]);
    let mut jobs = spool.csv("scans").column("_file");
    jobs.sort();
    assert_eq!(jobs, ["scan-1", "scan-3", "site/box/scan-2"]);
    spool.run(&["explain", "scan-1"]).ok().says("DONE");
    daemon.end_well();
    // Nothing of them is left where jobs are: neither folders nor what led to them.
    let left = fs::read_dir(spool.path("processing")).unwrap().count();
    assert_eq!(left, 0, "{}", spool.report());
}

/// Goal: a sentinel that is older than its folder says nothing, and that is said. Method: the sentinel
/// first, then the folder; then the sentinel once more.
#[test]
fn an_older_sentinel_says_nothing() {
    let spool = Spool::new(SCANS);
    let daemon = spool.daemon();
    spool.seal("scan-1");
    spool.drop_folder("scan-1", &[("a.tif", "a")]);
    spool.wait_until("it is held", || spool.held() == 1);
    spool.run(&["explain", "scan-1"]).ok().says("scan-1.ok is older than the folder");
    spool.seal("scan-1");
    spool.wait_until("it is done", || spool.has("done/scan-1/a.tif"));
    daemon.end_well();
}

/// Goal: a failed folder is one failure, and runs again with what makes it complete. Method: folders that
/// fail; one mended and retried, the others by `--all`, with `files` in error/ beside them; then one rerun.
#[test]
fn a_failed_folder_is_retried_with_its_sentinel() {
    let spool = Spool::new(SCANS);
    spool.write("taken/keep", "");
    for rel in ["scan-1", "scan-2", "box/scan-3"] {
        spool.drop_folder(rel, &[("a.tif", "a"), ("fail", "")]);
        spool.seal(rel);
    }
    let daemon = spool.daemon();
    spool.wait_until("all failed", || {
        ["scan-1", "scan-2", "box/scan-3"].iter().all(|rel| spool.has(&format!("error/{rel}")))
    });
    assert_eq!(spool.csv("errors").rows.len(), 3);
    let why = spool.why("scan-1");
    assert_eq!(
        (why["rel"].as_str(), why["folder"].as_bool()),
        (Some("scan-1"), Some(true)),
        "{why}"
    );
    spool.run(&["explain", "scan-1"]).ok().says("FAILED").says("inboxd retry scan-1");

    rustix::fs::unlink(spool.path("error/scan-1/fail")).unwrap();
    spool.run(&["retry", "--wait", "scan-1"]).ok();
    assert!(spool.has("done/scan-1/a.tif") && spool.has("done/scan-1.ok"), "{}", spool.report());
    assert!(!spool.has("error/.why/scan-1.json") && !spool.has("incoming/scan-1.ok"));

    rustix::fs::unlink(spool.path("error/scan-2/fail")).unwrap();
    rustix::fs::unlink(spool.path("error/box/scan-3/fail")).unwrap();
    // Gone: who asks for another run says that it is complete.
    rustix::fs::unlink(spool.path("error/box/scan-3.ok")).unwrap();
    spool.run(&["retry", "--wait", "--all"]).ok();
    assert!(spool.has("done/scan-2/a.tif") && spool.has("done/box/scan-3/a.tif"));
    assert_eq!(spool.errors(), Vec::<String>::new());

    spool.run(&["rerun", "--wait", "scan-2"]).ok();
    assert_eq!(spool.csv("scans").column("_file").iter().filter(|it| *it == "scan-2").count(), 2);
    assert!(spool.has("done/scan-2/a.tif") && spool.has("done/scan-2.ok"));
    daemon.end_well();
}

/// Goal: a failed folder that no route takes any more stays whole: what says that it is complete is not put into
/// `incoming/` alone. Method: its route goes; another file that failed, and a stray one, are put back.
#[test]
fn a_folder_that_stays_keeps_its_sentinel() {
    let spool = Spool::new(SCANS);
    spool.write("taken/keep", "");
    for rel in ["scan-1", "box/scan-3"] {
        spool.drop_folder(rel, &[("a.tif", "a"), ("fail", "")]);
        spool.seal(rel);
    }
    let daemon = spool.daemon();
    let failed = ["scan-1", "box/scan-3"];
    spool.wait_until("both failed", || failed.iter().all(|it| spool.has(&format!("error/{it}"))));
    daemon.end_well();
    let settings = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let end = settings.find("[routes.scans]").unwrap();
    spool.write("inboxd.toml", &settings[..end]);
    fs::create_dir(spool.path("error/lone")).unwrap();
    spool.write("error/lone/b.tif", "b");
    let said = spool.run(&["retry", "--all"]).code(1);
    said.says("no route takes scan-1 as one job now");
    assert_eq!(spool.names("incoming"), ["lone/b.tif"], "{}", spool.report());
    assert!(spool.has("error/scan-1.ok") && spool.has("error/box/scan-3.ok"), "{}", spool.report());
}

/// Goal: nothing is overwritten or mixed, and any name will do. Method: names that are taken in done/ by a
/// folder and by a file; a newline, a dash, a name of 251 bytes; an empty folder.
#[test]
fn taken_names_and_odd_names() {
    let spool = Spool::new(SCANS);
    spool.write("done/scan-1/old", "old");
    spool.write("done/scan-2", "old");
    let long = format!("scan-{}", "x".repeat(246));
    let names = ["scan-1", "scan-2", "scan- a\nb", "-d/scan-3", long.as_str()];
    for rel in names {
        spool.drop_folder(rel, &[("new", "new")]);
        spool.seal(rel);
    }
    fs::create_dir_all(spool.path("incoming/scan-empty")).unwrap();
    spool.seal("scan-empty");
    spool.run(&["batch"]).ok();
    assert_eq!(fs::read(spool.path("done/scan-1/old")).unwrap(), b"old");
    assert_eq!(fs::read(spool.path("done/scan-2")).unwrap(), b"old");
    assert!(!spool.has("done/scan-1/new"));
    let beside = |stem: &str| {
        let all = fs::read_dir(spool.path("done")).unwrap().map(|entry| entry.unwrap().path());
        let is_it = |path: &std::path::PathBuf| {
            path.file_name().unwrap().to_string_lossy().starts_with(&format!("{stem}~"))
        };
        all.filter(is_it).find(|path| path.is_dir()).unwrap()
    };
    for stem in ["scan-1", "scan-2"] {
        assert_eq!(fs::read(beside(stem).join("new")).unwrap(), b"new");
    }
    for rel in ["scan- a\nb", "-d/scan-3", long.as_str()] {
        assert!(spool.has(&format!("done/{rel}/new")), "{rel:?}\n{}", spool.report());
    }
    assert!(spool.path("done/scan-empty").is_dir());
    assert!(spool.names("incoming").is_empty(), "{}", spool.report());
}

/// Goal: a worker never gets a folder with a name that leads elsewhere, and the daemon never follows one.
/// Method: a link to a file and one to a folder, in a folder; a link in the folder's place; a file in it.
#[test]
fn links_in_a_folder_are_not_handed_over() {
    let spool = Spool::new(SCANS);
    spool.write_home("secret/key", "secret");
    spool.drop_folder("scan-1", &[("a.tif", "a")]);
    symlink(spool.home().join("secret/key"), spool.path("incoming/scan-1/b.tif")).unwrap();
    spool.drop_folder("scan-2", &[("a.tif", "a")]);
    symlink(spool.home().join("secret"), spool.path("incoming/scan-2/more")).unwrap();
    symlink(spool.home().join("secret"), spool.path("incoming/scan-3")).unwrap();
    spool.drop_file("scan-4", "a file");
    for rel in ["scan-1", "scan-2", "scan-3", "scan-4"] {
        spool.seal(rel);
    }
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.reason("scan-1"), "b.tif: not a regular file");
    assert_eq!(spool.reason("scan-2"), "more: not a regular file");
    assert!(spool.has("error/scan-1/b.tif") && spool.has("error/scan-2/a.tif"));
    assert!(!spool.has("results/scans.csv"), "{}", spool.report());
    // Neither is a folder, and no other route takes these names: they wait, and that is counted.
    assert!(spool.has("incoming/scan-3") && spool.has("incoming/scan-4"));
    assert_eq!(fs::read(spool.home().join("secret/key")).unwrap(), b"secret");
}

/// Goal: whatever a worker does in its folder, or beside it, goes where the folder goes. Method: workers
/// that add, remove the folder, rename it, protect it, and leave things beside it.
#[test]
fn what_a_worker_makes_of_its_folder_goes_with_it() {
    let spool = Spool::new(
        r#"
workers = 1
[routes.scans]
glob = "scan-*"
unit = "folder"
done_file = "{name}.ok"
stdout = "none"
command = ["sh", "-c", "d=$(dirname \"$0\"); case $(basename \"$0\") in *add) echo 1 > \"$0/new\";; *gone) rm -r \"$0\";; *moved) mv \"$0\" \"$0.x\";; *locked) chmod 555 \"$0\" \"$d\";; *beside) mkdir \"$d/dir\"; echo 1 > \"$d/dir/f\"; echo 2 > \"$d/file\";; esac", "{path}"]
"#,
    );
    let kinds = ["add", "gone", "moved", "locked", "beside"];
    for kind in kinds {
        spool.drop_folder(&format!("{kind}/scan-{kind}"), &[("a", "a"), ("sub/b", "b")]);
        spool.seal(&format!("{kind}/scan-{kind}"));
    }
    spool.run(&["batch"]).ok();
    fs::set_permissions(spool.path("done/locked/scan-locked"), PermissionsExt::from_mode(0o755))
        .unwrap();
    let done = spool.names("done");
    let expected = [
        "add/scan-add.ok",
        "add/scan-add/a",
        "add/scan-add/new",
        "add/scan-add/sub/b",
        "beside/dir/f",
        "beside/file",
        "beside/scan-beside.ok",
        "beside/scan-beside/a",
        "beside/scan-beside/sub/b",
        "gone/scan-gone.ok",
        "locked/scan-locked.ok",
        "locked/scan-locked/a",
        "locked/scan-locked/sub/b",
        "moved/scan-moved.ok",
        "moved/scan-moved.x/a",
        "moved/scan-moved.x/sub/b",
    ];
    assert_eq!(done, expected, "{}", spool.report());
    assert!(spool.names("processing").is_empty() && spool.errors().is_empty());
}

/// Goal: each kind of worker gets the folder's path. Method: a Python function that counts the files, a
/// `command` with an output folder.
#[test]
fn functions_and_outputs() {
    let spool = Spool::new(
        r#"
workers = 2
[routes.py]
glob = "py-*"
unit = "folder"
done_file = "ready-{name}"
python = "count.py:count"
interpreter = "$PYTHON"
[routes.made]
glob = "made-*"
unit = "folder"
done_file = "{name}.ok"
stdout = "none"
output = true
command = ["cp", "-r", "{path}", "{output}/copy"]
"#,
    );
    spool.write(
        "count.py",
        "import os\ndef count(path):\n    return {'files': len(os.listdir(path)), 'name': os.path.basename(path)}\n",
    );
    spool.drop_folder("py-1", &[("a", "a"), ("b", "b")]);
    fs::write(spool.path("incoming/ready-py-1"), "").unwrap();
    spool.drop_folder("made-1", &[("a", "a")]);
    spool.seal("made-1");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("py").column("files"), ["2"]);
    assert_eq!(spool.csv("py").column("name"), ["py-1"]);
    assert!(spool.has("done/ready-py-1") && spool.has("output/made-1/copy/a"));
}

/// Goal: `batch SRC` and `submit` take no folder apart that is one job. Method: a source with such a folder,
/// a file that would be in it.
#[test]
fn sources_are_not_taken_apart() {
    let spool = Spool::new(&SCANS.replace("\"*.tif\"", "\"**\""));
    spool.write_home("src/scan-1/a.tif", "a");
    spool.write_home("src/b.tif", "b");
    spool.run(&["batch", "src"]).ok().says("2 done");
    assert_eq!(spool.names("done"), ["b.tif", "scan-1/a.tif"]);
    assert_eq!(spool.csv("scans").column("text"), ["./a.tif "]);
    spool.run(&["submit", "--name", "scan-1/a.tif", "src/b.tif"]).code(2).says("no route takes");
}

/// Goal: a route for folders that comes while it runs takes what waits, and files already known in such a
/// folder are not claimed any more. Method: a file that no route takes, in a folder; then the route.
#[test]
fn a_route_for_folders_may_come_later() {
    let spool = Spool::new("workers = 1\n[routes.other]\nglob = \"*.x\"\ncommand = [\"true\"]\n");
    let daemon = spool.daemon();
    spool.drop_folder("scan-1", &[("a.tif", "a")]);
    spool.seal("scan-1");
    spool.wait_until("both wait for a route", || {
        let status = spool.run(&["status", "--json"]).stdout();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        status["unrouted"] == 2
    });
    spool.write(
        "routes.d/scans.toml",
        "glob = \"scan-*\"\nunit = \"folder\"\ndone_file = \"{name}.ok\"\ncommand = [\"ls\", \"{path}\"]\n",
    );
    spool
        .wait_until("it is done", || spool.has("done/scan-1/a.tif") && spool.has("done/scan-1.ok"));
    daemon.end_well();
}

/// Goal: what a dead daemon leaves of a folder is taken up whole. Method: a claimed folder whose attempt
/// was lost, with its sentinel and what its worker left; a sentinel that was moved without its folder, as a
/// power cut may leave; what a worker left of a folder that it removed; a folder without any route.
#[test]
fn a_claimed_folder_outlives_its_daemon() {
    let spool = Spool::new(SCANS);
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3p.1.d2/box/scan-1/a.tif", "a");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3p.1.d2/box/scan-1.ok", "");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3p.1.d2/box/left/by-worker", "left");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3p.1.d2/other/dir/by-worker", "left");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3q.0.d1/scan-2.ok", "");
    spool.drop_folder("scan-2", &[("b.tif", "b")]);
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3r.1.d2/box/notes", "what its worker left");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3s.1.d1/lost-1/c.tif", "c");
    let daemon = spool.daemon();
    spool.wait_until("both are done", || {
        spool.has("done/box/scan-1/a.tif") && spool.has("done/scan-2/b.tif")
    });
    assert!(spool.has("done/box/scan-1.ok") && spool.has("done/box/left/by-worker"));
    assert!(spool.has("done/scan-2.ok"), "{}", spool.report());
    assert_eq!(fs::read(spool.path("error/box/notes")).unwrap(), b"what its worker left");
    assert_eq!(spool.csv("scans").rows.len(), 2);
    // No route takes it: it stays claimed, and that is said.
    assert!(spool.has("processing/01m80qyy60e008jxzwp3sh0b3s.1.d1/lost-1/c.tif"));
    spool.run(&["explain", "lost-1"]).ok().says("no route takes it");
    daemon.end_well();
}

/// Goal: old folders go whole: the age of a set is that of its last move, not of what is in it.
/// Method: a set whose files are older than `retention_age`, beside one that has been done that long.
#[test]
fn a_set_is_as_old_as_its_last_move() {
    let spool = Spool::new(&format!("retention_age = \"3s\"\n{SCANS}"));
    spool.drop_folder("scan-1", &[("a.tif", "a"), ("sub/b.tif", "b")]);
    let old = std::time::Instant::now();
    spool.wait_until("its files are old", || old.elapsed().as_secs_f32() > 3.5);
    let daemon = spool.daemon();
    spool.seal("scan-1");
    spool.wait_until("it is done", || spool.has("done/scan-1.ok") && spool.has("done/scan-1"));
    let moved = std::time::Instant::now();
    let mut seen = 0;
    spool.wait_until("it is gone", || {
        let is_whole = spool.has("done/scan-1/a.tif") && spool.has("done/scan-1/sub/b.tif");
        seen += u32::from(is_whole);
        assert!(is_whole || moved.elapsed().as_secs_f32() > 2.0, "{}", spool.report());
        !spool.has("done/scan-1")
    });
    assert!(seen > 0);
    daemon.end_well();
}

/// Goal: an attempt that died with its daemon is made again, on the whole folder. Method: kill -9 under a
/// worker that waits; a second daemon.
#[test]
fn a_killed_daemon_runs_the_folder_again() {
    let spool =
        Spool::new(&SCANS.replace("cd \\\"$0\\\"", "test -e go || sleep 60; cd \\\"$0\\\""));
    spool.drop_folder("scan-1", &[("a.tif", "a")]);
    spool.seal("scan-1");
    let mut daemon = spool.daemon();
    spool.wait_until("it runs", || !daemon.workers().is_empty());
    daemon.kill_all();
    assert!(!spool.has("done/scan-1"));
    spool.write("go", "");
    let daemon = spool.daemon();
    spool
        .wait_until("it is done", || spool.has("done/scan-1/a.tif") && spool.has("done/scan-1.ok"));
    assert_eq!(spool.csv("scans").rows.len(), 1);
    daemon.end_well();
}

/// Goal: a folder of another user that we may not move is held with what to type, and one that we may not look
/// through is a failure, not a daemon that cannot start again. Method: the daemon as `nobody`, folders of root's.
#[test]
fn folders_of_another_user_are_held_or_fail() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(SCANS);
    let mode = |rel: &str, mode| {
        fs::set_permissions(spool.path(rel), PermissionsExt::from_mode(mode)).unwrap();
    };
    let mut daemon = spool.daemon_as_nobody();
    spool.drop_folder("scan-1", &[("a.tif", "a")]);
    spool.drop_folder("scan-2", &[("closed/b.tif", "b")]);
    mode("incoming/scan-1", 0o755);
    mode("incoming/scan-2/closed", 0o700);
    mode("incoming/scan-2", 0o777);
    spool.seal("scan-1");
    spool.seal("scan-2");
    spool.wait_until("one is held, one has failed", || {
        spool.held() == 1 && spool.has("error/scan-2/closed/b.tif")
    });
    assert!(spool.reason("scan-2").starts_with("closed: Permission denied"), "{}", spool.report());
    let said = spool.run(&["explain", "scan-1"]).ok();
    said.says("must write in it to move it").says("chmod -R g+rwX,g+s scan-1");

    // Claimed by a daemon that died; no route of the next one takes it, so that it stays where it is.
    daemon.kill_all();
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3s.1.d1/lost-1/closed/c", "c");
    mode("processing/01m80qyy60e008jxzwp3sh0b3s.1.d1/lost-1/closed", 0o700);
    mode("incoming/scan-1", 0o777);
    rustix::fs::unlink(spool.path("incoming/scan-1.ok")).unwrap();
    spool.seal("scan-1");
    let daemon = spool.daemon_as_nobody();
    spool.wait_until("the other one is done", || spool.has("done/scan-1/a.tif"));
    daemon.end_well();
}

/// Goal: a folder that is recorded and stands in what another user's leavings made of its place is moved out
/// of it at the next start. Method: a folder is done, the daemon killed, the folder put where a kill leaves it.
#[test]
fn a_folder_cut_off_beside_what_is_left_is_settled() {
    let spool = Spool::new(SCANS);
    let mut daemon = spool.daemon();
    spool.drop_folder("scan-1", &[("a.tif", "a")]);
    spool.seal("scan-1");
    let jobs = || spool.run(&["jobs", "--json"]).ok().stdout();
    spool.wait_until("it is done, and in the job log", || jobs().contains("scan-1"));
    let job: serde_json::Value = serde_json::from_str(jobs().lines().next().unwrap()).unwrap();
    daemon.kill_all();
    let left = format!("processing/{}.1.left", job["job"].as_str().unwrap());
    fs::create_dir(spool.path(&left)).unwrap();
    rustix::fs::rename(spool.path("done/scan-1"), spool.path(&format!("{left}/scan-1"))).unwrap();
    let daemon = spool.daemon();
    assert!(spool.has("done/scan-1/a.tif"), "{}", spool.report());
    daemon.end_well();
}

/// Goal: a route of folders is tried on a folder, and on nothing else. Method: a folder with a subfolder and no
/// sentinel; a file; a folder for a route of files.
#[test]
fn a_folder_is_tried_whole() {
    let spool = Spool::new(SCANS);
    spool.write_home("scan-7/a.tif", "a");
    spool.write_home("scan-7/deep/b.tif", "b");
    spool.run(&["try", "scans", "scan-7"]).ok().says("./a.tif ./deep/b.tif");
    assert!(spool.home().join("scan-7/deep/b.tif").exists());
    spool.run(&["try", "scans", "scan-7/a.tif"]).code(2).says("route scans takes folders (`unit`)");
    spool
        .run(&["try", "files", "scan-7"])
        .code(2)
        .says("route files takes files: name one of them");
}

/// Goal: a folder does not fail because the daemon is short of descriptors: its route pauses, and the folder
/// runs once there are enough. Method: a folder deeper than the daemon may open files; then a new start.
#[test]
fn a_folder_does_not_fail_for_want_of_descriptors() {
    let spool = Spool::new(SCANS);
    let daemon = spool.start_under(&["prlimit", "--nofile=64:64"], &["run"]);
    daemon.wait_for_log("ready");
    let deep = vec!["d"; 90].join("/") + "/page";
    spool.drop_folder("scan-1", &[(&deep, "x")]);
    spool.seal("scan-1");
    daemon.wait_for_log("route paused");
    assert!(daemon.log().contains("Too many open files"), "{}", daemon.log());
    daemon.end_well();
    spool.run(&["batch"]).ok();
    assert!(spool.has(&format!("done/scan-1/{deep}")), "{}", spool.report());
}
