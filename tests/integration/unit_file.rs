//! The unit files, as systemd itself reads them.
//!
//! Must not know: what the daemon does. `systemd-analyze` runs without a running systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The exposure that `systemd-analyze security` may find at most, in tenths.
const EXPOSURE_MAX: &str = "30";

/// `None`: there is no systemd-analyze; on CI that is a failure.
fn analyze(arguments: &[&str]) -> Option<Output> {
    let temp = tempfile::tempdir().unwrap();
    match Command::new("systemd-analyze")
        .args(arguments)
        .env("XDG_RUNTIME_DIR", temp.path())
        .output()
    {
        Ok(output) => Some(output),
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("skipped: cannot start systemd-analyze: {error}");
            None
        }
        Err(error) => panic!("systemd-analyze is missing: {error}"),
    }
}

/// A copy of a unit whose program is the one under test, as it is not installed.
fn unit(folder: &Path, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    let text = fs::read_to_string(source).unwrap();
    let program = env!("CARGO_BIN_EXE_inboxd");
    let lines = text.lines().map(|line| {
        let run = line.strip_prefix("ExecStart=").and_then(|rest| rest.split_once(' '));
        run.map_or_else(|| line.to_owned(), |(_, rest)| format!("ExecStart={program} {rest}"))
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(text.contains(program), "{name} has no ExecStart");
    let path = folder.join(Path::new(name).file_name().unwrap());
    fs::write(&path, text).unwrap();
    path
}

/// What systemd complains of in a unit. Empty: nothing.
fn complaints(arguments: &[&str], unit: &Path) -> Option<String> {
    let path = unit.to_str().unwrap();
    let output = analyze(&[arguments, &[path]].concat())?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = text + &String::from_utf8_lossy(&output.stdout);
    Some(if output.status.success() { text } else { format!("{}\n{text}", output.status) })
}

/// Goal: systemd has nothing to say about the units. Method: `verify`; a broken copy must be found.
#[test]
fn units_verify() {
    let temp = tempfile::tempdir().unwrap();
    for (mode, name) in [
        ("--system", "inboxd.service"),
        ("--system", "inboxd@.service"),
        ("--user", "user/inboxd.service"),
    ] {
        let path = unit(temp.path(), name);
        let Some(said) = complaints(&["verify", mode], &path) else { return };
        assert_eq!(said, "", "{name}");
        let broken = fs::read_to_string(&path).unwrap().replace("Type=notify", "Type=notfy");
        fs::write(&path, broken).unwrap();
        assert_ne!(complaints(&["verify", mode], &path), Some(String::new()), "{name}");
    }
}

/// Goal: the system units are hardened. Method: `security` with a threshold; a unit without hardening fails it.
#[test]
fn units_are_hardened() {
    let temp = tempfile::tempdir().unwrap();
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let security = ["security", "--offline=true", &threshold];
    for name in ["inboxd.service", "inboxd@.service"] {
        let path = unit(temp.path(), name);
        let Some(output) = analyze(&[&security[..], &[path.to_str().unwrap()]].concat()) else {
            return;
        };
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        let text = fs::read_to_string(&path).unwrap();
        let is_soft = |line: &&str| !line.starts_with("Protect") && !line.starts_with("SystemCall");
        let soft: Vec<&str> = text.lines().filter(is_soft).collect();
        fs::write(&path, soft.join("\n")).unwrap();
        let output = analyze(&[&security[..], &[path.to_str().unwrap()]].concat()).unwrap();
        assert!(!output.status.success(), "{name}: the threshold finds nothing");
    }
}

/// Goal: a worker that the kernel ends for want of memory ends no other job: systemd would stop the whole service,
/// by its default. Method: what each unit says of it.
#[test]
fn a_worker_without_memory_stops_no_service() {
    for name in ["inboxd.service", "inboxd@.service", "user/inboxd.service"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
        let text = fs::read_to_string(source).unwrap();
        assert!(text.lines().any(|line| line == "OOMPolicy=continue"), "{name}");
    }
}

/// Goal: paired limits stay in order: grace below drain below `TimeoutStopSec`. Method: the unit against the settings.
#[test]
fn stopping_outlasts_the_drain() {
    use inboxd::config::limits;
    for name in ["inboxd.service", "inboxd@.service", "user/inboxd.service"] {
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name))
                .unwrap();
        let stop: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("TimeoutStopSec=")?.parse().ok())
            .expect("TimeoutStopSec in whole seconds");
        assert!(limits::GRACE < limits::DRAIN_TIMEOUT);
        assert!(
            limits::DRAIN_TIMEOUT + limits::GRACE < std::time::Duration::from_secs(stop),
            "{name}"
        );
    }
}
