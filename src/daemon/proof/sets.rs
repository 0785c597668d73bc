//! Jobs of more than one file, in the world of the crash proof.
//!
//! A file called `pair…-N` comes with `NAME.c`, which is its part.
//!
//! A folder that is one job is called `set…-N`. In it stand `main`, whose first line is the id of the folder, and `part`,
//! which must always be where `main` is. Its worker adds to it, so that its ctime is no mark of it. It is
//! complete by `NAME.ok` beside it; a producer whose power went out before that makes it later.
//!
//! Must not know: how the keeper works.

use std::path::Path;

use super::story::{Source, Story, content_of, first_word, rel, write_new};
use crate::config::companions::Companion;
use crate::config::{Route, Unit};
use crate::fs::Filesystem;
use crate::fs::sim::{Seen, SimDir, SimFs};
use crate::spool::Shape;

/// Begins what stands in `part`.
const PART: &str = "part of ";
/// What a worker adds.
const ADDED: &[u8] = b"added";
/// What a sentinel holds.
const SENTINEL: &[u8] = b"ok";

/// The route of all folders that are one job.
pub(super) fn route(like: &Route) -> Route {
    Route {
        name: "sets".into(),
        glob: vec!["set*-*".into()],
        unit: Unit::Folder,
        done_file: Some("{name}.ok".into()),
        ..like.clone()
    }
}

/// The route of all files with companions.
pub(super) fn pairs(like: &Route) -> Route {
    let with = vec![Companion::parse("{name}.c").unwrap()];
    Route { name: "pairs".into(), glob: vec!["pair*-*".into()], with, ..like.clone() }
}

pub(super) fn is_pair(rel: &str) -> bool {
    first_word(rel).starts_with("pair")
}

/// Where the part of a job must be, by its own place.
pub(super) fn part_at(id: &str, at: &str) -> String {
    if is_pair(id) { format!("{at}.c") } else { format!("{at}/part") }
}

pub(super) fn is_set(rel: &str) -> bool {
    first_word(rel).starts_with("set")
}

/// The worker adds to its input, once.
pub(super) fn change(sim: &SimFs, path: &str) {
    write_new(sim, &format!("{path}/added"), ADDED);
}

/// What is in a folder, or says that it is complete, and is no file of its own for the judges.
pub(super) fn is_beside_the_point(path: &str, bytes: &[u8]) -> bool {
    // What a worker added nobody synced: its bytes may be gone. The user numbers what is taken away.
    let is_added = path.contains("/added") || path.contains("_added.");
    is_added || bytes == SENTINEL
}

/// Never input: it goes with its folder.
pub(super) fn is_sentinel(rel: &str) -> bool {
    rel.strip_suffix(".ok").is_some_and(is_set)
}

/// A file and its companion, each under a hidden name and synced, then renamed into place.
fn arrive(sim: &SimFs, parent: &Path, names: [(&str, &str); 2]) -> std::io::Result<SimDir> {
    let dir = sim.open_dir(&sim.root(), parent)?;
    for (name, text) in names {
        let hidden = format!(".{}", text.replace(['/', ' '], "_"));
        let file = sim.create(&dir, Path::new(&hidden), 0o644)?;
        sim.write_at(&file, 0, text.as_bytes())?;
        sim.sync_file(&file)?;
        sim.rename(&dir, Path::new(&hidden), &dir, Path::new(name))?;
    }
    Ok(dir)
}

/// Of which folder this is a part, by its id.
pub(super) fn part_of(bytes: &[u8]) -> Option<String> {
    String::from_utf8_lossy(bytes).strip_prefix(PART).map(str::to_owned)
}

/// The path of the folder where this is that of its `main`.
pub(super) fn folder_of(path: &str) -> &str {
    path.strip_suffix("/main").unwrap_or(path)
}

/// Where the file stands that says what a job is about.
pub(super) fn main_of(path: &str, rel: &str) -> String {
    if is_set(rel) { format!("{path}/main") } else { path.to_owned() }
}

/// What the place of a job must tell of it.
pub(super) fn shape_of(of: &str) -> Shape {
    if is_set(of) {
        Shape::folder(&rel(of))
    } else if is_pair(of) {
        Shape::main(&rel(of))
    } else {
        Shape::File
    }
}

/// A source's copy, durable, with all that comes with it.
pub(super) fn plant(sim: &SimFs, path: &str, source: &Source) {
    sim.plant(&main_of(path, &source.rel), &content_of(&source.id));
    if is_set(&source.rel) || is_pair(&source.rel) {
        sim.plant(&part_at(&source.id, path), format!("{PART}{}", source.id).as_bytes());
    }
}

fn is_there(sim: &SimFs, rel: &str) -> bool {
    [format!("incoming/{rel}/main"), format!("incoming/{rel}.ok")]
        .iter()
        .any(|path| sim.read(path).is_some())
}

impl Story {
    /// A folder that is durable and complete before anyone can see it.
    pub(super) fn drop_set(&mut self, sim: &SimFs, rel: &str) {
        if is_there(sim, rel) {
            return;
        }
        let id = self.new_id(rel, true);
        sim.plant(&format!("incoming/{rel}/main"), id.as_bytes());
        sim.plant(&format!("incoming/{rel}/part"), format!("{PART}{id}").as_bytes());
        sim.plant(&format!("incoming/{rel}.ok"), SENTINEL);
        self.sealed.insert(id);
    }

