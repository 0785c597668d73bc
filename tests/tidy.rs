//! Rules about the source that the compiler cannot hold. Each is fed a bad snippet, too.
//!
//! Must not know: what the code does. It reads lines: comments, and the tests at the end of a
//! file, do not count.

#![cfg(test)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// One file as the rules see it.
struct Source {
    /// Relative to the package, with `/`.
    path: String,
    /// All of it.
    text: String,
    /// Line number and code without comments; nothing from the file's own tests on.
    code: Vec<(usize, String)>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let mut code = Vec::new();
        let mut last_cfg_test = false;
        // A room's tests in a file of their own are tests, too.
        let is_tests = path.starts_with("src/")
            && (path.ends_with("/tests.rs")
                || path.contains("/tests/")
                || path.contains("/proof/"));
        let text_of_code = if is_tests { "" } else { text };
        for (at, line) in text_of_code.lines().enumerate() {
            let bare = without_comment(line).trim_end().to_owned();
            if last_cfg_test && bare.trim_start().starts_with("mod ") && bare.ends_with('{') {
                break;
            }
            last_cfg_test =
                bare.trim() == "#[cfg(test)]" || last_cfg_test && bare.trim().is_empty();
            code.push((at + 1, bare));
        }
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Lines of code that contain one of the words, whole.
    fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let hits = self.code.iter().filter(|(_, line)| words.iter().any(|w| has_word(line, w)));
        hits.map(|(at, line)| format!("{}:{at}: {}", self.path, line.trim())).collect()
    }

    fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| {
            let rest = self.path.strip_prefix("src/").and_then(|rest| rest.strip_prefix(folder));
            rest.is_some_and(|rest| folder.is_empty() || rest.starts_with('/') || rest == ".rs")
        })
    }
}

/// Cuts a `//` comment; one inside a string stays.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match c {
            '"' if before != '\\' && before != '\'' => quoted = !quoted,
            '/' if !quoted && before == '/' => return &line[..at - 1],
            _ => {}
        }
        before = c;
    }
    line
}

/// The word with nothing of an identifier around it; its own edges may be punctuation.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open = word.starts_with(is_name) && before.is_some_and(is_name);
        let close = word.ends_with(is_name) && after.is_some_and(is_name);
        !open && !close
    })
}

/// A rule, why it is, and a snippet that it must refuse and one that it must let pass.
struct Rule {
    name: &'static str,
    why: &'static str,
    find: fn(&Source) -> Vec<String>,
    bad: (&'static str, &'static str),
    good: (&'static str, &'static str),
}

/// Who may not be named by whom: data flows one way.
const ARROWS: [(&str, &[&str]); 9] = [
    (
        "core",
        &[
            "config", "fs", "spool", "journal", "results", "worker", "daemon", "cli", "server",
            "broker",
        ],
    ),
    (
        "fs",
        &[
            "core", "config", "spool", "journal", "results", "worker", "daemon", "cli", "server",
            "broker",
        ],
    ),
    ("config", &["spool", "journal", "results", "worker", "daemon", "cli", "server", "broker"]),
    ("journal", &["spool", "results", "worker", "daemon", "cli", "server", "broker"]),
    ("results", &["spool", "worker", "daemon", "cli", "server", "broker"]),
    ("spool", &["results", "worker", "daemon", "cli", "server", "broker"]),
    ("worker", &["spool", "journal", "results", "daemon", "cli", "server", "broker"]),
    ("daemon", &["cli"]),
    ("server", &["cli"]),
];

