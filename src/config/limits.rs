//! Limits and defaults, with their reasons. Nothing elsewhere repeats one of these numbers.
//!
//! Must not know: anything but numbers.

use std::time::Duration;

use crate::core::verdict::Spent;

/// A time-out always exists: a hung worker must not hold a slot for ever.
pub const TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// From TERM to KILL. Shorter than [`DRAIN_TIMEOUT`], which is shorter than the unit's `TimeoutStopSec` (60 s).
pub const GRACE: Duration = Duration::from_secs(5);
/// How long running jobs may go on after TERM or INT.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The timer of the scan.
pub const RESCAN: Duration = Duration::from_secs(60);
/// Further attempts a job gets where its route does not say.
pub const RETRIES: Spent = Spent { fail: 0, timeout: 0, oom: 0, crash: 1, lost: 3, try_again: 3 };
/// Waits before the further attempts of *try again*.
pub const TRY_AGAIN_AFTER: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)];
/// The wait before the further attempts of the budgets that have no list of their own; it doubles …
pub const RETRY_FIRST_WAIT: Duration = Duration::from_secs(1);
/// … up to this.
pub const RETRY_LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Each wait is so much shorter or longer at most, in percent.
pub const RETRY_JITTER_PERCENT: u64 = 20;
/// Exit codes listed in `retry_on`.
pub const MOST_RETRY_ON: usize = 64;
/// Starts in the period of a `rate`: the last so many are remembered, 8 bytes each.
pub const MOST_STARTS: usize = 10_000;
/// Different jobs in a row that crashed their worker: fewer may be a few bad files of one producer.
pub const PAUSE_AFTER_CRASHES: usize = 5;
/// The most of [`PAUSE_AFTER_CRASHES`]: so many jobs are remembered.
pub const MOST_CRASHES: i64 = 10_000;
/// The range of nice(1).
pub const NICE: (i64, i64) = (-20, 19);
/// Workers at once: each has a thread of the daemon. What the settings file counts is an `i64`.
pub const MOST_WORKERS: i64 = 1024;
/// The longest time that the settings take, except for [`LONGEST_WAIT`].
pub const LONGEST_TIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest that a file may wait by the settings before it is looked at again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest time-out; none is not offered.
pub const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
/// The shortest time between two scans: each lists the tree.
pub const SHORTEST_RESCAN: Duration = Duration::from_millis(100);
/// Further attempts in one budget.
pub const MOST_RETRIES: i64 = 1000;
/// Waits listed in `try_again_after`.
pub const MOST_WAITS: usize = 16;
/// `priority` lies between minus this and this.
pub const HIGHEST_PRIORITY: i64 = 1000;
/// Failures in a row that may be asked for before a route pauses.
pub const MOST_FAILURES: i64 = 1_000_000;
/// The largest size or count of rows that the settings take: what no disk of one machine holds.
pub const LARGEST: u64 = 1 << 50;
/// The smallest CSV segment, in bytes.
pub const SMALLEST_SEGMENT: u64 = 1 << 10;
/// The most of [`MAX_OUTPUT`], in bytes: it is held in memory, by every worker at once.
pub const LARGEST_OUTPUT: u64 = 1 << 30;
/// Address space below which no program starts, in bytes.
pub const SMALLEST_MEMORY: u64 = 1 << 20;
/// Open files below which no program starts.
pub const FEWEST_OPEN_FILES: i64 = 8;
/// The kernel's own bound on the open files of a process (`fs.nr_open`).
pub const MOST_OPEN_FILES: i64 = 1 << 20;
/// Characters of a route's name: `NAME.<UTC time>.<n>.csv` and folders named after it must fit 255.
pub const ROUTE_NAME: usize = 64;
/// A settings file larger than this is a mistake, in bytes.
pub const SETTINGS_FILE: u64 = 1 << 20;
/// Rows of a CSV segment: a spreadsheet ends at 1,048,576.
pub const SEGMENT_ROWS: u64 = 1_000_000;
/// Bytes of a CSV segment.
pub const SEGMENT_BYTES: u64 = 256 << 20;
/// Claiming stops below this many free bytes (or below [`MIN_FREE_PERCENT`], whichever is less).
pub const MIN_FREE_DISK: u64 = 1 << 30;
/// See [`MIN_FREE_DISK`].
pub const MIN_FREE_PERCENT: u64 = 2;
/// Output of one attempt that is read as rows, in bytes; also what a warm worker may stage.
pub const MAX_OUTPUT: u64 = 16 << 20;
/// stderr kept of one attempt, its end, in bytes.
pub const STDERR_KEPT: usize = 64 << 10;
/// What is kept of the log lines of one attempt, their end, in bytes.
pub const LOG_KEPT: usize = 64 << 10;
/// A line quoted in a reason (the last of stderr, an `ERROR:`), in bytes; `inboxd log` has it whole.
pub const REASON_LINE: usize = 1 << 10;
/// CSV output may grow by this factor in memory, since every row repeats the names of its columns.
pub const ROWS_GROWTH: u64 = 8;
/// How long the members of an ended worker's group may take to be gone. They have had their KILL;
/// only one that hangs in the kernel takes longer, and it can no longer run its own code.
pub const GROUP_END: Duration = Duration::from_secs(2);
/// How long a worker itself may take to be gone after its KILL, before its slot goes on without it. As above: it hangs
/// in the kernel, or a debugger holds it.
pub const KILLED_END: Duration = Duration::from_secs(10);
/// How long the workers of a dead daemon may take to die of KILL at start-up.
pub const ORPHANS_END: Duration = Duration::from_secs(10);
/// A dead child that may be a slot's is taken away after this long: a slot takes its own at once, so nobody
/// waits for it.
pub const UNCLAIMED_DEAD: Duration = Duration::from_secs(5);
/// What a worker finds in PATH where the daemon itself has none.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// One line of a log; a longer one is cut and marked.
pub const LOG_LINE: usize = 64 << 10;
/// An incomplete file becomes an error after this long.
pub const INCOMPLETE_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Names known and not yet claimed; the rest of the queue is the folder itself.
pub const WINDOW: usize = 64 << 10;
/// Jobs that wait for a further attempt, over all routes; beyond it nothing new is claimed, and of a route not
/// once as many wait as it leaves to the others.
pub const WAITING_JOBS: usize = 4096;
/// Short jobs that wait in line before each slot, so that it has some while the keeper commits …
const AHEAD_OF_SLOT: usize = 8;
/// … and before all of them.
pub const MOST_AHEAD: usize = 64;
/// Jobs that may wait in line before so many slots.
pub fn longest_line(slots: usize) -> usize {
    slots.saturating_mul(AHEAD_OF_SLOT).min(MOST_AHEAD)
}
/// While slots have enough in line, the keeper takes in what happens this much later at most.
pub const REST: Duration = Duration::from_millis(5);
/// So long a slot without a job keeps a process ready that becomes the next one's worker.
pub const STANDS_BY: Duration = Duration::from_secs(10);
/// So many slots do, at most: where few processes are allowed, those of many slots would leave none to the workers,
/// whose own children could not be started.
pub const STAND_BY: usize = 16;
/// A job in line whose slots are at work so long with others goes back: it has not begun.
pub const LONGEST_AHEAD: Duration = Duration::from_millis(100);
/// Folders of jobs that are held open from claim to settling, or emptied and kept for the next claim.
/// Descriptors, of which many systems give a process 1024.
pub const OPEN_JOB_FOLDERS: usize = 320;
/// The same where workers are started for each job: every open descriptor is copied to a new process and
/// closed in it, 0.3 µs each, and to open a folder again takes 5 µs.
pub const OPEN_JOB_FOLDERS_OF_COMMANDS: usize = 16;
/// A group of records is committed when it is this large …
pub const COMMIT_RECORDS: usize = 64;
/// … or its oldest is this old, or nothing else is to be done. While others run, a job's file comes to
/// `done/` so much later, and a crash repeats so much more; each fsync costs what a quick job does.
pub const COMMIT_DELAY: Duration = Duration::from_millis(20);
/// A journal segment is closed at this size, so that start-up replays little.
pub const JOURNAL_SEGMENT: u64 = 32 << 20;
/// Size of the spare segment that lets running jobs be recorded on a full disk.
pub const JOURNAL_SPARE: u64 = 1 << 20;
/// Rows of one job above this go to `journal/ID.rows` instead of the journal line, in bytes.
pub const ROWS_IN_LINE: usize = 1 << 20;
/// One file of the job log, in bytes; [`JOB_LOG_FILES`] of them are kept.
pub const JOB_LOG_FILE: u64 = 16 << 20;
/// See [`JOB_LOG_FILE`].
pub const JOB_LOG_FILES: usize = 4;
/// CSV bytes kept in memory before they are written, over all routes; a commit writes them anyway.
pub const RESULTS_BUFFER: usize = 1 << 20;
/// CSVs that are kept open for their next rows, over all routes; twice as many for a moment.
pub const RESULTS_OPEN: usize = 16;
/// Block in which a CSV is read back for its checksum, in bytes.
pub const RESULTS_READ: usize = 1 << 20;
/// The names of a CSV's columns together, in bytes: they stand in one journal line, where each byte may
/// need six, and again in each segment.
pub const COLUMNS: usize = 1 << 20;
/// Cells of one job's rows that stay empty because only other rows have that column: a byte each, made in
/// memory. What a worker prints can be a few bytes a row and thousands of columns.
pub const EMPTY_CELLS: u64 = 64 << 20;
/// Of a column's name in a reason, in characters.
pub const COLUMN_SHOWN: usize = 100;
/// Names tried (`~1`, `~2`, …) when the name of a sealed CSV is taken by another file.
pub const RESULTS_NAMES: u32 = 1000;
/// JSON of one journal line, in bytes. [`ROWS_IN_LINE`] bytes of rows may each need six when escaped.
pub const JOURNAL_LINE: usize = 8 << 20;
/// The journal and its source index are read and copied in blocks of this size, in bytes.
pub const JOURNAL_BLOCK: usize = 256 << 10;
/// Names that `status` counts in one folder; beyond it says `or more`. A million take 0.4 s.
pub const STATUS_NAMES: u64 = 1_000_000;
/// Of these, files whose size or age `status` asks for: each is a call to the kernel.
pub const STATUS_STATS: u64 = 100_000;
/// Folders of `incoming/` that `check` looks at.
pub const CHECK_FOLDERS: usize = 10_000;
/// Jobs that `jobs` lists where it is not told how many.
pub const JOBS_SHOWN: usize = 20;
/// The fewest characters that are read as the beginning of a job id.
pub const ID_PREFIX: usize = 4;
/// A sidecar read back is not longer than this, in bytes: stderr may need six for each when escaped.
pub const SIDECAR: u64 = 1 << 20;
/// A worker that is not `ready` after this long failed to start; loading a model takes its time.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What runs a Python file where the route does not say.
pub const INTERPRETER: &str = "python3";
/// One argument or variable of a process, in bytes, name included: the kernel takes 128 KiB.
pub const ARGUMENT: usize = 127 << 10;
/// Inputs with `records` that are worked on at once; each holds a block and a window of records.
pub const OPEN_INPUTS: usize = 16;
/// Records of one input that are read and not over: a commit's worth for fast ones. Also how many a
/// second crash of the daemon at the same place makes suspects, which then run alone.
pub const OPEN_RECORDS: usize = 1024;
/// Bytes of such records, over all inputs; each has its part of as many in any case, and one record always.
pub const OPEN_RECORD_BYTES: usize = 8 << 20;
/// A slot gets as many records at once as take about so long: a wake-up each would cost more …
pub const LOT_TIME: Duration = Duration::from_millis(4);
/// … and at most so many.
pub const LOT_RECORDS: usize = 64;
/// An input with `records` is read and copied in blocks of this size, in bytes.
pub const INPUT_BLOCK: usize = 256 << 10;
/// Of an input with `records` so much is read before others have their turn, in bytes: some 15 ms.
pub const INPUT_SLICE: u64 = 4 << 20;
/// An input record, in bytes; a longer one fails. Like [`WORKER_LINE`], since it travels in one.
pub const RECORD: u64 = 1 << 20;
/// A line of the worker protocol, both ways, in bytes.
pub const WORKER_LINE: usize = 1 << 20;
/// Bytes of a line quoted in a protocol error.
pub const WORKER_QUOTED: usize = 200;
/// A worker that does not read what we write for this long is dead.
pub const WORKER_WRITE: Duration = Duration::from_secs(5);
/// Descriptors that a warm worker takes here: two of its socket, its process, stdout and stderr.
pub const WARM_DESCRIPTORS: usize = 5;
/// Where many end at once, each is heard in turn for so long.
pub const WORKER_ROUND: Duration = Duration::from_millis(5);
/// An idle worker is pinged this often …
pub const PING_EVERY: Duration = Duration::from_secs(15);
/// … and is replaced once so many pings in a row are unanswered.
pub const PINGS_UNANSWERED: u32 = 2;
/// How often idle workers are looked at.
pub const IDLE_LOOK: Duration = Duration::from_secs(1);
/// A worker that closed its end and lives on can never answer: it is ended after this long.
pub const WORKER_CLOSED: Duration = Duration::from_secs(1);
/// Failed starts in a row after which a route pauses.
pub const FAILED_STARTS: u32 = 5;
/// The wait after the first failed start; doubled for each further one, up to [`START_BACKOFF_MOST`].
pub const START_BACKOFF: Duration = Duration::from_secs(1);
/// See [`START_BACKOFF`].
pub const START_BACKOFF_MOST: Duration = Duration::from_secs(60);
/// What a worker may claim as its `concurrency`.
pub const MOST_CONCURRENCY: u64 = 64;
/// Failed jobs that `batch` shows one by one when it runs beside a daemon; the rest is counted.
pub const GUEST_FAILURES: usize = 10;
/// Sources that `batch` could not take in of which it says why; the rest is counted.
pub const SOURCES_FAILED: usize = 100;
/// Characters of a worker's error code that are kept.
pub const WORKER_CODE: usize = 64;
/// A file of rows that a worker names, in bytes: its rows are held in memory once.
pub const ROWS_FILE: u64 = 256 << 20;
/// A file that nobody writes and that was closed, made or found must be still for so long.
pub const QUIET_AFTER_CLOSE: Duration = Duration::from_millis(250);
/// A file for which no lease can be had must be still for so long.
pub const QUIET_WITHOUT_LEASE: Duration = Duration::from_secs(2);
/// A file on a filesystem that others may write to unseen must be still for so long.
pub const QUIET_ON_SHARED: Duration = Duration::from_secs(10);
/// A file that is open for writing is looked at again after this, ever more slowly …
pub const OPEN_AGAIN: Duration = Duration::from_millis(100);
/// … up to this: the end of a mapping is an event for nobody.
pub const OPEN_AGAIN_MOST: Duration = Duration::from_secs(10);
/// `batch` waits for a file that is open for writing until it has not changed for so long.
pub const BATCH_PATIENCE: Duration = Duration::from_secs(5);
/// Where events cannot tell of everything, `incoming/` is listed this often.
pub const POLL: Duration = Duration::from_secs(10);
/// The least `fs.inotify.max_user_watches` that is advised where it was met.
pub const WATCHES_ADVISED: usize = 65_536;
/// A sentinel whose file is not there is told of once it is so old: the file may be on its way.
pub const LONE_SENTINEL: Duration = Duration::from_secs(60);
/// Old files are looked for this often, where jobs have ended or files have come of age since.
pub const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// By size, what was moved further in the future than this goes first: the clock was ahead. In milliseconds.
pub const RETENTION_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;
/// Without an age, an empty folder of `done/` and `output/` goes after this.
pub const RETENTION_EMPTY: Duration = Duration::from_secs(60 * 60);
/// The shortest and the longest age that may be asked for.
pub const SHORTEST_RETENTION: Duration = Duration::from_secs(1);
/// See [`SHORTEST_RETENTION`].
pub const LONGEST_RETENTION: Duration = Duration::from_secs(3_155_760_000);
/// Names that events told of and nobody looked at yet; beyond it their folders are listed.
pub const MARKED_NAMES: usize = 4096;
/// Folders that are to be listed because of events; beyond it all of them are.
pub const MARKED_FOLDERS: usize = 4096;
/// Held files whose reason `status` shows.
pub const HELD_SHOWN: usize = 10;
/// With `prune`, an empty folder goes once nobody has touched it for so long: rsync makes its folders first.
pub const PRUNE_AFTER: Duration = Duration::from_secs(60);
/// A file is read for its `fields` up to this, in bytes: it is held and parsed where everything is moved.
pub const FIELDS_FILE: u64 = 16 << 20;
/// What is read for `fields` before other messages have their turn, in bytes.
pub const FIELDS_READ: usize = 16 << 20;
/// How often the settings' files are looked at, and the watchdog thought of.
pub const BEAT: Duration = Duration::from_secs(3);
/// A file whose `fields` fit no route waits so long for one: a new file in `routes.d/` is taken up at the
/// second look in which it is the same, so after two of [`BEAT`] at most.
pub const ROUTE_PATIENCE: Duration = Duration::from_secs(7);
/// A file that is read as JSON for its members, in bytes: it is held in memory once a slot.
pub const HTTP_INPUT: u64 = 16 << 20;
/// The header of a runner's answer, in bytes; less than [`HTTP_BUFFER`], so that more is seen to be more.
pub const HTTP_HEADER: usize = 32 << 10;
/// Each of the two buffers of a connection, in bytes.
pub const HTTP_BUFFER: usize = 64 << 10;
/// A URL that can be sent for certain, in bytes: a line of the request is written into one buffer.
pub const HTTP_URL: usize = HTTP_BUFFER - 1024;
/// Connections to a route's runner that are kept between jobs.
pub const HTTP_IDLE: usize = 64;
/// A kept connection is closed after this long: below the 5 s after which uvicorn closes it.
pub const HTTP_IDLE_AGE: Duration = Duration::from_secs(4);
/// A GET that a kept connection swallowed is sent again at once only if it was swallowed so soon.
pub const HTTP_SWALLOWED: Duration = Duration::from_secs(1);
/// One address of a runner may take so long to accept a connection; the next one is tried after it.
pub const HTTP_CONNECT: Duration = Duration::from_secs(10);
/// How long a look may take whether a runner that was started is ready …
pub const READY_LOOK: Duration = Duration::from_secs(5);
/// … and how long until the next.
pub const READY_EVERY: Duration = Duration::from_millis(50);
/// A runner whose connection broke may take so long to be seen dead.
pub const RUNNER_DEATH: Duration = Duration::from_millis(500);
/// Made files of one job that `next` hands on: each is named in one journal line.
pub const NEXT_FILES: usize = 1024;
/// Their paths, old and new, in bytes: the line also holds up to [`ROWS_IN_LINE`] of rows.
pub const NEXT_BYTES: usize = 256 << 10;
/// Input that is checked by a schema, in bytes: the slot holds it in memory.
pub const SCHEMA_INPUT: u64 = 64 << 20;
/// How long a command waits for a word of the running daemon that needs no work. A keeper that waits for its
/// disk takes seconds; a monitor must not hang with a daemon that is suspended.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
