//! geo-restriction: lets clients in, or keeps them out, by where a MaxMind database places their
//! address: country, continent, autonomous system. Not a plugin of the reference.

mod database;

use std::path::PathBuf;
use std::sync::Arc;

use headgate_model::plugin::{Phases, PluginMeta};
use serde::Deserialize;

use crate::plugin::{Build, Phase, Plugin, PluginDef};
use crate::plugins::followed::Followed;
use crate::session::Session;
use database::Database;

pub(super) static DEF: PluginDef = PluginDef::of::<GeoRestriction>(PluginMeta {
    name: "geo-restriction",
    priority: 2980,
    version: "0.1",
    default_enabled: false,
    phases: Phases::Preread,
    executed: true,
    schema: r#"{
        "type": "object",
        "properties": {
            "database": { "type": "string", "minLength": 1, "maxLength": 4096 },
            "countries": {
                "type": "array", "minItems": 1,
                "items": { "type": "string", "pattern": "^[A-Za-z]{2}$" }
            },
            "continents": {
                "type": "array", "minItems": 1,
                "items": { "type": "string", "enum": ["AF", "AN", "AS", "EU", "NA", "OC", "SA"] }
            },
            "asns": {
                "type": "array", "minItems": 1,
                "items": { "type": "integer", "minimum": 1, "maximum": 4294967295 }
            },
            "action": { "type": "string", "enum": ["deny", "allow"], "default": "deny" },
            "unknown": { "type": "string", "enum": ["deny", "allow"] },
            "response_code": { "type": "integer", "minimum": 400, "maximum": 599, "default": 403 }
        },
        "required": ["database"],
        "anyOf": [
            { "required": ["countries"] },
            { "required": ["continents"] },
            { "required": ["asns"] }
        ],
        "additionalProperties": false
    }"#,
    metadata_schema: None,
    check: None,
    good: &[
        r#"{"database":"/var/lib/GeoIP/GeoLite2-Country.mmdb","countries":["KP","ir"]}"#,
        r#"{"database":"a.mmdb","continents":["EU"],"action":"allow","unknown":"allow"}"#,
        r#"{"database":"asn.mmdb","asns":[64496],"response_code":404}"#,
    ],
    bad: &[
        r#"{}"#,
        r#"{"database":"a.mmdb"}"#,
        r#"{"countries":["DE"]}"#,
        r#"{"database":"a.mmdb","countries":["Germany"]}"#,
        r#"{"database":"a.mmdb","continents":["EUROPE"]}"#,
        r#"{"database":"a.mmdb","asns":[0]}"#,
        r#"{"database":"a.mmdb","countries":["DE"],"unknown":"drop"}"#,
    ],
});

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    database: PathBuf,
    #[serde(default)]
    countries: Vec<String>,
    #[serde(default)]
    continents: Vec<String>,
    #[serde(default)]
    asns: Vec<u32>,
    action: String,
    unknown: Option<String>,
    response_code: u16,
}

#[derive(Debug)]
pub(super) struct GeoRestriction {
    database: Arc<Followed<Database>>,
    places: Places,
    /// Whether those in the lists are let in, or kept out.
    lets_in: bool,
    /// Whether those that the database does not place are let in.
    lets_unknown_in: bool,
    code: u16,
}

/// What clients are sought in. Short lists, sorted.
#[derive(Debug, Default)]
struct Places {
    countries: Vec<[u8; 2]>,
    continents: Vec<[u8; 2]>,
    asns: Vec<u32>,
}

/// Where a database places an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    country: Option<[u8; 2]>,
    continent: Option<[u8; 2]>,
    asn: Option<u32>,
}

impl Places {
    fn new(config: &Config) -> Self {
        let codes = |texts: &[String]| {
            let mut codes: Vec<_> = texts.iter().filter_map(|text| code(text)).collect();
            codes.sort_unstable();
            codes
        };
        let mut asns = config.asns.clone();
        asns.sort_unstable();
        Self { countries: codes(&config.countries), continents: codes(&config.continents), asns }
    }

    /// Whether the place is in one of the lists; `None` when the database knows nothing that a
    /// list asks for.
    fn contain(&self, place: Place) -> Option<bool> {
        let by = |list: &[[u8; 2]], code: Option<[u8; 2]>| {
            code.filter(|_| !list.is_empty()).map(|code| list.binary_search(&code).is_ok())
        };
        let asn = place.asn.filter(|_| !self.asns.is_empty());
        let found = [
            by(&self.countries, place.country),
            by(&self.continents, place.continent),
            asn.map(|asn| self.asns.binary_search(&asn).is_ok()),
        ];
        found.into_iter().flatten().reduce(|one, other| one || other)
    }
}

/// A code of two letters, in upper case.
fn code(text: &str) -> Option<[u8; 2]> {
    let code: [u8; 2] = text.as_bytes().try_into().ok()?;
    Some(code.map(|letter| letter.to_ascii_uppercase()))
}

impl Plugin for GeoRestriction {
    type Config = Config;

    /// Reads the database unless another route has; fails when it is not there or not one.
    fn new(config: Config, build: &mut Build<'_>) -> Result<Self, String> {
        let places = Places::new(&config);
        let key = config.database.display().to_string();
        let database: Arc<Followed<Database>> =
            build.shared(&key, || Followed::new(config.database));
        Followed::open(&database, build)?;
        let lets_in = config.action == "allow";
        let lets_unknown_in = config.unknown.map_or(!lets_in, |unknown| unknown == "allow");
        Ok(Self { database, places, lets_in, lets_unknown_in, code: config.response_code })
    }

    /// A client on a Unix socket has no address, so it is in no place.
    fn preread(&self, session: &mut Session) -> Phase {
        let database = self.database.content();
        let place = session.client.zip(database.as_ref());
        let place = place.map(|(client, database)| database.place(client.ip()));
        let passes = match place.and_then(|place| self.places.contain(place)) {
            Some(is_listed) => is_listed == self.lets_in,
            None => self.lets_unknown_in,
        };
        if passes { Phase::NEXT } else { Phase::reject(self.code) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_that_has_it_is_enough() {
        let places = Places {
            countries: vec![*b"DE", *b"FR"],
            continents: vec![*b"AF"],
            asns: vec![64_496],
        };
        let place = |country: &str, continent: &str, asn| Place {
            country: code(country),
            continent: code(continent),
            asn,
        };
        assert_eq!(places.contain(place("de", "EU", None)), Some(true));
        assert_eq!(places.contain(place("KE", "AF", None)), Some(true));
        assert_eq!(places.contain(place("", "", Some(64_496))), Some(true));
        assert_eq!(places.contain(place("US", "NA", Some(1))), Some(false));
        assert_eq!(places.contain(Place::default()), None);
        let only = Places { countries: vec![*b"DE"], ..Places::default() };
        assert_eq!(only.contain(place("", "EU", Some(1))), None, "nothing that is asked for");
    }
}
