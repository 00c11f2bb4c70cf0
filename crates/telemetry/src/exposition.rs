//! The Prometheus text format (version 0.0.4): exact names, no suffix that nobody asked for.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

use crate::histogram::Totals;
use crate::metric::Metric;

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One exposition being written.
#[derive(Debug)]
pub struct Page {
    text: String,
    prefix: String,
}

/// A value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl Page {
    /// An empty page; `prefix` goes in front of the reference's metrics.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { text: String::with_capacity(64 << 10), prefix: prefix.into() }
    }

    /// Begins a family. All its samples are added through the answer, because the format wants
    /// them together. A family without samples leaves no trace.
    pub fn family(&mut self, metric: &'static Metric) -> Family<'_> {
        Family { page: self, metric, begun: false }
    }

    /// A family of one sample without labels.
    pub fn value(&mut self, metric: &'static Metric, value: impl Into<Value>) {
        self.family(metric).add(&[], value);
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub struct Family<'p> {
    page: &'p mut Page,
    metric: &'static Metric,
    begun: bool,
}

impl Family<'_> {
    /// Adds a sample; `labels` are the values of [`Metric::labels`].
    pub fn add(&mut self, labels: &[&str], value: impl Into<Value>) {
        self.begin();
        self.name("");
        self.labels(labels, None);
        self.end(value.into());
    }

    /// Adds a histogram whose recorded unit is `1 / per_unit` of the exposed one (microseconds
    /// shown as seconds: 1,000,000).
    pub fn histogram<const FIRST: u32, const N: usize>(
        &mut self,
        labels: &[&str],
        totals: &Totals<FIRST, N>,
        per_unit: f64,
    ) {
        self.begin();
        for (bound, count) in totals.cumulative() {
            let bound = (bound as f64 / per_unit).to_string();
            self.name("_bucket");
            self.labels(labels, Some(&bound));
            self.end(count.into());
        }
        self.name("_bucket");
        self.labels(labels, Some("+Inf"));
        self.end(totals.count().into());
        self.name("_sum");
        self.labels(labels, None);
        self.end((totals.sum() as f64 / per_unit).into());
        self.name("_count");
        self.labels(labels, None);
        self.end(totals.count().into());
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.page.text.push_str("# HELP ");
        self.name("");
        self.page.text.push(' ');
        escape(&mut self.page.text, self.metric.help, false);
        self.page.text.push_str("\n# TYPE ");
        self.name("");
        self.page.text.push(' ');
        self.page.text.push_str(self.metric.kind.as_str());
        self.page.text.push('\n');
    }

    fn name(&mut self, suffix: &str) {
        let Page { text, prefix } = &mut *self.page;
        if self.metric.prefixed {
            text.push_str(prefix);
        }
        text.push_str(self.metric.name);
        text.push_str(suffix);
    }

    fn labels(&mut self, values: &[&str], bound: Option<&str>) {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "{}", self.metric.name);
        let text = &mut self.page.text;
        let names = self.metric.labels.iter().copied().zip(values.iter().copied());
        let mut separator = '{';
        for (name, value) in names.chain(bound.map(|bound| ("le", bound))) {
            text.push(separator);
            text.push_str(name);
            text.push_str("=\"");
            escape(text, value, true);
            text.push('"');
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
    }

    fn end(&mut self, value: Value) {
        let text = &mut self.page.text;
        let _ = match value {
            Value::Whole(value) => writeln!(text, " {value}"),
            Value::Real(value) if value == f64::INFINITY => writeln!(text, " +Inf"),
            Value::Real(value) if value == f64::NEG_INFINITY => writeln!(text, " -Inf"),
            Value::Real(value) => writeln!(text, " {value}"),
        };
    }
}

/// Backslash and line feed are escaped everywhere, quotes in label values.
fn escape(text: &mut String, value: &str, quotes: bool) {
    if !value.contains(['\\', '\n', '"']) {
        text.push_str(value);
        return;
    }
    for char in value.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Histogram;

    static STATUS: Metric =
        Metric::counter("stream_status", "Sessions per \"code\" \\ x", &["code", "node"])
            .reference();
    static OPEN: Metric = Metric::gauge("headgate_open", "Open now", &[]);
    static TIME: Metric = Metric::histogram("headgate_seconds", "Time", &["kind"]);

    #[test]
    fn exact_names_one_head_and_escaped_labels() {
        let mut page = Page::new("apisix_");
        let mut family = page.family(&STATUS);
        family.add(&["200", "10.0.0.1:80"], 3_u64);
        family.add(&["502", "a\"b\\c\nd"], 0.5);
        page.value(&OPEN, f64::INFINITY);
        assert_eq!(
            page.into_text(),
            "# HELP apisix_stream_status Sessions per \"code\" \\\\ x\n\
             # TYPE apisix_stream_status counter\n\
             apisix_stream_status{code=\"200\",node=\"10.0.0.1:80\"} 3\n\
             apisix_stream_status{code=\"502\",node=\"a\\\"b\\\\c\\nd\"} 0.5\n\
             # HELP headgate_open Open now\n# TYPE headgate_open gauge\nheadgate_open +Inf\n"
        );
    }

    #[test]
    fn a_family_without_samples_leaves_no_trace() {
        let mut page = Page::new("");
        let _ = page.family(&STATUS);
        assert_eq!(page.into_text(), "");
    }

    #[test]
    fn histograms_in_another_unit() {
        let histogram = Histogram::<9, 2>::default(); // 512, 1024 milliseconds
        [1, 512, 600, 5000].into_iter().for_each(|value| histogram.record(value));
        let mut totals = Totals::default();
        totals.add(&histogram);
        let mut page = Page::new("");
        page.family(&TIME).histogram(&["x"], &totals, 1000.0);
        let text = page.into_text();
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "headgate_seconds_bucket{kind=\"x\",le=\"0.512\"} 2",
                "headgate_seconds_bucket{kind=\"x\",le=\"1.024\"} 3",
                "headgate_seconds_bucket{kind=\"x\",le=\"+Inf\"} 4",
                "headgate_seconds_sum{kind=\"x\"} 6.113",
                "headgate_seconds_count{kind=\"x\"} 4",
            ]
        );
    }
}
