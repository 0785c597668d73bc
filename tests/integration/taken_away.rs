//! Someone removes or moves a folder of the spool, or a file of ours in it, while it is served: tidying up is no
//! reason to lose a file.
//!
//! Must not know: how folders are held open.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Running, Spool};

/// Files called `bad…` fail.
const SETTINGS: &str = "workers = 1\n[routes.main]\n\
    command = [\"sh\", \"-c\", \"case {name} in bad*) exit 1;; esac; echo made > {output}/made; cat {path}\"]\n\
    output = true\nstdout = \"text\"\n";

fn served() -> (Spool, Running) {
    served_with(SETTINGS)
}

fn served_with(settings: &str) -> (Spool, Running) {
    let spool = Spool::new(settings);
    let daemon = spool.daemon();
    process(&spool, "1");
    (spool, daemon)
}

/// Drops a good and a bad file and waits until both are where they belong.
fn process(spool: &Spool, tag: &str) {
    let (good, bad) = (format!("good{tag}"), format!("bad{tag}"));
    spool.drop_file(&good, "row\n");
    spool.drop_file(&bad, "row\n");
    spool.wait_until("both are settled", || {
        spool.has(&format!("done/{good}")) && spool.has(&format!("error/{bad}"))
    });
    assert!(spool.has(&format!("output/{good}/made")), "{}", spool.report());
    assert_eq!(spool.reason(&bad), "exit 1");
}

fn remove(spool: &Spool, folder: &str) {
    #[expect(clippy::disallowed_methods, reason = "what a user does to a spool of this test")]
    fs::remove_dir_all(spool.path(folder)).unwrap();
}

/// Goal: who clears `done/`, `error/` or `output/` by removing it, or by moving it away, finds all that is
/// settled later in a new one, and the file of no job vanishes. Method: each folder, removed, moved away,
/// and moved away with another one put in its place; after each a good and a bad file.
#[test]
fn cleared_folders_are_made_again_and_lose_no_file() {
    let (spool, daemon) = served();
    let mut tag = 1;
    for folder in ["done", "error", "output"] {
        for way in ["removed", "moved", "replaced"] {
            let aside: PathBuf = spool.path(&format!("{folder}.{way}"));
            if way == "removed" {
                remove(&spool, folder);
            } else {
                rustix::fs::rename(spool.path(folder), &aside).unwrap();
            }
            if way == "replaced" {
                fs::create_dir(spool.path(folder)).unwrap();
            }
            let before = fs::read_dir(&aside).map(Iterator::count).unwrap_or_default();
            tag += 1;
            process(&spool, &tag.to_string());
            let after = fs::read_dir(&aside).map(Iterator::count).unwrap_or_default();
            assert_eq!(before, after, "{folder} {way}: files went to where nobody looks");
        }
    }
    let told = || daemon.log().lines().filter(|line| line.contains("folder was replaced")).count();
    // Nine times, and three times `error/.why` with `error/`. The last file is there before it is told of.
    spool.wait_until("each is told of", || told() >= 12);
    assert_eq!(told(), 12, "{}", daemon.log());
    assert!(daemon.end().success());
    assert_eq!(spool.names("processing"), Vec::<String>::new());
}

/// Goal: without `processing/`, `journal/` or `results/` nothing can be promised: the daemon ends at once and
/// says which is missing, and the next start goes on. Method: each removed while it is served, then a file.
#[test]
fn what_nothing_works_without_is_missed_at_once() {
    for folder in ["processing", "journal", "results"] {
        let (spool, mut daemon) = served();
        remove(&spool, folder);
        spool.drop_file("next", "row\n");
        assert_eq!(daemon.wait().code(), Some(1), "{folder}");
        let told = format!("{folder}/ was removed or replaced while inboxd ran");
        assert!(daemon.log().contains(&told), "{}", daemon.log());
        let again = spool.daemon();
        spool.wait_until("the next file is done", || spool.has("done/next"));
        process(&spool, "2");
        assert!(again.end().success());
    }
}

