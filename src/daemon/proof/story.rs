//! The world of the crash proof: which files there are, what their workers do, what was promised.
//!
//! Must not know: how the keeper works. It is the ledger of the people around the spool.
//!
//! A file is known by its first line, its *id*, which no other file has. What a worker does with it
//! is decided by the letters before the first `-` of its name, and by the attempt.
//!
//! `recs` is a CSV whose one column is called like its id, so that its failed records are known, too.
//! What becomes of a record is decided by its number, and by the attempt.
//!
//! A folder that is one job is told in `sets`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::sets::{self, is_pair, is_set};
use crate::config::{Records, Route, Settings};
use crate::core::{FailClass, Failure, JobId, RelPath, Row, Spent, Verdict};
use crate::fs::Filesystem;
use crate::fs::sim::{SimDir, SimFs, SplitMix};
use crate::journal::record::SourceKey;
use crate::worker::{Ended, Task};

/// Where the spool seems to be, for tasks.
pub(super) const SPOOL: &str = "/s";
/// What an editor adds to a CSV.
pub(super) const BY_HAND: &[u8] = b"mine,0,by hand,\n";
/// Rows of a job above 1 MiB go to a file of their own.
const BIG: usize = (1 << 20) + 4096;

/// What people know of a file.
#[derive(Clone)]
pub(super) struct File {
    /// Below `incoming/`.
    pub(super) rel: String,
    /// It is durable: accepted, and never to be lost.
    pub(super) durable: bool,
    /// Power cuts before it came.
    born: u32,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "durable={} born={}", self.durable, self.born)
    }
}

/// A source of `batch`.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) key: SourceKey,
    pub(super) rel: String,
    pub(super) id: String,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.id)
    }
}

