//! `with`: the files that come with a file, by name. `{stem}.xmp` comes with `x.jpg` as `x.xmp`.
//!
//! Must not know: the disk, what becomes of them.
//!
//! Invariants
//! - A companion is no job, of no route: a catch-all that took it before its file came would tear them apart
//!   for ever. Without its file it waits, and that is said.
//! - The way back, from a companion to its file, is as exact as the template is: `{name}.json` names the
//!   file; `{stem}.xmp` leaves its extension open, and then every name counts that such a file's companion
//!   could have where the route's globs, with any extension, take it.
//! - A file whose name is that of a companion is never one that has companions.

use globset::GlobSet;

use super::glob::{compile, takes};
use super::template::{Part, parse_with, placeholder};
use super::{Route, RouteTable, Unit};
use crate::core::RelPath;

/// Companions of companions that are looked into.
const DEPTH: usize = 8;

/// How a companion is called, by the name of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    before: Vec<u8>,
    of: Of,
    behind: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    /// `{name}`
    Name,
    /// `{stem}`
    Stem,
    /// `{stem}`, this, `{ext}`
    StemAndExt(Vec<u8>),
}

/// What a companion's name says of its file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Main {
    /// It is this one.
    Is(RelPath),
    /// Its name, beside it, without the extension.
    HasStem(Vec<u8>),
}

impl Companion {
    /// Reads a template; the error is what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = parse_with(text, Part::Literal, placeholder).map_err(|it| it.to_string())?;
        let mut texts = vec![Vec::new()];
        let mut named = Vec::new();
        for part in parts {
            match part {
                Part::Literal(text) => texts.last_mut().into_iter().for_each(|last| {
                    last.extend_from_slice(text.as_bytes());
                }),
                other => {
                    named.push(other);
                    texts.push(Vec::new());
                }
            }
        }
        let length: usize = texts.iter().map(Vec::len).sum();
        let is_plain = !text.contains(['/', '\0']) && length > 0;
        let behind = texts.pop().unwrap_or_default();
        let (of, before) = match (named.as_slice(), texts.as_mut_slice()) {
            ([Part::Name], [before]) => (Of::Name, before),
            ([Part::Stem], [before]) => (Of::Stem, before),
            // Else it would be the file itself, or not tell where one ends.
            ([Part::Stem, Part::Ext], [before, mid]) if !mid.is_empty() && length > 1 => {
                (Of::StemAndExt(std::mem::take(mid)), before)
            }
            _ => return Err(format!("{text:?} is no name beside a file's")),
        };
        if !is_plain {
            return Err(format!("{text:?} is no name beside a file's"));
        }
        Ok(Self { before: std::mem::take(before), of, behind })
    }

    /// The companion of a file of this name.
    pub fn name_for(&self, main: &[u8]) -> Vec<u8> {
        let (stem, ext) = stem_and_ext(main);
        let middle = match &self.of {
            Of::Name => main.to_vec(),
            Of::Stem => stem.to_vec(),
            Of::StemAndExt(mid) => [stem, mid, ext].concat(),
        };
        [&self.before[..], &middle, &self.behind].concat()
    }

    /// What a companion of this path says of its file; `None`: it is not called like one.
    fn main_of(&self, rel: &RelPath) -> Option<Main> {
        let name = rel.name().strip_prefix(self.before.as_slice())?;
        let middle = name.strip_suffix(self.behind.as_slice()).filter(|it| !it.is_empty())?;
        match &self.of {
            Of::Name => beside(rel, middle).map(Main::Is),
            Of::Stem => Some(Main::HasStem(middle.to_vec())),
            Of::StemAndExt(mid) => {
                let at = middle.windows(mid.len()).rposition(|part| part == mid)?;
                let (stem, rest) = middle.split_at(at);
                let ext = rest.get(mid.len()..).unwrap_or_default();
                let main = [stem, b".", ext].concat();
                let is_it = !stem.is_empty() && self.name_for(&main) == rel.name();
                beside(rel, &main).filter(|_| is_it).map(Main::Is)
            }
        }
    }
}

/// A name in the same folder.
fn beside(rel: &RelPath, name: &[u8]) -> Option<RelPath> {
    let slash: &[u8] = if rel.parent().is_empty() { b"" } else { b"/" };
    RelPath::new([rel.parent(), slash, name].concat())
}

/// `x` and `jpg` of `x.jpg`; a leading dot is no extension.
fn stem_and_ext(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|b| *b == b'.').filter(|at| *at > 0) {
        Some(at) => (name.get(..at).unwrap_or(name), name.get(at + 1..).unwrap_or_default()),
        None => (name, &[]),
    }
}

/// The companions of one route, and what its globs take whatever the extension.
#[derive(Clone, Debug)]
pub(super) struct OfRoute {
    templates: Vec<Companion>,
    any_ext: Option<GlobSet>,
}

