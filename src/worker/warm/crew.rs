//! A worker that takes several jobs at once: a thread owns it, slots hand it jobs and wait.
//!
//! The number of jobs at once stays that of the slots: a worker that says `concurrency` 8 is one process
//! for up to eight of them. What is not known here: which worker a job goes to (`places` decides).
//!
//! Invariants
//! - The thread alone speaks to the worker and decides when it goes. Each job that was handed over has one
//!   [`Answer`], and it comes after the worker is gone where the job is to run again.
//! - Rows, deadlines and logs are each job's own. What a worker prints, and a log message without an id,
//!   is of nobody: each job in flight has it in its log.
//! - A worker that dies, breaks the protocol or goes deaf charges nobody: those of its jobs that it had
//!   started (all, if it names none) run again, each alone in a fresh worker, where the rules of one job
//!   hold. So does not a neighbour of a job that was ended at its deadline: that one is to blame.
//! - A worker that is to be replaced finishes all its jobs first.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::WarmPool;
use super::job::{Job, Step, log_line};
use super::message::{Message, Say, read, write};
use super::session::{Files, Session, id_of, job_line, take, whole};
use crate::config::{Route, limits};
use crate::core::{FailClass, Failure, Row, Verdict};
use crate::worker::tail::Tail;
use crate::worker::{Ended, Task};

/// What the thread is told.
pub(super) enum Order {
    /// One job more.
    Job(Box<Task>, SyncSender<Answer>),
    /// No more come: finish and go.
    Close,
}

/// What a slot is told of its job.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is over.
    Over(Box<Ended>),
    /// The worker went, and not because of this job: it begins anew.
    Again,
    /// The worker went, perhaps because of this job: it begins anew, alone.
    Suspect,
}

/// Ends the thread's wait. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(super) fn ring(&self) {
        match rustix::io::write(&*self.0, &1u64.to_ne_bytes()) {
            // It fails only where it has been rung very often and was not heard yet.
            Ok(_) | Err(_) => {}
        }
    }

    /// Until it is rung again.
    pub(super) fn quiet(&self) {
        match rustix::io::read(&*self.0, &mut [0u8; 8][..]) {
            Ok(_) | Err(_) => {}
        }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// A job in flight.
struct Flight {
    job: Job,
    answer: SyncSender<Answer>,
    timeout: Option<Instant>,
    progress_due: Option<Instant>,
    /// Why it is over time, once it is, and when the patience with its `cancel` ends.
    late: Option<(String, Option<Instant>)>,
    has_started: bool,
    log: Tail,
    stderr: Tail,
}

/// Why we end the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Stop,
    /// A job is over time and does not let itself be cancelled.
    Late,
    /// It is of no use any more.
    Broken,
}

/// One worker's life, on its thread.
pub(super) struct Crew {
    session: Session,
    orders: Receiver<Order>,
    flights: BTreeMap<String, Flight>,
    pool: WarmPool,
    spool: PathBuf,
    is_closed: bool,
    /// The pool was told that it should be replaced.
    has_told: bool,
    /// All were told `cancel` because we are stopped; TERM is due then.
    stop_due: Option<Instant>,
    /// TERM was sent, for this reason; then KILL is due, and after that it is not waited for.
    ending: Option<(Why, Option<Instant>)>,
    is_killed: bool,
    closed_due: Option<Instant>,
}

/// Serves until the worker is gone or told to go.
pub(super) fn serve(session: Session, orders: Receiver<Order>, pool: WarmPool, spool: PathBuf) {
    let mut crew = Crew {
        session,
        orders,
        flights: BTreeMap::new(),
        pool,
        spool,
        is_closed: false,
        has_told: false,
        stop_due: None,
        ending: None,
        is_killed: false,
        closed_due: None,
    };
    let is_sound = crew.work();
    let (route, number) = (Arc::clone(&crew.session.route), crew.session.number);
    crew.pool.close(&route.name, number);
    if is_sound {
        crew.session.drain();
        drop(crew.session.process.end(route.grace, route.grace));
    } else {
        drop(crew.session.process.end(Duration::ZERO, route.grace));
    }
    crew.give_answers();
    // After the close none comes any more.
    for order in crew.orders.try_iter() {
        if let Order::Job(_, answer) = order {
            drop(answer.send(Answer::Again));
        }
    }
    crew.pool.gone(&route.name, number);
}

