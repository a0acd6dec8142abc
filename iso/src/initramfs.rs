//! The root file system that an image boots.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::image::{FileStream, ReadError, Reader};
use crate::{INITRD_PATH, cpio};

/// The archive of an open image, decompressed while it is read.
pub type Archive<'a, R> = cpio::Reader<MultiGzDecoder<BufReader<FileStream<'a, R>>>>;

/// Opens the initramfs of an image.
///
/// ```no_run
/// let mut image = iso::Reader::open("bootstrap.iso")?;
/// let mut archive = iso::initramfs::open(&mut image)?;
/// iso::cpio::unpack(&mut archive, std::path::Path::new("root"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the image has no [`INITRD_PATH`] or cannot be read.
pub fn open<R: Read + Seek>(image: &mut Reader<R>) -> Result<Archive<'_, R>, ReadError> {
    let file = image.stream(INITRD_PATH)?;
    Ok(cpio::Reader::new(MultiGzDecoder::new(
        BufReader::with_capacity(1 << 16, file),
    )))
}

/// Unpacks the initramfs of the image file `image` into the empty directory `target`.
///
/// # Errors
/// When the image or its archive cannot be read, or a file not be written.
pub fn unpack(image: &Path, target: &Path) -> Result<(), Error> {
    let mut image: Reader<File> = Reader::open(image).map_err(Error::Image)?;
    let mut archive = open(&mut image).map_err(Error::Image)?;
    cpio::unpack(&mut archive, target).map_err(Error::Unpack)
}

/// Compresses an archive; the same bytes in give the same bytes out.
///
/// # Errors
/// When memory for the result cannot be written.
pub fn compress(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(archive)?;
    encoder.finish()
}

/// Why the initramfs of an image could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image cannot be read.
    #[error("cannot open the image's initramfs")]
    Image(#[source] ReadError),
    /// The archive cannot be unpacked.
    #[error("cannot unpack the image's initramfs")]
    Unpack(#[source] cpio::UnpackError),
}
