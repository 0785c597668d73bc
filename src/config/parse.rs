//! From the settings files of a spool to [`Settings`], or to errors with line and column.
//!
//! Must not know: the state of the spool, or what the daemon does with settings.
//!
//! Invariants
//! - What is in [`Loaded::settings`] needs no further check.
//! - An error in `inboxd.toml` refuses all; one in `routes.d/` only that file, since a plug-in must
//!   not be able to stop the others.
//! - All that is wrong in a file is said at once, in the order of the file. TOML that does not
//!   parse is one error: behind it everything is guesswork.

use std::io::Read;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::request::Method;
use super::setting::{self, Place, Set};
use super::template::{self, Part};
use super::value::{Problem, Value, in_file_order};
use super::{
    ConfigError, Route, Settings, StdoutFormat, Worker, chain, companions, limits, locate, retry,
    suggest, units,
};

/// The settings of a spool, as far as they can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Checked, with defaults filled in.
    pub settings: Settings,
    /// What is wrong with files of `routes.d/`; their routes are not in `settings`.
    pub broken: Vec<ConfigError>,
}

/// Reads `inboxd.toml` and `routes.d/*.toml` below `spool`. Routes of `routes.d/` stand behind the
/// others, by name. Paths in messages begin with `spool` as it is given here.
pub fn load(spool: &Path) -> Result<Loaded, Vec<ConfigError>> {
    let path = spool.join("inboxd.toml");
    let text = read(&path).map_err(|error| match error {
        ReadError::Gone => vec![ConfigError::Missing { path: path.clone() }],
        ReadError::Refused(error) => vec![error],
    })?;
    let mut settings = main_file(&path, &text)?;
    let mut broken = Vec::new();
    for path in route_files(&spool.join("routes.d")).map_err(|error| vec![error])? {
        let route = match read(&path) {
            Ok(text) => route_file(&path, &text, &settings),
            // It was removed after it was listed: there is no such route.
            Err(ReadError::Gone) => continue,
            Err(ReadError::Refused(error)) => Err(vec![error]),
        };
        match route {
            Ok(route) => settings.routes.push(route),
            Err(errors) => broken.extend(errors),
        }
    }
    check_chains(spool, &mut settings, &mut broken)?;
    Ok(Loaded { settings, broken })
}

/// That every `next` leads somewhere, and to an end.
fn check_chains(
    spool: &Path,
    settings: &mut Settings,
    broken: &mut Vec<ConfigError>,
) -> Result<(), Vec<ConfigError>> {
    let stems = broken.iter().filter_map(|error| error.path().file_stem()).map(ToOwned::to_owned);
    let coming: Vec<std::ffi::OsString> = stems.collect();
    let is_coming = |name: &str| coming.iter().any(|stem| stem == name);
    let fault = |at| chain::fault(&settings.routes, at, is_coming);
    let faults: Vec<_> =
        (0..settings.routes.len()).filter_map(|at| Some((at, fault(at)?))).collect();
    let mut refused = Vec::new();
    for (at, message) in faults.into_iter().rev() {
        let Some(route) = settings.routes.get(at) else { continue };
        let (file, line) = route.origin.rsplit_once(':').unwrap_or((&route.origin, "1"));
        let is_plug_in = file.starts_with("routes.d/");
        let error = ConfigError::Invalid {
            path: spool.join(file),
            line: line.parse().unwrap_or(1),
            column: 1,
            message: format!("route `{}`: {message}", route.name),
        };
        if is_plug_in {
            settings.routes.remove(at);
            broken.push(error);
        } else {
            refused.insert(0, error);
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

enum ReadError {
    Gone,
    Refused(ConfigError),
}

fn read(path: &Path) -> Result<String, ReadError> {
    let refused =
        |reason: String| ReadError::Refused(ConfigError::Read { path: path.to_owned(), reason });
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => ReadError::Gone,
        _ => refused(e.to_string()),
    };
    // Opening a FIFO would wait for its writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(refused("it is not a regular file".to_owned()));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limits::SETTINGS_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limits::SETTINGS_FILE {
        return Err(refused(format!("it has more than {} bytes", limits::SETTINGS_FILE)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(e.as_bytes());
        let message = "this is not UTF-8; save the file as UTF-8".to_owned();
        ReadError::Refused(File { path, text: &text, errors: Vec::new() }.error(valid, message))
    })
}

/// The files that hold a route each, sorted by name. Hidden names and other endings are those of
/// an editor.
fn route_files(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed =
        |e: std::io::Error| ConfigError::Read { path: folder.to_owned(), reason: e.to_string() };
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if name.as_bytes().ends_with(b".toml") && !name.as_bytes().starts_with(b".") {
            files.push(folder.join(name));
        }
    }
    files.sort();
    Ok(files)
}

/// The text of `inboxd.toml`.
fn main_file(path: &Path, text: &str) -> Result<Settings, Vec<ConfigError>> {
    let mut file = File { path, text, errors: Vec::new() };
    let Some(document) = file.parse() else { return Err(file.errors) };
    let mut settings = Settings::default();
    let mut routes = None;
    for (key, given) in in_file_order(document.get_ref()) {
        let name = key.get_ref().as_ref();
        match setting::find(Place::Top, name).map(|doc| (doc, doc.set)) {
            Some((doc, Set::Top(set))) => {
                let value = Value { name: doc.name, limit: doc.limit, given };
                file.note(set(&mut settings, &value));
            }
            Some((_, Set::Routes)) => routes = Some(given),
            Some((_, Set::Route(_))) | None => {
                file.report(key.span(), unknown_key(Place::Top, name, ""));
            }
        }
    }
    // Behind the others, wherever the file has them: routes are checked against `drain_timeout`.
    if let Some(routes) = routes {
        settings.routes = file.routes(routes, settings.drain_timeout);
    }
    if file.errors.is_empty() { Ok(settings) } else { Err(file.in_order()) }
}

/// The text of a file of `routes.d/`, beside what is already there.
fn route_file(path: &Path, text: &str, settings: &Settings) -> Result<Route, Vec<ConfigError>> {
    let mut file = File { path, text, errors: Vec::new() };
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    if let Err(message) = check_name(&name) {
        file.report(0..0, format!("{message}; rename this file"));
    } else if let Some(other) = settings.routes.iter().find(|route| route.name == *name) {
        let origin = &other.origin;
        file.report(0..0, format!("route `{name}` is already at {origin}; rename this file"));
    }
    let Some(document) = file.parse() else { return Err(file.errors) };
    let drain_timeout = settings.drain_timeout;
    let table = document.get_ref();
    let route = file.route(&name, Kind::File, 0..0, table, drain_timeout);
    if file.errors.is_empty() { Ok(route) } else { Err(file.in_order()) }
}

/// Whether a route may be called so.
fn check_name(name: &str) -> Result<(), String> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let shown = name.escape_debug();
    if name.is_empty() || !name.chars().all(letters) {
        return Err(format!(
            "a route cannot be called `{shown}`: its name is of a-z, 0-9, _ and -"
        ));
    }
    if name == "errors" {
        return Err("a route cannot be called `errors`: results/errors.csv is for failures".into());
    }
    if name.len() > limits::ROUTE_NAME {
        let most = limits::ROUTE_NAME;
        return Err(format!(
            "a route cannot be called `{shown}`: its name has at most {most} letters"
        ));
    }
    Ok(())
}

