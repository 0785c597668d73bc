//! `batch`: sources stay as they are, repeats are known, and the exit code tells what happened.
//!
//! Must not know: where the index of sources is kept.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::checks::is_sealed_name;
use crate::harness::{Spool, files_below};

const ROWS: &str = r#"
[routes.count]
glob = "**/*.json"
command = ["cat", "{path}"]
stdout = "json"
"#;

fn with_source() -> Spool {
    let spool = Spool::new(ROWS);
    for i in 0..3 {
        spool.write_home(&format!("source/{i}.json"), &format!("{{\"n\":{i}}}"));
    }
    spool.write_home("source/sub/3.json", "{\"n\":3}");
    spool
}

fn numbers(spool: &Spool) -> Vec<String> {
    let mut cells = spool.csv("count").column("n");
    cells.sort();
    cells
}

/// Names, bytes, modes and times of a source.
fn portrait(root: &Path) -> Vec<String> {
    walkdir::WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let content = if meta.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            let (mode, mtime, nsec) = (meta.mode(), meta.mtime(), meta.mtime_nsec());
            format!("{:?} {mode:o} {mtime}.{nsec} {} {content:?}", entry.path(), meta.nlink())
        })
        .collect()
}

fn set_writable(root: &Path, writable: bool) {
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.unwrap();
        let mode = match (entry.file_type().is_dir(), writable) {
            (true, true) => 0o755,
            (true, false) => 0o555,
            (false, true) => 0o644,
            (false, false) => 0o444,
        };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Goal: a source is read and not touched; a second run takes only what is new or changed, also when
/// `done/` was emptied. Method: a read-only tree, run, empty `done/`, change one, add one.
#[test]
fn a_source_is_only_read() {
    let spool = with_source();
    let source = spool.home().join("source");
    set_writable(&source, false);
    let before = portrait(&source);
    spool.run(&["batch", "source"]).ok();
    assert_eq!(portrait(&source), before);
    assert_eq!(
        spool.names("done"),
        ["0.json", "1.json", "2.json", "sub/3.json"],
        "{}",
        spool.report()
    );
    assert_eq!(spool.files("done"), files_below(&source));
    assert_eq!(numbers(&spool), ["0", "1", "2", "3"]);

    for name in spool.names("done") {
        rustix::fs::unlink(spool.path("done").join(name)).unwrap();
    }
    spool.run(&["batch", "source"]).ok().says("nothing to do: 4 already done");
    assert_eq!(numbers(&spool).len(), 4);

    set_writable(&source, true);
    spool.write_home("source/1.json", "{\"n\":10}");
    spool.write_home("source/new.json", "{\"n\":4}");
    spool.run(&["batch", "source"]).ok();
    assert_eq!(numbers(&spool), ["0", "1", "10", "2", "3", "4"]);
    assert_eq!(spool.names("done"), ["1.json", "new.json"]);
}

/// Goal: nothing to do is said, and adds nothing. Method: the same source twice.
#[test]
fn nothing_to_do() {
    let spool = with_source();
    spool.run(&["batch", "source"]).ok();
    let rows = spool.csv("count");
    spool.run(&["batch", "source"]).ok().says("nothing to do: 4 already done");
    assert_eq!(spool.csv("count"), rows);
    assert_eq!(spool.names("incoming"), Vec::<String>::new());
}

/// Goal: `--again` takes all of them, and overwrites nothing. Method: the same source twice.
#[test]
fn again_takes_all() {
    let spool = with_source();
    spool.run(&["batch", "source"]).ok();
    spool.run(&["batch", "--again", "source"]).ok();
    assert_eq!(numbers(&spool), ["0", "0", "1", "1", "2", "2", "3", "3"]);
    let done = spool.names("done");
    assert_eq!(done.len(), 8, "{done:?}");
    for stem in ["0", "1", "2", "sub/3"] {
        assert!(done.contains(&format!("{stem}.json")), "{done:?}");
        let second = format!("{stem}~");
        assert_eq!(done.iter().filter(|name| name.starts_with(&second)).count(), 1, "{done:?}");
    }
}

/// Goal: `--link` makes hard links, and nothing else does. Method: inodes of source and `done/`.
#[test]
fn only_link_links() {
    for (args, linked) in
        [(vec!["batch", "source"], false), (vec!["batch", "--link", "source"], true)]
    {
        let spool = with_source();
        spool.run(&args).ok();
        let inode = |path| fs::metadata(path).unwrap().ino();
        let source = inode(spool.home().join("source/sub/3.json"));
        assert_eq!(inode(spool.path("done/sub/3.json")) == source, linked, "{args:?}");
    }
}

/// Goal: a single file is a source as well. Method: two of the files by name.
#[test]
fn files_are_sources() {
    let spool = with_source();
    spool.run(&["batch", "source/0.json", "source/sub/3.json"]).ok();
    assert_eq!(spool.names("done"), ["0.json", "3.json"], "{}", spool.report());
    assert_eq!(numbers(&spool), ["0", "3"]);
}

/// Goal: a link to a file is that file under the link's name, named alone or found in a folder, copied or
/// linked; named in other words it is still known. Method: all of these; a link that leads nowhere.
#[test]
fn links_to_files_are_sources() {
    for link in [None, Some("--link")] {
        let spool = with_source();
        let run = |source: &str| {
            let args: Vec<&str> = ["batch"].into_iter().chain(link).chain([source]).collect();
            spool.run(&args)
        };
        std::os::unix::fs::symlink("sub/3.json", spool.home().join("source/three.json")).unwrap();
        run("source/three.json").ok().says("1 file ");
        assert_eq!(spool.names("done"), ["three.json"]);
        run("./source/../source/three.json").ok().says("1 already done");
        run("source").ok().says("4 files ");
        assert_eq!(numbers(&spool), ["0", "1", "2", "3", "3"]);
        std::os::unix::fs::symlink("nothing", spool.home().join("source/lost.json")).unwrap();
        run("source").code(3).says("lost.json");
    }
}

/// Goal: sources that cannot be taken in, however many, keep no other one waiting. Method: more of another
/// filesystem than ids are granted at once, linked, before those that can be; alone and beside a daemon.
#[test]
fn many_bad_sources_hold_up_nobody() {
    for is_beside in [false, true] {
        let spool = with_source();
        for n in 0..400 {
            let link = spool.home().join(format!("source/!{n:03}.json"));
            std::os::unix::fs::symlink("/proc/version", link).unwrap();
        }
        let daemon = is_beside.then(|| spool.daemon());
        let said = spool.run(&["batch", "--link", "source"]).code(3);
        said.says("on another filesystem").says("error: 300 more could not be taken in");
        assert_eq!(numbers(&spool), ["0", "1", "2", "3"], "{is_beside}");
        assert!(daemon.is_none_or(|daemon| daemon.end().success()));
    }
}

/// Goal: files that wait for a time of their own keep no other source waiting. Method: more than ids are granted at
/// once that their worker calls incomplete, before some that it does not.
#[test]
fn many_that_wait_hold_up_no_source() {
    let script = "case $INBOXD_REL in *.half) exit 66; esac";
    let spool = Spool::new(&format!(
        "workers = 4\n[routes.main]\ncommand = [\"sh\", \"-c\", \"{script}\"]\nstdout = \"none\"\n"
    ));
    for n in 0..300 {
        spool.write_home(&format!("source/{n:03}.half"), "x");
    }
    spool.write_home("source/whole", "x");
    let mut batch = spool.start(&["batch", "source"]);
    spool.wait_until("the whole one is done", || spool.path("done/whole").exists());
    batch.kill_all();
}

/// Goal: what can be no job is refused, not passed over in silence. Method: a device, alone and with a daemon.
#[test]
fn a_device_is_no_source() {
    let spool = with_source();
    spool.run(&["batch", "/dev/null"]).code(2).says("neither a regular file nor a folder");
    let daemon = spool.daemon();
    spool.run(&["batch", "/dev/null"]).code(2).says("neither a regular file nor a folder");
    assert!(daemon.end().success());
}

/// Goal: `--seal` ends the segment under its own name. Method: one run.
#[test]
fn seal_ends_the_segment() {
    let spool = with_source();
    spool.run(&["batch", "--seal", "source"]).ok();
    let names = spool.names("results");
    let sealed: Vec<&String> = names.iter().filter(|name| is_sealed_name("count", name)).collect();
    assert_eq!(sealed.len(), 1, "{names:?}");
    assert_eq!(spool.csv(sealed[0].trim_end_matches(".csv")).rows.len(), 4);
    assert!(!names.contains(&"count.csv".to_owned()), "{names:?}");
    spool.run(&["results", "count"]).ok().says("sub/3.json");
}

/// Goal: 3 is for a failure of this run only. Method: a failing file, then nothing, then a good one.
#[test]
fn three_is_for_this_run() {
    let spool = Spool::new(ROWS);
    spool.drop_file("bad.json", "not JSON");
    spool.run(&["batch"]).code(3).says("1 failed");
    spool.run(&["batch"]).ok();
    spool.drop_file("good.json", "{\"n\":1}");
    spool.run(&["batch"]).ok().says("0 failed");
}

/// Goal: what no route takes is left where it is, in the source and in `incoming/`.
/// Method: a name outside the glob in both.
#[test]
fn what_no_route_takes_stays() {
    let spool = with_source();
    spool.write_home("source/notes.txt", "mine");
    spool.drop_file("typo.jsn", "{}");
    spool.run(&["batch", "source"]).ok();
    assert_eq!(spool.names("incoming"), ["typo.jsn"], "{}", spool.report());
    assert_eq!(spool.names("done").len(), 4);
    assert_eq!(spool.errors(), Vec::<String>::new());
    spool.run(&["explain", "typo.jsn"]).ok().says("no route");
    let again = spool.run(&["batch"]).ok().says("nothing to do\n").says("such as typo.jsn");
    assert!(!again.stdout().contains("is empty"), "{again}");
}

/// Goal: a program that is not there pauses its route and costs no file. Method: such a route beside a good one.
#[test]
fn a_missing_program_never_eats_the_backlog() {
    let spool = Spool::new(&format!(
        "{ROWS}[routes.broken]\nglob = \"*.txt\"\ncommand = [\"no-such-program-here\", \"{{path}}\"]\n"
    ));
    spool.drop_file("a.txt", "a");
    spool.drop_file("b.txt", "b");
    spool.drop_file("c.json", "{\"n\":1}");
    spool
        .run(&["batch"])
        .code(1)
        .says("route broken PAUSED")
        .says("cannot start \"no-such-program-here\": not found in PATH=");
    assert_eq!(spool.names("done"), ["c.json"], "{}", spool.report());
    assert_eq!(spool.errors(), Vec::<String>::new());

    // The fix is all it takes: nothing has to be retried by hand.
    let settings = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write("inboxd.toml", &settings.replace("no-such-program-here", "cat"));
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a.txt", "b.txt", "c.json"], "{}", spool.report());
}

/// Goal: a source that is not there is a usage error, and nothing starts. Method: a wrong path.
#[test]
fn a_missing_source_is_a_usage_error() {
    let spool = with_source();
    spool.run(&["batch", "no-such-folder"]).code(2).says("no-such-folder");
    assert_eq!(spool.names("done"), Vec::<String>::new());
}

/// Goal: beside a running daemon `batch` takes its sources in, tells of these and no others, and knows
/// repeats; the daemon stays. Method: a file dropped and a folder with a failure in it; twice.
#[test]
fn beside_a_daemon() {
    let spool = with_source();
    spool.write_home("source/bad.json", "no JSON");
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    let said = spool.run(&["batch", "source"]).code(3).says("5 files   4 done   1 failed   4 rows");
    let said = said.both();
    assert!(said.contains("failed  bad.json   count   attempt 1 of 1"), "{said}");
    assert_eq!(numbers(&spool), ["0", "1", "2", "3"]);
    assert_eq!(spool.errors(), ["bad.json"]);
    spool.run(&["batch", "source"]).ok().says("nothing to do: 5 already done");
    spool.run(&["batch", "--again", "source/0.json"]).ok().says("1 file   1 done   0 failed");
    assert_eq!(daemon.daemon_pid(), pid);
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(numbers(&spool), ["0", "0", "1", "2", "3"]);
    assert_eq!(files_below(&spool.home().join("source")).len(), 5);
}

/// Goal: settings that cannot be read now, and that the daemon does without, are no reason to leave what it was
/// asked to take in alone. Method: a mistake in them while it runs.
#[test]
fn beside_a_daemon_with_broken_settings() {
    let spool = with_source();
    let daemon = spool.daemon();
    let text = fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write("inboxd.toml", &format!("wrokers = 1\n{text}"));
    let said = spool.run(&["batch", "source"]).ok().says("4 files   4 done   0 failed   4 rows");
    said.says("beside the running inboxd");
    assert_eq!(spool.names("done").len(), 4);
    daemon.end();
}

/// Goal: beside a daemon `batch` without sources waits for what stands in `incoming/`, and `--seal` seals
/// there, once all is recorded. Method: files dropped, one of which fails, one that no route takes; then
/// once more with nothing there; the daemon goes on into a new segment.
#[test]
fn beside_a_daemon_without_sources() {
    let spool = Spool::new(&ROWS.replace("[routes.count]", "[routes.count]\nworkers = 1"));
    let daemon = spool.daemon();
    for i in 0..40 {
        spool.drop_file(format!("{i}.json"), format!("{{\"n\":{i}}}"));
    }
    spool.drop_file("bad.json", "no JSON");
    spool.drop_file("other.txt", "x");
    let said = spool.run(&["batch", "--seal"]);
    assert!(matches!(said.status.code(), Some(0 | 3)), "{said}");
    said.says("1 file matches no route and stays behind, such as other.txt");
    assert_eq!(spool.names("incoming"), ["other.txt"], "{}", spool.report());
    assert_eq!(spool.names("done").len(), 40);
    let names = spool.names("results");
    let sealed = names.iter().find(|name| is_sealed_name("count", name));
    let sealed = sealed.unwrap_or_else(|| panic!("{names:?}"));
    assert_eq!(spool.csv(sealed.trim_end_matches(".csv")).rows.len(), 40);
    spool.run(&["batch"]).ok().says("nothing to do");
    spool.drop_file("41.json", "{\"n\":41}");
    spool.wait_until("the next job is done", || spool.names("done").len() == 41);
    assert_eq!(numbers(&spool), ["41"]);
    assert_eq!(daemon.end().code(), Some(0));
}

/// Goal: a source's name may be any bytes, also on the way to a daemon. Method: a folder and a file whose
/// names are not UTF-8, and one of these that no route takes.
#[test]
fn beside_a_daemon_with_odd_names() {
    use std::os::unix::ffi::OsStrExt;
    let spool = Spool::new(ROWS);
    let folder = spool.home().join(std::ffi::OsStr::from_bytes(b"so\xffrce"));
    fs::create_dir(&folder).unwrap();
    for name in [&b"\xfe.json"[..], b"\xfe.txt"] {
        fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), "{\"n\":1}").unwrap();
    }
    let daemon = spool.daemon();
    // The shell writes the name that no argument here can hold.
    let shell = ["sh", "-c", "exec \"$0\" \"$1\" so*rce"];
    let said = spool.run_under(&shell, &["batch"], b"").ok();
    said.says("1 file   1 done").says("1 file matches no route");
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(spool.files("done").keys().collect::<Vec<_>>(), [&b"\xfe.json".to_vec()]);
}

