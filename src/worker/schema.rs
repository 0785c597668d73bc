//! The JSON Schema of a route's input: checked before any worker sees the file.
//!
//! Must not know: what becomes of a verdict. Nothing is looked up elsewhere: a `$ref` to the net or to
//! another file makes the schema one that cannot be used.
//!
//! Invariants
//! - Input that does not fit is final: trying again is useless. All that is wrong is said at once.
//! - A schema that cannot be used is the route's fault, not the file's: the route pauses.
//! - A slot compiles a schema once, and again when its file has changed.
//! - No input, however deep, takes more of a slot's stack than it has.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::SystemTime;

use jsonschema::Validator;
use serde_json::Value;

use super::records::RecordValue;
use super::{Ended, Task, open_claimed};
use crate::config::{Route, Schema, limits};
use crate::core::{FailClass, Failure, Verdict, without_bom};
use crate::fs::is_shortage;

/// Faults that a reason lists.
const MOST_FAULTS: usize = 20;
/// Characters of one fault: it may quote the value.
const FAULT: usize = 160;

/// Input that is nested deeper is checked on a stack of its own …
const SHALLOW: usize = 4;
/// … of so many bytes, which take memory only as they are used: a check goes down into the input and, at each of
/// its levels, into the schema. Where a stack ends, the daemon would end with it.
const STACK: usize = 64 << 20;

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
                Ok(input) => match check(validator, &input) {
                    Ok(faults) => unfit(faults?),
                    Err(reason) => Verdict::Misconfigured { reason },
                },
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
            let validator = on_a_deep_stack(|| compile(source, spool))??;
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
    let file = open_claimed(task).map_err(|error| unread(&error))?;
    let size = file.metadata().map_err(|error| unread(&error))?.len();
    if size > limits::SCHEMA_INPUT {
        let most = limits::SCHEMA_INPUT;
        let reason = format!("it has {size} bytes: a schema checks files of at most {most} bytes");
        return Err(unfit(reason));
    }
    let mut bytes = Vec::new();
    file.take(limits::SCHEMA_INPUT).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
    serde_json::from_slice(without_bom(&bytes)).map_err(no_json)
}

/// All that is wrong with an input, on as much stack as it may take. The error is why it cannot be checked.
fn check(validator: &Validator, input: &Value) -> Result<Option<String>, String> {
    if depth(input) <= SHALLOW {
        return Ok(faults(validator, input));
    }
    on_a_deep_stack(|| faults(validator, input))
}

/// Lists and objects within each other.
fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(map) => map.values().map(depth).max(),
        _ => return 0,
    };
    deepest.unwrap_or(0) + 1
}

/// The error is one line for a person: there is no thread, or it panicked.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let cannot = |why: String| format!("cannot check against the schema: {why}");
    std::thread::scope(|scope| {
        let thread = Builder::new().name("schema".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| cannot(error.to_string()))?;
        thread.join().map_err(|_| cannot("it panicked".to_owned()))
    })
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

    /// Goal: no file ends the daemon, however deep it is. Method: a schema of trees that is deep at each level, as
    /// deep a tree as JSON may be, and one that is deeper, on a stack like a slot's.
    #[test]
    fn a_deep_file_has_stack_enough() {
        let mut node = json!({"type": "object", "properties": {"n": {"$ref": "#/$defs/node"}}});
        for _ in 0..20 {
            node = json!({"allOf": [node]});
        }
        let Value::Object(schema) = json!({"$defs": {"node": node}, "$ref": "#/$defs/node"}) else {
            panic!("an object")
        };
        let home = tempfile::tempdir().unwrap();
        let said = |depth: usize| {
            let path = home.path().join("x");
            let text = format!("{}1{}", "{\"n\":".repeat(depth), "}".repeat(depth));
            std::fs::write(&path, text).unwrap();
            let mut route = crate::worker::tests::route(&["true"]);
            route.schema = Some(Schema::Inline(schema.clone()));
            let task = Task {
                job: crate::core::JobId::MIN,
                attempt: 1,
                route: std::sync::Arc::new(route),
                rel: crate::core::RelPath::new("x").unwrap(),
                spool: home.path().to_owned(),
                path,
                scratch: home.path().to_owned(),
                output: None,
                record: None,
            };
            let slot = Builder::new().stack_size(512 << 10);
            let ended = slot.spawn(move || Schemas::default().check(&task)).unwrap().join();
            match ended.unwrap().unwrap().verdict {
                Verdict::Failed(failure) => failure.reason,
                other => panic!("{other:?}"),
            }
        };
        assert!(said(126).contains("1 is not of type \"object\""), "{}", said(126));
        assert!(said(200).starts_with("not valid JSON: recursion limit"), "{}", said(200));
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
