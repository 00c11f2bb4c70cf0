//! Counting in a Redis that several gateways share (policies `redis` and `redis-cluster`;
//! `spec/plugins.md`, section 3).
//!
//! Cores put jobs into a bounded queue and wait for the answer; one task on the control threads
//! talks to Redis. A session is a member of the sorted set `limit_conn:<key>` with the time at
//! which it is forgotten as its score, so that a gateway that dies leaves nothing for ever.

mod link;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use headgate_telemetry::LogLimit;
use headgate_upstream::client_tls::Connector;
use headgate_wire::redis_reply::Reply;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::plugin::Background;
use link::{Account, Link, Tls};

/// Jobs that wait for Redis; more sessions are an error at once.
const QUEUE: usize = 4096;
/// Jobs that are sent together.
const TOGETHER: usize = 128;
/// Redirections of a cluster that are followed for one job.
const REDIRECTIONS: usize = 5;
/// Hash slots of a cluster.
const SLOTS: u16 = 16384;

/// Forgets who is too old, and adds one more unless there are `ARGV[1]` already.
const ENTER: &str = "redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, ARGV[2]) \
    local count = redis.call('ZCARD', KEYS[1]) \
    if count >= tonumber(ARGV[1]) then return {0, count} end \
    redis.call('ZADD', KEYS[1], ARGV[2] + ARGV[3], ARGV[4]) \
    redis.call('EXPIRE', KEYS[1], ARGV[3]) \
    return {1, count + 1}";

static LOST: LogLimit = LogLimit::per_minute(6);

/// Where and how Redis is reached; the defaults are those of the schema.
#[derive(Clone, Deserialize)]
pub(super) struct RedisConf {
    key_ttl: u64,
    redis_host: Option<String>,
    redis_port: u16,
    redis_username: Option<String>,
    redis_password: Option<String>,
    redis_database: u32,
    redis_timeout: u64,
    redis_ssl: bool,
    redis_ssl_verify: bool,
    #[serde(default)]
    redis_cluster_nodes: Vec<String>,
    redis_cluster_ssl: bool,
    redis_cluster_ssl_verify: bool,
}

/// A Redis, or a cluster of them, as cores see it.
pub(super) struct Remote {
    queue: mpsc::Sender<Job>,
    /// Tells the sessions of this process from those of others.
    origin: String,
    next: AtomicU64,
    ttl: u64,
    /// Longest wait of a session.
    pub(super) patience: Duration,
}

enum Job {
    Enter { key: Vec<u8>, most: u64, ttl: u64, id: String, answer: oneshot::Sender<Answer> },
    Leave { key: Vec<u8>, id: String },
}

/// Which one the session is, from 1; `None` if there are too many.
type Answer = Result<Option<u64>, String>;

impl RedisConf {
    /// What tells one Redis from another, and how to log in from how not to.
    pub(super) fn key(&self, is_cluster: bool) -> String {
        let nodes = if is_cluster { self.redis_cluster_nodes.join(",") } else { String::new() };
        let account = (&self.redis_username, &self.redis_password);
        let tls = self.tls(is_cluster);
        format!(
            "{:?} {} {nodes} {account:?} {tls:?} {} {} {}",
            self.redis_host, self.redis_port, self.redis_database, self.redis_timeout, self.key_ttl
        )
    }
}

impl RedisConf {
    /// Whether it is reached over TLS, and whether its certificate is verified then.
    const fn tls(&self, is_cluster: bool) -> Option<bool> {
        match is_cluster {
            false if self.redis_ssl => Some(self.redis_ssl_verify),
            true if self.redis_cluster_ssl => Some(self.redis_cluster_ssl_verify),
            _ => None,
        }
    }
}

impl fmt::Debug for RedisConf {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisConf({:?}, {:?})", self.redis_host, self.redis_cluster_nodes)
    }
}

