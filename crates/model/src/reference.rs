//! References between resources: which ones a document makes, and who still uses one.

use serde_json::{Number, Value};

use crate::Kind;

/// A reference to another resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Kind of the resource referred to.
    pub kind: Kind,
    /// Its id, as text.
    pub id: String,
}

/// The id in a member, as text: ids may be written as integers.
pub(crate) fn id_member(value: &Value, member: &str) -> Option<String> {
    match value.get(member)? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id_text(id)),
        _ => None,
    }
}

/// The text of an id that is written as a number.
#[must_use]
pub fn id_text(id: &Number) -> String {
    match (id.as_u64(), id.as_f64()) {
        (Some(id), _) => id.to_string(),
        (None, Some(id)) => crate::schema::lua_number(id),
        (None, None) => id.to_string(),
    }
}

/// Members of a kind that hold ids which must exist on a write, in the order of the checks.
pub(crate) const fn members(kind: Kind) -> &'static [(&'static str, Kind)] {
    match kind {
        Kind::StreamRoute => &[("upstream_id", Kind::Upstream), ("service_id", Kind::Service)],
        Kind::Service => &[("upstream_id", Kind::Upstream)],
        Kind::Route => &[
            ("upstream_id", Kind::Upstream),
            ("service_id", Kind::Service),
            ("plugin_config_id", Kind::PluginConfig),
        ],
        Kind::Consumer => &[("group_id", Kind::ConsumerGroup)],
        _ => &[],
    }
}

/// The references of a document that a write checks.
pub(crate) fn checked(kind: Kind, value: &Value) -> Vec<Reference> {
    let mut out = Vec::new();
    let mut add = |kind, id: Option<String>| {
        if let Some(id) = id {
            out.push(Reference { kind, id });
        }
    };
    for (member, kind) in members(kind) {
        add(*kind, id_member(value, member));
    }
    if kind == Kind::StreamRoute {
        let protocol = value.get("protocol");
        add(Kind::StreamRoute, protocol.and_then(|protocol| id_member(protocol, "superior_id")));
    }
    let upstream = match kind {
        Kind::Upstream => Some(value),
        Kind::Service | Kind::Route => value.get("upstream"),
        _ => None,
    };
    let tls = upstream.and_then(|upstream| upstream.get("tls"));
    add(Kind::Ssl, tls.and_then(|tls| id_member(tls, "client_cert_id")));
    out
}

/// Why `kind/id` must not be deleted: the message of the reference, e.g.
/// `can not delete this upstream, route [1] is still using it now`. Of several users the one whose
/// kind the reference asks first is named, the first of `all` among equals.
///
/// Stream routes do not keep an upstream from being deleted, as in the reference.
#[must_use]
pub fn in_use<'a>(
    kind: Kind,
    id: &str,
    all: &mut dyn Iterator<Item = (Kind, &'a str, &'a Value)>,
) -> Option<String> {
    let uses = uses(kind);
    let mut first: Option<(usize, &'static Use, &'a str)> = None;
    for (user, user_id, value) in all {
        let found = uses.iter().position(|way| way.user == user && way.refers(value, id));
        if let Some(rank) = found
            && first.is_none_or(|(best, _, _)| rank < best)
            && let Some(way) = uses.get(rank)
        {
            first = Some((rank, way, user_id));
        }
    }
    let (_, way, user_id) = first?;
    let Use { what, name, end, .. } = way;
    Some(format!("can not delete this {what}, {name} [{user_id}] is still using it {end}"))
}

/// One way in which resources use others.
struct Use {
    user: Kind,
    how: How,
    /// The resource to be deleted, as the message names it.
    what: &'static str,
    /// The user, as the message names it.
    name: &'static str,
    end: &'static str,
}

enum How {
    /// An id in a member.
    Member(&'static str),
    /// `protocol.superior_id`.
    Superior,
    /// An id among the targets of the traffic-split plugin.
    TrafficSplit,
    /// `proto_id` of the grpc-transcode plugin.
    Transcode,
}

impl Use {
    const fn of(user: Kind, how: How, what: &'static str, name: &'static str) -> Self {
        Self { user, how, what, name, end: "now" }
    }

