//! Fetching layers: a few at a time, checked while they stream, readable before they are whole.
//!
//! A download writes into a nameless file in the spool's directory. Readers may follow it from
//! the start, so that unpacking overlaps with downloading; they see the end of the stream only
//! after the digest was found right, and an error in its place otherwise.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use tokio::sync::{Semaphore, watch};

use crate::error::Error;
use crate::model::Descriptor;
use crate::registry::Session;

/// Downloads at once: docker's number.
pub const DOWNLOADS: usize = 3;
/// How often a download is tried: docker's number.
const TRIES: u32 = 5;
/// The wait before the second try; it grows by as much with each.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What happens to a layer on its way, in docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// Others go first.
    Waiting,
    /// Bytes are coming.
    Downloading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The connection broke; another try follows.
    Retrying {
        /// Until then.
        seconds: u64,
    },
    /// All bytes are here.
    Verifying,
    /// The digest is right.
    Downloaded,
    /// A reader takes the bytes.
    Extracting {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

impl FetchEvent {
    /// The `status` of docker's progress line.
    #[must_use]
    pub fn status(&self) -> String {
        match self {
            Self::Waiting => "Waiting".into(),
            Self::Downloading { .. } => "Downloading".into(),
            Self::Retrying { seconds: 1 } => "Retrying in 1 second".into(),
            Self::Retrying { seconds } => format!("Retrying in {seconds} seconds"),
            Self::Verifying => "Verifying Checksum".into(),
            Self::Downloaded => "Download complete".into(),
            Self::Extracting { .. } => "Extracting".into(),
        }
    }

    /// The figures of docker's progress bar: current and total.
    #[must_use]
    pub fn figures(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Downloading { current, total } | Self::Extracting { current, total } => {
                Some((current, total))
            }
            _ => None,
        }
    }
}

/// Who hears of events. Called from the download and from readers; must not block.
pub type Events = Arc<dyn Fn(FetchEvent) + Send + Sync>;

/// Where downloads are kept until they are unpacked, and how many run at once. Clones share both.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
    slots: Arc<Semaphore>,
    back_off: Duration,
}

impl Spool {
    /// Spools to nameless files in `dir`: nothing is left there, whatever happens.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            slots: Arc::new(Semaphore::new(DOWNLOADS)),
            back_off: BACK_OFF,
        }
    }

    /// The same with another wait between tries.
    #[must_use]
    pub fn with_back_off(self, back_off: Duration) -> Self {
        Self { back_off, ..self }
    }

    fn file(&self) -> Result<File, Error> {
        let what = "make a temporary file";
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match open(&self.dir, flags, Mode::from_bits_truncate(0o600)) {
            Ok(fd) => Ok(fd.into()),
            // Not every file system has nameless files.
            Err(_) => {
                let path = self
                    .dir
                    .join(format!(".fetch-{:016x}", rand::random::<u64>()));
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&path);
                let _ = std::fs::remove_file(&path);
                file.map_err(Error::local(what))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Open,
    Good,
    Bad(String),
}

struct Shared {
    file: Arc<File>,
    offset: u64,
    total: u64,
    state: Mutex<(u64, End)>,
    more: Condvar,
    events: Events,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, (u64, End)> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    fn end(&self, end: End) {
        self.state().1 = end;
        self.more.notify_all();
    }
}

/// A layer that is being fetched, or is here. Dropping it ends the transfer and frees the space
/// when the last reader is gone.
#[derive(Debug)]
pub struct Fetch {
    shared: Arc<Shared>,
    task: Option<tokio::task::JoinHandle<()>>,
    outcome: watch::Receiver<Option<Result<(), Arc<Error>>>>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
            let mut state = self.shared.state();
            if state.1 == End::Open {
                state.1 = End::Bad("the transfer was cancelled".into());
                self.shared.more.notify_all();
            }
        }
    }
}

impl Fetch {
    /// Content that is here already, at `offset` of a file.
    pub(crate) fn ready(file: Arc<File>, offset: u64, size: u64, events: Events) -> Self {
        let shared = Shared {
            file,
            offset,
            total: size,
            state: Mutex::new((size, End::Good)),
            more: Condvar::new(),
            events,
        };
        let (_, outcome) = watch::channel(Some(Ok(())));
        Self {
            shared: Arc::new(shared),
            task: None,
            outcome,
        }
    }

