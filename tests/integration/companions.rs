//! Files that come with others: waited for, claimed, run and settled together.
//!
//! Must not know: how they are claimed.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::Spool;

/// The worker reads both. The first route would take every file.
const PHOTOS: &str = r#"
workers = 2
[routes.other]
glob = "**/*.{xmp,txt}"
command = ["true"]
[routes.photos]
glob = "photos/*.jpg"
with = "{stem}.xmp"
command = ["sh", "-c", "cat \"$0\" \"$1\" && test \"$(cat \"$1\")\" != bad", "{path}", "{with}"]
"#;

/// Goal: a file waits for its companion, in whatever order they come, and both are one job; a companion is
/// nobody's job. Method: each order, with a catch-all before the route; a lone companion.
#[test]
fn a_file_and_its_companion_are_one_job() {
    let spool = Spool::new(PHOTOS);
    let daemon = spool.daemon();
    spool.drop_file("photos/1.jpg", "a");
    spool.drop_file("photos/2.xmp", "B");
    spool.drop_file("photos/3.xmp", "lone");
    spool.drop_file("photos/notes.txt", "none");
    spool.wait_until("what is neither is done", || spool.has("done/photos/notes.txt"));
    // Before that it may have changed a moment ago.
    let waits = "waits for photos/1.xmp, which comes with it";
    let is_said = || spool.run(&["explain", "photos/1.jpg"]).ok().both().contains(waits);
    spool.wait_until("it says for what it waits", is_said);
    assert_eq!(spool.held(), 1);
    let lone = spool.run(&["explain", "photos/3.xmp"]).ok();
    lone.says("COMPANION").says("companion of a file 3.…, which is not there (route photos)");
    spool.drop_file("photos/1.xmp", "A");
    spool.drop_file("photos/2.jpg", "b");
    let done = ["photos/1.jpg", "photos/1.xmp", "photos/2.jpg", "photos/2.xmp", "photos/notes.txt"];
    spool.wait_until("both are done", || spool.names("done") == done);
    let mut rows = spool.csv("photos").column("text");
    rows.sort();
    assert_eq!(rows, ["aA", "bB"]);
    assert_eq!(spool.names("incoming"), ["photos/3.xmp"]);
    assert_eq!(spool.csv("other").rows.len(), 0);
    spool.run(&["routes", "photos/3.xmp"]).code(1).says("comes with a file of route photos");
    daemon.end_well();
    assert_eq!(fs::read_dir(spool.path("processing")).unwrap().count(), 0);
}

/// Goal: a companion that is still written holds its file up. Method: one that is open, until it is closed.
#[test]
fn a_companion_must_be_whole() {
    let spool = Spool::new(PHOTOS);
    let daemon = spool.daemon();
    fs::create_dir_all(spool.path("incoming/photos")).unwrap();
    let mut companion = fs::File::create(spool.path("incoming/photos/1.xmp")).unwrap();
    spool.drop_file("photos/1.jpg", "a");
    spool.wait_until("it is held", || spool.held() == 1);
    spool.wait_until("it says why", || {
        let said = spool.run(&["explain", "photos/1.jpg"]).stdout();
        said.contains("photos/1.xmp, which comes with it, is still open for writing")
    });
    std::io::Write::write_all(&mut companion, b"A").unwrap();
    drop(companion);
    spool.wait_until("both are done", || spool.names("done").len() == 2);
    assert_eq!(spool.csv("photos").column("text"), ["aA"]);
    daemon.end_well();
}

