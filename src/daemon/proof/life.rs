//! One life of the daemon on a simulated disk: recovery, then work until all is done, the power is
//! out, or it is asked to end. The scheduler is played here, by the story's draws.
//!
//! `jobs`: what the keeper starts and tells. `deeds`: what people do meanwhile.
//!
//! Must not know: what is right. It keeps the ledger; `check` judges.

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::sets::is_sentinel;
use super::story::{SPOOL, Story, settings, work, work_record};
use crate::core::JobId;
use crate::daemon::keeper::inputs::Collecting;
use crate::daemon::keeper::{Input, Keeper, KeeperError, Output, chain};
use crate::daemon::recover::{Report, Surroundings, recover};
use crate::fs::Filesystem;
use crate::fs::sim::{SimDir, SimFs, SplitMix};
use crate::journal::Group;
use crate::journal::waiting::Waiting;
use crate::spool::Spool;
use crate::worker::Task;

mod deeds;
mod jobs;

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
    /// What went back out of it, with the place that still says that it waits.
    went_back: Vec<(JobId, usize)>,
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
        story.set_clocks(sim);
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
            went_back: Vec::new(),
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
        self.story.set_clocks(&self.sim);
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
                self.story.set_clocks(&self.sim);
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
        self.story.set_clocks(&self.sim);
        self.keeper.handle(Input::Ended { job: task.job, ended }, self.story.now)
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
                Output::ReadOn { job } => panic!("the input of {job} is of no story's size"),
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
}

/// Never input: what has not arrived yet.
pub(super) fn is_hidden(rel: &str) -> bool {
    rel.split('/').any(|part| part.starts_with('.'))
}
