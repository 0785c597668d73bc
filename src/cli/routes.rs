//! `inboxd routes`: which routes there are and how they fare; which of them takes a file, and why.
//!
//! Must not know: how a daemon counts, or how a route is chosen; it asks `config` and the daemon.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Failed, SpoolArg, eprint_line, join, print_json, print_line, show};
use crate::config::matching::Answer;
use crate::config::{Loaded, Route, RouteTable, Unit, limits};
use crate::core::RelPath;
use crate::daemon::control::Ask;
use crate::fs::{Filesystem, RealFs};
use crate::worker::{Stop, schema, warm};

/// The routes in the order in which they are asked, and which of them takes a file
///
/// The first route that takes a file has it. With FILE, each route says whether it takes it and why;
/// the exit code is 1 where none does. FILE is a path below incoming/, or any file: then its name counts,
/// as with `batch FILE`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd routes
  inboxd routes siteA/x.json
  inboxd routes --schemas
  inboxd routes --json | jq -r '.routes[].name'")]
pub(crate) struct Args {
    /// Which route takes this file
    #[arg(value_name = "FILE")]
    file: Option<std::path::PathBuf>,
    /// What input each route takes, as a JSON Schema; a worker that knows it is started to ask
    #[arg(long, conflicts_with = "file")]
    schemas: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    let loaded = spool.load()?;
    if let Some(file) = &args.file {
        return which(file, spool, &loaded, args.json);
    }
    if !args.json && !loaded.broken.is_empty() {
        eprint_line(&format!("{}: {}", show::bad("error"), join(&loaded.broken)));
    }
    if args.schemas {
        return schemas(spool, &loaded, args.json);
    }
    list(spool, &loaded, args.json)
}

