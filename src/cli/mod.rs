//! The command line: words into one [`CommandLine`], with QEMU's option names and complaints.
//!
//! This module knows the grammar and which options exist; what they mean is decided where the virtual machine
//! is put together. Options that pliant does not have are refused, never ignored.

pub(crate) mod keys;
pub(crate) mod table;

use qapi::{Error, Result};

use qom::options::{Options, Pairs, keyval, options};
pub(crate) use table::usage;
use table::{Arg, absent, can_be_none, lookup};

/// An option's argument as it was written, to be parsed when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    /// `-device`
    pub(crate) option: &'static str,
    /// `virtio-mem-pci,id=vm0`
    pub(crate) text: String,
}

impl Raw {
    /// What stands before an error about it: `-device virtio-mem-pci,id=vm0: `.
    pub(crate) fn prefix(&self) -> String {
        format!("{} {}: ", self.option, self.text)
    }

    /// Whether the argument is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.text.starts_with('{')
    }

    /// The argument as an option list.
    pub(crate) fn options(&self, implied: impl Into<Option<&'static str>>) -> Options {
        options(&self.text, implied.into())
    }
}

/// What to do instead of starting a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Info {
    /// `-help`
    Usage,
    /// `-version`
    Version,
    /// `help` among the keys of an option whose keys are fixed: the list, and the status of a command line that is wrong.
    Keys(String),
}

/// Where a monitor goes and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MonitorOption {
    /// `-monitor DEV`
    Hmp(Raw),
    /// `-qmp DEV`
    Qmp(Raw),
    /// `-qmp-pretty DEV`
    QmpPretty(Raw),
    /// `-mon OPTIONS`
    Mon(Raw),
}

/// Everything the command line said, in the order that matters.
#[derive(Debug, Default)]
pub(crate) struct CommandLine {
    pub(crate) machine: Pairs,
    pub(crate) machine_help: bool,
    pub(crate) accel: Vec<Raw>,
    pub(crate) memory: Option<Raw>,
    pub(crate) smp: Pairs,
    pub(crate) smp_help: bool,
    pub(crate) cpu: Option<String>,
    pub(crate) numa: Vec<Raw>,
    pub(crate) objects: Vec<Raw>,
    pub(crate) devices: Vec<Raw>,
    pub(crate) globals: Vec<Raw>,
    pub(crate) fw_cfg: Vec<Raw>,
    pub(crate) name: Option<Raw>,
    pub(crate) uuid: Option<Raw>,
    /// How many of `smbios` came before it.
    pub(crate) uuid_at: usize,
    pub(crate) smbios: Vec<Raw>,
    pub(crate) rtc: Vec<Raw>,
    pub(crate) boot: Vec<Raw>,
    pub(crate) stopped: bool,
    pub(crate) no_defaults: bool,
    pub(crate) nographic: bool,
    pub(crate) display: Option<Raw>,
    pub(crate) audio: Vec<Raw>,
    pub(crate) audio_devices: Vec<Raw>,
    /// `-action` and what is short for it: the option, and the list of `-action` that it stands for.
    pub(crate) actions: Vec<(Raw, String)>,
    pub(crate) overcommit: Vec<Raw>,
    pub(crate) sandbox: Vec<Raw>,
    pub(crate) incoming: Option<Raw>,
    pub(crate) mem_prealloc: bool,
    pub(crate) add_fds: Vec<Raw>,
    pub(crate) chardevs: Vec<Raw>,
    pub(crate) netdevs: Vec<Raw>,
    pub(crate) monitors: Vec<MonitorOption>,
    pub(crate) serials: Vec<Raw>,
    pub(crate) qtest: Option<String>,
    pub(crate) qtest_log: Option<String>,
    pub(crate) daemonize: bool,
    pub(crate) pidfile: Option<String>,
    pub(crate) dump_vmstate: Option<Raw>,
    pub(crate) log_file: Option<String>,
    pub(crate) log_items: Option<String>,
    pub(crate) trace: Vec<Raw>,
    pub(crate) timestamp: bool,
    pub(crate) msg_guest_name: bool,
    pub(crate) info: Option<Info>,
    /// Lines to print before going on (deprecated short forms).
    pub(crate) warnings: Vec<String>,
}