    /// A careful producer: made under a hidden name and synced, renamed into place, then the sentinel.
    pub(super) fn careful_set(&mut self, sim: &SimFs, rel: &str) {
        if is_there(sim, rel) {
            return;
        }
        let id = self.new_id(rel, false);
        let parent =
            rel.rsplit_once('/').map_or("incoming".to_owned(), |(p, _)| format!("incoming/{p}"));
        let (parent, name) = (Path::new(&parent), rel.rsplit('/').next().unwrap());
        let hidden = format!(".{name}{}", id.replace('/', "_"));
        let arrive = || -> std::io::Result<SimDir> {
            let dir = sim.open_dir(&sim.root(), parent)?;
            sim.make_dir(&dir, Path::new(&hidden), 0o750)?;
            let folder = sim.open_dir(&dir, Path::new(&hidden))?;
            for (name, text) in [("main", id.clone()), ("part", format!("{PART}{id}"))] {
                let file = sim.create(&folder, Path::new(name), 0o644)?;
                sim.write_at(&file, 0, text.as_bytes())?;
                sim.sync_file(&file)?;
            }
            sim.sync_dir(&folder)?;
            sim.rename(&dir, Path::new(&hidden), &dir, Path::new(name))?;
            Ok(dir)
        };
        let Ok(dir) = arrive() else { return drop(self.files.remove(&id)) };
        let is_durable = sim.sync_dir(&dir).is_ok();
        self.files.get_mut(&id).unwrap().durable = is_durable;
        let seal = || -> std::io::Result<()> {
            let file = sim.create(&dir, Path::new(&format!("{name}.ok")), 0o644)?;
            sim.write_at(&file, 0, SENTINEL)?;
            sim.sync_file(&file)?;
            sim.sync_dir(&dir)
        };
        if is_durable && seal().is_ok() {
            self.sealed.insert(id);
        }
    }

    /// A file that comes with another one, which a careful producer makes first: only both are a job.
    pub(super) fn careful_pair(&mut self, sim: &SimFs, rel: &str) {
        let part = format!("{rel}.c");
        if [rel, part.as_str()].iter().any(|it| sim.read(&format!("incoming/{it}")).is_some()) {
            return;
        }
        let id = self.new_id(rel, false);
        self.unfinished.insert(id.clone());
        let (parent, name) = rel.rsplit_once('/').unwrap_or(("", rel));
        let parent = Path::new("incoming").join(parent);
        let part = format!("{PART}{id}");
        let came = arrive(sim, &parent, [(&format!("{name}.c"), &part), (name, &id)]);
        let is_durable = came.is_ok_and(|dir| sim.sync_dir(&dir).is_ok());
        if is_durable {
            self.files.get_mut(&id).unwrap().durable = true;
            self.unfinished.remove(&id);
        }
    }

    /// Both are durable before anyone can see them.
    pub(super) fn drop_pair(&mut self, sim: &SimFs, rel: &str) {
        let (main, part) = (format!("incoming/{rel}"), format!("incoming/{rel}.c"));
        if sim.read(&main).is_none() && sim.read(&part).is_none() {
            let id = self.new_id(rel, true);
            sim.plant(&part, format!("{PART}{id}").as_bytes());
            sim.plant(&main, id.as_bytes());
        }
    }

    /// The same for pairs: what is missing comes, and then all of it is synced.
    fn finish_pairs(&mut self, sim: &SimFs) {
        for id in std::mem::take(&mut self.unfinished) {
            let part = format!("{PART}{id}");
            let is_there = |text: &str| {
                let is_it =
                    |seen: &Seen| matches!(seen, Seen::File(it) if it[..] == *text.as_bytes());
                sim.tree().iter().any(|(path, seen)| is_it(seen) && !path.contains("/."))
            };
            let rel = self.files[&id].rel.clone();
            match (is_there(&id), is_there(&part)) {
                (false, false) => drop(self.files.remove(&id)),
                (true, false) => sim.plant(&format!("incoming/{rel}.c"), part.as_bytes()),
                (false, true) => sim.plant(&format!("incoming/{rel}"), id.as_bytes()),
                (true, true) => {}
            }
            sim.user_sync();
            self.written_back();
        }
    }

    /// Producers whose power went out come back and finish what they began.
    pub(super) fn finish_sets(&mut self, sim: &SimFs) {
        self.finish_pairs(sim);
        for (path, seen) in sim.tree() {
            let Seen::File(bytes) = seen else { continue };
            let Some(rel) = path.strip_prefix("incoming/").and_then(|it| it.strip_suffix("/main"))
            else {
                continue;
            };
            let id = String::from_utf8_lossy(&bytes).into_owned();
            let sentinel = format!("incoming/{rel}.ok");
            if !rel.starts_with('.') && !rel.contains("/.") && !self.sealed.contains(&id) {
                if sim.read(&sentinel).is_some() {
                    sim.user_remove(&sentinel);
                }
                sim.plant(&sentinel, SENTINEL);
                self.sealed.insert(id);
            }
        }
    }
}
