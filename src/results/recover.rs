//! What start-up believes of the CSVs: which bytes the journal still vouches for, and whether the
//! files are as recorded.
//!
//! Order: [`Recovery::feed`] every live record; [`Recovery::verify`]; copy the live records into the
//! new journal segment through [`Recovery::rewrite`] and sync it; [`Recovery::into_results`]; apply
//! the same rewritten records; flush.
//!
//! Must not know: how the journal is read or written. It keeps a few words a segment, never rows.
//!
//! Invariants
//! - A segment whose file is not as recorded is left alone; what lies beyond its durable base goes,
//!   under a number never used before, to a new file. Rows may then stand twice, never nowhere.
//! - Rewriting only renumbers, moves offsets and replaces inodes; the bytes stay.
//!
//! Assumption: the first `CsvOpen` of a segment in the live journal is its durable base, since a
//! journal segment is dropped only once all that it describes is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::file::{find_sealed, is_gone, open_if_allowed, prefix_crc, stat_ours};
use super::plan::create_temp;
use super::segment::{Results, Touched};
use super::{ResultsError, encode, failed, names};
use crate::fs::{Filesystem, Stat};
use crate::journal::record::{CsvMoved, CsvOpen, CsvSeal, InputOutcome, Outcome, Piece, Record};

/// Reads the live journal twice: to learn, then to rewrite.
pub struct Recovery<F: Filesystem> {
    fs: F,
    dir: F::Dir,
    journal: F::Dir,
    routes: BTreeMap<String, RouteLog>,
    /// Segments whose birth was recorded and not what it was for.
    dropped: BTreeSet<(String, u64)>,
}

/// What the results need to know of a segment before its records are applied.
pub(super) struct Expected {
    /// Its file is not longer than this.
    pub(super) end: u64,
    /// The name it ends with.
    pub(super) final_name: Option<String>,
    /// Its bytes from here on are moved away.
    pub(super) hold: Option<u64>,
}

#[derive(Default)]
struct RouteLog {
    last_seg: u64,
    segments: BTreeMap<u64, SegmentLog>,
}

struct SegmentLog {
    /// The state that is durable.
    base: CsvOpen,
    header: Vec<u8>,
    /// Recorded bytes, without those that were moved away.
    end: u64,
    /// Recorded bytes.
    len: u64,
    /// Rows among those beyond the base.
    rows: u64,
    final_name: Option<String>,
    hold: Option<u64>,
    fate: Fate,
}

/// What becomes of a segment.
#[derive(Clone, Copy)]
enum Fate {
    /// The file is as recorded.
    Kept,
    /// The file never became durable: another one takes its place.
    Recreated { ino: u64 },
    /// The file is not as recorded: its bytes beyond the base go to a new segment.
    Relocated { seg: u64, ino: u64 },
}

impl<F: Filesystem> Recovery<F> {
    /// Knows nothing yet. `results` and `journal` are the open folders.
    pub fn new(fs: F, results: F::Dir, journal: F::Dir) -> Self {
        Self { fs, dir: results, journal, routes: BTreeMap::new(), dropped: BTreeSet::new() }
    }

    /// Takes note of the next live record.
    pub fn feed(&mut self, record: &Record) -> Result<(), ResultsError> {
        match record {
            Record::CsvOpen(open) => self.feed_open(open)?,
            Record::CsvSeal(seal) => {
                let log = self.routes.entry(seal.route.clone()).or_default();
                log.last_seg = log.last_seg.max(seal.seg);
                if let Some(segment) = log.segments.get_mut(&seal.seg) {
                    segment.final_name = Some(seal.name.clone());
                }
            }
            Record::CsvMoved(moved) => self.feed_moved(moved)?,
            Record::Outcome(Outcome { csv, .. })
            | Record::InputOutcome(InputOutcome { csv, .. }) => {
                for piece in csv {
                    self.feed_piece(piece)?;
                }
            }
            Record::Begin(_)
            | Record::Take(_)
            | Record::Attempt(_)
            | Record::Input(_)
            | Record::InputSet(_)
            | Record::InputTried(_) => {}
        }
        Ok(())
    }

