//! The virtual container host: where the supervision tree is put together.

fn main() {}
