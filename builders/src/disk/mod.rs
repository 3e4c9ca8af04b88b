//! Bootable disks, without root, loop devices or a virtual machine.
//!
//! ```text
//! builtin:initrd    kernel modules and a first program            initrd.rs, modules.rs, cpio.rs, init.sh
//! builtin:uki       kernel, initrd and command line in one        uki.rs, pe.rs
//! builtin:disk      partition table, FAT and file systems         assemble.rs, esp.rs, fat.rs
//! builtin:qcow2     a disk without its zeros                      qcow2.rs
//! builtin:iso       the same for an optical drive or a stick    iso.rs
//! builtin:netboot   what a machine loads over the network         netboot.rs
//! builtin:provision what a device is to be                        provision/
//! ```
//!
//! Each is a function of its inputs: ids come with the attributes, which derive them from the name of the disk; times are
//! that of the recipe; orders are those of bytes.

mod assemble;
mod cpio;
mod elf;
mod esp;
mod fat;
mod initrd;
mod input;
mod iso;
mod kernel;
#[cfg(test)]
mod layout_tests;
mod modules;
mod netboot;
mod pe;
pub mod provision;
mod qcow2;
mod short_names;
pub mod sign;
#[cfg(test)]
mod tests;
mod uki;

pub use assemble::DiskBuilder;
pub use initrd::InitrdBuilder;
pub use iso::IsoBuilder;
pub use netboot::NetbootBuilder;
pub use provision::ProvisionBuilder;
pub use qcow2::Qcow2Builder;
pub use uki::UkiBuilder;
