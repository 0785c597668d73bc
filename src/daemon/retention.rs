//! Retention: when old files of `done/` and `output/` are looked for, and by whom.
//!
//! Files go on a thread of their own, since removing a large one takes its time. Folders go on the
//! keeper's, which is the only one to make any there: else a settling move could lose its target's folder.
//!
//! Must not know: which files go (`spool::retention`), what a job is.
//!
//! Invariants
//! - Nothing goes whose last move is not behind a checkpoint: the journal may have to repeat it.
//! - One pass at a time. A pass that is cut off leaves nothing to be mended; the next one goes on.
//! - Without new jobs, and until a known file is old enough, nothing is looked at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::{Settings, limits};
use crate::core::state::Millis;
use crate::fs::{Filesystem, RealFs};
use crate::results;
use crate::spool::names;
use crate::spool::retention::{Limits, Swept, Tree, sweep};

use super::notice::Notice;
use super::service::{Listener, Message, Service, now_ms};

/// Folders that the keeper removes between two looks at its other messages.
const FOLDERS_SLICE: usize = 16;

/// What is kept, by the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Files go once they are so old.
    pub age: Option<Duration>,
    /// The oldest go until no more than so many bytes are left.
    pub bytes: Option<u64>,
    /// Sealed CSVs, too.
    pub results: bool,
}

impl Rules {
    /// As the settings say.
    pub fn of(settings: &Settings) -> Self {
        Self {
            age: settings.retention_age,
            bytes: settings.retention_size,
            results: settings.retention_results,
        }
    }

    fn is_on(&self) -> bool {
        self.age.is_some() || self.bytes.is_some()
    }

    /// How long to wait after a pass: often enough that an age is kept to a tenth, and seldom enough that
    /// looking costs 2 % at most. Removing is as much as has come: who waits longer the more there was to
    /// remove falls ever further behind.
    fn pause(&self, took: Duration, removing: Duration) -> Duration {
        let tenth = self.age.map_or(limits::RETENTION_EVERY, |age| age / 10);
        let looked = took.saturating_sub(removing);
        tenth.clamp(Duration::from_secs(1), limits::RETENTION_EVERY).max(looked * 50)
    }
}

/// What the last pass counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Files and bytes by folder.
    pub folders: std::collections::BTreeMap<String, (u64, u64)>,
}

/// Where it is.
#[derive(Debug, Default)]
pub struct Retention {
    /// What is kept.
    pub rules: Rules,
    phase: Phase,
    /// What the last pass counted.
    pub(super) counted: Option<Counted>,
    /// Jobs that had ended when the last pass began.
    ended: u64,
    /// When the last pass ended, and the pause that it needs.
    last: Option<(Instant, Duration)>,
    /// The pass under way goes by older rules: another one follows.
    is_anew: bool,
    /// What could not be removed, as it was told.
    failure: Option<String>,
    /// When the oldest file that is left will be old enough, in Unix milliseconds.
    due_ms: Option<Millis>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    /// For a checkpoint that begins now or later.
    Waits(Millis),
    Runs(Instant),
}

impl Retention {
    /// By these rules; a pass follows soon.
    pub fn by(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// By these rules from now on; a pass follows soon.
    pub fn set_rules(&mut self, rules: Rules) {
        if self.rules != rules {
            self.rules = rules;
            self.last = None;
            self.counted = None;
            self.is_anew = self.phase != Phase::Idle;
        }
    }

    /// Old files go.
    pub(super) fn is_on(&self) -> bool {
        self.rules.is_on()
    }

    /// A pass is under way or will be.
    pub(super) fn is_busy(&self) -> bool {
        self.is_on() && (self.phase != Phase::Idle || self.last.is_none())
    }

    /// Whether a pass could find anything: jobs have ended since the last one, or time has passed.
    fn is_due(&self, ended: u64, now: Millis) -> bool {
        let Some((at, pause)) = self.last else { return true };
        let may_find = ended != self.ended || self.due_ms.is_some_and(|due| now >= due);
        may_find && at.elapsed() >= pause
    }
}

impl<L: Listener> Service<RealFs, L> {
    /// Looked at every second.
    pub(super) fn look_at_retention(&mut self, ended: u64) {
        let now = now_ms();
        let retention = &mut self.retention;
        if !retention.rules.is_on() {
            return;
        }
        // One that is older was made by a clock that has been set back since.
        let is_set_back = matches!(retention.phase, Phase::Waits(since) if since > now);
        if is_set_back || retention.phase == Phase::Idle && retention.is_due(ended, now) {
            retention.ended = ended;
            retention.phase = Phase::Waits(now);
            self.keeper.ask_checkpoint();
        }
        if let Phase::Waits(since) = self.retention.phase
            && let Some(safe) =
                self.keeper.checkpointed_ms().filter(|at| (since..=now).contains(at))
        {
            self.retention.phase = Phase::Runs(Instant::now());
            if self.begin_sweep(safe).is_err() {
                // No thread is to be had: nothing is urgent here, and it is tried again.
                self.retention.phase = Phase::Waits(since);
            }
        }
    }

