//! Workers that take the rights on their own folders away, beside a daemon that has no others than theirs; people
//! who close a folder of `done/`, `error/` or `output/`; and what is made immutable.
//!
//! Must not know: how the daemon helps itself; only that it goes on, and that nothing is left behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{rename, unlink};
use rustix::process::Signal;

use crate::harness::{Running, Spool, send};

const SETTINGS: &str = "workers = 1\nrescan = \"100ms\"\n[routes.main]\noutput = true\n\
    stdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n";

/// What each file makes its worker do; the others must find a scratch folder that they can write into.
/// The second word of a name is the mode.
const WORK_SH: &str = r#"
mode=${INBOXD_NAME#*-}
case $INBOXD_NAME in
job-*) chmod "$mode" "${INBOXD_PATH%/*}";;
scratch-*) mkdir -p "$INBOXD_SCRATCH/x/y"; chmod "$mode" "$INBOXD_SCRATCH/x" "$INBOXD_SCRATCH";;
empty-*) chmod "$mode" "$INBOXD_SCRATCH";;
folder-*) mkdir "$INBOXD_OUTPUT/m"; echo m > "$INBOXD_OUTPUT/m/f"; chmod "$mode" "$INBOXD_OUTPUT/m" "$INBOXD_OUTPUT";;
file-*) echo m > "$INBOXD_OUTPUT/f"; chmod "$mode" "$INBOXD_OUTPUT/f";;
all-*)
    mkdir "$INBOXD_SCRATCH/x" "$INBOXD_OUTPUT/m"
    chmod "$mode" "${INBOXD_PATH%/*}" "$INBOXD_SCRATCH/x" "$INBOXD_SCRATCH" "$INBOXD_OUTPUT/m" "$INBOXD_OUTPUT"
    [ -e again ] || { touch again; exec sleep 600; };;
*) : > "$INBOXD_SCRATCH/t";;
esac
"#;

/// Root passes every permission; the daemon under test is to be stopped by them as another user is.
fn as_others() -> &'static [&'static str] {
    let wrapper = &["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"];
    if rustix::process::geteuid().is_root() { wrapper } else { &[] }
}

fn start(spool: &Spool) -> Running {
    let daemon = spool.start_under(as_others(), &["run"]);
    daemon.wait_for_log("ready");
    daemon
}

fn spool() -> Spool {
    let spool = Spool::new(SETTINGS);
    spool.write("w.sh", WORK_SH);
    spool
}

/// Goal: a worker that protects its folders harms nobody, not the next job and not the daemon. Method: each
/// folder and file of an attempt, with each of two modes, and plain jobs between them.
#[test]
fn what_a_worker_protects_is_settled_and_cleared() {
    let spool = spool();
    let daemon = start(&spool);
    let pid = daemon.daemon_pid();
    let mut all = Vec::new();
    for mode in ["555", "000"] {
        for what in ["job", "scratch", "empty", "folder", "file"] {
            for name in [format!("{what}-{mode}"), format!("plain-{what}-{mode}")] {
                spool.drop_file(&name, "x");
                spool.drop_file(format!("sub/{name}"), "x");
                all.extend([format!("sub/{name}"), name]);
                spool.wait_until("they are settled", || {
                    spool.names("done").len() + spool.errors().len() == all.len()
                });
            }
        }
    }
    all.sort();
    assert_eq!(spool.names("done"), all, "{}", spool.report());
    assert_eq!(daemon.daemon_pid(), pid, "it ended and was started again");
    let made = spool.names("output");
    for mode in ["555", "000"] {
        for (what, made_) in [("folder", "m/f"), ("file", "f")] {
            assert!(made.contains(&format!("{what}-{mode}/{made_}")), "{made:?}");
        }
    }
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(std::fs::read_dir(spool.path("processing")).unwrap().count(), 0);
}

/// Goal: a start is not stopped by what a worker had protected when the last daemon was killed. Method:
/// everything of an attempt protected, kill -9, another daemon.
#[test]
fn a_killed_attempt_that_protected_all_runs_again() {
    for mode in ["555", "000"] {
        let spool = spool();
        let mut daemon = start(&spool);
        let name = format!("all-{mode}");
        spool.drop_file(format!("sub/{name}"), "x");
        spool.wait_until("it is protected", || spool.path("again").exists());
        send(daemon.daemon_pid(), Signal::KILL);
        daemon.wait();
        let daemon = start(&spool);
        spool.wait_until("it is done", || spool.names("done") == [format!("sub/{name}")]);
        assert_eq!(daemon.end().code(), Some(0));
        assert_eq!(std::fs::read_dir(spool.path("processing")).unwrap().count(), 0);
    }
}

