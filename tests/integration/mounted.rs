//! What workers mount in the folders of their jobs, and leave there: it is somebody's, it cannot be moved, and no
//! other job has anything to do with it.
//!
//! Must not know: how the daemon gets round it. Without the right to mount, the tests skip and say so.

use std::path::Path;
use std::process::Command;

use crate::harness::Spool;

/// Undone, whatever became of the test.
struct Mounted<'a>(&'a Spool);

impl Mounted<'_> {
    fn places(&self) -> Vec<String> {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.0.root().canonicalize().unwrap();
        let places = all.lines().filter_map(|line| line.split(' ').nth(4));
        places.filter(|it| Path::new(it).starts_with(&root)).map(ToOwned::to_owned).collect()
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        for place in self.places() {
            Command::new("umount").arg("-l").arg(place).status().unwrap();
        }
    }
}

/// Goal: what a worker mounted in its scratch folder, and left, is somebody's: nothing in it goes, and neither
/// other jobs nor the next start are held up. Method: a folder of ours mounted there; a job, a restart, a job.
#[test]
fn what_a_worker_mounted_is_not_emptied() {
    let spool =
        Spool::new("workers = 1\n[routes.main]\nstdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n");
    spool.write(
        "w.sh",
        "[ $INBOXD_NAME = mounts ] || exit 0\nmkdir $INBOXD_SCRATCH/m\n\
         mount --bind theirs $INBOXD_SCRATCH/m || echo no > refused\n",
    );
    spool.write("theirs/f", "theirs");
    let mounted = Mounted(&spool);
    let daemon = spool.daemon();
    spool.drop_file("mounts", "");
    spool.wait_until("it is done", || spool.has("done/mounts"));
    if spool.has("refused") {
        println!("skipped: nothing can be mounted here");
        return;
    }
    spool.drop_file("one", "");
    spool.wait_until("the next job is done", || spool.has("done/one"));
    daemon.end_well();
    assert_eq!(mounted.places().len(), 1);
    assert!(spool.has("theirs/f"), "it was emptied");
    let daemon = spool.daemon();
    daemon.wait_for_log("what a worker left stays");
    spool.drop_file("two", "");
    spool.wait_until("the job after a start is done", || spool.has("done/two"));
    daemon.end_well();
    assert!(spool.has("theirs/f"), "it was emptied by the start");
}

/// What each file makes its worker mount, and where; the others only see that their file is there.
const WORK_SH: &str = r#"
at=${INBOXD_PATH%/*}
case $INBOXD_NAME in
beside*) mkdir "$at/m"; where=$at/m; echo own > "$at/own-$INBOXD_NAME";;
above*) mkdir "$at/../m"; where=$at/../m;;
on-folder*) where=$at;;
on-job* | again*) where=$at/..;;
made*) mkdir "$INBOXD_OUTPUT/m"; where=$INBOXD_OUTPUT/m; echo own > "$INBOXD_OUTPUT/own";;
on-output*) where=$INBOXD_OUTPUT;;
on-scratch*) where=$INBOXD_SCRATCH;;
on-input*) mount --bind theirs/f "$INBOXD_PATH" || echo no > refused;;
esac
[ -z "$where" ] || mount --bind theirs "$where" || echo no > refused
case $INBOXD_NAME in
*waits) [ -e again ] || { touch again; exec sleep 600; };;
*fails*) exit 1;;
esac
[ -n "$where" ] || [ -e "$INBOXD_PATH" ]
"#;

const SETTINGS: &str = "workers = 1\nrescan = \"100ms\"\n[routes.made]\nglob = \"**/made*\"\n\
    output = true\nnext = \"main\"\nstdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n[routes.main]\n\
    output = true\nstdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n";

/// A spool with something to mount, older than all that is dropped into it; `None`: nothing can be mounted here.
fn spool() -> Option<Spool> {
    let spool = Spool::new(SETTINGS);
    spool.write("w.sh", WORK_SH);
    spool.write("theirs/f", "theirs");
    std::fs::create_dir(spool.path("probe")).unwrap();
    let mounted = Mounted(&spool);
    let mount = ["--bind", "theirs", "probe"];
    let tried = Command::new("mount").args(mount).current_dir(spool.root()).output();
    drop(mounted);
    if tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        return Some(spool);
    }
    eprintln!("skipped: nothing can be mounted here: {tried:?}");
    None
}

