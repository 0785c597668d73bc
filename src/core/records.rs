//! The records of one input, where each is a task of its own: which are over, which are on their way.
//!
//! Must not know: what a record says, where it stands in its file, slots, other jobs.
//!
//! Invariants
//! - A record is over once: then it is in [`Progress`], and never in the window again.
//! - Every number up to the highest that was read is over, or in the window, or waits in `past`.
//! - Memory is bounded: the window has at most so many records, and what is over is kept as compressed
//!   sets, one bit a record at worst.
//!
//! # When the daemon dies
//!
//! Which records were in flight is not written down for each: that would cost a second line a record. So
//! a loss accuses all that may have been, and only then the lines become exact:
//! - After one loss the records run again, as many at once as before.
//! - A loss that meets the same records a second time makes them suspects: those that are not over and lie
//!   below [`Loss::below`]. They run alone, one at a time, each after a line that says so is durable. Those are
//!   all that may have been in flight at any of these losses: one of the first may only have waited since, and
//!   the one that took the daemon down be far behind it.
//! - A loss after such a line is charged to that record, and to no other. Its budget is `lost`.
//! - A loss without one, and without any progress since the last, is charged to the whole input: then it
//!   is the file itself that takes the daemon down.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::Spent;
use super::state::Millis;

/// What an input was when its first record was begun. Another size or time is another input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputMark {
    /// Inode.
    pub ino: u64,
    /// Birth, Unix nanoseconds, 0 if unknown.
    pub btime_ns: i64,
    /// Bytes.
    pub size: u64,
    /// Unix nanoseconds.
    pub mtime_ns: i64,
}

/// Where a record begins in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Records before it.
    pub records: u64,
    /// Bytes before it.
    pub offset: u64,
    /// Lines before it.
    pub lines: u64,
}

/// What is recorded of an input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// All records up to this number are over.
    low: u64,
    /// Those beyond it that are over.
    above: RoaringTreemap,
    /// Those that failed, of all.
    failed: RoaringTreemap,
}

/// Numbers of one compressed set that a journal line holds: at worst a bit for each.
const SET_NUMBERS: u64 = 1 << 22;

impl Progress {
    /// From what a checkpoint wrote; [`Progress::add_set`] adds the rest.
    pub fn up_to(low: u64) -> Self {
        Self { low, ..Self::default() }
    }

    /// Whether a record is over.
    pub fn contains(&self, no: u64) -> bool {
        no <= self.low || self.above.contains(no)
    }

    /// A record is over. `false`: it was so before.
    pub fn record(&mut self, no: u64, failed: bool) -> bool {
        if self.contains(no) {
            return false;
        }
        if failed {
            self.failed.insert(no);
        }
        if no == self.low.saturating_add(1) {
            self.low = no;
            while !self.above.is_empty() && self.above.remove(self.low.saturating_add(1)) {
                self.low = self.low.saturating_add(1);
            }
        } else {
            self.above.insert(no);
        }
        true
    }

    /// All records up to this number are over.
    pub fn low(&self) -> u64 {
        self.low
    }

    /// How many are over.
    pub fn recorded(&self) -> u64 {
        self.low.saturating_add(self.above.len())
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failed.len()
    }

    /// Whether a record failed.
    pub fn has_failed(&self, no: u64) -> bool {
        self.failed.contains(no)
    }

    /// The failed records, to look at while it goes on.
    pub fn failed_set(&self) -> RoaringTreemap {
        self.failed.clone()
    }

    /// The highest number that is over.
    pub fn highest(&self) -> u64 {
        self.above.max().unwrap_or(self.low)
    }

    /// The sets in pieces for journal lines: whether of the failed ones, and the bytes.
    pub fn sets(&self) -> Vec<(bool, Vec<u8>)> {
        let mut sets = Vec::new();
        for (is_failed, set) in [(false, &self.above), (true, &self.failed)] {
            let (Some(least), Some(most)) = (set.min(), set.max()) else { continue };
            for part in least / SET_NUMBERS..=most / SET_NUMBERS {
                let mut numbers = RoaringTreemap::new();
                let begin = part.saturating_mul(SET_NUMBERS);
                numbers.insert_range(begin..begin.saturating_add(SET_NUMBERS));
                numbers &= set;
                let mut bytes = Vec::with_capacity(numbers.serialized_size());
                // Writing into memory cannot fail.
                if !numbers.is_empty() && numbers.serialize_into(&mut bytes).is_ok() {
                    sets.push((is_failed, bytes));
                }
            }
        }
        sets
    }

    /// Adds what [`Progress::sets`] gave. `false`: these are no such bytes.
    pub fn add_set(&mut self, is_failed: bool, bytes: &[u8]) -> bool {
        let Ok(numbers) = RoaringTreemap::deserialize_from(bytes) else { return false };
        let set = if is_failed { &mut self.failed } else { &mut self.above };
        *set |= numbers;
        true
    }
}

/// What a loss of the daemon under an input leaves for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Records that were over then.
    pub recorded: u64,
    /// Records below this number, and not over, may have been in flight.
    pub below: u64,
}

