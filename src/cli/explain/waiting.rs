//! What stands in `incoming/`, and what it waits for.
//!
//! Must not know: jobs. What is claimed waits for something else.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Story, paused, place};
use crate::cli::target::{Tree, path_in, quoted, shown_in};
use crate::cli::{Failed, SpoolArg, below, join, show};
use crate::config::companions::Main;
use crate::config::{RouteTable, load};
use crate::core::RelPath;
use crate::core::pace::Rate;
use crate::daemon::control::Ask;
use crate::daemon::keeper::Shortage;
use crate::fs::{FileType, Filesystem, RealFs};
use crate::journal::record::Rel;

/// What stands in `incoming/`, and what it waits for.
pub(super) fn waiting(spool: &SpoolArg, rel: &RelPath) -> Result<Option<Story>, Failed> {
    let stat = RealFs
        .open_root(&spool.path.join("incoming"))
        .and_then(|incoming| RealFs.stat(&incoming, rel.as_path()));
    let Ok(stat) = stat else { return Ok(None) };
    let (state, why, next) = match stat.file_type {
        FileType::Dir if !is_one_job(spool, rel) => {
            ("a folder", "folders are no jobs, the files in them are".into(), None)
        }
        file_type => reason_to_wait(spool, rel, file_type)?,
    };
    let now = std::time::SystemTime::now();
    let born = u64::try_from(stat.ctime_ns).unwrap_or(0);
    let born = std::time::SystemTime::UNIX_EPOCH + Duration::from_nanos(born);
    let age = now.duration_since(born).unwrap_or_default();
    let head = vec![rel.to_string(), state.to_uppercase(), format!("for {}", show::time(age))];
    let mut facts = vec![("because", why.clone())];
    facts.push(("file", shown_in(spool, Tree::Incoming, rel)));
    facts.extend(next.map(|next| ("next", next)));
    let json = json!({
        "state": state, "rel": Rel(rel.clone()), "reason": why,
        "place": place(Tree::Incoming, rel),
    });
    Ok(Some(Story { head, facts, json }))
}