/// Goal: what a worker mounted in or on a folder of its job, or on its input, ends no daemon: its job is
/// settled, what cannot be moved stays and is said, nothing in it is touched, and neither other jobs nor the
/// next start are held up. Method: each place, for jobs that succeed and that fail, a job after each, a restart.
#[test]
fn what_a_worker_mounted_stops_nobody() {
    let Some(spool) = spool() else { return };
    let mounted = Mounted(&spool);
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    let places =
        ["beside", "above", "on-folder", "on-job", "made", "on-output", "on-scratch", "on-input"];
    for (n, place) in places.into_iter().enumerate() {
        for how in ["ends", "fails"] {
            let name = format!("{place}-{how}");
            spool.drop_file(format!("sub/{name}"), "x");
            // Of what was mounted on its output nothing can be moved on: that is no success.
            let is_failed = how == "fails" || place == "on-output";
            let settled = format!("{}/sub/{name}", if is_failed { "error" } else { "done" });
            let plain = format!("sub/plain-{n}-{}", how.len());
            spool.drop_file(&plain, "x");
            spool.wait_until("the next job is done", || spool.has(&format!("done/{plain}")));
            // Its input stays where something is mounted on it.
            assert_eq!(spool.has(&settled), place != "on-input", "{name}: {}", spool.report());
        }
    }
    assert!(!spool.has("refused"), "{}", spool.report());
    assert!(spool.has("done/sub/own-beside-ends") && spool.has("error/sub/own-beside-fails"));
    spool.wait_until("what was made runs", || spool.has("done/sub/made-ends.made/own"));
    assert!(spool.reason("sub/on-output-ends").contains("it mounted something"));
    spool.run(&["status"]).ok().says("folders stay after their jobs");
    assert_eq!(daemon.daemon_pid(), pid, "it ended and was started again");
    daemon.end_well();

    let daemon = spool.daemon();
    daemon.wait_for_log("what a worker left stays");
    spool.drop_file("last", "x");
    spool.wait_until("the job after a start is done", || spool.has("done/last"));
    daemon.end_well();
    drop(mounted);
    assert_eq!(spool.names("theirs"), ["f"], "{}", spool.report());
    let inputs = spool.names("processing");
    let inputs = inputs.iter().filter(|name| name.contains("sub/on-input"));
    assert_eq!(inputs.count(), 2, "{}", spool.report());
}

/// Goal: a folder that something is mounted on ends no daemon when its job cannot have another attempt there, nor
/// where the folder is not held open, and keeps none from its start. Method: a failure that is tried again; for a
/// job in a folder and one in none; a plain job, and a start, after each.
#[test]
fn a_folder_that_is_mounted_on_has_no_second_attempt() {
    let Some(spool) = spool() else { return };
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write(
        "inboxd.toml",
        &format!("{settings}retries = {{ fail = 1, first_wait = \"1ms\" }}\n"),
    );
    let mounted = Mounted(&spool);
    for rel in ["sub/again-fails", "on-folder-fails"] {
        let daemon = spool.daemon();
        let pid = daemon.daemon_pid();
        spool.drop_file(rel, "x");
        spool.wait_until("it has failed", || {
            spool.csv("errors").column("file").contains(&rel.to_owned())
        });
        let reasons = spool.csv("errors").column("reason");
        assert!(reasons.last().unwrap().contains("cannot be renamed"), "{reasons:?}");
        let plain = format!("plain-{}", rel.len());
        spool.drop_file(&plain, "x");
        spool.wait_until("the next job is done", || spool.has(&format!("done/{plain}")));
        daemon.wait_for_log("what a worker left stays");
        assert_eq!(daemon.daemon_pid(), pid, "it ended and was started again");
        daemon.end_well();
    }
    let daemon = spool.daemon();
    spool.drop_file("last", "x");
    spool.wait_until("the job after a start is done", || spool.has("done/last"));
    daemon.end_well();
    drop(mounted);
    assert_eq!(spool.names("theirs"), ["f"], "{}", spool.report());
}

/// Goal: after a crash the job's own file runs again, and nothing that its worker had mounted beside it, older or
/// not. Method: kill -9 while the worker waits, for a file and one in a folder; another daemon.
#[test]
fn what_was_mounted_before_a_crash_is_no_job() {
    let Some(spool) = spool() else { return };
    let _mounted = Mounted(&spool);
    let mut daemon = spool.daemon();
    spool.drop_file("sub/beside-waits", "x");
    spool.wait_until("it is mounted", || spool.has("again"));
    daemon.kill_all();
    let daemon = spool.daemon();
    spool.wait_until("it is done", || spool.has("done/sub/beside-waits"));
    daemon.end_well();
    assert_eq!(spool.names("theirs"), ["f"], "{}", spool.report());
    assert_eq!(spool.errors(), Vec::<String>::new());
}

/// Goal: what the worker of a record did to its scratch folder is no later record's fault. Method: the first of
/// three mounts something there, or on it, or takes all rights on it or on the one above, beside a daemon that
/// has no others than that; each of the others writes there.
#[test]
fn a_records_scratch_folder_is_its_own() {
    if spool().is_none() {
        return;
    }
    for what in [
        "mkdir m; mount --bind ../../../theirs m",
        "mount --bind ../../../theirs .",
        "chmod 000 .",
        "chmod 555 .",
        "chmod 000 ..",
        "cd ..; rmdir $INBOXD_SCRATCH; ln -s ../../theirs $INBOXD_SCRATCH",
    ] {
        let spool = Spool::new(
            "workers = 1\n[routes.main]\nretries = { try_again = 0 }\nrecords = \"lines\"\ncommand = [\"sh\", \"w.sh\"]\n",
        );
        spool.write("theirs/f", "theirs");
        let others = ": > $INBOXD_SCRATCH/f && ls $INBOXD_SCRATCH";
        spool.write(
            "w.sh",
            &format!("[ $INBOXD_RECORD = 1 ] || {{ {others}; exit; }}; cd $INBOXD_SCRATCH; {what}"),
        );
        let mounted = Mounted(&spool);
        spool.drop_file("ids", "1\n2\n3\n");
        let as_others =
            ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"];
        spool.run_under(&as_others, &["batch"], b"").ok();
        assert_eq!(spool.csv("main").column("text"), ["f", "f"], "{what}: {}", spool.report());
        drop(mounted);
        assert_eq!(spool.names("theirs"), ["f"], "{what}");
        assert_eq!(std::fs::read(spool.path("theirs/f")).unwrap(), b"theirs", "{what}");
    }
}
