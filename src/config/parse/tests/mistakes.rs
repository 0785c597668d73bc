//! Mistakes in a route: whoever makes one learns where, and what to do.

use super::*;

/// Goal: the same for a route whose files come with others.
/// Method: names that are none, and each line that does not go with them.
#[test]
fn mistakes_in_a_route_with_companions() {
    for (lines, start) in [
        ("with = 'x.xmp'", ":3:8: \"x.xmp\" is no name beside a file's; write a name with {stem}"),
        ("with = ['{stem}.x', 'a/{name}']", ":3:21: \"a/{name}\" is no name beside a file's"),
        ("with = '{stem}.x'\nrecords = 'lines'", ":4:11: `records` is about one file"),
        ("with = '{stem}.x'\non_repeat = 'skip'", ":4:13: `on_repeat` is about one file"),
        (
            "with = '{stem}.x'\nunit = 'folder'\ndone_file = '{name}.ok'",
            ":3:8: with unit = \"folder\" all that is in the folder comes along",
        ),
    ] {
        let why = refused(&format!("[routes.r]\ncommand = ['true']\n{lines}")).join("\n");
        assert!(why.contains(start), "{lines}\n{why}");
    }
    let why = refused("[routes.r]\ncommand = ['true', '{with}']").join("\n");
    assert!(why.contains(":2:11: `{with}` is only there with a line such as"), "{why}");
    accepted("[routes.r]\ncommand = ['true', '{with}']\nwith = ['{stem}.x', '{stem}_b.{ext}']");
}

/// Goal: the same for a route whose jobs are folders.
/// Method: what is missing, and each line that is about what is in one file.
#[test]
fn mistakes_in_a_route_for_folders() {
    let said = |lines: &str| refused(&format!("[routes.r]\n{lines}\nunit = 'folder'")).join("\n");
    let why = said("command = ['true']");
    assert!(why.contains(":3:8: nothing tells when a folder is complete"), "{why}");
    for (lines, start) in [
        ("command = ['true']\nstdin = true", ":4:9: `stdin` is about what is in one file"),
        ("command = ['true']\nfields = { a = 'b' }", ":4:10: `fields` is about what is"),
        ("command = ['true']\nrecords = 'lines'", ":4:11: `records` is about what is in"),
        ("python = 'a.py:b'\ncall = 'kwargs'", ":4:8: with unit = \"folder\" there is no JSON"),
        ("http = 'http://h'", ":3:8: with unit = \"folder\" there is no one file to send"),
        ("http = 'http://h/{id}'\nmethod = 'GET'", ":3:8: with unit = \"folder\" there is no"),
        ("http = 'http://h'\nbody = { a = '{/b}' }", ":3:8: with unit = \"folder\" there is no"),
    ] {
        let why = said(&format!("done_file = '{{name}}.ok'\n{lines}"));
        assert!(why.contains(start), "{lines}\n{why}");
    }
    let sound =
        "http = 'http://h'\nbody = { a = '{path}' }\nunit = 'folder'\ndone_file = '{name}.ok'";
    accepted(&format!("[routes.r]\n{sound}"));
}

/// Goal: who writes the word of another system learns ours, also where it looks more like another setting.
/// Method: one line a word, below a sound command.
#[test]
fn words_of_other_systems() {
    for (line, message) in [
        ("jobs = 4", "3:1: unknown key `jobs` in [routes.r]; did you mean `workers`?"),
        ("retry = 4", "3:1: unknown key `retry` in [routes.r]; did you mean `retries`?"),
        ("url = 'x'", "3:1: unknown key `url` in [routes.r]; did you mean `http`?"),
        (
            "queue = 'x'",
            "3:1: unknown key `queue` in [routes.r]; incoming/ is the queue, and `glob` or `fields` \
                 say which files of it a route takes",
        ),
        (
            "exclude = '*.x'",
            "3:1: unknown key `exclude` in [routes.r]; did you mean `ignore`? It belongs to the \
                 spool, above the first [routes.NAME] of inboxd.toml",
        ),
    ] {
        let text = format!("[routes.r]\ncommand = ['true']\n{line}");
        assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{line}");
    }
}

