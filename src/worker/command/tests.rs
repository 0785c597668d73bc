//! Tests of `command` with real programs: `sh`, `python3`, coreutils.

use super::*;
use crate::config::StdoutFormat;
use crate::core::{JobId, RelPath};
use crate::worker::proc;
use crate::worker::tests::route;
use rustix::process::Pid;

/// A spool with one claimed file.
struct Spool {
    folder: tempfile::TempDir,
    rel: RelPath,
}

impl Spool {
    fn with(rel: impl Into<Vec<u8>>, content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rel = RelPath::new(rel).unwrap();
        let spool = Self { folder, rel };
        let task = spool.task(route(&["true"]));
        std::fs::create_dir_all(task.path.parent().unwrap()).unwrap();
        std::fs::create_dir(&task.scratch).unwrap();
        std::fs::write(&task.path, content).unwrap();
        spool
    }

    fn task(&self, route: Route) -> Task {
        let job = JobId::next(JobId::MIN, 1_767_225_600_000, [7; 10]);
        let processing = self.folder.path().join("processing");
        Task {
            job,
            attempt: 3,
            route: Arc::new(route),
            rel: self.rel.clone(),
            spool: self.folder.path().to_owned(),
            path: processing.join(format!("{job}.3")).join(self.rel.as_path()),
            scratch: processing.join(format!("{job}.3.tmp")),
            output: None,
            record: None,
        }
    }

    fn run(&self, route: Route) -> Ended {
        run(&self.task(route), &Stop::new().unwrap())
    }
}

/// Runs a shell script with these settings.
fn shell(script: &str, set: impl FnOnce(&mut Route)) -> Ended {
    let mut route = route(&["sh", "{path}"]);
    set(&mut route);
    Spool::with("job.sh", script).run(route)
}

fn failure(ended: &Ended) -> &Failure {
    match &ended.verdict {
        Verdict::Failed(failure) => failure,
        other => panic!("not failed: {other:?} {}", String::from_utf8_lossy(&ended.stderr)),
    }
}

fn reason(ended: &Ended) -> &str {
    match &ended.verdict {
        Verdict::Failed(failure) => &failure.reason,
        Verdict::Misconfigured { reason } | Verdict::Incomplete { reason, .. } => reason,
        other => panic!("no reason: {other:?}"),
    }
}

/// The process that a worker wrote the number of into a file. Dead: gone, a zombie, or another one.
fn is_alive(pid: Pid) -> bool {
    proc::stat(pid).is_some_and(|stat| !stat.is_dead())
}

fn pids_in(log: &[u8]) -> Vec<Pid> {
    let text = std::str::from_utf8(log).unwrap();
    text.split_whitespace().map(|n| Pid::from_raw(n.parse().unwrap()).unwrap()).collect()
}

/// Goal: the five scripts of the seed scenario end as its table says. Method: each, by its text.
#[test]
fn the_five_prefixed_scripts() {
    let prefixed = |script: &str| shell(script, |route| route.stdout = StdoutFormat::Prefixed);
    let ok = prefixed("echo 'LOG: loaded'; echo 'OUTPUT: {\"class\":\"motor\",\"p\":0.93}'");
    assert_eq!(ok.verdict, Verdict::Done);
    assert_eq!(ok.rows, [Row::from_pairs([("class", "motor"), ("p", "0.93")])]);
    assert_eq!(ok.log, b"loaded\n");

    let err = prefixed("echo 'ERROR: bad signal'");
    assert_eq!((failure(&err).class, reason(&err)), (FailClass::Fail, "bad signal"));
    assert_eq!(failure(&err).exit, Some(0));

    let crash = prefixed("echo 'ValueError: boom' >&2; exit 1");
    assert_eq!(
        (failure(&crash).class, reason(&crash)),
        (FailClass::Fail, "exit 1: ValueError: boom")
    );
    assert_eq!(crash.stderr, b"ValueError: boom\n");

    let mixed = prefixed(
        "echo 'LOG: saw ERROR: in data'; echo chatter; echo 'OUTPUT: {\"class\":\"x\",\"p\":1}'",
    );
    assert_eq!(mixed.rows, [Row::from_pairs([("class", "x"), ("p", "1")])]);
    assert_eq!(mixed.log, b"saw ERROR: in data\nchatter\n");

    let silent = prefixed("true");
    assert_eq!((silent.verdict, silent.rows), (Verdict::Done, vec![]));
    let silent = shell("true", |route| {
        (route.stdout, route.require_output) = (StdoutFormat::Prefixed, true);
    });
    assert_eq!(reason(&silent), "no output");
}

