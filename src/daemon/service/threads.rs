//! What takes as long as the disk takes, each on a thread of its own; the answer is a message.
//!
//! Must not know: what follows from the answer.
//!
//! Invariants
//! - Each of them sends one message, and ends at the latest with the daemon.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::{Input, KeeperError, Listener, Message, Service};
use crate::daemon::keeper::inputs::Collecting;
use crate::daemon::repeat;
use crate::fs::{Filesystem, RealFs};
use crate::journal::Group;
use crate::spool::Claimed;
use crate::worker::Task;

impl<L: Listener> Service<RealFs, L> {
    /// The fsync of a group stops nobody: it has a thread of its own, which ends with the sender.
    pub(super) fn start_syncing(&self) -> Result<Sender<Group<RealFs>>, KeeperError> {
        let (send, groups) = std::sync::mpsc::channel::<Group<RealFs>>();
        let sender = self.sender.clone();
        let work = move || {
            while let Ok(group) = groups.recv() {
                // The receiver is gone only when the daemon has ended.
                drop(sender.send(Message::Synced(group.sync())));
            }
        };
        std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(work)
            .map(|_| send)
            .map_err(KeeperError::spool("start the thread that syncs the journal"))
    }

    /// Putting failed records together reads the whole input: on a thread of its own.
    pub(super) fn collect(&self, collecting: Collecting) {
        let (spool, sender) = (self.keeper.spool.clone(), self.sender.clone());
        let work = move || {
            let (job, result) = (collecting.job, collecting.run(&spool));
            // The receiver is gone only when the daemon has ended.
            drop(sender.send(Message::Input(Input::Collected { job, result })));
        };
        beside("collect", work);
    }

    /// Comparing reads two files to their end: on a thread of its own. The core counts it as running,
    /// so there are no more of these than slots.
    pub(super) fn compare(&mut self, task: Task) {
        let (spool, sender) = (self.keeper.spool.clone(), self.sender.clone());
        self.state.comparing.insert(task.job, Arc::clone(&task.route));
        let work = move || {
            let claimed = Claimed::file(task.job, task.attempt);
            let is_same = repeat::is_same(&spool, &task.rel, claimed);
            // The receiver is gone only when the daemon has ended.
            drop(sender.send(Message::Input(Input::Compared { task, is_same })));
        };
        beside("compare", work);
    }

    /// The sync of a checkpoint takes as long as the disk is busy: on a thread of its own.
    pub(super) fn sync(&mut self, before: u64) {
        let (fs, dir) = self.keeper.sync_handle();
        let sender = self.sender.clone();
        let work = move || {
            // Durable after it: all that the journal segments below `before` record.
            let message = match fs.sync_all(&dir) {
                Ok(()) => Message::Input(Input::Synced { before }),
                Err(error) => Message::SyncFailed(error),
            };
            // The receiver is gone only when the daemon has ended.
            drop(sender.send(message));
        };
        beside("sync", work);
    }
}

/// On a thread of its own; where the system allows no further one (a worker may have them all), here and now:
/// that is slower, and no reason to end.
fn beside(name: &str, work: impl FnOnce() + Clone + Send + 'static) {
    if std::thread::Builder::new().name(name.to_owned()).spawn(work.clone()).is_err() {
        work();
    }
}
