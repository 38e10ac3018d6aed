//! Replies and events judged by what `query-qmp-schema` says of them: types, members, optionality, enum values.
//!
//! The schema is the program's own (or QEMU's): a program that keeps to what it says needs no list of ours.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::Qmp;

/// A schema as a client sees it.
#[derive(Debug)]
pub struct Introspection {
    /// Commands and events by name, types by their masked name.
    entities: HashMap<String, Value>,
}

impl Introspection {
    /// Of the program at the other end.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn of(qmp: &mut Qmp) -> Self {
        Self::new(&qmp.ok("query-qmp-schema", serde_json::json!({})))
    }

    /// Of a reply to `query-qmp-schema`.
    ///
    /// # Panics
    ///
    /// If it is no list of things with names.
    pub fn new(reply: &Value) -> Self {
        let list = reply.as_array().expect("a schema is a list");
        let name = |entity: &Value| entity["name"].as_str().expect("an entity has a name").to_owned();
        Self { entities: list.iter().map(|entity| (name(entity), entity.clone())).collect() }
    }

    /// Commands that only ask (`query-…`, `x-query-…`, ours) and need no argument, by name.
    pub fn queries(&self) -> Vec<String> {
        let asks = |name: &str| name.starts_with("query-") || name.contains("-query-");
        let mut list: Vec<String> = self
            .entities
            .iter()
            .filter(|(name, entity)| entity["meta-type"] == "command" && asks(name))
            .filter(|(_, entity)| {
                self.members(&entity["arg-type"]).all(|member| member.get("default").is_some())
            })
            .map(|(name, _)| name.clone())
            .collect();
        list.sort();
        list
    }

    /// What is wrong with `value` as the return value of `command`.
    ///
    /// # Panics
    ///
    /// If there is no such command.
    pub fn reply(&self, command: &str, value: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let entity = self.entity(command);
        assert_eq!(entity["meta-type"], "command", "{command}");
        self.check(&entity["ret-type"], value, command, &mut wrong);
        wrong
    }

    /// What is wrong with an event as it was sent.
    pub fn event(&self, event: &Value) -> Vec<String> {
        let name = event["event"].as_str().unwrap_or_default();
        let Some(entity) = self.entities.get(name).filter(|entity| entity["meta-type"] == "event") else {
            return vec![format!("{name}: there is no such event")];
        };
        let mut wrong = Vec::new();
        let none = Value::Object(Map::new());
        self.check(&entity["arg-type"], event.get("data").unwrap_or(&none), name, &mut wrong);
        wrong
    }

    fn entity(&self, name: &str) -> &Value {
        self.entities.get(name).unwrap_or_else(|| panic!("{name}: the schema does not have it"))
    }

    /// Members of an object type, those of its variants left out.
    fn members<'s>(&'s self, type_name: &Value) -> impl Iterator<Item = &'s Value> {
        let members = type_name.as_str().map(|name| &self.entity(name)["members"]);
        members.and_then(Value::as_array).into_iter().flatten()
    }

    /// Judges `value` as one of the type called `type_name`; `path` is where it is.
    fn check(&self, type_name: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
        let Some(name) = type_name.as_str() else { return wrong.push(format!("{path}: no type is named")) };
        let entity = self.entity(name);
        let good = match entity["meta-type"].as_str().unwrap_or_default() {
            "builtin" => is_builtin(entity["json-type"].as_str().unwrap_or_default(), value),
            "enum" => {
                let known = entity["members"].as_array().expect("an enum has members");
                value.is_string() && known.iter().any(|member| member["name"] == *value)
            }
            "array" => match value.as_array() {
                Some(list) => {
                    for (index, element) in list.iter().enumerate() {
                        self.check(&entity["element-type"], element, &format!("{path}[{index}]"), wrong);
                    }
                    true
                }
                None => false,
            },
            "alternate" => {
                entity["members"].as_array().expect("an alternate has members").iter().any(|member| {
                    let mut found = Vec::new();
                    self.check(&member["type"], value, path, &mut found);
                    found.is_empty()
                })
            }
            "object" => match value.as_object() {
                Some(object) => {
                    self.check_object(entity, object, path, wrong);
                    true
                }
                None => false,
            },
            other => panic!("{name}: a {other} is no type"),
        };
        if !good {
            wrong.push(format!("{path}: {value} is no {name} ({})", entity["meta-type"]));
        }
    }

    fn check_object(&self, entity: &Value, object: &Map<String, Value>, path: &str, wrong: &mut Vec<String>) {
        let mut members: Vec<&Value> =
            entity["members"].as_array().expect("an object has members").iter().collect();
        if let (Some(tag), Some(variants)) = (entity["tag"].as_str(), entity["variants"].as_array()) {
            // A case that has no members of its own is not listed by all versions.
            if let Some(variant) = variants.iter().find(|variant| object.get(tag) == Some(&variant["case"])) {
                members.extend(self.members(&variant["type"]));
            }
        }
        for member in &members {
            let name = member["name"].as_str().expect("a member has a name");
            match object.get(name) {
                Some(value) => self.check(&member["type"], value, &format!("{path}.{name}"), wrong),
                None if member.get("default").is_some() => {}
                None => wrong.push(format!("{path}.{name}: missing")),
            }
        }
        for name in object.keys() {
            if !members.iter().any(|member| member["name"] == **name) {
                wrong.push(format!("{path}.{name}: not in the schema"));
            }
        }
    }
}

