//! Whether anybody can still write into a file: the kernel's read lease, taken and given back at once.
//!
//! One of three rooms with `unsafe` (the others: `worker/spawn`, `daemon/own_pages`): neither rustix nor nix wraps
//! `F_SETLEASE`. Must not know: what the answer is used for.
//!
//! Facts (fcntl(2), and measured)
//! - A read lease is refused with EAGAIN while any descriptor or shared mapping is open for writing on
//!   this kernel. A writer on another machine is not seen. On overlayfs a writable shared mapping
//!   whose descriptor is closed is not seen.
//! - It needs the file's owner or `CAP_LEASE`; without it, and on filesystems without leases, there is
//!   no answer.
//! - Who opens the file for writing while we hold it makes the kernel send us SIGIO, whose default
//!   action ends a process. So SIGIO is caught before the first lease. It is not ignored: that would
//!   be inherited by workers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use super::Lease;

/// Asks for one open file, which must be open for reading only, and closes it, which gives the lease
/// back: who opens it for writing meanwhile waits until then.
pub(super) fn ask(file: OwnedFd) -> Lease {
    if !catches_sigio() {
        return Lease::Unknown;
    }
    let asked = read_lease(file.as_fd());
    drop(file);
    match asked {
        Ok(()) => Lease::Clear,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Lease::Busy,
        // EACCES: not our file and no CAP_LEASE. EINVAL: a filesystem without leases.
        Err(_) => Lease::Unknown,
    }
}

fn catches_sigio() -> bool {
    static CAUGHT: OnceLock<bool> = OnceLock::new();
    *CAUGHT.get_or_init(|| {
        let seen = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGIO, seen).is_ok()
    })
}

#[expect(unsafe_code, reason = "rustix has no F_SETLEASE")]
fn read_lease(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and F_SETLEASE takes no pointer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};

    /// Goal: a writer is seen while it has the file open, and asking does not end this process or lock
    /// anyone out. Method: a file open for writing, then closed; a writer that opens it over and over
    /// while we ask.
    #[test]
    fn writers_are_seen_and_not_hurt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let writer = File::create(&path).unwrap();
        let ask = || ask(File::open(&path).unwrap().into());
        assert_eq!(ask(), Lease::Busy);
        drop(writer);
        assert_eq!(ask(), Lease::Clear);
        std::thread::scope(|scope| {
            let opens = scope.spawn(|| {
                for _ in 0..2_000 {
                    drop(OpenOptions::new().append(true).open(&path).unwrap());
                }
            });
            while !opens.is_finished() {
                assert_ne!(ask(), Lease::Unknown);
            }
        });
        assert_eq!(ask(), Lease::Clear);
    }
}
