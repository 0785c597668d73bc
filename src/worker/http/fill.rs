//! A request for one task: its URL, its body, the texts of its columns.
//!
//! Must not know: connections, answers.
//!
//! Invariants
//! - A value in the URL is one value there, whatever bytes it has: everything but letters, digits and
//!   `-._~` is percent-encoded.
//! - The file is read whole only where its members are asked for, and then in bounds.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};

use serde_json::value::RawValue;

use super::pointer;
use crate::config::limits;
use crate::config::request::{Body, Cell, HttpRules, Piece, pieces, reads_input};
use crate::config::template::Part;
use crate::core::{FailClass, Failure, without_bom};
use crate::fs::is_shortage;
use crate::worker::records::RecordValue;
use crate::worker::stdout::json;
use crate::worker::{Task, exit::one_line, open_claimed, template};

/// The texts of a route, taken apart once.
#[derive(Debug)]
pub(super) struct Texts {
    url: Vec<Piece>,
    cells: Vec<(String, CellText)>,
    body: BodyText,
    /// Members of the input are asked for.
    reads_input: bool,
}

#[derive(Debug)]
pub(super) enum CellText {
    Pointer(String),
    Text(Vec<Piece>),
}

#[derive(Debug)]
enum BodyText {
    File,
    Json,
    Made(Node),
}

/// JSON with placeholders.
#[derive(Debug)]
enum Node {
    Plain(String),
    Text(Vec<Piece>),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// What is sent.
#[derive(Debug)]
pub(super) enum Sent {
    /// From the file as it goes, so many bytes.
    File(File, u64),
    /// Made here.
    Bytes(Vec<u8>),
}

impl Texts {
    /// The settings were checked; an error says what was missed.
    pub(super) fn new(url: &str, rules: &HttpRules) -> Result<Self, String> {
        let pieces = |text: &str| pieces(text).map_err(|error| error.to_string());
        let cells = rules.cells.iter().flatten().map(|(name, cell)| {
            let cell = match cell {
                Cell::Pointer(pointer) => CellText::Pointer(pointer.clone()),
                Cell::Text(text) => CellText::Text(pieces(text)?),
            };
            Ok((name.clone(), cell))
        });
        let body = match &rules.body {
            Body::File => BodyText::File,
            Body::Json => BodyText::Json,
            Body::Template(map) => BodyText::Made(object(map)?),
        };
        let cells = cells.collect::<Result<_, String>>()?;
        Ok(Self { url: pieces(url)?, cells, body, reads_input: reads_input(url, rules) })
    }

    /// Whether members of the input are asked for, or the input must be JSON.
    fn needs_json(&self, has_body: bool) -> bool {
        self.reads_input || has_body && matches!(self.body, BodyText::Json)
    }

    /// Reads what of the input is asked for.
    pub(super) fn input(&self, task: &Task, has_body: bool) -> Result<Input, Failure> {
        if !self.needs_json(has_body) {
            return Ok(Input { raw: None, what: "file" });
        }
        if let Some(record) = &task.record {
            let text = match &record.value {
                RecordValue::Line(line) => serde_json::Value::from(line.as_str()).to_string(),
                RecordValue::Object(object) => object.clone(),
            };
            let raw = RawValue::from_string(text)
                .map_err(|error| permanent(format!("the record is not JSON: {error}")))?;
            return Ok(Input { raw: Some(raw), what: "record" });
        }
        let (file, len) = open(task)?;
        if len > limits::HTTP_INPUT {
            let most = bytesize::ByteSize::b(limits::HTTP_INPUT);
            return Err(permanent(format!(
                "the file is longer than {most}, too long to be read as JSON"
            )));
        }
        let mut bytes = Vec::new();
        file.take(limits::HTTP_INPUT)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(&error))?;
        let raw = serde_json::from_slice(without_bom(&bytes))
            .map_err(|error| permanent(format!("the file is not JSON: {error}")))?;
        Ok(Input { raw: Some(raw), what: "file" })
    }

    /// The address.
    pub(super) fn url(&self, task: &Task, input: &Input) -> Result<String, Failure> {
        let mut url = String::new();
        for piece in &self.url {
            if let Piece::Job(Part::Literal(text)) = piece {
                url.push_str(text);
                continue;
            }
            let value = value(piece, task, input)?;
            // Such a segment is another address: a folder's, or the one above.
            if !url.contains('?') && matches!(&*value, b"" | b"." | b"..") {
                let what = shown(piece);
                let value = one_line(&value);
                return Err(permanent(format!(
                    "{what} is \"{value}\", which cannot stand in a URL"
                )));
            }
            percent_encode(&value, &mut url);
        }
        Ok(url)
    }

    /// The body, for a method that has one.
    pub(super) fn body(&self, task: &Task, input: &Input) -> Result<Sent, Failure> {
        Ok(match &self.body {
            BodyText::File => {
                if let Some(record) = &task.record {
                    return Ok(Sent::Bytes(record.value.text().as_bytes().to_vec()));
                }
                let (file, len) = open(task)?;
                Sent::File(file, len)
            }
            BodyText::Json => Sent::Bytes(input.find("")?.get().as_bytes().to_vec()),
            BodyText::Made(node) => {
                let mut text = String::new();
                write(node, task, input, &mut text)?;
                Sent::Bytes(text.into_bytes())
            }
        })
    }

