//! A service: upstream and plugins shared by several routes (`spec/schemas.md`, section 7).

use serde::Deserialize;

use super::lenient::{optional_id, plugins};
use super::{Plugins, Upstream};

/// Typed view of a service.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Service {
    /// Name for people and logs.
    pub name: Option<String>,
    /// Upstream written into the service.
    pub upstream: Option<Upstream>,
    /// Id of an upstream object, used when there is no inline upstream.
    #[serde(default, deserialize_with = "optional_id")]
    pub upstream_id: Option<String>,
    /// Plugins by name; a route's plugin of the same name replaces it whole.
    #[serde(default, deserialize_with = "plugins")]
    pub plugins: Plugins,
}
