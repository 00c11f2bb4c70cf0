//! One row for each semantic check: what is written, and the message of the reference.

use serde_json::{Value, json};

use super::*;

const CERT: &str = include_str!("testdata/cert.pem");
const KEY: &str = include_str!("testdata/key.pem");

static LIMIT: PluginMeta = PluginMeta {
    name: "limit-conn",
    priority: 1003,
    version: "0.1",
    default_enabled: true,
    phases: crate::plugin::Phases::Both,
    executed: false,
    schema: r#"{"type":"object","properties":{"conn":{"type":"integer"}},"required":["conn"]}"#,
    metadata_schema: Some(r#"{"type":"object","properties":{"a":{"type":"string"}}}"#),
    check: Some(|conf| match conf["conn"].as_i64() {
        Some(13) => Err("unlucky".to_owned()),
        _ => Ok(()),
    }),
    good: &[],
    bad: &[],
};

fn checker() -> Checker {
    let http = vec!["key-auth".to_owned(), "limit-conn".to_owned()];
    Checker::new(PluginCatalog { stream: vec![&LIMIT], http })
        .with_decrypt(Box::new(|text| (text == "c".repeat(64)).then(|| KEY.to_owned())))
}

/// What is stored while a write is checked.
fn stored(kind: Kind, id: &str) -> Option<Value> {
    match (kind, id) {
        (Kind::Upstream | Kind::Service | Kind::PluginConfig | Kind::ConsumerGroup, "1") => {
            Some(json!({}))
        }
        (Kind::Ssl, "client") => Some(json!({"type": "client"})),
        (Kind::Ssl, "server") => Some(json!({})),
        (Kind::StreamRoute, "redis") => Some(json!({"protocol": {"name": "redis"}})),
        (Kind::StreamRoute, "plain") => Some(json!({})),
        _ => None,
    }
}

fn check(kind: Kind, value: Value) -> Result<(), String> {
    let id = if kind == Kind::Secret { "vault/1" } else { "own" };
    checker().check(kind, id, &value, &stored)
}

fn refused(kind: Kind, rows: &[(Value, &str)]) {
    for (value, message) in rows {
        assert_eq!(check(kind, value.clone()), Err((*message).to_owned()), "{value}");
    }
}

fn accepted(kind: Kind, rows: &[Value]) {
    for value in rows {
        assert_eq!(check(kind, value.clone()), Ok(()), "{value}");
        assert_eq!(checker().load(kind, "vault/1", value), Ok(()), "{value}");
    }
}

#[test]
fn stream_routes_that_are_refused() {
    let long = "a".repeat(65);
    refused(
        Kind::StreamRoute,
        &[
            (json!(1), "invalid configuration: wrong type: expected object, got number"),
            (
                json!({"priority": 1}),
                "invalid configuration: additional properties forbidden, found priority",
            ),
            (
                json!({"server_port": 70000}),
                r#"invalid configuration: property "server_port" validation failed: expected 70000 to be at most 65535"#,
            ),
            (
                json!({"remote_addr": "localhost"}),
                r#"invalid configuration: property "remote_addr" validation failed: object matches none of the required"#,
            ),
            (
                json!({"sni": "a_b/c"}),
                r#"invalid configuration: property "sni" validation failed: failed to match pattern "^\*$|^\*?[0-9a-zA-Z-._\[\]:]+$" with "a_b/c""#,
            ),
            (
                json!({"upstream_id": long}),
                r#"invalid configuration: property "upstream_id" validation failed: object matches none of the required"#,
            ),
            (
                json!({"upstream": {"type": "roundrobin"}}),
                r#"invalid configuration: property "upstream" validation failed: value should match only one schema, but matches none"#,
            ),
            (
                json!({"upstream": {"nodes": {}, "service_name": "a", "discovery_type": "dns"}}),
                r#"invalid configuration: property "upstream" validation failed: value should match only one schema, but matches both schemas 1 and 2"#,
            ),
            (
                json!({"upstream": {"nodes": {}, "checks": {"passive": {}}}}),
                r#"invalid configuration: property "upstream" validation failed: property "checks" validation failed: object matches none of the required: ["active"] or ["active","passive"]"#,
            ),
            (
                json!({"upstream": {"nodes": {}, "tls": {"client_cert": "a".repeat(128)}}}),
                r#"invalid configuration: property "upstream" validation failed: property "tls" validation failed: failed to validate dependent schema for "client_cert": property "client_key" is required"#,
            ),
            (
                json!({"protocol": {"name": "redis", "logger": [{"name": "syslog"}]}}),
                r#"invalid configuration: property "protocol" validation failed: property "logger" validation failed: failed to validate item 1: property "conf" is required when "name" is set"#,
            ),
            (
                json!({"labels": {"a": "b c"}}),
                r#"invalid configuration: property "labels" validation failed: failed to validate a (matching ".*"): failed to match pattern "^\S+$" with "b c""#,
            ),
            (
                json!({"upstream_id": "x"}),
                "failed to fetch upstream info by upstream id [x], response code: 404",
            ),
            (
                json!({"upstream_id": 7}),
                "failed to fetch upstream info by upstream id [7], response code: 404",
            ),
            (
                json!({"service_id": "x"}),
                "failed to fetch service info by service id [x], response code: 404",
            ),
            (
                json!({"protocol": {"name": "redis", "superior_id": "own"}}),
                "stream route can not set itself as superior_id",
            ),
            (
                json!({"protocol": {"name": "redis", "superior_id": "x"}}),
                "failed to fetch stream routes[x], response code: 404",
            ),
            (
                json!({"protocol": {"name": "dubbo", "superior_id": "redis"}}),
                "protocol mismatch: subordinate protocol [dubbo] does not match superior protocol [redis]",
            ),
            (
                json!({"protocol": {"name": "dubbo", "superior_id": "plain"}}),
                "protocol mismatch: subordinate protocol [dubbo] does not match superior protocol [nil]",
            ),
            (json!({"plugins": {"nope": {}}}), "unknown plugin [nope]"),
            (json!({"plugins": {"key-auth": {}}}), "unknown plugin [key-auth]"),
            (
                json!({"plugins": {"limit-conn": "a/b"}}),
                r#"invalid plugin conf "a\/b" for plugin [limit-conn]"#,
            ),
            (
                json!({"plugins": {"limit-conn": {}}}),
                r#"failed to check the configuration of stream plugin [limit-conn]: property "conn" is required"#,
            ),
            (
                json!({"plugins": {"limit-conn": {"conn": 13}}}),
                "failed to check the configuration of stream plugin [limit-conn]: unlucky",
            ),
            (json!({"remote_addr": "::/129"}), "invalid remote_addr: ::/129"),
            (json!({"server_addr": "::/129"}), "invalid server_addr: ::/129"),
            (json!({"protocol": {"name": "http"}}), "unknown protocol [http]"),
            (
                json!({"protocol": {"name": "redis", "conf": {"faults": "a"}}}),
                r#"property "faults" validation failed: wrong type: expected array, got string"#,
            ),
        ],
    );
}

#[test]
fn stream_routes_are_checked_in_order() {
    let mut value = json!({
        "upstream_id": "x", "service_id": "x", "plugins": {"nope": {}}, "remote_addr": "::/129",
        "server_addr": "::/129", "protocol": {"name": "http", "superior_id": "x"},
    });
    let steps = [
        ("upstream_id", "failed to fetch upstream"),
        ("service_id", "failed to fetch service"),
        ("protocol", "failed to fetch stream routes"),
        ("plugins", "unknown plugin"),
        ("remote_addr", "invalid remote_addr"),
        ("server_addr", "invalid server_addr"),
    ];
    for (member, expected) in steps {
        let message = check(Kind::StreamRoute, value.clone()).unwrap_err();
        assert!(message.starts_with(expected), "{message}");
        match member {
            "protocol" => value["protocol"] = json!({"name": "http"}),
            _ => drop(value.as_object_mut().unwrap().remove(member)),
        }
    }
    assert_eq!(check(Kind::StreamRoute, value), Err("unknown protocol [http]".to_owned()));
}

#[test]
fn stream_routes_that_are_accepted() {
    accepted(
        Kind::StreamRoute,
        &[
            json!({}),
            json!({"id": 1, "name": "a", "server_port": 9100, "upstream_id": "1", "service_id": 1}),
            json!({"remote_addr": "10.0.0.0/8", "server_addr": "::1", "sni": "*.example.com"}),
            json!({"plugins": []}),
            json!({"plugins": {"limit-conn": {"conn": 1, "other": true}}}),
            json!({"plugins": {"limit-conn": {"_meta": {"disable": true}}}}),
            json!({"protocol": {"name": "redis", "superior_id": "redis", "conf": {}}}),
            // The schema is all that looks at the upstream inside a stream route.
            json!({"upstream": {"type": "chash", "nodes": [{"host": "::1", "port": 1, "weight": 1}]}}),
            json!({"upstream": {"nodes": {"a:99999": 1}, "tls": {"client_cert_id": "x"}}}),
            json!({"upstream": {
                "nodes": {},
                "tls": {"client_cert": "a".repeat(128), "client_key": "a".repeat(64)},
            }}),
        ],
    );
}

#[test]
fn upstreams_that_are_refused() {
    let tls = |cert: &str, key: &str| json!({"nodes": {}, "tls": {"client_cert": cert, "client_key": key}});
    let chash = |hash_on: &str, key: &str| json!({"nodes": {}, "type": "chash", "hash_on": hash_on, "key": key});
    let no_pem = "a".repeat(128);
    refused(
        Kind::Upstream,
        &[
            (
                json!({"nodes": [{"host": "::1", "weight": "a"}]}),
                "invalid configuration: IPv6 address must be enclosed with '[' and ']'",
            ),
            (
                json!({"nodes": [{"host": "a"}]}),
                r#"invalid configuration: property "nodes" validation failed: object matches none of the required"#,
            ),
            (
                json!({"nodes": {}, "status": 1}),
                "invalid configuration: additional properties forbidden, found status",
            ),
            (json!({"nodes": {"a:0": 1}}), "invalid port 0"),
            (json!({"nodes": {"[::1]:65536": 1}}), "invalid port 65536"),
            (
                json!({"nodes": {}, "tls": {"client_cert_id": "x"}}),
                "failed to fetch ssl info by ssl id [x], response code: 404",
            ),
            (
                json!({"nodes": {}, "tls": {"client_cert_id": "server"}}),
                "failed to fetch ssl info by ssl id [server], wrong ssl type",
            ),
            (
                json!({"nodes": {}, "pass_host": "rewrite"}),
                "`upstream_host` can't be empty when `pass_host` is `rewrite`",
            ),
            (tls(&no_pem, KEY), "failed to parse cert: PEM_read_bio_X509_AUX() failed"),
            (
                tls(CERT, &format!("-----BEGIN PRIVATE KEY-----\n{}", "a".repeat(64))),
                "failed to parse key: PEM_read_bio_PrivateKey() failed",
            ),
            (tls(CERT, &no_pem), "failed to decrypt previous encrypted key"),
            (json!({"nodes": {}, "type": "chash"}), "missing key"),
            (json!({"nodes": {}, "type": "chash", "hash_on": "header"}), "missing key"),
            (
                chash("vars", "sent_http_a"),
                r#"invalid configuration: failed to match pattern "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host|hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$" with "sent_http_a""#,
            ),
            (
                chash("header", "a b"),
                r#"invalid configuration: failed to match pattern "^[a-zA-Z0-9-_]+$" with "a b""#,
            ),
            (
                chash("cookie", "a b"),
                r#"invalid configuration: failed to match pattern "^[a-zA-Z0-9-_]+$" with "a b""#,
            ),
        ],
    );
}

#[test]
fn upstreams_that_are_accepted() {
    accepted(
        Kind::Upstream,
        &[
            json!({"nodes": {}}),
            json!({"nodes": []}),
            json!({"nodes": {"a": 1, "a:80": 0, "[::1]:1": 1, "::1": 1, "a:x": 1}}),
            json!({"nodes": [{"host": "[::1]", "port": 1, "weight": 1, "priority": -1, "x": 1}]}),
            json!({"service_name": "a", "discovery_type": "dns"}),
            json!({"nodes": {}, "tls": {"client_cert_id": "client"}}),
            json!({"nodes": {}, "tls": {"client_cert": CERT, "client_key": KEY}}),
            json!({"nodes": {}, "tls": {"client_cert": CERT, "client_key": "c".repeat(64)}}),
            json!({"nodes": {}, "type": "chash", "key": "remote_addr"}),
            json!({"nodes": {}, "type": "chash", "key": "arg_a"}),
            json!({"nodes": {}, "type": "chash", "hash_on": "consumer"}),
            json!({"nodes": {}, "type": "chash", "hash_on": "vars_combinations", "key": "$a$b"}),
            json!({"nodes": {}, "type": "anything", "retries": 0, "retry_timeout": 0}),
            json!({"nodes": {}, "timeout": {"connect": 0.5, "send": 1, "read": 1}}),
        ],
    );
}

#[test]
fn stored_upstreams_get_fewer_checks() {
    let checker = checker();
    for value in [
        json!({"nodes": [{"host": "::1", "weight": 1}]}),
        json!({"nodes": {"a:0": 1}}),
        json!({"nodes": {}, "tls": {"client_cert_id": "x"}}),
    ] {
        assert_eq!(checker.load(Kind::Upstream, "1", &value), Ok(()), "{value}");
    }
    let value = json!({"nodes": {}, "type": "chash"});
    assert_eq!(checker.load(Kind::Upstream, "1", &value), Err("missing key".to_owned()));
}

#[test]
fn services() {
    refused(
        Kind::Service,
        &[
            (
                json!({"status": 1}),
                "invalid configuration: additional properties forbidden, found status",
            ),
            (
                json!({"hosts": ["a", "a"]}),
                r#"invalid configuration: property "hosts" validation failed: expected unique items but items 1 and 2 are equal"#,
            ),
            (json!({"upstream": {"nodes": {}, "type": "chash"}}), "missing key"),
            (
                json!({"upstream_id": "x"}),
                "failed to fetch upstream info by upstream id [x], response code: 404",
            ),
            (json!({"plugins": {"nope": {}}}), "unknown plugin [nope]"),
            (
                json!({"plugins": {"limit-conn": {}}}),
                r#"failed to check the configuration of plugin limit-conn err: property "conn" is required"#,
            ),
        ],
    );
    accepted(
        Kind::Service,
        &[
            json!({}),
            json!({"upstream_id": "1", "plugins": {"key-auth": {"x": 1}, "limit-conn": {"conn": 1}}}),
            json!({"upstream": {"nodes": {}}, "hosts": ["a"], "enable_websocket": true}),
        ],
    );
}

#[test]
fn certificates_that_are_refused() {
    let server = |more: Value| {
        let mut value = json!({"sni": "a.org", "cert": CERT, "key": KEY});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    };
    let (no_cert, no_key) = ("a".repeat(128), format!("---{}", "a".repeat(64)));
    refused(
        Kind::Ssl,
        &[
            (json!({"cert": CERT, "key": KEY}), "invalid configuration: then clause did not match"),
            (
                json!({"sni": "a", "snis": ["a"], "cert": CERT, "key": KEY}),
                "invalid configuration: then clause did not match",
            ),
            (
                json!({"type": "client", "cert": CERT}),
                "invalid configuration: else clause did not match",
            ),
            (
                json!({"name": "a"}),
                "invalid configuration: additional properties forbidden, found name",
            ),
            (
                json!({"sni": "a", "cert": "a", "key": KEY}),
                r#"invalid configuration: property "cert" validation failed: string too short, expected at least 128, got 1"#,
            ),
            (
                server(json!({"status": 2})),
                r#"invalid configuration: property "status" validation failed: matches none of the enum values"#,
            ),
            (
                server(json!({"ssl_protocols": ["TLSv1.2", "SSLv3"]})),
                r#"invalid configuration: property "ssl_protocols" validation failed: failed to validate item 2: matches none of the enum values"#,
            ),
            (
                server(json!({"cert": no_cert})),
                "failed to parse cert: PEM_read_bio_X509_AUX() failed",
            ),
            (
                server(
                    json!({"cert": format!("{CERT}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}),
                ),
                "failed to parse cert: PEM_read_bio_X509() failed",
            ),
            (
                server(json!({"key": no_key})),
                "failed to parse key: PEM_read_bio_PrivateKey() failed",
            ),
            (server(json!({"key": "x".repeat(64)})), "failed to decrypt previous encrypted key"),
            (server(json!({"certs": [CERT]})), "mismatched number of certs and keys"),
            (
                server(json!({"certs": [CERT, no_cert], "keys": [KEY, KEY]})),
                "failed to handle cert-key pair[2]: failed to parse cert: PEM_read_bio_X509_AUX() failed",
            ),
            (
                server(json!({"client": {"ca": no_cert}})),
                "failed to validate client_cert: failed to parse cert: PEM_read_bio_X509_AUX() failed",
            ),
        ],
    );
}

#[test]
fn certificates_that_are_accepted() {
    accepted(
        Kind::Ssl,
        &[
            json!({"sni": "a.org", "cert": CERT, "key": KEY}),
            json!({"sni": "a.org", "cert": format!("{CERT}{CERT}"), "key": "c".repeat(64)}),
            json!({"snis": ["*", "a.org"], "cert": CERT, "key": include_str!("testdata/sec1.pem")}),
            json!({"sni": "*", "cert": CERT, "key": include_str!("testdata/rsa.pem"), "status": 0}),
            json!({"sni": "a", "cert": "$secret://vault/1/cert", "key": "no key at all"}),
            json!({"sni": "a", "cert": "no cert at all", "key": "$env://KEY"}),
            json!({"type": "client", "cert": CERT, "key": KEY, "certs": [CERT]}),
            json!({"sni": "a", "cert": CERT, "key": KEY, "client": {"ca": CERT, "depth": 2}}),
            json!({"sni": "a", "cert": CERT, "key": KEY, "certs": [CERT], "keys": [KEY]}),
        ]
        .map(pad),
    );
}

/// Texts that only have to be long enough get their length.
fn pad(mut value: Value) -> Value {
    for (name, length) in [("cert", 128), ("key", 64)] {
        if let Some(text) = value[name].as_str().filter(|text| text.starts_with("no ")) {
            value[name] = json!(format!("{text:-<length$}"));
        }
    }
    value
}

#[test]
fn without_a_keyring_nothing_is_decrypted() {
    let value = json!({"sni": "a", "cert": CERT, "key": "c".repeat(64)});
    let checker = Checker::new(PluginCatalog::default());
    let result = checker.check(Kind::Ssl, "1", &value, &stored);
    assert_eq!(result, Err("failed to decrypt previous encrypted key".to_owned()));
}

#[test]
fn secrets() {
    let good = json!({"uri": "http://127.0.0.1:8200", "prefix": "kv/apisix", "token": "$env://T"});
    accepted(Kind::Secret, std::slice::from_ref(&good));
    let (checker, bad) = (checker(), json!({"uri": "127.0.0.1"}));
    assert_eq!(
        checker.check(Kind::Secret, "consul/1", &good, &stored),
        Err("invalid secret manager: consul".to_owned())
    );
    let message = checker.check(Kind::Secret, "vault/1", &bad, &stored).unwrap_err();
    assert!(
        message.starts_with(r#"invalid configuration: property "uri" validation failed: failed"#)
    );
    let gcp = json!({"auth_file": "/f", "auth_config": {}});
    assert!(checker.check(Kind::Secret, "gcp/1", &gcp, &stored).is_err());
    assert_eq!(checker.load(Kind::Secret, "vault", &good), Err("no secret id".to_owned()));
    assert_eq!(
        checker.load(Kind::Secret, "x/1", &good),
        Err("secret manager not exits, manager: x".to_owned())
    );
    assert!(checker.schema(Kind::Secret, &json!({"id": "vault/1"})).is_err());
    assert!(checker.schema(Kind::Secret, &json!({})).is_ok());
}

#[test]
fn plugin_metadata() {
    let checker = checker();
    let check = |name: &str, value| checker.check(Kind::PluginMetadata, name, &value, &stored);
    assert_eq!(check("nope", json!({})), Err("invalid plugin name".to_owned()));
    assert_eq!(check("mqtt-proxy", json!({"a": 1})), Ok(()));
    assert_eq!(check("syslog", json!({"log_format": {"a": "$b"}, "id": "syslog"})), Ok(()));
    assert_eq!(
        check("syslog", json!({"max_pending_entries": 0})),
        Err("invalid configuration: property \"max_pending_entries\" validation failed: \
             expected 0 to be at least 1"
            .to_owned())
    );
    assert_eq!(
        check("limit-conn", json!({"a": 1})),
        Err("invalid configuration: property \"a\" validation failed: \
             wrong type: expected string, got number"
            .to_owned())
    );
    assert_eq!(checker.load(Kind::PluginMetadata, "nope", &json!({})), Ok(()));
}

#[test]
fn kinds_of_the_http_plane() {
    refused(
        Kind::GlobalRule,
        &[
            (json!({"id": "1"}), r#"invalid configuration: property "plugins" is required"#),
            (json!({"id": "1", "plugins": {"nope": {}}}), "unknown plugin [nope]"),
        ],
    );
    refused(
        Kind::Route,
        &[
            (
                json!({"uri": "/a", "uris": ["/a"]}),
                "invalid configuration: allOf 1 failed: value should match only one schema, but matches both schemas 1 and 2",
            ),
            (
                json!({"uri": "/a", "plugin_config_id": "x"}),
                "failed to fetch plugin config info by plugin config id [x], response code: 404",
            ),
        ],
    );
    refused(
        Kind::Consumer,
        &[(json!({}), r#"invalid configuration: property "username" is required"#)],
    );
    accepted(Kind::GlobalRule, &[json!({"id": "1", "plugins": {"key-auth": {}}})]);
    accepted(
        Kind::Route,
        &[json!({"uri": "/a", "upstream_id": "1", "methods": ["GET"], "remote_addrs": ["::1"]})],
    );
    accepted(Kind::Consumer, &[json!({"username": "jack", "plugins": {"key-auth": {"key": "k"}}})]);
    accepted(Kind::Credential, &[json!({"id": "jack/credentials/1", "plugins": {"key-auth": {}}})]);
    accepted(Kind::Proto, &[json!({"content": "syntax = \"proto3\";"})]);
    accepted(Kind::PluginConfig, &[json!({"id": "1", "plugins": {}})]);
    accepted(Kind::ConsumerGroup, &[json!({"id": "1", "plugins": {}})]);
}

#[test]
fn unknown_plugins_do_not_keep_a_stored_object_from_loading() {
    let checker = checker();
    let value = json!({"plugins": {"nope": {}}});
    for kind in [Kind::StreamRoute, Kind::Service] {
        assert_eq!(checker.load(kind, "1", &value), Ok(()));
        assert!(checker.load(kind, "1", &json!({"plugins": {"limit-conn": {}}})).is_err());
    }
}

#[test]
fn protocols_come_from_the_configuration() {
    let checker = checker().with_protocols(vec!["dubbo".to_owned()]);
    let load =
        |name: &str| checker.load(Kind::StreamRoute, "1", &json!({"protocol": {"name": name}}));
    assert_eq!(load("dubbo"), Ok(()));
    assert_eq!(load("redis"), Err("unknown protocol [redis]".to_owned()));
}

#[test]
fn a_plugin_with_a_broken_schema_refuses_everything() {
    static BROKEN: [PluginMeta; 2] =
        [broken("not-json", "{"), broken("no-target", r#"{"$ref":"x"}"#)];
    const fn broken(name: &'static str, schema: &'static str) -> PluginMeta {
        PluginMeta {
            name,
            priority: 0,
            version: "0.1",
            default_enabled: false,
            phases: crate::plugin::Phases::Both,
            executed: false,
            schema,
            metadata_schema: None,
            check: None,
            good: &[],
            bad: &[],
        }
    }
    for meta in &BROKEN {
        let checker = Checker::new(PluginCatalog { stream: vec![meta], http: Vec::new() });
        let route = json!({"plugins": {meta.name: {}}});
        assert!(checker.load(Kind::StreamRoute, "1", &route).is_err(), "{}", meta.name);
    }
}
