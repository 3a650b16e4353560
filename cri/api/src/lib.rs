//! CRI v1, the interface between a kubelet and a container runtime, wire-compatible with
//! cri-api 0.36.
//!
//! The messages are in [`v1`], those of NRI plugins in [`nri`],
//! those of traces in [`otlp`]; [`probe`] is rrun-cri's own. The features `client` and `server` add
//! `v1::runtime_service_client`, `v1::image_service_client` and their servers.
#![forbid(unsafe_code)]

/// Messages and services of the proto package `runtime.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// What rrun-cri serves beside CRI: the proto package `rrun.probe.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod probe {
    tonic::include_proto!("rrun.probe.v1");
}

/// Messages of the proto package `nri.pkg.api.v1alpha1`, the Node Resource Interface. Its
/// services are ttrpc, not gRPC.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod nri {
    tonic::include_proto!("nri.pkg.api.v1alpha1");
}

/// The trace service of OTLP, OpenTelemetry's protocol, as far as an exporter needs it.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

/// What a client over a unix socket gives `tonic` as its address: h2 refuses a socket path as
/// authority, so the real path goes into the connector.
pub const UNIX_AUTHORITY: &str = "http://localhost";

// Requests are logged; credentials are not.
impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
