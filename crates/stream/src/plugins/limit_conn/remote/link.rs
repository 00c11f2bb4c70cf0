//! One connection to one Redis. Callers limit its time.

use headgate_upstream::client_tls::{Connection, Connector};
use headgate_wire::redis_reply::{Reply, decode, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Stands for the hash of the script in a command.
pub(super) const BY_HASH: &[u8] = b"<hash>";

/// More bytes than this are no reply that somebody waits for.
const LONGEST: usize = 1 << 20;

/// TLS to Redis.
pub(super) struct Tls {
    pub(super) connector: Connector,
    /// Whether its certificate must be for the host and from an authority that the system trusts.
    pub(super) verify: bool,
}

/// How to log in.
pub(super) struct Account {
    pub(super) tls: Option<Tls>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
}

pub(super) struct Link {
    stream: Box<dyn Connection>,
    input: Vec<u8>,
    /// What this Redis calls the script.
    hash: Vec<u8>,
}

impl Link {
    /// Connects, logs in, and leaves `script` there.
    pub(super) async fn connect(
        node: &str,
        account: &Account,
        script: &str,
    ) -> Result<Self, String> {
        let stream = TcpStream::connect(node).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true); // only a matter of speed
        let mut stream: Box<dyn Connection> = Box::new(stream);
        if let Some(Tls { connector, verify }) = &account.tls {
            let host = node.rsplit_once(':').map_or(node, |(host, _)| host);
            let secured = connector.connect(stream, host, *verify).await;
            stream = secured.map_err(|error| format!("TLS: {error}"))?;
        }
        let mut link = Self { stream, input: Vec::new(), hash: Vec::new() };
        let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
        match (&account.username, &account.password) {
            (Some(name), Some(password)) => commands.push(words(&["AUTH", name, password])),
            (None, Some(password)) => commands.push(words(&["AUTH", password])),
            _ => {}
        }
        if account.database > 0 {
            commands.push(words(&["SELECT", &account.database.to_string()]));
        }
        commands.push(words(&["SCRIPT", "LOAD", script]));
        for reply in link.exchange(&commands).await? {
            match reply {
                Reply::Error(error) => return Err(error),
                Reply::Bulk(Some(hash)) => link.hash = hash,
                _ => {}
            }
        }
        Ok(link)
    }

    /// Sends commands, and reads as many replies.
    pub(super) async fn exchange(
        &mut self,
        commands: &[Vec<Vec<u8>>],
    ) -> Result<Vec<Reply>, String> {
        let mut output = Vec::new();
        for command in commands {
            let hash = self.hash.as_slice();
            let words = command.iter().map(|word| if word == BY_HASH { hash } else { word });
            encode(&words.collect::<Vec<_>>(), &mut output);
        }
        self.stream.write_all(&output).await.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())?;
        let mut replies = Vec::with_capacity(commands.len());
        while replies.len() < commands.len() {
            match decode(&self.input).map_err(|error| error.to_string())? {
                Some((reply, length)) => {
                    self.input.drain(..length.min(self.input.len()));
                    replies.push(reply);
                }
                None => {
                    let count = self.stream.read_buf(&mut self.input).await;
                    match count.map_err(|error| error.to_string())? {
                        0 => return Err("the connection was closed".to_owned()),
                        _ if self.input.len() > LONGEST => {
                            return Err("too long a reply".to_owned());
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(replies)
    }
}
