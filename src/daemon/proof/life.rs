//! One life of the daemon on a simulated disk: recovery, then work until all is done, the power is
//! out, or it is asked to end. The scheduler is played here, by the story's draws.
//!
//! Must not know: what is right. It keeps the ledger; `check` judges.

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::sets::{is_pair, is_sentinel, main_of, plant, shape_of};
use super::story::{BY_HAND, Deed, SPOOL, Source, Story, in_sim, rel, settings, work, work_record};
use crate::core::{JobId, Verdict};
use crate::daemon::keeper::inputs::Collecting;
use crate::daemon::keeper::{Input, Keeper, KeeperError, Output, Staged};
use crate::daemon::notice::Notice;
use crate::daemon::recover::{Report, Surroundings, recover};
use crate::fs::Filesystem;
use crate::fs::sim::{SimDir, SimFs, SplitMix};
use crate::journal::Group;
use crate::journal::waiting::Waiting;
use crate::spool::{Place, Spool};
use crate::worker::records::Lot;
use crate::worker::{Ended, Task};

/// Steps after which a life that has not ended starves someone.
const MOST_STEPS: u32 = 5_000;

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything there is has an outcome.
    Over,
    /// The power went out.
    PowerOut,
    /// It was asked to.
    Drained,
    /// It cannot keep its promise any longer, and says why.
    GaveUp(String),
}

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// The randomness of job ids: the same for the same story.
fn random() -> [u8; 10] {
    let drawn = RANDOM.with(|state| {
        let mut rng = SplitMix::new(state.get());
        state.set(rng.draw());
        state.get()
    });
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&drawn.to_le_bytes());
    bytes
}

/// The simulated disk, or a wrapper that makes it fail.
pub(super) trait Disk: Filesystem<Dir = SimDir> {}
impl<F: Filesystem<Dir = SimDir>> Disk for F {}

/// Places in the line.
const PLACES: usize = 2;

/// Job, path, id, and the attempt and number of each record that has not ended.
type RunningLot = (JobId, String, String, VecDeque<(u32, u64)>);

pub(super) struct Life<'a, F: Disk> {
    pub(super) sim: SimFs,
    pub(super) story: &'a mut Story,
    pub(super) keeper: Keeper<F>,
    pub(super) report: Report,
    /// A refusal is a fault: nothing but the power fails here.
    strict: bool,
    /// A group that is written and not synced.
    group: Option<Group<F>>,
    rng: SplitMix,
    pub(super) running: Vec<(Task, String)>,
    /// Of these, what waits in line, with its place in the table.
    line: Vec<(JobId, usize)>,
    /// All starts find all slots at work.
    pub(super) is_busy: bool,
    waiting: Option<Waiting<F>>,
    /// What slots have of records: the rest of each lot.
    lots: Vec<RunningLot>,
    /// Failed records to be put together.
    collecting: Vec<Collecting>,
    /// Records whose end was told, and which are not known to be over.
    ended: Vec<(JobId, u64)>,
    /// A checkpoint's sync: not begun, or returned and not told yet.
    sync: Option<(u64, bool)>,
    to_resume: Vec<String>,
    staged: Vec<String>,
    draining: bool,
}

/// Whether nothing works any more.
pub(super) fn is_out(sim: &SimFs) -> bool {
    sim.stat(&sim.root(), Path::new(".")).is_err()
}

