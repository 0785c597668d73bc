//! The power cut: which un-synced operations outlive it, and the world they leave.
//!
//! A crash draws a [`Fate`] for every operation that is not yet durable and replays the log over
//! the durable image. An operation whose ground an earlier loss took away (its source never came,
//! its name is still taken, its folder was never made) is lost too.
//!
//! Must not know: what the files are for.
//!
//! Invariants
//! - What a sync promised is never lost: durable operations have no fate to draw.
//! - A rename happens wholly or not at all. Only writes tear.
//! - The same world, [`Mode`] and [`Pick`] give the same disk.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use super::SimFs;
use super::image::{Act, Image, Key};
use super::world::{Op, World};

/// What dies, and what order the filesystem keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `kill -9`: the page cache stays, and stays un-synced. Only the write under way may be cut.
    Process,
    /// Power loss on a journal in order (ext4, `data=ordered`): names and cuts survive as a prefix
    /// of their order, and every sync of anything commits all names before it. Bytes have no order.
    Ext4,
    /// Power loss in the weakest order that POSIX allows: each un-synced operation for itself.
    /// btrfs is between this and [`Mode::Ext4`].
    Weak,
}

/// How a crash decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Nothing un-synced survives.
    Lose,
    /// Everything survives.
    Keep,
    /// Something, decided by this seed.
    Seeded(u64),
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    Lost,
    Whole,
    /// The bytes of a write that arrived, and whether all of its length did.
    Torn(Range<usize>, bool),
}

/// splitmix64: small, and the same on every machine.
#[derive(Clone, Debug)]
pub struct SplitMix(u64);

impl SplitMix {
    /// A generator from its seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0. The bias is too small to matter here.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }
}

/// A [`Pick`] at work.
enum Chooser {
    Lose,
    Keep,
    /// The generator, and how many of eight operations survive: a crash that loses nearly nothing
    /// finds other faults than one that loses nearly all.
    Seeded(SplitMix, u64),
}

impl Chooser {
    fn new(pick: Pick) -> Self {
        match pick {
            Pick::Lose => Self::Lose,
            Pick::Keep => Self::Keep,
            Pick::Seeded(seed) => {
                let mut rng = SplitMix::new(seed);
                let kept_of_eight = match rng.below(4) {
                    0 => 1,
                    1 => 7,
                    _ => 4,
                };
                Self::Seeded(rng, kept_of_eight)
            }
        }
    }

    /// A number from 0 (worst) to `most`.
    fn up_to(&mut self, most: u64) -> u64 {
        match self {
            Self::Lose => 0,
            Self::Keep => most,
            Self::Seeded(rng, _) => rng.below(most + 1),
        }
    }

    fn name(&mut self) -> Fate {
        let survives = match self {
            Self::Lose => false,
            Self::Keep => true,
            Self::Seeded(rng, kept_of_eight) => rng.below(8) < *kept_of_eight,
        };
        if survives { Fate::Whole } else { Fate::Lost }
    }

    fn bytes(&mut self, len: usize) -> Fate {
        let fate = self.name();
        let Self::Seeded(rng, _) = self else { return fate };
        if fate == Fate::Whole || len == 0 {
            return fate;
        }
        let at = usize::try_from(rng.below(len as u64)).unwrap_or(0);
        match rng.below(4) {
            0 => Fate::Lost,
            1 => Fate::Torn(0..at, false),
            // The length arrived before the bytes: zeros stand in their place.
            2 => Fate::Torn(0..at, true),
            // The later page was written first.
            _ => Fate::Torn(at..len, true),
        }
    }
}

impl SimFs {
    /// The world after a crash of this one, which stays as it is. Handles of this world are not
    /// valid there; power is on, operations count from 0.
    #[must_use]
    pub fn crash(&self, mode: Mode, pick: Pick) -> SimFs {
        let world = self.lock();
        let fates = world.fates(mode, pick);
        world.after(mode, pick, &fates)
    }

    /// Up to `how_many` different worlds that a crash may leave: first the one where nothing
    /// un-synced survives, then the one where everything does, then others by the seed. Fewer, when
    /// fewer were found. The description of each names the [`Pick`] that makes it again.
    pub fn crash_states(
        &self,
        mode: Mode,
        seed: u64,
        how_many: usize,
    ) -> impl Iterator<Item = SimFs> + use<> {
        let sim = self.clone();
        let mut seeds = SplitMix::new(seed);
        let random = std::iter::repeat_with(move || Pick::Seeded(seeds.draw()));
        // Few un-synced operations have few outcomes; drawing for ever would not find more.
        let draws = how_many.saturating_mul(2).saturating_add(16);
        let mut known = HashSet::new();
        [Pick::Lose, Pick::Keep]
            .into_iter()
            .chain(random)
            .take(draws)
            .filter_map(move |pick| {
                let world = sim.lock();
                let fates = world.fates(mode, pick);
                let new = !known.contains(&fates);
                new.then(|| {
                    let after = world.after(mode, pick, &fates);
                    known.insert(fates);
                    after
                })
            })
            .take(how_many)
    }
}

