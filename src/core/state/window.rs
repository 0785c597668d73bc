//! The window of names that could be claimed, and the names whose claim waits.
//!
//! Must not know: what a scan is. What finds no room is offered again by the next one.
//!
//! Invariants
//! - The window and the table of held names are bounded, each by `limits.window`.
//! - A name is in the window once; a held one takes no place in it.
//! - Names of routes that are paused or slowed have a quarter of the window, in equal parts: so they leave room
//!   for the others', and for each other's.

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
        if self.room() == 0 || self.known.contains_key(&candidate.rel) {
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

    /// A route that is paused or slowed has as many names in the window as it may have. What is turned away is
    /// found again by a scan.
    pub fn has_its_share(&self, route: usize) -> bool {
        let Some(this) = self.routes.get(route).filter(|this| this.is_slow()) else { return false };
        let others = self.slow_with_names().filter(|(at, _)| *at != route).count();
        this.queue.len() >= self.share(others + 1)
    }

    /// The route in whose queue this name waits, if it is in the window.
    pub fn waits_for(&self, rel: &RelPath) -> Option<usize> {
        self.known.get(rel).copied()
    }

    fn slow_with_names(&self) -> impl Iterator<Item = (usize, &RouteState)> {
        let all = self.routes.iter().enumerate();
        all.filter(|(_, route)| route.is_slow() && !route.queue.is_empty())
    }

    /// What each of so many routes may have.
    fn share(&self, routes: usize) -> usize {
        (self.limits.window / 4 / routes.max(1)).max(1)
    }

    /// A route was paused or slowed, or is so and has names now: of what is beyond their shares the latest leaves.
    pub(super) fn shrink_to_shares(&mut self) {
        let most = self.share(self.slow_with_names().count());
        for route in self.routes.iter_mut().filter(|route| route.is_slow()) {
            while route.queue.len() > most
                && let Some((_, rel)) = route.queue.pop_last()
            {
                self.known.remove(&rel);
            }
        }
    }

    pub(super) fn enqueue(&mut self, candidate: Candidate) {
        let Some(route) = self.routes.get_mut(candidate.route) else { return };
        self.known.insert(candidate.rel.clone(), candidate.route);
        route.queue.insert((candidate.order, self.next_seq), candidate.rel);
        self.next_seq += 1;
        if route.is_slow() && route.queue.len() == 1 {
            self.shrink_to_shares();
        }
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
