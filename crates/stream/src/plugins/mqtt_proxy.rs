//! mqtt-proxy: reads the MQTT CONNECT packet and offers the client id as `mqtt_client_id`.

use std::time::Instant;

use headgate_model::plugin::{Phases, PluginMeta};

use headgate_telemetry::LogLimit;
use headgate_wire::mqtt::{Decoded, NoConnect, decode};
use serde::Deserialize;

use crate::outcome::CloseReason;
use crate::plugin::{Build, Client, Flow, Later, PeekError, Phase, Plugin, PluginDef};
use crate::session::Session;

static BROKEN: LogLimit = LogLimit::per_second(10);

/// The code of every refusal but one.
const REFUSED: u16 = 503;
/// The code for more bytes than the preread buffer holds.
const TOO_MUCH: u16 = 400;

pub(super) static DEF: PluginDef = PluginDef::of::<MqttProxy>(PluginMeta {
    name: "mqtt-proxy",
    priority: 1000,
    version: "0.1",
    default_enabled: true,
    phases: Phases::Preread,
    executed: false,
    schema: r#"{
        "type": "object",
        "properties": {
            "protocol_name": { "type": "string", "default": "MQTT" },
            "protocol_level": { "type": "integer" }
        },
        "required": ["protocol_level"]
    }"#,
    metadata_schema: None,
    check: None,
    good: &[r#"{"protocol_level":4}"#, r#"{"protocol_name":"MQTT","protocol_level":5}"#],
    bad: &[r#"{}"#, r#"{"protocol_level":"4"}"#, r#"{"protocol_level":4,"protocol_name":1}"#],
});

#[derive(Debug, Deserialize)]
pub(super) struct MqttProxy {
    protocol_name: String,
    protocol_level: i64,
}

impl Plugin for MqttProxy {
    type Config = Self;

    fn new(config: Self, _: &mut Build<'_>) -> Result<Self, String> {
        Ok(config)
    }

    fn preread(&self, _: &mut Session) -> Phase {
        Phase::Wait
    }

    fn wait<'a>(&'a self, session: &'a mut Session, client: &'a mut Client<'_>) -> Later<'a, Flow> {
        Box::pin(async move {
            match self.read(session, client).await {
                Ok(()) => Flow::Next,
                Err(flow) => flow,
            }
        })
    }
}

impl MqttProxy {
    async fn read(&self, session: &mut Session, client: &mut Client<'_>) -> Result<(), Flow> {
        let mut count = 1;
        let connect = loop {
            let had_header = count > 5;
            let bytes =
                client.peek(count).await.map_err(|error| unread(session, had_header, error))?;
            match decode(bytes) {
                Ok(Decoded::Need(more)) => count = more,
                Ok(Decoded::Done(connect)) => break connect,
                Err(error) => return Err(no_connect(session, error)),
            }
        };
        let (name, level) = (connect.protocol_name, connect.protocol_level);
        if name != self.protocol_name.as_bytes() {
            let (wanted, name) = (&self.protocol_name, name.escape_ascii());
            return Err(refuse(
                session,
                &format!("expect protocol name: {wanted}, but got {name}"),
            ));
        }
        if i64::from(level) != self.protocol_level {
            let wanted = self.protocol_level;
            return Err(refuse(
                session,
                &format!("expect protocol level: {wanted}, but got {level}"),
            ));
        }
        let id = connect.client_id;
        tracing::info!(conn = session.number, "mqtt client id: {}", id.escape_ascii());
        session.mqtt_client_id = (!id.is_empty()).then(|| id.into());
        Ok(())
    }
}

/// The client did not send a whole CONNECT. Who goes away or stays silent is nobody's fault, and
/// ends without a word as in the reference.
fn unread(session: &Session, had_header: bool, error: PeekError) -> Flow {
    let code = match error {
        PeekError::Ended | PeekError::TimedOut => {
            tracing::info!(conn = session.number, "{error} before its CONNECT was complete");
            return Flow::Close(CloseReason::Preread);
        }
        PeekError::TooMuch => TOO_MUCH,
        PeekError::Datagram => REFUSED,
    };
    let what = if had_header { "the Connect Command" } else { "the msg header" };
    refuse(session, &format!("failed to read {what}: {error}"));
    Flow::Reject(code)
}

fn no_connect(session: &Session, error: NoConnect) -> Flow {
    match error.is_in_header() {
        true => refuse(session, &format!("failed to parse the msg header: {error}")),
        false => refuse(session, &error.to_string()),
    }
}

fn refuse(session: &Session, why: &str) -> Flow {
    if let Some(suppressed) = BROKEN.check(Instant::now()) {
        let client = session.client_text();
        tracing::error!(conn = session.number, %client, suppressed, "{why}");
    }
    Flow::Reject(REFUSED)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn judged(plugin: &MqttProxy, packet: &[u8]) -> (Flow, Option<Vec<u8>>) {
        let mut session = Session::of("198.51.100.7:4000");
        let mut client = Client::datagram(packet);
        let flow = {
            let mut future = pin!(plugin.wait(&mut session, &mut client));
            let Poll::Ready(flow) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            else {
                panic!("nothing to wait for");
            };
            flow
        };
        (flow, session.mqtt_client_id.map(Vec::from))
    }

    #[test]
    fn name_and_level_decide() {
        let plugin = MqttProxy { protocol_name: "MQTT".into(), protocol_level: 4 };
        let good = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc";
        assert_eq!(judged(&plugin, good), (Flow::Next, Some(b"abc".to_vec())));
        let nameless = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";
        assert_eq!(judged(&plugin, nameless), (Flow::Next, None));
        for bad in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"\x10\x0c\x00\x04MQTX\x04\x02\x00\x3c\x00\x00",
            b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x3c\x00\x00",
            b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x09",
            b"\x10\x0c\x00\x04MQTT",
            b"\x10",
        ] {
            assert_eq!(judged(&plugin, bad), (Flow::Reject(503), None), "{bad:?}");
        }
        assert_eq!(judged(&plugin, &[16, 0xff, 0xff, 0x7f, 0]), (Flow::Reject(400), None));
    }
}
