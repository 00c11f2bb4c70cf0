//! What health checks are told by servers: whatever it is, it gets a verdict or asks for more.

use headgate_wire::probe::{mysql, postgres, redis};

/// The first byte chooses the protocol, the rest is what a server sends.
pub(crate) fn check(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            if let Some((payload, rest)) = mysql::split(bytes) {
                assert_eq!(payload.len() + rest.len() + 4, bytes.len());
                let _ = (mysql::judge_greeting(payload), mysql::judge_login(payload));
            }
            let _ = (mysql::judge_greeting(bytes), mysql::judge_login(bytes));
        }
        1 => {
            if let Some(verdict) = postgres::judge(bytes) {
                let longer = [bytes, b"x"].concat();
                assert_eq!(postgres::judge(&longer), Some(verdict), "a verdict stays");
            }
        }
        _ => drop(redis::judge(bytes)),
    }
}
