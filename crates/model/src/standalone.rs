//! Files with resources: `apisix.yaml` and `apisix.json` (`spec/storage.md`, section 4).
//!
//! A file is a mapping of lists. [`parse`] turns it into items with positions or says why the file
//! as a whole cannot be used; [`Standalone::check`] takes out the items that are not valid.

mod place;

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use self::place::Places;
use crate::check::Checker;
use crate::problem::{Place, Problem};
use crate::settings::FileFormat;
use crate::settings::environment::{self, Lookup};
use crate::yaml::Document;
use crate::{Kind, PluginList, plugin_list, redact};

/// The lists of a file, in the order in which they are checked.
pub const LISTS: [Kind; 14] = [
    Kind::Route,
    Kind::Service,
    Kind::Upstream,
    Kind::Consumer,
    Kind::Ssl,
    Kind::Proto,
    Kind::GlobalRule,
    Kind::StreamRoute,
    Kind::PluginMetadata,
    Kind::PluginConfig,
    Kind::ConsumerGroup,
    Kind::Secret,
    Kind::IpSet,
    Kind::StreamListener,
];

/// Longest value in a log line.
const SHOWN: usize = 2000;

#[expect(clippy::expect_used, reason = "the pattern is a constant and tested")]
static END: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"#END\s*$").expect("the pattern is valid"));

/// One object of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its kind; credentials stand among the consumers, entries among the IP sets.
    pub kind: Kind,
    /// Its id as text.
    pub id: String,
    /// The object; its `id` may be a number there, as it was written.
    pub value: Value,
    /// JSON pointer in the file, e.g. `/stream_routes/0`.
    pub pointer: String,
}

impl Item {
    /// Key in a store, e.g. `/stream_routes/1`.
    #[must_use]
    pub fn key(&self) -> String {
        self.kind.key(&self.id)
    }
}

/// What a file says.
#[derive(Debug)]
pub struct Standalone {
    /// Its objects, in the order of the file.
    pub items: Vec<Item>,
    /// Its list of plugins, which takes the place of those of `config.yaml`.
    pub plugins: Option<PluginList>,
    /// What is wrong with single objects and lists.
    pub problems: Vec<Problem>,
    places: Places,
}

/// Reads a file.
///
/// # Errors
/// Why nothing of it can be used, in the reference's words.
pub fn parse(
    text: &str,
    path: &Path,
    format: FileFormat,
    env: Lookup<'_>,
) -> Result<Standalone, Box<Problem>> {
    let document = match format {
        FileFormat::Yaml => yaml(text, path, env)?,
        FileFormat::Json => json(text, path, env)?,
    };
    let (value, places) = document;
    let mut file = Standalone { items: Vec::new(), plugins: None, problems: Vec::new(), places };
    match value {
        Value::Object(lists) => file.read(lists),
        Value::Null => {}
        _ => {
            let message = format!("the file {} is not a mapping of lists", path.display());
            let problem = Problem::error("standalone/invalid", "", message);
            let problem = problem.at(file.places.of("")).help("begin with a list: stream_routes:");
            return Err(Box::new(problem));
        }
    }
    Ok(file)
}

fn yaml(text: &str, path: &Path, env: Lookup<'_>) -> Result<(Value, Places), Box<Problem>> {
    let start = text.floor_char_boundary(text.len().saturating_sub(10));
    if !END.is_match(text.get(start..).unwrap_or_default()) {
        let message = format!("missing valid end flag in file {}", path.display());
        let end = Places::plain(text, path).at(text.len()..text.len());
        let problem = Problem::error("standalone/end-flag", "", message)
            .at(Some(end))
            .help("end the file with a line #END; it shows that the file is complete");
        return Err(Box::new(problem));
    }
    let (new, replaced) = environment::substitute_text(text, env).map_err(|name| {
        let message = format!("can't find environment variable {name}");
        let at = text.find(&name).unwrap_or_default();
        let place = Places::plain(text, path).at(at..at + name.len());
        let problem = Problem::error("standalone/environment", "", message).at(Some(place));
        Box::new(problem.help(format!("set {name}, or give a default: ${{{{{name}:=value}}}}")))
    })?;
    let places = Places::new(text, path, replaced);
    match Document::parse(&new, path) {
        Ok(mut document) => {
            let value = std::mem::take(&mut document.value);
            Ok((value, places.with_spans(document.spans)))
        }
        Err(problems) => {
            let problem = problems.into_iter().next();
            let problem = problem.unwrap_or_else(|| Problem::error("yaml/syntax", "", "not YAML"));
            Err(Box::new(places.original(problem)))
        }
    }
}

