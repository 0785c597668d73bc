//! Which job or file an argument means: a path below `incoming/`, the beginning of a job id, or a path
//! in the spool.
//!
//! Must not know: what is done with it. It looks, and changes nothing.
//!
//! In this order, since it goes from the plainest to the least likely:
//! 1. a path that exists in the spool, from here or from the spool's folder: `inbox/error/x`, `error/x`;
//! 2. the path that a job had below `incoming/` (REL), the newest job of it;
//! 3. the beginning of a job id, if it is of one job only.
//!
//! Names are bytes all the way.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::{Failed, SpoolArg, below, print_line, show};
use crate::config::limits;
use crate::core::rel::acts;
use crate::core::{JobId, RelPath};
use crate::daemon::control::Ask;
use crate::daemon::history::{self, JobLine};
use crate::fs::{Filesystem, RealFs, real::RealDir, walk_files};
use crate::journal::record::Rel;
use crate::spool::{Claimed, Place};

/// Candidates that are listed for an id that is not unique.
const LISTED: usize = 5;

/// A folder of the spool that holds files of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// Not claimed.
    Incoming,
    /// Claimed.
    Processing,
    /// Succeeded.
    Done,
    /// Failed.
    Error,
    /// Made files.
    Output,
}

impl Tree {
    const ALL: [Self; 5] =
        [Self::Incoming, Self::Processing, Self::Done, Self::Error, Self::Output];

    /// Its name below the spool.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Incoming => "incoming",
            Self::Processing => "processing",
            Self::Done => "done",
            Self::Error => "error",
            Self::Output => "output",
        }
    }
}

/// What an argument may mean.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As it was typed, escaped.
    pub(crate) shown: String,
    /// Where it points in the spool.
    pub(crate) place: Option<(Tree, RelPath)>,
    /// The path below `incoming/`, as typed or as the place says.
    pub(crate) rel: Option<RelPath>,
    /// The job, if a path below `processing/` names it.
    pub(crate) job: Option<JobId>,
    /// What may be the beginning of an id.
    prefix: Option<String>,
}

impl Target {
    /// Reads an argument.
    pub(crate) fn new(spool: &SpoolArg, typed: &OsStr) -> Self {
        let mut target = Self {
            shown: escaped(typed.as_bytes()),
            place: place_of(&spool.path, Path::new(typed)),
            rel: None,
            job: None,
            prefix: None,
        };
        match &target.place {
            Some((Tree::Processing, path)) => {
                let mut parts = path.components();
                let first = parts.next().unwrap_or_default();
                target.job = Place::parse(OsStr::from_bytes(first)).map(Place::job);
                let rest: Vec<&[u8]> = parts.collect();
                target.rel = RelPath::new(rest.join(&b'/'));
            }
            Some((_, path)) => target.rel = Some(path.clone()),
            None => {
                let bytes = typed.as_bytes();
                let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
                target.rel = RelPath::new(bytes);
                let text = std::str::from_utf8(bytes).unwrap_or_default();
                let is_id = (limits::ID_PREFIX..=JobId::TEXT_LEN).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                target.prefix = is_id.then(|| text.to_owned());
            }
        }
        target
    }

    /// The newest job of the job log that it means. An id that several jobs share is an error.
    pub(crate) fn line(&self, spool: &SpoolArg) -> Result<Option<JobLine>, Failed> {
        let mut by_id: BTreeMap<JobId, JobLine> = BTreeMap::new();
        let mut found = None;
        let place = self.place.as_ref().and_then(|(tree, path)| {
            let mut bytes = tree.name().as_bytes().to_vec();
            bytes.push(b'/');
            bytes.extend_from_slice(path.as_bytes());
            matches!(tree, Tree::Done | Tree::Error).then(|| RelPath::new(bytes)).flatten()
        });
        let read = history::read(&spool.path, &mut |line| {
            let means = match (&place, self.job) {
                (_, Some(job)) => line.job == job,
                (Some(place), _) => line.place.as_ref().is_some_and(|at| at.0 == *place),
                (None, None) => self.rel.as_ref() == Some(&line.rel.0),
            };
            if means {
                found = Some(line);
                return false;
            }
            let begins = self.prefix.as_ref().is_some_and(|p| line.job.to_string().starts_with(p));
            if begins && by_id.len() < LISTED {
                by_id.insert(line.job, line);
            }
            true
        });
        read.map_err(|error| {
            Failed::runtime(format!("cannot read {}: {error}", below(spool, "log")))
        })?;
        if found.is_some() || self.is_elsewhere(spool) {
            return Ok(found);
        }
        let mut ids = by_id.into_values();
        match (ids.next(), ids.next()) {
            (one, None) => Ok(one),
            (first, second) => {
                let all = first.into_iter().chain(second).chain(ids);
                let lines: Vec<String> =
                    all.map(|line| format!("\n  {}  {}", line.job, line.rel.0)).collect();
                Err(Failed::usage(format!(
                    "several job ids begin with {}; give more of it{}",
                    self.shown,
                    lines.concat()
                )))
            }
        }
    }

