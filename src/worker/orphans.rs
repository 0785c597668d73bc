//! Workers of a daemon that died together with its supervisor: found by a mark in their
//! environment, and ended before any claim is run again.
//!
//! Must not know: jobs, claims. A mark says which spool a process works for, no more.
//!
//! Invariants
//! - Only a process that carries the mark *while its pidfd is open* is ended, so a reused pid never is.
//! - When [`end_marked`] returns `Ok`, nothing that carries the mark is alive.
//!
//! Not covered: a process that cleared its environment and called setsid; only a cgroup holds that one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use rustix::process::{PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal};

use super::proc;
use crate::config::limits;

/// The variable that carries the mark.
pub const MARK_VAR: &str = "INBOXD_SPOOL_MARK";

/// The mark of a spool: device and inode, since a folder may be reached by many paths. It need not
/// outlive a boot, as the processes do not either.
pub fn mark(spool: &Path) -> io::Result<OsString> {
    let folder = spool.metadata()?;
    Ok(format!("{}:{}", folder.dev(), folder.ino()).into())
}

/// Ends every process whose environment carries this mark, ourselves and our parent (the supervisor)
/// excepted, until none is left. Returns how many there were. `TimedOut` where one did not die in
/// time; `/proc` unreadable is an error too. Processes of other users cannot be seen, nor be ours.
pub fn end_marked(mark: &OsStr) -> io::Result<usize> {
    let deadline = Instant::now().checked_add(limits::ORPHANS_END);
    let mut ended = 0usize;
    let mut was_empty = false;
    loop {
        let found = find_marked(mark)?;
        // Empty twice in a row: a process in the middle of its exec shows no environment.
        if found.is_empty() && was_empty {
            return Ok(ended);
        }
        was_empty = found.is_empty();
        for pidfd in &found {
            match pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) => ended = ended.saturating_add(1),
                Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // Again after this: one of them may have forked between our look and its end.
        if !proc::await_ends(&found, deadline) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} processes of the last run do not die", found.len()),
            ));
        }
    }
}

fn find_marked(mark: &OsStr) -> io::Result<Vec<OwnedFd>> {
    let own = [Some(getpid()), getppid()];
    let is_marked = |pid| proc::variable(pid, MARK_VAR).is_some_and(|m| m == mark.as_bytes());
    let mut found = Vec::new();
    for pid in proc::pids()? {
        if own.contains(&Some(pid)) || !is_marked(pid) {
            continue;
        }
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Read again: now the pidfd holds the process that the number stands for.
        if is_marked(pid) {
            found.push(pidfd);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// Goal: what carries the mark dies, also in a session of its own, and a neighbour lives on.
    /// Method: a marked worker with a child that called setsid, and one whose mark is longer.
    #[test]
    fn marked_processes_die_and_no_others() {
        let spool = tempfile::tempdir().unwrap();
        let mark = mark(spool.path()).unwrap();
        let start = |mark: &OsStr, script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).env(MARK_VAR, mark).process_group(0);
            command.stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut worker = start(&mark, "setsid sleep 600 & echo; wait");
        let mut longer = mark.clone();
        longer.push("0");
        let mut neighbour = start(&longer, "exec sleep 600");
        // The line says that the child was forked, so it already has our environment.
        let mut line = String::new();
        let mut out = io::BufReader::new(worker.stdout.take().unwrap());
        io::BufRead::read_line(&mut out, &mut line).unwrap();

        assert_eq!(end_marked(&mark).unwrap(), 2);
        assert_eq!(end_marked(&mark).unwrap(), 0);
        assert!(!worker.wait().unwrap().success());
        assert!(neighbour.try_wait().unwrap().is_none(), "the neighbour was ended too");
        neighbour.kill().unwrap();
        neighbour.wait().unwrap();
    }
}