impl OfRoute {
    /// Those of a route; its globs were tried.
    pub(super) fn new(route: &Route) -> Result<Self, super::GlobError> {
        let globs: Vec<String> = route.glob.iter().map(|glob| with_any_ext(glob)).collect();
        // What cannot be said without its extension is taken as it is.
        let compiled = || compile(&globs).or_else(|_| compile(&route.glob));
        let any_ext = if globs.is_empty() { None } else { Some(compiled()?) };
        Ok(Self { templates: route.with.clone(), any_ext })
    }
}

/// The glob with any extension: `photos/*.*` for `photos/*.jpg`.
fn with_any_ext(glob: &str) -> String {
    let (folder, name) = glob.rsplit_once('/').map_or(("", glob), |(folder, name)| (folder, name));
    let mut depth = 0_i32;
    let mut dot = None;
    for (at, c) in name.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            '.' if depth == 0 => dot = Some(at),
            _ => {}
        }
    }
    let has_choices = name.contains(['{', '[', '\\']);
    let name = match dot {
        Some(at) => format!("{}.*", name.get(..at).unwrap_or_default()),
        None if has_choices => "*".to_owned(),
        None => return glob.to_owned(),
    };
    match glob.rsplit_once('/') {
        Some(_) => format!("{folder}/{name}"),
        None => name,
    }
}

impl RouteTable {
    /// Of which file this is the companion, and for which route; `None`: it is none.
    pub fn companion_of(&self, rel: &RelPath) -> Option<(usize, Main)> {
        self.companion_within(rel, DEPTH)
    }

    fn companion_within(&self, rel: &RelPath, depth: usize) -> Option<(usize, Main)> {
        if self.companions().is_empty() || depth == 0 {
            return None;
        }
        let all = self.companions().iter().enumerate();
        let mut templates =
            all.flat_map(|(at, of)| of.templates.iter().map(move |it| (at, of, it)));
        templates.find_map(|(route, of, template)| {
            let main = template.main_of(rel)?;
            let is_taken = match &main {
                Main::Is(main) => {
                    self.takers(main).any(|at| at == route)
                        && self.companion_within(main, depth - 1).is_none()
                }
                Main::HasStem(_) => takes(of.any_ext.as_ref(), rel),
            };
            is_taken.then_some((route, main))
        })
    }

    /// Whether this name, beside a companion, is one that it may belong to.
    pub fn is_main_of(&self, main: &RelPath, companion: &RelPath) -> bool {
        let Some((route, of)) = self.companion_of(companion) else { return false };
        match of {
            Main::Is(it) => it == *main,
            Main::HasStem(stem) => {
                stem_and_ext(main.name()).0 == stem
                    && main.parent() == companion.parent()
                    && self.takers(main).any(|at| at == route)
                    && self.companion_of(main).is_none()
            }
        }
    }

    /// What comes with a file of this name, by the route that takes it; where that depends on what is in
    /// it, `content` is asked.
    pub fn comes_with(
        &self,
        rel: &RelPath,
        content: impl FnOnce() -> Option<Vec<u8>>,
    ) -> &[Companion] {
        if self.companions().is_empty() {
            return &[];
        }
        let route = if self.is_by_content(rel) {
            content().and_then(|content| self.choose(rel, &content).ok())
        } else {
            self.find(rel)
        };
        route.and_then(|at| self.companions().get(at)).map_or(&[], |of| of.templates.as_slice())
    }

    /// The names of the companions of a file, beside it, by the first route that takes it.
    pub fn companions_of(&self, rel: &RelPath) -> Vec<Vec<u8>> {
        let of = self.find(rel).and_then(|route| self.companions().get(route));
        of.into_iter().flat_map(|of| &of.templates).map(|it| it.name_for(rel.name())).collect()
    }
}

