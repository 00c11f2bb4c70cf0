//! HTTPS of the Admin API. The certificates in `tls/` are for tests only; the key of their CA was
//! thrown away.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headgate_admin::server::tls::{TlsError, acceptor};
use headgate_admin::{Limits, bind, serve};
use headgate_model::settings::AdminTls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/api/tls").join(name)
}

fn files(client_ca: bool) -> AdminTls {
    AdminTls {
        cert: file("server.crt"),
        key: file("server.key"),
        client_ca: client_ca.then(|| file("ca.crt")),
    }
}

async fn start(client_ca: bool) -> SocketAddr {
    let limits = Limits { handshake: Duration::from_millis(300), ..Limits::default() };
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tls = acceptor(&files(client_ca)).unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(listener, Bench::new().admin, Some(tls), limits, shutdown));
    addr
}

fn connector(with_certificate: bool) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.crt")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if with_certificate {
        let chain = vec![CertificateDer::from_pem_file(file("client.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(file("client.key")).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    TlsConnector::from(Arc::new(config))
}

async fn ask(addr: SocketAddr, with_certificate: bool) -> std::io::Result<String> {
    let stream = TcpStream::connect(addr).await?;
    let name = "admin.test".try_into().unwrap();
    let mut stream = connector(with_certificate).connect(name, stream).await?;
    stream
        .write_all(b"HEAD /apisix/admin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    Ok(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn https() {
    let addr = start(false).await;
    assert!(ask(addr, false).await.unwrap().starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn clients_need_a_certificate_when_there_is_a_ca() {
    let addr = start(true).await;
    assert!(ask(addr, true).await.unwrap().starts_with("HTTP/1.1 200 OK"));
    assert!(ask(addr, false).await.is_err());
}

#[tokio::test]
async fn a_slow_handshake_ends_the_connection() {
    let addr = start(false).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut byte = [0; 1];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte));
    assert_eq!(read.await.unwrap().unwrap(), 0);
}

#[test]
fn unusable_files_are_named() {
    let missing = AdminTls { cert: file("nope.crt"), ..files(false) };
    let error = acceptor(&missing).err().unwrap();
    assert!(matches!(error, TlsError::File { .. }));
    assert!(error.to_string().contains("nope.crt"), "{error}");
    let swapped = AdminTls { cert: file("server.key"), ..files(false) };
    assert!(acceptor(&swapped).err().unwrap().to_string().contains("server.key"));
    let other = AdminTls { key: file("client.key"), ..files(false) };
    assert!(matches!(acceptor(&other).err().unwrap(), TlsError::Certificate(_)));
}
