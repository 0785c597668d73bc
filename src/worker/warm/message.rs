//! The messages of inboxd-worker/1: what a worker says is read here, what we say is written here.
//!
//! Must not know: processes, which message may come when, what follows from one. Pure.
//!
//! Invariant: whatever the line is, the answer is a message or a sentence why it is none.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::limits;

/// What a worker says.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Ready(Ready),
    InitError(InitError),
    Progress {
        id: Cow<'a, str>,
    },
    Log(Log<'a>),
    Rows(Rows<'a>),
    Result(Reply<'a>),
    Pong {
        n: u64,
    },
    Recycle {
        reason: String,
    },
    Bye,
    /// With more than one job at once: which of them may be to blame for the worker's death.
    Started {
        id: Cow<'a, str>,
    },
    /// A type of a later version.
    Unknown,
}

impl Message<'_> {
    /// Which job it is about, where it says so.
    pub(super) fn job(&self) -> Option<&str> {
        match self {
            Self::Progress { id } | Self::Started { id } => Some(id),
            Self::Log(log) => log.id.as_deref(),
            Self::Rows(rows) => Some(&rows.id),
            Self::Result(reply) => Some(&reply.id),
            Self::Ready(_)
            | Self::InitError(_)
            | Self::Pong { .. }
            | Self::Recycle { .. }
            | Self::Bye
            | Self::Unknown => None,
        }
    }
}

/// `ready`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Ready {
    pub(super) v: u64,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) concurrency: Option<u64>,
    #[serde(default)]
    pub(super) features: Vec<String>,
    #[serde(default)]
    pub(super) columns: Option<Vec<String>>,
    #[serde(default)]
    pub(super) schema: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) max_jobs: Option<u64>,
}

impl Ready {
    pub(super) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }
}

/// `init_error`.
#[derive(Debug, Deserialize)]
pub(super) struct InitError {
    pub(super) class: InitClass,
    pub(super) msg: String,
    #[serde(default)]
    pub(super) detail: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum InitClass {
    Permanent,
    Transient,
}

/// `log`.
#[derive(Debug, Deserialize)]
pub(super) struct Log<'a> {
    #[serde(default, borrow)]
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) level: Level,
    #[serde(borrow)]
    pub(super) msg: Cow<'a, str>,
    #[serde(default)]
    pub(super) kv: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// `rows`.
#[derive(Debug, Deserialize)]
pub(super) struct Rows<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    pub(super) seq: u64,
    #[serde(default, borrow, rename = "rows")]
    pub(super) inline: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    pub(super) file: Option<String>,
    #[serde(default)]
    pub(super) bytes: Option<u64>,
    #[serde(default)]
    pub(super) count: Option<u64>,
    #[serde(default)]
    pub(super) sha256: Option<String>,
}

/// `result`.
#[derive(Debug, Deserialize)]
pub(super) struct Reply<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    pub(super) status: Status,
    #[serde(default)]
    pub(super) rows: u64,
    #[serde(default)]
    pub(super) chunks: u64,
    #[serde(default)]
    pub(super) msg: Option<String>,
    #[serde(default)]
    pub(super) class: Option<Class>,
    #[serde(default)]
    pub(super) code: Option<String>,
    #[serde(default)]
    pub(super) detail: Option<String>,
    #[serde(default)]
    pub(super) retry_after_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Ok,
    Fail,
    Incomplete,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Class {
    Transient,
    TryAgain,
    Permanent,
    Resource,
    Misconfigured,
}

