//! Generated data types.

use std::fmt::Write;

use super::super::schema::{EnumValue, Kind, Member, Schema, Type, TypeRef};
use super::unions;
use super::{all_default, camel, doc, member_type, rust_type, snake};

/// The module `types`.
pub(super) fn generate(schema: &Schema, out: &mut String) {
    out.push_str("/// Types of the schema.\npub mod types {\n");
    out.push_str("use crate::visit;\n");
    for ty in &schema.types {
        match &ty.kind {
            Kind::Enum(values) => enumeration(out, ty, values),
            Kind::Struct { .. } => structure(schema, out, ty),
            Kind::Union { members, tag, branches } => {
                unions::generate(schema, out, ty, members, tag, branches)
            }
            Kind::Alternate(types) => alternate(schema, out, ty, types),
        }
    }
    out.push_str("}\n");
}

fn enumeration(out: &mut String, ty: &Type, values: &[EnumValue]) {
    let name = &ty.name;
    doc(out, "", &ty.doc.text);
    _ = writeln!(out, "#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]\npub enum {name} {{");
    for value in values {
        doc(out, "    ", ty.doc.member(&value.name).unwrap_or_default());
        _ = writeln!(out, "    {},", camel(&value.name));
    }
    let names: Vec<_> = values.iter().map(|v| format!("{:?}", v.name)).collect();
    let variants: Vec<_> = values.iter().map(|v| format!("Self::{}", camel(&v.name))).collect();
    _ = writeln!(
        out,
        "}}
impl visit::Enum for {name} {{
    const NAMES: &'static [&'static str] = &[{}];
    const VALUES: &'static [Self] = &[{}];
    fn as_str(self) -> &'static str {{ Self::NAMES[self as usize] }}
}}
impl visit::FromValue for {name} {{
    fn from_value(value: crate::Value, at: &visit::Path<'_>) -> crate::Result<Self> {{
        visit::enum_from_value(value, at)
    }}
}}
impl visit::ToValue for {name} {{
    fn to_value(&self) -> crate::Value {{ visit::Enum::as_str(*self).into() }}
}}",
        names.join(", "),
        variants.join(", ")
    );
}

/// Text about a member that may come from a base.
pub(super) fn member_doc(schema: &Schema, ty: &Type, member: &Member) -> String {
    let mut text = ty.doc.member(&member.name).map(str::to_owned);
    let mut at = ty;
    while let (None, Kind::Struct { base: Some(base), .. }) = (&text, &at.kind) {
        let Some(base) = schema.find(base) else { break };
        text = base.doc.member(&member.name).map(str::to_owned);
        at = base;
    }
    text.unwrap_or_else(|| format!("Member `{}`.", member.name))
}

/// The fields of a structure.
pub(super) fn fields(schema: &Schema, out: &mut String, ty: &Type, members: &[&Member]) {
    for member in members {
        doc(out, "    ", &member_doc(schema, ty, member));
        _ = writeln!(out, "    pub {}: {},", snake(&member.name), member_type(member, ""));
    }
}

/// `members.required("x")?`
pub(super) fn take(member: &Member) -> String {
    format!("members.{}({:?})?", if member.optional { "optional" } else { "required" }, member.name)
}

/// A line that adds the member to an object.
pub(super) fn put(out: &mut String, member: &Member) {
    let function = if member.optional { "put_optional" } else { "put" };
    _ = writeln!(out, "visit::{function}(dict, {:?}, &self.{});", member.name, snake(&member.name));
}

fn structure(schema: &Schema, out: &mut String, ty: &Type) {
    let name = &ty.name;
    let members = schema.members(name);
    doc(out, "", &ty.doc.text);
    let default = if all_default(schema, name) { ", Default" } else { "" };
    _ = writeln!(out, "#[derive(Debug, Clone, PartialEq{default})]\npub struct {name} {{");
    fields(schema, out, ty, &members);
    let (dict, taken) = if members.is_empty() { ("_", "_") } else { ("dict", "members") };
    _ = writeln!(
        out,
        "}}
impl visit::Object for {name} {{
    fn take({taken}: &mut visit::Members<'_>) -> crate::Result<Self> {{
        Ok(Self {{"
    );
    for member in &members {
        _ = writeln!(out, "{}: {},", snake(&member.name), take(member));
    }
    _ = writeln!(out, "}})\n}}\nfn put(&self, {dict}: &mut crate::Dict) {{");
    for member in &members {
        put(out, member);
    }
    out.push_str("}\n}\n");
    object_impls(out, name);
}

/// Reading and writing of an object type as a value.
pub(super) fn object_impls(out: &mut String, name: &str) {
    _ = writeln!(
        out,
        "impl visit::FromValue for {name} {{
    fn from_value(value: crate::Value, at: &visit::Path<'_>) -> crate::Result<Self> {{
        visit::object_from_value(value, at)
    }}
}}
impl visit::ToValue for {name} {{
    fn to_value(&self) -> crate::Value {{ visit::object_to_value(self) }}
}}"
    );
}

fn alternate(schema: &Schema, out: &mut String, ty: &Type, types: &[(String, TypeRef)]) {
    let name = &ty.name;
    doc(out, "", &ty.doc.text);
    _ = writeln!(out, "#[derive(Debug, Clone, PartialEq)]\npub enum {name} {{");
    let (mut read, mut write) = (String::new(), String::new());
    for (case, case_type) in types {
        let variant = camel(case);
        doc(out, "    ", ty.doc.member(case).unwrap_or_default());
        _ = writeln!(out, "    {variant}({}),", rust_type(case_type, ""));
        let pattern = match (case_type.array, case_type.name.as_str()) {
            (true, _) => "crate::Value::List(_)",
            (_, "str") => "crate::Value::String(_)",
            (_, "bool") => "crate::Value::Bool(_)",
            (_, "null") => "crate::Value::Null",
            (_, "number") => "crate::Value::Int(_) | crate::Value::UInt(_) | crate::Value::Double(_)",
            (_, defined) => match schema.find(defined).map(|t| &t.kind) {
                Some(Kind::Enum(_)) => "crate::Value::String(_)",
                Some(_) => "crate::Value::Dict(_)",
                None => "crate::Value::Int(_) | crate::Value::UInt(_)",
            },
        };
        _ = writeln!(read, "{pattern} => visit::FromValue::from_value(value, at).map(Self::{variant}),");
        _ = writeln!(write, "Self::{variant}(value) => visit::ToValue::to_value(value),");
    }
    _ = writeln!(
        out,
        "}}
impl visit::FromValue for {name} {{
    fn from_value(value: crate::Value, at: &visit::Path<'_>) -> crate::Result<Self> {{
        match value {{
            {read}
            _ => Err(crate::Error::generic(format!(
                \"Invalid parameter type for '{{}}', expected: {name}\", at.last()))),
        }}
    }}
}}
impl visit::ToValue for {name} {{
    fn to_value(&self) -> crate::Value {{ match self {{ {write} }} }}
}}"
    );
}
