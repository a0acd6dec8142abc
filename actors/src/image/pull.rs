//! A transfer: one pull or load, its progress, its end. Dies alone: layers that it wanted go on for others.
//!
//! ```text
//!  resolving ── registry accepted ──▶ layers (all at once; each written after the one below) ──▶ repository
//! ```
//! What a crash loses: the transfer; its watcher sees the stream end without a last word.

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use imagec::{Client, Credentials, Image, Kind, LocalPolicy, Options, Platform, Reference, Spool};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use strategy::{Address, AskError, ChildSpec, Restart, SupervisorMessage};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::layer::{self, LayerActor};
use super::need::Wanted;
use super::{ImageSnapshot, Progress, PullRequest, Transfer, Upload, repository};
use crate::context::Context;
use crate::error::Error;
use crate::events::{self, EventKind};
use crate::ids::ImageId;

/// How long the parts of a transfer may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(3600);

/// What is to be transferred.
#[derive(Debug)]
enum What {
    Pull(PullRequest),
    Load(Upload),
}

struct Job {
    what: What,
    accepted: oneshot::Sender<Result<(), Error>>,
    watcher: mpsc::UnboundedSender<Progress>,
    /// Told when the work has come to an end of its own, good or bad; dropped when it was ended.
    ended: oneshot::Sender<()>,
}

/// The transfer actor.
#[derive(Debug)]
pub struct Pull;

/// What it is started with.
#[derive(Clone)]
pub struct Args {
    context: Context,
    job: Arc<Mutex<Option<Job>>>,
    busy: strategy::Busy,
}

impl std::fmt::Debug for Args {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("pull::Args")
    }
}

/// Internal: the transfer is over.
#[derive(Debug)]
pub struct Done;

impl Actor for Pull {
    type Msg = Done;
    type State = JoinSet<()>;
    type Arguments = Args;

    async fn pre_start(
        &self,
        myself: ActorRef<Done>,
        args: Args,
    ) -> Result<JoinSet<()>, ActorProcessingErr> {
        let job = args
            .job
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let job = job.ok_or("a transfer is not started twice")?;
        let mut tasks = JoinSet::new();
        let busy = args.busy.request();
        tasks.spawn(async move {
            let _busy = busy;
            run(&args.context, job).await;
            let _ = myself.send_message(Done);
        });
        Ok(tasks)
    }

    async fn handle(
        &self,
        myself: ActorRef<Done>,
        Done: Done,
        _: &mut JoinSet<()>,
    ) -> Result<(), ActorProcessingErr> {
        myself.stop(None);
        Ok(())
    }
}

/// Starts a pull; answers when the registry has accepted.
pub(crate) async fn pull(context: &Context, request: PullRequest) -> Result<Transfer, Error> {
    start(context, What::Pull(request)).await
}

/// Starts a load.
pub(crate) async fn load(context: &Context, archive: Upload) -> Result<Transfer, Error> {
    start(context, What::Load(archive)).await
}

async fn start(context: &Context, what: What) -> Result<Transfer, Error> {
    let (accepted, was_accepted) = oneshot::channel();
    let (watcher, mut steps) = mpsc::unbounded_channel();
    let (ended, has_ended) = oneshot::channel();
    let job = Arc::new(Mutex::new(Some(Job {
        what,
        accepted,
        watcher,
        ended,
    })));
    let address = Address::default();
    let args = Args {
        context: context.clone(),
        job,
        busy: address.busy().clone(),
    };
    let id = format!("pull-{:08x}", rand::random::<u32>());
    let make = move || (Pull, args.clone());
    let child = ChildSpec::new(id, Restart::Temporary, address, make).kind("pull");
    let images = &context.addresses().images;
    let added = images
        .ask(DEADLINE, |r| SupervisorMessage::AddChild(child, r))
        .await;
    added
        .map_err(|why| Error::failed_for_now("start a transfer", &why))?
        .map_err(|why| Error::internal("start a transfer", why))?;
    was_accepted
        .await
        .map_err(|_| Error::Interrupted("transfer"))??;
    let (client, progress) = mpsc::channel(64);
    // A client that does not read leaves only its own copy waiting.
    tokio::spawn(async move {
        let mut has_ended = has_ended;
        // The end is heard of itself: a step's sender may lie in the mailbox of a layer that was ended too.
        let over = loop {
            tokio::select! {
                biased;
                step = steps.recv() => match step {
                    Some(step) => {
                        if client.send(step).await.is_err() {
                            return;
                        }
                    }
                    None => break has_ended.await,
                },
                over = &mut has_ended => break over,
            }
        };
        while let Ok(step) = steps.try_recv() {
            if client.send(step).await.is_err() {
                return;
            }
        }
        // Without a last word a client would take the stream's end for success.
        if over.is_err() {
            let why = Error::Interrupted("transfer");
            let _ = client.send(Progress::Failed(why)).await;
        }
    });
    Ok(Transfer { progress })
}