fn json(text: &str, path: &Path, env: Lookup<'_>) -> Result<(Value, Places), Box<Problem>> {
    let places = Places::new(text, path, Vec::new());
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let before: usize =
            text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
        let at = before + error.column().saturating_sub(1);
        let problem =
            Problem::error("standalone/json", "", format!("failed to decode json: {error}"))
                .at(Some(places.at(at..at)))
                .help("mend the JSON there; the configuration before stays in use until then");
        Box::new(problem)
    })?;
    let mut document = Document {
        value,
        spans: HashMap::new(),
        text: text.to_owned(),
        file: std::sync::Arc::new(path.to_path_buf()),
    };
    if let Some(problem) = environment::substitute(&mut document, env).into_iter().next() {
        return Err(Box::new(problem));
    }
    // Positions are only looked for when there is something to point at.
    Ok((document.value, places))
}

impl Standalone {
    fn read(&mut self, lists: Map<String, Value>) {
        let mut by_key: HashMap<String, usize> = HashMap::new();
        for (name, list) in lists {
            if name == plugin_list::NAME {
                self.read_plugins(&list);
                continue;
            }
            let Some(kind) = LISTS.into_iter().find(|kind| kind.segment() == name) else {
                self.unknown(&name);
                continue;
            };
            let items = match list {
                Value::Array(items) => items,
                Value::Null => continue,
                Value::Object(members) if members.is_empty() => continue,
                _ => {
                    let message = format!("{name} is not a list");
                    self.report("standalone/list", &format!("/{name}"), message, "write a list");
                    continue;
                }
            };
            for (index, value) in items.into_iter().enumerate() {
                let pointer = format!("/{name}/{index}");
                match item(kind, index, value, pointer) {
                    Ok(item) => self.add(item, &mut by_key),
                    Err((pointer, message)) => {
                        self.report("standalone/object", &pointer, message, "write a mapping");
                    }
                }
            }
        }
    }

    /// The later one of two objects with the same id wins.
    fn add(&mut self, item: Item, by_key: &mut HashMap<String, usize>) {
        let earlier = by_key.get(&item.key()).and_then(|at| self.items.get_mut(*at));
        let Some(earlier) = earlier else {
            by_key.insert(item.key(), self.items.len());
            return self.items.push(item);
        };
        let other = std::mem::replace(earlier, item.clone());
        let (kind, id) = (item.kind.segment(), &item.id);
        let message = format!("{kind} has two objects with the id {id}; the later one is used");
        let mut problem =
            Problem::warning("standalone/duplicate-id", format!("{kind}/{id}"), message)
                .at(self.places.of(&item.pointer))
                .help("remove one, or give it another id");
        if let Some(place) = self.places.of(&other.pointer) {
            let label = "not used".to_owned();
            problem.related.push(crate::problem::Related { place, label });
        }
        self.problems.push(problem);
    }

