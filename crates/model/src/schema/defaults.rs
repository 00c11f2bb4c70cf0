//! Fills in defaults, as the reference does in memory after it accepted a value.

use serde_json::{Map, Value};

use super::compile::{Compiled, Type};

impl Compiled {
    /// Sets absent members to their defaults, also in the branches that `value` conforms to.
    pub(crate) fn fill(&self, value: &mut Value) {
        self.make_object(value);
        if let Value::Object(members) = value {
            self.fill_members(members);
        }
        if let (Some(schema), Value::Array(items)) = (&self.items, &mut *value) {
            items.iter_mut().for_each(|item| schema.fill(item));
        }
        for schema in &self.all_of {
            schema.fill(value);
        }
        let conforming = |list: &[Self], value: &Value| {
            list.iter().position(|schema| schema.validate(value).is_ok())
        };
        for list in [&self.any_of, &self.one_of] {
            if let Some(schema) = conforming(list, value).and_then(|index| list.get(index)) {
                schema.fill(value);
            }
        }
        if let Some(condition) = &self.condition {
            let holds = condition.test.validate(value).is_ok();
            let branch = if holds { &condition.then } else { &condition.otherwise };
            if let Some(schema) = branch {
                schema.fill(value);
            }
        }
    }

    /// `[]` where members have defaults becomes `{}`, because an array cannot carry them.
    fn make_object(&self, value: &mut Value) {
        let empty = value.as_array().is_some_and(Vec::is_empty);
        let wanted = self.types.contains(&Type::Object)
            && self.properties.iter().any(|property| property.default.is_some());
        if empty && wanted {
            *value = Value::Object(Map::new());
        }
    }

    fn fill_members(&self, members: &mut Map<String, Value>) {
        for property in &self.properties {
            match (members.get_mut(&property.name), &property.default) {
                (Some(member), _) => property.schema.fill(member),
                (None, Some(default)) => {
                    members.insert(property.name.clone(), default.clone());
                }
                (None, None) => {}
            }
        }
        for (pattern, schema) in &self.patterns {
            for (_, member) in
                members.iter_mut().filter(|(name, _)| pattern.regex.is_match(name.as_bytes()))
            {
                schema.fill(member);
            }
        }
    }
}
