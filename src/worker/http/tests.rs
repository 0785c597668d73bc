//! Kind `http` against servers of a few lines that misbehave on purpose.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::config::request::{Body, Cell, Method};
use crate::config::{HttpRules, Worker};
use crate::core::{JobId, RelPath, Row};

/// A claimed file.
struct File {
    folder: tempfile::TempDir,
    rel: RelPath,
}

impl File {
    fn new(rel: &[u8], content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rel = RelPath::new(rel).unwrap();
        let path = folder.path().join(rel.as_path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        Self { folder, rel }
    }

    fn task(&self, url: &str, set: impl FnOnce(&mut Route)) -> Task {
        let mut route = Route {
            worker: Worker::Http { url: url.to_owned() },
            timeout: Duration::from_secs(20),
            grace: Duration::from_millis(200),
            ..Route::new("r", Vec::new())
        };
        set(&mut route);
        Task {
            job: JobId::next(JobId::MIN, 1_767_225_600_000, [7; 10]),
            attempt: 2,
            route: Arc::new(route),
            rel: self.rel.clone(),
            spool: self.folder.path().to_owned(),
            path: self.folder.path().join(self.rel.as_path()),
            scratch: self.folder.path().to_owned(),
            output: None,
            record: None,
        }
    }
}

/// What a server does with a connection, given its number from 0.
type Talk = Box<dyn FnMut(usize, &mut TcpStream) + Send>;

/// A server of a few lines: its address. Its thread ends with the test program.
fn server(mut talk: Talk) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept() else { return };
            talk(number, &mut stream);
        }
    });
    address
}

/// Reads one request to its end: head and body.
fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut one = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut one).ok()? == 0 {
            return None;
        }
        bytes.push(one[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let len = head
        .to_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; len];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// A server that gives the same bytes to every request, and then closes.
fn always(answer: impl AsRef<[u8]> + Send + 'static) -> String {
    server(Box::new(move |_, stream| {
        request(stream);
        drop(stream.write_all(answer.as_ref()));
    }))
}

fn pool() -> HttpPool {
    HttpPool::new(&Stop::new().unwrap())
}

fn ask(url: &str, set: impl FnOnce(&mut Route)) -> Ended {
    pool().run(&File::new(b"a.json", b"{\"text\":\"hi\"}").task(url, set))
}

fn failure(ended: &Ended) -> (FailClass, &str) {
    match &ended.verdict {
        Verdict::Failed(failure) => (failure.class, &failure.reason),
        other => panic!("not failed: {other:?}"),
    }
}

/// An address where nobody listens.
fn nobody() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// Goal: the runner gets the file, and what it needs to know of the job. Method: a path that must be
/// encoded, own headers, the request as it came.
#[test]
fn the_request_is_the_file_and_its_job() {
    let (say, got) = channel();
    let url = server(Box::new(move |_, stream| {
        say.send(request(stream).unwrap()).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }));
    let file = File::new(b"d/a b\xff.json", b"{\"id\": \"x/y?\", \"n\": 1.50}");
    let task = file.task(&format!("{url}/run/{{id}}/{{n}}?f={{name}}"), |r| {
        r.http.headers = vec![("Authorization".into(), "Bearer $env:PATH".into())];
    });
    let ended = pool().run(&task);
    assert_eq!((ended.verdict, ended.rows), (Verdict::Done, Vec::new()));
    let (head, body) = got.recv().unwrap();
    assert_eq!(body, b"{\"id\": \"x/y?\", \"n\": 1.50}");
    let head = head.to_lowercase();
    assert!(head.starts_with("post /run/x%2fy%3f/1.50?f=a%20b%ff.json http/1.1\r\n"), "{head}");
    for line in [
        format!("inboxd-job: {}", task.job),
        format!("idempotency-key: {}", task.job),
        "inboxd-attempt: 2".to_owned(),
        "inboxd-rel: d%2fa%20b%ff.json".to_owned(),
        "content-type: application/json".to_owned(),
        "content-length: 25".to_owned(),
        format!("authorization: bearer {}", std::env::var("PATH").unwrap().to_lowercase()),
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} is not in {head}");
    }
}

fn bodies() -> (String, Receiver<(String, Vec<u8>)>) {
    let (say, got) = channel();
    let url = server(Box::new(move |_, stream| {
        say.send(request(stream).unwrap()).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }));
    (url, got)
}

