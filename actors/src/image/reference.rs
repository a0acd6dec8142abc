//! Names of images as people write them, and the familiar form in which they are shown again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ImageSnapshot;
use crate::error::Error;
use crate::ids::ImageId;

/// The familiar form with a tag: `docker.io/library/busybox` is `busybox:latest`. References with a digest keep
/// it and get no tag.
pub fn familiar(wanted: &str) -> String {
    let bare = strip_default(wanted);
    let has_digest = bare.contains('@');
    if has_digest || has_tag(bare) {
        bare.to_owned()
    } else {
        format!("{bare}:latest")
    }
}

/// The familiar name without tag and digest.
pub fn familiar_name(wanted: &str) -> &str {
    let bare = strip_default(wanted);
    let bare = bare.split_once('@').map_or(bare, |(name, _)| name);
    if has_tag(bare) {
        bare.rsplit_once(':').map_or(bare, |(name, _)| name)
    } else {
        bare
    }
}

fn has_tag(reference: &str) -> bool {
    reference
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .contains(':')
}

fn strip_default(wanted: &str) -> &str {
    let bare = wanted
        .strip_prefix("docker.io/")
        .or_else(|| wanted.strip_prefix("index.docker.io/"))
        .unwrap_or(wanted);
    match bare.strip_prefix("library/") {
        Some(rest) if !rest.contains('/') => rest,
        _ => bare,
    }
}

/// Finds an image by id, bare hex, unique prefix, reference or reference with digest.
///
/// # Errors
/// [`Error::NoSuchImage`].
pub fn find(
    images: &BTreeMap<ImageId, Arc<ImageSnapshot>>,
    wanted: &str,
) -> Result<Arc<ImageSnapshot>, Error> {
    if let Some(found) = ImageId::parse(wanted).ok().and_then(|id| images.get(&id)) {
        return Ok(found.clone());
    }
    let name = familiar(wanted);
    let by_name = images
        .values()
        .find(|i| i.tags.contains(&name) || i.digests.contains(&name))
        .or_else(|| {
            // name:tag@digest: the digest decides
            let (repository, digest) = name.split_once('@')?;
            let plain = format!("{}@{digest}", familiar_name(repository));
            images.values().find(|i| i.digests.contains(&plain))
        });
    if let Some(found) = by_name {
        return Ok(found.clone());
    }
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        let mut found = images.values().filter(|i| i.id.hex().starts_with(digits));
        if let (Some(one), None) = (found.next(), found.next()) {
            return Ok(one.clone());
        }
    }
    Err(Error::NoSuchImage(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn familiar_names_drop_the_default_registry_and_gain_a_tag() {
        for (given, wanted) in [
            ("busybox", "busybox:latest"),
            ("docker.io/library/busybox:1", "busybox:1"),
            ("docker.io/rep/com", "rep/com:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("a/b@sha256:00", "a/b@sha256:00"),
        ] {
            assert_eq!(familiar(given), wanted);
        }
        assert_eq!(familiar_name("localhost:5000/x:1"), "localhost:5000/x");
    }
}
