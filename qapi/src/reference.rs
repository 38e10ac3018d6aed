//! The schema as a page of documentation, `docs/qmp-reference.md`.

use std::fmt::Write;

use crate::schema::doc::Doc;
use crate::schema::{Args, Command, Event, Kind, Member, Passing, Schema, Type, TypeRef};

/// The page, in Markdown.
pub fn markdown(schema: &Schema) -> String {
    let mut page = Page { schema, out: String::new() };
    page.out.push_str(
        "# QMP reference\n\n\
         Made from `qapi/schema/*.json`; do not edit. To make it anew:\n\
         `cargo run -p qapi --bin qmp-reference > docs/qmp-reference.md`.\n\n\
         A `*` marks what may be absent. Commands and events other than `x-pliant-…` have the names, arguments and\n\
         answers of QEMU 10.0.2.\n",
    );
    for (index, module) in schema.modules.iter().enumerate() {
        _ = writeln!(page.out, "\n## {module}");
        schema.commands.iter().filter(|c| c.module == index).for_each(|c| page.command(c));
        schema.events.iter().filter(|e| e.module == index).for_each(|e| page.event(e));
        schema.types.iter().filter(|t| t.module == index).for_each(|t| page.ty(t));
    }
    page.out
}

struct Page<'a> {
    schema: &'a Schema,
    out: String,
}

impl Page<'_> {
    fn heading(&mut self, name: &str, what: &str, doc: &Doc) {
        _ = writeln!(self.out, "\n### `{name}` ({what})\n\n{}", doc.text);
    }

    fn command(&mut self, command: &Command) {
        self.heading(&command.name, "command", &command.doc);
        self.args(&command.args, &command.doc);
        if command.passing == Passing::Raw && command.args != Args::None {
            self.out.push_str("\nFurther arguments are allowed.\n");
        }
        if let Some(returns) = &command.returns {
            let text = command.doc.section("Returns").unwrap_or_default();
            _ = writeln!(self.out, "\nReturns {}. {text}", link(self.schema, returns));
        }
        if let Some(errors) = command.doc.section("Errors") {
            _ = writeln!(self.out, "\nErrors: {errors}");
        }
        let flags =
            [(command.allow_oob, "out of band"), (command.allow_preconfig, "before the machine exists")];
        let flags: Vec<_> = flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
        if !flags.is_empty() {
            _ = writeln!(self.out, "\nMay run {}.", flags.join(" and "));
        }
        self.features(&command.doc);
    }

    fn event(&mut self, event: &Event) {
        self.heading(&event.name, "event", &event.doc);
        self.args(&event.args, &event.doc);
        self.features(&event.doc);
    }

    fn ty(&mut self, ty: &Type) {
        match &ty.kind {
            Kind::Enum(values) => {
                self.heading(&ty.name, "enumeration", &ty.doc);
                self.out.push('\n');
                for value in values {
                    let text = ty.doc.member(&value.name).unwrap_or_default();
                    _ = writeln!(self.out, "- `{}`{}: {text}", value.name, tags(&value.features));
                }
            }
            Kind::Struct { base, members } => {
                self.heading(&ty.name, "object", &ty.doc);
                if let Some(base) = base {
                    let base = TypeRef { name: base.clone(), array: false };
                    _ = writeln!(self.out, "\nHas the members of {}, and:", link(self.schema, &base));
                }
                self.members(members, &ty.doc);
            }
            Kind::Union { members, tag, branches } => {
                self.heading(&ty.name, "union", &ty.doc);
                self.members(members, &ty.doc);
                self.out.push('\n');
                for (case, branch) in branches {
                    let branch = TypeRef { name: branch.clone(), array: false };
                    let branch = link(self.schema, &branch);
                    _ = writeln!(self.out, "- If `{tag}` is `{case}`: the members of {branch}");
                }
            }
            Kind::Alternate(types) => {
                self.heading(&ty.name, "alternate", &ty.doc);
                self.out.push('\n');
                for (name, case) in types {
                    let text = ty.doc.member(name).unwrap_or_default();
                    _ = writeln!(self.out, "- {}: {text}", link(self.schema, case));
                }
            }
        }
        self.features(&ty.doc);
    }

    fn args(&mut self, args: &Args, doc: &Doc) {
        match args {
            Args::None => {}
            Args::Inline(members) => self.members(members, doc),
            Args::Boxed(name) => {
                let ty = TypeRef { name: name.clone(), array: false };
                _ = writeln!(self.out, "\n- The members of {}", link(self.schema, &ty));
            }
        }
    }

    fn members(&mut self, members: &[Member], doc: &Doc) {
        if !members.is_empty() {
            self.out.push('\n');
        }
        for member in members {
            let star = if member.optional { "*" } else { "" };
            let text = doc.member(&member.name).unwrap_or_default();
            let ty = link(self.schema, &member.ty);
            _ = writeln!(self.out, "- `{star}{}`: {ty}{}. {text}", member.name, tags(&member.features));
        }
    }

    fn features(&mut self, doc: &Doc) {
        for (name, text) in &doc.features {
            _ = writeln!(self.out, "\nFeature `{name}`: {text}");
        }
    }
}

fn tags(features: &[String]) -> String {
    features.iter().map(|f| format!(" ({f})")).collect()
}

/// A type's name, with a link to its description if it has one.
fn link(schema: &Schema, ty: &TypeRef) -> String {
    let what = match schema.find(&ty.name).map(|t| &t.kind) {
        None => None,
        Some(Kind::Enum(_)) => Some("enumeration"),
        Some(Kind::Struct { .. }) => Some("object"),
        Some(Kind::Union { .. }) => Some("union"),
        Some(Kind::Alternate(_)) => Some("alternate"),
    };
    let name = match what {
        Some(what) => format!("[`{0}`](#{1}-{what})", ty.name, ty.name.to_lowercase()),
        None => format!("`{}`", ty.name),
    };
    if ty.array { format!("array of {name}") } else { name }
}
