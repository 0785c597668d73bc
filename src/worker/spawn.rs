//! A process from a prepared program, by our own `clone`: one of three rooms with `unsafe`.
//!
//! Must not know: tasks, routes, what the process is for.
//!
//! Why not std: it forks as soon as the child is to do anything of ours before `execve`, which costs a
//! third of the rate, and far more with much memory in use; and without that the child has neither a
//! parent-death signal nor its limits from its first instruction on. `posix_spawn` has neither.
//!
//! The child shares our memory until `execve` (`CLONE_VM`), on a stack of its own with a guard page. It is
//! cloned ahead where there is time for that ([`Starter::get_ready`]): it does what is the same for every
//! program, and stands by. So the worker of a file that is dropped into a quiet folder begins a tenth of a
//! millisecond earlier.
//!
//! Everything is prepared by the thread, and [`child()`] makes system calls only: no allocation, no lock, no
//! panic; what fails is stored for the thread, which hears of it by the end of the process.
//!
//! Invariants
//! - The child has the thread's `errno`, too. It makes its calls by rustix, which does without, but for
//!   `execve`. So from [`Started::begin`] until the child has left our memory ([`Started::is_here`]) the thread
//!   makes only calls of rustix: it polls what [`Started`] has.
//! - A child that does not leave it (somebody stopped it, or where its program lies hangs) is ended in time.
//! - All signals are blocked from before the `clone` to the child's empty mask, and by then the child
//!   has its default for each: none of our functions for signals ever runs in it.
//! - What the child reads outlives its stay in our memory. A start that failed leaves no process.
//! - One that somebody killed while it stood by is replaced.
//! - The child has three descriptors and no other, also while it stands by: nothing is held open by it.
//! - The child gets SIGKILL when the *thread* that made it ends. So that thread must stay with it, or
//!   live as long as the daemon.

#![expect(unsafe_code, reason = "clone: neither std nor rustix has it so")]

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, pidfd_send_signal, waitid,
    waitpid,
};

use super::process::{ResourceLimits, take_status};
use child::{Orders, Shared, child};
use stack::Stack;

mod child;
mod stack;

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
    /// What it reads.
    pub(super) stdin: Stdin<'a>,
    /// In force before its first instruction.
    pub(super) limits: ResourceLimits,
}

/// The standard input of a program.
#[derive(Clone, Copy)]
pub(super) enum Stdin<'a> {
    /// `/dev/null`.
    Null,
    /// The file of this name, if that is a regular one and no link.
    File(&'a CStr),
    /// A file of this text, which nobody has to write into while the program reads.
    Text(&'a [u8]),
}

/// A started process, the leader of a group of its own.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
}

impl Process {
    /// Takes its status; once, after its end.
    pub(super) fn wait(&self) -> io::Result<ExitStatus> {
        take_status(&mut || {
            let status = waitpid(Some(self.pid), WaitOptions::NOHANG)?;
            Ok(status.map(|(_, status)| ExitStatus::from_raw(status.as_raw())))
        })
    }
}

/// The pipes that are a process's standard output and error.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The process's ends stay open here too. So their closing does not wake us: one wake-up a job
    /// instead of three. Nobody waits for the end of a pipe anyway.
    pub(super) writers: [OwnedFd; 2],
}

impl Pipes {
    pub(super) fn new() -> io::Result<Self> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((stdout, to_stdout), (stderr, to_stderr)) = (pipe()?, pipe()?);
        Ok(Self { stdout, stderr, writers: [to_stdout, to_stderr] })
    }
}

/// A process with its pipes: it runs, or it will from [`Started::begin`] on.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) process: Process,
    pub(super) pipes: Pipes,
    /// Of our own clones.
    shared: Option<Box<Shared>>,
}

impl Started {
    /// Its id, and that of its group.
    pub(super) fn group(&self) -> Pid {
        self.process.pid
    }

    /// Of a process that runs already.
    pub(super) fn of(process: Process, pipes: Pipes) -> Self {
        Self { process, pipes, shared: None }
    }

