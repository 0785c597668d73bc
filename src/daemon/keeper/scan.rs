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
    /// Folders that could not be read, the first of them.
    pub unreadable: Vec<String>,
    /// How many there are besides.
    pub unreadable_more: u64,
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
            return Ok(false);
        }
        self.offered = self.seen.offered;
        self.seen.unreadable_more = scan.unreadable_more;
        if self.seen.unrouted == 0 {
            self.waits.told_unrouted = false;
        }
        Ok(true)
    }

    /// Whether another pass may find what the last one could not offer with success: it offered names, and not only
    /// such as turned out to wait where nobody remembers them.
    pub fn left_to_find(&self) -> bool {
        self.offered > 0
    }

    /// A name that was offered waits, and nobody remembers it: the next pass would only offer it again.
    pub(in crate::daemon) fn waits_unseen(&mut self) {
        self.seen.offered = self.seen.offered.saturating_sub(1);
        self.offered = self.offered.saturating_sub(1);
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
                // What its content chooses may wait for a route that is paused.
                let waits_for = self.core.waits_for(&sighting.rel).unwrap_or(route);
                if !self.core.holds(&sighting.rel) && !self.core.is_stuck(waits_for) {
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

#[cfg(test)]
mod tests {
    use crate::config::limits;
    use crate::daemon::keeper::tests::{keeper, settings};
    use crate::daemon::service::now_ms;
    use crate::spool::scan::{DEPTH_MAX, UNREADABLE_KEPT};

    /// Goal: names that wait and that no table has room for are no reason for one scan after the other: they would
    /// never end, nor a batch that looks for more. Method: more files without their sentinels than may be held; the
    /// second pass finds nothing that it could offer with any success.
    #[test]
    fn names_beyond_the_held_ones_are_not_scanned_for_without_end() {
        // In memory where there is such a place: they are many.
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut settings = settings();
        settings.routes[0].done_file = Some("{name}.ok".to_owned());
        let mut keeper = keeper(home.path(), &settings);
        let now = now_ms();
        keeper.set_rules(crate::core::complete::Rules {
            quiet_for: None,
            is_shared: false,
            after_close: 250,
            without_lease: 2_000,
            on_shared: 10_000,
            open_again: 60_000,
            open_again_most: 60_000,
        });
        for n in 0..limits::WINDOW + 10 {
            std::fs::write(home.path().join("incoming").join(n.to_string()), "").unwrap();
        }
        for _ in 0..2 {
            while !keeper.scan(10_000, now).unwrap() {}
        }
        assert_eq!(keeper.counts().held, limits::WINDOW);
        assert_eq!((keeper.left_to_find(), keeper.counts().candidates), (false, 0));
    }

    /// Goal: folders that cannot be read hold up nobody and fill no memory, however many there are: the first are
    /// told, the others counted. Method: a few more than are told, each too deep to be entered.
    #[test]
    fn of_many_unreadable_folders_some_are_told() {
        let home = tempfile::tempdir().unwrap();
        let mut keeper = keeper(home.path(), &settings());
        let deep = home.path().join("incoming").join(["d"; DEPTH_MAX - 1].join("/"));
        for n in 0..UNREADABLE_KEPT + 3 {
            std::fs::create_dir_all(deep.join(n.to_string())).unwrap();
        }
        for _ in 0..2 {
            while !keeper.scan(10_000, now_ms()).unwrap() {}
            let seen = keeper.seen();
            assert_eq!((seen.unreadable.len(), seen.unreadable_more), (UNREADABLE_KEPT, 3));
        }
    }
}