async fn run(context: &Context, job: Job) {
    let Job {
        what,
        accepted,
        watcher,
        ended,
    } = job;
    let mut accepted = Some(accepted);
    let result = match what {
        What::Pull(request) => run_pull(context, request, &mut accepted, &watcher).await,
        What::Load(archive) => run_load(context, archive, &mut accepted, &watcher).await,
    };
    if let Err(why) = result {
        match accepted.take() {
            // Watchers may leave.
            Some(accepted) => drop(accepted.send(Err(why))),
            None => drop(watcher.send(Progress::Failed(why))),
        }
    }
    // The watcher may have left.
    let _ = ended.send(());
}

type Accepted = Option<oneshot::Sender<Result<(), Error>>>;

fn accept(accepted: &mut Accepted) {
    if let Some(accepted) = accepted.take() {
        let _ = accepted.send(Ok(()));
    }
}

/// An error of the registry client as ours.
pub(super) fn failure(why: &imagec::Error) -> Error {
    match why.kind() {
        Kind::NotFound => Error::NotFound(why.to_string()),
        Kind::Invalid => Error::Invalid(why.to_string()),
        Kind::System => Error::Failed {
            tried: "pull".into(),
            why: crate::error::chain(why),
            retryable: why.is_retryable(),
        },
    }
}

fn client(context: &Context) -> Result<Client, Error> {
    let settings = context.settings();
    let ca_pem = match settings.registry_ca.is_empty() {
        true => vec![],
        false => vec![settings.registry_ca.clone().into_bytes()],
    };
    let options = Options {
        insecure: settings.insecure_registries.clone(),
        ca_pem,
        local: LocalPolicy::Refuse {
            instead: "host.docker.internal".into(),
        },
    };
    Client::new(options.with_system_roots()).map_err(|why| failure(&why))
}

async fn run_pull(
    context: &Context,
    request: PullRequest,
    accepted: &mut Accepted,
    watcher: &mpsc::UnboundedSender<Progress>,
) -> Result<(), Error> {
    let invalid = |why: imagec::ReferenceError| Error::Invalid(why.to_string());
    let named = Reference::parse(&request.image).map_err(invalid)?;
    let mut credentials = Credentials::default();
    if let Some(auth) = request.auth {
        credentials.username = auth.username;
        credentials.password = auth.password;
        credentials.identity_token = auth.identity_token;
        credentials.registry_token = auth.registry_token;
    }
    let platform = match request.platform.as_str() {
        "" => None,
        text => Some(
            text.parse::<Platform>()
                .map_err(|why| Error::Invalid(why.to_string()))?,
        ),
    };
    let client = client(context)?;
    let references = match request.tag.as_deref().filter(|t| !t.is_empty()) {
        Some(digest) if digest.contains(':') => {
            let digest = digest
                .parse()
                .map_err(|_| Error::Invalid("invalid reference format".into()))?;
            vec![named.with_digest(digest)]
        }
        Some(tag) => vec![named.with_tag(tag).map_err(invalid)?],
        None if named.tag().is_some() || named.digest().is_some() => vec![named],
        None => {
            let tags = client
                .tags(&named, &credentials)
                .await
                .map_err(|why| failure(&why))?;
            tags.iter()
                .filter_map(|tag| named.with_tag(tag).ok())
                .collect()
        }
    };
    for reference in references {
        let image = client
            .resolve(&reference, platform.as_ref(), &credentials)
            .await;
        let image = image.map_err(|why| failure(&why))?;
        accept(accepted);
        let say = |id: &str, status: String| {
            let _ = watcher.send(Progress::Status {
                id: id.to_owned(),
                status,
            });
        };
        let label = reference
            .tag()
            .unwrap_or_else(|| reference.manifest_key())
            .to_owned();
        say(&label, format!("Pulling from {}", reference.path()));
        let digest = image.manifest.as_ref().map(|m| m.digest.to_string());
        let known = context
            .snapshots()
            .images()
            .contains_key(&image_id(&image)?);
        let tags = if reference.digest().is_some() {
            vec![]
        } else {
            vec![reference.familiar()]
        };
        let digests = digest
            .iter()
            .map(|d| format!("{}@{d}", reference.familiar_name()))
            .collect();
        store(context, image, tags, digests, watcher).await?;
        if let Some(digest) = digest {
            say("", format!("Digest: {digest}"));
        }
        let familiar = reference.familiar();
        say(
            "",
            if known {
                format!("Status: Image is up to date for {familiar}")
            } else {
                format!("Status: Downloaded newer image for {familiar}")
            },
        );
        emit(context, "pull", &familiar, &familiar);
    }
    Ok(())
}