/// Goal: a worker that leaves a process behind leaves none alive, however it ends.
/// Method: a background sleep of whom it prints the number; killed, timed out, exit 0, exec.
#[test]
fn no_sleep_is_left_behind() {
    for (end, want) in [
        ("kill -9 $$", "killed by SIGKILL, not by inboxd: out of memory?"),
        ("sleep 60", "timed out after 300ms"),
        ("exit 0", ""),
        ("exec sleep 0", ""),
    ] {
        let script = format!("touch $INBOXD_SCRATCH/x || exit 9; sleep 60 & echo $! $$; {end}");
        let ended = shell(&script, |route| route.timeout = Duration::from_millis(300));
        if want.is_empty() {
            assert_eq!(ended.verdict, Verdict::Done, "{end}");
        } else {
            assert_eq!(reason(&ended), want);
        }
        let pids = pids_in(&ended.log);
        assert_eq!(pids.len(), 2, "{end}");
        assert!(!pids.iter().any(|pid| is_alive(*pid)), "{end}: one is alive");
        assert!(ended.took < Duration::from_secs(20), "{end}: the end of the pipe was waited for");
    }
}

/// Goal: TERM is answered in grace, and who ignores it is killed after it; both are time-outs.
/// Method: a trap that speaks and exits 0, and one that ignores; the second's child ignores as well.
#[test]
fn time_out_is_term_then_kill() {
    let set = |route: &mut Route| {
        (route.timeout, route.grace) = (Duration::from_millis(300), Duration::from_millis(300));
    };
    let polite = shell("trap 'echo bye; exit 0' TERM; echo begun; sleep 60 & wait", |route| {
        set(route);
        route.grace = Duration::from_secs(30);
    });
    assert_eq!(
        (failure(&polite).class, reason(&polite)),
        (FailClass::Timeout, "timed out after 300ms")
    );
    assert_eq!(polite.log, b"begun\nbye\n");
    assert!(polite.took < Duration::from_secs(20), "the grace was waited out");

    let deaf = shell("trap '' TERM; sleep 60 & echo $! $$; wait; sleep 60; sleep 60", set);
    assert_eq!(failure(&deaf).class, FailClass::Timeout);
    assert!(deaf.took >= Duration::from_millis(600) && deaf.took < Duration::from_secs(20));
    assert!(!pids_in(&deaf.log).iter().any(|pid| is_alive(*pid)));
}

/// Goal: a worker that never stops writing is ended in time. Method: `yes` on both pipes.
#[test]
fn an_endless_writer_times_out() {
    let ended = shell("yes >&2 & exec yes", |route| route.timeout = Duration::from_millis(300));
    assert_eq!(reason(&ended), "timed out after 300ms");
    assert!(ended.took < Duration::from_secs(20));
}

