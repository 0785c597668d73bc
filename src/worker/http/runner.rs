//! A runner that is ours: started for the first job, watched, ended with its group, started again.
//!
//! Must not know: requests for jobs, what is in them.
//!
//! Each runner has a thread of its own that starts it, takes in what it prints and reaps it, so that a
//! runner that prints much never blocks, and one that dies is known to be dead.
//!
//! Invariants
//! - When [`Runner`] is dropped, no process of its group is alive.
//! - It is never taken for ready while another process serves its address.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use ureq::http::Uri;

use super::client::agent;
use super::wire::{lookup, open};
use crate::config::request::origin;
use crate::config::{Route, Worker, limits};
use crate::worker::own_files::is_written_by;
use crate::worker::process::{Bounds, Ending, ResourceLimits, attend, start};
use crate::worker::tail::Tail;
use crate::worker::{ProgramState, Stop, exit, orphans, program, program_state};

/// A runner that said it is ready.
#[derive(Debug)]
pub(super) struct Runner {
    /// As it was when the runner was started.
    pub(super) route: Arc<Route>,
    /// Its program and files, as they were then.
    runs: Mutex<Option<ProgramState>>,
    group: Option<Pid>,
    said: Arc<Said>,
    /// Ends it, and nothing else.
    end: Stop,
    thread: Option<JoinHandle<()>>,
}

/// What its thread tells of it.
#[derive(Debug)]
struct Said {
    state: Mutex<Heard>,
    /// Told when it has ended.
    over: Condvar,
}

#[derive(Debug)]
struct Heard {
    /// What it printed since this was last taken.
    log: Tail,
    /// How it ended, once it has.
    ended: Option<Death>,
}

/// How a runner ended.
#[derive(Clone, Debug)]
pub(super) struct Death {
    /// `exit 3: address already in use`, `killed by SIGSEGV`.
    pub(super) how: String,
    /// Another start would end the same.
    is_permanent: bool,
}

/// Why there is no runner.
#[derive(Debug)]
pub(super) enum NoRunner {
    /// The daemon said stop.
    Stopped,
    /// It did not become ready.
    Failed {
        /// The next start would fail as well.
        is_permanent: bool,
        /// One line for a person.
        reason: String,
        /// What it printed.
        detail: Vec<u8>,
    },
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        // A panic under this lock has already ended the thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner {
    /// Starts the runner of a route and waits until it is ready, for `start_timeout` at most.
    pub(super) fn start(route: &Arc<Route>, spool: &Path, stop: &Stop) -> Result<Self, NoRunner> {
        let permanent =
            |reason: String| NoRunner::Failed { is_permanent: true, reason, detail: Vec::new() };
        let due = Instant::now().checked_add(route.warm.start_timeout);
        let argv = route.http.start.as_deref().unwrap_or_default();
        let name = exit::one_line(argv.join(" ").as_bytes());
        let look = Look::new(route, stop).map_err(permanent)?;
        if look.is_served() {
            return Err(permanent(format!(
                "cannot start {name}: {} is served by another process; end that, or take out `start`",
                look.origin
            )));
        }
        let (command, path) = command(route, spool, argv).map_err(permanent)?;
        let end =
            Stop::new().map_err(|error| permanent(format!("cannot start {name}: {error}")))?;
        let heard = Heard { log: Tail::new(limits::LOG_KEPT), ended: None };
        let said = Arc::new(Said { state: Mutex::new(heard), over: Condvar::new() });
        // Before the start: a change that comes meanwhile is one.
        let runs = program_state(route, spool);
        let (tell, begun) = sync_channel(1);
        let thread = {
            let (route, said, end) = (Arc::clone(route), Arc::clone(&said), end.clone());
            let work = move || attend_runner(command, &route, &said, &end, &tell);
            Builder::new().name("runner".to_owned()).spawn(work)
        };
        let thread = thread.map_err(|error| permanent(format!("cannot start {name}: {error}")))?;
        let route = Arc::clone(route);
        let runs = Mutex::new(runs);
        let mut runner = Self { route, runs, group: None, said, end, thread: Some(thread) };
        match begun.recv() {
            Ok(Ok(pid)) => runner.group = Some(pid),
            Ok(Err(error)) => {
                let program = argv.first().map(OsStr::new).unwrap_or_default();
                return Err(permanent(program::start_error(program, &path, &error)));
            }
            Err(_) => return Err(permanent(format!("cannot start {name}"))),
        }
        runner.await_ready(&look, due, stop, &name)?;
        Ok(runner)
    }