    fn refers(&self, value: &Value, id: &str) -> bool {
        let is = |holder: &Value, member: &str| id_member(holder, member).as_deref() == Some(id);
        let plugin = |name: &str| value.get("plugins").and_then(|plugins| plugins.get(name));
        match self.how {
            How::Member(member) => is(value, member),
            How::Superior => value.get("protocol").is_some_and(|p| is(p, "superior_id")),
            How::TrafficSplit => plugin("traffic-split")
                .is_some_and(|conf| targets(conf).any(|target| is(target, "upstream_id"))),
            How::Transcode => plugin("grpc-transcode").is_some_and(|conf| is(conf, "proto_id")),
        }
    }
}

/// Every entry of `weighted_upstreams` of a traffic-split configuration.
pub(crate) fn targets(conf: &Value) -> impl Iterator<Item = &Value> {
    let rules = conf.get("rules").and_then(Value::as_array).into_iter().flatten();
    rules.filter_map(|rule| rule.get("weighted_upstreams")?.as_array()).flatten()
}

/// Who is asked before a resource of that kind is deleted, in the reference's order.
const fn uses(kind: Kind) -> &'static [Use] {
    match kind {
        Kind::Upstream => UPSTREAM,
        Kind::Service => SERVICE,
        Kind::StreamRoute => STREAM_ROUTE,
        Kind::PluginConfig => PLUGIN_CONFIG,
        Kind::ConsumerGroup => CONSUMER_GROUP,
        Kind::Proto => PROTO,
        _ => &[],
    }
}

const UPSTREAM: &[Use] = &[
    Use::of(Kind::Route, How::Member("upstream_id"), "upstream", "route"),
    Use::of(Kind::Service, How::Member("upstream_id"), "upstream", "service"),
    Use::of(Kind::Route, How::TrafficSplit, "upstream", "plugin in route"),
    Use::of(Kind::Service, How::TrafficSplit, "upstream", "plugin in service"),
    Use::of(Kind::PluginConfig, How::TrafficSplit, "upstream", "plugin in plugin_config"),
    Use::of(Kind::Consumer, How::TrafficSplit, "upstream", "plugin in consumer"),
    Use::of(Kind::ConsumerGroup, How::TrafficSplit, "upstream", "plugin in consumer_group"),
    Use::of(Kind::GlobalRule, How::TrafficSplit, "upstream", "plugin in global_rules"),
];

const SERVICE: &[Use] = &[
    Use::of(Kind::Route, How::Member("service_id"), "service directly", "route"),
    Use::of(Kind::StreamRoute, How::Member("service_id"), "service directly", "stream_route"),
];

const STREAM_ROUTE: &[Use] = &[Use {
    user: Kind::StreamRoute,
    how: How::Superior,
    what: "stream route directly",
    name: "stream route",
    end: "as superior_id",
}];

const PLUGIN_CONFIG: &[Use] =
    &[Use::of(Kind::Route, How::Member("plugin_config_id"), "plugin config", "route")];

const CONSUMER_GROUP: &[Use] =
    &[Use::of(Kind::Consumer, How::Member("group_id"), "consumer group", "consumer")];

const PROTO: &[Use] = &[Use::of(Kind::Route, How::Transcode, "proto", "route")];

/// Why the plugins of the global rule `id` cannot be stored: another rule already has one of them.
#[must_use]
pub fn global_rule_conflict<'a>(
    id: &str,
    value: &Value,
    all: &mut dyn Iterator<Item = (Kind, &'a str, &'a Value)>,
) -> Option<String> {
    let plugins = |rule: &'a Value| rule.get("plugins").and_then(Value::as_object);
    let own = value.get("plugins").and_then(Value::as_object)?;
    all.filter(|(kind, other, _)| *kind == Kind::GlobalRule && *other != id).find_map(
        |(_, other, rule)| {
            let name = plugins(rule)?.keys().find(|name| own.contains_key(*name))?;
            Some(format!("plugin '{name}' already exists in global rule with id '{other}'"))
        },
    )
}

#[cfg(test)]
mod tests;
