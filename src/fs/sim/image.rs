//! One state of the simulated disk, and what each operation does to it.
//!
//! The running world and the replay after a power cut apply the same [`Act`]s by the same rules, so
//! the two cannot drift apart: what is an error to the caller is, in a replay, an operation whose
//! ground an earlier loss took away.
//!
//! Must not know: what is durable, what is lost, who calls.
//!
//! Invariants
//! - An act either happens wholly or changes nothing.
//! - Every node's parent is in the image, or the node is unlinked (`parent` is `None`).
//! - The root is its own parent.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::io::Errno;

use crate::fs::{FileType, Stat};

/// Names an inode for ever; inode *numbers* may be used again, keys are not.
pub(super) type Key = u64;

/// The root directory.
pub(super) const ROOT: Key = 0;

/// Longest name, in bytes, of the filesystems that we serve.
const NAME_MAX: usize = 255;
/// Longest path, in bytes, that a system call takes.
const PATH_MAX: usize = 4095;
/// Files beyond this are a bug of the program under test; they would only fill the memory.
const LEN_MAX: u64 = 1 << 30;

/// The nodes of the disk.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) nodes: BTreeMap<Key, Node>,
}

/// An inode.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    /// The directory that holds its name; `None` once unlinked.
    pub(super) parent: Option<Key>,
    pub(super) ino: u64,
    mode: u32,
    btime_ns: i64,
    mtime_ns: i64,
    ctime_ns: i64,
}

/// What an inode holds. Shared between images until written.
#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Arc<Vec<u8>>),
    Dir(Arc<BTreeMap<OsString, Key>>),
    /// A symbolic link to nowhere: the strictest of the things that are not files.
    Other,
}

/// A change. Moves and removals name the node they meant, so that a replay never takes another one.
#[derive(Debug)]
pub(super) enum Act {
    Make { dir: Key, name: OsString, node: Key, ino: u64, kind: FileType, mode: u32 },
    Move { from: Key, old: OsString, to: Key, new: OsString, node: Key, replace: bool },
    Remove { dir: Key, name: OsString, node: Key, as_dir: bool },
    Write { file: Key, offset: u64, bytes: Vec<u8> },
    SetLen { file: Key, len: u64 },
}

impl Act {
    /// The inodes whose sync makes this durable; one of a pair when both are the same.
    pub(super) fn touches(&self) -> [Option<Key>; 2] {
        match *self {
            Self::Move { from, to, .. } => [Some(from), (from != to).then_some(to)],
            Self::Make { dir, .. } | Self::Remove { dir, .. } => [Some(dir), None],
            Self::Write { file, .. } | Self::SetLen { file, .. } => [Some(file), None],
        }
    }
}

impl Image {
    /// An empty disk.
    pub(super) fn new() -> Self {
        let body = Body::Dir(Arc::default());
        let node = Node::new(body, ROOT, 2, 0o750, 0);
        Self { nodes: BTreeMap::from([(ROOT, node)]) }
    }

    /// Does it, or says why not and changes nothing.
    pub(super) fn apply(&mut self, act: &Act, time_ns: i64) -> Result<(), Errno> {
        match act {
            Act::Make { dir, name, node, ino, kind, mode } => {
                match self.lookup(*dir, name) {
                    Ok(_) => return Err(Errno::EXIST),
                    Err(Errno::NOENT) => {}
                    Err(other) => return Err(other),
                }
                let body = match kind {
                    FileType::File => Body::File(Arc::default()),
                    FileType::Dir => Body::Dir(Arc::default()),
                    FileType::Other => Body::Other,
                };
                self.link(*dir, name, *node, time_ns)?;
                self.nodes.insert(*node, Node::new(body, *dir, *ino, *mode, time_ns));
                Ok(())
            }
            Act::Move { from, old, to, new, node, replace } => {
                self.rename((*from, old), (*to, new), *node, *replace, time_ns)
            }
            Act::Remove { dir, name, node, as_dir } => {
                if self.lookup(*dir, name)? != *node {
                    return Err(Errno::STALE);
                }
                match (&self.get(*node)?.body, as_dir) {
                    (Body::Dir(_), false) => return Err(Errno::ISDIR),
                    (Body::Dir(names), true) if !names.is_empty() => return Err(Errno::NOTEMPTY),
                    (Body::File(_) | Body::Other, true) => return Err(Errno::NOTDIR),
                    _ => {}
                }
                self.unlink(*dir, name, time_ns)?;
                let gone = self.get_mut(*node)?;
                gone.parent = None;
                gone.ctime_ns = time_ns;
                Ok(())
            }
            Act::Write { bytes, .. } => self.tear(act, time_ns, &(0..bytes.len()), true),
            Act::SetLen { file, len } => {
                let len = small(*len)?;
                self.change(*file, time_ns, |data| data.resize(len, 0))
            }
        }
    }

