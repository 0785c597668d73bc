//! Which worker a job goes to: an idle one, a place in one that takes several, or a new one.
//!
//! Must not know: what is said to a worker.
//!
//! How many jobs at once a worker takes is known only once it is ready. So the first worker of a `warm`
//! route is started alone, and the other slots wait for it: a model that serves eight jobs must not be
//! loaded eight times. After that, and always for `python`, which takes one, as many are started at once
//! as the waiting jobs need.
//!
//! Invariants
//! - A route has no more workers than its jobs need: so many that each has a place.
//! - The suspects of a death run one after the other, each in a fresh worker that has nothing else. With
//!   `overlap = false`, where memory or a device allows one only, nothing else of the route runs
//!   meanwhile, and no worker is started before the one that goes has gone.
//! - Who waits here is woken by whatever could end the wait: a start, an end, a place that becomes free.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::crew::{self, Answer, Member};
use super::session::{After, Files, Session, Start, StartFailure, start};
use super::{State, WarmPool, Workers, start_backoff};
use crate::config::{Route, Worker, limits};
use crate::core::{FailClass, Failure, Verdict};
use crate::worker::Task;

/// Why there is no worker, with what it printed.
pub(super) type Refused = (Verdict, Vec<u8>);

/// Where a job runs.
pub(super) enum Place {
    /// In a worker that it has for itself.
    Own(Box<Session>),
    /// In one with others, which has this number.
    Shared(u64, Receiver<Answer>),
}

/// What a slot does next to find one.
enum Choice {
    Idle(Box<Session>),
    /// A place there was taken; the worker must still be looked at.
    Member(u64, Arc<Route>, Arc<Files>),
    /// Started for another time: it makes way.
    End(Box<Session>),
    Start,
    Wait,
}

impl Workers {
    fn choose(&mut self, task: &Task, is_alone: bool) -> Choice {
        let one_only = !task.route.warm.overlap;
        if is_alone {
            if one_only {
                self.crew.iter_mut().for_each(Member::close);
                if let Some(session) = self.idle.pop() {
                    return Choice::End(Box::new(session));
                }
            }
            let is_free = !one_only || self.crew.is_empty() && self.starting == 0;
            if self.runs_alone || !is_free {
                return Choice::Wait;
            }
            self.runs_alone = true;
            return Choice::Start;
        }
        if one_only && self.suspects > 0 {
            return Choice::Wait;
        }
        // One of another kind may still serve an input that was begun so, and must not go for this job.
        let is_fit = |route: &Arc<Route>| one_only || is_same(route, task);
        if let Some(at) = self.idle.iter().rposition(|session| is_fit(&session.route)) {
            self.waiting = self.waiting.saturating_sub(1);
            return Choice::Idle(Box::new(self.idle.remove(at)));
        }
        let mut crew = self.crew.iter_mut();
        if let Some(member) = crew.find(|member| member.has_place() && is_fit(&member.route)) {
            member.taken = member.taken.saturating_add(1);
            self.waiting = self.waiting.saturating_sub(1);
            let (route, files) = (Arc::clone(&member.route), Arc::clone(&member.files));
            return Choice::Member(member.number, route, files);
        }
        if one_only && self.crew.iter().any(|member| member.is_closed) {
            return Choice::Wait;
        }
        let is_needed = match (&task.route.worker, self.places) {
            (Worker::Python { .. }, _) => true,
            (_, Some(places)) => self.waiting > self.starting.saturating_mul(places),
            (_, None) => self.starting == 0,
        };
        if is_needed { Choice::Start } else { Choice::Wait }
    }

    fn member(&mut self, number: u64) -> Option<&mut Member> {
        self.crew.iter_mut().find(|member| member.number == number)
    }
}

