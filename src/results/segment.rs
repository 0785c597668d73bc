//! All routes' CSV segments, as far as durable records were applied to them.
//!
//! Must not know: how rows became bytes, or what else the journal holds.
//!
//! Invariants
//! - A route's segments are a queue: each is written out and named before the next one is placed,
//!   so that at most one holds the route's name. At most the last is not sealed.
//! - `apply` only takes note; all writing is in `flush`, each step of which may be repeated.
//! - A record applied twice changes nothing.
//! - Few files are held open, however many routes there are or ever were.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::file::{Segment, is_gone};
use super::plan::Ahead;
use super::recover::Expected;
use super::{ResultsError, failed, names};
use crate::config::limits::{RESULTS_BUFFER, RESULTS_OPEN};
use crate::core::JobId;
use crate::fs::Filesystem;
use crate::journal::record::{CsvMoved, CsvOpen, CsvSeal, Piece, PieceBytes, Record};

/// The CSVs of a spool. One owner: the keeper.
pub struct Results<F: Filesystem> {
    pub(super) fs: F,
    /// `results/`.
    pub(super) dir: F::Dir,
    /// `journal/`, for rows too large for a line.
    pub(super) journal: F::Dir,
    pub(super) routes: BTreeMap<String, Book<F>>,
    /// What a recovery knows of segments to come, by route and number.
    expected: BTreeMap<(String, u64), Expected>,
    /// Nothing was planned yet: what is applied is all there is.
    pub(super) replaying: bool,
    /// Bytes in memory, about.
    buffered: usize,
}

/// The segments of one route.
pub(super) struct Book<F: Filesystem> {
    /// As planned: where the next rows go.
    pub(super) ahead: Ahead,
    /// As applied, in the order of their records.
    pub(super) queue: VecDeque<Segment<F>>,
    /// Left the queue in this run.
    finished: BTreeSet<u64>,
    /// The sealed segment of the highest number, so that numbers never repeat.
    pub(super) last_seal: Option<CsvSeal>,
}

impl<F: Filesystem> Default for Book<F> {
    fn default() -> Self {
        Self {
            ahead: Ahead::default(),
            queue: VecDeque::new(),
            finished: BTreeSet::new(),
            last_seal: None,
        }
    }
}

/// Someone changed, replaced or removed a segment's file; its unwritten rows wait in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The route, or `errors`.
    pub route: String,
    /// Number of the segment.
    pub seg: u64,
    /// No file stands under its name any more.
    pub is_gone: bool,
    /// Rows that go to the next segment although the file may hold them: found by a start, which cannot tell.
    pub again: u64,
}

impl<F: Filesystem> Results<F> {
    /// The CSVs of a spool that has none; after a start, [`super::Recovery::into_results`] makes it.
    pub fn new(fs: F, results: F::Dir, journal: F::Dir) -> Self {
        Self::expecting(fs, results, journal, BTreeMap::new())
    }

    pub(super) fn expecting(
        fs: F,
        dir: F::Dir,
        journal: F::Dir,
        expected: BTreeMap<(String, u64), Expected>,
    ) -> Self {
        let routes = BTreeMap::new();
        Self { fs, dir, journal, routes, expected, replaying: true, buffered: 0 }
    }

