//! QEMU's own client: `qmp-shell` of the Python package `qemu.qmp`, driven on a terminal as a person does.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tests::console::terminal;
use tests::introspection::Introspection;
use tests::{Need, Peer, Vm, VmBuilder, Wire, have, program};

const PROMPT: &str = "(QEMU) ";

/// Queries that refuse to answer for want of their subject, and the sentence: what QEMU 10.0.2 says of the same machine.
const REFUSALS: &[(&str, &str)] = &[
    ("query-balloon", "No balloon device has been activated"),
    ("query-hv-balloon-status-report", "no hv-balloon device present"),
    ("query-sev-capabilities", "KVM not enabled"),
    ("query-sev-launch-measure", "SEV launch measurement is not available"),
    ("query-sgx", "No EPC regions defined, SGX not available"),
    ("query-sgx-capabilities", "Could not open '/dev/sgx_vepc': No such file or directory"),
    ("query-vm-generation-id", "VM Generation ID device not found"),
    ("x-query-usb", "USB support not enabled"),
    // Ours; the machine of this test runs under an accelerator that models no local APIC.
    ("x-pliant-query-lapic", "local apic state not available"),
];

/// A machine with something of everything that queries tell of.
fn machine() -> VmBuilder {
    Vm::new().line(
        "-machine q35 -m 1G,maxmem=8G,slots=2 -smp 2 -object memory-backend-ram,id=mem0,size=2G \
         -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=64M -chardev ringbuf,id=ring -name guest \
         -qmp unix:$RUN/shell,server=on,wait=off",
    )
}

/// `qmp-shell` at its first prompt.
struct Shell {
    screen: Wire,
    process: Child,
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Shell {
    fn start(vm: &Vm, options: &[&str]) -> Self {
        let (screen, theirs) = terminal();
        // All candidates at once and no escape sequences.
        let settings = vm.scratch().join("inputrc");
        let text = "set page-completions off\nset completion-query-items 0\nset enable-bracketed-paste off\n";
        std::fs::write(&settings, text).unwrap();
        let process = Command::new(program::qmp_shell().expect("the test needs it"))
            .args(options)
            .arg(vm.scratch().join("shell"))
            .env("INPUTRC", &settings)
            // Its history file goes there.
            .env("HOME", vm.scratch())
            .env("TERM", "dumb")
            .env("COLUMNS", "1000")
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs.try_clone().unwrap()))
            .stderr(Stdio::from(theirs))
            .spawn()
            .unwrap();
        Self { screen, process }
    }

    /// Types and reads up to a text.
    fn types(&mut self, keys: &str, shows: &str) -> String {
        self.screen.send(keys.as_bytes()).unwrap();
        self.screen.until(shows).unwrap_or_else(|e| panic!("{keys:?}: {e}"))
    }

    /// Runs a command and gives the reply as it was printed.
    fn run(&mut self, line: &str) -> Value {
        let shown = self.types(&format!("{line}\n"), &format!("}}\r\n{PROMPT}"));
        let reply = shown.lines().find(|line| line.starts_with('{'));
        let reply = reply.unwrap_or_else(|| panic!("{line}: no reply in {shown:?}"));
        serde_json::from_str(reply.trim_end()).unwrap_or_else(|e| panic!("{line}: {e}: {reply}"))
    }
}

#[test]
fn it_connects_completes_and_runs_commands() {
    if !have(&[Need::QmpShell]) {
        return;
    }
    let mut vm = machine().qmp().start();
    let mut shell = Shell::start(&vm, &[]);
    let hello = shell.screen.until(PROMPT).unwrap();
    assert!(hello.contains("Connected to QEMU 10.0.2"), "{hello}");
    // Tab at the beginning offers every command, and nothing but commands.
    let commands = vm.qmp().ok("query-commands", json!({}));
    let commands: Vec<&str> =
        commands.as_array().unwrap().iter().map(|command| command["name"].as_str().unwrap()).collect();
    let offered = shell.types("\t\t", PROMPT);
    let mut offered: Vec<&str> = offered.trim_end_matches(PROMPT).split_whitespace().collect();
    offered.retain(|word| *word != "\u{7}");
    let offered: Vec<&str> = offered.iter().map(|word| word.trim_matches('\u{7}')).collect();
    for command in &commands {
        assert!(offered.contains(command), "{command} is not offered: {offered:?}");
    }
    assert_eq!(offered.len(), commands.len(), "{offered:?}");
    assert_eq!(shell.run("query-vers\t")["return"]["qemu"]["major"], 10, "one word is completed");
    assert_eq!(shell.run("query-status")["return"]["running"], json!(program::peer() == Peer::Pliant));
    assert_eq!(shell.run("qom-set path=vm0 property=requested-size value=134217728"), json!({"return": {}}));
    assert_eq!(shell.run("qom-get path=vm0 property=requested-size"), json!({"return": 134_217_728}));
    let refused = shell.run("qom-get path=nobody property=x");
    assert_eq!(refused["error"]["class"], "DeviceNotFound", "{refused}");
    let added = shell.run("object-add qom-type=memory-backend-ram id=later size=4096");
    assert_eq!(added, json!({"return": {}}));
    assert_eq!(shell.run("qom-list path=/objects/later")["return"][0]["name"], "type");
    shell.screen.send(b"\x04").unwrap();
    assert!(shell.process.wait().unwrap().success());
}

#[test]
fn it_runs_console_lines() {
    if !have(&[Need::QmpShell]) {
        return;
    }
    let vm = machine().qmp().start();
    let mut shell = Shell::start(&vm, &["-H"]);
    shell.screen.until("Welcome to the HMP shell!").unwrap();
    shell.screen.until(PROMPT).unwrap();
    shell.types("info vers\t\n", "10.0.2");
    shell.types("info memory_size_summary\n", "base memory: 1073741824");
}

#[test]
fn every_query_without_arguments_answers_as_the_schema_says() {
    if !have(&[Need::QmpShell]) {
        return;
    }
    let mut vm = machine().qmp().start();
    let mut shell = Shell::start(&vm, &[]);
    shell.screen.until(PROMPT).unwrap();
    let schema = Introspection::of(vm.qmp());
    let queries = schema.queries();
    assert!(queries.len() >= 20, "{queries:?}");
    let mut wrong = Vec::new();
    for query in &queries {
        let reply = shell.run(query);
        match (reply.get("return"), reply["error"]["desc"].as_str()) {
            (Some(value), _) => wrong.extend(schema.reply(query, value)),
            (None, Some(desc)) => {
                if !REFUSALS.contains(&(query.as_str(), desc)) {
                    wrong.push(format!("{query}: {desc}"));
                }
            }
            (None, None) => wrong.push(format!("{query}: {reply}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} queries:\n{}", wrong.len(), queries.len(), wrong.join("\n"));
    println!("{} queries", queries.len());
}
