//! Of starts, with a child that stands by and without.

use std::fs::File;
use std::io::Read;

use rustix::io::Errno;

use super::*;
use crate::worker::proc;

/// Attends as simply as can be.
fn see_out(started: &Started) -> (ExitStatus, String) {
    started.begin();
    started.has_left();
    assert!(proc::await_ends(&[started.process.pidfd.try_clone().unwrap()], None));
    let status = started.process.wait().unwrap();
    let mut said = vec![0; 4096];
    let there = rustix::io::ioctl_fionread(&started.pipes.stdout).unwrap();
    said.truncate(usize::try_from(there).unwrap());
    File::from(started.pipes.stdout.try_clone().unwrap()).read_exact(&mut said).unwrap();
    (status, String::from_utf8(said).unwrap())
}

/// Runs one program; its standard error is its standard output.
fn run(
    starter: &mut Starter,
    argv: &[&str],
    folder: &str,
    stdin: Stdin<'_>,
) -> Result<(ExitStatus, String), NotStarted> {
    let text = |it: &str| CString::new(it).unwrap();
    let argv: Vec<CString> = argv.iter().map(|it| text(it)).collect();
    let program = Program {
        path: &argv[0],
        argv: &argv,
        environment: &[c"A=1", c"PATH=/usr/bin:/bin"],
        folder: &text(folder),
        stdin,
        limits: ResourceLimits { open_files: Some(20), ..ResourceLimits::default() },
    };
    starter.start(&program, &mut see_out)
}

/// One that has a child stand by, and one that has none.
fn starters() -> [Starter; 2] {
    let mut ready = Starter::new().unwrap();
    ready.get_ready();
    assert!(ready.ready.is_some());
    [ready, Starter::new().unwrap()]
}

/// Goal: the program finds what it was promised and nothing else. Method: a shell that tells its
/// environment, folder, group, limit, signals and descriptors; one of ours is left without CLOEXEC.
#[test]
fn the_child_has_what_was_asked_for_and_no_more() {
    let leak = File::open("/dev/null").unwrap();
    let leaked = rustix::io::dup(&leak).unwrap();
    let script = "echo $A $PWD; ulimit -n; cat; test $$ = $(ps -o pgid= $$) && echo leader; \
        ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/$$/status | cut -f2";
    for mut starter in starters() {
        let argv = ["/bin/sh", "-c", script];
        let (status, said) = run(&mut starter, &argv, "/usr", Stdin::Null).unwrap();
        assert!(status.success(), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        // Three, and the folder that ls itself reads.
        assert_eq!(lines[..4], ["1 /usr", "20", "leader", "4"], "{said}");
        // Signals 32 and 33 are the C library's own; who started us may have left them ignored.
        let signals = |at: usize| u64::from_str_radix(lines[at], 16).unwrap() & !(3 << 31);
        assert_eq!((signals(4), signals(5)), (0, 0), "{said}");
    }
    drop(leaked);
}

/// Goal: a program reads what it was given. Method: nothing, a file, a text of more than a pipe holds.
#[test]
fn a_program_reads_its_input() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "of the file").unwrap();
    let file = CString::new(file.to_str().unwrap()).unwrap();
    let text = "of the text\n".repeat(10_000);
    let inputs = [Stdin::Null, Stdin::File(&file), Stdin::Text(text.as_bytes())];
    for (stdin, wanted) in inputs.into_iter().zip(["0", "11", "120000"]) {
        for mut starter in starters() {
            let (_, said) = run(&mut starter, &["/usr/bin/wc", "-c"], "/", stdin).unwrap();
            assert_eq!(said.trim(), wanted);
        }
    }
}

/// Goal: an error names its step and is the kernel's, and leaves no process. Method: nothing there,
/// not executable, no program, no folder, no input, a link or a folder in its
/// place.
#[test]
fn what_does_not_start_says_why() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("text"), "no program\n").unwrap();
    std::fs::write(at("data"), "no program\n").unwrap();
    std::os::unix::fs::symlink("text", at("link")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(at("text"), mode).unwrap();
    let path = |name: &str| CString::new(at(name)).unwrap();
    let (none, link, folder) = (path("none"), path("link"), path(""));
    let [none, link, folder] = [&none, &link, &folder].map(|path| Stdin::File(path));
    let cases = [
        (at("none"), at(""), Stdin::Null, (Step::Execute, Errno::NOENT)),
        (at("data"), at(""), Stdin::Null, (Step::Execute, Errno::ACCESS)),
        (at("text"), at(""), Stdin::Null, (Step::Execute, Errno::NOEXEC)),
        ("/bin/true".to_owned(), at("none"), Stdin::Null, (Step::Folder, Errno::NOENT)),
        ("/bin/true".to_owned(), at(""), none, (Step::Stdin, Errno::NOENT)),
        ("/bin/true".to_owned(), at(""), link, (Step::Stdin, Errno::LOOP)),
        ("/bin/true".to_owned(), at(""), folder, (Step::StdinKind, Errno::INVAL)),
    ];
    for (program, folder, stdin, wanted) in cases {
        for mut starter in starters() {
            let error = run(&mut starter, &[&program], &folder, stdin).unwrap_err();
            let errno = Errno::from_io_error(&error.source).unwrap();
            assert_eq!((error.step, errno), wanted, "{program}");
        }
    }
}

/// Goal: nobody but its thread holds what a child that stands by had of us, and none is left behind. Method: the
/// other end of a pipe; then let go, dropped, and killed by somebody else before its orders.
#[test]
fn a_child_that_stands_by_holds_nothing_and_is_replaced() {
    let (reader, writer) = std::io::pipe().unwrap();
    let [mut starter, _] = starters();
    drop(writer);
    let mut end = Vec::new();
    (&reader).read_to_end(&mut end).unwrap();

    let pid = |starter: &Starter| starter.ready.as_ref().unwrap().group();
    let is_gone = |pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH);
    let first = pid(&starter);
    starter.dismiss();
    assert!(is_gone(first));
    for is_reaped in [false, true] {
        starter.get_ready();
        let second = pid(&starter);
        rustix::process::kill_process(second, Signal::TERM).unwrap();
        starter.ready.as_ref().unwrap().has_left();
        if is_reaped {
            // As by who sweeps the dead.
            waitpid(Some(second), WaitOptions::empty()).unwrap();
        }
        let (status, said) = run(&mut starter, &["/bin/echo", "x"], "/", Stdin::Null).unwrap();
        assert!(status.success() && said == "x\n");
        assert!(is_gone(second));
    }
    starter.get_ready();
    let third = pid(&starter);
    drop(starter);
    assert!(is_gone(third));
}
