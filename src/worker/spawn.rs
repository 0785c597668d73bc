//! A process from a prepared program, by our own `clone`: one of three rooms with `unsafe`.
//!
//! Must not know: tasks, routes, what the process is for.
//!
//! Why not std: it forks as soon as the child is to do anything of ours before `execve`, which costs a
//! third of the rate, and far more with much memory in use; and without that the child has neither a
//! parent-death signal nor its limits from its first instruction on. `posix_spawn` has neither.
//!
//! The child shares our memory until `execve` (`CLONE_VM`), on a stack of its own with a guard page,
//! while the thread that made it waits (`CLONE_VFORK`). So everything is prepared before, and [`child`]
//! makes system calls only: no allocation, no lock, no panic; what fails is stored for the parent.
//!
//! Invariants
//! - All signals are blocked from before the `clone` to the child's empty mask, and by then the child
//!   has its default for each: none of our functions for signals ever runs in it.
//! - A child whose program did not start is reaped here: an error leaves no process.
//! - The child has the three descriptors given and no other; all of ours are CLOEXEC besides.
//! - The child gets SIGKILL when the *thread* that made it ends. So that thread must stay with it, or
//!   live as long as the daemon.

#![expect(
    unsafe_code,
    reason = "clone, mmap, sigaction, execve: neither std nor rustix has them so"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::{null, null_mut};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Pid, Resource, WaitOptions, getpid, waitpid};

use super::process::ResourceLimits;

/// What is to be started.
pub(super) struct Program<'a> {
    /// Where it is.
    pub(super) path: &'a CStr,
    /// Its name for itself, and its arguments.
    pub(super) argv: &'a [CString],
    /// `NAME=value`.
    pub(super) environment: &'a [&'a CStr],
    /// Its working directory.
    pub(super) folder: &'a CStr,
    /// In force before its first instruction.
    pub(super) limits: ResourceLimits,
}

/// A started process, the leader of a group of its own.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
}

impl Process {
    /// Waits for its end and takes its status; once.
    pub(super) fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// At which step a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Anything before the program: descriptors, memory, the process itself.
    Prepare,
    /// Its niceness.
    Nice,
    /// Its limits.
    Limits,
    /// Its working directory.
    Folder,
    /// Becoming the program.
    Execute,
}

/// Why nothing runs.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub(super) step: Step,
    pub(super) source: io::Error,
}

impl NotStarted {
    pub(super) fn prepare(source: impl Into<io::Error>) -> Self {
        Self { step: Step::Prepare, source: source.into() }
    }
}

/// The child's stack; one serves many children, one at a time.
#[derive(Debug)]
pub(super) struct Stack {
    base: *mut c_void,
    /// Signals that are caught here or ignored: most are neither, and each is a system call in each
    /// child. Found once: the daemon says what it catches before it starts a worker.
    signals: Vec<c_int>,
}

// SAFETY: the mapping belongs to no thread, and `spawn` borrows it exclusively.
unsafe impl Send for Stack {}

/// The child calls a few shallow C functions; `clone`'s own use is less than a page.
const STACK: usize = 64 << 10;
/// A multiple of every page size in use on Linux.
const GUARD: usize = 64 << 10;

