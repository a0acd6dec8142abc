//! `POST /images/create` (pull) and `POST /images/load`: transfers with progress as JSON lines.
//!
//! Until the first line a failure is a real status; later it is the last line.

use actors::image::{Progress, PullRequest, RegistryAuth, Transfer};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::reference;
use crate::docker::error::{self, ApiError};
use crate::docker::reply::{self, Reply};
use crate::docker::request::Call;
use crate::docker::version::ApiVersion;
use crate::docker::versions::{self, behaviour};

/// How many pieces of an upload wait for the reader.
const UPLOAD_DEPTH: usize = 16;

/// How many bytes of an upload are taken that nobody wants any more.
const MAX_UNREAD: usize = 64 << 20;

/// The width of the bars that old clients print as they are.
const BAR: usize = 50;

/// `POST /images/create`.
pub async fn create(call: Call) -> Result<Reply, ApiError> {
    let query = &call.query;
    let image = query.get("fromImage");
    if image.is_empty() {
        return Err(ApiError::not_implemented(
            "POST /images/create with fromSrc (docker import) is not implemented yet",
        ));
    }
    let request = request(
        call.version,
        image,
        query.get("tag"),
        query.get("platform"),
        &call.headers,
    )?;
    let transfer = call.engine().pull(request).await.map_err(error::answer)?;
    answer(transfer, false).await
}

fn request(
    version: ApiVersion,
    image: &str,
    tag: &str,
    platform: &str,
    headers: &HeaderMap,
) -> Result<PullRequest, ApiError> {
    reference::check(image)?;
    let tag = match tag {
        "" => None,
        digest if digest.contains(':') => {
            reference::check_digest(digest)?;
            Some(digest.to_owned())
        }
        tag => {
            reference::check_tag(tag)?;
            Some(tag.to_owned())
        }
    };
    let platform = if versions::has(version, behaviour::PULL_PLATFORM) {
        platform
    } else {
        ""
    };
    Ok(PullRequest {
        image: image.to_owned(),
        tag,
        platform: platform.to_owned(),
        auth: credentials(headers),
    })
}

/// What `X-Registry-Auth` holds: base64 (of either alphabet, padded or not) of JSON; anything else is anonymous.
fn credentials(headers: &HeaderMap) -> Option<RegistryAuth> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Auth {
        username: String,
        password: String,
        auth: String,
        identitytoken: String,
        registrytoken: String,
    }
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url_safe = GeneralPurpose::new(&base64::alphabet::URL_SAFE, lenient);
    let standard = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
    let text = headers.get("x-registry-auth")?.as_bytes();
    let bytes = url_safe
        .decode(text)
        .or_else(|_| standard.decode(text))
        .ok()?;
    let mut auth: Auth = serde_json::from_slice(&bytes).ok()?;
    if auth.username.is_empty()
        && let Ok(pair) = standard.decode(auth.auth.as_bytes())
        && let Some((user, password)) = String::from_utf8_lossy(&pair).split_once(':')
    {
        (auth.username, auth.password) = (user.to_owned(), password.to_owned());
    }
    let auth = RegistryAuth {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
    };
    (auth != RegistryAuth::default()).then_some(auth)
}

/// `POST /images/load`.
pub async fn load(call: Call) -> Result<Reply, ApiError> {
    let Call {
        mut body,
        query,
        shared,
        ..
    } = call;
    let (sender, archive) = mpsc::channel(UPLOAD_DEPTH);
    tokio::spawn(async move {
        // What nobody reads any more is taken all the same, up to a point: a connection that is closed with bytes on
        // their way is reset, and the client sees that instead of the answer.
        let mut spare = MAX_UNREAD;
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Ok(data),
                    Err(_) => continue,
                },
                Err(error) => Err(std::io::Error::other(error)),
            };
            let last = piece.is_err();
            if let Err(mpsc::error::SendError(unread)) = sender.send(piece).await {
                let size = unread.map_or(0, |data| data.len());
                match spare.checked_sub(size) {
                    Some(left) => spare = left,
                    None => return,
                }
            }
            if last {
                return;
            }
        }
    });
    let quiet = query.flag_or("quiet", true);
    let transfer = shared.engine.load(archive).await.map_err(error::answer)?;
    answer(transfer, quiet).await
}

/// Whether a client that wants no progress is told of this step.
fn is_result(step: &Progress) -> bool {
    matches!(step, Progress::Stream(_) | Progress::Failed(_))
}

/// Waits for the first step; a failure there is a real status. Who wants it `quiet` gets results only.
async fn answer(mut transfer: Transfer, quiet: bool) -> Result<Reply, ApiError> {
    let mut first = transfer.progress.recv().await;
    while quiet && first.as_ref().is_some_and(|step| !is_result(step)) {
        first = transfer.progress.recv().await;
    }
    if let Some(Progress::Failed(why)) = first {
        return Err(error::answer(why));
    }
    let body = futures_util::stream::unfold(
        (first, transfer.progress),
        move |(next, mut steps)| async move {
            let step = match next {
                Some(step) => step,
                None => steps.recv().await?,
            };
            let tell = |step: &Progress| match quiet && !is_result(step) {
                true => String::new(),
                false => line(step),
            };
            let mut text = tell(&step);
            // What else is at hand goes out with it.
            while text.len() < 16 * 1024
                && let Ok(step) = steps.try_recv()
            {
                text.push_str(&tell(&step));
            }
            Some((Bytes::from(text), (None, steps)))
        },
    );
    Ok(reply::stream("application/json", Box::pin(body)))
}