    /// Takes out the objects that are not valid, each with a problem. `log` gets the reference's
    /// line for it and its place.
    pub fn check(&mut self, checker: &Checker, log: &mut dyn FnMut(&str, Option<&Place>)) {
        for item in std::mem::take(&mut self.items) {
            let Err(error) = check(checker, &item) else {
                self.items.push(item);
                continue;
            };
            let list = list_of(item.kind);
            let place = self.places.within(&item.pointer, &error);
            let shown = shown(&item);
            log(
                &format!("failed to check item data of [{list}] err:{error} ,val: {shown}"),
                place.as_ref(),
            );
            let subject = format!("{list}/{}", item.id);
            let message = format!("{subject} is not valid and is not used: {error}");
            let problem = Problem::error("standalone/object", subject, message).at(place);
            self.problems.push(problem.help("mend it; the file is read again within a second"));
        }
    }

    fn read_plugins(&mut self, list: &Value) {
        match list {
            Value::Null => {}
            list => match PluginList::read(list) {
                Ok(list) => self.plugins = Some(list),
                Err(error) => {
                    let message = format!(
                        "the list plugins is not valid and is not used, so plugins and \
                         stream_plugins of config.yaml decide: {error}"
                    );
                    let help = "write {name: limit-conn, stream: true} for a plugin of streams";
                    self.report("standalone/plugins", "/plugins", message, help);
                }
            },
        }
    }

    fn unknown(&mut self, name: &str) {
        let place = self.places.of(&format!("/{}", crate::yaml::pointer_step(name)));
        let problem =
            Problem::warning("standalone/unknown-key", name, format!("unknown list {name}"));
        self.problems.push(problem.at(place).help("remove it, or correct its name"));
    }

    fn report(&mut self, code: &'static str, pointer: &str, message: String, help: &str) {
        let place = self.places.of(pointer);
        let subject = pointer.trim_start_matches('/');
        self.problems.push(Problem::error(code, subject, message).at(place).help(help));
    }
}

/// Checks one object as a write would be, except that what it refers to need not exist.
///
/// # Errors
/// The reference's message.
pub fn check(checker: &Checker, item: &Item) -> Result<(), String> {
    if item.kind == Kind::Secret && !item.id.contains('/') {
        return Err(format!("invalid secret id: {}", item.id));
    }
    let found = |kind: Kind, _: &str| {
        Some(match kind {
            Kind::Ssl => serde_json::json!({"type": "client"}),
            Kind::StreamRoute => serde_json::json!({"protocol": item.value.get("protocol")}),
            _ => Value::Object(Map::new()),
        })
    };
    checker.check(item.kind, &item.id, &item.value, &found)
}

/// One object of a list; `index` counts from 0.
///
/// # Errors
/// It is no mapping: its pointer and the message of the reference.
pub fn item(
    list: Kind,
    index: usize,
    mut value: Value,
    pointer: String,
) -> Result<Item, (String, String)> {
    let Some(members) = value.as_object_mut() else {
        let position = format!("{}/{}", list.segment(), index + 1);
        let message = format!(
            "invalid item data of [{position}], val: {}, it should be an object",
            cut(value.to_string())
        );
        return Err((pointer, message));
    };
    let id = match members.get("id").or_else(|| members.get("username")) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => format!("arr_{}", index + 1),
    };
    // Consumers go by their name, which is their id. An id that is written stays as it is written.
    let is_written = matches!(members.get("id"), Some(Value::String(_) | Value::Number(_)));
    if !is_written && (list != Kind::Consumer || members.contains_key("id")) {
        members.insert("id".to_owned(), id.clone().into());
    }
    let kind = match list {
        Kind::Consumer if id.contains("/credentials/") => Kind::Credential,
        Kind::IpSet if id.contains("/entries/") => Kind::IpSetEntry,
        list => list,
    };
    Ok(Item { kind, id, value, pointer })
}

/// The list that objects of a kind stand in.
const fn list_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Credential => Kind::Consumer.segment(),
        Kind::IpSetEntry => Kind::IpSet.segment(),
        kind => kind.segment(),
    }
}

/// The object without its secrets, for the log.
fn shown(item: &Item) -> String {
    let mut value = item.value.clone();
    redact::redact(item.kind, &mut value);
    cut(value.to_string())
}

fn cut(mut text: String) -> String {
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests;
