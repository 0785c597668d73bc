//! What a worker says, as any bytes: for the fuzz target `wire`, and in tests for random histories.
//!
//! Must not know: processes. From bytes to the end of a job, as a session goes through them.

use super::framing::{Frame, Frames};
use super::job::{Job, Step};
use super::message::{self, Message, Ready};
use crate::core::{Row, Verdict};

/// The job that the worker holds, as the fuzzer must spell it.
const JOB: &str = "j";
/// Rows staged, in bytes of their JSON.
const MAX_STAGED: u64 = 256;

/// The end of the job by its result, if it came to that, and what is for the log: text beside the
/// messages, and messages. Which of these two comes first is a matter of when it is read.
type Heard = (Option<(Verdict, Vec<Row>)>, Vec<u8>, Vec<u8>);

/// Lets a worker of both transports say these bytes, whole and byte by byte: the same must come of it, and
/// no more rows than may be staged.
pub(in crate::worker) fn wire(bytes: &[u8]) {
    for make in [Frames::pure, Frames::mixed] {
        let whole = hear(make(), bytes, bytes.len().max(1));
        assert_eq!(whole, hear(make(), bytes, 1), "where bytes are cut matters");
        if let Some((verdict, rows)) = whole.0 {
            assert!(rows.is_empty() || verdict == Verdict::Done, "rows of a job that is not done");
            let cells = rows.iter().flat_map(|row| &row.0).map(|(_, cell)| cell.len());
            assert!(cells.sum::<usize>() < bytes.len(), "rows from nowhere");
        }
    }
}

fn hear(mut frames: Frames, bytes: &[u8], piece: usize) -> Heard {
    // No folder that any bytes could name a file in.
    let scratch = std::path::Path::new("/nonexistent/scratch");
    let mut job = None;
    let mut over = None;
    let (mut text, mut log) = (Vec::new(), Vec::new());
    for part in bytes.chunks(piece) {
        frames.hear(part, &mut |bytes| text.extend_from_slice(bytes));
        while let Some(frame) = frames.next() {
            let Frame::Line(line) = frame else { continue };
            match message::read(&line) {
                Ok(Message::Ready(ready)) if job.is_none() => job = Some(begin(&ready, scratch)),
                Ok(message) => {
                    let Some(job) = job.as_mut().filter(|_| over.is_none()) else { continue };
                    let step = job.hear(message, &mut |text| log.extend_from_slice(text));
                    if let Step::Over(end) = step {
                        over = Some((end.verdict, end.rows));
                    }
                }
                Err(reason) => assert!(!reason.is_empty(), "a violation without a word"),
            }
        }
    }
    (over, text, log)
}

fn begin(ready: &Ready, scratch: &std::path::Path) -> Job {
    Job::new(JOB.to_owned(), ready, scratch, MAX_STAGED, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines of the protocol, sound and odd, in any order, with bytes between them.
    fn said() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just(r#"{"t":"ready","v":1,"columns":["a","b"]}"#.to_owned()),
            Just(r#"{"t":"ready","v":1}"#.to_owned()),
            (0u8..3, "[\\[\\]{}\",:a1]{0,12}").prop_map(|(seq, rows)| {
                format!(r#"{{"t":"rows","id":"j","seq":{seq},"rows":[{rows}]}}"#)
            }),
            (0u8..3).prop_map(|seq| {
                format!(r#"{{"t":"rows","id":"j","seq":{seq},"rows":[{{"a":1}},[2,"x"]]}}"#)
            }),
            (0u8..4, 0u8..3, "ok|fail|incomplete|no").prop_map(|(rows, chunks, status)| {
                format!(
                    r#"{{"t":"result","id":"j","status":"{status}","rows":{rows},"chunks":{chunks}}}"#
                )
            }),
            Just(r#"{"t":"log","level":"warn","msg":"m","id":"j"}"#.to_owned()),
            Just(r#"{"t":"rows","id":"j","seq":0,"file":"../x","bytes":1,"count":1,"sha256":"0"}"#.to_owned()),
            "[a-z{}\":\\[\\], ]{0,20}",
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\n\x1e"), Just(""), Just("\x1e")];
        proptest::collection::vec((line, end), 0..8).prop_map(|lines| {
            lines.into_iter().flat_map(|(line, end)| (line + end).into_bytes()).collect()
        })
    }

    proptest! {
        /// Goal: whatever a worker says, one outcome and no panic. Method: lines of the protocol in any
        /// order, and noise between them.
        #[test]
        fn any_talk_has_one_outcome(bytes in said()) {
            wire(&bytes);
        }
    }
}
