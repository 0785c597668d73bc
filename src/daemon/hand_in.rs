//! Handing in: a file, with what comes with it, or a folder that is one job, becomes a job whose id is known
//! at once. S2 without ever being in `incoming/`.
//!
//! With a daemon the copy is made here and the daemon is asked to take it. Without one the spool is
//! opened, recovered and left again with the job in it, to be run by whoever starts next.
//!
//! Must not know: the command line. What it may not do: run a worker.
//!
//! Invariants
//! - The copy is durable under its staging name before it is made a job, and the job is durable
//!   before its id is given to the caller.
//! - A copy that does not become a job is removed, also where a signal ends the command.
//! - Where root hands in, the copy is given to whose spool it is: its daemon could not move it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Gid, Uid};

use crate::config::Settings;
use crate::core::{JobId, RelPath};
use crate::fs::{self, FileType, Filesystem, RealFs, real::RealDir};
use crate::journal::record::Rel;
use crate::spool::import::{self, How, Source};
use crate::spool::lock::LockError;
use crate::spool::{Place, Shape};

use super::control::{Ask, Client, Fresh, Refusal, Taken};
use super::copying;
use super::keeper::{Input, Keeper, Output, Staged};
use super::notice::Notice;
use super::service::now_ms;
use super::shell::{self, Opened, ShellError};

/// How long a daemon that holds the lock may take until it answers: it may still be recovering.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// A regular file with what comes with it, or a folder, which are only read.
    Source(Box<Source>),
    /// A pipe or a device, read to its end.
    Stream(PathBuf),
    /// Standard input, read to its end.
    Stdin,
}

impl Bytes {
    fn shape(&self) -> Shape {
        match self {
            Self::Source(source) => source.shape,
            Self::Stream(_) | Self::Stdin => Shape::File,
        }
    }
}

