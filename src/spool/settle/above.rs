//! What a worker left above its input: in the folders of the job that lead to it.
//!
//! Must not know: what stands beside the input, where the input goes.
//!
//! Invariant: after it the folders that lead to the input hold nothing else, so that they may be used again or
//! removed, unless it says so. A script that writes to `../out` keeps what it made, under the path that it had.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{Kind, Settling, is_mounted_on};
use crate::core::RelPath;
use crate::fs::{FileType, Filesystem, is_no_folder};
use crate::spool::{Place, Spool};

impl<F: Filesystem> Spool<F> {
    /// Moves it to where the input goes. One that is another user's stays, and is said when all else has gone.
    /// `true`: something was there, and what is mounted stays. `is_gone`: the way to the input is not whole any
    /// more, and what stands in its place is the worker's, too.
    pub(super) fn settle_above(&self, it: &Settling<'_>, is_gone: bool) -> io::Result<bool> {
        let mut settled = Ok(false);
        let mut above: Vec<u8> = Vec::new();
        for part in it.rel.parent().split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let folder = Path::new(&Place::Job(it.claimed).name()).join(OsStr::from_bytes(&above));
            let dir = match self.fs.open_own_dir(&self.processing, &folder) {
                // The worker put its folder elsewhere.
                Err(error) if is_no_folder(&error) => return settled,
                // What is below what it mounted is not ours.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    return settled.map(|_| true);
                }
                other => other?,
            };
            if is_gone || self.fs.has_others(&dir, OsStr::from_bytes(part))? {
                settled = settled.map(|_| true);
                let leads = |name: &OsStr| {
                    let is_dir = || {
                        self.fs
                            .stat(&dir, Path::new(name))
                            .is_ok_and(|it| it.file_type == FileType::Dir)
                    };
                    name.as_bytes() == part && (!is_gone || is_dir())
                };
                let names: io::Result<Vec<OsString>> =
                    self.fs.list(&dir)?.map(|entry| Ok(entry?.name)).collect();
                for name in names?.iter().filter(|name| !leads(name)) {
                    let rel = RelPath::new([&above, name.as_bytes()].concat());
                    let Some(rel) = rel else { continue };
                    let other = Settling { rel: &rel, ..it.clone() };
                    match self.settle_file(&dir, name, &other, (Kind::Own, None)) {
                        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                            settled = Err(error);
                        }
                        Err(error) if is_mounted_on(&error) => {}
                        other => drop(other?),
                    }
                }
            }
            above.extend_from_slice(part);
            above.push(b'/');
        }
        settled
    }
}
