//! The real filesystem that stops working at a chosen changing operation.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fs::{Filesystem, RealFs, Stat};

#[derive(Clone)]
pub(super) struct Limited(Arc<State>);

struct State {
    left: AtomicU64,
    errno: AtomicU64,
}

impl Default for Limited {
    fn default() -> Self {
        Self(Arc::new(State { left: AtomicU64::new(u64::MAX), errno: AtomicU64::new(0) }))
    }
}

impl Limited {
    /// The next `ops` changing operations work; then all fail with the errno.
    pub(super) fn fail_after(&self, ops: u64, errno: i32) {
        self.0.left.store(ops, Ordering::SeqCst);
        self.0.errno.store(u64::try_from(errno).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn heal(&self) {
        self.0.left.store(u64::MAX, Ordering::SeqCst);
    }

    fn spend(&self) -> io::Result<()> {
        let spent =
            self.0.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        let errno = i32::try_from(self.0.errno.load(Ordering::SeqCst)).unwrap();
        spent.map(|_| ()).map_err(|_| io::Error::from_raw_os_error(errno))
    }
}

type Dir = <RealFs as Filesystem>::Dir;
type File = <RealFs as Filesystem>::File;

impl Filesystem for Limited {
    type Dir = Dir;
    type File = File;
    type List = <RealFs as Filesystem>::List;

    fn open_dir(&self, at: &Dir, path: &Path) -> io::Result<Dir> {
        RealFs.open_dir(at, path)
    }
    fn make_dir(&self, at: &Dir, path: &Path, mode: u32) -> io::Result<()> {
        self.spend()?;
        RealFs.make_dir(at, path, mode)
    }
    fn list(&self, at: &Dir) -> io::Result<Self::List> {
        RealFs.list(at)
    }
    fn stat(&self, at: &Dir, path: &Path) -> io::Result<Stat> {
        RealFs.stat(at, path)
    }
    fn stat_file(&self, file: &File) -> io::Result<Stat> {
        RealFs.stat_file(file)
    }
    fn rename(&self, from: &Dir, old: &Path, to: &Dir, new: &Path) -> io::Result<()> {
        self.spend()?;
        RealFs.rename(from, old, to, new)
    }
    fn replace(&self, from: &Dir, old: &Path, to: &Dir, new: &Path) -> io::Result<()> {
        self.spend()?;
        RealFs.replace(from, old, to, new)
    }
    fn remove_file(&self, at: &Dir, path: &Path) -> io::Result<()> {
        self.spend()?;
        RealFs.remove_file(at, path)
    }
    fn remove_dir(&self, at: &Dir, path: &Path) -> io::Result<()> {
        self.spend()?;
        RealFs.remove_dir(at, path)
    }
    fn create(&self, at: &Dir, path: &Path, mode: u32) -> io::Result<File> {
        self.spend()?;
        RealFs.create(at, path, mode)
    }
    fn open(&self, at: &Dir, path: &Path, write: bool) -> io::Result<File> {
        RealFs.open(at, path, write)
    }
    fn read_at(&self, file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        RealFs.read_at(file, offset, buf)
    }
    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.spend() {
            // As a full disk does: half of it arrives.
            RealFs.write_at(file, offset, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        RealFs.write_at(file, offset, bytes)
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.spend()?;
        RealFs.set_len(file, len)
    }
    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        self.spend()?;
        RealFs.reserve(file, len)
    }
    fn sync_file(&self, file: &File) -> io::Result<()> {
        self.spend()?;
        RealFs.sync_file(file)
    }
    fn sync_dir(&self, dir: &Dir) -> io::Result<()> {
        self.spend()?;
        RealFs.sync_dir(dir)
    }
    fn sync_all(&self, dir: &Dir) -> io::Result<()> {
        self.spend()?;
        RealFs.sync_all(dir)
    }
}
