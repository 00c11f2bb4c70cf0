//! The data threads and their listeners: bind first, then hand over; a failed bind changes
//! nothing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use headgate_model::listen::{ListenAddr, ListenerSpec, Transport};
use headgate_model::settings::DrainPolicy;
use headgate_net::{Pulse, listener};
use headgate_stream::core::{Command, DrainOrder, Lent, Remaining, Scope};
use headgate_stream::{Core, CoreHandle, Shared};
use headgate_telemetry::access_log;

use crate::drain;
use crate::upgrade::Socket;

/// Longest wait for the cores to carry out an order.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);
/// How often to look whether they have.
const SETTLE_CHECK: Duration = Duration::from_millis(1);
/// Longest wait for the duplicates of one socket.
const LEND_LIMIT: Duration = Duration::from_secs(5);

/// The running cores.
#[derive(Debug)]
pub(crate) struct Cores {
    handles: Mutex<Vec<CoreHandle>>,
    count: usize,
    reuse_port: bool,
    open: Mutex<Vec<ListenerSpec>>,
    /// Sockets that are bound and wait to be wanted.
    held: Mutex<HashMap<Place, Vec<Socket>>>,
    /// How the sessions of closed listeners end.
    on_close: Mutex<DrainPolicy>,
    pulses: Vec<Arc<Pulse>>,
}

/// What two listeners cannot share.
pub(crate) type Place = (Transport, ListenAddr);