impl WarmPool {
    /// A place for a task; with `is_alone` a fresh worker that has nothing else.
    pub(super) fn obtain(&self, task: &Task, is_alone: bool) -> Result<Place, Refused> {
        let name = &task.route.name;
        let mut state = self.lock();
        let refused_before = state.workers(name).refusals;
        let count = |state: &mut State| {
            let workers = state.workers(name);
            let count = if is_alone { &mut workers.suspects } else { &mut workers.waiting };
            *count = count.saturating_add(1);
        };
        count(&mut state);
        loop {
            match state.workers(name).choose(task, is_alone) {
                Choice::Idle(mut session) => {
                    drop(state);
                    let is_sound = is_for(&session.route, &session.files, task)
                        && session.tend(Instant::now());
                    if is_sound {
                        return Ok(Place::Own(session));
                    }
                    self.let_go(*session);
                    state = self.lock();
                    count(&mut state);
                }
                Choice::Member(number, route, files) => {
                    drop(state);
                    let is_current = is_for(&route, &files, task);
                    state = self.lock();
                    if let Some(member) = state.workers(name).member(number) {
                        if is_current && !member.is_closed {
                            return Ok(hand_over(member, task));
                        }
                        member.close();
                        member.taken = member.taken.saturating_sub(1);
                    }
                    count(&mut state);
                }
                Choice::End(session) => {
                    drop(state);
                    session.end();
                    state = self.lock();
                }
                Choice::Start => {
                    let workers = state.workers(name);
                    workers.starting = workers.starting.saturating_add(1);
                    drop(state);
                    let started = self.start(task);
                    return self.settle_start(task, is_alone, started);
                }
                Choice::Wait => {
                    state = self.0.free.wait(state).unwrap_or_else(PoisonError::into_inner);
                    let workers = state.workers(name);
                    let refused = (workers.refusals > refused_before)
                        .then(|| workers.refused.clone())
                        .flatten();
                    let refused = match refused {
                        Some((reason, detail)) => Some((Verdict::Misconfigured { reason }, detail)),
                        None if self.0.stop.is_stopped() => Some((Verdict::Released, Vec::new())),
                        None => None,
                    };
                    if let Some(refused) = refused {
                        uncount(state.workers(name), is_alone);
                        return Err(refused);
                    }
                }
            }
        }
    }

    /// The end of a start: all who wait hear of it.
    fn settle_start(
        &self,
        task: &Task,
        is_alone: bool,
        started: Result<Session, Refused>,
    ) -> Result<Place, Refused> {
        let mut state = self.lock();
        let workers = state.workers(&task.route.name);
        workers.starting = workers.starting.saturating_sub(1);
        let place = match started {
            Ok(session) => {
                workers.places = Some(session.places());
                if is_alone {
                    // Still a suspect, until its job is over.
                    Ok(Place::Own(Box::new(session)))
                } else {
                    uncount(workers, false);
                    self.seat(&mut state, session, task)
                }
            }
            Err(refused) => {
                uncount(workers, is_alone);
                workers.runs_alone &= !is_alone;
                if let (Verdict::Misconfigured { reason }, detail) = &refused {
                    workers.refusals = workers.refusals.saturating_add(1);
                    workers.refused = Some((reason.clone(), detail.clone()));
                }
                Err(refused)
            }
        };
        self.0.free.notify_all();
        place
    }

    /// The place of a task in a worker that was started for it.
    fn seat(
        &self,
        state: &mut MutexGuard<'_, State>,
        session: Session,
        task: &Task,
    ) -> Result<Place, Refused> {
        if session.places() == 1 {
            return Ok(Place::Own(Box::new(session)));
        }
        let (name, number) = (session.route.name.clone(), session.number);
        self.join_crew(state, session, &task.spool);
        let Some(member) = state.workers(&name).member(number) else {
            let why = "no thread can be started for its worker";
            return Err((Verdict::Failed(Failure::new(FailClass::TryAgain, why)), Vec::new()));
        };
        member.taken = 1;
        Ok(hand_over(member, task))
    }

    /// From now on the worker has a thread of its own, and places for jobs.
    pub(super) fn join_crew(&self, state: &mut State, mut session: Session, spool: &Path) {
        let Ok((member, orders)) = Member::new(&mut session) else { return };
        let (pool, spool) = (self.clone(), spool.to_owned());
        let name = session.route.name.clone();
        let work = move || crew::serve(session, orders, pool, spool);
        if state.spawn("worker", work) {
            state.workers(&name).crew.push(member);
        }
    }

