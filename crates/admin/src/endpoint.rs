//! Which requests the Admin API takes at all: the table of `spec/admin-api.md`, section 1.

use axum::http::Method;

/// What a request asks for, found from method and path alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Endpoint<'a> {
    /// `HEAD /apisix/admin`: is the Admin API there.
    Alive,
    /// `GET /apisix/admin/plugins/list`.
    PluginList,
    /// `PUT /apisix/admin/plugins/reload`.
    PluginReload,
    /// Another method on `/apisix/admin/plugins/reload`.
    PluginReloadMisused,
    /// `POST /apisix/admin/schema/validate/{resource}`.
    SchemaValidate(&'a str),
    /// `POST /apisix/admin/configs/validate`.
    ConfigsValidate,
    /// `/apisix/admin/configs` of the API-driven standalone mode.
    Configs,
    /// Everything else below `/apisix/admin/`: the segments after it, at least one.
    Resource(&'a [String]),
}

impl<'a> Endpoint<'a> {
    /// `None`: the HTML 404 page.
    pub(crate) fn find(method: &Method, segments: &'a [String]) -> Option<Self> {
        let [first, second, rest @ ..] = segments else { return None };
        if first != "apisix" || second != "admin" {
            return None;
        }
        if rest.is_empty() {
            return (method == Method::HEAD).then_some(Self::Alive);
        }
        let known = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH];
        if !known.contains(method) {
            return None;
        }
        let words: Vec<&str> = rest.iter().map(String::as_str).collect();
        Some(match words.as_slice() {
            ["plugins", "list"] if method == Method::GET => Self::PluginList,
            ["plugins", "reload"] if method == Method::PUT => Self::PluginReload,
            ["plugins", "reload"] => Self::PluginReloadMisused,
            ["schema", "validate", resource, ..] if method == Method::POST => {
                Self::SchemaValidate(resource)
            }
            ["configs", "validate"] if method == Method::POST => Self::ConfigsValidate,
            _ => Self::Resource(rest),
        })
    }
}

/// The few requests of the API-driven standalone mode; `None`: the HTML 404 page.
pub(crate) fn find_standalone(method: &Method, segments: &[String]) -> Option<Endpoint<'static>> {
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["apisix", "admin"] if method == Method::HEAD => Some(Endpoint::Alive),
        ["apisix", "admin", "configs"]
            if [Method::GET, Method::PUT, Method::HEAD].contains(method) =>
        {
            Some(Endpoint::Configs)
        }
        ["apisix", "admin", "configs", "validate"] if method == Method::POST => {
            Some(Endpoint::ConfigsValidate)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::segments;

    #[test]
    fn the_table() {
        let cases: [(&str, &str, &str); 16] = [
            ("HEAD", "/apisix/admin", "Some(Alive)"),
            ("GET", "/apisix/admin", "None"),
            ("HEAD", "/apisix/admin/routes", "None"),
            ("TRACE", "/apisix/admin/routes", "None"),
            ("GET", "/apisix", "None"),
            ("GET", "/ui/", "None"),
            ("GET", "/apisix/admin/plugins/list", "Some(PluginList)"),
            ("PUT", "/apisix/admin/plugins/list", r#"Some(Resource(["plugins", "list"]))"#),
            ("PUT", "/apisix/admin/plugins/reload", "Some(PluginReload)"),
            ("GET", "/apisix/admin/plugins/reload", "Some(PluginReloadMisused)"),
            ("POST", "/apisix/admin/schema/validate/routes", r#"Some(SchemaValidate("routes"))"#),
            ("GET", "/apisix/admin/schema/validate", r#"Some(Resource(["schema", "validate"]))"#),
            ("POST", "/apisix/admin/configs/validate", "Some(ConfigsValidate)"),
            ("GET", "/apisix/admin/configs", r#"Some(Resource(["configs"]))"#),
            ("PATCH", "//apisix/admin//upstreams/1/", r#"Some(Resource(["upstreams", "1"]))"#),
            ("GET", "/other/admin/upstreams", "None"),
        ];
        for (method, path, expected) in cases {
            let segments = segments(path);
            let found = Endpoint::find(&method.parse().unwrap(), &segments);
            assert_eq!(format!("{found:?}"), expected, "{method} {path}");
        }
    }
}