    /// Compares the files with the records, makes those that never became durable, and removes
    /// temporary files that no record tells of. Returns the segments that someone touched.
    ///
    /// Without a power cut a file that is not there was taken away: it was made before its record.
    pub fn verify(&mut self, power_cut: bool) -> Result<Vec<Touched>, ResultsError> {
        let mut touched = Vec::new();
        for (route, log) in &mut self.routes {
            if let Some(seg) = log.take_half_recorded() {
                self.dropped.insert((route.clone(), seg));
            }
            for (seg, segment) in &mut log.segments {
                let found = segment.compare(&self.fs, &self.dir)?;
                let is_touched = match found {
                    Found::AsRecorded => false,
                    Found::NeverDurable => !power_cut,
                    Found::Other => true,
                };
                if is_touched {
                    touched.push(Touched {
                        route: route.clone(),
                        seg: *seg,
                        is_gone: segment.is_gone(&self.fs, &self.dir)?,
                        again: segment.rows,
                    });
                }
                segment.fate = match found {
                    Found::AsRecorded => Fate::Kept,
                    Found::NeverDurable => {
                        let ino = create_temp(&self.fs, &self.dir, route, *seg)?;
                        Fate::Recreated { ino }
                    }
                    Found::Other => {
                        log.last_seg += 1;
                        let ino = create_temp(&self.fs, &self.dir, route, log.last_seg)?;
                        Fate::Relocated { seg: log.last_seg, ino }
                    }
                };
            }
        }
        self.remove_leftovers()?;
        Ok(touched)
    }

    /// What a live record becomes in the new journal segment.
    pub fn rewrite(&self, record: Record) -> Vec<Record> {
        match record {
            Record::CsvOpen(open) => {
                self.rewrite_open(open).map(Record::CsvOpen).into_iter().collect()
            }
            Record::CsvSeal(mut seal) => {
                if let Some(segment) = self.segment(&seal.route, seal.seg) {
                    segment.rewrite_seal(&mut seal);
                }
                vec![Record::CsvSeal(seal)]
            }
            Record::CsvMoved(mut moved) => {
                if let Some(from) = self.segment(&moved.route, moved.from_seg) {
                    moved.name = from.renamed(&moved.name);
                    (moved.from_seg, moved.from_offset) =
                        from.moved_to(moved.from_seg, moved.from_offset);
                }
                if let Some(to) = self.segment(&moved.route, moved.to_seg) {
                    (moved.to_seg, moved.to_offset) = to.moved_to(moved.to_seg, moved.to_offset);
                }
                vec![Record::CsvMoved(moved)]
            }
            Record::Outcome(mut outcome) => {
                self.rewrite_pieces(&mut outcome.csv);
                vec![Record::Outcome(outcome)]
            }
            Record::InputOutcome(mut outcome) => {
                self.rewrite_pieces(&mut outcome.csv);
                vec![Record::InputOutcome(outcome)]
            }
            other => vec![other],
        }
    }

    fn rewrite_pieces(&self, pieces: &mut [Piece]) {
        for piece in pieces {
            if let Some(segment) = self.segment(&piece.route, piece.seg) {
                (piece.seg, piece.offset) = segment.moved_to(piece.seg, piece.offset);
            }
        }
    }

    /// The results to which the rewritten records are then applied.
    pub fn into_results(self) -> Results<F> {
        let mut expected = BTreeMap::new();
        for (route, log) in self.routes {
            for (seg, segment) in log.segments {
                let (end, new_seg) = match segment.fate {
                    Fate::Kept => (segment.end, seg),
                    Fate::Recreated { .. } => (0, seg),
                    Fate::Relocated { seg, .. } => (0, seg),
                };
                let hold = segment.hold.map(|hold| segment.moved_to(seg, hold).1);
                let final_name = segment.final_name.as_deref().map(|name| segment.renamed(name));
                expected.insert((route.clone(), new_seg), Expected { end, final_name, hold });
            }
        }
        Results::expecting(self.fs, self.dir, self.journal, expected)
    }

