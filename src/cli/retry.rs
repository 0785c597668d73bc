//! `inboxd retry JOB…`: failed files run again.
//!
//! Must not know: how a file is moved; the spool does it. What is shared with `rerun` is here.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::cut_off::{self, Whole};
use super::failure::Failure;
use super::target::{Target, Tree, path_in, quoted, shown_in, unknown};
use super::wait::{Awaited, Waiter};
use super::{Failed, SpoolArg, below, eprint_line, print_json, print_line, show};
use crate::config::RouteTable;
use crate::core::{JobId, RelPath};
use crate::daemon::control::Ask;
use crate::fs::{RealFs, walk_files};
use crate::spool::put_back::{Beside, From, What};
use crate::spool::{Spool, names};

/// Run failed files again
///
/// The file goes from error/ back to incoming/, under the path that it came with, and its reason in
/// error/.why/ goes away. Mend the file in error/ first, or the worker, or neither if it was bad luck.
/// What has not failed is said, and the others run again. The row of the old failure stays in results/errors.csv.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  inboxd retry bad.json
  inboxd retry --wait inbox/error/bad.json
  inboxd retry --all")]
pub(crate) struct Args {
    /// Paths below incoming/, beginnings of job ids, or paths in error/
    #[arg(value_name = "JOB", value_hint = clap::ValueHint::AnyPath, required_unless_present = "all")]
    jobs: Vec<OsString>,
    /// Everything that stands in error/
    #[arg(long, conflicts_with = "jobs")]
    all: bool,
    /// Wait until they are over; without a daemon, run what waits here. Exit code 3: one failed
    #[arg(long)]
    wait: bool,
    /// A JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, spool: &SpoolArg) -> Result<ExitCode, Failed> {
    spool.must_exist()?;
    let mut found = Vec::new();
    if args.all {
        found = all(spool)?;
        cut_off::sweep(spool, &open(spool)?);
        if found.is_empty() {
            if !args.json {
                print_line("nothing to retry: no file stands in error/");
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
    let routes = Routes::read(spool)?;
    let mut passed_over = Vec::new();
    let mut moves: Vec<Move> =
        found.into_iter().map(|failure| Move::retry(failure, &routes)).collect();
    for typed in &args.jobs {
        let target = Target::new(spool, typed);
        let line = target.line(spool)?;
        let failure = target.failure(spool, line.as_ref());
        let found = failure.map(|failure| Move::retry(failure, &routes));
        let found = found.or_else(|| cut_off::of_retry(spool, &target, line.as_ref(), &routes));
        match found {
            Some(found) => moves.push(found),
            // Brought back by an earlier command that was cut off, perhaps: the others are still to be.
            None if goes_on(spool, &target) => {
                passed_over.push(not_failed(spool, &target, line.is_some()));
            }
            None => return Err(not_failed(spool, &target, line.is_some())),
        }
    }
    if moves.is_empty() && passed_over.len() == 1 {
        return passed_over.pop().map_or(Ok(ExitCode::SUCCESS), Err);
    }
    for Failed { message, .. } in &passed_over {
        eprint_line(&format!("error: {message}"));
    }
    if args.all {
        // What goes along with another one is no failure of its own.
        let beside: HashSet<RelPath> = moves.iter().flat_map(Move::beside_at).collect();
        // Of something that stays it is not known what goes along with it.
        let stays = moves.iter().filter(|it| it.obstacle().is_some());
        let stays: HashSet<Vec<u8>> = stays.map(|it| it.at.parent().to_vec()).collect();
        moves.retain(|it| it.sidecar.is_some() || !beside.contains(&it.at));
        moves.retain(|it| {
            let may_belong =
                it.sidecar.is_none() && it.obstacle().is_none() && stays.contains(it.at.parent());
            if may_belong {
                let at = shown_in(spool, Tree::Error, &it.at);
                let why = "it may belong to what stays beside it";
                eprint_line(&format!("warning: {at} stays where it is: {why}"));
            }
            !may_belong
        });
    }
    let code = move_back(spool, moves, From::Error, args.wait, args.json)?;
    Ok(if passed_over.is_empty() { code } else { ExitCode::from(1) })
}

/// It is done by now, or waits or runs.
fn goes_on(spool: &SpoolArg, target: &Target) -> bool {
    let is_done = |rel: &RelPath| path_in(spool, Tree::Done, rel).exists();
    target.rel.as_ref().is_some_and(is_done) || target.has_not_ended(spool)
}

fn not_failed(spool: &SpoolArg, target: &Target, is_known: bool) -> Failed {
    let done = target.rel.as_ref().filter(|rel| path_in(spool, Tree::Done, rel).exists());
    match done {
        Some(rel) => Failed::runtime(format!(
            "{} is done, it has not failed\n  To run it once more: inboxd rerun {}",
            target.shown,
            quoted(rel)
        )),
        None if is_known && !target.has_not_ended(spool) => Failed::runtime(format!(
            "the file of {} is no longer in {}\n  inboxd explain {}",
            target.shown,
            below(spool, "error"),
            target.typed()
        )),
        None => unknown(spool, target),
    }
}

fn all(spool: &SpoolArg) -> Result<Vec<Failure>, Failed> {
    let mut found = Vec::new();
    let folders = RefCell::new(Vec::new());
    let failure = |path: &Path| {
        use std::os::unix::ffi::OsStrExt;
        let at = RelPath::new(path.as_os_str().as_bytes());
        at.and_then(|at| Failure::at(spool, &at))
    };
    let walked = RealFs.open_root(&spool.path.join("error")).and_then(|error| {
        let enters = |path: &Path| {
            // A folder that failed as one job is told as one.
            let whole = failure(path);
            let is_entered = whole.is_none() && path != Path::new(".why");
            folders.borrow_mut().extend(whole);
            is_entered
        };
        walk_files(&RealFs, &error, &enters, &mut |_, _, path| {
            found.extend(failure(path));
            true
        })
    });
    found.extend(folders.into_inner());
    match walked {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failed::runtime(format!("cannot read {}: {error}", below(spool, "error"))))
        }
        _ => Ok(found),
    }
}

/// What the settings say of what goes along with a file. Without them it would be left behind, and the file
/// would wait for it.
pub(crate) struct Routes {
    pub(crate) table: RouteTable,
    /// Why a route is not among them.
    broken: Option<String>,
}

impl Routes {
    pub(crate) fn read(spool: &SpoolArg) -> Result<Self, Failed> {
        let loaded = spool.load_or("Nothing was moved.")?;
        let table = RouteTable::new(&loaded.settings);
        let table = table.map_err(|error| Failed::usage(error.to_string()))?;
        Ok(Self { table, broken: loaded.broken.first().map(ToString::to_string) })
    }

