//! How files come in: noticed at once, taken whole, whatever the producer does.
//!
//! Must not know: inotify, leases. What is asked is what a user sees: every file once, every file whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Running, Spool, python};

/// The worker says how long the file is and ends at once: what it says is what it read.
const SIZE: &str = r#"
workers = 2
[routes.size]
glob = "**"
command = ["wc", "-c", "{path}"]
"#;

/// A worker that costs next to nothing, for many files.
const TRUE: &str = "workers = 4\n[routes.many]\ncommand = [\"true\"]\nstdout = \"none\"\n";

impl Spool {
    fn incoming(&self, rel: &str) -> std::path::PathBuf {
        self.path("incoming").join(rel)
    }

    /// Waits until so many files are done.
    fn wait_done(&self, count: usize) {
        self.wait_until(&format!("{count} files are done"), || self.count("done") >= count);
    }

    /// Files below a folder, counted without reading them.
    fn count(&self, folder: &str) -> usize {
        let walk = walkdir::WalkDir::new(self.path(folder)).into_iter().filter_map(Result::ok);
        walk.filter(|entry| !entry.file_type().is_dir()).count()
    }

    /// `status --json` of the daemon.
    fn status(&self) -> serde_json::Value {
        let output = self.run(&["status", "--json"]);
        serde_json::from_str(&output.stdout()).unwrap_or_default()
    }
}

/// Runs a tool to its end; it must succeed.
fn tool(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Every file of `dropped` is done, with its bytes, exactly once, and nothing else is.
fn all_done_whole(spool: &Spool, dropped: &BTreeMap<Vec<u8>, Vec<u8>>) {
    spool.wait_until("all are done", || spool.count("done") >= dropped.len());
    let done = spool.files("done");
    assert!(done == *dropped, "done differs from what was dropped\n{}", spool.report());
    assert_eq!(spool.errors(), Vec::<String>::new(), "{}", spool.report());
}

/// The file gets done with these bytes, and then the daemon ends.
fn is_done_whole(spool: &Spool, daemon: Running, rel: &str, content: &[u8]) {
    spool.wait_until("it is done", || spool.has(&format!("done/{rel}")));
    assert_eq!(spool.files("done")[rel.as_bytes()], content, "{}", spool.report());
    daemon.end_well();
}

fn dropped(files: &[(&str, &[u8])]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    files.iter().map(|(name, bytes)| (name.as_bytes().to_vec(), bytes.to_vec())).collect()
}

/// Goal: a file is noticed by its event, not by the clock. Method: rescan once a day; a drop into
/// `incoming/` and one into a new folder are done in a moment.
#[test]
fn events_are_enough() {
    let spool = Spool::new(&format!("rescan = \"1d\"\n{SIZE}"));
    let daemon = spool.daemon();
    spool.drop_file("a", "1");
    spool.drop_file("new/folder/b", "22");
    spool.wait_done(2);
    fs::write(spool.incoming("c"), "333").unwrap();
    fs::hard_link(spool.home().join("inbox/inboxd.toml"), spool.incoming("linked")).unwrap();
    spool.wait_done(4);
    assert_eq!(spool.status()["events"], "ok");
    daemon.end_well();
}

/// Goal: nothing in new trees is missed. Method: 300 trees of three nested folders, made and filled at
/// once, then 300 ready ones moved in; no scan but the one that events ask for.
#[test]
fn new_trees_are_seen_to_the_bottom() {
    let spool = Spool::new(&format!("rescan = \"1d\"\n{TRUE}"));
    let daemon = spool.daemon();
    let mut expected = 0;
    for (place, move_in) in [(spool.path("incoming"), false), (spool.home().join("ready"), true)] {
        for n in 0..300 {
            let top = place.join(format!("{}{n}", if move_in { "moved" } else { "made" }));
            let mut folder = top.clone();
            for level in ["x", "y", "z"] {
                folder.push(level);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("file"), "x").unwrap();
                expected += 1;
            }
            if move_in {
                rustix::fs::rename(&top, spool.incoming(&format!("moved{n}"))).unwrap();
            }
        }
    }
    spool.wait_done(expected);
    spool.wait_until("nothing is left", || spool.count("incoming") == 0);
    assert_eq!(spool.count("done"), expected);
    daemon.end_well();
}

