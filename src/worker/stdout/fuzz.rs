//! What a command prints, as any bytes: for the fuzz target `stdout`.
//!
//! Must not know: processes.

use super::{Said, Stdout};
use crate::config::{Route, StdoutFormat};

/// Reads these bytes in each format, whole and in pieces: the same must come of it, within the bounds.
pub fn all_formats(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let piece = usize::from(first % 16) + 1;
    let formats = [
        StdoutFormat::Json,
        StdoutFormat::Csv,
        StdoutFormat::Text,
        StdoutFormat::Prefixed,
        StdoutFormat::None,
    ];
    for stdout in formats {
        let max_output = 1 << (first % 12);
        let route = Route { stdout, max_output, ..Route::new("r", vec!["true".to_owned()]) };
        for succeeded in [true, false] {
            let whole = read(&route, bytes, bytes.len().max(1), succeeded);
            assert!(whole.log.len() <= crate::config::limits::LOG_KEPT + 256, "an unbounded log");
            let pieces = read(&route, bytes, piece, succeeded);
            assert_eq!(whole.rows, pieces.rows, "where {stdout:?} is cut matters");
            assert_eq!((whole.error, whole.log), (pieces.error, pieces.log));
        }
    }
}

fn read(route: &Route, bytes: &[u8], piece: usize, succeeded: bool) -> Said {
    let mut stdout = Stdout::new(route);
    for part in bytes.chunks(piece) {
        stdout.hear(part);
    }
    stdout.finish(succeeded)
}
