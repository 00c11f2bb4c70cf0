//! Requests to the Admin API and the control API.

use serde_json::Value;

use super::Gateway;
use crate::SOON;
use crate::http::{self, Response};

impl Gateway {
    /// Uses another key for requests from now on.
    pub fn use_key(&mut self, key: &str) {
        key.clone_into(&mut self.key);
    }

    /// Sends a request to the Admin API with the admin key. `path` is relative to
    /// `/apisix/admin/` unless it begins with a slash.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Response {
        let headers = [("X-API-KEY", self.key.as_str()), ("Content-Type", "application/json")];
        self.request_with(method, path, &headers, body)
    }

    /// Sends a request with headers of one's choice and no key.
    #[track_caller]
    pub fn request_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Response {
        match self.try_request(method, path, headers, body) {
            Ok(response) => response,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// As [`Gateway::request_with`], for requests that may fail as such.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn try_request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> std::io::Result<Response> {
        http::request(
            self.admin,
            method,
            &admin_path(path),
            headers,
            body.map(str::as_bytes),
            SOON * 2,
        )
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, None)
    }

    /// GET from the control API, which [`GatewayBuilder::control`] switches on.
    #[track_caller]
    pub fn control(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let to = self.builder.control.as_ref().expect("switched on").local();
        match http::request(to, "GET", path, headers, None, SOON * 2) {
            Ok(response) => response,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    /// PUT of a JSON value.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Response {
        self.request("PUT", path, Some(&body.to_string()))
    }

    /// POST of a JSON value.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, Some(&body.to_string()))
    }

    /// PATCH with a JSON value.
    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) -> Response {
        self.request("PATCH", path, Some(&body.to_string()))
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, None)
    }
}

fn admin_path(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/apisix/admin/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_admin_api() {
        assert_eq!(admin_path("stream_routes/1"), "/apisix/admin/stream_routes/1");
        assert_eq!(admin_path("/v1/schema"), "/v1/schema");
    }
}
