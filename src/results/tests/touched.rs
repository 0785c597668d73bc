//! Files that someone changed: left alone, and no row lost.

use super::*;

fn sealed(n: u32) -> String {
    format!("count.20261122T140211Z.{n}.csv")
}

fn remove(spool: &Spool, name: &str) {
    RealFs.remove_file(&spool.results.dir, std::path::Path::new(name)).unwrap();
}

/// As an editor saves: another inode under the same name.
fn save_over(spool: &Spool, text: &str) {
    fs::write(spool.path("new"), text).unwrap();
    let at = &spool.results.dir;
    RealFs.replace(at, "new".as_ref(), at, "count.csv".as_ref()).unwrap();
}

fn find(spool: &Spool, text: &str) -> usize {
    spool.files().values().filter(|bytes| *bytes == text.as_bytes()).count()
}

/// Goal: a live file that grew is left as it is and renamed aside; the new row goes to a new file.
/// Method: append to it between two jobs. A start before a checkpoint puts the touched file's rows
/// into a file of their own, once; a start after one changes nothing.
#[test]
fn a_longer_file_is_set_aside() {
    let mut spool = Spool::new();
    spool.job(&a(1));
    fs::write(spool.path("count.csv"), "a\n1\nmine\n").unwrap();
    spool.job(&a(2));
    assert_eq!(spool.read(&sealed(1)), "a\n1\nmine\n");
    assert_eq!(spool.read("count.csv"), "a\n2\n");
    spool.job(&a(3));
    let before = spool.files();
    assert_eq!(before["count.csv"], b"a\n2\n3\n");
    assert_eq!(spool.restart().len(), 1);
    assert!(spool.restart().is_empty());
    assert_eq!(spool.read(&sealed(1)), "a\n1\nmine\n");
    assert_eq!(spool.rows(false), ["1", "1", "2", "3", "mine"]);
    spool.checkpoint();
    assert!(spool.restart().is_empty());
    spool.job(&a(4));
    assert_eq!(spool.read("count.csv"), "a\n2\n3\n4\n");
}

/// Goal: a file that was saved over by an editor is kept, under another name.
/// Method: replace it between two jobs; also a stranger's file before the first row.
#[test]
fn another_inode_is_set_aside() {
    let mut spool = Spool::new();
    fs::write(spool.path("count.csv"), "stranger\n").unwrap();
    spool.job(&a(1));
    assert_eq!((find(&spool, "stranger\n"), find(&spool, "a\n1\n")), (1, 1));
    save_over(&spool, "edited\n");
    spool.job(&a(2));
    assert_eq!(spool.read("count.csv"), "a\n2\n");
    assert_eq!((find(&spool, "stranger\n"), find(&spool, "edited\n")), (1, 1));
    assert_eq!(spool.names().len(), 3);
}

/// Goal: after a file was deleted, the next rows are there. Method: delete between two jobs.
#[test]
fn a_deleted_file_is_begun_again() {
    let mut spool = Spool::new();
    spool.job(&a(1));
    remove(&spool, "count.csv");
    spool.job(&a(2));
    assert_eq!(spool.read("count.csv"), "a\n2\n");
    assert_eq!(spool.names(), ["count.csv"]);
}

/// Goal: rows that wait when their segment is touched and sealed at once are moved behind the next
/// one. Method: three jobs applied together, the first's file touched, the third in a new segment.
#[test]
fn a_touched_segment_with_a_successor() {
    let mut spool = Spool::new();
    spool.segment_rows = 2;
    spool.job(&a(1));
    save_over(&spool, "edited\n");
    let mut records = spool.record(&a(2)).unwrap();
    records.extend(spool.record(&a(3)).unwrap());
    spool.apply(&records);
    spool.job(&a(4));
    spool.job(&a(5));
    assert_eq!(find(&spool, "edited\n"), 1);
    assert_eq!(spool.read(&sealed(2)), "a\n3\n");
    assert_eq!(spool.read(&sealed(3)), "a\n2\n4\n");
    assert_eq!(spool.read("count.csv"), "a\n5\n");
    // The edited file may have lost row 1, which no checkpoint has covered: it comes back.
    spool.restart();
    assert_eq!(spool.cells(), ["1", "2", "3", "4", "5"]);
    assert_eq!(find(&spool, "edited\n"), 1);
}

