//! What the READMEs tell people to type, typed.
//!
//! Must not know: what the commands do.
//!
//! The convention: a fenced block marked `sh` is run, all blocks of a page in order, in a folder
//! that holds the sample spool; a block ends with 0. Anything that cannot run here (another machine,
//! root, a service manager) stands in a block with another mark. `cargo` is a stand-in that
//! passes `cargo run --release -- …` to the binary under test and accepts the commands that build
//! and test, since those are what runs this. `inboxd run` goes to the background once it is ready.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{Spool, send};
use crate::transcripts::sample;

/// The blocks marked `sh`, in order. An unclosed block is an error of the page.
fn shell_blocks(page: &str) -> Result<Vec<String>, String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in page.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(mark)) => open = Some((mark.trim() == "sh", String::new())),
            (Some((shell, text)), Some(_)) => {
                if *shell {
                    blocks.push(std::mem::take(text));
                }
                open = None;
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    if open.is_some() { Err("a block is not closed".to_owned()) } else { Ok(blocks) }
}

const INBOXD: &str = r#"#!/bin/sh
if [ "$1" != run ]; then exec "$REAL_INBOXD" "$@"; fi
"$REAL_INBOXD" "$@" > "$LOGS/run.log" 2>&1 &
echo $! >> "$LOGS/run.pids"
tries=0
until grep -q ready "$LOGS/run.log"; do
    tries=$((tries + 1)); [ $tries -lt 600 ] || exit 1
    sleep 0.1
done
"#;

const CARGO: &str = r#"#!/bin/sh
case "$1" in
build|test|install|lint|fmt|doc|bench) exit 0 ;;
run) while [ "$1" != -- ]; do [ $# -gt 0 ] || exit 2; shift; done; shift; exec inboxd "$@" ;;
*) echo "cargo $1: not a command of this project" >&2; exit 2 ;;
esac
"#;

/// Runs the blocks of a page; the first that does not end with 0 is the failure.
pub(crate) fn run_page(spool: &Spool, page: &str) -> Result<(), String> {
    let blocks = shell_blocks(page)?;
    if blocks.is_empty() {
        return Err("no block marked sh: nothing for a reader to try".to_owned());
    }
    let (bin, logs) = (spool.home().join("bin"), spool.home().join("logs"));
    for (name, script) in [("inboxd", INBOXD), ("cargo", CARGO)] {
        spool.write_home(&format!("bin/{name}"), script);
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let result = blocks.iter().try_for_each(|block| {
        let mut shell = Command::new("sh");
        shell.args(["-euc", block]).current_dir(spool.home());
        shell
            .env("PATH", &path)
            .env("LOGS", &logs)
            .env("REAL_INBOXD", env!("CARGO_BIN_EXE_inboxd"));
        shell.env_remove("INBOXD_SPOOL").env("NO_COLOR", "1");
        let output = shell.stdin(std::process::Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{block}\n{}\n{said}", output.status))
        }
    });
    let pids = fs::read_to_string(logs.join("run.pids")).unwrap_or_default();
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
        send(pid, rustix::process::Signal::TERM);
        spool.wait_until("what the page started has ended", || !crate::harness::alive(pid));
    }
    result
}

pub(crate) fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Goal: the README's commands work as written. Method: run them in a folder with the sample.
#[test]
fn the_readme_runs() {
    let spool = sample();
    let result = run_page(&spool, &page("README.md"));
    assert_eq!(result, Ok(()), "{}", spool.report());
}

/// The settings as the README shows them, made from the one list in the program.
fn settings_as_markdown() -> String {
    use inboxd::config::{Place, settings_table};
    let mut text = String::new();
    for (place, title) in [
        (Place::Top, "At the top of `inboxd.toml`:"),
        (Place::Route, "In `[routes.NAME]`, or in `routes.d/NAME.toml`:"),
    ] {
        let head = "| setting | default | takes | meaning |\n|---|---|---|---|";
        writeln!(text, "\n{title}\n\n{head}").unwrap();
        for doc in settings_table().iter().filter(|doc| doc.place() == place) {
            let cell = |text: &str| text.replace('|', "\\|");
            let (default, limit) = (cell(doc.default), cell(&doc.limit.to_string()));
            let meaning = cell(doc.meaning);
            writeln!(text, "| `{}` | {default} | {limit} | {meaning} |", doc.name).unwrap();
        }
    }
    text
}

/// Goal: the README's settings are the program's. Method: the table between the marks, to the letter.
#[test]
fn the_settings_are_those_of_the_program() {
    let text = page("README.md");
    let (_, rest) = text.split_once("a test compares them -->\n").expect("the first mark");
    let (table, _) = rest.split_once("<!-- end of settings -->").expect("the second mark");
    let expected = settings_as_markdown();
    assert!(expected.lines().count() > 20, "the list is empty");
    assert!(table.trim() == expected.trim(), "put this there:\n{expected}");
}

/// Goal: so do those of the sample's page, and its rows are there. Method: the same.
#[test]
fn the_page_of_the_sample_runs() {
    let spool = sample();
    let result = run_page(&spool, &page("inbox/README.md"));
    assert_eq!(result, Ok(()), "{}", spool.report());
    assert_eq!(spool.csv("count").rows.len(), 7, "{}", spool.report());
    assert_eq!(spool.names("done").len(), 7);
}

/// Goal: a page whose command fails is seen, and one without commands too. Method: such pages.
#[test]
fn broken_pages_are_refused() {
    let spool = Spool::bare();
    let check = |page: &str| run_page(&spool, page);
    assert_eq!(check("text\n```sh\ntrue\ncargo test\n```\n"), Ok(()));
    assert!(check("```sh\ntrue\nfalse\ntrue\n```\n").is_err(), "a failing line");
    assert!(check("```sh\ncargo frobnicate\n```\n").is_err(), "a command that is not ours");
    assert!(check("```text\ntrue\n```\n").is_err(), "nothing to run");
    assert!(check("```sh\ntrue\n").is_err(), "not closed");
}

/// Goal: so do those of the page for people who come from another system, and its work is done.
/// Method: the same; the rows and files that each of its systems ends in.
#[test]
fn the_page_for_those_who_move_runs() {
    let spool = sample();
    let result = run_page(&spool, &page("MIGRATING.md"));
    assert_eq!(result, Ok(()), "{}", spool.report());
    let read = |path: &str| fs::read_to_string(spool.home().join(path)).unwrap_or_default();
    assert!(read("loop/results/main.csv").contains("\n2,list.txt,"));
    assert_eq!(read("sorted/output/x.txt/x.sorted"), "a\nb\n");
    assert_eq!(read("pool/results/count.csv").lines().count(), 7);
    assert!(read("calls/results/main.csv").contains("\n3,add/1.json,"));
}
