//! Which route takes a file by what is in it: `fields`, members of its JSON object.
//!
//! Must not know: the disk. It is given bytes, and gives a route or a reason for a person.
//!
//! Invariants
//! - The file's whole text must be JSON: half a message selects nothing.
//! - What is not asked for is skipped and never built in memory.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::core::without_bom;

/// Members that a file must have, in the order of the settings; empty: nothing is asked of its content.
pub type Fields = Vec<(String, Value)>;

/// A member's value longer than this is none that a route asks for, in bytes of its JSON.
const LONGEST_VALUE: usize = 1 << 10;
/// Characters of a value that a reason quotes.
const QUOTED: usize = 60;

/// The members of a file's object that some route asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members(BTreeMap<String, Value>);

impl Members {
    /// Reads the members named in `wanted`. The error is a reason for a person, with line and column.
    pub fn read(bytes: &[u8], wanted: &BTreeSet<&str>) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_slice(without_bom(bytes));
        let members = reader.deserialize_any(Wanted(wanted)).and_then(|it| {
            reader.end()?;
            Ok(it)
        });
        members.map_err(|error| match error.classify() {
            serde_json::error::Category::Data => "the file is not a JSON object".to_owned(),
            _ => format!("not valid JSON: {error}"),
        })
    }

    /// Whether they are as a route asks for.
    pub fn fit(&self, fields: &Fields) -> bool {
        fields.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }

    /// Why no route took them, of those that asked for `asked`.
    pub fn reason(&self, asked: &[&Fields]) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in asked.iter().flat_map(|fields| fields.iter()) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let has = |name: &&str| self.0.get(*name).map(|value| format!("{name} {}", quoted(value)));
        let found: Vec<String> = names.iter().filter_map(has).collect();
        let mut known: Vec<String> = Vec::new();
        for fields in asked {
            let shown = match (fields.as_slice(), names.len()) {
                // One name for all: the values alone say it.
                ([(_, Value::String(text))], 1) => text.clone(),
                ([(_, value)], 1) => quoted(value),
                (fields, _) => {
                    let each =
                        fields.iter().map(|(name, value)| format!("{name} {}", quoted(value)));
                    each.collect::<Vec<_>>().join(" with ")
                }
            };
            if !known.contains(&shown) {
                known.push(shown);
            }
        }
        let known = known.join(", ");
        match (found.as_slice(), names.as_slice()) {
            ([], [name]) => format!("missing field \"{name}\"; known: {known}"),
            ([], _) => format!("no route's fields are in it; known: {known}"),
            (found, _) => format!("no route takes {}; known: {known}", found.join(", ")),
        }
    }
}

/// A value as JSON, short.
fn quoted(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= QUOTED {
        return text;
    }
    let cut: String = text.chars().take(QUOTED).collect();
    format!("{cut}...")
}

/// Whether a file of this content has these members.
pub fn fit(fields: &Fields, content: &[u8]) -> bool {
    let names = fields.iter().map(|(name, _)| name.as_str()).collect();
    Members::read(content, &names).is_ok_and(|members| members.fit(fields))
}

