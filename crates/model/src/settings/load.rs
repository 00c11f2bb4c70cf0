//! The way from a file to [`Settings`]: read, substitute, translate, check, merge, build.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::environment::Lookup;
use super::management::Servers;
use super::reading::Reading;
use super::{
    Loaded, Settings, StreamSettings, admin, environment, keyring, known, legacy, masking, merge,
    own, process, prometheus, resolver, ssl, store, stream_proxy,
};
use crate::http_plugins;
use crate::problem::{Place, Problem, Severity};
use crate::yaml::Document;

/// Reads and checks a file.
pub(super) fn file(path: &Path, env: Lookup<'_>) -> Loaded {
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(source)) => text(source, path, env),
        Ok(Err(_)) => {
            let message =
                format!("failed to open file: {}, error info:not UTF-8 text", path.display());
            unread(path, message, "save the file as UTF-8")
        }
        Err(error) => {
            let message = format!("failed to open file: {}, error info:{error}", path.display());
            unread(
                path,
                message,
                "check the path and its permissions, or name another file with -c",
            )
        }
    }
}

fn unread(path: &Path, message: String, help: &str) -> Loaded {
    let place = Place { file: Arc::new(path.to_path_buf()), line: 1, column: 1, span: 0..0 };
    let problem = Problem::error("config/read", "", message).at(Some(place)).help(help);
    Loaded { settings: None, problems: vec![problem], source: String::new() }
}

/// Checks a text as if it stood in the file `path`.
pub(super) fn text(source: String, path: &Path, env: Lookup<'_>) -> Loaded {
    let mut document = match Document::parse(&source, path) {
        Ok(document) => document,
        Err(problems) => return finish(None, problems, source),
    };
    if document.is_blank() {
        document.value = Value::Object(Map::new());
    }
    if !document.value.is_object() {
        let place = document.place("");
        let problem = Problem::error("config/invalid", "", "invalid config.yaml file")
            .at(place)
            .label("not a mapping")
            .help("write sections with keys, e.g. apisix: on a line of its own and its keys below");
        return finish(None, vec![problem], source);
    }
    let source = masking::mask(&document);
    let problems = environment::substitute(&mut document, env);
    let mut reading = Reading { document, merged: Value::Null, role: String::new(), env, problems };
    legacy::translate(&mut reading);
    let role = reading.document.value.pointer("/deployment/role").and_then(Value::as_str);
    role.unwrap_or("traditional").clone_into(&mut reading.role);
    known::check(&mut reading);
    reading.merged = merge::merge(&reading.document.value);
    let settings = build(&mut reading, path);
    finish(Some(settings), reading.problems, source)
}

/// Sorts the problems; settings with an error are none.
fn finish(settings: Option<Settings>, mut problems: Vec<Problem>, source: String) -> Loaded {
    let start = |problem: &Problem| problem.place.as_ref().map_or(usize::MAX, |at| at.span.start);
    problems.sort_by_key(|problem| (problem.severity, start(problem)));
    problems.dedup();
    hide_echoes(&mut problems);
    let bad = problems.iter().any(|problem| problem.severity == Severity::Error);
    Loaded { settings: settings.filter(|_| !bad), problems, source }
}

/// A value whose variable is missing makes no sense to any other check either.
fn hide_echoes(problems: &mut Vec<Problem>) {
    let missing = |problem: &Problem| problem.code == "config/environment";
    let places: Vec<_> =
        problems.iter().filter(|one| missing(one)).filter_map(|one| one.place.clone()).collect();
    problems.retain(|one| {
        missing(one) || one.place.as_ref().is_none_or(|place| !places.contains(place))
    });
}

fn build(reading: &mut Reading<'_>, path: &Path) -> Settings {
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let home = super::home_of(&file);
    let role = store::role(reading);
    let servers = Servers::read(reading);
    servers.check(reading);
    let stream_plugins = reading.texts("stream_plugins").unwrap_or_default();
    check_prometheus(reading, &stream_plugins);
    let stream = stream_proxy::is_on(reading).then(|| stream(reading, &servers, &home));
    let process = process::read(reading, &home);
    Settings {
        drain: own::drain(reading, process.shutdown_timeout),
        watchdog: own::watchdog(reading),
        limits: own::limits(reading),
        stream,
        admin: servers.admin.map(|server| admin::read(reading, server.addr, &home)),
        control: servers.control.map(|server| server.addr),
        status: servers.status.map(|server| server.addr),
        prometheus: servers.prometheus.map(|server| prometheus::read(reading, server.addr)),
        http_plugins: reading.texts("plugins").unwrap_or_else(default_http_plugins),
        xrpc_protocols: xrpc_protocols(reading),
        stream_plugins,
        role,
        store: store::read(reading, &file, &home),
        directory: home.join(reading.text("deployment.embedded.path").unwrap_or("data")),
        keyring: keyring::read(reading),
        process,
        resolver: resolver::read(reading),
        secrets: resolver::secrets(reading),
        ssl: ssl::read(reading),
        trusted_certificate: resolver::trusted_certificate(reading),
        disable_upstream_healthcheck: reading.is_on("apisix.disable_upstream_healthcheck"),
        instance_id: reading.scalar("apisix.id"),
        file,
    }
}

fn stream(reading: &mut Reading<'_>, servers: &Servers, home: &Path) -> StreamSettings {
    let listeners = stream_proxy::listeners(reading);
    servers.check_listeners(reading, &listeners);
    let flows = reading.int("nginx_config.stream.udp_max_flows");
    StreamSettings {
        entries: stream_proxy::entries(reading, &listeners),
        defaults: stream_proxy::defaults(reading),
        listeners: listeners.into_iter().map(|listener| listener.spec).collect(),
        real_ip_from: process::real_ip_from(reading),
        reuseport: reading.is_on("apisix.enable_reuseport")
            && !reading.is_on("apisix.enable_dev_mode"),
        access_log: process::access_log(reading, home),
        udp_max_flows: flows.and_then(|most| usize::try_from(most).ok()).unwrap_or(20_000),
    }
}

fn check_prometheus(reading: &mut Reading<'_>, plugins: &[String]) {
    let Some(index) = plugins.iter().position(|name| name == "prometheus") else { return };
    let at = format!("stream_plugins[{index}]");
    if !reading.is_on("plugin_attr.prometheus.enable_export_server") {
        let message = "L4 prometheus metric should be exposed via export server";
        let note = reading.error("plugins/prometheus-export", &at, message);
        note.label("needs the export server")
            .help("set plugin_attr.prometheus.enable_export_server to true, or remove this plugin");
    }
}

fn default_http_plugins() -> Vec<String> {
    http_plugins::DEFAULT.iter().map(|name| (*name).to_owned()).collect()
}

fn xrpc_protocols(reading: &Reading) -> Vec<String> {
    let protocols = reading.get("xrpc.protocols").and_then(Value::as_array);
    let names = protocols.into_iter().flatten().filter_map(|protocol| protocol.get("name"));
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}
