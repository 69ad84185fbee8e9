//! Google Cloud Storage and Azure Blob Storage.
//!
//! Both have conditional creates for whole objects and for copies, and none for the completion of an upload in parts.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::{Method, Signer};
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig};
use roomreel_shared::ports::{StoreError, UploadedPart};

use super::{Backend, Objects};

/// One of the two.
pub struct Cloud<S>(S);

#[async_trait]
impl<S: ObjectStore + MultipartStore + Signer> Backend for Cloud<S> {
    type Store = S;

    fn store(&self) -> &S {
        &self.0
    }

    async fn begin(&self, joined: &Path) -> object_store::Result<String> {
        self.0.create_multipart(joined).await
    }

    async fn part(&self, joined: &Path, id: &str, number: u32, body: Bytes) -> object_store::Result<String> {
        let place = number.saturating_sub(1) as usize;
        Ok(self.0.put_part(joined, &id.to_owned(), place, PutPayload::from(body)).await?.content_id)
    }

    async fn join(&self, joined: &Path, id: &str, parts: &[UploadedPart]) -> object_store::Result<()> {
        let parts = parts.iter().map(|part| PartId { content_id: part.tag.clone() }).collect();
        self.0.complete_multipart(joined, &id.to_owned(), parts).await?;
        Ok(())
    }

    async fn clear(&self, joined: &Path, id: &str) -> object_store::Result<()> {
        // After the join there is an object and no upload; before it, an upload and no object.
        match self.0.delete(joined).await {
            Ok(()) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => self.0.abort_multipart(joined, &id.to_owned()).await,
            Err(error) => Err(error),
        }
    }

    async fn presign(&self, path: &Path, valid: Duration) -> object_store::Result<Option<String>> {
        Ok(Some(self.0.signed_url(Method::GET, path, valid).await?.to_string()))
    }
}

fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn refused(store: &str, error: &object_store::Error) -> StoreError {
    StoreError::Refused {
        store: store.to_owned(),
        key: String::new(),
        reason: format!("{error}; check the bucket's name and the credentials"),
    }
}

#[cfg(feature = "gcs")]
mod gcs {
    use std::path::PathBuf;

    use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};

    use super::{Cloud, Objects, StoreError, no_retries, refused};

    /// A bucket on Google Cloud Storage.
    #[derive(Debug, Clone)]
    pub struct GcsConfig {
        /// Its name.
        pub bucket: String,
        /// Key file of a service account; if `None`, what the environment or the instance offers.
        pub service_account_file: Option<PathBuf>,
    }

    /// The object store in a bucket of Google Cloud Storage.
    pub type GcsStore = Objects<Cloud<GoogleCloudStorage>>;

    impl GcsStore {
        /// Makes a client; nothing is asked yet.
        ///
        /// # Errors
        /// [`StoreError::Refused`] if the configuration cannot be right.
        pub fn open(config: &GcsConfig) -> Result<Self, StoreError> {
            let name = format!("gs://{}", config.bucket);
            let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&config.bucket);
            if let Some(file) = &config.service_account_file {
                builder = builder.with_service_account_path(file.to_string_lossy());
            }
            let store = builder.with_retry(no_retries()).build().map_err(|e| refused(&name, &e))?;
            Ok(Self { backend: Cloud(store), name })
        }
    }
}

#[cfg(feature = "azure")]
mod azure {
    use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};

    use super::{Cloud, Objects, StoreError, no_retries, refused};
    use crate::secret::Secret;

    /// A container on Azure Blob Storage.
    #[derive(Debug, Clone)]
    pub struct AzureConfig {
        /// The storage account.
        pub account: String,
        /// The container in it.
        pub container: String,
        /// The account's key; if `None`, what the environment or the instance offers.
        pub access_key: Option<Secret>,
    }

    /// The object store in a container of Azure Blob Storage.
    pub type AzureStore = Objects<Cloud<MicrosoftAzure>>;

    impl AzureStore {
        /// Makes a client; nothing is asked yet.
        ///
        /// # Errors
        /// [`StoreError::Refused`] if the configuration cannot be right.
        pub fn open(config: &AzureConfig) -> Result<Self, StoreError> {
            let name = format!("azure://{}/{}", config.account, config.container);
            let mut builder =
                MicrosoftAzureBuilder::from_env().with_account(&config.account).with_container_name(&config.container);
            if let Some(key) = &config.access_key {
                builder = builder.with_access_key(key.expose());
            }
            let store = builder.with_retry(no_retries()).build().map_err(|e| refused(&name, &e))?;
            Ok(Self { backend: Cloud(store), name })
        }
    }
}

#[cfg(feature = "azure")]
pub use self::azure::{AzureConfig, AzureStore};
#[cfg(feature = "gcs")]
pub use self::gcs::{GcsConfig, GcsStore};
