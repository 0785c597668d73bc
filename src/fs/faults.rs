//! A filesystem that fails where a test says: wraps any other, counts operations, fails the Nth.
//!
//! Must not know: what it is used for. What reached the inner filesystem stays there: a stop with
//! [`Then::Always`] is a `kill -9`, which keeps the page cache. Lost bytes and names are not its
//! matter.
//!
//! Invariants
//! - A failing operation does nothing, but for a write, which has written its first half: that is
//!   how a disk fills up.
//! - Clones share one count, so a test keeps one and gives the other away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::{Filesystem, Stat};

/// Which operation of [`Filesystem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// See [`Filesystem::open_dir`].
    OpenDir,
    /// See [`Filesystem::make_dir`].
    MakeDir,
    /// See [`Filesystem::list`].
    List,
    /// See [`Filesystem::stat`] and [`Filesystem::stat_file`].
    Stat,
    /// See [`Filesystem::rename`].
    Rename,
    /// See [`Filesystem::replace`].
    Replace,
    /// See [`Filesystem::remove_file`].
    RemoveFile,
    /// See [`Filesystem::remove_dir`].
    RemoveDir,
    /// See [`Filesystem::create`].
    Create,
    /// See [`Filesystem::open`].
    Open,
    /// See [`Filesystem::read_at`].
    ReadAt,
    /// See [`Filesystem::write_at`].
    WriteAt,
    /// See [`Filesystem::set_len`].
    SetLen,
    /// See [`Filesystem::reserve`].
    Reserve,
    /// See [`Filesystem::sync_file`].
    SyncFile,
    /// See [`Filesystem::sync_dir`].
    SyncDir,
    /// See [`Filesystem::sync_all`].
    SyncAll,
}

impl Op {
    /// Changes something that outlives the process, or makes it durable.
    pub fn is_durable(self) -> bool {
        !matches!(self, Self::OpenDir | Self::List | Self::Stat | Self::Open | Self::ReadAt)
    }

    /// Needs a descriptor (EMFILE).
    pub fn takes_descriptor(self) -> bool {
        matches!(self, Self::OpenDir | Self::List | Self::Create | Self::Open)
    }

    /// Needs space (ENOSPC, EDQUOT).
    pub fn takes_space(self) -> bool {
        matches!(
            self,
            Self::MakeDir
                | Self::Rename
                | Self::Replace
                | Self::Create
                | Self::WriteAt
                | Self::Reserve
        )
    }

    /// An fsync of any kind.
    pub fn is_sync(self) -> bool {
        matches!(self, Self::SyncFile | Self::SyncDir | Self::SyncAll)
    }
}

/// What follows the operation that fails first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It works again.
    Works,
    /// Every operation counted fails, until disarmed: the disk is gone, or still full.
    Always,
}

struct Plan {
    counts: fn(Op) -> bool,
    left: u64,
    errno: Errno,
    then: Then,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    log: Vec<(Op, PathBuf)>,
    failed: u64,
}

/// The wrapper. Works like the inner filesystem until it is armed.
#[derive(Clone)]
pub struct Faults<F> {
    inner: F,
    state: Arc<Mutex<State>>,
}

impl<F: Filesystem> Faults<F> {
    /// Fails nothing yet.
    pub fn new(inner: F) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Fails the `nth` durable operation from now on, from 1.
    pub fn arm(&self, nth: u64, errno: Errno, then: Then) {
        self.arm_for(Op::is_durable, nth, errno, then);
    }

    /// Fails the `nth` operation from now on of those that `counts` takes, from 1.
    pub fn arm_for(&self, counts: fn(Op) -> bool, nth: u64, errno: Errno, then: Then) {
        let left = nth.max(1);
        self.with(|state| state.plan = Some(Plan { counts, left, errno, then }));
    }

    /// Everything works from now on.
    pub fn disarm(&self) {
        self.with(|state| state.plan = None);
    }

    /// How many operations were made to fail since the beginning.
    pub fn failed(&self) -> u64 {
        self.with(|state| state.failed)
    }

    /// Every durable operation since the last call, failed ones included, with the name it was
    /// given.
    pub fn take_log(&self) -> Vec<(Op, PathBuf)> {
        self.with(|state| std::mem::take(&mut state.log))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn meet(&self, op: Op, path: &Path) -> io::Result<()> {
        self.with(|state| {
            if op.is_durable() {
                state.log.push((op, path.to_owned()));
            }
            let Some(plan) = state.plan.as_mut().filter(|plan| (plan.counts)(op)) else {
                return Ok(());
            };
            plan.left = plan.left.saturating_sub(1);
            if plan.left > 0 {
                return Ok(());
            }
            let errno = plan.errno;
            if plan.then == Then::Works {
                state.plan = None;
            }
            state.failed += 1;
            Err(errno.into())
        })
    }
}

impl<F: Filesystem> Filesystem for Faults<F> {
    type Dir = F::Dir;
    type File = F::File;
    type List = F::List;

    fn open_dir(&self, at: &F::Dir, path: &Path) -> io::Result<F::Dir> {
        self.meet(Op::OpenDir, path)?;
        self.inner.open_dir(at, path)
    }

    fn open_own_dir(&self, at: &F::Dir, path: &Path) -> io::Result<F::Dir> {
        self.meet(Op::OpenDir, path)?;
        self.inner.open_own_dir(at, path)
    }

