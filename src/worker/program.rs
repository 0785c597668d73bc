//! What is started, and with which environment: the program found on PATH, the few known variables.
//!
//! Must not know: tasks, processes. It reads our own environment and looks at files.
//!
//! PATH is searched here and not by std, because std then starts the program by `posix_spawn`, and
//! because the message can then say where was looked.
//!
//! Invariant: nothing of our environment reaches a worker that is not named here or by its route.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::exit::one_line;
use crate::config::{Route, Worker, limits};

/// The executable for a program as the settings name it. One with a slash starts in the spool; one
/// without is searched in `search`, a PATH. The error is one line for a person.
pub(super) fn find(program: &OsStr, spool: &Path, search: &OsStr) -> Result<PathBuf, String> {
    if program.as_bytes().contains(&b'/') {
        let path = spool.join(program);
        return if is_executable(&path) { Ok(path) } else { Err(cannot_run(program, &path)) };
    }
    let mut found_not_executable = None;
    for folder in std::env::split_paths(search) {
        // An empty element of PATH is the working directory, which is the spool.
        let path = spool.join(folder).join(program);
        if is_executable(&path) {
            return Ok(path);
        }
        if path.is_file() {
            found_not_executable.get_or_insert(path);
        }
    }
    Err(if let Some(path) = found_not_executable {
        cannot_run(program, &path)
    } else {
        let (name, program, search) = (program, shown(program), one_line(search.as_bytes()));
        let is_ours = spool.join(name).is_file();
        let hint = if is_ours { "; one in the spool begins with ./" } else { shell_hint(name) };
        format!("cannot start {program}: not found in PATH={search}{hint}")
    })
}

/// The route's program, its schema and the files among its arguments, as they stand there: of each file its change,
/// inode and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramState(Vec<Option<[i64; 4]>>);

impl ProgramState {
    /// Where it is another than before: the arguments come first, in their order.
    pub(super) fn changed_since<'a>(&'a self, then: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let most = self.0.len().max(then.0.len());
        (0..most).filter(|at| self.0.get(*at) != then.0.get(*at))
    }
}

/// What a worker started now would run, to see whether that was changed; `None` where the program is not there.
/// For a paused route, and for a runner that may run an older text. Not the newest time of all: a file that is put
/// in place as it was elsewhere (`rsync -t`, `cp -p`) may be older than the interpreter beside it.
pub fn program_state(route: &Route, spool: &Path) -> Option<ProgramState> {
    let own = environment(route);
    let (program, files) = match &route.worker {
        Worker::Command { argv } | Worker::Warm { argv } => {
            (argv.first()?, argv.get(1..).unwrap_or_default())
        }
        Worker::Python { file, .. } => (&route.warm.interpreter, std::slice::from_ref(file)),
        Worker::Http { .. } => {
            let argv = route.http.start.as_deref()?;
            (argv.first()?, argv.get(1..).unwrap_or_default())
        }
    };
    let state = |path: PathBuf| {
        let meta = path.metadata().ok().filter(Metadata::is_file)?;
        // Only whether they are the same matters.
        let (ino, size) = (meta.ino().cast_signed(), meta.len().cast_signed());
        Some([meta.mtime(), meta.mtime_nsec(), ino, size])
    };
    let path = find(OsStr::new(program), spool, search_path(&own)).ok()?;
    let schema = route.schema.as_ref().and_then(|it| state(super::schema::file_of(it, spool)?));
    let files = files.iter().map(|file| state(spool.join(file)));
    Some(ProgramState(files.chain([schema, state(path)]).collect()))
}

/// Where the program of a route is; else why it cannot be started, as one line for a person.
/// `Ok(None)`: its name depends on the file, or there is none to start.
pub fn find_program(route: &Route, spool: &Path) -> Result<Option<PathBuf>, String> {
    let program = match &route.worker {
        Worker::Command { argv } | Worker::Warm { argv } => argv.first(),
        Worker::Python { .. } => Some(&route.warm.interpreter),
        Worker::Http { .. } => route.http.start.as_ref().and_then(|argv| argv.first()),
    };
    let Some(program) = program.filter(|program| !program.contains('{')) else {
        return Ok(None);
    };
    find(OsStr::new(program), spool, search_path(&environment(route))).map(Some)
}

/// The same for an error of the start itself, after the program was found.
pub(super) fn start_error(program: &OsStr, path: &Path, error: &io::Error) -> String {
    let (name, place) = (shown(program), one_line(path.as_os_str().as_bytes()));
    match error.kind() {
        io::ErrorKind::NotFound if path.exists() => {
            let hint = if first_line(path).ends_with(b"\r") {
                "; that line ends as on Windows, with a carriage return: take those away (dos2unix)"
            } else {
                ""
            };
            format!(
                "cannot start {name}: the interpreter in the first line of {place} is not there{hint}"
            )
        }
        io::ErrorKind::NotFound => cannot_run(program, path),
        _ if is_not_a_program(error) => {
            let hint = if first_line(path).starts_with(b"\xEF\xBB\xBF#!") {
                "; a byte order mark stands before its #!: save it without one"
            } else {
                ""
            };
            format!(
                "cannot start {name}: {place} is neither a program nor a script that begins with \
                 #!{hint}"
            )
        }
        _ => format!("cannot start {name}: {error} ({place})"),
    }
}