    /// Takes note of a record that is durable. Records that do not concern CSVs do nothing.
    ///
    /// Writes only when the buffer is full. After [`ResultsError::Full`] the record *was* taken:
    /// call [`Self::flush`] once there is space, not this again (though that would do no harm).
    pub fn apply(&mut self, record: &Record) -> Result<(), ResultsError> {
        match record {
            Record::CsvOpen(open) => self.apply_open(open)?,
            Record::CsvSeal(seal) => self.apply_seal(seal)?,
            Record::CsvMoved(moved) => self.apply_moved(moved)?,
            Record::Outcome(outcome) => {
                for piece in &outcome.csv {
                    self.apply_piece(piece, outcome.job)?;
                }
            }
            Record::InputOutcome(outcome) => {
                for piece in &outcome.csv {
                    self.apply_piece(piece, outcome.rows_file.unwrap_or(outcome.job))?;
                }
            }
            Record::Begin(_)
            | Record::Take(_)
            | Record::Attempt(_)
            | Record::Input(_)
            | Record::InputSet(_)
            | Record::InputTried(_) => {}
        }
        if self.buffered > RESULTS_BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes all that was applied: one write a file.
    ///
    /// Returns the segments that someone touched; they are left alone. Then: [`Self::plan_moves`],
    /// journal its records, apply them, flush again.
    pub fn flush(&mut self) -> Result<Vec<Touched>, ResultsError> {
        let mut touched = Vec::new();
        let are_many = self.routes.values().filter(|book| book.is_open()).count() > RESULTS_OPEN;
        let mut written = 0;
        for (route, book) in &mut self.routes {
            let has_news = book.buffered() > 0;
            if are_many && !has_news {
                book.close();
            }
            if let Some(seg) = book.flush(&self.fs, &self.dir)? {
                let is_gone = is_gone(&self.fs, &self.dir, &names::open(route))?;
                touched.push(Touched { route: route.clone(), seg, is_gone, again: 0 });
            }
            written += usize::from(has_news && book.is_open());
            if has_news && written > RESULTS_OPEN {
                book.close();
            }
        }
        self.buffered = self.routes.values().map(Book::buffered).sum();
        Ok(touched)
    }

    /// Bytes or names are still to be written. While they are, the journal must not be rotated:
    /// a snapshot describes files, and a journal segment holds all that its `CsvMoved` refers to.
    pub fn has_pending(&self) -> bool {
        self.routes.values().any(|book| {
            let settled = |s: &Segment<F>| s.pending.is_empty() && s.held.is_empty() && !s.sealed;
            !book.queue.iter().all(settled)
        })
    }

    /// The state for the head of a new journal segment. All committed records were applied and
    /// flushed ([`Self::has_pending`] is false).
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for book in self.routes.values() {
            let open = book.queue.back().filter(|s| !s.sealed);
            let above = open.map_or(0, |s| s.seg);
            if let Some(seal) = book.last_seal.as_ref().filter(|seal| seal.seg > above) {
                records.push(Record::CsvSeal(seal.clone()));
            }
            records.extend(open.map(|s| {
                Record::CsvOpen(CsvOpen {
                    route: s.route.clone(),
                    seg: s.seg,
                    ino: s.ino,
                    columns: s.columns.clone(),
                    len: s.len,
                    rows: s.rows,
                    crc: s.crc,
                })
            }));
        }
        records
    }

    fn apply_open(&mut self, open: &CsvOpen) -> Result<(), ResultsError> {
        let book = self.routes.entry(open.route.clone()).or_default();
        if book.finished.contains(&open.seg) {
            return Ok(());
        }
        if let Some(known) = book.find(open.seg) {
            // A snapshot of what the records before it built; or one of these, again.
            if open.len > known.len || (open.len == known.len && open.crc != known.crc) {
                let what = format!("{} segment {}: snapshot differs", open.route, open.seg);
                return Err(ResultsError::damaged(what));
            }
            return Ok(());
        }
        let mut segment = Segment::new(open)?;
        if let Some(known) = self.expected.remove(&(open.route.clone(), open.seg)) {
            segment.may_reach = known.end.max(open.len);
            segment.final_name = known.final_name;
            segment.hold = known.hold;
        }
        self.buffered += segment.pending.len();
        book.queue.push_back(segment);
        Ok(())
    }

    fn apply_seal(&mut self, seal: &CsvSeal) -> Result<(), ResultsError> {
        let book = self.routes.entry(seal.route.clone()).or_default();
        if let Some(segment) = book.find(seal.seg).filter(|s| !s.sealed) {
            if (segment.len, segment.rows, segment.crc) != (seal.len, seal.rows, seal.crc) {
                let what = format!("{} segment {}: seal differs", seal.route, seal.seg);
                return Err(ResultsError::damaged(what));
            }
            segment.sealed = true;
            // Bytes that are held will be moved, and the move renames the file otherwise.
            if segment.hold.is_none() {
                segment.final_name = Some(seal.name.clone());
            }
        }
        book.note_seal(seal);
        Ok(())
    }

    fn apply_piece(&mut self, piece: &Piece, job: JobId) -> Result<(), ResultsError> {
        let Self { fs, journal, routes, buffered, .. } = self;
        let book = routes.entry(piece.route.clone()).or_default();
        if book.finished.contains(&piece.seg) {
            return Ok(());
        }
        let place = || format!("{} segment {} at {}", piece.route, piece.seg, piece.offset);
        let Some(segment) = book.find(piece.seg) else {
            return Err(ResultsError::damaged(format!("{}: segment unknown", place())));
        };
        if piece.offset.saturating_add(piece.bytes.len()) <= segment.len {
            return Ok(());
        }
        if piece.offset != segment.len {
            let what = format!("{}: expected {}", place(), segment.len);
            return Err(ResultsError::damaged(what));
        }
        match &piece.bytes {
            PieceBytes::Text(text) => segment.append(text.as_bytes(), piece.rows),
            PieceBytes::Base64(bytes) => segment.append(bytes, piece.rows),
            PieceBytes::File { len, sha256 } => {
                segment.append(&read_rows(fs, journal, job, *len, sha256)?, piece.rows);
            }
        }
        *buffered += usize::try_from(piece.bytes.len()).unwrap_or(usize::MAX);
        Ok(())
    }