    fn make_dir(&self, at: &F::Dir, path: &Path, mode: u32) -> io::Result<()> {
        self.meet(Op::MakeDir, path)?;
        self.inner.make_dir(at, path, mode)
    }

    fn open_up(&self, at: &F::Dir, path: &Path) -> io::Result<()> {
        self.inner.open_up(at, path)
    }

    fn takes_from(&self, to: &F::Dir, from: &F::Dir) -> bool {
        self.inner.takes_from(to, from)
    }

    fn list(&self, at: &F::Dir) -> io::Result<F::List> {
        self.meet(Op::List, Path::new(""))?;
        self.inner.list(at)
    }

    fn stat(&self, at: &F::Dir, path: &Path) -> io::Result<Stat> {
        self.meet(Op::Stat, path)?;
        self.inner.stat(at, path)
    }

    fn stat_file(&self, file: &F::File) -> io::Result<Stat> {
        self.meet(Op::Stat, Path::new(""))?;
        self.inner.stat_file(file)
    }

    fn has_others(&self, at: &F::Dir, name: &std::ffi::OsStr) -> io::Result<bool> {
        self.meet(Op::List, Path::new(""))?;
        self.inner.has_others(at, name)
    }

    fn rename(&self, from: &F::Dir, old: &Path, to: &F::Dir, new: &Path) -> io::Result<()> {
        self.meet(Op::Rename, new)?;
        self.inner.rename(from, old, to, new)
    }

    fn replace(&self, from: &F::Dir, old: &Path, to: &F::Dir, new: &Path) -> io::Result<()> {
        self.meet(Op::Replace, new)?;
        self.inner.replace(from, old, to, new)
    }

    fn remove_file(&self, at: &F::Dir, path: &Path) -> io::Result<()> {
        self.meet(Op::RemoveFile, path)?;
        self.inner.remove_file(at, path)
    }

    fn remove_dir(&self, at: &F::Dir, path: &Path) -> io::Result<()> {
        self.meet(Op::RemoveDir, path)?;
        self.inner.remove_dir(at, path)
    }

    fn create(&self, at: &F::Dir, path: &Path, mode: u32) -> io::Result<F::File> {
        self.meet(Op::Create, path)?;
        self.inner.create(at, path, mode)
    }

    fn open(&self, at: &F::Dir, path: &Path, write: bool) -> io::Result<F::File> {
        self.meet(Op::Open, path)?;
        self.inner.open(at, path, write)
    }

    fn read_at(&self, file: &F::File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.meet(Op::ReadAt, Path::new(""))?;
        self.inner.read_at(file, offset, buf)
    }

    fn write_at(&self, file: &F::File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.meet(Op::WriteAt, Path::new("")) {
            let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
            self.inner.write_at(file, offset, half)?;
            return Err(error);
        }
        self.inner.write_at(file, offset, bytes)
    }

    fn set_len(&self, file: &F::File, len: u64) -> io::Result<()> {
        self.meet(Op::SetLen, Path::new(""))?;
        self.inner.set_len(file, len)
    }

    fn reserve(&self, file: &F::File, len: u64) -> io::Result<()> {
        self.meet(Op::Reserve, Path::new(""))?;
        self.inner.reserve(file, len)
    }

    fn sync_file(&self, file: &F::File) -> io::Result<()> {
        self.meet(Op::SyncFile, Path::new(""))?;
        self.inner.sync_file(file)
    }

    fn sync_dir(&self, dir: &F::Dir) -> io::Result<()> {
        self.meet(Op::SyncDir, Path::new(""))?;
        self.inner.sync_dir(dir)
    }

    fn sync_all(&self, dir: &F::Dir) -> io::Result<()> {
        self.meet(Op::SyncAll, Path::new(""))?;
        self.inner.sync_all(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;

    /// Goal: the Nth operation fails, and only those a test asked for. Method: both kinds, by
    /// count; a write that fails has left its first half.
    #[test]
    fn the_nth_operation_fails() {
        use Op::{Create, SetLen, SyncDir, SyncFile, WriteAt};
        let tmp = tempfile::tempdir().unwrap();
        let dir = RealFs.open_root(tmp.path()).unwrap();
        let fs = Faults::new(RealFs);
        let file = fs.create(&dir, Path::new("a"), 0o600).unwrap();
        fs.arm(2, Errno::NOSPC, Then::Works);
        fs.write_at(&file, 0, b"12").unwrap();
        fs.stat_file(&file).unwrap();
        let error = fs.write_at(&file, 2, b"3456").unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC));
        assert_eq!(std::fs::read(tmp.path().join("a")).unwrap(), b"1234");
        fs.sync_file(&file).unwrap();
        fs.arm_for(Op::is_sync, 1, Errno::IO, Then::Always);
        fs.set_len(&file, 0).unwrap();
        assert!(fs.sync_file(&file).is_err() && fs.sync_dir(&dir).is_err());
        fs.disarm();
        fs.sync_file(&file).unwrap();
        assert_eq!(fs.failed(), 3);
        let ops: Vec<_> = fs.take_log().into_iter().map(|(op, _)| op).collect();
        assert_eq!(ops, [Create, WriteAt, WriteAt, SyncFile, SetLen, SyncFile, SyncDir, SyncFile]);
    }
}
