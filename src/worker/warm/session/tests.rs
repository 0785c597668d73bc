//! Workers of a line of shell.

use std::time::Duration;

use super::*;
use crate::config::{Transport, Worker};
use crate::worker::memory::OomWatch;
use crate::worker::{Stop, Task};

/// A worker in a line of shell, ready at once.
fn session(then: &str) -> (tempfile::TempDir, Session) {
    let spool = tempfile::tempdir().unwrap();
    let script = format!("printf '\\036{{\"t\":\"ready\",\"v\":1}}\\n'; {then}");
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let mut route = Route::new("r", Vec::new());
    route.worker = Worker::Warm { argv };
    route.warm.transport = Transport::Stdio;
    route.grace = Duration::from_millis(50);
    match start(&Arc::new(route), spool.path(), 1, &Stop::new().unwrap()) {
        Start::Ready(session) => (spool, *session),
        other => panic!("not ready: {other:?}"),
    }
}

/// Goal: a worker that is ended because all is ended is no crash of its job, and one that ends by itself
/// is. Method: a worker that has gone, run with the stop told before and not.
#[test]
fn a_worker_ended_with_all_is_no_crash() {
    for is_stopped in [true, false] {
        let (spool, mut gone) = session("exit 0");
        let end = Instant::now() + Duration::from_secs(30);
        while !gone.process.round(None, Some(end)).is_gone {
            assert!(Instant::now() < end, "it does not end");
        }
        std::fs::write(spool.path().join("f"), "x").unwrap();
        let task = Task {
            job: crate::core::JobId::MIN,
            attempt: 1,
            route: Arc::clone(&gone.route),
            rel: crate::core::RelPath::new("f").unwrap(),
            spool: spool.path().to_owned(),
            path: spool.path().join("f"),
            scratch: spool.path().to_owned(),
            output: None,
            record: None,
        };
        let stop = Stop::new().unwrap();
        if is_stopped {
            stop.now().unwrap();
        }
        let verdict = gone.run(&task, &stop, &OomWatch::new()).0.verdict;
        match verdict {
            Verdict::Failed(failure) => assert!(!is_stopped, "{}", failure.reason),
            verdict => assert!(is_stopped, "{verdict:?}"),
        }
    }
}

/// Goal: an idle worker that does not answer its pings is of no use after two of them, one that does
/// stays. Method: time as the test says; a worker that hears nothing, and one that answers.
#[test]
fn unanswered_pings_end_a_worker() {
    let (_spool, mut deaf) = session("while read -r l; do :; done");
    let mut now = Instant::now();
    for _ in 0..limits::PINGS_UNANSWERED {
        now += 2 * limits::PING_EVERY;
        assert!(deaf.tend(now), "ended too soon");
        assert!(deaf.tend(now), "ended between two pings");
    }
    now += 2 * limits::PING_EVERY;
    assert!(!deaf.tend(now), "still of use");
    deaf.end();

    let answers = "n=0; while read -r l; do case $l in *ping*) n=$((n+1)); \
                   printf '\\036{\"t\":\"pong\",\"n\":%d}\\n' $n;; esac; done";
    let (_spool, mut sound) = session(answers);
    let mut now = Instant::now();
    for _ in 0..2 * limits::PINGS_UNANSWERED {
        now += 2 * limits::PING_EVERY;
        assert!(sound.tend(now));
        let end = Instant::now() + Duration::from_secs(30);
        while sound.unanswered > 0 {
            assert!(Instant::now() < end, "no pong came");
            std::thread::park_timeout(Duration::from_millis(2));
            assert!(sound.tend(now));
        }
    }
    sound.end();
}