impl Remote {
    /// Whether the configuration can be used.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check(conf: &RedisConf, is_cluster: bool) -> Result<(), String> {
        if is_cluster && conf.redis_cluster_nodes.is_empty() {
            return Err("property \"redis_cluster_nodes\" is required".to_owned());
        }
        if !is_cluster && conf.redis_host.is_none() {
            return Err("property \"redis_host\" is required".to_owned());
        }
        Ok(())
    }

    /// Starts the task that talks to Redis. It ends with the last user of this.
    pub(super) fn start(conf: &RedisConf, is_cluster: bool, background: &dyn Background) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let timeout = Duration::from_millis(conf.redis_timeout);
        let nodes = match (is_cluster, &conf.redis_host) {
            (false, Some(host)) => vec![format!("{host}:{}", conf.redis_port)],
            _ => conf.redis_cluster_nodes.clone(),
        };
        let account = Account {
            tls: conf.tls(is_cluster).map(|verify| Tls { connector: Connector::new(None), verify }),
            username: conf.redis_username.clone(),
            password: conf.redis_password.clone(),
            // A cluster has one database only.
            database: if is_cluster { 0 } else { conf.redis_database },
        };
        let worker = Worker {
            nodes,
            is_cluster,
            account,
            timeout,
            links: HashMap::new(),
            slots: HashMap::new(),
        };
        background.spawn(Box::pin(worker.run(jobs, background.stopping())));
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            queue,
            origin: format!("{}-{}", std::process::id(), began.as_nanos()),
            next: AtomicU64::new(0),
            ttl: conf.key_ttl,
            patience: timeout.saturating_mul(4),
        }
    }

    /// Asks for a place; the answer comes from the control threads.
    ///
    /// # Errors
    /// Too many are waiting.
    pub(super) fn enter(self: &Arc<Self>, key: &[u8], most: u64) -> Result<RemotePlace, String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", self.origin);
        let (answer, receiver) = oneshot::channel();
        let job = Job::Enter { key: key.to_vec(), most, ttl: self.ttl, id: id.clone(), answer };
        self.queue.try_send(job).map_err(|_| "too many sessions wait for Redis".to_owned())?;
        let remote = Arc::clone(self);
        Ok(RemotePlace { remote, key: key.to_vec(), id, receiver, taken: false })
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A session that Redis counts; given back when dropped.
#[derive(Debug)]
pub(super) struct RemotePlace {
    remote: Arc<Remote>,
    key: Vec<u8>,
    id: String,
    receiver: oneshot::Receiver<Answer>,
    taken: bool,
}

impl RemotePlace {
    /// Waits for the answer.
    pub(super) async fn answer(&mut self) -> Answer {
        let answer = (&mut self.receiver).await;
        let answer = answer.unwrap_or_else(|_| Err("headgate is about to stop".to_owned()));
        self.taken = matches!(answer, Ok(Some(_)));
        answer
    }
}

impl Drop for RemotePlace {
    fn drop(&mut self) {
        if !self.taken {
            // From here on the task learns that nobody waits, and leaves by itself; unless it has
            // answered just before.
            self.receiver.close();
            if !matches!(self.receiver.try_recv(), Ok(Ok(Some(_)))) {
                return;
            }
        }
        let (key, id) = (std::mem::take(&mut self.key), std::mem::take(&mut self.id));
        if self.remote.queue.try_send(Job::Leave { key, id }).is_err() {
            lost("too many sessions wait for Redis");
        }
    }
}

fn lost(error: &str) {
    if let Some(suppressed) = LOST.check(Instant::now()) {
        tracing::warn!(error, suppressed, "an ended session stays counted in Redis until key_ttl");
    }
}

/// The task that talks to Redis.
struct Worker {
    nodes: Vec<String>,
    is_cluster: bool,
    account: Account,
    timeout: Duration,
    links: HashMap<String, Link>,
    /// Which node of a cluster has a slot, as far as known.
    slots: HashMap<u16, String>,
}