/// Goal: at start, rows beyond the durable base are written again elsewhere when the file is not as
/// recorded. Method: each kind of touch, then two starts and a further row; open and sealed.
#[test]
fn a_file_touched_while_down_is_left_alone() {
    type Touch = dyn Fn(&Spool, &str);
    let touches: [(&str, &Touch); 4] = [
        ("longer", &|s, name| fs::write(s.path(name), "a\n1\n2\n3\nmine\n").unwrap()),
        ("edited prefix", &|s, name| fs::write(s.path(name), "a\n9\n2\n3\n").unwrap()),
        ("shorter than the base", &|s, name| fs::write(s.path(name), "a\n").unwrap()),
        ("deleted", &|s, name| remove(s, name)),
    ];
    for (what, touch) in touches {
        for seal in [false, true] {
            let mut spool = Spool::new();
            spool.job(&a(1));
            spool.checkpoint();
            spool.job(&a(2));
            spool.job(&a(3));
            if seal {
                spool.seal();
            }
            let name = if seal { sealed(1) } else { "count.csv".to_owned() };
            touch(&spool, &name);
            let left = fs::read(spool.path(&name)).ok();
            let is_gone = what == "deleted";
            let found = Touched { route: "count".to_owned(), seg: 1, is_gone, again: 2 };
            assert_eq!(spool.restart(), [found], "{what}");
            assert!(spool.restart().is_empty(), "{what}");
            let files = spool.files();
            if let Some(left) = left {
                assert!(files.values().any(|bytes| *bytes == left), "{what}: {files:?}");
            }
            let ours = if seal { sealed(2) } else { "count.csv".to_owned() };
            assert_eq!(files[&ours], b"a\n2\n3\n", "{what} {files:?}");
            spool.job(&a(4));
            let last = if seal { "a\n4\n" } else { "a\n2\n3\n4\n" };
            assert_eq!(spool.read("count.csv"), last, "{what}");
        }
    }
}

/// Goal: a prefix that was edited before the base of this run is found at the first append.
/// Method: checkpoint, an edit of the same length, restart (nothing to replay), a row.
#[test]
fn an_idle_files_edited_prefix_is_found_at_the_first_row() {
    let mut spool = Spool::new();
    spool.job(&a(1));
    spool.checkpoint();
    fs::write(spool.path("count.csv"), "a\n9\n").unwrap();
    assert!(spool.restart().is_empty());
    spool.job(&a(2));
    assert_eq!(spool.read(&sealed(1)), "a\n9\n");
    assert_eq!(spool.read("count.csv"), "a\n2\n");
}

/// Goal: a move whose source is touched again, or whose records were not applied, loses no row.
/// Method: stop the process after the move was journaled, with nothing of it applied; then start.
#[test]
fn a_move_survives_a_crash_before_it_is_applied() {
    for extra_touch in [false, true] {
        let mut spool = Spool::new();
        spool.job(&a(1));
        spool.checkpoint();
        spool.job(&a(2));
        save_over(&spool, "a\n1\n2\n");
        let records = spool.record(&a(3)).unwrap();
        for record in &records {
            spool.results.apply(record).unwrap();
        }
        assert_eq!(spool.results.flush().unwrap().len(), 1);
        let moves = spool.results.plan_moves(NOW_MS).unwrap();
        spool.journal.extend(moves);
        if extra_touch {
            remove(&spool, "count.csv");
        }
        spool.restart();
        spool.restart();
        spool.job(&a(4));
        let rows = spool.cells();
        for n in ["2", "3", "4"] {
            assert!(rows.contains(&n.to_owned()), "{n} is lost: {:?}", spool.files());
        }
        assert_eq!(spool.read("count.csv"), "a\n3\n4\n");
    }
}

/// Goal: a move loses no row and no file of the user's wherever the process stops in it.
/// Method: touch in three ways, fail from operation N on, start; for every N until nothing fails.
#[test]
fn touched_and_stopped_at_every_operation() {
    let touches: [&dyn Fn(&Spool); 3] = [
        &|s| save_over(s, "edited\n"),
        &|s| fs::write(s.path("count.csv"), "a\n1\n2\nedited\n").unwrap(),
        &|s| remove(s, "count.csv"),
    ];
    for (kind, touch) in touches.iter().enumerate() {
        for n in 0.. {
            let mut spool = Spool::new();
            spool.segment_rows = 3;
            spool.job(&a(1));
            spool.checkpoint();
            spool.job(&a(2));
            touch(&spool);
            spool.fs.fail_after(n, 5);
            let mut recorded = 2;
            let mut stopped = false;
            for job in 3..6 {
                let Ok(records) = spool.record(&a(job)) else {
                    stopped = true;
                    break;
                };
                recorded = job;
                if spool.try_apply(&records).is_err() {
                    stopped = true;
                    break;
                }
            }
            spool.restart();
            let rows = spool.cells();
            for job in 2..=recorded {
                let when = format!("touch {kind}, stopped at {n}: row {job}");
                assert!(rows.contains(&job.to_string()), "{when}: {:?}", spool.files());
            }
            let edited = spool.files().values().filter(|f| f.ends_with(b"edited\n")).count();
            assert_eq!(edited, usize::from(kind < 2), "touch {kind}, stopped at {n}");
            assert!(spool.restart().is_empty());
            if !stopped {
                assert!(n > 4);
                break;
            }
        }
    }
}
