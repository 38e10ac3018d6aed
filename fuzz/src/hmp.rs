//! The console: lines and keys against a recorded machine. Nothing panics, and a line costs a bounded number of commands and
//! a bounded amount of text, whatever it says.

use std::cell::Cell;
use std::sync::OnceLock;

use qapi::{Dict, Error, Result, Value, json};

/// Replies of a machine, recorded from the program: a command's name, or its name and a path, to what it answered.
const RECORDED: &str = include_str!("machine.json");

/// QMP commands that a line may cost. Completion looks at each child of a path.
const COMMANDS: usize = 4096;
/// Text that a byte of input may cause: the longest list, of commands, is shown for one key.
const TEXT: usize = 64 << 10;

/// What somebody types.
pub fn run(data: &[u8]) {
    let spent = Cell::new(0);
    let execute = |command: &str, arguments: Dict| {
        spent.set(spent.get() + 1);
        answer(command, &arguments)
    };
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        spent.set(0);
        let output = monitor::fuzzing::line(line, &execute);
        assert!(output.len() <= TEXT * (1 + line.len()), "{line:?}: {} bytes", output.len());
        let (found, typed) = monitor::fuzzing::candidates_for(line, &execute);
        assert!(typed <= line.len() && found.iter().all(|candidate| candidate.len() >= typed));
        assert!(spent.get() <= COMMANDS, "{line:?}: {} commands", spent.get());
    }
    spent.set(0);
    let shown = monitor::fuzzing::keys(data, &execute);
    assert!(shown.len() <= TEXT * (1 + data.len()));
    assert!(spent.get() <= COMMANDS * (1 + data.len()));
}

fn answer(command: &str, arguments: &Dict) -> Result<Value> {
    static MACHINE: OnceLock<Value> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| json::parse(RECORDED).expect("the recording is JSON"));
    let recorded = |name: &str| machine.as_dict().and_then(|replies| replies.get(name)).cloned();
    if command == "x-pliant-read-memory" {
        return memory(arguments);
    }
    let path = arguments.get("path").and_then(Value::as_str);
    let found = path.and_then(|path| recorded(&format!("{command} {path}"))).or_else(|| recorded(command));
    // A command that changes something is refused with what it was asked for.
    found.ok_or_else(|| Error::generic(format!("{command} {}", json::to_string(&arguments.clone().into()))))
}

/// Memory is what its address says; what is asked for is limited as the program limits it.
fn memory(arguments: &Dict) -> Result<Value> {
    let number = |name: &str| arguments.get(name).and_then(Value::as_u64);
    let (Some(address), Some(size)) = (number("address"), number("size")) else {
        return Err(Error::generic("the console asks for a place and a size"));
    };
    if size > 4096 {
        return Err(Error::generic("too much"));
    }
    let bytes = (0..size).map(|at| format!("{:02x}", address.wrapping_add(at) as u8)).collect::<String>();
    Ok(Dict::new().with("data", bytes).into())
}