    /// What the body is, as its header says it.
    pub(super) fn content_type(&self, task: &Task) -> &'static str {
        let record = task.record.as_ref().map(|record| &record.value);
        match (&self.body, record) {
            (BodyText::File, Some(RecordValue::Line(_))) => "text/plain; charset=utf-8",
            (BodyText::File, None) if !task.rel.as_bytes().ends_with(b".json") => {
                "application/octet-stream"
            }
            _ => "application/json",
        }
    }

    /// What stands in each column; the texts are filled, the pointers are for each row.
    pub(super) fn cells(
        &self,
        task: &Task,
        input: &Input,
    ) -> Result<Vec<(&str, FilledCell<'_>)>, Failure> {
        let cells = self.cells.iter().map(|(name, cell)| {
            let cell = match cell {
                CellText::Pointer(pointer) => FilledCell::Pointer(pointer),
                CellText::Text(pieces) => FilledCell::Text(text(pieces, task, input)?),
            };
            Ok((name.as_str(), cell))
        });
        cells.collect()
    }
}

/// What stands in a column of each row.
#[derive(Debug)]
pub(super) enum FilledCell<'a> {
    Pointer(&'a str),
    Text(Vec<u8>),
}

/// The input as JSON, where it was read: the file, or the record that the task is about.
#[derive(Debug)]
pub(super) struct Input {
    raw: Option<Box<RawValue>>,
    /// What it is of, for messages.
    what: &'static str,
}

impl Input {
    fn find(&self, at: &str) -> Result<&RawValue, Failure> {
        self.raw.as_deref().and_then(|raw| pointer::find(raw, at)).ok_or_else(|| {
            let name = at.strip_prefix('/').filter(|name| !name.contains(['/', '~']));
            let what = self.what;
            permanent(match name {
                Some(name) => format!("the {what} has no member \"{name}\""),
                None => format!("the {what} has no member at {at}"),
            })
        })
    }
}

fn permanent(reason: String) -> Failure {
    Failure::new(FailClass::Permanent, reason)
}

/// Short of descriptors or memory, it can pass by itself.
fn unreadable(error: &io::Error) -> Failure {
    let class = if is_shortage(error) { FailClass::TryAgain } else { FailClass::Fail };
    Failure::new(class, format!("cannot read the file: {error}"))
}

/// The claimed file and its length.
fn open(task: &Task) -> Result<(File, u64), Failure> {
    let file = open_claimed(task).map_err(|error| unreadable(&error))?;
    let len = file.metadata().map_err(|error| unreadable(&error))?.len();
    Ok((file, len))
}

fn object(map: &serde_json::Map<String, serde_json::Value>) -> Result<Node, String> {
    let members = map.iter().map(|(name, value)| Ok((name.clone(), node(value)?)));
    members.collect::<Result<_, String>>().map(Node::Object)
}

fn node(value: &serde_json::Value) -> Result<Node, String> {
    Ok(match value {
        serde_json::Value::String(text) => {
            Node::Text(pieces(text).map_err(|error| error.to_string())?)
        }
        serde_json::Value::Array(items) => {
            Node::List(items.iter().map(node).collect::<Result<_, _>>()?)
        }
        serde_json::Value::Object(map) => object(map)?,
        plain => Node::Plain(plain.to_string()),
    })
}

/// Writes JSON. A string that is one placeholder of the input keeps the type that it has there.
fn write(node: &Node, task: &Task, input: &Input, out: &mut String) -> Result<(), Failure> {
    match node {
        Node::Plain(plain) => out.push_str(plain),
        Node::Text(pieces) => match pieces.as_slice() {
            [Piece::Input(at)] => out.push_str(input.find(at)?.get()),
            pieces => {
                let text = String::from_utf8(text(pieces, task, input)?).map_err(|error| {
                    let text = one_line(error.as_bytes());
                    permanent(format!("{text} is not UTF-8 and cannot stand in JSON"))
                })?;
                out.push_str(&serde_json::Value::from(text).to_string());
            }
        },
        Node::List(items) => {
            for (at, item) in items.iter().enumerate() {
                out.push(if at == 0 { '[' } else { ',' });
                write(item, task, input, out)?;
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Node::Object(members) => {
            for (at, (name, member)) in members.iter().enumerate() {
                out.push(if at == 0 { '{' } else { ',' });
                out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                out.push(':');
                write(member, task, input, out)?;
            }
            out.push_str(if members.is_empty() { "{}" } else { "}" });
        }
    }
    Ok(())
}

fn text(pieces: &[Piece], task: &Task, input: &Input) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&value(piece, task, input)?);
    }
    Ok(out)
}

fn value<'a>(piece: &'a Piece, task: &Task, input: &Input) -> Result<Cow<'a, [u8]>, Failure> {
    Ok(match piece {
        Piece::Job(Part::Literal(text)) => Cow::Borrowed(text.as_bytes()),
        Piece::Job(part) => Cow::Owned(template::value(part, task)),
        Piece::Input(at) => Cow::Owned(json::cell(input.find(at)?.get())),
    })
}

fn shown(piece: &Piece) -> String {
    match piece {
        Piece::Input(at) => format!("{{{at}}}"),
        Piece::Job(part) => format!("{{{part:?}}}").to_lowercase(),
    }
}

/// Appends bytes so that they are one value of a URL.
pub(super) fn percent_encode(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            for half in [byte >> 4, byte & 15] {
                let digit = char::from_digit(u32::from(half), 16).unwrap_or('0');
                out.push(digit.to_ascii_uppercase());
            }
        }
    }
}
