//! Workers that stay: `python` and `warm`, with the real binary and real, also misbehaving, workers.
//!
//! Must not know: how a worker is started or spoken to, beyond the page of the protocol.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Spool, python, send};

/// A spool of a Python function, called once a file.
fn function(code: &str, settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 2\nrescan = \"100ms\"\n[routes.r]\ninterpreter = \"$PYTHON\"\npython = \"f.py:f\"\n{settings}"
    ));
    spool.write("f.py", code);
    spool
}

/// A spool of a warm worker written by hand: `talk` is what it does with each job `m`.
fn worker(talk: &str, settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 1\nrescan = \"100ms\"\n[routes.r]\nwarm = [\"$PYTHON\", \"w.py\"]\ntrace_columns = false\n\
         retries = 0\ngrace = \"200ms\"\n{settings}"
    ));
    let body = talk.replace('\n', "\n        ");
    spool.write(
        "w.py",
        &format!(
            r#"import json, os, socket, sys, time
open("loads.txt", "a").write("x\n")
wire = socket.socket(fileno=int(os.environ["INBOXD_FD"]))
heard, wire = wire.makefile("r", encoding="utf-8"), wire.makefile("w", encoding="utf-8")
def raw(text):
    wire.write(text)
    wire.flush()
def say(t, **fields): raw(json.dumps({{"t": t, **fields}}) + "\n")
def done(m, **more): say("result", id=m["id"], status="ok", **more)
features = []
jobs = 0
for line in iter(heard.readline, ""):
    m = json.loads(line)
    if m["t"] == "hello": say("ready", v=1, name="w", version="7", features=os.environ.get("FEATURES", "").split())
    elif m["t"] == "ping": say("pong", n=m["n"])
    elif m["t"] == "drain": break
    elif m["t"] == "job":
        jobs += 1
        name = m["name"]
        {body}
"#
        ),
    );
    spool
}

fn loads(spool: &Spool) -> usize {
    fs::read_to_string(spool.path("loads.txt")).unwrap_or_default().lines().count()
}

const COUNT: &str = r#"import json
def count(path):
    with open(path) as f:
        produce = json.load(f)["produce"]
    return {kind: sum(map(int, items.values())) for kind, items in produce.items()}
"#;

fn counting(settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 2\n[routes.count]\ninterpreter = \"$PYTHON\"\npython = \"count.py:count\"\n\
         trace_columns = false\n{settings}"
    ));
    spool.write("count.py", COUNT);
    spool
}

const SAMPLES: [&str; 6] = [
    include_str!("../../inbox/samples/file_0.json"),
    include_str!("../../inbox/samples/file_1.json"),
    include_str!("../../inbox/samples/file_2.json"),
    include_str!("../../inbox/samples/file_3.json"),
    include_str!("../../inbox/samples/file_4.json"),
    include_str!("../../inbox/samples/file_5.json"),
];

/// Goal: the sample's table, from a function named in one line. Method: six files, the CSV as a set.
#[test]
fn one_function_makes_the_table() {
    let spool = counting("");
    for (n, sample) in SAMPLES.iter().enumerate() {
        spool.drop_file(format!("file_{n}.json"), sample);
    }
    spool.run(&["batch"]).ok();
    let text = fs::read_to_string(spool.path("results/count.csv")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.remove(0), "fruits,vegetables,meat");
    lines.sort_unstable();
    let want = ["21,1539,79", "3939,58,14", "5666,15,15", "60,58,14", "60,58,14", "6456,3743,14"];
    assert_eq!(lines, want, "{}", spool.report());
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a run killed with its workers goes on where it was, each file once. Method: 60 files of 0.15 s,
/// kill -9 at 20 done, `batch` again.
#[test]
fn a_killed_run_goes_on() {
    let spool =
        function("import time\ndef f(path):\n    time.sleep(0.15)\n    return {'a': 1}\n", "");
    for n in 0..60 {
        spool.drop_file(format!("{n}.txt"), "x");
    }
    let mut first = spool.start(&["batch"]);
    spool.wait_until("20 done", || spool.names("done").len() >= 20);
    first.signal(Signal::KILL);
    first.wait();
    spool.run(&["batch"]).ok();
    let mut files = spool.csv("r").column("_file");
    files.sort();
    let rows = files.len();
    files.dedup();
    assert_eq!((rows, files.len()), (60, 60), "{}", spool.report());
}

/// Goal: a file that ends its worker is charged, found and set aside, its neighbours are not.
/// Method: ten files, on one `os._exit(139)`, one further attempt for a crash.
#[test]
fn a_crasher_harms_only_itself() {
    let spool = function(
        "import os\ndef f(path):\n    if 'bad' in path: os._exit(139)\n    return {'a': 1}\n",
        "retries = { crash = 1 }\n",
    );
    for n in 0..9 {
        spool.drop_file(format!("{n}.txt"), "x");
    }
    spool.drop_file("bad.txt", "x");
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.csv("r").column("_file").len(), 9);
    assert_eq!(spool.reason("bad.txt"), "exit 139");
    assert_eq!(spool.why("bad.txt")["attempts"], 2, "{}", spool.report());
}