/// Goal: a route that cannot run ends the guest, not the daemon, however many sources are left.
/// Method: more sources than are staged ahead, a program that is not there; then it is there.
#[test]
fn beside_a_daemon_whose_route_is_paused() {
    let spool = Spool::new(&ROWS.replace("\"cat\"", "\"./later.sh\""));
    for i in 0..400 {
        spool.write_home(&format!("source/{i}.json"), "{\"n\":1}");
    }
    let daemon = spool.daemon();
    spool.run(&["batch", "source"]).code(1).says("route count PAUSED").says("none failed");
    assert_eq!(spool.errors(), Vec::<String>::new());
    spool.write("later.sh", "#!/bin/sh\ncat \"$1\"\n");
    fs::set_permissions(spool.path("later.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = spool.run(&["batch", "source"]).ok();
    spool.wait_until("all are done", || spool.names("done").len() == 400);
    drop(said);
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(numbers(&spool).len(), 400);
}

/// Goal: what `batch` shows of the rows is a line each, whatever is in their cells, does nothing to the
/// terminal, and counts rows. Method: cells with line breaks, an escape sequence, no UTF-8 and great length.
#[test]
fn shown_rows_are_lines_and_harmless() {
    let spool = Spool::new("[routes.main]\ncommand = [\"cat\", \"{path}\"]\nworkers = 1\n");
    let long = [b"one\ntwo\x1b[31m\xff, \"quoted\"".as_slice(), &[b'x'; 500]].concat();
    for name in ["a", "b", "c"] {
        spool.drop_file(name, &long);
    }
    let output = spool.run(&["batch"]).ok();
    let stdout = output.stdout();
    let shown: Vec<&str> = stdout.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(shown.len(), 3, "{stdout}");
    assert!(shown[1].starts_with(r#"  "one\ntwo\u{1b}[31m\xff, ""quoted""xxx"#), "{stdout}");
    assert!(shown[1].ends_with("x…") && shown[1].chars().count() < 170, "{stdout}");
    assert_eq!(shown[2], "  … 2 more in inbox/results/main.csv");
}

/// Goal: what is named twice is one source, in whatever order, and naming thousands costs no more than a
/// folder of them. Method: files before and behind their folder, also run again; 2,000 names one by one.
#[test]
fn what_is_named_twice_runs_once() {
    let spool = with_source();
    let twice =
        ["batch", "source/0.json", "source", "source/sub/3.json", "./source/../source/0.json"];
    spool.run(&twice).ok().says("4 files ");
    spool.run(&[&twice[..], &["--again"]].concat()).ok().says("4 files ");
    let spool = Spool::new("[routes.none]\nglob = \"none\"\ncommand = [\"true\"]\n");
    let names: Vec<String> = (0..2000).map(|i| format!("many/{i}.json")).collect();
    for name in &names {
        spool.write_home(name, "{}");
    }
    let args: Vec<&str> = ["batch"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let output = spool.run(&args).ok().says("2,000 files match no route");
    assert!(output.took < std::time::Duration::from_secs(10), "{output}");
}

/// Goal: what is shown of the rows is of this run. Method: two routes, a file for each, one run after
/// the other.
#[test]
fn only_tables_of_this_run_are_shown() {
    let route =
        |name| format!("[routes.{name}]\nglob = \"{name}\"\ncommand = [\"cat\", \"{{path}}\"]\n");
    let spool = Spool::new(&(route("one") + &route("two")));
    for (name, other) in [("one", "two"), ("two", "one")] {
        spool.drop_file(name, "x");
        let output = spool.run(&["batch"]).ok().says(&format!("in inbox/results/{name}.csv"));
        assert!(!output.stdout().contains(&format!("{other}.csv")), "{output}");
    }
}
