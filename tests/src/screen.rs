//! A person's terminal: the program in a window of tmux, whose picture tests compare with `docs/console/`.
//!
//! Each [`Screen`] is a tmux server of its own, whose socket is in a folder of its own. What is typed goes through tmux, and so
//! does what is shown, so that a test sees what a person would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;
use std::{env, fs};

use tempfile::TempDir;

use crate::wire::patience;

/// A window with a program in it.
#[derive(Debug)]
pub struct Screen {
    scratch: TempDir,
}

/// How a window starts.
#[derive(Debug)]
pub struct Window {
    scratch: TempDir,
    columns: u16,
    rows: u16,
    env: Vec<String>,
}

impl Window {
    /// A window of this size, for a program that finds an environment of UTF-8 and colours, and no history.
    ///
    /// # Panics
    ///
    /// If there can be no temporary folder.
    pub fn new(columns: u16, rows: u16) -> Self {
        let scratch =
            tempfile::Builder::new().prefix("pliant-screen-").tempdir().expect("a temporary folder");
        let home = scratch.path().display();
        let path = env::var("PATH").unwrap_or_default();
        let env = vec![
            format!("PATH={path}"),
            format!("HOME={home}"),
            "TERM=screen-256color".into(),
            "LANG=C.UTF-8".into(),
        ];
        Self { scratch, columns, rows, env }
    }

    /// Another value of an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// The folder that is the program's home.
    pub fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// Runs a program in the window.
    ///
    /// # Panics
    ///
    /// If tmux does not start.
    pub fn run(self, program: &Path, args: &[String]) -> Screen {
        let config = self.scratch.path().join("tmux.conf");
        let settings = "set -g status off\nset -g remain-on-exit on\nset -g escape-time 0\nset -g default-terminal screen-256color\n";
        fs::write(&config, settings).expect("a fresh folder");
        let screen = Screen { scratch: self.scratch };
        let (columns, rows) = (self.columns.to_string(), self.rows.to_string());
        let mut line: Vec<&str> =
            vec!["-f", config.to_str().expect("temporary folders have plain names"), "new-session", "-d"];
        let home = screen.home().to_str().expect("temporary folders have plain names").to_owned();
        line.extend(["-x", &columns, "-y", &rows, "-c", &home, "env", "-i"]);
        line.extend(self.env.iter().map(String::as_str));
        line.push(program.to_str().expect("programs have plain names"));
        line.extend(args.iter().map(String::as_str));
        screen.tmux(&line);
        screen
    }
}

impl Screen {
    fn tmux(&self, words: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        // Its own server, and UTF-8 whatever the test's environment says.
        command.arg("-u").arg("-S").arg(self.scratch.path().join("tmux")).args(words);
        let output = command.output().expect("tests/install-peers installs tmux");
        assert!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The folder that is the program's home.
    pub fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// Types text.
    pub fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Presses a key by tmux's name for it: `Tab`, `Enter`, `C-r`, `Left`.
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Makes the window another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// What is to be seen, without the blanks at the ends.
    pub fn text(&self) -> String {
        self.capture(&["capture-pane", "-p"])
    }

    /// The same with colours, as escape sequences.
    pub fn colours(&self) -> String {
        self.capture(&["capture-pane", "-p", "-e"])
    }

    fn capture(&self, words: &[&str]) -> String {
        let text = String::from_utf8(self.tmux(words).stdout).expect("tmux speaks UTF-8");
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        lines[..end].iter().map(|line| format!("{line}\n")).collect()
    }

    /// Looks until the picture is as wanted, and gives it.
    ///
    /// # Panics
    ///
    /// If it does not become so in time.
    pub fn until(&self, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + patience();
        loop {
            let text = self.text();
            if wanted(&text) {
                return text;
            }
            assert!(Instant::now() < end, "this is not what was waited for:\n{text}");
        }
    }

    /// Waits until the program has ended. (tmux does not always write so into the window.)
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn until_ended(&self) {
        let end = Instant::now() + patience();
        while self.tmux(&["list-panes", "-F", "#{pane_dead}"]).stdout != b"1\n" {
            assert!(Instant::now() < end, "it still runs:\n{}", self.text());
        }
    }

    /// Looks until some text is to be seen.
    ///
    /// # Panics
    ///
    /// If it does not appear in time.
    pub fn until_shows(&self, text: &str) -> String {
        self.until(|picture| picture.contains(text))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The program gets a hang-up. A server that is gone already is no trouble.
        let _ =
            Command::new("tmux").arg("-S").arg(self.scratch.path().join("tmux")).arg("kill-server").output();
    }
}

/// Compares a picture with the one in `docs/console/NAME.txt`, after `view` was applied to both; with `PLIANT_UPDATE_SCREENS` set (as by
/// `tests/run --update-screens`) it is recorded instead, if it differs.
///
/// # Panics
///
/// If they differ, or there is none.
pub fn recorded(name: &str, picture: &str, view: impl Fn(&str) -> String) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository");
    let path: PathBuf = repository.join("docs/console").join(name).with_extension("txt");
    let old = fs::read_to_string(&path).unwrap_or_default();
    if view(&old) == view(picture) {
        return;
    }
    if env::var_os("PLIANT_UPDATE_SCREENS").is_some() {
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the repository can be written");
        fs::write(&path, picture).expect("the repository can be written");
        return;
    }
    panic!(
        "{} is otherwise (tests/run --update-screens records it anew):\n{old}\nnow:\n{picture}",
        path.display()
    );
}

/// The guide with the pictures that its marks `<!-- console/NAME.txt -->` name, and the guide as it is. With `PLIANT_UPDATE_SCREENS` it is
/// made so.
///
/// # Panics
///
/// If a picture or the end of one is missing.
pub fn guide() -> (String, String) {
    let docs =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").join("docs");
    let old = fs::read_to_string(docs.join("guide.md")).expect("there is a guide");
    let mut parts = old.split("<!-- ");
    let mut new = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->\n```text\n").expect("a mark is followed by a picture");
        let (_, behind) = rest.split_once("```").expect("a picture ends");
        let picture = fs::read_to_string(docs.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        new += &format!("<!-- {name} -->\n```text\n{picture}```{behind}");
    }
    if old != new && env::var_os("PLIANT_UPDATE_SCREENS").is_some() {
        fs::write(docs.join("guide.md"), &new).expect("the repository can be written");
        return (new.clone(), new);
    }
    (new, old)
}
