//! Routes by content: which route a file is for, where `fields` decide.
//!
//! Must not know: what the fields mean; `config::selection` compares them.
//!
//! A permit is of a route, so the route must be known before the claim; but until the claim a producer
//! can put another file there. So a whole file is read twice: before its claim, while its name waits at
//! a *place of sorting*, which the core takes for a route; and once more when its first attempt is to
//! begin, which decides. What was taken in by `batch`, or found at start, is only read then.
//!
//! Invariants
//! - No worker gets a file that does not fit its route's fields as it was when the attempt began.
//! - What is read between two messages is bounded: the keeper does not stand still.
//! - No job ever starts at the place of sorting.

use std::path::Path;

use super::Keeper;
use crate::config::selection::fit;
use crate::config::{Route, Unit, limits};
use crate::core::state::{Candidate, Event, Millis, RouteRules};
use crate::core::{FailClass, Failure, JobId, RelPath};
use crate::fs::{Filesystem, is_shortage};
use crate::spool::{Claimed, Place};

/// A file that cannot be read for want of something is tried again after this long, in milliseconds.
const AGAIN_MS: Millis = 1_000;
/// What reading a file costs beside its bytes, in bytes.
const COST: usize = 16 << 10;

/// What the place of sorting stands for in the list of routes: it has no name and no worker.
pub(super) fn no_route() -> Route {
    Route::new("", Vec::new())
}

/// The core's rules for the place of sorting: names wait there like those of its most urgent route.
pub(super) fn rules(routes: &[Route]) -> RouteRules {
    let by_content = routes.iter().filter(|route| !route.fields.is_empty());
    RouteRules {
        priority: by_content.map(|route| route.priority).max().unwrap_or(0),
        ..super::rules(&no_route())
    }
}

/// What a look into a file gave.
enum Look {
    /// All of it.
    Content(Vec<u8>),
    /// It is no longer there.
    Gone,
    /// Descriptors or memory are short.
    Later,
    /// It cannot be read, or not for this.
    Never(String),
}

impl<F: Filesystem> Keeper<F> {
    /// Where names of this kind wait: at their route, or to be sorted.
    pub(super) fn place_of(&self, rel: &RelPath) -> Option<usize> {
        let route = self.table.find(rel)?;
        if self.table.is_by_content(rel) {
            return Some(self.sorting);
        }
        self.places.get(route).copied()
    }

    /// Where a folder waits that is one job.
    pub(super) fn place_of_folder(&self, rel: &RelPath) -> Option<usize> {
        self.places.get(self.table.find_folder(rel)?).copied()
    }

    /// Whether the jobs of what waits there are folders.
    pub(in crate::daemon) fn takes_folders(&self, place: usize) -> bool {
        self.routes.get(place).is_some_and(|route| route.unit == Unit::Folder)
    }

    /// The route of a file that was claimed in an earlier life. One that fits none is sorted out when
    /// it is to start.
    pub(super) fn place_of_claimed(&self, claimed: Claimed, rel: &RelPath) -> Option<usize> {
        if claimed.is_folder() {
            return self.place_of_folder(rel);
        }
        let place = self.place_of(rel)?;
        if place != self.sorting {
            return Some(place);
        }
        match self.look(&self.spool.processing, &path_of(claimed, rel)) {
            Look::Content(content) => Some(self.choose(rel, &content).unwrap_or(place)),
            Look::Gone | Look::Later | Look::Never(_) => Some(place),
        }
    }

    fn choose(&self, rel: &RelPath, content: &[u8]) -> Result<usize, String> {
        let route = self.table.choose(rel, content)?;
        Ok(self.places.get(route).copied().unwrap_or(self.sorting))
    }

