//! The list of settings: name, default, limit, meaning, and how each is taken over.
//!
//! Must not know: files and lines. What is wrong in one value is said here, what is wrong between
//! two of them in `parse`.
//!
//! - `table`: the list itself. `values`: values that take more than a line to check.
//!
//! Invariants
//! - It is the only list: decoding goes by it, so a setting that is not in it does not exist.
//!   Unknown keys are compared with it, and so is the table of the README.
//! - A default is written here as the file would have it; a test compares it with [`limits`].

use std::time::Duration;

use super::value::{Checked, Limit, Value};
use super::{Route, Settings, limits};
use table::TABLE;

mod table;
mod values;

/// Every setting, those of the spool first.
pub fn settings_table() -> &'static [SettingDoc] {
    TABLE
}

/// One setting, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct SettingDoc {
    /// The key.
    pub name: &'static str,
    /// As the file would have it; in words, without quotes, where there is no value to write.
    pub default: &'static str,
    /// What it takes.
    pub limit: Limit,
    /// What it does, as one phrase.
    pub meaning: &'static str,
    pub(super) set: Set,
}

/// Where a setting stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the top of `inboxd.toml`.
    Top,
    /// In `[routes.NAME]`, or in `routes.d/NAME.toml`.
    Route,
}

/// How a value is taken over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Set {
    Top(fn(&mut Settings, &Value<'_>) -> Checked<()>),
    /// The table of routes itself.
    Routes,
    Route(fn(&mut Route, &Value<'_>) -> Checked<()>),
}

impl SettingDoc {
    /// Where it stands.
    pub fn place(&self) -> Place {
        match self.set {
            Set::Top(_) | Set::Routes => Place::Top,
            Set::Route(_) => Place::Route,
        }
    }
}

/// The setting of that name, if there is one.
pub(super) fn find(place: Place, name: &str) -> Option<&'static SettingDoc> {
    TABLE.iter().find(|doc| doc.place() == place && doc.name == name)
}

/// The names of the settings of a place.
pub(super) fn names(place: Place) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(move |doc| doc.place() == place).map(|doc| doc.name)
}

const fn top(
    name: &'static str,
    default: &'static str,
    limit: Limit,
    meaning: &'static str,
    set: fn(&mut Settings, &Value<'_>) -> Checked<()>,
) -> SettingDoc {
    SettingDoc { name, default, limit, meaning, set: Set::Top(set) }
}

const fn route(
    name: &'static str,
    default: &'static str,
    limit: Limit,
    meaning: &'static str,
    set: fn(&mut Route, &Value<'_>) -> Checked<()>,
) -> SettingDoc {
    SettingDoc { name, default, limit, meaning, set: Set::Route(set) }
}

const fn count(least: i64, most: i64) -> Limit {
    Limit::Count { least, most }
}

const fn time(least: Duration, most: Duration) -> Limit {
    Limit::Time { least, most }
}

const fn size(least: u64) -> Limit {
    Limit::Size { least, most: limits::LARGEST }
}

const BOOLEAN: Limit = Limit::Words("true or false");
const GLOBS: Limit = Limit::Words("a glob, or a list of them");
const VARIABLES: Limit = Limit::Words("a list of names, such as [\"CUDA_VISIBLE_DEVICES\"]");

#[cfg(test)]
mod tests;