/// See [`Place`].
pub(crate) fn place(spec: &ListenerSpec) -> Place {
    (spec.transport, spec.addr.clone())
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {spec}: {error}{}", hint(.error))]
pub(crate) struct BindError {
    pub(crate) spec: ListenerSpec,
    pub(crate) error: io::Error,
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
type Bound = (ListenerSpec, Vec<Socket>);

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
        let handles: Vec<CoreHandle> = handles.collect::<io::Result<_>>()?;
        Ok(Self {
            pulses: handles.iter().map(|core| Arc::clone(core.pulse())).collect(),
            handles: Mutex::new(handles),
            count,
            reuse_port,
            open: Mutex::default(),
            held: Mutex::default(),
            on_close: Mutex::default(),
        })
    }

    /// The listeners that are open.
    pub(crate) fn listeners(&self) -> Vec<ListenerSpec> {
        lock(&self.open).clone()
    }

    /// Makes `must` and `may` the open listeners. Those that stay are not touched; one that only
    /// has other switches keeps its sockets. Answers also which of `may` could not be bound.
    ///
    /// # Errors
    /// What of `must` could not be bound; nothing has changed then.
    pub(crate) fn listen(
        &self,
        must: &[ListenerSpec],
        may: &[ListenerSpec],
    ) -> Result<(Changed, Vec<BindError>), Vec<BindError>> {
        let mut open = lock(&self.open);
        let known: HashSet<Place> = open.iter().map(place).collect();
        let is_new = |spec: &&ListenerSpec| !known.contains(&place(spec));
        let (mut bound, mut errors) = (Vec::<Bound>::new(), Vec::new());
        let mut bind = |spec: &ListenerSpec, errors: &mut Vec<BindError>| {
            let held = lock(&self.held).remove(&place(spec));
            match held.map_or_else(|| self.bind(spec), Ok) {
                Ok(fds) => bound.push((spec.clone(), fds)),
                Err(error) => errors.push(BindError { spec: spec.clone(), error }),
            }
        };
        must.iter().filter(is_new).for_each(|spec| bind(spec, &mut errors));
        if !errors.is_empty() {
            return Err(errors);
        }
        may.iter().filter(is_new).for_each(|spec| bind(spec, &mut errors));
        let mut wanted: HashMap<Place, ListenerSpec> =
            must.iter().chain(may).map(|spec| (place(spec), spec.clone())).collect();
        for error in &errors {
            wanted.remove(&place(&error.spec));
        }
        let mut changed = Changed { opened: bound.len(), closed: 0 };
        let handles = lock(&self.handles);
        for (spec, fds) in bound {
            // A predecessor may have had more cores: then some of these get several sockets.
            for (core, socket) in handles.iter().cycle().zip(fds) {
                let Socket { fd, predecessor } = socket;
                core.send(Command::Adopt { spec: spec.clone(), fd, predecessor });
            }
        }
        for from in open.iter() {
            match wanted.get(&place(from)) {
                Some(to) if to == from => {}
                Some(to) => handles.iter().for_each(|core| {
                    core.send(Command::Change { from: from.clone(), to: to.clone() });
                }),
                None => {
                    changed.closed += 1;
                    let order = drain::order(&lock(&self.on_close), Scope::Listener(from.clone()));
                    for core in handles.iter() {
                        core.send(Command::Close(from.clone()));
                        core.send(Command::Drain(order.clone()));
                    }
                    remove_socket_file(from);
                }
            }
        }
        let is_open = |spec: &&ListenerSpec| wanted.contains_key(&place(spec));
        *open = must.iter().chain(may).filter(is_open).cloned().collect();
        Ok((changed, errors))
    }

    /// Binds what is not open yet, so that [`Cores::listen`] finds it bound.
    ///
    /// # Errors
    /// What could not be bound; nothing is held then.
    pub(crate) fn hold(self: &Arc<Self>, specs: &[ListenerSpec]) -> Result<Held, Vec<BindError>> {
        let open: HashSet<Place> = lock(&self.open).iter().map(place).collect();
        let mut held = Held { cores: Arc::clone(self), places: Vec::new() };
        let mut errors = Vec::new();
        for spec in specs.iter().filter(|spec| !open.contains(&place(spec))) {
            if lock(&self.held).contains_key(&place(spec)) {
                continue;
            }
            match self.bind(spec) {
                Ok(fds) => {
                    held.places.push(place(spec));
                    lock(&self.held).insert(place(spec), fds);
                }
                Err(error) => errors.push(BindError { spec: spec.clone(), error }),
            }
        }
        if errors.is_empty() { Ok(held) } else { Err(errors) }
    }

    /// Keeps sockets of a predecessor, so that [`Cores::listen`] finds them bound.
    pub(crate) fn inherit(&self, sockets: HashMap<Place, Vec<Socket>>) {
        let mut held = lock(&self.held);
        for ((transport, at), mut sockets) in sockets {
            // Each core gets a share of the clients; those of one UDP socket stay on one core.
            let given = sockets.len();
            while transport == Transport::Tcp && sockets.len() < self.count {
                let next = sockets.get(sockets.len() % given.max(1));
                let Some(Ok(fd)) = next.map(|it| it.fd.try_clone()) else { break };
                sockets.push(fd.into());
            }
            held.insert((transport, at), sockets);
        }
    }

    /// Closes inherited sockets that nobody wanted, and says which those were.
    pub(crate) fn drop_unwanted(&self) -> Vec<Place> {
        lock(&self.held).drain().map(|(place, _)| place).collect()
    }

    /// Duplicates of all listening sockets. Blocks for as long as the cores take.
    ///
    /// # Errors
    /// No descriptors left; a core does not answer.
    pub(crate) fn lend(&self) -> io::Result<Vec<Lent>> {
        let (lend, lent) = mpsc::channel();
        for core in lock(&self.handles).iter() {
            core.send(Command::Lend(lend.clone()));
        }
        drop(lend);
        let mut all = Vec::new();
        loop {
            match lent.recv_timeout(LEND_LIMIT) {
                Ok(one) => all.push(one?),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(all),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(io::Error::other("a core does not answer"));
                }
            }
        }
    }

    /// A successor accepts from now on.
    pub(crate) fn pass_on(&self) {
        lock(&self.handles).iter().for_each(|core| core.send(Command::PassOn));
    }

    /// The successor is gone.
    pub(crate) fn take_back(&self) {
        lock(&self.handles).iter().for_each(|core| core.send(Command::TakeBack));
    }

    /// The successor stays. Files of Unix sockets are its own now.
    pub(crate) fn retire(&self) {
        lock(&self.open).clear();
        lock(&self.handles).iter().for_each(|core| core.send(Command::Retire));
    }

    fn bind(&self, spec: &ListenerSpec) -> io::Result<Vec<Socket>> {
        Ok(self.bind_all(spec)?.into_iter().map(Socket::from).collect())
    }

    fn bind_all(&self, spec: &ListenerSpec) -> io::Result<Vec<OwnedFd>> {
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

    /// The listeners that close from now on let their sessions end so.
    pub(crate) fn set_on_close(&self, policy: DrainPolicy) {
        *lock(&self.on_close) = policy;
    }

    /// Lets sessions end.
    pub(crate) fn drain(&self, order: &DrainOrder) {
        lock(&self.handles).iter().for_each(|core| core.send(Command::Drain(order.clone())));
    }

    /// Lets sessions end that hold so many bytes together; 0: only what is kept for later goes.
    pub(crate) fn shed(&self, bytes: u64) {
        let each = bytes.div_ceil(self.count.max(1) as u64);
        lock(&self.handles).iter().for_each(|core| core.send(Command::Shed(each)));
    }

    /// What is left of everything that drains; cores that do not answer in time are left out.
    pub(crate) fn remaining(&self, limit: Duration) -> Vec<Remaining> {
        let (answer, answers) = std::sync::mpsc::channel();
        for core in lock(&self.handles).iter() {
            core.send(Command::Remaining(answer.clone()));
        }
        drop(answer);
        let until = Instant::now() + limit;
        let next = || answers.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
        std::iter::from_fn(next).flatten().collect()
    }

    /// What the cores do, in order of their numbers.
    pub(crate) fn pulses(&self) -> &[Arc<Pulse>] {
        &self.pulses
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
        for core in lock(&self.handles).iter() {
            core.send(Command::Reached(Arc::clone(&left)));
        }
        left
    }

    /// Ends all sessions and waits for the threads.
    pub(crate) fn stop(&self) {
        let handles: Vec<_> = lock(&self.handles).drain(..).collect();
        for core in &handles {
            core.send(Command::Stop);
        }
        for core in handles {
            if !core.join() {
                tracing::error!("a core ended with a panic");
            }
        }
        let mut open = lock(&self.open);
        open.drain(..).for_each(|spec| remove_socket_file(&spec));
    }
}

/// Bound sockets that wait to be wanted; those that nobody wanted are closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    cores: Arc<Cores>,
    places: Vec<Place>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = lock(&self.cores.held);
        for place in &self.places {
            if held.remove(place).is_some()
                && let ListenAddr::Unix(path) = &place.1
            {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