    fn apply_moved(&mut self, moved: &CsvMoved) -> Result<(), ResultsError> {
        let book = self.routes.entry(moved.route.clone()).or_default();
        let Some(from) = book.find(moved.from_seg) else { return Ok(()) };
        if from.len <= moved.from_offset {
            return Ok(());
        }
        let keep = moved.from_offset.saturating_sub(from.written);
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(from.pending.len());
        let mut bytes = from.pending.split_off(keep);
        if from.hold.is_none() {
            from.pending_rows = from.pending_rows.saturating_sub(moved.rows);
        }
        bytes.append(&mut from.held);
        if from.touched && from.written == 0 && from.pending_rows == 0 {
            // A header alone is not worth a file.
            from.abandon();
        }
        from.touched = !from.pending.is_empty() && from.touched;
        from.len = moved.from_offset;
        from.rows = from.rows.saturating_sub(moved.rows);
        from.sealed = true;
        from.final_name = Some(moved.name.clone());
        let gone = CsvSeal {
            route: moved.route.clone(),
            seg: moved.from_seg,
            name: moved.name.clone(),
            len: from.len,
            rows: from.rows,
            crc: 0,
        };
        book.note_seal(&gone);
        let fits = |to: &&mut Segment<F>| to.len == moved.to_offset;
        match book.find(moved.to_seg).filter(fits) {
            Some(to) if bytes.len() as u64 == moved.len => to.append(&bytes, moved.rows),
            _ => {
                let what = format!("{} segment {}: moved bytes differ", moved.route, moved.to_seg);
                return Err(ResultsError::damaged(what));
            }
        }
        Ok(())
    }
}

impl<F: Filesystem> Book<F> {
    fn find(&mut self, seg: u64) -> Option<&mut Segment<F>> {
        self.queue.iter_mut().find(|s| s.seg == seg)
    }

    fn note_seal(&mut self, seal: &CsvSeal) {
        if self.last_seal.as_ref().is_none_or(|last| last.seg < seal.seg) {
            self.last_seal = Some(seal.clone());
        }
    }

    fn buffered(&self) -> usize {
        self.queue.iter().map(|s| s.pending.len() + s.held.len()).sum()
    }

    fn is_open(&self) -> bool {
        self.queue.iter().any(Segment::is_open)
    }

    /// Its next rows open its file anew.
    fn close(&mut self) {
        self.queue.iter_mut().for_each(Segment::close);
    }

    /// Writes and names in order; stops before a segment that someone touched and returns its number.
    fn flush(&mut self, fs: &F, dir: &F::Dir) -> Result<Option<u64>, ResultsError> {
        while let Some(front) = self.queue.front_mut() {
            // Once seen it stays: the records of a move may be on their way.
            if front.touched || !front.write(fs, dir)? {
                front.touched = true;
                return Ok(Some(front.seg));
            }
            if !front.sealed || !front.held.is_empty() {
                return Ok(None);
            }
            front.finish(fs, dir)?;
            self.finished.insert(front.seg);
            self.queue.pop_front();
        }
        Ok(None)
    }
}

/// The name of a job's rows below `journal/`.
pub fn rows_name(job: JobId) -> String {
    format!("{job}.rows")
}

fn read_rows<F: Filesystem>(
    fs: &F,
    journal: &F::Dir,
    job: JobId,
    len: u64,
    sha256: &str,
) -> Result<Vec<u8>, ResultsError> {
    let name = rows_name(job);
    let file =
        fs.open(journal, Path::new(&name), false).map_err(failed("open", "journal", &name))?;
    let found = fs.stat_file(&file).map_err(failed("stat", "journal", &name))?.size;
    let wrong = || ResultsError::damaged(format!("journal/{name} is not what was recorded"));
    if found != len {
        return Err(wrong());
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| wrong())?];
    let read = fs.read_at(&file, 0, &mut bytes).map_err(failed("read", "journal", &name))?;
    if read < bytes.len() || hex_sha256(&bytes) != sha256 {
        return Err(wrong());
    }
    Ok(bytes)
}

/// sha256 in lower-case hex, as [`PieceBytes::File`] keeps it.
pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}
