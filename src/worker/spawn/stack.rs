//! The stack of a child that shares our memory.
//!
//! Must not know: who runs on it.
//!
//! Invariant: who overruns it ends with SIGSEGV, and nothing of ours is overwritten.

#![expect(unsafe_code, reason = "mmap: std has none")]

use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;

/// The child's stack; one serves many children, one at a time.
#[derive(Debug)]
pub(super) struct Stack {
    base: *mut c_void,
}

// SAFETY: the mapping belongs to no thread, and who starts a child has it exclusively.
unsafe impl Send for Stack {}

/// The child calls a few shallow C functions; `clone`'s own use is less than a page.
const STACK: usize = 64 << 10;
/// A multiple of every page size in use on Linux.
const GUARD: usize = 64 << 10;

impl Stack {
    /// Maps it, with a guard below: who overruns it ends with SIGSEGV and corrupts nothing of ours.
    pub(super) fn new() -> io::Result<Self> {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
        );
        // SAFETY: a new anonymous mapping, wherever the kernel likes.
        let base = unsafe { libc::mmap(null_mut(), GUARD + STACK, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base };
        // SAFETY: the first part of the mapping just made, which nothing uses.
        match unsafe { libc::mprotect(base, GUARD, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its upper end, from which it grows downwards; aligned as the mapping is.
    pub(super) fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD + STACK)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; a child that used it has left it.
        let unmapped = unsafe { libc::munmap(self.base, GUARD + STACK) };
        debug_assert_eq!(unmapped, 0);
    }
}
