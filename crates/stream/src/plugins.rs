//! The stream plugins of this build. Each file describes one plugin; the list below is the only
//! place that names them all. Their schemas may name shared definitions, such as `upstream`, by
//! `$ref`; `headgate_model::schema::plugin_schema` gives the whole document.

mod ip_restriction;
mod limit_conn;
mod mqtt_proxy;
mod prometheus;
mod syslog;
mod traffic_split;

use headgate_model::plugin::PluginMeta;

/// Every built-in plugin by descending priority, the order in which they run.
pub static BUILTIN: &[&PluginMeta] = &[
    &ip_restriction::META,
    &limit_conn::META,
    &mqtt_proxy::META,
    &traffic_split::META,
    &prometheus::META,
    &syslog::META,
];

#[cfg(test)]
mod tests {
    use headgate_model::Kind;
    use headgate_model::check::Checker;
    use headgate_model::plugin::PluginCatalog;
    use serde_json::{Value, json};

    use super::*;

    fn check(meta: &PluginMeta, conf: &str) -> Result<(), String> {
        let catalog = PluginCatalog { stream: BUILTIN.to_vec(), http: Vec::new() };
        let conf: Value = serde_json::from_str(conf).unwrap();
        let route = json!({"plugins": {meta.name: conf}});
        Checker::new(catalog).load(Kind::StreamRoute, "1", &route)
    }

    #[test]
    fn priorities_descend() {
        assert!(BUILTIN.windows(2).all(|pair| pair[0].priority > pair[1].priority));
    }

    #[test]
    fn every_good_configuration_passes() {
        for meta in BUILTIN {
            assert!(!meta.good.is_empty());
            for conf in meta.good {
                assert_eq!(check(meta, conf), Ok(()), "{}: {conf}", meta.name);
            }
        }
    }

    #[test]
    fn every_bad_configuration_is_refused() {
        let intro = "failed to check the configuration of stream plugin [";
        for meta in BUILTIN {
            assert!(!meta.bad.is_empty());
            for conf in meta.bad {
                let message = check(meta, conf).expect_err(conf);
                assert!(message.starts_with(intro), "{}: {conf}: {message}", meta.name);
            }
        }
    }

    #[test]
    fn a_disabled_plugin_may_be_wrong() {
        let conf = r#"{"_meta":{"disable":true}}"#;
        assert_eq!(check(&limit_conn::META, conf), Ok(()));
    }

    #[test]
    fn schemas_and_metadata_schemas_are_json() {
        for meta in BUILTIN {
            let texts = [Some(meta.schema), meta.metadata_schema];
            for text in texts.into_iter().flatten() {
                assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{}", meta.name);
            }
        }
    }
}
