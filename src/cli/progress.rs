//! The progress bar of `batch`: files, and, where a file is many tasks, how far it is.
//!
//! Must not know: where the numbers come from.
//!
//! Invariants
//! - On nothing but a terminal it is silent.
//! - One large file moves the bar as well as many small ones do.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::show;
use crate::daemon::keeper::OpenInputs;

/// Of whole files.
const FILES: &str = "{wide_bar} {human_pos} of {human_len}   {a_second}   {eta} left";
/// Of files that are read on record by record; the text is ours.
const INPUTS: &str = "{wide_bar} {msg}   {eta} left";
/// Parts of a file, where it is told how far it is.
const PARTS: u64 = 1_000;

/// See the module.
pub(super) struct Bar {
    drawn: ProgressBar,
    finished: u64,
    /// As far as they are known.
    files: u64,
    /// It counts [`PARTS`] of files.
    has_parts: bool,
}

impl Bar {
    /// Shown on standard error, if that is a terminal.
    pub(super) fn new() -> Self {
        let drawn = ProgressBar::no_length();
        if !std::io::stderr().is_terminal() {
            drawn.set_draw_target(ProgressDrawTarget::hidden());
        }
        let bar = Self { drawn, finished: 0, files: 0, has_parts: false };
        bar.look(FILES);
        bar
    }

    fn look(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            let a_second = |state: &ProgressState, to: &mut dyn std::fmt::Write| {
                write!(to, "{:.1}/s", state.per_sec()).unwrap_or(());
            };
            self.drawn.set_style(style.with_key("a_second", a_second));
        }
    }

    /// There are so many files.
    pub(super) fn files(&mut self, files: u64) {
        self.files = files;
        self.drawn.set_length(if self.has_parts { files.saturating_mul(PARTS) } else { files });
    }

    /// So many of them are over.
    pub(super) fn finished(&mut self, finished: u64) {
        self.finished = finished;
        // With parts it is told soon how far all are.
        if !self.has_parts {
            self.drawn.set_position(finished);
        }
    }

    /// How far the files are that are read on, of so many that are known and not over.
    pub(super) fn inputs(&mut self, open: &OpenInputs, known: u64) {
        let has_parts = open.count > 0;
        if has_parts != self.has_parts {
            self.has_parts = has_parts;
            self.look(if has_parts { INPUTS } else { FILES });
            self.drawn.reset_eta();
        }
        if !has_parts {
            if self.files > 0 {
                self.drawn.set_length(self.files);
            }
            return self.drawn.set_position(self.finished);
        }
        let files = self.files.max(self.finished.saturating_add(known));
        let read = u128::from(open.bytes) * u128::from(open.count) * u128::from(PARTS);
        let read = read.checked_div(u128::from(open.size)).unwrap_or_default();
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        self.drawn.set_length(files.saturating_mul(PARTS));
        self.drawn.set_position(self.finished.saturating_mul(PARTS).saturating_add(read));
        self.drawn.set_message(format!(
            "{} of {}   {}   {} of {} read",
            show::count(self.finished),
            show::plural(files, "file", "files"),
            show::plural(open.recorded, "record", "records"),
            show::size(open.bytes),
            show::size(open.size),
        ));
    }

    /// Prints something above it.
    pub(super) fn above(&self, print: impl FnOnce()) {
        self.drawn.suspend(print);
    }

    /// It goes.
    pub(super) fn end(&self) {
        self.drawn.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one large file is not 0 of 1 to its end, and whole files are counted as ever. Method: the numbers of a
    /// bar that nobody sees, file by file and half a file further.
    #[test]
    fn a_large_file_moves_the_bar() {
        let mut bar = Bar::new();
        bar.drawn.set_draw_target(ProgressDrawTarget::hidden());
        let shown = |bar: &Bar| (bar.drawn.position(), bar.drawn.length());
        bar.files(3);
        bar.finished(1);
        assert_eq!(shown(&bar), (1, Some(3)));
        let open = OpenInputs { count: 1, recorded: 1_200, bytes: 512 << 10, size: 1 << 20 };
        bar.inputs(&open, 2);
        assert_eq!(shown(&bar), (1_500, Some(3_000)));
        assert_eq!(bar.drawn.message(), "1 of 3 files   1,200 records   512 KiB of 1.0 MiB read");
        let both = OpenInputs { count: 2, ..open };
        bar.inputs(&both, 2);
        assert_eq!(shown(&bar), (2_000, Some(3_000)));
        bar.finished(3);
        bar.inputs(&OpenInputs::default(), 0);
        assert_eq!(shown(&bar), (3, Some(3)));
        // Files in incoming/ are not counted before they are known; an empty input is no fraction.
        let mut bar = Bar::new();
        bar.inputs(&OpenInputs { count: 1, ..OpenInputs::default() }, 1);
        assert_eq!(shown(&bar), (0, Some(1_000)));
    }
}
