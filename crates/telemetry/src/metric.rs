//! What a metric is: name, type, labels, meaning. A `static` of each kind is its only definition;
//! the exposition and `docs/reference/metrics.md` are made from it.

use std::fmt::Write as _;

/// A family of time series.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name; of [`Metric::reference`] ones without the configured prefix.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// One sentence without a full stop, as Prometheus shows it.
    pub help: &'static str,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Whether the configured prefix stands in front of the name.
    pub prefixed: bool,
}

/// Types of the Prometheus text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values in buckets.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Metric {
    /// A counter of headgate.
    #[must_use]
    pub const fn counter(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, kind: Kind::Counter, help, labels, prefixed: false }
    }

    /// A gauge of headgate.
    #[must_use]
    pub const fn gauge(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, kind: Kind::Gauge, help, labels, prefixed: false }
    }

    /// A histogram of headgate.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, kind: Kind::Histogram, help, labels, prefixed: false }
    }

    /// The same as a metric of the reference: its name follows `metric_prefix`, its help text is
    /// the reference's.
    #[must_use]
    pub const fn reference(self) -> Self {
        Self { prefixed: true, ..self }
    }

    /// Its row in the reference page.
    #[must_use]
    pub fn row(&self, prefix: &str) -> String {
        let prefix = if self.prefixed { prefix } else { "" };
        let labels: Vec<_> = self.labels.iter().map(|label| format!("`{label}`")).collect();
        let mut row = String::new();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
        let _ = write!(
            row,
            "| `{prefix}{}` | {} | {labels} | {} |",
            self.name,
            self.kind.as_str(),
            self.help
        );
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let metric = Metric::counter("stream_status", "By code", &["code", "node"]).reference();
        assert_eq!(
            metric.row("apisix_"),
            "| `apisix_stream_status` | counter | `code`, `node` | By code |"
        );
        let metric = Metric::gauge("headgate_x", "X", &[]);
        assert_eq!(metric.row("apisix_"), "| `headgate_x` | gauge | - | X |");
    }
}
