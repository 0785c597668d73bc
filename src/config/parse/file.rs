//! One file that is being read: its TOML, the routes in it, and what was found wrong so far.
//!
//! Must not know: where the file was found, the other files.
//!
//! Invariants
//! - All that is wrong is noted, each with its line and column; reading goes on behind it.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::between::{WORKERS, between_settings};
use super::names::{check_name, unknown_key};
use crate::config::request::Method;
use crate::config::setting::{self, Place, Set};
use crate::config::value::{Problem, Value, in_file_order};
use crate::config::{ConfigError, Route, locate};

/// How a route is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// `[routes.NAME]` in `inboxd.toml`.
    Section,
    /// `routes.d/NAME.toml`.
    File,
}

/// A file that is being read, with what was found wrong so far.
pub(super) struct File<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) errors: Vec<ConfigError>,
}

impl<'a> File<'a> {
    pub(super) fn error(&self, offset: usize, message: String) -> ConfigError {
        let (line, column) = locate::line_and_column(self.text, offset);
        ConfigError::Invalid { path: self.path.to_owned(), line, column, message }
    }

    pub(super) fn report(&mut self, span: Range<usize>, message: String) {
        let error = self.error(span.start, message);
        self.errors.push(error);
    }

    pub(super) fn note(&mut self, checked: Result<(), Problem>) {
        if let Err(Problem { span, message }) = checked {
            self.report(span, message);
        }
    }

    pub(super) fn in_order(mut self) -> Vec<ConfigError> {
        self.errors.sort_by_key(|error| match error {
            ConfigError::Invalid { line, column, .. } => (*line, *column),
            ConfigError::Missing { .. } | ConfigError::Read { .. } => (0, 0),
        });
        self.errors
    }

    /// The text as TOML; without it the error is noted.
    pub(super) fn parse(&mut self) -> Option<Spanned<DeTable<'a>>> {
        match DeTable::parse(self.text) {
            Ok(document) => Some(document),
            Err(e) => {
                // Some of its messages have a second line, for what was expected.
                let mut message = e.message().trim().replace('\n', ", ");
                let at = e.span().unwrap_or(0..0);
                if message == "duplicate key"
                    && let Some(key) = self.text.get(at.clone())
                {
                    message = format!("`{key}` is set twice");
                }
                self.report(at, message);
                None
            }
        }
    }

    pub(super) fn routes(
        &mut self,
        given: &Spanned<DeValue<'_>>,
        drain_timeout: Duration,
    ) -> Vec<Route> {
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
                None if setting::find(Place::Route, name).is_some() => {
                    let message =
                        format!("`{name}` belongs to a route: write [routes.NAME] above it");
                    self.report(key.span(), message);
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
    pub(super) fn route(
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
        let place_of = |key: &str| table.contains_key(key).then(|| place(key));
        route.interpreter_at = place_of("interpreter");
        route.next_at = place_of("next");
        for (key, message) in between_settings(&route, table, drain_timeout) {
            let offset = table.get(key).map_or(at.start, |value| value.span().start);
            self.report(offset..offset, message);
        }
        route
    }
}