const RULES: [Rule; 11] = [
    Rule {
        name: "core is pure",
        why: "what it decides can be replayed",
        find: |source| {
            if !source.is_in(&["core"]) {
                return Vec::new();
            }
            source.lines_with(&[
                "std::fs",
                "std::io",
                "std::env",
                "std::net",
                "std::process",
                "std::thread",
                "rustix",
                "now()",
                "tokio",
                "tracing",
                "async",
            ])
        },
        bad: ("src/core/step.rs", "fn age() -> u64 { Instant::now().elapsed() }"),
        good: ("src/core/step.rs", "fn step(now_ms: u64) {} // not Instant::now()"),
    },
    Rule {
        name: "one async shell",
        why: "tokio outside daemon/ would spread; everything else blocks and is simple",
        find: |source| {
            if source.is_in(&["daemon"]) || !source.path.starts_with("src/") {
                return Vec::new();
            }
            source.lines_with(&["tokio", "async", ".await"])
        },
        bad: ("src/spool/scan.rs", "pub async fn scan() {}"),
        good: ("src/daemon/mod.rs", "use tokio::sync::mpsc;"),
    },
    Rule {
        name: "only fs renames, syncs and removes",
        why: "the simulated filesystem sees every durable step",
        find: |source| {
            if source.is_in(&["fs"]) || !source.path.starts_with("src/") {
                return Vec::new();
            }
            source.lines_with(&[
                "fs::rename(",
                "fs::renameat(",
                "fs::renameat_with(",
                "fs::remove_file(",
                "fs::remove_dir(",
                "fs::remove_dir_all(",
                "fs::unlink(",
                "fs::unlinkat(",
                "fs::rmdir(",
                "fsync(",
                "fdatasync(",
                "syncfs(",
                ".sync_all()",
                ".sync_data()",
            ])
        },
        bad: ("src/journal/writer.rs", "rustix::fs::fdatasync(&file)?;"),
        good: (
            "src/journal/writer.rs",
            "self.fs.rename(&dir, old, &dir, new)?; self.fs.sync_all(&dir)?;",
        ),
    },
    Rule {
        name: "data flows one way",
        why: "nobody below knows the daemon; a worker cannot move files",
        find: |source| {
            let mut found = Vec::new();
            for (module, forbidden) in ARROWS {
                if source.is_in(&[module]) {
                    for other in forbidden {
                        found.extend(source.lines_with(&[&format!("crate::{other}")]));
                        found.extend(source.lines_with(&[&format!("inboxd::{other}")]));
                    }
                }
            }
            found
        },
        bad: ("src/worker/command.rs", "use crate::journal::Writer;"),
        good: (
            "src/worker/command.rs",
            "use crate::config::Route; // crate::journal is not ours to know",
        ),
    },
    Rule {
        name: "quoting is decided in few places",
        why: "two opinions on CSV are two formats",
        find: |source| {
            let reads_input = source.path.contains("records");
            let ours = source.is_in(&["results", "worker/stdout"]) || reads_input;
            if ours || !source.path.starts_with("src/") {
                return Vec::new();
            }
            source
                .code
                .iter()
                .filter(|(_, line)| {
                    let outside = line.replace("::csv::", "::");
                    has_word(&outside, "csv::") || has_word(line, "use csv")
                })
                .map(|(at, line)| format!("{}:{at}: {}", source.path, line.trim()))
                .collect()
        },
        bad: ("src/cli/results.rs", "let reader = csv::Reader::from_path(path)?;"),
        good: ("src/cli/results.rs", "let csv = crate::results::csv::open(); let x = csv.rows;"),
    },
    Rule {
        name: "fs_extra only takes sources in",
        why: "it copies bytes into a temporary name and syncs nothing",
        find: |source| {
            if source.is_in(&["spool/import"]) || !source.path.starts_with("src/") {
                return Vec::new();
            }
            source.lines_with(&["fs_extra"])
        },
        bad: ("src/spool/settle.rs", "fs_extra::file::move_file(a, b, &options)?;"),
        good: ("src/spool/import.rs", "fs_extra::file::copy_with_progress(a, b, &options, tick)?;"),
    },
    Rule {
        name: "one exit",
        why: "an exit elsewhere skips what must still be done",
        find: |source| {
            if !source.path.starts_with("src/") {
                return Vec::new();
            }
            source.lines_with(&["process::exit", "process::abort", "exit_group"])
        },
        bad: ("src/main.rs", "std::process::exit(2);"),
        good: ("src/main.rs", "fn main() -> std::process::ExitCode { run() }"),
    },
    Rule {
        name: "printing only in main and cli",
        why: "what is printed is for the person who typed the command; all else is a log event",
        find: |source| {
            if source.is_in(&["cli", "main"]) || !source.path.starts_with("src/") {
                return Vec::new();
            }
            source.lines_with(&["println!", "eprintln!", "print!", "eprint!", "dbg!"])
        },
        bad: ("src/daemon/pool.rs", "eprintln!(\"slot {n} is free\");"),
        good: ("src/cli/status.rs", "println!(\"{line}\");"),
    },
    Rule {
        name: "every file says its duty first",
        why: "a file without one collects everything",
        find: |source| {
            let named_for_nothing = ["utils.rs", "common.rs", "misc.rs", "types.rs"];
            let file = source.path.rsplit('/').next().unwrap_or_default();
            if source.text.starts_with("//! ") && !named_for_nothing.contains(&file) {
                return Vec::new();
            }
            vec![format!("{}:1: no //! line, or a name without a duty", source.path)]
        },
        bad: ("src/spool/scan.rs", "use std::fs;\n//! Too late.\n"),
        good: ("src/spool/scan.rs", "//! Scan: names in `incoming/`.\n"),
    },
    Rule {
        name: "one word, one meaning",
        why: "an old word for a folder or a worker makes two of it",
        find: |source| {
            if !source.path.starts_with("src/") {
                return Vec::new();
            }
            let lines = source.text.lines().enumerate();
            let hits = lines.filter(|(_, line)| {
                ["claimed/", "failed/", "handler", "handlers"]
                    .iter()
                    .any(|word| has_word(line, word))
            });
            hits.map(|(at, line)| format!("{}:{}: {}", source.path, at + 1, line.trim())).collect()
        },
        bad: ("src/spool/mod.rs", "//! Moves it to `failed/`.\n"),
        good: ("src/spool/mod.rs", "//! A failed job's file goes to `error/`.\n"),
    },
    Rule {
        name: "exceptions are expected",
        why: "an allow outlives its reason unseen; an expect does not",
        find: |source| source.lines_with(&["#[allow", "#![allow"]),
        bad: ("src/fs/real.rs", "#[allow(dead_code)]\nfn f() {}"),
        good: ("src/fs/real.rs", "#[expect(dead_code, reason = \"read by a test\")]\nfn f() {}"),
    },
];

