//! The real filesystem: each operation is one or two system calls, named in its comment.
//!
//! Must not know: what the files are for.
//!
//! Invariants: as in the module above. A path with several components is resolved by `openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` first, and the operation then works on the last component.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    Access, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, ResolveFlags, Statx,
    StatxAttributes, StatxFlags,
};

use rustix::io::Errno;

use super::{Entry, FileType, Filesystem, Lease, Stat};

/// The kernel's filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// Free (for us) and total bytes of the filesystem that holds `path`: `statvfs`.
pub fn free_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Whether the filesystem that holds `path` has no inode left for one more file: then it is full, whatever
/// [`free_space`] says. Where inodes are made as they are needed (btrfs), there are none to be counted.
pub fn has_no_inode(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_files > 0 && stat.f_favail == 0)
}

/// Whether the filesystem that holds `path` is mounted read-only.
pub fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path)
        .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Which mount `path` is on: a rename leads from none to another, not even within one filesystem. `None`: the
/// kernel does not say (before 5.8).
pub fn mount_of(path: &Path) -> Option<u64> {
    mount_at(CWD, path)
}

fn mount_at(at: BorrowedFd<'_>, path: &Path) -> Option<u64> {
    let found = rustix::fs::statx(at, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// Descriptors that this process may have: the soft limit, which a shell's `ulimit -n` says.
pub fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// What is known of a filesystem's ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything that happens in it happens on this machine.
    Local,
    /// Others may change it without an event or a lease: its name, for people.
    Shared(&'static str),
}

/// Magic numbers of statfs(2) and of `linux/magic.h`, for filesystems that tell only part of what
/// happens in them.
const SHARED: [(u32, &str); 14] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x786f_4256, "a shared folder of VirtualBox"),
    (0x794c_7630, "overlayfs"),
];

/// Which kind of filesystem holds `path`: `statfs`.
pub fn kind(path: &Path) -> io::Result<Kind> {
    Ok(kind_of(rustix::fs::statfs(path)?.f_type))
}

/// The type has 32 bits, in a field that may be signed and wider.
fn kind_of(f_type: impl TryInto<i128>) -> Kind {
    let low = f_type.try_into().unwrap_or(0) & 0xffff_ffff;
    match SHARED.iter().find(|(magic, _)| i128::from(*magic) == low) {
        Some((_, name)) => Kind::Shared(name),
        None => Kind::Local,
    }
}

/// An open directory; clones share the descriptor.
#[derive(Clone, Debug)]
pub struct RealDir(Arc<OwnedFd>);

impl AsFd for RealDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// NONBLOCK: opening a FIFO that a producer left must not wait for its other end.
const NO_WAIT: OFlags =
    OFlags::NONBLOCK.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NOCTTY);

impl RealFs {
    /// Opens a directory by its path as the user gave it; symbolic links are followed, the path is theirs.
    pub fn open_root(self, path: &Path) -> io::Result<RealDir> {
        let fd = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?;
        Ok(RealDir(Arc::new(fd)))
    }
}

fn open_to_read(at: &RealDir, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(at, path, OFlags::RDONLY | NO_WAIT, Mode::empty(), BENEATH)
}

/// Runs `act` on the directory that holds the last component, and on that component.
fn at_parent<T>(
    at: &RealDir,
    path: &Path,
    act: impl FnOnce(BorrowedFd<'_>, &Path) -> rustix::io::Result<T>,
) -> io::Result<T> {
    if !path.as_os_str().as_bytes().contains(&b'/') {
        return Ok(act(at.as_fd(), path)?);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if parent.as_os_str().is_empty() {
        // `x/` is a path like `x`; a join with nothing makes it.
        return Ok(act(at.as_fd(), Path::new(name))?);
    }
    let flags = DIRECTORY | OFlags::PATH;
    let dir = rustix::fs::openat2(at, parent, flags, Mode::empty(), BENEATH)?;
    Ok(act(dir.as_fd(), Path::new(name))?)
}

fn stat_from(x: &Statx) -> Stat {
    let ns = |t: &rustix::fs::StatxTimestamp| {
        t.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(t.tv_nsec))
    };
    let mode = u32::from(x.stx_mode);
    let file_type = match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::RegularFile => FileType::File,
        rustix::fs::FileType::Directory => FileType::Dir,
        _ => FileType::Other,
    };
    let has_birth = x.stx_mask & StatxFlags::BTIME.bits() != 0;
    Stat {
        file_type,
        ino: x.stx_ino,
        size: x.stx_size,
        mtime_ns: ns(&x.stx_mtime),
        ctime_ns: ns(&x.stx_ctime),
        btime_ns: if has_birth { ns(&x.stx_btime) } else { 0 },
        mode: mode & 0o7777,
        uid: x.stx_uid,
        gid: x.stx_gid,
        nlink: x.stx_nlink,
        is_mounted: x.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        is_fixed: x.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
    }
}

fn wanted() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

/// A directory being read: `getdents64`, buffered.
pub struct RealList(rustix::fs::Dir);

