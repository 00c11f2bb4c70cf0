//! traffic-split (TS).

use headgate_testkit::client::{self, reach};
use headgate_testkit::{Gateway, SOON, TcpPeer, UdpPeer};
use serde_json::{Value, json};

use crate::{BIN, gateway, route, to};

fn split(rules: Value) -> Value {
    json!({"traffic-split": {"rules": rules}})
}

/// How many of so many sessions reach the peer called `name`.
fn share(gateway: &Gateway, name: &str, of: usize) -> usize {
    (0..of).filter(|_| reach(gateway.tcp(0)).as_deref() == Some(name)).count()
}

#[test]
fn ts_01_nine_of_ten_are_exactly_nine() {
    let gateway = gateway();
    let (own, nine, one) = (TcpPeer::named("own"), TcpPeer::named("nine"), TcpPeer::named("one"));
    let entries =
        json!([{"upstream": to(&nine), "weight": 9}, {"upstream": to(&one), "weight": 1}]);
    route(&gateway, &own, split(json!([{"weighted_upstreams": entries}])));
    assert_eq!(share(&gateway, "nine", 10), 9);
    assert_eq!((nine.accepted(), one.accepted(), own.accepted()), (9, 1, 0));
}

#[test]
fn ts_02_an_entry_of_weight_only_is_the_routes_own() {
    let (gateway, own, other) = (gateway(), TcpPeer::named("own"), TcpPeer::named("other"));
    let entries = json!([{"upstream": to(&other), "weight": 3}, {"weight": 2}]);
    route(&gateway, &own, split(json!([{"weighted_upstreams": entries}])));
    assert_eq!(share(&gateway, "other", 10), 6);
    assert_eq!(own.accepted(), 4);
}

#[test]
fn ts_03_upstreams_by_id() {
    let (gateway, own, other) = (gateway(), TcpPeer::named("own"), TcpPeer::named("other"));
    let rules = json!([{"weighted_upstreams": [{"upstream_id": "7"}]}]);
    let body = json!({"upstream": to(&own), "plugins": split(rules)});
    gateway.put("stream_routes/1", &body).ok();
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("failed to fetch upstream info by upstream id: 7", SOON);
    gateway.wait_for_log("traffic-split exits with status code 500", SOON);
    gateway.put("upstreams/7", &to(&other)).expect(201);
    assert_eq!(reach(gateway.tcp(0)), Some("other".into()), "it exists now");
    gateway.put("upstreams/7", &to(&own)).expect(200);
    assert_eq!(reach(gateway.tcp(0)), Some("own".into()), "a change of it counts");
    gateway.delete("upstreams/7?force=true").expect(200);
    assert_eq!(reach(gateway.tcp(0)), None);
}

#[test]
fn ts_04_matches_decide() {
    let (gateway, own, other) = (gateway(), TcpPeer::named("own"), TcpPeer::named("other"));
    let to_other = json!([{"upstream": to(&other)}]);
    let when = |vars: Value| json!([{"match": [{"vars": vars}], "weighted_upstreams": to_other}]);
    for (vars, expected) in [
        (json!([["route_id", "==", "1"]]), "other"),
        (json!([["route_id", "==", "2"]]), "own"),
        (
            json!([["remote_addr", "ipmatch", ["127.0.0.0/8"]], ["protocol", "~*", "^tcp$"]]),
            "other",
        ),
        (json!(["OR", ["server_port", "<", 0], ["server_port", "!", "in", [1, 2]]]), "other"),
        (json!([["mqtt_client_id", "==", "x"]]), "own"),
    ] {
        route(&gateway, &own, split(when(vars.clone())));
        assert_eq!(reach(gateway.tcp(0)).as_deref(), Some(expected), "{vars}");
    }
}

#[test]
fn inline_upstreams_have_all_features() {
    let (gateway, own, other) = (gateway(), TcpPeer::named("own"), TcpPeer::named("other"));
    let dead = headgate_testkit::Port::take();
    // A name, a retry after a refused node, and a balancer of its own.
    let nodes = json!([
        {"host": "127.0.0.1", "port": dead.local().port(), "weight": 1, "priority": 1},
        {"host": "localhost", "port": other.addr().port(), "weight": 1},
    ]);
    let upstream = json!({"type": "least_conn", "nodes": nodes, "retries": 1});
    let entries = json!([{"upstream": upstream}]);
    route(&gateway, &own, split(json!([{"weighted_upstreams": entries}])));
    assert_eq!(reach(gateway.tcp(0)), Some("other".into()));
    let none = json!([{"upstream": {"nodes": [], "retries": 0}}]);
    route(&gateway, &own, split(json!([{"weighted_upstreams": none}])));
    assert_eq!(reach(gateway.tcp(0)), None);
    gateway.wait_for_log("no valid upstream node", SOON);
}

#[test]
fn a_route_without_upstream_is_supplied_with_one() {
    let (gateway, other) = (gateway(), TcpPeer::named("other"));
    let rules = json!([{
        "match": [{"vars": [["remote_addr", "==", "127.0.0.1"]]}],
        "weighted_upstreams": [{"upstream": to(&other)}],
    }]);
    gateway.put("stream_routes/1", &json!({"plugins": split(rules)})).ok();
    assert_eq!(reach(gateway.tcp(0)), Some("other".into()));
    assert_eq!(client::reach_from(crate::ip("127.0.0.9"), gateway.tcp(0)), None);
    gateway.wait_for_log("missing upstream configuration in Route or Service", SOON);
}

#[test]
fn datagrams_are_split_by_flow() {
    let gateway = Gateway::builder(BIN).udp(1).start();
    let (own, other) = (UdpPeer::named("own"), UdpPeer::named("other"));
    let nodes = |peer: &UdpPeer| json!({"nodes": {peer.node(): 1}});
    let rules = json!([{"weighted_upstreams": [{"upstream": nodes(&other)}, {"weight": 1}]}]);
    let body = json!({"upstream": nodes(&own), "plugins": split(rules)});
    gateway.put("stream_routes/1", &body).expect(201);
    for _ in 0..4 {
        let flow = client::udp(gateway.udp(0));
        let first = client::ask(&flow, b"x");
        assert_eq!(client::ask(&flow, b"x"), first, "a flow stays where it is");
    }
    assert_eq!((own.received(), other.received()), (4, 4));
}

#[test]
fn wrong_expressions_are_refused() {
    let gateway = gateway();
    let rules = json!([{"match": [{"vars": [["a", "~~", "("]]}]}]);
    let message = gateway.put("stream_routes/1", &json!({"plugins": split(rules)})).expect(400);
    let intro = "failed to check the configuration of stream plugin [traffic-split]: \
                 failed to validate the 'vars' expression: invalid regex '(': ";
    assert!(message.error_msg().starts_with(intro), "{}", message.body);
}
