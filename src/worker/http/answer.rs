//! What a runner's answer means: its status, its rows, its reason. Pure.
//!
//! Must not know: connections, requests.
//!
//! | status | meaning |
//! |---|---|
//! | 2xx | rows |
//! | 401 | the route pauses: it is the route that lacks the right credentials, not the file |
//! | 3xx, other 4xx | permanent; a redirect is not followed |
//! | 408, 429, 5xx | try again, not before `Retry-After` |
//!
//! 403 is permanent, since it may be about this one record or file; a route whose every file is refused so
//! is what `pause_after_failures` is for.
//!
//! Invariants
//! - Whatever the bytes are, nothing panics.
//! - A row is a whole row, and a number stands in its cell as it stood in the answer.
//! - What is held of an answer's rows is bounded, also where `columns` adds to each of them.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use serde_json::value::RawValue;

use super::fill::FilledCell;
use super::pointer;
use crate::config::{Route, limits};
use crate::core::{FailClass, Failure, Row, without_bom};
use crate::worker::exit::one_line;
use crate::worker::stdout::{exceeds, json};

/// An answer, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// What the status is called: `Not Found`.
    pub(super) name: &'static str,
    pub(super) location: Option<String>,
    pub(super) retry_after: Option<String>,
    /// The body, or its beginning.
    pub(super) body: Vec<u8>,
    /// There was more than may be read.
    pub(super) is_cut: bool,
}

/// The rows of an answer, or why it has none.
pub(super) fn read(
    answer: &Answer,
    route: &Route,
    cells: &[(&str, FilledCell<'_>)],
    now: SystemTime,
) -> Result<Vec<Row>, Failure> {
    if !(200..300).contains(&answer.status) {
        return Err(refusal(answer, now));
    }
    if answer.is_cut {
        let most = bytesize::ByteSize::b(route.max_output);
        let reason = format!("the answer is longer than max_output ({most})");
        return Err(Failure::new(FailClass::Permanent, reason));
    }
    let most = route.max_output.saturating_mul(limits::ROWS_GROWTH);
    let rows = rows(&answer.body, &route.http.rows, cells, most);
    let rows = rows.map_err(|reason| Failure::new(FailClass::Fail, reason))?;
    if rows.is_empty() && route.require_output {
        return Err(Failure::new(FailClass::Fail, "no output"));
    }
    Ok(rows)
}

/// Why no file can be asked about: 401, the credentials are not those that the runner wants.
pub(super) fn lacks_credentials(answer: &Answer) -> Option<String> {
    let said = said(&answer.body).map(|said| format!(": {said}")).unwrap_or_default();
    (answer.status == 401).then(|| format!("{}{said} (see `headers`)", called(answer)))
}

/// `HTTP 404 Not Found`.
fn called(answer: &Answer) -> String {
    format!("HTTP {} {}", answer.status, answer.name).trim_end().to_owned()
}

fn refusal(answer: &Answer, now: SystemTime) -> Failure {
    let status = answer.status;
    let mut reason = called(answer);
    // 304 answers a question that was not asked: there is nowhere to go.
    if (300..400).contains(&status) && status != 304 {
        let to = answer.location.as_deref().map(|to| one_line(to.as_bytes()));
        let to = to.map_or_else(String::new, |to| format!(" to {to}"));
        reason =
            format!("{reason}: a redirect{to}, not followed; put the right address into `http`");
    } else if let Some(said) = said(&answer.body) {
        reason = format!("{reason}: {said}");
    }
    let is_passing = matches!(status, 408 | 429 | 500..);
    let class = if is_passing { FailClass::TryAgain } else { FailClass::Permanent };
    let wait = answer.retry_after.as_deref().and_then(|text| retry_after(text, now));
    let wait = wait.filter(|_| is_passing).map(|wait| wait.min(limits::LONGEST_WAIT));
    let retry_after_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    Failure { retry_after_ms, ..Failure::new(class, reason) }
}

/// Seconds, or a date (RFC 9110, 10.2.3); what is neither asks for nothing.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // What no number holds is long, and bounded as what is long.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    SystemTime::from(date.timestamp()).duration_since(now).ok()
}

/// What a refused request was told: the member that says it, else the first line that is not markup.
fn said(body: &[u8]) -> Option<String> {
    if let Ok(Value::Object(map)) = serde_json::from_slice(body) {
        let member =
            ["detail", "error", "message", "msg", "title"].iter().find_map(|key| map.get(*key));
        if let Some(text) = member.and_then(sentence).filter(|text| !text.is_empty()) {
            return Some(one_line(text.as_bytes()));
        }
    }
    let line = body.split(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty())?;
    (!line.trim_ascii_start().starts_with(b"<")).then(|| one_line(line))
}

/// A member that says what was wrong, as `FastAPI`, Flask and others write it.
fn sentence(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            Some(items.iter().filter_map(sentence).collect::<Vec<_>>().join("; "))
        }
        Value::Object(map) => {
            let text = ["msg", "message", "detail"].iter().find_map(|key| map.get(*key)?.as_str());
            let Some(text) = text else { return Some(value.to_string()) };
            let place = map.get("loc").and_then(Value::as_array).map(|steps| {
                let step =
                    |step: &Value| step.as_str().map_or_else(|| step.to_string(), str::to_owned);
                steps.iter().map(step).collect::<Vec<_>>().join(".")
            });
            Some(place.map_or_else(|| text.to_owned(), |place| format!("{place}: {text}")))
        }
        other => Some(other.to_string()),
    }
}

