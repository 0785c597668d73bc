//! What is decided before it is journaled: segment, offset and bytes of each row.
//!
//! Must not know: what of it was written. It runs ahead of the files by what is not yet applied.
//!
//! Invariants
//! - A plan that fails changes nothing that matters: at most a temporary file is left over.
//! - A plan that succeeded is journaled, in order, or the process ends.

use std::io;
use std::path::Path;

use super::columns::{self, Decision};
use super::file::Segment;
use super::segment::{Book, Results, hex_sha256, rows_name};
use super::{ERRORS, ResultsError, encode, failed, names};
use crate::config::limits::ROWS_IN_LINE;
use crate::core::{JobId, RelPath, Row};
use crate::fs::Filesystem;
use crate::journal::record::{CsvMoved, CsvOpen, CsvSeal, Piece, PieceBytes, Record};

/// How a route keeps its results; from its settings.
#[derive(Clone, Copy, Debug)]
pub struct CsvSpec<'a> {
    /// The route, or `errors`.
    pub route: &'a str,
    /// The last columns are `_file` and `_job`.
    pub trace_columns: bool,
    /// The only columns allowed; `None`: as the rows bring them.
    pub columns: Option<&'a [String]>,
    /// A segment is sealed before it would hold more rows than this.
    pub segment_rows: u64,
    /// A segment is sealed before it would be longer than this, in bytes.
    pub segment_bytes: u64,
}

/// Where the rows of one job go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// To be journaled before the outcome: `CsvSeal`, `CsvOpen`.
    pub before: Vec<Record>,
    /// For the outcome; `None` where there are no rows.
    pub piece: Option<Piece>,
    /// Rows of the job.
    pub rows: u64,
}

/// Rows cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The rows do not fit the route's columns: the job fails for good, with this reason.
    #[error("{0}")]
    Columns(String),
    /// A file cannot be made.
    #[error(transparent)]
    Io(#[from] ResultsError),
}

/// Where the next rows of a route go.
#[derive(Default)]
pub(super) struct Ahead {
    open: Option<Head>,
    /// The highest number given.
    last_seg: u64,
}

/// The open segment with all that was planned for it.
struct Head {
    seg: u64,
    columns: Vec<String>,
    len: u64,
    rows: u64,
    crc: u32,
}

impl Head {
    fn seal(self, route: &str, now_ms: u64) -> Record {
        Record::CsvSeal(CsvSeal {
            route: route.to_owned(),
            seg: self.seg,
            name: names::sealed(route, now_ms, self.seg),
            len: self.len,
            rows: self.rows,
            crc: self.crc,
        })
    }
}

impl<F: Filesystem> Results<F> {
    /// Decides where the rows of one job go. `now_ms`: Unix milliseconds, for the name of a seal.
    ///
    /// `before` and an outcome with `piece` are then journaled, in the order of the plans.
    pub fn plan(
        &mut self,
        spec: &CsvSpec,
        rows: &[Row],
        rel: &RelPath,
        job: JobId,
        now_ms: u64,
    ) -> Result<Planned, PlanError> {
        self.plan_beside(spec, rows, rel, (job, job), now_ms)
    }

