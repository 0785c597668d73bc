//! Kind `python`: how the shim that speaks inboxd-worker/1 for a function reaches the interpreter.
//!
//! Must not know: processes, messages. What the shim promises is written in `shim.py`.
//!
//! The shim is handed over in a variable of the environment, which it takes out at once: so there is
//! no file to install, to find or to protect, and the list of processes shows the user's file.

use std::ffi::OsString;

use crate::config::{Call, Records, Route};

const SHIM: &str = include_str!("shim.py");
/// The variable that holds the shim.
const SOURCE_VAR: &str = "INBOXD_SHIM";
/// Runs the shim; its name in a traceback is `<inboxd>`.
const STARTER: &str = "import os; \
    exec(compile(os.environ.pop('INBOXD_SHIM'), '<inboxd>', 'exec'), {'__name__': 'inboxd'})";

/// The variable with the shim.
pub(super) fn source() -> (OsString, OsString) {
    (SOURCE_VAR.into(), SHIM.into())
}

/// What the interpreter is given.
pub(super) fn arguments(file: &str, function: &str, route: &Route) -> Vec<OsString> {
    let call = match (route.records, route.warm.call) {
        (None, Call::Path) => "path",
        // Its other members say which route it is for.
        (None, Call::Kwargs) if !route.fields.is_empty() => "payload",
        (None, Call::Kwargs) => "kwargs",
        (Some(Records::Lines), _) => "line",
        (Some(Records::Csv), _) => "text fields",
        (Some(Records::Ndjson), _) => "fields",
    };
    ["-c", STARTER, file, function, call].map(OsString::from).to_vec()
}
