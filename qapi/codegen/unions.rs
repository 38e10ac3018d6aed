//! Generated unions: an enumeration with the members that depend on the tag, inside a structure if there are common
//! members besides the tag.

use std::fmt::Write;

use super::super::schema::{EnumValue, Kind, Member, Schema, Type};
use super::types::{fields, member_doc, object_impls, put, take};
use super::{camel, doc, snake};

/// What is known of a union.
struct Union<'a> {
    schema: &'a Schema,
    ty: &'a Type,
    /// The common members, the tag among them.
    members: &'a [Member],
    tag: &'a Member,
    tag_type: &'a Type,
    values: &'a [EnumValue],
    branches: &'a [(String, String)],
    /// Name of the generated enumeration.
    branch_enum: String,
}

/// A union type.
pub(super) fn generate(
    schema: &Schema,
    out: &mut String,
    ty: &Type,
    members: &[Member],
    tag: &str,
    branches: &[(String, String)],
) {
    let tag = members.iter().find(|m| m.name == tag).expect("the schema was checked");
    let tag_type = schema.find(&tag.ty.name).expect("the schema was checked");
    let Kind::Enum(values) = &tag_type.kind else { unreachable!("the schema was checked") };
    let only_tag = members.len() == 1;
    let branch_enum = if only_tag { ty.name.clone() } else { format!("{}{}", ty.name, camel(&tag.name)) };
    let union = Union { schema, ty, members, tag, tag_type, values, branches, branch_enum };
    union.enumeration(out, only_tag);
    if only_tag {
        union.object_of_tag(out);
    } else {
        union.structure(out);
    }
    object_impls(out, &ty.name);
}

impl Union<'_> {
    fn enumeration(&self, out: &mut String, only_tag: bool) {
        let (name, tag, tag_type) = (&self.branch_enum, &self.tag.name, &self.tag_type.name);
        if only_tag {
            doc(out, "", &self.ty.doc.text);
        } else {
            doc(out, "", &format!("What of [`{}`] depends on its `{tag}`.", self.ty.name));
        }
        _ = writeln!(out, "#[derive(Debug, Clone, PartialEq)]\npub enum {name} {{");
        let (mut read, mut write, mut tags) = (String::new(), String::new(), String::new());
        for value in self.values {
            let variant = camel(&value.name);
            doc(out, "    ", self.tag_type.doc.member(&value.name).unwrap_or_default());
            _ = writeln!(tags, "Self::{variant} {{ .. }} => {tag_type}::{variant},");
            if let Some((_, branch)) = self.branches.iter().find(|(case, _)| *case == value.name) {
                _ = writeln!(out, "    {variant}({branch}),");
                _ = writeln!(
                    read,
                    "{tag_type}::{variant} => Self::{variant}(visit::Object::take(members)?),"
                );
                _ = writeln!(write, "Self::{variant}(branch) => visit::Object::put(branch, dict),");
            } else {
                _ = writeln!(out, "    {variant},");
                _ = writeln!(read, "{tag_type}::{variant} => Self::{variant},");
                _ = writeln!(write, "Self::{variant} => {{}}");
            }
        }
        _ = writeln!(
            out,
            "}}
impl {name} {{
    /// The `{tag}` that goes with this.
    pub fn {}(&self) -> {tag_type} {{ match self {{ {tags} }} }}
    fn take_branch(tag: {tag_type}, members: &mut visit::Members<'_>) -> crate::Result<Self> {{
        Ok(match tag {{ {read} }})
    }}
    fn put_branch(&self, dict: &mut crate::Dict) {{ match self {{ {write} }} }}
}}",
            snake(tag)
        );
    }

    /// The enumeration is the whole union.
    fn object_of_tag(&self, out: &mut String) {
        _ = writeln!(
            out,
            "impl visit::Object for {} {{
    fn take(members: &mut visit::Members<'_>) -> crate::Result<Self> {{
        let tag = {};
        Self::take_branch(tag, members)
    }}
    fn put(&self, dict: &mut crate::Dict) {{
        visit::put(dict, {:?}, &self.{}());
        self.put_branch(dict);
    }}
}}",
            self.ty.name,
            take(self.tag),
            self.tag.name,
            snake(&self.tag.name)
        );
    }

    /// A structure whose field named like the tag is the enumeration.
    fn structure(&self, out: &mut String) {
        let (name, field) = (&self.ty.name, snake(&self.tag.name));
        let others: Vec<&Member> = self.members.iter().filter(|m| m.name != self.tag.name).collect();
        doc(out, "", &self.ty.doc.text);
        _ = writeln!(out, "#[derive(Debug, Clone, PartialEq)]\npub struct {name} {{");
        fields(self.schema, out, self.ty, &others);
        doc(out, "    ", &member_doc(self.schema, self.ty, self.tag));
        _ = writeln!(
            out,
            "    pub {field}: {},\n}}
impl visit::Object for {name} {{
    fn take(members: &mut visit::Members<'_>) -> crate::Result<Self> {{",
            self.branch_enum
        );
        for member in self.members {
            _ = writeln!(out, "let {} = {};", snake(&member.name), take(member));
        }
        _ = writeln!(out, "let {field} = {}::take_branch({field}, members)?;\nOk(Self {{", self.branch_enum);
        for member in self.members {
            _ = writeln!(out, "{},", snake(&member.name));
        }
        out.push_str("})\n}\nfn put(&self, dict: &mut crate::Dict) {\n");
        for member in &others {
            put(out, member);
        }
        _ = writeln!(
            out,
            "visit::put(dict, {:?}, &self.{field}.{field}());\nself.{field}.put_branch(dict);\n}}\n}}",
            self.tag.name
        );
    }
}
