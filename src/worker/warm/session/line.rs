//! What a worker is told of a job.
//!
//! Must not know: the worker.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::job::Job;
use super::super::message::{JobFields, Named, RecordJson, Say, write};
use crate::worker::Task;
use crate::worker::records::{InputRecord, RecordValue};

/// A record has an id of its own, so that a second result for the last one is not taken for its own.
pub(in crate::worker::warm) fn id_of(task: &Task) -> String {
    match &task.record {
        Some(record) => format!("{}/{}", task.job, record.no),
        None => task.job.to_string(),
    }
}

fn record_json(record: &InputRecord) -> Result<RecordJson<'_>, String> {
    match &record.value {
        RecordValue::Line(text) => Ok(RecordJson::Line(text)),
        RecordValue::Object(text) => {
            let raw = serde_json::from_str(text);
            raw.map(RecordJson::Object).map_err(|error| format!("the record is no JSON: {error}"))
        }
    }
}

pub(in crate::worker::warm) fn job_line(job: &Job, task: &Task) -> Result<Vec<u8>, String> {
    let meta = task.path.symlink_metadata();
    let meta = meta.map_err(|error| format!("cannot look at the file: {error}"))?;
    let route = &task.route;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    write(&Say::Job(Box::new(JobFields {
        id: job.id(),
        attempt: task.attempt,
        route: &route.name,
        path: Named::path(&task.path),
        name: Named::name(task.rel.name()),
        rel: Named::rel(task.rel.as_bytes()),
        size_bytes: meta.len(),
        mtime_ms: meta.mtime().saturating_mul(1000).saturating_add(meta.mtime_nsec() / 1_000_000),
        timeout_ms: ms(route.timeout),
        deadline_ms: ms(now.saturating_add(route.timeout)),
        progress_timeout_ms: route.warm.progress_timeout.map(ms),
        scratch: Named::scratch(&task.scratch),
        output: task.output.as_deref().map(Named::output),
        args: BTreeMap::new(),
        record: task.record.as_ref().map(record_json).transpose()?,
        record_no: task.record.as_ref().map(|record| record.no),
    })))
}
