//! How things are said: times, counts, routes, a finished job. Shared by the commands.
//!
//! Must not know: where the facts come from.

use std::time::Duration;

use crate::config::{Route, Worker};
use crate::daemon::notice::Finished;
use crate::journal::record::Outcome;

/// `8,114`
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 row`, `6 rows`
pub(crate) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// `41 ms`, `3.2 s`, `4 min 10 s`, `3 d 2 h`
pub(crate) fn time(time: Duration) -> String {
    let ms = time.as_millis();
    let s = time.as_secs();
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", s, ms % 1000 / 100),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// What a route runs: `python3 count.py {path}`
pub(crate) fn worker(route: &Route) -> String {
    match &route.worker {
        Worker::Command { argv } | Worker::Warm { argv } => argv.join(" "),
        Worker::Python { file, function } => format!("{file}:{function}"),
    }
}

/// `route count → python3 count.py {path}`, or the names of several.
pub(crate) fn routes(routes: &[Route]) -> String {
    match routes {
        [one] => format!("route {} → {}", one.name, worker(one)),
        many => {
            let names: Vec<&str> = many.iter().map(|route| route.name.as_str()).collect();
            format!("routes {}", names.join(", "))
        }
    }
}

/// `done    hosts      main   3 ms   1 row`
pub(crate) fn done(finished: &Finished) -> String {
    let it = &finished.outcome;
    let took = time(Duration::from_millis(it.took_ms));
    format!("done    {}   {}   {took}   {}", it.rel.0, it.route, plural(it.rows, "row", "rows"))
}

/// `failed  bad.json   count  attempt 1 of 1   ValueError: boom`
pub(crate) fn failed(outcome: &Outcome) -> String {
    let reason = outcome.failure.as_ref().map_or("", |failure| failure.reason.as_str());
    let attempts = outcome.attempts;
    format!(
        "failed  {}   {}   attempt {attempts} of {attempts}   {reason}",
        outcome.rel.0, outcome.route
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: numbers and times read as in the transcripts. Method: one of each size.
    #[test]
    fn numbers_and_times() {
        assert_eq!(count(0), "0");
        assert_eq!(count(8_114), "8,114");
        assert_eq!(count(1_048_576), "1,048,576");
        assert_eq!(time(Duration::from_millis(41)), "41 ms");
        assert_eq!(time(Duration::from_millis(3_250)), "3.2 s");
        assert_eq!(time(Duration::from_secs(250)), "4 min 10 s");
        assert_eq!(time(Duration::from_secs(3 * 86_400 + 7_300)), "3 d 2 h");
        assert_eq!(plural(1, "row", "rows"), "1 row");
    }
}
