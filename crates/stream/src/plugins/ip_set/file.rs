//! A file of networks, followed while somebody uses it.
//!
//! A line is a network, with an optional moment (Unix seconds) after which it no longer counts;
//! `#` begins a comment. The file must end with a line break, so that one whose last line is cut
//! off is not taken for whole, and it must have been left alone for a look. What cannot be read
//! leaves the set as it was.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use headgate_model::check::parse_network;

use crate::ip_set::IpSet;
use crate::plugin::Background;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Largest file, bytes: a million networks and more.
const LARGEST: u64 = 64 * 1024 * 1024;

/// A file and the set that it stands for.
#[derive(Debug)]
pub(super) struct SetFile {
    path: PathBuf,
    set: ArcSwap<IpSet>,
    /// Whether it is followed: it was read once.
    is_open: Mutex<bool>,
}

/// What tells one state of a file from another.
type Seen = Option<(SystemTime, u64)>;

struct Content {
    set: IpSet,
    lines: usize,
}

impl SetFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, set: ArcSwap::default(), is_open: Mutex::new(false) }
    }

    /// Reads the file for the first time, and again whenever it changes, until nobody uses it.
    ///
    /// # Errors
    /// It is not there, or a line is not right; the text names both.
    pub(super) fn open(file: &Arc<Self>, background: &dyn Background) -> Result<(), String> {
        let mut is_open = file.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_open {
            let read = seen(&file.path);
            let content = content(&file.path)?;
            file.set.store(Arc::new(content.set));
            let weak = Arc::downgrade(file);
            let follower = follow(weak, read, background.stopping());
            background.spawn(Box::pin(follower));
            *is_open = true;
        }
        Ok(())
    }

    /// Whether the address is in the set at that time, in Unix seconds.
    pub(super) fn contains(&self, ip: IpAddr, now: impl FnOnce() -> u64) -> bool {
        self.set.load().contains_at(ip, now)
    }

    /// Takes the present content of the file over, or says why not.
    fn refresh(&self) {
        match content(&self.path) {
            Ok(content) => {
                let path = self.path.display();
                let (lines, ranges) = (content.lines, content.set.len());
                tracing::info!(%path, lines, ranges, "an ip-set was read");
                self.set.store(Arc::new(content.set));
            }
            Err(error) => {
                tracing::error!(%error, "an ip-set cannot be read; it stays as it was");
            }
        }
    }
}

async fn follow(
    file: Weak<SetFile>,
    mut taken: Seen,
    mut stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
) {
    let mut before = taken;
    loop {
        tokio::select! {
            () = &mut stopping => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(file) = file.upgrade() else { return };
        let now = seen(&file.path);
        let is_changed = now != taken && now == before; // and left alone since the last look
        before = now;
        if is_changed {
            taken = now;
            // Reading and sorting hundreds of thousands of lines takes a while.
            let _ = tokio::task::spawn_blocking(move || file.refresh()).await;
        }
    }
}

fn seen(path: &Path) -> Seen {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn content(path: &Path) -> Result<Content, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > LARGEST {
        return Err(format!("{shown}: {size} bytes are more than {LARGEST}"));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    parse(&text).map_err(|error| format!("{shown}: {error}"))
}

fn parse(text: &str) -> Result<Content, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no line break, so the file may be incomplete".to_owned());
    }
    let mut networks = Vec::new();
    let mut lines = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(network) = words.next() else { continue };
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let network = parse_network(network)
            .ok_or_else(|| wrong(&format!("invalid ip address: {network}")))?;
        let until = words.next().map(str::parse::<u64>);
        let until = until.transpose().map_err(|_| wrong("the time is not in Unix seconds"))?;
        if words.next().is_some() {
            return Err(wrong("more than a network and a time"));
        }
        lines += 1;
        networks.push((network, until));
    }
    Ok(Content { set: IpSet::timed(networks), lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_comments_and_ends() {
        let text = "# banned\n10.0.0.0/8\n\n192.0.2.1 100 # until then\n192.0.2.2 200\n::1 300\n";
        let content = parse(text).unwrap_or_else(|error| panic!("{error}"));
        let has = |ip: &str| content.set.contains_at(ip.parse().unwrap(), || 100);
        assert_eq!(content.lines, 4);
        assert!(has("10.1.1.1") && has("192.0.2.2") && has("::1"));
        assert!(!has("192.0.2.1"), "its time is over");
        assert!(parse("").is_ok_and(|content| content.set.is_empty()));
    }

    #[test]
    fn what_is_not_right_is_named() {
        for (text, part) in [
            ("10.0.0.0/8\n10.0.0", "no line break"),
            ("10.0.0.0/8\nlocalhost\n", "line 2: invalid ip address: localhost"),
            ("10.0.0.0/8 soon\n", "line 1: the time is not in Unix seconds"),
            ("10.0.0.0/8 1 2\n", "line 1: more than a network and a time"),
        ] {
            let error = parse(text).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
