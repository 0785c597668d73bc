//! The harness: a temporary spool, the binary as a child, and waiting for a state.
//!
//! Must not know: the library's types, or what any scenario expects. It asserts nothing by itself;
//! what it is asked to assert fails with the output, the logs and the tree.
//!
//! Invariants
//! - Nothing sleeps: [`wait_until`] asks for a state until it is there or the deadline passes.
//! - A child is ended when its handle is dropped, with its workers.
//! - A spool is `HOME/inbox`, and commands run in `HOME`: messages name paths as a user sees them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before it counts as never. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_inboxd");
/// How often a state is asked for.
const POLL: Duration = Duration::from_millis(10);
/// Bytes shown of each log when a test fails.
const LOG_SHOWN: usize = 8 << 10;

/// Waits until the condition holds; on failure prints what was waited for and the report.
pub(crate) fn wait_until(
    what: &str,
    deadline: Duration,
    report: impl Fn() -> String,
    mut condition: impl FnMut() -> bool,
) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}\n{}", report());
        // Nobody unparks us: this is a wait with a deadline, and waking early does no harm.
        std::thread::park_timeout(POLL);
    }
}

/// A Python that starts fast: a version manager's shim costs more than the script.
pub(crate) fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

/// A temporary spool, gone with its test.
pub(crate) struct Spool {
    home: tempfile::TempDir,
    /// Numbers the staged files and the logs.
    next: AtomicU32,
}

impl Spool {
    /// An empty home: no spool in it yet.
    pub(crate) fn bare() -> Self {
        let home = tempfile::Builder::new().prefix("inboxd-test-").tempdir().unwrap();
        fs::create_dir(home.path().join("logs")).unwrap();
        fs::create_dir(home.path().join("staging")).unwrap();
        Self { home, next: AtomicU32::new(0) }
    }

    /// A spool with exactly this text as its settings.
    pub(crate) fn verbatim(settings: &str) -> Self {
        let spool = Self::bare();
        fs::create_dir(spool.root()).unwrap();
        spool.write("inboxd.toml", settings);
        spool
    }

    /// A spool whose workers may run as whoever runs the tests. `$PYTHON` stands for [`python`].
    pub(crate) fn new(settings: &str) -> Self {
        let root = rustix::process::geteuid().is_root();
        let first = if root { "allow_root = true\n" } else { "" };
        Self::verbatim(&format!("{first}{}", settings.replace("$PYTHON", python())))
    }

    /// The folder that commands run in.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The spool itself.
    pub(crate) fn root(&self) -> PathBuf {
        self.home().join("inbox")
    }

    /// A path in the spool.
    pub(crate) fn path(&self, rel: &str) -> PathBuf {
        self.root().join(rel)
    }

    /// Writes a file of the operator's into the spool: a script, a route.
    pub(crate) fn write(&self, rel: &str, content: &str) {
        write_file(&self.path(rel), content.as_bytes());
    }

    /// Writes a file beside the spool: a source of `batch`.
    pub(crate) fn write_home(&self, rel: &str, content: &str) {
        write_file(&self.home().join(rel), content.as_bytes());
    }

