//! How single values are taken over that take more than a line to check.
//!
//! Must not know: other settings, files, lines.
//!
//! Invariants
//! - What is returned needs no further check; a message says what to write.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::companions::Companion;
use crate::config::request::Method;
use crate::config::template::{self, Part};
use crate::config::value::{Checked, Problem, Value};
use crate::config::{
    Call, OnRepeat, Records, Schema, StdoutFormat, Transport, Unit, Worker, glob, limits, selection,
};

pub(super) const CALLS: [(&str, Call); 2] = [("path", Call::Path), ("kwargs", Call::Kwargs)];

pub(super) const TRANSPORTS: [(&str, Transport); 2] =
    [("fd", Transport::Fd), ("stdio", Transport::Stdio)];

pub(super) const METHODS: [(&str, Method); 5] = [
    ("GET", Method::Get),
    ("POST", Method::Post),
    ("PUT", Method::Put),
    ("PATCH", Method::Patch),
    ("DELETE", Method::Delete),
];

pub(super) const RECORDS: [(&str, Records); 3] =
    [("lines", Records::Lines), ("csv", Records::Csv), ("ndjson", Records::Ndjson)];

pub(super) const STDOUT: [(&str, StdoutFormat); 5] = [
    ("json", StdoutFormat::Json),
    ("csv", StdoutFormat::Csv),
    ("text", StdoutFormat::Text),
    ("prefixed", StdoutFormat::Prefixed),
    ("none", StdoutFormat::None),
];

pub(super) const UNIT: [(&str, Unit); 2] = [("file", Unit::File), ("folder", Unit::Folder)];

pub(super) const ON_REPEAT: [(&str, OnRepeat); 2] =
    [("run", OnRepeat::Run), ("skip", OnRepeat::Skip)];

pub(super) fn done_file(v: &Value<'_>) -> Checked<String> {
    let text = v.text()?;
    let rest = text.replacen("{name}", "", 1);
    if rest == text || rest.is_empty() || rest.contains(['{', '}', '/', '\0']) {
        return Err(v.problem(format!(
            "`done_file` = {text:?} is no name beside a file's; write {}",
            v.limit
        )));
    }
    Ok(text.to_owned())
}

pub(super) fn companions(v: &Value<'_>) -> Checked<Vec<Companion>> {
    let read = |value: &Value<'_>| {
        let text = value.text()?;
        Companion::parse(text).map_err(|why| value.problem(format!("{why}; write {}", v.limit)))
    };
    if v.is_text() { read(v).map(|one| vec![one]) } else { v.list()?.iter().map(read).collect() }
}

pub(super) fn globs(v: &Value<'_>) -> Checked<Vec<String>> {
    let given = if v.is_text() { vec![*v] } else { v.list()? };
    let mut globs = Vec::new();
    for value in given {
        let glob = value.text()?;
        glob::check(&[glob]).map_err(|e| value.problem(e.to_string()))?;
        globs.push(glob.to_owned());
    }
    // Each may be small enough and all of them not.
    glob::check(&globs).map_err(|e| v.problem(e.to_string()))?;
    Ok(globs)
}

/// What a person writes in a message to say what it is about.
pub(super) fn fields(v: &Value<'_>) -> Checked<selection::Fields> {
    let mut fields = Vec::new();
    for (name, value) in v.table()? {
        // Read under the setting's own name: the message is about what a member may be.
        let value = Value { name: v.name, ..value };
        if matches!(value.given.get_ref(), toml::de::DeValue::Float(_))
            || !matches!(
                value.json_value()?,
                serde_json::Value::String(_)
                    | serde_json::Value::Bool(_)
                    | serde_json::Value::Number(_)
            )
        {
            let name: &str = name.get_ref();
            return Err(value.problem(format!("`fields` compares {name:?}; write {}", v.limit)));
        }
        fields.push((name.get_ref().to_string(), value.json_value()?));
    }
    if fields.is_empty() {
        return Err(v.problem("`fields` is empty; leave it out to take any content".to_owned()));
    }
    Ok(fields)
}

pub(super) fn schema(v: &Value<'_>) -> Checked<Schema> {
    if v.is_text() {
        return program(v).map(Schema::File);
    }
    let table = v.json()?;
    // Its file may come later, what stands here must be right now.
    match jsonschema::validator_for(&serde_json::Value::Object(table.clone())) {
        Ok(_) => Ok(Schema::Inline(table)),
        Err(error) => Err(v.problem(format!("`schema` is no JSON Schema: {error}"))),
    }
}

