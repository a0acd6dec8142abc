//! Archives for `docker load`, and tars whose sums are right whatever else is wrong with them.

use std::io::{Seek, SeekFrom, Write};

use imagec::{Digest, OCI_MANIFEST, Platform};

/// A tar's header and the unit that contents are padded to.
const BLOCK: usize = 512;

/// Where a header has its sum.
const SUM: std::ops::Range<usize> = 148..156;

/// The platform that is asked for, on whatever machine this runs.
const PLATFORM: &str = "linux/amd64";

/// Puts the right sum into every header of a tar: otherwise each changed byte would end in a refusal there.
pub(crate) fn with_sums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    for block in tar.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[SUM].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    tar
}

/// An archive: as a whole, and as the document at the head of one that is well made otherwise.
pub fn open(bytes: &[u8]) {
    read(&with_sums(bytes));
    for name in ["manifest.json", "index.json"] {
        if let Ok(tar) = around(name, bytes) {
            read(&tar);
        }
    }
}

fn read(tar: &[u8]) {
    let platform: Platform = PLATFORM.parse().expect("a platform");
    let Ok(mut file) = tempfile::tempfile() else {
        return;
    };
    if file.write_all(tar).is_ok() && file.seek(SeekFrom::Start(0)).is_ok() {
        let _ = imagec::archive::open(file, Some(&platform));
    }
}

/// An archive that has `document` as its `name`, and what a document may speak of: `config.json`, `layer.tar`, a link
/// to it, and the blobs of an image and of an index.
fn around(name: &str, document: &[u8]) -> std::io::Result<Vec<u8>> {
    // Written out, since the corpus names these documents by their digests.
    let layer = "a layer".to_owned();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(layer.as_bytes())
    );
    let named = |kind: &str, of: &str| {
        format!(
            r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#,
            Digest::of(of.as_bytes()),
            of.len()
        )
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        named("application/vnd.oci.image.config.v1+json", &config),
        named("application/vnd.oci.image.layer.v1.tar", &layer)
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        named(OCI_MANIFEST, &manifest)
    );

    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content)
    };
    put(name, document)?;
    put("config.json", config.as_bytes())?;
    put("layer.tar", layer.as_bytes())?;
    for content in [&layer, &config, &manifest, &index] {
        let content = content.as_bytes();
        let name = format!("blobs/sha256/{}", Digest::of(content).hex());
        put(&name, content)?;
    }
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "again/layer.tar", "../layer.tar")?;
    tar.into_inner()
}
