//! The status server: is the process alive, is it ready for traffic.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::answer;
use crate::json;
use crate::live::Live;
use crate::resources::now;

/// The status server as a router, to be served by [`crate::serve`].
pub fn router(live: Arc<dyn Live>) -> Router {
    Router::new().fallback(respond).with_state(live)
}

/// Paths are prefixes, as in the reference: `/status/readyz` is `/status/ready`.
async fn respond(State(live): State<Arc<dyn Live>>, request: Request) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/status") {
        return answer::page(StatusCode::NOT_FOUND);
    }
    let is_ready = path.starts_with("/status/ready");
    let ready = if is_ready { live.ready() } else { Ok(()) };
    match ready {
        Ok(()) => {
            let mut body = json!({"status": "ok"});
            // An extension, and only then: who compares the answer of the reference sees it.
            if !is_ready {
                let health = live.health();
                if let Some(stale) = &health.stale {
                    let age = health.age(now());
                    body["stale"] =
                        json!({"since": stale.since, "age": age, "reason": stale.reason});
                }
                if let Some(disk) = &health.disk {
                    body["disk"] = json!({"since": disk.since, "reason": disk.reason});
                }
            }
            answer::text(StatusCode::OK, json::to_text(&body))
        }
        Err(error) => answer::text(
            StatusCode::SERVICE_UNAVAILABLE,
            json::to_text(&json!({"status": "error", "error": error})),
        ),
    }
}