    fn segment(&self, route: &str, seg: u64) -> Option<&SegmentLog> {
        self.routes.get(route)?.segments.get(&seg)
    }

    fn feed_open(&mut self, open: &CsvOpen) -> Result<(), ResultsError> {
        let header = encode::header(&open.columns).map_err(failed(
            "encode the header of",
            "results",
            &open.route,
        ))?;
        let log = self.routes.entry(open.route.clone()).or_default();
        log.last_seg = log.last_seg.max(open.seg);
        let len = if open.len == 0 { header.len() as u64 } else { open.len };
        log.segments.entry(open.seg).or_insert_with(|| SegmentLog {
            base: open.clone(),
            header,
            end: len,
            len,
            rows: 0,
            final_name: None,
            hold: None,
            fate: Fate::Kept,
        });
        Ok(())
    }

    fn feed_piece(&mut self, piece: &Piece) -> Result<(), ResultsError> {
        let log = self.routes.entry(piece.route.clone()).or_default();
        let end = piece.offset.saturating_add(piece.bytes.len());
        match log.segments.get_mut(&piece.seg) {
            Some(segment) if piece.offset <= segment.len => {
                // The same record may be read twice, and its snapshot may come first.
                if end > segment.len {
                    segment.rows += piece.rows;
                }
                segment.len = segment.len.max(end);
                segment.end = segment.len;
                Ok(())
            }
            _ => {
                let Piece { route, seg, offset, .. } = piece;
                Err(ResultsError::damaged(format!("{route} segment {seg} at {offset}: no place")))
            }
        }
    }

    fn feed_moved(&mut self, moved: &CsvMoved) -> Result<(), ResultsError> {
        let log = self.routes.entry(moved.route.clone()).or_default();
        if let Some(from) = log.segments.get_mut(&moved.from_seg) {
            from.end = from.end.min(moved.from_offset);
            from.rows = from.rows.saturating_sub(moved.rows);
            from.hold = Some(moved.from_offset);
            from.final_name = Some(moved.name.clone());
        }
        match log.segments.get_mut(&moved.to_seg) {
            Some(to) => {
                let end = moved.to_offset.saturating_add(moved.len);
                if end > to.len {
                    to.rows += moved.rows;
                }
                to.len = to.len.max(end);
                to.end = to.len;
                Ok(())
            }
            None => Err(ResultsError::damaged(format!(
                "{} segment {}: moved to, never opened",
                moved.route, moved.to_seg
            ))),
        }
    }

    fn rewrite_open(&self, mut open: CsvOpen) -> Option<CsvOpen> {
        if self.dropped.contains(&(open.route.clone(), open.seg)) {
            return None;
        }
        let Some(segment) = self.segment(&open.route, open.seg) else { return Some(open) };
        // A later snapshot says nothing that the records before it do not.
        if open != segment.base {
            return None;
        }
        match segment.fate {
            Fate::Kept => {}
            Fate::Recreated { ino } => open.ino = ino,
            Fate::Relocated { seg, ino } => {
                open = CsvOpen { seg, ino, len: 0, rows: 0, crc: 0, ..open };
            }
        }
        Some(open)
    }

    fn remove_leftovers(&self) -> Result<(), ResultsError> {
        let list = self.fs.list(&self.dir).map_err(failed("list", "results", ""))?;
        for entry in list {
            let entry = entry.map_err(failed("list", "results", ""))?;
            let Some(name) = entry.name.to_str() else { continue };
            let Some((route, seg)) = names::parse_temp(name) else { continue };
            let ours = self.routes.get(route).is_some_and(|log| log.owns(seg));
            if !ours {
                self.fs
                    .remove_file(&self.dir, Path::new(name))
                    .map_err(failed("remove", "results", name))?;
            }
        }
        Ok(())
    }
}

