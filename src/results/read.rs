//! All segments of a route read as one table.
//!
//! Must not know: the journal. It reads what stands in `results/`, also beside a running daemon;
//! of a segment that is being written the last line may then be cut, as with any growing file.
//!
//! Invariant: a cell is mapped by the name of its column; segments with fewer columns give empty cells.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder, Terminator, WriterBuilder};

use super::names;

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
/// order, or as NDJSON objects of strings.
///
/// JSON cannot hold bytes: in it, what is not UTF-8 becomes U+FFFD. The CSV keeps them.
pub fn read_all(
    results_dir: &Path,
    route: &str,
    out: &mut dyn Write,
    as_json: bool,
) -> io::Result<()> {
    let paths = segments(results_dir, route)?;
    let mut headers = Vec::new();
    let mut columns: Vec<Vec<u8>> = Vec::new();
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    for path in &paths {
        let mut header = ByteRecord::new();
        reader(path)?.read_byte_record(&mut header)?;
        for name in &header {
            if seen.insert(name.to_vec()) {
                columns.push(name.to_vec());
            }
        }
        headers.push(header);
    }
    if columns.is_empty() {
        return Ok(());
    }
    let mut sink = Sink::new(out, &columns, as_json)?;
    for (path, header) in paths.iter().zip(&headers) {
        let place: HashMap<&[u8], usize> =
            header.iter().enumerate().map(|(at, name)| (name, at)).collect();
        let places: Vec<Option<usize>> =
            columns.iter().map(|name| place.get(name.as_slice()).copied()).collect();
        let mut rows = reader(path)?;
        let mut row = ByteRecord::new();
        // The header again, as it was read above.
        rows.read_byte_record(&mut row)?;
        while rows.read_byte_record(&mut row)? {
            sink.row(places.iter().map(|at| at.and_then(|at| row.get(at))))?;
        }
    }
    sink.finish()
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

fn reader(path: &Path) -> io::Result<csv::Reader<fs::File>> {
    Ok(ReaderBuilder::new().has_headers(false).flexible(true).from_path(path)?)
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
}
