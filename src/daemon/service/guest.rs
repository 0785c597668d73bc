//! Guests: `batch SRC…` beside a daemon that runs. Their sources become jobs here, like any other.
//!
//! Must not know: the socket. A guest is a function that is told how far its sources are.
//!
//! Invariants
//! - One guest's sources are staged at a time; the others wait in line.
//! - A guest is told only of jobs that it brought. It is over when all of them ended, or when those
//!   left cannot go on without a person.
//! - A guest that no longer listens stages nothing more; its jobs go on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Input, JobId, JobLine, KeeperError, Listener, Mode, Notice, RealFs, STAGE_AHEAD, Service,
    SourcesSeen, Wanted, now_ms,
};
use crate::config::limits;
use crate::daemon::stager::Stager;
use crate::spool::import::How;

/// What a guest wants.
pub struct Request {
    /// Absolute paths.
    pub named: Vec<PathBuf>,
    /// Copies or links.
    pub how: How,
    /// Also what is recorded already.
    pub again: bool,
    /// Told how far it is; `false`: nobody listens any more. Must not block.
    pub report: Box<dyn FnMut(&GuestSeen) -> bool + Send>,
}

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
    /// Paused routes that have jobs of it, with the reason.
    pub paused: BTreeMap<String, String>,
    /// Jobs that cannot go on without a person.
    pub stuck: usize,
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
    is_staged: bool,
    report: Box<dyn FnMut(&GuestSeen) -> bool + Send>,
}

impl std::fmt::Debug for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guests").field("staging", &self.staging).finish_non_exhaustive()
    }
}

impl Guests {
    /// A source became a copy that is about to be a job.
    pub(super) fn staged(&mut self, job: JobId) {
        self.owners.extend(self.staging.map(|guest| (job, guest)));
    }

    /// Keeps count of a guest's jobs.
    pub(super) fn heard(&mut self, notice: &Notice) {
        match notice {
            Notice::Finished(finished) => {
                let Some(guest) = self.take(finished.outcome.job) else { return };
                guest.seen.rows += finished.outcome.rows;
                if finished.outcome.failure.is_none() {
                    guest.seen.done += 1;
                    return;
                }
                guest.seen.failed += 1;
                if guest.seen.failures.len() < limits::GUEST_FAILURES {
                    guest.seen.failures.push(JobLine::of(finished));
                }
            }
            // A reload took its route away meanwhile; the source stands where it was.
            Notice::TakeRefused { job, reason } => {
                if let Some(guest) = self.take(*job) {
                    guest.seen.sources.failed.push(reason.clone());
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
            let refused = std::mem::take(&mut guest.seen.sources.failed);
            guest.seen.sources = seen.clone();
            guest.seen.sources.failed.extend(refused);
        }
        true
    }
}

impl<L: Listener> Service<RealFs, L> {
    /// Lets a guest in, or tells it why not.
    pub(super) fn let_in(&mut self, mut request: Request) -> Result<(), KeeperError> {
        if self.mode == Mode::Watch && !self.state.draining {
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
        let Some(request) = self.state.guests.waiting.pop_front() else { return Ok(()) };
        let (grants, granted) = std::sync::mpsc::channel();
        let spool = &self.keeper.spool;
        let stager = Stager {
            named: request.named,
            how: request.how,
            again: request.again,
            index: crate::journal::Sources::open(&spool.fs, &spool.journal)?,
            recent: self.keeper.recent_sources(),
            table: self.keeper.table.clone(),
            processing: self.keeper.path.join("processing"),
            root: spool.root.clone(),
            grants: granted,
            keeper: self.sender.clone(),
            progress: Box::new(|_| ()),
            seen: SourcesSeen::default(),
            ids: Vec::new(),
            group: Vec::new(),
            spool: self.keeper.path.clone(),
        };
        std::thread::Builder::new()
            .name("stager".to_owned())
            .spawn(move || stager.run())
            .map_err(KeeperError::spool("start the thread that takes sources in"))?;
        self.grants = Some(grants);
        let guests = &mut self.state.guests;
        let guest = Guest { seen: GuestSeen::default(), is_staged: false, report: request.report };
        guests.present.insert(guests.next, guest);
        guests.staging = Some(guests.next);
        guests.next += 1;
        Ok(())
    }

    /// Tells the guests how far they are, and lets those go that are over or gone.
    pub(super) fn tell_guests(&mut self) {
        if self.state.guests.present.is_empty() {
            return;
        }
        let now = now_ms();
        let mut left: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        let mut paused: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
        for (job, owner) in &self.state.guests.owners {
            let found = self.keeper.find(&Wanted::Job(*job), now);
            let (all, stuck) = left.entry(*owner).or_default();
            *all += 1;
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
            // With so many that cannot go on, no further source is let in either.
            let is_blocked = !guest.is_staged && stuck > STAGE_AHEAD / 2;
            guest.seen.over = all == stuck && (guest.is_staged || is_blocked);
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