    /// An idle worker that is of no use any more.
    fn let_go(&self, session: Session) {
        if session.route.warm.overlap {
            self.in_thread("worker-end", move || session.end());
        } else {
            // Memory or a device allows one only.
            session.end();
        }
    }

    /// A slot's job in a worker with others is over.
    pub(super) fn free_place(&self, route: &Arc<Route>, number: u64) {
        let mut state = self.lock();
        // It may have become ready when its route was no more.
        let is_kept = state.is_kept(route);
        if let Some(member) = state.workers(&route.name).member(number) {
            member.taken = member.taken.saturating_sub(1);
            if !is_kept {
                member.close();
            }
        }
        drop(state);
        self.0.free.notify_all();
    }

    /// A suspect's job is over; its worker may serve others, where there is none.
    pub(super) fn end_alone(&self, session: Session, after: &After, spool: &Path) {
        let name = session.route.name.clone();
        let mut state = self.lock();
        let has_other = state.workers(&name).crew.iter().any(|member| !member.is_closed);
        let is_leaving = session.leaves.is_some() || !state.is_kept(&session.route);
        let is_of_use = *after == After::Alive && !is_leaving && session.places() > 1;
        if is_of_use && !has_other {
            self.join_crew(&mut state, session, spool);
        } else if *after == After::Alive {
            drop(state);
            session.end();
            state = self.lock();
        }
        let workers = state.workers(&name);
        workers.runs_alone = false;
        uncount(workers, true);
        self.0.free.notify_all();
    }

    /// No more jobs go to this worker.
    pub(super) fn close(&self, route: &str, number: u64) {
        if let Some(member) = self.lock().workers(route).member(number) {
            member.close();
        }
    }

    /// The same, unless a job is on its way to it.
    pub(super) fn close_if_idle(&self, route: &str, number: u64) {
        if let Some(member) = self.lock().workers(route).member(number)
            && member.taken == 0
        {
            member.close();
        }
    }

    /// A worker with places is to be replaced: at once, or when its successor is ready.
    pub(super) fn leaving(&self, route: &Arc<Route>, number: u64, spool: &Path) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        let is_kept = state.is_kept(route);
        let workers = state.workers(&route.name);
        if !is_kept || !route.warm.overlap {
            workers.crew.iter_mut().filter(|m| m.number == number).for_each(Member::close);
            return;
        }
        if workers.may_replace(number) {
            workers.replacing.push(number);
            drop(state);
            self.replace(route, spool, number);
        }
    }

    /// A worker with places is gone.
    pub(super) fn gone(&self, route: &str, number: u64) {
        self.lock().workers(route).crew.retain(|member| member.number != number);
        self.0.free.notify_all();
    }

    /// Starts a worker for a task, and again after a wait if that failed and may not fail for ever.
    fn start(&self, task: &Task) -> Result<Session, Refused> {
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

    /// Counts failed starts in a row, over all slots; returns how many there are now.
    fn note_start(&self, route: &Route, is_good: bool) -> u32 {
        let mut state = self.lock();
        let workers = state.workers(&route.name);
        workers.failed_starts = if is_good { 0 } else { workers.failed_starts.saturating_add(1) };
        workers.failed_starts
    }
}

/// Whether a worker is the one that the task's route asks for now.
fn is_for(route: &Arc<Route>, files: &Files, task: &Task) -> bool {
    is_same(route, task) && files.are_current()
}

fn is_same(route: &Arc<Route>, task: &Task) -> bool {
    Arc::ptr_eq(route, &task.route) || route.works_like(&task.route)
}

fn hand_over(member: &Member, task: &Task) -> Place {
    let (say, hear) = sync_channel(1);
    member.give(task.clone(), say);
    Place::Shared(member.number, hear)
}

fn uncount(workers: &mut Workers, is_alone: bool) {
    let count = if is_alone { &mut workers.suspects } else { &mut workers.waiting };
    *count = count.saturating_sub(1);
}
