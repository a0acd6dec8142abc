//! `cargo xtask generate`: writes `vmomi/src/generated/*.rs` from the API model.
//!
//! The model (`vmomi/model/vim-model.json`) is the whole API as data; `vmomi/model/roots.toml` says
//! what is taken of it. The output is data too: one macro call per type, with the flattened fields
//! of the type and the index of each, so that the codec needs no code of its own per type.

mod closure;
mod model;
mod naming;
mod render;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where the model and the roots lie, and where the output goes, from the workspace's root.
const CRATE: &str = "vmomi";

/// Writes the generated files anew.
pub fn run() -> anyhow::Result<()> {
    let root = workspace();
    let directory = root.join(CRATE).join("src/generated");
    fs::create_dir_all(&directory)?;
    for (name, text) in generate(&root)? {
        let path = directory.join(&name);
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}

/// Fails when the checked-in files differ from what [`run`] would write.
pub fn check() -> anyhow::Result<()> {
    let root = workspace();
    compare(&root, &root.join(CRATE).join("src/generated"))
}

/// Fails when the files in `directory` differ from what the model of the checkout `root` gives.
fn compare(root: &Path, directory: &Path) -> anyhow::Result<()> {
    for (name, text) in generate(root)? {
        let path = directory.join(&name);
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            bail!(
                "{} is not what the model gives: run `cargo xtask generate`",
                path.display()
            );
        }
    }
    Ok(())
}

/// The files by name.
fn generate(root: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let directory = root.join(CRATE).join("model");
    let model = model::Model::load(&directory.join("vim-model.json"))?;
    let roots = model::Roots::load(&directory.join("roots.toml"))?;
    let closure = closure::Closure::of(&model, &roots)?;
    render::files(&model, &roots, &closure)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_types_are_what_the_model_gives_and_any_drift_is_an_error() {
        let root = workspace();
        let directory = root.join(CRATE).join("src/generated");
        compare(&root, &directory).expect("run `cargo xtask generate`");
        let changed = tempfile::tempdir().expect("a directory");
        for name in generate(&root).expect("generates").keys() {
            fs::copy(directory.join(name), changed.path().join(name)).expect("copied");
        }
        compare(&root, changed.path()).expect("a copy is the same");
        let one = changed.path().join("data.rs");
        let text = fs::read_to_string(&one).expect("reads");
        fs::write(&one, text.replacen("i32", "i64", 1)).expect("written");
        let error = compare(&root, changed.path()).expect_err("drift");
        assert!(error.to_string().contains("data.rs"), "{error}");
        fs::remove_file(&one).expect("removed");
        compare(&root, changed.path()).expect_err("a file is missing");
    }
}
