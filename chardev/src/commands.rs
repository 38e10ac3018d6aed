//! The commands of `schema/chardev.json`.

use qapi::Result;
use qapi::commands::ChardevCommands;
use qapi::types;

use crate::options::BACKENDS;
use crate::ringbuf::DataFormat;
use crate::set::ChardevSet;

impl ChardevCommands for ChardevSet {
    fn query_chardev(&self) -> Result<Vec<types::ChardevInfo>> {
        let info = |c: crate::ChardevInfo| types::ChardevInfo {
            label: c.label,
            filename: c.filename,
            frontend_open: c.frontend_open,
        };
        Ok(self.list().into_iter().map(info).collect())
    }

    fn query_chardev_backends(&self) -> Result<Vec<types::ChardevBackendInfo>> {
        Ok(BACKENDS.iter().map(|name| types::ChardevBackendInfo { name: (*name).to_owned() }).collect())
    }

    fn ringbuf_write(&self, device: String, data: String, format: Option<types::DataFormat>) -> Result<()> {
        Self::ringbuf_write(self, &device, &data, data_format(format))
    }

    fn ringbuf_read(&self, device: String, size: i64, format: Option<types::DataFormat>) -> Result<String> {
        Self::ringbuf_read(self, &device, size, data_format(format))
    }

    fn chardev_remove(&self, id: String) -> Result<()> {
        self.remove(&id)
    }

    fn chardev_send_break(&self, id: String) -> Result<()> {
        self.find(&id)?.send_break();
        Ok(())
    }
}

fn data_format(format: Option<types::DataFormat>) -> DataFormat {
    match format {
        Some(types::DataFormat::Base64) => DataFormat::Base64,
        Some(types::DataFormat::Utf8) | None => DataFormat::Utf8,
    }
}
