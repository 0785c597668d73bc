//! The shell: everything that runs, waits and listens, around the pure core.
//!
//! It knows all other rooms; none of them knows it.
//!
//! - [`keeper`]: one owner of spool, journal and results; carries out what the core decides.
//! - [`recover`]: start-up is recovery.
//! - [`service`]: the keeper's thread and its messages.
//! - [`pool`]: one thread a slot.
//! - [`stager`]: brings the sources of `batch` in.
//! - [`history`]: the log of recent jobs. [`notice`]: what there is to tell.
//! - [`control`]: the socket by which commands speak with a running daemon.
//! - [`shell`]: puts all of it together, listens to signals; the only async code.
//! - [`supervisor`]: the small process above, which ends every worker when the daemon dies;
//!   [`children`]: how both of them do it.

pub mod children;
pub mod control;
pub mod history;
pub mod keeper;
pub mod notice;
pub mod pool;
#[cfg(test)]
mod proof;
pub mod recover;
pub mod service;
pub mod shell;
pub mod stager;
pub mod supervisor;