/// How a route is written.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// `[routes.NAME]` in `inboxd.toml`.
    Section,
    /// `routes.d/NAME.toml`.
    File,
}

/// A file that is being read, with what was found wrong so far.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    errors: Vec<ConfigError>,
}

impl<'a> File<'a> {
    fn error(&self, offset: usize, message: String) -> ConfigError {
        let (line, column) = locate::line_and_column(self.text, offset);
        ConfigError::Invalid { path: self.path.to_owned(), line, column, message }
    }

    fn report(&mut self, span: Range<usize>, message: String) {
        let error = self.error(span.start, message);
        self.errors.push(error);
    }

    fn note(&mut self, checked: Result<(), Problem>) {
        if let Err(Problem { span, message }) = checked {
            self.report(span, message);
        }
    }

    fn in_order(mut self) -> Vec<ConfigError> {
        self.errors.sort_by_key(|error| match error {
            ConfigError::Invalid { line, column, .. } => (*line, *column),
            ConfigError::Missing { .. } | ConfigError::Read { .. } => (0, 0),
        });
        self.errors
    }

    /// The text as TOML; without it the error is noted.
    fn parse(&mut self) -> Option<Spanned<DeTable<'a>>> {
        match DeTable::parse(self.text) {
            Ok(document) => Some(document),
            Err(e) => {
                // Some of its messages have a second line, for what was expected.
                let message = e.message().trim().replace('\n', ", ");
                self.report(e.span().unwrap_or(0..0), message);
                None
            }
        }
    }

    fn routes(&mut self, given: &Spanned<DeValue<'_>>, drain_timeout: Duration) -> Vec<Route> {
        let Some(table) = given.get_ref().as_table() else {
            let message = "`routes` must be a table for each route: write [routes.NAME]";
            self.report(given.span(), message.to_owned());
            return Vec::new();
        };
        let mut routes = Vec::new();
        for (key, given) in in_file_order(table) {
            let name = key.get_ref().as_ref();
            if let Err(message) = check_name(name) {
                self.report(key.span(), message);
            }
            match given.get_ref().as_table() {
                Some(table) => {
                    routes.push(self.route(name, Kind::Section, key.span(), table, drain_timeout));
                }
                None if setting::find(Place::Top, name).is_some() => {
                    self.report(key.span(), unknown_key(Place::Route, name, " in [routes]"));
                }
                None => {
                    let name = name.escape_debug();
                    let message = format!("route `{name}` must be a table: write [routes.{name}]");
                    self.report(given.span(), message);
                }
            }
        }
        routes
    }

    /// One route. `at` is the place for what is missing.
    fn route(
        &mut self,
        name: &str,
        kind: Kind,
        at: Range<usize>,
        table: &DeTable<'_>,
        drain_timeout: Duration,
    ) -> Route {
        let mut route = Route::new(name, Vec::new());
        let place = match kind {
            Kind::Section => format!(" in [routes.{}]", name.escape_debug()),
            Kind::File => String::new(),
        };
        for (key, given) in in_file_order(table) {
            let name = key.get_ref().as_ref();
            match setting::find(Place::Route, name).map(|doc| (doc, doc.set)) {
                Some((doc, Set::Route(set))) => {
                    let value = Value { name: doc.name, limit: doc.limit, given };
                    self.note(set(&mut route, &value));
                }
                _ if kind == Kind::File && name == "routes" => {
                    let message = "a file of routes.d holds the keys of one route: leave out the \
                                   line [routes.NAME], the name is that of the file";
                    self.report(key.span(), message.to_owned());
                }
                _ => self.report(key.span(), unknown_key(Place::Route, name, &place)),
            }
        }
        let is_given = |key: &str| table.contains_key(key);
        if route.records.is_some() && !is_given("method") && !is_given("body") {
            route.http.method = Method::Get;
        }
        let line_of =
            |key: &str| table.get_key_value(key).map_or(at.start, |(k, _)| k.span().start);
        let worker = WORKERS.into_iter().find(|key| table.contains_key(*key)).unwrap_or("command");
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let folder = if kind == Kind::File { "routes.d/" } else { "" };
        let place = |key: &str| {
            let (line, _) = locate::line_and_column(self.text, line_of(key));
            format!("{folder}{file}:{line}")
        };
        route.origin = place(worker);
        route.interpreter_at = table.contains_key("interpreter").then(|| place("interpreter"));
        for (key, message) in between_settings(&route, table, drain_timeout) {
            let offset = table.get(key).map_or(at.start, |value| value.span().start);
            self.report(offset..offset, message);
        }
        route
    }
}

