//! A row as a worker gave it: cells by column name, in the worker's order.
//!
//! Must not know: CSV, JSON, or which columns a segment has. Mapping to columns is
//! by name and happens in `results`, so a worker's order never shifts a cell.

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
