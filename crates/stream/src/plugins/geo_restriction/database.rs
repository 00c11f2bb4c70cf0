//! A file in MaxMind's format, with countries or autonomous systems, read whole into memory.

use std::net::IpAddr;
use std::path::Path;

use maxminddb::{Reader, path};

use super::{Place, code};
use crate::plugins::followed::{Content, checked_size};

/// Largest file, bytes.
const LARGEST: u64 = 1024 * 1024 * 1024;

/// An open database.
#[derive(Debug)]
pub(super) struct Database(Reader<Vec<u8>>);

impl Database {
    fn new(bytes: Vec<u8>) -> Result<Self, String> {
        Reader::from_source(bytes).map(Self).map_err(|error| error.to_string())
    }

    /// Where it places an address. The country is where the address is used, else where it is
    /// registered. What the database does not have, or has damaged, is left open.
    pub(super) fn place(&self, ip: IpAddr) -> Place {
        let Ok(found) = self.0.lookup(ip.to_canonical()) else { return Place::default() };
        let text = |path: &[maxminddb::PathElement<'_>]| {
            found.decode_path::<&str>(path).ok().flatten().and_then(code)
        };
        Place {
            country: text(&path!["country", "iso_code"])
                .or_else(|| text(&path!["registered_country", "iso_code"])),
            continent: text(&path!["continent", "code"]),
            asn: found.decode_path(&path!["autonomous_system_number"]).ok().flatten(),
        }
    }
}

impl Content for Database {
    const WHAT: &'static str = "a geo database";

    fn read(path: &Path) -> Result<Self, String> {
        checked_size(path, LARGEST)?;
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
        Self::new(bytes).map_err(|error| format!("{shown}: not a MaxMind database: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use headgate_testkit::geo;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn sample() -> Vec<u8> {
        geo::database(&[
            ("192.0.2.0/24", json!({"country": {"iso_code": "DE"}, "continent": {"code": "EU"}})),
            ("192.0.2.128/25", json!({"registered_country": {"iso_code": "fr"}})),
            ("2001:db8::/32", json!({"autonomous_system_number": 64_496})),
        ])
    }

    #[test]
    fn addresses_are_placed() {
        let database = Database::new(sample()).unwrap();
        let place = |ip: &str| database.place(ip.parse().unwrap());
        let germany = Place { country: Some(*b"DE"), continent: Some(*b"EU"), asn: None };
        assert_eq!(place("192.0.2.1"), germany);
        assert_eq!(place("::ffff:192.0.2.1"), germany);
        assert_eq!(place("192.0.2.200"), Place { country: Some(*b"FR"), ..Place::default() });
        assert_eq!(place("2001:db8::1"), Place { asn: Some(64_496), ..Place::default() });
        assert_eq!(place("198.51.100.1"), Place::default());
        assert!(Database::new(b"no database".to_vec()).is_err());
    }

    proptest! {
        /// A damaged file places addresses wrongly, or not at all, and does nothing worse.
        #[test]
        fn damage_is_survived(at in 0_usize..400, byte in any::<u8>(), ip in any::<u32>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(database) = Database::new(bytes) {
                let _ = database.place(IpAddr::V4(ip.into()));
                let _ = database.place("192.0.2.1".parse().unwrap());
                let _ = database.place("2001:db8::1".parse().unwrap());
            }
        }
    }
}
