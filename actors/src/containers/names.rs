//! Names of containers: what is one, and made-up ones.

/// Words for the first half of a made-up name.
const ADJECTIVES: [&str; 48] = [
    "able", "amber", "apt", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "cool",
    "crisp", "deft", "eager", "early", "fair", "fast", "fine", "firm", "fond", "fresh", "gentle",
    "glad", "grand", "happy", "honest", "jolly", "keen", "kind", "lively", "lucid", "mellow",
    "merry", "neat", "noble", "patient", "plain", "proud", "quick", "quiet", "ready", "sharp",
    "silent", "steady", "sunny", "swift", "warm", "wise",
];

/// People who made computers talk to each other, or to us.
const SURNAMES: [&str; 48] = [
    "allen",
    "baran",
    "bartik",
    "berners",
    "boole",
    "cerf",
    "cray",
    "curie",
    "dahl",
    "davies",
    "dijkstra",
    "engelbart",
    "euler",
    "floyd",
    "gauss",
    "goldberg",
    "hamilton",
    "hamming",
    "hoare",
    "holberton",
    "hopper",
    "kahn",
    "kernighan",
    "kleinrock",
    "knuth",
    "lamarr",
    "lamport",
    "leibniz",
    "liskov",
    "lovelace",
    "mccarthy",
    "metcalfe",
    "milner",
    "naur",
    "neumann",
    "noether",
    "nygaard",
    "perlman",
    "pike",
    "postel",
    "ritchie",
    "shannon",
    "sammet",
    "stallman",
    "thompson",
    "turing",
    "wilkes",
    "wirth",
];

/// Makes up a name, `adjective_surname`, with a digit more often than not needed.
pub fn generate() -> String {
    let pick = |words: &[&'static str]| words[rand::random_range(0..words.len())];
    let name = format!("{}_{}", pick(&ADJECTIVES), pick(&SURNAMES));
    if rand::random_bool(0.5) {
        name
    } else {
        format!("{name}{}", rand::random_range(0..1000))
    }
}

/// Whether a name (without its slash) is one.
pub fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() > 1
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// What docker says to a bad one.
pub fn complaint(name: &str) -> String {
    format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_names() {
        for _ in 0..500 {
            assert!(is_valid(&generate()));
        }
        for bad in ["", "a", "-a", "a b", "a/b", "ä1"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
