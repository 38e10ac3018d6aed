//! Character devices and monitors from the command line: `-chardev`, `-qmp`, `-monitor`, `-mon`, `-serial`.

use std::io::Write;
use std::sync::Arc;

use chardev::{Chardev, ChardevOptions, ChardevSet, Legacy, Notice, backend_help, parse_legacy};
use monitor::Monitors;
use qapi::{Error, Result};
use qom::options;

use crate::cli::{CommandLine, MonitorOption, Raw, short_form_warnings};
use crate::report::Reporter;

/// Makes devices and says what their making has to say.
pub(crate) struct Chars<'a> {
    pub(crate) set: &'a ChardevSet,
    pub(crate) report: &'a Reporter,
}

/// What the option that a device is made for has to say.
struct Owner<'a> {
    /// Its own sentence about a device that there is not.
    complaint: &'a dyn Fn() -> String,
    /// Whether it says so also when the device could not be opened, behind the device's own error.
    always: bool,
}

impl Chars<'_> {
    /// Every `-chardev`.
    ///
    /// # Errors
    /// QEMU's, with the option's prefix.
    pub(crate) fn chardevs(&self, raws: &[Raw]) -> Result<()> {
        let mut ids: Vec<&str> = Vec::new();
        let parsed: Vec<_> = raws.iter().map(|raw| (raw, raw.options("backend"))).collect();
        for (raw, list) in &parsed {
            if let Some(id) = list.get("id") {
                if ids.contains(&id) {
                    return Err(
                        Error::generic(format!("Duplicate ID '{id}' for chardev")).prefixed(&raw.prefix())
                    );
                }
                ids.push(id);
            }
        }
        for (raw, list) in &parsed {
            short_form_warnings(raw, list).iter().for_each(|w| self.report.line(w));
            let at = |e: Error| e.prefixed(&raw.prefix());
            let options = ChardevOptions::parse(&list.pairs).map_err(at)?;
            self.add(&options, &raw.prefix()).map_err(at)?;
        }
        Ok(())
    }

    /// Whether a `-chardev help` asks for the list.
    pub(crate) fn help(raws: &[Raw]) -> Option<String> {
        raws.iter().any(|raw| raw.options("backend").help).then(backend_help)
    }

    fn add(&self, options: &ChardevOptions, location: &str) -> Result<Arc<Chardev>> {
        self.set.add(options, &mut |notice| match notice {
            Notice::Redirected(text) => {
                // Nobody may be reading, which is no reason to stop.
                let _ = writeln!(std::io::stdout(), "{text}");
            }
            Notice::Waiting(text) => self.report.line(&format!("{location}{text}")),
        })
    }

    /// A device in the short form. `None` is `none`; the flag says that a monitor shares it (`mon:`).
    fn legacy(&self, label: &str, raw: &Raw, owner: &Owner<'_>) -> Result<Option<(Arc<Chardev>, bool)>> {
        let at = |e: Error| e.prefixed(&raw.prefix());
        let complain = |e: Option<Error>| {
            if let Some(e) = e {
                self.report.error(&at(e));
            }
            at(Error::generic((owner.complaint)()))
        };
        let unopened = |e: Error| if owner.always { complain(Some(e)) } else { at(e) };
        match parse_legacy(label, &raw.text).map_err(complain)? {
            Legacy::None => Ok(None),
            Legacy::Existing(id) => match self.set.get(&id) {
                Some(chardev) => Ok(Some((chardev, false))),
                None if owner.always => Err(complain(None)),
                None => Err(at(Error::generic(format!("chardev \"{id}\" not found")))),
            },
            Legacy::New(options) => Ok(Some((self.add(&options, &raw.prefix()).map_err(unopened)?, false))),
            Legacy::WithMonitor(options) => {
                Ok(Some((self.add(&options, &raw.prefix()).map_err(unopened)?, true)))
            }
        }
    }

    /// The device that `-qtest` names.
    ///
    /// # Errors
    /// QEMU's; of two lines the first is said here.
    pub(crate) fn qtest(&self, text: &str) -> Result<Arc<Chardev>> {
        let failed = || Error::generic(format!("Failed to initialize device for qtest: \"{text}\""));
        match parse_legacy("qtest", text) {
            Ok(Legacy::Existing(id)) => self.set.find(&id),
            Ok(Legacy::New(options) | Legacy::WithMonitor(options)) => self.add(&options, ""),
            Ok(Legacy::None) | Err(None) => Err(failed()),
            Err(Some(e)) => {
                self.report.error(&e);
                Err(failed())
            }
        }
    }

    /// Every monitor option, in order.
    ///
    /// # Errors
    /// QEMU's, with the option's prefix.
    pub(crate) fn monitors(&self, list: &[MonitorOption], monitors: &Monitors) -> Result<()> {
        let mut compat = 0;
        for option in list {
            match option {
                MonitorOption::Mon(raw) => self.mon(raw, monitors).map_err(|e| e.prefixed(&raw.prefix()))?,
                MonitorOption::Hmp(raw) | MonitorOption::Qmp(raw) | MonitorOption::QmpPretty(raw) => {
                    let label = format!("compat_monitor{compat}");
                    compat += 1;
                    let complaint = || format!("parse error: {}", raw.text);
                    let owner = Owner { complaint: &complaint, always: false };
                    let Some((chardev, _)) = self.legacy(&label, raw, &owner)? else {
                        if matches!(option, MonitorOption::Hmp(_)) {
                            continue;
                        }
                        // Only consoles can be `none`.
                        let text = format!("'{}' is not a valid char driver", raw.text);
                        self.report.error(&Error::generic(text).prefixed(&raw.prefix()));
                        return Err(Error::generic(complaint()).prefixed(&raw.prefix()));
                    };
                    match option {
                        MonitorOption::Hmp(_) => monitors.add_hmp(&chardev)?,
                        MonitorOption::QmpPretty(_) => monitors.add_qmp(&chardev, true)?,
                        _ => monitors.add_qmp(&chardev, false)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// `-mon [chardev=]ID[,mode=readline|control][,pretty=on|off]`
    fn mon(&self, raw: &Raw, monitors: &Monitors) -> Result<()> {
        let parsed = options::options(&raw.text, Some("chardev"));
        short_form_warnings(raw, &parsed).iter().for_each(|w| self.report.line(w));
        parsed.only(&["chardev", "mode", "pretty", "id"])?;
        let id = match parsed.get("chardev") {
            Some(id) => id,
            None if parsed.help => "help",
            None => return Err(Error::generic("Parameter 'chardev' is missing")),
        };
        let control = match parsed.get("mode") {
            None | Some("readline") => false,
            Some("control") => true,
            Some(mode) => {
                return Err(Error::generic(format!("Parameter 'mode' does not accept value '{mode}'")));
            }
        };
        let pretty = parsed.flag("pretty")?;
        let chardev =
            self.set.get(id).ok_or_else(|| Error::generic(format!("chardev \"{id}\" not found")))?;
        match (control, pretty) {
            (true, pretty) => monitors.add_qmp(&chardev, pretty.unwrap_or(false)),
            (false, Some(_)) => Err(Error::generic("'pretty' is not compatible with HMP monitors")),
            (false, None) => monitors.add_hmp(&chardev),
        }
    }

    /// Every `-serial`, and what there is without one. Gives the devices by port number.
    ///
    /// # Errors
    /// QEMU's.
    pub(crate) fn serials(
        &self,
        line: &CommandLine,
        monitors: &Monitors,
    ) -> Result<Vec<Option<Arc<Chardev>>>> {
        let terminal = [Raw { option: "-serial", text: "mon:stdio".into() }];
        let defaults = line.nographic && !line.no_defaults && line.serials.is_empty();
        let list: &[Raw] = if defaults { &terminal } else { &line.serials };
        let mut ports = Vec::new();
        for (i, raw) in list.iter().enumerate() {
            let complaint = || format!("could not connect serial device to character backend '{}'", raw.text);
            let owner = Owner { complaint: &complaint, always: true };
            let found = self.legacy(&format!("serial{i}"), raw, &owner)?;
            if let Some((chardev, true)) = &found {
                // Before the port takes its place on the mux: the last one attached has the terminal.
                monitors.add_hmp(chardev)?;
            }
            ports.push(found.map(|(chardev, _)| chardev));
        }
        Ok(ports)
    }
}
