//! Who sends a request: API keys and roles.
//!
//! Keys are kept and compared as SHA-256 digests in constant time, so neither their bytes nor their
//! length shows in how long an answer takes.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::http::header::COOKIE;
use axum::http::{HeaderMap, Method, StatusCode};
use headgate_model::settings::AdminKey;
use serde_json::json;

use crate::answer::Refused;
use crate::request::Query;

/// Author of writes when no key is required.
const ANONYMOUS: &str = "anonymous";

/// The keys of the Admin API.
pub(crate) struct Auth(Option<Vec<Known>>);

struct Known {
    name: String,
    digest: Digest,
    viewer: bool,
}

impl Auth {
    /// `None`: nobody is asked. An empty key never matches.
    pub(crate) fn new(keys: Option<&[AdminKey]>) -> Self {
        let known = |key: &AdminKey| Known {
            name: key.name.clone(),
            digest: digest(&SHA256, key.key.as_bytes()),
            viewer: key.viewer,
        };
        Self(keys.map(|keys| keys.iter().filter(|key| !key.key.is_empty()).map(known).collect()))
    }

    /// The name of the key that a request was sent with.
    pub(crate) fn author(
        &self,
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
    ) -> Result<String, Refused> {
        let Some(known) = &self.0 else { return Ok(ANONYMOUS.to_owned()) };
        let token = token(headers, query).ok_or_else(|| refused("missing apikey"))?;
        let given = digest(&SHA256, &token);
        // Every key is compared, whether or not an earlier one matched.
        let found = known.iter().fold(None, |found, key| {
            let equal = verify_slices_are_equal(key.digest.as_ref(), given.as_ref()).is_ok();
            found.or(if equal { Some(key) } else { None })
        });
        let key = found.ok_or_else(|| refused("wrong apikey"))?;
        if key.viewer && method != Method::GET {
            return Err(refused("invalid method for role viewer"));
        }
        Ok(key.name.clone())
    }
}

fn refused(description: &str) -> Refused {
    Refused {
        status: StatusCode::UNAUTHORIZED,
        body: json!({"error_msg": "failed to check token", "description": description}),
    }
}

/// The first place that carries a key decides, even when the key is wrong.
fn token(headers: &HeaderMap, query: &Query) -> Option<Vec<u8>> {
    if let Some(value) = query.get("api_key") {
        return Some(value.as_bytes().to_vec());
    }
    if let Some(value) = headers.get("x-api-key") {
        return Some(value.as_bytes().to_vec());
    }
    headers.get_all(COOKIE).iter().find_map(|cookies| {
        cookies
            .as_bytes()
            .split(|byte| *byte == b';')
            .find_map(|cookie| cookie.trim_ascii().strip_prefix(b"x_api_key=").map(<[u8]>::to_vec))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Auth {
        let key = |name: &str, key: &str, viewer| AdminKey {
            name: name.to_owned(),
            key: key.to_owned(),
            viewer,
        };
        Auth::new(Some(&[
            key("admin", "secret", false),
            key("look", "peep", true),
            key("unset", "", false),
        ]))
    }

    fn headers(items: &[(&'static str, &'static str)]) -> HeaderMap {
        items.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_first_token_decides() {
        let auth = keys();
        let right = headers(&[("x-api-key", "secret")]);
        let cookie = headers(&[("cookie", "a=b; x_api_key=peep")]);
        let cases: [(&HeaderMap, &str, Result<&str, &str>); 8] = [
            (&right, "", Ok("admin")),
            (&right, "api_key=wrong", Err("wrong apikey")),
            (&right, "api_key=peep", Ok("look")),
            (&cookie, "", Ok("look")),
            (&headers(&[]), "api_key=secret&api_key=x", Ok("admin")),
            (&headers(&[]), "", Err("missing apikey")),
            (&headers(&[("x-api-key", "")]), "", Err("wrong apikey")),
            (&headers(&[("x-api-key", "secre")]), "", Err("wrong apikey")),
        ];
        for (headers, query, expected) in cases {
            let found = auth.author(&Method::GET, headers, &Query::parse(Some(query)));
            match expected {
                Ok(name) => assert_eq!(found.as_deref(), Ok(name)),
                Err(text) => assert_eq!(found, Err(refused(text))),
            }
        }
    }

    #[test]
    fn a_viewer_only_reads() {
        let auth = keys();
        let viewer = headers(&[("x-api-key", "peep")]);
        let query = Query::parse(None);
        assert!(auth.author(&Method::GET, &viewer, &query).is_ok());
        for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
            assert_eq!(
                auth.author(&method, &viewer, &query),
                Err(refused("invalid method for role viewer"))
            );
        }
        let nobody = Auth::new(None).author(&Method::PUT, &headers(&[]), &query);
        assert_eq!(nobody.as_deref(), Ok("anonymous"));
    }
}
