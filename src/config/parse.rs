//! From the settings files of a spool to [`Settings`], or to errors with line and column.
//!
//! Must not know: the state of the spool, or what the daemon does with settings.
//!
//! - `file`: one file, and what is wrong in it. `between`: what is wrong between two settings.
//! - `names`: what a route may be called, and what to say of an unknown key.
//!
//! Invariants
//! - What is in [`Loaded::settings`] needs no further check.
//! - An error in `inboxd.toml` refuses all; one in `routes.d/` only that file, since a plug-in must
//!   not be able to stop the others.
//! - All that is wrong in a file is said at once, in the order of the file. TOML that does not
//!   parse is one error: behind it everything is guesswork.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::setting::{self, Place, Set};
use super::value::{Value, in_file_order};
use super::{ConfigError, Route, Settings, chain, limits};
use between::WORKERS;
use file::{File, Kind};
use names::{check_name, unknown_key};

pub(super) mod between;
mod file;
mod names;

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
        let place = route.next_at.as_ref().unwrap_or(&route.origin);
        let (file, line) = place.rsplit_once(':').unwrap_or((place, "1"));
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
            Some((_, Set::Route(_))) | None if is_route(given) => {
                let name = name.escape_debug();
                file.report(
                    key.span(),
                    format!("unknown key `{name}`; did you mean [routes.{name}]?"),
                );
            }
            Some((_, Set::Route(_))) | None => {
                file.report(key.span(), unknown_key(Place::Top, name, ""));
            }
        }
    }
    if settings.retention_results
        && settings.retention_age.is_none()
        && settings.retention_size.is_none()
        && let Some(given) = document.get_ref().get("retention_results")
    {
        let message = "`retention_results` does nothing without `retention_age` or `retention_size`; \
                       add one of them, or take it out";
        file.report(given.span(), message.to_owned());
    }
    // Behind the others, wherever the file has them: routes are checked against `drain_timeout`.
    if let Some(routes) = routes {
        settings.routes = file.routes(routes, settings.drain_timeout);
    }
    if file.errors.is_empty() { Ok(settings) } else { Err(file.in_order()) }
}

/// A table that says what its worker is can only be a route.
fn is_route(given: &Spanned<DeValue<'_>>) -> bool {
    given
        .get_ref()
        .as_table()
        .is_some_and(|table| WORKERS.iter().any(|key| table.contains_key(*key)))
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
mod tests;