/// Goal: one stop ends all that run and all that begin, without charge. Method: two slots and a third.
#[test]
fn stop_releases_every_slot() {
    let stop = Stop::new().unwrap();
    let spool = Spool::with("a", "");
    let marks = |n: u32| spool.folder.path().join(format!("begun{n}"));
    let task = |n: u32| {
        let script = format!("mkdir begun{n}; exec sleep 60");
        spool.task(route(&["sh", "-c", &script]))
    };
    std::thread::scope(|scope| {
        let running = [1, 2].map(|n| {
            let (task, stop) = (task(n), stop.clone());
            scope.spawn(move || run(&task, &stop))
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while !(marks(1).exists() && marks(2).exists()) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        stop.now().unwrap();
        for slot in running {
            let ended = slot.join().unwrap();
            assert_eq!(ended.verdict, Verdict::Released);
            assert!(ended.took < Duration::from_secs(30));
        }
    });
    assert_eq!(run(&task(3), &stop).verdict, Verdict::Released);
    assert!(!marks(3).exists(), "a worker was started after the stop");
}

/// Goal: a worker killed because the daemon ends everything is not charged with a crash, and one that
/// had ended well keeps its end. Method: by the time its slot looks, it is dead and the stop is there.
#[test]
fn a_worker_ended_with_the_daemon_is_not_a_crash() {
    for (script, want) in [("kill -9 $$", Verdict::Released), ("exit 0", Verdict::Done)] {
        let spool = Spool::with("job.sh", script);
        let task = spool.task(route(&["sh", "{path}"]));
        let stop = Stop::new().unwrap();
        let mut late = |worker: &Started| {
            worker.begin();
            let pidfd = worker.process.pidfd.try_clone().unwrap();
            let deadline = Instant::now().checked_add(Duration::from_secs(10));
            assert!(proc::await_ends(&[pidfd], deadline), "{script} does not end");
            stop.now().unwrap();
            attend_task(&task, worker, &stop, &mut [0; 64], &OomWatch::new())
        };
        let prepared = Prepared::new(&task).unwrap();
        let ended = prepared.run(&task, &mut Starter::new().unwrap(), &mut late).unwrap();
        assert_eq!(ended.verdict, want, "{script}");
    }
}

/// Goal: a child in a session of its own neither holds the slot nor is ended here: it is the
/// supervisor's. Method: it holds both pipes; the attempt must end, the child live.
#[test]
fn a_setsid_child_is_left_to_the_supervisor() {
    let script = "setsid sh -c 'echo $$ > begun.tmp; mv begun.tmp begun; exec sleep 60' &
        while ! [ -e begun ]; do sleep 0.01; done; cat begun";
    let ended = shell(script, |_| {});
    assert_eq!(ended.verdict, Verdict::Done);
    assert!(ended.took < Duration::from_secs(20), "the end of the pipe was waited for");
    let [child] = pids_in(&ended.log)[..] else { panic!("{:?}", ended.log) };
    assert!(is_alive(child));
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}

/// Goal: output without end costs bounded memory and never blocks. Method: 1 GiB, as log and as JSON.
#[test]
fn a_gibibyte_of_output_is_bounded() {
    let ended = shell("yes | head -c 1073741824; echo; echo end", |_| {});
    assert_eq!(ended.verdict, Verdict::Done);
    assert!(ended.log.starts_with(b"[") && ended.log.ends_with(b"y\n\nend\n"));
    assert!(ended.log.len() < limits::LOG_KEPT + 100);

    let ended = shell("head -c 64M /dev/zero; head -c 64M /dev/zero >&2", |route| {
        route.stdout = StdoutFormat::Json;
    });
    assert_eq!(failure(&ended).class, FailClass::Permanent);
    assert!(reason(&ended).contains("max_output (16.0 MiB)"), "{}", reason(&ended));
    assert!(ended.stderr.len() < limits::STDERR_KEPT + 100);
}

/// Goal: odd output is output. Method: a half line, binary, a pipe closed early, a megabyte line.
#[test]
fn odd_output_is_output() {
    assert_eq!(shell("printf half", |_| {}).log, b"half");
    assert_eq!(shell("printf '\\0\\377\\n\\0'", |_| {}).log, b"\0\xff\n\0");
    let closed = shell("echo a; exec >&- 2>&-; sleep 0.2; exit 3", |_| {});
    assert_eq!((closed.log.as_slice(), reason(&closed)), (&b"a\n"[..], "exit 3"));
    let garbage = shell("head -c 1M /dev/urandom >&2; exit 1", |_| {});
    assert!(reason(&garbage).starts_with("exit 1") && reason(&garbage).len() < 10_000);
}

/// Goal: an exit code is a verdict. Method: one of each row of the table, through a real process.
#[test]
fn exit_codes_are_verdicts() {
    let exit = |code: i32| shell(&format!("echo why >&2; exit {code}"), |_| {});
    for (code, class) in [
        (1, FailClass::Fail),
        (2, FailClass::Fail),
        (65, FailClass::Permanent),
        (69, FailClass::TryAgain),
        (75, FailClass::TryAgain),
        (139, FailClass::Crash),
        (255, FailClass::Fail),
    ] {
        let ended = exit(code);
        assert_eq!((failure(&ended).class, failure(&ended).exit), (class, Some(code)));
        assert_eq!(reason(&ended), format!("exit {code}: why"));
    }
    let incomplete = exit(66).verdict;
    let want = Verdict::Incomplete { reason: "exit 66: why".into(), retry_after_ms: None };
    assert_eq!(incomplete, want);
    for code in [126, 127] {
        let reason = format!("exit {code}: why");
        assert_eq!(exit(code).verdict, Verdict::Misconfigured { reason });
    }
    assert_eq!(exit(0).verdict, Verdict::Done);
}

/// Goal: with an exit code and an ERROR text, the code says the class and the text the reason.
/// Method: exit 75 and 66 after ERROR.
#[test]
fn error_text_is_the_reason_of_any_exit() {
    let ended = |code: i32| {
        shell(&format!("echo ERROR: busy; exit {code}"), |r| r.stdout = StdoutFormat::Prefixed)
    };
    assert_eq!((failure(&ended(75)).class, reason(&ended(75))), (FailClass::TryAgain, "busy"));
    assert_eq!(reason(&ended(66)), "busy");
}

/// Goal: a signal is named. Method: a real death by several.
#[test]
fn deaths_by_signal_are_named() {
    for (name, number) in [("SEGV", 11), ("ABRT", 6), ("TERM", 15), ("HUP", 1), ("PIPE", 13)] {
        let ended = shell(&format!("kill -{name} $$"), |_| {});
        assert_eq!(reason(&ended), format!("killed by SIG{name}"));
        assert_eq!(
            (failure(&ended).class, failure(&ended).signal),
            (FailClass::Crash, Some(number))
        );
    }
}

/// Goal: what cannot start says why, and whose fault it is: the route's, or the file's where the
/// program's name comes from the file. Method: each way to fail.
#[test]
fn what_cannot_start_says_why() {
    let spool = Spool::with("bare", "echo no program");
    let start = |argv: &[&str]| {
        let mut route = route(argv);
        route.env = vec![("PATH".into(), "/usr/nowhere:/bin".into())];
        spool.run(route)
    };
    assert_eq!(
        start(&["python3.99"]).verdict,
        Verdict::Misconfigured {
            reason: "cannot start \"python3.99\": not found in PATH=/usr/nowhere:/bin".into()
        }
    );
    let write = |name: &str, text: &str| {
        let path = spool.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    };
    write("lost.sh", "#!/usr/nowhere/python\n");
    assert!(reason(&start(&["./lost.sh"])).contains("the interpreter in the first line of"));
    write("windows.sh", "#!/bin/sh\r\necho hi\r\n");
    assert!(reason(&start(&["./windows.sh"])).ends_with("take those away (dos2unix)"));
    write("text", "echo hi\n");
    assert!(reason(&start(&["./text"])).ends_with("nor a script that begins with #!"));
    write("marked.sh", "\u{feff}#!/bin/sh\n");
    assert!(reason(&start(&["./marked.sh"])).ends_with("before its #!: save it without one"));
    assert!(reason(&start(&["./none"])).ends_with("none is not there"));
    let mut with_stdin = route(&["cat"]);
    with_stdin.stdin = true;
    let mut gone = spool.task(with_stdin);
    gone.path.set_file_name("gone");
    let ended = run(&gone, &Stop::new().unwrap());
    assert!(reason(&ended).starts_with("cannot open the file as standard input"));
}

/// Goal: a program that moved is found again by a slot that knew its old place, and one that was
/// missing once it is there. Method: one slot, two folders in PATH.
#[test]
fn a_moved_program_is_found_again() {
    let spool = Spool::with("a", "");
    let mut settings = route(&["tool"]);
    let at = |name: &str| spool.folder.path().join(name);
    let path = format!("{}:{}:/bin", at("one").display(), at("two").display());
    settings.env = vec![("PATH".into(), path)];
    let task = spool.task(settings);
    let (mut slot, stop) = (Slot::default(), Stop::new().unwrap());
    let make = |folder: &str| {
        std::fs::create_dir_all(at(folder)).unwrap();
        std::os::unix::fs::symlink("/bin/echo", at(folder).join("tool")).unwrap();
    };
    assert!(matches!(slot.run(&task, &stop).verdict, Verdict::Misconfigured { .. }));
    make("one");
    assert_eq!(slot.run(&task, &stop).verdict, Verdict::Done);
    let moved =
        std::process::Command::new("mv").args([at("one"), at("elsewhere")]).status().unwrap();
    assert!(moved.success());
    make("two");
    assert_eq!(slot.run(&task, &stop).verdict, Verdict::Done);
}

/// Goal: placeholders are filled byte for byte, each one argument. Method: a name that is no UTF-8
/// with a newline and spaces, printed back NUL-separated.
#[test]
fn placeholders_are_filled_byte_for_byte() {
    let spool = Spool::with(b"s ub/\xff a\n$(x).tar.gz".to_vec(), "");
    let format = "{name}|{stem}|{ext}|{rel}|{dir}|{attempt}|{{}}";
    let mut settings =
        route(&["printf", "%s\\0", format, "{path}", "{job}", "{scratch}", "-x", ""]);
    settings.stdout = StdoutFormat::Text;
    let task = spool.task(settings);
    let ended = run(&task, &Stop::new().unwrap());
    let parts: Vec<&[u8]> = ended.rows[0].0[0].1.split(|b| *b == 0).collect();
    let want: &[u8] = b"\xff a\n$(x).tar.gz|\xff a\n$(x).tar|gz|s ub/\xff a\n$(x).tar.gz|s ub|3|{}";
    assert_eq!(parts[0], want);
    assert_eq!(parts[1], task.path.as_os_str().as_bytes());
    assert_eq!(parts[2], task.job.to_string().as_bytes());
    assert_eq!(parts[3], task.scratch.as_os_str().as_bytes());
    assert_eq!(parts[4..], [&b"-x"[..], b"", b""]);
}

/// Goal: the environment is exactly the documented one, the working directory the spool, standard
/// input the file or nothing. Method: `env -0`, `pwd` and `cat` print them.
#[test]
fn environment_folder_and_stdin_are_as_documented() {
    let spool = Spool::with("d/in.txt", "content");
    let mut settings = route(&["env", "-0"]);
    settings.env = vec![("MODEL".into(), "a=b".into()), ("INBOXD_JOB".into(), "forged".into())];
    settings.pass_env = vec!["CARGO_MANIFEST_DIR".into(), "NOT_THERE".into()];
    settings.stdout = StdoutFormat::Text;
    let mut task = spool.task(settings);
    task.output = Some(spool.folder.path().join("out"));
    let ended = run(&task, &Stop::new().unwrap());
    let text = String::from_utf8(ended.rows[0].0[0].1.clone()).unwrap();
    let seen: std::collections::BTreeMap<&str, &str> =
        text.split_terminator('\0').map(|pair| pair.split_once('=').unwrap()).collect();

    for (name, want) in [
        ("INBOXD_JOB", task.job.to_string()),
        ("INBOXD_ATTEMPT", "3".into()),
        ("INBOXD_PATH", task.path.display().to_string()),
        ("INBOXD_NAME", "in.txt".into()),
        ("INBOXD_REL", "d/in.txt".into()),
        ("INBOXD_ROUTE", "main".into()),
        ("INBOXD_SCRATCH", task.scratch.display().to_string()),
        ("INBOXD_OUTPUT", format!("{}/out", task.spool.display())),
        ("INBOXD_SPOOL", task.spool.display().to_string()),
        (orphans::MARK_VAR, orphans::mark(&task.spool).unwrap().into_string().unwrap()),
        ("MODEL", "a=b".into()),
        ("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR").into()),
    ] {
        assert_eq!(seen.get(name), Some(&want.as_str()), "{name}");
    }
    let deadline: u64 = seen["INBOXD_DEADLINE_MS"].parse().unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let left_ms = u128::from(deadline) - now_ms;
    assert!(left_ms <= 3_600_000 && left_ms > 3_500_000, "{left_ms}");
    for name in seen.keys() {
        let known = ["PATH", "HOME", "LANG", "TZ", "USER", "MODEL", "CARGO_MANIFEST_DIR"];
        assert!(
            known.contains(name) || name.starts_with("INBOXD_") || name.starts_with("LC_"),
            "{name} should not have reached the worker"
        );
    }

    let mut settings = route(&["sh", "-c", "pwd -P; cat; ls /proc/self/fd | wc -l"]);
    let place = spool.folder.path().canonicalize().unwrap();
    // Three and the folder that ls itself reads, whatever this test was itself given.
    let want = |content| format!("{}\n{content}4\n", place.display());
    assert_eq!(spool.run(settings.clone()).log, want("").into_bytes());
    settings.stdin = true;
    assert_eq!(spool.run(settings).log, want("content").into_bytes());
}

/// Goal: limits hold and are the worker's alone. Method: each is exceeded by a real program.
#[test]
fn limits_hold() {
    let files = shell("ulimit -n", |route| route.max_open_files = Some(17));
    assert_eq!(files.log, b"17\n");
    let size = shell("exec head -c 2M /dev/zero > $INBOXD_SCRATCH/big", |route| {
        route.max_file_size = Some(1 << 20);
    });
    assert_eq!(reason(&size), "killed by SIGXFSZ");
    let memory = shell("ulimit -v", |route| route.max_memory = Some(1 << 30));
    assert_eq!(memory.log, b"1048576\n");
}

/// Goal: a record reaches a script in each way that is promised, and one that no argument can hold
/// fails alone. Method: a script that prints them; then a NUL byte, with and without `{record}` and stdin.
#[test]
fn a_record_reaches_a_script() {
    use crate::worker::records::{InputRecord, RecordValue};
    let script = r#"read -r in; test "$in" = "$1" && test "$in" = "$INBOXD_RECORD" &&
        echo "{\"no\":$INBOXD_RECORD_NO,\"in\":$in}""#;
    let spool = Spool::with("ids.csv", script);
    let run_by = |stdin: bool, text: &str, argv: &[&str]| {
        let mut route = route(argv);
        (route.stdin, route.stdout) = (stdin, StdoutFormat::Json);
        let value = RecordValue::Object(text.to_owned());
        let record = Some(InputRecord { no: 12, value });
        super::run(&Task { record, ..spool.task(route) }, &Stop::new().unwrap())
    };
    let run = |text: &str, argv: &[&str]| run_by(true, text, argv);
    let ended = run(r#"{"id":"7"}"#, &["sh", "{path}", "{record}"]);
    assert_eq!(ended.rows, [Row::from_pairs([("no", "12"), ("in", r#"{"id":"7"}"#)])]);
    let nul = run("\0", &["sh", "-c", "true", "x", "{record}"]);
    assert!(failure(&nul).reason.contains("cannot hold a NUL byte"), "{nul:?}");
    let bare = run("\0", &["sh", "-c", "test -z \"$INBOXD_RECORD\" && head -c 1 > /dev/null"]);
    assert_eq!(bare.verdict, Verdict::Done, "{bare:?}");
    let unheard = run_by(false, "\0", &["sh", "-c", "true"]);
    assert!(failure(&unheard).reason.contains("INBOXD_RECORD cannot hold"), "{unheard:?}");
    let heard = run_by(false, "7", &["sh", "-c", "test \"$INBOXD_RECORD\" = 7"]);
    assert_eq!(heard.verdict, Verdict::Done, "{heard:?}");
}

/// Goal: a shortage of ours fails no file that is standard input, and nothing that is amiss there a record, which
/// needs none. Method: what is said of each kind of error.
#[test]
fn a_shortage_fails_no_file() {
    use crate::worker::records::{InputRecord, RecordValue};
    let spool = Spool::with("job.sh", "");
    let mut task = spool.task(route(&["sh", "{path}"]));
    let prepared = Prepared::new(&task).unwrap();
    let said = |errno: rustix::io::Errno, task: &Task| {
        prepared.explain(&NotStarted { step: Step::Stdin, source: errno.into() }, task)
    };
    assert!(matches!(said(rustix::io::Errno::MFILE, &task), StartError::Route(_)));
    assert!(matches!(said(rustix::io::Errno::NOENT, &task), StartError::Task(_)));
    let value = RecordValue::Line("x".to_owned());
    task.record = Some(InputRecord { no: 1, value });
    assert!(matches!(said(rustix::io::Errno::ACCESS, &task), StartError::Route(_)));
}

/// Goal: what a worker of an earlier attempt put in place of its input holds no slot. Method: a FIFO that nobody
/// writes into, as standard input.
#[test]
fn a_fifo_in_place_of_the_input_fails_the_job() {
    let spool = Spool::with("x", "");
    let mut route = route(&["cat"]);
    route.stdin = true;
    let path = spool.task(route.clone()).path;
    rustix::fs::unlink(&path).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    let ended = spool.run(route);
    assert_eq!(reason(&ended), "cannot open the file as standard input: it is not a regular file");
}
