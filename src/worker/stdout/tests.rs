//! Tests of what stdout means, by format. Pure: bytes in, rows or a reason out.

use std::fmt::Write;

use super::*;
use proptest::prelude::*;

fn reader(format: StdoutFormat, max_output: u64) -> Stdout {
    Stdout::new(&Route { stdout: format, max_output, ..crate::worker::tests::route(&["true"]) })
}

/// Feeds pieces of every size from 1 to all at once and checks that the cuts make no difference.
fn read(format: StdoutFormat, bytes: &[u8]) -> Said {
    let with_pieces = |size: usize| {
        let mut stdout = reader(format, 1 << 20);
        bytes.chunks(size).for_each(|piece| stdout.hear(piece));
        stdout.finish(true)
    };
    let whole = with_pieces(bytes.len().max(1));
    for size in [1, 2, 3, 7, 64 << 10] {
        assert_eq!(with_pieces(size), whole, "pieces of {size}");
    }
    whole
}

/// The rows as `name=cell` pairs joined by commas, or the reason.
fn rows(format: StdoutFormat, text: &str) -> Vec<String> {
    show(&read(format, text.as_bytes()).rows)
}

fn show(rows: &Result<Vec<Row>, Failure>) -> Vec<String> {
    match rows {
        Err(failure) => vec![failure.reason.clone()],
        Ok(rows) => rows
            .iter()
            .map(|row| {
                let cells: Vec<_> = row
                    .0
                    .iter()
                    .map(|(name, cell)| format!("{name}={}", String::from_utf8_lossy(cell)))
                    .collect();
                cells.join(",")
            })
            .collect(),
    }
}

