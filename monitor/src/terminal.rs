//! What the program's environment says of the terminal it was started on.

use std::ffi::OsString;
use std::path::PathBuf;

/// How consoles on the program's own terminal look, and where their history is kept. Other consoles look as QEMU's whatever
/// this says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TerminalSettings {
    /// Whether the cursor can be moved about at all: `TERM` is set and not `dumb`.
    pub moves: bool,
    /// Whether colours and hints are wanted: also `NO_COLOR` is unset or empty (<https://no-color.org>).
    pub colour: bool,
    /// Whether the locale (`LC_ALL`, `LC_CTYPE`, `LANG`, the first that is set) is one of UTF-8.
    pub utf8: bool,
    /// The history: `$XDG_STATE_HOME/pliant/history`, by default in `~/.local/state`.
    pub history: Option<PathBuf>,
}

impl TerminalSettings {
    /// The settings in an environment; `get` gives a variable that is set.
    pub fn of(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let moves = set("TERM").is_some_and(|term| term != "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let charset =
            locale.map(|l| l.to_string_lossy().to_ascii_lowercase().replace('-', "")).unwrap_or_default();
        // A relative path is none: the specification has it ignored.
        let folder = |name: &str| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
        Self {
            moves,
            colour: moves && set("NO_COLOR").is_none(),
            utf8: charset.contains("utf8"),
            history: state.map(|state| state.join("pliant/history")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> TerminalSettings {
        TerminalSettings::of(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn colour_is_for_terminals_whose_user_did_not_refuse_it() {
        assert!(of(&[("TERM", "xterm")]).colour);
        assert!(of(&[("TERM", "xterm"), ("NO_COLOR", "")]).colour);
        assert!(!of(&[("TERM", "xterm"), ("NO_COLOR", "0")]).colour);
        assert!(of(&[("TERM", "xterm"), ("NO_COLOR", "0")]).moves);
        assert!(!of(&[("TERM", "dumb")]).colour && !of(&[]).moves);
    }

    #[test]
    fn the_first_locale_that_is_set_decides() {
        assert!(of(&[("LANG", "de_DE.UTF-8")]).utf8);
        assert!(of(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]).utf8);
        assert!(!of(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]).utf8);
    }

    #[test]
    fn the_history_is_state_of_the_user() {
        let path = |v: &[(&str, &str)]| of(v).history.map(|p| p.to_string_lossy().into_owned());
        assert_eq!(path(&[("HOME", "/h")]).as_deref(), Some("/h/.local/state/pliant/history"));
        assert_eq!(path(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]).as_deref(), Some("/s/pliant/history"));
        assert_eq!(
            path(&[("HOME", "/h"), ("XDG_STATE_HOME", "s")]).as_deref(),
            Some("/h/.local/state/pliant/history")
        );
        assert_eq!(path(&[]), None);
    }
}
