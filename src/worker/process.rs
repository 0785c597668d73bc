//! The hygiene of one process: watched, bounded, ended with its whole group, reaped.
//!
//! Must not know: what the worker is for, exit codes, rows, settings. It hears bytes and hands them
//! on; it ends processes and says who ended them.
//!
//! Invariants
//! - When [`attend`] returns, no process of the worker's group is alive: the group is killed while
//!   its leader is still a zombie, which keeps the group's id from being given to anyone else.
//! - The end of a pipe is never waited for: a grandchild may hold it open for ever. What is in it at
//!   the end of the worker is read, no more.
//! - A worker that never stops writing is ended in time nevertheless: the clock is read every round.
//!
//! Assumptions: a process that called setsid or setpgid is no longer of the group; the supervisor
//! ends it. A process that we may not signal (setuid) can outlive its time-out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, prlimit,
    test_kill_process_group,
};

use super::{Stop, proc};
use crate::config::limits;

/// What ends an attempt from outside.
pub(super) struct Bounds<'a> {
    /// The daemon's end of it.
    pub(super) stop: &'a Stop,
    /// From the start to TERM.
    pub(super) timeout: Duration,
    /// From TERM to KILL.
    pub(super) grace: Duration,
}

/// How a process ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// By itself, or by a signal that was not ours.
    Exited(ExitStatus),
    /// Its time was up and we ended it, however it then exited.
    TimedOut,
    /// The daemon said stop and we ended it, however it then exited.
    Stopped,
    /// It is gone and nobody knows how: we could not watch it, or someone else reaped it.
    Lost(io::Error),
}

/// Which pipe bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Stays with a started worker until it and its group are gone, and hands on what it prints.
/// `child` was started in a process group of its own. `buffer` is scratch and not empty.
pub(super) fn attend(
    mut child: Child,
    bounds: &Bounds<'_>,
    buffer: &mut [u8],
    hear: &mut dyn FnMut(Stream, &[u8]),
) -> Ending {
    let group = Pid::from_child(&child);
    let mut pipes = [
        (Stream::Stdout, child.stdout.take().map(OwnedFd::from)),
        (Stream::Stderr, child.stderr.take().map(OwnedFd::from)),
    ];
    let watched = pidfd_open(group, PidfdFlags::empty())
        .and_then(|pidfd| watch(group, &pidfd, &mut pipes, bounds, buffer, hear));
    signal_group(group, Signal::KILL);
    for (stream, pipe) in &mut pipes {
        drain(*stream, pipe, buffer, hear);
    }
    let waited = child.wait();
    await_group_end(group);
    match (watched, waited) {
        (Ok(Some(Cause::Timeout)), _) => Ending::TimedOut,
        (Ok(Some(Cause::Stop)), _) => Ending::Stopped,
        (Ok(None), Ok(status)) => Ending::Exited(status),
        (Ok(None), Err(error)) => Ending::Lost(error),
        (Err(errno), _) => Ending::Lost(errno.into()),
    }
}

type Pipes = [(Stream, Option<OwnedFd>); 2];

/// Why we end a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Timeout,
    Stop,
}

/// Where an attempt stands between us and the worker.
#[derive(Clone, Copy)]
enum Phase {
    /// TERM is due at this time; `None`: further away than the clock reaches.
    Running(Option<Instant>),
    /// It had its TERM; KILL is due at this time.
    Asked(Cause, Option<Instant>),
    /// It had its KILL; the kernel ends it when it can.
    Killed(Cause),
}

/// Reads both pipes until the process has ended. Returns why we ended it, if we did.
fn watch(
    group: Pid,
    pidfd: &OwnedFd,
    pipes: &mut Pipes,
    bounds: &Bounds<'_>,
    buffer: &mut [u8],
    hear: &mut dyn FnMut(Stream, &[u8]),
) -> rustix::io::Result<Option<Cause>> {
    let mut phase = Phase::Running(Instant::now().checked_add(bounds.timeout));
    loop {
        let due = match phase {
            Phase::Running(due) | Phase::Asked(_, due) => due,
            Phase::Killed(_) => None,
        };
        let stop = matches!(phase, Phase::Running(_)).then(|| bounds.stop.as_fd());
        let [gone, out, err, stopped] = {
            let [(_, out), (_, err)] = &*pipes;
            let listen = |fd: Option<_>| match fd {
                Some(fd) => PollFd::from_borrowed_fd(fd, PollFlags::IN),
                None => PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::empty()),
            };
            // The process first: if it has ended, the looks at its pipes come after its last write.
            let mut fds = [
                PollFd::new(pidfd, PollFlags::IN),
                listen(out.as_ref().map(AsFd::as_fd)),
                listen(err.as_ref().map(AsFd::as_fd)),
                listen(stop),
            ];
            match poll(&mut fds, due.map(time_until).as_ref()) {
                Ok(_) => fds.each_ref().map(PollFd::revents),
                Err(Errno::INTR) => [PollFlags::empty(); 4],
                Err(errno) => return Err(errno),
            }
        };
        for ((stream, pipe), events) in pipes.iter_mut().zip([out, err]) {
            if pipe.is_some() {
                read_once(*stream, pipe, events, buffer, hear);
            }
        }
        if !gone.is_empty() {
            return Ok(match phase {
                Phase::Running(_) => None,
                Phase::Asked(cause, _) | Phase::Killed(cause) => Some(cause),
            });
        }
        let is_due = due.is_some_and(|due| Instant::now() >= due);
        phase = match phase {
            Phase::Running(_) if stop.is_some() && !stopped.is_empty() => {
                ask(group, Cause::Stop, bounds.grace)
            }
            Phase::Running(_) if is_due => ask(group, Cause::Timeout, bounds.grace),
            Phase::Asked(cause, _) if is_due => {
                signal_group(group, Signal::KILL);
                Phase::Killed(cause)
            }
            same => same,
        };
    }
}

