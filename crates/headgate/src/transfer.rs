//! Resources out of one place and into another: stores, files, and dumps of etcd.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headgate_model::check::Checker;
use headgate_model::settings::{FileFormat, Settings, StoreSettings};
use headgate_model::standalone::{self, Item, LISTS};
use headgate_model::{Kind, plugin_list, yaml};
use headgate_store::{Embedded, Etcd, FILE_NAME, Store, WriteOptions};
use headgate_stream::plugin::Registry;
use serde_json::{Map, Value};

use crate::source::{embedded_options, etcd_options};
use crate::{assemble, catalog};

/// How often a store that is in use is copied until the copy is whole.
const ATTEMPTS: usize = 10;

/// Where resources are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The store of the configuration.
    Store,
    /// Standard input.
    Input,
    /// A file.
    File(PathBuf),
}

impl Place {
    /// `store`, `-`, or a path.
    pub(crate) fn new(text: &str) -> Self {
        match text {
            "store" => Self::Store,
            "-" => Self::Input,
            path => Self::File(path.into()),
        }
    }
}

/// A configuration and what is needed to work on its store.
pub(crate) struct Work {
    settings: Settings,
    checker: Checker,
    runtime: tokio::runtime::Runtime,
}

impl Work {
    pub(crate) fn new(file: &Path, registry: &Registry) -> anyhow::Result<Self> {
        let loaded = crate::load(file);
        let Some(settings) = loaded.settings else {
            let color = crate::console::shows_color(&std::io::stderr());
            let text = crate::report::human(&loaded.problems, &loaded.source, color);
            crate::console::err(text.trim_end());
            bail!("the configuration {} is broken", file.display());
        };
        let checker = assemble::checker(&settings, &catalog::enabled(&settings, registry))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { settings, checker, runtime })
    }

    /// All resources of a place, in the order in which they apply.
    pub(crate) fn read(&self, place: &Place) -> anyhow::Result<Vec<Item>> {
        match place {
            Place::Store => self.read_store(),
            Place::Input => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
                self.parse(&text, Path::new("standard input"))
            }
            Place::File(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading {}", path.display()))?;
                self.parse(&text, path)
            }
        }
    }

    /// What is wrong with resources, as a write would be checked.
    pub(crate) fn check(&self, items: &[Item]) -> Vec<String> {
        let checked = items.iter().filter_map(|item| {
            let error = standalone::check(&self.checker, item).err()?;
            Some(format!("{}: {error}", item.key().trim_start_matches('/')))
        });
        checked.collect()
    }

    /// Writes resources into the store; answers what differed before.
    pub(crate) fn import(
        &self,
        items: &[Item],
        replace: bool,
        dry_run: bool,
    ) -> anyhow::Result<Vec<Difference>> {
        let before = self.read_store()?;
        let mut differences = Difference::between(&before, items);
        if !replace {
            differences.retain(|difference| !matches!(difference, Difference::Removed(_)));
        }
        if dry_run {
            return Ok(differences);
        }
        let store = self.open()?;
        let options =
            || WriteOptions { author: "headgate config import".into(), ..WriteOptions::default() };
        self.runtime.block_on(async {
            // In the order of the source: routes apply in the order in which they are created.
            let changed: HashSet<&str> = differences.iter().map(Difference::key).collect();
            for item in items {
                let key = item.key();
                if changed.contains(key.as_str()) {
                    store.put(&key, item.value.clone(), options()).await?;
                }
            }
            for difference in &differences {
                if let Difference::Removed(key) = difference {
                    store.delete(key, options()).await?;
                }
            }
            anyhow::Ok(())
        })?;
        Ok(differences)
    }

    fn read_store(&self) -> anyhow::Result<Vec<Item>> {
        if let StoreSettings::File(file) = &self.settings.store {
            return self.read(&Place::File(file.path.clone()));
        }
        let store = match &self.settings.store {
            StoreSettings::Embedded(embedded) => {
                match Embedded::open(&embedded.path, embedded_options(embedded)) {
                    Ok(store) => Arc::new(store) as Arc<dyn Store>,
                    Err(error) if error.to_string().contains("in use by another process") => {
                        return self.read_copy(&embedded.path);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            _ => self.open()?,
        };
        self.load(&*store)
    }

    /// Reads a store that a running gateway has open, from a copy of its file. Its checksums tell
    /// when a commit came in between.
    fn read_copy(&self, directory: &Path) -> anyhow::Result<Vec<Item>> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let copy = tempfile::tempdir()?;
            std::fs::copy(directory.join(FILE_NAME), copy.path().join(FILE_NAME))?;
            match Embedded::open(copy.path(), headgate_store::Options::default()) {
                Ok(store) => return self.load(&store),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("no attempt"), Into::into))
            .context("the store is in use, and no whole copy of it could be made")
    }

    fn open(&self) -> anyhow::Result<Arc<dyn Store>> {
        match &self.settings.store {
            StoreSettings::Embedded(embedded) => {
                let store = Embedded::open(&embedded.path, embedded_options(embedded))
                    .context("stop the gateway first, or write through its Admin API")?;
                Ok(Arc::new(store))
            }
            StoreSettings::Etcd(etcd) => {
                let _guard = self.runtime.enter();
                Ok(Arc::new(Etcd::new(&etcd_options(etcd, &self.settings, None))?))
            }
            StoreSettings::File(file) => {
                bail!("this configuration reads {}; write that file", file.path.display())
            }
            StoreSettings::Api => {
                bail!("this configuration has no store; use PUT /apisix/admin/configs")
            }
        }
    }

    fn load(&self, store: &dyn Store) -> anyhow::Result<Vec<Item>> {
        let mut loaded = self.runtime.block_on(store.load())?;
        for unreadable in &loaded.unreadable {
            let (key, reason) = (&unreadable.key, &unreadable.reason);
            crate::console::err(&format!("left out {key}: {reason}"));
        }
        tell_left_out(loaded.values.iter().map(|stored| stored.key.as_str()));
        loaded.values.sort_by_key(|stored| stored.created);
        Ok(items(loaded.values.into_iter().map(|stored| (stored.key, stored.value))))
    }

    fn parse(&self, text: &str, path: &Path) -> anyhow::Result<Vec<Item>> {
        let is_json = text.trim_start().starts_with('{');
        if is_json
            && let Ok(dump) = serde_json::from_str::<Value>(text)
            && let Some(kvs) = dump.get("kvs").and_then(Value::as_array)
        {
            return Ok(of_etcdctl(kvs, self.settings.store.prefix()));
        }
        let format = if is_json { FileFormat::Json } else { FileFormat::Yaml };
        let env = |name: &str| std::env::var(name).ok();
        let file = standalone::parse(text, path, format, &env)
            .map_err(|problem| anyhow::anyhow!("{problem}"))?;
        for problem in &file.problems {
            crate::console::err(&problem.to_string());
        }
        tell_left_out(file.plugins.iter().map(|_| plugin_list::KEY));
        let errors =
            file.problems.iter().any(|one| one.severity == headgate_model::Severity::Error);
        if errors {
            bail!("{} has errors", path.display());
        }
        Ok(file.items)
    }
}

