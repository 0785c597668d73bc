//! The source index of `batch`: which sources were taken, ever, in constant memory.
//!
//! Must not know: what a source becomes, or when its key is durable elsewhere; the caller adds keys
//! whose `take` records it is about to drop.
//!
//! A run is a file of sorted keys: a header of 24 bytes (magic of 8, count as u64, crc32c of the
//! keys, crc32c of the header so far; all little-endian), then 16 bytes a key.
//!
//! Invariants
//! - A run gets its name only when it is durable, and is never changed.
//! - A key in any run is in the index. Runs that repeat each other are harmless, so a merge that
//!   was interrupted needs no repair.
//! - Each run has at least twice the keys of the next, so there are few: at most one for each
//!   doubling.

use std::ffi::OsString;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::limits::JOURNAL_BLOCK;
use crate::fs::Filesystem;

use super::record::SourceKey;
use super::{CommitError, JournalError, MODE, numbers, path_of, remove};

const MAGIC: &[u8; 8] = b"inboxdS1";
const HEADER: usize = 24;
const KEY: usize = 16;
/// Keys that a lookup reads at once: one page.
const PAGE: usize = 256;
/// Guesses of a lookup before it halves: keys are evenly spread, so the first two nearly always
/// hit.
const GUESSES: u32 = 4;

impl SourceKey {
    /// The key of a source as it is now: another path, inode, size or mtime is another source.
    pub fn of(abs_path: &Path, ino: u64, size: u64, mtime_ns: i64) -> Self {
        let mut hash = Sha256::new();
        hash.update(ino.to_le_bytes());
        hash.update(size.to_le_bytes());
        hash.update(mtime_ns.to_le_bytes());
        hash.update(abs_path.as_os_str().as_bytes());
        let digest = hash.finalize();
        let mut key = [0; KEY];
        key.copy_from_slice(digest.split_at(KEY).0);
        Self(key)
    }
}

/// The index, open.
pub struct Sources<F: Filesystem> {
    fs: F,
    dir: F::Dir,
    /// Oldest and largest first.
    runs: Vec<Run<F>>,
}

struct Run<F: Filesystem> {
    number: u64,
    file: F::File,
    count: u64,
}

impl<F: Filesystem> Sources<F> {
    /// Opens all runs and reads each once, to compare its checksum.
    pub fn open(fs: &F, dir: &F::Dir) -> Result<Self, JournalError> {
        let all = numbers(fs, dir, "sources.", ".idx").map_err(|source| JournalError::Io {
            operation: "list",
            path: path_of("".as_ref()),
            source,
        })?;
        let runs =
            all.into_iter().map(|number| open_run(fs, dir, number)).collect::<Result<_, _>>()?;
        Ok(Self { fs: fs.clone(), dir: dir.clone(), runs })
    }

