//! One route's way to its runner: the connections it keeps, a request made and sent, what its end means.
//!
//! Must not know: who else uses it, whether the runner is ours.
//!
//! Invariants
//! - The time-out covers all of it, from the lookup of the name to the last byte of the answer.
//! - A request is sent a second time at once only if nothing of it can have been processed: nothing
//!   went out, or it is a GET that a kept connection swallowed. Everything else is *try again*.
//! - No more of an answer is held than may become rows.
//! - Redirects are not followed and proxies of the environment not used: the address is what it is.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ureq::http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use ureq::http::{Request, Response};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::{Connector as _, RustlsConnector};
use ureq::{Agent, Body, Error, SendBody};

use super::answer::{self, Answer};
use super::fill::{Sent, Texts, percent_encode};
use super::wire::{Names, Wire, stale};
use crate::config::request::{Method, origin};
use crate::config::{Route, Worker, limits};
use crate::core::{FailClass, Failure, Row, Verdict};
use crate::worker::{Stop, Task};

/// Asks the runner of one route.
pub(super) struct Client {
    pub(super) route: Arc<Route>,
    agent: Agent,
    texts: Texts,
    headers: Vec<(HeaderName, HeaderValue)>,
    stop: Stop,
}

impl fmt::Debug for Client {
    /// Without the headers, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("route", &self.route.name).finish_non_exhaustive()
    }
}

/// How a request ended.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) verdict: Verdict,
    pub(super) rows: Vec<Row>,
    /// The body, where it says more than the reason.
    pub(super) body: Vec<u8>,
    /// The connection failed: the runner may be gone.
    pub(super) is_cut_off: bool,
}

impl Asked {
    fn of(verdict: Verdict) -> Self {
        Self { verdict, rows: Vec::new(), body: Vec::new(), is_cut_off: false }
    }

    fn failed(failure: Failure) -> Self {
        Self::of(Verdict::Failed(failure))
    }
}

/// Connections that a stop ends, with TLS by the system's certificates.
pub(super) fn agent(timeout: std::time::Duration, stop: &Stop) -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("inboxd/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .max_idle_connections(limits::HTTP_IDLE)
        .max_idle_connections_per_host(limits::HTTP_IDLE)
        .max_idle_age(limits::HTTP_IDLE_AGE)
        .max_response_header_size(limits::HTTP_HEADER)
        .input_buffer_size(limits::HTTP_BUFFER)
        .output_buffer_size(limits::HTTP_BUFFER)
        .build();
    let wire = Wire { stop: stop.clone() }.chain(RustlsConnector::default());
    Agent::with_parts(config, wire, Names { stop: stop.clone() })
}

impl Client {
    /// The error is one line for a person: the route cannot be asked as it is.
    pub(super) fn new(route: &Arc<Route>, stop: &Stop) -> Result<Self, String> {
        let Worker::Http { url } = &route.worker else {
            return Err("the route has no `http`".to_owned());
        };
        let headers = route.http.headers.iter().map(|(name, text)| header(name, text));
        Ok(Self {
            agent: agent(route.timeout, stop),
            texts: Texts::new(url, &route.http)?,
            headers: headers.collect::<Result<_, _>>()?,
            route: Arc::clone(route),
            stop: stop.clone(),
        })
    }

    /// Asks about one task, blocking, to the end.
    pub(super) fn ask(&self, task: &Task) -> Asked {
        let begun = Instant::now();
        let has_body = self.route.http.method.has_body();
        let input = match self.texts.input(task, has_body) {
            Ok(input) => input,
            Err(failure) => return Asked::failed(failure),
        };
        let made = self.texts.url(task, &input).and_then(|url| {
            let cells = self.texts.cells(task, &input)?;
            Ok((url, cells))
        });
        let (url, cells) = match made {
            Ok(made) => made,
            Err(failure) => return Asked::failed(failure),
        };
        let mut is_again = false;
        loop {
            let body = match has_body.then(|| self.texts.body(task, &input)).transpose() {
                Ok(body) => body,
                Err(failure) => return Asked::failed(failure),
            };
            let sent = self.request(task, &url, body).and_then(|request| self.agent.run(request));
            let heard = sent.and_then(|response| self.take(response));
            let error = match heard {
                Ok(answer) => {
                    if let Some(reason) = answer::lacks_credentials(&answer) {
                        let body = answer::kept(&answer);
                        return Asked { body, ..Asked::of(Verdict::Misconfigured { reason }) };
                    }
                    let rows = answer::read(&answer, &self.route, &cells, SystemTime::now());
                    return match rows {
                        Ok(rows) => Asked { rows, ..Asked::of(Verdict::Done) },
                        Err(failure) => {
                            Asked { body: answer::kept(&answer), ..Asked::failed(failure) }
                        }
                    };
                }
                Err(error) => error,
            };
            let stale = match &error {
                Error::Io(error) => stale(error),
                _ => None,
            };
            let is_safe =
                self.route.http.method == Method::Get && begun.elapsed() < limits::HTTP_SWALLOWED;
            if stale.is_some_and(|stale| stale.is_unsent || is_safe) && !is_again {
                is_again = true;
                continue;
            }
            return self.conclude(&error, &url, begun);
        }
    }