impl Worker {
    async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        stopping: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    ) {
        let mut stopping = stopping;
        let mut batch = Vec::with_capacity(TOGETHER);
        let mut is_stopping = false;
        loop {
            tokio::select! {
                biased;
                count = jobs.recv_many(&mut batch, TOGETHER) => if count == 0 { return },
                () = &mut stopping, if !is_stopping => {
                    is_stopping = true;
                    jobs.close(); // what is in the queue is still done
                }
            }
            if self.is_cluster {
                for job in batch.drain(..) {
                    self.in_cluster(job).await;
                }
            } else {
                self.in_one(std::mem::take(&mut batch)).await;
            }
        }
    }

    /// Does all jobs in one exchange; a second one for those whose script Redis has forgotten.
    async fn in_one(&mut self, jobs: Vec<Job>) {
        let Some(node) = self.nodes.first().cloned() else { return };
        let commands: Vec<_> = jobs.iter().map(|job| job.command(true)).collect();
        let replies = match self.exchange(&node, &commands).await {
            Ok(replies) => replies,
            Err(error) => {
                return jobs.into_iter().for_each(|job| drop(job.done(Err(error.clone()))));
            }
        };
        let mut forgotten = Vec::new();
        let mut given_up = Vec::new();
        for (job, reply) in jobs.into_iter().zip(replies) {
            match reply {
                Reply::Error(error) if error.starts_with("NOSCRIPT") => forgotten.push(job),
                reply => given_up.extend(job.done(Ok(reply))),
            }
        }
        let commands: Vec<_> = forgotten.iter().map(|job| job.command(false)).collect();
        if !commands.is_empty() {
            match self.exchange(&node, &commands).await {
                Ok(replies) => {
                    let done = forgotten.into_iter().zip(replies);
                    given_up.extend(done.filter_map(|(job, reply)| job.done(Ok(reply))));
                }
                Err(error) => {
                    forgotten.into_iter().for_each(|job| drop(job.done(Err(error.clone()))))
                }
            }
        }
        let commands: Vec<_> = given_up.iter().map(|job| job.command(true)).collect();
        if !commands.is_empty()
            && let Err(error) = self.exchange(&node, &commands).await
        {
            lost(&error);
        }
    }

    /// Does one job, wherever the cluster has its key.
    async fn in_cluster(&mut self, job: Job) {
        let mut job = Some(job);
        while let Some(current) = job.take() {
            let reply = self.redirected(&current).await;
            job = current.done(reply);
        }
    }

    async fn redirected(&mut self, job: &Job) -> Result<Reply, String> {
        let slot = slot(job.key());
        let known = self.slots.get(&slot).cloned();
        let mut seeds = self.nodes.clone().into_iter();
        let mut node = known.or_else(|| seeds.next()).unwrap_or_default();
        let (mut asking, mut by_hash) = (false, true);
        for _ in 0..REDIRECTIONS {
            let mut commands = vec![job.command(by_hash)];
            if asking {
                commands.insert(0, vec![b"ASKING".to_vec()]);
            }
            let reply = match self.exchange(&node, &commands).await {
                Ok(mut replies) => replies.pop().unwrap_or(Reply::Bulk(None)),
                // The node is gone: any other knows who took over.
                Err(error) => {
                    self.slots.remove(&slot);
                    node = seeds.next().ok_or(error)?;
                    continue;
                }
            };
            asking = false;
            let Reply::Error(error) = &reply else { return Ok(reply) };
            let mut words = error.split(' ');
            match (words.next(), words.nth(1)) {
                (Some("NOSCRIPT"), _) => by_hash = false,
                (Some("MOVED"), Some(to)) => {
                    node = address(to, &node);
                    self.slots.insert(slot, node.clone());
                }
                (Some("ASK"), Some(to)) => {
                    node = address(to, &node);
                    asking = true;
                }
                _ => return Ok(reply),
            }
        }
        Err("too many redirections of the Redis cluster".to_owned())
    }

    /// Sends commands to a node and reads as many replies.
    async fn exchange(
        &mut self,
        node: &str,
        commands: &[Vec<Vec<u8>>],
    ) -> Result<Vec<Reply>, String> {
        let result = tokio::time::timeout(self.timeout, async {
            if !self.links.contains_key(node) {
                let link = Link::connect(node, &self.account, ENTER).await?;
                self.links.insert(node.to_owned(), link);
            }
            match self.links.get_mut(node) {
                Some(link) => link.exchange(commands).await,
                None => Err("no connection".to_owned()),
            }
        });
        let result = result.await.unwrap_or_else(|_| Err("timeout".to_owned()));
        result.map_err(|error| {
            self.links.remove(node); // replies may still be under way in it
            format!("redis {node}: {error}")
        })
    }
}

impl Job {
    fn key(&self) -> &[u8] {
        match self {
            Self::Enter { key, .. } | Self::Leave { key, .. } => key,
        }
    }

