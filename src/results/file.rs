//! One CSV segment and its file: found, checked, written, renamed.
//!
//! Must not know: other segments, rows, the journal's order.
//!
//! Invariants
//! - Bytes are written only to a file whose inode is the recorded one, whose length is one that we
//!   can have left, and, before the first write of a run, whose known prefix has its crc.
//! - Every step may be repeated after a failure or in another process.

use std::io;
use std::path::Path;

use super::{ResultsError, encode, failed, names};
use crate::config::limits::{RESULTS_NAMES, RESULTS_READ};
use crate::fs::{FileType, Filesystem, Stat};
use crate::journal::record::CsvOpen;

/// A segment as far as records were applied to it.
pub(super) struct Segment<F: Filesystem> {
    pub(super) route: String,
    pub(super) seg: u64,
    pub(super) ino: u64,
    pub(super) columns: Vec<String>,
    /// Length of the header line.
    pub(super) header_len: u64,
    /// Bytes with all that was applied; what is not in the file yet is `pending` and `held`.
    pub(super) len: u64,
    /// Data rows in `len`.
    pub(super) rows: u64,
    /// crc32c of `len` bytes.
    pub(super) crc: u32,
    /// The file has our bytes up to here.
    pub(super) written: u64,
    /// Bytes from `written` on, for the next write.
    pub(super) pending: Vec<u8>,
    /// Data rows in `pending`.
    pub(super) pending_rows: u64,
    /// In a replay: bytes that a later `CsvMoved` takes away; never written here.
    pub(super) held: Vec<u8>,
    /// From which offset on bytes are held.
    pub(super) hold: Option<u64>,
    /// The name it ends with, once known. A replay knows it from the start.
    pub(super) final_name: Option<String>,
    /// Gets no more bytes.
    pub(super) sealed: bool,
    /// Someone touched its file: left alone until its pending bytes are moved.
    pub(super) touched: bool,
    /// The file may be as long as this: a write failed half-way, or an earlier run got so far.
    pub(super) may_reach: u64,
    /// A prefix that an earlier run wrote and this one has not compared yet: length and crc32c.
    unchecked: Option<(u64, u32)>,
    /// It has left its temporary name.
    placed: bool,
    file: Option<F::File>,
}

impl<F: Filesystem> Segment<F> {
    /// A segment at its birth (`len` 0) or as a snapshot found it.
    pub(super) fn new(open: &CsvOpen) -> Result<Self, ResultsError> {
        let header = encode::header(&open.columns).map_err(failed(
            "encode the header of",
            "results",
            &open.route,
        ))?;
        let header_len = header.len() as u64;
        let born = open.len == 0;
        Ok(Self {
            route: open.route.clone(),
            seg: open.seg,
            ino: open.ino,
            columns: open.columns.clone(),
            header_len,
            len: if born { header_len } else { open.len },
            rows: open.rows,
            crc: if born { crc32c::crc32c(&header) } else { open.crc },
            written: open.len,
            pending: if born { header } else { Vec::new() },
            pending_rows: 0,
            held: Vec::new(),
            hold: None,
            final_name: None,
            sealed: false,
            touched: false,
            may_reach: open.len,
            unchecked: (!born).then_some((open.len, open.crc)),
            placed: !born,
            file: None,
        })
    }

    /// Takes bytes that begin where the last ones ended.
    pub(super) fn append(&mut self, bytes: &[u8], rows: u64) {
        if self.hold.is_some_and(|hold| self.len >= hold) {
            self.held.extend_from_slice(bytes);
        } else {
            self.pending.extend_from_slice(bytes);
            self.pending_rows += rows;
        }
        self.len += bytes.len() as u64;
        self.rows += rows;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }

    /// Writes what is pending and gives the file its name. `false`: someone touched the file, and
    /// nothing was written.
    pub(super) fn write(&mut self, fs: &F, dir: &F::Dir) -> Result<bool, ResultsError> {
        if self.pending.is_empty() && self.placed {
            return Ok(true);
        }
        let Some((name, stat)) = self.locate(fs, dir)? else { return Ok(false) };
        if stat.size < self.written || stat.size > self.may_reach {
            return Ok(false);
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => match self.open_checked(fs, dir, &name)? {
                Some(file) => file,
                None => return Ok(false),
            },
        };
        let file = self.file.insert(file);
        // A write that fails half-way leaves a length between the two: still ours.
        self.may_reach = self.may_reach.max(self.written + self.pending.len() as u64);
        fs.write_at(file, self.written, &self.pending)
            .map_err(failed("write", "results", &name))?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        self.pending_rows = 0;
        if !self.placed && name == names::temp(&self.route, self.seg) {
            self.place(fs, dir, &name)?;
        }
        self.placed = true;
        Ok(true)
    }

    /// Its file is held open.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Lets go of its file; the next write finds it again.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// Gives up a file that never got more than its header.
    pub(super) fn abandon(&mut self) {
        self.pending.clear();
        self.placed = true;
    }

    /// Under which of its names the file stands, if under any.
    fn locate(&self, fs: &F, dir: &F::Dir) -> Result<Option<(String, Stat)>, ResultsError> {
        let open = names::open(&self.route);
        if let Some(stat) = stat_ours(fs, dir, &open, self.ino)? {
            return Ok(Some((open, stat)));
        }
        if !self.placed {
            let temp = names::temp(&self.route, self.seg);
            if let Some(stat) = stat_ours(fs, dir, &temp, self.ino)? {
                return Ok(Some((temp, stat)));
            }
        }
        match &self.final_name {
            Some(name) => find_sealed(fs, dir, name, self.ino),
            None => Ok(None),
        }
    }

    fn open_checked(
        &mut self,
        fs: &F,
        dir: &F::Dir,
        name: &str,
    ) -> Result<Option<F::File>, ResultsError> {
        let Some(file) = open_if_allowed(fs, dir, name, true)? else { return Ok(None) };
        let stat = fs.stat_file(&file).map_err(failed("stat", "results", name))?;
        if stat.ino != self.ino {
            return Ok(None);
        }
        if let Some((len, crc)) = self.unchecked {
            let found = prefix_crc(fs, &file, len).map_err(failed("read", "results", name))?;
            if found != Some(crc) {
                return Ok(None);
            }
            self.unchecked = None;
        }
        Ok(Some(file))
    }

    /// From the temporary name to the route's, or to the final one where that is known already.
    fn place(&mut self, fs: &F, dir: &F::Dir, temp: &str) -> Result<(), ResultsError> {
        if let Some(name) = self.final_name.clone() {
            let name = rename_free(fs, dir, temp, &name)?;
            self.final_name = Some(name);
            return Ok(());
        }
        let open = names::open(&self.route);
        match fs.rename(dir, Path::new(temp), dir, Path::new(&open)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Not ours, or ours no longer: what was ours has been renamed before this one's turn.
                set_aside(fs, dir, &self.route, self.seg.saturating_sub(1))?;
                fs.rename(dir, Path::new(temp), dir, Path::new(&open))
                    .map_err(not_renamed(temp, &open))
            }
            other => other.map_err(not_renamed(temp, &open)),
        }
    }

    /// Gives a sealed segment its final name, if its file still stands under the route's.
    pub(super) fn finish(&self, fs: &F, dir: &F::Dir) -> Result<(), ResultsError> {
        let open = names::open(&self.route);
        if let Some(name) = &self.final_name
            && stat_ours(fs, dir, &open, self.ino)?.is_some()
        {
            rename_free(fs, dir, &open, name)?;
        }
        // Durable from here: the next segment may take the route's name and cannot orphan this file.
        // Also in a replay, where the rename was made by a run that may not have got to its sync.
        fs.sync_dir(dir).map_err(failed("sync", "results", ""))
    }
}

