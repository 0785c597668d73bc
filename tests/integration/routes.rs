//! Routes by content, what input they take, and the command that tells: the rows C1, C2 and C3 of a system with one queue and many algorithms.
//!
//! Must not know: how a route is chosen.

use std::fs;

use rustix::process::Signal;

use crate::harness::Spool;

const ALGOS: &str = r#"
def language_detection(text: str) -> dict: return {"lang": "es" if "hola" in text else "en"}
def ocr(image_url: str, scale: int = 1):
    if image_url == "boom": raise ValueError("cannot fetch boom")
    return {"text": image_url.upper()}
def add(a: int, b: int): return {"result": a + b}
"#;

/// The text of `routes.d/NAME.toml`.
fn route(name: &str) -> String {
    format!(
        "fields = {{ algorithm = \"{name}\" }}\npython = \"algos.py:{name}\"\ncall = \"kwargs\"\n\
         interpreter = \"{}\"\nretries = 0\ntrace_columns = false\n",
        crate::harness::python()
    )
}

/// The two algorithms that there are at first.
fn algorithms() -> Spool {
    let spool = Spool::new("workers = 2\n");
    spool.write("algos.py", ALGOS);
    spool.write("routes.d/ocr.toml", &route("ocr"));
    spool.write("routes.d/language_detection.toml", &route("language_detection"));
    spool
}

const ADD: &str = r#"{"algorithm":"add","payload":{"a":1,"b":2}}"#;

