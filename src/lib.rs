//! inboxd: drop a file into a folder and it is processed, once, for certain.
//!
//! The guided tour, in the order in which a file meets the rooms:
//!
//! - [`cli`]: the command line, one file a command.
//! - [`config`]: every setting, limit and default, checked once.
//! - [`fs`]: the only place that renames, writes durably, syncs or removes.
//! - [`core`]: what is decided, pure: no disk, no clock, no runtime.
//! - [`journal`]: the truth about what is recorded.
//! - [`results`]: the CSVs, derived from the journal.
//! - [`spool`]: the folders, and the only moves a file makes in them.
//! - [`worker`]: how a worker is started, spoken to and ended.
//! - [`daemon`]: the shell around all of them.

pub mod cli;
pub mod config;
pub mod core;
pub mod daemon;
pub mod fs;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod journal;
pub mod results;
pub mod spool;
pub mod worker;