    /// A file of this very name stands where files wait or have failed, so it is meant and not an id.
    fn is_elsewhere(&self, spool: &SpoolArg) -> bool {
        let Some(rel) = &self.rel else { return false };
        [Tree::Incoming, Tree::Error, Tree::Done]
            .iter()
            .any(|tree| std::fs::symlink_metadata(path_in(spool, *tree, rel)).is_ok())
    }

    /// The claimed job that it means, and its path, as `processing/` shows it.
    pub(crate) fn claimed(
        &self,
        spool: &SpoolArg,
    ) -> Result<Option<(Claimed, Option<RelPath>)>, Failed> {
        let Ok(dir) = RealFs.open_root(&spool.path.join("processing")) else { return Ok(None) };
        let mut by_id = Vec::new();
        let cannot = |error: io::Error| {
            Failed::runtime(format!("cannot read {}: {error}", below(spool, "processing")))
        };
        for entry in RealFs.list(&dir).map_err(cannot)? {
            let Some(Place::Job(claimed)) = Place::parse(&entry.map_err(cannot)?.name) else {
                continue;
            };
            let folder = Place::Job(claimed).name();
            let holds =
                |rel: &&RelPath| RealFs.stat(&dir, &Path::new(&folder).join(rel.as_path())).is_ok();
            if self.job == Some(claimed.job) {
                return Ok(Some((claimed, self.rel.clone())));
            }
            // A path that names another folder of the spool is not about a claim.
            if self.place.as_ref().is_none_or(|(tree, _)| *tree == Tree::Incoming)
                && let Some(rel) = self.rel.as_ref().filter(holds)
            {
                return Ok(Some((claimed, Some(rel.clone()))));
            }
            if self.prefix.as_ref().is_some_and(|p| claimed.job.to_string().starts_with(p)) {
                by_id.push(claimed);
            }
        }
        by_id.retain(|claimed| holds_job(&dir, *claimed));
        match by_id.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some((*one, None))),
            _ => Err(Failed::usage(format!(
                "several running jobs have ids that begin with {}; give more of it",
                self.shown
            ))),
        }
    }

    /// A file of it waits, or is claimed.
    pub(crate) fn has_not_ended(&self, spool: &SpoolArg) -> bool {
        let waits = |rel: &RelPath| path_in(spool, Tree::Incoming, rel).symlink_metadata().is_ok();
        self.rel.as_ref().is_some_and(waits) || matches!(self.claimed(spool), Ok(Some(_)))
    }

    /// It as the shell takes it.
    pub(crate) fn typed(&self) -> String {
        self.rel.as_ref().map_or_else(|| self.shown.clone(), quoted)
    }

    /// The question to a daemon.
    pub(crate) fn question(&self, claimed: Option<JobId>) -> Option<Ask> {
        match (claimed, &self.rel) {
            (Some(job), _) => Some(Ask::Find { job: Some(job), rel: None }),
            (None, Some(rel)) => Some(Ask::Find { job: None, rel: Some(Rel(rel.clone())) }),
            (None, None) => None,
        }
    }

    /// Where its file stands in `error/`, with the reason: by its path there, by its REL, as the job log has it,
    /// or by its id.
    pub(crate) fn failure(&self, spool: &SpoolArg, line: Option<&JobLine>) -> Option<Failure> {
        let named = match &self.place {
            Some((Tree::Error, path)) => Some(path.clone()),
            Some(_) => None,
            None => self.rel.clone(),
        };
        let logged = line.and_then(Failure::logged);
        let found = [named, logged].into_iter().flatten().find_map(|at| Failure::at(spool, &at));
        // All reasons are read for it: not where the job log knows that nothing of the job failed.
        let may_be = line.is_none_or(JobLine::has_failures);
        let id = self.prefix.as_ref().filter(|_| may_be);
        found.or_else(|| id.and_then(|id| Failure::of_id(spool, id)))
    }
}

