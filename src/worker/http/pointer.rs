//! JSON pointers (RFC 6901) into JSON text, without taking it apart into values.
//!
//! Must not know: requests, rows.
//!
//! Invariant: what is found is the text as it stood there: a number is never read as a float.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

/// What a pointer leads to; `None`: nothing stands there.
pub(super) fn find<'a>(raw: &'a RawValue, pointer: &str) -> Option<&'a RawValue> {
    let mut at = raw;
    for step in pointer.split('/').skip(1) {
        at = member(at, &step.replace("~1", "/").replace("~0", "~"))?;
    }
    Some(at)
}

fn member<'a>(raw: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    match raw.get().as_bytes().first() {
        Some(b'{') => members(raw)?.get(name).copied(),
        Some(b'[') => {
            let is_number =
                name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
            let at: usize = name.parse().ok().filter(|_| is_number)?;
            items(raw)?.get(at).copied()
        }
        _ => None,
    }
}

/// The members of an object; of two with one name the last.
fn members(raw: &RawValue) -> Option<HashMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

/// The items of a list; `None`: it is none.
pub(super) fn items(raw: &RawValue) -> Option<Vec<&RawValue>> {
    raw.get().starts_with('[').then(|| serde_json::from_str(raw.get()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: pointers lead where the standard says. Method: its own examples, and what leads nowhere.
    #[test]
    fn pointers_lead_where_the_standard_says() {
        let text = r#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8,"e":1.50,"d":1,"d":2,"o":{"p":[{"q":null}]}}"#;
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        for (pointer, want) in [
            ("", Some(text)),
            ("/foo", Some(r#"["bar","baz"]"#)),
            ("/foo/0", Some("\"bar\"")),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/m~0n", Some("8")),
            ("/e", Some("1.50")),
            ("/d", Some("2")),
            ("/o/p/0/q", Some("null")),
            ("/foo/2", None),
            ("/foo/00", None),
            ("/foo/-", None),
            ("/foo/x", None),
            ("/none", None),
            ("/e/x", None),
        ] {
            assert_eq!(find(raw, pointer).map(RawValue::get), want, "{pointer}");
        }
    }
}
