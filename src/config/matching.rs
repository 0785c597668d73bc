//! Which route takes a name, and which names below `incoming/` are no input.
//!
//! Must not know: the disk, how a glob is read (`glob`).
//!
//! Invariants
//! - A name is ignored if its path *or any folder on it* is: what is in `.stversions/` is no input.

use std::collections::BTreeSet;

use globset::{Candidate, GlobSet};

use super::companions::OfRoute;
use super::glob::{GlobError, compile, takes};
use super::selection::{Fields, Members};
use super::{Settings, Unit};
use crate::core::RelPath;

/// Names that programs give to files that are not whole, or that no person dropped.
///
/// `.*` covers the `.NAME.XXXXXX` and `.~tmp~/` of rsync, what SFTP servers, NFS, vim, Syncthing
/// and office programs hide, `._*` and `.DS_Store`; `*.tmp` also `~syncthing~NAME.tmp` and
/// `luXXXX.tmp`; `*.part` also Nextcloud's `*.ocTransferId*.part`; `*.partial` is rclone's, and `~$*` what
/// Microsoft's office programs lay beside a document that is open.
///
/// Each is plain but for one star, at its start or its end: see [`is_shipped`].
const IGNORED: [&str; 12] = [
    ".*",
    "*~",
    "~$*",
    "*.tmp",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "__MACOSX",
    "@eaDir",
    "Thumbs.db",
    "desktop.ini",
];

/// The globs of all settings, compiled.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// One a route, in the order of the settings; `None` takes every file.
    routes: Vec<Option<GlobSet>>,
    /// What stands before and behind a file's name in its sentinel's, for the routes that ask for one.
    sentinels: Vec<Option<(Vec<u8>, Vec<u8>)>>,
    /// Of each route: its jobs are folders. Empty where there is no such route.
    units: Vec<bool>,
    companions: Vec<OfRoute>,
    /// What a route asks of a file's content; empty where no route asks for any.
    fields: Vec<Fields>,
    /// What the settings ignore besides what is shipped.
    ignored: GlobSet,
    /// As they were written, by their index in `ignored`.
    ignored_patterns: Vec<String>,
}

/// Whether a name is one that the shipped pattern ignores. Not by `globset`: every name that is seen is
/// asked about, and as a glob some of these are regular expressions, whose code and tables would be most
/// of what a daemon with plain settings keeps in memory to match names.
fn is_shipped(pattern: &str, name: &[u8]) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end.as_bytes()),
        (None, Some(start)) => name.starts_with(start.as_bytes()),
        (None, None) => name == pattern.as_bytes(),
    }
}

/// What a route says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes it.
    Takes,
    /// Its globs do not match.
    OtherName,
    /// It takes folders and this is a file, or the other way round.
    OtherKind,
    /// It has not the members that the route asks for: why.
    OtherContent(String),
    /// That depends on what is in the file.
    NoContent,
    /// It would, but one before it takes it.
    Behind,
}

impl RouteTable {
    /// Compiles the globs. It does not fail on settings that were loaded, which were tried so.
    pub fn new(settings: &Settings) -> Result<Self, GlobError> {
        let routes = settings
            .routes
            .iter()
            .map(|route| match route.glob.as_slice() {
                [] => Ok(None),
                globs => compile(globs).map(Some),
            })
            .collect::<Result<_, _>>()?;
        let ignored_patterns = settings.ignore.clone();
        let sentinels = settings
            .routes
            .iter()
            .map(|route| {
                let (before, behind) = route.done_file.as_deref()?.split_once("{name}")?;
                Some((before.into(), behind.into()))
            })
            .collect();
        let mut fields: Vec<Fields> = settings.routes.iter().map(|it| it.fields.clone()).collect();
        if fields.iter().all(Vec::is_empty) {
            fields.clear();
        }
        let ignored = compile(&ignored_patterns)?;
        let mut companions = Vec::new();
        if settings.routes.iter().any(|route| !route.with.is_empty()) {
            companions = settings.routes.iter().map(OfRoute::new).collect::<Result<Vec<_>, _>>()?;
        }
        let mut units: Vec<bool> =
            settings.routes.iter().map(|it| it.unit == Unit::Folder).collect();
        if !units.contains(&true) {
            units.clear();
        }
        Ok(Self { routes, sentinels, units, companions, fields, ignored, ignored_patterns })
    }