/// The answer of `etcdctl get --prefix P -w json`.
fn of_etcdctl(kvs: &[Value], prefix: &str) -> Vec<Item> {
    let prefix = if prefix.is_empty() { "/apisix" } else { prefix };
    let text = |kv: &Value, name: &str| {
        let bytes = STANDARD.decode(kv.get(name)?.as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let mut found = Vec::new();
    let mut elsewhere = 0;
    for kv in kvs {
        let Some(key) = text(kv, "key").and_then(|key| Some(key.strip_prefix(prefix)?.to_owned()))
        else {
            elsewhere += 1;
            continue;
        };
        match serde_json::from_str(&text(kv, "value").unwrap_or_default()) {
            Ok(value) => {
                found.push((kv.get("create_revision").and_then(Value::as_u64), key, value));
            }
            // A placeholder of a directory.
            Err(_) if key.ends_with('/') => {}
            Err(error) => crate::console::err(&format!("left out {key}: not JSON: {error}")),
        }
    }
    if elsewhere > 0 {
        crate::console::err(&format!(
            "left out {elsewhere} keys that do not begin with {prefix} (deployment.etcd.prefix)"
        ));
    }
    tell_left_out(found.iter().map(|(_, key, _)| key.as_str()));
    found.sort_by_key(|(created, ..)| *created);
    items(found.into_iter().map(|(_, key, value)| (key, value)))
}

/// The id that an object says it has; a number is not turned into text by moving it.
fn id_member(members: &Map<String, Value>) -> Option<String> {
    match members.get("id")? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(headgate_model::reference::id_text(id)),
        _ => None,
    }
}

/// Says which keys are no resources and stay behind.
fn tell_left_out<'a>(keys: impl Iterator<Item = &'a str>) {
    for key in keys.filter(|key| Kind::parse_key(key).is_none()) {
        match key {
            plugin_list::KEY => crate::console::err(
                "left out plugins: which plugins a node enables is said by plugins and \
                 stream_plugins of its config.yaml",
            ),
            "/gen_id" => {}
            key if key.ends_with('/') => {} // a placeholder of a directory
            key if key.starts_with("/headgate/") || key.starts_with("/data_plane/") => {}
            key => crate::console::err(&format!("left out {key}: not a resource")),
        }
    }
}

