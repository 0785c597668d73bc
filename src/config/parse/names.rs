//! Names that people choose or mistype: what a route may be called, what to say of an unknown key.
//!
//! Must not know: files, lines, values.

use crate::config::setting::{self, Place};
use crate::config::{limits, suggest};

/// Whether a route may be called so.
pub(super) fn check_name(name: &str) -> Result<(), String> {
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

/// Keys of the spool that a later version has.
const LATER_AT_TOP: [&str; 3] = ["server", "broker", "on_repeat"];

/// What to say of a key that the place does not have. `shown` is the place, ` in [routes.x]`.
pub(super) fn unknown_key(place: Place, key: &str, shown: &str) -> String {
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
