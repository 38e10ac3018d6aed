//! Claims about the log file.

use std::sync::Arc;

use super::*;

/// A disk with room for `room` bytes.
#[derive(Clone)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Disk {
    fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), room))))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.lock().unwrap();
        let taken = bytes.len().min(disk.1);
        if taken == 0 {
            return Err(io::Error::from_raw_os_error(28));
        }
        disk.0.extend_from_slice(&bytes[..taken]);
        disk.1 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log_on(disk: &Disk) -> Log {
    Log { sink: Some(Box::new(disk.clone())), ..Log::new() }
}

#[test]
fn lines_lost_to_a_full_disk_are_counted_once_there_is_room_again() {
    let disk = Disk::new(9);
    let mut log = log_on(&disk);
    ["one", "two", "three", "four"].iter().for_each(|line| log.line(line));
    assert_eq!(disk.text(), "one\ntwo\nt");
    disk.0.lock().unwrap().1 = 1000;
    log.line("five");
    log.line("six");
    assert_eq!(disk.text(), "one\ntwo\nt\n2 lines lost: No space left on device\nfive\nsix\n");
}

#[test]
fn what_is_suppressed_is_told_though_nothing_follows() {
    let disk = Disk::new(1000);
    let mut log = log_on(&disk);
    log.budget = Budget::new(1, Duration::from_secs(3600));
    for _ in 0..5 {
        if log.budget.take(Instant::now()).is_some() {
            log.line("bad guest");
        }
    }
    log.tell_suppressed();
    log.tell_suppressed();
    assert_eq!(disk.text(), "bad guest\n4 messages suppressed\n");
}

#[test]
fn names_of_files_are_templates_of_the_process_id() {
    assert_eq!(expand("a.log", 7).as_deref(), Some("a.log"));
    assert_eq!(expand("a-%d.log", 7).as_deref(), Some("a-7.log"));
    for bad in ["%", "%s", "%d%d", "%%d", "a%d%"] {
        assert_eq!(expand(bad, 7), None, "{bad}");
    }
    assert_eq!(open("x%s").unwrap_err().to_string(), "Bad logfile template: x%s");
}

#[test]
fn a_file_that_cannot_be_made_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good");
    open(good.to_str().unwrap()).unwrap();
    let bad = format!("{}/none/x", folder.path().display());
    let text = format!("Error opening logfile {bad}: No such file or directory");
    assert_eq!(open(&bad).unwrap_err().to_string(), text);
    event("still_here ");
    assert_eq!(std::fs::read_to_string(good).unwrap(), "still_here \n");
}

#[test]
fn items_are_known_by_their_names_and_wanted_one_by_one() {
    assert!(Item::ALL.iter().all(|item| Item::from_name(item.name()) == Some(*item)));
    assert_eq!(Item::from_name("tid"), None);
    set_items([Item::Unimp]);
    assert_eq!(Item::ALL.map(wants), [true, false, false]);
    set_items([]);
    assert!(!Item::ALL.into_iter().any(wants));
}
