//! geo-restriction with databases made here.

use headgate_testkit::client::{reach, reach_from};
use headgate_testkit::{Gateway, SOON, TcpPeer, geo, wait};
use serde_json::json;

use crate::{BIN, ip, route, to};

#[test]
fn clients_are_placed_and_the_file_is_followed() {
    let node = TcpPeer::named("a");
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .access_format("$remote_addr $status $close_reason")
        .top("stream_plugins: [geo-restriction]")
        .start();
    let file = gateway.folder().join("places.mmdb");
    let write = |bytes: &[u8]| {
        let new = gateway.folder().join("places.new");
        std::fs::write(&new, bytes).expect("a file");
        std::fs::rename(&new, &file).expect("renaming");
    };
    let passes = |from: &str| reach_from(ip(from), gateway.tcp(0)).is_some();
    let conf = json!({"database": file, "countries": ["de"], "asns": [64_496]});
    let body = json!({"upstream": to(&node), "plugins": {"geo-restriction": conf}});
    gateway.put("stream_routes/1", &body).ok();
    assert_eq!(reach(gateway.tcp(0)), None, "without its database the route does not serve");
    gateway.wait_access(&["127.0.0.1 503 PN"]);
    gateway.wait_for_log("places.mmdb: No such file", SOON);

    let country = |code: &str| json!({"country": {"iso_code": code}});
    write(&geo::database(&[
        ("127.0.0.0/30", country("DE")),
        ("127.0.0.8/32", country("FR")),
        ("127.0.0.9/32", json!({"autonomous_system_number": 64_496})),
    ]));
    gateway.put("stream_routes/1", &body).ok();
    let answers = || ["127.0.0.1", "127.0.0.8", "127.0.0.9", "127.0.0.77"].map(passes);
    assert_eq!(answers(), [false, true, false, true]);
    gateway.wait_access(&["127.0.0.1 403 RJ"]);

    // Half a file changes nothing; a whole one does, without a write to the route.
    write(b"half");
    gateway.wait_for_log("not a MaxMind database", SOON);
    assert_eq!(answers(), [false, true, false, true]);
    write(&geo::database(&[("127.0.0.8/32", country("DE"))]));
    wait::until_true("the new database", SOON, || answers() == [true, false, true, true]);

    // Only those who are placed there; and then also those who are not placed at all.
    let mut conf = json!({"database": file, "countries": ["DE"], "action": "allow"});
    route(&gateway, &node, json!({"geo-restriction": conf}));
    assert_eq!(answers(), [false, true, false, false]);
    conf["unknown"] = json!("allow");
    conf["countries"] = json!(["FR"]);
    route(&gateway, &node, json!({"geo-restriction": conf}));
    assert_eq!(answers(), [true, false, true, true]);
}

/// A database that comes later than its route is found without a write and without a restart; half of
/// one is not taken.
#[test]
fn a_database_that_comes_later_is_found() {
    let node = TcpPeer::named("a");
    let gateway = Gateway::builder(BIN)
        .tcp(1)
        .control()
        .access_format("$remote_addr $status $close_reason")
        .top("stream_plugins: [geo-restriction]")
        .start();
    let file = gateway.folder().join("later.mmdb");
    let conf = json!({"database": file, "countries": ["DE"]});
    let body = json!({"upstream": to(&node), "plugins": {"geo-restriction": conf}});
    gateway.put("stream_routes/1", &body).ok();
    assert_eq!(reach(gateway.tcp(0)), None);
    let problems = || gateway.control("/v1/problems", &[]).expect(200).json().to_string();
    assert!(problems().contains("later.mmdb: No such file"), "{}", problems());

    std::fs::write(&file, b"half").expect("a file");
    wait::until_true("it was looked at", SOON, || problems().contains("not a MaxMind database"));
    assert_eq!(reach(gateway.tcp(0)), None);

    let network = [("127.0.0.8/32", json!({"country": {"iso_code": "DE"}}))];
    std::fs::write(&file, geo::database(&network)).expect("a file");
    wait::until_true("the database", SOON, || reach(gateway.tcp(0)).is_some());
    assert_eq!(reach_from(ip("127.0.0.8"), gateway.tcp(0)), None);
    gateway.wait_for_log("a file that plugins wait for has come or changed", SOON);
    assert!(!problems().contains("later.mmdb"), "{}", problems());
}