    /// Whether a source was taken.
    pub fn contains(&self, key: &SourceKey) -> Result<bool, JournalError> {
        for run in &self.runs {
            if self.run_contains(run, *key)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds keys, durably, then merges runs until each is twice the next. The slice is sorted on
    /// the way. After [`CommitError::Full`] it may be called again with the same keys.
    pub fn add_run(&mut self, keys: &mut [SourceKey]) -> Result<(), CommitError> {
        keys.sort_unstable();
        if keys.is_empty() {
            return Ok(());
        }
        let run = self.write_run(keys.iter().copied().map(Ok))?;
        self.runs.push(run);
        while let [.., older, newer] = self.runs.as_slice()
            && older.count < newer.count.saturating_mul(2)
        {
            let merged = self.write_run(Merge {
                older: Keys::new(&self.fs, older).peekable(),
                newer: Keys::new(&self.fs, newer).peekable(),
            })?;
            let stale = [run_name(older.number), run_name(newer.number)];
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(merged);
            // The merged run is durable under its name, so these may go, or come back after a power
            // cut.
            for name in stale {
                remove(&self.fs, &self.dir, &name)
                    .map_err(|e| CommitError::before_sync("remove", &name, e))?;
            }
        }
        Ok(())
    }

    /// Keys in all runs; one that stands in two of them counts twice.
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// No source was ever taken.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Writes a run from ascending keys, leaves out what repeats, makes it durable and names it.
    fn write_run(
        &self,
        keys: impl Iterator<Item = std::io::Result<SourceKey>>,
    ) -> Result<Run<F>, CommitError> {
        let (fs, dir) = (&self.fs, &self.dir);
        let number = self.runs.last().map_or(1, |run| run.number.saturating_add(1));
        let draft: OsString = format!("sources.{number:020}.tmp").into();
        let before = |operation| {
            let draft = draft.clone();
            move |e| CommitError::before_sync(operation, &draft, e)
        };
        remove(fs, dir, &draft).map_err(before("remove"))?;
        let file = fs.create(dir, Path::new(&draft), MODE).map_err(before("create"))?;
        let count = fill_run(fs, &file, keys).map_err(|error| {
            // Frees the space; a failure is met again when the next attempt removes it.
            drop(remove(fs, dir, &draft));
            before("write")(error)
        })?;
        // After it the run is whole, so that its name may say so.
        fs.sync_file(&file).map_err(|e| CommitError::after_sync("fsync", &draft, e))?;
        let name = run_name(number);
        fs.rename(dir, Path::new(&draft), dir, Path::new(&name)).map_err(before("rename"))?;
        // After it the keys are in the index for good.
        fs.sync_dir(dir).map_err(|e| CommitError::after_sync("fsync", &name, e))?;
        Ok(Run { number, file, count })
    }

    /// Interpolation first, then halving: each step reads one page and shrinks the range.
    fn run_contains(&self, run: &Run<F>, key: SourceKey) -> Result<bool, JournalError> {
        let (mut low, mut high) = (0, run.count);
        let mut guesses = 0;
        let mut page = [0; PAGE * KEY];
        while low < high {
            let middle = if guesses < GUESSES {
                // Where it would stand if all keys were evenly spread, which sha256 nearly does.
                let share = u128::from_be_bytes(key.0) >> 64;
                u64::try_from((share * u128::from(run.count)) >> 64).unwrap_or(low)
            } else {
                low + (high - low) / 2
            };
            guesses += 1;
            let last_start = high.saturating_sub(PAGE as u64).max(low);
            let start = middle.saturating_sub(PAGE as u64 / 2).clamp(low, last_start);
            let count = (PAGE as u64).min(high - start);
            let want = usize::try_from(count).unwrap_or_default() * KEY;
            let bytes = page.get_mut(..want).unwrap_or_default();
            let n = self.fs.read_at(&run.file, offset_of(start), bytes).map_err(|source| {
                let path = path_of(&run_name(run.number));
                JournalError::Io { operation: "read", path, source }
            })?;
            if n != want {
                return Err(damaged(run.number, "it became shorter while it was open"));
            }
            let keys = bytes.as_chunks::<KEY>().0;
            if keys.first().is_some_and(|first| key.0 < *first) {
                high = start;
            } else if keys.last().is_some_and(|last| key.0 > *last) {
                low = start + count;
            } else {
                return Ok(keys.binary_search(&key.0).is_ok());
            }
        }
        Ok(false)
    }
}

fn run_name(number: u64) -> OsString {
    format!("sources.{number:020}.idx").into()
}

fn offset_of(index: u64) -> u64 {
    HEADER as u64 + index * KEY as u64
}

fn damaged(number: u64, why: &'static str) -> JournalError {
    JournalError::SourcesDamaged { path: path_of(&run_name(number)), why }
}

fn header(count: u64, crc: u32) -> [u8; HEADER] {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let mut header = [0; HEADER];
    header.copy_from_slice(&bytes);
    header
}

/// Streams the keys into an empty file, then the header in front of them. How many there are.
fn fill_run<F: Filesystem>(
    fs: &F,
    file: &F::File,
    keys: impl Iterator<Item = std::io::Result<SourceKey>>,
) -> std::io::Result<u64> {
    let (mut count, mut written, mut crc) = (0, 0, 0);
    let mut last = None;
    let mut block = Vec::with_capacity(JOURNAL_BLOCK);
    let mut flush = |block: &mut Vec<u8>| {
        fs.write_at(file, HEADER as u64 + written, block)?;
        crc = crc32c::crc32c_append(crc, block);
        written += block.len() as u64;
        block.clear();
        std::io::Result::Ok(())
    };
    for key in keys {
        let key = key?;
        if last == Some(key) {
            continue;
        }
        last = Some(key);
        count += 1;
        block.extend_from_slice(&key.0);
        if block.len() >= JOURNAL_BLOCK {
            flush(&mut block)?;
        }
    }
    flush(&mut block)?;
    fs.write_at(file, 0, &header(count, crc))?;
    Ok(count)
}

fn open_run<F: Filesystem>(fs: &F, dir: &F::Dir, number: u64) -> Result<Run<F>, JournalError> {
    let name = run_name(number);
    let io_error = |operation| {
        let path = path_of(&name);
        move |source| JournalError::Io { operation, path, source }
    };
    let file = fs.open(dir, Path::new(&name), false).map_err(io_error("open"))?;
    let mut head = [0; HEADER];
    let n = fs.read_at(&file, 0, &mut head).map_err(io_error("read"))?;
    let (count, crc) = parse_header(head.get(..n).unwrap_or_default())
        .ok_or_else(|| damaged(number, "its head is not that of a source index"))?;
    let mut block = vec![0; JOURNAL_BLOCK];
    let (mut found, mut sum) = (0u64, 0);
    loop {
        let n = fs.read_at(&file, HEADER as u64 + found, &mut block).map_err(io_error("read"))?;
        if n == 0 {
            break;
        }
        sum = crc32c::crc32c_append(sum, block.get(..n).unwrap_or_default());
        found += n as u64;
    }
    if count.checked_mul(KEY as u64) != Some(found) {
        return Err(damaged(number, "its length is not what its head says"));
    }
    if sum != crc {
        return Err(damaged(number, "its checksum is wrong"));
    }
    Ok(Run { number, file, count })
}

/// Count and checksum of the keys.
fn parse_header(head: &[u8]) -> Option<(u64, u32)> {
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (count, crc) = (u64::from_le_bytes(*count), u32::from_le_bytes(*crc));
    let sound = magic == MAGIC && rest.len() == 4 && head == header(count, crc);
    sound.then_some((count, crc))
}

/// The keys of a run, ascending, a block at a time.
struct Keys<'a, F: Filesystem> {
    fs: &'a F,
    run: &'a Run<F>,
    next: u64,
    block: std::vec::IntoIter<[u8; KEY]>,
}

impl<'a, F: Filesystem> Keys<'a, F> {
    fn new(fs: &'a F, run: &'a Run<F>) -> Self {
        Self { fs, run, next: 0, block: Vec::new().into_iter() }
    }
}

impl<F: Filesystem> Iterator for Keys<'_, F> {
    type Item = std::io::Result<SourceKey>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(key) = self.block.next() {
            return Some(Ok(SourceKey(key)));
        }
        if self.next >= self.run.count {
            return None;
        }
        let count = (self.run.count - self.next).min((JOURNAL_BLOCK / KEY) as u64);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or_default() * KEY];
        match self.fs.read_at(&self.run.file, offset_of(self.next), &mut bytes) {
            Err(error) => return Some(Err(error)),
            Ok(n) if n < bytes.len() => {
                return Some(Err(std::io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(_) => {}
        }
        self.next += count;
        self.block = bytes.as_chunks::<KEY>().0.to_vec().into_iter();
        self.block.next().map(|key| Ok(SourceKey(key)))
    }
}

/// Two runs as one, ascending; an error of either comes first.
struct Merge<'a, F: Filesystem> {
    older: Peekable<Keys<'a, F>>,
    newer: Peekable<Keys<'a, F>>,
}

