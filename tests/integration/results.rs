//! What a worker prints and how it ends, and what the CSVs and reasons are then.
//!
//! Must not know: how rows are stored before they are in the CSV.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::checks::{is_sealed_name, most_at_once};
use crate::harness::{Csv, Spool, python};

const PREFIXED: &str = r#"
workers = 10
[routes.signals]
glob = "*.sh"
command = ["sh", "{path}"]
stdout = "prefixed"
retries = { fail = 0 }
trace_columns = false
"#;

fn drop_the_five(spool: &Spool) {
    spool.drop_file(
        "ok.sh",
        "echo 'LOG: loaded'; echo 'OUTPUT: {\"class\":\"motor\",\"p\":0.93}'\n",
    );
    spool.drop_file("err.sh", "echo 'ERROR: bad signal'\n");
    spool.drop_file("crash.sh", "echo 'ValueError: boom' >&2; exit 1\n");
    spool.drop_file(
        "mixed.sh",
        "echo 'LOG: saw ERROR: in data'; echo chatter; echo 'OUTPUT: {\"class\":\"x\",\"p\":1}'\n",
    );
    spool.drop_file("silent.sh", "true\n");
}

/// Goal: a prefix counts at the start of a line only; exit code and stderr count too.
/// Method: five files that are their own scripts, with every end such a script can have.
#[test]
fn prefixed_output() {
    let spool = Spool::new(PREFIXED);
    drop_the_five(&spool);
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["mixed.sh", "ok.sh", "silent.sh"], "{}", spool.report());
    assert_eq!(spool.errors(), ["crash.sh", "err.sh"]);
    assert_eq!(spool.reason("err.sh"), "bad signal");
    assert_eq!(spool.reason("crash.sh"), "exit 1: ValueError: boom");
    let rows = spool.csv("signals");
    assert_eq!(rows.header(), "class,p");
    assert_eq!(rows.sorted(), ["motor,0.93", "x,1"]);
    assert_eq!(spool.csv("errors").rows.len(), 2);
}

/// Goal: what a worker says besides its rows can be read. Method: the logs of two of the five.
#[test]
fn log_lines_are_kept() {
    let spool = Spool::new(PREFIXED);
    drop_the_five(&spool);
    spool.run(&["batch"]).code(3);
    spool.run(&["log", "ok.sh"]).ok().says("loaded");
    spool.run(&["log", "mixed.sh"]).ok().says("saw ERROR: in data").says("chatter");
    spool.run(&["log", "crash.sh"]).ok().says("ValueError: boom");
}

/// Goal: saying nothing fails where output is required. Method: the silent script of the five.
#[test]
fn required_output() {
    let spool = Spool::new(&format!("{PREFIXED}require_output = true\n"));
    drop_the_five(&spool);
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["mixed.sh", "ok.sh"], "{}", spool.report());
    assert_eq!(spool.reason("silent.sh"), "no output");
}

/// Goal: a long line is one whole row. Method: an OUTPUT of 200 000 bytes.
#[test]
fn a_long_line_is_one_row() {
    let spool = Spool::new(PREFIXED);
    spool.drop_file(
        "long.sh",
        "printf 'OUTPUT: {\"s\":\"'; head -c 200000 /dev/zero | tr '\\0' x; echo '\"}'\n",
    );
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("signals").column("s"), ["x".repeat(200_000)]);
}

