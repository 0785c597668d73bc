//! How fast a route may start jobs: its rate, and its circuit breaker. Pure: times are passed in.
//!
//! Must not know: slots, priorities, names, why a worker died.
//!
//! - *Rate*: never more than so many starts within any stretch of the period. Not a token bucket: one
//!   that is full lets twice as many through within a period, and who asks for `100/min` has a server
//!   that counts. After a restart the count begins anew.
//! - *Breaker*: so many different jobs crashed their worker, and no worker has answered since. Then it is
//!   open: one job at a time, one a minute, and the first answer closes it. The trials are ordinary
//!   attempts, charged as such: so the backlog is neither stopped for good nor eaten.

use std::collections::{BTreeSet, VecDeque};

use super::JobId;
use super::state::Millis;

/// While the breaker is open, one job is tried this often, in milliseconds.
pub const TRIAL_EVERY_MS: Millis = 60_000;

/// At most so many starts within any stretch of time so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Starts. At least 1.
    pub starts: usize,
    /// Milliseconds.
    pub per_ms: Millis,
}

/// What a route's pace goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceRules {
    /// `None`: as fast as there are slots.
    pub rate: Option<Rate>,
    /// The breaker opens after so many; `None`: never.
    pub crashes: Option<usize>,
}

/// The pace of one route.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    rules: PaceRules,
    /// The last starts, at most as many as the rate allows; the oldest first.
    starts: VecDeque<Millis>,
    /// Jobs that crashed their worker since the last answer, at most as many as open the breaker.
    crashed: BTreeSet<JobId>,
    /// The breaker is open: when the next job may be tried.
    next_trial: Option<Millis>,
    /// Trials since it opened, and those of them that crashed, too. What ran when it opened is none.
    trials: usize,
    failed_trials: usize,
}

