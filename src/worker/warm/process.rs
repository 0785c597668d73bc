//! One warm worker as a process: bytes out, lines in, noticed when it is gone, ended with its group.
//!
//! Must not know: which message may come when; the pool.
//!
//! Invariants
//! - Nothing here waits for a worker to read or to write: writes are queued, reads take what is there.
//! - The end of the process is learnt from its pidfd; the end of its socket alone proves nothing.
//! - When [`Process::end`] returns, no process of its group is alive.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::crew::Bell;
use super::framing::{Frame, Frames};
use crate::config::{Route, Transport, limits};
use crate::worker::proc::time_until;
use crate::worker::process::{
    ResourceLimits, await_group_end, signal_group, signal_worker, take_status,
};
use crate::worker::tail::Tail;
use crate::worker::{Stop, proc};

/// What happened in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// The process has ended, and all that it wrote is taken in.
    pub(super) is_gone: bool,
    /// The daemon says stop.
    pub(super) is_stopped: bool,
    /// What it was sent has not been read in time.
    pub(super) is_stuck: bool,
}

/// A process, our ends of its descriptors, and what it said.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Pid,
    pidfd: OwnedFd,
    to: Option<OwnedFd>,
    from: Option<OwnedFd>,
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    frames: Frames,
    /// It is spoken to by pipes.
    is_piped: bool,
    outbox: VecDeque<u8>,
    /// When the outbox must be empty.
    outbox_due: Option<Instant>,
    buffer: Vec<u8>,
    pub(super) log: Tail,
    pub(super) stderr: Tail,
    /// Ends a round when it rings.
    bell: Option<Bell>,
    /// It went without having read all that it was sent.
    is_unheard: bool,
}

impl Process {
    /// Takes over what was launched and sets its limits.
    pub(super) fn new(
        mut child: Child,
        to: OwnedFd,
        from: OwnedFd,
        route: &Route,
    ) -> io::Result<Self> {
        let group = Pid::from_child(&child);
        let limited = ResourceLimits::of(route).set(group);
        let nonblocking = rustix::io::ioctl_fionbio(&to, true);
        let pidfd = pidfd_open(group, PidfdFlags::empty());
        let pidfd = match (limited, nonblocking, pidfd) {
            (Ok(()), Ok(()), Ok(pidfd)) => pidfd,
            (limited, nonblocking, pidfd) => {
                signal_group(group, Signal::KILL);
                child.wait()?;
                limited?;
                nonblocking?;
                pidfd?;
                return Err(io::Error::other("cannot watch it"));
            }
        };
        let is_mixed = route.warm.transport == Transport::Stdio;
        let frames = if is_mixed { Frames::mixed() } else { Frames::pure() };
        Ok(Self {
            group,
            pidfd,
            to: Some(to),
            from: Some(from),
            out: child.stdout.take().map(OwnedFd::from),
            err: child.stderr.take().map(OwnedFd::from),
            child,
            frames,
            is_piped: is_mixed,
            outbox: VecDeque::new(),
            outbox_due: None,
            buffer: vec![0; 64 << 10],
            log: Tail::new(limits::LOG_KEPT),
            stderr: Tail::new(limits::STDERR_KEPT),
            bell: None,
            is_unheard: false,
        })
    }

    /// From now on this ends a round, too.
    pub(super) fn listen_to(&mut self, bell: Bell) {
        self.bell = Some(bell);
    }

    /// Sends a line, as far as it is read at once; the rest goes out in later rounds.
    pub(super) fn send(&mut self, line: &[u8]) {
        self.outbox.extend(line);
        self.flush();
    }

    fn flush(&mut self) {
        while let (Some(to), false) = (&self.to, self.outbox.is_empty()) {
            match rustix::io::write(to, self.outbox.as_slices().0) {
                Ok(n) => drop(self.outbox.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.outbox_due.is_none() {
                        self.outbox_due = Instant::now().checked_add(limits::WORKER_WRITE);
                    }
                    return;
                }
                // Nobody reads any more: it is gone or about to be.
                Err(_) => {
                    self.to = None;
                    self.is_unheard = true;
                }
            }
        }
        self.outbox.clear();
        self.outbox_due = None;
    }