/// Goal: a failure is one, and `retry` and `rerun` bring all of it back; nothing is overwritten.
/// Method: failed pairs, one retried by name, the others by `--all`; one delivered again.
#[test]
fn companions_fail_and_come_back_together() {
    let spool = Spool::new(PHOTOS);
    let daemon = spool.daemon();
    for n in ["1", "2"] {
        spool.drop_file(format!("photos/{n}.jpg"), n);
        spool.drop_file(format!("photos/{n}.xmp"), "bad");
    }
    spool.wait_until("both failed", || spool.errors().len() == 4);
    assert_eq!(spool.csv("errors").rows.len(), 2);
    fs::write(spool.path("error/photos/1.xmp"), "good").unwrap();
    spool.run(&["retry", "--wait", "photos/1.jpg"]).ok();
    assert_eq!(spool.names("done"), ["photos/1.jpg", "photos/1.xmp"]);
    fs::write(spool.path("error/photos/2.xmp"), "good").unwrap();
    spool.run(&["retry", "--wait", "--all"]).ok();
    assert_eq!(spool.names("done").len(), 4);
    assert_eq!(spool.errors(), Vec::<String>::new());
    spool.run(&["rerun", "--wait", "photos/1.jpg"]).ok();
    assert_eq!(spool.names("done").len(), 4);

    spool.drop_file("photos/1.xmp", "new");
    spool.drop_file("photos/1.jpg", "new");
    spool.wait_until("the newer pair is beside the older", || spool.names("done").len() == 6);
    assert_eq!(fs::read(spool.path("done/photos/1.xmp")).unwrap(), b"good");
    let job = spool.csv("photos").column("_job").pop().unwrap();
    assert_eq!(fs::read(spool.path(&format!("done/photos/1~{job}.xmp"))).unwrap(), b"new");
    spool.run(&["rerun", "--wait", &job]).ok();
    assert_eq!(spool.names("incoming"), Vec::<String>::new(), "{}", spool.report());
    daemon.end_well();

    // A job log is not kept for ever.
    let job = spool.csv("photos").column("_job").pop().unwrap();
    rustix::fs::rename(spool.path("log"), spool.home().join("log")).unwrap();
    spool.run(&["rerun", &format!("done/photos/1~{job}.jpg")]).ok();
    assert_eq!(spool.names("incoming"), ["photos/1.jpg", "photos/1.xmp"], "{}", spool.report());
    assert_eq!(fs::read(spool.path("incoming/photos/1.xmp")).unwrap(), b"new");
}

/// Goal: nothing of a newer delivery comes with what is put back, and nothing of another failure. Method: a
/// companion, or a sentinel, that came again before its file; a set whose companion is gone, beside one of
/// the same name that has it.
#[test]
fn what_is_put_back_comes_with_its_own() {
    let spool = Spool::new(
        &[
            PHOTOS,
            "[routes.signed]\nglob = \"*.dat\"\ndone_file = \"{name}.ok\"\ncommand = [\"false\"]\n",
        ]
        .concat(),
    );
    let daemon = spool.daemon();
    spool.drop_file("photos/1.jpg", "old");
    spool.drop_file("photos/1.xmp", "bad");
    spool.drop_file("a.dat", "a");
    spool.drop_file("a.dat.ok", "");
    spool.wait_until("both failed", || spool.errors().len() == 4);

    spool.drop_file("photos/1.xmp", "new");
    spool.drop_file("a.dat.ok", "");
    let refused = spool.run(&["retry", "photos/1.jpg"]).code(1);
    refused.says("incoming/photos/1.xmp is there already").says("error/photos/1.jpg stays");
    spool.run(&["retry", "a.dat"]).code(1).says("incoming/a.dat.ok is there already");
    assert_eq!(spool.errors().len(), 4, "{}", spool.report());
    assert_eq!(fs::read(spool.path("incoming/photos/1.xmp")).unwrap(), b"new");

    // The newer set fails as well, and loses what came with it.
    fs::write(spool.path("incoming/photos/1.xmp"), "bad").unwrap();
    spool.drop_file("photos/1.jpg", "new");
    spool.wait_until("the newer one failed", || spool.errors().len() == 6);
    let job = spool.csv("errors").column("job").pop().unwrap();
    rustix::fs::unlink(spool.path(&format!("error/photos/1~{job}.xmp"))).unwrap();
    spool.run(&["retry", &format!("error/photos/1~{job}.jpg")]).ok();
    assert_eq!(fs::read(spool.path("incoming/photos/1.jpg")).unwrap(), b"new");
    assert!(spool.has("error/photos/1.xmp") && !spool.has("incoming/photos/1.xmp"));
    daemon.end_well();
}