/// Whether a job's folder in `processing/` holds one: one that was emptied is kept for the next claim.
pub(crate) fn holds_job(processing: &RealDir, claimed: Claimed) -> bool {
    let mut holds = claimed.is_folder();
    let folder = RealFs.open_dir(processing, Path::new(&Place::Job(claimed).name()));
    let walked = folder.and_then(|folder| {
        walk_files(&RealFs, &folder, &|_| true, &mut |_, _, _| {
            holds = true;
            false
        })
    });
    walked.is_ok() && holds
}

/// A file of a tree as the user may paste it.
pub(crate) fn path_in(spool: &SpoolArg, tree: Tree, rel: &RelPath) -> PathBuf {
    spool.path.join(tree.name()).join(rel.as_path())
}

/// The same, escaped for people.
pub(crate) fn shown_in(spool: &SpoolArg, tree: Tree, rel: &RelPath) -> String {
    escaped(path_in(spool, tree, rel).as_os_str().as_bytes())
}

/// A name as the shell takes it back: quoted where it must be.
pub(crate) fn quoted(rel: &RelPath) -> String {
    quoted_bytes(rel.as_bytes())
}

/// The same for any bytes of an argument.
pub(crate) fn quoted_bytes(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-/+=:,@%".contains(b);
    let is_plain = bytes.iter().all(plain) && !bytes.starts_with(b"-");
    let is_printable = std::str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(acts));
    let dash = if bytes.starts_with(b"-") { "./" } else { "" };
    match std::str::from_utf8(bytes) {
        Ok(text) if is_plain => text.to_owned(),
        Ok(text) if is_printable => format!("'{dash}{}'", text.replace('\'', r"'\''")),
        // What only $'…' can say (bash, zsh, ksh; POSIX since 2024).
        _ => {
            let mut out = format!("$'{dash}");
            for b in bytes {
                match b {
                    b'\'' | b'\\' => out.extend(['\\', char::from(*b)]),
                    b' '..=b'~' => out.push(char::from(*b)),
                    _ => out.extend(['\\', 'x', hex(b >> 4), hex(b & 15)]),
                }
            }
            out + "'"
        }
    }
}

fn hex(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0')
}

pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    crate::core::rel::escape_bytes(bytes, &mut out).unwrap_or(());
    out
}

/// What a path means in the spool; `None`: it is no path in it.
fn place_of(spool: &Path, typed: &Path) -> Option<(Tree, RelPath)> {
    let root = std::fs::canonicalize(spool).ok()?;
    let in_spool = |path: PathBuf| -> Option<(Tree, RelPath)> {
        let (tree, rest) = split(path.strip_prefix(&root).ok()?)?;
        Some((tree, rest))
    };
    // From here. Only the folder is resolved: the file may be a link, or be gone.
    let has_folder = typed.parent().is_some_and(|parent| !parent.as_os_str().is_empty());
    let here = match (typed.parent(), typed.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if has_folder { parent } else { Path::new(".") };
            std::fs::canonicalize(parent).ok().map(|parent| parent.join(name))
        }
        _ => None,
    };
    if let Some(place) = here.and_then(in_spool) {
        return Some(place);
    }
    if typed.is_absolute() {
        return in_spool(typed.to_owned());
    }
    // From the spool's folder: `error/x.json`. A name below incoming/ may look so too.
    let (tree, rest) = split(typed)?;
    std::fs::symlink_metadata(root.join(typed)).is_ok().then_some((tree, rest))
}

fn split(path: &Path) -> Option<(Tree, RelPath)> {
    let mut parts = path.components();
    let first = parts.next()?.as_os_str().to_owned();
    let tree = Tree::ALL.into_iter().find(|tree| first == tree.name())?;
    let rest: OsString = parts.as_path().as_os_str().to_owned();
    Some((tree, RelPath::new(rest.into_vec())?))
}

