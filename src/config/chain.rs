//! `next` over all routes: each leads to a route, and no chain comes back to where it was.
//!
//! Must not know: files. It is given routes, and gives what is wrong with which.

use super::{Route, Unit};

/// What is wrong with the `next` of the route at this place, if anything is. `is_coming` says of a name
/// that its route is only missing because its file is broken.
pub(super) fn fault(
    routes: &[Route],
    at: usize,
    is_coming: impl Fn(&str) -> bool,
) -> Option<String> {
    let first = routes.get(at)?;
    let find = |name: &str| routes.iter().find(|route| route.name == name);
    let mut names = vec![first.name.as_str()];
    let mut next = first.next.as_deref()?;
    loop {
        if next == first.name {
            names.push(next);
            return Some(format!("`next` goes round in a circle: {}", names.join(" → ")));
        }
        let Some(route) = find(next) else {
            // A fault further on is that of the route there.
            let is_ours = names.len() == 1 && !is_coming(next);
            let known: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
            return is_ours
                .then(|| format!("`next` = {next:?} is no route; there are {}", known.join(", ")));
        };
        if names.contains(&next) {
            // A circle of others.
            return None;
        }
        if names.len() == 1 && route.unit == Unit::Folder {
            return Some(format!("`next` hands on files, and route `{next}` takes folders"));
        }
        if names.len() == 1 && !route.with.is_empty() {
            return Some(format!(
                "`next` hands on one file after the other, and those of route `{next}` come with others"
            ));
        }
        names.push(next);
        next = route.next.as_deref()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a chain ends, and every mistake is said once, where it is. Method: chains that do, that lead
    /// nowhere, and round.
    #[test]
    fn chains_end() {
        let routes: Vec<Route> = [
            ("a", Some("b")),
            ("b", Some("c")),
            ("c", None),
            ("self", Some("self")),
            ("x", Some("y")),
            ("y", Some("x")),
            ("to_x", Some("x")),
            ("lost", Some("none")),
            ("to_lost", Some("lost")),
            ("to_folder", Some("folder")),
            ("folder", None),
            ("waits", Some("broken")),
        ]
        .into_iter()
        .map(|(name, next)| Route {
            next: next.map(str::to_owned),
            unit: if name == "folder" { Unit::Folder } else { Unit::File },
            ..Route::new(name, vec!["true".to_owned()])
        })
        .collect();
        let said = |name: &str| {
            let at = routes.iter().position(|route| route.name == name).unwrap();
            fault(&routes, at, |name| name == "broken").unwrap_or_default()
        };
        for name in ["a", "b", "c", "to_x", "to_lost", "waits"] {
            assert_eq!(said(name), "", "{name}");
        }
        assert_eq!(said("self"), "`next` goes round in a circle: self → self");
        assert_eq!(said("x"), "`next` goes round in a circle: x → y → x");
        assert_eq!(said("to_folder"), "`next` hands on files, and route `folder` takes folders");
        assert!(said("lost").starts_with("`next` = \"none\" is no route; there are a, b"));
    }
}
