//! What is special about stream listeners: their sockets are bound before they are stored, and those
//! of config.yaml are shown among them.

use headgate_model::Kind;
use headgate_model::resource::stream_listener::CONFIGURED;
use headgate_model::settings::ListenEntry;
use headgate_store::Stored;
use serde_json::{Value, json};

use super::target::Target;
use crate::admin_api::Context;
use crate::answer::Refused;
use crate::live::Reserved;

impl Context {
    /// Binds the sockets of a stream listener that is about to be stored. To be held until the
    /// write is answered.
    pub(super) async fn reserve(
        &self,
        kind: Kind,
        id: &str,
        value: &Value,
    ) -> Result<Option<Reserved>, Refused> {
        if kind != Kind::StreamListener {
            return Ok(None);
        }
        let (live, id, value) = (self.admin.live.clone(), id.to_owned(), value.clone());
        // A range of thousands of ports takes a while.
        let task = tokio::task::spawn_blocking(move || live.reserve(&id, &value));
        match task.await {
            Ok(reserved) => reserved.map_err(Refused::bad),
            Err(error) => Err(Refused::bad(format!("binding failed: {error}"))),
        }
    }
}

/// Refuses to change what config.yaml says.
pub(super) fn refuse_configured(target: &Target) -> Result<(), Refused> {
    match &target.id {
        Some(id) if target.kind == Kind::StreamListener && id.starts_with(CONFIGURED) => {
            let message = format!(
                "stream listener [{id}] is part of config.yaml (fix: change it there and reload)"
            );
            Err(Refused::bad(message))
        }
        _ => Ok(()),
    }
}

/// The listeners of config.yaml as if they were stored.
pub(super) fn all_configured(context: &Context, kind: Kind) -> Vec<Stored> {
    if kind != Kind::StreamListener {
        return Vec::new();
    }
    context.admin.live.configured_listeners().into_iter().map(shown).collect()
}

/// One of them.
pub(super) fn configured(context: &Context, kind: Kind, id: &str) -> Option<Stored> {
    let key = kind.key(id);
    all_configured(context, kind).into_iter().find(|stored| stored.key == key)
}

fn shown(entry: ListenEntry) -> Stored {
    let id = id_of(&entry.path);
    let mut value = entry.document;
    if let Some(members) = value.as_object_mut() {
        members.insert("id".to_owned(), json!(id));
        members.insert("read_only".to_owned(), json!(true));
        members.insert("source".to_owned(), json!(format!("config.yaml: {}", entry.path)));
    }
    Stored { key: Kind::StreamListener.key(&id), value, created: 0, modified: 0 }
}

/// `config.tcp.0` for `apisix.stream_proxy.tcp[0]`.
fn id_of(path: &str) -> String {
    let entry = path.rsplit('.').next().unwrap_or(path);
    format!("{CONFIGURED}{}", entry.replace('[', ".").replace(']', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_ids() {
        assert_eq!(id_of("apisix.stream_proxy.udp[12]"), "config.udp.12");
    }
}
