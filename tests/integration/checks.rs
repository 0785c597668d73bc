//! What a history must satisfy. Each check returns what is wrong, and below it is fed a broken history.
//!
//! Must not know: how the history was made, or the binary.

use std::collections::{BTreeMap, BTreeSet};

/// Relative paths and contents.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// Each of the expected stands exactly once among the found, and nothing else does.
pub(crate) fn each_once(found: &[Vec<u8>], expected: &BTreeSet<Vec<u8>>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for cell in found {
        if !expected.contains(cell) {
            return Err(format!("unexpected: {}", show(cell)));
        }
        if !seen.insert(cell) {
            return Err(format!("twice: {}", show(cell)));
        }
    }
    match expected.iter().find(|cell| !seen.contains(cell)) {
        Some(cell) => Err(format!("lost: {}", show(cell))),
        None => Ok(()),
    }
}

/// Each dropped file is in exactly one of the places, under its name and with its bytes.
pub(crate) fn placed_once(dropped: &Files, places: &[Files]) -> Result<(), String> {
    for (rel, content) in dropped {
        let found: Vec<&Vec<u8>> = places.iter().filter_map(|place| place.get(rel)).collect();
        match found.as_slice() {
            [] => return Err(format!("lost: {}", show(rel))),
            [one] if *one == content => {}
            [_] => return Err(format!("changed: {}", show(rel))),
            _ => return Err(format!("twice: {}", show(rel))),
        }
    }
    match places.iter().flat_map(BTreeMap::keys).find(|rel| !dropped.contains_key(*rel)) {
        Some(rel) => Err(format!("unexpected: {}", show(rel))),
        None => Ok(()),
    }
}

/// How many of the intervals there are at once, at most; one that begins as another ends does not overlap it.
pub(crate) fn most_at_once(intervals: &[(u128, u128)]) -> usize {
    let begins = intervals.iter().map(|(begin, _)| *begin);
    begins
        .map(|at| intervals.iter().filter(|(begin, end)| *begin <= at && at < *end).count())
        .max()
        .unwrap_or(0)
}

/// `ROUTE.<UTC time>.<n>.csv`: the name of a sealed segment.
pub(crate) fn is_sealed_name(route: &str, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(route).and_then(|rest| rest.strip_prefix('.')) else {
        return false;
    };
    let Some((time, number)) = rest.strip_suffix(".csv").and_then(|rest| rest.split_once('.'))
    else {
        return false;
    };
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    shape == "99999999T999999Z" && number.parse::<u64>().is_ok_and(|n| n > 0)
}

/// The lines stand in the text in this order, each whole; others may stand between them.
pub(crate) fn lines_in_order(text: &str, lines: &[&str]) -> Result<(), String> {
    let mut rest = text.lines();
    for line in lines {
        if !rest.any(|found| found == *line) {
            return Err(format!("no line {line:?} (after those before it) in:\n{text}"));
        }
    }
    Ok(())
}

/// Whether this is a whole job id.
pub(crate) fn is_job_id(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
}

/// What two runs of one transcript have in common: times, ids, pids and widths of gaps are replaced.
pub(crate) fn normalise(text: &str) -> String {
    let mut lines = Vec::new();
    for line in without_escapes(text).lines() {
        let body = line.trim_start();
        let indent = &line[..line.len() - body.len()];
        let mut out = indent.to_owned();
        let mut gap = 0;
        let mut words: Vec<(usize, String)> = Vec::new();
        for word in body.split(' ') {
            if word.is_empty() {
                gap += 1;
                continue;
            }
            words.push((gap, without_ids(word)));
            gap = 0;
        }
        for (at, (gap, word)) in merge_times(words).into_iter().enumerate() {
            if at > 0 {
                out.push_str(if gap > 0 { "   " } else { " " });
            }
            out.push_str(&word);
        }
        lines.push(out);
    }
    lines.join("\n") + "\n"
}

