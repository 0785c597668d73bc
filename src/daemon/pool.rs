//! The pool: one long-living thread a slot, each running one attempt at a time, and the line before them.
//!
//! Must not know: the spool, the journal, why a task was chosen.
//!
//! Threads live as long as the daemon, since a parent-death signal would follow the thread that
//! spawned; and there is one a slot, since under contention one spawning thread starts half as many
//! processes a second as four do.
//!
//! A slot that is done takes the next order from the line by itself: the way over the keeper and back,
//! with two threads to be woken up, takes longer than a short job.
//!
//! Invariants
//! - Each task that a slot took gives exactly one [`SlotEnded`], a lot one for each of its records.
//! - What waits in line is written down ([`Notes`]), and that is taken back before it is run. Of what goes back it
//!   stands until the job comes again: its name says that the attempt began, until the keeper has renamed it.
//! - An order is either taken by one slot or taken back, never both. Where the daemon ends by an error it is
//!   neither: nobody would hear of its end.
//! - A slot whose attempt may pause its route takes back what waits in line for that route before it reports:
//!   the keeper would be too late, and the files of a whole line would follow the one that crashed.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::config::{Route, Worker, limits};
use crate::core::{JobId, Verdict};
use crate::worker::http::HttpPool;
use crate::worker::records::Lot;
use crate::worker::slot::Slot;
use crate::worker::warm::WarmPool;
use crate::worker::{Ended, Stop, Task, lot};

/// Stack of a slot's thread, in bytes: it polls and parses JSON, which is not deep; a check by a schema has its own.
const STACK: usize = 512 << 10;

/// A slot's task is over.
#[derive(Debug)]
pub struct SlotEnded {
    /// Whose attempt it was.
    pub job: JobId,
    /// Of a job with records: which one, and whether it was the last of the slot's lot.
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

impl Order {
    fn task(&self) -> &Task {
        match self {
            Self::Task(task) => task,
            Self::Lot(given) => &given.0,
        }
    }

    fn route(&self) -> Arc<Route> {
        Arc::clone(&self.task().route)
    }
}

/// The route of each order, at one moment.
#[derive(Debug)]
pub struct PoolLoad {
    /// A slot has it.
    pub at_work: Vec<Arc<Route>>,
    /// No slot has taken it.
    pub in_line: Vec<Arc<Route>>,
}

/// How to write down which attempts wait in line, each at a place of its own.
#[derive(Clone)]
pub struct Notes {
    /// There are so many places; what finds none is not written down.
    pub places: usize,
    /// The attempt waits. What cannot be written counts as begun.
    pub waits: Arc<dyn Fn(usize, JobId, u32) + Send + Sync>,
    /// It waits no more. `false`: that cannot be written, so it must not begin, and nothing after it.
    pub leaves: Arc<dyn Fn(usize) -> bool + Send + Sync>,
}

impl Notes {
    /// Nothing is written down.
    pub fn none() -> Self {
        Self { places: 0, waits: Arc::new(|_, _, _| ()), leaves: Arc::new(|_| true) }
    }
}

/// Orders that no slot has taken yet, the oldest first.
struct Line {
    notes: Notes,
    state: Mutex<LineState>,
    /// There is an order, or there will be none.
    news: Condvar,
    /// The line is short enough for who rests.
    is_short: Condvar,
}

/// An order in line.
struct Waiting {
    order: Order,
    /// When it came, if it can go back and all slots were at work.
    since: Option<Instant>,
    /// Where that is written down.
    place: Option<usize>,
}

#[derive(Default)]
struct LineState {
    orders: VecDeque<Waiting>,
    /// Where nothing is written down.
    blank: Vec<usize>,
    /// What went back, the oldest first: its attempt, and where it is still written down as waiting.
    went_back: VecDeque<(JobId, u32, usize)>,
    /// Slots that wait for an order.
    resting: usize,
    /// Who gives orders rests until the line is so short.
    rests_until: Option<usize>,
    /// The route of the order that each slot has, by the slot's number.
    at_work: Vec<Option<Arc<Route>>>,
    /// How many slots may have one: a reload may want fewer than there are.
    most: usize,
    is_over: bool,
}

impl LineState {
    fn busy(&self) -> usize {
        self.at_work.iter().flatten().count()
    }

    /// Where this attempt is written down since it went back.
    fn place_of(&mut self, job: JobId, attempt: u32) -> Option<usize> {
        let at = self.went_back.iter().position(|it| (it.0, it.1) == (job, attempt))?;
        self.went_back.remove(at).map(|(_, _, place)| place)
    }
}

impl Line {
    fn leaves(&self, state: &mut LineState, place: Option<usize>) -> bool {
        let Some(place) = place else { return true };
        let is_written = (self.notes.leaves)(place);
        state.blank.push(place);
        is_written
    }

