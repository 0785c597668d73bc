//! Where a spool and its files stand: links, read-only mounts, files that may not be moved. Each is said in
//! words that help, and nothing is lost.
//!
//! Must not know: how it is found out.

use std::os::unix::fs::symlink;
use std::process::Command;

use rustix::fs::rename;

use crate::harness::Spool;

fn spool() -> Spool {
    Spool::new("[routes.a]\ncommand = [\"true\"]\nstdout = \"none\"\n")
}

/// Goal: settings that are a symbolic link are refused as that, not as a file that everyone may change: no
/// chmod mends it. The same for a folder of the spool, which a claim could not be one rename into. Method:
/// each moved away and linked.
#[test]
fn a_link_in_place_of_what_is_ours_is_named() {
    for place in ["inboxd.toml", "routes.d", "routes.d/more.toml", "done", "processing"] {
        let spool = spool();
        spool.write("routes.d/more.toml", "glob = \"*.x\"\ncommand = [\"true\"]\n");
        spool.run(&["batch"]).ok();
        let elsewhere = spool.home().join("elsewhere");
        rename(spool.path(place), &elsewhere).unwrap();
        symlink(&elsewhere, spool.path(place)).unwrap();
        let said = format!("{place} is a symbolic link");
        spool.run(&["batch"]).code(2).says(&said);
        spool.run(&["check"]).code(2).says(&said);
    }
}

/// Goal: a disk that the kernel made read-only is named as that. Method: the spool mounted onto itself so.
#[test]
fn a_read_only_disk_is_named() {
    let spool = spool();
    spool.run(&["batch"]).ok();
    spool.drop_file("a", "a");
    let mount =
        format!("mount --bind {0} {0}; mount -o remount,ro,bind {0}", spool.root().display());
    let tried = Command::new("unshare").args(["-Urm", "sh", "-ec", &mount]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: no user namespaces, or not this in them: {tried:?}");
        return;
    }
    let script = format!("{mount}; exec \"$0\" \"$@\"");
    let wrapper = ["unshare", "-Urm", "sh", "-ec", &script];
    let check = spool.run_under(&wrapper, &["check"], b"").code(2);
    check.says("error     disk           it is mounted read-only: nothing can be claimed");
    let batch = spool.run_under(&wrapper, &["batch"], b"").code(2);
    batch
        .says("is on a filesystem that is mounted read-only")
        .says("Nothing that was taken in is lost");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a"]);
}

/// Goal: a file that nobody may move is named as that, with what to do; the others are run. Method: chattr +i,
/// which only root may do.
#[test]
fn an_immutable_file_is_named() {
    let spool = spool();
    spool.drop_file("a", "a");
    spool.drop_file("b", "b");
    let file = spool.path("incoming/a");
    let chattr = |how: &str| Command::new("chattr").arg(how).arg(&file).output();
    if !chattr("+i").as_ref().is_ok_and(|it| it.status.success()) {
        eprintln!("skipped: not root, or a filesystem without attributes");
        return;
    }
    let said = spool.run(&["batch"]);
    chattr("-i").unwrap();
    let said = said.ok().says("1 file stays in incoming/, it cannot be claimed");
    said.says("immutable or append-only").says("chattr -ia a");
    assert_eq!(spool.names("done"), ["b"]);
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a", "b"]);
}
