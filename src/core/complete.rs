//! Is a file whole? No single signal proves it, so they are ranked. Pure: facts in, a decision out.
//!
//! Must not know: the disk, how a lease is asked for, the clock (times are passed in).
//!
//! 1. The producer's contract: a sentinel that is not older than its file.
//! 2. A writer has it open: never whole, however long it is still.
//! 3. It is unchanged for long enough. How long depends on what else is known:
//!
//! | known | still for |
//! |---|---|
//! | nobody writes, and it was renamed into place | 0 |
//! | nobody writes, and it was closed, made, or found by a scan | 250 ms |
//! | a lease cannot be had | 2 s |
//! | network or overlay filesystem: others may write unseen | 10 s |
//!
//! A local file is still since its ctime, which nobody can set; where the clocks of others count, or
//! ctime lies in the future, since it was first seen as it is. Never by the age of mtime, which
//! `cp -p` and rsync bring along.

use super::state::Millis;

/// What a file looked like. Two equal looks are no proof, but two different ones are a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Unix nanoseconds.
    pub mtime_ns: i64,
    /// Unix nanoseconds.
    pub ctime_ns: i64,
}

impl Look {
    /// Whether the content may differ, across a rename, which changes ctime.
    pub fn has_other_content(&self, other: &Self) -> bool {
        (self.ino, self.size, self.mtime_ns) != (other.ino, other.size, other.mtime_ns)
    }
}

/// Whether somebody can write into it through something already open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Nobody on this machine.
    Nobody,
    /// A descriptor or a mapping is open for writing.
    Somebody,
    /// The system does not say.
    Unknown,
}

/// How the last we heard of a name came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrival {
    /// A scan found it, or its making was all we heard of.
    #[default]
    Found,
    /// A writer closed it.
    Closed,
    /// It was renamed into place.
    Renamed,
}

/// What holds for all files of a spool.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The user's own `quiet_for`, for every file without a sentinel, in milliseconds.
    pub quiet_for: Option<Millis>,
    /// Others may write unseen: neither a lease nor ctime is a proof.
    pub is_shared: bool,
    /// Nobody writes and it was closed, made or found: still for so long.
    pub after_close: Millis,
    /// No lease can be had: still for so long.
    pub without_lease: Millis,
    /// [`Rules::is_shared`]: still for so long.
    pub on_shared: Millis,
    /// An open file is looked at again between so soon …
    pub open_again: Millis,
    /// … and so late: what a mapping's end tells nobody.
    pub open_again_most: Millis,
}

/// What is known of one file now.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// What it looks like.
    pub look: Look,
    /// Who has it open.
    pub writer: Writer,
    /// How it came.
    pub arrival: Arrival,
    /// Its route asks for a sentinel; whether it is there and not older.
    pub promised: Option<bool>,
}

/// What is remembered of a file that is not whole yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// What it looked like when it was last looked at.
    pub look: Look,
    /// Since when it looks so, as far as we saw.
    pub since: Millis,
    /// When it was first seen.
    pub first: Millis,
}

impl Past {
    /// What to remember after another look.
    pub fn after(past: Option<Self>, look: Look, now: Millis) -> Self {
        match past {
            // Not later than now: a clock that was set back would keep it waiting for ever.
            Some(Self { look: same, since, first }) if same == look => {
                Self { look, since: since.min(now), first: first.min(now) }
            }
            Some(past) => Self { look, since: now, first: past.first.min(now) },
            None => Self { look, since: now, first: now },
        }
    }
}

/// Why a file waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody has it open for writing.
    Open,
    /// It changed a moment ago.
    Quiet,
    /// Its sentinel is not there, or older than the file.
    Sentinel,
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It may be claimed.
    Complete,
    /// Not now.
    Wait {
        /// When to look again.
        until: Millis,
        /// Why.
        why: Why,
    },
}

/// Decides. `past` is what [`Past::after`] gave for this look.
pub fn judge(rules: &Rules, facts: &Facts, past: &Past, now: Millis) -> Judgement {
    match facts.promised {
        // The producer's own word: a writer that still has it open has said that it is done.
        Some(true) => return Judgement::Complete,
        // Its arrival wakes us; the timer is for where events are lost.
        Some(false) => {
            return Judgement::Wait { until: again(rules, past, now), why: Why::Sentinel };
        }
        None => {}
    }
    if facts.writer == Writer::Somebody {
        return Judgement::Wait { until: again(rules, past, now), why: Why::Open };
    }
    let default = match (rules.is_shared, facts.writer, facts.arrival) {
        (true, _, _) => rules.on_shared,
        (_, Writer::Unknown, _) => rules.without_lease,
        (_, _, Arrival::Renamed) => 0,
        (_, _, Arrival::Found | Arrival::Closed) => rules.after_close,
    };
    let needed = rules.quiet_for.unwrap_or(default);
    let still_since = still_since(rules, &facts.look, past, now);
    let until = still_since.saturating_add(needed);
    if until <= now { Judgement::Complete } else { Judgement::Wait { until, why: Why::Quiet } }
}

