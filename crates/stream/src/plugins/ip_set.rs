//! ip-set: lets clients in, or keeps them out, by a list that changes while headgate runs: an Admin
//! resource, or a file that is read again when it changes. For ban lists of hundreds of thousands of
//! networks. Not a plugin of the reference.

mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;
use serde_json::Value;

use crate::ip_sets::LiveSet;
use crate::plugin::{Build, Phase, Plugin, PluginDef};
use crate::plugins::followed::Followed;
use crate::session::Session;
use file::Networks;

pub(super) static DEF: PluginDef = PluginDef::of::<IpSetPlugin>(PluginMeta {
    name: "ip-set",
    priority: 2990,
    version: "0.1",
    default_enabled: false,
    phases: Phases::Preread,
    executed: true,
    schema: r#"{
        "type": "object",
        "properties": {
            "file": { "type": "string", "minLength": 1, "maxLength": 4096 },
            "set": { "$ref": "id_schema" },
            "action": { "type": "string", "enum": ["deny", "allow"], "default": "deny" },
            "response_code": { "type": "integer", "minimum": 400, "maximum": 599, "default": 403 }
        },
        "oneOf": [{ "required": ["file"] }, { "required": ["set"] }],
        "additionalProperties": false
    }"#,
    metadata_schema: None,
    check: None,
    good: &[
        r#"{"file":"/etc/headgate/banned.txt"}"#,
        r#"{"set":"banned"}"#,
        r#"{"set":7,"action":"allow"}"#,
        r#"{"file":"conf/partners.txt","action":"allow","response_code":404}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"file":""}"#,
        r#"{"set":"a b"}"#,
        r#"{"file":"a","set":"b"}"#,
        r#"{"file":"a","action":"drop"}"#,
        r#"{"file":"a","list":[]}"#,
    ],
});

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    file: Option<PathBuf>,
    set: Option<Value>,
    action: String,
    response_code: u16,
}

/// Where the list is.
#[derive(Debug)]
enum List {
    File(Arc<Followed<Networks>>),
    Set(Arc<LiveSet>),
}

#[derive(Debug)]
pub(super) struct IpSetPlugin {
    list: List,
    /// Whether those in the set are let in, or kept out.
    lets_in: bool,
    code: u16,
}

impl Plugin for IpSetPlugin {
    type Config = Config;

    /// Reads the file unless another route has; fails when it is not there or not right, or when
    /// there is no such set.
    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let list = match (config.file, config.set) {
            (Some(path), _) => {
                let file: Arc<Followed<Networks>> =
                    build.shared(&path.display().to_string(), || Followed::new(path));
                Followed::open(&file, build)?;
                List::File(file)
            }
            (None, set) => {
                let id = match set {
                    Some(Value::String(id)) => id,
                    other => other.unwrap_or_default().to_string(),
                };
                let set = build.ip_set(&id);
                List::Set(set.ok_or_else(|| {
                    format!("there is no ip set [{id}], write it to /apisix/admin/ip_sets/{id}")
                })?)
            }
        };
        Ok(Self { list, lets_in: config.action == "allow", code: config.response_code })
    }

    /// A client on a Unix socket has no address, so it is in no list.
    fn preread(&self, session: &mut Session) -> Phase {
        let now = || session.started_at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        let is_listed = session.client.is_some_and(|client| match &self.list {
            List::File(file) => {
                file.content().as_ref().is_some_and(|set| set.contains(client.ip(), now))
            }
            List::Set(set) => set.contains(client.ip(), now),
        });
        if is_listed == self.lets_in { Phase::NEXT } else { Phase::reject(self.code) }
    }
}