struct Wanted<'a>(&'a BTreeSet<&'a str>);

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Members;

    fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = BTreeMap::new();
        // Not borrowed: a name may be written with escapes.
        while let Some(name) = map.next_key::<String>()? {
            if !self.0.contains(name.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw = map.next_value::<&RawValue>()?.get();
            let value = match raw.len() {
                ..=LONGEST_VALUE => serde_json::from_str(raw).map_err(serde::de::Error::custom)?,
                // No route asks for a list, so that fits none.
                _ => Value::Array(vec![Value::String(format!("… {} bytes", raw.len()))]),
            };
            members.insert(name, value);
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fields(given: Value) -> Fields {
        let Value::Object(map) = given else { panic!("{given}") };
        map.into_iter().collect()
    }

    fn read(text: &str) -> Result<Members, String> {
        Members::read(text.as_bytes(), &BTreeSet::from(["algorithm", "version"]))
    }

    /// Goal: a route gets the files that say so, and no others. Method: each kind of value, a missing
    /// member, one that only looks alike, one written with escapes, two of a name (the last counts,
    /// as in every language).
    #[test]
    fn members_select() {
        let ocr = fields(json!({"algorithm": "ocr"}));
        let second = fields(json!({"algorithm": "ocr", "version": 2}));
        for (text, first_fits, second_fits) in [
            (r#"{"algorithm":"ocr"}"#, true, false),
            ("\u{feff}{\"algorithm\":\"ocr\"}", true, false),
            (r#"{"payload":{"algorithm":"add"},"version":2,"algorithm":"ocr"}"#, true, true),
            (r#"{"algorithm":"ocr","version":"2"}"#, true, false),
            (r#"{"payload":{"algorithm":"ocr"}}"#, false, false),
            (r#"{"algorithm":["ocr"]}"#, false, false),
            (r#"{"\u0061lgorithm":"ocr"}"#, true, false),
            (r#"{"algorithm":"add","algorithm":"ocr"}"#, true, false),
            ("{}", false, false),
        ] {
            let members = read(text).unwrap();
            assert_eq!(
                (members.fit(&ocr), members.fit(&second)),
                (first_fits, second_fits),
                "{text}"
            );
        }
        assert!(read("{}").unwrap().fit(&Fields::new()));
    }

    /// Goal: who sent the wrong message learns what is wrong with it. Method: each reason.
    #[test]
    fn reasons_name_the_value_and_what_is_known() {
        let (detect, ocr) = (
            fields(json!({"algorithm": "language_detection"})),
            fields(json!({"algorithm": "ocr"})),
        );
        let reason = |text: &str| match read(text) {
            Ok(members) => members.reason(&[&detect, &ocr, &ocr]),
            Err(reason) => reason,
        };
        for (text, expected) in [
            (
                r#"{"algorithm":"add"}"#,
                "no route takes algorithm \"add\"; known: language_detection, ocr",
            ),
            ("{}", "missing field \"algorithm\"; known: language_detection, ocr"),
            ("{", "not valid JSON: EOF while parsing an object at line 1 column 1"),
            ("", "not valid JSON: EOF while parsing a value at line 1 column 0"),
            ("{}\n x", "not valid JSON: trailing characters at line 2 column 2"),
            ("[1]", "the file is not a JSON object"),
            ("\"x\"", "the file is not a JSON object"),
        ] {
            assert_eq!(reason(text), expected, "{text}");
        }
        let both = fields(json!({"algorithm": "ocr", "version": 2}));
        assert_eq!(
            read(r#"{"algorithm":"x"}"#).unwrap().reason(&[&both, &ocr]),
            "no route takes algorithm \"x\"; known: algorithm \"ocr\" with version 2, algorithm \"ocr\""
        );
        let long = format!("{{\"algorithm\":\"{}\"}}", "x".repeat(500));
        assert!(read(&long).unwrap().reason(&[&ocr]).len() < 120);
        let longer = format!("{{\"algorithm\":\"{}\"}}", "x".repeat(5000));
        assert_eq!(
            read(&longer).unwrap().reason(&[&ocr]),
            "no route takes algorithm [\"… 5002 bytes\"]; known: ocr"
        );
    }

    proptest! {
        /// Goal: no bytes make it panic, and it takes nothing that is no JSON. Method: random bytes of
        /// the characters that mean something, compared with a parser that builds all of it.
        #[test]
        fn any_bytes(text in r#"[\{\}\[\]:,"a-b1 \\.]{0,24}"#) {
            let whole = serde_json::from_str::<serde_json::Map<String, Value>>(&text);
            prop_assert_eq!(Members::read(text.as_bytes(), &BTreeSet::from(["a"])).is_ok(), whole.is_ok());
        }
    }
}
