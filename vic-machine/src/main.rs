//! Installs, lists, inspects and deletes virtual container hosts.

fn main() {}
