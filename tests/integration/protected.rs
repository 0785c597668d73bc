//! Workers that take the rights on their own folders away, beside a daemon that has no others than theirs.
//!
//! Must not know: how the daemon helps itself; only that it goes on, and that nothing is left behind.

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
fn start(spool: &Spool) -> Running {
    let as_others = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"];
    let wrapper = if rustix::process::geteuid().is_root() { as_others.as_slice() } else { &[] };
    let daemon = spool.start_under(wrapper, &["run"]);
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
