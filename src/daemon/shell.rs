//! The shell: puts keeper, pool and socket together and listens to signals. The only async code.
//!
//! Order at start: the lock, then the end of whatever an earlier daemon left running, then recovery,
//! then the first scan; only then is it ready. Order at the end: nothing runs, all is settled and
//! durable, the socket is gone, and the lock goes last, with the process.
//!
//! Must not know: the command line, the terminal. What there is to say goes to `tell`, which must not
//! wait for who reads it: signals are heard, and commands answered, on the same thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::{broadcast, oneshot};

use crate::config::{Settings, limits};
use crate::fs::{RealFs, real::RealDir};
use crate::journal::JournalError;
use crate::journal::waiting::Waiting;
use crate::spool::import::How;
use crate::spool::lock::LockError;
use crate::worker::Stop;

use super::along::Followers;
use super::children;
use super::control;
use super::history::History;
use super::intake::Intake;
use super::keeper::{Keeper, KeeperError};
use super::notice::Notice;
use super::pool::{Notes, Pool};
use super::readiness::{self, Progress};
use super::recover::Report;
use super::reload::{Follow, Reload, Reloader, RouteRefused};
use super::retention::{Retention, Rules};
use super::service::{Listener, LoopState, Message, Mode, Service, SourcesSeen, Status, Summary};
use super::stager::Stager;
use super::supervisor::Leash;
use opened::boot_id;

mod opened;

pub use opened::{Opened, check_places, check_user, open, random, recover_spool};

/// Notices kept for a listener that is slow; what it misses is counted for it.
const NOTICES: usize = 1024;

/// What is to be served, and how.
#[derive(Debug)]
pub struct Options {
    /// The spool.
    pub spool: PathBuf,
    /// Its settings.
    pub settings: Settings,
    /// When it ends by itself.
    pub mode: Mode,
    /// Sources of `batch`.
    pub sources: Option<SourceOptions>,
    /// How it follows its settings while it serves; `None`: not at all.
    pub follow: Option<Follow>,
    /// Tells when the supervisor is dead.
    pub leash: Leash,
}

/// What `batch SRC…` takes in.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// As the user named them.
    pub named: Vec<PathBuf>,
    /// Copies or links.
    pub how: How,
    /// Also what is recorded already.
    pub again: bool,
}

/// What the shell tells while it serves.
pub enum Told {
    /// Recovery is over.
    Recovered(Report),
    /// The first scan is over: it serves.
    Ready,
    /// Something happened to a job or a route.
    Notice(Arc<Notice>),
    /// So many notices were missed, because nobody took them.
    Missed(u64),
    /// `batch` looked at its sources.
    Sources(SourcesSeen),
    /// The state, once a minute if anything changed; in a batch once a second.
    Status(Box<Status>),
    /// New settings are in force.
    Reloaded {
        /// All of them.
        settings: Box<Settings>,
        /// Files of `routes.d/` that cannot be used.
        broken: Vec<RouteRefused>,
    },
    /// New settings cannot be used; the old ones stay in force.
    SettingsRefused(Vec<String>),
    /// A signal: so many workers still run.
    Draining(usize),
}

/// Why it could not serve, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// Another daemon serves this spool.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A folder of the spool cannot be used.
    #[error("cannot open {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A usage error: where the spool is, or who may write to it.
    #[error("{0}")]
    Unsafe(String),
    /// What an earlier daemon left running does not end.
    #[error("cannot end the workers of an earlier run: {0}")]
    Orphans(#[source] io::Error),
    /// What our own workers left does not end.
    #[error("cannot end what workers left: {0}")]
    Left(#[source] io::Error),
    /// The promise cannot be kept any longer.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// A thread, a descriptor, the runtime.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ShellError {
    fn start(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Start { what, source }
    }

    /// Whether a restart may help; if not, it is a usage error.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Unsafe(_))
    }
}

/// A new `journal/waiting`: recovery has taken in what the last one said.
fn notes(journal: &RealDir, sender: &Sender<Message>) -> Result<Notes, ShellError> {
    let places = limits::MOST_AHEAD;
    let table = Waiting::create(&RealFs, journal, &boot_id()?, places)
        .map_err(ShellError::start("to write journal/waiting"))?;
    let Some(table) = table.map(Arc::new) else { return Ok(Notes::none()) };
    let (noted, sender) = (Arc::clone(&table), sender.clone());
    let waits = move |place, job, attempt| drop(noted.enter(place, job, attempt));
    let leaves = move |place| match table.leave(place) {
        Ok(()) => true,
        Err(error) => {
            // The keeper is gone only when the daemon has ended.
            drop(sender.send(Message::BeginFailed(error)));
            false
        }
    };
    Ok(Notes { places, waits: Arc::new(waits), leaves: Arc::new(leaves) })
}

