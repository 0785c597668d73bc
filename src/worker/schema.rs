//! The JSON Schema of a route's input: checked before any worker sees the file.
//!
//! Must not know: what becomes of a verdict. Nothing is looked up elsewhere: a `$ref` to the net or to
//! another file makes the schema one that cannot be used.
//!
//! Invariants
//! - Input that does not fit is final: trying again is useless. All that is wrong is said at once.
//! - A schema that cannot be used is the route's fault, not the file's: the route pauses.
//! - A slot compiles a schema once, and again when its file has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jsonschema::Validator;
use serde_json::Value;

use super::records::RecordValue;
use super::{Ended, Task};
use crate::config::{Route, Schema, limits};
use crate::core::{FailClass, Failure, Verdict, without_bom};
use crate::fs::is_shortage;

/// Faults that a reason lists.
const MOST_FAULTS: usize = 20;
/// Characters of one fault: it may quote the value.
const FAULT: usize = 160;

/// The schemas that a slot has compiled, by route.
#[derive(Debug, Default)]
pub(super) struct Schemas(BTreeMap<String, Compiled>);

#[derive(Debug)]
struct Compiled {
    source: Schema,
    /// Of its file, when it was read.
    changed: Option<SystemTime>,
    validator: Validator,
}

impl Schemas {
    /// How the attempt ends at once; `None`: its input is as the route wants it.
    pub(super) fn check(&mut self, task: &Task) -> Option<Ended> {
        let source = task.route.schema.as_ref()?;
        let verdict = match self.compiled(&task.route, source, &task.spool) {
            Err(reason) => Verdict::Misconfigured { reason },
            Ok(validator) => match read(task) {
                Ok(input) => unfit(faults(validator, &input)?),
                Err(verdict) => verdict,
            },
        };
        Some(Ended::without_rows(verdict))
    }

    fn compiled(
        &mut self,
        route: &Route,
        source: &Schema,
        spool: &Path,
    ) -> Result<&Validator, String> {
        let changed = file_of(source, spool).and_then(|path| path.metadata().ok()?.modified().ok());
        let is_same = |it: &Compiled| it.source == *source && it.changed == changed;
        if !self.0.get(&route.name).is_some_and(is_same) {
            let validator = compile(source, spool)?;
            let compiled = Compiled { source: source.clone(), changed, validator };
            self.0.insert(route.name.clone(), compiled);
        }
        let compiled = self.0.get(&route.name).map(|it| &it.validator);
        compiled.ok_or_else(|| "its schema was not kept".to_owned())
    }
}

/// Why the schema of a route cannot be used, as one line for a person.
pub fn schema_fault(route: &Route, spool: &Path) -> Option<String> {
    compile(route.schema.as_ref()?, spool).err()
}

fn compile(source: &Schema, spool: &Path) -> Result<Validator, String> {
    jsonschema::validator_for(&text_of(source, spool)?)
        .map_err(|error| format!("{source} is no JSON Schema: {error}"))
}

/// The file of a schema that has one.
pub(super) fn file_of(source: &Schema, spool: &Path) -> Option<PathBuf> {
    match source {
        Schema::File(name) => Some(spool.join(name)),
        Schema::Inline(_) => None,
    }
}

/// A route's schema as JSON; the error is one line for a person.
pub fn text_of(source: &Schema, spool: &Path) -> Result<Value, String> {
    let name = match source {
        Schema::Inline(table) => return Ok(Value::Object(table.clone())),
        Schema::File(name) => name,
    };
    let cannot = |error: std::io::Error| format!("cannot read the schema {name}: {error}");
    let bytes = std::fs::read(spool.join(name)).map_err(cannot)?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{name} is not valid JSON: {error}"))
}

fn unfit(reason: String) -> Verdict {
    Verdict::Failed(Failure::new(FailClass::Permanent, reason))
}

/// Short of descriptors or memory, it can pass by itself, and the file has not failed.
fn unread(error: &std::io::Error) -> Verdict {
    let reason = format!("cannot be read to check it: {error}");
    if is_shortage(error) { Verdict::Misconfigured { reason } } else { unfit(reason) }
}

