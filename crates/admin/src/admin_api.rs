//! The Admin API: what every request goes through, top to bottom.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::SERVER;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use headgate_model::PluginList;
use headgate_model::check::Checker;
use headgate_model::settings::AdminSettings;
use headgate_store::{Store, Whole};
use tokio::sync::RwLock;

use crate::access::AllowList;
pub use crate::access::BadNetwork;
use crate::answer;
use crate::auth::Auth;
use crate::cors;
use crate::endpoint::{Endpoint, find_standalone};
use crate::envelope::Envelope;
use crate::live::Live;
use crate::request::{Query, body, segments};
use crate::server::{Limits, Peer};
use crate::standalone::{self, Configs};
use crate::{resources, schema_api, validate_api};

/// Encrypts a private key before it is stored (`spec/storage.md`, section 3).
pub type Encrypt = Box<dyn Fn(&str) -> String + Send + Sync>;

/// What the Admin API works with.
pub struct Admin {
    /// `deployment.admin`, with no key left empty.
    pub settings: AdminSettings,
    /// Where resources are kept.
    pub store: Arc<dyn Store>,
    /// The running planes.
    pub live: Arc<dyn Live>,
    /// What is checked before a resource is stored.
    pub checker: Arc<Checker>,
    /// How private keys are encrypted.
    pub encrypt: Encrypt,
    /// Prefix of keys in answers, e.g. `/apisix`.
    pub prefix: String,
    /// Version in the header `Server`.
    pub version: String,
    /// API-driven standalone mode: what `/apisix/admin/configs` fills. There are no resources to be
    /// read or written one by one then.
    pub standalone: Option<Arc<Whole>>,
    /// The list of plugins that nodes without an Admin API follow; written when plugins are reloaded.
    /// `None`: there are no such nodes.
    pub plugins: Option<PluginList>,
    /// Limits; of these the time for a body is used here, the others by [`crate::serve`].
    pub limits: Limits,
}

/// [`Admin`] and what is prepared from it once.
pub(crate) struct Context {
    pub(crate) admin: Admin,
    pub(crate) envelope: Envelope,
    /// Held shared by writes that only refer to other resources, and alone by those that must see
    /// no other write between their check and their change (DELETE, global rules, listeners).
    pub(crate) writing: RwLock<()>,
    pub(crate) configs: Configs,
    allow: AllowList,
    auth: Auth,
    server: HeaderValue,
}

/// The Admin API as a router, to be served by [`crate::serve`].
///
/// # Errors
/// An entry of `allow_admin` is neither an address nor a network.
pub fn router(admin: Admin) -> Result<Router, BadNetwork> {
    let settings = &admin.settings;
    let server = if settings.server_tokens {
        HeaderValue::from_str(&format!("APISIX/{}", admin.version)).ok()
    } else {
        None
    };
    let context = Context {
        envelope: if settings.v3 { Envelope::V3 } else { Envelope::V2 },
        writing: RwLock::new(()),
        configs: Configs::default(),
        allow: AllowList::new(settings.allow.as_deref())?,
        auth: Auth::new(settings.keys.as_deref()),
        server: server.unwrap_or(HeaderValue::from_static("APISIX")),
        admin,
    };
    Ok(Router::new().fallback(respond).with_state(Arc::new(context)))
}

async fn respond(State(context): State<Arc<Context>>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let wants_cors = context.admin.settings.cors;
    let mut response = if !context.allow.permits(peer) {
        answer::page(StatusCode::FORBIDDEN)
    } else if wants_cors && request.method() == Method::OPTIONS {
        cors::preflight()
    } else {
        let mut response = context.clone().dispatch(request).await;
        if wants_cors {
            cors::expose(&mut response);
        }
        response
    };
    response.headers_mut().insert(SERVER, context.server.clone());
    response
}

impl Context {
    async fn dispatch(self: Arc<Self>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let segments = segments(parts.uri.path());
        let found = if self.admin.standalone.is_some() {
            find_standalone(&parts.method, &segments)
        } else {
            Endpoint::find(&parts.method, &segments)
        };
        let Some(endpoint) = found else {
            return answer::page(StatusCode::NOT_FOUND);
        };
        if endpoint == Endpoint::Alive {
            return answer::text(StatusCode::OK, "");
        }
        let query = Query::parse(parts.uri.query());
        let author = match self.auth.author(&parts.method, &parts.headers, &query) {
            Ok(author) => author,
            Err(refused) => return refused.into_response(),
        };
        match endpoint {
            Endpoint::Alive => answer::text(StatusCode::OK, ""),
            Endpoint::PluginList => schema_api::plugin_names(&self, &query),
            Endpoint::PluginReload => schema_api::reload(&self, author).await,
            Endpoint::PluginReloadMisused => schema_api::reload_misused(&parts.method),
            Endpoint::SchemaValidate(resource) => {
                match body::read(&parts.headers, body, self.admin.limits.body).await {
                    Ok(bytes) => validate_api::schema(&self, resource, &bytes),
                    Err(error) => error.into_response(),
                }
            }
            Endpoint::ConfigsValidate => {
                match body::read(&parts.headers, body, self.admin.limits.body).await {
                    Ok(bytes) => validate_api::configs(&self, &parts.headers, &bytes),
                    Err(error) => error.into_response(),
                }
            }
            Endpoint::Configs => standalone::respond(&self, &parts, body, &author).await,
            Endpoint::Resource(rest) => {
                let request = resources::Arrived {
                    method: parts.method,
                    segments: rest.to_vec(),
                    query,
                    headers: parts.headers,
                    author,
                };
                let version = self.envelope.header();
                let mut response = resources::respond(self, request, body).await;
                response.headers_mut().insert(answer::API_VERSION, version);
                response
            }
        }
    }
}