/// Something that people do while the daemon runs.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// A producer drops a file, durable when it is there.
    Drop(&'static str),
    /// A producer drops a file and syncs nothing.
    Careless(&'static str),
    /// Someone moves what is in `done/` away.
    TakeAway,
    /// The kernel writes everything back.
    WriteBack,
    /// All CSVs with rows are sealed.
    Seal,
    /// A checkpoint, whether due or not.
    Checkpoint,
    /// The daemon is asked to end.
    Drain,
    /// Someone edits a live CSV with an editor that replaces the file.
    Edit(&'static str),
}

/// The ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    pub(super) files: BTreeMap<String, File>,
    pub(super) sources: Vec<Source>,
    pub(super) deeds: Vec<Deed>,
    /// Which file a job is about, by its id.
    pub(super) jobs: BTreeMap<JobId, String>,
    /// Each start of a worker, in order.
    pub(super) runs: Vec<String>,
    /// Outcomes whose commit returned: done or not.
    pub(super) promised: BTreeMap<String, bool>,
    /// Sources told to be taken.
    pub(super) taken: BTreeSet<String>,
    /// Records that are over: never to run again.
    pub(super) over: BTreeSet<(String, u64)>,
    /// Folders whose sentinel was durable.
    pub(super) sealed: BTreeSet<String>,
    /// Pairs of which one file may not be there.
    pub(super) unfinished: BTreeSet<String>,
    /// CSVs as an editor left them.
    pub(super) edits: Vec<Vec<u8>>,
    /// What went wrong on the way.
    pub(super) broken: Vec<String>,
    /// `kill -9` so far.
    pub(super) kills: u32,
    /// Power cuts so far.
    pub(super) cuts: u32,
    /// Lives of the daemon so far.
    pub(super) lives: u64,
    /// All slots have work: what starts waits in line.
    pub(super) is_busy: bool,
    pub(super) now: u64,
    pub(super) seed: u64,
    serial: u64,
}

impl Story {
    pub(super) fn new(seed: u64, deeds: Vec<Deed>) -> Self {
        Self { seed, deeds, now: 1_700_000_000_000, ..Self::default() }
    }

    pub(super) fn new_id(&mut self, rel: &str, durable: bool) -> String {
        self.serial += 1;
        let id = format!("{rel}#{}", self.serial);
        self.files.insert(id.clone(), File { rel: rel.to_owned(), durable, born: self.cuts });
        id
    }

    /// A producer's file that is durable before anyone can see it.
    pub(super) fn drop_file(&mut self, sim: &SimFs, rel: &str) {
        if is_set(rel) {
            return self.drop_set(sim, rel);
        }
        if is_pair(rel) {
            return self.drop_pair(sim, rel);
        }
        let path = format!("incoming/{rel}");
        if sim.read(&path).is_none() {
            let id = self.new_id(rel, true);
            sim.plant(&path, &content_of(&id));
        }
    }

    /// A careful producer: bytes synced, renamed into place, folder synced. The power may go out in it.
    pub(super) fn careful(&mut self, sim: &SimFs, rel: &str) {
        if is_set(rel) {
            return self.careful_set(sim, rel);
        }
        if is_pair(rel) {
            return self.careful_pair(sim, rel);
        }
        let path = format!("incoming/{rel}");
        if sim.read(&path).is_some() {
            return;
        }
        let id = self.new_id(rel, false);
        let arrive = || -> std::io::Result<SimDir> {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let dir = sim.open_dir(&sim.root(), Path::new(parent))?;
            let arriving = format!(".{}", id.replace('/', "_"));
            let file = sim.create(&dir, Path::new(&arriving), 0o644)?;
            sim.write_at(&file, 0, &content_of(&id))?;
            sim.sync_file(&file)?;
            sim.rename(&dir, Path::new(&arriving), &dir, Path::new(name))?;
            Ok(dir)
        };
        match arrive() {
            Ok(dir) => self.files.get_mut(&id).unwrap().durable = sim.sync_dir(&dir).is_ok(),
            Err(_) => drop(self.files.remove(&id)),
        }
    }

    /// A producer's file that was never synced; its name is its own.
    pub(super) fn careless(&mut self, sim: &SimFs, rel: &str) {
        let path = format!("incoming/{rel}");
        if sim.read(&path).is_none() && !self.files.values().any(|file| file.rel == rel) {
            let id = self.new_id(rel, false);
            let arriving = format!("incoming/.{id}");
            sim.user_write(&arriving, id.as_bytes());
            sim.user_rename(&arriving, &path);
        }
    }

    /// A source that `batch` will take in.
    pub(super) fn add_source(&mut self, rel: &str) {
        let id = self.new_id(rel, true);
        let n = u8::try_from(self.sources.len()).unwrap();
        self.sources.push(Source { key: SourceKey([n; 16]), rel: rel.to_owned(), id });
    }

    /// A file of the chain runs: what it makes will be a job of its own, once that is promised. By its
    /// name alone it would go to another route than the next, and leave a made file there.
    pub(super) fn makes(&mut self, id: &str, rel: &str) {
        if kind_of(rel) == "chain" {
            let file =
                File { rel: format!("{rel}.made/sub/made-part"), durable: false, born: self.cuts };
            self.files.entry(made_of(id)).or_insert(file);
        }
    }

    /// Its outcome is durable: so is what it made.
    pub(super) fn made(&mut self, id: &str) {
        if let Some(file) = self.files.get_mut(&made_of(id)) {
            file.durable = true;
        }
    }

    /// There is one clock: the disk's goes on with each change, ours with each wait.
    pub(super) fn set_clocks(&mut self, sim: &SimFs) {
        let theirs = sim.now_ms();
        self.now = self.now.max(theirs);
        sim.pass_time(i64::try_from(self.now - theirs).unwrap() * 1_000_000);
    }

    /// Everything was synced: what came since the last power cut is durable.
    pub(super) fn written_back(&mut self) {
        let cuts = self.cuts;
        for file in self.files.values_mut().filter(|file| file.born == cuts) {
            file.durable = true;
        }
    }

    /// Which file this is, by what is in it, or, where a power cut took that, by its name.
    pub(super) fn id_of(&self, bytes: &[u8], rel: &str) -> Option<String> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.lines().next().unwrap_or_default().to_owned();
        if self.files.contains_key(&text) {
            return Some(text);
        }
        let torn = |(_, file): &(&String, &File)| file.rel == rel && !file.durable;
        self.files.iter().find(torn).map(|(id, _)| id.clone())
    }

    /// The same draws for the same life of the same story.
    pub(super) fn rng(&self) -> SplitMix {
        SplitMix::new(self.seed.wrapping_mul(0x1_0001).wrapping_add(self.lives))
    }
}

