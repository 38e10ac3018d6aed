//! Generates the Rust types, traits and dispatcher and the introspection text from `schema/*.json`.

#![expect(unreachable_pub, reason = "the schema's parser is a public module of the library, shared by path")]

#[path = "codegen/mod.rs"]
mod codegen;
#[path = "src/schema/mod.rs"]
mod schema;

use std::path::Path;
use std::{env, fs, process};

fn main() {
    for dir in ["schema", "codegen", "src/schema", "tests/schema", "build.rs"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    if let Err(error) = generate() {
        eprintln!("qapi schema: {error}");
        process::exit(1);
    }
}

fn generate() -> Result<(), String> {
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let write = |name: &str, text: &str| {
        fs::write(Path::new(&out).join(name), text).map_err(|e| format!("{name}: {e}"))
    };
    let schema = schema::Schema::load()?;
    write("generated.rs", &codegen::generate(&schema))?;
    write("introspection.json", &schema::introspect::text(&schema))?;
    write("echo.rs", &codegen::echo(&schema))?;
    // A schema that uses every construct, for the tests of the generated code.
    let text = fs::read_to_string("tests/schema/selftest.json").map_err(|e| e.to_string())?;
    let selftest = schema::load::load(&[("selftest", &text)])?;
    write("selftest.rs", &codegen::data(&selftest))
}