/// Goal: `incoming/` too may be removed and made again. Method: so, with a file dropped into the new one, and
/// without making it, with a file once the daemon has.
#[test]
fn another_incoming_is_served() {
    let (spool, daemon) = served();
    remove(&spool, "incoming");
    fs::create_dir(spool.path("incoming")).unwrap();
    process(&spool, "2");
    remove(&spool, "incoming");
    spool.wait_until("there is an incoming/ again", || spool.has("incoming"));
    process(&spool, "3");
    assert!(daemon.end().success());
}

/// Goal: too few descriptors to open a new `incoming/` end no daemon: it is opened once there are more. Method: its
/// limit as low as what it has open, while `incoming/` is another; then a higher one, and a file.
#[test]
fn another_incoming_waits_for_descriptors() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let (spool, daemon) = served();
    let pid = Pid::from_raw(i32::try_from(daemon.daemon_pid()).unwrap());
    let limited =
        |most| prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), maximum: Some(1024) });
    limited(3).unwrap();
    remove(&spool, "incoming");
    fs::create_dir(spool.path("incoming")).unwrap();
    daemon.wait_for_log("cannot open incoming/ again");
    limited(1024).unwrap();
    process(&spool, "2");
    assert!(daemon.end().success());
}

/// Goal: who clears `log/` does not end the job log, nor does what stood in its way at the start, which is said
/// once. Method: a file in its place for two jobs, then nothing; the folder removed; its file replaced.
#[test]
fn a_removed_job_log_is_begun_anew() {
    let spool = Spool::new(SETTINGS);
    spool.write("log", "");
    let daemon = spool.daemon();
    process(&spool, "-early");
    process(&spool, "-later");
    assert_eq!(daemon.log().matches("job log cannot be written").count(), 1, "{}", daemon.log());
    rustix::fs::unlink(spool.path("log")).unwrap();
    process(&spool, "1");
    let knows = |tag: &str| {
        let name = format!("good{tag}");
        spool.wait_until("it is in the job log", || spool.run(&["jobs"]).stdout().contains(&name));
    };
    knows("1");
    remove(&spool, "log");
    process(&spool, "2");
    knows("2");
    rustix::fs::rename(spool.path("log/jobs.1.ndjson"), spool.path("log/old")).unwrap();
    process(&spool, "3");
    knows("3");
    daemon.end_well();
}

/// Goal: where it is not the disk that fails, nobody is sent to look at the disk. Method: a file in place of
/// `done/` under a running daemon; a spool whose path leads nowhere, which is none that `init` would mend.
#[test]
fn what_stands_in_the_way_is_not_called_a_disk() {
    let (spool, mut daemon) = served();
    remove(&spool, "done");
    spool.write("done", "");
    spool.drop_file("x", "row\n");
    assert_eq!(daemon.wait().code(), Some(1));
    let log = daemon.log();
    assert!(log.contains("Look at what is there (ls -ld, lsattr -d)"), "{log}");
    rustix::fs::symlink("loop", spool.home().join("loop")).unwrap();
    let said = spool.run(&["--spool", "loop", "status"]).code(1).both();
    assert!(said.contains("cannot read loop/inboxd.toml: Too many"), "{said}");
}

/// Goal: a start that finds a CSV of a killed run edited or taken away says so, and which rows stand in its new
/// one; no row is lost by it. Method: each way to change it; `batch`, which has nothing else to do.
#[test]
fn a_csv_that_is_not_as_the_killed_run_left_it_is_named() {
    for (way, what) in [
        ("edited", "results/main.csv is not as inboxd wrote it"),
        ("replaced", "results/main.csv is not as inboxd wrote it"),
        ("moved", "results/main.csv was removed or moved away: a new one begins"),
    ] {
        let (spool, mut daemon) = served();
        daemon.kill_all();
        let (csv, other) = (spool.path("results/main.csv"), spool.path("results/other"));
        let text = fs::read_to_string(&csv).unwrap();
        match way {
            "edited" => spool.write("results/main.csv", &text.replace("row", "a longer row")),
            "replaced" => {
                spool.write("results/other", &text);
                rustix::fs::rename(other, csv).unwrap();
            }
            _ => rustix::fs::rename(csv, other).unwrap(),
        }
        let said = spool.run(&["batch"]).ok().says("nothing to do");
        said.says(what).says("It begins with 1 row that the old one may hold, too");
        assert_eq!(spool.csv("main").column("text"), ["row"], "{way}: {}", spool.report());
    }
}

