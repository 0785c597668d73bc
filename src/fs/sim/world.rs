//! The live image, the durable one, and the log between them.
//!
//! Must not know: paths of the caller's making beyond resolving them, how a crash decides.
//!
//! Invariants
//! - live = base + log, except that the base forgets what has neither a name nor a waiting
//!   operation.
//! - A failed operation is not logged; the clock ticks for it all the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use rustix::io::Errno;

use super::crash::{Fate, Mode, Pick};
use super::image::{Act, Body, Image, Key, ROOT};
use super::{Handle, Seen, SimFile};
use crate::fs::FileType;

/// Nanoseconds between two ticks of the clock.
const TICK_NS: i64 = 1_000_000;
/// What the clock shows when a world begins, 2023-11-14.
const EPOCH_NS: i64 = 1_700_000_000_000_000_000;
/// The lowest inode number after the root's, as on ext4.
const FIRST_INO: u64 = 11;

/// An operation since the base.
#[derive(Clone)]
pub(super) struct Op {
    pub(super) act: Arc<Act>,
    pub(super) time_ns: i64,
    pub(super) seq: u64,
    /// The inodes whose sync it still waits for.
    pub(super) waits: [Option<Key>; 2],
}

impl Op {
    pub(super) fn is_durable(&self) -> bool {
        self.waits == [None, None]
    }
}

pub(super) struct World {
    /// Unlike any other world's, so that handles cannot stray.
    pub(super) id: u64,
    pub(super) live: Image,
    pub(super) base: Image,
    pub(super) log: VecDeque<Op>,
    pub(super) next_seq: u64,
    /// In the ordered mode, names of operations below this are durable.
    pub(super) committed: u64,
    pub(super) next_key: Key,
    pub(super) next_ino: u64,
    pub(super) reuse_inos: bool,
    pub(super) clock_ns: i64,
    pub(super) boot: u64,
    pub(super) ops: u64,
    pub(super) stop_at: Option<u64>,
    pub(super) power_is_out: bool,
    /// The write that the power cut fell into.
    pub(super) cut: Option<Arc<Act>>,
    /// Who has what open.
    pub(super) open: BTreeMap<Key, Weak<Handle>>,
    pub(super) crashes: Vec<(Mode, Pick)>,
    pub(super) story: Vec<(Arc<Act>, Fate)>,
}

fn next_world() -> u64 {
    static WORLDS: AtomicU64 = AtomicU64::new(1);
    WORLDS.fetch_add(1, Ordering::Relaxed)
}

pub(super) fn power_is_out() -> io::Error {
    io::Error::other("power is out")
}

impl World {
    /// An empty world.
    pub(super) fn new() -> Self {
        Self {
            id: next_world(),
            live: Image::new(),
            base: Image::new(),
            log: VecDeque::new(),
            next_seq: 0,
            committed: 0,
            next_key: ROOT + 1,
            next_ino: FIRST_INO,
            reuse_inos: false,
            clock_ns: EPOCH_NS,
            boot: 0,
            ops: 0,
            stop_at: None,
            power_is_out: false,
            cut: None,
            open: BTreeMap::new(),
            crashes: Vec::new(),
            story: Vec::new(),
        }
    }

    /// Counts an operation, unless the power goes out before it.
    pub(super) fn step(&mut self) -> io::Result<()> {
        if self.stop_at.is_some_and(|n| self.ops + 1 >= n) {
            self.power_is_out = true;
            return Err(power_is_out());
        }
        self.ops += 1;
        Ok(())
    }

    /// Does it to the live image and logs it; `durable` waits for no sync.
    pub(super) fn act(&mut self, act: Act, durable: bool) -> Result<(), Errno> {
        self.clock_ns += TICK_NS;
        self.live.apply(&act, self.clock_ns)?;
        let waits = if durable { [None, None] } else { act.touches() };
        let (time_ns, seq) = (self.clock_ns, self.next_seq);
        self.next_seq += 1;
        self.log.push_back(Op { act: Arc::new(act), time_ns, seq, waits });
        self.compact();
        Ok(())
    }

    /// Ends the waits for this inode, or all of them.
    pub(super) fn settle(&mut self, synced: Option<Key>) {
        for op in &mut self.log {
            for wait in &mut op.waits {
                if synced.is_none() || *wait == synced {
                    *wait = None;
                }
            }
        }
        self.committed = self.next_seq;
        self.compact();
    }

    /// Moves what is durable, and has nothing un-durable before it, into the base.
    fn compact(&mut self) {
        while self.log.front().is_some_and(Op::is_durable) {
            let Some(op) = self.log.pop_front() else { break };
            // Fails only for an unlinked file that is still open: the base has forgotten it.
            self.base.apply(&op.act, op.time_ns).unwrap_or_default();
        }
        if self.log.is_empty() {
            self.base.forget_unlinked();
        }
    }