    /// Why nobody knows what goes along with a file.
    fn doubt(&self, what: What, to: &RelPath) -> Option<String> {
        let goes_along =
            self.table.companion_of(to).is_some() || self.table.announced(to).is_some();
        if what == What::Folder || goes_along || self.table.find(to).is_some() {
            return None;
        }
        Some(match &self.broken {
            Some(broken) => format!("no route takes {to} now, and one cannot be read: {broken}"),
            None => format!("no route takes {to} now, it would only wait in incoming/"),
        })
    }
}

/// A file that is to stand in `incoming/` again.
pub(crate) struct Move {
    /// Below `error/` or `done/`.
    pub(crate) at: RelPath,
    /// Below `incoming/`.
    pub(crate) to: RelPath,
    what: What,
    /// What goes along, where a route asks for that.
    beside: Vec<Beside>,
    /// Why it failed: the file that says it.
    sidecar: Option<(PathBuf, u64)>,
    /// The pattern for which it is no input there, such as a hidden name that a worker made for `next`.
    ignored: Option<String>,
    /// Why it is not known what goes along.
    doubt: Option<String>,
    /// It stands there, since an earlier command was cut off: only what goes along is to be moved.
    is_there: bool,
}

impl Move {
    pub(super) fn retry(failure: Failure, routes: &Routes) -> Self {
        let what = if failure.is_folder() { What::Folder } else { What::File };
        let job = failure.why.as_ref().map(|why| why.job);
        let to = failure.original();
        Self { sidecar: failure.sidecar, ..Self::rerun(what, failure.at, to, job, routes) }
    }