    /// Drops a file as a careful producer does: written elsewhere, then renamed into `incoming/`.
    pub(crate) fn drop_file(&self, rel: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
        let staged = self.home().join("staging").join(self.number());
        write_file(&staged, content.as_ref());
        let target = self.path("incoming").join(OsStr::from_bytes(rel.as_ref()));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        rustix::fs::rename(&staged, &target).unwrap();
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, b"")
    }

    /// Runs a command to its end with bytes on its standard input.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        self.run_under(&[], args, input)
    }

    /// Runs a command to its end, started by another program (`strace …`).
    pub(crate) fn run_under(&self, wrapper: &[&str], args: &[&str], input: &[u8]) -> Output {
        let number = self.number();
        let stdin = self.home().join("logs").join(format!("{number}.in"));
        write_file(&stdin, input);
        let stdout = self.home().join("logs").join(format!("{number}.out"));
        let stderr = self.home().join("logs").join(format!("{number}.err"));
        let mut command = self.command_under(wrapper, args);
        command.stdin(File::open(&stdin).unwrap());
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let begun = Instant::now();
        let mut running = Running {
            child: command.spawn().unwrap(),
            log: stderr.clone(),
            home: self.home().to_owned(),
        };
        let status = running.wait();
        Output {
            what: format!("inboxd {}", args.join(" ")),
            status,
            took: begun.elapsed(),
            stdout: fs::read(stdout).unwrap(),
            stderr: fs::read(stderr).unwrap(),
            report: report(self.home()),
        }
    }

    /// Starts a command and goes on; stdout and stderr go to one log.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        self.start_under(&[], args)
    }

    /// The same, started by another program that becomes it (`env …`, `unshare …`).
    pub(crate) fn start_under(&self, wrapper: &[&str], args: &[&str]) -> Running {
        let log = self.home().join("logs").join(format!("{}.log", self.number()));
        let both = File::create(&log).unwrap();
        let mut command = self.command_under(wrapper, args);
        command.stdin(Stdio::null()).stdout(both.try_clone().unwrap()).stderr(both);
        Running { child: command.spawn().unwrap(), log, home: self.home().to_owned() }
    }

    /// Starts a command on a terminal of its own, whose screen is the log.
    pub(crate) fn start_on_terminal(&self, args: &[&str]) -> Running {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let log = self.home().join("logs").join(format!("{}.screen", self.number()));
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let terminal = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).unwrap();
        let size = rustix::termios::Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&terminal, size).unwrap();
        let mut command = self.command(args);
        command.stdin(terminal.try_clone().unwrap());
        command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
        command.env("TERM", "xterm");
        let child = command.spawn().unwrap();
        let mut screen = File::create(&log).unwrap();
        // Ends by itself: reading fails with EIO once the last process has closed the terminal.
        std::thread::spawn(move || std::io::copy(&mut File::from(controller), &mut screen));
        Running { child, log, home: self.home().to_owned() }
    }

    /// `inboxd run`, once it says that it is ready.
    pub(crate) fn daemon(&self) -> Running {
        let running = self.start(&["run"]);
        running.wait_for_log("ready");
        running
    }

    /// Waits for a state of the spool; on failure prints logs and tree.
    pub(crate) fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(what, PATIENCE, || report(self.home()), condition);
    }

    /// All regular files below a folder of the spool: relative path to content. None if it is not there.
    pub(crate) fn files(&self, folder: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        files_below(&self.path(folder))
    }

    /// Names of the files below a folder, as text.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        self.files(folder).keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// `inboxd run`, ready, as a user who owns the spool and has no special rights. Only root can ask.
    pub(crate) fn daemon_as_nobody(&self) -> Running {
        let daemon = self.start_as("nobody", &[]);
        daemon.wait_for_log("ready");
        daemon
    }

    /// The same as any user, by name or number, started by another program that becomes it; perhaps not ready.
    pub(crate) fn start_as(&self, user: &str, wrapper: &[&str]) -> Running {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.home(), fs::Permissions::from_mode(0o755)).unwrap();
        let binary = self.home().join("inboxd");
        // The second time what came meanwhile stays whose it is.
        if !binary.exists() {
            let chown = Command::new("chown").args(["-R", user]).arg(self.root()).status();
            assert!(chown.unwrap().success());
            fs::copy(BINARY, &binary).unwrap();
        }
        // The program itself may lie where only root gets to: its copy runs instead.
        let copy = binary.to_str().unwrap();
        let instead = ["sh", "-c", "shift; exec \"$0\" \"$@\"", copy];
        let reuid = format!("--reuid={user}");
        let user = ["setpriv", &reuid, "--clear-groups"];
        self.start_under(&[&user[..], wrapper, &instead].concat(), &["run"])
    }

    /// Whether anything stands at a path of the spool.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// What waits in `incoming/` and may not be claimed yet, as the daemon counts it.
    pub(crate) fn held(&self) -> u64 {
        let status = self.run(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status.stdout()).unwrap_or_default();
        status["held"].as_u64().unwrap_or(0)
    }

    /// Failed files, without what says why.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.names("error").into_iter().filter(|name| !name.starts_with(".why/")).collect()
    }

    /// A file of `results/`, parsed; without it, no rows.
    pub(crate) fn csv(&self, name: &str) -> Csv {
        let bytes = fs::read(self.path("results").join(format!("{name}.csv"))).unwrap_or_default();
        Csv::parse(&bytes)
    }

    /// What `error/.why/` says of a failed file.
    pub(crate) fn why(&self, rel: &str) -> serde_json::Value {
        let path = self.path("error/.why").join(format!("{rel}.json"));
        let text = fs::read(&path)
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", path.display(), self.report()));
        serde_json::from_slice(&text).unwrap()
    }

    /// The reason of a failed file, which `errors.csv` must say as well.
    pub(crate) fn reason(&self, rel: &str) -> String {
        let reason = self.why(rel)["reason"].as_str().unwrap_or_default().to_owned();
        let rows = self.csv("errors").column("reason");
        assert!(rows.contains(&reason), "errors.csv lacks {reason:?}: {rows:?}\n{}", self.report());
        reason
    }

    /// Processes alive that were started for this spool, by their environment.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mark = self.home().as_os_str().as_bytes();
        let mut found = Vec::new();
        for pid in all_pids() {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environ.windows(mark.len()).any(|part| part == mark) {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                found.push(format!(
                    "{pid} {}",
                    String::from_utf8_lossy(&command).replace('\0', " ")
                ));
            }
        }
        found
    }

    /// What is in the home and what was said, for a failed test.
    pub(crate) fn report(&self) -> String {
        report(self.home())
    }

    fn number(&self) -> String {
        format!("{:04}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_under(&[], args)
    }

    fn command_under(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let mut words = wrapper.iter().copied().chain([BINARY]).chain(args.iter().copied());
        let mut command = Command::new(words.next().unwrap());
        command.args(words).current_dir(self.home());
        for name in ["INBOXD_SPOOL", "RUST_LOG", "NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID"]
        {
            command.env_remove(name);
        }
        // The path of the home must not be in it: `processes` looks for that in the workers'.
        command.env("NO_COLOR", "1").env("TZ", "UTC").env("LANG", "C.UTF-8").env_remove("PWD");
        command
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Output {
    what: String,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// From start to end.
    pub(crate) took: Duration,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    report: String,
}

impl Output {
    /// It ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.code(0)
    }

    /// It ended with this code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "exit code of {self}");
        self
    }

    /// It ended, by itself, with another code than 0.
    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        assert!(self.status.signal().is_none() && !self.status.success(), "success of {self}");
        self
    }

    /// One of its streams contains this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.both().contains(text), "{text:?} is not in what was said by {self}");
        self
    }

    /// What it printed.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it printed and what it said besides.
    pub(crate) fn both(&self) -> String {
        format!("{}{}", self.stdout(), String::from_utf8_lossy(&self.stderr))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, status, stdout, stderr, report, .. } = self;
        let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        write!(f, "`{what}` ({status})\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n{report}")
    }
}