    fn begin_sweep(&self, safe: Millis) -> std::io::Result<()> {
        let rules = self.retention.rules;
        let spool = &self.keeper.spool;
        let tree = |name, dir: &<RealFs as Filesystem>::Dir| Tree {
            name,
            dir: dir.clone(),
            takes: |_| true,
            is_deep: true,
            is_unit: Arc::new(|_| false),
        };
        let table = self.keeper.table.clone();
        let is_unit = Arc::new(move |path: &Path| {
            let rel = names::original_path(path);
            rel.is_some_and(|rel| table.find_folder(&rel).is_some())
        });
        let done = Tree { is_unit, ..tree("done", &spool.done) };
        let mut trees = vec![done, tree("output", &spool.output)];
        if rules.results {
            let takes = results::names::is_sealed;
            trees.push(Tree { takes, is_deep: false, ..tree("results", &spool.results) });
        }
        let ns = |ms: Millis| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let before = |age: Duration| {
            now_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        };
        let limits = Limits {
            // Not so near that a pass of many files could meet what was moved while it went on.
            ahead_ns: ns(now_ms().saturating_add(limits::RETENTION_AHEAD_MS)),
            older_than_ns: rules.age.map(|age| ns(before(age))),
            bytes: rules.bytes,
            // The clock of the files may lag behind ours by a tick.
            before_ns: ns(safe.saturating_sub(1000)),
            empty_before_ns: ns(before(rules.age.unwrap_or(limits::RETENTION_EMPTY))),
        };
        let sender = self.sender.clone();
        let work = move || {
            let mut folders = Folders::new(sender.clone());
            let swept = sweep(&RealFs, &trees, &limits, &mut |tree, path| folders.add(tree, path));
            folders.hand_over();
            // The receiver is gone only when the daemon has ended.
            drop(sender.send(Message::Swept(swept)));
        };
        std::thread::Builder::new().name("retention".to_owned()).spawn(work).map(drop)
    }

    /// Folders that were emptied, deepest first. What came into one meanwhile keeps it.
    pub(super) fn remove_emptied(&self, emptied: &[(&'static str, PathBuf)]) {
        let spool = &self.keeper.spool;
        for (tree, path) in emptied {
            let tree = if *tree == "done" { &spool.done } else { &spool.output };
            match spool.fs.remove_dir(tree, path) {
                // Filled again, or gone: either is fine.
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// A pass is over.
    pub(super) fn swept(&mut self, swept: Swept) {
        let retention = &mut self.retention;
        let took = match std::mem::take(&mut retention.phase) {
            Phase::Runs(began) => began.elapsed(),
            Phase::Idle | Phase::Waits(_) => Duration::ZERO,
        };
        let is_anew = std::mem::take(&mut retention.is_anew);
        let pause = retention.rules.pause(took, swept.removing);
        retention.last = Some((Instant::now(), pause)).filter(|_| !is_anew);
        let oldest = swept.oldest_ns.and_then(|ns| u64::try_from(ns / 1_000_000).ok());
        let age = retention.rules.age.and_then(|age| u64::try_from(age.as_millis()).ok());
        let of_age = oldest.zip(age).map(|(oldest, age)| oldest.saturating_add(age));
        // What was too young, or could not be removed, is tried again.
        let bytes: u64 = swept.kept.iter().map(|(_, kept)| kept.bytes).sum();
        let is_over = retention.rules.bytes.is_some_and(|most| bytes > most);
        // A pass that was cut off may have left empty folders.
        let empty = retention.rules.age.unwrap_or(limits::RETENTION_EMPTY);
        let empty = u64::try_from(empty.as_millis()).unwrap_or(u64::MAX);
        let empty = swept.has_young_empty.then(|| now_ms().saturating_add(empty));
        let due = of_age.into_iter().chain(empty).min();
        retention.due_ms = if is_over { Some(0) } else { due };
        let folders = swept.kept.iter();
        let folders =
            folders.map(|(name, kept)| ((*name).to_owned(), (kept.files, kept.bytes))).collect();
        retention.counted = Some(Counted { at_ms: now_ms(), folders });
        if swept.files > 0 {
            self.notice(Notice::OldRemoved { files: swept.files, bytes: swept.bytes });
        }
        let is_news = swept.failure.is_some() && swept.failure != self.retention.failure;
        self.retention.failure.clone_from(&swept.failure);
        if let Some(reason) = swept.failure.filter(|_| is_news) {
            self.notice(Notice::OldStays { files: swept.failures, reason });
        }
        self.tell();
    }
}

/// Emptied folders on their way to the keeper, a few at a time; it waits for each few.
struct Folders {
    keeper: Sender<Message>,
    some: Vec<(&'static str, PathBuf)>,
    is_gone: bool,
}

impl Folders {
    fn new(keeper: Sender<Message>) -> Self {
        Self { keeper, some: Vec::new(), is_gone: false }
    }

    fn add(&mut self, tree: &'static str, path: &Path) -> bool {
        self.some.push((tree, path.to_owned()));
        if self.some.len() >= FOLDERS_SLICE {
            self.hand_over();
        }
        !self.is_gone
    }

    fn hand_over(&mut self) {
        if self.some.is_empty() {
            return;
        }
        let (done, is_done): (SyncSender<()>, _) = sync_channel(1);
        let sent = self.keeper.send(Message::Emptied(std::mem::take(&mut self.some), done));
        self.is_gone = sent.is_err() || is_done.recv().is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: where files come as fast as they go, they go as fast as they come; a tree that is only looked at is
    /// left alone for long. Method: passes that took the same time, to remove and to look.
    #[test]
    fn a_pass_that_removes_much_is_soon_followed() {
        let seconds = Duration::from_secs;
        let rules = |age| Rules { age, ..Rules::default() };
        let three_minutes = rules(Some(seconds(180)));
        assert_eq!(three_minutes.pause(seconds(16), seconds(16)), seconds(18));
        assert_eq!(three_minutes.pause(seconds(16), seconds(15)), seconds(50));
        assert_eq!(three_minutes.pause(seconds(16), seconds(0)), seconds(800));
        assert_eq!(rules(Some(seconds(2))).pause(seconds(0), seconds(0)), seconds(1));
        assert_eq!(rules(None).pause(seconds(0), seconds(0)), limits::RETENTION_EVERY);
    }
}
