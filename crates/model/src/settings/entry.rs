//! The grammar of one listen entry: `9100`, `"ip:port"`, `"[v6]:port"`, ranges, `unix:/path`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde_json::Value;

use super::wording::lua_type;
use crate::listen::{ListenAddr, Transport};

/// Why an entry is refused; `reason` is in the reference's words where it has any.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) reason: String,
    pub(crate) label: &'static str,
    pub(crate) help: String,
}

/// Reads one entry into its listening addresses.
pub(crate) fn parse(value: &Value, transport: Transport) -> Result<Vec<ListenAddr>, Refusal> {
    match value {
        Value::Number(number) => {
            let port = super::reading::whole(value).ok_or_else(|| Refusal {
                code: "stream-proxy/port",
                reason: format!("port must be an integer, got: {number}"),
                label: "not a whole number",
                help: "write a whole number from 1 to 65535".to_owned(),
            })?;
            let port = port_number(&port.to_string())?;
            Ok(vec![ListenAddr::Ip(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))])
        }
        Value::String(text) => parse_text(text, transport),
        other => Err(Refusal {
            code: "stream-proxy/type",
            reason: format!("invalid port value type: {}", lua_type(other)),
            label: "neither a port nor an address",
            help: "write a port (- 9100) or an address (- \"127.0.0.1:9100\")".to_owned(),
        }),
    }
}

fn parse_text(text: &str, transport: Transport) -> Result<Vec<ListenAddr>, Refusal> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(text, path, transport);
    }
    let (host, ports) = split(text)?;
    let ports = port_range(text, ports)?;
    let hosts = addresses(text, host)?;
    let sockets = hosts.iter().flat_map(|ip| ports.clone().map(|port| (*ip, port)));
    Ok(sockets.map(|socket| ListenAddr::Ip(SocketAddr::from(socket))).collect())
}

fn unix(text: &str, path: &str, transport: Transport) -> Result<Vec<ListenAddr>, Refusal> {
    if transport == Transport::Udp {
        return Err(refuse(
            "stream-proxy/address",
            format!("Unix sockets are only for TCP: {text}"),
            "not possible for UDP",
            "move it to stream_proxy.tcp, or write a port".to_owned(),
        ));
    }
    if path.is_empty() {
        return Err(refuse(
            "stream-proxy/address",
            format!("missing path: {text}"),
            "no path",
            "write unix:/path/of/the/socket".to_owned(),
        ));
    }
    Ok(vec![ListenAddr::Unix(PathBuf::from(path))])
}

/// Splits host and port part; a bare port has no host.
fn split(text: &str) -> Result<(Option<&str>, &str), Refusal> {
    if text.contains('[') {
        let parts = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        return match parts {
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(port) => Ok((Some(host), port)),
                None => Err(missing_port(text, &format!("add the port: [{host}]:9100"))),
            },
            None => Err(refuse(
                "stream-proxy/address",
                format!("invalid address: {text}"),
                "not an IPv6 address in brackets",
                "write \"[::1]:9100\"".to_owned(),
            )),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        return Err(refuse(
            "stream-proxy/address",
            format!("invalid address: {text}"),
            "an IPv6 address needs brackets",
            format!("write \"[{host}]:{port}\""),
        ));
    }
    Ok(text.split_once(':').map_or((None, text), |(host, port)| (Some(host), port)))
}

fn port_range(whole: &str, ports: &str) -> Result<RangeInclusive<u16>, Refusal> {
    if ports.is_empty() {
        return Err(missing_port(whole, &format!("add the port: \"{whole}9100\"")));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(ports) {
        let port = port_number(ports)?;
        return Ok(port..=port);
    }
    if let Some((first, last)) = ports.split_once('-').filter(|(a, b)| digits(a) && digits(b)) {
        let (low, high) = (port_number(first)?, port_number(last)?);
        if low > high {
            return Err(refuse(
                "stream-proxy/range",
                format!("invalid port range (start > end): {whole}"),
                "the first port is greater than the last",
                format!(
                    "write the smaller port first: \"{}\"",
                    whole.replace(ports, &format!("{last}-{first}"))
                ),
            ));
        }
        return Ok(low..=high);
    }
    if ports.starts_with(|c: char| c.is_ascii_digit()) || ports != whole || !looks_like_host(ports)
    {
        return Err(refuse(
            "stream-proxy/format",
            format!("invalid port format: {whole}"),
            "not a port",
            "write a port (9100), a range (\"2000-2100\") or an address (\"127.0.0.1:9100\")"
                .to_owned(),
        ));
    }
    Err(missing_port(whole, &format!("add the port: \"{whole}:9100\"")))
}

fn looks_like_host(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte))
}

