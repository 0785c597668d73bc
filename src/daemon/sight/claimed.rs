//! After the claim: what must be asked once more before the first attempt.
//!
//! Must not know: how a claim is made.
//!
//! Invariant: a rename stops no writer, so a claimed file is looked at again, unless the claim itself found
//! that nobody can write into it.

use std::path::Path;

use super::{Proof, look_of, writer_of};
use crate::core::JobId;
use crate::core::complete::{Past, Writer, again};
use crate::core::state::Millis;
use crate::daemon::keeper::{Keeper, KeeperError, Output};
use crate::daemon::notice::Notice;
use crate::fs::{Filesystem, Lease};
use crate::spool::claim::ClaimedFile;
use crate::spool::{Claimed, Place};

impl<F: Filesystem> Keeper<F> {
    /// A claim was made: remembers what must be asked again, and brings the sentinel along.
    pub(in crate::daemon) fn claimed_with(
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
    pub(in crate::daemon) fn still_written(
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
        self.take_back(job, attempt, now)?;
        Ok(Some(until))
    }

    /// Born as its first attempt, which did not begin: a crash now must not count.
    pub(in crate::daemon) fn take_back(
        &mut self,
        job: JobId,
        attempt: u32,
        now: Millis,
    ) -> Result<(), KeeperError> {
        let has_its_name = self.jobs.get(&job).is_some_and(|info| info.begun == attempt);
        if has_its_name { self.set_back(job, attempt.saturating_sub(1), now) } else { Ok(()) }
    }
}