/// Told on the keeper's thread; hands on without waiting.
struct Broadcast {
    notices: broadcast::Sender<Arc<Notice>>,
    ready: Option<oneshot::Sender<()>>,
}

impl Listener for Broadcast {
    fn notice(&mut self, notice: Notice) {
        // Nobody listening is fine.
        drop(self.notices.send(Arc::new(notice)));
    }

    fn ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            ready.send(()).unwrap_or_default();
        }
    }
}

/// Serves a spool until its mode ends, a signal ends it, or the promise cannot be kept.
pub fn serve(options: Options, tell: &mut dyn FnMut(Told)) -> Result<Summary, ShellError> {
    check_user(&options.settings)?;
    let opened = open(&options.spool)?;
    let (keeper, report) = recover_spool(&opened, &options.settings)?;
    tell(Told::Recovered(report));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ShellError::start("the runtime"))?;
    let served = runtime.block_on(run(options, &opened, keeper, tell));
    // What escaped its group, or was started while the leash was being cut.
    children::end_all_children().map_err(ShellError::Left)?;
    // A command that finds no socket knows that nobody serves.
    drop(crate::fs::remove_socket(&control::path(&opened.path)));
    served
}

async fn run(
    options: Options,
    opened: &Opened,
    keeper: Keeper<RealFs>,
    tell: &mut dyn FnMut(Told),
) -> Result<Summary, ShellError> {
    let (sender, messages) = channel();
    let (notices, mut heard) = broadcast::channel(NOTICES);
    let (ready, mut is_ready) = oneshot::channel();
    let (end, mut ended) = oneshot::channel();
    let stop = Stop::new().map_err(ShellError::start("the stop signal"))?;
    // Before any slot looks which signals are caught: none of ours is to be in a child of it.
    let mut signals = signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(ShellError::start("listening to signals"))?;
    let slots = sender.clone();
    let notes = notes(&opened.spool.journal, &sender)?;
    let pool = Pool::start(options.settings.workers, &stop, notes, move |ended| {
        // The keeper is gone only when the daemon has ended.
        drop(slots.send(Message::Slot(ended)));
    })
    .map_err(ShellError::start("the pool"))?;
    hold(options.leash, &stop, &sender)?;
    let (told_sources, mut sources) = tokio::sync::watch::channel(SourcesSeen::default());
    let grants = match &options.sources {
        Some(wanted) => {
            Some(start_stager(wanted, &options.settings, opened, &keeper, &sender, told_sources)?)
        }
        None => None,
    };
    let progress = Progress::default();
    let service = Service {
        progress: progress.clone(),
        keeper,
        pool,
        stop: stop.clone(),
        history: History::open(&opened.path),
        listener: Broadcast { notices: notices.clone(), ready: Some(ready) },
        mode: options.mode,
        grants,
        sender: sender.clone(),
        rescan: options.settings.rescan,
        quiet_for: options.settings.quiet_for,
        intake: Intake::default(),
        retention: Retention::by(Rules::of(&options.settings)),
        min_free_disk: options.settings.min_free_disk,
        min_free_memory: options.settings.min_free_memory,
        state: LoopState::default(),
    };
    start_keeper(service, messages, end)?;
    let door = control::Door::open(&opened.path, options.settings.rescan);
    let door = door.map_err(ShellError::start("the control socket"))?;
    let control = tokio::spawn(control::serve(door, sender.clone(), notices));
    let mut pulse = Pulse::new(progress, sender.clone(), options.mode);
    let mut beat = tokio::time::interval(pulse.every());
    let mut follower = options.follow.map(|follow| Follower {
        on_hup: follow.on_hup,
        reloader: Reloader::new(options.spool, options.settings.clone(), &follow),
        keeper: sender.clone(),
    });
    let mut drain = Drain { timeout: options.settings.drain_timeout, begun: false };

    let result = loop {
        tokio::select! {
            biased;
            result = &mut ended => break result.unwrap_or_else(|_| Err(KeeperError::gone())),
            Ok(()) = &mut is_ready, if !is_ready.is_terminated() => {
                readiness::ready("watching incoming/");
                tell(Told::Ready);
            }
            _ = beat.tick() => {
                pulse.beat(tell).await;
                if let Some(follower) = follower.as_mut().filter(|_| !drain.begun) {
                    let reload = follower.reloader.look();
                    drain.timeout = follower.take(reload, tell).await.unwrap_or(drain.timeout);
                }
            }
            Some(signal) = signals.next() => match &mut follower {
                // Before it is ready there is no READY to take back; systemd waits for the first one.
                Some(follower) if signal == SIGHUP && follower.on_hup => if !drain.begun {
                    let is_serving = is_ready.is_terminated();
                    if is_serving {
                        readiness::reloading();
                    }
                    let reload = follower.reloader.read();
                    drain.timeout = follower.take(reload, tell).await.unwrap_or(drain.timeout);
                    if is_serving {
                        readiness::ready("watching incoming/");
                    }
                },
                _ => drain.signal(&sender, tell).await,
            },
            heard = heard.recv() => match heard {
                Ok(notice) => tell(Told::Notice(notice)),
                Err(broadcast::error::RecvError::Lagged(missed)) => tell(Told::Missed(missed)),
                Err(broadcast::error::RecvError::Closed) => {}
            },
            Ok(()) = sources.changed() => {
                let seen = sources.borrow_and_update().clone();
                tell(Told::Sources(seen));
            }
        }
    };
    control.abort();
    tell_rest(&mut heard, tell);
    Ok(result?)
}