    /// The same for rows of a part of a job: a file of rows gets the name of the second id.
    pub fn plan_beside(
        &mut self,
        spec: &CsvSpec,
        rows: &[Row],
        rel: &RelPath,
        (job, rows_file): (JobId, JobId),
        now_ms: u64,
    ) -> Result<Planned, PlanError> {
        self.catch_up();
        if rows.is_empty() {
            return Ok(Planned::default());
        }
        let Self { fs, dir, journal, routes, .. } = self;
        let ahead = &mut routes.entry(spec.route.to_owned()).or_default().ahead;
        let open = ahead.open.as_ref();
        let decision = columns::decide(
            open.map(|h| h.columns.as_slice()),
            spec.trace_columns,
            spec.columns,
            rows,
        )
        .map_err(PlanError::Columns)?;
        let begin = match (decision, open) {
            (Decision::Begin(columns), _) => Some(columns),
            (Decision::Fits, _) => None,
        };
        let columns = begin.as_deref().or(open.map(|h| h.columns.as_slice())).unwrap_or_default();
        let bytes = encode::rows(columns, spec.trace_columns, rows, rel, job).map_err(failed(
            "encode rows of",
            "results",
            spec.route,
        ))?;
        let (count, len) = (rows.len() as u64, bytes.len() as u64);
        let begin = match (begin, open) {
            (None, Some(h)) if h.rows > 0 && is_full(h, spec, count, len) => {
                Some(h.columns.clone())
            }
            (begin, _) => begin,
        };
        // Everything that can fail comes before the first change.
        let born = match begin {
            Some(columns) => Some(birth(fs, dir, spec.route, ahead.last_seg + 1, columns)?),
            None => None,
        };
        let crc = born.as_ref().map(|(_, head)| head.crc).or(open.map(|h| h.crc));
        let crc = crc32c::crc32c_append(crc.unwrap_or_default(), &bytes);
        let bytes = keep(fs, journal, spec.route, rows_file, bytes)?;
        let mut before = Vec::new();
        if let Some((record, head)) = born {
            ahead.last_seg = head.seg;
            let old = ahead.open.replace(head);
            before.extend(old.map(|old| old.seal(spec.route, now_ms)));
            before.push(record);
        }
        let piece = ahead.open.as_mut().map(|head| {
            let (route, seg, offset) = (spec.route.to_owned(), head.seg, head.len);
            head.crc = crc;
            head.len += len;
            head.rows += count;
            Piece { route, seg, offset, rows: count, bytes }
        });
        Ok(Planned { before, piece, rows: count })
    }

    /// Seals every open segment that has rows (`batch --seal`). The next rows begin new ones.
    pub fn plan_sealing(&mut self, now_ms: u64) -> Vec<Record> {
        self.catch_up();
        let mut records = Vec::new();
        for (route, book) in &mut self.routes {
            let with_rows = book.ahead.open.take_if(|head| head.rows > 0);
            records.extend(with_rows.map(|head| head.seal(route, now_ms)));
        }
        records
    }

