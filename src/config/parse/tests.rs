//! Settings files as people write them: whole ones, several, broken ones beside good ones.

use std::fs;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::StdoutFormat;
use crate::core::pace::Rate;

mod mistakes;

/// A spool with these files.
fn spool(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let spool = tempfile::tempdir().unwrap();
    fs::create_dir(spool.path().join("routes.d")).unwrap();
    for (name, text) in files {
        fs::write(spool.path().join(name), text).unwrap();
    }
    spool
}

/// The messages, with paths below the spool.
fn messages(spool: &Path, errors: &[ConfigError]) -> Vec<String> {
    let root = format!("{}/", spool.display());
    errors.iter().map(|e| e.to_string().replace(&root, "")).collect()
}

/// What is said of an `inboxd.toml`.
fn refused(text: &str) -> Vec<String> {
    let spool = spool(&[("inboxd.toml", text.as_bytes())]);
    match load(spool.path()) {
        Ok(loaded) => panic!("{text}\nwas accepted: {loaded:?}"),
        Err(errors) => messages(spool.path(), &errors),
    }
}

fn accepted(text: &str) -> Settings {
    let spool = spool(&[("inboxd.toml", text.as_bytes())]);
    load(spool.path()).unwrap_or_else(|errors| panic!("{text}\n{errors:?}")).settings
}

/// The one route of a file in which only `lines` stand below its command.
fn route_with(lines: &str) -> Route {
    accepted(&format!("[routes.r]\ncommand = [\"true\"]\n{lines}")).routes.remove(0)
}

/// Goal: whoever makes a mistake at the top learns where and what to do.
/// Method: one file a mistake, the exact message.
#[test]
fn mistakes_at_the_top() {
    for (text, message) in [
        ("worker = 2", "1:1: unknown key `worker`; did you mean `workers`?"),
        (
            "timeout = '1s'",
            "1:1: unknown key `timeout`; it belongs to a route, below a line [routes.NAME]",
        ),
        ("concurrency = 4", "1:1: unknown key `concurrency`; did you mean `workers`?"),
        (
            "max-retries = 3",
            "1:1: unknown key `max-retries`; did you mean `retries`? It belongs to a route, below a line \
                 [routes.NAME]",
        ),
        (
            "cmd = 'x'",
            "1:1: unknown key `cmd`; did you mean `command`? It belongs to a route, below a line \
                 [routes.NAME]",
        ),
        (
            "dead_letter = 'x'",
            "1:1: unknown key `dead_letter`; what finally failed stands in error/, without a setting",
        ),
        ("[count]\ncommand = ['x']", "1:2: unknown key `count`; did you mean [routes.count]?"),
        (
            "[routes]\ncommand = ['x']",
            "2:1: `command` belongs to a route: write [routes.NAME] above it",
        ),
        (
            "colour = 1",
            "1:1: unknown key `colour`; there are workers, drain_timeout, rescan, quiet_for, \
                 min_free_disk, min_free_memory, allow_root, prune, retention_age, retention_size, retention_results, ignore, routes",
        ),
        (
            "[server]\nlisten = 'x'",
            "1:2: this version of inboxd does not have `server`; take the line out",
        ),
        ("workers = 0", "1:11: `workers` is 0; it must be 1 to 1024"),
        ("workers = 0x1_0000", "1:11: `workers` is 0x10000; it must be 1 to 1024"),
        (
            "workers = 99999999999999999999",
            "1:11: `workers` is 99999999999999999999; it must be 1 to 1024",
        ),
        (
            "\n  workers = '4'",
            "2:13: `workers` must be a whole number from 1 to 1024, not a string",
        ),
        (
            "workers = 1\nretention_results = true",
            "2:21: `retention_results` does nothing without `retention_age` or `retention_size`; \
                 add one of them, or take it out",
        ),
        ("prune = 1", "1:9: `prune` must be true or false, not an integer"),
        (
            "rescan = 60",
            "1:10: `rescan` must be a time in quotes, such as \"30s\" or \"1h 30m\", \
                 not an integer",
        ),
        (
            "rescan = '60'",
            "1:10: `rescan` = \"60\" is no time (time unit needed, for example 60sec or 60ms); \
                 write a time in quotes, such as \"30s\" or \"1h 30m\"",
        ),
        ("rescan = '1ms'", "1:10: `rescan` is 1ms; it must be 100ms to 1day"),
        ("drain_timeout = '90d'", "1:17: `drain_timeout` is 90d; it must be 0s to 30days"),
        (
            "min_free_disk = 5",
            "1:17: `min_free_disk` must be a size in quotes, such as \"256 MiB\", not \
                 an integer",
        ),
        (
            "min_free_disk = '5 XB'",
            "1:17: `min_free_disk` = \"5 XB\" is no size; write a size in quotes, \
                 such as \"256 MiB\"",
        ),
        ("min_free_disk = '9 EiB'", "1:17: `min_free_disk` is 9 EiB; it must be 0 B to 1.0 PiB"),
        (
            "ignore = ['a', '[b']",
            "1:16: bad glob \"[b\": unclosed character class; missing ']'; `\\` makes the next \
                 character plain",
        ),
        ("routes = 3", "1:10: `routes` must be a table for each route: write [routes.NAME]"),
        ("[[routes]]", "1:1: `routes` must be a table for each route: write [routes.NAME]"),
        ("workers = ", "1:11: string values must be quoted, expected literal string"),
        ("workers = 1\nworkers = 2", "2:1: `workers` is set twice"),
        ("[routes.a", "1:10: unclosed table, expected `]`"),
        (
            "\"a\\u001b\" = 1",
            "1:1: unknown key `a\\u{1b}`; there are workers, drain_timeout, rescan, \
                 quiet_for, min_free_disk, min_free_memory, allow_root, prune, retention_age, retention_size, retention_results, ignore, routes",
        ),
    ] {
        assert_eq!(refused(text), [format!("inboxd.toml:{message}")], "{text}");
    }
}

