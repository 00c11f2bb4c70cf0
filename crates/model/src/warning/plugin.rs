//! Plugins that are configured but do not run.

use serde_json::Value;

use super::{Context, Warning};
use crate::expr;
use crate::reference::id_member;
use crate::resource::Plugins;

/// Members of a configuration that are accepted for the reference's sake: plugin, member, why it
/// does nothing.
const WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    ("syslog", "flush_limit", "a batch is written whole"),
    ("ip-restriction", "message", "streams have no answer; `_meta.error_response` is sent"),
    ("limit-conn", "rejected_msg", "streams have no answer; `_meta.error_response` is sent"),
    ("limit-conn", "only_use_default_delay", "there is no latency to adapt a delay to"),
    ("limit-conn", "redis_keepalive_pool", "one connection carries all questions"),
    ("limit-conn", "redis_keepalive_timeout", "the connection to Redis is kept"),
    ("syslog", "pool_size", "one connection carries all batches"),
];

/// Adds the plugins of a route or service that this version does not run.
pub(super) fn plugins(context: Context<'_>, plugins: &Plugins, out: &mut Vec<Warning>) {
    for (name, conf) in plugins {
        let meta = conf.get("_meta");
        if meta.and_then(|meta| meta.get("disable")) == Some(&Value::Bool(true)) {
            continue;
        }
        match context.catalog.stream(name) {
            Some(plugin) if plugin.executed => {
                if meta.is_some_and(|meta| meta.get("pre_function").is_some()) {
                    out.push(pre_function(name));
                }
                let filter = meta.and_then(|meta| meta.get("filter"));
                if let Some(Err(error)) = filter.map(expr::check) {
                    out.push(broken_filter(name, &error));
                }
                if name == "ip-set"
                    && let Some(id) = id_member(conf, "set")
                    && context.set.ip_sets.get(&id).is_none()
                {
                    out.push(missing_set(&id));
                }
                let ignored = WITHOUT_EFFECT
                    .iter()
                    .filter(|(plugin, member, _)| plugin == name && conf.get(member).is_some());
                out.extend(ignored.map(|(_, member, why)| without_effect(name, member, why)));
            }
            Some(plugin) if plugin.is_policy() => out.push(Warning::new(
                "plugin/not-executed",
                format!(
                    "plugin {name} is not executed in this version; connections are closed rather \
                     than served without it"
                ),
                format!("remove `plugins.{name}` to serve without it"),
            )),
            Some(_) => out.push(Warning::new(
                "plugin/not-executed",
                format!("plugin {name} is not executed in this version; nothing is recorded by it"),
                format!("remove `plugins.{name}`, or use the access log"),
            )),
            None => out.push(Warning::new(
                "plugin/unknown",
                format!(
                    "plugin {name} is not an enabled stream plugin, so streams pass without it"
                ),
                format!(
                    "add `{name}` to `stream_plugins` in config.yaml if it is one, or remove it"
                ),
            )),
        }
    }
}

fn without_effect(name: &str, member: &str, why: &str) -> Warning {
    Warning::new(
        "plugin/no-effect",
        format!("`{member}` of plugin {name} has no effect, because {why}"),
        format!("remove `plugins.{name}.{member}`"),
    )
}

fn missing_set(id: &str) -> Warning {
    Warning::new(
        "plugin/no-ip-set",
        format!("plugin ip-set names the set {id}, which does not exist; connections are closed"),
        format!("write the set: PUT /apisix/admin/ip_sets/{id}"),
    )
}

fn broken_filter(name: &str, error: &str) -> Warning {
    Warning::new(
        "plugin/filter",
        format!(
            "`_meta.filter` of plugin {name} is no expression ({error}); the plugin always runs"
        ),
        "mend or remove `_meta.filter`",
    )
}

fn pre_function(name: &str) -> Warning {
    Warning::new(
        "plugin/pre-function",
        format!("`_meta.pre_function` of plugin {name} is Lua code, which headgate does not run"),
        "remove `_meta.pre_function`",
    )
}