/// Says that nothing is known of a name, and what to do.
pub(crate) fn unknown(spool: &SpoolArg, target: &Target) -> Failed {
    let there = |rel: &RelPath| path_in(spool, Tree::Incoming, rel).symlink_metadata();
    let is_hidden = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if target.rel.as_ref().is_some_and(|rel| there(rel).is_err_and(|it| is_hidden(&it))) {
        return Failed::runtime(format!(
            "{} cannot be seen: a folder above it is closed to this user\n  Its owner: chmod -R \
             g+rwX,g+s FOLDER; inboxd status names it.",
            below(spool, "incoming") + "/" + &target.shown
        ));
    }
    if target.has_not_ended(spool) {
        return Failed::runtime(format!(
            "{} has not ended yet\n  Where it stands: inboxd explain {}",
            target.shown,
            target.typed()
        ));
    }
    Failed::runtime(format!(
        "nothing is known of {} in {}\n  It is in none of the folders and not in the log of recent \
         jobs; `inboxd jobs` lists those.",
        target.shown,
        spool.shown()
    ))
}

/// Prints lines of a label and a text each, the texts under each other.
pub(crate) fn print_facts(facts: &[(&str, String)]) {
    let rows: Vec<Vec<String>> = facts
        .iter()
        .map(|(label, text)| vec![format!("  {}", show::dim(label)), text.clone()])
        .collect();
    for line in show::table(&rows) {
        print_line(&line);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli) fn spool() -> (tempfile::TempDir, SpoolArg) {
        let temp = tempfile::tempdir().unwrap();
        for (name, _) in crate::spool::layout::FOLDERS {
            std::fs::create_dir_all(temp.path().join(name)).unwrap();
        }
        let spool = SpoolArg { path: temp.path().to_owned() };
        (temp, spool)
    }

    fn rel(bytes: impl Into<Vec<u8>>) -> RelPath {
        RelPath::new(bytes).unwrap()
    }

    /// Goal: paths in the spool, RELs and ids are told apart. Method: each form; a file that is gone;
    /// a REL that looks like a folder of the spool; what points outside.
    #[test]
    fn arguments_mean_what_people_mean() {
        let (temp, spool) = spool();
        std::fs::write(temp.path().join("error/x.json"), "").unwrap();
        let place = |typed: &OsStr| Target::new(&spool, typed).place;
        let full = temp.path().join("error/x.json");
        assert_eq!(place(full.as_os_str()), Some((Tree::Error, rel("x.json"))));
        assert_eq!(place(OsStr::new("error/x.json")), Some((Tree::Error, rel("x.json"))));
        let gone = temp.path().join("done/sub/y.json");
        assert_eq!(place(gone.as_os_str()), Some((Tree::Done, rel("sub/y.json"))));
        assert_eq!(place(OsStr::new("error/none.json")), None);
        assert_eq!(place(OsStr::new("/etc/hosts")), None);
        assert_eq!(
            Target::new(&spool, OsStr::new("error/none.json")).rel,
            Some(rel("error/none.json"))
        );
        assert_eq!(Target::new(&spool, OsStr::new("./a/b")).rel, Some(rel("a/b")));
        assert_eq!(Target::new(&spool, OsStr::new("../a")).rel, None);

        let id = JobId::next(JobId::MIN, 7, [3; 10]);
        let claim = temp.path().join(format!("processing/{id}.1/a/b.txt"));
        let target = Target::new(&spool, claim.as_os_str());
        assert_eq!((target.job, target.rel), (Some(id), Some(rel("a/b.txt"))));
        assert_eq!(Target::new(&spool, OsStr::new("0198f3")).prefix.as_deref(), Some("0198f3"));
        assert_eq!(Target::new(&spool, OsStr::new("019")).prefix, None);
        assert_eq!(Target::new(&spool, OsStr::new("0198.F3")).prefix, None);
    }

    /// Goal: what is printed to be typed is what a shell reads back. Method: names of each kind,
    /// printed by a real shell.
    #[test]
    fn commands_can_be_pasted() {
        for name in
            [&b"a/b.json"[..], b"two words", b"it's", b"-rf", b"$(x)", b"new\nline", b"\xff'\\"]
        {
            let typed = format!("printf %s {}", quoted(&rel(name)));
            let shell = std::process::Command::new("bash").args(["-c", &typed]).output().unwrap();
            let back = shell.stdout.strip_prefix(b"./").unwrap_or(&shell.stdout);
            assert_eq!(back, name, "{typed}");
        }
    }
}