    /// Of each route: what comes with its files. Empty where no route has any.
    pub(super) fn companions(&self) -> &[OfRoute] {
        &self.companions
    }

    /// Whether any route's jobs are folders.
    pub(super) fn has_units(&self) -> bool {
        !self.units.is_empty()
    }

    /// Whether the jobs of this route are folders.
    fn takes_folders(&self, route: usize) -> bool {
        self.units.get(route).copied().unwrap_or(false)
    }

    /// The first route for folders whose glob takes the name.
    pub(super) fn folder_taker(&self, rel: &RelPath) -> Option<usize> {
        let all = self.routes.iter().enumerate().filter(|(at, _)| self.takes_folders(*at));
        all.filter(|(_, globs)| takes(globs.as_ref(), rel)).map(|(at, _)| at).next()
    }

    /// A name's sentinel by this route.
    pub(super) fn sentinel_of(&self, route: usize, rel: &RelPath) -> Option<Vec<u8>> {
        let (before, behind) = self.sentinels.get(route)?.as_ref()?;
        Some([before, rel.name(), behind].concat())
    }

    /// The name of the file that says, beside it, that a file is whole; `None`: no route that may take
    /// it asks for one.
    pub fn sentinel(&self, rel: &RelPath) -> Option<Vec<u8>> {
        self.takers(rel).find_map(|route| self.sentinel_of(route, rel))
    }

    /// The routes whose globs take a name, in order, down to the first that asks nothing of its content.
    pub(super) fn takers<'a>(&'a self, rel: &'a RelPath) -> impl Iterator<Item = usize> + 'a {
        let candidate = Candidate::from_bytes(rel.as_bytes());
        let mut is_over = false;
        let takes = move |globs: &Option<GlobSet>| {
            globs.as_ref().is_none_or(|globs| globs.is_match_candidate(&candidate))
        };
        let all = self.routes.iter().enumerate().filter(|(at, _)| !self.takes_folders(*at));
        let all = all.filter(move |(_, globs)| takes(globs));
        all.map(|(at, _)| at).take_while(move |at| {
            let goes_on = !is_over;
            is_over = !self.asks(*at);
            goes_on
        })
    }

    /// Whether a route asks for `fields`.
    fn asks(&self, route: usize) -> bool {
        self.fields.get(route).is_some_and(|fields| !fields.is_empty())
    }

    /// Whether the route of a name depends on its content.
    pub fn is_by_content(&self, rel: &RelPath) -> bool {
        !self.fields.is_empty() && self.find(rel).is_some_and(|route| self.asks(route))
    }

    /// The route of a file with this content, or the reason for a person why there is none.
    pub fn choose(&self, rel: &RelPath, content: &[u8]) -> Result<usize, String> {
        let mut asked = Vec::new();
        let mut names = BTreeSet::new();
        let mut any = None;
        for route in self.takers(rel) {
            match self.fields.get(route).filter(|fields| !fields.is_empty()) {
                Some(fields) => {
                    names.extend(fields.iter().map(|(name, _)| name.as_str()));
                    asked.push((route, fields));
                }
                None => any = Some(route),
            }
        }
        if asked.is_empty() {
            return any.ok_or_else(|| "no route takes it".to_owned());
        }
        let reason = match Members::read(content, &names) {
            Ok(members) => match asked.iter().find(|(_, fields)| members.fit(fields)) {
                Some((route, _)) => return Ok(*route),
                None => {
                    members.reason(&asked.iter().map(|(_, fields)| *fields).collect::<Vec<_>>())
                }
            },
            Err(reason) => reason,
        };
        any.ok_or(reason)
    }

    /// The file, or the folder that is one job, of which this name is the sentinel, if it is one.
    pub fn announced(&self, rel: &RelPath) -> Option<RelPath> {
        for (route, (before, behind)) in
            self.sentinels.iter().enumerate().filter_map(|(at, it)| Some((at, it.as_ref()?)))
        {
            let name = rel.name().strip_prefix(before.as_slice());
            let Some(name) = name.and_then(|name| name.strip_suffix(behind.as_slice())) else {
                continue;
            };
            let mut path = rel.parent().to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let is_its = |it: &RelPath| {
                if self.takes_folders(route) {
                    self.find_folder(it) == Some(route)
                } else {
                    self.takers(it).any(|at| at == route)
                }
            };
            let file = RelPath::new(path).filter(is_its);
            if !name.is_empty() && file.is_some() {
                return file;
            }
        }
        None
    }

