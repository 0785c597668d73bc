//! Whether the spool still stands where it was: workers get paths.
//!
//! Must not know: what a worker does with one.
//!
//! Invariant: asked only after an attempt that did not succeed, so that a job costs nothing more. A spool that
//! was renamed makes each attempt fail; none of them is the file's fault.

use std::os::fd::AsFd;
use std::path::Path;

use super::{Listener, Service};
use crate::core::Verdict;
use crate::fs::RealFs;

impl<L: Listener> Service<RealFs, L> {
    /// The same verdict, unless it is that of a worker whose paths lead nowhere.
    pub(super) fn of_this_place(&self, verdict: Verdict) -> Verdict {
        let is_bad = matches!(verdict, Verdict::Failed(_) | Verdict::Misconfigured { .. });
        if !is_bad || is_at(self.keeper.spool.root.as_fd(), &self.keeper.path) {
            return verdict;
        }
        let path = self.keeper.path.display();
        Verdict::Misconfigured { reason: format!("the spool is no longer at {path}") }
    }
}

/// Whether the path leads to this very folder. What cannot be looked at is no proof that it does not.
fn is_at(folder: impl AsFd, path: &Path) -> bool {
    let Ok(ours) = rustix::fs::fstat(folder) else { return true };
    match rustix::fs::stat(path) {
        Ok(there) => (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino),
        Err(errno) => errno != rustix::io::Errno::NOENT,
    }
}
