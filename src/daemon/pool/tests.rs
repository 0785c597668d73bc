//! The pool with real workers that wait for a file before they end.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::core::{RelPath, Verdict};
use crate::worker::tests::route;

/// A pool, the folder that its workers look into, what was noted, and what has ended.
struct World {
    home: tempfile::TempDir,
    pool: Pool,
    notes: Receiver<Note>,
    ended: Receiver<SlotEnded>,
    last: JobId,
}

#[derive(Debug, PartialEq, Eq)]
enum Note {
    Waits(usize, JobId, u32),
    Leaves(usize),
}

impl World {
    fn new(slots: usize, may_leave: bool) -> Self {
        let (send, notes) = channel();
        let waiting = send.clone();
        let (report, ended) = channel();
        let told = Notes {
            places: 2,
            waits: Arc::new(move |place, job, attempt| {
                waiting.send(Note::Waits(place, job, attempt)).unwrap();
            }),
            leaves: Arc::new(move |place| {
                send.send(Note::Leaves(place)).unwrap();
                may_leave
            }),
        };
        let stop = Stop::new().unwrap();
        let report = move |ended| report.send(ended).unwrap();
        let pool = Pool::start(slots, &stop, told, report).unwrap();
        let home = tempfile::tempdir().unwrap();
        let world = Self { home, pool, notes, ended, last: JobId::MIN };
        world.until(|world| world.pool.line.lock().resting == slots);
        world
    }

    fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition(self) {
            assert!(Instant::now() < end, "it never comes to that");
            // Nobody unparks us: waking early does no harm.
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn give(&mut self) -> JobId {
        self.give_to("a", |_| ())
    }

    /// Gives a task of a route with this name that says `begun.N` and ends once there is `go.N`, as that says.
    fn give_to(&mut self, name: &str, settings: impl FnOnce(&mut Route)) -> JobId {
        self.last = JobId::next(self.last, 1, [3; 10]);
        self.give_job(self.last, name, settings);
        self.last
    }

    fn give_again(&self, job: JobId) {
        self.give_job(job, "a", |_| ());
    }

    fn give_job(&self, job: JobId, name: &str, settings: impl FnOnce(&mut Route)) {
        let script = "touch begun.$0; until [ -e go.$0 ]; do sleep 0.01; done; . ./go.$0";
        let at = |name: &str| self.home.path().join(name);
        std::fs::create_dir_all(at("scratch")).unwrap();
        std::fs::write(at("x"), "").unwrap();
        let mut route = route(&["sh", "-c", script, &job.to_string()]);
        name.clone_into(&mut route.name);
        settings(&mut route);
        self.pool.give(Task {
            job,
            attempt: 7,
            route: Arc::new(route),
            rel: RelPath::new("x").unwrap(),
            spool: self.home.path().to_owned(),
            path: at("x"),
            scratch: at("scratch"),
            output: None,
            record: None,
        });
    }

    fn has_begun(&self, job: JobId) -> bool {
        self.home.path().join(format!("begun.{job}")).exists()
    }

    fn let_end(&self, job: JobId) {
        self.let_end_with(job, "");
    }

    fn let_end_with(&self, job: JobId, script: &str) {
        let_end_in(self.home.path(), job, script);
    }
}

fn let_end_in(home: &Path, job: JobId, script: &str) {
    let whole = home.join("script");
    std::fs::write(&whole, script).unwrap();
    rustix::fs::rename(whole, home.join(format!("go.{job}"))).unwrap();
}

/// Goal: what waits is written down before a slot could have it, and blanked before it begins; nothing that goes
/// back is run. Method: one slot, which is at work, and three tasks for two places.
#[test]
fn what_waits_is_written_down_until_it_does_not() {
    let mut world = World::new(1, true);
    let first = world.give();
    world.until(|world| world.has_begun(first));
    let waiting = [world.give(), world.give(), world.give()];
    assert!(world.pool.waits_since().is_some());
    assert_eq!(world.pool.load().in_line.len(), 3);
    let noted: Vec<_> = world.notes.try_iter().collect();
    assert_eq!(noted, [Note::Waits(0, waiting[0], 7), Note::Waits(1, waiting[1], 7)]);
    world.let_end(first);
    world.until(|world| world.has_begun(waiting[0]));
    assert_eq!(world.notes.try_iter().collect::<Vec<_>>(), [Note::Leaves(0)]);
    let load = world.pool.load();
    let (at_work, in_line) = (load.at_work.len(), load.in_line.len());
    assert_eq!((at_work, in_line), (1, 2), "nobody has heard yet that the first ended");
    assert_eq!(world.pool.take_back(), waiting[1..]);
    assert_eq!(world.notes.try_iter().collect::<Vec<_>>(), [], "the name says that it began");
    assert!(world.pool.waits_since().is_none());
    assert!(world.pool.load().in_line.is_empty());
    world.let_end(waiting[0]);
    world.pool.join();
    let ended: Vec<_> = world.ended.iter().map(|it| (it.job, it.ended.verdict)).collect();
    assert_eq!(ended, [(first, Verdict::Done), (waiting[0], Verdict::Done)]);
}

/// Goal: what went back is written down as waiting until it comes again and begins, and no longer; what never comes
/// again takes no place from others for ever. Method: one slot and two places; two tasks that go back, of which one
/// comes again, and one that comes in place of the other.
#[test]
fn what_goes_back_is_written_down_until_it_comes_again() {
    let mut world = World::new(1, true);
    let first = world.give();
    world.until(|world| world.has_begun(first));
    let waiting = [world.give(), world.give()];
    assert_eq!(world.pool.take_back(), waiting);
    assert_eq!(world.notes.try_iter().count(), 2);
    world.give_again(waiting[0]);
    assert_eq!(world.notes.try_iter().collect::<Vec<_>>(), [], "it is written down");
    let third = world.give();
    let noted: Vec<_> = world.notes.try_iter().collect();
    assert_eq!(noted, [Note::Leaves(1), Note::Waits(1, third, 7)]);
    for job in [first, waiting[0], third] {
        world.let_end(job);
    }
    assert_eq!(world.ended.iter().take(3).count(), 3);
    assert_eq!(world.notes.try_iter().collect::<Vec<_>>(), [Note::Leaves(0), Note::Leaves(1)]);
    world.until(|world| world.pool.line.lock().resting == 1);
    let fourth = world.give();
    world.until(|world| world.has_begun(fourth));
    let fifth = world.give();
    assert_eq!(world.pool.take_back(), [fifth]);
    world.let_end(fourth);
    world.until(|world| world.pool.line.lock().resting == 1);
    let noted: Vec<_> = world.notes.try_iter().collect();
    let [Note::Waits(place, ..)] = noted[..] else { panic!("{noted:?}") };
    world.give_again(fifth);
    world.until(|world| world.has_begun(fifth));
    let noted: Vec<_> = world.notes.try_iter().collect();
    assert_eq!(noted, [Note::Leaves(place)], "blanked although a slot was free");
    world.let_end(fifth);
    world.pool.join();
    assert!(!world.home.path().join(format!("begun.{}", waiting[1])).exists());
}

/// Goal: after a reload to fewer workers no more than those run. Method: three slots become one.
#[test]
fn fewer_slots_run_fewer_jobs() {
    let mut world = World::new(3, true);
    world.pool.resize(1).unwrap();
    let first = world.give();
    world.until(|world| world.has_begun(first));
    let second = world.give();
    assert!(world.pool.waits_since().is_some(), "a slot that is no more would have it");
    world.pool.resize(2).unwrap();
    world.until(|world| world.has_begun(second));
    world.let_end(first);
    world.let_end(second);
    world.pool.join();
    assert_eq!(world.ended.iter().count(), 2);
}

/// Goal: what cannot be said to begin does not begin: else its loss would cost it nothing, for ever.
/// Method: notes that cannot be blanked.
#[test]
fn what_cannot_be_blanked_does_not_begin() {
    let mut world = World::new(1, false);
    let first = world.give();
    world.until(|world| world.has_begun(first));
    let second = world.give();
    world.let_end(first);
    world.pool.join();
    assert_eq!(world.ended.iter().map(|it| it.job).collect::<Vec<_>>(), [first]);
    assert!(!world.home.path().join(format!("begun.{second}")).exists());
}

/// Goal: what waits behind an attempt that may pause its route goes back before a slot could take it; what is of
/// another route runs. Method: one slot; a crash, a program that is not there, and a failure where failures
/// pause, each with two tasks of its own route and one of another behind it.
#[test]
fn nothing_of_a_route_follows_what_may_pause_it() {
    let pauses = |route: &mut Route| route.pause_after_failures = Some(9);
    let plain: fn(&mut Route) = |_| ();
    for (settings, script, goes_back) in [
        (plain, "kill -SEGV $$", true),
        (plain, "exec ./none", true),
        (pauses, "exit 1", true),
        (plain, "exit 1", false),
        (pauses, ":", false),
    ] {
        let mut world = World::new(1, true);
        let first = world.give_to("bad", settings);
        world.until(|world| world.has_begun(first));
        let behind = [world.give_to("bad", settings), world.give(), world.give_to("bad", settings)];
        for job in behind {
            world.let_end(job);
        }
        world.let_end_with(first, script);
        let ended: Vec<_> =
            std::iter::repeat_with(|| world.ended.recv().unwrap()).take(4).collect();
        assert_eq!(ended[0].job, first);
        let of = |job| ended.iter().find(|it| it.job == job).map(|it| &it.ended.verdict);
        let others = if goes_back { Verdict::Released } else { Verdict::Done };
        assert_eq!(
            behind.map(of),
            [Some(&others), Some(&Verdict::Done), Some(&others)],
            "{script}"
        );
        assert_eq!([0, 2].map(|at| world.has_begun(behind[at])), [!goes_back; 2], "{script}");
        world.pool.join();
    }
}

/// Goal: who gives orders rests while the line is more than half full, and wakes as soon as it is not.
/// Method: one slot and a full line; all of it may end at once.
#[test]
fn a_long_line_gives_a_rest() {
    let mut world = World::new(1, true);
    let (hour, most) = (Duration::from_secs(3600), limits::longest_line(1));
    world.pool.rest(hour);
    let first = world.give();
    world.until(|world| world.has_begun(first));
    let behind: Vec<_> = (0..most).map(|_| world.give()).collect();
    world.pool.rest(Duration::from_millis(1));
    assert_eq!(world.pool.load().in_line.len(), most, "the rest ends although nothing moves");
    for job in [first].iter().chain(&behind) {
        world.let_end(*job);
    }
    world.pool.rest(hour);
    assert!(world.pool.load().in_line.len() <= most / 2);
    world.pool.join();
    assert_eq!(world.ended.iter().count(), most + 1);
}

/// Goal: where the daemon ends by an error nothing of the line begins any more, and what waited is still known to
/// have waited. Method: one slot, which is at work, and two tasks in line; the pool is dropped before the first ends.
#[test]
fn an_end_by_an_error_begins_nothing() {
    let mut world = World::new(1, true);
    let first = world.give();
    world.until(|world| world.has_begun(first));
    let waiting = [world.give(), world.give()];
    let World { home, pool, notes, ended, .. } = world;
    drop(pool);
    let_end_in(home.path(), first, "");
    assert_eq!(ended.recv_timeout(Duration::from_secs(60)).unwrap().job, first);
    // Its slot was the last that could tell.
    let over = ended.recv_timeout(Duration::from_secs(60)).unwrap_err();
    assert_eq!(over, std::sync::mpsc::RecvTimeoutError::Disconnected);
    let noted: Vec<Note> = notes.try_iter().collect();
    assert_eq!(noted, [Note::Waits(0, waiting[0], 7), Note::Waits(1, waiting[1], 7)]);
    assert!(waiting.iter().all(|job| !home.path().join(format!("begun.{job}")).exists()));
}
