//! The watcher: wakes the keeper when something happens below `incoming/`. Hints, never the truth.
//!
//! Two threads: notify's own, which reads the kernel's queue and only marks what happened, and ours,
//! which asks notify for watches, since asking waits for notify's thread. The keeper's thread takes
//! the marks, and lists a folder only after it is watched: so nothing falls between the two.
//!
//! Must not know: routes, claims, what a file is. It reads no folder.
//!
//! Invariants
//! - Marking never waits for anything but a lock that is held for a few instructions.
//! - Marks are bounded: names turn into their folder, folders into "everything".
//! - An event without a path (`Flag::Rescan`) is looked for first: the kernel lost events.
//! - The end of notify's thread is a mark, too: it drops what it marks with. What notify does then is to panic, in each
//!   call and at its own end; here that ends nothing.
//!
//! Moving to notify 9 is a change of this file only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::os::unix::ffi::OsStrExt;

use notify::event::{
    AccessKind, AccessMode, CreateKind, EventKind, Flag, ModifyKind, RemoveKind, RenameMode,
};
use notify::{Config, ErrorKind, Event, EventHandler, RecommendedWatcher, RecursiveMode, Watcher};

use crate::config::limits;
use crate::core::RelPath;
use crate::core::complete::Arrival;

use super::service::Message;

/// A folder below `incoming/`; `None` is `incoming/` itself.
pub(super) type Folder = Option<RelPath>;

/// What happened since the marks were last taken.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Names that came or changed.
    pub(super) names: HashMap<RelPath, Arrival>,
    /// Folders of which more happened than there is room for names.
    pub(super) crowded: HashSet<Folder>,
    /// Watched folders that are no longer there under their name.
    pub(super) gone: HashSet<RelPath>,
    /// Folders that are watched from now on: to be listed.
    pub(super) watched: Vec<Folder>,
    /// Folders that cannot be watched, and why: to be listed, now and by the clock.
    pub(super) unwatched: Vec<(Folder, Unwatched)>,
    /// Events were lost: everything is to be listed, and watched anew.
    pub(super) lost: bool,
    /// `incoming/` itself was moved or removed.
    pub(super) is_root_gone: bool,
    /// Nothing will be marked any more.
    pub(super) is_dead: bool,
}

/// Why a folder is not watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unwatched {
    /// It is not there any more.
    Gone,
    /// `fs.inotify.max_user_watches`.
    Limit,
    /// What the system said.
    Other(String),
}

/// The keeper's end. Dropping it ends both threads.
#[derive(Debug)]
pub(super) struct Watching {
    shared: Arc<Shared>,
    /// Our thread has the other end.
    wanted: Sender<Folder>,
}

/// Between notify's thread, ours and the keeper's.
#[derive(Debug)]
struct Shared {
    /// The absolute path of `incoming/`.
    root: PathBuf,
    state: Mutex<State>,
    /// The keeper's messages; one wakes it to take the marks.
    keeper: Sender<Message>,
}

#[derive(Debug, Default)]
struct State {
    marks: Marks,
    /// The keeper was told and has not come yet.
    is_told: bool,
    /// Paths that are watched, to tell a folder's end from a file's.
    watched: BTreeSet<PathBuf>,
}

impl Watching {
    /// Starts both threads; `incoming` is absolute. Nothing is watched yet.
    pub(super) fn start(incoming: &Path, keeper: Sender<Message>) -> io::Result<Self> {
        let root = incoming.to_owned();
        let shared = Arc::new(Shared { root, state: Mutex::default(), keeper });
        let config = Config::default().with_follow_symlinks(false);
        // notify does not say that there is no thread for it (TasksMax=); we ask before.
        drop(std::thread::Builder::new().spawn(|| ())?.join());
        let marker = Marker(Arc::clone(&shared));
        let notify = RecommendedWatcher::new(marker, config).map_err(into_io)?;
        let notify = Notify(Some(notify));
        let (wanted, folders) = channel();
        let ours = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch_all(notify, &ours, &folders))?;
        Ok(Self { shared, wanted })
    }

    /// Asks for a folder to be watched; the answer is a mark.
    pub(super) fn want(&self, folder: Folder) {
        if self.wanted.send(folder).is_err() {
            self.shared.mark(|state| state.marks.is_dead = true);
        }
    }

    /// Takes all marks.
    pub(super) fn take(&self) -> Marks {
        let mut state = self.shared.lock();
        state.is_told = false;
        std::mem::take(&mut state.marks)
    }
}

/// Panics no more: see the module.
struct Notify(Option<RecommendedWatcher>);

impl Notify {
    fn watch(&mut self, path: &Path) -> notify::Result<()> {
        let watch = || match &mut self.0 {
            Some(notify) => notify.watch(path, RecursiveMode::NonRecursive),
            None => Ok(()),
        };
        let ended = |_| Err(notify::Error::generic("the watcher ended"));
        catch_unwind(AssertUnwindSafe(watch)).unwrap_or_else(ended)
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let notify = self.0.take();
        drop(catch_unwind(AssertUnwindSafe(|| drop(notify))));
    }
}

