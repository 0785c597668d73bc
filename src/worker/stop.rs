//! Stop: how the daemon tells running attempts to end now.
//!
//! Must not know: which attempts run. One descriptor serves all slots: it becomes readable once and
//! stays so, because nobody ever reads it.
//!
//! Invariant: after [`Stop::now`] every attempt that runs or begins ends as `Released`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::proc::time_until;

/// A handle that all slots share; clones are the same handle.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Readable once it is so.
    event: OwnedFd,
    /// The same, for who only asks.
    is_stopped: AtomicBool,
}

impl Stop {
    /// A handle that has not been used. Fails where no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner { event, is_stopped: AtomicBool::new(false) })))
    }

    /// Ends every attempt that waits on this handle, for good; a second call changes nothing.
    pub fn now(&self) -> io::Result<()> {
        self.0.is_stopped.store(true, Ordering::SeqCst);
        match rustix::io::write(&self.0.event, &1u64.to_ne_bytes()) {
            // EAGAIN: the counter is full, so it has long been readable.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits; `false` if [`Stop::now`] was called meanwhile, or before.
    pub fn wait(&self, time: Duration) -> bool {
        let Some(due) = Instant::now().checked_add(time) else { return false };
        loop {
            if self.is_stopped() {
                return false;
            }
            if Instant::now() >= due {
                return true;
            }
            match poll(&mut [PollFd::new(&self.0.event, PollFlags::IN)], Some(&time_until(due))) {
                // Whatever it is, the loop looks at the time and at the handle itself.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Whether [`Stop::now`] was called.
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::SeqCst)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one call stops every holder, for good. Method: two clones, asked before, after and again.
    #[test]
    fn stays_stopped_for_all() {
        let stop = Stop::new().unwrap();
        let other = stop.clone();
        assert!(!other.is_stopped());
        assert!(other.wait(Duration::from_millis(1)));
        stop.now().unwrap();
        stop.now().unwrap();
        assert!(other.is_stopped() && other.is_stopped() && stop.is_stopped());
        assert!(!other.wait(Duration::from_secs(60)));
    }
}