/// Goal: a body is made of the file's members with their types, and a GET has none. Method: a template of
/// each kind of value; then what is missing, and what is no JSON.
#[test]
fn a_body_is_made_of_members() {
    let (url, got) = bodies();
    let template = r#"{"in":"{/payload}","all":"{json}","text":"n={/payload/n} of {name}","k":[1,{"x":"{n}"}]}"#;
    let made =
        |r: &mut Route| r.http.body = Body::Template(serde_json::from_str(template).unwrap());
    let file = File::new(b"f", b"{\"payload\":{\"n\":1.50},\"n\":null}");
    assert_eq!(pool().run(&file.task(&url, made)).verdict, Verdict::Done);
    let (head, body) = got.recv().unwrap();
    assert_eq!(
        String::from_utf8(body).unwrap(),
        r#"{"all":{"payload":{"n":1.50},"n":null},"in":{"n":1.50},"k":[1,{"x":null}],"text":"n=1.50 of f"}"#
    );
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    let get = |r: &mut Route| r.http.method = Method::Get;
    assert_eq!(pool().run(&file.task(&url, get)).verdict, Verdict::Done);
    let (head, body) = got.recv().unwrap();
    assert!(head.starts_with("GET / HTTP/1.1") && body.is_empty(), "{head}");
    assert!(!head.to_lowercase().contains("content-"), "{head}");

    for (content, path, why) in [
        ("{}", "/{id}", "the file has no member \"id\""),
        ("{}", "/{/a/b}", "the file has no member at /a/b"),
        ("{\"id\":\"..\"}", "/{id}", "{/id} is \"..\", which cannot stand in a URL"),
        ("{\"id\":\"\"}", "/{id}/x", "cannot stand in a URL"),
        ("{", "/{id}", "the file is not JSON: EOF while parsing an object at line 1 column 1"),
        ("\u{fffd}", "/{id}", "the file is not JSON"),
    ] {
        let file = File::new(b"f", content.as_bytes());
        let ended = pool().run(&file.task(&format!("{url}{path}"), |_| ()));
        let (class, reason) = failure(&ended);
        assert!(class == FailClass::Permanent && reason.contains(why), "{reason}");
    }
    assert!(got.try_recv().is_err(), "asked nevertheless");
}