    /// What it is to become, once it begins. It must live until the child has left.
    fn give(&self, orders: *mut Orders<'_>) {
        if let Some(shared) = &self.shared {
            shared.orders.store(orders.cast(), Ordering::Relaxed);
        }
    }

    /// From now on it becomes its program; see the module.
    pub(super) fn begin(&self) {
        if let Some(shared) = &self.shared {
            shared.begin();
        }
    }

    /// Waits until it has left our memory: it is the program, or has ended.
    pub(super) fn has_left(&self) {
        if let Some(shared) = &self.shared {
            shared.await_leaving();
        }
    }

    /// Once it has left: whether it began, and became its program as far as we know.
    fn outcome(&self) -> Result<bool, NotStarted> {
        self.shared.as_ref().map_or(Ok(true), |shared| shared.outcome())
    }

    /// Ends one that has begun, and is not its program yet. It has run as far as it could.
    pub(super) fn end_early(&self) {
        self.kill();
        if let Some(shared) = &self.shared {
            shared.has_begun.store(1, Ordering::Release);
        }
    }

    /// Ends one that has not begun.
    fn end(&self) {
        self.kill();
        let pidfd = WaitId::PidFd(self.process.pidfd.as_fd());
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match take_status(&mut || Ok(waitid(pidfd.clone(), options)?)) {
            Ok(_) | Err(_) => {}
        }
    }

    /// It leaves our memory by its end. Somebody may have killed it before, and who sweeps may have reaped it, so
    /// that its number is another's by now: hence by its pidfd.
    fn kill(&self) {
        match pidfd_send_signal(&self.process.pidfd, Signal::KILL) {
            Ok(()) | Err(_) => {}
        }
        self.has_left();
    }

    /// Whether it is in our memory: it is no program yet, and has not ended.
    pub(super) fn is_here(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_here())
    }
}

impl Drop for Started {
    /// It must not outlive what it reads, whatever happened to its thread.
    fn drop(&mut self) {
        if self.is_here() {
            self.end();
        }
    }
}

/// At which step a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Anything before the program: descriptors, memory, the process itself.
    Prepare,
    /// Its standard input.
    Stdin,
    /// The file of that name is no regular one.
    StdinKind,
    /// Its working directory.
    Folder,
    /// Its niceness.
    Nice,
    /// Its limits.
    Limits,
    /// Becoming the program.
    Execute,
}

impl Step {
    /// In the order in which they are counted.
    const ALL: [Self; 7] = [
        Self::Prepare,
        Self::Stdin,
        Self::StdinKind,
        Self::Folder,
        Self::Nice,
        Self::Limits,
        Self::Execute,
    ];
}

/// Why nothing runs.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub(super) step: Step,
    pub(super) source: io::Error,
}

impl NotStarted {
    fn prepare(source: io::Error) -> Self {
        Self { step: Step::Prepare, source }
    }

    /// All arguments and variables together are more than the kernel takes: a quarter of the stack's limit.
    pub(super) fn is_too_big(&self) -> bool {
        Errno::from_io_error(&self.source) == Some(Errno::TOOBIG)
    }
}

/// Children that somebody may kill before they begin, until that is an error.
const TRIES: usize = 5;

/// Starts one program after another.
#[derive(Debug)]
pub(super) struct Starter {
    stack: Stack,
    null: OwnedFd,
    /// Signals that are caught here or ignored: most are neither, and each is a system call in each
    /// child. Found once: the daemon says what it catches before it starts a worker.
    signals: Vec<c_int>,
    ready: Option<Started>,
}

