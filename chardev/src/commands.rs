//! The commands of `schema/chardev.json`.

use qapi::commands::ChardevCommands;
use qapi::types;
use qapi::{Error, Result};

use crate::described;
use crate::device::Chardev;
use crate::options::{BACKENDS, Written, backend_help};
use crate::ringbuf::DataFormat;
use crate::set::{ChardevSet, Notice};

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

    fn chardev_add(&self, id: String, backend: types::ChardevBackend) -> Result<types::ChardevReturn> {
        self.check_free(&id)?;
        let added = described::options(&id, backend).and_then(|options| self.add(&options, &mut tell));
        added.map(|chardev| told(&chardev)).map_err(|error| error.prefixed(&not_added(&id)))
    }

    fn chardev_change(&self, id: String, backend: types::ChardevBackend) -> Result<types::ChardevReturn> {
        let used = self.may_change(&id)?;
        let changed = described::options(&id, backend).and_then(|options| self.change(&options, &mut tell));
        changed.map(|chardev| told(&chardev)).map_err(|error| {
            // What nobody uses is made anew.
            if used { error } else { error.prefixed(&not_added(&id)) }
        })
    }

    fn add_client(
        &self,
        protocol: String,
        fdname: String,
        _skipauth: Option<bool>,
        _tls: Option<bool>,
    ) -> Result<()> {
        // The name is used up whatever comes of it.
        let socket = self.fds().take(&fdname)?;
        rustix::net::sockopt::socket_type(&socket)
            .map_err(|_| Error::generic("parameter @fdname must name a socket"))?;
        let chardev =
            self.get(&protocol).ok_or_else(|| Error::generic(format!("protocol '{protocol}' is invalid")))?;
        if chardev.backend().add_client(socket) {
            Ok(())
        } else {
            Err(Error::generic("failed to add client"))
        }
    }

    fn x_pliant_chardev_add_text(&self, options: String) -> Result<types::HumanReadableText> {
        let list = qom::options::options(&options, Some("backend"));
        if list.get("backend").is_none() && list.help {
            return Ok(backend_help().into());
        }
        let written = written(&list)?;
        let taken = written.id.clone().filter(|id| self.get(id).is_some());
        let options = written.new_device()?;
        if let Some(id) = taken {
            // That is where QEMU's console finds it.
            let text = format!("attempt to add duplicate property '{id}' to object (type 'container')");
            return Err(Error::generic(text));
        }
        let mut text = String::new();
        self.add(&options, &mut |notice| collect(notice, &mut text))?;
        Ok(text.into())
    }

    fn x_pliant_chardev_change_text(&self, id: String, options: String) -> Result<types::HumanReadableText> {
        let written = written(&qom::options::options(&options, Some("backend")))?;
        if written.id.is_some() {
            return Err(Error::generic("Unexpected 'id' parameter"));
        }
        let options = written.into_options(id.clone())?;
        let used = self.may_change(&id)?;
        let mut text = String::new();
        match self.change(&options, &mut |notice| collect(notice, &mut text)) {
            Err(error) if !used => Err(error.prefixed(&not_added(&id))),
            changed => changed.map(|_| text.into()),
        }
    }

    fn chardev_send_break(&self, id: String) -> Result<()> {
        self.find(&id)?.send_break();
        Ok(())
    }
}

fn not_added(id: &str) -> String {
    format!("Failed to add chardev '{id}': ")
}

fn told(chardev: &Chardev) -> types::ChardevReturn {
    types::ChardevReturn { pty: chardev.pty_path().map(str::to_owned) }
}

/// The program is about to wait; the path of a terminal is in the reply.
fn tell(notice: Notice) {
    if let Notice::Waiting(text) = notice {
        tracing::warn!("{}", text.trim_start_matches("info: "));
    }
}

fn collect(notice: Notice, text: &mut String) {
    match notice {
        Notice::Redirected(line) => *text = line + "\n",
        waiting => tell(waiting),
    }
}

/// A list whose keys and values are sound. What is wrong is a hint to an error that says nothing, as on QEMU's console.
fn written(list: &qom::options::Options) -> Result<Written> {
    let failed = || Error::generic("Parsing chardev args failed");
    if list.help {
        return Err(failed());
    }
    Written::parse(&list.pairs).map_err(|error| {
        error.hint().iter().fold(failed().with_hint(error.desc()), |failed, hint| failed.with_hint(hint))
    })
}

fn data_format(format: Option<types::DataFormat>) -> DataFormat {
    match format {
        Some(types::DataFormat::Base64) => DataFormat::Base64,
        Some(types::DataFormat::Utf8) | None => DataFormat::Utf8,
    }
}
