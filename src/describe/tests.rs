//! Claims about what clients are told of the command line.

use memory::Memory;
use qom::{Input, Registry};

use super::*;
use crate::cli::table::lookup;

fn description() -> Description {
    let memory = Memory::new();
    let mut registry = Registry::new();
    crate::start::register_all(&mut registry, &memory, false);
    Description(Arc::new(Tree::new(registry)))
}

fn names(option: &str) -> Vec<String> {
    let list = description().query_command_line_options(Some(option.into())).unwrap();
    list[0].parameters.iter().map(|p| p.name.clone()).collect()
}

#[test]
fn every_list_is_that_of_an_option_and_is_there_once() {
    let list = description().query_command_line_options(None).unwrap();
    let mut options: Vec<_> = list.iter().map(|info| info.option.as_str()).collect();
    let all = options.len();
    options.sort_unstable();
    options.dedup();
    assert_eq!(options.len(), all);
    for option in options {
        let name = match option {
            "memory" => "m",
            "smp-opts" => "smp",
            "boot-opts" => "boot",
            other => other,
        };
        assert!(lookup(name).is_some(), "{option}");
    }
    assert!(keys::LISTS.iter().all(|list| lookup(&list.option[1..]).is_some()));
}

#[test]
fn a_parameter_has_the_type_that_its_parser_wants() {
    let list = description().query_command_line_options(Some("memory".into())).unwrap();
    let types: Vec<_> = list[0].parameters.iter().map(|p| (&*p.name, p.type_)).collect();
    use CommandLineParameterType::{Boolean, Number, Size, String};
    assert_eq!(types, [("maxmem", Size), ("size", Size), ("slots", Number)]);
    let machine = description().query_command_line_options(Some("machine".into())).unwrap();
    let of = |name: &str| machine[0].parameters.iter().find(|p| p.name == name).map(|p| p.type_);
    assert_eq!(of("type"), Some(String));
    assert_eq!(["hpet", "acpi", "mem-merge"].map(of), [Some(Boolean); 3]);
    assert_eq!((of("max-ram-below-4g"), of("nvdimm")), (Some(Size), None));
}

#[test]
fn what_is_listed_is_taken() {
    for name in names("smp-opts") {
        smp::parse(&vec![(name.clone(), "1".into())]).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    assert!(
        names("chardev").iter().all(|name| !["websocket", "cols", "mouse", "localport"].contains(&&**name))
    );
    assert!(names("chardev").contains(&"reconnect-ms".into()));
    for name in names("machine").iter().filter(|name| *name != "type" && *name != "memory-backend") {
        let value = if name == "max-ram-below-4g" { "1G" } else { "off" };
        // Some options are one board's only.
        let taken = ["pc-q35-10.0-machine", "microvm-machine"].map(|class| {
            let object = description().0.registry().create(class).unwrap();
            object.set(name, Input::Option(value))
        });
        assert!(taken.iter().any(Result::is_ok), "{name}: {taken:?}");
    }
}

#[test]
fn an_option_without_a_list_is_an_error() {
    let error = |name: &str| {
        let answer = description().query_command_line_options(Some(name.into()));
        answer.unwrap_err().desc().to_owned()
    };
    assert_eq!(error("smp"), "invalid option name: smp");
    assert_eq!(error("nodefaults"), "invalid option name: nodefaults");
    assert_eq!(names("device"), [] as [&str; 0]);
}
