//! The schema as `query-qmp-schema` tells it: defined types under numbers, all integers as `int`, bases flattened.

use std::collections::HashMap;
use std::fmt::Write;

use super::{Args, BUILTINS, Kind, Member, Schema, TypeRef};

/// The answer of `query-qmp-schema` as JSON text: commands and events in order, then the types they use, in the order
/// of their first use.
pub fn text(schema: &Schema) -> String {
    let mut writer = Writer { schema, numbers: HashMap::new(), queue: Vec::new() };
    let mut out: Vec<String> = Vec::new();
    for command in &schema.commands {
        let args = writer.args(&command.name, &command.args);
        let ret = match &command.returns {
            Some(ty) => writer.reference(ty),
            None => writer.name(&Key::Empty),
        };
        let oob = if command.allow_oob { ", \"allow-oob\": true" } else { "" };
        out.push(format!(
            "{{\"name\": {:?}, \"ret-type\": {ret:?}, \"meta-type\": \"command\", \"arg-type\": {args:?}{oob}{}}}",
            command.name,
            features(&command.features)
        ));
    }
    for event in &schema.events {
        let args = writer.args(&event.name, &event.args);
        out.push(format!(
            "{{\"name\": {:?}, \"meta-type\": \"event\", \"arg-type\": {args:?}{}}}",
            event.name,
            features(&event.features)
        ));
    }
    let mut done = 0;
    while let Some(key) = writer.queue.get(done).cloned() {
        done += 1;
        out.push(writer.entity(&key));
    }
    format!("[{}]", out.join(", "))
}

/// What has an entry in the answer.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The object without members.
    Empty,
    Builtin(&'static str),
    Array(TypeRef),
    Type(String),
    /// Inline arguments of a command or event.
    Args(String),
}

struct Writer<'a> {
    schema: &'a Schema,
    /// Numbers given so far.
    numbers: HashMap<Key, usize>,
    /// Everything that is referred to, in order.
    queue: Vec<Key>,
}