fn list(spool: &SpoolArg, loaded: &Loaded, as_json: bool) -> Result<ExitCode, Failed> {
    let status = match spool.ask(&Ask::Status)? {
        Some(mut daemon) => daemon.next_answer()?,
        None => None,
    };
    let told = |list: &str, route: &Route| status.as_ref()?.get(list)?.get(&route.name).cloned();
    let number = |load: &Value, key: &str| load.get(key).and_then(Value::as_u64).unwrap_or(0);
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for route in &loaded.settings.routes {
        let paused =
            told("paused", route).and_then(|why| Some(why.get("reason")?.as_str()?.to_owned()));
        let load = told("routes", route);
        let state = match (&paused, &load) {
            (Some(_), _) => "PAUSED",
            (None, Some(_)) => "ready",
            // Its settings are newer than the daemon's: it looks at them once a second.
            (None, None) if status.is_some() => "not yet known to the running inboxd",
            (None, None) => "no daemon runs",
        };
        let mut row =
            vec![route.name.clone(), selection(route), format!("→ {}", show::worker(route))];
        row.push(if paused.is_some() { show::bad(state) } else { state.to_owned() });
        if let Some(load) = &load {
            row.push(format!("waiting {}", show::count(number(load, "waiting"))));
            row.push(format!("running {}", show::count(number(load, "running"))));
        }
        row.extend(paused.clone());
        rows.push(row);
        values.push(json!({
            "name": route.name,
            "glob": route.glob,
            "fields": route.fields.iter().cloned().collect::<serde_json::Map<_, _>>(),
            "worker": show::worker(route),
            "origin": route.origin,
            "state": state,
            "reason": paused,
            "waiting": load.as_ref().map(|load| number(load, "waiting")),
            "running": load.as_ref().map(|load| number(load, "running")),
        }));
    }
    if as_json {
        let broken: Vec<String> = loaded.broken.iter().map(ToString::to_string).collect();
        print_json(&json!({ "routes": values, "broken": broken }));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        print_line("there is no route: nothing is claimed");
    }
    for line in show::table(&rows) {
        print_line(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Which files a route is for: `*.json   algorithm "ocr"`
fn selection(route: &Route) -> String {
    let is_folder = route.unit == Unit::Folder;
    let every = if is_folder { "every folder" } else { "every file" };
    let mut globs = if route.glob.is_empty() { every.to_owned() } else { route.glob.join(" ") };
    if is_folder && !route.glob.is_empty() {
        globs.push_str(" (folders)");
    }
    let fields = route.fields.iter().map(|(name, value)| format!("{name} {value}"));
    let fields: Vec<String> = fields.collect();
    if fields.is_empty() { globs } else { format!("{globs} with {}", fields.join(", ")) }
}

fn schemas(spool: &SpoolArg, loaded: &Loaded, as_json: bool) -> Result<ExitCode, Failed> {
    let root = std::fs::canonicalize(&spool.path)?;
    let stop = Stop::new()?;
    let mut values = serde_json::Map::new();
    let mut code = ExitCode::SUCCESS;
    for route in &loaded.settings.routes {
        let asked = match &route.schema {
            Some(own) => schema::text_of(own, &root).map(Some),
            None => warm::ask_schema(&Arc::new(route.clone()), &root, &stop),
        };
        let value = match asked {
            Ok(known) => {
                if !as_json {
                    let text = known.as_ref().map_or_else(
                        || "any input".to_owned(),
                        |schema| serde_json::to_string_pretty(schema).unwrap_or_default(),
                    );
                    print_line(&format!("{}   {text}", route.name));
                }
                known.unwrap_or(Value::Null)
            }
            Err(reason) => {
                code = ExitCode::from(1);
                eprint_line(&format!("error: route {} cannot say it: {reason}", route.name));
                Value::Null
            }
        };
        values.insert(route.name.clone(), value);
    }
    if as_json {
        print_json(&values);
    }
    Ok(code)
}

fn which(
    file: &Path,
    spool: &SpoolArg,
    loaded: &Loaded,
    as_json: bool,
) -> Result<ExitCode, Failed> {
    let table =
        RouteTable::new(&loaded.settings).map_err(|error| Failed::usage(error.to_string()))?;
    let (rel, content) = find(file, spool)?;
    let is_dir = [file, &spool.path.join("incoming").join(file)].iter().any(|path| path.is_dir());
    let unit = if is_dir { Unit::Folder } else { Unit::File };
    let ignored = table.ignored(&rel);
    let part_of = table.unit_above(&rel);
    let companion = if is_dir { None } else { table.companion_of(&rel) };
    let answers = table.answers(&rel, unit, content.as_deref());
    let mut taker = None;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for (route, answer) in loaded.settings.routes.iter().zip(answers) {
        let (is_its, why) = match answer {
            Answer::Takes => (true, format!("takes it: {}", selection(route))),
            Answer::OtherName => (false, format!("no: {} is another name", selection(route))),
            Answer::OtherKind if is_dir => (false, "no: it takes files".to_owned()),
            Answer::OtherKind => (false, "no: it takes folders".to_owned()),
            Answer::OtherContent(reason) => (false, format!("no: {reason}")),
            Answer::NoContent => (false, format!("if what is in it fits: {}", selection(route))),
            Answer::Behind => (false, "is not asked: another one comes first".to_owned()),
        };
        let is_its = is_its && ignored.is_none() && part_of.is_none() && companion.is_none();
        if is_its {
            taker = Some(route.name.clone());
        }
        values.push(json!({ "name": route.name, "takes": is_its, "why": why }));
        rows.push(vec![format!("  {}", route.name), why]);
    }
    if as_json {
        print_json(&json!({
            "file": rel.to_string(), "route": taker, "ignored": ignored, "routes": values,
            "part_of": part_of.map(|folder| folder.to_string()), "is_companion": companion.is_some(),
        }));
    } else if let Some(pattern) = ignored {
        print_line(&format!("{rel} is {}", show::ignored(pattern)));
    } else if let Some(folder) = part_of {
        print_line(&format!("{rel} is part of {folder}, and that folder is one job"));
    } else if let Some((at, _)) = companion {
        let route = loaded.settings.routes.get(at).map_or("", |route| &route.name);
        print_line(&format!("{rel} comes with a file of route {route}, and is part of its job"));
    } else {
        let route = taker.as_ref().map_or("no route takes it", |name| name.as_str());
        print_line(&format!("{rel} → {route}"));
        for line in show::table(&rows) {
            print_line(&line);
        }
    }
    Ok(if taker.is_some() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The path by which routes know a file, and what is in it, if it is there.
fn find(file: &Path, spool: &SpoolArg) -> Result<(RelPath, Option<Vec<u8>>), Failed> {
    use std::os::unix::ffi::OsStrExt;
    let incoming = spool.path.join("incoming");
    let below = |path: &Path| -> Option<RelPath> {
        let (path, folder) =
            (std::fs::canonicalize(path).ok()?, std::fs::canonicalize(&incoming).ok()?);
        RelPath::new(path.strip_prefix(folder).ok()?.as_os_str().as_bytes())
    };
    let rel = below(file)
        .or_else(|| below(&incoming.join(file)))
        .or_else(|| {
            let name = if file.exists() { file.file_name()? } else { file.as_os_str() };
            RelPath::new(name.as_bytes())
        })
        .ok_or_else(|| Failed::usage(format!("{} is no name of a file", file.display())))?;
    for path in [file, &incoming.join(file)] {
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let Ok(folder) = RealFs.open_root(parent) else { continue };
        // A FIFO would hold us, and a large file is not asked for its fields.
        let Ok(opened) = RealFs.open(&folder, Path::new(name), false) else { continue };
        let size = RealFs.stat_file(&opened)?.size.min(limits::FIELDS_FILE + 1);
        let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = RealFs.read_at(&opened, 0, &mut content)?;
        content.truncate(read);
        return Ok((rel, Some(content)));
    }
    Ok((rel, None))
}
