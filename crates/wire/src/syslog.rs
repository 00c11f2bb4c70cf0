//! Lines of the syslog protocol (RFC 5424, section 6).

use std::io::Write as _;

/// Facility `syslog` (5), severity `informational` (6): what the reference sends.
pub const PRIORITY: u8 = 5 * 8 + 6;

/// The header of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Facility times 8 plus severity, at most 191.
    pub priority: u8,
    /// Unix time in milliseconds.
    pub unix_ms: u64,
    /// HOSTNAME; what is no such name is written `-`.
    pub hostname: &'a str,
    /// APP-NAME.
    pub app: &'a str,
    /// PROCID.
    pub process: u32,
}

/// Appends one line: header, no MSGID, no structured data, `message`, a line feed (RFC 6587, section
/// 3.4.2). Line feeds inside the message would end the line, so they become blanks.
pub fn encode(header: &Header<'_>, message: &[u8], out: &mut Vec<u8>) {
    let _ = write!(out, "<{}>1 ", header.priority);
    timestamp(header.unix_ms, out);
    let _ = write!(
        out,
        " {} {} {} - - ",
        name(header.hostname, 255),
        name(header.app, 48),
        header.process
    );
    out.extend(message.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
    out.push(b'\n');
}

/// A name is printable ASCII without blanks; anything else is the NILVALUE.
fn name(text: &str, longest: usize) -> &str {
    let is_name = !text.is_empty()
        && text.len() <= longest
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name { text } else { "-" }
}

/// Appends `YYYY-MM-DDThh:mm:ss.mmmZ`.
pub fn timestamp(unix_ms: u64, out: &mut Vec<u8>) {
    let (seconds, milliseconds) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
    );
}

/// The Gregorian date of a day since 1970. Years begin in March here, so that the leap day is
/// their last one; an era of 400 years has 146,097 days.
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(unix_ms: u64) -> String {
        let mut out = Vec::new();
        timestamp(unix_ms, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_795_255_200_123, "2026-11-21T10:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(time(unix_ms), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let days_of = |year: u64, month: u64| match month {
            2 if year.is_multiple_of(4)
                && (!year.is_multiple_of(100) || year.is_multiple_of(400)) =>
            {
                29
            }
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for day in 0..200_000 {
            assert_eq!(date(day), expected);
            let (year, month, day) = expected;
            expected = match (month, day) {
                _ if day < days_of(year, month) => (year, month, day + 1),
                (12, _) => (year + 1, 1, 1),
                _ => (year, month + 1, 1),
            };
        }
    }

    #[test]
    fn a_line() {
        let header = Header {
            priority: PRIORITY,
            unix_ms: 1_795_255_200_123,
            hostname: "-",
            app: "apisix",
            process: 7,
        };
        let mut out = Vec::new();
        encode(&header, b"{\"a\":\n1}", &mut out);
        encode(&Header { hostname: "two words", app: "", ..header }, b"x", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "<46>1 2026-11-21T10:00:00.123Z - apisix 7 - - {\"a\": 1}\n\
             <46>1 2026-11-21T10:00:00.123Z - - 7 - - x\n"
        );
    }
}