/// The keeper's thread. Where it ends by an error nobody records what still runs, and no record of a lot begins
/// now; the children end all the same.
fn start_keeper(
    service: Service<RealFs, Broadcast>,
    messages: Receiver<Message>,
    end: oneshot::Sender<Result<Summary, KeeperError>>,
) -> Result<(), ShellError> {
    let stop = service.stop.clone();
    let serve = move || {
        let result = service.run(&messages).inspect_err(|_| drop(stop.now()));
        drop(end.send(result));
    };
    let thread = std::thread::Builder::new().name("keeper".to_owned());
    thread.spawn(serve).map(drop).map_err(ShellError::start("the keeper's thread"))
}

/// What was not told before the end.
fn tell_rest(heard: &mut broadcast::Receiver<Arc<Notice>>, tell: &mut dyn FnMut(Told)) {
    while let Ok(notice) = heard.try_recv() {
        tell(Told::Notice(notice));
    }
}

/// Watches the leash: with the supervisor dead nobody would end the workers of a dead daemon, so
/// everything ends now. Attempts that are cut off so cost nothing.
fn hold(leash: Leash, stop: &Stop, keeper: &Sender<Message>) -> Result<(), ShellError> {
    let (stop, keeper) = (stop.clone(), keeper.clone());
    let watch = move || {
        leash.wait();
        // If this fails the children end all the same, one step later.
        drop(stop.now());
        drop(keeper.send(Message::Orphaned));
        drop(children::end_all_children());
    };
    std::thread::Builder::new()
        .name("leash".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(ShellError::start("the thread that watches the supervisor"))
}

/// What happens by the clock: the watchdog's food and the minute's status.
struct Pulse {
    progress: Progress,
    keeper: Sender<Message>,
    feed_every: Option<Duration>,
    fed: Instant,
    turns: u64,
    status_every: Duration,
    status_at: Instant,
    last: Option<Status>,
}

/// How often the state is told, if it changed.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// The same of a batch, whose progress somebody may look at.
const BATCH_STATUS_EVERY: Duration = Duration::from_secs(1);

impl Pulse {
    fn new(progress: Progress, keeper: Sender<Message>, mode: Mode) -> Self {
        let now = Instant::now();
        let feed_every = readiness::watchdog_interval();
        Self {
            progress,
            keeper,
            feed_every,
            fed: now,
            turns: 0,
            status_every: if mode == Mode::Watch { STATUS_EVERY } else { BATCH_STATUS_EVERY },
            status_at: now,
            last: None,
        }
    }

    /// How often to call `beat`: rarely, since an idle daemon should cost nothing.
    fn every(&self) -> Duration {
        self.feed_every
            .map_or(limits::BEAT, |feed| limits::BEAT.min(feed / 2))
            .min(self.status_every)
            .max(Duration::from_millis(10))
    }

    async fn beat(&mut self, tell: &mut dyn FnMut(Told)) {
        let now = Instant::now();
        let turns = self.progress.turns();
        let is_hungry = self.feed_every.is_some_and(|every| now.duration_since(self.fed) >= every);
        if is_hungry && turns != self.turns {
            readiness::feed_watchdog();
            (self.fed, self.turns) = (now, turns);
        } else if self.feed_every.is_some_and(|every| now.duration_since(self.fed) >= every / 2) {
            // A keeper that idles makes no turns by itself; one that hangs makes none for this either.
            drop(self.keeper.send(Message::Ask(Box::new(|_| ()))));
        }
        if now.duration_since(self.status_at) < self.status_every {
            return;
        }
        self.status_at = now;
        let (send, status) = oneshot::channel();
        let reply = move |status: &Status| drop(send.send(status.clone()));
        drop(self.keeper.send(Message::Ask(Box::new(reply))));
        let Ok(status) = status.await else { return };
        if self.last.as_ref() != Some(&status) {
            readiness::status(&format!(
                "{} running, {} waiting, {} done, {} failed",
                status.running, status.waiting, status.done, status.failed
            ));
            self.last = Some(status.clone());
            tell(Told::Status(Box::new(status)));
        }
    }
}

/// Follows the settings while it serves.
struct Follower {
    reloader: Reloader,
    /// SIGHUP means: read them again.
    on_hup: bool,
    keeper: Sender<Message>,
}

impl Follower {
    /// Puts into force what can be; returns the new `drain_timeout` then.
    async fn take(&mut self, reload: Reload, tell: &mut dyn FnMut(Told)) -> Option<Duration> {
        match reload {
            Reload::Same => None,
            Reload::Refused(reasons) => {
                tell(Told::SettingsRefused(reasons));
                None
            }
            Reload::Take { settings, broken } => {
                let (send, done) = oneshot::channel();
                let reply = Box::new(move || send.send(()).unwrap_or_default());
                drop(self.keeper.send(Message::Reload(settings.clone(), reply)));
                // Without an answer the keeper is gone, which ends the shell by itself.
                done.await.ok()?;
                let timeout = settings.drain_timeout;
                self.reloader.took((*settings).clone());
                tell(Told::Reloaded { settings, broken });
                Some(timeout)
            }
        }
    }
}

struct Drain {
    timeout: Duration,
    begun: bool,
}

impl Drain {
    /// The first signal drains, the second one, or the end of the drain's time, stops now.
    async fn signal(&mut self, keeper: &Sender<Message>, tell: &mut dyn FnMut(Told)) {
        if self.begun {
            drop(keeper.send(Message::StopNow));
            return;
        }
        self.begun = true;
        readiness::stopping();
        let (send, running) = oneshot::channel();
        let reply = move |status: &Status| send.send(status.running).unwrap_or_default();
        drop(keeper.send(Message::Ask(Box::new(reply))));
        drop(keeper.send(Message::Drain));
        tell(Told::Draining(running.await.unwrap_or(0)));
        let (keeper, timeout) = (keeper.clone(), self.timeout);
        drop(tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            drop(keeper.send(Message::StopNow));
        }));
    }
}

