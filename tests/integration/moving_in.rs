//! From another program to a spool: the settings that do the same job, and its results.
//!
//! Must not know: how the settings are written.

use std::fs;

use crate::harness::{Csv, Spool};

const COUNT_PY: &str = r#"
import json
def count(path):
    with open(path) as f:
        produce = json.load(f)["produce"]
    return {kind: sum(map(int, items.values())) for kind, items in produce.items()}
"#;

/// What R-3PO's two processes wrote for the six samples: a header each, CRLF.
const THEIRS: [&str; 2] = [
    "fruits,vegetables,meat\r\n60,58,14\r\n21,1539,79\r\n3939,58,14\r\n",
    "fruits,vegetables,meat\r\n60,58,14\r\n6456,3743,14\r\n5666,15,15\r\n",
];

/// Goal: an R-3PO pipeline goes on here with its own config and function, and the results are its.
/// Method: the six samples, as the row D1 has them, in folders; the printed command, run as printed.
#[test]
fn an_r3po_pipeline_moves_in() {
    let spool = Spool::bare();
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/inbox/samples");
    for n in 0..6 {
        let text = fs::read_to_string(format!("{samples}/file_{n}.json")).unwrap();
        spool.write_home(&format!("data in/{}/file_{n}.json", n % 2), &text);
    }
    spool.write_home("data in/notes.txt", "no input");
    spool.write_home("code/count.py", COUNT_PY);
    spool.write_home(
        "config.yaml",
        "job_name: Produce\nprocesses: 2\nsource_path: data in\nsource_file_part: .json\n\
         working_dir: work\noutput_path: out\nray: true\n",
    );
    let init = ["init", "moved", "--from-r3po", "config.yaml", "--python", "code/count.py:count"];
    let told = spool.run(&init).ok().says("`ray` has no counterpart").stdout();
    assert!(told.contains("moved/results/produce.csv, not in out"), "{told}");
    let command = told.lines().find_map(|line| line.strip_prefix("Run it: inboxd ")).unwrap();
    assert_eq!(command, "--spool moved batch 'data in'");
    let batch = ["--spool", "moved", "batch", "data in"];
    spool.run(&batch).ok().says("6 done");
    let text = fs::read(spool.home().join("moved/results/produce.csv")).unwrap();
    let theirs = THEIRS.map(|text| Csv::parse(text.replace("\r\n", "\n").as_bytes()));
    let mut rows: Vec<String> = theirs.iter().flat_map(Csv::sorted).collect();
    rows.sort();
    assert_eq!(
        (Csv::parse(&text).header(), Csv::parse(&text).sorted()),
        (theirs[0].header(), rows)
    );
    assert!(!text.contains(&b'\r'));
    spool.run(&batch).ok().says("nothing to do: 6 already done");
    spool.run(&["--spool", "moved", "check"]).ok();
    spool.run(&init).code(2).says("nothing was changed");
}

/// Goal: what cannot be moved is refused before anything is made. Method: a function that is not there,
/// a file that is more than flat, one option without the other.
#[test]
fn what_cannot_be_moved_makes_nothing() {
    let spool = Spool::bare();
    spool.write_home("count.py", COUNT_PY);
    spool.write_home("config.yaml", "job_name: a\nprocesses:\n  - 1\nsource_path: x\n");
    for (python, said) in [
        ("count.py:count", "config.yaml:2: `processes` is \"\"; it must be a whole number from 1"),
        ("none.py:count", "cannot read none.py"),
        ("count.py", "is no function; write FILE.py:FUNCTION"),
    ] {
        let args = ["init", "--from-r3po", "config.yaml", "--python", python];
        spool.run(&args).code(2).says(said);
    }
    spool.run(&["init", "--from-r3po", "config.yaml"]).code(2).says("--python");
    assert!(!spool.root().exists());
}
