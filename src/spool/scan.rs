//! The scan: what stands in `incoming/`, streamed, with the directory streams kept open.
//!
//! Must not know: routes, what is claimed. It moves nothing.
//!
//! Invariants
//! - Memory is bounded by the depth of the tree, whatever the number of names: starting readdir
//!   again for each slice would be quadratic, collecting would be linear.
//! - A symbolic link is never followed; it is reported as what it is.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::core::RelPath;
use crate::fs::{FileType, Filesystem, Stat};

use super::Spool;

/// A tree deeper than this is not entered: each level keeps a descriptor open.
pub const DEPTH_MAX: usize = 256;

/// Empty folders noted between two looks at them; the others are met again by the next pass.
pub const EMPTY_KEPT: usize = 1024;

/// Folders that cannot be read and are told one by one; the others are counted.
pub const UNREADABLE_KEPT: usize = 100;

/// A name below `incoming/`, of what is not a folder or of a folder that is one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Where.
    pub rel: RelPath,
    /// What it looked like.
    pub stat: Stat,
}

/// A folder that could not be read, or is too deep.
#[derive(Debug)]
pub struct Unreadable {
    /// Where; `None` is `incoming/` itself.
    pub rel: Option<RelPath>,
    /// Why.
    pub error: io::Error,
}

/// What a scan may look at.
pub struct Bounds<'a> {
    /// Asked about each folder and name before it is looked at; ignored ones are not.
    pub looks_at: &'a dyn Fn(&RelPath) -> bool,
    /// Asked about each folder: whether it is one job, which is told and not entered.
    pub is_job: &'a dyn Fn(&RelPath) -> bool,
    /// Asked about each folder before it is entered.
    pub enters: &'a mut dyn FnMut(&RelPath) -> bool,
}

/// One pass over the tree, taken in slices.
pub struct Scan<F: Filesystem> {
    stack: Vec<Level<F>>,
    /// Folders that could not be read in this pass, not more than [`UNREADABLE_KEPT`].
    pub unreadable: Vec<Unreadable>,
    /// How many there were besides.
    pub unreadable_more: u64,
    /// Folders read to their end with nothing in them, not more than [`EMPTY_KEPT`].
    pub empty: Vec<RelPath>,
}

struct Level<F: Filesystem> {
    prefix: Vec<u8>,
    dir: F::Dir,
    list: F::List,
    is_empty: bool,
}

impl<F: Filesystem> Scan<F> {
    /// Begins a pass over all of `incoming/`.
    pub fn begin(spool: &Spool<F>) -> Self {
        let mut scan = Self::new();
        match spool.fs.list(&spool.incoming) {
            Ok(list) => {
                scan.stack.push(Level {
                    prefix: vec![],
                    dir: spool.incoming.clone(),
                    list,
                    is_empty: true,
                });
            }
            Err(error) => scan.cannot_read(None, error),
        }
        scan
    }

    fn new() -> Self {
        let (stack, unreadable, empty) = (Vec::new(), Vec::new(), Vec::new());
        Self { stack, unreadable, unreadable_more: 0, empty }
    }

    /// Begins a pass over one folder and those below it; `None` is `incoming/`.
    pub fn begin_at(spool: &Spool<F>, rel: Option<&RelPath>) -> Self {
        let Some(rel) = rel else { return Self::begin(spool) };
        let mut scan = Self::new();
        let opened = spool.fs.open_dir(&spool.incoming, rel.as_path());
        scan.push(spool, rel.clone(), opened);
        scan
    }

    /// Reads on until `most` entries were looked at or the pass is over; `true` when it is over.
    ///
    /// Entries that vanish meanwhile are not reported: that race is the producers' right.
    pub fn slice(
        &mut self,
        spool: &Spool<F>,
        most: usize,
        bounds: &mut Bounds<'_>,
        found: &mut dyn FnMut(Sighting),
    ) -> bool {
        for _ in 0..most {
            let Some(level) = self.stack.last_mut() else { return true };
            let entry = match level.list.next() {
                None => {
                    let ended = self.stack.pop().filter(|level| level.is_empty);
                    if self.empty.len() < EMPTY_KEPT {
                        self.empty.extend(ended.and_then(|level| RelPath::new(level.prefix)));
                    }
                    continue;
                }
                Some(Err(error)) => {
                    let rel = RelPath::new(level.prefix.clone());
                    self.cannot_read(rel, error);
                    self.stack.pop();
                    continue;
                }
                Some(Ok(entry)) => entry,
            };
            level.is_empty = false;
            let mut path = level.prefix.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.name.as_bytes());
            let Some(rel) = RelPath::new(path).filter(|rel| (bounds.looks_at)(rel)) else {
                continue;
            };
            if entry.file_type == Some(FileType::Dir) && !(bounds.is_job)(&rel) {
                if (bounds.enters)(&rel) {
                    self.enter(spool, rel);
                }
                continue;
            }
            let Ok(stat) = spool.fs.stat(&level.dir, Path::new(&entry.name)) else { continue };
            if stat.file_type == FileType::Dir && !(bounds.is_job)(&rel) {
                if (bounds.enters)(&rel) {
                    self.enter(spool, rel);
                }
            } else {
                found(Sighting { rel, stat });
            }
        }
        self.stack.is_empty()
    }

    fn enter(&mut self, spool: &Spool<F>, rel: RelPath) {
        let Some(level) = self.stack.last() else { return };
        let opened = if self.stack.len() < DEPTH_MAX {
            spool.fs.open_dir(&level.dir, Path::new(std::ffi::OsStr::from_bytes(rel.name())))
        } else {
            Err(io::Error::other(format!("more than {DEPTH_MAX} folders deep")))
        };
        self.push(spool, rel, opened);
    }

    fn push(&mut self, spool: &Spool<F>, rel: RelPath, opened: io::Result<F::Dir>) {
        match opened.and_then(|dir| spool.fs.list(&dir).map(|list| (dir, list))) {
            Ok((dir, list)) => {
                self.stack.push(Level {
                    prefix: rel.as_bytes().to_vec(),
                    dir,
                    list,
                    is_empty: true,
                });
            }
            // Gone again: the producer's right.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.cannot_read(Some(rel), error),
        }
    }

    fn cannot_read(&mut self, rel: Option<RelPath>, error: io::Error) {
        if self.unreadable.len() < UNREADABLE_KEPT {
            self.unreadable.push(Unreadable { rel, error });
        } else {
            self.unreadable_more += 1;
        }
    }
}