/// Goal: the pool is as wide as it is set and no wider, and no file is lost in it.
/// Method: 110 files that say when they ran; how many ran at once is read from the CSV.
#[test]
fn a_pool_of_ten() {
    let spool = Spool::new(
        r#"
workers = 10
[routes.times]
glob = "*.txt"
command = ["sh", "times.sh"]
stdout = "json"
trace_columns = false
"#,
    );
    spool.write(
        "times.sh",
        "s=$(date +%s%N); sleep 0.2; e=$(date +%s%N)\nprintf '{\"start\":%s,\"end\":%s}\\n' $s $e\n",
    );
    for i in 0..110 {
        spool.drop_file(format!("{i}.txt"), format!("{i}\n"));
    }
    let run = spool.run(&["batch"]).ok();
    assert!(run.took >= Duration::from_millis(2200), "faster than ten at once can be: {run}");
    assert_eq!(spool.names("done").len(), 110, "{run}");
    let rows = spool.csv("times");
    assert_eq!(rows.header(), "start,end");
    let numbers = |name| rows.column(name).into_iter().map(|cell| cell.parse::<u128>().unwrap());
    let intervals: Vec<(u128, u128)> = numbers("start").zip(numbers("end")).collect();
    assert_eq!(intervals.len(), 110);
    assert_eq!(most_at_once(&intervals), 10);
}

/// Goal: however an attempt ends, its processes and its scratch folder are gone, and the slot is free.
/// Method: one killed, one hanging, one that leaves a process behind, and a plain file after them.
#[test]
fn nothing_is_left_of_an_attempt() {
    let spool = Spool::new(
        r#"
workers = 1
[routes.sh]
glob = "*.sh"
command = ["sh", "{path}"]
stdout = "none"
timeout = "1s"
grace = "1s"
retries = 0
"#,
    );
    let begin = "touch \"$INBOXD_SCRATCH/mine\" && echo \"$INBOXD_NAME\" >> ran.txt; sleep 60 &\n";
    spool.drop_file("a.sh", format!("{begin}kill -9 $$\n"));
    spool.drop_file("b.sh", format!("{begin}sleep 60\n"));
    spool.drop_file("c.sh", format!("{begin}exit 0\n"));
    spool.drop_file("d.sh", "echo d.sh >> ran.txt\n");
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["c.sh", "d.sh"], "{}", spool.report());
    assert_eq!(spool.errors(), ["a.sh", "b.sh"]);
    let reason = spool.reason("a.sh");
    assert!(reason.starts_with("killed by SIGKILL"), "{reason}");
    assert_eq!(spool.why("a.sh")["signal"], 9);
    assert_eq!(spool.reason("b.sh"), "timed out after 1s");
    let ran = std::fs::read_to_string(spool.path("ran.txt")).unwrap();
    let ran: BTreeSet<&str> = ran.lines().collect();
    assert_eq!(
        ran,
        BTreeSet::from(["a.sh", "b.sh", "c.sh", "d.sh"]),
        "each had its scratch folder"
    );
    assert_eq!(spool.processes(), Vec::<String>::new());
    let scratch: Vec<_> = walkdir::WalkDir::new(spool.path("processing"))
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "tmp") || path.is_file())
        .collect();
    assert!(scratch.is_empty(), "{scratch:?}");
}

const ROWS: &str = r#"
[routes.count]
glob = "*.json"
command = ["cat", "{path}"]
stdout = "json"
trace_columns = false
"#;

fn sealed(spool: &Spool) -> Vec<String> {
    spool.names("results").into_iter().filter(|name| is_sealed_name("count", name)).collect()
}

