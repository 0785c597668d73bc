//! When settings are read again, and which of them come into force.
//!
//! Must not know: the keeper, jobs, the runtime. It looks at files and gives settings or reasons.
//!
//! Invariants
//! - What cannot be used changes nothing: the old settings stay in force, or the old version of a
//!   route whose file in `routes.d/` is broken.
//! - A change is taken up once the files were the same at two looks, so that a file is rarely read
//!   while it is being written; one that is, is read again when it is whole.
//! - By itself it says each reason once, until the files are in order again.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Loaded, Settings, load};

use super::shell;

/// How a daemon follows its settings.
#[derive(Clone, Debug)]
pub struct Follow {
    /// What was said of the settings at start.
    pub broken: Vec<ConfigError>,
    /// SIGHUP reads the settings again; otherwise it drains, as the end of a terminal should.
    pub on_hup: bool,
}

/// What came of reading the settings again.
#[derive(Debug, PartialEq)]
pub enum Reload {
    /// Nothing to do, nothing new to say.
    Same,
    /// Nothing of it can be used.
    Refused(Vec<String>),
    /// They can be used.
    Take {
        /// Also the old versions of routes whose files are broken.
        settings: Box<Settings>,
        /// Files that cannot be used.
        broken: Vec<RouteRefused>,
    },
}

/// A file of `routes.d/` that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRefused {
    /// Why.
    pub error: String,
    /// Its old version stays in force.
    pub is_kept: bool,
}

/// The settings in force, and what is known of their files.
#[derive(Debug)]
pub struct Reloader {
    spool: PathBuf,
    in_force: Settings,
    /// As they were at the last look, and when they were read; at start nobody knows when.
    seen: Signature,
    read: Option<Signature>,
    /// Said already.
    told: Vec<String>,
}

/// Name, mtime, ctime, size and inode of every file that matters.
type Signature = Vec<(OsString, Option<[i64; 4]>)>;

impl Reloader {
    /// `spool` is as it stands in messages.
    pub fn new(spool: PathBuf, in_force: Settings, follow: &Follow) -> Self {
        let told = follow.broken.iter().map(ToString::to_string).collect();
        Self { seen: signature(&spool), spool, in_force, read: None, told }
    }

    /// Looks whether files have changed, and if so reads them.
    pub fn look(&mut self) -> Reload {
        let now = signature(&self.spool);
        let is_still = now == self.seen;
        self.seen = now;
        if !is_still || self.read.as_ref() == Some(&self.seen) {
            return Reload::Same;
        }
        let told = std::mem::take(&mut self.told);
        match self.read() {
            Reload::Refused(reasons) if reasons == told => Reload::Same,
            Reload::Take { settings, mut broken } => {
                broken.retain(|refused| !told.contains(&refused.error));
                let is_same = *settings == self.in_force && broken.is_empty();
                if is_same { Reload::Same } else { Reload::Take { settings, broken } }
            }
            other => other,
        }
    }

    /// Reads the settings, because someone asked for it.
    pub fn read(&mut self) -> Reload {
        // Before they are read: what changes meanwhile is seen at the next look.
        self.read = Some(signature(&self.spool));
        let reload = self.read_now();
        self.told = match &reload {
            Reload::Refused(reasons) => reasons.clone(),
            Reload::Take { broken, .. } => broken.iter().map(|it| it.error.clone()).collect(),
            Reload::Same => Vec::new(),
        };
        reload
    }

    /// They are in force now.
    pub fn took(&mut self, settings: Settings) {
        self.in_force = settings;
    }

    fn read_now(&self) -> Reload {
        let Loaded { mut settings, broken } = match load(&self.spool) {
            Ok(loaded) => loaded,
            Err(errors) => {
                return Reload::Refused(errors.iter().map(ToString::to_string).collect());
            }
        };
        let allowed = std::fs::canonicalize(&self.spool)
            .map_err(|error| format!("cannot find {}: {error}", self.spool.display()))
            .and_then(|path| shell::check_places(&path).map_err(|error| error.to_string()))
            .and_then(|()| shell::check_user(&settings).map_err(|error| error.to_string()));
        if let Err(reason) = allowed {
            return Reload::Refused(vec![reason]);
        }
        let refused = broken
            .iter()
            .map(|error| RouteRefused {
                error: error.to_string(),
                is_kept: self.keep_old(error.path(), &mut settings),
            })
            .collect();
        Reload::Take { settings: Box::new(settings), broken: refused }
    }

    /// Puts the old version of a broken file's route among the new settings, if there is one and
    /// nothing else has its name.
    fn keep_old(&self, path: &Path, settings: &mut Settings) -> bool {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_it = |origin: &str| origin.starts_with("routes.d/");
        if let Some(there) = settings.routes.iter().find(|route| route.name == *name) {
            // Put there for an earlier error in the same file.
            return is_it(&there.origin);
        }
        let Some(old) = self.in_force.routes.iter().find(|route| route.name == *name) else {
            return false;
        };
        // Where it was: behind those of `inboxd.toml`, by name.
        let before = |other: &&crate::config::Route| !is_it(&other.origin) || *other.name < *name;
        let at = settings.routes.iter().take_while(before).count();
        settings.routes.insert(at, old.clone());
        true
    }
}