    /// Starts a download.
    pub(crate) fn download(
        session: Arc<Session>,
        blob: Descriptor,
        spool: &Spool,
        events: Events,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            file: Arc::new(spool.file()?),
            offset: 0,
            total: blob.size,
            state: Mutex::new((0, End::Open)),
            more: Condvar::new(),
            events,
        });
        let (tell, outcome) = watch::channel(None);
        let (slots, back_off, work) = (spool.slots.clone(), spool.back_off, shared.clone());
        let task = tokio::spawn(async move {
            let result = Self::try_all(&session, &blob, &work, &slots, back_off).await;
            match &result {
                Ok(()) => {
                    (work.events)(FetchEvent::Downloaded);
                    work.end(End::Good);
                }
                Err(error) => work.end(End::Bad(error.to_string())),
            }
            tell.send_replace(Some(result.map_err(Arc::new)));
        });
        Ok(Self {
            shared,
            task: Some(task),
            outcome,
        })
    }

    async fn try_all(
        session: &Session,
        blob: &Descriptor,
        shared: &Shared,
        slots: &Semaphore,
        back_off: Duration,
    ) -> Result<(), Error> {
        let _slot = match slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                (shared.events)(FetchEvent::Waiting);
                slots
                    .acquire()
                    .await
                    .map_err(|e| Error::malformed("spool", e))?
            }
        };
        let mut turn = 1;
        loop {
            let failed = match Self::try_once(session, blob, shared).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if turn == TRIES || !failed.is_retryable() {
                return Err(failed);
            }
            tracing::info!(digest = %blob.digest, error = %failed, "a layer is fetched again");
            let wait = back_off * turn;
            for left in (1..=wait.as_secs()).rev() {
                (shared.events)(FetchEvent::Retrying { seconds: left });
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            tokio::time::sleep(Duration::from_nanos(wait.subsec_nanos().into())).await;
            turn += 1;
        }
    }

    async fn try_once(session: &Session, blob: &Descriptor, shared: &Shared) -> Result<(), Error> {
        let mut response = session.blob(&blob.digest).await?;
        let mut hasher = blob.digest.hasher();
        let mut at = 0u64;
        let mut told: Option<Instant> = None;
        let total = blob.size;
        loop {
            let chunk = response.chunk().await.map_err(|e| Error::Interrupted {
                what: blob.digest.to_string(),
                why: crate::registry::reason(&e),
            })?;
            let Some(chunk) = chunk else {
                break;
            };
            if at + chunk.len() as u64 > total {
                return Err(Error::LayerDigest {
                    digest: blob.digest.clone(),
                });
            }
            hasher.update(&chunk);
            shared
                .file
                .write_all_at(&chunk, at)
                .map_err(Error::local("spool a layer"))?;
            at += chunk.len() as u64;
            {
                // A second try writes again what readers may have seen; they are not told twice.
                let mut state = shared.state();
                state.0 = state.0.max(at);
            }
            shared.more.notify_all();
            if told.is_none_or(|t| t.elapsed() >= TELL_EVERY) || at == total {
                told = Some(Instant::now());
                (shared.events)(FetchEvent::Downloading { current: at, total });
            }
        }
        if at < total {
            return Err(Error::Interrupted {
                what: blob.digest.to_string(),
                why: format!("{at} of {total} bytes came"),
            });
        }
        (shared.events)(FetchEvent::Verifying);
        match hasher.finish() == blob.digest {
            true => Ok(()),
            false => Err(Error::LayerDigest {
                digest: blob.digest.clone(),
            }),
        }
    }

    /// Waits until all bytes are here and their digest is right.
    ///
    /// # Errors
    /// The last try's error.
    ///
    /// # Cancel safety
    /// May be called again at any time.
    pub async fn done(&mut self) -> Result<(), Arc<Error>> {
        let gone = || {
            Err(Arc::new(Error::Interrupted {
                what: "a layer".into(),
                why: "it was cancelled".into(),
            }))
        };
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }

    /// Length of the content as the manifest says.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.total
    }

    /// A reader of the content from its start. It blocks: never on a tokio thread.
    ///
    /// It may be used while the download goes on. A failed download, or one with the wrong
    /// digest, is an error where the end would be.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            shared: self.shared.clone(),
            at: 0,
            told: None,
        }
    }
}

/// Reads what a [`Fetch`] brings.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    at: u64,
    told: Option<Instant>,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let shared = &*self.shared;
        let available = {
            let state = shared.state();
            let waiting = |s: &mut (u64, End)| s.0 <= self.at && s.1 == End::Open;
            let waited = shared.more.wait_while(state, waiting);
            let state = waited.unwrap_or_else(|poison| poison.into_inner());
            match &state.1 {
                End::Bad(why) => return Err(io::Error::other(why.clone())),
                // The last byte is given out with the digest known: whoever counts bytes instead
                // of waiting for the end is not deceived.
                End::Open if state.0 == shared.total => {
                    let done = shared.more.wait_while(state, |s| s.1 == End::Open);
                    let state = done.unwrap_or_else(|poison| poison.into_inner());
                    if let End::Bad(why) = &state.1 {
                        return Err(io::Error::other(why.clone()));
                    }
                    state.0
                }
                _ => state.0,
            }
        };
        let want = (available - self.at).min(buf.len() as u64) as usize;
        let got = shared
            .file
            .read_at(&mut buf[..want], shared.offset + self.at)?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        if got > 0
            && (self.at == shared.total || self.told.is_none_or(|t| t.elapsed() >= TELL_EVERY))
        {
            self.told = Some(Instant::now());
            (shared.events)(FetchEvent::Extracting {
                current: self.at,
                total: shared.total,
            });
        }
        Ok(got)
    }
}
