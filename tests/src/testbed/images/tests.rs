//! What of packages is read by our own code.

use super::*;

#[test]
fn modules_say_what_they_depend_on() {
    assert_eq!(depends(b"license=GPL\0depends=virtio,virtio_ring\0name=x\0"), ["virtio", "virtio_ring"]);
    assert!(depends(b"license=GPL\0depends=\0name=x\0").is_empty());
    assert!(depends(b"not a module").is_empty());
}

#[test]
fn a_module_is_found_by_its_name_however_its_file_is_spelt() {
    assert_eq!(module_name("virtio-rng.ko.xz").as_deref(), Some("virtio_rng"));
    assert_eq!(module_name("kvm-amd.ko").as_deref(), Some("kvm_amd"));
    assert_eq!(module_name("modules.order"), None);
}

#[test]
fn what_is_kept_stays_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let images = Images::in_folder(folder.path());
    images.keep("../../outside", "text").unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("kept/outside")).unwrap(), "text");
}
