//! `-fw_cfg`: files for the guest.

use std::fs;
use std::sync::Arc;

use hw::core::Machine;
use hw::isa::fw_cfg::FwCfg;
use qapi::{Error, Result};

use crate::cli::Raw;

/// Names that are not the program's own.
const USERS: &str = "opt/";
const GENERATOR: &str = "fw_cfg-data-generator";

/// Carries out one `-fw_cfg [name=]NAME,file=FILE|string=TEXT`.
///
/// # Errors
/// QEMU's, without the option's prefix.
pub(crate) fn add(raw: &Raw, machine: &Arc<Machine>) -> Result<()> {
    let device = FwCfg::of(machine).ok_or_else(|| Error::generic("fw_cfg device not available"))?;
    let options = raw.options("name");
    options.only(&["name", "file", "string", "gen_id"])?;
    let get = |key: &str| options.get(key).filter(|value| !value.is_empty());
    let (name, sources) = (get("name"), [get("file"), get("string"), get("gen_id")]);
    let (Some(name), 1) = (name, sources.iter().flatten().count()) else {
        return Err(Error::generic("name, plus exactly one of file, string and gen_id, are needed"));
    };
    FwCfg::check_name(name)?;
    let [file, text, generator] = sources;
    if let Some(id) = generator {
        // No object generates any.
        return Err(Error::generic(match machine.tree().absolute(&format!("/objects/{id}")) {
            Some(_) => format!("Object ID '{id}' is not a '{GENERATOR}' subclass"),
            None => format!("Cannot find object ID '{id}'"),
        }));
    }
    if !name.starts_with(USERS) {
        tracing::warn!("externally provided fw_cfg item names should be prefixed with \"{USERS}\"");
    }
    let bytes = match (file, text) {
        (Some(path), _) => fs::read(path).map_err(|e| {
            let why = qapi::strerror(&e);
            Error::generic(format!("can't load {path}: Failed to open file “{path}”: {why}"))
        })?,
        (None, text) => text.unwrap_or_default().as_bytes().to_vec(),
    };
    device.add_file(name, bytes)
}
