//! The queries of `block.json`. Disks are served by other processes alone (`vhost-user-blk-pci`), so there are no block nodes and no jobs
//! on them.

use qapi::Result;
use qapi::commands::BlockCommands;
use qapi::types::{BlockDeviceInfo, BlockInfo, BlockJobInfo, BlockStats, IOThreadInfo, JobInfo};

use super::MachineHandlers;
use crate::core::IoThread;

impl BlockCommands for MachineHandlers {
    fn query_block(&self) -> Result<Vec<BlockInfo>> {
        Ok(Vec::new())
    }

    fn query_named_block_nodes(&self, _flat: Option<bool>) -> Result<Vec<BlockDeviceInfo>> {
        Ok(Vec::new())
    }

    fn query_blockstats(&self, _query_nodes: Option<bool>) -> Result<Vec<BlockStats>> {
        Ok(Vec::new())
    }

    fn query_block_jobs(&self) -> Result<Vec<BlockJobInfo>> {
        Ok(Vec::new())
    }

    fn query_jobs(&self) -> Result<Vec<JobInfo>> {
        Ok(Vec::new())
    }

    fn query_iothreads(&self) -> Result<Vec<IOThreadInfo>> {
        Ok(self.user_objects(IoThread::from_object).iter().map(|thread| thread.info()).collect())
    }
}