/// Goal: a record is asked about like a file. Method: a CSV record and a line, in address and body.
#[test]
fn records_are_asked_about_one_by_one() {
    use crate::worker::records::{InputRecord, RecordValue};
    let (url, got) = bodies();
    let file = File::new(b"f.csv", b"unread");
    let object = RecordValue::Object(r#"{"customer_id":"7 8","n":"1"}"#.to_owned());
    let of = |value, set: fn(&mut Route)| Task {
        record: Some(InputRecord { no: 3, value }),
        ..file.task(&format!("{url}/endpoint/{{customer_id}}"), set)
    };
    let task = of(object.clone(), |r| r.http.method = Method::Get);
    assert_eq!(pool().run(&task).verdict, Verdict::Done);
    let (head, _) = got.recv().unwrap();
    assert!(head.starts_with("GET /endpoint/7%208 HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains(&format!("idempotency-key: {}-3\r\n", task.job)), "{head}");
    assert!(head.contains("inboxd-record: 3\r\n"), "{head}");
    assert_eq!(pool().run(&of(object.clone(), |_| ())).verdict, Verdict::Done);
    let (head, body) = got.recv().unwrap();
    assert_eq!(body, object.text().as_bytes());
    assert!(head.contains("application/json"), "{head}");
    let line = Task {
        record: Some(InputRecord { no: 1, value: RecordValue::Line("a \"b".to_owned()) }),
        ..file.task(&format!("{url}/{{record}}/{{json}}"), |_| ())
    };
    assert_eq!(pool().run(&line).verdict, Verdict::Done);
    let (head, body) = got.recv().unwrap();
    assert!(head.starts_with("POST /a%20%22b/a%20%22b HTTP/1.1\r\n"), "{head}");
    assert!(body == b"a \"b" && head.contains("text/plain"), "{head}");
    let empty = of(RecordValue::Object("{}".to_owned()), |_| ());
    let ended = pool().run(&empty);
    let want = (FailClass::Permanent, "the record has no member \"customer_id\"");
    assert_eq!(failure(&ended), want);
}

/// Goal: a record of a file gives the columns that its answer lacks. Method: the customers' table.
#[test]
fn columns_are_of_the_answer_and_of_the_input() {
    let body = r#"{"details":[{"id":"7-0","relevanceRank":0},{"id":"7-1","relevanceRank":1}]}"#;
    let url = always(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let file = File::new(b"f", b"{\"customer_id\":7}");
    let rules = HttpRules {
        method: Method::Get,
        rows: "/details".to_owned(),
        cells: Some(vec![
            ("customer".to_owned(), Cell::Text("{customer_id}".to_owned())),
            ("id".to_owned(), Cell::Pointer("/id".to_owned())),
            ("rank".to_owned(), Cell::Pointer("/relevanceRank".to_owned())),
        ]),
        ..HttpRules::default()
    };
    let ended =
        pool().run(&file.task(&format!("{url}/endpoint/{{customer_id}}"), |r| r.http = rules));
    let want = [
        Row::from_pairs([("customer", "7"), ("id", "7-0"), ("rank", "0")]),
        Row::from_pairs([("customer", "7"), ("id", "7-1"), ("rank", "1")]),
    ];
    assert_eq!((ended.verdict, ended.rows), (Verdict::Done, want.to_vec()));
}

/// Goal: whatever the other side does, the job ends in bounds, with a class and a reason that says it.
/// Method: one misbehaviour each.
#[test]
fn what_a_broken_runner_does_is_said() {
    let head = "HTTP/1.1 200 OK\r\n";
    for (answer, want, why) in [
        (String::new(), FailClass::TryAgain, "connection lost: http://127.0.0.1:"),
        (format!("{head}Content-Le"), FailClass::TryAgain, "connection lost"),
        (format!("{head}Content-Length: 9\r\n\r\n{{"), FailClass::TryAgain, "connection lost"),
        (
            format!("{head}Transfer-Encoding: chunked\r\n\r\n9\r\n{{"),
            FailClass::TryAgain,
            "connection lost",
        ),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), FailClass::Fail, "the answer "),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), FailClass::Fail, "the answer is not HTTP"),
        (
            format!("{head}X: {}", "x".repeat(300_000)),
            FailClass::Fail,
            "the header of the answer is longer than 32.0 KiB",
        ),
        (
            format!("{head}Content-Length: 2\r\n\r\nno"),
            FailClass::Fail,
            "not JSON rows (line 1 column 2: expected ident): no",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
                .to_owned(),
            FailClass::Permanent,
            "HTTP 302 Found: a redirect to http://elsewhere/, not followed",
        ),
        (
            format!("{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}"),
            FailClass::Fail,
            "the answer ",
        ),
    ] {
        let shown = answer.get(..60).unwrap_or(&answer).to_owned();
        let ended = ask(&always(answer), |_| ());
        let (class, reason) = failure(&ended);
        assert!(class == want && reason.contains(why), "{shown:?}: {class:?} {reason}");
    }
    let url = nobody();
    let ended = ask(&format!("{url}/run"), |_| ());
    assert_eq!(failure(&ended), (FailClass::TryAgain, &*format!("connection refused: {url}")));
}

/// Goal: answers in pieces and packed are read like others. Method: chunked, gzip, until the end.
#[test]
fn answers_come_in_all_forms() {
    let packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x4a\x54\xb2\x32\xac\x05\x00\xaf\xac\x1b\x56\x07\x00\x00\x00";
    let mut gzip =
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 27\r\n\r\n".to_vec();
    gzip.extend(packed);
    for answer in [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n".to_vec(),
        b"HTTP/1.0 200 OK\r\n\r\n{\"a\":1}".to_vec(),
        b"HTTP/1.1 201 Created\r\nContent-Length: 7\r\n\r\n{\"a\":1}".to_vec(),
        gzip,
    ] {
        let ended = ask(&always(answer), |_| ());
        assert_eq!(ended.verdict, Verdict::Done);
        assert_eq!(ended.rows, [Row::from_pairs([("a", "1")])]);
    }
}

/// Goal: who refuses a long file before it is all sent is heard. Method: an answer after the head, then the
/// end of the connection, with megabytes still to come.
#[test]
fn an_early_refusal_is_heard() {
    let url = server(Box::new(|_, stream| {
        stream.read_exact(&mut [0; 100]).unwrap();
        stream
            .write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 8\r\n\r\ntoo long")
            .unwrap();
    }));
    let file = File::new(b"big", &vec![b'x'; 32 << 20]);
    let ended = pool().run(&file.task(&url, |_| ()));
    assert_eq!(failure(&ended), (FailClass::Permanent, "HTTP 413 Payload Too Large: too long"));
}

