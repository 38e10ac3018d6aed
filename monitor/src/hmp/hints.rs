//! What may follow the line that is being typed: the arguments of its command.

use super::command::{COMMANDS, Command, INFOS, find};

/// What is still to be written of the command that `line` begins with; nothing if there is no such command.
///
/// Flags are offered as long as no other argument has been written.
pub(super) fn syntax(line: &str) -> Option<String> {
    let (command, rest) = command(line)?;
    let mut words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let in_word = !words.is_empty() && !rest.ends_with(' ');
    let flags = words.iter().take_while(|w| w.starts_with('-')).count();
    words.drain(..flags);
    let is_flag = |p: &&str| p.starts_with("[-");
    let mut params: Vec<&str> = split(command.params());
    if !words.is_empty() || flags == params.iter().filter(|p| is_flag(p)).count() {
        params.retain(|p| !is_flag(p));
    }
    let current = words.len().checked_sub(1).filter(|_| in_word).and_then(|at| params.get(at)).copied();
    let mut hint = String::new();
    if let (Some(param), Some(word)) = (current, words.last()) {
        // Options go on in the same word.
        let more = param.find("[,").filter(|_| !word.contains(','));
        hint += more.map_or("", |at| &param[at..]);
    }
    for param in params.iter().skip(words.len()) {
        if !hint.is_empty() || !line.ends_with(' ') {
            hint.push(' ');
        }
        hint += param;
    }
    Some(hint).filter(|h| !h.is_empty())
}

/// The command that `line` names in full, and what is behind its name.
fn command(line: &str) -> Option<(&'static Command, &str)> {
    let (name, rest) = word(line);
    if name == "info" {
        let (sub, behind) = word(rest);
        return match find(&INFOS, sub) {
            Some(command) => Some((command, behind)),
            None if sub.is_empty() => Some((find(&COMMANDS, name)?, rest)),
            None => None,
        };
    }
    Some((find(&COMMANDS, name)?, rest))
}

/// The first word of `text`, and what is behind it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find([' ', '/']).unwrap_or(text.len()))
}

/// The arguments in a syntax line: one in brackets may have blanks in it.
fn split(params: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0usize, 0);
    let mut parts = Vec::new();
    for (at, c) in params.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => {
                parts.push(&params[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&params[start..]);
    parts.retain(|p| !p.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn hint(line: &str, expected: &str) {
        assert_eq!(syntax(line).unwrap_or_default(), expected, "{line:?}");
    }

    #[test]
    fn the_arguments_of_the_command_follow() {
        hint("qom-set", " [-j] path property value");
        hint("qom-set ", "[-j] path property value");
        hint("qom-set -j ", "path property value");
        hint("qom-set /machine", " property value");
        hint("qom-set /machine ", "property value");
        hint("qom-set vm0 requested-size ", "value");
        hint("qom-set vm0 requested-size 1G", "");
    }

    #[test]
    fn options_go_on_in_their_word() {
        hint("device_add ", "driver[,prop=value][,...]");
        hint("device_add virtio-mem-pci", "[,prop=value][,...]");
        hint("device_add virtio-mem-pci,id=x", "");
    }

    #[test]
    fn sub_commands_have_arguments_of_their_own() {
        hint("info ", "[subcommand]");
        hint("info qom-tree", " [path]");
        hint("info mtree -f", "");
        hint("info status", "");
        hint("info nonsense", "");
        hint("nonsense ", "");
        hint("", "");
    }
}
