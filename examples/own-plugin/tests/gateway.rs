//! The gateway of the example, as a user would run it.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use headgate_testkit::client::{self, Seen};
use headgate_testkit::{Gateway, SOON, TcpPeer};
use serde_json::json;

/// Built together with this test.
fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    let target = own.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    target.join("examples/gateway")
}

#[test]
fn the_plugin_is_listed() {
    let done = Command::new(binary()).arg("plugins").output().expect("running it");
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(text.lines().any(|line| line.starts_with("starts-with ")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("ip-restriction ")), "{text}");
}

#[test]
fn the_plugin_decides() {
    let gateway = Gateway::builder(binary())
        .tcp(1)
        .top("stream_plugins: [starts-with, ip-restriction]")
        .access_format("$status $close_reason")
        .log_level("info")
        .start();
    let node = TcpPeer::echo();
    let plugins = json!({"starts-with": {"any_of": ["SSH-2.0-", "SSH-1.99-"]}});
    let body = json!({"plugins": plugins, "upstream": {"nodes": {node.node(): 1}}});
    gateway.put("stream_routes/1", &body).ok();

    let mut stream = client::connect(gateway.tcp(0));
    stream.write_all(b"SSH").expect("sending");
    assert_eq!(client::echo(&mut stream, b"-2.0-OpenSSH").len(), 12, "what was peeked at arrives");
    for number in ["refused=1", "refused=2"] {
        let mut stream = client::connect(gateway.tcp(0));
        stream.write_all(b"SSH-3").expect("sending");
        assert_eq!(client::read_to_end(&mut stream), Seen::Closed);
        gateway.wait_access(&["403 RJ"]);
        gateway.wait_for_log(number, SOON);
        // The plugin is built anew, and goes on counting.
        gateway.put("stream_routes/1", &body).ok();
    }
    let refused = json!({"plugins": {"starts-with": {"any_of": []}}});
    let intro = "failed to check the configuration of stream plugin [starts-with]: ";
    let message = gateway.put("stream_routes/1", &refused).expect(400).error_msg();
    assert!(message.starts_with(intro), "{message}");
}
