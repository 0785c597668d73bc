//! New settings come into force in the keeper's loop: slots, routes, the scan.
//!
//! Must not know: where they come from.

use super::{KeeperError, Listener, Notice, RealFs, Service, now_ms};
use crate::config::Settings;
use crate::daemon::retention::Rules;

impl<L: Listener> Service<RealFs, L> {
    pub(super) fn reload(&mut self, settings: &Settings) -> Result<(), KeeperError> {
        if self.state.draining {
            return Ok(());
        }
        if let Err(error) = self.pool.resize(settings.workers) {
            // It goes on with those that there are.
            let (workers, reason) = (self.pool.slots(), error.to_string());
            self.listener.notice(Notice::SlotsRefused { workers, reason });
        }
        // They would be run as they were given out.
        self.clear_line()?;
        let workers = settings.workers.min(self.pool.slots());
        let settings = Settings { workers, ..settings.clone() };
        for route in self.keeper.reconfigure(&settings, now_ms())? {
            self.state.paused.remove(&route);
            self.state.status.paused.remove(&route);
        }
        self.outputs()?;
        self.keep_warm();
        let keeper = &self.keeper;
        let is_over = |name: &String| {
            settings.routes.iter().all(|route| route.name != *name) && keeper.waiting_for(name) == 0
        };
        self.state.paused.retain(|name, _| !is_over(name));
        self.state.status.paused.retain(|name, _| !is_over(name));
        self.rescan = settings.rescan;
        self.min_free_disk = settings.min_free_disk;
        self.min_free_memory = settings.min_free_memory;
        self.quiet_for = settings.quiet_for;
        self.retention.set_rules(Rules::of(&settings));
        self.set_waits();
        self.keeper.set_prunes(settings.prune);
        self.state.scanning = true;
        Ok(())
    }

    /// Ends the workers of routes that are no more, once no input of theirs is under way: each record would
    /// start one of its own.
    pub(super) fn keep_warm(&mut self) {
        let (routes, keeps_more) = self.keeper.routes_at_work();
        self.state.keeps_more = keeps_more;
        self.pool.keep_warm(&routes);
    }
}
