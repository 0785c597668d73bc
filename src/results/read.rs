//! All segments of a route read as one table.
//!
//! Must not know: the journal. It reads what stands in `results/`, also beside a running daemon.
//!
//! Invariants
//! - A cell is mapped by the name of its column; segments with fewer columns give empty cells.
//! - Beside a daemon the table is that of one moment: no row of before it is missing, none stands twice
//!   and none is cut, though a segment grows or is sealed meanwhile.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder, Terminator, WriterBuilder};

use super::names;

/// What follows the bytes of an open segment, so that its last row shows whether it has its end: then this
/// is a row of its own, else it stands in the last cell, without its quote where that is a quoted one.
const END: &[u8] = b"\0inboxd: nothing more was written\0\"";

/// The CSV files of a route: sealed ones by number, then the open one. None is no error.
pub fn segments(results_dir: &Path, route: &str) -> io::Result<Vec<PathBuf>> {
    let mut sealed = Vec::new();
    let mut open = None;
    for entry in fs::read_dir(results_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = names::parse_sealed(route, name);
        let is_open = name == names::open(route);
        if (number.is_none() && !is_open) || !entry.file_type()?.is_file() {
            continue;
        }
        match number {
            Some(number) => sealed.push((number, entry.path())),
            None => open = Some(entry.path()),
        }
    }
    sealed.sort();
    Ok(sealed.into_iter().map(|(_, path)| path).chain(open).collect())
}

/// Writes all rows of a route: as CSV under one header, the union of the segments' headers in their
/// order, or as NDJSON objects of strings. `false`: a last row without an end was left out.
///
/// JSON cannot hold bytes: in it, what is not UTF-8 becomes U+FFFD. The CSV keeps them.
pub fn read_all(
    results_dir: &Path,
    route: &str,
    out: &mut dyn Write,
    as_json: bool,
) -> io::Result<bool> {
    let mut sources = Source::all(results_dir, route)?;
    let mut headers = Vec::new();
    let mut columns: Vec<Vec<u8>> = Vec::new();
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    for source in &mut sources {
        let header = match source.rows()? {
            Some(mut rows) => rows.next()?.cloned().unwrap_or_default(),
            None => ByteRecord::new(),
        };
        for name in &header {
            if seen.insert(name.to_vec()) {
                columns.push(name.to_vec());
            }
        }
        headers.push(header);
    }
    if columns.is_empty() {
        return Ok(true);
    }
    let mut sink = Sink::new(out, &columns, as_json)?;
    let mut is_whole = true;
    for (source, header) in sources.iter_mut().zip(&headers) {
        let place: HashMap<&[u8], usize> =
            header.iter().enumerate().map(|(at, name)| (name, at)).collect();
        let places: Vec<Option<usize>> =
            columns.iter().map(|name| place.get(name.as_slice()).copied()).collect();
        let Some(mut rows) = source.rows()? else { continue };
        // The header again, as it was read above.
        rows.next()?;
        while let Some(row) = rows.next()? {
            sink.row(places.iter().map(|at| at.and_then(|at| row.get(at))))?;
        }
        is_whole &= !rows.is_cut;
    }
    sink.finish()?;
    Ok(is_whole)
}

/// A segment as it is read.
enum Source {
    Sealed(PathBuf),
    /// By its file: its name may become another's while it is read.
    Open(File),
}

