//! What is asked of a runner, and what is taken from its answer: the settings of `http`.
//!
//! Must not know: sockets, processes, what a job is; the worker fills and sends.
//!
//! A placeholder is one of the job's (`{name}`, `{rel}` …), or a member of the input: `{id}` or, where
//! it lies deeper or is called like one of the job's, a JSON pointer, `{/payload/id}`. `{json}` is
//! the whole input.
//!
//! Invariant: no placeholder stands where it could choose the host that is asked: who may drop a file
//! must not be able to send it elsewhere.

use super::template::{Part, TemplateError, parse_with, placeholder};
use super::value::{Checked, Problem, Value};

/// A request to a runner, and the way from its answer to rows; the URL is the worker's.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRules {
    /// How it is asked.
    pub method: Method,
    /// What is sent along, for methods that send something.
    pub body: Body,
    /// Further headers; `$env:NAME` in a value is that variable of the daemon's.
    pub headers: Vec<(String, String)>,
    /// A JSON pointer to the rows in the answer; empty: all of it.
    pub rows: String,
    /// What stands in each column; `None`: the members of a row are its columns.
    pub cells: Option<Vec<(String, Cell)>>,
    /// The runner itself, program and arguments, where it is ours to start.
    pub start: Option<Vec<String>>,
    /// Answers with 2xx once a runner of ours is ready; `None`: it is once its port accepts connections.
    pub ready_url: Option<String>,
}

impl Default for HttpRules {
    fn default() -> Self {
        Self {
            method: Method::Post,
            body: Body::File,
            headers: Vec::new(),
            rows: String::new(),
            cells: None,
            start: None,
            ready_url: None,
        }
    }
}

/// How a runner is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Without a body, and harmless to repeat.
    Get,
    /// With a body.
    Post,
    /// With a body.
    Put,
    /// With a body.
    Patch,
    /// Without a body.
    Delete,
}

impl Method {
    /// As it is written in a request, and in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether a body is sent.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Put | Self::Patch)
    }
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// The bytes of the file.
    File,
    /// The same, once they are known to be JSON.
    Json,
    /// JSON of our own; placeholders are in its strings, and one alone keeps the member's type.
    Template(serde_json::Map<String, serde_json::Value>),
}

/// What stands in a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A JSON pointer into the row; empty: all of it.
    Pointer(String),
    /// Text with placeholders.
    Text(String),
}

/// A piece of a text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is, or what is known of the job.
    Job(Part),
    /// A member of the input, by its JSON pointer; empty: all of it.
    Input(String),
}

/// Takes a text with placeholders apart.
pub fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    parse_with(
        text,
        |literal| Piece::Job(Part::Literal(literal)),
        |name| match name {
            "json" => Ok(Piece::Input(String::new())),
            _ if is_pointer(name) && !name.is_empty() => Ok(Piece::Input(name.to_owned())),
            _ => match placeholder(name) {
                Ok(part) => Ok(Piece::Job(part)),
                Err(_) if is_member(name) => Ok(Piece::Input(format!("/{name}"))),
                Err(error) => Err(error),
            },
        },
    )
}

/// A name that can be written without the form of a pointer.
fn is_member(name: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    !name.is_empty() && name.chars().all(is_letter)
}

/// Whether it is a JSON pointer (RFC 6901).
pub fn is_pointer(text: &str) -> bool {
    let sound = |at: usize| matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1'));
    (text.is_empty() || text.starts_with('/')) && text.match_indices('~').all(|(at, _)| sound(at))
}

/// Whether a text is an address that can be asked. The error is what is wrong with it.
pub fn check_url(text: &str) -> Result<(), String> {
    let pieces = pieces(text).map_err(|error| error.to_string())?;
    let plain = "write one such as \"http://127.0.0.1:5055/run\"";
    let Some(Piece::Job(Part::Literal(first))) = pieces.first() else {
        return Err(format!("{text:?} does not begin with http:// or https://; {plain}"));
    };
    let rest = ["http://", "https://"].iter().find_map(|scheme| first.strip_prefix(scheme));
    let Some(rest) = rest else {
        return Err(format!("{text:?} does not begin with http:// or https://; {plain}"));
    };
    if pieces.len() > 1 && !rest.contains(['/', '?']) {
        return Err(format!(
            "{text:?} has a placeholder in its host: a file must not choose who gets it; {plain}"
        ));
    }
    if rest.split(['/', '?']).next().is_some_and(|host| host.contains('@')) {
        return Err(format!(
            "{text:?} holds a user: write headers = {{ Authorization = \"Basic $env:NAME\" }}"
        ));
    }
    if text.contains('#') {
        return Err(format!("{text:?} has a #, which is never sent: write %23"));
    }
    let filled = pieces.iter().map(|piece| match piece {
        Piece::Job(Part::Literal(text)) => text.as_str(),
        _ => "x",
    });
    match filled.collect::<String>().parse::<ureq::http::Uri>() {
        Ok(uri)
            if uri.port().is_none()
                && uri.authority().is_some_and(|all| Some(all.as_str()) != uri.host()) =>
        {
            Err(format!("{text:?} has no sound port: it is 1 to 65535"))
        }
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => Ok(()),
        Ok(_) => Err(format!("{text:?} has no host; {plain}")),
        Err(error) => Err(format!("{text:?} is no URL ({error}); {plain}")),
    }
}

