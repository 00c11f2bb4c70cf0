//! `$secret://` references, asked of a Vault, AWS and Google Cloud (`spec/schemas.md`, section 12). Conformance id TL-05.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use headgate_testkit::certificate::Authority;
use headgate_testkit::client::reach;
use headgate_testkit::process::{need, run};
use headgate_testkit::tls::{self, TlsClient};
use headgate_testkit::{Gateway, GatewayBuilder, SOON, TcpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const TLS: &str = "addr: \"127.0.0.1:{port}\"\ntls: true";
const TOKEN: &str = "hvs.a-token-that-nobody-may-see";

/// The key-value store of a Vault, version 1: paths below `/v1/` and the object at each.
struct Vault {
    peer: TcpPeer,
    held: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Vault {
    fn start() -> Self {
        let held = Arc::new(Mutex::new(BTreeMap::<String, Value>::new()));
        let shared = Arc::clone(&held);
        let peer = TcpPeer::new(move |mut conversation| {
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while !head.ends_with(b"\r\n\r\n") && conversation.read(&mut byte) > 0 {
                head.extend_from_slice(&byte);
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            let path = head.strip_prefix("get /v1/").and_then(|rest| rest.split(' ').next());
            let found = path.and_then(|path| {
                shared.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
            });
            let (status, body) = match found {
                _ if !head.contains(&format!("x-vault-token: {TOKEN}")) => {
                    (403, json!({"errors": ["permission denied"]}))
                }
                Some(data) => (200, json!({"data": data, "lease_duration": 3600})),
                None => (404, json!({"errors": []})),
            };
            let body = body.to_string();
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
            let _ = conversation.stream.write_all(answer.as_bytes());
            conversation.drain();
        });
        Self { peer, held }
    }

    fn set(&self, path: &str, object: Value) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(path.to_owned(), object);
    }

    fn manager(&self) -> Value {
        json!({"uri": format!("http://{}", self.peer.addr()), "prefix": "kv/gate", "token": TOKEN})
    }
}

/// A server of logs that keeps what it is sent.
fn log_server() -> (TcpPeer, Arc<Mutex<String>>) {
    let seen = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&seen);
    let peer = TcpPeer::new(move |mut conversation| {
        let mut buffer = [0; 4096];
        let count = conversation.read(&mut buffer);
        let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
        shared.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        let _ = conversation.stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    (peer, seen)
}

fn builder() -> GatewayBuilder {
    Gateway::builder(BIN)
        .log_level("debug")
        .apisix("lru:\n  secret:\n    ttl: 1\n    neg_ttl: 1")
        .top("stream_plugins: [http-logger]")
}

fn logging(node: &TcpPeer, to: SocketAddr, auth: &str) -> Value {
    let conf = json!({"uri": format!("http://{to}/log"), "auth_header": auth, "batch_max_size": 1,
        "log_format": {"client": "$remote_addr"}});
    json!({"upstream": {"nodes": {node.node(): 1}}, "plugins": {"http-logger": conf}})
}

#[test]
fn tl_05_a_certificate_whose_key_is_in_vault() {
    let (vault, node) = (Vault::start(), TcpPeer::named("a"));
    let authority = Authority::new("root");
    let own = authority.server(&["a.test"]);
    vault.set("kv/gate/tls/a", json!({"cert": own.cert, "key": own.key}));
    let gateway = builder().tcp_entry(TLS).metrics().start();
    let route = json!({"upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/1", &route).expect(201);
    let object = json!({"cert": "$secret://vault/main/tls/a/cert",
        "key": "$secret://vault/main/tls/a/key", "sni": "a.test"});
    let warned = gateway.put("ssls/1", &object).expect(201).warnings();
    assert_eq!(warned[0]["code"], "secret/none", "{warned:?}");
    let shown = || -> Option<Vec<u8>> {
        let mut stream = TlsClient::default().connect(gateway.tcp(0), "a.test").ok()?;
        let (bytes, end) = tls::read_to_end(&mut stream);
        end.ok().filter(|()| bytes.trim_ascii() == b"a").map(|()| tls::shown(&stream))
    };
    assert_eq!(shown(), None);
    gateway.wait_for_log("no secret conf, secret_uri: $secret://vault/main/tls/a/key", SOON);
    gateway.put("secrets/vault/main", &vault.manager()).expect(201);
    assert_eq!(shown(), Some(tls::der(&own)), "as soon as the manager is there");

    gateway.wait_for_log("resolved secret reference: $secret://vault/main/tls/a/key", SOON);
    let scrape = gateway.scrape();
    assert_eq!(scrape.get("headgate_secret_references{state=\"known\"}"), Some(2.0));
    let expiry = "headgate_certificate_expiry_timestamp_seconds{ssl=\"1\"}";
    assert!(scrape.get(expiry).is_some(), "{}", scrape.text());

    // Rotated in Vault, and nowhere else.
    let next = authority.server(&["a.test"]);
    vault.set("kv/gate/tls/a", json!({"cert": next.cert, "key": next.key}));
    wait::until_true("the new certificate", SOON, || shown() == Some(tls::der(&next)));
    gateway.put("ssls/1", &object).ok();
    assert_eq!(shown(), Some(tls::der(&next)));
    let logged = gateway.everything_logged();
    assert!(!logged.contains(TOKEN) && !logged.contains("PRIVATE KEY"), "{logged}");
}

#[test]
fn secrets_of_plugins_are_refreshed_and_never_logged() {
    let (vault, node) = (Vault::start(), TcpPeer::named("a"));
    let (logs, seen) = log_server();
    let got = |text: &str| seen.lock().unwrap_or_else(PoisonError::into_inner).contains(text);
    vault.set("kv/gate/log", json!({"auth": "Bearer first-secret"}));
    let gateway = builder().tcp(1).start();
    gateway.put("secrets/vault/main", &vault.manager()).expect(201);
    let route = logging(&node, logs.addr(), "$secret://vault/main/log/auth");
    assert_eq!(gateway.put("stream_routes/1", &route).expect(201).warnings(), Vec::<Value>::new());
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    wait::until_true("the first value", SOON, || got("Authorization: Bearer first-secret"));

    vault.set("kv/gate/log", json!({"auth": "Bearer second-secret"}));
    wait::until_true("the second value", SOON, || {
        reach(gateway.tcp(0)).is_some() && got("Authorization: Bearer second-secret")
    });
    // Another token that opens nothing: what was known was the other manager's.
    let mut wrong = vault.manager();
    wrong["token"] = json!("hvs.another-token");
    gateway.put("secrets/vault/main", &wrong).ok();
    gateway.wait_for_log("answered 403", SOON);
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()), "a route without its logger serves");
    gateway.put("secrets/vault/main", &vault.manager()).ok();
    vault.set("kv/gate/log", json!({"auth": "Bearer third-secret"}));
    wait::until_true("the third value", SOON, || {
        reach(gateway.tcp(0)).is_some() && got("Authorization: Bearer third-secret")
    });
    let stored = gateway.get("stream_routes/1").ok().body;
    assert!(stored.contains("secret:\\/\\/vault") || stored.contains("secret://vault"), "{stored}");
    let logged = gateway.everything_logged();
    for hidden in [TOKEN, "another-token", "first-secret", "second-secret", "third-secret"] {
        assert!(!logged.contains(hidden), "{hidden} is logged:\n{logged}");
    }
}

#[test]
fn a_vault_that_is_gone_takes_nothing_away() {
    let (vault, node) = (Vault::start(), TcpPeer::named("a"));
    let (logs, seen) = log_server();
    let count = || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.matches("Bearer kept").count()
    };
    vault.set("kv/gate/log", json!({"auth": "Bearer kept"}));
    let gateway = builder().tcp(1).metrics().start();
    gateway.put("secrets/vault/main", &vault.manager()).expect(201);
    let route = logging(&node, logs.addr(), "$secret://vault/main/log/auth");
    gateway.put("stream_routes/1", &route).expect(201);
    drop(vault);
    gateway.wait_for_log("the value that was known stays in use", SOON);
    assert_eq!(gateway.scrape().get("headgate_secret_references{state=\"old\"}"), Some(1.0));
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    wait::until_true("a record", SOON, || count() > 0);
}

/// Answers each request, of which `answer` gets the head in lower case and the body.
fn server(answer: impl Fn(&str, &str) -> (u16, Value) + Send + Sync + 'static) -> TcpPeer {
    TcpPeer::new(move |mut conversation| {
        let mut head = Vec::new();
        let mut byte = [0; 1];
        while !head.ends_with(b"\r\n\r\n") && conversation.read(&mut byte) > 0 {
            head.extend_from_slice(&byte);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        while body.len() < length && conversation.read(&mut byte) > 0 {
            body.extend_from_slice(&byte);
        }
        let (status, object) = answer(&head, &String::from_utf8_lossy(&body));
        let text = object.to_string();
        let length = text.len();
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{text}");
        let _ = conversation.stream.write_all(answer.as_bytes());
        conversation.drain();
    })
}

#[test]
fn secrets_of_aws() {
    let aws = server(|head, body| {
        let is_signed = head.contains("authorization: aws4-hmac-sha256 credential=akid/")
            && head.contains("/eu-west-1/secretsmanager/aws4_request")
            && head.contains("x-amz-target: secretsmanager.getsecretvalue");
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        match body["SecretId"].as_str() {
            _ if !is_signed => (400, json!({"__type": "UnrecognizedClientException"})),
            Some("log") => {
                (200, json!({"SecretString": json!({"auth": "Bearer of-aws"}).to_string()}))
            }
            _ => (400, json!({"__type": "x#ResourceNotFoundException"})),
        }
    });
    let (node, (logs, seen)) = (TcpPeer::named("a"), log_server());
    let got = |text: &str| seen.lock().unwrap_or_else(PoisonError::into_inner).contains(text);
    let gateway = builder().tcp(1).start();
    let manager = json!({"access_key_id": "AKID", "secret_access_key": "never-shown",
        "region": "eu-west-1", "endpoint_url": format!("http://{}", aws.addr())});
    gateway.put("secrets/aws/1", &manager).expect(201);
    let route = logging(&node, logs.addr(), "$secret://aws/1/log/auth");
    assert_eq!(gateway.put("stream_routes/1", &route).expect(201).warnings(), Vec::<Value>::new());
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    wait::until_true("the value", SOON, || got("Authorization: Bearer of-aws"));
    gateway.put("stream_routes/1", &logging(&node, logs.addr(), "$secret://aws/1/none")).ok();
    gateway.wait_for_log("aws secret manager: ResourceNotFoundException, key: none", SOON);
    let logged = gateway.everything_logged();
    assert!(!logged.contains("never-shown") && !logged.contains("of-aws"), "{logged}");
}

#[test]
fn secrets_of_google_cloud() {
    let Some(openssl) = need("openssl", "openssl") else { return };
    let mut make = Command::new(openssl);
    make.args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let key = run(&mut make, SOON * 3).success().stdout;
    let gcp = server(|head, body| {
        if head.starts_with("post /token ") {
            let has_claim = body.contains("&assertion=") && body.matches('.').count() == 2;
            let status = if has_claim { 200 } else { 400 };
            return (status, json!({"access_token": "tok", "expires_in": 3600}));
        }
        let path = "get /v1/projects/p/secrets/log/versions/latest:access ";
        match head.starts_with(path) && head.contains("authorization: bearer tok") {
            // "Bearer from-gcp"
            true => (200, json!({"payload": {"data": "QmVhcmVyIGZyb20tZ2Nw"}})),
            false => (404, json!({})),
        }
    });
    let (node, (logs, seen)) = (TcpPeer::named("a"), log_server());
    let got = |text: &str| seen.lock().unwrap_or_else(PoisonError::into_inner).contains(text);
    let gateway = builder().tcp(1).start();
    let at = format!("http://{}", gcp.addr());
    let account = json!({"client_email": "gate@p", "private_key": key, "project_id": "p",
        "token_uri": format!("{at}/token"), "entries_uri": format!("{at}/v1")});
    gateway.put("secrets/gcp/1", &json!({"auth_config": account})).expect(201);
    gateway.put("stream_routes/1", &logging(&node, logs.addr(), "$secret://gcp/1/log")).expect(201);
    assert_eq!(reach(gateway.tcp(0)), Some("a".into()));
    wait::until_true("the value", SOON, || got("Authorization: Bearer from-gcp"));
    let logged = gateway.everything_logged();
    assert!(!logged.contains("PRIVATE KEY") && !logged.contains("from-gcp"), "{logged}");
}