fn port_number(text: &str) -> Result<u16, Refusal> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    port.ok_or_else(|| {
        let shorter =
            text.strip_suffix('0').filter(|short| short.parse::<u16>().is_ok_and(|port| port > 0));
        refuse(
            "stream-proxy/port",
            format!("port out of range (1-65535): {text}"),
            "ports are 1 to 65535",
            shorter.map_or_else(
                || "write a port from 1 to 65535".to_owned(),
                |short| format!("write a port from 1 to 65535; did you mean {short}?"),
            ),
        )
    })
}

fn missing_port(whole: &str, help: &str) -> Refusal {
    refuse("stream-proxy/port", format!("missing port: {whole}"), "no port", help.to_owned())
}

/// The IP addresses of the host part. Only `localhost` is looked up; other names would make the
/// start depend on DNS.
fn addresses(whole: &str, host: Option<&str>) -> Result<Vec<IpAddr>, Refusal> {
    let Some(host) = host else { return Ok(vec![Ipv4Addr::UNSPECIFIED.into()]) };
    if host == "*" {
        return Ok(vec![Ipv4Addr::UNSPECIFIED.into()]);
    }
    let bracketed = whole.starts_with('[');
    if let Some(ip) = host.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv6() == bracketed) {
        return Ok(vec![ip]);
    }
    if host == "localhost" {
        let mut found: Vec<IpAddr> = (host, 0_u16)
            .to_socket_addrs()
            .map(|all| all.map(|addr| addr.ip()).collect())
            .unwrap_or_default();
        found.sort_unstable();
        found.dedup();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(refuse(
        "stream-proxy/address",
        format!("host is not an IP address: {whole}"),
        "needs an IP address",
        "write the IP address to listen on, e.g. \"127.0.0.1:9100\" or \"[::1]:9100\"".to_owned(),
    ))
}

const fn refuse(code: &'static str, reason: String, label: &'static str, help: String) -> Refusal {
    Refusal { code, reason, label, help }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good(value: &Value) -> Vec<String> {
        let found = parse(value, Transport::Tcp).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_spellings_are_read() {
        for (value, expected) in [
            (json!(9100), "0.0.0.0:9100"),
            (json!(9100.0), "0.0.0.0:9100"),
            (json!("9100"), "0.0.0.0:9100"),
            (json!("127.0.0.1:9101"), "127.0.0.1:9101"),
            (json!("[::1]:9100"), "[::1]:9100"),
            (json!("[::]:9100"), "[::]:9100"),
            (json!("*:9100"), "0.0.0.0:9100"),
            (json!("unix:/run/x.sock"), "unix:/run/x.sock"),
        ] {
            assert_eq!(good(&value), [expected]);
        }
        assert_eq!(good(&json!("2000-2002")), ["0.0.0.0:2000", "0.0.0.0:2001", "0.0.0.0:2002"]);
        assert_eq!(good(&json!("[::]:2000-2001")), ["[::]:2000", "[::]:2001"]);
        assert_eq!(good(&json!("127.0.0.1:2000-2000")), ["127.0.0.1:2000"]);
        assert!(good(&json!("localhost:9100")).iter().any(|addr| addr == "127.0.0.1:9100"));
    }

    #[test]
    fn refusals_use_the_reference_words() {
        for (value, reason) in [
            (json!(0), "port out of range (1-65535): 0"),
            (json!(65536), "port out of range (1-65535): 65536"),
            (json!(-1), "port out of range (1-65535): -1"),
            (json!("65536"), "port out of range (1-65535): 65536"),
            (json!("127.0.0.1:0"), "port out of range (1-65535): 0"),
            (json!("127.0.0.1:65536"), "port out of range (1-65535): 65536"),
            (json!("0-10"), "port out of range (1-65535): 0"),
            (json!("65530-65536"), "port out of range (1-65535): 65536"),
            (json!("2100-2000"), "invalid port range (start > end): 2100-2000"),
            (json!("127.0.0.1:2100-2000"), "invalid port range (start > end): 127.0.0.1:2100-2000"),
            (json!("127.0.0.1:"), "missing port: 127.0.0.1:"),
            (json!(""), "missing port: "),
            (json!("80.5"), "invalid port format: 80.5"),
            (json!("1e3"), "invalid port format: 1e3"),
            (json!("127.0.0.1"), "invalid port format: 127.0.0.1"),
            (json!("localhost"), "missing port: localhost"),
            (json!(true), "invalid port value type: boolean"),
            (json!(80.5), "port must be an integer, got: 80.5"),
            (json!("example.com:80"), "host is not an IP address: example.com:80"),
            (json!("::1:9100"), "invalid address: ::1:9100"),
            (json!("[::1]"), "missing port: [::1]"),
            (json!("[127.0.0.1]:1"), "host is not an IP address: [127.0.0.1]:1"),
        ] {
            let refusal = parse(&value, Transport::Tcp).unwrap_err();
            assert_eq!(refusal.reason, reason, "{value}");
            assert!(!refusal.help.is_empty());
        }
        assert!(parse(&json!("unix:/x"), Transport::Udp).is_err());
    }
}
