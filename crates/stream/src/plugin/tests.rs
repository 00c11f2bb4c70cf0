use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use headgate_model::plugin::Phases;
use headgate_model::resource::Plugins;
use headgate_upstream::Upstream;
use serde::Deserialize;
use serde_json::json;

use super::factory::{Made, PluginFactory, Written};
use super::*;
use crate::snapshot::{Route, Target};

/// Writes down what happens to it.
#[derive(Debug)]
struct Witness {
    name: String,
    answer: Phase,
    panics: bool,
    seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
struct Config {
    name: String,
    reject: Option<u16>,
    #[serde(default)]
    wait: bool,
    #[serde(default)]
    panics: bool,
    filled: u32,
}

impl Plugin for Witness {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        if config.name == "unusable" {
            return Err("it is unusable".to_owned());
        }
        assert_eq!(config.filled, 7, "the schema's default");
        let answer = match config.reject {
            Some(code) => Phase::reject(code),
            None if config.wait => Phase::Wait,
            None => Phase::NEXT,
        };
        let seen = build.shared("seen", Mutex::default);
        Ok(Self { name: config.name, answer, panics: config.panics, seen })
    }

    fn preread(&self, _: &mut Session) -> Phase {
        self.seen.lock().unwrap().push(format!("preread {}", self.name));
        assert!(!self.panics);
        self.answer
    }

    fn wait<'a>(&'a self, _: &'a mut Session, client: &'a mut Client<'_>) -> Later<'a, Flow> {
        Box::pin(async move {
            match client.peek(3).await {
                Ok(bytes) if bytes.starts_with(b"yes") => Flow::Next,
                _ => Flow::Reject(400),
            }
        })
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        let status = end.status(session);
        self.seen
            .lock()
            .unwrap_or_else(|it| it.into_inner())
            .push(format!("log {} {status}", self.name));
        assert!(!self.panics);
    }
}

const SCHEMA: &str = r#"{"type":"object","properties":{"filled":{"type":"integer","default":7}}}"#;

static FIRST: PluginDef =
    PluginDef::of::<Witness>(PluginMeta::new("first", 30, SCHEMA, Phases::Both));
static SECOND: PluginDef =
    PluginDef::of::<Witness>(PluginMeta::new("second", 20, SCHEMA, Phases::Both));
static LAST: PluginDef = PluginDef::of::<Witness>(PluginMeta::new("last", 10, SCHEMA, Phases::Log));

struct NoUpstreams;

impl Upstreams for NoUpstreams {
    fn by_id(&mut self, _: &str) -> Result<Option<Arc<Upstream>>, String> {
        Ok(None)
    }

    fn ip_set(&mut self, _: &str) -> Option<Arc<crate::ip_sets::LiveSet>> {
        None
    }

    fn inline(&mut self, key: &str, _: &Value) -> Result<Arc<Upstream>, String> {
        Err(key.to_owned())
    }
}

struct Bench {
    factory: PluginFactory,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new() -> Self {
        struct Nobody;
        impl fmt::Debug for Nobody {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Ok(())
            }
        }
        impl Background for Nobody {
            fn spawn(&self, _: Pin<Box<dyn Future<Output = ()> + Send>>) {}
            fn stopping(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
                Box::pin(std::future::pending())
            }
        }
        let http = vec!["cors".to_owned()];
        let factory = PluginFactory::new(&[&FIRST, &SECOND, &LAST], http, Arc::new(Nobody));
        let seen = factory.shared.get("seen", Mutex::default);
        Self { factory, seen }
    }

    fn make(&self, route: Value, service: Value) -> Made {
        let plugins = |value: Value| -> Plugins { serde_json::from_value(value).unwrap() };
        let (route, service) = (plugins(route), plugins(service));
        self.factory.make(
            Written { resource: "stream_routes/1", plugins: &route },
            Some(Written { resource: "services/2", plugins: &service }),
            &|_| None,
            &mut NoUpstreams,
        )
    }

    /// Runs both phases of a session with these plugins on the route.
    fn run(&self, route: Value) -> (Step, Vec<String>) {
        let made = self.make(route, json!({}));
        assert_eq!(made.broken, None);
        self.run_chain(made.chain)
    }

    fn run_chain(&self, plugins: Chain) -> (Step, Vec<String>) {
        let mut session = Session::of("198.51.100.7:4000");
        let target = Target::Broken { message: String::new(), reason: CloseReason::NoUpstream };
        let stats = Arc::new(crate::stats::RouteStats::new(1));
        let route = Route {
            id: "1".into(),
            name: None,
            service: None,
            plugins,
            tls_passthrough: false,
            target,
            stats,
            udp: headgate_model::resource::stream_route::UdpLimits::default(),
        };
        let route = Arc::new(route);
        session.route = Some(Arc::clone(&route));
        let step = route.plugins.run(0, &mut session);
        let times = RefCell::default();
        let reason = match step {
            Step::Ended(reason) => reason,
            _ => CloseReason::Done,
        };
        route.plugins.log(&session, &End::now(reason, &times));
        (step, std::mem::take(&mut *self.seen.lock().unwrap_or_else(|it| it.into_inner())))
    }
}

