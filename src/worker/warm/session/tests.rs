//! Workers of a line of shell.

use std::time::Duration;

use super::*;
use crate::config::{Transport, Worker};
use crate::worker::memory::OomWatch;
use crate::worker::warm::WarmPool;
use crate::worker::{Stop, Task};

/// A worker in a line of shell, ready at once.
fn session(then: &str) -> (tempfile::TempDir, Session) {
    session_with(then, Duration::from_millis(50))
}

fn session_with(then: &str, grace: Duration) -> (tempfile::TempDir, Session) {
    let spool = tempfile::tempdir().unwrap();
    let script = format!("printf '\\036{{\"t\":\"ready\",\"v\":1}}\\n'; {then}");
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let mut route = Route::new("r", Vec::new());
    route.worker = Worker::Warm { argv };
    route.warm.transport = Transport::Stdio;
    route.grace = grace;
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

/// Goal: many idle workers that do not heed `drain` end at the same time, not each after the grace of the one before.
/// Method: three that end by TERM once all three have it.
#[test]
fn idle_workers_end_at_the_same_time() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().display();
    let then = format!(
        "trap 'asked=1' TERM; until [ \"$asked\" ]; do sleep 0.01; done; : >'{at}/asked.'$$; \
         until [ -e '{at}/all' ]; do set -- '{at}/asked.'*; [ $# = 3 ] && : >'{at}/all'; sleep 0.01; done; \
         : >'{at}/well.'$$"
    );
    let pool = WarmPool::new(&Stop::new().unwrap());
    let mut spools = Vec::new();
    for _ in 0..3 {
        let (spool, session) = session_with(&then, Duration::from_secs(2));
        pool.lock().workers("r").idle.push(session);
        spools.push(spool);
    }
    pool.end();
    let names = std::fs::read_dir(home.path()).unwrap().map(|it| it.unwrap().file_name());
    let well = names.filter(|name| name.to_string_lossy().starts_with("well.")).count();
    assert_eq!(well, 3, "some had to be killed");
}
