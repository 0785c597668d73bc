//! Sightings: whether a name that was seen in `incoming/` may be claimed, and what is remembered if not.
//!
//! The decision is `core::complete`; here are the facts for it, and the table of what waits. A part of
//! the keeper, on its thread. Must not know: who saw the name, threads, how a worker runs.
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
use crate::core::complete::{
    Arrival, Facts, Judgement, Look, Past, Rules, Why, Writer, again, judge,
};
use crate::core::state::{Candidate, Event, Millis};
use crate::core::{JobId, RelPath};
use crate::fs::{FileType, Filesystem, Lease, Stat};
use crate::spool::claim::ClaimedFile;
use crate::spool::scan::{Bounds, Scan, Sighting};
use crate::spool::{Claimed, Place};

use super::keeper::{JobInfo, Keeper, KeeperError, Output, describe_unreadable};
use super::notice::{FolderRefused, Notice};
use super::refusal::{self, Refusal};

mod companions;
mod folder;

pub(super) use companions::Companions;
use companions::{Lacks, describe_companion};
use folder::describe_folder;

/// A refused claim is tried again after this, in milliseconds; it doubles …
const REFUSED_AGAIN: Millis = 10_000;
/// … up to this.
const REFUSED_AGAIN_MOST: Millis = 5 * 60_000;

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

