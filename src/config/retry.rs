//! The settings of further attempts and of the pace: `retries`, `retry_on`, `rate`.
//!
//! Must not know: what the core makes of them, files and lines.

use std::time::Duration;

use super::value::{Checked, Limit, Problem, Value};
use super::{RetryWaits, Route, limits, suggest};
use crate::core::pace::Rate;
use crate::core::retry::RetryOn;
use crate::core::verdict::{Budget, FailClass, Spent};

/// The budgets by their names.
fn budget<'r>(retries: &'r mut Spent, name: &str) -> Option<&'r mut u32> {
    match name {
        "fail" => Some(&mut retries.fail),
        "timeout" => Some(&mut retries.timeout),
        "oom" => Some(&mut retries.oom),
        "crash" => Some(&mut retries.crash),
        "lost" => Some(&mut retries.lost),
        "try_again" => Some(&mut retries.try_again),
        _ => None,
    }
}

/// What `retries` may say, budgets first.
const KEYS: [&str; 9] = [
    "fail",
    "timeout",
    "oom",
    "crash",
    "lost",
    "try_again",
    "first_wait",
    "longest_wait",
    "jitter",
];

pub(super) fn retries(v: &Value<'_>, retries: &mut Spent, waits: &mut RetryWaits) -> Checked<()> {
    if !v.is_table() {
        let n = v.count()?;
        // Not `lost`: those attempts ended with the daemon, and nobody knows which job is to blame.
        *retries =
            Spent { fail: n, timeout: n, oom: n, crash: n, lost: retries.lost, try_again: n };
        return Ok(());
    }
    let wait = Limit::Time { least: Duration::ZERO, most: limits::LONGEST_TIME };
    for (key, value) in v.table()? {
        match value.name {
            "first_wait" => waits.first = Value { limit: wait, ..value }.time()?,
            "longest_wait" => waits.longest = Value { limit: wait, ..value }.time()?,
            "jitter" => {
                let limit = Limit::Count { least: 0, most: 100 };
                waits.jitter_percent = Value { limit, ..value }.count()?;
            }
            name => {
                let Some(slot) = budget(retries, name) else {
                    let hint = match suggest::nearest(name, KEYS) {
                        Some(name) => format!("did you mean `{name}`?"),
                        None => format!("there are {}", KEYS.join(", ")),
                    };
                    let name = name.escape_debug();
                    let message = format!("unknown key `{name}` in `retries`; {hint}");
                    return Err(Problem { span: key.span(), message });
                };
                *slot = value.count()?;
            }
        }
    }
    if waits.first > waits.longest {
        let longest = humantime::format_duration(waits.longest);
        return Err(
            v.problem(format!("`first_wait` is longer than `longest_wait`, which is {longest}"))
        );
    }
    Ok(())
}

/// The kinds of failure that a list may name. Not `lost`, which is tried again in any case.
const CLASSES: [(&str, FailClass); 5] = [
    ("fail", FailClass::Fail),
    ("timeout", FailClass::Timeout),
    ("oom", FailClass::Oom),
    ("crash", FailClass::Crash),
    ("try_again", FailClass::TryAgain),
];

pub(super) fn retry_on(v: &Value<'_>) -> Checked<RetryOn> {
    let mut on = RetryOn::default();
    let items = v.list()?;
    if items.is_empty() {
        return Err(
            v.problem("`retry_on` is empty; write retries = 0 for no further attempt".to_owned())
        );
    }
    if items.len() > limits::MOST_RETRY_ON {
        let most = limits::MOST_RETRY_ON;
        return Err(v.problem(format!(
            "`retry_on` lists {} failures; it must be 1 to {most}",
            items.len()
        )));
    }
    for item in items {
        if item.is_text() {
            on.classes.push(item.one_of(&CLASSES)?);
            continue;
        }
        let code = Value { limit: Limit::Count { least: 1, most: 255 }, ..item }.count()?;
        let free = match code {
            66 => Some("exit 66 says that the file is incomplete, and is always tried again"),
            126 | 127 => Some("exit 126 and 127 say that the route cannot run, which pauses it"),
            _ => None,
        };
        if let Some(free) = free {
            return Err(item.problem(format!("{free}; take {code} out")));
        }
        on.exits.push(code);
    }
    Ok(on)
}

/// Something in `retry_on` for which `retries` has no attempt: it would be there for nothing.
pub(super) fn without_attempts(route: &Route) -> Option<String> {
    let on = route.retry_on.as_ref()?;
    let of_class = on.classes.iter().filter_map(|class| {
        let name = CLASSES.iter().find(|(_, known)| known == class)?.0;
        Some((format!("{name:?}"), class.budget()?))
    });
    let of_exit = on.exits.iter().map(|code| match code {
        69 | 75 => (code.to_string(), Budget::TryAgain),
        _ => (code.to_string(), Budget::Fail),
    });
    let (what, budget) = of_exit.chain(of_class).find(|(_, it)| route.retries.of(*it) == 0)?;
    let name = serde_json::to_value(budget).ok()?;
    let name = name.as_str()?.to_owned();
    Some(format!(
        "`retry_on` has {what}, and `retries` no attempt for it; add retries = {{ {name} = 3 }}"
    ))
}

/// `"10/s"`: so many in one unit; `"10/30s"`: in so long.
pub(super) fn rate(v: &Value<'_>) -> Checked<Rate> {
    let text = v.text()?;
    let parsed = text.split_once('/').and_then(|(starts, per)| {
        let (starts, per) = (starts.trim().parse::<usize>().ok()?, per.trim());
        let is_unit = !per.starts_with(|c: char| c.is_ascii_digit());
        let per = if is_unit { format!("1{per}") } else { per.to_owned() };
        Some((starts, humantime::parse_duration(&per).ok()?))
    });
    let Some((starts, per)) = parsed else {
        return Err(v.problem(format!("`rate` = {text:?} is no rate; write {}", v.limit)));
    };
    let most = limits::MOST_STARTS;
    let is_time = (Duration::from_millis(1)..=limits::LONGEST_WAIT).contains(&per);
    if !(1..=most).contains(&starts) || !is_time {
        let longest = humantime::format_duration(limits::LONGEST_WAIT);
        return Err(
            v.problem(format!("`rate` = {text:?}: it must be 1 to {most} in 1ms to {longest}"))
        );
    }
    let per_ms = u64::try_from(per.as_millis()).unwrap_or(u64::MAX);
    Ok(Rate { starts, per_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each budget that messages name is one. Method: the list of names.
    #[test]
    fn budgets_have_their_names() {
        let is_budget = |name: &&&str| budget(&mut Spent::default(), name).is_some();
        assert_eq!(KEYS.iter().filter(is_budget).count(), 6);
    }
}