    fn request(
        &self,
        task: &Task,
        url: &str,
        body: Option<Sent>,
    ) -> Result<Request<SendBody<'static>>, Error> {
        let mut request = Request::builder().method(self.route.http.method.name()).uri(url);
        let job = task.job.to_string();
        let mut rel = String::new();
        percent_encode(task.rel.as_bytes(), &mut rel);
        request = request
            .header(ACCEPT, "application/json")
            .header("INBOXD-Job", &job)
            .header("INBOXD-Attempt", task.attempt.to_string())
            .header("INBOXD-Route", &self.route.name)
            .header("INBOXD-Rel", rel);
        // The same for every attempt: a runner that has done it already can say so.
        request = match &task.record {
            None => request.header("Idempotency-Key", &job),
            Some(record) => request
                .header("INBOXD-Record", record.no)
                .header("Idempotency-Key", format!("{job}-{}", record.no)),
        };
        let body = match body {
            None => SendBody::none(),
            Some(sent) => {
                request = request.header(CONTENT_TYPE, self.texts.content_type(task));
                let (len, body) = match sent {
                    Sent::File(file, len) => {
                        (len, SendBody::from_owned_reader(Claimed { file, left: len }))
                    }
                    Sent::Bytes(bytes) => {
                        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                        (len, SendBody::from_owned_reader(io::Cursor::new(bytes)))
                    }
                };
                // With a length nothing is sent in chunks, which small servers do not read.
                request = request.header(CONTENT_LENGTH, len);
                body
            }
        };
        if let Some(headers) = request.headers_mut() {
            for (name, value) in &self.headers {
                headers.insert(name, value.clone());
            }
        }
        Ok(request.body(body)?)
    }

    /// Reads an answer to its end, or to where it is too long.
    fn take(&self, response: Response<Body>) -> Result<Answer, Error> {
        let status = response.status();
        let text = |name| {
            let value: Option<&HeaderValue> = response.headers().get(name);
            value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let mut answer = Answer {
            status: status.as_u16(),
            name: status.canonical_reason().unwrap_or_default(),
            location: text(LOCATION),
            retry_after: text(RETRY_AFTER),
            ..Answer::default()
        };
        let kept = u64::try_from(limits::STDERR_KEPT).unwrap_or(u64::MAX);
        let most = if status.is_success() { self.route.max_output } else { kept };
        let mut body = response.into_body().into_reader();
        (&mut body).take(most).read_to_end(&mut answer.body).map_err(Error::from)?;
        // Reading to the end lets the connection be used again; one that is cut is closed.
        answer.is_cut = body.read(&mut [0]).map_err(Error::from)? > 0;
        Ok(answer)
    }

    /// What it means that there was no answer.
    fn conclude(&self, error: &Error, url: &str, begun: Instant) -> Asked {
        if self.stop.is_stopped() {
            return Asked::of(Verdict::Released);
        }
        let timeout = self.route.timeout;
        if matches!(error, Error::Timeout(_)) || begun.elapsed() >= timeout {
            let reason = format!("timed out after {}", humantime::format_duration(timeout));
            return Asked::failed(Failure::new(FailClass::Timeout, reason));
        }
        let origin = origin(url);
        let failed = |class, reason| Asked::failed(Failure::new(class, reason));
        let Error::Io(error) = error else {
            return match error {
                Error::Tls(_) | Error::Rustls(_) | Error::TlsRequired => {
                    Asked::of(Verdict::Misconfigured {
                        reason: format!("cannot trust {origin}: {error}"),
                    })
                }
                Error::LargeResponseHeader(..) => {
                    let most = bytesize::ByteSize::b(limits::HTTP_HEADER as u64);
                    failed(
                        FailClass::Fail,
                        format!("the header of the answer is longer than {most}"),
                    )
                }
                Error::Decompress(_, why) => {
                    failed(FailClass::Fail, format!("the answer cannot be unpacked: {why}"))
                }
                // Before anything was sent; ureq tells of each limit in another way.
                error if url.len() > limits::HTTP_URL && is_unsendable(error) => {
                    let most = bytesize::ByteSize::b(limits::HTTP_URL as u64);
                    let reason = format!(
                        "the URL made of it is longer than {most}: send it as the body (`method` and `body`)"
                    );
                    failed(FailClass::Permanent, reason)
                }
                error => failed(FailClass::Fail, format!("the answer is not HTTP: {error}")),
            };
        };
        if let Some(FileError(reason)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return failed(FailClass::Fail, reason.clone());
        }
        let cut_off =
            |reason: String| Asked { is_cut_off: true, ..failed(FailClass::TryAgain, reason) };
        match error.kind() {
            io::ErrorKind::ConnectionRefused => cut_off(format!("connection refused: {origin}")),
            io::ErrorKind::NotFound => Asked::of(Verdict::Misconfigured {
                reason: format!("cannot find the host of {origin}: {error}"),
            }),
            // How rustls says that a certificate or the protocol is not right.
            io::ErrorKind::InvalidData if origin.starts_with("https:") => {
                let said = error.to_string();
                let reason = if said.contains("InvalidContentType") {
                    format!("{origin} does not speak TLS: write http://, or let it")
                } else {
                    format!("cannot trust {origin}: {said}")
                };
                Asked::of(Verdict::Misconfigured { reason })
            }
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                failed(FailClass::Fail, format!("the answer cannot be read: {error}"))
            }
            io::ErrorKind::TimedOut => cut_off(format!("cannot connect to {origin}: no answer")),
            _ => cut_off(format!("connection lost: {origin}: {error}")),
        }
    }
}