    /// The next line it said.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        self.frames.next()
    }

    /// Whether it closed its end, so that it can never answer.
    pub(super) fn is_closed(&self) -> bool {
        self.from.is_none()
    }

    /// Waits until something happens or `due`, and takes it in. `None`: without end.
    pub(super) fn round(&mut self, stop: Option<&Stop>, due: Option<Instant>) -> Round {
        // Once that is over it is stuck, and waiting for it would be no wait.
        let outbox_due = self.outbox_due.filter(|due| *due > Instant::now());
        let due = [due, outbox_due].into_iter().flatten().min();
        let [gone, from, out, err, _, stopped, rung] =
            self.wait(stop, due.map(time_until).as_ref());
        if let (Some(bell), false) = (&self.bell, rung.is_empty()) {
            bell.quiet();
        }
        if !self.outbox.is_empty() {
            self.flush();
        }
        for (which, events) in [(Which::From, from), (Which::Out, out), (Which::Err, err)] {
            if !events.is_empty() {
                self.read(which, events);
            }
        }
        let is_gone = !gone.is_empty();
        if is_gone {
            self.take_rest();
        }
        Round {
            is_gone,
            is_stopped: stop.is_some() && !stopped.is_empty(),
            is_stuck: self.outbox_due.is_some_and(|due| Instant::now() >= due),
        }
    }

    fn wait<'a>(&'a self, stop: Option<&'a Stop>, timeout: Option<&Timespec>) -> [PollFlags; 7] {
        let quiet = || PollFd::new(&self.pidfd, PollFlags::empty());
        let listen = |fd: Option<&'a OwnedFd>| match fd {
            Some(fd) => PollFd::new(fd, PollFlags::IN),
            None => PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::empty()),
        };
        // The process first: if it has ended, the looks at the rest come after its last write.
        let mut fds = [
            PollFd::new(&self.pidfd, PollFlags::IN),
            listen(self.from.as_ref()),
            listen(self.out.as_ref()),
            listen(self.err.as_ref()),
            match &self.to {
                Some(to) if !self.outbox.is_empty() => {
                    PollFd::from_borrowed_fd(to.as_fd(), PollFlags::OUT)
                }
                _ => quiet(),
            },
            match stop {
                Some(stop) => PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
                None => quiet(),
            },
            match &self.bell {
                Some(bell) => PollFd::new(bell.fd(), PollFlags::IN),
                None => quiet(),
            },
        ];
        match poll(&mut fds, timeout) {
            Ok(_) => fds.each_ref().map(PollFd::revents),
            // INTR; anything else shows again in the next round, and the clock goes on.
            Err(_) => [PollFlags::empty(); 7],
        }
    }

    /// One read where there is something. It does not block: nobody else reads there.
    fn read(&mut self, which: Which, events: PollFlags) -> usize {
        let fd = match which {
            Which::From => &mut self.from,
            Which::Out => &mut self.out,
            Which::Err => &mut self.err,
        };
        let Some(open) = fd.as_ref() else { return 0 };
        if !events.contains(PollFlags::IN) {
            *fd = None;
            return 0;
        }
        let n = match rustix::io::read(open, &mut self.buffer[..]) {
            Ok(n) if n > 0 => n,
            Err(Errno::INTR | Errno::AGAIN) => return 0,
            end => {
                self.is_unheard |= end == Err(Errno::CONNRESET);
                *fd = None;
                return 0;
            }
        };
        let bytes = self.buffer.get(..n).unwrap_or_default();
        match which {
            Which::From => self.frames.hear(bytes, &mut |text| self.log.push(text)),
            Which::Out => self.log.push(bytes),
            Which::Err => self.stderr.push(bytes),
        }
        n
    }

    /// Takes what it printed up to now: what it wrote before its result belongs to that job.
    pub(super) fn take_prints(&mut self) {
        self.take_now(Which::Out);
        self.take_now(Which::Err);
    }

    fn take_rest(&mut self) {
        self.take_now(Which::From);
        self.take_prints();
        // A socket that is closed with unread bytes in it resets the other end; a pipe just keeps them.
        self.is_unheard |= match (&self.from, &self.to) {
            (_, Some(to)) if self.is_piped => rustix::io::ioctl_fionread(to).is_ok_and(|n| n > 0),
            (Some(from), _) => {
                let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                recv(from, &mut [0u8; 1][..], look).err() == Some(Errno::CONNRESET)
            }
            (None, _) => false,
        };
    }

    /// It went without having read all that it was sent: what was sent last was never begun.
    pub(super) fn is_unheard(&self) -> bool {
        self.is_unheard
    }

    /// What is there now, to the byte; who goes on writing gains nothing.
    fn take_now(&mut self, which: Which) {
        let fd = match which {
            Which::From => &self.from,
            Which::Out => &self.out,
            Which::Err => &self.err,
        };
        let there = fd.as_ref().and_then(|fd| rustix::io::ioctl_fionread(fd).ok());
        let mut left = there.and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
        while left > 0 {
            match self.read(which, PollFlags::IN) {
                0 => return,
                n => left = left.saturating_sub(n),
            }
        }
    }

    /// TERM to its whole group.
    pub(super) fn ask_to_end(&self) {
        signal_worker(self.group, &self.pidfd, Signal::TERM);
    }

    /// KILL to its whole group. Until when to wait for its end; `None`: it is not ours to signal.
    pub(super) fn kill(&self) -> Option<Instant> {
        let is_ours = signal_worker(self.group, &self.pidfd, Signal::KILL);
        is_ours.then(|| Instant::now() + limits::KILLED_END)
    }

    /// Memory in use, in bytes; `None` where it cannot be seen.
    pub(super) fn rss(&self) -> Option<u64> {
        let status = std::fs::read_to_string(proc::file(self.group, "status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    }

    /// Waits for its end without more words: up to `patience`, then TERM, `grace`, KILL. What it still
    /// says is taken in and of no effect. Then all its group is gone.
    pub(super) fn end(&mut self, patience: Duration, grace: Duration) -> io::Result<ExitStatus> {
        if !self.is_gone_within(patience) {
            self.ask_to_end();
            if !self.is_gone_within(grace) {
                return self.end_now();
            }
        }
        self.reap()
    }

    /// The same without any patience. One that hangs in the kernel, or that a debugger holds, is left to that.
    pub(super) fn end_now(&mut self) -> io::Result<ExitStatus> {
        let due = self.kill();
        while !self.round(None, due).is_gone && due.is_none_or(|due| Instant::now() < due) {
            while self.next_frame().is_some() {}
        }
        self.reap()
    }

    /// Whether it has ended, or does within this time. What it says meanwhile is taken in.
    pub(super) fn is_gone_within(&mut self, time: Duration) -> bool {
        let due = Instant::now().checked_add(time);
        loop {
            if self.round(None, due).is_gone {
                return true;
            }
            while self.next_frame().is_some() {}
            if due.is_some_and(|due| Instant::now() >= due) {
                return false;
            }
        }
    }

    /// After it has ended: the rest of its group goes too, while it still holds the group's number.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        let status = take_status(&mut || self.child.try_wait());
        await_group_end(self.group);
        status
    }
}

#[derive(Clone, Copy)]
enum Which {
    From,
    Out,
    Err,
}
