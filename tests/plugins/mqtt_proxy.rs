//! mqtt-proxy (MQ), with mosquitto and its clients.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use headgate_testkit::client::{self, Seen};
use headgate_testkit::{Gateway, Mosquitto, SOON, TcpPeer};
use serde_json::{Value, json};

use crate::{gateway, route, to};

fn level(level: u8) -> Value {
    json!({"mqtt-proxy": {"protocol_name": "MQTT", "protocol_level": level}})
}

/// A CONNECT of MQTT 3.1.1.
fn connect_packet(id: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x04\x02\x00\x3c".to_vec();
    body.extend((id.len() as u16).to_be_bytes());
    body.extend(id.as_bytes());
    let mut packet = vec![16];
    let mut left = body.len();
    loop {
        let byte = (left & 0x7f) as u8;
        left >>= 7;
        packet.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// Sends bytes and reads until the gateway closes; nothing must come.
#[track_caller]
fn refused(gateway: &Gateway, bytes: &[u8]) {
    let mut stream = client::connect(gateway.tcp(0));
    stream.write_all(bytes).expect("sending");
    assert_eq!(client::read_to_end(&mut stream), Seen::Closed);
}

#[test]
fn mq_01_a_connect_passes_unchanged() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, level(4));
    let mut stream = client::connect(gateway.tcp(0));
    let mut sent = connect_packet("dev-1");
    sent.extend(b"\xc0\x00and more");
    assert_eq!(client::echo(&mut stream, &sent), sent);
    gateway.wait_for_log("mqtt client id: dev-1", SOON);
}

#[test]
fn mq_02_something_else_is_closed() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, level(4));
    refused(&gateway, b"mmm");
    gateway.wait_for_log(
        "failed to parse the msg header: Received unexpected MQTT packet type+flags: 109",
        SOON,
    );
    gateway.wait_for_log("mqtt-proxy exits with status code 503", SOON);
    gateway.wait_access(&["127.0.0.1 503 RJ"]);
    assert_eq!(node.accepted(), 0);
}

#[test]
fn mq_03_name_and_level_must_be_those_of_the_route() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, level(5));
    refused(&gateway, &connect_packet("a"));
    gateway.wait_for_log("expect protocol level: 5, but got 4", SOON);
    route(&gateway, &node, json!({"mqtt-proxy": {"protocol_name": "MQIsdp", "protocol_level": 4}}));
    refused(&gateway, &connect_packet("a"));
    gateway.wait_for_log("expect protocol name: MQIsdp, but got MQTT", SOON);
}

#[test]
fn mq_04_level_5_with_and_without_properties() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, level(5));
    for (packet, id) in [
        (b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03one".as_slice(), "one"),
        (b"\x10\x15\x00\x04MQTT\x05\x02\x00\x3c\x05\x11\x00\x00\x00\x0a\x00\x03two", "two"),
    ] {
        let mut stream = client::connect(gateway.tcp(0));
        assert_eq!(client::echo(&mut stream, packet), packet);
        gateway.wait_for_log(&format!("mqtt client id: {id}"), SOON);
    }
}

#[test]
fn mq_06_without_an_id_the_address_is_hashed() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    let upstream = json!({"type": "chash", "key": "mqtt_client_id", "nodes": {node.node(): 1}});
    let body = json!({"upstream": upstream, "plugins": level(4)});
    gateway.put("stream_routes/1", &body).ok();
    let mut stream = client::connect(gateway.tcp(0));
    let packet = connect_packet("");
    assert_eq!(client::echo(&mut stream, &packet), packet);
    gateway
        .wait_for_log("chash_key fetch is nil, use default chash_key remote_addr: 127.0.0.1", SOON);
}

#[test]
fn mq_09_a_connect_may_come_byte_by_byte() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, level(4));
    let mut stream = client::connect(gateway.tcp(0));
    let packet = connect_packet("slow-one");
    for byte in &packet {
        stream.write_all(&[*byte]).expect("sending");
    }
    let mut answer = vec![0; packet.len()];
    stream.read_exact(&mut answer).expect("the echo");
    assert_eq!(answer, packet);
}

