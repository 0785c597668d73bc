//! A slot: runs one attempt after another, each by its route's kind of worker.
//!
//! Must not know: how any kind does it.
//!
//! Invariant: a slot's thread runs one attempt at a time; what it keeps between two is its own, but for
//! the warm workers and runners, which all slots share.

use std::time::Instant;

use super::http::HttpPool;
use super::memory::OomWatch;
use super::schema::Schemas;
use super::warm::WarmPool;
use super::{Ended, Stop, Task, command, folder};
use crate::config::Worker;

/// One slot of the pool, owned by its thread.
#[derive(Debug)]
pub struct Slot {
    command: command::Slot,
    warm: WarmPool,
    http: HttpPool,
    memory: OomWatch,
    schemas: Schemas,
    /// The last attempt was a command's: so is the next one, mostly.
    starts: bool,
}

impl Slot {
    /// A slot that shares these warm workers and runners with the others.
    pub fn new(warm: WarmPool, http: HttpPool) -> Self {
        let (memory, schemas) = (OomWatch::new(), Schemas::default());
        Self { command: command::Slot::default(), warm, http, memory, schemas, starts: false }
    }

    /// Has what the next start needs prepared, if the last one was of its kind.
    pub fn get_ready(&mut self) {
        if self.starts {
            self.command.get_ready();
        } else {
            self.command.dismiss();
        }
    }

    /// There is nothing to run for a while: lets go of that.
    pub fn rest(&mut self) {
        self.command.dismiss();
    }

    /// Runs one attempt to its end, blocking. Whatever happens is a verdict; nothing is an error.
    pub fn run(&mut self, task: &Task, stop: &Stop) -> Ended {
        if let Some(ended) = folder::check(task).or_else(|| self.schemas.check(task)) {
            return ended;
        }
        self.starts = matches!(task.route.worker, Worker::Command { .. });
        match &task.route.worker {
            Worker::Command { .. } => self.command.run(task, stop),
            Worker::Warm { .. } | Worker::Python { .. } => {
                let started = Instant::now();
                self.memory.begin();
                let mut ended = self.warm.run(task, &self.memory);
                ended.took = started.elapsed();
                ended
            }
            Worker::Http { .. } => {
                let started = Instant::now();
                let mut ended = self.http.run(task);
                ended.took = started.elapsed();
                ended
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Route;
    use crate::core::{JobId, RelPath};

    /// Goal: a process stands by for the next command, and for no job of another kind. Method: a command; a request
    /// that nobody answers; a command.
    #[test]
    fn a_process_stands_by_for_commands_only() {
        let spool = tempfile::tempdir().unwrap();
        std::fs::write(spool.path().join("x"), "").unwrap();
        let stop = Stop::new().unwrap();
        let mut slot = Slot::new(WarmPool::new(&stop), HttpPool::new(&stop));
        let task = |worker: Worker| Task {
            job: JobId::MIN,
            attempt: 1,
            route: Arc::new(Route { worker, ..Route::new("r", Vec::new()) }),
            rel: RelPath::new("x").unwrap(),
            spool: spool.path().to_owned(),
            path: spool.path().join("x"),
            scratch: spool.path().to_owned(),
            output: None,
            record: None,
        };
        let command = Worker::Command { argv: vec!["true".to_owned()] };
        let http = Worker::Http { url: "http://127.0.0.1:1/".to_owned() };
        for (worker, has_ready) in [(command.clone(), true), (http, false), (command, true)] {
            slot.run(&task(worker), &stop);
            slot.get_ready();
            assert_eq!(slot.command.has_ready(), has_ready);
        }
    }
}