impl RouteLog {
    /// A torn tail may keep the birth of a segment and lose the `CsvMoved` behind it. Then the segment
    /// before it is still the open one, and the newborn, which has no bytes, never was.
    fn take_half_recorded(&mut self) -> Option<u64> {
        let (seg, last) = self.segments.last_key_value()?;
        let is_empty = last.base.len == 0 && last.len == last.header.len() as u64;
        let seg = *seg;
        let is_open = |log: &SegmentLog| log.final_name.is_none() && log.hold.is_none();
        let before = self.segments.range(..seg).next_back().map(|(_, log)| is_open(log));
        if is_empty && before == Some(true) {
            self.segments.remove(&seg);
            return Some(seg);
        }
        None
    }

    /// A record tells of a temporary file with this number, before or after rewriting.
    fn owns(&self, number: u64) -> bool {
        let new =
            |log: &SegmentLog| matches!(log.fate, Fate::Relocated { seg, .. } if seg == number);
        self.segments.contains_key(&number) || self.segments.values().any(new)
    }
}

enum Found {
    AsRecorded,
    NeverDurable,
    Other,
}

impl SegmentLog {
    fn compare<F: Filesystem>(&self, fs: &F, dir: &F::Dir) -> Result<Found, ResultsError> {
        let base = &self.base;
        // Nothing to write: the prefix is compared at the first append, if one comes.
        if base.len > 0 && self.end <= base.len {
            return Ok(Found::AsRecorded);
        }
        let Some((name, stat)) = self.find(fs, dir)? else {
            return Ok(if base.len == 0 { Found::NeverDurable } else { Found::Other });
        };
        if stat.size > self.end || stat.size < base.len {
            return Ok(Found::Other);
        }
        let Some(file) = open_if_allowed(fs, dir, &name, false)? else {
            return Ok(Found::Other);
        };
        let crc = prefix_crc(fs, &file, base.len).map_err(failed("read", "results", &name))?;
        let same = base.len == 0 || crc == Some(base.crc);
        Ok(if same { Found::AsRecorded } else { Found::Other })
    }

    /// Its file, under whichever of its names it stands.
    fn find<F: Filesystem>(
        &self,
        fs: &F,
        dir: &F::Dir,
    ) -> Result<Option<(String, Stat)>, ResultsError> {
        for name in self.names() {
            if let Some(stat) = stat_ours(fs, dir, &name, self.base.ino)? {
                return Ok(Some((name, stat)));
            }
        }
        match &self.final_name {
            Some(name) => find_sealed(fs, dir, name, self.base.ino),
            None => Ok(None),
        }
    }

    /// The names under which its file may stand; instead of its final one it may have a variant of that.
    fn names(&self) -> impl Iterator<Item = String> {
        let base = &self.base;
        let temp = (base.len == 0).then(|| names::temp(&base.route, base.seg));
        [Some(names::open(&base.route)), temp, self.final_name.clone()].into_iter().flatten()
    }