/// Goal: a value stands under its own name whatever order a worker gives; nothing is ever shifted.
/// Method: another order, a missing key, then a further key, which begins a new segment.
#[test]
fn columns_go_by_name() {
    let spool = Spool::new(ROWS);
    let step = |name: &str, row: &str| {
        spool.drop_file(name, row);
        spool.run(&["batch"]).ok();
    };
    step("1.json", r#"{"fruits":60,"vegetables":58,"meat":14}"#);
    step("2.json", r#"{"meat":1,"fruits":2,"vegetables":3}"#);
    step("3.json", r#"{"fruits":7,"meat":8}"#);
    let rows = spool.csv("count");
    assert_eq!(rows.header(), "fruits,vegetables,meat");
    assert_eq!(rows.sorted(), ["2,3,1", "60,58,14", "7,,8"]);
    assert_eq!(sealed(&spool), Vec::<String>::new());

    step("4.json", r#"{"fish":4,"meat":3,"vegetables":2,"fruits":1}"#);
    let new = spool.csv("count");
    assert_eq!(new.header(), "fruits,vegetables,meat,fish");
    assert_eq!(new.sorted(), ["1,2,3,4"]);
    let sealed = sealed(&spool);
    assert_eq!(sealed.len(), 1, "{}", spool.report());
    assert_eq!(spool.csv(sealed[0].trim_end_matches(".csv")), rows);
}

/// Goal: with fixed columns, a missing and a further key fail and are named. Method: one file of each.
#[test]
fn fixed_columns_refuse_others() {
    let spool = Spool::new(&format!("{ROWS}columns = [\"fruits\",\"vegetables\",\"meat\"]\n"));
    spool.drop_file("good.json", r#"{"meat":14,"fruits":60,"vegetables":58}"#);
    spool.drop_file("missing.json", r#"{"fruits":7,"meat":8}"#);
    spool.drop_file("further.json", r#"{"fruits":1,"vegetables":2,"meat":3,"fish":4}"#);
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["good.json"], "{}", spool.report());
    assert_eq!(spool.csv("count").header(), "fruits,vegetables,meat");
    assert_eq!(spool.csv("count").sorted(), ["60,58,14"]);
    let (missing, further) = (spool.reason("missing.json"), spool.reason("further.json"));
    assert!(missing.contains("vegetables"), "{missing}");
    assert!(further.contains("fish"), "{further}");
}

/// Goal: a cell that begins with U+FEFF is no byte order mark, wherever it stands: at the very start of a
/// segment, at that of a row. Method: a column and values with it, over two
/// segments, read back by Python, which takes marks away, and by the reader of the other tests.
#[test]
fn a_cell_that_begins_like_a_mark_keeps_it() {
    const READ: &str = "import csv, json, sys\n\
        print(json.dumps([list(csv.reader(open(p, encoding='utf-8-sig', newline=''))) for p in sys.argv[1:]]))";
    let spool = Spool::new(
        "workers = 1\n[routes.marks]\ncommand = [\"cat\", \"{path}\"]\nstdout = \"json\"\n\
         trace_columns = false\nsegment_rows = 1\n",
    );
    for n in 0..2 {
        let row = format!("{{\"\u{feff}id\":\"\u{feff}{n}\",\"b\":\"\u{feff}\"}}");
        spool.drop_file(format!("{n}.json"), row);
    }
    spool.run(&["batch"]).ok();
    let names = spool.names("results");
    let segments: Vec<&String> = names.iter().filter(|it| it.starts_with("marks.")).collect();
    assert_eq!(segments.len(), 2, "{}", spool.report());
    let mut command = std::process::Command::new(python());
    command.args(["-c", READ]).args(&segments).current_dir(spool.path("results"));
    let said = command.output().unwrap();
    let read: Vec<Vec<Vec<String>>> = serde_json::from_slice(&said.stdout).unwrap();
    for segment in segments {
        let csv = Csv::parse(&std::fs::read(spool.path("results").join(segment)).unwrap());
        let lines = [csv.header.clone(), csv.sorted()[0].split(',').map(str::to_owned).collect()];
        assert!(read.contains(&lines.to_vec()), "{lines:?} is not in {read:?}");
        assert_eq!(csv.header, ["\u{feff}id", "b"]);
    }
    let mut rows: Vec<&Vec<String>> = read.iter().flat_map(|lines| &lines[1..]).collect();
    rows.sort();
    assert_eq!(rows, [&["\u{feff}0", "\u{feff}"], &["\u{feff}1", "\u{feff}"]]);
    assert!(read.iter().all(|lines| lines[0] == ["\u{feff}id", "b"]), "{read:?}");
}

/// Goal: a worker that puts a file or a link in place of its output folder fails alone, what the link is to
/// stays, and the next job is done. Method: both, and a good one after them.
#[test]
fn something_in_place_of_the_output_folder_fails_its_job() {
    let spool = Spool::new(
        "workers = 1\n[routes.make]\ncommand = [\"sh\", \"{path}\"]\noutput = true\nretries = 0\n",
    );
    spool.write("kept/x", "kept");
    spool.drop_file("a.sh", "rmdir \"$INBOXD_OUTPUT\"; echo made > \"$INBOXD_OUTPUT\"\n");
    spool.drop_file("b.sh", "rmdir \"$INBOXD_OUTPUT\"; ln -s \"$PWD/kept\" \"$INBOXD_OUTPUT\"\n");
    spool.drop_file("c.sh", "echo made > \"$INBOXD_OUTPUT/x\"\n");
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["c.sh"], "{}", spool.report());
    for name in ["a.sh", "b.sh"] {
        let reason = "it put something else in place of its output folder";
        assert_eq!(spool.reason(name), reason);
    }
    assert_eq!(spool.names("output"), ["c.sh/x"]);
    assert_eq!(spool.names("kept"), ["x"]);
}

/// Goal: what a job made that failed for good goes nowhere and stays nowhere. Method: one that makes a file and
/// fails.
#[test]
fn nothing_is_left_of_what_a_failed_job_made() {
    let spool = Spool::new(
        "workers = 1\n[routes.make]\ncommand = [\"sh\", \"{path}\"]\noutput = true\nretries = 0\n",
    );
    spool.drop_file("a.sh", "echo made > \"$INBOXD_OUTPUT/x\"; exit 1\n");
    spool.run(&["batch"]).code(3);
    assert!(spool.path("error/a.sh").exists(), "{}", spool.report());
    let left = spool.names("processing");
    assert!(left.is_empty(), "{left:?}");
    assert!(spool.names("output").is_empty());
}

/// Goal: CSVs that are taken away after a clean end do not come back. Method: sealed at the end of a run, and
/// sealed since they were full; the next run has nothing to do.
#[test]
fn a_csv_that_was_taken_away_stays_away() {
    for (settings, args) in [("", &["batch", "--seal"][..]), ("segment_rows = 1\n", &["batch"])] {
        let spool = Spool::new(&format!(
            "workers = 1\n[routes.r]\ncommand = [\"cat\", \"{{path}}\"]\n{settings}"
        ));
        for name in ["a", "b", "c"] {
            spool.drop_file(name, name);
        }
        spool.run(args).ok();
        let taken = spool.home().join("taken");
        rustix::fs::rename(spool.path("results"), &taken).unwrap();
        assert!(std::fs::read_dir(&taken).unwrap().count() > 0);
        spool.run(&["batch"]).ok().says("nothing to do");
        let back = spool.names("results");
        assert!(back.is_empty(), "{back:?}");
    }
}

/// Goal: any number of CSVs can be appended to, also by one that starts with all of them: over the years
/// routes come and go, and each leaves one. Method: more routes than descriptors, two files for each in
/// two runs.
#[test]
fn more_csvs_than_descriptors() {
    const ROUTES: usize = 150;
    let route = |n| format!("[routes.r{n}]\nglob = \"*.{n}\"\ncommand = [\"echo\", \"hi\"]\n");
    let spool = Spool::new(&format!("workers = 2\n{}", (0..ROUTES).map(route).collect::<String>()));
    for run in ["a", "b"] {
        for n in 0..ROUTES {
            spool.drop_file(format!("{run}.{n}"), "x");
        }
        spool.run_under(&["prlimit", "--nofile=100:100"], &["batch"], b"").ok();
    }
    for n in 0..ROUTES {
        assert_eq!(spool.csv(&format!("r{n}")).rows.len(), 2, "r{n}");
    }
}