const BY_OTHERS: &str = "workers = 2\nquiet_for = \"50ms\"\n[routes.handed]\nglob = \"handed*\"\noutput = true\nnext = \"main\"\n\
    stdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n[routes.main]\noutput = true\nstdout = \"none\"\n\
    command = [\"sh\", \"w.sh\"]\n";

/// Says where it may make something, and waits until it may go on.
const BY_OTHERS_SH: &str = r#"
case $INBOXD_NAME in
beside*) at=${INBOXD_PATH%/*}; touch "$at/own.1" "$at/own.2" "$at/own.3" "$at/own.4";;
scratch*) at=$INBOXD_SCRATCH;;
output* | handed*) at=$INBOXD_OUTPUT;;
*) exit 0;;
esac
echo "$at" > at.tmp; mv at.tmp at
until [ -e go ]; do sleep 0.02; done
case $INBOXD_NAME in *-fails-*) exit 1;; esac
"#;

/// Goal: what a worker makes as another user (a container that runs as root) stays or goes along, is told,
/// and stops neither its own job nor the others, nor the next start. Method: the daemon as `nobody`, folders
/// of root's in every place that a worker has; kills while one stands there, and before a file has left it.
#[test]
fn what_another_user_made_stops_nobody() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(BY_OTHERS);
    spool.write("w.sh", BY_OTHERS_SH);
    std::fs::create_dir_all(spool.path("incoming/d")).unwrap();
    let mut daemon = spool.daemon_as_nobody();
    let (at, go) = (spool.path("at"), spool.path("go"));
    let wait_for_it = || spool.wait_until("its worker waits", || at.exists());
    for mode in [0o755, 0o700] {
        for what in ["d/beside", "beside-fails", "output", "output-fails", "scratch", "handed"] {
            let rel = format!("{what}-{mode:o}");
            spool.drop_file(&rel, "x");
            wait_for_it();
            let theirs = std::fs::read_to_string(&at).unwrap();
            let theirs = Path::new(theirs.trim_end()).join("theirs");
            std::fs::create_dir(&theirs).unwrap();
            std::fs::write(theirs.join("f"), "theirs").unwrap();
            std::fs::set_permissions(&theirs, PermissionsExt::from_mode(mode)).unwrap();
            unlink(&at).unwrap();
            if what == "d/beside" {
                daemon.kill_all();
                daemon = spool.daemon_as_nobody();
                wait_for_it();
                unlink(&at).unwrap();
            }
            spool.drop_file("plain", "x");
            std::fs::write(&go, "").unwrap();
            // What cannot be handed on is no success. A folder that nobody can look into has nothing to hand on.
            let is_failed = what.ends_with("fails") || rel == "handed-755";
            let settled = format!("{}/{rel}", if is_failed { "error" } else { "done" });
            spool.wait_until("both are settled", || spool.has(&settled) && spool.has("done/plain"));
            unlink(&go).unwrap();
            unlink(spool.path("done/plain")).unwrap();
        }
    }
    let made = "theirs/f in a folder of another user";
    assert!(spool.reason("handed-755").contains(made), "{}", spool.report());
    for made in ["output-755", "output-700", "handed-700"] {
        assert!(spool.has(&format!("output/{made}/theirs/f")), "{made}: {}", spool.report());
    }
    let left = || {
        let all = std::fs::read_dir(spool.path("processing")).unwrap();
        let all = all.map(|it| it.unwrap().path());
        all.filter(|path| path.extension() == Some("left".as_ref())).collect::<Vec<_>>()
    };
    assert_eq!(left().len(), 4, "{}", spool.report());
    // What is ours goes along, whatever stands beside it.
    let own = |folder: &str| spool.names(folder).iter().filter(|it| it.contains("own")).count();
    assert_eq!((own("processing"), own("done"), own("error")), (0, 8, 8), "{}", spool.report());
    daemon.wait_for_log("what a worker left stays");
    spool.run(&["status"]).ok().says("4 folders stay after their jobs, such as inbox/processing/");

    daemon.kill_all();
    let before = left().into_iter().find(|path| path.join("d").is_dir()).unwrap().join("d");
    // Whichever of the two is listed first.
    let theirs = std::fs::metadata(before.join("theirs")).unwrap().permissions().mode();
    let done = spool.path(&format!("done/d/beside-{:o}", theirs & 0o777));
    rename(&done, before.join(done.file_name().unwrap())).unwrap();
    daemon = spool.daemon_as_nobody();
    assert!(done.exists(), "{}", spool.report());
    daemon.wait_for_log("what a worker left stays");
    daemon.end_well();
}

/// Goal: a worker that gives its very job folder to another user (`chown -R` in a container) stops neither the
/// other jobs nor the next start, though its file can go nowhere. Method: the daemon as `nobody`, root takes the
/// folder of a job that succeeds and of one that fails, in modes that show more and less of it.
#[test]
fn a_job_folder_given_away_stops_nobody() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(BY_OTHERS);
    spool.write("w.sh", BY_OTHERS_SH);
    let mut daemon = spool.daemon_as_nobody();
    let (at, go) = (spool.path("at"), spool.path("go"));
    let mut left = Vec::new();
    for (n, mode) in [0o755, 0o744, 0o700, 0o755].into_iter().enumerate() {
        let rel = if n == 3 { "beside-fails-".to_owned() } else { format!("beside-{mode:o}") };
        spool.drop_file(&rel, "x");
        spool.wait_until("its worker waits", || at.exists());
        let theirs = std::fs::read_to_string(&at).unwrap();
        let theirs = Path::new(theirs.trim_end());
        std::os::unix::fs::chown(theirs, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(theirs, PermissionsExt::from_mode(mode)).unwrap();
        unlink(&at).unwrap();
        std::fs::write(&go, "").unwrap();
        left.push(theirs.with_file_name(format!(
            "{}.left/{rel}",
            theirs.file_name().unwrap().to_str().unwrap()
        )));
        let file = left.last().unwrap();
        spool.wait_until("it is settled as far as can be", || file.exists());
        spool.drop_file("plain", "x");
        spool.wait_until("the next one is settled", || spool.has("done/plain"));
        unlink(&go).unwrap();
        unlink(spool.path("done/plain")).unwrap();
        if n % 2 == 0 {
            daemon.kill_all();
            daemon = spool.daemon_as_nobody();
        }
    }
    daemon.wait_for_log("what a worker left stays");
    daemon.end_well();
    assert!(left.iter().all(|file| file.exists()), "{}", spool.report());
}

/// Goal: who protects a CSV, so that nobody spoils it, has it left alone as everyone who touches one; the
/// next rows are in a new one, and no route waits for it. Method: read-only and closed, between two starts.
#[test]
fn a_csv_that_is_protected_is_left_alone() {
    let spool = Spool::new("[routes.main]\ncommand = [\"cat\", \"{path}\"]\n");
    for (n, mode) in [(1, 0o640), (2, 0o444), (3, 0o000)] {
        if n > 1 {
            let csv = spool.path("results/main.csv");
            std::fs::set_permissions(csv, PermissionsExt::from_mode(mode)).unwrap();
        }
        spool.drop_file(n.to_string(), n.to_string());
        let daemon = start(&spool);
        spool.wait_until("it is done", || spool.has(&format!("done/{n}")));
        daemon.end_well();
        assert_eq!(spool.csv("main").column("text"), [n.to_string()], "{}", spool.report());
    }
    spool.run(&["results", "main"]).ok().says("\n1,").says("\n2,").says("\n3,");
    let said = spool.run_under(as_others(), &["results", "main"], b"").code(1);
    said.says(".2.csv: Permission denied");
}

/// Goal: a folder of the spool's own that cannot be written in is named by `check`, and in a refused claim it is
/// not `incoming/` that is blamed. Method: each of them protected; for `processing/` a batch, too.
#[test]
fn a_protected_folder_of_the_spool_is_named() {
    let spool = Spool::new("[routes.main]\ncommand = [\"cat\", \"{path}\"]\n");
    spool.run(&["batch"]).ok();
    spool.run_under(as_others(), &["check"], b"").ok();
    for name in ["journal", "processing", "done", "error", "error/.why", "output", "results"] {
        let mode = |mode| {
            let folder = spool.path(name);
            std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(0o550);
        let said = spool.run_under(as_others(), &["check"], b"").code(2);
        said.says(&format!("chmod u+rwx inbox/{name}"));
        if name == "processing" {
            spool.drop_file("x", "x");
            let said = spool.run_under(as_others(), &["batch"], b"");
            said.says("processing/ does not let inboxd write in it: chmod u+rwx processing");
        }
        mode(0o750);
    }
    spool.run_under(as_others(), &["batch"], b"").ok();
    assert_eq!(spool.names("done"), ["x"], "{}", spool.report());
}

/// Goal: a folder of `done/`, `error/` or `output/` in which we may make nothing (made by root, perhaps) ends no
/// daemon and holds nobody up: what would go there goes into one of our own. Method: each of them closed, and the
/// one of the reasons; a good and a bad file for it, with what they made, and a file for elsewhere.
#[test]
fn a_closed_folder_among_the_settled_ends_nothing() {
    for closed in ["done", "error", "error/.why", "output"] {
        let spool = Spool::new(
            "workers = 1\n[routes.main]\noutput = true\nstdout = \"none\"\ncommand = [\"sh\", \"-c\", \
             \"case $INBOXD_NAME in bad*) exit 1;; esac; : > $INBOXD_OUTPUT/made\"]\n",
        );
        let daemon = start(&spool);
        let settled = |tag: &str| {
            spool.drop_file(format!("sub/good{tag}"), "x");
            spool.drop_file(format!("sub/bad{tag}"), "x");
            let ends = |names: Vec<String>, with: &str| names.iter().any(|it| it.ends_with(with));
            spool.wait_until("both are settled", || {
                ends(spool.names("done"), &format!("/good{tag}"))
                    && ends(spool.errors(), &format!("/bad{tag}"))
            });
        };
        settled("1");
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(spool.path(&format!("{closed}/sub")), mode(0o555)).unwrap();
        settled("2");
        spool.drop_file("elsewhere", "x");
        spool.wait_until("the other is done", || spool.has("done/elsewhere"));
        let below = |folder| {
            let names = spool.names(folder);
            let is_new = |name: &&String| name.contains('2') && name.starts_with("sub");
            let [name] = names.iter().filter(is_new).collect::<Vec<_>>().try_into().unwrap();
            name.strip_prefix("sub/").is_none()
        };
        let beside = [below("done"), below("error"), below("output")];
        let is_error = closed.starts_with("error");
        assert_eq!(beside, [closed == "done", is_error, closed == "output"], "{}", spool.report());
        assert_eq!(spool.names("processing"), Vec::<String>::new());
        std::fs::set_permissions(spool.path(&format!("{closed}/sub")), mode(0o755)).unwrap();
        daemon.end_well();
    }
}

/// Takes the attribute from all below the spool, whatever became of the test.
struct Fixed<'a>(&'a Spool);

impl Drop for Fixed<'_> {
    fn drop(&mut self) {
        let mut chattr = Command::new("chattr");
        chattr.args(["-R", "-i"]).arg(self.0.root()).output().unwrap();
    }
}

/// Whether this may be made immutable here.
fn fix(path: &Path) -> bool {
    let done = Command::new("chattr").arg("+i").arg(path).output();
    let is_done = done.as_ref().is_ok_and(|it| it.status.success());
    if !is_done {
        eprintln!("skipped: not root, or a filesystem without attributes");
    }
    is_done
}

/// Goal: what a worker made immutable ends no daemon: its job is settled, what nobody may move stays and is
/// said, and neither other jobs nor the next start are held up. Method: its input, a file beside it, its
/// folder, for one attempt and for two, and the one above, a file in its scratch folder, one that it made, for itself
/// and for `next`, and the folder of that; a restart.
#[test]
fn what_nobody_may_move_stops_nobody() {
    let spool = Spool::new(&BY_OTHERS.replace(
        "[routes.handed]",
        "[routes.twice]\nglob = \"**/twice*\"\nretries = { fail = 1, first_wait = \"1ms\" }\n\
         command = [\"sh\", \"w.sh\"]\n[routes.handed]",
    ));
    spool.write(
        "w.sh",
        "at=${INBOXD_PATH%/*}\ncase $INBOXD_NAME in\nfolder*) chattr +i $at;;\njob*) chattr +i $at/..;;\n\
         twice*) chattr +i $at/..; exit 1;;\ninput*) chattr +i $INBOXD_PATH;;\n\
         beside*) : > $at/b; chattr +i $at/b;;\nscratch*) : > $INBOXD_SCRATCH/s; chattr +i $INBOXD_SCRATCH/s;;\n\
         made* | handed*) : > $INBOXD_OUTPUT/m; chattr +i $INBOXD_OUTPUT/m;;\noutput*) chattr +i $INBOXD_OUTPUT;;\n\
         esac\n",
    );
    spool.write("probe", "");
    let _fixed = Fixed(&spool);
    if !fix(&spool.path("probe")) {
        return;
    }
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    let all = ["input", "beside", "folder", "job", "twice", "scratch", "made", "handed", "output"];
    for name in all {
        spool.drop_file(format!("sub/{name}"), "x");
        let plain = format!("sub/plain-{name}");
        spool.drop_file(&plain, "x");
        let is_failed = ["twice", "handed", "output"].contains(&name);
        let stays = ["input", "folder"].contains(&name);
        let settled = format!("{}/sub/{name}", if is_failed { "error" } else { "done" });
        spool.wait_until("both are settled", || {
            spool.has(&format!("done/{plain}")) && (stays || spool.has(&settled))
        });
    }
    assert!(spool.has("output/sub/made/m"), "{}", spool.report());
    for name in ["sub/handed", "sub/output"] {
        assert!(spool.reason(name).contains("immutable or append-only"), "{}", spool.report());
    }
    let stays = |name: &str| spool.names("processing").iter().any(|it| it.ends_with(name));
    for name in [".left/sub/input", ".left/sub/b", ".left/sub/folder"] {
        assert!(stays(name), "{name}: {}", spool.report());
    }
    assert!(spool.reason("sub/twice").contains("cannot be renamed"), "{}", spool.report());
    spool.run(&["status"]).ok().says("folders stay after their jobs").says("chattr -ia");
    assert_eq!(daemon.daemon_pid(), pid, "it ended and was started again");
    daemon.end_well();
    let daemon = spool.daemon();
    daemon.wait_for_log("what a worker left stays");
    spool.drop_file("last", "x");
    spool.wait_until("the job after a start is done", || spool.has("done/last"));
    daemon.end_well();
}

