//! The control socket, `SPOOL/inboxd.sock`: how commands speak with the daemon that serves the spool.
//!
//! One JSON object a line, in both directions; the first line is the request. Must not know: the
//! command line, the keeper's insides: it asks by [`Message`]s.
//!
//! | request | answers |
//! |---|---|
//! | `{"ask":"status"}` | one `Status` with `pid` |
//! | `{"ask":"find","job":ID}` or `"rel":REL` | one `Found` or `null` |
//! | `{"ask":"why","rel":REL}` | one [`Held`]: why a file in `incoming/` waits, or `null` |
//! | `{"ask":"submit","job":ID,"rel":REL}` | `{"taken":ID}` once durable, or `{"error":…}` |
//! | `{"ask":"id"}` | `{"job":ID}`, a fresh id for a copy that is to be submitted |
//! | `{"ask":"batch","named":[…],"link":false,"again":false,"seal":false}` | a [`GuestSeen`] each time it changes, until `over` |
//! | `{"ask":"scan"}` | `{}`; a scan of `incoming/` begins |
//! | `{"ask":"follow"}` | `{}`, then a [`JobLine`] for each job that ends |
//!
//! The socket is 0660: who may speak is who may read the spool. One that somebody removed is made again: who
//! finds none takes the daemon for stopped.
//!
//! Invariants
//! - Who may only read the spool can neither have a file read nor a copy in `processing/` taken or removed: those
//!   are of commands that the daemon's own user runs.
//! - Those who speak, or say nothing, leave descriptors for the jobs. One that has gone is noticed.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, broadcast, oneshot, watch};

use crate::config::limits;
use crate::core::JobId;
use crate::fs::real::descriptors;
use crate::journal::record::{AnyPath, Rel};

use super::history::JobLine;
use super::keeper::Staged;
use super::notice::Notice;
use super::service::guest::{GuestSeen, Request};
use super::service::{Message, Wanted};
use super::sight::Held;
use super::writers;
use crate::spool::Shape;
use crate::spool::import::How;

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Ask {
    /// The state.
    Status,
    /// A job or a file on its way.
    Find {
        /// The job …
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<JobId>,
        /// … or its path below `incoming/`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rel: Option<Rel>,
    },
    /// Why a file in `incoming/` waits.
    Why {
        /// Its path.
        rel: Rel,
    },
    /// A fresh job id, above all before it.
    Id,
    /// A copy stands, durable, in `processing/ID.in/REL`: make it a job.
    Submit {
        /// The id in the staging name.
        job: JobId,
        /// Its path.
        rel: Rel,
        /// What it is, as the staging name says.
        #[serde(default)]
        shape: Shape,
    },
    /// `batch [SRC…]` beside this daemon.
    Batch {
        /// Absolute paths; none: what waits in `incoming/`.
        named: Vec<AnyPath>,
        /// Hard links instead of copies.
        link: bool,
        /// Also what is recorded already.
        again: bool,
        /// The CSVs are sealed at the end.
        #[serde(default)]
        seal: bool,
    },
    /// Look into `incoming/` now.
    Scan,
    /// Tell of each job that ends.
    Follow,
}

/// The longest request, in bytes: the paths of a `batch`, which are at most what a command line holds.
const REQUEST_MAX: u64 = 4 << 20;
/// The same of those who may not name files to be read: a path below `incoming/`, escaped.
const REQUEST_MAX_OTHERS: u64 = 64 << 10;
/// Of our descriptors, clients have at most one in so many; further ones wait in the backlog.
const CLIENTS_SHARE: usize = 3;

/// The socket's path in a spool.
pub fn path(spool: &Path) -> PathBuf {
    spool.join("inboxd.sock")
}

/// The same, short enough for `sun_path` (108 bytes, unix(7)) however long the spool's path is.
fn short_path(folder: &std::fs::File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/inboxd.sock", folder.as_raw_fd()))
}

/// The socket, and what it is known by.
pub(super) struct Door {
    listener: UnixListener,
    spool: PathBuf,
    /// How long nobody may come before the socket is looked for.
    every: Duration,
    /// Inode numbers of the spool's folder and of the socket.
    inodes: (u64, u64),
}

