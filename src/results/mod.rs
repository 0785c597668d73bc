//! Results: from journal records to rolling CSVs.
//!
//! The life of a row: [`Results::plan`] decides segment, offset and bytes; the records go to the
//! journal; after its fsync [`Results::apply`] and [`Results::flush`] bring the files there. The
//! CSVs are *derived*: start-up replays the same records through [`Recovery`], and nothing is
//! synced here but what a rename needs.
//!
//! - [`encode`]: rows to bytes.
//! - [`columns`]: which columns a segment has.
//! - [`names`]: what the files are called.
//! - [`mod@file`]: one segment's file: written, renamed, checked.
//! - [`segment`]: all routes' segments as applied; `plan`: as decided ahead of the journal.
//! - [`recover`]: what start-up believes of the files.
//! - [`read`]: all segments as one table, for `inboxd results`.
//!
//! Must not know: jobs' states, workers, the daemon, how a journal line is written.
//!
//! Invariants
//! - No byte of a CSV is written before the record that carries it is durable.
//! - Rows of one job are never split over segments; a segment's columns never change.
//! - A file whose inode or length is not as recorded is never written to, replaced or removed.
//! - A sealed name is durable before the next segment takes the route's name.
//!
//! Known limits: an edit of a live file that changes neither inode nor length is not seen until
//! start-up (and is harmless: rows are only added after it); of a segment born after the last
//! checkpoint there is no durable prefix to compare, so at start-up its bytes are written again.
//! Rows since the last checkpoint of a file that was touched come a second time, in a file of their
//! own, at the next start: a checkpoint soon after [`Touched`] keeps them few.

use std::io;
use std::path::PathBuf;

use crate::fs::is_shortage;

pub mod columns;
pub mod encode;
pub mod file;
pub mod names;
mod plan;
pub mod read;
pub mod recover;
pub mod segment;

pub use plan::{CsvSpec, PlanError, Planned};
pub use recover::Recovery;
pub use segment::{Results, Touched};

/// The route name under which failures are kept: `results/errors.csv`.
pub const ERRORS: &str = "errors";

/// The CSVs cannot be brought to where the journal says.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The disk is full, or somebody took our rights on a CSV (`chattr +i`). Nothing is lost: once that has
    /// passed, call `flush` again.
    #[error("cannot {operation} {}", path.display())]
    Full {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Anything else, and every failed sync: stop; the next start replays.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The journal's records contradict each other or a rows file: our bug or a damaged disk.
    #[error("damaged results records: {what}")]
    Damaged {
        /// Which, as one line for a person.
        what: String,
    },
}

impl ResultsError {
    fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }
}

/// For `map_err`: says what was tried on which file below the spool.
fn failed(
    operation: &'static str,
    folder: &str,
    name: &str,
) -> impl FnOnce(io::Error) -> ResultsError {
    let is_csv = folder == "results";
    let path = PathBuf::from(folder).join(name);
    move |source| match source.kind() {
        // A sync that failed is never tried again, whatever its reason.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded if operation != "sync" => {
            ResultsError::Full { operation, path, source }
        }
        // Nothing is planned yet: it can be made later. Nor is anything written of a CSV that cannot be
        // opened; without its file of rows, though, a record would count as applied and not be.
        _ if (operation == "create" || (operation == "open" && is_csv)) && is_shortage(&source) => {
            ResultsError::Full { operation, path, source }
        }
        // Nothing was done, and where a CSV stands is people's matter: it waits for them.
        io::ErrorKind::PermissionDenied if is_csv && operation != "sync" => {
            ResultsError::Full { operation, path, source }
        }
        _ => ResultsError::Io { operation, path, source },
    }
}

#[cfg(test)]
mod tests;