/// Goal: an answer without end neither fills memory nor holds the slot. Method: bytes for ever, plain
/// and as a packed bomb would give them; the server must see that nobody listens.
#[test]
fn an_endless_answer_is_cut() {
    let (say, got) = channel();
    let url = server(Box::new(move |number, stream| {
        request(stream);
        let status = if number == 0 { "200 OK" } else { "500 Oh" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 1073741824\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut sent = 0u64;
        while stream.write_all(&vec![b'x'; 65536]).is_ok() {
            sent += 65536;
        }
        say.send(sent).unwrap();
    }));
    let set = |r: &mut Route| r.max_output = 1 << 20;
    let ended = ask(&url, set);
    assert_eq!(
        failure(&ended),
        (FailClass::Permanent, "the answer is longer than max_output (1.0 MiB)")
    );
    assert!(ended.stderr.len() < limits::STDERR_KEPT + 100);
    assert!(got.recv().unwrap() < 64 << 20);
    let ended = ask(&url, set);
    assert_eq!(failure(&ended).0, FailClass::TryAgain);
    assert!(ended.stderr.ends_with(b"[0 bytes or more cut here]\n"));
    assert!(got.recv().unwrap() < 64 << 20);
}

/// Goal: the time-out covers all of a request. Method: a server that never accepts the rest of a long
/// body, one that never answers, one that trickles its header, one that trickles its body.
#[test]
fn the_timeout_covers_everything() {
    for slow in 0..4 {
        let url = server(Box::new(move |_, stream| {
            if slow > 0 {
                request(stream);
            }
            let begin =
                ["", "", "HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"];
            stream.write_all(begin[slow].as_bytes()).unwrap();
            if slow < 2 {
                // Until the other side gives up.
                thread::park_timeout(Duration::from_secs(10));
            }
            // A byte a tenth of a second, until nobody listens.
            while slow >= 2 && stream.write_all(b"H").is_ok() {
                thread::park_timeout(Duration::from_millis(100));
            }
        }));
        let file = File::new(b"big", &vec![b'x'; if slow == 0 { 32 << 20 } else { 1 }]);
        let begun = Instant::now();
        let ended = pool().run(&file.task(&url, |r| r.timeout = Duration::from_millis(700)));
        assert_eq!(failure(&ended), (FailClass::Timeout, "timed out after 700ms"), "{slow}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{slow}");
    }
}

/// Goal: a drain that is told to hurry does not wait for a runner, wherever in its answer that is. Method:
/// servers that stop before the answer, in its header and in its body; the stop while they hang.
#[test]
fn a_stop_ends_every_wait() {
    for begin in
        ["", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"]
    {
        let (say, got) = channel();
        let url = server(Box::new(move |_, stream| {
            request(stream);
            stream.write_all(begin.as_bytes()).unwrap();
            say.send(()).unwrap();
            thread::park_timeout(Duration::from_secs(60));
        }));
        let stop = Stop::new().unwrap();
        let pool = HttpPool::new(&stop);
        let running = thread::spawn(move || pool.run(&File::new(b"f", b"x").task(&url, |_| ())));
        got.recv().unwrap();
        // What was sent is read before the stop comes, as far as anybody can tell from here.
        thread::park_timeout(Duration::from_millis(20));
        let begun = Instant::now();
        stop.now().unwrap();
        assert_eq!(running.join().unwrap().verdict, Verdict::Released, "after {begin:?}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

/// Goal: a connection is kept; one that the server closed is not used; one that swallows a request is a
/// *try again* unless the request was harmless. Method: a server that counts connections and requests.
#[test]
fn kept_connections_are_kept_and_not_trusted() {
    let (say, got) = channel();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let url = server(Box::new(move |number, stream| {
        let mut requests = 0;
        // The first serves two and closes, the second and third swallow their second, the rest serve one.
        while request(stream).is_some() {
            requests += 1;
            if number > 0 && requests == 2 {
                break;
            }
            stream.write_all(answer).unwrap();
            if number == 0 && requests == 2 || number > 2 {
                break;
            }
        }
        // Closed before it is told: who hears of it finds the end of the connection. The client may have
        // closed it first.
        drop(stream.shutdown(std::net::Shutdown::Both));
        say.send((number, requests)).unwrap();
    }));
    let pool = pool();
    let file = File::new(b"f", b"x");
    let post = file.task(&url, |_| ());
    let get =
        Task { route: file.task(&url, |r| r.http.method = Method::Get).route, ..post.clone() };
    for _ in 0..2 {
        assert_eq!(pool.run(&post).verdict, Verdict::Done);
    }
    assert_eq!(got.recv().unwrap(), (0, 2));
    // The end of that connection is seen before it is used again.
    assert_eq!(pool.run(&post).verdict, Verdict::Done);
    let ended = pool.run(&post);
    let (class, reason) = failure(&ended);
    assert_eq!(class, FailClass::TryAgain);
    assert!(reason.ends_with("the connection was closed without an answer"), "{reason}");
    assert_eq!(got.recv().unwrap(), (1, 2));
    assert_eq!(pool.run(&get).verdict, Verdict::Done);
    assert_eq!(pool.run(&get).verdict, Verdict::Done);
    assert_eq!((got.recv().unwrap(), got.recv().unwrap()), ((2, 2), (3, 1)));
}

/// Goal: a runner without TLS is called that, and not one that cannot be trusted. Method: https to a plain one.
#[test]
fn a_runner_without_tls_is_called_that() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let runner = Builder::new().spawn(move || {
        let (mut wire, _) = listener.accept().unwrap();
        // To what is no request it answers at once, and reads until the other side has gone.
        wire.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
        drop(wire.read_to_end(&mut Vec::new()));
    });
    let ended = ask(&url, |_| ());
    runner.unwrap().join().unwrap();
    let Verdict::Misconfigured { reason } = ended.verdict else { panic!("{:?}", ended.verdict) };
    assert!(reason.contains(" does not speak TLS: write http://"), "{reason}");
}

/// Goal: a secret that is not there pauses the route and is named. Method: a variable that nobody has.
#[test]
fn a_missing_secret_pauses_the_route() {
    let ended = ask(&nobody(), |r| {
        r.http.headers = vec![("X-Key".into(), "a $env:INBOXD_NO_SUCH_SECRET b".into())];
    });
    let reason =
        "header X-Key: the environment of inboxd has no INBOXD_NO_SUCH_SECRET; set it there";
    assert_eq!(ended.verdict, Verdict::Misconfigured { reason: reason.to_owned() });
}

/// Goal: a request fits the stack of a slot. Method: one on a thread with that stack.
#[test]
fn a_request_fits_a_slots_stack() {
    let url = always("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    let slot = Builder::new().stack_size(512 << 10).spawn(move || ask(&url, |_| ()).verdict);
    assert_eq!(slot.unwrap().join().unwrap(), Verdict::Done);
}

/// Goal: after a pause a runner that still cannot start is started once, not as often as before it. Method: a
/// route with one failed start less than are allowed; two tasks, one after the other.
#[test]
fn after_a_pause_one_start_is_tried() {
    let file = File::new(b"a", b"{}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let task = file.task(&format!("http://{free}/"), |route| {
        let argv = ["sh", "-c", "echo x >> starts; exit 3"].map(str::to_owned);
        route.http.start = Some(argv.to_vec());
    });
    let pool = HttpPool::new(&Stop::new().unwrap());
    pool.place("r").failed.store(limits::FAILED_STARTS - 1, Ordering::Relaxed);
    for starts in 1..=2 {
        let verdict = pool.run(&task).verdict;
        assert!(matches!(verdict, Verdict::Misconfigured { .. }), "{verdict:?}");
        let found = std::fs::read_to_string(file.folder.path().join("starts")).unwrap();
        assert_eq!(found.lines().count(), starts);
    }
}

/// Goal: what does not fit a URL is said to be that, and is no fault of the runner's. Method: members of the file of
/// ever more bytes in it; what is shorter than the limit arrives.
#[test]
fn a_url_that_is_too_long_is_named() {
    let url = always("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    for (len, fits) in [(62 << 10, true), (64 << 10, false), (80 << 10, false), (1 << 20, false)] {
        let file = File::new(b"a.json", format!("{{\"t\":\"{}\"}}", "x".repeat(len)).as_bytes());
        let ended = pool().run(&file.task(&format!("{url}/{{t}}"), |_| ()));
        if fits {
            assert_eq!(ended.verdict, Verdict::Done);
            continue;
        }
        let (class, reason) = failure(&ended);
        assert_eq!(class, FailClass::Permanent, "{len}: {reason}");
        assert!(reason.starts_with("the URL made of it is longer than 63"), "{len}: {reason}");
    }
}
