//! Intake: what the keeper's thread makes of the watcher's marks. An event is a hint, the scan is the truth.
//!
//! Must not know: whether a file is whole (`sight`), notify (`watcher`).
//!
//! Invariants
//! - A folder is listed after it is watched, or after it is known that it cannot be; a scan that
//!   meets a folder of which neither is known asks for it and goes on, and the answer lists it.
//! - A folder that comes is a new one, also under a known name.
//! - Lost events, a dead watcher and a new `incoming/` end the same way: everything is watched anew,
//!   and then a fresh scan of everything begins.
//! - Marks are worked off in slices, so that no message waits for a burst.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ops::Bound;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::limits;
use crate::core::RelPath;
use crate::core::complete::{Arrival, Rules};
use crate::fs::real::Kind;
use crate::fs::{RealFs, is_shortage, real};
use crate::spool::scan::Scan;

use super::keeper::KeeperError;
use super::notice::Notice;
use super::service::{Listener, Mode, Service, now_ms};
use super::sight::Sight;
use super::watcher::{Folder, Marks, Unwatched, Watching};

/// Marked names looked at between two looks at the messages.
const NAMES_SLICE: usize = 64;
/// Folders that are not watched and looked for after each whole scan: nobody tells when one goes.
const LOOKED_FOR: usize = 1024;
/// Entries listed between two looks at the messages.
const LIST_SLICE: usize = 256;

/// What is known of the watching, and what is still to be looked at.
#[derive(Default)]
pub struct Intake {
    /// The absolute path of `incoming/`; none where nothing is watched (`batch`).
    root: Option<PathBuf>,
    watching: Option<Watching>,
    /// Folders that are watched, or are known not to be: a scan enters them.
    known: BTreeSet<RelPath>,
    is_root_known: bool,
    /// Asked for, not answered.
    asked: HashSet<Folder>,
    /// Of these, folders that came anew meanwhile: the answer may speak of an earlier one of that name.
    asked_again: HashSet<RelPath>,
    /// Folders that are not watched, and what the system said of one of them.
    unwatched: BTreeSet<RelPath>,
    limit_met: bool,
    /// Of these, the last one that was looked for.
    looked_for: Option<RelPath>,
    trouble: Option<String>,
    /// The filesystem, where it does not tell of everything.
    shared: Option<&'static str>,
    /// Marks not worked off yet.
    names: VecDeque<(RelPath, Arrival)>,
    listings: VecDeque<Folder>,
    listing: Option<Scan<RealFs>>,
    /// Another whole scan must follow the one under way.
    again: bool,
    /// Times that the kernel lost events.
    pub(super) overflows: u64,
    /// When to try to watch again.
    retry: Option<Instant>,
    /// What was said last of how new files are noticed.
    said: Option<String>,
}

impl Intake {
    /// Whether `incoming/` must be listed by a short clock.
    fn polls(&self) -> bool {
        self.root.is_some()
            && (self.shared.is_some()
                || self.watching.is_none()
                || self.trouble.is_some()
                || !self.unwatched.is_empty())
    }

    /// How new files are noticed, for `status`: `ok`, or what is not; `None` where nothing is watched.
    pub(super) fn events(&self) -> Option<String> {
        self.root.as_ref()?;
        let every = limits::POLL.as_secs();
        let all = self.known.len() + 1;
        let bad = self.unwatched.len();
        Some(match (self.shared, &self.watching) {
            (Some(name), _) => format!("of {name} are not enough: listed every {every} s"),
            (None, None) => {
                let why = self.trouble.as_deref().unwrap_or("the watcher ended");
                format!("off ({why}): listed every {every} s")
            }
            _ if self.limit_met => {
                let good = all.saturating_sub(bad);
                let (good, all) = (count(good), count(all));
                format!(
                    "watching {good} of {all} folders (fs.inotify.max_user_watches); the rest is \
                     scanned every {every} s"
                )
            }
            _ if bad > 0 => {
                let why = self.trouble.as_deref().unwrap_or("not watched");
                format!("watching all but {bad} of {all} folders ({why}); listed every {every} s")
            }
            _ => "ok".to_owned(),
        })
    }

    /// What to do about it, where that is known.
    pub(super) fn events_fix(&self) -> Option<String> {
        // Twice as many as there are: folders come, and other programs watch some, too.
        let enough = (2 * self.known.len()).next_power_of_two().max(limits::WATCHES_ADVISED);
        let is_met = self.watching.is_some() && self.limit_met && !self.unwatched.is_empty();
        is_met.then(|| format!("sysctl fs.inotify.max_user_watches={enough}"))
    }