/// Our thread: watches what it is told to, until the keeper's end is dropped.
fn watch_all(mut notify: Notify, shared: &Shared, folders: &Receiver<Folder>) {
    while let Ok(folder) = folders.recv() {
        let path = match &folder {
            Some(rel) => shared.root.join(rel.as_path()),
            None => shared.root.clone(),
        };
        // Before the watch, so that its first event finds it there.
        shared.lock().watched.insert(path.clone());
        // A link that took the folder's place may be watched here; its events are hints at names that
        // are then looked for below `incoming/` without following anything.
        let watched = notify.watch(&path);
        shared.mark(|state| match watched {
            Ok(()) => state.marks.watched.push(folder),
            Err(error) => {
                state.watched.remove(&path);
                state.marks.unwatched.push((folder, why(error)));
            }
        });
    }
}

fn why(error: notify::Error) -> Unwatched {
    match error.kind {
        ErrorKind::MaxFilesWatch => Unwatched::Limit,
        ErrorKind::PathNotFound => Unwatched::Gone,
        ErrorKind::Io(error) if error.kind() == io::ErrorKind::NotFound => Unwatched::Gone,
        ErrorKind::Io(error) => Unwatched::Other(error.to_string()),
        _ => Unwatched::Other(error.to_string()),
    }
}

fn into_io(error: notify::Error) -> io::Error {
    match error.kind {
        ErrorKind::Io(error) => error,
        _ => io::Error::other(error.to_string()),
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it; if one does, the marks are still marks.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let is_told = std::mem::replace(&mut state.is_told, true);
        // Else the keeper wakes up to wait for the lock.
        drop(state);
        if !is_told {
            // The keeper is gone only when the daemon has ended.
            drop(self.keeper.send(Message::Dirty));
        }
    }

    fn rel(&self, path: &Path) -> Folder {
        let below = path.strip_prefix(&self.root).ok()?;
        RelPath::new(below.as_os_str().as_bytes().to_vec())
    }
}

/// What notify's thread calls. It owns this: its end is ours.
struct Marker(Arc<Shared>);

impl Drop for Marker {
    fn drop(&mut self) {
        self.0.mark(|state| state.marks.is_dead = true);
    }
}

impl EventHandler for Marker {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.flag() != Some(Flag::Rescan) => event,
            // The queue overflowed, or could not be read: nobody knows what was in it.
            Ok(_) | Err(_) => return self.0.mark(|state| state.marks.lost = true),
        };
        let Some(path) = event.paths.first() else { return };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.name(path, Arrival::Closed);
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                self.name(path, Arrival::Renamed);
            }
            // A hard link and a new folder say no more than this; of a file being written the end is
            // still to come.
            EventKind::Create(CreateKind::File | CreateKind::Folder) => {
                self.name(path, Arrival::Found);
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From))
            | EventKind::Remove(RemoveKind::Folder | RemoveKind::Other) => self.end(path),
            // Opening is what we do ourselves, writing ends with a close, and `Both` repeats.
            _ => {}
        }
    }
}

impl Marker {
    fn name(&self, path: &Path, arrival: Arrival) {
        let Some(rel) = self.0.rel(path) else { return };
        self.0.mark(|state| {
            let marks = &mut state.marks;
            if marks.names.len() < limits::MARKED_NAMES || marks.names.contains_key(&rel) {
                marks.names.insert(rel, arrival);
            } else if marks.crowded.len() < limits::MARKED_FOLDERS {
                marks.crowded.insert(RelPath::new(rel.parent()));
            } else {
                marks.lost = true;
            }
        });
    }

    /// A folder is no longer where it was. Of files we hear this too: mostly of our own claims.
    fn end(&self, path: &Path) {
        let mut state = self.0.lock();
        if !state.watched.contains(path) {
            return;
        }
        // notify has dropped the watches below it, too. Paths sort by component, so they are together.
        while let Some(below) = state.watched.range(path.to_owned()..).next().cloned() {
            if !below.starts_with(path) {
                break;
            }
            state.watched.remove(&below);
        }
        drop(state);
        self.0.mark(|state| match self.0.rel(path) {
            None => state.marks.is_root_gone = true,
            Some(rel) if state.marks.gone.len() < limits::MARKED_FOLDERS => {
                state.marks.gone.insert(rel);
            }
            Some(_) => state.marks.lost = true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(20);

    /// Takes marks until one is as wanted.
    fn wait_for(watching: &Watching, told: &Receiver<Message>, wanted: impl Fn(&Marks) -> bool) {
        loop {
            let message = told.recv_timeout(SOON).expect("nothing was marked");
            assert!(matches!(message, Message::Dirty));
            if wanted(&watching.take()) {
                return;
            }
        }
    }

    fn marker() -> (Marker, Receiver<Message>) {
        let (keeper, told) = channel();
        let root = PathBuf::from("/in");
        (Marker(Arc::new(Shared { root, state: Mutex::default(), keeper })), told)
    }

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(PathBuf::from(path))
    }

    /// Goal: lost events are noticed although they name no path. Method: the event of an overflow, and an error.
    #[test]
    fn an_overflow_has_no_path_and_is_seen() {
        for lost in [
            Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)),
            Err(notify::Error::generic("read failed")),
        ] {
            let (mut marker, told) = marker();
            marker.handle_event(lost);
            assert!(matches!(told.try_recv(), Ok(Message::Dirty)));
            assert!(marker.0.lock().marks.lost);
        }
    }