impl Pace {
    /// A route that has not started anything yet.
    pub(super) fn new(rules: PaceRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// New settings: the breaker is closed, the starts still count.
    pub(super) fn reconfigure(&mut self, rules: PaceRules) {
        self.rules = rules;
        self.close();
        self.trim();
    }

    /// Whether a job may start. `used` are the slots that the route has or was promised, `promised` the
    /// latter alone.
    pub(super) fn permits(&self, used: usize, promised: usize, now: Millis) -> bool {
        let breaker = self.trial(now).is_none_or(|at| at <= now && used == 0);
        breaker && self.rate_permits(promised, now)
    }

    /// When what stands in the way of the next start is over by itself, if that is later than now.
    pub(super) fn next(&self, now: Millis) -> Option<Millis> {
        let rate = (!self.rate_permits(0, now)).then(|| self.rate_frees()).flatten();
        [rate, self.trial(now)].into_iter().flatten().max().filter(|at| *at > now)
    }

    /// An attempt begins.
    pub(super) fn started(&mut self, now: Millis) {
        if self.rules.rate.is_some() {
            self.starts.push_back(now);
            self.trim();
        }
        if let Some(at) = &mut self.next_trial {
            *at = now.saturating_add(TRIAL_EVERY_MS);
            self.trials = self.trials.saturating_add(1);
        }
    }

    /// It did not begin after all.
    pub(super) fn not_started(&mut self) {
        self.starts.pop_back();
        self.trials = self.trials.saturating_sub(1);
    }

    /// A job crashed its worker. `Some`: that opened the breaker, after so many.
    pub(super) fn crashed(&mut self, job: JobId, now: Millis) -> Option<usize> {
        let limit = self.rules.crashes?;
        if self.next_trial.is_some() {
            // A trial runs alone: what ended before the first one was none.
            self.failed_trials = self.failed_trials.saturating_add(1).min(self.trials);
            return None;
        }
        self.crashed.insert(job);
        if self.crashed.len() < limit {
            return None;
        }
        self.next_trial = Some(now.saturating_add(TRIAL_EVERY_MS));
        Some(limit)
    }

    /// A worker answered: it can run. `true`: the breaker was open.
    pub(super) fn answered(&mut self) -> bool {
        let was_open = self.is_open();
        self.close();
        was_open
    }

    /// The breaker is closed, whatever it had seen.
    pub(super) fn close(&mut self) {
        self.next_trial = None;
        (self.trials, self.failed_trials) = (0, 0);
        self.crashed.clear();
    }

    /// The breaker is open.
    pub(super) fn is_open(&self) -> bool {
        self.next_trial.is_some()
    }

    /// A job crashed its worker, and no worker has answered since.
    pub(super) fn has_crashed(&self) -> bool {
        !self.crashed.is_empty()
    }

    /// It starts less than its slots could.
    pub(super) fn is_slow(&self) -> bool {
        self.is_open() || self.rules.rate.is_some()
    }

    /// It is open, and as many trials crashed as had opened it: who waits for an end waits in vain.
    pub(super) fn is_hopeless(&self) -> bool {
        self.is_open() && self.rules.crashes.is_some_and(|limit| self.failed_trials >= limit)
    }

    /// Whether this job was among those that opened the breaker: another one tells more.
    pub(super) fn accuses(&self, job: &JobId) -> bool {
        self.crashed.contains(job)
    }

    /// When the next job may be tried. One that is further away than any was found by a clock that has been set
    /// back since, and must not keep the route waiting until that has caught up.
    fn trial(&self, now: Millis) -> Option<Millis> {
        self.next_trial.map(|at| if at > now.saturating_add(TRIAL_EVERY_MS) { now } else { at })
    }

    fn rate_permits(&self, promised: usize, now: Millis) -> bool {
        let Some(rate) = self.rules.rate else { return true };
        let Some(others) = rate.starts.checked_sub(promised.saturating_add(1)) else {
            return false;
        };
        // This one and the `others` before it fit; the start before those must be long ago.
        let before = self.starts.len().checked_sub(others.saturating_add(1));
        let Some(before) = before.and_then(|at| self.starts.get(at)) else { return true };
        // A clock that was set back must not stop the route until it has caught up.
        *before > now || now.saturating_sub(*before) >= rate.per_ms
    }

    fn rate_frees(&self) -> Option<Millis> {
        let rate = self.rules.rate?;
        let oldest = self.starts.len().checked_sub(rate.starts)?;
        self.starts.get(oldest).map(|at| at.saturating_add(rate.per_ms))
    }

    fn trim(&mut self) {
        let most = self.rules.rate.map_or(0, |rate| rate.starts);
        while self.starts.len() > most {
            self.starts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(at: u64) -> JobId {
        JobId::next(JobId::MIN, at, [1; 10])
    }

    proptest! {
        /// Goal: no stretch of the period has more starts than the rate, and none waits longer than it
        /// must. Method: starts as early as permitted after random waits, against a list of all starts.
        #[test]
        fn no_stretch_exceeds_the_rate(
            most in 1usize..6, per_ms in 1u64..50, waits in proptest::collection::vec(0u64..30, 1..80),
        ) {
            let rate = Rate { starts: most, per_ms };
            let mut pace = Pace::new(PaceRules { rate: Some(rate), crashes: None });
            let (mut now, mut all): (Millis, Vec<Millis>) = (1_000, Vec::new());
            for wait in waits {
                now += wait;
                let recent = all.iter().filter(|at| now - **at < per_ms).count();
                prop_assert_eq!(pace.permits(0, 0, now), recent < most);
                if recent >= most {
                    let next = pace.next(now).unwrap();
                    prop_assert!(next > now && next <= now + per_ms);
                    prop_assert!(!pace.permits(0, 0, next - 1) && pace.permits(0, 0, next));
                    now = next;
                }
                prop_assert_eq!(pace.next(now), None);
                pace.started(now);
                all.push(now);
            }
        }
    }

    /// Goal: what is promised counts, what did not begin does not, and a clock set back stops nothing.
    /// Method: a rate of two.
    #[test]
    fn promises_and_clocks() {
        let rate = Rate { starts: 2, per_ms: 100 };
        let mut pace = Pace::new(PaceRules { rate: Some(rate), crashes: None });
        assert!(pace.permits(1, 1, 10) && !pace.permits(2, 2, 10));
        pace.started(10);
        pace.started(10);
        assert!(!pace.permits(0, 0, 11));
        pace.not_started();
        assert!(pace.permits(0, 0, 11));
        pace.started(10);
        assert!(pace.permits(0, 0, 5));
    }

    /// Goal: only different jobs in a row open the breaker; then one is tried a minute, alone; an answer
    /// closes it. Method: three crashes open it; one job that crashes three times does not.
    #[test]
    fn the_breaker_opens_and_closes() {
        let mut pace = Pace::new(PaceRules { rate: None, crashes: Some(3) });
        for _ in 0..3 {
            assert_eq!(pace.crashed(job(1), 0), None);
        }
        assert_eq!(pace.crashed(job(2), 0), None);
        assert!(!pace.answered(), "it was not open");
        assert_eq!(pace.crashed(job(3), 0), None);
        assert_eq!(pace.crashed(job(4), 0), None);
        assert_eq!(pace.crashed(job(5), 7), Some(3));
        for at in 20..29 {
            assert_eq!(pace.crashed(job(at), 7), None);
        }
        assert!(!pace.is_hopeless(), "they ran when it opened: nothing was tried yet");
        assert_eq!(pace.next(7), Some(7 + TRIAL_EVERY_MS));
        assert!(!pace.permits(0, 0, 7) && pace.accuses(&job(4)) && !pace.accuses(&job(1)));
        let mut now = 7 + TRIAL_EVERY_MS;
        for trial in 0..3 {
            assert!(pace.permits(0, 0, now) && !pace.permits(1, 0, now));
            assert_eq!(pace.is_hopeless(), trial == 3);
            pace.started(now);
            assert_eq!(pace.crashed(job(6 + trial), now + 5), None);
            assert_eq!(pace.next(now + 5), Some(now + TRIAL_EVERY_MS));
            now += TRIAL_EVERY_MS;
        }
        let set_back = now - 3 * TRIAL_EVERY_MS;
        assert!(pace.permits(0, 0, set_back) && pace.next(set_back).is_none());
        pace.started(set_back);
        assert!(!pace.permits(0, 0, set_back));
        assert!(pace.is_hopeless() && pace.answered());
        assert!(!pace.is_open() && !pace.is_hopeless() && pace.permits(9, 9, now));
        for at in 20..23 {
            assert!(!pace.is_open());
            pace.crashed(job(at), now);
        }
        assert!(pace.is_open() && !pace.is_hopeless(), "what it had tried before is forgotten");
    }

    /// Goal: a rate that is given, changed or taken away holds from then on, what was started counts; nothing
    /// is kept that no rate asks for. Method: each change while it runs, and many starts.
    #[test]
    fn a_changed_rate_holds_at_once() {
        let of = |starts| PaceRules { rate: Some(Rate { starts, per_ms: 100 }), crashes: Some(1) };
        let mut pace = Pace::new(of(3));
        assert!(pace.is_slow());
        pace.started(10);
        assert_eq!(pace.crashed(job(1), 10), Some(1));
        pace.reconfigure(of(1));
        assert!(!pace.is_open() && !pace.permits(0, 0, 11) && pace.permits(0, 0, 110));
        assert_eq!(pace.next(11), Some(110));
        pace.reconfigure(of(2));
        assert!(pace.permits(0, 0, 11));
        for now in 200..300 {
            pace.started(now);
        }
        assert_eq!(pace.starts.len(), 2);
        pace.reconfigure(PaceRules::default());
        pace.started(300);
        assert!(!pace.is_slow() && pace.permits(9, 9, 300) && pace.starts.is_empty());
    }
}