/// The name of the option that a word is, without its dashes: two are as good as one.
pub(crate) fn option_name(word: &str) -> Option<&str> {
    let bare = word.strip_prefix('-')?;
    Some(bare.strip_prefix('-').unwrap_or(bare))
}

impl CommandLine {
    /// Parses the words after the program's name.
    ///
    /// # Errors
    /// The first mistake, its option named in the text.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut line = Self::default();
        // Options are looked up first and carried out then, so that a misspelt one is found before another asks for help.
        for (option, argument) in Self::split(words.into_iter())? {
            line.take(option, argument)?;
            if line.info.is_some() {
                break;
            }
        }
        // Without defaults nothing of it goes to the terminal.
        if line.daemonize && line.nographic && !line.no_defaults {
            return Err(Error::generic("-nographic cannot be used with -daemonize"));
        }
        Ok(line)
    }

    /// Options in canonical spelling with their arguments.
    fn split(words: impl Iterator<Item = String>) -> Result<Vec<(&'static str, String)>> {
        let (mut list, mut words) = (Vec::new(), words.peekable());
        while let Some(word) = words.next() {
            let Some(name) = option_name(&word) else {
                // QEMU takes a lone word for a disk image. Disks are not here yet, so neither is the guess.
                return Err(Error::generic(format!(
                    "{word}: disk images are not supported, and this is no option"
                )));
            };
            let Some(option) = lookup(name) else {
                if can_be_none(name) && words.next_if(|value| value == "none").is_some() {
                    continue;
                }
                return Err(Error::generic(match absent(name) {
                    Some(why) => format!("{word} is not supported: {why}"),
                    None => format!("{word}: invalid option"),
                }));
            };
            let argument = match option.arg {
                Arg::None => String::new(),
                Arg::Required => {
                    words.next().ok_or_else(|| Error::generic(format!("{word}: requires an argument")))?
                }
            };
            list.push((option.name, argument));
        }
        Ok(list)
    }

    fn take(&mut self, option: &'static str, text: String) -> Result<()> {
        let raw = Raw { option, text: text.clone() };
        if let Some(keys) = keys::help(&raw) {
            self.info = Some(Info::Keys(keys));
            return Ok(());
        }
        match option {
            "-machine" => {
                let parsed = keyval(&text, Some("type")).map_err(|e| e.prefixed(&raw.prefix()))?;
                self.machine_help |= parsed.help;
                // `-smp 2` is short for `-machine smp.cpus=2`.
                let (smp, own): (Pairs, Pairs) =
                    parsed.pairs.into_iter().partition(|(key, _)| key.starts_with("smp."));
                merge(&mut self.machine, own);
                let bare = |(key, value): (String, String)| (key["smp.".len()..].to_owned(), value);
                merge(&mut self.smp, smp.into_iter().map(bare).collect());
            }
            "-smp" => {
                let parsed = keyval(&text, Some("cpus")).map_err(|e| e.prefixed(&raw.prefix()))?;
                self.smp_help |= parsed.help;
                merge(&mut self.smp, parsed.pairs);
            }
            "-accel" => self.accel.push(raw),
            "-m" => self.memory = Some(raw),
            "-cpu" => self.cpu = Some(text),
            "-numa" => self.numa.push(raw),
            "-object" => self.objects.push(raw),
            "-device" => self.devices.push(raw),
            "-global" => self.globals.push(raw),
            "-fw_cfg" => self.fw_cfg.push(raw),
            "-name" => self.name = Some(raw),
            "-uuid" => (self.uuid, self.uuid_at) = (Some(raw), self.smbios.len()),
            "-smbios" => {
                self.warnings.extend(short_form_warnings(&raw, &raw.options(None)));
                self.smbios.push(raw);
            }
            "-rtc" => {
                self.warnings.extend(short_form_warnings(&raw, &raw.options(None)));
                self.rtc.push(raw);
            }
            // Short for a property of the machine.
            "-kernel" | "-initrd" | "-append" | "-dtb" => {
                merge(&mut self.machine, vec![(option[1..].to_owned(), text)]);
            }
            "-bios" => merge(&mut self.machine, vec![("firmware".to_owned(), text)]),
            "-S" => self.stopped = true,
            "-nodefaults" => self.no_defaults = true,
            // There are no configuration files to leave unread.
            "-no-user-config" => {}
            "-nographic" => self.nographic = true,
            "-display" => self.display = Some(raw),
            "-audio" => self.audio.push(raw),
            "-audiodev" => self.audio_devices.push(raw),
            "-boot" => self.boot.push(raw),
            "-no-reboot" => self.actions.push((raw, "reboot=shutdown".to_owned())),
            "-no-shutdown" => self.actions.push((raw, "shutdown=pause".to_owned())),
            "-watchdog-action" => self.actions.push((raw, format!("watchdog={text}"))),
            "-action" => {
                self.warnings.extend(short_form_warnings(&raw, &raw.options(None)));
                self.actions.push((raw, text));
            }
            "-overcommit" => {
                self.warnings.extend(short_form_warnings(&raw, &raw.options(None)));
                self.overcommit.push(raw);
            }
            "-sandbox" => {
                self.warnings.extend(short_form_warnings(&raw, &raw.options("enable")));
                self.sandbox.push(raw);
            }
            "-incoming" => self.incoming = Some(raw),
            "-mem-prealloc" => self.mem_prealloc = true,
            "-add-fd" => self.add_fds.push(raw),
            "-chardev" => self.chardevs.push(raw),
            "-netdev" => self.netdevs.push(raw),
            "-monitor" => self.monitors.push(MonitorOption::Hmp(raw)),
            "-qmp" => self.monitors.push(MonitorOption::Qmp(raw)),
            "-qmp-pretty" => self.monitors.push(MonitorOption::QmpPretty(raw)),
            "-mon" => self.monitors.push(MonitorOption::Mon(raw)),
            "-serial" => self.serials.push(raw),
            "-qtest" => self.qtest = Some(text),
            "-qtest-log" => self.qtest_log = Some(text),
            "-daemonize" => self.daemonize = true,
            "-pidfile" => self.pidfile = Some(text),
            "-dump-vmstate" => {
                if self.dump_vmstate.is_some() {
                    let only = "only one '-dump-vmstate' option may be given";
                    return Err(Error::generic(only).prefixed(&raw.prefix()));
                }
                self.dump_vmstate = Some(raw);
            }
            "-D" => self.log_file = Some(text),
            "-d" => self.log_items = Some(text),
            "-trace" => self.trace.push(raw),
            "-msg" => self.message_format(&raw)?,
            "-version" => self.info = Some(Info::Version),
            "-h" => self.info = Some(Info::Usage),
            // The table and this match are two lists of one fact; the test below holds them together.
            other => return Err(Error::generic(format!("{other}: invalid option"))),
        }
        Ok(())
    }

    fn message_format(&mut self, raw: &Raw) -> Result<()> {
        let prefix = raw.prefix();
        let parsed = raw.options(None);
        self.warnings.extend(short_form_warnings(raw, &parsed));
        let at = |e: Error| e.prefixed(&prefix);
        parsed.only(&["timestamp", "guest-name"]).map_err(at)?;
        // Each option says all of it: what is left out is off.
        self.timestamp = parsed.flag("timestamp").map_err(at)? == Some(true);
        self.msg_guest_name = parsed.flag("guest-name").map_err(at)? == Some(true);
        Ok(())
    }
}

/// QEMU's complaint about `server` for `server=on`, a warning and a line of advice.
pub(crate) fn short_form_warnings(raw: &Raw, parsed: &Options) -> Vec<String> {
    parsed
        .short_form
        .iter()
        .map(|(word, full)| {
            format!(
                "{}warning: short-form boolean option '{word}' deprecated\nPlease use {full} instead",
                raw.prefix()
            )
        })
        .collect()
}

fn merge(into: &mut Pairs, pairs: Pairs) {
    for (key, value) in pairs {
        match into.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => into.push((key, value)),
        }
    }
}

#[cfg(test)]
mod tests;