impl Stack {
    /// Maps it, with a guard below: who overruns it ends with SIGSEGV and corrupts nothing of ours.
    pub(super) fn new() -> io::Result<Self> {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
        );
        // SAFETY: a new anonymous mapping, wherever the kernel likes.
        let base = unsafe { libc::mmap(null_mut(), GUARD + STACK, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base, signals: changed_signals() };
        // SAFETY: the first part of the mapping just made, which nothing uses.
        match unsafe { libc::mprotect(base, GUARD, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its upper end, from which it grows downwards; aligned as the mapping is.
    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD + STACK)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; a child that used it has left it, as `spawn` returned.
        let unmapped = unsafe { libc::munmap(self.base, GUARD + STACK) };
        debug_assert_eq!(unmapped, 0);
    }
}

/// All that the child needs, and where it says what failed. It lies in the parent's frame.
struct Orders {
    path: *const c_char,
    argv: *const *const c_char,
    environment: *const *const c_char,
    folder: *const c_char,
    streams: [c_int; 3],
    /// Resources and their limits, as `prlimit` takes them: soft, hard.
    limits: *const (c_long, [u64; 2]),
    limits_len: usize,
    signals: *const c_int,
    signals_len: usize,
    parent: libc::pid_t,
    nice: Option<c_int>,
    failed: Option<(Step, c_int)>,
}

/// Starts a program with these as standard input, output and error.
pub(super) fn spawn(
    program: &Program<'_>,
    [stdin, stdout, stderr]: [BorrowedFd<'_>; 3],
    stack: &mut Stack,
) -> Result<Process, NotStarted> {
    // Above the three, so that none is overwritten before it is duplicated.
    let mut raised: Vec<OwnedFd> = Vec::new();
    let mut streams = [-1; 3];
    for (to, from) in streams.iter_mut().zip([stdin, stdout, stderr]) {
        *to = from.as_raw_fd();
        if *to < 3 {
            let higher = fcntl_dupfd_cloexec(from, 3).map_err(NotStarted::prepare)?;
            *to = higher.as_fd().as_raw_fd();
            raised.push(higher);
        }
    }
    let argv: Vec<_> = program.argv.iter().map(|it| it.as_ptr()).chain([null()]).collect();
    let environment: Vec<_> =
        program.environment.iter().map(|it| it.as_ptr()).chain([null()]).collect();
    let limits: Vec<_> =
        program.limits.all().map(|(it, most)| (number(it), [most, most])).collect();
    let mut orders = Orders {
        path: program.path.as_ptr(),
        argv: argv.as_ptr(),
        environment: environment.as_ptr(),
        folder: program.folder.as_ptr(),
        streams,
        limits: limits.as_ptr(),
        limits_len: limits.len(),
        signals: stack.signals.as_ptr(),
        signals_len: stack.signals.len(),
        parent: getpid().as_raw_nonzero().get(),
        nice: program.limits.nice,
        failed: None,
    };
    let cloned = clone_blocked(&mut orders, stack);
    drop(raised);
    let (pid, pidfd) = cloned.map_err(NotStarted::prepare)?;
    let process = Process { pid, pidfd };
    match orders.failed {
        None => Ok(process),
        Some((step, errno)) => {
            // It has ended already. That it cannot be reaped says nothing of why it did not start.
            drop(process.wait());
            Err(NotStarted { step, source: io::Error::from_raw_os_error(errno) })
        }
    }
}

fn number(resource: Resource) -> c_long {
    c_long::from(match resource {
        Resource::As => libc::RLIMIT_AS,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        _ => libc::RLIMIT_NOFILE,
    })
}

/// Signals that are not at their default in this process.
fn changed_signals() -> Vec<c_int> {
    let is_changed = |signal: &c_int| {
        let mut now = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: `now` is filled, or stays zeroed, which stands for the default.
        let now = unsafe {
            libc::sigaction(*signal, null_mut(), now.as_mut_ptr());
            now.assume_init()
        };
        now.sa_sigaction != libc::SIG_DFL
    };
    (1..=libc::SIGRTMAX()).filter(is_changed).collect()
}

/// The clone itself, with all signals blocked around it.
fn clone_blocked(orders: &mut Orders, stack: &mut Stack) -> io::Result<(Pid, OwnedFd)> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let orders: *mut Orders = orders;
    // SAFETY: the sets are filled before they are read. The child runs on a stack that is ours alone and
    // reads `orders`, which outlives it: CLONE_VFORK holds us here until it has left our memory.
    let (pid, error) = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
        let pid = libc::clone(child, stack.top(), flags, orders.cast(), &raw mut pidfd);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), null_mut());
        (pid, error)
    };
    let Some(pid) = Pid::from_raw(pid.max(0)) else { return Err(error) };
    if pidfd < 0 {
        return Err(io::Error::other("the kernel gave no pidfd"));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// What the new process does until it is the program. It returns only to end.
extern "C" fn child(orders: *mut c_void) -> c_int {
    // SAFETY: `spawn` gave a pointer to its `Orders`, and waits.
    let orders = unsafe { &mut *orders.cast::<Orders>() };
    // SAFETY: system calls on pointers that `spawn` keeps alive; nothing else of the process is touched.
    let failed = unsafe { become_program(orders) };
    // SAFETY: no pointers.
    let errno = unsafe { *libc::__errno_location() };
    orders.failed = Some((failed, errno));
    127
}

/// Returns the step that failed, with `errno` set.
///
/// # Safety
///
/// Only in a fresh child on its own stack; the pointers in `orders` are valid and NUL-ended.
unsafe fn become_program(orders: &Orders) -> Step {
    // SAFETY: as said above; every call is async-signal-safe.
    unsafe {
        // Also what std ignores for us (SIGPIPE): a program expects the defaults.
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in std::slice::from_raw_parts(orders.signals, orders.signals_len) {
            libc::sigaction(*signal, &raw const default, null_mut());
        }
        if libc::setpgid(0, 0) != 0 {
            return Step::Prepare;
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Step::Prepare;
        }
        if libc::getppid() != orders.parent {
            // It died before that could count; nobody reads this.
            libc::_exit(127);
        }
        for (from, to) in orders.streams.iter().zip(0..) {
            if libc::dup2(*from, to) < 0 {
                return Step::Prepare;
            }
        }
        // What who started the daemon left open. Kernels before 5.11 lack it; ours are CLOEXEC anyway.
        libc::syscall(libc::SYS_close_range, 3, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if libc::chdir(orders.folder) != 0 {
            return Step::Folder;
        }
        if let Some(nice) = orders.nice
            && libc::setpriority(libc::PRIO_PROCESS, 0, nice) != 0
        {
            return Step::Nice;
        }
        for (resource, both) in std::slice::from_raw_parts(orders.limits, orders.limits_len) {
            let none: *mut [u64; 2] = null_mut();
            if libc::syscall(libc::SYS_prlimit64, 0, *resource, both.as_ptr(), none) != 0 {
                return Step::Limits;
            }
        }
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), null_mut());
        libc::execve(orders.path, orders.argv, orders.environment);
    }
    Step::Execute
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    fn run(path: &str, argv: &[&str], folder: &str) -> Result<(ExitStatus, String), NotStarted> {
        let text = |it: &str| CString::new(it).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let argv: Vec<CString> = argv.iter().map(|it| text(it)).collect();
        let program = Program {
            path: &text(path),
            argv: &argv,
            environment: &[c"A=1", c"PATH=/usr/bin:/bin"],
            folder: &text(folder),
            limits: ResourceLimits { open_files: Some(20), ..ResourceLimits::default() },
        };
        let streams = [null.as_fd(), writer.as_fd(), writer.as_fd()];
        let process = spawn(&program, streams, &mut Stack::new().unwrap())?;
        drop(writer);
        let mut said = String::new();
        (&reader).read_to_string(&mut said).unwrap();
        Ok((process.wait().unwrap(), said))
    }

    /// Goal: the program finds what it was promised and nothing else. Method: a shell that tells its
    /// environment, folder, group, limit, signals and descriptors; one of ours is left without CLOEXEC.
    #[test]
    fn the_child_has_what_was_asked_for_and_no_more() {
        let leak = File::open("/dev/null").unwrap();
        let leaked = rustix::io::dup(&leak).unwrap();
        let script = "echo $0 $A $PWD; ulimit -n; cat; test $$ = $(ps -o pgid= $$) && echo leader; \
            ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/$$/status | cut -f2";
        let (status, said) = run("/bin/sh", &["me", "-c", script], "/usr").unwrap();
        drop(leaked);
        assert!(status.success(), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        // Three, and the folder that ls itself reads.
        assert_eq!(lines[..4], ["me 1 /usr", "20", "leader", "4"], "{said}");
        // Signals 32 and 33 are the C library's own; who started us may have left them ignored.
        let signals = |at: usize| u64::from_str_radix(lines[at], 16).unwrap() & !(3 << 31);
        assert_eq!((signals(4), signals(5)), (0, 0), "{said}");
    }

    /// Goal: an error names its step and is the kernel's, and leaves no process. Method: nothing there,
    /// not executable, no program, no folder.
    #[test]
    fn what_does_not_start_says_why() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("text"), "no program\n").unwrap();
        std::fs::write(at("data"), "no program\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(at("text"), mode).unwrap();
        let failed = |path: &str, folder: &str| {
            let error = run(path, &["x"], folder).unwrap_err();
            (error.step, Errno::from_io_error(&error.source).unwrap())
        };
        assert_eq!(failed(&at("none"), "/"), (Step::Execute, Errno::NOENT));
        assert_eq!(failed(&at("data"), "/"), (Step::Execute, Errno::ACCESS));
        assert_eq!(failed(&at("text"), "/"), (Step::Execute, Errno::NOEXEC));
        assert_eq!(failed("/bin/true", &at("none")), (Step::Folder, Errno::NOENT));
    }
}
