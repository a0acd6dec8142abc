//! Which containers a list shows: `all`, `limit` and the filters.

use std::sync::Arc;

use actors::container::ContainerSnapshot;
use actors::image::{ImageSnapshot, Images};
use regex::{RegexBuilder, RegexSet, RegexSetBuilder};
use time::OffsetDateTime;

use super::list::volume_words;
use crate::docker::error::{self, ApiError};
use crate::docker::filters::Filters;
use crate::docker::request::Query;

/// The keys that the list filters by.
const KEYS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// docker's words for states.
const STATES: &[&str] = &[
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];

/// A name longer than this is no pattern for a container's name.
const MAX_PATTERN: usize = 1024;

/// What all patterns of a request may take in memory: thousands of names do, and a few classes of letters, and it is
/// read in a moment. A request has room for thousands of patterns that would each take megabytes and a second.
const MAX_PATTERNS: usize = 1 << 20;

/// Matches nothing.
const NOTHING: &str = r"[^\s\S]";

/// What a list asks for.
pub struct Selection {
    filters: Filters,
    all: bool,
    limit: usize,
    names: RegexSet,
    ids: RegexSet,
    exited: Vec<i64>,
    ancestors: Vec<Arc<ImageSnapshot>>,
    before: Option<(OffsetDateTime, actors::ContainerId)>,
    since: Option<(OffsetDateTime, actors::ContainerId)>,
    ports: Vec<(bool, Ports)>,
}

impl Selection {
    /// Reads the query.
    ///
    /// # Errors
    ///
    /// 400 for an unknown filter or a value that makes no sense; 404 for `before` and `since` of unknown containers.
    pub fn parse(
        query: &Query,
        containers: &[Arc<ContainerSnapshot>],
        images: &Images,
    ) -> Result<Self, ApiError> {
        let mut filters = query.filters()?;
        filters.only(KEYS)?;
        for key in ["before", "since"] {
            if let Some(value) = query.opt(key).filter(|v| !v.is_empty()) {
                filters.add(key, value);
            }
        }
        let limit = query.integer("limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(0);
        let mut selection = Self {
            all: query.flag("all") || limit > 0 || filters.has("status"),
            limit,
            names: patterns(filters.values("name"))?,
            ids: patterns(filters.values("id"))?,
            exited: Vec::new(),
            ancestors: Vec::new(),
            before: None,
            since: None,
            ports: Vec::new(),
            filters,
        };
        selection.check(containers, images)?;
        Ok(selection)
    }

    fn check(
        &mut self,
        containers: &[Arc<ContainerSnapshot>],
        images: &Images,
    ) -> Result<(), ApiError> {
        for state in self.filters.values("status") {
            if !STATES.contains(&state.as_str()) {
                return Err(invalid(
                    "status",
                    state,
                    "invalid value for state: must be one of \"created\", \"running\", \"paused\", \"restarting\", \
                     \"removing\", \"exited\", \"dead\"",
                ));
            }
        }
        for health in self.filters.values("health") {
            if !matches!(
                health.as_str(),
                "none" | "starting" | "healthy" | "unhealthy"
            ) {
                return Err(invalid("health", health, "invalid value for health"));
            }
        }
        self.filters.boolean("is-task")?;
        for code in self.filters.values("exited") {
            let code = code
                .parse()
                .map_err(|_| invalid("exited", code, "strconv.Atoi: parsing: invalid syntax"))?;
            self.exited.push(code);
        }
        if !self.exited.is_empty() {
            self.all = true;
        }
        for wanted in self.filters.values("ancestor") {
            self.ancestors
                .extend(actors::image::find(images, wanted).ok());
        }
        for (key, slot) in [("before", &mut self.before), ("since", &mut self.since)] {
            if let Some(wanted) = self.filters.values(key).last() {
                *slot = Some(
                    find(containers, wanted)
                        .map(|c| (c.created, c.id))
                        .map_err(error::answer)?,
                );
            }
        }
        for (published, key) in [(true, "publish"), (false, "expose")] {
            for value in self.filters.values(key) {
                let ports = Ports::parse(value).ok_or_else(|| {
                    ApiError::bad_request(format!("invalid port specification: {value:?}"))
                })?;
                self.ports.push((published, ports));
            }
        }
        Ok(())
    }

    /// The chosen containers, in the order given (newest first), at most as many as were asked for.
    pub fn choose<'a>(
        &'a self,
        containers: &'a [Arc<ContainerSnapshot>],
    ) -> impl Iterator<Item = &'a Arc<ContainerSnapshot>> {
        let limit = if self.limit == 0 {
            usize::MAX
        } else {
            self.limit
        };
        containers.iter().filter(|c| self.wants(c)).take(limit)
    }

    fn wants(&self, container: &ContainerSnapshot) -> bool {
        let filters = &self.filters;
        (self.all || container.is_running())
            && filters.exact("status", container.status_word())
            && (self.names.is_empty() || named(&self.names, &container.name))
            && (self.ids.is_empty() || self.ids.is_match(&container.id.to_string()))
            && (self.exited.is_empty()
                || (self.ran(container) && self.exited.contains(&container.exit_code)))
            && filters.labels("label", |key| {
                container.spec.labels.get(key).map(String::as_str)
            })
            && (!filters.has("ancestor")
                || self
                    .ancestors
                    .iter()
                    .any(|image| descends(container, image)))
            && self
                .before
                .is_none_or(|at| (container.created, container.id) < at)
            && self
                .since
                .is_none_or(|at| (container.created, container.id) > at)
            && filters.any("volume", |wanted| {
                volume_words(container).any(|word| word == wanted)
            })
            && filters.any("network", |wanted| in_network(container, wanted))
            && filters.exact("health", "none")
            && filters.any("is-task", |value| matches!(value, "false" | "0"))
            && self.wants_ports(container)
    }

    fn ran(&self, container: &ContainerSnapshot) -> bool {
        container.started_at.is_some() && !container.is_running()
    }

    fn wants_ports(&self, container: &ContainerSnapshot) -> bool {
        if self.ports.is_empty() {
            return true;
        }
        // No port is published yet: only `expose` can match.
        let exposed = container
            .spec
            .documents
            .config
            .get("ExposedPorts")
            .and_then(serde_json::Value::as_object);
        let exposed: Vec<Ports> = exposed
            .into_iter()
            .flatten()
            .filter_map(|(port, _)| Ports::parse(port))
            .collect();
        let asked = |published| {
            self.ports
                .iter()
                .filter(move |(p, _)| *p == published)
                .map(|(_, ports)| ports)
        };
        let expose = asked(false).count() == 0
            || asked(false).any(|wanted| exposed.iter().any(|have| wanted.overlaps(have)));
        expose && asked(true).count() == 0
    }
}

