//! Guests: `batch` beside a daemon that runs. Their sources become jobs here, like any other; a guest
//! without sources waits for what stands in `incoming/`.
//!
//! Must not know: the socket. A guest is a function that is told how far its sources are.
//!
//! Invariants
//! - One guest's sources are staged at a time; the others wait in line.
//! - A guest is told only of jobs that it brought. It is over when all of them ended, or when those
//!   left cannot go on without a person.
//! - A guest without sources is told of every job. It is over where `batch` by itself would be: once
//!   a pass over `incoming/` that began after it came is over, and nothing waits.
//! - Sealing is its last wish; it is over once the seals are durable and carried out.
//! - A guest that no longer listens stages nothing more; its jobs go on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Input, JobId, JobLine, KeeperError, Listener, Mode, Notice, RealFs, STAGE_AHEAD, Service,
    SourcesSeen, Status, Wanted, now_ms,
};
use crate::config::limits;
use crate::daemon::along::Followers;
use crate::daemon::keeper::OpenInputs;
use crate::daemon::notice::{Finished, Paused};
use crate::daemon::stager::Stager;
use crate::spool::import::How;

/// What a guest wants.
pub struct Request {
    /// Absolute paths; none: what waits in `incoming/`.
    pub named: Vec<PathBuf>,
    /// Copies or links.
    pub how: How,
    /// Also what is recorded already.
    pub again: bool,
    /// The CSVs are sealed at the end.
    pub seal: bool,
    /// Told how far it is; `false`: nobody listens any more. Must not block.
    pub report: Report,
}

/// See [`Request::report`].
pub type Report = Box<dyn FnMut(&GuestSeen) -> bool + Send>;

/// How far a guest's sources are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GuestSeen {
    /// It cannot be served at all.
    pub refused: Option<String>,
    /// What was found of the sources, once all were looked at.
    pub sources: SourcesSeen,
    /// Jobs done.
    pub done: u64,
    /// Jobs failed.
    pub failed: u64,
    /// The first of these.
    pub failures: Vec<JobLine>,
    /// Rows recorded.
    pub rows: u64,
    /// Of these jobs, those whose records were tasks of their own.
    #[serde(default)]
    pub inputs: u64,
    /// Records done.
    #[serde(default)]
    pub records_done: u64,
    /// Records failed.
    #[serde(default)]
    pub records_failed: u64,
    /// How far its jobs are whose records are tasks of their own, of those that are not over.
    #[serde(default)]
    pub open_inputs: OpenInputs,
    /// Paused routes that have jobs of it, with the reason.
    pub paused: BTreeMap<String, Paused>,
    /// Jobs that cannot go on without a person.
    pub stuck: usize,
    /// The state at the end, for a guest without sources.
    pub left: Option<Box<Status>>,
    /// Nothing more will happen.
    pub over: bool,
}

/// The guests there are.
#[derive(Default)]
pub(super) struct Guests {
    waiting: VecDeque<Request>,
    present: BTreeMap<u64, Guest>,
    /// Whose sources are being staged.
    staging: Option<u64>,
    /// Whose job it is.
    owners: HashMap<JobId, u64>,
    next: u64,
}

struct Guest {
    seen: GuestSeen,
    /// It brought no sources: every job is its own.
    has_all: bool,
    /// All its sources were looked at.
    is_staged: bool,
    wants_seal: bool,
    /// The seals are on their way.
    has_sealed: bool,
    report: Report,
}

impl std::fmt::Debug for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guests").field("staging", &self.staging).finish_non_exhaustive()
    }
}

impl Guests {
    /// Nobody is there or waits.
    pub(super) fn is_empty(&self) -> bool {
        self.present.is_empty() && self.waiting.is_empty()
    }

    /// A guest without sources comes; its number.
    fn enter(&mut self, wants_seal: bool, report: Report) -> u64 {
        let seen = GuestSeen::default();
        let guest =
            Guest { seen, has_all: true, is_staged: true, wants_seal, has_sealed: false, report };
        let number = self.next;
        self.next += 1;
        self.present.insert(number, guest);
        number
    }