    /// The index in [`Settings::routes`] of the first route that takes a file of this name; none takes
    /// one that is in a folder which is one job, or a companion.
    pub fn find(&self, rel: &RelPath) -> Option<usize> {
        if self.unit_above(rel).is_some() || self.companion_of(rel).is_some() {
            return None;
        }
        let candidate = Candidate::from_bytes(rel.as_bytes());
        let takes = |globs: &Option<GlobSet>| {
            globs.as_ref().is_none_or(|globs| globs.is_match_candidate(&candidate))
        };
        self.routes
            .iter()
            .enumerate()
            .position(|(at, globs)| !self.takes_folders(at) && takes(globs))
    }

    /// What each route says of a file, or of a folder, in their order. `None`: there is no such file,
    /// only its name.
    pub fn answers(&self, rel: &RelPath, unit: Unit, content: Option<&[u8]>) -> Vec<Answer> {
        let candidate = Candidate::from_bytes(rel.as_bytes());
        let mut is_taken = false;
        let says = |(at, globs): (usize, &Option<GlobSet>)| {
            if !globs.as_ref().is_none_or(|globs| globs.is_match_candidate(&candidate)) {
                return Answer::OtherName;
            }
            if self.takes_folders(at) != (unit == Unit::Folder) {
                return Answer::OtherKind;
            }
            if is_taken {
                return Answer::Behind;
            }
            let fields = self.fields.get(at).filter(|fields| !fields.is_empty());
            let members = fields.zip(content).map(|(fields, content)| {
                let names = fields.iter().map(|(name, _)| name.as_str()).collect();
                (fields, Members::read(content, &names))
            });
            match (fields, members) {
                (None, _) => {}
                (Some(_), None) => return Answer::NoContent,
                (_, Some((fields, Ok(members)))) if members.fit(fields) => {}
                (_, Some((fields, Ok(members)))) => {
                    return Answer::OtherContent(members.reason(&[fields]));
                }
                (_, Some((_, Err(reason)))) => return Answer::OtherContent(reason),
            }
            is_taken = true;
            Answer::Takes
        };
        self.routes.iter().enumerate().map(says).collect()
    }