fn invalid(key: &str, value: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("invalid filter '{key}={value}': {why}"))
}

/// Reads filter values as patterns, of which one must match. As in moby, what is no pattern is no error: it matches
/// nothing.
///
/// # Errors
///
/// 400 when all together are too large.
pub fn patterns(values: &[String]) -> Result<RegexSet, ApiError> {
    let values = values.iter().map(|value| match value.len() > MAX_PATTERN {
        true => "",
        false if is_pattern(value) => value.as_str(),
        false => NOTHING,
    });
    RegexSetBuilder::new(values)
        .size_limit(MAX_PATTERNS)
        .build()
        .map_err(|why| ApiError::bad_request(format!("invalid filter pattern: {why}")))
}

/// Whether a text can be read as a pattern, of whatever size: nothing is built.
fn is_pattern(text: &str) -> bool {
    let built = RegexBuilder::new(text).size_limit(0).build();
    !matches!(built, Err(regex::Error::Syntax(_)))
}

fn named(patterns: &RegexSet, name: &str) -> bool {
    patterns.is_match(name) || patterns.is_match(&format!("/{name}"))
}

fn find<'a>(
    containers: &'a [Arc<ContainerSnapshot>],
    wanted: &str,
) -> Result<&'a Arc<ContainerSnapshot>, actors::Error> {
    let name = wanted.strip_prefix('/').unwrap_or(wanted);
    if let Some(found) = containers.iter().find(|c| c.name == name) {
        return Ok(found);
    }
    let missing = || actors::Error::NoSuchContainer(wanted.to_owned());
    if wanted.is_empty() {
        return Err(missing());
    }
    let mut found = containers
        .iter()
        .filter(|c| c.id.to_string().starts_with(wanted));
    let first = found.next().ok_or_else(missing)?;
    match found.next() {
        Some(_) => Err(actors::Error::AmbiguousPrefix(wanted.to_owned())),
        None => Ok(first),
    }
}

fn descends(container: &ContainerSnapshot, image: &ImageSnapshot) -> bool {
    container.spec.image == image.id
}

fn in_network(container: &ContainerSnapshot, wanted: &str) -> bool {
    container
        .endpoints
        .iter()
        .any(|e| e.network_name == wanted || e.network.to_string().starts_with(wanted))
        || (container.endpoints.is_empty() && wanted == super::list::network_mode(container))
}

/// `80`, `80/udp`, `80-90/tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
    protocol: String,
}

