//! The window of names that could be claimed, and the names whose claim waits.
//!
//! Must not know: what a scan is. What finds no room is offered again by the next one.
//!
//! Invariants
//! - The window and the table of held names are bounded, each by `limits.window`.
//! - A name is in the window once; a held one takes no place in it.
//! - Names of routes that are paused or slowed leave room for the others'.

use super::super::RelPath;
use super::{Candidate, Core, Hold, Millis, RouteState};

impl Core {
    /// Offers a name without starting anything; a later [`Core::step`] does. For scans, which offer many.
    pub fn offer(&mut self, candidate: Candidate, now: Millis) {
        self.found(candidate, now);
    }

    /// Something happened to this name: it need not wait for its deadline.
    pub fn unhold(&mut self, rel: &RelPath) {
        if let Some(hold) = self.held.remove(rel) {
            self.hold_timers.remove(&(hold.until, rel.clone()));
        }
    }

    fn found(&mut self, candidate: Candidate, now: Millis) {
        if self.room() == 0 || self.known.contains(&candidate.rel) {
            return;
        }
        if self.held.get(&candidate.rel).is_some_and(|hold| hold.until > now) {
            return;
        }
        if candidate.route >= self.routes.len() || self.has_its_share(candidate.route) {
            return;
        }
        self.unhold(&candidate.rel);
        self.enqueue(candidate);
    }

    /// Names of routes that are paused or slowed take no more than a quarter of the window: the others'
    /// must find room. What is turned away is found again by a scan.
    fn has_its_share(&self, route: usize) -> bool {
        let is_slow = |route: &RouteState| route.paused || route.pace.is_slow();
        if !self.routes.get(route).is_some_and(is_slow) {
            return false;
        }
        let slow = self.routes.iter().filter(|route| is_slow(route));
        slow.map(|route| route.queue.len()).sum::<usize>() >= self.limits.window / 4
    }

    /// A route is paused or slowed: its names beyond its share leave the window.
    pub(super) fn shrink_to_share(&mut self, route: usize) {
        let most = self.limits.window / 4;
        let Some(route) = self.routes.get_mut(route) else { return };
        while route.queue.len() > most {
            let Some((_, rel)) = route.queue.pop_last() else { return };
            self.known.remove(&rel);
        }
    }

    pub(super) fn enqueue(&mut self, candidate: Candidate) {
        let Some(route) = self.routes.get_mut(candidate.route) else { return };
        self.known.insert(candidate.rel.clone());
        route.queue.insert((candidate.order, self.next_seq), candidate.rel);
        self.next_seq += 1;
    }

    pub(super) fn hold(&mut self, candidate: Candidate, until: Millis) {
        self.unhold(&candidate.rel);
        // The table is bounded like the window; what does not fit is found again by the next scan.
        if self.held.len() < self.limits.window {
            let Candidate { rel, route, order } = candidate;
            self.hold_timers.insert((until, rel.clone()));
            self.held.insert(rel, Hold { until, route, order });
        }
    }
}