/// The beginning of a script, up to its first line's end; empty where it cannot be read.
fn first_line(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_end(&mut text));
    let line = text.split(|&b| b == b'\n').next().filter(|_| read.is_ok());
    line.unwrap_or_default().to_vec()
}

/// What is amiss where a program's name was written for a shell.
fn shell_hint(program: &OsStr) -> &'static str {
    match program.as_bytes() {
        [b'~', b'/', ..] => "; no shell reads ~: write the whole path",
        name if name.contains(&b'$') => "; no shell reads $: write what it stands for",
        name if name.contains(&b' ') => {
            "; no shell takes it apart: each word is a string of its own"
        }
        _ => "",
    }
}

/// The file may be executed and is nothing that can be; this error has no kind of its own.
pub(super) fn is_not_a_program(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

fn cannot_run(program: &OsStr, path: &Path) -> String {
    let why = match path.metadata() {
        Ok(there) if there.is_dir() => "is a folder".to_owned(),
        Ok(_) => "is not executable for us".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!("is not there{}", shell_hint(program))
        }
        Err(error) => format!("cannot be read: {error}"),
    };
    let place = one_line(path.as_os_str().as_bytes());
    format!("cannot start {}: {place} {why}", shown(program))
}

/// A program's name in a message. It may hold any bytes, since a file's name may be part of it.
fn shown(program: &OsStr) -> String {
    format!("\"{}\"", one_line(program.as_bytes()))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

/// Variables that are the same for every task of a route, a later one over an earlier one: the known
/// few of ours, what the route passes on, what it sets.
pub(super) fn environment(route: &Route) -> Vec<(OsString, OsString)> {
    let ours = std::env::vars_os().filter(|(name, _)| {
        ["PATH", "HOME", "LANG", "TZ", "USER"].iter().any(|known| name == known)
            || name.as_bytes().starts_with(b"LC_")
            || route.pass_env.iter().any(|passed| name == passed.as_str())
    });
    ours.chain(route.env.iter().map(|(name, value)| (name.into(), value.into()))).collect()
}

/// The PATH in which a worker with this environment finds its programs.
pub(super) fn search_path(environment: &[(OsString, OsString)]) -> &OsStr {
    let last = environment.iter().rfind(|(name, _)| name == "PATH");
    last.map_or(OsStr::new(limits::PATH), |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Goal: what is found is what a shell would find, and what is not found says where was looked.
    /// Method: a spool with a script, one without the bit, a folder; PATH with a decoy and an empty part.
    #[test]
    fn programs_are_found_as_documented() {
        let spool = tempfile::tempdir().unwrap();
        let at = |name: &str| spool.path().join(name);
        for folder in ["bin", "decoy", "decoy/tool", "plain"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        for (name, mode) in [("bin/tool", 0o755), ("plain/bare", 0o644), ("here", 0o755)] {
            std::fs::write(at(name), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        let find = |program: &str, search: &str| {
            find(OsStr::new(program), spool.path(), OsStr::new(search))
        };
        assert_eq!(find("tool", "decoy:bin"), Ok(at("bin/tool")));
        assert_eq!(find("here", "/nowhere:"), Ok(at("").join("here")));
        assert_eq!(find("bin/tool", ""), Ok(at("bin/tool")));
        assert_eq!(find("/bin/sh", ""), Ok("/bin/sh".into()));
        assert_eq!(
            find("python3.12", "/usr/nowhere:/none").unwrap_err(),
            "cannot start \"python3.12\": not found in PATH=/usr/nowhere:/none"
        );
        assert_eq!(
            find("here", "/nowhere").unwrap_err(),
            "cannot start \"here\": not found in PATH=/nowhere; one in the spool begins with ./"
        );
        assert!(
            find("bare", "plain").unwrap_err().ends_with("plain/bare is not executable for us")
        );
        assert!(find("./none", "").unwrap_err().ends_with("is not there"));
        assert!(find("decoy/tool", "").unwrap_err().ends_with("is a folder"));
        // As for a shell, which is not there.
        for (program, hint) in [
            ("~/tool", "is not there; no shell reads ~: write the whole path"),
            ("$HOME/tool", "is not there; no shell reads $: write what it stands for"),
            ("sort x", "=none; no shell takes it apart: each word is a string of its own"),
        ] {
            let error = find(program, "none").unwrap_err();
            assert!(error.ends_with(hint), "{error}");
        }
    }
}
