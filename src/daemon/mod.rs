//! The shell: everything that runs, waits and listens, around the pure core.
//!
//! - [`supervisor`]: the small process above, which ends every worker when the daemon dies.
//! - [`children`]: ends what was left to a process as its children.

pub mod children;
pub mod supervisor;
