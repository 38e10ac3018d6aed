//! The queries of `tpm.json`: there are no trusted platform modules.

use qapi::Result;
use qapi::commands::TpmCommands;
use qapi::types::{TPMInfo, TpmModel, TpmType};

use super::MachineHandlers;

impl TpmCommands for MachineHandlers {
    fn query_tpm(&self) -> Result<Vec<TPMInfo>> {
        Ok(Vec::new())
    }

    fn query_tpm_models(&self) -> Result<Vec<TpmModel>> {
        Ok(Vec::new())
    }

    fn query_tpm_types(&self) -> Result<Vec<TpmType>> {
        Ok(Vec::new())
    }
}