async fn run_load(
    context: &Context,
    archive: Upload,
    accepted: &mut Accepted,
    watcher: &mpsc::UnboundedSender<Progress>,
) -> Result<(), Error> {
    accept(accepted);
    let spool = context.settings().spool.clone();
    let opened = tokio::task::spawn_blocking(move || open(archive, &spool)).await;
    let loaded = opened.map_err(|why| Error::failed("load", &why))??;
    for image in loaded {
        let id = image_id(&image.image)?;
        let tags: Vec<_> = image.tags.iter().map(Reference::familiar).collect();
        store(context, image.image, tags.clone(), vec![], watcher).await?;
        if tags.is_empty() {
            let _ = watcher.send(Progress::Stream(format!("Loaded image ID: {id}\n")));
        }
        for tag in tags {
            let _ = watcher.send(Progress::Stream(format!("Loaded image: {tag}\n")));
        }
        emit(context, "load", id.as_str(), id.as_str());
    }
    Ok(())
}

/// Spools the upload to a nameless file and reads its index. Blocks.
fn open(
    archive: Upload,
    spool: &std::path::Path,
) -> Result<Vec<imagec::archive::LoadedImage>, Error> {
    let failed = |why: io::Error| Error::failed("read the archive", &why);
    let path = spool.join(format!("load-{:016x}", rand::random::<u64>()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(failed)?;
    // Nameless from here on: whatever happens, nothing stays.
    std::fs::remove_file(&path).map_err(failed)?;
    let upload = UploadReader {
        archive,
        rest: Bytes::new(),
    };
    imagec::archive::spool(upload, &mut file).map_err(failed)?;
    imagec::archive::open(file, None).map_err(|why| match why.kind() {
        Kind::System => Error::Invalid(why.to_string()),
        _ => failure(&why),
    })
}

/// An upload as something to read from. Blocks.
struct UploadReader {
    archive: Upload,
    rest: Bytes,
}

impl Read for UploadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.archive.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.rest = chunk?,
            }
        }
        let n = self.rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

fn image_id(image: &Image) -> Result<ImageId, Error> {
    ImageId::parse(image.id.as_str()).map_err(|why| Error::failed("read the image's id", &why))
}