/// Cheap: names and `lstat`-like numbers, no content. What cannot be read has none, and `load` says why.
fn signature(spool: &Path) -> Signature {
    let of = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        let size = i64::try_from(meta.len()).unwrap_or(i64::MAX);
        let time = |seconds: i64, ns: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
        let modified = time(meta.mtime(), meta.mtime_nsec());
        // An inode number is 64 bits of anything; only whether it is the same matters.
        Some([modified, time(meta.ctime(), meta.ctime_nsec()), size, meta.ino().cast_signed()])
    };
    let main = spool.join("inboxd.toml");
    let mut found = vec![(OsString::from("inboxd.toml"), of(&main))];
    let entries = std::fs::read_dir(spool.join("routes.d")).into_iter().flatten().flatten();
    let mut routes: Signature = entries
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "toml"))
        .map(|entry| (entry.file_name(), of(&entry.path())))
        .collect();
    routes.sort();
    found.append(&mut routes);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Filesystem, RealFs};

    const ROUTE: &str = "glob = \"*.txt\"\ncommand = [\"cat\"]\n";

    fn write(spool: &Path, name: &str, text: &str) {
        let path = spool.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn main_file(workers: usize) -> String {
        format!("allow_root = true\nworkers = {workers}\n[routes.z]\ncommand = [\"true\"]\n")
    }

    /// A folder that only we may write to, as a spool must be.
    fn spool() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), "inboxd.toml", &main_file(1));
        temp
    }

    fn reloader(spool: &Path) -> Reloader {
        let Loaded { settings, broken } = load(spool).unwrap();
        let mut it = Reloader::new(spool.to_owned(), settings, &Follow { broken, on_hup: true });
        assert_eq!(it.look(), Reload::Same, "nothing has changed since the start");
        it
    }

    /// As the shell does it once a second.
    fn look_until_still(it: &mut Reloader) -> Reload {
        match it.look() {
            Reload::Same => it.look(),
            other => panic!("taken up at the first look, while it may still be written: {other:?}"),
        }
    }

    fn names(settings: &Settings) -> Vec<&str> {
        settings.routes.iter().map(|route| route.name.as_str()).collect()
    }

    /// Goal: a new file is taken up once it is still, and only once. Method: looks before and after.
    #[test]
    fn a_new_file_is_taken_up_once() {
        let temp = spool();
        let mut it = reloader(temp.path());
        write(temp.path(), "routes.d/a.toml", ROUTE);
        let Reload::Take { settings, broken } = look_until_still(&mut it) else { panic!() };
        assert_eq!((names(&settings), broken), (vec!["z", "a"], Vec::new()));
        it.took(*settings);
        assert_eq!(it.look(), Reload::Same);
        write(temp.path(), "inboxd.toml", &main_file(3));
        let Reload::Take { settings, .. } = look_until_still(&mut it) else { panic!() };
        assert_eq!(settings.workers, 3);
    }

    /// Goal: settings that cannot be used change nothing and are said once, and again when asked for.
    /// Method: a misspelt key; the same mistake in another text; an explicit read; the old text.
    #[test]
    fn bad_settings_change_nothing() {
        let temp = spool();
        let mut it = reloader(temp.path());
        write(temp.path(), "inboxd.toml", "workrs = 2\n");
        assert!(matches!(look_until_still(&mut it), Reload::Refused(_)));
        assert_eq!(it.look(), Reload::Same, "said twice");
        write(temp.path(), "inboxd.toml", "workrs = 2\n# and a comment\n");
        assert_eq!(look_until_still(&mut it), Reload::Same, "said twice");
        let Reload::Refused(reasons) = it.read() else { panic!() };
        assert!(reasons.iter().any(|reason| reason.contains("workers")), "{reasons:?}");
        write(temp.path(), "inboxd.toml", &main_file(1));
        assert_eq!(look_until_still(&mut it), Reload::Same, "they are those in force");
        assert_eq!(it.told, Vec::<String>::new());
    }

    /// Goal: a file that breaks leaves its route as it was, in its place; one that never was whole has
    /// no old version; a removed one is gone. Method: each, one after the other.
    #[test]
    fn a_broken_file_keeps_its_old_route() {
        let temp = spool();
        write(temp.path(), "routes.d/b.toml", ROUTE);
        write(temp.path(), "routes.d/c.toml", ROUTE);
        let mut it = reloader(temp.path());
        write(temp.path(), "routes.d/b.toml", "glub = 1\nglab = 2\n");
        write(temp.path(), "routes.d/a.toml", "glub = 1\n");
        let Reload::Take { settings, broken } = look_until_still(&mut it) else { panic!() };
        assert_eq!(names(&settings), ["z", "b", "c"]);
        assert_eq!(settings.routes[1].glob, ["*.txt"]);
        let kept: Vec<_> =
            broken.iter().map(|it| (it.error.contains("/b.toml"), it.is_kept)).collect();
        let of_a = kept.iter().filter(|it| **it == (false, false)).count();
        let of_b = kept.iter().filter(|it| **it == (true, true)).count();
        assert!(of_a >= 1 && of_b >= 2 && of_a + of_b == kept.len(), "{broken:?}");
        it.took(*settings);
        let folder = RealFs.open_root(temp.path()).unwrap();
        RealFs.remove_file(&folder, Path::new("routes.d/b.toml")).unwrap();
        let Reload::Take { settings, broken } = look_until_still(&mut it) else { panic!() };
        assert_eq!((names(&settings), broken.len()), (vec!["z", "c"], 0), "said once: {broken:?}");
    }
}
