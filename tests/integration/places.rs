//! Where a spool and its files stand: links, read-only mounts, files that may not be moved. Each is said in
//! words that help, and nothing is lost.
//!
//! Must not know: how it is found out.

use std::os::unix::fs::symlink;
use std::process::Command;

use rustix::fs::rename;

use crate::harness::{Output, Spool};

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

/// Goal: a spool in which another one would find its input is refused. Method: one in an `incoming/`, of a spool
/// and of nobody.
#[test]
fn a_spool_in_anothers_incoming_is_refused() {
    let spool = spool();
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write("incoming/sub/inboxd.toml", &settings);
    let inner = spool.path("incoming/sub");
    let args = ["--spool", inner.to_str().unwrap(), "batch"];
    let said = spool.run(&args).code(2);
    said.says("incoming/sub is in ").says("which belongs to another spool").says("Move this spool");
    rename(spool.path("inboxd.toml"), spool.home().join("aside")).unwrap();
    spool.run(&args).ok().says("nothing to do");
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

/// Runs this within mounts of its own; `None`: it may not.
fn within(spool: &Spool, mount: &str, args: &[&str]) -> Option<Output> {
    let tried = Command::new("unshare").args(["-Urm", "sh", "-ec", mount]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: no user namespaces, or not this in them: {tried:?}");
        return None;
    }
    let script = format!("{mount}; exec \"$0\" \"$@\"");
    Some(spool.run_under(&["unshare", "-Urm", "sh", "-ec", &script], args, b""))
}

/// Goal: a folder of the spool that is a mount of its own is refused, though it is of the same filesystem: the
/// kernel moves no file into it, so the first job would end the daemon, and each one after it. Method: each
/// mounted onto itself, as a container's volumes may be; one that files do not move to.
#[test]
fn a_folder_that_is_a_mount_is_refused() {
    let spool = spool();
    spool.run(&["batch"]).ok();
    for name in ["incoming", "processing", "done", "error", "output"] {
        let mount = format!("mount --bind {0} {0}", spool.path(name).display());
        for command in ["batch", "check"] {
            let Some(said) = within(&spool, &mount, &[command]) else { return };
            said.code(2).says(&format!("{name} is a mount of its own"));
        }
    }
    let mount = format!("mount --bind {0} {0}", spool.path("results").display());
    let said = within(&spool, &mount, &["check"]).unwrap().stdout();
    assert!(said.contains("ok        folders"), "{said}");
}

/// Goal: a file below a mount in `incoming/` is said to be that. Method: a folder in it mounted onto itself.
#[test]
fn a_file_on_another_mount_is_named() {
    let spool = spool();
    spool.drop_file("sub/a", "a");
    let mount = format!("mount --bind {0} {0}", spool.path("incoming/sub").display());
    // Root of a user namespace is root.
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let settings = settings.replace("allow_root = true\n", "");
    spool.write("inboxd.toml", &format!("allow_root = true\n{settings}"));
    let Some(said) = within(&spool, &mount, &["batch"]) else { return };
    said.ok().says("it is on another mount than the spool");
    assert!(spool.has("incoming/sub/a"));
}

/// Goal: a bare container is told what it lacks. Method: no `/dev/null`.
#[test]
fn what_a_bare_container_lacks_is_named() {
    let spool = spool();
    let Some(said) = within(&spool, "mount -t tmpfs none /dev", &["batch"]) else { return };
    said.code(1).says("/dev/null: No such file");
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
