//! The placeholders in the arguments of a `command`.
//!
//! Must not know: jobs, paths, or what a placeholder stands for in one attempt; the worker fills
//! it.
//!
//! Invariant: an argument is taken apart here once, and never again by a shell: what is filled in
//! stays one argument, whatever bytes it has.

use super::suggest;

/// A piece of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it is.
    Literal(String),
    /// `{path}`: the claimed file, or folder where that is one job, absolute.
    Path,
    /// `{name}`: its last component.
    Name,
    /// `{stem}`: the name without its extension.
    Stem,
    /// `{ext}`: the extension, without the dot.
    Ext,
    /// `{rel}`: the path below `incoming/`.
    Rel,
    /// `{dir}`: the folders of it.
    Dir,
    /// `{job}`: the job id.
    Job,
    /// `{attempt}`: from 1.
    Attempt,
    /// `{scratch}`: an empty folder of the attempt's own.
    Scratch,
    /// `{output}`: where made files go.
    Output,
    /// `{record}`: the record, for a route with `records`.
    Record,
    /// `{with}`: an argument for each companion, absolute, for a route with `with`.
    With,
}

/// As they are written. The order is the one in which messages list them.
const PLACEHOLDERS: [(&str, Part); 11] = [
    ("path", Part::Path),
    ("name", Part::Name),
    ("stem", Part::Stem),
    ("ext", Part::Ext),
    ("rel", Part::Rel),
    ("dir", Part::Dir),
    ("job", Part::Job),
    ("attempt", Part::Attempt),
    ("scratch", Part::Scratch),
    ("output", Part::Output),
    ("record", Part::Record),
];

/// The text is not an argument with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A name in braces that means nothing, and the nearest one that does.
    #[error("unknown placeholder `{{{name}}}`; did you mean `{{{nearest}}}`?")]
    Misspelt {
        /// As it was written, escaped.
        name: String,
        /// A known one.
        nearest: &'static str,
    },
    /// A name in braces that is like no known one.
    #[error(
        "unknown placeholder `{{{name}}}`; there are {known}; `{{{{` and `}}}}` are plain braces",
        known = known()
    )]
    Unknown {
        /// As it was written, escaped.
        name: String,
    },
    /// What becomes several arguments is part of one.
    #[error("`{{with}}` must be an argument of its own: it becomes one for each companion")]
    Several,
    /// A brace that has no partner.
    #[error("a single `{brace}`; write `{brace}{brace}` for a plain brace")]
    Brace {
        /// Which one.
        brace: char,
    },
}

fn known() -> String {
    PLACEHOLDERS.map(|(name, _)| format!("`{{{name}}}`")).join(" ")
}

/// Takes an argument apart. No two literals stand side by side and none is empty.
pub fn parse(text: &str) -> Result<Vec<Part>, TemplateError> {
    if text == "{with}" {
        return Ok(vec![Part::With]);
    }
    let of_name = |name: &str| match name {
        "with" => Err(TemplateError::Several),
        name => placeholder(name),
    };
    parse_with(text, Part::Literal, of_name)
}

