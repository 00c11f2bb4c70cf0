//! What a request says about a write besides the document: `If-Match` and `ttl`.

use std::time::Duration;

use axum::http::header::IF_MATCH;
use axum::http::{HeaderMap, Method, StatusCode};
use headgate_store::{Precondition, Revision, StoreError, Stored, WriteOptions};

use super::Arrived;
use crate::answer::Refused;

/// Longest time to live, that of etcd's leases.
const MAX_TTL_SECONDS: f64 = 9e9;

/// What a request says about the write besides the document.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) author: String,
    pub(super) ttl: Option<Duration>,
    pub(super) if_match: Option<IfMatch>,
}

/// The header `If-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// `*`: the resource exists.
    Exists,
    /// Its `modifiedIndex`.
    Modified(Revision),
}

impl Options {
    pub(super) fn from_request(request: &Arrived) -> Result<Self, Refused> {
        let reads = request.method == Method::GET || request.method == Method::POST;
        let if_match = if reads { None } else { if_match(&request.headers)? };
        let ttl = match request.query.get("ttl") {
            None => None,
            Some(_) => Some(ttl(request.query.number("ttl"))?),
        };
        Ok(Self { author: request.author.clone(), ttl, if_match })
    }

    /// Compares `If-Match` with what is stored.
    pub(super) fn matches(&self, current: Option<&Stored>) -> Result<(), Refused> {
        let matches = match (self.if_match, current) {
            (None, _) | (Some(IfMatch::Exists), Some(_)) => true,
            (Some(IfMatch::Modified(wanted)), Some(stored)) => wanted == stored.modified,
            (Some(_), None) => false,
        };
        if matches { Ok(()) } else { Err(mismatch(current)) }
    }

    pub(super) fn write_options(&self, precondition: Precondition) -> WriteOptions {
        WriteOptions { precondition, author: self.author.clone(), ttl: self.ttl }
    }

    /// With `If-Match`, `current` must still be stored when the write happens.
    pub(super) fn precondition(&self, current: Option<&Stored>) -> Precondition {
        match (self.if_match, current) {
            (Some(_), Some(stored)) => Precondition::Modified(stored.modified),
            _ => Precondition::None,
        }
    }

    /// What a failed write means to the client.
    pub(super) fn refused(&self, error: StoreError) -> Refused {
        match error {
            StoreError::Conflict { current } if self.if_match.is_some() => {
                mismatch(current.as_deref())
            }
            error => error.into(),
        }
    }
}

fn ttl(seconds: Option<f64>) -> Result<Duration, Refused> {
    let seconds =
        seconds.ok_or_else(|| Refused::bad("invalid argument ttl: should be a number"))?;
    if seconds <= 0.0 || seconds > MAX_TTL_SECONDS {
        return Err(Refused::bad("invalid argument ttl: should be between 1 and 9000000000"));
    }
    // Leases count whole seconds.
    Ok(Duration::from_secs_f64(seconds.ceil()))
}

fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Refused> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Some(IfMatch::Exists));
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let revision = number
        .parse()
        .map_err(|_| Refused::bad("invalid header If-Match: should be a modifiedIndex or *"))?;
    Ok(Some(IfMatch::Modified(revision)))
}

fn mismatch(current: Option<&Stored>) -> Refused {
    let message = match current {
        Some(stored) => format!("If-Match does not match modifiedIndex {}", stored.modified),
        None => "If-Match does not match: the resource does not exist".to_owned(),
    };
    Refused::new(StatusCode::PRECONDITION_FAILED, message)
}