/// A step as a JSON line, ending as moby's do.
fn line(step: &Progress) -> String {
    let value = match step {
        Progress::Status { id, status } if id.is_empty() => json!({ "status": status }),
        Progress::Status { id, status } => {
            json!({ "status": status, "progressDetail": {}, "id": id })
        }
        Progress::Bar {
            id,
            status,
            current,
            total,
        } => json!({
            "status": status,
            "progressDetail": detail(*current, *total),
            "progress": bar(*current, *total),
            "id": id,
        }),
        Progress::Stream(text) => json!({ "stream": text }),
        Progress::Failed(why) => {
            let answer = error::answer(why.clone());
            json!({ "errorDetail": { "message": answer.message() }, "error": answer.message() })
        }
    };
    format!("{value}\r\n")
}

fn detail(current: u64, total: u64) -> Value {
    match total {
        0 => json!({ "current": current }),
        _ => json!({ "current": current, "total": total }),
    }
}

/// `[=====>     ]  1.2MB/3.4MB`.
fn bar(current: u64, total: u64) -> String {
    if total == 0 {
        return size(current);
    }
    let done = (current.min(total) as u128 * BAR as u128 / u128::from(total)) as usize;
    let (done, arrow) = if done >= BAR {
        (BAR - 1, ">")
    } else {
        (done, ">")
    };
    format!(
        "[{}{arrow}{}] {:>8}/{}",
        "=".repeat(done),
        " ".repeat(BAR - done - 1),
        size(current),
        size(total)
    )
}

/// A size as docker prints it, in units of 1,000 with four digits.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit < 5 {
        value /= 1000.0;
        unit += 1;
    }
    let unit = ["B", "kB", "MB", "GB", "TB", "PB"][unit];
    let digits = match value {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn auth(text: &str) -> Option<RegistryAuth> {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-registry-auth",
            HeaderValue::from_str(text).expect("value"),
        );
        credentials(&headers)
    }

    #[test]
    fn credentials_are_read_in_all_codings() {
        let json = br#"{"username":"u","password":"p>?"}"#;
        let expected = RegistryAuth {
            username: "u".into(),
            password: "p>?".into(),
            ..RegistryAuth::default()
        };
        use base64::engine::general_purpose as coding;
        for text in [
            coding::URL_SAFE.encode(json),
            coding::URL_SAFE_NO_PAD.encode(json),
            coding::STANDARD.encode(json),
            coding::STANDARD_NO_PAD.encode(json),
        ] {
            assert_eq!(auth(&text), Some(expected.clone()));
        }
        assert_eq!(auth("e30="), None);
        assert_eq!(auth("!"), None);
        let pair = coding::STANDARD.encode(format!(
            r#"{{"auth":"{}"}}"#,
            coding::STANDARD.encode("a:b")
        ));
        assert_eq!(auth(&pair).expect("pair").username, "a");
    }

    #[test]
    fn lines_are_what_the_cli_draws() {
        let status = Progress::Status {
            id: "latest".into(),
            status: "Pulling from library/busybox".into(),
        };
        assert_eq!(
            line(&status),
            "{\"id\":\"latest\",\"progressDetail\":{},\"status\":\"Pulling from library/busybox\"}\r\n"
        );
        let bar = Progress::Bar {
            id: "abc".into(),
            status: "Downloading".into(),
            current: 500,
            total: 1000,
        };
        let value: Value = serde_json::from_str(&line(&bar)).expect("json");
        assert_eq!(
            value["progressDetail"],
            json!({"current": 500, "total": 1000})
        );
        assert_eq!(
            value["progress"],
            format!("[{}>{}]     500B/1kB", "=".repeat(25), " ".repeat(24))
        );
        let failed = Progress::Failed(actors::Error::NotFound("gone".into()));
        let value: Value = serde_json::from_str(&line(&failed)).expect("json");
        assert_eq!(
            value,
            json!({"error": "gone", "errorDetail": {"message": "gone"}})
        );
    }

    #[test]
    fn a_pull_takes_a_platform_from_1_32() {
        let headers = HeaderMap::new();
        let platform = |minor| {
            request(
                ApiVersion::v1(minor),
                "busybox",
                "1",
                "linux/arm64",
                &headers,
            )
            .expect("request")
            .platform
        };
        assert_eq!(
            (platform(31).as_str(), platform(32).as_str()),
            ("", "linux/arm64")
        );
    }

    #[test]
    fn a_pull_names_a_tag_a_digest_or_all() {
        let headers = HeaderMap::new();
        let read = |image, tag| {
            request(
                super::super::super::version::NEWEST,
                image,
                tag,
                "",
                &headers,
            )
        };
        assert_eq!(read("busybox", "").expect("all").tag, None);
        assert_eq!(read("busybox", "1").expect("tag").tag.as_deref(), Some("1"));
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            read("busybox", &digest).expect("digest").tag,
            Some(digest.clone())
        );
        assert_eq!(
            read("Busybox", "1").expect_err("upper").status().as_u16(),
            400
        );
    }
}