    /// A blank one. What went back and never came again leaves its own, blanked before it is written to: what
    /// could not be written would say that the old one waits, which may have begun by then.
    fn free_place(&self, state: &mut LineState) -> Option<usize> {
        if state.blank.is_empty() {
            let place = state.went_back.pop_front().map(|(_, _, place)| place);
            self.leaves(state, place);
        }
        state.blank.pop()
    }

    /// The slot with this number has done what it had.
    fn done(&self, slot: usize) {
        if let Some(order) = self.lock().at_work.get_mut(slot) {
            *order = None;
        }
    }

    /// Takes back the tasks for which this is so: no slot has taken them, they have not begun. Lots stay.
    fn take_back(&self, is_meant: impl Fn(&Task) -> bool) -> Vec<JobId> {
        let mut state = self.lock();
        let is_meant = |order: &Order| matches!(order, Order::Task(task) if is_meant(task));
        let (back, stay): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.orders).into_iter().partition(|it| is_meant(&it.order));
        state.orders = stay;
        let mut jobs = Vec::new();
        for Waiting { order, place, .. } in back {
            let Task { job, attempt, .. } = *order.task();
            state.went_back.extend(place.map(|place| (job, attempt, place)));
            jobs.push(job);
        }
        jobs
    }

    fn lock(&self) -> MutexGuard<'_, LineState> {
        // Nothing in here panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, order: Order) {
        let mut state = self.lock();
        let wakes = state.resting > 0 && state.busy() + state.orders.len() < state.most;
        let Task { job, attempt, .. } = *order.task();
        let mut waiting = Waiting { order, since: None, place: state.place_of(job, attempt) };
        if !wakes && matches!(waiting.order, Order::Task(_)) {
            waiting.since = Some(Instant::now());
            if waiting.place.is_none() {
                waiting.place = self.free_place(&mut state);
                waiting.place.inspect(|place| (self.notes.waits)(*place, job, attempt));
            }
        }
        state.orders.push_back(waiting);
        drop(state);
        if wakes {
            self.news.notify_one();
        }
    }

    /// Waits for the next order of this slot; `None`: there will be none. `rest` is called once, after a while
    /// without any.
    fn next(&self, slot: usize, rest: &mut dyn FnMut()) -> Option<Order> {
        let mut until_rest = Some(limits::STANDS_BY);
        let mut state = self.lock();
        loop {
            if state.busy() < state.most
                && let Some(waiting) = state.orders.pop_front()
            {
                if !self.leaves(&mut state, waiting.place) {
                    return None;
                }
                if state.rests_until == Some(state.orders.len()) {
                    self.is_short.notify_one();
                }
                if state.at_work.len() <= slot {
                    state.at_work.resize(slot + 1, None);
                }
                if let Some(order) = state.at_work.get_mut(slot) {
                    *order = Some(waiting.order.route());
                }
                return Some(waiting.order);
            }
            if state.is_over {
                return None;
            }
            state.resting += 1;
            let is_time;
            (state, is_time) = match until_rest {
                Some(time) => {
                    let waited = self.news.wait_timeout(state, time);
                    let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                    (state, waited.timed_out())
                }
                None => (self.news.wait(state).unwrap_or_else(PoisonError::into_inner), false),
            };
            state.resting -= 1;
            if is_time {
                until_rest = None;
                drop(state);
                rest();
                state = self.lock();
            }
        }
    }
}

/// Starts the thread of the slot with this number.
type StartSlot = Box<dyn Fn(usize) -> io::Result<JoinHandle<()>> + Send>;