/// Goal: who takes `journal/` away while jobs stand in `processing/` hears what that does to them, and each is
/// run. Method: a kill while a worker waits; no journal; `batch`.
#[test]
fn a_journal_that_is_gone_is_missed_by_the_next_start() {
    let spool = Spool::new(
        "[routes.main]\ncommand = [\"sh\", \"-c\", \"until [ -e go ]; do sleep 0.1; done\"]\n",
    );
    let mut daemon = spool.daemon();
    spool.drop_file("x", "x");
    spool.wait_until("it runs", || daemon.workers().len() == 1);
    daemon.kill_all();
    remove(&spool, "journal");
    spool.write("go", "");
    let said = spool.run(&["batch"]).ok().says("1 done");
    said.says("journal/ knows nothing of 1 job in processing/: it was removed or replaced");
    assert_eq!(spool.names("done"), ["x"]);
}

/// Goal: what stands in place of a file of the journal ends a start with its name, and with what to look at,
/// which is not the disk; without it all goes on. Method: a folder and a FIFO in place of each.
#[test]
fn what_stands_in_place_of_the_journals_files_is_named() {
    let (spool, daemon) = served();
    daemon.end_well();
    let own = ["spare", "waiting"];
    let names = spool.names("journal");
    let live = names.iter().find(|name| !own.contains(&name.as_str())).unwrap();
    for name in [live.as_str(), "waiting"] {
        let (place, aside) = (spool.path(&format!("journal/{name}")), spool.home().join("aside"));
        for (kind, why) in [("folder", "Is a directory"), ("fifo", "not a regular file")] {
            let had = rustix::fs::rename(&place, &aside).is_ok();
            let mode = rustix::fs::Mode::from_raw_mode(0o700);
            match kind {
                "folder" => rustix::fs::mkdir(&place, mode).unwrap(),
                _ => rustix::fs::mkfifoat(rustix::fs::CWD, &place, mode).unwrap(),
            }
            let said = spool.run(&["batch"]).code(1);
            said.says(&format!("journal/{name}: {why}")).says("Look at what is there (ls -ld");
            match kind {
                "folder" => rustix::fs::rmdir(&place).unwrap(),
                _ => rustix::fs::unlink(&place).unwrap(),
            }
            if had {
                rustix::fs::rename(&aside, &place).unwrap();
            }
        }
    }
    let daemon = spool.daemon();
    process(&spool, "2");
    daemon.end_well();
}

/// Goal: a spool that is renamed while it is served eats no backlog: what runs finds no file under its path, and
/// that is not the file's fault. Method: renamed after a job of each route; files dropped there stay, and
/// `status` says why; back in its place, with a program that has just changed, they run.
#[test]
fn a_spool_that_is_renamed_fails_no_file() {
    let spool = Spool::new(
        "workers = 1\n[routes.once]\nglob = \"once*\"\ncommand = [\"sh\", \"read.sh\", \"{path}\"]\n\
         [routes.stays]\npython = \"size.py:size\"\ninterpreter = \"$PYTHON\"\n",
    );
    let script = "exec cat \"$1\"\n";
    spool.write("read.sh", script);
    spool.write("size.py", "def size(path):\n    return {'n': len(open(path).read())}\n");
    let daemon = spool.daemon();
    spool.drop_file("once1", "1");
    spool.drop_file("stays1", "1");
    spool.wait_until("both have run", || spool.names("done") == ["once1", "stays1"]);

    let away = spool.home().join("away");
    rustix::fs::rename(spool.root(), &away).unwrap();
    for name in ["once2", "stays2"] {
        fs::write(spool.home().join(name), "22").unwrap();
        rustix::fs::rename(spool.home().join(name), away.join("incoming").join(name)).unwrap();
    }
    daemon.wait_for_log("the spool is no longer at");
    let fix = "Fix that: move it back, or end inboxd and start it where the spool is now";
    let status = || spool.run(&["--spool", "away", "status"]).ok().stdout();
    spool.wait_until("both routes are paused", || status().matches(fix).count() == 2);

    rustix::fs::rename(&away, spool.root()).unwrap();
    assert_eq!(spool.names("error"), Vec::<String>::new(), "{}", spool.report());
    spool.write("read.sh", script);
    spool.write("size.py", "def size(path):\n    return {'n': len(open(path).read()) + 1}\n");
    let all = ["once1", "once2", "stays1", "stays2"];
    spool.wait_until("all have run", || spool.names("done") == all);
    daemon.end_well();
}

