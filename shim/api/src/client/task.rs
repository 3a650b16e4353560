//! The methods of the Task API and of `rrun.shim.v1.Shim`, each with the connection's time-out.

use super::{Client, Error};
use crate::pb::{shim, task};
use crate::service::{SHIM, TASK_V3};
use std::time::Duration;

impl Client {
    /// State of the container, or of an exec where `exec_id` is set.
    pub async fn state(&self, request: &task::StateRequest) -> Result<task::StateResponse, Error> {
        self.call(TASK_V3, "State", request, Some(self.shared.timeout))
            .await
    }

    /// Creates the container: everything up to its start.
    pub async fn create(
        &self,
        request: &task::CreateTaskRequest,
    ) -> Result<task::CreateTaskResponse, Error> {
        self.call(TASK_V3, "Create", request, Some(self.shared.timeout))
            .await
    }

    /// Starts the created container or exec.
    pub async fn start(&self, request: &task::StartRequest) -> Result<task::StartResponse, Error> {
        self.call(TASK_V3, "Start", request, Some(self.shared.timeout))
            .await
    }

    /// Removes a stopped container or exec and returns how it ended.
    pub async fn delete(
        &self,
        request: &task::DeleteRequest,
    ) -> Result<task::DeleteResponse, Error> {
        self.call(TASK_V3, "Delete", request, Some(self.shared.timeout))
            .await
    }

    /// All processes of the container, as the host sees them.
    pub async fn pids(&self, request: &task::PidsRequest) -> Result<task::PidsResponse, Error> {
        self.call(TASK_V3, "Pids", request, Some(self.shared.timeout))
            .await
    }

    /// Freezes every process of the container.
    pub async fn pause(&self, request: &task::PauseRequest) -> Result<(), Error> {
        self.call(TASK_V3, "Pause", request, Some(self.shared.timeout))
            .await
    }

    /// Thaws a paused container.
    pub async fn resume(&self, request: &task::ResumeRequest) -> Result<(), Error> {
        self.call(TASK_V3, "Resume", request, Some(self.shared.timeout))
            .await
    }

    /// Writes a checkpoint (CRIU) to a directory, which takes as long as there is memory to write.
    pub async fn checkpoint(
        &self,
        request: &task::CheckpointTaskRequest,
        within: Duration,
    ) -> Result<(), Error> {
        self.call(TASK_V3, "Checkpoint", request, Some(within))
            .await
    }

    /// Sends a signal to the first process, or with `all` to every one.
    pub async fn kill(&self, request: &task::KillRequest) -> Result<(), Error> {
        self.call(TASK_V3, "Kill", request, Some(self.shared.timeout))
            .await
    }

    /// Adds an exec; Start runs it.
    pub async fn exec(&self, request: &task::ExecProcessRequest) -> Result<(), Error> {
        self.call(TASK_V3, "Exec", request, Some(self.shared.timeout))
            .await
    }

    /// Sets the size of a terminal.
    pub async fn resize_pty(&self, request: &task::ResizePtyRequest) -> Result<(), Error> {
        self.call(TASK_V3, "ResizePty", request, Some(self.shared.timeout))
            .await
    }

    /// Closes standard input once what was written to it is read.
    pub async fn close_io(&self, request: &task::CloseIoRequest) -> Result<(), Error> {
        self.call(TASK_V3, "CloseIO", request, Some(self.shared.timeout))
            .await
    }

    /// Changes the container's resources.
    pub async fn update(&self, request: &task::UpdateTaskRequest) -> Result<(), Error> {
        self.call(TASK_V3, "Update", request, Some(self.shared.timeout))
            .await
    }

    /// Raw cgroup metrics; `usage` is easier to read.
    pub async fn stats(&self, request: &task::StatsRequest) -> Result<task::StatsResponse, Error> {
        self.call(TASK_V3, "Stats", request, Some(self.shared.timeout))
            .await
    }

    /// Pids of the shim and of the container.
    pub async fn connect_task(
        &self,
        request: &task::ConnectRequest,
    ) -> Result<task::ConnectResponse, Error> {
        self.call(TASK_V3, "Connect", request, Some(self.shared.timeout))
            .await
    }

    /// Asks the shim to end, which it does once its container is deleted (or at once with `now`).
    pub async fn shutdown(&self, request: &task::ShutdownRequest) -> Result<(), Error> {
        self.call(TASK_V3, "Shutdown", request, Some(self.shared.timeout))
            .await
    }

    /// Opens the cri-log again after a rotation.
    pub async fn reopen_log(&self, request: &shim::ReopenLogRequest) -> Result<(), Error> {
        self.call(SHIM, "ReopenLog", request, Some(self.shared.timeout))
            .await
    }

    /// A socket to the stdio of a container or exec.
    pub async fn attach(
        &self,
        request: &shim::AttachRequest,
    ) -> Result<shim::AttachResponse, Error> {
        self.call(SHIM, "Attach", request, Some(self.shared.timeout))
            .await
    }

    /// Creates, starts and attaches to an exec in one call.
    pub async fn exec_attached(
        &self,
        request: &shim::ExecRequest,
    ) -> Result<shim::ExecResponse, Error> {
        self.call(SHIM, "Exec", request, Some(self.shared.timeout))
            .await
    }

    /// Runs a command to its end, for as long as that takes.
    pub async fn exec_sync(
        &self,
        request: &shim::ExecSyncRequest,
    ) -> Result<shim::ExecSyncResponse, Error> {
        self.call(SHIM, "ExecSync", request, None).await
    }

    /// Runs a command again and again until it fails, for as long as that takes.
    pub async fn probe(&self, request: &shim::ProbeRequest) -> Result<shim::ProbeResponse, Error> {
        self.call(SHIM, "Probe", request, None).await
    }

    /// Ends a probe; one that is not there has ended.
    pub async fn stop_probe(&self, request: &shim::StopProbeRequest) -> Result<(), Error> {
        self.call(SHIM, "StopProbe", request, Some(self.shared.timeout))
            .await
    }

    /// All that is to be known of the container in one call.
    pub async fn status(
        &self,
        request: &shim::StatusRequest,
    ) -> Result<shim::StatusResponse, Error> {
        self.call(SHIM, "Status", request, Some(self.shared.timeout))
            .await
    }

    /// Resource use, the same for both cgroup versions.
    pub async fn usage(&self, request: &shim::UsageRequest) -> Result<shim::UsageResponse, Error> {
        self.call(SHIM, "Usage", request, Some(self.shared.timeout))
            .await
    }

    /// Waits for a container or exec to end, for as long as that takes unless a time-out is given.
    pub async fn wait(
        &self,
        request: &task::WaitRequest,
        timeout: Option<Duration>,
    ) -> Result<task::WaitResponse, Error> {
        self.call(TASK_V3, "Wait", request, timeout).await
    }
}
