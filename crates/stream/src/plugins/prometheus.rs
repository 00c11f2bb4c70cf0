//! `prometheus`: counts the sessions of a route, and how they ended (`spec/plugins.md`, section 5).
//!
//! The counts are in [`stats`](crate::stats); the server of metrics shows them with all others,
//! which need no plugin.

use headgate_model::listen::Transport;
use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;

use crate::outcome::{CloseReason, End};
use crate::plugin::{Build, Plugin, PluginDef};
use crate::session::Session;

pub(super) static DEF: PluginDef = PluginDef::of::<Prometheus>(PluginMeta {
    good: &[r#"{}"#, r#"{"prefer_name":true}"#],
    bad: &[r#"{"prefer_name":"yes"}"#, r#"{"_meta":{"disable":"no"}}"#],
    ..PluginMeta::new(
        "prometheus",
        500,
        r#"{
            "type": "object",
            "properties": { "prefer_name": { "type": "boolean", "default": false } }
        }"#,
        Phases::Log,
    )
});

/// The configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    prefer_name: bool,
}

#[derive(Debug)]
struct Prometheus {
    prefer_name: bool,
}

impl Plugin for Prometheus {
    type Config = Config;

    fn new(config: Config, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(Self { prefer_name: config.prefer_name })
    }

    fn log(&self, session: &Session, end: &End<'_>) {
        let Some(route) = &session.route else { return };
        let name = route.name.as_ref().filter(|name| self.prefer_name && !name.is_empty());
        session.listener.record(
            name.unwrap_or(&route.id),
            code(session, end),
            &session.upstream.tried.last().map(|endpoint| endpoint.address.clone()),
        );
    }
}

/// The label `code` of `stream_status`.
fn code(session: &Session, end: &End<'_>) -> u16 {
    if let Some(rejection) = &session.rejection {
        return match rejection.code {
            known @ (400 | 403 | 500 | 502 | 503) => known,
            401..=499 => 400,
            _ => 500,
        };
    }
    match end.status(session) {
        200 => {}
        failed => return failed,
    }
    match end.reason {
        CloseReason::ClientReset => 400,
        CloseReason::UpstreamReset | CloseReason::NodeDown => 502,
        // A UDP flow has no other end than that nobody sends any more.
        CloseReason::Idle if session.listener.transport == Transport::Tcp => 502,
        _ => 200,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::session::Rejection;

    #[test]
    fn codes() {
        let times = RefCell::default();
        let code = |rejected: Option<u16>, reason| {
            let mut session = Session::of("10.0.0.1:1");
            session.rejection = rejected.map(|code| Rejection { plugin: "x", code });
            super::code(&session, &End::now(reason, &times))
        };
        for (reason, expected) in [
            (CloseReason::Done, 200),
            (CloseReason::Drain, 200),
            (CloseReason::ClientReset, 400),
            (CloseReason::UpstreamReset, 502),
            (CloseReason::NodeDown, 502),
            (CloseReason::Truncated, 200),
            (CloseReason::Idle, 502),
            (CloseReason::ConnectFailed, 502),
            (CloseReason::ConnectTimeout, 502),
            (CloseReason::NoUpstream, 503),
            (CloseReason::Internal, 500),
        ] {
            assert_eq!(code(None, reason), expected, "{reason:?}");
        }
        for (rejected, expected) in
            [(403, 403), (404, 400), (429, 400), (503, 503), (504, 500), (200, 500), (600, 500)]
        {
            assert_eq!(code(Some(rejected), CloseReason::Rejected), expected, "{rejected}");
        }
    }
}