/// Goal: several companions, with a sentinel, are one job; links are not handed over; sources are not taken
/// without them. Method: a route with two, `batch`, `submit`.
#[test]
fn several_companions_and_a_sentinel() {
    let spool = Spool::new(
        r#"
workers = 1
[routes.scans]
glob = "*.tif"
with = ["{name}.json", "{stem}_b.{ext}"]
done_file = "{name}.ok"
command = ["cat", "{path}", "{with}"]
"#,
    );
    for (name, text) in [("x.tif", "1"), ("x.tif.json", "2"), ("x_b.tif", "3"), ("x.tif.ok", "")] {
        spool.drop_file(name, text);
    }
    spool.drop_file("y.tif", "1");
    spool.drop_file("y.tif.json", "2");
    symlink("/etc/passwd", spool.path("incoming/y_b.tif")).unwrap();
    spool.drop_file("y.tif.ok", "");
    spool.write_home("src/z.tif", "1");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["x.tif", "x.tif.json", "x.tif.ok", "x_b.tif"]);
    assert_eq!(spool.csv("scans").column("text"), ["123"]);
    assert!(spool.has("incoming/y_b.tif") && spool.has("incoming/y.tif"));
    spool.run(&["batch", "src"]).says("1 file lacks what comes with it, such as ");
    let lacks = "src/z.tif comes with z.tif.json (`with`), which is not beside it";
    spool.run(&["submit", "src/z.tif"]).code(2).says(lacks);
    assert!(spool.names("processing").is_empty() && spool.errors().is_empty());
}

/// Goal: what a dead daemon leaves is taken up together. Method: a file claimed and its companion not; both
/// claimed, the companion older; a companion that was moved without its file, as a power cut may leave; a
/// claimed file whose companion is gone for good.
#[test]
fn claimed_companions_outlive_their_daemon() {
    let spool = Spool::new(PHOTOS);
    let place = |id: char, n: &str| {
        let crc = crc32c::crc32c(format!("photos/{n}.jpg").as_bytes());
        format!("processing/01m80qyy60e008jxzwp3sh0b3{id}.1.w{crc:08x}/photos/{n}")
    };
    spool.write(&format!("{}.jpg", place('p', "1")), "a");
    spool.drop_file("photos/1.xmp", "A");
    spool.write(&format!("{}.xmp", place('q', "2")), "B");
    spool.write(&format!("{}.jpg", place('q', "2")), "b");
    spool.write(&format!("{}.xmp", place('r', "3")), "C");
    spool.drop_file("photos/3.jpg", "c");
    spool.write(&format!("{}.jpg", place('s', "4")), "d");
    let daemon = spool.daemon();
    spool.wait_until("three are done", || spool.names("done").len() == 6);
    spool.wait_until("one failed", || spool.errors().len() == 1);
    assert_eq!(spool.reason("photos/4.jpg"), "photos/4.xmp, which comes with it, is gone");
    let mut rows = spool.csv("photos").column("text");
    rows.sort();
    assert_eq!(rows, ["aA", "bB", "cC"]);
    daemon.end_well();
}

/// Goal: files that came together end under names of one kind, so that no companion stands as that of another
/// job's file and a retry never mixes two deliveries. Method: a failed pair whose companion the user takes
/// away; another of the same names fails; each is retried.
#[test]
fn two_deliveries_are_never_mixed() {
    let spool = Spool::new(PHOTOS);
    let deliver = |content: &str| {
        spool.drop_file("photos/1.xmp", "bad");
        spool.drop_file("photos/1.jpg", content);
        spool.run(&["batch"]).code(3);
    };
    deliver("first");
    assert_eq!(spool.errors(), ["photos/1.jpg", "photos/1.xmp"]);
    rustix::fs::rename(spool.path("error/photos/1.xmp"), spool.path("away")).unwrap();
    deliver("second");
    let errors = spool.errors();
    let marked = errors.iter().filter(|name| name.contains('~')).count();
    assert_eq!((errors.len(), marked), (3, 2), "{errors:?}");
    let second = errors.iter().find(|name| name.contains('~') && name.ends_with("jpg")).unwrap();
    // Its name says nothing of whose it is, and theirs do.
    spool.write("error/photos/1.xmp", "another's");
    spool.run(&["retry", &format!("inbox/error/{second}")]).ok();
    assert_eq!(spool.names("incoming"), ["photos/1.jpg", "photos/1.xmp"]);
    assert_eq!(spool.files("incoming")[&b"photos/1.xmp"[..]], b"bad");
    assert_eq!(spool.files("incoming")[&b"photos/1.jpg"[..]], b"second");
    assert_eq!(spool.errors(), ["photos/1.jpg", "photos/1.xmp"]);
}