    pub(super) fn make(
        &mut self,
        dir: Key,
        name: OsString,
        kind: FileType,
        mode: u32,
        durable: bool,
    ) -> Result<Key, Errno> {
        let node = self.next_key;
        let ino = self.free_ino();
        self.act(Act::Make { dir, name, node, ino, kind, mode }, durable)?;
        self.next_key += 1;
        self.next_ino = self.next_ino.max(ino + 1);
        Ok(node)
    }

    pub(super) fn rename(
        &mut self,
        (from, old): (Key, &Path),
        (to, new): (Key, &Path),
        replace: bool,
    ) -> Result<(), Errno> {
        let (from, old) = self.live.parent_of(from, old)?;
        let (to, new) = self.live.parent_of(to, new)?;
        let node = self.live.lookup(from, &old)?;
        self.act(Act::Move { from, old, to, new, node, replace }, false)
    }

    pub(super) fn remove(&mut self, at: Key, path: &Path, as_dir: bool) -> Result<(), Errno> {
        let (dir, name) = self.live.parent_of(at, path)?;
        let node = self.live.lookup(dir, &name)?;
        self.act(Act::Remove { dir, name, node, as_dir }, false)
    }

    pub(super) fn plant(&mut self, path: &str, kind: FileType) -> Key {
        let mut dir = ROOT;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let is_last = names.peek().is_none();
            dir = match self.live.lookup(dir, name.as_ref()) {
                Ok(key) if !is_last || kind == FileType::Dir => key,
                _ => {
                    let kind = if is_last { kind } else { FileType::Dir };
                    self.make(dir, name.into(), kind, 0o750, true).unwrap()
                }
            };
        }
        dir
    }

    fn free_ino(&mut self) -> u64 {
        if !self.reuse_inos {
            return self.next_ino;
        }
        let open = &self.open;
        self.live.nodes.retain(|key, node| {
            node.parent.is_some() || open.get(key).is_some_and(|handle| handle.strong_count() > 0)
        });
        let made = self.log.iter().filter_map(|op| match &*op.act {
            Act::Make { ino, .. } => Some(*ino),
            _ => None,
        });
        let held = self.live.nodes.values().chain(self.base.nodes.values()).map(|node| node.ino);
        let taken: BTreeSet<u64> = held.chain(made).collect();
        (FIRST_INO..self.next_ino).find(|ino| !taken.contains(ino)).unwrap_or(self.next_ino)
    }

    /// The one handle that all openers of an inode share, so that its last drop can be seen.
    pub(super) fn handle(&mut self, key: Key) -> Arc<Handle> {
        if let Some(handle) = self.open.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        let handle = Arc::new(Handle { world: self.id, key });
        self.open.insert(key, Arc::downgrade(&handle));
        handle
    }

    pub(super) fn key(&self, handle: &Handle) -> Key {
        assert_eq!(handle.world, self.id, "a handle of before the crash, or of another world");
        handle.key
    }

    pub(super) fn data(&self, file: &SimFile) -> Result<&Arc<Vec<u8>>, Errno> {
        match &self.live.get(self.key(&file.handle))?.body {
            Body::File(data) => Ok(data),
            _ => Err(Errno::INVAL),
        }
    }

    /// This world as the next process finds it, before anything is lost.
    pub(super) fn restarted(&self) -> World {
        World {
            id: next_world(),
            live: self.live.clone(),
            base: self.base.clone(),
            log: self.log.clone(),
            ops: 0,
            stop_at: None,
            power_is_out: false,
            cut: None,
            open: BTreeMap::new(),
            crashes: self.crashes.clone(),
            story: Vec::new(),
            ..*self
        }
    }

    pub(super) fn walk(&self, dir: Key, above: &str, visit: &mut dyn FnMut(&str, Key, Seen)) {
        let Some(Body::Dir(names)) = self.live.nodes.get(&dir).map(|node| &node.body) else {
            return;
        };
        for (name, key) in &**names {
            let name = match name.to_str() {
                Some(name) => name.to_owned(),
                None => name.as_encoded_bytes().escape_ascii().to_string(),
            };
            let path = if above.is_empty() { name } else { format!("{above}/{name}") };
            let seen = match self.live.nodes.get(key).map(|node| &node.body) {
                Some(Body::File(data)) => Seen::File(Arc::clone(data)),
                Some(Body::Dir(_)) => Seen::Dir,
                // A name without a node would be our own bug; the message must still print.
                Some(Body::Other) | None => Seen::Other,
            };
            visit(&path, *key, seen);
            self.walk(*key, &path, visit);
        }
    }
}
