//! The commands of `input.json`.

use qapi::commands::InputCommands;
use qapi::types::{KeyValue, MouseInfo, QKeyCode};
use qapi::{Error, Result};

use super::Input;
use crate::commands::MachineHandlers;
use crate::isa::ps2::codes;

/// Milliseconds between keys if nothing is said. QEMU's documentation says 100; it waits so long.
const HOLD: u32 = 10;

impl InputCommands for MachineHandlers {
    fn send_key(&self, keys: Vec<KeyValue>, hold_time: Option<i64>) -> Result<()> {
        let wrong =
            |_| Error::generic(format!("Parameter 'hold-time' expects a value between 0 and {}", u32::MAX));
        let hold = u32::try_from(hold_time.unwrap_or_default()).map_err(wrong)?;
        let keys: Vec<QKeyCode> = keys.iter().map(code).collect();
        let hold = if hold == 0 { HOLD } else { hold };
        Input::of(self.machine()).send_keys(self.machine(), &keys, hold)
    }

    fn query_mice(&self) -> Result<Vec<MouseInfo>> {
        Ok(Input::of(self.machine()).mice())
    }
}

fn code(key: &KeyValue) -> QKeyCode {
    match key {
        KeyValue::Qcode(name) => name.data,
        KeyValue::Number(number) => codes::of_number(number.data).unwrap_or(QKeyCode::Unmapped),
    }
}