/// Scheme, host and port of an address: `http://127.0.0.1:5055`.
pub fn origin(url: &str) -> &str {
    let after = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(after..).and_then(|rest| rest.find(['/', '?']));
    end.and_then(|end| url.get(..after + end)).unwrap_or(url)
}

/// Whether a request, or a column, is made of members of the input.
pub fn reads_input(url: &str, rules: &HttpRules) -> bool {
    key_with(url, rules, &|piece| matches!(piece, Piece::Input(_))).is_some()
}

/// The setting with such a piece: that of the address, of the body or of the columns.
pub fn key_with(
    url: &str,
    rules: &HttpRules,
    is_it: &dyn Fn(&Piece) -> bool,
) -> Option<&'static str> {
    let of_text = |text: &str| pieces(text).is_ok_and(|all| all.iter().any(is_it));
    let of_body = match &rules.body {
        Body::Template(map) if rules.method.has_body() => {
            map.values().any(|value| any_text(value, &of_text))
        }
        _ => false,
    };
    let of_cell = |cell: &Cell| matches!(cell, Cell::Text(text) if of_text(text));
    let of_cells = rules.cells.iter().flatten().any(|(_, cell)| of_cell(cell));
    let keys = [(of_text(url), "http"), (of_body, "body"), (of_cells, "columns")];
    keys.into_iter().find_map(|(has, key)| has.then_some(key))
}

fn any_text(value: &serde_json::Value, is_it: &dyn Fn(&str) -> bool) -> bool {
    match value {
        serde_json::Value::String(text) => is_it(text),
        serde_json::Value::Array(items) => items.iter().any(|item| any_text(item, is_it)),
        serde_json::Value::Object(map) => map.values().any(|item| any_text(item, is_it)),
        _ => false,
    }
}

/// What is wrong with the texts of a body, if anything.
fn check_body(value: &serde_json::Value) -> Result<(), String> {
    match value {
        serde_json::Value::String(text) => {
            pieces(text).map(drop).map_err(|error| error.to_string())
        }
        serde_json::Value::Array(items) => items.iter().try_for_each(check_body),
        serde_json::Value::Object(map) => map.values().try_for_each(check_body),
        _ => Ok(()),
    }
}

/// The address of `http`.
pub(super) fn url(v: &Value<'_>) -> Checked<String> {
    let text = v.text()?;
    check_url(text).map_err(|why| v.problem(format!("`{}` = {why}", v.name)))?;
    Ok(text.to_owned())
}

/// One that is the same for all files.
pub(super) fn plain_url(v: &Value<'_>) -> Checked<String> {
    let text = url(v)?;
    if text.contains(['{', '}']) {
        return Err(v.problem(format!("`{}` is asked before there is a file: no {{…}}", v.name)));
    }
    Ok(text)
}

/// A JSON pointer.
pub(super) fn pointer(v: &Value<'_>) -> Checked<String> {
    let text = v.text()?;
    if !is_pointer(text) {
        return Err(
            v.problem(format!("`{}` = {text:?} is no JSON pointer; write {}", v.name, v.limit))
        );
    }
    Ok(text.to_owned())
}

/// What is sent.
pub(super) fn body(v: &Value<'_>) -> Checked<Body> {
    if v.is_table() {
        let json = v.json()?;
        json.values().try_for_each(check_body).map_err(|why| v.problem(why))?;
        return Ok(Body::Template(json));
    }
    match v.text()? {
        "file" => Ok(Body::File),
        "json" => Ok(Body::Json),
        other => Err(v.problem(format!("`{}` = {other:?} is unknown; write {}", v.name, v.limit))),
    }
}