type Reason = (&'static str, String, Option<String>);

/// What a companion waits for.
fn companion(
    spool: &SpoolArg,
    table: &RouteTable,
    rel: &RelPath,
    (main, route): (&Main, &str),
) -> Reason {
    use std::os::unix::ffi::OsStrExt;
    let parent = std::ffi::OsStr::from_bytes(rel.parent());
    let names = std::fs::read_dir(spool.path.join("incoming").join(parent)).into_iter().flatten();
    let slash: &[u8] = if rel.parent().is_empty() { b"" } else { b"/" };
    let beside = |name: &[u8]| RelPath::new([rel.parent(), slash, name].concat());
    let mut names = names.filter_map(Result::ok).filter_map(|it| beside(it.file_name().as_bytes()));
    if let Some(main) = names.find(|name| table.is_main_of(name, rel)) {
        let why = format!("companion of {main}, and goes where {main} goes (route {route})");
        return (
            "companion",
            why,
            Some(format!("with its file: inboxd explain {}", quoted(&main))),
        );
    }
    let why = match main {
        Main::Is(main) => format!("companion of {main}, which is not there (route {route})"),
        Main::HasStem(stem) => {
            let stem = RelPath::new(stem.clone()).map_or_else(String::new, |it| it.to_string());
            format!("companion of a file {stem}.…, which is not there (route {route})")
        }
    };
    ("companion", why, Some("with its file, once that comes".to_owned()))
}

/// Whether a folder is one job, or part of one.
fn is_one_job(spool: &SpoolArg, rel: &RelPath) -> bool {
    let table = load(&spool.path).ok().and_then(|it| RouteTable::new(&it.settings).ok());
    let is_it =
        |table: RouteTable| table.find_folder(rel).is_some() || table.unit_above(rel).is_some();
    table.is_some_and(is_it)
}

fn reason_to_wait(spool: &SpoolArg, rel: &RelPath, file_type: FileType) -> Result<Reason, Failed> {
    let loaded = match load(&spool.path) {
        Ok(loaded) => Some(loaded),
        Err(errors) if spool.ask(&Ask::Status)?.is_none() => {
            let next = "mend the settings, then inboxd run".to_owned();
            return Ok((
                "waiting",
                format!("the settings are broken: {}", join(&errors)),
                Some(next),
            ));
        }
        // The daemon goes on with the old ones, which we do not have.
        Err(_) => None,
    };
    let table = loaded.as_ref().and_then(|loaded| RouteTable::new(&loaded.settings).ok());
    let (mut route, mut rate) = (None, None);
    if let (Some(table), Some(loaded)) = (&table, &loaded) {
        if let Some(pattern) = table.ignored(rel) {
            let next = "nothing, until it is renamed; a rename is an arrival".to_owned();
            return Ok(("ignored", show::ignored(pattern), Some(next)));
        }
        if let Some(folder) = table.unit_above(rel) {
            let why = format!("it is part of {folder}, and that folder is one job");
            let next = format!("with its folder: inboxd explain {}", quoted(&folder));
            return Ok(("part of a folder", why, Some(next)));
        }
        if let Some((at, main)) = table.companion_of(rel) {
            let route = loaded.settings.routes.get(at).map(|route| route.name.clone());
            return Ok(companion(spool, table, rel, (&main, &route.unwrap_or_default())));
        }
        let is_folder = file_type == FileType::Dir;
        if !is_folder && let Some(file) = table.announced(rel) {
            let there = path_in(spool, Tree::Incoming, &file).symlink_metadata().is_ok();
            let why = if there {
                format!("it says that {file} is complete, and goes where {file} goes")
            } else {
                format!("it says that {file} is complete, and {file} is not there")
            };
            let next = if there { "with its file" } else { "with its file, once that comes" };
            return Ok(("sentinel", why, Some(next.to_owned())));
        }
        let found = if is_folder { table.find_folder(rel) } else { table.find(rel) };
        let Some(at) = found else {
            let mut why = "no route takes it: no glob matches".to_owned();
            if let Some(broken) = loaded.broken.first() {
                why.extend(["; and a route is broken: ".to_owned(), broken.to_string()]);
            }
            let next = format!("a route whose glob matches, in {}", below(spool, "inboxd.toml"));
            return Ok(("held", why, Some(next)));
        };
        // Where its content decides, that is read once it is whole: it may be half there now.
        let by_name = Some(at).filter(|_| is_folder || !table.is_by_content(rel));
        let taker = by_name.and_then(|at| loaded.settings.routes.get(at));
        route = taker.map(|route| route.name.clone());
        rate = taker.and_then(|route| route.rate);
    }
    let Some(mut daemon) = spool.ask(&Ask::Status)? else {
        let next = "inboxd run, or inboxd batch".to_owned();
        return Ok(("waiting", "no daemon runs".to_owned(), Some(next)));
    };
    let status = daemon.next_answer()?.unwrap_or_default();
    if status.get("draining").and_then(Value::as_bool) == Some(true) {
        let why = "inboxd was told to stop: it waits for what runs and claims nothing".to_owned();
        return Ok(("waiting", why, Some("inboxd run, once it has ended".to_owned())));
    }
    if let Some((why, fix)) = route.as_ref().and_then(|route| paused(&status, route)) {
        return Ok(("waiting", why, Some(fix)));
    }
    if status.get("low_memory").is_some_and(|low| !low.is_null()) {
        return Ok(("waiting", "too little free memory: nothing is started".to_owned(), None));
    }
    if let Some(of) = show::short_of(&status) {
        // Also below `min_free_disk`, where it is not full yet.
        let (what, fix) =
            if of == Shortage::Disk { ("too little free disk", None) } else { of.says() };
        let fix = fix.map(str::to_owned);
        return Ok(("waiting", format!("{what}: nothing is claimed {}", of.until()), fix));
    }
    if let Some(mut daemon) = spool.ask(&Ask::Why { rel: Rel(rel.clone()) })? {
        let held = daemon.next_answer()?.unwrap_or_default();
        if let Some(reason) = held.get("reason").and_then(Value::as_str) {
            let time = |key: &str| {
                let ms = held.get(key).and_then(Value::as_u64).unwrap_or(0);
                show::time(Duration::from_millis(ms))
            };
            let again = format!("it is looked at again in {}, or when it changes", time("next_ms"));
            let fix = held.get("fix").and_then(Value::as_str);
            let next = fix.map_or(again.clone(), |fix| format!("{fix}; {again}"));
            return Ok(("held", format!("{reason} ({})", time("for_ms")), Some(next)));
        }
    }
    let ahead = status.get("waiting").and_then(Value::as_u64).unwrap_or(0);
    let mut why = match ahead {
        0 | 1 if rate.is_some() => "for its turn".to_owned(),
        0 | 1 => "it has just come, or cannot be claimed now; it is looked at again".to_owned(),
        ahead => format!("for its turn: {} files wait, oldest first", show::count(ahead)),
    };
    if let Some(Rate { starts, per_ms }) = rate {
        let per = show::time(Duration::from_millis(per_ms));
        why = format!("{why}; its route begins at most {starts} in {per} (`rate`)");
    }
    Ok(("waiting", why, route.map(|route| format!("route {route}"))))
}