impl World {
    /// One fate for each operation in the log; after `kill -9`, one for the write under way.
    fn fates(&self, mode: Mode, pick: Pick) -> Vec<Fate> {
        let mut chooser = Chooser::new(pick);
        if mode == Mode::Process {
            return match self.cut.as_deref() {
                // Keep is the whole write: the process died after it, before it could see so.
                Some(Act::Write { bytes, .. }) => {
                    let most = bytes.len() as u64;
                    let kept = usize::try_from(chooser.up_to(most)).unwrap_or(0);
                    vec![Fate::Torn(0..kept, false)]
                }
                _ => Vec::new(),
            };
        }
        let reached = self.committed + chooser.up_to(self.next_seq - self.committed);
        let built_on = self.built_on();
        let fate = |op: &Op| match &*op.act {
            _ if op.is_durable() => Fate::Whole,
            Act::Write { bytes, .. } => chooser.bytes(bytes.len()),
            _ if op.seq < built_on => Fate::Whole,
            _ if mode == Mode::Weak => chooser.name(),
            _ if op.seq < reached => Fate::Whole,
            _ => Fate::Lost,
        };
        self.log.iter().map(fate).collect()
    }

    /// Names of operations below this survive: a durable operation took a name that one of them had
    /// made free. A folder whose new name is durable cannot hold the old one as well; what else such
    /// an operation stands on survives with it, which is more than POSIX says, for such disks only.
    fn built_on(&self) -> u64 {
        let mut freed: HashMap<(Key, &OsStr), u64> = HashMap::new();
        let mut built_on = 0;
        for op in &self.log {
            let (taken, vacated) = match &*op.act {
                Act::Make { dir, name, .. } => (Some((*dir, name)), None),
                Act::Move { from, old, to, new, .. } => (Some((*to, new)), Some((*from, old))),
                Act::Remove { dir, name, .. } => (None, Some((*dir, name))),
                Act::Write { .. } | Act::SetLen { .. } => (None, None),
            };
            let before = taken.and_then(|(dir, name)| freed.get(&(dir, name.as_os_str())));
            if let (Some(seq), true) = (before, op.is_durable()) {
                built_on = built_on.max(seq + 1);
            }
            if let (Some((dir, name)), false) = (vacated, op.is_durable()) {
                freed.insert((dir, name.as_os_str()), op.seq);
            }
        }
        built_on
    }

    fn after(&self, mode: Mode, pick: Pick, fates: &[Fate]) -> SimFs {
        let mut world = self.restarted();
        world.crashes.push((mode, pick));
        if mode == Mode::Process {
            world.live.forget_unlinked();
            if let (Some(Act::Write { file, offset, bytes }), Some(Fate::Torn(keep, _))) =
                (self.cut.as_deref(), fates.first())
            {
                let bytes = bytes[keep.clone()].to_vec();
                if !bytes.is_empty() {
                    let write = Act::Write { file: *file, offset: *offset, bytes };
                    // An unlinked file is gone with its process; then there is nothing to cut.
                    world.act(write, false).unwrap_or_default();
                }
            }
            return SimFs::of(world);
        }
        world.boot += 1;
        world.live = self.base.clone();
        for (op, fate) in self.log.iter().zip(fates) {
            let done = match fate {
                Fate::Lost => Ok(()),
                Fate::Whole => world.live.apply(&op.act, op.time_ns),
                Fate::Torn(keep, whole_len) => {
                    world.live.tear(&op.act, op.time_ns, keep, *whole_len)
                }
            };
            let fate = if done.is_ok() { fate.clone() } else { Fate::Lost };
            if !op.is_durable() || fate == Fate::Lost {
                world.story.push((Arc::clone(&op.act), fate));
            }
        }
        world.live.forget_unlinked();
        world.base = world.live.clone();
        world.log.clear();
        world.committed = world.next_seq;
        SimFs::of(world)
    }

    /// What the last power cut took and left, one line an operation.
    pub(super) fn tell(&self, out: &mut String) {
        for (mode, pick) in &self.crashes {
            writeln!(out, "crash: {mode:?} {pick:?}").unwrap();
        }
        for (act, fate) in &self.story {
            let fate = match fate {
                Fate::Lost => "lost".to_owned(),
                Fate::Whole => "kept".to_owned(),
                Fate::Torn(keep, whole_len) => format!("torn to {keep:?}, length {whole_len}"),
            };
            let act = match &**act {
                Act::Make { dir, name, node, kind, .. } => {
                    format!("make #{dir}/{} {kind:?} #{node}", name.display())
                }
                Act::Move { from, old, to, new, node, .. } => {
                    let (old, new) = (old.display(), new.display());
                    format!("rename #{from}/{old} -> #{to}/{new} (#{node})")
                }
                Act::Remove { dir, name, node, .. } => {
                    format!("remove #{dir}/{} (#{node})", name.display())
                }
                Act::Write { file, offset, bytes } => {
                    format!("write #{file} at {offset}, {} bytes", bytes.len())
                }
                Act::SetLen { file, len } => format!("set length of #{file} to {len}"),
            };
            writeln!(out, "{fate}: {act}").unwrap();
        }
    }
}

impl Image {
    /// Unlinked inodes live as long as a handle does; a new process has none.
    pub(super) fn forget_unlinked(&mut self) {
        self.nodes.retain(|_, node| node.parent.is_some());
    }
}
