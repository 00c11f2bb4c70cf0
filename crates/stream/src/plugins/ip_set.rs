//! ip-set: lets clients in, or keeps them out, by a list in a file that is read again when it
//! changes: ban lists of hundreds of thousands of networks. Not a plugin of the reference.

mod file;

use std::path::PathBuf;
use std::sync::Arc;

use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;

use crate::plugin::{Build, Phase, Plugin, PluginDef};
use crate::session::Session;
use file::SetFile;

pub(super) static DEF: PluginDef = PluginDef::of::<IpSetFile>(PluginMeta {
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
            "action": { "type": "string", "enum": ["deny", "allow"], "default": "deny" },
            "response_code": { "type": "integer", "minimum": 400, "maximum": 599, "default": 403 }
        },
        "required": ["file"],
        "additionalProperties": false
    }"#,
    metadata_schema: None,
    check: None,
    good: &[
        r#"{"file":"/etc/headgate/banned.txt"}"#,
        r#"{"file":"conf/partners.txt","action":"allow","response_code":404}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"file":""}"#,
        r#"{"file":"a","action":"drop"}"#,
        r#"{"file":"a","list":[]}"#,
    ],
});

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    file: PathBuf,
    action: String,
    response_code: u16,
}

#[derive(Debug)]
pub(super) struct IpSetFile {
    file: Arc<SetFile>,
    /// Whether those in the set are let in, or kept out.
    lets_in: bool,
    code: u16,
}

impl Plugin for IpSetFile {
    type Config = Config;

    /// Reads the file unless another route has; fails when it is not there or not right.
    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let key = config.file.display().to_string();
        let file = build.shared(&key, || SetFile::new(config.file));
        SetFile::open(&file, &*build.background())?;
        Ok(Self { file, lets_in: config.action == "allow", code: config.response_code })
    }

    /// A client on a Unix socket has no address, so it is in no list.
    fn preread(&self, session: &mut Session) -> Phase {
        let is_listed = session.client.is_some_and(|client| self.file.contains(client.ip()));
        if is_listed == self.lets_in { Phase::NEXT } else { Phase::reject(self.code) }
    }
}
