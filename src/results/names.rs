//! The names of CSV files below `results/`.
//!
//! Must not know: files. Text in, text out. A route's name has no dot in it, so no name of one
//! route can be read as a name of another.

use jiff::Timestamp;

/// The segment that still grows.
pub fn open(route: &str) -> String {
    format!("{route}.csv")
}

/// A segment from its birth until its header is written.
pub fn temp(route: &str, seg: u64) -> String {
    format!(".{route}.{seg}.tmp")
}

/// A segment that gets no more rows: `ROUTE.20261122T140211Z.3.csv`.
pub fn sealed(route: &str, unix_ms: u64, seg: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let at = at.unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y%m%dT%H%M%SZ");
    format!("{route}.{at}.{seg}.csv")
}

/// The same name for when it is taken by another file: `ROUTE.20261122T140211Z.3~1.csv`; 0: as it is.
pub fn variant(name: &str, k: u32) -> String {
    match name.strip_suffix(".csv") {
        Some(stem) if k > 0 => format!("{stem}~{k}.csv"),
        _ => name.to_owned(),
    }
}

/// The same time with another number.
pub fn renumber(name: &str, route: &str, seg: u64) -> String {
    let time = name.strip_prefix(route).and_then(|rest| rest.strip_prefix('.'));
    let time = time.and_then(|rest| rest.split('.').next()).unwrap_or_default();
    format!("{route}.{time}.{seg}.csv")
}

/// Whether this is the name of a sealed segment of any route.
pub fn is_sealed(name: &std::ffi::OsStr) -> bool {
    let name = name.to_str();
    let route = name.and_then(|name| Some((name.split_once('.')?.0, name)));
    route.is_some_and(|(route, name)| parse_sealed(route, name).is_some())
}

/// The number of a sealed name of this route, and which variant; `None` for other names.
pub fn parse_sealed(route: &str, name: &str) -> Option<(u64, u32)> {
    let rest = name.strip_prefix(route)?.strip_prefix('.')?.strip_suffix(".csv")?;
    let (time, number) = rest.split_once('.')?;
    let timed = time.len() == "20261122T140211Z".len()
        && time.bytes().enumerate().all(|(at, b)| match at {
            8 => b == b'T',
            15 => b == b'Z',
            _ => b.is_ascii_digit(),
        });
    let (seg, k) = number.split_once('~').unwrap_or((number, "0"));
    if timed { Some((seg.parse().ok()?, k.parse().ok()?)) } else { None }
}

/// Route and number of a temporary name; `None` for other names.
pub fn parse_temp(name: &str) -> Option<(&str, u64)> {
    let (route, seg) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    Some((route, seg.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: names read back as what they are, and as nothing else. Method: one of each, and neighbours.
    #[test]
    fn names_read_back() {
        let name = sealed("count", 1_795_356_131_000, 3);
        assert_eq!(name, "count.20261122T140211Z.3.csv");
        assert_eq!(parse_sealed("count", &name), Some((3, 0)));
        assert_eq!(parse_sealed("count", &variant(&name, 2)), Some((3, 2)));
        assert_eq!(renumber(&name, "count", 7), "count.20261122T140211Z.7.csv");
        assert_eq!(parse_temp(&temp("count", 3)), Some(("count", 3)));
        for other in ["count.csv", "count2.20261122T140211Z.3.csv", "count.backup.3.csv"] {
            assert_eq!(parse_sealed("count", other), None, "{other}");
        }
        assert_eq!(parse_temp(".count.csv.tmp"), None);
    }

    /// Goal: what retention may remove is a sealed segment, of whatever route, and nothing else. Method: sealed
    /// names, and neighbours.
    #[test]
    fn only_sealed_names_are_sealed() {
        let name = sealed("count", 1_795_356_131_000, 3);
        for name in [name.clone(), variant(&name, 2), sealed("errors", 0, 1)] {
            assert!(is_sealed(name.as_ref()), "{name}");
        }
        for other in [
            "count.csv",
            "count.backup.3.csv",
            "count.20261122T140211Z.csv",
            "count.20261122T140211Z.3.tsv",
            "count.20261122T140211Z.x.csv",
            "count.20261122 140211Z.3.csv",
            "count.old.20261122T140211Z.3.csv",
            "20261122T140211Z.3.csv",
        ] {
            assert!(!is_sealed(other.as_ref()), "{other}");
        }
    }
}
