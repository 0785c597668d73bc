//! [`Filesystem`] for [`SimFs`]: resolves the paths, counts what changes or syncs, and acts.
//!
//! Must not know: what is durable.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::crash::SplitMix;
use super::image::{Act, Body};
use super::{SimDir, SimFile, SimFs};
use crate::fs::{Entry, FileType, Filesystem, Stat};

impl Filesystem for SimFs {
    type Dir = SimDir;
    type File = SimFile;
    type List = std::vec::IntoIter<io::Result<Entry>>;

    fn open_dir(&self, at: &SimDir, path: &Path) -> io::Result<SimDir> {
        let mut world = self.lit()?;
        let mut key = world.key(&at.0);
        if path != Path::new(".") {
            let (dir, name) = world.live.parent_of(key, path)?;
            key = world.live.walk(dir, &name)?;
        }
        Ok(SimDir(world.handle(key)))
    }

    fn make_dir(&self, at: &SimDir, path: &Path, mode: u32) -> io::Result<()> {
        let mut world = self.step()?;
        let (dir, name) = world.live.parent_of(world.key(&at.0), path)?;
        world.make(dir, name, FileType::Dir, mode, false)?;
        Ok(())
    }

    fn list(&self, at: &SimDir) -> io::Result<Self::List> {
        let world = self.lit()?;
        let Body::Dir(names) = &world.live.get(world.key(&at.0))?.body else {
            return Err(Errno::NOTDIR.into());
        };
        let mut entries = Vec::with_capacity(names.len());
        for (name, key) in &**names {
            let file_type = Some(world.live.get(*key)?.file_type());
            entries.push(Ok(Entry { name: name.clone(), file_type }));
        }
        // Any order but the sorted one, so that nobody comes to rely on that.
        let mut rng = SplitMix::new(entries.len() as u64);
        entries.sort_by_cached_key(|_| rng.draw());
        Ok(entries.into_iter())
    }

    fn stat(&self, at: &SimDir, path: &Path) -> io::Result<Stat> {
        let world = self.lit()?;
        let key = world.live.resolve(world.key(&at.0), path)?;
        Ok(world.live.get(key)?.stat())
    }

    fn stat_file(&self, file: &SimFile) -> io::Result<Stat> {
        let world = self.lit()?;
        Ok(world.live.get(world.key(&file.handle))?.stat())
    }

    fn rename(&self, from: &SimDir, old: &Path, to: &SimDir, new: &Path) -> io::Result<()> {
        let mut world = self.step()?;
        let (from, to) = (world.key(&from.0), world.key(&to.0));
        Ok(world.rename((from, old), (to, new), false)?)
    }

    fn replace(&self, from: &SimDir, old: &Path, to: &SimDir, new: &Path) -> io::Result<()> {
        let mut world = self.step()?;
        let (from, to) = (world.key(&from.0), world.key(&to.0));
        Ok(world.rename((from, old), (to, new), true)?)
    }

    fn remove_file(&self, at: &SimDir, path: &Path) -> io::Result<()> {
        let mut world = self.step()?;
        let at = world.key(&at.0);
        Ok(world.remove(at, path, false)?)
    }

    fn remove_dir(&self, at: &SimDir, path: &Path) -> io::Result<()> {
        let mut world = self.step()?;
        let at = world.key(&at.0);
        Ok(world.remove(at, path, true)?)
    }

    fn create(&self, at: &SimDir, path: &Path, mode: u32) -> io::Result<SimFile> {
        let mut world = self.step()?;
        let (dir, name) = world.live.parent_of(world.key(&at.0), path)?;
        let key = world.make(dir, name, FileType::File, mode, false)?;
        Ok(SimFile { handle: world.handle(key), write: true })
    }

    fn open(&self, at: &SimDir, path: &Path, write: bool) -> io::Result<SimFile> {
        let mut world = self.lit()?;
        let key = world.live.resolve(world.key(&at.0), path)?;
        match world.live.get(key)?.body {
            Body::File(_) => Ok(SimFile { handle: world.handle(key), write }),
            Body::Dir(_) => Err(Errno::ISDIR.into()),
            Body::Other => Err(Errno::LOOP.into()),
        }
    }

    fn read_at(&self, file: &SimFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let world = self.lit()?;
        let data = world.data(file)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        let n = buf.len().min(data.len() - start);
        buf[..n].copy_from_slice(&data[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, file: &SimFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.lit()?;
        let file_key = world.key(&file.handle);
        let act = Act::Write { file: file_key, offset, bytes: bytes.to_vec() };
        if let Err(error) = world.step() {
            // A kill may fall into the middle of a write.
            world.cut = file.write.then(|| Arc::new(act));
            return Err(error);
        }
        match (bytes.is_empty(), file.write) {
            (true, _) => Ok(()),
            (false, false) => Err(Errno::BADF.into()),
            (false, true) => Ok(world.act(act, false)?),
        }
    }

    fn set_len(&self, file: &SimFile, len: u64) -> io::Result<()> {
        let mut world = self.step()?;
        if !file.write {
            return Err(Errno::INVAL.into());
        }
        let file = world.key(&file.handle);
        Ok(world.act(Act::SetLen { file, len }, false)?)
    }

    fn reserve(&self, file: &SimFile, len: u64) -> io::Result<()> {
        // Counts, but leaves no trace: the disk here is never full.
        drop(self.step()?);
        match (file.write, len) {
            (_, 0) => Err(Errno::INVAL.into()),
            (false, _) => Err(Errno::BADF.into()),
            _ => Ok(()),
        }
    }

    fn sync_file(&self, file: &SimFile) -> io::Result<()> {
        let mut world = self.step()?;
        let key = world.key(&file.handle);
        world.settle(Some(key));
        Ok(())
    }

    fn sync_dir(&self, dir: &SimDir) -> io::Result<()> {
        let mut world = self.step()?;
        let key = world.key(&dir.0);
        world.settle(Some(key));
        Ok(())
    }

    fn sync_all(&self, _dir: &SimDir) -> io::Result<()> {
        self.step()?.settle(None);
        Ok(())
    }
}