/// `0.2 s`, `12 min 3 s` and `41ms` become TIME, `14:02:11` CLOCK, `pid 812` pid N.
fn merge_times(words: Vec<(usize, String)>) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    for (gap, word) in words {
        let (open, rest) = word.strip_prefix('(').map_or(("", word.as_str()), |rest| ("(", rest));
        let core = rest.trim_end_matches([')', ',', ';']);
        let tail = &rest[core.len()..];
        let last =
            out.last().map(|(_, w)| w.trim_start_matches('(').to_owned()).unwrap_or_default();
        let is_number = |w: &str| !w.is_empty() && w.parse::<f64>().is_ok();
        let is_unit = |w: &str| ["ns", "µs", "us", "ms", "s", "min", "m", "h", "d"].contains(&w);
        let glued =
            core.find(|c: char| !c.is_ascii_digit() && c != '.').map(|at| core.split_at(at));
        let shape: String =
            core.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        let time = format!("{open}TIME{tail}");
        if is_unit(core) && gap == 0 && is_number(&last) {
            let (gap, number) = out.pop().unwrap_or_default();
            let open = if number.starts_with('(') { "(" } else { "" };
            push_time(&mut out, gap, format!("{open}TIME{tail}"));
        } else if glued.is_some_and(|(number, unit)| is_number(number) && is_unit(unit)) {
            push_time(&mut out, gap, time);
        } else if shape == "99:99:99" || shape == "99:99" {
            out.push((gap, format!("{open}CLOCK{tail}")));
        } else if is_number(core) && last == "pid" {
            out.push((gap, format!("{open}N{tail}")));
        } else {
            out.push((gap, word));
        }
    }
    out
}

/// Adds a time; one that goes on from another is the same time.
fn push_time(out: &mut Vec<(usize, String)>, gap: usize, time: String) {
    let goes_on = gap == 0 && out.last().is_some_and(|(_, word)| word.ends_with("TIME"));
    if let (true, Some((_, last))) = (goes_on, out.last_mut()) {
        last.truncate(last.len() - "TIME".len());
        last.push_str(&time);
    } else {
        out.push((gap, time));
    }
}

/// A whole job id, or the shown beginning of one (`0198f3…`), becomes JOB.
fn without_ids(word: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for c in word.chars().chain(['\0']) {
        if c.is_ascii_digit() || c.is_ascii_lowercase() {
            run.push(c);
            continue;
        }
        let shortened = c == '…' && run.len() >= 4 && run.starts_with('0');
        if is_job_id(&run) && run.starts_with('0') || shortened {
            out.push_str("JOB");
        } else {
            out.push_str(&run);
        }
        run.clear();
        if c != '\0' && !shortened {
            out.push(c);
        }
    }
    out
}

