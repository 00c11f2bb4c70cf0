//! limit-conn with the policy redis-cluster over TLS: two real nodes that speak TLS to clients and to
//! each other, and a key that is on the one that the gateway does not know.

use std::net::SocketAddr;
use std::path::Path;

use headgate_testkit::certificate::Authority;
use headgate_testkit::process::run;
use headgate_testkit::server::Redis;
use headgate_testkit::{Gateway, Port, SOON, TcpPeer, wait};
use serde_json::{Value, json};

use crate::limit_conn::{held, hold};
use crate::{BIN, gateway, route};

/// A node whose clients and peers speak TLS; its plain port answers the test's own questions.
struct Node {
    redis: Redis,
    secure: Port,
    bus: Port,
}

impl Node {
    fn start(files: &Path) -> Option<Self> {
        let (secure, bus) = (Port::take(), Port::take());
        let path = |name: &str| files.join(name).display().to_string();
        let arguments = [
            ["--cluster-enabled", "yes"],
            ["--cluster-port", &bus.number().to_string()],
            ["--tls-port", &secure.number().to_string()],
            ["--tls-cluster", "yes"],
            ["--tls-auth-clients", "no"],
            ["--tls-cert-file", &path("node.crt")],
            ["--tls-key-file", &path("node.key")],
            ["--tls-ca-cert-file", &path("ca.pem")],
        ];
        let arguments: Vec<&str> = arguments.iter().flatten().copied().collect();
        let redis = Redis::start_with(&arguments)?;
        Some(Self { redis, secure, bus })
    }

    fn secure(&self) -> SocketAddr {
        self.secure.local()
    }

    fn ask(&self, words: &[&str]) -> String {
        run(self.redis.cli(self.redis.addr()).args(words), SOON).success().output()
    }

    /// Sessions that it counts.
    fn members(&self) -> usize {
        let keys = self.ask(&["KEYS", "limit_conn:*"]);
        let Some(key) = keys.lines().find(|line| line.contains("limit_conn:")) else { return 0 };
        let count = self.ask(&["ZCARD", key.trim()]);
        count.trim().trim_start_matches("(integer) ").parse().expect("a number")
    }
}

#[test]
fn a_cluster_behind_tls_tells_where_a_key_is() {
    let authority = Authority::new("root");
    let folder = tempfile::TempDir::with_prefix("headgate-redis-tls-").expect("a folder");
    let _ = authority.server(&["localhost", "127.0.0.1"]).write(folder.path(), "node");
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, &authority.cert).expect("a file");
    let (Some(one), Some(two)) = (Node::start(folder.path()), Node::start(folder.path())) else {
        return;
    };
    // Every slot is on the second node; the first one knows that.
    let (port, bus) = (two.secure.number().to_string(), two.bus.number().to_string());
    one.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    two.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    for node in [&one, &two] {
        wait::until_true("the cluster is up", SOON * 2, || {
            node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
    }
    let moved = run(
        one.redis
            .cli(one.secure())
            .args(["--tls", "--cacert", &trusted.display().to_string()])
            .args(["GET", "a"]),
        SOON,
    );
    let to = format!("127.0.0.1:{port}");
    assert!(moved.output().contains(&format!("MOVED 15495 {to}")), "{}", moved.output());

    let conf = |more: Value| {
        let mut conf = json!({
            "conn": 2, "burst": 0, "default_conn_delay": 0.01, "key": "remote_addr",
            "policy": "redis-cluster", "redis_cluster_name": "test", "redis_cluster_ssl": true,
            "redis_cluster_nodes": [format!("localhost:{}", one.secure.number())],
        });
        let more = more.as_object().expect("an object").clone();
        conf.as_object_mut().expect("an object").extend(more);
        json!({ "limit-conn": conf })
    };
    let node = TcpPeer::echo();
    let trusting = Gateway::builder(BIN)
        .tcp(1)
        .log_level("info")
        .access_format("$status $close_reason")
        .env("SSL_CERT_FILE", &trusted.display().to_string())
        .start();
    let other = gateway();
    // One checks the certificates of both nodes, the other one does not care.
    route(&trusting, &node, conf(json!({"redis_cluster_ssl_verify": true})));
    route(&other, &node, conf(json!({"redis_cluster_ssl_verify": false})));
    let sessions = [hold(trusting.tcp(0)), hold(trusting.tcp(0))];
    assert!(sessions.iter().all(Option::is_some));
    assert!(hold(trusting.tcp(0)).is_none());
    assert_eq!((one.members(), two.members()), (0, 2));
    drop(sessions);
    wait::until_true("all have left", SOON, || two.members() == 0);
    assert_eq!(held(other.tcp(0), 4).len(), 2);
    // Whoever checks and does not trust them counts nothing, and says which node it was.
    route(&other, &node, conf(json!({"redis_cluster_ssl_verify": true})));
    assert!(hold(other.tcp(0)).is_none());
    other.wait_for_log("failed to limit conn: redis localhost:", SOON);
    other.wait_access(&["500 RJ"]);
    // Nor does whoever speaks without TLS to a port that wants it.
    route(&trusting, &node, conf(json!({"redis_cluster_ssl": false, "redis_timeout": 500})));
    assert!(hold(trusting.tcp(0)).is_none());
    trusting.wait_access(&["500 RJ"]);
}
