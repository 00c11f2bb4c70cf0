//! Stream routes and services: where their connections go.

use super::{Context, Warning, circle, listener, plugin, shadow, sni, upstream};
use crate::Entry;
use crate::resource::{Service, StreamRoute};

/// Adds all warnings for a stream route.
pub(super) fn route(context: Context<'_>, entry: &Entry<StreamRoute>, out: &mut Vec<Warning>) {
    let route = &entry.value;
    if !shadow::is_subordinate(route) {
        listener::reachable(context, route, out);
        for name in route.names().filter(|_| !is_passed_through(context, route)) {
            sni::covered(context, name, out);
        }
        shadow::shadowed(context, entry, out);
    }
    target(context, route, out);
    circle::circle(context, entry, out);
    plugin::plugins(context, &route.plugins, out);
    if let Some(protocol) = &route.protocol {
        out.push(Warning::new(
            "route/protocol",
            format!(
                "`protocol` {} is not executed in this version; connections to this route are closed",
                protocol.name
            ),
            "remove `protocol` if plain relaying is what you want",
        ));
    }
}

/// Whether all listeners of a route relay TLS as it is.
fn is_passed_through(context: Context<'_>, route: &StreamRoute) -> bool {
    let mut on_port = context
        .listeners
        .iter()
        .filter(|one| route.server_port.is_none_or(|port| one.port() == Some(port)))
        .filter(|one| one.reads_tls())
        .peekable();
    route.tls_passthrough || (on_port.peek().is_some() && on_port.all(|one| !one.tls))
}

/// Adds all warnings for a service.
pub(super) fn service(context: Context<'_>, service: &Service, out: &mut Vec<Warning>) {
    if let Some(inline) = &service.upstream {
        upstream::upstream(inline, "the service's `upstream`", out);
    } else if let Some(id) = &service.upstream_id {
        by_id(context, id, out);
    }
    plugin::plugins(context, &service.plugins, out);
}

/// Follows the order in which the upstream of a route is found.
fn target(context: Context<'_>, route: &StreamRoute, out: &mut Vec<Warning>) {
    if let Some(id) = &route.upstream_id {
        if let Some(service) = &route.service_id {
            out.push(Warning::new(
                "route/service-ignored",
                format!(
                    "`service_id` [{service}] and its plugins are ignored: `upstream_id` is set"
                ),
                "remove `upstream_id` to use the service, or remove `service_id`",
            ));
        }
        return by_id(context, id, out);
    }
    let service = route.service_id.as_deref();
    let found = service.and_then(|id| context.set.services.get(id)).map(|entry| &entry.value);
    if let (Some(id), None) = (service, found) {
        out.push(Warning::new(
            "route/missing-service",
            format!("service [{id}] does not exist, so connections to this route are closed"),
            format!("create service [{id}], or change `service_id`"),
        ));
        return;
    }
    if let Some(inline) = &route.upstream {
        upstream::upstream(inline, "the route's `upstream`", out);
    } else if let Some(inline) = found.and_then(|service| service.upstream.as_ref()) {
        upstream::nodes(inline, "the service's `upstream`", out);
    } else if let Some(id) = found.and_then(|service| service.upstream_id.as_ref()) {
        by_id(context, id, out);
    } else if !is_split(route) && !found.is_some_and(|service| service.plugins.contains_key(SPLIT))
    {
        out.push(Warning::new(
            "route/no-upstream",
            "this route has no upstream, so its connections are closed",
            "set `upstream`, `upstream_id` or a `service_id` whose service has an upstream",
        ));
    }
}

/// The plugin that can supply an upstream.
const SPLIT: &str = "traffic-split";

fn is_split(route: &StreamRoute) -> bool {
    route.plugins.contains_key(SPLIT)
}

fn by_id(context: Context<'_>, id: &str, out: &mut Vec<Warning>) {
    match context.set.upstreams.get(id) {
        Some(entry) => upstream::nodes(&entry.value, &format!("upstream [{id}]"), out),
        None => out.push(Warning::new(
            "route/missing-upstream",
            format!("upstream [{id}] does not exist, so connections to it are closed"),
            format!("create upstream [{id}], or change `upstream_id`"),
        )),
    }
}