    /// Asks for a folder that a scan met. `true`: it may be entered now.
    fn enters(&mut self, rel: &RelPath) -> bool {
        if self.root.is_none() || self.watching.is_none() || self.known.contains(rel) {
            return true;
        }
        self.ask(Some(rel.clone()));
        false
    }

    fn ask(&mut self, folder: Folder) {
        let Some(watching) = &self.watching else { return };
        if self.asked.insert(folder.clone()) {
            watching.want(folder);
        }
    }

    /// A folder came under this name. Whatever was known of the name was of another one, and notify
    /// keeps watches by name: it is watched anew, and then listed.
    fn came(&mut self, rel: RelPath) {
        self.forget(&rel);
        if self.watching.is_none() {
            self.listings.push_back(Some(rel));
        } else if self.asked.contains(&Some(rel.clone())) {
            self.asked_again.insert(rel);
        } else {
            self.ask(Some(rel));
        }
    }

    fn forget(&mut self, rel: &RelPath) {
        let below = [rel.as_bytes(), b"/"].concat();
        let is_inside = |it: &RelPath| it == rel || it.as_bytes().starts_with(&below);
        // Names that sort between `a` and `a/…`, such as `a.b`, are passed over.
        let range: Vec<RelPath> = self
            .known
            .range(rel.clone()..)
            .take_while(|it| it.as_bytes().starts_with(rel.as_bytes()))
            .filter(|it| is_inside(it))
            .cloned()
            .collect();
        for it in range {
            self.known.remove(&it);
            self.unwatched.remove(&it);
        }
    }

    /// Something is left to be looked at that needs no further message.
    pub(super) fn has_work(&self) -> bool {
        !self.names.is_empty() || self.listing.is_some() || !self.listings.is_empty()
    }

    /// Nothing is asked for and nothing is left: what was there at the start has been seen.
    pub(super) fn is_still(&self) -> bool {
        self.asked.is_empty() && !self.has_work()
    }

    /// Something is tried again by the clock.
    pub(super) fn wants_clock(&self) -> bool {
        self.retry.is_some() || !self.is_still()
    }

    /// A whole scan may begin: `incoming/` itself is watched, or cannot be.
    pub(super) fn may_scan(&self) -> bool {
        self.root.is_none() || self.watching.is_none() || self.is_root_known
    }
}

impl<L: Listener> Service<RealFs, L> {
    /// How long files must be still, by the settings and by what the filesystem can tell.
    pub(super) fn set_waits(&mut self) -> Kind {
        let path = self.keeper.path.join("incoming");
        let kind = real::kind(&path).unwrap_or(Kind::Local);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.keeper.set_rules(Rules {
            quiet_for: self.quiet_for.map(ms),
            is_shared: matches!(kind, Kind::Shared(_)),
            after_close: ms(limits::QUIET_AFTER_CLOSE),
            without_lease: ms(limits::QUIET_WITHOUT_LEASE),
            on_shared: ms(limits::QUIET_ON_SHARED),
            open_again: ms(limits::OPEN_AGAIN),
            open_again_most: ms(limits::OPEN_AGAIN_MOST),
        });
        kind
    }

    /// Finds out what the filesystem can tell, and begins to watch.
    pub(super) fn begin_intake(&mut self) {
        let kind = self.set_waits();
        if self.mode != Mode::Watch {
            return;
        }
        if let Kind::Shared(name) = kind {
            self.intake.shared = Some(name);
        }
        self.intake.root = Some(self.keeper.path.join("incoming"));
        let patience = u64::try_from(limits::ROUTE_PATIENCE.as_millis()).unwrap_or(0);
        self.keeper.wait_for_routes(patience);
        self.watch_anew();
    }

    /// Everything is watched anew, and then scanned.
    fn watch_anew(&mut self) {
        let intake = &mut self.intake;
        let Some(root) = intake.root.clone() else { return };
        // The old threads end; whatever they still mark, nobody takes.
        intake.watching = None;
        intake.known.clear();
        intake.unwatched.clear();
        intake.asked.clear();
        intake.asked_again.clear();
        intake.names.clear();
        intake.listings.clear();
        intake.listing = None;
        intake.is_root_known = false;
        intake.limit_met = false;
        intake.trouble = None;
        match Watching::start(&root, self.sender.clone()) {
            Ok(watching) => {
                intake.watching = Some(watching);
                intake.retry = None;
                intake.ask(None);
            }
            Err(error) => {
                let hint = match error.raw_os_error() {
                    Some(libc::EMFILE) => " (fs.inotify.max_user_instances, or ulimit -n)",
                    Some(libc::EAGAIN) => " (no thread: TasksMax= of the unit, or ulimit -u)",
                    _ => "",
                };
                intake.trouble = Some(format!("{error}{hint}"));
                intake.retry = Some(Instant::now() + limits::POLL);
            }
        }
        self.scan_again();
    }