/// Goal: every form of JSON rows. Method: text and the rows it stands for.
#[test]
fn json_rows() {
    let json = |text| rows(StdoutFormat::Json, text);
    assert_eq!(json(r#"{"b":1,"a":"x"}"#), ["b=1,a=x"]);
    assert_eq!(json(r#"[{"a":1}, {"a":2}]"#), ["a=1", "a=2"]);
    assert_eq!(json("{\"a\":1}\r\n\n{\"a\":2}\n"), ["a=1", "a=2"]);
    assert_eq!(json("\u{feff}{\"a\":1}"), ["a=1"]);
    assert_eq!(json("[]"), [""; 0]);
    assert_eq!(json(" \n\t"), [""; 0]);
    assert_eq!(json(""), [""; 0]);
}

/// Goal: cells are what the worker wrote. Method: numbers no float holds, nesting, escapes, equal keys.
#[test]
fn json_cells_are_not_changed() {
    let json = |text| rows(StdoutFormat::Json, text);
    assert_eq!(
        json(r#"{"n":0.10,"big":123456789012345678901234567890,"e":1E+2,"t":true,"z":null}"#),
        ["n=0.10,big=123456789012345678901234567890,e=1E+2,t=true,z="]
    );
    assert_eq!(
        json(r#"{"o": {"z": [1, 2.50 ], "a" : "x y\" ]"}, "l":[ ]}"#),
        [r#"o={"z":[1,2.50],"a":"x y\" ]"},l=[]"#]
    );
    assert_eq!(json(r#"{"s":"a\nb\u00e9\ud83d\ude00\\"}"#), ["s=a\nbé😀\\"]);
    assert_eq!(json(r#"{"a":1,"b":2,"a":3}"#), ["a=3,b=2"]);
}

/// Goal: a wide object is read in linear time and its last equal key still wins.
/// Method: 100 000 keys, one of them again at the end.
#[test]
fn json_with_a_hundred_thousand_keys() {
    let mut text = String::from("{");
    for n in 0..100_000 {
        write!(text, "\"k{n}\":{n},").unwrap();
    }
    text.push_str("\"k7\":\"last\"}");
    let mut stdout = reader(StdoutFormat::Json, 16 << 20);
    stdout.hear(text.as_bytes());
    let rows = stdout.finish(true).rows.unwrap();
    assert_eq!((rows.len(), rows[0].0.len()), (1, 100_000));
    assert_eq!(
        (rows[0].0[7].1.as_slice(), rows[0].0[99_999].1.as_slice()),
        (&b"last"[..], &b"99999"[..])
    );
}

/// Goal: a file name that is not UTF-8, as Python prints it, is its bytes again.
/// Method: lone surrogates of both kinds beside a pair and escapes.
#[test]
fn json_surrogate_escapes_are_bytes() {
    let said = read(StdoutFormat::Json, br#"{"f":"a\udcff\ud83d\ude00\n\udc80\ud800."}"#);
    assert_eq!(said.rows.unwrap()[0].0[0].1, b"a\xff\xf0\x9f\x98\x80\n\x80\\ud800.");
}

/// Goal: what is not rows fails with its place. Method: each kind of mistake.
#[test]
fn json_mistakes_have_a_place() {
    let json = |text: &str| match rows(StdoutFormat::Json, text).as_slice() {
        [reason] => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        json("{\"a\":1}\n{\"a\":"),
        "stdout is not JSON: line 2 column 5: EOF while parsing a value"
    );
    assert_eq!(json("hello"), "stdout is not JSON: line 1 column 1: expected value");
    assert!(json("3").starts_with("stdout is not JSON: line 1 column 1: invalid type: integer"));
    assert!(json("[1]").contains("expected an object (a row)"));
    assert!(json("[[{}]]").contains("expected an object (a row)"));
    assert_eq!(
        json("{\"a\": NaN}"),
        "stdout is not JSON: line 1 column 7: NaN is not JSON; give null or a string instead"
    );
    assert!(
        json("{\"a\": 1,\n\"b\": -Infinity}").contains("line 2 column 7: -Infinity is not JSON")
    );
    assert!(json(&"[".repeat(100_000)).starts_with("stdout is not JSON: line 1 column"));
    assert!(json(&format!("{{\"a\":{}", "[".repeat(100_000))).contains("EOF"));
    let said = read(StdoutFormat::Json, b"{\"a\":\"\xff\"}");
    assert!(said.rows.unwrap_err().reason.starts_with("stdout is not JSON: line 1 column"));
}

/// Goal: what failed can be read in the log, what succeeded is not there. Method: good, bad, and not asked.
#[test]
fn whole_stdout_is_logged_only_on_failure() {
    assert_eq!(read(StdoutFormat::Json, b"{}").log, b"");
    assert_eq!(read(StdoutFormat::Json, b"oops\n").log, b"oops\n");
    let mut stdout = reader(StdoutFormat::Csv, 100);
    stdout.hear(b"half a");
    let said = stdout.finish(false);
    assert_eq!((said.rows, said.log), (Ok(Vec::new()), b"half a".to_vec()));
}

/// Goal: CSV by the book, and a ragged row is never shifted. Method: quotes, CRLF, BOM; then each mistake.
#[test]
fn csv_rows() {
    let csv = |text| rows(StdoutFormat::Csv, text);
    assert_eq!(csv("\u{feff}a,b\r\n1,\"x,\"\"y\"\"\nz\"\r\n,\n"), ["a=1,b=x,\"y\"\nz", "a=,b="]);
    assert_eq!(csv("a,b\n"), [""; 0]);
    assert_eq!(csv(""), [""; 0]);
    assert_eq!(csv("a,b\n1,2\n3\n"), ["stdout is not CSV: line 3: 1 cells, the header has 2"]);
    for (open, line) in [("a,b\n1,\"x\n2,y\n", 2), ("a,\"b\n1,2\n", 1), ("a\n\"1\"\n\"x\"\"", 3)] {
        let reason = format!("stdout is not CSV: line {line}: a quote is not closed");
        assert_eq!(csv(open), [reason], "{open:?}");
    }
    assert_eq!(csv("a\n5\"\n\"x\"y\n\"\"\"\""), ["a=5\"", "a=xy", "a=\""]);
    assert_eq!(csv("a,b\n1,2,3\n"), ["stdout is not CSV: line 2: 3 cells, the header has 2"]);
    assert_eq!(csv("a,a\n1,2\n"), ["stdout is not CSV: line 1: the column \"a\" stands twice"]);
    let said = read(StdoutFormat::Csv, b"n\n\xff\n");
    assert_eq!(said.rows.unwrap()[0].0[0].1, b"\xff");
}

/// Goal: a long column name times many rows does not fill the memory. Method: 100 KB name, 400 K rows.
#[test]
fn csv_that_would_grow_a_million_times_is_refused() {
    let text = format!("{}\n{}", "n".repeat(100_000), "1\n".repeat(400_000));
    let mut stdout = reader(StdoutFormat::Csv, 1 << 20);
    stdout.hear(text.as_bytes());
    assert!(stdout.finish(true).rows.unwrap_err().reason.contains("too much for max_output"));
}

/// Goal: text is one cell. Method: with and without a newline, two, none.
#[test]
fn text_is_one_cell() {
    let text = |text| rows(StdoutFormat::Text, text);
    assert_eq!(text("a b\n"), ["text=a b"]);
    assert_eq!(text("a\nb"), ["text=a\nb"]);
    assert_eq!(text("a\n\n"), ["text=a\n"]);
    assert_eq!(text("\n"), [""; 0]);
    assert_eq!(text(""), [""; 0]);
}

/// Goal: prefixes count only where a line begins. Method: the scripts of the issue, and odd cases.
#[test]
fn prefixes_count_at_the_start_of_a_line() {
    let prefixed = |text: &str| {
        let said = read(StdoutFormat::Prefixed, text.as_bytes());
        (show(&said.rows), said.error, String::from_utf8(said.log).unwrap())
    };
    let none = || Vec::<String>::new();
    assert_eq!(
        prefixed("LOG: saw ERROR: in data\nchatter\nOUTPUT: {\"class\":\"x\",\"p\":1}\n"),
        (vec!["class=x,p=1".into()], None, "saw ERROR: in data\nchatter\n".into())
    );
    assert_eq!(prefixed("ERROR: bad signal\nERROR: second\n").1, Some("bad signal".into()));
    assert_eq!(prefixed("ERROR:\n").1, Some("ERROR: without a text".into()));
    assert_eq!(prefixed(" ERROR: x\n"), (none(), None, " ERROR: x\n".into()));
    assert_eq!(prefixed("LOG:  a\r\nLOG:b"), (none(), None, " a\nb".into()));
    assert_eq!(prefixed("\u{feff}LOG: a\n\u{feff}LOG: b\n").2, "a\n\u{feff}LOG: b\n");
    assert_eq!(
        prefixed("OUTPUT: [{\"a\":1},{\"a\":2}]\nOUTPUT:{\"a\":3}").0,
        ["a=1", "a=2", "a=3"]
    );
    assert_eq!(prefixed("OUTPUT:\nOUTPUT: \n\nERROR").0, none());
    assert_eq!(
        prefixed("OUTPUT: {\"a\":1}\nOUTPUT: oops\n").0,
        ["OUTPUT is not JSON: line 1 column 1: expected value"]
    );
    assert!(prefixed("OUTPUT: 3\n").0[0].starts_with("OUTPUT is not JSON: "));
}

/// Goal: an OUTPUT of 200 000 bytes is one whole row. Method: its length comes out again.
#[test]
fn a_long_output_line_is_whole() {
    let text = format!("OUTPUT: {{\"s\":\"{}\"}}\n", "x".repeat(200_000));
    let said = read(StdoutFormat::Prefixed, text.as_bytes());
    assert_eq!(said.rows.unwrap()[0].0[0].1.len(), 200_000);
}

/// Goal: what is over the limit is a permanent failure that names the setting; the end is in the log.
/// Method: exactly the limit, one byte more, a thousand times more; each format that holds.
#[test]
fn output_over_the_limit_is_permanent() {
    for format in [StdoutFormat::Json, StdoutFormat::Csv, StdoutFormat::Text] {
        let read = |len: usize| {
            let mut stdout = reader(format, 1024);
            (0..len).for_each(|_| stdout.hear(b" "));
            stdout.hear(b"\n");
            stdout.finish(true)
        };
        assert!(read(1023).rows.is_ok());
        for len in [1024, 1_000_000] {
            let said = read(len);
            let failure = said.rows.unwrap_err();
            assert_eq!(failure.class, FailClass::Permanent);
            assert_eq!(failure.reason, "stdout is longer than max_output (1.0 KiB)");
            assert!(said.log.ends_with(b" \n") && said.log.len() <= limits::LOG_KEPT + 100);
        }
    }
    for lines in ["OUTPUT: {\"a\":1}\n".repeat(1000), format!("OUTPUT:{}", "x".repeat(1_000_000))] {
        let mut stdout = reader(StdoutFormat::Prefixed, 1024);
        lines.as_bytes().chunks(4096).for_each(|piece| stdout.hear(piece));
        let failure = stdout.finish(true).rows.unwrap_err();
        assert_eq!(failure.reason, "OUTPUT is longer than max_output (1.0 KiB)");
    }
}

/// Goal: an endless log line is cut and marked, and the lines after it are read. Method: 300 KB, then OUTPUT.
#[test]
fn an_endless_log_line_is_cut_and_marked() {
    let text = format!("LOG: {}\nOUTPUT: {{\"a\":1}}\n", "x".repeat(300_000));
    let said = read(StdoutFormat::Prefixed, text.as_bytes());
    assert_eq!(show(&said.rows), ["a=1"]);
    let log = String::from_utf8(said.log).unwrap();
    assert!(
        log.ends_with(&format!("x [{} bytes cut]\n", 300_000 - limits::LOG_LINE)),
        "{}",
        log.len()
    );
}

/// Goal: no row with `require_output` is a failure, and only then. Method: both, for a silent worker.
#[test]
fn no_output_is_a_failure_only_where_asked() {
    for format in [StdoutFormat::Json, StdoutFormat::Prefixed, StdoutFormat::None] {
        let route = Route {
            stdout: format,
            require_output: true,
            ..crate::worker::tests::route(&["true"])
        };
        let failure = Stdout::new(&route).finish(true).rows.unwrap_err();
        assert_eq!((failure.class, failure.reason.as_str()), (FailClass::Fail, "no output"));
        assert!(reader(format, 9).finish(true).rows.is_ok());
    }
}

proptest! {
    /// Goal: no bytes panic, and cuts never matter. Method: random bytes rich in what the formats look for.
    #[test]
    fn no_bytes_panic(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..8),
                "[\\[\\]{}\":,0-9a-z\\\\ \n\r]{0,12}".prop_map(String::into_bytes),
                Just(b"\nOUTPUT: {\"a\":1}".to_vec()),
                Just(b"\nERROR: ".to_vec()),
                Just(br#""\udcff\ud800"#.to_vec()),
                Just(b"\xef\xbb\xbf".to_vec()),
            ],
            0..20,
        ),
    ) {
        let bytes = pieces.concat();
        for format in [
            StdoutFormat::Json, StdoutFormat::Csv, StdoutFormat::Text,
            StdoutFormat::Prefixed, StdoutFormat::None,
        ] {
            read(format, &bytes);
        }
    }

    /// Goal: a cell is the string that was printed. Method: random rows through serde's own writer.
    #[test]
    fn json_cells_round_trip(cells in proptest::collection::btree_map(".{0,9}", ".{0,20}", 0..40)) {
        let text = serde_json::to_string(&cells).unwrap();
        let rows = read(StdoutFormat::Json, text.as_bytes()).rows.unwrap();
        let want = cells.into_iter().map(|(name, cell)| (name, cell.into_bytes())).collect();
        prop_assert_eq!(rows, vec![Row(want)]);
    }

    /// Goal: compact JSON is the same JSON. Method: a random value, printed over many lines, comes out as on one.
    #[test]
    fn nested_cells_keep_their_meaning(words in proptest::collection::vec(".{0,6}", 0..5), n in any::<f64>()) {
        let value = serde_json::json!({ "w": words, "n": n, "o": { "z": [1, null], "a": [] } });
        let text = serde_json::to_string_pretty(&serde_json::json!({ "cell": value })).unwrap();
        let rows = read(StdoutFormat::Json, text.as_bytes()).rows.unwrap();
        let cell = rows[0].get("cell").unwrap();
        prop_assert_eq!(cell, serde_json::to_vec(&value).unwrap());
    }
}
