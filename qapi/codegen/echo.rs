//! Generated handlers for tests of the dispatcher: every command fails with the arguments that it got.

use std::fmt::Write;

use super::super::schema::Schema;
use super::commands::{modules, signature};
use super::{camel, snake};

/// A type `Echo` that handles everything, and a function `handlers`.
pub(crate) fn echo(schema: &Schema) -> String {
    let mut out =
        String::from("/// Fails every command with the arguments that it got.\npub(super) struct Echo;\n");
    for (index, module) in modules(schema) {
        _ = writeln!(out, "impl crate::commands::{}Commands for Echo {{", camel(module));
        for command in schema.commands.iter().filter(|c| c.module == index) {
            let (parameters, returns) = signature(command, "crate::types::");
            let names: String = parameters.iter().map(|(name, _)| format!("{name}, ")).collect();
            let typed: String = parameters.iter().map(|(name, ty)| format!(", {name}: {ty}")).collect();
            _ = writeln!(
                out,
                "fn {}(&self{typed}) -> crate::Result<{returns}> {{
    Err(crate::Error::generic(format!(\"{{:?}}\", ({names}))))
}}",
                snake(&command.name)
            );
        }
        out.push_str("}\n");
    }
    out.push_str("pub(super) fn handlers() -> crate::Handlers<'static> {\n    crate::Handlers {\n");
    for (_, module) in modules(schema) {
        _ = writeln!(out, "        {}: &Echo,", snake(module));
    }
    out.push_str("    }\n}\n");
    out
}
