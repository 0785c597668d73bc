//! Kinds `warm` and `python`: processes that are loaded once and answer many jobs, inboxd-worker/1.
//!
//! Must not know: the spool's moves, the journal, why a task was chosen.
//!
//! The rooms, from the wire up: `framing` cuts bytes into lines, `message` reads and writes them, `job`
//! stages rows and reads the result (these three are pure but for a file of rows), `launch` starts a
//! process with its socket, `process` moves its bytes, `session` is its life; `crew` is that of a worker
//! with several jobs at once, `places` finds one for each job. Here is the pool.
//!
//! Invariants
//! - A worker has one owner: a slot while it has a job, else the pool; one that takes several jobs has a
//!   thread of its own. Dispatch and recycling are both decided by who holds it, so no job is ever sent to
//!   a worker that is leaving.
//! - A route has at most as many workers as its jobs ever needed at once, one more for each that is
//!   being replaced, and one for a job that runs alone. Jobs at once are slots, whatever a worker takes.
//! - A failed start charges no job. A permanent one pauses the route, others [`limits::FAILED_STARTS`]
//!   in a row.
//! - No worker stays without a job that was started for a route as it is no more (with `overlap = false`:
//!   until its next job), unless an input that was begun so is under way.
//! - Idle workers have no more than half of our descriptors, unless all are of one route.
//! - The pool's lock is held for no wait and no start.
//!
//! A worker whose program's file changed is not replaced in the background but ended before the next
//! job: who mended a script and drops a file must not get the old script's answer.

mod crew;
mod framing;
#[cfg(any(test, fuzzing))]
pub(in crate::worker) mod fuzz;
mod job;
pub mod launch;
mod message;
mod places;
mod process;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use self::crew::{Answer, Member};
use self::places::Place;
use self::session::{After, Session, Start, StartFailure, random, start};
use super::lot::make_empty;
use super::memory::OomWatch;
use super::{Ended, Stop, Task};
use crate::config::{Route, Worker, limits};
use crate::core::{FailClass, Failure, Verdict};
use crate::fs::real::descriptors;

/// The warm workers of all routes; clones are the same pool, one a slot.
#[derive(Clone, Debug)]
pub struct WarmPool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stop: Stop,
    state: Mutex<State>,
    /// Told when the pool is over, so that the housekeeper ends at once.
    over: Condvar,
    /// Told when who waits for a place should look again.
    free: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_over: bool,
    /// So many may be idle over all routes.
    most_idle: usize,
    next_number: u64,
    routes: BTreeMap<String, Workers>,
    /// After a reload: the routes that there are, as they are. Others keep no worker between jobs.
    kept: Option<Vec<Arc<Route>>>,
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
    /// Such starts that failed in a row, and when the next one may be.
    failed_successors: u32,
    next_successor: Option<Instant>,
    /// Numbers of workers whose successor is there.
    replaced: Vec<u64>,
    /// Those that take several jobs at once.
    crew: Vec<Member>,
    /// How many the last one that became ready takes.
    places: Option<usize>,
    /// Jobs that look for a place, and starts for them under way.
    waiting: usize,
    starting: usize,
    /// Jobs that are to run alone, and whether one does.
    suspects: usize,
    runs_alone: bool,
    /// Starts that failed for good, and what the last one said.
    refusals: u64,
    refused: Option<(String, Vec<u8>)>,
}

impl Workers {
    /// Whether a successor of this worker is to be started now.
    fn may_replace(&self, number: u64) -> bool {
        let may_start = self.next_successor.is_none_or(|at| Instant::now() >= at);
        may_start && !self.replacing.contains(&number)
    }

    /// How a successor's start ended.
    fn note_successor(&mut self, is_good: bool) {
        self.failed_successors = if is_good { 0 } else { self.failed_successors.saturating_add(1) };
        let wait = (!is_good).then(|| start_backoff(self.failed_successors));
        self.next_successor = wait.and_then(|wait| Instant::now().checked_add(wait));
    }
}

impl State {
    fn workers(&mut self, route: &str) -> &mut Workers {
        self.routes.entry(route.to_owned()).or_default()
    }

    /// Whether a worker of this route may stay between jobs.
    fn is_kept(&self, route: &Arc<Route>) -> bool {
        let Some(kept) = &self.kept else { return true };
        let mut same = kept.iter().filter(|it| it.name == route.name);
        same.any(|it| Arc::ptr_eq(it, route) || it.works_like(route))
    }

