//! `journal/waiting`: which attempts wait in line for a slot. What a dead daemon was only about to begin
//! costs nothing.
//!
//! Must not know: how an attempt is run, what a lost one costs.
//!
//! A claim is born as `ID.1`, since a further rename costs more than all else that a short job needs;
//! so the name alone does not tell whether its worker ever ran. What goes into the line is written
//! here, and blanked before a slot begins it: one `pwrite` each, no sync.
//!
//! Invariants
//! - What stands here has certainly not begun. What does not may have: then it is charged.
//! - Written is what the page cache has: it outlives the daemon, not the machine. So each entry names
//!   the boot that it was written in, and one of any other boot says nothing.
//! - The places are written once, blank, before anything waits: to overwrite them needs no space, but where
//!   nothing is overwritten in place (btrfs). On a full disk there is no table, and each attempt counts.
//! - It is made anew only when recovery is over: one that is interrupted finds the old one again. And the
//!   old one is gone before anything begins: what it says of an attempt may be untrue of the next one.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::core::JobId;
use crate::fs::Filesystem;

use super::MODE;

/// Its name in `journal/`.
const NAME: &str = "waiting";
/// Bytes of an entry: `ID.ATTEMPT BOOT`, filled up with spaces, and a newline.
const ENTRY: usize = 128;
/// What is longer is not ours.
const LARGEST: u64 = 1 << 20;

/// Written while the daemon lives.
#[derive(Debug)]
pub struct Waiting<F: Filesystem> {
    fs: F,
    file: F::File,
    boot: String,
}

impl<F: Filesystem> Waiting<F> {
    /// A new table with so many blank places, instead of the last one. `None`: there is no room for one.
    pub fn create(fs: &F, journal: &F::Dir, boot: &str, places: usize) -> io::Result<Option<Self>> {
        super::remove(fs, journal, NAME.as_ref())?;
        let written = fs.create(journal, Path::new(NAME), MODE).and_then(|file| {
            fs.write_at(&file, 0, &entry("").repeat(places))?;
            Ok(Self { fs: fs.clone(), file, boot: boot.to_owned() })
        });
        match written {
            Err(error) if crate::fs::is_shortage(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The attempt waits, at a place that is blank.
    pub fn enter(&self, place: usize, job: JobId, attempt: u32) -> io::Result<()> {
        self.write(place, &entry(&format!("{job}.{attempt} {}", self.boot)))
    }

    /// The place is blank again: what stood there may begin. Where there is no room for that, all are.
    pub fn leave(&self, place: usize) -> io::Result<()> {
        match self.write(place, &entry("")) {
            Err(error) if crate::fs::is_shortage(&error) => self.fs.set_len(&self.file, 0),
            left => left,
        }
    }

    fn write(&self, place: usize, entry: &[u8]) -> io::Result<()> {
        self.fs.write_at(&self.file, place.saturating_mul(ENTRY) as u64, entry)
    }
}

fn entry(text: &str) -> Vec<u8> {
    let mut line = text.as_bytes().to_vec();
    line.resize(ENTRY - 1, b' ');
    line.push(b'\n');
    line
}

/// The attempts that waited when their daemon died, in this boot. No table: none.
pub fn read<F: Filesystem>(
    fs: &F,
    journal: &F::Dir,
    boot: &str,
) -> io::Result<HashSet<(JobId, u32)>> {
    let file = match fs.open(journal, Path::new(NAME), false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(error),
    };
    let size = fs.stat_file(&file)?.size.min(LARGEST);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match fs.read_at(&file, filled as u64, rest)? {
            0 => break,
            read => filled += read,
        }
    }
    let entries = bytes.chunks_exact(ENTRY).filter_map(|entry| parse(entry, boot));
    Ok(entries.collect())
}

fn parse(entry: &[u8], boot: &str) -> Option<(JobId, u32)> {
    let (what, of) = std::str::from_utf8(entry).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let (job, attempt) = what.split_once('.')?;
    if of.trim_end_matches(' ') != boot {
        return None;
    }
    Some((job.parse().ok()?, attempt.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    use crate::fs::RealFs;
    use crate::fs::faults::{Faults, Op, Then};

    /// Goal: an attempt costs nothing only while it is certain that it did not begin: a file that kills
    /// the daemon or the machine must not be tried for ever. Method: two that wait, of which one begins;
    /// then another boot, a torn and a damaged table, and none.
    #[test]
    fn only_what_certainly_waits_is_said_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = RealFs.open_root(dir.path()).unwrap();
        let (first, second) = (JobId::MIN, JobId::next(JobId::MIN, 7, [3; 10]));
        let seen = |boot: &str| {
            let mut all: Vec<_> = read(&RealFs, &at, boot).unwrap().into_iter().collect();
            all.sort_unstable();
            all
        };
        assert_eq!(seen("boot"), [], "no table");
        let table = Waiting::create(&RealFs, &at, "boot", 3).unwrap().unwrap();
        assert_eq!(seen("boot"), []);
        table.enter(2, first, 1).unwrap();
        table.enter(0, second, 4).unwrap();
        assert_eq!(seen("boot"), [(first, 1), (second, 4)]);
        table.leave(0).unwrap();
        assert_eq!(seen("boot"), [(first, 1)]);
        assert_eq!(seen("later"), []);
        assert_eq!(seen("boo"), [], "part of a name is another one");
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..0], &whole[..whole.len() - 1], &[b'x'; ENTRY], &[0; ENTRY]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(seen("boot"), [], "{damaged:?}");
        }
        std::fs::write(&path, &whole).unwrap();
        Waiting::create(&RealFs, &at, "boot", 1).unwrap().unwrap();
        assert_eq!(seen("boot"), [], "made anew");
    }

    /// Goal: a full disk on which nothing is overwritten in place keeps nothing from beginning, and what has begun
    /// is not said to wait. Method: two wait, no room to blank the place of one; then a third one waits.
    #[test]
    fn without_room_to_blank_a_place_none_is_said_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let at = RealFs.open_root(dir.path()).unwrap();
        let full = Faults::new(RealFs);
        let jobs: Vec<JobId> = (1..4).map(|n| JobId::next(JobId::MIN, n, [3; 10])).collect();
        let table = Waiting::create(&full, &at, "boot", 3).unwrap().unwrap();
        table.enter(0, jobs[0], 1).unwrap();
        table.enter(1, jobs[1], 1).unwrap();
        full.arm_for(Op::takes_space, 1, Errno::NOSPC, Then::Works);
        table.leave(0).unwrap();
        assert!(read(&RealFs, &at, "boot").unwrap().is_empty());
        table.enter(2, jobs[2], 1).unwrap();
        assert_eq!(read(&RealFs, &at, "boot").unwrap(), HashSet::from([(jobs[2], 1)]));
    }

    /// Goal: a daemon starts on a full disk, too, and then nothing that an older one wrote is left to be
    /// believed. Method: no room for the new table, after an old one.
    #[test]
    fn on_a_full_disk_there_is_no_table() {
        let sim = crate::fs::sim::SimFs::new();
        let at = sim.root();
        let job = JobId::MIN;
        let table = Waiting::create(&sim, &at, "boot", 1).unwrap().unwrap();
        table.enter(0, job, 1).unwrap();
        let full = Faults::new(sim.clone());
        full.arm_for(Op::takes_space, 1, Errno::NOSPC, Then::Works);
        assert!(Waiting::create(&full, &at, "boot", 1).unwrap().is_none());
        assert!(read(&sim, &at, "boot").unwrap().is_empty());
    }
}