/// When a file that stays open is looked at again: ever more slowly.
pub fn again(rules: &Rules, past: &Past, now: Millis) -> Millis {
    let waited = now.saturating_sub(past.first);
    now.saturating_add((waited / 4).clamp(rules.open_again, rules.open_again_most))
}

fn still_since(rules: &Rules, look: &Look, past: &Past, now: Millis) -> Millis {
    let changed = u64::try_from(look.ctime_ns / 1_000_000).unwrap_or(0);
    if rules.is_shared || changed > now { past.since } else { changed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules {
        quiet_for: None,
        is_shared: false,
        after_close: 250,
        without_lease: 2_000,
        on_shared: 10_000,
        open_again: 100,
        open_again_most: 10_000,
    };
    const NOW: Millis = 1_000_000;

    fn look(age_ms: i64) -> Look {
        let ctime_ns = (1_000_000 - age_ms) * 1_000_000;
        Look { ino: 1, size: 5, mtime_ns: 0, ctime_ns }
    }

    fn facts(age_ms: i64, writer: Writer, arrival: Arrival) -> Facts {
        Facts { look: look(age_ms), writer, arrival, promised: None }
    }

    fn first_look(rules: &Rules, facts: &Facts) -> Judgement {
        judge(rules, facts, &Past::after(None, facts.look, NOW), NOW)
    }

    fn quiet(until: Millis) -> Judgement {
        Judgement::Wait { until, why: Why::Quiet }
    }

    /// Goal: each line of the table in the header holds. Method: a file just changed, and one old enough.
    #[test]
    fn the_table_holds() {
        use Arrival::{Closed, Found, Renamed};
        use Writer::{Nobody, Unknown};
        let shared = Rules { is_shared: true, ..RULES };
        for (rules, writer, arrival, needed) in [
            (RULES, Nobody, Renamed, 0),
            (RULES, Nobody, Closed, 250),
            (RULES, Nobody, Found, 250),
            (RULES, Unknown, Renamed, 2_000),
            (RULES, Unknown, Found, 2_000),
            (shared, Nobody, Renamed, 10_000),
            (Rules { quiet_for: Some(7_000), ..RULES }, Nobody, Renamed, 7_000),
            (Rules { quiet_for: Some(0), ..shared }, Unknown, Found, 0),
        ] {
            let young = facts(0, writer, arrival);
            let expected = if needed == 0 { Judgement::Complete } else { quiet(NOW + needed) };
            assert_eq!(first_look(&rules, &young), expected, "{rules:?} {writer:?} {arrival:?}");
            let later = NOW + needed;
            let past = Past::after(None, young.look, NOW);
            let past = Past::after(Some(past), young.look, later);
            assert_eq!(judge(&rules, &young, &past, later), Judgement::Complete);
        }
    }

    /// Goal: a file found at start is judged by ctime, one with an old mtime is not old.
    /// Method: ctime an hour ago; ctime now with an mtime of 1970, as `cp -p` leaves it.
    #[test]
    fn age_is_by_ctime() {
        let old = facts(3_600_000, Writer::Unknown, Arrival::Found);
        assert_eq!(first_look(&RULES, &old), Judgement::Complete);
        let fresh = facts(0, Writer::Unknown, Arrival::Found);
        assert_eq!(fresh.look.mtime_ns, 0);
        assert_eq!(first_look(&RULES, &fresh), quiet(NOW + 2_000));
    }

    /// Goal: neither a clock that was set back nor that of a file server makes a file whole or keeps it
    /// for ever. Method: ctime an hour ahead; an old ctime on a shared filesystem.
    #[test]
    fn foreign_clocks_count_for_nothing() {
        let shared = Rules { is_shared: true, ..RULES };
        for (rules, age, needed) in [(RULES, -3_600_000, 250), (shared, 3_600_000, 10_000)] {
            let facts = facts(age, Writer::Nobody, Arrival::Found);
            let past = Past::after(None, facts.look, NOW);
            assert_eq!(judge(&rules, &facts, &past, NOW), quiet(NOW + needed));
            assert_eq!(judge(&rules, &facts, &past, NOW + needed), Judgement::Complete);
        }
    }

    /// Goal: a clock that is set back does not keep a still file waiting until it has caught up. Method: seen an
    /// hour from now, without a lease; seen again, and then after its time.
    #[test]
    fn a_clock_set_back_begins_the_wait_anew() {
        let facts = facts(-3_600_000, Writer::Unknown, Arrival::Found);
        let past = Past::after(None, facts.look, NOW + 3_600_000);
        let past = Past::after(Some(past), facts.look, NOW);
        assert_eq!(judge(&RULES, &facts, &past, NOW), quiet(NOW + 2_000));
        assert_eq!(judge(&RULES, &facts, &past, NOW + 2_000), Judgement::Complete);
    }

    /// Goal: where ctime says nothing, a file that goes on changing is not whole, however long ago it was first
    /// seen. Method: a shared filesystem; one that grows just before its wait would end.
    #[test]
    fn a_change_begins_the_wait_anew() {
        let shared = Rules { is_shared: true, ..RULES };
        let first = facts(0, Writer::Nobody, Arrival::Found);
        let grown = Facts { look: Look { size: 6, ..first.look }, ..first };
        let past = Past::after(None, first.look, NOW);
        let past = Past::after(Some(past), grown.look, NOW + 9_999);
        assert_eq!(judge(&shared, &grown, &past, NOW + 10_000), quiet(NOW + 19_999));
        assert_eq!(judge(&shared, &grown, &past, NOW + 19_999), Judgement::Complete);
    }

    /// Goal: a file that stays open is looked at ever more slowly, and never is the next look an hour off because
    /// the clock was an hour ahead. Method: open for a moment, for 20 seconds, for a day; a clock set back.
    #[test]
    fn an_open_file_is_looked_at_ever_more_slowly() {
        let look = look(0);
        let past = Past::after(None, look, NOW);
        for (open_for, wait) in [(0, 100), (20_000, 5_000), (86_400_000, 10_000)] {
            let now = NOW + open_for;
            let past = Past::after(Some(past), look, now);
            assert_eq!(again(&RULES, &past, now), now + wait, "{open_for}");
        }
        let ahead = Past { since: NOW + 3_600_000, first: NOW + 3_600_000, look };
        for changed in [look, Look { size: 6, ..look }] {
            let past = Past::after(Some(ahead), changed, NOW);
            assert_eq!(again(&RULES, &past, NOW + 4_000), NOW + 5_000, "{changed:?}");
        }
    }

    /// Goal: a claim changes ctime only and is no writing; anything else is. Method: each field alone.
    #[test]
    fn a_rename_is_no_writing() {
        let before = look(0);
        assert!(!before.has_other_content(&Look { ctime_ns: 1, ..before }));
        for after in
            [Look { ino: 2, ..before }, Look { size: 6, ..before }, Look { mtime_ns: 1, ..before }]
        {
            assert!(before.has_other_content(&after), "{after:?}");
        }
    }

    /// Goal: a sentinel is the last word, and so is its absence. Method: an open file with one, a still one without.
    #[test]
    fn the_sentinel_decides() {
        let open = Facts { promised: Some(true), ..facts(0, Writer::Somebody, Arrival::Found) };
        assert_eq!(first_look(&RULES, &open), Judgement::Complete);
        let still =
            Facts { promised: Some(false), ..facts(90_000, Writer::Nobody, Arrival::Renamed) };
        assert!(matches!(first_look(&RULES, &still), Judgement::Wait { why: Why::Sentinel, .. }));
    }

    proptest! {
        /// Goal: an open file is never whole, every wait ends later than now, and a still file with
        /// no writer is whole after its longest wait. Method: random facts.
        #[test]
        fn waits_are_sound(
            age in -100_000i64..100_000, quiet_for in proptest::option::of(0u64..100_000),
            is_shared: bool, writer in 0u8..3, arrival in 0u8..3, passed in 0u64..1_000_000,
        ) {
            let rules = Rules { quiet_for, is_shared, ..RULES };
            let writer = [Writer::Nobody, Writer::Somebody, Writer::Unknown][usize::from(writer)];
            let arrival = [Arrival::Found, Arrival::Closed, Arrival::Renamed][usize::from(arrival)];
            let facts = facts(age, writer, arrival);
            let past = Past::after(None, facts.look, NOW);
            let now = NOW + passed;
            let judged = judge(&rules, &facts, &past, now);
            if let Judgement::Wait { until, .. } = judged {
                prop_assert!(until > now);
            }
            if writer == Writer::Somebody {
                prop_assert!(judged != Judgement::Complete);
            } else if passed > 200_000 {
                prop_assert_eq!(judged, Judgement::Complete);
            }
        }
    }
}
