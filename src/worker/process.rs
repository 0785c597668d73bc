//! The hygiene of one process: watched, bounded, ended with its whole group, reaped.
//!
//! Must not know: what the worker is for, exit codes, rows, settings. It hears bytes and hands them
//! on; it ends processes and says who ended them.
//!
//! Invariants
//! - When [`attend`] returns, no process of the worker's group runs code of its own: the group is killed while
//!   its leader is still a zombie, which keeps the group's id from being given to anyone else.
//! - The end of a pipe is never waited for: a grandchild may hold it open for ever. What is in it at
//!   the end of the worker is read, no more.
//! - A worker that never stops writing is ended in time nevertheless: the clock is read every round.
//! - One that leaves its group is ended in time, by its pidfd. One that is stopped before it is its program is, too,
//!   and one that a debugger holds, or the kernel, does not hold its slot for long.
//!
//! Assumptions: a child of it that called setsid or setpgid is no longer of the group; the daemon ends it later.
//! A process that we may not signal (setuid) can outlive its time-out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open,
    pidfd_send_signal, prlimit, setpriority_pgrp, test_kill_process_group,
};

use super::spawn::{Pipes, Process, Started};
use super::{Stop, proc};
use crate::config::{Route, limits};

/// How often to look whether a debugger has let go of a process that has ended.
const HELD: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

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

/// Starts the command in a process group of its own, both outputs into pipes.
pub(super) fn start(mut command: Command) -> io::Result<Started> {
    let pipes = Pipes::new()?;
    let [to_stdout, to_stderr] = &pipes.writers;
    command.process_group(0).stdout(to_stdout.try_clone()?).stderr(to_stderr.try_clone()?);
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Started::of(Process { pid, pidfd }, pipes)),
        Err(errno) => {
            signal_group(pid, Signal::KILL);
            child.wait()?;
            Err(errno.into())
        }
    }
}

/// Begins a worker, stays with it until it and its group are gone, and hands on what it prints.
/// `buffer` is scratch and not empty.
pub(super) fn attend(
    started: &Started,
    bounds: &Bounds<'_>,
    buffer: &mut [u8],
    hear: &mut dyn FnMut(Stream, &[u8]),
) -> Ending {
    let group = started.group();
    let watched = watch(started, bounds, buffer, hear);
    signal_group(group, Signal::KILL);
    drain(Stream::Stdout, &started.pipes.stdout, buffer, hear);
    drain(Stream::Stderr, &started.pipes.stderr, buffer, hear);
    let waited = started.process.wait();
    await_group_end(group);
    match (watched, waited) {
        (Ok(Some(Cause::Timeout)), _) => Ending::TimedOut,
        (Ok(Some(Cause::Stop)), _) => Ending::Stopped,
        // The stop comes before the KILL of all children, and both may be here by the time we look.
        (Ok(None), Ok(status)) if status.signal().is_some() && bounds.stop.is_stopped() => {
            Ending::Stopped
        }
        (Ok(None), Ok(status)) => Ending::Exited(status),
        (Ok(None), Err(error)) => Ending::Lost(error),
        (Err(errno), _) => Ending::Lost(errno.into()),
    }
}

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
    /// It had its KILL; the kernel ends it when it can. It is not waited for after this time; `None`: it is not
    /// ours to signal.
    Killed(Cause, Option<Instant>),
}

