//! Records split off, passed over, copied, and inputs that change.

use super::*;
use crate::fs::RealFs;

struct Made {
    _home: tempfile::TempDir,
    path: std::path::PathBuf,
}

fn made(text: &[u8]) -> Made {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_owned();
    std::fs::write(path.join("x"), text).unwrap();
    Made { _home: home, path }
}

fn open(made: &Made, records: Records, block: usize) -> (Input<RealFs>, Option<Vec<u8>>) {
    let dir = RealFs.open_root(&made.path).unwrap();
    let file = RealFs.open(&dir, Path::new("x"), false).unwrap();
    let (input, header) = Input::of(RealFs, file, records, block).unwrap();
    (input, header.map(|split| split.bytes))
}

fn all(input: &mut Input<RealFs>) -> Vec<Split> {
    std::iter::from_fn(|| input.next_record().unwrap()).collect()
}

fn texts(splits: &[Split]) -> Vec<String> {
    let text = |split: &Split| String::from_utf8_lossy(&split.bytes).into_owned();
    splits.iter().map(text).collect()
}

/// Goal: records are those that the head of the module describes, with their lines.
/// Method: one text a format, with every kind of end.
#[test]
fn records_are_split_as_described() {
    let file = made(b"\xef\xbb\xbfa\r\n\n b \r\nc\rd\nlast");
    let (mut input, header) = open(&file, Records::Lines, 2);
    assert_eq!(header, None);
    let splits = all(&mut input);
    assert_eq!(texts(&splits), ["a", " b ", "c\rd", "last"]);
    assert_eq!(splits.iter().map(Split::line).collect::<Vec<_>>(), [1, 3, 4, 5]);
    let file = made(b"{}\n  \r\n {\"a\":\n1}\n");
    assert_eq!(texts(&all(&mut open(&file, Records::Ndjson, 3).0)), ["{}", " {\"a\":", "1}"]);
    let file = made(b"id,\"n\no\"\r\n\r\n1,\"a\r\n\"\"b\"\n2,c\"d\r3,\"\"\n");
    let (mut input, header) = open(&file, Records::Csv, 1);
    assert_eq!(header.unwrap(), b"id,\"n\no\"");
    let splits = all(&mut input);
    assert_eq!(texts(&splits), ["1,\"a\r\n\"\"b\"", "2,c\"d", "3,\"\""]);
    assert!(splits.iter().all(|split| split.unfit.is_none()));
    assert_eq!(splits.iter().map(Split::line).collect::<Vec<_>>(), [4, 6, 6]);
    assert_eq!(splits.iter().map(Split::no).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Goal: a record that is just short enough is read, wherever a block ends. Method: the longest one, with each end
/// of a line; blocks that end before it, within it and behind it.
#[test]
fn the_longest_record_is_read_whatever_the_blocks() {
    let most = usize::try_from(limits::RECORD).unwrap();
    for (records, end) in [(Records::Lines, "\r\n"), (Records::Csv, "\r\n"), (Records::Csv, "\r")] {
        let header = if records == Records::Csv { "a\n" } else { "" };
        let file = made(format!("{header}{}{end}b", "x".repeat(most)).as_bytes());
        for block in header.len() + most..=header.len() + most + 2 {
            let splits = all(&mut open(&file, records, block).0);
            let fits: Vec<_> = splits.iter().map(|it| (it.unfit, it.bytes.len())).collect();
            assert_eq!(fits, [(None, most), (None, 1)], "{records:?} {end:?} {block}");
        }
    }
}

/// Goal: nothing is a file without records. Method: no byte, a header alone, empty lines.
#[test]
fn empty_files_have_no_records() {
    assert_eq!(open(&made(b""), Records::Csv, 8).1, None);
    let file = made(b"id");
    let (mut input, header) = open(&file, Records::Csv, 8);
    assert_eq!((header, all(&mut input)), (Some(b"id".to_vec()), Vec::new()));
    assert_eq!(all(&mut open(&made(b"\n\r\n\n"), Records::Lines, 2).0), []);
}

/// Goal: a record that is too long costs no memory, fails alone, and is copied whole. Method: one of
/// three times the limit, by an open quote and by a long line, between short ones.
#[test]
fn long_records_are_passed_over() {
    let long = "x\n".repeat(usize::try_from(limits::RECORD).unwrap() * 3 / 2);
    let text = format!("id\n1\n\"{long}\"\n2\n");
    let file = made(text.as_bytes());
    let (mut input, _) = open(&file, Records::Csv, limits::INPUT_BLOCK);
    let splits = all(&mut input);
    assert_eq!(
        splits.iter().map(|s| s.unfit).collect::<Vec<_>>(),
        [None, Some(Unfit::TooLong), None]
    );
    assert_eq!(splits[2].line(), 3 + limits::RECORD * 3 / 2 + 1);
    assert!(input.block.capacity() < 3 * usize::try_from(limits::RECORD).unwrap());
    let dir = RealFs.open_root(&file.path).unwrap();
    let to = RealFs.create(&dir, Path::new("y"), 0o600).unwrap();
    assert_eq!(input.copy(&to, &|no| no >= 2).unwrap(), 2);
    let copied = std::fs::read(file.path.join("y")).unwrap();
    assert_eq!(copied, format!("id\n\"{long}\"\n2\n").as_bytes());
}

/// Goal: a record may be as long as the limit says and not a byte longer. Method: both, ended by a line's end and
/// by the file's.
#[test]
fn the_limit_of_a_record_is_exact() {
    let most = usize::try_from(limits::RECORD).unwrap();
    for (len, unfit) in [(most, None), (most + 1, Some(Unfit::TooLong))] {
        for end in ["", "\n"] {
            let file = made(format!("a\n{}{end}", "x".repeat(len)).as_bytes());
            let splits = all(&mut open(&file, Records::Lines, limits::INPUT_BLOCK).0);
            assert_eq!(
                splits.iter().map(|it| it.unfit).collect::<Vec<_>>(),
                [None, unfit],
                "{len}"
            );
        }
    }
}

/// Goal: what failed of a file is written as it stood there, also its ends of lines. Method: a CSV of Windows, cut
/// at each place.
#[test]
fn a_copy_keeps_the_ends_of_lines() {
    for block in 1..9 {
        let file = made(b"id\r\n1\r\n2\r\n3\r\n");
        let (mut input, _) = open(&file, Records::Csv, block);
        let dir = RealFs.open_root(&file.path).unwrap();
        let to = RealFs.create(&dir, Path::new("y"), 0o600).unwrap();
        assert_eq!(input.copy(&to, &|no| no == 2).unwrap(), 1);
        assert_eq!(std::fs::read(file.path.join("y")).unwrap(), b"id\r\n2\r\n", "{block}");
    }
}

/// Goal: a failed record that begins with a byte order mark keeps it when it becomes the first of a file.
/// Method: such a record behind another and behind an empty line, copied and read again.
#[test]
fn a_mark_in_a_record_stays_in_it() {
    for text in ["a\n\u{feff}b\n", "\n\u{feff}b\n", "\u{feff}a\n\u{feff}b"] {
        let file = made(text.as_bytes());
        let (mut input, _) = open(&file, Records::Lines, 8);
        let last = all(&mut input).len() as u64;
        let dir = RealFs.open_root(&file.path).unwrap();
        let to = RealFs.create(&dir, Path::new("y"), 0o600).unwrap();
        assert_eq!(input.copy(&to, &|no| no == last).unwrap(), 1);
        let copied = made(&std::fs::read(file.path.join("y")).unwrap());
        let splits = all(&mut open(&copied, Records::Lines, 8).0);
        assert_eq!(texts(&splits), ["\u{feff}b"], "{text:?}");
    }
}

/// Goal: a file that was cut within quotes says so. Method: one such, read and copied.
#[test]
fn an_open_quote_is_noticed() {
    let file = made(b"id,n\n1,\"a\n");
    let splits = all(&mut open(&file, Records::Csv, 4).0);
    let [split] = &splits[..] else { panic!("{splits:?}") };
    assert_eq!((split.unfit, split.end), (Some(Unfit::OpenQuote), 10));
}

/// Goal: an input that is written into, or replaced, is noticed, and one that was copied with its spool is
/// the same. Method: it grows; its time changes; another inode, with the time in full, in seconds, another.
#[test]
fn changes_are_noticed() {
    let file = made(b"a\n");
    let (input, _) = open(&file, Records::Lines, 8);
    assert_eq!(input.change().unwrap(), None);
    std::fs::write(file.path.join("x"), b"a\nb\n").unwrap();
    assert_eq!(input.change().unwrap().unwrap(), "it had 2 bytes and has 4");
    let was = InputMark { ino: 3, btime_ns: 5, size: 4, mtime_ns: 7_000_000_001 };
    let later = InputMark { mtime_ns: 7_000_000_000, ..was };
    assert_eq!(change(&was, &later).unwrap(), "it was written into");
    for copy in [InputMark { ino: 4, ..was }, InputMark { btime_ns: 6, ..later }] {
        assert_eq!(change(&was, &copy), None);
    }
    for other in [(5, 7_000_000_001), (4, 7_000_000_002), (4, 8_000_000_000)] {
        let other = InputMark { ino: 4, size: other.0, mtime_ns: other.1, ..was };
        assert_eq!(change(&was, &other).unwrap(), "another file stands in its place");
    }
}

/// Goal: where reading is left off and gone on with changes no record. Method: each format, read so few bytes
/// at a time that every record, and the one that is too long, is left off within.
#[test]
fn reading_in_slices_gives_the_same() {
    let long = "y".repeat(usize::try_from(limits::RECORD).unwrap() * 2);
    let text = format!("id,n\n\n1,\"a\r\nb\"\r\n{long}\n\n\n2,x\n3,\"open\n");
    let file = made(text.as_bytes());
    for records in [Records::Lines, Records::Csv, Records::Ndjson] {
        for block in [7, limits::INPUT_BLOCK] {
            let whole = all(&mut open(&file, records, block).0);
            let (mut input, _) = open(&file, records, block);
            let (mut sliced, mut later) = (Vec::new(), 0);
            loop {
                let mut most = 5;
                match input.next_within(&mut most).unwrap() {
                    Found::Record(split) => sliced.push(split),
                    Found::End => break,
                    Found::Later => later += 1,
                }
            }
            assert!(sliced == whole && later > 1, "{records:?} {block}: {later}");
        }
    }
}

/// Goal: a header is not looked at to its end where that is far, and what is failed of a sparse file takes no
/// room. Method: a sparse file of 64 GiB as a CSV; one of 8 MiB copied.
#[test]
fn a_sparse_file_costs_what_is_in_it() {
    let file = made(b"id");
    let sparse = std::fs::File::options().write(true).open(file.path.join("x")).unwrap();
    sparse.set_len(64 << 30).unwrap();
    let (_, header) = Input::of_file(
        RealFs,
        RealFs.open(&RealFs.open_root(&file.path).unwrap(), Path::new("x"), false).unwrap(),
        Records::Csv,
    )
    .unwrap();
    assert_eq!(header.unwrap().unfit, Some(Unfit::TooLong));
    sparse.set_len(8 << 20).unwrap();
    let (mut input, _) = open(&file, Records::Lines, limits::INPUT_BLOCK);
    let dir = RealFs.open_root(&file.path).unwrap();
    let to = RealFs.create(&dir, Path::new("y"), 0o600).unwrap();
    assert_eq!(input.copy(&to, &|_| true).unwrap(), 1);
    let stat = rustix::fs::stat(file.path.join("y")).unwrap();
    assert_eq!(stat.st_size, 8 << 20);
    assert!(stat.st_blocks < 4096, "{} blocks", stat.st_blocks);
    assert!(std::fs::read(file.path.join("y")).unwrap().starts_with(b"id\0"));
}
