//! Replay: whatever a file lost, the journal brings back, and nothing twice.

use super::*;
use proptest::prelude::*;

fn history() -> Spool {
    let mut spool = Spool::new();
    spool.segment_rows = 4;
    spool.job(&a(1));
    spool.job(&[row(&[("a", "quoted \"x\"\nline")])]);
    spool.checkpoint();
    for n in 3..6 {
        spool.job(&a(n));
    }
    spool.job(&[row(&[("b", "further"), ("a", "6")])]);
    spool
}

/// Goal: a file torn at any byte beyond its durable base is made whole. Method: cut each file there,
/// also filled up with zeros, start, compare with the files as they were.
#[test]
fn torn_csv_at_every_byte() {
    let mut spool = history();
    let whole = spool.files();
    assert_eq!(whole.len(), 3);
    let base = |name: &str| match spool.journal.first() {
        Some(Record::CsvOpen(open)) if name.contains(".1.csv") => open.len,
        _ => 0,
    };
    let bases: BTreeMap<String, u64> =
        whole.keys().map(|name| (name.clone(), base(name))).collect();
    assert!(bases.values().any(|base| *base > 0));
    for (name, bytes) in &whole {
        for cut in bases[name]..=bytes.len() as u64 {
            for zeros in [false, true] {
                let file = fs::OpenOptions::new().write(true).open(spool.path(name)).unwrap();
                file.set_len(cut).unwrap();
                if zeros {
                    file.set_len(bytes.len() as u64).unwrap();
                }
                assert!(spool.restart().is_empty(), "{name} cut at {cut}");
                assert_eq!(spool.files(), whole, "{name} cut at {cut}");
            }
        }
    }
}

/// Goal: records applied again change nothing. Method: all of them, in order, twice more, in one process.
#[test]
fn applying_twice_changes_nothing() {
    let mut spool = history();
    let whole = spool.files();
    let records = spool.journal.clone();
    spool.apply(&records);
    spool.apply(&records);
    assert_eq!(spool.files(), whole);
    spool.job(&a(7));
    assert_eq!(spool.rows(false).len(), 8);
}

/// Goal: leftovers of a plan that was never journaled vanish, other people's files do not.
/// Method: plan without journaling, plant a file, start.
#[test]
fn leftovers_are_removed() {
    let mut spool = Spool::new();
    spool.record(&a(1)).unwrap();
    spool.journal.clear();
    assert_eq!(spool.names(), [".count.1.tmp"]);
    fs::write(spool.path(".notes.tmp"), "mine").unwrap();
    spool.restart();
    assert_eq!(spool.names(), [".notes.tmp"]);
    spool.job(&a(2));
    assert_eq!(spool.read("count.csv"), "a\n2\n");
}

/// Goal: a broken history is refused, not written. Method: drop each record of a good one.
#[test]
fn a_missing_record_is_damage() {
    let spool = history();
    let open = |name| RealFs.open_root(&spool.dir.path().join(name)).unwrap();
    let pieces = spool.journal.iter().filter(|r| matches!(r, Record::Outcome(_))).count();
    assert_eq!(pieces, 4);
    for at in [0, 1] {
        let mut journal = spool.journal.clone();
        journal.remove(at);
        let mut recovery = Recovery::new(RealFs, open("results"), open("journal"));
        let fed: Result<Vec<()>, _> = journal.iter().map(|r| recovery.feed(r)).collect();
        assert!(matches!(fed, Err(ResultsError::Damaged { .. })), "{at}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Job(Vec<Vec<(String, Vec<u8>)>>),
    Restart,
    Checkpoint,
    Seal,
    Unapplied(u32),
    Tear(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let cell = prop_oneof![
        "[a-z,\"\n]{0,4}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..3)
    ];
    let one = proptest::collection::btree_map("[a-d]", cell, 0..4)
        .prop_map(|m| m.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    prop_oneof![
        6 => proptest::collection::vec(one, 0..4).prop_map(Step::Job),
        1 => Just(Step::Restart),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Seal),
        1 => any::<u32>().prop_map(Step::Unapplied),
        1 => any::<u64>().prop_map(Step::Tear),
    ]
}

/// Non-empty cells of a row by name: what no change of columns may alter.
fn essence<'a>(cells: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cells: Vec<_> =
        cells.filter(|(_, c)| !c.is_empty()).map(|(n, c)| (n.to_vec(), c.to_vec())).collect();
    cells.sort();
    cells
}

fn stored(spool: &Spool) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rows = Vec::new();
    for path in read::segments(&spool.dir.path().join("results"), "count").unwrap() {
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_path(path).unwrap();
        let header = reader.byte_headers().unwrap().clone();
        rows.extend(reader.byte_records().map(|r| essence(header.iter().zip(&r.unwrap()))));
    }
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Goal: the files hold exactly the rows recorded, in any history. Method: random jobs, restarts,
    /// checkpoints, seals, crashes between record and apply, torn files; the model is a list of rows.
    #[test]
    fn random_histories_equal_a_list(steps in proptest::collection::vec(step(), 1..30), rows in 1u64..6, bytes in 10u64..60) {
        let mut spool = Spool::new();
        spool.segment_rows = rows;
        spool.segment_bytes = bytes;
        let mut model = Vec::new();
        for step in steps {
            match step {
                Step::Job(rows) => {
                    model.extend(rows.iter().map(|r| essence(r.iter().map(|(n, c)| (n.as_bytes(), c.as_slice())))));
                    spool.job(&rows.into_iter().map(Row).collect::<Vec<_>>());
                }
                Step::Restart => prop_assert!(spool.restart().is_empty()),
                Step::Checkpoint => spool.checkpoint(),
                Step::Seal => spool.seal(),
                Step::Unapplied(n) => {
                    let cell = n.to_string();
                    model.push(vec![(b"a".to_vec(), cell.clone().into_bytes())]);
                    spool.record(&[row(&[("a", &cell)])]).unwrap();
                    prop_assert!(spool.restart().is_empty());
                }
                Step::Tear(at) => {
                    // Only what no checkpoint has made durable can be torn.
                    let base = spool.journal.iter().find_map(|r| match r {
                        Record::CsvOpen(open) => Some(open.len),
                        _ => None,
                    });
                    let first = spool.journal.iter().filter(|r| matches!(r, Record::CsvOpen(_))).count() == 1;
                    if let (Some(base), true, Ok(file)) =
                        (base, first, fs::OpenOptions::new().write(true).open(spool.path("count.csv")))
                    {
                        let len = file.metadata().unwrap().len();
                        file.set_len(base + at % (len - base + 1)).unwrap();
                    }
                    prop_assert!(spool.restart().is_empty());
                }
            }
        }
        model.sort();
        prop_assert_eq!(stored(&spool), model);
        prop_assert!(!spool.names().iter().any(|name| name.starts_with('.')));
    }
}