impl Iterator for RealList {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.0.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let file_type = match entry.file_type() {
                rustix::fs::FileType::RegularFile => Some(FileType::File),
                rustix::fs::FileType::Directory => Some(FileType::Dir),
                rustix::fs::FileType::Unknown => None,
                _ => Some(FileType::Other),
            };
            let name = std::ffi::OsString::from_vec(name.to_vec());
            return Some(Ok(Entry { name, file_type }));
        }
    }
}

impl Filesystem for RealFs {
    type Dir = RealDir;
    type File = OwnedFd;
    type List = RealList;

    fn open_dir(&self, at: &RealDir, path: &Path) -> io::Result<RealDir> {
        let fd = rustix::fs::openat2(at, path, DIRECTORY, Mode::empty(), BENEATH)?;
        Ok(RealDir(Arc::new(fd)))
    }

    fn open_own_dir(&self, at: &RealDir, path: &Path) -> io::Result<RealDir> {
        let here = BENEATH.union(ResolveFlags::NO_XDEV);
        let fd = rustix::fs::openat2(at, path, DIRECTORY, Mode::empty(), here)?;
        Ok(RealDir(Arc::new(fd)))
    }

    fn make_dir(&self, at: &RealDir, path: &Path, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        at_parent(at, path, |dir, name| {
            rustix::fs::mkdirat(dir, name, mode)?;
            // mkdir(2) ignores setgid, and the umask takes the group's right to write, which only
            // `incoming/` has. The other folders cost no second call.
            if mode.intersects(Mode::SGID | Mode::WGRP) {
                rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
            }
            Ok(())
        })
    }

