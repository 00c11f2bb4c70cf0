//! Clients of the Admin API that others wrote for the reference.

use std::process::Command;

use headgate_testkit::client::reach;
use headgate_testkit::gateway::ADMIN_KEY;
use headgate_testkit::process::{self, python_packages};
use headgate_testkit::{Gateway, SOON, TcpPeer, wait};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/third_party/client.py");

/// `apisix-client` of PyPI: upstreams and services, written, read, listed, paged and deleted.
#[test]
fn the_python_client_of_the_reference_works() {
    let Some((python, packages)) = python_packages() else { return };
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let node = TcpPeer::named("a");
    let address = node.node();
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    let url = format!("http://{}", gateway.admin());
    let mut command = Command::new(python);
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    command.args([SCRIPT, &url, ADMIN_KEY, host, port]);
    let done = process::run(&mut command, SOON * 6).success();
    assert_eq!(done.stdout.lines().last(), Some("done"));
    wait::until_true("the route leads to the node", SOON, || {
        reach(gateway.tcp(0)).as_deref() == Some("a")
    });
}
