//! What writes of IP sets have of their own: a larger body, and times to live.

use std::time::Duration;

use headgate_model::Kind;
use serde_json::{Map, Value};

use super::now;
use crate::answer::Refused;

/// Largest body: a set of hundreds of thousands of networks.
pub(super) const MAX_BODY: u64 = 32 * 1024 * 1024;

/// Turns every `ttl` of a set or an entry, and that of the query of an entry, into `until`, the
/// moment in Unix seconds at which it ends: it ends in time wherever it is stored. An entry that
/// ends is also removed from the store then.
pub(super) fn settle(
    kind: Kind,
    body: &mut Option<Value>,
    ttl: &mut Option<Duration>,
) -> Result<(), Refused> {
    match kind {
        Kind::IpSet => {
            let entries = body.as_mut().and_then(|body| body.get_mut("entries")?.as_array_mut());
            for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
                until(entry)?;
            }
        }
        Kind::IpSetEntry => {
            let body = body.get_or_insert_with(|| Value::Object(Map::new()));
            let Some(entry) = body.as_object_mut() else { return Ok(()) };
            if let Some(ttl) = *ttl {
                entry.insert("ttl".to_owned(), ttl.as_secs().into());
            }
            until(entry)?;
            if let Some(end) = entry.get("until").and_then(Value::as_u64) {
                *ttl = Some(Duration::from_secs(end.saturating_sub(now()).max(1)));
            }
        }
        _ => {}
    }
    Ok(())
}

fn until(entry: &mut Map<String, Value>) -> Result<(), Refused> {
    let Some(ttl) = entry.shift_remove("ttl") else { return Ok(()) };
    let seconds = ttl.as_f64().filter(|seconds| (0.0..=9e9).contains(seconds) && *seconds > 0.0);
    let seconds = seconds.ok_or_else(|| {
        Refused::bad("invalid ttl of an ip set entry: should be seconds, more than 0")
    })?;
    entry.insert("until".to_owned(), (now() + seconds.ceil() as u64).into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_to_live_become_moments() {
        let mut body = Some(json!({"entries": ["::1", {"network": "::2", "ttl": 0.5}]}));
        settle(Kind::IpSet, &mut body, &mut None).unwrap();
        let entry = &body.unwrap()["entries"][1];
        assert!(entry["until"].as_u64().unwrap() >= now() && entry.get("ttl").is_none());

        let (mut body, mut ttl) = (None, Some(Duration::from_secs(60)));
        settle(Kind::IpSetEntry, &mut body, &mut ttl).unwrap();
        assert!(body.unwrap()["until"].as_u64().unwrap() >= now() + 59);

        let (mut body, mut ttl) = (Some(json!({"until": 5})), None);
        settle(Kind::IpSetEntry, &mut body, &mut ttl).unwrap();
        assert_eq!(ttl, Some(Duration::from_secs(1)), "long over: it goes at once");

        let mut body = Some(json!({"ttl": "soon"}));
        assert!(settle(Kind::IpSetEntry, &mut body, &mut None).is_err());
    }
}
