//! The child's side of a start: what it does from the `clone` on until it is its program.
//!
//! Must not know: when it was made, who attends it.
//!
//! Invariants
//! - System calls only, by rustix but for `execve`; see the module above on `errno`.
//! - What fails is stored in [`Shared`], for the thread.

#![expect(unsafe_code, reason = "sigaction, close_range, execve: rustix has them not so")]

use std::convert::Infallible;
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, setpriority_process, setrlimit};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::futex;

use super::{NotStarted, Program, Stdin, Step};

/// Between the thread and its child.
#[derive(Debug)]
pub(super) struct Shared {
    /// 0: the child has left our memory.
    pub(super) is_here: AtomicU32,
    /// There are orders, and it is time.
    pub(super) may_begin: AtomicU32,
    /// In the frame of [`Starter::start`], which waits for the child.
    pub(super) orders: AtomicPtr<c_void>,
    /// The child has seen its orders.
    pub(super) has_begun: AtomicU32,
    /// The step that failed, counted from one; zero: none.
    pub(super) failed: AtomicU32,
    pub(super) errno: AtomicU32,
    pub(super) streams: [RawFd; 3],
    pub(super) signals: *const c_int,
    pub(super) signals_len: usize,
    pub(super) parent: Pid,
}

impl Shared {
    pub(super) fn is_here(&self) -> bool {
        self.is_here.load(Ordering::Acquire) == 1
    }

    pub(super) fn await_leaving(&self) {
        while self.is_here() {
            // Not PRIVATE: the kernel does not wake so.
            look_again(futex::wait(&self.is_here, futex::Flags::empty(), 1, None));
        }
    }

    pub(super) fn begin(&self) {
        self.may_begin.store(1, Ordering::Release);
        // Nobody waits where the child is not there yet. It cannot fail for a place in our own memory.
        let woken = futex::wake(&self.may_begin, futex::Flags::PRIVATE, 1);
        debug_assert!(woken.is_ok());
    }

    /// The child's own: it stands by until it may begin.
    fn stand_by(&self) {
        while self.may_begin.load(Ordering::Acquire) == 0 {
            look_again(futex::wait(&self.may_begin, futex::Flags::PRIVATE, 0, None));
        }
    }

    pub(super) fn outcome(&self) -> Result<bool, NotStarted> {
        let failed = self.failed.load(Ordering::Acquire);
        let step = failed.checked_sub(1).and_then(|it| Step::ALL.get(usize::try_from(it).ok()?));
        match step {
            None => Ok(self.has_begun.load(Ordering::Acquire) == 1),
            Some(step) => {
                let errno = self.errno.load(Ordering::Acquire).cast_signed();
                Err(NotStarted { step: *step, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }
}

/// A wait ends without a cause (EINTR), and does not begin where the value has changed (EAGAIN): who waits looks
/// again in any case.
fn look_again(waited: rustix::io::Result<()>) {
    match waited {
        Ok(()) | Err(_) => {}
    }
}

/// All that a child needs to become a program.
pub(super) struct Orders<'a> {
    pub(super) program: &'a Program<'a>,
    pub(super) argv: &'a [*const c_char],
    pub(super) environment: &'a [*const c_char],
    pub(super) limits: &'a [(Resource, Rlimit)],
}

/// What the new process does until it is the program. It returns only to end.
pub(super) extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: it is the `Shared` that `clone_child` gave, which outlives our stay in this memory.
    let shared = unsafe { &*shared.cast::<Shared>() };
    let Err((step, errno)) = prepare(shared).and_then(|()| {
        shared.stand_by();
        shared.has_begun.store(1, Ordering::Release);
        // SAFETY: `start` gave it, and waits until we have left this memory.
        let orders = unsafe { &*shared.orders.load(Ordering::Acquire).cast::<Orders<'_>>() };
        become_program(orders)
    });
    shared.errno.store(errno.raw_os_error().cast_unsigned(), Ordering::Release);
    shared.failed.store(step as u32 + 1, Ordering::Release);
    127
}

/// What is the same for every program.
fn prepare(shared: &Shared) -> Result<(), (Step, Errno)> {
    let failed = |errno| (Step::Prepare, errno);
    // SAFETY: `signals` lives in the `Starter`, which outlives its children; nothing here needs a lock.
    unsafe {
        // Also what std ignores for us (SIGPIPE): a program expects the defaults.
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in std::slice::from_raw_parts(shared.signals, shared.signals_len) {
            libc::sigaction(*signal, &raw const default, null_mut());
        }
    }
    rustix::process::setpgid(None, None).map_err(failed)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    if getppid() != Some(shared.parent) {
        // It died before that could count; nobody reads this.
        return Err(failed(Errno::SRCH));
    }
    let [stdin, stdout, stderr] = shared.streams;
    // SAFETY: three that were open when we were cloned.
    let open = |fd| unsafe { BorrowedFd::borrow_raw(fd) };
    dup2_stdin(open(stdin)).map_err(failed)?;
    dup2_stdout(open(stdout)).map_err(failed)?;
    dup2_stderr(open(stderr)).map_err(failed)?;
    // SAFETY: no pointers. Our own descriptors, and what who started the daemon left open.
    unsafe { libc::syscall(libc::SYS_close_range, 3, c_int::MAX, 0) };
    // SAFETY: the set is filled before it is read.
    unsafe {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), null_mut());
    }
    Ok(())
}

/// Returns only the step that failed.
fn become_program(orders: &Orders<'_>) -> Result<Infallible, (Step, Errno)> {
    let program = orders.program;
    open_stdin(program.stdin)?;
    rustix::process::chdir(program.folder).map_err(|errno| (Step::Folder, errno))?;
    if let Some(nice) = program.limits.nice {
        setpriority_process(None, nice).map_err(|errno| (Step::Nice, errno))?;
    }
    for (resource, limit) in orders.limits {
        setrlimit(*resource, *limit).map_err(|errno| (Step::Limits, errno))?;
    }
    let (argv, environment) = (orders.argv.as_ptr(), orders.environment.as_ptr());
    // SAFETY: both end with a null, and what they point to lives as long as `orders`.
    unsafe { libc::execve(program.path.as_ptr(), argv, environment) };
    // SAFETY: our thread waits, so it is ours.
    let errno = unsafe { *libc::__errno_location() };
    Err((Step::Execute, Errno::from_raw_os_error(errno)))
}

/// In place of the `/dev/null` that is there.
fn open_stdin(stdin: Stdin<'_>) -> Result<(), (Step, Errno)> {
    let failed = |errno| (Step::Stdin, errno);
    let opened = match stdin {
        Stdin::Null => return Ok(()),
        Stdin::File(path) => {
            // The file was regular when it was claimed. A link put in its place is not it; a FIFO would hold us
            // until somebody writes into it.
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(failed)?.st_mode);
            if kind != FileType::RegularFile {
                return Err((Step::StdinKind, Errno::INVAL));
            }
            file
        }
        Stdin::Text(text) => {
            let file = rustix::fs::memfd_create(c"stdin", MemfdFlags::CLOEXEC).map_err(failed)?;
            let mut left = text;
            while !left.is_empty() {
                let written = rustix::io::write(&file, left).map_err(failed)?;
                left = left.get(written..).unwrap_or_default();
            }
            rustix::fs::seek(&file, SeekFrom::Start(0)).map_err(failed)?;
            file
        }
    };
    dup2_stdin(&opened).map_err(failed)
}