/// The request could not even be made, or does not fit where it is written.
fn is_unsendable(error: &Error) -> bool {
    matches!(error, Error::Http(_) | Error::BadUri(_))
        || error.to_string().contains("output too small")
}

/// Variables that headers of a route name and our environment does not have.
pub fn missing_variables(route: &Route) -> Vec<String> {
    let mut missing = Vec::new();
    for (_, text) in &route.http.headers {
        // What it becomes is of no interest here.
        drop(fill(text, |variable| {
            if std::env::var(variable).is_err() {
                missing.push(variable.to_owned());
            }
            Some(String::new())
        }));
    }
    missing
}

/// A header's text with its variables; else the one that is not there.
fn fill(text: &str, mut look: impl FnMut(&str) -> Option<String>) -> Result<String, String> {
    let mut value = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("$env:") {
        value.push_str(before);
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
        let (variable, after) = after.split_at_checked(end).unwrap_or((after, ""));
        value.push_str(&look(variable).ok_or_else(|| variable.to_owned())?);
        rest = after;
    }
    value.push_str(rest);
    Ok(value)
}

/// A header with the variables that its text names.
fn header(name: &str, text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let value = fill(text, |variable| std::env::var(variable).ok()).map_err(|variable| {
        format!("header {name}: the environment of inboxd has no {variable}; set it there")
    })?;
    let name = name.parse().map_err(|_| format!("{name:?} is no header"))?;
    let mut value: HeaderValue =
        value.parse().map_err(|_| format!("header {name} is of characters that none has"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// The claimed file: exactly as many bytes as were promised.
struct Claimed {
    file: File,
    left: u64,
}

/// Reading the file failed, not the connection.
#[derive(Debug)]
struct FileError(String);

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FileError {}

impl Read for Claimed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let read = (&mut self.file).take(self.left).read(buffer);
        let n = read.map_err(|error| {
            io::Error::other(FileError(format!("cannot read the file: {error}")))
        })?;
        if n == 0 {
            let reason = "the file became shorter while it was sent".to_owned();
            return Err(io::Error::other(FileError(reason)));
        }
        self.left = self.left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
        Ok(n)
    }
}
