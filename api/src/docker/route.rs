//! All of moby's routes in one table: who serves each, or why nobody does yet.

use std::future::Future;
use std::pin::Pin;

use http::{Method, StatusCode};

use super::error::ApiError;
use super::reply::Reply;
use super::request::Call;
use super::version::{ApiVersion, OLDEST};
use super::{containers, events, exec, images, networks, system, volumes};

/// What a handler gives back.
type Answer = Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send>>;

/// Who answers a route.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// A handler of ours.
    Served(fn(Call) -> Answer),
    /// moby has it, we do not yet: 501 with the route's name.
    NotYet,
    /// Swarm: 503, as on an engine that is no manager.
    Swarm,
    /// Swarm's own verbs that would make this engine a manager: 501 with the reason.
    NoSwarm,
    /// Leaving a swarm that we are not in: 503.
    NotInSwarm,
    /// No plugin exists: 404 with its name.
    NoPlugin,
    /// BuildKit's tunnels: 501 with a way out.
    NoBuildKit,
}

/// A row of the table.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path; `{}` stands for a name, which may hold slashes.
    pub path: &'static str,
    /// The first version that has it.
    pub since: ApiVersion,
    /// Who answers.
    pub verdict: Verdict,
}

/// What swarm routes answer.
const NO_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
                          to connect this node to swarm and try again.";

macro_rules! table {
    ($($method:ident $path:literal $(since $since:literal)? => [$($verdict:tt)+]);+ $(;)?) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            since: table!(@since $($since)?),
            verdict: table!(@verdict $($verdict)+),
        }),+]
    };
    (@since) => { OLDEST };
    (@since $since:literal) => { ApiVersion::v1($since) };
    (@verdict serve $handler:path) => { Verdict::Served(|call| Box::pin($handler(call))) };
    (@verdict $verdict:ident) => { Verdict::$verdict };
}

