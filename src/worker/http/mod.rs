//! Kind `http`: a runner that serves is asked about each file; where it is ours, it is also kept alive.
//!
//! Must not know: the spool's moves, the journal, why a task was chosen.
//!
//! The rooms: `fill` makes a request from a task, `client` sends it, `wire` moves its bytes so that a
//! stop ends every wait, `answer` says what came back means, `pointer` finds things in JSON, `runner`
//! starts and ends what `start` names. Here is what all slots share.
//!
//! Invariants
//! - A job's request and the restart of its runner exclude each other: requests hold the runner's lock
//!   for reading, a start or an end holds it for writing.
//! - A failed start charges no job. A permanent one pauses the route, as do
//!   [`limits::FAILED_STARTS`] in a row; a runner that dies before it answered anything counts as one.
//! - A runner is not started before that of a route that is no more has left its address. One that is started for a
//!   job which such a route still had ends with that job: nobody else would end it.
//! - What pauses the route is the answer to all that waited for that start: each with starts of its own
//!   would hold its slot as long again, and with it other routes.
//! - A job that is alone with a runner of ours when that dies is charged to *crash*. Of several nobody knows
//!   which it was: each runs again alone, with the runner to itself, and pays for what it does there. (The
//!   runner of such a run is not always a fresh one, as a warm worker is: it may take minutes to load.)

mod answer;
mod client;
mod fill;
mod pointer;
mod runner;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use self::client::{Asked, Client};
use self::runner::{Death, NoRunner, Runner};
use super::warm::start_backoff;
use super::{Ended, Stop, Task};
use crate::config::request::origin;
use crate::config::{Route, Worker, limits};
use crate::core::{FailClass, Failure, Verdict};

/// The runners of all routes and the connections to them; clones are the same, one a slot.
#[derive(Clone, Debug)]
pub struct HttpPool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stop: Stop,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// After a reload: the routes whose runners are ours. Those of others stay for no longer than their jobs.
    kept: Option<BTreeSet<String>>,
    clients: BTreeMap<String, Arc<Client>>,
    runners: BTreeMap<String, Arc<Place>>,
    /// Ends of runners that are under way.
    threads: Vec<Leaving>,
}

/// A runner that is being ended.
#[derive(Debug)]
struct Leaving {
    /// The address that it still serves.
    served: String,
    place: Arc<Place>,
    thread: JoinHandle<()>,
}

/// Where the runner of a route stands.
#[derive(Debug, Default)]
struct Place {
    runner: RwLock<Option<Runner>>,
    /// Starts that failed and deaths, in a row. After a pause one start more is tried: several would hold
    /// the slot of the one job that looks, and with it other routes, for most of the time.
    failed: AtomicU32,
    /// Requests under way, and all that ever began.
    flying: AtomicU64,
    begun: AtomicU64,
    refused: Mutex<Refused>,
}

/// Starts that failed for good, and what the last one said.
#[derive(Debug, Default)]
struct Refused {
    times: u64,
    last: Option<(Arc<Route>, String, Vec<u8>)>,
}

/// What a request finds when it begins: others under way, and its number.
struct Company(bool, u64);

