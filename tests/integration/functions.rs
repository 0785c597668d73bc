//! A function of a Python file, in a process that stays, with the real binary and a real Python.
//!
//! Must not know: how a worker is started or spoken to.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Spool, python, send};
use crate::workers::loads;

/// A spool of a Python function, called once a file.
fn function(code: &str, settings: &str) -> Spool {
    let spool = Spool::new(&format!(
        "workers = 2\nrescan = \"100ms\"\n[routes.r]\ninterpreter = \"$PYTHON\"\npython = \"f.py:f\"\n{settings}"
    ));
    spool.write("f.py", code);
    spool
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

/// Goal: an input whose route reads records of another kind by now goes on with a worker that stays, also beside
/// an input of the new kind. Method: a change while the first record runs, one slot, loads counted.
#[test]
fn what_was_begun_keeps_its_worker_when_the_kind_of_records_changes() {
    let spool = function(
        "import os, time\nopen('loads.txt', 'a').write('x\\n')\n\
         def f(a):\n    open('begun', 'w').close()\n    \
             while not os.path.exists('go'): time.sleep(0.01)\n    \
             return {'a': a}\n",
        "records = \"csv\"\nworkers = 1\n",
    );
    let daemon = spool.daemon();
    let ids = "x\n".repeat(60);
    spool.drop_file("old", "a\n".to_owned() + &ids);
    spool.wait_until("its first record is begun", || spool.has("begun"));
    let settings = std::fs::read_to_string(spool.path("inboxd.toml")).unwrap();
    spool.write("inboxd.toml", &settings.replace("\"csv\"", "\"lines\""));
    daemon.wait_for_log("settings reloaded");
    spool.drop_file("new", ids);
    spool.write("go", "");
    spool.wait_until("both are done", || spool.names("done") == ["new", "old"]);
    assert!(loads(&spool) <= 3, "{} loads\n{}", loads(&spool), spool.report());
    assert_eq!(spool.csv("r").column("a").len(), 120);
    daemon.end_well();
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

/// Goal: a worker that does not come up within its memory says so, and where to mend it. Method: a limit in which
/// no Python can be loaded.
#[test]
fn too_little_memory_for_a_start_is_named() {
    let spool = function("def f(path): pass\n", "max_memory = \"8 MiB\"\n");
    spool.drop_file("a", "x");
    let output = spool.run(&["batch"]).code(1);
    output.says("before it was ready (with max_memory = \"8.0 MiB\")").says("Fix `max_memory`");
    assert_eq!(spool.errors(), Vec::<String>::new());
}

/// Goal: a job that needs more memory than it may have is tried again as `oom` says, and its worker lives on.
/// Method: a real limit, a job beyond it and one within; further attempts for `oom` only.
#[test]
fn a_job_without_memory_is_one_that_was_out_of_it() {
    let spool = function(
        "import os\nopen('loads.txt', 'a').write('x\\n')\n\
         def f(path): return {'n': len(bytearray(4 << 30 if os.path.basename(path) == 'large' else 1))}\n",
        "workers = 1\nmax_memory = \"1 GiB\"\nretries = { oom = 1, first_wait = \"10ms\" }\n",
    );
    spool.drop_file("large", "x");
    spool.drop_file("small", "x");
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.reason("large"), "MemoryError", "{}", spool.report());
    assert_eq!(spool.why("large")["attempts"], 2);
    assert_eq!((spool.names("done"), loads(&spool)), (vec!["small".to_owned()], 1));
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

/// Goal: a function that leaves its worker in its scratch folder, or without a stdout, harms no later job.
/// Method: one worker; such calls, each followed by one that needs a folder to stand in and prints.
#[test]
fn what_a_call_leaves_behind_stops_no_other() {
    let spool = function(
        "import os, sys\n\
         def f(path):\n\
         \x20   print('here')\n\
         \x20   before = os.path.basename(os.getcwd())\n\
         \x20   os.chdir(os.environ['INBOXD_SCRATCH'])\n\
         \x20   sys.stdout.close()\n\
         \x20   return {'before': before}\n",
        "workers = 1\ntrace_columns = false\n",
    );
    for name in ["1", "2", "3"] {
        spool.drop_file(name, "x");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").sorted(), ["inbox", "inbox", "inbox"], "{}", spool.report());
    for name in ["1", "2", "3"] {
        spool.run(&["log", name]).ok().says("here");
    }
}

/// Goal: the same with records: a function that stays in its input's folder stands in the spool at the next input.
/// Method: one worker, two inputs.
#[test]
fn what_a_record_leaves_behind_stops_no_other_input() {
    let spool = function(
        "import os\n\
         def f(line):\n\
         \x20   before = os.path.basename(os.getcwd())\n\
         \x20   os.chdir(os.path.dirname(os.environ['INBOXD_PATH']))\n\
         \x20   return {'before': before}\n",
        "workers = 1\nrecords = \"lines\"\ntrace_columns = false\n",
    );
    for name in ["1", "2", "3"] {
        spool.drop_file(name, "x\n");
    }
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").sorted(), ["inbox", "inbox", "inbox"], "{}", spool.report());
}

/// Goal: any name reaches a function also where Python's locale is not of UTF-8. Method: one that is ASCII, and a
/// name that is not.
#[test]
fn any_name_reaches_a_function_of_another_locale() {
    let spool = function(
        "import os, sys\n\
         def f(path):\n\
         \x20   assert path == os.environ['INBOXD_PATH']\n\
         \x20   return {'coding': sys.getfilesystemencoding(), 'text': open(path).read()}\n",
        "trace_columns = false\n\
         env = { LC_ALL = \"C\", PYTHONUTF8 = \"0\", PYTHONCOERCECLOCALE = \"0\" }\n",
    );
    spool.drop_file("\u{fc}", "x");
    spool.run(&["batch"]).ok();
    assert_eq!(spool.csv("r").sorted(), ["ascii,x"], "{}", spool.report());
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

/// Goal: a record that is nested deeper than Python can read fails by itself, named, and its worker goes on. Method: one
/// of 100,000 levels between two others, in one process.
#[test]
fn a_record_nested_deeply_fails_alone() {
    let spool = Spool::new(
        "workers = 1\n[routes.r]\nrecords = \"ndjson\"\npython = \"w.py:f\"\ntrace_columns = false\n",
    );
    spool.write(
        "w.py",
        "open('loads.txt', 'a').write('x\\n')\ndef f(a): return {'a': str(a)[:9]}\n",
    );
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    spool.drop_file("x", format!("{{\"a\":1}}\n{{\"a\":{deep}}}\n{{\"a\":3}}\n"));
    spool.run(&["batch"]).code(3);
    assert_eq!(spool.csv("r").sorted(), ["1", "3"], "{}", spool.report());
    let reasons = spool.csv("errors").column("reason");
    assert_eq!(reasons, ["the record is nested too deeply for Python"]);
    assert_eq!(loads(&spool), 1);
}