/// Goal: a burst larger than the kernel's queue loses nothing and doubles nothing. Method: renames as fast
/// as they go, more than `max_queued_events`; 100,000 with `INBOXD_BURST_ALL=1`, all of which run.
#[test]
fn a_burst_is_taken_whole() {
    let is_whole = std::env::var("INBOXD_BURST_ALL").as_deref() == Ok("1");
    let count = if is_whole { 100_000 } else { 20_000 };
    // What is asked here is about the intake, which meets all of them: one in twenty is run.
    let spool = Spool::new(
        "rescan = \"1d\"\nworkers = 2\n[routes.many]\nglob = \"*.go\"\ncommand = [\"true\"]\nstdout = \"none\"\n",
    );
    let daemon = spool.daemon();
    let staging = spool.home().join("staging");
    for n in 0..count {
        File::create(staging.join(format!("{n}"))).unwrap();
    }
    let every = if is_whole { 1 } else { 20 };
    for n in 0..count {
        let ending = if n % every == 0 { "go" } else { "stay" };
        rustix::fs::rename(staging.join(format!("{n}")), spool.incoming(&format!("{n}.{ending}")))
            .unwrap();
    }
    let go = count / every;
    // A tenth each within a test's patience.
    (1..=10).for_each(|part| spool.wait_done(go * part / 10));
    spool.wait_until("no more than were dropped", || spool.count("incoming") == count - go);
    assert_eq!(spool.count("done"), go);
    assert_eq!(spool.count("error"), 0);
    daemon.end_well();
}

/// Goal: `incoming/` may be removed and made again, and folders may come, go and come again.
/// Method: each of them, with a file afterwards; no scan by the clock.
#[test]
fn folders_that_go_and_come_again_are_watched_again() {
    let spool = Spool::new(&format!("rescan = \"1d\"\n{SIZE}"));
    let daemon = spool.daemon();
    for round in 0..3 {
        spool.drop_file(format!("sub/{round}"), "x");
        spool.wait_done(2 * round + 1);
        tool(Command::new("rm").arg("-r").arg(spool.incoming("sub")));
        tool(Command::new("rm").arg("-r").arg(spool.path("incoming")));
        // The daemon may make it again, too.
        fs::create_dir_all(spool.path("incoming")).unwrap();
        spool.drop_file(format!("top{round}"), "x");
        spool.wait_done(2 * round + 2);
    }
    daemon.end_well();
}

/// Goal: a file that is being written waits, others do not wait for it, and people are told why and by
/// whom. Method: a writer that stays, in this process; a file after it; `status` and `explain`.
#[test]
fn an_open_file_waits_alone_and_says_why() {
    let spool = Spool::new(SIZE);
    let daemon = spool.daemon();
    let mut writer = File::create(spool.incoming("big")).unwrap();
    writer.write_all(b"half").unwrap();
    spool.drop_file("small", "x");
    spool.wait_done(1);
    let us = format!("still open for writing by pid {}", std::process::id());
    spool.wait_until("status tells who writes", || {
        let held = &spool.status()["held_files"][0];
        held["rel"] == "big" && held["reason"] == us.as_str()
    });
    spool.run(&["explain", "big"]).ok().says(&us);
    writer.write_all(b" and half").unwrap();
    drop(writer);
    is_done_whole(&spool, daemon, "big", b"half and half");
}

/// Goal: a rename into place does not make a file whole that is still open. Method: written under a hidden
/// name, renamed while open, then written on.
#[test]
fn renamed_while_open_waits_for_its_writer() {
    let spool = Spool::new(SIZE);
    let daemon = spool.daemon();
    let mut writer = File::create(spool.incoming(".x")).unwrap();
    writer.write_all(b"one").unwrap();
    rustix::fs::rename(spool.incoming(".x"), spool.incoming("x")).unwrap();
    spool.wait_until("it is held", || spool.held() == 1);
    writer.write_all(b" two").unwrap();
    drop(writer);
    is_done_whole(&spool, daemon, "x", b"one two");
}

