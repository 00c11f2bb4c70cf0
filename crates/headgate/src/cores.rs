//! The data threads and their listeners: bind first, then hand over; a failed bind changes
//! nothing.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headgate_model::listen::{ListenAddr, ListenerSpec, Transport};
use headgate_net::listener;
use headgate_stream::core::Command;
use headgate_stream::{Core, CoreHandle, Shared};
use headgate_telemetry::access_log;

/// Longest wait for the cores to carry out an order.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);
/// How often to look whether they have.
const SETTLE_CHECK: Duration = Duration::from_millis(1);

/// The running cores.
#[derive(Debug)]
pub(crate) struct Cores {
    handles: Mutex<Vec<CoreHandle>>,
    count: usize,
    reuse_port: bool,
    open: Mutex<Vec<ListenerSpec>>,
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {spec}: {error}{}", hint(.error))]
pub(crate) struct BindError {
    spec: ListenerSpec,
    error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (fix: stop the process that holds it, or choose another port)"
        }
        io::ErrorKind::AddrNotAvailable => " (fix: use an address of this machine)",
        io::ErrorKind::PermissionDenied => {
            " (fix: ports below 1024 need root or CAP_NET_BIND_SERVICE)"
        }
        _ => "",
    }
}

/// One descriptor for each core.
type Bound = (ListenerSpec, Vec<OwnedFd>);

impl Cores {
    /// Starts `count` threads.
    pub(crate) fn start(
        count: usize,
        shared: &Arc<Shared>,
        access: Option<&access_log::Writer>,
        pin: bool,
        reuse_port: bool,
    ) -> io::Result<Self> {
        let handles = (0..count).map(|number| {
            let sink = access.map(access_log::Writer::sink);
            Core::spawn(number, Arc::clone(shared), sink, move || {
                if pin {
                    pin_to(number);
                }
            })
        });
        let handles = Mutex::new(handles.collect::<io::Result<_>>()?);
        Ok(Self { handles, count, reuse_port, open: Mutex::default() })
    }

    /// The listeners that are open.
    pub(crate) fn listeners(&self) -> Vec<ListenerSpec> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `wanted` the open listeners. Those that stay are not touched.
    ///
    /// # Errors
    /// What could not be bound; nothing has changed then.
    pub(crate) fn listen(&self, wanted: &[ListenerSpec]) -> Result<Changed, Vec<BindError>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let old: std::collections::HashSet<_> = open.iter().cloned().collect();
        let new: std::collections::HashSet<_> = wanted.iter().cloned().collect();
        let (mut bound, mut errors) = (Vec::<Bound>::new(), Vec::new());
        for spec in wanted.iter().filter(|spec| !old.contains(*spec)) {
            match self.bind(spec) {
                Ok(fds) => bound.push((spec.clone(), fds)),
                Err(error) => errors.push(BindError { spec: spec.clone(), error }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut changed = Changed { opened: bound.len(), closed: 0 };
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        for (spec, fds) in bound {
            for (core, fd) in handles.iter().zip(fds) {
                core.send(Command::Open { spec: spec.clone(), fd });
            }
        }
        for spec in open.iter().filter(|spec| !new.contains(*spec)) {
            changed.closed += 1;
            handles.iter().for_each(|core| core.send(Command::Close(spec.clone())));
            remove_socket_file(spec);
        }
        *open = wanted.to_vec();
        Ok(changed)
    }

    fn bind(&self, spec: &ListenerSpec) -> io::Result<Vec<OwnedFd>> {
        let one = || match (&spec.addr, spec.transport) {
            (ListenAddr::Ip(address), Transport::Tcp) => {
                listener::bind_tcp(*address, self.reuse_port)
            }
            (ListenAddr::Ip(address), Transport::Udp) => {
                listener::bind_udp(*address, self.reuse_port)
            }
            (ListenAddr::Unix(path), _) => listener::bind_unix(path),
        };
        let first = one()?;
        let share = !self.reuse_port || matches!(spec.addr, ListenAddr::Unix(_));
        if share && spec.transport == Transport::Udp {
            // Two cores that read one socket would make two flows of one client.
            return Ok(vec![first]);
        }
        let mut fds = Vec::with_capacity(self.count);
        for _ in 1..self.count {
            fds.push(if share { first.as_fd().try_clone_to_owned()? } else { one()? });
        }
        fds.push(first);
        Ok(fds)
    }

    /// Returns once all cores have carried out what they were told so far, or after a second.
    pub(crate) async fn settle(&self) {
        let left = self.progress();
        let until = tokio::time::Instant::now() + SETTLE_LIMIT;
        while left.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(SETTLE_CHECK).await;
        }
    }

    /// A counter that is 0 once all cores have carried out what they were told so far.
    fn progress(&self) -> Arc<AtomicUsize> {
        let left = Arc::new(AtomicUsize::new(self.count));
        for core in self.handles.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            core.send(Command::Reached(Arc::clone(&left)));
        }
        left
    }

    /// Ends all sessions and waits for the threads.
    pub(crate) fn stop(&self) {
        let handles: Vec<_> =
            self.handles.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        for core in &handles {
            core.send(Command::Stop);
        }
        for core in handles {
            if !core.join() {
                tracing::error!("a core ended with a panic");
            }
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.drain(..).for_each(|spec| remove_socket_file(&spec));
    }
}

/// What [`Cores::listen`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) opened: usize,
    pub(crate) closed: usize,
}

fn remove_socket_file(spec: &ListenerSpec) {
    if let ListenAddr::Unix(path) = &spec.addr {
        let _ = std::fs::remove_file(path);
    }
}

fn pin_to(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu % std::thread::available_parallelism().map_or(1, usize::from));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core = cpu, %error, "cannot pin the core to a CPU");
    }
}
