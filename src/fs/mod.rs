//! The only place that renames, writes durably, syncs or removes.
//!
//! Everything durable goes through [`Filesystem`], so that a test can stop the world at each step
//! (`sim`) and a reader can list every durable operation. [`real::RealFs`] makes the system calls.
//!
//! Must not know: what a job, a record or a CSV is.
//!
//! Invariants
//! - A rename never replaces (`RENAME_NOREPLACE`); a taken name is [`io::ErrorKind::AlreadyExists`].
//! - No path component below a [`Filesystem::Dir`] is followed if it is a symbolic link.
//! - Nothing is retried here, least of all a sync.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

#[cfg(test)]
pub mod faults;
mod lease;
pub mod real;
#[cfg(test)]
pub mod sim;
pub mod tree;

pub use real::RealFs;
pub use tree::{
    WALK_DEPTH, is_gone_or_closed, is_in_use, is_no_folder, make_dirs, open_up_tree, remove_tree,
    sync_tree, walk_files,
};

/// Too little of something that comes back by itself: space, quota, descriptors, memory.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::NOSPC
                | Errno::DQUOT
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::NOBUFS
        )
    )
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// Anything else: symbolic link, FIFO, socket, device.
    Other,
}

/// What is known of a file without opening it. Times are Unix nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub file_type: FileType,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content, as the owner says; anyone can set it.
    pub mtime_ns: i64,
    /// Last change of the inode; nobody can set it. A rename changes it.
    pub ctime_ns: i64,
    /// Birth; nobody can set it. 0 where the filesystem does not keep it.
    pub btime_ns: i64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Number of links.
    pub nlink: u32,
    /// Something is mounted on its name, and this is what. `false` also where the kernel does not say (before 5.8).
    pub is_mounted: bool,
    /// Immutable or append-only (chattr): nobody may move it, root neither.
    pub is_fixed: bool,
}

/// Whether anything that can write into a file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nothing on this machine.
    Clear,
    /// A descriptor or a shared mapping.
    Busy,
    /// The system does not say: not our file, or a filesystem without leases.
    Unknown,
}

/// A directory entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, any bytes but `/` and NUL.
    pub name: OsString,
    /// What it is, if the listing told; `None`: ask [`Filesystem::stat`].
    pub file_type: Option<FileType>,
}

/// The operations that the spool, the journal and the results are built of.
///
/// `path` arguments are relative to their directory and may have several components; they are
/// resolved beneath it, and a symbolic link anywhere is refused (ELOOP or ENOTDIR).
pub trait Filesystem: Clone + Send + Sync + 'static {
    /// An open directory. Cheap to clone.
    type Dir: Clone + Send + Sync + 'static;
    /// An open regular file.
    type File: Send + Sync + 'static;
    /// A directory being read.
    type List: Iterator<Item = io::Result<Entry>> + Send + 'static;

    /// Opens a directory below another one.
    fn open_dir(&self, at: &Self::Dir, path: &Path) -> io::Result<Self::Dir>;
    /// The same for a folder of ours, and never into what is mounted there
    /// ([`io::ErrorKind::CrossesDevices`]): that is somebody's, and not ours to empty.
    fn open_own_dir(&self, at: &Self::Dir, path: &Path) -> io::Result<Self::Dir> {
        self.open_dir(at, path)
    }
    /// Makes one directory; its parent exists.
    fn make_dir(&self, at: &Self::Dir, path: &Path, mode: u32) -> io::Result<()>;
    /// Gives its owner all rights on a folder of ours back, which a worker may have taken. Nothing to do
    /// where the filesystem has no such rights.
    fn open_up(&self, _at: &Self::Dir, _path: &Path) -> io::Result<()> {
        Ok(())
    }
    /// Whether a rename may lead from one folder into another: we may write there, and both are on one mount.
    fn takes_from(&self, _to: &Self::Dir, _from: &Self::Dir) -> bool {
        true
    }
    /// Reads a directory, in no order, without `.` and `..`.
    fn list(&self, at: &Self::Dir) -> io::Result<Self::List>;
    /// Whether anything but this name stands in a directory; with an empty name: anything at all.
    fn has_others(&self, at: &Self::Dir, name: &OsStr) -> io::Result<bool> {
        for entry in self.list(at)? {
            if entry?.name != name {
                return Ok(true);
            }
        }
        Ok(false)
    }
    /// Asks about a name itself, never about what a link points to.
    fn stat(&self, at: &Self::Dir, path: &Path) -> io::Result<Stat>;
    /// Asks about an open file.
    fn stat_file(&self, file: &Self::File) -> io::Result<Stat>;
    /// Renames, atomically, replacing nothing. Durable once both directories are synced.
    fn rename(&self, from: &Self::Dir, old: &Path, to: &Self::Dir, new: &Path) -> io::Result<()>;
    /// Renames over what is there. Only for files that are ours and derived.
    fn replace(&self, from: &Self::Dir, old: &Path, to: &Self::Dir, new: &Path) -> io::Result<()>;
    /// Removes a file. Only for what is ours.
    fn remove_file(&self, at: &Self::Dir, path: &Path) -> io::Result<()>;
    /// Removes an empty directory. Only for what is ours.
    fn remove_dir(&self, at: &Self::Dir, path: &Path) -> io::Result<()>;
    /// Creates a file for reading and writing; a taken name is an error.
    fn create(&self, at: &Self::Dir, path: &Path, mode: u32) -> io::Result<Self::File>;
    /// Opens a regular file; with `write`, for writing too. Never blocks on a FIFO.
    fn open(&self, at: &Self::Dir, path: &Path, write: bool) -> io::Result<Self::File>;
    /// Reads at an offset until the buffer is full or the file ends; the number of bytes read.
    fn read_at(&self, file: &Self::File, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it at an offset.
    fn write_at(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or extends a file.
    fn set_len(&self, file: &Self::File, len: u64) -> io::Result<()>;
    /// Reserves space so that later writes below `len` do not need any; the length stays.
    fn reserve(&self, file: &Self::File, len: u64) -> io::Result<()>;
    /// After it returns, the file's bytes and length are durable; its name is not.
    fn sync_file(&self, file: &Self::File) -> io::Result<()>;
    /// After it returns, the names in this directory are durable.
    fn sync_dir(&self, dir: &Self::Dir) -> io::Result<()>;
    /// After it returns, everything done on this filesystem before the call is durable.
    fn sync_all(&self, dir: &Self::Dir) -> io::Result<()>;
    /// Whether anybody can write into a file. Where nothing is known of leases: not known.
    fn lease(&self, _at: &Self::Dir, _path: &Path) -> Lease {
        Lease::Unknown
    }
    /// [`Filesystem::stat`] and [`Filesystem::lease`] of what was a regular file a moment ago.
    fn look(&self, at: &Self::Dir, path: &Path) -> io::Result<(Stat, Lease)> {
        Ok((self.stat(at, path)?, self.lease(at, path)))
    }
}

/// Removes a socket that nobody listens to: not durable, not input.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "this is fs.rs, and a socket holds nothing")]
    std::fs::remove_file(path)
}

/// Removes an old file of the job log: not durable, not input, not a result.
pub fn remove_log(path: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "this is fs.rs, and the job log is not durable")]
    std::fs::remove_file(path)
}