impl Source {
    /// The segments of a route at one moment, in their order.
    fn all(results_dir: &Path, route: &str) -> io::Result<Vec<Self>> {
        let path = results_dir.join(names::open(route));
        // First: what is sealed from here on is among the sealed ones, or still had by this.
        let open = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => open_if_there(&path)?,
            Ok(_) => None,
            Err(error) => if_there(Err(error))?,
        };
        let inode = open.as_ref().map(File::metadata).transpose()?.map(|meta| meta.ino());
        let (mut all, mut is_sealed) = (Vec::new(), false);
        for sealed in segments(results_dir, route)?.into_iter().filter(|it| *it != path) {
            is_sealed |= inode.is_some()
                && if_there(fs::symlink_metadata(&sealed))?.map(|meta| meta.ino()) == inode;
            all.push(Self::Sealed(sealed));
        }
        all.extend(open.filter(|_| !is_sealed).map(Self::Open));
        Ok(all)
    }

    /// From its first line on; `None`: its file went, as retention lets old ones go.
    fn rows(&mut self) -> io::Result<Option<Rows<'_>>> {
        let (bytes, end): (Box<dyn Read>, &'static [u8]) = match self {
            Self::Sealed(path) => match open_if_there(path)? {
                Some(file) => (Box::new(file), &[]),
                None => return Ok(None),
            },
            Self::Open(file) => {
                file.rewind()?;
                (Box::new(file), END)
            }
        };
        let reader = options().from_reader(bytes.chain(end));
        Ok(Some(Rows { reader, row: ByteRecord::new(), is_cut: false }))
    }
}

/// The lines of a segment, without a last one that has no end.
struct Rows<'a> {
    reader: csv::Reader<io::Chain<Box<dyn Read + 'a>, &'static [u8]>>,
    row: ByteRecord,
    is_cut: bool,
}

impl Rows<'_> {
    fn next(&mut self) -> io::Result<Option<&ByteRecord>> {
        if !self.reader.read_byte_record(&mut self.row).map_err(as_io)? {
            return Ok(None);
        }
        let last = self.row.iter().next_back().unwrap_or_default();
        if END.strip_suffix(b"\"").is_some_and(|end| last.ends_with(end)) || last.ends_with(END) {
            self.is_cut = self.row.len() > 1 || last != END;
            return Ok(None);
        }
        Ok(Some(&self.row))
    }
}

/// Of many files, the one that cannot be opened is named.
fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    let name = path.file_name().unwrap_or_default().display();
    if_there(File::open(path))
        .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// What a person is shown of a CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The names of its columns.
    pub header: Vec<Vec<u8>>,
    /// The cells of its first row.
    pub first: Vec<Vec<u8>>,
    /// Rows after that.
    pub more: u64,
}

/// The beginning of one CSV file; `None`: it has no row.
pub fn preview(path: &Path) -> io::Result<Option<Preview>> {
    let mut rows = reader(path)?;
    let mut row = ByteRecord::new();
    let mut next = || -> io::Result<Option<Vec<Vec<u8>>>> {
        let cells = |row: &ByteRecord| row.iter().map(<[u8]>::to_vec).collect();
        Ok(rows.read_byte_record(&mut row)?.then(|| cells(&row)))
    };
    let (Some(header), Some(first)) = (next()?, next()?) else { return Ok(None) };
    let mut more = 0;
    while rows.read_byte_record(&mut row)? {
        more += 1;
    }
    Ok(Some(Preview { header, first, more }))
}

/// Cells as one line of a CSV, without its end, for people.
pub fn line(cells: &[String]) -> String {
    let mut to = WriterBuilder::new().from_writer(Vec::new());
    // Into memory nothing fails.
    to.write_record(cells).unwrap_or(());
    let bytes = to.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned()
}

fn reader(path: &Path) -> io::Result<csv::Reader<File>> {
    Ok(options().from_path(path)?)
}

fn options() -> ReaderBuilder {
    let mut options = ReaderBuilder::new();
    options.has_headers(false).flexible(true);
    options
}

/// What the system said itself: a reader that has gone is known by its kind, which `?` would hide.
fn as_io(error: csv::Error) -> io::Error {
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        _ => io::Error::other(text),
    }
}