    /// With more idle workers than there may be: the one of another route that had none for longest. Without
    /// this, many routes would leave no descriptors for anything else.
    fn take_spare(&mut self, route: &str) -> Option<Session> {
        let idle: usize = self.routes.values().map(|workers| workers.idle.len()).sum();
        if idle <= self.most_idle {
            return None;
        }
        let others = self.routes.iter_mut().filter(|(name, _)| *name != route);
        let all = others.filter_map(|(_, workers)| {
            let oldest = (0..workers.idle.len())
                .min_by_key(|at| workers.idle.get(*at).map(|session| session.idle_since));
            oldest.map(|at| (workers, at))
        });
        let (workers, at) =
            all.min_by_key(|(workers, at)| workers.idle.get(*at).map(|it| it.idle_since))?;
        Some(workers.idle.remove(at))
    }

    /// Runs something that waits, on a thread that [`WarmPool::end`] joins. `false`: there is no thread.
    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> bool {
        let spawned = Builder::new().name(name.to_owned()).spawn(work);
        self.threads.retain(|thread| !thread.is_finished());
        let is_there = spawned.is_ok();
        self.threads.extend(spawned);
        is_there
    }
}

impl WarmPool {
    /// A pool without workers. `stop` ends starts and jobs.
    pub fn new(stop: &Stop) -> Self {
        let most_idle = descriptors() / 2 / limits::WARM_DESCRIPTORS;
        let state = Mutex::new(State { most_idle, ..State::default() });
        Self(Arc::new(Shared {
            stop: stop.clone(),
            state,
            over: Condvar::new(),
            free: Condvar::new(),
        }))
    }

    /// Runs one attempt to its end, blocking, in an idle worker or a new one, or beside others.
    pub(super) fn run(&self, task: &Task, memory: &OomWatch) -> Ended {
        let mut is_alone = false;
        // A worker that says ready and dies must not be started for ever.
        let mut was_unheard = false;
        loop {
            let (number, answer) = match self.obtain(task, is_alone) {
                Err((verdict, stderr)) => {
                    return Ended { stderr, ..Ended::without_rows(verdict) };
                }
                Ok(Place::Own(mut session)) => {
                    let (ended, after) = session.run(task, &self.0.stop, memory);
                    let again = !was_unheard && session.is_innocent(&ended);
                    was_unheard |= again;
                    if is_alone {
                        self.end_alone(*session, &after, &task.spool);
                    } else if after == After::Alive {
                        self.give_back(*session, &task.spool);
                    }
                    if again {
                        continue;
                    }
                    return ended;
                }
                Ok(Place::Shared(number, answer)) => (number, answer),
            };
            let answer = answer.recv();
            self.free_place(&task.route, number);
            is_alone = match answer {
                Ok(Answer::Over(ended)) => return *ended,
                Ok(Answer::Again) => false,
                Ok(Answer::Suspect) => true,
                // Its thread panicked, which whoever joins it reports.
                Err(_) => return Ended::without_rows(Verdict::Released),
            };
            if self.0.stop.is_stopped() {
                return Ended::without_rows(Verdict::Released);
            }
            let folders = [Some(&task.scratch), task.output.as_ref()].into_iter().flatten();
            for folder in folders {
                if let Err(error) = make_empty(folder) {
                    let why = format!("cannot empty {}: {error}", folder.display());
                    let failure = Failure::new(FailClass::TryAgain, why);
                    return Ended::without_rows(Verdict::Failed(failure));
                }
            }
        }
    }

    fn stop(&self) -> Stop {
        self.0.stop.clone()
    }