/// `FILE:FUNCTION`, the last colon deciding.
pub(super) fn python(v: &Value<'_>) -> Checked<Worker> {
    let text = v.text()?;
    let is_name = |name: &str| {
        name.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    match text.rsplit_once(':') {
        Some((file, function))
            if !file.is_empty()
                && !function.is_empty()
                && is_name(function)
                && !text.contains('\0') =>
        {
            Ok(Worker::Python { file: file.to_owned(), function: function.to_owned() })
        }
        _ => Err(v.problem(format!("`python` = {text:?} is no function; write {}", v.limit))),
    }
}

pub(super) fn program(v: &Value<'_>) -> Checked<String> {
    let text = v.text()?;
    if text.is_empty() || text.contains('\0') {
        return Err(v.problem(format!("`{}` names nothing; write {}", v.name, v.limit)));
    }
    Ok(text.to_owned())
}

/// The argv of `command`, and of `warm` and `start`, which are for many files and have no placeholder.
pub(super) fn command(v: &Value<'_>) -> Checked<Vec<String>> {
    let key = v.name;
    if v.is_text() {
        let words: Vec<&str> = v.text()?.split_whitespace().collect();
        let words = if words.is_empty() { vec!["sha256sum", "{path}"] } else { words };
        return Err(v.problem(format!(
            "`{key}` must be a list, since no shell takes it apart: write {key} = {words:?}"
        )));
    }
    let mut argv = Vec::new();
    for value in v.list()? {
        let text = value.text()?;
        let parts = match key {
            "warm" | "start" => vec![Part::Literal(text.to_owned())],
            _ => template::parse(text).map_err(|e| value.problem(e.to_string()))?,
        };
        if text.contains('\0') {
            return Err(value.problem("no program takes an argument with \\u0000".to_owned()));
        }
        // Who may drop a file must not be able to choose what runs.
        if argv.is_empty() && !matches!(parts.as_slice(), [Part::Literal(_)]) {
            let words: Vec<&str> = text.split_whitespace().collect();
            return Err(value.problem(if words.len() > 1 {
                format!("no shell takes an element apart: write {key} = {words:?}")
            } else {
                "the first element is the program and has no placeholder: write its name or path"
                    .to_owned()
            }));
        }
        argv.push(text.to_owned());
    }
    if argv.is_empty() {
        return Err(v.problem(format!("`{key}` is empty; write {}", v.limit)));
    }
    Ok(argv)
}

pub(super) fn waits(v: &Value<'_>) -> Checked<Vec<Duration>> {
    let given = if v.is_text() { vec![*v] } else { v.list()? };
    if given.is_empty() || given.len() > limits::MOST_WAITS {
        let most = limits::MOST_WAITS;
        let message = format!("`{}` lists 1 to {most} times, such as [\"10s\", \"1m\"]", v.name);
        return Err(v.problem(message));
    }
    given.iter().map(Value::time).collect()
}

pub(super) fn columns(v: &Value<'_>) -> Checked<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut columns = Vec::new();
    for value in v.list()? {
        let name = value.text()?;
        if name.is_empty() {
            return Err(value.problem("a column must have a name".to_owned()));
        }
        if !seen.insert(name) {
            let message = format!("column {name:?} is there twice; take one of them out");
            return Err(value.problem(message));
        }
        columns.push(name.to_owned());
    }
    if columns.is_empty() {
        let message = "`columns` is empty; leave it out to take them as the rows bring them";
        return Err(v.problem(message.to_owned()));
    }
    Ok(columns)
}

pub(super) fn environment(v: &Value<'_>) -> Checked<Vec<(String, String)>> {
    let mut env = Vec::new();
    for (key, value) in v.table()? {
        let name = variable(key.get_ref(), &value)
            .map_err(|problem| Problem { span: key.span(), ..problem })?;
        let Some(text) = value.given.get_ref().as_str() else {
            return Err(value.problem(format!("variable {name} must be a string, in quotes")));
        };
        if text.contains('\0') {
            return Err(value.problem(format!("variable {name} cannot hold \\u0000")));
        }
        env.push((name, text.to_owned()));
    }
    Ok(env)
}

/// Checks the name of an environment variable.
pub(super) fn variable(name: &str, value: &Value<'_>) -> Checked<String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(
            value.problem(format!("{name:?} is no name of a variable; write it without `=`"))
        );
    }
    if name.contains('*') {
        let message = format!("{name:?} is no name of a variable; each is named in full");
        return Err(value.problem(message));
    }
    if name.starts_with("INBOXD_") {
        return Err(value.problem(format!("{name} is set by inboxd; choose another name")));
    }
    Ok(name.to_owned())
}
