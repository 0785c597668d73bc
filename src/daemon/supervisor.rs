//! The supervisor: a small process above the daemon, so that no worker outlives it.
//!
//! `inboxd run` and `inboxd batch` begin with [`supervise`], single-threaded. The first process
//! becomes the supervisor: it starts itself again as the daemon, sleeps, and when the daemon ends
//! kills whatever the daemon left, also what called setsid, since orphans become its children.
//! The daemon holds a [`Leash`]: when the supervisor dies, it ends its workers and itself.
//!
//! Must not know: the spool, settings, workers.
//!
//! Invariants
//! - The death of one of the two, at any instant, leaves no process of a worker. The death of both
//!   at once may; start-up finds those by their mark (`worker::orphans`).
//! - No signal is lost between the start of the supervisor and that of the daemon, nor counted twice.
//! - What is left to the supervisor while the daemon lives, as to the first process of a container, leaves no zombie.
//! - The two differ in name (`inboxd-super`), so that a kill by name does not take both.
//!
//! Assumption: the daemon does not read its standard input, so the leash may be there.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper, setsid,
};

use super::children::{end_all_children, reap_all_but};
use super::own_pages;
use crate::worker::proc;

/// Which of the two this process is.
#[derive(Debug)]
pub enum Supervised {
    /// The daemon: serve, and keep the leash in sight.
    Daemon(Leash),
    /// The supervisor, after TERM or INT came before the daemon listened to them: all is as it was.
    Stopped,
    /// The supervisor, after the daemon and all that it left have ended.
    Ended {
        /// To exit with: the daemon's own status, 128 + N where signal N ended it.
        code: u8,
        /// Which signal ended it, so that it could say nothing itself.
        signal: Option<i32>,
    },
}

/// Who starts us may ignore SIGCHLD, and exec hands that on: then no end of a child can be waited for, here, in
/// the daemon or in a worker. What is heard is no longer ignored, and is the default again after exec.
pub fn heed_children() -> io::Result<()> {
    signal_hook::flag::register(Signal::CHILD.as_raw(), Arc::default()).map(drop)
}

/// Capabilities that the unit gave us (`CAP_LEASE`) stay ours and do not pass to workers through exec.
fn drop_ambient() {
    // A kernel without ambient capabilities has none to pass on.
    rustix::thread::clear_ambient_capability_set().unwrap_or_default();
}

/// Carries which pipe the leash is, so that a variable that leaked makes nobody a daemon.
const LEASH_VAR: &str = "INBOXD_LEASH";

/// Divides the program in supervisor and daemon. Call it first: before any thread, any runtime, any
/// child. `arguments` are those of this process, its own name first; the daemon gets the same.
pub fn supervise(arguments: impl IntoIterator<Item = OsString>) -> io::Result<Supervised> {
    if let Some(leash) = Leash::take()? {
        set_child_subreaper(Some(getpid()))?;
        // Started in the supervisor's group, so it leads none, and this cannot fail.
        setsid()?;
        rustix::thread::set_name(c"inboxd")?;
        drop_ambient();
        return Ok(Supervised::Daemon(leash));
    }
    proc::is_ours()?;
    rustix::thread::set_name(c"inboxd-super")?;
    set_child_subreaper(Some(getpid()))?;
    // Before the daemon is there, so that none is lost, nor ends us without it.
    let signals = Forwarded::listen()?;
    let (leash, held) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut daemon = start_daemon(arguments, leash)?;
    own_pages::give_back();
    let watched = watch(&daemon, &signals);
    // The daemon's end of the leash is cut only after it has ended, or where we cannot watch it.
    drop(held);
    let status = daemon.wait()?;
    end_all_children()?;
    let handed_on = watched?;
    let signal = status.signal();
    if signal.is_some_and(|signal| handed_on.is_some_and(|on| on.as_raw() == signal)) {
        return Ok(Supervised::Stopped);
    }
    Ok(Supervised::Ended { code: code(status), signal })
}

fn start_daemon(
    arguments: impl IntoIterator<Item = OsString>,
    leash: OwnedFd,
) -> io::Result<Child> {
    let mut arguments = arguments.into_iter();
    // By this name, the same program runs again even if its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(arguments.next().unwrap_or_else(|| "inboxd".into()));
    command.args(arguments).env(LEASH_VAR, identity(leash.as_fd())?).stdin(leash);
    command.spawn().map_err(|error| named("/proc/self/exe", &error))
}

