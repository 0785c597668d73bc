//! The end of a stream, in bounded memory.
//!
//! Must not know: what the bytes mean.
//!
//! Invariant: never holds more than twice its limit, however much passes through.

/// Keeps the last bytes of what it is given.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    limit: usize,
    /// Bytes that came and are no longer held.
    cut: u64,
}

impl Tail {
    /// Keeps the last `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, cut: 0 }
    }

    /// Appends. What is over the limit goes only when twice the limit is held, so that a byte is
    /// moved once on average.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > self.limit.saturating_mul(2) {
            self.shed();
        }
    }

    fn shed(&mut self) {
        let over = self.bytes.len().saturating_sub(self.limit);
        self.bytes.drain(..over);
        self.cut = self.cut.saturating_add(u64::try_from(over).unwrap_or(u64::MAX));
    }

    /// The end; where something was cut, a line in front says how much.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.shed();
        if self.cut == 0 {
            return self.bytes;
        }
        let mut marked = format!("[{} bytes cut here]\n", self.cut).into_bytes();
        marked.append(&mut self.bytes);
        marked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the end is kept whole and the cut is counted. Method: short, exact, and 1000 pieces.
    #[test]
    fn keeps_the_end_and_says_what_is_gone() {
        let mut short = Tail::new(4);
        short.push(b"abcd");
        assert_eq!(short.finish(), b"abcd");

        let mut long = Tail::new(4);
        for _ in 0..999 {
            long.push(b"xyz");
            assert!(long.bytes.len() <= 8);
        }
        long.push(b"end");
        assert_eq!(long.finish(), b"[2996 bytes cut here]\nzend");
    }
}