/// Goal: a writer with nothing but a mapping left is waited for. Method: Python maps a file, closes it,
/// writes on through the mapping when told to, and ends.
#[test]
fn a_mapping_is_a_writer() {
    let spool = Spool::new(SIZE);
    let daemon = spool.daemon();
    let script = "import mmap, sys\n\
                  f = open(sys.argv[1], 'w+b'); f.write(b'-' * 10); f.flush()\n\
                  m = mmap.mmap(f.fileno(), 10); f.close()\n\
                  print('closed', flush=True); sys.stdin.readline(); m[0:10] = b'mapped too'; m.close()\n";
    let mut writer = Command::new(python());
    writer.args(["-c", script]).arg(spool.incoming("x"));
    let mut writer = writer.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    spool.wait_until("it is held", || spool.held() == 1);
    writer.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(writer.wait().unwrap().success());
    is_done_whole(&spool, daemon, "x", b"mapped too");
}

/// Goal: `batch` waits for a file that is still written and leaves one that merely stays open, and says
/// so. Method: a writer that goes on for a while and ends; one that never writes.
#[test]
fn batch_waits_for_writers_that_write() {
    let spool = Spool::new(SIZE);
    fs::create_dir_all(spool.path("incoming")).unwrap();
    let idle = File::create(spool.incoming("idle")).unwrap();
    let path = spool.incoming("busy");
    let writer = std::thread::spawn(move || {
        let mut file = File::create(path).unwrap();
        for _ in 0..20 {
            file.write_all(b"line\n").unwrap();
            std::thread::park_timeout(Duration::from_millis(100));
        }
    });
    spool.wait_until("the writer has begun", || spool.incoming("busy").exists());
    let output = spool.run(&["batch"]).ok();
    writer.join().unwrap();
    assert_eq!(spool.files("done")[&b"busy"[..]].len(), 100, "{output}");
    assert_eq!(spool.names("incoming"), ["idle"]);
    output.says("idle").says("still open for writing");
    drop(idle);
}

/// Goal: a route's sentinel decides: without it nothing, with an old one nothing, with a new one the file;
/// and it goes where its file goes. Method: each of them, in a folder and at the top.
#[test]
fn a_sentinel_is_waited_for_and_moves_along() {
    let spool =
        Spool::new(&SIZE.replace("[routes.size]", "[routes.size]\ndone_file = \"{name}.ok\""));
    let daemon = spool.daemon();
    for rel in ["x", "sub/y"] {
        spool.drop_file(format!("{rel}.ok"), "too early");
        spool.drop_file(rel, "content");
    }
    spool.wait_until("both are held", || spool.held() == 2);
    spool.run(&["explain", "x"]).ok().says("x.ok is older than the file: make it anew");
    spool.drop_file("lone.ok", "");
    spool.run(&["explain", "lone.ok"]).ok().says("SENTINEL").says("lone is not there");
    rustix::fs::unlink(spool.incoming("lone.ok")).unwrap();
    for rel in ["x", "sub/y"] {
        fs::write(spool.incoming(&format!("{rel}.ok")), "now").unwrap();
    }
    all_done_whole(
        &spool,
        &dropped(&[
            ("x", b"content"),
            ("x.ok", b"now"),
            ("sub/y", b"content"),
            ("sub/y.ok", b"now"),
        ]),
    );
    assert_eq!(spool.csv("size").rows.len(), 2);
    daemon.end_well();
}

/// Goal: after a crash a sentinel is never run in its file's place, and is never lost. Method: what a killed
/// daemon leaves, with a sentinel older than its file; and what a power cut may leave: the sentinel moved,
/// its file not.
#[test]
fn a_sentinel_is_no_file_after_a_crash() {
    let spool =
        Spool::new(&SIZE.replace("[routes.size]", "[routes.size]\ndone_file = \"{name}.ok\""));
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3p.0/a.ok", "ok");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3p.0/a", "content");
    spool.write("processing/01m80qyy60e008jxzwp3sh0b3q.0/b.ok", "ok");
    spool.write("incoming/b", "content");
    let daemon = spool.daemon();
    let whole = [("a", &b"content"[..]), ("a.ok", b"ok"), ("b", b"content"), ("b.ok", b"ok")];
    all_done_whole(&spool, &dropped(&whole));
    let mut files = spool.csv("size").column("_file");
    files.sort();
    assert_eq!(files, ["a", "b"]);
    daemon.end_well();
}

