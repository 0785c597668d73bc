//! What cannot be moved out of a job's folder stays there, under a name that says so.
//!
//! Must not know: how what can be moved is settled.
//!
//! Invariant: a folder keeps its name only where nobody can give it another one ([`Spool::is_stuck`]).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Kind, Moved, Settling, is_gone, is_mounted_on};
use crate::fs::{FileType, Filesystem, Stat, is_gone_or_closed, is_in_use};
use crate::spool::{Claimed, Place, Spool};

impl<F: Filesystem> Spool<F> {
    /// Gives a folder of a job the name under which it stays, which this returns: two may stay, and no further
    /// attempt needs the second name.
    pub(in crate::spool) fn leave_folder(
        &self,
        from: Place,
        claimed: Claimed,
    ) -> io::Result<Place> {
        let name = from.name();
        let next = claimed.with_begun(claimed.begun.saturating_add(1));
        for left in [claimed, next].map(Place::Left) {
            let (old, new) = (Path::new(&name), left.name());
            match self.fs.rename(&self.processing, old, &self.processing, Path::new(&new)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if !is_gone(&error) && self.is_stuck(from)? => return Ok(from),
                other => return other.map(|()| left),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The same for a job's own folder: the name that it has now.
    pub(super) fn leave_job(&self, it: &Settling<'_>) -> io::Result<String> {
        Ok(self.leave_folder(Place::Job(it.claimed), it.claimed)?.name())
    }

    pub(super) fn settle_leaving(&self, it: &Settling<'_>) -> io::Result<Moved> {
        let left = self.leave_folder(Place::Job(it.claimed), it.claimed)?;
        self.settle_from(it, left)
    }

    /// Settles a recorded job's file, and nothing else, from the folder that only another user may empty.
    pub fn settle_from_left(&self, it: &Settling<'_>) -> io::Result<Moved> {
        self.settle_from(it, Place::Left(it.claimed))
    }

    fn settle_from(&self, it: &Settling<'_>, left: Place) -> io::Result<Moved> {
        let left = left.name();
        let name = OsStr::from_bytes(it.rel.name());
        let path = Path::new(&left).join(OsStr::from_bytes(it.rel.parent()));
        let moved = match self.fs.open_own_dir(&self.processing, &path) {
            Err(error) if is_gone_or_closed(&error) || is_in_use(&error) => Ok(None),
            Err(error) => Err(error),
            Ok(from) => match self.fs.stat(&from, Path::new(name)) {
                // The worker put its own in its place: it stays, too.
                Ok(stat) if self.is_unmovable(&stat)? => Ok(None),
                _ => match self.settle_file(&from, name, it, (Kind::Own, it.why)) {
                    // The worker gave away the very folder of its input: its owner alone empties it.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        let stat = self.fs.stat(&self.processing, &path)?;
                        if self.is_unmovable(&stat)? { Ok(None) } else { Err(error) }
                    }
                    Err(error) if is_mounted_on(&error) => Ok(None),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
                    other => other,
                },
            },
        };
        Ok(Moved { rel: moved?, left: Some(left) })
    }

    /// Whether nobody may give this folder another name: it is immutable, or something is mounted on it.
    pub fn is_stuck(&self, place: Place) -> io::Result<bool> {
        match self.fs.stat(&self.processing, Path::new(&place.name())) {
            Err(error) if is_gone(&error) => Ok(false),
            // Mounted by a server that has ended.
            Err(error) if is_in_use(&error) => Ok(true),
            stat => stat.map(|it| it.is_fixed || it.is_mounted),
        }
    }

    /// Whether something stands there that we may not move.
    pub(super) fn has_unmovable(&self, place: Place) -> io::Result<bool> {
        let top = PathBuf::from(place.name());
        let mut folders: Vec<Vec<u8>> = vec![Vec::new()];
        if self.is_unmovable(&self.fs.stat(&self.processing, &top)?)? {
            return Ok(true);
        }
        while let Some(folder) = folders.pop() {
            for (rel, stat) in self.names_in(&top, &folder)? {
                if self.is_unmovable(&stat)? {
                    return Ok(true);
                }
                if stat.file_type == FileType::Dir {
                    folders.push(rel);
                }
            }
        }
        Ok(false)
    }

    /// A folder of another user's, who alone empties and moves it; or what nobody may move.
    pub(super) fn is_unmovable(&self, stat: &Stat) -> io::Result<bool> {
        let ours = self.fs.stat(&self.processing, Path::new("."))?.uid;
        Ok(stat.is_fixed || stat.file_type == FileType::Dir && stat.uid != ours)
    }
}
