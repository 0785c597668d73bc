//! Whether a folder that is one job may be claimed: by its sentinel alone.
//!
//! Must not know: what is in the folder. Nobody can tell from outside whether the last file of a set has
//! come, however long it is still; so without the producer's word it waits, for ever if need be.
//!
//! Invariant: a sentinel that is older than the folder itself says nothing of it: names were added to the
//! folder, or removed, since.

use super::{Judged, Proof, Reason, Wait, look_of};
use crate::core::complete::{Past, again};
use crate::core::rel::escape_bytes;
use crate::core::state::{Candidate, Millis};
use crate::daemon::keeper::Keeper;
use crate::fs::{FileType, Filesystem};

/// Where no rules of waiting are set, its sentinel is looked for again after this long, in milliseconds.
const AGAIN_MS: Millis = 1_000;

impl<F: Filesystem> Keeper<F> {
    /// Whether a folder may be claimed now.
    pub(super) fn judge_folder(&mut self, candidate: &Candidate, now: Millis) -> Judged {
        let rel = &candidate.rel;
        let there = self.spool.fs.stat(&self.spool.incoming, rel.as_path());
        let stat = there.ok().filter(|stat| stat.file_type == FileType::Dir);
        // The claim finds out what stands in the way.
        let Some(stat) = stat else { return Judged::Claim(Proof::Whole, None) };
        let Some(sentinel) = self.table.folder_sentinel(rel) else {
            return Judged::Wait(now.saturating_add(AGAIN_MS));
        };
        if self.is_promised(rel, &sentinel, &stat) {
            return Judged::Claim(Proof::Sentinel(sentinel), Some(stat));
        }
        let (look, before) = (look_of(&stat), self.waits.table.get(rel));
        let past = Past::after(before.map(|wait| wait.past), look, now);
        let changed = match before {
            Some(wait) if wait.past.look == look => wait.changed,
            _ => now,
        };
        // Its arrival wakes us; the timer is for where events are lost.
        let until = match &self.waits.rules {
            Some(rules) => again(rules, &past, now),
            None => now.saturating_add(AGAIN_MS),
        };
        let is_older = self.sentinel_stat(rel, &sentinel).is_ok();
        let reason = Reason::Folder { sentinel, is_older };
        let rel = rel.clone();
        self.remember(&rel, Wait { past, reason, until, changed, refusals: 0 });
        Judged::Wait(until)
    }
}

/// Why a folder waits.
pub(super) fn describe_folder(sentinel: &[u8], is_older: bool) -> String {
    let mut name = String::new();
    // Writing to a string does not fail.
    escape_bytes(sentinel, &mut name).unwrap_or(());
    if is_older {
        format!("{name} is older than the folder: make it anew once the folder is complete")
    } else {
        format!("a folder is one job here, and waits for {name} beside it")
    }
}