    /// A source became a copy that is about to be a job.
    pub(super) fn staged(&mut self, job: JobId) {
        self.owners.extend(self.staging.map(|guest| (job, guest)));
    }

    /// Keeps count of a guest's jobs.
    pub(super) fn heard(&mut self, notice: &Notice) {
        match notice {
            Notice::Finished(finished) => {
                let owner = self.owners.remove(&finished.outcome.job);
                for (number, guest) in &mut self.present {
                    if guest.has_all || owner == Some(*number) {
                        guest.heard(finished);
                    }
                }
            }
            // A reload took its route away meanwhile, or its copy is gone; the source stands where it was.
            Notice::TakeRefused { job, reason } => {
                if let Some(guest) = self.take(*job) {
                    guest.seen.sources.fail(reason.clone());
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, job: JobId) -> Option<&mut Guest> {
        let owner = self.owners.remove(&job)?;
        self.present.get_mut(&owner)
    }

    /// All sources of the guest in turn were looked at. `false`: they were not a guest's.
    pub(super) fn sources_over(&mut self, seen: &SourcesSeen) -> bool {
        let Some(staging) = self.staging.take() else { return false };
        if let Some(guest) = self.present.get_mut(&staging) {
            guest.is_staged = true;
            guest.seen.sources.become_all(seen.clone());
        }
        true
    }
}

impl Guest {
    fn heard(&mut self, finished: &Finished) {
        let seen = &mut self.seen;
        seen.rows += finished.outcome.rows;
        if let Some(tally) = &finished.outcome.records {
            seen.inputs += 1;
            seen.records_done += tally.done;
            seen.records_failed += tally.failed;
        }
        if finished.outcome.failure.is_none() {
            seen.done += 1;
            return;
        }
        seen.failed += 1;
        if seen.failures.len() < limits::GUEST_FAILURES {
            seen.failures.push(JobLine::of(finished));
        }
    }
}

impl<L: Listener> Service<RealFs, L> {
    /// Lets a guest in, or tells it why not.
    pub(super) fn let_in(&mut self, mut request: Request) -> Result<(), KeeperError> {
        if self.mode == Mode::Watch && !self.state.draining {
            if request.named.is_empty() {
                self.scan_again();
                self.state.guests.enter(request.seal, request.report);
                return Ok(());
            }
            self.state.guests.waiting.push_back(request);
            return self.next_guest();
        }
        let refused = Some("it ends by itself".to_owned());
        (request.report)(&GuestSeen { refused, over: true, ..GuestSeen::default() });
        Ok(())
    }

    /// Begins to stage the sources of the next guest, if it is somebody's turn.
    pub(super) fn next_guest(&mut self) -> Result<(), KeeperError> {
        if self.state.guests.staging.is_some() || self.grants.is_some() {
            return Ok(());
        }
        let Some(mut request) = self.state.guests.waiting.pop_front() else { return Ok(()) };
        let (grants, granted) = std::sync::mpsc::channel();
        let spool = &self.keeper.spool;
        let stager = Stager {
            named: request.named,
            how: request.how,
            again: request.again,
            index: crate::journal::Sources::open(&spool.fs, &spool.journal)?,
            recent: self.keeper.recent_sources(),
            table: Arc::new(self.keeper.table.clone()),
            processing: self.keeper.path.join("processing"),
            root: spool.root.clone(),
            grants: granted,
            keeper: self.sender.clone(),
            progress: Box::new(|_| ()),
            seen: SourcesSeen::default(),
            ids: Vec::new(),
            group: Vec::new(),
            spool: self.keeper.path.clone(),
            followers: Followers::default(),
            earlier: std::collections::HashSet::new(),
        };
        let thread = std::thread::Builder::new().name("stager".to_owned());
        if let Err(error) = thread.spawn(move || stager.run()) {
            let refused = Some(format!("it cannot start a thread for it: {error}"));
            (request.report)(&GuestSeen { refused, over: true, ..GuestSeen::default() });
            return self.next_guest();
        }
        self.grants = Some(grants);
        let number = self.state.guests.enter(request.seal, request.report);
        let guests = &mut self.state.guests;
        if let Some(guest) = guests.present.get_mut(&number) {
            guest.has_all = false;
            guest.is_staged = false;
        }
        guests.staging = Some(number);
        Ok(())
    }

    /// Tells the guests how far they are, and lets those go that are over or gone.
    pub(super) fn tell_guests(&mut self) -> Result<(), KeeperError> {
        if self.state.guests.present.is_empty() {
            return Ok(());
        }
        let nothing_waits = self.nothing_waits();
        let is_sealing = self.keeper.is_sealing();
        let whole = self.state.guests.present.values().any(|guest| guest.has_all);
        let status = whole.then(|| self.status());
        let mut seals = false;
        let now = now_ms();
        let mut left: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        let mut paused: BTreeMap<u64, BTreeMap<String, Paused>> = BTreeMap::new();
        let mut open: BTreeMap<u64, OpenInputs> = BTreeMap::new();
        for (job, owner) in &self.state.guests.owners {
            let found = self.keeper.find(&Wanted::Job(*job), now);
            let (all, stuck) = left.entry(*owner).or_default();
            *all += 1;
            if let Some(records) = found.as_ref().and_then(|found| found.records) {
                let open = open.entry(*owner).or_default();
                *open = open.and(records);
            }
            let Some(found) = found.filter(|found| STUCK.contains(&found.state.as_str())) else {
                continue;
            };
            *stuck += 1;
            if let Some(reason) = self.state.status.paused.get(&found.route) {
                paused.entry(*owner).or_default().insert(found.route, reason.clone());
            }
        }
        let guests = &mut self.state.guests;
        let mut gone = Vec::new();
        for (number, guest) in &mut guests.present {
            let (all, stuck) = left.get(number).copied().unwrap_or_default();
            guest.seen.stuck = stuck;
            guest.seen.paused = paused.remove(number).unwrap_or_default();
            guest.seen.open_inputs = open.remove(number).unwrap_or_default();
            if let Some(status) = status.as_ref().filter(|_| guest.has_all) {
                guest.seen.stuck = status.stuck;
                guest.seen.open_inputs = status.open_inputs;
                guest.seen.paused.clone_from(&status.paused);
            }
            // With so many that cannot go on, no further source is let in either.
            let is_blocked = !guest.is_staged && stuck > STAGE_AHEAD / 2;
            let mut is_over = if guest.has_all {
                nothing_waits
            } else {
                all == stuck && (guest.is_staged || is_blocked)
            };
            if is_over && guest.wants_seal && !guest.has_sealed {
                guest.has_sealed = true;
                seals = true;
                is_over = false;
            } else if guest.has_sealed {
                is_over = !is_sealing;
            }
            if is_over && guest.has_all {
                guest.seen.left.clone_from(&status.clone().map(Box::new));
            }
            guest.seen.over = is_over;
            if !(guest.report)(&guest.seen) || guest.seen.over {
                gone.push(*number);
            }
        }
        for number in gone {
            guests.present.remove(&number);
            guests.owners.retain(|_, owner| *owner != number);
            if guests.staging == Some(number) {
                // The stager ends by it and says so, which is when the next one's turn comes.
                self.grants = None;
            }
        }
        if seals {
            // Records like any others: once they are carried out, the guest hears that it is over.
            self.keeper.seal(now)?;
            self.outputs()?;
        }
        Ok(())
    }
}

/// As `Core::describe` says it of jobs that wait for a person, or for a writer.
const STUCK: [&str; 3] = ["its route is paused", "no route takes it", "incomplete"];

/// Whether a message brings a source of `batch`.
pub(super) fn source_of(input: &Input) -> Option<JobId> {
    match input {
        Input::Staged(staged) => staged.source.map(|_| staged.job),
        _ => None,
    }
}
