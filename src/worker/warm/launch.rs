//! The start of a warm worker: its own socket at the number `INBOXD_FD`, everything else as for a command.
//!
//! Must not know: the protocol, jobs.
//!
//! std hands on three descriptors and no fourth. So with `transport = "fd"` our own binary is started
//! first, with the socket as its stdin: it moves it to the lowest free number (3, unless who started the
//! daemon left 3 open without CLOEXEC; `INBOXD_FD` is right in any case), puts
//! `/dev/null` in its place and becomes the worker. That costs an exec a worker, needs no unsafe code,
//! and no other slot's child can inherit the socket meanwhile, as it could if the socket were without
//! CLOEXEC in the daemon even for a moment. The process and its group stay the same.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;

use super::session::Files;
use crate::config::{Route, Transport, Worker};
use crate::worker::{orphans, program, python};

/// The first argument of our binary when it is to become a worker.
const HELPER: &str = "__become-worker";

/// A started process and our ends of its descriptors. Its stdout and stderr are in `child`.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) to: OwnedFd,
    pub(super) from: OwnedFd,
    /// As they were before it began to read them.
    pub(super) files: Files,
}

/// Starts the worker of a route. The error is one line for a person: it cannot be started at all.
pub(super) fn launch(route: &Route, spool: &Path) -> Result<Launched, String> {
    let mut environment = program::environment(route);
    let (name, mut args, files): (&OsStr, Vec<OsString>, &[String]) = match &route.worker {
        Worker::Warm { argv } => {
            let (program, args) =
                argv.split_first().ok_or_else(|| "the route names no program".to_owned())?;
            (program.as_ref(), args.iter().map(OsString::from).collect(), args)
        }
        Worker::Python { file, function } => {
            if !spool.join(file).is_file() {
                return Err(format!("{file} is not there: `python` names a file below the spool"));
            }
            environment.push(python::source());
            let args = python::arguments(file, function, route);
            (route.warm.interpreter.as_ref(), args, std::slice::from_ref(file))
        }
        Worker::Command { .. } | Worker::Http { .. } => {
            return Err("this route has no warm worker".to_owned());
        }
    };
    let path = program::find(name, spool, program::search_path(&environment))?;
    let mark = orphans::mark(spool)
        .map_err(|error| format!("cannot look at {}: {error}", spool.display()))?;
    environment.push((orphans::MARK_VAR.into(), mark));
    environment.push(("INBOXD_ROUTE".into(), route.name.clone().into()));
    environment.push(("INBOXD_SPOOL".into(), spool.into()));
    environment.push(("INBOXD_PROTO".into(), "inboxd-worker/1".into()));
    let mut files: Vec<PathBuf> = files.iter().map(|file| spool.join(file)).collect();
    files.retain(|file| file.is_file());
    // The file of `python` is no argument of the user's.
    let is_warm = matches!(route.worker, Worker::Warm { .. });
    let (arguments, mut others) = if is_warm { (files, Vec::new()) } else { (Vec::new(), files) };
    others.push(path.clone());
    let files = Files::new(&arguments, &others);
    let is_socket = route.warm.transport == Transport::Fd;
    let started = if is_socket {
        args.splice(0..0, [HELPER.into(), path.clone().into(), name.to_owned()]);
        // Not current_exe(): that path is gone once the binary was replaced.
        start_with_socket(Command::new("/proc/self/exe"), &args, &environment, spool)
    } else {
        let mut command = Command::new(&path);
        command.arg0(name);
        start_with_pipes(command, &args, &environment, spool)
    };
    let (child, to, from) = started.map_err(|error| program::start_error(name, &path, &error))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(Launched { child, to, from, files: files.of(group) })
}

type Started = io::Result<(Child, OwnedFd, OwnedFd)>;

fn prepare(command: &mut Command, args: &[OsString], env: &[(OsString, OsString)], spool: &Path) {
    command
        .args(args)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(spool)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

fn start_with_socket(
    mut command: Command,
    args: &[OsString],
    env: &[(OsString, OsString)],
    spool: &Path,
) -> Started {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before the start: an error after it would leave a process that nobody knows.
    let to = ours.try_clone()?;
    prepare(&mut command, args, env, spool);
    let child = command.stdin(Stdio::from(theirs)).spawn()?;
    Ok((child, to, ours))
}

fn start_with_pipes(
    mut command: Command,
    args: &[OsString],
    env: &[(OsString, OsString)],
    spool: &Path,
) -> Started {
    prepare(&mut command, args, env, spool);
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(to), Some(from)) => Ok((child, to.into(), from.into())),
        _ => Err(io::Error::other("no pipes")),
    }
}

/// Why our binary did not become the worker: a line, and the exit code that tells it.
#[derive(Debug)]
pub struct NotBecome {
    /// For a person.
    pub message: String,
    /// 126 or 127, as a shell has it.
    pub code: u8,
}

/// Becomes the worker, if this process was started to. `None`: it was not. Otherwise it returns only
/// if that failed.
pub fn become_worker(mut args: impl Iterator<Item = OsString>) -> Option<NotBecome> {
    let mut next = || args.next();
    if next()? != HELPER {
        return None;
    }
    let failed = |what: &OsStr, error: &io::Error| NotBecome {
        message: program::start_error(what, Path::new(what), error),
        code: if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 },
    };
    let (path, name) = (next()?, next()?);
    // Without CLOEXEC: this one is for the worker.
    let socket = match rustix::io::dup(io::stdin()) {
        Ok(socket) => socket,
        Err(errno) => return Some(failed(&path, &errno.into())),
    };
    let mut command = Command::new(&path);
    command.arg0(&name).args(args).env("INBOXD_FD", socket.as_raw_fd().to_string());
    let error = command.stdin(Stdio::null()).exec();
    Some(failed(&path, &error))
}
