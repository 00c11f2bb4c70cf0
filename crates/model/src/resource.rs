//! Typed resources: what the planes compile from. Fields that no plane reads stay in the document.

pub mod checks;
pub mod ip_set;
mod lenient;
pub mod service;
pub mod ssl;
pub mod stream_listener;
pub mod stream_route;
pub mod upstream;

pub use ip_set::IpSet;
pub use service::Service;
pub use ssl::{Secret, Ssl};
pub use stream_listener::StreamListener;
pub use stream_route::StreamRoute;
pub use upstream::Upstream;

use serde_json::{Map, Value};

/// Plugin configurations by plugin name.
pub type Plugins = Map<String, Value>;

#[cfg(test)]
mod tests;
