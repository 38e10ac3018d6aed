//! The thread is there as long as anybody has it, and its numbers are checked.

use std::fs;
use std::sync::mpsc;

use qom::Input;

use super::*;
use crate::testing::{Rig, config};

fn make(rig: &Rig, id: &str, options: &[(&str, &str)]) -> Result<Arc<IoThread>> {
    let options = options.iter().map(|(name, value)| (*name, Input::Keyval(value)));
    let object = rig.machine.tree().create_user_object("iothread", id, options)?;
    Ok(IoThread::from_object(&object).expect("an iothread"))
}

fn refused(rig: &Rig, options: &[(&str, &str)]) -> String {
    make(rig, "bad", options).err().expect("refused").desc().to_owned()
}

fn name_of(thread_id: i64) -> Option<String> {
    fs::read_to_string(format!("/proc/self/task/{thread_id}/comm")).ok()
}

#[test]
fn a_thread_ends_with_its_last_user() {
    let rig = Rig::build(config("q35")).unwrap();
    let thread = make(&rig, "io1", &[("poll-grow", "3"), ("aio-max-batch", "7")]).unwrap();
    let info = thread.info();
    let numbers = (info.poll_max_ns, info.poll_grow, info.poll_shrink, info.aio_max_batch);
    assert_eq!((info.id.as_str(), numbers), ("io1", (32_768, 3, 0, 7)));
    assert_eq!(name_of(info.thread_id).as_deref(), Some("IO io1\n"));
    let (sender, receiver) = mpsc::channel();
    thread.handle().unwrap().post(move || sender.send(rustix::thread::gettid()).unwrap());
    assert_eq!(i64::from(receiver.recv().unwrap().as_raw_nonzero().get()), info.thread_id);

    rig.machine.tree().delete_user_object("io1").unwrap();
    assert!(name_of(info.thread_id).is_some(), "somebody has it");
    drop(thread);
    assert_eq!(name_of(info.thread_id), None);
}

#[test]
fn the_last_user_may_be_what_the_thread_itself_runs() {
    let rig = Rig::build(config("q35")).unwrap();
    let thread = make(&rig, "io1", &[]).unwrap();
    let handle = thread.handle().unwrap().clone();
    rig.machine.tree().delete_user_object("io1").unwrap();
    handle.run_on_loop(move || drop(thread)).unwrap();
    assert!(handle.is_quitting());
}

#[test]
fn numbers_that_make_no_sense_are_refused_and_change_nothing() {
    let rig = Rig::build(config("q35")).unwrap();
    for name in
        ["poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch", "thread-pool-min", "thread-pool-max"]
    {
        assert_eq!(
            refused(&rig, &[(name, "-1")]),
            format!("{name} value must be in range [0, 9223372036854775807]")
        );
    }
    let pool = "bad thread-pool-min/thread-pool-max values";
    assert_eq!(refused(&rig, &[("thread-pool-min", "65")]), pool);
    assert_eq!(refused(&rig, &[("thread-pool-max", "0")]), pool);
    assert!(rig.machine.tree().absolute("/objects/bad").is_none());
    let thread = make(&rig, "io1", &[("thread-pool-max", "70"), ("thread-pool-min", "66")]).unwrap();
    let object: ObjectRef = Arc::clone(&thread) as _;
    assert_eq!(object.set("thread-pool-max", Input::Text("65")).unwrap_err().desc(), pool);
    assert_eq!(object.get("thread-pool-max").unwrap(), 70i64.into());
    object.set("poll-max-ns", Input::Text("5")).unwrap();
    assert_eq!((thread.info().poll_max_ns, thread.poll_max()), (5, Duration::from_nanos(5)));
}