/// Goal: columns follow names, not order. Method: one dict, then the same keys in another order, then
/// one missing.
#[test]
fn columns_go_by_name() {
    let spool = function(
        "import json\ndef f(path): return json.load(open(path))\n",
        "workers = 1\ntrace_columns = false\n",
    );
    spool.drop_file("1", r#"{"fruits":60,"vegetables":58,"meat":14}"#);
    spool.run(&["batch"]).ok();
    spool.drop_file("2", r#"{"meat":1,"fruits":2,"vegetables":3}"#);
    spool.run(&["batch"]).ok();
    spool.drop_file("3", r#"{"meat":9,"fruits":8}"#);
    spool.run(&["batch"]).ok();
    let text = fs::read_to_string(spool.path("results/r.csv")).unwrap();
    assert_eq!(text, "fruits,vegetables,meat\n60,58,14\n2,3,1\n8,,9\n");
}

/// Goal: an exception is the reason in its own words, its traceback is kept and names the user's file.
/// Method: a truncated file.
#[test]
fn an_exception_is_the_reason() {
    let spool = counting("");
    spool.drop_file("truncated.json", "{\"produce\": \n");
    spool.run(&["batch"]).code(3);
    assert_eq!(
        spool.reason("truncated.json"),
        "JSONDecodeError: Expecting value: line 2 column 1 (char 13)"
    );
    let why = spool.why("truncated.json").to_string();
    assert!(why.contains("count.py\\\", line 4, in count"), "{why}");
    assert!(!why.contains("<inboxd>"), "{why}");
}

/// Goal: a module is loaded once a worker, not once a file. Method: 2 s at import, 20 files, 2 workers.
#[test]
fn a_module_is_loaded_once_a_worker() {
    let spool = function(
        "import time\ntime.sleep(2)\nopen('loads.txt', 'a').write('x\\n')\n\
         def f(path):\n    time.sleep(0.01)\n    return {'a': 1}\n",
        "",
    );
    for n in 0..20 {
        spool.drop_file(format!("{n}.txt"), "x");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(loads(&spool), 2, "{}", spool.report());
    assert_eq!(spool.csv("r").column("a").len(), 20);
}

/// Goal: after a crash of the daemon the old workers are gone before the jobs run again.
/// Method: kill -9 with three in work; each call notes whether another process holds its file.
#[test]
fn old_workers_are_gone_before_jobs_run_again() {
    let spool =
        Spool::new("workers = 3\n[routes.r]\ninterpreter = \"$PYTHON\"\npython = \"f.py:f\"\n");
    spool.write(
        "f.py",
        // A zombie that nobody reaps yet runs no more.
        "import os, time\ndef runs(pid):\n    try: return open(f'/proc/{pid}/stat').read().rsplit(')')[-1].split()[0] != 'Z'\n\
         \x20   except OSError: return False\n\
         def f(path):\n    name = os.path.basename(path)\n    old = name + '.pid'\n\
         \x20   alive = os.path.exists(old) and runs(open(old).read())\n\
         \x20   if os.environ['INBOXD_ATTEMPT'] == '1':\n        open(old, 'w').write(str(os.getpid()))\n        time.sleep(600)\n\
         \x20   return {'alive': alive, 'attempt': int(os.environ['INBOXD_ATTEMPT'])}\n",
    );
    for n in 0..3 {
        spool.drop_file(format!("{n}"), "x");
    }
    let mut first = spool.start(&["batch"]);
    spool.wait_until("three run", || (0..3).all(|n| spool.path(&format!("{n}.pid")).exists()));
    send(first.daemon_pid(), Signal::KILL);
    first.wait();
    spool.run(&["batch"]).ok();
    let csv = spool.csv("r");
    assert_eq!(csv.column("alive"), ["false"; 3], "{}", spool.report());
    assert_eq!(csv.column("attempt"), ["2"; 3]);
}

/// Goal: a hung call ends in time, and the next file has a fresh worker. Method: two hang, one works.
#[test]
fn a_hung_call_ends_in_time() {
    let spool = function(
        "import time\ndef f(path):\n    if 'hang' in path: time.sleep(600)\n    return {'a': 1}\n",
        "timeout = \"1s\"\nretries = 0\n",
    );
    for name in ["hang1", "hang2", "z"] {
        spool.drop_file(name, "x");
    }
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.reason("hang1"), "timed out after 1s");
    assert_eq!(spool.names("done"), ["z"]);
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: what is printed is the job's log and never a row, also by C code and child processes.
/// Method: print, a write past Python, a child; the job log has the lines, in the job that printed them.
#[test]
fn prints_belong_to_their_job() {
    let spool = function(
        "import os, sys, ctypes\ndef f(path):\n    n = os.path.basename(path)\n\
         \x20   print('said by', n)\n    print('err of', n, file=sys.stderr)\n\
         \x20   ctypes.CDLL(None).printf(b'from C %s\\n', n.encode())\n\
         \x20   os.system('echo child of ' + n)\n    return {'n': n}\n",
        "workers = 1\n",
    );
    for n in 0..5 {
        spool.drop_file(format!("{n}"), "x");
    }
    spool.run(&["batch"]).ok();
    let log = fs::read_dir(spool.path("log")).unwrap();
    let text: String = log.map(|e| fs::read_to_string(e.unwrap().path()).unwrap()).collect();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    for line in lines {
        let (rel, out) = (line["rel"].as_str().unwrap(), line["stdout"].as_str().unwrap());
        for said in ["said by", "from C", "child of"] {
            assert!(out.contains(&format!("{said} {rel}\n")), "{line}");
        }
        assert_eq!(line["stderr"], format!("err of {rel}\n"));
        assert_eq!(out.lines().count(), 3, "{line}");
    }
}

/// Goal: `sys.exit` means what the exit codes of a command mean, and the worker lives on.
/// Method: one file a code, one worker, loads counted.
#[test]
fn exit_codes_mean_what_they_mean() {
    let spool = function(
        "import os, sys\nopen('loads.txt', 'a').write('x\\n')\n\
         def f(path):\n    n = os.path.basename(path)\n    sys.exit(int(n) if n.isdigit() else n)\n",
        "workers = 1\nretries = { fail = 0, try_again = 1 }\ntry_again_after = \"10ms\"\n",
    );
    for name in ["0", "3", "65", "69", "75", "text"] {
        spool.drop_file(name, "x");
    }
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["0"], "{}", spool.report());
    for (name, reason, attempts) in [
        ("3", "exit 3", 1),
        ("65", "exit 65", 1),
        ("69", "exit 69", 2),
        ("75", "exit 75", 2),
        ("text", "exit 1: text", 1),
    ] {
        assert_eq!(spool.reason(name), reason);
        assert_eq!(spool.why(name)["attempts"], attempts, "{name}");
    }
    assert_eq!(loads(&spool), 1);
}

/// Goal: a route whose module cannot be loaded pauses with the reason and the remedy, its files stay,
/// and it works once mended. Method: an unknown module, then other mistakes, then the mended file.
#[test]
fn what_cannot_be_loaded_pauses_the_route() {
    let spool = function("import nonsense_that_is_not_there\n", "");
    spool.drop_file("a", "x");
    let said = spool.run(&["batch"]).code(1);
    said.says("ModuleNotFoundError: No module named 'nonsense_that_is_not_there'")
        .says("interpreter");
    for (code, why) in [
        ("def f(:\n", "SyntaxError"),
        ("g = 1\n", "f.py has no function f"),
        ("f = 1\n", "f in f.py is not a function"),
        ("async def f(path): pass\n", "is async"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ] {
        spool.write("f.py", code);
        spool.run(&["batch"]).code(1).says(why);
    }
    assert_eq!(spool.errors(), Vec::<String>::new());
    spool.write("f.py", "def f(path): return {'a': 1}\n");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a"], "{}", spool.report());
}

/// Goal: a mended file is used at once by a daemon that runs. Method: broken, dropped, mended, dropped.
#[test]
fn a_changed_file_is_used_at_once() {
    let spool = function("def f(path): return {'a': 1}\n", "workers = 1\ntrace_columns = false\n");
    let _daemon = spool.daemon();
    for n in 0..4 {
        spool.write("f.py", &format!("def f(path): return {{'a': {n}}}\n"));
        spool.drop_file(format!("{n}"), "x");
        spool.wait_until("done", || spool.names("done").len() == n + 1);
    }
    assert_eq!(spool.csv("r").column("a"), ["0", "1", "2", "3"], "{}", spool.report());
}

/// Goal: a virtual environment is used by naming its interpreter. Method: a venv without pip.
#[test]
fn a_virtual_environment_is_used() {
    let spool = Spool::new("[routes.r]\ninterpreter = \".venv/bin/python\"\npython = \"f.py:f\"\n");
    let made = std::process::Command::new(python())
        .args(["-m", "venv", "--without-pip"])
        .arg(spool.path(".venv"))
        .status()
        .unwrap();
    assert!(made.success());
    spool.write("f.py", "import sys\ndef f(path): return {'prefix': sys.prefix}\n");
    spool.drop_file("a", "x");
    spool.run(&["batch"]).ok();
    let venv = fs::canonicalize(spool.path(".venv")).unwrap().display().to_string();
    assert_eq!(spool.csv("r").column("prefix"), [venv]);
}

/// Goal: any name arrives whole, and what Python makes of it comes back as the same bytes.
/// Method: names that are not UTF-8, with a newline, with spaces.
#[test]
fn any_name_reaches_the_function() {
    let spool = function(
        "import os\ndef f(path):\n    assert open(path).read() == 'x'\n\
         \x20   assert os.environ['INBOXD_PATH'] == path\n    return {'n': os.path.basename(path)}\n",
        "trace_columns = false\n",
    );
    for name in [&b"\xff\xfe.x"[..], b"new\nline", b"a b", "ü".as_bytes(), b"-x"] {
        spool.drop_file(name, "x");
    }
    spool.run(&["batch"]).ok();
    let bytes = fs::read(spool.path("results/r.csv")).unwrap();
    assert!(bytes.windows(4).any(|w| w == b"\xff\xfe.x"), "{}", spool.report());
    assert_eq!(spool.names("done").len(), 5);
}

/// Goal: what is returned becomes rows as `csv` would write it, and what is no row is said.
/// Method: one function a kind, chosen by the file's name.
#[test]
fn returns_become_rows() {
    let spool = function(
        "import os, datetime\nclass Scalar:\n    shape = ()\n    def item(self): return 7\n\
         \x20   def tolist(self): return 7\nclass Long(Scalar):\n    def item(self): return self\n\
         \x20   def __str__(self): return '1.5'\nclass Nano(Scalar):\n    class dtype: kind = 'M'\n\
         \x20   def __str__(self): return '2024-02-29T00:00'\ndef f(path):\n    return {\n\
         \x20   'none': None, 'empty': [], 'two': [{'a': 1}, {'a': 2}], 'text': 'no', 'mixed': [{}, 1],\n\
         \x20   'kinds': {'a': float('nan'), 'b': datetime.date(2024, 2, 29), 'c': Scalar(), 'd': None,\n\
         \x20             'e': True, 'f': [1, {'x': float('inf')}], 'g': 1.50, 'h': 'ü', 'i': Long(),\n\
         \x20             'j': Nano()},\n\
         \x20   'full': [{'a': n} for n in range(100000, 300000)],\n\
         \x20   'many': [{'a': 'x' * 1000}] * 3000}[os.path.basename(path)]\n",
        "workers = 1\ntrace_columns = false\nretries = 0\n",
    );
    for name in ["none", "empty", "text", "mixed"] {
        spool.drop_file(name, "x");
    }
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["empty", "none"], "{}", spool.report());
    assert_eq!(spool.reason("text"), "returned str, expected dict, list of dicts or None");
    assert!(spool.reason("mixed").starts_with("returned a list with int"));
    spool.drop_file("kinds", "x");
    spool.run(&["batch"]).ok();
    let text = fs::read_to_string(spool.path("results/r.csv")).unwrap();
    let want = "a,b,c,d,e,f,g,h,i,j\n\
        nan,2024-02-29,7,,true,\"[1,{\"\"x\"\":\"\"inf\"\"}]\",1.5,ü,1.5,2024-02-29T00:00\n";
    assert_eq!(text, want);
    spool.drop_file("many", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").column("a").len(), 3001);
    // So many rows of 13 bytes fill a line of the protocol to its last byte.
    spool.drop_file("full", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").column("a").len(), 203_001);
}

/// Goal: a worker that stays for millions of jobs does not grow with them: the C library keeps each value that a
/// variable ever had. Method: a function that tells its memory, early and after 40,000 records.
#[test]
fn a_function_may_stay_for_long() {
    let spool = function(
        "def f(line):\n    return {'kib': int(open('/proc/self/statm').read().split()[1]) * 4}\n",
        "records = \"lines\"\nworkers = 1\ntrace_columns = false\n",
    );
    let lines: Vec<String> = (0..40_000).map(|n| n.to_string()).collect();
    spool.drop_file("x", lines.join("\n"));
    spool.run(&["batch"]).ok();
    let kib: Vec<u64> = spool.csv("r").column("kib").iter().map(|it| it.parse().unwrap()).collect();
    let (early, late) = (kib[5_000], kib[kib.len() - 1]);
    assert!(late < early + 1_000, "{early} KiB became {late} KiB");
}

/// Goal: a file that is called like a module of Python's own breaks no route, not even its own.
/// Method: the functions of two routes in files that the shim would import in place of the library's.
#[test]
fn a_file_called_like_a_module_breaks_no_route() {
    let spool = function(
        "import os\ndef f(path): return {'a': os.environ['INBOXD_REL']}\n",
        "glob = \"x\"\ntrace_columns = false\n\
         [routes.json]\ninterpreter = \"$PYTHON\"\npython = \"json.py:f\"\nglob = \"y\"\ntrace_columns = false\n",
    );
    for name in ["json.py", "socket.py"] {
        spool.write(name, "def f(path): return {'a': 1}\n");
    }
    for name in ["x", "y"] {
        spool.drop_file(name, "x");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").sorted(), ["x"], "{}", spool.report());
    assert_eq!(spool.csv("json").sorted(), ["1"]);
}

/// Goal: `kwargs` checks what it is given, says all that is wrong at once, and honours defaults.
/// Method: one file a mistake.
#[test]
fn kwargs_are_checked() {
    let spool = function(
        "from typing import List\n\
         def f(text: str, n: int = 2, x: float = 1.0, tags: List[str] = None, free=None) -> dict:\n\
         \x20   return {'text': text, 'n': n, 'x': x}\n",
        "call = \"kwargs\"\ntrace_columns = false\nretries = 0\n",
    );
    for (name, content, reason) in [
        ("missing", "{}", "missing field \"text\""),
        ("more", r#"{"text":"a","y":1}"#, "unexpected field \"y\""),
        ("type", r#"{"text":"a","n":"7"}"#, "field \"n\": expected int, got str \"7\""),
        ("bool", r#"{"text":"a","n":true}"#, "field \"n\": expected int, got bool true"),
        ("list", r#"{"text":"a","tags":"x"}"#, "field \"tags\": expected list, got str \"x\""),
        (
            "all",
            r#"{"n":"7","y":1}"#,
            "missing field \"text\"; field \"n\": expected int, got str \"7\"; unexpected field \"y\"",
        ),
        ("array", "[1]", "the file is not a JSON object but list"),
    ] {
        spool.drop_file(name, content);
        spool.run(&["batch"]).code(3);
        assert_eq!(spool.reason(name), reason);
    }
    spool.drop_file("good", r#"{"text":"a","x":3,"free":[1]}"#);
    spool.run(&["batch"]).ok();
    let text = fs::read_to_string(spool.path("results/r.csv")).unwrap();
    assert_eq!(text, "text,n,x\na,2,3.0\n");
    spool.write("f.py", "def f(*args): pass\n");
    spool.drop_file("z", "{}");
    spool.run(&["batch"]).code(1).says("cannot fill *args");
}

/// Goal: a function may use processes of its own. Method: a pool in the function; then the next job.
#[test]
fn a_function_may_fork() {
    let spool = function(
        "import multiprocessing, os\ndef g(n): return n * n\ndef f(path):\n\
         \x20   with multiprocessing.get_context('fork').Pool(2) as pool: found = pool.map(g, range(5))\n\
         \x20   return {'sum': sum(found)}\n",
        "workers = 1\ntrace_columns = false\n",
    );
    for n in 0..3 {
        spool.drop_file(format!("{n}"), "x");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").column("sum"), ["30"; 3]);
}

/// Goal: the whole worker of the protocol's page works as printed; that it reads and writes one file is of
/// no harm as long as nothing is read ahead. Method: its text, two files.
#[test]
fn the_worker_of_the_page() {
    let spool =
        Spool::new("[routes.r]\nwarm = [\"$PYTHON\", \"size.py\"]\ntrace_columns = false\n");
    spool.write(
        "size.py",
        r#"import json, os, socket
wire = socket.socket(fileno=int(os.environ["INBOXD_FD"])).makefile("rw", encoding="utf-8")
def say(t, **fields):
    wire.write(json.dumps({"t": t, **fields}) + "\n")
    wire.flush()
for line in iter(wire.readline, ""):
    m = json.loads(line)
    if m["t"] == "hello": say("ready", v=1, name="size")
    elif m["t"] == "ping": say("pong", n=m["n"])
    elif m["t"] == "drain": break
    elif m["t"] == "job":
        try: row = {"file": m["rel"], "bytes": os.stat(m["path"]).st_size}
        except Exception as e: say("result", id=m["id"], status="fail", msg=repr(e)); continue
        say("rows", id=m["id"], seq=0, rows=[row])
        say("result", id=m["id"], status="ok", rows=1, chunks=1)
"#,
    );
    spool.drop_file("a/x", "four");
    spool.drop_file("b", "");
    spool.run(&["batch"]).ok();
    let mut rows = fs::read_to_string(spool.path("results/r.csv")).unwrap();
    rows = rows.lines().skip(1).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(rows, "a/x,4b,0");
}

/// Goal: a shell can be a worker. Method: `read` from and `echo` to the number in `INBOXD_FD`, which is 3
/// unless whoever started inboxd left that one open, as a test beside this one may.
#[test]
fn a_shell_can_be_a_worker() {
    let spool = Spool::new("[routes.r]\nwarm = [\"sh\", \"w.sh\"]\n");
    spool.write(
        "w.sh",
        "[ \"$INBOXD_PROTO\" = inboxd-worker/1 ] || exit 9\n\
         while read -r line <&$INBOXD_FD; do case $line in\n\
         *'\"t\":\"hello\"'*) echo '{\"t\":\"ready\",\"v\":1}' >&$INBOXD_FD ;;\n\
         *'\"t\":\"job\"'*) id=${line#*\\\"id\\\":\\\"}; id=${id%%\\\"*}\n\
         echo noise; echo \"{\\\"t\\\":\\\"result\\\",\\\"id\\\":\\\"$id\\\",\\\"status\\\":\\\"ok\\\"}\" >&$INBOXD_FD ;;\n\
         *'\"t\":\"drain\"'*) exit 0 ;; esac; done\n",
    );
    spool.drop_file("a", "x");
    spool.drop_file("b", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.names("done"), ["a", "b"], "{}", spool.report());
}

/// Goal: stdin and stdout do as well, with noise between the records. Method: the same function, and a
/// print at every job.
#[test]
fn stdio_with_noise() {
    let spool = function(
        "import os\ndef f(path):\n    os.write(1, b'half a line')\n    print('noise')\n    return {'a': 1}\n",
        "transport = \"stdio\"\ntrace_columns = false\n",
    );
    for n in 0..20 {
        spool.drop_file(format!("{n}"), "x");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").column("a").len(), 20, "{}", spool.report());
}

/// Goal: each line of the protocol's table of violations has its consequence for the job.
/// Method: a worker that does one wrong thing with the file `bad`, and right with the next: the reason,
/// and whether the worker was replaced.
#[test]
fn violations_have_their_consequences() {
    for (wrong, reason, kept) in [
        ("raw('x' * (2 << 20) + '\\n')", "protocol: a line of more than 1048576 bytes: xxx", false),
        ("raw('nonsense\\n')", "protocol: not a JSON object: nonsense", false),
        ("raw('[1]\\n')", "protocol: not a JSON object: [1]", false),
        ("say('result', id=m['id'])", "protocol: missing field `status`", false),
        ("say('result', id=7, status='ok')", "protocol: invalid type", false),
        ("done(m, rows=1)", "rows: the result says 1 rows in 0 chunks, 0 in 0 came", true),
        (
            "say('rows', id=m['id'], seq=1, rows=[]); done(m)",
            "rows: seq 1 came where 0 is due",
            true,
        ),
        (
            "say('rows', id=m['id'], seq=0, rows=[[1]]); done(m, rows=1, chunks=1)",
            "rows: a list as a row needs",
            true,
        ),
        (
            "say('rows', id=m['id'], seq=0, rows=[{'a': 'x' * 2000}]); done(m, rows=1, chunks=1)",
            "rows: more than max_staged (1.0 KiB): raise",
            true,
        ),
        (
            "say('rows', id=m['id'], seq=0, file='../x', bytes=1, count=1, sha256='0'); done(m, rows=1, chunks=1)",
            "rows: file ../x is not beneath the scratch folder",
            true,
        ),
        ("os._exit(0)", "exit 0 without a result", false),
        ("sys.stderr.write('why\\n'); sys.stderr.flush(); os._exit(3)", "exit 3: why", false),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL, not by inboxd: out of memory?", false),
        (
            "os.dup2(os.open('/dev/null', 0), 3); time.sleep(600)",
            "the worker closed its connection without a result",
            false,
        ),
        ("time.sleep(600)", "timed out after 4s", false),
    ] {
        let spool = worker(
            &format!("if name == 'bad': {wrong}\nelse: done(m)"),
            "timeout = \"4s\"\nmax_staged = \"1 KiB\"\n",
        );
        spool.drop_file("bad", "x");
        spool.run(&["batch"]).code(3);
        let said = spool.reason("bad");
        assert!(said.starts_with(reason), "{wrong}: {said}");
        fs::write(spool.path("loads.txt"), "").unwrap();
        let mut daemon = spool.daemon();
        spool.drop_file("good1", "x");
        spool.wait_until("good1", || spool.path("done/good1").exists());
        rustix::fs::rename(spool.path("error/bad"), spool.path("incoming/bad")).unwrap();
        spool.wait_until("bad again", || spool.path("error/bad").exists());
        spool.drop_file("good2", "x");
        spool.wait_until("good2", || spool.path("done/good2").exists());
        assert_eq!(loads(&spool), if kept { 1 } else { 2 }, "{wrong}\n{}", spool.report());
        daemon.signal(Signal::TERM);
        daemon.wait();
        assert_eq!(spool.processes(), Vec::<String>::new(), "{wrong}");
    }
}

/// Goal: what is of no harm is ignored, and the job is done. Method: a result twice, one for another
/// job, rows for another job, an unknown type, an unknown field, a log message.
#[test]
fn what_is_of_no_harm_is_ignored() {
    let spool = worker(
        "say('result', id='other', status='ok')\nsay('rows', id='other', seq=0, rows=[])\n\
         say('later', x=1)\nsay('log', id=m['id'], level='warn', msg='odd', kv={'dpi': 71})\n\
         say('rows', id=m['id'], seq=0, rows=[{'a': 1}], later=1)\n\
         done(m, rows=1, chunks=1)\ndone(m, rows=1, chunks=1)",
        "",
    );
    for n in 0..3 {
        spool.drop_file(format!("{n}"), "x");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").column("a"), ["1"; 3], "{}", spool.report());
    assert_eq!(loads(&spool), 1);
    let log = fs::read_to_string(spool.path("log/jobs.1.ndjson")).unwrap_or_default();
    assert!(log.is_empty() || log.contains("warn: odd dpi=71"), "{log}");
}

/// Goal: a worker that does not come up pauses its route and charges no job. Method: each way not to.
#[test]
fn failed_starts_pause_the_route() {
    for (code, why) in [
        ("say('ready', v=2)", "it speaks version 2 of the protocol, not 1"),
        (
            "say('init_error', **{'class': 'permanent', 'msg': 'model.bin is missing'})",
            "model.bin is missing",
        ),
        ("os._exit(127)", "exit 127"),
    ] {
        let spool = Spool::new("[routes.r]\nwarm = [\"$PYTHON\", \"w.py\"]\n");
        spool.write("w.py", &format!(
            "import json, os, socket\nwire = socket.socket(fileno=int(os.environ['INBOXD_FD'])).makefile('rw')\n\
             def say(t, **f):\n    wire.write(json.dumps(dict(f, t=t)) + '\\n'); wire.flush()\n{code}\n"));
        spool.drop_file("a", "x");
        spool.run(&["batch"]).code(1).says(why);
        assert_eq!((spool.errors(), spool.names("done")), (vec![], vec![]), "{code}");
    }
    let spool = Spool::new("[routes.r]\nwarm = [\"no-such-program\"]\n");
    spool.drop_file("a", "x");
    spool.run(&["batch"]).code(1).says("cannot start \"no-such-program\": not found in PATH=");
}

/// Goal: a start that fails now and then is tried again and charges nothing. Method: the first two
/// starts exit, the third works.
#[test]
fn a_start_that_fails_is_tried_again() {
    let spool = worker("done(m)", "");
    let text = fs::read_to_string(spool.path("w.py")).unwrap();
    let early = "import os\nn = len(open('starts.txt').read()) if os.path.exists('starts.txt') else 0\n\
                 open('starts.txt', 'a').write('x')\nif n < 2: os._exit(1)\n";
    spool.write("w.py", &format!("{early}{text}"));
    spool.drop_file("a", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(fs::read_to_string(spool.path("starts.txt")).unwrap(), "xxx");
}

/// Goal: a worker is replaced when it is due, and its successor is ready before it goes. Method:
/// `max_jobs` of 10 and 40 jobs; the loads tell how many workers there were.
#[test]
fn workers_are_replaced() {
    for overlap in [true, false] {
        let spool =
            worker("time.sleep(0.03)\ndone(m)", &format!("max_jobs = 10\noverlap = {overlap}\n"));
        for n in 0..40 {
            spool.drop_file(format!("{n}"), "x");
        }
        spool.run(&["batch"]).ok();
        let loads = loads(&spool);
        assert!((3..=7).contains(&loads), "{loads} workers, overlap {overlap}");
        assert_eq!(spool.processes(), Vec::<String>::new());
    }
}

/// Goal: a worker that is too old or holds too much memory is replaced after its job, and no job suffers.
/// Method: an age and a size that every worker exceeds with its first job; six jobs.
#[test]
fn old_and_large_workers_are_replaced() {
    for limit in ["max_age = \"1ms\"", "max_rss = \"1 MiB\""] {
        let spool = worker("time.sleep(0.01)\ndone(m)", &format!("{limit}\noverlap = false\n"));
        for n in 0..6 {
            spool.drop_file(format!("{n}"), "x");
        }
        spool.run(&["batch"]).ok();
        assert_eq!(spool.names("done").len(), 6, "{limit}");
        let loads = loads(&spool);
        assert!(loads >= 3, "{loads} workers with {limit}");
        assert_eq!(spool.processes(), Vec::<String>::new());
    }
}

/// Goal: a worker that dies between two jobs is charged to none, even where the next one is already on its
/// way to it; one that never comes to read is. Method: no budget for a crash, forty files, and a worker
/// that ends after each result; one that ends when it is ready.
#[test]
fn a_death_between_two_jobs_charges_none() {
    for transport in ["fd", "stdio"] {
        let settings = format!("transport = \"{transport}\"\n");
        let talk = "done(m)\nos._exit(7)";
        let spool = worker(talk, &settings);
        let text = fs::read_to_string(spool.path("w.py")).unwrap();
        let piped = text
            .replace("wire = socket.socket(fileno=int(os.environ[\"INBOXD_FD\"]))\n", "")
            .replace("wire.makefile(\"r\", encoding=\"utf-8\")", "sys.stdin")
            .replace("wire.makefile(\"w\", encoding=\"utf-8\")", "sys.stdout")
            .replace("wire.write(text)", "wire.write('\\x1e' + text)");
        let text = if transport == "fd" { text } else { piped };
        spool.write("w.py", &text);
        for n in 0..40 {
            spool.drop_file(format!("{n}"), "x");
        }
        spool.run(&["batch"]).ok();
        assert_eq!((spool.names("done").len(), loads(&spool)), (40, 40), "{}", spool.report());
        let features = ", features=os.environ.get(\"FEATURES\", \"\").split())";
        assert!(text.contains(features));
        spool.write("w.py", &text.replace(features, "); os._exit(7)"));
        fs::write(spool.path("loads.txt"), "").unwrap();
        spool.drop_file("never", "x");
        spool.run(&["batch"]).code(3);
        assert!(spool.reason("never").starts_with("exit 7"), "{}", spool.reason("never"));
        assert!(loads(&spool) <= 3, "{}", spool.report());
    }
}

/// Goal: an idle worker does not stay for ever where the route says so, and comes back for the next
/// job. Method: a short time; its process is gone; another file.
#[test]
fn idle_workers_end() {
    let spool = worker("done(m)", "idle_timeout = \"100ms\"\n");
    let _daemon = spool.daemon();
    let workers = || spool.processes().iter().filter(|p| p.contains("w.py")).count();
    for n in 1..=2 {
        spool.drop_file(format!("{n}"), "x");
        spool.wait_until("done", || spool.names("done").len() == n);
        spool.wait_until("no worker", || workers() == 0);
        assert_eq!(loads(&spool), n);
    }
}

/// Goal: `cancel` gives a worker the chance to stop a job without dying. Method: a worker that answers
/// it; a file that takes too long; the same worker does the next.
#[test]
fn cancel_is_heard() {
    let spool = worker(
        "if name != 'slow': done(m); continue\nc = json.loads(heard.readline())\n\
         assert c['t'] == 'cancel' and c['reason'] == 'timeout', c\n\
         say('result', id=m['id'], status='fail', msg='cancelled by ' + c['reason'])",
        "timeout = \"300ms\"\nenv = { FEATURES = \"cancel\" }\n",
    );
    let _daemon = spool.daemon();
    spool.drop_file("slow", "x");
    spool.wait_until("slow", || spool.path("error/slow").exists());
    spool.drop_file("next", "x");
    spool.wait_until("next", || spool.path("done/next").exists());
    assert_eq!(spool.reason("slow"), "cancelled by timeout");
    assert_eq!(loads(&spool), 1);
}

/// Goal: progress keeps a slow job alive, and its absence ends it. Method: one that tells, one that stops.
#[test]
fn progress_keeps_a_job_alive() {
    let spool = worker(
        "for n in range(8):\n    time.sleep(0.1)\n    if name == 'tells': say('progress', id=m['id'], done=n)\n\
         if name != 'tells': time.sleep(600)\ndone(m)",
        "progress_timeout = \"500ms\"\nenv = { FEATURES = \"progress\" }\n",
    );
    spool.drop_file("tells", "x");
    spool.drop_file("silent", "x");
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.names("done"), ["tells"], "{}", spool.report());
    assert_eq!(spool.reason("silent"), "no progress for 500ms");
}

/// Goal: a worker that never reads is ended. Method: a hello larger than a socket holds.
#[test]
fn a_worker_that_does_not_read_is_ended() {
    let big = "x".repeat(900_000);
    let spool = Spool::new(&format!(
        "[routes.r]\nwarm = [\"sleep\", \"600\"]\ngrace = \"100ms\"\nconfig = {{ big = \"{big}\" }}\n"
    ));
    spool.drop_file("a", "x");
    let mut daemon = spool.daemon();
    let is_up = || spool.processes().iter().any(|p| p.contains("sleep 600"));
    spool.wait_until("it is started", is_up);
    spool.wait_until("it is ended", || !is_up());
    daemon.signal(Signal::TERM);
    daemon.wait();
    assert_eq!(spool.processes(), Vec::<String>::new());
}

/// Goal: a drain lets jobs finish and leaves no worker. Method: TERM while a job runs.
#[test]
fn a_drain_leaves_no_worker() {
    let spool =
        worker("open('up', 'w')\nwhile not os.path.exists('go'): time.sleep(0.01)\ndone(m)", "");
    let mut daemon = spool.daemon();
    spool.drop_file("a", "x");
    spool.wait_until("it runs", || spool.path("up").exists());
    daemon.signal(Signal::TERM);
    spool.write("go", "");
    daemon.wait();
    assert_eq!(spool.names("done"), ["a"], "{}", spool.report());
    assert_eq!(spool.processes(), Vec::<String>::new());
}