    /// New places for the bytes that could not be written because someone touched their file.
    ///
    /// A route of which something is planned and not applied waits: call this after the next flush.
    pub fn plan_moves(&mut self, now_ms: u64) -> Result<Vec<Record>, ResultsError> {
        self.catch_up();
        let mut records = Vec::new();
        for (route, book) in &mut self.routes {
            if book.queue.front().is_some_and(|front| front.touched) && book.is_caught_up() {
                match move_front(&self.fs, &self.dir, route, book, now_ms) {
                    Ok(moved) => records.extend(moved),
                    // What is planned must be journaled; the others follow with a later flush.
                    Err(_) if !records.is_empty() => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(records)
    }

    /// At the end of a replay: the next rows go where the applied ones end.
    fn catch_up(&mut self) {
        if self.replaying {
            self.replaying = false;
            for book in self.routes.values_mut() {
                book.ahead.open = book.queue.back().filter(|s| !s.sealed).map(head_of);
                let sealed = book.last_seal.as_ref().map_or(0, |seal| seal.seg);
                let highest = book.queue.iter().map(|s| s.seg).max().unwrap_or(0);
                book.ahead.last_seg = sealed.max(highest);
            }
        }
    }
}

fn head_of<F: Filesystem>(s: &Segment<F>) -> Head {
    Head { seg: s.seg, columns: s.columns.clone(), len: s.len, rows: s.rows, crc: s.crc }
}

fn is_full(head: &Head, spec: &CsvSpec, rows: u64, len: u64) -> bool {
    head.rows.saturating_add(rows) > spec.segment_rows
        || head.len.saturating_add(len) > spec.segment_bytes
}

impl<F: Filesystem> Book<F> {
    /// All that was planned has been applied.
    fn is_caught_up(&self) -> bool {
        let applied = self.queue.back().filter(|s| !s.sealed).map(|s| (s.seg, s.len));
        self.ahead.open.as_ref().map(|h| (h.seg, h.len)) == applied
    }
}

/// The pending bytes of the first segment go to a new one at the end of the queue.
fn move_front<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    route: &str,
    book: &mut Book<F>,
    now_ms: u64,
) -> Result<Vec<Record>, ResultsError> {
    let Some(front) = book.queue.front() else { return Ok(Vec::new()) };
    // Where not even the header was written, the new segment brings its own.
    let from_offset = front.written.max(front.header_len);
    let skip = usize::try_from(from_offset - front.written).unwrap_or(usize::MAX);
    let bytes = front.pending.get(skip..).unwrap_or_default();
    let seg = book.ahead.last_seg + 1;
    let (open, mut head) = birth(fs, dir, route, seg, front.columns.clone())?;
    let moved = CsvMoved {
        route: route.to_owned(),
        from_seg: front.seg,
        from_offset,
        to_seg: seg,
        to_offset: head.len,
        len: bytes.len() as u64,
        rows: front.pending_rows,
        name: names::sealed(route, now_ms, front.seg),
    };
    head.len += moved.len;
    head.rows += moved.rows;
    head.crc = crc32c::crc32c_append(head.crc, bytes);
    let old = book.ahead.open.replace(head).filter(|old| old.seg != front.seg);
    book.ahead.last_seg = seg;
    let seal = old.map(|old| old.seal(route, now_ms));
    Ok(seal.into_iter().chain([open, Record::CsvMoved(moved)]).collect())
}

/// A new segment: its file under a temporary name, which is how its inode is known.
fn birth<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    route: &str,
    seg: u64,
    columns: Vec<String>,
) -> Result<(Record, Head), ResultsError> {
    let ino = create_temp(fs, dir, route, seg)?;
    let header =
        encode::header(&columns).map_err(failed("encode the header of", "results", route))?;
    let route = route.to_owned();
    let record = CsvOpen { route, seg, ino, columns: columns.clone(), len: 0, rows: 0, crc: 0 };
    let (len, crc) = (header.len() as u64, crc32c::crc32c(&header));
    Ok((Record::CsvOpen(record), Head { seg, columns, len, rows: 0, crc }))
}

/// Makes the empty file of a segment; its inode.
pub(super) fn create_temp<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    route: &str,
    seg: u64,
) -> Result<u64, ResultsError> {
    let name = names::temp(route, seg);
    let file = create_afresh(fs, dir, &name).map_err(failed("create", "results", &name))?;
    Ok(fs.stat_file(&file).map_err(failed("stat", "results", &name))?.ino)
}

/// Creates a file of ours; one left under its name by a plan that never became a record goes first.
fn create_afresh<F: Filesystem>(fs: &F, dir: &F::Dir, name: &str) -> io::Result<F::File> {
    let name = Path::new(name);
    match fs.create(dir, name, 0o640) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs.remove_file(dir, name)?;
            fs.create(dir, name, 0o640)
        }
        other => other,
    }
}

/// Bytes for the journal line, or, above [`ROWS_IN_LINE`], a durable file beside it.
fn keep<F: Filesystem>(
    fs: &F,
    journal: &F::Dir,
    route: &str,
    job: JobId,
    bytes: Vec<u8>,
) -> Result<PieceBytes, ResultsError> {
    // A job's one rows file is its route's; a row of `errors` is small.
    if bytes.len() <= ROWS_IN_LINE || route == ERRORS {
        return Ok(match String::from_utf8(bytes) {
            Ok(text) => PieceBytes::Text(text),
            Err(error) => PieceBytes::Base64(error.into_bytes()),
        });
    }
    let name = rows_name(job);
    let file = create_afresh(fs, journal, &name).map_err(failed("create", "journal", &name))?;
    if let Err(error) = fs.write_at(&file, 0, &bytes) {
        // What is left of a full disk is for the others; a failure is met again by the next plan.
        fs.remove_file(journal, Path::new(&name)).unwrap_or(());
        return Err(failed("write", "journal", &name)(error));
    }
    // Durable from here: bytes and name, before the line that refers to them.
    fs.sync_file(&file).map_err(failed("sync", "journal", &name))?;
    fs.sync_dir(journal).map_err(failed("sync", "journal", ""))?;
    Ok(PieceBytes::File { len: bytes.len() as u64, sha256: hex_sha256(&bytes) })
}
