//! `POST /containers/create`: checked in moby's order (JSON, settings, image, name), merged with the image, sent on.

mod check;
mod inherited;

use std::collections::BTreeMap;

use actors::container::{CreateSpec, Documents, MountSpec, NetworkSpec, ProcessSpec};
use actors::image::ImageSnapshot;
use actors::streams::ConsoleSize;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::inherited::{Inherited, merge_env};
use super::fields::{self, Section};
use super::hostconfig::HostConfig;
use super::{endpoints, mounts};
use crate::docker::engine::Engine;
use crate::docker::error::{self, ApiError};
use crate::docker::reply::{self, Reply};
use crate::docker::request::{Call, decode, fold_keys};
use crate::docker::version::ApiVersion;
use crate::docker::versions::{self, Place, behaviour};

/// `Config`, as far as it changes what is made. Nulls have been removed before.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    hostname: String,
    domainname: String,
    user: String,
    exposed_ports: BTreeMap<String, Value>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Vec<String>,
    cmd: Words,
    entrypoint: Words,
    image: String,
    volumes: BTreeMap<String, Value>,
    working_dir: String,
    network_disabled: bool,
    mac_address: String,
    labels: BTreeMap<String, String>,
    stop_signal: String,
    stop_timeout: Option<i64>,
    healthcheck: Option<Value>,
    shell: Vec<String>,
    on_build: Vec<String>,
}

/// A command: one text or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words {
    words: Vec<String>,
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        let words = match Either::deserialize(deserializer)? {
            Either::One(word) => vec![word],
            Either::Many(words) => words,
        };
        Ok(Self { words })
    }
}

/// What the client asked for, checked; the image is not known yet.
pub struct Request {
    config: Config,
    host: HostConfig,
    documents: Documents,
    endpoints: Map<String, Value>,
    mode: String,
    container_mac: Option<String>,
    warnings: Vec<String>,
}

/// `POST /containers/create`.
pub async fn create(call: Call) -> Result<Reply, ApiError> {
    let (call, body) = call.json().await?;
    let name = match call.query.get("name") {
        "" => None,
        name => Some(check_name(name)?.to_owned()),
    };
    let engine = call.engine();
    let request = Request::read(call.version, body, engine.system().cpus)?;
    let platform = match versions::has(call.version, behaviour::CREATE_PLATFORM) {
        true => call.query.get("platform"),
        false => "",
    };
    let spec = request.into_spec(engine, name, platform)?;
    let created = engine.create(spec).await.map_err(error::answer)?;
    reply::json_with(
        StatusCode::CREATED,
        &json!({ "Id": created.id.to_string(), "Warnings": created.warnings }),
    )
}

/// Checks a container's name, answering it without its slash.
///
/// # Errors
///
/// 400 with moby's text.
pub fn check_name(given: &str) -> Result<&str, ApiError> {
    let name = given.strip_prefix('/').unwrap_or(given);
    let good = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    match good {
        true => Ok(name),
        false => Err(ApiError::bad_request(format!(
            "Invalid container name ({given}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        ))),
    }
}

/// Removes nulls, which mean the same as absent fields.
fn without_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, v| !v.is_null());
    }
}

impl Request {
    /// Reads and checks the body.
    ///
    /// # Errors
    ///
    /// 400 with moby's texts, and ours for what a VM cannot have or we do not have yet.
    pub fn read(version: ApiVersion, mut body: Value, cpus: u32) -> Result<Self, ApiError> {
        if !body.is_object() {
            return Err(ApiError::bad_request(
                "invalid JSON: the body must be an object",
            ));
        }
        let mut known = fields::names(Section::Config);
        known.extend(["HostConfig", "NetworkingConfig"]);
        fold_keys(&mut body, &known);
        if let Some(host) = body.get_mut("HostConfig") {
            fold_keys(host, &fields::names(Section::HostConfig));
        }
        if let Some(networking) = body.get_mut("NetworkingConfig") {
            fold_keys(networking, &["EndpointsConfig"]);
        }
        without_nulls(&mut body);
        versions::upgrade(version, Place::ContainerCreate, &mut body)?;

        let mut take = |key: &str| {
            body.as_object_mut()
                .and_then(|map| map.remove(key))
                .unwrap_or_else(|| json!({}))
        };
        let (mut host_document, networking) = (take("HostConfig"), take("NetworkingConfig"));
        without_nulls(&mut host_document);
        let config: Config = decode(body.clone())?;
        let host: HostConfig = decode(host_document.clone())?;
        let mut endpoints = match networking.get("EndpointsConfig") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => {
                return Err(ApiError::bad_request(
                    "invalid JSON: EndpointsConfig must be an object",
                ));
            }
        };
        for endpoint in endpoints.values_mut() {
            fold_keys(endpoint, &fields::names(Section::Endpoint));
            without_nulls(endpoint);
        }

