//! Listening sockets in the hands of two processes: lending them to a successor, and serving those
//! of a predecessor. The order of events is in `docs/internals/upgrade.md`.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::Sender;

use headgate_model::listen::{ListenerSpec, Transport};

use super::Core;

/// A duplicate of a listening socket.
#[derive(Debug)]
pub struct Lent {
    /// What it is.
    pub spec: ListenerSpec,
    /// The socket.
    pub fd: OwnedFd,
    /// UDP: where datagrams of flows not known here will be passed on.
    pub passed_on: Option<OwnedFd>,
}

impl Core {
    pub(super) fn lend(&self, to: &Sender<io::Result<Lent>>) {
        let tcp = self.listeners.duplicates();
        let tcp = tcp.map(|all| {
            all.into_iter().map(|(spec, fd)| Lent { spec, fd, passed_on: None }).collect::<Vec<_>>()
        });
        for lent in [tcp, self.udp.lend()] {
            match lent {
                Ok(all) => all.into_iter().for_each(|one| drop(to.send(Ok(one)))),
                Err(error) => drop(to.send(Err(error))),
            }
        }
    }

    pub(super) fn adopt(&self, spec: ListenerSpec, fd: OwnedFd, predecessor: Option<OwnedFd>) {
        let adopted = match spec.transport {
            Transport::Tcp => self.listeners.open(self, spec.clone(), fd),
            Transport::Udp => self.udp.adopt(self, spec.clone(), fd, predecessor),
        };
        if let Err(error) = adopted {
            tracing::error!(core = self.number, listener = %spec, %error, "cannot serve");
        }
    }

    pub(super) fn pass_on(self: &Rc<Self>) {
        self.listeners.pass_on(self, true);
        self.udp.pass_on();
    }

    pub(super) fn take_back(self: &Rc<Self>) {
        self.listeners.pass_on(self, false);
        self.udp.take_back();
    }

    pub(super) fn retire(self: &Rc<Self>) {
        self.listeners.close_passed_on(self);
        self.udp.retire();
    }
}
