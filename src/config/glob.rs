//! How a glob is read, for routes and for `ignore`: what `.gitignore` has taught people.
//!
//! Must not know: the disk, routes. Names are bytes; a glob's `?` is one byte.
//!
//! - without a slash it is matched with the last component, at any depth: `*.json`, `report-?.csv`;
//! - with one it is matched with the whole path below `incoming/`: `siteA/*.json`, `siteA/**`;
//! - `**/` is any number of folders, also none; `*` and `?` do not match a slash;
//! - a slash at the start only says "the whole path" (`/*.json`: not in folders), one at the end
//!   "everything below" (`siteA/`);
//! - upper and lower case differ; `*` matches a leading dot, but hidden names never get here.
//!
//! Invariant: every glob is anchored at both ends: `*.mkv` does not take `f.mkv.part`.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::core::RelPath;

/// A glob cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad glob {glob:?}: {reason}")]
pub struct GlobError {
    /// As it was written.
    pub glob: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// Tries globs, as they will be compiled.
pub(super) fn check<G: AsRef<str>>(globs: &[G]) -> Result<(), GlobError> {
    compile(globs).map(drop)
}

/// Whether globs take a name; no globs take every one.
pub(super) fn takes(globs: Option<&GlobSet>, rel: &RelPath) -> bool {
    globs.is_none_or(|globs| globs.is_match_candidate(&Candidate::from_bytes(rel.as_bytes())))
}

/// Globs that take what any of them takes.
pub(super) fn compile<G: AsRef<str>>(globs: &[G]) -> Result<GlobSet, GlobError> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let glob = glob.as_ref();
        let bad = |reason: String| GlobError { glob: glob.to_owned(), reason };
        let anchored = anchor(glob).map_err(|reason| bad(reason.to_owned()))?;
        let built = GlobBuilder::new(&anchored)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(false)
            .empty_alternates(true)
            .build()
            .map_err(|e| bad(format!("{}; `\\` makes the next character plain", e.kind())))?;
        set.add(built);
    }
    set.build().map_err(|e| GlobError {
        glob: globs.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
        reason: format!("{}; use fewer or shorter globs", e.kind()),
    })
}

/// The glob on the whole path that says what a person means by `glob`.
fn anchor(glob: &str) -> Result<String, &'static str> {
    let (body, below) = match glob.strip_suffix('/') {
        Some(body) => (body, "/**"),
        None => (glob, ""),
    };
    let (body, any_depth) = match body.strip_prefix('/') {
        Some(body) => (body, ""),
        None if body.contains('/') => (body, ""),
        None => (body, "**/"),
    };
    if body.is_empty() {
        return Err("it is empty; `**` is every file");
    }
    if body.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("it never matches; write the path below incoming/, without `.`, `..` or `//`");
    }
    Ok(format!("{any_depth}{body}{below}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rel(bytes: impl Into<Vec<u8>>) -> RelPath {
        RelPath::new(bytes).unwrap()
    }

    /// Goal: a glob takes what the header promises.
    /// Method: each glob with names that it takes and names that it leaves.
    #[test]
    fn globs_take_what_people_expect() {
        let cases: [(&str, &[&str], &[&str]); 14] = [
            ("*.json", &["x.json", "a/b/x.json", ".json"], &["x.JSON", "x.json.gz", "x.json/y"]),
            ("**/*.json", &["x.json", "a/x.json", "a/b/x.json"], &["x.jsonl"]),
            ("/*.json", &["x.json"], &["a/x.json"]),
            ("a/*.json", &["a/x.json"], &["x.json", "a/b/x.json", "b/a/x.json"]),
            ("a/**", &["a/x", "a/b/x"], &["a", "b/a/x"]),
            ("a/", &["a/x", "b/a/x"], &["a", "x"]),
            ("/a/", &["a/x"], &["b/a/x", "a"]),
            ("**", &["x", "a/b"], &[]),
            ("*", &["x", "a/b", "x\ny"], &[]),
            ("*.{a,b}", &["x.a", "x.b"], &["x.c"]),
            ("[0-9]?.x", &["12.x", "1a.x"], &["1.x", "a1.x"]),
            (r"a\*b", &["a*b"], &["axb"]),
            ("f.mkv", &["f.mkv"], &["f.mkv.part", "xf.mkv"]),
            ("a/**/b", &["a/b", "a/x/y/b"], &["b", "a/b/c"]),
        ];
        for (glob, taken, left) in cases {
            let globs = compile(&[glob]).unwrap();
            for name in taken {
                assert!(takes(Some(&globs), &rel(*name)), "{glob} must take {name:?}");
            }
            for name in left {
                assert!(!takes(Some(&globs), &rel(*name)), "{glob} must leave {name:?}");
            }
        }
    }

    /// Goal: a glob that cannot work is refused with its remedy. Method: each kind.
    #[test]
    fn bad_globs_are_refused() {
        for (glob, message) in [
            ("", "bad glob \"\": it is empty; `**` is every file"),
            ("/", "bad glob \"/\": it is empty; `**` is every file"),
            (
                "[a",
                "bad glob \"[a\": unclosed character class; missing ']'; `\\` makes the next \
                 character plain",
            ),
            (
                "./a",
                "bad glob \"./a\": it never matches; write the path below incoming/, without `.`, \
                 `..` or `//`",
            ),
        ] {
            assert_eq!(check(&[glob]).unwrap_err().to_string(), message);
        }
        for glob in ["a//b", "../a", "a/../b", "//a", "{a", "a}", "\\"] {
            assert!(check(&[glob]).is_err(), "{glob:?} was accepted");
        }
    }

    proptest! {
        /// Goal: a name written plainly is matched by itself at any depth. Method: random words.
        #[test]
        fn a_plain_name_matches_itself(name in "[a-z0-9.]{1,8}", dirs in "([a-z]{1,3}/){0,3}") {
            prop_assume!(name != "." && name != "..");
            let globs = compile(&[&name]).unwrap();
            let takes = |rest: &str| takes(Some(&globs), &rel(format!("{dirs}{name}{rest}")));
            prop_assert_eq!((takes(""), takes("x")), (true, false));
        }
    }
}