        let mut warnings = Vec::new();
        check::config(&config)?;
        host.check(cpus)?;
        let mode = if config.network_disabled {
            "none"
        } else {
            endpoints::normal_mode(&host.network_mode)
        };
        let mode = mode.to_owned();
        check::conflicts(&config, &host)?;
        endpoints::check_mode(&mode)?;
        endpoints::check(&endpoints, &mut warnings)?;
        fields::check(Section::Config, &body, &mut warnings)?;
        fields::check(Section::HostConfig, &host_document, &mut warnings)?;
        let container_mac = check::mac(version, &config, &mut warnings)?;

        let mut host_config = fields::compact(Section::HostConfig, &host_document);
        host_config["NetworkMode"] = json!(mode);
        if !host.cpuset_cpus.is_empty() {
            warnings.push(
                "A container's VM has as many CPUs as CpusetCpus names, and vSphere chooses which."
                    .to_owned(),
            );
        }
        let networking = json!({
            "EndpointsConfig": endpoints
                .iter()
                .map(|(name, e)| (name.clone(), fields::compact(Section::Endpoint, e)))
                .collect::<Map<_, _>>(),
        });
        let documents = Documents {
            config: fields::compact(Section::Config, &body),
            host_config,
            networking,
        };
        Ok(Self {
            config,
            host,
            documents,
            endpoints,
            mode,
            container_mac,
            warnings,
        })
    }

    /// Merges the request with its image.
    ///
    /// # Errors
    ///
    /// 404 for an unknown image; 400 for a container without a command, an unknown network, mounts that clash.
    pub fn into_spec(
        mut self,
        engine: &Engine,
        name: Option<String>,
        platform: &str,
    ) -> Result<CreateSpec, ApiError> {
        let image = engine
            .snapshots()
            .find_image(&self.config.image)
            .map_err(error::answer)?;
        self.check_platform(&image, platform)?;
        let inherited = Inherited::read(&image);
        let endpoints = endpoints::resolve(
            engine,
            &self.mode,
            &self.endpoints,
            self.container_mac.as_deref(),
        )?;
        let mounts = self.mounts(engine, &inherited)?;
        let mut warnings = std::mem::take(&mut self.warnings);
        if inherited.healthcheck {
            warnings.push(
                "The image's health check is not run: health checks are not implemented yet."
                    .to_owned(),
            );
        }
        let security = self.host.security(&mut warnings)?;
        let resources = self.host.resources()?;
        let process = self.process(&inherited)?;
        let mut labels = inherited.labels.clone();
        labels.extend(std::mem::take(&mut self.config.labels));
        let stop_signal = [&self.config.stop_signal, &inherited.stop_signal]
            .into_iter()
            .find(|s| !s.is_empty())
            .cloned();
        self.finish_config(&inherited, &process, &labels, stop_signal.as_deref());
        Ok(CreateSpec {
            name,
            image: image.id.clone(),
            image_name: self.config.image.clone(),
            process,
            hostname: self.config.hostname.clone(),
            domainname: self.config.domainname.clone(),
            labels,
            stop_signal,
            stop_timeout: self.config.stop_timeout,
            init: self.host.init.unwrap_or(false),
            auto_remove: self.host.auto_remove,
            resources,
            mounts,
            network: NetworkSpec {
                endpoints,
                dns: self.host.dns.clone(),
                dns_search: self.host.dns_search.clone(),
                dns_options: self.host.dns_options.clone(),
                extra_hosts: self.host.extra_hosts.clone(),
            },
            security,
            documents: self.documents,
            warnings,
        })
    }

    /// Whether a MAC address of the container itself was taken, and how many warnings there are.
    #[cfg(test)]
    pub fn mac_and_warnings(&self) -> (bool, usize) {
        (self.container_mac.is_some(), self.warnings.len())
    }

    fn check_platform(&mut self, image: &ImageSnapshot, platform: &str) -> Result<(), ApiError> {
        let (os, architecture) = (image.text("os"), image.text("architecture"));
        if platform.is_empty() {
            if !architecture.is_empty() && architecture != "amd64" {
                self.warnings.push(format!(
                    "The requested image's platform ({os}/{architecture}) does not match the detected host platform \
                     (linux/amd64) and no specific platform was requested"
                ));
            }
            return Ok(());
        }
        let mut parts = platform.split('/');
        let (wanted_os, wanted) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let same =
            (wanted_os == os || os.is_empty()) && (wanted.is_empty() || wanted == architecture);
        match same {
            true => Ok(()),
            // 404: the client may pull that platform's image.
            false => Err(ApiError::not_found(format!(
                "image with reference {} was found but does not provide the specified platform ({platform})",
                self.config.image
            ))),
        }
    }

    fn process(&self, inherited: &Inherited) -> Result<ProcessSpec, ApiError> {
        let config = &self.config;
        // An entrypoint of the client's own drops the image's command; one empty word is no entrypoint at all.
        let own = &config.entrypoint.words;
        let entrypoint = match own.as_slice() {
            [] => &inherited.entrypoint[..],
            [only] if only.is_empty() => &[],
            words => words,
        };
        let command = match config.cmd.words.as_slice() {
            [] if own.is_empty() => &inherited.cmd[..],
            words => words,
        };
        let argv: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
        if argv.first().is_none_or(String::is_empty) {
            return Err(ApiError::bad_request("no command specified"));
        }
        let pick = |own: &String, other: &String| {
            if own.is_empty() {
                other.clone()
            } else {
                own.clone()
            }
        };
        let console = self
            .host
            .console_size
            .filter(|[h, w]| *h > 0 && *w > 0)
            .map(|[h, w]| ConsoleSize {
                height: u16::try_from(h).unwrap_or(u16::MAX),
                width: u16::try_from(w).unwrap_or(u16::MAX),
            });
        Ok(ProcessSpec {
            argv,
            env: merge_env(&inherited.env, &config.env),
            cwd: pick(&config.working_dir, &inherited.working_dir),
            user: pick(&config.user, &inherited.user),
            groups: self.host.group_add.clone(),
            tty: config.tty,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            console,
        })
    }

    fn mounts(&self, engine: &Engine, inherited: &Inherited) -> Result<Vec<MountSpec>, ApiError> {
        let mut asked = Vec::new();
        for text in &self.host.binds {
            asked.push(mounts::bind(text)?);
        }
        for mount in &self.host.mounts {
            asked.push(mounts::mount(mount)?);
        }
        for (target, options) in &self.host.tmpfs {
            let MountSpec::Volume { target, .. } = mounts::anonymous(target)? else {
                continue;
            };
            asked.push(MountSpec::Tmpfs {
                target,
                options: options.clone(),
            });
        }
        let mut giving_way = Vec::new();
        for from in &self.host.volumes_from {
            let (id, mode) = from.split_once(':').unwrap_or((from, ""));
            let other = engine
                .find(id)
                .map_err(|why| ApiError::bad_request(error::answer(why).message().to_owned()))?;
            giving_way.extend(mounts::from_container(&other, mode)?);
        }
        for target in self.config.volumes.keys().chain(&inherited.volumes) {
            giving_way.push(mounts::anonymous(target)?);
        }
        mounts::join(asked, giving_way)
    }

    /// Completes the `Config` that inspect gives back by what came from the image.
    fn finish_config(
        &mut self,
        inherited: &Inherited,
        process: &ProcessSpec,
        labels: &BTreeMap<String, String>,
        stop_signal: Option<&str>,
    ) {
        let own = &self.config;
        let config = &mut self.documents.config;
        let Some(map) = config.as_object_mut() else {
            return;
        };
        let mut put = |key: &str, value: Value| {
            if !fields::is_unset(key, &value) {
                map.insert(key.to_owned(), value);
            }
        };
        put("Env", json!(process.env));
        put("User", json!(process.user));
        put("WorkingDir", json!(process.cwd));
        put("Labels", json!(labels));
        put("StopSignal", json!(stop_signal.unwrap_or("")));
        let own_entrypoint = !own.entrypoint.words.is_empty();
        if !own_entrypoint {
            put("Entrypoint", json!(inherited.entrypoint));
        }
        if own.cmd.words.is_empty() && !own_entrypoint {
            put("Cmd", json!(inherited.cmd));
        } else {
            put("Cmd", json!(own.cmd.words));
        }
        if own.shell.is_empty() {
            put("Shell", json!(inherited.shell));
        }
        if own.on_build.is_empty() {
            put("OnBuild", json!(inherited.on_build));
        }
        for (key, inherited) in [
            ("ExposedPorts", &inherited.exposed_ports),
            ("Volumes", &inherited.volumes),
        ] {
            if inherited.is_empty() {
                continue;
            }
            let entry = map.entry(key).or_insert_with(|| json!({}));
            if let Some(united) = entry.as_object_mut() {
                for name in inherited {
                    united.entry(name.clone()).or_insert_with(|| json!({}));
                }
            }
        }
        if let Some(bare) = map.get_mut("Entrypoint")
            && bare == &json!([""])
        {
            *bare = Value::Null;
        }
    }
}

#[cfg(test)]
mod tests;