impl Crew {
    /// Until it has gone (`false`), or has nothing to do and is to go.
    fn work(&mut self) -> bool {
        loop {
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    Order::Job(_, answer) if self.is_ending() => drop(answer.send(Answer::Again)),
                    Order::Job(task, answer) => self.begin(&task, answer),
                    Order::Close => self.is_closed = true,
                }
            }
            if self.session.leaves.is_some() && !self.has_told {
                self.has_told = true;
                let Session { route, number, .. } = &self.session;
                self.pool.leaving(route, *number, &self.spool);
            }
            let goes_on =
                if self.flights.is_empty() { self.rest() } else { self.converse().then_some(true) };
            match goes_on {
                Some(true) => {}
                Some(false) => return true,
                None => return false,
            }
        }
    }

    /// Without a job. `None`: it is of no use any more; `Some(false)`: it may go.
    fn rest(&mut self) -> Option<bool> {
        if self.ending.is_some() {
            return None;
        }
        if self.is_closed {
            return Some(false);
        }
        self.session.process.round(None, Instant::now().checked_add(limits::IDLE_LOOK));
        let now = Instant::now();
        let is_sound = self.session.tend(now);
        if is_sound && self.session.is_idle_too_long(now) {
            self.pool.close_if_idle(&self.session.route.name, self.session.number);
        }
        is_sound.then_some(true)
    }

    fn begin(&mut self, task: &Task, answer: SyncSender<Answer>) {
        let route = Arc::clone(&self.session.route);
        let now = Instant::now();
        let (most, require) = (route.warm.max_staged, route.require_output);
        let job = Job::new(id_of(task), &self.session.ready, &task.scratch, most, require);
        let line = match job_line(&job, task) {
            Ok(line) => line,
            Err(reason) => {
                let failure = Failure::new(FailClass::Permanent, reason);
                let ended = Ended::without_rows(Verdict::Failed(failure));
                return drop(answer.send(Answer::Over(Box::new(ended))));
            }
        };
        self.share_prints();
        self.session.begin_job();
        self.session.process.send(&line);
        let flight = Flight {
            job,
            answer,
            timeout: now.checked_add(route.timeout),
            progress_due: self.patience().and_then(|time| now.checked_add(time)),
            late: None,
            has_started: false,
            log: Tail::new(limits::LOG_KEPT),
            stderr: Tail::new(limits::STDERR_KEPT),
        };
        self.flights.insert(flight.job.id().to_owned(), flight);
    }

    fn patience(&self) -> Option<Duration> {
        self.session.route.warm.progress_timeout.filter(|_| self.session.ready.has("progress"))
    }

    /// One round with jobs in flight; `false`: it is gone, or of no use any more.
    fn converse(&mut self) -> bool {
        let stop = self.pool.stop();
        let listen = (!self.is_ending()).then_some(&stop);
        let round = self.session.process.round(listen, self.due());
        while let Some(frame) = self.session.process.next_frame() {
            let Ok(line) = whole(frame) else { return self.is_broken() };
            let Ok(message) = read(&line) else { return self.is_broken() };
            self.hear(message);
        }
        self.share_prints();
        if round.is_gone {
            return false;
        }
        let now = Instant::now();
        if self.session.process.is_closed() && self.closed_due.is_none() {
            self.closed_due = now.checked_add(limits::WORKER_CLOSED);
        }
        if round.is_stopped {
            self.cancel_all();
        } else if is_past(self.stop_due, now) {
            self.end(Why::Stop);
        } else if round.is_stuck || is_past(self.closed_due, now) {
            self.end(Why::Broken);
        }
        self.look_at_deadlines(now);
        if let Some((_, due)) = &mut self.ending
            && is_past(*due, now)
        {
            if std::mem::replace(&mut self.is_killed, true) {
                return false;
            }
            *due = self.session.process.kill();
        }
        true
    }

    fn is_ending(&self) -> bool {
        self.ending.is_some() || self.stop_due.is_some()
    }

    fn is_broken(&mut self) -> bool {
        self.end(Why::Broken);
        false
    }

    /// When this wait must be over.
    fn due(&self) -> Option<Instant> {
        let of = |flight: &Flight| match &flight.late {
            Some((_, due)) => *due,
            None => [flight.timeout, flight.progress_due].into_iter().flatten().min(),
        };
        if let Some((_, kill_due)) = &self.ending {
            return *kill_due;
        }
        self.flights.values().filter_map(of).chain(self.closed_due).chain(self.stop_due).min()
    }

    fn hear(&mut self, message: Message<'_>) {
        let Some(id) = message.job().map(str::to_owned) else {
            match message {
                Message::Log(line) => self.session.process.log.push(&log_line(&line)),
                Message::Recycle { reason } => self.session.leaves = Some(reason),
                Message::Ready(_) | Message::InitError(_) => {
                    self.session.leaves = Some("it began anew".to_owned());
                }
                // An answer to a ping that crossed a job on its way.
                Message::Pong { .. } | Message::Bye => {}
                _ => self.session.ignored = self.session.ignored.saturating_add(1),
            }
            return;
        };
        let patience = self.patience();
        let Some(flight) = self.flights.get_mut(&id) else {
            self.session.ignored = self.session.ignored.saturating_add(1);
            return;
        };
        flight.has_started |= matches!(message, Message::Started { .. });
        let Flight { job, log, .. } = flight;
        match job.hear(message, &mut |text| log.push(text)) {
            Step::Progress => {
                flight.progress_due = patience.and_then(|time| Instant::now().checked_add(time));
            }
            Step::Over(over) => {
                self.session.process.take_prints();
                self.share_prints();
                if let Some(mut flight) = self.flights.remove(&id) {
                    flight.stderr.push(over.detail.as_bytes());
                    flight.answer(over.verdict, over.rows);
                }
                self.session.end_job();
                self.session.look_after_job();
                // Where the start of a successor failed, another is tried after this job.
                self.has_told = false;
            }
            Step::Go | Step::Leave(_) | Step::Ignored => {}
        }
    }

    /// What was printed since this was last asked, to each job in flight.
    fn share_prints(&mut self) {
        let process = &mut self.session.process;
        let out = take(&mut process.log, limits::LOG_KEPT);
        let err = take(&mut process.stderr, limits::STDERR_KEPT);
        if self.flights.is_empty() {
            // While it was loaded or idle: kept for the next job, and no reason of its failure.
            process.log.push(&out);
            process.log.push(&err);
        }
        for flight in self.flights.values_mut() {
            flight.log.push(&out);
            flight.stderr.push(&err);
        }
    }

    fn look_at_deadlines(&mut self, now: Instant) {
        let grace = self.session.route.grace;
        let can_cancel = self.session.ready.has("cancel");
        let (timeout, patience) = (self.session.route.timeout, self.patience());
        let mut is_over = false;
        let mut cancelled = Vec::new();
        for (id, flight) in &mut self.flights {
            if let Some((_, due)) = &flight.late {
                is_over |= is_past(*due, now);
                continue;
            }
            let reason = if is_past(flight.timeout, now) {
                format!("timed out after {}", humantime::format_duration(timeout))
            } else if is_past(flight.progress_due, now) {
                let time = humantime::format_duration(patience.unwrap_or_default());
                format!("no progress for {time}")
            } else {
                continue;
            };
            flight.late = Some((reason, now.checked_add(grace)));
            cancelled.push(id.clone());
        }
        if can_cancel {
            for id in cancelled {
                self.cancel(&id, "timeout");
            }
        } else {
            is_over |= !cancelled.is_empty();
        }
        if is_over {
            self.end(Why::Late);
        }
    }

    fn cancel(&mut self, id: &str, reason: &'static str) {
        let grace_ms = u64::try_from(self.session.route.grace.as_millis()).unwrap_or(u64::MAX);
        let said = write(&Say::Cancel { id, reason, grace_ms });
        self.session.process.send(&said.unwrap_or_default());
    }

    /// We are stopped: `cancel` where the worker knows it, else TERM.
    fn cancel_all(&mut self) {
        if !self.session.ready.has("cancel") {
            return self.end(Why::Stop);
        }
        let ids: Vec<String> = self.flights.keys().cloned().collect();
        for id in ids {
            self.cancel(&id, "drain");
        }
        self.stop_due = Instant::now().checked_add(self.session.route.grace);
    }

    fn end(&mut self, why: Why) {
        if self.ending.is_none() {
            self.pool.close(&self.session.route.name, self.session.number);
            self.session.process.ask_to_end();
            self.ending = Some((why, Instant::now().checked_add(self.session.route.grace)));
        }
    }

    /// The worker and its group are gone: what becomes of its jobs.
    fn give_answers(&mut self) {
        self.share_prints();
        let stopped = self.stop_due.map_or(Why::Broken, |_| Why::Stop);
        let why = self.ending.map_or(stopped, |(why, _)| why);
        let names_some = self.flights.values().any(|flight| flight.has_started);
        for flight in std::mem::take(&mut self.flights).into_values() {
            let is_suspect = flight.has_started || !names_some;
            match (flight.late.clone(), why) {
                (Some((reason, _)), _) => {
                    let failure = Failure::new(FailClass::Timeout, reason);
                    flight.answer(Verdict::Failed(failure), Vec::new());
                }
                (None, Why::Stop) => flight.answer(Verdict::Released, Vec::new()),
                (None, Why::Broken) if is_suspect => drop(flight.answer.send(Answer::Suspect)),
                (None, _) => drop(flight.answer.send(Answer::Again)),
            }
        }
    }
}

