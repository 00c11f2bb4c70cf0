//! `/v1/healthcheck`: what health checks know of the nodes, as JSON or as a table for people
//! (`spec/admin-api.md`, section 7).

use axum::extract::{Path, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use headgate_model::Kind;
use headgate_store::Stored;
use serde_json::{Value, json};

use super::dump::resources;
use super::{Control, Shared, ok};
use crate::answer::{self, Refused};
use crate::live::CheckedNode;

const SOURCES: [Kind; 4] = [Kind::Route, Kind::StreamRoute, Kind::Service, Kind::Upstream];

/// A resource with `checks` and its nodes.
struct Checked {
    name: String,
    kind: String,
    nodes: Vec<CheckedNode>,
}

pub(super) async fn all(State(control): Shared, headers: HeaderMap) -> Response {
    let mut checked = Vec::new();
    for kind in SOURCES {
        match resources(&control, kind).await {
            Ok(all) => checked.extend(all.iter().filter_map(|stored| look(&control, stored))),
            Err(error) => return Refused::from(error).into_response(),
        }
    }
    show(&headers, &checked, || checked.iter().map(to_json).collect())
}

pub(super) async fn without_id(Path(name): Path<String>) -> Response {
    match source(&name) {
        Ok(_) => {
            let message = format!("missing src id for src type {name}");
            Refused::new(StatusCode::NOT_FOUND, message).into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

pub(super) async fn one(
    State(control): Shared,
    Path((name, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let kind = match source(&name) {
        Ok(kind) => kind,
        Err(refused) => return refused.into_response(),
    };
    let key = kind.key(&id);
    let all = match resources(&control, kind).await {
        Ok(all) => all,
        Err(error) => return Refused::from(error).into_response(),
    };
    let message = match all.iter().find(|stored| stored.key == key) {
        None => format!("{name}[{id}] not found"),
        Some(stored) => match look(&control, stored) {
            None => format!("no checker for {name}[{id}]"),
            Some(checked) => {
                return show(&headers, std::slice::from_ref(&checked), || to_json(&checked));
            }
        },
    };
    Refused::new(StatusCode::NOT_FOUND, message).into_response()
}

fn source(name: &str) -> Result<Kind, Refused> {
    SOURCES
        .into_iter()
        .find(|kind| kind.segment() == name)
        .ok_or_else(|| Refused::bad(format!("invalid src type {name}")))
}

/// The health of what a resource holds; `None` if it has no `checks`.
fn look(control: &Control, stored: &Stored) -> Option<Checked> {
    let value = &stored.value;
    let checks = value.get("checks").or_else(|| value.get("upstream")?.get("checks"))?;
    let kind = ["active", "passive"].into_iter().find_map(|side| {
        let side = checks.get(side)?;
        Some(side.get("type").and_then(Value::as_str).unwrap_or("http").to_owned())
    });
    Some(Checked {
        name: format!("{}{}", control.prefix, stored.key),
        kind: kind?,
        nodes: control.live.checked_nodes(stored.key.trim_start_matches('/')),
    })
}

fn to_json(checked: &Checked) -> Value {
    let node = |node: &CheckedNode| {
        let mut value = json!({
            "ip": node.ip,
            "port": node.port,
            "hostname": node.hostname,
            "status": node.status,
            "counter": {
                "success": node.success,
                "http_failure": node.http_failure,
                "tcp_failure": node.tcp_failure,
                "timeout_failure": node.timeout_failure,
            },
        });
        if let (Some(header), Some(members)) = (&node.host_header, value.as_object_mut()) {
            members.insert("hostheader".to_owned(), header.as_str().into());
        }
        value
    };
    let nodes: Vec<Value> = checked.nodes.iter().map(node).collect();
    json!({"name": checked.name, "type": checked.kind, "nodes": nodes})
}

fn show(headers: &HeaderMap, checked: &[Checked], json: impl FnOnce() -> Value) -> Response {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    if accepts.into_iter().any(|accept| accept.contains("text/html")) {
        answer::html(StatusCode::OK, page(checked))
    } else {
        ok(&json())
    }
}

fn page(checked: &[Checked]) -> String {
    let mut rows = String::new();
    let nodes =
        checked.iter().flat_map(|checked| checked.nodes.iter().map(move |node| (checked, node)));
    for (index, (checked, node)) in nodes.enumerate() {
        let colour = match node.status {
            "healthy" | "mostly_healthy" => "",
            _ => " bgcolor=\"#FF0000\"",
        };
        let cells = [
            (index + 1).to_string(),
            checked.name.clone(),
            checked.kind.clone(),
            format!("{}:{}", node.ip, node.port),
            node.status.to_owned(),
            node.success.to_string(),
            node.tcp_failure.to_string(),
            node.http_failure.to_string(),
            node.timeout_failure.to_string(),
        ];
        let cells = cells.map(|cell| format!("<td>{}</td>", escape(&cell))).concat();
        rows.push_str(&format!("<tr{colour}>{cells}</tr>\n"));
    }
    let titles = [
        "Index",
        "Upstream",
        "Check type",
        "Host",
        "Status",
        "Success counts",
        "TCP Failures",
        "HTTP Failures",
        "TIMEOUT Failures",
    ];
    let titles = titles.map(|title| format!("<th>{title}</th>")).concat();
    format!(
        "<!DOCTYPE html>\n<html>\n<head><title>APISIX upstream check status</title></head>\n\
         <body>\n<h1>APISIX upstream check status</h1>\n\
         <table border=\"1\" cellpadding=\"3\" cellspacing=\"0\">\n\
         <tr bgcolor=\"#C0C0C0\">{titles}</tr>\n{rows}</table>\n</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
