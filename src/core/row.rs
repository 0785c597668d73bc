//! A row as a worker gave it: cells by column name, in the worker's order.
//!
//! Must not know: CSV, JSON, or which columns a segment has. Mapping to columns is
//! by name and happens in `results`, so a worker's order never shifts a cell.

use std::collections::HashMap;

/// One result row: `(column, cell)` in the order the worker gave them.
///
/// Invariant: no column stands twice (the parser that built the row kept the last one).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(pub Vec<(String, Vec<u8>)>);

impl Row {
    /// A row from text pairs, for callers that have no raw bytes.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut row = Self::default();
        for (name, cell) in pairs {
            row.set(name.to_owned(), cell.as_bytes().to_vec());
        }
        row
    }

    /// Sets a cell; a column that is there already keeps its place and takes the new value.
    pub fn set(&mut self, column: String, cell: Vec<u8>) {
        match self.0.iter_mut().find(|(name, _)| *name == column) {
            Some((_, old)) => *old = cell,
            None => self.0.push((column, cell)),
        }
    }

    /// The cell of a column, if the row has it.
    pub fn get(&self, column: &str) -> Option<&[u8]> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, cell)| cell.as_slice())
    }
}

/// A row's cells by name, for one who asks for many of them: where the place of a name is not the one
/// expected, a wide row is looked through once and not at every question.
pub struct Cells<'a> {
    row: &'a Row,
    /// Made at the first question that needs it.
    places: Option<HashMap<&'a str, usize>>,
}

/// From so many columns on, names are found by hash: looking through a few is faster.
const WIDE: usize = 16;

impl<'a> Cells<'a> {
    /// Of this row.
    pub fn of(row: &'a Row) -> Self {
        Self { row, places: None }
    }

    /// The cell of a column that most likely stands at `at`.
    pub fn get(&mut self, at: usize, column: &str) -> Option<&'a [u8]> {
        let cells = &self.row.0;
        match cells.get(at) {
            Some((name, cell)) if name == column => return Some(cell),
            _ if cells.len() < WIDE => return self.row.get(column),
            _ => {}
        }
        let places = self.places.get_or_insert_with(|| {
            cells.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect()
        });
        cells.get(*places.get(column)?).map(|(_, cell)| cell.as_slice())
    }
}
