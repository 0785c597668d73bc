//! The log below systemd: entries with fields in the journal's socket, and nothing of it where there is none.
//!
//! Must not know: which events there are.

use std::os::unix::net::UnixDatagram;

use crate::harness::Spool;

/// A daemon in a mount namespace of its own, where `/run` is a folder of the test.
const IN_NAMESPACE: &str =
    r#"mount --bind "$RUN" /run && exec env JOURNAL_STREAM="$STREAM" "$0" "$@""#;

/// Runs a batch-like life of the daemon: one file, then TERM. `None`: no namespaces here.
fn lived(spool: &Spool, stream: &str) -> Option<String> {
    let run = spool.home().join("run");
    let probe = std::process::Command::new("unshare")
        .args(["-Urm", "sh", "-c", "mount --bind \"$0\" /run"])
        .arg(&run)
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        // Also on CI: a sandbox may refuse them, and no package brings them.
        eprintln!("skipped: no user and mount namespaces here");
        return None;
    }
    let script = IN_NAMESPACE.replace("$RUN", run.to_str().unwrap()).replace("$STREAM", stream);
    let daemon = spool.start_under(&["unshare", "-Urm", "sh", "-c", &script], &["run"]);
    spool.drop_file("x", "x");
    spool.wait_until("it failed", || !spool.errors().is_empty());
    let said = daemon.log();
    assert_eq!(daemon.end().code(), Some(0));
    Some(said)
}

/// Goal: where stderr is the journal, events are entries with fields and stderr stays empty; where it only
/// inherited the variable, they are lines on stderr. Method: a socket in the journal's place.
#[test]
fn events_go_to_the_journal_where_stderr_is_one() {
    for (stream, is_journal) in [("$(stat -L -c %d:%i /proc/self/fd/2)", true), ("1:1", false)] {
        // Whoever runs it is root in the namespace.
        let text = "allow_root = true\n[routes.main]\ncommand = [\"false\"]\n";
        let spool = Spool::verbatim(text);
        let folder = spool.home().join("run/systemd/journal");
        std::fs::create_dir_all(&folder).unwrap();
        let journal = UnixDatagram::bind(folder.join("socket")).unwrap();
        journal.set_nonblocking(true).unwrap();
        let Some(said) = lived(&spool, stream) else { return };
        let mut entries = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len) = journal.recv(&mut buffer) {
            entries.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        let failed = entries.iter().find(|entry| entry.contains("\nEVENT=job failed\n"));
        assert_eq!(failed.is_some(), is_journal, "{entries:?}");
        assert_eq!(said.contains("ready"), !is_journal, "{said}");
        if let Some(failed) = failed {
            assert!(failed.starts_with("MESSAGE=job failed job="), "{failed}");
            for field in ["PRIORITY=4", "ROUTE=main", "REL=x", "ATTEMPT=1"] {
                assert!(failed.lines().any(|line| line == field), "{field}: {failed}");
            }
        }
    }
}