    /// A fresh scan of everything: now, or once the one under way is over.
    pub(super) fn scan_again(&mut self) {
        self.intake.again = self.state.scanning;
        self.state.scanning = true;
    }

    /// Takes the marks in and works a slice of them off.
    pub(super) fn take_marks(&mut self) -> Result<(), KeeperError> {
        let Some(watching) = &self.intake.watching else { return Ok(()) };
        let Marks { names, crowded, gone, watched, unwatched, lost, is_root_gone, is_dead } =
            watching.take();
        if lost || is_dead || is_root_gone {
            self.intake.overflows += u64::from(lost);
            if lost {
                self.notice(Notice::EventsLost);
                self.tell();
            }
            if is_dead {
                // Not at once: whatever ended it may end the next one, too.
                self.intake.watching = None;
                self.intake.asked.clear();
                self.intake.asked_again.clear();
                self.intake.trouble = Some("the watcher ended".to_owned());
                self.intake.retry = Some(Instant::now() + Duration::from_secs(1));
                self.scan_again();
            } else if !is_root_gone || self.reopen_incoming()? {
                self.watch_anew();
            }
            self.say_events();
            return Ok(());
        }
        let intake = &mut self.intake;
        for rel in gone {
            intake.forget(&rel);
            // A new folder may have its name by now, and notify drops watches by name.
            intake.names.push_back((rel, Arrival::Found));
        }
        for folder in watched {
            intake.answered(&folder);
            intake.listings.push_back(folder);
        }
        for (folder, why) in unwatched {
            intake.answered(&folder);
            match (why, &folder) {
                (Unwatched::Gone, Some(rel)) => intake.forget(rel),
                (why, folder) => {
                    intake.limit_met |= why == Unwatched::Limit;
                    if let Unwatched::Other(reason) = why {
                        intake.trouble = Some(reason);
                    }
                    if let Some(rel) = folder {
                        intake.unwatched.insert(rel.clone());
                    } else {
                        let reason = || "incoming/ is not watched".to_owned();
                        intake.trouble.get_or_insert_with(reason);
                    }
                    intake.listings.push_back(folder.clone());
                }
            }
        }
        intake.listings.extend(crowded);
        intake.names.extend(names);
        self.work_off_names()
    }

    /// Looks at some of the marked names.
    fn work_off_names(&mut self) -> Result<(), KeeperError> {
        if self.intake.names.is_empty() {
            return Ok(());
        }
        let now = now_ms();
        for _ in 0..NAMES_SLICE {
            let Some((rel, arrival)) = self.intake.names.pop_front() else { break };
            match self.keeper.sight(&rel, arrival, now) {
                Sight::Seen => {}
                Sight::Folder => self.intake.came(rel),
                Sight::NoRoom => {
                    // The folder is the queue: it is listed when there is room.
                    self.intake.names.clear();
                    self.scan_again();
                }
            }
        }
        self.keeper.tick(now)?;
        self.outputs()
    }

    /// Goes on with marks and listings, a slice at a time.
    pub(super) fn go_on_intake(&mut self) -> Result<(), KeeperError> {
        self.work_off_names()?;
        if self.state.draining || !self.keeper.wants_names() {
            return Ok(());
        }
        let mut listing = match self.intake.listing.take() {
            Some(listing) => listing,
            None => match self.intake.listings.pop_front() {
                Some(folder) => Scan::begin_at(&self.keeper.spool, folder.as_ref()),
                None => return Ok(()),
            },
        };
        let intake = &mut self.intake;
        // Only the folder itself: those below it are listed when they are watched, or were.
        let mut enters = |rel: &RelPath| intake.enters(rel) && !intake.known.contains(rel);
        if !self.keeper.read_on(&mut listing, LIST_SLICE, &mut enters, now_ms())? {
            self.intake.listing = Some(listing);
        }
        self.outputs()
    }