impl<F: Filesystem> Iterator for Merge<'_, F> {
    type Item = std::io::Result<SourceKey>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.older.peek(), self.newer.peek()) {
            (Some(Ok(old)), Some(Ok(new))) if new < old => self.newer.next(),
            (Some(Ok(_)), Some(Err(_))) | (None, _) => self.newer.next(),
            _ => self.older.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::fs::RealFs;
    use crate::fs::faults::{Faults, Op, Then};

    fn key(n: u32) -> SourceKey {
        let mut key = [0; KEY];
        key.copy_from_slice(&Sha256::digest(n.to_le_bytes())[..KEY]);
        SourceKey(key)
    }

    fn check<F: Filesystem>(index: &Sources<F>, model: &BTreeSet<SourceKey>, all: u32) {
        for n in 0..all {
            assert_eq!(index.contains(&key(n)).unwrap(), model.contains(&key(n)), "key {n}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Goal: the index is the set of what was added, in few runs, also when opened again.
        /// Method: random groups against a `BTreeSet`; groups larger than a page, keys that repeat.
        #[test]
        fn the_index_is_a_set(groups in proptest::collection::vec((0u32..2000, 0u32..700), 1..12)) {
            let tmp = tempfile::tempdir().unwrap();
            let dir = RealFs.open_root(tmp.path()).unwrap();
            let mut index = Sources::open(&RealFs, &dir).unwrap();
            let mut model = BTreeSet::new();
            for (from, count) in groups {
                let mut keys: Vec<_> = (from..from + count).map(key).collect();
                model.extend(keys.iter().copied());
                index.add_run(&mut keys).unwrap();
                for pair in index.runs.windows(2) {
                    prop_assert!(pair[0].count >= 2 * pair[1].count);
                }
            }
            check(&index, &model, 2700);
            check(&Sources::open(&RealFs, &dir).unwrap(), &model, 2700);
            let files = std::fs::read_dir(tmp.path()).unwrap().count();
            prop_assert_eq!(files, index.runs.len());
        }
    }

    /// Goal: keys that are not spread at all are found too. Method: a cluster at each end, one page
    /// apart.
    #[test]
    fn clustered_keys_are_found() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RealFs.open_root(tmp.path()).unwrap();
        let mut index = Sources::open(&RealFs, &dir).unwrap();
        let at = |n: u128| SourceKey(n.to_be_bytes());
        let mut keys: Vec<_> = (0..5000).map(|n| at(n * 2)).collect();
        keys.extend((0..5000).map(|n| at(u128::MAX - n * 2)));
        index.add_run(&mut keys).unwrap();
        for n in 0..5000 {
            assert!(
                index.contains(&at(n * 2)).unwrap()
                    && index.contains(&at(u128::MAX - n * 2)).unwrap()
            );
            assert!(!index.contains(&at(n * 2 + 1)).unwrap());
            assert!(!index.contains(&at(u128::MAX - n * 2 - 1)).unwrap());
        }
        assert!(!index.contains(&at(u128::MAX / 2)).unwrap());
    }

    /// Goal: a lookup reads few pages, however the keys are spread. Method: 400 pages of keys in
    /// one cluster; the 20th read of a lookup fails.
    #[test]
    fn a_lookup_reads_few_pages() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RealFs.open_root(tmp.path()).unwrap();
        let fs = Faults::new(RealFs);
        let mut index = Sources::open(&fs, &dir).unwrap();
        let at = |n: u128| SourceKey(n.to_be_bytes());
        index.add_run(&mut (0..100_000).map(at).collect::<Vec<_>>()).unwrap();
        for n in [0, 1, 50_000, 77_777, 99_999] {
            fs.arm_for(|op| op == Op::ReadAt, 20, rustix::io::Errno::IO, Then::Always);
            assert!(index.contains(&at(n)).unwrap());
        }
    }

    /// Goal: a key that is added again costs nothing. Method: twice in a run, and again in the next
    /// one.
    #[test]
    fn a_key_added_again_is_kept_once() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RealFs.open_root(tmp.path()).unwrap();
        let mut index = Sources::open(&RealFs, &dir).unwrap();
        index.add_run(&mut [key(1), key(1)]).unwrap();
        index.add_run(&mut [key(2), key(1)]).unwrap();
        assert_eq!(index.len(), 2);
        check(&index, &BTreeSet::from([key(1), key(2)]), 9);
    }

    /// Goal: a key once added is never lost by a crash. Method: stop the disk at each durable
    /// operation of an add with two merges, open what is there, check that all of the earlier keys
    /// are in it.
    #[test]
    fn a_merge_that_was_interrupted_loses_no_key() {
        let add = |index: &mut Sources<Faults<RealFs>>, range: std::ops::Range<u32>| {
            index.add_run(&mut range.map(key).collect::<Vec<_>>())
        };
        for stop in 1.. {
            let tmp = tempfile::tempdir().unwrap();
            let dir = RealFs.open_root(tmp.path()).unwrap();
            let fs = Faults::new(RealFs);
            let mut index = Sources::open(&fs, &dir).unwrap();
            add(&mut index, 0..400).unwrap();
            add(&mut index, 400..500).unwrap();
            fs.arm(stop, rustix::io::Errno::IO, Then::Always);
            let added = add(&mut index, 500..580);
            if added.is_ok() {
                assert!(stop > 10, "the add has more operations than {stop}");
                break;
            }
            let opened = Sources::open(&RealFs, &dir).unwrap();
            for n in 0..500 {
                assert!(opened.contains(&key(n)).unwrap(), "stop {stop} lost key {n}");
            }
        }
    }

    /// Goal: a damaged run is refused. Method: flip each byte of a small run, cut it, lengthen it.
    #[test]
    fn a_damaged_run_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RealFs.open_root(tmp.path()).unwrap();
        Sources::open(&RealFs, &dir).unwrap().add_run(&mut [key(1), key(2)]).unwrap();
        let path = tmp.path().join(run_name(1));
        let sound = std::fs::read(&path).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..sound.len()).map(|n| sound[..n].to_vec()).collect();
        bad.push([&sound[..], b"x"].concat());
        bad.extend((0..sound.len()).map(|n| {
            let mut bytes = sound.clone();
            bytes[n] ^= 1;
            bytes
        }));
        for bytes in bad {
            std::fs::write(&path, &bytes).unwrap();
            let opened = Sources::open(&RealFs, &dir);
            assert!(matches!(opened, Err(JournalError::SourcesDamaged { .. })));
        }
    }

    /// Goal: a source that changed is another source. Method: change each part of the key.
    #[test]
    fn a_changed_source_is_another_one() {
        let of =
            |path: &str, ino, size, mtime_ns| SourceKey::of(Path::new(path), ino, size, mtime_ns);
        let keys = BTreeSet::from([
            of("/a", 1, 2, 3),
            of("/b", 1, 2, 3),
            of("/a", 9, 2, 3),
            of("/a", 1, 9, 3),
            of("/a", 1, 2, 9),
        ]);
        assert_eq!(keys.len(), 5);
        assert_eq!(of("/a", 1, 2, 3), of("/a", 1, 2, 3));
    }
}