/// Reads one line.
pub(super) fn read(line: &[u8]) -> Result<Message<'_>, String> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        t: Cow<'a, str>,
    }
    #[derive(Deserialize)]
    struct Of<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    #[derive(Deserialize)]
    struct ProgressOf<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(rename = "done")]
        _done: serde_json::Number,
    }
    #[derive(Deserialize)]
    struct PongOf {
        n: u64,
        #[serde(default, rename = "rss_bytes")]
        _rss_bytes: Option<u64>,
    }
    #[derive(Deserialize)]
    struct RecycleOf {
        reason: String,
    }
    // Otherwise an array would be taken for the fields of a struct in their order.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err("not a JSON object".to_owned());
    }
    let head: Head<'_> = parse(line)?;
    match &*head.t {
        "ready" => {
            let ready: Ready = parse(line)?;
            if !(1..=limits::MOST_CONCURRENCY).contains(&ready.concurrency.unwrap_or(1)) {
                return Err(format!("concurrency is not 1 to {}", limits::MOST_CONCURRENCY));
            }
            let mut seen = HashSet::new();
            let names = ready.columns.iter().flatten();
            if let Some(name) = names.into_iter().find(|name| !seen.insert(name.as_str())) {
                // Of two cells with one name one would be lost.
                let shown: String = name.chars().take(limits::COLUMN_SHOWN).collect();
                return Err(format!("the column {shown:?} stands twice"));
            }
            Ok(Message::Ready(ready))
        }
        "init_error" => parse(line).map(Message::InitError),
        "started" => parse(line).map(|Of { id }| Message::Started { id }),
        "progress" => parse(line).map(|ProgressOf { id, .. }| Message::Progress { id }),
        "log" => parse(line).map(Message::Log),
        "rows" => {
            let rows: Rows<'_> = parse(line)?;
            let is_file = rows.file.is_some()
                && rows.bytes.is_some()
                && rows.count.is_some()
                && rows.sha256.is_some();
            if rows.inline.is_some() == is_file {
                return Err("rows needs either rows, or file, bytes, count and sha256".to_owned());
            }
            Ok(Message::Rows(rows))
        }
        "result" => {
            let reply: Reply<'_> = parse(line)?;
            if reply.status == Status::Fail && reply.msg.is_none() {
                return Err("missing field `msg`".to_owned());
            }
            Ok(Message::Result(reply))
        }
        "pong" => parse(line).map(|PongOf { n, .. }| Message::Pong { n }),
        "recycle" => parse(line).map(|RecycleOf { reason }| Message::Recycle { reason }),
        "bye" => Ok(Message::Bye),
        _ => Ok(Message::Unknown),
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

/// What we say.
#[derive(Debug, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(super) enum Say<'a> {
    Hello {
        v: u32,
        worker: &'a str,
        route: &'a str,
        max_line_bytes: usize,
        config: &'a serde_json::Map<String, serde_json::Value>,
    },
    Job(Box<JobFields<'a>>),
    Cancel {
        id: &'a str,
        reason: &'a str,
        grace_ms: u64,
    },
    Ping {
        n: u64,
    },
    Drain,
}

/// The fields of `job`.
#[derive(Debug, Serialize)]
pub(super) struct JobFields<'a> {
    pub(super) id: &'a str,
    pub(super) attempt: u32,
    pub(super) route: &'a str,
    #[serde(flatten)]
    pub(super) path: Named<'a>,
    #[serde(flatten)]
    pub(super) name: Named<'a>,
    #[serde(flatten)]
    pub(super) rel: Named<'a>,
    pub(super) size_bytes: u64,
    pub(super) mtime_ms: i64,
    pub(super) timeout_ms: u64,
    pub(super) deadline_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progress_timeout_ms: Option<u64>,
    #[serde(flatten)]
    pub(super) scratch: Named<'a>,
    #[serde(flatten)]
    pub(super) output: Option<Named<'a>>,
    pub(super) args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) record: Option<RecordJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) record_no: Option<u64>,
}

/// A record: a line as a string, anything else as the object it is.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum RecordJson<'a> {
    Line(&'a str),
    Object(&'a RawValue),
}

/// Bytes under a name; where they are not UTF-8, in base64 under that name and `_b64`.
#[derive(Debug)]
pub(super) struct Named<'a> {
    key: &'static str,
    key_b64: &'static str,
    bytes: &'a [u8],
}

impl<'a> Named<'a> {
    pub(super) fn path(path: &'a Path) -> Self {
        Self { key: "path", key_b64: "path_b64", bytes: path.as_os_str().as_bytes() }
    }

    pub(super) fn name(bytes: &'a [u8]) -> Self {
        Self { key: "name", key_b64: "name_b64", bytes }
    }

    pub(super) fn rel(bytes: &'a [u8]) -> Self {
        Self { key: "rel", key_b64: "rel_b64", bytes }
    }

    pub(super) fn scratch(path: &'a Path) -> Self {
        Self { key: "scratch", key_b64: "scratch_b64", bytes: path.as_os_str().as_bytes() }
    }

    pub(super) fn output(path: &'a Path) -> Self {
        Self { key: "output", key_b64: "output_b64", bytes: path.as_os_str().as_bytes() }
    }
}

impl Serialize for Named<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(Some(1))?;
        match std::str::from_utf8(self.bytes) {
            Ok(text) => map.serialize_entry(self.key, text)?,
            Err(_) => map.serialize_entry(self.key_b64, &STANDARD.encode(self.bytes))?,
        }
        map.end()
    }
}