/// Goal: a worker is tried with what its file comes with, or not at all. Method: both; the file alone.
#[test]
fn a_file_is_tried_with_its_companion() {
    let spool = Spool::new(PHOTOS);
    spool.write_home("1.jpg", "a");
    spool.run(&["try", "photos", "1.jpg"]).code(2).says("1.jpg comes with 1.xmp (`with`)");
    spool.write_home("1.xmp", "A");
    spool.run(&["try", "photos", "1.jpg"]).ok().says("aA");
}

/// Goal: a companion that may not be taken (another user's, in a sticky folder) does not cost its file an attempt,
/// and the two are not parted: both wait, with what to do. Method: so, as a user without rights; then without
/// the sticky bit.
#[test]
fn a_companion_that_may_not_be_taken_is_waited_for() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes another user's file");
        return;
    }
    let spool = Spool::new(&format!("rescan = \"100ms\"{PHOTOS}"));
    let daemon = spool.daemon_as_nobody();
    let mode = |mode| {
        let folder = spool.path("incoming/photos");
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(spool.path("incoming/photos")).unwrap();
    mode(0o1777);
    spool.drop_file("photos/1.xmp", "A");
    spool.write_home("1.jpg", "a");
    let file = spool.home().join("1.jpg");
    let chown = std::process::Command::new("chown").arg("nobody").arg(&file).status();
    assert!(chown.unwrap().success());
    rustix::fs::rename(&file, spool.path("incoming/photos/1.jpg")).unwrap();
    let says = || spool.run(&["explain", "photos/1.jpg"]).both();
    spool.wait_until("it is held", || says().contains("is another user's in a sticky folder"));
    assert_eq!(spool.errors(), Vec::<String>::new());
    mode(0o777);
    spool.wait_until("both are done", || spool.names("done") == ["photos/1.jpg", "photos/1.xmp"]);
    daemon.end_well();
}

/// Goal: what belongs together stays together where its route is no more: nobody would know what to bring along.
/// Method: a file with a companion and a sentinel, failed and done; `retry` and `rerun` without its route, and
/// with it again.
#[test]
fn without_its_route_nothing_is_put_back() {
    for (command, exit) in [("retry", 65), ("rerun", 0)] {
        let spool = Spool::new("[routes.other]\nglob = \"*.txt\"\ncommand = [\"true\"]\n");
        let route = |exit: i32| {
            let route = "glob = \"*.jpg\"\nwith = \"{stem}.xmp\"\ndone_file = \"{name}.ok\"\n";
            format!("{route}command = [\"sh\", \"-c\", \"exit {exit}\"]\n")
        };
        spool.write("routes.d/photos.toml", &route(exit));
        let all = ["x.jpg", "x.xmp", "x.jpg.ok"];
        for name in all {
            spool.write(&format!("incoming/{name}"), name);
        }
        spool.run(&["batch"]);
        let from = if command == "retry" { "error" } else { "done" };
        let there =
            |tree: &str| all.iter().filter(|name| spool.has(&format!("{tree}/{name}"))).count();
        assert_eq!(there(from), 3, "{}", spool.report());
        let aside = spool.home().join("aside");
        rustix::fs::rename(spool.path("routes.d/photos.toml"), &aside).unwrap();
        spool.run(&[command, "x.jpg"]).code(1).says("no route takes x.jpg now");
        assert_eq!((there(from), there("incoming")), (3, 0), "{}", spool.report());
        spool.write("routes.d/photos.toml", &route(0));
        spool.run(&[command, "x.jpg"]).ok();
        assert_eq!(there("incoming"), 3, "{}", spool.report());
        spool.run(&["batch"]).ok();
        assert_eq!(there("done"), 3, "{}", spool.report());
    }
}