/// A command that is running: a small supervisor, and the daemon as its child.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    home: PathBuf,
}

impl Running {
    /// Everything said so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until this was said; one that ended without saying it never will.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let report = || format!("alive: {:?}\n{}", self.children(), report(&self.home));
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            // Asked in this order: what it said last is read once more after its end.
            let ended = !alive(self.child.id());
            if self.log().contains(text) {
                return;
            }
            assert!(!ended, "ended, and never said: {text}\n{}", report());
            assert!(Instant::now() < end, "not said within {PATIENCE:?}: {text}\n{}", report());
            std::thread::park_timeout(POLL);
        }
    }

    /// The process we started.
    pub(crate) fn supervisor_pid(&self) -> u32 {
        self.child.id()
    }

    /// The daemon: the supervisor's child. Waits for it, as it is started a moment later.
    pub(crate) fn daemon_pid(&self) -> u32 {
        let mut pid = None;
        wait_until(
            "the daemon's process",
            PATIENCE,
            || report(&self.home),
            || {
                pid = self.children().first().copied();
                pid.is_some()
            },
        );
        pid.unwrap()
    }

    /// The daemon's children.
    pub(crate) fn workers(&self) -> Vec<u32> {
        children_of(self.daemon_pid())
    }

    /// Sends a signal to the process we started.
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Waits for its end; one that does not end is killed, and the test fails.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > end {
                let report = report(&self.home);
                self.kill_all();
                panic!("not ended within {PATIENCE:?}\n{report}");
            }
            std::thread::park_timeout(POLL);
        }
    }

    /// Asks it to end and waits.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// The same, and it ends as a drained daemon does.
    #[track_caller]
    pub(crate) fn end_well(self) {
        assert_eq!(self.end().code(), Some(0));
    }

    /// SIGKILL to supervisor, daemon and workers at once, and waits until they are gone.
    pub(crate) fn kill_all(&mut self) {
        let mut pids = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = pids.get(at).copied() {
            // Stopped first: nobody may start or clean up anything while we collect the others.
            send(pid, Signal::STOP);
            pids.extend(children_of(pid));
            at += 1;
        }
        for pid in &pids {
            send(*pid, Signal::KILL);
        }
        self.child.wait().unwrap();
        wait_until(
            "the killed are gone",
            PATIENCE,
            || report(&self.home),
            || !pids.iter().any(|pid| alive(*pid)),
        );
    }

    fn children(&self) -> Vec<u32> {
        children_of(self.child.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_all();
        }
    }
}

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(e) => panic!("kill {pid:?}: {e}"),
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn alive(pid: u32) -> bool {
    parent_of(pid).is_some()
}

