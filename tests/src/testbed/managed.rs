//! A guest whose VMM libvirt starts: a domain of a libvirtd in the outer machine, with the guest's shell on the domain's console.

use std::time::Instant;

use super::Images;
use super::linux::{Boot, Failure, Linux, command_line, emulated};
use super::machine::{Kind, Machine};
use crate::Wire;
use crate::libvirt::{Domain, Node, Session};

/// A running domain; it is undefined when this value goes.
#[derive(Debug)]
pub struct Managed<'n> {
    session: Session<'n>,
    console: Wire,
}

impl<'n> Managed<'n> {
    /// The domain.
    pub fn session(&mut self) -> &mut Session<'n> {
        &mut self.session
    }

    /// The console of the domain that was started again has another terminal.
    pub fn finds_its_console(&mut self) {
        self.console = self.session.terminal();
    }
}

impl Machine for Managed<'_> {
    fn serial(&mut self) -> &mut Wire {
        &mut self.console
    }

    fn origin(&mut self) -> String {
        self.session.domain.xml()
    }

    fn last_words(&mut self) -> String {
        let node = self.session.node;
        let words = |lines: Vec<String>| lines.join("\n");
        format!(
            "{}\n--- libvirtd's errors\n{}\n--- its last words with the VMM\n{}",
            node.domain_logs(),
            words(node.errors()),
            words(node.traffic(60))
        )
    }
}

impl Drop for Managed<'_> {
    fn drop(&mut self) {
        // Whatever it came to: it may have ended, and need not be there any more.
        let name = self.session.domain.name();
        for command in [&["destroy", name][..], &["undefine", name, "--managed-save"]] {
            self.session.node.try_virsh(command);
        }
    }
}

/// Machines that are libvirt's domains.
#[derive(Debug, Clone, Copy)]
pub struct ByLibvirt;

impl Kind for ByLibvirt {
    type Options = fn() -> Domain;
    type Ground<'g> = &'g Node<'g>;
    type Machine<'g> = Managed<'g>;

    fn start<'g>(
        node: Self::Ground<'g>,
        images: &Images,
        line: &str,
        boot: &Boot<Self>,
    ) -> Result<Linux<Self::Machine<'g>>, Failure> {
        let append = command_line(images, boot.append);
        let mut domain = (boot.options)().boots(&images.kernel(line), &images.initrd(line), &append);
        if emulated() {
            domain = domain.emulated();
        }
        let started = Instant::now();
        let mut session = Session::new(node, domain);
        session.virsh("start", &["--paused"]);
        session.events.expect(&["lifecycle", "Started Booted"]);
        // What is said before somebody listens is lost.
        let console = session.terminal();
        session.virsh("resume", &[]);
        Linux::boots(Managed { session, console }, images, line, started)
    }
}