/// One line, with its end. Fails only for what JSON cannot hold, of which there is nothing here.
pub(super) fn write(say: &Say<'_>) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(say).map_err(|error| error.to_string())?;
    line.push(b'\n');
    if line.len() > limits::WORKER_LINE {
        return Err(format!("a line for the worker has more than {} bytes", limits::WORKER_LINE));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsStr;

    /// Goal: the lines of the protocol's page are understood. Method: each of its examples.
    #[test]
    fn the_examples_of_the_page() {
        let ready = r#"{"t":"ready","v":1,"name":"thumb","version":"2.4.1","features":["progress"],"columns":["file","w","h"]}"#;
        let Ok(Message::Ready(ready)) = read(ready.as_bytes()) else { panic!("no ready") };
        assert!(ready.has("progress") && !ready.has("cancel"));
        let rows = br#"{"t":"rows","id":"01JDM3","seq":0,"rows":[["a.tif",800,600]]}"#;
        assert!(
            matches!(read(rows), Ok(Message::Rows(r)) if r.inline.as_ref().map(Vec::len) == Some(1))
        );
        let fail =
            br#"{"t":"result","id":"x","status":"fail","class":"permanent","code":"E","msg":"no"}"#;
        assert!(matches!(read(fail), Ok(Message::Result(r)) if r.class == Some(Class::Permanent)));
        let log = br#"{"t":"log","id":"x","level":"warn","msg":"odd DPI","kv":{"dpi":71}}"#;
        assert!(matches!(read(log), Ok(Message::Log(l)) if l.level == Level::Warn));
        let init = br#"{"t":"init_error","class":"permanent","msg":"model.bin is missing"}"#;
        assert!(matches!(read(init), Ok(Message::InitError(_))));
        assert!(matches!(read(br#"{"t":"later","x":1}"#), Ok(Message::Unknown)));
        assert!(matches!(read(br#"{"t":"pong","n":3,"later":[]}"#), Ok(Message::Pong { n: 3 })));
    }

    /// Goal: what misses a field or has one of another type is no message. Method: one line a mistake.
    #[test]
    fn mistakes_are_no_messages() {
        for (line, why) in [
            ("nonsense", "not a JSON object"),
            ("[1]", "not a JSON object"),
            ("{\"t\":1}", "expected"),
            ("{\"id\":\"x\"}", "missing field `t`"),
            ("{\"t\":\"ready\"}", "missing field `v`"),
            ("{\"t\":\"ready\",\"v\":1,\"concurrency\":65}", "concurrency"),
            ("{\"t\":\"ready\",\"v\":1,\"columns\":[\"a\",\"b\",\"a\"]}", "\"a\" stands twice"),
            ("{\"t\":\"result\",\"id\":\"x\"}", "missing field `status`"),
            ("{\"t\":\"result\",\"id\":\"x\",\"status\":\"good\"}", "unknown variant"),
            ("{\"t\":\"result\",\"id\":\"x\",\"status\":\"fail\"}", "missing field `msg`"),
            ("{\"t\":\"rows\",\"id\":\"x\",\"seq\":0}", "rows needs"),
            ("{\"t\":\"rows\",\"id\":\"x\",\"seq\":0,\"file\":\"f\"}", "rows needs"),
            ("{\"t\":\"progress\",\"id\":\"x\"}", "missing field `done`"),
            ("{\"t\":\"log\",\"level\":\"loud\",\"msg\":\"\"}", "unknown variant"),
            ("{\"t\":\"pong\"} x", "trailing"),
        ] {
            match read(line.as_bytes()) {
                Err(said) => assert!(said.contains(why), "{line}: {said}"),
                Ok(message) => panic!("{line}: {message:?}"),
            }
        }
    }

    /// Goal: bytes that are not UTF-8 arrive whole. Method: a path of each kind.
    #[test]
    fn paths_that_are_not_utf8() {
        let written = |bytes: &[u8]| {
            serde_json::to_string(&Named::path(Path::new(OsStr::from_bytes(bytes)))).unwrap()
        };
        assert_eq!(written("/ü".as_bytes()), r#"{"path":"/ü"}"#);
        assert_eq!(written(b"/\xff"), r#"{"path_b64":"L/8="}"#);
    }

    proptest! {
        /// Goal: no line panics. Method: bytes, and objects with real types and odd fields.
        #[test]
        fn no_line_panics(bytes in any::<Vec<u8>>(), t in "ready|rows|result|log|pong", rest in "[\":,a-z0-9\\[\\]{}]{0,30}") {
            drop(read(&bytes));
            drop(read(format!("{{\"t\":\"{t}\",{rest}}}").as_bytes()));
        }
    }
}
