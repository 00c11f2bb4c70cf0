//! The side of the process that hands over. Whatever goes wrong before the successor has proven
//! itself, this process goes on as before.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headgate_model::settings::StoreSettings;
use headgate_net::fdpass;
use headgate_stream::Shared;
use headgate_stream::core::Scope;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::channel::Channel;
use super::lent::write_place;
use super::message::{FromNew, FromOld};
use super::progress::{Progress, Request, State};
use super::{Started, Succession};
use crate::drain;
use crate::gateway::Gateway;
use crate::pid::PidFile;
use crate::service_manager;
use crate::signals::{self, Signals};

/// How long the new process serves before the old one lets go of everything.
const PROBATION: Duration = Duration::from_secs(2);
/// Longest wait for one step that the new process has nothing to wait for.
const STEP: Duration = Duration::from_secs(10);
/// How often to look whether the new process has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How often the new process hears what was counted here.
const TELL: Duration = Duration::from_secs(1);
/// How long the new process may take to end after it was killed, and then the store to be free.
const RECLAIM: Duration = Duration::from_secs(5);

/// How an upgrade went.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Everything is as before.
    Failed,
    /// The new process is the one from now on; this one drains.
    Replaced(Link),
    /// A signal to stop came in between; the new process is gone.
    Stopped(signals::Request),
}

/// The way to the new process while this one drains.
#[derive(Debug)]
pub(crate) struct Link {
    channel: Channel,
    child: Child,
}

/// Why an upgrade ended early.
enum Broken {
    Failed(String),
    Stopped(signals::Request),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("the channel to the new process is broken: {error}"))
    }
}

/// Hands over to a new process. Returns when it has everything, or this process has it again.
pub(crate) async fn run(
    gateway: &Gateway,
    signals: &mut Signals,
    started: &Started,
    pid_file: &mut Option<PidFile>,
    chain: &mut Succession,
) -> Outcome {
    let path = gateway.settings.process.pid_file.clone();
    let request = match Request::take(&path) {
        Ok(request) => request.unwrap_or_default(),
        Err(error) => {
            tracing::error!(%error, "upgrade refused");
            return Outcome::Failed;
        }
    };
    let mut progress = Progress::begin(&path, &request.id);
    if let Some(reason) = refusal(gateway) {
        progress.say(State::Failed, &format!("upgrade refused: {reason}"));
        return Outcome::Failed;
    }
    service_manager::reloading();
    let program = request.binary.as_deref().unwrap_or_else(|| started.program());
    let (channel, mut child) = match start(started, program) {
        Ok(both) => both,
        Err(error) => {
            let program = program.display();
            let text = format!("upgrade failed: cannot start {program}: {error}; nothing changed");
            progress.say(State::Failed, &text);
            service_manager::ready();
            return Outcome::Failed;
        }
    };
    let new = child.id();
    progress.say(State::Running, &format!("process {new} was started: {}", program.display()));
    let mut step = Step {
        gateway,
        signals,
        chain,
        child: &mut child,
        channel,
        progress: &mut progress,
        deadline: Instant::now() + Duration::from_secs(request.seconds.max(1)),
    };
    match step.hand_over().await {
        Ok(()) => {
            let channel = step.channel;
            progress.say(State::Done, &format!("process {new} serves; this one drains"));
            service_manager::succeeded_by(new);
            Outcome::Replaced(Link { channel, child })
        }
        Err(broken) => {
            drop(step);
            let _ = child.kill();
            let ended = tokio::task::spawn_blocking(move || child.wait());
            if timeout(RECLAIM, ended).await.is_err() {
                // It executes nothing more, but something holds it: a broken disk, or a debugger.
                tracing::warn!(process = new, "the new process was killed and does not end");
            }
            take_back(gateway).await;
            if let Some(pid_file) = pid_file
                && let Err(error) = pid_file.write()
            {
                tracing::error!(path = %path.display(), %error, "cannot write the pid file again");
            }
            service_manager::ready();
            match broken {
                Broken::Failed(reason) => {
                    let text = format!("upgrade failed: {reason}; this process goes on as before");
                    progress.say(State::Failed, &text);
                    Outcome::Failed
                }
                Broken::Stopped(request) => {
                    let text = "upgrade given up: this process was told to stop";
                    progress.say(State::Failed, text);
                    Outcome::Stopped(request)
                }
            }
        }
    }
}