/// Reads both pipes until the process has ended. Returns why we ended it, if we did.
fn watch(
    started: &Started,
    bounds: &Bounds<'_>,
    buffer: &mut [u8],
    hear: &mut dyn FnMut(Stream, &[u8]),
) -> rustix::io::Result<Option<Cause>> {
    let process = &started.process;
    let mut phase = Phase::Running(Instant::now().checked_add(bounds.timeout));
    started.begin();
    loop {
        let due = match phase {
            Phase::Running(due) | Phase::Asked(_, due) | Phase::Killed(_, due) => due,
        };
        let mut fds = [
            PollFd::new(&process.pidfd, PollFlags::IN),
            PollFd::new(&started.pipes.stdout, PollFlags::IN),
            PollFd::new(&started.pipes.stderr, PollFlags::IN),
            PollFd::from_borrowed_fd(bounds.stop.as_fd(), PollFlags::IN),
        ];
        // The stop stays readable: once heard, it is not listened to any more.
        let listened = if matches!(phase, Phase::Running(_)) { 4 } else { 3 };
        let wait = due.map(proc::time_until);
        let polled = poll(fds.get_mut(..listened).unwrap_or_default(), wait.as_ref());
        let [gone, out, err, stopped] = fds.each_ref().map(PollFd::revents);
        if started.is_here() {
            // Not its program yet: somebody stopped it, or where its program lies hangs. TERM would be in vain.
            let cause = match polled {
                Ok(_) if !stopped.is_empty() => Cause::Stop,
                Ok(0) => Cause::Timeout,
                Ok(_) | Err(Errno::INTR) => continue,
                Err(errno) => {
                    started.end_early();
                    return Err(errno);
                }
            };
            started.end_early();
            return Ok(Some(cause));
        }
        match polled {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if out.contains(PollFlags::IN) {
            read_once(Stream::Stdout, &started.pipes.stdout, buffer, hear);
        }
        if err.contains(PollFlags::IN) {
            read_once(Stream::Stderr, &started.pipes.stderr, buffer, hear);
        }
        if !gone.is_empty() {
            return Ok(match phase {
                Phase::Running(_) => None,
                Phase::Asked(cause, _) | Phase::Killed(cause, _) => Some(cause),
            });
        }
        let is_due = due.is_some_and(|due| Instant::now() >= due);
        phase = match phase {
            Phase::Running(_) if !stopped.is_empty() => ask(process, Cause::Stop, bounds.grace),
            Phase::Running(_) if is_due => ask(process, Cause::Timeout, bounds.grace),
            Phase::Asked(cause, _) if is_due => {
                let is_ours = signal_worker(process.pid, &process.pidfd, Signal::KILL);
                let until = Instant::now() + limits::KILLED_END;
                Phase::Killed(cause, is_ours.then_some(until))
            }
            Phase::Killed(cause, _) if is_due => return Ok(Some(cause)),
            same => same,
        };
    }
}

fn ask(process: &Process, cause: Cause, grace: Duration) -> Phase {
    signal_worker(process.pid, &process.pidfd, Signal::TERM);
    Phase::Asked(cause, Instant::now().checked_add(grace))
}

/// One read after POLLIN. It does not block: nobody else reads this pipe.
fn read_once(
    stream: Stream,
    pipe: &OwnedFd,
    buffer: &mut [u8],
    hear: &mut dyn FnMut(Stream, &[u8]),
) {
    // An error is a signal that came between; the next round reads.
    if let Ok(n) = rustix::io::read(pipe, &mut *buffer) {
        hear(stream, buffer.get(..n).unwrap_or_default());
    }
}

/// Reads what is in the pipe now, to the byte; a survivor that goes on writing gains nothing.
fn drain(stream: Stream, pipe: &OwnedFd, buffer: &mut [u8], hear: &mut dyn FnMut(Stream, &[u8])) {
    let mut left = rustix::io::ioctl_fionread(pipe)
        .ok()
        .and_then(|there| usize::try_from(there).ok())
        .unwrap_or_default();
    while left > 0 {
        let room = buffer.len().min(left);
        match rustix::io::read(pipe, buffer.get_mut(..room).unwrap_or_default()) {
            Ok(n) if n > 0 => {
                left = left.saturating_sub(n);
                hear(stream, buffer.get(..n).unwrap_or_default());
            }
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Signals a worker that has not ended, and its group. It may lead that no more: setpgid(2) lets it go over to any
/// other one of its session. Whether it heard it for certain.
pub(super) fn signal_worker(group: Pid, pidfd: &OwnedFd, signal: Signal) -> bool {
    let told = kill_process_group(group, signal);
    (told.is_ok() && signal != Signal::KILL) || pidfd_send_signal(pidfd, signal).is_ok()
}

/// Takes the status of a process that has ended with `take`, which does not wait. A debugger (strace that was
/// stopped, gdb at its prompt) need not let go of one that has ended: that is not waited for without end.
pub(super) fn take_status<T>(take: &mut dyn FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let due = Instant::now() + limits::GROUP_END;
    loop {
        if let Some(status) = take()? {
            return Ok(status);
        }
        if Instant::now() >= due {
            let what = "it has ended, and a debugger (strace, gdb) holds it";
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        poll(&mut [], Some(&HELD)).unwrap_or_default();
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
        if members.is_empty() || !proc::await_ends(&members, deadline) {
            return;
        }
    }
}

/// Limits of one worker; `None` leaves what the daemon itself has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceLimits {
    /// Niceness.
    pub(super) nice: Option<i32>,
    /// Address space, in bytes.
    pub(super) memory: Option<u64>,
    /// Largest file written, in bytes.
    pub(super) file_size: Option<u64>,
    /// Open files.
    pub(super) open_files: Option<u64>,
}

impl ResourceLimits {
    /// Those of a route.
    pub(super) fn of(route: &Route) -> Self {
        Self {
            nice: route.nice,
            memory: route.max_memory,
            file_size: route.max_file_size,
            open_files: route.max_open_files,
        }
    }

    /// Those of the kernel that are asked for. What is above our own hard limit is cut to that, as only
    /// root may exceed it.
    pub(super) fn all(self) -> impl Iterator<Item = (Resource, u64)> {
        let all = [
            (Resource::As, self.memory),
            (Resource::Fsize, self.file_size),
            (Resource::Nofile, self.open_files),
        ];
        all.into_iter().filter_map(|(resource, limit)| {
            let limit = limit?;
            Some((resource, limit.min(getrlimit(resource).maximum.unwrap_or(u64::MAX))))
        })
    }

    /// Sets the limits of a worker from outside, for who starts it by std. What it does in its first
    /// instants, the loading of its own program, is not yet under them.
    pub(super) fn set(self, pid: Pid) -> io::Result<()> {
        if let Some(nice) = self.nice {
            // The group: it may have started something by now.
            match setpriority_pgrp(Some(pid), nice) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    let what = format!("nice = {nice}: {}", io::Error::from(errno));
                    return Err(io::Error::other(what));
                }
            }
        }
        for (resource, limit) in self.all() {
            let both = Some(limit);
            match prlimit(Some(pid), resource, Rlimit { current: both, maximum: both }) {
                // ESRCH: it has ended already.
                Ok(_) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