    pub(crate) fn rerun(
        what: What,
        at: RelPath,
        to: RelPath,
        job: Option<JobId>,
        routes: &Routes,
    ) -> Self {
        let beside = beside(&routes.table, what, (&at, &to), job);
        let ignored = routes.table.ignored(&to).map(str::to_owned);
        let doubt = routes.doubt(what, &to);
        Self { at, to, what, beside, sidecar: None, ignored, doubt, is_there: false }
    }

    /// What is left to do of it where its file stands in `incoming/`; `None`: nothing, or that is not so.
    pub(super) fn goes_on(mut self, spool: &SpoolArg, from: Tree) -> Option<Self> {
        let is_there = |tree, rel: &RelPath| path_in(spool, tree, rel).symlink_metadata().is_ok();
        let sibling = |of: &RelPath, name: &[u8]| {
            let slash: &[u8] = if of.parent().is_empty() { b"" } else { b"/" };
            RelPath::new([of.parent(), slash, name].concat())
        };
        let (at, to) = (self.at.clone(), self.to.clone());
        self.beside.retain(|it| {
            let is_left = it
                .went_as
                .iter()
                .filter_map(|name| sibling(&at, name))
                .any(|rel| is_there(from, &rel));
            is_left && !sibling(&to, &it.name).is_some_and(|rel| is_there(Tree::Incoming, &rel))
        });
        self.is_there = true;
        (is_there(Tree::Incoming, &to) && !self.beside.is_empty()).then_some(self)
    }

    /// Why it would stay in `incoming/` for good.
    fn obstacle(&self) -> Option<String> {
        if self.what == What::Folder && self.beside.is_empty() {
            // Its files would be jobs of their own.
            return Some(format!("no route takes {} as one job now (unit = \"folder\")", self.to));
        }
        if let Some(pattern) = &self.ignored {
            return Some(format!(
                "{} would be ignored in incoming/: {pattern} is no input",
                self.to
            ));
        }
        self.doubt.clone()
    }

