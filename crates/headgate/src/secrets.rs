//! What `$secret://` references stand for: asked of secret managers on the control side, kept, and
//! asked again before it is too old. Compiling looks up what is known and never waits.
//!
//! A reference is fetched before the first configuration that has it is compiled. One that cannot
//! be resolved leaves its route or certificate unusable, with a problem that says why, and is asked
//! again sooner. A value that was known stays in use while its manager cannot be reached. Values are
//! never logged; references are.

mod aws;
mod gcp;
mod http;
mod vault;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headgate_model::resource_set::Collection;
use headgate_model::settings::SecretSettings;
use headgate_upstream::client_tls::Connector;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What every reference begins with.
const SCHEME: &str = "$secret://";
/// Most requests at a time.
const TOGETHER: usize = 16;
/// Nothing is due; somebody will say so.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// The references of a configuration and what they stand for.
pub(crate) struct Secrets {
    times: SecretSettings,
    connector: Arc<Connector>,
    state: Mutex<State>,
    /// Something new has to be kept fresh.
    wanted: Notify,
    /// A value is another than before.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Documents of the secret managers by id (`vault/1`), with their revisions.
    managers: HashMap<String, (u64, Arc<Value>)>,
    known: BTreeMap<String, Known>,
    /// Grows when a known reference gets another value.
    generation: u64,
}

/// What was answered for a reference, and when to ask again.
struct Known {
    result: Result<String, String>,
    /// Whether the last attempt failed, and the value is an older one.
    is_old: bool,
    /// Revision of the manager's document that was used; 0 when there was none.
    manager: u64,
    due: Instant,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Default for Secrets {
    fn default() -> Self {
        Self::new(SecretSettings::default(), None)
    }
}

impl Secrets {
    /// References that are kept as long as `times` says, from managers whose certificates are
    /// checked against `trusted` (`None`: the system's).
    pub(crate) fn new(times: SecretSettings, trusted: Option<&Path>) -> Self {
        Self {
            times,
            connector: Arc::new(Connector::new(trusted)),
            state: Mutex::default(),
            wanted: Notify::new(),
            changed: Notify::new(),
        }
    }

    /// The value of a reference.
    ///
    /// # Errors
    /// Why it has none.
    pub(crate) fn look_up(&self, reference: &str) -> Result<String, String> {
        match self.state().known.get(reference) {
            Some(known) => known.result.clone(),
            None => Err("it was not asked for".to_owned()),
        }
    }

    /// Fetches what is `wanted` and not known, and forgets the rest. Waits as long as a manager may
    /// take to answer.
    pub(crate) async fn prepare(&self, managers: &Collection<Value>, wanted: BTreeSet<String>) {
        let missing = {
            let mut state = self.state();
            state.managers = managers
                .iter()
                .map(|entry| (entry.id.clone(), (entry.modified, Arc::new(entry.value.clone()))))
                .collect();
            state.known.retain(|reference, _| wanted.contains(reference));
            wanted.into_iter().filter(|reference| !state.is_current(reference)).collect::<Vec<_>>()
        };
        if !missing.is_empty() {
            self.fetch(missing).await;
            self.wanted.notify_one();
        }
    }

    /// How many references have a value, have an older value because the last attempt failed, and
    /// have none.
    pub(crate) fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for known in self.state().known.values() {
            let [fresh, old, failed] = &mut counts;
            *match (&known.result, known.is_old) {
                (Ok(_), false) => fresh,
                (Ok(_), true) => old,
                (Err(_), _) => failed,
            } += 1;
        }
        counts
    }