/// Goal: who removes the socket does not cut the daemon off: commands find it again, and none takes it for
/// stopped, or believes that it serves when it does not. Method: removed; a file in its place, as of a restored
/// backup; with a rescan of an hour, where nobody looks yet.
#[test]
fn a_removed_socket_is_made_again() {
    let (spool, daemon) = served_with(&format!("rescan = \"100ms\"\n{SETTINGS}"));
    for way in ["removed", "replaced"] {
        rustix::fs::unlink(spool.path("inboxd.sock")).unwrap();
        if way == "replaced" {
            spool.write("inboxd.sock", "");
        }
        let says_running = || spool.run(&["status"]).both().contains("RUNNING pid");
        spool.wait_until("the daemon listens again", says_running);
    }
    daemon.end_well();
    assert!(!spool.has("inboxd.sock"));

    let (spool, daemon) = served_with(&format!("rescan = \"1h\"\n{SETTINGS}"));
    rustix::fs::unlink(spool.path("inboxd.sock")).unwrap();
    let busy = format!("BUSY pid {}", daemon.daemon_pid());
    spool.run(&["status"]).ok().says(&busy);
    daemon.end_well();
    spool.run(&["status"]).ok().says("STOPPED");
}

/// Goal: a file of the journal that is taken away, cut or put back from a backup while it is written to costs
/// nothing: all that counts is written to a new one, so that a kill loses and repeats no row. Method: each, in
/// the middle of an input of records; three more of them; all killed, and started again.
#[test]
fn a_journal_file_that_is_taken_away_is_made_good() {
    for way in ["removed", "cut", "restored"] {
        let spool = Spool::new(
            "workers = 1\n[routes.main]\nrecords = \"lines\"\nstdout = \"text\"\n\
             command = [\"sh\", \"-c\", \"while [ -e gate$1 ]; do sleep 0.02; done; echo $1\", \"-\", \"{record}\"]\n",
        );
        let rows = || {
            let csvs = spool.names("results");
            let csvs = csvs.iter().filter_map(|name| name.strip_suffix(".csv"));
            let rows = csvs.map(|name| spool.csv(name).column("text"));
            let mut rows: Vec<String> = rows.flatten().collect();
            rows.sort();
            rows
        };
        let segments = || {
            let names = spool.names("journal").into_iter();
            names.filter(|name| name.strip_suffix(".log").is_some()).collect::<Vec<_>>()
        };
        spool.write("gate3", "");
        spool.write("gate6", "");
        let mut daemon = spool.daemon();
        spool.drop_file("x", "1\n2\n3\n4\n5\n6\n7\n");
        spool.wait_until("two have run", || spool.has("results/main.csv") && rows().len() == 2);
        let [before] = segments().try_into().unwrap();
        let path = spool.path(&format!("journal/{before}"));
        match way {
            "removed" => rustix::fs::unlink(&path).unwrap(),
            "cut" => fs::write(&path, "").unwrap(),
            _ => {
                let copy = spool.path("journal/copy");
                fs::copy(&path, &copy).unwrap();
                rustix::fs::rename(&copy, &path).unwrap();
            }
        }
        rustix::fs::unlink(spool.path("gate3")).unwrap();
        spool.wait_until("three more have run", || rows().len() == 5);
        daemon.wait_for_log("journal was changed by someone else");
        let is_begun = || segments().iter().any(|name| *name != before);
        spool.wait_until("a new one is begun", is_begun);
        daemon.kill_all();
        rustix::fs::unlink(spool.path("gate6")).unwrap();
        let daemon = spool.daemon();
        spool.wait_until("all have run", || spool.has("done/x"));
        assert_eq!(rows(), ["1", "2", "3", "4", "5", "6", "7"], "{way}: {}", spool.report());
        daemon.end_well();
    }
}
