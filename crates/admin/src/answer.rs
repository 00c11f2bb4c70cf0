//! Responses of the three servers, and [`Refused`]: an error that already is a response.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use headgate_store::StoreError;
use serde_json::{Value, json};

use crate::json;

/// `X-API-VERSION: v3` or `v2`.
pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("x-api-version");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html");

/// A JSON body, compact and with a newline at the end.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response {
    let mut body = json::to_text(value);
    body.push('\n');
    text(status, body)
}

/// A body as it is. The reference answers `application/json` even for these.
pub(crate) fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    with_type(status, JSON, body.into())
}

/// An error page, for requests that no interface takes.
pub(crate) fn page(status: StatusCode) -> Response {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let body = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n\
         <center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    );
    html(status, body)
}

/// A page.
pub(crate) fn html(status: StatusCode, body: impl Into<Body>) -> Response {
    with_type(status, HTML, body.into())
}

fn with_type(status: StatusCode, kind: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Why a request was refused: status and JSON body.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

/// Seconds after which a write that met an upgrade should be tried again.
const AFTER_AN_UPGRADE: HeaderValue = HeaderValue::from_static("1");

impl Refused {
    /// `{"error_msg": message}`.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, body: json!({"error_msg": message.into()}) }
    }

    /// 400 with a message.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Whether a successor process will do what this one could not.
    fn is_moving(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && self.body == json!({"error_msg": StoreError::Moving.to_string()})
    }

    /// The answer for a key that is not there.
    pub(crate) fn key_not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, body: json!({"message": "Key not found"}) }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        if !matches!(error, StoreError::Conflict { .. }) {
            tracing::warn!(%error, "the store refused a request of the Admin API");
        }
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = json(self.status, &self.body);
        if self.is_moving() {
            response.headers_mut().insert(RETRY_AFTER, AFTER_AN_UPGRADE);
        }
        response
    }
}
