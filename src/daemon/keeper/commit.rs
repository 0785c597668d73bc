//! From appended to settled: the group commit, the CSVs, the last moves; and the wait on a full disk.
//!
//! Must not know: which thread syncs. [`Keeper::begin_commit`] gives the group to be synced away, and
//! [`Keeper::end_commit`] hears what came of it.
//!
//! Invariants
//! - The commit instant is the successful sync that `end_commit` hears of; nothing is applied or settled before.
//! - What is durable is applied, settled and told in the order in which it was appended.
//! - A shortage stops claims and is tried again, and so is a CSV that we may not change; every other failure ends
//!   the daemon.

use std::io;

use super::{Keeper, KeeperError, Output, Shortage, chain, settle_outcome};
use crate::config::limits;
use crate::core::state::{Event, Millis};
use crate::daemon::notice::{Finished, Notice};
use crate::fs::{Filesystem, is_shortage};
use crate::journal::record::{Attempt, Outcome, Record};
use crate::journal::{CommitError, Group};
use crate::results::{ResultsError, Touched};

/// A full disk is looked at again after this long, in milliseconds.
const FULL_AGAIN_MS: Millis = 1_000;
/// Room that lasts so long is said, in milliseconds.
const ROOM_LASTS_MS: Millis = 5_000;

impl<F: Filesystem> Keeper<F> {
    /// The next time at which [`Keeper::tick`] or [`Keeper::commit`] has something to do.
    pub fn next_time(&self) -> Option<Millis> {
        let delay = u64::try_from(limits::COMMIT_DELAY.as_millis()).unwrap_or(0);
        let commit = match self.short_of {
            // Its answer wakes the caller, or `has_durable` says that there is work now.
            _ if self.is_committing() => None,
            Some(_) => self.pending_since.map(|_| Millis::MAX),
            None => self.pending_since.map(|at| at.saturating_add(delay)),
        };
        [self.core.next_timer(), commit].into_iter().flatten().min()
    }

    /// Whether a group is large or old enough to be committed, or nothing else is going on.
    pub fn commit_is_due(&self, now: Millis) -> bool {
        let Some(since) = self.pending_since else { return false };
        if self.is_committing() {
            return false;
        }
        let delay = u64::try_from(limits::COMMIT_DELAY.as_millis()).unwrap_or(0);
        self.pending.len() >= limits::COMMIT_RECORDS
            || self.core.running() == 0
            || now.saturating_sub(since) >= delay
            // The clock was set back.
            || since > now
    }

    /// The last group is not durable, or not settled: the next one waits.
    pub(super) fn is_committing(&self) -> bool {
        !self.committing.is_empty() || !self.durable.is_empty()
    }

    /// Nothing waits for an fsync.
    pub(super) fn is_recorded(&self) -> bool {
        self.pending.is_empty() && self.committing.is_empty()
    }

    /// Makes everything appended so far durable, then applies and settles it.
    ///
    /// On a full disk nothing is lost and nothing happens; claims stop, and the next call tries again.
    pub fn commit(&mut self, now: Millis) -> Result<(), KeeperError> {
        if !self.pending.is_empty() {
            let Some(group) = self.begin_commit(now)? else { return Ok(()) };
            let synced = group.sync();
            self.end_commit(synced, now)?;
        }
        self.settle(usize::MAX, now)
    }

    /// Writes everything appended so far. The caller syncs the group, on any thread, and gives the
    /// result to [`Keeper::end_commit`]. `None`: there is nothing, or the disk is full.
    pub fn begin_commit(&mut self, now: Millis) -> Result<Option<Group<F>>, KeeperError> {
        let group = match self.journal.begin_commit() {
            Ok(group) => group,
            Err(error @ CommitError::Full { .. }) => {
                return self.is_short(Shortage::of(&error), now).map(|()| None);
            }
            Err(error) => return Err(error.into()),
        };
        if self.journal.is_displaced() && !self.asks_checkpoint {
            // The next segment has all that counts: what runs, waits and is half way, and the CSVs.
            self.ask_checkpoint();
            self.out.push(Output::Notice(Notice::JournalTouched));
        }
        self.committing.append(&mut self.pending);
        self.pending_since = None;
        Ok(group)
    }

    /// Takes in what the fsync said. What is durable by it is settled by [`Keeper::settle`].
    pub fn end_commit(&mut self, synced: io::Result<()>, now: Millis) -> Result<(), KeeperError> {
        self.journal.end_commit(synced)?;
        self.follows = true;
        // Durable from here: every outcome in the group is final. CSVs and moves may lag;
        // recovery redoes them.
        self.durable.extend(self.committing.drain(..));
        self.settle(0, now)
    }

