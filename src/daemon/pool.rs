//! The pool: one long-living thread a slot, each running one attempt at a time.
//!
//! Must not know: the spool, the journal, why a task was chosen.
//!
//! Threads live as long as the daemon, since a parent-death signal would follow the thread that
//! spawned; and there is one a slot, since under contention one spawning thread starts half as many
//! processes a second as four do.
//!
//! Invariant: a slot is idle or has exactly one task; each task gives exactly one [`SlotEnded`],
//! a lot one for each of its records.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::core::JobId;
use crate::worker::http::HttpPool;
use crate::worker::records::Lot;
use crate::worker::slot::Slot;
use crate::worker::warm::WarmPool;
use crate::worker::{Ended, Stop, Task, lot};

/// Stack of a slot's thread, in bytes: it polls and parses, nothing recursive.
const STACK: usize = 512 << 10;

/// A slot's task is over.
#[derive(Debug)]
pub struct SlotEnded {
    /// Which slot is idle again.
    pub slot: usize,
    /// Whose attempt it was.
    pub job: JobId,
    /// Of a job with records: which one, and whether it was the last of the slot's lot. Until then the
    /// slot is not idle.
    pub record: Option<(u64, bool)>,
    /// How it ended.
    pub ended: Ended,
}

/// What a slot is given.
enum Order {
    /// A whole file.
    Task(Box<Task>),
    /// Records of one, one after the other.
    Lot(Box<(Task, Lot)>),
}

/// Starts the thread of the slot with this number.
type StartSlot = Box<dyn Fn(usize) -> io::Result<(SyncSender<Order>, JoinHandle<()>)> + Send>;

/// The slots. Dropping it lets idle threads end; call [`Pool::join`] to wait for them.
pub struct Pool {
    /// One sender a slot; the slot's thread holds the receiver and ends when this is dropped.
    tasks: Vec<SyncSender<Order>>,
    idle: Vec<usize>,
    threads: Vec<JoinHandle<()>>,
    start: StartSlot,
    /// The slots hold clones; ended here once they are gone.
    warm: WarmPool,
    /// As `warm`.
    http: HttpPool,
}

impl Pool {
    /// Starts `slots` threads. `report` is called on the slot's own thread.
    pub fn start(
        slots: usize,
        stop: &Stop,
        report: impl Fn(SlotEnded) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let warm = WarmPool::new(stop);
        let http = HttpPool::new(stop);
        let (stop, shared) = (stop.clone(), (warm.clone(), http.clone()));
        let start: StartSlot = Box::new(move |slot| {
            let (send, receive) = sync_channel(1);
            let (stop, report, (warm, http)) = (stop.clone(), report.clone(), shared.clone());
            let thread = Builder::new()
                .name(format!("slot-{slot}"))
                .stack_size(STACK)
                .spawn(move || serve(slot, &receive, &stop, Slot::new(warm, http), &report))?;
            Ok((send, thread))
        });
        let (tasks, idle, threads) = (Vec::new(), Vec::new(), Vec::new());
        let mut pool = Self { tasks, idle, threads, start, warm, http };
        pool.grow(slots)?;
        Ok(pool)
    }

    /// Sees to it that there are so many slots, or more: idle threads cost nothing, so none is ended.
    /// After an error there are as many as could be started.
    pub fn grow(&mut self, slots: usize) -> io::Result<()> {
        for slot in self.tasks.len()..slots {
            let (send, thread) = (self.start)(slot)?;
            self.tasks.push(send);
            self.threads.push(thread);
            self.idle.insert(0, slot);
        }
        Ok(())
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.tasks.len()
    }

    /// From now on only these routes have warm workers and runners.
    pub fn keep_warm(&self, routes: impl IntoIterator<Item = String>) {
        let routes = routes.into_iter().collect();
        self.http.keep_only(&routes);
        self.warm.keep_only(routes);
    }

    /// Gives a task to an idle slot. The core never starts more than there are slots.
    pub fn give(&mut self, task: Task) {
        self.order(Order::Task(Box::new(task)));
    }

    /// Gives records of one input to an idle slot.
    pub fn give_lot(&mut self, lot: Box<(Task, Lot)>) {
        self.order(Order::Lot(lot));
    }

    fn order(&mut self, order: Order) {
        let slot = self.idle.pop();
        assert!(slot.is_some(), "a task without an idle slot");
        if let Some(sender) = slot.and_then(|slot| self.tasks.get(slot)) {
            let gone = sender.send(order).is_err();
            assert!(!gone, "a slot's thread died");
        }
    }

    /// Takes a slot back after its [`SlotEnded`].
    pub fn take_back(&mut self, slot: usize) {
        self.idle.push(slot);
    }

    /// Waits for all threads; running tasks end first.
    pub fn join(self) {
        drop(self.tasks);
        for thread in self.threads {
            let panicked = thread.join().is_err();
            assert!(!panicked, "a slot's thread panicked");
        }
        self.warm.end();
        self.http.end();
    }
}

fn serve(
    number: usize,
    tasks: &Receiver<Order>,
    stop: &Stop,
    mut slot: Slot,
    report: &impl Fn(SlotEnded),
) {
    while let Ok(order) = tasks.recv() {
        match order {
            Order::Task(task) => {
                let job = task.job;
                let ended = slot.run(&task, stop);
                report(SlotEnded { slot: number, job, record: None, ended });
            }
            Order::Lot(given) => {
                let (task, lot) = *given;
                let job = task.job;
                lot::run(&mut slot, task, &lot, number, stop, &mut |no, ended, is_last| {
                    let record = Some((no, is_last));
                    report(SlotEnded { slot: number, job, record, ended });
                });
            }
        }
    }
}