#[test]
fn who_leaves_in_the_middle_ends_quietly() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, level(4));
    let mut stream = client::connect(gateway.tcp(0));
    stream.write_all(&connect_packet("dev")[..9]).expect("sending");
    stream.shutdown(Shutdown::Write).expect("finishing");
    assert_eq!(client::read_to_end(&mut stream), Seen::Closed);
    gateway.wait_access(&["127.0.0.1 200 PT"]);
    let mut stream = client::connect(gateway.tcp(0));
    stream.write_all(b"\x10").expect("sending");
    client::reset(stream);
    gateway.wait_access(&["127.0.0.1 200 CR"]);
    assert_eq!(node.accepted(), 0);
}

#[test]
fn a_connect_beyond_16_kib_is_refused() {
    let (gateway, node) = (gateway(), TcpPeer::echo());
    route(&gateway, &node, level(4));
    let long = "x".repeat(16 * 1024 - 15);
    assert_eq!(connect_packet(&long).len(), 16 * 1024);
    let mut stream = client::connect(gateway.tcp(0));
    assert_eq!(client::echo(&mut stream, &connect_packet(&long)).len(), 16 * 1024);
    let longer = connect_packet(&(long + "x"));
    let mut stream = client::connect(gateway.tcp(0));
    let _ = stream.write_all(&longer); // may be cut short
    gateway.wait_for_log("failed to read the Connect Command: preread buffer full", SOON);
    gateway.wait_access(&["127.0.0.1 400 RJ"]);
}

#[test]
fn an_id_decides_in_traffic_split() {
    let (gateway, own, other) = (gateway(), TcpPeer::echo(), TcpPeer::echo());
    let rules = json!([{
        "match": [{"vars": [["mqtt_client_id", "~~", "^canary-"]]}],
        "weighted_upstreams": [{"upstream": to(&other)}],
    }]);
    let mut plugins = level(4);
    plugins["traffic-split"] = json!({"rules": rules});
    route(&gateway, &own, plugins);
    for id in ["canary-1", "dev-1", "canary-2"] {
        let mut stream = client::connect(gateway.tcp(0));
        let _ = client::echo(&mut stream, &connect_packet(id));
    }
    assert_eq!((own.accepted(), other.accepted()), (1, 2));
}

#[test]
fn mosquitto_publishes_through_the_gateway_in_every_version() {
    let Some(broker) = Mosquitto::start() else { return };
    let gateway = gateway();
    for (version, name, level) in
        [("mqttv31", "MQIsdp", 3), ("mqttv311", "MQTT", 4), ("mqttv5", "MQTT", 5)]
    {
        let plugins = json!({"mqtt-proxy": {"protocol_name": name, "protocol_level": level}});
        let upstream = json!({"nodes": {broker.addr().to_string(): 1}});
        gateway.put("stream_routes/1", &json!({"upstream": upstream, "plugins": plugins})).ok();
        let topic = format!("t/{version}");
        let publish = ["-V", version, "-i", version, "-t", &topic, "-m", "hello", "-r", "-q", "1"];
        let _ = broker.publish(gateway.tcp(0), &publish).success();
        let read = broker.subscribe(gateway.tcp(0), &["-V", version, "-t", &topic, "-C", "1"]);
        assert_eq!(read.success().output().trim(), "hello");
        gateway.wait_for_log(&format!("mqtt client id: {version}"), SOON);
    }
}

#[test]
fn mq_05_a_client_id_always_goes_to_the_same_broker() {
    let (Some(one), Some(two)) = (Mosquitto::start(), Mosquitto::start()) else { return };
    let gateway = gateway();
    let nodes = json!({one.addr().to_string(): 1, two.addr().to_string(): 1});
    let upstream = json!({"type": "chash", "key": "mqtt_client_id", "nodes": nodes});
    gateway.put("stream_routes/1", &json!({"upstream": upstream, "plugins": level(4)})).ok();
    let ids: Vec<String> = (0..8).map(|number| format!("meter-{number}")).collect();
    for _ in 0..2 {
        for id in &ids {
            let _ = one.publish(gateway.tcp(0), &["-i", id, "-t", "t", "-m", "m"]).success();
        }
    }
    for id in &ids {
        let counts = [one.connects_of(id), two.connects_of(id)];
        assert!(counts == [2, 0] || counts == [0, 2], "{id}: {counts:?}");
    }
    for broker in [&one, &two] {
        assert!(ids.iter().any(|id| broker.connects_of(id) > 0), "both brokers are used");
    }
}
