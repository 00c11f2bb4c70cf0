//! TLS with programs that others wrote: Python's websockets behind curl, nginx as an upstream that
//! verifies, mosquitto.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::path::Path;
use std::process::Command;

use headgate_testkit::certificate::Authority;
use headgate_testkit::process::{find, need, report, run};
use headgate_testkit::{Gateway, Port, Process, SOON, client, wait};
use serde_json::json;

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
const TLS: &str = "addr: \"127.0.0.1:{port}\"\ntls: true";

const SERVER: &str = r"
import asyncio, ssl, sys, websockets
async def echo(websocket, path=None):
    async for message in websocket:
        await websocket.send('echo ' + message)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    async with websockets.serve(echo, '127.0.0.1', int(sys.argv[1]), ssl=context):
        await asyncio.Future()
asyncio.run(main())
";

const CLIENT: &str = r"
import asyncio, ssl, sys, websockets
async def main():
    context = ssl.create_default_context(cafile=sys.argv[2])
    uri = 'wss://mysite.com:' + sys.argv[1] + '/'
    async with websockets.connect(uri, ssl=context, host='127.0.0.1', server_hostname='mysite.com') as websocket:
        for number in range(100):
            await websocket.send('message %d' % number)
            assert await websocket.recv() == 'echo message %d' % number
        print('all echoed')
asyncio.run(main())
";

/// A Python that has the package websockets.
fn python() -> Option<std::path::PathBuf> {
    let python = Path::new("/usr/bin/python3").to_path_buf();
    let works = Command::new(&python).args(["-c", "import websockets"]).output();
    if works.is_ok_and(|done| done.status.success()) {
        return Some(python);
    }
    let skip = std::env::var_os("HEADGATE_SKIP_MISSING").is_some_and(|value| value == "1");
    assert!(skip, "apt-get install --no-install-recommends python3-websockets");
    report("SKIPPED: python3-websockets is not installed");
    None
}

fn wait_for_port(what: &str, port: &Port) {
    wait::until_true(what, SOON * 3, || std::net::TcpStream::connect(port.local()).is_ok());
}

#[test]
fn a_websocket_service_published_by_its_name() {
    let (Some(python), Some(curl)) = (python(), need("curl", "curl")) else { return };
    let authority = Authority::new("root");
    let gateway = Gateway::builder(BIN).tcp_entry(TLS).start();
    let folder = gateway.folder();
    let own = authority.server(&["mysite.com"]);
    let (cert, key) = own.write(folder, "site");
    let ca = folder.join("ca.crt");
    fs::write(&ca, &authority.cert).expect("a file");
    let port = Port::take();
    let mut command = Command::new(&python);
    command.args(["-c", SERVER, &port.number().to_string()]).arg(&cert).arg(&key);
    let _server = Process::spawn(&mut command);
    wait_for_port("the WebSocket server", &port);
    let ssl = json!({"cert": own.cert, "key": own.key, "sni": "mysite.com"});
    gateway.put("ssls/1", &ssl).expect(201);
    let route = json!({
        "sni": "mysite.com",
        "server_port": gateway.tcp(0).port(),
        "upstream": {"scheme": "tls", "nodes": {port.local().to_string(): 1}},
    });
    gateway.put("stream_routes/1", &route).expect(201);
    let number = gateway.tcp(0).port();
    let mut command = Command::new(curl);
    command.args(["-sv", "--http1.1", "--resolve", &format!("mysite.com:{number}:127.0.0.1")]);
    command.arg("--cacert").arg(&ca).arg(format!("https://mysite.com:{number}/"));
    let output = run(&mut command, SOON).success().output();
    assert!(output.contains("426 Upgrade Required"), "the server's own answer:\n{output}");
    let mut command = Command::new(&python);
    command.args(["-c", CLIENT, &number.to_string()]).arg(&ca);
    assert_eq!(run(&mut command, SOON * 2).success().stdout, "all echoed");
}