/// The settings of every story: two slots, small segments, one route with made files.
pub(super) fn settings() -> Settings {
    let retries = Spent { fail: 1, timeout: 0, oom: 0, crash: 1, lost: 3, try_again: 1 };
    let mut main = Route::new("main", vec!["true".into()]);
    main.retries = retries;
    main.segment_rows = 5;
    main.try_again_after = vec![Duration::from_millis(50)];
    let mut made = main.clone();
    made.name = "made".into();
    made.glob = vec!["made-*".into()];
    made.output = true;
    let mut chain = made.clone();
    chain.name = "chain".into();
    chain.glob = vec!["chain-*".into()];
    chain.next = Some("main".into());
    let mut recs = main.clone();
    recs.name = "recs".into();
    recs.glob = vec!["**/recs-*".into()];
    recs.records = Some(Records::Csv);
    let routes = vec![sets::route(&main), sets::pairs(&main), made, chain, recs, main];
    Settings { workers: 2, routes, ..Settings::default() }
}

/// What a worker does with it.
fn kind_of(rel: &str) -> &str {
    let kind = first_word(rel);
    // `setperm` fares like `perm`, and `set` like all others.
    kind.strip_prefix("set").or_else(|| kind.strip_prefix("pair")).unwrap_or(kind)
}

pub(super) fn first_word(rel: &str) -> &str {
    rel.rsplit('/').next().unwrap_or(rel).split('-').next().unwrap_or(rel)
}

/// What stands in a file.
pub(super) fn content_of(id: &str) -> Vec<u8> {
    let rel = id.split('#').next().unwrap_or(id);
    let records = (1..=records_of(rel)).map(|no| format!("\n{no}"));
    records.fold(id.to_owned(), |text, line| text + &line).into_bytes()
}

/// Records of a file; 0: it is a task as a whole.
pub(super) fn records_of(rel: &str) -> u64 {
    if kind_of(rel) == "recs" { 7 } else { 0 }
}

/// Whether a record fails in the end.
pub(super) fn record_fails(no: u64) -> bool {
    no.is_multiple_of(3)
}

/// The worker of a record.
pub(super) fn work_record(rel: &str, no: u64, attempt: u32, id: &str) -> Ended {
    let fail = |class, reason| Verdict::Failed(Failure::new(class, reason));
    let verdict = match (no % 3, no % 2, attempt) {
        (0, ..) => fail(FailClass::Permanent, "exit 65: never"),
        (_, 0, 1) => fail(FailClass::TryAgain, "exit 75"),
        _ => Verdict::Done,
    };
    let rows = vec![row(rel, id, usize::try_from(no).unwrap())];
    let took = Duration::from_millis(1);
    Ended { verdict, rows, log: Vec::new(), stderr: Vec::new(), took }
}

/// What the rows of a file that is done count, each once.
pub(super) fn numbers_of(rel: &str) -> Vec<String> {
    let records = (1..=records_of(rel)).filter(|no| !record_fails(*no));
    match records_of(rel) {
        0 => (0..rows_of(rel)).map(|n| n.to_string()).collect(),
        _ => records.map(|no| no.to_string()).collect(),
    }
}

/// Rows that a file gives when it is done, as a whole.
pub(super) fn rows_of(rel: &str) -> usize {
    match kind_of(rel) {
        "none" | "fail" | "perm" | "crash" => 0,
        "two" | "wide" => 2,
        _ => 1,
    }
}

