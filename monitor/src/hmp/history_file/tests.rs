use super::*;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pliant-history-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state/pliant/history")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn lines(path: &Path) -> Vec<String> {
    HistoryFile::open(path).1.into_iter().map(|l| String::from_utf8(l).unwrap()).collect()
}

#[test]
fn what_was_entered_is_there_the_next_time_and_private() {
    let folder = Folder::new("private");
    let mut file = HistoryFile::open(&folder.file()).0.unwrap();
    file.append("info status");
    file.append("");
    file.append(" info secret");
    file.append("gr\u{fc}\u{df}e");
    assert_eq!(lines(&folder.file()), ["info status", "gr\u{fc}\u{df}e"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&folder.file()), 0o600);
    assert_eq!(mode(folder.file().parent().unwrap()), 0o700);
    fs::set_permissions(folder.file(), Permissions::from_mode(0o644)).unwrap();
    lines(&folder.file());
    assert_eq!(mode(&folder.file()), 0o600, "others could read it");
}

#[test]
fn several_programs_append_and_replace_without_losing_lines() {
    let folder = Folder::new("several");
    let path = folder.file();
    lines(&path);
    // Long lines, so that the file is replaced now and then.
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file = HistoryFile::open(path).0.unwrap();
                for n in 0..200 {
                    file.append(&format!("writer {writer} line {n} {}", "x".repeat(1000)));
                    // Nobody types faster than files are written.
                    while file.pending.len() > KEPT_BYTES / 2 {
                        std::thread::yield_now();
                        file.flush();
                    }
                }
            });
        }
    });
    let found = lines(&path);
    let number = |l: &&String| l.split(' ').nth(3).unwrap().parse::<u32>().unwrap();
    for writer in 0..4 {
        let own = found.iter().filter(|l| l.starts_with(&format!("writer {writer} ")));
        let numbers: Vec<u32> = own.map(|l| number(&l)).collect();
        let first = numbers.first().copied().unwrap_or(0);
        assert!(numbers.iter().copied().eq((first..).take(numbers.len())), "{writer}: {numbers:?}");
    }
    assert!(found.len() > 100 && found.iter().all(|l| l.ends_with(&"x".repeat(1000))), "no line is torn");
    assert!(fs::metadata(&path).unwrap().len() <= MAX_BYTES, "its length is bounded");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_line_waits_for_the_next_while_somebody_else_writes() {
    let folder = Folder::new("waits");
    let mut file = HistoryFile::open(&folder.file()).0.unwrap();
    let other = open(&folder.file()).unwrap();
    other.lock().unwrap();
    file.append("first");
    assert_eq!(fs::read(folder.file()).unwrap(), b"");
    other.unlock().unwrap();
    file.append("second");
    assert_eq!(lines(&folder.file()), ["first", "second"]);
}

#[test]
fn of_more_lines_than_can_wait_the_last_do() {
    let folder = Folder::new("many");
    let mut file = HistoryFile::open(&folder.file()).0.unwrap();
    let other = open(&folder.file()).unwrap();
    other.lock().unwrap();
    let line = |n: usize| format!("{n:04} {}", "x".repeat(1000));
    (0..300).for_each(|n| file.append(&line(n)));
    other.unlock().unwrap();
    file.append(&line(300));
    let found = lines(&folder.file());
    assert!((100..=KEPT_BYTES / 1000).contains(&found.len()), "{}", found.len());
    assert_eq!(found, (301 - found.len()..301).map(line).collect::<Vec<_>>());
}

#[test]
fn what_is_no_line_is_passed_over_and_half_a_line_ended() {
    let folder = Folder::new("garbage");
    lines(&folder.file());
    let long = "y".repeat(MAX_LINE + 1);
    fs::write(folder.file(), [b"good\n\x1b[2Jbad\n\xff\n\n".as_slice(), long.as_bytes(), b"\nhalf"].concat())
        .unwrap();
    let (file, read) = HistoryFile::open(&folder.file());
    assert_eq!(read, [b"good".to_vec(), b"half".to_vec()]);
    file.unwrap().append("new");
    assert_eq!(lines(&folder.file()), ["good", "half", "new"]);
}

#[test]
fn what_cannot_be_written_is_no_trouble() {
    let folder = Folder::new("trouble");
    fs::write(folder.0.join("plain"), "").unwrap();
    assert!(
        HistoryFile::open(&folder.0.join("plain/history")).0.is_none(),
        "a file where a folder should be"
    );
    assert!(HistoryFile::open(&folder.0).0.is_none(), "a folder where a file should be");
    assert!(HistoryFile::open(Path::new("/dev/null")).0.is_none(), "no plain file");
    let mut file = HistoryFile::open(&folder.file()).0.unwrap();
    fs::remove_dir_all(folder.0.join("state")).unwrap();
    file.append("lost");
    assert!(!folder.file().exists());
}
