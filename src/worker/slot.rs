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
}

impl Slot {
    /// A slot that shares these warm workers and runners with the others.
    pub fn new(warm: WarmPool, http: HttpPool) -> Self {
        let (memory, schemas) = (OomWatch::new(), Schemas::default());
        Self { command: command::Slot::default(), warm, http, memory, schemas }
    }

    /// Has what the next start needs prepared, if the last one was of its kind.
    pub fn get_ready(&mut self) {
        self.command.get_ready();
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