/// The slots. Call [`Pool::join`] to end them and wait for them.
pub struct Pool {
    line: Arc<Line>,
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
        notes: Notes,
        report: impl Fn(SlotEnded) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let warm = WarmPool::new(stop);
        let http = HttpPool::new(stop);
        let blank = (0..notes.places).rev().collect();
        let state = Mutex::new(LineState { blank, ..LineState::default() });
        let (news, is_short) = (Condvar::new(), Condvar::new());
        let line = Arc::new(Line { notes, state, news, is_short });
        let (stop, shared) = (stop.clone(), (warm.clone(), http.clone(), Arc::clone(&line)));
        let start: StartSlot = Box::new(move |slot| {
            let (stop, (warm, http, line)) = (stop.clone(), shared.clone());
            let report = report.clone();
            Builder::new()
                .name(format!("slot-{slot}"))
                .stack_size(STACK)
                .spawn(move || serve(slot, &line, &stop, Slot::new(warm, http), &report))
        });
        let mut pool = Self { line, threads: Vec::new(), start, warm, http };
        pool.resize(slots)?;
        Ok(pool)
    }

    /// From now on there are so many slots, as threads or, after an error, as many as could be started.
    /// Threads beyond rest: they cost nothing. What runs goes on.
    pub fn resize(&mut self, slots: usize) -> io::Result<()> {
        let mut result = Ok(());
        while self.threads.len() < slots && result.is_ok() {
            result = (self.start)(self.threads.len()).map(|thread| self.threads.push(thread));
        }
        self.line.lock().most = slots.min(self.threads.len());
        self.line.news.notify_all();
        result
    }

    /// Sleeps while the line is more than half full, at most so long. Who takes each end and fills the one
    /// place that it left takes a core from the workers as often; who does a few at once, much more seldom.
    pub fn rest(&self, most: Duration) {
        let mut state = self.line.lock();
        let until = limits::longest_line(state.most) / 2;
        let is_long = |state: &mut LineState| state.orders.len() > until;
        if is_long(&mut state) {
            state.rests_until = Some(until);
            let rested = self.line.is_short.wait_timeout_while(state, most, is_long);
            let (mut state, _) = rested.unwrap_or_else(PoisonError::into_inner);
            state.rests_until = None;
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.line.lock().most
    }

    /// From now on only these routes have warm workers and runners, each those of its kind: one that was
    /// of another before must not hold its model until the daemon ends.
    pub fn keep_warm(&self, routes: &[Arc<Route>]) {
        let asked = routes.iter().filter(|it| matches!(it.worker, Worker::Http { .. }));
        let (ours, others): (Vec<_>, Vec<_>) = asked.partition(|it| it.http.start.is_some());
        let names = |routes: Vec<&Arc<Route>>| routes.iter().map(|it| it.name.clone()).collect();
        self.http.keep_only(&names(ours), &names(others));
        let is_warm =
            |it: &&Arc<Route>| matches!(it.worker, Worker::Python { .. } | Worker::Warm { .. });
        self.warm.keep_only(routes.iter().filter(is_warm).map(Arc::clone).collect());
    }

    /// Gives a task to the next slot that is free. The core bounds how many wait.
    pub fn give(&self, task: Task) {
        self.line.push(Order::Task(Box::new(task)));
    }

    /// Gives records of one input to the next slot that is free.
    pub fn give_lot(&self, lot: Box<(Task, Lot)>) {
        self.line.push(Order::Lot(lot));
    }

    /// Since when the oldest task waits that found all slots at work. No lot: it could not go back, and who
    /// waits for that would wait without end.
    pub fn waits_since(&self) -> Option<Instant> {
        self.line.lock().orders.iter().find_map(|waiting| waiting.since)
    }

    /// The routes of all orders, one for each: of those that a slot has, and of those that none has taken.
    pub fn load(&self) -> PoolLoad {
        let state = self.line.lock();
        PoolLoad {
            at_work: state.at_work.iter().flatten().cloned().collect(),
            in_line: state.orders.iter().map(|waiting| waiting.order.route()).collect(),
        }
    }

    /// Takes back the tasks that no slot has taken: they have not begun. Lots stay.
    pub fn take_back(&self) -> Vec<JobId> {
        self.line.take_back(|_| true)
    }

    /// Waits for all threads; running tasks and what waits in line end first.
    pub fn join(mut self) {
        self.line.lock().is_over = true;
        self.line.news.notify_all();
        for thread in std::mem::take(&mut self.threads) {
            let panicked = thread.join().is_err();
            assert!(!panicked, "a slot's thread panicked");
        }
        self.warm.end();
        self.http.end();
    }
}

/// Dropped before [`Pool::join`], the daemon ends by an error: nothing of the line begins any more, and what is
/// written down of it stays, so that it is charged with nothing at the next start.
impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.line.lock();
        state.is_over = true;
        let orders = std::mem::take(&mut state.orders);
        drop(state);
        drop(orders);
        self.line.news.notify_all();
    }
}

fn serve(number: usize, line: &Line, stop: &Stop, mut slot: Slot, report: &impl Fn(SlotEnded)) {
    loop {
        if number < limits::STAND_BY {
            slot.get_ready();
        }
        let Some(order) = line.next(number, &mut || slot.rest()) else { return };
        match order {
            Order::Task(task) => {
                let ended = slot.run(&task, stop);
                let counts_failures = task.route.pause_after_failures.is_some();
                let back = if ended.verdict.may_pause(counts_failures) {
                    line.take_back(|other| other.route.name == task.route.name)
                } else {
                    Vec::new()
                };
                line.done(number);
                report(SlotEnded { job: task.job, record: None, ended });
                for job in back {
                    let ended = Ended::without_rows(Verdict::Released);
                    report(SlotEnded { job, record: None, ended });
                }
            }
            Order::Lot(given) => {
                let (task, lot) = *given;
                let job = task.job;
                lot::run(&mut slot, task, &lot, number, stop, &mut |no, ended, is_last| {
                    let record = Some((no, is_last));
                    if is_last {
                        line.done(number);
                    }
                    report(SlotEnded { job, record, ended });
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
