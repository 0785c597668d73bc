//! Spools to measure, and how to run a build on them.
//!
//! Must not know: what is compared.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Settings of a route that runs `/bin/true` on each file.
pub(crate) const TRUE: &str = "command = [\"/bin/true\", \"{path}\"]\nstdout = \"none\"\n";

/// A spool that vanishes when this is dropped.
pub(crate) struct Bench {
    path: PathBuf,
}

impl Bench {
    /// A new spool in `folder` with one route, of these settings, two jobs at once, and `files` small
    /// JSON files in `incoming/`.
    pub(crate) fn new(folder: &Path, route: &str, files: usize) -> Result<Self, String> {
        let bench = Self { path: folder.join("spool") };
        remove(&bench.path)?;
        let failed = |error: std::io::Error| format!("{}: {error}", bench.path.display());
        let incoming = bench.path.join("incoming");
        std::fs::create_dir_all(&incoming).map_err(failed)?;
        let settings = format!(
            "allow_root = true\nworkers = 2\nmin_free_disk = \"1 MiB\"\n[routes.main]\n{route}"
        );
        std::fs::write(bench.path.join("inboxd.toml"), settings).map_err(failed)?;
        for number in 0..files {
            let order =
                format!("{{\"id\": {number}, \"values\": [1, 2, 3], \"name\": \"some name\"}}\n");
            std::fs::write(incoming.join(format!("f{number:07}.json")), order).map_err(failed)?;
        }
        Ok(bench)
    }

    /// A folder of the spool.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The spool itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a build on it, quiet.
    pub(crate) fn start(&self, inboxd: &Path, command: &str) -> Result<Child, String> {
        Command::new(inboxd)
            .arg("--spool")
            .arg(&self.path)
            .arg(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", inboxd.display()))
    }

    /// Runs a build's `batch` on it to its end; all of the `files` must be done.
    pub(crate) fn batch(&self, inboxd: &Path, files: usize) -> Result<(), String> {
        let mut child = self.start(inboxd, "batch")?;
        let status = child.wait().map_err(|error| error.to_string())?;
        let done = names(&self.folder("done"))?.len();
        if status.success() && done == files {
            return Ok(());
        }
        Err(format!("inboxd: {status}, {done} of {files} done"))
    }

    /// Paths of the files in `incoming/`, each ended by a NUL, in a file of their own.
    pub(crate) fn list(&self) -> Result<PathBuf, String> {
        let list = self.path.with_extension("list");
        let mut text = Vec::new();
        for path in names(&self.folder("incoming"))? {
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            text.push(0);
        }
        std::fs::write(&list, text).map_err(|error| format!("{}: {error}", list.display()))?;
        Ok(list)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What stays is in the folder for temporary files.
        drop(remove(&self.path));
    }
}

/// Paths of what is in a folder.
pub(crate) fn names(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn remove(path: &Path) -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "the bench's own temporary folder")]
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}
