//! The real binary under SIGKILL and under errors of the kernel: slower, so a program of its own.
//!
//! Must not know: the library.
//!
//! `SimFs`, in the library's own tests, stays needed beside this: kill -9 keeps the page cache, so what
//! was written and never synced is still there afterwards. `power_cut` finds a missing fsync where ext4
//! needs it, `SimFs` in the weakest order that a filesystem may have; only this finds what that model
//! leaves out.

// cfg(test) tells the lints that the helpers here may unwrap as tests may.
/// What any history must satisfy.
#[cfg(test)]
#[path = "../integration/checks.rs"]
mod checks;
/// Temporary spools, children and waiting.
#[cfg(test)]
#[expect(dead_code, reason = "shared with the integration tests, which use the rest")]
#[path = "../integration/harness.rs"]
mod harness;

/// SIGKILL before each durable call.
#[cfg(test)]
mod every_syscall;
/// Errors of the kernel at each durable call, and a disk that is really full.
#[cfg(test)]
mod faults;
/// SIGKILL over folders that are one job each.
#[cfg(test)]
mod folders;
/// What must hold after any crash, each part with a broken history that it must refuse.
#[cfg(test)]
mod history;
/// SIGKILL at random instants.
#[cfg(test)]
mod kill_nine;
/// The same for each kind of worker.
#[cfg(test)]
mod kinds;
/// Power cuts on a real filesystem.
#[cfg(test)]
mod power_cut;
/// retry and rerun, cut off.
#[cfg(test)]
mod put_back;
/// strace as the hand that kills and injects, and the calls it counts.
#[cfg(test)]
mod strace;
