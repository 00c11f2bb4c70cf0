//! The generic check against the table of keys: unknown keys, keys without effect, types.

use serde_json::Value;

use super::fitting::{advice, misfit, spoken};
use super::keys::{self, Key, Shape, Use};
use super::nearest::nearest;
use super::reading::Reading;
use super::{store, wording};
use crate::problem::Problem;
use crate::yaml::pointer_step;

/// Checks everything the user wrote.
pub(super) fn check(reading: &mut Reading<'_>) {
    let root = reading.document.value.clone();
    let provider = store::provider(reading).name;
    let mut walk = Walk { reading, defaults: keys::defaults(), provider, idle: Vec::new() };
    walk.section(&root, At { path: "", table: "", pointer: "" });
    let idle = walk.idle;
    report_idle(reading, idle);
}

/// Why a key that other providers use has no effect with this one. The prefix also stands in
/// answers, and whoever keeps the hosts beside `config_provider: embedded` has said so.
fn other_provider(path: &str, provider: &str) -> Option<&'static str> {
    let etcd = path.strip_prefix("deployment.etcd.");
    match provider {
        "etcd" => {}
        "embedded" if etcd.is_some_and(|key| !matches!(key, "prefix" | "host")) => {
            return Some("the embedded store does not use etcd");
        }
        "yaml" | "json" if etcd.is_some_and(|key| key != "host") => {
            return Some("only the provider etcd uses it");
        }
        _ => {}
    }
    if path == "deployment.embedded.history" && provider != "embedded" {
        return Some("only the embedded store has a history");
    }
    (path == "deployment.standalone" && !matches!(provider, "yaml" | "json"))
        .then_some("it only concerns the providers yaml and json")
}

/// Where the walk is: with list positions, as in the table, and as a JSON pointer.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a str,
    table: &'a str,
    pointer: &'a str,
}

struct Walk<'a, 'b> {
    reading: &'a mut Reading<'b>,
    defaults: Value,
    provider: String,
    /// Path, pointer and reason of keys without effect.
    idle: Vec<(String, String, &'static str)>,
}

impl Walk<'_, '_> {
    fn section(&mut self, value: &Value, at: At<'_>) {
        let Some(map) = value.as_object() else { return };
        for (name, value) in map {
            let path = join(at.path, name);
            let table = join(at.table, name);
            let pointer = format!("{}/{}", at.pointer, pointer_step(name));
            let plain = !name.contains(['.', '[', '*']);
            match keys::find(&table).filter(|_| plain) {
                None => self.unknown(name, at, &path, &pointer),
                Some(Key { used: Use::Idle(reason), .. }) => {
                    if !value.is_null() {
                        self.idle.push((path, pointer, reason));
                    }
                }
                Some(Key { used: Use::Moved(_), .. }) => {}
                Some(key) => {
                    if let Some(reason) = other_provider(&table, &self.provider)
                        && !value.is_null()
                    {
                        self.idle.push((path.clone(), pointer.clone(), reason));
                    }
                    self.key(key, value, At { path: &path, table: &table, pointer: &pointer })
                }
            }
        }
    }

    fn key(&mut self, key: &Key, value: &Value, at: At<'_>) {
        if value.is_null() || !self.merges(key, value, at.path) || !self.fits(key, value, at.path) {
            return;
        }
        if key.shape == Shape::Section {
            self.section(value, at);
        }
        let Some(items) = value.as_array() else { return };
        let table = format!("{}[]", at.table);
        if keys::members(&table).is_empty() {
            return;
        }
        for (index, item) in items.iter().enumerate().filter(|(_, item)| item.is_object()) {
            let path = format!("{}[{index}]", at.path);
            let pointer = format!("{}/{index}", at.pointer);
            self.section(item, At { path: &path, table: &table, pointer: &pointer });
        }
    }

    /// The type of the default decides; numbers and strings are free below `nginx_config`.
    fn merges(&mut self, key: &Key, value: &Value, path: &str) -> bool {
        let free = path.starts_with("nginx_config.") && (value.is_number() || value.is_string());
        let default = self.defaults.pointer(&super::reading::pointer(path));
        // Lists are replaced wholesale, so their items have no default to agree with.
        let Some(default) = default.filter(|_| !path.contains('[')) else { return true };
        let same = wording::lua_type(default) == wording::lua_type(value);
        if same || (free && !default.is_object()) || path == "apisix.data_encryption.keyring" {
            return true;
        }
        let message = wording::merge(path, default, value);
        let note = self.reading.error("config/merge", path, message);
        note.label(format!("this is a {}", spoken(value))).help(advice(key, value));
        false
    }

    fn fits(&mut self, key: &Key, value: &Value, path: &str) -> bool {
        let lenient = path.starts_with("nginx_config.");
        let Some((code, at, reason)) = misfit(key.shape, value, path, lenient) else {
            return true;
        };
        let help = advice(key, value);
        let note = self.reading.refuse(code, &at, &reason);
        note.label("not accepted here").help(help);
        false
    }

    fn unknown(&mut self, name: &str, at: At<'_>, path: &str, pointer: &str) {
        let siblings = keys::members(at.table);
        let elsewhere = keys::all().map(|key| key.path).find(|path| {
            path.rsplit('.').next() == Some(name) && *path != name && !path.contains("[]")
        });
        let help = if let Some(near) = nearest(name, &siblings) {
            format!("did you mean {near}?")
        } else if let Some(other) = elsewhere {
            format!("did you mean {other}? it belongs in another section")
        } else if siblings.len() <= 12 {
            format!("remove it; known here: {}", siblings.join(", "))
        } else {
            "remove it; docs/reference/config.md lists all keys".to_owned()
        };
        let place = if at.path.is_empty() { String::new() } else { format!(" in {}", at.path) };
        let problem =
            Problem::warning("config/unknown-key", path, format!("unknown key {name}{place}"))
                .at(self.reading.document.key_place(pointer))
                .label("no part of headgate reads this")
                .help(help);
        self.reading.problems.push(problem);
    }
}

/// One warning per top-level section and reason, listing the keys.
fn report_idle(reading: &mut Reading<'_>, idle: Vec<(String, String, &'static str)>) {
    let mut groups: Vec<(String, &'static str, Vec<String>, String)> = Vec::new();
    for (path, pointer, reason) in idle {
        let top = path.split('.').next().unwrap_or_default().to_owned();
        match groups.iter_mut().find(|group| group.0 == top && group.1 == reason) {
            Some(group) => group.2.push(path),
            None => groups.push((top, reason, vec![path], pointer)),
        }
    }
    for (_, reason, paths, pointer) in groups {
        let (verb, it) = if paths.len() == 1 { ("has", "it") } else { ("have", "they") };
        let reason = if paths.len() == 1 { reason.to_owned() } else { plural(reason) };
        let names = paths.join(", ");
        let message = format!("{names}: known, {verb} no effect in headgate, because {reason}");
        let subject = paths.first().cloned().unwrap_or_default();
        let problem = Problem::warning("config/no-effect", subject, message)
            .at(reading.document.key_place(&pointer))
            .label("no effect")
            .help(format!("{it} may stay for the reference's sake, or be removed"));
        reading.problems.push(problem);
    }
}

fn plural(reason: &str) -> String {
    reason
        .replace("it only concerns", "they only concern")
        .replace("it configures", "they configure")
        .replace("do not use it", "do not use them")
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}
