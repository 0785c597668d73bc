//! The `inboxd.toml` that `inboxd init` writes: one page of what matters, all of it commented but
//! the name of the route.
//!
//! Must not know: the spool it is written to.
//!
//! Invariant: a line `#name = …` is a setting with its default (or, where the default has no value
//! to write, an example); without the `#` of any of them, or of all, the settings load once
//! `command` is there.

/// The text of the file. Until its `command` is set, loading it says which line to set.
pub const INBOXD_TOML: &str = r#"# Settings of this spool.
# Files dropped into incoming/ go to the first route that takes them, and end in done/ or error/.
# The rows that its worker prints are in results/NAME.csv.
# A line #name = ... shows a setting: take the # away to change it. A running inboxd follows.

#workers = 4                    # how many run at once, over all routes; without it: the CPU cores
#drain_timeout = "30s"          # how long running jobs may go on when inboxd is stopped
#min_free_disk = "1 GiB"        # below it no file is claimed
#ignore = ["*.bak"]             # names that are no input, beside the usual temporary ones

[routes.main]
# What runs for a file: program and arguments, no shell. It runs in this folder.
# Also {name} {stem} {ext} {rel} {dir} {job} {attempt} {scratch}; {{ and }} are plain braces.
#command = ["sha256sum", "{path}"]
#glob = "**"                    # which files: "*.json", "siteA/**", or a list; without it: all
#stdout = "text"                # rows from what it prints: json, csv, text, prefixed or none
#timeout = "1h"                 # when an attempt is ended
#retries = { fail = 0, timeout = 0, crash = 1 }     # further attempts, by how one ended
#workers = 2                    # at most so many of the workers at once
#trace_columns = true           # the last columns of the CSV are _file and _job

# Further routes: a section [routes.NAME] here, or a file routes.d/NAME.toml with the same lines.
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, Loaded, Route, Settings, Worker, load};

    fn load_text(text: &str) -> Result<Loaded, Vec<ConfigError>> {
        let spool = tempfile::tempdir().unwrap();
        std::fs::write(spool.path().join("inboxd.toml"), text).unwrap();
        load(spool.path())
    }

    /// Takes the `#` from the settings that `which` wants.
    fn uncommented(which: impl Fn(&str) -> bool) -> String {
        let lines = INBOXD_TOML.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && which(rest) => rest,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Goal: after `init` exactly one line is to be set, and the message says so.
    /// Method: the page as it is.
    #[test]
    fn the_page_lacks_only_its_command() {
        let errors = load_text(INBOXD_TOML).unwrap_err();
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(error.to_string().ends_with(
            "inboxd.toml:11:9: route `main` has no worker: set one line, such as \
             command = [\"sha256sum\", \"{path}\"]"
        ));
    }

    /// Goal: with that line the settings are the defaults. Method: only `command` uncommented.
    #[test]
    fn with_its_command_the_page_is_all_defaults() {
        let loaded = load_text(&uncommented(|line| line.starts_with("command"))).unwrap();
        let argv = vec!["sha256sum".to_owned(), "{path}".to_owned()];
        let origin = "inboxd.toml:14".to_owned();
        let route = Route { origin, ..Route::new("main", argv) };
        assert_eq!(loaded.settings, Settings { routes: vec![route], ..Settings::default() });
    }

    /// Goal: what the page shows is true. Method: all lines uncommented; what differs from the
    /// defaults is what the page calls an example.
    #[test]
    fn every_line_loads_and_shows_its_default() {
        let text = uncommented(|_| true);
        assert_eq!(text.lines().filter(|line| line.starts_with(char::is_alphabetic)).count(), 11);
        let mut settings = load_text(&text).unwrap().settings;
        let route = settings.routes.first_mut().unwrap();
        assert_eq!(
            route.worker,
            Worker::Command { argv: vec!["sha256sum".into(), "{path}".into()] }
        );
        assert_eq!((route.glob.join(" "), route.max_workers), ("**".to_owned(), Some(2)));
        (route.glob, route.max_workers) = (vec![], None);
        assert_eq!((settings.workers, settings.ignore.join(" ")), (4, "*.bak".to_owned()));
        settings.workers = Settings::default().workers;
        settings.ignore = vec![];
        assert_eq!(
            settings,
            load_text(&uncommented(|l| l.starts_with("command"))).unwrap().settings
        );
    }

    /// Goal: it fits a terminal. Method: the lines' widths.
    #[test]
    fn the_page_fits_a_terminal() {
        assert!(INBOXD_TOML.lines().all(|line| line.chars().count() <= 100));
        assert!(INBOXD_TOML.lines().count() <= 30);
    }
}