/// Goal: a CSV that nobody may change ends nothing: everything waits, it is named with what to do, and all goes on by
/// itself; no row is missing or there twice. Method: chattr +i before a batch, and while a daemon has it open; undone
/// once it is said.
#[test]
fn an_immutable_csv_is_waited_for() {
    let spool = Spool::new("[routes.main]\ncommand = [\"cat\", \"{path}\"]\n");
    spool.drop_file("1", "1");
    spool.run(&["batch"]).ok();
    let csv = spool.path("results/main.csv");
    let fixed = Fixed(&spool);
    if !fix(&csv) {
        return;
    }
    spool.drop_file("2", "2");
    let mut batch = spool.start(&["batch"]);
    batch.wait_for_log("cannot rename results/main.csv: Operation not permitted");
    batch.wait_for_log("chattr -ia");
    drop(fixed);
    assert_eq!(batch.wait().code(), Some(0), "{}", batch.log());
    let daemon = spool.daemon();
    spool.drop_file("3", "3");
    spool.wait_until("it is done", || spool.has("done/3"));
    let fixed = Fixed(&spool);
    assert!(fix(&csv));
    spool.drop_file("4", "4");
    daemon.wait_for_log("results/main.csv: Operation not permitted");
    daemon.wait_for_log("chattr -ia");
    spool
        .run(&["status"])
        .ok()
        .says("a CSV may not be written or renamed; nothing is claimed until it may be");
    drop(fixed);
    spool.wait_until("it goes on", || spool.has("done/4"));
    daemon.end_well();
    let rows = spool.run(&["results", "main"]).ok().stdout();
    let mut rows: Vec<&str> = rows.lines().skip(1).map(|row| &row[..1]).collect();
    rows.sort_unstable();
    assert_eq!(rows, ["1", "2", "3", "4"], "{}", spool.report());
}