/// Makes all layers present, then enters the image.
async fn store(
    context: &Context,
    image: Image,
    tags: Vec<String>,
    digests: Vec<String>,
    watcher: &mpsc::UnboundedSender<Progress>,
) -> Result<(), Error> {
    let id = image_id(&image)?;
    let spool = Spool::new(&context.settings().spool);
    let mut asked = JoinSet::new();
    let mut parent: Option<(String, Address<layer::Message>)> = None;
    let mut size = 0;
    let diff_ids: Vec<_> = image.layers.iter().map(|l| l.diff_id.to_string()).collect();
    // Until the image is entered; then the image needs them.
    let chains = super::chains(&diff_ids);
    let unknown = chains.iter().any(|c| !context.has_image_on(c));
    let _wanted = Wanted::new(context, chains);
    if unknown {
        begin(context).await?;
    }
    for layer in image.layers {
        let chain = layer.chain_id.hex().to_owned();
        let address = layer_actor(context, &chain).await?;
        let job = layer::Job {
            layer,
            parent: parent.replace((chain, address.clone())),
            spool: spool.clone(),
            watcher: watcher.clone(),
        };
        asked.spawn(async move {
            address
                .ask(DEADLINE, |r| layer::Message::Ensure(Box::new(job), r))
                .await
        });
    }
    while let Some(answer) = asked.join_next().await {
        let answer = answer.map_err(|why| Error::failed("write a layer", &why))?;
        size += answer.map_err(|why| Error::failed_for_now("write a layer", &why))??;
    }
    let config: serde_json::Value = serde_json::from_slice(&image.config)
        .map_err(|why| Error::failed("read the image's configuration", &why))?;
    let created = config.get("created").and_then(|c| c.as_str());
    let snapshot = ImageSnapshot {
        id,
        tags,
        digests,
        chain_id: super::chains(&diff_ids).pop().unwrap_or_default(),
        diff_ids,
        size,
        created: created.and_then(|c| OffsetDateTime::parse(c, &Rfc3339).ok()),
        last_tagged: Some(OffsetDateTime::now_utc()),
        config,
    };
    let repository = &context.addresses().repository;
    let put = repository
        .ask(DEADLINE, |r| {
            repository::Message::Put(Box::new(snapshot), r)
        })
        .await;
    put.map_err(|why| Error::failed_for_now("enter the image", &why))?
}

/// Has the repository note what is about to be written.
async fn begin(context: &Context) -> Result<(), Error> {
    let repository = &context.addresses().repository;
    loop {
        match repository.ask(DEADLINE, repository::Message::Begin).await {
            Ok(answer) => return answer,
            Err(AskError::Interrupted) => {}
            Err(why) => return Err(Error::failed_for_now("begin a transfer", &why)),
        }
    }
}

/// The address of a layer whose actor is being started. Given up unless it is kept: others may wait there.
struct Claim<'a> {
    context: &'a Context,
    chain: &'a str,
    address: Address<layer::Message>,
    kept: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.context.leave_layer(self.chain, &self.address);
        }
    }
}

/// The actor of a layer, started if it is not there.
///
/// # Cancel safety
/// Whoever waits for the actor meanwhile is told that it does not come.
pub(super) async fn layer_actor(
    context: &Context,
    chain: &str,
) -> Result<Address<layer::Message>, Error> {
    let id = chain.get(..12).unwrap_or(chain);
    let images = &context.addresses().images;
    loop {
        let (address, new) = context.layer(chain);
        if !new {
            return Ok(address);
        }
        let mut claim = Claim {
            context,
            chain,
            address,
            kept: false,
        };
        // Closed when the supervisor is restarted: then all begins anew.
        while !claim.address.is_closed() {
            let args = layer::Args {
                context: context.clone(),
                chain: chain.to_owned(),
            };
            let make = move || (LayerActor, args.clone());
            let child =
                ChildSpec::new(id, Restart::Permanent, claim.address.clone(), make).kind("layer");
            let added = images
                .ask(DEADLINE, |r| SupervisorMessage::AddChild(child, r))
                .await;
            match added {
                Ok(Ok(())) if claim.address.get().is_some() => {
                    claim.kept = true;
                    return Ok(claim.address.clone());
                }
                // Its place is taken by one that was asked for before the supervisor was restarted.
                Ok(Ok(())) => {
                    // Removed or not, the next try tells.
                    let _ = images
                        .ask(DEADLINE, |r| {
                            SupervisorMessage::RemoveChild(id.to_owned(), r)
                        })
                        .await;
                }
                Err(AskError::Interrupted) => {}
                Ok(Err(_)) if claim.address.is_closed() => {}
                Ok(Err(why)) => return Err(Error::internal("start a layer's actor", why)),
                Err(why) => return Err(Error::failed_for_now("start a layer's actor", &why)),
            }
        }
    }
}

fn emit(context: &Context, action: &str, id: &str, name: &str) {
    context.emit(events::Event {
        kind: EventKind::Image,
        action: action.to_owned(),
        id: id.to_owned(),
        attributes: std::collections::BTreeMap::from([("name".to_owned(), name.to_owned())]),
        time: OffsetDateTime::now_utc(),
    });
}