    fn await_ready(
        &mut self,
        look: &Look,
        due: Option<Instant>,
        stop: &Stop,
        name: &str,
    ) -> Result<(), NoRunner> {
        loop {
            let is_ready = look.is_ready();
            // Asked after the look: what answered was not a runner that has ended meanwhile.
            if let Some(death) = self.death(Duration::ZERO) {
                return Err(NoRunner::Failed {
                    is_permanent: death.is_permanent,
                    reason: format!("cannot start {name}: {} before it was ready", death.how),
                    detail: self.take_log(),
                });
            }
            if is_ready {
                return Ok(());
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                let time = humantime::format_duration(self.route.warm.start_timeout);
                return Err(NoRunner::Failed {
                    is_permanent: false,
                    reason: format!("cannot start {name}: {} not ready within {time}", look.what()),
                    detail: self.take_log(),
                });
            }
            if !stop.wait(limits::READY_EVERY) {
                return Err(NoRunner::Stopped);
            }
        }
    }

    /// How it ended, if it has or does within this time.
    pub(super) fn death(&self, patience: Duration) -> Option<Death> {
        let heard = self.said.lock();
        let waited = self.said.over.wait_timeout_while(heard, patience, |h| h.ended.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.ended.clone()
    }

    /// Whether it is the runner that the route asks for now.
    pub(super) fn is_for(&self, route: &Arc<Route>, spool: &Path) -> bool {
        (Arc::ptr_eq(&self.route, route) || self.route.works_like(route))
            && self.is_current(program_state(route, spool), spool)
    }

    /// Whether its program and files are as they were, but for what it writes itself.
    fn is_current(&self, now: Option<ProgramState>, spool: &Path) -> bool {
        // Nothing in here panics half way.
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if *runs == now {
            return true;
        }
        let argv = self.route.http.start.as_deref().unwrap_or_default();
        let (Some(then), Some(new), Some(group)) = (runs.as_ref(), now.as_ref(), self.group) else {
            return false;
        };
        let is_own = |at: usize| {
            argv.get(at + 1).is_some_and(|file| is_written_by(&spool.join(file), group))
        };
        let is_same = new.changed_since(then).all(is_own);
        if is_same {
            *runs = now;
        }
        is_same
    }

    /// What it printed since this was last asked.
    pub(super) fn take_log(&self) -> Vec<u8> {
        let log = std::mem::replace(&mut self.said.lock().log, Tail::new(limits::LOG_KEPT));
        log.finish()
    }
}

impl Drop for Runner {
    /// TERM to its group, then KILL after the route's grace.
    fn drop(&mut self) {
        // It fails only where the descriptor is bad: our bug, and the supervisor ends what is left.
        drop(self.end.now());
        if let Some(thread) = self.thread.take() {
            let panicked = thread.join().is_err();
            debug_assert!(!panicked, "a runner's thread panicked");
        }
    }
}

/// The life of a runner, on its thread.
fn attend_runner(
    command: Command,
    route: &Route,
    said: &Said,
    end: &Stop,
    tell: &SyncSender<std::io::Result<Pid>>,
) {
    let started = match start(command) {
        Ok(started) => started,
        Err(error) => return drop(tell.send(Err(error))),
    };
    let limited = ResourceLimits::of(route).set(started.group());
    // A runner without its limits must not go on.
    let limited = limited.inspect_err(|_| drop(end.now()));
    drop(tell.send(Ok(started.group())));
    let bounds = Bounds { stop: end, timeout: Duration::MAX, grace: route.grace };
    let mut last = Tail::new(limits::REASON_LINE);
    let mut buffer = vec![0; 64 << 10];
    let ending = attend(&started, &bounds, &mut buffer, &mut |_, bytes| {
        last.push(bytes);
        said.lock().log.push(bytes);
    });
    let last = last.finish();
    let mut how = match &ending {
        Ending::Exited(status) => match (status.code(), status.signal()) {
            (Some(code), _) => exit::code_reason(code, &last),
            (None, signal) => {
                format!("killed by {}", exit::signal_name(signal.unwrap_or_default()))
            }
        },
        Ending::TimedOut | Ending::Stopped => "ended by inboxd".to_owned(),
        Ending::Lost(error) => format!("gone: {error}"),
    };
    if let Err(error) = limited {
        how = format!("{how} (cannot set its limits: {error})");
    }
    let is_permanent =
        matches!(&ending, Ending::Exited(status) if matches!(status.code(), Some(126 | 127)));
    said.lock().ended = Some(Death { how, is_permanent });
    said.over.notify_all();
}

/// The process, and where its program is.
fn command(route: &Route, spool: &Path, argv: &[String]) -> Result<(Command, PathBuf), String> {
    let (name, rest) = argv.split_first().ok_or_else(|| "`start` names no program".to_owned())?;
    let mut environment: Vec<(OsString, OsString)> = program::environment(route);
    let path = program::find(OsStr::new(name), spool, program::search_path(&environment))?;
    let mark = orphans::mark(spool)
        .map_err(|error| format!("cannot look at {}: {error}", spool.display()))?;
    environment.push((orphans::MARK_VAR.into(), mark));
    environment.push(("INBOXD_ROUTE".into(), route.name.clone().into()));
    environment.push(("INBOXD_SPOOL".into(), spool.into()));
    let mut command = Command::new(&path);
    command
        .arg0(name)
        .args(rest)
        .env_clear()
        .envs(environment)
        .current_dir(spool)
        .stdin(Stdio::null());
    Ok((command, path))
}

/// How it is seen that a runner is ready.
#[derive(Debug)]
struct Look {
    /// Of `http`: what must be free before, and serves after.
    uri: Uri,
    origin: String,
    ready_url: Option<(String, ureq::Agent)>,
    stop: Stop,
}

impl Look {
    fn new(route: &Route, stop: &Stop) -> Result<Self, String> {
        let Worker::Http { url } = &route.worker else {
            return Err("the route has no `http`".to_owned());
        };
        let origin = origin(url).to_owned();
        let uri = origin.parse().map_err(|error| format!("{origin} is no URL: {error}"))?;
        let ready_url = route.http.ready_url.clone();
        let ready_url = ready_url.map(|url| (url, agent(limits::READY_LOOK, stop)));
        Ok(Self { uri, origin, ready_url, stop: stop.clone() })
    }

    fn is_served(&self) -> bool {
        let due = Instant::now().checked_add(limits::READY_LOOK);
        lookup(&self.uri, due, &self.stop)
            .and_then(|addresses| open(&addresses, due, &self.stop))
            .is_ok()
    }

    fn is_ready(&self) -> bool {
        match &self.ready_url {
            None => self.is_served(),
            Some((url, agent)) => {
                agent.get(url).call().is_ok_and(|response| response.status().is_success())
            }
        }
    }

    fn what(&self) -> &str {
        self.ready_url.as_ref().map_or(&self.origin, |(url, _)| url)
    }
}

/// For `check`: the address, or why nobody is there.
pub(super) fn is_there(route: &Route, stop: &Stop) -> Result<String, String> {
    let look = Look::new(route, stop)?;
    if look.is_served() {
        Ok(look.origin)
    } else {
        Err(format!("nobody answers at {}", look.origin))
    }
}