/// A file that waits, for `status` and `explain`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// Path, escaped.
    pub rel: String,
    /// Why it waits.
    pub reason: String,
    /// How long it has waited, in milliseconds.
    pub for_ms: u64,
    /// When it is looked at again, in milliseconds from now.
    pub next_ms: u64,
    /// Files that wait for the same; `rel` is their folder where they are more than this one.
    pub files: usize,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// Its inode where somebody has it open, to find out who.
    #[serde(skip)]
    pub open_ino: Option<u64>,
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
                if !self.seen.unreadable.contains(&unreadable) {
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
        let Ok(stat) = self.spool.fs.stat(&self.spool.incoming, rel.as_path()) else {
            // The claim finds out what stands in the way.
            return Judged::Claim(Proof::Whole, None);
        };
        if stat.file_type != FileType::File {
            return Judged::Claim(Proof::Whole, None);
        }
        let sentinel = self.table.sentinel(rel);
        let promised = sentinel.as_ref().map(|name| self.is_promised(rel, name, &stat));
        let writer = match promised {
            None => writer_of(self.spool.fs.lease(&self.spool.incoming, rel.as_path())),
            Some(_) => Writer::Unknown,
        };
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
        }
    }

    /// A claim could not be made: when it is tried again.
    pub(super) fn refused(&mut self, rel: &RelPath, error: &io::Error, now: Millis) -> Millis {
        let refusals = self.waits.table.get(rel).map_or(0, |wait| wait.refusals);
        let wait = REFUSED_AGAIN.saturating_mul(1 << refusals.min(16)).min(REFUSED_AGAIN_MOST);
        let until = now.saturating_add(wait);
        let refusal = Refusal::of(&self.spool, rel, error);
        let look = Look { ino: 0, size: 0, mtime_ns: 0, ctime_ns: 0 };
        let past = Past::after(self.waits.table.get(rel).map(|wait| wait.past), look, now);
        let wait = Wait {
            past,
            reason: Reason::Refused(refusal.clone()),
            until,
            changed: now,
            refusals: refusals.saturating_add(1),
        };
        self.remember(rel, wait);
        let is_news = self.waits.told.len() < limits::MARKED_FOLDERS
            && self.waits.told.insert((rel.parent().to_vec(), refusal.clone()));
        if is_news {
            let files = || refusal::files_beside(&self.spool, rel);
            let folder = refusal.fix.map(|fix| FolderRefused { files: files(), fix });
            let (rel, reason) = (rel.clone(), refusal.reason);
            self.out.push(Output::Notice(Notice::ClaimRefused { rel, reason, folder }));
        }
        until
    }

    /// A whole file fits no route: until when it waits for one, in `routes.d/` since a moment perhaps.
    pub(super) fn waits_for_route(
        &mut self,
        rel: &RelPath,
        reason: String,
        now: Millis,
    ) -> Option<Millis> {
        let before = self.waits.table.get(rel);
        let since = match before.map(|wait| (&wait.reason, wait.changed)) {
            Some((Reason::Unfit(_), since)) => since,
            _ => now,
        };
        let until = since.saturating_add(self.patience);
        let stat = self.spool.fs.stat(&self.spool.incoming, rel.as_path()).ok()?;
        let past = Past::after(before.map(|wait| wait.past), look_of(&stat), now);
        let reason = Reason::Unfit(reason);
        self.remember(rel, Wait { past, reason, until, changed: since, refusals: 0 });
        // What could not be remembered would wait for ever.
        (until > now && self.waits.table.contains_key(rel)).then_some(until)
    }

    /// A claim was made: remembers what must be asked again, and brings the sentinel along.
    pub(super) fn claimed_with(
        &mut self,
        job: JobId,
        claimed: Claimed,
        proof: Proof,
        file: &ClaimedFile,
    ) {
        let Some(rel) = self.jobs.get(&job).map(|info| info.rel.clone()) else { return };
        self.waits.forget(&rel);
        match proof {
            Proof::Whole => {}
            Proof::Sentinel(name) => {
                // If it cannot be moved, it stays: it says nothing of a file that comes later.
                if let Err(error) = self.spool.claim_sentinel(&rel, &name, claimed) {
                    let reason = format!("its sentinel: {error}");
                    let folder = None;
                    self.out.push(Output::Notice(Notice::ClaimRefused { rel, reason, folder }));
                }
            }
            Proof::Look { look, first, is_open, .. } => {
                let is_clear = file.lease == Lease::Clear;
                let proof = Proof::Look { look, first, is_open, is_clear };
                self.waits.unproven.insert(job, proof);
            }
        }
    }

    /// Looks once more at a claimed file before its first attempt: a rename stops no writer.
    /// `Some`: it waits until then, and its name says that no attempt has begun.
    pub(super) fn still_written(
        &mut self,
        job: JobId,
        attempt: u32,
        now: Millis,
    ) -> Result<Option<Millis>, KeeperError> {
        let Some(proof) = self.waits.unproven.remove(&job) else { return Ok(None) };
        let (Some(rules), Some(info)) = (self.waits.rules, self.jobs.get(&job)) else {
            return Ok(None);
        };
        let Proof::Look { look, first, is_clear, .. } = proof else { return Ok(None) };
        let first = if first == 0 { now } else { first };
        let claimed = info.claimed(job);
        let path = Path::new(&Place::Job(claimed).name()).join(info.rel.as_path());
        if is_clear && !rules.is_shared {
            // Since the claim nobody can open it under the name they know.
            return Ok(None);
        }
        let seen = self.spool.fs.look(&self.spool.processing, &path);
        // Gone, or no regular file: the start finds out.
        let Ok((stat, lease)) = seen else { return Ok(None) };
        let writer = writer_of(lease);
        if writer == Writer::Nobody && !rules.is_shared {
            return Ok(None);
        }
        let seen = look_of(&stat);
        let until = match (writer, look) {
            (Writer::Somebody, _) => again(&rules, &Past { look: seen, since: now, first }, now),
            // Written behind our back, between the look and the claim or after it.
            (_, Some(look)) if look.has_other_content(&seen) => {
                let quiet = if rules.is_shared { rules.on_shared } else { rules.without_lease };
                now.saturating_add(rules.quiet_for.unwrap_or(quiet).max(1))
            }
            _ => return Ok(None),
        };
        let is_open = writer == Writer::Somebody;
        let look = Some(seen);
        let proof = Proof::Look { look, first, is_open, is_clear: false };
        self.waits.unproven.insert(job, proof);
        self.take_back(job, attempt)?;
        Ok(Some(until))
    }

    /// Born as its first attempt, which did not begin: a crash now must not count.
    pub(super) fn take_back(&mut self, job: JobId, attempt: u32) -> Result<(), KeeperError> {
        let Some(info) = self.jobs.get_mut(&job).filter(|info| info.begun == attempt) else {
            return Ok(());
        };
        let claimed = info.claimed(job);
        let back = claimed.with_begun(attempt.saturating_sub(1));
        info.begun = back.begun;
        match self.spool.set_begun(claimed, back) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KeeperError::spool("take an attempt back in processing/")(error))
            }
            _ => Ok(()),
        }
    }

    /// Files in `incoming/` that wait, those that wait longest first.
    pub(super) fn held(&self, most: usize, now: Millis) -> Vec<Held> {
        let mut waits: Vec<(&RelPath, &Wait)> =
            self.waits.table.iter().filter(|(rel, _)| self.core.holds(rel)).collect();
        waits.sort_by(|a, b| (a.1.past.first, a.0).cmp(&(b.1.past.first, b.0)));
        let mut held: Vec<Held> = Vec::new();
        // Files of a folder that refuses claims are one line: what is to be mended is the folder.
        let mut folders: HashMap<&[u8], usize> = HashMap::new();
        for (rel, wait) in waits {
            let is_folder =
                matches!(&wait.reason, Reason::Refused(refusal) if refusal.fix.is_some());
            if is_folder && let Some(known) = folders.get(rel.parent()) {
                held.get_mut(*known).iter_mut().for_each(|known| known.files += 1);
                continue;
            }
            if held.len() == most {
                continue;
            }
            let mut it = self.describe_wait(rel, wait, now);
            if is_folder {
                folders.insert(rel.parent(), held.len());
                it.rel = RelPath::new(rel.parent()).map_or("./".to_owned(), |it| format!("{it}/"));
            }
            held.push(it);
        }
        held
    }

    /// Why this file waits, if it does.
    pub(super) fn held_file(&self, rel: &RelPath, now: Millis) -> Option<Held> {
        let wait = self.waits.table.get(rel).filter(|_| self.core.holds(rel))?;
        Some(self.describe_wait(rel, wait, now))
    }

    fn describe_wait(&self, rel: &RelPath, wait: &Wait, now: Millis) -> Held {
        let (reason, open_ino) = match &wait.reason {
            Reason::Refused(refusal) => (format!("cannot be claimed: {}", refusal.reason), None),
            Reason::Unfit(reason) => (reason.clone(), None),
            Reason::Companion(companion, lacks) => (describe_companion(companion, *lacks), None),
            Reason::Folder { sentinel, is_older } => (describe_folder(sentinel, *is_older), None),
            Reason::Why(Why::Open) => {
                ("still open for writing".to_owned(), Some(wait.past.look.ino))
            }
            Reason::Why(Why::Quiet) => ("changed a moment ago".to_owned(), None),
            Reason::Why(Why::Sentinel) => {
                let name = self.table.sentinel(rel).unwrap_or_default();
                (format!("waits for {}", String::from_utf8_lossy(&name)), None)
            }
        };
        Held {
            rel: rel.to_string(),
            reason,
            for_ms: now.saturating_sub(wait.past.first),
            next_ms: wait.until.saturating_sub(now),
            files: 1,
            fix: match &wait.reason {
                Reason::Refused(refusal) => refusal.fix.clone(),
                Reason::Why(_)
                | Reason::Unfit(_)
                | Reason::Folder { .. }
                | Reason::Companion(..) => None,
            },
            open_ino,
        }
    }

    /// Whether a held file may still be whole soon: it is only to be still for a moment, or somebody
    /// writes and it has changed within `patience`. For `batch`, which waits for these.
    pub(super) fn expects_files(&self, patience: Millis, now: Millis) -> bool {
        let mut waits = self.waits.table.iter().filter(|(rel, _)| self.core.holds(rel));
        waits.any(|(_, wait)| match wait.reason {
            Reason::Why(Why::Open) | Reason::Companion(_, Lacks::Whole(Why::Open)) => {
                now.saturating_sub(wait.changed) < patience
            }
            Reason::Why(Why::Quiet)
            | Reason::Companion(_, Lacks::Whole(Why::Quiet))
            | Reason::Unfit(_) => true,
            Reason::Why(Why::Sentinel)
            | Reason::Companion(..)
            | Reason::Folder { .. }
            | Reason::Refused(_) => false,
        })
    }
}