/// Events logged anywhere in `src/` that the table in the header of `daemon/mod.rs` does not name.
///
/// An event is the first string of a `tracing` macro; its row is ``//! | `event` | level | …``.
fn unlisted_events(sources: &[Source]) -> Vec<String> {
    let table = sources.iter().find(|source| source.path == "src/daemon/mod.rs");
    let header = table.map(|source| source.text.as_str()).unwrap_or_default();
    let rows = header.lines().filter_map(|line| line.strip_prefix("//! | `")?.split_once('`'));
    let listed: Vec<&str> = rows.map(|(event, _)| event).collect();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/")) {
        let code: Vec<&str> = source.code.iter().map(|(_, line)| line.as_str()).collect();
        let code = code.join("\n");
        for level in ["error!(", "warn!(", "info!(", "debug!(", "trace!("] {
            for (at, _) in code.match_indices(level) {
                if has_name_before(&code, at) {
                    continue;
                }
                let event = event_of(&code[at + level.len()..]);
                if !event.is_some_and(|event| listed.contains(&event)) {
                    found.push(format!("{}: {level}{event:?}", source.path));
                }
            }
        }
    }
    found
}

fn has_name_before(code: &str, at: usize) -> bool {
    code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// The last string literal of a macro call: fields come before the sentence.
fn event_of(call: &str) -> Option<&str> {
    let mut depth = 1;
    let mut open: Option<usize> = None;
    let mut last = None;
    let mut escaped = false;
    for (at, c) in call.char_indices() {
        match (open, c) {
            (Some(_), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(from), '"') if !escaped => {
                last = Some(&call[from..at]);
                open = None;
            }
            (None, '"') => open = Some(at + 1),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
        escaped = false;
    }
    last
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches"] {
        let files = walkdir::WalkDir::new(root.join(folder)).sort_by_file_name().into_iter();
        for entry in files.filter_map(Result::ok) {
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                // This file holds the bad snippets; only its own header is a matter of the rules.
                let text = fs::read_to_string(entry.path()).unwrap();
                let text = if path == "tests/tidy.rs" { text[..80].to_owned() } else { text };
                found.push(Source::new(&path, &text));
            }
        }
    }
    found
}

