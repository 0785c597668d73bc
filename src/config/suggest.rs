//! "Did you mean": the known name that is nearest to one that is not known.
//!
//! Must not know: what the names are for.

/// The nearest of `known`, if it is near enough to be what was meant.
///
/// Near is: the same but for case and `-` for `_`; at most a third of its letters wrong (swapped
/// neighbours count once); or one is a part of the other, at a `_` (`drain`, `max_workers`).
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .filter_map(|name| {
            let distance = strsim::osa_distance(&word, name);
            let allowed = (name.chars().count().min(word.chars().count()) / 3).max(1);
            // A name of one or two letters is one slip away from anything.
            let near = distance <= allowed && name.chars().count() > 2;
            let rank = if distance == 0 || near {
                Some(distance)
            } else if is_part(&word, name) || is_part(name, &word) {
                // Behind every slip of the keys.
                Some(1000 + distance)
            } else {
                None
            };
            rank.map(|rank| (rank, name))
        })
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, name)| name)
}

/// `part` stands in `whole` as one or more of its words.
fn is_part(part: &str, whole: &str) -> bool {
    part.len() > 2 && format!("_{whole}_").contains(&format!("_{part}_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 10] = [
        "timeout",
        "workers",
        "command",
        "glob",
        "drain_timeout",
        "quiet_for",
        "rescan",
        "env",
        "pass_env",
        "retries",
    ];

    /// Goal: slips get the name that was meant, other words get none. Method: a table of both.
    #[test]
    fn slips_are_understood() {
        for (word, meant) in [
            ("timout", Some("timeout")),
            ("time_out", Some("timeout")),
            ("Timeout", Some("timeout")),
            ("tiemout", Some("timeout")),
            ("worker", Some("workers")),
            ("max_workers", Some("workers")),
            ("comand", Some("command")),
            ("quiet-for", Some("quiet_for")),
            ("quiet", Some("quiet_for")),
            ("drain", Some("drain_timeout")),
            ("glbo", Some("glob")),
            ("retry", None),
            ("retires", Some("retries")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, KNOWN), meant, "{word:?}");
        }
    }
}
