//! Parsers and encoders of bytes on the wire, free of I/O.
//!
//! Every parser here takes the bytes received so far and says whether they are complete, still
//! growing or broken. None reads a socket, knows the time or the configuration, so each can be
//! tested on every split of every input. Bytes come from strangers: nothing here panics, and
//! `clippy::indexing_slicing` is denied.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod client_hello;
pub mod ja4;
pub mod mqtt;
pub mod probe;
pub mod proxy_header;
pub mod redis_reply;
pub mod syslog;
