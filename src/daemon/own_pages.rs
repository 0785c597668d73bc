//! Memory of the program's own text, given back once the start is over.
//!
//! A start runs code that is not needed again for weeks: settings, globs, recovery. Its pages stay mapped,
//! and count, until the machine is short of memory. Given back, they are still in the page cache, and one
//! that is needed is mapped again by a fault of a microsecond. Measured: 8.2 MiB of both processes become 6.0.
//!
//! One of three rooms with `unsafe` (the others: `fs/lease`, `worker/spawn`). Must not know: what is needed.
//!
//! Invariant: only text goes, file-backed, executable and not writable, which nobody has written into: what
//! the kernel reads again is what was there.

use std::ops::Range;

/// Gives the pages of this program's text back. Failing to is no error: they stay.
pub(super) fn give_back() {
    let (Ok(maps), Ok(program)) =
        (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe"))
    else {
        return;
    };
    for text in texts(&maps, &program.to_string_lossy()) {
        forget(&text);
    }
}

/// Where a program's text is mapped, by the lines of `/proc/PID/maps`: proc(5).
fn texts(maps: &str, program: &str) -> Vec<Range<usize>> {
    let text = |line: &str| {
        let (addresses, rest) = line.split_once(' ')?;
        if !rest.starts_with("r-xp ") || !rest.ends_with(&format!(" {program}")) {
            return None;
        }
        let (start, end) = addresses.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(text).collect()
}

#[expect(unsafe_code, reason = "madvise may take memory away, so no crate has it without")]
fn forget(text: &Range<usize>) {
    let address = std::ptr::without_provenance_mut::<libc::c_void>(text.start);
    // SAFETY: a private mapping of a file that is not writable and was never written into: its pages are read
    // from the file again when they are used, by whichever thread. The file of a running program cannot be
    // written (ETXTBSY), and one that was removed or replaced stays for who has it mapped.
    // Whatever it says, they stay or they went.
    let _: libc::c_int = unsafe { libc::madvise(address, text.len(), libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_text() -> u64 {
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| {
            !(line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy()))
        });
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Goal: the program goes on with less. Method: its own resident text before and after.
    #[test]
    fn text_is_given_back() {
        let before = resident_text();
        give_back();
        let after = resident_text();
        // Other tests go on in this process, and some of it is needed at once.
        assert!(after < before, "{after} KiB of {before}");
    }

    /// Goal: nothing but the program's own text. Method: the kinds of lines there are.
    #[test]
    fn only_own_text_is_meant() {
        let maps = "55a0000-55a1000 r--p 00000000 08:01 7   /usr/bin/inboxd\n\
                    55a1000-55a3000 r-xp 00001000 08:01 7   /usr/bin/inboxd\n\
                    55a3000-55a4000 rw-p 00003000 08:01 7   /usr/bin/inboxd\n\
                    55a4000-55a5000 rwxp 00003000 08:01 7   /usr/bin/inboxd\n\
                    7f10000-7f11000 r-xp 00000000 08:01 8   /usr/lib/libc.so.6\n\
                    7f12000-7f13000 r-xp 00000000 00:00 0   [vdso]\n\
                    bad line";
        assert_eq!(texts(maps, "/usr/bin/inboxd"), vec![0x55a_1000..0x55a_3000]);
        assert!(texts(maps, "/inboxd").is_empty());
    }
}
