//! `/proc`: which processes there are, and what each belongs to.
//!
//! Must not know: workers, the daemon. It only looks; nothing is ended here.
//!
//! Assumption: a process that vanishes while it is looked at is no process, not an error.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid};

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z` …
    pub state: u8,
    /// Its parent, as a process (not which of its threads); `None` for the first process.
    pub parent: Option<Pid>,
    /// Its process group; `None` for threads of the kernel.
    pub group: Option<Pid>,
    /// Its session; `None` for threads of the kernel.
    pub session: Option<Pid>,
    /// When it began, in ticks since the boot: with its number, which process it is.
    pub began: u64,
}

impl Stat {
    /// It runs no more: a zombie, or less.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Fails where `/proc` is not there, or has other numbers for us (`unshare --pid` without `--mount-proc`): whatever
/// is looked up there would be of another process.
pub fn is_ours() -> io::Result<()> {
    let own = std::fs::read_link("/proc/self")
        .map_err(|error| io::Error::new(error.kind(), format!("/proc/self: {error}")))?;
    if own.as_os_str() == getpid().as_raw_nonzero().to_string().as_str() {
        return Ok(());
    }
    let what =
        "/proc belongs to another pid namespace: mount that of this one (unshare --mount-proc)";
    Err(io::Error::other(what))
}

/// All processes there are. Fails where `/proc` cannot be read, or is not ours.
pub fn pids() -> io::Result<Vec<Pid>> {
    is_ours()?;
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        pids.extend(pid.and_then(Pid::from_raw));
    }
    Ok(pids)
}

/// Looks at one process; `None` where it is gone.
pub fn stat(pid: Pid) -> Option<Stat> {
    use std::io::Read as _;
    // The line is far shorter, and one read has it whole: every process there is may be looked at.
    let mut line = [0; 2048];
    let len = std::fs::File::open(file(pid, "stat")).ok()?.read(&mut line).ok()?;
    parse_stat(line.get(..len)?)
}

/// A variable of the environment a process was started with. `None` where it has none such, is
/// another user's, is a zombie, or is in the middle of its exec.
pub fn variable(pid: Pid, name: &str) -> Option<Vec<u8>> {
    let environ = std::fs::read(file(pid, "environ")).ok()?;
    let mut variables = environ.split(|b| *b == 0);
    variables
        .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .map(<[u8]>::to_vec)
}

/// Whether a process has a function for a signal. `None` where it is gone or cannot be looked at.
pub fn catches(pid: Pid, signal: Signal) -> Option<bool> {
    let status = std::fs::read_to_string(file(pid, "status")).ok()?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
    // Bit N - 1 stands for signal N: proc_pid_status(5).
    Some(caught >> (signal.as_raw() - 1) & 1 == 1)
}

/// Waits for the end of every process; false where the deadline came first. A zombie has ended.
pub fn await_ends(pidfds: &[OwnedFd], deadline: Option<Instant>) -> bool {
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
pub fn time_until(due: Instant) -> Timespec {
    let left = due.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// A file of a process.
pub(super) fn file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_nonzero()))
}

/// `PID (NAME) STATE PARENT GROUP SESSION … BEGAN …`; the name may hold anything, also `) R 1 1`.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let after = bytes.iter().rposition(|b| *b == b')')?;
    let mut fields = bytes.get(after + 1..)?.split(|b| *b == b' ').filter(|f| !f.is_empty());
    let state = *fields.next()?.first()?;
    let mut pid = || -> Option<Option<Pid>> {
        let number: i32 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        // The kernel says -1 of a process that was reaped while it was asked: it is gone.
        if number < 0 { None } else { Some(Pid::from_raw(number)) }
    };
    let (parent, group, session) = (pid()?, pid()?, pid()?);
    // The 22nd, and the session is the 6th.
    let began = std::str::from_utf8(fields.nth(15)?).ok()?.parse().ok()?;
    Some(Stat { state, parent, group, session, began })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a process name cannot forge the fields. Method: names with parentheses and spaces.
    #[test]
    fn names_do_not_forge_fields() {
        for name in ["sh", "a b", ") R 1 1 (", "\n)"] {
            let rest = "0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 9876 1234";
            let line = format!("77 ({name}) S 12 34 56 {rest}");
            let stat = parse_stat(line.as_bytes()).unwrap();
            assert_eq!((stat.state, stat.is_dead()), (b'S', false));
            assert_eq!((stat.parent, stat.group), (Pid::from_raw(12), Pid::from_raw(34)));
            assert_eq!((stat.session, stat.began), (Pid::from_raw(56), 9876));
        }
        assert_eq!(parse_stat(b"77 (x)"), None);
        assert_eq!(parse_stat(b""), None);
    }

    /// Goal: a process that is reaped while it is looked at is gone, and no panic.
    /// Method: what the kernel prints of one.
    #[test]
    fn a_process_being_reaped_is_gone() {
        assert_eq!(parse_stat(b"77 (x) X 0 -1 -1 0 -1"), None);
    }

    /// Goal: we find ourselves. Method: the list and the look at our own process.
    #[test]
    fn finds_itself() {
        let own = rustix::process::getpid();
        assert!(pids().unwrap().contains(&own));
        assert_eq!(stat(own).unwrap().parent, rustix::process::getppid());
    }
}