/// Its living children.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    all_pids().into_iter().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Every process there is.
pub(crate) fn all_pids() -> Vec<u32> {
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    let mut pids: Vec<u32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The parent of a process that is neither gone nor a zombie.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything; the last one closes it.
    let (_, rest) = stat.split_at(stat.iter().rposition(|b| *b == b')')?);
    let rest = String::from_utf8_lossy(rest).into_owned();
    let mut fields = rest.split(' ').skip(1);
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // The first thread of a killed process may be over before those that hold its files.
    let has_threads = || fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|it| it.count() > 1);
    (state != "Z" && state != "X" || has_threads()).then_some(parent)
}

/// A CSV as any reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Csv {
    /// The first line.
    pub(crate) header: Vec<String>,
    /// The others; cells are bytes.
    pub(crate) rows: Vec<Vec<Vec<u8>>>,
}

impl Csv {
    /// Parses strictly: every line has as many cells as the header.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
        let mut lines = reader
            .byte_records()
            .map(|line| line.unwrap().iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
        let header = lines.next().unwrap_or_default();
        let header = header.into_iter().map(|cell| String::from_utf8(cell).unwrap()).collect();
        Self { header, rows: lines.collect() }
    }

    /// The rows as text, cells joined by commas, sorted.
    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut rows: Vec<String> = self
            .rows
            .iter()
            .map(|row| String::from_utf8_lossy(&row.join(&b","[..])).into_owned())
            .collect();
        rows.sort();
        rows
    }

    /// The header, cells joined by commas.
    pub(crate) fn header(&self) -> String {
        self.header.join(",")
    }

    /// One column's cells, in the order of the rows; empty where there is no such column.
    pub(crate) fn cells(&self, name: &str) -> Vec<Vec<u8>> {
        let at = self.header.iter().position(|column| column == name);
        at.map(|at| self.rows.iter().map(|row| row[at].clone()).collect()).unwrap_or_default()
    }

    /// One column's cells as text.
    pub(crate) fn column(&self, name: &str) -> Vec<String> {
        self.cells(name).into_iter().map(|cell| String::from_utf8(cell).unwrap()).collect()
    }
}

/// Regular files below a folder: relative path to content.
pub(crate) fn files_below(root: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok) {
        if entry.file_type().is_file() {
            let rel = entry.path().strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            // A file that is being moved while we look is simply not there.
            if let Ok(content) = fs::read(entry.path()) {
                found.insert(rel, content);
            }
        }
    }
    found
}

fn write_file(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The tree with sizes, and the end of every log.
fn report(home: &Path) -> String {
    let mut text = String::from("--- tree\n");
    let mut logs = Vec::new();
    for entry in walkdir::WalkDir::new(home).sort_by_file_name().into_iter().filter_map(Result::ok)
    {
        let rel = entry.path().strip_prefix(home).unwrap();
        let size = entry.metadata().map_or(0, |m| m.len());
        writeln!(text, "{size:>9} {rel:?}").unwrap();
        if entry.file_type().is_file() && rel.starts_with("logs") && size > 0 {
            logs.push(entry.path().to_owned());
        }
    }
    for log in logs {
        let content = fs::read(&log).unwrap_or_default();
        let tail = &content[content.len().saturating_sub(LOG_SHOWN)..];
        writeln!(text, "--- {}\n{}", log.display(), String::from_utf8_lossy(tail)).unwrap();
    }
    text
}

/// Goal: a wait that cannot succeed ends, loudly. Method: a condition that never holds.
#[test]
#[should_panic(expected = "not within 20ms: pigs fly")]
fn a_wait_has_a_deadline() {
    wait_until("pigs fly", Duration::from_millis(20), String::new, || false);
}

/// Goal: nothing killed survives unseen. Method: a shell with a child, killed; a zombie is not alive.
#[test]
fn kill_all_takes_the_grandchildren() {
    let spool = Spool::bare();
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & wait"]).env("MARK", spool.home());
    let log = spool.home().join("logs/none");
    let child = command.spawn().unwrap();
    let mut running = Running { child, log, home: spool.home().to_owned() };
    spool
        .wait_until("the sleep runs", || spool.processes().iter().any(|p| p.contains("sleep 600")));
    let sleep = running.daemon_pid();
    assert!(alive(sleep));
    running.kill_all();
    assert!(!alive(sleep) && !alive(running.supervisor_pid()));
    assert_eq!(spool.processes(), Vec::<String>::new());
}
