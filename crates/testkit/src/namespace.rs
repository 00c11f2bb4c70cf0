//! Another machine, as far as the network tells: a network namespace at the end of a virtual wire.
//!
//! Unlike a closed port or a stopped program, a machine that is off answers nothing at all; only a
//! wire shows that.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::SOON;
use crate::process::{Finished, need, report, run};

/// A machine on a wire of its own. Both are gone when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    ip: std::path::PathBuf,
    subnet: [u8; 3],
    last: u8,
}

impl Namespace {
    /// Makes one. `None`, after saying so, where this process may not: it takes root.
    #[track_caller]
    #[must_use]
    pub fn make() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let ip = need("ip", "iproute2")?;
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // A block of four addresses out of 198.18.0.0/15, which RFC 2544 sets apart for tests.
        let block = process.wrapping_mul(8).wrapping_add(number) % (1 << 15);
        let [_, second, third, last] = (block * 4).to_be_bytes();
        let name = format!("hg{process}n{number}");
        let made = Self { name, ip, subnet: [198, 18 + second, third], last };
        // A process of the same number may have been killed before it could tidy up.
        let _ = made.run(&["netns", "delete", &made.name]);
        let first = made.run(&["netns", "add", &made.name]);
        if !first.status.success() {
            report(&format!("SKIPPED: no network namespace can be made here: {}", first.stderr));
            return None;
        }
        let (here, there) = (format!("{}a", made.name), format!("{}b", made.name));
        let peer = ["type", "veth", "peer", "name", there.as_str(), "netns", made.name.as_str()];
        let second = made.run(&[&["link", "add", here.as_str()][..], &peer[..]].concat());
        if !second.status.success() {
            report(&format!("SKIPPED: no virtual wire can be made here: {}", second.stderr));
            return None;
        }
        let own = format!("{}/30", made.ip_of(1));
        let _ = made.run(&["address", "add", &own, "dev", &here]).success();
        let _ = made.run(&["link", "set", &here, "up"]).success();
        let _ = made.within(&["link", "set", "lo", "up"]).success();
        let _ = made.within(&["link", "set", &there, "up"]).success();
        made.speak();
        // Its hardware address stays known, so that what is sent to it when it is silent leaves
        // here and is lost there, instead of failing for want of that address.
        let link = made.within(&["-brief", "link", "show", &there]).success().stdout;
        let hardware = link.split_whitespace().nth(2).expect("a hardware address").to_owned();
        let to = made.addr().to_string();
        let known = ["neighbour", "replace", &to, "lladdr", &hardware, "dev", &here];
        let _ = made.run(&known).success();
        Some(made)
    }

    /// The machine's address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.ip_of(2).into()
    }

    /// Gives it an address on loopback, such as `fd00::5/128`.
    #[track_caller]
    pub fn own(&self, cidr: &str) {
        let _ = self.within(&["address", "add", cidr, "dev", "lo"]).success();
    }

    /// Runs `work` on the machine: sockets and threads that it makes stay there.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/var/run/netns/{}", self.name)).expect("the namespace");
        let there = || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("the way into the namespace");
            work()
        };
        std::thread::scope(|scope| scope.spawn(there).join()).expect("no panic inside")
    }

    /// From now on every packet that is sent to it is lost without an answer.
    #[track_caller]
    pub fn fall_silent(&self) {
        let _ = self.within(&["address", "delete", &self.cidr(), "dev", &self.device()]).success();
    }

    /// It has an address (again).
    #[track_caller]
    pub fn speak(&self) {
        let _ = self.within(&["address", "add", &self.cidr(), "dev", &self.device()]).success();
    }

    fn ip_of(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, self.last + number)
    }

    fn cidr(&self) -> String {
        format!("{}/30", self.ip_of(2))
    }

    fn device(&self) -> String {
        format!("{}b", self.name)
    }

    #[track_caller]
    fn within(&self, arguments: &[&str]) -> Finished {
        self.run(&[&["-netns", self.name.as_str()][..], arguments].concat())
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Finished {
        run(Command::new(&self.ip).args(arguments), SOON)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The wire goes with its end.
        let _ = Command::new(&self.ip).args(["netns", "delete", &self.name]).status();
        let _ =
            Command::new(&self.ip).args(["link", "delete", &format!("{}a", self.name)]).output();
    }
}

/// Something that runs on the machine, and ends there.
#[derive(Debug)]
pub struct Hosted<'a, T: Send> {
    machine: &'a Namespace,
    value: Option<T>,
}

impl Namespace {
    /// As [`Namespace::inside`], for what is to be dropped inside as well: peers wake their
    /// threads through the network then.
    #[track_caller]
    #[must_use]
    pub fn host<T: Send>(&self, make: impl FnOnce(IpAddr) -> T + Send) -> Hosted<'_, T> {
        let addr = self.addr();
        Hosted { machine: self, value: Some(self.inside(|| make(addr))) }
    }
}

impl<T: Send> std::ops::Deref for Hosted<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("there until it is dropped")
    }
}

impl<T: Send> Drop for Hosted<'_, T> {
    fn drop(&mut self) {
        let value = self.value.take();
        // Its address is needed for that.
        let _ = self.machine.within(&[
            "address",
            "replace",
            &self.machine.cidr(),
            "dev",
            &self.machine.device(),
        ]);
        self.machine.inside(|| drop(value));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::TcpPeer;

    #[test]
    fn it_speaks_and_falls_silent() {
        let Some(machine) = Namespace::make() else { return };
        let peer = machine.host(|ip| TcpPeer::named_on(ip, "far"));
        assert_eq!(crate::client::reach(peer.addr()).as_deref(), Some("far"));
        machine.fall_silent();
        let unknown: SocketAddr = peer.addr();
        let lost = TcpStream::connect_timeout(&unknown, Duration::from_millis(200));
        assert_eq!(lost.expect_err("nobody").kind(), std::io::ErrorKind::TimedOut);
        machine.speak();
        assert_eq!(crate::client::reach(peer.addr()).as_deref(), Some("far"));
    }
}