    /// Folders of the spool may be others by now: who clears `done/` by moving it away finds the next files
    /// in a new one, and what would go to a folder that no longer has a name is not recorded.
    pub(super) fn follow_folders(&mut self) -> Result<(), KeeperError> {
        self.miss_folders()?;
        let failed =
            |(name, source)| KeeperError::Spool { what: format!("open {name}/ again"), source };
        let others = self.spool.reopen_settled().map_err(failed)?;
        let notices = others.into_iter().map(|name| Notice::FolderReplaced { name });
        self.out.extend(notices.map(Output::Notice));
        Ok(())
    }

    /// An error where one is gone without which nothing can be promised.
    pub(super) fn miss_folders(&self) -> Result<(), KeeperError> {
        let failed =
            |(name, source)| KeeperError::Spool { what: format!("look at {name}/"), source };
        match self.spool.lost_folder().map_err(failed)? {
            Some(name) => Err(KeeperError::FolderLost { name }),
            None => Ok(()),
        }
    }

    /// Something is durable and not settled, and no full disk stands in the way.
    pub fn has_durable(&self) -> bool {
        !self.durable.is_empty() && self.short_of.is_none()
    }

    /// Applies what is durable to the CSVs and settles at most so many jobs, so that a free slot
    /// need not wait for a whole group.
    pub fn settle(&mut self, most: usize, now: Millis) -> Result<(), KeeperError> {
        if self.durable.is_empty() {
            return Ok(());
        }
        if self.follows {
            match self.follow_folders() {
                Err(error) if error.is_shortage() => {
                    return self.is_short(Shortage::of(&error), now);
                }
                other => other?,
            }
            self.follows = false;
        }
        if self.applied < self.durable.len() || self.results.has_pending() {
            match self.apply_results(now) {
                Ok(()) => {}
                Err(error @ KeeperError::Results(ResultsError::Full { .. })) => {
                    return self.waits_for(&error, now);
                }
                Err(error) => return Err(error),
            }
        }
        let mut left = most;
        while left > 0 {
            let Some(record) = self.durable.front().cloned() else { break };
            // A record of an input moves no file.
            let is_cheap = matches!(record, Record::InputOutcome(_) | Record::InputTried(_));
            left -= usize::from(!is_cheap);
            match self.follow_up(record, now) {
                Ok(()) => {}
                Err(KeeperError::Spool { source, .. }) if is_shortage(&source) => {
                    return self.is_short(Shortage::of(&source), now);
                }
                Err(error) => return Err(error),
            }
            self.durable.pop_front();
            self.applied = self.applied.saturating_sub(1);
        }
        if !self.durable.is_empty() {
            return Ok(());
        }
        if self.short_of.is_some() && self.is_recorded() && !self.is_behind() {
            self.has_room(now)?;
        }
        if !self.journal.has_spare() {
            // Without one a full disk only waits sooner; it is tried again after the next commit.
            match self.journal.reserve_spare() {
                Ok(()) | Err(CommitError::Full { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn apply_results(&mut self, now: Millis) -> Result<(), KeeperError> {
        while let Some(record) = self.durable.get(self.applied) {
            self.applied += 1;
            self.results.apply(record)?;
        }
        let touched = self.results.flush()?;
        if touched.is_empty() {
            return Ok(());
        }
        // What could not be written goes to a new segment, by records like any others: they wait for
        // their commit, and the next flush writes. None yet where more is planned for that segment
        // than is durable, or where its moves are on their way.
        let moves = self.results.plan_moves(now)?;
        if !moves.is_empty() {
            self.tell_touched(touched);
        }
        for record in moves {
            self.append(record, now)?;
        }
        Ok(())
    }

    /// Says whose CSV someone changed.
    pub(in crate::daemon) fn tell_touched(&mut self, touched: Vec<Touched>) {
        let said = |Touched { route, is_gone, again, .. }| {
            Output::Notice(Notice::CsvTouched { route, is_gone, again })
        };
        self.out.extend(touched.into_iter().map(said));
    }

    /// Writes what no record brings along: rows that a recovery could not put where someone had
    /// touched their CSV, or that waited for later records of their segment.
    pub(super) fn write_left_over(&mut self, now: Millis) -> Result<(), KeeperError> {
        if self.is_committing() || !self.pending.is_empty() || !self.durable.is_empty() {
            return Ok(());
        }
        if !self.results.has_pending() {
            return Ok(());
        }
        match self.apply_results(now) {
            Err(error) if error.is_shortage() => self.waits_for(&error, now),
            other => other,
        }
    }

    pub(super) fn has_room(&mut self, now: Millis) -> Result<(), KeeperError> {
        self.short_of = None;
        self.room_since = Some(now);
        self.step(Event::Claims { allowed: self.claims_allowed }, now)
    }

    /// Says that there is room again once that has lasted: at its edge it comes and goes all the time.
    pub(super) fn say_room(&mut self, now: Millis) {
        let lasts = |since: Millis| since > now || now - since >= ROOM_LASTS_MS;
        if !self.room_since.is_some_and(lasts) {
            return;
        }
        self.room_since = None;
        let of = self.said_short.take().map(Notice::HasRoom);
        // Room for what was under way is not yet as much as is to stay free: who saw to that says so.
        if self.claims_allowed {
            self.out.extend(of.map(Output::Notice));
        }
    }

    /// [`Self::is_short`] of what an error names. Of rights it is said on what.
    pub(super) fn waits_for(
        &mut self,
        error: &KeeperError,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let of = Shortage::of(error);
        if of == Shortage::Rights && self.said_short.is_none() {
            let reason = chain(error);
            self.out.push(Output::Notice(Notice::CsvRefused { reason }));
        }
        self.is_short(of, now)
    }

    pub(super) fn is_short(&mut self, of: Shortage, now: Millis) -> Result<(), KeeperError> {
        if of == Shortage::Files {
            self.folders.close_all();
        }
        if self.short_of.is_none() {
            let of = of.on(&self.path);
            self.short_of = Some(of);
            self.room_since = None;
            if self.said_short.is_none() {
                self.said_short = Some(of);
                self.out.push(Output::Notice(Notice::Short(of)));
            }
        }
        self.step(Event::Claims { allowed: false }, now)
    }

    /// Whether there is too little of something, and how long to wait before the next try, in milliseconds.
    pub fn full_wait(&self) -> Option<Millis> {
        self.short_of.map(|_| FULL_AGAIN_MS)
    }

    /// A record is durable and applied: settle, tell the core, tell the world.
    pub(super) fn follow_up(&mut self, record: Record, now: Millis) -> Result<(), KeeperError> {
        match record {
            Record::Outcome(outcome) => {
                let job = outcome.job;
                self.settle_job(&outcome)?;
                self.hand_on(&outcome, now)?;
                self.new_sources.extend(outcome.source);
                self.step(Event::Recorded { job }, now)
            }
            Record::Attempt(attempt) => {
                let job = attempt.job;
                self.retry_notice(&attempt, now);
                if let Some(info) = self.jobs.get_mut(&job) {
                    info.attempt = Some(attempt);
                }
                self.step(Event::Recorded { job }, now)
            }
            Record::InputOutcome(outcome) => self.input_recorded(outcome, now),
            Record::InputTried(tried) => self.input_tried(tried, now),
            Record::Take(take) => self.taken(&take, now),
            Record::CsvSeal(_) => {
                self.sealed = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn retry_notice(&mut self, attempt: &Attempt, now: Millis) {
        let Some(info) = self.jobs.get(&attempt.job) else { return };
        self.out.push(Output::Notice(Notice::Retry {
            job: attempt.job,
            rel: info.rel.clone(),
            route: self.route_name(info.route),
            attempt: attempt.attempt,
            incomplete: attempt.incomplete_since_ms.is_some(),
            reason: attempt.reason.clone(),
            wait_ms: attempt.not_before_ms.saturating_sub(now),
        }));
    }

    pub(super) fn settle_job(&mut self, outcome: &Outcome) -> Result<(), KeeperError> {
        let Some(info) = self.jobs.get(&outcome.job) else { return Ok(()) };
        let claimed = info.claimed(outcome.job);
        let settled = settle_outcome(&self.spool, outcome, claimed, false, &mut self.folders)?;
        self.say_left(settled.left.as_deref());
        self.inputs.remove(&outcome.job);
        let ended = self.jobs.remove(&outcome.job).and_then(|info| info.ended);
        let (log, stderr) = ended.map_or_else(Default::default, |it| (it.log, it.stderr));
        self.out.push(Output::Notice(Notice::Finished(Box::new(Finished {
            outcome: outcome.clone(),
            settled,
            log,
            stderr,
        }))));
        Ok(())
    }

    pub(in crate::daemon) fn say_left(&mut self, left: Option<&str>) {
        if let Some(left) = left {
            let left = std::path::Path::new("processing").join(left);
            self.out.push(Output::Notice(Notice::LeftBehind { left }));
        }
    }

    pub(super) fn append(&mut self, record: Record, now: Millis) -> Result<(), KeeperError> {
        self.journal.append(&record)?;
        self.pending.push(record);
        self.has_news = true;
        self.pending_since.get_or_insert(now);
        Ok(())
    }
}