/// Goal: the same for what stands in a route.
/// Method: one line a mistake, below a sound command.
#[test]
fn mistakes_in_a_route() {
    for (line, message) in [
        ("  timout = '1s'", "3:3: unknown key `timout` in [routes.r]; did you mean `timeout`?"),
        (
            "rescan = '1s'",
            "3:1: unknown key `rescan` in [routes.r]; it belongs to the spool, above the first \
                 [routes.NAME] of inboxd.toml",
        ),
        (
            "http = 'http://h'",
            "3:8: a route has one worker, and `command` is set too; take one of them out",
        ),
        (
            "columns = { a = '/a' }",
            "3:11: only the answers of `http` have columns by JSON pointers; write a list of \
                 names",
        ),
        (
            "python = 'a.py:b'",
            "3:10: a route has one worker, and `command` is set too; take one of them out",
        ),
        (
            "max_jobs = 5",
            "3:12: `max_jobs` goes with `python` or `warm` and does nothing for `command`; take it out",
        ),
        ("timeout = '0s'", "3:11: `timeout` is 0s; it must be 1ms to 30days"),
        ("grace = '30s'", "3:9: `grace` must be shorter than `drain_timeout`, which is 30s"),
        ("stdout = 'jsn'", "3:10: `stdout` = \"jsn\" is unknown; did you mean \"json\"?"),
        (
            "stdout = 'yaml'",
            "3:10: `stdout` = \"yaml\" is unknown; write \"json\", \"csv\", \"text\", \
                 \"prefixed\" or \"none\"",
        ),
        (
            "stdout = 'none'\nrequire_output = true",
            "4:18: with stdout = \"none\" there is never a row, so every job would fail; take \
                 out one of the two lines",
        ),
        (
            "records = 'lines'\noutput = true",
            "3:11: `output` is made of a whole file, and with `records` each record is a task of \
                 its own; take one of the two lines out",
        ),
        (
            "records = 'lines'\nnext = 's'",
            "3:11: `next` hands on what is made of a whole file, and with `records` each record is a \
                 task of its own; take one of the two lines out",
        ),
        (
            "fields = { a = 'b' }\nrecords = 'ndjson'",
            "4:11: `fields` are those of one JSON file, and with `records` a file holds many; take \
                 one of the two lines out",
        ),
        (
            "call = 'path'",
            "3:8: `call` goes with `python` and does nothing for `command`; take it out",
        ),
        ("glob = []", "3:8: `glob` is empty; leave it out to take every file"),
        ("glob = 3", "3:8: `glob` must be a glob, or a list of them, not an integer"),
        (
            "glob = './x'",
            "3:8: bad glob \"./x\": it never matches; write the path below incoming/, without \
                 `.`, `..` or `//`",
        ),
        ("retries = -1", "3:11: `retries` is -1; it must be 0 to 1000"),
        (
            "retries = { timout = 1 }",
            "3:13: unknown key `timout` in `retries`; did you mean `timeout`?",
        ),
        (
            "retries = { fail = true }",
            "3:20: `fail` must be a whole number from 0 to 1000, not a boolean",
        ),
        (
            "[routes.r.retries]\nall = 1",
            "4:1: unknown key `all` in `retries`; there are fail, timeout, oom, crash, \
                 lost, try_again, first_wait, longest_wait, jitter",
        ),
        (
            "try_again_after = []",
            "3:19: `try_again_after` lists 1 to 16 times, such as [\"10s\", \"1m\"]",
        ),
        ("columns = ['a', 'a']", "3:17: column \"a\" is there twice; take one of them out"),
        (
            "columns = ['a', '_job']",
            "3:11: column `_job` is added by inboxd; take it out, or set trace_columns = false",
        ),
        ("env = { A = 1 }", "3:13: variable A must be a string, in quotes"),
        ("env = { INBOXD_JOB = 'x' }", "3:9: INBOXD_JOB is set by inboxd; choose another name"),
        ("pass_env = ['AWS_*']", "3:13: \"AWS_*\" is no name of a variable; each is named in full"),
        ("pass_env = ['A=b']", "3:13: \"A=b\" is no name of a variable; write it without `=`"),
        ("priority = 1001", "3:12: `priority` is 1001; it must be -1000 to 1000"),
        ("workers = 0", "3:11: `workers` is 0; it must be 1 to 1024"),
    ] {
        let text = format!("[routes.r]\ncommand = ['true']\n{line}");
        assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{line}");
    }
}