/// Two megabytes that no tool can send with a hole or a shortcut, and a small file.
fn sources(spool: &Spool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = 1u32;
    let big: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(2 << 20)
    .collect();
    let files = dropped(&[("big", &big), ("sub/small", b"small")]);
    for (name, bytes) in &files {
        let path = spool.home().join("out").join(std::str::from_utf8(name).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        // An old file keeps its old mtime on the way: it says nothing of when it arrived.
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    }
    files
}

fn rsync(spool: &Spool, args: &[&str]) -> Command {
    let mut command = Command::new("rsync");
    // Beside the spool, on its filesystem; rsync 3.5 refuses a temporary folder with `..` in its path.
    let staging = spool.home().join("staging").display().to_string();
    let args = args.iter().map(|arg| arg.replace("STAGING", &staging));
    command.arg("-a").args(args).current_dir(spool.home()).args(["out/", "inbox/incoming/"]);
    command
}

/// Goal: rsync in every usual way delivers whole files, once. Method: each way into a running daemon,
/// slowed so that a file taken early would be short.
#[test]
fn rsync_in_every_way_is_whole() {
    let other = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    for way in [
        &["--bwlimit=8m"][..],
        &["--bwlimit=8m", "--inplace"],
        &["--bwlimit=8m", "--partial"],
        &["--bwlimit=8m", "--delay-updates"],
        &["--bwlimit=8m", "--partial-dir=.part"],
        &["--bwlimit=8m", "-T", other],
        &["--bwlimit=8m", "-T", "STAGING"],
        &["--bwlimit=8m", "--remove-source-files"],
    ] {
        let spool = Spool::new(SIZE);
        let files = sources(&spool);
        let daemon = spool.daemon();
        tool(&mut rsync(&spool, way));
        all_done_whole(&spool, &files);
        assert_eq!(spool.csv("size").rows.len(), files.len(), "{way:?}");
        daemon.end_well();
    }
}

/// Goal: what a second run of rsync does is what its page says: claimed files are gone from `incoming/`, so it
/// sends them again, and they run again; with `--compare-dest` of `done/` it does not.
/// Method: two runs without it, one with it.
#[test]
fn rsync_run_twice_sends_twice() {
    let spool = Spool::new(SIZE);
    let files = sources(&spool);
    let daemon = spool.daemon();
    tool(&mut rsync(&spool, &[]));
    spool.wait_done(files.len());
    tool(&mut rsync(&spool, &[]));
    spool.wait_done(2 * files.len());
    tool(&mut rsync(&spool, &["--compare-dest=../done"]));
    spool.drop_file("last", "x");
    spool.wait_done(2 * files.len() + 1);
    assert_eq!(spool.csv("size").rows.len(), 2 * files.len() + 1);
    daemon.end_well();
}

/// Goal: a repeated delivery is settled without a worker where the route says so; a file that differs in
/// any way runs. Method: rsync twice with `on_repeat = "skip"`, then one with another content.
#[test]
fn a_repeated_delivery_can_be_skipped() {
    let spool = Spool::new(&SIZE.replace("[routes.size]", "[routes.size]\non_repeat = \"skip\""));
    let files = sources(&spool);
    let daemon = spool.daemon();
    tool(&mut rsync(&spool, &[]));
    spool.wait_done(files.len());
    tool(&mut rsync(&spool, &[]));
    spool.wait_done(2 * files.len());
    assert_eq!(spool.csv("size").rows.len(), files.len(), "{}", spool.report());
    fs::write(spool.home().join("out/sub/small"), "SMALL").unwrap();
    tool(&mut rsync(&spool, &["--include=sub/***", "--exclude=*"]));
    spool.wait_done(2 * files.len() + 1);
    assert_eq!(spool.csv("size").rows.len(), files.len() + 1);
    daemon.end_well();
}

/// Goal: what cannot be known is what the producers' page says it is: a partial file that rsync leaves under
/// the final name when it is interrupted is taken. Method: `-P`, interrupted half way.
#[test]
fn an_interrupted_partial_rsync_is_taken_short() {
    let spool = Spool::new(SIZE);
    let files = sources(&spool);
    let daemon = spool.daemon();
    let mut running =
        rsync(&spool, &["-P", "--bwlimit=500k"]).stdout(Stdio::null()).spawn().unwrap();
    spool.wait_until("some of it has come", || {
        let temp = fs::read_dir(spool.path("incoming")).unwrap().filter_map(Result::ok);
        temp.filter_map(|entry| entry.metadata().ok()).any(|meta| meta.len() > 100_000)
    });
    crate::harness::send(running.id(), rustix::process::Signal::INT);
    running.wait().unwrap();
    spool.wait_done(1);
    let (done, big) = (spool.files("done"), &files[&b"big"[..]]);
    let part = &done[&b"big"[..]];
    assert!(part.len() < big.len() && big.starts_with(part), "{}", part.len());
    daemon.end_well();
}

/// Goal: what people do at a shell is whole. Method: `cp -p`, `mv`, `ln`, a shell that appends for a while.
#[test]
fn shells_are_whole() {
    let spool = Spool::new(SIZE);
    let files = sources(&spool);
    let big = &files[&b"big"[..]];
    let daemon = spool.daemon();
    let script = "cp -p out/big inbox/incoming/copied\n\
                  cp out/big out/moving; mv out/moving inbox/incoming/moved\n\
                  cp out/big out/linked; ln out/linked inbox/incoming/linked\n\
                  for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.1; done > inbox/incoming/slow\n";
    tool(Command::new("sh").args(["-ec", script]).current_dir(spool.home()));
    let slow = b"1\n2\n3\n4\n5\n6\n7\n8\n";
    all_done_whole(
        &spool,
        &dropped(&[("copied", big), ("moved", big), ("linked", big), ("slow", slow)]),
    );
    daemon.end_well();
}

/// An sshd of our own on loopback, with its own keys; ended when dropped.
struct Sshd {
    child: std::process::Child,
    folder: std::path::PathBuf,
    port: u16,
}

impl Sshd {
    /// `None` where there is no sshd; continuous integration must have one.
    fn start(spool: &Spool) -> Option<Self> {
        let sshd = Path::new("/usr/sbin/sshd");
        if !sshd.exists() || !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "no sshd, or not root");
            return None;
        }
        let folder = spool.home().join("ssh");
        fs::create_dir(&folder).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            tool(keygen.args(["-q", "-t", "ed25519", "-N", ""]).arg("-f").arg(folder.join(key)));
        }
        // Asked for and given back: nobody else takes it in the moment between.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = folder.display();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\n\
             StrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        );
        fs::write(folder.join("config"), config).unwrap();
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f"]).arg(folder.join("config"));
        command.stdin(Stdio::null()).stderr(File::create(folder.join("log")).unwrap());
        let child = command.spawn().unwrap();
        spool.wait_until("sshd listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(Self { child, folder, port })
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args([
            "-q",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        command.arg("-i").arg(self.folder.join("user")).arg("-P").arg(self.port.to_string());
        command
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Goal: scp and sftp deliver whole files although they write under the final name; a client that is killed
/// leaves a short file that nobody can tell from a whole one, as the producers' page says.
/// Method: each against an sshd of our own, slowed; a client killed half way.
#[test]
fn scp_and_sftp_are_whole_unless_killed() {
    let spool = Spool::new(SIZE);
    let files = sources(&spool);
    let big = &files[&b"big"[..]];
    let Some(sshd) = Sshd::start(&spool) else { return };
    let daemon = spool.daemon();
    let target = |name: &str| format!("root@127.0.0.1:{}", spool.incoming(name).display());
    let source = spool.home().join("out/big");
    tool(sshd.client("scp").args(["-l", "64000"]).arg(&source).arg(target("scp")));
    tool(sshd.client("scp").args(["-O", "-l", "64000"]).arg(&source).arg(target("old-scp")));
    let batch = spool.home().join("batch");
    let put = format!("put {} {}\n", source.display(), spool.incoming("sftp").display());
    fs::write(&batch, put).unwrap();
    tool(sshd.client("sftp").args(["-l", "64000"]).arg("-b").arg(&batch).arg("root@127.0.0.1"));
    all_done_whole(&spool, &dropped(&[("scp", big), ("old-scp", big), ("sftp", big)]));

    let mut killed = sshd.client("scp");
    killed.args(["-l", "2000"]).arg(&source).arg(target("killed"));
    let mut killed = killed.stdin(Stdio::null()).spawn().unwrap();
    let has_begun = || fs::metadata(spool.incoming("killed")).is_ok_and(|meta| meta.len() > 10_000);
    spool.wait_until("some of it has come", has_begun);
    killed.kill().unwrap();
    killed.wait().unwrap();
    spool.wait_done(4);
    let part = &spool.files("done")[&b"killed"[..]];
    assert!(part.len() < big.len() && big.starts_with(part), "{}", part.len());
    daemon.end_well();
}

/// Goal: what is no regular file is never followed, opened or deleted, and stops nobody. Method: links to a
/// secret and to a folder of secrets, a FIFO, a socket, a device, a link to nothing; then a plain file.
#[test]
fn what_is_no_file_is_set_aside() {
    let spool = Spool::new(SIZE);
    spool.write_home("secrets/secret", "secret");
    let daemon = spool.daemon();
    let incoming = spool.path("incoming");
    symlink(spool.home().join("secrets/secret"), incoming.join("link")).unwrap();
    symlink(spool.home().join("secrets"), incoming.join("folder")).unwrap();
    symlink("nowhere", incoming.join("dangling")).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let make = |name: &str, kind, dev| {
        rustix::fs::mknodat(rustix::fs::CWD, incoming.join(name), kind, mode, dev)
    };
    make("fifo", rustix::fs::FileType::Fifo, 0).unwrap();
    let mut odd = vec!["dangling", "fifo", "folder", "link", "socket"];
    if make("device", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 5)).is_ok() {
        odd.insert(1, "device");
    }
    let socket = std::os::unix::net::UnixListener::bind(incoming.join("socket")).unwrap();
    spool.drop_file("plain", "x");
    spool.wait_done(1);
    spool.wait_until("the others are set aside", || {
        fs::read_dir(spool.path("error")).unwrap().count() == odd.len() + 1
    });
    for name in &odd {
        assert_eq!(spool.reason(name), "not a regular file");
    }
    assert_eq!(spool.csv("size").rows.len(), 1);
    assert_eq!(fs::read(spool.home().join("secrets/secret")).unwrap(), b"secret");
    drop(socket);
    daemon.end_well();
}

/// Goal: a folder swapped for a link between sighting and claim leads nowhere. Method: a folder and a link to
/// a folder of secrets take turns under one name while files are dropped.
#[test]
fn a_folder_swapped_for_a_link_leads_nowhere() {
    let spool = Spool::new(&format!("rescan = \"1d\"\n{SIZE}"));
    for n in 0..100 {
        spool.write_home(&format!("secrets/{n}"), "secret");
        spool.write_home(&format!("real/{n}"), "");
    }
    let daemon = spool.daemon();
    symlink(spool.home().join("secrets"), spool.home().join("evil")).unwrap();
    let (real, evil, place) =
        (spool.home().join("real"), spool.home().join("evil"), spool.incoming("d"));
    // While the daemon holds something of that name it may come back to it a moment later: a swap that
    // finds its name taken, or its folder not there, is tried again.
    let swap = |from: &Path, to: &Path| {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, from, cwd, to, flags).is_ok()
    };
    for _ in 0..100 {
        swap(&real, &place);
        if !swap(&place, &real) {
            continue;
        }
        if swap(&evil, &place) {
            // The link itself may be taken, as what it is.
            swap(&place, &evil);
        }
    }
    spool.wait_until("the folder stands there at last", || {
        rustix::fs::unlink(&place).unwrap_or_default();
        swap(&real, &place) || !real.exists()
    });
    spool.wait_done(100);
    let done = spool.files("done");
    assert!(done.values().all(Vec::is_empty), "a secret was taken\n{}", spool.report());
    assert_eq!(fs::read_dir(spool.home().join("secrets")).unwrap().count(), 100);
    daemon.end_well();
}

/// Goal: deep trees, long names, empty files, files that vanish and names that come again are nothing special.
/// Method: all of them at once into a running daemon.
#[test]
fn odd_but_lawful_files_pass() {
    let spool = Spool::new(TRUE);
    let daemon = spool.daemon();
    let deep = vec!["d"; 100].join("/") + "/file";
    spool.drop_file(&deep, "deep");
    spool.drop_file([b'n'; 255], "long");
    for n in 0..300 {
        spool.drop_file(format!("vanishing/{n}"), "");
        // Gone before or after its claim: either is the producer's right.
        rustix::fs::unlink(spool.incoming(&format!("vanishing/{n}"))).unwrap_or_default();
    }
    let count = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
    for n in 0..count {
        spool.drop_file(format!("empty/{n}"), "");
    }
    for round in 0..10 {
        spool.drop_file("again", round.to_string());
        spool.wait_until("it is claimed", || !spool.incoming("again").exists());
    }
    spool.wait_until("all are done", || {
        spool.count("incoming") == 0 && spool.count("processing") == 0
    });
    assert!(spool.path("done").join(deep).exists());
    assert_eq!(spool.count("done/empty"), count);
    let again = fs::read_dir(spool.path("done")).unwrap().filter_map(Result::ok);
    let again = again.filter(|entry| entry.file_name().to_string_lossy().starts_with("again"));
    assert_eq!(again.count(), 10);
    assert_eq!(spool.errors(), Vec::<String>::new());
    daemon.end_well();
}

/// Goal: a file rewritten through a descriptor that was open all along is taken once it is closed, with its last
/// bytes. Method: written, rewritten and cut by one writer for longer than any wait.
#[test]
fn a_file_rewritten_in_place_is_taken_at_its_end() {
    let spool = Spool::new(SIZE);
    let daemon = spool.daemon();
    let file = File::create(spool.incoming("x")).unwrap();
    for round in 0..8 {
        file.set_len(0).unwrap();
        file.write_all_at(format!("round {round}").as_bytes(), 0).unwrap();
        std::thread::park_timeout(Duration::from_millis(100));
        assert_eq!(spool.count("done"), 0);
    }
    drop(file);
    spool.wait_done(1);
    assert_eq!(spool.files("done")[&b"x"[..]], b"round 7");
    daemon.end_well();
}

/// Goal: a folder of another user that does not let us claim is held, told of once with its reason, and taken as
/// soon as it is mended; others go on. Method: the daemon as `nobody`, a folder of root's.
#[test]
fn a_folder_of_another_user_is_held_and_told_of_once() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let spool = Spool::verbatim("[routes.size]\ncommand = [\"wc\", \"-c\", \"{path}\"]\n");
    let daemon = spool.daemon_as_nobody();
    let said = || daemon.log();
    let theirs = spool.incoming("theirs");
    fs::create_dir(&theirs).unwrap();
    for n in 0..20 {
        spool.drop_file(format!("theirs/{n}"), "x");
    }
    spool.drop_file("ours", "x");
    spool.wait_done(1);
    spool.wait_until("all are held", || spool.held() == 20);
    let told = said().matches("file cannot be claimed").count();
    assert_eq!(told, 1, "{}", said());
    assert!(said().contains("the folder is root:root 2755, inboxd runs as nobody"), "{}", said());
    assert!(said().contains("chmod -R g+rwX,g+s theirs"), "{}", said());
    let status = spool.run(&["status"]).ok().says("held  theirs/ (20 files)");
    status.says("once: chgrp -R root theirs && chmod -R g+rwX,g+s theirs");
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
    spool.wait_done(21);
    daemon.end_well();
}