#[test]
fn by_priority_and_all_are_logged() {
    let bench = Bench::new();
    let plugins = json!({"last": {"name": "c"}, "second": {"name": "b"}, "first": {"name": "a"}});
    let (step, seen) = bench.run(plugins);
    assert_eq!(step, Step::Passed);
    assert_eq!(seen, ["preread a", "preread b", "log a 200", "log b 200", "log c 200"]);
    let own = json!({"second": {"name": "b", "_meta": {"priority": 31}}, "first": {"name": "a"}});
    assert_eq!(bench.run(own).1[..2], ["preread b", "preread a"]);
}

#[test]
fn a_refusal_ends_preread_but_not_the_log_phase() {
    let bench = Bench::new();
    let plugins = json!({"first": {"name": "a", "reject": 403}, "second": {"name": "b"}});
    let (step, seen) = bench.run(plugins);
    assert_eq!(step, Step::Ended(CloseReason::Rejected));
    assert_eq!(seen, ["preread a", "log a 403", "log b 403"]);
}

#[test]
fn filters_skip_in_both_phases_and_broken_ones_do_not() {
    let bench = Bench::new();
    let filtered = |filter: Value| json!({"first": {"name": "a", "_meta": {"filter": filter}}});
    let no = json!([["remote_addr", "==", "192.0.2.1"]]);
    assert_eq!(bench.run(filtered(no)).1, [""; 0]);
    let yes = json!([["server_port", "==", 9100], ["remote_addr", "ipmatch", ["198.51.100.0/24"]]]);
    assert_eq!(bench.run(filtered(yes)).1, ["preread a", "log a 200"]);
    assert_eq!(bench.run(filtered(json!([["a", "="]]))).1, ["preread a", "log a 200"]);
    // Only known at the end: the preread phase decides for both, a plugin without one waits.
    let status = json!([["status", "==", 200]]);
    assert_eq!(bench.run(filtered(status.clone())).1, [""; 0]);
    let last = json!({"last": {"name": "c", "_meta": {"filter": status}}});
    assert_eq!(bench.run(last).1, ["log c 200"]);
}

#[test]
fn a_panic_ends_one_session() {
    let bench = Bench::new();
    let plugins = json!({"first": {"name": "a", "panics": true}, "last": {"name": "c"}});
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (step, seen) = bench.run(plugins);
    std::panic::set_hook(hook);
    assert_eq!(step, Step::Ended(CloseReason::Internal));
    assert_eq!(seen, ["preread a", "log a 500", "log c 500"]);
}

#[test]
fn the_routes_plugin_replaces_the_services_whole() {
    let bench = Bench::new();
    let service =
        json!({"first": {"name": "theirs", "reject": 403}, "last": {"name": "c"}, "cors": {}});
    let made = bench.make(json!({"first": {"name": "own"}}), service.clone());
    assert_eq!(made.notes, [""; 0], "an HTTP plugin of a service is nothing to speak of");
    assert_eq!(bench.run_chain(made.chain).1, ["preread own", "log own 200", "log c 200"]);
    let made = bench.make(json!({"first": {"_meta": {"disable": true}}}), service);
    assert_eq!(bench.run_chain(made.chain).1, ["log c 200"]);
}

#[test]
fn what_does_not_run_is_told() {
    let bench = Bench::new();
    let made = bench.make(json!({"cors": {}, "none": {}}), json!({"other": {}}));
    assert_eq!(made.notes.len(), 3, "{:?}", made.notes);
    assert!(made.chain.is_empty() && made.broken.is_none());
    let made = bench.make(json!({"first": {"name": "unusable"}}), json!({}));
    let text = "plugin [first] of stream_routes/1 cannot run: it is unusable";
    assert_eq!(made.broken.as_deref(), Some(text));
    let made = bench.make(json!({"last": {"name": "$env://SURELY_NOT_SET"}}), json!({}));
    assert_eq!((made.broken, made.notes.len()), (None, 1), "it decides nothing");
}

#[test]
fn waiting_goes_on_where_it_stopped() {
    let bench = Bench::new();
    let plugins = json!({"first": {"name": "a", "wait": true}, "second": {"name": "b"}});
    for (datagram, expected) in [
        (b"yes!".as_slice(), Ok(())),
        (b"no!!", Err(CloseReason::Rejected)),
        (b"ye", Err(CloseReason::Rejected)),
    ] {
        let chain = bench.make(plugins.clone(), json!({})).chain;
        let mut session = Session::of("198.51.100.7:4000");
        let step = chain.run(0, &mut session);
        assert_eq!(step, Step::Waits { index: 0 });
        let mut client = Client::datagram(datagram);
        let mut future = std::pin::pin!(chain.finish(step, &mut session, &mut client));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(result) = future.as_mut().poll(&mut context) else {
            panic!("a datagram is not waited for");
        };
        assert_eq!(result, expected);
        let seen = std::mem::take(&mut *bench.seen.lock().unwrap());
        assert_eq!(seen.len(), if expected.is_ok() { 2 } else { 1 });
    }
}

#[test]
fn what_a_session_keeps_is_dropped_with_it() {
    let guard = Arc::new(());
    let mut session = Session::of("198.51.100.7:4000");
    session.keep(Arc::clone(&guard));
    assert!(session.kept::<Arc<()>>().is_some());
    assert_eq!(Arc::strong_count(&guard), 2);
    drop(session);
    assert_eq!(Arc::strong_count(&guard), 1);
}