fn ask(group: Pid, cause: Cause, grace: Duration) -> Phase {
    signal_group(group, Signal::TERM);
    Phase::Asked(cause, Instant::now().checked_add(grace))
}

/// One read where there is something; the pipe is let go at its end. A read after POLLIN does not
/// block: nobody else reads this pipe.
fn read_once(
    stream: Stream,
    pipe: &mut Option<OwnedFd>,
    events: PollFlags,
    buffer: &mut [u8],
    hear: &mut dyn FnMut(Stream, &[u8]),
) {
    let Some(fd) = pipe.as_ref() else { return };
    if !events.contains(PollFlags::IN) {
        // HUP alone: no writer is left and nothing is in it, so the read can be spared.
        if !events.is_empty() {
            *pipe = None;
        }
        return;
    }
    match rustix::io::read(fd, &mut *buffer) {
        Ok(0) => *pipe = None,
        Ok(n) => hear(stream, buffer.get(..n).unwrap_or_default()),
        Err(Errno::INTR | Errno::AGAIN) => {}
        Err(_) => *pipe = None,
    }
}

/// Reads what is in the pipe now, to the byte; a survivor that goes on writing gains nothing.
fn drain(
    stream: Stream,
    pipe: &mut Option<OwnedFd>,
    buffer: &mut [u8],
    hear: &mut dyn FnMut(Stream, &[u8]),
) {
    let Some(fd) = pipe.take() else { return };
    let mut left = rustix::io::ioctl_fionread(&fd)
        .ok()
        .and_then(|there| usize::try_from(there).ok())
        .unwrap_or_default();
    while left > 0 {
        let room = buffer.len().min(left);
        match rustix::io::read(&fd, buffer.get_mut(..room).unwrap_or_default()) {
            Ok(n) if n > 0 => {
                left = left.saturating_sub(n);
                hear(stream, buffer.get(..n).unwrap_or_default());
            }
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Signals a whole group. That it is gone already, or not ours to signal, changes nothing here.
pub(super) fn signal_group(group: Pid, signal: Signal) {
    match kill_process_group(group, signal) {
        Ok(()) | Err(_) => {}
    }
}

/// Waits until the killed members of a group are gone, so that none of them still writes into a
/// folder that is about to be removed. One cheap question where there are none, as nearly always.
pub(super) fn await_group_end(group: Pid) {
    let deadline = Instant::now().checked_add(limits::GROUP_END);
    // Zombies count as members until someone reaps them, hence the look at each state.
    while test_kill_process_group(group).is_ok() {
        let members = proc::pids().unwrap_or_default().into_iter().filter(|pid| {
            proc::stat(*pid).is_some_and(|stat| stat.group == Some(group) && !stat.is_dead())
        });
        let members: Vec<OwnedFd> =
            members.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
        if members.is_empty() || !await_ends(&members, deadline) {
            return;
        }
    }
}

/// Waits for the end of every process; false where the deadline came first.
pub(super) fn await_ends(pidfds: &[OwnedFd], deadline: Option<Instant>) -> bool {
    for pidfd in pidfds {
        loop {
            let left = deadline.map(time_until);
            match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return false,
                Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(_) => return false,
            }
        }
    }
    true
}

/// From now to `due`, for poll; never negative.
pub(super) fn time_until(due: Instant) -> Timespec {
    let left = due.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// Limits of one worker; `None` leaves what the daemon itself has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceLimits {
    /// Address space, in bytes.
    pub(super) memory: Option<u64>,
    /// Largest file written, in bytes.
    pub(super) file_size: Option<u64>,
    /// Open files.
    pub(super) open_files: Option<u64>,
}

impl ResourceLimits {
    /// Sets the limits of a started worker from outside: std would fork slowly to let it do so
    /// itself. So what it does in its first instants, the loading of its own program, is not yet
    /// under them. What is above our own hard limit is cut to that, as only root may exceed it.
    pub(super) fn set(self, child: &Child) -> io::Result<()> {
        let pid = Pid::from_child(child);
        let all = [
            (Resource::As, self.memory),
            (Resource::Fsize, self.file_size),
            (Resource::Nofile, self.open_files),
        ];
        for (resource, limit) in all {
            let Some(limit) = limit else { continue };
            let own = getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let both = Some(limit.min(own));
            match prlimit(Some(pid), resource, Rlimit { current: both, maximum: both }) {
                // ESRCH: it has ended already.
                Ok(_) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