/// The table, in the order of matching: a literal before a name at the same place.
static ROUTES: &[Route] = table! {
    GET "/_ping" => [serve system::ping];
    HEAD "/_ping" => [serve system::ping];
    GET "/version" => [serve system::version];
    GET "/info" => [serve system::info];
    GET "/events" => [serve events::stream];
    GET "/system/df" since 25 => [NotYet];
    POST "/auth" => [NotYet];
    POST "/session" since 31 => [NoBuildKit];
    POST "/grpc" since 39 => [NoBuildKit];

    GET "/containers/json" => [serve containers::list::list];
    POST "/containers/create" => [serve containers::create::create];
    POST "/containers/prune" since 25 => [NotYet];
    GET "/containers/{}/checkpoints" since 25 => [NotYet];
    POST "/containers/{}/checkpoints" since 25 => [NotYet];
    DELETE "/containers/{}/checkpoints/{}" since 25 => [NotYet];
    HEAD "/containers/{}/archive" => [NotYet];
    GET "/containers/{}/archive" => [NotYet];
    PUT "/containers/{}/archive" => [NotYet];
    GET "/containers/{}/export" => [NotYet];
    GET "/containers/{}/changes" => [NotYet];
    GET "/containers/{}/json" => [serve containers::inspect::inspect];
    GET "/containers/{}/top" => [serve containers::top::top];
    GET "/containers/{}/logs" => [serve containers::logs::logs];
    GET "/containers/{}/stats" => [NotYet];
    GET "/containers/{}/attach/ws" => [NotYet];
    POST "/containers/{}/attach" => [serve containers::attach::attach];
    POST "/containers/{}/wait" => [serve containers::wait::wait];
    POST "/containers/{}/resize" => [serve containers::lifecycle::resize];
    POST "/containers/{}/start" => [serve containers::lifecycle::start];
    POST "/containers/{}/stop" => [serve containers::lifecycle::stop];
    POST "/containers/{}/restart" => [serve containers::lifecycle::restart];
    POST "/containers/{}/kill" => [serve containers::lifecycle::kill];
    POST "/containers/{}/pause" => [serve containers::lifecycle::pause];
    POST "/containers/{}/unpause" => [serve containers::lifecycle::unpause];
    POST "/containers/{}/rename" => [serve containers::lifecycle::rename];
    POST "/containers/{}/update" => [NotYet];
    POST "/containers/{}/exec" => [serve exec::create];
    DELETE "/containers/{}" => [serve containers::lifecycle::remove];
    POST "/exec/{}/start" => [serve exec::start];
    POST "/exec/{}/resize" => [serve exec::resize];
    GET "/exec/{}/json" => [serve exec::inspect];
    POST "/commit" => [NotYet];

    GET "/images/json" => [serve images::list::list];
    GET "/images/search" => [NotYet];
    GET "/images/get" => [NotYet];
    GET "/images/{}/get" => [NotYet];
    GET "/images/{}/history" => [NotYet];
    GET "/images/{}/attestations" since 55 => [NotYet];
    GET "/images/{}/json" => [serve images::inspect::inspect];
    POST "/images/create" => [serve images::transfer::create];
    POST "/images/load" => [serve images::transfer::load];
    POST "/images/prune" since 25 => [NotYet];
    POST "/images/{}/push" => [NotYet];
    POST "/images/{}/tag" => [serve images::change::tag];
    DELETE "/images/{}" => [serve images::change::remove];
    POST "/build" => [NotYet];
    POST "/build/prune" since 31 => [NotYet];
    POST "/build/cancel" since 39 => [NotYet];
    GET "/distribution/{}/json" since 30 => [NotYet];

    GET "/networks" => [serve networks::list];
    GET "/networks/" => [serve networks::list];
    POST "/networks/create" => [NotYet];
    POST "/networks/prune" since 25 => [NotYet];
    POST "/networks/{}/connect" => [NotYet];
    POST "/networks/{}/disconnect" => [NotYet];
    GET "/networks/{}" => [serve networks::inspect];
    DELETE "/networks/{}" => [serve networks::remove];

    GET "/volumes" => [serve volumes::list];
    POST "/volumes/create" => [serve volumes::create];
    POST "/volumes/prune" since 25 => [NotYet];
    GET "/volumes/{}" => [serve volumes::inspect];
    PUT "/volumes/{}" since 42 => [Swarm];
    DELETE "/volumes/{}" => [serve volumes::remove];

    GET "/plugins" since 25 => [serve system::plugins];
    GET "/plugins/privileges" since 25 => [NotYet];
    POST "/plugins/pull" since 25 => [NotYet];
    POST "/plugins/create" since 25 => [NotYet];
    GET "/plugins/{}/json" since 25 => [NoPlugin];
    POST "/plugins/{}/enable" since 25 => [NoPlugin];
    POST "/plugins/{}/disable" since 25 => [NoPlugin];
    POST "/plugins/{}/push" since 25 => [NoPlugin];
    POST "/plugins/{}/upgrade" since 26 => [NoPlugin];
    POST "/plugins/{}/set" since 25 => [NoPlugin];
    DELETE "/plugins/{}" since 25 => [NoPlugin];

    POST "/swarm/init" => [NoSwarm];
    POST "/swarm/join" => [NoSwarm];
    POST "/swarm/leave" => [NotInSwarm];
    GET "/swarm" => [Swarm];
    GET "/swarm/unlockkey" => [Swarm];
    POST "/swarm/update" => [Swarm];
    POST "/swarm/unlock" => [Swarm];
    GET "/services" => [Swarm];
    POST "/services/create" => [Swarm];
    GET "/services/{}/logs" since 29 => [Swarm];
    GET "/services/{}" => [Swarm];
    POST "/services/{}/update" => [Swarm];
    DELETE "/services/{}" => [Swarm];
    GET "/nodes" => [Swarm];
    GET "/nodes/{}" => [Swarm];
    POST "/nodes/{}/update" => [Swarm];
    DELETE "/nodes/{}" => [Swarm];
    GET "/tasks" => [Swarm];
    GET "/tasks/{}/logs" since 29 => [Swarm];
    GET "/tasks/{}" => [Swarm];
    GET "/secrets" since 25 => [Swarm];
    POST "/secrets/create" since 25 => [Swarm];
    GET "/secrets/{}" since 25 => [Swarm];
    POST "/secrets/{}/update" since 26 => [Swarm];
    DELETE "/secrets/{}" since 25 => [Swarm];
    GET "/configs" since 30 => [Swarm];
    POST "/configs/create" since 30 => [Swarm];
    GET "/configs/{}" since 30 => [Swarm];
    POST "/configs/{}/update" since 30 => [Swarm];
    DELETE "/configs/{}" since 30 => [Swarm];
};