/// The values that are resources.
fn items(values: impl Iterator<Item = (String, Value)>) -> Vec<Item> {
    let item = |(key, mut value): (String, Value)| {
        let (kind, id) = Kind::parse_key(&key)?;
        if let Some(members) = value.as_object_mut()
            && id_member(members).as_deref() != Some(id)
            && (kind != Kind::Consumer || members.contains_key("id"))
        {
            members.insert("id".to_owned(), id.into());
        }
        Some(Item { kind, id: id.to_owned(), value, pointer: String::new() })
    };
    values.filter_map(item).collect()
}

/// Resources as the lists of a standalone file.
fn document(items: &[Item]) -> Value {
    let mut lists = Map::new();
    for kind in LISTS {
        let list: Vec<Value> = items
            .iter()
            .filter(|item| {
                let within = matches!(
                    (kind, item.kind),
                    (Kind::Consumer, Kind::Credential) | (Kind::IpSet, Kind::IpSetEntry)
                );
                item.kind == kind || within
            })
            .map(|item| item.value.clone())
            .collect();
        if !list.is_empty() {
            lists.insert(kind.segment().to_owned(), list.into());
        }
    }
    Value::Object(lists)
}

/// As `apisix.yaml`.
pub(crate) fn to_yaml(items: &[Item]) -> String {
    let document = document(items);
    let text = if items.is_empty() { String::new() } else { yaml::write(&document) };
    format!("{text}#END\n")
}

/// As `apisix.json`.
pub(crate) fn to_json(items: &[Item]) -> String {
    format!("{:#}\n", document(items))
}

/// Writes a file that only its owner may read: it may hold keys.
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let write = || options.open(path)?.write_all(text.as_bytes());
    write().with_context(|| format!("writing {}", path.display()))
}

/// One resource that is not the same in two places.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    Added(String),
    Removed(String),
    /// Key, and the members that differ.
    Changed(String, Vec<String>),
}

impl Difference {
    /// What has to be done to `from` to get `to`.
    pub(crate) fn between(from: &[Item], to: &[Item]) -> Vec<Self> {
        // 1 and "1" are the same id.
        let value = |item: &Item| {
            let mut value = item.value.clone();
            if let Some(id) = value.get_mut("id").filter(|id| id.is_number()) {
                *id = item.id.as_str().into();
            }
            value
        };
        let by_key = |items: &[Item]| {
            items.iter().map(|item| (item.key(), value(item))).collect::<BTreeMap<_, _>>()
        };
        let (from, to) = (by_key(from), by_key(to));
        let mut found = Vec::new();
        for (key, value) in &to {
            match from.get(key) {
                None => found.push(Self::Added(key.clone())),
                Some(old) if old != value => {
                    found.push(Self::Changed(key.clone(), members(old, value)));
                }
                Some(_) => {}
            }
        }
        let gone = from.keys().filter(|key| !to.contains_key(*key));
        found.extend(gone.map(|key| Self::Removed(key.clone())));
        found
    }

    fn key(&self) -> &str {
        match self {
            Self::Added(key) | Self::Removed(key) | Self::Changed(key, _) => key,
        }
    }
}

/// Names of the members that differ; values are not shown, they may be secret.
fn members(old: &Value, new: &Value) -> Vec<String> {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return Vec::new() };
    let mut names: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| old.get(name) != new.get(name));
    names
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key().trim_start_matches('/');
        match self {
            Self::Added(_) => write!(f, "+ {key}"),
            Self::Removed(_) => write!(f, "- {key}"),
            Self::Changed(_, members) => write!(f, "~ {key}: {}", members.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests;