/// Drops carriage returns and the escape sequences of a terminal.
fn without_escapes(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {}
            '\x1b' => {
                // ESC [ parameters, up to and with the first letter.
                while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {}
            }
            c => out.push(c),
        }
    }
    out
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn set(names: &[&str]) -> BTreeSet<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn list(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn files(pairs: &[(&str, &str)]) -> Files {
    pairs
        .iter()
        .map(|(rel, content)| (rel.as_bytes().to_vec(), content.as_bytes().to_vec()))
        .collect()
}

/// Goal: `each_once` sees a lost, a doubled and a foreign row. Method: one history of each, and a good one.
#[test]
fn each_once_refuses_broken_histories() {
    let expected = set(&["a", "b"]);
    assert_eq!(each_once(&list(&["b", "a"]), &expected), Ok(()));
    assert_eq!(each_once(&list(&["a"]), &expected), Err("lost: b".to_owned()));
    assert_eq!(each_once(&list(&["a", "b", "a"]), &expected), Err("twice: a".to_owned()));
    assert_eq!(each_once(&list(&["a", "b", "c"]), &expected), Err("unexpected: c".to_owned()));
}

/// Goal: `placed_once` sees a lost, doubled, changed and foreign file. Method: one history of each.
#[test]
fn placed_once_refuses_broken_histories() {
    let dropped = files(&[("a", "1"), ("b", "2")]);
    let check = |done: &[(&str, &str)], error: &[(&str, &str)]| {
        placed_once(&dropped, &[files(done), files(error)])
    };
    assert_eq!(check(&[("a", "1")], &[("b", "2")]), Ok(()));
    assert_eq!(check(&[("a", "1")], &[]), Err("lost: b".to_owned()));
    assert_eq!(check(&[("a", "1"), ("b", "2")], &[("b", "2")]), Err("twice: b".to_owned()));
    assert_eq!(check(&[("a", "1"), ("b", "3")], &[]), Err("changed: b".to_owned()));
    assert_eq!(check(&[("a", "1"), ("b", "2")], &[("c", "")]), Err("unexpected: c".to_owned()));
}

/// Goal: a pool of ten that ran eleven is seen. Method: eleven at once, ten that touch, none.
#[test]
fn most_at_once_counts() {
    assert_eq!(most_at_once(&[]), 0);
    assert_eq!(most_at_once(&[(0, 10); 11]), 11);
    assert_eq!(most_at_once(&[(0, 10), (10, 20), (5, 15), (20, 30)]), 2);
    assert_eq!(most_at_once(&[(0, 100), (10, 20), (15, 30), (25, 26)]), 3);
}

/// Goal: only a sealed segment's name passes. Method: a good one and each part broken.
#[test]
fn sealed_names() {
    assert!(is_sealed_name("count", "count.20261122T140211Z.1.csv"));
    for bad in [
        "count.csv",
        "count.20261122T140211Z.csv",
        "count.20261122T140211Z.0.csv",
        "count.20261122140211.1.csv",
        "other.20261122T140211Z.1.csv",
        "count.20261122T140211Z.1.txt",
    ] {
        assert!(!is_sealed_name("count", bad), "{bad}");
    }
}

/// Goal: a missing or swapped line is seen. Method: three lines, whole, swapped, cut.
#[test]
fn lines_in_order_refuses_broken_texts() {
    assert_eq!(lines_in_order("a\nb\nc\n", &["a", "c"]), Ok(()));
    assert!(lines_in_order("a\nb\nc\n", &["c", "a"]).is_err());
    assert!(lines_in_order("a\nbb\nc\n", &["b"]).is_err());
}

/// Goal: a transcript keeps its words and loses its times, ids and escapes; a wrong word still shows.
/// Method: the lines of the documented transcripts.
#[test]
fn normalise_replaces_only_what_varies() {
    let id = "0198f3k7m2qv9t0c5d8e1f4g7h";
    for (line, expected) in [
        (
            "6 files   6 done   0 failed   6 rows   0.2 s",
            "6 files   6 done   0 failed   6 rows   TIME",
        ),
        ("  60,58,14,file_0.json,0198f3…", "  60,58,14,file_0.json,JOB"),
        (&format!("  60,58,14,file_0.json,{id}"), "  60,58,14,file_0.json,JOB"),
        ("  … 5 more in inbox/results/count.csv", "  … 5 more in inbox/results/count.csv"),
        ("done    hosts      main   3 ms   1 row\r", "done   hosts   main   TIME   1 row"),
        ("RUNNING pid 812   up 3 d 4 h   events ok", "RUNNING pid N   up TIME   events ok"),
        ("still open for writing by pid 4711 (12 s)", "still open for writing by pid N (TIME)"),
        ("bad.json   FAILED 14:02:11   41ms", "bad.json   FAILED CLOCK   TIME"),
        ("\x1b[1mwaiting 12\x1b[0m   running 4", "waiting 12   running 4"),
        ("timed out after 1s", "timed out after TIME"),
    ] {
        assert_eq!(normalise(line), format!("{expected}\n"), "{line}");
    }
    assert_ne!(normalise("5 done"), normalise("6 done"));
}