/// Lives on this disk until the end; a fault of ours goes to `story.broken`.
pub(super) fn live(sim: &SimFs, story: &mut Story) -> End {
    match Life::begin(sim, sim.clone(), story, true) {
        Ok(Some(mut life)) => match life.run() {
            End::GaveUp(why) => {
                life.story.broken.push(format!("the keeper gave up: {why}"));
                End::Over
            }
            end => end,
        },
        Ok(None) => End::PowerOut,
        Err(error) => {
            story.broken.push(format!("recovery refused: {}", chain(&error)));
            End::Over
        }
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

impl<'a, F: Disk> Life<'a, F> {
    /// Recovery. `None`: the power went out in it.
    pub(super) fn begin(
        sim: &SimFs,
        fs: F,
        story: &'a mut Story,
        strict: bool,
    ) -> Result<Option<Self>, KeeperError> {
        story.lives += 1;
        story.now += 60_000;
        let rng = story.rng();
        RANDOM.with(|state| state.set(story.seed ^ story.lives << 32));
        let Ok(spool) = Spool::open(fs, sim.root()) else { return Ok(None) };
        let around = Surroundings {
            path: PathBuf::from(SPOOL),
            boot: format!("boot-{}", sim.boot()),
            now: story.now,
            random,
        };
        let (keeper, report) = match recover(spool, &settings(), &around) {
            Ok(found) => found,
            Err(_) if is_out(sim) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (fs, journal) = (&keeper.spool.fs, &keeper.spool.journal);
        let waiting = match Waiting::create(fs, journal, &around.boot, PLACES) {
            Ok(waiting) => waiting,
            Err(_) if is_out(sim) => return Ok(None),
            Err(source) => return Err(KeeperError::spool("make journal/waiting")(source)),
        };
        let (sim, running) = (sim.clone(), Vec::new());
        let mut life = Self {
            sim,
            story,
            keeper,
            report,
            strict,
            group: None,
            rng,
            running,
            line: Vec::new(),
            is_busy: false,
            waiting,
            lots: Vec::new(),
            collecting: Vec::new(),
            ended: Vec::new(),
            sync: None,
            to_resume: Vec::new(),
            staged: Vec::new(),
            draining: false,
        };
        if is_out(&life.sim) {
            return Ok(None);
        }
        life.know_jobs();
        life.story.finish_sets(&life.sim);
        life.check_sources();
        life.outputs();
        Ok(Some(life))
    }

    pub(super) fn run(&mut self) -> End {
        self.run_with(&mut || ())
    }

    /// `between` is called before each step.
    pub(super) fn run_with(&mut self, between: &mut dyn FnMut()) -> End {
        for _ in 0..MOST_STEPS {
            between();
            if is_out(&self.sim) {
                self.promise_durable();
                return End::PowerOut;
            }
            self.note_over();
            if self.draining && self.keeper.is_still() && self.is_idle() {
                return self.leave(End::Drained);
            }
            if !self.draining && self.is_over() {
                return self.leave(End::Over);
            }
            let stepped = self.step();
            self.outputs();
            if let Err(error) = stepped
                && !is_out(&self.sim)
            {
                self.promise_durable();
                return End::GaveUp(chain(&error));
            }
        }
        let counts = self.keeper.counts();
        self.story.broken.push(format!("it never ends: {counts:?}"));
        End::Over
    }

    fn leave(&mut self, end: End) -> End {
        match self.keeper.tidy() {
            Err(_) if is_out(&self.sim) => End::PowerOut,
            Err(error) => End::GaveUp(chain(&error)),
            Ok(()) => end,
        }
    }

    fn is_over(&self) -> bool {
        let counts = self.keeper.counts();
        self.is_idle()
            && self.collecting.is_empty()
            && self.story.deeds.is_empty()
            && self.sync.is_none()
            && self.group.is_none()
            && self.to_resume.is_empty()
            && self.next_source().is_none()
            && self.keeper.is_still()
            && counts.ready + counts.waiting + counts.candidates + counts.stuck + counts.open == 0
            && self.keeper.jobs.is_empty()
            && !self.has_input()
    }

    fn has_input(&self) -> bool {
        let tree = self.sim.tree();
        let is_input = |path: &String| {
            let rel = path.strip_prefix("incoming/");
            rel.is_some_and(|rel| !is_hidden(rel) && !is_sentinel(rel))
        };
        tree.iter().any(|(path, seen)| is_input(path) && !matches!(seen, crate::fs::sim::Seen::Dir))
    }

    /// One thing that happens, drawn.
    pub(super) fn step(&mut self) -> Result<(), KeeperError> {
        let now = self.story.now;
        match self.rng.below(12) {
            0..=2 if !self.is_idle() => self.end_one(),
            2 if !self.collecting.is_empty() => self.collect(),
            3..=4 => {
                self.keeper.scan(usize::try_from(self.rng.below(6) + 1).unwrap(), now).map(drop)
            }
            5..=6 => self.go_on_with_commit(),
            7 if !self.story.deeds.is_empty() => {
                let deed = self.story.deeds.remove(0);
                self.act(&deed)
            }
            8 => self.take_source(),
            9 => self.go_on_with_sync(),
            10 if !self.to_resume.is_empty() => {
                let route = self.to_resume.remove(0);
                self.keeper.handle(Input::Resume { route }, now)
            }
            11 => {
                self.story.now = match self.keeper.next_time() {
                    Some(at) if self.is_idle() && at < u64::MAX => at.max(now + 1),
                    _ if self.is_idle() => now + 3_000,
                    _ => now + 2,
                };
                self.keeper.tick(self.story.now)
            }
            _ if self.keeper.checkpoint_is_due() => self.keeper.checkpoint(now),
            _ if self.group.is_none() && self.rng.below(8) == 0 => self.keeper.commit(now),
            _ => Ok(()),
        }
    }

    /// As the keeper's thread does it: other things happen between write, fsync and each settling.
    fn go_on_with_commit(&mut self) -> Result<(), KeeperError> {
        let now = self.story.now;
        if let Some(group) = self.group.take() {
            return self.keeper.end_commit(group.sync(), now);
        }
        if self.keeper.has_durable() {
            let most = usize::try_from(1 + self.rng.below(3)).unwrap();
            return self.keeper.settle(most, now);
        }
        if self.keeper.commit_is_due(now) {
            self.group = self.keeper.begin_commit(now)?;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.lots.is_empty()
    }

    /// What is over is never to run again.
    fn note_over(&mut self) {
        let (core, story) = (&self.keeper.core, &mut self.story);
        self.ended.retain(|(job, no)| {
            let is_over = core.progress(*job).is_some_and(|progress| progress.contains(*no));
            if is_over && let Some(id) = story.jobs.get(job) {
                story.over.insert((id.clone(), *no));
            }
            !is_over
        });
    }

    fn collect(&mut self) -> Result<(), KeeperError> {
        let Some(collecting) = self.collecting.pop() else { return Ok(()) };
        let (job, result) = (collecting.job, collecting.run(&self.keeper.spool));
        self.keeper.handle(Input::Collected { job, result }, self.story.now)
    }

    fn end_record(&mut self, at: usize) -> Result<(), KeeperError> {
        let (job, rel, id, rest) = &mut self.lots[at];
        let (job, (attempt, no)) = (*job, rest.pop_front().unwrap());
        let ended = work_record(rel, no, attempt, id);
        let is_last = rest.is_empty();
        if is_last {
            self.lots.swap_remove(at);
        }
        self.ended.push((job, no));
        self.keeper.handle(Input::RecordEnded { job, no, ended, is_last }, self.story.now)
    }

    fn end_one(&mut self) -> Result<(), KeeperError> {
        let all = self.running.len() + self.lots.len();
        let at = usize::try_from(self.rng.below(all as u64)).unwrap();
        if at >= self.running.len() {
            return self.end_record(at - self.running.len());
        }
        if self.line.iter().any(|(job, _)| *job == self.running[at].0.job) {
            return self.leave_line(at);
        }
        let (task, id) = self.running.swap_remove(at);
        let ended = work(&self.sim, &task, &id);
        self.keeper.handle(Input::Ended { job: task.job, ended }, self.story.now)
    }

    fn act(&mut self, deed: &Deed) -> Result<(), KeeperError> {
        let now = self.story.now;
        match deed {
            Deed::Drop(rel) => self.story.careful(&self.sim, rel),
            Deed::Careless(rel) => self.story.careless(&self.sim, rel),
            Deed::TakeAway => take_away(&self.sim),
            Deed::WriteBack => {
                self.sim.user_sync();
                self.story.written_back();
            }
            Deed::Seal => return self.keeper.seal(now),
            Deed::Checkpoint if self.keeper.may_checkpoint() && self.sync.is_none() => {
                return self.keeper.checkpoint(now);
            }
            Deed::Checkpoint => self.story.deeds.insert(0, Deed::Checkpoint),
            Deed::Drain => {
                self.draining = true;
                return self.keeper.handle(Input::Drain, now);
            }
            Deed::Edit(name) => edit(&self.sim, self.story, name),
        }
        Ok(())
    }

    fn next_source(&self) -> Option<&Source> {
        self.story
            .sources
            .iter()
            .find(|source| !self.staged.contains(&source.id) && !self.is_known(source))
    }

    fn is_known(&self, source: &Source) -> bool {
        self.keeper.recent_sources().contains(&source.key)
            || self.keeper.sources.contains(&source.key).unwrap_or(false)
    }

    /// What the stager does: a durable copy under a staging name, then the keeper is told.
    fn take_source(&mut self) -> Result<(), KeeperError> {
        if self.draining || !self.keeper.may_take() {
            return Ok(());
        }
        let Some(source) = self.next_source().cloned() else { return Ok(()) };
        let job = self.keeper.next_id(self.story.now);
        let shape = shape_of(&source.rel);
        let path = format!("processing/{}/{}", Place::Staging(job, shape).name(), source.rel);
        plant(&self.sim, &path, &source);
        self.staged.push(source.id.clone());
        self.story.jobs.insert(job, source.id.clone());
        let staged = Staged { job, rel: rel(&source.rel), shape, source: Some(source.key) };
        self.keeper.handle(Input::Staged(staged), self.story.now)
    }

    fn go_on_with_sync(&mut self) -> Result<(), KeeperError> {
        match self.sync {
            Some((before, false)) => {
                let (fs, root) = self.keeper.sync_handle();
                fs.sync_all(&root).map_err(KeeperError::spool("sync"))?;
                self.story.written_back();
                self.sync = Some((before, true));
                Ok(())
            }
            Some((before, true)) => {
                self.sync = None;
                self.keeper.handle(Input::Synced { before }, self.story.now)
            }
            None => Ok(()),
        }
    }

    pub(super) fn outputs(&mut self) {
        for output in self.keeper.take_outputs() {
            match output {
                // Comparing is reading: no story's route asks for it.
                Output::Start(task) | Output::Compare(task) => self.started(task),
                Output::StartRecords(given) => self.started_records(&given.0, &given.1),
                Output::Collect(collecting) => self.collecting.push(*collecting),
                Output::Sync { before } => self.sync = Some((before, false)),
                Output::Notice(notice) => self.noticed(notice),
            }
        }
    }

    /// A slot has it, or it waits in line for one.
    pub(super) fn has(&self, name: &str, waits: bool) -> bool {
        let is_in_line = |job| self.line.iter().any(|(other, _)| *other == job);
        let mine = |task: &Task| task.rel.to_string() == name && is_in_line(task.job) == waits;
        self.running.iter().any(|(task, _)| mine(task))
    }

    fn started(&mut self, task: Task) {
        if is_out(&self.sim) {
            return;
        }
        let rel = task.rel.to_string();
        let bytes = self.sim.read(&main_of(&in_sim(&task.path), &rel));
        let Some(id) = bytes.and_then(|bytes| self.story.id_of(&bytes, &rel)) else {
            self.story.broken.push(format!("{} runs, and nobody dropped it", task.path.display()));
            return;
        };
        if is_pair(&rel) && self.sim.read(&format!("{}.c", in_sim(&task.path))).is_none() {
            self.story.broken.push(format!("{id} runs without its companion"));
        }
        if self.story.promised.contains_key(&id) {
            self.story.broken.push(format!("{id} runs again although it was recorded"));
        }
        if self.running.iter().any(|(_, other)| *other == id) {
            self.story.broken.push(format!("{id} runs twice at once"));
        }
        self.story.makes(&id, &task.rel.to_string());
        self.story.jobs.insert(task.job, id.clone());
        // Any start may have found all slots at work, and wait for one.
        if self.line.len() < PLACES && (self.rng.below(2) == 0 || self.is_busy) {
            let taken = |place: &usize| self.line.iter().any(|(_, at)| at == place);
            let place = (0..PLACES).find(|place| !taken(place)).unwrap();
            let noted = self.waiting.as_ref().map(|it| it.enter(place, task.job, task.attempt));
            if noted.is_some_and(|noted| noted.is_ok()) {
                self.line.push((task.job, place));
            }
        }
        if !self.line.iter().any(|(job, _)| *job == task.job) {
            self.story.runs.push(id.clone());
        }
        self.running.push((task, id));
    }

    /// A slot takes a task out of the line, or it goes back without having begun.
    fn leave_line(&mut self, at: usize) -> Result<(), KeeperError> {
        let (task, id) = &self.running[at];
        let (job, id) = (task.job, id.clone());
        let here = self.line.iter().position(|(other, _)| *other == job).unwrap();
        let (_, place) = self.line.swap_remove(here);
        if let Some(Err(source)) = self.waiting.as_ref().map(|it| it.leave(place)) {
            return Err(KeeperError::Spool { what: "leave the line".to_owned(), source });
        }
        if self.rng.below(4) == 0 {
            self.running.swap_remove(at);
            let ended = Ended::without_rows(Verdict::Released);
            return self.keeper.handle(Input::Ended { job, ended }, self.story.now);
        }
        self.story.runs.push(id);
        Ok(())
    }

    fn started_records(&mut self, task: &Task, lot: &Lot) {
        let bytes = self.sim.read(&in_sim(&task.path));
        let rel = task.rel.to_string();
        let Some(id) = bytes.and_then(|bytes| self.story.id_of(&bytes, &rel)) else {
            self.story.broken.push(format!("{} runs, and nobody dropped it", task.path.display()));
            return;
        };
        self.story.jobs.insert(task.job, id.clone());
        let mut records = VecDeque::new();
        for (attempt, raw) in &lot.records {
            let record = lot.format.read(raw).unwrap();
            if record.value.field(&id).as_deref() != Some(&record.no.to_string()) {
                self.story.broken.push(format!("{id} has no record like {record:?}"));
            }
            let key = (id.clone(), record.no);
            let runs = self.lots.iter().any(|(_, _, other, rest)| {
                *other == id && rest.iter().any(|(_, no)| *no == record.no)
            });
            if self.story.over.contains(&key) || self.story.promised.contains_key(&id) {
                self.story.broken.push(format!("{key:?} runs again although it was recorded"));
            }
            if runs {
                self.story.broken.push(format!("{key:?} runs twice at once"));
            }
            self.story.runs.push(id.clone());
            records.push_back((*attempt, record.no));
        }
        self.lots.push((task.job, rel, id, records));
    }

    fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Finished(finished) => {
                let is_done = finished.outcome.failure.is_none();
                self.promise(finished.outcome.job, is_done);
            }
            Notice::Taken { job } => {
                let id = self.story.jobs.get(&job).cloned();
                self.story.taken.extend(id);
            }
            Notice::Paused { route, .. } => self.to_resume.push(route),
            // After a power cut nothing works; before it, nothing stands in the way.
            Notice::ClaimRefused { rel, reason, .. } | Notice::StartRefused { rel, reason }
                if self.strict && !is_out(&self.sim) =>
            {
                self.story.broken.push(format!("{rel} refused: {reason}"));
            }
            _ => {}
        }
    }

    fn promise(&mut self, job: JobId, is_done: bool) {
        let Some(id) = self.story.jobs.get(&job).cloned() else {
            self.story.broken.push(format!("{job} is recorded, and nobody knows it"));
            return;
        };
        if is_done {
            self.story.made(&id);
        }
        if let Some(before) = self.story.promised.insert(id.clone(), is_done) {
            self.story.broken.push(format!("{id} is recorded twice, first done={before}"));
        }
    }

    /// The power went out between a commit and its notices: a promise all the same.
    fn promise_durable(&mut self) {
        let outcomes: Vec<_> = self.keeper.durable_outcomes().collect();
        for (job, is_done) in outcomes {
            // Its notice may be out already.
            if self.story.jobs.get(&job).is_none_or(|id| !self.story.promised.contains_key(id)) {
                self.promise(job, is_done);
            }
        }
    }

    /// Claims that recovery took up under whatever name.
    fn know_jobs(&mut self) {
        for (job, info) in &self.keeper.jobs {
            let place = Place::Job(info.claimed(*job)).name();
            let path = main_of(&format!("processing/{place}/{}", info.rel), &info.rel.to_string());
            let id = self.sim.read(&path);
            let id = id.and_then(|bytes| self.story.id_of(&bytes, &info.rel.to_string()));
            match id {
                Some(id) => drop(self.story.jobs.insert(*job, id)),
                None => self.story.broken.push(format!("{path} is a job of no file")),
            }
        }
    }

    /// A source that was recorded, or told to be taken, is known for ever.
    fn check_sources(&mut self) {
        for source in self.story.sources.clone() {
            let id = &source.id;
            let owed = self.story.promised.contains_key(id) || self.story.taken.contains(id);
            if owed && !self.is_known(&source) {
                self.story.broken.push(format!("source {id} was forgotten"));
            }
        }
    }
}

/// Never input: what has not arrived yet.
pub(super) fn is_hidden(rel: &str) -> bool {
    rel.split('/').any(|part| part.starts_with('.'))
}

/// A user moves all of `done/` away, and syncs nothing.
fn take_away(sim: &SimFs) {
    for (path, seen) in sim.tree() {
        let is_file = matches!(seen, crate::fs::sim::Seen::File(_));
        if is_file && let Some(rest) = path.strip_prefix("done/") {
            let name = rest.replace('/', "_");
            let free = (0..).map(|n| format!("taken/{name}.{n}"));
            let to = free.into_iter().find(|to| sim.read(to).is_none()).unwrap();
            sim.user_rename(&path, &to);
        }
    }
}

/// An editor writes a copy with a line more, and renames it over the file.
fn edit(sim: &SimFs, story: &mut Story, name: &str) {
    let path = format!("results/{name}");
    if let Some(mut bytes) = sim.read(&path) {
        bytes.extend_from_slice(BY_HAND);
        let copy = format!("results/edit.{}", story.edits.len());
        sim.plant(&copy, &bytes);
        sim.user_rename(&copy, &path);
        story.edits.push(bytes);
    }
}
