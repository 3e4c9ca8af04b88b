//! Files with holes, as disk images are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::SeekFrom;
use sos_engine::BuilderError;

use super::directory::failed;

/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// Copies a file to a place where nothing is yet, with its holes; shares its data where the file system can.
///
/// # Errors
/// When reading or writing fails; the new file is to be removed then.
pub fn write_sparse(from: &Path, dest: &Path) -> Result<(), BuilderError> {
    let source = File::open(from).map_err(|e| failed("read", from, e))?;
    let file = File::create_new(dest).map_err(|e| failed("make", dest, e))?;
    if rustix::fs::ioctl_ficlone(&file, &source).is_ok() {
        return Ok(());
    }
    copy(&source, &file).map_err(|e| failed("write", dest, e))
}

fn copy(source: &File, file: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    file.set_len(size)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that cannot tell: all of it is data.
            Err(_) => at,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(data))
            .unwrap_or(size)
            .min(size);
        at = data;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            source.read_exact_at(&mut piece[..want], at)?;
            file.write_all_at(&piece[..want], at)?;
            at += want as u64;
        }
        at = at.max(data + 1);
    }
    Ok(())
}