impl Ports {
    /// Reads a port or a range with its protocol; TCP when none is given.
    pub fn parse(text: &str) -> Option<Self> {
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let protocol = protocol.to_ascii_lowercase();
        (first <= last && matches!(protocol.as_str(), "tcp" | "udp" | "sctp")).then_some(Self {
            first,
            last,
            protocol,
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::tests::sample;
    use actors::container::Phase;
    use proptest::prelude::*;

    fn world() -> Vec<Arc<ContainerSnapshot>> {
        let mut all: Vec<_> = ["one", "two", "three"]
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let mut c = sample::container(name);
                c.created = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(n as i64);
                c
            })
            .collect();
        all[0].phase = Phase::Running;
        all[1].phase = Phase::Exited;
        all[1].exit_code = 3;
        all[1].started_at = Some(OffsetDateTime::UNIX_EPOCH);
        all[2].phase = Phase::Paused;
        all.into_iter().rev().map(Arc::new).collect()
    }

    fn names(query: &str) -> Result<Vec<String>, String> {
        let all = world();
        let images = Images::default();
        let selection = Selection::parse(&Query::parse(Some(query)), &all, &images)
            .map_err(|e| e.message().to_owned())?;
        Ok(selection.choose(&all).map(|c| c.name.clone()).collect())
    }

    fn filtered(filters: serde_json::Value) -> Result<Vec<String>, String> {
        let text: String =
            url::form_urlencoded::byte_serialize(filters.to_string().as_bytes()).collect();
        names(&format!("all=1&filters={text}"))
    }

    #[test]
    fn only_running_containers_are_listed_unless_more_is_asked_for() {
        assert_eq!(names("").expect("list"), ["three", "one"]);
        assert_eq!(names("all=1").expect("list"), ["three", "two", "one"]);
        assert_eq!(names("limit=2").expect("list"), ["three", "two"]);
        assert_eq!(names("limit=-1&all=0").expect("list"), ["three", "one"]);
    }

    #[test]
    fn filters_choose() {
        use serde_json::json;
        for (filters, expected) in [
            (json!({"status": ["exited"]}), vec!["two"]),
            (
                json!({"status": ["exited", "paused"]}),
                vec!["three", "two"],
            ),
            (json!({"name": ["^t"]}), vec!["three", "two"]),
            (json!({"name": ["/one"]}), vec!["one"]),
            (json!({"name": ["o"]}), vec!["two", "one"]),
            (json!({"name": ["o["]}), vec![]),
            (json!({"name": ["o[", "^t"]}), vec!["three", "two"]),
            (json!({"exited": ["3"]}), vec!["two"]),
            (json!({"exited": ["0"]}), vec![]),
            (json!({"before": ["two"]}), vec!["one"]),
            (json!({"since": ["two"]}), vec!["three"]),
            (json!({"label": ["name=one"]}), vec!["one"]),
            (json!({"label": ["name"]}), vec!["three", "two", "one"]),
            (json!({"label": ["name", "other"]}), vec![]),
            (json!({"ancestor": ["nothing"]}), vec![]),
            (json!({"network": ["bridge"]}), vec!["three", "two", "one"]),
            (json!({"health": ["none"]}), vec!["three", "two", "one"]),
            (json!({"is-task": ["true"]}), vec![]),
            (json!({"expose": ["80"]}), vec!["three", "two", "one"]),
            (json!({"expose": ["81-90/tcp"]}), vec![]),
            (json!({"publish": ["80"]}), vec![]),
            (json!({"volume": ["data"]}), vec!["three", "two", "one"]),
            (json!({"volume": ["/data"]}), vec!["three", "two", "one"]),
        ] {
            assert_eq!(
                filtered(filters.clone()).expect("list"),
                expected,
                "{filters}"
            );
        }
    }

    #[test]
    fn many_large_patterns_are_refused_instead_of_kept() {
        let many: Vec<String> = (0..1000).map(|n| format!("\\pL{{90}}{n}")).collect();
        let error = filtered(serde_json::json!({ "name": many })).expect_err("refused");
        assert!(error.starts_with("invalid filter pattern: "), "{error}");
    }

    #[test]
    fn an_id_is_matched_by_its_beginning() {
        let id = sample::container("one").id.to_string();
        assert_eq!(
            filtered(serde_json::json!({"id": [format!("^{}", &id[..12])]})).expect("list"),
            ["one"]
        );
        assert_eq!(
            filtered(serde_json::json!({"id": [id]})).expect("list"),
            ["one"]
        );
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for (filters, text) in [
            (
                serde_json::json!({"status": ["gone"]}),
                "invalid filter 'status=gone': ",
            ),
            (
                serde_json::json!({"exited": ["x"]}),
                "invalid filter 'exited=x': ",
            ),
            (
                serde_json::json!({"nothing": ["x"]}),
                "invalid filter 'nothing'",
            ),
            (
                serde_json::json!({"before": ["nobody"]}),
                "No such container: nobody",
            ),
            (
                serde_json::json!({"is-task": ["x"]}),
                "invalid filter 'is-task=[x]'",
            ),
        ] {
            let error = filtered(filters.clone()).expect_err("refused");
            assert!(error.starts_with(text), "{filters}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_filter_values_are_listed_or_refused(key in 0usize..15, value in ".{0,20}") {
            let filters = serde_json::json!({ KEYS[key]: [value] });
            if let Ok(found) = filtered(filters) {
                prop_assert!(found.len() <= 3);
            }
        }
    }
}
