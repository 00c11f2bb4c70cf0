//! Typed resources: what the planes compile from. Fields that no plane reads stay in the document.

pub mod service;
pub mod ssl;
pub mod stream_route;
pub mod upstream;

pub use service::Service;
pub use ssl::Ssl;
pub use stream_route::StreamRoute;
pub use upstream::Upstream;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Plugin configurations by plugin name.
pub type Plugins = Map<String, Value>;

/// Reads an id: a string, or an integer that stands for its decimal text.
pub(crate) fn optional_id<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Number(u64),
    }
    Ok(Option::<Id>::deserialize(input)?.map(|id| match id {
        Id::Text(text) => text,
        Id::Number(number) => number.to_string(),
    }))
}
