//! The control API of a running gateway, field by field (`spec/admin-api.md`, section 7).
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use headgate_testkit::{Gateway, Response, SOON, TcpPeer, wait};
use serde_json::{Value, json};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");

fn checks() -> Value {
    json!({"active": {"type": "tcp", "healthy": {"interval": 1}, "unhealthy": {"interval": 1}}})
}

/// The members of an object, sorted.
fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// A JSON answer as the reference writes it.
fn answer(gateway: &Gateway, path: &str) -> Value {
    let response = gateway.control(path, &[]).expect(200);
    assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
    assert!(response.body.ends_with('\n'), "{}", response.body);
    response.json()
}

fn not_found(response: Response, text: &str) {
    assert_eq!(response.expect(404).body, text);
}

/// A gateway with one object of each kind that has upstreams, all of them with checks.
fn gateway(node: &TcpPeer) -> Gateway {
    let gateway = Gateway::builder(BIN).tcp(2).control().start();
    let name = format!("localhost:{}", node.addr().port());
    let upstream = json!({"nodes": {node.node(): 1, name: 2}, "checks": checks()});
    gateway.put("upstreams/u", &upstream).expect(201);
    let list = json!([{"host": "127.0.0.1", "port": node.addr().port(), "weight": 3}]);
    let inline = json!({"nodes": list, "checks": checks()});
    gateway.put("services/s", &json!({"upstream": inline})).expect(201);
    gateway
        .put("stream_routes/r", &json!({"server_port": gateway.tcp_port(0), "upstream_id": "u"}))
        .expect(201);
    gateway
        .put("stream_routes/q", &json!({"server_port": gateway.tcp_port(1), "service_id": "s"}))
        .expect(201);
    gateway
        .put("stream_routes/own", &json!({"remote_addr": "192.0.2.1", "upstream": inline}))
        .expect(201);
    gateway.put("routes/h", &json!({"uri": "/x", "upstream_id": "u"})).expect(201);
    gateway.put("plugin_metadata/syslog", &json!({"log_format": {"host": "$host"}})).expect(201);
    gateway
}

#[test]
fn dumps_have_every_field_and_no_other() {
    let node = TcpPeer::named("a");
    let gateway = gateway(&node);
    for (list, one, ids) in [
        ("upstreams", "upstream", &["u"][..]),
        ("services", "service", &["s"]),
        ("stream_routes", "stream_route", &["own", "q", "r"]),
        ("routes", "route", &["h"]),
    ] {
        let all = answer(&gateway, &format!("/v1/{list}"));
        let mut seen = Vec::new();
        for dump in all.as_array().expect("an array") {
            assert_eq!(
                members(dump),
                ["createdIndex", "has_domain", "key", "modifiedIndex", "value"],
                "{dump}"
            );
            let id = dump["value"]["id"].as_str().expect("an id").to_owned();
            assert_eq!(dump["key"], format!("/apisix/{list}/{id}"));
            assert_eq!(answer(&gateway, &format!("/v1/{one}/{id}")), *dump);
            let stored = gateway.get(&format!("{list}/{id}")).expect(200).json();
            for index in ["createdIndex", "modifiedIndex"] {
                assert_eq!(dump[index], stored[index], "{list}/{id}");
            }
            for time in ["create_time", "update_time"] {
                assert_eq!(dump["value"][time], stored["value"][time], "{list}/{id}");
            }
            seen.push(id);
        }
        seen.sort_unstable();
        assert_eq!(seen, ids);
        not_found(
            gateway.control(&format!("/v1/{one}/nope"), &[]),
            &format!("{one}[nope] not found"),
        );
    }
    let upstream = answer(&gateway, "/v1/upstream/u");
    assert_eq!(upstream["has_domain"], true);
    let port = node.addr().port();
    let mut nodes = upstream["value"]["nodes"].as_array().cloned().expect("nodes as an array");
    nodes.sort_by_key(|node| node["weight"].as_u64());
    assert_eq!(
        nodes,
        [
            json!({"host": "127.0.0.1", "port": port, "weight": 1, "priority": 0}),
            json!({"host": "localhost", "port": port, "weight": 2, "priority": 0}),
        ]
    );
    // Defaults of the schema, also of the checks.
    let value = &upstream["value"];
    for (pointer, default) in [
        ("/type", json!("roundrobin")),
        ("/scheme", json!("http")),
        ("/pass_host", json!("pass")),
        ("/hash_on", json!("vars")),
        ("/checks/active/timeout", json!(1)),
        ("/checks/active/concurrency", json!(10)),
        ("/checks/active/healthy/successes", json!(2)),
        ("/checks/active/healthy/http_statuses", json!([200, 302])),
        ("/checks/active/unhealthy/tcp_failures", json!(2)),
        ("/checks/active/unhealthy/timeouts", json!(3)),
        ("/checks/active/unhealthy/http_failures", json!(5)),
    ] {
        assert_eq!(value.pointer(pointer), Some(&default), "{pointer} of {value}");
    }
    let service = answer(&gateway, "/v1/service/s");
    assert_eq!(service["has_domain"], false);
    let expected = json!([{"host": "127.0.0.1", "port": port, "weight": 3, "priority": 0}]);
    assert_eq!(service["value"]["upstream"]["nodes"], expected);
    // A change shows, with its revision.
    let before = upstream["modifiedIndex"].as_u64();
    gateway.put("upstreams/u", &json!({"nodes": {node.node(): 7}, "checks": checks()})).expect(200);
    let after = answer(&gateway, "/v1/upstream/u");
    assert!(after["modifiedIndex"].as_u64() > before);
    assert_eq!(after["createdIndex"], upstream["createdIndex"]);
    assert_eq!(
        (&after["value"]["nodes"][0]["weight"], &after["has_domain"]),
        (&json!(7), &json!(false))
    );
}