/// The whole table.
pub fn routes() -> &'static [Route] {
    ROUTES
}

/// Finds the row for a decoded path without its version, and what its names are.
pub fn find(method: &Method, path: &str) -> Option<(&'static Route, Vec<String>)> {
    ROUTES
        .iter()
        .filter(|route| route.method == *method)
        .find_map(|route| matches(route.path, path).map(|vars| (route, vars)))
}

/// Matches a path against a pattern; a name is not empty and takes as much as it can.
fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let Some((before, after)) = pattern.split_once("{}") else {
        return (pattern == path).then(Vec::new);
    };
    let rest = path.strip_prefix(before)?;
    if let Some((middle, end)) = after.split_once("{}") {
        let at = rest.rfind(middle)?;
        let second = rest[at + middle.len()..].strip_suffix(end)?;
        let names = vec![rest[..at].to_owned(), second.to_owned()];
        return names.iter().all(|name| !name.is_empty()).then_some(names);
    }
    let name = rest.strip_suffix(after)?;
    (!name.is_empty()).then(|| vec![name.to_owned()])
}

impl Route {
    /// The route's name in messages: `POST /containers/{}/update`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path.replace("{}", "{name}"))
    }

    /// Answers a call.
    pub(super) async fn answer(&self, call: Call) -> Result<Reply, ApiError> {
        let unavailable = |text: &'static str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text);
        Err(match self.verdict {
            Verdict::Served(handler) => return handler(call).await,
            Verdict::NotYet => {
                ApiError::not_implemented(format!("{} is not implemented yet", self.name()))
            }
            Verdict::Swarm => unavailable(NO_MANAGER),
            Verdict::NotInSwarm => unavailable("This node is not part of a swarm"),
            Verdict::NoSwarm => ApiError::not_implemented(format!(
                "{}: swarm mode is not supported: every container of this engine is a VM of one vSphere",
                self.name()
            )),
            Verdict::NoPlugin => ApiError::not_found(format!("plugin {:?} not found", call.name())),
            Verdict::NoBuildKit => ApiError::not_implemented(format!(
                "{}: BuildKit is not supported by this engine; set DOCKER_BUILDKIT=0 for the classic builder",
                self.name()
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(method: Method, path: &str) -> Option<(&'static str, Vec<String>)> {
        find(&method, path).map(|(route, vars)| (route.path, vars))
    }

    #[test]
    fn names_may_hold_slashes() {
        assert_eq!(
            found(Method::GET, "/images/127.0.0.1:5000/t/bb/json"),
            Some(("/images/{}/json", vec!["127.0.0.1:5000/t/bb".into()]))
        );
        assert_eq!(
            found(Method::GET, "/images/json"),
            Some(("/images/json", vec![]))
        );
        assert_eq!(
            found(Method::DELETE, "/images/a/b:c"),
            Some(("/images/{}", vec!["a/b:c".into()]))
        );
        assert_eq!(
            found(Method::DELETE, "/containers/a/checkpoints/b"),
            Some((
                "/containers/{}/checkpoints/{}",
                vec!["a".into(), "b".into()]
            ))
        );
        assert_eq!(found(Method::GET, "/containers//json"), None);
        assert_eq!(found(Method::GET, "/nothing"), None);
        assert_eq!(found(Method::PUT, "/containers/json"), None);
    }

    #[test]
    fn no_row_is_hidden_by_one_above_it() {
        for route in routes() {
            let path = route.path.replacen("{}", "x", 1).replacen("{}", "y", 1);
            assert_eq!(
                found(route.method.clone(), &path).map(|(p, _)| p),
                Some(route.path),
                "{}",
                route.name()
            );
        }
    }

    proptest! {
        #[test]
        fn a_name_comes_out_as_it_went_in(name in "[a-z0-9][a-z0-9:@._/-]{0,30}[a-z0-9]") {
            prop_assume!(!name.contains("/json") && !name.ends_with("/"));
            let path = format!("/images/{name}/json");
            prop_assert_eq!(found(Method::GET, &path), Some(("/images/{}/json", vec![name])));
        }
    }
}
