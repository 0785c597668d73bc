//! The folders of a spool, opened once, so that later steps go through descriptors.
//!
//! Must not know: what is in them.
//!
//! Invariant: all folders are on one filesystem (checked where the real one is opened), so every
//! move between them is a rename.

use std::io;
use std::path::Path;

use crate::fs::Filesystem;

/// The folders of one spool.
#[derive(Clone, Debug)]
pub struct Spool<F: Filesystem> {
    /// How everything below is done.
    pub fs: F,
    /// The spool itself.
    pub root: F::Dir,
    /// Producers drop here.
    pub incoming: F::Dir,
    /// Claimed files, one folder a job.
    pub processing: F::Dir,
    /// The worker succeeded.
    pub done: F::Dir,
    /// It finally failed.
    pub error: F::Dir,
    /// Why it failed, below `error/`.
    pub why: F::Dir,
    /// Made files.
    pub output: F::Dir,
    /// CSVs.
    pub results: F::Dir,
    /// The journal and the lock.
    pub journal: F::Dir,
}

/// Folders of a spool below its root, with their permissions. `incoming` is setgid, so that what
/// producers of one group make there stays claimable.
pub const FOLDERS: [(&str, u32); 8] = [
    ("incoming", 0o2770),
    ("processing", 0o750),
    ("done", 0o750),
    ("error", 0o750),
    ("error/.why", 0o750),
    ("output", 0o750),
    ("results", 0o750),
    ("journal", 0o750),
];

/// Makes the folders that are missing below `spool`, with exactly the permissions of [`FOLDERS`]: the
/// umask must not decide who may drop. The error names the folder.
pub fn make(spool: &Path) -> Result<(), (String, io::Error)> {
    use std::os::unix::fs::PermissionsExt;
    for (name, mode) in FOLDERS {
        let path = spool.join(name);
        let made = match std::fs::create_dir(&path) {
            Ok(()) => std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        };
        made.map_err(|error| (name.to_owned(), error))?;
    }
    Ok(())
}

impl<F: Filesystem> Spool<F> {
    /// Opens the `incoming/` that stands there now, made if there is none. `false`: it is still ours.
    pub fn reopen_incoming(&mut self) -> io::Result<bool> {
        reopen(&self.fs, &self.root, "incoming", &mut self.incoming)
    }

    /// The same for the folders that people clear or put aside: what is settled next goes to the ones that
    /// stand there now. Returns those that are others. The error names the folder.
    pub fn reopen_settled(&mut self) -> Result<Vec<&'static str>, (&'static str, io::Error)> {
        let mut others = Vec::new();
        let folders = [
            ("done", &mut self.done),
            ("error", &mut self.error),
            // Below the last one, and gone with it.
            ("error/.why", &mut self.why),
            ("output", &mut self.output),
        ];
        for (name, ours) in folders {
            if reopen(&self.fs, &self.root, name, ours).map_err(|error| (name, error))? {
                others.push(name);
            }
        }
        Ok(others)
    }

    /// A folder without which nothing can be promised, and which was removed or moved away. The error names
    /// the folder.
    pub fn lost_folder(&self) -> Result<Option<&'static str>, (&'static str, io::Error)> {
        let folders = [
            ("processing", &self.processing),
            ("journal", &self.journal),
            ("results", &self.results),
        ];
        for (name, ours) in folders {
            if !is_ours(&self.fs, &self.root, name, ours).map_err(|error| (name, error))? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Opens the folders, making those that are missing, durably: a power cut must not take the
    /// journal's name with all that was recorded in it. The error names the folder.
    pub fn open(fs: F, root: F::Dir) -> Result<Self, (String, io::Error)> {
        for (name, mode) in FOLDERS {
            match fs.make_dir(&root, Path::new(name), mode) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err((name.to_owned(), error));
                }
                _ => {}
            }
        }
        let open = |name: &str| {
            fs.open_dir(&root, Path::new(name)).map_err(|error| (name.to_owned(), error))
        };
        // Also those that were there: they may have been made just before the last daemon died.
        fs.sync_dir(&open("error")?).map_err(|error| ("error".to_owned(), error))?;
        fs.sync_dir(&root).map_err(|error| (".".to_owned(), error))?;
        Ok(Self {
            incoming: open("incoming")?,
            processing: open("processing")?,
            done: open("done")?,
            error: open("error")?,
            why: open("error/.why")?,
            output: open("output")?,
            results: open("results")?,
            journal: open("journal")?,
            fs,
            root,
        })
    }
}

/// Whether what stands there under its name is the folder that was opened.
fn is_ours<F: Filesystem>(fs: &F, root: &F::Dir, name: &str, ours: &F::Dir) -> io::Result<bool> {
    match fs.stat(root, Path::new(name)) {
        Ok(there) => Ok(there.ino == fs.stat(ours, Path::new("."))?.ino),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens what stands there now in place of `ours`, made if there is nothing. `false`: it is still ours.
fn reopen<F: Filesystem>(fs: &F, root: &F::Dir, name: &str, ours: &mut F::Dir) -> io::Result<bool> {
    if is_ours(fs, root, name, ours)? {
        return Ok(false);
    }
    let mode = FOLDERS.iter().find(|(folder, _)| *folder == name).map(|(_, mode)| *mode);
    match fs.make_dir(root, Path::new(name), mode.unwrap_or(0o750)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    *ours = fs.open_dir(root, Path::new(name))?;
    Ok(true)
}
