//! What systemd is told: READY, STATUS, RELOADING, STOPPING, WATCHDOG. Without systemd, nothing.
//!
//! Must not know: what the daemon does. Failing to tell is never an error of ours.
//!
//! Invariant: the watchdog is fed by the keeper's progress, not by a timer: a keeper that hangs is
//! restarted although everything else still ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Counts turns of the keeper's loop; the shell reads it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The keeper's loop went round once more. It does at least once a second.
    pub fn made(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Turns so far.
    pub fn turns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often the watchdog wants to be fed: half of `WATCHDOG_USEC`. `WATCHDOG_PID` is not looked at: it
/// is the supervisor's, and the daemon feeds for both.
pub fn watchdog_interval() -> Option<Duration> {
    let usec: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec / 2))
}

/// Start-up is over: recovered, and the first scan is done.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The keeper made progress.
pub fn feed_watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// Settings are about to come into force; [`ready`] ends it.
pub fn reloading() {
    // systemd tells by the time which READY answers which reload.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// It drains.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    // Without systemd there is no socket, and with it there is nothing to be done about a failure.
    drop(sd_notify::notify(states));
}
