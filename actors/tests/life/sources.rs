//! Which vSphere methods the programs' crates can send: read from their sources.
//!
//! A call site is the name of a method's request type, or of its typed function on the client. Those in `vmomi`'s own
//! client count when a function that holds them can be reached, by name, from one that the crates call. Names alone
//! cannot tell two functions of one name apart: that makes the list longer, never shorter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The crates of which `vch` is made and which speak to vSphere.
const CRATES: [&str; 3] = ["actors/src", "supervisors/vch/src", "api/src"];

/// `vmomi`'s client: what is sent on behalf of the crates.
const CLIENT: [&str; 4] = [
    "vmomi/src/client.rs",
    "vmomi/src/client",
    "vmomi/src/watch",
    "vmomi/src/datastore.rs",
];

/// Methods behind a choice that the crates never make: the method, and the text without which it is not made.
const NOT_CHOSEN: [(&str, &str); 2] = [
    ("CloneSession", "CloneTicket"),
    // The crates' own functions of this name are others.
    ("DELETE /folder", "files.delete("),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(at: &Path, text: &mut String) {
    if at.ends_with("tests") || at.ends_with("tests.rs") {
        return;
    }
    if at.is_dir() {
        for entry in std::fs::read_dir(at).unwrap() {
            read(&entry.unwrap().path(), text);
        }
    } else if at.extension().is_some_and(|e| e == "rs") {
        let source = std::fs::read_to_string(at).unwrap();
        // An import is no use of what it names.
        let mut rest = source.as_str();
        while let Some((before, import)) = rest.split_once("\nuse ") {
            text.push_str(before);
            rest = import.split_once(';').map_or("", |(_, after)| after);
        }
        text.push_str(rest);
    }
}

fn sources(places: &[&str]) -> String {
    let mut text = String::new();
    for place in places {
        read(&root().join(place), &mut text);
    }
    assert!(!text.is_empty());
    text
}

/// The words of a source: what an identifier may be.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
}

/// What is called: words with a parenthesis behind them.
fn called(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices('(') {
        let head = &text[..at];
        let head = head.strip_suffix("::<>").unwrap_or(head);
        found.extend(words(
            head.rsplit([' ', '.', ':', '(', '!', '&', '\n'])
                .next()
                .unwrap(),
        ));
    }
    found
}

/// The methods by their request types' names, and by their functions' names on the client.
fn table() -> BTreeMap<String, &'static str> {
    let mut table = BTreeMap::new();
    for info in vmomi::method::all() {
        let request = (info.arguments)().name.trim_end_matches("Type");
        table.insert(request.to_owned(), info.name);
    }
    assert!(table.len() > 100, "{}", table.len());
    table
}

/// The typed functions of the client: their names, by the generated table.
fn typed() -> BTreeMap<String, String> {
    let calls = sources(&["vmomi/src/generated/calls.rs"]);
    let line = |l: &str| {
        let (name, rest) = l.trim().split_once(" \"")?;
        Some((name.to_owned(), rest.split_once('"')?.0.to_owned()))
    };
    let table: BTreeMap<_, _> = calls.lines().filter_map(line).collect();
    assert!(table.len() > 100, "{}", table.len());
    table
}

/// The functions of some source: their names with all their bodies.
fn functions(text: &str) -> BTreeMap<&str, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    for piece in text.split(" fn ").skip(1) {
        let name = words(piece).next().unwrap();
        found.entry(name).or_default().push_str(piece);
    }
    found
}

/// The methods that a piece of source sends: SOAP by WSDL name, files as the simulator records them.
fn sent(text: &str, requests: &BTreeMap<String, &'static str>) -> BTreeSet<String> {
    let soap = words(text)
        .filter_map(|w| requests.get(w))
        .map(|m| (*m).to_owned());
    let http = ["GET", "PUT", "HEAD", "DELETE"]
        .into_iter()
        .filter(|verb| text.contains(&format!("(Method::{verb},")))
        .map(|verb| format!("{verb} /folder"));
    soap.chain(http).collect()
}

/// All methods that the crates can send.
pub fn methods() -> BTreeSet<String> {
    let (requests, typed) = (table(), typed());
    let crates = sources(&CRATES);
    let calls = called(&crates);
    let mut found = sent(&crates, &requests);
    found.extend(
        typed
            .iter()
            .filter(|(name, _)| crates.contains(&format!("client.{name}(")))
            .map(|(_, method)| method.clone()),
    );
    let client = sources(&CLIENT);
    let functions = functions(&client);
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = functions
        .keys()
        .copied()
        .filter(|name| calls.contains(name))
        .collect();
    while let Some(name) = open.pop() {
        if reached.insert(name) {
            let body = &functions[name];
            found.extend(sent(body, &requests));
            open.extend(
                functions
                    .keys()
                    .copied()
                    .filter(|n| called(body).contains(n)),
            );
        }
    }
    for (method, word) in NOT_CHOSEN {
        if !crates.contains(word) {
            found.remove(method);
        }
    }
    found
}

#[test]
fn the_sources_name_the_methods_of_a_run() {
    let methods = methods();
    println!("{methods:?}");
    for method in [
        "CreateVM_Task",
        "PowerOnVM_Task",
        "Destroy_Task",
        "Login",
        "ModifyListView",
        "WaitForUpdatesEx",
        "RetrievePropertiesEx",
        "GET /folder",
        "PUT /folder",
    ] {
        assert!(methods.contains(method), "{method}");
    }
}