fn start_stager(
    wanted: &SourceOptions,
    settings: &Settings,
    opened: &Opened,
    keeper: &Keeper<RealFs>,
    sender: &Sender<Message>,
    progress: tokio::sync::watch::Sender<SourcesSeen>,
) -> Result<super::service::Grants, ShellError> {
    let (grants, granted) = channel();
    let index = crate::journal::Sources::open(&RealFs, &opened.spool.journal)
        .map_err(|error: JournalError| ShellError::Keeper(error.into()))?;
    let table = crate::config::RouteTable::new(settings)
        .map_err(|error| ShellError::Keeper(error.into()))?;
    let table = Arc::new(table);
    let root: RealDir = opened.spool.root.clone();
    let stager = Stager {
        named: wanted.named.clone(),
        how: wanted.how,
        again: wanted.again,
        index,
        recent: keeper.recent_sources(),
        table,
        processing: opened.path.join("processing"),
        root,
        grants: granted,
        keeper: sender.clone(),
        progress: Box::new(move |seen| {
            // Told for each source: without the reasons of those that failed, which may be as many.
            let (known, taken) = (seen.known, seen.taken);
            progress.send_replace(SourcesSeen { known, taken, ..SourcesSeen::default() });
        }),
        seen: SourcesSeen::default(),
        ids: Vec::new(),
        group: Vec::new(),
        spool: opened.path.clone(),
        followers: Followers::default(),
        earlier: std::collections::HashSet::new(),
    };
    std::thread::Builder::new()
        .name("stager".to_owned())
        .spawn(move || stager.run())
        .map_err(ShellError::start("the thread that takes sources in"))?;
    Ok(grants)
}
