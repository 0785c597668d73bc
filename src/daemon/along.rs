//! Along: what a file brings with it where `batch` or `submit` takes it in.
//!
//! Must not know: who takes it in, how it is copied.
//!
//! Invariant: a file comes with all of it or not at all, as in `incoming/`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::companions::Companion;
use crate::config::{RouteTable, limits};
use crate::core::RelPath;
use crate::spool::import::Source;

/// Completes a file with what stands beside it and comes with it; or says what is missing.
pub fn bring_along(source: &mut Source, table: &RouteTable) -> io::Result<Result<(), PathBuf>> {
    let (path, size) = (source.path.clone(), source.size);
    let content = || (size <= limits::FIELDS_FILE).then(|| std::fs::read(&path).ok()).flatten();
    let with = table.comes_with(&source.rel, content);
    bring_these(source, with)
}

/// The same with these.
pub fn bring_these(source: &mut Source, with: &[Companion]) -> io::Result<Result<(), PathBuf>> {
    let path = source.path.clone();
    let own = path.file_name().unwrap_or_default().as_bytes();
    for template in with {
        let beside = path.with_file_name(OsStr::from_bytes(&template.name_for(own)));
        if !is_file(&beside) {
            return Ok(Err(beside));
        }
        source.bring(beside, template.name_for(source.rel.name()))?;
    }
    Ok(Ok(()))
}

/// Whether a file stands there, or a link to one.
fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file())
}

/// The names of a run that are no input by themselves: which of them is left without what it belongs to.
#[derive(Debug, Default)]
pub struct Followers {
    /// Seen, and nothing has brought them along yet.
    lone: HashSet<PathBuf>,
    /// Brought along, and not seen yet.
    brought: HashSet<PathBuf>,
}

impl Followers {
    /// Whether a name is that of a companion or a sentinel, whatever it stands beside. `Err`: it
    /// is, and nothing that it could belong to will be found any more, or more wait for that than are remembered.
    pub(super) fn is_one(
        &mut self,
        path: &Path,
        rel: &RelPath,
        table: &RouteTable,
    ) -> Result<bool, ()> {
        if let Some(main) = table.announced(rel) {
            let main = path.with_file_name(OsStr::from_bytes(main.name()));
            return if main.symlink_metadata().is_ok() { Ok(true) } else { Err(()) };
        }
        if table.companion_of(rel).is_none() {
            return Ok(false);
        }
        if !self.brought.remove(path) {
            if self.lone.len() >= limits::WINDOW {
                return Err(());
            }
            self.lone.insert(path.to_owned());
        }
        Ok(true)
    }

    /// All that is to come with a file stands beside it.
    pub(super) fn brought(&mut self, source: &Source) {
        for (path, _) in &source.with {
            if !self.lone.remove(path) && self.brought.len() < limits::WINDOW {
                self.brought.insert(path.clone());
            }
        }
    }

    /// At the end: those that nothing has brought along.
    pub(super) fn take_lone(&mut self) -> Vec<PathBuf> {
        self.brought.clear();
        let mut lone: Vec<PathBuf> = self.lone.drain().collect();
        lone.sort();
        lone
    }
}
