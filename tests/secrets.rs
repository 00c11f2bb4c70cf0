//! `$secret://` references, asked of a Vault (`spec/schemas.md`, section 12). Conformance id TL-05.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use headgate_testkit::certificate::Authority;
use headgate_testkit::client::reach;
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

#[test]
fn managers_that_are_not_asked_say_so() {
    let node = TcpPeer::named("a");
    let gateway = builder().tcp(1).start();
    let aws = json!({"access_key_id": "a", "secret_access_key": "b"});
    let warned = gateway.put("secrets/aws/1", &aws).expect(201).warnings();
    assert_eq!(warned[0]["code"], "secret/not-asked", "{warned:?}");
    let route = logging(&node, node.addr(), "$secret://aws/1/log/auth");
    let warned = gateway.put("stream_routes/1", &route).expect(201).warnings();
    assert_eq!(warned[0]["code"], "secret/not-asked", "{warned:?}");
    gateway.wait_for_log("secret manager aws is not asked by this version", SOON);
}
