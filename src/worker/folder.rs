//! A folder that is one job, looked through before a worker gets it: only regular files and folders.
//!
//! Who may drop is not trusted: a link in the folder would make the worker read what its producer may
//! not. The daemon itself never opens anything in there.
//!
//! Must not know: what the files mean. On the slot's thread: the keeper need not wait for a large set.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Ended, Task};
use crate::config::Unit;
use crate::core::rel::escape_bytes;
use crate::core::{FailClass, Failure, Verdict};
use crate::fs::{FileType, Filesystem, RealFs, is_shortage};

/// Folders in folders that are looked through, each with a descriptor of its own.
const DEPTH_MAX: usize = 128;

/// The end of an attempt that must not begin; `None`: it may.
pub(super) fn check(task: &Task) -> Option<Ended> {
    if task.route.unit != Unit::Folder {
        return None;
    }
    let verdict = match fault(&task.path)? {
        Fault::Folder(reason) => Verdict::Failed(Failure::new(FailClass::Permanent, reason)),
        Fault::Ours(error) => {
            let reason = format!("cannot look through {}: {error}", shown(&task.path));
            Verdict::Misconfigured { reason }
        }
    };
    let (rows, log, stderr) = (Vec::new(), Vec::new(), Vec::new());
    Some(Ended { verdict, rows, log, stderr, took: Duration::ZERO })
}

/// Why a folder is not handed over.
#[derive(Debug)]
enum Fault {
    /// Something in it.
    Folder(String),
    /// We are short of descriptors or memory: it can pass by itself, and the folder has not failed.
    Ours(io::Error),
}

/// What is wrong with a folder. Of what is no folder, or is gone, the worker says it.
fn fault(path: &Path) -> Option<Fault> {
    let wrong = |path: &Path, what: &str| Fault::Folder(format!("{}: {what}", shown(path)));
    let cannot = |path: &Path, error: io::Error| {
        if is_shortage(&error) { Fault::Ours(error) } else { wrong(path, &error.to_string()) }
    };
    let root = match RealFs.open_root(path) {
        Err(error) if is_shortage(&error) => return Some(Fault::Ours(error)),
        opened => opened.ok()?,
    };
    let mut levels = match RealFs.list(&root) {
        Ok(list) => vec![(PathBuf::new(), root, list)],
        Err(error) => return Some(cannot(Path::new("it cannot be looked through"), error)),
    };
    loop {
        let depth = levels.len();
        let (prefix, dir, list) = levels.last_mut()?;
        let entry = match list.next() {
            None => {
                levels.pop();
                continue;
            }
            Some(Err(error)) => return Some(cannot(prefix, error)),
            Some(Ok(entry)) => entry,
        };
        let name = PathBuf::from(entry.name);
        let path = prefix.join(&name);
        let file_type = match entry.file_type {
            Some(known) => Ok(known),
            None => RealFs.stat(dir, &name).map(|stat| stat.file_type),
        };
        match file_type {
            Ok(FileType::File) => {}
            Ok(FileType::Other) => return Some(wrong(&path, "not a regular file")),
            Ok(FileType::Dir) if depth == DEPTH_MAX => {
                return Some(wrong(&path, &format!("more than {DEPTH_MAX} folders deep")));
            }
            Ok(FileType::Dir) => {
                let opened = RealFs.open_dir(dir, &name);
                match opened.and_then(|dir| RealFs.list(&dir).map(|list| (dir, list))) {
                    Ok((dir, list)) => levels.push((path, dir, list)),
                    Err(error) => return Some(cannot(&path, error)),
                }
            }
            Err(error) => return Some(cannot(&path, error)),
        }
    }
}

fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::new();
    // Writing to a string does not fail.
    escape_bytes(path.as_os_str().as_bytes(), &mut text).unwrap_or(());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a worker never gets a folder in which a name leads elsewhere, or that cannot be looked
    /// through. Method: sound folders; a link, a FIFO, and a folder too deep, each below others.
    #[test]
    fn only_files_and_folders_are_handed_over() {
        let home = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.join("sub/more")).unwrap();
            std::fs::write(path.join("sub/page"), "x").unwrap();
            path
        };
        let fault = |path: &Path| {
            fault(path).map(|fault| match fault {
                Fault::Folder(reason) => reason,
                Fault::Ours(error) => panic!("{error}"),
            })
        };
        assert_eq!(fault(&folder("sound")), None);
        assert_eq!(fault(&home.path().join("gone")), None);
        let linked = folder("linked");
        std::os::unix::fs::symlink("/etc/passwd", linked.join("sub/more/page")).unwrap();
        assert_eq!(fault(&linked).as_deref(), Some("sub/more/page: not a regular file"));
        let piped = folder("piped");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, piped.join("p\n"), kind, mode, 0).unwrap();
        assert_eq!(fault(&piped).as_deref(), Some("p\\n: not a regular file"));
        let deep = folder("deep").join(vec!["d"; DEPTH_MAX + 1].join("/"));
        std::fs::create_dir_all(deep).unwrap();
        assert!(fault(&home.path().join("deep")).unwrap().ends_with("128 folders deep"));
    }
}
