//! A router over a store in memory, and a planes double that records what it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use headgate_admin::live::CheckedNode;
use headgate_admin::{Admin, Control, Limits, Live, admin_api, control_api, server};
use headgate_model::check::Checker;
use headgate_model::listen::ListenerSpec;
use headgate_model::plugin::{Phases, PluginCatalog, PluginMeta};
use headgate_model::settings::{AdminKey, AdminSettings};
use headgate_model::{Problem, ResourceSet};
use headgate_store::{Memory, Store};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

pub(crate) const KEY: &str = "edd1c9f034335f136f87ad84b625c8f1";
pub(crate) const VIEWER_KEY: &str = "4054f7cf07e344346cd3f287985e76a2";

/// Stands for the planes.
pub(crate) struct Planes {
    pub(crate) stream: AtomicBool,
    /// The newest revision that was waited for.
    pub(crate) applied: AtomicU64,
    pub(crate) ready: AtomicBool,
    pub(crate) problems: Vec<Problem>,
    pub(crate) resources: Arc<ResourceSet>,
}

impl Default for Planes {
    fn default() -> Self {
        Self {
            stream: AtomicBool::new(true),
            applied: AtomicU64::new(0),
            ready: AtomicBool::new(true),
            problems: Vec::new(),
            resources: Arc::default(),
        }
    }
}

#[async_trait::async_trait]
impl Live for Planes {
    fn stream_enabled(&self) -> bool {
        self.stream.load(Ordering::SeqCst)
    }
    fn listeners(&self) -> Vec<ListenerSpec> {
        Vec::new()
    }
    fn counters(&self) -> Vec<(String, u64)> {
        vec![("tcp_accepted".to_owned(), 3), ("closed_NR".to_owned(), 1)]
    }
    fn resources(&self) -> Arc<ResourceSet> {
        Arc::clone(&self.resources)
    }
    async fn applied(&self, revision: u64) -> bool {
        self.applied.fetch_max(revision, Ordering::SeqCst);
        true
    }
    fn checked_nodes(&self, key: &str) -> Vec<CheckedNode> {
        let node = CheckedNode {
            ip: "127.0.0.1".to_owned(),
            port: 9101,
            hostname: "127.0.0.1".to_owned(),
            host_header: None,
            status: "unhealthy",
            success: 0,
            http_failure: 0,
            tcp_failure: 2,
            timeout_failure: 0,
        };
        if key == "stream_routes/1" { vec![node] } else { Vec::new() }
    }
    fn problems(&self) -> Vec<Problem> {
        self.problems.clone()
    }
    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::SeqCst) { Ok(()) } else { Err("not yet".to_owned()) }
    }
}

static MQTT: PluginMeta = PluginMeta {
    name: "mqtt-proxy",
    priority: 1000,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Both,
    executed: true,
    schema: r#"{"type":"object","properties":{"protocol_level":{"type":"integer"}},
        "required":["protocol_level"]}"#,
    metadata_schema: None,
    check: None,
    good: &[],
    bad: &[],
};

/// An Admin API, a control API and what is behind them.
pub(crate) struct Bench {
    pub(crate) admin: Router,
    pub(crate) control: Router,
    pub(crate) store: Arc<Memory>,
    pub(crate) planes: Arc<Planes>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) fn settings() -> AdminSettings {
    let key = |name: &str, key: &str, viewer| AdminKey {
        name: name.to_owned(),
        key: key.to_owned(),
        viewer,
    };
    AdminSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        keys: Some(vec![key("admin", KEY, false), key("look", VIEWER_KEY, true)]),
        allow: Some(vec!["127.0.0.0/24".to_owned()]),
        cors: true,
        v3: true,
        server_tokens: true,
        warnings: true,
    }
}

pub(crate) fn memory() -> Arc<Memory> {
    Arc::new(Memory::new(1000, Duration::from_secs(3600)).unwrap())
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(settings(), Planes::default(), Limits::default())
    }

    pub(crate) fn with(settings: AdminSettings, planes: Planes, limits: Limits) -> Self {
        let store = memory();
        Self::over(Arc::clone(&store) as Arc<dyn Store>, store, settings, planes, limits)
    }

    /// Routers over any store; `memory` is what lies behind it.
    pub(crate) fn over(
        store: Arc<dyn Store>,
        memory: Arc<Memory>,
        settings: AdminSettings,
        planes: Planes,
        limits: Limits,
    ) -> Self {
        let planes = Arc::new(planes);
        let catalog = PluginCatalog {
            stream: vec![&MQTT],
            http: vec!["limit-count".to_owned(), "key-auth".to_owned()],
        };
        let checker = Arc::new(Checker::new(catalog));
        let admin = admin_api::router(Admin {
            standalone: None,
            settings,
            store: Arc::clone(&store),
            live: Arc::clone(&planes) as Arc<dyn Live>,
            checker: Arc::clone(&checker),
            encrypt: Box::new(|key| format!("encrypted:{}", key.len())),
            prefix: "/apisix".to_owned(),
            version: "3.17.0".to_owned(),
            plugins: None,
            limits,
        })
        .unwrap();
        let control = control_api::router(Control {
            store,
            live: Arc::clone(&planes) as Arc<dyn Live>,
            checker,
            prefix: "/apisix".to_owned(),
        });
        Self { admin, control, store: memory, planes }
    }

    /// A request with the admin's key.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        self.call_with(method, path, body, &[("x-api-key", KEY)]).await
    }

    /// A request with exactly these headers.
    pub(crate) async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Reply {
        self.call_from("127.0.0.1:40000", method, path, body, headers).await
    }

    pub(crate) async fn call_from(
        &self,
        peer: &str,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .extension(server::Peer(peer.parse().unwrap()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        ask(&self.admin, request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// Asserts status and exact body, with the admin's key.
    pub(crate) async fn expect(&self, method: &str, path: &str, body: &str, reply: (u16, &str)) {
        let found = self.call(method, path, body).await;
        assert_eq!(
            (found.status.as_u16(), found.body.as_str()),
            reply,
            "{method} {path} with {body}"
        );
    }

    /// Asserts an `error_msg`.
    pub(crate) async fn refuse(&self, method: &str, path: &str, body: &str, reply: (u16, &str)) {
        let (status, message) = reply;
        let found = self.call(method, path, body).await;
        let text = found.json()["error_msg"].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (found.status.as_u16(), text.as_str()),
            (status, message),
            "{method} {path} {body}"
        );
        assert!(found.body.ends_with('\n'));
    }

    /// Writes something that must be accepted.
    pub(crate) async fn put(&self, path: &str, body: &str) {
        let reply = self.call("PUT", &format!("/apisix/admin/{path}"), body).await;
        assert!(reply.status.is_success(), "{path}: {reply:?}");
    }

    /// A request to the control API.
    pub(crate) async fn control_accepting(&self, path: &str, accept: &str) -> Reply {
        let request = Request::builder().uri(path).header("accept", accept);
        ask(&self.control, request.body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn control(&self, method: &str, path: &str) -> Reply {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        ask(&self.control, request).await
    }
}

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}