    /// Where what goes along may stand, beside it.
    fn beside_at(&self) -> Vec<RelPath> {
        let beside = |name: &Vec<u8>| {
            let slash: &[u8] = if self.at.parent().is_empty() { b"" } else { b"/" };
            RelPath::new([self.at.parent(), slash, name].concat())
        };
        self.beside.iter().flat_map(|it| it.went_as.iter().filter_map(beside)).collect()
    }
}

/// What goes along with a job's file: companions first, and then what says that it is complete.
fn beside(
    table: &RouteTable,
    what: What,
    (at, to): (&RelPath, &RelPath),
    job: Option<JobId>,
) -> Vec<Beside> {
    let sentinel = match what {
        What::File => table.sentinel(to),
        What::Folder => table.folder_sentinel(to),
    };
    let companions = table.companions_of(to);
    // Where its own name was taken, theirs were made of that, or were taken themselves.
    let there = |name: &[u8], made: Option<Vec<u8>>| {
        // What has the job's id is certainly its own.
        let certain = job.map(|job| names::beside(name, job).into_vec());
        certain.into_iter().chain(made).chain([name.to_vec()]).collect()
    };
    let mut all = Vec::new();
    for name in companions {
        let went_as = there(&name, None);
        all.push(Beside { is_sentinel: false, name, went_as });
    }
    if let Some(name) = sentinel {
        let of = name.windows(to.name().len()).position(|part| part == to.name());
        let made = of.and_then(|begin| {
            let (before, rest) = name.split_at(begin);
            Some([before, at.name(), rest.get(to.name().len()..)?].concat())
        });
        let went_as = there(&name, made);
        all.push(Beside { is_sentinel: true, name, went_as });
    }
    all
}

/// Moves the files, lets the daemon know, and waits if that was asked for.
pub(crate) fn move_back(
    spool: &SpoolArg,
    moves: Vec<Move>,
    from: From,
    wait: bool,
    as_json: bool,
) -> Result<ExitCode, Failed> {
    let folders = open(spool)?;
    let whole = Whole::begin();
    let waiter = if wait { Some(Waiter::begin(spool, as_json)?) } else { None };
    let mut awaited = Vec::new();
    let mut failed = None;
    for it in moves {
        if let Some(obstacle) = it.obstacle() {
            let at =
                shown_in(spool, if from == From::Error { Tree::Error } else { Tree::Done }, &it.at);
            eprint_line(&format!("error: {obstacle}\n  {at} stays where it is."));
            failed = Some(ExitCode::from(1));
            continue;
        }
        if let Err(message) = whole.does(|| put_all_back(spool, &folders, &it, from)) {
            eprint_line(&format!("error: {message}"));
            failed = Some(ExitCode::from(1));
            continue;
        }
        if !wait {
            tell(spool, &it, as_json);
        }
        awaited.push(Awaited::Rel(it.to));
    }
    let daemon = spool.ask(&Ask::Scan)?;
    let has_daemon = daemon.is_some();
    if let Some(mut client) = daemon {
        client.next_answer()?;
    }
    if let Some(waiter) = waiter {
        let code = waiter.wait(awaited)?;
        return Ok(failed.unwrap_or(code));
    }
    if !has_daemon && !as_json && !awaited.is_empty() {
        print_line(&show::dim("no daemon runs: they wait for inboxd run or inboxd batch"));
    }
    Ok(failed.unwrap_or(ExitCode::SUCCESS))
}

fn open(spool: &SpoolArg) -> Result<Spool<RealFs>, Failed> {
    let root = RealFs.open_root(&spool.path);
    root.and_then(|root| Spool::open(RealFs, root).map_err(|(_, error)| error))
        .map_err(|error| Failed::runtime(format!("cannot open {}: {error}", spool.shown())))
}

/// Moves the file, and then what goes along with it; its reason goes last.
fn put_all_back(
    spool: &SpoolArg,
    folders: &Spool<RealFs>,
    it: &Move,
    from: From,
) -> Result<(), String> {
    if !it.is_there {
        put_main_back(spool, folders, it, from)?;
    }
    for beside in &it.beside {
        if let Err(error) = folders.put_beside(from, &it.at, &it.to, beside) {
            let name = String::from_utf8_lossy(&beside.name).escape_debug().to_string();
            eprint_line(&format!("warning: cannot put {name} beside {}: {error}", it.to));
        }
    }
    if let Some((sidecar, ino)) = &it.sidecar
        && let Err(error) = folders.remove_why(sidecar, *ino)
    {
        let sidecar = below(spool, Path::new("error/.why").join(sidecar));
        eprint_line(&format!("warning: cannot remove {sidecar}: {error}"));
    }
    Ok(())
}

fn tell(spool: &SpoolArg, it: &Move, as_json: bool) {
    if as_json {
        let rel = crate::journal::record::Rel(it.to.clone());
        print_json(&serde_json::json!({ "rel": rel, "state": "waiting" }));
    } else {
        print_line(&format!("waits   {}", shown_in(spool, Tree::Incoming, &it.to)));
    }
}

/// Moves the file itself, unless something in `incoming/` would be taken for what goes along with it.
fn put_main_back(
    spool: &SpoolArg,
    folders: &Spool<RealFs>,
    it: &Move,
    from: From,
) -> Result<(), String> {
    let failed = |error: io::Error| cannot_move(spool, it, from, &error);
    match folders.taken_beside(&it.to, &it.beside).map_err(failed)? {
        Some(taken) => Err(is_another_s(spool, it, from, &taken)),
        None => folders.put_back(it.what, from, &it.at, &it.to).map_err(failed),
    }
}

/// A newer set has begun to arrive, or what said that one is complete came twice.
fn is_another_s(spool: &SpoolArg, it: &Move, from: From, taken: &RelPath) -> String {
    let tree = if from == From::Error { Tree::Error } else { Tree::Done };
    format!(
        "{} is there already, and did not come with {}\n  {} stays where it is. Try again when that one \
         has run, or move it away.",
        shown_in(spool, Tree::Incoming, taken),
        it.to,
        shown_in(spool, tree, &it.at)
    )
}

fn cannot_move(spool: &SpoolArg, it: &Move, from: From, error: &io::Error) -> String {
    let tree = if from == From::Error { Tree::Error } else { Tree::Done };
    let (here, there) = (shown_in(spool, tree, &it.at), shown_in(spool, Tree::Incoming, &it.to));
    match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => format!(
            "{there} is there already: a newer file of this name waits\n  {here} stays where it is. \
             Try again when that one has run."
        ),
        io::ErrorKind::PermissionDenied => format!(
            "cannot move {here} to incoming/: {error}\n  Run the command as the user that inboxd \
             runs as."
        ),
        _ => format!("cannot move {here} to incoming/: {error}"),
    }
}
