//! `headgate cluster`: the nodes that share the store of the running gateway.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::console;
use crate::demo::http;

/// Asks the control API of the gateway that this configuration belongs to.
pub(super) fn show(file: &Path, as_json: bool) -> anyhow::Result<()> {
    let loaded = crate::load(file);
    let Some(settings) = loaded.settings else {
        super::test::print(&loaded);
        bail!("the configuration is broken, so the address of the control API is unknown");
    };
    let Some(control) = settings.control else {
        bail!("apisix.enable_control is false; the control API knows the nodes");
    };
    let answer = http::call(control, "GET", "/v1/cluster", "", "")
        .with_context(|| format!("asking the control API at {control}; is the gateway running?"))?;
    let value: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    if answer.status != 200 {
        let message = value.get("error_msg").and_then(Value::as_str).unwrap_or(&answer.body);
        bail!("the control API at {control} answers {}: {message}", answer.status);
    }
    if as_json {
        console::out(&format!("{value:#}"));
        return Ok(());
    }
    let nodes = value.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
    console::out(&table(&nodes));
    Ok(())
}

fn table(nodes: &[Value]) -> String {
    let text = |node: &Value, name: &str| match node.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
            items.join(" ")
        }
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    };
    const COLUMNS: [(&str, &str); 8] = [
        ("NODE", "id"),
        ("HOST", "hostname"),
        ("ROLE", "role"),
        ("VERSION", "version"),
        ("REVISION", "applied"),
        ("LAG", "lag"),
        ("PROBLEMS", "problems"),
        ("LISTENERS", "listeners"),
    ];
    let mut rows = vec![COLUMNS.map(|(title, _)| title.to_owned())];
    rows.extend(nodes.iter().map(|node| COLUMNS.map(|(_, name)| text(node, name))));
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..COLUMNS.len()).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_become_rows() {
        let shown = table(&[json!({"id": "a", "hostname": "h1", "applied": 7, "lag": 0,
            "listeners": ["tcp://0.0.0.0:9100", "udp://0.0.0.0:53"], "role": "data_plane"})]);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("a     h1    data_plane  -        7"), "{shown}");
        assert!(lines[1].ends_with("tcp://0.0.0.0:9100 udp://0.0.0.0:53"), "{shown}");
    }
}