impl Writer<'_> {
    /// Name that `key` goes by; it is then in the queue.
    fn name(&mut self, key: &Key) -> String {
        if !self.queue.contains(key) {
            self.queue.push(key.clone());
        }
        match key {
            Key::Builtin(name) => (*name).to_owned(),
            Key::Array(ty) => {
                format!("[{}]", self.reference(&TypeRef { name: ty.name.clone(), array: false }))
            }
            Key::Empty | Key::Type(_) | Key::Args(_) => {
                let next = self.numbers.len();
                self.numbers.entry(key.clone()).or_insert(next).to_string()
            }
        }
    }

    fn reference(&mut self, ty: &TypeRef) -> String {
        let builtin = BUILTINS.iter().find(|b| b.0 == ty.name).map(|b| b.1);
        let key = match (ty.array, builtin) {
            (true, shown) => Key::Array(TypeRef { name: shown.unwrap_or(&ty.name).to_owned(), array: true }),
            (false, Some(shown)) => Key::Builtin(shown),
            (false, None) => Key::Type(ty.name.clone()),
        };
        self.name(&key)
    }

    fn args(&mut self, of: &str, args: &Args) -> String {
        match args {
            Args::None => self.name(&Key::Empty),
            Args::Boxed(name) => self.name(&Key::Type(name.clone())),
            Args::Inline(_) => self.name(&Key::Args(of.to_owned())),
        }
    }

    fn entity(&mut self, key: &Key) -> String {
        let name = self.name(key);
        let schema = self.schema;
        match key {
            Key::Empty => format!("{{\"name\": {name:?}, \"members\": [], \"meta-type\": \"object\"}}"),
            Key::Builtin(shown) => {
                let json = BUILTINS.iter().find(|b| b.1 == *shown).map_or("value", |b| b.2);
                format!("{{\"name\": {name:?}, \"json-type\": {json:?}, \"meta-type\": \"builtin\"}}")
            }
            Key::Array(ty) => {
                let element = self.reference(&TypeRef { name: ty.name.clone(), array: false });
                format!("{{\"name\": {name:?}, \"element-type\": {element:?}, \"meta-type\": \"array\"}}")
            }
            Key::Args(of) => {
                let command = schema.commands.iter().find(|c| c.name == *of).map(|c| &c.args);
                let args = command.or_else(|| schema.events.iter().find(|e| e.name == *of).map(|e| &e.args));
                let members: Vec<&Member> = match args {
                    Some(Args::Inline(members)) => members.iter().collect(),
                    _ => Vec::new(),
                };
                format!(
                    "{{\"name\": {name:?}, \"members\": {}, \"meta-type\": \"object\"}}",
                    self.members(&members)
                )
            }
            Key::Type(of) => self.defined(&name, of),
        }
    }

    fn defined(&mut self, name: &str, of: &str) -> String {
        let schema = self.schema;
        let Some(ty) = schema.find(of) else { return String::new() };
        let features = features(&ty.features);
        match &ty.kind {
            Kind::Enum(values) => {
                let members: Vec<_> = values
                    .iter()
                    .map(|v| format!("{{\"name\": {:?}{}}}", v.name, self::features(&v.features)))
                    .collect();
                let names: Vec<_> = values.iter().map(|v| format!("{:?}", v.name)).collect();
                format!(
                    "{{\"name\": {name:?}, \"members\": [{}], \"meta-type\": \"enum\", \"values\": [{}]{features}}}",
                    members.join(", "),
                    names.join(", ")
                )
            }
            Kind::Struct { .. } => {
                let members = self.members(&schema.members(of));
                format!("{{\"name\": {name:?}, \"members\": {members}, \"meta-type\": \"object\"{features}}}")
            }
            Kind::Union { tag, branches, .. } => {
                let members = schema.members(of);
                let tag_type = members.iter().find(|m| m.name == *tag).map_or("", |m| m.ty.name.as_str());
                let variants = self.variants(tag_type, branches);
                let members = self.members(&members);
                format!(
                    "{{\"name\": {name:?}, \"tag\": {tag:?}, \"variants\": [{variants}], \"members\": {members}, \
                     \"meta-type\": \"object\"{features}}}"
                )
            }
            Kind::Alternate(types) => {
                let members: Vec<_> =
                    types.iter().map(|(_, ty)| format!("{{\"type\": {:?}}}", self.reference(ty))).collect();
                format!(
                    "{{\"name\": {name:?}, \"members\": [{}], \"meta-type\": \"alternate\"{features}}}",
                    members.join(", ")
                )
            }
        }
    }

    /// Branches that are written first, then the tag's other values, with no members.
    fn variants(&mut self, tag_type: &str, branches: &[(String, String)]) -> String {
        let mut out: Vec<String> = Vec::new();
        for (case, ty) in branches {
            let ty = self.name(&Key::Type(ty.clone()));
            out.push(format!("{{\"case\": {case:?}, \"type\": {ty:?}}}"));
        }
        if let Some(Kind::Enum(values)) = self.schema.find(tag_type).map(|t| &t.kind) {
            for value in values.iter().filter(|v| !branches.iter().any(|(case, _)| *case == v.name)) {
                let ty = self.name(&Key::Empty);
                out.push(format!("{{\"case\": {:?}, \"type\": {ty:?}}}", value.name));
            }
        }
        out.join(", ")
    }

    fn members(&mut self, members: &[&Member]) -> String {
        let mut out = String::from("[");
        for (i, member) in members.iter().enumerate() {
            let separator = if i > 0 { ", " } else { "" };
            let default = if member.optional { ", \"default\": null" } else { "" };
            let ty = self.reference(&member.ty);
            _ = write!(
                out,
                "{separator}{{\"name\": {:?}{default}, \"type\": {ty:?}{}}}",
                member.name,
                features(&member.features)
            );
        }
        out.push(']');
        out
    }
}

fn features(features: &[String]) -> String {
    if features.is_empty() {
        return String::new();
    }
    let names: Vec<_> = features.iter().map(|f| format!("{f:?}")).collect();
    format!(", \"features\": [{}]", names.join(", "))
}