    /// Grows when a value has changed, and what was compiled with it is out of date.
    pub(crate) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Resolves when a value has changed by itself.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Asks again for what is due, until the process ends.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        loop {
            let next = self.state().known.values().map(|known| known.due).min();
            tokio::select! {
                () = sleep_until(next.unwrap_or_else(|| Instant::now() + LONG)) => {}
                () = self.wanted.notified() => continue,
            }
            let now = Instant::now();
            let due = |(reference, known): (&String, &Known)| {
                (known.due <= now).then(|| reference.clone())
            };
            let due: Vec<_> = self.state().known.iter().filter_map(due).collect();
            let before = self.generation();
            self.fetch(due).await;
            if self.generation() != before {
                tracing::info!("a secret has changed; the configuration is compiled anew");
                self.changed.notify_one();
            }
        }
    }

    async fn fetch(&self, references: Vec<String>) {
        let mut running = JoinSet::new();
        let mut waiting = references.into_iter();
        loop {
            while running.len() < TOGETHER
                && let Some(reference) = waiting.next()
            {
                let (question, manager) = self.state().question(&reference);
                let connector = Arc::clone(&self.connector);
                running.spawn(async move {
                    let result = match question {
                        Ok(question) => question.ask(&connector).await,
                        Err(error) => Err(error),
                    };
                    (reference, manager, result)
                });
            }
            match running.join_next().await {
                Some(Ok((reference, manager, result))) => self.take(reference, manager, result),
                Some(Err(error)) => tracing::error!(%error, "asking a secret manager failed"),
                None => return,
            }
        }
    }

    fn take(&self, reference: String, manager: u64, mut result: Result<String, String>) {
        let mut state = self.state();
        let wait = if result.is_ok() { self.times.valid } else { self.times.failed };
        let before = state.known.get(&reference);
        let mut is_old = false;
        if let Err(error) = &result {
            match before.map(|known| (known.manager, &known.result)) {
                Some((asked, Ok(value))) if asked == manager && manager != 0 => {
                    tracing::warn!(
                        "failed to resolve secret reference: {reference}, err: {error}; the value \
                         that was known stays in use"
                    );
                    (result, is_old) = (Ok(value.clone()), true);
                }
                Some((_, Err(told))) if told == error => {}
                _ => {
                    tracing::error!("failed to resolve secret reference: {reference}, err: {error}")
                }
            }
        }
        if result.is_ok() && !is_old && before.is_some_and(|it| it.is_old || it.result.is_err()) {
            tracing::info!("resolved secret reference: {reference}");
        }
        let is_other = before.is_some_and(|known| known.result != result);
        state.generation += u64::from(is_other);
        let due = Instant::now() + wait;
        state.known.insert(reference, Known { result, is_old, manager, due });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a reference was asked of its manager as that is configured now.
    fn is_current(&self, reference: &str) -> bool {
        let manager = split(reference).ok().and_then(|parts| self.managers.get(&parts.manager));
        let manager = manager.map_or(0, |(modified, _)| *modified);
        self.known.get(reference).is_some_and(|known| known.manager == manager)
    }

    /// What to ask whom, and the revision of the manager's document.
    fn question(&self, reference: &str) -> (Result<Question, String>, u64) {
        let parts = match split(reference) {
            Ok(parts) => parts,
            Err(error) => return (Err(error), 0),
        };
        let Some((modified, document)) = self.managers.get(&parts.manager) else {
            return (Err(format!("no secret conf, secret_uri: {reference}")), 0);
        };
        (Question::new(&parts, document), *modified)
    }
}

/// A question to a manager.
enum Question {
    Vault(vault::Question),
    Aws(aws::Question),
    Gcp(Box<gcp::Question>),
}

impl Question {
    fn new(parts: &Parts, document: &Value) -> Result<Self, String> {
        let (key, env) = (parts.key.as_str(), |name: &str| std::env::var(name).ok());
        match parts.kind.as_str() {
            "vault" => vault::Question::new(document, key, &env).map(Self::Vault),
            "aws" => aws::Question::new(document, key, &env).map(Self::Aws),
            "gcp" => gcp::Question::new(document, key, &env).map(Box::new).map(Self::Gcp),
            other => Err(format!("no secret manager: {other}")),
        }
    }

    async fn ask(self, connector: &Connector) -> Result<String, String> {
        match self {
            Self::Vault(question) => question.ask(connector).await,
            Self::Aws(question) => question.ask(connector).await,
            Self::Gcp(question) => question.ask(connector).await,
        }
    }
}

/// The parts of `$secret://<kind>/<name>/<key>`.
struct Parts {
    kind: String,
    /// `<kind>/<name>`, the id of the manager's document.
    manager: String,
    key: String,
}

fn split(reference: &str) -> Result<Parts, String> {
    let path = reference.strip_prefix(SCHEME).unwrap_or(reference);
    let mut parts = path.splitn(3, '/');
    let mut next = |what: &str| match parts.next() {
        Some(part) if !part.is_empty() => Ok(part),
        _ => Err(format!("error format: no secret {what}")),
    };
    let (kind, name, key) = (next("manager")?, next("conf id")?, next("key id")?);
    if !matches!(kind, "vault" | "aws" | "gcp") {
        return Err(format!("no secret manager: {kind}"));
    }
    Ok(Parts { kind: kind.to_owned(), manager: format!("{kind}/{name}"), key: key.to_owned() })
}

/// Adds every reference in a document.
pub(crate) fn references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.values().for_each(|member| references(member, out)),
        Value::Array(items) => items.iter().for_each(|item| references(item, out)),
        Value::String(text) if text.starts_with(SCHEME) => drop(out.insert(text.clone())),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