    fn look(&self, dir: &F::Dir, path: &Path) -> Look {
        let read = || -> std::io::Result<Result<Vec<u8>, u64>> {
            let file = self.spool.fs.open(dir, path, false)?;
            let size = self.spool.fs.stat_file(&file)?.size;
            let most = limits::FIELDS_FILE;
            if size > most {
                return Ok(Err(size));
            }
            let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
            let read = self.spool.fs.read_at(&file, 0, &mut content)?;
            content.truncate(read);
            Ok(Ok(content))
        };
        match read() {
            Ok(Ok(content)) => Look::Content(content),
            Ok(Err(size)) => Look::Never(format!(
                "it has {size} bytes: a route by fields is chosen for files of at most {} bytes",
                limits::FIELDS_FILE
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Look::Gone,
            Err(error) if is_shortage(&error) => Look::Later,
            Err(error) => Look::Never(format!("it cannot be read to choose its route: {error}")),
        }
    }

    /// What is in a copied file below `processing/`, to choose its route by; `None`: that cannot be told now.
    pub(super) fn read_to_choose(&self, path: &Path) -> Option<Vec<u8>> {
        match self.look(&self.spool.processing, path) {
            Look::Content(content) => Some(content),
            Look::Gone | Look::Later | Look::Never(_) => None,
        }
    }

    /// What is to be said instead of claiming a whole file; `None`: it is claimed, and sorted out.
    pub(super) fn sort_candidate(&mut self, candidate: &Candidate, now: Millis) -> Option<Event> {
        let held = |until| Event::Held { candidate: candidate.clone(), until };
        if self.may_read == 0 {
            return Some(held(Some(now.saturating_add(1))));
        }
        let rel = &candidate.rel;
        match self.look(&self.spool.incoming, rel.as_path()) {
            Look::Content(content) => {
                self.may_read = self.may_read.saturating_sub(content.len().saturating_add(COST));
                match self.choose(rel, &content) {
                    Ok(route) if self.core.has_its_share(route) => {
                        if self.core.is_stuck(route) {
                            self.waits_unseen();
                        }
                        self.waits.forget(rel);
                        Some(held(None))
                    }
                    Ok(route) => {
                        let candidate = Candidate { route, ..candidate.clone() };
                        Some(Event::Sorted { candidate, from: self.sorting })
                    }
                    Err(reason) => self.waits_for_route(rel, reason, now).map(|at| held(Some(at))),
                }
            }
            Look::Gone => {
                self.waits.forget(rel);
                Some(held(None))
            }
            Look::Later => Some(held(Some(now.saturating_add(AGAIN_MS)))),
            Look::Never(_) => None,
        }
    }

    /// Looks into a claimed file before its first attempt. `None`: it is for this route; otherwise what
    /// is to be said instead of starting it.
    pub(super) fn sort_claimed(&self, job: JobId, at: usize) -> Option<Event> {
        let info = self.jobs.get(&job).filter(|info| info.begun_as.is_none())?;
        if info.claimed(job).is_folder() {
            return None;
        }
        if info.take.as_ref().is_some_and(|take| take.route.is_some()) {
            // Another job has handed it to this route.
            return None;
        }
        let route = self.routes.get(at)?;
        let asks = !route.fields.is_empty();
        if at != self.sorting && !asks && !self.table.is_by_content(&info.rel) {
            return None;
        }
        let path = path_of(info.claimed(job), &info.rel);
        let no_route = |reason: String| {
            let failure = Failure::new(FailClass::Permanent, reason);
            Some(Event::Resorted { job, to: Err(failure) })
        };
        let content = match self.look(&self.spool.processing, &path) {
            Look::Content(content) => content,
            Look::Later => return Some(Event::StartFailed { job }),
            Look::Gone => return no_route("its file vanished from processing/".to_owned()),
            Look::Never(reason) => return no_route(reason),
        };
        if asks && fit(&route.fields, &content) {
            return None;
        }
        match self.choose(&info.rel, &content) {
            Ok(place) if place == at => None,
            Ok(place) => Some(Event::Resorted { job, to: Ok(place) }),
            // Claimed for a route that is no more and asked for nothing: it goes on with it.
            Err(_) if at != self.sorting && !asks => None,
            Err(reason) => no_route(reason),
        }
    }

    /// A resorted job is known under its new route.
    pub(super) fn note_route(&mut self, event: &Event) {
        if let Event::Resorted { job, to: Ok(route) } = event
            && let Some(info) = self.jobs.get_mut(job)
        {
            info.route = *route;
        }
    }

    /// Settings are followed while it runs: a file that fits no route waits so long for one.
    pub(in crate::daemon) fn wait_for_routes(&mut self, patience: Millis) {
        self.patience = patience;
    }

    /// Called when nothing waits to be carried out.
    pub(super) fn may_read_again(&mut self) {
        self.may_read = limits::FIELDS_READ;
    }
}

fn path_of(claimed: Claimed, rel: &RelPath) -> std::path::PathBuf {
    Path::new(&Place::Job(claimed).name()).join(rel.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::core::Verdict;
    use crate::daemon::keeper::{Input, Output};
    use crate::daemon::recover::{Surroundings, recover};
    use crate::fs::sim::SimFs;
    use crate::spool::Spool;
    use crate::worker::{Ended, Task};

    const NOW: Millis = 1_700_000_000_000;

    fn route(name: &str, kind: &str) -> Route {
        Route {
            fields: vec![("kind".to_owned(), kind.into())],
            max_workers: Some(1),
            ..Route::new(name, vec!["true".to_owned()])
        }
    }

    fn keeper(sim: &SimFs) -> Keeper<SimFs> {
        let routes = vec![route("a", "a"), route("b", "b")];
        let settings = Settings { workers: 3, routes, ..Settings::default() };
        let spool = Spool::open(sim.clone(), sim.root()).unwrap();
        let around = Surroundings {
            path: "/s".into(),
            boot: "boot".to_owned(),
            now: NOW,
            random: || [7; 10],
        };
        recover(spool, &settings, &around).unwrap().0
    }

    fn started(keeper: &mut Keeper<SimFs>) -> Vec<Task> {
        let start = |output| match output {
            Output::Start(task) => Some(task),
            _ => None,
        };
        keeper.take_outputs().into_iter().filter_map(start).collect()
    }

    fn end(keeper: &mut Keeper<SimFs>, task: &Task) {
        let (rows, log, stderr) = (Vec::new(), Vec::new(), Vec::new());
        let took = std::time::Duration::ZERO;
        let ended = Ended { verdict: Verdict::Done, rows, log, stderr, took };
        keeper.handle(Input::Ended { job: task.job, ended }, NOW).unwrap();
        keeper.commit(NOW).unwrap();
    }

    fn names(tasks: &[Task]) -> Vec<(String, String)> {
        tasks.iter().map(|task| (task.rel.to_string(), task.route.name.clone())).collect()
    }

    /// Goal: what is in the file when its attempt begins decides, not what was there when it was
    /// sorted. Method: two files wait for a route with one slot; one is swapped for a message to the
    /// other route, one for a message to none.
    #[test]
    fn a_file_that_is_swapped_after_it_was_sorted_does_not_get_to_its_route() {
        let sim = SimFs::new();
        let mut keeper = keeper(&sim);
        for (name, kind) in [("1", "a"), ("2", "a"), ("3", "a"), ("4", "b")] {
            sim.plant(&format!("incoming/{name}"), format!(r#"{{"kind":"{kind}"}}"#).as_bytes());
        }
        keeper.scan(100, NOW).unwrap();
        let first = started(&mut keeper);
        let pair = |rel: &str, route: &str| (rel.to_owned(), route.to_owned());
        let mut got = names(&first);
        got.sort();
        assert_eq!(got.len(), 2, "{got:?}");
        assert_eq!(got[1].1, "b");
        let waiting: Vec<&str> = ["1", "2", "3"].into_iter().filter(|it| got[0].0 != *it).collect();
        sim.user_remove(&format!("incoming/{}", waiting[0]));
        sim.plant(&format!("incoming/{}", waiting[0]), br#"{"kind":"b"}"#);
        sim.user_remove(&format!("incoming/{}", waiting[1]));
        sim.plant(&format!("incoming/{}", waiting[1]), b"{");
        for task in &first {
            end(&mut keeper, task);
        }
        let second = started(&mut keeper);
        assert_eq!(names(&second), [pair(waiting[0], "b")]);
        keeper.commit(NOW).unwrap();
        assert!(sim.read(&format!("error/{}", waiting[1])).is_some(), "{}", sim.describe());
        end(&mut keeper, &second[0]);
        assert!(sim.read(&format!("done/{}", waiting[0])).is_some());
        assert!(keeper.is_still() && keeper.counts().stuck == 0);
    }

    /// Goal: a large file, or many, hold up nothing. Method: more to be read than may be at once; the
    /// rest waits for its moment, and one that is too large ends with a reason.
    #[test]
    fn reading_is_bounded() {
        let sim = SimFs::new();
        let mut keeper = keeper(&sim);
        let many = limits::FIELDS_READ / COST + 50;
        for n in 0..many {
            sim.plant(&format!("incoming/{n}"), br#"{"kind":"a"}"#);
        }
        keeper.scan(many, NOW).unwrap();
        assert_eq!(started(&mut keeper).len(), 1);
        let counts = keeper.counts();
        assert!((1..=50).contains(&counts.held), "{counts:?}");
        keeper.tick(NOW + 2).unwrap();
        assert_eq!(keeper.counts().held, 0);

        let sim = SimFs::new();
        let mut keeper = self::keeper(&sim);
        let size = usize::try_from(limits::FIELDS_FILE).unwrap() + 1;
        sim.plant("incoming/big", &vec![b' '; size]);
        keeper.scan(9, NOW).unwrap();
        keeper.commit(NOW).unwrap();
        let why = sim.read("error/.why/big.json").unwrap();
        let why = String::from_utf8(why).unwrap();
        assert!(why.contains("at most 16777216 bytes"), "{why}");
    }
}
