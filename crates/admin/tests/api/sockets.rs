//! Limits and deadlines on real connections.

use std::net::SocketAddr;
use std::time::Duration;

use headgate_admin::{Limits, bind, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, KEY, Planes, settings};

struct Server {
    addr: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let bench = Bench::with(settings(), Planes::default(), limits);
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, bench.admin, None, limits, shutdown.clone()));
        Self { addr, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read_all(&mut stream).await
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
    String::from_utf8(text).unwrap()
}

fn head(lines: &str) -> Vec<u8> {
    format!("PUT /apisix/admin/upstreams/1 HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n{lines}\r\n")
        .into_bytes()
}

fn quick() -> Limits {
    Limits {
        header: Duration::from_millis(300),
        body: Duration::from_millis(300),
        stop: Duration::from_millis(500),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_write_and_keep_alive() {
    let server = Server::start(Limits::default()).await;
    let body = r#"{"nodes":{"10.0.0.1:80":1}}"#;
    let put =
        [head(&format!("Content-Length: {}\r\n", body.len())), body.as_bytes().to_vec()].concat();
    let get = format!(
        "GET /apisix/admin/upstreams/1 HTTP/1.1\r\nHost: x\r\nX-API-KEY: {KEY}\r\n\
         Connection: close\r\n\r\n"
    );
    let reply = server.exchange(&[put, get.into_bytes()].concat()).await;
    assert!(reply.starts_with("HTTP/1.1 201 Created\r\n"), "{reply}");
    assert!(
        reply.contains("\r\nHTTP/1.1 200 OK\r\n") || reply.contains("}}\nHTTP/1.1 200 OK"),
        "{reply}"
    );
}

#[tokio::test]
async fn a_slow_header_ends_the_connection() {
    let server = Server::start(quick()).await;
    assert_eq!(server.exchange(b"GET /apisix/admin HT").await, "");
    // So does a connection that never asks for anything.
    assert_eq!(server.exchange(b"").await, "");
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let server = Server::start(quick()).await;
    let reply = server.exchange(b"HEAD /apisix/admin HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
}

#[tokio::test]
async fn a_slow_body_is_refused() {
    let server = Server::start(quick()).await;
    let reply = server.exchange(&[head("Content-Length: 100\r\n"), b"{".to_vec()].concat()).await;
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    assert!(reply.contains("the request body was not received in time"), "{reply}");
}

#[tokio::test]
async fn a_large_body_is_refused_and_the_refusal_can_be_read() {
    let server = Server::start(Limits::default()).await;
    // Announced, and the client waits before it sends.
    let waiting = head("Content-Length: 9000000\r\nExpect: 100-continue\r\n");
    let reply = server.exchange(&waiting).await;
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    assert!(reply.contains("request size 9000000 is greater than"), "{reply}");
    // Announced, and the client sends everything before it reads.
    let mut request = head("Content-Length: 9000000\r\n");
    request.resize(request.len() + 9_000_000, b' ');
    let reply = server.exchange(&request).await;
    assert!(reply.contains("request size 9000000 is greater than"), "{reply}");
    // Not announced.
    let mut request = head("Transfer-Encoding: chunked\r\n");
    for _ in 0..32 {
        request.extend_from_slice(b"10000\r\n");
        request.resize(request.len() + 0x10000, b' ');
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let reply = server.exchange(&request).await;
    assert!(reply.contains("is greater than the maximum size 1572864 allowed"), "{reply}");
}

#[tokio::test]
async fn large_headers_are_refused() {
    let server = Server::start(quick()).await;
    let many = "X-A: b\r\n".repeat(200);
    let reply = server.exchange(&head(&many)).await;
    assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
    let long = format!("X-A: {}\r\n", "b".repeat(100_000));
    let mut stream = server.connect().await;
    // The server may close before everything is sent.
    let _ = stream.write_all(&head(&long)).await;
    let mut start = [0; 13];
    if stream.read_exact(&mut start).await.is_ok() {
        assert_eq!(&start, b"HTTP/1.1 431 ");
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = Server::start(Limits { connections: 1, ..quick() }).await;
    let first = server.connect().await;
    let mut second = server.connect().await;
    second
        .write_all(b"HEAD /apisix/admin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut byte)).await;
    assert!(early.is_err(), "the second connection was served beside the first");
    drop(first);
    assert!(read_all(&mut second).await.contains("200 OK"));
}

#[tokio::test]
async fn stopping_lets_requests_end() {
    let server = Server::start(Limits {
        body: Duration::from_secs(5),
        stop: Duration::from_secs(5),
        ..quick()
    })
    .await;
    let body = r#"{"nodes":{"10.0.0.1:80":1}}"#;
    let idle = server.connect().await;
    let mut stream = server.connect().await;
    stream.write_all(&head(&format!("Content-Length: {}\r\n", body.len()))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(body.as_bytes()).await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 201 "));
    tokio::time::timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap();
    drop(idle);
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn stopping_is_bounded() {
    let server = Server::start(Limits { body: Duration::from_secs(60), ..quick() }).await;
    let mut stream = server.connect().await;
    stream.write_all(&head("Content-Length: 10\r\n")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(3), server.task).await.unwrap().unwrap();
}