/// The file under a name, if it is regular and has this inode.
pub(super) fn stat_ours<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    name: &str,
    ino: u64,
) -> Result<Option<Stat>, ResultsError> {
    match fs.stat(dir, Path::new(name)) {
        Ok(stat) => Ok((stat.ino == ino && stat.file_type == FileType::File).then_some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("stat", "results", name)(error)),
    }
}

/// The file with this inode under a sealed name, or under the variant that it got because that was taken:
/// no record says which one it was.
pub(super) fn find_sealed<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    name: &str,
    ino: u64,
) -> Result<Option<(String, Stat)>, ResultsError> {
    for k in 0..RESULTS_NAMES {
        let name = names::variant(name, k);
        if let Some(stat) = stat_ours(fs, dir, &name, ino)? {
            return Ok(Some((name, stat)));
        }
        // Variants are taken in order.
        if is_gone(fs, dir, &name)? {
            break;
        }
    }
    Ok(None)
}

/// Nothing stands under a name.
pub(super) fn is_gone<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    name: &str,
) -> Result<bool, ResultsError> {
    match fs.stat(dir, Path::new(name)) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("stat", "results", name)(error)),
    }
}

/// Opens a file; `None`: someone took our right to it, which is no less a touch than an edit.
pub(super) fn open_if_allowed<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    name: &str,
    write: bool,
) -> Result<Option<F::File>, ResultsError> {
    match fs.open(dir, Path::new(name), write) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        opened => opened.map(Some).map_err(failed("open", "results", name)),
    }
}

/// crc32c of the first `len` bytes; `None` where the file is shorter.
pub(super) fn prefix_crc<F: Filesystem>(
    fs: &F,
    file: &F::File,
    len: u64,
) -> io::Result<Option<u32>> {
    let mut block = vec![0; RESULTS_READ];
    let (mut at, mut crc) = (0, 0);
    while at < len {
        let want = usize::try_from(len - at).unwrap_or(usize::MAX).min(block.len());
        let part = block.get_mut(..want).unwrap_or_default();
        if fs.read_at(file, at, part)? < part.len() {
            return Ok(None);
        }
        crc = crc32c::crc32c_append(crc, part);
        at += want as u64;
    }
    Ok(Some(crc))
}

/// What may not be renamed is in the way itself, and of any other failure its new name.
fn not_renamed(from: &str, to: &str) -> impl FnOnce(io::Error) -> ResultsError {
    move |error| match error.kind() {
        io::ErrorKind::PermissionDenied => failed("rename", "results", from)(error),
        _ => failed("rename to", "results", to)(error),
    }
}

/// Renames whatever stands under the route's name to a sealed-style name, by its own mtime.
fn set_aside<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    route: &str,
    seg: u64,
) -> Result<(), ResultsError> {
    let open = names::open(route);
    let stat = fs.stat(dir, Path::new(&open)).map_err(failed("stat", "results", &open))?;
    let mtime_ms = u64::try_from(stat.mtime_ns / 1_000_000).unwrap_or(0);
    rename_free(fs, dir, &open, &names::sealed(route, mtime_ms, seg))?;
    // Durable before the name is taken again: a power cut must not orphan someone's file.
    fs.sync_dir(dir).map_err(failed("sync", "results", ""))
}

/// Renames to the first variant of a name that is free; which one it was.
fn rename_free<F: Filesystem>(
    fs: &F,
    dir: &F::Dir,
    from: &str,
    name: &str,
) -> Result<String, ResultsError> {
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for k in 0..RESULTS_NAMES {
        let to = names::variant(name, k);
        match fs.rename(dir, Path::new(from), dir, Path::new(&to)) {
            Ok(()) => return Ok(to),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(not_renamed(from, &to)(error)),
        }
    }
    Err(failed("rename to", "results", name)(taken))
}
