//! Files over HTTP: whole and in parts, for those who may.

use reqwest::Method;
use vmomi::ManagedObjectReference as Moref;

use super::bench::{Bench, Raw, bench};

struct Files {
    bench: Bench,
    raw: Raw,
}

/// Status, the `Content-Range` of the answer, and its body.
type Got = (u16, Option<String>, Vec<u8>);

impl Files {
    async fn new() -> Self {
        let bench = bench().await;
        let manager = Moref::new("SessionManager", "ha-sessionmgr");
        let raw = Raw::logged_in(&bench.simulator, "root", &manager).await;
        Files { bench, raw }
    }

    async fn ask(&self, method: Method, path: &str, header: Option<(&str, &str)>) -> Got {
        let url = format!("{}{path}", self.raw.base);
        let mut request = self.raw.http.request(method, url);
        if let Some(cookie) = &self.raw.cookie {
            request = request.header("Cookie", format!("vmware_soap_session=\"{cookie}\""));
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = request.send().await.expect("an answer");
        let range = response.headers().get("content-range");
        let range = range.map(|r| r.to_str().expect("text").to_owned());
        let status = response.status().as_u16();
        (
            status,
            range,
            response.bytes().await.expect("a body").to_vec(),
        )
    }

    async fn get(&self, path: &str, range: Option<&str>) -> Got {
        let range = range.map(|r| ("Range", r));
        self.ask(Method::GET, &file(path), range).await
    }

    async fn put(&self, path: &str, content: &'static [u8], range: Option<&str>) -> u16 {
        let mut request = self
            .raw
            .http
            .put(format!("{}{}", self.raw.base, file(path)))
            .body(content);
        if let Some(cookie) = &self.raw.cookie {
            request = request.header("Cookie", format!("vmware_soap_session={cookie}"));
        }
        if let Some(range) = range {
            request = request.header("Content-Range", range);
        }
        request.send().await.expect("an answer").status().as_u16()
    }
}

fn file(path: &str) -> String {
    format!("/folder/{path}?dcPath=ha-datacenter&dsName=datastore1")
}

#[tokio::test]
async fn a_file_is_read_whole_and_in_ranges() {
    let t = Files::new().await;
    assert_eq!(t.put("dir/a%20b", b"0123456789", None).await, 201);
    assert_eq!(t.put("dir/a%20b", b"0123456789", None).await, 200);
    let whole = t.get("dir/a%20b", None).await;
    assert_eq!(whole, (200, None, b"0123456789".to_vec()));
    for (range, said, bytes) in [
        ("bytes=2-5", "bytes 2-5/10", "2345"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=8-100", "bytes 8-9/10", "89"),
        ("bytes=0-0", "bytes 0-0/10", "0"),
    ] {
        let part = t.get("dir/a%20b", Some(range)).await;
        assert_eq!(
            part,
            (206, Some(said.to_owned()), bytes.as_bytes().to_vec()),
            "{range}"
        );
    }
    let behind = t.get("dir/a%20b", Some("bytes=10-")).await;
    assert_eq!((behind.0, behind.1.as_deref()), (416, Some("bytes */10")));
    // What is no range that we know is none.
    assert_eq!(t.get("dir/a%20b", Some("bytes=5-2")).await.0, 200);
    assert_eq!(t.get("dir/a%20b", Some("lines=1-2")).await.0, 200);
    let head = t.ask(Method::HEAD, &file("dir/a%20b"), None).await;
    assert_eq!((head.0, head.2.len()), (200, 0));
    assert_eq!(t.get("dir/none", None).await.0, 404);
}

#[tokio::test]
async fn a_part_is_written_into_a_file() {
    let t = Files::new().await;
    assert_eq!(t.put("f", b"0123456789", None).await, 201);
    assert_eq!(t.put("f", b"ab", Some("bytes 3-4/10")).await, 200);
    assert_eq!(t.get("f", None).await.2, b"012ab56789");
    assert_eq!(t.put("f", b"xyz", Some("bytes 10-12/*")).await, 200);
    assert_eq!(t.get("f", None).await.2, b"012ab56789xyz");
    assert_eq!(t.put("f", b"x", Some("bytes nonsense")).await, 400);
    let gone = t.ask(Method::DELETE, &file("f"), None).await;
    assert_eq!(gone.0, 204);
    assert_eq!(t.get("f", None).await.0, 404);
}

#[tokio::test]
async fn a_stranger_reads_and_writes_nothing() {
    let mut t = Files::new().await;
    assert_eq!(t.put("f", b"secret", None).await, 201);
    t.raw.cookie = None;
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        let refused = t.ask(method.clone(), &file("f"), None).await;
        assert_eq!(refused.0, 401, "{method}");
        assert!(!refused.2.windows(6).any(|w| w == b"secret"));
    }
    assert_eq!(t.put("f", b"mine", None).await, 401);
    t.raw.cookie = Some("made-up".into());
    assert_eq!(t.get("f", None).await.0, 401);
    t.raw.cookie = None;
    // `root:guess` and `root:password`.
    let wrong = ("Authorization", "Basic cm9vdDpndWVzcw==");
    assert_eq!(t.ask(Method::GET, &file("f"), Some(wrong)).await.0, 401);
    let right = ("Authorization", "Basic cm9vdDpwYXNzd29yZA==");
    let read = t.ask(Method::GET, &file("f"), Some(right)).await;
    assert_eq!((read.0, read.2.as_slice()), (200, &b"secret"[..]));
}

#[tokio::test]
async fn a_path_that_leaves_the_datastore_is_refused() {
    let t = Files::new().await;
    let outside = t.bench.dir.path().join("outside");
    std::fs::write(&outside, "mine").expect("written");
    assert_eq!(t.put("dir/f", b"0", None).await, 201);
    for path in [
        "..%2f..%2foutside",
        "..%2f..%2fcert.pem",
        "dir/..%2f..%2f..%2foutside",
        "%2e%2e/%2e%2e/outside",
        "dir/%2e%2e%2f%2e%2e%2f%2e%2e%2foutside",
        "%2fetc%2fpasswd",
        "a%00b",
    ] {
        let read = t.get(path, None).await;
        assert!([400, 404].contains(&read.0), "{path}: {}", read.0);
        assert!(!read.2.windows(4).any(|w| w == b"mine"), "{path}");
        let written = t.put(path, b"theirs", None).await;
        // A path that begins with a slash is one below the datastore's root.
        assert!([400, 404, 201].contains(&written), "{path}: {written}");
    }
    assert_eq!(std::fs::read(&outside).expect("is there"), b"mine");
    let passwd = std::fs::read("/etc/passwd").expect("is there");
    assert!(!passwd.windows(6).any(|w| w == b"theirs"));
    // A link that somebody put there does not lead out either.
    let store = t.bench.dir.path().join("datastores/datastore1");
    std::os::unix::fs::symlink(&outside, store.join("link")).expect("made");
    std::os::unix::fs::symlink(t.bench.dir.path(), store.join("up")).expect("made");
    for path in ["link", "up/outside"] {
        let read = t.get(path, None).await;
        assert_ne!(read.2, b"mine", "{path}");
        t.put(path, b"theirs", None).await;
        let gone = t.ask(Method::DELETE, &file("up/outside"), None).await;
        assert_ne!(gone.0, 204);
        assert_eq!(std::fs::read(&outside).expect("is there"), b"mine");
    }
    let no_store = t.ask(Method::GET, "/folder/dir/f?dsName=none", None).await;
    assert_eq!(no_store.0, 404);
    let no_name = t.ask(Method::GET, "/folder/dir/f", None).await;
    assert_eq!(no_name.0, 400);
}
