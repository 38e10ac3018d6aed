//! Generated events, handler traits and dispatcher.

use std::fmt::Write;

use super::super::schema::{Args, Command, Event, Member, Passing, Schema};
use super::{camel, doc, member_type, rust_type, snake};

/// Most arguments of a handler; beyond, the schema says `boxed`.
const MAX_ARGUMENTS: usize = 6;

/// Where the generated types are, seen from the generated modules beside them.
const TYPES: &str = "super::types::";

/// The module `events`.
pub(super) fn events(schema: &Schema, out: &mut String) {
    out.push_str(
        "/// Events of the schema.\npub mod events {\n
/// Something that happened, as clients are told.\n#[derive(Debug, Clone, PartialEq)]\npub enum Event {\n",
    );
    let (mut names, mut data) = (String::new(), String::new());
    for event in &schema.events {
        event_variant(out, &mut names, &mut data, event);
    }
    _ = writeln!(
        out,
        "}}
impl Event {{
    /// Its name on the wire.
    pub fn name(&self) -> &'static str {{ match self {{ {names} }} }}
    /// Its `data`; `None` for events that have none.
    pub fn data(&self) -> Option<crate::Dict> {{
        let mut dict = crate::Dict::new();
        match self {{ {data} }}
        Some(dict)
    }}
}}
}}"
    );
}

fn event_variant(out: &mut String, names: &mut String, data: &mut String, event: &Event) {
    let variant = camel(&event.name);
    doc(out, "    ", &event.doc.text);
    _ = writeln!(names, "Self::{variant} {{ .. }} => {:?},", event.name);
    match &event.args {
        Args::None => {
            _ = writeln!(out, "    {variant},");
            _ = writeln!(data, "Self::{variant} => return None,");
        }
        Args::Boxed(name) => {
            _ = writeln!(out, "    {variant}(super::types::{name}),");
            _ = writeln!(data, "Self::{variant}(data) => crate::visit::Object::put(data, &mut dict),");
        }
        Args::Inline(members) => {
            _ = writeln!(out, "    {variant} {{");
            let fields: Vec<String> = members.iter().map(|m| snake(&m.name)).collect();
            _ = writeln!(data, "Self::{variant} {{ {} }} => {{", fields.join(", "));
            for member in members {
                doc(out, "        ", event.doc.member(&member.name).unwrap_or_default());
                let field = snake(&member.name);
                _ = writeln!(out, "        {field}: {},", member_type(member, TYPES));
                let put = if member.optional { "put_optional" } else { "put" };
                _ = writeln!(data, "crate::visit::{put}(&mut dict, {:?}, {field});", member.name);
            }
            out.push_str("    },\n");
            data.push_str("}\n");
        }
    }
}

/// Index and name of the modules that have commands.
pub(super) fn modules(schema: &Schema) -> Vec<(usize, &String)> {
    let has_commands = |i: usize| schema.commands.iter().any(|c| c.module == i);
    schema.modules.iter().enumerate().filter(|(i, _)| has_commands(*i)).collect()
}

/// The module `commands`.
pub(super) fn generate(schema: &Schema, out: &mut String) {
    out.push_str("/// Handler traits and dispatcher of the schema's commands.\npub mod commands {\n");
    let modules = modules(schema);
    for &(index, name) in &modules {
        _ = writeln!(
            out,
            "/// Handlers of the commands of `schema/{name}.json`.\npub trait {}Commands {{",
            camel(name)
        );
        for command in schema.commands.iter().filter(|c| c.module == index) {
            method(out, command);
        }
        out.push_str("}\n");
    }
    out.push_str(
        "/// Who handles the commands of each module.\n#[derive(Clone, Copy)]\npub struct Handlers<'a> {\n",
    );
    for (_, name) in &modules {
        _ = writeln!(out, "    /// Handles those of `schema/{name}.json`.");
        _ = writeln!(out, "    pub {}: &'a dyn {}Commands,", snake(name), camel(name));
    }
    out.push_str("}\n");
    table(schema, out);
}

fn method(out: &mut String, command: &Command) {
    let d = &command.doc;
    doc(out, "    ", &format!("`{}`: {}", command.name, d.text));
    if !d.members.is_empty() {
        doc(out, "    ", "\n# Arguments");
        for (name, text) in &d.members {
            doc(out, "    ", &format!("- `{}`: {text}", snake(name)));
        }
    }
    if let Some(text) = d.section("Returns") {
        doc(out, "    ", &format!("\n# Returns\n{text}"));
    }
    let errors = d.section("Errors").unwrap_or("Whatever keeps it from being done.");
    doc(out, "    ", &format!("\n# Errors\n{errors}"));
    let (parameters, returns) = signature(command, TYPES);
    let parameters: String = parameters.iter().map(|(name, ty)| format!(", {name}: {ty}")).collect();
    _ = writeln!(out, "    fn {}(&self{parameters}) -> crate::Result<{returns}>;", snake(&command.name));
}

