//! `inboxd init --from-r3po config.yaml`: the settings that do the same job as an R-3PO pipeline.
//!
//! Must not know: how a spool is made; it reads a text and gives one.
//!
//! R-3PO's file is six flat lines `key: value`. They are read here and not by a YAML library: the one
//! that everybody used is no longer maintained, its successors are young, and six scalars need none of
//! it. What is more than that (nesting, lists, text of several lines) is refused with its line, never
//! guessed.

use std::path::{Path, PathBuf};

use super::Failed;
use crate::config::limits;

/// What an R-3PO pipeline is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pipeline {
    job_name: String,
    processes: usize,
    /// As it is written there.
    pub(super) source_path: String,
    source_file_part: String,
    pub(super) output_path: Option<String>,
    /// Keys that mean nothing here, for a warning each.
    pub(super) unknown: Vec<String>,
}

impl Pipeline {
    /// Reads the file; the error names file and line.
    pub(super) fn read(path: &Path) -> Result<Self, Failed> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failed::usage(format!("cannot read {shown}: {error}")))?;
        Self::parse(&text).map_err(|(line, why)| Failed::usage(format!("{shown}:{line}: {why}")))
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut it = Self::default();
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        for (at, line) in lines {
            let bare = line.trim_end();
            if bare.is_empty() || bare.trim_start().starts_with('#') || bare == "---" {
                continue;
            }
            let flat =
                || (at + 1, "this is no line `key: value`; R-3PO's file has only such".into());
            let (key, value) = bare.split_once(':').ok_or_else(flat)?;
            if key.is_empty() || key.starts_with([' ', '\t', '-', '{', '[', '"', '\'']) {
                return Err(flat());
            }
            let value = scalar(value).ok_or_else(flat)?;
            match key.trim_end() {
                "job_name" => it.job_name = value,
                "processes" => {
                    it.processes = value.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                        (
                            at + 1,
                            format!("`processes` is {value:?}; it must be a whole number from 1"),
                        )
                    })?;
                }
                "source_path" => it.source_path = value,
                "source_file_part" => it.source_file_part = value,
                "output_path" => it.output_path = Some(value).filter(|path| !path.is_empty()),
                // The spool keeps what was done.
                "working_dir" => {}
                other => it.unknown.push(other.to_owned()),
            }
        }
        let is_missing = |value: &str| value.is_empty();
        for (key, missing) in [
            ("job_name", is_missing(&it.job_name)),
            ("processes", it.processes == 0),
            ("source_path", is_missing(&it.source_path)),
        ] {
            if missing {
                return Err((1, format!("`{key}` is missing")));
            }
        }
        Ok(it)
    }

    /// Its name as that of a route.
    pub(super) fn route(&self) -> String {
        let letter = |c: char| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_' | '-') => c,
            _ => '-',
        };
        let name: String = self.job_name.chars().map(letter).take(limits::ROUTE_NAME).collect();
        if name == "errors" { "errors-job".to_owned() } else { name }
    }

    /// The text of `inboxd.toml`. `file` is where the function stands.
    pub(super) fn settings(&self, file: &Path, function: &str, is_root: bool) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut lines = vec![
            "# The settings that do the same job as an R-3PO pipeline.".to_owned(),
            String::new(),
        ];
        if is_root {
            lines.push(
                "allow_root = true        # made by root: workers run as root, too".to_owned(),
            );
        }
        lines.push(format!("workers = {:<15}# its `processes`", self.processes));
        lines.push(String::new());
        lines.push(format!("[routes.{}]", self.route()));
        if !self.source_file_part.is_empty() {
            let glob = format!("*{}", literal(&self.source_file_part));
            lines.push(format!("glob = {}         # its `source_file_part`", quoted(&glob)));
        }
        let python = format!("{}:{function}", file.display());
        lines.push(format!("python = {}", quoted(&python)));
        lines.push(
            "trace_columns = false    # its CSVs do not name the file; true adds _file and _job"
                .to_owned(),
        );
        lines.push(
            "#retries = { crash = 1 } # further attempts; an exception is final, as there"
                .to_owned(),
        );
        lines.push("#timeout = \"1h\"          # it had none; here there always is one".to_owned());
        lines.push(String::new());
        lines.join("\n")
    }
}

/// `FILE.py:FUNCTION`, with the file as an absolute path: it stays where it is, and so do its imports.
pub(super) fn function(given: &str) -> Result<(PathBuf, String), Failed> {
    let Some((file, function)) =
        given.rsplit_once(':').filter(|(file, name)| !file.is_empty() && !name.is_empty())
    else {
        return Err(Failed::usage(format!(
            "{given:?} is no function; write FILE.py:FUNCTION, such as count.py:count"
        )));
    };
    let cannot = |error| Failed::usage(format!("cannot read {file}: {error}"));
    Ok((std::fs::canonicalize(file).map_err(cannot)?, function.to_owned()))
}

