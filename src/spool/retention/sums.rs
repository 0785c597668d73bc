//! Sums of sizes by time: what must go to make room, in bounded memory.
//!
//! Must not know: files.
//!
//! Invariant: spans are as narrow as the times that were added allow, and never narrower than a second.

/// Sums that are kept of sizes by time.
pub const BUCKETS: usize = 4096;

/// The same number, for times.
const SPANS: i64 = 4096;

pub(super) const SECOND_NS: i64 = 1_000_000_000;

/// Bytes by time, in [`BUCKETS`] equal spans.
pub(super) struct Sums {
    pub(super) from_ns: i64,
    pub(super) width_ns: i64,
    pub(super) bytes: Vec<u64>,
}

/// Everything before a span goes, and so many bytes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from_ns: i64,
    pub(super) width_ns: i64,
    pub(super) bytes: u64,
}

impl Sums {
    pub(super) fn new() -> Self {
        Self { from_ns: i64::MAX, width_ns: SECOND_NS, bytes: vec![0; BUCKETS] }
    }

    /// Finer, for what is at the edge.
    pub(super) fn within(edge: &Edge) -> Self {
        let width_ns = edge.width_ns / SPANS + 1;
        Self { from_ns: edge.from_ns, width_ns, bytes: vec![0; BUCKETS] }
    }

    pub(super) fn index(&self, at_ns: i64) -> Option<usize> {
        let since = at_ns.checked_sub(self.from_ns).filter(|since| *since >= 0)?;
        usize::try_from(since / self.width_ns).ok().filter(|index| *index < BUCKETS)
    }

    /// Adds what lies in the span, and nothing else.
    pub(super) fn add_within(&mut self, at_ns: i64, bytes: u64) {
        if let Some(sum) = self.index(at_ns).and_then(|index| self.bytes.get_mut(index)) {
            *sum += bytes;
        }
    }

    /// Adds it; the span grows until it lies in it.
    pub(super) fn add(&mut self, at_ns: i64, bytes: u64) {
        if self.from_ns == i64::MAX {
            self.from_ns = at_ns;
        }
        // Each turn doubles the span: 21 of them cover two centuries, all that a clock can say.
        while self.index(at_ns).is_none() && self.width_ns < i64::MAX / 2 / SPANS {
            self.widen(at_ns < self.from_ns);
        }
        self.add_within(at_ns, bytes);
    }

    pub(super) fn widen(&mut self, to_the_past: bool) {
        let half = BUCKETS / 2;
        let pairs = self.bytes.chunks(2).map(|pair| pair.iter().sum::<u64>());
        let mut merged: Vec<u64> = pairs.collect();
        if to_the_past {
            self.from_ns = self.from_ns.saturating_sub(self.width_ns * SPANS);
            merged.splice(0..0, vec![0; half]);
        } else {
            merged.resize(BUCKETS, 0);
        }
        self.width_ns *= 2;
        self.bytes = merged;
    }

    /// Where to stop so that at least `excess` bytes go.
    pub(super) fn edge(&self, excess: u64) -> Edge {
        let mut left = excess;
        let mut from_ns = self.from_ns;
        for sum in &self.bytes {
            if *sum >= left {
                break;
            }
            left -= sum;
            from_ns = from_ns.saturating_add(self.width_ns);
        }
        Edge { from_ns, width_ns: self.width_ns, bytes: left }
    }
}
