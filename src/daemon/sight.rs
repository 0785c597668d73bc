//! Sightings: whether a name that was seen in `incoming/` may be claimed, and what is remembered if not.
//!
//! The decision is `core::complete`; here are the facts for it, and the table of what waits. A part of
//! the keeper, on its thread. Must not know: who saw the name, threads, how a worker runs.
//!
//! `companions`, `folder`: jobs of more than one file. `held`: what waits. `claimed`: once more after the claim.
//!
//! Invariants
//! - A file is judged when its claim is due, and once more after the claim: a rename stops no writer.
//! - What waits has its own deadline and takes nobody's place; the table is bounded by the core's.
//! - A folder that refuses claims is told of once, not once a file.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::limits;
use crate::core::complete::{Arrival, Facts, Judgement, Look, Past, Rules, Why, Writer, judge};
use crate::core::state::{Candidate, Event, Millis};
use crate::core::{JobId, RelPath};
use crate::fs::{FileType, Filesystem, Lease, Stat};
use crate::spool::scan::{Bounds, Scan, Sighting, UNREADABLE_KEPT};

use super::keeper::{JobInfo, Keeper, KeeperError, describe_unreadable};
use super::refusal::Refusal;

mod claimed;
mod companions;
mod folder;
mod held;

pub(super) use companions::Companions;
use companions::Lacks;
pub use held::Held;

/// What is remembered of names and jobs that may not be claimed or started yet.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Empty folders in `incoming/` are removed.
    prunes: bool,
    /// `None`: every name that is seen is whole.
    rules: Option<Rules>,
    /// Of names in the window of which more is known than that they are there.
    arrivals: HashMap<RelPath, Arrival>,
    table: HashMap<RelPath, Wait>,
    /// By companion, the file that waits for it.
    wanted: HashMap<RelPath, RelPath>,
    /// Claimed jobs whose companions somebody still writes, since when.
    lacking: HashMap<JobId, Millis>,
    /// Claimed jobs that were not looked at since.
    unproven: HashMap<JobId, Proof>,
    /// Names that no route takes, counted since the last pass began.
    pub(super) unrouted: HashSet<RelPath>,
    /// One of them was told of.
    pub(super) told_unrouted: bool,
    /// Folders and reasons that were told of.
    told: HashSet<(Vec<u8>, Refusal)>,
}

#[derive(Clone, Debug)]
struct Wait {
    past: Past,
    reason: Reason,
    until: Millis,
    /// When it last looked different.
    changed: Millis,
    /// Refusals in a row.
    refusals: u32,
}

#[derive(Clone, Debug)]
enum Reason {
    Why(Why),
    Refused(Refusal),
    /// No route's fields are in it.
    Unfit(String),
    /// It is a folder, and what makes it complete is not there, or older.
    Folder {
        sentinel: Vec<u8>,
        is_older: bool,
    },
    /// What comes with it is not there, or not whole.
    Companion(RelPath, Lacks),
}

impl Reason {
    /// It passes in a moment.
    fn is_quiet(&self) -> bool {
        matches!(self, Self::Why(Why::Quiet) | Self::Companion(_, Lacks::Whole(Why::Quiet)))
    }
}

/// What a claim was made on.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// Nothing more is to be asked.
    Whole,
    /// The sentinel of this name.
    Sentinel(Vec<u8>),
    /// It looked so; nothing was looked at where that is not known.
    Look {
        look: Option<Look>,
        first: Millis,
        /// It was found to be written after the claim.
        is_open: bool,
        /// The claim itself found that nobody can write into it.
        is_clear: bool,
    },
}

/// May it be claimed?
pub(super) enum Judged {
    /// Yes, on this ground; and as it was seen, if it was looked at.
    Claim(Proof, Option<Stat>),
    /// Not before this.
    Wait(Millis),
}

/// What came of looking at one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It is a candidate now, or is no input, or is gone.
    Seen,
    /// It is a folder.
    Folder,
    /// The window is full.
    NoRoom,
}

impl Waits {
    /// Nothing waits.
    pub(super) fn new(prunes: bool) -> Self {
        Self { prunes, ..Self::default() }
    }

    /// Follows a change of the settings.
    pub(super) fn set_prunes(&mut self, prunes: bool) {
        self.prunes = prunes;
    }

    /// The name is no longer in `incoming/`.
    pub(super) fn forget(&mut self, rel: &RelPath) {
        self.table.remove(rel);
        self.arrivals.remove(rel);
    }

