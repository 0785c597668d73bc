//! Companions: a file waits for what comes with it, takes it along, and begins only with all of it.
//!
//! They are claimed one after the other, the file first: it is claimed by the one rename that counts, and
//! the others by theirs just after it. Where the daemon dies between, they are fetched before the first
//! attempt, by their names; no record is needed.
//!
//! Must not know: what a companion is for.
//!
//! Invariants
//! - Each of them is whole by the same rules as the file, before the claim and once more after it.
//! - A worker gets all of them or nothing: one that vanished after the claim is a failure with its name.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::{Judged, Past, Reason, Wait, look_of, writer_of};
use crate::config::limits;
use crate::core::complete::{Arrival, Facts, Judgement, Why, Writer, again, judge};
use crate::core::state::{Candidate, Millis};
use crate::core::{FailClass, Failure, JobId, RelPath};
use crate::daemon::keeper::scan::has_time;
use crate::daemon::keeper::{Keeper, KeeperError, Output};
use crate::daemon::notice::Notice;
use crate::fs::{FileType, Filesystem, Stat, is_shortage};
use crate::spool::scan::Sighting;
use crate::spool::{Place, Shape};

/// Where no rules of waiting are set, a companion is looked for again after this long, in milliseconds.
const AGAIN_MS: Millis = 1_000;
/// Companions whose file is looked for in their folder, in one pass over `incoming/`.
const SEARCHED: usize = 64;

/// What is wrong with a companion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacks {
    /// It is not there.
    All,
    /// It is no regular file.
    Sense,
    /// Another user's in a sticky folder: nobody else may take it.
    Leave,
    /// It is not whole.
    Whole(Why),
}

/// Whether a claimed job has all that comes with it.
pub(in crate::daemon) enum Companions {
    /// Yes.
    Ready,
    /// Not before this.
    Busy(Millis),
    /// It cannot be brought or told of now: too little of something, or a disk that fails.
    Later(RelPath, io::Error),
    /// It never will.
    Unfit(Failure),
}

impl<F: Filesystem> Keeper<F> {
    /// What the place of a file must tell.
    pub(in crate::daemon) fn shape_of_file(&self, candidate: &Candidate) -> Shape {
        match self.routes.get(candidate.route) {
            Some(route) if !route.with.is_empty() => Shape::main(&candidate.rel),
            _ => Shape::File,
        }
    }

    /// What comes with a file of this route.
    fn companions(&self, route: usize, rel: &RelPath) -> Vec<RelPath> {
        let templates = self.routes.get(route).map(|route| route.with.as_slice());
        let slash: &[u8] = if rel.parent().is_empty() { b"" } else { b"/" };
        let beside = |name: Vec<u8>| RelPath::new([rel.parent(), slash, &name].concat());
        let names = templates.unwrap_or_default().iter().map(|it| it.name_for(rel.name()));
        names.filter_map(beside).collect()
    }

    /// Whether a whole file waits for what comes with it.
    pub(super) fn judge_companions(
        &mut self,
        candidate: &Candidate,
        now: Millis,
    ) -> Option<Judged> {
        let rel = &candidate.rel;
        let mut lack: Option<(Millis, RelPath, Lacks)> = None;
        for companion in self.companions(candidate.route, rel) {
            let Some((until, lacks)) = self.judge_companion(rel, &companion, now) else { continue };
            if self.waits.wanted.len() < limits::WINDOW {
                self.waits.wanted.insert(companion.clone(), rel.clone());
            }
            // All must be there: the last one decides when to look again.
            if lack.as_ref().is_none_or(|(later, ..)| until > *later) {
                lack = Some((until, companion, lacks));
            }
        }
        let (until, companion, lacks) = lack?;
        let stat = self.spool.fs.stat(&self.spool.incoming, rel.as_path()).ok()?;
        let before = self.waits.table.get(rel);
        let past = Past::after(before.map(|wait| wait.past), look_of(&stat), now);
        let reason = Reason::Companion(companion, lacks);
        self.remember(rel, Wait { past, reason, until, changed: now, refusals: 0 });
        Some(Judged::Wait(until))
    }