    fn open_up(&self, at: &RealDir, path: &Path) -> io::Result<()> {
        // chmod(2) follows links, and fchmodat2 is as young as Linux 6.6: through the folder itself.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat2(at, path, flags, Mode::empty(), BENEATH)?;
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&dir)?.st_mode & 0o7777);
        let itself = format!("/proc/self/fd/{}", dir.as_raw_fd());
        Ok(rustix::fs::chmod(itself, mode | Mode::RWXU)?)
    }

    fn takes_from(&self, to: &RealDir, from: &RealDir) -> bool {
        // faccessat(2) also knows of ACLs and attributes; what else it says, the rename says, too.
        let is_closed =
            rustix::fs::accessat(to, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
                .is_err_and(|errno| matches!(errno, Errno::ACCESS | Errno::PERM));
        let here = Path::new(".");
        !is_closed && mount_at(to.as_fd(), here) == mount_at(from.as_fd(), here)
    }

    fn list(&self, at: &RealDir) -> io::Result<RealList> {
        // A descriptor of its own: two listings of one directory must not share an offset.
        let fd = rustix::fs::openat(at, ".", DIRECTORY, Mode::empty())?;
        Ok(RealList(rustix::fs::Dir::new(fd)?))
    }

    fn has_others(&self, at: &RealDir, name: &OsStr) -> io::Result<bool> {
        // On the descriptor itself, whose offset nothing else uses: `list` has its own.
        rustix::fs::seek(at, rustix::fs::SeekFrom::Start(0))?;
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 1024];
        let mut entries = rustix::fs::RawDir::new(at, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let found = entry.file_name().to_bytes();
            if !matches!(found, b"." | b"..") && found != name.as_bytes() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn stat(&self, at: &RealDir, path: &Path) -> io::Result<Stat> {
        at_parent(at, path, |dir, name| {
            rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, wanted())
        })
        .map(|x| stat_from(&x))
    }

    fn stat_file(&self, file: &OwnedFd) -> io::Result<Stat> {
        Ok(stat_from(&rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted())?))
    }

    fn rename(&self, from: &RealDir, old: &Path, to: &RealDir, new: &Path) -> io::Result<()> {
        rename_with(from, old, to, new, RenameFlags::NOREPLACE)
    }

    fn replace(&self, from: &RealDir, old: &Path, to: &RealDir, new: &Path) -> io::Result<()> {
        rename_with(from, old, to, new, RenameFlags::empty())
    }

    fn remove_file(&self, at: &RealDir, path: &Path) -> io::Result<()> {
        at_parent(at, path, |dir, name| rustix::fs::unlinkat(dir, name, AtFlags::empty()))
    }

    fn remove_dir(&self, at: &RealDir, path: &Path) -> io::Result<()> {
        at_parent(at, path, |dir, name| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
    }

    fn create(&self, at: &RealDir, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat2(at, path, flags, Mode::from_raw_mode(mode), BENEATH)?)
    }

    fn open(&self, at: &RealDir, path: &Path, write: bool) -> io::Result<OwnedFd> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let file = rustix::fs::openat2(at, path, access | NO_WAIT, Mode::empty(), BENEATH)?;
        match self.stat_file(&file)?.file_type {
            FileType::File => Ok(file),
            FileType::Dir => Err(rustix::io::Errno::ISDIR.into()),
            FileType::Other => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
            }
        }
    }

    fn read_at(&self, file: &OwnedFd, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(file, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, file: &OwnedFd, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(file, rest, offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn set_len(&self, file: &OwnedFd, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(file, len)?)
    }

    fn reserve(&self, file: &OwnedFd, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len) {
            // Not every filesystem can (NFS, some FUSE): then a full disk waits without a spare.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn sync_file(&self, file: &OwnedFd) -> io::Result<()> {
        // fdatasync also flushes the length, which is all that reading back needs.
        Ok(rustix::fs::fdatasync(file)?)
    }

    fn sync_dir(&self, dir: &RealDir) -> io::Result<()> {
        Ok(rustix::fs::fsync(dir)?)
    }

    fn sync_all(&self, dir: &RealDir) -> io::Result<()> {
        Ok(rustix::fs::syncfs(dir)?)
    }

    fn lease(&self, at: &RealDir, path: &Path) -> Lease {
        match open_to_read(at, path) {
            // Of what is no regular file the kernel has no lease.
            Ok(file) => super::lease::ask(file),
            // Gone, or not ours to read: whoever claims it will see.
            Err(_) => Lease::Unknown,
        }
    }

    fn look(&self, at: &RealDir, path: &Path) -> io::Result<(Stat, Lease)> {
        match open_to_read(at, path) {
            Ok(file) => Ok((self.stat_file(&file)?, super::lease::ask(file))),
            Err(_) => Ok((self.stat(at, path)?, Lease::Unknown)),
        }
    }
}

fn rename_with(
    from: &RealDir,
    old: &Path,
    to: &RealDir,
    new: &Path,
    flags: RenameFlags,
) -> io::Result<()> {
    at_parent(from, old, |old_dir, old_name| {
        at_parent(to, new, |new_dir, new_name| {
            rustix::fs::renameat_with(old_dir, old_name, new_dir, new_name, flags)
        })
        .map_err(|e| rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::INVAL))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, RealDir) {
        let dir = tempfile::tempdir().unwrap();
        let fd = RealFs.open_root(dir.path()).unwrap();
        (dir, fd)
    }

    /// Goal: a filesystem is known by its number however wide and signed the field is.
    /// Method: NFS, CIFS as a negative number, ext4; and /proc, which is none of them.
    #[test]
    fn filesystems_are_told_apart() {
        assert_eq!(kind_of(0x6969_i64), Kind::Shared("NFS"));
        assert_eq!(kind_of(0xff53_4d42_u32.cast_signed()), Kind::Shared("CIFS"));
        assert_eq!(kind_of(0xff53_4d42_i64), Kind::Shared("CIFS"));
        assert_eq!(kind_of(0xef53_i64), Kind::Local);
        assert_eq!(kind(Path::new("/proc")).unwrap(), Kind::Local);
    }

    /// Goal: a rename replaces nothing. Method: two files, one name.
    #[test]
    fn rename_never_replaces() {
        let (dir, at) = root();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        std::fs::write(dir.path().join("b"), "b").unwrap();
        let error = RealFs.rename(&at, Path::new("a"), &at, Path::new("b")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"b");
    }

    /// Goal: a folder for a group is one whatever the umask. Method: the mode of `incoming/`, and one of ours.
    #[test]
    fn a_folder_for_a_group_is_setgid() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, at) = root();
        for (name, mode) in [("a", 0o2770), ("b", 0o750)] {
            RealFs.make_dir(&at, Path::new(name), mode).unwrap();
            let made = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            // Ours may be stricter under a strict umask, never wider.
            assert_eq!(made & 0o7777 & !mode, 0, "{name}");
            assert!(name == "b" || made & 0o7777 == mode, "{name}: {made:o}");
        }
    }

    /// Goal: no operation walks through a symbolic link or out by `..`. Method: a link to a folder with a file.
    #[test]
    fn links_and_dotdot_are_refused() {
        let (dir, at) = root();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/x"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        assert!(RealFs.open_dir(&at, Path::new("link")).is_err());
        assert!(RealFs.stat(&at, Path::new("link/x")).is_err());
        assert!(RealFs.open(&at, Path::new("link/x"), false).is_err());
        assert!(RealFs.rename(&at, Path::new("link/x"), &at, Path::new("y")).is_err());
        assert!(RealFs.remove_file(&at, Path::new("link/x")).is_err());
        assert!(RealFs.open_dir(&at, Path::new("real/../..")).is_err());
        assert!(RealFs.stat(&at, Path::new("real/x")).is_ok());
    }

    /// Goal: opening a FIFO neither blocks nor succeeds. Method: a FIFO with no other end.
    #[test]
    fn fifo_is_not_a_file() {
        let (dir, at) = root();
        rustix::fs::mknodat(CWD, dir.path().join("p"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        assert!(RealFs.open(&at, Path::new("p"), false).is_err());
        assert_eq!(RealFs.stat(&at, Path::new("p")).unwrap().file_type, FileType::Other);
    }
}
