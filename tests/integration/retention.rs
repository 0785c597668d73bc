//! Retention: old files of `done/` and `output/` go, and nothing else ever does.
//!
//! Must not know: how a pass finds them.

use std::collections::BTreeMap;

use crate::checks::is_sealed_name;
use crate::harness::Spool;

const MAKES: &str = "[routes.make]\nglob = \"**/*.txt\"\noutput = true\n\
    command = [\"sh\", \"-c\", \"cp $1 $2/made; grep -q bad $1 && exit 1; echo row\", \"sh\", \
    \"{path}\", \"{output}\"]\n";

fn spool(settings: &str) -> Spool {
    Spool::new(&format!("{settings}\n{MAKES}"))
}

/// What must never change: all of `error/`, what lies beside, links and what stands behind them.
fn keepsakes(spool: &Spool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = spool.files("error");
    all.extend(spool.files("beside"));
    assert!(spool.path("done/link").is_symlink() && spool.path("done/to").is_symlink());
    all
}

/// Links out of `done/`, and files that are none of its.
fn furnish(spool: &Spool) {
    spool.write("beside/secret/x", "not to be touched");
    std::fs::create_dir_all(spool.path("done")).unwrap();
    std::os::unix::fs::symlink(spool.path("beside/secret"), spool.path("done/to")).unwrap();
    std::os::unix::fs::symlink(spool.path("beside/secret/x"), spool.path("done/link")).unwrap();
}

/// Goal: with `retention_age` files, made files and the folders they leave empty go by themselves, those of
/// later jobs too; `error/`, links, CSVs and all rows stay, and nothing is run again.
/// Method: an age of a second; jobs in folders, one of which fails; once more; a restart.
#[test]
fn what_is_old_goes_and_errors_stay() {
    let spool = spool("retention_age = \"1s\"");
    furnish(&spool);
    let daemon = spool.daemon();
    for round in 0..2 {
        for name in ["a/b/x", "a/y", "z"] {
            spool.drop_file(format!("{round}/{name}.txt"), "good");
        }
        spool.drop_file(format!("{round}/a/bad.txt"), "bad");
        let rows = (round + 1) * 3;
        spool.wait_until("all are recorded", || spool.csv("make").rows.len() == rows);
        spool.wait_until("the failure is there", || spool.errors().len() == round + 1);
        spool.wait_until("the old are gone", || {
            let folders = [spool.path(&format!("done/{round}")), spool.path("output/0")];
            folders.iter().all(|folder| !folder.exists())
        });
    }
    daemon.wait_for_log("old files were removed");
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(spool.errors(), ["0/a/bad.txt", "1/a/bad.txt"], "{}", spool.report());
    let before = keepsakes(&spool);
    assert_eq!(before.len(), 2 + 2 + 1);
    spool.run(&["batch"]).ok().says("nothing to do");
    assert_eq!(keepsakes(&spool), before);
    assert_eq!(spool.csv("make").rows.len(), 6);
}

/// Goal: with `retention_size` so much goes as must, and sealed CSVs only where that is asked for; a batch
/// does it too; `status` says what is left, and since when that is known.
/// Method: 20 files of a KiB, room for five; a run that seals, then the same with `retention_results`.
#[test]
fn what_is_too_much_goes() {
    let spool = spool("retention_size = \"10 KiB\"");
    furnish(&spool);
    for n in 0..20 {
        spool.drop_file(format!("{n}.txt"), vec![b'g'; 1024]);
    }
    spool.run(&["batch", "--seal"]).ok();
    let daemon = spool.daemon();
    let left = || {
        let all = [spool.files("done"), spool.files("output")];
        all.iter().flat_map(BTreeMap::values).map(Vec::len).sum::<usize>()
    };
    // Those of the batch were too young for its own pass.
    spool.wait_until("no more are left than may be", || left() == 10 << 10);
    let sealed = || {
        let names = spool.names("results");
        names.into_iter().filter(|name| is_sealed_name("make", name)).collect::<Vec<_>>()
    };
    assert_eq!(sealed().len(), 1, "{}", spool.report());
    let mut status = serde_json::Value::Null;
    spool.wait_until("the pass is over", || {
        let said = spool.run(&["status", "--json"]).ok();
        status = serde_json::from_str(&said.stdout()).unwrap();
        status["counted"]["folders"]["done"][0].as_u64().is_some_and(|files| files < 20)
    });
    let bytes = |name: &str| status["counted"]["folders"][name][1].as_u64().unwrap();
    assert_eq!(bytes("done") + bytes("output"), 10 << 10, "{status}");
    assert_eq!(daemon.end().code(), Some(0));

    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let settings = settings.replace("\"10 KiB\"", "\"1 B\"\nretention_results = true");
    spool.write("inboxd.toml", &settings);
    let daemon = spool.daemon();
    spool.wait_until("the sealed one is gone", || sealed().is_empty() && left() == 0);
    assert_eq!(daemon.end().code(), Some(0));
    keepsakes(&spool);
}

/// Goal: a pass that is killed anywhere harms nothing, and the next one ends it. Method: many old files,
/// kill -9 as soon as the first are gone, several times; then to its end.
#[test]
fn a_killed_pass_goes_on() {
    let spool = spool("");
    furnish(&spool);
    spool.drop_file("0.txt", "good");
    spool.drop_file("bad.txt", "bad");
    spool.run(&["batch"]).code(3);
    for n in 0..6000 {
        spool.write(&format!("done/{}/{}/{n}", n % 7, n % 31), "");
    }
    let before = keepsakes(&spool);
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    // Old enough for the margin of a second that a pass keeps, too.
    spool.write("inboxd.toml", &format!("retention_age = \"2s\"\n{settings}"));
    let count = || spool.names("done").len();
    let mut left = count();
    for _ in 0..3 {
        let mut daemon = spool.daemon();
        spool.wait_until("some are gone", || count() < left || left <= 2);
        daemon.kill_all();
        left = count();
        assert_eq!(keepsakes(&spool), before);
    }
    let daemon = spool.daemon();
    spool.wait_until("all are gone", || !spool.path("done/0").exists() && count() == 0);
    assert_eq!(daemon.end().code(), Some(0));
    assert_eq!(keepsakes(&spool), before);
    assert_eq!(spool.csv("make").rows.len(), 1);
}

/// Goal: a file that went is no longer known to `on_repeat`: it runs again, as documented, and a source of
/// `batch` stays known. Method: the same file twice with its time, before and after it went; a source.
#[test]
fn what_went_is_no_repeat() {
    let spool = Spool::new(
        "retention_age = \"1s\"\n[routes.main]\ncommand = [\"cat\", \"{path}\"]\non_repeat = \"skip\"\n",
    );
    spool.write_home("src/s", "source");
    let daemon = spool.daemon();
    spool.run(&["batch", "src"]).ok().says("1 done");
    let drop_it = || {
        let staged = spool.home().join("staging/f");
        std::fs::write(&staged, "same").unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        std::fs::File::options().write(true).open(&staged).unwrap().set_modified(time).unwrap();
        rustix::fs::rename(&staged, spool.path("incoming/f")).unwrap();
    };
    drop_it();
    spool.wait_until("it ran", || spool.csv("main").rows.len() == 2);
    spool.wait_until("it went", || !spool.path("done/f").exists());
    drop_it();
    spool.wait_until("it ran again", || spool.csv("main").rows.len() == 3);
    spool.run(&["batch", "src"]).ok().says("nothing to do: 1 already done");
    assert_eq!(daemon.end().code(), Some(0));
}