    /// Ends idle workers of all other routes, also of those that were as these are not, and those that are
    /// at work once they are not. Where a route may have one only, its next job ends the old one, and waits
    /// for that.
    pub fn keep_only(&self, routes: Vec<Arc<Route>>) {
        let mut state = self.lock();
        let mut gone = Vec::new();
        let names: BTreeSet<String> = routes.iter().map(|route| route.name.clone()).collect();
        state.kept = Some(routes);
        let mut all = std::mem::take(&mut state.routes);
        for (name, workers) in &mut all {
            let stays = |route: &Arc<Route>| {
                state.is_kept(route) || !route.warm.overlap && names.contains(name)
            };
            gone.extend(workers.idle.extract_if(.., |session| !stays(&session.route)));
            workers.crew.iter_mut().filter(|it| !stays(&it.route)).for_each(Member::close);
        }
        state.routes = all;
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
        let mut routes = std::mem::take(&mut state.routes);
        routes.values_mut().flat_map(|w| &mut w.crew).for_each(Member::close);
        let mut threads = std::mem::take(&mut state.threads);
        threads.extend(state.housekeeper.take());
        drop(state);
        end_all(routes.into_values().flat_map(|w| w.idle).collect());
        for thread in threads {
            let panicked = thread.join().is_err();
            assert!(!panicked, "a thread of the warm workers panicked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock has already ended a thread, which its joiner reports.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        let mut state = self.lock();
        state.next_number = state.next_number.saturating_add(1);
        state.next_number
    }

    /// Takes a worker back after a job, or lets it go.
    fn give_back(&self, session: Session, spool: &Path) {
        let route = Arc::clone(&session.route);
        let number = session.number;
        let mut state = self.lock();
        let is_gone = !state.is_kept(&route);
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
        let is_new = is_leaving && workers.may_replace(number);
        if is_new {
            workers.replacing.push(number);
        }
        workers.idle.push(session);
        let spare = state.take_spare(&route.name);
        drop(state);
        if is_new {
            self.replace(&route, spool, number);
        }
        if let Some(session) = spare {
            self.in_thread("worker-end", move || session.end());
        }
    }

    /// Starts a successor; the old worker goes on until it is ready.
    fn replace(&self, route: &Arc<Route>, spool: &Path, old: u64) {
        let (pool, name) = (self.clone(), route.name.clone());
        let (route, spool) = (Arc::clone(route), spool.to_owned());
        let work = move || {
            let started = start(&route, &spool, pool.number(), &pool.0.stop);
            let mut state = pool.lock();
            // Also where its route went meanwhile: nobody would end it.
            let is_over = state.is_over || !state.is_kept(&route);
            let workers = state.routes.entry(route.name.clone()).or_default();
            workers.replacing.retain(|n| *n != old);
            workers.note_successor(matches!(started, Start::Ready(_)));
            let mut ends = None;
            match started {
                Start::Ready(session) if is_over => ends = Some(*session),
                // Without a successor the old one goes too, so that the next job meets the reason.
                Start::Ready(_) | Start::Failed(StartFailure { is_permanent: true, .. }) => {
                    let place = workers.idle.iter().position(|session| session.number == old);
                    let member = workers.crew.iter_mut().find(|member| member.number == old);
                    match (place, member) {
                        (Some(at), _) => ends = Some(workers.idle.remove(at)),
                        (None, Some(member)) => member.close(),
                        (None, None) => workers.replaced.push(old),
                    }
                    match started {
                        Start::Ready(session) if session.places() > 1 => {
                            pool.join_crew(&mut state, *session, &spool);
                        }
                        Start::Ready(session) => workers.idle.push(*session),
                        Start::Failed(_) | Start::Stopped => {}
                    }
                }
                // It is tried again after a wait, which grows.
                Start::Failed(_) | Start::Stopped => {}
            }
            pool.0.free.notify_all();
            drop(state);
            if let Some(session) = ends {
                session.end();
            }
        };
        let mut state = self.lock();
        if !state.spawn("worker-start", work) {
            // It goes on with the old one, and tries again.
            let workers = state.workers(&name);
            workers.replacing.retain(|n| *n != old);
            workers.note_successor(false);
        }
    }

    /// Runs something that waits, on a thread that [`Self::end`] joins.
    fn in_thread(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        // Without a thread the worker is dropped: its socket closes, and it ends by itself.
        self.lock().spawn(name, work);
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
                    if is_leaving && workers.may_replace(session.number) {
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

/// Ends idle workers at the same time: with many, one after the other would take as many times their grace, and
/// who waits for our end is less patient.
fn end_all(mut sessions: Vec<Session>) {
    sessions.iter_mut().for_each(Session::drain);
    await_all(&mut sessions);
    for session in &mut sessions {
        if !session.process.is_gone_within(Duration::ZERO) {
            session.process.ask_to_end();
        }
    }
    await_all(&mut sessions);
    for mut session in sessions {
        drop(session.process.end_now());
    }
}

/// Waits until all have ended, each for its grace at most. All are heard, so that none waits for us to read.
fn await_all(sessions: &mut [Session]) {
    let begun = Instant::now();
    let mut waits = true;
    while std::mem::take(&mut waits) {
        for session in &mut *sessions {
            let left = session.route.grace.saturating_sub(begun.elapsed());
            let is_gone = session.process.is_gone_within(left.min(limits::WORKER_ROUND));
            waits |= !is_gone && !left.is_zero();
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