/// Goal: a message goes to its algorithm, and a new algorithm is one new file. Method: the row C1.
#[test]
fn a_new_algorithm_is_one_new_file() {
    let spool = algorithms();
    let daemon = spool.daemon();
    let pid = daemon.daemon_pid();
    spool.drop_file("1.json", r#"{"algorithm":"language_detection","payload":{"text":"hola"}}"#);
    spool.drop_file("2.json", r#"{"algorithm":"ocr","payload":{"image_url":"x"}}"#);
    spool.wait_until("both are done", || spool.names("done").len() == 2);
    let text = |name: &str| fs::read_to_string(spool.path("results").join(name)).unwrap();
    assert_eq!(text("language_detection.csv"), "lang\nes\n", "{}", spool.report());
    assert_eq!(text("ocr.csv"), "text\nX\n");
    // Dropped at once: the file waits for the route that has just come.
    spool.write("routes.d/add.toml", &route("add"));
    spool.drop_file("3.json", ADD);
    spool.wait_until("it is done", || spool.path("done/3.json").exists());
    assert_eq!(text("add.csv"), "result\n3\n");
    assert_eq!(daemon.daemon_pid(), pid);
    assert_eq!(spool.errors(), Vec::<String>::new(), "{}", spool.report());
}

/// Goal: who sent a wrong message learns what is wrong with it, and it is kept as it was. Method: the
/// row C2; then the route is added and the first is tried again, and a wrong type.
#[test]
fn a_wrong_message_says_what_is_wrong() {
    let spool = algorithms();
    let cases = [
        ("add.json", ADD, "no route takes algorithm \"add\"; known: language_detection, ocr"),
        ("half.json", "{", "not valid JSON: EOF while parsing an object at line 1 column 1"),
        (
            "missing.json",
            r#"{"algorithm":"language_detection","payload":{}}"#,
            "missing field \"text\"",
        ),
        (
            "further.json",
            r#"{"algorithm":"language_detection","payload":{"text":"a","x":1}}"#,
            "unexpected field \"x\"",
        ),
        (
            "boom.json",
            r#"{"algorithm":"ocr","payload":{"image_url":"boom"}}"#,
            "ValueError: cannot fetch boom",
        ),
        ("none.json", r#"{"algorithm":"ocr"}"#, "missing field \"payload\""),
    ];
    let mut daemon = spool.daemon();
    for (name, content, _) in cases {
        spool.drop_file(name, content);
    }
    spool.wait_until("all have failed", || spool.errors().len() == cases.len());
    for (name, content, reason) in cases {
        assert_eq!(spool.reason(name), reason, "{name}\n{}", spool.report());
        let kept = fs::read_to_string(spool.path("error").join(name)).unwrap();
        assert_eq!(kept, content, "{name}");
    }
    let log = spool.run(&["log", "boom.json"]).ok().stdout();
    assert!(log.contains("Traceback") && log.contains("in ocr"), "{log}");
    spool.write("routes.d/add.toml", &route("add"));
    daemon.wait_for_log("settings reloaded routes=3");
    spool.run(&["retry", "--wait", "add.json"]).ok();
    spool.drop_file("text.json", r#"{"algorithm":"add","payload":{"a":"1","b":2}}"#);
    spool.wait_until("it failed", || spool.path("error/text.json").exists());
    assert_eq!(spool.reason("text.json"), "field \"a\": expected int, got str \"1\"");
    assert_eq!(spool.csv("add").sorted(), ["3"]);
    daemon.signal(Signal::TERM);
    daemon.wait();
}

/// Goal: the first route that takes a file has it, also where another one asks for nothing of its
/// content. Method: a route by fields between two by glob; `batch` with a source, whose copy is sorted
/// as well; messages that are no JSON.
#[test]
fn the_first_route_wins() {
    let by = |lines: &str| format!("command = [\"echo\", \"x\"]\ntrace_columns = false\n{lines}");
    let settings = format!(
        "[routes.text]\nglob = \"*.txt\"\n{}[routes.b]\nfields = {{ kind = \"b\", n = 2 }}\n{}\
         [routes.rest]\n{}",
        by(""),
        by(""),
        by("")
    );
    let spool = Spool::new(&settings);
    spool.drop_file("a.txt", r#"{"kind":"b","n":2}"#);
    spool.drop_file("b.json", r#"{"n":2,"more":[{"kind":"c"}],"kind":"b"}"#);
    spool.drop_file("c.json", r#"{"kind":"b"}"#);
    spool.drop_file("d.json", "no JSON at all");
    spool.run(&["batch"]).ok();
    spool.write_home("src/e.json", r#"{"kind":"b","n":2}"#);
    spool.write_home("src/f.json", r#"{"kind":"c","n":2}"#);
    spool.run(&["batch", "src"]).ok();
    let rows = |name: &str| spool.csv(name).rows.len();
    assert_eq!((rows("text"), rows("b"), rows("rest")), (1, 2, 3), "{}", spool.report());
}

/// Goal: what a file is for is decided anew after a kill, for claims as well. Method: a route by fields
/// whose worker hangs is killed with the daemon; its settings ask for something else at the next start.
#[test]
fn a_claimed_file_is_sorted_anew_after_a_kill() {
    let settings = |kind: &str| {
        let root = rustix::process::geteuid().is_root();
        let first = if root { "allow_root = true\n" } else { "" };
        format!(
            "{first}[routes.slow]\nfields = {{ kind = \"{kind}\" }}\ncommand = [\"sleep\", \"600\"]\n\
             [routes.fast]\nfields = {{ kind = \"a\" }}\ncommand = [\"echo\", \"x\"]\n"
        )
    };
    let spool = Spool::verbatim(&settings("a"));
    spool.drop_file("x", r#"{"kind":"a"}"#);
    let mut daemon = spool.daemon();
    spool.wait_until("it runs", || spool.processes().iter().any(|p| p.contains("sleep 600")));
    daemon.kill_all();
    spool.write("inboxd.toml", &settings("b"));
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("fast").rows.len(), 1, "{}", spool.report());
}

/// Goal: what an algorithm takes can be asked for. Method: the row C3, without a daemon and beside one.
#[test]
fn schemas_come_from_the_signature() {
    let spool = algorithms();
    let told = || -> serde_json::Value {
        let output = spool.run(&["routes", "--schemas", "--json"]).ok();
        serde_json::from_str(&output.stdout()).unwrap()
    };
    let expected = serde_json::json!({
        "type": "object",
        "properties": { "image_url": { "type": "string" }, "scale": { "type": "integer" } },
        "required": ["image_url"],
        "additionalProperties": false,
    });
    assert_eq!(told()["ocr"], expected);
    let daemon = spool.daemon();
    assert_eq!(told()["ocr"], expected);
    spool.run(&["routes", "--schemas"]).ok().says("\"image_url\"").says("language_detection");
    daemon.end();
    assert_eq!(spool.processes(), Vec::<String>::new());
    spool.write("algos.py", "import no_such_module");
    spool
        .run(&["routes", "--schemas"])
        .code(1)
        .says("route ocr cannot say it")
        .says("no_such_module");
}

/// Goal: `routes` tells the order, the selection and how each fares. Method: without a daemon, beside one,
/// beside one with a route that cannot run; as JSON.
#[test]
fn routes_are_listed_with_their_state() {
    let spool = Spool::new(
        "[routes.broken]\nglob = \"*.b\"\ncommand = [\"no-such-program\"]\n\
         [routes.by]\nglob = \"*.json\"\nfields = { kind = \"a\", n = 2 }\ncommand = [\"true\"]\n\
         [routes.rest]\ncommand = [\"cat\", \"{path}\"]\n",
    );
    let lines = || spool.run(&["routes"]).ok().stdout();
    let text = lines();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["broken", "by", "rest"]);
    assert!(text.contains("*.json with kind \"a\", n 2   → true "), "{text}");
    assert!(text.contains("no daemon runs"), "{text}");
    let _daemon = spool.daemon();
    spool.drop_file("x.b", "x");
    spool.wait_until("it pauses", || lines().contains("PAUSED"));
    let text = lines();
    assert!(text.contains("rest     every file") && text.contains("ready"), "{text}");
    assert!(text.contains("not found in PATH"), "{text}");
    let output = spool.run(&["routes", "--json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&output.stdout()).unwrap();
    assert_eq!(json["routes"][0]["state"], "PAUSED");
    assert_eq!(json["routes"][0]["waiting"], 1, "{json}");
    assert_eq!(json["routes"][1]["fields"], serde_json::json!({"kind": "a", "n": 2}));
}

/// Goal: `routes FILE` says which route takes a file and why the others do not. Method: a file beside
/// the spool, one in `incoming/`, a name that is not there, an ignored one, one that none takes.
#[test]
fn a_file_is_explained_to_its_route() {
    let spool = Spool::new(
        "[routes.text]\nglob = \"*.txt\"\ncommand = [\"true\"]\n\
         [routes.a]\nglob = \"*.json\"\nfields = { kind = \"a\" }\ncommand = [\"true\"]\n\
         [routes.b]\nglob = \"sub/*.json\"\ncommand = [\"true\"]\n",
    );
    spool.write_home("x.json", "{\"kind\":\"a\"}");
    let said = spool.run(&["routes", "x.json"]).ok().stdout();
    assert!(said.starts_with("x.json → a\n"), "{said}");
    assert!(said.contains("text   no: *.txt is another name"), "{said}");
    assert!(said.contains("b      no: sub/*.json is another name"), "{said}");
    spool.drop_file("sub/y.json", "{\"kind\":\"b\"}");
    for name in ["sub/y.json", "inbox/incoming/sub/y.json"] {
        let said = spool.run(&["routes", name]).ok().stdout();
        assert!(said.starts_with("sub/y.json → b\n"), "{said}");
        assert!(said.contains("no: no route takes kind \"b\"; known: a"), "{said}");
    }
    spool
        .run(&["routes", "none.json"])
        .code(1)
        .says("if what is in it fits: *.json with kind \"a\"");
    spool.run(&["routes", ".hidden.txt"]).code(1).says("ignored");
    spool.run(&["routes", "x.csv"]).code(1).says("x.csv → no route takes it");
}

/// Goal: no worker sees input that does not fit the route's schema, and who sent it learns all of what
/// is wrong. Method: a schema in a file and one in the settings, good and bad input; a schema that
/// is not there pauses the route, and it goes on by itself once it is.
#[test]
fn input_must_fit_the_schema() {
    let schema = r#"{"type":"object","required":["id"],"properties":{"n":{"type":"integer"}}}"#;
    let route = "command = [\"sh\", \"-c\", \"echo {name} >> seen; echo x\"]\n";
    let spool = Spool::new(&format!(
        "[routes.inline]\nglob = \"in/*\"\n{route}schema = {{ type = \"array\", maxItems = 2 }}\n\
         [routes.file]\nschema = \"schema.json\"\n{route}"
    ));
    spool.drop_file("good", r#"{"id":1,"n":2}"#);
    let daemon = spool.daemon();
    daemon.wait_for_log("schema.json");
    assert_eq!(spool.names("done"), Vec::<String>::new());
    let status = || spool.run(&["status"]).ok().stdout();
    spool.wait_until("it is said to wait", || status().contains("waiting 1 "));
    assert!(status().contains("Fix schema.json, or `schema` in [routes.file]"), "{}", status());
    spool.write("schema.json", schema);
    spool.wait_until("it goes on", || spool.names("done").len() == 1);
    spool.drop_file("bad", r#"{"n":"2"}"#);
    spool.drop_file("half", "{");
    spool.drop_file("in/good", "\u{feff}[1]");
    spool.drop_file("in/bad", "[1,2,3]");
    spool.wait_until("all ended", || spool.names("done").len() + spool.errors().len() == 5);
    assert_eq!(spool.errors(), ["bad", "half", "in/bad"], "{}", spool.report());
    let reason = spool.reason("bad");
    assert!(reason.contains("/n: \"2\" is not of type \"integer\""), "{reason}");
    assert!(reason.contains("\"id\" is a required property"), "{reason}");
    assert!(spool.reason("half").starts_with("not valid JSON: EOF while parsing"));
    assert!(spool.reason("in/bad").contains("[1,2,3]"));
    let seen = fs::read_to_string(spool.path("seen")).unwrap();
    assert_eq!(seen.lines().collect::<Vec<_>>(), ["good", "good"]);
}

/// Goal: what one route makes is the next one's input, and a retry finds the next route by its glob.
/// Method: a route that takes a file apart, one that counts the parts, of which one fails; a link stays
/// output; the daemon is killed while the parts wait; the one that failed is mended and tried again.
#[test]
fn made_files_go_to_the_next_route() {
    let spool = Spool::new(
        "workers = 2\n[routes.count]\nglob = \"**/*.made/**\"\ncommand = [\"sh\", \"count.sh\"]\nstdin = true\n\
         stdout = \"json\"\n\
         [routes.split]\nglob = \"*.txt\"\ncommand = [\"sh\", \"split.sh\", \"{path}\", \"{output}\"]\n\
         stdout = \"none\"\nnext = \"count\"\n",
    );
    spool.write(
        "split.sh",
        "mkdir $2/sub; n=0\nwhile read -r line; do n=$((n+1)); echo \"$line\" > $2/sub/$n.data; done < $1\n\
         ln -s /etc/passwd $2/link\n",
    );
    spool.write(
        "count.sh",
        "[ -e go ] || exec sleep 600\nread line; [ \"$line\" = bad ] && exit 1\n\
                 echo \"{\\\"line\\\":\\\"$line\\\"}\"\n",
    );
    spool.drop_file("a/x.txt", "one\ntwo\nbad\nfour\n");
    let mut daemon = spool.daemon();
    spool.wait_until("two parts run", || {
        spool.processes().iter().filter(|p| p.contains("sleep 600")).count() == 2
    });
    assert_eq!(spool.names("done"), ["a/x.txt"]);
    daemon.kill_all();
    spool.write("go", "");
    spool.run(&["batch"]).code(3);
    let made = |n: u32| format!("a/x.txt.made/sub/{n}.data");
    let done: Vec<String> = ["a/x.txt".to_owned(), made(1), made(2), made(4)].to_vec();
    assert_eq!(spool.names("done"), done, "{}", spool.report());
    assert_eq!(spool.errors(), [made(3)]);
    assert_eq!(spool.reason(&made(3)), "exit 1");
    assert_eq!(spool.csv("count").column("line").len(), 3);
    assert!(spool.csv("count").column("_file").contains(&made(4)));
    assert!(spool.path("output/a/x.txt/link").is_symlink());
    assert_eq!(spool.names("processing"), Vec::<String>::new());
    fs::write(spool.path("error").join(made(3)), "three\n").unwrap();
    spool.run(&["retry", &made(3)]).ok();
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("count").column("line").len(), 4);
    assert!(spool.path("done").join(made(3)).exists());
}

/// Goal: a worker that makes nothing, or takes its folder away, hands nothing on and stops nobody. Method:
/// one of each.
#[test]
fn nothing_made_is_nothing_handed_on() {
    let spool = Spool::new(
        "[routes.make]\nglob = \"*.txt\"\ncommand = [\"sh\", \"{path}\", \"{output}\"]\n\
         next = \"last\"\n[routes.last]\nglob = \"*.x\"\ncommand = [\"true\"]\n",
    );
    spool.drop_file("none.txt", "true");
    spool.drop_file("gone.txt", "rmdir $1");
    spool.drop_file("empty.txt", "mkdir -p $1/a/b");
    spool.run(&["batch"]).ok().says("3 done");
    assert_eq!(spool.names("done").len(), 3, "{}", spool.report());
    assert_eq!(fs::read_dir(spool.path("processing")).unwrap().count(), 0);
}

/// Goal: a chain that cannot work is refused where it is written. Method: no such route, a circle, one
/// in a plug-in, which stops nobody else.
#[test]
fn chains_that_cannot_work_are_refused() {
    let route = |name: &str, next: &str| {
        format!("[routes.{name}]\nglob = \"*.{name}\"\ncommand = [\"true\"]\nnext = \"{next}\"\n")
    };
    let spool = Spool::verbatim(&route("a", "b"));
    let said = spool.run(&["check"]).fails();
    said.says("inboxd.toml:4:1: route `a`: `next` = \"b\" is no route; there are a");
    let spool = Spool::new(&(route("a", "b") + &route("b", "a")));
    spool.run(&["check"]).fails().says("`next` goes round in a circle: a → b → a");
    let spool = Spool::new("[routes.a]\nglob = \"*.a\"\ncommand = [\"true\"]\n");
    spool.write("routes.d/p.toml", "glob = \"*.p\"\ncommand = [\"true\"]\nnext = \"none\"\n");
    spool.drop_file("x.a", "x");
    spool.run(&["batch"]).ok().says("routes.d/p.toml:3:1").says("is no route");
    assert_eq!(spool.names("done"), ["x.a"]);
}

/// Goal: a retry while settings cannot be read takes no file without what goes along with it: it would wait for
/// that for good. Method: a file with a sentinel; `inboxd.toml` broken, then its route's own file.
#[test]
fn a_retry_moves_nothing_that_unreadable_settings_speak_of() {
    let spool = Spool::new("workers = 1\n");
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    let route = "glob = \"*.d\"\ndone_file = \"{name}.ok\"\ncommand = [\"false\"]\n";
    std::fs::create_dir_all(spool.path("routes.d")).unwrap();
    spool.write("routes.d/sent.toml", route);
    spool.drop_file("x.d", "x");
    spool.drop_file("x.d.ok", "");
    spool.run(&["batch"]).code(3);
    let stays = || {
        assert_eq!(spool.names("error"), [".why/x.d.json", "x.d", "x.d.ok"], "{}", spool.report());
    };
    spool.write("inboxd.toml", "workers = one\n");
    spool.run(&["retry", "--all"]).code(2).says("inboxd.toml:1:11").says("Nothing was moved.");
    stays();
    spool.write("inboxd.toml", &settings);
    spool.write("routes.d/sent.toml", &route.replace("glob", "globe"));
    let said = spool.run(&["retry", "--all"]).code(1);
    said.says("no route takes x.d now, and one cannot be read").says("stays where it is");
    stays();
    spool.run(&["rerun", "x.d"]).fails();
    spool.write("routes.d/sent.toml", route);
    spool.run(&["retry", "--all", "--wait"]).code(3).says("exit 1");
    stays();
}
