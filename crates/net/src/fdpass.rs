//! Descriptors that travel to another process, with the message that says what they are
//! (unix(7), `SCM_RIGHTS`).
//!
//! A channel is a pair of sequenced-packet sockets: a packet arrives whole or not at all, with its
//! descriptors, and the end of one side is seen on the other.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most descriptors of one packet; the kernel takes 253.
pub const MOST_DESCRIPTORS: usize = 250;

/// The two ends of a channel. Neither waits, and neither survives `exec`.
///
/// # Errors
/// No descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends one packet.
///
/// # Errors
/// `WouldBlock` when the other side has to read first; `BrokenPipe` when it is gone.
pub fn send(channel: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = fds.len() <= MOST_DESCRIPTORS
        && (fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    if !fits {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let parts = [IoSlice::new(bytes)];
    rustix::net::sendmsg(channel, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet; 0 when the other side is gone. Its descriptors are added to `fds`.
///
/// # Errors
/// `WouldBlock` when nothing has arrived; `InvalidData` when the packet does not fit, or not all
/// of its descriptors could be had.
pub fn receive(
    channel: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(channel, &mut parts, &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        let text = "a packet arrived in part: too large, or no descriptors left";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_arrive_with_their_packet() {
        let (here, there) = pair().unwrap();
        let (mut one, other) = UnixStream::pair().unwrap();
        let many = vec![other.as_fd(); MOST_DESCRIPTORS];
        send(here.as_fd(), b"first", &many).unwrap();
        send(here.as_fd(), b"second", &[]).unwrap();
        let (mut buffer, mut fds) = ([0; 64], Vec::new());
        assert_eq!(receive(there.as_fd(), &mut buffer, &mut fds).unwrap(), 5);
        assert_eq!((&buffer[..5], fds.len()), (b"first".as_slice(), MOST_DESCRIPTORS));
        assert_eq!(receive(there.as_fd(), &mut buffer, &mut fds).unwrap(), 6);
        assert_eq!(fds.len(), MOST_DESCRIPTORS);
        let error = receive(there.as_fd(), &mut buffer, &mut fds).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(other);
        let mut passed = UnixStream::from(fds.pop().unwrap());
        passed.write_all(b"x").unwrap();
        let mut byte = [0];
        one.read_exact(&mut byte).unwrap();
        drop(here);
        assert_eq!(receive(there.as_fd(), &mut buffer, &mut fds).unwrap(), 0);
        assert_eq!(send(there.as_fd(), b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (here, there) = pair().unwrap();
        send(here.as_fd(), b"longer than four", &[]).unwrap();
        let error = receive(there.as_fd(), &mut [0; 4], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let many = vec![there.as_fd(); MOST_DESCRIPTORS + 1];
        let error = send(here.as_fd(), b"x", &many).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
