//! What stands in the place of a folder that a worker was given, or is another user's by the end: neither its own
//! job nor another one suffers more than it must, nor does the next start.
//!
//! Must not know: how the daemon helps itself.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::unlink;

use crate::harness::Spool;

const SETTINGS: &str = "workers = 1\nrescan = \"100ms\"\n[routes.main]\noutput = true\n\
    stdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n";

fn spool(script: &str) -> Spool {
    let spool = Spool::new(SETTINGS);
    spool.write("w.sh", script);
    spool
}

/// By its name each file's worker puts something else in the place of a folder; `kill-` ends the daemon then.
const PLACES_SH: &str = r#"
[ "$INBOXD_ATTEMPT" = 1 ] || exit 0
case "$INBOXD_REL" in
*job*) at=$(dirname "$INBOXD_PATH"); mv "$at" "$at.away" ;;
*output*) at="$INBOXD_OUTPUT"; rmdir "$at" ;;
*scratch*) at="$INBOXD_SCRATCH"; rmdir "$at" ;;
esac
case "$INBOXD_REL" in
*link) mkdir -p kept; ln -s "$PWD/kept" "$at" ;;
*file) touch "$at" ;;
esac
case "$INBOXD_REL" in kill-*) kill -9 $PPID; sleep 600 ;; esac
"#;

/// Goal: what a worker puts in the place of its folders (a link to where there is more room) harms no other job.
/// Method: a link and a file in the place of each, before plain jobs.
#[test]
fn what_stands_in_place_of_a_folder_holds_up_nobody() {
    let spool = spool(PLACES_SH);
    let daemon = spool.daemon();
    for what in ["job", "output", "scratch"] {
        for way in ["link", "file"] {
            spool.drop_file(format!("{what}-{way}"), "x");
            spool.wait_until("it is over", || {
                let log = spool.run(&["jobs", "--json"]).stdout();
                log.contains(&format!("\"{what}-{way}\""))
            });
            spool.drop_file("plain", "x");
            spool.wait_until("a plain one is done", || spool.has("done/plain"));
            unlink(spool.path("done/plain")).unwrap();
        }
    }
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: nor does it keep the next daemon from its start. Method: the same, and the daemon is killed under it.
#[test]
fn what_stands_in_place_of_a_folder_stops_no_start() {
    for what in ["job", "output", "scratch"] {
        for way in ["link", "file"] {
            let spool = spool(PLACES_SH);
            let name = format!("kill-{what}-{way}");
            let mut daemon = spool.daemon();
            spool.drop_file(&name, "x");
            assert!(!daemon.wait().success());
            spool.drop_file("plain", "x");
            spool.run(&["batch"]).ok();
            let done = spool.names("done");
            assert!(done.contains(&"plain".to_owned()), "{what}, {way}: {done:?}");
            // Where its folder is another one, nobody knows where its input went.
            assert!(what == "job" || done.contains(&name), "{what}, {way}: {done:?}");
        }
    }
}

const BY_OTHERS: &str = "quiet_for = \"50ms\"\n[routes.handed]\nglob = \"handed*\"\noutput = true\nnext = \"main\"\n\
    stdout = \"none\"\ncommand = [\"sh\", \"w.sh\"]\n[routes.main]\noutput = true\nstdout = \"none\"\n\
    command = [\"sh\", \"w.sh\"]\n";

/// Makes a file, says where, and waits until it may go on.
const BY_OTHERS_SH: &str = r#"
case $INBOXD_NAME in handed* | output*) ;; *) : > "$INBOXD_SCRATCH/t"; exit;; esac
echo "$INBOXD_SCRATCH" > scratch
echo own > "$INBOXD_OUTPUT/own"
echo "$INBOXD_OUTPUT" > at.tmp; mv at.tmp at
until [ -e go ]; do sleep 0.02; done
"#;

