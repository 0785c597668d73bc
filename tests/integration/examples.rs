//! `inboxd init --example NAME`: each page's commands are run, and the results are exactly these.
//!
//! Must not know: how an example gets into the binary.

use crate::harness::{Csv, Spool};
use crate::readme::{page, run_page};

/// A home in which the commands of the example's page were run.
fn tried(name: &str) -> Spool {
    let spool = Spool::bare();
    let result = run_page(&spool, &page(&format!("examples/{name}/README.md")));
    assert_eq!(result, Ok(()), "{}", spool.report());
    spool
}

/// The rows without what names the job, which differs.
fn rows(csv: &Csv) -> Vec<String> {
    let jobs = csv.column("_job");
    let cut = |row: &String| {
        let job = jobs.iter().find(|job| row.ends_with(job.as_str())).unwrap();
        row.strip_suffix(&format!(",{job}")).unwrap().to_owned()
    };
    csv.sorted().iter().map(cut).collect()
}

/// Goal: `count` gives the table of the sample. Method: its page; the rows.
#[test]
fn count() {
    let spool = tried("count");
    let csv = spool.csv("count");
    assert_eq!(csv.header(), "fruits,vegetables,meat,_file,_job");
    assert_eq!(
        rows(&csv),
        [
            "21,1539,79,file_1.json",
            "3939,58,14,file_2.json",
            "5666,15,15,file_5.json",
            "60,58,14,file_0.json",
            "60,58,14,file_3.json",
            "6456,3743,14,file_4.json",
        ]
    );
}

/// Goal: `prefixed` has rows, reasons and log lines. Method: its page; all three.
#[test]
fn prefixed() {
    let spool = tried("prefixed");
    let csv = spool.csv("classify");
    assert_eq!(csv.header(), "class,power,_file,_job");
    let want = ["motor,0.482,motor.json", "noise,0.257,noise.json", "silence,0.0,silence.json"];
    assert_eq!(rows(&csv), want, "{}", spool.report());
    assert_eq!(spool.errors(), ["empty.json", "misspelt.json"]);
    assert_eq!(spool.reason("empty.json"), "empty signal");
    assert_eq!(spool.reason("misspelt.json"), "exit 1: KeyError: 'signal'");
    spool.run(&["log", "motor.json"]).ok().says("10 samples");
}

/// Goal: the worker of the protocol's page works. Method: its page; the rows.
#[test]
fn warm() {
    let spool = tried("warm");
    let csv = spool.csv("size");
    assert_eq!(csv.header(), "file,bytes,words,_file,_job");
    let want = ["question.txt,41,10,question.txt", "three.txt,14,3,three.txt"];
    assert_eq!(rows(&csv), want, "{}", spool.report());
}

/// Goal: made files come whole, and nothing of a failed file. Method: its page; the tree.
#[test]
fn made_files() {
    let spool = tried("made-files");
    let made: Vec<(String, String)> = spool
        .files("output")
        .into_iter()
        .map(|(path, text)| (String::from_utf8(path).unwrap(), String::from_utf8(text).unwrap()))
        .collect();
    let want = [
        ("guide.md/1-first-steps.md", "Open the door.\n"),
        ("guide.md/2-the-rest.md", "Walk on.\n"),
        ("note.md/1-note.md", "Buy milk.\n"),
    ];
    assert_eq!(made, want.map(|(path, text)| (path.to_owned(), text.to_owned())));
    assert_eq!(rows(&spool.csv("split")), ["1,18,note.md", "2,52,guide.md"]);
    assert_eq!(spool.reason("plain.md"), "exit 1: no section begins with '# '");
}

/// Goal: messages go to their algorithms, and the one that comes later gets its message. Method: its page,
/// which adds an algorithm; the rows and reasons.
#[test]
fn plugins() {
    let spool = tried("plugins");
    assert_eq!(rows(&spool.csv("ocr")), ["SIGN,1,sign.json"], "{}", spool.report());
    assert_eq!(rows(&spool.csv("language_detection")), ["es,greeting.json"]);
    assert_eq!(rows(&spool.csv("add")), ["3,add.json"]);
    assert_eq!(spool.errors(), ["misspelt.json", "nowhere.json"]);
    assert_eq!(spool.reason("nowhere.json"), "ValueError: cannot fetch nowhere");
    let reason = spool.reason("misspelt.json");
    assert!(reason.contains("missing field \"text\"") && reason.contains("\"txt\""), "{reason}");
}

/// Goal: a service is asked about each line, and what failed is an input that can be run again. Method: its
/// page, which mends the service; the rows and reasons of both runs.
#[test]
fn rest_records() {
    let spool = tried("rest-records");
    let csv = spool.csv("details");
    assert_eq!(csv.header(), "customer,id,score,rank,_file,_job", "{}", spool.report());
    let mut want: Vec<String> = (1..=20)
        .flat_map(|customer| (0..3).map(move |rank| (customer, rank)))
        .map(|(customer, rank)| {
            format!("{customer},{customer}-{rank},0.{rank},{rank},customers.csv")
        })
        .collect();
    want.sort();
    assert_eq!(rows(&csv), want, "{}", spool.report());
    assert!(spool.errors().is_empty(), "{}", spool.report());
    let reasons = spool.csv("errors").column("reason");
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    let told = |text: &str| reasons.iter().any(|reason| reason.contains(text));
    assert!(told("HTTP 500") && told("not JSON") && told("/details"), "{reasons:?}");
}

/// Goal: an example never writes over what is there, and a wrong name is answered with the right ones.
/// Method: a spool that is there, a file of the user's that is in the way, a name that is none.
#[test]
fn nothing_is_written_over() {
    let spool = Spool::bare();
    spool.run(&["init", "--example", "cuont"]).code(2).says("count").says("made-files");
    spool.write("count.py", "mine");
    spool.run(&["init", "--example", "count"]).code(2).says("count.py is there already");
    assert_eq!(spool.files("").len(), 1);
    let said = spool.run(&["init", "jobs", "--example", "warm"]).ok();
    said.says("Read jobs/README.md, then: inboxd --spool ./jobs batch jobs/samples");
    spool.run(&["init", "jobs", "--example", "warm"]).code(2).says("is there already");
    spool.run(&["--spool", "jobs", "batch", "jobs/samples"]).ok();
}
