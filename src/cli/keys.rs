//! Which keys the small option lists take: what `-msg help` or `-name x,help` print.
//!
//! Only lists whose keys are known beforehand are here; devices, objects and machines describe themselves.

use std::fmt::Write;

use super::Raw;

/// One option list.
pub(crate) struct List {
    pub(crate) option: &'static str,
    /// What QEMU calls the list.
    pub(crate) name: &'static str,
    /// Whether a first word without `=` is a value, so that `help` there is one too.
    implied: bool,
    /// Key, type and, if there is one, a sentence; by name.
    pub(crate) keys: &'static [(&'static str, &'static str, &'static str)],
}

pub(crate) const SWITCH: &str = "bool (on/off)";

/// All of them.
pub(crate) const LISTS: &[List] = &[
    List {
        option: "-action",
        name: "action",
        implied: false,
        keys: &[
            ("panic", "str", ""),
            ("reboot", "str", ""),
            ("shutdown", "str", ""),
            ("watchdog", "str", ""),
        ],
    },
    List {
        option: "-add-fd",
        name: "add-fd",
        implied: false,
        keys: &[
            ("fd", "num", "file descriptor of which a duplicate is added to fd set"),
            ("opaque", "str", "free-form string used to describe fd"),
            ("set", "num", "ID of the fd set to add fd to"),
        ],
    },
    List {
        option: "-boot",
        name: "boot-opts",
        // It is, but no letters of devices.
        implied: false,
        keys: &[
            ("menu", SWITCH, ""),
            ("once", "str", ""),
            ("order", "str", ""),
            ("reboot-timeout", "num", ""),
            ("splash-time", "num", ""),
            ("splash", "str", ""),
            ("strict", SWITCH, ""),
        ],
    },
    List {
        option: "-fw_cfg",
        name: "fw_cfg",
        implied: true,
        keys: &[
            ("file", "str", "Sets the name of the file from which the fw_cfg blob will be loaded"),
            ("gen_id", "str", "Sets id of the object generating the fw_cfg blob to be inserted"),
            ("name", "str", "Sets the fw_cfg name of the blob to be inserted"),
            ("string", "str", "Sets content of the blob to be inserted from a string"),
        ],
    },
    List {
        option: "-global",
        name: "global",
        implied: false,
        keys: &[("driver", "str", ""), ("property", "str", ""), ("value", "str", "")],
    },
    List {
        option: "-m",
        name: "memory",
        implied: true,
        keys: &[("maxmem", "size", ""), ("size", "size", ""), ("slots", "num", "")],
    },
    List {
        option: "-mon",
        name: "mon",
        implied: true,
        keys: &[("chardev", "str", ""), ("mode", "str", ""), ("pretty", SWITCH, "")],
    },
    List {
        option: "-msg",
        name: "msg",
        implied: false,
        keys: &[
            (
                "guest-name",
                SWITCH,
                "Prepends guest name for error messages but only if -name guest is set otherwise option is ignored\n",
            ),
            ("timestamp", SWITCH, ""),
        ],
    },
    List {
        option: "-name",
        name: "name",
        implied: true,
        keys: &[
            ("debug-threads", SWITCH, "Accepted; threads are always named."),
            ("guest", "str", "Sets the name of the guest."),
            ("process", "str", "Sets the name of the process, as shown in top etc"),
        ],
    },
    List {
        option: "-overcommit",
        name: "overcommit",
        implied: false,
        keys: &[("cpu-pm", SWITCH, ""), ("mem-lock", "str", "")],
    },
    List {
        option: "-rtc",
        name: "rtc",
        implied: false,
        keys: &[("base", "str", ""), ("clock", "str", ""), ("driftfix", "str", "")],
    },
    List {
        option: "-sandbox",
        name: "sandbox",
        implied: true,
        keys: &[
            ("elevateprivileges", "str", ""),
            ("enable", SWITCH, ""),
            ("obsolete", "str", ""),
            ("resourcecontrol", "str", ""),
            ("spawn", "str", ""),
        ],
    },
    List {
        option: "-trace",
        name: "trace",
        implied: true,
        keys: &[("enable", "str", ""), ("events", "str", ""), ("file", "str", "")],
    },
];

/// The list of keys, if `raw` asks for it.
pub(super) fn help(raw: &Raw) -> Option<String> {
    let list = LISTS.iter().find(|list| list.option == raw.option)?;
    let mut words = raw.text.split(',');
    if list.implied {
        words.next();
    }
    words.any(|word| word == "help" || word == "?").then(|| {
        let mut out = format!("{} options:\n", list.name);
        for (key, kind, text) in list.keys {
            let head = format!("  {key}=<{kind}>");
            // Writing to a String cannot fail.
            let _ =
                if text.is_empty() { writeln!(out, "{head}") } else { writeln!(out, "{head:<24} - {text}") };
        }
        out
    })
}
