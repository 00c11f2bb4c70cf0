//! Requests to the cluster: which member is asked, who asks, what its errors mean.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::http::Member;
use super::tls;
use crate::StoreError;

/// Age at which a token is fetched anew; etcd's own limit is five minutes without use.
const TOKEN_AGE: Duration = Duration::from_secs(180);
/// Largest answer.
const MOST_BYTES: usize = 1 << 30;
/// Limit of a request at start.
const VERSION_LIMIT: Duration = Duration::from_secs(3);

/// What may be repeated at another member when the first one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A read: always.
    Read,
    /// A write: only when the first member cannot have seen it.
    Write,
}

/// The members, the token, and the limits.
pub(super) struct Client {
    members: Vec<Endpoint>,
    next: AtomicUsize,
    user: Option<(String, String)>,
    token: tokio::sync::Mutex<Option<(String, Instant)>>,
    limit: Duration,
    left_out: Duration,
}

struct Endpoint {
    member: Member,
    /// Not asked before this, unless all are left out.
    left_out_until: Mutex<Option<Instant>>,
}

/// Why there is no answer.
#[derive(Debug)]
enum Refusal {
    /// The token is not good (any more).
    Unauthorized,
    Other(String),
}

impl Client {
    pub(super) fn new(options: &super::EtcdOptions) -> Result<Self, String> {
        let connector = tls::connector(&tls::Files {
            trusted: options.trusted.clone(),
            client: options.client.clone(),
            without_check: !options.verify,
        })?;
        let endpoint = |url: &String| Endpoint {
            member: Member::new(url, &connector, options.sni.as_deref()),
            left_out_until: Mutex::new(None),
        };
        Ok(Self {
            members: options.hosts.iter().map(endpoint).collect(),
            next: AtomicUsize::new(fastrand::usize(..)),
            user: options.user.clone(),
            token: tokio::sync::Mutex::new(None),
            limit: options.timeout,
            left_out: options.health_check_timeout,
        })
    }

    /// Sends a JSON request to whichever member answers.
    pub(super) async fn call(
        &self,
        path: &str,
        body: &Value,
        repeat: Repeat,
    ) -> Result<Value, StoreError> {
        self.call_within(path, body, repeat, self.limit).await
    }

    /// As [`Client::call`] with a limit of its own.
    pub(super) async fn call_within(
        &self,
        path: &str,
        body: &Value,
        repeat: Repeat,
        limit: Duration,
    ) -> Result<Value, StoreError> {
        let body = body.to_string();
        let mut token = self.token(None).await?;
        let mut answer = self.ask(path, body.as_bytes(), token.as_deref(), repeat, limit).await;
        if matches!(answer, Err(Refusal::Unauthorized)) && self.user.is_some() {
            token = self.token(token.as_deref()).await?;
            answer = self.ask(path, body.as_bytes(), token.as_deref(), repeat, limit).await;
        }
        answer.map_err(Refusal::into_error)
    }

    /// Opens a watch: the body of an answer that does not end.
    pub(super) async fn open_watch(&self, create: &Value) -> Result<Stream, StoreError> {
        let body = json!({"create_request": create}).to_string();
        let token = self.token(None).await?;
        let mut last = String::new();
        for endpoint in self.order() {
            let sent =
                endpoint.member.send(Method::POST, "/v3/watch", body.as_bytes(), token.as_deref());
            let answer = match timeout(self.limit.min(Duration::from_secs(10)), sent).await {
                Ok(Ok((answer, _))) => answer,
                Ok(Err(failed)) => {
                    endpoint.leave_out(self.left_out);
                    last = format!("{}: {}", endpoint.member.url, failed.error);
                    continue;
                }
                Err(_) => {
                    endpoint.leave_out(self.left_out);
                    last = format!("{}: timeout", endpoint.member.url);
                    continue;
                }
            };
            match answer.status() {
                StatusCode::OK => {
                    endpoint.is_well();
                    return Ok(Stream { body: answer.into_body(), buffer: Vec::new() });
                }
                StatusCode::UNAUTHORIZED => {
                    self.token(token.as_deref()).await?;
                    return Err(unavailable("insufficient credentials code: 401"));
                }
                status => {
                    endpoint.leave_out(self.left_out);
                    last = format!("{}: status {status}", endpoint.member.url);
                }
            }
        }
        Err(unavailable(format!("has no healthy etcd endpoint available: {last}")))
    }

