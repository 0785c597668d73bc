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
        self.pool.keep_warm(settings.routes.iter().map(|route| route.name.clone()));
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
}
