//! The pure core: what inboxd decides, without a disk, a clock or a runtime.
//!
//! Must not know: files, time (it is passed in), async, logging, or any other
//! module of this crate. It cannot fail: bad input is data.
//!
//! - [`state`]: the state of all claimed jobs, and what to do next.
//! - [`complete`]: whether a file is whole.
//! - [`byte_order_mark`]: what some programs put before a text.
//! - [`backoff`]: how long a job waits before it runs again.
//! - [`id`]: job ids, ordered by birth, never below the highest seen.
//! - [`records`]: the records of one input, where each is a task of its own.
//! - [`rel`]: the path of a file below `incoming/`, as bytes, always safe to join.
//! - [`verdict`]: how one attempt ended, and which budget that is charged to.
//! - [`pace`]: how fast a route may start: its rate, and its circuit breaker.
//! - [`retry`]: which failures are tried again.
//! - [`row`]: a row as a worker gave it: names and cells.

pub mod backoff;
pub mod byte_order_mark;
pub mod complete;
pub mod id;
pub mod pace;
pub mod records;
pub mod rel;
pub mod retry;
pub mod row;
pub mod state;
pub mod verdict;

pub use byte_order_mark::{BYTE_ORDER_MARK, not_utf8, without_bom};
pub use id::JobId;
pub use rel::RelPath;
pub use row::{Cells, Row};
pub use verdict::{Budget, FailClass, Failure, Spent, Verdict};
