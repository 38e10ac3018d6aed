//! The whole device in a machine: driven by the built-in guest's PCI and virtio driver over the address spaces.

mod dma;
mod hostile;
mod model;
mod prealloc;
mod properties;
mod protocol;
mod rig;
mod slots;