/// What is wrong between two settings of a route, or missing: the key at which to say it, and what.
fn between_settings(
    route: &Route,
    table: &DeTable<'_>,
    drain_timeout: Duration,
) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    let given = |key: &str| table.contains_key(key);
    let kinds: Vec<&str> = WORKERS.into_iter().filter(|key| given(key)).collect();
    if let [first, second, ..] = *kinds {
        let message =
            format!("a route has one worker, and `{first}` is set too; take one of them out");
        wrong.push((second, message));
    }
    // Not where one is misspelt: the unknown key is said, with the word that was meant.
    let is_misspelt = table.keys().any(|key| {
        let word: &str = key.get_ref();
        setting::find(Place::Route, word).is_none() && suggest::nearest(word, WORKERS).is_some()
    });
    if kinds.is_empty() && !is_misspelt {
        let name = route.name.escape_debug();
        let message = format!(
            "route `{name}` has no worker: set one line, such as \
             command = [\"sha256sum\", \"{{path}}\"]"
        );
        wrong.push(("command", message));
    }
    let argv = match &route.worker {
        Worker::Command { argv } => argv.as_slice(),
        Worker::Warm { .. } | Worker::Python { .. } | Worker::Http { .. } => &[],
    };
    let asks =
        |argument: &String| template::parse(argument).is_ok_and(|p| p.contains(&Part::Output));
    if argv.iter().any(asks) && !route.output {
        let message = "`{output}` is only there with the line output = true; add it";
        wrong.push(("command", message.to_owned()));
    }
    let asks = |argument: &String| template::parse(argument).is_ok_and(|p| p.contains(&Part::With));
    if argv.iter().any(asks) && route.with.is_empty() {
        let message = "`{with}` is only there with a line such as with = [\"{stem}.xmp\"]; add it";
        wrong.push(("command", message.to_owned()));
    }
    let asks =
        |argument: &String| template::parse(argument).is_ok_and(|p| p.contains(&Part::Record));
    if argv.iter().any(asks) && route.records.is_none() {
        let message = "`{record}` is only there with a line such as records = \"lines\"; add it";
        wrong.push(("command", message.to_owned()));
    }
    wrong.extend(around_http(route, given));
    wrong.extend(units::fault(route, &given));
    wrong.extend(companions::fault(route, &given));
    let is_off = |key| table.get(key).is_some_and(|v| v.get_ref().as_bool() == Some(false));
    if route.next.is_some() && is_off("output") {
        let message = "`next` hands on the files that a worker makes; take out output = false";
        wrong.push(("output", message.to_owned()));
    }
    if let Some(message) = against_records(route, &given) {
        wrong.push(("records", message));
    }
    // The default is left alone: who shortens the drain has not asked for another grace.
    if given("grace") && route.grace >= drain_timeout {
        let message = format!(
            "`grace` must be shorter than `drain_timeout`, which is {}",
            humantime::format_duration(drain_timeout)
        );
        wrong.push(("grace", message));
    }
    if let Some(message) = retry::without_attempts(route) {
        wrong.push(("retry_on", message));
    }
    if route.require_output && route.stdout == StdoutFormat::None {
        let message = "with stdout = \"none\" there is never a row, so every job would fail; \
                       take out one of the two lines";
        wrong.push(("require_output", message.to_owned()));
    }
    let traced = |column: &&String| ["_file", "_job"].contains(&column.as_str());
    if let Some(column) = route.columns.iter().flatten().find(traced)
        && route.trace_columns
    {
        let message = format!(
            "column `{column}` is added by inboxd; take it out, or set trace_columns = false"
        );
        wrong.push(("columns", message));
    }
    wrong
}

/// What is wrong between `http` and what goes with it.
fn around_http(route: &Route, given: impl Fn(&str) -> bool) -> Option<(&'static str, String)> {
    let rules = &route.http;
    if rules.cells.is_some() && !given("http") {
        let message =
            "only the answers of `http` have columns by JSON pointers; write a list of names";
        return Some(("columns", message.to_owned()));
    }
    if given("http") && given("body") && !rules.method.has_body() {
        let method = rules.method.name();
        let message = format!("a {method} sends no body; take out one of the two lines");
        return Some(("body", message));
    }
    if given("http") && given("ready_url") && !given("start") {
        let message = "`ready_url` is for a runner of `start`; add that line, or take this one out";
        return Some(("ready_url", message.to_owned()));
    }
    None
}

/// What cannot go with `records`.
fn against_records(route: &Route, given: &dyn Fn(&str) -> bool) -> Option<String> {
    route.records?;
    let message = if route.output {
        "`output` is made of a whole file, and with `records` each record is a task of its own; \
         take one of the two lines out"
    } else if given("fields") {
        "`fields` are those of one JSON file, and with `records` a file holds many; take one of the \
         two lines out"
    } else if given("call") {
        "with `records` the function gets the record, so `call` means nothing; take it out"
    } else {
        return None;
    };
    Some(message.to_owned())
}

