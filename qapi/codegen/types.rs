//! Generated data types.

use std::fmt::Write;

use super::super::schema::{EnumValue, Kind, Member, Schema, Type, TypeRef};
use super::{all_default, camel, doc, member_type, rust_type, snake};

/// The module `types`.
pub(super) fn generate(schema: &Schema, out: &mut String) {
    out.push_str("/// Types of the schema.\npub mod types {\n");
    out.push_str("use crate::visit;\n");
    for ty in &schema.types {
        match &ty.kind {
            Kind::Enum(values) => enumeration(out, ty, values),
            Kind::Struct { .. } => structure(schema, out, ty),
            Kind::Union { members, tag, branches } => union(schema, out, ty, members, tag, branches),
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
fn member_doc(schema: &Schema, ty: &Type, member: &Member) -> String {
    let mut text = ty.doc.member(&member.name).map(str::to_owned);
    let mut at = ty;
    while let (None, Kind::Struct { base: Some(base), .. }) = (&text, &at.kind) {
        let Some(base) = schema.find(base) else { break };
        text = base.doc.member(&member.name).map(str::to_owned);
        at = base;
    }
    text.unwrap_or_else(|| format!("Member `{}`.", member.name))
}

fn fields(schema: &Schema, out: &mut String, ty: &Type, members: &[&Member]) {
    for member in members {
        doc(out, "    ", &member_doc(schema, ty, member));
        _ = writeln!(out, "    pub {}: {},", snake(&member.name), member_type(member, ""));
    }
}

/// `members.required("x")?`
fn take(member: &Member) -> String {
    format!("members.{}({:?})?", if member.optional { "optional" } else { "required" }, member.name)
}

fn put(out: &mut String, member: &Member) {
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
fn object_impls(out: &mut String, name: &str) {
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

fn union(
    schema: &Schema,
    out: &mut String,
    ty: &Type,
    members: &[Member],
    tag: &str,
    branches: &[(String, String)],
) {
    let name = &ty.name;
    let common: Vec<&Member> = members.iter().collect();
    let Some(tag_member) = members.iter().find(|m| m.name == tag) else { return };
    let Some(Type { kind: Kind::Enum(values), doc: tag_doc, .. }) = schema.find(&tag_member.ty.name) else {
        return;
    };
    let tag_type = &tag_member.ty.name;
    let plain = members.len() == 1;
    let branch_enum = if plain { name.clone() } else { format!("{name}{}", camel(tag)) };

    if plain {
        doc(out, "", &ty.doc.text);
    } else {
        doc(out, "", &format!("What of [`{name}`] depends on its `{tag}`."));
    }
    _ = writeln!(out, "#[derive(Debug, Clone, PartialEq)]\npub enum {branch_enum} {{");
    let (mut read, mut write, mut tags) = (String::new(), String::new(), String::new());
    for value in values {
        let variant = camel(&value.name);
        doc(out, "    ", tag_doc.member(&value.name).unwrap_or_default());
        _ = writeln!(tags, "Self::{variant} {{ .. }} => {tag_type}::{variant},");
        if let Some((_, branch)) = branches.iter().find(|(case, _)| *case == value.name) {
            _ = writeln!(out, "    {variant}({branch}),");
            _ = writeln!(read, "{tag_type}::{variant} => Self::{variant}(visit::Object::take(members)?),");
            _ = writeln!(write, "Self::{variant}(branch) => visit::Object::put(branch, dict),");
        } else {
            _ = writeln!(out, "    {variant},");
            _ = writeln!(read, "{tag_type}::{variant} => Self::{variant},");
        }
    }
    if branches.len() < values.len() {
        write.push_str("_ => {}\n");
    }
    _ = writeln!(
        out,
        "}}
impl {branch_enum} {{
    /// The `{tag}` that goes with this.
    pub fn {}(&self) -> {tag_type} {{ match self {{ {tags} }} }}
    fn take_branch(tag: {tag_type}, members: &mut visit::Members<'_>) -> crate::Result<Self> {{
        Ok(match tag {{ {read} }})
    }}
    fn put_branch(&self, dict: &mut crate::Dict) {{
        match self {{ {write} }}
    }}
}}",
        snake(tag)
    );
    if plain {
        _ = writeln!(
            out,
            "impl visit::Object for {name} {{
    fn take(members: &mut visit::Members<'_>) -> crate::Result<Self> {{
        let tag = {};
        Self::take_branch(tag, members)
    }}
    fn put(&self, dict: &mut crate::Dict) {{
        visit::put(dict, {tag:?}, &self.{}());
        self.put_branch(dict);
    }}
}}",
            take(tag_member),
            snake(tag)
        );
    } else {
        union_struct(schema, out, ty, &common, tag_member, &branch_enum);
    }
    object_impls(out, name);
}

/// A union with more common members than the tag: a structure with one field for what depends on the tag.
fn union_struct(
    schema: &Schema,
    out: &mut String,
    ty: &Type,
    members: &[&Member],
    tag: &Member,
    branch_enum: &str,
) {
    let field = snake(&tag.name);
    let others: Vec<&Member> = members.iter().copied().filter(|m| m.name != tag.name).collect();
    doc(out, "", &ty.doc.text);
    _ = writeln!(out, "#[derive(Debug, Clone, PartialEq)]\npub struct {} {{", ty.name);
    fields(schema, out, ty, &others);
    doc(out, "    ", &member_doc(schema, ty, tag));
    _ = writeln!(
        out,
        "    pub {field}: {branch_enum},\n}}
impl visit::Object for {} {{
    fn take(members: &mut visit::Members<'_>) -> crate::Result<Self> {{",
        ty.name
    );
    for member in members {
        _ = writeln!(out, "let {} = {};", snake(&member.name), take(member));
    }
    _ = writeln!(out, "let {field} = {branch_enum}::take_branch({field}, members)?;\nOk(Self {{");
    for member in members {
        _ = writeln!(out, "{},", snake(&member.name));
    }
    out.push_str("})\n}\nfn put(&self, dict: &mut crate::Dict) {\n");
    for member in &others {
        put(out, member);
    }
    _ = writeln!(
        out,
        "visit::put(dict, {:?}, &self.{field}.{field}());\nself.{field}.put_branch(dict);\n}}\n}}",
        tag.name
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
