//! A filesystem in memory that can lose power: the ground of the crash proof.
//!
//! Running code sees the *live* image. Behind it stand the *base* (what is durable for certain) and
//! the *log* of operations since, each waiting for the syncs that make it durable:
//! - names (create, make, rename, replace, remove) wait for [`Filesystem::sync_dir`] of each
//!   directory they touch, both for a rename between two;
//! - bytes and lengths wait for [`Filesystem::sync_file`]; that does not make the name durable;
//! - [`Filesystem::sync_all`] ends every wait.
//!
//! [`SimFs::crash`] draws what of the log outlives a crash; [`SimFs::stop_at`] stops the program
//! under test before its nth durable operation. `kill -9` keeps the live image *and* its waits, so
//! that a power cut after a restart still finds them.
//!
//! Must not know: what the files are for. Does not model: permissions, links, a full disk, failing
//! syncs (`faults` wraps any filesystem for those).
//!
//! Assumptions: a rename is atomic; a lost rename leaves the inode's times as they were; bytes that
//! were never written read as zeros, never as another file's.
//!
//! Invariants
//! - The clock ticks with every change, so no two changes have the same ctime.
//! - A handle stays valid whatever happens to the name, and never crosses a crash.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::FileType;

mod crash;
mod image;
mod ops;
#[cfg(test)]
mod tests;
mod world;

pub use crash::{Mode, Pick, SplitMix};
use image::{Act, Body, Key, ROOT};
use world::{World, power_is_out};

/// The simulated filesystem. Clones share one world.
#[derive(Clone)]
pub struct SimFs(Arc<Mutex<World>>);

/// An open directory of a [`SimFs`].
#[derive(Clone, Debug)]
pub struct SimDir(Arc<Handle>);

/// An open file of a [`SimFs`].
#[derive(Debug)]
pub struct SimFile {
    handle: Arc<Handle>,
    write: bool,
}

/// What keeps an inode open.
#[derive(Debug)]
struct Handle {
    world: u64,
    key: Key,
}

/// What stands at a path, for comparisons.
#[derive(Clone, PartialEq, Eq)]
pub enum Seen {
    /// A file and its bytes.
    File(Arc<Vec<u8>>),
    /// A directory.
    Dir,
    /// Anything else.
    Other,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(bytes) => write!(f, "{} bytes \"{}\"", bytes.len(), bytes.escape_ascii()),
            Self::Dir => f.write_str("dir"),
            Self::Other => f.write_str("other"),
        }
    }
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// For tests: planting, looking, and being the user. None of it counts as an operation, and all of
/// it works when the power is out. Paths start at the root; a failure is a fault of the test.
impl SimFs {
    /// An empty world.
    pub fn new() -> Self {
        Self::of(World::new())
    }

    fn of(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    /// The root directory.
    pub fn root(&self) -> SimDir {
        SimDir(self.lock().handle(ROOT))
    }

    /// Durable operations until now: every call that changes or syncs, failed ones included.
    pub fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// Cuts the power before operation `n` (the first is 1): from it on every call fails with
    /// "power is out" and changes nothing. Reads fail too, so that no loop goes on for ever.
    pub fn stop_at(&self, n: u64) {
        self.lock().stop_at = Some(n);
    }

    /// Power cuts until now, as a boot id would tell; `kill -9` does not change it.
    pub fn boot(&self) -> u64 {
        self.lock().boot
    }

    /// From now on, new files take the lowest inode number that is free for certain: its last owner
    /// has no name, no handle, and nothing un-synced.
    pub fn reuse_inos(&self) {
        self.lock().reuse_inos = true;
    }

    /// What the clock shows, in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.lock().clock_ns / 1_000_000).unwrap()
    }

    /// The clock goes on by so much.
    pub fn pass_time(&self, ns: i64) {
        self.lock().clock_ns += ns;
    }

    /// Puts a durable file there, and the directories it needs.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        let mut world = self.lock();
        let file = world.plant(path, FileType::File);
        world.act(Act::Write { file, offset: 0, bytes: bytes.to_vec() }, true).unwrap();
    }

    /// Puts a durable directory there, and those above it.
    pub fn plant_dir(&self, path: &str) {
        self.lock().plant(path, FileType::Dir);
    }

    /// Puts something durable there that is neither file nor directory: a symbolic link to nowhere.
    pub fn plant_other(&self, path: &str) {
        self.lock().plant(path, FileType::Other);
    }

    /// A producer writes a new file and does not sync it.
    pub fn user_write(&self, path: &str, bytes: &[u8]) {
        let mut world = self.lock();
        let (dir, name) = world.live.parent_of(ROOT, Path::new(path)).unwrap();
        let file = world.make(dir, name, FileType::File, 0o644, false).unwrap();
        world.act(Act::Write { file, offset: 0, bytes: bytes.to_vec() }, false).unwrap();
    }

    /// A user renames, replacing what is there, and does not sync.
    pub fn user_rename(&self, old: &str, new: &str) {
        self.lock().rename((ROOT, Path::new(old)), (ROOT, Path::new(new)), true).unwrap();
    }

    /// A user removes a file or an empty directory, and does not sync.
    pub fn user_remove(&self, path: &str) {
        let mut world = self.lock();
        let key = world.live.resolve(ROOT, Path::new(path)).unwrap();
        let is_dir = matches!(world.live.get(key).unwrap().body, Body::Dir(_));
        world.remove(ROOT, Path::new(path), is_dir).unwrap();
    }

    /// Time passes: the kernel has written everything back.
    pub fn user_sync(&self) {
        self.lock().settle(None);
    }

    /// The bytes of a file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let world = self.lock();
        let key = world.live.resolve(ROOT, Path::new(path)).ok()?;
        match &world.live.get(key).ok()?.body {
            Body::File(data) => Some(data.to_vec()),
            _ => None,
        }
    }

    /// Everything below the root, by path; names that are not UTF-8 are escaped.
    pub fn tree(&self) -> BTreeMap<String, Seen> {
        let mut tree = BTreeMap::new();
        self.lock().walk(ROOT, "", &mut |path, _, seen| {
            tree.insert(path.to_owned(), seen);
        });
        tree
    }

    /// The crashes so far, what the last one took, and the tree; for the message of a failed test.
    pub fn describe(&self) -> String {
        let world = self.lock();
        let mut out = String::new();
        world.tell(&mut out);
        world.walk(ROOT, "", &mut |path, key, seen| {
            writeln!(out, "#{key} {path}: {seen:?}").unwrap();
        });
        out
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // A test that failed elsewhere must not hide its message behind a poisoned lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, if the power is on.
    fn lit(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.lock();
        if world.power_is_out { Err(power_is_out()) } else { Ok(world) }
    }

    /// The world, for an operation that counts.
    fn step(&self) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.lit()?;
        world.step()?;
        Ok(world)
    }
}