/// Why this process cannot be succeeded.
fn refusal(gateway: &Gateway) -> Option<&'static str> {
    if std::process::id() == 1 {
        return Some(
            "process 1 cannot be replaced, its end is the end of the container; start a new one beside it",
        );
    }
    // They would be lost.
    matches!(gateway.settings.store, StoreSettings::Api).then_some(
        "resources that are only in memory (API-driven standalone) cannot be handed over; restart it and PUT \
         them again",
    )
}

fn start(started: &Started, program: &Path) -> io::Result<(Channel, Child)> {
    let (here, there) = fdpass::pair()?;
    let child = started.again(program, there)?;
    Ok((Channel::new(here)?, child))
}

struct Step<'a> {
    gateway: &'a Gateway,
    signals: &'a mut Signals,
    chain: &'a mut Succession,
    child: &'a mut Child,
    channel: Channel,
    progress: &'a mut Progress,
    deadline: Instant,
}

impl Step<'_> {
    async fn hand_over(&mut self) -> Result<(), Broken> {
        let FromNew::Want { version } = self.hear("has not read its configuration").await? else {
            return Err(out_of_turn());
        };
        self.progress.say(State::Running, &format!("version {version} takes over"));
        self.give().await?;
        let FromNew::Prepared = self.hear("was not ready to serve").await? else {
            return Err(out_of_turn());
        };
        // Whoever asks for counters from now on asks the new process, and finds none that fell.
        self.gateway.management.pause();
        let counts = Box::new(self.gateway.shared.stats.hand_over());
        self.tell(&FromOld::Go { counts }).await?;
        let FromNew::Serving = self.hear("did not serve").await? else {
            return Err(out_of_turn());
        };
        if let Some(cores) = self.gateway.cores() {
            cores.pass_on();
        }
        self.gateway.planes.store.refuse_writes();
        self.gateway.planes.is_ready.store(false, Ordering::Release);
        let counts = Box::new(self.gateway.shared.stats.hand_over());
        self.tell(&FromOld::Counts { counts }).await?;
        self.progress.say(State::Running, "the new process serves; it is watched for a moment");
        self.watch(PROBATION).await?;
        self.tell(&FromOld::Commit).await?;
        self.deadline = Instant::now() + STEP;
        match self.hear("did not write its pid file").await? {
            FromNew::Committed => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    /// Closes the store and sends duplicates of all listening sockets.
    async fn give(&self) -> Result<(), Broken> {
        let store = &self.gateway.planes.store;
        let closed = timeout(STEP, store.let_go()).await;
        let closed = closed.map_err(|_| Broken::Failed("the store is too slow".to_owned()))?;
        closed.map_err(|error| Broken::Failed(format!("the store cannot be let go: {error}")))?;
        for (place, fd) in self.gateway.management.lend().map_err(no_duplicates)? {
            self.give_one(&place, &[fd.as_fd()]).await?;
        }
        if let Some(stream) = &self.gateway.stream {
            let cores = Arc::clone(&stream.cores);
            let lent = tokio::task::spawn_blocking(move || cores.lend()).await;
            let lent =
                lent.map_err(io::Error::other).and_then(|lent| lent).map_err(no_duplicates)?;
            for one in &lent {
                let place = crate::cores::place(&one.spec);
                let mut fds = vec![one.fd.as_fd()];
                fds.extend(one.passed_on.as_ref().map(|fd| fd.as_fd()));
                self.give_one(&place, &fds).await?;
            }
        }
        self.tell(&FromOld::Yours).await
    }

    async fn give_one(
        &self,
        place: &crate::cores::Place,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Broken> {
        let (transport, address) = write_place(place);
        tell(&self.channel, &FromOld::Socket { transport, address }, fds).await
    }

    async fn tell(&self, message: &FromOld) -> Result<(), Broken> {
        tell(&self.channel, message, &[]).await
    }

    /// Waits for the next message of the new process; `late` says what it has not done by the
    /// deadline.
    async fn hear(&mut self, late: &str) -> Result<FromNew, Broken> {
        loop {
            tokio::select! {
                message = self.channel.receive::<FromNew>() => match message? {
                    Some((FromNew::Failed { reason }, _)) => {
                        return Err(Broken::Failed(format!("the new process gave up: {reason}")));
                    }
                    Some((message, _)) => return Ok(message),
                    None => return Err(Broken::Failed(self.ended().await)),
                },
                () = sleep_until(self.deadline) => {
                    let text = format!("the new process {late} in time");
                    return Err(Broken::Failed(text));
                }
                request = self.signals.next() => self.obey(request)?,
                news = self.chain.news() => self.gateway.take_news(news),
            }
        }
    }

    /// Lets time pass, unless the new process ends.
    async fn watch(&mut self, how_long: Duration) -> Result<(), Broken> {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            tokio::select! {
                message = self.channel.receive::<FromNew>() => match message? {
                    Some((FromNew::Failed { reason }, _)) => {
                        return Err(Broken::Failed(format!("the new process gave up: {reason}")));
                    }
                    Some(_) => {}
                    None => return Err(Broken::Failed(self.ended().await)),
                },
                () = sleep_until(until) => {}
                request = self.signals.next() => self.obey(request)?,
                news = self.chain.news() => self.gateway.take_news(news),
            }
        }
        Ok(())
    }

    fn obey(&self, request: signals::Request) -> Result<(), Broken> {
        match request {
            signals::Request::Stop | signals::Request::GracefulStop => {
                return Err(Broken::Stopped(request));
            }
            signals::Request::ReopenLogs => self.gateway.reopen_logs(),
            signals::Request::Reload => {
                tracing::warn!("no reload during an upgrade; the new process reads config.yaml");
            }
            signals::Request::Upgrade => tracing::warn!("an upgrade is under way already"),
        }
        Ok(())
    }

    /// How the new process ended.
    async fn ended(&mut self) -> String {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return format!("the new process ended early with {status}; its log lines say why");
            }
            sleep(LOOK).await;
        }
        "the new process closed the channel".to_owned()
    }
}

