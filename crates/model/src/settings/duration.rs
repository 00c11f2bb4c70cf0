//! nginx's notation of time: `240s`, `1h 30m`, `500ms`; a bare number is seconds.

use std::time::Duration;

/// Units from long to short, in milliseconds.
const UNITS: &[(&str, u64)] = &[
    ("y", 365 * 86_400_000),
    ("M", 30 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("ms", 1),
    ("m", 60_000),
    ("s", 1_000),
];

/// Reads a time; `None` when it is not one.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let factor = match UNITS.iter().find(|(unit, _)| rest.starts_with(unit)) {
            Some((unit, factor)) => {
                rest = rest.get(unit.len()..)?;
                *factor
            }
            None if rest.is_empty() || rest.starts_with(' ') => 1_000,
            None => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = rest.trim_start();
    }
    Some(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nginx_times() {
        for (text, milliseconds) in [
            ("240s", 240_000),
            ("240", 240_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("30d", 2_592_000_000),
            ("2M", 5_184_000_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "s", "1x", "-1", "1.5s", "99999999999999999999", "9999999999999999y", "1sm"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
