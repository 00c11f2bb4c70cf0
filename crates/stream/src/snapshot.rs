//! The configuration as the data path sees it: resolved, indexed, immutable.

mod certificates;
mod compile;
mod material;
mod upstream_tls;

use std::sync::Arc;

use headgate_model::resource::stream_route::UdpLimits;
use headgate_upstream::Upstream;

pub use certificates::{Certificate, Certificates, NoCertificate};
pub use compile::Compiler;
pub use material::Decrypt;

use crate::outcome::CloseReason;
use crate::plugin::Chain;
use crate::router::Router;
use crate::stats::RouteStats;

/// One version of everything a new session needs. Sessions pin it when they begin.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Revision of the store that it shows.
    pub revision: u64,
    /// The routes.
    pub routes: Router<Arc<Route>>,
    /// The certificates of TLS listeners.
    pub certificates: Arc<Certificates>,
    /// Whether an upstream or a plugin uses the address that sessions connected to.
    pub(crate) wants_server: bool,
}

/// A stream route, ready to serve.
#[derive(Debug)]
pub struct Route {
    /// Its id.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Id and name of the service that lent upstream or plugins.
    pub service: Option<(String, Option<String>)>,
    /// What its sessions pass through first.
    pub plugins: Chain,
    /// TLS is relayed as it is.
    pub tls_passthrough: bool,
    /// Where sessions go, unless a plugin says otherwise.
    pub target: Target,
    /// What its sessions count.
    pub stats: Arc<RouteStats>,
    /// Limits of its UDP flows.
    pub udp: UdpLimits,
}

/// Where the sessions of a route go.
#[derive(Debug)]
pub enum Target {
    /// To an upstream.
    Upstream(Arc<Upstream>),
    /// Nowhere: the reason for the log and the close reason of every session.
    Broken {
        /// In the reference's wording where it has one.
        message: String,
        /// How its sessions end.
        reason: CloseReason,
    },
}