    /// The command; a script goes by its hash or by its text. `Link` puts the hash in.
    fn command(&self, by_hash: bool) -> Vec<Vec<u8>> {
        match self {
            Self::Enter { key, most, ttl, id, .. } => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let now = now.unwrap_or_default().as_secs_f64();
                let script: &[u8] = if by_hash { link::BY_HASH } else { ENTER.as_bytes() };
                let name: &[u8] = if by_hash { b"EVALSHA" } else { b"EVAL" };
                let numbers = [most.to_string(), format!("{now:.3}"), ttl.to_string()];
                let mut words = vec![name.to_vec(), script.to_vec(), b"1".to_vec(), set(key)];
                words.extend(numbers.into_iter().map(String::into_bytes));
                words.push(id.clone().into_bytes());
                words
            }
            Self::Leave { key, id } => vec![b"ZREM".to_vec(), set(key), id.clone().into_bytes()],
        }
    }

    /// Passes the reply on. A place that nobody waits for any more is to be left: the job that
    /// does that is returned.
    fn done(self, reply: Result<Reply, String>) -> Option<Self> {
        match self {
            Self::Leave { .. } => {
                match reply {
                    Ok(Reply::Error(error)) | Err(error) => lost(&error),
                    Ok(_) => {}
                }
                None
            }
            Self::Enter { key, id, answer, .. } => {
                let result = reply.and_then(|reply| understood(&reply));
                let entered = matches!(result, Ok(Some(_)));
                let unwanted = answer.send(result).is_err() && entered;
                unwanted.then_some(Self::Leave { key, id })
            }
        }
    }
}

fn set(key: &[u8]) -> Vec<u8> {
    [b"limit_conn:", key].concat()
}

fn understood(reply: &Reply) -> Answer {
    match reply {
        Reply::Array(items) => match items.as_slice() {
            [Reply::Integer(1), Reply::Integer(count)] => {
                Ok(Some(u64::try_from(*count).unwrap_or(1)))
            }
            [Reply::Integer(0), ..] => Ok(None),
            _ => Err("an unexpected reply of Redis".to_owned()),
        },
        Reply::Error(error) => Err(error.clone()),
        _ => Err("an unexpected reply of Redis".to_owned()),
    }
}

/// Where a redirection leads. Without a host it is that of the node which answered (nodes with
/// `cluster-preferred-endpoint-type unknown-endpoint`).
fn address(to: &str, asked: &str) -> String {
    let (host, port) = to.rsplit_once(':').unwrap_or((to, ""));
    let same = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
    if host.is_empty() || host == "?" { format!("{same}:{port}") } else { to.to_owned() }
}

/// The hash slot of a key's set: CRC-16/XMODEM of it, or of what stands between the first braces
/// (Redis cluster specification, "Key distribution model").
fn slot(key: &[u8]) -> u16 {
    let name = set(key);
    let open = name.iter().position(|byte| *byte == b'{');
    let inner = open.and_then(|open| {
        let rest = name.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
        rest.get(..close)
    });
    crc16(inner.unwrap_or(&name)) % SLOTS
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"{user1000}.a"), crc16(b"user1000") % SLOTS);
        assert_eq!(slot(b"a{}b"), crc16(b"limit_conn:a{}b") % SLOTS);
    }

    #[test]
    fn redirections_may_leave_the_host_out() {
        assert_eq!(address("10.0.0.2:6380", "10.0.0.1:6379"), "10.0.0.2:6380");
        assert_eq!(address(":6380", "redis.test:6379"), "redis.test:6380");
        assert_eq!(address("?:6380", "[::1]:6379"), "[::1]:6380");
        assert_eq!(address("::1:6380", "10.0.0.1:6379"), "::1:6380");
    }

    #[test]
    fn replies_become_answers() {
        let reply =
            |allowed, count| Reply::Array(vec![Reply::Integer(allowed), Reply::Integer(count)]);
        assert_eq!(understood(&reply(1, 3)), Ok(Some(3)));
        assert_eq!(understood(&reply(0, 5)), Ok(None));
        assert_eq!(understood(&Reply::Error("LOADING".into())), Err("LOADING".into()));
        assert!(understood(&Reply::Integer(1)).is_err());
    }

    #[test]
    fn a_place_that_nobody_waits_for_is_left() {
        let (answer, receiver) = oneshot::channel();
        let job = |answer| Job::Enter { key: b"k".into(), most: 1, ttl: 1, id: "i".into(), answer };
        drop(receiver);
        let reply = Reply::Array(vec![Reply::Integer(1), Reply::Integer(1)]);
        let left = job(answer).done(Ok(reply.clone())).expect("somebody must leave");
        assert_eq!(left.command(true), [b"ZREM".as_slice(), b"limit_conn:k", b"i"]);
        let (answer, mut receiver) = oneshot::channel();
        assert!(job(answer).done(Ok(reply)).is_none());
        assert_eq!(receiver.try_recv(), Ok(Ok(Some(1))));
    }
}
