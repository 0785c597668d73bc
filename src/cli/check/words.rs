//! The words of a `command` and of a `glob`: what people write who come from a shell, or forget.
//!
//! Must not know: how a command is started, nor how a glob is read. These are guesses, so they only warn.

use std::path::Path;

use super::{Level, Report};
use crate::config::template::{Part, parse};
use crate::config::{Route, Worker};

/// A script that is longer is not read.
const LONGEST_SCRIPT: u64 = 4 << 20;

/// What people write who come from a shell: its signs among the arguments, where no shell reads them, and
/// a name within its text, where it reads the name as text, too.
pub(super) fn check(route: &Route, root: &Path, report: &mut Report) {
    let Worker::Command { argv } = &route.worker else { return };
    let Some((program, words)) = argv.split_first() else { return };
    let name = &route.name;
    check_input(route, argv, root, report);
    let instead = "command = [\"sh\", \"-c\", \"… \\\"$1\\\" …\", \"sh\", \"{path}\"]";
    let signs = ["|", ">", ">>", "<", "&&", "||", ";", "2>&1"];
    if let Some(sign) = words.iter().find(|word| signs.contains(&word.as_str())) {
        let message = format!(
            "{name}: no shell reads {sign:?}, it is an argument like the others\nWith a shell: {instead}"
        );
        report.add(Level::Warning, "route", message);
    }
    let program = program.rsplit('/').next().unwrap_or_default();
    if !["sh", "bash", "dash", "zsh", "ksh", "ash"].contains(&program) {
        return;
    }
    let is_option = |word: &&String| word.starts_with('-') && word.ends_with('c');
    let Some(at) = words.iter().position(|word| is_option(&word)) else { return };
    let names = ["{path}", "{name}", "{stem}", "{ext}", "{rel}", "{dir}", "{record}"];
    let text = words.get(at.saturating_add(1));
    let within = |text: &String| names.into_iter().find(|name| text.contains(name));
    if let Some(placeholder) = text.and_then(within) {
        let message = format!(
            "{name}: {placeholder} stands within the text of {program} -c, which reads a space, a quote \
             or a `;` in it as its own\nHand it over as an argument: {instead}"
        );
        report.add(Level::Warning, "route", message);
    }
}

/// A program that nobody tells which file it is for: it would find nothing in each, and be done.
fn check_input(route: &Route, argv: &[String], root: &Path, report: &mut Report) {
    let (what, placeholder, variable, known) = match route.records {
        Some(_) => ("record", "{record}", "INBOXD_RECORD", "INBOXD_RECORD"),
        None => ("file", "{path}", "INBOXD_", "INBOXD_PATH"),
    };
    let names_it = |text: &String| {
        let parts = parse(text).unwrap_or_default();
        let has_any = || parts.iter().any(|part| !matches!(part, Part::Literal(_)));
        text.contains(variable)
            || if route.records.is_some() { text.contains(placeholder) } else { has_any() }
    };
    let asks_for_it = |text: &String| {
        let script = root.join(text);
        let may_be = script.metadata().is_ok_and(|it| it.is_file() && it.len() <= LONGEST_SCRIPT);
        let source = if may_be { std::fs::read(&script).unwrap_or_default() } else { Vec::new() };
        source.windows(variable.len()).any(|part| part == variable.as_bytes())
    };
    if route.stdin || argv.iter().any(|word| names_it(word) || asks_for_it(word)) {
        return;
    }
    let message = format!(
        "{}: no argument has the {what}, and no script among them knows {known}\nAdd \
         \"{placeholder}\" to `command` at {}, or set stdin = true.",
        route.name, route.origin
    );
    report.add(Level::Warning, "route", message);
}

/// A glob that takes nothing, as it is about other paths than those below `incoming/`.
pub(super) fn check_globs(route: &Route, report: &mut Report) {
    for glob in &route.glob {
        let (folders, name) = glob.rsplit_once('/').unwrap_or(("", glob));
        let alone = || glob.split(',').map(|one| format!("\"{}\"", one.trim()));
        let whole = glob.split_once("incoming/");
        let whole = whole.filter(|(before, _)| before.is_empty() || before.starts_with('/'));
        let why = if let Some((_, rest)) = whole {
            format!("a path is the one below incoming/\nWrite \"{rest}\"")
        } else if name.starts_with('.') {
            let slash = if folders.is_empty() { "" } else { "/" };
            format!(
                "a name that begins with a dot is no input\nWrite \"{folders}{slash}*{name}\" for all \
                 that end so"
            )
        } else if glob.contains(',') && !glob.contains('{') {
            format!(
                "a comma is part of a name\nWrite glob = [{}]",
                alone().collect::<Vec<_>>().join(", ")
            )
        } else {
            continue;
        };
        let message = format!("{}: the glob {glob:?} takes hardly a file: {why}", route.name);
        report.add(Level::Warning, "route", format!("{message}, at {}.", route.origin));
    }
}
