//! Messages with descriptors between two processes: JSON, in pieces of at most 32 KiB.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use headgate_net::fdpass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Bytes of a message in one packet; the first byte of a packet says whether more follow.
const PIECE: usize = 32 << 10;
/// Largest message.
const LARGEST: usize = 64 << 20;
const LAST: u8 = 0;
const MORE: u8 = 1;

/// One end.
#[derive(Debug)]
pub(super) struct Channel {
    /// A socket of sequenced packets, for which tokio has no type of its own.
    socket: UnixDatagram,
    /// What has arrived of the next message.
    text: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Channel {
    /// Call it on a thread of the runtime.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let socket = UnixDatagram::from_std(fd.into())?;
        Ok(Self { socket, text: Vec::new(), fds: Vec::new() })
    }

    /// Sends a message; the descriptors travel with its first piece.
    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut fds = fds;
        for packet in packets(message)? {
            loop {
                self.socket.writable().await?;
                let send = || fdpass::send(self.socket.as_fd(), &packet, fds);
                match self.socket.try_io(Interest::WRITABLE, send) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => break sent?,
                }
            }
            fds = &[];
        }
        Ok(())
    }

    /// The next message; `None` when the other process is gone. May be cancelled.
    pub(super) async fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut packet = vec![0; PIECE + 1];
        loop {
            self.socket.readable().await?;
            let (socket, fds) = (&self.socket, &mut self.fds);
            let receive = || fdpass::receive(socket.as_fd(), &mut packet, fds);
            let received = match socket.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                received => received?,
            };
            let Some((more, piece)) = packet.get(..received).and_then(<[u8]>::split_first) else {
                return Ok(None);
            };
            if self.text.len() + piece.len() > LARGEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
            }
            self.text.extend_from_slice(piece);
            if *more == LAST {
                let text = std::mem::take(&mut self.text);
                let fds = std::mem::take(&mut self.fds);
                return Ok(Some((serde_json::from_slice(&text)?, fds)));
            }
        }
    }
}

/// A message as it travels.
pub(super) fn packets(message: &impl Serialize) -> io::Result<Vec<Vec<u8>>> {
    let text = serde_json::to_vec(message)?;
    let mut packets: Vec<_> = text.chunks(PIECE).map(|piece| [&[MORE], piece].concat()).collect();
    if let Some(first) = packets.last_mut().and_then(|last| last.first_mut()) {
        *first = LAST;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_messages_arrive_whole_with_their_descriptors() {
        let (here, there) = fdpass::pair().unwrap();
        let (here, mut there) = (Channel::new(here).unwrap(), Channel::new(there).unwrap());
        let long = "x".repeat(3 * PIECE + 5);
        let extra = std::fs::File::open("/dev/null").unwrap();
        let fds = [extra.as_fd(), extra.as_fd()];
        let sent = async {
            here.send(&long, &fds).await.unwrap();
            here.send(&"short", &[]).await.unwrap();
        };
        let received = async {
            let (text, fds) = there.receive::<String>().await.unwrap().unwrap();
            assert_eq!((text.len(), fds.len()), (long.len(), 2));
            let (text, fds) = there.receive::<String>().await.unwrap().unwrap();
            assert_eq!((text.as_str(), fds.len()), ("short", 0));
        };
        tokio::join!(sent, received);
        drop(here);
        assert!(there.receive::<String>().await.unwrap().is_none());
    }
}
