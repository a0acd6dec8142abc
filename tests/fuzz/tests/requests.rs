//! Whatever a client asks the Docker API, it is answered, and never with a fault of the server's own.

use api::docker::{Route, Verdict, routes};
use fuzz::docker::status;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Names of fields and parameters that mean something somewhere.
const NAMES: &[&str] = &[
    "AttachStdin",
    "Cmd",
    "ConsoleSize",
    "Detach",
    "DetachKeys",
    "Driver",
    "DriverOpts",
    "Env",
    "HostConfig",
    "Image",
    "Labels",
    "Name",
    "Tty",
    "User",
    "WorkingDir",
    "all",
    "before",
    "condition",
    "detachKeys",
    "filter",
    "filters",
    "force",
    "fromImage",
    "h",
    "limit",
    "name",
    "platform",
    "ps_args",
    "quiet",
    "repo",
    "scope",
    "signal",
    "since",
    "size",
    "stderr",
    "stdout",
    "t",
    "tag",
    "tail",
    "until",
    "w",
];

/// Method and path of every route that a handler answers.
fn served() -> Vec<(&'static str, &'static str)> {
    let is_served = |route: &&Route| matches!(route.verdict, Verdict::Served(_));
    let served = routes().iter().filter(is_served);
    served
        .map(|route| (route.method.as_str(), route.path))
        .collect()
}

/// The path of a route for a client of version `1.minor`, about things that are there.
fn path(pattern: &str, minor: u32) -> String {
    let name = match pattern {
        path if path.starts_with("/images") => "busybox",
        path if path.starts_with("/networks") => "bridge",
        path if path.starts_with("/volumes") => "data",
        _ => "one",
    };
    format!("/v1.{minor}{}", pattern.replace("{}", name))
}

/// Values that some parameter takes, or nearly.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?[0-9]{1,20}([.][0-9]{0,10})?",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})",
        "(SIG)?RTM(IN|AX)[+-]{1,2}[0-9]{1,11}",
        "(ctrl-[a-z@^_,]|[a-z,]|DEL|,){0,4}",
        "[{\\[]\"[a-z]{0,6}\"[:,][\\[{\"]?(true|false|[0-9]|\"[a-z*?^$]{0,6}\"){1,2}[\\]}\"]{0,2}",
        "\\PC{0,20}",
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any_value().prop_map(Value::from),
    ];
    let key = prop_oneof![4 => select(NAMES).prop_map(str::to_owned), 1 => "[A-Za-z]{0,6}"];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

proptest! {
    #[test]
    fn any_document_is_a_body_or_refused((method, route) in select(served()), minor in 24u32..56, body in any_json()) {
        status(method, &path(route, minor), b"", body.to_string().as_bytes());
    }

    #[test]
    fn any_bytes_are_a_body_or_refused((method, route) in select(served()), body: Vec<u8>) {
        status(method, &path(route, 55), b"", &body);
    }

    #[test]
    fn any_query_is_read_or_refused(
        (method, route) in select(served()),
        minor in 24u32..56,
        query in prop::collection::vec((select(NAMES), any_value()), 0..4),
    ) {
        let query: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        status(method, &format!("{}?{}", path(route, minor), query.join("&")), b"", b"");
    }

    #[test]
    fn filters_mean_the_same_in_both_forms(
        list in select(vec!["containers/json", "images/json", "volumes", "networks"]),
        key in select(vec!["before", "dangling", "driver", "exited", "id", "label", "name", "reference", "status", "until"]),
        values in prop::collection::btree_set(any_value(), 1..3),
    ) {
        let of = |filters: Value| status("GET", &format!("/{list}?filters={}", encoded(&filters.to_string())), b"", b"");
        let map: Value = values.iter().map(|value| (value.clone(), json!(true))).collect::<serde_json::Map<_, _>>().into();
        prop_assert_eq!(of(json!({ key: map })), of(json!({ key: values })));
    }
}
