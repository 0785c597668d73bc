//! The path of a file below `incoming/`: bytes, relative, always safe to join.
//!
//! Must not know: the disk. Names are bytes because Linux's are; UTF-8 is only how most look.
//!
//! Invariant: at least one component; no component is empty, `.` or `..`; no NUL.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// A checked relative path. It keeps its bytes; only [`fmt::Display`] escapes them. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    /// Checks the bytes; `None` where they are not a path that stays below its folder.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes: Vec<u8> = bytes.into();
        let sound = !bytes.is_empty()
            && !bytes.contains(&0)
            && bytes
                .split(|b| *b == b'/')
                .all(|part| !part.is_empty() && part != b"." && part != b"..");
        sound.then(|| Self(bytes.into()))
    }

    /// The bytes, components joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or(&self.0)
    }

    /// All but the last component; empty where there is only one.
    pub fn parent(&self) -> &[u8] {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => self.0.get(..at).unwrap_or_default(),
            None => &[],
        }
    }

    /// The components, outermost first; never empty.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }
}

/// Escaped for people: valid UTF-8 as it is, control characters and other bytes as `\xNN`, newline as `\n`.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape_bytes(&self.0, f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Whether a character does something to a terminal or to the text around it instead of being seen: a control
/// character, one that ends a line, or one that turns the direction of what follows, so that `gpj.exe`
/// reads as `exe.jpg` (UAX #9, UTR #36).
pub fn acts(c: char) -> bool {
    let turns = '\u{202a}'..='\u{202e}';
    let isolates = '\u{2066}'..='\u{2069}';
    c.is_control()
        || turns.contains(&c)
        || isolates.contains(&c)
        || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Writes bytes so that one line of a terminal or a log shows them and nothing else happens there.
pub fn escape_bytes(bytes: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\t' => out.write_str("\\t")?,
                c if acts(c) => write!(out, "{}", c.escape_unicode())?,
                c => out.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a path that could leave its folder can never be built. Method: each bad form, once.
    #[test]
    fn paths_that_escape_are_refused() {
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b"] {
            assert!(RelPath::new(bad).is_none(), "{bad:?} was accepted");
        }
        for good in ["a", "a/b", "...", ".a", "a b", "-rf", "a\nb"] {
            assert!(RelPath::new(good).is_some(), "{good:?} was refused");
        }
        assert!(RelPath::new(vec![0xff, b'/', 0xfe]).is_some());
    }

    /// Goal: parent and name split where a person would. Method: one, two and three components.
    #[test]
    fn parent_and_name() {
        let rel = RelPath::new("a/b/c").unwrap();
        assert_eq!((rel.parent(), rel.name()), (&b"a/b"[..], &b"c"[..]));
        let rel = RelPath::new("c").unwrap();
        assert_eq!((rel.parent(), rel.name()), (&b""[..], &b"c"[..]));
    }

    /// Goal: what is printed is one line and names the odd bytes. Method: newline, escape, the other ends of a line, not UTF-8, the
    /// override that makes `gpj.exe` read `exe.jpg`, a letter that is written from right to left by itself.
    #[test]
    fn display_escapes() {
        let rel = RelPath::new(b"a\n\x1b\xffz".to_vec()).unwrap();
        assert_eq!(rel.to_string(), "a\\n\\u{1b}\\xffz");
        let rel = RelPath::new("a\u{2028}b\u{2029}\u{85}").unwrap();
        assert_eq!(rel.to_string(), "a\\u{2028}b\\u{2029}\\u{85}");
        let rel = RelPath::new("\u{202e}gpj.exe\u{2069}\u{5d0}").unwrap();
        assert_eq!(rel.to_string(), "\\u{202e}gpj.exe\\u{2069}\u{5d0}");
    }
}
