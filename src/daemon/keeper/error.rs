//! Why the daemon cannot keep its promise any longer, and what of it passes by waiting.
//!
//! Must not know: what is done about it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::GlobError;
use crate::fs::is_shortage;
use crate::journal::{CommitError, EncodeError, JournalError};
use crate::results::ResultsError;

/// An error with its sources, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}

/// The daemon cannot keep its promise any longer.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The journal said no.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A commit failed for good.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A record does not fit into a journal line.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A CSV.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// A glob that the settings' check let pass: our bug.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// A move, or a folder of ours.
    #[error("cannot {what}: {source}")]
    Spool {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Someone took away what nothing can be promised without.
    #[error("{name}/ was removed or replaced while inboxd ran")]
    FolderLost {
        /// Which folder of the spool.
        name: &'static str,
    },
    /// It was told to stop now, and what has run could not be recorded or settled.
    #[error("stopped while {}", .0.says().0)]
    StoppedShort(Shortage),
}

impl KeeperError {
    /// Waiting may help.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Results(ResultsError::Full { .. }) | Self::Commit(CommitError::Full { .. }) => {
                true
            }
            Self::Spool { source, .. } => is_shortage(source),
            _ => false,
        }
    }

    /// The keeper's thread ended without a word: our bug.
    pub(in crate::daemon) fn gone() -> Self {
        let source = io::Error::other("the keeper's thread ended without a word");
        Self::Spool { what: "go on".to_owned(), source }
    }

    pub(in crate::daemon) fn spool(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Spool { what: what.into(), source }
    }
}

/// What there is too little of, and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortage {
    /// Space on the disk.
    Disk,
    /// What of it our user may have.
    Quota,
    /// Inodes: there is space, and no file can be made.
    Inodes,
    /// Descriptors, ours or the system's.
    Files,
    /// The kernel's memory.
    Memory,
    /// Rights on a CSV, or on the folder that it stands in.
    Rights,
}

impl Shortage {
    /// What the system's error among the causes of a shortage says. Without one it is the disk.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        use rustix::io::Errno;
        let mut cause = Some(error);
        while let Some(error) = cause {
            match error.downcast_ref().and_then(Errno::from_io_error) {
                Some(Errno::MFILE | Errno::NFILE) => return Self::Files,
                Some(Errno::NOMEM | Errno::NOBUFS) => return Self::Memory,
                Some(Errno::DQUOT) => return Self::Quota,
                Some(Errno::PERM | Errno::ACCESS) => return Self::Rights,
                _ => cause = error.source(),
            }
        }
        Self::Disk
    }

    /// The same for a disk on which inodes are what is short: the system has one word for both.
    #[must_use]
    pub fn on(self, path: &Path) -> Self {
        match self {
            Self::Disk if crate::fs::real::has_no_inode(path) => Self::Inodes,
            of => of,
        }
    }

    /// What to do before inboxd is started again.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Disk | Self::Quota => "Free space",
            Self::Inodes => "No inode is left: remove files (df -i)",
            Self::Files => "Raise the limit of open files (ulimit -n)",
            Self::Memory => "Free memory",
            Self::Rights => {
                "It is immutable or append-only, or its folder is (lsattr, chattr -ia), or not ours (ls -ld): undo that"
            }
        }
    }

    /// What is waited for.
    pub fn until(self) -> &'static str {
        if self == Self::Rights { "until it may be" } else { "until there is more" }
    }

    /// In words, and what to do where something can be done besides making room.
    pub fn says(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Disk => ("the disk is full", None),
            Self::Quota => ("the disk quota is used up", None),
            Self::Inodes => {
                let fix = "df -i shows it; files that nobody needs any more have to go";
                ("the filesystem has no inodes left for new files", Some(fix))
            }
            Self::Files => {
                let fix = "raise the limit: LimitNOFILE= of the unit, or ulimit -n";
                ("too many files are open", Some(fix))
            }
            Self::Memory => ("the kernel has no memory left", None),
            Self::Rights => {
                let fix =
                    "ls -ld and lsattr of it and of results/ show why: chattr -ia, or give it back";
                ("a CSV may not be written or renamed", Some(fix))
            }
        }
    }
}
