//! Disks that the program itself serves, jobs on them, and trusted platform modules: there are none of these.

use super::command::{Command, command};

/// `info` sub-commands of this room. Each asks the query behind it.
pub(super) const INFOS: &[Command] = &[
    command("block-jobs", &[], "", "show progress of ongoing block device operations", &[], |x, _| {
        x.query("query-block-jobs").map(|_| "No active jobs\n".to_owned())
    }),
    command("blockstats", &[], "", "show block device statistics", &[], |x, _| {
        x.query("query-blockstats").map(|_| String::new())
    }),
    command("tpm", &[], "", "show the TPM device", &[], |x, _| x.query("query-tpm").map(|_| String::new())),
];