/// What is to be checked: the file, or the record that the task is about.
fn read(task: &Task) -> Result<Value, Verdict> {
    let no_json = |error: serde_json::Error| unfit(format!("not valid JSON: {error}"));
    match task.record.as_ref().map(|record| &record.value) {
        Some(RecordValue::Line(text)) => return Ok(Value::String(text.clone())),
        Some(RecordValue::Object(text)) => return serde_json::from_str(text).map_err(no_json),
        None => {}
    }
    let size = std::fs::metadata(&task.path).map_err(|error| unread(&error))?.len();
    if size > limits::SCHEMA_INPUT {
        let most = limits::SCHEMA_INPUT;
        let reason = format!("it has {size} bytes: a schema checks files of at most {most} bytes");
        return Err(unfit(reason));
    }
    let bytes = std::fs::read(&task.path).map_err(|error| unread(&error))?;
    serde_json::from_slice(without_bom(&bytes)).map_err(no_json)
}

/// All that is wrong, each with its JSON pointer; `None`: nothing.
fn faults(validator: &Validator, input: &Value) -> Option<String> {
    let mut said = Vec::new();
    let mut more = 0;
    for error in validator.iter_errors(input) {
        if said.len() == MOST_FAULTS {
            more += 1;
            continue;
        }
        let (at, text) = (error.instance_path().as_str().to_owned(), error.to_string());
        let mut text: String = text.chars().take(FAULT).collect();
        if text.chars().count() == FAULT {
            text.push_str("...");
        }
        said.push(if at.is_empty() { text } else { format!("{at}: {text}") });
    }
    if more > 0 {
        said.push(format!("and {more} more"));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": { "image_url": { "type": "string" }, "sizes": { "items": { "type": "integer" } } },
            "required": ["image_url"],
            "additionalProperties": false,
        })
    }

    fn said(schema: &Value, input: &Value) -> Option<String> {
        faults(&jsonschema::validator_for(schema).unwrap(), input)
    }

    /// Goal: who sent it learns all that is wrong, and where. Method: input with nothing wrong, with one
    /// fault, with three; a value too long to quote.
    #[test]
    fn all_faults_are_said_with_their_place() {
        assert_eq!(said(&schema(), &json!({"image_url": "x", "sizes": [1]})), None);
        let one = said(&schema(), &json!({"image_url": "x", "sizes": [1, "2"]})).unwrap();
        assert_eq!(one, "/sizes/1: \"2\" is not of type \"integer\"");
        let three = said(&schema(), &json!({"sizes": [1.5], "x": 1})).unwrap();
        for part in ["/sizes/0: 1.5 is not", "\"image_url\" is a required property", "'x'"] {
            assert!(three.contains(part), "{part}: {three}");
        }
        let long = said(&schema(), &json!({"image_url": ["x".repeat(9_000)]})).unwrap();
        assert!(long.len() < 300, "{long}");
        let many = said(&json!({"items": {"type": "string"}}), &json!(vec![1; 30])).unwrap();
        assert!(many.ends_with("; and 10 more"), "{many}");
    }

    /// Goal: a shortage of ours fails no file. Method: what is said of each kind of error.
    #[test]
    fn a_shortage_fails_no_file() {
        let verdict = |errno: rustix::io::Errno| unread(&errno.into());
        let short = verdict(rustix::io::Errno::MFILE);
        assert!(matches!(short, Verdict::Misconfigured { .. }), "{short:?}");
        let gone = verdict(rustix::io::Errno::NOENT);
        assert!(matches!(gone, Verdict::Failed(_)), "{gone:?}");
    }

    /// Goal: a schema never makes us fetch anything. Method: references to the net and to a file.
    #[test]
    fn nothing_is_fetched() {
        for place in ["http://127.0.0.1:9/schema.json", "file:///etc/passwd"] {
            assert!(jsonschema::validator_for(&json!({"$ref": place})).is_err(), "{place}");
        }
    }
}
