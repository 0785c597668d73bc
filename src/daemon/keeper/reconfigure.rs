//! New settings while jobs are on their way.
//!
//! Must not know: where the settings come from, or what the pool makes of them.
//!
//! Invariants
//! - A route keeps its index as long as a job has it; by its name it gets the same one again.
//! - What runs is recorded by the route as it was when the attempt began ([`JobInfo::begun_as`]).
//! - A job of a route that is no more goes on with it until it ends; then its index is free. Where that
//!   route is paused nothing could mend it, and what waits for it is another one's that takes it.

use std::collections::{BTreeSet, HashSet};

use crate::config::{Route, limits};

use super::{
    Arc, Event, Filesystem, JobId, JobInfo, Keeper, KeeperError, Millis, RouteTable, Settings,
    open_folders, rules, sort,
};

impl<F: Filesystem> Keeper<F> {
    /// Puts new settings into force; the caller begins a scan. Returns the names of the routes that are
    /// new or changed: their pauses are over.
    pub fn reconfigure(
        &mut self,
        settings: &Settings,
        now: Millis,
    ) -> Result<Vec<String>, KeeperError> {
        self.table = RouteTable::new(settings)?;
        let mut changed = Vec::new();
        let mut new_rules: Vec<_> = self.routes.iter().map(|_| None).collect();
        let mut free = self.free_places(settings);
        let mut taken_over = Vec::new();
        self.places.clear();
        for route in &settings.routes {
            let mut place = self.routes.iter().position(|known| known.name == route.name);
            let is_same = place
                .and_then(|place| self.routes.get(place))
                .is_some_and(|known| known.works_like(route));
            if !is_same {
                changed.push(route.name.clone());
                if place.is_none() {
                    place = free.pop();
                    taken_over.extend(place);
                }
            }
            let route = Arc::new(route.clone());
            let core_rules = (!is_same).then(|| rules(&route));
            let at = place.unwrap_or(self.routes.len());
            self.places.push(at);
            if let (Some(known), Some(its)) = (self.routes.get_mut(at), new_rules.get_mut(at)) {
                (*known, *its) = (route, core_rules);
            } else {
                self.routes.push(route);
                new_rules.push(core_rules);
            }
        }
        if let Some(its) = new_rules.get_mut(self.sorting) {
            *its = Some(sort::rules(&settings.routes));
        }
        self.core.reconfigure(settings.workers, limits::longest_line(settings.workers), new_rules);
        for place in taken_over {
            self.core.renew(place);
        }
        self.folders.keep_open(open_folders(settings));
        // The pass that was under way knew the old globs.
        self.scan = None;
        self.waits.told_unrouted = false;
        self.route_the_unrouted(now)?;
        self.reroute_the_stuck();
        self.step(Event::Tick, now)?;
        Ok(changed)
    }

    /// Places of routes that are no more and that no job has.
    fn free_places(&self, settings: &Settings) -> Vec<usize> {
        let used: HashSet<usize> = self.jobs.values().map(|info| info.route).collect();
        let is_wanted = |name: &str| settings.routes.iter().any(|route| route.name == name);
        let routes = self.routes.iter().enumerate();
        routes
            .filter(|(at, route)| !used.contains(at) && !is_wanted(&route.name))
            .filter(|(at, _)| *at != self.sorting)
            .map(|(at, _)| at)
            .collect()
    }

    /// Jobs that recovery found and no route took may have one now.
    fn route_the_unrouted(&mut self, now: Millis) -> Result<(), KeeperError> {
        let unrouted = self.jobs.iter().filter(|(_, info)| info.route >= self.routes.len());
        // `usize::MAX` is beyond all routes.
        let place = |job: JobId, info: &JobInfo| {
            let claimed = info.claimed(job);
            self.place_of_job(claimed, &info.rel, info.take.as_ref())
        };
        let found: Vec<(JobId, usize)> =
            unrouted.filter_map(|(job, info)| Some((*job, place(*job, info)?))).collect();
        for (job, route) in found {
            let records = self.inputs.get_mut(&job).and_then(|input| input.past.take());
            let Some(info) = self.jobs.get_mut(&job) else { continue };
            info.route = route;
            let recovered = info.recovered(job, Some(route), records);
            self.step(Event::Recovered(recovered), now)?;
        }
        Ok(())
    }

    /// Jobs that wait for a route which is no more and is paused go to the one that takes them now.
    pub(super) fn reroute_the_stuck(&mut self) {
        let is_gone =
            |at: usize| at < self.routes.len() && at != self.sorting && !self.places.contains(&at);
        let stuck =
            self.jobs.iter().filter(|(_, it)| is_gone(it.route) && self.core.is_stuck(it.route));
        let records = |at: usize| self.routes.get(at).and_then(|route| route.records);
        let found: Vec<(JobId, usize)> = stuck
            .filter_map(|(job, info)| {
                let claimed = info.claimed(*job);
                let to = self.place_of_job(claimed, &info.rel, info.take.as_ref())?;
                // What was begun by records is not one task now, nor the other way round.
                (records(to) == records(info.route)).then_some((*job, to))
            })
            .collect();
        for (job, to) in found {
            if self.core.reroute(job, to)
                && let Some(info) = self.jobs.get_mut(&job)
            {
                info.route = to;
            }
        }
    }

    /// The routes that there are, and besides them those by which inputs under way go on: what is no more,
    /// or read records of another kind. `true`: there are such.
    pub fn routes_at_work(&self) -> (Vec<Arc<Route>>, bool) {
        let places: BTreeSet<usize> = self.places.iter().copied().collect();
        let mut all: Vec<_> =
            places.iter().filter_map(|at| self.routes.get(*at)).map(Arc::clone).collect();
        let there_are = all.len();
        for (job, input) in &self.inputs {
            let Some(info) = self.jobs.get(job) else { continue };
            let route = self.routes.get(info.route);
            // As `start_records` chooses.
            let goes_on = route.filter(|it| it.records == Some(input.format));
            let goes_on = goes_on.or_else(|| self.attempted_as(info));
            if let Some(route) = goes_on
                && !all.iter().any(|it| it.works_like(route))
            {
                all.push(Arc::clone(route));
            }
        }
        let has_past = all.len() > there_are;
        (all, has_past)
    }
}