impl Door {
    /// Binds the socket. The caller holds the spool's lock, so one that is there is a dead daemon's.
    pub(super) fn open(spool: &Path, every: Duration) -> io::Result<Self> {
        Self::open_in(spool, every, &std::fs::File::open(spool)?)
    }

    fn open_in(spool: &Path, every: Duration, folder: &std::fs::File) -> io::Result<Self> {
        let path = short_path(folder);
        match crate::fs::remove_socket(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
        let inodes = (folder.metadata()?.ino(), std::fs::symlink_metadata(&path)?.ino());
        Ok(Self { listener, spool: spool.to_owned(), every, inodes })
    }

    /// Binds it again where it no longer stands. A spool that was moved may have left its place to another
    /// one, whose socket is not ours to touch; what fails is tried again with the next look.
    fn keep_open(&mut self) -> io::Result<()> {
        let folder = std::fs::File::open(&self.spool)?;
        let socket = std::fs::symlink_metadata(short_path(&folder)).map_or(0, |it| it.ino());
        if folder.metadata()?.ino() == self.inodes.0 && socket != self.inodes.1 {
            *self = Self::open_in(&self.spool, self.every, &folder)?;
        }
        Ok(())
    }
}

/// Serves requests until the task is dropped.
pub(super) async fn serve(
    mut door: Door,
    keeper: Sender<Message>,
    notices: broadcast::Sender<Arc<Notice>>,
) {
    let spool = door.spool.clone();
    let places = Arc::new(Semaphore::new((descriptors() / CLIENTS_SHARE).clamp(4, 4096)));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        // Nobody comes by a socket that is gone.
        let Ok(accepted) = tokio::time::timeout(door.every, door.listener.accept()).await else {
            door.keep_open().unwrap_or(());
            continue;
        };
        match accepted {
            Ok((stream, _)) => {
                let (keeper, notices) = (keeper.clone(), notices.subscribe());
                let spool = spool.clone();
                // A client that goes away ends only its own task.
                drop(tokio::spawn(async move {
                    drop(answer(stream, keeper, notices, spool).await);
                    drop(place);
                }));
            }
            // No descriptors: the clients wait in the backlog until there are.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one flat match, an arm a request")]
async fn answer(
    stream: tokio::net::UnixStream,
    keeper: Sender<Message>,
    mut notices: broadcast::Receiver<Arc<Notice>>,
    spool: PathBuf,
) -> io::Result<()> {
    use tokio::io::AsyncReadExt;
    // Who may speak here may read the spool, but not all that this user may read.
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let is_trusted = peer.is_ok_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw());
    let (read, mut write) = stream.into_split();
    let most = if is_trusted { REQUEST_MAX } else { REQUEST_MAX_OTHERS };
    let mut read = tokio::io::BufReader::new(read.take(most));
    let mut line = String::new();
    tokio::time::timeout(limits::ANSWER_PATIENCE, read.read_line(&mut line)).await??;
    let ask: Ask = match serde_json::from_str(&line) {
        Ok(ask) => ask,
        Err(error) => return say(&mut write, &Refusal { error: error.to_string() }).await,
    };
    match ask {
        Ask::Status => {
            let (send, receive) = oneshot::channel();
            let reply = move |status: &super::service::Status| drop(send.send(status.clone()));
            drop(keeper.send(Message::Ask(Box::new(reply))));
            match receive.await {
                Ok(mut status) => {
                    status.held_files = name_writers(&spool, status.held_files).await;
                    say(&mut write, &Running { pid: std::process::id(), status }).await
                }
                Err(_) => Ok(()),
            }
        }
        Ask::Find { job, rel } => {
            let wanted = match (job, rel) {
                (Some(job), _) => Wanted::Job(job),
                (None, Some(rel)) => Wanted::Rel(rel.0),
                (None, None) => {
                    let error = "find needs a job or a rel".to_owned();
                    return say(&mut write, &Refusal { error }).await;
                }
            };
            let (send, receive) = oneshot::channel();
            let reply = move |found| drop(send.send(found));
            drop(keeper.send(Message::Find(wanted, Box::new(reply))));
            match receive.await {
                Ok(found) => say(&mut write, &found).await,
                Err(_) => Ok(()),
            }
        }
        Ask::Submit { job, rel, shape } => {
            if !is_trusted {
                let error = "only the user that inboxd runs as may hand files in so; drop them into incoming/";
                return say(&mut write, &Refusal { error: error.to_owned() }).await;
            }
            let staged = Staged { job, rel: rel.0, shape, source: None };
            let (send, receive) = oneshot::channel();
            let reply = move |taken| send.send(taken).unwrap_or(());
            drop(keeper.send(Message::Submit(staged, Box::new(reply))));
            match receive.await {
                Ok(Ok(())) => say(&mut write, &Taken { taken: job }).await,
                Ok(Err(error)) => say(&mut write, &Refusal { error }).await,
                Err(_) => Ok(()),
            }
        }
        Ask::Why { rel } => {
            let (send, receive) = oneshot::channel();
            let reply = move |held| send.send(held).unwrap_or(());
            drop(keeper.send(Message::Why(rel.0, Box::new(reply))));
            match receive.await {
                Ok(held) => {
                    let held = name_writers(&spool, held.into_iter().collect()).await;
                    say(&mut write, &held.first()).await
                }
                Err(_) => Ok(()),
            }
        }
        Ask::Id => {
            let (send, receive) = oneshot::channel();
            let reply = move |job| send.send(job).unwrap_or(());
            drop(keeper.send(Message::Id(Box::new(reply))));
            match receive.await {
                Ok(job) => say(&mut write, &Fresh { job }).await,
                Err(_) => Ok(()),
            }
        }
        Ask::Batch { named, link, again, seal } => {
            if !is_trusted && !named.is_empty() {
                let error = "only the user that inboxd runs as may say which files it reads; \
                             use submit, or drop them into incoming/";
                return say(&mut write, &Refusal { error: error.to_owned() }).await;
            }
            let (send, mut seen) = watch::channel(GuestSeen::default());
            let report = Box::new(move |now: &GuestSeen| send.send(now.clone()).is_ok());
            let how = if link { How::Link } else { How::Copy };
            let named = named.into_iter().map(|path| path.0).collect();
            drop(keeper.send(Message::Batch(Request { named, how, again, seal, report })));
            while seen.changed().await.is_ok() {
                let now = seen.borrow_and_update().clone();
                say(&mut write, &now).await?;
                if now.over {
                    break;
                }
            }
            Ok(())
        }
        Ask::Scan => {
            drop(keeper.send(Message::Scan));
            write.write_all(b"{}\n").await
        }
        Ask::Follow => {
            write.write_all(b"{}\n").await?;
            loop {
                let heard = tokio::select! {
                    heard = notices.recv() => heard,
                    // It has said all: this is its end, which else would show only when a job ends.
                    _ = read.read_u8() => return Ok(()),
                };
                match heard.as_deref() {
                    Ok(Notice::Finished(finished)) => {
                        say(&mut write, &JobLine::of(finished)).await?;
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                }
            }
        }
    }
}

/// Adds to the reasons which process has the file open; on a thread of its own, since all of `/proc` is read.
/// Where the system allows no further thread they are told without it (the runtime's own would panic).
async fn name_writers(spool: &Path, mut held: Vec<Held>) -> Vec<Held> {
    let inodes: Vec<u64> = held.iter().filter_map(|it| it.open_ino).collect();
    if inodes.is_empty() {
        return held;
    }
    let incoming = spool.join("incoming");
    let (send, found) = oneshot::channel();
    let ask = move || {
        let dev = std::fs::metadata(&incoming).map_or(0, |meta| meta.dev());
        drop(send.send(writers::of(dev, &inodes)));
    };
    drop(std::thread::Builder::new().name("writers".to_owned()).spawn(ask));
    let pids = found.await.unwrap_or_default();
    for it in &mut held {
        if let Some(pid) = it.open_ino.and_then(|ino| pids.get(&ino)) {
            it.reason = format!("{} by pid {pid}", it.reason);
        }
    }
    held
}

async fn say(to: &mut (impl AsyncWriteExt + Unpin), what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// The answer to [`Ask::Status`].
#[derive(Clone, Debug, Serialize)]
struct Running {
    pid: u32,
    #[serde(flatten)]
    status: super::service::Status,
}

/// The answer to [`Ask::Id`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fresh {
    /// Given to nobody else.
    pub job: JobId,
}

/// The answer to [`Ask::Submit`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// The job, durable.
    pub taken: JobId,
}

/// The answer to a request that cannot be carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
}

/// A command's end of the socket.
pub struct Client {
    reader: BufReader<UnixStream>,
    /// The part of a line that came before a time-out.
    line: Vec<u8>,
}

/// What came of waiting for an answer.
#[derive(Debug)]
pub enum Answer {
    /// A line.
    Line(serde_json::Value),
    /// Nothing within the time that [`Client::patience`] set.
    NotYet,
    /// The daemon hung up.
    Over,
}

impl Client {
    /// Connects and asks; `None` where no daemon listens.
    pub fn ask(spool: &Path, ask: &Ask) -> io::Result<Option<Self>> {
        let folder = std::fs::File::open(spool)?;
        let stream = match UnixStream::connect(short_path(&folder)) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        match (&stream).write_all(&line) {
            // It ended in this moment, and has not read it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(Some(Self { reader: BufReader::new(stream), line: Vec::new() })),
        }
    }

