//! Prints what the shell tells, on a thread of its own.
//!
//! Who reads the log may be slow, or stop reading (`run | less`, a logging service that hangs): then
//! the next write waits, for ever. Signals and `status` are heard on the shell's thread, so it must
//! not be the one that waits.
//!
//! Invariants
//! - Telling never waits. What finds no room is counted, and told as missed once there is room.
//! - At the end it waits for what is still to be printed, but not for a reader that does not read.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use crate::daemon::shell::Told;

/// What may wait to be printed.
const QUEUE: usize = 1024;
/// For how long the end waits for a reader.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Teller {
    queue: SyncSender<Told>,
    /// Not told yet as missed.
    missed: u64,
    /// Closed when all is printed.
    printed: Receiver<()>,
}

impl Teller {
    /// Begins the thread, which calls `print` for each.
    pub(super) fn start(mut print: impl FnMut(&Told) + Send + 'static) -> io::Result<Self> {
        let (queue, told) = sync_channel(QUEUE);
        let (end, printed) = channel();
        let all = move || {
            let _until_all_is_printed: Sender<()> = end;
            for it in told {
                print(&it);
            }
        };
        std::thread::Builder::new().name("teller".to_owned()).spawn(all)?;
        Ok(Self { queue, missed: 0, printed })
    }

    /// Has it printed, or counts it.
    pub(super) fn tell(&mut self, told: Told) {
        if self.missed > 0 && self.queue.try_send(Told::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        if self.queue.try_send(told).is_err() {
            self.missed += 1;
        }
    }

    /// Whether all is printed. If not, nobody reads, and what is printed next waits with it.
    pub(super) fn end(self) -> bool {
        if self.missed > 0 {
            drop(self.queue.try_send(Told::Missed(self.missed)));
        }
        drop(self.queue);
        // Nothing is ever sent: it is closed, or time is over.
        self.printed.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected)
    }
}
