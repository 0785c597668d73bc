//! Which of the files among its arguments a worker writes itself: its log, its pid file.
//!
//! Must not know: workers, or what becomes of one whose files were changed.
//!
//! A worker that stays is ended when a file that it was started with is changed: who mends a script and drops a file
//! must not get the old script's answer. A log is changed by each job, and would end its worker after each. So a file
//! is the worker's own while one of its processes has it open for writing, or where all that it says is the number of
//! one of its processes. No editor's work looks so, and nothing else is guessed: a file that a worker opens and closes
//! again for each job (`>> log`) still ends it, and belongs into its settings or `env`.
//!
//! Assumption: its processes are those of its group.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Pid;

use super::proc;

/// A pid file has no more bytes.
const PID_FILE: u64 = 32;
/// The two bits of a descriptor's flags that say whether it writes: `O_ACCMODE`.
const ACCESS: u32 = 3;

/// Whether the worker of this group writes this file itself.
pub(super) fn is_written_by(path: &Path, group: Pid) -> bool {
    let Ok(meta) = path.metadata() else { return false };
    let all = proc::pids().unwrap_or_default();
    let its = |pid: &Pid| proc::stat(*pid).is_some_and(|stat| stat.group == Some(group));
    let processes: Vec<Pid> = all.into_iter().filter(its).collect();
    let number = pid_in(path, &meta);
    processes.iter().any(|pid| Some(*pid) == number || has_open_to_write(*pid, &meta))
}

/// The number that a pid file says.
fn pid_in(path: &Path, meta: &Metadata) -> Option<Pid> {
    if !meta.is_file() || meta.len() > PID_FILE {
        return None;
    }
    let mut text = String::new();
    File::open(path).ok()?.take(PID_FILE).read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

fn has_open_to_write(pid: Pid, meta: &Metadata) -> bool {
    let Ok(open) = std::fs::read_dir(proc::file(pid, "fd")) else { return false };
    let is_it = |other: Metadata| (other.dev(), other.ino()) == (meta.dev(), meta.ino());
    let writes = |number: &std::ffi::OsStr| {
        let info = std::fs::read_to_string(proc::file(pid, "fdinfo").join(number));
        let flags = info
            .ok()?
            .lines()
            .find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok())?;
        Some(flags & ACCESS != 0)
    };
    open.filter_map(Result::ok).any(|entry| {
        entry.path().metadata().is_ok_and(is_it) && writes(&entry.file_name()) == Some(true)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Has the file open for writing, and after a line from us for reading only.
    const WORKER: &str =
        "exec 3>>\"$1\"; echo open; read go; exec 3>&-; exec 3<\"$1\"; echo shut; read go";

    /// Goal: what a worker writes itself is told from what others write. Method: a shell with a group of its own as
    /// the worker: a file open for writing, the same one for reading only; a file with its number, with another's,
    /// with more.
    #[test]
    fn own_files_are_told_from_edited_ones() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        let mut worker = Command::new("sh");
        worker.args(["-c", WORKER, "sh"]).arg(&path).process_group(0);
        let mut worker = worker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&worker);
        let (mut told, mut says) =
            (worker.stdin.take().unwrap(), BufReader::new(worker.stdout.take().unwrap()));
        let mut hear = |what: &str| {
            let mut line = String::new();
            says.read_line(&mut line).unwrap();
            assert_eq!(line.trim(), what);
        };
        hear("open");
        assert!(is_written_by(&path, pid));
        assert!(!is_written_by(&path.with_file_name("other"), pid));
        writeln!(told, "go").unwrap();
        hear("shut");
        assert!(!is_written_by(&path, pid));
        for (text, own) in
            [(format!("{pid}\n"), true), ("1\n".to_owned(), false), (format!("{pid} x"), false)]
        {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(is_written_by(&path, pid), own, "{text}");
        }
        drop(told);
        worker.wait().unwrap();
    }
}
