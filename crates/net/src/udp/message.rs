//! What the kernel wants to see around a datagram: addresses and control messages (udp(7), ip(7),
//! ipv6(7), cmsg(3)).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// Room for the control messages of one datagram: a destination and, when sending, a segment size.
const CONTROL: usize = 64;
const _: () = {
    // SAFETY: CMSG_SPACE only computes.
    let space = unsafe {
        libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32)
            + libc::CMSG_SPACE(size_of::<u16>() as u32)
    };
    assert!(space as usize <= CONTROL);
};

/// Control messages of one datagram.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control {
    bytes: [u8; CONTROL],
    length: usize,
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; CONTROL], length: 0 };

    /// For a datagram that leaves from the local address `from`.
    pub(super) fn leaving_from(from: Option<IpAddr>) -> Self {
        let mut control = Self::EMPTY;
        match from {
            None => {}
            Some(IpAddr::V4(ip)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            Some(IpAddr::V6(ip)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    ipi6_ifindex: 0,
                };
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
        control
    }

    /// The kernel cuts the payload into datagrams of `size` bytes (`UDP_SEGMENT`).
    pub(super) fn cut_into(mut self, size: usize) -> Self {
        if let Ok(size) = u16::try_from(size) {
            self.push(libc::SOL_UDP, libc::UDP_SEGMENT, size);
        }
        self
    }

    /// Adds a message; `T` is one of the plain structures above, and all of them fit.
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, length) =
            unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize) };
        let Some(room) = self.bytes.get_mut(self.length..self.length + space) else { return };
        let message = room.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `room` holds CMSG_SPACE bytes for the value; it begins at a multiple of
        // CMSG_ALIGN from an 8-aligned start, as cmsghdr requires; the value is written without
        // alignment assumptions.
        unsafe {
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = length as _;
            libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
        }
        self.length += space;
    }

    /// Points `header` here for sending. The control must outlive the use of the header.
    pub(super) fn attach_to(&mut self, header: &mut libc::msghdr) {
        let is_empty = self.length == 0;
        header.msg_control =
            if is_empty { std::ptr::null_mut() } else { self.bytes.as_mut_ptr().cast() };
        header.msg_controllen = self.length as _; // narrower in musl
    }

    /// Points `header` here for receiving. The control must outlive the use of the header.
    pub(super) fn receive_into(&mut self, header: &mut libc::msghdr) {
        header.msg_control = self.bytes.as_mut_ptr().cast();
        header.msg_controllen = CONTROL as _;
    }
}

/// Asks the kernel to report the local address that each datagram was sent to (ip(7), ipv6(7)),
/// unless `bound`, the socket's own address, says it.
pub(crate) fn report_destination(socket: impl AsFd, bound: SocketAddr) -> io::Result<()> {
    if !bound.ip().is_unspecified() {
        return Ok(());
    }
    let (level, option) = if bound.is_ipv6() {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: libc::c_int = 1;
    // SAFETY: the option value points to a live c_int whose size is passed; the descriptor is
    // open for the duration of the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The address that the kernel wrote.
pub(super) fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, which is smaller.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds a sockaddr_in6, which is smaller.
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// The local address that a received datagram was sent to, if the kernel said so.
pub(super) fn destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel filled msg_control with well-formed control messages of msg_controllen
    // bytes; the CMSG macros stay inside them; the data is read without alignment assumptions.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    // The local address, also for datagrams sent to a broadcast address.
                    return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
    }
    None
}

/// Room for an address of either family; the kernel looks at the family first.
pub(super) type Name = libc::sockaddr_in6;
const _: () = assert!(size_of::<libc::sockaddr_in>() <= size_of::<Name>());
const _: () = assert!(align_of::<libc::sockaddr_in>() <= align_of::<Name>());

/// An address as the kernel reads it, and its length.
pub(super) fn name_of(address: SocketAddr) -> (Name, libc::socklen_t) {
    let mut name = MaybeUninit::<Name>::zeroed();
    let length = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: `Name` is as large as and aligned for sockaddr_in, as asserted above.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            name.write(raw);
            size_of::<libc::sockaddr_in6>()
        }
    };
    // SAFETY: it was zeroed, which is valid, and then partly or wholly written.
    (unsafe { name.assume_init() }, length as libc::socklen_t)
}

/// Without system calls, so that Miri can run them (`docs/internals/unsafe.md`).
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_s_form() {
        for text in ["192.0.2.7:53", "255.255.255.255:65535", "[2001:db8::1]:443", "[::]:0"] {
            let before: SocketAddr = text.parse().unwrap();
            let (name, length) = name_of(before);
            let smallest = size_of::<libc::sockaddr_in>();
            assert!((smallest..=size_of_val(&name)).contains(&(length as usize)), "{length}");
            // SAFETY: all-zero bytes are a valid sockaddr_storage, which is larger than `Name` and
            // aligned for it.
            let stored = unsafe {
                let mut stored: libc::sockaddr_storage = std::mem::zeroed();
                (&raw mut stored).cast::<Name>().write(name);
                stored
            };
            assert_eq!(address(&stored), Some(before));
        }
        // SAFETY: all-zero bytes are a valid sockaddr_storage.
        assert_eq!(address(&unsafe { std::mem::zeroed() }), None, "no family");
    }

    #[test]
    fn control_messages_are_found_again() {
        for text in ["192.0.2.7", "2001:db8::1"] {
            let from: IpAddr = text.parse().unwrap();
            for mut control in [
                Control::leaving_from(Some(from)),
                Control::leaving_from(Some(from)).cut_into(1_200),
            ] {
                // SAFETY: all-zero bytes are a valid msghdr.
                let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
                control.attach_to(&mut header);
                assert_eq!(destination(&header), Some(from));
            }
        }
    }

    #[test]
    fn without_control_messages_nothing_is_found() {
        for mut control in [Control::leaving_from(None), Control::EMPTY.cut_into(1_200)] {
            // SAFETY: all-zero bytes are a valid msghdr.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            control.attach_to(&mut header);
            assert_eq!(destination(&header), None);
        }
    }
}
