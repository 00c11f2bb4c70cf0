//! Filters and paging of lists (v3 only).

use headgate_model::Kind;
use headgate_store::Stored;
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::request::Query;

/// Memory that one pattern of a client may take.
const PATTERN_BYTES: usize = 1 << 20;
const PAGE_SIZES: std::ops::RangeInclusive<f64> = 10.0..=500.0;
/// Answered as plain text for a page size out of range.
pub(super) const PAGE_SIZE_MESSAGE: &str = "page_size must be between 10 and 500";

/// Why a list cannot be given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ListError {
    /// `page_size` out of range.
    PageSize,
    /// The argument of that name is not a regular expression, or too large a one.
    Pattern(&'static str),
}

/// What is left after filters and paging.
#[derive(Debug, PartialEq)]
pub(super) struct Selection {
    /// How many passed the filters.
    pub(super) total: usize,
    /// The page; `None` past the end.
    pub(super) values: Option<Vec<Stored>>,
}

impl Selection {
    pub(super) const fn everything(values: Vec<Stored>) -> Self {
        Self { total: values.len(), values: Some(values) }
    }
}

/// Applies the arguments `name`, `label`, `uri`, `filter`, `page` and `page_size`.
pub(super) fn select(
    kind: Kind,
    mut values: Vec<Stored>,
    query: &Query,
) -> Result<Selection, ListError> {
    let paging = paging(query)?;
    if let Some(pattern) = pattern(query, "name")? {
        values.retain(|stored| matches(&pattern, stored.value.get("name")));
    }
    if let Some(label) = query.get("label") {
        values.retain(|stored| {
            stored.value.get("labels").is_some_and(|all| all.get(label).is_some())
        });
    }
    if let Some(pattern) = pattern(query, "uri")? {
        values.retain(|stored| has_uri(&pattern, &stored.value));
    }
    if let Some(filter) = query.get("filter")
        && matches!(kind, Kind::StreamRoute | Kind::Route)
    {
        let filter = Query::parse(Some(filter));
        values.retain(|stored| passes(&filter, &stored.value));
    }
    let Some((page, size)) = paging else { return Ok(Selection::everything(values)) };
    let total = values.len();
    values.sort_by_key(|stored| stored.created);
    let start = (page - 1).saturating_mul(size);
    if start >= total && total > 0 {
        return Ok(Selection { total, values: None });
    }
    let values = values.into_iter().skip(start).take(size).collect();
    Ok(Selection { total, values: Some(values) })
}

/// Page, from 1, and its size; `None` unless both are numbers.
fn paging(query: &Query) -> Result<Option<(usize, usize)>, ListError> {
    let (Some(page), Some(size)) = (query.number("page"), query.number("page_size")) else {
        return Ok(None);
    };
    if !PAGE_SIZES.contains(&size) {
        return Err(ListError::PageSize);
    }
    // `as` saturates, which is what is wanted of an absurd page number.
    Ok(Some((page.max(1.0) as usize, size as usize)))
}

fn pattern(query: &Query, name: &'static str) -> Result<Option<Regex>, ListError> {
    let Some(text) = query.get(name) else { return Ok(None) };
    RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .build()
        .map(Some)
        .map_err(|_| ListError::Pattern(name))
}

fn matches(pattern: &Regex, value: Option<&Value>) -> bool {
    value.and_then(Value::as_str).is_some_and(|text| pattern.is_match(text))
}

fn has_uri(pattern: &Regex, value: &Value) -> bool {
    let mut uris = value.get("uris").and_then(Value::as_array).into_iter().flatten();
    matches(pattern, value.get("uri")) || uris.any(|uri| matches(pattern, Some(uri)))
}

/// Strict: an id that is stored as a number matches nothing.
fn passes(filter: &Query, value: &Value) -> bool {
    filter.iter().all(|(name, wanted)| {
        if !matches!(name, "service_id" | "upstream_id") {
            tracing::warn!(argument = %name, "lists cannot be filtered by this member");
            return true;
        }
        value.get(name).and_then(Value::as_str) == Some(wanted)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Vec<Stored> {
        [
            ("a", 3, json!({"name": "alpha", "labels": {"env": "x"}, "service_id": "1"})),
            ("b", 1, json!({"name": "beta", "uri": "/b", "service_id": 1})),
            ("c", 2, json!({"uris": ["/c", "/d"], "service_id": "1", "upstream_id": "2"})),
        ]
        .into_iter()
        .map(|(id, created, value)| Stored {
            key: format!("/routes/{id}"),
            value,
            created,
            modified: created,
        })
        .collect()
    }

    fn ids(kind: Kind, query: &str) -> String {
        match select(kind, values(), &Query::parse(Some(query))) {
            Ok(Selection { total, values: Some(values) }) => {
                let ids: Vec<_> =
                    values.iter().map(|stored| stored.key.rsplit('/').next().unwrap()).collect();
                format!("{total}:{}", ids.join(""))
            }
            Ok(Selection { total, values: None }) => format!("{total}:none"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn arguments() {
        for (query, expected) in [
            ("", "3:abc"),
            ("name=al", "1:a"),
            ("name=^b.*a$", "1:b"),
            ("name=(", "Pattern(\"name\")"),
            ("name=(a{1000}){1000}", "Pattern(\"name\")"),
            ("label=env", "1:a"),
            ("label=x", "0:"),
            ("uri=^/b$", "1:b"),
            ("uri=/d", "1:c"),
            ("filter=service_id%3D1", "2:ac"),
            ("filter=service_id%3D1%26upstream_id%3D2", "1:c"),
            ("filter=foo%3D1", "3:abc"),
            ("page=1", "3:abc"),
            ("page=x&page_size=10", "3:abc"),
            ("page=1&page_size=9", "PageSize"),
            ("page=1&page_size=501", "PageSize"),
            ("page=-4&page_size=10", "3:bca"),
            ("page=2&page_size=10", "3:none"),
            ("page=99999999999999999999&page_size=10", "3:none"),
            ("page=1&page_size=10&name=zzz", "0:"),
        ] {
            assert_eq!(ids(Kind::Route, query), expected, "{query}");
        }
        assert_eq!(ids(Kind::Upstream, "filter=service_id%3D1"), "3:abc");
    }
}