/// An attempt at a record that did not end it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Attempts begun.
    pub begun: u32,
    /// All that it spent.
    pub spent: Spent,
    /// Not before.
    pub not_before: Millis,
}

/// What the journal says of the records of an input that is taken up again.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// What is over.
    pub progress: Progress,
    /// Records that were tried and are not over.
    pub tried: BTreeMap<u64, Tried>,
    /// The record that was running alone: `begun` counts the attempt that was lost.
    pub alone: Option<(u64, Tried)>,
    /// What the last loss left.
    pub loss: Option<Loss>,
}

/// Where a record is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// May start.
    Ready,
    /// Not before a time.
    Waiting(Millis),
    /// That it runs alone is being recorded.
    Announcing,
    /// That is durable: it starts next.
    Announced,
    /// A slot has it.
    Running,
    /// The end of an attempt is being recorded; then it waits until the time.
    RecordingAttempt(Millis),
    /// Its outcome is being recorded.
    RecordingOutcome,
}

/// A record in the window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slip {
    pub(super) phase: Phase,
    pub(super) begun: u32,
    pub(super) spent: Spent,
    /// The keeper has its text. Else it is here only to be recorded.
    pub(super) is_read: bool,
}

/// The records of an input that are on their way.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    pub(super) progress: Progress,
    pub(super) slips: BTreeMap<u64, Slip>,
    /// Of these, `Phase::Ready`.
    pub(super) ready: BTreeSet<u64>,
    /// Tried before and not read again.
    pub(super) past: BTreeMap<u64, Tried>,
    pub(super) loss: Option<Loss>,
    /// Records were asked for and have not come.
    pub(super) reading: bool,
    /// Some of them have come, or none yet, and the rest takes long: nobody waits for it.
    pub(super) reads_long: bool,
    /// No more bytes are taken before a record is over.
    pub(super) is_full: bool,
    /// There are no more.
    pub(super) at_end: bool,
    /// The input cannot be read on, and why.
    pub(super) broken: Option<super::Failure>,
    /// Lots that slots have.
    pub(super) lots: usize,
    /// Waiting for the journal.
    pub(super) recording: usize,
    /// Microseconds that a record takes, smoothed; 0: not known.
    pub(super) pace_us: u64,
}

impl Window {
    pub(super) fn new(past: Past) -> Self {
        Self { progress: past.progress, past: past.tried, loss: past.loss, ..Self::default() }
    }

    /// Whether records should be read now, for a window of so many.
    pub(super) fn wants_records(&self, window: usize) -> bool {
        !self.at_end
            && !self.reading
            && !self.is_full
            && self.broken.is_none()
            && self.slips.len() <= window / 2
    }

    /// Records of it could start now. Of a broken input none does, also where an attempt comes back late.
    pub(super) fn has_ready(&self) -> bool {
        self.broken.is_none() && !self.ready.is_empty()
    }

    /// Nothing of it runs or waits for the journal.
    pub(super) fn is_still(&self) -> bool {
        self.lots == 0 && self.recording == 0
    }

    /// Every record is over, or never will be.
    pub(super) fn is_over(&self) -> bool {
        let is_done = self.at_end && self.slips.is_empty();
        self.is_still() && !self.reading && (is_done || self.broken.is_some())
    }

    /// Records below this number run alone; 0: none does.
    pub(super) fn suspects_below(&self, lost: u32) -> u64 {
        let below = self.loss.map_or(0, |loss| loss.below);
        if lost >= 2 && self.progress.low.saturating_add(1) < below { below } else { 0 }
    }

    /// The next records for a slot, at most `most` of them. One that was tried before goes by itself.
    pub(super) fn take_lot(&mut self, most: usize) -> Vec<(u64, u32)> {
        let mut lot = Vec::new();
        while lot.len() < most {
            let Some(no) = self.ready.first().copied() else { break };
            let Some(slip) = self.slips.get_mut(&no) else { break };
            if slip.begun > 0 && !lot.is_empty() {
                break;
            }
            self.ready.remove(&no);
            slip.begun = slip.begun.saturating_add(1);
            slip.phase = Phase::Running;
            lot.push((no, slip.begun));
            if slip.begun > 1 {
                break;
            }
        }
        self.lots += usize::from(!lot.is_empty());
        lot
    }

    /// How many records a slot gets, so that it is back after about `lot_us` microseconds.
    pub(super) fn lot_size(&self, lot_us: u64, most: usize) -> usize {
        if self.pace_us == 0 {
            return 1;
        }
        usize::try_from(lot_us / self.pace_us).unwrap_or(most).clamp(1, most)
    }

    pub(super) fn note_pace(&mut self, took_us: u64) {
        let took = took_us.max(1);
        self.pace_us = if self.pace_us == 0 { took } else { (self.pace_us * 7 + took) / 8 };
    }

    /// Forgets what was read, once nothing of it is on its way: it is read again.
    pub(super) fn close(&mut self) {
        for (no, slip) in &self.slips {
            if slip.begun > 0 {
                let not_before = match slip.phase {
                    Phase::Waiting(at) => at,
                    _ => 0,
                };
                let (begun, spent) = (slip.begun, slip.spent);
                self.past.insert(*no, Tried { begun, spent, not_before });
            }
        }
        self.slips.clear();
        self.ready.clear();
        self.at_end = false;
        self.is_full = false;
        self.reading = false;
        self.reads_long = false;
    }