/// The value of a line: bare up to a comment, or in quotes. `None`: more than a plain value.
fn scalar(text: &str) -> Option<String> {
    let text = match text.strip_prefix([' ', '\t']) {
        Some(rest) => rest.trim_start(),
        None if text.is_empty() => "",
        None => return None,
    };
    let is_rest = |rest: &str| rest.trim().is_empty() || rest.trim_start().starts_with('#');
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            let (value, rest) = inner.split_once(quote)?;
            // Escapes and doubled quotes are more than such a file has.
            return (is_rest(rest) && !value.contains('\\')).then(|| value.to_owned());
        }
    }
    if text.starts_with(['[', '{', '|', '>', '&', '*', '!', '%', '@', '`']) || text.contains(": ") {
        return None;
    }
    let end = if text.starts_with('#') { Some(0) } else { text.find(" #") };
    let bare = end.and_then(|end| text.get(..end)).unwrap_or(text).trim_end();
    Some(if ["~", "null"].contains(&bare) { String::new() } else { bare.to_owned() })
}

/// Text as a glob that matches it and nothing else.
fn literal(text: &str) -> String {
    let special = |c: char| "*?[]{}!\\".contains(c);
    text.chars().fold(String::new(), |mut glob, c| {
        if special(c) {
            glob.push('\\');
        }
        glob.push(c);
        glob
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "---\n# a pipeline\njob_name: Count Produce\nprocesses: 2   # cores\n\
        source_path: '/data/in'\nsource_file_part: \".json\"\nworking_dir: /data/work\noutput_path: /data/out\n";

    /// Goal: every key of the file means what it meant. Method: one with each, in each way to write it.
    #[test]
    fn all_keys_are_read() {
        let it = Pipeline::parse(CONFIG).unwrap();
        let expected = Pipeline {
            job_name: "Count Produce".to_owned(),
            processes: 2,
            source_path: "/data/in".to_owned(),
            source_file_part: ".json".to_owned(),
            output_path: Some("/data/out".to_owned()),
            unknown: Vec::new(),
        };
        assert_eq!(it, expected);
        assert_eq!(it.route(), "count-produce");
    }

    /// Goal: what is no such file is refused at its line, never half understood. Method: each kind.
    #[test]
    fn other_yaml_is_refused() {
        for (text, line) in [
            ("job_name: a\nprocesses: two\nsource_path: x", 2),
            ("job_name: a\nprocesses: 0\nsource_path: x", 2),
            ("job:\n  name: a", 2),
            ("- a", 1),
            ("job_name: [a, b]", 1),
            ("job_name: |\n  a", 1),
            ("job_name: \"a\\tb\"", 1),
            ("job_name: 'it''s'", 1),
            ("job_name: *anchor", 1),
            ("just words", 1),
            ("job_name:a", 1),
            ("processes: 2\nsource_path: x", 1),
        ] {
            assert_eq!(Pipeline::parse(text).unwrap_err().0, line, "{text}");
        }
        let it =
            Pipeline::parse("job_name: errors\nprocesses: 1\nsource_path: a#b\nretry: 1").unwrap();
        assert_eq!((it.route().as_str(), it.source_path.as_str()), ("errors-job", "a#b"));
        assert_eq!(it.unknown, ["retry"]);
    }

    /// Goal: the settings load whatever the names are, and say what the file said. Method: names with
    /// everything that TOML and globs have a meaning for.
    #[test]
    fn the_settings_load() {
        let it = Pipeline {
            source_file_part: "_[1]*.js\"on".to_owned(),
            ..Pipeline::parse(CONFIG).unwrap()
        };
        let spool = tempfile::tempdir().unwrap();
        let text = it.settings(Path::new("/a \"b\"/count.py"), "count", true);
        std::fs::write(spool.path().join("inboxd.toml"), &text).unwrap();
        let settings =
            crate::config::load(spool.path()).unwrap_or_else(|e| panic!("{text}{e:?}")).settings;
        assert_eq!(settings.workers, 2);
        let table = crate::config::RouteTable::new(&settings).unwrap();
        let takes = |name: &str| table.find(&crate::core::RelPath::new(name).unwrap()).is_some();
        assert!(takes("sub/x_[1]*.js\"on") && !takes("x_1y.js\"on"));
    }
}
