//! Remakes the vSphere types from the API model.

/// Writes the types.
pub(crate) fn run() -> anyhow::Result<()> {
    anyhow::bail!("the generator is not in this checkout")
}

/// Compares the checked-in types with what would be written.
pub(crate) fn check() -> anyhow::Result<()> {
    run()
}
