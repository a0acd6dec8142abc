//! Compression, told by its first bytes: media types lie.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

const BUFFER: usize = 128 * 1024;
/// The largest window that a zstd layer may ask for: 128 MiB, what `zstd --long` uses.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Tells the compression from the first bytes.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame: zstd:chunked may begin with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Reads a stream uncompressed.
///
/// # Errors
/// The stream's own, or when a decompressor cannot be made.
pub fn decompress<R: Read>(mut stream: R) -> io::Result<impl Read> {
    let mut head = [0u8; 4];
    let mut got = 0;
    while got < head.len() {
        match stream.read(&mut head[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let compression = Compression::of(&head[..got]);
    let whole = Cursor::new(head[..got].to_vec()).chain(stream);
    let buffered = BufReader::with_capacity(BUFFER, whole);
    Ok(match compression {
        Compression::Plain => Stream::Plain(buffered),
        Compression::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(buffered))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Stream::Zstd(Box::new(decoder))
        }
    })
}

type Whole<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

enum Stream<R: Read> {
    Plain(Whole<R>),
    Gzip(Box<MultiGzDecoder<Whole<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Whole<R>>>),
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Gzip(stream) => match stream.read(buf) {
                // Zeros behind the last member are padding, as gzip(1) sees it.
                Err(e)
                    if e.kind() == io::ErrorKind::InvalidInput && only_zeros(stream.get_mut()) =>
                {
                    Ok(0)
                }
                other => other,
            },
            Self::Zstd(stream) => stream.read(buf),
        }
    }
}

fn only_zeros<R: Read>(rest: &mut Whole<R>) -> bool {
    match rest.fill_buf() {
        Ok(left) => left.iter().all(|b| *b == 0),
        Err(_) => false,
    }
}