/// In a bare container it may be missing.
fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// How often to look whether a daemon that starts listens to HUP by now.
const LISTENS_YET: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Sleeps until the daemon has ended; hands signals on meanwhile. Which of TERM and INT was the last one.
///
/// A HUP waits here until the daemon listens to it: one that starts would end by it.
fn watch(daemon: &Child, signals: &Forwarded) -> io::Result<Option<Signal>> {
    let pid = Pid::from_child(daemon);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let [(_, term), (_, int), (_, hup)] = &signals.handed_on;
    let mut handed_on = None;
    let mut hups = 0;
    loop {
        let mut fds =
            [&pidfd, &signals.ends, term, int, hup].map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut fds, (hups > 0).then_some(&LISTENS_YET)) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let [ended, others, heard @ ..] = fds.each_ref().map(|fd| !fd.revents().is_empty());
        if others {
            // Whatever came of it is looked at in any case.
            rustix::io::read(&signals.ends, &mut [0u8; 64]).unwrap_or_default();
            reap_all_but(pid);
        }
        let handed_ons = signals.handed_on.iter().zip(heard);
        for ((signal, pipe), _) in handed_ons.filter(|(_, heard)| *heard) {
            // One byte a signal: the second one means "now" to the daemon.
            let mut bytes = [0u8; 64];
            let times = rustix::io::read(pipe, &mut bytes).unwrap_or(0);
            if *signal == Signal::HUP {
                hups += times;
            } else if times > 0 {
                send(&pidfd, *signal, times)?;
                handed_on = Some(*signal);
            }
        }
        if hups > 0 && proc::catches(pid, Signal::HUP).unwrap_or(true) {
            send(&pidfd, Signal::HUP, hups)?;
            hups = 0;
        }
        if ended {
            return Ok(handed_on);
        }
    }
}

/// So many times. To one that has ended meanwhile there is nothing to send.
fn send(daemon: &OwnedFd, signal: Signal, times: usize) -> io::Result<()> {
    for _ in 0..times {
        match pidfd_send_signal(daemon, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Signals that come to the supervisor, most of them meant for the daemon: each with a pipe that holds one
/// byte for each that came. The signals hold the other ends, as long as the process lives.
struct Forwarded {
    handed_on: [(Signal, OwnedFd); 3],
    /// A child has ended: the daemon, or one that was left to us.
    ends: OwnedFd,
}

impl Forwarded {
    fn listen() -> io::Result<Self> {
        let listen = |signal: Signal| -> io::Result<(Signal, OwnedFd)> {
            let (heard, sayer) = UnixStream::pair()?;
            heard.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal.as_raw(), sayer)?;
            Ok((signal, heard.into()))
        };
        let handed_on = [listen(Signal::TERM)?, listen(Signal::INT)?, listen(Signal::HUP)?];
        Ok(Self { handed_on, ends: listen(Signal::CHILD)?.1 })
    }
}

/// The daemon's end of the pipe whose other end the supervisor holds until it dies.
///
/// When [`Leash::wait`] returns: tell the slots to stop, call [`end_all_children`], wait for the
/// slots, call it once more (a slot may have started a worker in between), and end. The lock on the
/// spool goes last, by itself, at exit.
#[derive(Debug)]
pub struct Leash(OwnedFd);

impl Leash {
    /// Takes the leash from standard input, which becomes `/dev/null`. `None`: we are not a daemon
    /// that a supervisor started.
    fn take() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        let Some(wanted) = std::env::var_os(LEASH_VAR) else { return Ok(None) };
        if identity(stdin.as_fd()).ok().as_ref() != Some(&wanted) {
            return Ok(None);
        }
        let leash = rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| named("/dev/null", &errno.into()))?;
        rustix::stdio::dup2_stdin(&null)?;
        Ok(Some(Self(leash)))
    }

    /// Blocks until the supervisor is dead. For a thread of its own.
    pub fn wait(&self) {
        // Nobody writes into it, so whatever is reported is its end. An error other than a signal in
        // between is taken for it too: not to know is to be without a supervisor.
        while poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None) == Err(Errno::INTR) {}
    }
}

impl AsFd for Leash {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Which pipe this is, the same at both ends and nowhere else.
fn identity(pipe: BorrowedFd<'_>) -> io::Result<OsString> {
    let stat = fstat(pipe)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a pipe"));
    }
    Ok(format!("{}:{}", stat.st_dev, stat.st_ino).into())
}

#[cfg(test)]
mod tests;
