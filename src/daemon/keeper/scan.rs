//! The scan of `incoming/`: what of it is offered to the core, and what no route takes.
//!
//! Must not know: when it is time for one, how a folder is read.
//!
//! Invariants
//! - It reads on only while the window has room; a pass that is over has seen every name.
//! - A file that waits for ever in silence is counted, with an example.

use std::io;

use super::{Keeper, KeeperError, Output};
use crate::config::limits;
use crate::core::RelPath;
use crate::core::state::{Candidate, Millis};
use crate::daemon::notice::Notice;
use crate::fs::{FileType, Filesystem};
use crate::spool::scan::{Scan, Sighting, Unreadable};

/// What the last whole pass over `incoming/` saw.
#[derive(Clone, Debug, Default)]
pub struct ScanCounts {
    /// Files offered to the core.
    pub offered: u64,
    /// Files no route takes.
    pub unrouted: u64,
    /// One of them.
    pub unrouted_example: Option<RelPath>,
    /// Sentinels and companions whose file is not there, and has not been for a while.
    pub lone_sentinels: u64,
    /// One of them.
    pub lone_example: Option<RelPath>,
    /// Companions whose file was looked for in their folder.
    pub(in crate::daemon) searched: usize,
    /// Folders that could not be read.
    pub unreadable: Vec<String>,
}

impl<F: Filesystem> Keeper<F> {
    /// Reads on in `incoming/` while there is room in the window. `true`: a pass has just ended.
    ///
    /// `most` bounds the entries looked at, so that messages do not wait for a large folder.
    pub fn scan(&mut self, most: usize, now: Millis) -> Result<bool, KeeperError> {
        self.scan_entering(most, &mut |_| true, now)
    }

    /// The same; `enters` is asked before a folder is entered.
    pub(in crate::daemon) fn scan_entering(
        &mut self,
        most: usize,
        enters: &mut dyn FnMut(&RelPath) -> bool,
        now: Millis,
    ) -> Result<bool, KeeperError> {
        let mut scan = self.scan.take().unwrap_or_else(|| {
            self.seen = ScanCounts::default();
            self.waits.unrouted.clear();
            Scan::begin(&self.spool)
        });
        let over = self.read_on(&mut scan, most, enters, now)?;
        if !over {
            self.scan = Some(scan);
        } else if self.seen.unrouted == 0 {
            self.waits.told_unrouted = false;
        }
        Ok(over)
    }

    /// A sentinel whose file was never there, or went without it, would wait for ever in silence.
    fn count_lone(&mut self, sentinel: Sighting, file: &RelPath, now: Millis) {
        if has_time(&sentinel, now) {
            return;
        }
        let there = self.spool.fs.stat(&self.spool.incoming, file.as_path());
        if there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.seen.lone_sentinels += 1;
            self.seen.lone_example.get_or_insert(sentinel.rel);
        }
    }

    /// All are counted, and one is told of: there may be a million.
    fn count_unrouted(&mut self, rel: RelPath) {
        self.seen.unrouted += 1;
        if !std::mem::replace(&mut self.waits.told_unrouted, true) {
            self.out.push(Output::Notice(Notice::Unrouted { rel: rel.clone() }));
        }
        self.seen.unrouted_example.get_or_insert(rel);
    }

    pub(in crate::daemon) fn sighted(&mut self, sighting: Sighting, now: Millis) {
        let is_folder = sighting.stat.file_type == FileType::Dir;
        if !is_folder && let Some(file) = self.table.announced(&sighting.rel) {
            // A sentinel is looked for when its file is judged.
            self.count_lone(sighting, &file, now);
            return;
        }
        if !is_folder && self.table.companion_of(&sighting.rel).is_some() {
            self.count_lone_companion(sighting, now);
            return;
        }
        let place = if is_folder {
            self.place_of_folder(&sighting.rel)
        } else {
            self.place_of(&sighting.rel)
        };
        match place {
            // It was one job a moment ago, by its type or by the settings: the next pass will see.
            None if is_folder => {}
            None => self.count_unrouted(sighting.rel),
            Some(route) => {
                if !self.core.holds(&sighting.rel) && !self.core.is_stuck(route) {
                    self.seen.offered += 1;
                }
                let candidate =
                    Candidate { rel: sighting.rel, route, order: sighting.stat.ctime_ns };
                self.core.offer(candidate, now);
            }
        }
    }
}

pub(in crate::daemon) fn describe_unreadable(it: Unreadable) -> String {
    let rel = it.rel.map_or_else(String::new, |rel| rel.to_string());
    format!("incoming/{rel}: {}", it.error)
}

/// What it announces, or comes with, may still come.
pub(in crate::daemon) fn has_time(sighting: &Sighting, now: Millis) -> bool {
    let since = u64::try_from(sighting.stat.ctime_ns / 1_000_000).unwrap_or(u64::MAX);
    let patience = u64::try_from(limits::LONE_SENTINEL.as_millis()).unwrap_or(u64::MAX);
    now.saturating_sub(since) < patience
}