    /// Does a part of a write: the bytes in `keep`, and all of its length if `whole_len`; what the
    /// length covers and no byte reached reads as zeros.
    pub(super) fn tear(
        &mut self,
        act: &Act,
        time_ns: i64,
        keep: &Range<usize>,
        whole_len: bool,
    ) -> Result<(), Errno> {
        let Act::Write { file, offset, bytes } = act else { return Err(Errno::INVAL) };
        let start = small(*offset)?;
        let whole = small(offset.saturating_add(bytes.len() as u64))?;
        if keep.is_empty() && !whole_len {
            return Ok(());
        }
        let end = if whole_len { whole } else { start + keep.end };
        self.change(*file, time_ns, |data| {
            if data.len() < end {
                data.resize(end, 0);
            }
            data[start + keep.start..start + keep.end].copy_from_slice(&bytes[keep.clone()]);
        })
    }

    fn rename(
        &mut self,
        (from, old): (Key, &OsStr),
        (to, new): (Key, &OsStr),
        node: Key,
        replace: bool,
        time_ns: i64,
    ) -> Result<(), Errno> {
        if self.lookup(from, old)? != node {
            return Err(Errno::STALE);
        }
        // The checks stand in the kernel's order, so that the errors are the kernel's too.
        let taken = match self.lookup(to, new) {
            Ok(_) if !replace => return Err(Errno::EXIST),
            Ok(key) => Some(key),
            Err(Errno::NOENT) => None,
            Err(other) => return Err(other),
        };
        if self.is_beneath(to, node) {
            return Err(Errno::INVAL);
        }
        if let Some(taken) = taken {
            if self.is_beneath(from, taken) {
                return Err(Errno::NOTEMPTY);
            }
            if taken == node {
                return Ok(());
            }
            match (&self.get(node)?.body, &self.get(taken)?.body) {
                (Body::Dir(_), Body::Dir(names)) if !names.is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                (Body::Dir(_), Body::Dir(_)) => {}
                (Body::Dir(_), _) => return Err(Errno::NOTDIR),
                (_, Body::Dir(_)) => return Err(Errno::ISDIR),
                _ => {}
            }
        }
        self.link(to, new, node, time_ns)?;
        if let Some(taken) = taken {
            let gone = self.get_mut(taken)?;
            gone.parent = None;
            gone.ctime_ns = time_ns;
        }
        self.unlink(from, old, time_ns)?;
        let moved = self.get_mut(node)?;
        moved.parent = Some(to);
        moved.ctime_ns = time_ns;
        Ok(())
    }

    /// The node of a name.
    pub(super) fn lookup(&self, dir: Key, name: &OsStr) -> Result<Key, Errno> {
        let node = self.get(dir)?;
        let Body::Dir(names) = &node.body else { return Err(Errno::NOTDIR) };
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        names.get(name).copied().ok_or(Errno::NOENT)
    }

    /// The node of a path; `.` is the directory itself.
    pub(super) fn resolve(&self, at: Key, path: &Path) -> Result<Key, Errno> {
        if path == Path::new(".") {
            return Ok(at);
        }
        let (dir, name) = self.parent_of(at, path)?;
        self.lookup(dir, &name)
    }

