//! What a guest runs in: a process that is started here by its command line, or a domain of libvirt's. Boots and claims are of one kind or the other.

use std::fmt::Debug;

use super::linux::{Boot, Failure, Linux};
use super::{Images, Process};
use crate::Wire;

/// A machine with a guest's shell on its serial port.
pub trait Machine {
    /// The serial port.
    fn serial(&mut self) -> &mut Wire;

    /// How it was started: the first line of a report.
    fn origin(&mut self) -> String;

    /// What the VMM, and whoever started it, have to say when a claim has failed.
    fn last_words(&mut self) -> String;
}

/// A way to start machines.
pub trait Kind: Copy + Debug + 'static {
    /// What a machine is made of, beside kernel and initial file system.
    type Options: Copy + Debug + Send + Sync + 'static;
    /// Where machines of a job are started.
    type Ground<'g>: Copy;
    /// Where the guests run.
    type Machine<'g>: Machine;

    /// Boots a machine, to the shell.
    ///
    /// # Errors
    ///
    /// What the console and the VMM said, if the shell is not reached.
    fn start<'g>(
        ground: Self::Ground<'g>,
        images: &Images,
        line: &str,
        boot: &Boot<Self>,
    ) -> Result<Linux<Self::Machine<'g>>, Failure>;
}

/// Machines that are processes of this one, by their command lines.
#[derive(Debug, Clone, Copy)]
pub struct ByCommandLine;

impl Kind for ByCommandLine {
    /// The command line beyond kernel, initial file system, accelerator and CPU model, in parts; `$RUN` is the machine's own folder.
    type Options = &'static [&'static str];
    type Ground<'g> = ();
    type Machine<'g> = Process;

    fn start<'g>(
        _: Self::Ground<'g>,
        images: &Images,
        line: &str,
        boot: &Boot,
    ) -> Result<Linux<Self::Machine<'g>>, Failure> {
        Linux::start_on(&crate::program::path(), images, line, boot)
    }
}
