//! What the kernel says about a process and its sockets (`/proc`).

use std::fs;

/// Resident memory of a process in bytes.
#[must_use]
pub fn resident(id: u32) -> u64 {
    memory(id, "VmRSS:")
}

/// Resident memory of a process in bytes, without pages of files (its program among them).
#[must_use]
pub fn private(id: u32) -> u64 {
    memory(id, "RssAnon:")
}

fn memory(id: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// CPU time that a process used so far, in clock ticks (a hundredth of a second each).
#[must_use]
pub fn cpu_ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name stands in brackets and may contain blanks; user and system time are the 12th and
    // 13th field after it.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    number(11) + number(12)
}

/// Number of open descriptors of a process.
#[must_use]
pub fn descriptors(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count)
}

/// Whether any TCP socket listens on `port`, on whatever address.
#[must_use]
pub fn tcp_listens(port: u16) -> bool {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .any(|table| has_socket(table, port, Some("0A")))
}

/// Whether any UDP socket is bound to `port`, on whatever address.
#[must_use]
pub fn udp_bound(port: u16) -> bool {
    ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"]
        .iter()
        .any(|table| has_socket(table, port, None))
}

fn has_socket(table: &str, port: u16, state: Option<&str>) -> bool {
    let wanted = format!(":{port:04X}");
    fs::read_to_string(table).unwrap_or_default().lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        let actual = fields.nth(1);
        local.ends_with(&wanted) && state.is_none_or(|state| actual == Some(state))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::Port;

    #[test]
    fn sockets_are_seen() {
        let port = Port::take();
        let number = port.number();
        assert!(!tcp_listens(number) && !udp_bound(number));
        let _tcp = TcpListener::bind(("127.0.0.1", number)).unwrap();
        let _udp = UdpSocket::bind(("127.0.0.1", number)).unwrap();
        assert!(tcp_listens(number) && udp_bound(number));
    }

    #[test]
    fn own_process_has_figures() {
        let id = std::process::id();
        assert!(resident(id) > 100_000, "{}", resident(id));
        assert!((10_000..resident(id)).contains(&private(id)), "{}", private(id));
        assert!(descriptors(id) > 2);
        let before = cpu_ticks(id);
        let begin = std::time::Instant::now();
        let mut work = 0_u64;
        // Others may have the processor meanwhile.
        while cpu_ticks(id) == before && begin.elapsed().as_secs() < 20 {
            (0..10_000_000).for_each(|n| work = std::hint::black_box(work.wrapping_add(n)));
        }
        assert!(cpu_ticks(id) > before);
    }
}