/// What a route's worker is set by.
const WORKERS: [&str; 4] = ["command", "python", "warm", "http"];
/// Keys of the spool that a later version has.
const LATER_AT_TOP: [&str; 3] = ["server", "broker", "on_repeat"];

/// What to say of a key that the place does not have. `shown` is the place, ` in [routes.x]`.
fn unknown_key(place: Place, key: &str, shown: &str) -> String {
    let name = key.escape_debug();
    let (other, later) = match place {
        Place::Top => (Place::Route, LATER_AT_TOP.as_slice()),
        Place::Route => (Place::Top, [].as_slice()),
    };
    if later.contains(&key) {
        return format!("this version of inboxd does not have `{name}`; take the line out");
    }
    let hint = match setting::find(other, key).map(|_| other) {
        Some(Place::Route) => "it belongs to a route, below a line [routes.NAME]".to_owned(),
        Some(Place::Top) => {
            "it belongs to the spool, above the first [routes.NAME] of inboxd.toml".to_owned()
        }
        None => match suggest::nearest(key, setting::names(place)) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => {
                format!("there are {}", setting::names(place).collect::<Vec<_>>().join(", "))
            }
        },
    };
    format!("unknown key `{name}`{shown}; {hint}")
}

#[cfg(any(test, fuzzing))]
/// See [`crate::fuzzing::settings`].
pub(crate) fn fuzz_settings(text: &str) {
    let path = Path::new("inboxd.toml");
    let settings = main_file(path, text);
    if let Ok(settings) = &settings {
        assert!(
            super::RouteTable::new(settings).is_ok(),
            "settings that were accepted do not work"
        );
    }
    for error in settings.err().into_iter().flatten() {
        let said = error.to_string();
        assert!(
            !said.chars().any(char::is_control),
            "a message that writes to the terminal: {said:?}"
        );
    }
    drop(route_file(Path::new("routes.d/x.toml"), text, &Settings::default()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::pace::Rate;
    use proptest::prelude::*;
    use std::fs;

    /// A spool with these files.
    fn spool(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let spool = tempfile::tempdir().unwrap();
        fs::create_dir(spool.path().join("routes.d")).unwrap();
        for (name, text) in files {
            fs::write(spool.path().join(name), text).unwrap();
        }
        spool
    }

    /// The messages, with paths below the spool.
    fn messages(spool: &Path, errors: &[ConfigError]) -> Vec<String> {
        let root = format!("{}/", spool.display());
        errors.iter().map(|e| e.to_string().replace(&root, "")).collect()
    }

    /// What is said of an `inboxd.toml`.
    fn refused(text: &str) -> Vec<String> {
        let spool = spool(&[("inboxd.toml", text.as_bytes())]);
        match load(spool.path()) {
            Ok(loaded) => panic!("{text}\nwas accepted: {loaded:?}"),
            Err(errors) => messages(spool.path(), &errors),
        }
    }

    fn accepted(text: &str) -> Settings {
        let spool = spool(&[("inboxd.toml", text.as_bytes())]);
        load(spool.path()).unwrap_or_else(|errors| panic!("{text}\n{errors:?}")).settings
    }

    /// The one route of a file in which only `lines` stand below its command.
    fn route_with(lines: &str) -> Route {
        accepted(&format!("[routes.r]\ncommand = [\"true\"]\n{lines}")).routes.remove(0)
    }

    /// Goal: whoever makes a mistake at the top learns where and what to do.
    /// Method: one file a mistake, the exact message.
    #[test]
    fn mistakes_at_the_top() {
        for (text, message) in [
            ("worker = 2", "1:1: unknown key `worker`; did you mean `workers`?"),
            (
                "timeout = '1s'",
                "1:1: unknown key `timeout`; it belongs to a route, below a line [routes.NAME]",
            ),
            (
                "colour = 1",
                "1:1: unknown key `colour`; there are workers, drain_timeout, rescan, quiet_for, \
                 min_free_disk, min_free_memory, allow_root, prune, retention_age, retention_size, retention_results, ignore, routes",
            ),
            (
                "[server]\nlisten = 'x'",
                "1:2: this version of inboxd does not have `server`; take the line out",
            ),
            ("workers = 0", "1:11: `workers` is 0; it must be 1 to 1024"),
            ("workers = 0x1_0000", "1:11: `workers` is 0x10000; it must be 1 to 1024"),
            (
                "workers = 99999999999999999999",
                "1:11: `workers` is 99999999999999999999; it must be 1 to 1024",
            ),
            (
                "\n  workers = '4'",
                "2:13: `workers` must be a whole number from 1 to 1024, not a string",
            ),
            ("prune = 1", "1:9: `prune` must be true or false, not an integer"),
            (
                "rescan = 60",
                "1:10: `rescan` must be a time in quotes, such as \"30s\" or \"1h 30m\", \
                 not an integer",
            ),
            (
                "rescan = '60'",
                "1:10: `rescan` = \"60\" is no time (time unit needed, for example 60sec or 60ms); \
                 write a time in quotes, such as \"30s\" or \"1h 30m\"",
            ),
            ("rescan = '1ms'", "1:10: `rescan` is 1ms; it must be 100ms to 1day"),
            ("drain_timeout = '90d'", "1:17: `drain_timeout` is 90d; it must be 0s to 30days"),
            (
                "min_free_disk = 5",
                "1:17: `min_free_disk` must be a size in quotes, such as \"256 MiB\", not \
                 an integer",
            ),
            (
                "min_free_disk = '5 XB'",
                "1:17: `min_free_disk` = \"5 XB\" is no size; write a size in quotes, \
                 such as \"256 MiB\"",
            ),
            (
                "min_free_disk = '9 EiB'",
                "1:17: `min_free_disk` is 9 EiB; it must be 0 B to 1.0 PiB",
            ),
            (
                "ignore = ['a', '[b']",
                "1:16: bad glob \"[b\": unclosed character class; missing ']'; `\\` makes the next \
                 character plain",
            ),
            ("routes = 3", "1:10: `routes` must be a table for each route: write [routes.NAME]"),
            ("[[routes]]", "1:1: `routes` must be a table for each route: write [routes.NAME]"),
            ("workers = ", "1:11: string values must be quoted, expected literal string"),
            ("workers = 1\nworkers = 2", "2:1: duplicate key"),
            ("[routes.a", "1:10: unclosed table, expected `]`"),
            (
                "\"a\\u001b\" = 1",
                "1:1: unknown key `a\\u{1b}`; there are workers, drain_timeout, rescan, \
                 quiet_for, min_free_disk, min_free_memory, allow_root, prune, retention_age, retention_size, retention_results, ignore, routes",
            ),
        ] {
            assert_eq!(refused(text), [format!("inboxd.toml:{message}")], "{text}");
        }
    }

    /// Goal: the same for a route whose files come with others.
    /// Method: names that are none, and each line that does not go with them.
    #[test]
    fn mistakes_in_a_route_with_companions() {
        for (lines, start) in [
            (
                "with = 'x.xmp'",
                ":3:8: \"x.xmp\" is no name beside a file's; write a name with {stem}",
            ),
            ("with = ['{stem}.x', 'a/{name}']", ":3:21: \"a/{name}\" is no name beside a file's"),
            ("with = '{stem}.x'\nrecords = 'lines'", ":4:11: `records` is about one file"),
            ("with = '{stem}.x'\non_repeat = 'skip'", ":4:13: `on_repeat` is about one file"),
            (
                "with = '{stem}.x'\nunit = 'folder'\ndone_file = '{name}.ok'",
                ":3:8: with unit = \"folder\" all that is in the folder comes along",
            ),
        ] {
            let why = refused(&format!("[routes.r]\ncommand = ['true']\n{lines}")).join("\n");
            assert!(why.contains(start), "{lines}\n{why}");
        }
        let why = refused("[routes.r]\ncommand = ['true', '{with}']").join("\n");
        assert!(why.contains(":2:11: `{with}` is only there with a line such as"), "{why}");
        accepted("[routes.r]\ncommand = ['true', '{with}']\nwith = ['{stem}.x', '{stem}_b.{ext}']");
    }

    /// Goal: the same for a route whose jobs are folders.
    /// Method: what is missing, and each line that is about what is in one file.
    #[test]
    fn mistakes_in_a_route_for_folders() {
        let said =
            |lines: &str| refused(&format!("[routes.r]\n{lines}\nunit = 'folder'")).join("\n");
        let why = said("command = ['true']");
        assert!(why.contains(":3:8: nothing tells when a folder is complete"), "{why}");
        for (lines, start) in [
            ("command = ['true']\nstdin = true", ":4:9: `stdin` is about what is in one file"),
            ("command = ['true']\nfields = { a = 'b' }", ":4:10: `fields` is about what is"),
            ("command = ['true']\nrecords = 'lines'", ":4:11: `records` is about what is in"),
            ("python = 'a.py:b'\ncall = 'kwargs'", ":4:8: with unit = \"folder\" there is no JSON"),
            ("http = 'http://h'", ":3:8: with unit = \"folder\" there is no one file to send"),
            ("http = 'http://h/{id}'\nmethod = 'GET'", ":3:8: with unit = \"folder\" there is no"),
            (
                "http = 'http://h'\nbody = { a = '{/b}' }",
                ":3:8: with unit = \"folder\" there is no",
            ),
        ] {
            let why = said(&format!("done_file = '{{name}}.ok'\n{lines}"));
            assert!(why.contains(start), "{lines}\n{why}");
        }
        let sound =
            "http = 'http://h'\nbody = { a = '{path}' }\nunit = 'folder'\ndone_file = '{name}.ok'";
        accepted(&format!("[routes.r]\n{sound}"));
    }

    /// Goal: the same for what stands in a route.
    /// Method: one line a mistake, below a sound command.
    #[test]
    fn mistakes_in_a_route() {
        for (line, message) in [
            ("  timout = '1s'", "3:3: unknown key `timout` in [routes.r]; did you mean `timeout`?"),
            (
                "rescan = '1s'",
                "3:1: unknown key `rescan` in [routes.r]; it belongs to the spool, above the first \
                 [routes.NAME] of inboxd.toml",
            ),
            (
                "http = 'http://h'",
                "3:8: a route has one worker, and `command` is set too; take one of them out",
            ),
            (
                "columns = { a = '/a' }",
                "3:11: only the answers of `http` have columns by JSON pointers; write a list of \
                 names",
            ),
            (
                "rows = 'details'",
                "3:8: `rows` = \"details\" is no JSON pointer; write a JSON pointer, such as \
                 \"/details\"",
            ),
            ("headers = { Host = 'x' }", "3:13: \"Host\" cannot be set as a header"),
            (
                "body = 'jsn'",
                "3:8: `body` = \"jsn\" is unknown; write \"file\", \"json\" or a table, such as \
                 { text = \"{/text}\", file = \"{name}\" }",
            ),
            (
                "python = 'a.py:b'",
                "3:10: a route has one worker, and `command` is set too; take one of them out",
            ),
            ("timeout = '0s'", "3:11: `timeout` is 0s; it must be 1ms to 30days"),
            ("grace = '30s'", "3:9: `grace` must be shorter than `drain_timeout`, which is 30s"),
            ("stdout = 'jsn'", "3:10: `stdout` = \"jsn\" is unknown; did you mean \"json\"?"),
            (
                "stdout = 'yaml'",
                "3:10: `stdout` = \"yaml\" is unknown; write \"json\", \"csv\", \"text\", \
                 \"prefixed\" or \"none\"",
            ),
            (
                "stdout = 'none'\nrequire_output = true",
                "4:18: with stdout = \"none\" there is never a row, so every job would fail; take \
                 out one of the two lines",
            ),
            (
                "records = 'lines'\noutput = true",
                "3:11: `output` is made of a whole file, and with `records` each record is a task of \
                 its own; take one of the two lines out",
            ),
            (
                "fields = { a = 'b' }\nrecords = 'ndjson'",
                "4:11: `fields` are those of one JSON file, and with `records` a file holds many; take \
                 one of the two lines out",
            ),
            (
                "call = 'path'\nrecords = 'csv'",
                "4:11: with `records` the function gets the record, so `call` means nothing; take it \
                 out",
            ),
            ("glob = []", "3:8: `glob` is empty; leave it out to take every file"),
            ("glob = 3", "3:8: `glob` must be a glob, or a list of them, not an integer"),
            (
                "glob = './x'",
                "3:8: bad glob \"./x\": it never matches; write the path below incoming/, without \
                 `.`, `..` or `//`",
            ),
            ("retries = -1", "3:11: `retries` is -1; it must be 0 to 1000"),
            (
                "retries = { timout = 1 }",
                "3:13: unknown key `timout` in `retries`; did you mean `timeout`?",
            ),
            (
                "retries = { fail = true }",
                "3:20: `fail` must be a whole number from 0 to 1000, not a boolean",
            ),
            (
                "[routes.r.retries]\nall = 1",
                "4:1: unknown key `all` in `retries`; there are fail, timeout, oom, crash, \
                 lost, try_again, first_wait, longest_wait, jitter",
            ),
            (
                "try_again_after = []",
                "3:19: `try_again_after` lists 1 to 16 times, such as [\"10s\", \"1m\"]",
            ),
            ("columns = ['a', 'a']", "3:17: column \"a\" is there twice; take one of them out"),
            (
                "columns = ['a', '_job']",
                "3:11: column `_job` is added by inboxd; take it out, or set trace_columns = false",
            ),
            ("env = { A = 1 }", "3:13: variable A must be a string, in quotes"),
            ("env = { INBOXD_JOB = 'x' }", "3:9: INBOXD_JOB is set by inboxd; choose another name"),
            ("pass_env = ['A=b']", "3:13: \"A=b\" is no name of a variable; write it without `=`"),
            ("priority = 1001", "3:12: `priority` is 1001; it must be -1000 to 1000"),
            ("workers = 0", "3:11: `workers` is 0; it must be 1 to 1024"),
        ] {
            let text = format!("[routes.r]\ncommand = ['true']\n{line}");
            assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{line}");
        }
    }

    /// Goal: what is said of further attempts and of the pace is what can be kept.
    /// Method: one line a mistake, the exact message.
    #[test]
    fn mistakes_in_attempts_and_pace() {
        for (line, message) in [
            ("retries = { jitter = 101 }", "3:22: `jitter` is 101; it must be 0 to 100"),
            (
                "retries = { first_wait = '10m' }",
                "3:11: `first_wait` is longer than `longest_wait`, which is 5m",
            ),
            (
                "retry_on = [3]",
                "3:12: `retry_on` has 3, and `retries` no attempt for it; add retries = { fail = 3 }",
            ),
            (
                "retry_on = ['crash', 'timeout']",
                "3:12: `retry_on` has \"timeout\", and `retries` no attempt for it; add retries = { \
                 timeout = 3 }",
            ),
            (
                "retry_on = [66]",
                "3:13: exit 66 says that the file is incomplete, and is always tried again; take 66 out",
            ),
            (
                "retry_on = ['crsh']",
                "3:13: `retry_on` = \"crsh\" is unknown; did you mean \"crash\"?",
            ),
            (
                "retry_on = []",
                "3:12: `retry_on` is empty; write retries = 0 for no further attempt",
            ),
            (
                "rate = '10'",
                "3:8: `rate` = \"10\" is no rate; write a number in a time, such as \"10/s\" or \
                 \"100/min\"",
            ),
            ("rate = '0/s'", "3:8: `rate` = \"0/s\": it must be 1 to 10000 in 1ms to 1day"),
            ("nice = 20", "3:8: `nice` is 20; it must be -20 to 19"),
        ] {
            let text = format!("[routes.r]\ncommand = ['true']\n{line}");
            assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{line}");
        }
    }

    /// Goal: a command that cannot run as meant is refused before it runs.
    /// Method: one command a mistake, the exact message.
    #[test]
    fn mistakes_in_a_command() {
        for (command, message) in [
            (
                "'python3 count.py {path}'",
                "2:11: `command` must be a list, since no shell takes it apart: write command = \
                 [\"python3\", \"count.py\", \"{path}\"]",
            ),
            (
                "[]",
                "2:11: `command` is empty; write a list of strings, such as [\"python3\", \
                 \"count.py\", \"{path}\"]",
            ),
            ("['sh', '{pth}']", "2:18: unknown placeholder `{pth}`; did you mean `{path}`?"),
            ("['sh', 'a}']", "2:18: a single `}`; write `}}` for a plain brace"),
            (
                "['{path}']",
                "2:12: the first element is the program and has no placeholder: write its \
                 name or path",
            ),
            (
                "['']",
                "2:12: the first element is the program and has no placeholder: write its \
                 name or path",
            ),
            ("['sh', \"\\u0000\"]", "2:18: no program takes an argument with \\u0000"),
            (
                "['sh', 3]",
                "2:18: `command` must be a list of strings, such as [\"python3\", \"count.py\", \
                 \"{path}\"], not an integer",
            ),
            (
                "['sh', '{output}/x']",
                "2:11: `{output}` is only there with the line output = true; add it",
            ),
        ] {
            let text = format!("[routes.r]\ncommand = {command}");
            assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{command}");
        }
    }

    /// Goal: a route has a worker and a name that files can be called by. Method: exact messages.
    #[test]
    fn mistakes_in_a_header() {
        let no_worker =
            "has no worker: set one line, such as command = [\"sha256sum\", \"{path}\"]";
        let command = "command = ['true']";
        for (text, message) in [
            ("\n[routes.main]".to_owned(), format!("2:9: route `main` {no_worker}")),
            (
                format!("[routes.Main]\n{command}"),
                "1:9: a route cannot be called `Main`: its name is of a-z, 0-9, _ and -".to_owned(),
            ),
            (
                format!("[routes.errors]\n{command}"),
                "1:9: a route cannot be called `errors`: results/errors.csv is for failures"
                    .to_owned(),
            ),
            (
                "routes.main = 'true'".to_owned(),
                "1:15: route `main` must be a table: write [routes.main]".to_owned(),
            ),
            (
                "[routes]\nprune = true".to_owned(),
                "2:1: unknown key `prune` in [routes]; it belongs to the spool, above the first \
                 [routes.NAME] of inboxd.toml"
                    .to_owned(),
            ),
        ] {
            assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{text}");
        }
        let long = "x".repeat(limits::ROUTE_NAME + 1);
        let message = &refused(&format!("[routes.{long}]\n{command}"))[0];
        assert!(message.ends_with("its name has at most 64 letters"), "{message}");
    }

    /// Goal: all that is wrong is said at once, in the order of the file.
    /// Method: mistakes of all kinds, the later ones first in the alphabet.
    #[test]
    fn all_mistakes_are_said() {
        let text = "workers = 0\n[routes.b]\ntimeout = 3\n[routes.a]\ncommand = 'x'\ngrce = 1";
        let lines: Vec<_> =
            refused(text).iter().map(|m| m.split(": ").next().unwrap().to_owned()).collect();
        assert_eq!(
            lines,
            [
                "inboxd.toml:1:11",
                "inboxd.toml:2:9",
                "inboxd.toml:3:11",
                "inboxd.toml:5:11",
                "inboxd.toml:6:1"
            ]
        );
    }

    /// Goal: a worker that cannot run is mended at the line that names it. Method: an interpreter that is
    /// set, the same where something else is wrong, one that is not set, a command.
    #[test]
    fn a_worker_is_mended_where_it_is_named() {
        let settings = accepted(
            "[routes.a]\npython = \"a.py:f\"\ninterpreter = \"python3.99\"\n[routes.b]\npython = \
             \"a.py:f\"\n[routes.c]\ncommand = [\"x\"]",
        );
        let missing = "cannot start \"python3.99\": not found in PATH=/bin";
        let places = ["a", "b", "c"].map(|name| {
            let route = settings.routes.iter().find(|route| route.name == name).unwrap();
            route.place_to_mend(missing)
        });
        assert_eq!(
            places,
            [
                "`interpreter` at inboxd.toml:3",
                "`python` at inboxd.toml:5",
                "`command` at inboxd.toml:7"
            ]
        );
        let other = settings.routes[0].place_to_mend("a.py has no function f");
        assert_eq!(other, "`python` at inboxd.toml:2");
    }

    /// Goal: routes are in the order in which a person wrote them, then routes.d by name.
    /// Method: names that sort otherwise; files that are none of ours between them.
    #[test]
    fn routes_are_in_the_order_of_the_file() {
        let line = b"command = ['true']";
        let main = "[routes.z]\ncommand = ['true']\n[routes.a]\n\ncommand = ['true']";
        let spool = spool(&[
            ("inboxd.toml", main.as_bytes()),
            ("routes.d/y.toml", line),
            ("routes.d/b.toml", line),
            ("routes.d/.b.toml", b"["),
            ("routes.d/b.toml~", b"["),
            ("routes.d/README", b"["),
        ]);
        let loaded = load(spool.path()).unwrap();
        assert_eq!(loaded.broken, []);
        let routes = loaded.settings.routes.iter().map(|r| (r.name.as_str(), r.origin.as_str()));
        assert_eq!(
            routes.collect::<Vec<_>>(),
            [
                ("z", "inboxd.toml:2"),
                ("a", "inboxd.toml:5"),
                ("b", "routes.d/b.toml:1"),
                ("y", "routes.d/y.toml:1")
            ]
        );
    }

    /// Goal: a broken plug-in is refused with its line, and the others run.
    /// Method: one sound file among one of each kind of broken one.
    #[test]
    fn broken_plug_in_stops_no_other() {
        let line: &[u8] = b"command = ['true']";
        let spool = spool(&[
            ("inboxd.toml", b"[routes.main]\ncommand = ['true']"),
            ("routes.d/Big.toml", line),
            ("routes.d/empty.toml", b""),
            ("routes.d/errors.toml", line),
            ("routes.d/main.toml", line),
            ("routes.d/section.toml", b"[routes.section]\ncommand = ['true']"),
            ("routes.d/sound.toml", line),
            ("routes.d/syntax.toml", b"command = [\n'true'"),
            ("routes.d/typo.toml", b"command = ['true']\n\n glob = '*'\n comand = 1"),
            ("routes.d/utf8.toml", b"# \xc3\xbc\n# \xc3\xbc\xff\n"),
        ]);
        fs::create_dir(spool.path().join("routes.d/folder.toml")).unwrap();
        let loaded = load(spool.path()).unwrap();
        let names: Vec<_> = loaded.settings.routes.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["main", "sound"]);
        assert_eq!(
            messages(spool.path(), &loaded.broken),
            [
                "routes.d/Big.toml:1:1: a route cannot be called `Big`: its name is of a-z, 0-9, _ \
                 and -; rename this file",
                "routes.d/empty.toml:1:1: route `empty` has no worker: set one line, such as \
                 command = [\"sha256sum\", \"{path}\"]",
                "routes.d/errors.toml:1:1: a route cannot be called `errors`: results/errors.csv \
                 is for failures; rename this file",
                "cannot read routes.d/folder.toml: it is not a regular file",
                "routes.d/main.toml:1:1: route `main` is already at inboxd.toml:2; rename this \
                 file",
                "routes.d/section.toml:1:1: route `section` has no worker: set one line, such as \
                 command = [\"sha256sum\", \"{path}\"]",
                "routes.d/section.toml:1:2: a file of routes.d holds the keys of one route: leave \
                 out the line [routes.NAME], the name is that of the file",
                "routes.d/syntax.toml:2:7: unclosed array, expected `]`",
                "routes.d/typo.toml:4:2: unknown key `comand`; did you mean `command`?",
                "routes.d/utf8.toml:2:4: this is not UTF-8; save the file as UTF-8",
            ]
        );
    }

    /// Goal: a folder without settings says how to get them. Method: an empty folder; a folder in
    /// the place of the file; a file too large.
    #[test]
    fn unreadable_settings_say_why() {
        let spool = tempfile::tempdir().unwrap();
        let said = |spool: &Path| messages(spool, &load(spool).unwrap_err());
        assert_eq!(said(spool.path()), ["inboxd.toml is not there; `inboxd init` makes a spool"]);
        fs::create_dir(spool.path().join("inboxd.toml")).unwrap();
        assert_eq!(said(spool.path()), ["cannot read inboxd.toml: it is not a regular file"]);
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("inboxd.toml"), "#".repeat((1 << 20) + 1)).unwrap();
        assert_eq!(said(other.path()), ["cannot read inboxd.toml: it has more than 1048576 bytes"]);
    }

    /// Goal: a spool may begin without a route. Method: an empty file.
    #[test]
    fn empty_file_is_all_defaults() {
        assert_eq!(accepted(""), Settings::default());
    }

    /// Goal: what people write for a job processor and a clean-up test means what they think.
    /// Method: three files as users would have them, compared field by field.
    #[test]
    fn files_as_users_write_them() {
        let settings = accepted(
            "workers = 10\n[routes.sh]\nglob = \"*.sh\"\ncommand = [\"sh\", \"{path}\"]\n\
             stdout = \"prefixed\"\nretries = { fail = 0 }\nrequire_output = true\n\
             trace_columns = false",
        );
        let argv = vec!["sh".to_owned(), "{path}".to_owned()];
        let want = Route {
            origin: "inboxd.toml:4".to_owned(),
            glob: vec!["*.sh".to_owned()],
            stdout: StdoutFormat::Prefixed,
            require_output: true,
            trace_columns: false,
            ..Route::new("sh", argv)
        };
        assert_eq!(settings, Settings { workers: 10, routes: vec![want], ..Settings::default() });

        let settings = accepted(
            "workers = 1\n[routes.a]\ncommand = ['sh', '{path}']\ntimeout = '1s'\nretries = 2",
        );
        let route = &settings.routes[0];
        assert_eq!(route.timeout, Duration::from_secs(1));
        let retries = &route.retries;
        assert_eq!((retries.fail, retries.crash, retries.try_again, retries.lost), (2, 2, 2, 3));

        let retries = route_with("[routes.r.retries]\nfail = 4\ntry_again = 2").retries;
        assert_eq!((retries.fail, retries.crash, retries.try_again, retries.lost), (4, 1, 2, 3));
        let rate = |text: &str| route_with(&format!("rate = '{text}'")).rate.unwrap();
        assert_eq!(rate("100/min"), Rate { starts: 100, per_ms: 60_000 });
        assert_eq!(rate("3 / 30s"), Rate { starts: 3, per_ms: 30_000 });
        assert_eq!(rate("7/h").per_ms, 3_600_000);
        assert_eq!(route_with("try_again_after = '2s'").try_again_after, [Duration::from_secs(2)]);
        assert_eq!(
            route_with("env = { B = '1', A = '2' }").env,
            [("B".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())]
        );
        assert!(route_with("output = true").output);
        assert_eq!(route_with("grace = '29s'").grace, Duration::from_secs(29));
    }

    proptest! {
        /// Goal: no file panics. Method: random text; and random lines of real keys and odd values.
        #[test]
        fn no_text_panics(text in any::<String>(), lines in proptest::collection::vec(
            (
                0usize..40,
                "-?[0-9]{1,20}|'[^'\n]{0,6}'|\\[('[a{}*]{0,3}',? ?){0,3}\\]?\
                 |\\{ ?[a-z]{0,3} = [0-9'] ?\\}|true|1\\.5",
            ),
            0..6,
        )) {
            super::fuzz_settings(&text);
            let table = crate::config::settings_table();
            let lines = lines.iter().map(|(n, value)| match table.get(*n) {
                Some(doc) => format!("{} = {value}", doc.name),
                None => "[routes.r]".to_owned(),
            });
            let file = lines.collect::<Vec<_>>().join("\n");
            super::fuzz_settings(&file);
        }
    }
}