/// Goal: the same for a route with a runner, or with a function. Method: one line a mistake, below a sound
/// address; `call` beside `records`.
#[test]
fn mistakes_in_a_route_with_another_worker() {
    for (line, message) in [
        (
            "rows = 'details'",
            "3:8: `rows` = \"details\" is no JSON pointer; write a JSON pointer, such as \
                 \"/details\"",
        ),
        ("headers = { Host = 'x' }", "3:13: \"Host\" cannot be set as a header"),
        (
            "body = 'jsn'",
            "3:8: `body` = \"jsn\" is unknown; write \"file\", \"json\" or a table, such as \
                 { text = \"{/text}\", file = \"{name}\" }",
        ),
    ] {
        let text = format!("[routes.r]\nhttp = 'http://h'\n{line}");
        assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{line}");
    }
    let text = "[routes.r]\npython = 'a.py:b'\ncall = 'path'\nrecords = 'csv'";
    let message = "inboxd.toml:4:11: with `records` the function gets the record, so `call` means nothing; \
                   take it out";
    assert_eq!(refused(text), [message]);
}

/// Goal: no line of a route does nothing for its worker, and no placeholder is silently empty.
/// Method: one line a mistake beside each kind of worker, the exact message; then those that mean something.
#[test]
fn lines_that_would_do_nothing() {
    const HTTP: &str = "http = 'http://h/'";
    const PYTHON: &str = "python = 'a.py:b'";
    let of = |key: &str, of: &str, kind: &str| {
        format!("`{key}` goes with {of} and does nothing for `{kind}`; take it out")
    };
    let of_start = |key: &str| {
        format!("`{key}` is for a runner of `start`; add that line, or take this one out")
    };
    let untold = |key: &str| {
        format!(
            "the runner is not told where to make files, so `{key}` does nothing: tell it, as in \
                 body = {{ file = \"{{path}}\", output = \"{{output}}\" }}, or take this line out"
        )
    };
    let without = |word: &str, line: &str| format!("`{word}` is only there with {line}; add it");
    for (worker, line, at, message) in [
        (PYTHON, "config = { a = 1 }", "3:10", of("config", "`warm`", "python")),
        (PYTHON, "progress_timeout = '1s'", "3:20", of("progress_timeout", "`warm`", "python")),
        (PYTHON, "max_output = '1MB'", "3:14", of("max_output", "`command` or `http`", "python")),
        (
            "warm = ['x', '--in={path}']",
            "",
            "2:8",
            "`{path}` is of one job, and a warm worker is started before its jobs, which tell it with each; \
                 take it out"
                .to_owned(),
        ),
        (HTTP, "ready_url = 'http://h/'", "3:13", of_start("ready_url")),
        (HTTP, "start_timeout = '1s'", "3:17", of_start("start_timeout")),
        (HTTP, "grace = '1s'", "3:9", of_start("grace")),
        (HTTP, "env = { A = 'b' }", "3:7", of_start("env")),
        (HTTP, "pass_env = ['A']", "3:12", of_start("pass_env")),
        (HTTP, "nice = 5", "3:8", of_start("nice")),
        (HTTP, "max_memory = '1GiB'", "3:14", of_start("max_memory")),
        (HTTP, "max_file_size = '1GiB'", "3:17", of_start("max_file_size")),
        (HTTP, "max_open_files = 64", "3:18", of_start("max_open_files")),
        (HTTP, "output = true", "3:10", untold("output")),
        (HTTP, "start = ['x']\noutput = true", "4:10", untold("output")),
        (HTTP, "body = { a = ['{output}'] }", "3:8", without("{output}", "the line output = true")),
        (
            "http = 'http://h/{record}'",
            "",
            "2:8",
            without("{record}", "a line such as records = \"lines\""),
        ),
        (
            HTTP,
            "columns = { a = '{output}' }",
            "3:11",
            without("{output}", "the line output = true"),
        ),
    ] {
        let text = format!("[routes.r]\n{worker}\n{line}");
        assert_eq!(refused(&text), [format!("inboxd.toml:{at}: {message}")], "{text}");
    }
    for sound in [
        "start = ['x']\nenv = { A = 'b' }\nnice = 5\ngrace = '1s'\nmax_memory = '1GiB'",
        "output = true\nbody = { a = { b = ['{output}/x'] } }",
        "max_output = '1MB'\nrecords = 'lines'\nbody = { a = '{record}' }",
    ] {
        accepted(&format!("[routes.r]\n{HTTP}\n{sound}"));
    }
    let chain = "[routes.r]\nhttp = 'http://h'\nnext = 's'\n[routes.s]\ncommand = ['true']";
    assert_eq!(refused(chain), [format!("inboxd.toml:3:8: {}", untold("next"))]);
}

