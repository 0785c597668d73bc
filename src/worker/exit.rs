//! What an exit code or a signal means: the table of the `command` contract.
//!
//! Must not know: processes or pipes; it is given numbers and text, and is pure.

use crate::config::limits;
use crate::core::rel::escape_bytes;
use crate::core::{FailClass, Failure, Verdict};

/// The verdict for an exit code other than 0. `said` is what the worker gave as its reason itself;
/// without it the reason is the code with the last line of stderr.
pub(super) fn of_code(code: i32, said: Option<&str>, stderr: &[u8]) -> Verdict {
    let reason = said.map_or_else(|| code_reason(code, stderr), str::to_owned);
    let class = match code {
        65 => FailClass::Permanent,
        66 => return Verdict::Incomplete { reason, retry_after_ms: None },
        69 | 75 => FailClass::TryAgain,
        126 | 127 => return Verdict::Misconfigured { reason },
        // As a shell reports a child that died of a signal, or as a worker says so of itself.
        129..=159 if is_fatal(code - 128) => FailClass::Crash,
        _ => FailClass::Fail,
    };
    Verdict::Failed(Failure { exit: Some(code), ..Failure::new(class, reason) })
}

/// The verdict for a signal that was not ours. `out_of_memory` says whether memory is known to be why.
pub(super) fn of_signal(signal: i32, out_of_memory: bool) -> Verdict {
    let name = signal_name(signal);
    let (class, reason) = match (signal, out_of_memory) {
        (SIGKILL, true) => (FailClass::Oom, format!("killed by {name}: out of memory")),
        (SIGKILL, false) => {
            (FailClass::Crash, format!("killed by {name}, not by inboxd: out of memory?"))
        }
        _ => (FailClass::Crash, format!("killed by {name}")),
    };
    Verdict::Failed(Failure { signal: Some(signal), ..Failure::new(class, reason) })
}

/// The number of the signal that the kernel sends when memory runs out.
pub(super) const SIGKILL: i32 = 9;

pub(super) fn code_reason(code: i32, stderr: &[u8]) -> String {
    match last_line(stderr) {
        Some(line) => format!("exit {code}: {line}"),
        None => format!("exit {code}"),
    }
}

/// The last line that is not blank, as one line for a person.
pub(super) fn last_line(stderr: &[u8]) -> Option<String> {
    stderr.rsplit(|b| matches!(b, b'\n' | b'\r')).find(|l| !l.trim_ascii().is_empty()).map(one_line)
}

/// Bytes as one line for a person: trimmed, cut to a bound, nothing in it a terminal would obey.
pub(super) fn one_line(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    let kept = bytes.get(..limits::REASON_LINE).unwrap_or(bytes);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let written = escape_bytes(kept, &mut text);
    debug_assert!(written.is_ok());
    if kept.len() < bytes.len() {
        text.push('…');
    }
    text
}

/// Signals whose default is to end the process: all but CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
fn is_fatal(signal: i32) -> bool {
    matches!(signal, 1..=16 | 24..=27 | 29..=31)
}

/// The name of a signal by its number on Linux (signal(7), all architectures but alpha, mips, sparc).
pub(super) fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let at = usize::try_from(signal).ok().and_then(|n| n.checked_sub(1));
    match at.and_then(|at| NAMES.get(at)) {
        Some(name) => format!("SIG{name}"),
        None if signal >= 34 => format!("SIGRTMIN+{}", signal - 34),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(verdict: &Verdict) -> Option<FailClass> {
        match verdict {
            Verdict::Failed(failure) => Some(failure.class),
            _ => None,
        }
    }

    /// Goal: every exit code has the verdict of the manual. Method: all 255 codes against the table.
    #[test]
    fn every_exit_code() {
        for code in 1..=255 {
            let verdict = of_code(code, None, b"");
            let want = match code {
                65 => Some(FailClass::Permanent),
                69 | 75 => Some(FailClass::TryAgain),
                66 | 126 | 127 => None,
                129..=144 | 152..=155 | 157..=159 => Some(FailClass::Crash),
                _ => Some(FailClass::Fail),
            };
            assert_eq!(class(&verdict), want, "exit {code}");
            if let Verdict::Failed(failure) = verdict {
                assert_eq!((failure.exit, failure.reason), (Some(code), format!("exit {code}")));
            }
        }
        assert!(matches!(of_code(66, None, b""), Verdict::Incomplete { .. }));
        assert!(matches!(of_code(127, None, b""), Verdict::Misconfigured { .. }));
    }

    /// Goal: the reason is the last line that says something. Method: blank ends, CR, escapes, a long line.
    #[test]
    fn the_last_line_that_says_something() {
        let reason = |stderr: &[u8]| code_reason(1, stderr);
        assert_eq!(reason(b"Traceback\nValueError: boom\n\n \r\n"), "exit 1: ValueError: boom");
        assert_eq!(reason(b"\n\n"), "exit 1");
        assert_eq!(reason(b"a\x1b[31m\xff"), "exit 1: a\\u{1b}[31m\\xff");
        assert!(reason(&vec![b'x'; 100_000]).len() < 1100);
    }

    /// Goal: signals are named, and only KILL hints at memory. Method: one of each kind.
    #[test]
    fn signals_are_named() {
        let reason = |signal, oom| match of_signal(signal, oom) {
            Verdict::Failed(failure) => (failure.reason, failure.class, failure.signal),
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(11, false), ("killed by SIGSEGV".into(), FailClass::Crash, Some(11)));
        let (text, class, _) = reason(9, false);
        assert_eq!(text, "killed by SIGKILL, not by inboxd: out of memory?");
        assert_eq!(class, FailClass::Crash);
        assert_eq!(reason(9, true).1, FailClass::Oom);
        assert_eq!(reason(11, true).1, FailClass::Crash);
        assert_eq!(reason(36, false).0, "killed by SIGRTMIN+2");
        assert_eq!(reason(31, false).0, "killed by SIGSYS");
    }
}