/// `most`: bytes of the rows with the names of their columns.
fn rows(
    body: &[u8],
    place: &str,
    cells: &[(&str, FilledCell<'_>)],
    most: u64,
) -> Result<Vec<Row>, String> {
    let body = without_bom(body);
    if place.is_empty() && cells.is_empty() {
        return json::rows(body).map_err(|error| not_json(&error, body));
    }
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let whole: &RawValue =
        serde_json::from_slice(body).map_err(|error| not_json(&error.to_string(), body))?;
    let Some(found) = pointer::find(whole, place) else {
        let begin = quoted(body);
        return Err(format!("the answer has nothing at `rows` = \"{place}\": {begin}"));
    };
    if found.get() == "null" {
        return Ok(Vec::new());
    }
    let items = pointer::items(found).unwrap_or_else(|| vec![found]);
    let mut held = 0_usize;
    let mut rows = Vec::new();
    for item in items {
        let row = row(item, cells)?;
        // A text of `columns` may be the whole file, and is in each row of an answer that is small itself.
        let len: usize = row.0.iter().map(|(name, cell)| name.len() + cell.len()).sum();
        held = held.saturating_add(len);
        if exceeds(held, most) {
            return Err("its rows, each with its `columns`, are too much for max_output".to_owned());
        }
        rows.push(row);
    }
    Ok(rows)
}

fn row(item: &RawValue, cells: &[(&str, FilledCell<'_>)]) -> Result<Row, String> {
    if cells.is_empty() {
        return json::row(item.get()).map_err(|_| {
            format!("a row of the answer is no object: {}", quoted(item.get().as_bytes()))
        });
    }
    let cell = |(name, cell): &(&str, FilledCell<'_>)| {
        let bytes = match cell {
            FilledCell::Text(text) => text.clone(),
            FilledCell::Pointer(at) => {
                pointer::find(item, at).map(|raw| json::cell(raw.get())).unwrap_or_default()
            }
        };
        ((*name).to_owned(), bytes)
    };
    Ok(Row(cells.iter().map(cell).collect()))
}

fn not_json(error: &str, body: &[u8]) -> String {
    format!("the answer is not JSON rows ({error}): {}", quoted(body))
}

fn quoted(body: &[u8]) -> String {
    one_line(body.get(..limits::WORKER_QUOTED).unwrap_or(body))
}

/// The body as it is kept for a person: its beginning, and how much is not there.
pub(super) fn kept(answer: &Answer) -> Vec<u8> {
    let mut body = answer.body.clone();
    let gone = body.len().saturating_sub(limits::STDERR_KEPT);
    body.truncate(limits::STDERR_KEPT);
    if gone > 0 || answer.is_cut {
        let more = if answer.is_cut { " or more" } else { "" };
        body.extend(format!("\n[{gone} bytes{more} cut here]\n").bytes());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::tests::route;
    use proptest::prelude::*;

    fn answer(status: u16, body: &str) -> Answer {
        let name = ureq::http::StatusCode::from_u16(status).unwrap().canonical_reason();
        Answer { status, name: name.unwrap_or_default(), body: body.into(), ..Answer::default() }
    }

    fn refused(status: u16, body: &str) -> Failure {
        read(&answer(status, body), &route(&["true"]), &[], SystemTime::now()).unwrap_err()
    }

    /// Goal: each status has its budget. Method: all of them against the table.
    #[test]
    fn statuses_have_budgets() {
        for status in 300..=599 {
            let class = refused(status, "").class;
            let want = match status {
                408 | 429 | 500.. => FailClass::TryAgain,
                _ => FailClass::Permanent,
            };
            assert_eq!(class, want, "{status}");
        }
    }

    /// Goal: the reason is what the runner said, however it says it. Method: the forms of the frameworks.
    #[test]
    fn the_reason_is_what_was_said() {
        for (body, want) in [
            (r#"{"detail":"no such model"}"#, ": no such model"),
            (
                r#"{"detail":[{"type":"missing","loc":["body","text"],"msg":"Field required","input":{}}]}"#,
                ": body.text: Field required",
            ),
            (r#"{"error":{"message":"quota","code":7}}"#, ": quota"),
            (r#"{"error":{"code":7}}"#, r#": {"code":7}"#),
            (r#"{"error":null,"message":"m"}"#, r#": {"error":null,"message":"m"}"#),
            ("\n\nbad signal\nmore", ": bad signal"),
            ("<!DOCTYPE html>\n<p>no", ""),
            ("", ""),
            ("a\x1b[31m", ": a\\u{1b}[31m"),
        ] {
            assert_eq!(refused(422, body).reason, format!("HTTP 422 Unprocessable Entity{want}"));
        }
        let moved = Answer { location: Some("/x".to_owned()), ..answer(307, "moved") };
        let reason = read(&moved, &route(&["true"]), &[], SystemTime::now()).unwrap_err().reason;
        assert_eq!(
            reason,
            "HTTP 307 Temporary Redirect: a redirect to /x, not followed; put the right address \
             into `http`"
        );
        assert_eq!(refused(304, "").reason, "HTTP 304 Not Modified");
        assert_eq!(refused(599, "").reason, "HTTP 599");
    }

    /// Goal: a wait that was asked for is kept, whichever way it is written, and never for ever.
    /// Method: seconds, a date, nonsense, a status that does not try again.
    #[test]
    fn retry_after_is_kept() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait = |status, text: &str| {
            let answer = Answer { retry_after: Some(text.to_owned()), ..answer(status, "") };
            read(&answer, &route(&["true"]), &[], now).unwrap_err().retry_after_ms
        };
        assert_eq!(wait(503, "2"), Some(2000));
        assert_eq!(wait(429, "Sun, 06 Nov 1994 08:49:57 GMT"), Some(20_000));
        assert_eq!(wait(503, "Sun, 06 Nov 1994 08:49:07 GMT"), None);
        assert_eq!(wait(503, "soon"), None);
        assert_eq!(wait(404, "2"), None);
        assert_eq!(wait(503, "99999999999"), Some(86_400_000));
        assert_eq!(wait(503, "99999999999999999999999"), Some(86_400_000));
    }

    fn taken(
        body: &str,
        place: &str,
        cells: &[(&str, FilledCell<'_>)],
    ) -> Result<Vec<Row>, String> {
        rows(body.as_bytes(), place, cells, limits::MAX_OUTPUT)
    }

    /// Goal: rows and cells are where the pointers say, 0..n of them, with numbers as they stood.
    /// Method: the answers of the scenarios, and others.
    #[test]
    fn rows_are_where_the_pointer_says() {
        let details =
            r#"{"details":[{"id":"1-0","relevanceScore":0.10,"x":{"y":[1, 2]}},{"id":"1-1"}]}"#;
        let cells = [
            ("customer", FilledCell::Text(b"1".to_vec())),
            ("id", FilledCell::Pointer("/id")),
            ("score", FilledCell::Pointer("/relevanceScore")),
            ("deep", FilledCell::Pointer("/x/y")),
        ];
        let want = [
            Row::from_pairs([
                ("customer", "1"),
                ("id", "1-0"),
                ("score", "0.10"),
                ("deep", "[1,2]"),
            ]),
            Row::from_pairs([("customer", "1"), ("id", "1-1"), ("score", ""), ("deep", "")]),
        ];
        assert_eq!(taken(details, "/details", &cells).unwrap(), want);
        let echo = taken(r#"{"result":{"text":"hi"}}"#, "", &[]).unwrap();
        assert_eq!(echo, [Row::from_pairs([("result", r#"{"text":"hi"}"#)])]);
        assert_eq!(taken(r#"{"result":{"text":"hi"}}"#, "/result", &[]).unwrap().len(), 1);
        let whole = [("all", FilledCell::Pointer(""))];
        assert_eq!(taken("[1,2]", "", &whole).unwrap().len(), 2);
        for empty in ["", " \n", "[]", "null"] {
            assert_eq!(taken(empty, "", &whole).unwrap(), [], "{empty:?}");
        }
        assert_eq!(taken("{\"d\":null}", "/d", &[]).unwrap(), []);
        for (body, place, why) in [
            ("{}", "/details", "nothing at `rows` = \"/details\": {}"),
            ("{not json", "/details", "not JSON rows ("),
            ("<html>", "", "): <html>"),
            ("[1]", "", "not JSON rows ("),
            ("{\"d\":[1]}", "/d", "a row of the answer is no object: 1"),
        ] {
            let said = taken(body, place, &[]).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let long = taken(&"x".repeat(1000), "", &[]).unwrap_err();
        assert!(long.len() < 300, "{long}");
    }

    /// Goal: a small answer to a large file does not become gigabytes. Method: a text of `columns` in so many
    /// rows as may be, and in one more.
    #[test]
    fn columns_do_not_multiply_without_end() {
        let text = vec![b'x'; 1 << 20];
        let cells = [("t", FilledCell::Text(text))];
        let answer = |rows: usize| format!("[{}]", vec!["{}"; rows].join(","));
        assert_eq!(taken(&answer(15), "", &cells).unwrap().len(), 15);
        let said = taken(&answer(16), "", &cells).unwrap_err();
        assert_eq!(said, "its rows, each with its `columns`, are too much for max_output");
    }

    /// Goal: what is kept of a body is bounded and says so. Method: one byte over, and cut on the way.
    #[test]
    fn a_kept_body_is_bounded() {
        let long = answer(500, &"x".repeat(limits::STDERR_KEPT + 1));
        assert!(kept(&long).ends_with(b"x\n[1 bytes cut here]\n"));
        let cut = Answer { is_cut: true, ..answer(500, "x") };
        assert_eq!(kept(&cut), b"x\n[0 bytes or more cut here]\n");
    }

    proptest! {
        /// Goal: no answer panics. Method: JSON-like text, any status, any pointer.
        #[test]
        fn no_answer_panics(
            status in 200u16..600,
            body in "[\\[\\]{}\":,a1é\n <\\\\]{0,40}",
            place in "(/[a1~01]{0,2}){0,3}",
        ) {
            let mut route = route(&["true"]);
            route.http.rows = place;
            drop(read(&answer(status, &body), &route, &[], SystemTime::now()));
        }
    }
}
