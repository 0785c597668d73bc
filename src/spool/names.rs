//! Names below `processing/`, and names for what finds its name taken. Pure.
//!
//! Must not know: the disk.
//!
//! | name | what |
//! |---|---|
//! | `ID.N` | the job's folder; below it the file at its REL. N = attempts begun |
//! | `ID.N.dK` | the same of a job that is a folder: REL has K components, and all below it is its own |
//! | `ID.N.wM` | the same of a file that came with others: M, in hex, is the crc32c of REL |
//! | `ID.N.out` | made files of attempt N, where the route asks for them |
//! | `ID.N.tmp` | scratch of attempt N |
//! | `ID.N.left` | what a worker left, beside its input or as made files, and only another user may move, or still makes |
//! | `ID.in`, `ID.in.dK`, `ID.in.wM` | what is being copied in, and what it will be; no job yet |
//!
//! Invariant: every name given out parses back to what it was made of.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::core::{JobId, RelPath};

/// The longest name Linux filesystems take, in bytes.
pub const NAME_MAX: usize = 255;

/// A job and its attempts begun, as its folder's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claimed {
    /// The job.
    pub job: JobId,
    /// Attempts begun.
    pub begun: u32,
    /// What the job is.
    pub shape: Shape,
}

/// What a job is, as far as its place must tell: what stands there beside it may be older than itself.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A file.
    #[default]
    File,
    /// A folder, whose path has so many components.
    Folder(u16),
    /// A file with companions, whose path has this crc32c.
    Main(u32),
}

impl Shape {
    /// Of the folder of this path.
    pub fn folder(rel: &RelPath) -> Self {
        Self::Folder(u16::try_from(rel.components().count()).unwrap_or(u16::MAX))
    }

    /// Of the file of this path, which came with others.
    pub fn main(rel: &RelPath) -> Self {
        Self::Main(crc32c::crc32c(rel.as_bytes()))
    }

    /// As a name ends with it.
    fn text(self) -> String {
        match self {
            Self::File => String::new(),
            Self::Folder(levels) => format!(".d{levels}"),
            Self::Main(crc) => format!(".w{crc:08x}"),
        }
    }

    /// What stands behind the dot, if there is one.
    fn parse(text: Option<&str>) -> Option<Self> {
        let Some(text) = text else { return Some(Self::File) };
        match (text.strip_prefix('d'), text.strip_prefix('w')) {
            (Some(digits), _) => digits.parse().ok().filter(|n| *n > 0).map(Self::Folder),
            (_, Some(digits)) => u32::from_str_radix(digits, 16).ok().map(Self::Main),
            (None, None) => None,
        }
    }
}

impl Claimed {
    /// A job that is a file.
    pub fn file(job: JobId, begun: u32) -> Self {
        Self { job, begun, shape: Shape::File }
    }

    /// The same job with so many attempts begun.
    #[must_use]
    pub fn with_begun(self, begun: u32) -> Self {
        Self { begun, ..self }
    }

    /// The job is a folder.
    pub fn is_folder(self) -> bool {
        matches!(self.shape, Shape::Folder(_))
    }

    /// Its folder in `processing/` was made for it and goes with it, and never was another job's.
    pub fn is_own(self) -> bool {
        self.shape != Shape::File
    }

    /// Of a folder, the components of its path.
    pub(super) fn levels(self) -> u16 {
        match self.shape {
            Shape::Folder(levels) => levels,
            Shape::File | Shape::Main(_) => 0,
        }
    }
}

/// What stands below `processing/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `ID.N`, or `ID.N.dK` for a folder.
    Job(Claimed),
    /// `ID.N.out`
    Output(Claimed),
    /// `ID.N.tmp`
    Scratch(Claimed),
    /// `ID.N.left`
    Left(Claimed),
    /// `ID.in`, and behind it what will be behind `ID.0`, which it will be.
    Staging(JobId, Shape),
    /// `ID.err`: a file, the failed records of an input.
    Failed(JobId),
}

impl Place {
    /// The name; asserted to parse back.
    pub fn name(self) -> String {
        let name = self.text();
        debug_assert_eq!(Self::parse(OsStr::new(&name)), Some(self.as_named()));
        name
    }

    fn text(self) -> String {
        match self {
            Self::Job(c) => format!("{}.{}{}", c.job, c.begun, c.shape.text()),
            Self::Output(c) => format!("{}.{}.out", c.job, c.begun),
            Self::Scratch(c) => format!("{}.{}.tmp", c.job, c.begun),
            Self::Left(c) => format!("{}.{}.left", c.job, c.begun),
            Self::Staging(job, shape) => format!("{job}.in{}", shape.text()),
            Self::Failed(job) => format!("{job}.err"),
        }
    }

    /// What its name says of it: what kind of job it is for is said only by the job's own folder.
    fn as_named(self) -> Self {
        match self {
            Self::Output(c) => Self::Output(Claimed::file(c.job, c.begun)),
            Self::Scratch(c) => Self::Scratch(Claimed::file(c.job, c.begun)),
            Self::Left(c) => Self::Left(Claimed::file(c.job, c.begun)),
            other => other,
        }
    }

    /// Whose it is.
    pub fn job(self) -> JobId {
        match self {
            Self::Job(c) | Self::Output(c) | Self::Scratch(c) | Self::Left(c) => c.job,
            Self::Staging(job, _) | Self::Failed(job) => job,
        }
    }

    /// Attempts begun, 0 while staging.
    pub fn begun(self) -> u32 {
        match self {
            Self::Job(c) | Self::Output(c) | Self::Scratch(c) | Self::Left(c) => c.begun,
            Self::Staging(..) | Self::Failed(_) => 0,
        }
    }