#[test]
fn health_of_every_kind_of_owner() {
    let node = TcpPeer::named("a");
    let gateway = gateway(&node);
    let is_whole = || {
        let all = answer(&gateway, "/v1/healthcheck");
        let nodes =
            all.as_array().into_iter().flatten().map(|one| one["nodes"].as_array().map(Vec::len));
        nodes.collect::<Vec<_>>() == [Some(1), Some(1), Some(2)]
    };
    wait::until_true("all checkers run", SOON, is_whole);
    let all = answer(&gateway, "/v1/healthcheck");
    let all = all.as_array().expect("an array");
    let names: Vec<_> = all.iter().map(|one| one["name"].as_str().expect("a name")).collect();
    // Routes, stream routes, services, upstreams; who has no checks of its own is not there.
    assert_eq!(names, ["/apisix/stream_routes/own", "/apisix/services/s", "/apisix/upstreams/u"]);
    for one in all {
        assert_eq!(members(one), ["name", "nodes", "type"]);
        assert_eq!(one["type"], "tcp");
        let path = one["name"].as_str().map(|name| name.replace("/apisix", "/v1/healthcheck"));
        assert_eq!(members(&answer(&gateway, &path.expect("a path"))), ["name", "nodes", "type"]);
        for checked in one["nodes"].as_array().expect("an array") {
            assert_eq!(members(checked), ["counter", "hostname", "ip", "port", "status"]);
            assert_eq!(
                members(&checked["counter"]),
                ["http_failure", "success", "tcp_failure", "timeout_failure"]
            );
            assert_eq!(
                (&checked["ip"], &checked["port"], &checked["status"]),
                (&json!("127.0.0.1"), &json!(node.addr().port()), &json!("healthy"))
            );
        }
    }
    let mut hosts: Vec<_> =
        all[2]["nodes"].as_array().into_iter().flatten().map(|node| &node["hostname"]).collect();
    hosts.sort_by_key(|host| host.to_string());
    assert_eq!(hosts, ["127.0.0.1", "localhost"]);
    let _ = gateway
        .control("/v1/healthcheck/stream_routes/r", &[])
        .refused(404, "no checker for stream_routes[r]");
    let _ =
        gateway.control("/v1/healthcheck/routes/h", &[]).refused(404, "no checker for routes[h]");
    let page =
        gateway.control("/v1/healthcheck/upstreams/u", &[("Accept", "text/html")]).expect(200);
    assert_eq!(page.header("content-type"), Some("text/html"));
    let row = format!(
        "<td>/apisix/upstreams/u</td><td>tcp</td><td>{}</td><td>healthy</td><td>0</td><td>0</td>\
         <td>0</td><td>0</td></tr>",
        node.addr()
    );
    assert!(page.body.contains(&row), "{}", page.body);
    assert!(page.body.contains("<title>APISIX upstream check status</title>"));
}

#[test]
fn schemas_metadata_and_the_rest() {
    let node = TcpPeer::named("a");
    let gateway = gateway(&node);
    let schema = answer(&gateway, "/v1/schema");
    assert_eq!(members(&schema), ["main", "plugins", "stream_plugins"]);
    assert_eq!(
        members(&schema["main"]),
        [
            "consumer",
            "consumer_group",
            "global_rule",
            "graphql_cost_decoration",
            "plugin_config",
            "plugins",
            "proto",
            "route",
            "service",
            "ssl",
            "stream_route",
            "upstream",
            "upstream_hash_header_schema",
            "upstream_hash_vars_schema",
        ]
    );
    let plugins = schema["stream_plugins"].as_object().expect("an object");
    for name in ["ip-restriction", "limit-conn", "mqtt-proxy", "syslog", "traffic-split"] {
        let plugin = plugins.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let known = [
            "consumer_schema",
            "metadata_schema",
            "priority",
            "schema",
            "scope",
            "type",
            "version",
        ];
        assert!(members(plugin).iter().all(|member| known.contains(member)), "{name}: {plugin}");
        assert!(plugin["schema"]["properties"]["_meta"].is_object(), "{name}");
        assert!(plugin["priority"].is_i64() && plugin["version"].is_number(), "{name}");
    }
    assert!(plugins["syslog"]["metadata_schema"].is_object());
    assert!(schema["plugins"]["key-auth"]["schema"].is_object());

    let metadata = json!({"id": "syslog", "log_format": {"host": "$host"}});
    assert_eq!(answer(&gateway, "/v1/plugin_metadatas"), json!([metadata]));
    assert_eq!(answer(&gateway, "/v1/plugin_metadata/syslog"), metadata);
    not_found(gateway.control("/v1/plugin_metadata/nope", &[]), "plugin metadata[nope] not found");
    for path in ["/v1", "/v1/nope", "/v1/upstream", "/v1/gc", "/v1/plugins/reload", "/"] {
        let response = gateway.control(path, &[]).expect(404);
        assert_eq!(response.header("content-type"), Some("text/html"), "{path}");
    }
}