/// Goal: what a container made as root in the output folder, or that folder itself given to root, stops neither the
/// other jobs nor the next start, and nothing that was made is deleted. Method: the daemon as `nobody`; root makes a
/// folder there that we cannot look into or not empty, or takes the very folder, or the scratch folder; with `next` and
/// without it.
#[test]
fn made_files_of_another_user_stop_nobody() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(BY_OTHERS);
    spool.write("w.sh", BY_OTHERS_SH);
    let mut daemon = spool.daemon_as_nobody();
    let (at, go) = (spool.path("at"), spool.path("go"));
    let set_mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    for route in ["handed", "output"] {
        let ways = ["file", "folder", "scratch", "all"].map(|what| (what, 0o755));
        for (what, mode) in [("file", 0o700), ("all", 0o700)].into_iter().chain(ways) {
            if (route, what, mode) == ("handed", "file", 0o755) {
                // Then it fails, as a test of what is protected says.
                continue;
            }
            let rel = format!("{route}-{what}-{mode:o}");
            spool.drop_file(&rel, "x");
            spool.wait_until("its worker waits", || at.exists());
            let made = std::fs::read_to_string(&at).unwrap();
            let made = Path::new(made.trim_end());
            let theirs = made.join("theirs");
            let scratch = std::fs::read_to_string(spool.path("scratch")).unwrap();
            let give = |path: &Path| {
                std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
                set_mode(path, mode);
            };
            match what {
                "all" => give(made),
                "scratch" => give(Path::new(scratch.trim_end())),
                "file" => {
                    std::fs::create_dir(&theirs).unwrap();
                    std::fs::write(theirs.join("f"), "theirs").unwrap();
                    set_mode(&theirs, mode);
                }
                _ => std::fs::create_dir_all(theirs.join("empty")).unwrap(),
            }
            unlink(&at).unwrap();
            std::fs::write(&go, "").unwrap();
            // What cannot be handed on is no success; where nobody can look there is nothing to hand on.
            let is_failed = rel == "handed-all-755";
            let settled = format!("{}/{rel}", if is_failed { "error" } else { "done" });
            spool.wait_until("it is settled", || spool.has(&settled));
            spool.drop_file("plain", "x");
            spool.wait_until("the next one is settled", || spool.has("done/plain"));
            unlink(&go).unwrap();
            unlink(spool.path("done/plain")).unwrap();
            if what == "all" || what == "folder" {
                daemon.kill_all();
                daemon = spool.daemon_as_nobody();
            }
            let name = made.file_name().unwrap().to_str().unwrap().replace(".out", ".left");
            let kept = match (route, what) {
                _ if is_failed => continue,
                (_, "all") => format!("processing/{name}/own"),
                ("handed", _) => format!("done/{rel}.made/own"),
                _ => format!("output/{rel}/own"),
            };
            spool.wait_until("it is where it belongs", || spool.has(&kept));
            assert!(what != "file" || spool.has(&format!("output/{rel}/theirs/f")), "{rel}");
        }
    }
    daemon.wait_for_log("what a worker left stays");
    daemon.end_well();
}

/// Goal: an attempt that is taken back begins again, whatever another user made in its folders meanwhile; that stays.
/// Method: the daemon as `nobody`; root makes a file in the scratch and the output folder of a worker that then says
/// that it is misconfigured; its script is mended.
#[test]
fn an_attempt_begins_again_beside_what_another_user_made() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(BY_OTHERS);
    spool.write(
        "w.sh",
        "echo \"$INBOXD_SCRATCH $INBOXD_OUTPUT\" > at.tmp; mv at.tmp at\n\
         until [ -e go ]; do sleep 0.02; done\nexit 127\n",
    );
    let daemon = spool.daemon_as_nobody();
    spool.drop_file("x", "x");
    spool.wait_until("its worker waits", || spool.has("at"));
    let folders = std::fs::read_to_string(spool.path("at")).unwrap();
    for folder in folders.split_whitespace() {
        let theirs = Path::new(folder).join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::fs::write(theirs.join("f"), "theirs").unwrap();
    }
    spool.write("go", "");
    daemon.wait_for_log("route paused");
    spool.write("w.sh", "echo own > $INBOXD_OUTPUT/own\n");
    spool.wait_until("it is done", || spool.has("done/x"));
    assert!(spool.has("output/x/own"), "{}", spool.report());
    daemon.end_well();
    let kept = spool.names("processing");
    assert_eq!(kept.iter().filter(|it| it.ends_with("/theirs/f")).count(), 2, "{kept:?}");
}

/// Goal: what root submits to another user's daemon is a job like any other, and not a folder that this user can
/// neither read nor move. Method: the daemon as `nobody`; root submits a file and a folder.
#[test]
fn root_submits_to_another_users_daemon() {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim(
        "[routes.sets]\nglob = \"set-*\"\nunit = \"folder\"\ndone_file = \"{name}.ok\"\n\
         command = [\"true\"]\n[routes.main]\ncommand = [\"true\"]\n",
    );
    let daemon = spool.daemon_as_nobody();
    spool.write_home("src/x", "x");
    spool.write_home("src/set-1/sub/deep/y", "y");
    for (source, settled) in [("src/x", "done/x"), ("src/set-1", "done/set-1/sub/deep/y")] {
        spool.run(&["submit", "--wait", source]).ok();
        let owner = |path| std::fs::metadata(path).unwrap().uid();
        assert_eq!(owner(spool.path(settled)), owner(spool.path("journal")), "{source}");
        assert_ne!(owner(spool.home().join(source)), owner(spool.path("journal")), "{source}");
    }
    daemon.end_well();
    assert_eq!(std::fs::read_dir(spool.path("processing")).unwrap().count(), 0);
}
