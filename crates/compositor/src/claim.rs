//! A node's claim to a render job: what it says of its progress counts while the job's key is as it was given.
//!
//! Owns the condition of every report (I7). Does not own what is reported.

use bytes::Bytes;
use roomreel_shared::cluster::{RenderJob, RenderProgress};
use roomreel_shared::id::NodeId;
use roomreel_shared::ports::{Change, Compare, Coordination, CoordinationError, Outcome};

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordination store did not do what was asked.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The job is somebody else's now; nothing more may be written (I7).
    #[error("the job has been given to another node")]
    Superseded,
}

/// A job as it was given to this node.
#[derive(Debug, Clone)]
pub struct Claim {
    node: NodeId,
    job_key: String,
    progress_key: String,
    /// Last change of the job's key: whoever changed it since has taken it from us.
    revision: u64,
}

impl Claim {
    /// To `job`, as it stands under its key at `revision`.
    #[must_use]
    pub fn new(node: NodeId, job: &RenderJob, revision: u64) -> Self {
        Self { node, job_key: job.key(), progress_key: job.progress_key(), revision }
    }

    /// The leader rewrote the job without taking it away.
    pub fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Says in the coordination store how far the job has come, provided that it is still ours.
    ///
    /// # Errors
    /// Either [`Error`].
    pub async fn report(
        &mut self,
        coordination: &dyn Coordination,
        slices: u64,
        finished: bool,
        error: Option<String>,
        files: Vec<String>,
    ) -> Result<(), Error> {
        let progress = RenderProgress { node: self.node.clone(), slices, finished, error, files };
        let value = serde_json::to_vec(&progress).expect("progress is made of what JSON can say");
        let put = Change::Put(self.progress_key.clone(), Bytes::from(value), None);
        for _ in 0..3 {
            let condition = Compare::Unchanged(self.job_key.clone(), self.revision);
            if let Outcome::Committed(_) = coordination.transact(vec![condition], vec![put.clone()]).await? {
                return Ok(());
            }
            // The job was rewritten: for somebody else, or for us with another count.
            let record = coordination.get(&self.job_key).await?.ok_or(Error::Superseded)?;
            let job: RenderJob = serde_json::from_slice(&record.value).map_err(|_| Error::Superseded)?;
            if job.node.as_ref() != Some(&self.node) {
                return Err(Error::Superseded);
            }
            self.revision = record.mod_revision;
        }
        Err(Error::Superseded)
    }
}