fn no_duplicates(error: io::Error) -> Broken {
    Broken::Failed(format!("the listening sockets cannot be duplicated: {error}"))
}

fn out_of_turn() -> Broken {
    Broken::Failed("the new process spoke out of turn; is it another version?".to_owned())
}

async fn tell(channel: &Channel, message: &FromOld, fds: &[BorrowedFd<'_>]) -> Result<(), Broken> {
    match timeout(STEP, channel.send(message, fds)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Broken::Failed("the new process does not listen".to_owned())),
    }
}

/// Everything as before.
async fn take_back(gateway: &Gateway) {
    if let Some(cores) = gateway.cores() {
        cores.take_back();
    }
    let until = Instant::now() + RECLAIM;
    while let Err(error) = gateway.planes.store.take_back().await {
        if Instant::now() >= until {
            tracing::error!(%error, "the store may be in use by another process");
            break;
        }
        sleep(LOOK).await;
    }
    gateway.management.resume(&gateway.servers, &gateway.stop_servers);
    gateway.planes.is_ready.store(true, Ordering::Release);
}

impl Link {
    /// Lets the sessions of this process end as `headgate.drain.stop` says. An older process that
    /// still drains is waited for, however long this one has: its datagrams come through here.
    pub(crate) async fn drain(
        &mut self,
        gateway: &Gateway,
        signals: &mut Signals,
        chain: &mut Succession,
    ) {
        gateway.planes.listeners.hand_over();
        let policy = gateway.settings.drain.stop;
        if let Some(cores) = gateway.cores() {
            cores.retire();
            cores.settle().await;
            cores.drain(&drain::order(&policy, Scope::All));
        }
        let limit = drain::longest(&policy);
        gateway.tell_drain(limit);
        let until = limit.map(|limit| Instant::now() + limit);
        let is_late = || until.is_some_and(|until| Instant::now() >= until);
        let mut tell_at = Instant::now();
        while (gateway.shared.is_serving() && !is_late()) || chain.has_predecessor() {
            if Instant::now() >= tell_at {
                tell_at = Instant::now() + TELL;
                self.tell_counts(&gateway.shared).await;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                news = chain.news() => gateway.take_news(news),
                request = signals.next() => match request {
                    signals::Request::Stop | signals::Request::GracefulStop => break,
                    signals::Request::ReopenLogs => gateway.reopen_logs(),
                    signals::Request::Reload | signals::Request::Upgrade => {
                        tracing::warn!(
                            new = self.child.id(),
                            "this process only drains; the signal is for the new one"
                        );
                    }
                },
            }
        }
    }

    /// Tells the new process what was counted here.
    pub(crate) async fn tell_counts(&self, shared: &Shared) {
        let counts = Box::new(shared.stats.hand_over());
        let _ = timeout(STEP, self.channel.send(&FromOld::Counts { counts }, &[])).await;
    }
}
