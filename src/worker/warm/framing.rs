//! Framing: from the bytes of a worker to its lines, in bounded memory.
//!
//! Must not know: JSON, what a line means, where the bytes come from.
//!
//! Invariants
//! - A line longer than the limit is discarded to its LF as it comes; the reader never stalls.
//! - Pieces may be cut anywhere; the lines are the same.

use std::collections::VecDeque;

use crate::config::limits;

/// One line of the worker, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// All of it; not empty.
    Line(Vec<u8>),
    /// Longer than the limit: its first bytes.
    TooLong(Vec<u8>),
}

/// Cuts bytes into lines.
#[derive(Debug)]
pub(super) struct Frames {
    /// Lines stand behind a byte 0x1E, and all else is text.
    is_mixed: bool,
    /// `is_mixed`: a record has begun and not ended.
    in_record: bool,
    line: Vec<u8>,
    /// The line is over its limit; only its beginning is kept.
    is_over: bool,
    ready: VecDeque<Frame>,
}

/// Begins a record among other text. It cannot occur raw in JSON.
const RECORD: u8 = 0x1e;

impl Frames {
    /// Every line is one of the protocol.
    pub(super) fn pure() -> Self {
        let ready = VecDeque::new();
        Self { is_mixed: false, in_record: false, line: Vec::new(), is_over: false, ready }
    }

    /// Lines behind 0x1E are of the protocol, the rest is for the log.
    pub(super) fn mixed() -> Self {
        Self { is_mixed: true, ..Self::pure() }
    }

    /// Takes what was read. Text that is no record goes to `log`.
    pub(super) fn hear(&mut self, mut bytes: &[u8], log: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            if self.is_mixed && !self.in_record {
                let Some(at) = bytes.iter().position(|b| *b == RECORD) else { return log(bytes) };
                let (text, rest) = bytes.split_at(at);
                if !text.is_empty() {
                    log(text);
                }
                bytes = rest.get(1..).unwrap_or_default();
                self.in_record = true;
                continue;
            }
            let is_mixed = self.is_mixed;
            let end = bytes.iter().position(|b| *b == b'\n' || (is_mixed && *b == RECORD));
            let Some((at, last)) = end.and_then(|at| Some((at, *bytes.get(at)?))) else {
                return self.push(bytes);
            };
            let (line, rest) = bytes.split_at(at);
            self.push(line);
            bytes = rest.get(1..).unwrap_or_default();
            if last == RECORD {
                // What began as a record and is cut by the next one was text.
                log(&std::mem::take(&mut self.line));
                self.is_over = false;
                continue;
            }
            self.in_record = false;
            self.end_line();
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_over {
            return;
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > limits::WORKER_LINE {
            self.is_over = true;
            self.line.truncate(limits::WORKER_QUOTED);
            self.line.shrink_to_fit();
        }
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.is_over) {
            self.ready.push_back(Frame::TooLong(line));
            return;
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if !line.is_empty() {
            self.ready.push_back(Frame::Line(line));
        }
    }

    /// The next whole line.
    pub(super) fn next(&mut self) -> Option<Frame> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(mut frames: Frames, bytes: &[u8], piece: usize) -> (Vec<Frame>, Vec<u8>) {
        let mut log = Vec::new();
        for part in bytes.chunks(piece.max(1)) {
            frames.hear(part, &mut |text| log.extend_from_slice(text));
        }
        (std::iter::from_fn(|| frames.next()).collect(), log)
    }

    /// Goal: lines as the protocol has them. Method: LF, CRLF, empty lines, an end without LF.
    #[test]
    fn lines() {
        let (frames, log) = cut(Frames::pure(), b"a\r\n\n\r\nb\x1e\nrest", 3);
        assert_eq!(frames, [Frame::Line(b"a".to_vec()), Frame::Line(b"b\x1e".to_vec())]);
        assert_eq!(log, b"");
    }

    /// Goal: noise on stdout harms nothing. Method: text before, behind and inside a record.
    #[test]
    fn records_among_text() {
        let (frames, log) =
            cut(Frames::mixed(), b"loading 10%\x1e{\"t\":1}\nnoise\n\x1ehalf\x1e{}\nend", 4);
        assert_eq!(frames, [Frame::Line(b"{\"t\":1}".to_vec()), Frame::Line(b"{}".to_vec())]);
        assert_eq!(log, b"loading 10%noise\nhalfend");
    }

    /// Goal: a line too long costs no memory and not the next line. Method: one of 3 limits' length.
    #[test]
    fn too_long_a_line_is_discarded_to_its_end() {
        let mut bytes = vec![b'x'; 3 * limits::WORKER_LINE];
        bytes.extend_from_slice(b"\nnext\n");
        let mut frames = Frames::pure();
        for part in bytes.chunks(65536) {
            frames.hear(part, &mut |_| ());
            assert!(frames.line.len() <= limits::WORKER_LINE);
        }
        let quoted = vec![b'x'; limits::WORKER_QUOTED];
        assert_eq!(frames.next(), Some(Frame::TooLong(quoted)));
        assert_eq!(frames.next(), Some(Frame::Line(b"next".to_vec())));
        let exact = [vec![b'y'; limits::WORKER_LINE], b"\n".to_vec()].concat();
        assert!(matches!(cut(Frames::pure(), &exact, 4096).0.as_slice(), [Frame::Line(_)]));
    }

    proptest! {
        /// Goal: where bytes are cut does not matter. Method: random bytes, whole and in pieces.
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\n'), Just(0x1e), Just(b'\r'), any::<u8>()], 0..60), piece in 1usize..9)
        {
            for make in [Frames::pure, Frames::mixed] {
                let whole = cut(make(), &bytes, 1000);
                prop_assert_eq!(whole, cut(make(), &bytes, piece));
            }
        }
    }
}