enum Sink<'a> {
    Csv(Box<csv::Writer<&'a mut dyn Write>>),
    Json { out: io::BufWriter<&'a mut dyn Write>, names: Vec<String> },
}

impl<'a> Sink<'a> {
    fn new(out: &'a mut dyn Write, columns: &[Vec<u8>], as_json: bool) -> io::Result<Self> {
        if as_json {
            let names = columns.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            return Ok(Self::Json { out: io::BufWriter::new(out), names: names.collect() });
        }
        let mut to = WriterBuilder::new()
            .terminator(Terminator::Any(b'\n'))
            .has_headers(false)
            .from_writer(out);
        to.write_record(columns).map_err(as_io)?;
        Ok(Self::Csv(Box::new(to)))
    }

    fn row<'r>(&mut self, cells: impl Iterator<Item = Option<&'r [u8]>>) -> io::Result<()> {
        match self {
            Self::Csv(to) => to.write_record(cells.map(Option::unwrap_or_default)).map_err(as_io),
            Self::Json { out, names } => {
                out.write_all(b"{")?;
                // A column that the segment does not have is left out of the object.
                let there = names.iter().zip(cells).filter_map(|(name, cell)| Some((name, cell?)));
                for (at, (name, cell)) in there.enumerate() {
                    out.write_all(if at == 0 { b"" } else { b"," })?;
                    serde_json::to_writer(&mut *out, name)?;
                    out.write_all(b":")?;
                    serde_json::to_writer(&mut *out, &String::from_utf8_lossy(cell))?;
                }
                out.write_all(b"}\n")
            }
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Csv(mut to) => to.flush(),
            Self::Json { mut out, .. } => out.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Filesystem, RealFs};

    /// Goal: who has read enough (`| head`) is told apart from a disk that fails. Method: more rows than
    /// any buffer holds, to one who is gone.
    #[test]
    fn a_reader_that_is_gone_is_known_by_its_kind() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("r.csv"), "a\n".repeat(100_000)).unwrap();
        for as_json in [false, true] {
            let error = read_all(dir.path(), "r", &mut Gone, as_json).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "json: {as_json}");
        }
    }

    /// Goal: a table read beside a daemon has each row that was there, once. Method: a reader of the output
    /// that, while the first segment is read, seals the open one, begins another and takes away the second.
    #[test]
    fn a_segment_that_is_sealed_meanwhile_is_read_once() {
        struct Daemon<'a>(&'a Path, Vec<u8>);
        impl Write for Daemon<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.1.is_empty() {
                    let dir = RealFs.open_root(self.0)?;
                    let rename = |old: &str, new: &str| {
                        RealFs.rename(&dir, Path::new(old), &dir, Path::new(new))
                    };
                    rename("r.20261122T140211Z.2.csv", "gone")?;
                    rename("r.csv", "r.20261122T140211Z.3.csv")?;
                    fs::write(self.0.join("r.csv"), "a\nlater\n")?;
                }
                self.1.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let first = format!("a\n{}", "x\n".repeat(100_000));
        fs::write(dir.path().join("r.20261122T140211Z.1.csv"), &first).unwrap();
        fs::write(dir.path().join("r.20261122T140211Z.2.csv"), "a\nold\n").unwrap();
        fs::write(dir.path().join("r.csv"), "a\nopen\n").unwrap();
        let mut daemon = Daemon(dir.path(), Vec::new());
        assert!(read_all(dir.path(), "r", &mut daemon, false).unwrap());
        assert_eq!(String::from_utf8(daemon.1).unwrap(), format!("{first}open\n"));
    }

    /// Goal: no half of a row is given as a row. Method: each beginning of a growing file, then the same as
    /// one that is sealed, which grows no more.
    #[test]
    fn a_row_without_its_end_is_left_out() {
        let whole = "a,b\n1,\"x\ny\"\n\"z\n\",\"\"\"\"\n";
        let (one, two) = ("a,b\n1,\"x\ny\"\n", whole);
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            let mut out = Vec::new();
            let is_whole = read_all(dir.path(), "r", &mut out, false).unwrap();
            (String::from_utf8(out).unwrap(), is_whole)
        };
        for len in "a,b\n".len()..=whole.len() {
            let (text, is_whole) = read("r.csv", &whole[..len]);
            let ends = ["a,b\n", one, two];
            let expected = ends.iter().rev().find(|it| it.len() <= len).unwrap();
            assert_eq!((text.as_str(), is_whole), (*expected, ends.contains(&&whole[..len])));
        }
        assert_eq!(read("r.csv", ""), (String::new(), true));
        assert_eq!(read("r.20261122T140211Z.1.csv", "a\n1"), ("a\n1\n".to_owned(), true));
    }
}
