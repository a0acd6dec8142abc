//! Files on datastores: state documents, logs, directories.

use bytes::Bytes;
use serde::Serialize;
use vmomi::types::{DeleteDatastoreFileRequest, MakeDirectoryRequest, MoveDatastoreFileRequest};

use super::{AGAIN, Twice, Vsphere, failed, is_never_done, manager};
use crate::error::Error;

/// A datastore path, `[ds] folder/file`, cut in two.
fn split(path: &str) -> Result<(&str, &str), Error> {
    path.strip_prefix('[')
        .and_then(|p| p.split_once(']'))
        .map(|(ds, file)| (ds, file.trim_start()))
        .ok_or_else(|| Error::internal("read a datastore path", format!("{path} is none")))
}

impl Vsphere {
    async fn store(&self, path: &str) -> Result<(vmomi::datastore::DatastoreFiles, String), Error> {
        let (datastore, file) = split(path)?;
        let client = self.client().await?;
        let datacenter = match (&*self.datacenter, client.is_vcenter()) {
            ("", _) | (_, false) => "ha-datacenter",
            (path, true) => path.trim_start_matches('/'),
        };
        Ok((client.datastore(datacenter, datastore), file.to_owned()))
    }

    /// Reads a whole file; `None` when there is none.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn read_file(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let (store, file) = self.store(path).await?;
        store
            .read(&file)
            .await
            .map_err(|why| failed("read a file", &why))
    }

    /// Reads a piece of a file; nothing behind its end, or when there is none.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn read_range(&self, path: &str, from: u64, length: u64) -> Result<Bytes, Error> {
        let (store, file) = self.store(path).await?;
        let fail = |why: vmomi::client::Error| failed("read a file", &why);
        match store
            .download_range(&file, from, Some(from + length))
            .await
            .map_err(fail)?
        {
            Some(download) => download.bytes().await.map_err(fail),
            None => Ok(Bytes::new()),
        }
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn write_file(&self, path: &str, content: Bytes) -> Result<(), Error> {
        let (store, file) = self.store(path).await?;
        store
            .write(&file, content)
            .await
            .map_err(|why| failed("write a file", &why))
    }

    /// Makes a directory with its parents. One that is there is fine.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn make_directory(&self, path: &str) -> Result<(), Error> {
        let client = self.client().await?;
        let files = manager(client.content().file_manager.clone(), "file manager")?;
        let request = MakeDirectoryRequest {
            name: path.to_owned(),
            datacenter: self.datacenter(&client).await?,
            create_parent_directories: Some(true),
        };
        let mut attempt = 0;
        loop {
            let why = match client.invoke(&files, request.clone()).await {
                Ok(()) => return Ok(()),
                Err(why) if why.is_fault("FileAlreadyExists") => return Ok(()),
                Err(why) => why,
            };
            attempt += 1;
            match AGAIN.pause(attempt) {
                Some(pause) if why.is_retryable() => tokio::time::sleep(pause).await,
                _ => return Err(failed("make a directory", &why)),
            }
        }
    }

    /// Moves a file over another.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn move_file(&self, from: &str, to: &str) -> Result<(), Error> {
        let client = self.client().await?;
        let files = manager(client.content().file_manager.clone(), "file manager")?;
        let datacenter = self.datacenter(&client).await?;
        let request = MoveDatastoreFileRequest {
            source_name: from.to_owned(),
            source_datacenter: datacenter.clone(),
            destination_name: to.to_owned(),
            destination_datacenter: datacenter,
            force: Some(true),
        };
        let never = is_never_done;
        self.task("move a file", &files, request, Twice::Harmful, never)
            .await
            .map(|_| ())
    }

    /// Deletes a file or a directory with all that is in it. One that is gone is fine.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn delete_file(&self, path: &str) -> Result<(), Error> {
        let client = self.client().await?;
        let files = manager(client.content().file_manager.clone(), "file manager")?;
        let datacenter = self.datacenter(&client).await?;
        let request = DeleteDatastoreFileRequest {
            name: path.to_owned(),
            datacenter,
        };
        let gone = |why: &vmomi::client::Error| why.is_fault("FileNotFound");
        self.task("delete a file", &files, request, Twice::Harmless, gone)
            .await
            .map(|_| ())
    }

    /// Replaces a JSON document as a whole: written beside it, then renamed over it.
    ///
    /// # Errors
    /// vSphere's.
    pub async fn write_document<T: Serialize + Sync>(
        &self,
        path: &str,
        document: &T,
    ) -> Result<(), Error> {
        let bytes = serde_json::to_vec(document)
            .map_err(|why| Error::failed(format!("write {path}"), &why))?;
        let bytes = Bytes::from(bytes);
        let beside = format!("{path}.new");
        let mut attempt = 0;
        loop {
            self.write_file(&beside, bytes.clone()).await?;
            let why = match self.move_file(&beside, path).await {
                Err(why) if why.is_retryable() => why,
                result => return result,
            };
            // Moved or not, the same again comes to the same.
            attempt += 1;
            match AGAIN.pause(attempt) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(why),
            }
        }
    }
}