    /// The pattern for which the name is not input, as it was written; shipped ones come first.
    ///
    /// It may be asked for a folder as well, so that a scan need not enter it.
    pub fn ignored(&self, rel: &RelPath) -> Option<&str> {
        let bytes = rel.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let mut start = 0;
        for end in ends.chain([bytes.len()]) {
            let name = bytes.get(start..end).unwrap_or(bytes);
            start = end.saturating_add(1);
            if let Some(pattern) = IGNORED.iter().find(|pattern| is_shipped(pattern, name)) {
                return Some(pattern);
            }
            if self.ignored.is_empty() {
                continue;
            }
            let candidate = Candidate::from_bytes(bytes.get(..end).unwrap_or(bytes));
            // The common case costs no list of matches.
            if self.ignored.is_match_candidate(&candidate) {
                let first = self.ignored.matches_candidate(&candidate).into_iter().min();
                return first
                    .and_then(|index| self.ignored_patterns.get(index))
                    .map(String::as_str);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Route;
    use proptest::prelude::*;

    fn table(globs: &[&[&str]], ignore: &[&str]) -> RouteTable {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let routes = globs
            .iter()
            .map(|list| Route { glob: owned(list), ..Route::new("r", vec!["true".to_owned()]) })
            .collect();
        RouteTable::new(&Settings { routes, ignore: owned(ignore), ..Settings::default() }).unwrap()
    }

    fn rel(bytes: impl Into<Vec<u8>>) -> RelPath {
        RelPath::new(bytes).unwrap()
    }

    /// Goal: the first route that takes a name has it; no glob is every name; a list is any of it.
    /// Method: three routes that overlap.
    #[test]
    fn first_route_wins() {
        let table = table(&[&["*.a", "b/*"], &["*.a"], &[]], &[]);
        assert_eq!(table.find(&rel("x.a")), Some(0));
        assert_eq!(table.find(&rel("b/x")), Some(0));
        assert_eq!(table.find(&rel("c/x")), Some(2));
    }

    /// Goal: names match by bytes. Method: not UTF-8, a newline, a byte that is no letter.
    #[test]
    fn odd_names_match() {
        let table = table(&[&["*.json"], &["?"]], &[]);
        assert_eq!(table.find(&rel(b"\xff\xfe.json".to_vec())), Some(0));
        assert_eq!(table.find(&rel("new\nline.json")), Some(0));
        assert_eq!(table.find(&rel(b"d\xff/\xfe".to_vec())), Some(1));
    }

    /// Goal: nothing that a program left half done is claimed, whole files are.
    /// Method: the names of the programs we know, and names that only look like them.
    #[test]
    fn temporary_names_are_ignored() {
        let table = table(&[&[]], &[]);
        for (name, pattern) in [
            (".x.json.Ab3dE6", ".*"),
            (".~tmp~/x.json", ".*"),
            ("a/.hidden/x.json", ".*"),
            (".sftpgo-upload.abc.x", ".*"),
            (".in.x.", ".*"),
            (".nfs0000001", ".*"),
            (".stfolder/x", ".*"),
            (".syncthing.x.tmp", ".*"),
            ("~syncthing~x.tmp", "*.tmp"),
            ("lu1234.tmp", "*.tmp"),
            ("x~", "*~"),
            ("x.filepart", "*.filepart"),
            ("x.ocTransferId123.part", "*.part"),
            ("f.mkv.part", "*.part"),
            ("x.json.1a2b3c4d.partial", "*.partial"),
            ("~$report.docx", "~$*"),
            ("a/b.crdownload", "*.crdownload"),
            ("__MACOSX/x", "__MACOSX"),
            ("a/@eaDir/x", "@eaDir"),
            ("Thumbs.db", "Thumbs.db"),
            ("a/desktop.ini", "desktop.ini"),
        ] {
            assert_eq!(table.ignored(&rel(name)), Some(pattern), "{name}");
        }
        for name in ["x.json", "a.b/c.tmp.json", "part", "x.parts", "~x", "a~b", "tmp", "THUMBS.DB"]
        {
            assert_eq!(table.ignored(&rel(name)), None, "{name}");
        }
        assert_eq!(table.ignored(&rel(b"a/.\xff\n/x".to_vec())), Some(".*"));
    }

    /// Goal: `ignore` adds to the list, for files and folders. Method: each form of a glob.
    #[test]
    fn further_names_are_ignored() {
        let table = table(&[], &["*.bak", "/top", "a/old", "junk/"]);
        for (name, pattern) in [
            ("x.bak", "*.bak"),
            ("d.bak/x", "*.bak"),
            ("top/x", "/top"),
            ("a/old/x/y", "a/old"),
            ("b/junk/x", "junk/"),
            ("x.tmp", "*.tmp"),
        ] {
            assert_eq!(table.ignored(&rel(name)), Some(pattern), "{name}");
        }
        for name in ["a/top", "old/x", "b/a/old", "x.bak2", "junk"] {
            assert_eq!(table.ignored(&rel(name)), None, "{name}");
        }
    }

    proptest! {
        /// Goal: no glob panics, and what is accepted compiles with the others.
        /// Method: random globs of the characters that mean something, random names.
        #[test]
        fn any_glob_is_refused_or_works(
            glob in r"[a*?/.\[\]{},!^\\-]{0,12}",
            name in proptest::collection::vec(1u8..=255, 1..8),
        ) {
            if compile(&[glob.as_str()]).is_ok() {
                let table = table(&[&[glob.as_str()]], &[glob.as_str()]);
                if let Some(rel) = RelPath::new(name) {
                    table.find(&rel);
                    table.ignored(&rel);
                }
            }
        }

        /// Goal: what is shipped is read as the header says globs are, although no glob is compiled for it.
        /// Method: the same list compiled, on words of which many are pieces of it.
        #[test]
        fn what_is_shipped_is_read_like_any_glob(
            words in proptest::collection::vec(
                r"(\.|x|~|~\$)?(\.tmp|\.part|\.partial|\.filepart|\.crdownload|__MACOSX|@eaDir|Thumbs\.db|[.~x]{1,3})(x|~)?",
                1..4,
            ),
        ) {
            let Some(rel) = RelPath::new(words.join("/")) else { return Ok(()) };
            let globs = compile(&IGNORED).unwrap();
            let is_ignored = (1..=words.len())
                .any(|depth| globs.is_match(words[..depth].join("/")));
            prop_assert_eq!(table(&[], &[]).ignored(&rel).is_some(), is_ignored);
        }

    }
}