impl Place {
    fn enter(&self) -> Company {
        let has_others = self.flying.fetch_add(1, Ordering::Relaxed) > 0;
        Company(has_others, self.begun.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether another request was under way at the same time.
    fn leave(&self, Company(had_others, number): Company) -> bool {
        self.flying.fetch_sub(1, Ordering::Relaxed);
        had_others || self.begun.load(Ordering::Relaxed) > number.saturating_add(1)
    }

    fn lock_refused(&self) -> MutexGuard<'_, Refused> {
        // A panic under this lock has already ended a thread, which its joiner reports.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No runner of this route can be started.
    fn refuse(&self, route: &Arc<Route>, reason: String, detail: Vec<u8>) -> (Verdict, Vec<u8>) {
        let mut refused = self.lock_refused();
        refused.times = refused.times.saturating_add(1);
        refused.last = Some((Arc::clone(route), reason.clone(), detail.clone()));
        (Verdict::Misconfigured { reason }, detail)
    }

    /// What was said to another who waited for the same start, since there were so many refusals.
    fn refused_since(&self, before: u64, route: &Arc<Route>) -> Option<(Verdict, Vec<u8>)> {
        let refused = self.lock_refused();
        let (of, reason, detail) = refused.last.as_ref().filter(|_| refused.times > before)?;
        let is_same = Arc::ptr_eq(of, route) || of.works_like(route);
        is_same.then(|| (Verdict::Misconfigured { reason: reason.clone() }, detail.clone()))
    }
}

impl State {
    /// Ends a runner, once the jobs are over that hold it; that takes its grace.
    fn end_runner(&mut self, served: String, place: Arc<Place>) {
        let its = Arc::clone(&place);
        let spawned = Builder::new().name("runner-end".to_owned()).spawn(move || {
            drop(its.runner.write().unwrap_or_else(PoisonError::into_inner).take());
        });
        self.threads.retain(|it| !it.thread.is_finished());
        self.threads.extend(spawned.map(|thread| Leaving { served, place, thread }));
    }

    /// Whether the runner of a route that is no more is at this route's address: it ends, or has jobs under way.
    /// Not the one of this place, whose end waits for who asks.
    fn is_served_by_another(&self, route: &Route, place: &Place) -> bool {
        let at = address(route);
        let is_gone = |name: &str| self.kept.as_ref().is_some_and(|kept| !kept.contains(name));
        let has_jobs = |name: &String| {
            let client = self.clients.get(name);
            *name != route.name
                && is_gone(name)
                && client.is_some_and(|it| address(&it.route) == at)
        };
        let is_ending = |it: &Leaving| {
            let is_its = std::ptr::eq(Arc::as_ptr(&it.place), place);
            it.served == at && !is_its && !it.thread.is_finished()
        };
        self.threads.iter().any(is_ending) || self.runners.keys().any(has_jobs)
    }
}

impl HttpPool {
    /// Without connections or runners. `stop` ends requests and starts.
    pub fn new(stop: &Stop) -> Self {
        Self(Arc::new(Shared { stop: stop.clone(), state: Mutex::default() }))
    }

    /// Runs one attempt to its end, blocking.
    pub(super) fn run(&self, task: &Task) -> Ended {
        if self.0.stop.is_stopped() {
            return ended(Verdict::Released, Vec::new());
        }
        let client = match self.client(&task.route) {
            Ok(client) => client,
            Err(reason) => return ended(Verdict::Misconfigured { reason }, Vec::new()),
        };
        if task.route.http.start.is_none() {
            let Asked { verdict, rows, body, .. } = client.ask(task);
            return Ended { rows, ..ended(verdict, body) };
        }
        let place = self.place(&task.route.name);
        let ended = self.run_at(task, &client, &place);
        self.let_go(&task.route, &place);
        ended
    }

    /// The same with a runner of ours.
    fn run_at(&self, task: &Task, client: &Client, place: &Place) -> Ended {
        let refused_before = place.lock_refused().times;
        loop {
            let standing = place.runner.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(runner) = standing.as_ref().filter(|runner| is_sound(runner, task)) {
                let company = place.enter();
                let asked = client.ask(task);
                // Under way until it is known: who begins meanwhile finds the same dead runner, and is
                // in company with this one.
                let death = death(&asked, runner, place);
                let had_company = place.leave(company);
                if death.is_none() || !had_company {
                    return concluded(asked, death, runner);
                }
                drop(standing);
                return self.ask_alone(task, client, place, refused_before);
            }
            drop(standing);
            let mut standing = place.runner.write().unwrap_or_else(PoisonError::into_inner);
            let started = self.start(task, place, &mut standing, refused_before);
            if let Err((verdict, detail)) = started {
                return ended(verdict, detail);
            }
        }
    }

    /// Asks again about a task that may have killed its runner, with nothing else under way.
    fn ask_alone(&self, task: &Task, client: &Client, place: &Place, refused_before: u64) -> Ended {
        let mut standing = place.runner.write().unwrap_or_else(PoisonError::into_inner);
        // A death in company is not counted: whether this task dies again is seen now.
        drop(standing.take_if(|runner| !is_sound(runner, task)));
        if let Err((verdict, detail)) = self.start(task, place, &mut standing, refused_before) {
            return ended(verdict, detail);
        }
        let Some(runner) = standing.as_ref() else {
            return ended(Verdict::Released, Vec::new());
        };
        let asked = client.ask(task);
        let death = death(&asked, runner, place);
        concluded(asked, death, runner)
    }

    /// From now on only these routes have runners of ours, and those and the others connections.
    pub fn keep_only(&self, routes: &BTreeSet<String>, others: &BTreeSet<String>) {
        let mut state = self.lock();
        state.kept = Some(routes.clone());
        let gone: Vec<String> =
            state.runners.keys().filter(|name| !routes.contains(*name)).cloned().collect();
        for name in gone {
            let Some(place) = state.runners.remove(&name) else { continue };
            let served = state.clients.get(&name).map(|client| address(&client.route).to_owned());
            state.end_runner(served.unwrap_or_default(), place);
        }
        state.clients.retain(|name, _| routes.contains(name) || others.contains(name));
    }

    /// A job of this route is over. Where the route is no more, its runner goes with the last of those under way.
    fn let_go(&self, route: &Arc<Route>, place: &Arc<Place>) {
        let mut state = self.lock();
        let is_kept = state.kept.as_ref().is_none_or(|kept| kept.contains(&route.name));
        if is_kept || place.flying.load(Ordering::Relaxed) > 0 {
            return;
        }
        state.runners.retain(|_, it| !Arc::ptr_eq(it, place));
        if !place.runner.try_read().is_ok_and(|runner| runner.is_none()) {
            state.end_runner(address(route).to_owned(), Arc::clone(place));
        }
    }

    /// Waits for the runner of a route that is no more: one that is called otherwise now, or came back, asks
    /// for the same port.
    fn await_ends(&self, route: &Arc<Route>, place: &Place) -> Result<(), (Verdict, Vec<u8>)> {
        let at = address(route);
        let due = Instant::now().checked_add(route.warm.start_timeout);
        loop {
            if !self.lock().is_served_by_another(route, place) {
                return Ok(());
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                let who = "the runner of a route that is no more";
                let reason = format!("{at} is still served by {who}, which has jobs under way");
                return Err(place.refuse(route, reason, Vec::new()));
            }
            if !self.0.stop.wait(limits::READY_EVERY) {
                return Err((Verdict::Released, Vec::new()));
            }
        }
    }

    /// Ends all runners. Nothing runs any more when it is called.
    pub fn end(&self) {
        self.keep_only(&BTreeSet::new(), &BTreeSet::new());
        let threads = std::mem::take(&mut self.lock().threads);
        for Leaving { thread, .. } in threads {
            let panicked = thread.join().is_err();
            assert!(!panicked, "a thread that ends a runner panicked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock has already ended a thread, which its joiner reports.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self, route: &Arc<Route>) -> Result<Arc<Client>, String> {
        let mut state = self.lock();
        if let Some(client) = state.clients.get(&route.name)
            && (Arc::ptr_eq(&client.route, route) || client.route.works_like(route))
        {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(Client::new(route, &self.0.stop)?);
        state.clients.insert(route.name.clone(), Arc::clone(&client));
        Ok(client)
    }

    fn place(&self, route: &str) -> Arc<Place> {
        Arc::clone(self.lock().runners.entry(route.to_owned()).or_default())
    }

    /// Sees to it that there is a sound runner, unless another slot just did.
    fn start(
        &self,
        task: &Task,
        place: &Place,
        standing: &mut Option<Runner>,
        refused_before: u64,
    ) -> Result<(), (Verdict, Vec<u8>)> {
        if standing.as_ref().is_some_and(|runner| is_sound(runner, task)) {
            return Ok(());
        }
        if let Some(refused) = place.refused_since(refused_before, &task.route) {
            return Err(refused);
        }
        // The old one is gone before the new one asks for its port.
        if let Some(old) = standing.take()
            && let Some(death) = old.death(Duration::ZERO)
        {
            let failed = place.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let detail = old.take_log();
            drop(old);
            if failed >= limits::FAILED_STARTS {
                let reason = format!("the runner died {failed} times in a row: {}", death.how);
                return Err(place.refuse(&task.route, reason, detail));
            }
            self.wait(failed)?;
        }
        self.await_ends(&task.route, place)?;
        loop {
            match Runner::start(&task.route, &task.spool, &self.0.stop) {
                Ok(runner) => {
                    *standing = Some(runner);
                    return Ok(());
                }
                Err(NoRunner::Stopped) => return Err((Verdict::Released, Vec::new())),
                Err(NoRunner::Failed { is_permanent, reason, detail }) => {
                    let failed = place.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                    if is_permanent || failed >= limits::FAILED_STARTS {
                        return Err(place.refuse(&task.route, reason, detail));
                    }
                    self.wait(failed)?;
                }
            }
        }
    }

    fn wait(&self, failed: u32) -> Result<(), (Verdict, Vec<u8>)> {
        let went = self.0.stop.wait(start_backoff(failed));
        if went { Ok(()) } else { Err((Verdict::Released, Vec::new())) }
    }
}

/// Scheme, host and port that a route asks.
fn address(route: &Route) -> &str {
    match &route.worker {
        Worker::Http { url } => origin(url),
        _ => "",
    }
}

fn is_sound(runner: &Runner, task: &Task) -> bool {
    runner.is_for(&task.route, &task.spool) && runner.death(Duration::ZERO).is_none()
}

/// A connection that broke because the runner died is that death.
fn death(asked: &Asked, runner: &Runner, place: &Place) -> Option<Death> {
    if asked.is_cut_off {
        return runner.death(limits::RUNNER_DEATH);
    }
    // It answered, so it is a runner that works.
    place.failed.store(0, Ordering::Relaxed);
    None
}

/// The end of a task that is alone to blame for what its runner did.
fn concluded(asked: Asked, death: Option<Death>, runner: &Runner) -> Ended {
    let verdict = match death {
        None => asked.verdict,
        Some(death) => {
            let reason = format!("the runner died: {}", death.how);
            Verdict::Failed(Failure::new(FailClass::Crash, reason))
        }
    };
    let log = runner.take_log();
    Ended { rows: asked.rows, log, ..ended(verdict, asked.body) }
}

/// An end with what is to be kept of it.
fn ended(verdict: Verdict, stderr: Vec<u8>) -> Ended {
    Ended { verdict, rows: Vec::new(), log: Vec::new(), stderr, took: Duration::ZERO }
}

pub use self::client::missing_variables;

/// Whether something answers at the address of an `http` route now: scheme, host and port, else why not.
pub fn find_runner(route: &Route, stop: &Stop) -> Result<String, String> {
    runner::is_there(route, stop)
}

#[cfg(test)]
mod tests;