/// The same for another set of placeholders.
pub(super) fn parse_with<T>(
    text: &str,
    of_literal: impl Fn(String) -> T,
    of_name: impl Fn(&str) -> Result<T, TemplateError>,
) -> Result<Vec<T>, TemplateError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        literal.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            literal.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            literal.push('}');
            rest = after;
        } else if let Some(open) = from.strip_prefix('{') {
            let (name, after) = open.split_once('}').ok_or(TemplateError::Brace { brace: '{' })?;
            let part = of_name(name)?;
            if !literal.is_empty() {
                parts.push(of_literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = after;
        } else {
            return Err(TemplateError::Brace { brace: '}' });
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(of_literal(literal));
    }
    Ok(parts)
}

pub(super) fn placeholder(name: &str) -> Result<Part, TemplateError> {
    if let Some((_, part)) = PLACEHOLDERS.iter().find(|(known, _)| *known == name) {
        return Ok(part.clone());
    }
    let shown = name.escape_debug().to_string();
    // A program of awk or jq, or an object of JSON: nobody meant a name.
    if name.contains(|c: char| c.is_whitespace() || "\"':$".contains(c)) {
        return Err(TemplateError::Unknown { name: shown });
    }
    // `{}` is what find, xargs and GNU parallel write for the file, the other signs are parallel's.
    let nearest = match name {
        "" | "file" | "filepath" | "input" => Some("path"),
        "/" | "basename" | "filename" => Some("name"),
        "." | "/." => Some("stem"),
        "//" | "dirname" => Some("dir"),
        "#" | "id" => Some("job"),
        "line" | "row" => Some("record"),
        "tmp" | "tmpdir" => Some("scratch"),
        "out" | "outdir" => Some("output"),
        _ => suggest::nearest(name, PLACEHOLDERS.iter().map(|(known, _)| *known)),
    };
    Err(match nearest {
        Some(nearest) => TemplateError::Misspelt { name: shown, nearest },
        None => TemplateError::Unknown { name: shown },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn literal(text: &str) -> Part {
        Part::Literal(text.to_owned())
    }

    /// Goal: arguments come apart as the manual says. Method: each placeholder, and braces around.
    #[test]
    fn arguments_come_apart() {
        for (name, part) in PLACEHOLDERS {
            assert_eq!(parse(&format!("{{{name}}}")), Ok(vec![part]));
        }
        assert_eq!(parse("--in={path}.x"), Ok(vec![literal("--in="), Part::Path, literal(".x")]));
        assert_eq!(parse("{dir}{name}"), Ok(vec![Part::Dir, Part::Name]));
        assert_eq!(parse("{{path}}"), Ok(vec![literal("{path}")]));
        assert_eq!(parse("{{{path}}}"), Ok(vec![literal("{"), Part::Path, literal("}")]));
        assert_eq!(parse(""), Ok(vec![]));
    }

    /// Goal: a mistake is named with its remedy. Method: each error's text.
    #[test]
    fn mistakes_have_a_remedy() {
        for (text, message) in [
            ("{pth}", "unknown placeholder `{pth}`; did you mean `{path}`?"),
            ("{}", "unknown placeholder `{}`; did you mean `{path}`?"),
            ("{/}", "unknown placeholder `{/}`; did you mean `{name}`?"),
            ("{.}", "unknown placeholder `{.}`; did you mean `{stem}`?"),
            ("{line}", "unknown placeholder `{line}`; did you mean `{record}`?"),
            ("{PATH}", "unknown placeholder `{PATH}`; did you mean `{path}`?"),
            ("a{", "a single `{`; write `{{` for a plain brace"),
            ("{path", "a single `{`; write `{{` for a plain brace"),
            (
                "--sidecar={with}",
                "`{with}` must be an argument of its own: it becomes one for each companion",
            ),
            ("a}b", "a single `}`; write `}}` for a plain brace"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
        for (text, name) in
            [("${HOME}", "HOME"), ("{record: .x}", "record: .x"), ("{ path }", " path ")]
        {
            let message = parse(text).unwrap_err().to_string();
            let unknown =
                format!("unknown placeholder `{{{name}}}`; there are `{{path}}` `{{name}}`");
            assert!(message.starts_with(&unknown), "{message}");
            assert!(message.ends_with("; `{{` and `}}` are plain braces"), "{message}");
        }
    }

    proptest! {
        /// Goal: nothing panics, and doubled braces give the text back.
        /// Method: text full of braces.
        #[test]
        fn doubled_braces_give_the_text_back(text in "[a{}ü\n]{0,20}") {
            drop(parse(&text));
            let doubled = text.replace('{', "{{").replace('}', "}}");
            let want = if text.is_empty() { vec![] } else { vec![literal(&text)] };
            prop_assert_eq!(parse(&doubled), Ok(want));
        }
    }
}
