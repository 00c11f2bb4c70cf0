//! The server of metrics (`spec/plugins.md`, section 5): one path, for GET.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use headgate_telemetry::{Registry, exposition};

use crate::answer;

/// The metrics server as a router, to be served by [`crate::serve`]. Everything but `path` is 404,
/// as in the reference.
pub fn router(path: String, registry: Arc<Registry>) -> Router {
    Router::new().fallback(respond).with_state((path.into(), registry))
}

async fn respond(
    State((path, registry)): State<(Arc<str>, Arc<Registry>)>,
    request: Request,
) -> Response {
    let is_asked = [Method::GET, Method::HEAD].contains(request.method());
    if request.uri().path() != &*path || !is_asked {
        return answer::page(StatusCode::NOT_FOUND);
    }
    // Ten thousand routes take a while; the control threads have other things to do.
    match tokio::task::spawn_blocking(move || registry.expose()).await {
        Ok(text) => {
            let mut response = text.into_response();
            let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => {
            tracing::error!(%error, "collecting metrics failed");
            answer::page(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use headgate_telemetry::Metric;
    use tower::ServiceExt as _;

    use super::*;

    static UP: Metric = Metric::gauge("up", "Up", &[]).reference();

    async fn ask(method: &str, path: &str) -> (u16, String, String) {
        let registry = Arc::new(Registry::new("my_").with(|page| page.value(&UP, 1_u64)));
        let router = router("/metrics".to_owned(), registry);
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn one_path_for_get() {
        let (status, kind, body) = ask("GET", "/metrics?x=1").await;
        assert_eq!((status, kind.as_str()), (200, exposition::CONTENT_TYPE));
        assert!(body.ends_with("\nmy_up 1\n"), "{body}");
        for (method, path) in [("GET", "/"), ("POST", "/metrics"), ("GET", "/metrics/")] {
            assert_eq!(ask(method, path).await.0, 404, "{method} {path}");
        }
    }
}
