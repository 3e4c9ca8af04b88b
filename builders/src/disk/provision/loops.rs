//! What loop devices are made of, as the kernel itself says: by device and inode, which another name of the file has too.

#![expect(
    unsafe_code,
    reason = "one question to the kernel, whose answer has a fixed form"
)]

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `LOOP_GET_STATUS64`, from `linux/loop.h`.
const GET_STATUS: Opcode = 0x4c05;

/// `struct loop_info64`, of which the first two fields are read.
#[repr(C)]
struct Status {
    device: u64,
    inode: u64,
    _rest: [u64; 27],
}

/// A loop device that is attached.
pub(super) struct Loop {
    pub(super) name: String,
    pub(super) number: String,
    /// What it is made of: a file, or another block device. Nothing may have this name any more.
    pub(super) backing: PathBuf,
    /// What has that name, if it is that.
    pub(super) below: Option<Metadata>,
    /// What it is made of.
    file: Made,
}

/// What a loop device is made of, as far as this process can tell.
enum Made {
    /// A file or device, by device and inode.
    Of(u64, u64),
    /// A file that has lost the name it was attached by, and may have others. It has so many bytes; none when it has any number of
    /// them, because the device shows a part of it.
    Nameless(Option<u64>),
}

/// Whether a loop device is made of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    /// Nobody but the kernel knows, and it tells root only.
    Maybe,
    No,
}

impl Loop {
    /// All of which this process can see anything of what they are made of.
    pub(super) fn all() -> Vec<Self> {
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let attached = devices.filter_map(|device| {
            let place = device.path();
            let backing = fs::read_to_string(place.join("loop/backing_file")).ok()?;
            let backing = PathBuf::from(backing.trim_end_matches('\n'));
            let number = fs::read_to_string(place.join("dev")).ok()?;
            let name = device.file_name().to_string_lossy().into_owned();
            let asked = asked(&name);
            let below = fs::metadata(&backing).ok();
            // The kernel knows the file, and somebody else may have its name by now.
            let below = below.filter(|below| {
                asked.is_none_or(|file| {
                    below.file_type().is_block_device() || file == (below.dev(), below.ino())
                })
            });
            let named = || Some((below.as_ref()?.dev(), below.as_ref()?.ino()));
            let file = match asked.or_else(named) {
                Some((device, inode)) => Made::Of(device, inode),
                None => Made::Nameless(bytes_below(&place)),
            };
            Some(Self {
                name,
                number: number.trim().to_owned(),
                backing,
                below,
                file,
            })
        });
        attached.collect()
    }

    /// Whether it is made of a file.
    pub(super) fn is_of(&self, meta: &Metadata) -> Answer {
        match self.file {
            Made::Of(device, inode) if (device, inode) == (meta.dev(), meta.ino()) => Answer::Yes,
            Made::Of(..) => Answer::No,
            // Sectors are whole, the file need not be.
            Made::Nameless(Some(bytes)) if meta.is_file() && meta.len() / 512 == bytes / 512 => {
                Answer::Maybe
            }
            Made::Nameless(_) => Answer::No,
        }
    }
}

/// How many bytes what a loop device is made of has; none when the device shows a part of it only.
fn bytes_below(place: &std::path::Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(place.join(name)).ok()?;
        text.trim().parse().ok()
    };
    if number("loop/sizelimit")? != 0 {
        return None;
    }
    Some(number("size")? * 512 + number("loop/offset")?)
}

/// Device and inode of what a loop device is made of; none when this process may not ask.
fn asked(name: &str) -> Option<(u64, u64)> {
    let device = File::open(format!("/dev/{name}")).ok()?;
    // SAFETY: the request fills a `struct loop_info64`, which has the size of `Status` and no bytes that are invalid in it.
    let status = unsafe { ioctl(&device, Getter::<GET_STATUS, Status>::new()) }.ok()?;
    Some((status.device, status.inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_size_that_the_kernel_writes() {
        // 5 words, 4 half words, two names of 64 bytes, a key of 32 and two words.
        assert_eq!(size_of::<Status>(), 5 * 8 + 4 * 4 + 2 * 64 + 32 + 2 * 8);
    }
}
