//! `headgate demo`: a gateway at work, told in commands that a person can repeat.
//!
//! Everything happens on 127.0.0.1 and in one temporary folder. The gateway is a child process of
//! the same binary, controlled through the Admin API like any other.

mod echo;
mod gateway;
pub(crate) mod http;
mod ports;
mod probe;
mod until;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use crate::console::{err, out};
use gateway::Gateway;
use ports::Ports;
use until::Interrupt;

/// Runs the demo until Ctrl-C.
pub(crate) fn run() -> ExitCode {
    match story() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err(&format!("headgate demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn story() -> anyhow::Result<()> {
    let mut interrupt = Interrupt::listen().context("listening for signals")?;
    let echo = echo::start().context("starting the echo server")?;
    let ports = Ports::choose().context("looking for free ports")?;
    let Ports { tcp, udp, admin } = ports;
    let mut gateway = Gateway::start(ports).context("starting the gateway")?;
    gateway.wait_until_ready(&mut interrupt)?;
    let log = gateway.folder().join("logs/error.log");
    out(&format!(
        "headgate demo\n\n\
         An echo server listens on {echo} (TCP and UDP).\n\
         headgate listens on {tcp} (TCP) and {udp} (UDP).\n\
         Its Admin API is on {admin}, its log in {log}.",
        log = log.display()
    ));

    out("\n1. Create a route for TCP:\n");
    create_route(&gateway, "demo-tcp", tcp, echo)?;
    out("\n2. Send bytes through it:\n");
    let hello = "hello over TCP";
    out(&format!("   printf '{hello}\\n' | nc -w 1 {} {}", tcp.ip(), tcp.port()));
    let answer = probe::tcp(tcp, hello).context("sending bytes through the TCP route")?;
    out(&format!("   -> {answer}"));

    out("\n3. Create a route for UDP:\n");
    create_route(&gateway, "demo-udp", udp, echo)?;
    out("\n4. Send a datagram through it:\n");
    let hello = "hello over UDP";
    out(&format!("   printf '{hello}\\n' | nc -u -w 1 {} {}", udp.ip(), udp.port()));
    let answer = probe::udp(udp, hello).context("sending a datagram through the UDP route")?;
    out(&format!("   -> {answer}"));

    out("\nSee what is stored:\n");
    out(&format!(
        "   curl http://{admin}/apisix/admin/stream_routes \\\n     -H 'X-API-KEY: {}'",
        gateway.key()
    ));
    out("\nAll of it keeps running. Paste the lines into another terminal; end it with Ctrl-C.");
    gateway.watch(&mut interrupt)?;
    let folder = gateway.folder().display().to_string();
    gateway.end()?;
    out(&format!("\nThe gateway has ended; {folder} is removed."));
    Ok(())
}

/// Creates a route from the port of `listener` to `node`, and shows how.
fn create_route(
    gateway: &Gateway,
    id: &str,
    listener: SocketAddr,
    node: SocketAddr,
) -> anyhow::Result<()> {
    let path = format!("/apisix/admin/stream_routes/{id}");
    let port = listener.port();
    let body = format!(
        r#"{{"server_port":{port},"upstream":{{"type":"roundrobin","nodes":{{"{node}":1}}}}}}"#
    );
    let (admin, key) = (gateway.admin(), gateway.key());
    out(&format!(
        "   curl http://{admin}{path} -X PUT \\\n     -H 'X-API-KEY: {key}' \\\n     -d '{body}'"
    ));
    let answer = http::call(admin, "PUT", &path, key, &body)
        .with_context(|| format!("creating the route {id}"))?;
    out(&format!("   -> {} {}", answer.status, answer.body.trim()));
    ensure!(answer.status == 201, "the Admin API did not create the route {id}");
    Ok(())
}
