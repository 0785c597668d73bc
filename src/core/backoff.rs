//! How long a job waits before it runs again. Pure arithmetic on milliseconds.
//!
//! Must not know: the clock; randomness (the jitter comes from the job's id, so a replay waits the same).

use super::{FailClass, Failure, JobId};

/// How long the further attempts of a route's jobs wait, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Waits of the budget *try again*; the last one repeats.
    pub try_again_ms: Vec<u64>,
    /// First wait of the other budgets; it doubles with each failure …
    pub first_ms: u64,
    /// … up to this.
    pub longest_ms: u64,
    /// Each wait is so much shorter or longer at most, so that jobs that failed together do not come back
    /// together.
    pub jitter_percent: u64,
}

/// The first wait of an incomplete file.
const INCOMPLETE_FIRST_MS: u64 = 1_000;
/// An incomplete file is looked at at least this often.
const INCOMPLETE_LONGEST_MS: u64 = 10 * 60_000;
/// What a worker or its server asks for is kept up to a day: some say "in the year 9999" and mean "not now".
const ASKED_LONGEST_MS: u64 = 24 * 60 * 60_000;

/// The wait after the `nth` failure (from 1) of a class, in milliseconds.
///
/// A wait that the worker asked for is kept as a floor, without jitter: it knows its server.
pub fn after_failure(job: JobId, failure: &Failure, nth: u32, rules: &Backoff) -> u64 {
    let doubled = |first: u64| first.saturating_mul(1 << nth.saturating_sub(1).min(20));
    let wait = match failure.class {
        // Nobody is to blame yet, and the machine has just had its pause.
        FailClass::Lost => return 0,
        FailClass::TryAgain => {
            let at = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
            let waits = &rules.try_again_ms;
            waits.get(at).or(waits.last()).copied().unwrap_or(rules.first_ms)
        }
        _ => doubled(rules.first_ms).min(rules.longest_ms),
    };
    let asked = failure.retry_after_ms.unwrap_or(0).min(ASKED_LONGEST_MS);
    jittered(job, nth, wait, rules.jitter_percent).max(asked)
}

/// The wait of a file that has been incomplete for `for_ms`: half as long again as it has waited.
pub fn after_incomplete(for_ms: u64, asked_ms: Option<u64>) -> u64 {
    let wait = (for_ms / 2).clamp(INCOMPLETE_FIRST_MS, INCOMPLETE_LONGEST_MS);
    wait.max(asked_ms.unwrap_or(0).min(INCOMPLETE_LONGEST_MS))
}

/// `wait` and at most so many percent less or more.
fn jittered(job: JobId, nth: u32, wait: u64, percent: u64) -> u64 {
    // splitmix64's finisher over id and attempt: even bits from uneven ones.
    let low = u64::try_from(job.as_u128() & u128::from(u64::MAX)).unwrap_or(0);
    let mut x = low ^ u64::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let percent = percent.min(100);
    let factor = 100 - percent + (x ^ (x >> 31)) % (2 * percent + 1);
    wait.saturating_mul(factor) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Backoff {
        Backoff {
            try_again_ms: vec![10_000, 60_000, 300_000],
            first_ms: 1_000,
            longest_ms: 300_000,
            jitter_percent: 20,
        }
    }

    /// Goal: waits grow, stay near their list, and end. Method: each class, the first and a late failure; each
    /// place of the list, and one past its end.
    #[test]
    fn waits_grow_and_are_bounded() {
        let job = JobId::next(JobId::MIN, 5, [3; 10]);
        let fail = Failure::new(FailClass::Fail, "x");
        let first = after_failure(job, &fail, 1, &rules());
        assert!((800..=1_200).contains(&first), "{first}");
        let late = after_failure(job, &fail, 40, &rules());
        assert!((240_000..=360_000).contains(&late), "{late}");
        let again = Failure::new(FailClass::TryAgain, "x");
        for (nth, expected) in [(1, 10_000), (2, 60_000), (3, 300_000), (9, 300_000)] {
            let wait = after_failure(job, &again, nth, &rules());
            assert!((expected * 8 / 10..=expected * 12 / 10).contains(&wait), "{nth}: {wait}");
        }
        assert_eq!(after_failure(job, &Failure::new(FailClass::Lost, "x"), 1, &rules()), 0);
    }

    /// Goal: the jitter is as wide as the route says, and no wider. Method: many jobs, three widths.
    #[test]
    fn jitter_is_as_wide_as_asked() {
        let fail = Failure::new(FailClass::Fail, "x");
        for percent in [0, 20, 100] {
            let rules = Backoff { jitter_percent: percent, ..rules() };
            let jobs = (0..400u64).map(|at| {
                JobId::next(JobId::MIN, at, at.to_be_bytes().repeat(2)[..10].try_into().unwrap())
            });
            let waits: Vec<u64> = jobs.map(|job| after_failure(job, &fail, 1, &rules)).collect();
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*least >= 1_000 - 10 * percent && *most <= 1_000 + 10 * percent, "{percent}");
            assert!(most - least >= 15 * percent, "{percent}: {least} to {most}");
        }
    }

    /// Goal: what a server asks for is a floor, and no job waits for ever. Method: a short list and a long
    /// Retry-After, and one for the year 9999.
    #[test]
    fn retry_after_is_a_floor() {
        let job = JobId::next(JobId::MIN, 5, [3; 10]);
        let rules = Backoff { try_again_ms: vec![1], ..rules() };
        for (asked, waited) in [(7_777, 7_777), (250_000_000_000_000, 86_400_000)] {
            let mut again = Failure::new(FailClass::TryAgain, "x");
            again.retry_after_ms = Some(asked);
            assert_eq!(after_failure(job, &again, 1, &rules), waited);
        }
    }

    /// Goal: an incomplete file is asked ever more slowly. Method: one second, one minute, one day.
    #[test]
    fn incomplete_waits_grow() {
        assert_eq!(after_incomplete(0, None), 1_000);
        assert_eq!(after_incomplete(60_000, None), 30_000);
        assert_eq!(after_incomplete(86_400_000, None), 600_000);
    }
}
