//! `plugin_attr.prometheus`: where and how metrics are served.

use std::net::SocketAddr;

use super::PrometheusSettings;
use super::reading::Reading;

const URI: &str = "plugin_attr.prometheus.export_uri";
const PREFIX: &str = "plugin_attr.prometheus.metric_prefix";

pub(super) fn read(reading: &mut Reading<'_>, listen: SocketAddr) -> PrometheusSettings {
    let uri = reading.text(URI).unwrap_or_default().to_owned();
    if !is_path(&uri) {
        let message = format!("{URI} is not a path");
        let note = reading.error("plugins/prometheus-setting", URI, message).label("not a path");
        note.help("begin with a slash, and use no ? and no #, e.g. /metrics");
    }
    let prefix = reading.text(PREFIX).unwrap_or_default().to_owned();
    if !is_prefix(&prefix) {
        let message = format!("{PREFIX} cannot begin the name of a metric");
        let note = reading.error("plugins/prometheus-setting", PREFIX, message);
        note.label("not a prefix").help("use letters, digits and _, and no digit first");
    }
    PrometheusSettings { listen, uri, prefix }
}

fn is_path(uri: &str) -> bool {
    uri.starts_with('/')
        && uri.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
}

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`, or nothing.
fn is_prefix(prefix: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || b"_:".contains(&byte);
    prefix.bytes().next().is_none_or(is_letter)
        && prefix.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::settings::{Loaded, Settings};

    fn parse(attributes: &str) -> Loaded {
        let text = format!("plugin_attr: {{prometheus: {attributes}}}");
        Settings::parse(&text, Path::new("config.yaml"), &|_| None)
    }

    #[test]
    fn defaults_and_values() {
        let settings = parse("{}").settings.unwrap().prometheus.unwrap();
        assert_eq!(settings.listen, ([127, 0, 0, 1], 9091).into());
        assert_eq!(
            (settings.uri.as_str(), settings.prefix.as_str()),
            ("/apisix/prometheus/metrics", "apisix_")
        );
        let text = "{export_uri: /m, metric_prefix: '', export_addr: {ip: 0.0.0.0, port: 1}}";
        let settings = parse(text).settings.unwrap().prometheus.unwrap();
        assert_eq!(settings.listen, ([0, 0, 0, 0], 1).into());
        assert_eq!((settings.uri.as_str(), settings.prefix.as_str()), ("/m", ""));
        let off = parse("{enable_export_server: false}").settings.unwrap();
        assert_eq!(off.prometheus, None);
    }

    #[test]
    fn what_would_not_work_is_refused() {
        for attributes in [
            "{export_uri: metrics}",
            "{export_uri: '/a b'}",
            "{export_uri: '/a?b'}",
            "{export_uri: ''}",
            "{metric_prefix: 'my-'}",
            "{metric_prefix: 1a}",
        ] {
            let loaded = parse(attributes);
            assert!(loaded.settings.is_none(), "{attributes}");
            assert_eq!(loaded.problems[0].code, "plugins/prometheus-setting", "{attributes}");
        }
    }
}
