//! `syslog:server=...` as the place of a log, in nginx's words.

use std::path::PathBuf;

/// Where a log goes instead of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogTarget {
    /// Where it listens.
    pub server: SyslogServer,
    /// Facility times 8 plus severity.
    pub priority: u8,
    /// What names the program.
    pub tag: String,
    /// Whether the name of this machine is sent.
    pub with_hostname: bool,
}

/// Where a syslog server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogServer {
    /// `host:port`, by UDP.
    Udp(String),
    /// A Unix datagram socket.
    Unix(PathBuf),
}

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv",
    "ftp", "ntp", "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];
const SEVERITIES: [&str; 8] =
    ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"];
const PORT: u16 = 514;
const LONGEST_TAG: usize = 32;

/// Reads `server=10.0.0.1[:514],facility=local7,severity=info,tag=nginx,nohostname`, what follows
/// `syslog:`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<SyslogTarget, String> {
    let (mut server, mut facility, mut severity) = (None, 23, 6);
    let (mut tag, mut with_hostname) = ("nginx".to_owned(), true);
    let number = |names: &[&str], name: &str| {
        let found = names.iter().position(|known| *known == name);
        found.and_then(|at| u8::try_from(at).ok())
    };
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name {
            "server" => server = Some(address(value)?),
            "facility" => {
                facility = number(&FACILITIES, value)
                    .ok_or_else(|| format!("unknown syslog facility \"{value}\""))?;
            }
            "severity" => {
                severity = number(&SEVERITIES, value)
                    .ok_or_else(|| format!("unknown syslog severity \"{value}\""))?;
            }
            "tag" => {
                let is_tag = (1..=LONGEST_TAG).contains(&value.len())
                    && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !is_tag {
                    return Err(
                        "a syslog \"tag\" has 1 to 32 letters, digits and underscores".into()
                    );
                }
                value.clone_into(&mut tag);
            }
            "nohostname" => with_hostname = false,
            _ => return Err(format!("unknown syslog parameter \"{part}\"")),
        }
    }
    let server = server.ok_or("no syslog server specified")?;
    Ok(SyslogTarget { server, priority: facility * 8 + severity, tag, with_hostname })
}

fn address(text: &str) -> Result<SyslogServer, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.is_empty() {
            true => Err("the syslog server unix: has no path".to_owned()),
            false => Ok(SyslogServer::Unix(path.into())),
        };
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map_or(Ok(PORT), str::parse::<u16>);
    match port {
        Ok(port) if port > 0 && !host.is_empty() => Ok(SyslogServer::Udp(format!("{host}:{port}"))),
        _ => Err(format!("invalid syslog server \"{text}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(address: &str) -> SyslogServer {
        SyslogServer::Udp(address.to_owned())
    }

    #[test]
    fn as_nginx_has_it() {
        let target = parse("server=10.0.0.1").unwrap();
        let expected = SyslogTarget {
            server: udp("10.0.0.1:514"),
            priority: 190,
            tag: "nginx".into(),
            with_hostname: true,
        };
        assert_eq!(target, expected);
        let text = "server=[::1]:5514,facility=local0,severity=debug,tag=gate_1,nohostname";
        let target = parse(text).unwrap();
        assert_eq!(target.server, udp("[::1]:5514"));
        assert_eq!((target.priority, target.with_hostname), (135, false));
        assert_eq!(parse("server=[::1]").unwrap().server, udp("[::1]:514"));
        assert_eq!(
            parse("server=unix:/dev/log").unwrap().server,
            SyslogServer::Unix("/dev/log".into())
        );
    }

    #[test]
    fn what_is_not_right() {
        for (text, part) in [
            ("", "unknown syslog parameter"),
            ("tag=a", "no syslog server"),
            ("server=", "invalid syslog server"),
            ("server=a:b", "invalid syslog server"),
            ("server=unix:", "has no path"),
            ("server=a,facility=local9", "unknown syslog facility \"local9\""),
            ("server=a,severity=x", "unknown syslog severity"),
            ("server=a,tag=a-b", "letters, digits"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