/// Goal: the source keeps every rule. Method: all rules over all files.
#[test]
fn the_source_is_tidy() {
    let sources = sources();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the source was not found");
    let mut broken = String::new();
    for rule in &RULES {
        for line in sources.iter().flat_map(rule.find) {
            writeln!(broken, "{line}\n    {}: {}", rule.name, rule.why).unwrap();
        }
    }
    assert!(broken.is_empty(), "\n{broken}");
}

/// Goal: no rule is asleep, and none cries wolf. Method: its bad snippet, its good one.
#[test]
fn every_rule_can_fail() {
    for rule in &RULES {
        let check = |(path, text): (&str, &str)| (rule.find)(&Source::new(path, text));
        assert!(!check(rule.bad).is_empty(), "`{}` let its bad snippet pass", rule.name);
        assert_eq!(
            check(rule.good),
            Vec::<String>::new(),
            "`{}` refused its good snippet",
            rule.name
        );
    }
}

/// Goal: each arrow is looked at. Method: for every pair, a file that breaks it.
#[test]
fn every_arrow_can_fail() {
    let rule = RULES.iter().find(|rule| rule.name == "data flows one way").unwrap();
    for (module, forbidden) in ARROWS {
        for other in forbidden {
            let text = format!("use crate::{other}::Thing;");
            let found = (rule.find)(&Source::new(&format!("src/{module}/x.rs"), &text));
            assert_eq!(found.len(), 1, "{module} may know {other}");
            let found = (rule.find)(&Source::new(&format!("src/{module}.rs"), &text));
            assert_eq!(found.len(), 1, "{module}.rs may know {other}");
        }
    }
}

/// Goal: every logged event is in the one table. Method: the source.
#[test]
fn every_event_is_in_the_table() {
    assert_eq!(unlisted_events(&sources()), Vec::<String>::new());
}

/// Goal: an event that is not in the table is seen. Method: one listed, one not, one without a sentence.
#[test]
fn an_unlisted_event_is_refused() {
    let check = |code: &str| {
        let table = "//! | `job done` | debug | `job`, `route` | it ended well |\n";
        unlisted_events(&[
            Source::new("src/daemon/mod.rs", table),
            Source::new("src/daemon/pool.rs", code),
        ])
    };
    assert_eq!(check("debug!(job = %id, note = \"x (\", \"job done\");"), Vec::<String>::new());
    assert_eq!(check("tracing::debug!(\n    route,\n    \"job done\"\n);"), Vec::<String>::new());
    assert_eq!(check("debug!(\"job ended\");").len(), 1);
    assert_eq!(check("warn!(job = %id);").len(), 1);
    assert_eq!(check("my_info!(\"anything\");"), Vec::<String>::new());
}

/// Goal: comments and a file's own tests do not count, code after a test-only import does.
/// Method: the word in each place.
#[test]
fn only_code_counts() {
    let text = "//! fs_extra\n#[cfg(test)]\nuse x;\nlet a = \"// fs_extra\"; // fs_extra\n\n#[cfg(test)]\nmod tests {\n  fs_extra\n}\n";
    let found = Source::new("src/lib.rs", text).lines_with(&["fs_extra"]);
    assert_eq!(found, ["src/lib.rs:4: let a = \"// fs_extra\";"]);
    assert!(has_word("a.await", ".await") && !has_word("unlinkat_x", "unlinkat"));
}