    /// Asks each member for its version, as often as told. Returns what is wrong with whom, and how
    /// many are well.
    pub(super) async fn versions(&self, attempts: u32) -> (Vec<String>, usize) {
        let mut errors = Vec::new();
        let mut well = 0;
        for endpoint in &self.members {
            let url = &endpoint.member.url;
            let mut outcome = Err(String::new());
            for attempt in 1..=attempts {
                outcome = version(&endpoint.member).await;
                match &outcome {
                    Err(error) if attempt < attempts => tracing::warn!(
                        "Warning! Request etcd endpoint '{url}' error, {error}, retry time={attempt}"
                    ),
                    _ => break,
                }
            }
            match outcome {
                Ok(()) => well += 1,
                Err(error) if error.starts_with("etcd cluster version") => errors.push(error),
                Err(error) => errors.push(format!("request etcd endpoint '{url}' error, {error}")),
            }
        }
        (errors, well)
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    async fn ask(
        &self,
        path: &str,
        body: &[u8],
        token: Option<&str>,
        repeat: Repeat,
        limit: Duration,
    ) -> Result<Value, Refusal> {
        let mut last = "no member is configured".to_owned();
        for endpoint in self.order() {
            let url = &endpoint.member.url;
            let exchange = exchange(&endpoint.member, Method::POST, path, body, token);
            let (error, may_repeat) = match timeout(limit, exchange).await {
                Ok(Ok((status, bytes))) if status.is_success() => {
                    endpoint.is_well();
                    return serde_json::from_slice(&bytes).map_err(|error| {
                        Refusal::Other(format!("etcd {url} did not answer with JSON: {error}"))
                    });
                }
                Ok(Ok((status, bytes))) if !status.is_server_error() => {
                    endpoint.is_well();
                    return Err(refusal(status, &bytes));
                }
                Ok(Ok((status, bytes))) => (format!("{url}: {}", message(status, &bytes)), false),
                Ok(Err(failed)) => (format!("{url}: {}", failed.error), failed.was_not_sent),
                Err(_) => (format!("{url}: timeout"), false),
            };
            endpoint.leave_out(self.left_out);
            if repeat == Repeat::Write && !may_repeat {
                return Err(Refusal::Other(format!(
                    "{error}; it is unknown whether it was written"
                )));
            }
            last = error;
        }
        Err(Refusal::Other(format!("has no healthy etcd endpoint available: {last}")))
    }

    /// All members in turn, those that failed lately last.
    fn order(&self) -> impl Iterator<Item = &Endpoint> {
        let start = self.next.fetch_add(1, Relaxed) % self.members.len().max(1);
        let (before, from) = self.members.split_at(start);
        let turn = from.iter().chain(before);
        let (well, left_out): (Vec<_>, Vec<_>) = turn.partition(|member| !member.is_left_out());
        well.into_iter().chain(left_out)
    }

    /// The token to show, if a user is configured; a new one if it is old or equals `refused`.
    async fn token(&self, refused: Option<&str>) -> Result<Option<String>, StoreError> {
        let Some((name, password)) = &self.user else { return Ok(None) };
        let mut current = self.token.lock().await;
        if let Some((token, since)) = &*current
            && since.elapsed() < TOKEN_AGE
            && refused != Some(token)
        {
            return Ok(Some(token.clone()));
        }
        let body = json!({"name": name, "password": password}).to_string();
        let path = "/v3/auth/authenticate";
        let limit = self.limit.min(Duration::from_secs(10));
        let answer = self.ask(path, body.as_bytes(), None, Repeat::Read, limit).await;
        let answer = answer.map_err(Refusal::into_error)?;
        let token = answer
            .get("token")
            .and_then(Value::as_str)
            .ok_or_else(|| unavailable("etcd gave no token: is authentication enabled there?"))?;
        *current = Some((token.to_owned(), Instant::now()));
        Ok(Some(token.to_owned()))
    }
}

/// The lines of a watch.
pub(super) struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Stream {
    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut searched = 0;
        loop {
            let rest = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=searched + at).collect();
                line.pop();
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched > MOST_BYTES {
                return Err("an answer of the watch is too large".to_owned());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

impl Endpoint {
    fn is_left_out(&self) -> bool {
        let until = *self.left_out_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > Instant::now())
    }

    fn leave_out(&self, time: Duration) {
        let until = Instant::now() + time;
        *self.left_out_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn is_well(&self) {
        *self.left_out_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Refusal {
    fn into_error(self) -> StoreError {
        match self {
            Self::Unauthorized => unavailable("insufficient credentials code: 401"),
            Self::Other(message) => unavailable(message),
        }
    }
}

pub(super) fn unavailable(message: impl Into<String>) -> StoreError {
    StoreError::Unavailable(message.into())
}

/// One request and its whole answer.
async fn exchange(
    member: &Member,
    method: Method,
    path: &str,
    body: &[u8],
    token: Option<&str>,
) -> Result<(StatusCode, Vec<u8>), super::http::Failed> {
    let (answer, sender) = member.send(method, path, body, token).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    let failed = |error: String| super::http::Failed { error, was_not_sent: false };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failed(error.to_string()))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > MOST_BYTES {
            return Err(failed("the answer is too large".to_owned()));
        }
    }
    member.keep(sender);
    Ok((status, bytes))
}

async fn version(member: &Member) -> Result<(), String> {
    let exchange = exchange(member, Method::GET, "/version", b"", None);
    let answer = timeout(VERSION_LIMIT, exchange).await;
    let (_, bytes) = answer.map_err(|_| "timeout".to_owned())?.map_err(|failed| failed.error)?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let Some(version) = value.get("etcdcluster").and_then(Value::as_str) else {
        let body = String::from_utf8_lossy(&bytes);
        return Err(format!(
            "got malformed version message: \"{body}\" from etcd \"{}\"",
            member.url
        ));
    };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if number < (3, 4) && version != "not_decided" {
        return Err(format!(
            "etcd cluster version {version} is less than the required version 3.4.0, please upgrade your etcd cluster"
        ));
    }
    Ok(())
}

fn refusal(status: StatusCode, bytes: &[u8]) -> Refusal {
    let text = message(status, bytes);
    match status {
        StatusCode::UNAUTHORIZED => Refusal::Unauthorized,
        // An expired or unknown token comes in several dresses.
        _ if text.contains("invalid auth token") || text.contains("user name is empty") => {
            Refusal::Unauthorized
        }
        StatusCode::FORBIDDEN => Refusal::Other("etcd forbidden code: 403".to_owned()),
        StatusCode::NOT_FOUND => Refusal::Other(
            "gRPC gateway is not enabled in etcd cluster; headgate needs it as the reference does"
                .to_owned(),
        ),
        _ => Refusal::Other(text),
    }
}

/// What an error answer says.
fn message(status: StatusCode, bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = value.get("error").or_else(|| value.get("message"));
    let text = text.and_then(|text| text.as_str().or_else(|| text.get("message")?.as_str()));
    text.map_or_else(|| format!("status {}", status.as_u16()), str::to_owned)
}