#[test]
fn nginx_as_an_upstream_that_verifies() {
    let (Some(nginx), Some(curl)) = (need("nginx", "nginx"), need("curl", "curl")) else { return };
    let authority = Authority::new("root");
    let gateway = Gateway::builder(BIN).tcp(1).start();
    let folder = gateway.folder();
    let (cert, key) = authority.rsa_server(&["node.test"]).write(folder, "node");
    let ca = folder.join("ca.crt");
    fs::write(&ca, &authority.cert).expect("a file");
    let port = Port::take();
    let config = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\nserver {{ listen 127.0.0.1:{port} ssl; ssl_certificate {cert};\n\
         ssl_certificate_key {key}; ssl_client_certificate {ca}; ssl_verify_client on;\n\
         location / {{ return 200 \"hello $ssl_client_s_dn of $ssl_server_name\\n\"; }} }} }}\n",
        folder = folder.display(),
        port = port.number(),
        cert = cert.display(),
        key = key.display(),
        ca = ca.display(),
    );
    fs::write(folder.join("nginx.conf"), config).expect("a file");
    let mut command = Command::new(nginx);
    command.arg("-e").arg("stderr").arg("-p").arg(folder).arg("-c");
    command.arg(folder.join("nginx.conf"));
    let _nginx = Process::spawn(&mut command);
    wait_for_port("nginx", &port);
    let own = authority.client("headgate");
    let route = json!({"upstream": {
        "scheme": "tls",
        "nodes": {port.local().to_string(): 1},
        "tls": {
            "client_cert": own.cert, "client_key": own.key,
            "verify": true, "ca_certs": [authority.cert], "sni": "node.test",
        },
    }});
    gateway.put("stream_routes/1", &route).expect(201);
    for _ in 0..3 {
        let mut command = Command::new(&curl);
        command.args(["-s", &format!("http://{}/", gateway.tcp(0))]);
        let answer = run(&mut command, SOON).success().stdout;
        assert_eq!(answer, "hello O=headgate tests,CN=headgate of node.test");
    }
}

#[test]
fn mosquitto_over_tls() {
    let Some(mosquitto) = need("mosquitto", "mosquitto") else { return };
    let (Some(publish), Some(subscribe)) =
        (need("mosquitto_pub", "mosquitto-clients"), find("mosquitto_sub"))
    else {
        return;
    };
    let authority = Authority::new("root");
    let gateway = Gateway::builder(BIN).tcp_entry(TLS).start();
    let folder = gateway.folder();
    let ca = folder.join("ca.crt");
    fs::write(&ca, &authority.cert).expect("a file");
    let port = Port::take();
    let config = format!("listener {} 127.0.0.1\nallow_anonymous true\n", port.number());
    fs::write(folder.join("mosquitto.conf"), config).expect("a file");
    let mut command = Command::new(mosquitto);
    command.arg("-c").arg(folder.join("mosquitto.conf"));
    let _broker = Process::spawn(&mut command);
    wait_for_port("mosquitto", &port);
    let own = authority.server(&["localhost"]);
    let ssl = json!({"cert": own.cert, "key": own.key, "sni": "localhost"});
    gateway.put("ssls/1", &ssl).expect(201);
    // The plugin reads the CONNECT through TLS.
    let route = json!({
        "plugins": {"mqtt-proxy": {"protocol_name": "MQTT", "protocol_level": 4}},
        "upstream": {"nodes": {port.local().to_string(): 1}},
    });
    gateway.put("stream_routes/1", &route).expect(201);
    let number = gateway.tcp(0).port().to_string();
    let with_tls = |program: &Path| {
        let mut command = Command::new(program);
        command.args(["-h", "localhost", "-p", &number, "-V", "mqttv311", "-t", "a/b"]);
        command.arg("--cafile").arg(&ca);
        command
    };
    let mut command = with_tls(&subscribe);
    command.args(["-C", "1", "-W", "20"]);
    let mut subscriber = Process::spawn(&mut command);
    let told = wait::try_until(SOON * 2, || {
        let mut command = with_tls(&publish);
        let _ = run(command.args(["-m", "hello over TLS"]), SOON).success();
        subscriber.ended()
    });
    assert!(told.is_some_and(|status| status.success()), "{}", subscriber.stderr.text());
    assert_eq!(subscriber.stdout.text().trim(), "hello over TLS");
    assert!(client::connect(gateway.tcp(0)).peer_addr().is_ok());
}
