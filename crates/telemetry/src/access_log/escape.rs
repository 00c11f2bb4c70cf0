//! How a value is made safe for a log line.

/// Escaping of values (`access_log_format_escape`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// `"`, `\`, bytes below 32 and above 126 become `\xHH`; an unset value is `-`.
    #[default]
    Default,
    /// As inside a JSON string; an unset value is empty.
    Json,
    /// Values go out as they are; an unset value is empty.
    None,
}

impl Escape {
    /// Text for a variable without a value.
    pub(super) const fn unset(self) -> &'static [u8] {
        match self {
            Self::Default => b"-",
            Self::Json | Self::None => b"",
        }
    }

    /// Escapes everything in `out` from `start` on.
    pub(super) fn apply(self, out: &mut Vec<u8>, start: usize) {
        match self {
            Self::Default => replace(out, start, is_special_default, push_default),
            Self::Json => replace(out, start, is_special_json, push_json),
            Self::None => {}
        }
    }
}

/// Builds the escaped copy behind the raw bytes in the same buffer and moves it down, so no second
/// buffer is needed. The usual value has nothing to escape and is left where it is.
fn replace(
    out: &mut Vec<u8>,
    start: usize,
    is_special: impl Fn(u8) -> bool,
    push: impl Fn(&mut Vec<u8>, u8),
) {
    let end = out.len();
    if !out.iter().skip(start).any(|byte| is_special(*byte)) {
        return;
    }
    for at in start..end {
        let Some(&byte) = out.get(at) else { break };
        if is_special(byte) { push(out, byte) } else { out.push(byte) }
    }
    out.copy_within(end.., start);
    out.truncate(out.len() - (end - start));
}

const fn is_special_default(byte: u8) -> bool {
    byte < 32 || byte > 126 || byte == b'"' || byte == b'\\'
}

const fn is_special_json(byte: u8) -> bool {
    byte < 32 || byte == b'"' || byte == b'\\'
}

fn push_default(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte & 15)]);
}

fn push_json(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        8 => b'b',
        12 => b'f',
        _ => {
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

const fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(escape: Escape, raw: &[u8]) -> String {
        let mut out = b"before ".to_vec();
        let start = out.len();
        out.extend_from_slice(raw);
        escape.apply(&mut out, start);
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }

    #[test]
    fn plain_text_is_untouched() {
        for escape in [Escape::Default, Escape::Json, Escape::None] {
            assert_eq!(escaped(escape, b"a b ~ 'c' /"), "a b ~ 'c' /");
            assert_eq!(escaped(escape, b""), "");
        }
    }

    #[test]
    fn default_escapes_quotes_controls_and_high_bytes() {
        assert_eq!(
            escaped(Escape::Default, b"\"\\\n\x1f\x7f\xc3\xa4."),
            r"\x22\x5C\x0A\x1F\x7F\xC3\xA4."
        );
    }

    #[test]
    fn json_keeps_utf8_and_uses_short_escapes() {
        assert_eq!(
            escaped(Escape::Json, "\"\\\n\r\t\u{8}\u{c}\u{1b}\u{7f}ä".as_bytes()),
            "\\\"\\\\\\n\\r\\t\\b\\f\\u001B\u{7f}ä"
        );
    }

    #[test]
    fn none_changes_nothing() {
        assert_eq!(escaped(Escape::None, b"\"\n\\"), "\"\n\\");
    }
}