    /// Nothing stands under any of its names.
    fn is_gone<F: Filesystem>(&self, fs: &F, dir: &F::Dir) -> Result<bool, ResultsError> {
        for name in self.names() {
            if !is_gone(fs, dir, &name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first byte that is not durable, and not of the header.
    fn beyond(&self) -> u64 {
        self.base.len.max(self.header.len() as u64)
    }

    /// Where an offset of this segment is after rewriting.
    fn moved_to(&self, own_seg: u64, offset: u64) -> (u64, u64) {
        match self.fate {
            Fate::Relocated { seg, .. } => {
                (seg, offset.saturating_sub(self.beyond()) + self.header.len() as u64)
            }
            Fate::Kept | Fate::Recreated { .. } => (own_seg, offset),
        }
    }

    /// A final name of this segment after rewriting.
    fn renamed(&self, name: &str) -> String {
        match self.fate {
            Fate::Relocated { seg, .. } => names::renumber(name, &self.base.route, seg),
            Fate::Kept | Fate::Recreated { .. } => name.to_owned(),
        }
    }

    fn rewrite_seal(&self, seal: &mut CsvSeal) {
        let Fate::Relocated { seg, .. } = self.fate else { return };
        seal.name = self.renamed(&seal.name);
        seal.seg = seg;
        if self.base.len == 0 {
            return;
        }
        // crc(whole) = shift(crc(base), len(tail)) ^ crc(tail), so the tail's bytes are not needed.
        let tail_len = seal.len.saturating_sub(self.base.len);
        let shift = usize::try_from(tail_len).unwrap_or(usize::MAX);
        let tail = seal.crc ^ crc32c::crc32c_combine(self.base.crc, 0, shift);
        seal.crc = crc32c::crc32c_combine(crc32c::crc32c(&self.header), tail, shift);
        seal.len = self.header.len() as u64 + tail_len;
        seal.rows = seal.rows.saturating_sub(self.base.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;

    fn birth(seg: u64) -> Record {
        let (route, columns) = ("main".to_owned(), vec!["a".to_owned()]);
        Record::CsvOpen(CsvOpen { route, seg, ino: seg, columns, len: 0, rows: 0, crc: 0 })
    }

    /// Goal: a file that got a variant of its sealed name, since that was taken, is found by the next start: else a
    /// power cut would leave it half written for ever, beside a new one with the same rows.
    /// Method: a seal whose name another file has; the segment's own file, torn, is beside it.
    #[test]
    fn a_file_under_a_variant_of_its_name_is_found() {
        let home = tempfile::tempdir().unwrap();
        let dir = RealFs.open_root(home.path()).unwrap();
        let name = "main.20261122T140211Z.1.csv".to_owned();
        std::fs::write(home.path().join(&name), "another one's").unwrap();
        let own = home.path().join(names::variant(&name, 1));
        std::fs::write(&own, [0; 2]).unwrap();
        let ino = RealFs.stat(&dir, own.file_name().unwrap().as_ref()).unwrap().ino;
        let (route, columns) = ("main".to_owned(), vec!["a".to_owned()]);
        let open = CsvOpen { route, seg: 1, ino, columns, len: 0, rows: 0, crc: 0 };
        let crc = crc32c::crc32c(b"a\n");
        let seal = CsvSeal { route: "main".to_owned(), seg: 1, name, len: 2, rows: 0, crc };
        let records = [Record::CsvOpen(open), Record::CsvSeal(seal)];
        let mut recovery = Recovery::new(RealFs, dir.clone(), dir);
        records.iter().try_for_each(|record| recovery.feed(record)).unwrap();
        recovery.verify(true).unwrap();
        let rewritten: Vec<_> = records.into_iter().flat_map(|it| recovery.rewrite(it)).collect();
        let mut results = recovery.into_results();
        rewritten.iter().try_for_each(|record| results.apply(record)).unwrap();
        assert!(results.flush().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2);
        assert_eq!(std::fs::read(&own).unwrap(), b"a\n");
    }

    /// Goal: a tail torn between a segment's birth and the move into it leaves one open segment; with
    /// two the first would never be sealed and the second never written.
    /// Method: two births and nothing else; then with the seal that makes the second one right.
    #[test]
    fn a_birth_without_its_move_never_was() {
        let seal = CsvSeal {
            route: "main".to_owned(),
            seg: 1,
            name: "main.20261122T140211Z.1.csv".to_owned(),
            len: 2,
            rows: 0,
            crc: 0,
        };
        for (records, stays) in [
            (vec![birth(1), birth(2)], false),
            (vec![birth(1), Record::CsvSeal(seal), birth(2)], true),
        ] {
            let home = tempfile::tempdir().unwrap();
            let dir = RealFs.open_root(home.path()).unwrap();
            let mut recovery = Recovery::new(RealFs, dir.clone(), dir);
            for record in &records {
                recovery.feed(record).unwrap();
            }
            recovery.verify(false).unwrap();
            assert!(!recovery.rewrite(birth(1)).is_empty());
            assert_eq!(!recovery.rewrite(birth(2)).is_empty(), stays);
        }
    }
}
