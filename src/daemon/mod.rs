//! The shell: everything that runs, waits and listens, around the pure core.
//!
//! It knows all other rooms; none of them knows it.
//!
//! - [`keeper`]: one owner of spool, journal and results; carries out what the core decides.
//! - [`recover`]: start-up is recovery; `known_inputs`: what the journal says of single records.
//! - [`service`]: the keeper's thread and its messages.
//! - `watcher`: hints at what happens in `incoming/`; `intake`: what the keeper's thread makes of them;
//!   `sight`: whether a name that was seen may be claimed; `writers`: who still writes; `repeat`:
//!   whether a file came before; `refusal`: why a claim cannot be made, in words.
//! - [`pool`]: one thread a slot.
//! - [`stager`]: brings the sources of `batch` in; [`along`]: and what comes with them.
//! - [`hand_in`]: a file handed in by `submit` becomes a job, with a daemon or without; `copying`: what a
//!   signal cuts off of that goes.
//! - [`retention`]: when old files of `done/` and `output/` go.
//! - [`history`]: the log of recent jobs. [`notice`]: what there is to tell.
//! - [`control`]: the socket by which commands speak with a running daemon.
//! - [`shell`]: puts all of it together, listens to signals; the only async code.
//! - [`reload`]: when settings are read again, and which come into force.
//! - [`supervisor`]: the small process above, which ends every worker when the daemon dies;
//!   [`children`]: how both of them do it.
//! - `own_pages`: memory of the program itself, given back after the start.
//! - [`log`]: the log of a service; `journald`: the same for systemd's journal. [`readiness`]: what systemd is told.
//!
//! # The log
//!
//! On a pipe a line is a time, a level and `event field=value`; with `--log json` it is an object. Below
//! systemd it is an entry of the journal: `MESSAGE` the line, `PRIORITY`, and as fields of their own
//! `EVENT`, `JOB`, `ROUTE`, `REL` (which is `path`), and every other field in capitals:
//! `journalctl -u inboxd EVENT='job failed' ROUTE=count`.
//!
//! Fields have one meaning everywhere: `job`, `route`, `attempt`, `path` (below `incoming/`, escaped),
//! `error`, `fix` (what to do). Renaming an event or a field is a breaking change; a test compares this table with the code.
//!
//! | event | level | fields | meaning |
//! |---|---|---|---|
//! | `recovered` | info | records, settled, resumed, lost, power_cut | start-up found work of an earlier run |
//! | `torn journal tail was cut` | warn | bytes | the last daemon died while it wrote; nothing promised is lost |
//! | `journal knows nothing of claimed jobs` | warn | jobs | `journal/` was removed or replaced; they are taken up by their names |
//! | `ready` | info | | recovered, the first scan is done |
//! | `status` | info | running, waiting, held, done, failed, unrouted | once a minute, if anything changed |
//! | `submitted` | debug | job | a file handed in is durable |
//! | `submission refused` | warn | job, error | no route takes it |
//! | `file cannot be claimed` | warn | path, error, fix | it waits and is tried again; told once a folder |
//! | `no route takes a file` | warn | path | it stays; told of one, until there is none or the settings change. `status` counts them |
//! | `folder was replaced` | warn | path | removed or moved away; the one there now, or a new one, is used. The path is below the spool |
//! | `supervisor was killed, everything ends` | error | | attempts that are cut off cost nothing; the next start goes on |
//! | `events were lost, everything is scanned` | warn | | more happened than the kernel or we could keep; nothing is missed |
//! | `some events are missing` | warn | error, fix | new files are noticed by the clock, too |
//! | `all events come again` | info | | that is over |
//! | `attempt cannot be started` | warn | path, error | it waits and is tried again |
//! | `attempt failed` | info | job, path, route, attempt, wait_ms, error | another one follows |
//! | `file is incomplete` | debug | job, path, route, attempt, error | says the worker; it is asked again |
//! | `job done` | debug | job, path, route, attempt, took_ms, rows | recorded and in `done/` |
//! | `job failed` | warn | job, path, route, attempt, took_ms, error | recorded and in `error/` |
//! | `scratch cannot be removed` | warn | path, error | it stays until the next start |
//! | `what a worker left stays` | warn | path, fix | beside a settled job's input, or that input: another user's, immutable, mounted, or still written by a process that it left. The path is below the spool |
//! | `settled after a power cut` | info | path | recorded before; found in `incoming/` again |
//! | `record failed` | warn | job, path, route, record, error | of an input; the first hundred in a life |
//! | `route paused` | error | route, error, files, fix | its worker cannot run; its files stay |
//! | `workers crash` | error | route, error, files, fix | one file is tried every minute |
//! | `workers run again` | info | route | |
//! | `memory is low, starts wait` | error | free, floor | bytes |
//! | `memory is enough again` | info | | |
//! | `disk is low, claims wait` | error | free, floor | bytes |
//! | `disk is full, claims wait` | error | | nothing is lost |
//! | `source waits for room` | error | path, needs, free | bytes; a source of `batch` that is larger than what is free |
//! | `something is short, claims wait` | error | error, fix | too many open files, no inodes, no memory in the kernel, or a CSV that may not be changed; nothing is lost |
//! | `there is enough again` | info | | claims go on; said once it lasts |
//! | `disk has room again` | info | | claims go on; said once it lasts |
//! | `CSV may not be changed` | error | error | immutable, or in a folder that is closed to us: everything waits until it may be; which, and what the system said |
//! | `CSV may be changed again` | info | | all goes on; said once it lasts |
//! | `CSV was changed by someone else` | warn | route, removed, again | left alone; rows go on in a new segment, with `again` rows that the old one may hold, too |
//! | `journal was changed by someone else` | warn | | a file in use was removed, replaced or cut; all that counts is written to a new one |
//! | `job log cannot be written` | warn | error | `jobs` and `log` miss what happens until it can |
//! | `processes cannot be looked at` | warn | error | what escaped a worker's group may live on |
//! | `events were not logged` | warn | missed | more happened than could be written |
//! | `settings reloaded` | info | routes, workers | by SIGHUP, or because their files changed |
//! | `settings refused, the old settings stay in force` | error | error | nothing of the new ones holds |
//! | `route refused, its old version stays in force` | error | error | a file of `routes.d/` is broken |
//! | `route refused, the others go on` | error | error | the same, where there is no old version |
//! | `workers cannot be added` | error | workers, error | a reload wanted more than there can be |
//! | `old files were removed` | info | files, bytes | by `retention_age` or `retention_size` |
//! | `old files cannot be removed` | warn | files, error | they stay; the next pass tries again |
//! | `draining` | info | running | a signal: no new starts |

pub mod along;
pub mod children;
pub mod control;
mod copying;
pub mod free_memory;
pub mod hand_in;
pub mod history;
pub mod intake;
mod journald;
pub mod keeper;
mod known_inputs;
pub mod log;
pub mod notice;
mod own_pages;
pub mod pool;
#[cfg(test)]
mod proof;
pub mod readiness;
pub mod recover;
mod refusal;
pub mod reload;
mod repeat;
pub mod retention;
pub mod service;
pub mod shell;
pub mod sight;
pub mod stager;
pub mod supervisor;
mod watcher;
mod writers;