/// Goal: all that is wrong is said at once, in the order of the file.
/// Method: mistakes of all kinds, the later ones first in the alphabet.
#[test]
fn all_mistakes_are_said() {
    let text = "workers = 0\n[routes.b]\ntimeout = 3\n[routes.a]\ncommand = 'x'\ngrce = 1";
    let lines: Vec<_> =
        refused(text).iter().map(|m| m.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(
        lines,
        [
            "inboxd.toml:1:11",
            "inboxd.toml:2:9",
            "inboxd.toml:3:11",
            "inboxd.toml:5:11",
            "inboxd.toml:6:1"
        ]
    );
}

/// Goal: a worker that cannot run is mended at the line that names it. Method: an interpreter that is
/// set, the same where something else is wrong, one that is not set, a command, a schema.
#[test]
fn a_worker_is_mended_where_it_is_named() {
    let settings = accepted(
        "[routes.a]\npython = \"a.py:f\"\ninterpreter = \"python3.99\"\n[routes.b]\npython = \
             \"a.py:f\"\n[routes.c]\ncommand = [\"x\"]",
    );
    let missing = "cannot start \"python3.99\": not found in PATH=/bin";
    let places = ["a", "b", "c"].map(|name| {
        let route = settings.routes.iter().find(|route| route.name == name).unwrap();
        route.place_to_mend(missing)
    });
    assert_eq!(
        places,
        [
            "`interpreter` at inboxd.toml:3",
            "`python` at inboxd.toml:5",
            "`command` at inboxd.toml:7"
        ]
    );
    let other = settings.routes[0].place_to_mend("a.py has no function f");
    assert_eq!(other, "a.py, or `python` at inboxd.toml:2");
    let limit =
        settings.routes[0].place_to_mend("cannot start x: Too many open files (os error 24)");
    assert!(limit.starts_with("the limit of open files"), "{limit}");
    let nice = settings.routes[0].place_to_mend("cannot limit it: nice = -5: Permission denied");
    assert_eq!(nice, "`nice` in [routes.a], or LimitNICE= of the unit");
    let settings = accepted("[routes.s]\ncommand = [\"x\"]\nschema = \"s.json\"");
    for reason in ["cannot read the schema s.json: gone", "s.json is not valid JSON: EOF"] {
        let place = settings.routes[0].place_to_mend(reason);
        assert_eq!(place, "s.json, or `schema` in [routes.s]");
    }
    assert_eq!(settings.routes[0].place_to_mend(missing), "`command` at inboxd.toml:2");
    let settings = accepted("[routes.h]\nhttp = \"http://127.0.0.1:1/\"\nstart = [\"x\"]");
    for (reason, key) in [
        ("cannot start x: exit 1 before it was ready", "`start`, beside `http`"),
        ("header X-Key: the environment of inboxd has no KEY", "`headers`, beside `http`"),
        ("HTTP 401 Unauthorized", "`headers`, beside `http`"),
        ("cannot connect", "`http`"),
    ] {
        let place = settings.routes[0].place_to_mend(reason);
        assert_eq!(place, format!("{key} at inboxd.toml:2"));
    }
}

/// Goal: routes are in the order in which a person wrote them, then routes.d by name.
/// Method: names that sort otherwise; files that are none of ours between them.
#[test]
fn routes_are_in_the_order_of_the_file() {
    let line = b"command = ['true']";
    let main = "[routes.z]\ncommand = ['true']\n[routes.a]\n\ncommand = ['true']";
    let spool = spool(&[
        ("inboxd.toml", main.as_bytes()),
        ("routes.d/y.toml", line),
        ("routes.d/b.toml", line),
        ("routes.d/.b.toml", b"["),
        ("routes.d/b.toml~", b"["),
        ("routes.d/README", b"["),
    ]);
    let loaded = load(spool.path()).unwrap();
    assert_eq!(loaded.broken, []);
    let routes = loaded.settings.routes.iter().map(|r| (r.name.as_str(), r.origin.as_str()));
    assert_eq!(
        routes.collect::<Vec<_>>(),
        [
            ("z", "inboxd.toml:2"),
            ("a", "inboxd.toml:5"),
            ("b", "routes.d/b.toml:1"),
            ("y", "routes.d/y.toml:1")
        ]
    );
}

/// Goal: a broken plug-in is refused with its line, and the others run.
/// Method: one sound file among one of each kind of broken one.
#[test]
fn broken_plug_in_stops_no_other() {
    let line: &[u8] = b"command = ['true']";
    let spool = spool(&[
        ("inboxd.toml", b"[routes.main]\ncommand = ['true']"),
        ("routes.d/Big.toml", line),
        ("routes.d/empty.toml", b""),
        ("routes.d/errors.toml", line),
        ("routes.d/main.toml", line),
        ("routes.d/section.toml", b"[routes.section]\ncommand = ['true']"),
        ("routes.d/sound.toml", line),
        ("routes.d/syntax.toml", b"command = [\n'true'"),
        ("routes.d/typo.toml", b"command = ['true']\n\n glob = '*'\n comand = 1"),
        ("routes.d/utf8.toml", b"# \xc3\xbc\n# \xc3\xbc\xff\n"),
    ]);
    fs::create_dir(spool.path().join("routes.d/folder.toml")).unwrap();
    let loaded = load(spool.path()).unwrap();
    let names: Vec<_> = loaded.settings.routes.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["main", "sound"]);
    assert_eq!(
        messages(spool.path(), &loaded.broken),
        [
            "routes.d/Big.toml:1:1: a route cannot be called `Big`: its name is of a-z, 0-9, _ \
                 and -; rename this file",
            "routes.d/empty.toml:1:1: route `empty` has no worker: set one line, such as \
                 command = [\"sha256sum\", \"{path}\"]",
            "routes.d/errors.toml:1:1: a route cannot be called `errors`: results/errors.csv \
                 is for failures; rename this file",
            "cannot read routes.d/folder.toml: it is not a regular file",
            "routes.d/main.toml:1:1: route `main` is already at inboxd.toml:2; rename this \
                 file",
            "routes.d/section.toml:1:1: route `section` has no worker: set one line, such as \
                 command = [\"sha256sum\", \"{path}\"]",
            "routes.d/section.toml:1:2: a file of routes.d holds the keys of one route: leave \
                 out the line [routes.NAME], the name is that of the file",
            "routes.d/syntax.toml:2:7: unclosed array, expected `]`",
            "routes.d/typo.toml:4:2: unknown key `comand`; did you mean `command`?",
            "routes.d/utf8.toml:2:4: this is not UTF-8; save the file as UTF-8",
        ]
    );
}