/// Names and types of a handler's parameters, and the type of what it returns.
pub(super) fn signature(command: &Command, types: &str) -> (Vec<(String, String)>, String) {
    let arguments = || "arguments".to_owned();
    let parameters = match (&command.args, command.passing) {
        (_, Passing::Raw | Passing::Checked) => vec![(arguments(), "crate::Dict".to_owned())],
        (Args::None, _) => Vec::new(),
        (Args::Boxed(name), _) => vec![(arguments(), format!("{types}{name}"))],
        (Args::Inline(members), _) => {
            assert!(members.len() <= MAX_ARGUMENTS, "{}: too many arguments, use 'boxed'", command.name);
            members.iter().map(|m| (snake(&m.name), member_type(m, types))).collect()
        }
    };
    let returns = if command.passing == Passing::Raw && command.returns.is_some() {
        // What `gen: false` takes and gives is the handler's own affair.
        "crate::Value".to_owned()
    } else {
        command.returns.as_ref().map_or("()".to_owned(), |ty| rust_type(ty, types))
    };
    (parameters, returns)
}

/// The table of commands, sorted by name, each with the function that reads its arguments and calls its handler.
fn table(schema: &Schema, out: &mut String) {
    let mut sorted: Vec<&Command> = schema.commands.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    _ = writeln!(
        out,
        "/// All commands, sorted by name.
pub static COMMANDS: [crate::dispatch::CommandInfo; {}] = [",
        sorted.len()
    );
    for command in sorted {
        _ = writeln!(
            out,
            "    crate::dispatch::CommandInfo {{ name: {:?}, allow_oob: {}, allow_preconfig: {}, \
             success_response: {}, run: {} }},",
            command.name,
            command.allow_oob,
            command.allow_preconfig,
            command.success_response,
            snake(&command.name)
        );
    }
    out.push_str("];\n");
    for command in &schema.commands {
        marshal(schema, out, command);
    }
    out.push_str("}\n");
}

fn marshal(schema: &Schema, out: &mut String, command: &Command) {
    let function = snake(&command.name);
    let handler = snake(&schema.modules[command.module]);
    _ = writeln!(
        out,
        "fn {function}(handlers: &Handlers<'_>, arguments: crate::Dict) -> crate::Result<crate::Value> {{"
    );
    let read = "let mut members = crate::visit::Members::new(arguments, &crate::visit::Path::ROOT);";
    let mut call = String::new();
    match (&command.args, command.passing) {
        (_, Passing::Raw) => call.push_str("arguments"),
        (Args::None, _) => _ = writeln!(out, "crate::dispatch::no_arguments(arguments)?;"),
        (Args::Boxed(name), passing) => {
            let (binding, passed) = match passing {
                Passing::Checked => ("_", "arguments"),
                _ => ("typed", "typed"),
            };
            let source = if passing == Passing::Checked {
                read.replace("arguments,", "arguments.clone(),")
            } else {
                read.to_owned()
            };
            _ = writeln!(
                out,
                "{source}\nlet {binding} = <super::types::{name} as crate::visit::Object>::take(&mut members)?;\nmembers.finish()?;"
            );
            call.push_str(passed);
        }
        (Args::Inline(members), Passing::Checked) => {
            _ = writeln!(out, "{}", read.replace("arguments,", "arguments.clone(),"));
            for member in members {
                _ = writeln!(out, "let _: {} = {};", member_type(member, TYPES), take(member));
            }
            out.push_str("members.finish()?;\n");
            call.push_str("arguments");
        }
        (Args::Inline(members), Passing::Typed) => {
            _ = writeln!(out, "{read}");
            for member in members {
                _ = writeln!(out, "let {} = {};", snake(&member.name), take(member));
            }
            out.push_str("members.finish()?;\n");
            call = members.iter().map(|m| snake(&m.name)).collect::<Vec<_>>().join(", ");
        }
    }
    match (&command.returns, command.passing) {
        (None, _) => {
            _ = writeln!(
                out,
                "handlers.{handler}.{function}({call})?;\nOk(crate::Value::Dict(crate::Dict::new()))\n}}"
            )
        }
        (Some(_), Passing::Raw) => _ = writeln!(out, "handlers.{handler}.{function}({call})\n}}"),
        (Some(_), _) => {
            _ = writeln!(
                out,
                "let result = handlers.{handler}.{function}({call})?;\nOk(crate::visit::ToValue::to_value(&result))\n}}"
            )
        }
    }
}

fn take(member: &Member) -> String {
    format!("members.{}({:?})?", if member.optional { "optional" } else { "required" }, member.name)
}
