//! Job ids: a `UUIDv7` (RFC 9562) in 26 characters of Crockford base32, lower case.
//!
//! Must not know: the clock or a source of randomness; both are passed in.
//!
//! Invariant: [`JobId::next`] is above `last`, so ids never go back when the clock does.
//! The text sorts as the bytes do.

use std::fmt;
use std::str::FromStr;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The one id of a job: in names below `processing/`, in the journal, in `_job`, in `{job}`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u128);

/// Version 7, variant 10: the bits of a UUID that are not ours to choose.
const FIXED_MASK: u128 = 0xf << 76 | 0b11 << 62;
const FIXED_BITS: u128 = 0x7 << 76 | 0b10 << 62;
/// The counter of one millisecond: 12 bits, above the random ones.
const COUNT_MAX: u128 = 0xfff;
/// The random bits.
const RANDOM_MAX: u128 = (1 << 62) - 1;

impl JobId {
    /// The lowest id; no job has it.
    pub const MIN: Self = Self(FIXED_BITS);
    /// Characters of the text form.
    pub const TEXT_LEN: usize = 26;

    /// The id for a job born at `unix_ms`, above `last` whatever the clock says.
    ///
    /// Ids of one millisecond are told apart by a counter (RFC 9562, 6.2, method 1) and not by counting in
    /// the random bits, so that a few characters after the time tell them apart for people, too.
    #[must_use]
    pub fn next(last: Self, unix_ms: u64, random: [u8; 10]) -> Self {
        let now = u128::from(unix_ms & 0xffff_ffff_ffff);
        let (last_ms, last_count) = (last.0 >> 80, last.0 >> 64 & COUNT_MAX);
        let (ms, count) = match (now > last_ms, last_count < COUNT_MAX) {
            (true, _) => (now, 0),
            (false, true) => (last_ms, last_count + 1),
            // 4096 in one millisecond: the next ones are of a millisecond that is still to come.
            (false, false) => ((last_ms + 1) & 0xffff_ffff_ffff, 0),
        };
        let mut low = [0u8; 16];
        if let Some(tail) = low.get_mut(6..) {
            tail.copy_from_slice(&random);
        }
        let random = u128::from_be_bytes(low) & RANDOM_MAX;
        Self(ms << 80 | count << 64 | random | FIXED_BITS)
    }

    /// When the job was born, in Unix milliseconds.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0 >> 80).unwrap_or(u64::MAX)
    }

    /// The number itself, for hashing (backoff jitter).
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; Self::TEXT_LEN];
        let mut rest = self.0;
        for slot in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or_default();
            *slot = ALPHABET.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the form of a job id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a job id: 26 characters of 0-9 and a-z without i, l, o, u")]
pub struct NotAJobId;

impl FromStr for JobId {
    type Err = NotAJobId;

    fn from_str(text: &str) -> Result<Self, NotAJobId> {
        if text.len() != Self::TEXT_LEN {
            return Err(NotAJobId);
        }
        let mut value: u128 = 0;
        for (at, c) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|a| *a == c).ok_or(NotAJobId)?;
            // 26 digits hold 130 bits: the first may only use three of its five.
            if at == 0 && digit > 7 {
                return Err(NotAJobId);
            }
            value = value << 5 | u128::try_from(digit).map_err(|_| NotAJobId)?;
        }
        if value & FIXED_MASK == FIXED_BITS { Ok(Self(value)) } else { Err(NotAJobId) }
    }
}

impl serde::Serialize for JobId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for JobId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: ids only rise, whatever the clock does, and survive their text form.
        /// Method: random clocks and randomness, also stuck at all ones, so that the count carries.
        #[test]
        fn ids_rise_and_round_trip(steps in proptest::collection::vec((0u64..1 << 48, any::<[u8; 10]>()), 1..50), full in any::<bool>()) {
            let mut last = JobId::MIN;
            for (ms, random) in steps {
                let random = if full { [0xff; 10] } else { random };
                let id = JobId::next(last, ms, random);
                prop_assert!(id > last);
                prop_assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
                prop_assert!(id.to_string() > last.to_string());
                last = id;
            }
        }

        /// Goal: nothing but an id parses as one. Method: random text of the right length.
        #[test]
        fn other_text_is_refused_or_round_trips(text in "[0-9a-z]{26}") {
            if let Ok(id) = text.parse::<JobId>() { prop_assert_eq!(id.to_string(), text); }
        }
    }

    /// Goal: nothing that is longer or shorter than an id is one, nor other numbers. Method: an id with a zero
    /// before it, which would be the same number, and one without its own first zero; one of more bits than there
    /// are, and one of no version.
    #[test]
    fn an_id_has_its_length() {
        let id = JobId::next(JobId::MIN, 1_767_225_600_000, [7; 10]).to_string();
        assert!(id.starts_with('0') && id.parse::<JobId>().is_ok(), "{id}");
        // With an eighth as its first digit it would be the same number again, had that room for 130 bits.
        let beyond = format!("8{}", &id[1..]);
        let other_version = "0".repeat(JobId::TEXT_LEN);
        for text in [format!("0{id}"), id[1..].to_owned(), beyond, other_version, String::new()] {
            assert_eq!(text.parse::<JobId>(), Err(NotAJobId), "{text}");
        }
    }

    /// Goal: ids stay in their millisecond until its count is used up, and never run ahead of the clock for
    /// less. Method: a clock that stands, for as many ids as a count holds, and then one more.
    #[test]
    fn a_millisecond_holds_its_count() {
        let mut last = JobId::next(JobId::MIN, 5, [7; 10]);
        for at in 1..=COUNT_MAX {
            let id = JobId::next(last, 5, [7; 10]);
            assert!(id > last && id.unix_ms() == 5, "{at}: {id}");
            last = id;
        }
        let id = JobId::next(last, 5, [7; 10]);
        assert!(id > last && id.unix_ms() == 6, "{id}");
    }

    /// Goal: the id carries its birth. Method: one known time.
    #[test]
    fn birth_is_kept() {
        assert_eq!(
            JobId::next(JobId::MIN, 1_767_225_600_000, [7; 10]).unix_ms(),
            1_767_225_600_000
        );
    }
}