    /// What a companion lacks, and when to look again; `None`: it is whole.
    fn judge_companion(
        &mut self,
        rel: &RelPath,
        companion: &RelPath,
        now: Millis,
    ) -> Option<(Millis, Lacks)> {
        let spool = &self.spool;
        let rules = self.waits.rules;
        let since = self.waits.table.get(rel).map_or(now, |wait| wait.past.first);
        let later = |look| {
            let past = Past { look, since: now, first: since };
            rules.map_or(now.saturating_add(AGAIN_MS), |rules| again(&rules, &past, now))
        };
        let none = super::Look { ino: 0, size: 0, mtime_ns: 0, ctime_ns: 0 };
        let Ok(stat) = spool.fs.stat(&spool.incoming, companion.as_path()) else {
            return Some((later(none), Lacks::All));
        };
        if stat.file_type != FileType::File {
            return Some((later(none), Lacks::Sense));
        }
        if self.is_kept_back(companion, &stat) {
            // Found out before the claim of its file, which would fail for want of it.
            return Some((later(none), Lacks::Leave));
        }
        let rules = rules?;
        let sentinel = self.table.sentinel(rel);
        let promised = sentinel.map(|name| self.is_promised(rel, &name, &stat));
        let writer = match promised {
            None => writer_of(spool.fs.lease(&spool.incoming, companion.as_path())),
            Some(_) => Writer::Unknown,
        };
        let look = look_of(&stat);
        let arrival = self.waits.arrivals.get(companion).copied().unwrap_or_default();
        let past = Past::after(self.waits.table.get(companion).map(|it| it.past), look, now);
        let facts = Facts { look, writer, arrival, promised };
        match judge(&rules, &facts, &past, now) {
            Judgement::Complete => None,
            Judgement::Wait { until, why } => {
                let reason = Reason::Why(why);
                let wait = Wait { past, reason, until, changed: now, refusals: 0 };
                self.remember(companion, wait);
                Some((until, Lacks::Whole(why)))
            }
        }
    }

    /// Whether a sticky folder keeps us from taking what another user put there.
    fn is_kept_back(&self, companion: &RelPath, stat: &Stat) -> bool {
        let us = rustix::process::geteuid().as_raw();
        if us == 0 || stat.uid == us {
            return false;
        }
        let folder = self.spool.open_incoming_parent(companion);
        let folder = folder.and_then(|folder| self.spool.fs.stat(&folder, Path::new(".")));
        folder.is_ok_and(|folder| folder.mode & 0o1000 != 0 && folder.uid != us)
    }

    /// A name came that a file waits for: that file.
    pub(super) fn wanting(&mut self, companion: &RelPath, arrival: Arrival) -> Option<RelPath> {
        let main = self.waits.wanted.remove(companion)?;
        if self.waits.arrivals.len() < limits::WINDOW {
            self.waits.arrivals.insert(companion.clone(), arrival);
        }
        Some(main)
    }