    /// The directory of a path's last component, and that component.
    pub(super) fn parent_of(&self, at: Key, path: &Path) -> Result<(Key, OsString), Errno> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.contains(&0) {
            return Err(Errno::INVAL);
        }
        if bytes.len() > PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut dir = at;
        let mut last: Option<&OsStr> = None;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir => continue,
                // As RESOLVE_BENEATH answers to what leaves the directory.
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(Errno::XDEV);
                }
            };
            if let Some(parent) = last.replace(name) {
                dir = self.walk(dir, parent)?;
            }
        }
        Ok((dir, last.ok_or(Errno::NOENT)?.to_owned()))
    }

    /// One step into a directory; a link is refused, never followed.
    pub(super) fn walk(&self, dir: Key, name: &OsStr) -> Result<Key, Errno> {
        let key = self.lookup(dir, name)?;
        match self.get(key)?.body {
            Body::Dir(_) => Ok(key),
            Body::File(_) => Err(Errno::NOTDIR),
            Body::Other => Err(Errno::LOOP),
        }
    }

    pub(super) fn get(&self, key: Key) -> Result<&Node, Errno> {
        self.nodes.get(&key).ok_or(Errno::NOENT)
    }

    fn get_mut(&mut self, key: Key) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&key).ok_or(Errno::NOENT)
    }

    fn names_mut(&mut self, dir: Key) -> Result<&mut BTreeMap<OsString, Key>, Errno> {
        match &mut self.get_mut(dir)?.body {
            Body::Dir(names) => Ok(Arc::make_mut(names)),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn link(&mut self, dir: Key, name: &OsStr, node: Key, time_ns: i64) -> Result<(), Errno> {
        // A removed directory that someone still has open takes no names.
        self.get(dir)?.parent.ok_or(Errno::NOENT)?;
        self.names_mut(dir)?.insert(name.to_owned(), node);
        self.touch(dir, time_ns)
    }

    fn unlink(&mut self, dir: Key, name: &OsStr, time_ns: i64) -> Result<(), Errno> {
        self.names_mut(dir)?.remove(name);
        self.touch(dir, time_ns)
    }

    fn touch(&mut self, key: Key, time_ns: i64) -> Result<(), Errno> {
        let node = self.get_mut(key)?;
        node.mtime_ns = time_ns;
        node.ctime_ns = time_ns;
        Ok(())
    }

    fn change(
        &mut self,
        file: Key,
        time_ns: i64,
        edit: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Errno> {
        match &mut self.get_mut(file)?.body {
            Body::File(data) => edit(Arc::make_mut(data)),
            _ => return Err(Errno::INVAL),
        }
        self.touch(file, time_ns)
    }

    /// Whether `key` is `above` or lies below it.
    fn is_beneath(&self, mut key: Key, above: Key) -> bool {
        loop {
            if key == above {
                return true;
            }
            match self.nodes.get(&key).and_then(|node| node.parent) {
                Some(parent) if parent != key => key = parent,
                _ => return false,
            }
        }
    }
}

impl Node {
    fn new(body: Body, parent: Key, ino: u64, mode: u32, time_ns: i64) -> Self {
        let times = (time_ns, time_ns, time_ns);
        let (btime_ns, mtime_ns, ctime_ns) = times;
        Self { body, parent: Some(parent), ino, mode, btime_ns, mtime_ns, ctime_ns }
    }

    pub(super) fn file_type(&self) -> FileType {
        match self.body {
            Body::File(_) => FileType::File,
            Body::Dir(_) => FileType::Dir,
            Body::Other => FileType::Other,
        }
    }

    pub(super) fn stat(&self) -> Stat {
        let (size, links) = match &self.body {
            Body::File(data) => (data.len() as u64, 1),
            Body::Dir(_) => (4096, 2),
            Body::Other => (1, 1),
        };
        Stat {
            file_type: self.file_type(),
            ino: self.ino,
            size,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            btime_ns: self.btime_ns,
            mode: self.mode & 0o7777,
            uid: 1000,
            gid: 0,
            nlink: if self.parent.is_some() { links } else { 0 },
            is_mounted: false,
            is_fixed: false,
        }
    }
}

/// A length or an offset that fits into memory.
fn small(len: u64) -> Result<usize, Errno> {
    if len > LEN_MAX {
        return Err(Errno::FBIG);
    }
    usize::try_from(len).map_err(|_| Errno::FBIG)
}