/// Goal: a folder without settings says how to get them. Method: an empty folder; a folder in
/// the place of the file; a file too large.
#[test]
fn unreadable_settings_say_why() {
    let spool = tempfile::tempdir().unwrap();
    let said = |spool: &Path| messages(spool, &load(spool).unwrap_err());
    assert_eq!(said(spool.path()), ["inboxd.toml is not there; `inboxd init` makes a spool"]);
    fs::create_dir(spool.path().join("inboxd.toml")).unwrap();
    assert_eq!(said(spool.path()), ["cannot read inboxd.toml: it is not a regular file"]);
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("inboxd.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    assert_eq!(said(other.path()), ["cannot read inboxd.toml: it has more than 1048576 bytes"]);
}

/// Goal: a spool may begin without a route. Method: an empty file.
#[test]
fn empty_file_is_all_defaults() {
    assert_eq!(accepted(""), Settings::default());
}

/// Goal: what people write for a job processor and a clean-up test means what they think.
/// Method: three files as users would have them, compared field by field.
#[test]
fn files_as_users_write_them() {
    let settings = accepted(
        "workers = 10\n[routes.sh]\nglob = \"*.sh\"\ncommand = [\"sh\", \"{path}\"]\n\
             stdout = \"prefixed\"\nretries = { fail = 0 }\nrequire_output = true\n\
             trace_columns = false",
    );
    let argv = vec!["sh".to_owned(), "{path}".to_owned()];
    let want = Route {
        origin: "inboxd.toml:4".to_owned(),
        glob: vec!["*.sh".to_owned()],
        stdout: StdoutFormat::Prefixed,
        require_output: true,
        trace_columns: false,
        ..Route::new("sh", argv)
    };
    assert_eq!(settings, Settings { workers: 10, routes: vec![want], ..Settings::default() });

    let settings = accepted(
        "workers = 1\n[routes.a]\ncommand = ['sh', '{path}']\ntimeout = '1s'\nretries = 2",
    );
    let route = &settings.routes[0];
    assert_eq!(route.timeout, Duration::from_secs(1));
    let retries = &route.retries;
    assert_eq!((retries.fail, retries.crash, retries.try_again, retries.lost), (2, 2, 2, 3));

    let retries = route_with("[routes.r.retries]\nfail = 4\ntry_again = 2").retries;
    assert_eq!((retries.fail, retries.crash, retries.try_again, retries.lost), (4, 1, 2, 3));
    let rate = |text: &str| route_with(&format!("rate = '{text}'")).rate.unwrap();
    assert_eq!(rate("100/min"), Rate { starts: 100, per_ms: 60_000 });
    assert_eq!(rate("3 / 30s"), Rate { starts: 3, per_ms: 30_000 });
    assert_eq!(rate("7/h").per_ms, 3_600_000);
    assert_eq!(route_with("try_again_after = '2s'").try_again_after, [Duration::from_secs(2)]);
    assert_eq!(
        route_with("env = { B = '1', A = '2' }").env,
        [("B".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())]
    );
    assert!(route_with("output = true").output);
    assert_eq!(route_with("grace = '29s'").grace, Duration::from_secs(29));
}

proptest! {
    /// Goal: no file panics. Method: random text; and random lines of real keys and odd values.
    #[test]
    fn no_text_panics(text in any::<String>(), lines in proptest::collection::vec(
        (
            0usize..40,
            "-?[0-9]{1,20}|'[^'\n]{0,6}'|\\[('[a{}*]{0,3}',? ?){0,3}\\]?\
             |\\{ ?[a-z]{0,3} = [0-9'] ?\\}|true|1\\.5",
        ),
        0..6,
    )) {
        super::fuzz_settings(&text);
        let table = crate::config::settings_table();
        let lines = lines.iter().map(|(n, value)| match table.get(*n) {
            Some(doc) => format!("{} = {value}", doc.name),
            None => "[routes.r]".to_owned(),
        });
        let file = lines.collect::<Vec<_>>().join("\n");
        super::fuzz_settings(&file);
    }
}
