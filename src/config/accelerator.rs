//! `-accel`, `-machine accel=` and `-machine kernel-irqchip=`: what runs the vCPUs.

use accel::AccelSpec;
use qapi::{Error, Result};
use qom::options;

use crate::cli::CommandLine;

/// Accelerators asked for, by `-accel` or `-machine accel=`.
///
/// # Errors
/// QEMU's, if by both.
pub(crate) fn specs(line: &CommandLine) -> Result<Vec<AccelSpec>> {
    let from_machine = options::value(&line.machine, "accel");
    let mut specs = match (from_machine, line.accel.is_empty()) {
        (Some(_), false) => {
            Err(Error::generic("The -accel and \"-machine accel=\" options are incompatible"))
        }
        (Some(list), true) => Ok(AccelSpec::machine_list(list)),
        (None, _) => Ok(line.accel.iter().map(|raw| AccelSpec::option(&raw.text)).collect()),
    }?;
    // KVM's, and nobody else's. Without a list KVM may be what there is, so that it is asked first.
    if let Some(irqchip) = line.machine.iter().rev().find(|(key, _)| is_irqchip(key)).map(|(_, value)| value)
    {
        if specs.is_empty() && irqchip != "on" {
            specs = AccelSpec::machine_list("kvm:sim");
        }
        for spec in specs.iter_mut().filter(|spec| spec.name == "kvm") {
            spec.options.insert(0, ("kernel-irqchip".to_owned(), irqchip.clone()));
        }
    }
    Ok(specs)
}

/// `-machine kernel-irqchip=`, an option of the accelerator that is older than its own.
pub(crate) fn is_irqchip(key: &str) -> bool {
    matches!(key, "kernel-irqchip" | "kernel_irqchip")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and options that follow from a command line.
    fn of(words: &str) -> Vec<(String, Vec<(String, String)>)> {
        let line = CommandLine::parse(words.split(' ').map(str::to_owned)).expect(words);
        let specs = specs(&line).expect(words);
        specs.into_iter().map(|spec| (spec.name, spec.options)).collect()
    }

    #[test]
    fn the_interrupt_controllers_are_an_option_of_kvm() {
        let split = || vec![("kernel-irqchip".to_owned(), "split".to_owned())];
        let both = [("kvm".to_owned(), split()), ("sim".to_owned(), vec![])];
        assert_eq!(of("-machine q35,kernel_irqchip=split -accel kvm -accel sim"), both);
        assert_eq!(of("-machine q35,kernel-irqchip=on,accel=kvm:sim,kernel-irqchip=split"), both);
        assert_eq!(
            of("-machine q35,kernel-irqchip=split"),
            both,
            "KVM is asked where it may be what there is"
        );
        assert!(of("-machine q35,kernel-irqchip=on").is_empty());
        assert_eq!(of("-machine q35,kernel-irqchip=split -accel qtest"), [("qtest".to_owned(), vec![])]);
    }
}