    /// What a loss of the daemon means: the input's charge, given its charges so far.
    pub(super) fn charge_loss(&mut self, charged: u32, window: u64) -> u32 {
        let (low, recorded) = (self.progress.low, self.progress.recorded());
        // All of a window may have been in flight behind the last that is over.
        let below = self.progress.highest().saturating_add(window).saturating_add(1);
        let (charge, below) = match self.loss {
            // None of those that may have been in flight then are on their way still.
            Some(before) if low.saturating_add(1) >= before.below => (1, below),
            Some(before) if recorded > before.recorded => {
                (charged.saturating_add(1).min(2), before.below.max(below))
            }
            Some(before) => (charged.saturating_add(1), before.below.max(below)),
            None => (1, below),
        };
        self.loss = Some(Loss { recorded, below });
        charge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Goal: what is over is known exactly, in any order, and survives a checkpoint's lines.
        /// Method: random numbers, twice too, against a plain set; then through the pieces.
        #[test]
        fn progress_is_a_set(numbers in prop::collection::vec((1u64..60, any::<bool>()), 0..80), far: bool) {
            let mut progress = Progress::default();
            let mut model = BTreeMap::new();
            let at = |no: u64| if far && no > 40 { no + 3 * SET_NUMBERS } else { no };
            for (number, failed) in numbers {
                let no = at(number);
                let is_new = !model.contains_key(&no);
                prop_assert_eq!(progress.record(no, failed), is_new);
                model.entry(no).or_insert(failed);
            }
            let mut again = Progress::up_to(progress.low());
            for (is_failed, bytes) in progress.sets() {
                prop_assert!(again.add_set(is_failed, &bytes));
            }
            prop_assert_eq!(&again, &progress);
            for no in (1..60).map(at) {
                prop_assert_eq!(progress.contains(no), model.contains_key(&no));
                prop_assert_eq!(progress.has_failed(no), model.get(&no) == Some(&true));
            }
            prop_assert_eq!(progress.recorded(), model.len() as u64);
            prop_assert_eq!(progress.failed(), model.values().filter(|failed| **failed).count() as u64);
            prop_assert!(!progress.contains(progress.low() + 1));
            prop_assert_eq!(progress.highest(), model.keys().max().copied().unwrap_or(0));
        }
    }

    /// Goal: bytes that are no set are refused. Method: some.
    #[test]
    fn other_bytes_are_no_set() {
        assert!(!Progress::default().add_set(true, b"nonsense"));
    }

    /// Goal: losses far from each other accuse nobody; at the same place they make suspects; without any
    /// progress they are the input's. Method: losses with more and more records over.
    #[test]
    fn losses_accuse_those_in_flight() {
        let mut window = Window::default();
        let advance = |window: &mut Window, to: u64| {
            for no in window.progress.low() + 1..=to {
                window.progress.record(no, false);
            }
        };
        assert_eq!(window.charge_loss(0, 10), 1);
        assert_eq!(window.suspects_below(1), 0);
        advance(&mut window, 100);
        assert_eq!(window.charge_loss(1, 10), 1, "far from the last");
        assert_eq!(
            window.loss,
            Some(Loss { recorded: 100, below: 111 }),
            "101 to 110 may have run"
        );
        advance(&mut window, 101);
        assert_eq!(window.charge_loss(1, 10), 2, "the same records");
        assert_eq!(window.suspects_below(2), 112);
        advance(&mut window, 102);
        assert_eq!(window.charge_loss(2, 10), 2, "it goes on");
        assert_eq!(window.charge_loss(2, 10), 3, "it does not");
        advance(&mut window, 111);
        assert_eq!(window.suspects_below(3), 113, "112 may have run");
        advance(&mut window, 112);
        assert_eq!(window.suspects_below(3), 0, "all suspects are over");
        assert_eq!(window.charge_loss(3, 10), 1);
    }

    /// Goal: a slot gets as many records as take about the time that is wanted, tried ones by themselves.
    /// Method: a window of ten, the fourth tried before.
    #[test]
    fn lots_follow_the_pace() {
        let mut window = Window::default();
        for no in 1..=10 {
            let begun = u32::from(no == 4);
            let (phase, spent) = (Phase::Ready, Spent::default());
            window.slips.insert(no, Slip { phase, begun, spent, is_read: true });
            window.ready.insert(no);
        }
        assert_eq!(window.lot_size(5_000, 64), 1);
        window.note_pace(1_000);
        assert_eq!(window.lot_size(5_000, 64), 5);
        assert_eq!(window.take_lot(5), [(1, 1), (2, 1), (3, 1)]);
        assert_eq!(window.take_lot(5), [(4, 2)]);
        assert_eq!(window.take_lot(64).len(), 6);
        assert_eq!((window.take_lot(64).len(), window.lots), (0, 3));
        window.note_pace(10_000_000);
        assert_eq!(window.lot_size(5_000, 64), 1);
    }
}
