//! The bytes of a request and its answer, and names to addresses: everything that waits for others.
//!
//! Must not know: what is asked, jobs, routes.
//!
//! Invariants
//! - Every wait ends with the deadline of the request or with [`Stop`], whichever comes first: a drain
//!   that is told to hurry does not wait for a runner that hangs.
//! - A socket is never blocking.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use crate::config::limits;
use crate::worker::Stop;
use crate::worker::proc::time_until;

/// A connection that was kept from an earlier request turned out to be closed.
#[derive(Debug)]
pub(super) struct Stale {
    /// Nothing of this request can have reached the other side.
    pub(super) is_unsent: bool,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was closed without an answer")
    }
}

impl StdError for Stale {}

/// Finds [`Stale`] in what ureq gives back.
pub(super) fn stale(error: &io::Error) -> Option<&Stale> {
    error.get_ref()?.downcast_ref()
}

/// Opens connections that a stop ends.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stop: Stop,
}

impl Connector for Wire {
    type Out = Socket;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Socket>, Error> {
        let due = due(details.timeout);
        let fd = open(&details.addrs, due, &self.stop)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        let stop = self.stop.clone();
        Ok(Some(Socket { fd, buffers, stop, is_kept: false, sent: 0, heard: false, deaf: None }))
    }
}

/// The first address that answers. Each has [`limits::HTTP_CONNECT`] at most: one that drops what it
/// gets must not take all of a long time-out.
pub(super) fn open(
    addresses: &[SocketAddr],
    due: Option<Instant>,
    stop: &Stop,
) -> io::Result<OwnedFd> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let patience = Instant::now().checked_add(limits::HTTP_CONNECT);
        match open_one(*address, [due, patience].into_iter().flatten().min(), stop) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn open_one(address: SocketAddr, due: Option<Instant>, stop: &Stop) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            wait(socket.as_fd(), PollFlags::OUT, due, stop)?;
            sockopt::socket_error(&socket)??;
        }
        Err(errno) => return Err(errno.into()),
    }
    // Requests are small and wait for their answers.
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// What a stop makes of a wait. Not `Interrupted`: whoever reads a body to its end would try that again.
const STOPPED: io::ErrorKind = io::ErrorKind::ConnectionAborted;

/// Waits until the socket is ready. `TimedOut`: the deadline came; [`STOPPED`]: the stop.
fn wait(
    socket: BorrowedFd<'_>,
    what: PollFlags,
    due: Option<Instant>,
    stop: &Stop,
) -> io::Result<()> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(socket, what),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, due.map(time_until).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [ready, stopped] = fds.each_ref().map(PollFd::revents);
        if !stopped.is_empty() {
            return Err(STOPPED.into());
        }
        if !ready.is_empty() {
            return Ok(());
        }
        if due.is_some_and(|due| Instant::now() >= due) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// When this wait of a request must be over; `None`: further away than the clock reaches.
fn due(timeout: NextTimeout) -> Option<Instant> {
    if timeout.after.is_not_happening() {
        return None;
    }
    Instant::now().checked_add(*timeout.after)
}

/// One connection.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    buffers: LazyBuffers,
    stop: Stop,
    /// It has served a request before this one.
    is_kept: bool,
    /// Bytes of this request that went out.
    sent: u64,
    /// Something of the answer came.
    heard: bool,
    /// The other side takes no more. It may have answered before that: `413`, and then the end.
    deaf: Option<Errno>,
}

impl Socket {
    /// For a connection kept from before, that it was closed is no news of this request.
    fn broken(&self, error: io::Error) -> Error {
        if self.is_kept && !self.heard {
            return Error::Io(io::Error::new(error.kind(), Stale { is_unsent: self.sent == 0 }));
        }
        Error::Io(error)
    }

    fn wait(&self, what: PollFlags, due: Option<Instant>, why: Timeout) -> Result<(), Error> {
        wait(self.fd.as_fd(), what, due, &self.stop).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout(why),
            _ => Error::Io(error),
        })
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let due = due(timeout);
        let mut from = 0;
        while from < amount && self.deaf.is_none() {
            let rest = self.buffers.output().get(from..amount).unwrap_or_default();
            match send(&self.fd, rest, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    from += n;
                    self.sent = self.sent.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, due, timeout.reason)?,
                Err(errno @ (Errno::PIPE | Errno::CONNRESET)) if self.sent > 0 => {
                    self.deaf = Some(errno);
                }
                Err(errno) => return Err(self.broken(errno.into())),
            }
        }
        // Nothing waits here any more, but the rest of a long file is still read.
        if self.deaf.is_some() && timeout.after.is_zero() {
            return Err(Error::Timeout(timeout.reason));
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let due = due(timeout);
        if self.buffers.input_append_buf().is_empty() {
            let full = self.buffers.input().len();
            return Err(Error::LargeResponseHeader(full, full));
        }
        loop {
            self.wait(PollFlags::IN, due, timeout.reason)?;
            match recv(&self.fd, self.buffers.input_append_buf(), RecvFlags::empty()) {
                Ok((0, _)) if self.is_kept && !self.heard => {
                    return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok((0, _)) if self.deaf.is_some() && !self.heard => {
                    let errno = self.deaf.unwrap_or(Errno::PIPE);
                    return Err(self.broken(errno.into()));
                }
                Ok((n, _)) => {
                    self.heard |= n > 0;
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(self.broken(errno.into())),
            }
        }
    }

    /// Asked before a kept connection is used again: nothing may have come meanwhile, not even an end.
    fn is_open(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_quiet = matches!(poll(&mut fds, Some(&now)), Ok(0));
        (self.is_kept, self.sent, self.heard) = (true, 0, false);
        is_quiet && self.deaf.is_none()
    }
}

/// Finds addresses in a way that a stop ends: the lookup itself cannot be ended, so it is left alone.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) stop: Stop,
}

/// How often a lookup looks at the stop.
const LOOK: Duration = Duration::from_millis(50);

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let mut found = self.empty();
        let due = due(timeout);
        let late = |error: io::Error| match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
            _ => Error::Io(error),
        };
        for address in lookup(uri, due, &self.stop).map_err(late)?.into_iter().take(MOST) {
            found.push(address);
        }
        Ok(found)
    }
}

/// What [`ResolvedSocketAddrs`] holds.
const MOST: usize = 16;

/// The addresses of a URL's host. `NotFound`: there is no such host.
pub(super) fn lookup(uri: &Uri, due: Option<Instant>, stop: &Stop) -> io::Result<Vec<SocketAddr>> {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (say, hear) = sync_channel(1);
    let name = bare.to_owned();
    // Nobody waits for it once we gave up: it ends with the resolver's own time-out.
    Builder::new().name("lookup".to_owned()).spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        drop(say.send(found));
    })?;
    loop {
        match hear.recv_timeout(LOOK) {
            Ok(Ok(found)) if !found.is_empty() => return Ok(found),
            Ok(Ok(_)) => return Err(io::Error::new(io::ErrorKind::NotFound, "no address")),
            Ok(Err(error)) => {
                return Err(io::Error::new(io::ErrorKind::NotFound, error.to_string()));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the lookup ended without an answer"));
            }
            Err(RecvTimeoutError::Timeout) if stop.is_stopped() => {
                return Err(STOPPED.into());
            }
            Err(RecvTimeoutError::Timeout) if due.is_some_and(|due| Instant::now() >= due) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
