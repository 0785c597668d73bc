//! The argv template: placeholders in any argument, filled with bytes, never through a shell.
//!
//! Must not know: processes, PATH.
//!
//! Invariant: what is filled in is one argument, whatever bytes it holds: it is never split, quoted
//! or looked at again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::Task;

/// Checks the templates of a route's argv, for the settings. `output` says whether the route makes
/// files. The message names the placeholder, the nearest one known, and how to write a brace.
pub fn check_template(argv: &[String], output: bool) -> Result<(), String> {
    for argument in argv {
        let pieces = parse(argument)?;
        if !output && pieces.contains(&Piece::Fill(Placeholder::Output)) {
            return Err("{output} is only there where the route says `output = true`".to_owned());
        }
    }
    match argv.first() {
        Some(program) if !program.is_empty() => Ok(()),
        _ => Err("the program is missing: the first element names it".to_owned()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Fill(Placeholder),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placeholder {
    Path,
    Name,
    Stem,
    Ext,
    Rel,
    Dir,
    Job,
    Attempt,
    Scratch,
    Output,
}

/// As they are written, in the order of the manual.
const PLACEHOLDERS: [(&str, Placeholder); 10] = [
    ("path", Placeholder::Path),
    ("name", Placeholder::Name),
    ("stem", Placeholder::Stem),
    ("ext", Placeholder::Ext),
    ("rel", Placeholder::Rel),
    ("dir", Placeholder::Dir),
    ("job", Placeholder::Job),
    ("attempt", Placeholder::Attempt),
    ("scratch", Placeholder::Scratch),
    ("output", Placeholder::Output),
];

/// Splits one argument into text and placeholders.
pub(super) fn parse(argument: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = argument;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            text.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            text.push('}');
            rest = after;
        } else if let Some((name, after)) = from.strip_prefix('{').and_then(|f| f.split_once('}')) {
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Fill(placeholder(name)?));
            rest = after;
        } else {
            return Err(format!("a brace alone in {argument:?}; write {{{{ or }}}} for a brace"));
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

fn placeholder(name: &str) -> Result<Placeholder, String> {
    if let Some((_, known)) = PLACEHOLDERS.iter().find(|(known, _)| *known == name) {
        return Ok(*known);
    }
    let nearest = PLACEHOLDERS
        .iter()
        .map(|(known, _)| (strsim::damerau_levenshtein(known, name), *known))
        .min()
        // Further away than this it is another word, or a piece of a script.
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len());
    Err(match nearest {
        Some((_, known)) => format!("unknown placeholder {{{name}}}; did you mean {{{known}}}?"),
        None => format!(
            "unknown placeholder {{{name}}}; there are {}; write {{{{ for a brace",
            PLACEHOLDERS.map(|(known, _)| format!("{{{known}}}")).join(" ")
        ),
    })
}

/// The argument for one task.
pub(super) fn fill(pieces: &[Piece], task: &Task) -> OsString {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Fill(placeholder) => out.extend_from_slice(&value(*placeholder, task)),
        }
    }
    OsString::from_vec(out)
}

fn value(placeholder: Placeholder, task: &Task) -> Vec<u8> {
    let name = Path::new(OsStr::from_bytes(task.rel.name()));
    let bytes = |text: Option<&OsStr>| text.map_or_else(Vec::new, |t| t.as_bytes().to_vec());
    match placeholder {
        Placeholder::Path => task.path.as_os_str().as_bytes().to_vec(),
        Placeholder::Name => task.rel.name().to_vec(),
        Placeholder::Stem => bytes(name.file_stem()),
        Placeholder::Ext => bytes(name.extension()),
        Placeholder::Rel => task.rel.as_bytes().to_vec(),
        // Never empty, so that `out/{dir}/x` is not a path from the root.
        Placeholder::Dir if task.rel.parent().is_empty() => b".".to_vec(),
        Placeholder::Dir => task.rel.parent().to_vec(),
        Placeholder::Job => task.job.to_string().into_bytes(),
        Placeholder::Attempt => task.attempt.to_string().into_bytes(),
        Placeholder::Scratch => task.scratch.as_os_str().as_bytes().to_vec(),
        Placeholder::Output => bytes(task.output.as_ref().map(|path| path.as_os_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(template: &str) -> Result<(), String> {
        check_template(&[template.to_owned()], false)
    }

    /// Goal: a template that cannot be filled is refused, with help. Method: each kind of mistake.
    #[test]
    fn mistakes_are_named() {
        assert_eq!(check("{pth}").unwrap_err(), "unknown placeholder {pth}; did you mean {path}?");
        assert!(check("{'a': 1}").unwrap_err().contains("write {{ for a brace"));
        assert!(check("a{").unwrap_err().contains("brace alone"));
        assert!(check("}a").unwrap_err().contains("brace alone"));
        assert!(check("{}").unwrap_err().contains("unknown placeholder {}"));
        assert!(check("{output}").unwrap_err().contains("output = true"));
        assert!(check_template(&["{output}".to_owned()], true).is_ok());
        assert!(check_template(&[], true).unwrap_err().contains("program is missing"));
        assert!(check("").is_err());
    }

    /// Goal: doubled braces are braces. Method: all doublings around a placeholder.
    #[test]
    fn braces_are_written_twice() {
        let text = |t: &str| Piece::Text(t.to_owned());
        assert_eq!(parse("{{x}}").unwrap(), [text("{x}")]);
        assert_eq!(
            parse("a{{{path}}}b").unwrap(),
            [text("a{"), Piece::Fill(Placeholder::Path), text("}b")]
        );
        assert_eq!(parse("").unwrap(), []);
    }

    proptest! {
        /// Goal: no template panics, and text survives doubling. Method: random text with braces.
        #[test]
        fn any_text_survives_doubling(text in "[a-z{}é ]{0,20}") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            let want = if text.is_empty() { vec![] } else { vec![Piece::Text(text.clone())] };
            prop_assert_eq!(parse(&doubled), Ok(want));
            drop(parse(&text));
        }
    }
}
