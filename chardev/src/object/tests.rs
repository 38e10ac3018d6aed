//! Claims about `/chardevs`.

use std::sync::Arc;

use mainloop::MainLoop;
use qapi::Value;
use qom::{Registry, Tree};

use crate::{ChardevOptions, ChardevSet};

fn options(id: &str, backend: &str) -> ChardevOptions {
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    ChardevOptions::parse(&[pair("backend", backend), pair("id", id)]).unwrap()
}

#[test]
fn devices_are_in_the_tree_while_they_live() {
    let main = MainLoop::new().unwrap();
    let set = ChardevSet::new(main.handle());
    set.add(&options("early", "null"), &mut |_| {}).unwrap();
    let mut registry = Registry::new();
    Tree::register(&mut registry);
    super::register(&mut registry);
    let tree = Arc::new(Tree::new(registry));
    set.set_tree(&tree);
    set.add(&options("late", "ringbuf"), &mut |_| {}).unwrap();
    let ring = tree.absolute("/chardevs/late").unwrap();
    assert_eq!(ring.get("type"), Ok(Value::from("chardev-ringbuf")));
    assert_eq!(ring.get("connected"), Ok(Value::Bool(true)));
    assert_eq!(tree.absolute("/chardevs/early").unwrap().get("connected"), Ok(Value::Bool(false)));
    set.remove("late").unwrap();
    assert!(tree.absolute("/chardevs/late").is_none());
}