    /// What a name below `processing/` stands for; `None`: not one of ours.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let text = name.to_str()?;
        let (id, rest) = text.split_once('.')?;
        let job: JobId = id.parse().ok()?;
        if rest == "err" {
            return Some(Self::Failed(job));
        }
        let (number, kind) = match rest.split_once('.') {
            None => (rest, None),
            Some((number, kind)) => (number, Some(kind)),
        };
        let place = if number == "in" {
            Self::Staging(job, Shape::parse(kind)?)
        } else {
            let claimed = Claimed::file(job, number.parse().ok()?);
            match kind {
                Some("out") => Self::Output(claimed),
                Some("tmp") => Self::Scratch(claimed),
                Some("left") => Self::Left(claimed),
                shape => Self::Job(Claimed { shape: Shape::parse(shape)?, ..claimed }),
            }
        };
        // "+1" and "01" parse as numbers, but no name of ours looks so.
        (place.text() == text).then_some(place)
    }
}

/// The name for a file whose own is taken: `x~ID.json` for `x.json`. Too long: the stem is shortened.
pub fn beside(name: &[u8], job: JobId) -> OsString {
    // A leading dot is no extension: `.profile` becomes `.profile~ID`.
    let dot = name.iter().rposition(|b| *b == b'.').filter(|at| *at > 0);
    let (stem, ext) = name.split_at(dot.unwrap_or(name.len()));
    let id = job.to_string();
    let tail = 1 + id.len();
    // An extension as long as the whole name is no extension worth keeping.
    let ext = if tail + ext.len() < NAME_MAX { ext } else { &[] };
    let keep = stem.len().min(NAME_MAX - tail - ext.len());
    let mut out = stem.get(..keep).unwrap_or(stem).to_vec();
    out.push(b'~');
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(ext);
    OsString::from_vec(out)
}

/// The path that a settled one had, as far as its names say: `x.json` for `x~ID.json`.
pub fn original_path(path: &Path) -> Option<RelPath> {
    let original = |name: &[u8]| parts(name).map_or_else(|| name.to_vec(), |(own, _)| own);
    let parts: Vec<Vec<u8>> = path.iter().map(|part| original(part.as_bytes())).collect();
    RelPath::new(parts.join(&b'/'))
}

/// The job that a settled file's name tells of: that of `x~ID.json`.
pub fn job_of(name: &[u8]) -> Option<JobId> {
    parts(name).map(|(_, job)| job)
}

/// What [`beside`] made a name of.
fn parts(name: &[u8]) -> Option<(Vec<u8>, JobId)> {
    (0..name.len()).rev().find_map(|at| {
        let (stem, rest) = name.split_at(at);
        let (id, ext) = rest.strip_prefix(b"~")?.split_at_checked(JobId::TEXT_LEN)?;
        let job = std::str::from_utf8(id).ok()?.parse().ok()?;
        Some(([stem, ext].concat(), job))
    })
}

/// The name of the sidecar below `error/.why/` for a file's name: `x.json.json`.
pub fn sidecar(name: &OsStr, job: JobId) -> OsString {
    let mut out = name.as_bytes().to_vec();
    out.extend_from_slice(b".json");
    if out.len() <= NAME_MAX { OsString::from_vec(out) } else { beside(&out, job) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(ms: u64) -> JobId {
        JobId::next(JobId::MIN, ms, [9; 10])
    }

    proptest! {
        /// Goal: names given out parse back, and nothing else parses. Method: random places and random text.
        #[test]
        fn places_round_trip(ms in 0u64..1 << 48, begun: u32, levels in 1u16.., crc: u32, text in "[0-9a-z.+]{0,40}") {
            let claimed = Claimed::file(job(ms), begun);
            let [folder, main] = [Shape::Folder(levels), Shape::Main(crc)].map(|shape| Claimed { shape, ..claimed });
            for place in [Place::Output(claimed), Place::Scratch(claimed), Place::Left(claimed), Place::Failed(claimed.job)] {
                prop_assert_eq!(Place::parse(OsStr::new(&place.name())), Some(place));
            }
            for of in [folder, main, claimed] {
                for place in [Place::Job(of), Place::Staging(of.job, of.shape)] {
                    prop_assert_eq!(Place::parse(OsStr::new(&place.name())), Some(place));
                }
            }
            if let Some(place) = Place::parse(OsStr::new(&text)) { prop_assert_eq!(place.name(), text); }
        }

        /// Goal: a name beside a taken one is legal, carries the id and differs. Method: names of 1..=255 bytes.
        #[test]
        fn names_beside_are_legal(name in proptest::collection::vec(1u8..=255, 1..=255)) {
            let name: Vec<u8> = name.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect();
            let id = job(77);
            for made in [beside(&name, id), sidecar(OsStr::from_bytes(&name), id)] {
                prop_assert!(made.len() <= NAME_MAX && !made.is_empty());
                prop_assert!(made.as_bytes() != name.as_slice());
                prop_assert!(!made.as_bytes().contains(&b'/'));
            }
            let beside = beside(&name, id);
            prop_assert!(beside.to_string_lossy().contains(&id.to_string()));
            // Only what had to be shortened is not known again.
            let is_whole = name.len() + 1 + JobId::TEXT_LEN <= NAME_MAX;
            prop_assert!(!is_whole || parts(beside.as_bytes()) == Some((name, id)));
        }
    }

    /// Goal: people recognise the name. Method: the documented form, no extension, a hidden name.
    #[test]
    fn beside_keeps_stem_and_extension() {
        let id = job(1);
        assert_eq!(beside(b"x.json", id), OsString::from(format!("x~{id}.json")));
        assert_eq!(beside(b"hosts", id), OsString::from(format!("hosts~{id}")));
        assert_eq!(beside(b".profile", id), OsString::from(format!(".profile~{id}")));
    }
}