/// Further headers.
pub(super) fn headers(v: &Value<'_>) -> Checked<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for (key, value) in v.table()? {
        let name: &str = key.get_ref();
        // Those that say how long the message is are the client's own.
        let is_ours = ["content-length", "transfer-encoding", "connection", "host"]
            .iter()
            .any(|ours| name.eq_ignore_ascii_case(ours));
        if is_ours || name.parse::<ureq::http::HeaderName>().is_err() {
            let message = format!("{name:?} cannot be set as a header");
            return Err(Problem { span: key.span(), message });
        }
        let Some(text) = value.given.get_ref().as_str() else {
            return Err(value.problem(format!("header {name} must be a string, in quotes")));
        };
        if text.parse::<ureq::http::HeaderValue>().is_err() {
            return Err(value.problem(format!("header {name} is of characters that none has")));
        }
        headers.push((name.to_owned(), text.to_owned()));
    }
    Ok(headers)
}

/// Columns with what stands in them, for the answers of a runner.
pub(super) fn cells(v: &Value<'_>) -> Checked<Vec<(String, Cell)>> {
    let mut cells = Vec::new();
    for (key, value) in v.table()? {
        let name: &str = key.get_ref();
        if name.is_empty() {
            return Err(Problem {
                span: key.span(),
                message: "a column must have a name".to_owned(),
            });
        }
        let Some(text) = value.given.get_ref().as_str() else {
            let message = format!("column {name:?} must be a JSON pointer, such as \"/id\"");
            return Err(value.problem(message));
        };
        let cell = if is_pointer(text) {
            Cell::Pointer(text.to_owned())
        } else if text.contains('{') {
            pieces(text).map_err(|error| value.problem(error.to_string()))?;
            Cell::Text(text.to_owned())
        } else {
            let message =
                format!("column {name:?} = {text:?} is no JSON pointer; write \"/{text}\"");
            return Err(value.problem(message));
        };
        cells.push((name.to_owned(), cell));
    }
    if cells.is_empty() {
        let message = "`columns` is empty; leave it out to take them as the rows bring them";
        return Err(v.problem(message.to_owned()));
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: what a placeholder means can be told by looking at it. Method: each kind.
    #[test]
    fn placeholders_mean_the_job_or_the_input() {
        let one = |text: &str| pieces(text).unwrap().remove(0);
        assert_eq!(one("{name}"), Piece::Job(Part::Name));
        assert_eq!(one("{customer_id}"), Piece::Input("/customer_id".to_owned()));
        assert_eq!(one("{/name}"), Piece::Input("/name".to_owned()));
        assert_eq!(one("{/payload/0/id}"), Piece::Input("/payload/0/id".to_owned()));
        assert_eq!(one("{json}"), Piece::Input(String::new()));
        assert_eq!(one("{{x}}"), Piece::Job(Part::Literal("{x}".to_owned())));
        assert_eq!(pieces("a{id}b").unwrap().len(), 3);
        for bad in ["{", "{}", "{a b}", "{/a~2}"] {
            assert!(pieces(bad).is_err(), "{bad}");
        }
    }

    /// Goal: an address that could not be asked, or that a file could bend, is refused with a remedy.
    /// Method: one mistake each, and sound ones.
    #[test]
    fn addresses_are_checked() {
        for good in [
            "http://127.0.0.1:5055",
            "http://127.0.0.1:5055/run/echo",
            "https://runner.example/{rel}?n={/a/b}",
            "http://[::1]:80/",
            "http://h?x={id}",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("127.0.0.1:5055", "does not begin with http"),
            ("{url}", "does not begin with http"),
            ("ftp://h/", "does not begin with http"),
            ("http://", "no URL"),
            ("http:///x", "no URL"),
            ("http://{host}/x", "placeholder in its host"),
            ("http://h{x}/", "placeholder in its host"),
            ("http://u:p@h/", "holds a user"),
            ("http://h/#x", "has a #"),
            ("http://h/a b", "no URL"),
            ("http://h:99999/", "no sound port"),
            ("http://h/{", "single `{`"),
        ] {
            let said = check_url(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
        assert_eq!(origin("http://h:1/a?b"), "http://h:1");
        assert_eq!(origin("http://h?b/c"), "http://h");
        assert_eq!(origin("http://h"), "http://h");
    }

    proptest! {
        /// Goal: no text panics. Method: braces, slashes and schemes in any order.
        #[test]
        fn no_text_panics(text in "(https?://)?[a{}/~01?#@:ü]{0,20}") {
            drop(pieces(&text));
            drop(check_url(&text));
            assert!(text.starts_with(origin(&text)));
        }
    }
}