fn is_builtin(json_type: &str, value: &Value) -> bool {
    match json_type {
        "string" => value.is_string(),
        "int" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "value" => true,
        other => panic!("{other} is no type of JSON"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Introspection {
        Introspection::new(&json!([
            {"name": "query-x", "meta-type": "command", "arg-type": "0", "ret-type": "[1]"},
            {"name": "query-y", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
            {"name": "x-query-z", "meta-type": "command", "arg-type": "4", "ret-type": "any"},
            {"name": "E", "meta-type": "event", "arg-type": "4"},
            {"name": "0", "meta-type": "object", "members": []},
            {"name": "[1]", "meta-type": "array", "element-type": "1"},
            {"name": "1", "meta-type": "object", "tag": "kind",
             "members": [{"name": "kind", "type": "2"}, {"name": "note", "type": "str", "default": null}],
             "variants": [{"case": "sized", "type": "3"}, {"case": "plain", "type": "0"}]},
            {"name": "2", "meta-type": "enum", "members": [{"name": "sized"}, {"name": "plain"}]},
            {"name": "3", "meta-type": "object", "members": [{"name": "size", "type": "5"}]},
            {"name": "4", "meta-type": "object", "members": [{"name": "n", "type": "int", "default": null}]},
            {"name": "5", "meta-type": "alternate", "members": [{"type": "int"}, {"type": "str"}]},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
            {"name": "any", "meta-type": "builtin", "json-type": "value"},
        ]))
    }

    #[test]
    fn what_the_schema_allows_is_right() {
        let schema = schema();
        let value = json!([{"kind": "sized", "size": 1}, {"kind": "sized", "size": "1M"}, {"kind": "plain", "note": ""}]);
        assert_eq!(schema.reply("query-x", &value), Vec::<String>::new());
        assert!(
            schema.reply("query-x", &json!([])).is_empty() && schema.reply("query-y", &json!({})).is_empty()
        );
        assert!(schema.event(&json!({"event": "E", "data": {"n": 1}})).is_empty());
        assert!(schema.event(&json!({"event": "E"})).is_empty());
        assert_eq!(schema.queries(), ["query-x", "x-query-z"]);
    }

    #[test]
    fn each_way_to_be_wrong_is_told_with_its_place() {
        let schema = schema();
        for (value, expected) in [
            (json!({}), "query-x: {} is no [1] (\"array\")"),
            (json!([1]), "query-x[0]: 1 is no 1 (\"object\")"),
            (json!([{}]), "query-x[0].kind: missing"),
            (json!([{"kind": "odd"}]), "query-x[0].kind: \"odd\" is no 2 (\"enum\")"),
            (json!([{"kind": "sized"}]), "query-x[0].size: missing"),
            (json!([{"kind": "plain", "size": 1}]), "query-x[0].size: not in the schema"),
            (json!([{"kind": "sized", "size": 1.5}]), "query-x[0].size: 1.5 is no 5 (\"alternate\")"),
            (json!([{"kind": "plain", "note": null}]), "query-x[0].note: null is no str (\"builtin\")"),
        ] {
            assert_eq!(schema.reply("query-x", &value), [expected], "{value}");
        }
        assert_eq!(schema.event(&json!({"event": "F"})), ["F: there is no such event"]);
        assert_eq!(
            schema.event(&json!({"event": "E", "data": {"n": true}})),
            ["E.n: true is no int (\"builtin\")"]
        );
    }
}
