//! What a scrape of the metrics server answered.

/// The text and its samples.
#[derive(Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Takes the text of an exposition.
    #[must_use]
    pub fn parse(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value of the sample that is written exactly so, labels included.
    #[must_use]
    pub fn get(&self, sample: &str) -> Option<f64> {
        self.text.lines().find_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            (name == sample).then(|| value.parse().ok())?
        })
    }

    /// The sum of all samples whose text begins with `part`.
    #[must_use]
    pub fn sum(&self, part: &str) -> f64 {
        let samples = self.text.lines().filter(|line| line.starts_with(part));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples() {
        let metrics = Metrics::parse("# HELP a A\na{x=\"1 2\"} 3\na{x=\"2\"} 4.5\nb 1\n");
        assert_eq!(metrics.get("a{x=\"1 2\"}"), Some(3.0));
        assert_eq!(metrics.get("a"), None);
        assert_eq!(metrics.sum("a{"), 7.5);
    }
}
