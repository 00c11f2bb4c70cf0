//! `starts-with`: serves only clients whose first bytes are known.
//!
//! A plugin of a program of its own, as an example: it waits for what the client sends, refuses
//! who sends something else, and counts over changes of the configuration. `examples/gateway.rs` is
//! the gateway with it; docs/plugins/README.md explains how to run that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headgate::plugin::{
    Build, Client, CloseReason, End, Flow, Later, PeekError, Phase, Phases, Plugin, PluginDef,
    PluginMeta, Session,
};
use serde::Deserialize;

/// What a gateway registers.
pub static STARTS_WITH: PluginDef = PluginDef::of::<StartsWith>(PluginMeta {
    good: &[r#"{"any_of":["SSH-2.0-"]}"#],
    bad: &[r#"{}"#, r#"{"any_of":[]}"#, r#"{"any_of":[""]}"#],
    ..PluginMeta::new("starts-with", 900, SCHEMA, Phases::Both)
});

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "any_of": {
            "type": "array",
            "minItems": 1,
            "items": { "type": "string", "minLength": 1, "maxLength": 64 }
        },
        "code": { "type": "integer", "minimum": 400, "maximum": 599, "default": 403 }
    },
    "required": ["any_of"]
}"#;

/// The configuration; its defaults come from the schema.
#[derive(Debug, Deserialize)]
pub struct Config {
    any_of: Vec<String>,
    code: u16,
}

/// The plugin on a route.
#[derive(Debug)]
pub struct StartsWith {
    config: Config,
    /// Of all routes together; survives changes of the configuration.
    refused: Arc<AtomicU64>,
}

impl Plugin for StartsWith {
    type Config = Config;

    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self { config, refused: build.shared("refused", AtomicU64::default) })
    }

    fn preread(&self, _: &mut Session) -> Phase {
        Phase::Wait
    }

    fn wait<'a>(&'a self, _: &'a mut Session, client: &'a mut Client<'_>) -> Later<'a, Flow> {
        Box::pin(async move {
            loop {
                let seen = client.peeked();
                let beginnings = self.config.any_of.iter().map(String::as_bytes);
                if beginnings.clone().any(|beginning| seen.starts_with(beginning)) {
                    return Flow::Next;
                }
                if !beginnings.clone().any(|beginning| beginning.starts_with(seen)) {
                    return Flow::Reject(self.config.code);
                }
                let more = seen.len() + 1;
                match client.peek(more).await {
                    Ok(_) => {}
                    Err(PeekError::Ended | PeekError::TimedOut) => {
                        return Flow::Close(CloseReason::Preread);
                    }
                    Err(_) => return Flow::Reject(self.config.code),
                }
            }
        })
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        if end.reason == CloseReason::Rejected {
            let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::info!(conn = session.number, refused, "refused by its first bytes");
        }
    }
}
