//! ip-restriction: lets clients in, or keeps them out, by address.

use headgate_model::check::parse_network;
use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;
use serde_json::Value;

use crate::ip_set::IpSet;
use crate::plugin::{Build, Phase, Plugin, PluginDef};
use crate::session::Session;

pub(super) static DEF: PluginDef = PluginDef::of::<IpRestriction>(PluginMeta {
    name: "ip-restriction",
    priority: 3000,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Preread,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "message": {
                "type": "string",
                "minLength": 1,
                "maxLength": 1024,
                "default": "Your IP address is not allowed"
            },
            "response_code": { "type": "integer", "minimum": 403, "maximum": 404, "default": 403 },
            "whitelist": { "type": "array", "minItems": 1, "items": { "$ref": "ip" } },
            "blacklist": { "type": "array", "minItems": 1, "items": { "$ref": "ip" } }
        },
        "oneOf": [{ "required": ["whitelist"] }, { "required": ["blacklist"] }]
    }"#,
    metadata_schema: None,
    check: Some(check),
    good: &[
        r#"{"whitelist":["127.0.0.1","10.0.0.0/8","::1","fe80::/10"]}"#,
        r#"{"blacklist":["192.0.2.1"],"response_code":404,"message":"no"}"#,
        r#"{"blacklist":["192.0.2.1"],"_meta":{"disable":true}}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"whitelist":["127.0.0.1"],"blacklist":["127.0.0.1"]}"#,
        r#"{"whitelist":[]}"#,
        r#"{"whitelist":["localhost"]}"#,
        r#"{"whitelist":["::/129"]}"#,
        r#"{"blacklist":["127.0.0.1"],"message":""}"#,
        r#"{"blacklist":["127.0.0.1"],"response_code":500}"#,
        r#"{"blacklist":["127.0.0.1"],"_meta":{"unknown":1}}"#,
    ],
});

fn check(conf: &Value) -> Result<(), String> {
    for name in ["whitelist", "blacklist"] {
        let list = conf.get(name).and_then(Value::as_array).into_iter().flatten();
        for text in list.filter_map(Value::as_str) {
            if parse_network(text).is_none() {
                return Err(format!("invalid ip address: {text}"));
            }
        }
    }
    Ok(())
}

/// The members of the configuration that have an effect; `message` is never sent at L4.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    whitelist: Option<Vec<String>>,
    blacklist: Option<Vec<String>>,
    response_code: u16,
}

#[derive(Debug)]
pub(super) struct IpRestriction {
    set: IpSet,
    /// Whether those in the set are let in, or kept out.
    lets_in: bool,
    code: u16,
}

impl Plugin for IpRestriction {
    type Config = Config;

    fn new(config: Config, _: &mut Build<'_>) -> Result<Self, String> {
        let lets_in = config.whitelist.is_some();
        let list = config.whitelist.or(config.blacklist).unwrap_or_default();
        let network = |text: &String| {
            parse_network(text).ok_or_else(|| format!("invalid ip address: {text}"))
        };
        let networks: Vec<_> = list.iter().map(network).collect::<Result<_, _>>()?;
        Ok(Self { set: IpSet::new(networks), lets_in, code: config.response_code })
    }

    /// A client on a Unix socket has no address, so it is in no list.
    fn preread(&self, session: &mut Session) -> Phase {
        let is_listed = session.client.is_some_and(|client| self.set.contains(client.ip()));
        if is_listed == self.lets_in { Phase::NEXT } else { Phase::reject(self.code) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn masks_beyond_the_address_are_refused() {
        let conf = json!({"blacklist": ["::/129"]});
        assert_eq!(check(&conf), Err("invalid ip address: ::/129".to_owned()));
    }
}