    /// A slice of the whole scan. `true`: it is over, and no other one must follow.
    pub(super) fn scan_slice(&mut self, most: usize) -> Result<bool, KeeperError> {
        let intake = &mut self.intake;
        let over = self.keeper.scan_entering(most, &mut |rel| intake.enters(rel), now_ms())?;
        if over {
            self.forget_gone();
        }
        let again = over && std::mem::take(&mut self.intake.again);
        Ok(over && !again)
    }

    /// Folders that are not watched and are no more are not counted any longer.
    fn forget_gone(&mut self) {
        use crate::fs::Filesystem;
        let (intake, spool) = (&mut self.intake, &self.keeper.spool);
        if intake.unwatched.is_empty() {
            return;
        }
        let after = intake.looked_for.take().map_or(Bound::Unbounded, Bound::Excluded);
        let some = intake.unwatched.range((after, Bound::Unbounded)).take(LOOKED_FOR);
        let some: Vec<RelPath> = some.cloned().collect();
        intake.looked_for = some.last().filter(|_| some.len() == LOOKED_FOR).cloned();
        for rel in some {
            let seen = spool.fs.stat(&spool.incoming, rel.as_path());
            if seen.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                intake.forget(&rel);
            }
        }
        if intake.unwatched.is_empty() && intake.watching.is_some() {
            intake.limit_met = false;
        }
    }

    /// The time until the next whole scan.
    pub(super) fn scan_interval(&self) -> Duration {
        if self.intake.polls() { self.rescan.min(limits::POLL) } else { self.rescan }
    }

    /// What is looked at every second: whether `incoming/` is still the one we have, whether to watch again.
    pub(super) fn look_at_intake(&mut self) -> Result<(), KeeperError> {
        let is_served = self.mode == Mode::Watch && !self.state.draining;
        if is_served && self.is_incoming_another() && self.reopen_incoming()? {
            self.watch_anew();
        }
        if self.intake.retry.is_some_and(|at| Instant::now() >= at) {
            self.watch_anew();
        }
        self.say_events();
        Ok(())
    }

    fn is_incoming_another(&self) -> bool {
        use crate::fs::Filesystem;
        let spool = &self.keeper.spool;
        let ours = spool.fs.stat(&spool.incoming, ".".as_ref());
        let there = spool.fs.stat(&spool.root, "incoming".as_ref());
        match (ours, there) {
            (Ok(ours), Ok(there)) => ours.ino != there.ino,
            _ => true,
        }
    }

    /// `incoming/` was removed or moved away: the one that stands there now, or a new one, is ours. `false`: not now,
    /// for want of something; it is asked for again by the next look.
    fn reopen_incoming(&mut self) -> Result<bool, KeeperError> {
        match self.keeper.spool.reopen_incoming() {
            Ok(false) => {}
            Ok(true) => {
                self.keeper.scan = None;
                self.notice(Notice::FolderReplaced { name: "incoming" });
                self.tell();
            }
            Err(error) if is_shortage(&error) => {
                // What was watched is gone.
                self.intake.watching = None;
                self.intake.trouble = Some(format!("cannot open incoming/ again: {error}"));
                return Ok(false);
            }
            Err(error) => return Err(KeeperError::spool("open incoming/ again")(error)),
        }
        Ok(true)
    }

    /// Says how new files are noticed, if that has changed.
    fn say_events(&mut self) {
        if !self.intake.asked.is_empty() {
            return;
        }
        let events = self.intake.events();
        if events == self.intake.said {
            return;
        }
        let was_bad = self.intake.said.as_deref().is_some_and(|said| said != "ok");
        self.intake.said.clone_from(&events);
        if let Some(state) = events.filter(|state| was_bad || state != "ok") {
            let fix = self.intake.events_fix();
            self.notice(Notice::Events { is_bad: state != "ok", state, fix });
            self.tell();
        }
    }
}

/// `31,400`
fn count(n: usize) -> String {
    let digits = n.to_string();
    let (first, rest) = digits.split_at((digits.len() - 1) % 3 + 1);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group));
    groups.fold(first.to_owned(), |text, group| format!("{text},{group}"))
}

impl Intake {
    fn answered(&mut self, folder: &Folder) {
        self.asked.remove(folder);
        match folder {
            Some(rel) if self.asked_again.remove(rel) => self.ask(Some(rel.clone())),
            Some(rel) => {
                self.known.insert(rel.clone());
            }
            None => self.is_root_known = true,
        }
    }
}
