//! The log as entries of the systemd journal, with fields that `journalctl` can filter by.
//!
//! Must not know: which events there are; the vocabulary is in `daemon`.
//!
//! `MESSAGE` is the line that stderr would get, fields included, since that is what people see.
//! `EVENT` is the event alone, the other fields have their names in capitals, and `path` is `REL`: so
//! `journalctl -u inboxd ROUTE=count EVENT='job failed'` works. Not tracing-journald, whose `MESSAGE`
//! has no fields in it and whose names are not to be chosen.
//!
//! The protocol is <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>: a datagram an entry, `KEY=value` lines; a
//! value with a newline in it comes as `KEY`, its length in 8 bytes, little-endian, and the value.
//!
//! Invariants
//! - An entry fits a datagram: a longer value is cut. So no sealed memory file is ever needed.
//! - What the journal does not take goes to stderr, which is the journal's too.

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A longer value is cut, in bytes: a datagram holds some 200 KiB, and no event has ten long fields.
const VALUE_MAX: usize = 16 << 10;

/// Writes events to the journal.
pub(super) struct Journald {
    socket: UnixDatagram,
    /// Not connected: the journal may be started again.
    path: PathBuf,
}

impl Journald {
    /// The journal, if stderr goes there and it can be reached.
    pub(super) fn of_stderr() -> Option<Self> {
        let told = std::env::var("JOURNAL_STREAM").ok()?;
        let stat = rustix::fs::fstat(rustix::stdio::stderr()).ok()?;
        if !is_stream(&told, stat.st_dev, stat.st_ino) {
            return None;
        }
        Self::at(Path::new(SOCKET)).ok()
    }

    /// The journal whose socket this is.
    fn at(path: &Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        Ok(Self { socket: UnixDatagram::unbound()?, path: path.to_owned() })
    }
}

/// Whether `DEVICE:INODE` is this file. What was inherited from a service further up is not.
fn is_stream(told: &str, dev: u64, ino: u64) -> bool {
    told.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(dev) && i.parse() == Ok(ino))
}

impl<S: Subscriber> Layer<S> for Journald {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let entry = entry(*event.metadata().level(), &fields);
        if self.socket.send_to(&entry, &self.path).is_err() {
            // Nobody is left to be told if that fails, too.
            drop(writeln!(io::stderr(), "{}", fields.line()));
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    event: String,
    others: Vec<(&'static str, Value)>,
}

struct Value {
    /// For a field of its own.
    plain: String,
    /// As in a line: text that could be taken for something else is quoted.
    shown: String,
}

impl Fields {
    fn add(&mut self, field: &Field, plain: String, shown: String) {
        if field.name() == "message" {
            self.event = plain;
        } else {
            self.others.push((field.name(), Value { plain, shown }));
        }
    }

    fn line(&self) -> String {
        let mut line = self.event.clone();
        for (name, value) in &self.others {
            line.extend([" ", name, "=", &value.shown]);
        }
        line
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned(), format!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, text.clone(), text);
    }
}

fn entry(level: Level, fields: &Fields) -> Vec<u8> {
    // As syslog counts: err, warning, info, debug.
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    };
    let mut entry = Vec::new();
    put(&mut entry, "MESSAGE", &fields.line());
    put(&mut entry, "PRIORITY", priority);
    put(&mut entry, "SYSLOG_IDENTIFIER", "inboxd");
    put(&mut entry, "EVENT", &fields.event);
    for (name, value) in &fields.others {
        let name = if *name == "path" { "REL".to_owned() } else { name.to_uppercase() };
        put(&mut entry, &name, &value.plain);
    }
    entry
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let fits = (0..=VALUE_MAX).rev().find_map(|len| value.get(..len));
    let value = if value.len() > VALUE_MAX { fits.unwrap_or_default() } else { value };
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::RelPath;
    use crate::daemon::log;
    use crate::daemon::notice::{Notice, Paused};
    use crate::daemon::shell::Told;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// What a journal gets of these, an entry each.
    fn received(told: &[Told]) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let layer = Journald::at(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || told.iter().for_each(log::tell));
        journal.set_nonblocking(true).unwrap();
        let mut entries = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while let Ok(len) = journal.recv(&mut buffer) {
            entries.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        entries
    }

    /// Goal: an entry can be filtered by what people ask for, and reads as a line. Method: a socket in the
    /// journal's place; a retry with all of job, route and path, and a pause.
    #[test]
    fn an_entry_has_fields_and_a_line() {
        let job = crate::core::JobId::next(crate::core::JobId::MIN, 1, [1; 10]);
        let retry = Notice::Retry {
            job,
            rel: RelPath::new("a/b c.json").unwrap(),
            route: "count".to_owned(),
            attempt: 2,
            incomplete: false,
            reason: "exit 1: boom".to_owned(),
            wait_ms: 10,
        };
        let why =
            Paused { reason: "gone".into(), fix: "`command` at x".into(), ..Paused::default() };
        let paused = Notice::Paused { route: "count".to_owned(), why };
        let entries = received(&[Told::Notice(retry.into()), Told::Notice(paused.into())]);
        let [retry, paused] = entries.as_slice() else { panic!("{entries:?}") };
        let line = format!(
            "MESSAGE=attempt failed job={job} path=a/b c.json route=\"count\" attempt=2 wait_ms=10 \
             error=exit 1: boom\n"
        );
        assert!(retry.starts_with(&line), "{retry}");
        for field in
            ["PRIORITY=6", "EVENT=attempt failed", "ROUTE=count", "REL=a/b c.json", "ATTEMPT=2"]
        {
            assert!(retry.lines().any(|line| line == field), "{field} is not in {retry}");
        }
        assert!(retry.lines().any(|line| *line == format!("JOB={job}")), "{retry}");
        assert!(paused.contains("\nPRIORITY=3\n") && paused.contains("\nFIX=`command` at x\n"));
    }

    /// Goal: no value can make up a field of its own. Method: a newline in a reason; a value too long.
    #[test]
    fn a_newline_stays_in_its_value() {
        let mut entry = Vec::new();
        put(&mut entry, "ERROR", "a\nPRIORITY=0");
        assert_eq!(entry, b"ERROR\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n");
        entry.clear();
        put(&mut entry, "ERROR", &"ä".repeat(VALUE_MAX));
        assert_eq!(entry.len(), "ERROR=\n".len() + VALUE_MAX);
    }

    /// Goal: a terminal below a service is not taken for the journal. Method: another file's number, nonsense.
    #[test]
    fn the_stream_must_be_ours() {
        assert!(is_stream("8:77", 8, 77));
        for other in ["8:78", "9:77", "", "8", "8:77:1", "x:y"] {
            assert!(!is_stream(other, 8, 77), "{other}");
        }
    }
}
