//! All of the instances that were named are given up, or none; and only those that are there.

use std::sync::atomic::{AtomicUsize, Ordering};

use qapi::types::YankInstanceChardev;

use super::*;

fn chardev(id: &str) -> YankInstance {
    YankInstance::Chardev(YankInstanceChardev { id: id.to_owned() })
}

#[test]
fn all_or_none_are_given_up() {
    let (instances, calls) = (Arc::new(YankInstances::default()), Arc::new(AtomicUsize::new(0)));
    let register = |id: &str| {
        let calls = Arc::clone(&calls);
        instances.register(chardev(id), move || {
            calls.fetch_add(1, Ordering::SeqCst);
        })
    };
    let (_a, b) = (register("a"), register("b"));
    let missing = instances.yank(vec![chardev("a"), YankInstance::Migration]).unwrap_err();
    assert_eq!((missing.class(), missing.desc()), (ErrorClass::DeviceNotFound, "Instance not found"));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    instances.yank(vec![chardev("a"), chardev("b")]).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_eq!(instances.query_yank().unwrap(), [chardev("a"), chardev("b")]);
    drop(b);
    assert_eq!(instances.query_yank().unwrap(), [chardev("a")]);
    instances.yank(vec![chardev("b")]).unwrap_err();
    instances.yank(Vec::new()).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