/// Why a file fails in the end, or `None`.
pub(super) fn fails_with(rel: &str) -> Option<&'static str> {
    match kind_of(rel) {
        "fail" => Some("exit 1: no"),
        "perm" => Some("exit 65: never"),
        "crash" => Some("killed by SIGSEGV"),
        _ => None,
    }
}

/// Attempts that a file takes when nothing comes between.
pub(super) fn attempts_of(rel: &str) -> usize {
    match kind_of(rel) {
        "recs" => 2 * usize::try_from(records_of(rel)).unwrap(),
        "fail" | "crash" | "flaky" | "wait" | "again" => 2,
        _ => 1,
    }
}

/// The worker: what becomes of an attempt. Only `rel` and `attempt` decide.
pub(super) fn work(sim: &SimFs, task: &Task, id: &str) -> Ended {
    let rel = task.rel.to_string();
    let fail = |class, reason| Verdict::Failed(Failure::new(class, reason));
    let verdict = match (kind_of(&rel), task.attempt) {
        ("fail", _) => fail(FailClass::Fail, "exit 1: no"),
        ("perm", _) => fail(FailClass::Permanent, "exit 65: never"),
        ("crash", _) | ("flaky", 1) => fail(FailClass::Crash, "killed by SIGSEGV"),
        ("again", 1) => fail(FailClass::TryAgain, "exit 75"),
        ("wait", 1) => Verdict::Incomplete { reason: "half".into(), retry_after_ms: None },
        _ => Verdict::Done,
    };
    if let (Some(output), "chain") = (&task.output, kind_of(&rel)) {
        let [sub, part] =
            [output.join("sub"), output.join("sub/made-part")].map(|path| in_sim(&path));
        sim.plant_dir(&sub);
        write_new(sim, &part, made_of(id).as_bytes());
    } else if let Some(output) = &task.output {
        // Also by an attempt that fails: what it made must not be taken for a result.
        write_new(sim, &in_sim(&output.join("part")), id.as_bytes());
    }
    if is_set(&rel) {
        sets::change(sim, &in_sim(&task.path));
    }
    if kind_of(&rel) == "subst" {
        replace(sim, &in_sim(&task.path));
    }
    if kind_of(&rel) == "mess" {
        write_new(sim, &in_sim(&task.scratch.join("left")), b"scratch");
    }
    let rows = (0..rows_of(&rel)).map(|n| row(&rel, id, n)).collect();
    let took = Duration::from_millis(3);
    Ended { verdict, rows, log: Vec::new(), stderr: Vec::new(), took }
}

/// A worker that puts a changed copy in place of its input, as `sed -i` does. The power may go out in it.
fn replace(sim: &SimFs, path: &str) {
    let make = || -> std::io::Result<()> {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let dir = sim.open_dir(&sim.root(), Path::new(parent))?;
        let copy = Path::new(".copy");
        match sim.remove_file(&dir, copy) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = sim.create(&dir, copy, 0o644)?;
        sim.write_at(&file, 0, &sim.read(path).unwrap_or_default())?;
        sim.sync_file(&file)?;
        sim.replace(&dir, copy, &dir, Path::new(name))
    };
    make().unwrap_or(());
}

/// The id of what a file of the chain is made to.
fn made_of(id: &str) -> String {
    format!("{id}>")
}

pub(super) fn write_new(sim: &SimFs, path: &str, bytes: &[u8]) {
    if sim.read(path).is_none() {
        sim.user_write(path, bytes);
    }
}

fn row(rel: &str, id: &str, n: usize) -> Row {
    let n = n.to_string();
    let mut row = Row::from_pairs([("id", id), ("n", n.as_str())]);
    match kind_of(rel) {
        "wide" => row.set("extra".into(), b"a,\"b\"\nc".to_vec()),
        "big" => row.set("extra".into(), vec![b'x'; BIG]),
        _ => {}
    }
    row
}

/// A task's path as the simulated disk knows it.
pub(super) fn in_sim(path: &std::path::Path) -> String {
    path.strip_prefix(SPOOL).unwrap().to_str().unwrap().to_owned()
}

/// A path of the tests, checked.
pub(super) fn rel(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}
