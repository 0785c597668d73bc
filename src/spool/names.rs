//! Names below `processing/`, and names for what finds its name taken. Pure.
//!
//! Must not know: the disk.
//!
//! | name | what |
//! |---|---|
//! | `ID.N` | the job's folder; below it the file at its REL. N = attempts begun |
//! | `ID.N.out` | made files of attempt N, where the route asks for them |
//! | `ID.N.tmp` | scratch of attempt N |
//! | `ID.in` | a source being copied in; no job yet |
//!
//! Invariant: every name given out parses back to what it was made of.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::core::JobId;

/// The longest name Linux filesystems take, in bytes.
pub const NAME_MAX: usize = 255;

/// A job and its attempts begun, as its folder's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claimed {
    /// The job.
    pub job: JobId,
    /// Attempts begun.
    pub begun: u32,
}

/// What stands below `processing/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `ID.N`
    Job(Claimed),
    /// `ID.N.out`
    Output(Claimed),
    /// `ID.N.tmp`
    Scratch(Claimed),
    /// `ID.in`
    Staging(JobId),
    /// `ID.err`: a file, the failed records of an input.
    Failed(JobId),
}

impl Place {
    /// The name; asserted to parse back.
    pub fn name(self) -> String {
        let name = match self {
            Self::Job(c) => format!("{}.{}", c.job, c.begun),
            Self::Output(c) => format!("{}.{}.out", c.job, c.begun),
            Self::Scratch(c) => format!("{}.{}.tmp", c.job, c.begun),
            Self::Staging(job) => format!("{job}.in"),
            Self::Failed(job) => format!("{job}.err"),
        };
        debug_assert_eq!(Self::parse(OsStr::new(&name)), Some(self));
        name
    }

    /// Whose it is.
    pub fn job(self) -> JobId {
        match self {
            Self::Job(c) | Self::Output(c) | Self::Scratch(c) => c.job,
            Self::Staging(job) | Self::Failed(job) => job,
        }
    }

    /// Attempts begun, 0 while staging.
    pub fn begun(self) -> u32 {
        match self {
            Self::Job(c) | Self::Output(c) | Self::Scratch(c) => c.begun,
            Self::Staging(_) | Self::Failed(_) => 0,
        }
    }

    /// What a name below `processing/` stands for; `None`: not one of ours.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let text = name.to_str()?;
        let (id, rest) = text.split_once('.')?;
        let job: JobId = id.parse().ok()?;
        if rest == "in" {
            return Some(Self::Staging(job));
        }
        if rest == "err" {
            return Some(Self::Failed(job));
        }
        let (number, kind) = match rest.split_once('.') {
            None => (rest, None),
            Some((number, kind)) => (number, Some(kind)),
        };
        let begun: u32 = number.parse().ok()?;
        // "+1" and "01" parse as numbers, but no name of ours looks so.
        if begun.to_string() != number {
            return None;
        }
        let claimed = Claimed { job, begun };
        match kind {
            None => Some(Self::Job(claimed)),
            Some("out") => Some(Self::Output(claimed)),
            Some("tmp") => Some(Self::Scratch(claimed)),
            Some(_) => None,
        }
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
        fn places_round_trip(ms in 0u64..1 << 48, begun: u32, text in "[0-9a-z.+]{0,40}") {
            let claimed = Claimed { job: job(ms), begun };
            for place in [Place::Job(claimed), Place::Output(claimed), Place::Scratch(claimed), Place::Staging(claimed.job), Place::Failed(claimed.job)] {
                prop_assert_eq!(Place::parse(OsStr::new(&place.name())), Some(place));
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
            prop_assert!(beside(&name, id).to_string_lossy().contains(&id.to_string()));
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
