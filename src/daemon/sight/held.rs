//! What waits in `incoming/`: remembered, told to people, and looked at again when its time comes.
//!
//! Must not know: how it is judged.
//!
//! Invariant: a folder that refuses claims is told of once, not once a file.

use std::collections::HashMap;
use std::io;

use super::companions::describe_companion;
use super::folder::describe_folder;
use super::{Lacks, Reason, Wait, look_of};
use crate::config::limits;
use crate::core::RelPath;
use crate::core::complete::{Look, Past, Why};
use crate::core::state::Millis;
use crate::daemon::keeper::{Keeper, Output};
use crate::daemon::notice::{FolderRefused, Notice};
use crate::daemon::refusal::{self, Refusal};
use crate::fs::Filesystem;

/// A refused claim is tried again after this, in milliseconds; it doubles …
const REFUSED_AGAIN: Millis = 10_000;
/// … up to this.
const REFUSED_AGAIN_MOST: Millis = 5 * 60_000;

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

impl<F: Filesystem> Keeper<F> {
    /// A claim could not be made: when it is tried again.
    pub(in crate::daemon) fn refused(
        &mut self,
        rel: &RelPath,
        error: &io::Error,
        now: Millis,
    ) -> Millis {
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
    pub(in crate::daemon) fn waits_for_route(
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

    /// Files in `incoming/` that wait, those that wait longest first.
    pub(in crate::daemon) fn held(&self, most: usize, now: Millis) -> Vec<Held> {
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
    pub(in crate::daemon) fn held_file(&self, rel: &RelPath, now: Millis) -> Option<Held> {
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
                let is_older = self.sentinel_stat(rel, &name).is_ok();
                let name = String::from_utf8_lossy(&name);
                let reason = if is_older {
                    format!("{name} is older than the file: make it anew once the file is complete")
                } else {
                    format!("waits for {name}")
                };
                (reason, None)
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
    pub(in crate::daemon) fn expects_files(&self, patience: Millis, now: Millis) -> bool {
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