/// Goal: what is said of further attempts and of the pace is what can be kept.
/// Method: one line a mistake, the exact message.
#[test]
fn mistakes_in_attempts_and_pace() {
    for (line, message) in [
        ("retries = { jitter = 101 }", "3:22: `jitter` is 101; it must be 0 to 100"),
        (
            "retries = { first_wait = '10m' }",
            "3:11: `first_wait` is longer than `longest_wait`, which is 5m",
        ),
        (
            "retry_on = [3]",
            "3:12: `retry_on` has 3, and `retries` no attempt for it; add retries = { fail = 3 }",
        ),
        (
            "retry_on = ['crash', 'timeout']",
            "3:12: `retry_on` has \"timeout\", and `retries` no attempt for it; add retries = { \
                 timeout = 3 }",
        ),
        (
            "retry_on = [66]",
            "3:13: exit 66 says that the file is incomplete, and is always tried again; take 66 out",
        ),
        ("retry_on = ['crsh']", "3:13: `retry_on` = \"crsh\" is unknown; did you mean \"crash\"?"),
        ("retry_on = []", "3:12: `retry_on` is empty; write retries = 0 for no further attempt"),
        (
            "rate = '10'",
            "3:8: `rate` = \"10\" is no rate; write a number in a time, such as \"10/s\" or \
                 \"100/min\"",
        ),
        ("rate = '0/s'", "3:8: `rate` = \"0/s\": it must be 1 to 10000 in 1ms to 1day"),
        ("nice = 20", "3:8: `nice` is 20; it must be -20 to 19"),
    ] {
        let text = format!("[routes.r]\ncommand = ['true']\n{line}");
        assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{line}");
    }
}

/// Goal: a command that cannot run as meant is refused before it runs.
/// Method: one command a mistake, the exact message.
#[test]
fn mistakes_in_a_command() {
    for (command, message) in [
        (
            "'python3 count.py {path}'",
            "2:11: `command` must be a list, since no shell takes it apart: write command = \
                 [\"python3\", \"count.py\", \"{path}\"]",
        ),
        (
            "[]",
            "2:11: `command` is empty; write a list of strings, such as [\"python3\", \
                 \"count.py\", \"{path}\"]",
        ),
        ("['sh', '{pth}']", "2:18: unknown placeholder `{pth}`; did you mean `{path}`?"),
        ("['sh', 'a}']", "2:18: a single `}`; write `}}` for a plain brace"),
        (
            "['{path}']",
            "2:12: the first element is the program and has no placeholder: write its \
                 name or path",
        ),
        (
            "['wc -l {path}']",
            "2:12: no shell takes an element apart: write command = [\"wc\", \"-l\", \"{path}\"]",
        ),
        (
            "['']",
            "2:12: the first element is the program and has no placeholder: write its \
                 name or path",
        ),
        ("['sh', \"\\u0000\"]", "2:18: no program takes an argument with \\u0000"),
        (
            "['sh', 3]",
            "2:18: `command` must be a list of strings, such as [\"python3\", \"count.py\", \
                 \"{path}\"], not an integer",
        ),
        (
            "['sh', '{output}/x']",
            "2:11: `{output}` is only there with the line output = true; add it",
        ),
    ] {
        let text = format!("[routes.r]\ncommand = {command}");
        assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{command}");
    }
}

/// Goal: a route has a worker and a name that files can be called by. Method: exact messages.
#[test]
fn mistakes_in_a_header() {
    let no_worker = "has no worker: set one line, such as command = [\"sha256sum\", \"{path}\"]";
    let command = "command = ['true']";
    for (text, message) in [
        ("\n[routes.main]".to_owned(), format!("2:9: route `main` {no_worker}")),
        (
            format!("[routes.Main]\n{command}"),
            "1:9: a route cannot be called `Main`: its name is of a-z, 0-9, _ and -".to_owned(),
        ),
        (
            format!("[routes.errors]\n{command}"),
            "1:9: a route cannot be called `errors`: results/errors.csv is for failures".to_owned(),
        ),
        (
            "routes.main = 'true'".to_owned(),
            "1:15: route `main` must be a table: write [routes.main]".to_owned(),
        ),
        (
            "[routes]\nprune = true".to_owned(),
            "2:1: unknown key `prune` in [routes]; it belongs to the spool, above the first \
                 [routes.NAME] of inboxd.toml"
                .to_owned(),
        ),
    ] {
        assert_eq!(refused(&text), [format!("inboxd.toml:{message}")], "{text}");
    }
    let long = "x".repeat(limits::ROUTE_NAME + 1);
    let message = &refused(&format!("[routes.{long}]\n{command}"))[0];
    assert!(message.ends_with("its name has at most 64 letters"), "{message}");
}