/// Why a file did not become a job.
#[derive(Debug, thiserror::Error)]
pub enum HandInError {
    /// It cannot be read, or its copy not be written.
    #[error("cannot copy {what} into processing/: {source}")]
    Copy {
        /// Which file.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is no input; nothing of it is left.
    #[error("{0}")]
    Refused(String),
    /// The daemon ended while it was asked; the job may be there all the same.
    #[error("inboxd ended before it said whether it took {job}\n  inboxd explain {job}")]
    Unknown {
        /// The id it would have.
        job: JobId,
    },
    /// The socket.
    #[error("cannot speak with the running inboxd: {0}")]
    Control(#[source] io::Error),
    /// The spool.
    #[error(transparent)]
    Shell(#[from] ShellError),
}

/// Who makes it a job.
pub enum Taker {
    /// The daemon that serves the spool.
    Daemon {
        /// The spool's absolute path.
        path: PathBuf,
        /// Its folder of claims.
        processing: RealDir,
    },
    /// We, while we hold the lock.
    Alone {
        /// The lock, for as long as this lives.
        opened: Opened,
        /// With no slots, so that nothing is started.
        keeper: Box<Keeper<RealFs>>,
    },
}

impl Taker {
    /// Finds the daemon, or takes the lock and recovers the spool. `settings` are asked for only where
    /// there is no daemon, which has its own.
    pub fn find(
        spool: &Path,
        settings: impl FnOnce() -> Result<Settings, HandInError>,
    ) -> Result<Self, HandInError> {
        let end = Instant::now() + ANSWERS_WITHIN;
        let opened = loop {
            if Client::ask(spool, &Ask::Status).map_err(HandInError::Control)?.is_some() {
                let failed = |source| ShellError::Folder { path: spool.to_owned(), source };
                let path = std::fs::canonicalize(spool).map_err(failed)?;
                let processing = RealFs.open_root(&path.join("processing")).map_err(failed)?;
                return Ok(Self::Daemon { path, processing });
            }
            match shell::open(spool) {
                Ok(opened) => break opened,
                // It is starting, or ending.
                Err(ShellError::Lock(LockError::Held { .. })) if Instant::now() < end => {
                    std::thread::park_timeout(ASK_EVERY);
                }
                Err(error) => return Err(error.into()),
            }
        };
        // No slots: what recovery takes up again stays claimed and begins no attempt.
        let settings = Settings { workers: 0, ..settings()? };
        let (keeper, _) = shell::recover_spool(&opened, &settings)?;
        Ok(Self::Alone { opened, keeper: Box::new(keeper) })
    }

    /// Makes it a job; durable when it returns.
    pub fn take(&mut self, bytes: &Bytes, rel: &RelPath) -> Result<JobId, HandInError> {
        match self {
            Self::Daemon { path, processing } => {
                let fresh = ask::<Fresh>(path, &Ask::Id)?;
                let Some(Fresh { job }) = fresh else { return Err(gone()) };
                stage(path, processing, job, bytes, rel)?;
                let shape = bytes.shape();
                let ask = Ask::Submit { job, rel: Rel(rel.clone()), shape };
                let taken = self::ask::<Taken>(path, &ask).inspect_err(|error| {
                    if matches!(error, HandInError::Refused(_)) {
                        drop(copying::remove(processing, job, shape));
                    }
                })?;
                taken.map(|taken| taken.taken).ok_or(HandInError::Unknown { job })
            }
            Self::Alone { opened, keeper } => {
                let job = keeper.next_id(now_ms());
                stage(&opened.path, &opened.spool.processing, job, bytes, rel)?;
                let (rel, shape) = (rel.clone(), bytes.shape());
                let staged = Staged { job, rel, shape, source: None };
                let taken = keeper
                    .handle(Input::Staged(staged), now_ms())
                    .and_then(|()| keeper.commit(now_ms()));
                taken.map_err(ShellError::Keeper)?;
                // Durable is durable, also where the disk was full for what follows: the next start does that.
                match answer_of(keeper, job) {
                    Err(_) if keeper.has_taken(job) => Ok(job),
                    Err(error) => {
                        drop(copying::remove(&opened.spool.processing, job, bytes.shape()));
                        Err(error)
                    }
                    taken => taken,
                }
            }
        }
    }

    /// Leaves the spool as a drained daemon would; the lock is free when it returns.
    pub fn leave(self) -> Result<(), HandInError> {
        match self {
            Self::Daemon { .. } => Ok(()),
            Self::Alone { mut keeper, .. } => Ok(keeper.tidy().map_err(ShellError::Keeper)?),
        }
    }
}

fn gone() -> HandInError {
    let kind = io::ErrorKind::ConnectionAborted;
    HandInError::Control(io::Error::new(kind, "it has just ended; try again"))
}

/// Asks once; `None` where the daemon is gone.
fn ask<T: serde::de::DeserializeOwned>(spool: &Path, ask: &Ask) -> Result<Option<T>, HandInError> {
    let Some(mut client) = Client::ask(spool, ask).map_err(HandInError::Control)? else {
        return Ok(None);
    };
    let Some(value) = client.next_answer().map_err(HandInError::Control)? else { return Ok(None) };
    if let Ok(Refusal { error }) = serde_json::from_value(value.clone()) {
        return Err(HandInError::Refused(error));
    }
    serde_json::from_value(value).map(Some).map_err(|error| HandInError::Control(error.into()))
}

/// What the keeper said of the job.
fn answer_of(keeper: &mut Keeper<RealFs>, job: JobId) -> Result<JobId, HandInError> {
    let short = keeper.short_of().map_or("the disk is full", |of| of.says().0);
    let mut refused = short.to_owned();
    for output in keeper.take_outputs() {
        match output {
            Output::Notice(Notice::Taken { job: taken }) if taken == job => return Ok(job),
            Output::Notice(Notice::TakeRefused { job: of, reason }) if of == job => {
                refused = reason;
            }
            _ => {}
        }
    }
    Err(HandInError::Refused(refused))
}

fn stage(
    path: &Path,
    folder: &RealDir,
    job: JobId,
    bytes: &Bytes,
    rel: &RelPath,
) -> Result<(), HandInError> {
    let processing = path.join("processing");
    copying::note(Some((folder.clone(), job, bytes.shape())));
    let staged = || -> io::Result<()> {
        let stream = |path: &Path| std::fs::File::open(path);
        match bytes {
            Bytes::Source(source) => {
                import::stage(&processing, job, source, How::Copy, &mut |_| ())?;
            }
            Bytes::Stream(file) => {
                import::stage_reader(&processing, job, rel, &mut stream(file)?)?;
            }
            Bytes::Stdin => {
                import::stage_reader(&processing, job, rel, &mut io::stdin().lock())?;
            }
        }
        let name = Place::Staging(job, bytes.shape()).name();
        give(folder, Path::new(&name))?;
        // Durable after it: the whole copy under its staging name.
        fs::sync_tree(&RealFs, folder, Path::new(&name))
    };
    let staged = staged();
    copying::note(None);
    staged.map_err(|source| {
        // It would be removed by the next recovery; a full disk wants it gone now.
        drop(copying::remove(folder, job, bytes.shape()));
        let what = match bytes {
            Bytes::Source(source) => source.path.display().to_string(),
            Bytes::Stream(file) => file.display().to_string(),
            Bytes::Stdin => "standard input".to_owned(),
        };
        HandInError::Copy { what, source }
    })
}

/// Gives what root has copied to the owner of the folder that it stands in. From within to without: until its folder
/// is the owner's nobody else can put another file there.
fn give(processing: &RealDir, name: &Path) -> io::Result<()> {
    let to = rustix::fs::fstat(processing)?;
    let us = rustix::process::geteuid();
    if !us.is_root() || to.st_uid == us.as_raw() {
        return Ok(());
    }
    let (user, group) = (Some(Uid::from_raw(to.st_uid)), Some(Gid::from_raw(to.st_gid)));
    let top = RealFs.open_own_dir(processing, name)?;
    if rustix::fs::fstat(&top)?.st_uid != us.as_raw() {
        return Err(io::Error::other("somebody else's folder stands in its place"));
    }
    let mut folders = vec![PathBuf::from(".")];
    let mut at = 0;
    while let Some(path) = folders.get(at).cloned() {
        at += 1;
        let folder = RealFs.open_own_dir(&top, &path)?;
        for entry in RealFs.list(&folder)? {
            let name = PathBuf::from(entry?.name);
            if RealFs.stat(&folder, &name)?.file_type == FileType::Dir {
                folders.push(path.join(name));
            } else {
                rustix::fs::fchown(RealFs.open(&folder, &name, false)?, user, group)?;
            }
        }
    }
    for path in folders.iter().rev() {
        rustix::fs::fchown(RealFs.open_own_dir(&top, path)?, user, group)?;
    }
    Ok(())
}
