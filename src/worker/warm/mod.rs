//! Kinds `warm` and `python`: processes that are loaded once and answer many jobs, inboxd-worker/1.
//!
//! Must not know: the spool's moves, the journal, why a task was chosen.
//!
//! The rooms, from the wire up: `framing` cuts bytes into lines, `message` reads and writes them, `job`
//! stages rows and reads the result (these three are pure but for a file of rows), `launch` starts a
//! process with its socket, `process` moves its bytes, `session` is its life. Here is the pool.
//!
//! Invariants
//! - A worker has one owner: a slot while it has a job, else the pool. Dispatch and recycling are both
//!   decided by who holds it, so no job is ever sent to a worker that is leaving.
//! - A route has at most as many workers as its jobs ever ran at once, and one more for each that is
//!   being replaced.
//! - A failed start charges no job. A permanent one pauses the route, others [`limits::FAILED_STARTS`]
//!   in a row.
//! - The pool's lock is held for no wait and no start.
//!
//! A worker whose program's file changed is not replaced in the background but ended before the next
//! job: who mended a script and drops a file must not get the old script's answer.

mod framing;
#[cfg(any(test, fuzzing))]
pub(in crate::worker) mod fuzz;
mod job;
pub mod launch;
mod message;
mod process;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use self::session::{After, Session, Start, StartFailure, random, start};
use super::memory::OomWatch;
use super::{Ended, Stop, Task};
use crate::config::{Route, Worker, limits};
use crate::core::Verdict;

/// The warm workers of all routes; clones are the same pool, one a slot.
#[derive(Clone, Debug)]
pub struct WarmPool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stop: Stop,
    state: Mutex<State>,
    /// Told when the pool is over, so that the housekeeper ends at once.
    over: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_over: bool,
    next_number: u64,
    routes: BTreeMap<String, Workers>,
    /// After a reload: the routes that there are. Others keep no worker between jobs.
    kept: Option<BTreeSet<String>>,
    housekeeper: Option<JoinHandle<()>>,
    /// Ends of old workers and starts of new ones that are under way.
    threads: Vec<JoinHandle<()>>,
}

/// The workers of a route that nobody uses now, and what is known of its starts.
#[derive(Debug, Default)]
struct Workers {
    idle: Vec<Session>,
    failed_starts: u32,
    /// Numbers of workers for which a new one is being started.
    replacing: Vec<u64>,
    /// Numbers of workers whose successor is there.
    replaced: Vec<u64>,
}

impl WarmPool {
    /// A pool without workers. `stop` ends starts and jobs.
    pub fn new(stop: &Stop) -> Self {
        let state = Mutex::new(State::default());
        Self(Arc::new(Shared { stop: stop.clone(), state, over: Condvar::new() }))
    }

    /// Runs one attempt to its end, blocking, in an idle worker or a new one.
    pub(super) fn run(&self, task: &Task, memory: &OomWatch) -> Ended {
        let mut session = match self.obtain(task) {
            Ok(session) => session,
            Err((verdict, stderr)) => {
                let (log, took) = (Vec::new(), Duration::ZERO);
                return Ended { verdict, rows: Vec::new(), log, stderr, took };
            }
        };
        let (ended, after) = session.run(task, &self.0.stop, memory);
        if after == After::Alive {
            self.give_back(session, &task.spool);
        }
        ended
    }

    /// Ends idle workers of all other routes, and those that are at work once they are not.
    pub fn keep_only(&self, routes: BTreeSet<String>) {
        let mut state = self.lock();
        let mut gone = Vec::new();
        for (name, workers) in &mut state.routes {
            if !routes.contains(name) {
                gone.append(&mut workers.idle);
            }
        }
        state.kept = Some(routes);
        drop(state);
        for session in gone {
            self.in_thread("worker-end", move || session.end());
        }
    }

