//! CORS headers of the Admin API (`deployment.admin.enable_admin_cors`).

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue,
};
use axum::response::Response;

/// Answer to OPTIONS, for every path and without a key.
pub(crate) fn preflight() -> Response {
    let mut response = Response::default();
    insert(
        &mut response,
        [
            (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, PUT, OPTIONS, DELETE, PATCH"),
            (ACCESS_CONTROL_MAX_AGE, "3600"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "*"),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (CONTENT_LENGTH, "0"),
            (CONTENT_TYPE, "text/plain"),
        ],
    );
    response
}

/// Headers of every other answer.
pub(crate) fn expose(response: &mut Response) {
    insert(
        response,
        [
            (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (ACCESS_CONTROL_EXPOSE_HEADERS, "*"),
            (ACCESS_CONTROL_MAX_AGE, "3600"),
        ],
    );
}

fn insert<const N: usize>(response: &mut Response, headers: [(HeaderName, &'static str); N]) {
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}
