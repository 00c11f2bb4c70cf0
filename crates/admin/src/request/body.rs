//! Reads a request's body within a size and a time.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;

use crate::answer::Refused;

/// Largest body of the Admin API.
pub(crate) const MAX_BODY: u64 = 1_572_864;

/// How long and how much a refused body is still received, so that a client that sends everything
/// before it reads gets to see the refusal.
const DRAIN_TIME: Duration = Duration::from_secs(5);
const DRAIN_BYTES: u64 = 64 << 20;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is, or is announced to be, too large.
    #[error("request size {0} is greater than the maximum size {1} allowed")]
    TooLarge(u64, u64),
    /// It did not arrive in time.
    #[error("the request body was not received in time")]
    Late,
    /// The connection broke or the framing is wrong.
    #[error("the request body could not be read")]
    Broken,
}

impl BodyError {
    /// The answer; the connection is closed after it.
    pub(crate) fn into_response(self) -> Response {
        let status = match self {
            Self::TooLarge(..) | Self::Broken => StatusCode::BAD_REQUEST,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
        };
        let refused = Refused::new(status, format!("invalid request body: {self}"));
        let mut response = refused.into_response();
        response
            .headers_mut()
            .insert(axum::http::header::CONNECTION, axum::http::HeaderValue::from_static("close"));
        response
    }
}

/// The whole body, at most [`MAX_BODY`] bytes, received within `deadline`.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    deadline: Duration,
) -> Result<Vec<u8>, BodyError> {
    read_within(headers, body, deadline, MAX_BODY).await
}

/// As [`read`] with a limit of one's own.
pub(crate) async fn read_within(
    headers: &HeaderMap,
    mut body: Body,
    deadline: Duration,
    most: u64,
) -> Result<Vec<u8>, BodyError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(size) = announced.filter(|size| *size > most) {
        // A client that waits for `100 Continue` has not sent anything.
        if !headers.contains_key(EXPECT) {
            discard(body);
        }
        return Err(BodyError::TooLarge(size, most));
    }
    let mut bytes = Vec::new();
    let collected = tokio::time::timeout(deadline, async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyError::Broken)?;
            let Some(data) = frame.data_ref() else { continue };
            let size = bytes.len() as u64 + data.len() as u64;
            if size > most {
                return Err(BodyError::TooLarge(size, most));
            }
            bytes.extend_from_slice(data);
        }
        Ok(())
    })
    .await;
    match collected {
        Ok(Ok(())) => Ok(bytes),
        Ok(Err(error)) => {
            if matches!(error, BodyError::TooLarge(..)) {
                discard(body);
            }
            Err(error)
        }
        Err(_) => Err(BodyError::Late),
    }
}

fn discard(mut body: Body) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(DRAIN_TIME, async move {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, |data| data.len() as u64);
            if seen > DRAIN_BYTES {
                break;
            }
        }
    }));
}
