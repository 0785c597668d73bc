//! One daemon a spool: an advisory lock on the folder `journal/`.
//!
//! Must not know: what the daemon does with it. Real files only; a test of two daemons is a test of two processes.
//!
//! Invariant: the kernel drops the lock when the process ends, however it ends; there is no stale lock.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// How long a daemon that is ending may still hold the lock.
const ENDING: Duration = Duration::from_secs(1);

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _fd: OwnedFd,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{spool} is already served by inboxd{}", .pid.map_or_else(String::new, |pid| format!(" pid {pid}")))]
    Held {
        /// The spool, as the user named it.
        spool: String,
        /// Who, if the kernel tells.
        pid: Option<u32>,
    },
    /// The folder cannot be opened or locked.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// Which folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock of the spool at `spool`, or says who has it.
    ///
    /// Waits a moment: a daemon whose supervisor was killed is just ending.
    pub fn take(spool: &Path) -> Result<Self, LockError> {
        let until = Instant::now() + ENDING;
        loop {
            match Self::try_take(spool) {
                Err(LockError::Held { .. }) if Instant::now() < until => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    fn try_take(spool: &Path) -> Result<Self, LockError> {
        let path = spool.join("journal");
        let failed = |source: io::Error| LockError::Io { path: path.display().to_string(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _fd: fd }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(LockError::Held { spool: spool.display().to_string(), pid: holder(spool) })
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// The process that holds the spool's lock, as `/proc/locks` has it (proc(5)).
pub fn holder(spool: &Path) -> Option<u32> {
    let inode = std::fs::metadata(spool.join("journal")).ok()?.ino().to_string();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // "1: FLOCK  ADVISORY  WRITE 812 fd:00:12345 0 EOF"; "->" marks those that wait.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else { return None };
        let same = place.rsplit(':').next() == Some(inode.as_str());
        // 0 or -1: a process of another PID namespace.
        if same { pid.parse().ok().filter(|pid| *pid > 0) } else { None }
    })
}