    /// Recovery took this job up: its writer may have outlived the last daemon.
    pub(super) fn adopted(&mut self, job: JobId, info: &JobInfo) {
        if info.take.is_none() && !info.claimed(job).is_folder() {
            let proof = Proof::Look { look: None, first: 0, is_open: false, is_clear: false };
            self.unproven.insert(job, proof);
        }
    }

    /// What a claimed job waits for, if it is a writer.
    pub(super) fn state_of(&self, job: JobId) -> Option<&'static str> {
        match self.unproven.get(&job) {
            Some(Proof::Look { is_open: true, .. }) => Some("still open for writing"),
            _ if self.lacking.contains_key(&job) => Some("a companion is still open for writing"),
            _ => None,
        }
    }
}

fn look_of(stat: &Stat) -> Look {
    Look { ino: stat.ino, size: stat.size, mtime_ns: stat.mtime_ns, ctime_ns: stat.ctime_ns }
}

fn writer_of(lease: Lease) -> Writer {
    match lease {
        Lease::Clear => Writer::Nobody,
        Lease::Busy => Writer::Somebody,
        Lease::Unknown => Writer::Unknown,
    }
}

impl<F: Filesystem> Keeper<F> {
    /// From now on a file is claimed once it is whole. Without it every file is.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.waits.rules = Some(rules);
    }

    /// Looks at one name of which an event told.
    pub(super) fn sight(&mut self, rel: &RelPath, arrival: Arrival, now: Millis) -> Sight {
        if self.draining || !self.looks_at(rel) {
            return Sight::Seen;
        }
        if self.core.room() == 0 {
            return Sight::NoRoom;
        }
        // The sentinel has come: its file need not wait for its deadline.
        let announced = self.table.announced(rel);
        let wanting = if announced.is_some() { None } else { self.wanting(rel, arrival) };
        // Of the file itself nothing was heard.
        let arrival = if wanting.is_some() { Arrival::Found } else { arrival };
        let other = announced.or(wanting);
        let is_itself = other.is_none();
        let rel = other.unwrap_or_else(|| rel.clone());
        if self.table.companion_of(&rel).is_some() {
            return Sight::Seen;
        }
        let Ok(stat) = self.spool.fs.stat(&self.spool.incoming, rel.as_path()) else {
            return Sight::Seen;
        };
        if stat.file_type == FileType::Dir {
            if self.table.find_folder(&rel).is_some() {
                self.core.unhold(&rel);
                self.sighted(Sighting { rel, stat }, now);
                return Sight::Seen;
            }
            return if is_itself { Sight::Folder } else { Sight::Seen };
        }
        if self.table.find(&rel).is_none() {
            // Counted once until the next pass counts everything.
            let has_room = self.waits.unrouted.len() < limits::MARKED_NAMES;
            if !has_room || !self.waits.unrouted.insert(rel.clone()) {
                return Sight::Seen;
            }
        } else if self.waits.arrivals.len() < limits::WINDOW {
            self.waits.arrivals.insert(rel.clone(), arrival);
        }
        self.core.unhold(&rel);
        self.sighted(Sighting { rel, stat }, now);
        Sight::Seen
    }

    /// Whether a name can be input at all: it is not ignored, and no part of a folder that is one job.
    fn looks_at(&self, rel: &RelPath) -> bool {
        self.table.ignored(rel).is_none() && self.table.unit_above(rel).is_none()
    }

    /// Reads on in a scan while there is room in the window. `true`: it has just ended.
    pub(super) fn read_on(
        &mut self,
        scan: &mut Scan<F>,
        most: usize,
        enters: &mut dyn FnMut(&RelPath) -> bool,
        now: Millis,
    ) -> Result<bool, KeeperError> {
        let room = self.core.room().min(most);
        if room == 0 || self.draining {
            return Ok(false);
        }
        let mut found: Vec<Sighting> = Vec::new();
        let looks_at = |rel: &RelPath| self.looks_at(rel);
        let is_job = |rel: &RelPath| self.table.find_folder(rel).is_some();
        let mut bounds = Bounds { looks_at: &looks_at, is_job: &is_job, enters };
        let over = scan.slice(&self.spool, room, &mut bounds, &mut |sighting| found.push(sighting));
        for sighting in found {
            self.sighted(sighting, now);
        }
        for rel in scan.empty.drain(..) {
            self.prune(&rel, now);
        }
        if over {
            for unreadable in scan.unreadable.drain(..).map(describe_unreadable) {
                let is_room = self.seen.unreadable.len() < UNREADABLE_KEPT;
                if is_room && !self.seen.unreadable.contains(&unreadable) {
                    self.seen.unreadable.push(unreadable);
                }
            }
        }
        self.step(Event::Tick, now)?;
        Ok(over)
    }

    /// Removes an empty folder that nobody has touched for a while, where the user asked for that.
    fn prune(&self, rel: &RelPath, now: Millis) {
        if !self.waits.prunes {
            return;
        }
        let Ok(stat) = self.spool.fs.stat(&self.spool.incoming, rel.as_path()) else { return };
        let changed = u64::try_from(stat.ctime_ns / 1_000_000).unwrap_or(u64::MAX);
        let quiet = u64::try_from(limits::PRUNE_AFTER.as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(changed) < quiet {
            return;
        }
        match self.spool.fs.remove_dir(&self.spool.incoming, rel.as_path()) {
            // Filled again, gone, or not ours to remove: it stays as it is.
            Ok(()) | Err(_) => {}
        }
    }

    /// Whether a candidate may be claimed now.
    pub(super) fn judge(&mut self, candidate: &Candidate, now: Millis) -> Judged {
        if self.takes_folders(candidate.route) {
            return self.judge_folder(candidate, now);
        }
        let judged = self.judge_file(candidate, now);
        match judged {
            Judged::Claim(..) => self.judge_companions(candidate, now).unwrap_or(judged),
            Judged::Wait(_) => judged,
        }
    }

    /// The same for a file, whatever comes with it.
    fn judge_file(&mut self, candidate: &Candidate, now: Millis) -> Judged {
        let Some(rules) = self.waits.rules else { return Judged::Claim(Proof::Whole, None) };
        let rel = &candidate.rel;
        // Once it is sorted it is judged again.
        let arrival = if candidate.route == self.sorting {
            self.waits.arrivals.get(rel).copied()
        } else {
            self.waits.arrivals.remove(rel)
        };
        let arrival = arrival.unwrap_or_default();
        let sentinel = self.table.sentinel(rel);
        let (fs, incoming) = (&self.spool.fs, &self.spool.incoming);
        let seen = match &sentinel {
            None => fs.look(incoming, rel.as_path()),
            // What is promised is not asked about: who may write into it does not matter.
            Some(_) => fs.stat(incoming, rel.as_path()).map(|stat| (stat, Lease::Unknown)),
        };
        let Ok((stat, lease)) = seen else {
            // The claim finds out what stands in the way.
            return Judged::Claim(Proof::Whole, None);
        };
        if stat.file_type != FileType::File {
            return Judged::Claim(Proof::Whole, None);
        }
        let promised = sentinel.as_ref().map(|name| self.is_promised(rel, name, &stat));
        let writer = writer_of(lease);
        let look = look_of(&stat);
        let before = self.waits.table.get(rel);
        let past = Past::after(before.map(|wait| wait.past), look, now);
        let facts = Facts { look, writer, arrival, promised };
        match judge(&rules, &facts, &past, now) {
            Judgement::Complete => {
                let (look, first) = (Some(look), past.first);
                let look = Proof::Look { look, first, is_open: false, is_clear: false };
                Judged::Claim(sentinel.map_or(look, Proof::Sentinel), Some(stat))
            }
            Judgement::Wait { until, why } => {
                let changed = match before {
                    Some(wait) if wait.past.look == look => wait.changed,
                    _ => now,
                };
                let reason = Reason::Why(why);
                self.remember(rel, Wait { past, reason, until, changed, refusals: 0 });
                Judged::Wait(until)
            }
        }
    }

    fn sentinel_stat(&self, rel: &RelPath, sentinel: &[u8]) -> io::Result<Stat> {
        let path = Path::new(OsStr::from_bytes(rel.parent())).join(OsStr::from_bytes(sentinel));
        self.spool.fs.stat(&self.spool.incoming, &path)
    }

    fn is_promised(&self, rel: &RelPath, sentinel: &[u8], file: &Stat) -> bool {
        let sentinel = self.sentinel_stat(rel, sentinel);
        sentinel.is_ok_and(|it| it.file_type == FileType::File && it.ctime_ns >= file.ctime_ns)
    }

    fn remember(&mut self, rel: &RelPath, wait: Wait) {
        // What does not fit is judged by what its next look alone shows.
        if self.waits.table.len() < limits::WINDOW || self.waits.table.contains_key(rel) {
            self.waits.table.insert(rel.clone(), wait);
        } else if !wait.reason.is_quiet() && self.table.companion_of(rel).is_none() {
            self.waits_unseen();
        }
    }
}