    /// Ends all workers. Nothing runs any more when it is called.
    pub fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        self.0.over.notify_all();
        let routes = std::mem::take(&mut state.routes);
        let mut threads = std::mem::take(&mut state.threads);
        threads.extend(state.housekeeper.take());
        drop(state);
        let mut sessions: Vec<Session> = routes.into_values().flat_map(|w| w.idle).collect();
        // All are told first, so that they end at the same time.
        for session in &mut sessions {
            session.drain();
        }
        for session in sessions {
            session.end();
        }
        for thread in threads {
            let panicked = thread.join().is_err();
            assert!(!panicked, "a thread of the warm workers panicked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock has already ended a thread, which its joiner reports.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle worker that is sound, or a new one.
    fn obtain(&self, task: &Task) -> Result<Session, (Verdict, Vec<u8>)> {
        while let Some(mut session) = self.pop(&task.route.name) {
            let is_ours =
                Arc::ptr_eq(&session.route, &task.route) || session.route.works_like(&task.route);
            if is_ours && session.is_current() && session.tend(Instant::now()) {
                return Ok(session);
            }
            if task.route.warm.overlap {
                self.in_thread("worker-end", move || session.end());
            } else {
                // Memory or a device allows one only.
                session.end();
            }
        }
        self.start(task)
    }

    fn pop(&self, route: &str) -> Option<Session> {
        self.lock().routes.get_mut(route)?.idle.pop()
    }

    /// Starts a worker for a task, and again after a wait if that failed and may not fail for ever.
    fn start(&self, task: &Task) -> Result<Session, (Verdict, Vec<u8>)> {
        loop {
            let number = self.number();
            match start(&task.route, &task.spool, number, &self.0.stop) {
                Start::Ready(session) => {
                    self.note_start(&task.route, true);
                    self.keep_house(&task.spool);
                    return Ok(*session);
                }
                Start::Stopped => return Err((Verdict::Released, Vec::new())),
                Start::Failed(StartFailure { is_permanent, reason, detail }) => {
                    let failed = self.note_start(&task.route, false);
                    if is_permanent || failed >= limits::FAILED_STARTS {
                        return Err((Verdict::Misconfigured { reason }, detail));
                    }
                    if !self.0.stop.wait(start_backoff(failed)) {
                        return Err((Verdict::Released, Vec::new()));
                    }
                }
            }
        }
    }

    fn number(&self) -> u64 {
        let mut state = self.lock();
        state.next_number = state.next_number.saturating_add(1);
        state.next_number
    }

    /// Counts failed starts in a row, over all slots; returns how many there are now.
    fn note_start(&self, route: &Route, is_good: bool) -> u32 {
        let mut state = self.lock();
        let workers = state.routes.entry(route.name.clone()).or_default();
        workers.failed_starts = if is_good { 0 } else { workers.failed_starts.saturating_add(1) };
        workers.failed_starts
    }

    /// Takes a worker back after a job, or lets it go.
    fn give_back(&self, session: Session, spool: &Path) {
        let route = Arc::clone(&session.route);
        let number = session.number;
        let mut state = self.lock();
        let is_gone = state.kept.as_ref().is_some_and(|kept| !kept.contains(&route.name));
        let workers = state.routes.entry(route.name.clone()).or_default();
        let has_successor = is_gone || workers.replaced.contains(&number);
        workers.replaced.retain(|n| *n != number);
        let is_leaving = session.leaves.is_some();
        if has_successor || (is_leaving && !route.warm.overlap) {
            drop(state);
            return if route.warm.overlap {
                self.in_thread("worker-end", move || session.end());
            } else {
                session.end();
            };
        }
        let is_new = is_leaving && !workers.replacing.contains(&number);
        if is_new {
            workers.replacing.push(number);
        }
        workers.idle.push(session);
        drop(state);
        if is_new {
            self.replace(&route, spool, number);
        }
    }

    /// Starts a successor; the old worker goes on until it is ready.
    fn replace(&self, route: &Arc<Route>, spool: &Path, old: u64) {
        let (pool, route, spool) = (self.clone(), Arc::clone(route), spool.to_owned());
        self.in_thread("worker-start", move || {
            let started = start(&route, &spool, pool.number(), &pool.0.stop);
            let mut state = pool.lock();
            let is_over = state.is_over;
            let workers = state.routes.entry(route.name.clone()).or_default();
            workers.replacing.retain(|n| *n != old);
            let mut ends = None;
            match started {
                Start::Ready(session) if is_over => ends = Some(*session),
                // Without a successor the old one goes too, so that the next job meets the reason.
                Start::Ready(_) | Start::Failed(StartFailure { is_permanent: true, .. }) => {
                    match workers.idle.iter().position(|session| session.number == old) {
                        Some(at) => ends = Some(workers.idle.remove(at)),
                        None => workers.replaced.push(old),
                    }
                    if let Start::Ready(session) = started {
                        workers.idle.push(*session);
                    }
                }
                // It is tried again after the old one's next job.
                Start::Failed(_) | Start::Stopped => {}
            }
            drop(state);
            if let Some(session) = ends {
                session.end();
            }
        });
    }

    /// Runs something that waits, on a thread that [`Self::end`] joins.
    fn in_thread(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let spawned = Builder::new().name(name.to_owned()).spawn(work);
        let mut state = self.lock();
        state.threads.retain(|thread| !thread.is_finished());
        // Without a thread the worker is dropped: its socket closes, and it ends by itself.
        state.threads.extend(spawned);
    }

    /// Sees to it that idle workers are looked at.
    fn keep_house(&self, spool: &Path) {
        let mut state = self.lock();
        if state.housekeeper.is_some() || state.is_over {
            return;
        }
        let (pool, spool) = (self.clone(), spool.to_owned());
        let spawned = Builder::new().name("warm".to_owned()).spawn(move || pool.house(&spool));
        // Without it workers are looked at only when they are used.
        state.housekeeper = spawned.ok();
    }

    fn house(&self, spool: &Path) {
        let mut state = self.lock();
        while !state.is_over {
            let waited = self.0.over.wait_timeout(state, limits::IDLE_LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.is_over {
                return;
            }
            let now = Instant::now();
            let mut gone = Vec::new();
            let mut leaving = Vec::new();
            for workers in state.routes.values_mut() {
                for mut session in std::mem::take(&mut workers.idle) {
                    let is_sound = session.tend(now);
                    let is_leaving = session.leaves.is_some();
                    if !is_sound
                        || session.is_idle_too_long(now)
                        || (is_leaving && !session.route.warm.overlap)
                    {
                        gone.push(session);
                        continue;
                    }
                    if is_leaving && !workers.replacing.contains(&session.number) {
                        workers.replacing.push(session.number);
                        leaving.push((Arc::clone(&session.route), session.number));
                    }
                    workers.idle.push(session);
                }
            }
            if gone.is_empty() && leaving.is_empty() {
                continue;
            }
            drop(state);
            for (route, number) in leaving {
                self.replace(&route, spool, number);
            }
            for session in gone {
                self.in_thread("worker-end", move || session.end());
            }
            state = self.lock();
        }
    }
}

/// What input a route takes, as its worker says: it is started to ask, and ended. `None`: any. The
/// error is one line for a person.
pub fn ask_schema(
    route: &Arc<Route>,
    spool: &Path,
    stop: &Stop,
) -> Result<Option<serde_json::Value>, String> {
    if matches!(route.worker, Worker::Command { .. } | Worker::Http { .. }) {
        return Ok(None);
    }
    match start(route, spool, 0, stop) {
        Start::Ready(session) => {
            let schema = session.schema().cloned();
            session.end();
            Ok(schema)
        }
        Start::Failed(failure) => Err(failure.reason),
        Start::Stopped => Err("it was stopped".to_owned()),
    }
}

/// The wait after the `failed`th failed start in a row, with a jitter of a quarter.
pub(super) fn start_backoff(failed: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failed.saturating_sub(1));
    let full = limits::START_BACKOFF.saturating_mul(doubled).min(limits::START_BACKOFF_MOST);
    let ms = u64::try_from(full.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(ms - (ms / 4).saturating_mul(random()) / (1 << 32))
}