    /// The file was claimed: what comes with it is moved beside it. `Err`: one that is there cannot be.
    pub(in crate::daemon) fn bring_companions(
        &mut self,
        job: JobId,
    ) -> Result<(), (RelPath, io::Error)> {
        let Some(info) = self.jobs.get(&job) else { return Ok(()) };
        let (claimed, rel, route) = (info.claimed(job), info.rel.clone(), info.route);
        // What was handed in has all that came with it: what stands in `incoming/` is another one's.
        if !matches!(claimed.shape, Shape::Main(_)) || info.take.is_some() {
            return Ok(());
        }
        for companion in self.companions(route, &rel) {
            let beside = Path::new(&Place::Job(claimed).name()).join(companion.as_path());
            if self.spool.fs.stat(&self.spool.processing, &beside).is_ok() {
                // What stands in `incoming/` under this name came later, with another file.
                continue;
            }
            self.waits.wanted.remove(&companion);
            self.waits.forget(&companion);
            match self.spool.claim_sentinel(&rel, companion.name(), claimed) {
                // It is asked for again before the first attempt, and missed then.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let (rel, reason, folder) = (companion.clone(), error.to_string(), None);
                    self.out.push(Output::Notice(Notice::ClaimRefused { rel, reason, folder }));
                    return Err((companion, error));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Before the first attempt of a job that came with others.
    pub(in crate::daemon) fn companions_are_there(
        &mut self,
        job: JobId,
        attempt: u32,
        now: Millis,
    ) -> Result<Companions, KeeperError> {
        let Some(info) = self.jobs.get(&job).filter(|info| info.begun_as.is_none()) else {
            return Ok(Companions::Ready);
        };
        let (claimed, rel, route) = (info.claimed(job), info.rel.clone(), info.route);
        if !matches!(claimed.shape, Shape::Main(_)) {
            return Ok(Companions::Ready);
        }
        if let Err((companion, error)) = self.bring_companions(job) {
            let is_broken_move = Errno::from_io_error(&error) == Some(Errno::IO);
            return self.companion_fails((job, attempt), companion, error, is_broken_move, now);
        }
        let place = Place::Job(claimed).name();
        for companion in self.companions(route, &rel) {
            let path = Path::new(&place).join(companion.as_path());
            let unfit = |what: &str| {
                let reason = format!("{companion}, which comes with it, {what}");
                Ok(Companions::Unfit(Failure::new(FailClass::Permanent, reason)))
            };
            let (stat, lease) = match self.spool.fs.look(&self.spool.processing, &path) {
                Ok(seen) => seen,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return unfit("is gone"),
                Err(error) => {
                    return self.companion_fails((job, attempt), companion, error, false, now);
                }
            };
            if stat.file_type != FileType::File {
                return unfit("is no regular file");
            }
            let Some(rules) = self.waits.rules else { continue };
            if writer_of(lease) == Writer::Somebody {
                let first = *self.waits.lacking.entry(job).or_insert(now);
                let past = Past { look: look_of(&stat), since: now, first };
                self.take_back(job, attempt, now)?;
                return Ok(Companions::Busy(again(&rules, &past, now)));
            }
        }
        self.waits.lacking.remove(&job);
        Ok(Companions::Ready)
    }

    /// A companion that is there can be neither brought nor looked at: what waiting may mend is waited for.
    fn companion_fails(
        &mut self,
        (job, attempt): (JobId, u32),
        companion: RelPath,
        error: io::Error,
        is_broken_move: bool,
        now: Millis,
    ) -> Result<Companions, KeeperError> {
        if is_shortage(&error) || is_broken_move {
            self.take_back(job, attempt, now)?;
            return Ok(Companions::Later(companion, error));
        }
        let reason = format!("{companion}, which comes with it, cannot be taken: {error}");
        Ok(Companions::Unfit(Failure::new(FailClass::Permanent, reason)))
    }

    /// A companion whose file was never there, or went without it, would wait for ever in silence.
    pub(in crate::daemon) fn count_lone_companion(&mut self, sighting: Sighting, now: Millis) {
        if has_time(&sighting, now) || self.seen.searched >= SEARCHED {
            return;
        }
        self.seen.searched += 1;
        if !self.has_main(&sighting) {
            self.seen.lone_sentinels += 1;
            self.seen.lone_example.get_or_insert(sighting.rel);
        }
    }

    fn has_main(&self, companion: &Sighting) -> bool {
        let folder = self.spool.open_incoming_parent(&companion.rel);
        let Ok(list) = folder.and_then(|folder| self.spool.fs.list(&folder)) else { return true };
        let parent = companion.rel.parent();
        let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
        list.filter_map(Result::ok).any(|entry| {
            let name = entry.name.as_encoded_bytes();
            let main = RelPath::new([parent, slash, name].concat());
            main.is_some_and(|main| self.table.is_main_of(&main, &companion.rel))
        })
    }
}

/// Why a file waits.
pub(super) fn describe_companion(companion: &RelPath, lacks: Lacks) -> String {
    match lacks {
        Lacks::All => format!("waits for {companion}, which comes with it"),
        Lacks::Sense => format!("{companion}, which comes with it, is no regular file"),
        Lacks::Leave => format!(
            "{companion}, which comes with it, is another user's in a sticky folder, where nobody else may \
             take it: chmod -t the folder"
        ),
        Lacks::Whole(Why::Open) => {
            format!("{companion}, which comes with it, is still open for writing")
        }
        Lacks::Whole(Why::Quiet) => {
            format!("{companion}, which comes with it, changed a moment ago")
        }
        Lacks::Whole(Why::Sentinel) => {
            format!("{companion}, which comes with it, is newer than what says that all is there")
        }
    }
}
