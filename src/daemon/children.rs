//! Children of this process, born here or left to it: all of them ended, or only those that escaped.
//!
//! Must not know: jobs but by their id in a worker's environment, slots, the spool. The supervisor
//! and the daemon both use it; both are subreapers, so what loses its parent becomes their child.
//!
//! Invariants
//! - A signal goes through a pidfd to a process that was seen to be our child while it was held.
//! - No zombie is reaped by a [`Sweeper`] that a slot may be waiting for: such a one is gone soon. One that stays
//!   is of a process that nobody waits for, in a group of its own as a worker is (`set -m`, `timeout`).
//!
//! Our own group and session are read from `/proc`, where none that this pid namespace can see is
//! `None`: a container may be started from outside of it, and getsid(2) says 0 then, which is no pid.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Instant;

use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process_group, pidfd_open,
    pidfd_send_signal, waitpid,
};

use crate::config::limits;
use crate::worker::proc::{self, Stat};

/// How often to look whether a debugger has let go of the dead.
const HELD: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Kills every child and its group and reaps it, again and again, until there is none: the children
/// of the killed become ours in turn. Returns how many were killed. `TimedOut` where one did not die
/// in time. In the daemon a slot may find its worker reaped; it takes that as a release.
pub fn end_all_children() -> io::Result<usize> {
    let deadline = Instant::now().checked_add(limits::ORPHANS_END);
    let own = own_stat()?;
    let mut killed = 0usize;
    let mut is_held_until = None;
    loop {
        let children = children()?;
        if children.is_empty() {
            return Ok(killed);
        }
        for child in &children {
            if !child.stat.is_dead() {
                killed = killed.saturating_add(1);
            }
            end(child, &own);
        }
        let (pids, pidfds): (Vec<Pid>, Vec<OwnedFd>) =
            children.into_iter().map(|child| (child.pid, child.pidfd)).unzip();
        if !proc::await_ends(&pidfds, deadline) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} processes do not die", pids.len()),
            ));
        }
        if pids.into_iter().filter(|pid| reap(*pid)).count() > 0 {
            is_held_until = None;
            continue;
        }
        // All are dead, and a debugger that is no child of ours holds them: nothing runs any more.
        let until = *is_held_until.get_or_insert_with(|| Instant::now() + limits::GROUP_END);
        if Instant::now() >= until {
            return Ok(killed);
        }
        poll(&mut [], Some(&HELD)).unwrap_or_default();
    }
}

/// Takes away the dead that were left to us. Not this one, which is waited for elsewhere.
pub(super) fn reap_all_but(not: Pid) {
    let dead = |child: &Child| child.stat.is_dead() && child.pid != not;
    for child in children().unwrap_or_default().iter().filter(|child| dead(child)) {
        reap(child.pid);
    }
}

/// Whether this `INBOXD_JOB` runs, or of it the record of this `INBOXD_RECORD_NO`.
type IsRunning<'a> = &'a dyn Fn(&[u8], Option<&[u8]>) -> bool;

/// Sweeps now and then, for the daemon; its own workers are left to their slots.
#[derive(Debug, Default)]
pub struct Sweeper {
    /// Dead children that may be a slot's, and since when they are known: number, and when it began.
    dead: Vec<(Pid, u64, Instant)>,
    /// The last sweep ended something, or met such dead.
    left_some: bool,
}

impl Sweeper {
    /// Another sweep has something to take away, also where nothing has ended since the last one.
    pub fn has_more(&self) -> bool {
        self.left_some
    }

    /// Ends what escaped from workers that are over: children whose job, or whose record of it, does not
    /// run; and takes away the dead whom nobody waits for. Returns how many were ended.
    pub fn sweep(&mut self, now: Instant, is_running: IsRunning<'_>) -> io::Result<usize> {
        let own = own_stat()?;
        let known = std::mem::take(&mut self.dead);
        let own_job = std::env::var_os("INBOXD_JOB").map(OsString::into_vec);
        let mut killed = 0usize;
        for child in children()? {
            // A worker leads a group in our session, which it cannot leave: setsid is refused to the leader of a
            // group. So whatever is different was left to us. Only one that went over to another group is taken for
            // that, too, if it has ended and its slot has not looked yet: then its job runs again.
            let may_be_a_slots =
                child.stat.group == Some(child.pid) && child.stat.session == own.session;
            if child.stat.is_dead() {
                let (pid, began) = (child.pid, child.stat.began);
                let since = known.iter().find(|it| (it.0, it.1) == (pid, began)).map(|it| it.2);
                let since = since.unwrap_or(now);
                if !may_be_a_slots || now.duration_since(since) >= limits::UNCLAIMED_DEAD {
                    // What a debugger holds goes with a later sweep.
                    reap(pid);
                } else {
                    self.dead.push((pid, began, since));
                }
                continue;
            }
            let job = proc::variable(child.pid, "INBOXD_JOB");
            let record = proc::variable(child.pid, "INBOXD_RECORD_NO");
            // What stands by for its next job shows our own environment, and we may be a worker ourselves.
            let job = job.filter(|job| own_job.as_ref() != Some(job));
            if job.is_some_and(|job| !is_running(&job, record.as_deref())) {
                end(&child, &own);
                killed = killed.saturating_add(1);
            }
        }
        self.left_some = killed > 0 || !self.dead.is_empty();
        Ok(killed)
    }
}

fn own_stat() -> io::Result<Stat> {
    let failed = || match std::fs::File::open("/proc/self/stat") {
        // A descriptor too few, perhaps.
        Err(error) => error,
        Ok(_) => io::Error::other("/proc does not show this process"),
    };
    proc::stat(getpid()).ok_or_else(failed)
}

struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    stat: Stat,
}

/// Our children over all our threads, zombies included.
fn children() -> io::Result<Vec<Child>> {
    let own = getpid();
    let is_ours = |stat: &Stat| stat.parent == Some(own);
    let mut children = Vec::new();
    for pid in proc::pids()? {
        if !proc::stat(pid).is_some_and(|stat| is_ours(&stat)) {
            continue;
        }
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => continue,
            Err(errno) => return Err(errno.into()),
        };
        // Looked at again: now the pidfd holds the process that the number stands for.
        if let Some(stat) = proc::stat(pid).filter(is_ours) {
            children.push(Child { pid, pidfd, stat });
        }
    }
    Ok(children)
}

/// The group first: while a member is not reaped, its id is nobody else's.
fn end(child: &Child, own: &Stat) {
    if let Some(group) = child.stat.group.filter(|group| Some(*group) != own.group) {
        match kill_process_group(group, Signal::KILL) {
            // Gone already, or not ours to signal: its own pidfd decides.
            Ok(()) | Err(_) => {}
        }
    }
    match pidfd_send_signal(&child.pidfd, Signal::KILL) {
        Ok(()) | Err(_) => {}
    }
}

/// Takes a zombie away; a slot may have been faster. `false`: a debugger holds it.
fn reap(pid: Pid) -> bool {
    !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
}
