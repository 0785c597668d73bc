//! How long a job waits before it runs again. Pure arithmetic on milliseconds.
//!
//! Must not know: the clock; randomness (the jitter comes from the job's id, so a replay waits the same).

use super::{FailClass, Failure, JobId};

/// First wait of the budgets that have no list of their own; it doubles with each failure.
const FIRST_MS: u64 = 1_000;
/// No wait of such a budget is longer.
const LONGEST_MS: u64 = 5 * 60_000;
/// The first wait of an incomplete file.
const INCOMPLETE_FIRST_MS: u64 = 1_000;
/// An incomplete file is looked at at least this often.
const INCOMPLETE_LONGEST_MS: u64 = 10 * 60_000;

/// The wait after the `nth` failure (from 1) of a class, in milliseconds.
///
/// A wait that the worker asked for is kept as a floor, without jitter: it knows its server.
pub fn after_failure(job: JobId, failure: &Failure, nth: u32, try_again_ms: &[u64]) -> u64 {
    let wait = match failure.class {
        // Nobody is to blame yet, and the machine has just had its pause.
        FailClass::Lost => return 0,
        FailClass::TryAgain => {
            let at = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
            try_again_ms.get(at).or(try_again_ms.last()).copied().unwrap_or(FIRST_MS)
        }
        _ => FIRST_MS.saturating_mul(1 << nth.saturating_sub(1).min(20)).min(LONGEST_MS),
    };
    jittered(job, nth, wait).max(failure.retry_after_ms.unwrap_or(0))
}

/// The wait of a file that has been incomplete for `for_ms`: half as long again as it has waited.
pub fn after_incomplete(for_ms: u64, asked_ms: Option<u64>) -> u64 {
    let wait = (for_ms / 2).clamp(INCOMPLETE_FIRST_MS, INCOMPLETE_LONGEST_MS);
    wait.max(asked_ms.unwrap_or(0).min(INCOMPLETE_LONGEST_MS))
}

/// Between 80 and 120 % of `wait`, so that jobs that failed together do not come back together.
fn jittered(job: JobId, nth: u32, wait: u64) -> u64 {
    // splitmix64's finisher over id and attempt: even bits from uneven ones.
    let low = u64::try_from(job.as_u128() & u128::from(u64::MAX)).unwrap_or(0);
    let mut x = low ^ u64::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let percent = 80 + (x ^ (x >> 31)) % 41;
    wait.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: waits grow, stay near their list, and end. Method: each class, the first and a late failure.
    #[test]
    fn waits_grow_and_are_bounded() {
        let job = JobId::next(JobId::MIN, 5, [3; 10]);
        let fail = Failure::new(FailClass::Fail, "x");
        let first = after_failure(job, &fail, 1, &[]);
        assert!((800..=1_200).contains(&first), "{first}");
        let late = after_failure(job, &fail, 40, &[]);
        assert!(late <= LONGEST_MS * 12 / 10, "{late}");
        let again = Failure::new(FailClass::TryAgain, "x");
        let third = after_failure(job, &again, 3, &[10_000, 60_000, 300_000]);
        assert!((240_000..=360_000).contains(&third), "{third}");
        assert_eq!(after_failure(job, &Failure::new(FailClass::Lost, "x"), 1, &[]), 0);
    }

    /// Goal: what a server asks for is a floor. Method: a short list and a long Retry-After.
    #[test]
    fn retry_after_is_a_floor() {
        let job = JobId::next(JobId::MIN, 5, [3; 10]);
        let mut again = Failure::new(FailClass::TryAgain, "x");
        again.retry_after_ms = Some(7_777);
        assert_eq!(after_failure(job, &again, 1, &[1]), 7_777);
    }

    /// Goal: an incomplete file is asked ever more slowly. Method: one second, one minute, one day.
    #[test]
    fn incomplete_waits_grow() {
        assert_eq!(after_incomplete(0, None), 1_000);
        assert_eq!(after_incomplete(60_000, None), 30_000);
        assert_eq!(after_incomplete(86_400_000, None), 600_000);
    }
}