impl Flight {
    fn answer(self, verdict: Verdict, rows: Vec<Row>) {
        let (log, stderr) = (self.log.finish(), self.stderr.finish());
        let ended = Ended { rows, log, stderr, ..Ended::without_rows(verdict) };
        // A slot waits for it as long as it lives.
        drop(self.answer.send(Answer::Over(Box::new(ended))));
    }
}

fn is_past(due: Option<Instant>, now: Instant) -> bool {
    due.is_some_and(|due| now >= due)
}

/// What the pool knows of such a worker.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) number: u64,
    pub(super) route: Arc<Route>,
    pub(super) files: Arc<Files>,
    /// Jobs that it has.
    pub(super) taken: usize,
    pub(super) is_closed: bool,
    orders: Sender<Order>,
    bell: Bell,
    places: usize,
}

impl Member {
    /// A worker that takes several jobs, and what its thread needs.
    pub(super) fn new(session: &mut Session) -> io::Result<(Self, Receiver<Order>)> {
        let bell = Bell::new()?;
        session.process.listen_to(bell.clone());
        let (orders, receive) = std::sync::mpsc::channel();
        let member = Self {
            number: session.number,
            route: Arc::clone(&session.route),
            files: Arc::clone(&session.files),
            taken: 0,
            is_closed: false,
            orders,
            bell,
            places: session.places(),
        };
        Ok((member, receive))
    }

    pub(super) fn has_place(&self) -> bool {
        !self.is_closed && self.taken < self.places
    }

    /// Hands over a job, in a place that was taken for it.
    pub(super) fn give(&self, task: Task, answer: SyncSender<Answer>) {
        // The thread takes orders until it has taken itself out of the pool.
        drop(self.orders.send(Order::Job(Box::new(task), answer)));
        self.bell.ring();
    }

    pub(super) fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            drop(self.orders.send(Order::Close));
            self.bell.ring();
        }
    }
}
