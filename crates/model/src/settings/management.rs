//! Addresses of the management servers, and conflicts between them and with stream listeners.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::is_wildcard;
use super::reading::Reading;
use super::stream_proxy::{Listener, item_path};
use crate::listen::{ListenAddr, Transport};

/// One management server.
pub(super) struct Server {
    /// `admin port` and so on, as the reference names it.
    name: &'static str,
    pub(super) addr: SocketAddr,
    /// Path of the key that holds its port.
    path: String,
}

/// The management servers in the order the reference checks them.
pub(super) struct Servers {
    pub(super) admin: Option<Server>,
    pub(super) status: Option<Server>,
    pub(super) control: Option<Server>,
    pub(super) prometheus: Option<Server>,
}

impl Servers {
    /// Reads which servers run and where.
    pub(super) fn read(reading: &mut Reading<'_>) -> Self {
        let export = "plugin_attr.prometheus";
        let admin = reading.is_on("apisix.enable_admin");
        let status = reading.get("apisix.status").is_some();
        let control = reading.is_on("apisix.enable_control");
        let exports = reading.is_on(&format!("{export}.enable_export_server"));
        let any = Ipv4Addr::UNSPECIFIED;
        let local = Ipv4Addr::LOCALHOST;
        let mut server = |on: bool, name, section: &str, ip: Ipv4Addr, port: u16| {
            on.then(|| server(reading, name, section, ip.into(), port))
        };
        Self {
            admin: server(admin, "admin port", "deployment.admin.admin_listen", any, 9180),
            status: server(status, "status port", "apisix.status", local, 7085),
            control: server(control, "control port", "apisix.control", local, 9090),
            prometheus: server(
                exports,
                "prometheus port",
                &format!("{export}.export_addr"),
                local,
                9091,
            ),
        }
    }

    fn all(&self) -> Vec<&Server> {
        [&self.admin, &self.status, &self.control, &self.prometheus].into_iter().flatten().collect()
    }

    /// Finds equal ports. As in the reference the IP address does not matter here.
    pub(super) fn check(&self, reading: &mut Reading<'_>) {
        let all = self.all();
        for (index, server) in all.iter().enumerate() {
            let earlier = all.iter().take(index).find(|one| one.addr.port() == server.addr.port());
            let Some(earlier) = earlier else { continue };
            let port = server.addr.port();
            let message = format!("{} {port} conflicts with {}", server.name, earlier.name);
            let (at, other) = match written(reading, server) {
                true => (server, earlier),
                false => (earlier, server),
            };
            let related = written(reading, other).then(|| reading.place(&other.path)).flatten();
            let note = reading.error("management/port-conflict", &at.path, message);
            let note = note.label(format!("{} {port}", at.name));
            let help = format!("give {} another port", at.path);
            note.help(help).related(related, format!("{} {port}", other.name));
        }
    }

    /// Finds stream listeners that would take the port of a management server.
    pub(super) fn check_listeners(&self, reading: &mut Reading<'_>, listeners: &[Listener]) {
        for server in self.all() {
            let clash = listeners.iter().find(|listener| {
                listener.spec.transport == Transport::Tcp && overlaps(&listener.spec.addr, server)
            });
            let Some(clash) = clash else { continue };
            let at = item_path(reading, &clash.path);
            let port = server.addr.port();
            let message = format!("stream_proxy.tcp {port} conflicts with {}", server.name);
            let by_default = if written(reading, server) { "" } else { " (its default)" };
            let related = written(reading, server).then(|| reading.place(&server.path)).flatten();
            let note = reading.error("stream-proxy/clash", &at, message);
            let note =
                note.label(format!("{} listens on {}{by_default}", server.name, server.addr));
            let help = format!("use another port here, or set {} to another port", server.path);
            note.help(help).related(related, format!("{} {port}", server.name));
        }
    }
}

fn server(
    reading: &mut Reading<'_>,
    name: &'static str,
    section: &str,
    ip: IpAddr,
    port: u16,
) -> Server {
    let at = format!("{section}.ip");
    let ip = match reading.text(&at).map(|text| text.trim_matches(['[', ']']).parse::<IpAddr>()) {
        None => ip,
        Some(Ok(ip)) => ip,
        Some(Err(_)) => {
            let message = format!("{at} is not an IP address");
            let note = reading.error("management/address", &at, message).label("not an IP address");
            note.help(format!("write an IP address, e.g. ip: {ip}"));
            ip
        }
    };
    let path = format!("{section}.port");
    let port = reading.int(&path).and_then(|port| u16::try_from(port).ok()).unwrap_or(port);
    Server { name, addr: SocketAddr::new(ip, port), path }
}

fn written(reading: &Reading<'_>, server: &Server) -> bool {
    reading.wrote(&server.path) && !reading.deleted(&server.path)
}

/// Whether a stream listener takes the address of a server.
fn overlaps(addr: &ListenAddr, server: &Server) -> bool {
    let ListenAddr::Ip(addr) = addr else { return false };
    let (ours, theirs) = (addr.ip(), server.addr.ip());
    addr.port() == server.addr.port()
        && ours.is_ipv4() == theirs.is_ipv4()
        && (ours == theirs || is_wildcard(ours) || is_wildcard(theirs))
}
