//! The argv template filled for one task: with bytes, never through a shell.
//!
//! Must not know: processes, PATH, how a template is written (`config::template` takes it apart).
//!
//! Invariant: what is filled in is one argument, whatever bytes it holds: it is never split, quoted
//! or looked at again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Task;
use crate::config::template::Part;

/// The argument for one task.
pub(super) fn fill(parts: &[Part], task: &Task) -> OsString {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&value(part, task));
    }
    OsString::from_vec(out)
}

/// The companions of the task's file, beside it.
pub(super) fn companions(task: &Task) -> impl Iterator<Item = PathBuf> {
    let beside = |name: Vec<u8>| task.path.with_file_name(OsString::from_vec(name));
    task.route.with.iter().map(|it| it.name_for(task.rel.name())).map(beside)
}

/// The bytes that a placeholder stands for.
pub(super) fn value(part: &Part, task: &Task) -> Vec<u8> {
    let name = Path::new(OsStr::from_bytes(task.rel.name()));
    let bytes = |text: Option<&OsStr>| text.map_or_else(Vec::new, |t| t.as_bytes().to_vec());
    match part {
        Part::Literal(text) => text.as_bytes().to_vec(),
        Part::Path => task.path.as_os_str().as_bytes().to_vec(),
        Part::Name => task.rel.name().to_vec(),
        Part::Stem => bytes(name.file_stem()),
        Part::Ext => bytes(name.extension()),
        Part::Rel => task.rel.as_bytes().to_vec(),
        // Never empty, so that `out/{dir}/x` is not a path from the root.
        Part::Dir if task.rel.parent().is_empty() => b".".to_vec(),
        Part::Dir => task.rel.parent().to_vec(),
        Part::Job => task.job.to_string().into_bytes(),
        Part::Attempt => task.attempt.to_string().into_bytes(),
        Part::Scratch => task.scratch.as_os_str().as_bytes().to_vec(),
        Part::Output => bytes(task.output.as_ref().map(|path| path.as_os_str())),
        // Made of several arguments where the command is started.
        Part::With => Vec::new(),
        Part::Record => {
            task.record.as_ref().map_or_else(Vec::new, |it| it.value.text().as_bytes().to_vec())
        }
    }
}
