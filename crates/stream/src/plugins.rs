//! The stream plugins of this build. Each file describes one plugin; the list below is the only
//! place that names them all. Their schemas may name shared definitions, such as `upstream`, by
//! `$ref`; `headgate_model::schema::plugin_schema` gives the whole document.

mod fault_injection;
mod file_logger;
mod followed;
mod geo_restriction;
mod http_logger;
mod ip_restriction;
mod ip_set;
mod limit_conn;
mod limit_rate;
mod mqtt_proxy;
mod opentelemetry;
mod post;
mod prometheus;
mod syslog;
mod traffic_mirror;
mod traffic_split;

use crate::batch::Counts;
use crate::plugin::PluginDef;

/// Every built-in plugin by descending priority, the order in which they run.
pub static BUILTIN: &[&PluginDef] = &[
    &fault_injection::DEF,
    &ip_restriction::DEF,
    &ip_set::DEF,
    &geo_restriction::DEF,
    &limit_conn::DEF,
    &limit_rate::DEF,
    &mqtt_proxy::DEF,
    &traffic_split::DEF,
    &traffic_mirror::DEF,
    &prometheus::DEF,
    &opentelemetry::DEF,
    &http_logger::DEF,
    &syslog::DEF,
    &file_logger::DEF,
];

/// What became of the records of logging plugins, by name.
pub(crate) static LOGGERS: &[(&str, &Counts)] = &[
    ("file-logger", &file_logger::COUNTS),
    ("http-logger", &http_logger::COUNTS),
    ("opentelemetry", &opentelemetry::COUNTS),
    ("syslog", &syslog::COUNTS),
];

#[cfg(test)]
mod tests {
    use headgate_model::Kind;
    use headgate_model::check::Checker;
    use headgate_model::plugin::{PluginCatalog, PluginMeta};
    use serde_json::{Value, json};

    use super::*;

    fn metas() -> impl Iterator<Item = &'static PluginMeta> {
        BUILTIN.iter().map(|def| &def.meta)
    }

    fn check(meta: &PluginMeta, conf: &str) -> Result<(), String> {
        let catalog = PluginCatalog { stream: metas().collect(), http: Vec::new() };
        let conf: Value = serde_json::from_str(conf).unwrap();
        let route = json!({"plugins": {meta.name: conf}});
        Checker::new(catalog).load(Kind::StreamRoute, "1", &route)
    }

    #[test]
    fn priorities_descend() {
        assert!(BUILTIN.windows(2).all(|pair| pair[0].meta.priority > pair[1].meta.priority));
    }

    #[test]
    fn every_good_configuration_passes() {
        for meta in metas() {
            assert!(!meta.good.is_empty());
            for conf in meta.good {
                assert_eq!(check(meta, conf), Ok(()), "{}: {conf}", meta.name);
            }
        }
    }

    #[test]
    fn every_bad_configuration_is_refused() {
        let intro = "failed to check the configuration of stream plugin [";
        for meta in metas() {
            assert!(!meta.bad.is_empty());
            for conf in meta.bad {
                let message = check(meta, conf).expect_err(conf);
                assert!(message.starts_with(intro), "{}: {conf}: {message}", meta.name);
            }
        }
    }

    /// A plugin that is run has a page, and the overview leads to it.
    #[test]
    fn every_plugin_has_a_page() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/plugins");
        let overview = std::fs::read_to_string(format!("{folder}/README.md")).unwrap();
        for meta in metas().filter(|meta| meta.executed) {
            let page = std::fs::read_to_string(format!("{folder}/{}.md", meta.name)).unwrap();
            assert!(page.starts_with(&format!("# {}\n", meta.name)), "{}", meta.name);
            let row = format!("| [{0}]({0}.md) | {1} |", meta.name, meta.priority);
            assert!(overview.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_disabled_plugin_may_be_wrong() {
        let conf = r#"{"_meta":{"disable":true}}"#;
        assert_eq!(check(&limit_conn::DEF.meta, conf), Ok(()));
    }

    #[test]
    fn schemas_and_metadata_schemas_are_json() {
        for meta in metas() {
            let texts = [Some(meta.schema), meta.metadata_schema];
            for text in texts.into_iter().flatten() {
                assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{}", meta.name);
            }
        }
    }
}