/// What is wrong with a route whose files have companions: the key at which to say it, and what.
pub(super) fn fault(route: &Route, given: &dyn Fn(&str) -> bool) -> Option<(&'static str, String)> {
    if route.with.is_empty() {
        return None;
    }
    if route.unit == Unit::Folder {
        let message = "with unit = \"folder\" all that is in the folder comes along; take one of the \
                       two lines out";
        return Some(("with", message.to_owned()));
    }
    let of_one_file = ["records", "on_repeat"];
    let key = of_one_file.into_iter().find(|key| given(key))?;
    let message = format!(
        "`{key}` is about one file, and by `with` several are one job; take one of the two lines out"
    );
    Some((key, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use proptest::prelude::*;

    fn rel(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn route(name: &str, globs: &[&str], with: &[&str]) -> Route {
        Route {
            glob: globs.iter().map(ToString::to_string).collect(),
            with: with.iter().map(|text| Companion::parse(text).unwrap()).collect(),
            ..Route::new(name, vec!["true".to_owned()])
        }
    }

    fn table(routes: Vec<Route>) -> RouteTable {
        RouteTable::new(&Settings { routes, ..Settings::default() }).unwrap()
    }

    /// Goal: templates mean what the manual says, and the others are refused. Method: each form.
    #[test]
    fn templates_name_companions() {
        for (template, main, expected) in [
            ("{stem}.xmp", "a.b.jpg", "a.b.xmp"),
            ("{stem}.xmp", "noext", "noext.xmp"),
            ("{stem}.xmp", ".hidden", ".hidden.xmp"),
            ("{name}.json", "x.jpg", "x.jpg.json"),
            ("thumb_{stem}.png", "x.jpg", "thumb_x.png"),
            ("{stem}_b.{ext}", "x.tif", "x_b.tif"),
        ] {
            let companion = Companion::parse(template).unwrap();
            assert_eq!(companion.name_for(main.as_bytes()), expected.as_bytes(), "{template}");
        }
        for bad in [
            "",
            "x.xmp",
            "{name}",
            "{stem}",
            "{stem}.{ext}",
            "{stem}{ext}",
            "{ext}.{stem}",
            "a/{name}",
            "{name}{name}",
            "{job}.xmp",
            "{stem",
            "{ext}x",
            "{path}.x",
        ] {
            assert!(Companion::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    /// Goal: a companion is nobody's job where the route of its file could take that, and only there.
    /// Method: a catch-all, before and behind; globs of every form.
    #[test]
    fn companions_are_no_jobs() {
        for globs in
            [&["photos/*.jpg"][..], &["photos/*.{jpg,tif}"], &["photos/*.[jJ]pg"], &["photos/"]]
        {
            let table = table(vec![
                route("all", &["**/*.xmp", "**"], &[]),
                route("photos", globs, &["{stem}.xmp"]),
            ]);
            let stem = Main::HasStem(b"x".to_vec());
            assert_eq!(table.companion_of(&rel("photos/x.xmp")), Some((1, stem)), "{globs:?}");
            assert_eq!(table.find(&rel("photos/x.xmp")), None, "{globs:?}");
            assert_eq!(table.find(&rel("docs/x.xmp")), Some(0), "{globs:?}");
            assert!(table.companion_of(&rel("photos/x.jpg")).is_none());
        }
        let exact = table(vec![
            route("scans", &["*.tif"], &["{name}.json", "{stem}_b.{ext}"]),
            route("all", &[], &[]),
        ]);
        for (name, main) in [("a/x.tif.json", "a/x.tif"), ("x_b.tif", "x.tif")] {
            assert_eq!(exact.companion_of(&rel(name)), Some((0, Main::Is(rel(main)))));
            assert!(exact.is_main_of(&rel(main), &rel(name)));
            assert_eq!(exact.find(&rel(name)), None);
        }
        assert_eq!(exact.find(&rel("x.jpg.json")), Some(1));
        assert_eq!(exact.find(&rel("x_b.jpg")), Some(1));
        assert_eq!(exact.companions_of(&rel("x.tif")), [&b"x.tif.json"[..], b"x_b.tif"]);
        assert_eq!(exact.comes_with(&rel("x.tif"), || None).len(), 2);
        assert!(exact.comes_with(&rel("x.jpg"), || None).is_empty());
    }

    /// Goal: a companion has no companions of its own. Method: a route that takes everything.
    #[test]
    fn companions_end() {
        let table = table(vec![route("all", &[], &["{name}.x"])]);
        assert_eq!(table.companion_of(&rel("a.x")), Some((0, Main::Is(rel("a")))));
        // `a.x` is one, so that this is none: it is a file like any other.
        assert_eq!(table.companion_of(&rel("a.x.x")), None);
    }

    proptest! {
        /// Goal: a glob that is one is one for companions, too. Method: random globs; those that compile.
        #[test]
        fn every_glob_has_companions(glob in "[a.*?{},!/\\\\\\[\\]-]{1,10}") {
            let of = Route { glob: vec![glob.clone()], ..route("r", &[], &["{stem}.x"]) };
            if compile(&[glob.as_str()]).is_ok() {
                prop_assert!(OfRoute::new(&of).is_ok());
            }
            drop(with_any_ext(&glob));
        }

        /// Goal: no name or template panics, and the way back leads to where the way there began.
        /// Method: random templates and names; where a companion is known as one of its own file.
        #[test]
        fn there_and_back(text in "[{}.a_]{0,6}(stem|name|ext)?[{}.a_]{0,6}", name in "[a_.]{1,8}") {
            drop(Companion::parse(&text));
            prop_assume!(name != "." && name != "..");
            for template in ["{stem}.xmp", "{name}.json", "p_{stem}", "{stem}_b.{ext}"] {
                let template = Companion::parse(template).unwrap();
                let companion = beside(&rel(&name), &template.name_for(name.as_bytes())).unwrap();
                match template.main_of(&companion) {
                    Some(Main::Is(main)) => prop_assert_eq!(
                        template.name_for(main.name()), companion.name()
                    ),
                    Some(Main::HasStem(stem)) => prop_assert_eq!(
                        stem, stem_and_ext(name.as_bytes()).0
                    ),
                    None => prop_assert!(matches!(template.of, Of::StemAndExt(_))),
                }
            }
        }
    }
}