    /// Goal: our own lease check and claims wake nobody. Method: the events that they cause.
    #[test]
    fn our_own_doings_are_not_marked() {
        let (mut marker, told) = marker();
        for kind in [
            EventKind::Access(AccessKind::Open(AccessMode::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
            EventKind::Modify(ModifyKind::Data(notify::event::DataChange::Any)),
        ] {
            marker.handle_event(Ok(event(kind, "/in/x")));
        }
        assert!(told.try_recv().is_err());
    }

    /// Goal: marks are bounded whatever happens, and nothing is forgotten. Method: more names than fit
    /// in one folder, then more folders than fit.
    #[test]
    fn marks_are_bounded() {
        let (mut marker, told) = marker();
        let made = EventKind::Create(CreateKind::File);
        for n in 0..=limits::MARKED_NAMES {
            marker.handle_event(Ok(event(made, &format!("/in/a/{n}"))));
        }
        {
            let state = marker.0.lock();
            assert_eq!(state.marks.names.len(), limits::MARKED_NAMES);
            assert!(state.marks.crowded.contains(&RelPath::new("a")) && !state.marks.lost);
        }
        for n in 0..=limits::MARKED_FOLDERS {
            marker.handle_event(Ok(event(made, &format!("/in/b{n}/x"))));
        }
        assert!(marker.0.lock().marks.lost);
        assert!(matches!(told.try_recv(), Ok(Message::Dirty)));
        assert!(told.try_recv().is_err(), "the keeper is told once until it comes");
    }

    /// Goal: where notify has no thread, its panics end nobody, and we hear of it. Method: notify with its end of the
    /// thread gone, as where none could be started: what it marks with is dropped; asked to watch, and dropped.
    #[test]
    fn a_notify_without_its_thread_ends_nobody() {
        struct Ends(Marker);
        impl EventHandler for Ends {
            fn handle_event(&mut self, _: notify::Result<Event>) {
                let Marker(shared) = &self.0;
                assert!(Arc::strong_count(shared) == 0, "its thread ends");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let (keeper, told) = channel();
        let root = dir.path().to_owned();
        let shared = Arc::new(Shared { root, state: Mutex::default(), keeper });
        let ends = Ends(Marker(Arc::clone(&shared)));
        let notify = RecommendedWatcher::new(ends, Config::default()).unwrap();
        let mut notify = Notify(Some(notify));
        notify.watch(dir.path()).unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert!(matches!(told.recv_timeout(SOON), Ok(Message::Dirty)));
        assert!(shared.lock().marks.is_dead);
        // The last of it goes with its thread, a moment later.
        while notify.watch(dir.path()).is_ok() {
            std::thread::yield_now();
        }
        drop(notify);
    }

    /// Goal: a rename, a close and a new folder are told apart; a folder's end is told; and so is the end of
    /// notify's thread. Method: a real folder, each of them once, in order.
    #[test]
    fn a_real_folder_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let (incoming, beside) = (dir.path().join("in"), dir.path().join("beside"));
        std::fs::create_dir(&incoming).unwrap();
        let (keeper, told) = channel();
        let watching = Watching::start(&incoming, keeper).unwrap();
        watching.want(None);
        wait_for(&watching, &told, |marks| marks.watched == [None]);

        std::fs::write(incoming.join("closed"), "x").unwrap();
        let rel = |name: &str| RelPath::new(name).unwrap();
        let arrived = |marks: &Marks, name: &str| marks.names.get(&rel(name)).copied();
        wait_for(&watching, &told, |marks| arrived(marks, "closed") == Some(Arrival::Closed));
        std::fs::write(&beside, "x").unwrap();
        rustix::fs::rename(&beside, incoming.join("renamed")).unwrap();
        wait_for(&watching, &told, |marks| arrived(marks, "renamed") == Some(Arrival::Renamed));
        std::fs::create_dir(incoming.join("sub")).unwrap();
        wait_for(&watching, &told, |marks| arrived(marks, "sub") == Some(Arrival::Found));
        watching.want(RelPath::new("sub"));
        wait_for(&watching, &told, |marks| marks.watched == [RelPath::new("sub")]);
        rustix::fs::rmdir(incoming.join("sub")).unwrap();
        wait_for(&watching, &told, |marks| marks.gone.contains(&rel("sub")));
        watching.want(RelPath::new("not there"));
        wait_for(&watching, &told, |marks| {
            marks.unwatched == [(RelPath::new("not there"), Unwatched::Gone)]
        });
        rustix::fs::rename(&incoming, &beside).unwrap();
        wait_for(&watching, &told, |marks| marks.is_root_gone);
        drop(watching);
        // notify's thread drops what it marks with, and with it the last way to tell.
        while let Ok(message) = told.recv_timeout(SOON) {
            assert!(matches!(message, Message::Dirty));
        }
    }
}