    /// From now on an answer is waited for so long, and then [`Answer::NotYet`].
    pub fn patience(&self, time: Duration) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(time))
    }

    /// The next line of the answer as JSON; `None` at its end. That patience has ended is an error.
    pub fn next_answer(&mut self) -> io::Result<Option<serde_json::Value>> {
        match self.wait_answer()? {
            Answer::Line(value) => Ok(Some(value)),
            Answer::Over => Ok(None),
            Answer::NotYet => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the running inboxd does not answer\n  It is suspended, waits for its disk or for who \
                 reads its log, or is short of descriptors: see its log. To kill and start it loses no \
                 accepted file.",
            )),
        }
    }

    /// The next line of the answer as JSON, or why there is none.
    pub fn wait_answer(&mut self) -> io::Result<Answer> {
        match self.reader.read_until(b'\n', &mut self.line) {
            Ok(0) => Ok(Answer::Over),
            // A daemon that was killed in the middle of a line.
            Ok(_) if !self.line.ends_with(b"\n") => Ok(Answer::Over),
            Ok(_) => {
                let line = std::mem::take(&mut self.line);
                Ok(Answer::Line(serde_json::from_slice(&line)?))
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                Ok(Answer::NotYet)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Answer::Over),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a command does not hang with a daemon that is suspended, nor take it for one that has ended.
    /// Method: a socket whose other end says nothing, and then goes.
    #[test]
    fn a_silent_daemon_is_an_error_and_a_gone_one_is_none() {
        let (stream, daemon) = UnixStream::pair().unwrap();
        let mut client = Client { reader: BufReader::new(stream), line: Vec::new() };
        client.patience(std::time::Duration::from_millis(1)).unwrap();
        assert_eq!(client.next_answer().unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(daemon);
        assert_eq!(client.next_answer().unwrap(), None);
    }

    /// Goal: a daemon that ends while it is asked is one that does not listen, no other kind of trouble.
    /// Method: a question that no buffer takes whole, to who hangs up unheard.
    #[test]
    fn a_daemon_that_ends_unasked_does_not_listen() {
        let spool = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(spool.path()).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(short_path(&folder)).unwrap();
        let name = AnyPath(std::path::PathBuf::from("x".repeat(4 << 20)));
        let ask = Ask::Batch { named: vec![name], link: false, again: false, seal: false };
        let daemon = std::thread::spawn(move || drop(listener.accept().unwrap()));
        assert!(Client::ask(spool.path(), &ask).unwrap().is_none());
        daemon.join().unwrap();
    }
}
