//! What users write: resources, their JSON schemas, `config.yaml`, and the problems found in them.
//!
//! This crate knows nothing of sockets or tokio. Three representations meet here: the *document*
//! (a JSON value as written), the typed *resource*, and the [`ResourceSet`] from which the planes
//! compile their snapshots.

#![forbid(unsafe_code)]

pub mod certificate_chain;
pub mod check;
pub mod expiry;
pub mod expr;
pub mod http_plugins;
pub mod json_text;
pub mod kind;
pub mod listen;
pub mod plugin;
pub mod plugin_list;
pub mod problem;
pub mod redact;
pub mod reference;
pub mod resource;
pub mod resource_set;
pub mod schema;
pub mod settings;
pub mod standalone;
pub mod template;
pub mod warning;
pub mod yaml;

pub use json_text::JsonText;
pub use kind::Kind;
pub use plugin_list::PluginList;
pub use problem::{Problem, Severity};
pub use resource_set::{Entry, ResourceSet};
