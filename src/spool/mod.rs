//! The spool: one folder on one filesystem, and the only moves a file makes in it.
//!
//! Must not know: routes, workers, the journal's contents, the daemon.
//!
//! | state | incoming | processing | recorded in the journal | done or error | who owns it |
//! |---|---|---|---|---|---|
//! | S1 incoming | + | - | - | - | producer, until the file is complete |
//! | S2 processing | - | + | - | - | inboxd |
//! | S3 recorded | - | + | + | - | inboxd; the outcome is final |
//! | S4 settled | - | - | + (until checkpoint) | + | user |
//!
//! - [`layout`]: the folders, opened once; all on one filesystem.
//! - [`names`]: the grammar of names below `processing/`, and names for what is taken.
//! - [`scan`]: reads `incoming/`, bounded, streaming; finds S1.
//! - [`claim`]: S1 → S2, by one rename; and the attempt in the name.
//! - [`whole_folder`]: the same for a folder that is one job.
//! - [`folders`]: folders that are used again.
//! - [`job_files`]: what stands in a job's folder. [`settle`]: S3 → S4, by one rename; the sidecar of a failure goes before it.
//! - [`put_back`]: S4 → S1, when the user asks for another run.
//! - [`import`]: a source of `batch` becomes S2 without being touched.
//! - [`lock`]: one daemon a spool.
//!
//! Guaranteed: a file is in exactly one of these states at every instant, and no move overwrites.
//! Not guaranteed: that a move is durable when it returns. The journal's commit and recovery see to it.

pub mod claim;
pub mod folders;
pub mod hand_over;
pub mod import;
pub mod job_files;
pub mod layout;
pub mod lock;
pub mod names;
pub mod put_back;
pub mod records;
pub mod retention;
pub mod scan;
pub mod settle;
pub mod whole_folder;

pub use layout::Spool;
pub use names::{Claimed, Place, Shape};