impl Starter {
    /// Nothing stands by yet.
    pub(super) fn new() -> io::Result<Self> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { stack: Stack::new()?, null, signals: changed_signals(), ready: None })
    }

    /// Has a child stand by for the next start. Where that fails the next start does without.
    pub(super) fn get_ready(&mut self) {
        if self.ready.is_none() {
            self.ready = self.clone_child().ok();
        }
    }

    #[cfg(test)]
    pub(super) fn has_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Ends the child that stands by, if one does.
    pub(super) fn dismiss(&mut self) {
        if let Some(child) = self.ready.take() {
            child.end();
        }
    }

    /// Starts a program. `attend` begins it and stays with it to its end; it is called again where
    /// somebody killed it before.
    pub(super) fn start<T>(
        &mut self,
        program: &Program<'_>,
        attend: &mut dyn FnMut(&Started) -> T,
    ) -> Result<T, NotStarted> {
        let argv: Vec<_> = program.argv.iter().map(|it| it.as_ptr()).chain([null()]).collect();
        let environment: Vec<_> =
            program.environment.iter().map(|it| it.as_ptr()).chain([null()]).collect();
        let rlimit = |most| Rlimit { current: Some(most), maximum: Some(most) };
        let limits: Vec<_> =
            program.limits.all().map(|(resource, most)| (resource, rlimit(most))).collect();
        let mut orders =
            Orders { program, argv: &argv, environment: &environment, limits: &limits };
        let orders: *mut Orders<'_> = &raw mut orders;
        for _ in 0..TRIES {
            if let Some(killed) = self.ready.take_if(|child| !child.is_here()) {
                killed.end();
            }
            let child = match self.ready.take() {
                Some(child) => child,
                None => self.clone_child().map_err(NotStarted::prepare)?,
            };
            child.give(orders);
            let attended = attend(&child);
            if child.outcome()? {
                return Ok(attended);
            }
        }
        Err(NotStarted::prepare(io::Error::other("something kills it before it begins")))
    }

    /// The clone itself, with all signals blocked around it. It has no orders yet.
    fn clone_child(&mut self) -> io::Result<Started> {
        let pipes = Pipes::new()?;
        let [to_stdout, to_stderr] = &pipes.writers;
        // Above the three, so that none is overwritten before it is duplicated.
        let mut raised: Vec<OwnedFd> = Vec::new();
        let mut streams = [-1; 3];
        for (to, from) in streams.iter_mut().zip([&self.null, to_stdout, to_stderr]) {
            *to = from.as_raw_fd();
            if *to < 3 {
                let higher = fcntl_dupfd_cloexec(from, 3)?;
                *to = higher.as_raw_fd();
                raised.push(higher);
            }
        }
        let shared = Box::new(Shared {
            is_here: AtomicU32::new(1),
            may_begin: AtomicU32::new(0),
            orders: AtomicPtr::new(null_mut()),
            has_begun: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            errno: AtomicU32::new(0),
            streams,
            signals: self.signals.as_ptr(),
            signals_len: self.signals.len(),
            parent: getpid(),
        });
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut old = MaybeUninit::<libc::sigset_t>::uninit();
        let mut pidfd: c_int = -1;
        // CLEARTID: once the child has left our memory, by `execve` or by its end, the kernel makes `is_here`
        // zero and wakes who waits for that: mm_release() in kernel/fork.c.
        let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        let (given, is_here) = (&raw const *shared, shared.is_here.as_ptr());
        let no_tls: *mut c_void = null_mut();
        // SAFETY: the sets are filled before they are read. The child runs on a stack that no other child
        // has now, and reads `shared`, which outlives it: no `Started` is dropped before its process has
        // left our memory.
        let (pid, error) = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
            let (top, given) = (self.stack.top(), given.cast_mut().cast());
            let pid = libc::clone(child, top, flags, given, &raw mut pidfd, no_tls, is_here);
            let error = if pid < 0 { Some(io::Error::last_os_error()) } else { None };
            libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), null_mut());
            (pid, error)
        };
        drop(raised);
        if let Some(error) = error {
            return Err(error);
        }
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("clone gave no process"))?;
        // SAFETY: the kernel has just made this descriptor for us; those that cannot have no openat2 either.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Started { process: Process { pid, pidfd }, pipes, shared: Some(shared) })
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.dismiss();
    }
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

#[cfg(test)]
mod tests;
