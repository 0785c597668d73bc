//! The journal: the truth about what is recorded. An append-only redo log with group commit.
//!
//! Must not know: routes' settings, workers, how a CSV is written or a file moved.

pub mod record;
