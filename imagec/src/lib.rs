//! OCI and Docker registry client, archive loading, layer unpacking; no knowledge of vSphere.
